//! One turn over stored or previewed records: decoded as in a run, put through the graph, every record counted in one outcome.
//! What a run adds (positions, sinks, checkpoints, dead letters) is not here; rejected records are values of the answer.

use std::collections::BTreeMap;
use std::fmt;

use arrow::array::RecordBatch;

use crate::decode::{Decoder, Reason};
use crate::error::{Error, Result};
use crate::pipeline::settings::Pipeline;
use crate::plan::{Graph, Plan};
use crate::source::files::FileBlock;
use crate::types::{Assignment, Hidden, RecordBlock, StateUnit, Units, num_visible};

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
    /// The first of them, for a person to look at.
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

    fn add(&mut self, turn: &Turn) {
        self.read += turn.num_read;
        self.accepted += turn.num_read - turn.rejected.len() as u64;
        self.rows.resize(self.rows.len().max(turn.outputs.len()), 0);
        for (rows, batches) in self.rows.iter_mut().zip(&turn.outputs) {
            *rows += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        }
        for rejected in &turn.rejected {
            *self.rejected.entry((rejected.unit.source.to_string(), rejected.reason)).or_default() += 1;
            if self.first_rejected.len() < EXAMPLES {
                self.first_rejected.push(rejected.clone());
            }
        }
    }
}

/// What one block came to.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Rows of each output: visible columns only.
    pub(crate) outputs: Vec<Vec<RecordBatch>>,
    /// In the order of the records.
    pub(crate) rejected: Vec<RejectedRecord>,
    num_read: u64,
}

/// Decoders and graph of a pipeline.
#[derive(Debug)]
pub(crate) struct Turns {
    sources: Vec<(String, Decoder)>,
    graph: Graph,
    counts: Counts,
}

impl Turns {
    pub(crate) fn new(pipeline: &Pipeline, plan: &Plan) -> Result<Turns> {
        let mut sources = Vec::with_capacity(pipeline.sources.len());
        for (index, source) in pipeline.sources.iter().enumerate() {
            sources.push((source.name.clone(), Decoder::new(source, plan.checks(index))?));
        }
        let counts = Counts { rows: vec![0; pipeline.sinks.len()], ..Counts::default() };
        Ok(Turns { sources, graph: plan.instantiate()?, counts })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes a block of one source; `units` names all units in it.
    pub(crate) fn take(&mut self, source: usize, block: FileBlock, units: &Units) -> Result<Turn> {
        let (name, decoder) = &mut self.sources[source];
        let (decoded, records) = match block {
            FileBlock::Records(records) => (decoder.decode(&records, units), records),
            FileBlock::Rows(rows) => (decoder.accept_rows(&rows, units), rows.to_records()),
        };
        let decoded = decoded.map_err(|error| error.context(format!("source {name}")))?;
        let mut rejected = Vec::new();
        for one in decoded.rejected {
            let (unit, offset) = (unit_of(&records, one.record, units)?, records.offsets[one.record]);
            rejected.push((one.record, RejectedRecord { unit, offset, reason: one.reason, detail: one.detail }));
        }
        let num_decoded = decoded.batch.num_rows() + rejected.len() + decoded.num_stale;
        if num_decoded != records.len() || decoded.num_stale != 0 {
            // I6
            return Err(Error::internal(format!("source {name}: {} records, {num_decoded} outcomes", records.len())));
        }
        let output = self.graph.run(vec![(source, decoded.batch.clone())])?;
        let hidden = Hidden::of(&decoded.batch)?;
        // Failed rows come in the order of the input, and rows stand in the order of their records: one walk finds all.
        let mut next = 0;
        for failed in output.rejected {
            let (unit, offset) = (hidden.unit.value(failed.row), hidden.offset.value(failed.row));
            let is_it = |record: &usize| records.units[*record] == unit && records.offsets[*record] == offset;
            let record = (next..records.len()).find(is_it);
            let record = record.ok_or_else(|| Error::internal("a row failed whose record was not read"))?;
            next = record;
            let (unit, detail) = (unit_of(&records, record, units)?, Some(failed.failure.to_string()));
            rejected.push((record, RejectedRecord { unit, offset, reason: Reason::SqlError, detail }));
        }
        rejected.sort_by_key(|(record, _)| *record);
        let outputs =
            output.sinks.into_iter().map(|batches| batches.iter().map(visible).collect()).collect::<Result<_>>()?;
        let rejected = rejected.into_iter().map(|(_, rejected)| rejected).collect();
        let turn = Turn { outputs, rejected, num_read: records.len() as u64 };
        self.counts.add(&turn);
        Ok(turn)
    }
}

fn unit_of(records: &RecordBlock, record: usize, units: &Units) -> Result<StateUnit> {
    let unit = units.get(Assignment(records.units[record]));
    unit.cloned().ok_or_else(|| Error::internal("a record of a unit that is not held"))
}

fn visible(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<usize> = (0..num_visible(batch)).collect();
    batch.project(&columns).map_err(|error| Error::internal("a batch lost its columns").with_source(error))
}
