//! Sinks and the dead letter, and what outputs, sources and the checkpoint demand of each other: no loops, no shared folders,
//! and only promises of delivery that can be kept.

use std::time::Duration;

use super::super::file::{DeadLetterFile, OutputConnectionFile, ParquetSinkFile, SinkConnectorFile, SinkFile};
use super::super::problem::quoted;
use super::super::settings::{
    DEAD_LETTER_NAME, DeadLetter, Delivery, KafkaConnection, KafkaSink, KafkaSource, ParquetSink, Pipeline, Sink,
    SinkConnector, SourceConnector,
};
use super::super::text::{NameKind, TextForm, check_name, check_topic};
use super::kafka::Inherited;
use super::{Validator, to_usize};

impl Validator<'_> {
    pub(super) fn sink(&mut self, name: &str, sink: &SinkFile, inherited: &Inherited) -> Sink {
        let path = ["sinks", name];
        if let Err(help) = check_name(name, NameKind::Own) {
            self.refuse_key(&path, format!("{} cannot name a sink", quoted(name)), help);
        }
        if name == DEAD_LETTER_NAME {
            let help = "dead letters have this name in manifests, metrics and the status; use another";
            self.refuse_key(&path, format!("{} cannot name a sink", quoted(name)), help);
        }
        let connector = match &sink.connector {
            SinkConnectorFile::Kafka(kafka) => {
                let key = kafka.key.clone();
                SinkConnector::Kafka(KafkaSink {
                    key,
                    ..self.topic_output(&path, &kafka.topic, &kafka.connection, inherited)
                })
            }
            SinkConnectorFile::Parquet(parquet) => SinkConnector::Parquet(ParquetSink {
                has_positions: parquet.positions,
                ..self.parquet(&path, &parquet.files)
            }),
            SinkConnectorFile::Console(_) => SinkConnector::Console,
        };
        Sink { name: name.to_string(), select: self.sql(&["sinks", name, "select"], &sink.select), connector }
    }

    pub(super) fn dead_letter(&mut self, dead_letter: &DeadLetterFile, inherited: &Inherited) -> DeadLetter {
        let path = ["dead_letter"];
        let connector = match dead_letter {
            DeadLetterFile::Kafka(kafka) => {
                SinkConnector::Kafka(self.topic_output(&path, &kafka.topic, &kafka.connection, inherited))
            }
            DeadLetterFile::Parquet(parquet) => SinkConnector::Parquet(self.parquet(&path, parquet)),
        };
        DeadLetter { connector }
    }

    fn topic_output(
        &mut self,
        path: &[&str],
        topic: &str,
        connection: &OutputConnectionFile,
        inherited: &Inherited,
    ) -> KafkaSink {
        if let Err(help) = check_topic(topic) {
            let message = format!("expected the name of a topic, found {}", quoted(topic));
            self.refuse(&[path, &["topic"]].concat(), message, help);
        }
        let servers = connection.bootstrap_servers.as_deref();
        let connection = self.connection(path, servers, &connection.security, &connection.options, Some(inherited));
        KafkaSink { connection, topic: topic.to_string(), key: None }
    }

    fn parquet(&mut self, path: &[&str], parquet: &ParquetSinkFile) -> ParquetSink {
        let at = |key: &'static str| [path, &[key]].concat();
        let bytes = parquet.max_bytes.0;
        if !((1 << 16)..=(1 << 40)).contains(&bytes.0) {
            let message = format!("expected a size from 64KiB to 1024GiB, found `{}`", bytes.print());
            self.refuse(&at("max_bytes"), message, "choose one in between");
        }
        ParquetSink {
            path: self.location(&at("path"), &parquet.path),
            max_rows: to_usize(parquet.max_rows),
            max_bytes: to_usize(bytes.0),
            max_age: self.duration(
                &at("max_age"),
                parquet.max_age,
                Duration::from_millis(100),
                Duration::from_secs(86_400),
            ),
            has_positions: false,
        }
    }

    /// Two sources with one topic in one consumer group would each get a part of its records.
    pub(super) fn shared_groups(&mut self, pipeline: &Pipeline) {
        let mut seen: Vec<(&str, &KafkaSource)> = Vec::new();
        for source in &pipeline.sources {
            let SourceConnector::Kafka(kafka) = &source.connector else { continue };
            let is_shared = |(_, other): &&(&str, &KafkaSource)| {
                other.group == kafka.group
                    && other.connection.bootstrap_servers == kafka.connection.bootstrap_servers
                    && other.topics.iter().any(|topic| kafka.topics.contains(topic))
            };
            if let Some((other, _)) = seen.iter().find(is_shared) {
                let message =
                    format!("the sources {} and {} read one topic in one group", quoted(other), quoted(&source.name));
                let help =
                    "each would get a part of the records: give one of them a `group` of its own, or use one source";
                self.refuse_key(&["sources", &source.name], message, help);
            }
            seen.push((&source.name, kafka));
        }
    }

    /// A topic that is read and written by one pipeline feeds it its own output; two outputs on one topic mix two forms.
    pub(super) fn loops(&mut self, pipeline: &Pipeline) {
        let mut used: Vec<(&KafkaConnection, &str, String)> = Vec::new();
        for source in &pipeline.sources {
            if let SourceConnector::Kafka(kafka) = &source.connector {
                for topic in &kafka.topics {
                    used.push((&kafka.connection, topic, format!("the source {} reads it", quoted(&source.name))));
                }
            }
        }
        let sinks = pipeline.sinks.iter().map(|sink| (vec!["sinks", &sink.name, "topic"], &sink.connector));
        let dead_letter = pipeline.dead_letter.iter().map(|one| (vec!["dead_letter", "topic"], &one.connector));
        for (path, connector) in sinks.chain(dead_letter) {
            let SinkConnector::Kafka(kafka) = connector else { continue };
            let servers = &kafka.connection.bootstrap_servers;
            let is_used = |(other, topic, _): &&(&KafkaConnection, &str, String)| {
                *topic == kafka.topic && other.bootstrap_servers == *servers && !servers.is_empty()
            };
            if let Some((_, _, why)) = used.iter().find(is_used) {
                let message = format!("the topic {} is taken: {why}", quoted(&kafka.topic));
                self.refuse(&path, message, "an output needs a topic of its own");
            }
            let owner = path[..path.len() - 1].join(".");
            used.push((&kafka.connection, &kafka.topic, format!("{} writes it", quoted(&owner))));
        }
    }

    /// Two writers on one folder would take each other's files for their own.
    pub(super) fn shared_folders(&mut self, pipeline: &Pipeline) {
        let mut used: Vec<(&str, String)> = Vec::new();
        let checkpoint = pipeline.checkpoint.iter().map(|one| (vec!["checkpoint", "path"], one.path.as_str()));
        let sinks = pipeline.sinks.iter().map(|sink| (vec!["sinks", sink.name.as_str(), "path"], &sink.connector));
        let dead_letter = pipeline.dead_letter.iter().map(|one| (vec!["dead_letter", "path"], &one.connector));
        let parquet = sinks.chain(dead_letter).filter_map(|(path, connector)| match connector {
            SinkConnector::Parquet(parquet) => Some((path, parquet.path.as_str())),
            SinkConnector::Kafka(_)
            | SinkConnector::Console
            | SinkConnector::Internal(_)
            | SinkConnector::Labels(_) => None,
        });
        for (path, folder) in checkpoint.chain(parquet) {
            let folder = folder.trim_end_matches('/');
            if folder.is_empty() {
                continue;
            }
            let owner = path[..path.len() - 1].join(".");
            let is_within =
                |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let taken = used.iter().find(|(other, _)| is_within(folder, other) || is_within(other, folder));
            if let Some((_, other)) = taken {
                let message = format!("the folder {} lies in or around that of {}", quoted(folder), quoted(other));
                self.refuse(
                    &path,
                    message,
                    "checkpoint, Parquet sinks and dead letter need folders apart from each other",
                );
            }
            used.push((folder, owner));
        }
    }

    /// Workers that share a topic hand its partitions over by the positions in the checkpoint.
    fn one_worker_without_checkpoint(&mut self, pipeline: &Pipeline) {
        let has_topics = pipeline.sources.iter().any(|source| matches!(source.connector, SourceConnector::Kafka(_)));
        if has_topics && pipeline.run.workers > 1 && !self.is_written(&["checkpoint"]) {
            self.refuse(
                &["run", "workers"],
                format!("expected 1 without `checkpoint`, found {}", pipeline.run.workers),
                "workers that share a topic hand its partitions over by a checkpoint: add `checkpoint: { path: ... }`",
            );
        }
    }

    pub(super) fn delivery(&mut self, pipeline: &Pipeline) {
        self.one_worker_without_checkpoint(pipeline);
        match pipeline.delivery {
            Delivery::AtLeastOnce => return,
            Delivery::ExactlyOnce => {}
        }
        let path = ["delivery"];
        if !self.is_written(&["checkpoint"]) {
            self.refuse(
                &path,
                "`exactly_once` without `checkpoint`",
                "add `checkpoint: { path: ... }`, or use `at_least_once`",
            );
        }
        let outputs = pipeline.sinks.iter().map(|sink| (format!("sinks.{}", sink.name), &sink.connector));
        let dead_letter = pipeline.dead_letter.iter().map(|one| ("dead_letter".to_string(), &one.connector));
        for (owner, connector) in outputs.chain(dead_letter) {
            let (message, help) = match connector {
                SinkConnector::Kafka(_) => (
                    format!("`exactly_once` is not possible yet with the Kafka output {}", quoted(&owner)),
                    "until protocol K is built: use at_least_once, or a parquet sink",
                ),
                SinkConnector::Console => {
                    (format!("`exactly_once` is not possible with the console {}", quoted(&owner)), "use at_least_once")
                }
                // What goes twice into an internal topic is left out behind it.
                SinkConnector::Parquet(_) | SinkConnector::Internal(_) | SinkConnector::Labels(_) => continue,
            };
            self.refuse(&path, message, help);
        }
    }
}
