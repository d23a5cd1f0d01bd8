//! A record's whole way, and graceful ends: `until: now` and SIGTERM.

use std::time::Duration;

use tidemill::pipeline::settings::KafkaConnection;
use tidemill::sink::kafka::KafkaAdmin;
use tidemill::types::Offset;

use super::bench::{Bench, Log, address, files_below, taken_over, wait_until, wait_until_published};
use crate::harness::{broker, joined_ranges};

pub(crate) fn admin() -> KafkaAdmin {
    KafkaAdmin::open(&KafkaConnection {
        bootstrap_servers: broker(),
        security_protocol: None,
        sasl_mechanism: None,
        sasl_username: None,
        sasl_password: None,
        ssl_ca_location: None,
        ssl_certificate_location: None,
        ssl_key_location: None,
        options: Default::default(),
    })
    .unwrap()
}

/// What a run says that it read, decoded and rejected, at its end.
fn counts(log: &str) -> (i64, i64, i64) {
    let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let last = lines
        .find(|line| line["message"] == "stopped")
        .unwrap_or_else(|| panic!("it did not say that it stopped:\n{log}"));
    let count = |name: &str| last[name].as_i64().unwrap();
    (count("read"), count("decoded"), count("rejected"))
}

#[test]
fn until_now_reads_each_record_once_over_three_partitions_and_two_workers() {
    let bench = Bench::new(3);
    let mut log = Log::new(&bench, 3);
    log.append(0..20_000);
    let mut file = bench.file();
    file.workers = 2;
    let ended = bench.run(&file);
    let rejected = log.num_rejected() as i64;
    assert_eq!(counts(&ended.log), (20_000, 20_000 - rejected, rejected));
    log.check_all(&bench, false);
    // Again: there is nothing left, and nothing comes twice. Then only what is new.
    assert_eq!(counts(&bench.run(&file).log), (0, 0, 0));
    log.append(20_000..21_000);
    assert_eq!(counts(&bench.run(&file).log).0, 1_000);
    log.check_all(&bench, false);
    assert_eq!(files_below(&bench.folder.path().join("lake/_staging")), 0, "staged files were left");
}

#[test]
fn ranges_of_archived_files_join_over_restarts_though_the_first_and_the_last_records_become_no_rows() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    // 100 and 197 are rejected.
    for ids in [0..100, 100..101, 101..198, 198..300] {
        log.append(ids);
        bench.run(&bench.file());
        log.check_all(&bench, false);
    }
    assert_eq!(joined_ranges(&bench.archived_names()).remove(&0), Some(0..300));
}

#[test]
fn alerts_and_dead_letters_of_a_live_topic_arrive_while_it_runs_and_sigterm_drains() {
    let bench = Bench::new(3);
    let mut log = Log::new(&bench, 3);
    log.append(0..5_000);
    let mut file = bench.file();
    (file.until, file.workers, file.http) = ("forever", 2, "127.0.0.1:0");
    let process = bench.start(&file);
    let address = address(&process);
    wait_until_published(&process, &address, 3, 5_000);
    log.append(5_000..10_000);
    wait_until_published(&process, &address, 3, 10_000);
    log.check_alerts(&bench.alerts(), false);
    let ended = process.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(counts(&ended.log).0, 10_000);
    log.check_all(&bench, false);
}

#[test]
fn sigterm_in_the_middle_publishes_all_that_was_processed_and_nothing_comes_twice() {
    let bench = Bench::new(3);
    let mut log = Log::new(&bench, 3);
    log.append(0..12_000);
    let mut file = bench.file();
    (file.until, file.workers, file.source) = ("forever", 2, vec!["rate_limit: 2000"]);
    for pause in [700, 150] {
        let before: i64 = if pause == 700 { 0 } else { bench.stored().values().map(|(published, _)| published).sum() };
        let process = bench.start(&file);
        process.wait_for_log("partition taken over");
        std::thread::sleep(Duration::from_millis(pause));
        let ended = process.terminate();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        let stored = bench.stored();
        assert!(stored.values().all(|(published, resumed)| published == resumed), "a sink was left behind: {stored:?}");
        let published: i64 = stored.values().map(|(published, _)| published).sum();
        assert_eq!(published, before + counts(&ended.log).0);
        assert!(published < 12_000, "the signal came too late to tell anything");
    }
    bench.run(&bench.file());
    log.check_all(&bench, false);
}

#[test]
fn records_that_are_gone_stop_the_run_or_are_counted_as_the_policy_says() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..1_000);
    bench.run(&bench.file());
    log.append(1_000..2_000);
    admin().delete_records(&bench.input, 0, Offset::new(1_500).unwrap()).unwrap();
    let ended = bench.start(&bench.file()).wait();
    assert_eq!(ended.code, Some(65), "{}", ended.log);
    assert!(ended.log.contains("position 1000 is not in the log, which holds [1500, 2000)"), "{}", ended.log);
    let mut going_on = bench.file();
    going_on.source = vec!["on_data_loss: continue"];
    let ended = bench.run(&going_on);
    assert_eq!(counts(&ended.log).0, 500);
    assert!(ended.log.contains("\"wanted\":1000,\"found\":1500"), "{}", ended.log);
    log.records.retain(|record| record.offset < 1_000 || record.offset >= 1_500);
    log.check_all(&bench, false);
}

#[test]
fn under_latest_old_records_are_left_and_added_partitions_are_read_from_their_beginning_also_after_a_restart() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..300);
    let mut file = bench.file();
    (file.until, file.http) = ("forever", "127.0.0.1:0");
    file.source = vec!["start: latest", "metadata_refresh: 1s"];
    let process = bench.start(&file);
    let at = address(&process);
    process.wait_for_log("partition taken over");
    log.append(300..500);
    wait_until_published(&process, &at, 1, 500);
    // Written at once, before anybody can have noticed the partition.
    admin().set_num_partitions(&bench.input, 2).unwrap();
    wait_until("the partition is there", &process, || admin().num_partitions(&bench.input).unwrap() == Some(2));
    log.append_to(500..700, 1..2);
    wait_until_published(&process, &at, 2, 700);
    assert_eq!(process.terminate().code, Some(0));
    // And one that is added while nothing runs.
    admin().set_num_partitions(&bench.input, 3).unwrap();
    let process = bench.start(&file);
    let at = address(&process);
    log.append_to(700..900, 2..3);
    wait_until_published(&process, &at, 3, 900);
    assert_eq!(taken_over(&process)[&2], 0);
    assert_eq!(process.terminate().code, Some(0));
    log.records.retain(|record| record.partition != 0 || record.offset >= 300);
    log.check_all(&bench, false);
}

#[test]
fn a_preview_of_a_topic_whose_old_records_are_gone_tells_nothing_of_lost_ones() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..400);
    admin().delete_records(&bench.input, 0, Offset::new(300).unwrap()).unwrap();
    let name = bench.write(&bench.file());
    // A hundred records for each row are more than there are.
    let ended = bench.start_with(&["preview", &name, "--rows", "5", "--view", "transactions"]).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.stdout.contains("transactions: 5 rows"), "{}", ended.stdout);
    assert!(!ended.log.contains("deleted before they were read"), "{}", ended.log);
}
