//! The pipeline file as written: one type per mapping of the file, with a description and a default for every key. The JSON
//! Schema for editors, the check of the file and these types are one thing. Nothing here is validated beyond its form.

mod model;
mod monitoring;
mod repartition;
mod training;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::model::{ModelFile, Reload};
pub(super) use self::monitoring::{DriftFile, LabelsFile};
pub(super) use self::repartition::{PartitionerFile, RepartitionFile, ViewFile};
pub(super) use self::training::{GateFile, ImbalanceFile, ThresholdFile, TrainingFile};
use super::defaults::{
    hour, mebibyte, millis, minute, ninety_days, parquet_bytes, parquet_rows, rejection_window, retain, second,
    ten_seconds, two_hours,
};
use super::forms::{Named, OptionText, Secret, Text};
use super::text::{ByteSize, ColumnSpec, Listen, TimestampMillis};

/// A Tidemill pipeline: sources, models, views and sinks. `${VAR}` and `${VAR:-default}` inside a value come from the
/// environment. Relative paths start at the folder of this file.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tidemill pipeline")]
pub(super) struct PipelineFile {
    /// Name of the pipeline: letters, digits, `-` and `_`. It names the consumer group, the checkpoint and the metrics.
    pub(super) pipeline: String,
    /// Where records come from, by name; the name is the table's name in SQL.
    #[schemars(extend("minProperties" = 1))]
    pub(super) sources: Named<SourceFile>,
    /// Where `models:/...` is looked up: a folder, `s3://`, or the `http://` or `https://` of an MLflow server. The environment's
    /// MLFLOW_TRACKING_URI when it is null.
    pub(super) registry: Option<String>,
    /// Models that `score('name', ...)` may use, by name.
    #[serde(default)]
    pub(super) models: Named<ModelFile>,
    /// Named SELECTs, in order: each may use the sources and the views before it. A value that ends in `.sql` is a file;
    /// anything else is the SQL itself.
    #[serde(default)]
    pub(super) views: Named<ViewFile>,
    /// Where rows go, by name.
    #[schemars(extend("minProperties" = 1))]
    pub(super) sinks: Named<SinkFile>,
    /// Where rejected records go, unchanged, with the reason. Without it a rejected record stops the pipeline.
    pub(super) dead_letter: Option<DeadLetterFile>,
    /// Where progress is kept. Without it every run starts where `start` of the sources says, and one worker reads all
    /// partitions, in no group.
    pub(super) checkpoint: Option<CheckpointFile>,
    /// What is promised of each row that goes out.
    #[serde(default)]
    pub(super) delivery: DeliveryFile,
    /// Workers, epochs and limits.
    #[serde(default)]
    pub(super) run: RunFile,
    /// Where metrics, health and status are served.
    #[serde(default)]
    pub(super) http: HttpFile,
    /// Drift of what the models serve.
    #[serde(default)]
    pub(super) drift: DriftFile,
    /// Labels that come after the scores. Without it nothing is known of how good the served scores are.
    pub(super) labels: Option<LabelsFile>,
    /// How `tidemill train` makes a model. Nothing else reads it.
    pub(super) training: Option<TrainingFile>,
}

