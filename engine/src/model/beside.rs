//! Where the reference profile of a model is: beside the model file, in the model directory. A model without one is served all
//! the same.

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::profile::{REFERENCE_PROFILE_FILE, ReferenceProfile};
use super::{text, unreadable};
use crate::checkpoint::open_store;
use crate::error::Result;

/// What the names of model files end in; everything else is a folder.
const FILE_ENDINGS: [&str; 4] = [".lgb", ".txt", ".model", ".json"];

/// The profile in a model directory, or beside a model file; or in the file of this name itself.
pub async fn reference_beside(
    uri: &str,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
) -> Result<Option<ReferenceProfile>> {
    let (store, path) = open_store(uri, env)?;
    let parts: Vec<_> = path.parts().collect();
    let is_file = |name: &str| FILE_ENDINGS.iter().any(|ending| name.ends_with(ending));
    let is_file = parts.last().is_some_and(|last| is_file(last.as_ref()));
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
