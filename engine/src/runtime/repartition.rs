//! A pipeline with `repartition` as what there is already: each becomes a sink that writes an internal topic and a source, of
//! the repartitioned table's name, that reads it; both in the same process and the same graph. So a table is read by its name
//! wherever it stands, and every state unit, on either side, has manifests of its own.
//!
//! Only runs go this way. Commands that read stored rows or a few records see through a repartition: to them the table is the
//! source or the view itself.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::SchemaRef;

use super::labels::with_label_sinks;
use crate::decode::internal::{can_be_key, unsupported};
use crate::decode::table_schema;
use crate::pipeline::settings::{
    DataLossPolicy, InternalTopic, KafkaConnection, KafkaSource, Pipeline, Place, Repartition, Sink, SinkConnector,
    Source, SourceConnector, SqlText, StartPosition, Until, View,
};
use crate::plan::{Functions, Outline, Plan, PlanProblem, choices, outline};

/// Names of the parts that a repartition adds: no source, view or sink of a file can have a point in its name.
const OUTER: &str = ".outer";
const INTERNAL: &str = ".internal";
/// Smallest limit of an internal record: Kafka's own default.
const RECORD_BYTES_MIN: usize = 1 << 20;
/// Columns that a view adds, and numbers that take more bytes than their digits, have room within this factor.
const RECORD_BYTES_FACTOR: usize = 4;

type Problems = Vec<PlanProblem>;

/// The name that the pipeline file has for a source of a pipeline in stages.
pub(crate) fn table_name(source: &Source) -> &str {
    source.name.strip_suffix(OUTER).unwrap_or(&source.name)
}

/// The sources of a pipeline in stages, by their places, whose rows windows see: as they are, or behind internal topics.
pub(crate) fn feeding_windows(staged: &Pipeline, plan: &Plan) -> BTreeSet<usize> {
    let mut feeding: BTreeSet<usize> = plan.operators().iter().map(|operator| operator.source).collect();
    // What writes an internal topic stands before the source that reads it.
    for (place, source) in staged.sources.iter().enumerate().rev() {
        if let (Some(internal), true) = (&source.internal, feeding.contains(&place)) {
            let is_upstream = |source: &Source| internal.upstream.contains(&source.name);
            feeding
                .extend(staged.sources.iter().enumerate().filter(|(_, one)| is_upstream(one)).map(|(place, _)| place));
        }
    }
    feeding
}

/// `pipeline` in stages: as it is when nothing in it is repartitioned.
pub(crate) fn staged(pipeline: &Pipeline, functions: &Functions) -> Result<Pipeline, Problems> {
    let pipeline = &with_label_sinks(pipeline);
    let mut stages =
        Stages { pipeline: Pipeline { sources: Vec::new(), views: Vec::new(), ..pipeline.clone() }, sinks: Vec::new() };
    for source in &pipeline.sources {
        match &source.repartition {
            None => stages.pipeline.sources.push(source.clone()),
            Some(repartition) => stages.split_source(source, repartition)?,
        }
    }
    for view in &pipeline.views {
        stages.pipeline.views.push(view.clone());
        if let Some(repartition) = &view.repartition {
            let outline = outline(&stages.pipeline, functions)?;
            stages.pipeline.views.pop();
            stages.split_view(&view.name, &view.query, repartition, &outline)?;
        }
    }
    stages.pipeline.sinks.extend(stages.sinks);
    Ok(stages.pipeline)
}

struct Stages {
    /// As far as it is rewritten.
    pipeline: Pipeline,
    /// The sinks of the internal topics; behind those of the user.
    sinks: Vec<Sink>,
}

