//! The documents of a folder registry. Each carries the version of its format; one of another version is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ModelVersion, RunRecord};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::model::package::Package;

/// Version of the documents.
const FORMAT: u32 = 1;

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VersionDocument {
    format: u32,
    pub(super) name: String,
    pub(super) version: String,
    created: String,
    pub(super) run_id: String,
    /// Where its files are, in the registry.
    pub(super) folder: String,
    pub(super) files: BTreeMap<String, FileEntry>,
    pub(super) tags: BTreeMap<String, String>,
    run: RunEntry,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// The run that made a version; for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RunEntry {
    experiment: String,
    name: String,
    started: String,
    ended: String,
    params: BTreeMap<String, String>,
    /// Numbers that JSON does not have are left out.
    metrics: BTreeMap<String, f64>,
    tags: BTreeMap<String, String>,
    dataset: Option<DatasetEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DatasetEntry {
    name: String,
    digest: String,
    uris: Vec<String>,
    rows: u64,
}

/// What an alias means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AliasDocument {
    format: u32,
    pub(super) version: String,
}

/// Tags that were set together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TagsDocument {
    format: u32,
    pub(super) tags: BTreeMap<String, String>,
}

/// Times are written as people and Python read them: `2026-11-23T12:00:00.000Z`.
fn time(millis: i64) -> Result<String> {
    DateTime::from_timestamp_millis(millis)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .ok_or_else(|| Error::internal("the time of a run is out of range"))
}

impl VersionDocument {
    pub(super) fn new(
        name: &str,
        version: u32,
        folder: &str,
        run_id: &str,
        package: &Package,
        record: &RunRecord,
    ) -> Result<VersionDocument> {
        let entry = |content: &Bytes| FileEntry { bytes: content.len() as u64, sha256: sha256_hex(content) };
        Ok(VersionDocument {
            format: FORMAT,
            name: name.to_owned(),
            version: version.to_string(),
            created: time(record.ended_ms)?,
            run_id: run_id.to_owned(),
            folder: folder.to_owned(),
            files: package.files.iter().map(|(path, content)| (path.clone(), entry(content))).collect(),
            tags: record.version_tags.clone(),
            run: RunEntry {
                experiment: record.experiment.clone(),
                name: record.run_name.clone(),
                started: time(record.started_ms)?,
                ended: time(record.ended_ms)?,
                params: record.params.clone(),
                metrics: record
                    .metrics
                    .iter()
                    .filter(|(_, value)| value.is_finite())
                    .map(|(k, v)| (k.clone(), *v))
                    .collect(),
                tags: record.tags.clone(),
                dataset: record.dataset.as_ref().map(|dataset| DatasetEntry {
                    name: dataset.name.clone(),
                    digest: dataset.digest.clone(),
                    uris: dataset.uris.clone(),
                    rows: dataset.num_rows,
                }),
            },
        })
    }

    pub(super) fn from_bytes(bytes: &[u8], place: &str) -> Result<VersionDocument> {
        read(bytes, place)
    }

    /// The version as it was registered: without what was noted later, and without aliases.
    pub(super) fn first_seen(&self) -> Result<ModelVersion> {
        let created = DateTime::parse_from_rfc3339(&self.created).map_err(|error| {
            Error::data(format!("{} version {}: `created` is no time", self.name, self.version)).with_source(error)
        })?;
        Ok(ModelVersion {
            name: self.name.clone(),
            version: self.version.clone(),
            run_id: Some(self.run_id.clone()),
            created: created.to_utc(),
            tags: self.tags.clone(),
            aliases: Vec::new(),
            location: self.folder.clone(),
        })
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        write(self)
    }
}

impl AliasDocument {
    pub(super) fn new(version: &str) -> AliasDocument {
        AliasDocument { format: FORMAT, version: version.to_owned() }
    }

    pub(super) fn from_bytes(bytes: &[u8], place: &str) -> Result<AliasDocument> {
        read(bytes, place)
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        write(self)
    }
}

impl TagsDocument {
    pub(super) fn new(tags: BTreeMap<String, String>) -> TagsDocument {
        TagsDocument { format: FORMAT, tags }
    }

    pub(super) fn from_bytes(bytes: &[u8], place: &str) -> Result<TagsDocument> {
        read(bytes, place)
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        write(self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8], place: &str) -> Result<T> {
    let wrong = |why: String| Error::data(format!("{place} is not a document of a registry: {why}"));
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| wrong(format!("not JSON: {error}")))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => {
            return Err(wrong(format!("expected format {FORMAT}, found {format}; use the program that wrote it")));
        }
        None => return Err(wrong(format!("expected `format: {FORMAT}`, found none"))),
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

fn write<T: Serialize>(document: &T) -> Result<Bytes> {
    let text = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::internal("a document of the registry cannot be written").with_source(error))?;
    Ok(Bytes::from(text))
}
