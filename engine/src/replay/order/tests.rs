//! Orders of a replay, shown on archives that the Parquet sink wrote with random cuts by several writers: as served, the rows and
//! W of every partition are those of its log; by event time, all rows in the total order. What no archive is, is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::Folder;
use crate::decode::Decoder;
use crate::pipeline::settings::{FileFormat, ParquetSink as ParquetSettings, Pipeline};
use crate::plan::Plan;
use crate::runtime::{compile, tasks};
use crate::sink::parquet::{ParquetParts, ParquetSink};
use crate::sink::{PrepareRequest, Sink as _};
use crate::source::files::FilesInOrder;
use crate::source::files::testing::folder_in_memory;
use crate::types::{Assignment, Hidden, Offset, RecordBlock, StateUnit};

const LIVE: &str = r"
pipeline: live
sources:
  tx:
    connector: kafka
    bootstrap_servers: localhost:1
    topics: [cards, transfers]
    format: json
    columns: { id: bigint not null, at: epoch_us not null, amount: double }
    metadata: { message_key: key, kafka_offset: offset, kafka_time: timestamp }
    event_time: at
sinks:
  out: { connector: parquet, path: out, positions: true, select: SELECT * FROM tx }
checkpoint: { path: checkpoint }
";

fn pipeline(text: &str) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    std::fs::write(&path, text).unwrap();
    Pipeline::load(&path, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// One record of a log: its offset, event time in microseconds and broker timestamp.
type LogRecord = (i64, i64, i64);

/// A partition's log, with gaps in its offsets and late rows.
#[derive(Debug, Clone)]
struct Log {
    unit: StateUnit,
    records: Vec<LogRecord>,
}

fn logs() -> impl Strategy<Value = Vec<Log>> {
    let records = proptest::collection::vec((0..3_i64, 0..40_i64, -1..1_i64), 1..60);
    proptest::collection::vec(records, 1..5).prop_map(|logs| {
        let log = |(number, records): (i32, Vec<(i64, i64, i64)>)| {
            let topic = if number % 2 == 0 { "transfers" } else { "cards" };
            let unit = StateUnit { source: "tx".into(), topic: topic.into(), partition: number };
            let mut offset = 100;
            let records = records.into_iter().map(|(gap, time, broker)| {
                offset += gap + 1;
                (offset, time * 1_000_000, if broker < 0 { -1 } else { 1_000 + offset })
            });
            Log { unit, records: records.collect() }
        };
        (0..).zip(logs).map(log).collect()
    })
}

struct Bench {
    io: Runtime,
    pipeline: Pipeline,
    plan: Plan,
    folder: Folder,
}

impl Bench {
    fn new(text: &str) -> Bench {
        let (io, pipeline) = (tasks::io_runtime().unwrap(), pipeline(text));
        let (plan, _) = compile(&pipeline, &BTreeMap::new(), io.handle()).unwrap();
        Bench { io, pipeline, plan, folder: folder_in_memory() }
    }

    /// Writes the logs as a run would: `writers` one after the other take partitions over, each file has at most `max_rows`.
    fn archive(&self, logs: &[Log], writers: usize, max_rows: usize) {
        let folder = &self.folder;
        let settings = ParquetSettings {
            path: "unused".into(),
            max_rows,
            max_bytes: usize::MAX,
            max_age: Duration::MAX,
            has_positions: true,
        };
        let mut decoder = Decoder::new(&self.pipeline.sources[0], self.plan.checks(0)).unwrap();
        let mut units = Units::default();
        for (number, log) in (0..).zip(logs) {
            units.insert(Assignment(number), log.unit.clone());
        }
        let mut covered: BTreeMap<u32, Offset> = BTreeMap::new();
        for writer in 0..writers {
            let parts = ParquetParts {
                folder: folder.clone(),
                owner: "p-archive".into(),
                runtime: self.io.handle().clone(),
                clock: Arc::new(|| Duration::ZERO),
            };
            let mut sink = ParquetSink::new(&settings, parts);
            let mut upto = Vec::new();
            for (number, log) in (0..).zip(logs) {
                let share = log.records.len().div_ceil(writers);
                let own = &log.records[(writer * share).min(log.records.len())..];
                let own = &own[..share.min(own.len())];
                let Some(last) = own.last() else { continue };
                if let Some(covered) = covered.get(&number) {
                    sink.take_over(Assignment(number), &log.unit, *covered);
                }
                sink.write(&decoder.decode(&block(number, own), &units).unwrap().batch, &units).unwrap();
                covered.insert(number, Offset::after(last.0));
                upto.push((Assignment(number), Offset::after(last.0), log.unit.clone()));
            }
            let close = upto.iter().map(|(assignment, ..)| *assignment).collect();
            sink.begin_prepare(PrepareRequest { upto, close }).unwrap();
            let prepared = loop {
                match sink.poll_prepared().unwrap() {
                    Some(prepared) => break prepared,
                    None => thread::sleep(Duration::from_micros(50)),
                }
            };
            for file in prepared.iter().flat_map(|prepared| &prepared.files) {
                assert!(self.io.block_on(folder.rename(&file.staged, &file.name)).unwrap());
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let listed = self.io.block_on(self.folder.list("")).unwrap();
        let mut names: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
        names.sort();
        names
    }

    fn open(&self) -> Result<(StoredRows, AssignmentNumbers)> {
        let numbers = AssignmentNumbers::default();
        let rows = self.io.block_on(async {
            let (store, path) = (self.folder.store().clone(), self.folder.path());
            let files = FilesInOrder::open("tx", store, path, FileFormat::Parquet, &numbers).await?;
            StoredRows::of(files, &numbers).await
        });
        Ok((rows?, numbers))
    }

    /// The rows of a replay in an order, and its counts.
    fn replay(&self, order: Order, sort_bytes: usize) -> Result<(Vec<RecordBatch>, Turns)> {
        let (rows, numbers) = self.open()?;
        let mut reading = Reading::new(0, &self.pipeline.sources[0], rows, Some(order), true, None, &numbers)?;
        reading.set_sort_bytes(sort_bytes);
        let mut turns = Turns::new(&self.pipeline, &self.plan)?;
        let mut found = Vec::new();
        reading.run(&self.io, &mut turns, |event| {
            if let Event::Rows(_, batch) = event {
                found.push(batch);
            }
            Ok(())
        })?;
        Ok((found, turns))
    }

    fn put(&self, name: &str, batch: &RecordBatch) {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        self.io.block_on(self.folder.write(name, bytes.into())).unwrap();
    }
}

/// Records whose key and `id` are their offset.
fn block(number: u32, records: &[LogRecord]) -> RecordBlock {
    let mut block = RecordBlock::default();
    for (offset, time, broker) in records {
        block.units.push(number);
        block.offsets.push(*offset);
        block.timestamps_ms.push(*broker);
        block.keys.push(Some(offset.to_string().as_bytes()));
        block.values.push(Some(format!(r#"{{"id": {offset}, "at": {time}}}"#).as_bytes()));
        block.headers.end_record();
    }
    block
}

/// (topic, partition, offset, event time) of rows with positions.
fn positions(batches: &[RecordBatch]) -> Vec<(String, i32, i64, i64)> {
    let mut found = Vec::new();
    for batch in batches {
        let topics = batch["_topic"].as_string::<i32>();
        let partitions = batch["_partition"].as_primitive::<arrow::datatypes::Int32Type>();
        let offsets = batch["_offset"].as_primitive::<Int64Type>();
        let times = batch["at"].as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let position = (topics.value(row).to_owned(), partitions.value(row), offsets.value(row), times.value(row));
            assert_eq!(batch["id"].as_primitive::<Int64Type>().value(row), position.2);
            assert_eq!(batch["kafka_offset"].as_primitive::<Int64Type>().value(row), position.2);
            assert_eq!(batch["message_key"].as_binary::<i32>().value(row), position.2.to_string().as_bytes());
            found.push(position);
        }
    }
    found
}

/// What every row of the logs is, partition by partition.
fn served(logs: &[Log]) -> Vec<(String, i32, i64, i64)> {
    let mut logs: Vec<&Log> = logs.iter().collect();
    logs.sort_by_key(|log| (log.unit.topic.clone(), log.unit.partition));
    let rows = |log: &&Log| {
        let (topic, partition) = (log.unit.topic.to_string(), log.unit.partition);
        log.records.iter().map(move |(offset, time, _)| (topic.clone(), partition, *offset, *time)).collect::<Vec<_>>()
    };
    logs.iter().flat_map(rows).collect()
}

/// The live pipeline with a check that no row passes: an archive holds accepted rows.
fn with_check() -> String {
    LIVE.replace("    event_time: at\n", "    event_time: at\n    check: [id < 0]\n    max_future_skew: 1s\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_archive_is_replayed_as_its_logs_were_served(logs in logs(), writers in 1..4_usize, max_rows in 1..30_usize) {
        let live = Bench::new(LIVE);
        live.archive(&logs, writers, max_rows);
        let replayed = Bench { folder: live.folder, ..Bench::new(&with_check()) };
        let (rows, turns) = replayed.replay(Order::AsServed, 1 << 20).unwrap();
        prop_assert_eq!(positions(&rows), served(&logs));
        prop_assert_eq!(turns.counts().num_rejected(), 0);
        // W of each row is what the run gave it.
        let (mut stored, _) = replayed.open().unwrap();
        let mut turns = Turns::new(&replayed.pipeline, &replayed.plan).unwrap();
        let mut found: BTreeMap<StateUnit, Vec<(i64, Option<i64>, i64)>> = BTreeMap::new();
        while let Some(block) = replayed.io.block_on(stored.next()).unwrap() {
            let accepted = turns.accept(0, block, stored.units()).unwrap();
            let hidden = Hidden::of(&accepted.batch).unwrap();
            for row in 0..hidden.num_rows() {
                let unit = stored.units().get(Assignment(hidden.unit.value(row))).unwrap().clone();
                let w = hidden.w.is_valid(row).then(|| hidden.w.value(row));
                found.entry(unit).or_default().push((hidden.offset.value(row), w, hidden.broker_time.value(row)));
            }
        }
        prop_assert_eq!(found.len(), logs.len());
        for log in &logs {
            let mut greatest = None;
            let expected: Vec<_> = log.records.iter().map(|(offset, time, broker)| {
                let before = greatest;
                greatest = greatest.max(Some(*time));
                (*offset, before, *broker)
            }).collect();
            prop_assert_eq!(&found[&log.unit], &expected);
        }
    }

    #[test]
    fn by_event_time_rows_come_in_the_total_order_in_any_memory(logs in logs(), writers in 1..3_usize, max_rows in 1..30_usize) {
        let live = Bench::new(LIVE);
        live.archive(&logs, writers, max_rows);
        let mut expected = served(&logs);
        expected.sort_by(|left, right| (left.3, &left.0, left.1, left.2).cmp(&(right.3, &right.0, right.1, right.2)));
        let (rows, turns) = live.replay(Order::EventTime, 1 << 20).unwrap();
        prop_assert_eq!(positions(&rows), expected);
        prop_assert_eq!(turns.counts().accepted as usize, logs.iter().map(|log| log.records.len()).sum::<usize>());
    }
}

fn log(partition: i32, offsets: std::ops::Range<i64>) -> Log {
    let unit = StateUnit { source: "tx".into(), topic: "cards".into(), partition };
    Log { unit, records: offsets.map(|offset| (offset, offset * 7 % 11, -1)).collect() }
}

fn name(partition: i32, start: i64, end: i64) -> String {
    format!("tx--cards--{partition}--{start:020}-{end:020}.parquet")
}

#[test]
fn offsets_that_are_there_twice_or_not_at_all_are_named() {
    let bench = Bench::new(LIVE);
    bench.archive(&[log(0, 10..30), log(1, 10..30)], 1, 5);
    assert_eq!(bench.names().len(), 8);
    let folder = &bench.folder;
    let bytes = bench.io.block_on(folder.read(&name(1, 15, 20), u64::MAX)).unwrap().unwrap();
    bench.io.block_on(folder.delete(&name(0, 15, 20))).unwrap();
    // The same rows under the name that a second pipeline would give.
    let second = format!("again/other--cards--1--{:020}-{:020}.parquet", 12, 20);
    bench.io.block_on(folder.write(&second, bytes)).unwrap();
    for order in [Order::AsServed, Order::EventTime] {
        let error = bench.replay(order, 1 << 20).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("partition 0 of cards: offsets [15, 20) are missing"), "{error}");
        assert!(error.contains("partition 1 of cards: offsets [12, 15) are there twice"), "{error}");
        assert!(error.contains("partition 1 of cards: offsets [15, 20) are there twice"), "{error}");
        assert!(error.contains(&second) && error.contains(&name(1, 10, 15)), "{error}");
    }
}

#[test]
fn a_short_file_inside_a_long_one_hides_nothing() {
    let bench = Bench::new(LIVE);
    bench.archive(&[log(0, 0..20)], 1, 20);
    let folder = &bench.folder;
    for (start, end) in [(3, 5), (8, 9), (20, 22)] {
        let bytes = bench.io.block_on(folder.read(&name(0, 0, 20), u64::MAX)).unwrap().unwrap();
        bench.io.block_on(folder.write(&name(0, start, end), bytes)).unwrap();
    }
    let error = bench.replay(Order::AsServed, 1 << 20).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("[3, 5) are there twice") && error.contains("[8, 9) are there twice"), "{error}");
    assert!(!error.contains("missing") && !error.contains("20, 22"), "{error}");
}

#[test]
fn a_file_that_contradicts_its_name_is_refused() {
    let refused = |from: &str, to: &str| {
        let bench = Bench::new(LIVE);
        bench.archive(&[log(0, 10..30)], 1, 50);
        assert!(bench.io.block_on(bench.folder.rename(from, to)).unwrap());
        bench.replay(Order::AsServed, 1 << 20).map(|_| ()).unwrap_err().to_string()
    };
    let whole = name(0, 10, 30);
    assert!(refused(&whole, "all.parquet").contains("its name does not say which offsets it covers"));
    assert!(refused(&whole, &name(0, 11, 30)).contains("found a row of offset 10"));
    assert!(refused(&whole, &name(0, 10, 29)).contains("found a row of offset 29"));
    assert!(refused(&whole, &name(1, 10, 30)).contains("a row comes from partition 0 of cards"));
    assert!(refused(&whole, &whole.replace("cards", "other")).contains("a row comes from partition 0 of cards"));
}

/// Rows without positions.
fn plain(ids: std::ops::Range<i64>, time: impl Fn(i64) -> i64, text: usize) -> RecordBatch {
    let times: Int64Array = ids.clone().map(&time).collect();
    let times =
        arrow::compute::cast(&times, &crate::decode::arrow_type(crate::pipeline::settings::ColumnType::Timestamp));
    RecordBatch::try_from_iter([
        ("id", Arc::new(ids.clone().collect::<Int64Array>()) as ArrayRef),
        ("at", times.unwrap()),
        ("note", Arc::new(ids.map(|id| Some(format!("{id:0>text$}"))).collect::<StringArray>())),
    ])
    .unwrap()
}

#[test]
fn rows_without_positions_are_not_replayed_as_served_and_not_mixed_with_an_archive() {
    let bench = Bench::new(LIVE);
    bench.put("z.parquet", &plain(0..5, |id| id, 1));
    let error = bench.replay(Order::AsServed, 1 << 20).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("--order event-time"), "{error}");
    bench.archive(&[log(0, 10..30)], 1, 50);
    let error = bench.replay(Order::AsServed, 1 << 20).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("z.parquet"), "{error}");
    bench.put("a.parquet", &plain(0..5, |id| id, 1));
    let error = bench.replay(Order::EventTime, 1 << 20).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("replay them apart"), "{error}");
}

