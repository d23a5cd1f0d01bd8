//! Rows between two stages on the real broker: by user, and then by merchant. At least once on the way, kill -9 at random
//! moments, several workers and processes; and behind it each row once, with all rows of a key in one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Int64Type;
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::bench::{address, status, wait_until};
use super::live::admin;
use crate::harness::{Ended, Process, broker, consume_all, joined_ranges, make_topic, parquet_rows, produce, unique};

/// Topics, folder and what a test varies of a pipeline in stages.
struct Stages {
    folder: tempfile::TempDir,
    input: String,
    by_user: String,
    by_merchant: String,
    dead_letters: String,
    group: String,
    checkpoint: String,
    until: &'static str,
    workers: usize,
    rate_limit: Option<u32>,
    /// Behind `by: [merchant]` of the view.
    settings: &'static str,
    /// One more column of the view.
    column: &'static str,
    http: &'static str,
}

impl Stages {
    fn new(partitions: i32) -> Stages {
        let (input, dead_letters) = (unique("in"), unique("dead"));
        make_topic(&input, partitions);
        make_topic(&dead_letters, 1);
        Stages {
            folder: tempfile::tempdir().unwrap(),
            input,
            by_user: unique("by-user"),
            by_merchant: unique("by-merchant"),
            dead_letters,
            group: unique("group"),
            checkpoint: "checkpoint".to_owned(),
            until: "now",
            workers: 2,
            rate_limit: None,
            settings: "",
            column: "",
            http: "off",
        }
    }

