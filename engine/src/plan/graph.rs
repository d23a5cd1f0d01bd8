//! The graph of one worker: all stages of a pipeline in order. A row that fails alone is taken out of the epoch, whatever it
//! came with; everything else goes through. The graph holds no rows between epochs, only the state of its windows.
//!
//! Archives, sinks of what a source accepted, get every row: a replay of them has to see what the run saw. Stages that no window
//! feeds run next. A row that fails in them leaves no other trace but its rejection. Then the windows take the rows in, once, and
//! the stages behind them run; a row that fails there stays in the state and in what does not depend on state, and is rejected
//! from the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;

use super::failure::{Failure, classify};
use super::segment::{Segment, Target};
use super::table::Slots;
use super::window_stage::{OperatorInfo, WindowStage};
use crate::error::{Error, Result};
use crate::operator::over_window::{OverWindow, Piece, SnapshotKind};
use crate::types::{Assignment, EventTime, Hidden};

/// One stage of the graph.
#[derive(Debug)]
pub(super) enum Stage {
    /// Stateless, run by DataFusion.
    Segment(Segment),
    /// Keyed state.
    Window(Box<WindowStage>),
}

/// What an epoch's input became.
#[derive(Debug, Default)]
pub struct EpochOutput {
    /// Per sink: rows with the hidden columns, those of one state unit in order. No batch is empty.
    pub sinks: Vec<Vec<RecordBatch>>,
    /// Rows that failed; nothing of them is in `sinks`, but in archives, and in those that depend on no window when they failed
    /// after one.
    /// In the order of the input.
    pub rejected: Vec<FailedRow>,
}

/// A row on which the SQL failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRow {
    /// Index of the source.
    pub source: usize,
    /// Index of the batch in the epoch's input.
    pub input: usize,
    /// Row of that batch; its hidden columns hold the position.
    pub row: usize,
    /// Why and where, without content.
    pub failure: Failure,
}

/// A worker's instance of a plan.
#[derive(Debug)]
pub struct Graph {
    stages: Arc<[Stage]>,
    sources: Arc<[SchemaRef]>,
    num_sinks: usize,
    slots: Arc<Slots>,
    context: Arc<TaskContext>,
    /// The state of each [`Stage::Window`], in their order.
    windows: Vec<OverWindow>,
    operators: Vec<OperatorInfo>,
    /// Slots that stages without state fill and stages with state read.
    handed_on: Vec<usize>,
}

/// Size of an operator's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSize {
    /// The operator's name.
    pub operator: String,
    /// Keys held, over all units.
    pub num_keys: usize,
    /// Bytes held, over all units.
    pub bytes: usize,
}

enum Stop {
    Row(Failure),
    Engine(Error),
}

/// What the stateless stages made of the rows so far.
#[derive(Debug)]
struct Passed {
    output: EpochOutput,
    /// By [`Graph::handed_on`].
    slots: Vec<Vec<RecordBatch>>,
}

impl Graph {
    pub(super) fn new(
        stages: Arc<[Stage]>,
        sources: Arc<[SchemaRef]>,
        num_slots: usize,
        num_sinks: usize,
        context: &TaskContext,
    ) -> Result<Graph> {
        let slots = Arc::new(Slots::new(num_slots));
        let session = context.session_config().clone().with_extension(Arc::clone(&slots));
        let context = TaskContext::default().with_session_config(session).with_runtime(context.runtime_env());
        let windows = window_stages(&stages).map(|stage| OverWindow::new(&stage.spec)).collect::<Result<_>>()?;
        let operators = window_stages(&stages).map(|stage| stage.info.clone()).collect();
        let handed_on = handed_on(&stages);
        Ok(Graph { stages, sources, num_sinks, slots, context: Arc::new(context), windows, operators, handed_on })
    }

