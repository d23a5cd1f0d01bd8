//! Models that change while a pipeline runs: no record is lost or scored twice, every row names the version that scored it,
//! and a replay with the schedule of models gives the same rows. What may not serve does not; what goes away is done without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Float64Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{Value, json};
use tidemill::checkpoint::sha256_hex;
use tidemill::model::package::{ModelFiles, Package, SelfTest};
use tidemill::model::registry::{Registry, RunRecord};
use tidemill_udfs::scorer::{Column, Model, Scratch};

use super::bench::{Bench, address, block_on, get, status, variable, wait_until};
use super::outage::Way;
use crate::harness::{Process, broker, produce, unique};

const FIRST: &str = include_str!("../../../udfs/testdata/binary_31.txt");
const PARTITIONS: i32 = 3;

/// Another model with the same features: the last trees are left out.
fn without_trees(number: usize) -> String {
    let trees: Vec<usize> = FIRST.match_indices("\nTree=").map(|(at, _)| at).collect();
    let (last, end) = (trees[trees.len() - number], FIRST.find("\nend of trees").unwrap());
    let text = format!("{}{}", &FIRST[..last], &FIRST[end..]);
    let sizes = text.lines().find(|line| line.starts_with("tree_sizes=")).unwrap().to_owned();
    let mut kept = sizes.as_str();
    for _ in 0..number {
        kept = kept.rsplit_once(' ').unwrap().0;
    }
    text.replace(&sizes, kept)
}

fn features(id: i64) -> [f64; 4] {
    [7, 11, 13, 17].map(|step| (id * step % 97) as f64 / 9.7)
}

fn scores_of(text: &str, rows: &[[f64; 4]]) -> Vec<f64> {
    let model = Model::parse(text).unwrap();
    let columns: Vec<Vec<f64>> = (0..4).map(|feature| rows.iter().map(|row| row[feature]).collect()).collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| Column::from(column.as_slice())).collect();
    let mut scores = vec![0.0; rows.len()];
    model.score(&columns, &mut scores, &mut Scratch::default());
    scores
}

/// A model directory as training writes it.
fn package(text: &str, threshold: f64) -> Package {
    let rows: Vec<[f64; 4]> = (0..20).map(features).collect();
    let test = SelfTest {
        features: (0..4).map(|feature| format!("f{feature}")).collect(),
        scores: scores_of(text, &rows),
        rows: rows.iter().map(|row| row.to_vec()).collect(),
    };
    let files = ModelFiles { model_text: text, lightgbm_version: "4.6.0", self_test: &test, metadata: &[] };
    let mut package = Package::of_model(&files).unwrap();
    let part = json!({ "rows": 1, "positives": 1, "from": "", "until": "" });
    let manifest = json!({
        "version": 2, "model": "fraud", "run": null, "sha256": sha256_hex(text.as_bytes()), "features": test.features,
        "label": "is_fraud", "amount": null, "segments": [], "threshold": threshold,
        "threshold_policy": { "policy": "fixed", "threshold": threshold }, "seed": 1,
        "parts": { "train": part, "gap": part, "validation": part, "test": part }, "sql_fingerprint": "", "data": [],
        "versions": { "tidemill": "0.1.0", "lightgbm": "4.6.0" }, "parameters": {}, "imbalance": "none",
        "search": { "trials": 0, "folds": 0, "average_precision": null, "of_defaults": null }, "metrics": {}, "notes": [],
    });
    package.insert("tidemill.json", manifest.to_string()).unwrap();
    package
}

/// A registered version, as rows must name it.
struct Version {
    text: String,
    threshold: f64,
    run_id: String,
}

/// A scored row, as the Parquet sink has it.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: i64,
    partition: i32,
    offset: i64,
    score: f64,
    threshold: f64,
    version: String,
    run_id: Option<String>,
    challenger: Option<f64>,
}

/// A pipeline whose model comes from a registry.
struct Line {
    bench: Bench,
    registry: Registry,
    registry_uri: String,
    versions: BTreeMap<String, Version>,
    num_sent: i64,
}

