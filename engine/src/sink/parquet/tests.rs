//! Tests of the Parquet sink alone: when files roll, what is in them, what is reported. With checkpoints and crashes it is
//! tested in the suite.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray as _, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::checkpoint::testing::{Fault, FaultStore, Operation};
use crate::error::ErrorKind;
use crate::types::hidden_fields;

const UNIT: Assignment = Assignment(5);
const OTHER: Assignment = Assignment(6);

struct Bench {
    sink: ParquetSink,
    folder: Folder,
    units: Units,
    now: Arc<Mutex<Duration>>,
}

fn unit(partition: i32) -> StateUnit {
    StateUnit { source: "transactions".into(), topic: "card-events".into(), partition }
}

fn offset(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

impl Bench {
    fn on(store: impl object_store::ObjectStore, max_rows: usize, max_bytes: usize, max_age: Duration) -> Bench {
        Bench::with_positions(store, max_rows, max_bytes, max_age, false)
    }

    fn with_positions(
        store: impl object_store::ObjectStore,
        max_rows: usize,
        max_bytes: usize,
        max_age: Duration,
        has_positions: bool,
    ) -> Bench {
        let folder = Folder::new(Arc::new(store), Path::from("lake"), "memory://lake".into());
        let now = Arc::new(Mutex::new(Duration::from_secs(100)));
        let time = Arc::clone(&now);
        let parts = ParquetParts {
            folder: folder.clone(),
            owner: "p-archive".into(),
            runtime: Handle::current(),
            clock: Arc::new(move || *time.lock().unwrap()),
        };
        let settings = ParquetSettings { path: "unused".into(), max_rows, max_bytes, max_age, has_positions };
        let mut units = Units::default();
        units.insert(UNIT, unit(0));
        units.insert(OTHER, unit(1));
        Bench { sink: ParquetSink::new(&settings, parts), folder, units, now }
    }

    fn new(max_rows: usize) -> Bench {
        Bench::on(InMemory::new(), max_rows, usize::MAX, Duration::MAX)
    }

    fn write(&mut self, rows: &[(Assignment, i64)]) -> Result<()> {
        let batch = batch(rows);
        self.sink.write(&batch, &self.units)
    }

    async fn prepare(&mut self, upto: &[(Assignment, i64)], close: &[Assignment]) -> Result<Vec<PreparedUnit>> {
        let upto = upto
            .iter()
            .map(|(assignment, at)| (*assignment, offset(*at), self.units.get(*assignment).unwrap().clone()));
        self.sink.begin_prepare(PrepareRequest { upto: upto.collect(), close: close.to_vec() })?;
        loop {
            match self.sink.poll_prepared()? {
                Some(prepared) => return Ok(prepared),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// The `id`s in a staged file.
    async fn ids(&self, file: &StagedFile) -> Vec<i64> {
        let bytes = self.folder.read(&file.staged, u64::MAX).await.unwrap().unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let ids: Vec<i64> =
            batches.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(ids.len() as u64, file.rows);
        ids
    }
}

/// Rows whose `id` is their offset and whose W is ten times it.
fn batch(rows: &[(Assignment, i64)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|row| row.1).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids.clone()),
        Arc::new(rows.iter().map(|row| Some(format!("name {}", row.1 * 7919 % 104_729))).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.0.0).collect::<UInt32Array>()),
        Arc::new(ids),
        Arc::new(UInt32Array::from(vec![0; rows.len()])),
        Arc::new(rows.iter().map(|row| row.1 * 10 + 5).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| (row.1 > 0).then_some(row.1 * 10)).collect::<Int64Array>()),
        Arc::new(Int64Array::from(vec![-1; rows.len()])),
    ];
    let mut fields =
        vec![Arc::new(Field::new("id", DataType::Int64, false)), Arc::new(Field::new("name", DataType::Utf8, true))];
    fields.extend(hidden_fields().iter().cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn rows(assignment: Assignment, offsets: std::ops::Range<i64>) -> Vec<(Assignment, i64)> {
    offsets.map(|offset| (assignment, offset)).collect()
}

fn ranges(prepared: &PreparedUnit) -> Vec<String> {
    prepared.files.iter().map(|file| file.range.to_string()).collect()
}

fn at(micros: i64) -> Option<Watermark> {
    let mut watermark = Watermark::NONE;
    watermark.advance(EventTime::from_micros(micros));
    Some(watermark)
}

#[tokio::test]
async fn files_roll_by_rows_and_hold_the_rows_in_order_without_hidden_columns() {
    let mut bench = Bench::new(4);
    bench.write(&rows(UNIT, 10..13)).unwrap();
    bench.write(&rows(UNIT, 13..23)).unwrap();
    let prepared = bench.prepare(&[(UNIT, 23)], &[]).await.unwrap();
    assert_eq!(ranges(&prepared[0]), ["[10, 14)", "[14, 18)", "[18, 22)"]);
    // The last row waits; its file starts where it stands, and so does W.
    assert_eq!((prepared[0].position, prepared[0].watermark), (offset(22), at(220)));
    assert_eq!(bench.ids(&prepared[0].files[1]).await, [14, 15, 16, 17]);
    let file = &prepared[0].files[0];
    assert_eq!(file.name, "transactions--card-events--0--00000000000000000010-00000000000000000014.parquet");
    assert!(file.staged.starts_with("_staging/p-archive/transactions/card-events/0/"), "{}", file.staged);
    let bytes = bench.folder.read(&file.staged, u64::MAX).await.unwrap().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let names: Vec<&str> = reader.schema().fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["id", "name"]);
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let value = |key: &str| metadata.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone()).unwrap();
    assert_eq!(
        (value("tidemill.unit"), value("tidemill.offsets")),
        ("transactions/card-events/0".into(), "[10, 14)".into())
    );
}

