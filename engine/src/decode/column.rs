//! The growing columns of a batch. A value goes in from its JSON text at once, without a tree or a tape between; a row that
//! turns out bad is cut off again, so that nothing of it is left.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Decimal128Array, NullBufferBuilder, PrimitiveArray, StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

use super::number;
use super::reason::Reason;
use super::text::{Cursor, Parse};
use super::timestamp;
use crate::error::{Error, Result};
use crate::pipeline::settings::{Column, ColumnType, EpochUnit};

/// One declared column of the batch that is being built.
#[derive(Debug)]
pub(super) struct ColumnBuffer {
    is_nullable: bool,
    is_event_time: bool,
    values: Values,
    /// Its length is the column's.
    nulls: NullBufferBuilder,
}

#[derive(Debug)]
enum Values {
    String { bytes: Vec<u8>, offsets: Vec<i32> },
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Boolean(BooleanBufferBuilder),
    Decimal { precision: u8, scale: i8, values: Vec<i128> },
    Timestamp(Vec<i64>),
    Epoch { micros_per_unit: i64, values: Vec<i64> },
}

impl Values {
    fn new(column_type: ColumnType) -> Values {
        match column_type {
            ColumnType::String => Values::String { bytes: Vec::new(), offsets: vec![0] },
            ColumnType::Int32 => Values::Int32(Vec::new()),
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float32 => Values::Float32(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Decimal(precision, scale) => Values::Decimal { precision, scale, values: Vec::new() },
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Epoch(unit) => Values::Epoch { micros_per_unit: micros_per_unit(unit), values: Vec::new() },
        }
    }

    fn reserve(&mut self, rows: usize) {
        match self {
            // Strings of about 12 bytes; the buffer grows where they are longer.
            Values::String { bytes, offsets } => {
                bytes.reserve(rows * 12);
                offsets.reserve(rows);
            }
            Values::Int32(values) => values.reserve(rows),
            Values::Int64(values) | Values::Timestamp(values) | Values::Epoch { values, .. } => values.reserve(rows),
            Values::Float32(values) => values.reserve(rows),
            Values::Float64(values) => values.reserve(rows),
            Values::Boolean(values) => values.reserve(rows),
            Values::Decimal { values, .. } => values.reserve(rows),
        }
    }

    fn push_default(&mut self) {
        match self {
            Values::String { bytes, offsets } => offsets.push(end_of(bytes)),
            Values::Int32(values) => values.push(0),
            Values::Int64(values) | Values::Timestamp(values) | Values::Epoch { values, .. } => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Boolean(values) => values.append(false),
            Values::Decimal { values, .. } => values.push(0),
        }
    }

    /// Also takes back the bytes of a string that was cut short by its fault.
    fn truncate(&mut self, rows: usize) {
        match self {
            Values::String { bytes, offsets } => {
                offsets.truncate(rows + 1);
                bytes.truncate(offsets.last().map_or(0, |end| usize::try_from(*end).unwrap_or_default()));
            }
            Values::Int32(values) => values.truncate(rows),
            Values::Int64(values) | Values::Timestamp(values) | Values::Epoch { values, .. } => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
        }
    }

    /// Reads one value that is not null from `cursor`, which stands at its first byte.
    #[inline]
    fn read(&mut self, cursor: &mut Cursor<'_>, first: u8, scratch: &mut Vec<u8>) -> Parse<()> {
        match self {
            Values::String { bytes, offsets } => {
                expect_quote(first)?;
                cursor.string_into(bytes)?;
                offsets.push(end_of(bytes));
            }
            Values::Int32(values) => {
                let value = whole_number(cursor, first, scratch)?;
                values.push(i32::try_from(value).map_err(|_| Reason::NumberOverflow)?);
            }
            Values::Int64(values) => values.push(whole_number(cursor, first, scratch)?),
            Values::Float32(values) => values.push(number_at(cursor, first, scratch)?.to_f32()?),
            Values::Float64(values) => values.push(number_at(cursor, first, scratch)?.to_f64()?),
            Values::Boolean(values) => match first {
                b't' => {
                    cursor.literal(b"true")?;
                    values.append(true);
                }
                b'f' => {
                    cursor.literal(b"false")?;
                    values.append(false);
                }
                _ => return Err(mismatch(first)),
            },
            Values::Decimal { precision, scale, values } => {
                values.push(decimal(cursor, first, scratch, *precision, *scale)?);
            }
            Values::Timestamp(values) => {
                expect_quote(first)?;
                let text = cursor.string(scratch)?;
                values.push(timestamp::parse(text).ok_or(Reason::InvalidTimestamp)?);
            }
            Values::Epoch { micros_per_unit, values } => {
                let units = whole_number(cursor, first, scratch)?;
                values.push(epoch_micros(units, *micros_per_unit).ok_or(Reason::NumberOverflow)?);
            }
        }
        Ok(())
    }

    fn take(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        fn primitive<T: ArrowPrimitiveType>(
            values: &mut Vec<T::Native>,
            nulls: Option<NullBuffer>,
        ) -> PrimitiveArray<T> {
            PrimitiveArray::new(ScalarBuffer::from(std::mem::take(values)), nulls)
        }
        Ok(match self {
            Values::String { bytes, offsets } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let bytes = Buffer::from_vec(std::mem::take(bytes));
                let array = StringArray::try_new(offsets, bytes, nulls);
                Arc::new(array.map_err(|_| Error::internal("decode built a string that is not UTF-8"))?)
            }
            Values::Int32(values) => Arc::new(primitive::<Int32Type>(values, nulls)),
            Values::Int64(values) => Arc::new(primitive::<Int64Type>(values, nulls)),
            Values::Float32(values) => Arc::new(primitive::<Float32Type>(values, nulls)),
            Values::Float64(values) => Arc::new(primitive::<Float64Type>(values, nulls)),
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Decimal { precision, scale, values } => {
                let array = Decimal128Array::new(ScalarBuffer::from(std::mem::take(values)), nulls);
                let array = array.with_precision_and_scale(*precision, *scale);
                Arc::new(array.map_err(|_| Error::internal("decode was given a decimal type that does not exist"))?)
            }
            Values::Timestamp(values) | Values::Epoch { values, .. } => {
                Arc::new(primitive::<TimestampMicrosecondType>(values, nulls))
            }
        })
    }
}