impl Stages {
    fn split_source(&mut self, source: &Source, repartition: &Repartition) -> Result<(), Problems> {
        let part = format!("repartition of source {}", source.name);
        let columns = table_schema(source);
        let outer = Source { name: source.name.clone() + OUTER, repartition: None, ..source.clone() };
        let select = SqlText { sql: format!("SELECT * FROM \"{}\"", outer.name), place: repartition.place.clone() };
        let event_time = source.event_time.clone().unwrap_or_default();
        let upstream = [outer.name.clone()].into();
        self.pipeline.sources.push(outer);
        self.add(&source.name, &part, select, repartition, Rows { columns, event_time, upstream, has_scores: false })
    }

    fn split_view(
        &mut self,
        name: &str,
        query: &SqlText,
        repartition: &Repartition,
        outline: &Outline,
    ) -> Result<(), Problems> {
        let part = format!("repartition of view {name}");
        let problem = Problem { place: &repartition.place, part: &part };
        let of_source = |source: &Source| outline.sources.contains(&source.name).then(|| source.event_time.clone())?;
        let wanted: BTreeSet<String> = self.pipeline.sources.iter().filter_map(of_source).collect();
        let same_name = outline.event_times.iter().find(|name| wanted.contains(*name));
        let Some(event_time) = same_name.or(outline.event_times.first()).cloned() else {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            return Err(problem.only(
                "event time".to_owned(),
                "no column of the view is the event time of its source, unchanged".to_owned(),
                match wanted.as_slice() {
                    [] => "declare `event_time` of its source, and select that column".to_owned(),
                    some => format!("select the column {} as it is", some.join(", ")),
                },
            ));
        };
        let columns = outline.columns.clone();
        // The view stays one, under another name: it may have windows, and state belongs to views.
        let outer = View { name: name.to_owned() + OUTER, query: query.clone(), repartition: None };
        let select = SqlText { sql: format!("SELECT * FROM \"{}\"", outer.name), place: query.place.clone() };
        self.pipeline.views.push(outer);
        self.add(
            name,
            &part,
            select,
            repartition,
            Rows { columns, event_time, upstream: outline.sources.clone(), has_scores: outline.has_scores },
        )
    }

    /// Adds the sink of an internal topic and the source that takes the table's place.
    fn add(
        &mut self,
        name: &str,
        part: &str,
        select: SqlText,
        repartition: &Repartition,
        rows: Rows,
    ) -> Result<(), Problems> {
        check_columns(repartition, &rows.columns, Problem { place: &repartition.place, part })?;
        let upstream: Vec<&Source> =
            self.pipeline.sources.iter().filter(|source| rows.upstream.contains(&source.name)).collect();
        let Some(first) = upstream.iter().find_map(|source| kafka(source)) else {
            let problem = Problem { place: &repartition.place, part };
            let reason = "its rows come from no topic".to_owned();
            return Err(problem.only(
                "repartition".to_owned(),
                reason,
                "repartition rows of a kafka source".to_owned(),
            ));
        };
        let record_bytes = upstream.iter().map(|source| source.max_record_bytes).max().unwrap_or(0);
        let max_lateness = upstream.iter().map(|source| source.max_lateness).max().unwrap_or_default();
        let max_lookback = upstream.iter().map(|source| source.max_lookback).max().unwrap_or_default();
        let internal = InternalTopic {
            topic: repartition.topic.clone(),
            connection: repartition.connection.clone(),
            columns: rows.columns,
            by: repartition.by.clone(),
            event_time: rows.event_time.clone(),
            has_scores: rows.has_scores,
            upstream: rows.upstream.into_iter().collect(),
            outer_topics: outer_topics(&upstream),
            num_partitions: repartition.num_partitions,
            retention: repartition.retention,
            max_record_bytes: record_bytes.saturating_mul(RECORD_BYTES_FACTOR).max(RECORD_BYTES_MIN),
        };
        let ends = upstream.iter().all(|source| kafka(source).is_none_or(|kafka| kafka.until == Until::Now));
        // A consumer like the one before it: what the user has tuned there (session.timeout.ms, say) holds here too.
        let options = first.connection.options.clone();
        let connector = SourceConnector::Kafka(KafkaSource {
            connection: KafkaConnection { options, ..repartition.connection.clone() },
            topics: vec![repartition.topic.clone()],
            group: format!("{}.{name}", first.group),
            start: StartPosition::Earliest,
            until: if ends { Until::Now } else { Until::Forever },
            rate_limit: None,
            on_data_loss: DataLossPolicy::Fail,
            metadata_refresh: first.metadata_refresh,
            partitioner: None,
            trusts_timestamps: false,
        });
        self.sinks.push(Sink {
            name: name.to_owned() + INTERNAL,
            select,
            connector: SinkConnector::Internal(internal.clone()),
        });
        self.pipeline.sources.push(Source {
            name: name.to_owned(),
            connector,
            columns: Vec::new(),
            metadata: Vec::new(),
            checks: Vec::new(),
            event_time: Some(rows.event_time),
            partitioned_by: repartition.by.clone(),
            max_future_skew: std::time::Duration::MAX,
            max_lateness,
            max_lookback,
            max_record_bytes: internal.max_record_bytes,
            max_rejection_rate: None,
            rejection_window: 1,
            repartition: None,
            internal: Some(internal),
        });
        Ok(())
    }
}

