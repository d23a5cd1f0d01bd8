//! State that survives: a worker over a scripted log, sinks that remember and a store that dies, killed at random moments and
//! with snapshots cut at random; whatever it writes is, to the bit, what an uninterrupted run writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array as _, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use tidemill_udfs::functions::Models;
use tokio::runtime::Runtime;

use super::*;
use crate::checkpoint::inspect::Inspector;
use crate::checkpoint::testing::{AnyStore, Fault, FaultStore, InMemory, Operation, StorePath};
use crate::checkpoint::{CheckpointSettings, Checkpoints, RetryPolicy, Snapshot, StateKind, Stores, layout};
use crate::decode::Decoder;
use crate::observe::latency::Latency;
use crate::observe::metrics::{SourceMetrics, WorkerMetrics};
use crate::observe::status::SourceCounts;
use crate::pipeline::settings::{Backfill, Pipeline};
use crate::plan::{Functions, Plan};
use crate::runtime::checkpointer::CheckpointerParts;
use crate::runtime::driver::{SinkLane, SourceLane};
use crate::runtime::models::{Offers, WorkerModels};
use crate::runtime::tasks;
use crate::sink::{PrepareRequest, PreparedUnit, Sink};
use crate::source::Waker;
use crate::source::scripted::ScriptedSource;
use crate::types::{EventTime, Hidden, RecordBlock, Units, Watermark, num_visible};

const PATH: &str = "memory://checkpoints";
const NUM_UNITS: i32 = 3;
const WINDOWS: &str = "SELECT id, user_id, amount, \
    count(*) OVER hours AS n, sum(amount) OVER hours AS total, avg(amount) OVER last AS mean, \
    lag(amount) OVER (PARTITION BY user_id ORDER BY at) AS before, \
    sum(amount) OVER (PARTITION BY user_id ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS ever, \
    count(*) OVER (PARTITION BY user_id, place ORDER BY at ROWS BETWEEN 4 PRECEDING AND CURRENT ROW) AS visits, \
    max(place) OVER last AS furthest \
    FROM events WINDOW \
    hours AS (PARTITION BY user_id ORDER BY at RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW), \
    last AS (PARTITION BY user_id ORDER BY at ROWS BETWEEN 6 PRECEDING AND CURRENT ROW)";
const OTHER: &str = "SELECT id, user_id, count(*) OVER \
    (PARTITION BY user_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM events";

