//! The demo's model: trained from simulated history on the pipeline's own features, once, and kept.

use std::path::PathBuf;

use super::DemoArguments;
use crate::cli::{Environment, print};
use crate::error::{Error, Result};
use crate::model::manifest::ModelManifest;
use crate::source::generator::{GeneratorError, write_parquet};

/// A model to serve.
pub(super) struct Ready {
    pub(super) path: PathBuf,
    pub(super) manifest: ModelManifest,
}

/// The kept model, if it is there and fits the SQL, or a new one.
pub(super) fn ready(arguments: &DemoArguments, environment: &Environment) -> Result<Ready> {
    let path = arguments.folder.join("models").join("fraud");
    if !arguments.retrain
        && path.exists()
        && let Some(manifest) = ModelManifest::read(&path)?
        && fits(arguments, environment, &manifest)?
    {
        let pr_auc = manifest.test_metric("pr_auc").unwrap_or(f64::NAN);
        print(&format!("model     {} (PR-AUC {pr_auc:.3} on its test rows)", path.display()));
        return Ok(Ready { path, manifest });
    }
    train(arguments, environment, path)
}

/// The simulated time before the live stream: what the model is trained on, and what the windows have seen when the stream begins.
pub(super) fn history(arguments: &DemoArguments) -> Result<PathBuf> {
    let failed = |error: GeneratorError| Error::internal(format!("history cannot be made: {error}"));
    let name = format!("demo-history-{}-{}.parquet", arguments.seed, arguments.history_days);
    let path = arguments.folder.join(name);
    if path.exists() {
        return Ok(path);
    }
    let unavailable = |error| Error::unavailable(format!("{} cannot be made", path.display())).with_source(error);
    std::fs::create_dir_all(&arguments.folder).map_err(unavailable)?;
    let partial = path.with_extension("partial");
    let summary = write_parquet(arguments.world(), arguments.history(), &partial, 2).map_err(failed)?;
    std::fs::rename(&partial, &path).map_err(unavailable)?;
    print(&format!("history   {} simulated transactions of {} days", summary.rows, arguments.history_days));
    Ok(path)
}

#[cfg(not(feature = "lightgbm"))]
fn fits(_: &DemoArguments, _: &Environment, _: &ModelManifest) -> Result<bool> {
    Ok(true)
}

#[cfg(not(feature = "lightgbm"))]
fn train(_: &DemoArguments, _: &Environment, path: PathBuf) -> Result<Ready> {
    Err(Error::invalid(format!(
        "there is no model at {}, and this program was built without LightGBM to train one; use `make demo`, or `cargo build --features lightgbm`",
        path.display()
    )))
}

/// Whether the model was trained on the features that the SQL has now.
#[cfg(feature = "lightgbm")]
fn fits(arguments: &DemoArguments, environment: &Environment, manifest: &ModelManifest) -> Result<bool> {
    let pipeline = crate::cli::load(&arguments.pipeline, environment)?;
    let query = crate::train::feature_query(&pipeline, crate::train::training_of(&pipeline)?)?;
    Ok(query.fingerprint == manifest.sql_fingerprint && query.features == manifest.features)
}

#[cfg(feature = "lightgbm")]
fn train(arguments: &DemoArguments, environment: &Environment, path: PathBuf) -> Result<Ready> {
    let started = crate::runtime::clock::now();
    let history = history(arguments)?;
    print("model     training on the features that the pipeline's own SQL makes of it");
    let pipeline = crate::cli::load(&arguments.pipeline, environment)?;
    let mut training = crate::train::training_of(&pipeline)?.clone();
    // A search takes longer than anybody watches.
    (training.trials, training.seed) = (0, arguments.seed);
    let source = &pipeline.sources[0].name;
    let inputs = [crate::replay::Input { source: source.clone(), uri: history.display().to_string(), format: None }];
    let manifest = crate::cli::train::train_to(&pipeline, environment, &inputs, &training, None, &path)?;
    print(&format!("{} in {:.1} s", crate::cli::train::report(&manifest, &path), super::since(started)));
    Ok(Ready { path, manifest })
}