impl Line {
    fn new() -> Line {
        let bench = Bench::new(PARTITIONS);
        let uri = bench.folder.path().join("registry").to_str().unwrap().to_owned();
        Line::with(bench, &uri, &uri)
    }

    /// `uri` as this process sees the registry, `seen` as the pipeline does.
    fn with(bench: Bench, uri: &str, seen: &str) -> Line {
        let lookup = |name: &str| std::env::vars().find(|(found, _)| found == name).map(|(_, value)| value);
        let in_tests = |name: &str| match name {
            "AWS_ENDPOINT_URL" => lookup("TIDEMILL_TEST_S3_ENDPOINT"),
            _ => lookup(name),
        };
        let registry = Registry::open(uri, &in_tests).unwrap();
        Line { bench, registry, registry_uri: seen.to_owned(), versions: BTreeMap::new(), num_sent: 0 }
    }

    /// Registers a model that may serve; its version.
    fn register(&mut self, text: &str, threshold: f64) -> String {
        let version = self.register_package(&package(text, threshold));
        let run_id = block_on(self.registry.versions("fraud")).unwrap()[0].run_id.clone().unwrap();
        self.versions.insert(version.clone(), Version { text: text.to_owned(), threshold, run_id });
        version
    }

    fn register_package(&self, package: &Package) -> String {
        let record = RunRecord { experiment: "swapped".to_owned(), ..RunRecord::default() };
        block_on(self.registry.register("fraud", package, &record)).unwrap().version
    }

    fn alias(&self, alias: &str, version: &str) {
        block_on(self.registry.set_alias("fraud", alias, version)).unwrap();
    }

    /// Sends `number` more records, to all partitions.
    fn send(&mut self, number: i64) {
        let ids: Range<i64> = self.num_sent..self.num_sent + number;
        let value = |id: i64| {
            let [amount, f1, f2, f3] = features(id);
            let at = 1_700_000_000_000 + id;
            json!({ "id": id, "amount": amount, "f1": f1, "f2": f2, "f3": f3, "at": at }).to_string()
        };
        let records: Vec<(i32, String, String)> =
            ids.map(|id| ((id % i64::from(PARTITIONS)) as i32, id.to_string(), value(id))).collect();
        produce(
            &self.bench.input,
            records.iter().map(|(partition, key, value)| (*partition, key.as_str(), value.as_bytes())),
        );
        self.num_sent += number;
    }

    /// Writes a pipeline file; its name.
    fn write(&self, until: &str, workers: usize, model: &str, challenger: &str) -> String {
        let text = format!(
            "pipeline: swapped\n\
             registry: \"{registry}\"\n\
             sources:\n  transactions:\n    connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {topic}\n    until: {until}\n    \
             options: {{ session.timeout.ms: 2000 }}\n    rate_limit: 3000\n    \
             partitioned_by: [id]\n    event_time: at\n    max_future_skew: 1h\n    \
             columns: {{ id: bigint not null, amount: double not null, f1: double, f2: double, f3: double, at: epoch_ms not null }}\n\
             models:\n  fraud: {{ {model} }}\n\
             views:\n  features: SELECT id, amount AS f0, f1, f2, f3 FROM transactions\n  scored: |\n    \
             SELECT id, score('fraud', f0, f1, f2, f3) AS p, threshold('fraud') AS t, model_version('fraud') AS model_version,\n    \
             model_run_id('fraud') AS model_run_id{challenger} FROM features\n\
             sinks:\n  \
             archive: {{ connector: parquet, path: \"{lake}/all\", max_rows: 150, max_age: 1s, positions: true, select: SELECT * FROM transactions }}\n  \
             scores: {{ connector: parquet, path: \"{lake}/scores\", max_rows: 400, max_age: 2s, positions: true, select: SELECT * FROM scored }}\n  \
             alerts: {{ connector: kafka, topic: {alerts}, key: id, select: SELECT * FROM scored WHERE p >= t }}\n\
             checkpoint: {{ path: \"{checkpoint}\", interval: 100ms }}\nrun: {{ workers: {workers} }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n",
            registry = self.registry_uri,
            broker = broker(),
            topic = self.bench.input,
            alerts = self.bench.output,
            lake = self.bench.lake,
            checkpoint = self.bench.checkpoint,
        );
        let name = format!("{}.yaml", unique("swapped"));
        fs::write(self.bench.folder.path().join(&name), text).unwrap();
        name
    }

