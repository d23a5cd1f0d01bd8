//! Drift and labels, end to end: `tidemill drift` over stored rows with its exit codes, and what a live run says in metrics and
//! status of the rows that it serves and of the labels that come later.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tidemill::model::profile::{REFERENCE_PROFILE_FILE, ReferenceProfile};
use tidemill_udfs::scorer::{Column, Model, Scratch};

use super::bench::{address, get, status, wait_until};
use crate::harness::{Ended, Process, broker, make_topic, produce, tidemill, unique};

const MODEL: &str = include_str!("../../../udfs/testdata/binary_31.txt");
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;
/// 2026-01-01.
const START: i64 = 1_767_225_600_000_000;
/// Rows of a day.
const ROWS: usize = 1440;

/// A row of the stream.
#[derive(Debug, Clone)]
struct Row {
    id: usize,
    time: i64,
    features: [f64; 4],
    score: f64,
}

/// Rows of some days, the first of them `day`; `factor` stretches one feature. By night it is larger.
fn rows(days: std::ops::Range<i64>, factor: f64, seed: u64) -> Vec<Row> {
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut rows = Vec::new();
    for day in days {
        for minute in 0..ROWS {
            let night = if minute < 360 { 30.0 } else { 0.0 };
            let features =
                [(random() * 40.0 + night) * factor, random() * 4.0 - 2.0, (random() * 3.0).floor(), random() * 30.0];
            let time = START + day * DAY + minute as i64 * MINUTE;
            rows.push(Row { id: day as usize * ROWS + minute, time, features, score: 0.0 });
        }
    }
    let columns: Vec<Vec<f64>> = (0..4).map(|at| rows.iter().map(|row| row.features[at]).collect()).collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![0.0; rows.len()];
    Model::parse(MODEL).unwrap().score(&columns, &mut scores, &mut Scratch::default());
    rows.iter_mut().zip(scores).for_each(|(row, score)| row.score = score);
    rows
}

fn as_json(row: &Row) -> String {
    let [f0, f1, f2, f3] = row.features;
    json!({ "id": format!("t{}", row.id), "time": row.time, "f0": f0, "f1": f1, "f2": f2, "f3": f3 }).to_string()
}

/// The label of a row, two days later: what the score says, wrong for every tenth row.
fn label(row: &Row) -> (bool, String) {
    let is_fraud = (row.score >= 0.5) != row.id.is_multiple_of(10);
    (
        is_fraud,
        json!({ "id": format!("t{}", row.id), "fraud": u8::from(is_fraud), "reported": row.time + 2 * DAY })
            .to_string(),
    )
}

/// The model with the reference profile of ten days beside it.
fn write_model(folder: &Path, rows: &[Row]) {
    fs::create_dir_all(folder.join("model")).unwrap();
    fs::write(folder.join("model/model.lgb"), MODEL).unwrap();
    let columns: Vec<Vec<f64>> = (0..4).map(|at| rows.iter().map(|row| row.features[at]).collect()).collect();
    let named: Vec<(&str, &[f64])> =
        ["f0", "f1", "f2", "f3"].into_iter().zip(columns.iter().map(Vec::as_slice)).collect();
    let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.time).collect();
    let profile = ReferenceProfile::of(&named, Some(&scores), &times, &[]).unwrap();
    fs::write(folder.join("model").join(REFERENCE_PROFILE_FILE), profile.to_json().unwrap()).unwrap();
}

/// The pipeline over these sources.
fn pipeline(folder: &Path, events: &str, labels: &str, rest: &str) {
    let text = format!(
        r#"
pipeline: watched
sources:
  events:
{events}
    columns: {{ id: string not null, time: epoch_us not null, f0: double, f1: double, f2: double, f3: double }}
    event_time: time
  labels:
{labels}
    columns: {{ id: string not null, fraud: int not null, reported: epoch_us not null }}
    event_time: reported
models:
  kinds: {{ uri: model/model.lgb, threshold: 0.5 }}
views:
  scored: SELECT *, score('kinds', f0, f1, f2, f3) AS p FROM events
sinks:
  # Nothing: nobody reads the pipe while it runs.
  alerts: {{ connector: console, select: "SELECT id, p FROM scored WHERE p > 1" }}
labels:
  served: >-
    SELECT id, p AS score, p >= threshold('kinds') AS alert, model_version('kinds') AS model_version,
    CASE WHEN f2 = 0 THEN 'low' ELSE 'high' END AS segment FROM scored
  reported: SELECT id, fraud AS label FROM labels
  keep: 60d
drift: {{ min_rows: 1000 }}
{rest}
"#
    );
    fs::write(folder.join("watched.yaml"), text).unwrap();
}

fn write_lines(path: &Path, lines: impl Iterator<Item = String>) {
    let mut text = String::new();
    lines.for_each(|line| writeln!(text, "{line}").unwrap());
    fs::write(path, text).unwrap();
}

