//! kill -9 at any moment: what the last manifest says is where the next run goes on, and the archive holds each row once.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::bench::{Bench, Log, number, taken_over};
use crate::harness::Seen;

/// How many alerts came of records below the given positions.
fn num_alerts_below(alerts: &[Seen], stored: &BTreeMap<i32, (i64, i64)>) -> usize {
    let is_below = |alert: &&Seen| {
        let (partition, offset) =
            (number(alert, "tidemill-source-partition") as i32, number(alert, "tidemill-source-offset"));
        stored.get(&partition).is_some_and(|(published, _)| offset < *published)
    };
    alerts.iter().filter(is_below).count()
}

/// Kills a pipeline in the middle of its work, several times, then lets it come to its end.
fn is_killed_again_and_again(bench: &Bench, seed: u64) {
    let mut log = Log::new(bench, 3);
    log.append(0..12_000);
    let mut file = bench.file();
    (file.until, file.workers, file.source) = ("forever", 2, vec!["rate_limit: 1500"]);
    file.archive_rows = 150;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut ends = Vec::new();
    let mut below = Vec::new();
    let mut stored = BTreeMap::new();
    for _ in 0..4 {
        let process = bench.start(&file);
        process.wait_for_log("partition taken over");
        let pause = Duration::from_millis(random.random_range(20..900));
        std::thread::sleep(pause);
        for (partition, offset) in taken_over(&process) {
            let resumed = stored.get(&partition).map_or(0, |(_, resumed): &(i64, i64)| *resumed);
            assert_eq!(offset, resumed, "partition {partition} after {ends:?}:\n{}", process.log());
        }
        process.kill();
        stored = bench.stored();
        below.push((stored.clone(), num_alerts_below(&bench.alerts(), &stored)));
        ends.push((pause, stored.values().map(|(published, _)| published).sum::<i64>()));
    }
    assert!(ends.is_sorted_by_key(|(_, published)| *published), "progress went back: {ends:?}");
    assert!(ends[0].1 < 12_000 && ends[3].1 > 0, "the kills came too late or too early to tell anything: {ends:?}");
    bench.run(&bench.file());
    log.check_all(bench, true);
    // I5: what a sink had below a manifest's position did not come again, though the archive had reading go further back.
    assert!(
        below.iter().any(|(stored, _)| stored.values().any(|(published, resumed)| resumed < published)),
        "{below:?}"
    );
    let alerts = bench.alerts();
    for (stored, num_alerts) in below {
        assert_eq!(num_alerts_below(&alerts, &stored), num_alerts, "alerts below {stored:?} came again");
    }
}

#[test]
fn after_kills_at_random_moments_the_archive_on_disk_holds_each_row_once_and_no_alert_is_missing() {
    is_killed_again_and_again(&Bench::new(3), 1);
}

#[test]
fn after_kills_at_random_moments_the_archive_on_s3_holds_each_row_once_and_no_alert_is_missing() {
    is_killed_again_and_again(&Bench::on_s3(3), 2);
}
