//! Rows that go through a topic of the engine's own: a key that is there and can be one, a topic that nobody else uses, and
//! what the two stages need: an event time, and a checkpoint that says where each is.

use std::time::Duration;

use super::super::file::{RepartitionFile, SourceConnectorFile, SourceFile, ViewFile};
use super::super::forms::Named;
use super::super::problem::quoted;
use super::super::settings::{
    ColumnType, KafkaConnection, Pipeline, Repartition, SinkConnector, SourceConnector, View,
};
use super::super::text::check_topic;
use super::Validator;
use super::kafka::Inherited;

/// A topic shorter than that would lose what a restart has to read.
const RETENTION_MIN: Duration = Duration::from_secs(60);
const RETENTION_MAX: Duration = Duration::from_secs(3650 * 86_400);

impl Validator<'_> {
    pub(super) fn views(&mut self, views: &Named<ViewFile>, inherited: &Inherited) -> Vec<View> {
        let mut settings = Vec::new();
        for (name, view) in &views.0 {
            self.table_name(&["views", name], "view");
            let (query, repartition) = match view {
                ViewFile::Sql(text) => (self.sql(&["views", name], text), None),
                ViewFile::Repartitioned(view) => {
                    (self.sql(&["views", name, "sql"], &view.sql), view.repartition.as_ref())
                }
            };
            let repartition = repartition.map(|file| {
                let path = ["views", name, "repartition"];
                let connection = self.inherited_by(&path, inherited);
                self.repartition(&path, file, connection)
            });
            settings.push(View { name: name.clone(), query, repartition });
        }
        settings
    }

    pub(super) fn source_repartition(
        &mut self,
        name: &str,
        source: &SourceFile,
        connector: &SourceConnector,
    ) -> Option<Repartition> {
        let (SourceConnectorFile::Kafka(file), SourceConnector::Kafka(kafka)) = (&source.connector, connector) else {
            return None;
        };
        let path = ["sources", name, "repartition"];
        let file = file.repartition.as_ref()?;
        // Options are those of a consumer of the outer topic.
        let connection = KafkaConnection { options: Default::default(), ..kafka.connection.clone() };
        let settings = self.repartition(&path, file, connection);
        let indices = self.indices(&["sources", name, "repartition", "by"]);
        for (column, index) in settings.by.iter().zip(&indices) {
            let path = ["sources", name, "repartition", "by", index];
            match source.columns.0.iter().find(|(known, _)| known == column) {
                None => self.unknown_column(name, &path, column),
                Some((_, spec)) if matches!(spec.0.column_type, ColumnType::Float32 | ColumnType::Float64) => {
                    let message = format!("the key column {} holds numbers with fractions", quoted(column));
                    self.refuse(
                        &path,
                        message,
                        "equal ones may have other bits: use a column of whole numbers or text",
                    );
                }
                Some(_) => {}
            }
        }
        if source.event_time.is_none() && !self.is_written(&["sources", name, "event_time"]) {
            let message = format!("`repartition` of {} without `event_time`", quoted(&format!("sources.{name}")));
            self.refuse_key(&path, message, "its rows keep their event time: name the column with `event_time`");
        }
        Some(settings)
    }

    fn repartition(&mut self, path: &[&str], file: &RepartitionFile, connection: KafkaConnection) -> Repartition {
        let at = |key: &'static str| [path, &[key]].concat();
        if file.by.is_empty() && self.indices(&at("by")).is_empty() {
            self.refuse_key(&at("by"), "expected at least one column, found none", "write `by: [user_id]`");
        }
        let indices = self.indices(&at("by"));
        for (number, (column, index)) in file.by.iter().zip(&indices).enumerate() {
            if file.by[..number].contains(column) {
                let message = format!("the column {} stands twice", quoted(column));
                self.refuse(&[path, &["by", index]].concat(), message, "remove one");
            }
        }
        if let Err(help) = check_topic(&file.topic) {
            let message = format!("expected the name of a topic, found {}", quoted(&file.topic));
            self.refuse(&at("topic"), message, help);
        }
        Repartition {
            by: file.by.clone(),
            topic: file.topic.clone(),
            connection,
            num_partitions: file.partitions,
            retention: self.duration(&at("retention"), file.retention, RETENTION_MIN, RETENTION_MAX),
            place: self.document.source.place(self.spot(&at("by"))),
        }
    }

    /// The cluster of a view's internal topic: that of the Kafka sources.
    fn inherited_by(&mut self, path: &[&str], inherited: &Inherited) -> KafkaConnection {
        let help = match inherited {
            Inherited::Connection(connection) => return connection.clone(),
            Inherited::NoSource => "there is no Kafka source whose cluster its topic could be on".to_string(),
            Inherited::Several(names) => {
                format!("its topic is on the cluster of the Kafka sources, and they differ: {}", names.join(", "))
            }
            Inherited::Unknown => String::new(),
        };
        if !help.is_empty() {
            self.refuse_key(path, "no cluster for the topic of this `repartition`", help);
        }
        KafkaConnection {
            bootstrap_servers: String::new(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_location: None,
            ssl_certificate_location: None,
            ssl_key_location: None,
            options: Default::default(),
        }
    }

    /// What the repartitions of a pipeline demand of the rest of it.
    pub(super) fn repartitions(&mut self, pipeline: &Pipeline) {
        let sources = pipeline.sources.iter().map(|source| ("sources", &source.name, &source.repartition));
        let views = pipeline.views.iter().map(|view| ("views", &view.name, &view.repartition));
        let all = sources.chain(views).filter_map(|(section, name, one)| Some((section, name, one.as_ref()?)));
        let mut used: Vec<(String, String)> = topics_in_use(pipeline);
        for (section, name, repartition) in all.collect::<Vec<_>>() {
            let path = [section, name, "repartition"];
            if !self.is_written(&["checkpoint"]) {
                let help = "the two stages go on from where their checkpoints say: add `checkpoint: { path: ... }`";
                self.refuse_key(&path, "`repartition` without `checkpoint`", help);
            }
            let taken = used.iter().find(|(topic, _)| *topic == repartition.topic);
            if let Some((_, by)) = taken {
                let message = format!("the topic {} is taken: {by}", quoted(&repartition.topic));
                let help = "rows between two stages need a topic of their own, which the engine makes";
                self.refuse(&[section, name, "repartition", "topic"], message, help);
            }
            let by = format!("{} goes through it", quoted(&format!("{section}.{name}")));
            used.push((repartition.topic.clone(), by));
        }
    }
}

/// Topics that the pipeline reads and writes, and who does.
fn topics_in_use(pipeline: &Pipeline) -> Vec<(String, String)> {
    let mut used = Vec::new();
    for source in &pipeline.sources {
        if let SourceConnector::Kafka(kafka) = &source.connector {
            let read = |topic: &String| (topic.clone(), format!("the source {} reads it", quoted(&source.name)));
            used.extend(kafka.topics.iter().map(read));
        }
    }
    let outputs = pipeline.sinks.iter().map(|sink| (format!("the sink {}", quoted(&sink.name)), &sink.connector));
    let dead_letter = pipeline.dead_letter.iter().map(|one| ("`dead_letter`".to_string(), &one.connector));
    for (who, connector) in outputs.chain(dead_letter) {
        if let SinkConnector::Kafka(kafka) = connector {
            used.push((kafka.topic.clone(), format!("{who} writes it")));
        }
    }
    used
}
