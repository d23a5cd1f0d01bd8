//! The option `positions` of a Parquet sink: topic, partition, offset, ordinal and broker timestamp of each row as columns of its
//! files. They come after the columns of the SELECT, which has none of these names: `runtime` refuses that.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::datatypes::{Fields, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::types::{StateUnit, position_fields};

/// `schema` with the position columns after it.
#[must_use]
pub(crate) fn schema_with_positions(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().chain(position_fields()).cloned();
    Arc::new(Schema::new(fields.collect::<Fields>()))
}

/// `rows` with the position columns after them: unit and offset of each, its ordinal, and the broker's time in milliseconds
/// (negative when there is none). `schema` is that of [`schema_with_positions`].
pub(crate) fn with_positions<'a>(
    rows: &RecordBatch,
    schema: SchemaRef,
    positions: impl Iterator<Item = (&'a StateUnit, i64)>,
    ordinal: &UInt32Array,
    broker_time: &Int64Array,
) -> Result<RecordBatch> {
    let num_rows = rows.num_rows();
    let mut topics = StringBuilder::with_capacity(num_rows, num_rows * 16);
    let mut partitions = Vec::with_capacity(num_rows);
    let mut offsets = Vec::with_capacity(num_rows);
    for (unit, offset) in positions {
        topics.append_value(&unit.topic);
        partitions.push(unit.partition);
        offsets.push(offset);
    }
    let ordinals = ordinal.values().iter().map(|ordinal| i32::try_from(*ordinal).unwrap_or(i32::MAX));
    let times = broker_time.values().iter().map(|millis| (*millis >= 0).then(|| millis.saturating_mul(1_000)));
    let mut columns = rows.columns().to_vec();
    columns.extend([
        Arc::new(topics.finish()) as ArrayRef,
        Arc::new(Int32Array::from(partitions)),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(Int32Array::from_iter_values(ordinals)),
        Arc::new(times.collect::<TimestampMicrosecondArray>()),
    ]);
    let options = RecordBatchOptions::new().with_row_count(Some(num_rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error| Error::internal("positions do not fit their rows").with_source(error))
}
