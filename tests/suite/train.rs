//! `tidemill train` as a process, on small histories: the same rows give the same model file, from a file or a topic; what cannot be
//! trained on says why and leaves nothing behind; a model is held against its champion and registered.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Ended, broker, make_topic, parquet_rows, produce, tidemill, unique};

/// Numbers between 0 and 1, the same each time.
struct Luck(u32);

impl Luck {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 24)
    }
}

/// Forty days of events in the order of time, each at a time of its own: large amounts of busy users tend to be bad.
fn history() -> Vec<(i32, String)> {
    let mut luck = Luck(2_026);
    let mut rows = Vec::new();
    for number in 0..6_000_i64 {
        let user = (luck.next() * luck.next() * 30.0) as i32;
        let amount = (luck.next() * 1000.0).round() / 10.0;
        let is_bad = luck.next() < 0.002 + 0.8 * (amount / 100.0).powi(8) * f64::from(u8::from(user < 6));
        let at = 1_767_225_600_000 + number * 576_000 + i64::from(user);
        rows.push((
            user,
            format!(
                r#"{{"id":"t{number}","user_id":{user},"amount":{amount},"area":"{}","label":{},"at":{at}}}"#,
                if user % 2 == 0 { "north" } else { "south" },
                u8::from(is_bad)
            ),
        ));
    }
    rows
}

fn write_history(path: &Path, rows: &[(i32, String)], change: impl Fn(&str) -> String) {
    let text = rows.iter().fold(String::new(), |mut text, (_, row)| {
        writeln!(text, "{}", change(row)).unwrap();
        text
    });
    fs::write(path, text).unwrap();
}

pub(crate) const FILES: &str = "connector: files\n    path: in\n    format: json_lines";
pub(crate) const FEATURES: &str = "amount, sum(amount) OVER w AS spent, count(*) OVER w AS busy, lag(amount) OVER (PARTITION BY user_id ORDER BY at) \
                        AS last_amount, 1 AS one";

/// A pipeline with windows; what stands after the label in its `training` section.
pub(crate) fn pipeline(folder: &Path, connector: &str, features: &str, training: &str) -> String {
    let text = format!(
        r#"
pipeline: events
sources:
  events:
    {connector}
    columns:
      id: string not null
      user_id: bigint not null
      amount: double not null
      area: string
      label: int
      at: epoch_ms not null
    event_time: at
    partitioned_by: [user_id]
models:
  bad: {{ uri: model }}
views:
  features: |
    SELECT id, user_id, area, label, at, {features}
    FROM events
    WINDOW w AS (PARTITION BY user_id ORDER BY at RANGE BETWEEN INTERVAL '12 hours' PRECEDING AND CURRENT ROW)
  scored: SELECT *, score('bad', amount, spent, busy, last_amount, one) AS p, threshold('bad') AS p_threshold FROM features
sinks:
  out: {{ connector: parquet, path: out, select: SELECT * FROM scored }}
http: {{ listen: "off" }}
training: {{ label: label, model: bad, parameters: {{ min_data_in_leaf: 20, learning_rate: 0.1 }}, rounds: 60, early_stopping: 15{training} }}
"#
    );
    let name = format!("{}.yaml", unique("events"));
    fs::write(folder.join(&name), text).unwrap();
    name
}

const NO_SEARCH: &str = ", trials: 0";

fn train(folder: &Path, file: &str, input: &str, output: &str, more: &[&str]) -> Ended {
    let input = format!("events={input}");
    let arguments = ["train", file, "--input", &input, "--output", output];
    tidemill(folder, &[&arguments[..], more].concat())
}

