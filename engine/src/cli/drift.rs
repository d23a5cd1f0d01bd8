//! `tidemill drift`: what a pipeline made of a stored period, held against what its models were trained on. Ends with 0 when
//! somebody should act, with 99 when not. Connects to no broker, and writes nothing but its result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use tidemill_udfs::functions::Models;

use super::replay::{parse_input, progress_bar, show_progress};
use super::{Environment, Outcome, PipelineFile, load, print};
use crate::error::{Error, Result};
use crate::model::Library;
use crate::model::drift::{DriftSettings, DriftState, Verdict, WindowDrift};
use crate::model::profile::{REFERENCE_PROFILE_FILE, ReferenceProfile, SCORE};
use crate::model::reference::ModelReference;
use crate::model::registry::{Fetch, Registry};
use crate::observe::labels::{LabelsStatus, QualityStatus};
use crate::pipeline::settings::{LabelSide, Labels, Pipeline, Sink, SinkConnector, Source};
use crate::replay::needed::needed;
use crate::replay::{Input, Replay};
use crate::runtime::drift::{DriftBoard, ModelVerdict, drift_settings};
use crate::runtime::labels::{LabelBoard, with_label_sinks};
use crate::runtime::tasks;

/// Features of a window that a line shows.
const WORST_SHOWN: usize = 3;
/// The share of judged rows with an incomplete history from which on it is said.
const INCOMPLETE_SAID: f64 = 0.05;

#[derive(Debug, clap::Args)]
pub(crate) struct DriftArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Stored rows of a source: a file or a folder, local or s3://. Once per source that the sinks reach. What came before the
    /// period belongs to it: the features have history.
    #[arg(long = "input", value_name = "SOURCE=PATH", required = true, value_parser = parse_input)]
    inputs: Vec<(String, String)>,
    /// What to compare with in place of what the pipeline's model was trained on: a model directory, its reference_profile.json, or
    /// a model of the registry, such as models:/fraud@champion.
    #[arg(long, value_name = "PATH")]
    reference: Option<String>,
    /// The registry, in place of the pipeline's.
    #[arg(long, value_name = "URI")]
    registry: Option<String>,
    /// First event time of the period, RFC 3339 or YYYY-MM-DD (UTC). When it is not given: behind the rows that the model was
    /// trained on.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<i64>,
    /// First event time behind the period.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<i64>,
    /// PSI above which a difference is far, in place of the pipeline's `drift.act`.
    #[arg(long, value_name = "PSI")]
    act: Option<f64>,
    /// Windows in a row in which a feature or the score must be far, in place of the pipeline's `drift.consecutive`.
    #[arg(long, value_name = "N")]
    consecutive: Option<usize>,
    /// Rows that a window needs, in place of the pipeline's `drift.min_rows`.
    #[arg(long, value_name = "ROWS")]
    min_rows: Option<u64>,
    /// Print the result as one line of JSON, last.
    #[arg(long)]
    json: bool,
    /// Write the result as JSON to this file.
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,
}

/// Microseconds since 1970-01-01 UTC.
fn parse_time(text: &str) -> Result<i64, String> {
    let whole = if text.contains(['T', 't', ' ']) { text.to_owned() } else { format!("{text}T00:00:00Z") };
    DateTime::parse_from_rfc3339(&whole)
        .map(|time| time.timestamp_micros())
        .map_err(|_| "expected a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31".to_owned())
}