#[tokio::test]
async fn a_closed_unit_rolls_at_once_and_its_range_ends_where_it_was_written_up_to() {
    let mut bench = Bench::new(100);
    bench.write(&rows(UNIT, 0..3)).unwrap();
    let prepared = bench.prepare(&[(UNIT, 9)], &[]).await.unwrap();
    assert_eq!((prepared[0].position, ranges(&prepared[0]).len()), (offset(0), 0));
    let prepared = bench.prepare(&[(UNIT, 9)], &[UNIT]).await.unwrap();
    assert_eq!(
        (ranges(&prepared[0]), prepared[0].position, prepared[0].watermark),
        (vec!["[0, 9)".into()], offset(9), None)
    );
}

#[tokio::test]
async fn a_unit_without_rows_has_no_file_and_follows_the_driver() {
    let mut bench = Bench::new(100);
    for upto in [7, 20] {
        let prepared = bench.prepare(&[(UNIT, upto)], &[]).await.unwrap();
        assert_eq!((prepared[0].position, prepared[0].watermark, prepared[0].files.len()), (offset(upto), None, 0));
    }
    // Rows that were filtered out belong to the next file's range all the same.
    bench.write(&rows(UNIT, 25..26)).unwrap();
    let prepared = bench.prepare(&[(UNIT, 30)], &[UNIT]).await.unwrap();
    assert_eq!(ranges(&prepared[0]), ["[7, 30)"]);
}

#[tokio::test]
async fn ranges_join_over_a_restart_though_records_around_it_became_no_rows() {
    let mut bench = Bench::new(2);
    bench.sink.take_over(UNIT, &unit(0), offset(3));
    bench.write(&rows(UNIT, 5..8)).unwrap();
    let first = bench.prepare(&[(UNIT, 12)], &[UNIT]).await.unwrap();
    assert_eq!(ranges(&first[0]), ["[3, 7)", "[7, 12)"]);
    // Without rows the position goes on and the ranges do not.
    let mut bench = Bench::new(2);
    bench.sink.take_over(UNIT, &unit(0), first[0].covered.unwrap());
    let second = bench.prepare(&[(UNIT, 20)], &[UNIT]).await.unwrap();
    assert_eq!((second[0].position, second[0].covered, second[0].files.len()), (offset(20), Some(offset(12)), 0));
    // Killed while a file is open: the position is at its first row.
    let mut bench = Bench::new(2);
    bench.sink.take_over(UNIT, &unit(0), second[0].covered.unwrap());
    bench.write(&rows(UNIT, 25..26)).unwrap();
    let third = bench.prepare(&[(UNIT, 30)], &[]).await.unwrap();
    assert_eq!((third[0].position, third[0].covered), (offset(25), Some(offset(12))));
    let mut bench = Bench::new(2);
    bench.sink.take_over(UNIT, &unit(0), third[0].covered.unwrap());
    bench.write(&rows(UNIT, 25..26)).unwrap();
    let last = bench.prepare(&[(UNIT, 30)], &[UNIT]).await.unwrap();
    assert_eq!((ranges(&last[0]), last[0].covered), (vec!["[12, 30)".to_owned()], Some(offset(30))));
}

#[tokio::test]
async fn files_roll_by_age_at_a_checkpoint_and_at_the_next_record() {
    let mut bench = Bench::on(InMemory::new(), 100, usize::MAX, Duration::from_secs(5));
    bench.write(&rows(UNIT, 0..3)).unwrap();
    *bench.now.lock().unwrap() += Duration::from_secs(4);
    assert!(bench.prepare(&[(UNIT, 3)], &[]).await.unwrap()[0].files.is_empty());
    *bench.now.lock().unwrap() += Duration::from_secs(1);
    bench.write(&rows(UNIT, 3..4)).unwrap();
    *bench.now.lock().unwrap() += Duration::from_secs(5);
    let prepared = bench.prepare(&[(UNIT, 6)], &[]).await.unwrap();
    assert_eq!(ranges(&prepared[0]), ["[0, 3)", "[3, 6)"]);
}

