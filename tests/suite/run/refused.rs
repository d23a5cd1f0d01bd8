//! What ends a run, with the exit code that says what to do; and that neither records nor secrets are ever told.

use std::fs;
use std::time::{Duration, Instant};

use super::bench::{Bench, File, Log, address, get, status};
use crate::harness::{produce, tidemill, unique};

#[test]
fn a_wrong_file_ends_with_78_and_says_where() {
    let bench = Bench::new(1);
    let name = bench.write(&bench.file());
    let path = bench.folder.path().join(&name);
    let text = fs::read_to_string(&path).unwrap().replace("connector: parquet", "connector: parket");
    fs::write(&path, text).unwrap();
    for command in ["run", "check", "explain"] {
        let ended = tidemill(bench.folder.path(), &[command, &name]);
        assert_eq!(ended.code, Some(78), "{}", ended.log);
        assert!(ended.log.contains(&format!("{name}:")) && ended.log.contains("parket"), "{}", ended.log);
    }
}

#[test]
fn a_topic_that_is_not_there_ends_with_78() {
    let mut bench = Bench::new(1);
    bench.input = unique("nowhere");
    let ended = bench.start(&bench.file()).wait();
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains(&bench.input), "{}", ended.log);
}

#[test]
fn a_rejected_record_without_dead_letters_ends_with_65_and_its_place() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..10);
    let ended = bench.start(&File { has_dead_letters: false, ..bench.file() }).wait();
    assert_eq!(ended.code, Some(65), "{}", ended.log);
    let place = format!("transactions/{}/0: the record at offset 3 was rejected (truncated_json", bench.input);
    assert!(ended.log.contains(&place), "{}", ended.log);
    // With dead letters the same checkpoint goes on.
    bench.run(&bench.file());
    log.check_all(&bench, true);
}

#[test]
fn too_many_rejected_records_end_with_65() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..2_000);
    let ended =
        bench.start(&File { source: vec!["max_rejection_rate: 0.02", "rejection_window: 500"], ..bench.file() }).wait();
    assert_eq!(ended.code, Some(65), "{}", ended.log);
    assert!(ended.log.contains("max_rejection_rate"), "{}", ended.log);
    bench.run(&bench.file());
    log.check_all(&bench, true);
}

#[test]
fn a_source_that_cannot_be_reached_is_waited_for_and_sigterm_ends_the_wait() {
    let bench = Bench::new(1);
    let file = File {
        broker: "127.0.0.1:1".to_owned(),
        has_alerts: false,
        has_dead_letters: false,
        until: "forever",
        http: "127.0.0.1:0",
        ..bench.file()
    };
    let mut process = bench.start(&file);
    let address = address(&process);
    process.wait_for_log("no kafka broker can be reached");
    assert_eq!(get(&address, "/healthz").0, 200);
    assert_eq!(get(&address, "/readyz").0, 503);
    assert_eq!(status(&address)["ready"], false);
    assert!(process.is_running());
    let began = Instant::now();
    let ended = process.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?} to stop", began.elapsed());
}

#[test]
fn a_preview_of_a_cluster_that_cannot_be_reached_ends_with_75() {
    let bench = Bench::new(1);
    let name = bench.write(&File { broker: "127.0.0.1:1".to_owned(), ..bench.file() });
    let ended = tidemill(bench.folder.path(), &["preview", &name, "--timeout", "2s"]);
    assert_eq!(ended.code, Some(75), "{}", ended.log);
    assert!(ended.log.contains("127.0.0.1:1") && ended.log.contains("bootstrap_servers"), "{}", ended.log);
}

#[test]
fn a_sink_that_cannot_be_reached_ends_with_75_and_a_signal_ends_the_wait_before() {
    let bench = Bench::new(1);
    let file = File { broker: "127.0.0.1:1".to_owned(), until: "forever", stop_timeout: "3s", ..bench.file() };
    let ended = bench.start(&file).wait();
    assert_eq!(ended.code, Some(75), "{}", ended.log);
    assert!(ended.log.contains("does not answer"), "{}", ended.log);
    let process = bench.start(&File { stop_timeout: "60s", ..file });
    process.wait_for_log("Connection refused");
    assert_eq!(process.terminate().code, Some(0));
}

/// Text that must not be seen anywhere but in topics and files.
const CANARY: &str = "canary-4111111111111111";

#[test]
fn contents_of_records_are_in_no_log_line_and_no_error() {
    let bench = Bench::new(1);
    let values = [
        CANARY.to_owned(),
        format!("{{\"id\": \"{CANARY}\", \"amount\": 1.0}}"),
        format!("{{\"id\": 1, \"amount\": {{\"{CANARY}\": 1}}}}"),
        format!("{{\"id\": 1, \"amount\": 1.0}} {CANARY}"),
        format!("{{\"id\": 1, \"amount\": -1.0, \"{CANARY}\": \"{CANARY}\"}}"),
        format!("{{\"id\": 1, \"{CANARY}"),
        format!("{{\"id\": 1, \"amount\": 5.0, \"note\": \"{CANARY}\"}}"),
    ];
    produce(&bench.input, values.iter().map(|value| (0, CANARY, value.as_bytes())));
    for (has_dead_letters, code) in [(false, 65), (true, 0)] {
        let name = bench.write(&File { has_dead_letters, ..bench.file() });
        let ended = bench.start_with(&["--log", "trace", "run", &name]).wait();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        assert!(ended.log.contains("partition taken over"), "{}", ended.log);
        for output in [&ended.log, &ended.stdout] {
            assert!(
                !output.contains(CANARY),
                "{}",
                output.lines().find(|line| line.contains(CANARY)).unwrap_or_default()
            );
        }
    }
    let letters = crate::harness::consume_all(&bench.dead_letters);
    let buried: Vec<&[u8]> = letters.iter().filter_map(|letter| letter.value.as_deref()).collect();
    assert_eq!(buried, values[..6].iter().map(|value| value.as_bytes()).collect::<Vec<_>>());
}

#[test]
fn a_password_is_in_no_log_line_and_no_report() {
    let bench = Bench::new(1);
    let secret = unique("hunter2");
    let file = File {
        source: vec![
            "security_protocol: sasl_plaintext",
            "sasl_mechanism: PLAIN",
            "sasl_username: somebody",
            "sasl_password: ${KAFKA_PASSWORD}",
        ],
        has_alerts: false,
        has_dead_letters: false,
        until: "forever",
        ..bench.file()
    };
    let name = bench.write(&file);
    let environment = [("KAFKA_PASSWORD", secret.as_str())];
    let start = |arguments: &[&str]| crate::harness::Process::start(bench.folder.path(), arguments, &environment);
    for command in ["check", "explain"] {
        let ended = start(&["--log", "trace", command, &name]).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(!ended.stdout.contains(&secret) && !ended.log.contains(&secret));
    }
    // The broker speaks no SASL: the client reports its troubles, without the password.
    let process = start(&["--log", "trace", "run", &name]);
    process.wait_for_log("tidemill::kafka");
    std::thread::sleep(Duration::from_secs(1));
    let ended = process.terminate();
    assert!(!ended.log.contains(&secret) && !ended.stdout.contains(&secret));
}
