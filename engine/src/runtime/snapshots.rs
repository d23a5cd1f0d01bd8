//! Snapshots of the state of a worker's units: taken piece by piece between epochs within a budget of time, encoded and stored
//! off the worker's thread, one unit at a time; and restored when a unit is taken over. A snapshot counts from the manifest
//! that names it; one that cannot be finished is given up, and the pipeline goes on.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use super::driver::Driver;
use super::{clock, tasks};
use crate::checkpoint::layout::snapshot_folder;
use crate::checkpoint::state::{Part, ReadPart, read_state, write_snapshot};
use crate::checkpoint::{Folder, OperatorState, Restore, Snapshot, StateKind, WantedOperator, needed_snapshots};
use crate::error::{Error, Result};
use crate::observe::metrics::WorkerMetrics;
use crate::operator::over_window::{Piece, SnapshotKind};
use crate::plan::Graph;
use crate::types::{Assignment, Generation, Offset, SeenPositions, StateUnit, Watermark};

/// What one turn of the worker may spend on pieces. With the piece that goes over it, a turn stays below 5 ms (`benches/recovery`).
const TURN_BUDGET: Duration = Duration::from_millis(2);
/// Time that one piece should take: a turn is over its budget by one piece at most.
const PIECE_TARGET: Duration = Duration::from_millis(1);
/// Rows of a piece: at the start, and the limits between which they follow [`PIECE_TARGET`].
const PIECE_ROWS: usize = 1024;
const PIECE_ROWS_MIN: usize = 64;
const PIECE_ROWS_MAX: usize = 64 * 1024;
/// Pieces on their way to the store.
const PARTS_AT_ONCE: usize = 4;
/// Deltas after a full snapshot, at most.
const DELTAS_MAX: usize = 10;
/// After a snapshot that failed, at least this long passes before the next.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What a snapshot's writer comes back with; `None` when it was given up.
type Written = Result<Option<BTreeMap<String, OperatorState>>>;

/// What is known of a unit's snapshots.
#[derive(Debug)]
struct UnitSnapshots {
    unit: StateUnit,
    generation: Generation,
    /// Those that are complete, ascending; older ones than any manifest to come needs are gone.
    usable: Vec<Snapshot>,
    /// Whether the last of them was taken here, so that a delta can follow it.
    has_base: bool,
    due: Instant,
}

/// A snapshot in progress.
#[derive(Debug)]
struct Active {
    assignment: Assignment,
    offset: Offset,
    watermark: Watermark,
    seen: SeenPositions,
    kind: StateKind,
    /// Operators to come, with their `meta`.
    left: VecDeque<(WantedOperator, Option<RecordBatch>)>,
    /// The operator whose pieces are being taken.
    current: Option<usize>,
    /// Gone when all pieces are taken.
    parts: Option<Sender<Part>>,
    task: JoinHandle<Written>,
    began: Instant,
}

/// Takes the snapshots of one worker.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// The checkpoint's folder; without one there are no snapshots.
    folder: Option<Folder>,
    io: Handle,
    interval: Duration,
    units: BTreeMap<Assignment, UnitSnapshots>,
    active: Option<Active>,
    /// Writers of snapshots that were given up, on their way out.
    ending: Vec<JoinHandle<Written>>,
    piece_rows: usize,
    metrics: WorkerMetrics,
}

/// The operators of the plan that hold state of a source's units.
pub(crate) fn wanted_operators(graph: &Graph, source: usize) -> Vec<WantedOperator> {
    let operators = graph.operators().iter().enumerate().filter(|(_, info)| info.source == source);
    let wanted = |(index, info): (usize, &crate::plan::OperatorInfo)| WantedOperator {
        index,
        name: info.name.clone(),
        fingerprint: info.fingerprint.clone(),
        keys: info.keys.clone(),
    };
    operators.map(wanted).collect()
}

