//! The decisions of protocol F, as pure functions from what was observed to closed values: what a claim writes, whether it
//! holds, what a doubtful creation means, where a unit starts again, what may be deleted, what to do with a staged file.
//! No I/O, no clock, no async; `writer.rs` carries them out. Why they are safe stands in the module's front page.

mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

pub use self::snapshots::{
    Load, Restore, StateDecision, WantedOperator, choose_snapshot, files_let_go, is_left_behind, needed_snapshots,
    newest_snapshots,
};
use crate::checkpoint::manifest::{
    MANIFEST_VERSION, Manifest, ManifestKind, ManifestNumber, ModelVersion, Predecessor, RestartPoint, Serving,
    SinkProgress, Snapshot, WriterIdentity,
};
use crate::error::{Error, Result};
use crate::types::{Epoch, Generation, Offset, SeenPositions, StateUnit, Watermark};

/// Who writes and when: what a new manifest says besides the progress.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The pipeline's id.
    pub pipeline: String,
    /// The writer.
    pub writer: WriterIdentity,
    /// The time, as text.
    pub written_at: String,
}

/// What a checkpoint of one unit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The driver's epoch.
    pub epoch: Epoch,
    /// Next offset to read (I1).
    pub offset: Offset,
    /// W before the record at `offset` (I4).
    pub watermark: Watermark,
    /// By sink; all sinks of the pipeline.
    pub sinks: BTreeMap<String, SinkProgress>,
    /// Of a unit of an internal topic: where a restart begins.
    pub restart: Option<RestartPoint>,
    /// Snapshots of state, as in the manifest.
    pub state: Vec<Snapshot>,
    /// Models in use.
    pub models: BTreeMap<String, ModelVersion>,
    /// Which models served which records.
    pub schedule: Vec<Serving>,
    /// Fingerprint of the SQL.
    pub sql_fingerprint: String,
}

/// The claim that follows `newest`: the next number and generation, the same progress. The files of the one before come
/// along, since nothing but the newest manifest is read to finish them. `num_first_partitions` is for a unit's first claim.
#[must_use]
pub fn claim_after(
    newest: Option<&Manifest>,
    unit: &StateUnit,
    num_first_partitions: Option<u32>,
    signature: Signature,
) -> Manifest {
    let (number, generation, predecessor) = match newest {
        None => (ManifestNumber::FIRST, Generation::FIRST, Predecessor::Nobody),
        Some(newest) => {
            let predecessor = match newest.kind {
                ManifestKind::Release => Predecessor::Released,
                ManifestKind::Claim | ManifestKind::Checkpoint => Predecessor::MayLive,
            };
            (newest.number.next(), newest.generation.next(), predecessor)
        }
    };
    let Signature { pipeline, writer, written_at } = signature;
    Manifest {
        version: MANIFEST_VERSION,
        pipeline,
        unit: unit.clone(),
        number,
        generation,
        kind: ManifestKind::Claim,
        predecessor: Some(predecessor),
        num_first_partitions: newest.map_or(num_first_partitions, |newest| newest.num_first_partitions),
        epoch: newest.and_then(|newest| newest.epoch),
        offset: newest.and_then(|newest| newest.offset),
        watermark: newest.map_or(Watermark::NONE, |newest| newest.watermark),
        sinks: newest.map(|newest| newest.sinks.clone()).unwrap_or_default(),
        restart: newest.and_then(|newest| newest.restart.clone()),
        state: newest.map(|newest| newest.state.clone()).unwrap_or_default(),
        models: newest.map(|newest| newest.models.clone()).unwrap_or_default(),
        schedule: newest.map(|newest| newest.schedule.clone()).unwrap_or_default(),
        sql_fingerprint: newest.map(|newest| newest.sql_fingerprint.clone()).unwrap_or_default(),
        written_at,
        writer,
    }
}

/// Whether a claim whose creation succeeded holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimDecision {
    /// It is the newest manifest: its writer may write.
    Holds,
    /// There is a newer one: another writer claimed after us, or we slept for so long between listing and creating that
    /// the name had been deleted, and our manifest stands where nobody looks. Never write after it.
    Superseded,
}

/// Judges a claim by a listing made after its creation.
#[must_use]
pub fn judge_claim(claim: ManifestNumber, listed: &BTreeSet<ManifestNumber>) -> ClaimDecision {
    match listed.last() {
        Some(newest) if *newest > claim => ClaimDecision::Superseded,
        Some(_) | None => ClaimDecision::Holds,
    }
}

/// The checkpoint that follows `last`, the writer's own last manifest. Progress that goes back is a bug of the driver:
/// after a restart it publishes nothing before it has read up to the offset of the manifest that it started from.
pub fn checkpoint_after(last: &Manifest, progress: Progress, signature: Signature) -> Result<Manifest> {
    refuse_going_back(last, &progress).map_err(|problem| {
        Error::internal(format!("a checkpoint of {} after number {}: {problem}", last.unit, last.number))
    })?;
    let Signature { pipeline, writer, written_at } = signature;
    Ok(Manifest {
        version: MANIFEST_VERSION,
        pipeline,
        unit: last.unit.clone(),
        number: last.number.next(),
        generation: last.generation,
        kind: ManifestKind::Checkpoint,
        predecessor: None,
        num_first_partitions: last.num_first_partitions,
        epoch: Some(progress.epoch),
        offset: Some(progress.offset),
        watermark: progress.watermark,
        sinks: progress.sinks,
        restart: progress.restart,
        state: progress.state,
        models: progress.models,
        schedule: progress.schedule,
        sql_fingerprint: progress.sql_fingerprint,
        written_at,
        writer,
    })
}

