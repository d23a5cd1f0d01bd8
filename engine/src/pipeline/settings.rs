//! A validated pipeline: settings that cannot be wrong in themselves. Data only, never a client. What the file said and
//! where it stood is `file.rs`'s business.

mod training;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use arrow::datatypes::SchemaRef;

pub use self::training::{Boundary, Gate, Imbalance, Training, TreeParameters};
pub use super::monitoring::{Drift, LabelSide, Labels};
use crate::types::Offset;

/// One validated description: sources, models, views, sinks, checkpoint, delivery.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Name: letters, digits, `-` and `_`. Names the consumer group, the checkpoint and the metrics.
    pub name: String,
    /// The folder of the pipeline file; relative paths in it start here.
    pub folder: PathBuf,
    /// Sources, in the order of the file; at least one.
    pub sources: Vec<Source>,
    /// Where `models:/...` is looked up, when the file says so: a folder, `s3://`, or a server.
    pub registry: Option<String>,
    /// Models that `score` may name.
    pub models: Vec<Model>,
    /// Views in the order of the file; each may use sources and those before it.
    pub views: Vec<View>,
    /// Sinks; at least one.
    pub sinks: Vec<Sink>,
    /// Where rejected records go. Without one, a rejected record stops the pipeline.
    pub dead_letter: Option<DeadLetter>,
    /// Where progress is kept. Without it a run always starts where the sources' `start` says.
    pub checkpoint: Option<Checkpoint>,
    /// What the user asked for.
    pub delivery: Delivery,
    /// Workers, epochs and limits.
    pub run: RunSettings,
    /// Where metrics, health and status are served; `None` when switched off.
    pub http: Option<SocketAddr>,
    /// What of the models' inputs and scores is an alarm.
    pub drift: Drift,
    /// Where labels of served rows come from.
    pub labels: Option<Labels>,
    /// How `tidemill train` makes a model.
    pub training: Option<Training>,
}

/// A source and the table that its records become.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name; the table's name in SQL.
    pub name: String,
    /// Where records come from.
    pub connector: SourceConnector,
    /// Declared columns, in order; at least one.
    pub columns: Vec<Column>,
    /// Metadata columns, after the declared ones.
    pub metadata: Vec<MetadataColumn>,
    /// SQL conditions over the declared columns; a row for which one is not true is rejected.
    pub checks: Vec<SqlText>,
    /// The column of type timestamp that holds the event time.
    pub event_time: Option<String>,
    /// Columns that the source's message key is made of (declared, never guessed).
    pub partitioned_by: Vec<String>,
    /// Event times further ahead of the broker's timestamp are rejected.
    pub max_future_skew: Duration,
    /// How far below the newest event time of its partition a row may be and still see all of its windows' frames.
    pub max_lateness: Duration,
    /// How far back `ROWS` frames and `lag` look, in event time.
    pub max_lookback: Duration,
    /// Payloads above this are rejected, and kept only as metadata and a hash.
    pub max_record_bytes: usize,
    /// Share of rejected records, between 0 and 1, at which the pipeline stops; measured over the last
    /// `rejection_window` records. `None`: never.
    pub max_rejection_rate: Option<f64>,
    /// Number of records over which the rate is measured.
    pub rejection_window: usize,
    /// The rows go through a topic that is keyed by other columns, and are this source's from there on.
    pub repartition: Option<Repartition>,
    /// It reads an internal topic: it stands in the place of a repartitioned source or view. No file says so; a run does.
    pub internal: Option<InternalTopic>,
}

/// Rows go through a topic of the engine's own, keyed by columns that the topic before is not keyed by.
#[derive(Debug, Clone)]
pub struct Repartition {
    /// The columns; at least one.
    pub by: Vec<String>,
    /// The topic. It is made when it is not there.
    pub topic: String,
    /// Its cluster.
    pub connection: KafkaConnection,
    /// Partitions of a topic that is made; `None`: as many as the topic before has.
    pub num_partitions: Option<u32>,
    /// How long a topic that is made keeps its records.
    pub retention: Duration,
    /// Where `by` stands.
    pub place: Place,
}

/// A topic between two stages of a pipeline.
#[derive(Debug, Clone)]
pub struct InternalTopic {
    /// The topic.
    pub topic: String,
    /// Its cluster.
    pub connection: KafkaConnection,
    /// The columns of its rows, as they are.
    pub columns: SchemaRef,
    /// The columns of its message key.
    pub by: Vec<String>,
    /// The column that holds the event time.
    pub event_time: String,
    /// Whether a model's value is computed before the rows go in: then no window may stand behind it.
    pub has_scores: bool,
    /// Sources whose rows go in, by their names in the run.
    pub upstream: Vec<String>,
    /// Topics of which it takes the number of partitions.
    pub outer_topics: Vec<(KafkaConnection, String)>,
    /// See [`Repartition::num_partitions`].
    pub num_partitions: Option<u32>,
    /// See [`Repartition::retention`].
    pub retention: Duration,
    /// Bytes of a record that must get through.
    pub max_record_bytes: usize,
}