    const FOLLOWED: &'static str = "uri: \"models:/fraud@champion\", reload: 100ms";

    fn start(&self, workers: usize) -> Process {
        self.bench.start_with(&["run", &self.write("forever", workers, Line::FOLLOWED, "")])
    }

    /// Waits until a number of records is published.
    fn wait_until_published(&self, process: &Process, address: &str) {
        super::bench::wait_until_published(process, address, PARTITIONS as usize, self.num_sent as usize);
    }

    /// Of a sink of the lake: names of its files, and their bytes.
    fn files(&self, sink: &str) -> Vec<(String, Bytes)> {
        let folder = self.bench.stores().open(&format!("{}/{sink}", self.bench.lake)).unwrap();
        block_on(async {
            let mut files = Vec::new();
            for object in folder.list("").await.unwrap() {
                if !object.name.split('/').any(|part| part.starts_with('_')) {
                    files.push((object.name.clone(), folder.read(&object.name, u64::MAX).await.unwrap().unwrap()));
                }
            }
            files
        })
    }

    /// All rows of the sink `scores`, by partition and offset.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (_, bytes) in self.files("scores") {
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let double = |name: &str, row: usize| batch[name].as_primitive::<Float64Type>().value(row);
                let long = |name: &str, row: usize| batch[name].as_primitive::<Int64Type>().value(row);
                let text = |name: &str, row: usize| {
                    let column = arrow::compute::cast(&batch[name], &arrow::datatypes::DataType::Utf8).unwrap();
                    let column = column.as_string::<i32>();
                    column.is_valid(row).then(|| column.value(row).to_owned())
                };
                let partition = arrow::compute::cast(&batch["_partition"], &arrow::datatypes::DataType::Int64).unwrap();
                rows.extend((0..batch.num_rows()).map(|row| Row {
                    id: long("id", row),
                    partition: partition.as_primitive::<Int64Type>().value(row) as i32,
                    offset: long("_offset", row),
                    score: double("p", row),
                    threshold: double("t", row),
                    version: text("model_version", row).unwrap(),
                    run_id: text("model_run_id", row),
                    challenger: batch.column_by_name("c").and_then(|column| {
                        let column = column.as_primitive::<Float64Type>();
                        column.is_valid(row).then(|| column.value(row))
                    }),
                }));
            }
        }
        rows.sort_by_key(|row| (row.partition, row.offset));
        rows
    }

    /// Every record has one row, whose score, threshold and run are those of the version that it names; every alert is that of
    /// a row of some version, and none is missing. How many rows each version scored.
    fn check(&self, may_repeat: bool) -> BTreeMap<String, usize> {
        let rows = self.rows();
        let ids: BTreeSet<i64> = rows.iter().map(|row| row.id).collect();
        assert_eq!((ids.len(), rows.len()), (self.num_sent as usize, self.num_sent as usize), "rows lost or doubled");
        let values: Vec<[f64; 4]> = (0..self.num_sent).map(features).collect();
        let scores: BTreeMap<&String, Vec<f64>> =
            self.versions.iter().map(|(name, version)| (name, scores_of(&version.text, &values))).collect();
        let mut counts = BTreeMap::new();
        for row in &rows {
            let version = &self.versions[&row.version];
            assert_eq!(row.score.to_bits(), scores[&row.version][row.id as usize].to_bits(), "{row:?}");
            assert_eq!(
                (row.threshold, row.run_id.as_deref()),
                (version.threshold, Some(version.run_id.as_str())),
                "{row:?}"
            );
            *counts.entry(row.version.clone()).or_default() += 1;
        }
        let mut alerted: BTreeMap<i64, usize> = BTreeMap::new();
        for alert in self.bench.alerts() {
            let json = alert.json();
            let (id, name) = (json["id"].as_i64().unwrap(), json["model_version"].as_str().unwrap().to_owned());
            let version = &self.versions[&name];
            let score = scores[&name][id as usize];
            // JSON's readers may round the last digit.
            assert!((json["p"].as_f64().unwrap() - score).abs() < 1e-12, "{json}");
            assert_eq!(json["model_run_id"].as_str(), Some(version.run_id.as_str()), "{json}");
            assert!(score >= version.threshold, "{json}");
            assert_eq!(alert.headers["tidemill-model-version"], name.as_bytes());
            *alerted.entry(id).or_default() += 1;
        }
        let expected: BTreeSet<i64> = rows.iter().filter(|row| row.score >= row.threshold).map(|row| row.id).collect();
        assert!(expected.len() > 20, "{} alerts tell little", expected.len());
        assert!(expected.iter().all(|id| alerted.contains_key(id)), "alerts are missing");
        if !may_repeat {
            assert_eq!(alerted.keys().copied().collect::<BTreeSet<i64>>(), expected);
            assert!(alerted.values().all(|times| *times == 1), "alerts came more than once");
        }
        counts
    }

    /// Replays what was served with the models of its time, and compares.
    fn replay(&self, models_of: bool) -> crate::harness::Ended {
        let file = self.write("now", 1, Line::FOLLOWED, "");
        let (input, there) =
            (format!("transactions={}/all", self.bench.lake), format!("scores={}/scores", self.bench.lake));
        let mut arguments =
            vec!["replay", &file, "--input", &input, "--output", "again", "--sink", "scores", "--compare", &there];
        if models_of {
            arguments.extend(["--models-of", &self.bench.checkpoint]);
        }
        self.bench.start_with(&arguments).wait()
    }

    fn check_replay(&self) {
        let ended = self.replay(true);
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.log);
        let told = format!("{} rows here, {} there", self.num_sent, self.num_sent);
        assert!(ended.stdout.contains(&told), "{}", ended.stdout);
    }
}

