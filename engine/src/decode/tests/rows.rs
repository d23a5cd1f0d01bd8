//! Rows in columns come to what they would come to as JSON.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int8Array, Int32Array, Int64Array, LargeStringArray,
    StringArray, StringViewArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::*;
use crate::decode::{Reason, dead_letter_batch};
use crate::types::{Hidden, RowBlock};

fn rows(first_offset: i64, columns: Vec<(&str, ArrayRef)>) -> RowBlock {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    RowBlock { assignment: Assignment(0), first_offset, batch: batch.unwrap() }
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// What `array` becomes in a column of the given type: the column of accepted rows, and row and reason of the others.
fn converted(column_type: ColumnType, array: ArrayRef) -> (ArrayRef, Vec<(usize, Reason)>) {
    let mut decoder = decoder_of(vec![column("c", column_type, true)]);
    let decoded = decoder.accept_rows(&rows(0, vec![("c", array)]), &units()).unwrap();
    assert!(decoded.rejected.iter().all(|rejected| rejected.detail.as_deref() == Some("c")));
    let rejected = decoded.rejected.iter().map(|rejected| (rejected.record, rejected.reason)).collect();
    (decoded.batch.column(0).clone(), rejected)
}

#[test]
fn the_rows_that_json_became_are_accepted_again_to_the_same_bits() {
    let payloads: Vec<_> = (0..30).map(good).collect();
    let mut from_json = decoder();
    let mut block = block_of(payloads.iter().map(Some));
    block.timestamps_ms.fill(-1);
    block.keys = crate::types::BytesColumn::default();
    block.headers = crate::types::Headers::default();
    for _ in 0..30 {
        block.keys.push(None);
        block.headers.end_record();
    }
    let expected = from_json.decode(&block, &units()).unwrap();
    let mut decoder = decoder();
    let rows = RowBlock { assignment: Assignment(0), first_offset: 0, batch: expected.batch.clone() };
    let decoded = decoder.accept_rows(&rows, &units()).unwrap();
    assert_eq!(decoded.rejected, []);
    assert_eq!(decoded.batch, expected.batch);
    assert_eq!(decoded.num_late, expected.num_late);
    assert_eq!(decoder.watermark(Assignment(0)), from_json.watermark(Assignment(0)));
}

#[test]
fn bad_rows_are_rejected_alone_and_keep_their_place() {
    let rows = rows(
        100,
        vec![
            ("id", strings(&[Some("a"), None, Some("c"), Some("d"), Some("e")])),
            ("user_id", Arc::new(UInt64Array::from(vec![1, 2, u64::MAX, 4, 5]))),
            ("amount", Arc::new(Float64Array::from(vec![1.0, f64::NAN, 3.0, 10_001.0, 5.0]))),
            (
                "timestamp",
                strings(&["2024-01-01T00:00:09Z", "x", "x", "2024-01-01T00:00:59Z", "2024-01-01T00:00:05Z"].map(Some)),
            ),
            ("ignored", Arc::new(Int8Array::from(vec![0; 5]))),
        ],
    );
    let mut decoder = decoder();
    let decoded = decoder.accept_rows(&rows, &units()).unwrap();
    let rejected: Vec<_> =
        decoded.rejected.iter().map(|r| (r.record, r.reason, r.detail.as_deref().unwrap())).collect();
    assert_eq!(
        rejected,
        [
            (1, Reason::NullValue, "id"),
            (2, Reason::NumberOverflow, "user_id"),
            (3, Reason::FailedCheck, AmountChecks::TEXT)
        ]
    );
    let hidden = Hidden::of(&decoded.batch).unwrap();
    assert_eq!(hidden.offset.values(), &[100, 104]);
    assert_eq!(hidden.broker_time.values(), &[-1, -1]);
    assert_eq!(hidden.w.iter().collect::<Vec<_>>(), [None, Some(BROKER_MS * 1_000 + 9_000_000)]);
    assert_eq!(decoded.num_late, 1);
    assert_eq!(decoded.batch.column_by_name("m_offset").unwrap().as_primitive::<Int64Type>().values(), &[100, 104]);
    assert_eq!(decoded.batch.column_by_name("note").unwrap().null_count(), 2);

    let letters = dead_letter_batch(&rows.to_records(), &decoded.rejected, &units(), 1 << 20).unwrap();
    assert_eq!(letters.column_by_name("offset").unwrap().as_primitive::<Int64Type>().values(), &[101, 102, 103]);
    assert_eq!(letters.column_by_name("value").unwrap().null_count(), 3);
}

#[test]
fn an_event_time_that_is_null_rejects_the_row() {
    let mut source = source_of(vec![column("t", ColumnType::Timestamp, true)]);
    source.event_time = Some("t".to_owned());
    let mut decoder = Decoder::new(&source, Box::new(NoChecks)).unwrap();
    let decoded = decoder
        .accept_rows(&rows(0, vec![("t", Arc::new(TimestampMillisecondArray::from(vec![Some(1), None])))]), &units());
    let decoded = decoded.unwrap();
    assert_eq!(decoded.rejected.iter().map(|r| (r.record, r.reason)).collect::<Vec<_>>(), [(1, Reason::NullEventTime)]);
    let error = decoder.accept_rows(&rows(0, vec![("u", Arc::new(Int8Array::from(vec![1])))]), &units()).unwrap_err();
    assert!(error.message().contains("file tx has no column t"), "{error}");
}

#[test]
fn types_that_lose_nothing_are_taken() {
    let (array, rejected) = converted(ColumnType::String, Arc::new(StringViewArray::from(vec!["a", "b"])));
    assert_eq!((array.as_string::<i32>().value(1), rejected.len()), ("b", 0));
    let (array, _) = converted(ColumnType::String, Arc::new(LargeStringArray::from(vec!["a", "b"])));
    assert_eq!(array.as_string::<i32>().value(0), "a");
    let dictionary = ["x", "y", "x"].into_iter().collect::<arrow::array::DictionaryArray<Int32Type>>();
    let (array, _) = converted(ColumnType::String, Arc::new(dictionary));
    assert_eq!(array.as_string::<i32>().value(2), "x");

    let (array, rejected) = converted(ColumnType::Int32, Arc::new(Int64Array::from(vec![1, i64::MAX, -1])));
    assert_eq!(array.as_primitive::<Int32Type>().values(), &[1, -1]);
    assert_eq!(rejected, [(1, Reason::NumberOverflow)]);

    let (array, rejected) =
        converted(ColumnType::Float32, Arc::new(Float64Array::from(vec![0.1, 1e39, f64::INFINITY, f64::NAN])));
    assert_eq!(array.as_primitive::<Float32Type>().values(), &[0.1]);
    assert_eq!(rejected, [(1, Reason::NumberOverflow), (2, Reason::NonFiniteNumber), (3, Reason::NonFiniteNumber)]);
    let (array, _) = converted(ColumnType::Float64, Arc::new(Int32Array::from(vec![Some(7), None])));
    assert_eq!(array.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(7.0), None]);

    let decimals = Decimal128Array::from(vec![15, 9_999_999_999]).with_precision_and_scale(12, 1).unwrap();
    let (array, rejected) = converted(ColumnType::Decimal(10, 2), Arc::new(decimals));
    assert_eq!(array.as_primitive::<Decimal128Type>().values(), &[150]);
    assert_eq!(rejected, [(1, Reason::NumberOverflow)]);

    let (array, rejected) = converted(ColumnType::Timestamp, Arc::new(TimestampNanosecondArray::from(vec![1_999, -1])));
    assert_eq!((array.as_primitive::<TimestampMicrosecondType>().values().as_ref(), rejected.len()), (&[1, -1][..], 0));
    let zoned = TimestampMillisecondArray::from(vec![5, i64::MAX]).with_timezone("+02:00");
    let (array, rejected) = converted(ColumnType::Epoch(EpochUnit::Seconds), Arc::new(zoned));
    assert_eq!(array.as_primitive::<TimestampMicrosecondType>().values(), &[5_000]);
    assert_eq!(rejected, [(1, Reason::NumberOverflow)]);
    let (array, rejected) =
        converted(ColumnType::Epoch(EpochUnit::Seconds), Arc::new(UInt64Array::from(vec![5, u64::MAX])));
    assert_eq!(array.as_primitive::<TimestampMicrosecondType>().values(), &[5_000_000]);
    assert_eq!(rejected, [(1, Reason::NumberOverflow)]);
    let (_, rejected) = converted(ColumnType::Timestamp, strings(&[Some("2024-01-01"), None]));
    assert_eq!(rejected, [(0, Reason::InvalidTimestamp)]);
}