pub(crate) fn trained(folder: &Path, file: &str, input: &str, output: &str, more: &[&str]) -> Value {
    let ended = train(folder, file, input, output, &[more, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.log);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

/// Folders and files that are not there before a training, hidden ones too.
fn left(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_ours = |name: &String| [".yaml", ".jsonl", ".log"].iter().any(|end| name.ends_with(end));
    names.filter(|name| !is_ours(name)).collect()
}

fn model_text(folder: &Path, output: &str) -> String {
    fs::read_to_string(folder.join(output).join("model.lgb")).unwrap()
}

pub(crate) fn folder_with_history() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write_history(&folder.path().join("history.jsonl"), &history(), str::to_owned);
    let path = folder.path().to_path_buf();
    (folder, path)
}

#[test]
fn the_same_rows_give_the_same_model_file_whatever_the_threads() {
    let (_guard, folder) = folder_with_history();
    let file = pipeline(&folder, FILES, FEATURES, ", segments: [area], amount: amount, trials: 3, folds: 2");
    let one = trained(&folder, &file, "history.jsonl", "one", &["--threads", "1", "--run", "nightly-1"]);
    let other = trained(&folder, &file, "history.jsonl", "other", &["--threads", "4", "--run", "nightly-2"]);
    assert_eq!(model_text(&folder, "one"), model_text(&folder, "other"));
    assert_eq!((&one["sha256"], &one["metrics"]), (&other["sha256"], &other["metrics"]));
    let third = trained(&folder, &file, "history.jsonl", "third", &["--seed", "7"]);
    assert_ne!(one["sha256"], third["sha256"], "the seed is of no effect");

    let manifest: Value = serde_json::from_str(&fs::read_to_string(folder.join("one/tidemill.json")).unwrap()).unwrap();
    assert_eq!(manifest["search"]["trials"], 3);
    assert_eq!(manifest["data"][0]["order"], "by event time");
    assert_eq!(manifest["data"][0]["rows"], 6000);
    assert!(manifest["notes"].to_string().contains("does not use them: one"), "{manifest}");
    assert!(one["metrics"]["pr_auc"].as_f64().unwrap() > 0.15, "{one}");
    assert!(one["metrics"]["segment.area.north.rows"].as_f64().unwrap() > 100.0, "{one}");
    for name in
        ["MLmodel", "self_test.json", "input_example.json", "features.sql", "reference_profile.json", "conda.yaml"]
    {
        assert!(folder.join("one").join(name).is_file(), "{name}");
    }
    let parts = &manifest["parts"];
    assert_eq!(parts["gap"]["until"], parts["validation"]["from"]);
    assert!(parts["train"]["until"].as_str() < parts["validation"]["from"].as_str());

    // The training of that name is done: nothing is read again.
    fs::remove_file(folder.join("history.jsonl")).unwrap();
    let again = trained(&folder, &file, "history.jsonl", "one", &["--run", "nightly-1"]);
    assert_eq!(again["status"], "done_already");
}

#[test]
fn a_run_serves_the_directory_with_the_scores_and_the_threshold_of_training() {
    let (_guard, folder) = folder_with_history();
    let file = pipeline(&folder, FILES, FEATURES, NO_SEARCH);
    let told = trained(&folder, &file, "history.jsonl", "model", &["--result-file", "result.log"]);
    let result: Value = serde_json::from_str(&fs::read_to_string(folder.join("result.log")).unwrap()).unwrap();
    assert_eq!(told, result);
    let ended = tidemill(&folder, &["replay", &file, "--input", "events=history.jsonl", "--output", "rows"]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let rows = parquet_rows(&folder.join("rows"));
    let numbers = |name: &str| -> Vec<f64> {
        use arrow::array::AsArray as _;
        let all = rows.iter().flat_map(|batch| {
            batch.column_by_name(name).unwrap().as_primitive::<arrow::datatypes::Float64Type>().values().to_vec()
        });
        all.collect()
    };
    assert!(numbers("p_threshold").iter().all(|threshold| Some(*threshold) == told["threshold"].as_f64()));
    let test: Value = serde_json::from_str(&fs::read_to_string(folder.join("model/self_test.json")).unwrap()).unwrap();
    let served: Vec<u64> = numbers("p").iter().map(|score| score.to_bits()).collect();
    let expected = test["scores"].as_array().unwrap();
    assert!(expected.len() >= 10);
    for score in expected {
        let score: f64 = score.as_str().unwrap().parse().unwrap();
        assert!(served.contains(&score.to_bits()), "no row was served with the score {score} of the self-test");
    }
}

#[test]
fn what_cannot_be_trained_on_says_why_and_leaves_nothing_behind() {
    let (_guard, folder) = folder_with_history();
    let rows = history();
    write_history(&folder.join("negative.jsonl"), &rows, |row| row.replace(r#""label":1"#, r#""label":0"#));
    write_history(&folder.join("positive.jsonl"), &rows, |row| row.replace(r#""label":0"#, r#""label":1"#));
    write_history(&folder.join("unlabelled.jsonl"), &rows, |row| {
        row.replace(r#""label":0"#, r#""label":null"#).replace(r#""label":1"#, r#""label":null"#)
    });
    write_history(&folder.join("kinds.jsonl"), &rows, |row| row.replace(r#""label":1"#, r#""label":2"#));
    write_history(&folder.join("text.jsonl"), &rows, |row| {
        row.replace(r#""amount":"#, r#""amount":"x"#).replace(r#","area""#, r#"","area""#)
    });
    write_history(&folder.join("few.jsonl"), &rows[..40], str::to_owned);
    fs::write(folder.join("empty.jsonl"), "").unwrap();
    let plain = pipeline(&folder, FILES, FEATURES, NO_SEARCH);
    let later = pipeline(&folder, FILES, FEATURES, ", trials: 0, from: \"2030-01-01T00:00:00Z\"");
    let folds = pipeline(&folder, FILES, FEATURES, ", trials: 1, folds: 20");
    let constant = pipeline(
        &folder,
        FILES,
        "1 AS amount, 2 AS spent, cast(null as double) AS busy, 3 AS last_amount, 4 AS one",
        NO_SEARCH,
    );
    let leak = pipeline(&folder, FILES, &FEATURES.replace("sum(amount)", "sum(label)"), NO_SEARCH);
    let text = pipeline(&folder, FILES, &FEATURES.replace("1 AS one", "area AS one"), NO_SEARCH);
    let none = pipeline(&folder, FILES, FEATURES, NO_SEARCH);
    let none_text = fs::read_to_string(folder.join(&none)).unwrap();
    fs::write(folder.join(&none), none_text.split("training:").next().unwrap()).unwrap();
    for (file, input, code, told) in [
        (&plain, "negative.jsonl", 65, "none of them is positive"),
        (&plain, "positive.jsonl", 65, "all of them are positive"),
        (&plain, "unlabelled.jsonl", 65, "label is null in all of them"),
        (&plain, "kinds.jsonl", 65, "a value other than 0 and 1"),
        (&plain, "text.jsonl", 65, "6000 records were read and 6000 of them rejected"),
        (&plain, "empty.jsonl", 65, "nothing to train on"),
        (&plain, "missing.jsonl", 78, "missing.jsonl"),
        (&plain, "kafka", 78, "reads no topic"),
        (&later, "history.jsonl", 65, "from 2030-01-01T00:00:00Z until the end"),
        (&folds, "few.jsonl", 65, "give more history"),
        (&constant, "history.jsonl", 65, "all 5 features are constant or null"),
        (&leak, "history.jsonl", 78, "spent: features.spent <- events.label (the label)"),
        (&text, "history.jsonl", 78, "of type Utf8"),
        (&none, "history.jsonl", 78, "no section `training`"),
    ] {
        let ended = train(&folder, file, input, "model", &[]);
        assert_eq!(ended.code, Some(code), "{input}: {}", ended.log);
        assert!(ended.log.contains(told), "{input}: expected {told:?} in\n{}", ended.log);
        assert_eq!(left(&folder), Vec::<String>::new(), "{input}");
    }
    fs::create_dir(folder.join("letters")).unwrap();
    fs::write(folder.join("letters/a"), "x").unwrap();
    let ended = train(&folder, &plain, "history.jsonl", "letters", &[]);
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    let ended = train(&folder, &plain, "history.jsonl", "model", &["--register"]);
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains("there is no registry"), "{}", ended.log);
    assert_eq!(left(&folder), ["letters"]);
}

#[test]
fn a_model_is_registered_and_held_against_the_champion_on_the_same_rows() {
    let (_guard, folder) = folder_with_history();
    let file = pipeline(&folder, FILES, FEATURES, NO_SEARCH);
    let told = trained(&folder, &file, "history.jsonl", "first", &["--register", "--registry", "registry"]);
    assert_eq!((&told["registered"]["name"], &told["registered"]["version"]), (&Value::from("bad"), &Value::from("1")));
    assert!(told["metrics"]["champion.pr_auc"].is_null(), "{told}");
    let second = ["--champion", "first", "--seed", "3"];
    let told = trained(&folder, &file, "history.jsonl", "second", &second);
    let metric = |name: &str| told["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {told}"));
    let difference = metric("pr_auc") - metric("champion.pr_auc");
    assert!((metric("over_champion.pr_auc") - difference).abs() < 1e-12);
    assert!(metric("over_champion.pr_auc_low") <= difference && difference <= metric("over_champion.pr_auc_high"));
    let other = pipeline(&folder, FILES, &FEATURES.replace("spent", "paid"), NO_SEARCH);
    let renamed = fs::read_to_string(folder.join(&other)).unwrap().replace("amount, spent, busy", "amount, paid, busy");
    fs::write(folder.join(&other), renamed).unwrap();
    let told = trained(&folder, &other, "history.jsonl", "third", &["--champion", "first"]);
    assert!(told["notes"].to_string().contains("not compared with the champion first"), "{told}");
    let ended = train(&folder, &file, "history.jsonl", "fourth", &["--champion", "nowhere"]);
    assert_eq!(ended.code, Some(78), "{}", ended.log);
}

#[test]
fn a_training_that_is_tried_again_registers_no_second_version() {
    let (_guard, folder) = folder_with_history();
    let file = pipeline(&folder, FILES, FEATURES, NO_SEARCH);
    let register = |run, output| {
        let more = ["--run", run, "--register", "--registry", "registry"];
        let told = trained(&folder, &file, "history.jsonl", output, &more);
        (told["status"].as_str().unwrap().to_owned(), told["registered"]["version"].clone())
    };
    assert_eq!(register("monday", "first"), ("trained".to_owned(), "1".into()));
    assert_eq!(register("monday", "first"), ("done_already".to_owned(), "1".into()));
    // The task was given another machine, which has nothing yet.
    assert_eq!(register("monday", "second"), ("trained".to_owned(), "1".into()));
    assert_eq!(register("tuesday", "third"), ("trained".to_owned(), "2".into()));
}

#[test]
fn imbalance_and_threshold_are_what_the_file_says() {
    let (_guard, folder) = folder_with_history();
    let mut models = Vec::new();
    for (index, (imbalance, threshold)) in [
        ("none", "{ f_beta: 1 }"),
        ("full_weight", "{ f_beta: 2 }"),
        ("{ undersampling: 5 }", "{ alert_budget: 20 }"),
        ("{ smote: 0.2 }", "{ costs: { review: 5 } }"),
        ("sqrt_weight", "{ fixed: 0.7 }"),
    ]
    .into_iter()
    .enumerate()
    {
        let more = format!(", trials: 0, amount: amount, imbalance: {imbalance}, threshold: {threshold}");
        let told =
            trained(&folder, &pipeline(&folder, FILES, FEATURES, &more), "history.jsonl", &format!("m{index}"), &[]);
        let threshold = told["threshold"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&threshold), "{told}");
        models.push((told["sha256"].clone(), threshold, told["metrics"]["mean_score"].as_f64().unwrap()));
    }
    assert_eq!(models[4].1, 0.7);
    for (index, model) in models.iter().enumerate() {
        assert!(models[..index].iter().all(|other| other.0 != model.0), "imbalance {index} is of no effect");
    }
    // Weights are no shares any more.
    assert!(models[1].2 > 2.0 * models[0].2, "{models:?}");
}

#[test]
fn a_topic_gives_the_model_that_its_rows_give_from_a_file() {
    let (_guard, folder) = folder_with_history();
    let topic = unique("training");
    make_topic(&topic, 3);
    let rows = history();
    let records = rows.iter().map(|(user, row)| (user % 3, "", row.as_bytes()));
    produce(&topic, records);
    let kafka = format!("connector: kafka\n    bootstrap_servers: {}\n    topic: {topic}", broker());
    let of_file = trained(&folder, &pipeline(&folder, FILES, FEATURES, NO_SEARCH), "history.jsonl", "of_file", &[]);
    let file = pipeline(&folder, &kafka, FEATURES, NO_SEARCH);
    let of_topic = trained(&folder, &file, "kafka", "of_topic", &[]);
    assert_eq!(of_file["sha256"], of_topic["sha256"]);
    let manifest = fs::read_to_string(folder.join("of_topic/tidemill.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!((&manifest["data"][0]["order"], &manifest["data"][0]["rows"]), (&"as served".into(), &6000.into()));
}
