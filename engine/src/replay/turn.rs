//! One turn over stored or previewed records: decoded as in a run, put through the graph, every record counted in one outcome.
//! Rows that were put into another order than that of their units go through the graph as one unit, in the order in which they
//! come. What a run adds (positions, sinks, checkpoints, dead letters) is not here; rejected records are values of the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

use crate::decode::{Decoder, Reason};
use crate::error::{Error, Result};
use crate::pipeline::settings::{Pipeline, SinkConnector};
use crate::plan::{Graph, Plan};
use crate::sink::parquet::positions::{schema_with_positions, with_positions};
use crate::source::files::{FileBlock, StoredBlock};
use crate::types::{Assignment, EventTime, HIDDEN_W, Hidden, RecordBlock, StateUnit, Units, Watermark, num_visible};

/// A record that did not become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Where it was read: source, file or topic, partition.
    pub unit: StateUnit,
    /// Its offset there: the line or row of a file, counted from 0.
    pub offset: i64,
    /// Why.
    pub reason: Reason,
    /// Which column, check or view: never a value of the record.
    pub detail: Option<String>,
}

impl fmt::Display for RejectedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.unit, self.offset, self.reason)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// What became of the records that were read: `read` is `accepted` and all `rejected` together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Those that became rows.
    pub accepted: u64,
    /// Rejected ones, by source and reason.
    pub rejected: BTreeMap<(String, Reason), u64>,
    /// The first of them by unit and offset, for a person to look at.
    pub first_rejected: Vec<RejectedRecord>,
    /// Rows of each output.
    pub rows: Vec<u64>,
}

/// Rejected records that are kept as examples.
const EXAMPLES: usize = 10;

impl Counts {
    /// Number of rejected records.
    #[must_use]
    pub fn num_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    fn count_rows(&mut self, outputs: &[Vec<RecordBatch>]) {
        for (rows, batches) in self.rows.iter_mut().zip(outputs) {
            *rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        }
    }
}

/// What one block came to.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Rows of each output: visible columns, and positions where the sink wants them.
    pub(crate) outputs: Vec<Vec<RecordBatch>>,
    /// By unit and offset.
    pub(crate) rejected: Vec<RejectedRecord>,
}

/// A block that was decoded and counted.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Its rows, with their own positions in the hidden columns.
    pub(crate) batch: RecordBatch,
    /// The others.
    rejected: Vec<(Position, RejectedRecord)>,
}

impl Accepted {
    /// The records that became no rows.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = &RejectedRecord> {
        self.rejected.iter().map(|(_, rejected)| rejected)
    }
}

/// What came out of the graph: rows of each output, and the rows that failed.
type Outcome = (Vec<Vec<RecordBatch>>, Vec<(Position, RejectedRecord)>);

/// Assignment and offset of a record.
type Position = (u32, i64);

/// Rows of all units of a source as those of one: how far it has come.
#[derive(Debug)]
pub(crate) struct OneUnit {
    assignment: Assignment,
    num_rows: i64,
    watermark: Watermark,
}

impl OneUnit {
    /// The beginning of a unit; the assignment is new.
    pub(crate) fn new(assignment: Assignment) -> OneUnit {
        OneUnit { assignment, num_rows: 0, watermark: Watermark::NONE }
    }

    /// The next rows with positions in this unit: offsets count them, W follows from them.
    pub(super) fn place(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let hidden = Hidden::of(batch)?;
        let num_rows = batch.num_rows();
        let offsets = (self.num_rows..).take(num_rows);
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(offsets));
        let before = hidden.event_time.values().iter().map(|micros| {
            let before = self.watermark;
            self.watermark.advance(EventTime::from_micros(*micros));
            before.get().map(EventTime::as_micros)
        });
        let before: ArrayRef = Arc::new(before.collect::<Int64Array>());
        self.num_rows += num_rows as i64;
        let first = num_visible(batch);
        let mut columns = batch.columns().to_vec();
        columns[first] = Arc::new(UInt32Array::from(vec![self.assignment.0; num_rows]));
        columns[first + 1] = offsets;
        columns[first + HIDDEN_W] = before;
        RecordBatch::try_new(batch.schema(), columns)
            .map_err(|error| Error::internal("rows cannot be given other positions").with_source(error))
    }
}

