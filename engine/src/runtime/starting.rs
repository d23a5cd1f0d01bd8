//! The models that a run starts with: those that their places mean now; or, where a place cannot be read or what is there may
//! not serve, the one that served last, which stands beside the checkpoints. Which it is, is said loudly. Without either the
//! start fails. A challenger that cannot be had is left out.

use std::sync::Arc;

use tidemill_udfs::functions::{LoadedModel, Models};

use super::clock;
use super::models::{kept_model, served_model};
use crate::checkpoint::layout::{kept_model_path, model_path};
use crate::checkpoint::{Folder, KeptModel};
use crate::error::{Error, Result};
use crate::model::candidate::examine;
use crate::model::follow::Follower;
use crate::model::library::{Found, Identity};
use crate::model::profile::ReferenceProfile;
use crate::model::{self, Candidate, Library, Place, places};
use crate::observe::status::{ModelStatus, RefusedModel};
use crate::pipeline::settings::Pipeline;

/// A note of a kept model larger than this is none of ours.
const NOTE_BYTES_MAX: u64 = 1 << 16;

/// The models of a start.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) models: Arc<Models>,
    /// What was read, to be kept beside the checkpoints before it serves.
    read: Vec<(Place, Candidate)>,
    pub(crate) statuses: Vec<ModelStatus>,
    pub(crate) followers: Vec<Follower>,
    /// What the models were trained on, by the hashes of their files. Not of one that is kept beside the checkpoints.
    pub(crate) profiles: Vec<(String, ReferenceProfile)>,
}

/// What is there for one place.
#[derive(Debug, Default)]
struct Opening {
    /// With its text, where it did not come from beside the checkpoints.
    model: Option<(Arc<LoadedModel>, Option<Candidate>)>,
    serving: Option<Identity>,
    refused: Option<(Identity, RefusedModel)>,
    check_error: Option<String>,
}

/// Reads the models of a pipeline; `folder` is that of its checkpoints. With `refused`, why the SQL does not take what the places
/// mean now: then those that served last, or none.
pub(crate) async fn start(
    pipeline: &Pipeline,
    library: &Library,
    folder: Option<&Folder>,
    refused: Option<&Error>,
) -> Result<Started> {
    let mut started = Started {
        models: Arc::default(),
        read: Vec::new(),
        statuses: Vec::new(),
        followers: Vec::new(),
        profiles: Vec::new(),
    };
    let mut models = Models::new();
    for place in places(&pipeline.models) {
        let mut opening = open(library, &place, folder, refused).await.map_err(|error| place.context(error))?;
        let model = opening.model.as_ref().map(|(model, _)| Arc::clone(model));
        if let Err(error) = model::insert(&mut models, &place, model) {
            let error = place.context(error);
            let Some(refused) = opening.refuses(&error).filter(|_| place.champion.is_some()) else { return Err(error) };
            tracing::error!(model = place.slot, version = refused.version, %error, "the challenger was refused; its scores are null");
            model::insert(&mut models, &place, None)?;
        }
        started.statuses.push(status(&place, &opening));
        let Opening { model, serving, refused, .. } = opening;
        let refused = refused.map(|(identity, _)| identity);
        started.followers.extend(Follower::new(library, &place, serving, refused));
        let read = model.and_then(|(_, read)| read);
        let profile = read.as_ref().and_then(|read| Some((read.model.sha256.clone(), read.profile.clone()?)));
        started.profiles.extend(profile);
        started.read.extend(read.map(|candidate| (place, candidate)));
    }
    started.models = Arc::new(models);
    Ok(started)
}

impl Opening {
    /// Takes a model back that does not fit; `None` when none was read.
    fn refuses(&mut self, error: &Error) -> Option<&RefusedModel> {
        let (model, identity) = (self.model.take()?.0, self.serving.take()?);
        let version = Some(model.version.clone());
        let refused = RefusedModel { version, at_ms: clock::wall_millis(), reason: error.to_string() };
        Some(&self.refused.insert((identity, refused)).1)
    }
}

async fn open(library: &Library, place: &Place, folder: Option<&Folder>, refused: Option<&Error>) -> Result<Opening> {
    let found = match library.look(place).await {
        Ok(Some(found)) => found,
        Ok(None) if place.champion.is_some() => return Ok(Opening::default()),
        // The folder of a registry that was not mounted looks like one without models.
        Ok(None) => return instead(place, folder, library.absent(place).await, None, true).await,
        Err(error) => {
            let is_away = error.kind().is_retryable();
            return instead(place, folder, error, None, is_away).await;
        }
    };
    let read = match refused.filter(|_| place.champion.is_none()) {
        Some(refused) => Err(Error::invalid(refused.to_string())),
        None => read(library, place, &found).await,
    };
    match read {
        Ok(candidate) => Ok(Opening {
            model: Some((Arc::clone(&candidate.model), Some(candidate))),
            serving: Some(found.identity),
            ..Opening::default()
        }),
        Err(error) => {
            let is_away = error.kind().is_retryable();
            instead(place, folder, error, Some(found), is_away).await
        }
    }
}

