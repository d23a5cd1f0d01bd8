//! The registry of models against real servers: MLflow with its artefacts on the S3 server, behind itself and direct, read
//! and written also by Python; the same commands on a bucket. What a double between them breaks leaves no version behind.

mod broken;
mod commands;
mod double;
mod served;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemill::model::package::{ModelFiles, Package, SelfTest};
use tidemill::model::registry::{Dataset, MetricPoint, ModelVersion, Registry, RunRecord};
use tidemill_udfs::scorer::{Column, Model, Scratch};

use double::ask;

pub(super) const API: &str = "/api/2.0/mlflow";

/// The environment, of which a test may change something.
pub(super) type Environment = BTreeMap<String, String>;

/// A variable that `make test` sets.
pub(super) fn variable(name: &str) -> String {
    std::env::vars().find(|(key, _)| key == name).map_or_else(
        || panic!("this test needs a real MLflow server: run `make test`, or set {name}"),
        |(_, value)| value,
    )
}

/// Address of the real server.
pub(super) fn mlflow() -> String {
    variable("TIDEMILL_TEST_MLFLOW")
}

/// host:port of it.
pub(super) fn upstream() -> String {
    mlflow().strip_prefix("http://").unwrap().to_owned()
}

/// This process's environment, with the S3 server, and with these variables.
pub(super) fn environment(changed: &[(&str, &str)]) -> Environment {
    let mut environment: Environment = std::env::vars().collect();
    environment.insert("AWS_ENDPOINT_URL".to_owned(), variable("TIDEMILL_TEST_S3_ENDPOINT"));
    environment.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

pub(super) fn open(uri: &str, changed: &[(&str, &str)]) -> Registry {
    let environment = environment(changed);
    Registry::open(uri, &|name| environment.get(name).cloned()).unwrap()
}

const MODEL: &str = include_str!("../../../udfs/testdata/binary_31.txt");

/// Scores of rows, as we serve them.
pub(super) fn scores(text: &str, rows: &[Vec<f64>]) -> Vec<f64> {
    let model = Model::parse(text).unwrap();
    let columns: Vec<Vec<f64>> =
        (0..model.feature_names().len()).map(|feature| rows.iter().map(|row| row[feature]).collect()).collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![0.0; rows.len()];
    model.score(&columns, &mut scores, &mut Scratch::default());
    scores
}

/// A model directory with everything that we write, and a picture.
pub(super) fn package() -> Package {
    let rows: Vec<Vec<f64>> = (0..40_i32)
        .map(|row| {
            let row = f64::from(row);
            vec![row * 15.3, (row * 0.7).sin() * 3.0, if row % 7.0 == 0.0 { f64::NAN } else { row }, row * row / 3.0]
        })
        .collect();
    let test =
        SelfTest { features: ["f0", "f1", "f2", "f3"].map(str::to_owned).to_vec(), scores: scores(MODEL, &rows), rows };
    let files = ModelFiles {
        model_text: MODEL,
        lightgbm_version: "4.7.0",
        self_test: &test,
        metadata: &[("threshold", json!(0.7))],
    };
    let mut package = Package::of_model(&files).unwrap();
    package.insert("features.sql", "SELECT 1 -- ä").unwrap();
    package.insert("plots/precision recall.svg", "<svg/>").unwrap();
    package
}

/// A record that is larger than what MLflow takes at once.
pub(super) fn record(experiment: &str) -> RunRecord {
    let numbered =
        |prefix: &str, count: usize| (0..count).map(move |number| format!("{prefix}{number}")).collect::<Vec<_>>();
    let mut metrics: BTreeMap<String, f64> =
        BTreeMap::from([("test/pr_auc".into(), 0.875), ("nothing".into(), f64::NAN)]);
    metrics.insert("recall@100".into(), f64::INFINITY);
    RunRecord {
        experiment: experiment.into(),
        run_name: "scheduled__2026-11-23".into(),
        started_ms: 1_795_000_000_000,
        ended_ms: 1_795_000_060_000,
        params: numbered("param/", 130).into_iter().map(|name| (name, "x".repeat(7000))).collect(),
        metrics,
        history: (0..1500).map(|step| MetricPoint { name: "validation/ap".into(), step, value: step as f64 }).collect(),
        tags: BTreeMap::from([("mlflow.source.git.commit".into(), "abc".into())]),
        version_tags: BTreeMap::from([("threshold".into(), "0.7".into())]),
        dataset: Some(Dataset {
            name: "transactions".into(),
            digest: "0123456789abcdef".into(),
            uris: vec!["s3://lake/transactions".into()],
            num_rows: 1000,
            columns: vec![("f0".into(), "Float64".into()), ("at".into(), "Timestamp(ms)".into())],
        }),
        artifacts: BTreeMap::from([("report.html".into(), "<html></html>".into())]),
    }
}

/// A small record, for tests of what goes wrong.
pub(super) fn short_record(experiment: &str) -> RunRecord {
    RunRecord {
        experiment: experiment.into(),
        started_ms: 1_795_000_000_000,
        ended_ms: 1_795_000_060_000,
        ..RunRecord::default()
    }
}

pub(super) fn run_of(version: &ModelVersion) -> Value {
    let path = format!("{API}/runs/get?run_id={}", version.run_id.as_deref().unwrap());
    ask("GET", &mlflow(), &path, &Value::Null)["run"].take()
}

/// All runs of an experiment.
pub(super) fn runs(experiment: &str) -> Vec<Value> {
    let path = format!("{API}/experiments/get-by-name?experiment_name={experiment}");
    let id = ask("GET", &mlflow(), &path, &Value::Null)["experiment"]["experiment_id"].take();
    let found = ask("POST", &mlflow(), &format!("{API}/runs/search"), &json!({"experiment_ids": [id]}));
    found["runs"].as_array().cloned().unwrap_or_default()
}

/// The statuses of all logged models of an experiment.
pub(super) fn model_statuses(experiment: &str) -> Vec<String> {
    let path = format!("{API}/experiments/get-by-name?experiment_name={experiment}");
    let id = ask("GET", &mlflow(), &path, &Value::Null)["experiment"]["experiment_id"].take();
    let found = ask("POST", &mlflow(), &format!("{API}/logged-models/search"), &json!({"experiment_ids": [id]}));
    let models = found["models"].as_array().cloned().unwrap_or_default();
    models.iter().map(|model| model["info"]["status"].as_str().unwrap().to_owned()).collect()
}
