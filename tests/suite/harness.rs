//! What the end-to-end tests share: the real broker's address, topics, records in and out, and the binary under test.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// Address of the real broker.
pub(crate) fn broker() -> String {
    std::env::vars().find(|(name, _)| name == "TIDEMILL_TEST_KAFKA").map_or_else(
        || panic!("these tests need a real broker: run `make test`, or set TIDEMILL_TEST_KAFKA=host:port"),
        |(_, value)| value,
    )
}

/// A name that no other test of this run, and no earlier run, has.
pub(crate) fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}-{}", &id[..8], NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn make_topic(topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let results = futures::executor::block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap();
    for result in results {
        result.unwrap();
    }
    // The broker answers before every part of it knows the topic.
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
        if metadata.topics()[0].partitions().len() == partitions as usize {
            return;
        }
        assert!(Instant::now() < deadline, "the topic did not appear");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Produces `(partition, key, value)` and waits for all acknowledgements.
pub(crate) fn produce<'a>(topic: &str, records: impl IntoIterator<Item = (i32, &'a str, &'a [u8])>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("linger.ms", "5")
        // No record twice: tests count them.
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "20000000")
        .create()
        .unwrap();
    for (partition, key, value) in records {
        loop {
            let record = BaseRecord::to(topic).partition(partition).key(key).payload(value);
            match producer.send(record) {
                Ok(()) => break,
                Err((
                    rdkafka::error::KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    _,
                )) => {
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// Produces records whose partition the producer chooses by their key, as librdkafka's option `partitioner` says.
pub(crate) fn produce_by_key<'a>(
    topic: &str,
    partitioner: &str,
    records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("linger.ms", "5")
        .set("enable.idempotence", "true")
        .set("partitioner", partitioner)
        .create()
        .unwrap();
    for (key, value) in records {
        let mut record = BaseRecord::to(topic).key(key).payload(value);
        while let Err((error, refused)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull));
            record = refused;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// Where each partition of a topic ends.
pub(crate) fn end_offsets(topic: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let partitions = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
    let end = |partition| consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap().1;
    partitions.map(|partition| (partition, end(partition))).collect()
}

/// A record as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default()).unwrap()
    }
}

/// Everything in a topic, up to its end now.
pub(crate) fn consume_all(topic: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", "20000000")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let num_partitions = metadata.topics()[0].partitions().len();
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..num_partitions {
        list.add_partition_offset(topic, partition as i32, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut seen = Vec::new();
    let mut ended = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    while ended < num_partitions {
        assert!(Instant::now() < deadline, "the topic {topic} could not be read to its end");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{error}"),
            Some(Ok(message)) => seen.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message
                    .headers()
                    .map(|headers| {
                        headers
                            .iter()
                            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                            .collect()
                    })
                    .unwrap_or_default(),
            }),
        }
    }
    seen
}

/// What the ranges in the names of an archive's files cover, by partition: they must join, without a hole and without an
/// overlap. Names with `_` are not for readers.
pub(crate) fn joined_ranges(names: &[String]) -> BTreeMap<i32, Range<i64>> {
    let mut covered: BTreeMap<i32, Range<i64>> = BTreeMap::new();
    let mut names: Vec<&String> = names.iter().filter(|name| !name.starts_with('_')).collect();
    names.sort();
    for name in names {
        let (unit, range) = name.trim_end_matches(".parquet").rsplit_once("--").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (start.parse().unwrap(), end.parse().unwrap());
        let covered = covered.entry(unit.rsplit_once("--").unwrap().1.parse().unwrap()).or_insert(start..start);
        assert_eq!(covered.end, start, "{name} does not begin where the one before it ends");
        covered.end = end;
    }
    covered
}

/// A process of the binary under test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) log: String,
}

impl Process {
    pub(crate) fn start(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        let log = folder.join(format!("{}.log", unique("tidemill")));
        let child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(arguments)
            .current_dir(folder)
            .envs(environment.iter().copied())
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log has a line with `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} did not appear in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log's lines, as objects; the last words to a person are none.
    pub(crate) fn log_lines(&self) -> Vec<serde_json::Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`: a small machine has no other.
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("bash").args(["-c", &kill]).status().unwrap().success());
    }

    /// User and system time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Fields 14 and 15, in ticks of a hundredth of a second; the name, field 2, may hold blanks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + Duration::from_secs(180);
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            pipe.read_to_string(&mut stdout).unwrap();
            stdout
        });
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("the process did not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ended { code: status.code(), stdout: reader.join().unwrap(), log: self.log() }
    }
}

impl Drop for Process {
    /// A test that failed leaves no process behind.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the binary to its end.
pub(crate) fn tidemill(folder: &Path, arguments: &[&str]) -> Ended {
    Process::start(folder, arguments, &[]).wait()
}

/// The rows of all Parquet files below a folder, file by file; readers skip names that begin with `_`.
pub(crate) fn parquet_rows(folder: &Path) -> Vec<RecordBatch> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('_'));
    let mut rows = Vec::new();
    for path in entries.into_iter().filter(|path| !is_hidden(path)) {
        if path.is_dir() {
            rows.extend(parquet_rows(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            let file = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
            rows.extend(file.build().unwrap().map(Result::unwrap));
        }
    }
    rows
}