/// Decoders and graph of a pipeline.
#[derive(Debug)]
pub(crate) struct Turns {
    sources: Vec<(String, Decoder)>,
    graph: Graph,
    /// Of each output the columns with positions, where it has them.
    with_positions: Vec<Option<SchemaRef>>,
    counts: Counts,
    /// The first rejected records by position, whenever they were found.
    first_rejected: BTreeMap<Position, RejectedRecord>,
}

impl Turns {
    pub(crate) fn new(pipeline: &Pipeline, plan: &Plan) -> Result<Turns> {
        let mut sources = Vec::with_capacity(pipeline.sources.len());
        for (index, source) in pipeline.sources.iter().enumerate() {
            sources.push((source.name.clone(), Decoder::new(source, plan.checks(index))?));
        }
        let counts = Counts { rows: vec![0; pipeline.sinks.len()], ..Counts::default() };
        let with_positions = (0..pipeline.sinks.len()).map(|sink| {
            let has_positions =
                matches!(&pipeline.sinks[sink].connector, SinkConnector::Parquet(parquet) if parquet.has_positions);
            has_positions.then(|| schema_with_positions(&super::visible_schema(plan, sink)))
        });
        let with_positions = with_positions.collect();
        Ok(Turns { sources, graph: plan.instantiate()?, with_positions, counts, first_rejected: BTreeMap::new() })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The columns of an output that has positions.
    pub(crate) fn schema_with_positions(&self, output: usize) -> Option<&SchemaRef> {
        self.with_positions[output].as_ref()
    }

    /// Declared, metadata and hidden columns of a source.
    pub(crate) fn source_schema(&self, source: usize) -> SchemaRef {
        self.sources[source].1.schema()
    }

    /// Takes a block of one source; `units` names all units in it.
    pub(crate) fn take(&mut self, source: usize, block: FileBlock, units: &Units) -> Result<Turn> {
        self.take_stored(source, StoredBlock::File(block), units)
    }

    /// As [`Turns::take`], of an archive too.
    pub(crate) fn take_stored(&mut self, source: usize, block: StoredBlock, units: &Units) -> Result<Turn> {
        let Accepted { batch, mut rejected } = self.accept(source, block, units)?;
        let (outputs, failed) = self.run(source, &batch, None, units)?;
        rejected.extend(failed);
        rejected.sort_by_key(|(position, _)| *position);
        Ok(Turn { outputs, rejected: rejected.into_iter().map(|(_, rejected)| rejected).collect() })
    }

    /// Takes accepted rows of one source that stand in an order of their own, as rows of one unit.
    pub(crate) fn take_in_order(
        &mut self,
        source: usize,
        batch: &RecordBatch,
        unit: &mut OneUnit,
        units: &Units,
    ) -> Result<Turn> {
        let (outputs, failed) = self.run(source, batch, Some(unit), units)?;
        Ok(Turn { outputs, rejected: failed.into_iter().map(|(_, rejected)| rejected).collect() })
    }

    /// Puts rows through the graph for what they leave in its state.
    pub(super) fn feed(&mut self, source: usize, batch: RecordBatch) -> Result<()> {
        self.graph.run(vec![(source, batch)]).map(|_| ())
    }

    /// The graph with its state.
    pub(super) fn into_graph(self) -> Graph {
        self.graph
    }

    /// Decodes a block; its rows are still to be taken.
    pub(crate) fn accept(&mut self, source: usize, block: StoredBlock, units: &Units) -> Result<Accepted> {
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
            let position = position(&records, one.record);
            let (unit, offset) = (unit_of(position.0, units)?, position.1);
            rejected.push((position, RejectedRecord { unit, offset, reason: one.reason, detail: one.detail }));
        }
        self.counts.read += records.len() as u64;
        self.counts.accepted += decoded.batch.num_rows() as u64;
        self.note(&rejected);
        Ok(Accepted { batch: decoded.batch, rejected })
    }

