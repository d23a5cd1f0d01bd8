//! `tidemill model list | show | register | gate | promote | rollback`: models in the registry, which is a folder, a bucket or an
//! MLflow server. The registry is named by an option, by a pipeline file, or by the environment; never guessed.

mod gate;
mod print;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Environment, Outcome, give_result, load};
use crate::error::{Error, Result};
use crate::model::package::Package;
use crate::model::reference::{CHAMPION, ModelReference};
use crate::model::registry::{
    Fetch, GATE_PASSED, GATE_TAG, ModelVersion, Promotion, REGISTRY_VARIABLE, Registry, RunRecord,
    TRACKING_URI_VARIABLE,
};
use crate::runtime::{clock, tasks};

#[derive(Debug, clap::Args)]
pub(crate) struct ModelArguments {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// The models of the registry, or the versions of one.
    List {
        /// The model; all when left out.
        name: Option<String>,
        #[command(flatten)]
        place: RegistryPlace,
        #[command(flatten)]
        answer: Answer,
    },
    /// One version: what it was made from, how good it was, whether it may serve.
    Show {
        #[command(flatten)]
        version: WhichVersion,
        #[command(flatten)]
        place: RegistryPlace,
        #[command(flatten)]
        answer: Answer,
    },
    /// Register a model directory, of `tidemill train` or of Python, as a new version. Aliases stay where they are.
    Register {
        /// The model.
        name: String,
        /// The model directory.
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// The experiment that its run is put into; the model's name when left out.
        #[arg(long)]
        experiment: Option<String>,
        /// A name for its run.
        #[arg(long)]
        run: Option<String>,
        #[command(flatten)]
        place: RegistryPlace,
        #[command(flatten)]
        answer: Answer,
    },
    /// Ask whether a version may take the champion's place, and keep the answer for `promote`. Ends with 99 when it may not.
    Gate(gate::GateArguments),
    /// Let a version serve: make the alias mean it. Ends with 99 when the gate said no.
    Promote {
        /// The model.
        name: String,
        /// The version.
        #[arg(long)]
        version: String,
        /// The alias that is set.
        #[arg(long, default_value = CHAMPION)]
        alias: String,
        /// Promote it whatever the gate said, or if nobody asked it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: RegistryPlace,
        #[command(flatten)]
        answer: Answer,
    },
    /// Let the version serve again that the alias meant before.
    Rollback {
        /// The model.
        name: String,
        /// The alias that is set.
        #[arg(long, default_value = CHAMPION)]
        alias: String,
        #[command(flatten)]
        place: RegistryPlace,
        #[command(flatten)]
        answer: Answer,
    },
}

/// Which registry.
#[derive(Debug, clap::Args)]
pub(super) struct RegistryPlace {
    /// The registry: a folder, `s3://bucket/prefix`, or the address of an MLflow server. Without it the one of the pipeline file,
    /// else the variable TIDEMILL_REGISTRY, else MLFLOW_TRACKING_URI.
    #[arg(long, value_name = "URI")]
    registry: Option<String>,
    /// A pipeline file whose registry is meant.
    #[arg(long, value_name = "FILE", conflicts_with = "registry")]
    pipeline: Option<PathBuf>,
}

/// Which version of a model.
#[derive(Debug, clap::Args)]
pub(super) struct WhichVersion {
    /// The model.
    name: String,
    /// The version; without it what the alias means.
    #[arg(long)]
    version: Option<String>,
    /// The alias.
    #[arg(long, default_value = CHAMPION, conflicts_with = "version")]
    alias: String,
}

/// How a machine gets the answer.
#[derive(Debug, clap::Args)]
pub(super) struct Answer {
    /// End with one line of JSON on standard output.
    #[arg(long)]
    json: bool,
    /// Write the same object to a file.
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,
}

impl RegistryPlace {
    /// Opens it. Connects to nothing.
    pub(super) fn open(&self, environment: &Environment) -> Result<Registry> {
        let lookup = |name: &str| environment.get(name).cloned();
        let of_file = match &self.pipeline {
            Some(file) => load(file, environment)?.registry,
            None => None,
        };
        let uri = self.registry.clone().or(of_file).or_else(|| Registry::place_of(&lookup)).ok_or_else(|| {
            Error::invalid(format!(
                "no registry is named: give --registry with a folder, `s3://bucket/prefix` or the address of an MLflow server, --pipeline with a file that has `registry:`, or set {REGISTRY_VARIABLE} or {TRACKING_URI_VARIABLE}"
            ))
        })?;
        Registry::open(&uri, &lookup)
    }
}

impl WhichVersion {
    pub(super) fn reference(&self) -> Result<ModelReference> {
        match &self.version {
            Some(version) => ModelReference::version(&self.name, version),
            None => ModelReference::alias(&self.name, &self.alias),
        }
    }
}

