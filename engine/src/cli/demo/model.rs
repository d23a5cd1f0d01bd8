//! The demo's models: two versions in a registry of its own, trained from simulated history on the pipeline's own features, once,
//! and kept. The first knows the history up to ten days before its end; the second knows all of it, and takes over while records
//! flow.

use std::path::PathBuf;

use tokio::runtime::Runtime;

use super::DemoArguments;
use crate::cli::{Environment, print};
use crate::error::{Error, Result};
use crate::model::manifest::ModelManifest;
use crate::model::reference::CHAMPION;
use crate::model::registry::Registry;
#[cfg(feature = "lightgbm")]
use crate::runtime::clock;
use crate::runtime::tasks;
use crate::source::generator::{GeneratorError, write_parquet};

/// The model's name in SQL and in the registry.
pub(super) const MODEL: &str = "fraud";
/// The tag that says which of the demo's models a version is.
const TAG: &str = "demo";
/// Its values, in the order in which they serve.
const ROLES: [&str; 2] = ["first", "second"];

/// A version that can serve.
pub(super) struct Version {
    /// Its number in the registry.
    pub(super) number: String,
    pub(super) manifest: ModelManifest,
    /// LightGBM's text.
    pub(super) text: String,
}

/// The models of a demo.
pub(super) struct Ready {
    pub(super) registry: Registry,
    pub(super) io: Runtime,
    /// The one that serves first, and the one that takes over.
    pub(super) versions: [Version; 2],
}

impl Ready {
    /// Makes the champion be the first version, or the second.
    pub(super) fn promote(&self, which: usize) -> Result<()> {
        let number = &self.versions[which].number;
        // A demo begins with yesterday's model, whatever the one before it ended with: there is nothing for a gate to decide.
        let promotion = self.registry.promote(MODEL, CHAMPION, number, chrono::Utc::now(), true);
        self.io.block_on(promotion).map(|_| ())
    }
}

/// The kept models, if they are there and fit the SQL, or new ones.
pub(super) fn ready(arguments: &DemoArguments, environment: &Environment) -> Result<Ready> {
    let place = registry_place(arguments)?;
    let registry = Registry::open(&place, &|name| environment.get(name).cloned())?;
    let io = tasks::io_runtime()?;
    if !arguments.retrain
        && let Some(versions) = io.block_on(kept(&registry))?
        && fits(arguments, environment, &versions)?
    {
        print(&format!("registry  {place}"));
        versions.iter().for_each(|version| print(&shown(version)));
        return Ok(Ready { registry, io, versions });
    }
    let versions = train(arguments, environment, &registry, &io)?;
    Ok(Ready { registry, io, versions })
}

/// Where the demo's registry is.
pub(super) fn registry_place(arguments: &DemoArguments) -> Result<String> {
    super::absolute(&arguments.folder.join("registry"))
}

/// The newest version of each role.
async fn kept(registry: &Registry) -> Result<Option<[Version; 2]>> {
    let versions = registry.versions(MODEL).await?;
    let [mut first, mut second] = [None, None];
    for (role, found) in ROLES.into_iter().zip([&mut first, &mut second]) {
        if let Some(version) = versions.iter().find(|version| version.tags.get(TAG).map(String::as_str) == Some(role)) {
            *found = Some(read(registry, version).await?);
        }
    }
    Ok(first.zip(second).map(|(first, second)| [first, second]))
}

async fn read(registry: &Registry, version: &crate::model::registry::ModelVersion) -> Result<Version> {
    let package = registry.fetch(version, crate::model::registry::Fetch::Serving).await?;
    let manifest =
        package.manifest()?.ok_or_else(|| Error::data("the demo's registry has a model without a manifest"))?;
    Ok(Version { number: version.version.clone(), manifest, text: package.model_text()?.to_owned() })
}

fn shown(version: &Version) -> String {
    let pr_auc = version.manifest.test_metric("pr_auc").unwrap_or(f64::NAN);
    format!(
        "model     version {}: learnt up to {}, PR-AUC {pr_auc:.3} on its test rows, threshold {:.3} ({})",
        version.number,
        version.manifest.parts.test.until,
        version.manifest.threshold,
        version.manifest.threshold_policy
    )
}

/// The simulated time before the live stream: what the models are trained on, and what the windows have seen when the stream begins.
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
fn fits(_: &DemoArguments, _: &Environment, _: &[Version; 2]) -> Result<bool> {
    Ok(true)
}

#[cfg(not(feature = "lightgbm"))]
fn train(arguments: &DemoArguments, _: &Environment, _: &Registry, _: &Runtime) -> Result<[Version; 2]> {
    Err(Error::invalid(format!(
        "there are no models in {}, and this program was built without LightGBM to train them; use `make demo`, or `cargo build --features lightgbm`",
        registry_place(arguments)?
    )))
}

/// Whether the models were trained on the features that the SQL has now.
#[cfg(feature = "lightgbm")]
fn fits(arguments: &DemoArguments, environment: &Environment, versions: &[Version; 2]) -> Result<bool> {
    let pipeline = crate::cli::load(&arguments.pipeline, environment)?;
    let query = crate::train::feature_query(&pipeline, crate::train::training_of(&pipeline)?)?;
    Ok(versions.iter().all(|version| version.manifest.sql_fingerprint == query.fingerprint))
}

#[cfg(feature = "lightgbm")]
fn train(
    arguments: &DemoArguments,
    environment: &Environment,
    registry: &Registry,
    io: &Runtime,
) -> Result<[Version; 2]> {
    use crate::types::EventTime;

    let history = history(arguments)?;
    let pipeline = crate::cli::load(&arguments.pipeline, environment)?;
    let training = crate::train::training_of(&pipeline)?;
    let source = &pipeline.sources[0].name;
    let inputs = [crate::replay::Input { source: source.clone(), uri: history.display().to_string(), format: None }];
    print("model     training on the features that the pipeline's own SQL makes of it");
    let until_ms = arguments.live_from_ms() - i64::from(arguments.history_days / 4) * crate::source::generator::DAY_MS;
    let until = [Some(EventTime::from_micros(until_ms * 1_000)), None];
    let mut versions = Vec::new();
    for (role, until) in ROLES.into_iter().zip(until) {
        let (started, began_ms) = (clock::now(), clock::wall_millis());
        let training =
            crate::pipeline::settings::Training { seed: arguments.seed, trials: 0, until, ..training.clone() };
        let request = crate::train::Request {
            pipeline: &pipeline,
            training: &training,
            environment,
            inputs: &inputs,
            run: None,
            champion: None,
            num_threads: std::num::NonZeroUsize::MIN,
        };
        let trained = crate::train::train(&request, &|_| {})?;
        let record = crate::model::registry::RunRecord {
            experiment: "tidemill-demo".to_owned(),
            run_name: format!("demo-{role}"),
            started_ms: began_ms,
            ended_ms: clock::wall_millis(),
            metrics: trained.manifest.metrics.clone(),
            version_tags: [(TAG.to_owned(), role.to_owned())].into(),
            ..crate::model::registry::RunRecord::default()
        };
        let registered = io.block_on(registry.register(MODEL, &trained.package, &record))?;
        let version = io.block_on(read(registry, &registered))?;
        print(&format!("{}, in {:.1} s", shown(&version), super::since(started)));
        versions.push(version);
    }
    <[Version; 2]>::try_from(versions).map_err(|_| Error::internal("the demo trained another number of models"))
}
