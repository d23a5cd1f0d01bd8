//! Checkpoints and the Parquet sink on every kind of store: in memory, on a local disk, and on a real S3 server where one
//! runs (`tests/with-servers.sh`). Conformance of the store, then whole lives of a pipeline with crashes: what a reader of
//! the lake sees is what was read from the log, each row once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use tokio::runtime::Handle;

use crate::harness::joined_ranges;
use tidemill::ErrorKind;
use tidemill::checkpoint::inspect::{Inspector, diff, parse_unit, render_diff, render_list, render_manifest};
use tidemill::checkpoint::store::{Created, check_conditional_create};
use tidemill::checkpoint::testing::{Fault, FaultStore};
use tidemill::checkpoint::{
    CheckpointSettings, Checkpoints, Folder, ManifestNumber, Progress, Recovery, RetryPolicy, SinkProgress, Stores,
    UnitWriter,
};
use tidemill::pipeline::settings::ParquetSink as ParquetSettings;
use tidemill::sink::parquet::{ParquetParts, ParquetSink};
use tidemill::sink::{PrepareRequest, PreparedUnit, Sink};
use tidemill::types::{Assignment, Epoch, EventTime, Offset, StateUnit, Units, Watermark, hidden_fields};

const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 8, first_wait: Duration::from_millis(5), wait_max: Duration::from_millis(100) };

/// Where a test keeps its checkpoint and its lake.
struct Place {
    stores: Stores,
    checkpoints: String,
    lake: String,
    // Removes the folder when the test ends.
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn in_memory(store: Arc<dyn ObjectStore>) -> Place {
        let stores = Stores::new(|_| None);
        stores.register("memory://c", Arc::clone(&store), Path::from("some/checkpoints"));
        stores.register("memory://l", store, Path::from("lake"));
        Place { stores, checkpoints: "memory://c".into(), lake: "memory://l".into(), _folder: None }
    }

    fn on_disk() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let uri = |name: &str| format!("file://{}", folder.path().join(name).to_str().unwrap());
        Place {
            stores: Stores::new(|_| None),
            checkpoints: uri("check points"),
            lake: uri("lake"),
            _folder: Some(folder),
        }
    }

    /// A new prefix on the S3 server of this run. `change` may replace what the environment says.
    fn on_s3(change: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Place {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let variable = |name: &str| {
            environment
                .get(name)
                .cloned()
                .unwrap_or_else(|| panic!("this test needs a real S3 server: run `make test`, or set {name}"))
        };
        let (bucket, endpoint) = (variable("TIDEMILL_TEST_S3_BUCKET"), variable("TIDEMILL_TEST_S3_ENDPOINT"));
        let stores = Stores::new(move |name| match (change(name), name) {
            (Some(changed), _) => Some(changed),
            (None, "AWS_ENDPOINT_URL") => Some(endpoint.clone()),
            (None, _) => environment.get(name).cloned(),
        });
        let uri = |name: &str| format!("s3://{bucket}/{}/{name}", uuid::Uuid::new_v4());
        Place { stores, checkpoints: uri("checkpoints"), lake: uri("lake"), _folder: None }
    }

    async fn open(&self) -> tidemill::Result<Checkpoints> {
        let settings = CheckpointSettings {
            pipeline: "fraud".into(),
            path: self.checkpoints.clone(),
            sinks: vec!["archive".into()],
            retain: 3,
            host: "test".into(),
            clock: Arc::new(|| SystemTime::UNIX_EPOCH),
            retry: RETRY,
        };
        Checkpoints::open(&self.stores, settings).await
    }

    fn lake(&self) -> Folder {
        self.stores.open(&self.lake).unwrap()
    }
}

fn unit(partition: i32) -> StateUnit {
    StateUnit { source: "transactions".into(), topic: "cards/of today".into(), partition }
}

