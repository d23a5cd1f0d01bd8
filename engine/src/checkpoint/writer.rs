//! The thin shell around `protocol`: reads facts, asks for the decision, carries it out. One [`Checkpoints`] per process,
//! one [`UnitWriter`] per assigned state unit; units are independent of each other and may be written at the same time.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::checkpoint::finish::{CommitPermit, finish_files};
use crate::checkpoint::layout::{
    PIPELINE_FILE, UNITS_FOLDER, manifest_name, manifest_path, manifests_folder, parse_manifest_name,
    parse_manifest_path, staging_folder,
};
use crate::checkpoint::manifest::{
    MANIFEST_BYTES_MAX, Manifest, ManifestKind, ManifestNumber, PIPELINE_FILE_VERSION, PipelineFile, RestartPoint,
    WriterIdentity,
};
use crate::checkpoint::protocol::{
    ClaimDecision, ManifestFact, Progress, Recovery, Signature, checkpoint_after, claim_after, deletable, files_let_go,
    judge_claim, recover, release_after,
};
use crate::checkpoint::state::delete_left_behind;
use crate::checkpoint::store::{Created, Folder, Stores, check_conditional_create};
use crate::error::{Error, Result};
use crate::sink::StagedFile;
use crate::types::{Generation, Offset, StateUnit, Watermark};

pub use settings::{CheckpointSettings, WallClock};

/// Claims are lost only to other claims and to a checkpoint that was faster, so a few attempts are many.
const CLAIM_ATTEMPTS_MAX: usize = 32;
/// Manifests of others whose kind retention reads in one go; the rest waits for its next turn.
const FACTS_READ_MAX: usize = 64;

/// A pipeline's checkpoint path, open for writing. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: CheckpointSettings,
    stores: Stores,
    folder: Folder,
    pipeline_id: String,
    /// Where sinks stage files: (the sink's folder, whose they are).
    staging: Mutex<Vec<(Folder, String)>>,
    /// The units that had manifests when the path was opened.
    known: BTreeSet<StateUnit>,
}

impl Checkpoints {
    /// Opens the path: tests the store, and makes the path this pipeline's, or finds that it is. Another pipeline's path
    /// is refused.
    pub async fn open(stores: &Stores, settings: CheckpointSettings) -> Result<Checkpoints> {
        let folder = stores.open(&settings.path)?;
        check_conditional_create(&folder, &settings.retry).await?;
        let ours = PipelineFile {
            version: PIPELINE_FILE_VERSION,
            name: settings.pipeline.clone(),
            id: uuid::Uuid::new_v4().to_string(),
            created_at: timestamp(&settings.clock),
        };
        let pipeline_id = match folder
            .create(PIPELINE_FILE, &ours.to_bytes()?, MANIFEST_BYTES_MAX, &settings.retry)
            .await?
        {
            Created::Ours => ours.id,
            Created::Taken(bytes) => {
                let place = folder.place(PIPELINE_FILE);
                let there = PipelineFile::from_bytes(&bytes, &place)?;
                if there.name != settings.pipeline {
                    return Err(Error::invalid(format!(
                        "{place}: this checkpoint path belongs to pipeline `{}`, not to `{}`: give each pipeline a path of its own",
                        there.name, settings.pipeline
                    )));
                }
                there.id
            }
        };
        let listed = folder.list(UNITS_FOLDER).await?;
        let known =
            listed.iter().filter_map(|object| parse_manifest_path(&object.name)).map(|(unit, _)| unit).collect();
        Ok(Checkpoints {
            shared: Arc::new(Shared {
                settings,
                stores: stores.clone(),
                folder,
                pipeline_id,
                staging: Mutex::default(),
                known,
            }),
        })
    }

