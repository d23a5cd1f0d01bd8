//! `tidemill bootstrap`: a topic holds the newest part of a history only; a pipeline whose windows were loaded from the rest answers
//! what one that saw everything answers, to the bit. And what is refused, since it would lose rows or count them twice.

use std::collections::BTreeMap;
use std::fs;

use tidemill::source::generator::{GeneratorSettings, Imperfections, Simulator};
use tidemill::types::Offset;

use super::bench::Bench;
use super::fraud::{Fraud, PARTITIONS, Variant, generate};
use super::live::admin;
use crate::harness::{Ended, produce_by_key};

/// 2026-01-01 UTC.
const FROM_MS: i64 = 1_767_225_600_000;
const DAY_MS: i64 = 86_400_000;
/// Days of history, and of what comes after it.
const DAYS: (i64, i64) = (20, 6);
const USERS: u32 = 400;

fn world() -> GeneratorSettings {
    GeneratorSettings { seed: 9, num_users: USERS, ..GeneratorSettings::default() }
}

/// As `tidemill generate` takes it.
const WORLD: [&str; 6] = ["--seed", "9", "--users", "400", "--from", "2026-01-01"];

/// Sends the events of some days with the partitioner of a producer.
fn send(bench: &Bench, partitioner: &str, settings: GeneratorSettings, days: std::ops::Range<i64>) {
    let simulator = Simulator::new(settings).unwrap();
    let mut feed = simulator.feed(FROM_MS + days.start * DAY_MS);
    let block = feed.events(FROM_MS + days.end * DAY_MS).unwrap();
    produce_by_key(&bench.input, partitioner, block.iter().map(|record| (record.key, record.value)));
}

/// Sends the history as it was, and what follows with all that delivery does; where the history ends.
fn send_both(bench: &Bench, partitioner: &str) -> BTreeMap<i32, i64> {
    send(bench, partitioner, world(), 0..DAYS.0);
    let middle = ends(bench);
    let imperfections = Imperfections {
        malformed_share: 0.01,
        late_share: 0.03,
        duplicate_share: 0.01,
        out_of_order_share: 0.03,
        future_share: 0.002,
        ..Imperfections::default()
    };
    send(bench, partitioner, GeneratorSettings { imperfections, ..world() }, DAYS.0..DAYS.0 + DAYS.1);
    middle
}

/// Where each partition of the topic ends.
fn ends(bench: &Bench) -> BTreeMap<i32, i64> {
    crate::harness::end_offsets(&bench.input)
}

/// Deletes what is below these offsets.
fn cut_off(bench: &Bench, offsets: &BTreeMap<i32, i64>) {
    for (partition, offset) in offsets {
        admin().delete_records(&bench.input, *partition, Offset::new(*offset).unwrap()).unwrap();
    }
}

fn place(bench: &Bench, offsets: &BTreeMap<i32, i64>) -> String {
    let places = offsets.iter().map(|(partition, offset)| format!("{}/{partition}={offset}", bench.input));
    places.collect::<Vec<_>>().join(",")
}

fn bootstrap(line: &Fraud<'_>, history: &str, more: &[&str]) -> Ended {
    let input = format!("transactions={history}");
    line.command("bootstrap", Variant::default(), &[&["--input", &input], more].concat())
}

/// Refused as a mistake of the caller, with these words.
fn is_refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    words.iter().for_each(|word| assert!(ended.log.contains(word), "expected {word} in {}", ended.log));
}

/// Rows from these offsets on.
fn from(rows: &BTreeMap<(i32, i64), String>, offsets: &BTreeMap<i32, i64>) -> BTreeMap<(i32, i64), String> {
    rows.iter()
        .filter(|((partition, offset), _)| *offset >= offsets[partition])
        .map(|(place, row)| (*place, row.clone()))
        .collect()
}

/// `found` is `expected`; the first few that differ are told.
fn are_equal(found: &BTreeMap<(i32, i64), String>, expected: &BTreeMap<(i32, i64), String>) {
    assert!(!expected.is_empty());
    let differing = expected.iter().filter(|(place, row)| found.get(place) != Some(row));
    let first: Vec<_> = differing.clone().take(3).map(|(place, row)| (place, row, found.get(place))).collect();
    let further = found.keys().filter(|place| !expected.contains_key(place)).count();
    assert!(
        first.is_empty() && further == 0,
        "{} of {} differ, {further} more: {first:#?}",
        differing.count(),
        expected.len()
    );
}

