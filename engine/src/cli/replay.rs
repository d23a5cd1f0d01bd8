//! `tidemill replay`: a pipeline over stored rows, each sink's rows into one file. Connects to no broker, and touches neither
//! checkpoints nor the pipeline's own sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::{Environment, PipelineFile, load, print};
use crate::error::{Error, Result};
use crate::pipeline::settings::{FileFormat, Pipeline};
use crate::replay::needed::{Output, with_outputs};
use crate::replay::output::OutputFile;
use crate::replay::{Counts, Input, Order, Progress, Replay, all_columns, compare_files, default_workers};
use crate::runtime::clock;

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Stored rows of a source: a file or a folder, local or s3://. Once per source that the sinks reach.
    #[arg(long = "input", value_name = "SOURCE=PATH", required = true, value_parser = parse_input)]
    inputs: Vec<(String, String)>,
    /// Format of the input files; by their names when it is not given.
    #[arg(long, value_enum)]
    input_format: Option<Format>,
    /// Folder for the rows: one file per sink, in place of that of an earlier replay.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Only the rows of this sink; may be given several times. All sinks when it is not given.
    #[arg(long = "sink", value_name = "NAME")]
    sinks: Vec<String>,
    /// The rows of this view, in place of the sinks'; may be given several times. A view that does not score needs no model.
    #[arg(long = "view", value_name = "NAME", conflicts_with_all = ["sinks", "compare"])]
    views: Vec<String>,
    /// Format of the files that are written.
    #[arg(long, value_enum, default_value = "parquet")]
    format: Format,
    /// Stop at the first rejected record.
    #[arg(long)]
    strict: bool,
    /// In which order rows are read. When it is not given: as served if the input says where its rows come from (the files of a
    /// Parquet sink with `positions: true`), else by event time if the pipeline has windows, else as the input has them.
    #[arg(long, value_enum)]
    order: Option<Order>,
    /// Number of threads that compute; one for each processor when it is not given. The rows do not depend on it.
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// The checkpoints of the run that wrote the input: each row is scored by the model, with the threshold, that scored it then. As
    /// served only.
    #[arg(long, value_name = "CHECKPOINT_PATH")]
    models_of: Option<String>,
    /// Hold the rows of a sink against Parquet, a file or a folder, bit for bit; it is an error when they differ. Once per sink.
    #[arg(long, value_name = "[SINK=]PATH")]
    compare: Vec<String>,
    /// Columns that tell one row from all others. When it is not given: _topic, _partition, _offset and _ordinal if both sides
    /// have them, else rows are matched by their order.
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', requires = "compare")]
    compare_by: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Parquet,
    Jsonl,
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> FileFormat {
        match format {
            Format::Parquet => FileFormat::Parquet,
            Format::Jsonl => FileFormat::JsonLines,
        }
    }
}

pub(super) fn parse_input(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((source, path)) if !source.is_empty() && !path.is_empty() => Ok((source.to_owned(), path.to_owned())),
        _ => Err("expected the name of a source and a path, such as transactions=history/".to_owned()),
    }
}

pub(crate) fn run(arguments: &ReplayArguments, environment: &Environment) -> Result<()> {
    let pipeline = of_views(load(&arguments.pipeline.file, environment)?, &arguments.views)?;
    let started = clock::now();
    let selected = selected(&pipeline, &arguments.sinks)?;
    let input = |(source, uri): &(String, String)| Input {
        source: source.clone(),
        uri: uri.clone(),
        format: arguments.input_format.map(FileFormat::from),
    };
    let inputs: Vec<Input> = arguments.inputs.iter().map(input).collect();
    let comparisons = comparisons(&pipeline, &selected, arguments)?;
    let num_workers = arguments.workers.unwrap_or_else(default_workers);
    let models_of = arguments.models_of.as_deref();
    let replay = Replay::open_with(&pipeline, environment, &inputs, arguments.order, num_workers, models_of)?;
    let replay = replay.strict(arguments.strict);
    let orders: Vec<Order> = replay.orders().collect();
    let mut files = Vec::new();
    for (index, sink) in pipeline.sinks.iter().enumerate() {
        let create =
            || OutputFile::create(&arguments.output, &sink.name, arguments.format.into(), replay.sink_schema(index));
        files.push(if selected[index] { Some(create()?) } else { None });
    }
    let bar = progress_bar();
    let counts = replay.run(
        |sink, batch| files[sink].as_mut().map_or(Ok(()), |file| file.write(&batch)),
        |progress| show_progress(&bar, progress),
    );
    bar.finish_and_clear();
    let counts = counts?;
    let mut written = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        if let Some(file) = file {
            written.push((pipeline.sinks[index].name.as_str(), counts.rows[index], file.finish()?));
        }
    }
    let mut text = String::new();
    for (sink, rows, path) in &written {
        text.push_str(&format!("{sink}: {} rows in {}\n", HumanCount(*rows), path.display()));
    }
    text.push_str(&summary(&counts, &orders, started.elapsed()));
    print(text.trim_end());
    let written: BTreeMap<&str, &Path> = written.iter().map(|(sink, _, path)| (*sink, path.as_path())).collect();
    compare(&comparisons, &written, arguments, environment)
}

