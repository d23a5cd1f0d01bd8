//! When a worker's progress becomes durable: sinks prepare while epochs go on, manifests are published off the worker's
//! thread, and staged files get their names. One checkpoint at a time; the next begins when the last is finished.
//!
//! The order is protocol F's: rows acknowledged or stored, then the manifest (that is the commit), then the files' names.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::driver::Driver;
use super::recovery::{Claimed, Wanted, recovered, unclaimed};
use super::restart_points::RestartPoints;
use super::snapshots::Snapshots;
use super::{clock, tasks};
use crate::checkpoint::{
    Checkpoints, ModelVersion, Progress, RestartPoint, ServedModel, Serving, SinkProgress, UnitWriter, schedule_after,
};
use crate::error::{Error, Result};
use crate::observe::metrics::WorkerMetrics;
use crate::pipeline::settings::Backfill;
use crate::sink::{PrepareRequest, PreparedUnit};
use crate::source::StartAt;
use crate::types::{Assignment, Epoch, Offset, StateUnit, Watermark};

/// First pause before a store that did not answer is tried again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// After this long, attempts and pauses together, the worker gives up; the next start goes on from the last manifest.
const RETRY_LIMIT: Duration = Duration::from_secs(300);

/// A partition without news is published this often all the same: so its writer learns that somebody has taken its place.
const QUIET_LIMIT: Duration = Duration::from_secs(10);

/// What of a unit belongs to a checkpoint in progress.
#[derive(Debug, Clone)]
struct UnitProgress {
    assignment: Assignment,
    processed: Offset,
    watermark: Watermark,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Sinks are making durable what was written up to `units`.
    Preparing {
        started: Instant,
        epoch: Epoch,
        units: Vec<UnitProgress>,
        prepared: Vec<Option<Vec<PreparedUnit>>>,
    },
    /// Manifests are on their way.
    Publishing {
        started: Instant,
        task: JoinHandle<Vec<Publication>>,
    },
}

/// What became of one unit's manifest. The writer comes back, whatever happened.
#[derive(Debug)]
struct Publication {
    assignment: Assignment,
    progress: Progress,
    writer: UnitWriter,
    result: Result<()>,
}

/// Publishes the progress of one worker.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    checkpoints: Option<Checkpoints>,
    io: Handle,
    interval: Duration,
    timeout: Duration,
    models: BTreeMap<String, ModelVersion>,
    served: BTreeMap<String, ServedModel>,
    /// By unit: which models served which records, this run included.
    schedules: BTreeMap<Assignment, Vec<Serving>>,
    sql_fingerprint: String,
    writers: BTreeMap<Assignment, UnitWriter>,
    /// What this process published last of each unit, and when.
    latest: BTreeMap<Assignment, (Progress, Instant)>,
    restart_points: RestartPoints,
    state: State,
    due: Instant,
    metrics: WorkerMetrics,
    last: Option<(i64, u64)>,
    /// Snapshots of state, named by the manifests.
    pub(crate) snapshots: Snapshots,
    /// What of the state is rebuilt from the log.
    backfill: Backfill,
}

/// What a [`Checkpointer`] is made of.
#[derive(Debug)]
pub(crate) struct CheckpointerParts {
    pub(crate) checkpoints: Option<Checkpoints>,
    pub(crate) io: Handle,
    pub(crate) interval: Duration,
    pub(crate) snapshot_interval: Duration,
    pub(crate) timeout: Duration,
    /// The models that serve.
    pub(crate) served: BTreeMap<String, ServedModel>,
    pub(crate) sql_fingerprint: String,
    pub(crate) backfill: Backfill,
    pub(crate) metrics: WorkerMetrics,
}

impl Checkpointer {
    pub(crate) fn new(parts: CheckpointerParts) -> Checkpointer {
        let CheckpointerParts { checkpoints, io, interval, snapshot_interval, timeout, .. } = parts;
        let folder = checkpoints.as_ref().map(|checkpoints| checkpoints.folder().clone());
        Checkpointer {
            snapshots: Snapshots::new(folder, io.clone(), snapshot_interval, parts.metrics.clone()),
            checkpoints,
            io,
            interval,
            timeout,
            models: parts.served.iter().map(version_of).collect(),
            served: parts.served,
            schedules: BTreeMap::new(),
            sql_fingerprint: parts.sql_fingerprint,
            writers: BTreeMap::new(),
            latest: BTreeMap::new(),
            restart_points: RestartPoints::default(),
            state: State::Idle,
            due: clock::now() + interval,
            metrics: parts.metrics,
            last: None,
            backfill: parts.backfill,
        }
    }

