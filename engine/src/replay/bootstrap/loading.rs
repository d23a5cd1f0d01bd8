//! The history of one source on its way into the windows: which of its rows belong to which partition of the topic that a run will
//! read, and what each partition's W is before each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};

use super::Loaded;
use crate::error::{Error, Result};
use crate::pipeline::settings::Partitioner;
use crate::runtime::bootstrap::FirstCheckpoint;
use crate::sink::kafka::InternalKeys;
use crate::source::AssignmentNumbers;
use crate::source::files::StoredRows;
use crate::source::kafka::partition;
use crate::types::{Assignment, EventTime, HIDDEN_W, Hidden, Offset, StateUnit, Watermark, num_visible};

/// A partition while its history is read.
#[derive(Debug)]
pub(super) struct Part {
    unit: StateUnit,
    assignment: Assignment,
    offset: Offset,
    watermark: Watermark,
    rows: u64,
}

impl Part {
    pub(super) fn loaded(&self) -> Loaded {
        Loaded { unit: self.unit.clone(), offset: self.offset, rows: self.rows }
    }

    pub(super) fn checkpoint(self, source: usize) -> FirstCheckpoint {
        let Part { unit, assignment, offset, watermark, .. } = self;
        FirstCheckpoint { source, assignment, unit, offset, watermark }
    }
}

/// The partitions of a topic, in their order, so that a partition is its own place.
pub(super) fn parts(places: BTreeMap<StateUnit, Offset>, numbers: &AssignmentNumbers) -> Result<Vec<Part>> {
    let part = |(unit, offset)| Part { unit, assignment: numbers.next(), offset, watermark: Watermark::NONE, rows: 0 };
    let parts: Vec<Part> = places.into_iter().map(part).collect();
    let is_whole = parts.iter().enumerate().all(|(place, part)| usize::try_from(part.unit.partition) == Ok(place));
    if parts.is_empty() || !is_whole {
        return Err(Error::invalid("history can be loaded for one topic with all its partitions"));
    }
    Ok(parts)
}

/// How a row's partition is known.
#[derive(Debug)]
pub(super) enum Keying<'a> {
    /// It is stored with the row.
    Archived,
    /// By the message key that producers give it, and their partitioner.
    Columns(&'a [String], Partitioner),
    /// By the key that we give it.
    Internal(&'a [String]),
    /// It makes no difference: no window stands before the next topic.
    Nothing,
}

/// The history of one source.
#[derive(Debug)]
pub(super) struct Loading<'a> {
    pub(super) source: usize,
    /// By partition.
    pub(super) parts: Vec<Part>,
    pub(super) keys: Keying<'a>,
}

impl Loading<'_> {
    /// Rows of an archive below the cut-over, as rows of their partition here; `None` if there is none.
    pub(super) fn of_archive(&mut self, batch: &RecordBatch, rows: &StoredRows) -> Result<Option<RecordBatch>> {
        let hidden = Hidden::of(batch)?;
        if hidden.num_rows() == 0 {
            return Ok(None);
        }
        let unit = rows.units().get(Assignment(hidden.unit.value(0)));
        let place = unit.and_then(|unit| {
            self.parts.iter().position(|part| part.unit.topic == unit.topic && part.unit.partition == unit.partition)
        });
        let Some(place) = place else {
            let unit = unit.map(ToString::to_string).unwrap_or_default();
            return Err(Error::data(format!("the archive has rows of {unit}, which the topic does not have")));
        };
        let end = self.parts[place].offset.get();
        let before = hidden.offset.values().iter().map(|offset| Some(*offset < end)).collect();
        let batch = filter_record_batch(batch, &before).map_err(internal)?;
        let hidden = Hidden::of(&batch)?;
        let part = &mut self.parts[place];
        hidden.event_time.values().iter().for_each(|micros| part.watermark.advance(EventTime::from_micros(*micros)));
        part.rows += batch.num_rows() as u64;
        let units = UInt32Array::from(vec![part.assignment.0; batch.num_rows()]);
        replaced(&batch, &batch.schema(), &[(0, Arc::new(units))]).map(Some)
    }

    /// Rows in the order of event time, each in the partition of its key, which has its own W and numbers its rows; as rows of
    /// `schema`.
    pub(super) fn by_key(&mut self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let places = self.places(batch)?;
        let hidden = Hidden::of(batch)?;
        let (mut units, mut offsets, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for (row, place) in places.into_iter().enumerate() {
            let part = &mut self.parts[place];
            units.push(part.assignment.0);
            offsets.push(part.rows as i64);
            before.push(part.watermark.get().map(EventTime::as_micros));
            part.rows += 1;
            part.watermark.advance(EventTime::from_micros(hidden.event_time.value(row)));
        }
        let columns: [(usize, ArrayRef); 4] = [
            (0, Arc::new(UInt32Array::from(units))),
            (1, Arc::new(Int64Array::from(offsets))),
            // A row is a record of its own there.
            (2, Arc::new(UInt32Array::from(vec![0; batch.num_rows()]))),
            (HIDDEN_W, Arc::new(Int64Array::from(before))),
        ];
        replaced(batch, schema, &columns)
    }

    /// The partition of each row, by its place.
    fn places(&self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let num_partitions = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let place = |partitioner, key: &[u8]| usize::try_from(partition(partitioner, key, num_partitions)).unwrap_or(0);
        Ok(match &self.keys {
            Keying::Columns(columns, partitioner) => {
                let keys = key_texts(batch, columns)?;
                let keys = keys.as_string::<i32>();
                // A key that is null is written anywhere; such rows are nobody's history.
                (0..batch.num_rows()).map(|row| place(*partitioner, keys.value(row).as_bytes())).collect()
            }
            Keying::Internal(by) => {
                let mut keys = InternalKeys::of(batch, by)?;
                // As the sinks of internal topics are set.
                (0..batch.num_rows()).map(|row| place(Partitioner::Murmur2, keys.bytes(row))).collect()
            }
            Keying::Archived | Keying::Nothing => vec![0; batch.num_rows()],
        })
    }
}

/// The message key that a producer gives a row: the one column of `partitioned_by`, as text.
fn key_texts(batch: &RecordBatch, columns: &[String]) -> Result<ArrayRef> {
    let [key] = columns else {
        return Err(Error::invalid(format!(
            "its key is made of {} columns, and how their text is joined is not known; load an archive with positions",
            columns.len()
        )));
    };
    let column = batch.column_by_name(key).ok_or_else(|| Error::internal("the rows lost their key"))?;
    cast(column, &DataType::Utf8).map_err(internal)
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal("rows of history cannot be given other positions").with_source(error)
}

/// `batch` with other hidden columns, as rows of `schema`.
fn replaced(batch: &RecordBatch, schema: &SchemaRef, hidden: &[(usize, ArrayRef)]) -> Result<RecordBatch> {
    let first = num_visible(batch);
    let mut columns = batch.columns().to_vec();
    for (index, column) in hidden {
        columns[first + index] = Arc::clone(column);
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)
}