#[test]
fn rows_of_one_record_are_no_archive_of_a_source() {
    let bench = Bench::new(LIVE);
    bench.archive(&[log(0, 10..12)], 1, 50);
    let (mut rows, _) = bench.open().unwrap();
    let Some(StoredBlock::Archived(block)) = bench.io.block_on(rows.next()).unwrap() else { panic!("no archive") };
    let ordinal = block.batch.schema().index_of("_ordinal").unwrap();
    let mut columns = block.batch.columns().to_vec();
    columns[ordinal] = Arc::new(arrow::array::Int32Array::from(vec![0, 1]));
    let doubled = RecordBatch::try_new(block.batch.schema(), columns).unwrap();
    bench.put(&name(0, 10, 12), &doubled);
    let error = bench.replay(Order::AsServed, 1 << 20).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("offset 11 has several rows"), "{error}");
}

const STORED: &str = r"
pipeline: stored
sources:
  tx:
    connector: files
    path: unused
    format: parquet
    columns: { id: bigint not null, at: timestamp not null, note: string }
    check: [id <> 3]
    event_time: at
sinks:
  out: { connector: console, select: 'SELECT id, 10 / (id - 4) AS q, note FROM tx' }
";

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn ties_stay_in_the_order_of_input_and_checks_hold_without_positions() {
    let bench = Bench::new(STORED);
    bench.put("b.parquet", &plain(10..14, |_| 5, 1));
    bench.put("a.parquet", &plain(0..8, |id| 7 - id / 2, 1));
    let (rows, turns) = bench.replay(Order::EventTime, 1 << 20).unwrap();
    // 3 fails the check, 4 the SQL; of equal times those of a.parquet come first.
    assert_eq!(ids(&rows), [6, 7, 5, 10, 11, 12, 13, 2, 0, 1]);
    let told: Vec<String> = turns.counts().first_rejected.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("tx/a.parquet/0, offset 3: failed_check"), "{told:?}");
    assert!(told[1].starts_with("tx/a.parquet/0, offset 4: sql_error"), "{told:?}");
    assert_eq!((turns.counts().read, turns.counts().accepted), (12, 10));
    let (rows, _) = bench.replay(Order::Input, 1 << 20).unwrap();
    assert_eq!(ids(&rows), [0, 1, 2, 5, 6, 7, 10, 11, 12, 13]);
}