pub(crate) fn run(arguments: &DriftArguments, environment: &Environment) -> Result<Outcome> {
    let mut pipeline = load(&arguments.pipeline.file, environment)?;
    pipeline.registry = arguments.registry.clone().or(pipeline.registry);
    let settings = settings(&pipeline, arguments)?;
    let input = |(source, uri): &(String, String)| Input { source: source.clone(), uri: uri.clone(), format: None };
    let inputs: Vec<Input> = arguments.inputs.iter().map(input).collect();
    let named = arguments.reference.as_deref();
    let named = named.map(|uri| named_reference(uri, pipeline.registry.as_deref(), environment)).transpose()?;
    let (pipeline, labels) = with_labels(pipeline, &inputs);
    let label_sides = label_sides(&pipeline);
    let mut board = None;
    let replay = Replay::open_observed(&pipeline, environment, &inputs, |models| {
        let made = Arc::new(board_for(&pipeline, models, named, settings, arguments, environment)?);
        board = Some(Arc::clone(&made));
        Ok(made)
    })?;
    let board = board.ok_or_else(|| Error::internal("the replay asked for no board"))?;
    let labels = labels.map(|labels| LabelBoard::new(&labels).within(board.period().clone()));
    let bar = progress_bar();
    let counts = replay.run(
        |sink, rows| match (&labels, label_sides.get(&sink)) {
            (Some(labels), Some(side)) => labels.write(*side, &rows),
            _ => Ok(()),
        },
        |progress| show_progress(&bar, progress),
    );
    bar.finish_and_clear();
    let counts = counts?;
    let verdicts = board.verdicts();
    if verdicts.iter().all(|verdict| verdict.judged.as_ref().is_none_or(|(verdict, _)| verdict.windows.is_empty())) {
        return Err(Error::data(format!(
            "{} rows were read, and none of them was scored within the period; it begins {}: name another with --from and --to",
            counts.read,
            shown(board.period().start)
        )));
    }
    let acts =
        verdicts.iter().any(|verdict| matches!(&verdict.judged, Some((Verdict { state: DriftState::Act, .. }, _))));
    let labels = labels.map(|labels| labels.report());
    let result = json!({
        "command": "drift",
        "drift": acts,
        "from": shown(board.period().start),
        "models": verdicts.iter().map(|verdict| as_json(&verdict.status())).collect::<Result<Vec<Value>>>()?,
        "labels": labels.as_ref().map(as_json).transpose()?,
    });
    let text: Vec<String> = verdicts.iter().map(table).chain(labels.as_ref().map(quality_table)).collect();
    print(&text.join("\n\n"));
    super::give_result(&result, arguments.json, arguments.result_file.as_deref())?;
    Ok(if acts { Outcome::Done } else { Outcome::NothingToDo })
}

fn settings(pipeline: &Pipeline, arguments: &DriftArguments) -> Result<DriftSettings> {
    let mut settings = DriftSettings { windows_max: usize::MAX, ..drift_settings(&pipeline.drift) };
    settings.act = arguments.act.unwrap_or(settings.act);
    settings.watch = settings.watch.min(settings.act);
    settings.consecutive = arguments.consecutive.unwrap_or(settings.consecutive);
    settings.min_rows = arguments.min_rows.unwrap_or(settings.min_rows);
    let mut problems = Vec::new();
    if !(settings.act > 0.0 && settings.act <= 10.0) {
        problems.push(format!("--act: expected a number above 0 and at most 10, found {}", settings.act));
    }
    if settings.consecutive == 0 {
        problems.push("--consecutive: expected at least 1, found 0".to_owned());
    }
    if let (Some(from), Some(to)) = (arguments.from, arguments.to)
        && from >= to
    {
        problems.push(format!("--from {} is not before --to {}", shown(from), shown(to)));
    }
    if problems.is_empty() { Ok(settings) } else { Err(Error::invalid(problems.join("\n"))) }
}

fn named_reference(uri: &str, registry: Option<&str>, environment: &Environment) -> Result<ReferenceProfile> {
    let io = tasks::io_runtime()?;
    let lookup = |name: &str| environment.get(name).cloned();
    let context = |error: Error| error.context(format!("--reference {uri}"));
    let found = if ModelReference::is_reference(uri) {
        io.block_on(registered_profile(uri, registry, environment)).map_err(context)?
    } else {
        io.block_on(crate::model::reference_beside(uri, &lookup)).map_err(context)?
    };
    found.ok_or_else(|| {
        Error::invalid(format!(
            "--reference {uri}: expected a model directory with a {REFERENCE_PROFILE_FILE}, found none in it"
        ))
    })
}

