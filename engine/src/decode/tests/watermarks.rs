//! W, late rows, stale records, and the guard against the future.

use arrow::datatypes::Int64Type;

use super::*;
use crate::decode::Reason;
use crate::types::{EventTime, Hidden, Watermark};

fn at(second: u32) -> Vec<u8> {
    with_member("timestamp", &format!("\"2024-01-01T00:00:{second:02}Z\""))
}

fn micros(second: i64) -> i64 {
    BROKER_MS * 1_000 + second * 1_000_000
}

fn w_of(decoded: &Decoded) -> Vec<Option<i64>> {
    Hidden::of(&decoded.batch).unwrap().w.iter().collect()
}

#[test]
fn w_is_the_greatest_event_time_of_accepted_records_before_the_row_in_its_own_partition() {
    let mut block = RecordBlock::default();
    for (unit, offset, payload) in [
        (0, 0, at(10)),
        (1, 0, at(5)),
        (0, 1, at(30)),
        (0, 2, b"garbage".to_vec()),
        (0, 3, at(20)),
        (1, 7, at(4)),
        (0, 4, at(30)),
        (1, 8, with_member("amount", "99999")),
        (1, 9, at(6)),
    ] {
        push_record(&mut block, unit, offset, Some(&payload));
    }
    let mut decoder = decoder();
    decoder.set_watermark(Assignment(1), {
        let mut w = Watermark::NONE;
        w.advance(EventTime::from_micros(micros(1)));
        w
    });
    let decoded = decoder.decode(&block, &units()).unwrap();
    let s = |second| Some(micros(second));
    assert_eq!(w_of(&decoded), [None, s(1), s(10), s(30), s(5), s(30), s(5)]);
    assert_eq!(decoded.num_late, 2);
    assert_eq!(decoder.watermark(Assignment(0)).get(), Some(EventTime::from_micros(micros(30))));
    assert_eq!(decoder.watermark(Assignment(1)).get(), Some(EventTime::from_micros(micros(6))));
    assert_eq!(decoder.watermark(Assignment(2)), Watermark::NONE);
    decoder.forget(Assignment(0));
    assert_eq!(decoder.watermark(Assignment(0)), Watermark::NONE);
}

#[test]
fn a_rejected_record_does_not_move_w() {
    let mut decoder = decoder();
    let failed = String::from_utf8(at(50)).unwrap().replace("\"amount\":2.5", "\"amount\":10001");
    let future = with_member("timestamp", "\"2099-01-01T00:00:00Z\"");
    let decoded = decode_all(&mut decoder, &[at(1), failed.into_bytes(), future, at(2)]);
    let reasons: Vec<_> = decoded.rejected.iter().map(|rejected| (rejected.record, rejected.reason)).collect();
    assert_eq!(reasons, [(1, Reason::FailedCheck), (2, Reason::FutureEventTime)]);
    assert_eq!(w_of(&decoded), [None, Some(micros(1))]);
    assert_eq!(decoder.watermark(Assignment(0)).get(), Some(EventTime::from_micros(micros(2))));
}

#[test]
fn records_of_an_assignment_that_is_not_held_are_neither_accepted_nor_rejected() {
    let mut block = RecordBlock::default();
    push_record(&mut block, 0, 0, Some(&at(1)));
    push_record(&mut block, 9, 1, Some(&at(2)));
    push_record(&mut block, 9, 2, Some(b"garbage"));
    push_record(&mut block, 0, 1, Some(&at(3)));
    let mut decoder = decoder();
    let decoded = decoder.decode(&block, &units()).unwrap();
    assert_eq!((decoded.batch.num_rows(), decoded.rejected.len(), decoded.num_stale), (2, 0, 2));
    assert_eq!(decoder.watermark(Assignment(9)), Watermark::NONE);
}

#[test]
fn the_guard_allows_exactly_the_skew_and_needs_a_broker_timestamp() {
    let edge = with_member("timestamp", "\"2024-01-01T01:00:00Z\"");
    let beyond = with_member("timestamp", "\"2024-01-01T01:00:00.000001Z\"");
    let mut block = block_of([Some(edge), Some(beyond.clone()), Some(beyond)]);
    block.timestamps_ms[2] = -1;
    let decoded = decoder().decode(&block, &units()).unwrap();
    assert_eq!(decoded.rejected.len(), 1);
    assert_eq!(decoded.rejected[0].record, 1);
    assert_eq!(Hidden::of(&decoded.batch).unwrap().broker_time.values(), &[BROKER_MS, -1]);
}

#[test]
fn without_an_event_time_column_the_brokers_timestamp_is_the_event_time() {
    let mut decoder = decoder_of(vec![column("a", ColumnType::Int64, true)]);
    let mut block = block_of([Some("{\"a\":1}"), Some("{\"a\":2}")]);
    block.timestamps_ms[1] = -1;
    let decoded = decoder.decode(&block, &units()).unwrap();
    assert_eq!(Hidden::of(&decoded.batch).unwrap().event_time.values(), &[BROKER_MS * 1_000, 0]);
    assert_eq!(decoded.num_late, 1);
    assert_eq!(decoded.batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
}

#[test]
fn an_empty_block_is_an_empty_batch() {
    let mut decoder = decoder();
    let decoded = decoder.decode(&RecordBlock::default(), &units()).unwrap();
    assert_eq!(decoded.batch.num_rows(), 0);
    assert_eq!(decoded.batch.schema(), decoder.schema());
}
