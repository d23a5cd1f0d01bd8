//! The Kafka sink, at least once: rows as JSON, dead letters with the bytes that came in, or rows between two stages in a form
//! of our own. Everything up to a checkpoint is acknowledged by all replicas before it says so. It opens no transactions yet,
//! and makes no topics but those between stages (`internal`).

mod admin;
mod dead_letter;
mod internal;
mod key;
mod producer;

use std::fmt::Write as _;
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use rdkafka::message::{Header, OwnedHeaders};

pub use self::admin::KafkaAdmin;
pub(crate) use self::internal::Keys as InternalKeys;
pub use self::internal::ensure_internal_topic;
pub use self::producer::Counts;

use self::dead_letter::DeadLetters;
use self::internal::Keys;
use self::key::Key;
use self::producer::{Gaps, Outgoing, Producer};
use super::json_rows::JsonRows;
use super::{PrepareRequest, PreparedUnit, Sink};
use crate::decode::internal::{RowEncoder, Stamp};
use crate::error::{Error, Result};
use crate::pipeline::settings::{self, InternalTopic, KafkaConnection};
use crate::source::kafka::embedded::is_embedded;
use crate::types::{Assignment, Hidden, Offset, StateUnit, Units, num_visible};

/// The column whose value goes into the header `tidemill-model-version`.
pub const MODEL_VERSION_COLUMN: &str = "model_version";

/// A column of text or numbers that becomes a message key or a header.
fn visible_column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a dyn Array> {
    let index = batch.schema_ref().index_of(name).ok().filter(|index| *index < num_visible(batch))?;
    Some(batch.column(index).as_ref())
}

/// What a batch becomes.
#[derive(Debug)]
enum Content {
    Rows {
        rows: JsonRows,
        key: Option<String>,
    },
    /// With the bytes that their topic takes as one record.
    DeadLetters {
        bytes_max: usize,
    },
    /// Rows between two stages.
    Internal {
        rows: RowEncoder,
        by: Vec<String>,
    },
}

/// What a topic takes when nobody has set anything else: Kafka's default of `max.message.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// A Kafka sink; see the module.
#[derive(Debug)]
pub struct KafkaSink {
    producer: Producer,
    content: Content,
    preparing: Option<PrepareRequest>,
}

impl KafkaSink {
    /// A sink of rows. Waits at most `timeout` for the cluster; the topic must be there.
    pub fn open(settings: &settings::KafkaSink, timeout: Duration) -> Result<KafkaSink> {
        let content = Content::Rows { rows: JsonRows::default(), key: settings.key.clone() };
        KafkaSink::with(settings, content, timeout)
    }

    /// A sink of dead letters: batches have the columns that `dead_letter` names. The key of the settings is not used.
    pub fn open_dead_letter(settings: &settings::KafkaSink, timeout: Duration) -> Result<KafkaSink> {
        KafkaSink::with(settings, Content::DeadLetters { bytes_max: MESSAGE_BYTES_MAX }, timeout)
    }

    /// A sink of rows between two stages. The topic must be there ([`ensure_internal_topic`]).
    pub(crate) fn open_internal(internal: &InternalTopic, stamp: Stamp, timeout: Duration) -> Result<KafkaSink> {
        let rows = RowEncoder::new(&internal.columns, stamp)?;
        let (connection, topic) = (internal.connection.clone(), internal.topic.clone());
        let settings = settings::KafkaSink { connection, topic, key: None };
        KafkaSink::with(&settings, Content::Internal { rows, by: internal.by.clone() }, timeout)
    }

    fn with(settings: &settings::KafkaSink, mut content: Content, timeout: Duration) -> Result<KafkaSink> {
        let gaps = if matches!(content, Content::Internal { .. }) { Gaps::Refused } else { Gaps::Possible };
        // What is written belongs to one epoch; waiting for more of it would only add to its latency.
        let open = |bytes| Producer::open(&settings.connection, &settings.topic, "0", bytes, gaps, timeout);
        let mut producer = open(producer::BATCH_BYTES)?;
        let message_bytes_max = message_bytes_max(settings);
        if message_bytes_max < producer::BATCH_BYTES {
            // The topic's limit is for a batch as a whole: several small records together must not exceed it either.
            producer = open(message_bytes_max)?;
        }
        if let Content::DeadLetters { bytes_max } = &mut content {
            *bytes_max = message_bytes_max.min(producer::MESSAGE_BYTES_MAX);
        }
        Ok(KafkaSink { producer, content, preparing: None })
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.producer.counts()
    }

    /// Waits until everything is acknowledged, at most `timeout`.
    pub fn close(&mut self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout)
    }
}

/// The topic's `max.message.bytes`. Who may not read it, or gets no answer, goes by Kafka's default.
fn message_bytes_max(settings: &settings::KafkaSink) -> usize {
    let topic = &*settings.topic;
    if is_embedded(&settings.connection.bootstrap_servers) {
        return MESSAGE_BYTES_MAX;
    }
    let asked = KafkaAdmin::open(&settings.connection).and_then(|admin| admin.message_bytes_max(topic));
    asked.unwrap_or_else(|error| {
        tracing::info!(topic, assumed = MESSAGE_BYTES_MAX, %error, "the topic's max.message.bytes is not known");
        MESSAGE_BYTES_MAX
    })
}

