//! Windows over a real broker: state survives kill -9, other numbers of workers and partitions that move between processes; what
//! comes out is, to the bit, what an uninterrupted run answers. And what the command line says of that state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::bench::Bench;
use crate::harness::{Process, broker, consume_all, make_topic, parquet_rows, produce, tidemill, unique};

const PARTITIONS: i32 = 4;
const FEATURES: &str = "SELECT id, user_id, amount, source_partition, source_offset, \
    count(*) OVER hours AS n, sum(amount) OVER hours AS total, avg(amount) OVER last AS mean, \
    lag(amount) OVER (PARTITION BY user_id ORDER BY at) AS before, \
    count(*) OVER (PARTITION BY user_id, place ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS visits, \
    stddev(amount) OVER last AS spread FROM events WINDOW \
    hours AS (PARTITION BY user_id ORDER BY at RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW), \
    last AS (PARTITION BY user_id ORDER BY at ROWS BETWEEN 6 PRECEDING AND CURRENT ROW)";

/// One pipeline over the bench's input, with outputs and a checkpoint of its own.
struct Line<'a> {
    bench: &'a Bench,
    name: String,
    alerts: String,
}

impl<'a> Line<'a> {
    fn new(bench: &'a Bench, name: &str) -> Line<'a> {
        let alerts = unique("answers");
        make_topic(&alerts, 2);
        Line { bench, name: unique(name), alerts }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.bench.folder.path().join(format!("{}-{what}", self.name))
    }

    /// Writes its file; the name.
    fn file(&self, workers: usize, until: &str, features: &str) -> String {
        let rate = if until == "now" { "" } else { "    rate_limit: 2500\n" };
        let text = format!(
            "pipeline: windows\n\
             sources:\n  events:\n    connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {input}\n    \
             group: {name}\n    until: {until}\n    options: {{ session.timeout.ms: 2000 }}\n    partitioned_by: [user_id]\n    \
             event_time: at\n    max_lateness: 1h\n    max_future_skew: 30m\n    trust_timestamps: true\n    \
             columns: {{ id: bigint not null, user_id: bigint not null, amount: double, place: string, at: timestamp not null }}\n    \
             metadata: {{ source_partition: partition, source_offset: offset }}\n{rate}\
             views:\n  features: \"{features}\"\n\
             sinks:\n  archive: {{ connector: parquet, path: \"{lake}\", max_rows: 300, max_age: 1s, select: SELECT * FROM features }}\n  \
             answers: {{ connector: kafka, topic: {answers}, key: id, select: SELECT * FROM features WHERE n > 3 }}\n\
             checkpoint: {{ path: \"{checkpoint}\", interval: 100ms, snapshot_interval: 150ms }}\n\
             run: {{ workers: {workers}, stop_timeout: 20s }}\nhttp: {{ listen: \"off\" }}\n",
            broker = broker(),
            input = self.bench.input,
            name = self.name,
            lake = self.path("lake").display(),
            answers = self.alerts,
            checkpoint = self.path("checkpoint").display(),
        );
        let name = format!("{}.yaml", unique(&self.name));
        fs::write(self.bench.folder.path().join(&name), text).unwrap();
        name
    }

    fn start(&self, workers: usize, until: &str) -> Process {
        Process::start(self.bench.folder.path(), &["run", &self.file(workers, until, FEATURES)], &[])
    }

    fn finish(&self, workers: usize) {
        let ended = self.start(workers, "now").wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }

    /// Archived rows by (partition, offset), as text that tells all bits apart; each must be there once.
    fn archived(&self) -> BTreeMap<(i32, i64), String> {
        let mut rows = BTreeMap::new();
        let options = FormatOptions::default().with_null("null");
        for batch in parquet_rows(&self.path("lake")) {
            let partitions = batch["source_partition"].as_primitive::<Int32Type>();
            let offsets = batch["source_offset"].as_primitive::<Int64Type>();
            let columns: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                .collect();
            for row in 0..batch.num_rows() {
                let text: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                let place = (partitions.value(row), offsets.value(row));
                assert!(rows.insert(place, text.join("|")).is_none(), "{place:?} is in the archive twice");
            }
        }
        rows
    }

    fn answers(&self) -> BTreeSet<Vec<u8>> {
        consume_all(&self.alerts).into_iter().filter_map(|seen| seen.value).collect()
    }
}

/// Late, tied and ordinary transactions, and a few that are none.
fn produce_events(topic: &str, num: i64) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
    let events: Vec<(i32, String)> = (0..num)
        .map(|id| {
            let partition = random.random_range(0..PARTITIONS);
            let user = i64::from(partition) + i64::from(PARTITIONS) * random.random_range(0..40);
            let late = if random.random_bool(0.3) { random.random_range(0..90) } else { 0 };
            let minute = (id / 20 - late).max(0);
            let at = format!("2026-01-{:02}T{:02}:{:02}:00Z", 1 + minute / 1440, minute / 60 % 24, minute % 60);
            let amount = [0.1, 1e16, -7.25, 3.3][random.random_range(0..4)] * f64::from(random.random_range(1..9));
            let place = ["DE", "FR", "US"][random.random_range(0..3)];
            let value = format!(r#"{{"id":{id},"user_id":{user},"amount":{amount:e},"place":"{place}","at":"{at}"}}"#);
            (partition, value)
        })
        .collect();
    produce(topic, events.iter().map(|(partition, value)| (*partition, "", value.as_bytes())));
}

#[test]
fn windows_that_are_killed_and_moved_answer_what_an_uninterrupted_run_answers() {
    let bench = Bench::new(PARTITIONS);
    produce_events(&bench.input, 20_000);
    let (whole, killed) = (Line::new(&bench, "whole"), Line::new(&bench, "killed"));
    whole.finish(1);
    let expected = whole.archived();
    assert_eq!(expected.len(), 20_000);

    let mut random = Xoshiro256PlusPlus::seed_from_u64(6);
    let mut num_restored = 0;
    for workers in [2, 1, 3, 2] {
        let process = killed.start(workers, "forever");
        process.wait_for_log("partition taken over");
        std::thread::sleep(Duration::from_millis(random.random_range(300..1200)));
        // Another process takes some of the partitions over, while both run.
        let second = random.random_bool(0.5).then(|| killed.start(1, "forever"));
        if let Some(second) = second {
            second.wait_for_log("partition taken over");
            std::thread::sleep(Duration::from_millis(random.random_range(100..600)));
            second.kill();
        }
        let again = |line: &serde_json::Value| {
            line["message"] == "partition taken over" && number_of(&line["offset"]) < number_of(&line["published"])
        };
        num_restored += process.log_lines().iter().filter(|line| again(line)).count();
        process.kill();
    }
    assert!(num_restored > 0, "nothing was read again for state: the kills tell nothing");
    killed.finish(2);
    assert!(killed.archived() == expected, "the archive of the killed run differs");
    assert_eq!(killed.answers(), whole.answers());
    state_is_queried(&killed);
    a_changed_window_is_refused(&killed);
}

fn number_of(value: &serde_json::Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The state of the last manifests, over the command line.
fn state_is_queried(line: &Line<'_>) {
    let folder = line.bench.folder.path();
    let checkpoint = line.path("checkpoint");
    let checkpoint = checkpoint.to_str().unwrap();
    let list = tidemill(folder, &["checkpoint", "list", checkpoint]);
    assert!(list.code == Some(0) && list.stdout.contains("state at"), "{}", list.log);
    let tables = tidemill(folder, &["checkpoint", "query", checkpoint, "--tables"]);
    assert!(tables.stdout.contains("features_1_rows") && tables.stdout.contains("user_id Int64"), "{}", tables.stdout);
    let sql = "SELECT count(DISTINCT user_id) AS users, min(partition) AS first FROM features_1_slots";
    let answer = tidemill(folder, &["checkpoint", "query", checkpoint, sql]);
    assert!(answer.stdout.contains("| users | first |"), "{} {}", answer.stdout, answer.log);
    assert!(answer.stdout.contains(&format!("| {:<5} | 0     |", 40 * PARTITIONS)), "{}", answer.stdout);
}

/// Another window has no state; rebuilt from the log, it goes on and writes nothing again.
fn a_changed_window_is_refused(line: &Line<'_>) {
    let folder = line.bench.folder.path();
    let had = line.archived().len();
    let file = line.file(1, "now", &FEATURES.replace("INTERVAL '3 hours'", "INTERVAL '5 hours'"));
    let ended = tidemill(folder, &["run", &file]);
    assert!(ended.code != Some(0) && ended.log.contains("--backfill log"), "{}", ended.log);
    let ended = tidemill(folder, &["run", &file, "--backfill", "log"]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("state is rebuilt from the oldest record of the log"), "{}", ended.log);
    assert_eq!(line.archived().len(), had);
    let ended = tidemill(folder, &["run", &file]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}
