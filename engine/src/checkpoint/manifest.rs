//! The manifest: the one small immutable object whose creation is the commit (protocol F). What stands in it, version 2, and
//! what must hold: checked before one is written and after one is read, so that a damaged one stops the start, by name.

mod state;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::state::check_state;
pub use self::state::{OperatorState, Snapshot, StateFile, StateKind, StateTable};
use crate::error::{Error, Result};
use crate::sink::StagedFile;
use crate::types::{Epoch, Generation, Offset, SeenPositions, StateUnit, Watermark};

/// The version that this engine writes.
pub const MANIFEST_VERSION: u32 = 2;
/// The oldest version that it reads: one without state.
const MANIFEST_VERSION_MIN: u32 = 1;
/// The version of `pipeline.json`.
pub const PIPELINE_FILE_VERSION: u32 = 1;
/// A manifest larger than this is not one of ours.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Number of a manifest within its state unit: from 1, without gaps, never used twice (I2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ManifestNumber(u64);

impl ManifestNumber {
    /// A unit's first manifest.
    pub const FIRST: ManifestNumber = ManifestNumber(1);

    /// `None` for zero.
    #[must_use]
    pub fn new(number: u64) -> Option<ManifestNumber> {
        (number > 0).then_some(ManifestNumber(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> ManifestNumber {
        ManifestNumber(self.0 + 1)
    }
}

impl fmt::Display for ManifestNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a manifest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestKind {
    /// A new generation begins; the progress is that of the manifest before.
    Claim,
    /// Progress was made.
    Checkpoint,
    /// The generation ends: its writer will never write again.
    Release,
}

/// What was known, at a claim, about the writer before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predecessor {
    /// There was none.
    Nobody,
    /// It released the unit: it cannot write any more.
    Released,
    /// It did not: it may be alive, now or whenever it wakes up.
    MayLive,
}

/// How far one sink is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkProgress {
    /// Rows of records below it are out for good, once `files` have their final names.
    pub position: Offset,
    /// W before the record at `position`. A restart reads from the smallest position, and lateness must come out as it did.
    #[serde(rename = "watermark_micros")]
    pub watermark: Watermark,
    /// Of a sink of files: where the ranges of its files so far end, and so where the next one's begins. At or below
    /// `position`: records between the two became no rows. Absent: at `position`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<Offset>,
    /// Files that this manifest commits.
    pub files: Vec<StagedFile>,
}

/// Of a unit of an internal topic: a place that a restart may begin at, and what is known there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPoint {
    /// Next offset to read: at or below the position of every sink.
    pub offset: Offset,
    /// W before the record at `offset`.
    #[serde(rename = "watermark_micros")]
    pub watermark: Watermark,
    /// What was seen in the records below `offset`: `source/topic`, partition, and the record's offset and ordinal.
    pub seen: SeenPositions,
}

/// The identity of a model that was in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelVersion {
    /// Its version, as the registry or the file's path says.
    pub version: String,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
}

/// A model as it served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedModel {
    /// Its version.
    pub version: String,
    /// SHA-256 of its bytes, in hexadecimal digits; also its name below `models/`.
    pub sha256: String,
    /// Its threshold, as text that reads back to the same bits.
    pub threshold: String,
    /// The training run that it came from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// The model that stands beside the checkpoints for a start without its registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptModel {
    /// Where it came from, as the pipeline file says it.
    pub uri: String,
    /// What it is.
    pub served: ServedModel,
}

impl KeptModel {
    /// Reads the document.
    pub fn from_bytes(bytes: &[u8]) -> Result<KeptModel> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::data("the note of a kept model cannot be read").with_source(error))
    }

    /// The document's text.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("the note of a kept model cannot be written").with_source(error))
    }
}

/// From which record on which models served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serving {
    /// The first record.
    pub from: Offset,
    /// All models of the pipeline, by name.
    pub models: BTreeMap<String, ServedModel>,
}

/// The schedule after a start with `models`, whose first rows are those of the record at `from`.
#[must_use]
pub fn schedule_after(
    mut schedule: Vec<Serving>,
    from: Offset,
    models: &BTreeMap<String, ServedModel>,
) -> Vec<Serving> {
    // What was to serve from here on has served nothing.
    schedule.retain(|serving| serving.from < from);
    if !models.is_empty() && schedule.last().is_none_or(|last| last.models != *models) {
        schedule.push(Serving { from, models: models.clone() });
    }
    schedule
}