#[test]
fn rows_beyond_memory_are_sorted_on_disk() {
    let bench = Bench::new(STORED);
    for file in 0..20 {
        let ids = 100 + file * 5_000..100 + (file + 1) * 5_000;
        bench.put(&format!("{file:02}.parquet"), &plain(ids, |id| id * 7_919 % 1_000, 300));
    }
    // 30 MB of notes in 16 MiB.
    let (rows, _) = bench.replay(Order::EventTime, 16 << 20).unwrap();
    let mut expected: Vec<i64> = (100..100_100).collect();
    expected.sort_by_key(|id| (id * 7_919 % 1_000, *id));
    assert!(ids(&rows) == expected);
}

#[test]
fn one_unit_counts_its_rows_and_w_is_the_greatest_event_time_before_on_however_many_workers() {
    let bench = Bench::new(LIVE);
    let mut decoder = Decoder::new(&bench.pipeline.sources[0], bench.plan.checks(0)).unwrap();
    let mut units = Units::default();
    units.insert(Assignment(0), log(0, 0..1).unit);
    let mut decode = |times: &[i64]| {
        let records: Vec<LogRecord> = (50..).zip(times).map(|(offset, time)| (offset, *time, -1)).collect();
        decoder.decode(&block(0, &records), &units).unwrap().batch
    };
    for num_workers in [1, 2, 3] {
        let split = Split::new(&["id".to_owned()], &bench.plan.source_schema(0), true);
        let mut dealer = Dealer::new(split, num_workers);
        let mut unit = OneUnit { assignment: Assignment(9), num_rows: 0, watermark: Watermark::NONE };
        let mut found = Vec::new();
        for times in [[3, 1].as_slice(), &[], &[4, 4, 2]] {
            let batch = decode(times);
            let owners = dealer.owners(&batch).unwrap();
            let mut pool = Pool::default();
            pool.push(batch, owners);
            let places: Vec<Place> = (0..times.len()).map(|row| (0, row)).collect();
            let (first, w) = unit.advance(times);
            let one = AsOne { assignment: unit.assignment, first, w: &w };
            for part in dealer.picked(&Arc::new(pool), &places, Some(one)) {
                let Some((placed, numbers)) = part.into_rows().unwrap() else { continue };
                let hidden = Hidden::of(&placed).unwrap();
                for (row, number) in numbers.unwrap().into_iter().enumerate() {
                    assert_eq!(hidden.offset.value(row), first + i64::from(number));
                    let w = hidden.w.is_valid(row).then(|| hidden.w.value(row));
                    found.push((hidden.unit.value(row), hidden.offset.value(row), hidden.event_time.value(row), w));
                }
            }
        }
        found.sort_unstable();
        assert_eq!(
            found,
            [(9, 0, 3, None), (9, 1, 1, Some(3)), (9, 2, 4, Some(3)), (9, 3, 4, Some(4)), (9, 4, 2, Some(4))]
        );
    }
}
