//! `tidemill train`: a model from stored history, on the features of the pipeline's own SQL, as its `training` section says.

use std::path::PathBuf;

use super::{Environment, PipelineFile};
use crate::error::{Error, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Rows of a source: `source=path`, Parquet or JSON lines (`*.jsonl`), local or s3://; or `source=kafka`, its topic from the
    /// oldest record to what is there now. Rows that say where they come from are read as they were served, late ones late, as the
    /// model will see them; other rows by event time.
    #[arg(long = "input", value_name = "SOURCE=PATH", required = true, value_parser = super::replay::parse_input)]
    inputs: Vec<(String, String)>,
    /// The model directory to write, in place of an older model.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// What this training is called. With it nothing is done where the folder holds the model of that training already.
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Register the model as a new version. No alias is set: see `tidemill model promote`.
    #[arg(long)]
    register: bool,
    /// The registry: a folder, s3://... or the address of an MLflow server. By default that of the pipeline file, else
    /// TIDEMILL_REGISTRY or MLFLOW_TRACKING_URI.
    #[arg(long, value_name = "URI")]
    registry: Option<String>,
    /// The model in production, to be held against the new one on the same rows: a model directory, or models:/NAME@ALIAS of the
    /// registry. By default the alias `champion` of the registry, if there is a registry and it has one.
    #[arg(long, value_name = "URI")]
    champion: Option<String>,
    /// Seed of everything random, in place of `training.seed`.
    #[arg(long)]
    seed: Option<u64>,
    /// Sets of parameters to try, in place of `training.trials`; 0: none.
    #[arg(long)]
    trials: Option<usize>,
    /// Trials side by side; one for each processor when it is not given. The model does not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// End standard output with one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write that JSON into a file, too.
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,
}

#[cfg(not(feature = "lightgbm"))]
pub(crate) fn run(_: &TrainArguments, _: &Environment) -> Result<()> {
    Err(Error::invalid(
        "this program was built without LightGBM; build it with `make build`, or `cargo build --features lightgbm`",
    ))
}

#[cfg(feature = "lightgbm")]
pub(crate) use with_lightgbm::run;

#[cfg(feature = "lightgbm")]
mod with_lightgbm {
    use std::io::IsTerminal as _;
    use std::path::Path;
    use std::sync::{Mutex, PoisonError};

    use indicatif::{HumanCount, ProgressBar, ProgressStyle};
    use serde_json::{Value, json};

    use super::super::train_registry::{champion, open_registry, register, registered_before};
    use super::*;
    use crate::cli::{give_result, load, print};
    use crate::model::manifest::{ModelManifest, Part};
    use crate::model::registry::{ModelVersion, Registry};
    use crate::replay::{Input, default_workers};
    use crate::runtime::clock;
    use crate::train::{Request, Step, Trained, check_output, train, training_of, write};

    pub(crate) fn run(arguments: &TrainArguments, environment: &Environment) -> Result<()> {
        let started = clock::wall_millis();
        let pipeline = load(&arguments.pipeline.file, environment)?;
        let mut training = training_of(&pipeline)?.clone();
        training.seed = arguments.seed.unwrap_or(training.seed);
        training.trials = arguments.trials.unwrap_or(training.trials);
        check_output(&arguments.output)?;
        let registry = open_registry(arguments.registry.as_deref(), &pipeline, environment)?;
        if arguments.register && registry.is_none() {
            return Err(Error::invalid(
                "--register: there is no registry; name one: --registry, `registry` in the pipeline file, TIDEMILL_REGISTRY or \
                 MLFLOW_TRACKING_URI",
            ));
        }
        if let Some((manifest, version)) = done_already(arguments, registry.as_ref())? {
            print(&format!("the training {} is done already: {}", shown_run(arguments), arguments.output.display()));
            return give(arguments, &manifest, "done_already", version.as_ref());
        }
        let champion = champion(arguments.champion.as_deref(), registry.as_ref(), &training.model)?;
        let inputs = arguments.inputs.iter();
        let inputs: Vec<Input> =
            inputs.map(|(source, uri)| Input { source: source.clone(), uri: uri.clone(), format: None }).collect();
        let request = Request {
            pipeline: &pipeline,
            training: &training,
            environment,
            inputs: &inputs,
            run: arguments.run.as_deref(),
            champion: champion.as_ref(),
            num_threads: arguments.threads.unwrap_or_else(default_workers),
        };
        let trained = with_progress(&request)?;
        write(&trained.package, &arguments.output)?;
        print(&report(&trained.manifest, &arguments.output));
        let version = match (arguments.register, &registry) {
            (true, Some(registry)) => Some(register(registry, &trained, started)?),
            _ => None,
        };
        if let Some(version) = &version {
            print(&format!("registered as version {} of {}", version.version, version.name));
        }
        give(arguments, &trained.manifest, "trained", version.as_ref())
    }

    fn shown_run(arguments: &TrainArguments) -> &str {
        arguments.run.as_deref().unwrap_or_default()
    }