impl ColumnBuffer {
    pub(super) fn new(column: &Column, is_event_time: bool) -> ColumnBuffer {
        ColumnBuffer {
            is_nullable: column.is_nullable,
            is_event_time,
            values: Values::new(column.column_type),
            nulls: NullBufferBuilder::new(0),
        }
    }

    /// Number of rows.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        self.values.reserve(rows);
    }

    /// Reads one value from `cursor`, which stands at its first byte. After `Err` the caller cuts the row off.
    #[inline]
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Parse<()> {
        let first = cursor.peek().ok_or(Reason::TruncatedJson)?;
        if first == b'n' {
            cursor.literal(b"null")?;
            return self.push_null(Reason::NullValue);
        }
        self.values.read(cursor, first, scratch)?;
        self.nulls.append_non_null();
        Ok(())
    }

    /// Adds the null of a member that is absent.
    pub(super) fn push_absent(&mut self) -> Parse<()> {
        self.push_null(Reason::MissingColumn)
    }

    fn push_null(&mut self, otherwise: Reason) -> Parse<()> {
        if self.is_event_time {
            return Err(Reason::NullEventTime);
        }
        if !self.is_nullable {
            return Err(otherwise);
        }
        self.values.push_default();
        self.nulls.append_null();
        Ok(())
    }

    /// Cuts off all but the first `rows` rows.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        self.values.truncate(rows);
    }

    /// The last value of a column of times.
    pub(super) fn last_micros(&self) -> Option<i64> {
        match &self.values {
            Values::Timestamp(values) | Values::Epoch { values, .. } => values.last().copied(),
            _ => None,
        }
    }

    /// The column; the buffer is empty afterwards.
    pub(super) fn take(&mut self) -> Result<ArrayRef> {
        // A null that was cut off leaves a bitmap without nulls behind.
        let nulls = self.nulls.finish().filter(|nulls| nulls.null_count() > 0);
        self.nulls = NullBufferBuilder::new(0);
        self.values.take(nulls)
    }
}

/// Microseconds in a unit.
pub(super) fn micros_per_unit(unit: EpochUnit) -> i64 {
    match unit {
        EpochUnit::Seconds => 1_000_000,
        EpochUnit::Milliseconds => 1_000,
        EpochUnit::Microseconds => 1,
    }
}

/// A numeric time, within what RFC 3339 can write.
pub(super) fn epoch_micros(units: i64, micros_per_unit: i64) -> Option<i64> {
    let micros = units.checked_mul(micros_per_unit)?;
    (timestamp::MIN_MICROS..=timestamp::MAX_MICROS).contains(&micros).then_some(micros)
}

fn end_of(bytes: &[u8]) -> i32 {
    // The decoder refuses blocks whose strings could pass this limit.
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}

fn expect_quote(first: u8) -> Parse<()> {
    if first == b'"' { Ok(()) } else { Err(mismatch(first)) }
}

/// A value that begins with `first` stands where it cannot.
fn mismatch(first: u8) -> Reason {
    match first {
        b'"' | b'{' | b'[' | b't' | b'f' | b'-' | b'0'..=b'9' => Reason::WrongType,
        _ => Reason::NotJson,
    }
}

#[inline]
fn whole_number(cursor: &mut Cursor<'_>, first: u8, scratch: &mut Vec<u8>) -> Parse<i64> {
    number_at(cursor, first, scratch)?.to_i64()
}

#[inline]
fn number_at<'a>(cursor: &mut Cursor<'a>, first: u8, scratch: &mut Vec<u8>) -> Parse<number::Number<'a>> {
    match first {
        b'-' | b'0'..=b'9' if !cursor.is_at(b"-I") => cursor.number(),
        b'"' => Err(number::reason_of_quoted(cursor.string(scratch)?)),
        // Python writes them so by default.
        b'N' | b'I' | b'-' if [&b"NaN"[..], b"Infinity", b"-Infinity"].iter().any(|word| cursor.is_at(word)) => {
            Err(Reason::NonFiniteNumber)
        }
        _ => Err(mismatch(first)),
    }
}

/// Decimals are written as numbers, or as strings by those who keep them away from floats.
fn decimal(cursor: &mut Cursor<'_>, first: u8, scratch: &mut Vec<u8>, precision: u8, scale: i8) -> Parse<i128> {
    if first != b'"' {
        return number_at(cursor, first, scratch)?.to_decimal(precision, scale);
    }
    let text = cursor.string(scratch)?;
    match number::scan(text) {
        Ok(number) if number.len() == text.len() => number.to_decimal(precision, scale),
        _ => match number::reason_of_quoted(text) {
            Reason::NonFiniteNumber => Err(Reason::NonFiniteNumber),
            _ => Err(Reason::WrongType),
        },
    }
}
