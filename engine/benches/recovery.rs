//! Millions of keys in a graph with five windows: how long the state takes to come back from a local snapshot, and how long epochs
//! take while one is being taken, beside the same without. At 2 and at 8 retained rows a key, in four units, as a worker does it:
//! pieces between epochs within 5 ms a turn, files checked before they are read. `--keys N` sets the number of keys.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::cast;
use tidemill::checkpoint::manifest::OperatorState;
use tidemill::checkpoint::state::{Part, ReadPart, read_state, write_snapshot};
use tidemill::checkpoint::{Folder, open_store};
use tidemill::operator::over_window::{Piece, SnapshotKind};
use tidemill::pipeline::settings::Pipeline;
use tidemill::plan::{Graph, Plan};
use tidemill::runtime::{self, tasks};
use tidemill::types::Assignment;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

#[path = "common/report.rs"]
mod report;

use report::{Goals, argument, median};

const UNITS: u32 = 4;
const EPOCH_ROWS: usize = 2_048;
/// Epochs of each measurement, at least.
const EPOCHS: usize = 4_000;
/// What a turn of a worker spends on pieces, and how long one of them should take.
const TURN_BUDGET: Duration = Duration::from_millis(2);
const PIECE_TARGET: Duration = Duration::from_millis(1);
/// What frames and lateness hold.
const HELD_MICROS: i64 = 26 * 3_600 * 1_000_000;
const FROM_MICROS: i64 = 1_767_225_600_000_000;

const PIPELINE: &str = r#"
pipeline: bench
sources:
  tx:
    connector: files
    path: unused
    format: parquet
    columns: { user_id: bigint not null, amount: double not null, timestamp: timestamp not null }
    event_time: timestamp
    partitioned_by: [user_id]
views:
  features: |
    SELECT user_id, count(*) OVER day AS num, sum(amount) OVER day AS spent, max(amount) OVER day AS largest,
      avg(amount) OVER day AS mean, lag(amount) OVER (PARTITION BY user_id ORDER BY timestamp) AS last
    FROM tx
    WINDOW day AS (PARTITION BY user_id ORDER BY timestamp RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW)
sinks:
  out: { connector: console, select: SELECT * FROM features WHERE spent < 0 }
checkpoint: { path: checkpoint }
"#;

fn main() -> ExitCode {
    let keys = argument("--keys", 10_000_000);
    let mut goals =
        Goals::begin("state of many keys: recovery from a local snapshot, and epochs while one is being taken");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-recovery");
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    let io = tasks::io_runtime().unwrap();
    let path = folder.join("pipeline.yaml");
    std::fs::write(&path, PIPELINE).unwrap();
    let pipeline = Pipeline::load(&path, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let (plan, _) = runtime::compile(&pipeline, &BTreeMap::new(), io.handle()).unwrap();
    for (rows_per_key, seconds_max) in [(2, 10.0), (8, 30.0)] {
        measure(&mut goals, &plan, &io, &folder, (keys, rows_per_key), seconds_max);
    }
    std::fs::remove_dir_all(&folder).unwrap();
    goals.end()
}

fn measure(
    goals: &mut Goals,
    plan: &Plan,
    io: &Runtime,
    folder: &Path,
    (keys, rows_per_key): (u64, u64),
    seconds: f64,
) {
    let mut graph = plan.instantiate().unwrap();
    let mut rows = Rows::new(plan, keys, HELD_MICROS * 1_000 / (keys * rows_per_key).cast_signed());
    while rows.made < keys * rows_per_key {
        graph.run(vec![(0, rows.batch(8_192))]).unwrap();
    }
    let place = format!("snapshots-{rows_per_key}");
    let (store, path) = open_store(folder.to_str().unwrap(), &|_| None).unwrap();
    let store = Folder::new(store, path, folder.to_str().unwrap().to_owned());
    let without: Vec<Duration> = (0..EPOCHS).map(|_| epoch(&mut graph, &mut rows, None)).collect();
    let mut taking = Taking::begin(io, &store, &place);
    let mut during = Vec::new();
    let began = now();
    while !taking.is_done() {
        during.push(epoch(&mut graph, &mut rows, Some(&mut taking)));
    }
    let took = began.elapsed();
    let size = &graph.state_sizes()[0];
    let (num_keys, bytes) = (size.num_keys, size.bytes);
    let epochs = during.len();
    let middle = median(without.iter().map(Duration::as_secs_f64).collect()) * 1e3;
    let (without, during) = (p999_ms(without), p999_ms(during));
    println!(
        "    {num_keys} keys, {rows_per_key} rows a key, {:.0} bytes a key; snapshot of {:.0} MB in {:.1} s beside {epochs} epochs of \
         {EPOCH_ROWS} rows; p99.9 of epochs without {without:.1} ms, p50 {middle:.1} ms",
        bytes as f64 / num_keys as f64,
        taking.bytes() as f64 / 1e6,
        took.as_secs_f64(),
    );
    goals.goal(&format!("p99.9 of epochs during a snapshot, {rows_per_key} rows a key"), during, ..=50.0, " ms");
    let slices = p999_ms(std::mem::take(&mut taking.slices));
    goals.goal(
        &format!("p99.9 of what a turn spends on the snapshot, {rows_per_key} rows a key"),
        slices,
        ..=5.0,
        " ms",
    );
    drop(graph);
    let mut graph = plan.instantiate().unwrap();
    let began = now();
    for (unit, operators) in &taking.written {
        restore(&mut graph, io, &store, Assignment(*unit), operators);
    }
    let took = began.elapsed().as_secs_f64();
    assert_eq!(graph.state_sizes()[0].num_keys, num_keys, "each key was there before the snapshot began");
    goals.goal(&format!("recovery of {num_keys} keys, {rows_per_key} rows a key"), took, ..=seconds, " s");
    std::fs::remove_dir_all(folder.join(place)).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
fn now() -> Instant {
    Instant::now()
}

fn p999_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() * 999 / 1_000].as_secs_f64() * 1e3
}

