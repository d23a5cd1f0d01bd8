//! Where a model comes from: a LightGBM text model in a file or an object store. Read once at the start; its version is its
//! content's hash. The scorer itself is in `tidemill-udfs`.

mod beside;
pub mod drift;
pub mod labels;
pub mod manifest;
pub mod profile;
pub(crate) mod quality;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_udfs::functions::{LoadedModel, Models};
use tidemill_udfs::scorer;

use crate::checkpoint::store::store_error;
use crate::checkpoint::{open_store, sha256_hex};
use crate::error::{Error, Result};
use crate::pipeline::settings;
pub use beside::reference_beside;
pub(crate) use beside::references;

/// Digits of the hash that make a version.
const VERSION_DIGITS: usize = 12;
/// A model file larger than this is refused: 1 GiB.
const MODEL_BYTES_MAX: u64 = 1 << 30;

/// Reads all models of a pipeline.
pub async fn load(models: &[settings::Model], env: &dyn Fn(&str) -> Option<String>) -> Result<Models> {
    let mut loaded = Models::new();
    for model in models {
        let context = |error: Error| error.context(format!("model {} ({})", model.name, model.uri));
        let text = read(&model.uri, env).await.map_err(context)?;
        loaded.insert(&model.name, parse(&text, model.threshold).map_err(context)?);
    }
    Ok(loaded)
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

/// Reads the models that are in files of this machine, and says of the others why they were not read.
pub fn load_local(models: &[settings::Model]) -> Result<(Models, Vec<Unread>)> {
    let (mut loaded, mut unread) = (Models::new(), Vec::new());
    for model in models {
        let context = |error: Error| error.context(format!("model {} ({})", model.name, model.uri));
        let not_read = |reason: String| Unread { model: model.name.clone(), reason };
        let path = Path::new(model.uri.strip_prefix("file://").unwrap_or(&model.uri));
        if path.to_str().is_none_or(|path| path.contains("://")) {
            unread.push(not_read(format!("{} is not a file of this machine", model.uri)));
        } else if !path.is_file() {
            unread.push(not_read(format!("there is no file {}", path.display())));
        } else {
            loaded.insert(&model.name, parse(&read_local(path).map_err(context)?, model.threshold).map_err(context)?);
        }
    }
    Ok((loaded, unread))
}

fn read_local(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| Error::unavailable("the file cannot be read").with_source(error);
    check_size(std::fs::metadata(path).map_err(failed)?.len())?;
    text(std::fs::read(path).map_err(failed)?)
}

/// A model from its text.
pub fn parse(text: &str, threshold: f64) -> Result<LoadedModel> {
    let model =
        scorer::Model::parse(text).map_err(|error| Error::invalid(format!("this model cannot be served: {error}")))?;
    let sha256 = sha256_hex(text.as_bytes());
    let version = sha256[..VERSION_DIGITS].to_owned();
    Ok(LoadedModel { model, version, threshold, sha256, run_id: None })
}

/// The text of a model, as it is now.
pub(crate) async fn read(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let (store, path) = open_store(uri, env)?;
    let size = store.head(&path).await.map_err(unreadable)?.size;
    check_size(size)?;
    let store: Arc<dyn ObjectStore> = store;
    let bytes = store.get(&path).await.map_err(unreadable)?.bytes().await.map_err(unreadable)?;
    text(bytes.to_vec())
}

fn check_size(size: u64) -> Result<()> {
    if size > MODEL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the file has {size} bytes, more than the {MODEL_BYTES_MAX} that a model may have"
        )));
    }
    Ok(())
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
        object_store::Error::NotFound { .. } => Error::invalid(
            "there is no such file; make one with `tidemill train`, or point `uri` at a LightGBM text model",
        ),
        other => store_error("read", "the file", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[tokio::test]
    async fn a_missing_model_says_how_to_make_one() {
        let models = [settings::Model { name: "fraud".into(), uri: "/no/such/model.txt".into(), threshold: 0.7 }];
        let error = load(&models, &nothing).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(error.to_string().contains("tidemill train"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_model_is_refused() {
        assert_eq!(parse("hello", 0.5).unwrap_err().kind(), crate::ErrorKind::Invalid);
    }
}
