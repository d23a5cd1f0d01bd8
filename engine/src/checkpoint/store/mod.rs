//! Object stores by URI: local folders (durable: `durable.rs`) and S3. The only place that opens one; the environment comes
//! in as a function and is not read here. What an object means is `writer.rs`'s business.

mod answer;
mod conditional;
mod durable;
mod folder;
mod probe;
mod s3;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Error, Result};

use answer::Answer;

pub use conditional::{Created, RetryPolicy};
pub use durable::DurableLocal;
pub use folder::{Download, Folder, Listed, Upload};
pub use probe::check_conditional_create;

/// Looks up a variable of the environment.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Opens the store of `uri` (a local path, `file://` or `s3://bucket/prefix`) and says where in it the URI points.
/// For S3, `env` is asked for `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`,
/// `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `MLFLOW_S3_ENDPOINT_URL`, and for the variables of web
/// identities and container credentials. Nothing is connected to and no folder is made.
pub fn open_store(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<(Arc<dyn ObjectStore>, Path)> {
    match uri.split_once("://") {
        Some(("s3" | "s3a", rest)) => s3::open(uri, rest, env),
        Some(("file", path)) if path.starts_with('/') => open_local(uri, path),
        None if !uri.is_empty() => open_local(uri, uri),
        Some(_) | None => Err(Error::invalid(format!(
            "`{uri}` is not a place for files: expected a local path, `file:///path` or `s3://bucket/prefix`"
        ))),
    }
}

/// A copy of what `env` says of all that [`open_store`] asks for, for a store that is opened later.
pub fn keep_environment(env: &dyn Fn(&str) -> Option<String>) -> Environment {
    let kept: HashMap<&'static str, String> =
        s3::variables().filter_map(|name| env(name).map(|value| (name, value))).collect();
    Arc::new(move |name| kept.get(name).cloned())
}

fn open_local(uri: &str, path: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let wrong =
        |error: &dyn fmt::Display| Error::invalid(format!("`{uri}` cannot be used as a folder or file: {error}"));
    let absolute = std::path::absolute(path).map_err(|error| wrong(&error))?;
    let path = Path::from_absolute_path(absolute).map_err(|error| wrong(&error))?;
    Ok((Arc::new(DurableLocal::new()), path))
}

/// The URI by which every process on this machine finds the same place: a local path becomes absolute. This is what
/// stands in manifests.
pub fn absolute_uri(uri: &str) -> Result<String> {
    if let Some((scheme, rest)) = uri.split_once("://") {
        return Ok(format!("{scheme}://{}", rest.trim_end_matches('/')));
    }
    let absolute = std::path::absolute(uri)
        .map_err(|error| Error::invalid(format!("`{uri}` cannot be used as a folder: {error}")))?;
    let absolute = absolute.to_str().ok_or_else(|| Error::invalid(format!("`{uri}`: the path is not UTF-8")))?;
    Ok(format!("file://{}", absolute.trim_end_matches('/')))
}

/// All stores of a process, opened once each.
#[derive(Clone)]
pub struct Stores {
    env: Environment,
    folders: Arc<Mutex<HashMap<String, Folder>>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// Stores whose credentials and endpoints come from `env`.
    pub fn new(env: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Stores {
        Stores { env: Arc::new(env), folders: Arc::default() }
    }

    /// Makes `uri` mean this place in this store. For tests and doubles.
    pub fn register(&self, uri: &str, store: Arc<dyn ObjectStore>, path: Path) {
        let uri = uri.trim_end_matches('/').to_owned();
        let folder = Folder::new(store, path, uri.clone());
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(uri, folder);
    }

    /// The folder that `uri` names. A folder's URI is what [`absolute_uri`] makes of it.
    pub fn open(&self, uri: &str) -> Result<Folder> {
        let uri = absolute_uri(uri)?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get(&uri) {
            return Ok(folder.clone());
        }
        let (store, path) = open_store(&uri, self.env.as_ref())?;
        let folder = Folder::new(store, path, uri.clone());
        folders.insert(uri, folder.clone());
        Ok(folder)
    }
}

/// What an error of a store means to us. Neither the message nor its cause has the body of an answer, which may quote
/// credentials.
pub(crate) fn store_error(act: &str, place: &str, error: object_store::Error) -> Error {
    use object_store::Error as StoreError;
    let answer = Answer::of(&error);
    let said = answer.as_ref().map(|answer| format!(": {answer}")).unwrap_or_default();
    let refused = match &error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Error::invalid(format!(
            "cannot {act} {place}: the store refuses these credentials; expected ones that may read, write, list and delete there{said}"
        )),
        _ if answer.as_ref().is_some_and(Answer::refuses_credentials) => Error::invalid(format!(
            "cannot {act} {place}: the store refuses these credentials; expected ones that are valid now, for this endpoint and region{said}"
        )),
        StoreError::NotImplemented { .. }
        | StoreError::NotSupported { .. }
        | StoreError::UnknownConfigurationKey { .. }
        | StoreError::InvalidPath { .. } => Error::invalid(format!("cannot {act} {place}{said}")),
        // Not found where something must be: a bucket that does not exist is the common case.
        _ if matches!(error, StoreError::NotFound { .. }) || answer.as_ref().is_some_and(Answer::misses_bucket) => {
            Error::invalid(format!("cannot {act} {place}: it is not there (for S3: does the bucket exist?){said}"))
        }
        _ => Error::unavailable(format!("cannot {act} {place}{said}")),
    };
    match &error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => refused,
        _ if answer.is_some() => refused,
        _ => refused.with_source(error),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