async fn registered_profile(
    uri: &str,
    registry: Option<&str>,
    environment: &Environment,
) -> Result<Option<ReferenceProfile>> {
    let lookup = |name: &str| environment.get(name).cloned();
    let place = registry.map(str::to_owned).or_else(|| Registry::place_of(&lookup));
    let place =
        place.ok_or_else(|| Error::invalid("there is no registry to look it up in; name one with --registry"))?;
    let registry = Registry::open(&place, &lookup)?;
    let version = registry.resolve(&uri.parse()?).await?;
    let package = registry.fetch(&version, Fetch::Only(&[REFERENCE_PROFILE_FILE])).await?;
    package.text(REFERENCE_PROFILE_FILE)?.map(ReferenceProfile::from_json).transpose()
}

/// The board with the profiles of the models that the sinks need.
fn board_for(
    pipeline: &Pipeline,
    models: &Models,
    named: Option<ReferenceProfile>,
    settings: DriftSettings,
    arguments: &DriftArguments,
    environment: &Environment,
) -> Result<DriftBoard> {
    let profiles = match named {
        Some(profile) => named_for(profile, models)?,
        None => {
            let io = tasks::io_runtime()?;
            io.block_on(crate::model::profiles(&Library::open(pipeline, environment)?, &pipeline.models))?
        }
    };
    let Some(trained_until) = profiles.iter().map(|(_, profile)| profile.last_event_time).max() else {
        let names: Vec<&str> = models.names().collect();
        return Err(Error::invalid(format!(
            "no model of this pipeline has a reference profile: there is none beside {}; train with `tidemill train`, or name one with \
             --reference",
            if names.is_empty() { "any".to_owned() } else { names.join(", ") }
        )));
    };
    let from = arguments.from.unwrap_or(trained_until.saturating_add(1));
    let board = DriftBoard::new(settings).within(from..arguments.to.unwrap_or(i64::MAX));
    for (sha256, profile) in profiles {
        board.set_reference(&sha256, profile);
    }
    Ok(board)
}

