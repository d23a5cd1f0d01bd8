//! Commands that run to their end, as processes: what they print, which exit code says what to do, and that what they refuse
//! leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Ended, Process, Seen, broker, consume_all, tidemill, unique};

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

/// A pipeline with one case, which expects `x` to be this.
fn case_file(folder: &Path, x: &str) -> String {
    let pipeline = r#"
pipeline: cases
sources:
  events: { connector: files, path: in, format: json_lines, columns: { id: string not null, a: bigint } }
views:
  doubled: SELECT id, a * 2 AS x FROM events
sinks:
  out: { connector: console, select: SELECT * FROM doubled }
"#;
    fs::write(folder.join("cases.yaml"), pipeline).unwrap();
    let cases = format!(
        r#"
pipeline: cases.yaml
cases:
  - name: a number is doubled
    input: {{ events: [ {{ id: e, a: 3 }} ] }}
    expect: {{ doubled: [ {{ id: e, x: {x} }} ] }}
"#
    );
    let name = format!("{}.test.yaml", unique("case"));
    fs::write(folder.join(&name), cases).unwrap();
    name
}

#[test]
fn cases_that_pass_end_with_0_those_that_fail_with_65_and_a_wrong_file_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (case_file(folder.path(), "6"), case_file(folder.path(), "7"));
    let ended = tidemill(folder.path(), &["test", &good]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.stdout.contains("ok      a number is doubled"), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 cases in 1 files, 0 failed"), "{}", ended.stdout);

    let ended = tidemill(folder.path(), &["test"]);
    assert_eq!(ended.code, Some(65), "{}", ended.stdout);
    assert!(ended.stdout.contains("x: expected 7, found 6"), "{}", ended.stdout);
    assert!(ended.log.contains("2 cases in 2 files, 1 failed"), "{}", ended.log);

    let wrong = "wrong.test.yaml";
    fs::write(folder.path().join(wrong), "pipeline: cases.yaml\ncases: [ { name: a, inputs: {} } ]\n").unwrap();
    let ended = tidemill(folder.path(), &["test", wrong, &bad]);
    assert_eq!(ended.code, Some(78), "{}", ended.stdout);
    assert!(ended.stdout.contains("did you mean `input`?"), "{}", ended.stdout);
    assert_eq!(tidemill(folder.path(), &["test", "nowhere"]).code, Some(78));
}

/// Ten minutes at five events a second.
const RANGE: [&str; 6] = ["--from", "2026-03-09", "--to", "2026-03-09T00:10:00Z", "--events-per-second", "5"];

fn generate(folder: &Path, output: [&str; 2], more: &[&str]) -> Ended {
    let broker = broker();
    let mut arguments = vec!["generate", output[0], output[1], "--seed", "7"];
    if output[0] == "--topic" {
        arguments.extend(["--brokers", &broker]);
    }
    arguments.extend(more);
    tidemill(folder, &arguments)
}

#[test]
fn a_topic_gets_the_events_that_a_file_of_the_same_range_has_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let topic = unique("generated");
    let imperfect = ["--malformed", "0.02", "--duplicates", "0.02"];
    let arguments = [&RANGE[..], &imperfect].concat();
    for output in [["--jsonl", "events.jsonl"], ["--topic", &topic]] {
        let ended = generate(folder.path(), output, &arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }
    let file = fs::read(folder.path().join("events.jsonl")).unwrap();
    let mut lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.pop(), Some(&b""[..]));
    let sent = consume_all(&topic);
    assert!(sent.len() > 2_000, "{} records", sent.len());
    for partition in 0..4 {
        let mut rest = lines.iter();
        let of_it: Vec<&Seen> = sent.iter().filter(|record| record.partition == partition).collect();
        assert!(of_it.len() > 100, "{} records in partition {partition}", of_it.len());
        for record in of_it {
            let value = record.value.as_deref().unwrap();
            assert!(
                rest.any(|line| *line == value),
                "a record of partition {partition} is not in order, or in no line"
            );
        }
    }
    let mut values: Vec<&[u8]> = sent.iter().map(|record| record.value.as_deref().unwrap()).collect();
    values.sort_unstable();
    lines.sort_unstable();
    assert!(values == lines, "{} lines, {} records", lines.len(), values.len());
}

#[test]
fn live_events_come_at_their_rate_with_times_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let topic = unique("live");
    let millis = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let before = millis();
    let more = ["--live", "--events-per-second", "100", "--count", "300"];
    let ended = generate(folder.path(), ["--topic", &topic], &more);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let after = millis();
    // On average over a day: at some hours there are fewer.
    assert!(after - before > 500, "300 events at 100 a second came in {} ms", after - before);
    let sent = consume_all(&topic);
    assert_eq!(sent.len(), 300);
    assert!(ended.stdout.starts_with("300 records"), "{}", ended.stdout);
    for record in sent {
        let event = record.json();
        let time = chrono::DateTime::parse_from_rfc3339(event["timestamp"].as_str().unwrap()).unwrap();
        let time = time.timestamp_millis();
        assert!(time >= before - 1_000 && time <= after + 1_000, "{time} is not between {before} and {after}");
        assert_eq!(record.key.as_deref(), Some(event["user_id"].to_string().as_bytes()));
    }
}

#[test]
fn generating_says_whether_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("taken"), "").unwrap();
    let generate = |output: [&str; 2], more: &[&str]| {
        let arguments = [&["generate", output[0], output[1]], &RANGE[..], more].concat();
        Process::start(folder.path(), &arguments, &[]).wait()
    };
    let cases: [([&str; 2], &[&str], i32); 5] = [
        (["--jsonl", "taken"], &[], 78),
        (["--jsonl", "new.jsonl"], &["--users", "0"], 78),
        // No folder can be made there, as on a disk that is full.
        (["--jsonl", "taken/new.jsonl"], &[], 75),
        (["--parquet", "taken/new.parquet"], &[], 75),
        (["--topic", "t"], &["--brokers", "127.0.0.1:1"], 75),
    ];
    for (output, more, code) in cases {
        let ended = generate(output, more);
        assert_eq!(ended.code, Some(code), "{output:?}: {}", ended.log);
    }
    assert_eq!(fs::read(folder.path().join("taken")).unwrap(), b"");
}
