//! Where models are kept by name, version and alias: a folder or a bucket ([`folder`]), or an MLflow server ([`mlflow`]).
//! The same acts on both. A version is complete when it can be seen, and never changes; only its tags and the aliases do.
//! Environment and clock come in from outside.

pub mod folder;
pub mod mlflow;
mod promotion;
mod record;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::checkpoint::Folder;
use crate::checkpoint::store::{absolute_uri, open_store};
use crate::error::{Error, Result};
use crate::model::candidate::{Named, Raw, examine};
use crate::model::package::Package;
use crate::model::place::Place;
use crate::model::reference::{At, ModelReference, check_alias, check_name, check_version};

pub use folder::FolderRegistry;
pub use mlflow::MlflowRegistry;
pub use promotion::{GATE_PASSED, GATE_TAG, PROMOTED_AT_TAG, PROMOTED_FROM_TAG, Promotion};
pub use record::{Dataset, MetricPoint, RunRecord};

/// Variable with the place of the registry.
pub const REGISTRY_VARIABLE: &str = "TIDEMILL_REGISTRY";
/// MLflow's own variable, asked where ours is not set.
pub const TRACKING_URI_VARIABLE: &str = "MLFLOW_TRACKING_URI";

/// Where models are kept.
#[derive(Debug, Clone)]
pub enum Registry {
    /// A local folder or a bucket.
    Folder(FolderRegistry),
    /// An MLflow server.
    Mlflow(MlflowRegistry),
}

/// One version of a model, as the registry knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelVersion {
    /// The model's name.
    pub name: String,
    /// Its number.
    pub version: String,
    /// The run that made it.
    pub run_id: Option<String>,
    /// When it was registered.
    pub created: DateTime<Utc>,
    /// What was noted of it.
    pub tags: BTreeMap<String, String>,
    /// The aliases that mean it now.
    pub aliases: Vec<String>,
    /// Where its files are, as the registry says it.
    pub location: String,
}

/// A model of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// Alias -> version.
    pub aliases: BTreeMap<String, String>,
}

/// Which files of a version are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch<'a> {
    /// All.
    All,
    /// What serving needs: the model's text, its manifest, self-test and reference profile, as far as they are there.
    Serving,
    /// These, as far as they are there.
    Only(&'a [&'a str]),
}

impl Registry {
    /// Opens the registry at `uri`: a local path, `file://`, `s3://`, or the address of an MLflow server. Nothing is
    /// connected to. For MLflow, `env` is asked for MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME and
    /// MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_SERVER_CERT_PATH, MLFLOW_TRACKING_INSECURE_TLS and
    /// MLFLOW_HTTP_REQUEST_TIMEOUT; for buckets for what [`open_store`] asks for.
    pub fn open(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Registry> {
        if uri.starts_with("http://") || uri.starts_with("https://") {
            return MlflowRegistry::open(uri, env).map(Registry::Mlflow);
        }
        let expected = "the registry: expected a local path, `file:///path`, `s3://bucket/prefix`, or the address of an MLflow server (`http://...`)";
        if uri.is_empty() || uri.starts_with("models:") {
            return Err(Error::invalid(format!("{expected}, found `{uri}`")));
        }
        let uri = absolute_uri(uri)?;
        let (store, path) = open_store(&uri, env).map_err(|error| error.context(expected))?;
        Ok(Registry::Folder(FolderRegistry::new(Folder::new(store, path, uri))))
    }

    /// The place that the environment names, if it does.
    #[must_use]
    pub fn place_of(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        [REGISTRY_VARIABLE, TRACKING_URI_VARIABLE].iter().find_map(|name| env(name).filter(|place| !place.is_empty()))
    }

    /// How people know it. Without a login.
    #[must_use]
    pub fn uri(&self) -> &str {
        match self {
            Registry::Folder(folder) => folder.uri(),
            Registry::Mlflow(mlflow) => mlflow.uri(),
        }
    }

    /// The version that a reference means now, if it means one. Cheap: this is what a poll does.
    pub async fn find(&self, reference: &ModelReference) -> Result<Option<ModelVersion>> {
        check_name(&reference.name)?;
        match (self, &reference.at) {
            (Registry::Folder(folder), At::Alias(alias)) => folder.by_alias(&reference.name, alias).await,
            (Registry::Folder(folder), At::Version(version)) => folder.by_version(&reference.name, version).await,
            (Registry::Mlflow(mlflow), At::Alias(alias)) => mlflow.by_alias(&reference.name, alias).await,
            (Registry::Mlflow(mlflow), At::Version(version)) => mlflow.by_version(&reference.name, version).await,
        }
    }

    /// The same; that it means none is an error that says what there is.
    pub async fn resolve(&self, reference: &ModelReference) -> Result<ModelVersion> {
        match self.find(reference).await? {
            Some(version) => Ok(version),
            None => Err(self.not_found(reference).await?),
        }
    }

    /// What to say of a reference that means nothing: what there is instead.
    async fn not_found(&self, reference: &ModelReference) -> Result<Error> {
        let names = self.names().await?;
        let Some(model) = names.iter().find(|model| model.name == reference.name) else {
            let there = crate::model::package::some_of(names.iter().map(|model| model.name.as_str()));
            return Ok(Error::invalid(format!(
                "{reference}: the registry {} has no model {}; found {there}; register one with `tidemill model register` or `tidemill train --register`",
                self.uri(),
                reference.name
            )));
        };
        Ok(Error::invalid(match &reference.at {
            At::Alias(alias) => format!(
                "{reference}: no version of {} has the alias {alias} in the registry {}; found {}; set it with `tidemill model promote {} --alias {alias} --version N`",
                reference.name,
                self.uri(),
                crate::model::package::some_of(model.aliases.keys().map(String::as_str)),
                reference.name
            ),
            At::Version(version) => format!(
                "{reference}: {} has no version {version} in the registry {}; `tidemill model list {}` shows which there are",
                reference.name,
                self.uri(),
                reference.name
            ),
        }))
    }

    /// All versions of a model, the newest first; empty when there is no such model.
    pub async fn versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        check_name(name)?;
        match self {
            Registry::Folder(folder) => folder.versions(name).await,
            Registry::Mlflow(mlflow) => mlflow.versions(name).await,
        }
    }