/// The pipeline with views, by their names, as its sinks; as it is when none is wanted.
fn of_views(pipeline: Pipeline, wanted: &[String]) -> Result<Pipeline> {
    if wanted.is_empty() {
        return Ok(pipeline);
    }
    let output = |name: &String| match pipeline.views.iter().find(|view| view.name == *name) {
        Some(view) => Ok(Output { name: name.clone(), select: all_columns(name, &view.query.place) }),
        None => {
            let names: Vec<&str> = pipeline.views.iter().map(|view| view.name.as_str()).collect();
            Err(Error::invalid(format!("no view is named `{name}`; views of this pipeline: {}", names.join(", "))))
        }
    };
    let outputs = wanted.iter().collect::<BTreeSet<_>>().into_iter().map(output).collect::<Result<Vec<_>>>()?;
    Ok(with_outputs(&pipeline, outputs, &BTreeSet::new()))
}

/// What each `--compare` means: a sink and a path.
fn comparisons(pipeline: &Pipeline, selected: &[bool], arguments: &ReplayArguments) -> Result<Vec<(String, String)>> {
    if arguments.compare.is_empty() {
        return Ok(Vec::new());
    }
    if !matches!(arguments.format, Format::Parquet) {
        return Err(Error::invalid("--compare takes Parquet: leave out --format, or say --format parquet"));
    }
    let names = pipeline.sinks.iter().zip(selected).filter(|(_, is_selected)| **is_selected);
    let names: Vec<&str> = names.map(|(sink, _)| sink.name.as_str()).collect();
    let comparison = |text: &String| match text.split_once('=') {
        Some((sink, path)) if names.contains(&sink) && !path.is_empty() => Ok((sink.to_owned(), path.to_owned())),
        _ if names.len() == 1 => Ok((names[0].to_owned(), text.clone())),
        _ => Err(Error::invalid(format!(
            "--compare {text}: expected SINK=PATH, such as {}=other.parquet; sinks that are written: {}",
            names.first().copied().unwrap_or("alerts"),
            names.join(", ")
        ))),
    };
    arguments.compare.iter().map(comparison).collect()
}

/// Says what differs; it is an error when something does.
fn compare(
    comparisons: &[(String, String)],
    written: &BTreeMap<&str, &Path>,
    arguments: &ReplayArguments,
    environment: &Environment,
) -> Result<()> {
    let mut differing = Vec::new();
    for (sink, there) in comparisons {
        let here = written.get(sink.as_str()).ok_or_else(|| Error::internal("a sink was not written"))?;
        let difference = compare_files(&here.to_string_lossy(), there, &arguments.compare_by, environment)?;
        print(&format!("{sink} compared with {there}: {difference}"));
        if !difference.is_none() {
            differing.push(format!("the rows of {sink} differ from those of {there}"));
        }
    }
    if differing.is_empty() { Ok(()) } else { Err(Error::data(differing.join("; "))) }
}

/// Whether each sink is written.
fn selected(pipeline: &Pipeline, wanted: &[String]) -> Result<Vec<bool>> {
    let names: Vec<&str> = pipeline.sinks.iter().map(|sink| sink.name.as_str()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::invalid(format!(
            "no sink is named `{unknown}`; sinks of this pipeline: {}; rows of a view are written with --view",
            names.join(", ")
        )));
    }
    Ok(names.iter().map(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)).collect())
}

/// On a terminal only: elsewhere indicatif draws nothing.
pub(super) fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar
}

pub(super) fn show_progress(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.bytes_total);
    bar.set_position(progress.bytes_begun);
    bar.set_message(format!("{} rows, {} of files", HumanCount(progress.read), HumanBytes(progress.bytes_total)));
}

/// What was read, what was rejected and why, and how fast.
fn summary(counts: &Counts, orders: &[Order], elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let per_second = if seconds > 0.0 { counts.read as f64 / seconds } else { 0.0 };
    // One order for all sources, or one for each.
    let mut orders: Vec<String> = orders.iter().map(ToString::to_string).collect();
    orders.dedup();
    let orders = orders.join(" and ");
    let mut text = format!(
        "{} rows read, {orders}, {} accepted, {} rejected, in {seconds:.1} s ({per_second:.0} rows/s)\n",
        HumanCount(counts.read),
        HumanCount(counts.accepted),
        HumanCount(counts.num_rejected())
    );
    text.push_str(&rejections(counts));
    text
}

