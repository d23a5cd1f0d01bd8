//! A folder or a bucket as a registry. A version is one small document, created conditionally under the next free number
//! after its files are there: two registrations get two numbers, and none is ever seen half. An alias is an object that is
//! overwritten; tags are documents that are only added to.
//!
//! ```text
//! NAME/versions/3.json        the version: run, tags, and its files with their hashes; never changed
//! NAME/aliases/champion.json  {"version": "3"}
//! NAME/tags/3/1.json          tags set later, in order
//! NAME/files/RUN/...          the model directory of one registration
//! ```

mod document;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore as _;

use super::{Fetch, ModelVersion, RegisteredModel, RunRecord};
use crate::checkpoint::store::{Created, store_error};
use crate::checkpoint::{Folder, RetryPolicy, sha256_hex};
use crate::error::{Error, Result};
use crate::model::MODEL_BYTES_MAX;
use crate::model::package::{Package, SERVED_FILES, check_path};
use crate::model::reference::check_name;
use document::{AliasDocument, TagsDocument, VersionDocument};

/// A document larger than this is none of ours.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Registrations that may take a number before ours is found.
const RACES_MAX: u32 = 1000;
const REQUESTS_AT_ONCE: usize = 4;

/// See the file's head.
#[derive(Debug, Clone)]
pub struct FolderRegistry {
    folder: Folder,
    retry: RetryPolicy,
}

fn version_path(name: &str, version: &str) -> String {
    format!("{name}/versions/{version}.json")
}

fn alias_path(name: &str, alias: &str) -> String {
    format!("{name}/aliases/{alias}.json")
}

/// `fraud/versions/3.json` -> `3`.
fn stem(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".json")
}

impl FolderRegistry {
    /// A registry in this folder.
    #[must_use]
    pub fn new(folder: Folder) -> FolderRegistry {
        FolderRegistry { folder, retry: RetryPolicy::default() }
    }

    pub(super) fn uri(&self) -> &str {
        self.folder.uri()
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        self.folder.read(path, DOCUMENT_BYTES_MAX).await
    }

