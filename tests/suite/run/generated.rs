//! `connector: generator` in a whole run: what is simulated is archived, each event once, however often the run was stopped or
//! killed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;

use crate::harness::{Process, parquet_rows, tidemill, unique};

const COUNT: usize = 20_000;

/// Writes the pipeline file of one archive; its name.
fn pipeline(folder: &Path, place: &str, rate: &str) -> String {
    let text = format!(
        r#"
pipeline: {place}
sources:
  transactions:
    connector: generator
    seed: 11
    count: {COUNT}
    rate: {rate}
    columns: {{ transaction_id: string not null, user_id: bigint not null, timestamp: timestamp not null }}
    metadata: {{ source_offset: offset }}
    event_time: timestamp
sinks:
  archive:
    connector: parquet
    path: {place}/lake
    max_rows: 700
    max_age: 1s
    select: SELECT source_offset, transaction_id, user_id FROM transactions
checkpoint: {{ path: {place}/checkpoint, interval: 50ms }}
run: {{ workers: 2 }}
http: {{ listen: "off" }}
"#
    );
    let name = format!("{}.yaml", unique("generated"));
    fs::write(folder.join(&name), text).unwrap();
    name
}

/// (offset, id) of all archived rows, sorted.
fn archive(folder: &Path, place: &str) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    for batch in parquet_rows(&folder.join(place).join("lake")) {
        let (offsets, ids) =
            (batch["source_offset"].as_primitive::<Int64Type>(), batch["transaction_id"].as_string::<i32>());
        rows.extend((0..batch.num_rows()).map(|row| (offsets.value(row), ids.value(row).to_owned())));
    }
    rows.sort_unstable();
    rows
}

#[test]
fn a_simulated_stream_that_is_stopped_and_killed_is_archived_as_if_it_had_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ended = tidemill(folder.path(), &["run", &pipeline(folder.path(), "whole", "null")]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let whole = archive(folder.path(), "whole");
    let count = i64::try_from(COUNT).unwrap();
    assert_eq!(whole.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());

    let paced = pipeline(folder.path(), "cut", "4000");
    let mut before = 0;
    for is_killed in [false, true] {
        let process = Process::start(folder.path(), &["run", &paced], &[]);
        process.wait_for_log("partition taken over");
        std::thread::sleep(Duration::from_millis(1_500));
        if is_killed {
            process.kill();
        } else {
            let ended = process.terminate();
            assert_eq!(ended.code, Some(0), "{}", ended.log);
        }
        let archived = archive(folder.path(), "cut").len();
        assert!(archived > before && archived < COUNT, "{archived} rows, {before} before");
        before = archived;
    }
    for _ in 0..2 {
        let ended = tidemill(folder.path(), &["run", &pipeline(folder.path(), "cut", "null")]);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(archive(folder.path(), "cut") == whole, "rows are missing, or there twice");
    }
}
