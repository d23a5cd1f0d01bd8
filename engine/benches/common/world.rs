//! What is measured: `pipelines/fraud.yaml` with a model of 200 trees, trained once on simulated history, and transactions of
//! the simulator that come after that history. The model is kept between runs, in the build's folder for temporary files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill::model::manifest::ModelManifest;
use tidemill::pipeline::settings::Pipeline;
use tidemill::replay::{Input, select};
use tidemill::source::generator::{DAY_MS, GeneratorSettings, RecordBlock, Simulator, write_parquet};
use tidemill::train::{TrainSettings, feature_query, train};

/// Where the simulated history begins: 2026-01-01 UTC, milliseconds.
const HISTORY_FROM_MS: i64 = 1_767_225_600_000;
/// Days of history that the model is trained on.
const HISTORY_DAYS: i64 = 20;
const LIVE_FROM_MS: i64 = HISTORY_FROM_MS + HISTORY_DAYS * DAY_MS;
const HOUR_MS: i64 = 3_600_000;
const SEED: u64 = 42;

/// The pipeline's file.
pub(crate) const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/fraud.yaml");

/// What a pipeline file finds in the environment.
pub(crate) type Environment = BTreeMap<String, String>;

fn settings() -> GeneratorSettings {
    GeneratorSettings { seed: SEED, ..GeneratorSettings::default() }
}

/// The environment that the benchmarks run in: the model and its threshold.
pub(crate) fn environment() -> Environment {
    let mut environment: Environment = std::env::vars().collect();
    let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-fraud.txt");
    environment.insert("TIDEMILL_MODEL".to_owned(), model.display().to_string());
    let manifest = match ModelManifest::read(&model) {
        Ok(Some(manifest)) if model.exists() && is_of_this_sql(&manifest, &environment) => manifest,
        _ => trained(&model, &environment),
    };
    environment.insert("TIDEMILL_THRESHOLD".to_owned(), manifest.threshold.to_string());
    environment
}

fn is_of_this_sql(manifest: &ModelManifest, environment: &Environment) -> bool {
    feature_query(&pipeline(Path::new(PIPELINE), environment), "fraud", "is_fraud", None).unwrap().features
        == manifest.features
}

fn trained(model: &Path, environment: &Environment) -> ModelManifest {
    println!("training the model, once");
    let history: PathBuf = model.with_extension("parquet");
    drop(std::fs::remove_file(&history));
    write_parquet(settings(), HISTORY_FROM_MS..LIVE_FROM_MS, &history, 2).unwrap();
    let pipeline = pipeline(Path::new(PIPELINE), environment);
    let query = feature_query(&pipeline, "fraud", "is_fraud", None).unwrap();
    let inputs = [Input { source: pipeline.sources[0].name.clone(), uri: history.display().to_string(), format: None }];
    let rows = select(&pipeline, environment, &inputs, &query.select).unwrap();
    let trained = train(&rows.batches, &query, &TrainSettings { seed: SEED, ..TrainSettings::default() }).unwrap();
    std::fs::write(model, &trained.text).unwrap();
    std::fs::write(ModelManifest::path_of(model), trained.manifest.to_json().unwrap()).unwrap();
    trained.manifest
}

/// A pipeline file, read and validated.
pub(crate) fn pipeline(file: &Path, environment: &Environment) -> Pipeline {
    Pipeline::load(file, &|name| environment.get(name).cloned()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// At least `count` transactions, in order.
pub(crate) fn transactions(count: usize) -> Vec<RecordBlock> {
    let simulator = Simulator::new(settings()).unwrap();
    let mut feed = simulator.feed(LIVE_FROM_MS);
    let mut blocks = Vec::new();
    let mut records = 0;
    while records < count {
        let block = feed.events(feed.position_ms() + HOUR_MS).unwrap();
        records += block.len();
        blocks.push(block);
    }
    blocks
}
