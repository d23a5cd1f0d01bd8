//! Records to rows with positions. Decides which records become rows, fixes each row's event time and W, and keeps W of
//! every unit; how a payload is read is `json`'s business, and what happens to rejected records the driver's.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};

use super::internal::{InternalRows, Stamp};
use super::json::{Fault, JsonRows};
use super::metadata::{broker_micros, metadata_column};
use super::reason::{Reason, Rejected};
use super::schema::{table_schema, with_hidden};
use super::{NoChecks, RowChecks};
use crate::error::{Error, Result};
use crate::pipeline::settings::{Column, InternalTopic, MetadataKind, Source};
use crate::types::{Assignment, EventTime, RecordBlock, SeenPositions, Units, Watermark};

/// What a block of records came to.
#[derive(Debug)]
pub struct Decoded {
    /// The accepted rows, in the order of their records.
    pub batch: RecordBatch,
    /// The rejected records, in their order.
    pub rejected: Vec<Rejected>,
    /// Accepted rows whose event time is below W.
    pub num_late: usize,
    /// Records of assignments that are not held any more: neither accepted nor rejected.
    pub num_stale: usize,
    /// Records of an internal topic that were in it before: neither accepted nor rejected.
    pub num_repeated: usize,
}

/// Decodes the records of one source; one per worker.
///
/// The event time of a source without an `event_time` column is the broker's timestamp, or 0 where a record has none.
#[derive(Debug)]
pub struct Decoder {
    pub(super) source_name: String,
    pub(super) columns: Vec<Column>,
    pub(super) metadata: Vec<MetadataKind>,
    pub(super) event_time: Option<usize>,
    pub(super) max_skew_micros: i64,
    max_record_bytes: usize,
    checks: Option<Box<dyn RowChecks>>,
    pub(super) table_schema: SchemaRef,
    schema: SchemaRef,
    rows: JsonRows,
    /// Of an internal topic: its form, and what was seen there.
    internal: Option<InternalRows>,
    watermarks: BTreeMap<Assignment, Watermark>,
}

/// Rows that passed everything but the checks, and where they come from.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Declared and metadata columns.
    pub(super) batch: RecordBatch,
    /// Where each row stands in its block or batch.
    pub(super) records: Vec<usize>,
    /// Those rejected already.
    pub(super) rejected: Vec<Rejected>,
    pub(super) num_stale: usize,
    pub(super) num_repeated: usize,
}

/// Positions of the records that rows come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positions<'a> {
    pub(super) units: &'a [u32],
    pub(super) offsets: &'a [i64],
    pub(super) timestamps_ms: &'a [i64],
}

impl Decoder {
    /// A decoder for `source`. `checks` are those of the source, compiled; they are not asked when it has none.
    pub fn new(source: &Source, checks: Box<dyn RowChecks>) -> Result<Decoder> {
        let event_time = match &source.event_time {
            Some(name) => Some(event_time_column(source, name)?),
            None => None,
        };
        let table_schema = table_schema(source);
        Ok(Decoder {
            source_name: source.name.clone(),
            columns: source.columns.clone(),
            metadata: source.metadata.iter().map(|column| column.kind).collect(),
            event_time,
            max_skew_micros: i64::try_from(source.max_future_skew.as_micros()).unwrap_or(i64::MAX),
            max_record_bytes: source.max_record_bytes,
            checks: (!source.checks.is_empty()).then_some(checks),
            schema: with_hidden(&table_schema),
            table_schema,
            rows: JsonRows::new(&source.columns, event_time),
            internal: None,
            watermarks: BTreeMap::new(),
        })
    }

    /// A decoder for a source that reads an internal topic: neither checks nor the guard against the future, which its rows
    /// have passed.
    pub(crate) fn of_internal(source: &Source, internal: &InternalTopic, stamp: Stamp) -> Result<Decoder> {
        let bare = Source { event_time: None, checks: Vec::new(), ..source.clone() };
        let event_time = internal.columns.index_of(&internal.event_time);
        let event_time = event_time.map_err(|_| Error::internal("an internal topic without its event time"))?;
        Ok(Decoder {
            event_time: Some(event_time),
            internal: Some(InternalRows::new(internal, event_time, stamp)?),
            ..Decoder::new(&bare, Box::new(NoChecks))?
        })
    }

    /// Sets what was seen of an internal topic below a unit's position, from its manifest.
    pub fn set_seen(&mut self, assignment: Assignment, seen: SeenPositions) {
        if let Some(internal) = &mut self.internal {
            internal.set_seen(assignment, seen);
        }
    }

    /// What was seen of an internal topic below a unit's position; `None` of another source.
    #[must_use]
    pub fn seen(&self, assignment: Assignment) -> Option<SeenPositions> {
        self.internal.as_ref().map(|internal| internal.seen(assignment))
    }

    /// Declared columns, metadata columns, hidden columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Sets W of a unit that was assigned, from its manifest.
    pub fn set_watermark(&mut self, assignment: Assignment, watermark: Watermark) {
        self.watermarks.insert(assignment, watermark);
    }