    /// The model that a training of this name left at the place, if it is whole, and its version where one was asked for: a task
    /// that is tried again does nothing twice. One that is still to be registered is trained again, which gives the same model.
    fn done_already(
        arguments: &TrainArguments,
        registry: Option<&Registry>,
    ) -> Result<Option<(ModelManifest, Option<ModelVersion>)>> {
        if arguments.run.is_none() {
            return Ok(None);
        }
        let manifest = ModelManifest::read(&arguments.output)?.filter(|manifest| manifest.run == arguments.run);
        match (manifest, registry) {
            (Some(manifest), Some(registry)) if arguments.register => {
                Ok(registered_before(registry, &manifest)?.map(|version| (manifest, Some(version))))
            }
            (manifest, _) => Ok(manifest.map(|manifest| (manifest, None))),
        }
    }

    fn give(
        arguments: &TrainArguments,
        manifest: &ModelManifest,
        status: &str,
        version: Option<&ModelVersion>,
    ) -> Result<()> {
        let registered = version
            .map(|version| json!({ "name": version.name, "version": version.version, "run_id": version.run_id }));
        let result: Value = json!({
            "command": "train",
            "status": status,
            "model": manifest.model,
            "run": manifest.run,
            "output": arguments.output.display().to_string(),
            "sha256": manifest.sha256,
            "threshold": manifest.threshold,
            "metrics": manifest.metrics,
            "notes": manifest.notes,
            "registered": registered,
        });
        give_result(&result, arguments.json, arguments.result_file.as_deref())
    }

    /// Trains, and shows on a terminal how far it has come.
    fn with_progress(request: &Request<'_>) -> Result<Trained> {
        if !std::io::stderr().is_terminal() {
            return train(request, &|_| {});
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        let bar = Mutex::new(bar);
        let trained = train(request, &|step| show(&bar.lock().unwrap_or_else(PoisonError::into_inner), step));
        bar.into_inner().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
        trained
    }

    fn show(bar: &ProgressBar, step: Step) {
        let (position, length, message) = match step {
            Step::Reading(progress) => {
                (progress.bytes_begun, progress.bytes_total, format!("{} rows read", HumanCount(progress.read)))
            }
            Step::Searching(done, of, best) => {
                (done as u64, of as u64, format!("{done} of {of} sets of parameters, PR-AUC {best:.3}"))
            }
            Step::Growing(tree, of, found) => {
                (u64::from(tree), u64::from(of), format!("{tree} trees, PR-AUC {found:.3} on validation"))
            }
            Step::Judging => (1, 1, "judging".to_owned()),
        };
        bar.set_length(length);
        bar.set_position(position);
        bar.set_message(message);
    }

    /// What a person wants to know of a new model.
    fn report(manifest: &ModelManifest, output: &Path) -> String {
        let figure = |name: &str| manifest.metrics.get(name).copied().unwrap_or(f64::NAN);
        let part = |part: &Part| {
            format!("{} rows, {} positive, {} until {}", HumanCount(part.rows), part.positives, part.from, part.until)
        };
        let parts = &manifest.parts;
        let mut text = format!(
            "model {} written to {}\n  {} features, {} trees{}\n  train       {}\n  left out    {}\n  validation  {}\n  test        {}\n  \
             threshold   {} ({})\n  test        PR-AUC {:.3} (95 % between {:.3} and {:.3}), precision {:.3}, recall {:.3}, {:.1} alerts a day",
            manifest.model,
            output.display(),
            manifest.features.len(),
            figure("trees"),
            searched(manifest),
            part(&parts.train),
            part(&parts.gap),
            part(&parts.validation),
            part(&parts.test),
            manifest.threshold,
            manifest.threshold_policy,
            figure("pr_auc"),
            figure("pr_auc_low"),
            figure("pr_auc_high"),
            figure("precision"),
            figure("recall"),
            figure("alerts_per_day"),
        );
        let mut line = |name: &str, value: String| text.push_str(&format!("\n  {name:<12}{value}"));
        if let Some(difference) = manifest.metrics.get("over_champion.pr_auc") {
            let (low, high) = (figure("over_champion.pr_auc_low"), figure("over_champion.pr_auc_high"));
            let of_champion = figure("champion.pr_auc");
            line(
                "champion",
                format!(
                    "PR-AUC {of_champion:.3} on the same rows: {difference:+.3} (95 % between {low:+.3} and {high:+.3})"
                ),
            );
        }
        manifest.notes.iter().for_each(|note| line("note", note.clone()));
        text
    }

    fn searched(manifest: &ModelManifest) -> String {
        let search = &manifest.search;
        match (search.average_precision, search.of_defaults) {
            (Some(found), Some(of_defaults)) => format!(
                "; {} sets of parameters tried on {} folds, PR-AUC {found:.3} there ({of_defaults:.3} with the settings' own)",
                search.trials, search.folds
            ),
            _ => String::new(),
        }
    }
}
