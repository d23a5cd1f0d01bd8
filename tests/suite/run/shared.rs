//! Two processes: of one group they share the partitions and take over from each other; of two groups on one checkpoint the
//! later one wins and the other stops.

use std::time::Duration;

use super::bench::{Bench, File, Log, address, published, status, wait_until, wait_until_published};
use crate::harness::Process;

fn side_by_side(bench: &Bench) -> (Log, Process, Process, String) {
    let mut log = Log::new(bench, 4);
    log.append(0..8_000);
    let file = File { until: "forever", http: "127.0.0.1:0", source: vec!["rate_limit: 1000"], ..bench.file() };
    let first = bench.start(&file);
    first.wait_for_log("partition taken over");
    let second = bench.start(&file);
    let second_address = address(&second);
    wait_until("both have partitions", &second, || published(&status(&second_address)).len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    (log, first, second, second_address)
}

#[test]
fn a_process_takes_over_from_one_that_was_killed() {
    let bench = Bench::new(4);
    let (mut log, first, second, address) = side_by_side(&bench);
    first.kill();
    log.append(8_000..9_000);
    wait_until_published(&second, &address, 4, 9_000);
    assert_eq!(second.terminate().code, Some(0));
    log.check_all(&bench, true);
}

#[test]
fn a_process_takes_over_from_one_that_was_stopped_and_nothing_comes_twice() {
    let bench = Bench::new(4);
    let (mut log, first, second, address) = side_by_side(&bench);
    let ended = first.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    log.append(8_000..9_000);
    wait_until_published(&second, &address, 4, 9_000);
    assert_eq!(second.terminate().code, Some(0));
    log.check_all(&bench, false);
}

#[test]
fn a_writer_whose_units_another_group_has_claimed_stops_as_fenced() {
    let bench = Bench::new(2);
    let mut log = Log::new(&bench, 2);
    log.append(0..2_000);
    let file = File { until: "forever", http: "127.0.0.1:0", ..bench.file() };
    let first = bench.start(&file);
    wait_until_published(&first, &address(&first), 2, 2_000);
    let other = File { group: crate::harness::unique("other"), ..file };
    let second = bench.start(&other);
    let ended = first.wait();
    assert_eq!(ended.code, Some(76), "{}", ended.log);
    assert!(ended.log.contains("another writer has taken over"), "{}", ended.log);
    log.append(2_000..3_000);
    wait_until_published(&second, &address(&second), 2, 3_000);
    assert_eq!(second.terminate().code, Some(0));
    log.check_all(&bench, true);
}

#[test]
fn another_pipeline_on_the_same_checkpoint_path_is_refused() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..100);
    bench.run(&bench.file());
    let ended = bench.start(&File { pipeline: "another", ..bench.file() }).wait();
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains("this checkpoint path belongs to pipeline `bench`, not to `another`"), "{}", ended.log);
    log.check_all(&bench, false);
}
