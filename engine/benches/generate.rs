//! The simulator to Parquet, as `tidemill generate --parquet` writes it: rows per second on two threads, of the default world with
//! more events. `--days N` makes it longer or shorter.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, takes the time, and may fail loudly"
)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tidemill::source::generator::{DAY_MS, GeneratorSettings, write_parquet};

#[path = "common/report.rs"]
mod report;

use report::{Goals, argument, median};

/// 2026-01-01 UTC, milliseconds.
const FROM_MS: i64 = 1_767_225_600_000;
/// About four million events a day.
const EVENTS_PER_SECOND: f64 = 50.0;
const THREADS: usize = 2;
const TURNS: usize = 3;

fn main() -> ExitCode {
    let days = i64::try_from(argument("--days", 1)).unwrap().max(1);
    let mut goals = Goals::begin("simulated card transactions to parquet, on two threads");
    let settings = GeneratorSettings::default().with_events_per_second(EVENTS_PER_SECOND);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-generate.parquet");
    let mut rates = Vec::new();
    for turn in 1..=TURNS {
        // Of a run that was stopped in the middle; a name that is taken is refused.
        drop(std::fs::remove_file(&file));
        let started = Instant::now();
        let summary = write_parquet(settings.clone(), FROM_MS..FROM_MS + days * DAY_MS, &file, THREADS).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        rates.push(summary.rows as f64 / seconds);
        println!("    turn {turn}: {} rows, {:.1} MB, {seconds:.2} s", summary.rows, summary.bytes as f64 / 1e6);
        assert!(summary.rows > 1_000_000 && summary.frauds() > 0, "{summary:?}");
    }
    drop(std::fs::remove_file(&file));
    goals.goal("rows written", median(rates), 1e6.., " a second");
    goals.end()
}