    /// The checkpoint's folder, where files of state are.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    /// Whether a unit that `writer` claimed is a partition that was added after the pipeline's first start on its topic. It
    /// starts at its beginning, whatever the settings say of a first start. That others of its topic were claimed before it
    /// says nothing: a first start may have failed half-way. Only of a topic whose number of partitions nobody knew then
    /// (an engine before this one) is it taken for that.
    #[must_use]
    pub fn is_added(&self, writer: &UnitWriter) -> bool {
        let unit = writer.unit();
        match writer.last.num_first_partitions {
            Some(number) => i64::from(unit.partition) >= i64::from(number),
            None => writer.generation() == Generation::FIRST && self.shared.known_of_topic(unit).next().is_some(),
        }
    }

    /// The stores that files are finished in.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.shared.stores
    }

    /// The pipeline's random identity: the same for all its processes and runs on this path.
    #[must_use]
    pub fn pipeline_id(&self) -> &str {
        &self.shared.pipeline_id
    }

    /// Says where a sink stages files: from now on a claim deletes what earlier writers of the unit left there.
    pub fn register_staging(&self, folder: &Folder, owner: &str) {
        let mut staging = self.shared.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if !staging.iter().any(|known| known.0.uri() == folder.uri() && known.1 == owner) {
            staging.push((folder.clone(), owner.to_owned()));
        }
    }

    /// Makes this process the unit's writer, finishes what the writer before had committed, and says where to start.
    /// After `Ok` no older generation publishes. Dropped or failed midway, it has at most taken the unit from others, who
    /// notice; nothing is lost, and it may be called again.
    pub async fn claim(&self, unit: &StateUnit) -> Result<(UnitWriter, Recovery)> {
        self.claim_of(unit, None).await
    }

    /// [`Checkpoints::claim`] of a unit whose topic has `num_partitions` now: should this be the pipeline's first start on the
    /// topic, that is kept, so that partitions that are added later can be told from those that it had.
    pub async fn claim_of(&self, unit: &StateUnit, num_partitions: Option<u32>) -> Result<(UnitWriter, Recovery)> {
        let shared = &self.shared;
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let listed = shared.list(unit).await?;
            let newest = match listed.last() {
                None => None,
                Some(number) => match shared.read(unit, *number).await? {
                    // Its writer went on and deleted it while we looked: look again.
                    None => continue,
                    newest => newest,
                },
            };
            // A writer of its own for each attempt: two tasks of one process must never write the same bytes.
            let writer = WriterIdentity::new(shared.settings.host.as_str());
            let num_first_partitions = match &newest {
                None => shared.num_first_partitions(unit, num_partitions).await?,
                Some(_) => None,
            };
            let claim = claim_after(newest.as_ref(), unit, num_first_partitions, shared.signature(&writer));
            match shared.create(&claim, &claim.to_bytes()?).await? {
                Created::Ours => {}
                Created::Taken(_) => continue,
            }
            let listed = shared.list(unit).await?;
            match judge_claim(claim.number, &listed) {
                ClaimDecision::Superseded => continue,
                ClaimDecision::Holds => {}
            }
            return self.take_over(claim, listed).await;
        }
        Err(Error::unavailable(format!(
            "cannot claim {unit}: {CLAIM_ATTEMPTS_MAX} times another writer was faster; are two processes given the same partition?"
        )))
    }

    /// Where a unit would go on, without claiming it: `None` when nothing was ever published of it.
    pub async fn restart_offset(&self, unit: &StateUnit) -> Result<Option<Offset>> {
        while let Some(newest) = self.shared.list(unit).await?.last() {
            if let Some(newest) = self.shared.read(unit, *newest).await? {
                return Ok(match recover(&newest, &self.shared.settings.sinks) {
                    Recovery::Fresh => None,
                    Recovery::Resume(resume) => Some(resume.offset),
                });
            }
        }
        Ok(None)
    }

    /// What follows a claim that holds.
    async fn take_over(&self, claim: Manifest, listed: BTreeSet<ManifestNumber>) -> Result<(UnitWriter, Recovery)> {
        let recovery = recover(&claim, &self.shared.settings.sinks);
        let files: Vec<StagedFile> = claim.files().cloned().collect();
        let mut facts: BTreeMap<_, _> = listed.into_iter().map(|number| (number, None)).collect();
        facts.insert(claim.number, Some(ManifestFact::of(&claim)));
        let unfinished = !files.is_empty();
        let shared = Arc::clone(&self.shared);
        let mut writer = UnitWriter { shared, last: claim, pending: None, unfinished, facts, let_go: Vec::new() };
        if let Err(error) = finish_files(self.stores(), &files, &CommitPermit::of_manifest()).await {
            let error = error.context(format!("recovery of {}", writer.unit()));
            // So that one who tries again and again does not leave one claim each time; the error is the one to report.
            drop(writer.release().await);
            return Err(error);
        }
        writer.unfinished = false;
        self.shared.sweep(writer.unit()).await;
        if let Err(error) = delete_left_behind(&self.shared.folder, &writer.last).await {
            tracing::warn!(unit = %writer.unit(), %error, "files of state of an earlier writer could not be deleted");
        }
        Ok((writer, recovery))
    }
}

