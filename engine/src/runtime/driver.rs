//! One epoch: records in, rows decoded, the graph run, rows written, positions moved. The order of these is written here and
//! nowhere else. It knows no connector, spawns nothing and never waits for the outside.
//!
//! - I1: a unit's position moves only after every sink has taken the epoch's rows.
//! - I6: every record read is counted in exactly one outcome; asserted at the end of each epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use metrics::Counter;

use super::block::Block;
use super::clock;
use super::units::{HeldUnits, Replayed};
use crate::decode::{Decoder, Reason, Rejected, RejectionRate, dead_letter_batch};
use crate::error::{Error, Result};
use crate::observe::latency::Latency;
use crate::observe::metrics::{SourceMetrics, WorkerMetrics, rows_out};
use crate::observe::status::SourceCounts;
use crate::plan::{FailedRow, Graph};
use crate::sink::Sink;
use crate::source::kafka::KeyCheck;
use crate::types::{Assignment, Epoch, EventTime, HIDDEN_W, Hidden, RecordBlock, Watermark, num_visible};

/// What the driver needs of one source.
#[derive(Debug)]
pub(crate) struct SourceLane {
    pub(crate) name: String,
    pub(crate) decoder: Decoder,
    pub(crate) rejection_rate: Option<RejectionRate>,
    pub(crate) key_check: Option<KeyCheck>,
    pub(crate) max_record_bytes: usize,
    pub(crate) metrics: SourceMetrics,
    pub(crate) counts: SourceCounts,
}

/// A sink and its counts.
pub(crate) struct SinkLane {
    pub(crate) name: String,
    pub(crate) sink: Box<dyn Sink>,
    rows_out: Counter,
    pub(crate) rows: u64,
}

impl std::fmt::Debug for SinkLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkLane").field("name", &self.name).field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl SinkLane {
    pub(crate) fn new(name: &str, sink: Box<dyn Sink>) -> SinkLane {
        SinkLane { name: name.to_owned(), sink, rows_out: rows_out(name), rows: 0 }
    }

    fn write(&mut self, position: usize, batch: RecordBatch, units: &HeldUnits) -> Result<()> {
        let batch = units.suppress(position, batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.sink.write(&batch, units.names()).map_err(|error| error.context(format!("sink {}", self.name)))?;
        let rows = batch.num_rows() as u64;
        self.rows += rows;
        self.rows_out.increment(rows);
        Ok(())
    }
}

/// Everything that one epoch touches.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) sources: Vec<SourceLane>,
    pub(crate) graph: Graph,
    /// The pipeline's sinks, in its order.
    pub(crate) sinks: Vec<SinkLane>,
    /// Rejected records; its position follows those of the sinks.
    pub(crate) dead_letter: Option<SinkLane>,
    pub(crate) units: HeldUnits,
    pub(crate) epoch: Epoch,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) latency: Latency,
    /// Reused between epochs: (milliseconds, records) of runs of equal latency.
    latency_runs: Vec<(u64, u64)>,
    /// Records and microseconds of the last epoch.
    pub(crate) last_epoch: (u64, u64),
}

/// A block in one epoch, on its way.
struct Lane {
    source: usize,
    records: RecordBlock,
    rejected: Vec<Rejected>,
    num_stale: usize,
    num_repeated: usize,
    num_late: usize,
    num_rows: usize,
    replayed: Replayed,
    /// W of each unit that has rejected records, after the block was decoded.
    watermarks: BTreeMap<u32, Watermark>,
}

impl Driver {
    pub(crate) fn new(
        sources: Vec<SourceLane>,
        graph: Graph,
        sinks: Vec<SinkLane>,
        dead_letter: Option<SinkLane>,
        metrics: WorkerMetrics,
        latency: Latency,
    ) -> Driver {
        Driver {
            sources,
            graph,
            sinks,
            dead_letter,
            units: HeldUnits::default(),
            epoch: Epoch::FIRST,
            metrics,
            latency,
            latency_runs: Vec::new(),
            last_epoch: (0, 0),
        }
    }

    /// Number of sinks, the dead letters included: the length of a unit's `sink_positions`.
    pub(crate) fn num_sinks(&self) -> usize {
        self.sinks.len() + usize::from(self.dead_letter.is_some())
    }

