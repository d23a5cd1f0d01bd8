//! The keyed OVER-window: per key, the rows that frames still see, and each row's answers at once, in its place in the
//! total order, late or not (design, sections 4 and 5). Answers depend only on what the rules make visible, never on
//! what happens to be stored (I8). What has no kernel is refused by name ([`Call::output_type`]); the caller may then
//! ask for the fallback ([`Function::Fallback`]), which computes an aggregate from scratch for each row.

mod batch;
mod evaluate;
mod exact;
mod fallback;
mod fold;
mod follow;
mod frame;
mod plan;
#[cfg(test)]
mod reference;
mod short;
mod snapshot;
mod spec;
#[cfg(test)]
pub(crate) mod tests;
mod unit;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, DurationMicrosecondArray, RecordBatch};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::blocks::Blocks;
use crate::state::value::ColumnBuilder;
use crate::types::{Assignment, EventTime};

pub use batch::WindowInput;
pub use fallback::{FailedCall, FrameAnswers, RowAggregate};
pub use snapshot::{Piece, STATE_VERSION, SnapshotKind};
pub use spec::{Call, Frame, Function, WindowSpec};

use batch::BatchRows;
use fallback::Gathered;
use plan::Plan;
use unit::{Answers, Scratch, Unit};

/// The answers to one batch, row by row in its order.
#[derive(Debug, Clone)]
pub struct WindowOutput {
    /// One column per call, of the types of [`OverWindow::output_types`].
    pub columns: Vec<ArrayRef>,
    /// `_late_by`: W before the row less its event time, zero for a row in time. `Duration(Microsecond)`, never null.
    pub late_by: ArrayRef,
    /// `_history_incomplete`: the row is older than H, or a RANGE frame reaches below the event time at which its
    /// unit's log began. Boolean, never null.
    pub is_history_incomplete: ArrayRef,
    /// Calls that could not be answered for a row; their answers are null. Only a fallback fails, and a row has been taken
    /// in all the same: the rows after it are not answered otherwise because of it. The same in every run and replay.
    pub failures: Vec<FailedCall>,
}

/// What is retained of one key, for `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// Rows held, those included that no frame sees any more.
    pub num_rows: usize,
    /// Bytes of the key's slot and rows, about.
    pub bytes: usize,
    /// Event time of its newest row.
    pub newest: Option<EventTime>,
}

/// The operator: a plan, and the state of each state unit that the worker holds.
#[derive(Debug)]
pub struct OverWindow {
    plan: Plan,
    units: BTreeMap<Assignment, Unit>,
}

impl OverWindow {
    /// An operator without units. Fails, kind `Invalid`, for a call that has no kernel or a key type that is not
    /// supported.
    pub fn new(spec: &WindowSpec) -> Result<OverWindow> {
        Ok(OverWindow { plan: Plan::new(spec)?, units: BTreeMap::new() })
    }

    /// Types of the output columns, by call.
    pub fn output_types(&self) -> impl Iterator<Item = &DataType> {
        self.plan.calls.iter().map(|call| &call.output)
    }

    /// Adds a unit without state. `log_begin` is the event time of the first accepted record of its log; without it,
    /// that of the first row that comes here, which a filter before the window may have made a later one.
    pub fn add_unit(&mut self, unit: Assignment, log_begin: Option<EventTime>) -> Result<()> {
        let state = Unit::new(&self.plan, log_begin.map(EventTime::as_micros));
        match self.units.insert(unit, state) {
            None => Ok(()),
            Some(_) => Err(Error::internal("a state unit was added to an over-window twice")),
        }
    }

    /// Drops a unit and its state; false if it was not there.
    pub fn drop_unit(&mut self, unit: Assignment) -> bool {
        self.units.remove(&unit).is_some()
    }

    /// Whether it has state of a unit, be it of no key.
    #[must_use]
    pub fn holds(&self, unit: Assignment) -> bool {
        self.units.contains_key(&unit)
    }

    /// The units held, in order.
    pub fn units(&self) -> impl Iterator<Item = Assignment> {
        self.units.keys().copied()
    }