/// A source and the table that its records become.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct SourceFile {
    /// Where the records come from.
    #[serde(flatten)]
    pub(super) connector: SourceConnectorFile,
    /// Declared columns, in order: `name: type` or `name: type not null`. Types: string, int, bigint, float, double, boolean,
    /// decimal(p, s), timestamp (RFC 3339; UTC when it has no offset), epoch_s, epoch_ms, epoch_us (numbers).
    #[schemars(extend("minProperties" = 1))]
    pub(super) columns: Named<Text<ColumnSpec>>,
    /// Metadata of the record as further columns: `name: topic`, partition, offset, timestamp, key or headers.
    #[serde(default)]
    pub(super) metadata: Named<MetadataFile>,
    /// SQL conditions over the columns. A row for which one of them is not true is rejected.
    #[serde(default)]
    pub(super) check: Vec<String>,
    /// The column that holds the event time: a timestamp or epoch column that is not null.
    pub(super) event_time: Option<String>,
    /// The columns that the message key is made of.
    #[serde(default)]
    pub(super) partitioned_by: Vec<String>,
    /// Records whose event time is further ahead of their broker timestamp are rejected.
    #[serde(default = "hour")]
    pub(super) max_future_skew: Text<Duration>,
    /// How far below the newest event time of its partition a row may be and still see all of its windows' frames. Above
    /// `max_future_skew`.
    #[serde(default = "two_hours")]
    pub(super) max_lateness: Text<Duration>,
    /// How far back frames of ROWS and `lag` look, in event time.
    #[serde(default = "ninety_days")]
    pub(super) max_lookback: Text<Duration>,
    /// Larger records are rejected, and kept only as metadata and a hash.
    #[serde(default = "mebibyte")]
    pub(super) max_record_bytes: Text<ByteSize>,
    /// Share of rejected records, above 0 and at most 1, at which the pipeline stops. Never, when it is null.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub(super) max_rejection_rate: Option<f64>,
    /// Number of latest records over which the share is measured.
    #[serde(default = "rejection_window")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) rejection_window: u64,
}

/// Where records come from.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "connector", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a handful of them in a pipeline, read once")]
pub(super) enum SourceConnectorFile {
    /// Topics of a Kafka cluster.
    Kafka(KafkaSourceFile),
    /// Parquet or JSON lines files.
    Files(FilesSourceFile),
    /// The simulator of card transactions.
    Generator(GeneratorSourceFile),
}

/// Topics of a Kafka cluster.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct KafkaSourceFile {
    /// Brokers: `host:port,host:port`.
    pub(super) bootstrap_servers: String,
    /// The topic. Either this or `topics`.
    pub(super) topic: Option<String>,
    /// Several topics with the same columns. Either this or `topic`.
    pub(super) topics: Option<Vec<String>>,
    /// Format of the records' values.
    #[serde(default)]
    pub(super) format: RecordFormatFile,
    /// Consumer group. The pipeline's name when it is null.
    pub(super) group: Option<String>,
    /// Where partitions without a stored position start.
    #[serde(default)]
    pub(super) start: StartFile,
    /// When reading ends.
    #[serde(default)]
    pub(super) until: UntilFile,
    /// Records per second and worker, at most. No limit when it is null.
    #[schemars(range(min = 1))]
    pub(super) rate_limit: Option<u64>,
    /// What to do when a position is no longer in the log.
    #[serde(default)]
    pub(super) on_data_loss: DataLossFile,
    /// Time between looks for new topics and partitions.
    #[serde(default = "ten_seconds")]
    pub(super) metadata_refresh: Text<Duration>,
    /// How the topic's producers choose a key's partition. With it records in other partitions are counted and reported: their
    /// keys' histories are in pieces. Needs `partitioned_by`.
    #[serde(default)]
    pub(super) partitioner: PartitionerFile,
    /// With windows: the topic takes producers' timestamps further ahead of the broker's clock than `max_future_skew`, and they
    /// are right all the same.
    #[serde(default)]
    pub(super) trust_timestamps: bool,
    /// Sends the rows through a topic that is keyed by other columns; views and sinks read them from there.
    pub(super) repartition: Option<RepartitionFile>,
    #[serde(flatten)]
    pub(super) security: SecurityFile,
    /// Further options of librdkafka, by librdkafka's names. Those that the engine must own are refused.
    #[serde(default)]
    pub(super) options: Named<OptionText>,
}

/// How a Kafka cluster is reached.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct SecurityFile {
    /// Protocol to the brokers. `plaintext` when it is null.
    pub(super) security_protocol: Option<SecurityProtocolFile>,
    /// How to log in, with a `sasl_` protocol.
    pub(super) sasl_mechanism: Option<SaslMechanismFile>,
    /// User, with a `sasl_` protocol.
    pub(super) sasl_username: Option<String>,
    /// Password, with a `sasl_` protocol: from the environment only, `${VAR}`.
    pub(super) sasl_password: Option<Secret>,
    /// File of the authorities that broker certificates are checked against. Those of the system when it is null.
    pub(super) ssl_ca_location: Option<String>,
    /// File of our certificate.
    pub(super) ssl_certificate_location: Option<String>,
    /// File of our key.
    pub(super) ssl_key_location: Option<String>,
}