/// Rejected records by source and reason, and the first of them.
pub(super) fn rejections(counts: &Counts) -> String {
    let mut text = String::new();
    for ((source, reason), number) in &counts.rejected {
        text.push_str(&format!("rejected from {source}: {} {reason}\n", HumanCount(*number)));
    }
    if !counts.first_rejected.is_empty() {
        text.push_str("the first:\n");
        for rejected in &counts.first_rejected {
            text.push_str(&format!("  {rejected}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::error::ErrorKind;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        replay: ReplayArguments,
    }

    const PIPELINE: &str = "
pipeline: p
sources:
  t:
    connector: files
    path: in
    format: json_lines
    columns: { id: bigint not null, at: epoch_s not null, v: double }
    event_time: at
sinks:
  all: { connector: console, select: SELECT * FROM t }
  large: { connector: console, select: SELECT id FROM t WHERE v > 1 }
";

    #[test]
    fn rows_of_a_view_are_written_before_there_is_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let scored = PIPELINE.replace("sinks:\n", "models: { m: { uri: nowhere.txt, threshold: 0.5 } }\nviews:\n  large_v: SELECT *, v * 2 AS twice FROM t WHERE v > 1\n  scored: SELECT *, score('m', twice) AS s FROM large_v\nsinks:\n");
        fs::write(at("p.yaml"), scored).unwrap();
        fs::write(at("a.jsonl"), "{\"id\":1,\"at\":5,\"v\":0.5}\n{\"id\":2,\"at\":3,\"v\":2.5}\n").unwrap();
        let replay = |more: &[&str]| {
            let input = format!("t={}", at("a.jsonl"));
            let line = ["replay", &at("p.yaml"), "--input", &input, "--output", &at("out"), "--format", "jsonl"];
            let line = line.into_iter().chain(more.iter().copied()).map(str::to_owned);
            run(&Line::try_parse_from(line).unwrap().replay, &Environment::new())
        };
        replay(&["--view", "large_v"]).unwrap();
        let rows: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(at("out/large_v.jsonl")).unwrap()).unwrap();
        assert_eq!((&rows["id"], &rows["twice"]), (&2.into(), &5.0.into()));
        assert_eq!(replay(&["--view", "scored"]).unwrap_err().kind(), ErrorKind::Invalid);
        let error = replay(&["--view", "large"]).unwrap_err();
        assert_eq!(error.message(), "no view is named `large`; views of this pipeline: large_v, scored");
    }

    #[test]
    fn a_comparison_names_its_sink_and_fails_when_rows_differ() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("p.yaml"), PIPELINE).unwrap();
        let lines = |third: &str| {
            format!(
                "{{\"id\":1,\"at\":5,\"v\":0.5}}\n{{\"id\":2,\"at\":3,\"v\":2.5}}\n{{\"id\":3,\"at\":4,\"v\":{third}}}\n"
            )
        };
        fs::write(at("a.jsonl"), lines("2.5")).unwrap();
        fs::write(at("b.jsonl"), lines("2.5000000000000004")).unwrap();
        let replay = |input: &str, output: &str, more: &[&str]| {
            let input = format!("t={}", at(input));
            let line = ["replay", &at("p.yaml"), "--input", &input, "--output", &at(output)];
            let line = line.into_iter().chain(more.iter().copied()).map(str::to_owned);
            run(&Line::try_parse_from(line).unwrap().replay, &Environment::new())
        };
        replay("a.jsonl", "first", &[]).unwrap();
        let all = format!("all={}", at("first/all.parquet"));
        let large = format!("large={}", at("first/large.parquet"));
        replay("a.jsonl", "again", &["--compare", &all, "--compare", &large]).unwrap();
        let error = replay("b.jsonl", "other", &["--compare", &all, "--compare", &large]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.message(), format!("the rows of all differ from those of {}", at("first/all.parquet")));
        // By event time the rows are others only in their order.
        let by_time = ["--order", "event-time", "--compare", &all];
        assert!(replay("a.jsonl", "sorted", &by_time).is_err());
        replay("a.jsonl", "sorted", &[by_time.as_slice(), &["--compare-by", "id,at"]].concat()).unwrap();
        let refused = |more: &[&str]| replay("a.jsonl", "refused", more).unwrap_err().to_string();
        assert!(refused(&["--compare", "x.parquet"]).contains("expected SINK=PATH, such as all=other.parquet"));
        assert!(refused(&["--compare", &all, "--format", "jsonl"]).contains("--format parquet"));
        assert!(refused(&["--order", "as-served"]).contains("positions: true"));
    }
}