impl Shared {
    fn signature(&self, writer: &WriterIdentity) -> Signature {
        Signature {
            pipeline: self.pipeline_id.clone(),
            writer: writer.clone(),
            written_at: timestamp(&self.settings.clock),
        }
    }

    /// Deletes what earlier writers of the unit staged. All that was committed has its final name by now, and who might
    /// still stage something can no longer commit it. What cannot be deleted is waste, and left to the next claim.
    async fn sweep(&self, unit: &StateUnit) {
        let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (folder, owner) in staging {
            let sweep = async {
                for object in folder.list(&staging_folder(&owner, unit)).await? {
                    folder.delete(&object.name).await?;
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = sweep.await {
                tracing::warn!(%unit, %error, "staged files of an earlier writer could not be deleted");
            }
        }
    }

    /// The units of `unit`'s topic that had manifests when the path was opened.
    fn known_of_topic(&self, unit: &StateUnit) -> impl Iterator<Item = &StateUnit> {
        let (source, topic) = (unit.source.clone(), unit.topic.clone());
        self.known.iter().filter(move |known| known.source == source && known.topic == topic)
    }

    /// What `unit`'s first claim says of its topic: what those of the topic's other units said, or `now` when it is the
    /// topic's first start. Asked for units without a manifest only.
    async fn num_first_partitions(&self, unit: &StateUnit, now: Option<u32>) -> Result<Option<u32>> {
        let mut is_first_start = true;
        for known in self.known_of_topic(unit).filter(|known| *known != unit) {
            is_first_start = false;
            while let Some(newest) = self.list(known).await?.last() {
                match self.read(known, *newest).await? {
                    Some(Manifest { num_first_partitions: Some(number), .. }) => return Ok(Some(number)),
                    Some(_) => break,
                    // Its writer went on and deleted it while we looked: look again.
                    None => {}
                }
            }
        }
        Ok(now.filter(|_| is_first_start))
    }

    async fn list(&self, unit: &StateUnit) -> Result<BTreeSet<ManifestNumber>> {
        let folder = manifests_folder(unit);
        let listed = self.folder.list(&folder).await?;
        let number = |name: &str| parse_manifest_name(name.strip_prefix(folder.as_str())?.strip_prefix('/')?);
        Ok(listed.iter().filter_map(|object| number(&object.name)).collect())
    }

    async fn read(&self, unit: &StateUnit, number: ManifestNumber) -> Result<Option<Manifest>> {
        let name = manifest_path(unit, number);
        let Some(bytes) = self.folder.read(&name, MANIFEST_BYTES_MAX).await? else { return Ok(None) };
        Manifest::from_bytes(&bytes, &self.folder.place(&name), Some(&self.pipeline_id), unit, number).map(Some)
    }

    async fn create(&self, manifest: &Manifest, bytes: &Bytes) -> Result<Created> {
        let name = manifest_path(&manifest.unit, manifest.number);
        self.folder.create(&name, bytes, MANIFEST_BYTES_MAX, &self.settings.retry).await
    }
}

fn timestamp(clock: &WallClock) -> String {
    DateTime::<Utc>::from(clock()).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A manifest that is in the store. Only a publication makes one; it is the permit to finish the files it names.
#[derive(Debug)]
#[must_use = "its files are not visible before `finish`"]
pub struct Published {
    number: ManifestNumber,
    offset: Offset,
    files: Vec<StagedFile>,
    permit: CommitPermit,
}

impl Published {
    /// The manifest's number.
    #[must_use]
    pub fn number(&self) -> ManifestNumber {
        self.number
    }

    /// Its offset: may now be reported to the outer system.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }
}

/// The right to write a unit's manifests, as one generation. There is no way to have two manifests of one number, or to
/// publish before the files of the one before are finished.
#[derive(Debug)]
pub struct UnitWriter {
    shared: Arc<Shared>,
    /// The last manifest of ours.
    last: Manifest,
    /// A manifest of which it is not known whether it was created: these bytes, and no others, may be tried again.
    pending: Option<(Manifest, Bytes)>,
    /// Whether files of `last` may not have their final names yet.
    unfinished: bool,
    /// All manifests of the unit that are known, and what retention must know of them.
    facts: BTreeMap<ManifestNumber, Option<ManifestFact>>,
    /// Files of state that manifests of ours named once and the last one does not.
    let_go: Vec<String>,
}

impl UnitWriter {
    /// The unit.
    #[must_use]
    pub fn unit(&self) -> &StateUnit {
        &self.last.unit
    }

    /// Our generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.last.generation
    }

    /// Number of the last manifest of ours.
    #[must_use]
    pub fn number(&self) -> ManifestNumber {
        self.last.number
    }

    /// Number of partitions that the unit's topic had when the pipeline first started on it, where that is known.
    #[must_use]
    pub fn num_first_partitions(&self) -> Option<u32> {
        self.last.num_first_partitions
    }

    /// The offset of the last manifest. After a restart reading may begin below it; nothing is published (and no sink
    /// asked to prepare) before it has been reached.
    #[must_use]
    pub fn published(&self) -> Option<Offset> {
        self.last.offset
    }

    /// The place that the last manifest names for a restart.
    #[must_use]
    pub fn restart(&self) -> Option<&RestartPoint> {
        self.last.restart.as_ref()
    }

    /// W of the last manifest.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        self.last.watermark
    }

    /// Publishes a checkpoint. `Ok`: it is committed; call [`UnitWriter::finish`] next. `Fenced`: another writer has the
    /// unit; nothing was committed. `Unavailable`: not known; call again with the same progress, or stop (what starts
    /// next finds out). Dropped midway: as `Unavailable`.
    pub async fn publish(&mut self, progress: &Progress) -> Result<Published> {
        if self.unfinished {
            return Err(Error::internal(format!(
                "{}: published before the files of number {} were finished",
                self.last.unit, self.last.number
            )));
        }
        let mut manifest = checkpoint_after(&self.last, progress.clone(), self.shared.signature(&self.last.writer))?;
        if let Some((pending, _)) = &self.pending {
            manifest.written_at.clone_from(&pending.written_at);
            if manifest != *pending {
                return Err(Error::internal(format!(
                    "{}: other progress was to be published while it is not known whether number {} exists",
                    pending.unit, pending.number
                )));
            }
        }
        self.pending = Some((manifest.clone(), manifest.to_bytes()?));
        self.create_pending().await?;
        self.unfinished = self.last.files().next().is_some();
        let files: Vec<StagedFile> = self.last.files().cloned().collect();
        let offset = self.last.offset.ok_or_else(|| Error::internal("a checkpoint has no offset"))?;
        Ok(Published { number: self.last.number, offset, files, permit: CommitPermit::of_manifest() })
    }

    /// Creates the pending manifest, if there is one; when it is there, it is our last.
    async fn create_pending(&mut self) -> Result<()> {
        let Some((manifest, bytes)) = &self.pending else { return Ok(()) };
        match self.shared.create(manifest, bytes).await? {
            Created::Ours => {
                self.facts.insert(manifest.number, Some(ManifestFact::of(manifest)));
                if let Some((manifest, _)) = self.pending.take() {
                    self.let_go.extend(files_let_go(&self.last.state, &manifest.state));
                    self.last = manifest;
                }
                Ok(())
            }
            Created::Taken(there) => Err(self.fenced(manifest, &there)),
        }
    }

    fn fenced(&self, ours: &Manifest, there: &[u8]) -> Error {
        let place = self.shared.folder.place(&manifest_path(&ours.unit, ours.number));
        let by = match Manifest::from_bytes(there, &place, None, &ours.unit, ours.number) {
            Ok(there) => format!("generation {}, {}, at {}", there.generation, there.writer, there.written_at),
            Err(_) => "it cannot be read".into(),
        };
        Error::fenced(format!(
            "{}: another writer has taken over: number {} exists at {place} ({by}); this one, generation {}, stops and has committed nothing after number {}",
            ours.unit, ours.number, ours.generation, self.last.number
        ))
    }

    /// Gives the files of a published checkpoint their final names. May be called again after an error.
    pub async fn finish(&mut self, published: &Published) -> Result<()> {
        finish_files(&self.shared.stores, &published.files, &published.permit)
            .await
            .map_err(|error| error.context(format!("commit of {} number {}", self.last.unit, published.number)))?;
        if published.number == self.last.number {
            self.unfinished = false;
        }
        Ok(())
    }

    /// Ends our generation: the unit's next writer knows that none of ours lives. A publication whose result was not
    /// known is settled first; files that are not finished are left to the next writer. After an error the next writer
    /// takes over as after a crash.
    pub async fn release(mut self) -> Result<()> {
        if self.pending.is_some() {
            self.create_pending().await?;
            self.unfinished = true;
        }
        let manifest = release_after(&self.last, !self.unfinished, self.shared.signature(&self.last.writer));
        let bytes = manifest.to_bytes()?;
        self.pending = Some((manifest, bytes));
        self.create_pending().await
    }

    /// Deletes manifests, and files of state, that are no longer needed. Returns how many manifests. An error leaves everything usable.
    pub async fn retain(&mut self) -> Result<usize> {
        let keep = self.shared.settings.retain;
        self.read_facts(keep).await?;
        let mut num_deleted = 0;
        for number in deletable(&self.facts, keep) {
            self.shared.folder.delete(&manifest_path(&self.last.unit, number)).await?;
            self.facts.remove(&number);
            num_deleted += 1;
        }
        while let Some(path) = self.let_go.last() {
            self.shared.folder.delete(path).await?;
            self.let_go.pop();
        }
        Ok(num_deleted)
    }

    /// Reads the manifests of earlier writers that are candidates for deletion.
    async fn read_facts(&mut self, keep: usize) -> Result<()> {
        let num_candidates = self.facts.len().saturating_sub(keep.max(1));
        let unknown: Vec<ManifestNumber> = self
            .facts
            .iter()
            .take(num_candidates)
            .filter(|(_, fact)| fact.is_none())
            .map(|(number, _)| *number)
            .take(FACTS_READ_MAX)
            .collect();
        for number in unknown {
            match self.shared.read(&self.last.unit, number).await {
                Ok(Some(manifest)) => {
                    self.facts.insert(number, Some(ManifestFact::of(&manifest)));
                }
                Ok(None) => {
                    self.facts.remove(&number);
                }
                // A damaged one stays, and is not read again: nobody starts from it, and it may close a name.
                Err(error) if !error.kind().is_retryable() => {
                    tracing::warn!(unit = %self.last.unit, manifest = manifest_name(number), %error, "a manifest cannot be read and is kept");
                    self.facts.remove(&number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Kind of the last manifest; for tests and status.
    #[must_use]
    pub fn kind(&self) -> ManifestKind {
        self.last.kind
    }
}

#[cfg(test)]
mod tests;
