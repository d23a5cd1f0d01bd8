//! Rejected records as rows for the dead-letter sink: key, value and headers unchanged, and the engine's own words about
//! them. A value above the limit is left out, and described by its size and hash. The only place where a record's content
//! leaves decode other than in its columns.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use sha2::{Digest, Sha256};

use super::decoder::new_batch;
use super::metadata::{broker_micros, headers, keys, partitions, topics};
use super::reason::Rejected;
use super::schema::{header_item, with_hidden};
use crate::error::{Error, Result};
use crate::types::{RecordBlock, Units};

/// The columns of dead letters, then the hidden ones.
///
/// `value` is null for a tombstone, for a row of a columnar file, and for a value above the limit; only the last has a
/// `value_sha256` (hexadecimal). `value_bytes` is the size of the record's value, null where it has none.
#[must_use]
pub fn dead_letter_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        with_hidden(&Schema::new(vec![
            Field::new("key", DataType::Binary, true),
            Field::new("value", DataType::Binary, true),
            Field::new("headers", DataType::List(header_item()), false),
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            Field::new("offset", DataType::Int64, false),
            Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("reason", DataType::Utf8, false),
            Field::new("detail", DataType::Utf8, true),
            Field::new("value_sha256", DataType::Utf8, true),
            Field::new("value_bytes", DataType::Int64, true),
        ]))
    });
    SCHEMA.clone()
}

/// The dead letters of `block`. Values above `max_record_bytes` are left out. The event time of a dead letter is the
/// broker's timestamp, or 0 where there is none.
pub fn dead_letter_batch(
    block: &RecordBlock,
    rejected: &[Rejected],
    units: &Units,
    max_record_bytes: usize,
) -> Result<RecordBatch> {
    let records: Vec<usize> = rejected.iter().map(|rejected| rejected.record).collect();
    if records.iter().any(|record| *record >= block.len()) {
        return Err(Error::internal("a rejected record is not in its block"));
    }
    let timestamps = || records.iter().map(|record| block.timestamps_ms[*record]);
    let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(records.iter().map(|record| block.offsets[*record])));
    let values = Values::of(block, &records, max_record_bytes);
    let columns: Vec<ArrayRef> = vec![
        keys(block, &records),
        values.values,
        headers(block, &records)?,
        topics(block, &records, units)?,
        partitions(block, &records, units)?,
        offsets.clone(),
        Arc::new(timestamps().map(|ms| (ms >= 0).then_some(ms)).collect::<TimestampMillisecondArray>()),
        Arc::new(StringArray::from_iter_values(rejected.iter().map(|rejected| rejected.reason.as_str()))),
        Arc::new(StringArray::from_iter(rejected.iter().map(|rejected| rejected.detail.as_deref()))),
        values.hashes,
        values.sizes,
        Arc::new(UInt32Array::from_iter_values(records.iter().map(|record| block.units[*record]))),
        offsets,
        Arc::new(UInt32Array::from(vec![0; records.len()])),
        Arc::new(Int64Array::from_iter_values(timestamps().map(|ms| broker_micros(ms).unwrap_or(0)))),
        Arc::new(Int64Array::new_null(records.len())),
        Arc::new(Int64Array::from_iter_values(timestamps().map(|ms| ms.max(-1)))),
    ];
    new_batch(&dead_letter_schema(), columns, records.len())
}

/// The columns that are about values.
struct Values {
    values: ArrayRef,
    hashes: ArrayRef,
    sizes: ArrayRef,
}