fn refuse_going_back(last: &Manifest, progress: &Progress) -> Result<(), String> {
    if let Some(before) = last.offset.filter(|before| progress.offset < *before) {
        return Err(format!("the offset goes back from {before} to {}", progress.offset));
    }
    // I4
    if progress.watermark.get() < last.watermark.get() {
        return Err("the watermark goes back".into());
    }
    match (&last.restart, &progress.restart) {
        (Some(before), Some(now)) if now.offset < before.offset || !now.seen.covers(&before.seen) => {
            return Err("the place to restart from goes back".into());
        }
        (Some(_), None) => return Err("the place to restart from is gone".into()),
        (Some(_), Some(_)) | (None, _) => {}
    }
    for (name, sink) in &progress.sinks {
        let Some(before) = last.sinks.get(name) else { continue };
        if sink.position < before.position {
            return Err(format!("the position of sink {name} goes back from {} to {}", before.position, sink.position));
        }
        let covered = |sink: &SinkProgress| sink.covered.unwrap_or(sink.position);
        if covered(sink) < covered(before) {
            let (before, now) = (covered(before), covered(sink));
            return Err(format!("the files of sink {name} reached to {before}, and now to {now}"));
        }
    }
    Ok(())
}

/// The release that follows `last`. Files that may not have their final names yet come along, for the next writer.
#[must_use]
pub fn release_after(last: &Manifest, are_files_finished: bool, signature: Signature) -> Manifest {
    let Signature { pipeline, writer, written_at } = signature;
    let mut sinks = last.sinks.clone();
    if are_files_finished {
        for sink in sinks.values_mut() {
            sink.files.clear();
        }
    }
    Manifest {
        pipeline,
        number: last.number.next(),
        kind: ManifestKind::Release,
        predecessor: None,
        sinks,
        written_at,
        writer,
        ..last.clone()
    }
}

/// What the attempt to create an object said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It was created.
    Created,
    /// There is one, or somebody is creating it just now (a 409 is both).
    Exists,
    /// Nothing certain: a time-out, a broken connection, an error of the server.
    Unknown,
    /// The store refuses for good: no right to write, no such operation.
    Refused,
}

/// What is found when the object is read after [`CreateOutcome::Exists`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Our bytes.
    Same,
    /// Other bytes.
    Other,
    /// Nothing.
    Absent,
    /// Nothing certain.
    Unknown,
}

/// What to do about a conditional creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateDecision {
    /// The object holds our bytes.
    Ours,
    /// The object holds other bytes: somebody else has the name.
    Taken,
    /// Read the object.
    Read,
    /// Try the same bytes again, later.
    Again,
    /// Give up; the name stays ours to try with the same bytes only.
    GiveUp,
}

/// Decides what follows an attempt to create an object. A doubtful result is resolved by trying the same bytes again, not
/// by reading: that asks the same question, and on a local disk it also repeats the fsync whose failure left the doubt.
#[must_use]
pub fn judge_create(created: CreateOutcome, read: Option<ReadOutcome>, attempts_left: u32) -> CreateDecision {
    let again = if attempts_left > 0 { CreateDecision::Again } else { CreateDecision::GiveUp };
    match (created, read) {
        (CreateOutcome::Created, _) => CreateDecision::Ours,
        (CreateOutcome::Exists, None) => CreateDecision::Read,
        (CreateOutcome::Exists, Some(ReadOutcome::Same)) => CreateDecision::Ours,
        (CreateOutcome::Exists, Some(ReadOutcome::Other)) => CreateDecision::Taken,
        (CreateOutcome::Exists, Some(ReadOutcome::Absent | ReadOutcome::Unknown)) | (CreateOutcome::Unknown, _) => {
            again
        }
        (CreateOutcome::Refused, _) => CreateDecision::GiveUp,
    }
}

/// Where a unit starts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one for each unit that is taken over")]
pub enum Recovery {
    /// No checkpoint was ever made: start as the source's settings say.
    Fresh,
    /// Go on.
    Resume(Resume),
}

