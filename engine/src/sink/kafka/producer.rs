//! The producer under the sink: idempotent, acknowledged by all replicas, and counted. A record is sent until it is
//! acknowledged or refused for good; the caller waits for room, with a bound, and never loses one silently.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::settings::KafkaConnection;
use crate::source::kafka::{client_config, client_error, config_error, log_line, now, set_all};

/// How long a full queue may stay full.
const ROOM: Duration = Duration::from_secs(60);
/// How long a topic may take to appear; brokers that make topics on demand need a moment.
const TOPIC_APPEARS: Duration = Duration::from_secs(5);
const QUESTION: Duration = Duration::from_secs(5);
/// Bytes of a batch, unless its topic takes less; the client's own default.
pub(super) const BATCH_BYTES: usize = 1_000_000;
/// Bytes of a record that the client itself refuses to exceed.
pub(super) const MESSAGE_BYTES_MAX: usize = 100 << 20;

/// Of librdkafka: a record that is refused for good is the end of the client, so that none after it gets through.
const GAPLESS: &str = "enable.gapless.guarantee";

/// What a sink has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records taken.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Records acknowledged by the cluster.
    pub acknowledged: u64,
}

/// What the delivery callbacks have found. They run inside `poll`, on the caller's thread.
#[derive(Debug, Default)]
struct Deliveries {
    /// Records outstanding, by the half that they were sent in; see [`Producer::turn`].
    outstanding: [AtomicU64; 2],
    acknowledged: AtomicU64,
    failed: Mutex<Option<(ErrorKind, String)>>,
    topic: String,
}

impl Deliveries {
    fn fail(&self, error: &Error) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| (error.kind(), error.message().to_owned()));
    }

    fn refused(&self, code: Code, bytes: usize) -> Error {
        let topic = &*self.topic;
        if let Some(error) = client_error(code, &format!("topic `{topic}`"), "a record was refused") {
            return error;
        }
        match code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidRecord => Error::data(format!(
                "topic `{topic}`: a record of {bytes} bytes is refused ({code}); raise the topic's `max.message.bytes`, or write \
                 less to it"
            )),
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                Error::invalid(format!("topic `{topic}` is not on the kafka cluster; create it or mend `topic`"))
            }
            code => Error::unavailable(format!("topic `{topic}`: a record was not acknowledged ({code}); start again")),
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // librdkafka calls the option experimental, each time that a client has it; what it does is what we count on.
        let is_known = facility == "CONFWARN" && line.contains(GAPLESS);
        log_line(if is_known { RDKafkaLogLevel::Debug } else { level } as i32, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let topic = &*self.topic;
        match client_error(code, &format!("topic `{topic}`"), reason) {
            Some(error) => self.fail(&error),
            None if code == Code::AllBrokersDown => tracing::warn!(topic, "no kafka broker can be reached; trying on"),
            None => tracing::info!(topic, code = %code, reason, "the kafka client reports"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, half: usize) {
        self.outstanding[half & 1].fetch_sub(1, Ordering::Relaxed);
        match result {
            Ok(_) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, record)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                let bytes = record.payload_len() + record.key_len();
                self.fail(&self.refused(code, bytes));
            }
        }
    }
}

/// Whether records may follow one that the cluster refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    Possible,
    /// The client is finished with the first refusal: nothing that was sent after it gets through.
    Refused,
}

/// A record to be sent. The bytes are copied.
#[derive(Debug, Default)]
pub(super) struct Outgoing<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Option<OwnedHeaders>,
    /// Milliseconds since the epoch; the time of sending by default.
    pub(super) timestamp: Option<i64>,
}

/// The producer's configuration.
pub(super) fn producer_config(connection: &KafkaConnection, linger: &str, batch_bytes: usize) -> ClientConfig {
    let (batch_bytes, message_bytes_max) = (batch_bytes.max(1).to_string(), MESSAGE_BYTES_MAX.to_string());
    let defaults = [
        ("linger.ms", linger),
        ("queue.buffering.max.messages", "100000"),
        ("queue.buffering.max.kbytes", "131072"),
        // The cluster decides what is too large.
        ("message.max.bytes", &*message_bytes_max),
        ("batch.size", &*batch_bytes),
        ("reconnect.backoff.max.ms", "2000"),
    ];
    let owned = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("partitioner", "murmur2_random"),
        ("delivery.timeout.ms", "0"),
    ];
    let mut config = client_config(connection, &defaults);
    set_all(&mut config, owned);
    config
}

