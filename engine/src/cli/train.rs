//! `tidemill train`: a model from stored history, on the features of the pipeline's own SQL.

use std::path::PathBuf;

use super::{Environment, PipelineFile};
use crate::error::{Error, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Stored rows of a source: `source=path`, Parquet or JSON lines (`*.jsonl`), local or s3://. An archive that says where its
    /// rows come from is read as it was served, late rows late, as the model will see them; other rows by event time.
    #[arg(long, value_name = "SOURCE=PATH", required = true)]
    input: Vec<String>,
    /// The model file to write; its manifest (threshold, quality) goes beside it as `.json`.
    #[arg(long)]
    output: PathBuf,
    /// Name of the model in `score('NAME', ...)`.
    #[arg(long, default_value = "fraud")]
    model: String,
    /// The column that says what is fraud (1) and what is not (0).
    #[arg(long, default_value = "is_fraud")]
    label: String,
    /// The view with the features; by default the one before the view that scores.
    #[arg(long)]
    view: Option<String>,
    /// Trees.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Seed of everything random.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// The threshold is this quantile of the validation scores.
    #[arg(long, default_value_t = 0.995)]
    threshold_quantile: f64,
}

#[cfg(not(feature = "lightgbm"))]
pub(crate) fn run(_: &TrainArguments, _: &Environment) -> Result<()> {
    Err(Error::invalid(
        "this program was built without LightGBM; build it with `make build`, or `cargo build --features lightgbm`",
    ))
}

#[cfg(feature = "lightgbm")]
pub(crate) fn run(arguments: &TrainArguments, environment: &Environment) -> Result<()> {
    check(arguments)?;
    let pipeline = super::load(&arguments.pipeline.file, environment)?;
    let settings = crate::train::TrainSettings {
        model: arguments.model.clone(),
        seed: arguments.seed,
        rounds: arguments.rounds,
        threshold_quantile: arguments.threshold_quantile,
        ..crate::train::TrainSettings::default()
    };
    let query = crate::train::feature_query(&pipeline, &arguments.model, &arguments.label, arguments.view.as_deref())?;
    let inputs = arguments.input.iter().map(|text| input(text)).collect::<Result<Vec<_>>>()?;
    let manifest = train_to(&pipeline, environment, &inputs, &query, &settings, &arguments.output)?;
    super::print(&report(&manifest, &arguments.output));
    Ok(())
}

/// What cannot be, before anything is read or written; all of it at once.
#[cfg(feature = "lightgbm")]
fn check(arguments: &TrainArguments) -> Result<()> {
    let mut problems = Vec::new();
    let output = &arguments.output;
    if output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        problems.push(format!(
            "--output {}: expected a name that does not end in .json, which is the name of the model's manifest; try {}",
            output.display(),
            output.with_extension("txt").display()
        ));
    }
    let quantile = arguments.threshold_quantile;
    if !(quantile > 0.0 && quantile <= 1.0) {
        problems.push(format!("--threshold-quantile: expected a number above 0 and at most 1, found {quantile}"));
    }
    if arguments.rounds == 0 {
        problems.push("--rounds: expected at least 1, found 0".to_owned());
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::invalid(problems.join("\n"))) }
}

/// Trains on the inputs and writes model and manifest, each under a temporary name first.
#[cfg(feature = "lightgbm")]
pub(super) fn train_to(
    pipeline: &crate::pipeline::settings::Pipeline,
    environment: &Environment,
    inputs: &[crate::replay::Input],
    query: &crate::train::FeatureQuery,
    settings: &crate::train::TrainSettings,
    output: &std::path::Path,
) -> Result<crate::model::manifest::ModelManifest> {
    let rows = crate::replay::select(pipeline, environment, inputs, &query.select)?;
    let trained = crate::train::train(&rows.batches, query, settings)?;
    let write = |path: &std::path::Path, text: &str| -> Result<()> {
        let unavailable = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be written", path.display())).with_source(error)
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(unavailable)?;
        }
        // Beside whatever the model is called: a model `m.tmp` is not the temporary name of its manifest.
        let temporary = path.with_file_name(format!(".{}.partial", path.file_name().unwrap_or_default().display()));
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).map_err(unavailable)
    };
    write(output, &trained.text)?;
    write(&crate::model::manifest::ModelManifest::path_of(output), &trained.manifest.to_json()?)?;
    Ok(trained.manifest)
}

/// What a person wants to know of a new model.
#[cfg(feature = "lightgbm")]
pub(super) fn report(manifest: &crate::model::manifest::ModelManifest, output: &std::path::Path) -> String {
    let (train, validation, test) =
        (manifest.parts.train.rows, manifest.parts.validation.rows, manifest.parts.test.rows);
    let figure = |name| manifest.test_metric(name).unwrap_or(f64::NAN);
    format!(
        "model {} written to {}\n  {} features, {train} rows trained on, {validation} validated on, {test} tested on\n  \
         threshold {:.6} ({})\n  test: PR-AUC {:.3}, precision {:.3}, recall {:.3}",
        manifest.model,
        output.display(),
        manifest.features.len(),
        manifest.threshold,
        manifest.threshold_policy,
        figure("pr_auc"),
        figure("precision"),
        figure("recall"),
    )
}

/// `SOURCE=PATH` as an input of a replay.
#[cfg(feature = "lightgbm")]
fn input(text: &str) -> Result<crate::replay::Input> {
    match text.split_once('=') {
        Some((source, uri)) if !source.is_empty() && !uri.is_empty() => {
            Ok(crate::replay::Input { source: source.to_owned(), uri: uri.to_owned(), format: None })
        }
        _ => Err(Error::invalid(format!("--input {text}: expected SOURCE=PATH, such as transactions=history.parquet"))),
    }
}