/// Who wrote a manifest, for people and for telling apart what two writers of one number wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterIdentity {
    /// Name of the host.
    pub host: String,
    /// Number of the process.
    pub pid: u32,
    /// Unique for each claim.
    pub id: String,
}

impl WriterIdentity {
    /// A writer of this process on `host`, told apart from all others.
    #[must_use]
    pub fn new(host: impl Into<String>) -> WriterIdentity {
        WriterIdentity { host: host.into(), pid: std::process::id(), id: uuid::Uuid::new_v4().to_string() }
    }
}

impl fmt::Display for WriterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// One manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub version: u32,
    /// Identity of the pipeline, from `pipeline.json`.
    pub pipeline: String,
    /// Whose progress it is.
    pub unit: StateUnit,
    /// Its number; also its name.
    pub number: ManifestNumber,
    /// Generation of its writer.
    pub generation: Generation,
    /// What it does.
    pub kind: ManifestKind,
    /// Of a claim: what was known about the writer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// Number of partitions that the topic had when the pipeline first started on it: those at or beyond it were added.
    /// Absent where the source does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_first_partitions: Option<u32>,
    /// The driver's epoch at the last checkpoint; `None` before the first.
    pub epoch: Option<Epoch>,
    /// Next offset to read (I1); `None` before the first checkpoint: start as configured.
    pub offset: Option<Offset>,
    /// W before the record at `offset` (I4).
    #[serde(rename = "watermark_micros")]
    pub watermark: Watermark,
    /// By sink.
    pub sinks: BTreeMap<String, SinkProgress>,
    /// Of a unit of an internal topic: where a restart begins. Absent: at the smallest position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPoint>,
    /// Snapshots of the operators' state, by ascending offset; the first is full. Version 1 has none, as has a pipeline
    /// without operators.
    pub state: Vec<Snapshot>,
    /// Models in use, by name.
    pub models: BTreeMap<String, ModelVersion>,
    /// Which models served which records, by ascending offset. Empty without models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Serving>,
    /// Fingerprint of the SQL; empty before the first checkpoint.
    pub sql_fingerprint: String,
    /// When, for people; nothing is decided by it.
    pub written_at: String,
    /// Who, for people.
    pub writer: WriterIdentity,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Manifest {
    /// The bytes of the object. Deterministic: the same manifest always has the same bytes.
    pub fn to_bytes(&self) -> Result<Bytes> {
        self.check()
            .map_err(|problem| Error::internal(format!("a manifest about to be written is wrong: {problem}")))?;
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("a manifest cannot be written as json").with_source(error))?;
        bytes.push(b'\n');
        Ok(Bytes::from(bytes))
    }

    /// Reads the object at `place`, which is expected to be manifest `number` of `unit`, of `pipeline`.
    pub fn from_bytes(
        bytes: &[u8],
        place: &str,
        pipeline: Option<&str>,
        unit: &StateUnit,
        number: ManifestNumber,
    ) -> Result<Manifest> {
        let damaged = |problem: String| {
            Error::data(format!(
                "{place}: the manifest is damaged: {problem}; nothing was changed: restore the object from a copy, or start over with another checkpoint path"
            ))
        };
        let version: VersionOnly = serde_json::from_slice(bytes).map_err(|error| damaged(json_problem(&error)))?;
        if !(MANIFEST_VERSION_MIN..=MANIFEST_VERSION).contains(&version.version) {
            return Err(Error::data(format!(
                "{place}: expected a manifest of version {MANIFEST_VERSION_MIN} to {MANIFEST_VERSION}, found version {}: use the engine that wrote it, or a newer one",
                version.version
            )));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| damaged(json_problem(&error)))?;
        if manifest.unit != *unit || manifest.number != number {
            return Err(damaged(format!(
                "its name says {unit} number {number}, its text {} number {}",
                manifest.unit, manifest.number
            )));
        }
        if let Some(pipeline) = pipeline.filter(|pipeline| *pipeline != manifest.pipeline) {
            return Err(damaged(format!(
                "it belongs to the pipeline with id {}, this path to {pipeline}",
                manifest.pipeline
            )));
        }
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// What must hold in every manifest; the problem otherwise.
    fn check(&self) -> Result<(), String> {
        if (self.kind == ManifestKind::Claim) != self.predecessor.is_some() {
            return Err("a claim, and only a claim, says who was before".into());
        }
        if self.kind == ManifestKind::Checkpoint && (self.offset.is_none() || self.epoch.is_none()) {
            return Err("a checkpoint has an offset and an epoch".into());
        }
        if self.version == 1 && !self.state.is_empty() {
            return Err("it names snapshots of state, which version 1 does not have".into());
        }
        let offset = match self.offset {
            Some(offset) => offset,
            None if self.sinks.is_empty() && self.state.is_empty() && self.watermark == Watermark::NONE => {
                return Ok(());
            }
            None => return Err("it has progress of sinks or state, and no offset".into()),
        };
        check_state(&self.state, offset, self.watermark)?;
        if !self.schedule.is_sorted_by(|before, after| before.from < after.from) {
            return Err("its schedule of models does not rise".into());
        }
        if let Some(restart) = &self.restart {
            let smallest =
                self.sinks.values().map(|sink| sink.position).min().map_or(offset, |least| least.min(offset));
            if restart.offset > smallest || restart.watermark.get() > self.watermark.get() {
                return Err(format!("a restart would begin at {}, beyond the position {smallest}", restart.offset));
            }
        }
        for (sink, progress) in &self.sinks {
            check_sink(progress, offset, self.watermark).map_err(|problem| format!("sink {sink}: {problem}"))?;
        }
        Ok(())
    }

    /// All files that it commits.
    pub fn files(&self) -> impl Iterator<Item = &StagedFile> {
        self.sinks.values().flat_map(|sink| &sink.files)
    }
}