/// A named profile belongs to every model with its features.
fn named_for(profile: ReferenceProfile, models: &Models) -> Result<Vec<(String, ReferenceProfile)>> {
    let features: Vec<&String> = profile.features.iter().map(|feature| &feature.name).collect();
    let mut found = Vec::new();
    for name in models.names() {
        let Ok(slot) = models.slot(name) else { continue };
        let model = slot.current();
        if model.model.feature_names().iter().eq(features.iter().copied()) {
            found.push((model.sha256.clone(), profile.clone()));
        }
    }
    if found.is_empty() {
        return Err(Error::invalid(format!(
            "--reference: its features are those of no model of this pipeline: {}",
            profile.features.iter().map(|feature| feature.name.as_str()).collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(found)
}

/// The pipeline with the sinks of its labels, where it has labels and an input for them: then how good the scores were is part
/// of the answer.
fn with_labels(pipeline: Pipeline, inputs: &[Input]) -> (Pipeline, Option<Labels>) {
    let with = with_label_sinks(&pipeline);
    let has_input = |source: &Source| inputs.iter().any(|input| input.source == source.name);
    match &with.labels {
        Some(labels) if needed(&with).sources.iter().all(has_input) => {
            // Of stored rows none is too many.
            let labels = Labels { max_rows: usize::MAX, ..labels.clone() };
            (with, Some(labels))
        }
        _ => (pipeline, None),
    }
}

fn label_sides(pipeline: &Pipeline) -> BTreeMap<usize, LabelSide> {
    let side = |(index, sink): (usize, &Sink)| match sink.connector {
        SinkConnector::Labels(side) => Some((index, side)),
        _ => None,
    };
    pipeline.sinks.iter().enumerate().filter_map(side).collect()
}

/// One line per model version and segment, and one for all.
fn quality_table(labels: &LabelsStatus) -> String {
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}"));
    let line = |group: &QualityStatus, name: &str| {
        format!(
            "{name:<30} {:>10} {:>8} {:>10} {:>9} {:>7} {:>7} {:>12}",
            group.served,
            group.alerts,
            group.labelled,
            share(group.precision),
            share(group.recall),
            share(group.pr_auc),
            group.false_positives
        )
    };
    let mut lines = vec![format!(
        "{:<30} {:>10} {:>8} {:>10} {:>9} {:>7} {:>7} {:>12}",
        "labels, by version and segment",
        "served",
        "alerts",
        "labelled",
        "precision",
        "recall",
        "PR-AUC",
        "false alerts"
    )];
    let groups = labels.groups.iter().filter(|group| !group.model_version.is_empty() || !group.segment.is_empty());
    lines.extend(groups.map(|group| line(group, &format!("{} {}", group.model_version, group.segment))));
    lines.push(line(&labels.all, "all"));
    lines.push(format!(
        "{} labels found their rows, {} did not, {} wait for theirs",
        labels.matched, labels.unmatched, labels.waiting
    ));
    lines.join("\n")
}

fn as_json(part: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(part)
        .map_err(|error| Error::internal("the result cannot be written as JSON").with_source(error))
}

/// A time, for a person.
fn shown(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map_or_else(|| "with the first row".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// One line per window.
fn table(verdict: &ModelVerdict) -> String {
    let Some((judged, _)) = &verdict.judged else {
        return format!("model {} version {}: no reference profile", verdict.model, verdict.version);
    };
    let mut lines = vec![
        format!("model {} version {}: {}", verdict.model, verdict.version, in_words(judged)),
        format!(
            "{:<22} {:>10} {:>5} {:>8} {:>7} {:>7}  furthest features (PSI)",
            "window from (UTC)", "rows", "day", "history", "score", "KS"
        ),
    ];
    lines.extend(judged.windows.iter().map(line));
    if let Some(window) = judged.windows.last() {
        let reason = |column: &crate::model::drift::ColumnDrift| {
            column.not_judged.as_ref().map(|reason| format!("not judged: {}: {reason}", column.name))
        };
        lines.extend(window.columns.iter().filter_map(reason));
    }
    let incomplete = incomplete_share(judged.windows.iter().filter(|window| window.is_judged));
    if incomplete > INCOMPLETE_SAID {
        lines.push(format!(
            "{:.0} % of the judged rows come so soon behind the first stored row that their windows reach behind it; what they miss \
             can look like drift. Give more of the past with --input, or name a later --from.",
            incomplete * 100.0
        ));
    }
    lines.join("\n")
}

/// The share of the rows whose SQL windows reach behind the first record.
fn incomplete_share<'a>(windows: impl IntoIterator<Item = &'a WindowDrift>) -> f64 {
    let sum =
        |(rows, incomplete), window: &WindowDrift| (rows + window.rows, incomplete + window.rows_history_incomplete);
    let (rows, incomplete) = windows.into_iter().fold((0, 0), sum);
    if rows == 0 { 0.0 } else { incomplete as f64 / rows as f64 }
}

fn in_words(verdict: &Verdict) -> String {
    let names = |names: &[String]| names.join(", ");
    match verdict.state {
        DriftState::TooFewRows => "no window has enough rows from enough of the day to be judged".to_owned(),
        DriftState::Steady => "no drift".to_owned(),
        DriftState::Watch => format!("to be watched: {}", names(&verdict.watched)),
        DriftState::Act => format!("drift: {}", names(&verdict.acting)),
    }
}

fn line(window: &WindowDrift) -> String {
    let score = window.columns.iter().find(|column| column.name == SCORE).map(|column| column.distance);
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"));
    let mut features: Vec<_> =
        window.columns.iter().filter(|column| column.name != SCORE && column.not_judged.is_none()).collect();
    features.sort_by(|a, b| b.distance.psi.total_cmp(&a.distance.psi));
    let worst: Vec<String> =
        features.iter().take(WORST_SHOWN).map(|column| format!("{} {:.3}", column.name, column.distance.psi)).collect();
    format!(
        "{:<22} {:>10} {:>4.0}% {:>7.0}% {:>7} {:>7}  {}{}",
        shown(window.start),
        window.rows,
        window.coverage * 100.0,
        100.0 * (1.0 - incomplete_share([window])),
        number(score.map(|score| score.psi)),
        number(score.map(|score| score.ks)),
        worst.join(", "),
        if window.is_judged { "" } else { "  (not judged)" }
    )
}