/// The snapshot of a unit whose first record is still to be read: no operator holds anything.
pub(crate) fn empty_snapshot(offset: Offset, wanted: &[WantedOperator]) -> Vec<Snapshot> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let nothing = |operator: &WantedOperator| {
        let WantedOperator { name, fingerprint, keys, .. } = operator.clone();
        (name, OperatorState { fingerprint, keys, files: Vec::new() })
    };
    let operators = wanted.iter().map(nothing).collect();
    let (watermark, seen) = (Watermark::NONE, SeenPositions::default());
    vec![Snapshot { offset, watermark, seen, kind: StateKind::Full, operators }]
}

/// Which kind the snapshot after `usable` is: a delta costs what changed, but recovery reads all of them.
fn next_kind(usable: &[Snapshot], has_base: bool) -> StateKind {
    let Some(full) = usable.iter().rposition(|snapshot| snapshot.kind == StateKind::Full) else {
        return StateKind::Full;
    };
    let deltas = &usable[full + 1..];
    let delta_bytes: u64 = deltas.iter().map(Snapshot::bytes).sum();
    let is_long = deltas.len() >= DELTAS_MAX || delta_bytes >= usable[full].bytes();
    if !has_base || is_long || usable[full].is_empty() { StateKind::Full } else { StateKind::Delta }
}

/// Rows of the next piece, after one of `rows` that took `took`.
fn next_piece_rows(rows: usize, took: Duration) -> usize {
    let next = if took > PIECE_TARGET {
        rows / 2
    } else if took < PIECE_TARGET / 4 {
        rows * 2
    } else {
        rows
    };
    next.clamp(PIECE_ROWS_MIN, PIECE_ROWS_MAX)
}

impl Snapshots {
    pub(crate) fn new(folder: Option<Folder>, io: Handle, interval: Duration, metrics: WorkerMetrics) -> Snapshots {
        Snapshots {
            folder,
            io,
            interval,
            units: BTreeMap::new(),
            active: None,
            ending: Vec::new(),
            piece_rows: PIECE_ROWS,
            metrics,
        }
    }

    /// Whether pieces are being taken or stored, so that the worker should look again soon.
    pub(crate) fn is_busy(&self) -> bool {
        self.active.is_some()
    }

