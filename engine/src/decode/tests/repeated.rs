//! Internal topics: what was written again is left out, wherever reading is cut, stopped and taken up again; what is not ours
//! is rejected, and what is ours of another time stops the pipeline.

use std::sync::Arc;

use arrow::array::{Int64Array, TimestampMicrosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::decode::Reason;
use crate::decode::internal::{RowEncoder, Stamp};
use crate::pipeline::settings::{InternalTopic, KafkaConnection};
use crate::types::{Hidden, SeenPositions, Watermark, hidden_fields};

const STAMP: Stamp = Stamp { pipeline: 1, columns: 2 };

fn internal() -> InternalTopic {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    InternalTopic {
        topic: "by_user".to_owned(),
        connection: KafkaConnection {
            bootstrap_servers: String::new(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_location: None,
            ssl_certificate_location: None,
            ssl_key_location: None,
            options: Default::default(),
        },
        columns: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("ts", time, false)])),
        by: vec!["id".to_owned()],
        event_time: "ts".to_owned(),
        has_scores: false,
        upstream: Vec::new(),
        outer_topics: Vec::new(),
        num_partitions: None,
        retention: Duration::from_secs(60),
        max_record_bytes: 1 << 20,
    }
}

fn internal_decoder() -> Decoder {
    let source = Source { internal: Some(internal()), ..source_of(Vec::new()) };
    Decoder::of_internal(&source, &internal(), STAMP).unwrap()
}

/// A row of source partition `partition` at `offset`, as a record; its id and time say where it is from.
fn record(partition: u32, offset: i64, stamp: Stamp) -> Vec<u8> {
    let mut units = Units::default();
    let unit = StateUnit { source: "outer".into(), topic: "cards".into(), partition: partition as i32 };
    units.insert(Assignment(partition), unit);
    let internal = internal();
    let fields = internal.columns.fields().iter().cloned().chain(hidden_fields().iter().cloned());
    let batch = RecordBatch::try_new(
        Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        vec![
            Arc::new(Int64Array::from(vec![i64::from(partition) * 1_000 + offset])),
            Arc::new(TimestampMicrosecondArray::from(vec![time(partition, offset)])),
            Arc::new(UInt32Array::from(vec![partition])),
            Arc::new(Int64Array::from(vec![offset])),
            Arc::new(UInt32Array::from(vec![0])),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(Int64Array::from(vec![None])),
            Arc::new(Int64Array::from(vec![-1])),
        ],
    )
    .unwrap();
    let mut encoder = RowEncoder::new(&internal.columns, stamp).unwrap();
    encoder.encode(&batch, &units).unwrap();
    encoder.row(0).to_vec()
}

/// Not in order, so that W tells.
fn time(partition: u32, offset: i64) -> i64 {
    (i64::from(partition) * 31 + offset * 17) % 23
}

fn block_of(first: i64, payloads: &[Vec<u8>]) -> RecordBlock {
    let mut block = RecordBlock::default();
    for (payload, offset) in payloads.iter().zip(first..) {
        push_record(&mut block, 0, offset, Some(payload));
    }
    block
}

/// (id, internal offset, W) of a row.
type Row = (i64, i64, Option<i64>);

/// All accepted rows.
fn accepted(decoded: &Decoded) -> Vec<Row> {
    let hidden = Hidden::of(&decoded.batch).unwrap();
    let ids = decoded.batch.column(0).as_primitive::<Int64Type>();
    let w = |row: usize| arrow::array::Array::is_valid(hidden.w, row).then(|| hidden.w.value(row));
    (0..decoded.batch.num_rows()).map(|row| (ids.value(row), hidden.offset.value(row), w(row))).collect()
}