fn check_sink(progress: &SinkProgress, offset: Offset, watermark: Watermark) -> Result<(), String> {
    if progress.position > offset {
        return Err(format!("its position {} lies beyond the offset {offset}", progress.position));
    }
    if progress.watermark.get() > watermark.get() {
        return Err("its watermark lies beyond that of the offset".into());
    }
    let covered = progress.covered.unwrap_or(progress.position);
    if covered > progress.position {
        return Err(format!("its files reach to {covered}, beyond the position {}", progress.position));
    }
    for file in &progress.files {
        if file.range.start > file.range.end || file.range.end > covered {
            return Err(format!(
                "the file {} holds {}, beyond the position {} or the end of its files, {covered}",
                file.name, file.range, progress.position
            ));
        }
        // Names stay inside the sink's folder, and the staged one out of readers' sight.
        let is_inside =
            |path: &str| !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_inside(&file.staged)
            || !file.staged.starts_with('_')
            || !is_inside(&file.name)
            || file.name.starts_with(['_', '.'])
        {
            return Err(format!("the file names {} and {} are not those of a staged file", file.staged, file.name));
        }
    }
    Ok(())
}

/// What is wrong with the text, without quoting it.
fn json_problem(error: &serde_json::Error) -> String {
    format!("line {} column {} is not as expected ({:?})", error.line(), error.column(), error.classify())
        .to_lowercase()
}

/// Whose path it is: `pipeline.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineFile {
    /// Version of the format.
    pub version: u32,
    /// The pipeline's name.
    pub name: String,
    /// Random; in every manifest.
    pub id: String,
    /// When, for people.
    pub created_at: String,
}

impl PipelineFile {
    /// The bytes of the object.
    pub fn to_bytes(&self) -> Result<Bytes> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("pipeline.json cannot be written as json").with_source(error))?;
        bytes.push(b'\n');
        Ok(Bytes::from(bytes))
    }

    /// Reads the object at `place`.
    pub fn from_bytes(bytes: &[u8], place: &str) -> Result<PipelineFile> {
        let damaged = |error: &serde_json::Error| {
            Error::data(format!(
                "{place}: the file is damaged: {}; restore it from a copy, or use another checkpoint path",
                json_problem(error)
            ))
        };
        let version: VersionOnly = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        if version.version != PIPELINE_FILE_VERSION {
            return Err(Error::data(format!(
                "{place}: expected version {PIPELINE_FILE_VERSION}, found version {}: use the engine that wrote it, or a newer one",
                version.version
            )));
        }
        serde_json::from_slice(bytes).map_err(|error| damaged(&error))
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