    /// All models, by name.
    pub async fn names(&self) -> Result<Vec<RegisteredModel>> {
        match self {
            Registry::Folder(folder) => folder.names().await,
            Registry::Mlflow(mlflow) => mlflow.names().await,
        }
    }

    /// The files of a version. Where the registry knows their hashes, they are checked.
    pub async fn fetch(&self, version: &ModelVersion, which: Fetch<'_>) -> Result<Package> {
        let fetched = match self {
            Registry::Folder(folder) => folder.fetch(version, which).await,
            Registry::Mlflow(mlflow) => mlflow.fetch(version, which).await,
        };
        fetched.map_err(|error| error.context(format!("{} version {}", version.name, version.version)))
    }

    /// Registers a model, if it can be served: run, files, version. When this fails there is no version, and no alias has moved.
    pub async fn register(&self, name: &str, package: &Package, record: &RunRecord) -> Result<ModelVersion> {
        self.register_until(name, package, record, std::future::pending()).await
    }

    /// As [`Registry::register`], given up when `stop` is ready: then the run is ended as killed.
    pub async fn register_until(
        &self,
        name: &str,
        package: &Package,
        record: &RunRecord,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<ModelVersion> {
        check_name(name)?;
        check_package(name, package)?;
        match self {
            Registry::Folder(folder) => {
                tokio::select! {
                    registered = folder.register(name, package, record) => registered,
                    () = stop => Err(Error::unavailable(format!("the registration of {name} was interrupted; no version was made"))),
                }
            }
            Registry::Mlflow(mlflow) => mlflow.register_until(name, package, record, stop).await,
        }
    }

    /// Makes an alias mean a version, whatever it meant before. There is no compare-and-set: promote from one place.
    pub async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        check_name(name)?;
        check_alias(alias)?;
        check_version(version)?;
        match self {
            Registry::Folder(folder) => folder.set_alias(name, alias, version).await,
            Registry::Mlflow(mlflow) => mlflow.set_alias(name, alias, version).await,
        }
    }

    /// Takes an alias away; that there is none is as good.
    pub async fn delete_alias(&self, name: &str, alias: &str) -> Result<()> {
        check_name(name)?;
        check_alias(alias)?;
        match self {
            Registry::Folder(folder) => folder.delete_alias(name, alias).await,
            Registry::Mlflow(mlflow) => mlflow.delete_alias(name, alias).await,
        }
    }

    /// Adds tags to a version, over those of the same names.
    pub async fn set_tags(&self, name: &str, version: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        check_name(name)?;
        check_version(version)?;
        match self {
            Registry::Folder(folder) => folder.set_tags(name, version, tags).await,
            Registry::Mlflow(mlflow) => mlflow.set_tags(name, version, tags).await,
        }
    }
}

/// What serving would refuse is not registered.
fn check_package(name: &str, package: &Package) -> Result<()> {
    let has_threshold = package.manifest()?.is_some();
    let place = Place {
        slot: name.to_owned(),
        champion: None,
        uri: String::new(),
        // Without a manifest, the pipeline file fixes it.
        threshold: (!has_threshold).then_some(0.5),
        reload: None,
    };
    examine(Raw::Package(package.clone()), Named::default(), &place).map(drop)
}