    /// Runs one epoch: batches of sources, as decode made them, several of one source in their order. The outcome of each
    /// row is the one that it would have alone in an epoch, after the same rows. An error leaves the state as it may be: the
    /// worker starts again from its last checkpoint.
    pub fn run(&mut self, inputs: Vec<(usize, RecordBatch)>) -> Result<EpochOutput> {
        for (source, batch) in &inputs {
            self.check_input(*source, batch)?;
        }
        let output = EpochOutput { sinks: vec![Vec::new(); self.num_sinks], rejected: Vec::new() };
        if inputs.iter().all(|(_, batch)| batch.num_rows() == 0) {
            return Ok(output);
        }
        let mut passed = Passed { output, slots: vec![Vec::new(); self.handed_on.len()] };
        self.archive(&inputs, &mut passed.output)?;
        let mut result = match self.execute(&inputs, &mut passed) {
            Ok(()) => Ok(()),
            Err(Stop::Engine(error)) => Err(error),
            Err(Stop::Row(failure)) if inputs.len() == 1 => {
                let (source, batch) = &inputs[0];
                self.halve(&Part { source: *source, input: 0, batch }, 0..batch.num_rows(), failure, &mut passed)
            }
            Err(Stop::Row(_)) => inputs.iter().enumerate().try_for_each(|(input, (source, batch))| {
                self.bisect(&Part { source: *source, input, batch }, 0..batch.num_rows(), &mut passed)
            }),
        };
        let mut output = passed.output;
        if result.is_ok() && !self.windows.is_empty() {
            result = self.run_with_state(&inputs, passed.slots, &mut output);
        }
        self.clear();
        result.map(|()| output)
    }

    fn check_input(&self, source: usize, batch: &RecordBatch) -> Result<()> {
        let Some(schema) = self.sources.get(source) else {
            return Err(Error::internal(format!("rows of source {source}, but the plan has {}", self.sources.len())));
        };
        if !Arc::ptr_eq(schema, batch.schema_ref()) && schema.fields() != batch.schema_ref().fields() {
            return Err(Error::internal(format!("rows of source {source} have other columns than the plan's schema")));
        }
        Ok(())
    }

    fn fill_sources(&self, inputs: &[(usize, RecordBatch)]) {
        for source in 0..self.sources.len() {
            let batches = inputs.iter().filter(|(of, batch)| *of == source && batch.num_rows() > 0);
            self.slots.fill(source, batches.map(|(_, batch)| batch.clone()).collect());
        }
    }

    /// Gives archives their rows.
    fn archive(&self, inputs: &[(usize, RecordBatch)], output: &mut EpochOutput) -> Result<()> {
        self.fill_sources(inputs);
        for stage in self.stages.iter() {
            if let Stage::Segment(segment) = stage
                && let (Target::Sink(sink), true) = (segment.target, segment.is_archive)
            {
                output.sinks[sink] = self.run_segment(segment).map_err(|stop| match stop {
                    Stop::Engine(error) => error,
                    Stop::Row(failure) => Error::internal(format!("an archive cannot fail on a row: {failure}")),
                })?;
            }
        }
        Ok(())
    }

    /// Runs the stateless stages over `inputs`, all rows or none.
    fn execute(&self, inputs: &[(usize, RecordBatch)], passed: &mut Passed) -> Result<(), Stop> {
        self.fill_sources(inputs);
        let mut sinks: Vec<(usize, Vec<RecordBatch>)> = Vec::new();
        for stage in self.stages.iter() {
            let Stage::Segment(segment) = stage else { continue };
            if segment.is_after_state || segment.is_archive {
                continue;
            }
            let batches = self.run_segment(segment)?;
            match segment.target {
                Target::Slot(slot) => self.slots.fill(slot, batches),
                Target::Sink(sink) => sinks.push((sink, batches)),
            }
        }
        for (sink, batches) in sinks {
            passed.output.sinks[sink].extend(batches);
        }
        for (slot, batches) in self.handed_on.iter().zip(&mut passed.slots) {
            batches.extend(self.slots.read(*slot).unwrap_or_default());
        }
        Ok(())
    }