/// Parquet or JSON lines files, read once.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct FilesSourceFile {
    /// A file, a folder or a prefix: a local path, `file://` or `s3://`.
    pub(super) path: String,
    /// Format of the files.
    pub(super) format: FileFormatFile,
}

/// The simulator of card transactions.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct GeneratorSourceFile {
    /// Seed of the simulated world.
    #[serde(default)]
    pub(super) seed: u64,
    /// Events per second. As fast as they are read when it is null.
    #[schemars(range(min = 1))]
    pub(super) rate: Option<u64>,
    /// Number of events. Without end when it is null.
    #[schemars(range(min = 1))]
    pub(super) count: Option<u64>,
    /// Number of users. The simulator's own default when it is null.
    #[schemars(range(min = 1))]
    pub(super) users: Option<u32>,
}

/// Where rows go.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct SinkFile {
    /// What kind of sink it is.
    #[serde(flatten)]
    pub(super) connector: SinkConnectorFile,
    /// The SELECT whose rows it gets: SQL, or a file that ends in `.sql`.
    pub(super) select: String,
}

/// What kind of sink it is.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "connector", rename_all = "snake_case")]
pub(super) enum SinkConnectorFile {
    /// A Kafka topic; values are JSON.
    Kafka(KafkaSinkFile),
    /// Parquet files in a folder.
    Parquet(ParquetRowsFile),
    /// Standard output, as JSON lines.
    Console(ConsoleSinkFile),
}

/// A Kafka topic; values are JSON.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct KafkaSinkFile {
    /// The topic.
    pub(super) topic: String,
    /// The column whose value becomes the message key. No key when it is null.
    pub(super) key: Option<String>,
    #[serde(flatten)]
    pub(super) connection: OutputConnectionFile,
}

/// Parquet files in a folder. A file ends at the first limit that is reached.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct ParquetRowsFile {
    #[serde(flatten)]
    pub(super) files: ParquetSinkFile,
    /// Whether the files have the columns `_topic`, `_partition`, `_offset`, `_ordinal` and `_timestamp`: where each row comes
    /// from. `tidemill replay` reads such an archive in the order in which its rows were served.
    #[serde(default)]
    pub(super) positions: bool,
}

/// Parquet files in a folder. A file ends at the first limit that is reached.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct ParquetSinkFile {
    /// Folder: a local path, `file://` or `s3://`.
    pub(super) path: String,
    /// Rows per file, at most.
    #[serde(default = "parquet_rows")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub(super) max_rows: u64,
    /// Bytes per file, about.
    #[serde(default = "parquet_bytes")]
    pub(super) max_bytes: Text<ByteSize>,
    /// Age of a file that is still open, at most.
    #[serde(default = "minute")]
    pub(super) max_age: Text<Duration>,
}

/// Standard output, as JSON lines.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct ConsoleSinkFile {}

/// Where rejected records go.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "connector", rename_all = "snake_case")]
pub(super) enum DeadLetterFile {
    /// A Kafka topic: key, value and headers as they were, and headers that say where from and why.
    Kafka(KafkaDeadLetterFile),
    /// Parquet files in a folder.
    Parquet(ParquetSinkFile),
}

/// A Kafka topic for rejected records.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct KafkaDeadLetterFile {
    /// The topic.
    pub(super) topic: String,
    #[serde(flatten)]
    pub(super) connection: OutputConnectionFile,
}

/// The cluster of an output.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct OutputConnectionFile {
    /// Brokers: `host:port,host:port`. When it is null, brokers and security are those of the pipeline's Kafka source.
    pub(super) bootstrap_servers: Option<String>,
    #[serde(flatten)]
    pub(super) security: SecurityFile,
    /// Further options of librdkafka, by librdkafka's names. Those that the engine must own are refused.
    #[serde(default)]
    pub(super) options: Named<OptionText>,
}

