//! Rows to Arrow: one batch of columns, checked against the schema before it is given out.
//! It allocates per column, never per row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use super::error::GeneratorError;
use super::row::{
    DEVICE_ID_BYTES, EventLimits, EventView, Row, SchemaRule, TRANSACTION_ID_BYTES, validate, write_device_id,
    write_transaction_id,
};
use super::settings::OptionalFields;
use super::slots::AnyWorld;

/// The columns of a batch.
pub(super) fn schema(fields: OptionalFields) -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let mut columns = vec![
        text("transaction_id", false),
        Field::new("user_id", DataType::Int64, false),
        Field::new("amount", DataType::Float64, false),
        text("currency", false),
        text("merchant", true),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        text("location", true),
        Field::new("is_fraud", DataType::Int32, false),
    ];
    if fields.device_id {
        columns.push(text("device_id", true));
    }
    if fields.channel {
        columns.push(text("channel", false));
    }
    if fields.campaign {
        columns.push(text("campaign", true));
    }
    Arc::new(Schema::new(columns))
}

fn strings<'a>(len: usize, values: impl Iterator<Item = &'a str>) -> Result<ArrayRef, ArrowError> {
    let mut offsets = Vec::with_capacity(len + 1);
    let mut bytes = Vec::with_capacity(len * 16);
    offsets.push(0_i32);
    for value in values {
        bytes.extend_from_slice(value.as_bytes());
        offsets.push(bytes.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None)?))
}

fn optional_strings<'a>(rows: &[Row], value: impl Fn(&Row) -> Option<&'a str>) -> Result<ArrayRef, ArrowError> {
    let texts = strings(rows.len(), rows.iter().map(|row| value(row).unwrap_or_default()))?;
    let nulls = NullBuffer::from_iter(rows.iter().map(|row| value(row).is_some()));
    let array = texts.to_data().into_builder().nulls(Some(nulls)).build()?;
    Ok(Arc::new(StringArray::from(array)))
}

fn transaction_ids(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let mut bytes = vec![0_u8; rows.len() * TRANSACTION_ID_BYTES];
    for (row, out) in rows.iter().zip(bytes.as_chunks_mut::<TRANSACTION_ID_BYTES>().0) {
        write_transaction_id(row.id, out);
    }
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(TRANSACTION_ID_BYTES, rows.len()));
    Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None)?))
}

fn device_ids(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let mut bytes = Vec::with_capacity(rows.len() * DEVICE_ID_BYTES);
    let mut id = [0_u8; DEVICE_ID_BYTES];
    let mut lengths = Vec::with_capacity(rows.len());
    for row in rows {
        if row.device == 0 {
            lengths.push(0);
        } else {
            write_device_id(row.device, &mut id);
            bytes.extend_from_slice(&id);
            lengths.push(DEVICE_ID_BYTES);
        }
    }
    let nulls = NullBuffer::from_iter(rows.iter().map(|row| row.device != 0));
    Ok(Arc::new(StringArray::try_new(OffsetBuffer::from_lengths(lengths), Buffer::from_vec(bytes), Some(nulls))?))
}

/// Builds and checks a batch.
pub(super) fn to_batch(world: &AnyWorld, schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, GeneratorError> {
    let fields = world.settings().fields;
    let len = rows.len();
    let mut columns: Vec<ArrayRef> = vec![
        transaction_ids(rows)?,
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| world.user_id(row)))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| f64::from(row.cents) / 100.0))),
        strings(len, rows.iter().map(|row| world.currency(row)))?,
        strings(len, rows.iter().map(|row| world.merchant(row)))?,
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.event_ms)).with_timezone("UTC")),
        strings(len, rows.iter().map(|row| world.location(row)))?,
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| i32::from(row.kind.is_fraud())))),
    ];
    if fields.device_id {
        columns.push(device_ids(rows)?);
    }
    if fields.channel {
        columns.push(strings(len, rows.iter().map(|row| row.channel.name()))?);
    }
    if fields.campaign {
        columns.push(optional_strings(rows, |row| row.kind.name())?);
    }
    let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
    match validate_batch(&batch, &world.limits()) {
        Ok(()) => Ok(batch),
        Err((_, rule)) => Err(GeneratorError::Schema { rule }),
    }
}

fn text_column(batch: &RecordBatch, index: usize) -> Option<&StringArray> {
    batch.column(index).as_any().downcast_ref()
}

/// Checks every row of a batch of ours against the event schema; on failure, the first row that fails and the rule. A column of
/// another type than ours fails the rule of its field at row 0.
pub fn validate_batch(batch: &RecordBatch, limits: &EventLimits) -> Result<(), (usize, SchemaRule)> {
    let column = |index: usize| batch.column(index).as_any();
    let ids = text_column(batch, 0).ok_or((0, SchemaRule::TransactionId))?;
    let users: &Int64Array = column(1).downcast_ref().ok_or((0, SchemaRule::UserId))?;
    let amounts: &Float64Array = column(2).downcast_ref().ok_or((0, SchemaRule::AmountRange))?;
    let currencies = text_column(batch, 3).ok_or((0, SchemaRule::Currency))?;
    let merchants = text_column(batch, 4).ok_or((0, SchemaRule::Merchant))?;
    let times: &TimestampMillisecondArray = column(5).downcast_ref().ok_or((0, SchemaRule::Timestamp))?;
    let locations = text_column(batch, 6).ok_or((0, SchemaRule::Location))?;
    let labels: &Int32Array = column(7).downcast_ref().ok_or((0, SchemaRule::IsFraud))?;
    for i in 0..batch.num_rows() {
        let event = EventView {
            transaction_id: ids.value(i),
            user_id: users.value(i),
            amount: amounts.value(i),
            currency: currencies.value(i),
            merchant: merchants.value(i),
            timestamp_ms: times.value(i),
            location: locations.value(i),
            is_fraud: labels.value(i),
        };
        validate(&event, limits).map_err(|rule| (i, rule))?;
    }
    Ok(())
}