/// A producer to one topic.
pub(super) struct Producer {
    client: BaseProducer<Deliveries>,
    topic: String,
    half: usize,
    records: u64,
    bytes: u64,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Producer {
    /// Opens a producer and makes sure that its topic is there, waiting at most `timeout` for the cluster. Several records
    /// together make batches of at most `batch_bytes`.
    pub(super) fn open(
        connection: &KafkaConnection,
        topic: &str,
        linger: &str,
        batch_bytes: usize,
        gaps: Gaps,
        timeout: Duration,
    ) -> Result<Producer> {
        let mut config = producer_config(connection, linger, batch_bytes);
        if gaps == Gaps::Refused {
            config.set(GAPLESS, "true");
        }
        let deliveries = Deliveries { topic: topic.to_owned(), ..Deliveries::default() };
        let client = config.create_with_context(deliveries).map_err(config_error)?;
        let producer = Producer { client, topic: topic.to_owned(), half: 0, records: 0, bytes: 0 };
        producer.find_topic(timeout)?;
        Ok(producer)
    }

    fn find_topic(&self, timeout: Duration) -> Result<()> {
        let began = now();
        let mut first_answer = None;
        loop {
            let code = match self.client.client().fetch_metadata(Some(&self.topic), QUESTION.min(timeout)) {
                Ok(metadata) => {
                    let found = metadata.topics().iter().find(|found| found.name() == self.topic);
                    let error =
                        found.and_then(|found| found.error()).map(Code::from).filter(|code| *code != Code::NoError);
                    if error.is_none() && found.is_some_and(|found| !found.partitions().is_empty()) {
                        return Ok(());
                    }
                    let answered = *first_answer.get_or_insert_with(now);
                    let code = error.unwrap_or(Code::UnknownTopic);
                    if answered.elapsed() >= TOPIC_APPEARS.min(timeout) {
                        return Err(self.client.context().refused(code, 0));
                    }
                    code
                }
                Err(error) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
            };
            if let Some(error) = client_error(code, &format!("topic `{}`", self.topic), "metadata") {
                return Err(error);
            }
            self.serve()?;
            if began.elapsed() >= timeout && first_answer.is_none() {
                return Err(Error::unavailable(format!(
                    "topic `{}`: the kafka cluster does not answer ({code}); check `bootstrap_servers`, and try again",
                    self.topic
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends a record; waits for room in the queue.
    pub(super) fn send(&mut self, outgoing: Outgoing<'_>) -> Result<()> {
        let Outgoing { key, value, headers, timestamp } = outgoing;
        self.records += 1;
        self.bytes += (key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)) as u64;
        let mut record = BaseRecord::with_opaque_to(&self.topic, self.half);
        record.key = key;
        record.payload = value;
        record.headers = headers;
        record.timestamp = timestamp;
        self.client.context().outstanding[self.half].fetch_add(1, Ordering::Relaxed);
        let mut full_since = None;
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), refused)) => {
                    record = refused;
                    let since = *full_since.get_or_insert_with(now);
                    let before = self.acknowledged();
                    self.client.poll(Duration::from_millis(10));
                    self.check()?;
                    if self.acknowledged() > before {
                        full_since = None;
                    } else if since.elapsed() >= ROOM {
                        return Err(Error::unavailable(format!(
                            "topic `{}`: the kafka cluster has acknowledged nothing for {} s; start again when it answers",
                            self.topic,
                            ROOM.as_secs()
                        )));
                    }
                }
                Err((error, refused)) => {
                    let bytes = refused.payload.map_or(0, <[u8]>::len);
                    return Err(self
                        .client
                        .context()
                        .refused(error.rdkafka_error_code().unwrap_or(Code::Unknown), bytes));
                }
            }
        }
    }

    /// Serves the callbacks that are due, without waiting.
    pub(super) fn serve(&self) -> Result<()> {
        loop {
            let before = self.num_outstanding();
            self.client.poll(Duration::ZERO);
            if self.num_outstanding() == before {
                return self.check();
            }
        }
    }

    fn check(&self) -> Result<()> {
        match &*self.client.context().failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => Ok(()),
        }
    }

    /// From now on records belong to the other half, whose records must all be acknowledged. So one half at a time can be
    /// waited for while the other grows; acknowledgements of several partitions come in any order.
    pub(super) fn turn(&mut self) {
        self.half ^= 1;
        debug_assert_eq!(self.client.context().outstanding[self.half].load(Ordering::Relaxed), 0);
    }

    /// Whether everything sent before the last [`Producer::turn`] is acknowledged.
    pub(super) fn is_other_half_acknowledged(&self) -> bool {
        self.client.context().outstanding[self.half ^ 1].load(Ordering::Relaxed) == 0
    }

    fn num_outstanding(&self) -> u64 {
        self.client.context().outstanding.iter().map(|half| half.load(Ordering::Relaxed)).sum()
    }

    fn acknowledged(&self) -> u64 {
        self.client.context().acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { records: self.records, bytes: self.bytes, acknowledged: self.acknowledged() }
    }

    /// Waits until everything is acknowledged, at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) -> Result<()> {
        let began = now();
        loop {
            self.serve()?;
            let outstanding = self.num_outstanding();
            if outstanding == 0 {
                return Ok(());
            }
            if began.elapsed() >= timeout {
                return Err(Error::unavailable(format!(
                    "topic `{}`: {outstanding} records were not acknowledged within {} ms; they will be sent again after a restart",
                    self.topic,
                    timeout.as_millis()
                )));
            }
            self.client.poll(Duration::from_millis(10).min(timeout));
        }
    }
}