/// Wall time of one turn: an epoch, and what it spends on a snapshot.
fn epoch(graph: &mut Graph, rows: &mut Rows, taking: Option<&mut Taking>) -> Duration {
    let batch = rows.batch(EPOCH_ROWS);
    let began = now();
    graph.run(vec![(0, batch)]).unwrap();
    if let Some(taking) = taking {
        let began = now();
        taking.advance(graph);
        taking.slices.push(began.elapsed());
    }
    began.elapsed()
}

/// Rows that look random and are the same on every run: first each key once, then any.
struct Rows {
    schema: arrow::datatypes::SchemaRef,
    keys: u64,
    nanos_between: i64,
    random: u64,
    made: u64,
    num_of_unit: [u64; UNITS as usize],
    w: [Option<i64>; UNITS as usize],
}

impl Rows {
    fn new(plan: &Plan, keys: u64, nanos_between: i64) -> Rows {
        let (schema, random) = (plan.source_schema(0), 88_172_645_463_325_252);
        Rows {
            schema,
            keys,
            nanos_between,
            random,
            made: 0,
            num_of_unit: [0; UNITS as usize],
            w: [None; UNITS as usize],
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) * end) >> 32
    }

    fn batch(&mut self, rows: usize) -> RecordBatch {
        let (mut units, mut keys, mut amounts, mut times, mut offsets, mut before) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        for unit in 0..UNITS {
            for _ in 0..rows / UNITS as usize {
                let own_keys = self.keys / u64::from(UNITS);
                let first = self.num_of_unit[unit as usize];
                let key = if first < own_keys { first } else { self.below(own_keys) };
                let key = key * u64::from(UNITS) + u64::from(unit);
                self.num_of_unit[unit as usize] += 1;
                let time = FROM_MICROS + self.made.cast_signed() * self.nanos_between / 1_000;
                units.push(unit);
                keys.push(key.cast_signed() * 7_919);
                amounts.push(self.below(1_000_000) as f64 / 100.0);
                times.push(time);
                offsets.push(self.made.cast_signed());
                before.push(self.w[unit as usize].replace(time));
                self.made += 1;
            }
        }
        let num_rows = units.len();
        let timestamps: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(keys)),
            Arc::new(Float64Array::from(amounts)),
            cast(&timestamps, self.schema.field(2).data_type()).unwrap(),
            Arc::new(UInt32Array::from(units)),
            Arc::new(Int64Array::from(offsets)),
            Arc::new(UInt32Array::from(vec![0; num_rows])),
            Arc::new(Int64Array::from(times)),
            Arc::new(Int64Array::from(before)),
            Arc::new(Int64Array::from(vec![-1; num_rows])),
        ];
        RecordBatch::try_new(Arc::clone(&self.schema), columns).unwrap()
    }
}

