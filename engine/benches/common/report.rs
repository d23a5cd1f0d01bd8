//! What every benchmark here shares: its arguments, medians, and goals that make it fail when one is missed
//! (unless `--no-fail` is given). It prints; it measures nothing by itself.

use std::ops::{Bound, RangeBounds};
use std::process::ExitCode;

/// The value in the middle; `NaN` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The number after `--name` on the command line, or a default.
pub(crate) fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args();
    match arguments.find(|argument| argument == name) {
        Some(_) => {
            arguments.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} takes a number"))
        }
        None => default,
    }
}

/// The goals of a benchmark, as they are met or missed.
#[derive(Debug, Default)]
pub(crate) struct Goals {
    missed: Vec<String>,
}

impl Goals {
    /// Says what is measured, in what build and beside what load.
    pub(crate) fn begin(title: &str) -> Goals {
        let build =
            if cfg!(debug_assertions) { "dev profile: not the figures of a release build" } else { "optimised build" };
        println!("{title}\n  {build}; load {}; nothing else but ratios within this run counts", load());
        Goals::default()
    }

    /// A figure and where it must be: at most, `..=1.5`, or at least, `1e6..`.
    pub(crate) fn goal(&mut self, what: &str, figure: f64, wanted: impl RangeBounds<f64>, unit: &str) {
        let wanted_text = match (wanted.start_bound(), wanted.end_bound()) {
            (Bound::Unbounded, Bound::Included(most)) => format!("at most {most}{unit}"),
            (Bound::Included(least), Bound::Unbounded) => format!("at least {least}{unit}"),
            _ => panic!("a goal has one bound, which meets it"),
        };
        let is_met = wanted.contains(&figure);
        let verdict = if is_met { "met" } else { "MISSED" };
        println!("  {what}: {figure:.2}{unit}; goal: {wanted_text}: {verdict}");
        if !is_met {
            self.missed.push(format!("{what}: {figure:.2}{unit}, {wanted_text} wanted"));
        }
    }

    /// The benchmark's exit code.
    pub(crate) fn end(self) -> ExitCode {
        println!("  load at the end: {}", load());
        let tolerates = std::env::args().any(|argument| argument == "--no-fail");
        if self.missed.is_empty() || tolerates { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Processes that wanted a core, on average over the last minute.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{} on {cores} cores", load.split(' ').next().unwrap_or("unknown"))
}
