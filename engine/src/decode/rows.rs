//! Rows of columnar files into declared columns, by name. What a row comes to is what it would come to as JSON; a file whose
//! columns cannot become the declared ones is an error, because every row of it would be rejected.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{CastOptions, cast, cast_with_options, filter};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, FieldRef, Float32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};

use super::column::{epoch_micros, micros_per_unit};
use super::decoder::{Candidates, Decoded, Decoder, Positions, new_batch};
use super::metadata::metadata_column;
use super::reason::{Reason, Rejected};
use super::schema::arrow_type;
use super::timestamp;
use crate::error::{Error, Result};
use crate::pipeline::settings::{Column, ColumnType, MetadataKind};
use crate::types::{Assignment, RecordBlock, RowBlock, StateUnit, Units};

/// For each row the first column that it is bad in.
type RowFaults = Vec<Option<(usize, Reason)>>;

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsFrom {
    Anywhere,
    /// A run accepted them.
    Archive,
}

fn positions(records: &RecordBlock) -> Positions<'_> {
    Positions { units: &records.units, offsets: &records.offsets, timestamps_ms: &records.timestamps_ms }
}

/// A column in its declared type, and the rows of it that cannot be in that type.
struct Converted {
    array: ArrayRef,
    faults: Vec<(usize, Reason)>,
}

impl Decoder {
    /// Takes rows that are in columns already. Columns are found by name, those not declared are ignored, and a column that
    /// is absent is null; an absent column that is `not null`, or one whose type cannot become the declared one, is an error.
    ///
    /// Such rows have no broker timestamp, so the guard against the future does not apply to them.
    pub fn accept_rows(&mut self, rows: &RowBlock, units: &Units) -> Result<Decoded> {
        let records = rows.to_records();
        let candidates = self.read_rows(&rows.batch, &records, units, RowsFrom::Anywhere)?;
        self.finish(candidates, positions(&records))
    }

    /// Takes rows that a run has accepted and archived: as [`Decoder::accept_rows`], but without the checks, which they have
    /// passed. `records` says for each row where it comes from; its units, offsets and timestamps count. W follows from the
    /// rows' event times, as in the run.
    pub fn accept_archived(&mut self, batch: &RecordBatch, records: &RecordBlock, units: &Units) -> Result<Decoded> {
        let candidates = self.read_rows(batch, records, units, RowsFrom::Archive)?;
        self.place(candidates, positions(records))
    }

    /// Rows in the declared types, all of one unit.
    fn read_rows(
        &self,
        rows: &RecordBatch,
        records: &RecordBlock,
        units: &Units,
        from: RowsFrom,
    ) -> Result<Candidates> {
        let unit = records.units.first().and_then(|unit| units.get(Assignment(*unit)));
        let Some(unit) = unit else {
            let batch = RecordBatch::new_empty(self.table_schema.clone());
            let (found, rejected) = (Vec::new(), Vec::new());
            return Ok(Candidates { batch, records: found, rejected, num_stale: records.len(), num_repeated: 0 });
        };
        let (mut columns, faults) = self.declared_columns(rows, unit)?;
        let mut archived = self.archived_metadata(rows, from);
        let accepted: Vec<usize> = (0..rows.num_rows()).filter(|row| faults[*row].is_none()).collect();
        if accepted.len() < rows.num_rows() {
            let keep = BooleanArray::from(BooleanBuffer::collect_bool(rows.num_rows(), |row| faults[row].is_none()));
            for column in columns.iter_mut().chain(archived.iter_mut().flatten()) {
                *column = filter(column, &keep).map_err(|_| Error::internal("rejected rows could not be taken out"))?;
            }
        }
        for (kind, archived) in self.metadata.iter().zip(archived) {
            columns.push(match archived {
                Some(column) => column,
                None => metadata_column(*kind, records, &accepted, units)?,
            });
        }
        let rejected = faults.into_iter().enumerate().filter_map(|(record, fault)| {
            let (column, reason) = fault?;
            Some(Rejected { record, reason, detail: Some(self.columns[column].name.clone()) })
        });
        let rejected = rejected.collect();
        let batch = new_batch(&self.table_schema, columns, accepted.len())?;
        Ok(Candidates { batch, records: accepted, rejected, num_stale: 0, num_repeated: 0 })
    }