#[test]
fn types_that_would_lose_something_are_an_error_that_names_file_and_column() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let integers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let text = strings(&[Some("1")]);
    let booleans: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
    let cents: ArrayRef = Arc::new(Decimal128Array::from(vec![1]).with_precision_and_scale(10, 3).unwrap());
    for (column_type, array) in [
        (ColumnType::Int64, &floats),
        (ColumnType::Int32, &text),
        (ColumnType::Float64, &text),
        (ColumnType::String, &integers),
        (ColumnType::Boolean, &integers),
        (ColumnType::Int64, &booleans),
        (ColumnType::Timestamp, &integers),
        (ColumnType::Epoch(EpochUnit::Seconds), &text),
        (ColumnType::Decimal(10, 2), &cents),
        (ColumnType::Decimal(10, 2), &floats),
    ] {
        let mut decoder = decoder_of(vec![column("c", column_type, true)]);
        let error = decoder.accept_rows(&rows(0, vec![("c", array.clone())]), &units()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data);
        assert!(error.message().contains("file tx: column c has type"), "{error}");
    }
}

#[test]
fn rows_of_an_assignment_that_is_not_held_are_stale() {
    let mut block = rows(0, vec![("c", Arc::new(Int64Array::from(vec![1, 2, 3])))]);
    block.assignment = Assignment(77);
    let mut decoder = decoder_of(vec![column("c", ColumnType::Int64, true)]);
    let decoded = decoder.accept_rows(&block, &units()).unwrap();
    assert_eq!((decoded.batch.num_rows(), decoded.num_stale), (0, 3));
    assert_eq!(decoded.batch.schema(), decoder.schema());
}

