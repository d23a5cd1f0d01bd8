//! `tidemill model gate`: may this version take the champion's place? What training found out is read, checked against the champion of
//! today, and kept as a tag that `promote` asks for. With `--rescore` both models are scored again on stored rows. Promotes nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tidemill_udfs::functions::score_arrays;
use tidemill_udfs::scorer::Model;

use super::{Answer, Outcome, RegistryPlace};
use crate::checkpoint::sha256_hex;
use crate::cli::Environment;
use crate::error::{Error, Result};
use crate::model::gate::GateReport;
use crate::model::package::{GATE_FILE, Package};
use crate::model::reference::ModelReference;
use crate::model::registry::{Fetch, GATE_PASSED, GATE_TAG, ModelVersion, Registry};
use crate::runtime::clock;

/// Rows that are scored at a time when scoring is measured, and how often.
const MEASURED_ROWS: usize = 4096;
const MEASUREMENTS: usize = 5;
/// Characters of a verdict in a tag.
const VERDICT_CHARS: usize = 400;

#[derive(Debug, clap::Args)]
pub(super) struct GateArguments {
    /// The model.
    name: String,
    /// The version that would be promoted.
    #[arg(long)]
    version: String,
    /// The alias whose version it would replace.
    #[arg(long, default_value = crate::model::reference::CHAMPION)]
    alias: String,
    /// Score both versions again, on --input, with the views of this pipeline file. Without it the verdict of the training is
    /// read, which holds as long as the champion is the one that it was compared with.
    #[arg(long, value_name = "FILE", requires = "inputs")]
    rescore: Option<PathBuf>,
    /// Rows of a source for --rescore: those of the candidate's test period are judged on, the others are history.
    #[arg(long = "input", value_name = "SOURCE=PATH", requires = "rescore", value_parser = crate::cli::replay::parse_input)]
    inputs: Vec<(String, String)>,
    #[command(flatten)]
    place: RegistryPlace,
    #[command(flatten)]
    answer: Answer,
}

/// A version with its files.
struct Fetched {
    version: ModelVersion,
    package: Package,
}

impl Fetched {
    fn name(&self) -> String {
        format!("version {} of {}", self.version.version, self.version.name)
    }
}

pub(super) async fn gate(arguments: &GateArguments, environment: &Environment) -> Result<Outcome> {
    let registry = arguments.place.open(environment)?;
    let reference = ModelReference::version(&arguments.name, &arguments.version)?;
    let candidate = fetch(&registry, registry.resolve(&reference).await?).await?;
    let champion = match registry.find(&ModelReference::alias(&arguments.name, &arguments.alias)?).await? {
        // The champion need not be better than itself.
        Some(version) if version.version == candidate.version.version => None,
        Some(version) => Some(fetch(&registry, version).await?),
        None => None,
    };
    let mut report = match &arguments.rescore {
        // Reading, scoring and the bootstrap take their time: not on a thread of the runtime.
        Some(_) => tokio::task::block_in_place(|| rescored(arguments, environment, &candidate, champion.as_ref()))?,
        None => of_training(&candidate, champion.as_ref())?,
    };
    report.add_scoring_time(scoring_micros(&candidate)?);
    let verdict = verdict(&report);
    let tags = BTreeMap::from([(GATE_TAG.to_owned(), verdict.clone())]);
    registry.set_tags(&arguments.name, &arguments.version, &tags).await?;
    let version_of_champion = champion.as_ref().map(|champion| champion.version.version.as_str());
    arguments.answer.give(&shown(&report, &candidate), &answer(&report, &candidate, version_of_champion, &verdict)?)?;
    Ok(if report.passed { Outcome::Done } else { Outcome::NothingToDo })
}

async fn fetch(registry: &Registry, version: ModelVersion) -> Result<Fetched> {
    let package = registry.fetch(&version, Fetch::All).await?;
    Ok(Fetched { version, package })
}

/// What the training found out, if it still holds.
fn of_training(candidate: &Fetched, champion: Option<&Fetched>) -> Result<GateReport> {
    let Some(text) = candidate.package.text(GATE_FILE)? else {
        return Err(Error::invalid(format!(
            "{} has no {GATE_FILE}, so nobody has judged it; score it with --rescore FILE --input SOURCE=PATH",
            candidate.name()
        )));
    };
    let mut report =
        GateReport::parse(text).map_err(|error| error.context(format!("{}: {GATE_FILE}", candidate.name())))?;
    let sha256 = sha256_hex(candidate.package.model_text()?.as_bytes());
    if report.candidate_sha256 != sha256 {
        return Err(Error::data(format!(
            "{}: {GATE_FILE} is of another model; score it with --rescore FILE --input SOURCE=PATH",
            candidate.name()
        )));
    }
    candidate.version.version.clone_into(&mut report.candidate);
    if let Some(champion) = champion {
        let sha256 = sha256_hex(champion.package.model_text()?.as_bytes());
        if report.champion_sha256.as_ref() == Some(&sha256) {
            report.champion = Some(champion.version.version.clone());
        } else {
            let judged = report.champion.clone().unwrap_or_else(|| "no champion".to_owned());
            report.add_unjudged_champion(&format!(
                "the training compared it with {judged}, and the champion is {} now: score both with --rescore FILE --input \
                 SOURCE=PATH, or train again",
                champion.name()
            ));
        }
    }
    Ok(report)
}