/// Where records come from.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handful of them in a pipeline, built once")]
pub enum SourceConnector {
    /// Topics of a Kafka cluster.
    Kafka(KafkaSource),
    /// Parquet or JSON lines files.
    Files(FilesSource),
    /// The simulator of card transactions.
    Generator(GeneratorSource),
}

/// Connection to a Kafka cluster.
#[derive(Clone)]
pub struct KafkaConnection {
    /// `host:port,...`.
    pub bootstrap_servers: String,
    /// `security.protocol`.
    pub security_protocol: Option<String>,
    /// `sasl.mechanism`.
    pub sasl_mechanism: Option<String>,
    /// `sasl.username`.
    pub sasl_username: Option<String>,
    /// `sasl.password`; never shown.
    pub sasl_password: Option<String>,
    /// `ssl.ca.location`.
    pub ssl_ca_location: Option<PathBuf>,
    /// `ssl.certificate.location`.
    pub ssl_certificate_location: Option<PathBuf>,
    /// `ssl.key.location`.
    pub ssl_key_location: Option<PathBuf>,
    /// Any other option of librdkafka; those that the engine must own were refused.
    pub options: BTreeMap<String, String>,
}

impl std::fmt::Debug for KafkaConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConnection")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("security_protocol", &self.security_protocol)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .finish_non_exhaustive()
    }
}

/// A Kafka source.
#[derive(Debug, Clone)]
pub struct KafkaSource {
    /// The cluster.
    pub connection: KafkaConnection,
    /// Topics; at least one.
    pub topics: Vec<String>,
    /// Consumer group; the pipeline's name by default.
    pub group: String,
    /// Where partitions without a stored position start.
    pub start: StartPosition,
    /// When reading ends.
    pub until: Until,
    /// Records per second over the whole worker; `None`: no limit.
    pub rate_limit: Option<u64>,
    /// What to do when a position is no longer in the log.
    pub on_data_loss: DataLossPolicy,
    /// Time between looks for new topics and partitions.
    pub metadata_refresh: Duration,
    /// How producers choose a key's partition; `None`: that is not known, and not looked at.
    pub partitioner: Option<Partitioner>,
    /// Whether producers' timestamps are trusted where the topic does not bound them.
    pub trusts_timestamps: bool,
}

/// How producers choose the partition of a message key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Partitioner {
    /// Murmur2, as Kafka's Java client, those that follow it (kafka-python, franz-go, sarama by choice), and this engine.
    Murmur2,
    /// CRC32, the default of librdkafka and of what is built on it (confluent-kafka for Python, Go and .NET).
    Crc32,
}

/// Where to start reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPosition {
    /// The oldest record.
    Earliest,
    /// After the newest record. Partitions found while running start at their beginning all the same.
    Latest,
    /// The first record at or after this time, milliseconds since the epoch.
    Timestamp(i64),
    /// Explicit offsets by topic and partition; partitions that are not named start at the oldest record.
    Offsets(BTreeMap<(String, i32), Offset>),
}

/// When reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Forever,
    /// At what is there when the run starts.
    Now,
}

/// What to do when a position is no longer in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLossPolicy {
    /// Stop with an error that names partition, position and what is there.
    Fail,
    /// Go on at the oldest record, and count what is gone.
    Continue,
}

/// Files as a source.
#[derive(Debug, Clone)]
pub struct FilesSource {
    /// A file, a folder or a prefix: a local path, `file://` or `s3://`.
    pub path: String,
    /// Format of the files.
    pub format: FileFormat,
}

/// Format of stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    JsonLines,
}

/// The simulator as a source.
#[derive(Debug, Clone, Default)]
pub struct GeneratorSource {
    /// Seed of the world.
    pub seed: u64,
    /// Events per second; `None`: as fast as they are read.
    pub rate: Option<u64>,
    /// Number of events; `None`: without end.
    pub count: Option<u64>,
    /// Number of users; `None`: the simulator's default.
    pub users: Option<u32>,
}

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name; also the JSON key.
    pub name: String,
    /// Type.
    pub column_type: ColumnType,
    /// Whether null and absence are allowed.
    pub is_nullable: bool,
}

/// Types of declared columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `string`.
    String,
    /// `int`.
    Int32,
    /// `bigint`.
    Int64,
    /// `float`.
    Float32,
    /// `double`.
    Float64,
    /// `boolean`.
    Boolean,
    /// `decimal(precision, scale)`.
    Decimal(u8, i8),
    /// `timestamp`: a string as in RFC 3339; microseconds in UTC in memory. A time without an offset is UTC.
    Timestamp,
    /// `epoch_s`, `epoch_ms`, `epoch_us`: a number since 1970-01-01 UTC; a timestamp in memory.
    Epoch(EpochUnit),
}