    /// W of a unit, for its next manifest.
    #[must_use]
    pub fn watermark(&self, assignment: Assignment) -> Watermark {
        self.watermarks.get(&assignment).copied().unwrap_or_default()
    }

    /// Forgets a unit that was taken.
    pub fn forget(&mut self, assignment: Assignment) {
        self.watermarks.remove(&assignment);
        if let Some(internal) = &mut self.internal {
            internal.forget(assignment);
        }
    }

    /// Decodes payloads: JSON, or rows of an internal topic. A bad record is a value of the answer, never an error.
    pub fn decode(&mut self, block: &RecordBlock, units: &Units) -> Result<Decoded> {
        if i32::try_from(block.num_bytes()).is_err() {
            return Err(Error::invalid(format!(
                "source {}: one micro-batch holds {} bytes, more than the {} that a column of strings can hold; lower max_batch_rows",
                self.source_name,
                block.num_bytes(),
                i32::MAX
            )));
        }
        let candidates = match &mut self.internal {
            None => self.read(block, units)?,
            Some(internal) => internal.read(block, units, &self.table_schema)?,
        };
        let positions = Positions { units: &block.units, offsets: &block.offsets, timestamps_ms: &block.timestamps_ms };
        self.finish(candidates, positions)
    }

    fn read(&mut self, block: &RecordBlock, units: &Units) -> Result<Candidates> {
        self.rows.reserve(block.len());
        let mut records = Vec::with_capacity(block.len());
        let mut rejected = Vec::new();
        let mut num_stale = 0;
        let mut held = HeldUnits::new(units);
        for record in 0..block.len() {
            if !held.contains(block.units[record]) {
                num_stale += 1;
                continue;
            }
            match self.read_record(block.values.get(record), block.timestamps_ms[record]) {
                Ok(()) => records.push(record),
                Err(fault) => rejected.push(self.rejected(record, fault, block.values.get(record))),
            }
        }
        let mut columns = self.rows.take()?;
        for kind in &self.metadata {
            columns.push(metadata_column(*kind, block, &records, units)?);
        }
        let batch = new_batch(&self.table_schema, columns, records.len())?;
        Ok(Candidates { batch, records, rejected, num_stale, num_repeated: 0 })
    }

    /// Adds a row, or nothing.
    #[inline]
    fn read_record(&mut self, payload: Option<&[u8]>, timestamp_ms: i64) -> Result<(), Fault> {
        let payload = payload.ok_or(Fault { reason: Reason::Tombstone, column: None })?;
        if payload.len() > self.max_record_bytes {
            return Err(Fault { reason: Reason::TooLarge, column: None });
        }
        self.rows.push(payload)?;
        if let Some(column) = self.event_time
            && let Some(micros) = self.rows.last_micros(column)
            && is_too_far_ahead(micros, timestamp_ms, self.max_skew_micros)
        {
            self.rows.pop();
            return Err(Fault { reason: Reason::FutureEventTime, column: self.event_time });
        }
        Ok(())
    }

    #[cold]
    fn rejected(&self, record: usize, fault: Fault, payload: Option<&[u8]>) -> Rejected {
        let detail = match fault.column {
            Some(column) => Some(self.columns[column].name.clone()),
            None if fault.reason == Reason::TooLarge => {
                let bytes = payload.map_or(0, <[u8]>::len);
                Some(format!("{bytes} bytes, above max_record_bytes of {}", self.max_record_bytes))
            }
            None => None,
        };
        Rejected { record, reason: fault.reason, detail }
    }

    /// Applies the checks, and gives the rows that remain their positions and W.
    pub(super) fn finish(&mut self, candidates: Candidates, positions: Positions<'_>) -> Result<Decoded> {
        let checked = self.check(candidates)?;
        self.place(checked, positions)
    }