/// What goes through an internal topic.
struct Rows {
    columns: SchemaRef,
    event_time: String,
    upstream: BTreeSet<String>,
    has_scores: bool,
}

fn kafka(source: &Source) -> Option<&KafkaSource> {
    match &source.connector {
        SourceConnector::Kafka(kafka) => Some(kafka),
        SourceConnector::Files(_) | SourceConnector::Generator(_) => None,
    }
}

/// Topics of which an internal one takes its number of partitions. In a row of several it is that of the first.
fn outer_topics(upstream: &[&Source]) -> Vec<(KafkaConnection, String)> {
    let mut topics = Vec::new();
    for source in upstream {
        match (&source.internal, kafka(source)) {
            (Some(internal), _) => topics.extend(internal.outer_topics.iter().cloned()),
            (None, Some(kafka)) => {
                topics.extend(kafka.topics.iter().map(|topic| (kafka.connection.clone(), topic.clone())));
            }
            (None, None) => {}
        }
    }
    topics
}

/// Where a problem lies.
#[derive(Clone, Copy)]
struct Problem<'a> {
    place: &'a Place,
    part: &'a str,
}

impl Problem<'_> {
    fn of(self, clause: String, reason: String, alternative: String) -> PlanProblem {
        PlanProblem { place: self.place.clone(), part: self.part.to_owned(), clause, reason, alternative }
    }

    fn only(self, clause: String, reason: String, alternative: String) -> Problems {
        vec![self.of(clause, reason, alternative)]
    }
}

fn check_columns(repartition: &Repartition, columns: &SchemaRef, problem: Problem<'_>) -> Result<(), Problems> {
    let mut problems = Vec::new();
    let types: HashMap<&str, _> =
        columns.fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect();
    for column in &repartition.by {
        match types.get(column.as_str()) {
            None => {
                let names: Vec<String> = columns.fields().iter().map(|field| field.name().clone()).collect();
                let help = choices("columns", column, &names);
                problems.push(problem.of(format!("by `{column}`"), "there is no such column".to_owned(), help));
            }
            Some(data_type) if !can_be_key(data_type) => {
                let reason = format!("a column of type {data_type} cannot be a key");
                let help = "use columns of whole numbers, text, booleans or times".to_owned();
                problems.push(problem.of(format!("by `{column}`"), reason, help));
            }
            Some(_) => {}
        }
    }
    if let Some(field) = unsupported(columns) {
        let reason = format!("a value of type {} cannot go through a topic", field.data_type());
        let help = "leave the column out, or select its parts".to_owned();
        problems.push(problem.of(format!("column `{}`", field.name()), reason, help));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[cfg(test)]
#[path = "repartition_tests.rs"]
mod tests;
