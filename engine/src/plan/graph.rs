//! The graph of one worker: all stages of a pipeline in order. A row that fails alone is taken out of the epoch, whatever it
//! came with; everything else goes through. The graph holds no rows between epochs.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;

use super::failure::{Failure, classify};
use super::segment::{Segment, Target};
use super::table::Slots;
use crate::error::{Error, Result};

/// One stage of the graph.
#[derive(Debug)]
pub(super) enum Stage {
    /// Stateless, run by DataFusion.
    Segment(Segment),
}

/// What an epoch's input became.
#[derive(Debug, Default)]
pub struct EpochOutput {
    /// Per sink: rows with the hidden columns, those of one state unit in order. No batch is empty.
    pub sinks: Vec<Vec<RecordBatch>>,
    /// Rows that failed; nothing of them is in `sinks`. In the order of the input.
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
}

enum Stop {
    Row(Failure),
    Engine(Error),
}

impl Graph {
    pub(super) fn new(
        stages: Arc<[Stage]>,
        sources: Arc<[SchemaRef]>,
        num_slots: usize,
        num_sinks: usize,
        context: &TaskContext,
    ) -> Graph {
        let slots = Arc::new(Slots::new(num_slots));
        let session = context.session_config().clone().with_extension(Arc::clone(&slots));
        let context = TaskContext::default().with_session_config(session).with_runtime(context.runtime_env());
        Graph { stages, sources, num_sinks, slots, context: Arc::new(context) }
    }

    /// Runs one epoch: batches of sources, as decode made them, several of one source in their order. The outcome of each
    /// row is the one that it would have alone in an epoch. After an error the epoch had no effect.
    pub fn run(&mut self, inputs: Vec<(usize, RecordBatch)>) -> Result<EpochOutput> {
        for (source, batch) in &inputs {
            self.check_input(*source, batch)?;
        }
        let mut output = EpochOutput { sinks: vec![Vec::new(); self.num_sinks], rejected: Vec::new() };
        if inputs.iter().all(|(_, batch)| batch.num_rows() == 0) {
            return Ok(output);
        }
        let result = match self.execute(&inputs) {
            Ok(sinks) => {
                output.sinks = sinks;
                Ok(())
            }
            Err(Stop::Engine(error)) => Err(error),
            Err(Stop::Row(failure)) if inputs.len() == 1 => {
                let (source, batch) = &inputs[0];
                self.halve(&Part { source: *source, input: 0, batch }, 0..batch.num_rows(), failure, &mut output)
            }
            Err(Stop::Row(_)) => inputs.iter().enumerate().try_for_each(|(input, (source, batch))| {
                self.bisect(&Part { source: *source, input, batch }, 0..batch.num_rows(), &mut output)
            }),
        };
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

    /// Runs all stages over `inputs`, all rows or none.
    fn execute(&self, inputs: &[(usize, RecordBatch)]) -> Result<Vec<Vec<RecordBatch>>, Stop> {
        for source in 0..self.sources.len() {
            let batches = inputs.iter().filter(|(of, batch)| *of == source && batch.num_rows() > 0);
            self.slots.fill(source, batches.map(|(_, batch)| batch.clone()).collect());
        }
        let mut sinks = vec![Vec::new(); self.num_sinks];
        for stage in self.stages.iter() {
            match stage {
                Stage::Segment(segment) => {
                    let batches =
                        segment.run(&self.context).map_err(|error| match classify(&error, &segment.part) {
                            Ok(class) => Stop::Row(Failure { class, part: Arc::clone(&segment.part) }),
                            Err(error) => Stop::Engine(error),
                        })?;
                    match segment.target {
                        Target::Slot(slot) => self.slots.fill(slot, batches),
                        Target::Sink(sink) => sinks[sink] = batches,
                    }
                }
            }
        }
        Ok(sinks)
    }

    /// Runs some rows of an input; where they fail together, each half for itself. A part that passes is right as it is: every
    /// shortcut that DataFusion takes needs the agreement of each row, so a row that fails alone fails in company.
    fn bisect(&self, part: &Part<'_>, rows: Range<usize>, output: &mut EpochOutput) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        match self.execute(&[(part.source, part.batch.slice(rows.start, rows.len()))]) {
            Ok(sinks) => {
                for (all, batches) in output.sinks.iter_mut().zip(sinks) {
                    all.extend(batches);
                }
                Ok(())
            }
            Err(Stop::Engine(error)) => Err(error),
            Err(Stop::Row(failure)) => self.halve(part, rows, failure, output),
        }
    }

    /// `rows` failed together.
    fn halve(&self, part: &Part<'_>, rows: Range<usize>, failure: Failure, output: &mut EpochOutput) -> Result<()> {
        if rows.len() == 1 {
            output.rejected.push(FailedRow { source: part.source, input: part.input, row: rows.start, failure });
            return Ok(());
        }
        let middle = rows.start + rows.len() / 2;
        self.bisect(part, rows.start..middle, output)?;
        self.bisect(part, middle..rows.end, output)
    }

    /// Lets go of the epoch's rows.
    fn clear(&self) {
        for slot in 0..self.slots.len() {
            self.slots.fill(slot, Vec::new());
        }
    }
}

/// An input that failed as a whole.
struct Part<'a> {
    source: usize,
    input: usize,
    batch: &'a RecordBatch,
}
