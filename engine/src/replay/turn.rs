//! One turn over stored or previewed records: decoded as in a run, put through a graph, every record counted in one outcome.
//! What a run adds (positions, sinks, checkpoints, dead letters) is not here; rejected records are values of the answer.

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

use super::order::OneUnit;
use super::tally::{Counts, RejectedRecord, Rejections, Tally};
use crate::decode::internal::Stamp;
use crate::decode::{Decoder, Reason};
use crate::error::{Error, Result};
use crate::pipeline::settings::{Pipeline, Sink, SinkConnector};
use crate::plan::{Failure, Graph, Plan};
use crate::sink::parquet::positions::{schema_with_positions, with_positions};
use crate::source::files::{FileBlock, StoredBlock};
use crate::types::{Assignment, Hidden, StateUnit, Units, num_visible};

/// What one block came to.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Rows of each output: visible columns, and positions where the sink wants them.
    pub(crate) outputs: Vec<Vec<RecordBatch>>,
    /// By unit and offset.
    pub(crate) rejected: Vec<RejectedRecord>,
}

/// A block that was decoded.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Its rows, with their own positions in the hidden columns.
    pub(crate) batch: RecordBatch,
    /// The others.
    pub(super) rejected: Rejections,
}

/// Decoders and graphs of a pipeline, and what became of its records so far.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(super) inputs: Inputs,
    /// One for each worker: never none.
    pub(super) graphs: Vec<Graph>,
    pub(super) outputs: Outputs,
    pub(super) tally: Tally,
}

impl Turns {
    pub(crate) fn new(pipeline: &Pipeline, plan: &Plan) -> Result<Turns> {
        Turns::for_workers(pipeline, plan, 1)
    }

    /// With a graph for each of some workers, each of which sees a part of the rows.
    pub(super) fn for_workers(pipeline: &Pipeline, plan: &Plan, num_workers: usize) -> Result<Turns> {
        Ok(Turns {
            inputs: Inputs::new(pipeline, plan)?,
            graphs: (0..num_workers.max(1)).map(|_| plan.instantiate()).collect::<Result<_>>()?,
            outputs: Outputs::new(pipeline, plan),
            tally: Tally::new(pipeline.sinks.len()),
        })
    }

    /// Whether windows hold state of a source's rows.
    pub(super) fn has_windows(&self, source: usize) -> bool {
        self.graphs[0].operators().iter().any(|operator| operator.source == source)
    }

    pub(crate) fn counts(&self) -> &Counts {
        self.tally.counts()
    }

    /// Takes a block of one source; `units` names all units in it.
    pub(crate) fn take(&mut self, source: usize, block: FileBlock, units: &Units) -> Result<Turn> {
        self.take_turn(source, block, units, None)
    }

    /// As [`Turns::take`], with the rows of all units as those of one, in the order in which they come.
    pub(super) fn take_as_one(
        &mut self,
        source: usize,
        block: FileBlock,
        units: &Units,
        one: &mut OneUnit,
    ) -> Result<Turn> {
        self.take_turn(source, block, units, Some(one))
    }

    fn take_turn(&mut self, source: usize, block: FileBlock, units: &Units, one: Option<&mut OneUnit>) -> Result<Turn> {
        let Accepted { batch, mut rejected } = self.accept(source, StoredBlock::File(block), units)?;
        let mut origin = Origin::own(&batch, units)?;
        let batch = match one {
            None => batch,
            Some(one) => {
                let (first, placed) = one.place(&batch)?;
                origin.first = Some(first);
                placed
            }
        };
        let output = self.graphs[0].run(vec![(source, batch)])?;
        let failed = output.rejected.into_iter().map(|row| origin.rejected(row.row, &row.failure));
        let failed = failed.collect::<Result<Rejections>>()?;
        self.tally.failed(&failed);
        let finish = |(sink, batches): (usize, &Vec<RecordBatch>)| {
            batches.iter().map(|batch| self.outputs.finish(sink, batch, &origin)).collect::<Result<Vec<_>>>()
        };
        let outputs = output.sinks.iter().enumerate().map(finish).collect::<Result<Vec<_>>>()?;
        let rows =
            outputs.iter().enumerate().flat_map(|(sink, batches)| batches.iter().map(move |batch| (sink, batch)));
        self.tally.rows(rows);
        rejected.extend(failed);
        rejected.sort_by_key(|(position, _)| *position);
        Ok(Turn { outputs, rejected: rejected.into_iter().map(|(_, rejected)| rejected).collect() })
    }

