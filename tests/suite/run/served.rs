//! The promise, end to end: what a run answers that is killed and goes on with other numbers of workers is what a replay of its
//! archive answers, to the bit, late rows included. On the local disk with a million transactions, and on a real S3 server.

use std::time::{Duration, Instant};

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Int64Type;

use super::bench::{Bench, taken_over_in};
use super::fraud::{Fraud, PARTITIONS, Variant, generate, printed};
use crate::harness::{Process, joined_ranges};

/// Kills a run when its manifests cover so many records.
struct Kill {
    workers: usize,
    records: i64,
    rate_limit: Option<u32>,
}

/// Waits until the manifests cover `records`, then kills the process.
fn kill_at(line: &Fraud<'_>, mut process: Process, records: i64) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while line.num_published() < records {
        assert!(process.is_running() && Instant::now() < deadline, "not {records} published:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    process.kill();
}

/// Runs with kills, and then to the end. Each goes on where manifests and snapshots say, not at the beginning.
fn run_with_kills(line: &Fraud<'_>, num_records: i64, kills: &[Kill], workers: usize) {
    let mut before = 0;
    for kill in kills {
        let rate = kill.rate_limit.map(|rate| format!("    rate_limit: {rate}\n")).unwrap_or_default();
        let process = line.start(Variant { workers: kill.workers, source: &rate, ..Variant::default() });
        kill_at(line, process, kill.records);
        let published = line.num_published();
        assert!(
            before < published && published < num_records,
            "{published} of {num_records} published, {before} before"
        );
        before = published;
    }
    let ended = line.start(Variant { workers, ..Variant::default() }).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let resumed = taken_over_in(&ended.log);
    let records: i64 = resumed.values().sum();
    assert!(
        resumed.len() == PARTITIONS as usize && 0 < records && records <= before,
        "{resumed:?}, {before} published"
    );
}

/// Sends transactions, kills runs over them, replays the archive, and compares.
fn is_served_as_replayed(bench: &Bench, count: i64, users: &str, kills: &[Kill], workers: usize) {
    let number = count.to_string();
    // Longer than the longest frame, so that there are rows with all of their history.
    let world = ["--count", &number, "--users", users, "--from", "2026-01-01", "--days", "52", "--seed", "7"];
    let faults = [
        "--malformed",
        "0.005",
        "--late",
        "0.01",
        "--duplicates",
        "0.005",
        "--out-of-order",
        "0.01",
        "--future",
        "0.0005",
    ];
    let sent = generate(bench, &[&world[..], &faults].concat());
    assert!(sent.starts_with(&format!("{count} records")), "{sent}");
    let num_malformed = printed(&sent, "malformed");
    assert!(num_malformed > 0 && printed(&sent, "late") > 0 && printed(&sent, "sent twice") > 0, "{sent}");

    let line = Fraud::new(bench, "served");
    run_with_kills(&line, count, kills, workers);

    // All records are accounted for, and each accepted one has one row of features.
    let covered: i64 = joined_ranges(&line.names("archive")).values().map(|range| range.end - range.start).sum();
    assert_eq!(covered, count, "the archive does not cover the topic");
    let mut num_rejected = 0;
    line.read("rejected", &[], |batch| num_rejected += batch.num_rows() as i64);
    assert_eq!(num_rejected, num_malformed, "rejected, and malformed");
    let (mut num_rows, mut num_late, mut num_incomplete) = (0, 0, 0);
    line.read("answers", &["_late_by", "_history_incomplete"], |batch| {
        let late = batch["_late_by"].as_primitive::<Int64Type>();
        num_rows += batch.num_rows() as i64;
        num_late += late.iter().flatten().filter(|late| *late > 0).count() as i64;
        num_incomplete += batch["_history_incomplete"].as_boolean().true_count() as i64;
        assert_eq!(late.null_count(), 0);
    });
    assert_eq!(num_rows, count - num_malformed, "rows, and accepted records");
    assert!(num_late > num_rows / 100 && num_late < num_rows / 2, "{num_late} of {num_rows} rows are late");
    assert!(num_incomplete > 0 && num_incomplete < num_rows, "{num_incomplete} of {num_rows} rows are incomplete");

    let input = format!("transactions={}", line.place("archive"));
    let there = format!("answers={}", line.place("answers"));
    let arguments = ["--order", "as-served", "--input", &input, "--output", "again", "--sink", "answers", "--compare"];
    let ended = line.command("replay", Variant::default(), &[&arguments[..], &[&there]].concat());
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.log);
    let told = format!(
        "{num_rows} rows here, {num_rows} there; {num_rows} on both sides, matched by _topic, _partition, _offset"
    );
    assert!(ended.stdout.contains(&told), "{told}\n{}", ended.stdout);
    for column in ["user_merchants_7d", "amount_z_score", "time_since_last_txn", "visit_of_merchant", "_late_by"] {
        let row: Vec<&str> = ended
            .stdout
            .lines()
            .map(str::trim)
            .find(|row| row.starts_with(column))
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(row, [column, &num_rows.to_string(), "0"], "{}", ended.stdout);
    }
}

#[test]
fn a_million_transactions_answered_by_killed_runs_are_answered_the_same_in_replay() {
    let kills = [
        Kill { workers: 1, records: 250_000, rate_limit: None },
        Kill { workers: 2, records: 600_000, rate_limit: None },
    ];
    is_served_as_replayed(&Bench::new(PARTITIONS), 1_000_000, "9000", &kills, 4);
}

#[test]
fn state_and_archive_of_a_killed_run_on_s3_are_answered_the_same_in_replay() {
    let kills = [Kill { workers: 2, records: 20_000, rate_limit: Some(6_000) }];
    is_served_as_replayed(&Bench::on_s3(PARTITIONS), 50_000, "2000", &kills, 1);
}