    /// Answers each row of a batch in the order of arrival, and takes it in. After an error no row has been taken in, but
    /// after one of a fallback that is broken or without memory all have: the state is to be restored.
    pub fn process(&mut self, input: &WindowInput<'_>) -> Result<WindowOutput> {
        let plan = &self.plan;
        let num_rows = input.hidden.num_rows();
        let batch = BatchRows::new(plan, input)?;
        let keys = plan.keys.read(input.keys, num_rows)?;
        let assignments = input.hidden.unit.values();
        if let Some(unknown) = assignments.iter().find(|unit| !self.units.contains_key(&Assignment(**unit))) {
            return Err(Error::internal(format!(
                "rows of assignment {unknown} came to an over-window that does not hold it"
            )));
        }
        let mut answers = Answers {
            columns: plan.calls.iter().map(|call| call.builder(num_rows)).collect(),
            gathered: plan.fallbacks.iter().map(|fallback| Gathered::new(plan, fallback)).collect(),
            late_by: Vec::with_capacity(num_rows),
            is_history_incomplete: Vec::with_capacity(num_rows),
        };
        let mut scratch = Scratch::new(plan);
        let mut start = 0;
        for run in assignments.chunk_by(|a, b| a == b) {
            let rows = start..start + run.len();
            start = rows.end;
            if let Some(unit) = self.units.get_mut(&Assignment(run[0])) {
                unit.process(plan, rows, &keys, &batch, &mut scratch, &mut answers);
            }
        }
        let mut columns: Vec<ArrayRef> =
            answers.columns.into_iter().map(ColumnBuilder::finish).collect::<Result<_>>()?;
        let mut failures = Vec::new();
        for (gathered, fallback) in answers.gathered.into_iter().zip(&plan.fallbacks) {
            let (column, failed) = gathered.finish(plan, fallback)?;
            columns[fallback.call] = column;
            failures.extend(failed);
        }
        Ok(WindowOutput {
            columns,
            failures,
            late_by: Arc::new(DurationMicrosecondArray::from(answers.late_by)),
            is_history_incomplete: Arc::new(BooleanArray::from(answers.is_history_incomplete)),
        })
    }

    /// Begins a snapshot of a unit as it is now, and gives its `meta` batch (one row). Its pieces may be taken while
    /// further batches are processed; they are of the state as it was here (I1). One snapshot per unit at a time: an
    /// unfinished one is given up.
    pub fn begin_snapshot(&mut self, unit: Assignment, kind: SnapshotKind) -> Result<RecordBatch> {
        let state = self.units.get_mut(&unit).ok_or_else(not_held)?;
        state.begin_snapshot(&self.plan, kind)
    }

    /// The next piece of the unit's snapshot, of about `rows_max` rows; `None` when it is whole. The rows of one key
    /// are never split over pieces.
    pub fn next_piece(&mut self, unit: Assignment, rows_max: usize) -> Result<Option<Piece>> {
        let state = self.units.get_mut(&unit).ok_or_else(not_held)?;
        state.next_piece(&self.plan, rows_max)
    }

    /// Gives up the unit's snapshot. The next delta is against the last one that was written to its end.
    pub fn abort_snapshot(&mut self, unit: Assignment) {
        if let Some(state) = self.units.get_mut(&unit) {
            state.abort_snapshot();
        }
    }

    /// Takes over a snapshot's `meta` into a unit that was added before. Call it for the full snapshot, then for each
    /// delta, each time followed by [`OverWindow::restore_piece`] for its pieces in order. Fails, kind `Data`, on state
    /// of another layout or version.
    pub fn restore_meta(&mut self, unit: Assignment, meta: &RecordBatch) -> Result<()> {
        self.units.get_mut(&unit).ok_or_else(not_held)?.restore_meta(&self.plan, meta)
    }

    /// Takes in one piece. Keys that are there already are replaced, so deltas are restored after what they are
    /// against.
    pub fn restore_piece(&mut self, unit: Assignment, piece: &Piece) -> Result<()> {
        self.units.get_mut(&unit).ok_or_else(not_held)?.restore_piece(&self.plan, piece)
    }

    /// Bytes of a unit's state; zero if it is not held.
    #[must_use]
    pub fn bytes(&self, unit: Assignment) -> usize {
        self.units.get(&unit).map_or(0, |state| state.bytes(&self.plan))
    }

    /// Number of a unit's keys; zero if it is not held.
    #[must_use]
    pub fn num_keys(&self, unit: Assignment) -> usize {
        self.units.get(&unit).map_or(0, Unit::num_keys)
    }

    /// Bytes that a key with so many retained rows takes, about: for `explain`, before there is any state.
    #[must_use]
    pub fn bytes_per_key(&self, num_rows: usize) -> usize {
        Unit::slot_bytes() + Blocks::bytes_for(self.plan.row_layout(), num_rows)
    }

    /// What is retained of the key in row 0 of `keys` (the PARTITION BY columns); `None` if nothing is.
    pub fn retained(&self, unit: Assignment, keys: &[ArrayRef]) -> Result<Option<Retained>> {
        let state = self.units.get(&unit).ok_or_else(not_held)?;
        let keys = self.plan.keys.read(keys, 1)?;
        Ok(state.find(keys.hashes[0], keys.key(0)).map(|slot| {
            let ring = state.slots[slot].ring;
            Retained {
                num_rows: state.rings.len(ring),
                bytes: Unit::slot_bytes() + state.rings.ring_bytes(ring, &self.plan),
                newest: state.rings.newest(ring).map(EventTime::from_micros),
            }
        }))
    }
}

fn not_held() -> Error {
    Error::internal("an over-window was asked for a state unit that it does not hold")
}
