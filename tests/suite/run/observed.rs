//! What a running process says of itself: `/metrics`, `/healthz`, `/readyz`, `/status` hold the numbers that the topics hold.

use std::collections::BTreeMap;

use super::bench::{Bench, Fate, File, Log, address, get, model_version, status, wait_until, wait_until_published};

/// Sums of a metric's samples whose labels have all of `labels`.
fn metric(page: &str, name: &str, labels: &[&str]) -> f64 {
    let samples: Vec<f64> = page
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!samples.is_empty(), "no {name} with {labels:?} in\n{page}");
    samples.iter().sum()
}

#[test]
fn metrics_and_status_hold_the_numbers_of_the_topics() {
    let bench = Bench::new(3);
    let mut log = Log::new(&bench, 3);
    log.append(0..6_000);
    // One worker more than partitions: it has nothing to do, and is ready.
    let process = bench.start(&File { until: "forever", http: "127.0.0.1:0", workers: 4, ..bench.file() });
    let address = address(&process);
    wait_until_published(&process, &address, 3, 6_000);
    // A partition that changed hands at its end: the new owner hears where that is with its first answer.
    let ends_are_known = || !status(&address)["workers"].to_string().contains("\"lag\":null");
    wait_until("the ends are known", &process, ends_are_known);
    wait_until("it is ready", &process, || get(&address, "/readyz").0 == 200);
    assert_eq!(get(&address, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(&address, "/nothing").0, 404);
    let (rejected, alerts) = (log.num_rejected() as f64, bench.alerts().len() as f64);
    let page = get(&address, "/metrics").1;
    let source = "source=\"transactions\"";
    assert_eq!(metric(&page, "tidemill_records_read_total", &[source]), 6_000.0);
    assert_eq!(metric(&page, "tidemill_records_decoded_total", &[source]), 6_000.0 - rejected);
    assert_eq!(metric(&page, "tidemill_records_rejected_total", &[source]), rejected);
    for reason in ["failed_check", "wrong_type", "truncated_json"] {
        let of_reason = log.records.iter().filter(|record| record.fate == Fate::Rejected(reason)).count();
        assert!(of_reason > 0);
        assert_eq!(
            metric(&page, "tidemill_records_rejected_total", &[&format!("reason=\"{reason}\"")]),
            of_reason as f64
        );
    }
    assert_eq!(metric(&page, "tidemill_rows_out_total", &["sink=\"alerts\""]), alerts);
    assert_eq!(metric(&page, "tidemill_rows_out_total", &["sink=\"archive\""]), 6_000.0 - rejected);
    assert_eq!(metric(&page, "tidemill_produce_to_emit_seconds_count", &[]), 6_000.0 - rejected);
    assert_eq!(metric(&page, "tidemill_epoch_rows_sum", &[]), 6_000.0);
    assert_eq!(metric(&page, "tidemill_source_position", &[source]), 6_000.0);
    assert_eq!(metric(&page, "tidemill_source_lag_records", &[source]), 0.0);
    assert_eq!(metric(&page, "tidemill_state_units", &[]), 3.0);
    assert_eq!(
        metric(&page, "tidemill_model_info", &["model=\"fraud\"", &format!("version=\"{}\"", model_version())]),
        1.0
    );
    assert!(metric(&page, "tidemill_checkpoints_total", &["result=\"ok\""]) > 0.0);
    assert!(metric(&page, "tidemill_checkpoint_duration_seconds_count", &[]) > 0.0);
    let newest = page.lines().filter(|line| line.starts_with("tidemill_checkpoint_last_success_timestamp_seconds{"));
    let newest = newest.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).fold(0.0, f64::max);
    assert!(newest * 1e3 >= status(&address)["started_at_ms"].as_f64().unwrap(), "{newest}");
    assert!(
        page.contains("# HELP tidemill_records_read_total")
            && page.contains("# TYPE tidemill_epoch_duration_seconds histogram")
    );
    let status = status(&address);
    assert_eq!((&status["pipeline"], &status["ready"]), (&"bench".into(), &true.into()));
    assert_eq!(status["models"][0]["version"], model_version());
    let workers = status["workers"].as_array().unwrap();
    let sum = |of: &dyn Fn(&serde_json::Value) -> Option<u64>| workers.iter().filter_map(of).sum::<u64>();
    assert_eq!(sum(&|worker| worker["sources"]["transactions"]["read"].as_u64()), 6_000);
    assert_eq!(sum(&|worker| worker["sources"]["transactions"]["rejected"].as_u64()), rejected as u64);
    assert_eq!(sum(&|worker| worker["rows_out"]["alerts"].as_u64()), alerts as u64);
    let mut ends = BTreeMap::new();
    for partition in workers.iter().flat_map(|worker| worker["partitions"].as_array().unwrap()) {
        assert_eq!((&partition["lag"], &partition["position"]), (&0.into(), &partition["end"]));
        ends.insert(partition["partition"].as_i64().unwrap(), partition["end"].as_i64().unwrap());
    }
    assert_eq!((ends.len(), ends.values().sum::<i64>()), (3, 6_000));
    assert_eq!(process.terminate().code, Some(0));
    log.check_all(&bench, false);
}