fn model(address: &str, place: usize) -> Value {
    status(address)["models"][place].clone()
}

/// Whether every worker that has partitions scores with a version.
fn all_serve(address: &str, version: &str) -> bool {
    let status = status(address);
    let workers = status["workers"].as_array().unwrap();
    !workers.is_empty() && workers.iter().all(|worker| worker["models"]["fraud"] == version)
}

/// The value of a sample whose line begins with all of a name and holds all labels.
fn sample(address: &str, name: &str, labels: &[&str]) -> f64 {
    let page = get(address, "/metrics").1;
    let has = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    page.lines().filter(has).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn models_swap_and_roll_back_while_records_flow_and_none_is_lost_or_scored_twice() {
    swaps_and_rolls_back(Line::new());
}

#[test]
fn a_run_follows_an_alias_of_an_mlflow_server() {
    let uri = variable("TIDEMILL_TEST_MLFLOW");
    swaps_and_rolls_back(Line::with(Bench::new(PARTITIONS), &uri, &uri));
}

fn swaps_and_rolls_back(mut line: Line) {
    let (one, two) = (line.register(FIRST, 0.625), line.register(&without_trees(1), 0.55));
    line.alias("champion", &one);
    let process = line.start(2);
    let address = address(&process);
    for version in [&one, &two, &one] {
        line.alias("champion", version);
        let mut rounds = 0;
        while rounds < 6 || !all_serve(&address, version) {
            line.send(150);
            rounds += 1;
            assert!(rounds < 400, "version {version} does not serve\n{}", process.log());
        }
        line.send(150);
        let model = model(&address, 0);
        assert_eq!((&model["version"], &model["alias"]), (&json!(version), &json!("champion")), "{model}");
        assert_eq!(model["run_id"], json!(line.versions[version].run_id), "{model}");
        assert_eq!(model["threshold"], json!(line.versions[version].threshold), "{model}");
        assert!(model["check_error"].is_null() && model["refused"].is_null(), "{model}");
    }
    line.wait_until_published(&process, &address);
    let model_label = "model=\"fraud\"";
    assert_eq!(sample(&address, "tidemill_model_swaps_total", &[model_label]), 2.0);
    let in_use =
        |version: &str| sample(&address, "tidemill_model_info", &[model_label, &format!("version=\"{version}\"")]);
    assert_eq!((in_use(&one), in_use(&two)), (1.0, 0.0));
    assert_eq!(process.terminate().code, Some(0));
    let counts = line.check(false);
    assert!(counts[&one] >= 300 && counts[&two] >= 150, "{counts:?}");
    // In each partition one version after the other.
    let rows = line.rows();
    for partition in 0..PARTITIONS {
        let of_partition = rows.iter().filter(|row| row.partition == partition);
        let mut versions: Vec<&str> = of_partition.map(|row| row.version.as_str()).collect();
        versions.dedup();
        assert_eq!(versions, [&one, &two, &one], "partition {partition}");
    }
    line.check_replay();
    let ended = line.replay(false);
    assert_eq!(ended.code, Some(65), "without the schedule all rows have the model of today:\n{}", ended.stdout);
}

#[test]
fn after_kills_around_swaps_every_row_is_that_of_the_version_that_it_names() {
    let mut line = Line::new();
    let versions =
        [line.register(FIRST, 0.625), line.register(&without_trees(1), 0.55), line.register(&without_trees(2), 0.5)];
    line.alias("champion", &versions[0]);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    for turn in 1..8 {
        line.send(1_500);
        let process = line.start(1 + turn % 2);
        process.wait_for_log("partition taken over");
        std::thread::sleep(Duration::from_millis(random.random_range(50..400)));
        line.alias("champion", &versions[turn % 3]);
        std::thread::sleep(Duration::from_millis(random.random_range(20..500)));
        process.kill();
    }
    let ended = line.bench.start_with(&["run", &line.write("now", 2, Line::FOLLOWED, "")]).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let counts = line.check(true);
    assert!(counts.len() == 3, "{counts:?}");
    line.check_replay();
}

#[test]
fn a_model_that_may_not_serve_is_refused_and_counted_and_the_one_before_serves_on() {
    let mut line = Line::new();
    let one = line.register(FIRST, 0.625);
    line.alias("champion", &one);
    let process = line.start(1);
    let address = address(&process);
    line.send(300);
    let renamed = FIRST.replacen("feature_names=f0", "feature_names=amount", 1);
    let mut other_features = package(FIRST, 0.5);
    other_features.insert("model.lgb", renamed.clone()).unwrap();
    for name in ["self_test.json", "tidemill.json"] {
        other_features.files.remove(name);
    }
    let manifest = String::from_utf8(package(FIRST, 0.5).files["tidemill.json"].to_vec()).unwrap();
    let manifest = manifest.replace(&sha256_hex(FIRST.as_bytes()), &sha256_hex(renamed.as_bytes()));
    other_features.insert("tidemill.json", manifest).unwrap();
    let mut damaged = package(FIRST, 0.5);
    damaged.insert("model.lgb", FIRST[..FIRST.len() / 2].to_owned()).unwrap();
    let mut wrong_scores = package(FIRST, 0.5);
    let test = String::from_utf8(wrong_scores.files["self_test.json"].to_vec()).unwrap();
    let score = scores_of(FIRST, &[features(0)])[0].to_string();
    wrong_scores.insert("self_test.json", test.replace(&score, "0.123")).unwrap();
    let mut no_threshold = package(FIRST, 0.5);
    no_threshold.files.remove("tidemill.json");
    // What shows by itself is not even registered.
    for (package, reason) in [(&damaged, "cannot be served"), (&wrong_scores, "fails its self-test")] {
        let refused = block_on(line.registry.register("fraud", package, &RunRecord::default())).unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    let cases: [(&Package, &str); 2] =
        [(&other_features, "takes other features: expected f0, f1"), (&no_threshold, "no threshold")];
    for (number, (package, reason)) in cases.into_iter().enumerate() {
        let version = line.register_package(package);
        line.alias("champion", &version);
        let is_refused = || model(&address, 0)["refused"]["version"] == json!(version);
        wait_until("the model is refused", &process, is_refused);
        let refused = model(&address, 0)["refused"]["reason"].as_str().unwrap().to_owned();
        assert!(refused.contains(reason), "{refused}");
        // Some looks later it has not been tried again.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(sample(&address, "tidemill_models_refused_total", &["model=\"fraud\""]), (number + 1) as f64);
        assert_eq!(model(&address, 0)["version"], json!(one));
        line.send(100);
    }
    // A file that is damaged in the registry itself.
    let broken = line.register(&without_trees(1), 0.5);
    line.versions.remove(&broken);
    let files = line.bench.folder.path().join("registry/fraud/files");
    let newest = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path());
    let newest = newest.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
    fs::write(newest.join("model.lgb"), "half").unwrap();
    line.alias("champion", &broken);
    wait_until("the damaged file is refused", &process, || model(&address, 0)["refused"]["version"] == json!(broken));

    let two = line.register(&without_trees(1), 0.5);
    line.alias("champion", &two);
    wait_until("the good one serves", &process, || all_serve(&address, &two));
    line.send(300);
    line.wait_until_published(&process, &address);
    assert!(model(&address, 0)["refused"].is_null());
    assert_eq!(process.terminate().code, Some(0));
    let counts = line.check(false);
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&one, &two]);
    line.check_replay();
}

