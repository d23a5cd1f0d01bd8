//! What a topic has to promise so that windows over it are what they say: that it keeps every record until it is old, and that one
//! wrong clock of a producer cannot make everybody's history old. Looked at once per topic, when a partition of it is taken over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::settings::{KafkaConnection, Source, SourceConnector};
use crate::sink::kafka::KafkaAdmin;
use crate::source::kafka::embedded;

/// The checks of a source's topics.
#[derive(Debug)]
pub(crate) struct LogCheck {
    source: String,
    connection: KafkaConnection,
    max_future_skew: Duration,
    trusts_timestamps: bool,
    seen: BTreeSet<Arc<str>>,
}

/// What a topic says of itself; `None` where it does not.
#[derive(Debug, Clone, Copy, Default)]
struct Promises<'a> {
    /// `cleanup.policy`.
    cleanup: Option<&'a str>,
    /// `message.timestamp.type`.
    timestamp_type: Option<&'a str>,
    /// How far ahead of its clock the broker takes timestamps, milliseconds.
    ahead_ms: Option<i64>,
}

impl LogCheck {
    /// The checks of a source that windows read. The engine makes internal topics as they have to be.
    pub(crate) fn new(source: &Source) -> Option<LogCheck> {
        let SourceConnector::Kafka(kafka) = &source.connector else { return None };
        // An embedded cluster has no settings that could be asked for.
        let is_embedded = embedded::is_embedded(&kafka.connection.bootstrap_servers);
        (source.internal.is_none() && !is_embedded).then(|| LogCheck {
            source: source.name.clone(),
            connection: kafka.connection.clone(),
            max_future_skew: source.max_future_skew,
            trusts_timestamps: kafka.trusts_timestamps,
            seen: BTreeSet::new(),
        })
    }

    /// Refuses a topic that windows cannot rest on. What the cluster does not tell is not held against it.
    pub(crate) fn check(&mut self, topic: &Arc<str>) -> Result<()> {
        if !self.seen.insert(Arc::clone(topic)) {
            return Ok(());
        }
        let admin = KafkaAdmin::open(&self.connection)?;
        let read = |name: &str| match admin.topic_setting(topic, name) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Internal => Err(error),
            Err(error) => {
                tracing::debug!(source = self.source, topic = &**topic, %error, "a setting of the topic is not known");
                Ok(None)
            }
        };
        let cleanup = read("cleanup.policy")?;
        // Who is not told one setting is told none, and each question takes its time.
        let timestamp_type = if cleanup.is_some() { read("message.timestamp.type")? } else { None };
        // The second is the name that brokers before 3.6 have for both directions.
        let mut ahead = None;
        for name in ["message.timestamp.after.max.ms", "message.timestamp.difference.max.ms"] {
            if timestamp_type.is_some() && ahead.is_none() {
                ahead = read(name)?;
            }
        }
        let promises = Promises {
            cleanup: cleanup.as_deref(),
            timestamp_type: timestamp_type.as_deref(),
            ahead_ms: ahead.and_then(|ahead| ahead.parse().ok()),
        };
        self.judge(topic, promises)
    }

    fn judge(&self, topic: &str, promises: Promises<'_>) -> Result<()> {
        let refuse =
            |problem: String| Err(Error::invalid(format!("source {}: topic `{topic}` {problem}", self.source)));
        if promises.cleanup.is_some_and(|policy| policy.contains("compact")) {
            return refuse(
                "is compacted, and windows that are rebuilt after a restart need the records that compaction takes away; read a \
                 topic with cleanup.policy=delete"
                    .to_owned(),
            );
        }
        let is_broker_time = promises.timestamp_type == Some("LogAppendTime");
        let skew_ms = i64::try_from(self.max_future_skew.as_millis()).unwrap_or(i64::MAX);
        match promises.ahead_ms {
            Some(ahead) if ahead > skew_ms && !is_broker_time && !self.trusts_timestamps => refuse(format!(
                "takes the timestamps of producers up to {ahead} ms ahead, more than `max_future_skew`, {skew_ms} ms: the guard \
                 compares event times with them, so one wrong clock could make everybody's history old; set \
                 message.timestamp.after.max.ms of the topic to {skew_ms} at most, or message.timestamp.type to LogAppendTime, or say \
                 `trust_timestamps: true` at the source"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(trusts_timestamps: bool) -> LogCheck {
        LogCheck {
            source: "s".to_owned(),
            connection: KafkaConnection {
                bootstrap_servers: "nowhere:9092".to_owned(),
                security_protocol: None,
                sasl_mechanism: None,
                sasl_username: None,
                sasl_password: None,
                ssl_ca_location: None,
                ssl_certificate_location: None,
                ssl_key_location: None,
                options: std::collections::BTreeMap::new(),
            },
            max_future_skew: Duration::from_secs(3600),
            trusts_timestamps,
            seen: BTreeSet::new(),
        }
    }

    #[test]
    fn a_topic_that_windows_cannot_rest_on_is_refused_with_the_way_out() {
        let ahead = |ahead_ms| Promises { cleanup: Some("delete"), timestamp_type: Some("CreateTime"), ahead_ms };
        let told = |trusts, promises| check(trusts).judge("t", promises).err().map(|error| error.to_string());
        assert_eq!(told(false, ahead(Some(3_600_000))), None);
        assert!(told(false, ahead(Some(3_600_001))).unwrap().contains("trust_timestamps"));
        assert!(told(false, ahead(Some(i64::MAX))).unwrap().contains("message.timestamp.after.max.ms"));
        assert_eq!(told(true, ahead(Some(i64::MAX))), None);
        let by_broker = Promises { timestamp_type: Some("LogAppendTime"), ..ahead(Some(i64::MAX)) };
        assert_eq!(told(false, by_broker), None);
        assert_eq!(told(false, Promises::default()), None, "what is not known is not held against a topic");
        for cleanup in ["compact", "compact,delete"] {
            let compacted = Promises { cleanup: Some(cleanup), ..ahead(Some(0)) };
            assert!(told(true, compacted).unwrap().contains("cleanup.policy=delete"));
        }
    }
}