#[test]
fn a_pipeline_that_begins_with_an_archive_answers_what_one_that_saw_the_whole_topic_answers() {
    let bench = Bench::new(PARTITIONS);
    let middle = send_both(&bench, "consistent_random");
    let whole = Fraud::new(&bench, "whole");
    whole.finish(2);
    let expected = whole.answers();
    let archive = whole.place("archive");

    // The topic keeps a part of it; the run begins in the middle of that, in each partition elsewhere.
    cut_off(&bench, &middle);
    let offsets: BTreeMap<i32, i64> =
        middle.iter().map(|(partition, offset)| (*partition, offset + 100 + 137 * i64::from(*partition))).collect();
    let loaded = Fraud::new(&bench, "loaded");
    let ended = bootstrap(&loaded, &archive, &["--at", &place(&bench, &offsets)]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let below = expected.keys().filter(|(partition, offset)| *offset < offsets[partition]).count();
    assert!(ended.stdout.replace(',', "").contains(&format!("{below} rows loaded")), "{below} rows: {}", ended.stdout);
    is_refused(&bootstrap(&loaded, &archive, &["--at", "latest"]), &["there is a checkpoint already, at offset"]);
    loaded.finish(3);
    are_equal(&loaded.answers(), &from(&expected, &offsets));
    is_refused(&bootstrap(&loaded, &archive, &["--at", "latest"]), &["there is a checkpoint already, at offset"]);

    // Without a load the windows begin at the cut-over: what was shown above is the state's doing.
    let empty = Fraud::new(&bench, "empty");
    let places = offsets.iter().map(|(partition, offset)| format!("\"{}/{partition}\": {offset}", bench.input));
    let start = format!("    start: {{ offsets: {{ {} }} }}\n", places.collect::<Vec<_>>().join(", "));
    let ended = empty.start(Variant { source: &start, ..Variant::default() }).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_ne!(empty.answers(), from(&expected, &offsets));

    // Where an archive ends, the run goes on; not beyond, and not where the topic has no records any more.
    let end = ends(&bench);
    let far = Fraud::new(&bench, "far");
    send(&bench, "consistent_random", world(), 40..41);
    is_refused(
        &bootstrap(&far, &archive, &["--at", "latest"]),
        &["would be in neither the history nor the run", "cut-over"],
    );
    let before: BTreeMap<i32, i64> = middle.iter().map(|(partition, offset)| (*partition, offset - 1)).collect();
    is_refused(&bootstrap(&far, &archive, &["--at", &place(&bench, &before)]), &["not in the log"]);
    let ended = bootstrap(&far, &archive, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    for (partition, offset) in &end {
        let told = format!("{}/{partition}: ", bench.input);
        let line = ended.stdout.lines().find(|line| line.contains(&told)).unwrap_or_else(|| panic!("{}", ended.stdout));
        assert!(line.ends_with(&format!("goes on at offset {offset}")), "{line}");
    }
    far.finish(1);
    whole.finish(2);
    are_equal(&far.answers(), &from(&whole.answers(), &end));
}

/// History as `tidemill generate` writes it, by event time and without positions; the topic begins where it ends.
fn plain_history_is_loaded(bench: &Bench, partitioner: &str, middle: &BTreeMap<i32, i64>) {
    let whole = Fraud::new(bench, "whole");
    whole.finish(2);
    cut_off(bench, middle);
    let days = DAYS.0.to_string();
    let to_file = [&["generate", "--parquet", "history.parquet", "--days", &days], &WORLD[..]].concat();
    let ended = bench.start_with(&to_file).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);

    let loaded = Fraud::new(bench, "loaded");
    is_refused(&bootstrap(&loaded, "history.parquet", &["--partitioner", partitioner]), &["--at earliest"]);
    is_refused(&bootstrap(&loaded, "history.parquet", &["--at", "earliest"]), &["--partitioner murmur2"]);
    let ended = bootstrap(&loaded, "history.parquet", &["--at", "earliest", "--partitioner", partitioner]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    loaded.finish(2);
    are_equal(&loaded.answers(), &from(&whole.answers(), middle));
}

#[test]
fn history_without_positions_is_loaded_into_the_partitions_of_a_producer_of_librdkafka() {
    let bench = Bench::new(PARTITIONS);
    let middle = send_both(&bench, "consistent_random");
    plain_history_is_loaded(&bench, "crc32", &middle);
}

#[test]
fn history_without_positions_is_loaded_into_the_partitions_of_our_own_producers() {
    let bench = Bench::new(PARTITIONS);
    let days = DAYS.0.to_string();
    generate(&bench, &[&["--days", &days], &WORLD[..]].concat());
    let middle = ends(&bench);
    let after = ["--seed", "9", "--users", "400", "--from", "2026-01-21", "--days", "6", "--late", "0.03"];
    generate(&bench, &after);
    plain_history_is_loaded(&bench, "murmur2", &middle);
}

#[test]
fn a_pipeline_without_windows_is_not_bootstrapped() {
    let bench = Bench::new(1);
    fs::write(bench.folder.path().join("history.jsonl"), "{}\n").unwrap();
    let line = Fraud::new(&bench, "windowless");
    let variant = Variant { select: "SELECT transaction_id FROM transactions", ..Variant::default() };
    let more = ["--input", "transactions=history.jsonl", "--at", "earliest"];
    is_refused(&line.command("bootstrap", variant, &more), &["has no windows", "tidemill run"]);
}
