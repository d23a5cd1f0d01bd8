//! A look at single records of a topic, before anything runs: in no group, and without a trace.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as Position, TopicPartitionList};

use super::connection::{client_config, config_error, now, set_all};
use super::embedded;
use crate::error::{Error, Result};
use crate::pipeline::settings::KafkaSource;
use crate::types::Offset;

/// One wait for an answer.
const POLL: Duration = Duration::from_millis(100);

/// A record: its partition, its own offset and its payload.
pub(crate) type Peeked = (i32, i64, Option<Vec<u8>>);

/// Of each partition the first record at or after a position (`None`: the oldest record), where there is one. Waits at most
/// `timeout` for the cluster.
pub(crate) fn peek(
    settings: &KafkaSource,
    positions: &[(i32, Option<Offset>)],
    bytes_max: usize,
    timeout: Duration,
) -> Result<Vec<Peeked>> {
    let topic = settings.topics.first().map_or("", String::as_str);
    let servers = &settings.connection.bootstrap_servers;
    let mut config = client_config(&settings.connection, embedded::consumer_defaults(servers));
    let fetch = (bytes_max + (1 << 20)).clamp(1 << 20, 1 << 30).to_string();
    let owned = [
        ("group.id", &*settings.group),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("queued.min.messages", "1"),
        ("fetch.message.max.bytes", &*fetch),
        ("allow.auto.create.topics", "false"),
    ];
    set_all(&mut config, owned);
    let consumer: BaseConsumer = config.create().map_err(config_error)?;
    let failed = |error: KafkaError| Error::internal("the kafka client takes no partitions").with_source(error);
    let mut list = TopicPartitionList::new();
    for (partition, position) in positions {
        let position = position.map_or(Position::Beginning, |position| Position::Offset(position.get()));
        list.add_partition_offset(topic, *partition, position).map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut found, mut waiting, began) = (Vec::new(), positions.len(), now());
    let mut answered = std::collections::BTreeSet::new();
    while waiting > 0 {
        let partition = match consumer.poll(POLL) {
            Some(Ok(message)) if !answered.contains(&message.partition()) => {
                found.push((message.partition(), message.offset(), message.payload().map(<[u8]>::to_vec)));
                message.partition()
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => partition,
            // A position that is gone from the log is for the source to judge, and so is a cluster that refuses us.
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_final) => break,
            Some(Ok(_) | Err(_)) | None if began.elapsed() < timeout => continue,
            Some(Ok(_) | Err(_)) | None => {
                return Err(Error::unavailable(format!(
                    "topic `{topic}`: the kafka cluster does not answer; check `bootstrap_servers`, and try again"
                )));
            }
        };
        waiting -= usize::from(answered.insert(partition));
    }
    Ok(found)
}

fn is_final(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange)
        || super::connection::verdict(code) != super::connection::Verdict::GoesOn
}