#[cfg(not(feature = "lightgbm"))]
fn rescored(_: &GateArguments, _: &Environment, _: &Fetched, _: Option<&Fetched>) -> Result<GateReport> {
    Err(Error::invalid(
        "--rescore: this program was built without training; build it with `make build`, or `cargo build --features lightgbm`",
    ))
}

#[cfg(feature = "lightgbm")]
fn rescored(
    arguments: &GateArguments,
    environment: &Environment,
    candidate: &Fetched,
    champion: Option<&Fetched>,
) -> Result<GateReport> {
    use crate::train::{Champion, Rescore, rescore, training_of};
    let Some(file) = &arguments.rescore else { return Err(Error::internal("there is no file to score with")) };
    let pipeline = crate::cli::load(file, environment)?;
    let input = |(source, uri): &(String, String)| crate::replay::Input {
        source: source.clone(),
        uri: uri.clone(),
        format: None,
    };
    let inputs: Vec<crate::replay::Input> = arguments.inputs.iter().map(input).collect();
    let contender = |fetched: &Fetched| Champion { name: fetched.name(), package: fetched.package.clone() };
    let (candidate, champion) = (contender(candidate), champion.map(contender));
    rescore(&Rescore {
        pipeline: &pipeline,
        training: training_of(&pipeline)?,
        environment,
        inputs: &inputs,
        candidate: &candidate,
        champion: champion.as_ref(),
    })
}

/// What scoring one row takes on this machine: the best of some measurements on the rows of the self-test, or on missing values.
fn scoring_micros(candidate: &Fetched) -> Result<f64> {
    use arrow::array::{ArrayRef, Float64Array};
    let text = candidate.package.model_text()?;
    let model =
        Model::parse(text).map_err(|error| Error::data(format!("{} cannot be read: {error}", candidate.name())))?;
    let rows = candidate.package.self_test()?.map_or_else(Vec::new, |test| test.rows);
    let column = |feature: usize| {
        let value = |row: usize| rows.get(row % rows.len().max(1)).and_then(|row| row.get(feature)).copied();
        let values = (0..MEASURED_ROWS).map(|row| value(row).unwrap_or(f64::NAN));
        std::sync::Arc::new(Float64Array::from_iter_values(values)) as ArrayRef
    };
    let columns: Vec<ArrayRef> = (0..model.feature_names().len()).map(column).collect();
    let mut best = f64::INFINITY;
    for _ in 0..MEASUREMENTS {
        let started = clock::now();
        score_arrays(&model, &columns, MEASURED_ROWS)
            .map_err(|error| Error::internal("the model cannot score").with_source(error))?;
        best = best.min(started.elapsed().as_secs_f64() * 1e6 / MEASURED_ROWS as f64);
    }
    Ok((best * 1e3).round() / 1e3)
}

/// What `promote` reads.
fn verdict(report: &GateReport) -> String {
    if report.passed {
        return GATE_PASSED.to_owned();
    }
    format!("refused: {}", report.failed().join(", ")).chars().take(VERDICT_CHARS).collect()
}

fn shown(report: &GateReport, candidate: &Fetched) -> String {
    let beside = report.champion.as_ref().map_or_else(
        || "there is no champion, so the absolute rules only".to_owned(),
        |champion| format!("beside {champion}"),
    );
    let word = if report.passed { "passed" } else { "did not pass" };
    let mut text = format!(
        "{} {word} the gate ({beside}; {} rows, {} of them positive)",
        candidate.name(),
        report.rows,
        report.positives
    );
    for check in &report.checks {
        let mark = if check.ok { "ok    " } else { "NOT OK" };
        text.push_str(&format!("\n  {mark} {}: {}", check.name, check.why));
    }
    text
}

fn answer(report: &GateReport, candidate: &Fetched, champion: Option<&str>, verdict: &str) -> Result<Value> {
    let failed = |error| Error::internal("a gate's report cannot be written").with_source(error);
    let reasons: Vec<String> =
        report.checks.iter().filter(|check| !check.ok).map(|check| format!("{}: {}", check.name, check.why)).collect();
    Ok(json!({
        "command": "gate",
        "model": candidate.version.name,
        "version": candidate.version.version,
        "champion": champion,
        "passed": report.passed,
        "gate": verdict,
        "reasons": reasons,
        "report": serde_json::to_value(report).map_err(failed)?,
    }))
}