    /// Of each metadata column what an archive has of it: keys and headers stand nowhere else.
    fn archived_metadata(&self, rows: &RecordBatch, from: RowsFrom) -> Vec<Option<ArrayRef>> {
        let fields = self.table_schema.fields()[self.columns.len()..].iter();
        let column = |(kind, field): (&MetadataKind, &FieldRef)| {
            let is_only_there = matches!(kind, MetadataKind::Key | MetadataKind::Headers);
            let found = rows.column_by_name(field.name()).filter(|_| is_only_there && from == RowsFrom::Archive)?;
            let found = cast(found, field.data_type()).ok()?;
            (field.is_nullable() || found.null_count() == 0).then_some(found)
        };
        self.metadata.iter().zip(fields).map(column).collect()
    }

    /// The declared columns, bad rows included.
    fn declared_columns(&self, rows: &RecordBatch, unit: &StateUnit) -> Result<(Vec<ArrayRef>, RowFaults)> {
        let num_rows = rows.num_rows();
        let mut faults = vec![None; num_rows];
        let mut columns = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            let is_event_time = self.event_time == Some(index);
            let Some(found) = rows.column_by_name(&column.name) else {
                if !column.is_nullable || is_event_time {
                    return Err(self.missing(rows, unit, column));
                }
                columns.push(new_null_array(&arrow_type(column.column_type), num_rows));
                continue;
            };
            let converted = convert(column.column_type, found).ok_or_else(|| self.uncastable(unit, column, found))?;
            let mut reject = |row: usize, reason| {
                faults[row].get_or_insert((index, reason));
            };
            for (row, reason) in converted.faults {
                reject(row, reason);
            }
            if found.null_count() > 0 && (!column.is_nullable || is_event_time) {
                let reason = if is_event_time { Reason::NullEventTime } else { Reason::NullValue };
                (0..num_rows).filter(|row| found.is_null(*row)).for_each(|row| reject(row, reason));
            }
            columns.push(converted.array);
        }
        Ok((columns, faults))
    }

    fn missing(&self, rows: &RecordBatch, unit: &StateUnit, column: &Column) -> Error {
        let fields = rows.schema();
        let names: Vec<_> = fields.fields().iter().map(|field| field.name().as_str()).collect();
        Error::data(format!(
            "source {}: file {} has no column {}, which is declared not null; it has {}; declare the column nullable, or read other files",
            self.source_name,
            unit.topic,
            column.name,
            names.join(", ")
        ))
    }

    fn uncastable(&self, unit: &StateUnit, column: &Column, found: &ArrayRef) -> Error {
        Error::data(format!(
            "source {}: file {}: column {} has type {}, which cannot become the declared {} without loss; declare the type that the file has, or read other files",
            self.source_name,
            unit.topic,
            column.name,
            found.data_type(),
            arrow_type(column.column_type)
        ))
    }
}

/// `None` when the type as a whole cannot become the declared one.
fn convert(column_type: ColumnType, found: &ArrayRef) -> Option<Converted> {
    let found = &match found.data_type() {
        DataType::Dictionary(_, values) => cast(found, values).ok()?,
        _ => found.clone(),
    };
    let from = found.data_type();
    match column_type {
        ColumnType::String if is_string(from) => cast_all(found, &DataType::Utf8),
        ColumnType::Boolean if from == &DataType::Boolean => cast_all(found, from),
        ColumnType::Int32 | ColumnType::Int64 if from.is_integer() => cast_all(found, &arrow_type(column_type)),
        ColumnType::Float32 if from.is_integer() || from.is_floating() => floats::<Float32Type>(found),
        ColumnType::Float64 if from.is_integer() || from.is_floating() => floats::<Float64Type>(found),
        ColumnType::Decimal(_, scale) if fits_scale(from, scale) => cast_all(found, &arrow_type(column_type)),
        ColumnType::Timestamp if is_string(from) => timestamps_of_strings(found),
        ColumnType::Timestamp | ColumnType::Epoch(_) if matches!(from, DataType::Timestamp(..)) => timestamps(found),
        ColumnType::Epoch(unit) if from.is_integer() => epochs(found, micros_per_unit(unit)),
        _ => None,
    }
}

fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether no digit can be lost.
fn fits_scale(from: &DataType, scale: i8) -> bool {
    match from {
        DataType::Decimal32(_, found)
        | DataType::Decimal64(_, found)
        | DataType::Decimal128(_, found)
        | DataType::Decimal256(_, found) => *found <= scale,
        _ => from.is_integer() && scale >= 0,
    }
}

/// A cast after which a value that is null and was not is out of range.
fn cast_all(found: &ArrayRef, to: &DataType) -> Option<Converted> {
    let array = cast_with_options(found, to, &CastOptions { safe: true, ..CastOptions::default() }).ok()?;
    let mut faults = Vec::new();
    if array.null_count() > found.null_count() {
        let lost = (0..found.len()).filter(|row| array.is_null(*row) && found.is_valid(*row));
        faults.extend(lost.map(|row| (row, Reason::NumberOverflow)));
    }
    Some(Converted { array, faults })
}

fn floats<T: ArrowPrimitiveType>(found: &ArrayRef) -> Option<Converted>
where
    T::Native: ArrowNativeTypeOp + Into<f64>,
{
    let array = cast(found, &T::DATA_TYPE).ok()?;
    // Every float type fits into a double, so this tells an infinity that was there from one that the cast made.
    let wide = cast(found, &DataType::Float64).ok()?;
    let wide = wide.as_primitive::<Float64Type>();
    let narrow = array.as_primitive::<T>();
    let mut faults = Vec::new();
    for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
        let value: f64 = narrow.value(row).into();
        if !value.is_finite() {
            let was_finite = wide.value(row).is_finite();
            faults.push((row, if was_finite { Reason::NumberOverflow } else { Reason::NonFiniteNumber }));
        }
    }
    Some(Converted { array, faults })
}

/// Times from what `micros_at` answers for each row that is not null.
fn times(found: &ArrayRef, mut micros_at: impl FnMut(usize) -> Result<i64, Reason>) -> Converted {
    let mut faults = Vec::new();
    let mut value = |row: usize| {
        if found.is_null(row) {
            return None;
        }
        micros_at(row).map_err(|reason| faults.push((row, reason))).ok()
    };
    let array: TimestampMicrosecondArray = (0..found.len()).map(&mut value).collect();
    Converted { array: Arc::new(array), faults }
}

fn timestamps_of_strings(found: &ArrayRef) -> Option<Converted> {
    let text = cast(found, &DataType::Utf8).ok()?;
    let text: &StringArray = text.as_string();
    Some(times(found, |row| timestamp::parse(text.value(row).as_bytes()).ok_or(Reason::InvalidTimestamp)))
}

fn timestamps(found: &ArrayRef) -> Option<Converted> {
    let DataType::Timestamp(unit, _) = found.data_type() else {
        return None;
    };
    let in_range = |units: i64, per_unit| epoch_micros(units, per_unit).ok_or(Reason::NumberOverflow);
    Some(match unit {
        TimeUnit::Second => {
            times(found, |row| in_range(found.as_primitive::<TimestampSecondType>().value(row), 1_000_000))
        }
        TimeUnit::Millisecond => {
            times(found, |row| in_range(found.as_primitive::<TimestampMillisecondType>().value(row), 1_000))
        }
        TimeUnit::Microsecond => {
            times(found, |row| in_range(found.as_primitive::<TimestampMicrosecondType>().value(row), 1))
        }
        // Cut off as the digits of a string are: towards the past.
        TimeUnit::Nanosecond => times(found, |row| {
            in_range(found.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000), 1)
        }),
    })
}

fn epochs(found: &ArrayRef, micros_per_unit: i64) -> Option<Converted> {
    let units = cast_all(found, &DataType::Int64)?;
    let values = units.array.as_primitive::<Int64Type>();
    Some(times(found, |row| {
        if values.is_null(row) {
            return Err(Reason::NumberOverflow);
        }
        epoch_micros(values.value(row), micros_per_unit).ok_or(Reason::NumberOverflow)
    }))
}
