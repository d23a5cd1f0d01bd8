//! Columns made of what surrounds a payload: topic, partition, offset, timestamp, key, headers. Nothing here looks at a
//! payload.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListArray, StringBuilder, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;

use super::schema::{header_fields, header_item};
use crate::error::{Error, Result};
use crate::pipeline::settings::MetadataKind;
use crate::types::{Assignment, RecordBlock, StateUnit, Units};

/// Microseconds of a broker timestamp; `None` when the record has none.
pub(super) fn broker_micros(timestamp_ms: i64) -> Option<i64> {
    (timestamp_ms >= 0).then(|| timestamp_ms.saturating_mul(1_000))
}

/// The metadata column `kind` of the records at `records` of `block`, all of units that are held.
pub(super) fn metadata_column(
    kind: MetadataKind,
    block: &RecordBlock,
    records: &[usize],
    units: &Units,
) -> Result<ArrayRef> {
    Ok(match kind {
        MetadataKind::Topic => topics(block, records, units)?,
        MetadataKind::Partition => partitions(block, records, units)?,
        MetadataKind::Offset => {
            Arc::new(Int64Array::from_iter_values(records.iter().map(|record| block.offsets[*record])))
        }
        MetadataKind::Timestamp => {
            let times = records.iter().map(|record| broker_micros(block.timestamps_ms[*record]));
            Arc::new(times.collect::<TimestampMicrosecondArray>())
        }
        MetadataKind::Key => keys(block, records),
        MetadataKind::Headers => headers(block, records)?,
    })
}

/// The unit of a record; the caller has left out the stale ones.
fn unit_of<'a>(units: &'a Units, block: &RecordBlock, record: usize) -> Result<&'a StateUnit> {
    units
        .get(Assignment(block.units[record]))
        .ok_or_else(|| Error::internal("a record of a partition that is no longer held was kept"))
}

pub(super) fn topics(block: &RecordBlock, records: &[usize], units: &Units) -> Result<ArrayRef> {
    let mut topics = StringBuilder::with_capacity(records.len(), records.len() * 16);
    for record in records {
        topics.append_value(&unit_of(units, block, *record)?.topic);
    }
    Ok(Arc::new(topics.finish()))
}

pub(super) fn partitions(block: &RecordBlock, records: &[usize], units: &Units) -> Result<ArrayRef> {
    let partitions = records.iter().map(|record| unit_of(units, block, *record).map(|unit| unit.partition));
    Ok(Arc::new(Int32Array::from(partitions.collect::<Result<Vec<i32>>>()?)))
}

pub(super) fn keys(block: &RecordBlock, records: &[usize]) -> ArrayRef {
    let mut keys = BinaryBuilder::with_capacity(records.len(), records.len() * 8);
    for record in records {
        keys.append_option(block.keys.get(*record));
    }
    Arc::new(keys.finish())
}

pub(super) fn headers(block: &RecordBlock, records: &[usize]) -> Result<ArrayRef> {
    let mut names = StringBuilder::new();
    let mut values = BinaryBuilder::new();
    let mut lengths = Vec::with_capacity(records.len());
    for record in records {
        let mut length = 0;
        for (name, value) in block.headers.of(*record) {
            names.append_value(String::from_utf8_lossy(name));
            values.append_option(value);
            length += 1;
        }
        lengths.push(length);
    }
    let internal = |_| Error::internal("decode built headers that do not fit their type");
    let (names, values): (ArrayRef, ArrayRef) = (Arc::new(names.finish()), Arc::new(values.finish()));
    let items = StructArray::try_new_with_length(header_fields(), vec![names, values], None, lengths.iter().sum());
    let items = items.map_err(internal)?;
    debug_assert_eq!(items.len(), lengths.iter().sum::<usize>());
    let lists = ListArray::try_new(header_item(), OffsetBuffer::from_lengths(lengths), Arc::new(items), None);
    Ok(Arc::new(lists.map_err(internal)?))
}
