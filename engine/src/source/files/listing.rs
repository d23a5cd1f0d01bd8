//! Which files a path means, and in which order. Nothing is opened here.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::storage_error;
use crate::error::{Error, Result};
use crate::pipeline::settings::FileFormat;

/// A file to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Where it is in the store.
    pub path: Path,
    /// Its path below the source's; a file that the source names itself has its name.
    pub topic: Arc<str>,
    /// Size in bytes when it was listed.
    pub bytes: u64,
}

/// The files at `path`: itself, or those of the format below it, in the order of their names. Names below it that begin
/// with `_` or `.` (folders too) are left out: writers put there what is not for readers.
pub async fn list_files(store: &dyn ObjectStore, path: &Path, format: FileFormat) -> Result<Vec<StoredFile>> {
    match store.head(path).await {
        Ok(file) => {
            let topic = path.filename().unwrap_or_default().into();
            return Ok(vec![StoredFile { path: file.location, topic, bytes: file.size }]);
        }
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(storage_error(error, path)),
    }
    let listed: Vec<ObjectMeta> =
        store.list(Some(path)).try_collect().await.map_err(|error| storage_error(error, path))?;
    let num_listed = listed.len();
    let mut files: Vec<StoredFile> = listed.into_iter().filter_map(|file| stored_file(file, path, format)).collect();
    files.sort_unstable_by(|left, right| left.topic.cmp(&right.topic));
    if files.is_empty() {
        return Err(Error::invalid(format!(
            "no file to read at {path}: expected a file, or a folder with files that end in {}, found {num_listed} others; \
             names that begin with _ or . are left out",
            extensions(format).join(" or ")
        )));
    }
    Ok(files)
}

fn stored_file(file: ObjectMeta, path: &Path, format: FileFormat) -> Option<StoredFile> {
    let below: Vec<_> = file.location.prefix_match(path)?.collect();
    let is_hidden = below.iter().any(|part| part.as_ref().starts_with(['_', '.']));
    let topic = below.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
    let is_of_format = extensions(format).iter().any(|extension| topic.ends_with(extension));
    (!is_hidden && is_of_format).then(|| StoredFile { topic: topic.into(), bytes: file.size, path: file.location })
}

fn extensions(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Parquet => &[".parquet"],
        FileFormat::JsonLines => &[".jsonl", ".ndjson", ".json"],
    }
}