/// Where a unit goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Read from here, unless state has to be restored: `smallest`, or the place of `restart`.
    pub offset: Offset,
    /// W before the record at `offset`.
    pub watermark: Watermark,
    /// What was seen of an internal topic below `offset`.
    pub seen: SeenPositions,
    /// The smallest of the manifest's offset and the sinks' positions: state may be restored at or below it.
    pub smallest: Offset,
    /// Of a unit of an internal topic: the place that the manifest names for a restart.
    pub restart: Option<RestartPoint>,
    /// Each sink of the pipeline, and where it is: rows of records below it are not to be given to it again. A sink that
    /// is new starts at `published`.
    pub positions: BTreeMap<String, Offset>,
    /// By sink as `positions`: where the range of a sink's next file begins.
    pub covered: BTreeMap<String, Offset>,
    /// The manifest's offset. No checkpoint before it has been reached.
    pub published: Offset,
    /// The driver's epoch of the manifest.
    pub epoch: Epoch,
    /// Sinks in the manifest that the pipeline no longer has. Where one stood below `published`, the rows between were
    /// not written and will not be.
    pub gone: BTreeMap<String, Offset>,
    /// Snapshots of state, for [`choose_snapshot`].
    pub state: Vec<Snapshot>,
    /// Models that were in use.
    pub models: BTreeMap<String, ModelVersion>,
    /// Which models served which records.
    pub schedule: Vec<Serving>,
    /// Fingerprint of the SQL that was in use.
    pub sql_fingerprint: String,
}

/// Where a unit starts, from its newest manifest and the names of the pipeline's sinks.
#[must_use]
pub fn recover(newest: &Manifest, sinks: &[String]) -> Recovery {
    let (Some(published), Some(epoch)) = (newest.offset, newest.epoch) else { return Recovery::Fresh };
    let (mut offset, mut watermark) = (published, newest.watermark);
    let (mut positions, mut covered) = (BTreeMap::new(), BTreeMap::new());
    for name in sinks {
        let Some(sink) = newest.sinks.get(name) else {
            positions.insert(name.clone(), published);
            covered.insert(name.clone(), published);
            continue;
        };
        positions.insert(name.clone(), sink.position);
        covered.insert(name.clone(), sink.covered.unwrap_or(sink.position));
        if sink.position < offset {
            (offset, watermark) = (sink.position, sink.watermark);
        }
    }
    let smallest = offset;
    let mut seen = SeenPositions::default();
    if let Some(restart) = &newest.restart {
        // Never beyond a sink. What was seen is known there alone, so that is where reading begins.
        (offset, watermark, seen) = (restart.offset, restart.watermark, restart.seen.clone());
    }
    let gone = newest
        .sinks
        .iter()
        .filter(|(name, _)| !positions.contains_key(*name))
        .map(|(name, sink)| (name.clone(), sink.position))
        .collect();
    Recovery::Resume(Resume {
        offset,
        watermark,
        seen,
        smallest,
        restart: newest.restart.clone(),
        positions,
        covered,
        published,
        epoch,
        gone,
        state: newest.state.clone(),
        models: newest.models.clone(),
        schedule: newest.schedule.clone(),
        sql_fingerprint: newest.sql_fingerprint.clone(),
    })
}

/// What retention must know of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ManifestFact {
    /// What it does.
    pub kind: ManifestKind,
    /// Of a claim.
    pub predecessor: Option<Predecessor>,
}

impl ManifestFact {
    /// The fact of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> ManifestFact {
        ManifestFact { kind: manifest.kind, predecessor: manifest.predecessor }
    }

    /// Whether a writer may live that would create this very name: the claim closed it to a writer that did not release.
    fn closes_a_name(self) -> bool {
        match self.kind {
            ManifestKind::Checkpoint | ManifestKind::Release => false,
            ManifestKind::Claim => self.predecessor == Some(Predecessor::MayLive),
        }
    }
}

/// The manifests that may be deleted, ascending: all but the newest `keep` (at least one) and the claims that close a name
/// to a writer that may live. Decided by facts alone that never change, so that a decision stays right however late it is
/// carried out. A manifest of which no fact is known stays.
#[must_use]
pub fn deletable(facts: &BTreeMap<ManifestNumber, Option<ManifestFact>>, keep: usize) -> Vec<ManifestNumber> {
    let num_candidates = facts.len().saturating_sub(keep.max(1));
    facts
        .iter()
        .take(num_candidates)
        .filter(|(_, fact)| fact.is_some_and(|fact| !fact.closes_a_name()))
        .map(|(number, _)| *number)
        .collect()
}

/// What to do about a file that a published manifest commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDecision {
    /// It is staged, and its name is free: move it.
    Move,
    /// It has its name already.
    Done,
    /// Both are there: a copy whose staged file was not yet deleted, or somebody else's file. Compare.
    Compare,
    /// Neither is there.
    Lost,
    /// Something else has its name.
    Foreign,
}

/// Decides about a committed file from the sizes of what is found under its two names.
#[must_use]
pub fn judge_file(expected_bytes: u64, staged_bytes: Option<u64>, named_bytes: Option<u64>) -> FileDecision {
    match (staged_bytes, named_bytes) {
        (_, Some(named)) if named != expected_bytes => FileDecision::Foreign,
        (None, Some(_)) => FileDecision::Done,
        (Some(_), Some(_)) => FileDecision::Compare,
        (Some(staged), None) if staged == expected_bytes => FileDecision::Move,
        (Some(_), None) | (None, None) => FileDecision::Lost,
    }
}

#[cfg(test)]
mod tests;
