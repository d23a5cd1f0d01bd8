//! Alerts with reasons, through a real broker: what they say is what the scorer says of the values that they carry, and a replay of the
//! archive gives the same text. That Python's LightGBM says the same: tests/python/check_parity.py.

use arrow::array::{ArrayRef, AsArray as _, Float64Array};
use serde_json::Value;
use std::sync::Arc;
use tidemill_udfs::functions::explain_arrays;
use tidemill_udfs::scorer::Model;

use super::bench::{Bench, Log};
use crate::harness::{broker, consume_all};

fn file(bench: &Bench) -> String {
    let text = format!(
        "pipeline: explained\n\
         sources:\n  transactions:\n    connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {input}\n    until: now\n    \
         columns: {{ id: bigint not null, amount: double not null, f1: double, f2: double, f3: double }}\n    \
         check: [\"amount >= 0\"]\n\
         models:\n  fraud: {{ uri: model.txt, threshold: 0.625 }}\n\
         views:\n  features: SELECT id, amount AS f0, f1, f2, f3 FROM transactions\n  \
         scored: \"SELECT *, score('fraud', f0, f1, f2, f3) AS probability FROM features\"\n\
         sinks:\n  \
         archive: {{ connector: parquet, path: \"{lake}\", positions: true, max_age: 1s, select: SELECT * FROM transactions }}\n  \
         alerts:\n    connector: kafka\n    topic: {output}\n    key: id\n    select: |\n      \
         SELECT id, f0, f1, f2, f3, explain_score('fraud', 3) AS reasons FROM scored WHERE probability >= threshold('fraud')\n\
         dead_letter: {{ connector: kafka, topic: {dead} }}\n\
         checkpoint: {{ path: \"{checkpoint}\", interval: 100ms }}\nhttp: {{ listen: \"off\" }}\n",
        broker = broker(),
        input = bench.input,
        output = bench.output,
        dead = bench.dead_letters,
        lake = bench.lake,
        checkpoint = bench.checkpoint,
    );
    std::fs::write(bench.folder.path().join("explained.yaml"), text).unwrap();
    "explained.yaml".to_owned()
}

/// What the scorer says of the values that an alert carries.
fn expected(model: &Model, alert: &Value) -> String {
    let columns: Vec<ArrayRef> = ["f0", "f1", "f2", "f3"]
        .map(|name| Arc::new(Float64Array::from(vec![alert[name].as_f64()])) as ArrayRef)
        .to_vec();
    explain_arrays(model, &columns, 1, 3).unwrap().as_string::<i32>().value(0).to_owned()
}

#[test]
fn alerts_carry_the_reasons_of_their_scores_live_and_in_replay() {
    let bench = Bench::new(2);
    let mut log = Log::new(&bench, 2);
    log.append(0..2_000);
    let name = file(&bench);
    let ended = bench.start_with(&["run", &name]).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let model = Model::parse(&std::fs::read_to_string(bench.folder.path().join("model.txt")).unwrap()).unwrap();
    let mut live: Vec<Vec<u8>> = Vec::new();
    for alert in consume_all(&bench.output) {
        let row = alert.json();
        let reasons = row["reasons"].as_str().unwrap();
        assert_eq!(reasons, expected(&model, &row));
        let parsed: Vec<Value> = serde_json::from_str(reasons).unwrap();
        assert!((1..=3).contains(&parsed.len()));
        for reason in &parsed {
            assert_eq!(reason["value"], row[reason["feature"].as_str().unwrap()], "{reasons}");
        }
        live.extend(alert.value);
    }
    assert_eq!(live.len(), log.num_alerts());

    let input = format!("transactions={}", bench.lake);
    let arguments = ["replay", &name, "--input", &input, "--output", "out", "--sink", "alerts", "--format", "jsonl"];
    let ended = bench.start_with(&arguments).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let replayed = std::fs::read(bench.folder.path().join("out/alerts.jsonl")).unwrap();
    let mut replayed: Vec<&[u8]> = replayed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    live.sort_unstable();
    replayed.sort_unstable();
    assert!(replayed == live, "{} alerts came live, {} in replay", live.len(), replayed.len());
}