#[tokio::test]
async fn files_roll_by_bytes() {
    let mut bench = Bench::on(InMemory::new(), usize::MAX, 50_000, Duration::MAX);
    for start in (0..100_000).step_by(1000) {
        bench.write(&rows(UNIT, start..start + 1000)).unwrap();
    }
    let prepared = bench.prepare(&[(UNIT, 100_000)], &[UNIT]).await.unwrap();
    let files = &prepared[0].files;
    assert!(files.len() > 5, "{}", files.len());
    assert!(files.iter().all(|file| file.bytes < 100_000), "{files:?}");
    let mut ids = Vec::new();
    for file in files {
        ids.extend(bench.ids(file).await);
    }
    assert_eq!(ids, (0..100_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_is_never_cut_inside_a_record() {
    let mut bench = Bench::new(2);
    let repeated = |offset: i64, times: usize| vec![(UNIT, offset); times];
    bench.write(&[repeated(0, 1), repeated(1, 3)].concat()).unwrap();
    // The record goes on in the next batch.
    bench.write(&[repeated(1, 2), repeated(2, 5), repeated(3, 1)].concat()).unwrap();
    let prepared = bench.prepare(&[(UNIT, 4)], &[UNIT]).await.unwrap();
    assert_eq!(ranges(&prepared[0]), ["[0, 2)", "[2, 3)", "[3, 4)"]);
    assert_eq!(bench.ids(&prepared[0].files[0]).await, [0, 1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn units_have_files_of_their_own_and_rows_of_revoked_ones_are_left_out() {
    let mut bench = Bench::new(100);
    bench.write(&[(UNIT, 0), (OTHER, 50), (UNIT, 1), (Assignment(99), 7), (OTHER, 51)]).unwrap();
    let prepared = bench.prepare(&[(UNIT, 2), (OTHER, 52)], &[UNIT, OTHER]).await.unwrap();
    assert_eq!(bench.ids(&prepared[0].files[0]).await, [0, 1]);
    assert_eq!(bench.ids(&prepared[1].files[0]).await, [50, 51]);
    assert_eq!(
        prepared[1].files[0].name,
        "transactions--card-events--1--00000000000000000050-00000000000000000052.parquet"
    );
}

#[tokio::test]
async fn a_forgotten_unit_is_not_prepared_and_the_others_are() {
    let mut bench = Bench::new(2);
    bench.write(&[rows(UNIT, 0..5), rows(OTHER, 0..5)].concat()).unwrap();
    bench
        .sink
        .begin_prepare(PrepareRequest {
            upto: vec![(UNIT, offset(5), unit(0)), (OTHER, offset(5), unit(1))],
            close: vec![],
        })
        .unwrap();
    bench.sink.forget(&[UNIT]);
    let prepared = loop {
        if let Some(prepared) = bench.sink.poll_prepared().unwrap() {
            break prepared;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(prepared.iter().map(|unit| unit.assignment).collect::<Vec<_>>(), [OTHER]);
    bench.prepare(&[(OTHER, 5)], &[OTHER]).await.unwrap();
    assert_eq!(bench.sink.memory_bytes(), 0);
}

#[tokio::test]
async fn a_unit_that_closes_without_being_asked_for_is_dropped() {
    let mut bench = Bench::new(100);
    bench.write(&[rows(UNIT, 0..5), rows(OTHER, 0..5)].concat()).unwrap();
    let prepared = bench.prepare(&[(OTHER, 5)], &[UNIT, OTHER]).await.unwrap();
    assert_eq!(prepared.iter().map(|unit| (unit.assignment, unit.files.len())).collect::<Vec<_>>(), [(OTHER, 1)]);
    assert_eq!(bench.sink.memory_bytes(), 0);
}

#[tokio::test]
async fn later_writes_do_not_belong_to_a_prepare_that_began() {
    let mut bench = Bench::new(2);
    bench.write(&rows(UNIT, 0..4)).unwrap();
    bench.sink.begin_prepare(PrepareRequest { upto: vec![(UNIT, offset(4), unit(0))], close: vec![] }).unwrap();
    bench.write(&rows(UNIT, 4..9)).unwrap();
    let prepared = loop {
        if let Some(prepared) = bench.sink.poll_prepared().unwrap() {
            break prepared;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!((ranges(&prepared[0]), prepared[0].position), (vec!["[0, 2)".into(), "[2, 4)".into()], offset(4)));
    let prepared = bench.prepare(&[(UNIT, 9)], &[UNIT]).await.unwrap();
    assert_eq!(ranges(&prepared[0]), ["[4, 6)", "[6, 8)", "[8, 9)"]);
}

#[tokio::test]
async fn nothing_is_prepared_before_the_file_is_in_the_store() {
    let is_down = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&is_down);
    let store = FaultStore::new(Arc::new(InMemory::new()), move |_, operation, _| {
        (operation == Operation::Write && switch.load(Ordering::Relaxed)).then_some(Fault::FailBefore)
    });
    let mut bench = Bench::on(store, 2, usize::MAX, Duration::MAX);
    bench.write(&rows(UNIT, 0..3)).unwrap();
    bench.sink.begin_prepare(PrepareRequest { upto: vec![(UNIT, offset(3), unit(0))], close: vec![UNIT] }).unwrap();
    for _ in 0..20 {
        assert_eq!(bench.sink.poll_prepared().unwrap(), None);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    is_down.store(false, Ordering::Relaxed);
    let prepared = loop {
        if let Some(prepared) = bench.sink.poll_prepared().unwrap() {
            break prepared;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(bench.ids(&prepared[0].files[1]).await, [2]);
}

#[tokio::test]
async fn a_store_that_stays_away_is_an_error_in_the_end() {
    let store = FaultStore::new(Arc::new(InMemory::new()), |_, operation, _| {
        (operation == Operation::Write).then_some(Fault::FailBefore)
    });
    let mut bench = Bench::on(store, 1, usize::MAX, Duration::MAX);
    bench.sink =
        bench.sink.with_retry(RetryPolicy { attempts_max: 3, first_wait: Duration::ZERO, wait_max: Duration::ZERO });
    bench.write(&rows(UNIT, 0..2)).unwrap();
    assert_eq!(bench.prepare(&[(UNIT, 2)], &[UNIT]).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn memory_stays_within_its_limit_whatever_the_limits_of_files_are() {
    let mut bench = Bench::new(usize::MAX);
    bench.sink = bench.sink.with_memory_bytes_max(1 << 20);
    let mut peak = 0;
    for start in (0..400_000).step_by(4000) {
        bench.write(&[rows(UNIT, start..start + 2000), rows(OTHER, start..start + 2000)].concat()).unwrap();
        peak = peak.max(bench.sink.memory_bytes());
    }
    assert!(peak < 2 << 20, "{peak}");
    let prepared = bench.prepare(&[(UNIT, 400_000), (OTHER, 400_000)], &[UNIT, OTHER]).await.unwrap();
    for unit in prepared {
        assert!(unit.files.len() > 2);
        assert_eq!(unit.files.iter().map(|file| file.rows).sum::<u64>(), 200_000);
    }
}

#[tokio::test]
async fn rows_out_of_order_or_beyond_the_checkpoint_are_a_bug_and_say_so() {
    let mut bench = Bench::new(100);
    let error = bench.write(&[(UNIT, 5), (UNIT, 4)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("transactions/card-events/0"), "{error}");
    let mut bench = Bench::new(100);
    bench.write(&rows(UNIT, 5..6)).unwrap();
    assert_eq!(bench.prepare(&[(UNIT, 5)], &[UNIT]).await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn with_positions_each_row_says_where_it_comes_from() {
    let mut bench = Bench::with_positions(InMemory::new(), 100, usize::MAX, Duration::MAX, true);
    let mixed = [(UNIT, 10), (OTHER, 3), (UNIT, 11), (OTHER, 4)];
    bench.write(&mixed).unwrap();
    bench.write(&[(OTHER, 7)]).unwrap();
    let prepared = bench.prepare(&[(UNIT, 12), (OTHER, 8)], &[UNIT, OTHER]).await.unwrap();
    let mut found = Vec::new();
    for file in prepared.iter().flat_map(|prepared| &prepared.files) {
        let bytes = bench.folder.read(&file.staged, u64::MAX).await.unwrap().unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            assert_eq!(names, ["id", "name", "_topic", "_partition", "_offset", "_ordinal", "_timestamp"]);
            for row in 0..batch.num_rows() {
                assert_eq!(batch["_topic"].as_string::<i32>().value(row), "card-events");
                assert_eq!(batch["_ordinal"].as_primitive::<Int32Type>().value(row), 0);
                assert!(batch["_timestamp"].is_null(row));
                let offset = batch["_offset"].as_primitive::<Int64Type>().value(row);
                assert_eq!(batch["id"].as_primitive::<Int64Type>().value(row), offset);
                found.push((batch["_partition"].as_primitive::<Int32Type>().value(row), offset));
            }
        }
    }
    assert_eq!(found, [(0, 10), (0, 11), (1, 3), (1, 4), (1, 7)]);
}