impl Sink for KafkaSink {
    /// Records have no ranges.
    fn take_over(&mut self, _assignment: Assignment, _unit: &StateUnit, _covered: Offset) {}

    fn write(&mut self, batch: &RecordBatch, units: &Units) -> Result<()> {
        match &mut self.content {
            Content::Rows { rows, key } => write_rows(&mut self.producer, rows, key.as_deref(), batch, units)?,
            Content::DeadLetters { bytes_max } => {
                let letters = DeadLetters::of(batch)?;
                for row in 0..batch.num_rows() {
                    self.producer.send(letters.outgoing(row, *bytes_max))?;
                }
            }
            Content::Internal { rows, by } => {
                rows.encode(batch, units)?;
                let mut keys = Keys::of(batch, by)?;
                for row in 0..rows.len() {
                    let (key, value) = (Some(keys.bytes(row)), Some(rows.row(row)));
                    self.producer.send(Outgoing { key, value, ..Outgoing::default() })?;
                }
            }
        }
        self.producer.serve()
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        if self.preparing.is_some() {
            return Err(Error::internal("a kafka sink was asked to prepare while it prepares"));
        }
        self.producer.serve()?;
        self.producer.turn();
        self.preparing = Some(request);
        Ok(())
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        self.producer.serve()?;
        if !self.producer.is_other_half_acknowledged() {
            return Ok(None);
        }
        Ok(self.preparing.take().map(PrepareRequest::without_files))
    }

    /// Nothing is buffered by unit: what was sent is out.
    fn forget(&mut self, _units: &[Assignment]) {}
}

fn write_rows(
    producer: &mut Producer,
    rows: &mut JsonRows,
    key: Option<&str>,
    batch: &RecordBatch,
    units: &Units,
) -> Result<()> {
    let hidden = Hidden::of(batch)?;
    rows.encode(batch)?;
    let mut key = key.map(|name| Key::of(batch, name)).transpose()?;
    let mut model_version = visible_column(batch, MODEL_VERSION_COLUMN).map(Key::of_array).transpose()?;
    let mut number = String::new();
    for row in 0..rows.len() {
        let assignment = Assignment(hidden.unit.value(row));
        let unit =
            units.get(assignment).ok_or_else(|| Error::internal("a row of a partition that is not ours any more"))?;
        let mut headers = OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: "tidemill-source-topic", value: Some(unit.topic.as_bytes()) });
        let numbers = [
            ("tidemill-source-partition", i64::from(unit.partition)),
            ("tidemill-source-offset", hidden.offset.value(row)),
        ];
        for (name, value) in numbers {
            headers = headers.insert(Header { key: name, value: Some(decimal(&mut number, value)) });
        }
        if let Some(version) = model_version.as_mut().and_then(|version| version.bytes(row)) {
            headers = headers.insert(Header { key: "tidemill-model-version", value: Some(version) });
        }
        producer.send(Outgoing {
            key: key.as_mut().and_then(|key| key.bytes(row)),
            value: Some(rows.row(row)),
            headers: Some(headers),
            timestamp: None,
        })?;
    }
    Ok(())
}

/// `value` in decimal digits.
fn decimal(text: &mut String, value: i64) -> &[u8] {
    text.clear();
    // Writing to a string cannot fail.
    write!(text, "{value}").ok();
    text.as_bytes()
}

/// A writer of records as they are, for generated ones: a key, a value, no headers.
#[derive(Debug)]
pub struct KafkaWriter {
    producer: Producer,
}

impl KafkaWriter {
    /// Waits at most `timeout` for the cluster; the topic must be there. Records wait up to `linger` for company.
    pub fn open(connection: &KafkaConnection, topic: &str, linger: Duration, timeout: Duration) -> Result<KafkaWriter> {
        let linger = linger.as_millis().min(900_000).to_string();
        Ok(KafkaWriter {
            producer: Producer::open(connection, topic, &linger, producer::BATCH_BYTES, Gaps::Possible, timeout)?,
        })
    }

    /// Sends a record; waits for room in the queue. The partition follows from the key as Java's producers have it.
    pub fn write(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<()> {
        self.producer.send(Outgoing { key, value, ..Outgoing::default() })?;
        // Callbacks are many to an event; there is no need to look after every record.
        if self.producer.counts().records.is_multiple_of(64) { self.producer.serve() } else { Ok(()) }
    }

    /// Serves what is due: to be called now and then when records come slowly.
    pub fn serve(&self) -> Result<()> {
        self.producer.serve()
    }

    /// Waits until everything is acknowledged, at most `timeout`.
    pub fn flush(&mut self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.producer.counts()
    }
}

#[cfg(test)]
mod tests;
