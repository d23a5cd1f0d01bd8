//! `tidemill model` as people and orchestrators use it: the same commands on a folder, a bucket and an MLflow server, with
//! their exit codes, and the one line of JSON.

use std::path::Path;

use serde_json::Value;
use tidemill::model::registry::{Fetch, Registry};

use super::{Environment, environment, mlflow, open, package, short_record, variable};
use crate::harness::{Ended, Process, unique};

fn run(folder: &Path, environment: &Environment, arguments: &[&str]) -> Ended {
    let variables: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Process::start(folder, arguments, &variables).wait()
}

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

/// A model's whole life by commands.
fn lives(uri: &str) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    package().write_folder(&model).unwrap();
    let environment = environment(&[("TIDEMILL_REGISTRY", uri)]);
    let name = unique("life");
    let tidemill = |arguments: &[&str]| run(folder.path(), &environment, arguments);

    let unknown = tidemill(&["model", "show", &name]);
    assert_eq!(unknown.code, Some(78), "{}", unknown.log);
    assert!(unknown.log.contains(&format!("has no model {name}")), "{}", unknown.log);
    assert_eq!(tidemill(&["model", "list", &name]).code, Some(78));
    let register = ["model", "register", &name, "--from", "model", "--run", "first", "--json"];
    assert_eq!(json(&tidemill(&register))["version"], "1");
    assert_eq!(json(&tidemill(&register))["version"], "2");

    // Without the gate, only by force.
    let promote = |version: &str, more: &[&str]| {
        let mut arguments = vec!["model", "promote", name.as_str(), "--version", version, "--json"];
        arguments.extend(more);
        tidemill(&arguments)
    };
    let refused = promote("1", &[]);
    assert_eq!(refused.code, Some(78), "{}", refused.log);
    assert!(
        refused.log.contains("it has not been through the gate") && refused.log.contains("--force"),
        "{}",
        refused.log
    );
    assert_eq!(json(&promote("1", &["--force"]))["before"], Value::Null);
    assert_eq!(promote("9", &["--force"]).code, Some(78));

    // What the gate says is a tag.
    let registry = Registry::open(uri, &|key| environment.get(key).cloned()).unwrap();
    let say = |verdict: &str| {
        let tags = [("gate".to_owned(), verdict.to_owned())].into();
        block_on(registry.set_tags(&name, "2", &tags)).unwrap();
    };
    say("refused: recall fell");
    let no = promote("2", &["--result-file", "answer.json"]);
    assert_eq!(no.code, Some(99), "{}", no.log);
    let answer: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("answer.json")).unwrap()).unwrap();
    assert_eq!((&answer["promoted"], &answer["gate"]), (&Value::Bool(false), &Value::from("refused: recall fell")));
    assert_eq!(serde_json::from_str::<Value>(no.stdout.trim()).unwrap(), answer);
    say("passed");
    assert_eq!(json(&promote("2", &[]))["before"], "1");

    let shown = json(&tidemill(&["model", "show", &name, "--json"]));
    assert_eq!((&shown["version"], &shown["tags"]["promoted_from"]), (&Value::from("2"), &Value::from("1")));
    assert!(shown["tags"]["promoted_at"].as_str().unwrap().ends_with('Z'), "{shown}");
    let listed = json(&tidemill(&["model", "list", &name, "--json"]));
    assert_eq!(listed["versions"][0]["aliases"], serde_json::json!(["champion"]));
    let text = tidemill(&["model", "list", &name]).stdout;
    assert!(text.starts_with("version  created") && text.contains("passed  champion"), "{text}");
    let all = tidemill(&["model", "list"]).stdout;
    let line = all.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{all}"));
    assert!(line.ends_with("  champion=2"), "{all}");

    let back = json(&tidemill(&["model", "rollback", &name, "--json"]));
    assert_eq!((&back["version"], &back["before"]), (&Value::from("1"), &Value::from("2")));
    let first = tidemill(&["model", "rollback", &name]);
    assert!(first.code == Some(78) && first.log.contains("no version is noted"), "{}", first.log);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_model_lives_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    lives(folder.path().join("registry").to_str().unwrap());
}

#[test]
fn a_model_lives_in_a_bucket() {
    lives(&format!("s3://{}/{}", variable("TIDEMILL_TEST_S3_BUCKET"), unique("registry")));
}

#[test]
fn a_model_lives_on_an_mlflow_server() {
    lives(&mlflow());
}

#[test]
fn without_a_registry_the_ways_to_name_one_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = [("TIDEMILL_REGISTRY", ""), ("MLFLOW_TRACKING_URI", "")];
    let ended = run(folder.path(), &environment(&nothing), &["model", "list"]);
    assert_eq!(ended.code, Some(78));
    assert!(ended.log.contains("--registry") && ended.log.contains("MLFLOW_TRACKING_URI"), "{}", ended.log);
    std::fs::write(folder.path().join("x"), "").unwrap();
    let ended = run(folder.path(), &environment(&[]), &["model", "register", "a", "--registry", "r", "--from", "x"]);
    assert!(ended.code == Some(78) && ended.log.contains("expected a model directory"), "{}", ended.log);
}

#[tokio::test]
async fn registrations_at_the_same_time_in_a_bucket_get_numbers_of_their_own() {
    let registry = open(&format!("s3://{}/{}", variable("TIDEMILL_TEST_S3_BUCKET"), unique("race")), &[]);
    let packages: Vec<_> = (0..6)
        .map(|number| {
            let mut package = package();
            package.insert("features.sql", format!("SELECT {number}")).unwrap();
            package
        })
        .collect();
    let record = short_record("race");
    let made = packages.iter().map(|package| registry.register("fraud", package, &record));
    let made = futures::future::try_join_all(made).await.unwrap();
    let mut numbers: Vec<&str> = made.iter().map(|version| version.version.as_str()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6"]);
    for (version, package) in made.iter().zip(&packages) {
        assert_eq!(&registry.fetch(version, Fetch::All).await.unwrap(), package);
    }
}
