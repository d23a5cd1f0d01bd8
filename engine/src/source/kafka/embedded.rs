//! A Kafka cluster inside this process, for the demo and for tests: librdkafka's mock cluster, which speaks the real protocol
//! on loopback. It keeps about 5 MB or 100 000 records a partition and forgets the oldest beyond that, knows no transactions'
//! control records, no positions by time, and no admin requests: a real broker is needed for those.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;

use super::native::set_group_delay;
use crate::error::{Error, Result};

/// Time in which the members of a new group gather. A member that comes later waits for the session timeout: this cluster
/// does not see that all others have joined again.
const GROUP_DELAY_MS: i32 = 100;

/// The clusters of this process. A client of one needs other waiting times than with a real broker, and is known by its address
/// alone, since it is made from the same pipeline file.
static RUNNING: Mutex<BTreeMap<String, Weak<Client<DefaultClientContext>>>> = Mutex::new(BTreeMap::new());

/// Defaults for consumers of the embedded cluster: it answers a fetch only when its waiting time is over, even when a record has
/// come, and forms a group anew only after the session timeout.
pub(super) fn consumer_defaults(bootstrap_servers: &str) -> &'static [(&'static str, &'static str)] {
    if is_embedded(bootstrap_servers) {
        &[("fetch.wait.max.ms", "2"), ("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "200")]
    } else {
        &[]
    }
}

/// Whether this is the address of a cluster in this process.
pub(crate) fn is_embedded(bootstrap_servers: &str) -> bool {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).contains_key(bootstrap_servers)
}

/// Creates a topic on a cluster in this process; whether it was created, or was there. A cluster answers no admin request.
pub(crate) fn make_topic(bootstrap_servers: &str, topic: &str, num_partitions: u32) -> Result<bool> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).get(bootstrap_servers).and_then(Weak::upgrade);
    let gone = || Error::internal("the embedded kafka cluster is gone");
    let client = running.ok_or_else(gone)?;
    let number = i32::try_from(num_partitions).unwrap_or(i32::MAX);
    match client.mock_cluster().ok_or_else(gone)?.create_topic(topic, number, 1) {
        Ok(()) => Ok(true),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAlreadyExists) => Ok(false),
        Err(error) => Err(Error::invalid(format!("topic `{topic}` cannot be created")).with_source(error)),
    }
}

/// A cluster of one broker; it ends with this value.
pub struct EmbeddedKafka {
    client: Arc<Client<DefaultClientContext>>,
    bootstrap_servers: String,
}

impl std::fmt::Debug for EmbeddedKafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedKafka").field("bootstrap_servers", &self.bootstrap_servers).finish_non_exhaustive()
    }
}

impl EmbeddedKafka {
    /// Starts a cluster on free ports of loopback. Groups form after a tenth of a second, not after three.
    pub fn start() -> Result<EmbeddedKafka> {
        let failed =
            |error: KafkaError| Error::internal("the embedded kafka cluster does not start").with_source(error);
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set_log_level(RDKafkaLogLevel::Error);
        let native = config.create_native_config().map_err(failed)?;
        let client =
            Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext).map_err(failed)?;
        set_group_delay(&client, GROUP_DELAY_MS);
        let bootstrap_servers = match client.mock_cluster() {
            Some(cluster) => cluster.bootstrap_servers(),
            None => return Err(Error::internal("the embedded kafka cluster does not start")),
        };
        let client = Arc::new(client);
        let running = Arc::downgrade(&client);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(bootstrap_servers.clone(), running);
        Ok(EmbeddedKafka { client, bootstrap_servers })
    }

    /// `host:port`.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Creates a topic. An existing one is an error.
    pub fn create_topic(&self, topic: &str, num_partitions: u32) -> Result<()> {
        let failed =
            |error: KafkaError| Error::invalid(format!("topic `{topic}` cannot be created")).with_source(error);
        let number = i32::try_from(num_partitions).unwrap_or(i32::MAX);
        match self.client.mock_cluster() {
            Some(cluster) => cluster.create_topic(topic, number, 1).map_err(failed),
            None => Err(Error::internal("the embedded kafka cluster is gone")),
        }
    }

    /// Breaks all connections, and refuses new ones while `is_down`.
    pub fn set_down(&self, is_down: bool) -> Result<()> {
        let failed = |error: KafkaError| Error::internal("the embedded kafka cluster does not obey").with_source(error);
        match self.client.mock_cluster() {
            Some(cluster) if is_down => cluster.broker_down(-1).map_err(failed),
            Some(cluster) => cluster.broker_up(-1).map_err(failed),
            None => Err(Error::internal("the embedded kafka cluster is gone")),
        }
    }
}

impl Drop for EmbeddedKafka {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.bootstrap_servers);
    }
}