fn last_line(ended: &Ended) -> Value {
    let line = ended.stdout.lines().last().unwrap_or_else(|| panic!("nothing was printed:\n{}", ended.log));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn stored_rows_are_held_against_the_reference_profile_and_the_exit_code_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let trained = rows(0..10, 1.0, 1);
    write_model(folder.path(), &trained);
    let files = "    connector: files\n    path: nothing/\n    format: json_lines";
    pipeline(folder.path(), files, files, "http: { listen: \"off\" }");
    let (steady, shifted) = (rows(10..14, 1.0, 2), rows(12..14, 1.8, 3));
    write_lines(&at("steady.jsonl"), trained.iter().chain(&steady).map(as_json));
    write_lines(&at("shifted.jsonl"), trained.iter().chain(&steady[..2 * ROWS]).chain(&shifted).map(as_json));
    write_lines(&at("labels.jsonl"), steady.iter().map(|row| label(row).1));
    let drift = |input: &str, more: &[&str]| {
        let input = format!("events={input}");
        tidemill(folder.path(), &[&["drift", "watched.yaml", "--input", &input, "--json"], more].concat())
    };

    let ended = drift("steady.jsonl", &["--result-file", "result.json"]);
    assert_eq!(ended.code, Some(99), "{}{}", ended.stdout, ended.log);
    let result = last_line(&ended);
    assert_eq!((&result["drift"], &result["models"][0]["state"]), (&false.into(), &"steady".into()), "{result}");
    let windows = result["models"][0]["windows"].as_array().unwrap();
    // Behind the training rows, which end a minute before midnight.
    assert_eq!((windows.len(), &windows[0]["start_micros"]), (4, &(START + 10 * DAY).into()));
    assert!(windows.iter().all(|window| window["judged"] == true && window["rows"] == ROWS), "{result}");
    assert!(windows[0]["score"]["psi"].as_f64().unwrap() < 0.1, "{result}");
    assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(at("result.json")).unwrap()).unwrap(), result);

    let ended = drift("shifted.jsonl", &[]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.log);
    let result = last_line(&ended);
    let acting = result["models"][0]["acting"].as_array().unwrap();
    assert!(acting.contains(&"f0".into()) && !acting.contains(&"f3".into()), "{result}");
    assert!(ended.stdout.contains("drift: f0"), "{}", ended.stdout);
    // One window more is asked for than there are.
    assert_eq!(drift("shifted.jsonl", &["--consecutive", "3"]).code, Some(99));
    // Of the second day only the night: other values, and no alarm.
    let to = ["--from", "2026-01-13", "--to", "2026-01-13T06:00:00Z", "--min-rows", "100"];
    let ended = drift("shifted.jsonl", &to);
    assert_eq!((ended.code, &last_line(&ended)["models"][0]["state"]), (Some(99), &"too_few_rows".into()));

    // Labels of the four days, two days later each.
    let ended = drift("steady.jsonl", &["--input", "labels=labels.jsonl"]);
    assert_eq!(ended.code, Some(99), "{}{}", ended.stdout, ended.log);
    let labels = &last_line(&ended)["labels"];
    let count = |is: &dyn Fn(&Row) -> bool| steady.iter().filter(|row| is(row)).count() as u64;
    let wrong = count(&|row| row.score >= 0.5 && !label(row).0);
    assert_eq!((&labels["all"]["labelled"], &labels["unmatched"]), (&(4 * ROWS).into(), &0.into()), "{labels}");
    assert_eq!(labels["all"]["false_positives"], wrong);
    assert_eq!(labels["all"]["true_positives"], count(&|row| row.score >= 0.5 && label(row).0));
    let segments: Vec<u64> =
        labels["groups"].as_array().unwrap().iter().map(|group| group["served"].as_u64().unwrap()).collect();
    assert_eq!((segments.len(), segments.iter().sum::<u64>()), (2, 4 * ROWS as u64), "{labels}");

    let ended = drift("steady.jsonl", &["--from", "2027-01-01"]);
    assert_eq!(ended.code, Some(65), "{}", ended.stdout);
    assert!(ended.log.contains("none of them was scored within the period"), "{}", ended.log);
    let ended = drift("steady.jsonl", &["--reference", "nothing"]);
    assert_eq!(ended.code, Some(78), "{}", ended.stdout);
    fs::remove_file(at("model").join(REFERENCE_PROFILE_FILE)).unwrap();
    let ended = drift("steady.jsonl", &[]);
    assert_eq!(ended.code, Some(78), "{}", ended.stdout);
    assert!(ended.log.contains("no model of this pipeline has a reference profile"), "{}", ended.log);
}

