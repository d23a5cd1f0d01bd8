//! The registry's part in `tidemill train`: the champion that a new model is held against, and the registration of the new one.

use std::collections::BTreeMap;
use std::path::Path;

use super::Environment;
use crate::error::{Error, Result};
use crate::model::manifest::ModelManifest;
use crate::model::package::Package;
use crate::model::reference::{CHAMPION, ModelReference};
use crate::model::registry::{Dataset, Fetch, ModelVersion, Registry, RunRecord};
use crate::pipeline::settings::Pipeline;
use crate::runtime::{clock, tasks};
use crate::train::{Champion, Trained};

/// The registry that is named on the command line, in the pipeline file or by the environment.
pub(super) fn open_registry(
    named: Option<&str>,
    pipeline: &Pipeline,
    environment: &Environment,
) -> Result<Option<Registry>> {
    let lookup = |name: &str| environment.get(name).cloned();
    let place = named.map(str::to_owned).or_else(|| pipeline.registry.clone()).or_else(|| Registry::place_of(&lookup));
    place.map(|place| Registry::open(&place, &lookup)).transpose()
}

/// The model in production: as it is named, or what the alias `champion` means, if it means anything.
pub(super) fn champion(named: Option<&str>, registry: Option<&Registry>, model: &str) -> Result<Option<Champion>> {
    let reference = match (named, registry) {
        (Some(uri), Some(_)) if ModelReference::is_reference(uri) => uri.parse()?,
        (Some(uri), None) if ModelReference::is_reference(uri) => {
            return Err(Error::invalid(format!("--champion {uri}: there is no registry; name one with --registry")));
        }
        (Some(path), _) => {
            let package = Package::read_folder(Path::new(path)).map_err(|error| error.context("--champion"))?;
            return Ok(Some(Champion { name: path.to_owned(), package }));
        }
        (None, Some(_)) => ModelReference::alias(model, CHAMPION)?,
        (None, None) => return Ok(None),
    };
    let Some(registry) = registry else { return Ok(None) };
    let io = tasks::io_runtime()?;
    let Some(version) = io.block_on(registry.find(&reference))? else {
        // Before the first promotion there is none, which nobody asked for by name.
        return if named.is_some() { io.block_on(registry.resolve(&reference)).map(|_| None) } else { Ok(None) };
    };
    let package = io.block_on(registry.fetch(&version, Fetch::Serving))?;
    Ok(Some(Champion { name: format!("version {} of {}", version.version, version.name), package }))
}

/// Tags of a version: the training that made it, as `--run` named it, and the SHA-256 of its file.
const RUN_TAG: &str = "tidemill.run";
const SHA256_TAG: &str = "tidemill.sha256";

/// The version that a training of this name has registered before, if it is the same model.
pub(super) fn registered_before(registry: &Registry, manifest: &ModelManifest) -> Result<Option<ModelVersion>> {
    let Some(run) = &manifest.run else { return Ok(None) };
    let versions = tasks::io_runtime()?.block_on(registry.versions(&manifest.model))?;
    let is_it = |version: &ModelVersion| {
        version.tags.get(RUN_TAG) == Some(run) && version.tags.get(SHA256_TAG) == Some(&manifest.sha256)
    };
    Ok(versions.into_iter().find(is_it))
}

/// Registers a trained model as a new version, if a training of its name has not done so before.
pub(super) fn register(registry: &Registry, trained: &Trained, started_ms: i64) -> Result<ModelVersion> {
    let manifest = &trained.manifest;
    if let Some(version) = registered_before(registry, manifest)? {
        return Ok(version);
    }
    let mut params: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &manifest.parameters {
        params.insert(name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let parts = &manifest.parts;
    for (name, value) in [
        ("imbalance", manifest.imbalance.clone()),
        ("label", manifest.label.clone()),
        ("num_features", manifest.features.len().to_string()),
        ("search_trials", manifest.search.trials.to_string()),
        ("sql_fingerprint", manifest.sql_fingerprint.clone()),
        ("test_from", parts.test.from.clone()),
        ("test_until", parts.test.until.clone()),
        ("threshold_policy", manifest.threshold_policy.to_string()),
        ("train_from", parts.train.from.clone()),
        ("train_until", parts.train.until.clone()),
        ("validation_from", parts.validation.from.clone()),
    ] {
        params.insert(name.to_owned(), value);
    }
    let tags = BTreeMap::from([
        ("tidemill.version".to_owned(), manifest.versions.tidemill.clone()),
        (SHA256_TAG.to_owned(), manifest.sha256.clone()),
    ]);
    let mut version_tags = tags.clone();
    version_tags.extend(manifest.run.clone().map(|run| (RUN_TAG.to_owned(), run)));
    version_tags.insert("threshold".to_owned(), manifest.threshold.to_string());
    let dataset = manifest.data.first().map(|data| Dataset {
        name: data.source.clone(),
        digest: manifest.sql_fingerprint.chars().take(12).collect(),
        uris: manifest.data.iter().map(|data| data.uri.clone()).collect(),
        num_rows: parts.train.rows + parts.gap.rows + parts.validation.rows + parts.test.rows,
        columns: manifest.features.iter().map(|feature| (feature.clone(), "double".to_owned())).collect(),
    });
    let record = RunRecord {
        experiment: manifest.model.clone(),
        run_name: manifest.run.clone().unwrap_or_else(|| manifest.sha256.chars().take(12).collect()),
        started_ms,
        ended_ms: clock::wall_millis(),
        params,
        metrics: manifest.metrics.clone(),
        tags,
        version_tags,
        dataset,
        artifacts: trained.package.report_files(),
        ..RunRecord::default()
    };
    tasks::io_runtime()?.block_on(registry.register(&manifest.model, &trained.package, &record))
}