    /// All sinks, the dead letters last, as in a unit's `sink_positions`.
    pub(crate) fn all_sinks(&mut self) -> impl Iterator<Item = &mut SinkLane> {
        self.sinks.iter_mut().chain(self.dead_letter.as_mut())
    }

    /// Forgets everything held in memory of units that are somebody else's now.
    pub(crate) fn forget(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            self.units.remove(*assignment);
            self.graph.discard(*assignment);
            for source in &mut self.sources {
                source.decoder.forget(*assignment);
                source.key_check.iter_mut().for_each(|check| check.forget(*assignment));
            }
        }
        for lane in self.all_sinks() {
            lane.sink.forget(assignments);
        }
    }

    /// Runs one epoch over what was read: `(source, block)`, those of one source in their order.
    pub(crate) fn run_epoch(&mut self, blocks: Vec<(usize, Block)>) -> Result<()> {
        let started = clock::now();
        let mut lanes = Vec::with_capacity(blocks.len());
        let mut inputs = Vec::with_capacity(blocks.len());
        for (source, block) in blocks {
            let (lane, batch) = self.decode(source, block)?;
            lanes.push(lane);
            inputs.push((source, batch));
        }
        self.note_latencies(&inputs)?;
        let output = self.graph.run(inputs.clone())?;
        note_failed_rows(&mut lanes, &inputs, &output.rejected)?;
        for (lane, (_, batch)) in lanes.iter().zip(&inputs) {
            self.bury(lane, batch)?;
        }
        for (position, (lane, batches)) in self.sinks.iter_mut().zip(output.sinks).enumerate() {
            for batch in batches {
                lane.write(position, batch, &self.units)?;
            }
        }
        self.emit_latencies();
        let num_records: usize = lanes.iter().map(|lane| lane.records.len()).sum();
        for lane in &mut lanes {
            self.settle(lane)?;
        }
        self.epoch = self.epoch.next();
        self.metrics.epochs.increment(1);
        self.metrics.epoch_rows.record(num_records as f64);
        let took = started.elapsed();
        self.metrics.epoch_duration.record(took.as_secs_f64());
        self.last_epoch = (num_records as u64, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn decode(&mut self, source: usize, block: Block) -> Result<(Lane, RecordBatch)> {
        let lane = &mut self.sources[source];
        let units = self.units.names();
        let (decoded, records) = match block {
            Block::Records(records) => (lane.decoder.decode(&records, units), records),
            Block::Rows(rows) => (lane.decoder.accept_rows(&rows, units), rows.to_records()),
        };
        let decoded = decoded.map_err(|error| error.context(format!("source {}", lane.name)))?;
        let num_rows = decoded.batch.num_rows();
        let replayed = self.units.replayed(&records.units, &records.offsets, &decoded.batch)?;
        let unit_of = |rejected: &Rejected| records.units[rejected.record];
        let watermarks =
            decoded.rejected.iter().map(unit_of).map(|unit| (unit, lane.decoder.watermark(Assignment(unit)))).collect();
        let lane = Lane {
            source,
            records,
            rejected: decoded.rejected,
            num_stale: decoded.num_stale,
            num_repeated: decoded.num_repeated,
            num_late: decoded.num_late,
            num_rows,
            replayed,
            watermarks,
        };
        Ok((lane, decoded.batch))
    }

    /// Writes a source's rejected records to the dead letters.
    fn bury(&mut self, lane: &Lane, accepted: &RecordBatch) -> Result<()> {
        if lane.rejected.is_empty() {
            return Ok(());
        }
        let source = &self.sources[lane.source];
        let Some(sink) = self.dead_letter.as_mut() else {
            return Err(no_dead_letter(lane, source, &self.units));
        };
        let batch = dead_letter_batch(&lane.records, &lane.rejected, self.units.names(), source.max_record_bytes)?;
        let batch = with_watermarks(batch, &watermarks_before(lane, &Hidden::of(accepted)?))?;
        sink.write(self.sinks.len(), batch, &self.units)
    }

    /// Counts a source's records and moves its units past them.
    fn settle(&mut self, lane: &mut Lane) -> Result<()> {
        let is_replayed =
            |one: &&Rejected| self.units.is_replayed(lane.records.units[one.record], lane.records.offsets[one.record]);
        let again = lane.rejected.iter().filter(is_replayed).count() as u64;
        // Rejected by SQL: they had become rows.
        let failed = |one: &&Rejected| one.reason == Reason::SqlError;
        let failed_again = lane.rejected.iter().filter(failed).filter(is_replayed).count() as u64;
        for rejected in lane.rejected.iter().filter(|one| !is_replayed(one)) {
            self.sources[lane.source].metrics.rejected(rejected.reason.as_str(), 1);
        }
        let key_check = self.sources[lane.source].key_check.as_mut();
        let units = &self.units;
        let is_new = |record: usize| !units.is_replayed(lane.records.units[record], lane.records.offsets[record]);
        let misplaced = key_check.map_or(0, |check| check.num_misplaced(&lane.records, is_new));
        self.units.advance(&lane.records.units, &lane.records.offsets)?;
        let source = &mut self.sources[lane.source];
        let (read, rejected) = (lane.records.len() as u64, lane.rejected.len() as u64);
        let decoded = (lane.num_rows as u64).saturating_sub(lane.rejected.iter().filter(failed).count() as u64);
        let outcome = decoded + rejected + (lane.num_stale + lane.num_repeated) as u64;
        if outcome != read {
            // I6: a record that has no outcome, or two, is a bug that would lose or double rows.
            return Err(Error::internal(format!(
                "source {}: {read} records were read, but {decoded} decoded, {rejected} rejected, {} stale and {} repeated",
                source.name, lane.num_stale, lane.num_repeated
            )));
        }
        let Replayed { records: replayed, rows: rows_again, late: late_again } = lane.replayed;
        let repeated_again = replayed - rows_again - (again - failed_again);
        let counts = SourceCounts {
            read: read - replayed,
            decoded: decoded - (rows_again - failed_again),
            rejected: rejected - again,
            stale: lane.num_stale as u64,
            repeated: lane.num_repeated as u64 - repeated_again,
            late: lane.num_late as u64 - late_again,
            misplaced,
            replayed,
        };
        source.counts.add(&counts);
        source.metrics.count(&counts);
        source.metrics.bytes.increment(lane.records.num_bytes() as u64);
        match &mut source.rejection_rate {
            Some(rate) => rate.observe(decoded as usize, &lane.rejected),
            None => Ok(()),
        }
    }

    /// Notes the broker timestamps of the rows about to be run, as runs of equal milliseconds.
    fn note_latencies(&mut self, inputs: &[(usize, RecordBatch)]) -> Result<()> {
        self.latency_runs.clear();
        for (_, batch) in inputs {
            let hidden = Hidden::of(batch)?;
            for (row, time) in hidden.broker_time.values().iter().enumerate() {
                let Ok(time) = u64::try_from(*time) else { continue };
                if self.units.is_replayed(hidden.unit.value(row), hidden.offset.value(row)) {
                    continue;
                }
                match self.latency_runs.last_mut() {
                    Some((last, records)) if *last == time => *records += 1,
                    _ => self.latency_runs.push((time, 1)),
                }
            }
        }
        Ok(())
    }

    /// Turns the noted timestamps into latencies, now that the rows are out.
    fn emit_latencies(&mut self) {
        let now = u64::try_from(clock::wall_millis()).unwrap_or(0);
        for (time, _) in &mut self.latency_runs {
            *time = now.saturating_sub(*time);
        }
        self.latency.record(self.latency_runs.iter().copied());
    }
}

/// Rows whose SQL failed join the rejected records of their block.
fn note_failed_rows(lanes: &mut [Lane], inputs: &[(usize, RecordBatch)], failed: &[FailedRow]) -> Result<()> {
    // Failed rows come in the order of the input, and rows stand in the order of their records: one walk finds all.
    let (mut input, mut record) = (0, 0);
    for row in failed {
        if row.input != input {
            (input, record) = (row.input, 0);
        }
        let hidden = Hidden::of(&inputs[input].1)?;
        let (unit, offset) = (hidden.unit.value(row.row), hidden.offset.value(row.row));
        let lane = &mut lanes[input];
        let is_it = |i: &usize| lane.records.units[*i] == unit && lane.records.offsets[*i] == offset;
        let Some(found) = (record..lane.records.len()).find(is_it) else {
            return Err(Error::internal("a row failed whose record was not read in this epoch"));
        };
        record = found;
        lane.rejected.push(Rejected { record, reason: Reason::SqlError, detail: Some(row.failure.to_string()) });
    }
    for lane in lanes {
        lane.rejected.sort_by_key(|rejected| rejected.record);
    }
    Ok(())
}

/// W before each rejected record. A sink of dead letters that lags behind is a place to restart from (I4), so its rows need
/// W as exactly as accepted ones.
fn watermarks_before(lane: &Lane, accepted: &Hidden<'_>) -> Vec<Option<i64>> {
    let value = |row: usize| accepted.w.is_valid(row).then(|| accepted.w.value(row));
    // Before the block: W of the unit's first accepted row, or where none was accepted, what it still is.
    let mut current: BTreeMap<u32, Option<i64>> =
        lane.watermarks.iter().map(|(unit, w)| (*unit, w.get().map(EventTime::as_micros))).collect();
    current.extend((0..accepted.num_rows()).rev().map(|row| (accepted.unit.value(row), value(row))));
    let mut before = Vec::with_capacity(lane.rejected.len());
    let (mut row, mut rejected) = (0, lane.rejected.iter().peekable());
    for record in 0..lane.records.len() {
        let (unit, offset) = (lane.records.units[record], lane.records.offsets[record]);
        if rejected.next_if(|one| one.record == record).is_some() {
            before.push(current.get(&unit).copied().flatten());
        }
        if row < accepted.num_rows() && accepted.unit.value(row) == unit && accepted.offset.value(row) == offset {
            current.insert(unit, value(row).max(Some(accepted.event_time.value(row))));
            row += 1;
        }
    }
    before
}

fn with_watermarks(batch: RecordBatch, watermarks: &[Option<i64>]) -> Result<RecordBatch> {
    let at = num_visible(&batch) + HIDDEN_W;
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(Int64Array::from(watermarks.to_vec()));
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|error| Error::internal("dead letters cannot be given their watermarks").with_source(error))
}

