//! Keys by which rows lie in partitions, as the file writes them: how producers choose among partitions, and the topics that rows
//! are sent through to lie by another key.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::forms::Text;

/// A SELECT: SQL, or a file that ends in `.sql`. As a mapping, with what happens to its rows.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::pipeline) enum ViewFile {
    /// SQL, or a file that ends in `.sql`.
    Sql(String),
    /// A SELECT whose rows go through a topic of the engine's own.
    Repartitioned(RepartitionedViewFile),
}

/// A SELECT whose rows go through a topic of the engine's own.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct RepartitionedViewFile {
    /// The SELECT: SQL, or a file that ends in `.sql`.
    pub(in crate::pipeline) sql: String,
    /// Sends the rows through a topic that is keyed by columns of theirs; later views and sinks read them from there.
    pub(in crate::pipeline) repartition: Option<RepartitionFile>,
}

/// Rows go through a topic of the engine's own, keyed by columns that the topic before is not keyed by: so windows can be
/// over those columns. No row is lost or doubled there, whatever `delivery` says. Needs `checkpoint` and `event_time`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct RepartitionFile {
    /// The columns that the rows are keyed by.
    pub(in crate::pipeline) by: Vec<String>,
    /// The topic, of this pipeline and its checkpoint alone. It is made when it is not there.
    pub(in crate::pipeline) topic: String,
    /// Partitions of a topic that is made. As many as the topic before has when it is null.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::pipeline) partitions: Option<u32>,
    /// How long a topic that is made keeps its records.
    #[serde(default = "week")]
    pub(in crate::pipeline) retention: Text<Duration>,
}

/// How producers choose a key's partition.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::pipeline) enum PartitionerFile {
    /// Not known: records are not looked at.
    #[default]
    None,
    /// As Kafka's Java clients do.
    Murmur2,
    /// As librdkafka and what is built on it do by default.
    Crc32,
}

fn week() -> Text<Duration> {
    super::millis(7 * 86_400_000)
}
