//! What is asked of a cluster besides records: by sinks what a topic takes, and by the demo, `generate` and the tests topics,
//! their partitions, and the deletion of old records. The engine itself changes nothing but that it makes internal topics. Blocking; may be called from anywhere.

use std::future::Future;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset as Position, TopicPartitionList};

use crate::error::{Error, Result};
use crate::pipeline::settings::KafkaConnection;
use crate::source::kafka::{client_config, config_error};
use crate::types::Offset;

const ANSWER: Duration = Duration::from_secs(15);

/// A client for administration.
pub struct KafkaAdmin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl std::fmt::Debug for KafkaAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaAdmin").finish_non_exhaustive()
    }
}

impl KafkaAdmin {
    /// Makes the client. Does not wait for a broker.
    pub fn open(connection: &KafkaConnection) -> Result<KafkaAdmin> {
        let client = client_config(connection, &[]).create().map_err(config_error)?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        Ok(KafkaAdmin { client, options })
    }

    /// Creates a topic with one replica and the topic's `settings`; whether it was created, or was there.
    pub fn create_topic(&self, topic: &str, num_partitions: u32, settings: &[(&str, &str)]) -> Result<bool> {
        self.create(topic, num_partitions, 1, settings)
    }

    /// [`KafkaAdmin::create_topic`] with as many replicas as the cluster gives a topic by default.
    pub fn create_replicated_topic(&self, topic: &str, num_partitions: u32, settings: &[(&str, &str)]) -> Result<bool> {
        self.create(topic, num_partitions, -1, settings)
    }

    fn create(&self, topic: &str, num_partitions: u32, replicas: i32, settings: &[(&str, &str)]) -> Result<bool> {
        let number = i32::try_from(num_partitions).unwrap_or(i32::MAX);
        let mut new = NewTopic::new(topic, number, TopicReplication::Fixed(replicas));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let results = wait(self.client.create_topics([&new], &self.options))?;
        match first(results.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code))) {
            Ok(()) => Ok(true),
            Err(Code::TopicAlreadyExists) => Ok(false),
            Err(code) => Err(refused(&format!("topic `{topic}` cannot be created"), code)),
        }
    }

    /// Gives a topic more partitions.
    pub fn set_num_partitions(&self, topic: &str, num_partitions: u32) -> Result<()> {
        let new = NewPartitions::new(topic, num_partitions as usize);
        let results = wait(self.client.create_partitions([&new], &self.options))?;
        first(results.into_iter().map(|result| result.map(drop).map_err(|(_, code)| code)))
            .map_err(|code| refused(&format!("topic `{topic}` cannot have {num_partitions} partitions"), code))
    }

    /// Deletes the records of a partition before a position.
    pub fn delete_records(&self, topic: &str, partition: i32, before: Offset) -> Result<()> {
        let what = format!("records of {topic}/{partition} cannot be deleted");
        let failed = |error: KafkaError| Error::internal(&*what).with_source(error);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Position::Offset(before.get())).map_err(failed)?;
        let results = wait(self.client.delete_records(&list, &self.options))?;
        results
            .elements()
            .iter()
            .try_for_each(|element| element.error())
            .map_err(|error| refused(&what, error.rdkafka_error_code().unwrap_or(Code::Unknown)))
    }

    /// Bytes that a topic takes as one batch: its `max.message.bytes`.
    pub fn message_bytes_max(&self, topic: &str) -> Result<usize> {
        const NAME: &str = "max.message.bytes";
        let value = self.topic_setting(topic, NAME)?.parse();
        value.map_err(|_| {
            Error::unavailable(format!("`{NAME}` of topic `{topic}` cannot be read: the kafka cluster says no number"))
        })
    }

    /// What the cluster says of a topic's setting.
    pub fn topic_setting(&self, topic: &str, name: &str) -> Result<String> {
        let topics = [ResourceSpecifier::Topic(topic)];
        let results = wait(self.client.describe_configs(&topics, &self.options))?;
        let what = format!("`{name}` of topic `{topic}` cannot be read");
        let described =
            results.into_iter().next().unwrap_or(Err(Code::Unknown)).map_err(|code| refused(&what, code))?;
        let value = described.get(name).and_then(|entry| entry.value.clone());
        value.ok_or_else(|| Error::unavailable(format!("{what}: the kafka cluster does not say it")))
    }

    /// Number of partitions of a topic; `None` when there is no such topic.
    pub fn num_partitions(&self, topic: &str) -> Result<Option<u32>> {
        let metadata = self.client.inner().fetch_metadata(Some(topic), ANSWER).map_err(unreachable)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let is_there = |error: Option<_>| error.map(Code::from).is_none_or(|code| code == Code::NoError);
        let number = found.filter(|found| is_there(found.error())).map_or(0, |found| found.partitions().len());
        Ok(u32::try_from(number).ok().filter(|number| *number > 0))
    }
}

fn first(mut results: impl Iterator<Item = Result<(), Code>>) -> Result<(), Code> {
    results.next().unwrap_or(Err(Code::Unknown))
}

fn refused(what: &str, code: Code) -> Error {
    match code {
        Code::RequestTimedOut | Code::OperationTimedOut | Code::BrokerTransportFailure => {
            Error::unavailable(format!("{what} ({code}); try again"))
        }
        code => Error::invalid(format!("{what} ({code})")),
    }
}

fn unreachable(error: KafkaError) -> Error {
    Error::unavailable("the kafka cluster does not answer; check `bootstrap_servers`, and try again").with_source(error)
}

/// Runs an admin request to its end. On a thread of its own, since the caller may be inside a runtime.
fn wait<T: Send>(request: impl Future<Output = KafkaResult<T>> + Send) -> Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.map(|runtime| runtime.block_on(request))
    };
    let answer = std::thread::scope(|scope| scope.spawn(run).join());
    match answer {
        Ok(Ok(answer)) => answer.map_err(unreachable),
        Ok(Err(error)) => Err(Error::unavailable("no runtime for an admin request").with_source(error)),
        Err(_) => Err(Error::internal("an admin request panicked")),
    }
}