/// A metric's sample with all of these labels.
fn sample(page: &str, name: &str, labels: &[&str]) -> f64 {
    let line = page.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    line.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{page}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_run_says_how_far_its_rows_are_and_how_good_its_scores_were() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &rows(0..10, 1.0, 1));
    let topic = |name: &str, partitions| {
        let topic = unique(name);
        make_topic(&topic, partitions);
        format!("    connector: kafka\n    bootstrap_servers: {}\n    topic: {topic}", broker())
    };
    let (events, labels) = (topic("events", 2), topic("labels", 1));
    let rest = "checkpoint: { path: checkpoint }\nrun: { workers: 2 }\nhttp: { listen: \"127.0.0.1:0\" }";
    pipeline(folder.path(), &events, &labels, rest);
    let name_of = |lines: &str| lines.rsplit(' ').next().unwrap().to_owned();
    let served = [rows(10..12, 1.0, 2), rows(12..14, 1.8, 3)].concat();
    let values: Vec<String> = served.iter().map(as_json).collect();
    produce(&name_of(&events), values.iter().enumerate().map(|(row, value)| (row as i32 % 2, "", value.as_bytes())));
    let process = Process::start(folder.path(), &["run", "watched.yaml"], &[]);
    let address = address(&process);
    let num_rows = served.len() as u64;
    let windows_hold = || {
        let status = status(&address);
        let windows = status["drift"][0]["windows"].as_array().cloned().unwrap_or_default();
        windows.iter().filter_map(|window| window["rows"].as_u64()).sum::<u64>() == num_rows
            && status["labels"]["all"]["served"] == num_rows
    };
    wait_until("all rows are counted", &process, windows_hold);
    let drift = &status(&address)["drift"][0];
    assert_eq!((&drift["state"], &drift["model"]), (&"act".into(), &"kinds".into()), "{drift}");
    assert!(drift["acting"].as_array().unwrap().contains(&"f0".into()), "{drift}");
    let page = get(&address, "/metrics").1;
    let model = "model=\"kinds\"";
    assert_eq!(sample(&page, "tidemill_drift_state", &[model]), 2.0);
    assert!(sample(&page, "tidemill_drift_psi", &[model, "feature=\"f0\""]) > 0.2);
    assert!(sample(&page, "tidemill_drift_psi", &[model, "feature=\"f1\""]) < 0.1);
    assert!(sample(&page, "tidemill_drift_psi", &[model, "feature=\"score\""]) >= 0.0);
    assert_eq!(sample(&page, "tidemill_drift_window_rows", &[model]), ROWS as f64);
    assert_eq!(
        sample(&page, "tidemill_drift_window_start_timestamp_seconds", &[model]),
        (START + 13 * DAY) as f64 / 1e6
    );

    // Labels come, one of them for a row that nobody served.
    let mut told: Vec<String> = served.iter().step_by(3).map(|row| label(row).1).collect();
    told.push(json!({ "id": "t999999", "fraud": 1, "reported": served[0].time }).to_string());
    produce(&name_of(&labels), told.iter().map(|value| (0, "", value.as_bytes())));
    let matched = told.len() as u64 - 1;
    wait_until("labels are joined", &process, || status(&address)["labels"]["matched"] == matched);
    let found = status(&address)["labels"].clone();
    let labelled = || served.iter().step_by(3);
    let hits = labelled().filter(|row| row.score >= 0.5 && label(row).0).count();
    let wrong = labelled().filter(|row| row.score >= 0.5 && !label(row).0).count();
    assert_eq!((&found["all"]["true_positives"], &found["all"]["false_positives"]), (&hits.into(), &wrong.into()));
    assert_eq!((&found["unmatched"], &found["waiting"]), (&1.into(), &0.into()), "{found}");
    assert!((found["all"]["precision"].as_f64().unwrap() - hits as f64 / (hits + wrong) as f64).abs() < 1e-12);
    let page = get(&address, "/metrics").1;
    assert_eq!(sample(&page, "tidemill_labels", &["outcome=\"matched\""]), matched as f64);
    assert_eq!(sample(&page, "tidemill_label_delay_seconds_count", &[]), matched as f64);
    assert_eq!(sample(&page, "tidemill_label_delay_seconds_bucket", &["le=\"86400\""]), 0.0);
    let of_segments = ["low", "high"]
        .map(|segment| sample(&page, "tidemill_live_false_positives", &[&format!("segment=\"{segment}\"")]));
    assert_eq!(of_segments.iter().sum::<f64>(), wrong as f64);
    assert_eq!(process.terminate().code, Some(0));
}

#[test]
fn labels_without_their_columns_are_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &rows(0..1, 1.0, 1));
    let files = "    connector: files\n    path: nothing/\n    format: json_lines";
    pipeline(folder.path(), files, files, "http: { listen: \"off\" }");
    let text = fs::read_to_string(folder.path().join("watched.yaml")).unwrap();
    let text = text.replace("p AS score, ", "").replace("fraud AS label", "id AS label");
    fs::write(folder.path().join("watched.yaml"), text).unwrap();
    for command in ["check", "run"] {
        let ended = tidemill(folder.path(), &[command, "watched.yaml"]);
        assert_eq!(ended.code, Some(78), "{command}: {}{}", ended.stdout, ended.log);
        let told = ended.stdout + &ended.log;
        assert!(
            told.contains("labels.served: expected a column score (a number); name it with AS"),
            "{command}: {told}"
        );
        assert!(told.contains("labels.reported: expected the column label to be a boolean"), "{command}: {told}");
    }
}