fn pipeline(features: &str) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    let text = format!(
        "pipeline: p\nsources:\n  events:\n    connector: kafka\n    bootstrap_servers: localhost:9\n    topic: t\n    \
         partitioned_by: [user_id]\n    max_lateness: 1h\n    event_time: at\n    max_future_skew: 30m\n    columns: {{ id: bigint not null, user_id: bigint not null, \
         amount: double, place: string, at: timestamp not null }}\n\
         views:\n  features: >-\n    {features}\n\
         sinks:\n  all: {{ connector: console, select: SELECT * FROM features }}\n  \
         large: {{ connector: console, select: SELECT * FROM features WHERE user_id % 3 <> 0 }}\n\
         dead_letter: {{ connector: kafka, topic: dead }}\n"
    );
    std::fs::write(&file, text).unwrap();
    Pipeline::load(&file, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The log of all units: (offset, payload), with gaps as control records leave them, disorder, ties and bad records.
type Log = Vec<Vec<(i64, String)>>;

fn log(random: &mut Xoshiro256PlusPlus, num_records: usize) -> Log {
    let unit = |partition: i32, random: &mut Xoshiro256PlusPlus| {
        let (mut offset, mut minute) = (0, 0_i64);
        let record = |id: usize| {
            offset += if random.random_bool(0.1) { random.random_range(2..5) } else { 1 };
            minute += random.random_range(0..3);
            let late = if random.random_bool(0.3) { random.random_range(0..100) } else { 0 };
            let at = chrono::DateTime::from_timestamp((minute - late).max(0) * 60, 0).unwrap();
            let at = at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let user = partition * 1000 + random.random_range(0..12);
            let amount =
                [0.1, 1e16, -7.25, 3.3, 1e-9][random.random_range(0..5)] * f64::from(random.random_range(1..9));
            let place = ["DE", "FR", "US"][random.random_range(0..3)];
            let payload = if random.random_bool(0.02) {
                "{ no json".to_owned()
            } else {
                format!(r#"{{"id":{id},"user_id":{user},"amount":{amount:e},"place":"{place}","at":"{at}"}}"#)
            };
            (offset, payload)
        };
        (0..num_records).map(record).collect()
    };
    (0..NUM_UNITS).map(|partition| unit(partition, random)).collect()
}

/// Rows by (partition, offset), as text that tells all bits apart.
type Rows = BTreeMap<(i32, i64), String>;

/// What a sink has, over all lives of the pipeline.
#[derive(Debug, Default)]
struct Outcome {
    /// What an uninterrupted run wrote, if that is known.
    expected: Option<Rows>,
    written: Rows,
    durable: BTreeSet<(i32, i64)>,
}

/// A sink of which a part of the rows lags behind, as in a buffer of files; what is in the buffer dies with the process.
#[derive(Debug)]
struct Remembering {
    outcome: Arc<Mutex<Outcome>>,
    lags: bool,
    random: Xoshiro256PlusPlus,
    /// Rows not yet durable: (offset, W), by unit.
    buffer: BTreeMap<Assignment, Vec<(i64, Option<i64>)>>,
    partitions: BTreeMap<Assignment, i32>,
    request: Option<PrepareRequest>,
}

impl Remembering {
    fn new(outcome: &Arc<Mutex<Outcome>>, lags: bool, seed: u64) -> Remembering {
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let outcome = Arc::clone(outcome);
        Remembering { outcome, lags, random, buffer: BTreeMap::new(), partitions: BTreeMap::new(), request: None }
    }
}

impl Sink for Remembering {
    fn take_over(&mut self, assignment: Assignment, unit: &StateUnit, _covered: Offset) {
        self.partitions.insert(assignment, unit.partition);
        self.buffer.insert(assignment, Vec::new());
    }

    fn write(&mut self, batch: &RecordBatch, _units: &Units) -> Result<()> {
        let hidden = Hidden::of(batch).unwrap();
        let options = FormatOptions::default().with_null("null");
        let columns: Vec<ArrayFormatter<'_>> = batch.columns()[..num_visible(batch)]
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        let mut outcome = self.outcome.lock().unwrap();
        for row in 0..batch.num_rows() {
            let assignment = Assignment(hidden.unit.value(row));
            let place = (self.partitions[&assignment], hidden.offset.value(row));
            let text = columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
            if let Some(expected) = &outcome.expected {
                assert_eq!(Some(&text), expected.get(&place), "{place:?}");
            }
            outcome.written.insert(place, text);
            let w = hidden.w.is_valid(row).then(|| hidden.w.value(row));
            let buffer = self.buffer.get_mut(&assignment).unwrap();
            assert!(buffer.last().is_none_or(|last| last.0 < place.1), "out of order or twice in one life: {place:?}");
            buffer.push((place.1, w));
        }
        Ok(())
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        self.request = Some(request);
        Ok(())
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        if self.random.random_bool(0.3) {
            return Ok(None);
        }
        let Some(PrepareRequest { upto, close }) = self.request.take() else { return Ok(None) };
        let mut prepared = Vec::new();
        for (assignment, upto, unit) in upto {
            let buffer = self.buffer.get_mut(&assignment).unwrap();
            let num_in = buffer.iter().take_while(|row| row.0 < upto.get()).count();
            let is_whole = !self.lags || close.contains(&assignment);
            let num_out = if is_whole { num_in } else { self.random.random_range(0..=num_in) };
            let out = buffer.drain(..num_out).map(|row| (unit.partition, row.0));
            self.outcome.lock().unwrap().durable.extend(out);
            let first = buffer.first().filter(|row| row.0 < upto.get());
            prepared.push(PreparedUnit {
                assignment,
                position: first.map_or(upto, |row| Offset::new(row.0).unwrap()),
                watermark: first.map(|(_, w)| {
                    let mut watermark = Watermark::NONE;
                    w.iter().for_each(|w| watermark.advance(EventTime::from_micros(*w)));
                    watermark
                }),
                covered: None,
                files: Vec::new(),
            });
        }
        Ok(Some(prepared))
    }

    fn forget(&mut self, units: &[Assignment]) {
        self.buffer.retain(|unit, _| !units.contains(unit));
    }
}

/// What goes wrong with the store in one life.
#[derive(Debug)]
struct Faults {
    is_dead: AtomicBool,
    /// Operations until the process dies in the middle of one.
    operations_left: AtomicI64,
    /// Of a hundred writes of files of state, those that fail.
    failing_percent: u32,
    random: Mutex<Xoshiro256PlusPlus>,
}

impl Faults {
    fn new(failing_percent: u32, seed: u64) -> Arc<Faults> {
        Arc::new(Faults {
            is_dead: AtomicBool::new(false),
            operations_left: AtomicI64::new(i64::MAX),
            failing_percent,
            random: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed)),
        })
    }

    fn decide(&self, operation: Operation, path: &StorePath) -> Option<Fault> {
        if self.is_dead.load(Ordering::SeqCst) {
            return Some(Fault::CrashBefore);
        }
        let mut random = self.random.lock().unwrap();
        if self.operations_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.is_dead.store(true, Ordering::SeqCst);
            return Some(if random.random_bool(0.5) { Fault::CrashBefore } else { Fault::CrashAfter });
        }
        let is_state = operation == Operation::Write && path.as_ref().contains("/state/");
        (is_state && random.random_range(0..100) < self.failing_percent)
            .then(|| if random.random_bool(0.5) { Fault::FailBefore } else { Fault::FailAfter })
    }
}