    /// Puts rows through the graph for what they leave in its state. What comes out at each sink, with hidden columns.
    pub(super) fn feed(&mut self, source: usize, batch: RecordBatch) -> Result<Vec<Vec<RecordBatch>>> {
        self.graphs[0].run(vec![(source, batch)]).map(|output| output.sinks)
    }

    /// The graph with its state.
    pub(super) fn into_graph(mut self) -> Graph {
        self.graphs.swap_remove(0)
    }

    /// Decodes and counts a block; its rows are still to be taken.
    pub(crate) fn accept(&mut self, source: usize, block: StoredBlock, units: &Units) -> Result<Accepted> {
        let accepted = self.inputs.accept(source, block, units)?;
        self.tally.read(accepted.batch.num_rows(), &accepted.rejected);
        Ok(accepted)
    }
}

/// The decoders of a pipeline's sources.
#[derive(Debug)]
pub(super) struct Inputs {
    sources: Vec<(String, Decoder)>,
}

impl Inputs {
    fn new(pipeline: &Pipeline, plan: &Plan) -> Result<Inputs> {
        let mut sources = Vec::with_capacity(pipeline.sources.len());
        for (index, source) in pipeline.sources.iter().enumerate() {
            let decoder = match &source.internal {
                None => Decoder::new(source, plan.checks(index))?,
                // Nothing is read from its topic here.
                Some(internal) => Decoder::of_internal(source, internal, Stamp { pipeline: 0, columns: 0 })?,
            };
            sources.push((source.name.clone(), decoder));
        }
        Ok(Inputs { sources })
    }

    /// Declared, metadata and hidden columns of a source.
    pub(super) fn schema(&self, source: usize) -> SchemaRef {
        self.sources[source].1.schema()
    }

    /// Decodes a block.
    pub(super) fn accept(&mut self, source: usize, block: StoredBlock, units: &Units) -> Result<Accepted> {
        let (name, decoder) = &mut self.sources[source];
        let (decoded, records) = match block {
            StoredBlock::File(FileBlock::Records(records)) => (decoder.decode(&records, units), records),
            StoredBlock::File(FileBlock::Rows(rows)) => (decoder.accept_rows(&rows, units), rows.to_records()),
            StoredBlock::Archived(rows) => (decoder.accept_archived(&rows.batch, &rows.records, units), rows.records),
        };
        let decoded = decoded.map_err(|error| error.context(format!("source {name}")))?;
        let num_decoded = decoded.batch.num_rows() + decoded.rejected.len() + decoded.num_stale;
        if num_decoded != records.len() || decoded.num_stale != 0 {
            // I6
            return Err(Error::internal(format!("source {name}: {} records, {num_decoded} outcomes", records.len())));
        }
        let mut rejected = Vec::new();
        for one in decoded.rejected {
            let (number, offset) = (records.units[one.record], records.offsets[one.record]);
            let unit = unit_of(number, units)?;
            rejected.push(((number, offset), RejectedRecord { unit, offset, reason: one.reason, detail: one.detail }));
        }
        Ok(Accepted { batch: decoded.batch, rejected })
    }
}