    fn start(&self) -> Process {
        let limit = self.rate_limit.map_or_else(String::new, |rate| format!("    rate_limit: {rate}\n"));
        let Stages { input, by_user, by_merchant, dead_letters, group, checkpoint, until, workers, http, .. } = self;
        let text = format!(
            "pipeline: stages
sources:
  cards:
    connector: kafka
    bootstrap_servers: \"{servers}\"
    topic: {input}
    group: {group}
    until: {until}
{limit}    options: {{ session.timeout.ms: 2000 }}
    columns: {{ id: bigint not null, user_id: bigint not null, merchant: string, ts: epoch_ms not null }}
    check: [\"id % 40 <> 13\"]
    event_time: ts
    repartition: {{ by: [user_id], topic: {by_user} }}
views:
  bought:
    sql: SELECT id, merchant, ts, id * 2 AS twice{column} FROM cards WHERE id % 10 <> 7
    repartition: {{ by: [merchant], topic: {by_merchant}{settings} }}
sinks:
  by_user:
    {{ connector: parquet, path: lake/by_user, max_rows: 150, max_age: 1s, select: \"SELECT id, user_id AS key FROM cards\" }}
  by_merchant:
    {{ connector: parquet, path: lake/by_merchant, max_rows: 170, max_age: 700ms, select: \"SELECT id, merchant AS key, twice FROM bought\" }}
dead_letter: {{ connector: kafka, topic: {dead_letters} }}
checkpoint: {{ path: {checkpoint}, interval: 100ms }}
run: {{ workers: {workers}, stop_timeout: 20s }}
http: {{ listen: \"{http}\" }}
",
            servers = broker(),
            column = self.column,
            settings = self.settings,
        );
        let name = format!("{}.yaml", unique("pipeline"));
        fs::write(self.folder.path().join(&name), text).unwrap();
        Process::start(self.folder.path(), &["run", &name], &[])
    }

    fn run(&self) -> Ended {
        let ended = self.start().wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        ended
    }

    fn produce(&self, ids: Range<i64>, partitions: i32) {
        let record = |id: i64| {
            let merchant = if id % 23 == 0 { "null".to_owned() } else { format!("\"m{}\"", id % 23) };
            format!(
                "{{\"id\": {id}, \"user_id\": {}, \"merchant\": {merchant}, \"ts\": {}}}",
                id % 101,
                1_700_000_000_000_i64 + id
            )
        };
        let records: Vec<(i32, String, String)> =
            ids.map(|id| ((id % i64::from(partitions)) as i32, id.to_string(), record(id))).collect();
        let records = records.iter();
        produce(&self.input, records.map(|(partition, key, value)| (*partition, key.as_str(), value.as_bytes())));
    }

    fn lake(&self, sink: &str) -> PathBuf {
        self.folder.path().join("lake").join(sink)
    }

    /// Each row once in both archives, each key in one partition, the files' ranges without hole or overlap.
    fn check(&self, ids: Range<i64>) {
        let accepted: Vec<i64> = ids.filter(|id| id % 40 != 13).collect();
        self.check_archive("by_user", &accepted);
        let bought: Vec<i64> = accepted.into_iter().filter(|id| id % 10 != 7).collect();
        self.check_archive("by_merchant", &bought);
    }

    fn check_archive(&self, sink: &str, expected: &[i64]) {
        let mut ids = Vec::new();
        let mut names = Vec::new();
        let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in fs::read_dir(self.lake(sink)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('_') {
                continue;
            }
            let partition = name.rsplit("--").nth(1).unwrap().to_owned();
            // A folder of its own for each file, so that its rows are read alone.
            let alone = tempfile::tempdir().unwrap();
            fs::copy(&path, alone.path().join(&name)).unwrap();
            for batch in parquet_rows(alone.path()) {
                ids.extend_from_slice(batch["id"].as_primitive::<Int64Type>().values());
                let keys = arrow::compute::cast(&batch["key"], &arrow::datatypes::DataType::Utf8).unwrap();
                let keys = keys.as_string::<i32>();
                for row in 0..batch.num_rows() {
                    let key = if keys.is_valid(row) { keys.value(row) } else { "none" };
                    places.entry(key.to_owned()).or_default().insert(partition.clone());
                }
            }
            names.push(name);
        }
        ids.sort_unstable();
        let doubled: Vec<i64> = ids.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
        let missing: Vec<&i64> = expected.iter().filter(|id| ids.binary_search(id).is_err()).collect();
        assert_eq!((missing, doubled), (Vec::new(), Vec::new()), "{sink}: missing, doubled");
        assert_eq!(ids, expected, "{sink}");
        assert!(places.values().all(|places| places.len() == 1), "{sink}: a key is in several partitions: {places:?}");
        assert!(places.values().flatten().collect::<BTreeSet<_>>().len() > 1, "{sink}: all is in one partition");
        // Of each topic apart: their partitions have the same numbers.
        joined_ranges(&names);
    }
}

#[test]
fn until_now_ends_when_all_has_gone_through_both_topics_and_the_next_run_goes_on() {
    let mut stages = Stages::new(3);
    stages.produce(0..9_000, 3);
    stages.run();
    stages.check(0..9_000);
    // The topics were made, as many partitions as the outer one has.
    assert_eq!(admin().num_partitions(&stages.by_user).unwrap(), Some(3));
    assert_eq!(admin().num_partitions(&stages.by_merchant).unwrap(), Some(3));
    assert_eq!(admin().topic_setting(&stages.by_user, "retention.ms").unwrap(), "604800000");
    assert_eq!(consume_all(&stages.dead_letters).len(), 225);
    stages.produce(9_000..10_000, 3);
    stages.workers = 1;
    stages.run();
    stages.check(0..10_000);
    // Nothing was written twice, so nothing had to be left out.
    assert_eq!(consume_all(&stages.by_user).len(), 9_750);
}

#[test]
fn after_kills_at_random_moments_each_row_has_gone_through_both_topics_once() {
    let mut stages = Stages::new(3);
    stages.produce(0..14_000, 3);
    (stages.until, stages.rate_limit) = ("forever", Some(1_200));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    for _ in 0..6 {
        let process = stages.start();
        process.wait_for_log("partition taken over");
        std::thread::sleep(Duration::from_millis(random.random_range(100..1_800)));
        process.kill();
    }
    (stages.until, stages.rate_limit, stages.workers) = ("now", None, 3);
    stages.run();
    stages.check(0..14_000);
    let repeated = (consume_all(&stages.by_user).len() + consume_all(&stages.by_merchant).len()) as i64;
    let once = (0..14_000).filter(|id| id % 40 != 13).map(|id| if id % 10 == 7 { 1 } else { 2 }).sum::<i64>();
    assert!(repeated > once, "the kills left no repetition in the topics, and so tell nothing: {repeated}, {once}");
}

#[test]
fn two_processes_share_both_stages_and_one_takes_over_from_the_other_that_was_killed() {
    let mut stages = Stages::new(4);
    stages.produce(0..8_000, 4);
    (stages.until, stages.rate_limit, stages.workers, stages.http) = ("forever", Some(700), 1, "127.0.0.1:0");
    let first = stages.start();
    first.wait_for_log("partition taken over");
    let second = stages.start();
    let at = address(&second);
    let held = |source: &str| {
        let status = status(&at);
        let partitions = status["workers"][0]["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().filter(|one| one["source"] == source).count()
    };
    wait_until("both have a part of each stage", &second, || {
        ["cards.outer", "cards", "bought"].iter().all(|source| held(source) == 2)
    });
    std::thread::sleep(Duration::from_millis(700));
    first.kill();
    wait_until("the second has all", &second, || {
        ["cards.outer", "cards", "bought"].iter().all(|source| held(source) == 4)
    });
    let ended = second.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    (stages.until, stages.rate_limit, stages.workers) = ("now", None, 2);
    // Two at once to the end, too.
    let (first, second) = (stages.start(), stages.start());
    for ended in [first.wait(), second.wait()] {
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }
    stages.check(0..8_000);
}

#[test]
fn a_record_of_somebody_else_in_an_internal_topic_goes_to_the_dead_letters() {
    let stages = Stages::new(1);
    stages.produce(0..100, 1);
    make_topic(&stages.by_user, 2);
    produce(&stages.by_user, [(1, "key", &b"{\"id\": 1}"[..])]);
    stages.run();
    stages.check_archive("by_user", &(0..100).filter(|id| id % 40 != 13).collect::<Vec<_>>());
    let letters = consume_all(&stages.dead_letters);
    let foreign: Vec<_> = letters.iter().filter(|one| one.headers["tidemill-reason"] == b"foreign_record").collect();
    assert_eq!(foreign.len(), 1);
    assert_eq!(foreign[0].value.as_deref(), Some(&b"{\"id\": 1}"[..]));
    assert_eq!(foreign[0].headers["tidemill-topic"], stages.by_user.as_bytes());
}

#[test]
fn an_internal_topic_that_cannot_be_trusted_is_refused_with_the_way_out() {
    let refused = |stages: &Stages, code: i32, parts: &[&str]| {
        let ended = stages.start().wait();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        for part in parts {
            assert!(ended.log.contains(part), "{part:?} is not in\n{}", ended.log);
        }
    };
    let mut stages = Stages::new(2);
    stages.produce(0..400, 2);
    admin().create_topic(&stages.by_merchant, 2, &[("cleanup.policy", "compact")]).unwrap();
    refused(&stages, 78, &[&*stages.by_merchant, "found compact", "a compacted topic forgets rows"]);
    stages.by_merchant = unique("by-merchant");
    make_topic(&stages.by_merchant, 2);
    stages.settings = ", partitions: 5";
    refused(&stages, 78, &["expected 5 partitions", "found 2"]);
    stages.settings = "";
    stages.run();
    stages.check(0..400);
    // Rows that are still there, and another checkpoint: somebody else's.
    stages.checkpoint = "another".to_owned();
    refused(&stages, 65, &["by another pipeline, or by this one with another checkpoint", "name another topic"]);
    stages.checkpoint = "checkpoint".to_owned();
    // All is read, so other columns go on.
    stages.column = ", user_id";
    stages.produce(400..500, 2);
    stages.run();
    stages.check(0..500);
    admin().set_num_partitions(&stages.by_merchant, 3).unwrap();
    refused(&stages, 78, &["has 3 partitions, and had 2 when this pipeline began to use it", "name another topic"]);
}