    fn run_segment(&self, segment: &Segment) -> Result<Vec<RecordBatch>, Stop> {
        segment.run(&self.context).map_err(|error| match classify(&error, &segment.part) {
            Ok(class) => {
                let is_after_state = segment.is_after_state;
                Stop::Row(Failure { class, part: Arc::clone(&segment.part), is_after_state })
            }
            Err(error) => Stop::Engine(error),
        })
    }

    /// Runs some rows of an input; where they fail together, each half for itself. A part that passes is right as it is: every
    /// shortcut that DataFusion takes needs the agreement of each row, so a row that fails alone fails in company.
    fn bisect(&self, part: &Part<'_>, rows: Range<usize>, passed: &mut Passed) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        match self.execute(&[(part.source, part.batch.slice(rows.start, rows.len()))], passed) {
            Ok(()) => Ok(()),
            Err(Stop::Engine(error)) => Err(error),
            Err(Stop::Row(failure)) => self.halve(part, rows, failure, passed),
        }
    }

    /// `rows` failed together.
    fn halve(&self, part: &Part<'_>, rows: Range<usize>, failure: Failure, passed: &mut Passed) -> Result<()> {
        if rows.len() == 1 {
            let failed = FailedRow { source: part.source, input: part.input, row: rows.start, failure };
            passed.output.rejected.push(failed);
            return Ok(());
        }
        let middle = rows.start + rows.len() / 2;
        self.bisect(part, rows.start..middle, passed)?;
        self.bisect(part, middle..rows.end, passed)
    }

    /// Lets the windows take in what passed, and runs what stands behind them.
    fn run_with_state(
        &mut self,
        inputs: &[(usize, RecordBatch)],
        slots: Vec<Vec<RecordBatch>>,
        output: &mut EpochOutput,
    ) -> Result<()> {
        self.add_units(inputs)?;
        for (slot, batches) in self.handed_on.iter().zip(slots) {
            self.slots.fill(*slot, batches);
        }
        let stages = Arc::clone(&self.stages);
        let mut failed = BTreeMap::new();
        let mut window = 0;
        for stage in stages.iter() {
            match stage {
                Stage::Window(stage) => {
                    let batches = self.slots.read(stage.input).unwrap_or_default();
                    let state = &mut self.windows[window];
                    let answers = batches.iter().map(|batch| stage.process(state, batch, &mut failed));
                    let answers = answers.collect::<Result<_>>()?;
                    self.slots.fill(stage.output, answers);
                    window += 1;
                }
                Stage::Segment(segment) if segment.is_after_state => {
                    let batches = match self.run_segment(segment) {
                        Ok(batches) => batches,
                        Err(Stop::Engine(error)) => return Err(error),
                        Err(Stop::Row(_)) => self.run_apart(segment, &mut failed)?,
                    };
                    match segment.target {
                        Target::Slot(slot) => self.slots.fill(slot, batches),
                        Target::Sink(sink) => output.sinks[sink] = batches,
                    }
                }
                Stage::Segment(_) => {}
            }
        }
        if failed.is_empty() { Ok(()) } else { self.reject(inputs, &failed, output) }
    }

    /// Adds the units that are seen for the first time: their log begins with the first row that decode accepted, whatever
    /// conditions stand before the windows.
    fn add_units(&mut self, inputs: &[(usize, RecordBatch)]) -> Result<()> {
        for (source, batch) in inputs {
            let hidden = Hidden::of(batch)?;
            let mut row = 0;
            for run in hidden.unit.values().chunk_by(|a, b| a == b) {
                let (unit, begin) = (Assignment(run[0]), EventTime::from_micros(hidden.event_time.value(row)));
                row += run.len();
                self.begin_unit(*source, unit, begin)?;
            }
        }
        Ok(())
    }

    /// Adds a unit of a source whose log begins with a row of event time `begin`, if it is not there. For a graph that sees
    /// only some of the unit's rows, all those of their keys: which rows were the first is the unit's affair, not theirs.
    pub fn begin_unit(&mut self, source: usize, unit: Assignment, begin: EventTime) -> Result<()> {
        for (window, info) in self.windows.iter_mut().zip(&self.operators) {
            if info.source == source && !window.holds(unit) {
                window.add_unit(unit, Some(begin))?;
            }
        }
        Ok(())
    }

    /// Runs a segment on which some row failed: its input in ever smaller parts. Rows that fail alone go into `failed`.
    fn run_apart(&self, segment: &Segment, failed: &mut Failed) -> Result<Vec<RecordBatch>> {
        let inputs: Vec<(usize, Vec<RecordBatch>)> =
            segment.reads.iter().map(|slot| (*slot, self.slots.read(*slot).unwrap_or_default())).collect();
        for (slot, _) in &inputs {
            self.slots.fill(*slot, Vec::new());
        }
        let mut passed = Vec::new();
        for (slot, batches) in &inputs {
            for batch in batches {
                self.bisect_slot(segment, *slot, batch, &mut passed, failed)?;
            }
            self.slots.fill(*slot, Vec::new());
        }
        for (slot, batches) in inputs {
            self.slots.fill(slot, batches);
        }
        segment.joined(passed).map_err(|error| match classify(&error, &segment.part) {
            Ok(_) => Error::internal(format!("{}: rows that passed cannot be joined", segment.part)),
            Err(error) => error,
        })
    }

    fn bisect_slot(
        &self,
        segment: &Segment,
        slot: usize,
        batch: &RecordBatch,
        passed: &mut Vec<RecordBatch>,
        failed: &mut Failed,
    ) -> Result<()> {
        self.slots.fill(slot, vec![batch.clone()]);
        match self.run_segment(segment) {
            Ok(batches) => passed.extend(batches),
            Err(Stop::Engine(error)) => return Err(error),
            Err(Stop::Row(failure)) if batch.num_rows() <= 1 => {
                let hidden = Hidden::of(batch)?;
                failed.entry((hidden.unit.value(0), hidden.offset.value(0))).or_insert(failure);
            }
            Err(Stop::Row(_)) => {
                let middle = batch.num_rows() / 2;
                self.bisect_slot(segment, slot, &batch.slice(0, middle), passed, failed)?;
                self.bisect_slot(segment, slot, &batch.slice(middle, batch.num_rows() - middle), passed, failed)?;
            }
        }
        Ok(())
    }

    /// Takes the records that failed after state out of every sink that depends on state, and says which they were.
    fn reject(&self, inputs: &[(usize, RecordBatch)], failed: &Failed, output: &mut EpochOutput) -> Result<()> {
        for stage in self.stages.iter() {
            if let Stage::Segment(Segment { target: Target::Sink(sink), is_after_state: true, .. }) = stage {
                let batches = std::mem::take(&mut output.sinks[*sink]);
                for batch in batches {
                    let hidden = Hidden::of(&batch)?;
                    let stays = |row| !failed.contains_key(&(hidden.unit.value(row), hidden.offset.value(row)));
                    let stays: BooleanArray = (0..batch.num_rows()).map(|row| Some(stays(row))).collect();
                    let batch = filter_record_batch(&batch, &stays)
                        .map_err(|error| Error::internal("failed rows cannot be taken out").with_source(error))?;
                    output.sinks[*sink].extend((batch.num_rows() > 0).then_some(batch));
                }
            }
        }
        for (input, (source, batch)) in inputs.iter().enumerate() {
            let hidden = Hidden::of(batch)?;
            for row in 0..batch.num_rows() {
                if let Some(failure) = failed.get(&(hidden.unit.value(row), hidden.offset.value(row))) {
                    let failure = failure.clone();
                    output.rejected.push(FailedRow { source: *source, input, row, failure });
                }
            }
        }
        output.rejected.sort_by_key(|failed| (failed.input, failed.row));
        Ok(())
    }

    /// Lets go of the epoch's rows.
    fn clear(&self) {
        for slot in 0..self.slots.len() {
            self.slots.fill(slot, Vec::new());
        }
    }

    /// The operators that hold state, in the order in which rows meet them.
    #[must_use]
    pub fn operators(&self) -> &[OperatorInfo] {
        &self.operators
    }

    /// Drops a unit's state in all operators.
    pub fn discard(&mut self, unit: Assignment) {
        for window in &mut self.windows {
            window.drop_unit(unit);
        }
    }

    /// Begins a snapshot of a unit's state as it is now: the `meta` batch of each operator, by index; `None` of one that holds
    /// nothing of the unit. The pieces may be taken while epochs go on. One snapshot per unit at a time.
    pub fn begin_snapshot(&mut self, unit: Assignment, kind: SnapshotKind) -> Result<Vec<Option<RecordBatch>>> {
        let begin = |window: &mut OverWindow| {
            if window.holds(unit) { window.begin_snapshot(unit, kind).map(Some) } else { Ok(None) }
        };
        self.windows.iter_mut().map(begin).collect()
    }

    /// The next piece, of about `rows_max` rows, of an operator's snapshot of a unit; `None` when it is whole.
    pub fn next_piece(&mut self, operator: usize, unit: Assignment, rows_max: usize) -> Result<Option<Piece>> {
        self.window(operator)?.next_piece(unit, rows_max)
    }

    /// Gives up a unit's snapshot: the next delta is against the last one that was taken to its end.
    pub fn abort_snapshot(&mut self, unit: Assignment) {
        for window in &mut self.windows {
            window.abort_snapshot(unit);
        }
    }

    /// Takes over an operator's snapshot of a unit: its `meta` batch; then its pieces by [`Graph::restore_piece`]. First the
    /// full one, then each delta. Kind `Data` on state of another layout.
    pub fn restore_meta(&mut self, operator: usize, unit: Assignment, meta: &RecordBatch) -> Result<()> {
        let window = self.window(operator)?;
        if !window.holds(unit) {
            window.add_unit(unit, None)?;
        }
        window.restore_meta(unit, meta)
    }

    /// Takes in one piece of an operator's snapshot.
    pub fn restore_piece(&mut self, operator: usize, unit: Assignment, piece: &Piece) -> Result<()> {
        self.window(operator)?.restore_piece(unit, piece)
    }

    /// Sizes of the operators' state.
    #[must_use]
    pub fn state_sizes(&self) -> Vec<StateSize> {
        let size = |(window, info): (&OverWindow, &OperatorInfo)| StateSize {
            operator: info.name.clone(),
            num_keys: window.units().map(|unit| window.num_keys(unit)).sum(),
            bytes: window.units().map(|unit| window.bytes(unit)).sum(),
        };
        self.windows.iter().zip(&self.operators).map(size).collect()
    }

    fn window(&mut self, operator: usize) -> Result<&mut OverWindow> {
        self.windows.get_mut(operator).ok_or_else(|| Error::internal(format!("the plan has no operator {operator}")))
    }
}

/// Records that failed after state: (unit, offset).
type Failed = BTreeMap<(u32, i64), Failure>;

fn window_stages(stages: &[Stage]) -> impl Iterator<Item = &WindowStage> {
    stages.iter().filter_map(|stage| match stage {
        Stage::Window(window) => Some(&**window),
        Stage::Segment(_) => None,
    })
}

fn handed_on(stages: &[Stage]) -> Vec<usize> {
    let mut with_state: Vec<usize> = window_stages(stages).map(|stage| stage.output).collect();
    let mut read: Vec<usize> = window_stages(stages).map(|stage| stage.input).collect();
    for stage in stages {
        if let Stage::Segment(segment) = stage
            && segment.is_after_state
        {
            read.extend(&segment.reads);
            if let Target::Slot(slot) = segment.target {
                with_state.push(slot);
            }
        }
    }
    read.retain(|slot| !with_state.contains(slot));
    read.sort_unstable();
    read.dedup();
    read
}

/// An input that failed as a whole.
struct Part<'a> {
    source: usize,
    input: usize,
    batch: &'a RecordBatch,
}