fn offset(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

/// What every store must do.
async fn conforms(folder: &Folder) {
    check_conditional_create(folder, &RETRY).await.unwrap();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(folder.create("x/1.json", &bytes("one"), 100, &RETRY).await.unwrap(), Created::Ours);
    assert_eq!(folder.create("x/1.json", &bytes("one"), 100, &RETRY).await.unwrap(), Created::Ours);
    assert_eq!(folder.create("x/1.json", &bytes("two"), 100, &RETRY).await.unwrap(), Created::Taken(bytes("one")));
    let texts: Vec<Bytes> = (0..12).map(|writer| Bytes::from(format!("writer {writer}"))).collect();
    for round in 0..5 {
        let name = format!("race/{round}");
        let results = futures::future::join_all(texts.iter().map(|text| folder.create(&name, text, 100, &RETRY))).await;
        let winners: Vec<_> =
            results.iter().zip(&texts).filter(|(result, _)| matches!(result, Ok(Created::Ours))).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(folder.read(&name, 100).await.unwrap().as_ref(), Some(winners[0].1));
    }
    // Parts, names with escapes, renames, listings in order, absent objects.
    let large = Bytes::from((0..20_000_000).map(|index| (index % 251) as u8).collect::<Vec<_>>());
    folder.write("_staging/a=2Fb/large", large.clone()).await.unwrap();
    assert!(folder.rename("_staging/a=2Fb/large", "a--b--1.parquet").await.unwrap());
    assert!(!folder.rename("_staging/a=2Fb/large", "a--b--1.parquet").await.unwrap());
    assert_eq!(folder.read("a--b--1.parquet", u64::MAX).await.unwrap(), Some(large));
    assert_eq!(folder.size("_staging/a=2Fb/large").await.unwrap(), None);
    let names: Vec<String> = folder.list("").await.unwrap().into_iter().map(|object| object.name).collect();
    assert_eq!(names[..2], ["a--b--1.parquet", "race/0"]);
    assert_eq!(folder.list("x").await.unwrap().len(), 1);
    folder.delete("x/1.json").await.unwrap();
    folder.delete("x/1.json").await.unwrap();
    assert_eq!(folder.read("x/1.json", 100).await.unwrap(), None);
    assert_eq!(folder.list("x").await.unwrap(), []);
}

/// A partition's log: records with gaps between their offsets, each of which becomes no, one or several rows.
#[derive(Clone)]
struct Log {
    /// Offset, event time, rows.
    records: Vec<(i64, i64, usize)>,
    end: i64,
}

impl Log {
    fn random(rng: &mut Xoshiro256PlusPlus, num_records: usize) -> Log {
        let mut next = rng.random_range(0..5);
        let mut records = Vec::with_capacity(num_records);
        for _ in 0..num_records {
            records.push((next, rng.random_range(0..10_000), [0, 1, 1, 1, 2, 3][rng.random_range(0..6)]));
            next += if rng.random_bool(0.1) { rng.random_range(2..5) } else { 1 };
        }
        Log { records, end: next }
    }

    fn watermark_at(&self, at: Offset) -> Watermark {
        let mut watermark = Watermark::NONE;
        for record in self.records.iter().take_while(|record| record.0 < at.get()) {
            watermark.advance(EventTime::from_micros(record.1));
        }
        watermark
    }

    /// Rows as they are expected in the lake: (offset, ordinal).
    fn rows(&self) -> Vec<(i64, i64)> {
        self.records.iter().flat_map(|record| (0..record.2 as i64).map(|ordinal| (record.0, ordinal))).collect()
    }
}

/// A unit as one run of the driver sees it.
struct Reader {
    assignment: Assignment,
    unit: StateUnit,
    log: Log,
    writer: UnitWriter,
    next: Offset,
    /// Rows of records below it are not given to the sink.
    position: Offset,
}

/// One process: reads, writes, makes checkpoints; stops where it is told to, or dies with its store.
struct Run {
    rng: Xoshiro256PlusPlus,
    sink: ParquetSink,
    units: Units,
    readers: Vec<Reader>,
}

fn watermark_micros(watermark: Watermark) -> Option<i64> {
    watermark.get().map(EventTime::as_micros)
}

type Row = (u32, i64, i64, i64, Option<i64>);

fn batch(rows: &[Row]) -> RecordBatch {
    let ints = |value: fn(&Row) -> i64| -> ArrayRef { Arc::new(rows.iter().map(value).collect::<Int64Array>()) };
    let columns: Vec<ArrayRef> = vec![
        ints(|row| row.1),
        ints(|row| row.2),
        Arc::new(rows.iter().map(|row| row.0).collect::<UInt32Array>()),
        ints(|row| row.1),
        Arc::new(rows.iter().map(|row| row.2 as u32).collect::<UInt32Array>()),
        ints(|row| row.3),
        Arc::new(rows.iter().map(|row| row.4).collect::<Int64Array>()),
        ints(|_| -1),
    ];
    let visible = |name| Arc::new(Field::new(name, DataType::Int64, false));
    let fields = [visible("at"), visible("ordinal")].into_iter().chain(hidden_fields().iter().cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

impl Run {
    async fn start(place: &Place, logs: &[Log], seed: u64) -> tidemill::Result<Run> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let checkpoints = place.open().await?;
        let owner = format!("{}-archive", checkpoints.pipeline_id());
        let settings = ParquetSettings {
            path: place.lake.clone(),
            max_rows: rng.random_range(1..60),
            max_bytes: usize::MAX,
            max_age: Duration::from_secs(rng.random_range(1..20)),
            has_positions: false,
        };
        let ticks = std::sync::atomic::AtomicU64::new(0);
        let clock = move || Duration::from_secs(ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) / 4);
        checkpoints.register_staging(&place.lake(), &owner);
        let parts = ParquetParts { folder: place.lake(), owner, runtime: Handle::current(), clock: Arc::new(clock) };
        let sink = ParquetSink::new(&settings, parts).with_retry(RETRY);
        let mut run = Run { rng, sink, units: Units::default(), readers: Vec::new() };
        for (index, log) in (0..).zip(logs) {
            let (assignment, unit) = (Assignment(index), unit(index as i32));
            let (writer, recovery) = checkpoints.claim(&unit).await?;
            let (next, position, covered) = match recovery {
                Recovery::Fresh => (Offset::ZERO, Offset::ZERO, Offset::ZERO),
                Recovery::Resume(resume) => {
                    // I4: lateness comes out as it did the first time.
                    assert_eq!(resume.watermark, log.watermark_at(resume.offset), "W at {}", resume.offset);
                    (resume.offset, resume.positions["archive"], resume.covered["archive"])
                }
            };
            run.units.insert(assignment, unit.clone());
            run.sink.take_over(assignment, &unit, covered);
            run.readers.push(Reader { assignment, unit, log: log.clone(), writer, next, position });
        }
        Ok(run)
    }

    /// Reads some records of each unit and gives their rows to the sink, cut into batches anywhere.
    fn epoch(&mut self) -> tidemill::Result<()> {
        let mut rows: Vec<Row> = Vec::new();
        for reader in &mut self.readers {
            let take = self.rng.random_range(0..40);
            let records = reader.log.records.iter().filter(|record| record.0 >= reader.next.get());
            let mut next = reader.next;
            for (at, time, num_rows) in records.take(take) {
                let w = watermark_micros(reader.log.watermark_at(offset(*at)));
                if offset(*at) >= reader.position {
                    rows.extend((0..*num_rows as i64).map(|ordinal| (reader.assignment.0, *at, ordinal, *time, w)));
                }
                next = Offset::after(*at);
            }
            reader.next = if next.get() > reader.log.records.last().unwrap().0 { offset(reader.log.end) } else { next };
        }
        while !rows.is_empty() {
            let rest = rows.split_off(self.rng.random_range(1..=rows.len()));
            self.sink.write(&batch(&rows), &self.units)?;
            rows = rest;
        }
        Ok(())
    }

    async fn checkpoint(&mut self, close: bool) -> tidemill::Result<()> {
        let due = |reader: &&mut Reader| reader.writer.published().is_none_or(|published| reader.next >= published);
        let upto =
            self.readers.iter_mut().filter(due).map(|reader| (reader.assignment, reader.next, reader.unit.clone()));
        let upto: Vec<_> = upto.collect();
        let close = if close { upto.iter().map(|entry| entry.0).collect() } else { Vec::new() };
        self.sink.begin_prepare(PrepareRequest { upto, close })?;
        let prepared = loop {
            match self.sink.poll_prepared()? {
                Some(prepared) => break prepared,
                None => tokio::time::sleep(Duration::from_micros(100)).await,
            }
        };
        for PreparedUnit { assignment, position, watermark, covered, files } in prepared {
            let reader = self.readers.iter_mut().find(|reader| reader.assignment == assignment).unwrap();
            let here = reader.log.watermark_at(reader.next);
            let archive = SinkProgress { position, watermark: watermark.unwrap_or(here), covered, files };
            let progress = Progress {
                epoch: Epoch::FIRST,
                offset: reader.next,
                watermark: here,
                sinks: BTreeMap::from([("archive".to_owned(), archive)]),
                state: Vec::new(),
                restart: None,
                models: BTreeMap::new(),
                schedule: Vec::new(),
                sql_fingerprint: String::new(),
            };
            let published = reader.writer.publish(&progress).await?;
            reader.writer.finish(&published).await?;
            reader.writer.retain().await?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.readers.iter().all(|reader| reader.next.get() == reader.log.end)
    }

    async fn work(mut self, num_epochs: usize) -> tidemill::Result<bool> {
        for _ in 0..num_epochs {
            self.epoch()?;
            if self.rng.random_bool(0.4) {
                self.checkpoint(false).await?;
            }
            if self.is_done() {
                self.checkpoint(true).await?;
                for reader in self.readers {
                    reader.writer.release().await?;
                }
                return Ok(true);
            }
        }
        // Killed: nothing is closed.
        Ok(false)
    }
}

/// What a reader of the lake sees of each unit, file by file in the order of their names.
async fn visible(lake: &Folder, num_units: usize) -> Vec<Vec<(i64, i64)>> {
    let mut rows = vec![Vec::new(); num_units];
    let names: Vec<String> = lake.list("").await.unwrap().into_iter().map(|object| object.name).collect();
    for ranges in joined_ranges(&names).values() {
        assert_eq!(ranges.start, 0, "{names:?}");
    }
    for object in lake.list("").await.unwrap() {
        if object.name.starts_with('_') {
            continue;
        }
        let partition: usize = object.name.split("--").nth(2).unwrap().parse().unwrap();
        let bytes = lake.read(&object.name, u64::MAX).await.unwrap().unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().clone();
            let (at, ordinal) = (column(0), column(1));
            rows[partition].extend((0..at.len()).map(|row| (at.value(row), ordinal.value(row))));
        }
    }
    rows
}

/// Runs and kills until all is read. `store_for_life` gives each life its view of the place.
async fn lives(
    seed: u64,
    num_records: usize,
    mut place_for_life: impl FnMut(&mut Xoshiro256PlusPlus, bool) -> Option<Place>,
    place: &Place,
) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let logs: Vec<Log> = (0..2).map(|_| Log::random(&mut rng, num_records)).collect();
    let expected: Vec<_> = logs.iter().map(Log::rows).collect();
    let mut is_done = false;
    for life in 0.. {
        // A last life without faults ends it.
        let is_last = life == 12;
        let of_life = place_for_life(&mut rng, is_last);
        let run_place = of_life.as_ref().unwrap_or(place);
        let num_epochs = if is_last { usize::MAX } else { rng.random_range(0..12) };
        match Run::start(run_place, &logs, rng.random()).await {
            Ok(run) => match run.work(num_epochs).await {
                Ok(done) => is_done = done,
                Err(error) => {
                    assert!(!is_last && error.kind() == ErrorKind::Unavailable, "seed {seed}, life {life}: {error}")
                }
            },
            Err(error) => {
                assert!(!is_last && error.kind() == ErrorKind::Unavailable, "seed {seed}, life {life}: {error}")
            }
        }
        let rows = visible(&place.lake(), logs.len()).await;
        for (unit, (rows, expected)) in rows.iter().zip(&expected).enumerate() {
            assert!(
                expected.starts_with(rows),
                "seed {seed}, life {life}, unit {unit}: not what was read, each row once"
            );
        }
        if is_done {
            assert!(rows == expected, "seed {seed}: rows are missing at the end");
            break;
        }
    }
    assert!(is_done);
    let staged = place.lake().list("_staging").await.unwrap();
    assert!(staged.is_empty(), "seed {seed}: {staged:?}");
}