fn no_dead_letter(lane: &Lane, source: &SourceLane, units: &HeldUnits) -> Error {
    let first = &lane.rejected[0];
    let unit = units.names().get(Assignment(lane.records.units[first.record]));
    let place = unit.map_or_else(|| source.name.clone(), ToString::to_string);
    Error::data(format!(
        "{place}: the record at offset {} was rejected ({}{}), and the pipeline has no dead letters; add `dead_letter:` to keep such records and go on",
        lane.records.offsets[first.record],
        first.reason.as_str(),
        first.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use arrow::array::UInt32Array;

    use super::*;

    #[test]
    fn a_rejected_record_knows_w_before_it() {
        let mut records = RecordBlock::default();
        // Offsets 10 to 15 of unit 1 and 20 of unit 2; 10, 12, 14, 15 of unit 1 and 20 of unit 2 are rejected, 14 by SQL.
        for (unit, offset) in [(1, 10), (1, 11), (1, 12), (2, 20), (1, 13), (1, 14), (1, 15)] {
            records.units.push(unit);
            records.offsets.push(offset);
        }
        let rejected =
            [0, 2, 3, 5, 6].map(|record| Rejected { record, reason: Reason::NotJson, detail: None }).to_vec();
        let watermarks = BTreeMap::from([
            (1, Watermark::NONE),
            (2, {
                let mut w = Watermark::NONE;
                w.advance(EventTime::from_micros(7));
                w
            }),
        ]);
        let lane = Lane {
            source: 0,
            records,
            rejected,
            num_stale: 0,
            num_repeated: 0,
            num_late: 0,
            num_rows: 3,
            replayed: Replayed::default(),
            watermarks,
        };
        let unit = UInt32Array::from(vec![1, 1, 1]);
        let offset = Int64Array::from(vec![11, 13, 14]);
        let event_time = Int64Array::from(vec![100, 90, 300]);
        let w = Int64Array::from(vec![Some(50), Some(100), Some(100)]);
        let none = Int64Array::from(vec![-1, -1, -1]);
        let ordinal = UInt32Array::from(vec![0, 0, 0]);
        let accepted = Hidden {
            unit: &unit,
            offset: &offset,
            ordinal: &ordinal,
            event_time: &event_time,
            w: &w,
            broker_time: &none,
        };
        assert_eq!(watermarks_before(&lane, &accepted), [Some(50), Some(100), Some(7), Some(100), Some(300)]);
    }
}