    /// Gives rows their positions and W.
    pub(super) fn place(&mut self, accepted: Candidates, positions: Positions<'_>) -> Result<Decoded> {
        let Candidates { batch, records, rejected, num_stale, num_repeated } = accepted;
        let event_times = self.event_times(&batch, &records, positions)?;
        let (w, num_late) = self.advance(&records, positions, &event_times);
        let unit = records.iter().map(|record| positions.units[*record]);
        let offset = records.iter().map(|record| positions.offsets[*record]);
        let broker_time = records.iter().map(|record| positions.timestamps_ms[*record].max(-1));
        let mut columns = batch.columns().to_vec();
        columns.extend([
            Arc::new(UInt32Array::from_iter_values(unit)) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(offset)),
            Arc::new(UInt32Array::from(vec![0; records.len()])),
            Arc::new(Int64Array::new(event_times, None)),
            Arc::new(w),
            Arc::new(Int64Array::from_iter_values(broker_time)),
        ]);
        let batch = new_batch(&self.schema, columns, records.len())?;
        Ok(Decoded { batch, rejected, num_late, num_stale, num_repeated })
    }

    /// Takes out the rows for which a check is not true.
    fn check(&mut self, mut candidates: Candidates) -> Result<Candidates> {
        let Some(checks) = self.checks.as_mut().filter(|_| !candidates.records.is_empty()) else {
            return Ok(candidates);
        };
        let failing = checks.first_failing(&candidates.batch)?;
        if failing.len() != candidates.records.len() {
            return Err(Error::internal("the checks did not answer for every row"));
        }
        if failing.iter().all(Option::is_none) {
            return Ok(candidates);
        }
        let passes = BooleanArray::from(BooleanBuffer::collect_bool(failing.len(), |row| failing[row].is_none()));
        candidates.batch = filter_record_batch(&candidates.batch, &passes)
            .map_err(|_| Error::internal("rows that fail a check could not be taken out"))?;
        let mut passed = Vec::with_capacity(candidates.batch.num_rows());
        for (record, check) in candidates.records.into_iter().zip(failing) {
            match check {
                None => passed.push(record),
                Some(check) => {
                    let detail = Some(checks.text(check).to_owned());
                    candidates.rejected.push(Rejected { record, reason: Reason::FailedCheck, detail });
                }
            }
        }
        candidates.records = passed;
        candidates.rejected.sort_unstable_by_key(|rejected| rejected.record);
        Ok(candidates)
    }

    fn event_times(
        &self,
        batch: &RecordBatch,
        records: &[usize],
        positions: Positions<'_>,
    ) -> Result<ScalarBuffer<i64>> {
        match self.event_time {
            Some(column) => {
                let times = batch.column(column).as_primitive_opt::<TimestampMicrosecondType>();
                times.map(|times| times.values().clone()).ok_or_else(|| Error::internal("the event time lost its type"))
            }
            None => {
                let times = records.iter().map(|record| broker_micros(positions.timestamps_ms[*record]).unwrap_or(0));
                Ok(times.collect::<Vec<i64>>().into())
            }
        }
    }

    /// W before each row, and how many rows are late.
    fn advance(&mut self, records: &[usize], positions: Positions<'_>, event_times: &[i64]) -> (Int64Array, usize) {
        let mut before = Vec::with_capacity(records.len());
        let mut num_late = 0;
        let mut run: Option<(u32, Watermark)> = None;
        for (record, micros) in records.iter().zip(event_times) {
            let unit = positions.units[*record];
            let mut watermark = match run {
                Some((last, watermark)) if last == unit => watermark,
                _ => {
                    self.keep(run);
                    self.watermark(Assignment(unit))
                }
            };
            let time = EventTime::from_micros(*micros);
            before.push(watermark.get().map(EventTime::as_micros));
            num_late += usize::from(watermark.is_late(time));
            watermark.advance(time);
            run = Some((unit, watermark));
        }
        self.keep(run);
        (Int64Array::from_iter(before), num_late)
    }

    fn keep(&mut self, run: Option<(u32, Watermark)>) {
        if let Some((unit, watermark)) = run {
            self.watermarks.insert(Assignment(unit), watermark);
        }
    }
}

/// Whether units are held, asked once per run of records of the same unit.
pub(super) struct HeldUnits<'a> {
    units: &'a Units,
    last: Option<(u32, bool)>,
}

impl<'a> HeldUnits<'a> {
    pub(super) fn new(units: &'a Units) -> HeldUnits<'a> {
        HeldUnits { units, last: None }
    }

    #[inline]
    pub(super) fn contains(&mut self, unit: u32) -> bool {
        match self.last {
            Some((last, is_held)) if last == unit => is_held,
            _ => {
                let is_held = self.units.get(Assignment(unit)).is_some();
                self.last = Some((unit, is_held));
                is_held
            }
        }
    }
}

/// The guard against the future; a record without a broker timestamp passes it.
pub(super) fn is_too_far_ahead(event_micros: i64, timestamp_ms: i64, max_skew_micros: i64) -> bool {
    broker_micros(timestamp_ms).is_some_and(|broker| event_micros.saturating_sub(broker) > max_skew_micros)
}

pub(super) fn new_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, num_rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(num_rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|_| Error::internal("decode built columns that do not fit their schema"))
}

fn event_time_column(source: &Source, name: &str) -> Result<usize> {
    use crate::pipeline::settings::ColumnType;
    let is_time = |column: &Column| matches!(column.column_type, ColumnType::Timestamp | ColumnType::Epoch(_));
    let column = source.columns.iter().position(|column| column.name == name && is_time(column));
    column.ok_or_else(|| {
        let choices: Vec<_> = source.columns.iter().filter(|c| is_time(c)).map(|c| c.name.as_str()).collect();
        Error::invalid(format!(
            "source {}: event_time must name a declared column of type timestamp or epoch, found {name}; such columns are: {}",
            source.name,
            if choices.is_empty() { "none".to_owned() } else { choices.join(", ") }
        ))
    })
}
