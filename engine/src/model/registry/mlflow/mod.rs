//! MLflow 3 as a registry, by its REST interface.

use std::collections::BTreeMap;

use super::{Fetch, ModelVersion, RegisteredModel, RunRecord};
use crate::error::{Error, Result};
use crate::model::package::Package;

/// An MLflow server.
#[derive(Debug, Clone)]
pub struct MlflowRegistry {
    uri: String,
}

impl MlflowRegistry {
    pub(super) fn open(uri: &str, _env: &dyn Fn(&str) -> Option<String>) -> Result<MlflowRegistry> {
        Ok(MlflowRegistry { uri: uri.to_owned() })
    }
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }
    fn absent<T>(&self) -> Result<T> {
        Err(Error::invalid(format!("{}: MLflow is not supported in this build", self.uri)))
    }
    pub(super) async fn by_alias(&self, _name: &str, _alias: &str) -> Result<Option<ModelVersion>> {
        self.absent()
    }
    pub(super) async fn by_version(&self, _name: &str, _version: &str) -> Result<Option<ModelVersion>> {
        self.absent()
    }
    pub(super) async fn versions(&self, _name: &str) -> Result<Vec<ModelVersion>> {
        self.absent()
    }
    pub(super) async fn names(&self) -> Result<Vec<RegisteredModel>> {
        self.absent()
    }
    pub(super) async fn fetch(&self, _version: &ModelVersion, _which: Fetch<'_>) -> Result<Package> {
        self.absent()
    }
    pub(super) async fn register_until(
        &self,
        _name: &str,
        _package: &Package,
        _record: &RunRecord,
        _stop: impl Future<Output = ()> + Send,
    ) -> Result<ModelVersion> {
        self.absent()
    }
    pub(super) async fn set_alias(&self, _name: &str, _alias: &str, _version: &str) -> Result<()> {
        self.absent()
    }
    pub(super) async fn delete_alias(&self, _name: &str, _alias: &str) -> Result<()> {
        self.absent()
    }
    pub(super) async fn set_tags(&self, _name: &str, _version: &str, _tags: &BTreeMap<String, String>) -> Result<()> {
        self.absent()
    }
}
