//! The engine as a user runs it, `tidemill run` in a process of its own, on topics of a real broker (TIDEMILL_TEST_KAFKA).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tidemill::pipeline::settings::KafkaConnection;
use tidemill::sink::kafka::KafkaAdmin;

use super::world::World;

/// Partitions of every topic.
pub(crate) const PARTITIONS: u32 = 4;

/// The real broker.
pub(crate) fn broker() -> String {
    std::env::vars().find(|(name, _)| name == "TIDEMILL_TEST_KAFKA").map_or_else(
        || panic!("this benchmark needs a real broker: run `make bench`, or set TIDEMILL_TEST_KAFKA=host:port"),
        |(_, address)| address,
    )
}

/// A name that nothing before had.
pub(crate) fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("bench-{name}-{}-{}", &id[..8], NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Wall time.
#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn connection() -> KafkaConnection {
    KafkaConnection {
        bootstrap_servers: broker(),
        security_protocol: None,
        sasl_mechanism: None,
        sasl_username: None,
        sasl_password: None,
        ssl_ca_location: None,
        ssl_certificate_location: None,
        ssl_key_location: None,
        options: std::collections::BTreeMap::new(),
    }
}

/// A new topic.
pub(crate) fn topic(name: &str) -> String {
    let topic = unique(name);
    KafkaAdmin::open(&connection()).unwrap().create_topic(&topic, PARTITIONS, &[]).unwrap();
    topic
}

/// A consumer without a group that reads all partitions of a topic. Its options are librdkafka's own but for the end of a
/// partition, which it reports.
pub(crate) fn consumer(topic: &str, from: Offset) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let deadline = now() + Duration::from_secs(20);
    while consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap().topics()[0].partitions().len()
        < PARTITIONS as usize
    {
        assert!(now() < deadline, "the topic {topic} did not appear");
    }
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, i32::try_from(partition).unwrap(), from).unwrap();
    }
    consumer.assign(&list).unwrap();
    consumer
}

/// The first record within `timeout`, if there is one; ends of partitions are passed over.
pub(crate) fn poll<T>(consumer: &BaseConsumer, timeout: Duration, read: impl Fn(&[u8]) -> T) -> Option<T> {
    match consumer.poll(timeout)? {
        Ok(message) => message.payload().map(read),
        Err(rdkafka::error::KafkaError::PartitionEOF(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// `tidemill run` on a copy of the pipeline with topics, a group and a checkpoint of its own. Ends with this value.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) child: Child,
    log: PathBuf,
    folder: PathBuf,
}

impl Engine {
    /// Starts it. `until` is that of the source; the threshold replaces the model's.
    pub(crate) fn start(world: &World, input: &str, alerts: &str, until: &str, threshold: Option<f64>) -> Engine {
        let dead_letters = topic("dead-letters");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("engine"));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("pipeline.yaml");
        std::fs::write(&file, pipeline_text(world, until)).unwrap();
        let log = folder.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command
            .arg("run")
            .arg(&file)
            .envs(&world.environment)
            .env("KAFKA_BOOTSTRAP_SERVERS", broker())
            .env("KAFKA_TOPIC", input)
            .env("KAFKA_OUTPUT_TOPIC", alerts)
            .env("KAFKA_DLQ_TOPIC", &dead_letters)
            .env("TIDEMILL_CHECKPOINT", folder.join("checkpoint"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        if let Some(threshold) = threshold {
            command.env("TIDEMILL_THRESHOLD", threshold.to_string());
        }
        Engine { child: command.spawn().unwrap(), log, folder }
    }

    /// Whether it has ended. Fails, with its log, when it has failed.
    pub(crate) fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().unwrap();
        if let Some(status) = status.filter(|status| !status.success()) {
            panic!("the engine ended with {status}:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        status.is_some()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended; what it leaves is of no use to anyone.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// The pipeline's file with a name and a group of its own.
fn pipeline_text(world: &World, until: &str) -> String {
    let changes = [
        ("pipeline: fraud\n", format!("pipeline: {}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n", unique("fraud"))),
        (
            "    connector: kafka\n    bootstrap_servers",
            format!("    connector: kafka\n    until: {until}\n    bootstrap_servers"),
        ),
    ];
    changes.into_iter().fold(world.text.clone(), |text, (from, to)| {
        assert!(text.contains(from), "the pipeline has no {from:?} any more");
        text.replace(from, &to)
    })
}