/// What several writers leave in one internal partition: each writes rows of its source partitions in order and without gaps, from
/// a place at or below which all is written on, and stops anywhere; two of one source partition may write at once.
fn logs() -> impl Strategy<Value = Vec<(u32, i64)>> {
    prop::collection::vec((0_u32..3, 0_usize..100, 1_usize..12), 1..12).prop_flat_map(|runs| {
        let mut written = [0_i64; 3];
        let mut writers: Vec<Vec<(u32, i64)>> = Vec::new();
        for (partition, back, length) in runs {
            let end = written[partition as usize];
            let start = end - (back as i64 % (end + 1));
            writers.push((start..start + length as i64).map(|offset| (partition, offset)).collect());
            written[partition as usize] = end.max(start + length as i64);
        }
        // A writer overlaps with the one after it: it writes its last records when that one has begun.
        prop::collection::vec(0_usize..5, writers.len()).prop_map(move |tails| {
            let (mut log, mut kept) = (Vec::<(u32, i64)>::new(), Vec::new());
            for (writer, tail) in writers.iter().zip(&tails) {
                // What comes late must not be what the next one's start relies on: only repetitions may.
                let is_repetition = |one: &&(u32, i64)| log.contains(*one);
                let late = writer.iter().rev().take(*tail).take_while(is_repetition).count();
                let (now, later) = writer.split_at(writer.len() - late);
                let (before, after) = now.split_at(now.len() / 2);
                let (before, after, later) = (before.to_vec(), after.to_vec(), later.to_vec());
                log.extend(before);
                log.extend(std::mem::take(&mut kept));
                log.extend(after);
                kept = later;
            }
            log.extend(kept);
            log
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_row_comes_once_however_often_it_was_written_and_wherever_reading_is_taken_up(
        log in logs(),
        cuts in prop::collection::vec(1_usize..9, 60),
        restarts in prop::collection::vec((0_usize..6, any::<bool>()), 60),
    ) {
        let payloads: Vec<Vec<u8>> = log.iter().map(|(partition, offset)| record(*partition, *offset, STAMP)).collect();
        let mut whole = internal_decoder();
        let all = whole.decode(&block_of(0, &payloads), &units()).unwrap();
        let mut expected: Vec<(u32, i64)> = log.clone();
        expected.sort_unstable();
        expected.dedup();
        let mut ids: Vec<i64> = accepted(&all).iter().map(|(id, ..)| *id).collect();
        prop_assert_eq!(ids.len() + all.num_repeated, log.len());
        ids.sort_unstable();
        prop_assert_eq!(ids, expected.iter().map(|(p, o)| i64::from(*p) * 1_000 + o).collect::<Vec<_>>());

        // Cut, and now and then taken up again from an earlier cut with what was known there.
        let mut decoder = internal_decoder();
        let mut points: Vec<(usize, Watermark, SeenPositions)> = vec![(0, Watermark::NONE, SeenPositions::default())];
        let mut found: Vec<Row> = Vec::new();
        let (mut at, mut turn) = (0, 0);
        while at < payloads.len() {
            let end = (at + cuts[turn % cuts.len()]).min(payloads.len());
            let decoded = decoder.decode(&block_of(at as i64, &payloads[at..end]), &units()).unwrap();
            found.retain(|(_, offset, _)| *offset < at as i64);
            found.extend(accepted(&decoded));
            at = end;
            points.push((at, decoder.watermark(Assignment(0)), decoder.seen(Assignment(0)).unwrap()));
            let (back, is_restart) = restarts[turn % restarts.len()];
            turn += 1;
            if is_restart && turn < 50 {
                points.truncate(points.len().saturating_sub(back).max(1));
                let (position, watermark, seen) = points.last().unwrap().clone();
                decoder = internal_decoder();
                decoder.set_watermark(Assignment(0), watermark);
                decoder.set_seen(Assignment(0), seen);
                at = position;
            }
        }
        prop_assert_eq!(&found, &accepted(&all));
        prop_assert_eq!(decoder.seen(Assignment(0)), whole.seen(Assignment(0)));
    }
}

#[test]
fn what_is_not_ours_is_rejected_and_counted_and_harms_no_neighbour() {
    let broken = {
        let mut record = record(0, 1, STAMP);
        record.pop();
        record
    };
    let payloads = [record(0, 0, STAMP), b"{\"id\": 1}".to_vec(), broken, record(0, 1, STAMP), record(0, 2, STAMP)];
    let decoded = internal_decoder().decode(&block_of(0, &payloads), &units()).unwrap();
    let rejected: Vec<_> = decoded.rejected.iter().map(|one| (one.record, one.reason)).collect();
    assert_eq!(rejected, [(1, Reason::ForeignRecord), (2, Reason::ForeignRecord)]);
    assert_eq!(accepted(&decoded).iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [0, 2]);
    // The broken record bore the position of a row, and that row has its one outcome: rejected.
    assert_eq!(decoded.num_repeated, 1);
}

#[test]
fn rows_of_another_pipeline_or_of_other_columns_stop_the_pipeline_with_the_way_out() {
    for (stamp, parts) in [
        (Stamp { pipeline: 9, ..STAMP }, ["another pipeline", "delete this one"]),
        (Stamp { columns: 9, ..STAMP }, ["other columns", "until: now"]),
    ] {
        let payloads = [record(0, 0, STAMP), record(0, 1, stamp)];
        let error = internal_decoder().decode(&block_of(7, &payloads), &units()).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Data);
        for part in parts.iter().chain(&["offset 8"]) {
            assert!(error.message().contains(part), "{error}");
        }
    }
}
