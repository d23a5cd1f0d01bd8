//! What is measured: `pipelines/fraud.yaml`, as it is or with fewer features, and a model of 200 trees, trained once on simulated
//! history; and transactions of the simulator that come after that history. Models are kept between runs, in the build's folder
//! for temporary files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill::model::manifest::ModelManifest;
use tidemill::pipeline::settings::{Pipeline, Training};
use tidemill::replay::{Input, default_workers};
use tidemill::source::generator::{DAY_MS, GeneratorSettings, RecordBlock, Simulator, write_parquet};
use tidemill::train::{FeatureQuery, Request, feature_query, train, training_of, write};

/// Where the simulated history begins: 2026-01-01 UTC, milliseconds.
const HISTORY_FROM_MS: i64 = 1_767_225_600_000;
/// Days of history that the model is trained on.
const HISTORY_DAYS: i64 = 20;
const LIVE_FROM_MS: i64 = HISTORY_FROM_MS + HISTORY_DAYS * DAY_MS;
const HOUR_MS: i64 = 3_600_000;
const SEED: u64 = 42;

/// The pipeline's file.
const PIPELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipelines/fraud.yaml");
/// Its views, which others take the place of.
const VIEWS: &str = "  features: ../sql/fraud_features.sql\n  scored: ../sql/fraud_scored.sql\n";
const FEATURES_SQL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/fraud_features.sql");
const WINDOWS_SQL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sql/windows.sql");
const ROW_FEATURES: &str = "amount_usd, amount_log, amount_bucket, is_micro_amount, is_whole_amount, hour_of_day, time_of_day, \
    day_of_week, is_night, is_weekend, is_cross_border, region, currency_group, merchant_kind, is_watched_merchant";
const WINDOW_FEATURES: &str = "user_activity_24h, user_spent_24h, user_largest_24h, avg_amount_last_6, last_amount";

/// What a pipeline file finds in the environment.
pub(crate) type Environment = BTreeMap<String, String>;

/// What the model is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "no benchmark measures all of them")]
pub(crate) enum Features {
    /// What a row says by itself.
    OfTheRow,
    /// That, and five windows.
    WithWindows,
    /// What `pipelines/fraud.yaml` gives it.
    OfThePipeline,
}

/// A pipeline and its trained model.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) features: Features,
    /// The pipeline's file, with absolute paths.
    pub(crate) text: String,
    /// The model and its threshold.
    pub(crate) environment: Environment,
}

impl World {
    /// Trains the model if it is not there.
    pub(crate) fn new(features: Features) -> World {
        let mut environment: Environment = std::env::vars().collect();
        let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-fraud-{features:?}"));
        environment.insert("TIDEMILL_MODEL".to_owned(), model.display().to_string());
        let mut world = World { features, text: text(features), environment };
        let manifest = match ModelManifest::read(&model) {
            Ok(Some(manifest)) if model.exists() && world.query().features == manifest.features => manifest,
            _ => world.trained(&model),
        };
        world.environment.insert("TIDEMILL_THRESHOLD".to_owned(), manifest.threshold.to_string());
        world
    }

    /// The pipeline, validated.
    pub(crate) fn pipeline(&self) -> Pipeline {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{:?}.yaml", self.features));
        std::fs::write(&file, &self.text).unwrap();
        Pipeline::load(&file, &|name| self.environment.get(name).cloned())
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn query(&self) -> FeatureQuery {
        let pipeline = self.pipeline();
        feature_query(&pipeline, &training(&pipeline)).unwrap()
    }

    fn trained(&self, model: &Path) -> ModelManifest {
        println!("training the model, once");
        let history: PathBuf = model.with_extension("parquet");
        drop(std::fs::remove_file(&history));
        write_parquet(settings(), HISTORY_FROM_MS..LIVE_FROM_MS, &history, 2).unwrap();
        let pipeline = self.pipeline();
        let source = pipeline.sources[0].name.clone();
        let request = Request {
            pipeline: &pipeline,
            training: &training(&pipeline),
            environment: &self.environment,
            inputs: &[Input { source, uri: history.display().to_string(), format: None }],
            run: None,
            champion: None,
            num_threads: default_workers(),
        };
        let trained = train(&request, &|_| {}).unwrap();
        write(&trained.package, model).unwrap();
        trained.manifest
    }
}

/// 200 trees, whatever the features.
fn training(pipeline: &Pipeline) -> Training {
    Training {
        seed: SEED,
        rounds: 200,
        early_stopping: 200,
        trials: 0,
        amount: None,
        segments: Vec::new(),
        ..training_of(pipeline).unwrap().clone()
    }
}

fn settings() -> GeneratorSettings {
    GeneratorSettings { seed: SEED, ..GeneratorSettings::default() }
}

/// What a row says by itself: the features of the pipeline without its windows.
pub(crate) fn row_sql() -> String {
    let sql = std::fs::read_to_string(FEATURES_SQL).unwrap();
    let (read, rest) = sql.split_once("),\nhistory AS (").expect("the windows are a step of their own");
    let (_, select) =
        rest.split_once("\n    ),\n    ln(").expect("the last step has the features, after what it leaves out");
    let last = "AS is_watched_merchant";
    let (select, _) = select.split_once(last).expect("windows come after what a row says by itself");
    format!("{read})\nSELECT\n    * EXCLUDE (local_currency, minute_of_hour),\n    ln({select}{last}\nFROM read\n")
}

fn text(features: Features) -> String {
    let row = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-row.sql");
    std::fs::write(&row, row_sql()).unwrap();
    let row = row.display();
    let text = std::fs::read_to_string(PIPELINE).unwrap();
    assert!(text.contains(VIEWS), "{PIPELINE} has other views");
    let scored = |features: &str| {
        format!(
            "  scored: \"SELECT *, score('fraud', {features}) AS fraud_probability, model_version('fraud') AS model_version FROM features\"\n"
        )
    };
    let views = match features {
        Features::OfThePipeline => VIEWS.replace("../sql/", concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/")),
        Features::OfTheRow => format!("  features: {row}\n{}", scored(ROW_FEATURES)),
        Features::WithWindows => {
            let scored = scored(&format!("{ROW_FEATURES}, {WINDOW_FEATURES}"));
            format!("  by_itself: {row}\n  features: {WINDOWS_SQL}\n{scored}")
        }
    };
    text.replace(VIEWS, &views)
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
