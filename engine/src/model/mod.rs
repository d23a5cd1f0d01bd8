//! Models: where they come from (a registry, files, model directories), what they are checked for, and how a run finds their
//! successors. A model in a file of its own has its content's hash as version. The scorer itself is in `tidemill-udfs`.

mod beside;
pub(crate) mod candidate;
pub mod drift;
pub mod evaluation;
pub(crate) mod follow;
pub mod gate;
pub mod labels;
pub(crate) mod library;
pub mod manifest;
pub mod package;
pub(crate) mod place;
pub mod profile;
pub mod reference;
pub mod registry;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tidemill_udfs::functions::{LoadedModel, Models};

use crate::checkpoint::store::store_error;
use crate::error::{Error, Result};
use crate::pipeline::settings;
pub use beside::reference_beside;

pub(crate) use candidate::Candidate;
pub use candidate::parse;
pub(crate) use library::Library;
pub(crate) use place::{Place, places};

/// Digits of the hash that make a version.
const VERSION_DIGITS: usize = 12;
/// A model file larger than this is refused: 1 GiB.
pub(crate) const MODEL_BYTES_MAX: u64 = 1 << 30;

/// Reads all models that are named. A challenger that is not there, or cannot be read, is left out: nothing waits for it.
pub(crate) async fn load(library: &Library, models: &[settings::Model]) -> Result<Models> {
    let mut loaded = Models::new();
    for place in places(models) {
        let read = library.load(&place).await;
        let candidate = match (read, &place.champion) {
            (Ok(Some((_, candidate))), _) => Some(candidate),
            (Ok(None), None) => return Err(place.context(library.absent(&place).await)),
            (Err(error), None) => return Err(place.context(error)),
            (Ok(None), Some(_)) => None,
            (Err(error), Some(_)) => {
                tracing::warn!(model = place.slot, %error, "the challenger cannot be read; its scores are null");
                None
            }
        };
        let model = candidate.map(|candidate| candidate.model);
        match insert(&mut loaded, &place, model).map_err(|error| place.context(error)) {
            Err(error) if place.champion.is_some() => {
                tracing::warn!(model = place.slot, %error, "the challenger is not like its champion; its scores are null");
                insert(&mut loaded, &place, None)?;
            }
            inserted => inserted?,
        }
    }
    Ok(loaded)
}

/// What the models that are named were trained on, by the hashes of their files; as far as it is known.
pub(crate) async fn profiles(
    library: &Library,
    models: &[settings::Model],
) -> Result<Vec<(String, profile::ReferenceProfile)>> {
    let mut profiles = Vec::new();
    for place in places(models) {
        if let Some((_, candidate)) = library.load(&place).await.map_err(|error| place.context(error))? {
            profiles.extend(candidate.profile.map(|profile| (candidate.model.sha256.clone(), profile)));
        }
    }
    Ok(profiles)
}

/// Puts a model, or the absence of a challenger, into its place.
pub(crate) fn insert(models: &mut Models, place: &Place, model: Option<Arc<LoadedModel>>) -> Result<()> {
    match (&place.champion, model) {
        (Some(champion), model) => {
            let inserted = models.insert_challenger(champion, model);
            inserted.map(|_| ()).map_err(|error| Error::invalid(error.to_string()))
        }
        (None, Some(model)) => {
            models.insert(&place.slot, model);
            Ok(())
        }
        (None, None) => Err(Error::internal("a model was left out that is no challenger")),
    }
}

/// A model that was not read by a command that connects to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its name in SQL.
    pub model: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not checked: the features and classes of model {}, which was not read: {}", self.model, self.reason)
    }
}

/// Reads the models that are in files of this machine, and says of the others why they were not read. The challenger of a model
/// that was read has its place, empty.
pub(crate) fn load_local(models: &[settings::Model]) -> Result<(Models, Vec<Unread>)> {
    let (mut loaded, mut unread) = (Models::new(), Vec::new());
    for place in places(models) {
        let not_read = |reason: String| Unread { model: place.slot.clone(), reason };
        let path = Path::new(place.uri.strip_prefix("file://").unwrap_or(&place.uri));
        if let Some(champion) = &place.champion {
            if loaded.slot(champion).is_ok() {
                insert(&mut loaded, &place, None)?;
            } else {
                unread.push(not_read(format!("its champion {champion} was not read either")));
            }
        } else if place.reference().is_some() || path.to_str().is_none_or(|path| path.contains("://")) {
            unread.push(not_read(format!("{} is not a file of this machine", place.uri)));
        } else if !path.exists() {
            unread.push(not_read(format!("there is no file {}", path.display())));
        } else {
            let read = library::read_local(path).and_then(|raw| candidate::examine(raw, Default::default(), &place));
            insert(&mut loaded, &place, Some(read.map_err(|error| place.context(error))?.model))?;
        }
    }
    Ok((loaded, unread))
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| {
        Error::invalid(
            "the file is not text; a LightGBM model saved with `booster.save_model(\"model.txt\")` is expected",
        )
    })
}

fn unreadable(error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => {
            Error::unavailable("a file of the model was there a moment ago, and is gone; it may be being replaced")
        }
        other => store_error("read", "the file", other),
    }
}

#[cfg(test)]
mod tests;