type Written = JoinHandle<tidemill::Result<Option<BTreeMap<String, OperatorState>>>>;

/// Snapshots of all units, one after the other.
struct Taking<'a> {
    io: &'a Runtime,
    store: &'a Folder,
    place: &'a str,
    left: VecDeque<u32>,
    active: Option<(u32, Option<Sender<Part>>, Written)>,
    piece_rows: usize,
    written: Vec<(u32, BTreeMap<String, OperatorState>)>,
    /// What each turn spent on it.
    slices: Vec<Duration>,
}

impl<'a> Taking<'a> {
    fn begin(io: &'a Runtime, store: &'a Folder, place: &'a str) -> Taking<'a> {
        let left = (0..UNITS).collect();
        Taking { io, store, place, left, active: None, piece_rows: 1_024, written: Vec::new(), slices: Vec::new() }
    }

    fn is_done(&self) -> bool {
        self.left.is_empty() && self.active.is_none()
    }

    fn bytes(&self) -> u64 {
        let files = self.written.iter().flat_map(|(_, operators)| operators.values().flat_map(|one| &one.files));
        files.map(|file| file.bytes).sum()
    }

    /// As a worker: until the budget is used up or the writer has enough to do.
    fn advance(&mut self, graph: &mut Graph) {
        let until = now() + TURN_BUDGET;
        if self.active.is_none() {
            let Some(unit) = self.left.pop_front() else { return };
            let meta = graph.begin_snapshot(Assignment(unit), SnapshotKind::Full).unwrap().remove(0);
            let (sender, receiver) = channel(4);
            let task = write_snapshot(self.store.clone(), format!("{}/{unit}", self.place), receiver);
            let info = &graph.operators()[0];
            let (name, fingerprint, keys) = (info.name.clone(), info.fingerprint.clone(), info.keys.clone());
            sender.try_send(Part::Operator { name, fingerprint, keys, meta }).unwrap();
            self.active = Some((unit, Some(sender), tasks::spawn(self.io.handle(), task)));
        }
        let Some((unit, parts, task)) = &mut self.active else { return };
        while let Some(sender) = parts {
            let permit = match sender.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return,
                Err(TrySendError::Closed(())) => panic!("the writer failed"),
            };
            let began = now();
            match graph.next_piece(0, Assignment(*unit), self.piece_rows).unwrap() {
                Some(Piece { slots, rows }) => permit.send(Part::Piece(slots, rows)),
                None => {
                    permit.send(Part::End);
                    *parts = None;
                }
            }
            let ended = now();
            let took = ended - began;
            let factor = if took > PIECE_TARGET {
                1
            } else if took < PIECE_TARGET / 4 {
                4
            } else {
                2
            };
            self.piece_rows = (self.piece_rows * factor / 2).clamp(64, 64 * 1_024);
            if ended >= until {
                return;
            }
        }
        if task.is_finished() {
            let (unit, _, task) = self.active.take().unwrap();
            self.written.push((unit, self.io.block_on(task).unwrap().unwrap().unwrap()));
        }
    }
}

fn restore(
    graph: &mut Graph,
    io: &Runtime,
    store: &Folder,
    unit: Assignment,
    operators: &BTreeMap<String, OperatorState>,
) {
    for state in operators.values() {
        let (sender, mut receiver): (_, Receiver<ReadPart>) = channel(4);
        let task = tasks::spawn(io.handle(), read_state(store.clone(), state.clone(), sender));
        while let Some(read) = receiver.blocking_recv() {
            match read {
                ReadPart::Meta(meta) => graph.restore_meta(0, unit, &meta).unwrap(),
                ReadPart::Piece(slots, rows) => graph.restore_piece(0, unit, &Piece { slots, rows }).unwrap(),
            }
        }
        io.block_on(task).unwrap().unwrap();
    }
}
