//! What exact sums cost a row: a value enters, another leaves, and the result is read. Medians of CPU time, in one run.
//!
//! Run it with `cargo bench -p tidemill-udfs --bench exact`; it fails if a goal is missed, unless `--no-fail` is given.

#![expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]

#[path = "common/clock.rs"]
mod clock;

use std::hint::black_box;

use clock::cpu_time;
use tidemill_udfs::exact::{ExactMoments, ExactSum};

/// Turns per figure.
const TURNS: usize = 9;

/// Rows of a turn.
const TURN_ROWS: usize = 200_000;

/// Rows in a window.
const WINDOW: usize = 1000;

/// States of the benchmark in which each row meets another key.
const STATES: usize = 1 << 20;

/// Nanoseconds a row for the sum of amounts: add, remove, value.
const SUM_NANOS_MAX: f64 = 25.0;

fn main() {
    println!(
        "| states of | rows | add and remove | with the sum | with the mean | with the variance | merge | write bytes | read them |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let amounts = amounts();
    let mut spread = amounts.clone();
    spread.iter_mut().step_by(WINDOW / 2).for_each(|value| *value = 1e300);
    let mut with_nan = amounts.clone();
    with_nan.iter_mut().step_by(WINDOW / 2).for_each(|value| *value = f64::NAN);
    let sum = sums("sum, amounts", &amounts);
    sums("sum, 1e300 among them", &spread);
    sums("sum, NaN among them", &with_nan);
    moments("moments, amounts", &amounts);
    moments("moments, 1e300 among them", &spread);
    moments("moments, NaN among them", &with_nan);
    many_keys(&amounts);
    println!("\nsum of amounts: {sum:.1} ns a row; goal: at most {SUM_NANOS_MAX}");
    if sum > SUM_NANOS_MAX && !std::env::args().any(|argument| argument == "--no-fail") {
        println!("goal missed");
        std::process::exit(1);
    }
}

/// Cents from a generator of its own, so that every run has the same.
fn amounts() -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let amount = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 1_000_000) as f64 / 100.0
    };
    (0..16 * WINDOW).map(amount).collect()
}

/// Nanoseconds a row of sliding over the values.
fn slide(values: &[f64], mut row: impl FnMut(f64, f64)) -> f64 {
    let mut at = 0;
    median(|| {
        for _ in 0..TURN_ROWS {
            let enters = at + WINDOW;
            row(values[if enters < values.len() { enters } else { enters - values.len() }], values[at]);
            at = if at + 1 < values.len() { at + 1 } else { 0 };
        }
    })
}

/// The median, over the turns, of nanoseconds a row.
fn median(mut turn: impl FnMut()) -> f64 {
    let mut nanos: Vec<f64> = (0..TURNS)
        .map(|_| {
            let start = cpu_time();
            turn();
            (cpu_time() - start).as_secs_f64() * 1e9 / TURN_ROWS as f64
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    nanos[TURNS / 2]
}

/// Prints a line of the table; returns the nanoseconds of add, remove and value.
fn sums(name: &str, values: &[f64]) -> f64 {
    let mut sum = ExactSum::new();
    values[..WINDOW].iter().for_each(|value| sum.add(*value));
    let slide = |read: &dyn Fn(&ExactSum)| {
        let mut sum = sum.clone();
        slide(values, |enters, leaves| {
            sum.add(enters);
            sum.remove(leaves);
            read(&sum);
        })
    };
    let bare = slide(&|sum| {
        black_box(sum);
    });
    let value = slide(&|sum| {
        black_box(sum.value());
    });
    let mean = slide(&|sum| {
        black_box(sum.mean(WINDOW as u64));
    });
    let parts: Vec<ExactSum> = values.chunks(8).map(|chunk| added(ExactSum::new(), chunk, ExactSum::add)).collect();
    let merge = median(|| {
        let mut whole = ExactSum::new();
        (0..TURN_ROWS).for_each(|at| whole.merge(&parts[at % parts.len()]));
        black_box(&whole);
    });
    let bytes = median(|| {
        (0..TURN_ROWS).for_each(|at| {
            black_box(parts[at % parts.len()].to_bytes());
        });
    });
    let stored: Vec<Vec<u8>> = parts.iter().map(ExactSum::to_bytes).collect();
    let read = median(|| {
        (0..TURN_ROWS).for_each(|at| {
            black_box(ExactSum::from_bytes(&stored[at % stored.len()]).is_ok());
        });
    });
    println!("| {name} | {WINDOW} | {bare:.1} | {value:.1} | {mean:.1} | | {merge:.1} | {bytes:.1} | {read:.1} |");
    value
}

fn moments(name: &str, values: &[f64]) {
    let moments = added(ExactMoments::new(), &values[..WINDOW], ExactMoments::add);
    let slide = |read: &dyn Fn(&ExactMoments)| {
        let mut moments = moments.clone();
        slide(values, |enters, leaves| {
            moments.add(enters);
            moments.remove(leaves);
            read(&moments);
        })
    };
    let bare = slide(&|moments| {
        black_box(moments);
    });
    let sum = slide(&|moments| {
        black_box(moments.sum());
    });
    let mean = slide(&|moments| {
        black_box(moments.mean());
    });
    let variance = slide(&|moments| {
        black_box(moments.var(1));
    });
    let parts: Vec<ExactMoments> =
        values.chunks(8).map(|chunk| added(ExactMoments::new(), chunk, ExactMoments::add)).collect();
    let merge = median(|| {
        let mut whole = ExactMoments::new();
        (0..TURN_ROWS).for_each(|at| whole.merge(&parts[at % parts.len()]));
        black_box(&whole);
    });
    let bytes = median(|| {
        (0..TURN_ROWS).for_each(|at| {
            black_box(parts[at % parts.len()].to_bytes());
        });
    });
    let stored: Vec<Vec<u8>> = parts.iter().map(ExactMoments::to_bytes).collect();
    let read = median(|| {
        (0..TURN_ROWS).for_each(|at| {
            black_box(ExactMoments::from_bytes(&stored[at % stored.len()]).is_ok());
        });
    });
    println!(
        "| {name} | {WINDOW} | {bare:.1} | {sum:.1} | {mean:.1} | {variance:.1} | {merge:.1} | {bytes:.1} | {read:.1} |"
    );
}

/// Each row meets another state, as with many keys: the time is memory's.
fn many_keys(values: &[f64]) {
    let mut sums = vec![ExactSum::new(); STATES];
    let mut row = 0_usize;
    let nanos = median(|| {
        for _ in 0..TURN_ROWS {
            let sum = &mut sums[row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44];
            sum.add(values[row % values.len()]);
            sum.add(values[(row + 1) % values.len()]);
            sum.remove(values[row % values.len()]);
            black_box(sum.value());
            row += 1;
        }
    });
    println!("| sum, another of {STATES} states each row | 2 | | {nanos:.1} | | | | | |");
}

fn added<T>(mut totals: T, values: &[f64], add: fn(&mut T, f64)) -> T {
    values.iter().for_each(|value| add(&mut totals, *value));
    totals
}
