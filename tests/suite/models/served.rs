//! Both directions between us and Python: what we register, `mlflow` loads, and gives the same scores to the bit; what
//! Python logs, we serve.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tidemill::ErrorKind;
use tidemill::model::reference::ModelReference;
use tidemill::model::registry::{Fetch, ModelVersion, Registry};

use super::double::ask;
use super::{API, environment, mlflow, model_statuses, open, package, record, run_of, scores, variable};
use crate::harness::unique;

fn python(arguments: &[&str]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mlflow/client.py");
    let output = Command::new(variable("TIDEMILL_TEST_MLFLOW_PYTHON"))
        .arg(script)
        .args(arguments)
        .envs(environment(&[
            ("MLFLOW_TRACKING_URI", &mlflow()),
            ("MLFLOW_S3_ENDPOINT_URL", &variable("TIDEMILL_TEST_S3_ENDPOINT")),
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("DO_NOT_TRACK", "1"),
        ]))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {out}\n{log}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_str().unwrap().parse().unwrap()).collect()
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

async fn registered(registry: &Registry, name: &str) -> ModelVersion {
    let version = registry.register(name, &package(), &record(name)).await.unwrap();
    registry.set_alias(name, "champion", &version.version).await.unwrap();
    version
}

/// Everything that MLflow shows of a registration.
fn is_complete(name: &str, version: &ModelVersion) {
    let run = run_of(version);
    assert_eq!(run["info"]["status"], "FINISHED");
    assert_eq!(run["info"]["end_time"], 1_795_000_060_000_i64);
    assert_eq!(run["data"]["params"].as_array().unwrap().len(), 130);
    let metric = |name: &str| {
        let metrics = run["data"]["metrics"].as_array().unwrap();
        metrics.iter().find(|metric| metric["key"] == name).unwrap_or_else(|| panic!("{name}: {metrics:?}")).clone()
    };
    assert_eq!(metric("test/pr_auc")["value"], 0.875);
    assert_eq!(metric("nothing")["value"], "NaN");
    assert_eq!(
        (metric("validation/ap")["step"].as_i64(), metric("validation/ap")["value"].as_f64()),
        (Some(1499), Some(1499.0))
    );
    let dataset = &run["inputs"]["dataset_inputs"][0];
    assert_eq!(dataset["dataset"]["name"], "transactions");
    assert_eq!(dataset["tags"][0], json!({"key": "mlflow.data.context", "value": "training"}));
    assert!(run["outputs"]["model_outputs"][0]["model_id"].as_str().unwrap().starts_with("m-"));
    assert_eq!(model_statuses(name), ["LOGGED_MODEL_READY"]);
    let history =
        format!("{API}/metrics/get-history?run_id={}&metric_key=validation/ap", version.run_id.as_deref().unwrap());
    assert_eq!(ask("GET", &mlflow(), &history, &Value::Null)["metrics"].as_array().unwrap().len(), 1500);
}

async fn is_served(registry: &Registry, name: &str, version: &ModelVersion) {
    let reference = ModelReference::alias(name, "champion").unwrap();
    let champion = registry.resolve(&reference).await.unwrap();
    assert_eq!((&champion.version, &champion.run_id), (&version.version, &version.run_id));
    assert_eq!(champion.aliases, ["champion"]);
    assert_eq!(champion.tags["threshold"], "0.7");
    let fetched = registry.fetch(&champion, Fetch::All).await.unwrap();
    let expected = package();
    // All files come back as they went, but for the one that says where they are now.
    let same = |path: &&String| fetched.files[*path] == expected.files[*path];
    let different: Vec<&String> = expected.files.keys().filter(|path| !same(path)).collect();
    assert_eq!(different, ["MLmodel"]);
    assert_eq!(fetched.files.len(), expected.files.len());
    let served = registry.fetch(&champion, Fetch::Serving).await.unwrap();
    assert_eq!(served.model_text().unwrap(), expected.model_text().unwrap());
    assert_eq!(served.self_test().unwrap().unwrap().scores.len(), 40);
    assert!(!served.files.contains_key("features.sql"));
}