async fn read(library: &Library, place: &Place, found: &Found) -> Result<Candidate> {
    let (raw, named) = library.fetch(place, found).await?;
    examine(raw, named, place)
}

/// What to start with after `error`: nothing where a challenger was to be, or what served last. Else the error stands.
async fn instead(
    place: &Place,
    folder: Option<&Folder>,
    error: Error,
    found: Option<Found>,
    is_away: bool,
) -> Result<Opening> {
    let mut opening = Opening { check_error: is_away.then(|| error.to_string()), ..Opening::default() };
    if let Some(found) = found.as_ref().filter(|_| !is_away) {
        let version = found.version().map(str::to_owned);
        let refused = RefusedModel { version, at_ms: clock::wall_millis(), reason: error.to_string() };
        opening.refused = Some((found.identity.clone(), refused));
    }
    // A wrong pipeline file is not put right by what served before; a model that may not serve is as good as none.
    let kept = if is_away || found.is_some() { kept(place, folder).await } else { Ok(None) };
    match kept {
        Ok(Some(model)) => {
            tracing::error!(
                model = place.slot,
                uri = place.uri,
                version = model.version,
                %error,
                "the model cannot serve; starting with the version that served last, kept beside the checkpoints"
            );
            opening.model = Some((model, None));
            Ok(opening)
        }
        Ok(None) | Err(_) if place.champion.is_some() => {
            tracing::warn!(model = place.slot, uri = place.uri, %error, "the challenger cannot be read; its scores are null");
            opening.check_error = Some(error.to_string());
            Ok(opening)
        }
        Ok(None) => Err(error),
        Err(kept) => Err(error.context(format!("nor can the version that served last be had ({kept})"))),
    }
}

/// The model that served last from the same place; `None` where none did.
async fn kept(place: &Place, folder: Option<&Folder>) -> Result<Option<Arc<LoadedModel>>> {
    let Some(folder) = folder else { return Ok(None) };
    let Some(bytes) = folder.read(&kept_model_path(&place.slot), NOTE_BYTES_MAX).await? else { return Ok(None) };
    let KeptModel { uri, mut served } = KeptModel::from_bytes(&bytes)?;
    if uri != place.uri {
        return Ok(None);
    }
    if let Some(threshold) = place.threshold {
        served.threshold = format!("{threshold:?}");
    }
    kept_model(folder, &place.slot, &served).await.map(Some)
}

fn status(place: &Place, opening: &Opening) -> ModelStatus {
    let model = opening.model.as_ref().map(|(model, _)| model);
    let now = clock::wall_millis();
    ModelStatus {
        name: place.slot.clone(),
        uri: place.uri.clone(),
        alias: place.alias(),
        is_kept_copy: opening.model.as_ref().is_some_and(|(_, read)| read.is_none()),
        checked_at_ms: opening.check_error.is_none().then_some(now),
        check_error: opening.check_error.clone(),
        refused: opening.refused.as_ref().map(|(_, refused)| refused.clone()),
        ..serving_status(model.map(AsRef::as_ref), now)
    }
}

/// What of a status is about the model that serves.
pub(super) fn serving_status(model: Option<&LoadedModel>, since_ms: i64) -> ModelStatus {
    ModelStatus {
        version: model.map(|model| model.version.clone()),
        run_id: model.and_then(|model| model.run_id.clone()),
        sha256: model.map(|model| model.sha256.clone()),
        threshold: model.map(|model| model.threshold),
        since_ms: model.map(|_| since_ms),
        ..ModelStatus::default()
    }
}

impl Started {
    /// Whether some model came from its place, and not from beside the checkpoints.
    pub(crate) fn has_read(&self) -> bool {
        !self.read.is_empty()
    }

    /// Keeps the models that were read beside the checkpoints: so that a replay can score each row with the model of its time, and a
    /// start without the registry has one.
    pub(crate) async fn keep(&mut self, folder: &Folder) -> Result<()> {
        for (place, candidate) in self.read.drain(..) {
            keep(folder, &place, &candidate).await?;
        }
        Ok(())
    }
}

/// Keeps one model beside the checkpoints, and notes that it serves.
pub(super) async fn keep(folder: &Folder, place: &Place, candidate: &Candidate) -> Result<()> {
    let context = |error: Error| error.context(format!("keeping model {} for replays", place.slot));
    let path = model_path(&candidate.model.sha256);
    if folder.size(&path).await.map_err(context)?.is_none() {
        folder.write(&path, candidate.text.as_bytes().to_vec().into()).await.map_err(context)?;
    }
    let note = KeptModel { uri: place.uri.clone(), served: served_model(&candidate.model) };
    folder.write(&kept_model_path(&place.slot), note.to_bytes()?.into()).await.map_err(context)
}