async fn runs_well(place: &Place, num_lives: u64, num_records: usize) {
    conforms(&place.stores.open(&format!("{}-conformance", place.lake)).unwrap_or_else(|_| place.lake())).await;
    for seed in 0..num_lives {
        let own = |uri: &str| format!("{uri}-{seed}");
        let place = Place {
            stores: place.stores.clone(),
            checkpoints: own(&place.checkpoints),
            lake: own(&place.lake),
            _folder: None,
        };
        lives(seed, num_records, |_, _| None, &place).await;
    }
}

#[tokio::test]
async fn i5_rows_come_once_whatever_request_a_crash_hits() {
    for seed in 0..60 {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let place = Place::in_memory(Arc::clone(&store));
        let crashing = |rng: &mut Xoshiro256PlusPlus, is_last: bool| {
            let crash_at = if is_last { u64::MAX } else { rng.random_range(20..400) };
            let fault = if rng.random_bool(0.5) { Fault::CrashBefore } else { Fault::CrashAfter };
            let view = FaultStore::new(Arc::clone(&store), move |number, _, _| (number == crash_at).then_some(fault));
            Some(Place::in_memory(Arc::new(view)))
        };
        lives(seed, 300, crashing, &place).await;
    }
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    conforms(&Place::in_memory(Arc::new(InMemory::new())).lake()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_disk_conforms_and_rows_come_once() {
    runs_well(&Place::on_disk(), 6, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_conforms_and_rows_come_once() {
    runs_well(&Place::on_s3(|_| None), 4, 200).await;
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_a_wrong_key_and_a_server_that_is_away_are_told_apart() {
    let missing = Place { checkpoints: "s3://tidemill-no-such-bucket/c".into(), ..Place::on_s3(|_| None) };
    let refused = Place::on_s3(|name| (name == "AWS_SECRET_ACCESS_KEY").then(|| "not-the-secret".to_owned()));
    // Nobody listens on port 1.
    let away = Place::on_s3(|name| (name == "AWS_ENDPOINT_URL").then(|| "http://127.0.0.1:1".to_owned()));
    for (place, kind, part) in [
        (missing, ErrorKind::Invalid, "does the bucket exist?"),
        (refused, ErrorKind::Invalid, "the store refuses these credentials"),
        (away, ErrorKind::Unavailable, "cannot create"),
    ] {
        let error = place.open().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part) && error.to_string().contains(&place.checkpoints), "{error}");
        assert!(!error.to_string().contains("not-the-secret"), "{error}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_listed_shown_and_compared() {
    let place = Place::on_disk();
    let error = Inspector::open(&place.stores, &place.checkpoints).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("there is no checkpoint"), "{error}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let log = Log::random(&mut rng, 50);
    assert!(Run::start(&place, &[log.clone(), log.clone()], 1).await.unwrap().work(usize::MAX).await.unwrap());

    let inspector = Inspector::open(&place.stores, &place.checkpoints).await.unwrap();
    let units = inspector.list().await.unwrap();
    assert_eq!(units.iter().map(|summary| summary.unit.clone()).collect::<Vec<_>>(), [unit(0), unit(1)]);
    let text = render_list(inspector.pipeline(), &units);
    assert!(
        text.starts_with("pipeline fraud (2 state units)\nunit  ") && text.contains("transactions/cards/of today/1"),
        "{text}"
    );

    let unit = parse_unit("transactions/cards/of today/1").unwrap();
    let newest = inspector.show(&unit, None).await.unwrap();
    let before = inspector.show(&unit, ManifestNumber::new(newest.number.get() - 1)).await.unwrap();
    let text = render_manifest(&newest);
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(
        (line("kind"), line("generation"), line("sink archive: position")),
        (Some("release"), Some("1"), line("offset"))
    );
    let text = render_diff(&diff(&before, &newest));
    assert!(text.contains("checkpoint") && text.contains("release") && !text.contains("generation"), "{text}");
    assert_eq!(render_diff(&diff(&newest, &newest)), "no difference\n");

    for (error, part) in [
        (inspector.show(&unit, ManifestNumber::new(999)).await.unwrap_err(), "no manifest 999"),
        (inspector.show(&StateUnit { partition: 9, ..unit }, None).await.unwrap_err(), "no state unit"),
        (parse_unit("transactions").unwrap_err(), "source/topic/partition"),
    ] {
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(part), "{error}");
    }
}