/// Units of numeric timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// Metadata of a record as a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataColumn {
    /// Name of the column.
    pub name: String,
    /// What it holds.
    pub kind: MetadataKind,
}

/// What a metadata column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    /// Utf8.
    Topic,
    /// Int32.
    Partition,
    /// Int64.
    Offset,
    /// Timestamp(Microsecond): the broker's timestamp, null when there is none.
    Timestamp,
    /// Binary, nullable.
    Key,
    /// List of Struct { name: Utf8, value: Binary }.
    Headers,
}

/// SQL of a user, and where it stands.
#[derive(Debug, Clone)]
pub struct SqlText {
    /// The text.
    pub sql: String,
    /// Where it stands.
    pub place: Place,
}

/// A place in a file of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A view: a named SELECT.
#[derive(Debug, Clone)]
pub struct View {
    /// Name in SQL.
    pub name: String,
    /// The SELECT. A view from a file starts at line 1 of that file.
    pub query: SqlText,
    /// The rows go through a topic that is keyed by columns of theirs; later views and sinks read them from there.
    pub repartition: Option<Repartition>,
}

/// A model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name in `score('name', ...)`.
    pub name: String,
    /// `models:/...`; or a local path, `file://` or `s3://` of a LightGBM text model or a model directory.
    pub uri: String,
    /// What `threshold('name')` says; `None`: what the model says itself.
    pub threshold: Option<f64>,
    /// How often a run looks for a successor; `None`: never.
    pub reload: Option<Duration>,
    /// Where the challenger comes from, as `uri`.
    pub challenger: Option<String>,
}

/// A sink.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Name.
    pub name: String,
    /// What it gets.
    pub select: SqlText,
    /// Where rows go.
    pub connector: SinkConnector,
}

/// Where rows go.
#[derive(Debug, Clone)]
pub enum SinkConnector {
    /// A Kafka topic, JSON values.
    Kafka(KafkaSink),
    /// Parquet files in a folder.
    Parquet(ParquetSink),
    /// Standard output, JSON lines.
    Console,
    /// The topic between two stages. No file says so; a run does.
    Internal(InternalTopic),
    /// One side of the join of scores and labels, in memory. No file says so; a run does.
    Labels(LabelSide),
}

/// A Kafka sink.
#[derive(Debug, Clone)]
pub struct KafkaSink {
    /// The cluster.
    pub connection: KafkaConnection,
    /// Topic.
    pub topic: String,
    /// Column whose value becomes the message key.
    pub key: Option<String>,
}

/// A Parquet sink: files roll at the first limit that is reached.
#[derive(Debug, Clone)]
pub struct ParquetSink {
    /// Folder: a local path, `file://` or `s3://`.
    pub path: String,
    /// Rows per file.
    pub max_rows: usize,
    /// Bytes per file, about.
    pub max_bytes: usize,
    /// Age of an open file.
    pub max_age: Duration,
    /// Whether its files say topic, partition and offset of each row ([`crate::types::POSITION_COLUMNS`]).
    pub has_positions: bool,
}

/// Name of the dead letters among the sinks, in manifests, metrics and the status; no sink may have it.
pub const DEAD_LETTER_NAME: &str = "dead_letter";

/// Where rejected records go: a Kafka topic or Parquet.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Kafka or Parquet (`key` is not used: records keep their own).
    pub connector: SinkConnector,
}

/// Where progress is kept.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Folder: a local path, `file://` or `s3://`.
    pub path: String,
    /// Time between checkpoints.
    pub interval: Duration,
    /// Time between snapshots of a unit's state.
    pub snapshot_interval: Duration,
    /// Number of manifests kept per state unit, beside those that fencing needs.
    pub retain: usize,
    /// What of the state is rebuilt from the log: said with `tidemill run --backfill`, never in a file.
    pub backfill: Backfill,
}

/// What of the windows' state is rebuilt at the start, by reading the log from its oldest record, without output of what is
/// out already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backfill {
    /// Nothing: without state of a window the start is refused.
    #[default]
    Nothing,
    /// All state of a partition whose snapshot lacks that of some window.
    Missing,
    /// All state, snapshots or not.
    All,
}

/// What is promised of each sink's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing is lost; after a crash some rows may come again.
    AtLeastOnce,
    /// Nothing is lost or doubled.
    ExactlyOnce,
}

/// Workers, epochs and limits.
#[derive(Debug, Clone)]
pub struct RunSettings {
    /// Workers in this process.
    pub workers: usize,
    /// Rows of one epoch at most.
    pub max_batch_rows: usize,
    /// Time that an epoch waits for more rows once the first is there.
    pub max_wait: Duration,
    /// Time that a graceful stop may take.
    pub stop_timeout: Duration,
    /// Bytes of state that the process may hold; without it, a share of the memory.
    pub max_state_bytes: Option<u64>,
}
