//! A pipeline for tests: its file with what a test wants to vary, records of which it is known what becomes of each, and what
//! came out of it: alerts, dead letters, archive, manifests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::AsArray as _;
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tidemill::checkpoint::inspect::Inspector;
use tidemill::checkpoint::{Stores, sha256_hex};
use tidemill_udfs::scorer::{Column, Model, Scratch};

use crate::harness::{Ended, Process, Seen, broker, consume_all, joined_ranges, make_topic, produce, unique};

const MODEL: &str = include_str!("../../../udfs/testdata/binary_31.txt");
/// About every third row is an alert.
const THRESHOLD: f64 = 0.625;

pub(crate) fn variable(name: &str) -> String {
    let value = std::env::vars().find(|(found, _)| found == name).map(|(_, value)| value);
    value.unwrap_or_else(|| panic!("this test needs a real S3 server: run `make test`, or set {name}"))
}

/// What a test varies in its pipeline file.
pub(crate) struct File {
    pub(crate) pipeline: &'static str,
    pub(crate) broker: String,
    pub(crate) group: String,
    pub(crate) until: &'static str,
    /// Further lines of the source.
    pub(crate) source: Vec<&'static str>,
    pub(crate) workers: usize,
    /// Whether there are a Kafka sink and Kafka dead letters, besides the archive.
    pub(crate) has_alerts: bool,
    pub(crate) has_dead_letters: bool,
    pub(crate) archive_rows: usize,
    pub(crate) max_batch_rows: usize,
    pub(crate) http: &'static str,
    pub(crate) stop_timeout: &'static str,
}

/// Topics, folder, checkpoint and archive of one test.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) dead_letters: String,
    group: String,
    pub(crate) lake: String,
    pub(crate) checkpoint: String,
    environment: Vec<(&'static str, String)>,
}