    /// Puts rows through the graph; those that fail are not accepted any more.
    fn run(
        &mut self,
        source: usize,
        batch: &RecordBatch,
        unit: Option<&mut OneUnit>,
        units: &Units,
    ) -> Result<Outcome> {
        let own = Hidden::of(batch)?;
        let (placed, origin) = match unit {
            None => (batch.clone(), Origin::Own(units)),
            Some(unit) => {
                let first = unit.num_rows;
                (unit.place(batch)?, Origin::Rows { first, own, units })
            }
        };
        let output = self.graph.run(vec![(source, placed)])?;
        let mut failed = Vec::new();
        for row in output.rejected {
            let (number, offset) = (own.unit.value(row.row), own.offset.value(row.row));
            let (unit, detail) = (unit_of(number, units)?, Some(row.failure.to_string()));
            failed.push(((number, offset), RejectedRecord { unit, offset, reason: Reason::SqlError, detail }));
        }
        self.counts.accepted -= failed.len() as u64;
        self.note(&failed);
        let mut outputs = Vec::with_capacity(output.sinks.len());
        for (batches, schema) in output.sinks.iter().zip(&self.with_positions) {
            let rows = batches.iter().map(|batch| match schema {
                None => visible(batch),
                Some(schema) => positioned(batch, schema, origin),
            });
            outputs.push(rows.collect::<Result<Vec<_>>>()?);
        }
        self.counts.count_rows(&outputs);
        Ok((outputs, failed))
    }

    fn note(&mut self, rejected: &[(Position, RejectedRecord)]) {
        for (position, rejected) in rejected {
            *self.counts.rejected.entry((rejected.unit.source.to_string(), rejected.reason)).or_default() += 1;
            let is_among_first = self.first_rejected.len() < EXAMPLES
                || self.first_rejected.last_key_value().is_some_and(|(last, _)| position < last);
            if is_among_first {
                self.first_rejected.insert(*position, rejected.clone());
                if self.first_rejected.len() > EXAMPLES {
                    self.first_rejected.pop_last();
                }
                self.counts.first_rejected = self.first_rejected.values().cloned().collect();
            }
        }
    }
}

/// Where rows that come out of the graph come from.
#[derive(Debug, Clone, Copy)]
enum Origin<'a> {
    /// Their hidden columns say it.
    Own(&'a Units),
    /// Their offsets count the rows that went in, from `first`; `own` says it of those.
    Rows { first: i64, own: Hidden<'a>, units: &'a Units },
}

impl<'a> Origin<'a> {
    fn of(self, unit: u32, offset: i64) -> Result<(&'a StateUnit, i64)> {
        let lost = || Error::internal("a row came out of the graph that did not go in");
        let (units, unit, offset) = match self {
            Origin::Own(units) => (units, unit, offset),
            Origin::Rows { first, own, units } => {
                let row = usize::try_from(offset - first).ok().filter(|row| *row < own.num_rows());
                let row = row.ok_or_else(lost)?;
                (units, own.unit.value(row), own.offset.value(row))
            }
        };
        Ok((units.get(Assignment(unit)).ok_or_else(lost)?, offset))
    }
}

fn position(records: &RecordBlock, record: usize) -> Position {
    (records.units[record], records.offsets[record])
}

fn unit_of(number: u32, units: &Units) -> Result<StateUnit> {
    let unit = units.get(Assignment(number));
    unit.cloned().ok_or_else(|| Error::internal("a record of a unit that is not held"))
}

fn visible(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<usize> = (0..num_visible(batch)).collect();
    batch.project(&columns).map_err(|error| Error::internal("a batch lost its columns").with_source(error))
}

/// Visible columns, and where each row comes from.
fn positioned(batch: &RecordBatch, schema: &SchemaRef, origin: Origin<'_>) -> Result<RecordBatch> {
    let hidden = Hidden::of(batch)?;
    let positions = hidden.unit.values().iter().zip(hidden.offset.values());
    let positions = positions.map(|(unit, offset)| origin.of(*unit, *offset)).collect::<Result<Vec<_>>>()?;
    with_positions(&visible(batch)?, schema.clone(), positions.into_iter(), hidden.ordinal, hidden.broker_time)
}
