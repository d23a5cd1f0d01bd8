//! Reads models: of a registry, of files, of model directories. To look whether a place means another model now is cheap; to
//! read it is not. It keeps nothing and decides nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};

use super::candidate::{Candidate, Named, Raw, examine};
use super::manifest::ModelManifest;
use super::package::{MANIFEST, MLMODEL, Package, REFERENCE_PROFILE, SELF_TEST};
use super::place::{Place, places};
use super::registry::{Fetch, ModelVersion, Registry};
use super::{MODEL_BYTES_MAX, reference_beside, text, unreadable};
use crate::checkpoint::open_store;
use crate::checkpoint::store::store_error;
use crate::error::{Error, Result};
use crate::pipeline::settings::Pipeline;

/// Which model a place means, as far as a look can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A version of the registry.
    Version(String),
    /// Files of these sizes and marks.
    Files(String),
}

/// A model that a place means, not yet read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    version: Option<ModelVersion>,
}

impl Found {
    /// What people call it: its number, where it has one.
    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_ref().map(|version| version.version.as_str())
    }
}

/// Where models are read.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    registry: Option<Registry>,
    env: BTreeMap<String, String>,
}

impl Library {
    /// The library of a pipeline. Connects to nothing.
    pub(crate) fn open(pipeline: &Pipeline, env: &BTreeMap<String, String>) -> Result<Library> {
        let lookup = |name: &str| env.get(name).cloned();
        // What the environment says of a registry is nothing to a pipeline that does not ask for one.
        let is_asked = places(&pipeline.models).iter().any(|place| place.reference().is_some());
        let place = pipeline.registry.clone().or_else(|| Registry::place_of(&lookup)).filter(|_| is_asked);
        let registry = place.map(|place| Registry::open(&place, &lookup)).transpose();
        let registry = registry.map_err(|error| error.context("registry"))?;
        Ok(Library { registry, env: env.clone() })
    }

    /// Which model a place means now; `None` where an alias means none.
    pub(crate) async fn look(&self, place: &Place) -> Result<Option<Found>> {
        let Some(reference) = place.reference() else {
            let identity = Identity::Files(self.fingerprint(&place.uri).await?);
            return Ok(Some(Found { identity, version: None }));
        };
        let version = self.registry()?.find(&reference?).await?;
        Ok(version
            .map(|version| Found { identity: Identity::Version(version.version.clone()), version: Some(version) }))
    }

    /// Why a place means no model: an error that says what there is.
    pub(crate) async fn absent(&self, place: &Place) -> Error {
        let resolved =
            async { self.registry()?.resolve(&place.reference().unwrap_or_else(|| place.uri.parse())?).await };
        match resolved.await {
            Err(error) => error,
            Ok(_) => Error::unavailable(format!("{} meant nothing a moment ago; try again", place.uri)),
        }
    }

    /// Reads what a look found.
    pub(crate) async fn fetch(&self, place: &Place, found: &Found) -> Result<(Raw, Named)> {
        match &found.version {
            None => {
                let mut raw = self.read(&place.uri).await?;
                if let Raw::Text { profile, .. } = &mut raw {
                    *profile = reference_beside(&place.uri, &|name| self.env.get(name).cloned()).await?;
                }
                Ok((raw, Named::default()))
            }
            Some(version) => {
                let package = self.registry()?.fetch(version, Fetch::Serving).await?;
                let named = Named { version: Some(version.version.clone()), run_id: version.run_id.clone() };
                Ok((Raw::Package(package), named))
            }
        }
    }

    /// Looks, reads and checks; `None` where an alias means no model.
    pub(crate) async fn load(&self, place: &Place) -> Result<Option<(Identity, Candidate)>> {
        let Some(found) = self.look(place).await? else { return Ok(None) };
        let (raw, named) = self.fetch(place, &found).await?;
        Ok(Some((found.identity, examine(raw, named, place)?)))
    }

    fn registry(&self) -> Result<&Registry> {
        self.registry.as_ref().ok_or_else(|| {
            Error::invalid(
                "there is no registry to look it up in; name one with `registry:` in the pipeline file, or in the environment with \
                 TIDEMILL_REGISTRY or MLFLOW_TRACKING_URI",
            )
        })
    }