#[test]
fn without_its_registry_a_run_serves_on_and_starts_again_with_the_model_that_it_kept() {
    let endpoint = variable("TIDEMILL_TEST_S3_ENDPOINT");
    let way = Way::to(endpoint.trim_start_matches("http://").trim_end_matches('/'));
    let mut bench = Bench::new(PARTITIONS);
    bench.set("AWS_ENDPOINT_URL", &format!("http://{}", way.address));
    let uri = format!("s3://{}/{}", variable("TIDEMILL_TEST_S3_BUCKET"), unique("registry"));
    let mut line = Line::with(bench, &uri, &uri);
    let (one, two) = (line.register(FIRST, 0.625), line.register(&without_trees(1), 0.55));
    line.alias("champion", &one);
    let process = line.start(1);
    let first_address = address(&process);
    line.send(300);
    line.wait_until_published(&process, &first_address);
    way.cut();
    line.alias("champion", &two);
    wait_until("it is said", &process, || model(&first_address, 0)["check_error"].is_string());
    assert!(sample(&first_address, "tidemill_model_checks_total", &["model=\"fraud\"", "failed"]) > 0.0);
    line.send(300);
    line.wait_until_published(&process, &first_address);
    process.kill();

    let process = line.start(1);
    let second_address = address(&process);
    assert!(process.log().contains("kept beside the checkpoints"), "{}", process.log());
    let started = model(&second_address, 0);
    assert_eq!((&started["version"], &started["is_kept_copy"]), (&json!(one), &json!(true)), "{started}");
    assert!(started["check_error"].is_string(), "{started}");
    line.send(300);
    line.wait_until_published(&process, &second_address);
    way.mend();
    wait_until("the registry is back", &process, || all_serve(&second_address, &two));
    line.send(300);
    line.wait_until_published(&process, &second_address);
    let now = model(&second_address, 0);
    assert!(now["check_error"].is_null() && now["is_kept_copy"] == json!(false), "{now}");
    assert_eq!(process.terminate().code, Some(0));
    let counts = line.check(true);
    assert_eq!((counts[&one], counts[&two]), (900, 300));
    line.check_replay();

    // Nothing is kept for a pipeline that never served: then the start fails, and says what cannot be reached.
    way.cut();
    let text = fs::read_to_string(line.bench.folder.path().join(line.write("now", 1, Line::FOLLOWED, ""))).unwrap();
    let text = text.replace("/checkpoint\"", "/another\"");
    fs::write(line.bench.folder.path().join("another.yaml"), text).unwrap();
    let ended = line.bench.start_with(&["run", "another.yaml"]).wait();
    assert_eq!(ended.code, Some(75), "{}", ended.log);
    assert!(ended.log.contains("model fraud (models:/fraud@champion)"), "{}", ended.log);
}

