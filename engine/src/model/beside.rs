//! Where the reference profile of a model is: beside the model file, in the model directory. A model without one is served all
//! the same.

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_udfs::functions::Models;

use super::profile::{REFERENCE_PROFILE_FILE, ReferenceProfile};
use super::{text, unreadable};
use crate::checkpoint::open_store;
use crate::error::{Error, Result};
use crate::pipeline::settings;

/// What references to a registry begin with.
const REGISTRY_SCHEME: &str = "models:/";

/// The profiles of a pipeline's models, by the hash of the model file. One of another model, as it may stand in a folder of
/// several, is left alone, with a warning.
pub(crate) async fn references(
    models: &[settings::Model],
    loaded: &Models,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, ReferenceProfile)>> {
    let mut references = Vec::new();
    for model in models {
        if model.uri.starts_with(REGISTRY_SCHEME) {
            // It comes with the other files of the version.
            continue;
        }
        let Ok(slot) = loaded.slot(&model.name) else { continue };
        let current = slot.current();
        let context = |error: Error| error.context(format!("model {} ({})", model.name, model.uri));
        let Some(profile) = reference_beside(&model.uri, env).await.map_err(context)? else { continue };
        if profile.features.iter().map(|feature| &feature.name).eq(current.model.feature_names()) {
            references.push((current.sha256.clone(), profile));
        } else {
            tracing::warn!(
                model = model.name,
                "the {REFERENCE_PROFILE_FILE} beside the model has other features than the model; drift is not watched"
            );
        }
    }
    Ok(references)
}

/// The profile in a model directory, or beside a model file; or in the file of this name itself.
pub async fn reference_beside(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<ReferenceProfile>> {
    let (store, path) = open_store(uri, env)?;
    let parts: Vec<_> = path.parts().collect();
    let is_file = parts.last().is_some_and(|last| last.as_ref().contains('.'));
    let folder = Path::from_iter(parts.into_iter().take(path.parts_count() - usize::from(is_file)));
    let store: &dyn ObjectStore = store.as_ref();
    match store.get(&folder.join(REFERENCE_PROFILE_FILE)).await {
        Ok(found) => {
            let bytes = found.bytes().await.map_err(unreadable)?;
            ReferenceProfile::from_json(&text(bytes.to_vec())?).map(Some)
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}