    /// Whether acknowledgements are outstanding, so that the worker should look again soon.
    pub(crate) fn is_preparing(&self) -> bool {
        !matches!(self.state, State::Idle) || self.snapshots.is_busy()
    }

    /// When the next checkpoint or snapshot begins; `None` while one is in progress, or when there are none.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let checkpoint = (self.checkpoints.is_some() && matches!(self.state, State::Idle)).then_some(self.due);
        checkpoint.into_iter().chain(self.snapshots.next_due()).min()
    }

    /// When the last checkpoint was published (milliseconds since 1970) and how long it took (milliseconds).
    pub(crate) fn last(&self) -> (Option<i64>, Option<u64>) {
        (self.last.map(|(at, _)| at), self.last.map(|(_, millis)| millis))
    }

    /// Claims units and says where each starts; finishes what their last manifests began.
    pub(crate) fn claim(
        &mut self,
        units: &[(Assignment, StateUnit)],
        wanted: &Wanted,
        num_partitions: impl Fn(&StateUnit) -> Option<u32>,
    ) -> Result<Vec<Claimed>> {
        let Some(checkpoints) = self.checkpoints.clone() else {
            return Ok(units.iter().map(|(assignment, unit)| unclaimed(*assignment, unit)).collect());
        };
        let claims = units.iter().map(|(_, unit)| checkpoints.claim_of(unit, num_partitions(unit)));
        let results = self.io.block_on(join_all(claims));
        let mut claimed = Vec::with_capacity(units.len());
        let mut verdict = Ok(());
        for ((assignment, unit), result) in units.iter().zip(results) {
            let claim = result.and_then(|(writer, recovery)| {
                let generation = writer.generation();
                let is_added = checkpoints.is_added(&writer);
                let num_first_partitions = writer.num_first_partitions();
                self.writers.insert(*assignment, writer);
                let mut claim = recovered(*assignment, unit, recovery, wanted, self.backfill)?;
                claim.num_first_partitions = num_first_partitions;
                claim.generation = Some(generation);
                if claim.published.is_none() {
                    // Its first position is stored at once: until then a crash would have the settings resolved again.
                    self.due = clock::now();
                    if is_added {
                        claim.start = StartAt::Beginning;
                    }
                }
                Ok(claim)
            });
            match claim {
                Ok(claim) => claimed.push(claim),
                Err(error) => verdict = verdict.and(Err(error.context(format!("claiming {unit}")))),
            }
        }
        if verdict.is_err() {
            // So that one who tries again and again does not leave a claim each time; the first error is the one to report.
            let assignments: Vec<Assignment> = units.iter().map(|(assignment, _)| *assignment).collect();
            drop(self.release(&assignments));
        }
        verdict.map(|()| claimed)
    }

    /// Says from which record on the models of this run serve a unit, after those of `schedule`.
    pub(crate) fn serve_from(&mut self, assignment: Assignment, schedule: Vec<Serving>, from: Offset) {
        self.schedules.insert(assignment, schedule_after(schedule, from, &self.served));
    }

    /// Says that other models serve, of each unit from a record on.
    pub(crate) fn serve(&mut self, served: BTreeMap<String, ServedModel>, begins: &[(Assignment, Offset)]) {
        self.models = served.iter().map(version_of).collect();
        self.served = served;
        for (assignment, from) in begins {
            let schedule = self.schedules.remove(assignment).unwrap_or_default();
            self.serve_from(*assignment, schedule, *from);
        }
    }

    /// Says where a unit of an internal topic starts.
    pub(crate) fn start_at(&mut self, assignment: Assignment, point: RestartPoint) {
        self.restart_points.note(assignment, point);
    }

    /// Moves the checkpoint in progress on, or begins one that is due. Never waits.
    pub(crate) fn tick(&mut self, driver: &mut Driver) -> Result<()> {
        self.snapshots.tick(driver)?;
        match &mut self.state {
            State::Idle if self.checkpoints.is_some() && clock::now() >= self.due => self.begin(driver, Vec::new()),
            State::Idle => Ok(()),
            State::Preparing { .. } => self.collect(driver),
            State::Publishing { task, .. } if task.is_finished() => self.conclude(driver),
            State::Publishing { .. } => Ok(()),
        }
    }

    /// Takes the snapshots of `units`, and publishes all that was written, with the buffers of `units` closed. Waits, at most
    /// for the stop's time-out.
    pub(crate) fn close(&mut self, driver: &mut Driver, units: &[Assignment]) -> Result<()> {
        let deadline = clock::now() + self.timeout;
        // Half of the time is for what must be published: without the snapshots the next start only takes longer.
        self.snapshots.close(driver, units, clock::now() + self.timeout / 2)?;
        self.complete(driver, deadline)?;
        self.begin(driver, units.to_vec())?;
        self.complete(driver, deadline)
    }

    fn complete(&mut self, driver: &mut Driver, deadline: Instant) -> Result<()> {
        loop {
            match &mut self.state {
                State::Idle => return Ok(()),
                State::Preparing { .. } => self.collect(driver)?,
                State::Publishing { task, .. } if task.is_finished() => self.conclude(driver)?,
                State::Publishing { .. } => {}
            }
            if matches!(self.state, State::Idle) {
                return Ok(());
            }
            if clock::now() >= deadline {
                let what = match self.state {
                    State::Publishing { .. } => "the checkpoint was not published",
                    State::Idle | State::Preparing { .. } => "sinks did not acknowledge all rows",
                };
                return Err(Error::unavailable(format!(
                    "{what} within {:?}; the next start goes on from the last manifest",
                    self.timeout
                )));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn begin(&mut self, driver: &mut Driver, close: Vec<Assignment>) -> Result<()> {
        self.raise_to_manifests(driver);
        // A unit that went back for a slower sink publishes nothing before it has caught up with its manifest.
        let held = || driver.units.iter().filter(|(_, held)| held.published <= Some(held.processed));
        let units: Vec<UnitProgress> = held()
            .map(|(assignment, held)| UnitProgress {
                assignment,
                processed: held.processed,
                watermark: driver.sources[held.source].decoder.watermark(assignment),
            })
            .collect();
        for (assignment, held) in held() {
            let decoder = &driver.sources[held.source].decoder;
            if let Some(seen) = decoder.seen(assignment) {
                let (offset, watermark) = (held.processed, decoder.watermark(assignment));
                self.restart_points.note(assignment, RestartPoint { offset, watermark, seen });
            }
        }
        let upto = held().map(|(assignment, held)| (assignment, held.processed, held.unit.clone())).collect();
        let request = PrepareRequest { upto, close };
        let mut prepared = Vec::new();
        for lane in driver.all_sinks() {
            lane.sink.begin_prepare(request.clone()).map_err(|error| error.context(format!("sink {}", lane.name)))?;
            prepared.push(None);
        }
        self.state = State::Preparing { started: clock::now(), epoch: driver.epoch, units, prepared };
        self.collect(driver)
    }

    /// State that was rebuilt from a log whose beginning is gone may come with a lower W than the manifest's, and with less that
    /// was seen of an internal topic: neither moves back (I4).
    fn raise_to_manifests(&self, driver: &mut Driver) {
        let caught_up = driver.units.iter().filter(|(_, held)| held.published <= Some(held.processed));
        for (assignment, held) in caught_up {
            let decoder = &mut driver.sources[held.source].decoder;
            let known = self.writers.get(&assignment).map_or(Watermark::NONE, UnitWriter::watermark);
            if decoder.watermark(assignment).get() < known.get() {
                decoder.set_watermark(assignment, known);
            }
            let restart = self.writers.get(&assignment).and_then(UnitWriter::restart);
            if let (Some(restart), Some(mut seen)) = (restart, decoder.seen(assignment))
                && !seen.covers(&restart.seen)
            {
                seen.merge(&restart.seen);
                decoder.set_seen(assignment, seen);
            }
        }
    }

    /// Asks the sinks; when all are done, sends the manifests on their way.
    fn collect(&mut self, driver: &mut Driver) -> Result<()> {
        let State::Preparing { started, epoch, units, prepared } = &mut self.state else { return Ok(()) };
        for (lane, slot) in driver.all_sinks().zip(prepared.iter_mut()) {
            if slot.is_none() {
                *slot = lane.sink.poll_prepared().map_err(|error| error.context(format!("sink {}", lane.name)))?;
            }
        }
        if prepared.iter().any(Option::is_none) {
            return Ok(());
        }
        let (started, epoch) = (*started, *epoch);
        let units = std::mem::take(units);
        let prepared: Vec<Vec<PreparedUnit>> = std::mem::take(prepared).into_iter().flatten().collect();
        let names: Vec<String> = driver.all_sinks().map(|lane| lane.name.clone()).collect();
        let mut jobs = Vec::with_capacity(units.len());
        for unit in units {
            let sinks: BTreeMap<String, SinkProgress> =
                names.iter().zip(&prepared).map(|(name, units)| (name.clone(), sink_progress(units, &unit))).collect();
            let smallest = sinks.values().map(|sink| sink.position).min().unwrap_or(unit.processed);
            let progress = Progress {
                epoch,
                offset: unit.processed,
                watermark: unit.watermark,
                sinks,
                restart: self.restart_points.at_or_below(unit.assignment, smallest.min(unit.processed)),
                state: self.snapshots.named(unit.assignment, smallest, unit.processed),
                models: self.models.clone(),
                schedule: self.schedules.get(&unit.assignment).cloned().unwrap_or_default(),
                sql_fingerprint: self.sql_fingerprint.clone(),
            };
            let is_fresh =
                |(latest, at): &(Progress, Instant)| says_the_same(latest, &progress) && at.elapsed() < QUIET_LIMIT;
            if self.latest.get(&unit.assignment).is_some_and(is_fresh) {
                // Its manifest holds as it is: a quiet partition costs few requests.
                continue;
            }
            // Units that were lost meanwhile have no writer any more: nothing of theirs is published.
            let Some(writer) = self.writers.remove(&unit.assignment) else { continue };
            jobs.push((unit.assignment, writer, progress));
        }
        let (io, metrics) = (self.io.clone(), self.metrics.clone());
        let task = tasks::spawn_blocking(&self.io, move || {
            let publish = |(assignment, writer, progress)| publish(assignment, writer, progress, metrics.clone());
            io.block_on(join_all(jobs.into_iter().map(publish)))
        });
        self.state = State::Publishing { started, task };
        Ok(())
    }

    /// Takes the result of the manifests; waits for it when it is not there yet.
    fn conclude(&mut self, driver: &mut Driver) -> Result<()> {
        let State::Publishing { started, task } = &mut self.state else { return Ok(()) };
        let started = *started;
        let publications = self
            .io
            .block_on(task)
            .map_err(|error| Error::internal("publishing a checkpoint panicked").with_source(error))?;
        self.state = State::Idle;
        self.due = started + self.interval;
        let mut verdict = Ok(());
        for publication in publications {
            let Some(held) = driver.units.get_mut(publication.assignment) else { continue };
            self.writers.insert(publication.assignment, publication.writer);
            match publication.result {
                Ok(()) => {
                    held.published = Some(publication.progress.offset);
                    self.latest.insert(publication.assignment, (publication.progress, clock::now()));
                }
                Err(error) => {
                    self.metrics.checkpoints_failed.increment(1);
                    verdict = Err(error.context(format!("publishing {}", held.unit)));
                }
            }
        }
        verdict?;
        let took = started.elapsed();
        self.metrics.checkpoints_ok.increment(1);
        self.metrics.checkpoint_duration.record(took.as_secs_f64());
        let now = clock::wall_millis();
        self.metrics.checkpoint_time.set(now as f64 / 1e3);
        self.last = Some((now, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        Ok(())
    }

    /// Says that no writer of these units lives here any more.
    pub(crate) fn release(&mut self, assignments: &[Assignment]) -> Result<()> {
        self.latest.retain(|assignment, _| !assignments.contains(assignment));
        self.snapshots.forget(assignments);
        self.restart_points.forget(assignments);
        let writers: Vec<UnitWriter> =
            assignments.iter().filter_map(|assignment| self.writers.remove(assignment)).collect();
        for result in self.io.block_on(join_all(writers.into_iter().map(UnitWriter::release))) {
            result?;
        }
        Ok(())
    }

    /// Drops the claims of units that are somebody else's now, without a word to the store: the new owner's claim fences us.
    pub(crate) fn forget(&mut self, assignments: &[Assignment]) {
        self.snapshots.forget(assignments);
        self.restart_points.forget(assignments);
        for assignment in assignments {
            self.writers.remove(assignment);
            self.schedules.remove(assignment);
            self.latest.remove(assignment);
        }
    }
}

fn version_of((name, model): (&String, &ServedModel)) -> (String, ModelVersion) {
    (name.clone(), ModelVersion { version: model.version.clone(), sha256: model.sha256.clone() })
}

fn sink_progress(units: &[PreparedUnit], unit: &UnitProgress) -> SinkProgress {
    match units.iter().find(|prepared| prepared.assignment == unit.assignment) {
        Some(prepared) => SinkProgress {
            position: prepared.position,
            watermark: prepared.watermark.unwrap_or(unit.watermark),
            covered: prepared.covered,
            files: prepared.files.clone(),
        },
        None => SinkProgress { position: unit.processed, watermark: unit.watermark, covered: None, files: Vec::new() },
    }
}

/// Whether a manifest of `next` would say what that of `latest` says, but for the epoch, and name no new file.
fn says_the_same(latest: &Progress, next: &Progress) -> bool {
    let is_quiet = next.sinks.values().all(|sink| sink.files.is_empty());
    let positions = |progress: &Progress| -> Vec<(Offset, Watermark)> {
        progress.sinks.values().map(|sink| (sink.position, sink.watermark)).collect()
    };
    is_quiet
        && (latest.offset, latest.watermark) == (next.offset, next.watermark)
        && positions(latest) == positions(next)
        && (&latest.models, &latest.schedule, &latest.sql_fingerprint, &latest.state)
            == (&next.models, &next.schedule, &next.sql_fingerprint, &next.state)
}

/// Publishes and finishes one unit's checkpoint. While the store is unavailable it tries again, with the same bytes: epochs
/// go on meanwhile, only the checkpoint is late.
async fn publish(
    assignment: Assignment,
    mut writer: UnitWriter,
    progress: Progress,
    metrics: WorkerMetrics,
) -> Publication {
    let mut patience = Patience::new(metrics);
    let result = async {
        let published = loop {
            match writer.publish(&progress).await {
                Ok(published) => break published,
                Err(error) => patience.wait(&writer, error).await?,
            }
        };
        while let Err(error) = writer.finish(&published).await {
            patience.wait(&writer, error).await?;
        }
        // Old manifests hurt nobody: the next checkpoint tries again.
        if let Err(error) = writer.retain().await {
            tracing::warn!(unit = %writer.unit(), %error, "old manifests could not be deleted");
        }
        Ok(())
    }
    .await;
    Publication { assignment, progress, writer, result }
}

/// How often and how long a store that does not answer is waited for.
struct Patience {
    pause: Duration,
    began: Instant,
    metrics: WorkerMetrics,
}

impl Patience {
    fn new(metrics: WorkerMetrics) -> Patience {
        Patience { pause: RETRY_PAUSE_MIN, began: clock::now(), metrics }
    }

    /// Waits before the next attempt, or gives the error back when another attempt cannot help or time is up.
    async fn wait(&mut self, writer: &UnitWriter, error: Error) -> Result<()> {
        self.metrics.checkpoints_failed.increment(1);
        if !error.kind().is_retryable() || self.began.elapsed() >= RETRY_LIMIT {
            return Err(error);
        }
        tracing::warn!(unit = %writer.unit(), %error, "a checkpoint could not be published; trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        Ok(())
    }
}