/// What outlives a life of the pipeline.
struct World {
    store: Arc<InMemory>,
    /// There until the end.
    runtime: Option<Runtime>,
    io: tokio::runtime::Handle,
    outcomes: [Arc<Mutex<Outcome>>; 3],
    log: Log,
    next_assignment: u32,
    /// Of a hundred writes of files of state, those that fail.
    failing_percent: u32,
}

impl Drop for World {
    fn drop(&mut self) {
        // Publishers of lives that were killed go on trying, in vain.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One life of the pipeline.
struct Life {
    worker: Worker,
    source: ScriptedSource,
    faults: Arc<Faults>,
    /// By assignment: its partition, and the index of the record that comes next.
    fed: BTreeMap<Assignment, (usize, usize)>,
}

impl World {
    fn new(log: Log, expected: Option<[Rows; 3]>) -> World {
        let outcome = |index: usize| {
            let expected = expected.as_ref().map(|expected| expected[index].clone());
            Arc::new(Mutex::new(Outcome { expected, ..Outcome::default() }))
        };
        let (store, runtime) = (Arc::new(InMemory::new()), tasks::io_runtime().unwrap());
        let io = runtime.handle().clone();
        World {
            store,
            runtime: Some(runtime),
            io,
            outcomes: [0, 1, 2].map(outcome),
            log,
            next_assignment: 0,
            failing_percent: 0,
        }
    }

    fn stores(&self, faults: &Arc<Faults>) -> Stores {
        let faults = Arc::clone(faults);
        let stores = Stores::new(|_| None);
        let store = FaultStore::new(Arc::clone(&self.store) as Arc<dyn AnyStore>, move |_, operation, path| {
            faults.decide(operation, path)
        });
        stores.register(PATH, Arc::new(store), StorePath::from("c"));
        stores
    }

    fn open(&self, faults: &Arc<Faults>) -> Checkpoints {
        let stores = self.stores(faults);
        let settings = CheckpointSettings {
            pipeline: "p".into(),
            path: PATH.into(),
            sinks: ["all", "large", "dead_letter"].map(str::to_owned).to_vec(),
            retain: 2,
            host: "here".into(),
            clock: Arc::new(clock::wall),
            retry: RetryPolicy { attempts_max: 3, first_wait: Duration::ZERO, wait_max: Duration::ZERO },
        };
        self.io.block_on(Checkpoints::open(&stores, settings)).unwrap()
    }

    fn worker(
        &self,
        pipeline: &Pipeline,
        checkpoints: Checkpoints,
        backfill: Backfill,
        random: &mut Xoshiro256PlusPlus,
    ) -> (Worker, ScriptedSource) {
        let plan = Plan::compile(pipeline, &Functions::default()).unwrap();
        let (waker, wake) = Waker::new();
        let source = ScriptedSource::new(waker);
        let lane = |name: &str, index: usize, random: &mut Xoshiro256PlusPlus| {
            SinkLane::new(name, Box::new(Remembering::new(&self.outcomes[index], index == 1, random.random())))
        };
        let sinks = vec![lane("all", 0, random), lane("large", 1, random)];
        let dead_letter = Some(lane("dead_letter", 2, random));
        let settings = &pipeline.sources[0];
        let lanes = vec![SourceLane {
            name: settings.name.clone(),
            decoder: Decoder::new(settings, plan.checks(0)).unwrap(),
            rejection_rate: None,
            key_check: None,
            max_record_bytes: settings.max_record_bytes,
            metrics: SourceMetrics::new("events"),
            counts: SourceCounts::default(),
        }];
        let metrics = WorkerMetrics::new(0);
        let checkpointer = Checkpointer::new(CheckpointerParts {
            checkpoints: Some(checkpoints),
            io: self.io.clone(),
            interval: Duration::from_millis(random.random_range(0..3)),
            snapshot_interval: Duration::from_millis(random.random_range(0..6)),
            timeout: Duration::from_secs(20),
            served: BTreeMap::new(),
            sql_fingerprint: plan.fingerprint(),
            backfill,
            metrics: metrics.clone(),
        });
        let graph = plan.instantiate().unwrap();
        let worker = Worker {
            index: 0,
            feeds: vec![Feed {
                source: Box::new(source.clone()),
                pending: Vec::new(),
                has_ended: false,
                is_assigned: false,
                on_data_loss: DataLossPolicy::Fail,
                upstream: None,
                log_check: None,
            }],
            driver: Driver::new(lanes, graph, sinks, dead_letter, metrics, Latency::default()),
            checkpointer,
            models: WorkerModels::new(Arc::default(), Offers::new(&Models::new()), None, self.io.clone()),
            trigger: Trigger { max_batch_rows: random.random_range(1..60), max_wait: Duration::ZERO },
            wake,
            stop: CancellationToken::new(),
            stop_timeout: Duration::from_secs(20),
            status: StatusBoard::new("p", "", 1, 0),
            reported_at: clock::now(),
            pending_since: None,
            first_feed: 0,
            limit: StateLimit::new(None, 1),
            over_limit: None,
        };
        (worker, source)
    }

    /// A new process that holds some partitions.
    fn start(
        &mut self,
        pipeline: &Pipeline,
        partitions: &[usize],
        backfill: Backfill,
        random: &mut Xoshiro256PlusPlus,
    ) -> Result<Life> {
        let faults = Faults::new(self.failing_percent, random.random());
        let checkpoints = self.open(&faults);
        let (mut worker, source) = self.worker(pipeline, checkpoints, backfill, random);
        let mut units = Vec::new();
        for partition in partitions {
            let unit = StateUnit { source: "events".into(), topic: "t".into(), partition: *partition as i32 };
            units.push((Assignment(self.next_assignment), unit));
            self.next_assignment += 1;
        }
        source.say(SourceEvent::Assigned(units));
        worker.listen()?;
        let fed = worker.driver.units.iter().map(|(assignment, held)| {
            let partition = held.unit.partition as usize;
            let next = self.log[partition].partition_point(|record| record.0 < held.processed.get());
            (assignment, (partition, next))
        });
        let fed = fed.collect();
        Ok(Life { worker, source, faults, fed })
    }

    fn rows(&self) -> [Rows; 3] {
        [0, 1, 2].map(|index| self.outcomes[index].lock().unwrap().written.clone())
    }

    /// The newest state lists, by partition, and the names of all files of state.
    fn state(&self) -> (Vec<Vec<Snapshot>>, BTreeSet<String>) {
        let stores = self.stores(&Faults::new(0, 0));
        self.io.block_on(async {
            let units = Inspector::open(&stores, PATH).await.unwrap().list().await.unwrap();
            let mut files = BTreeSet::new();
            let folder = stores.open(PATH).unwrap();
            for unit in &units {
                let listed = folder.list(&layout::state_folder(&unit.unit)).await.unwrap();
                files.extend(listed.into_iter().map(|object| object.name));
            }
            (units.into_iter().map(|unit| unit.newest.unwrap().state).collect(), files)
        })
    }
}

impl Life {
    /// Reads a few records of some partition.
    fn feed(&mut self, log: &Log, random: &mut Xoshiro256PlusPlus) {
        let assignments: Vec<Assignment> = self.fed.keys().copied().collect();
        let assignment = assignments[random.random_range(0..assignments.len())];
        let (partition, next) = self.fed[&assignment];
        let end = (next + random.random_range(1..40)).min(log[partition].len());
        let mut block = RecordBlock::default();
        for (offset, payload) in &log[partition][next..end] {
            block.units.push(assignment.0);
            block.offsets.push(*offset);
            block.timestamps_ms.push(-1);
            block.keys.push(None);
            block.values.push(Some(payload.as_bytes()));
            block.headers.end_record();
        }
        self.fed.insert(assignment, (partition, end));
        self.source.say(SourceEvent::Records(block));
    }

    fn is_done(&self, log: &Log) -> bool {
        self.fed.values().all(|(partition, next)| *next == log[*partition].len())
    }

    fn turn(&mut self) -> Result<()> {
        self.worker.listen()?;
        self.worker.run_if_due()?;
        let Worker { checkpointer, driver, .. } = &mut self.worker;
        checkpointer.tick(driver)
    }

    /// Works until the source has nothing more to say.
    fn settle(&mut self) {
        while self.worker.listen().unwrap() {
            self.worker.run_if_due().unwrap();
        }
        self.worker.run_pending().unwrap();
    }

    /// Reads all that there is, and leaves in order.
    fn finish(mut self, log: &Log, random: &mut Xoshiro256PlusPlus) -> SourceCounts {
        while !self.is_done(log) {
            self.feed(log, random);
            self.turn().unwrap();
        }
        self.settle();
        self.worker.drain().unwrap();
        self.worker.driver.sources[0].counts
    }

    /// Dies: nothing is closed, and nothing that was on its way arrives.
    fn kill(self) {
        self.faults.is_dead.store(true, Ordering::SeqCst);
    }
}

const ALL: [usize; NUM_UNITS as usize] = [0, 1, 2];

/// What an uninterrupted run writes.
fn uninterrupted(pipeline: &Pipeline, log: &Log, random: &mut Xoshiro256PlusPlus) -> [Rows; 3] {
    let mut world = World::new(log.clone(), None);
    let counts = world.start(pipeline, &ALL, Backfill::Nothing, random).unwrap().finish(log, random);
    assert_eq!((counts.read as usize, counts.replayed), (log.iter().map(Vec::len).sum(), 0));
    assert!(counts.rejected > 0 && counts.late > 0);
    world.rows()
}

fn check_complete(world: &World, expected: &[Rows; 3]) {
    for (outcome, expected) in world.outcomes.iter().zip(expected) {
        let outcome = outcome.lock().unwrap();
        assert_eq!(outcome.written, *expected);
        assert!(expected.keys().eq(outcome.durable.iter()), "some rows never became durable");
    }
    let (state, files) = world.state();
    for path in state.iter().flatten().flat_map(Snapshot::files).map(|file| &file.path) {
        assert!(files.contains(path), "{path} is named and gone");
    }
    assert_eq!(state.len(), ALL.len());
}

/// Lives that end at random moments; then one to the end. How many deltas and restored operators there were.
fn killed_at_random(seed: u64) -> (usize, usize) {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
    let pipeline = pipeline(WINDOWS);
    let log = log(random, 250);
    let expected = uninterrupted(&pipeline, &log, random);
    let mut world = World::new(log.clone(), Some(expected.clone()));
    world.failing_percent = if random.random_bool(0.5) { 20 } else { 0 };
    let (mut num_deltas, mut num_restored) = (0, 0);
    for _ in 0..random.random_range(3..8) {
        // Partitions move: those that nobody has in this life wait for the next.
        let partitions: Vec<usize> = ALL.into_iter().filter(|_| random.random_bool(0.8)).collect();
        if partitions.is_empty() {
            continue;
        }
        let mut life = world.start(&pipeline, &partitions, Backfill::Nothing, random).unwrap();
        num_restored += life.worker.driver.graph.state_sizes().iter().filter(|size| size.num_keys > 0).count();
        // Some die in the middle of an operation of the store, and go on without noticing.
        let dies_early = random.random_bool(0.4);
        if dies_early {
            life.faults.operations_left.store(random.random_range(0..120), Ordering::SeqCst);
        }
        for _ in 0..random.random_range(1..40) {
            if random.random_bool(0.5) {
                life.feed(&log, random);
            } else if random.random_bool(0.3) {
                std::thread::sleep(Duration::from_millis(1));
            }
            life.turn().unwrap();
        }
        if !dies_early && random.random_bool(0.2) {
            let held: Vec<Assignment> = life.fed.keys().copied().collect();
            life.worker.give_back(0, &held[..1]).unwrap();
        }
        if !dies_early && random.random_bool(0.2) {
            life.worker.drain().unwrap()
        } else {
            life.kill()
        }
        num_deltas += world.state().0.iter().flatten().filter(|one| one.kind == StateKind::Delta).count();
    }
    world.failing_percent = 0;
    world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().finish(&log, random);
    check_complete(&world, &expected);
    // A last claim leaves no file that nobody names.
    world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().kill();
    let (state, files) = world.state();
    let named: BTreeSet<String> =
        state.iter().flatten().flat_map(Snapshot::files).map(|file| file.path.clone()).collect();
    assert_eq!(files, named);
    (num_deltas, num_restored)
}

#[test]
fn a_pipeline_that_is_killed_at_random_moments_writes_what_an_uninterrupted_one_writes() {
    let (mut num_deltas, mut num_restored) = (0, 0);
    for seed in 0..24 {
        let (deltas, restored) = killed_at_random(seed);
        num_deltas += deltas;
        num_restored += restored;
    }
    assert!(
        num_deltas > 10 && num_restored > 10,
        "{num_deltas} deltas, {num_restored} operators restored: nothing was tested"
    );
}

#[test]
fn records_that_are_read_again_for_state_are_not_counted_again_and_their_rows_are_not_written_again() {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(7);
    let pipeline = pipeline(WINDOWS);
    let log = log(random, 200);
    let expected = uninterrupted(&pipeline, &log, random);
    let mut world = World::new(log.clone(), Some(expected));
    let mut life = world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap();
    for _ in 0..30 {
        life.feed(&log, random);
        life.turn().unwrap();
    }
    life.worker.run_pending().unwrap();
    let first = life.worker.driver.sources[0].counts;
    life.worker.drain().unwrap();
    drop(life);
    // All is published and snapshot: nothing is read again.
    let counts = world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().finish(&log, random);
    assert_eq!(counts.replayed, 0);
    assert_eq!((first.read + counts.read) as usize, 3 * 200);
    // From the beginning: everything is read again, counted as that, and nothing of it is written.
    for outcome in &world.outcomes {
        outcome.lock().unwrap().written.clear();
    }
    let counts = world.start(&pipeline, &ALL, Backfill::All, random).unwrap().finish(&log, random);
    assert_eq!(counts, SourceCounts { replayed: 3 * 200, ..SourceCounts::default() });
    assert_eq!(world.rows(), <[Rows; 3]>::default());
}

#[test]
fn a_new_window_is_refused_until_its_state_is_rebuilt_from_the_log() {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(11);
    let (before, after) = (pipeline(WINDOWS), pipeline(OTHER));
    let log = log(random, 120);
    let expected = uninterrupted(&after, &log, random);
    let mut world = World::new(log.clone(), None);
    let mut life = world.start(&before, &ALL, Backfill::Nothing, random).unwrap();
    for _ in 0..20 {
        life.feed(&log, random);
        life.turn().unwrap();
    }
    life.worker.drain().unwrap();
    let had: Vec<i64> = life.worker.driver.units.iter().map(|(_, held)| held.processed.get()).collect();
    drop(life);
    let error = world.start(&after, &ALL, Backfill::Nothing, random).err().unwrap();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    for part in ["claiming events/t/0", "features.1", "--backfill log", "another checkpoint path"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    // Nothing was lost by the refusal: with the file as it was, it goes on.
    drop(world.start(&before, &ALL, Backfill::Nothing, random).unwrap());
    for outcome in &world.outcomes {
        outcome.lock().unwrap().written.clear();
    }
    let counts = world.start(&after, &ALL, Backfill::Missing, random).unwrap().finish(&log, random);
    assert_eq!(counts.read + counts.replayed, 3 * 120);
    // What is written is what a pipeline with the new window from the start writes there, and nothing below.
    let position = |place: &(i32, i64)| had[place.0 as usize];
    for (rows, expected) in world.rows().iter().zip(&expected) {
        let expected: Rows = expected
            .iter()
            .filter(|(place, _)| place.1 >= position(place))
            .map(|(place, text)| (*place, text.clone()))
            .collect();
        assert_eq!(*rows, expected);
    }
    // Once rebuilt, the setting changes nothing.
    let counts = world.start(&after, &ALL, Backfill::Missing, random).unwrap().finish(&log, random);
    assert_eq!((counts.read, counts.replayed), (0, 0));
}

#[test]
fn a_damaged_file_of_state_stops_the_start_and_is_named() {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(13);
    let pipeline = pipeline(WINDOWS);
    let log = log(random, 60);
    let mut world = World::new(log.clone(), None);
    world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().finish(&log, random);
    let (state, _) = world.state();
    let path = state[1].last().unwrap().files().nth(4).unwrap().path.clone();
    let stores = world.stores(&Faults::new(0, 0));
    world.io.block_on(stores.open(PATH).unwrap().write(&path, bytes::Bytes::from_static(b"ARROW1"))).unwrap();
    let error = world.start(&pipeline, &ALL, Backfill::Nothing, random).err().unwrap();
    assert_eq!(error.kind(), crate::ErrorKind::Data);
    assert!(error.to_string().contains(&path) && error.to_string().contains("found that it has 6 bytes"), "{error}");
    world.start(&pipeline, &ALL, Backfill::All, random).unwrap().finish(&log, random);
    world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().kill();
}

#[test]
fn records_that_state_needs_are_never_passed_over() {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(17);
    let pipeline = pipeline(WINDOWS);
    let mut world = World::new(log(random, 60), None);
    let mut life = world.start(&pipeline, &[0], Backfill::Nothing, random).unwrap();
    life.worker.feeds[0].on_data_loss = DataLossPolicy::Continue;
    let assignment = *life.fed.keys().next().unwrap();
    let (wanted, found) = (Offset::new(3).unwrap(), Offset::new(9).unwrap());
    life.source.say(SourceEvent::DataLost { assignment, wanted, found });
    let error = life.worker.listen().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Data);
    for part in ["events/t/0", "offset 3", "begins at 9", "--backfill log-all"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[test]
fn too_much_state_stops_the_worker_in_order() {
    let random = &mut Xoshiro256PlusPlus::seed_from_u64(19);
    let pipeline = pipeline(WINDOWS);
    let log = log(random, 60);
    let mut world = World::new(log.clone(), None);
    let mut life = world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap();
    life.worker.limit = StateLimit::new(Some(1), 1);
    while !life.is_done(&log) {
        life.feed(&log, random);
        life.turn().unwrap();
    }
    life.settle();
    life.worker.report();
    let error = life.worker.run().unwrap_err();
    assert!(
        error.to_string().contains("features.1 holds") && error.to_string().contains("run.max_state_bytes"),
        "{error}"
    );
    // It was drained: the next start has all of it.
    let counts = world.start(&pipeline, &ALL, Backfill::Nothing, random).unwrap().finish(&log, random);
    assert_eq!((counts.read, counts.replayed), (0, 0));
}