/// Where progress is kept.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointFile {
    /// Folder, of this pipeline alone: a local path, `file://` or `s3://`.
    pub(super) path: String,
    /// Time between checkpoints.
    #[serde(default = "second")]
    pub(super) interval: Text<Duration>,
    /// Time between snapshots of the windows' state. After a crash the records since the last one are read again.
    #[serde(default = "minute")]
    pub(super) snapshot_interval: Text<Duration>,
    /// Number of checkpoints that are kept per partition.
    #[serde(default = "retain")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) retain: u64,
}

/// Workers, epochs and limits.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunFile {
    /// Workers in this process; each is a thread with its own consumer, producer and partitions.
    #[schemars(range(min = 1, max = 256))]
    pub(super) workers: u64,
    /// Rows of one epoch, at most.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) max_batch_rows: u64,
    /// Time that an epoch waits for more rows once the first is there. 0ms: it starts as soon as there is data.
    pub(super) max_wait: Text<Duration>,
    /// Time that a graceful stop may take.
    pub(super) stop_timeout: Text<Duration>,
    /// Bytes of state that the windows of all workers may hold; beyond, the run stops. null: 60 percent of the memory.
    pub(super) max_state_bytes: Option<Text<ByteSize>>,
}

impl Default for RunFile {
    fn default() -> RunFile {
        RunFile {
            workers: 1,
            max_batch_rows: 8192,
            max_wait: millis(0),
            stop_timeout: millis(30_000),
            max_state_bytes: None,
        }
    }
}

/// Where metrics, health and status are served.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HttpFile {
    /// `address:port`, or `off`. Loopback by default: it has no login.
    pub(super) listen: Text<Listen>,
}

impl Default for HttpFile {
    fn default() -> HttpFile {
        HttpFile { listen: Text(Listen(Some(SocketAddr::from(([127, 0, 0, 1], 8080))))) }
    }
}

/// Format of the records' values.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecordFormatFile {
    /// One JSON object per record.
    #[default]
    Json,
}

/// Format of stored rows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileFormatFile {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    JsonLines,
}

/// What a metadata column holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum MetadataFile {
    /// The topic, as text.
    Topic,
    /// The partition's number.
    Partition,
    /// The record's offset.
    Offset,
    /// The broker's timestamp.
    Timestamp,
    /// The message key, as bytes.
    Key,
    /// The headers, as a list of name and value.
    Headers,
}

/// Where partitions without a stored position start.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartFile {
    /// At the oldest record.
    #[default]
    Earliest,
    /// After the newest record; partitions found while running start at their beginning.
    Latest,
    /// At the first record at or after this time (RFC 3339).
    Timestamp(Text<TimestampMillis>),
    /// At explicit offsets, `"topic/partition": offset`; partitions that are not named start at the oldest record.
    Offsets(BTreeMap<String, u64>),
}

/// When reading ends.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum UntilFile {
    /// Never.
    #[default]
    Forever,
    /// At what is there when the run starts.
    Now,
}

/// What to do when a position is no longer in the log.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum DataLossFile {
    /// Stop, and say what is missing.
    #[default]
    Fail,
    /// Go on at the oldest record, and count what is gone.
    Continue,
}

/// Protocol to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SecurityProtocolFile {
    /// Neither encrypted nor logged in.
    Plaintext,
    /// Encrypted.
    Ssl,
    /// Logged in, not encrypted.
    SaslPlaintext,
    /// Logged in and encrypted.
    SaslSsl,
}

/// How to log in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(super) enum SaslMechanismFile {
    /// User and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Challenge and response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// What is promised of each row that goes out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum DeliveryFile {
    /// Nothing is lost; after a crash some rows may come again.
    #[default]
    AtLeastOnce,
    /// Nothing is lost or doubled.
    ExactlyOnce,
}