#[tokio::test]
async fn python_loads_what_was_registered_and_scores_the_same_to_the_bit() {
    let registry = open(&mlflow(), &[]);
    let proxied = unique("proxied");
    let through_server = registered(&registry, &proxied).await;
    is_complete(&proxied, &through_server);
    is_served(&registry, &proxied, &through_server).await;

    // An experiment whose files its clients write to the bucket themselves.
    let direct = unique("direct");
    let place = format!("s3://{}/{direct}", variable("TIDEMILL_TEST_S3_BUCKET"));
    let made = ask(
        "POST",
        &mlflow(),
        &format!("{API}/experiments/create"),
        &json!({"name": direct, "artifact_location": place}),
    );
    assert!(made["experiment_id"].is_string(), "{made}");
    let past_server = registered(&registry, &direct).await;
    is_complete(&direct, &past_server);
    is_served(&registry, &direct, &past_server).await;
    let data =
        format!("{}/data/{}/{direct}/models", variable("TIDEMILL_TEST_S3_DIR"), variable("TIDEMILL_TEST_S3_BUCKET"));
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 1, "the bucket holds the logged model");

    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.json");
    let test = package().self_test().unwrap().unwrap();
    std::fs::write(&rows, test.to_json()).unwrap();
    let uris =
        [format!("models:/{proxied}@champion"), format!("models:/{proxied}/1"), format!("models:/{direct}@champion")];
    let answers = python(&["load", rows.to_str().unwrap(), &uris[0], &uris[1], &uris[2]]);
    for (answer, version) in answers.as_array().unwrap().iter().zip([&through_server, &through_server, &past_server]) {
        for flavor in ["pyfunc", "lightgbm", "example"] {
            assert_eq!(bits(&numbers(&answer[flavor])), bits(&test.scores), "{flavor}");
        }
        assert_eq!(answer["inputs"][0], json!(["f0", "double", true]));
        assert_eq!(answer["inputs"].as_array().unwrap().len(), 4);
        assert_eq!(answer["run_id"].as_str(), version.run_id.as_deref());
        assert_eq!(format!("models:/{}", answer["model_id"].as_str().unwrap()), version.location);
        assert_eq!(answer["threshold"], 0.7);
    }
}

#[tokio::test]
async fn what_python_logged_is_served_or_refused_with_what_to_log_instead() {
    let prefix = unique("python");
    let logged = python(&["log", &prefix]);
    let registry = open(&mlflow(), &[]);
    let rows: Vec<Vec<f64>> = logged["rows"].as_array().unwrap().iter().map(numbers).collect();
    for kind in ["booster", "of-run"] {
        let reference = ModelReference::version(&format!("{prefix}-{kind}"), "1").unwrap();
        let version = registry.resolve(&reference).await.unwrap();
        let package = registry.fetch(&version, Fetch::Serving).await.unwrap();
        assert_eq!(package.manifest().unwrap(), None);
        let scores = scores(package.model_text().unwrap(), &rows);
        assert_eq!(bits(&scores), bits(&numbers(&logged["scores"])), "{kind}");
    }
    let version =
        registry.resolve(&ModelReference::version(&format!("{prefix}-classifier"), "1").unwrap()).await.unwrap();
    let error = registry.fetch(&version, Fetch::Serving).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("log its booster instead: `mlflow.lightgbm.log_model(clf.booster_"), "{error}");
}

#[tokio::test]
async fn versions_aliases_and_tags_are_those_of_the_server() {
    let registry = open(&mlflow(), &[]);
    let name = unique("versions");
    assert_eq!(registry.versions(&name).await.unwrap(), []);
    let champion = ModelReference::alias(&name, "champion").unwrap();
    assert_eq!(registry.find(&champion).await.unwrap(), None);
    let error = registry.resolve(&champion).await.unwrap_err();
    assert!(error.to_string().contains(&format!("has no model {name}")), "{error}");
    for number in ["1", "2"] {
        assert_eq!(registered(&registry, &name).await.version, number);
    }
    registry.set_alias(&name, "challenger", "1").await.unwrap();
    let tags = [("gate".to_owned(), "passed".to_owned()), ("why: ä".to_owned(), String::new())].into();
    registry.set_tags(&name, "1", &tags).await.unwrap();
    let versions = registry.versions(&name).await.unwrap();
    let seen: Vec<(&str, &[String])> =
        versions.iter().map(|version| (version.version.as_str(), version.aliases.as_slice())).collect();
    assert_eq!(seen, [("2", &["champion".to_owned()][..]), ("1", &["challenger".to_owned()][..])]);
    assert_eq!(versions[1].tags["gate"], "passed");
    assert!(versions[1].tags.contains_key("why: ä"));
    let models = registry.names().await.unwrap();
    let model = models.iter().find(|model| model.name == name).unwrap();
    assert_eq!(model.aliases, [("challenger".into(), "1".into()), ("champion".into(), "2".into())].into());

    registry.delete_alias(&name, "challenger").await.unwrap();
    registry.delete_alias(&name, "challenger").await.unwrap();
    for (reference, hint) in
        [(format!("models:/{name}@challenger"), "found champion"), (format!("models:/{name}/9"), "no version 9")]
    {
        let error = registry.resolve(&reference.parse().unwrap()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(hint), "{error}");
    }
    let error = registry.set_alias(&name, "champion", "9").await.unwrap_err();
    assert!(error.to_string().contains("RESOURCE_DOES_NOT_EXIST"), "{error}");
    assert_eq!(registry.resolve(&champion).await.unwrap().version, "2");
}