impl Values {
    fn of(block: &RecordBlock, records: &[usize], max_record_bytes: usize) -> Values {
        let mut values = BinaryBuilder::new();
        let mut hashes = Vec::with_capacity(records.len());
        let mut sizes = Vec::with_capacity(records.len());
        for record in records {
            let value = block.values.get(*record);
            let is_kept = value.is_none_or(|value| value.len() <= max_record_bytes);
            values.append_option(value.filter(|_| is_kept));
            hashes.push(value.filter(|_| !is_kept).map(sha256_hex));
            sizes.push(value.map(|value| i64::try_from(value.len()).unwrap_or(i64::MAX)));
        }
        Values {
            values: Arc::new(values.finish()),
            hashes: Arc::new(StringArray::from(hashes)),
            sizes: Arc::new(Int64Array::from(sizes)),
        }
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        hex.extend([byte >> 4, byte & 15].map(|nibble| char::from_digit(nibble.into(), 16).unwrap_or_default()));
    }
    hex
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};

    use super::*;
    use crate::decode::Reason;
    use crate::decode::tests::{BROKER_MS, push_record, units};
    use crate::types::Hidden;

    fn rejected(record: usize, reason: Reason) -> Rejected {
        Rejected { record, reason, detail: (reason == Reason::WrongType).then(|| "amount".to_owned()) }
    }

    fn letters(block: &RecordBlock, list: &[Rejected]) -> RecordBatch {
        dead_letter_batch(block, list, &units(), 8).unwrap()
    }

    #[test]
    fn a_dead_letter_has_the_record_unchanged_and_says_why_and_where() {
        let mut block = RecordBlock::default();
        push_record(&mut block, 0, 1, Some(b"good"));
        push_record(&mut block, 3, 7, Some(b"\xFF\x00bad"));
        push_record(&mut block, 3, 9, None);
        block.timestamps_ms[2] = -1;
        let batch = letters(&block, &[rejected(1, Reason::WrongType), rejected(2, Reason::Tombstone)]);
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let values = column("value").as_binary::<i32>();
        assert_eq!(values.iter().collect::<Vec<_>>(), [Some(&b"\xFF\x00bad"[..]), None]);
        assert_eq!(column("key").as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"key"[..]), None]);
        assert_eq!(column("headers").as_list::<i32>().value(0).len(), 2);
        assert_eq!(column("topic").as_string::<i32>().value(0), "tx");
        assert_eq!(column("partition").as_primitive::<Int32Type>().values(), &[3, 3]);
        assert_eq!(column("offset").as_primitive::<Int64Type>().values(), &[7, 9]);
        let times = column("timestamp").as_primitive::<TimestampMillisecondType>();
        assert_eq!(times.iter().collect::<Vec<_>>(), [Some(BROKER_MS), None]);
        let reasons = column("reason").as_string::<i32>();
        assert_eq!(reasons.iter().collect::<Vec<_>>(), [Some("wrong_type"), Some("tombstone")]);
        assert_eq!(column("detail").as_string::<i32>().iter().collect::<Vec<_>>(), [Some("amount"), None]);
        assert_eq!(column("value_bytes").as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(5), None]);
        assert_eq!(column("value_sha256").null_count(), 2);
        let hidden = Hidden::of(&batch).unwrap();
        assert_eq!((hidden.unit.values().as_ref(), hidden.offset.values().as_ref()), (&[3, 3][..], &[7, 9][..]));
        assert_eq!(hidden.event_time.values(), &[BROKER_MS * 1_000, 0]);
    }

    #[test]
    fn a_value_above_the_limit_is_left_out_and_described() {
        let mut block = RecordBlock::default();
        push_record(&mut block, 0, 0, Some(b"12345678"));
        push_record(&mut block, 0, 1, Some(b"123456789"));
        let batch = letters(&block, &[rejected(0, Reason::NotJson), rejected(1, Reason::TooLarge)]);
        let column = |name: &str| batch.column_by_name(name).unwrap();
        assert_eq!(column("value").as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"12345678"[..]), None]);
        let hashes = column("value_sha256").as_string::<i32>();
        let expected = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(hashes.iter().collect::<Vec<_>>(), [None, Some(expected)]);
        assert_eq!(column("value_bytes").as_primitive::<Int64Type>().values(), &[8, 9]);
    }

    #[test]
    fn no_rejected_record_is_an_empty_batch() {
        let batch = letters(&RecordBlock::default(), &[]);
        assert_eq!((batch.num_rows(), batch.schema()), (0, dead_letter_schema()));
        let error =
            dead_letter_batch(&RecordBlock::default(), &[rejected(0, Reason::NotJson)], &units(), 8).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Internal);
    }
}
