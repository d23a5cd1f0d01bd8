//! `tidemill bootstrap` of a pipeline in stages: its internal topics are empty before the first run, so the rows of history go
//! through the stages without being written there, and what follows is answered as if the whole topic had been read.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::live::admin;
use crate::harness::{Ended, broker, make_topic, parquet_rows, produce, tidemill, unique};
use tidemill::types::Offset;

/// Rows of the topic, and how many of them are history.
const ROWS: (i64, i64) = (4_000, 2_500);

/// A purchase; two come in one millisecond, and behind the history now and then one late. (In a history without positions no row
/// was late, so there the first windows would tell the second ones something else.)
fn record(id: i64) -> String {
    let minutes = if id % 29 == 0 && id >= ROWS.1 { id - 40 } else { id - id % 2 };
    let merchant = if id % 23 == 0 { "null".to_owned() } else { format!("\"m{}\"", id % 17) };
    format!(
        "{{\"id\": {id}, \"user_id\": {}, \"merchant\": {merchant}, \"amount\": {}.25, \"ts\": {}}}",
        id * id % 101,
        id % 977,
        1_767_225_600_000_i64 + minutes * 60_000
    )
}

/// The topic is keyed by purchase; windows by user, then by merchant.
fn pipeline(folder: &std::path::Path, name: &str, topic: &str, start: &str) -> String {
    let text = format!(
        "pipeline: stages
sources:
  cards:
    connector: kafka
    bootstrap_servers: \"{servers}\"
    topic: {topic}
    group: {group}
    start: {start}
    until: now
    columns: {{ id: bigint not null, user_id: bigint not null, merchant: string, amount: double not null, ts: epoch_ms not null }}
    event_time: ts
    partitioned_by: [id]
    repartition: {{ by: [user_id], topic: {group}-by-user, partitions: 1 }}
views:
  bought:
    sql: |
      SELECT id, user_id, merchant, amount, ts, count(*) OVER long AS num, sum(amount) OVER long AS spent,
        stddev(amount) OVER (PARTITION BY user_id ORDER BY ts) AS spread
      FROM cards WINDOW long AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN INTERVAL '90 days' PRECEDING AND CURRENT ROW)
    repartition: {{ by: [merchant], topic: {group}-by-merchant, partitions: 2 }}
  sold:
    SELECT id, num, spent, spread, lag(user_id) OVER (PARTITION BY merchant ORDER BY ts) AS last_user,
      count(DISTINCT user_id) OVER day AS users, sum(spent) OVER (PARTITION BY merchant ORDER BY ts ROWS BETWEEN 20 PRECEDING AND
      1 PRECEDING) AS before FROM bought WINDOW day AS (PARTITION BY merchant ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING
      AND CURRENT ROW)
sinks:
  answers: {{ connector: parquet, path: {name}/answers, max_age: 1s, select: SELECT * FROM sold }}
dead_letter: {{ connector: parquet, path: {name}/rejected }}
checkpoint: {{ path: {name}/checkpoint, interval: 200ms }}
run: {{ workers: 2, stop_timeout: 20s }}
http: {{ listen: \"off\" }}
",
        servers = broker(),
        group = unique(name),
    );
    let file = format!("{name}.yaml");
    fs::write(folder.join(&file), text).unwrap();
    file
}

/// The answers by the number of the purchase, as text that tells all bits apart.
fn answers(folder: &std::path::Path, name: &str) -> BTreeMap<i64, String> {
    let options = FormatOptions::default().with_null("null");
    let mut rows = BTreeMap::new();
    for batch in parquet_rows(&folder.join(name).join("answers")) {
        let ids = batch["id"].as_primitive::<Int64Type>();
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap());
        let columns: Vec<_> = columns.collect();
        for row in 0..batch.num_rows() {
            let text: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            assert!(rows.insert(ids.value(row), text.join("|")).is_none(), "{} is there twice", ids.value(row));
        }
    }
    rows
}

fn send(topic: &str, ids: Range<i64>) {
    let records: Vec<(String, String)> = ids.map(|id| (id.to_string(), record(id))).collect();
    produce(topic, records.iter().map(|(key, value)| (0, key.as_str(), value.as_bytes())));
}

fn ended_well(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.log);
}

#[test]
fn windows_behind_topics_of_the_pipeline_are_loaded_stage_by_stage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let topic = unique("cards");
    // One partition, and one by user: the order in which rows come to the topics behind them is the same in each run.
    make_topic(&topic, 1);
    send(&topic, 0..ROWS.0);
    let whole = pipeline(folder, "whole", &topic, "earliest");
    ended_well(&tidemill(folder, &["run", &whole]));
    let mut expected = answers(folder, "whole");
    assert_eq!(expected.len() as i64, ROWS.0);
    let expected = expected.split_off(&ROWS.1);

    admin().delete_records(&topic, 0, Offset::new(ROWS.1 - 100).unwrap()).unwrap();
    let history: Vec<String> = (0..ROWS.1).map(record).collect();
    fs::write(folder.join("history.jsonl"), history.join("\n")).unwrap();
    let loaded = pipeline(folder, "loaded", &topic, "earliest");
    let place = format!("{topic}/0={}", ROWS.1);
    let load = ["bootstrap", &loaded, "--input", "cards=history.jsonl", "--at"];
    let untold = tidemill(folder, &load[..4]);
    assert!(untold.code == Some(78) && untold.log.contains("--at earliest"), "{}", untold.log);
    let ended = tidemill(folder, &[&load[..], &[&place]].concat());
    ended_well(&ended);
    // One outer partition, one by user and two by merchant.
    assert_eq!(
        ended.stdout.lines().filter(|line| line.contains("a run goes on at offset")).count(),
        4,
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains(&format!("goes on at offset {}", ROWS.1)), "{}", ended.stdout);
    let again = tidemill(folder, &[&load[..], &[&place]].concat());
    assert!(again.code == Some(78) && again.log.contains("there is a checkpoint already"), "{}", again.log);
    ended_well(&tidemill(folder, &["run", &loaded]));
    let found = answers(folder, "loaded");
    let differing: Vec<_> = expected.iter().filter(|(id, row)| found.get(id) != Some(row)).collect();
    let first: Vec<_> = differing.iter().take(3).map(|(id, row)| (row, found.get(id))).collect();
    assert!(differing.is_empty() && found.len() == expected.len(), "{} differ: {first:#?}", differing.len());

    // Without a load the windows begin empty; and topics that hold rows already are not loaded into.
    let empty = pipeline(folder, "empty", &topic, &format!("{{ offsets: {{ \"{topic}/0\": {} }} }}", ROWS.1));
    ended_well(&tidemill(folder, &["run", &empty]));
    assert_ne!(answers(folder, "empty"), expected);
    fs::remove_dir_all(folder.join("empty")).unwrap();
    let late = tidemill(folder, &["bootstrap", &empty, "--input", "cards=history.jsonl", "--at", &place]);
    assert!(late.code == Some(78) && late.log.contains("holds records already"), "{}", late.log);
}