#[test]
fn a_challenger_is_scored_beside_its_champion_while_it_is_there_and_their_agreement_is_counted() {
    let mut line = Line::new();
    let (one, two) = (line.register(FIRST, 0.625), line.register(&without_trees(1), 0.55));
    line.alias("champion", &one);
    let models = format!("{}, challenger: \"models:/fraud@challenger\"", Line::FOLLOWED);
    let sql = ", score('fraud@challenger', f0, f1, f2, f3) AS c, model_version('fraud@challenger') AS cv";
    let process = line.bench.start_with(&["run", &line.write("forever", 2, &models, sql)]);
    let address = address(&process);
    let challenger = |address: &str| model(address, 1);
    line.send(300);
    line.wait_until_published(&process, &address);
    assert_eq!(
        (&challenger(&address)["name"], &challenger(&address)["version"]),
        (&json!("fraud@challenger"), &Value::Null)
    );
    assert_eq!(sample(&address, "tidemill_model_agreement_rows_total", &[]), 0.0);
    line.alias("challenger", &two);
    let serves = |version: Value| {
        let workers = status(&address)["workers"].clone();
        workers.as_array().unwrap().iter().all(|worker| worker["models"]["fraud@challenger"] == version)
    };
    wait_until("the challenger serves", &process, || serves(json!(two)));
    line.send(600);
    line.wait_until_published(&process, &address);
    let counted =
        |yes: &str| sample(&address, "tidemill_model_agreement_rows_total", &["fraud", &format!("yes=\"{yes}\"")]);
    let counted = [counted("both"), counted("neither"), counted("champion"), counted("challenger")];
    let differences = sample(&address, "tidemill_model_score_difference_bucket", &["le=\"+Inf\""]);
    block_on(line.registry.delete_alias("fraud", "challenger")).unwrap();
    wait_until("the challenger is gone", &process, || serves(Value::Null));
    line.send(300);
    line.wait_until_published(&process, &address);
    assert_eq!(process.terminate().code, Some(0));
    assert_eq!(line.check(false).into_iter().collect::<Vec<_>>(), [(one, 1_200)]);

    let values: Vec<[f64; 4]> = (0..line.num_sent).map(features).collect();
    let scores = scores_of(&line.versions[&two].text, &values);
    let mut expected = [0.0; 4];
    for row in line.rows() {
        let is_beside = (300..900).contains(&row.id);
        assert_eq!(row.challenger.map(f64::to_bits), is_beside.then(|| scores[row.id as usize].to_bits()), "{row:?}");
        if let Some(score) = row.challenger {
            let place = match (row.score >= row.threshold, score >= line.versions[&two].threshold) {
                (true, true) => 0,
                (false, false) => 1,
                (true, false) => 2,
                (false, true) => 3,
            };
            expected[place] += 1.0;
        }
    }
    assert_eq!(counted, expected);
    assert!(expected[0] > 0.0 && expected[1] > 0.0 && expected[2] + expected[3] > 0.0, "{expected:?}");
    assert_eq!(differences, 600.0);
}