    /// When the next snapshot is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.active.is_some() { None } else { self.units.values().map(|unit| unit.due).min() }
    }

    /// Takes note of a unit whose state is that of `usable`. One without operators is not for us.
    pub(crate) fn take_over(
        &mut self,
        assignment: Assignment,
        unit: &StateUnit,
        generation: Option<Generation>,
        usable: Vec<Snapshot>,
    ) {
        if let Some(generation) = generation.filter(|_| !usable.is_empty()) {
            let due = clock::now() + self.interval;
            let unit = UnitSnapshots { unit: unit.clone(), generation, usable, has_base: false, due };
            self.units.insert(assignment, unit);
        }
    }

    /// Takes note of a unit whose state came from elsewhere, and is in no snapshot yet.
    pub(crate) fn take_over_loaded(&mut self, assignment: Assignment, unit: &StateUnit, generation: Generation) {
        let due = clock::now() + self.interval;
        let unit = UnitSnapshots { unit: unit.clone(), generation, usable: Vec::new(), has_base: false, due };
        self.units.insert(assignment, unit);
    }

    /// Forgets units that are somebody else's now.
    pub(crate) fn forget(&mut self, assignments: &[Assignment]) {
        self.units.retain(|assignment, _| !assignments.contains(assignment));
        if self.active.as_ref().is_some_and(|active| assignments.contains(&active.assignment)) {
            self.ending.extend(self.active.take().map(|active| active.task));
        }
    }

    /// The snapshots for a manifest of a unit at `offset` whose sinks have all come to `smallest`.
    pub(crate) fn named(&mut self, assignment: Assignment, smallest: Offset, offset: Offset) -> Vec<Snapshot> {
        let Some(unit) = self.units.get_mut(&assignment) else { return Vec::new() };
        let needed = needed_snapshots(&unit.usable, smallest, offset).to_vec();
        if let Some(first) = needed.first() {
            unit.usable.retain(|snapshot| snapshot.offset >= first.offset);
        }
        needed
    }

    /// Moves the snapshot in progress on by a few milliseconds, or begins one that is due. Never waits.
    pub(crate) fn tick(&mut self, driver: &mut Driver) -> Result<()> {
        self.ending.retain(|task| !task.is_finished());
        if self.active.is_none() {
            let now = clock::now();
            let due = self.units.iter().filter(|(_, unit)| unit.due <= now).min_by_key(|(_, unit)| unit.due);
            let Some((assignment, _)) = due else { return Ok(()) };
            self.begin(driver, *assignment)?;
        }
        self.advance(&mut driver.graph, Some(clock::now() + TURN_BUDGET))
    }

    /// Takes the snapshots of units that are about to be given up, at their last positions. What is not stored at `deadline` is
    /// given up: the next owner starts from an older one.
    pub(crate) fn close(&mut self, driver: &mut Driver, assignments: &[Assignment], deadline: Instant) -> Result<()> {
        let mut left: VecDeque<Assignment> =
            assignments.iter().copied().filter(|assignment| self.units.contains_key(assignment)).collect();
        loop {
            if self.active.is_none() {
                let Some(next) = left.pop_front() else { return Ok(()) };
                self.begin(driver, next)?;
            }
            self.advance(&mut driver.graph, None)?;
            let Some(active) = &self.active else { continue };
            if clock::now() >= deadline {
                let unit = driver.units.names().get(active.assignment).map(ToString::to_string);
                tracing::warn!(unit, "a snapshot was not stored in time; the next start goes on from an older one");
                self.give_up(&mut driver.graph);
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Begins a unit's snapshot at its position, unless there is one or the unit reads again what manifests have already.
    fn begin(&mut self, driver: &mut Driver, assignment: Assignment) -> Result<()> {
        let now = clock::now();
        let (Some(folder), Some(unit)) = (&self.folder, self.units.get_mut(&assignment)) else { return Ok(()) };
        unit.due = now + self.interval;
        let Some(held) = driver.units.iter().find(|(of, _)| *of == assignment).map(|(_, held)| held) else {
            return Ok(());
        };
        let (offset, source) = (held.processed, held.source);
        let is_there = unit.usable.last().is_some_and(|last| last.offset >= offset);
        if is_there || held.published > Some(offset) {
            return Ok(());
        }
        let kind = next_kind(&unit.usable, unit.has_base);
        let asked = if kind == StateKind::Full { SnapshotKind::Full } else { SnapshotKind::Delta };
        let mut metas = driver.graph.begin_snapshot(assignment, asked)?;
        let left = wanted_operators(&driver.graph, source)
            .into_iter()
            .map(|operator| {
                let meta = metas.get_mut(operator.index).and_then(Option::take);
                (operator, meta)
            })
            .collect();
        let place = snapshot_folder(&unit.unit, offset, unit.generation, &uuid::Uuid::new_v4().simple().to_string());
        let (sender, receiver) = channel(PARTS_AT_ONCE);
        let task = tasks::spawn(&self.io, write_snapshot(folder.clone(), place, receiver));
        self.active = Some(Active {
            assignment,
            offset,
            watermark: driver.sources[source].decoder.watermark(assignment),
            seen: driver.sources[source].decoder.seen(assignment).unwrap_or_default(),
            kind,
            left,
            current: None,
            parts: Some(sender),
            task,
            began: now,
        });
        Ok(())
    }

    /// Sends parts until `until` or until the writer has enough to do.
    fn advance(&mut self, graph: &mut Graph, until: Option<Instant>) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        while let Some(parts) = active.parts.clone() {
            let permit = match parts.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return Ok(()),
                Err(TrySendError::Closed(())) => {
                    // The writer failed; its task says why.
                    graph.abort_snapshot(active.assignment);
                    active.parts = None;
                    break;
                }
            };
            let Some(operator) = active.current else {
                match active.left.pop_front() {
                    Some((operator, meta)) => {
                        active.current = meta.is_some().then_some(operator.index);
                        let WantedOperator { name, fingerprint, keys, .. } = operator;
                        permit.send(Part::Operator { name, fingerprint, keys, meta });
                    }
                    None => {
                        permit.send(Part::End);
                        active.parts = None;
                    }
                }
                continue;
            };
            let began = clock::now();
            match graph.next_piece(operator, active.assignment, self.piece_rows)? {
                Some(Piece { slots, rows }) => permit.send(Part::Piece(slots, rows)),
                None => active.current = None,
            }
            let now = clock::now();
            self.metrics.snapshot_piece.record((now - began).as_secs_f64());
            self.piece_rows = next_piece_rows(self.piece_rows, now - began);
            if until.is_some_and(|until| now >= until) {
                return Ok(());
            }
        }
        if active.task.is_finished() { self.conclude(graph) } else { Ok(()) }
    }

    fn conclude(&mut self, graph: &mut Graph) -> Result<()> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let written = self
            .io
            .block_on(active.task)
            .map_err(|error| Error::internal("writing a snapshot panicked").with_source(error))?;
        let Some(unit) = self.units.get_mut(&active.assignment) else { return Ok(()) };
        match written {
            Ok(Some(operators)) => {
                let Active { offset, watermark, seen, kind, .. } = active;
                let snapshot = Snapshot { offset, watermark, seen, kind, operators };
                self.metrics.snapshots_ok.increment(1);
                self.metrics.snapshot_bytes.increment(snapshot.bytes());
                self.metrics.snapshot_duration.record(active.began.elapsed().as_secs_f64());
                unit.has_base = true;
                unit.usable.push(snapshot);
            }
            // It is not there, so nothing can be a delta to it.
            Ok(None) => unit.has_base = false,
            Err(error) => {
                graph.abort_snapshot(active.assignment);
                unit.has_base = false;
                unit.due = clock::now() + self.interval.min(RETRY_PAUSE);
                self.metrics.snapshots_failed.increment(1);
                tracing::warn!(unit = %unit.unit, %error, "a snapshot could not be stored; another one will be taken");
            }
        }
        Ok(())
    }

    fn give_up(&mut self, graph: &mut Graph) {
        let Some(active) = self.active.take() else { return };
        graph.abort_snapshot(active.assignment);
        if let Some(unit) = self.units.get_mut(&active.assignment) {
            unit.has_base = false;
        }
        self.metrics.snapshots_failed.increment(1);
        self.ending.push(active.task);
    }

    /// Loads a unit's state. After an error the graph holds some of it, and the worker must end.
    pub(crate) fn restore(&self, graph: &mut Graph, assignment: Assignment, restore: &Restore) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        for load in &restore.loads {
            for part in &load.parts {
                let (sender, mut receiver) = channel(PARTS_AT_ONCE);
                let task = tasks::spawn(&self.io, read_state(folder.clone(), part.clone(), sender));
                let mut restored = Ok(());
                while let Some(read) = receiver.blocking_recv() {
                    restored = match read {
                        ReadPart::Meta(meta) => graph.restore_meta(load.operator, assignment, &meta),
                        ReadPart::Piece(slots, rows) => {
                            graph.restore_piece(load.operator, assignment, &Piece { slots, rows })
                        }
                    };
                    if restored.is_err() {
                        break;
                    }
                }
                drop(receiver);
                let read = self.io.block_on(task);
                read.map_err(|error| Error::internal("reading a snapshot panicked").with_source(error))??;
                let name = || part.files.first().map_or_else(String::new, |file| folder.place(&file.path));
                restored.map_err(|error| error.context(name()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