impl Answer {
    /// Gives the answer to a person, or to a machine.
    pub(super) fn give(&self, text: &str, value: &Value) -> Result<()> {
        if !self.json {
            super::print(text.trim_end());
        }
        give_result(value, self.json, self.result_file.as_deref())
    }
}

pub(crate) fn run(arguments: &ModelArguments, environment: &Environment) -> Result<Outcome> {
    tasks::io_runtime()?.block_on(answer(&arguments.command, environment))
}

fn now() -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(clock::wall_millis()).ok_or_else(|| Error::internal("the clock is out of range"))
}

async fn answer(command: &ModelCommand, environment: &Environment) -> Result<Outcome> {
    match command {
        ModelCommand::List { name, place, answer } => list(&place.open(environment)?, name.as_deref(), answer).await,
        ModelCommand::Show { version, place, answer } => {
            show(&place.open(environment)?, &version.reference()?, answer).await
        }
        ModelCommand::Register { name, from, experiment, run, place, answer } => {
            let registry = place.open(environment)?;
            let package = Package::read_folder(from)?;
            let mut record = RunRecord::of_package(name, &package, clock::wall_millis())?;
            record.experiment = experiment.clone().unwrap_or(record.experiment);
            record.run_name = run.clone().unwrap_or(record.run_name);
            let stop = async { drop(tokio::signal::ctrl_c().await) };
            let version = registry.register_until(name, &package, &record, stop).await?;
            let text = format!("{} version {} is registered in {}", version.name, version.version, registry.uri());
            answer.give(&text, &version_json(&version))?;
            Ok(Outcome::Done)
        }
        ModelCommand::Gate(arguments) => gate::gate(arguments, environment).await,
        ModelCommand::Promote { name, version, alias, force, place, answer } => {
            let registry = place.open(environment)?;
            let found = registry.resolve(&ModelReference::version(name, version)?).await?;
            // An answer, and no error: an orchestrator skips what comes after.
            if let Some(verdict) = found.tags.get(GATE_TAG)
                && verdict != GATE_PASSED
                && !force
            {
                let text = format!("{name} version {version} is not promoted: the gate said `{verdict}`");
                let value =
                    json!({"model": name, "version": version, "alias": alias, "promoted": false, "gate": verdict});
                answer.give(&text, &value)?;
                return Ok(Outcome::NothingToDo);
            }
            let promotion = registry.promote(name, alias, version, now()?, *force).await?;
            answer.give(&print::promotion(&promotion), &promotion_json(&promotion))?;
            Ok(Outcome::Done)
        }
        ModelCommand::Rollback { name, alias, place, answer } => {
            let promotion = place.open(environment)?.rollback(name, alias, now()?).await?;
            answer.give(&print::promotion(&promotion), &promotion_json(&promotion))?;
            Ok(Outcome::Done)
        }
    }
}

async fn list(registry: &Registry, name: Option<&str>, answer: &Answer) -> Result<Outcome> {
    let Some(name) = name else {
        let models = registry.names().await?;
        let list = models.iter().map(|model| json!({"model": model.name, "aliases": model.aliases}));
        let value = json!({"registry": registry.uri(), "models": list.collect::<Vec<_>>()});
        answer.give(&print::models(registry.uri(), &models), &value)?;
        return Ok(Outcome::Done);
    };
    let versions = registry.versions(name).await?;
    if versions.is_empty() {
        // With what there is instead.
        registry.resolve(&ModelReference::alias(name, CHAMPION)?).await?;
    }
    let list: Vec<Value> = versions.iter().map(version_json).collect();
    answer.give(&print::versions(&versions), &json!({"registry": registry.uri(), "model": name, "versions": list}))?;
    Ok(Outcome::Done)
}

async fn show(registry: &Registry, reference: &ModelReference, answer: &Answer) -> Result<Outcome> {
    let version = registry.resolve(reference).await?;
    let package = registry.fetch(&version, Fetch::Only(&[crate::model::package::MANIFEST])).await?;
    let manifest = package.manifest()?;
    let mut value = version_json(&version);
    if let Some(text) = package.text(crate::model::package::MANIFEST)? {
        let parsed = serde_json::from_str(text);
        value["manifest"] = parsed.map_err(|error| Error::data("the manifest is not JSON").with_source(error))?;
    }
    answer.give(&print::version(&version, manifest.as_ref()), &value)?;
    Ok(Outcome::Done)
}

/// What a machine is told of a version.
pub(super) fn version_json(version: &ModelVersion) -> Value {
    let tags: &BTreeMap<String, String> = &version.tags;
    json!({
        "model": version.name, "version": version.version, "run_id": version.run_id,
        "created": version.created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "aliases": version.aliases, "tags": tags,
    })
}

fn promotion_json(promotion: &Promotion) -> Value {
    let Promotion { name, alias, version, before } = promotion;
    json!({"model": name, "alias": alias, "version": version, "before": before, "promoted": true})
}