/// Puts a file in another's place as a whole.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

#[test]
fn a_file_is_followed_where_the_pipeline_file_says_so() {
    let mut line = Line::new();
    let path = line.bench.folder.path().join("model.txt");
    let process =
        line.bench.start_with(&["run", &line.write("forever", 1, "uri: model.txt, threshold: 0.6, reload: 100ms", "")]);
    let address = address(&process);
    line.send(300);
    line.wait_until_published(&process, &address);
    let second = without_trees(1);
    let version = |text: &str| sha256_hex(text.as_bytes())[..12].to_owned();
    replace(&path, "no model");
    wait_until("it is refused", &process, || model(&address, 0)["refused"].is_object());
    replace(&path, &second);
    wait_until("the second file serves", &process, || all_serve(&address, &version(&second)));
    line.send(300);
    line.wait_until_published(&process, &address);
    assert_eq!(process.terminate().code, Some(0));
    let rows = line.rows();
    assert_eq!(rows.len(), 600);
    for row in rows {
        let text = if row.id < 300 { FIRST } else { &second };
        assert_eq!((row.version.as_str(), row.threshold, &row.run_id), (version(text).as_str(), 0.6, &None));
        assert_eq!(row.score.to_bits(), scores_of(text, &[features(row.id)])[0].to_bits());
    }
}