    pub(super) async fn by_alias(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>> {
        match self.alias(name, alias).await? {
            Some(version) => self.by_version(name, &version).await,
            None => Ok(None),
        }
    }

    async fn alias(&self, name: &str, alias: &str) -> Result<Option<String>> {
        let path = alias_path(name, alias);
        let Some(bytes) = self.read(&path).await? else { return Ok(None) };
        AliasDocument::from_bytes(&bytes, &self.folder.place(&path)).map(|document| Some(document.version))
    }

    pub(super) async fn by_version(&self, name: &str, version: &str) -> Result<Option<ModelVersion>> {
        let Some(document) = self.document(name, version).await? else { return Ok(None) };
        let aliases = self.aliases(name).await?;
        self.seen(document, &aliases).await.map(Some)
    }

    async fn document(&self, name: &str, version: &str) -> Result<Option<VersionDocument>> {
        let path = version_path(name, version);
        let Some(bytes) = self.read(&path).await? else { return Ok(None) };
        VersionDocument::from_bytes(&bytes, &self.folder.place(&path)).map(Some)
    }

    /// A version with the tags and aliases that it has now.
    async fn seen(&self, document: VersionDocument, aliases: &BTreeMap<String, String>) -> Result<ModelVersion> {
        let mut version = document.first_seen()?;
        for (_, later) in self.later_tags(&version.name, &version.version).await? {
            version.tags.extend(later.tags);
        }
        let of_it = aliases.iter().filter(|(_, other)| **other == version.version);
        version.aliases = of_it.map(|(alias, _)| alias.clone()).collect();
        Ok(version)
    }

    /// Tags set after the registration, with the numbers of their documents, in order.
    async fn later_tags(&self, name: &str, version: &str) -> Result<Vec<(u64, TagsDocument)>> {
        let listed = self.folder.list(&format!("{name}/tags/{version}")).await?;
        let mut numbers: Vec<u64> = listed.iter().filter_map(|object| stem(&object.name)?.parse().ok()).collect();
        numbers.sort_unstable();
        let read = numbers.into_iter().map(|number| async move {
            let path = tags_path(name, version, number);
            let Some(bytes) = self.read(&path).await? else { return Ok(None) };
            TagsDocument::from_bytes(&bytes, &self.folder.place(&path)).map(|document| Some((number, document)))
        });
        let read: Vec<Option<(u64, TagsDocument)>> =
            futures::stream::iter(read).buffered(REQUESTS_AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn aliases(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let mut aliases = BTreeMap::new();
        for object in self.folder.list(&format!("{name}/aliases")).await? {
            let Some(alias) = stem(&object.name) else { continue };
            // Taken away since the listing: not there.
            if let Some(version) = self.alias(name, alias).await? {
                aliases.insert(alias.to_owned(), version);
            }
        }
        Ok(aliases)
    }

    /// Numbers of all versions, from the smallest.
    async fn numbers(&self, name: &str) -> Result<Vec<u32>> {
        let listed = self.folder.list(&format!("{name}/versions")).await?;
        let mut numbers: Vec<u32> = listed.iter().filter_map(|object| stem(&object.name)?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) async fn versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        let aliases = &self.aliases(name).await?;
        let numbers = self.numbers(name).await?;
        let read = numbers.into_iter().rev().map(|number| async move {
            match self.document(name, &number.to_string()).await? {
                Some(document) => self.seen(document, aliases).await.map(Some),
                None => Ok(None),
            }
        });
        let read: Vec<Option<ModelVersion>> =
            futures::stream::iter(read).buffered(REQUESTS_AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    pub(super) async fn names(&self) -> Result<Vec<RegisteredModel>> {
        let listed = self.folder.store().list_with_delimiter(Some(self.folder.path())).await;
        let listed = listed.map_err(|error| store_error("list", self.folder.uri(), error))?;
        let mut models = Vec::new();
        for folder in &listed.common_prefixes {
            let Some(name) = folder.filename().filter(|name| check_name(name).is_ok()) else { continue };
            if !self.numbers(name).await?.is_empty() {
                models.push(RegisteredModel { name: name.to_owned(), aliases: self.aliases(name).await? });
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    pub(super) async fn fetch(&self, version: &ModelVersion, which: Fetch<'_>) -> Result<Package> {
        let document = self.document(&version.name, &version.version).await?.ok_or_else(|| {
            Error::data(format!("{} is gone", self.folder.place(&version_path(&version.name, &version.version))))
        })?;
        let mut package = Package::default();
        let wanted: Vec<&str> = match which {
            Fetch::All => document.files.keys().map(String::as_str).collect(),
            Fetch::Serving => SERVED_FILES.to_vec(),
            Fetch::Only(names) => names.to_vec(),
        };
        for name in wanted {
            self.fetch_file(&document, name, &mut package).await?;
        }
        if which == Fetch::Serving {
            // The name is in `MLmodel`, or it is ours.
            let model = match package.files.contains_key(crate::model::package::MLMODEL) {
                true => package.model_path()?,
                false => crate::model::package::MODEL.to_owned(),
            };
            self.fetch_file(&document, &model, &mut package).await?;
        }
        Ok(package)
    }

    async fn fetch_file(&self, document: &VersionDocument, name: &str, package: &mut Package) -> Result<()> {
        let Some(file) = document.files.get(name) else { return Ok(()) };
        check_path(name)?;
        let path = format!("{}/{name}", document.folder);
        let place = self.folder.place(&path);
        package.check_room(&place, file.bytes)?;
        let content = self.folder.read(&path, MODEL_BYTES_MAX).await?;
        let content = content
            .ok_or_else(|| Error::data(format!("{place}: the registry names this file, and it is not there")))?;
        let sha256 = sha256_hex(&content);
        if sha256 != file.sha256 {
            return Err(Error::data(format!(
                "{place}: expected the file that was registered (SHA-256 {}), found another (SHA-256 {sha256}); register the model again",
                file.sha256
            )));
        }
        package.insert(name, content)
    }

    pub(super) async fn register(&self, name: &str, package: &Package, record: &RunRecord) -> Result<ModelVersion> {
        let run_id = uuid::Uuid::new_v4().simple().to_string();
        let folder = format!("{name}/files/{run_id}");
        let written = self.write_files(&folder, package).await;
        if written.is_err() {
            // Nothing names these files yet; left behind, where they cannot be deleted either, they only take room. From here on
            // nothing is deleted: a version whose creation was not acknowledged may be there, and names them.
            for path in package.files.keys() {
                drop(self.folder.delete(&format!("{folder}/{path}")).await);
            }
        }
        written?;
        self.create_version(name, &folder, &run_id, package, record).await
    }

    async fn write_files(&self, folder: &str, package: &Package) -> Result<()> {
        let writes = package.files.iter().map(|(path, content)| async move {
            check_path(path)?;
            self.folder.write(&format!("{folder}/{path}"), content.clone()).await
        });
        futures::stream::iter(writes).buffer_unordered(REQUESTS_AT_ONCE).try_collect().await
    }

    async fn create_version(
        &self,
        name: &str,
        folder: &str,
        run_id: &str,
        package: &Package,
        record: &RunRecord,
    ) -> Result<ModelVersion> {
        let mut next = self.numbers(name).await?.last().copied().unwrap_or(0) + 1;
        for _ in 0..RACES_MAX {
            let document = VersionDocument::new(name, next, folder, run_id, package, record)?;
            let version = document.first_seen()?;
            let path = version_path(name, &version.version);
            match self.folder.create(&path, &document.to_bytes()?, DOCUMENT_BYTES_MAX, &self.retry).await? {
                Created::Ours => return Ok(version),
                Created::Taken(_) => next += 1,
            }
        }
        Err(Error::unavailable(format!(
            "{}: {RACES_MAX} numbers in a row were taken by others; try again",
            self.folder.place(&format!("{name}/versions"))
        )))
    }

    async fn expect_version(&self, name: &str, version: &str) -> Result<()> {
        if self.document(name, version).await?.is_some() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{name} has no version {version} in the registry {}; `tidemill model list {name}` shows which there are",
            self.uri()
        )))
    }

    pub(super) async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        self.expect_version(name, version).await?;
        self.folder.write(&alias_path(name, alias), AliasDocument::new(version).to_bytes()?).await
    }

    pub(super) async fn delete_alias(&self, name: &str, alias: &str) -> Result<()> {
        self.folder.delete(&alias_path(name, alias)).await
    }

    pub(super) async fn set_tags(&self, name: &str, version: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        self.expect_version(name, version).await?;
        let document = TagsDocument::new(tags.clone());
        let bytes = document.to_bytes()?;
        let mut next = self.later_tags(name, version).await?.last().map_or(0, |(number, _)| *number) + 1;
        for _ in 0..RACES_MAX {
            let path = tags_path(name, version, next);
            match self.folder.create(&path, &bytes, DOCUMENT_BYTES_MAX, &self.retry).await? {
                Created::Ours => return Ok(()),
                Created::Taken(_) => next += 1,
            }
        }
        Err(Error::unavailable(format!(
            "the tags of {name} version {version} are being set by others all the time; try again"
        )))
    }
}

fn tags_path(name: &str, version: &str, number: u64) -> String {
    format!("{name}/tags/{version}/{number}.json")
}

#[cfg(test)]
mod tests;
