//! `tidemill model gate` as a process: the verdict of a training, checked against the champion of today, and both models scored again.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::tidemill;
use crate::train::{FEATURES, FILES, folder_with_history, pipeline, trained};

const REGISTRY: [&str; 2] = ["--registry", "registry"];

/// Exit code and answer.
fn gate(folder: &Path, version: &str, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = ["model", "gate", "bad", "--version", version, "--json"];
    let ended = tidemill(folder, &[&arguments[..], &REGISTRY, more].concat());
    let answer = ended.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (ended.code, answer.unwrap_or_else(|| panic!("no answer: {}{}", ended.stdout, ended.log)))
}

fn promote(folder: &Path, version: &str, more: &[&str]) -> Option<i32> {
    let arguments = ["model", "promote", "bad", "--version", version];
    tidemill(folder, &[&arguments[..], &REGISTRY, more].concat()).code
}

fn names(answer: &Value) -> Vec<&str> {
    answer["report"]["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect()
}

#[test]
fn a_version_is_judged_beside_the_champion_and_promoted_by_the_verdict() {
    let (_guard, folder) = folder_with_history();
    let rules = |positives: u32| format!(", trials: 0, segments: [area], gate: {{ positives: {positives} }}");
    let file = pipeline(&folder, FILES, FEATURES, &rules(5));
    let register = [&["--register"], &REGISTRY[..]].concat();
    trained(&folder, &file, "history.jsonl", "first", &register);
    assert!(folder.join("first/gate.json").is_file() && folder.join("first/plots/precision_recall.png").is_file());
    let page = fs::read_to_string(folder.join("first/report.html")).unwrap();
    assert!(page.contains("There is no champion") && page.contains("<svg "));

    // The first: the absolute rules only.
    let (code, answer) = gate(&folder, "1", &[]);
    assert_eq!((code, &answer["gate"]), (Some(0), &Value::from("passed")), "{answer}");
    assert!(answer["champion"].is_null() && names(&answer).contains(&"scoring_time"), "{answer}");
    assert_eq!(promote(&folder, "1", &[]), Some(0));

    // The same model again is not worse than itself.
    trained(&folder, &file, "history.jsonl", "second", &register);
    let (code, answer) = gate(&folder, "2", &[]);
    assert_eq!((code, &answer["champion"]), (Some(0), &Value::from("1")), "{answer}");
    assert!(
        ["pr_auc", "recall_at_budget", "segment.area", "features"].iter().all(|name| names(&answer).contains(name))
    );

    // Too few positives: an answer and no error, kept for `promote`.
    let strict = pipeline(&folder, FILES, FEATURES, &rules(100_000));
    trained(&folder, &strict, "history.jsonl", "third", &[&register[..], &["--seed", "7", "--trials", "1"]].concat());
    let (code, answer) = gate(&folder, "3", &[]);
    assert_eq!(code, Some(99), "{answer}");
    assert!(answer["gate"].as_str().unwrap().starts_with("refused: positives"), "{answer}");
    assert!(answer["reasons"].to_string().contains("test rows are positive"), "{answer}");
    assert_eq!(promote(&folder, "3", &[]), Some(99));
    assert_eq!(promote(&folder, "3", &["--force"]), Some(0));

    // Another champion than the one that the training compared with: the old verdict does not hold, a new one does.
    let (code, answer) = gate(&folder, "2", &[]);
    assert_eq!(code, Some(99), "{answer}");
    assert!(answer["reasons"].to_string().contains("the champion is version 3 of bad now"), "{answer}");
    let (code, answer) = gate(&folder, "2", &["--rescore", &file, "--input", "events=history.jsonl"]);
    assert!([Some(0), Some(99)].contains(&code) && !names(&answer).contains(&"champion"), "{answer}");
    assert_eq!(answer["report"]["champion"], "version 3 of bad");
    let manifest: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("second/tidemill.json")).unwrap()).unwrap();
    assert_eq!(answer["report"]["rows"], manifest["parts"]["test"]["rows"]);
    let area = answer["report"]["pr_auc"]["candidate"].as_f64().unwrap();
    assert!((area - manifest["metrics"]["pr_auc"].as_f64().unwrap()).abs() < 1e-12, "{answer}");
}

#[test]
fn what_nobody_has_judged_is_an_error_that_says_how() {
    let (_guard, folder) = folder_with_history();
    let file = pipeline(&folder, FILES, FEATURES, ", trials: 0");
    trained(&folder, &file, "history.jsonl", "model", &[]);
    fs::remove_file(folder.join("model/gate.json")).unwrap();
    let ended = tidemill(&folder, &[&["model", "register", "bad", "--from", "model"], &REGISTRY[..]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let ended = tidemill(&folder, &[&["model", "gate", "bad", "--version", "1"], &REGISTRY[..]].concat());
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains("--rescore FILE --input SOURCE=PATH"), "{}", ended.log);
    let ended = tidemill(&folder, &[&["model", "gate", "bad", "--version", "9"], &REGISTRY[..]].concat());
    assert_eq!(ended.code, Some(78), "{}", ended.log);
}
