//! What `tidemill check` prints of a file that is right: what was understood, on one screen. Never a secret.

use std::path::Path;
use std::time::Duration;

use super::problem::Problems;
use super::settings::{
    Checkpoint, Delivery, LabelSide, Model, Pipeline, Repartition, SinkConnector, Source, SourceConnector,
    StartPosition, Training, Until, View,
};
use super::text::{ByteSize, TextForm};

/// Validates a pipeline file and says what it means.
///
/// # Errors
/// All problems of the file.
pub fn check(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Problems> {
    let pipeline = Pipeline::load(path, env)?;
    Ok(format!("{}: the file is valid\n{}", path.display(), report(&pipeline)))
}

fn report(pipeline: &Pipeline) -> String {
    let mut rows: Vec<(&str, &str, String)> = vec![("pipeline", &pipeline.name, String::new())];
    rows.extend(pipeline.sources.iter().map(|source| ("source", source.name.as_str(), source_text(source))));
    rows.extend(pipeline.registry.iter().map(|registry| ("registry", "", registry.clone())));
    rows.extend(pipeline.models.iter().map(|model| ("model", model.name.as_str(), model_text(model))));
    let view_text = |view: &View| view.query.place.to_string() + &repartition_text(view.repartition.as_ref());
    rows.extend(pipeline.views.iter().map(|view| ("view", view.name.as_str(), view_text(view))));
    rows.extend(pipeline.sinks.iter().map(|sink| ("sink", sink.name.as_str(), output_text(&sink.connector))));
    let dead_letter = pipeline.dead_letter.as_ref().map(|one| output_text(&one.connector));
    rows.push((
        "dead letter",
        "",
        dead_letter.unwrap_or_else(|| "none: a rejected record stops the pipeline".to_string()),
    ));
    rows.push(("checkpoint", "", checkpoint_text(pipeline.checkpoint.as_ref())));
    let delivery = match pipeline.delivery {
        Delivery::AtLeastOnce => "at least once",
        Delivery::ExactlyOnce => "exactly once",
    };
    rows.push(("delivery", "", delivery.to_string()));
    rows.push(("run", "", run_text(pipeline)));
    rows.extend(
        pipeline.training.iter().map(|training| ("training", training.model.as_str(), training_text(training))),
    );
    rows.push(("http", "", pipeline.http.map_or_else(|| "off".to_string(), |address| address.to_string())));
    let width = rows.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (kind, name, what) in rows {
        let line = format!("{kind:<11}  {name:<width$}  {what}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn training_text(training: &Training) -> String {
    format!(
        "label {}, {} sets of parameters tried, the threshold is {}",
        training.label, training.trials, training.threshold
    )
}

fn model_text(model: &Model) -> String {
    let threshold =
        model.threshold.map_or_else(|| "its own threshold".to_string(), |threshold| format!("threshold {threshold}"));
    let reload = model.reload.map_or_else(String::new, |every| format!(", followed every {}", every.print()));
    let challenger = model.challenger.as_ref().map_or_else(String::new, |uri| format!(", challenger {uri}"));
    format!("{}, {threshold}{reload}{challenger}", model.uri)
}

fn source_text(source: &Source) -> String {
    let from = match &source.connector {
        SourceConnector::Kafka(kafka) => {
            let start = match &kafka.start {
                StartPosition::Earliest => "the oldest record".to_string(),
                StartPosition::Latest => "the newest record".to_string(),
                StartPosition::Timestamp(millis) => super::text::TimestampMillis(*millis).print(),
                StartPosition::Offsets(offsets) => format!("{} given offsets", offsets.len()),
            };
            let until = match kafka.until {
                Until::Forever => "",
                Until::Now => " until now",
            };
            let (topics, servers) = (kafka.topics.join(", "), &kafka.connection.bootstrap_servers);
            format!("kafka {topics} at {servers} as group {}, from {start}{until}", kafka.group)
        }
        SourceConnector::Files(files) => format!("files {}", files.path),
        SourceConnector::Generator(generator) => format!("generator with seed {}", generator.seed),
    };
    let event_time =
        source.event_time.as_ref().map_or_else(|| "no event time".to_string(), |name| format!("event time {name}"));
    let (columns, checks) = (source.columns.len() + source.metadata.len(), source.checks.len());
    let through = repartition_text(source.repartition.as_ref());
    format!("{from}; {}, {}, {event_time}{through}", count(columns, "column"), count(checks, "check"))
}

fn repartition_text(repartition: Option<&Repartition>) -> String {
    let Some(Repartition { by, topic, num_partitions, retention, .. }) = repartition else { return String::new() };
    let partitions = num_partitions.map_or_else(String::new, |number| {
        format!(" of {}", count(usize::try_from(number).unwrap_or(usize::MAX), "partition"))
    });
    let kept = retention.print();
    format!("; by {} through topic {topic}{partitions}, kept {kept} when it is made", by.join(", "))
}

fn output_text(connector: &SinkConnector) -> String {
    match connector {
        SinkConnector::Kafka(kafka) => {
            let key = kafka.key.as_ref().map_or_else(String::new, |key| format!(", key {key}"));
            format!("kafka {} at {}{key}", kafka.topic, kafka.connection.bootstrap_servers)
        }
        SinkConnector::Parquet(parquet) => {
            let size = ByteSize(u64::try_from(parquet.max_bytes).unwrap_or(u64::MAX)).print();
            let age = parquet.max_age.print();
            let positions = if parquet.has_positions { ", with positions" } else { "" };
            format!("parquet {}{positions}; a file ends at {} rows, {size} or {age}", parquet.path, parquet.max_rows)
        }
        SinkConnector::Console => "console".to_string(),
        SinkConnector::Labels(LabelSide::Served) => "memory, for labels".to_string(),
        SinkConnector::Labels(LabelSide::Reported) => "memory, for what was served".to_string(),
        SinkConnector::Internal(internal) => {
            format!("kafka {} at {}", internal.topic, internal.connection.bootstrap_servers)
        }
    }
}

fn checkpoint_text(checkpoint: Option<&Checkpoint>) -> String {
    match checkpoint {
        Some(checkpoint) => {
            let interval = checkpoint.interval.print();
            let snapshots = checkpoint.snapshot_interval.print();
            let (path, retain) = (&checkpoint.path, checkpoint.retain);
            format!("{path} every {interval}, {retain} kept per partition, state every {snapshots}")
        }
        None => "none: every run starts where the sources' `start` says".to_string(),
    }
}

fn run_text(pipeline: &Pipeline) -> String {
    let run = &pipeline.run;
    let wait = match run.max_wait {
        Duration::ZERO => "as soon as there is data".to_string(),
        wait => format!("within {}", wait.print()),
    };
    format!("{}, epochs of up to {} rows {wait}", count(run.workers, "worker"), run.max_batch_rows)
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
