//! Sources: names and types of columns, the event time, limits, and where reading starts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::file::{
    DataLossFile, FileFormatFile, KafkaSourceFile, MetadataFile, PartitionerFile, RecordFormatFile,
    SourceConnectorFile, SourceFile, StartFile, UntilFile,
};
use super::super::problem::{choices_help, quoted};
use super::super::settings::{
    Column, ColumnType, DataLossPolicy, FileFormat, FilesSource, GeneratorSource, KafkaSource, MetadataColumn,
    MetadataKind, Partitioner, Source, SourceConnector, StartPosition, Until,
};
use super::super::text::{TextForm, check_topic};
use super::{SqlText, Validator, is_blank, to_usize};
use crate::types::{HIDDEN_PREFIX, Offset};

/// Longest reach of windows that the engine reckons with: ten years.
const REACH_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// Larger records are not moved by any client with its usual settings.
const RECORD_BYTES_MAX: u64 = 1 << 30;

impl Validator<'_> {
    pub(super) fn source(&mut self, name: &str, source: &SourceFile, pipeline: &str) -> Source {
        let path = ["sources", name];
        self.table_name(&path, "source");
        let connector = match &source.connector {
            SourceConnectorFile::Kafka(kafka) => SourceConnector::Kafka(self.kafka_source(name, kafka, pipeline)),
            SourceConnectorFile::Files(files) => SourceConnector::Files(FilesSource {
                path: self.location(&["sources", name, "path"], &files.path),
                format: match files.format {
                    FileFormatFile::Parquet => FileFormat::Parquet,
                    FileFormatFile::JsonLines => FileFormat::JsonLines,
                },
            }),
            SourceConnectorFile::Generator(generator) => SourceConnector::Generator(GeneratorSource {
                seed: generator.seed,
                rate: generator.rate,
                count: generator.count,
                users: generator.users,
            }),
        };
        let settings = Source {
            name: name.to_string(),
            repartition: self.source_repartition(name, source, &connector),
            internal: None,
            connector,
            columns: self.columns(name, source),
            metadata: self.metadata(name, source),
            checks: self.checks(name, source),
            event_time: source.event_time.clone(),
            partitioned_by: source.partitioned_by.clone(),
            max_future_skew: source.max_future_skew.0,
            max_lateness: source.max_lateness.0,
            max_lookback: source.max_lookback.0,
            max_record_bytes: to_usize(source.max_record_bytes.0.0),
            max_rejection_rate: source.max_rejection_rate,
            rejection_window: to_usize(source.rejection_window),
        };
        self.event_time(name, source);
        self.references(name, source);
        self.limits(name, source);
        settings
    }

    fn columns(&mut self, name: &str, source: &SourceFile) -> Vec<Column> {
        let mut columns = Vec::new();
        for (column, spec) in &source.columns.0 {
            self.column_name(&["sources", name, "columns", column]);
            columns.push(Column {
                name: column.clone(),
                column_type: spec.0.column_type,
                is_nullable: spec.0.is_nullable,
            });
        }
        columns
    }

    fn metadata(&mut self, name: &str, source: &SourceFile) -> Vec<MetadataColumn> {
        let mut columns = Vec::new();
        for (column, kind) in &source.metadata.0 {
            let path = ["sources", name, "metadata", column];
            self.column_name(&path);
            if self.is_written(&["sources", name, "columns", column]) {
                let message = format!("the metadata column {} has the name of a declared column", quoted(column));
                self.refuse_key(&path, message, "give it another name");
            }
            let kind = match kind {
                MetadataFile::Topic => MetadataKind::Topic,
                MetadataFile::Partition => MetadataKind::Partition,
                MetadataFile::Offset => MetadataKind::Offset,
                MetadataFile::Timestamp => MetadataKind::Timestamp,
                MetadataFile::Key => MetadataKind::Key,
                MetadataFile::Headers => MetadataKind::Headers,
            };
            columns.push(MetadataColumn { name: column.clone(), kind });
        }
        columns
    }

    fn column_name(&mut self, path: &[&str]) {
        let name = path.last().copied().unwrap_or_default();
        if name.to_lowercase().starts_with(HIDDEN_PREFIX) {
            let message = format!("the column {} begins with `{HIDDEN_PREFIX}`", quoted(name));
            self.refuse_key(path, message, "this prefix is the engine's own: rename the column");
        } else if name.trim() != name || name.chars().any(char::is_control) || name.len() > 255 {
            let message = format!("{} cannot name a column", quoted(name));
            self.refuse_key(path, message, "at most 255 bytes, no control characters, no space at its ends");
        }
    }

    fn checks(&mut self, name: &str, source: &SourceFile) -> Vec<SqlText> {
        let indices = self.indices(&["sources", name, "check"]);
        let mut checks = Vec::new();
        for (check, index) in source.check.iter().zip(&indices) {
            let path = ["sources", name, "check", index];
            if is_blank(check) {
                self.refuse(&path, "an empty check", "write a condition over the columns, such as amount > 0");
            }
            checks.push(SqlText { sql: check.clone(), place: self.sql_place(&path) });
        }
        checks
    }

    fn event_time(&mut self, name: &str, source: &SourceFile) {
        let Some(event_time) = &source.event_time else {
            let path = ["sources", name, "max_future_skew"];
            if self.is_written(&path) && !self.is_written(&["sources", name, "event_time"]) {
                let message = "`max_future_skew` without `event_time` guards nothing";
                self.refuse_key(&path, message, "name the column with `event_time`, or remove this key");
            }
            return;
        };
        let path = ["sources", name, "event_time"];
        let Some((_, spec)) = source.columns.0.iter().find(|(column, _)| column == event_time) else {
            self.unknown_column(name, &path, event_time);
            return;
        };
        let is_time = matches!(spec.0.column_type, ColumnType::Timestamp | ColumnType::Epoch(_));
        if !is_time {
            let message =
                format!("the event time {} is a column of type {}", quoted(event_time), quoted(&spec.0.print()));
            self.refuse(&path, message, "expected a column of type `timestamp`, `epoch_s`, `epoch_ms` or `epoch_us`");
        } else if spec.0.is_nullable {
            let message = format!("the event time {} may be null", quoted(event_time));
            let help = format!("declare it `{} not null`: a record without event time is rejected", spec.0.print());
            self.refuse(&path, message, help);
        }
    }

    fn references(&mut self, name: &str, source: &SourceFile) {
        let indices = self.indices(&["sources", name, "partitioned_by"]);
        for (column, index) in source.partitioned_by.iter().zip(&indices) {
            self.unknown_column(name, &["sources", name, "partitioned_by", index], column);
        }
    }

    /// Reports a column that is not declared. One that is, but could not be used, was reported already.
    pub(super) fn unknown_column(&mut self, source: &str, path: &[&str], column: &str) {
        let columns = self.names(&["sources", source, "columns"]);
        if columns.iter().any(|known| known == column) {
            return;
        }
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let message = format!("{} is not a declared column of {}", quoted(column), quoted(source));
        self.refuse(path, message, choices_help(column, "declared columns", &columns));
    }

    fn limits(&mut self, name: &str, source: &SourceFile) {
        let skew = source.max_future_skew.0;
        let lateness = source.max_lateness.0;
        if skew >= lateness {
            let message =
                format!("expected a duration below `max_lateness`, {}, found `{}`", lateness.print(), skew.print());
            let help = "one record from further ahead would make everybody's history look late";
            self.refuse(&["sources", name, "max_future_skew"], message, help);
        }
        for (key, length) in [("max_lateness", lateness), ("max_lookback", source.max_lookback.0)] {
            if length.is_zero() || length > REACH_MAX {
                let message = format!("expected a duration up to {}, found `{}`", REACH_MAX.print(), length.print());
                self.refuse(&["sources", name, key], message, "choose one in between");
            }
        }
        let bytes = source.max_record_bytes.0;
        if !(1..=RECORD_BYTES_MAX).contains(&bytes.0) {
            let message = format!("expected a size from 1B to 1GiB, found `{}`", bytes.print());
            self.refuse(&["sources", name, "max_record_bytes"], message, "choose one in between");
        }
    }

    fn kafka_source(&mut self, name: &str, kafka: &KafkaSourceFile, pipeline: &str) -> KafkaSource {
        let path = ["sources", name];
        let connection = self.connection(&path, Some(&kafka.bootstrap_servers), &kafka.security, &kafka.options, None);
        let topics = self.topics(name, kafka);
        let group = kafka.group.clone().unwrap_or_else(|| pipeline.to_string());
        if group.trim().is_empty() || group.len() > 249 || group.chars().any(char::is_control) {
            self.refuse(&["sources", name, "group"], "expected the name of a consumer group", "1 to 249 characters");
        }
        // The only format there is; a second one makes this a compile error.
        let RecordFormatFile::Json = kafka.format;
        let refresh = ["sources", name, "metadata_refresh"];
        KafkaSource {
            connection,
            start: self.start(name, &kafka.start, &topics),
            topics,
            group,
            until: match kafka.until {
                UntilFile::Forever => Until::Forever,
                UntilFile::Now => Until::Now,
            },
            rate_limit: kafka.rate_limit,
            on_data_loss: match kafka.on_data_loss {
                DataLossFile::Fail => DataLossPolicy::Fail,
                DataLossFile::Continue => DataLossPolicy::Continue,
            },
            partitioner: self.partitioner(name, kafka.partitioner),
            trusts_timestamps: kafka.trust_timestamps,
            metadata_refresh: self.duration(
                &refresh,
                kafka.metadata_refresh,
                Duration::from_millis(100),
                Duration::from_secs(3600),
            ),
        }
    }

    fn partitioner(&mut self, name: &str, partitioner: PartitionerFile) -> Option<Partitioner> {
        let partitioner = match partitioner {
            PartitionerFile::None => return None,
            PartitionerFile::Murmur2 => Partitioner::Murmur2,
            PartitionerFile::Crc32 => Partitioner::Crc32,
        };
        if !self.is_written(&["sources", name, "partitioned_by"]) {
            let help = "name the columns that the message key is made of, or remove this key";
            self.refuse_key(&["sources", name, "partitioner"], "`partitioner` without `partitioned_by`", help);
        }
        Some(partitioner)
    }

    fn topics(&mut self, name: &str, kafka: &KafkaSourceFile) -> Vec<String> {
        let one = ["sources", name, "topic"];
        let several = ["sources", name, "topics"];
        let topics = match (&kafka.topic, &kafka.topics) {
            (Some(_), Some(_)) => {
                self.refuse_key(&several, "both `topic` and `topics` stand here", "keep one of them");
                return Vec::new();
            }
            (Some(topic), None) => vec![topic.clone()],
            (None, Some(topics)) if topics.is_empty() && self.indices(&several).is_empty() => {
                self.refuse_key(&several, "expected at least one topic, found none", "write `topics: [name, name]`");
                return Vec::new();
            }
            (None, Some(topics)) => topics.clone(),
            (None, None) if self.is_unusable(&one) || self.is_unusable(&several) => return Vec::new(),
            (None, None) => {
                let message = format!("missing key `topic` of {}", quoted(&format!("sources.{name}")));
                self.refuse_key(&["sources", name], message, "write `topic: name`, or `topics: [name, name]`");
                return Vec::new();
            }
        };
        let indices = self.indices(&several);
        for (index, topic) in topics.iter().enumerate() {
            let listed: &[&str] = &["sources", name, "topics", indices.get(index).map_or("", String::as_str)];
            let path: &[&str] = if kafka.topic.is_some() { &one } else { listed };
            if let Err(help) = check_topic(topic) {
                self.refuse(path, format!("expected the name of a topic, found {}", quoted(topic)), help);
            } else if topics[..index].contains(topic) {
                self.refuse(path, format!("the topic {} stands twice", quoted(topic)), "remove one");
            }
        }
        topics
    }

    fn start(&mut self, name: &str, start: &StartFile, topics: &[String]) -> StartPosition {
        match start {
            StartFile::Earliest => StartPosition::Earliest,
            StartFile::Latest => StartPosition::Latest,
            StartFile::Timestamp(time) => StartPosition::Timestamp(time.0.0),
            StartFile::Offsets(offsets) => StartPosition::Offsets(self.start_offsets(name, offsets, topics)),
        }
    }

    fn start_offsets(
        &mut self,
        name: &str,
        offsets: &BTreeMap<String, u64>,
        topics: &[String],
    ) -> BTreeMap<(String, i32), Offset> {
        let mut positions = BTreeMap::new();
        for (key, offset) in offsets {
            let path = ["sources", name, "start", "offsets", key];
            let Some((topic, partition)) = partition_of(key) else {
                let message = format!("expected \"topic/partition\", found {}", quoted(key));
                self.refuse_key(&path, message, "such as \"transactions/0\": 1500");
                continue;
            };
            if !topics.is_empty() && !topics.iter().any(|known| known == topic) {
                let known: Vec<&str> = topics.iter().map(String::as_str).collect();
                let message = format!("the topic {} is not one of this source", quoted(topic));
                self.refuse_key(&path, message, choices_help(topic, "topics", &known));
            }
            let position = i64::try_from(*offset).ok().and_then(Offset::new).unwrap_or(Offset::ZERO);
            if positions.insert((topic.to_string(), partition), position).is_some() {
                self.refuse_key(&path, format!("the partition {} stands twice", quoted(key)), "remove one");
            }
        }
        positions
    }
}

/// `topic/partition`.
fn partition_of(key: &str) -> Option<(&str, i32)> {
    let (topic, partition) = key.rsplit_once('/')?;
    let is_digits = !partition.is_empty() && partition.chars().all(|c| c.is_ascii_digit());
    if topic.is_empty() || !is_digits {
        return None;
    }
    partition.parse().ok().map(|partition| (topic, partition))
}