proptest! {
    #[test]
    fn no_cut_of_the_rows_is_seen(
        values in prop::collection::vec((prop::option::of(any::<i64>()), prop::option::of(0_i64..100)), 0..40),
        cut in 1_usize..9,
    ) {
        let mut source = source_of(vec![column("v", ColumnType::Int32, true), column("t", ColumnType::Timestamp, false)]);
        source.event_time = Some("t".to_owned());
        let block = |range: std::ops::Range<usize>| {
            let part = &values[range.clone()];
            rows(i64::try_from(range.start).unwrap(), vec![
                ("v", Arc::new(part.iter().map(|(value, _)| *value).collect::<Int64Array>())),
                ("t", Arc::new(part.iter().map(|(_, time)| *time).collect::<TimestampMillisecondArray>())),
            ])
        };
        let decode = |cut: usize| {
            let mut decoder = Decoder::new(&source, Box::new(NoChecks)).unwrap();
            let (mut batches, mut rejected) = (Vec::new(), Vec::new());
            for start in (0..values.len()).step_by(cut) {
                let end = values.len().min(start + cut);
                let decoded = decoder.accept_rows(&block(start..end), &units()).unwrap();
                batches.push(decoded.batch);
                rejected.extend(decoded.rejected.into_iter().map(|r| (r.record + start, r.reason)));
            }
            (concat_batches(&decoder.schema(), &batches).unwrap(), rejected, decoder.watermark(Assignment(0)))
        };
        prop_assert_eq!(decode(cut), decode(1_000));
    }
}