impl Bench {
    /// On the local disk.
    pub(crate) fn new(partitions: i32) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.txt"), MODEL).unwrap();
        let at = |name: &str| format!("file://{}", folder.path().join(name).to_str().unwrap());
        let (lake, checkpoint) = (at("lake"), at("checkpoint"));
        let topic = |name: &str, partitions| {
            let topic = unique(name);
            make_topic(&topic, partitions);
            topic
        };
        Bench {
            input: topic("in", partitions),
            output: topic("out", 2),
            dead_letters: topic("dead", 1),
            group: unique("group"),
            folder,
            lake,
            checkpoint,
            environment: Vec::new(),
        }
    }

    /// With archive and checkpoint on the S3 server.
    pub(crate) fn on_s3(partitions: i32) -> Bench {
        let prefix = format!("s3://{}/{}", variable("TIDEMILL_TEST_S3_BUCKET"), unique("run"));
        let mut bench = Bench::new(partitions);
        bench.lake = format!("{prefix}/lake");
        bench.checkpoint = format!("{prefix}/checkpoint");
        bench.environment.push(("AWS_ENDPOINT_URL", variable("TIDEMILL_TEST_S3_ENDPOINT")));
        bench
    }

    /// Sets an environment variable of its processes.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(found, _)| *found != name);
        self.environment.push((name, value.to_owned()));
    }

    /// The settings of a run to the end of what is there.
    pub(crate) fn file(&self) -> File {
        File {
            pipeline: "bench",
            broker: broker(),
            group: self.group.clone(),
            until: "now",
            source: Vec::new(),
            workers: 1,
            has_alerts: true,
            has_dead_letters: true,
            archive_rows: 400,
            max_batch_rows: 8192,
            http: "off",
            stop_timeout: "20s",
        }
    }

    /// Writes the pipeline file; its name.
    pub(crate) fn write(&self, file: &File) -> String {
        let mut text = format!(
            "pipeline: {pipeline}\n\
             sources:\n  \
               transactions:\n    \
                 connector: kafka\n    \
                 bootstrap_servers: \"{broker}\"\n    \
                 topic: {input}\n    \
                 group: {group}\n    \
                 until: {until}\n    \
                 options: {{ session.timeout.ms: 2000 }}\n    \
                 columns: {{ id: bigint not null, amount: double not null, f1: double, f2: double, f3: double }}\n    \
                 metadata: {{ source_partition: partition, source_offset: offset }}\n    \
                 check: [\"amount >= 0\"]\n",
            pipeline = file.pipeline,
            broker = file.broker,
            input = self.input,
            group = file.group,
            until = file.until,
        );
        for line in &file.source {
            writeln!(text, "    {line}").unwrap();
        }
        write!(
            text,
            "models:\n  \
               fraud: {{ uri: model.txt, threshold: {THRESHOLD} }}\n\
             views:\n  \
               features: SELECT id, amount AS f0, f1, f2, f3 FROM transactions\n  \
               scored: |\n    \
                 SELECT id, f0 AS amount, score('fraud', f0, f1, f2, f3) AS probability, model_version('fraud') AS model_version\n    \
                 FROM features\n\
             sinks:\n  \
               archive:\n    \
                 connector: parquet\n    \
                 path: {lake}\n    \
                 max_rows: {rows}\n    \
                 max_age: 1s\n    \
                 select: SELECT id, source_partition, source_offset FROM transactions\n",
            lake = self.lake,
            rows = file.archive_rows,
        )
        .unwrap();
        self.write_kafka_sinks(file, &mut text);
        write!(
            text,
            "checkpoint: {{ path: \"{checkpoint}\", interval: 100ms }}\n\
             run: {{ workers: {workers}, stop_timeout: {stop_timeout}, max_batch_rows: {max_batch_rows} }}\n\
             http: {{ listen: \"{http}\" }}\n",
            checkpoint = self.checkpoint,
            workers = file.workers,
            stop_timeout = file.stop_timeout,
            max_batch_rows = file.max_batch_rows,
            http = file.http,
        )
        .unwrap();
        let name = format!("{}.yaml", unique("pipeline"));
        fs::write(self.folder.path().join(&name), text).unwrap();
        name
    }

    fn write_kafka_sinks(&self, file: &File, text: &mut String) {
        if file.has_alerts {
            write!(
                text,
                "  alerts:\n    \
                   connector: kafka\n    \
                   topic: {}\n    \
                   key: id\n    \
                   select: SELECT * FROM scored WHERE probability >= threshold('fraud')\n",
                self.output
            )
            .unwrap();
        }
        if file.has_dead_letters {
            writeln!(text, "dead_letter: {{ connector: kafka, topic: {} }}", self.dead_letters).unwrap();
        }
    }

    pub(crate) fn start(&self, file: &File) -> Process {
        self.start_with(&["run", &self.write(file)])
    }

    pub(crate) fn start_with(&self, arguments: &[&str]) -> Process {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Process::start(self.folder.path(), arguments, &environment)
    }

    /// Runs to the end; must end well.
    pub(crate) fn run(&self, file: &File) -> Ended {
        let ended = self.start(file).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        ended
    }

    pub(crate) fn stores(&self) -> Stores {
        let environment = self.environment.clone();
        Stores::new(move |name| {
            let own = environment.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone());
            own.or_else(|| std::env::vars().find(|(found, _)| found == name).map(|(_, value)| value))
        })
    }

    /// Names of the archive's files, those that readers skip left out.
    pub(crate) fn archived_names(&self) -> Vec<String> {
        let folder = self.stores().open(&self.lake).unwrap();
        let names = block_on(folder.list("")).unwrap().into_iter().map(|object| object.name);
        names.filter(|name| !name.split('/').any(|part| part.starts_with('_'))).collect()
    }

    /// (partition, offset, id) of all archived rows, sorted. Readers skip names that begin with `_`.
    pub(crate) fn archive(&self) -> Vec<(i32, i64, i64)> {
        let folder = self.stores().open(&self.lake).unwrap();
        let (names, mut rows) = (self.archived_names(), Vec::new());
        block_on(async {
            for name in names {
                let bytes = folder.read(&name, u64::MAX).await.unwrap().unwrap();
                for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                    let batch = batch.unwrap();
                    let (ids, offsets) =
                        (batch["id"].as_primitive::<Int64Type>(), batch["source_offset"].as_primitive::<Int64Type>());
                    let partitions = batch["source_partition"].as_primitive::<Int32Type>();
                    rows.extend(
                        (0..batch.num_rows()).map(|row| (partitions.value(row), offsets.value(row), ids.value(row))),
                    );
                }
            }
        });
        rows.sort_unstable();
        rows
    }

    /// Of each partition: where the last manifest is, and where a restart goes on (the smallest of that and the sinks').
    pub(crate) fn stored(&self) -> BTreeMap<i32, (i64, i64)> {
        self.stored_at(&self.checkpoint).unwrap()
    }

    /// The same of another checkpoint, which may not be there yet.
    pub(crate) fn stored_at(&self, checkpoint: &str) -> tidemill::Result<BTreeMap<i32, (i64, i64)>> {
        let stores = self.stores();
        block_on(async {
            let units = Inspector::open(&stores, checkpoint).await?.list().await?;
            let newest: Vec<_> = units
                .into_iter()
                .map(|unit| unit.newest.map(|newest| (unit.unit.partition, newest)))
                .collect::<tidemill::Result<_>>()?;
            let newest = newest.into_iter();
            newest
                .filter_map(|(partition, manifest)| {
                    let published = manifest.offset?;
                    let resumed = manifest
                        .sinks
                        .values()
                        .map(|sink| sink.position)
                        .min()
                        .map_or(published, |least| least.min(published));
                    Some((partition, (published.get(), resumed.get())))
                })
                .map(Ok)
                .collect()
        })
    }

    pub(crate) fn alerts(&self) -> Vec<Seen> {
        consume_all(&self.output)
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn model_version() -> String {
    sha256_hex(MODEL.as_bytes())[..12].to_owned()
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Row { amount: f64, probability: f64 },
    Rejected(&'static str),
}

/// A record that was produced.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: i64,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) value: Vec<u8>,
    pub(crate) fate: Fate,
}

/// All that was produced to the input.
pub(crate) struct Log {
    topic: String,
    partitions: i32,
    pub(crate) records: Vec<Record>,
    ends: BTreeMap<i32, i64>,
    scorer: Model,
}

/// Mixes the bits of `number`.
fn mixed(number: i64) -> u64 {
    let mut bits = (number as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

impl Log {
    pub(crate) fn new(bench: &Bench, partitions: i32) -> Log {
        let scorer = Model::parse(MODEL).unwrap();
        Log { topic: bench.input.clone(), partitions, records: Vec::new(), ends: BTreeMap::new(), scorer }
    }

    /// Appends records over all partitions, some of which will be rejected.
    pub(crate) fn append(&mut self, ids: Range<i64>) {
        self.append_to(ids, 0..self.partitions);
    }

    pub(crate) fn append_to(&mut self, ids: Range<i64>, partitions: Range<i32>) {
        let first = self.records.len();
        for id in ids {
            let partition = partitions.start + (mixed(id) % u64::from(partitions.len() as u32)) as i32;
            let (value, fate) = self.make(id);
            let end = self.ends.entry(partition).or_default();
            self.records.push(Record { id, partition, offset: *end, value, fate });
            *end += 1;
        }
        let keys: Vec<String> = self.records[first..].iter().map(|record| record.id.to_string()).collect();
        let records = self.records[first..].iter().zip(&keys);
        produce(&self.topic, records.map(|(record, key)| (record.partition, key.as_str(), record.value.as_slice())));
    }

    fn make(&self, id: i64) -> (Vec<u8>, Fate) {
        let bits = mixed(id);
        let amount = (bits % 1_200) as f64 / 100.0;
        let f1 = (!bits.is_multiple_of(5)).then(|| ((bits >> 8) % 400) as f64 / 100.0 - 2.0);
        let (f2, f3) = (((bits >> 20) % 7) as f64, ((bits >> 32) % 800) as f64 / 100.0);
        let row = json!({ "id": id, "amount": amount, "f1": f1, "f2": f2, "f3": f3 });
        match id % 97 {
            3 => (format!("{{\"id\": {id}, \"amount\"").into_bytes(), Fate::Rejected("truncated_json")),
            50 => (json!({ "id": id, "amount": -1.0 }).to_string().into_bytes(), Fate::Rejected("failed_check")),
            70 => (json!({ "id": id, "amount": [1] }).to_string().into_bytes(), Fate::Rejected("wrong_type")),
            _ => {
                let mut score = [0.0];
                let values = [amount, f1.unwrap_or(f64::NAN), f2, f3].map(|value| [value]);
                let columns: Vec<Column<'_>> = values.iter().map(|value| Column::from(&value[..])).collect();
                self.scorer.score(&columns, &mut score, &mut Scratch::default());
                (row.to_string().into_bytes(), Fate::Row { amount, probability: score[0] })
            }
        }
    }

    pub(crate) fn num_rejected(&self) -> usize {
        self.records.iter().filter(|record| matches!(record.fate, Fate::Rejected(_))).count()
    }

    /// How many alerts there are to be.
    pub(crate) fn num_alerts(&self) -> usize {
        self.alerts().count()
    }

    /// (partition, offset, id) of all records that become rows, sorted.
    pub(crate) fn rows(&self) -> Vec<(i32, i64, i64)> {
        let mut rows: Vec<(i32, i64, i64)> = self
            .records
            .iter()
            .filter(|record| matches!(record.fate, Fate::Row { .. }))
            .map(|record| (record.partition, record.offset, record.id))
            .collect();
        rows.sort_unstable();
        rows
    }

    fn alerts(&self) -> impl Iterator<Item = &Record> {
        self.records
            .iter()
            .filter(|record| matches!(record.fate, Fate::Row { probability, .. } if probability >= THRESHOLD))
    }

    /// Checks each alert that came out, and that each that should have come did: once, or at least once.
    pub(crate) fn check_alerts(&self, seen: &[Seen], may_repeat: bool) {
        let expected: BTreeMap<(i32, i64), &Record> =
            self.alerts().map(|record| ((record.partition, record.offset), record)).collect();
        assert!(
            expected.len() * 10 > self.records.len() && expected.len() * 2 < self.records.len(),
            "a telling part of the rows are alerts"
        );
        let mut times: BTreeMap<(i32, i64), usize> = BTreeMap::new();
        for alert in seen {
            let place = (number(alert, "tidemill-source-partition") as i32, number(alert, "tidemill-source-offset"));
            let record = expected.get(&place).unwrap_or_else(|| panic!("nobody expected an alert for {place:?}"));
            let Fate::Row { amount, probability } = record.fate else { unreachable!("alerts are rows") };
            assert_eq!(alert.key.as_deref(), Some(record.id.to_string().as_bytes()));
            assert_eq!(
                alert.json(),
                json!({ "id": record.id, "amount": amount, "probability": probability, "model_version": model_version() })
            );
            assert_eq!(alert.headers["tidemill-model-version"], model_version().as_bytes());
            assert_eq!(alert.headers["tidemill-source-topic"], self.topic.as_bytes());
            *times.entry(place).or_default() += 1;
        }
        assert_eq!(times.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "alerts are missing");
        if !may_repeat {
            assert_eq!(seen.len(), expected.len(), "alerts came more than once");
        }
    }

    /// The same of dead letters: key and value as they were, and why and whence in headers.
    pub(crate) fn check_dead_letters(&self, seen: &[Seen], may_repeat: bool) {
        let rejected = self.records.iter().filter(|record| matches!(record.fate, Fate::Rejected(_)));
        let expected: BTreeMap<(i32, i64), &Record> =
            rejected.map(|record| ((record.partition, record.offset), record)).collect();
        let mut times: BTreeMap<(i32, i64), usize> = BTreeMap::new();
        for letter in seen {
            let place = (number(letter, "tidemill-partition") as i32, number(letter, "tidemill-offset"));
            let record = expected.get(&place).unwrap_or_else(|| panic!("nobody expected a dead letter for {place:?}"));
            let Fate::Rejected(reason) = record.fate else { unreachable!("dead letters are rejected") };
            assert_eq!(letter.key.as_deref(), Some(record.id.to_string().as_bytes()));
            assert_eq!(letter.value.as_deref(), Some(record.value.as_slice()));
            assert_eq!(String::from_utf8_lossy(&letter.headers["tidemill-reason"]), reason);
            assert_eq!(letter.headers["tidemill-topic"], self.topic.as_bytes());
            *times.entry(place).or_default() += 1;
        }
        assert_eq!(times.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "dead letters are missing");
        if !may_repeat {
            assert_eq!(seen.len(), expected.len(), "dead letters came more than once");
        }
    }

    /// Checks archive, alerts and dead letters. The archive has each row once, whatever happened, and the ranges of its files
    /// join.
    pub(crate) fn check_all(&self, bench: &Bench, may_repeat: bool) {
        assert_eq!(bench.archive(), self.rows());
        for (partition, covered) in joined_ranges(&bench.archived_names()) {
            let mut offsets = self.records.iter().filter(|one| one.partition == partition).map(|one| one.offset);
            assert_eq!(Some(covered.start), offsets.next(), "the first file of partition {partition} begins later");
        }
        self.check_alerts(&bench.alerts(), may_repeat);
        self.check_dead_letters(&consume_all(&bench.dead_letters), may_repeat);
    }
}

pub(crate) fn number(seen: &Seen, header: &str) -> i64 {
    String::from_utf8_lossy(&seen.headers[header]).parse().unwrap()
}

/// Where a process serves, from its log.
pub(crate) fn address(process: &Process) -> String {
    process.wait_for_log("serving /metrics");
    let line = process.log_lines().into_iter().find(|line| line["address"].is_string()).unwrap();
    line["address"].as_str().unwrap().to_owned()
}

/// Status code and body of a page; code 0 when nobody answers.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut answer = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: tidemill\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    if asked.is_err() {
        return (0, String::new());
    }
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(crate) fn status(address: &str) -> Value {
    serde_json::from_str(&get(address, "/status").1).unwrap_or_default()
}

/// All partitions that a process holds, with their published positions.
pub(crate) fn published(status: &Value) -> BTreeMap<i64, i64> {
    let workers = status["workers"].as_array().into_iter().flatten();
    let partitions = workers.flat_map(|worker| worker["partitions"].as_array().into_iter().flatten());
    partitions.filter_map(|one| Some((one["partition"].as_i64()?, one["published"].as_i64()?))).collect()
}

pub(crate) fn wait_until(what: &str, process: &Process, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in 60 s\n{}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a process holds `partitions` and has published `records` of them.
pub(crate) fn wait_until_published(process: &Process, address: &str, partitions: usize, records: usize) {
    wait_until("all is published", process, || {
        let published = published(&status(address));
        published.len() == partitions && published.values().sum::<i64>() == records as i64
    });
}

/// The first position at which each partition was taken over, from the log.
pub(crate) fn taken_over(process: &Process) -> BTreeMap<i32, i64> {
    taken_over_in(&process.log())
}

/// The same, from the log of a process that has ended.
pub(crate) fn taken_over_in(log: &str) -> BTreeMap<i32, i64> {
    let mut first = BTreeMap::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["message"] == "partition taken over" {
            let partition = line["unit"].as_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
            first.entry(partition).or_insert(line["offset"].as_i64().unwrap());
        }
    }
    first
}

pub(crate) fn files_below(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