/// What the outputs' rows look like.
#[derive(Debug)]
pub(super) struct Outputs {
    /// Of each output the columns with positions, where it has them.
    with_positions: Vec<Option<SchemaRef>>,
    /// Whether each output's rows are for the join of labels, which needs the hidden columns.
    for_labels: Vec<bool>,
}

impl Outputs {
    fn new(pipeline: &Pipeline, plan: &Plan) -> Outputs {
        let with_positions = (0..pipeline.sinks.len()).map(|sink| {
            let has_positions =
                matches!(&pipeline.sinks[sink].connector, SinkConnector::Parquet(parquet) if parquet.has_positions);
            has_positions.then(|| schema_with_positions(&super::visible_schema(plan, sink)))
        });
        let is_for_labels = |sink: &Sink| matches!(sink.connector, SinkConnector::Labels(_));
        Outputs {
            with_positions: with_positions.collect(),
            for_labels: pipeline.sinks.iter().map(is_for_labels).collect(),
        }
    }

    /// The columns of an output that has positions.
    pub(super) fn schema_with_positions(&self, output: usize) -> Option<&SchemaRef> {
        self.with_positions[output].as_ref()
    }

    /// Rows that came out of a graph without the hidden columns, but for the join of labels; with positions, where the output has
    /// them.
    pub(super) fn finish(&self, output: usize, batch: &RecordBatch, origin: &Origin<'_>) -> Result<RecordBatch> {
        if self.for_labels[output] {
            return Ok(batch.clone());
        }
        let columns: Vec<usize> = (0..num_visible(batch)).collect();
        let visible =
            batch.project(&columns).map_err(|error| Error::internal("a batch lost its columns").with_source(error))?;
        let Some(schema) = &self.with_positions[output] else { return Ok(visible) };
        let hidden = Hidden::of(batch)?;
        let positions = hidden.unit.values().iter().zip(hidden.offset.values());
        let positions = positions.map(|(unit, offset)| origin.of(*unit, *offset)).collect::<Result<Vec<_>>>()?;
        with_positions(&visible, schema.clone(), positions.into_iter(), hidden.ordinal, hidden.broker_time)
    }
}

/// Where the rows of a turn come from.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    pub(super) units: &'a Units,
    /// Of each row.
    pub(super) unit: UInt32Array,
    pub(super) offset: Int64Array,
    /// Where rows go through the graphs as those of one unit: their offsets count them, from this one.
    pub(super) first: Option<i64>,
}

impl<'a> Origin<'a> {
    /// Of rows that go through the graphs as they are.
    fn own(batch: &RecordBatch, units: &'a Units) -> Result<Origin<'a>> {
        let hidden = Hidden::of(batch)?;
        Ok(Origin { units, unit: hidden.unit.clone(), offset: hidden.offset.clone(), first: None })
    }

    fn of(&self, unit: u32, offset: i64) -> Result<(&'a StateUnit, i64)> {
        let lost = || Error::internal("a row came out of the graph that did not go in");
        let (unit, offset) = match self.first {
            None => (unit, offset),
            Some(first) => {
                let row = usize::try_from(offset - first).ok().filter(|row| *row < self.unit.len());
                let row = row.ok_or_else(lost)?;
                (self.unit.value(row), self.offset.value(row))
            }
        };
        Ok((self.units.get(Assignment(unit)).ok_or_else(lost)?, offset))
    }

    /// The record of a row on which the SQL failed.
    pub(super) fn rejected(&self, row: usize, failure: &Failure) -> Result<((u32, i64), RejectedRecord)> {
        let (number, offset) = (self.unit.value(row), self.offset.value(row));
        let (unit, detail) = (unit_of(number, self.units)?, Some(failure.to_string()));
        Ok(((number, offset), RejectedRecord { unit, offset, reason: Reason::SqlError, detail }))
    }
}

fn unit_of(number: u32, units: &Units) -> Result<StateUnit> {
    let unit = units.get(Assignment(number));
    unit.cloned().ok_or_else(|| Error::internal("a record of a unit that is not held"))
}
