//! Commands that run to their end, as processes: what they print, which exit code says what to do, and that what they refuse
//! leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{tidemill, unique};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../udfs/testdata").join(name)
}

/// A pipeline over a file, with a model of three classes and this view over it.
fn kinds_pipeline(folder: &Path, model: &str, view: &str) -> String {
    let text = format!(
        r#"
pipeline: kinds
sources:
  events:
    connector: files
    path: in
    format: json_lines
    columns: {{ id: string not null, f0: double, f1: double, f2: double, f3: double }}
models:
  kinds: {{ uri: {model} }}
views:
  scored: {view}
sinks:
  out: {{ connector: console, select: SELECT * FROM scored }}
http: {{ listen: "off" }}
"#
    );
    let name = format!("{}.yaml", unique("kinds"));
    fs::write(folder.join(&name), text).unwrap();
    name
}

const SECOND_CLASS: &str = "SELECT id, score('kinds', f0, f1, f2, f3)[2] AS p FROM events";
const AS_A_NUMBER: &str = "SELECT id, score('kinds', f0, f1, f2, f3) > 0.5 AS p FROM events";

#[test]
fn check_explain_and_run_agree_on_a_model_of_several_classes() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::write(folder.path().join("in/a.jsonl"), "{\"id\":\"a\",\"f0\":1,\"f1\":0.5,\"f2\":2,\"f3\":3}\n").unwrap();
    let model = testdata("three_classes.txt").display().to_string();
    let other_names = "SELECT id, score('kinds', f1, f0, f2, f3)[2] AS p FROM events";
    for (view, code) in [(SECOND_CLASS, 0), (AS_A_NUMBER, 78), (other_names, 78)] {
        let file = kinds_pipeline(folder.path(), &model, view);
        for command in ["check", "explain", "run"] {
            let ended = tidemill(folder.path(), &[command, &file]);
            assert_eq!(ended.code, Some(code), "{command}: {view}\n{}{}", ended.stdout, ended.log);
            assert!(!ended.stdout.contains("not checked"), "{command}: {}", ended.stdout);
        }
    }
    let told = tidemill(folder.path(), &["run", &kinds_pipeline(folder.path(), &model, SECOND_CLASS)]).stdout;
    let row: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let share = row["p"].as_f64().unwrap_or_else(|| panic!("no row of a number in {told}"));
    assert!(share > 0.0 && share < 1.0, "{told}");
}

#[test]
fn what_check_could_not_read_it_says_and_takes_either_way() {
    let folder = tempfile::tempdir().unwrap();
    for (model, reason) in [("missing.txt", "there is no file"), ("s3://lake/kinds.txt", "not a file of this machine")]
    {
        for command in ["check", "explain"] {
            for view in [SECOND_CLASS, AS_A_NUMBER] {
                let ended = tidemill(folder.path(), &[command, &kinds_pipeline(folder.path(), model, view)]);
                assert_eq!(ended.code, Some(0), "{command}: {view}\n{}", ended.log);
                let note = ended.stdout.lines().last().unwrap();
                assert!(note.starts_with("not checked: ") && note.contains("model kinds"), "{note}");
                assert!(note.contains(reason), "{note}");
            }
            // Neither a number nor a list of numbers.
            let both = "SELECT id, score('kinds', f0, f1)[2] AS p, score('kinds', f0, f1) > 0.5 AS q FROM events";
            let ended = tidemill(folder.path(), &[command, &kinds_pipeline(folder.path(), model, both)]);
            assert_eq!(ended.code, Some(78), "{command}: {}", ended.stdout);
        }
    }
}

#[test]
fn training_refuses_what_would_overwrite_the_model_or_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = kinds_pipeline(folder.path(), "missing.txt", SECOND_CLASS);
    let train = |more: &[&str]| {
        let arguments = ["train", &file, "--input", "events=in", "--model", "kinds"];
        tidemill(folder.path(), &[&arguments[..], more].concat())
    };
    let cases: [(&[&str], &str); 7] = [
        (&["--output", "m.json"], "--output m.json"),
        (&["--output", "m.JSON"], "--output m.JSON"),
        (&["--output", "m.txt", "--threshold-quantile", "0"], "--threshold-quantile"),
        (&["--output", "m.txt", "--threshold-quantile", "1.5"], "found 1.5"),
        (&["--output", "m.txt", "--threshold-quantile=-0.1"], "found -0.1"),
        (&["--output", "m.txt", "--threshold-quantile", "NaN"], "found NaN"),
        (&["--output", "m.txt", "--rounds", "0"], "--rounds"),
    ];
    for (arguments, told) in cases {
        let ended = train(arguments);
        assert_eq!(ended.code, Some(78), "{arguments:?}: {}", ended.log);
        assert!(ended.log.contains(told), "{arguments:?}: {}", ended.log);
    }
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with(['m', '.'])).collect::<Vec<_>>(), Vec::<String>::new());
}