    fn store(&self, uri: &str) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path)> {
        open_store(uri, &|name| self.env.get(name).cloned())
    }

    /// Sizes and marks of a file, or of the files of a directory that serving reads.
    async fn fingerprint(&self, uri: &str) -> Result<String> {
        let (store, path) = self.store(uri)?;
        if let Some(file) = head(&store, &path).await? {
            return Ok(mark(&file));
        }
        let mut files = list(&store, &path, uri).await?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(files.iter().map(mark).collect::<Vec<_>>().join(" "))
    }

    async fn read(&self, uri: &str) -> Result<Raw> {
        let (store, path) = self.store(uri)?;
        match head(&store, &path).await? {
            Some(file) => {
                check_size(file.size)?;
                let bytes = store.get(&path).await.map_err(unreadable)?.bytes().await.map_err(unreadable)?;
                let beside = ModelManifest::path_of(Path::new(path.as_ref()));
                let beside = match store.get(&object_store::path::Path::from(beside.to_string_lossy().as_ref())).await {
                    Ok(found) => String::from_utf8(found.bytes().await.map_err(unreadable)?.to_vec()).ok(),
                    Err(object_store::Error::NotFound { .. }) => None,
                    Err(other) => return Err(store_error("read", "what stands beside the model", other)),
                };
                Ok(Raw::Text { text: text(bytes.to_vec())?, manifest: beside, profile: None })
            }
            None => read_directory(&store, &path, uri).await.map(Raw::Package),
        }
    }
}

async fn head(store: &Arc<dyn ObjectStore>, path: &object_store::path::Path) -> Result<Option<ObjectMeta>> {
    match store.head(path).await {
        Ok(file) => Ok(Some(file)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(other) => Err(store_error("read", "the model", other)),
    }
}

fn mark(file: &ObjectMeta) -> String {
    let tag = file.e_tag.clone().unwrap_or_default();
    format!("{} {} {tag} {}", file.location, file.size, file.last_modified.timestamp_micros())
}

/// The files at the top of a directory that say what the model is, and those that are one.
async fn list(store: &Arc<dyn ObjectStore>, path: &object_store::path::Path, uri: &str) -> Result<Vec<ObjectMeta>> {
    let files: Vec<ObjectMeta> =
        store.list(Some(path)).try_collect().await.map_err(|error| store_error("list", uri, error))?;
    let is_read = |file: &ObjectMeta| {
        let below = file.location.as_ref().strip_prefix(path.as_ref()).unwrap_or_default().trim_start_matches('/');
        let is_page = [".html", ".png", ".svg"].iter().any(|ending| below.ends_with(ending));
        !below.is_empty() && !is_page && !below.split('/').any(|part| part.starts_with('.'))
    };
    let files: Vec<ObjectMeta> = files.into_iter().filter(is_read).collect();
    if files.is_empty() {
        return Err(Error::invalid(
            "there is no such file or model directory; make one with `tidemill train`, or point `uri` at a LightGBM text model",
        ));
    }
    Ok(files)
}

/// The files of a model directory that serving needs.
async fn read_directory(store: &Arc<dyn ObjectStore>, path: &object_store::path::Path, uri: &str) -> Result<Package> {
    let files = list(store, path, uri).await?;
    let mut package = Package::default();
    let add = async |package: &mut Package, name: &str| -> Result<()> {
        let is_it = |file: &&ObjectMeta| {
            file.location.as_ref().strip_prefix(path.as_ref()).is_some_and(|rest| rest.trim_start_matches('/') == name)
        };
        let Some(file) = files.iter().find(is_it) else { return Ok(()) };
        check_size(file.size)?;
        let bytes = store.get(&file.location).await.map_err(unreadable)?.bytes().await.map_err(unreadable)?;
        package.insert(name, bytes)
    };
    for name in [MLMODEL, MANIFEST, SELF_TEST, REFERENCE_PROFILE, super::package::MODEL] {
        add(&mut package, name).await?;
    }
    let model = package.model_path()?;
    if !package.files.contains_key(&model) {
        add(&mut package, &model).await?;
    }
    Ok(package)
}

/// A model of this machine: a file, or a directory.
pub(crate) fn read_local(path: &Path) -> Result<Raw> {
    if path.is_dir() {
        return Package::read_folder(path).map(Raw::Package);
    }
    let failed = |error: std::io::Error| Error::unavailable("the file cannot be read").with_source(error);
    check_size(std::fs::metadata(path).map_err(failed)?.len())?;
    let beside = std::fs::read_to_string(ModelManifest::path_of(path)).ok();
    Ok(Raw::Text { text: text(std::fs::read(path).map_err(failed)?)?, manifest: beside, profile: None })
}

fn check_size(size: u64) -> Result<()> {
    if size > MODEL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the file has {size} bytes, more than the {MODEL_BYTES_MAX} that a model may have"
        )));
    }
    Ok(())
}
