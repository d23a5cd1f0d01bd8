//! How much faster than LightGBM's C API the scorer is: the goals, and what this machine does, in one run.
//!
//! Both score the same rows on one thread, in turns; the figures are medians of CPU time, so that a busy machine disturbs little. Every shape of model is checked to be bit-equal
//! first. Run it with `cargo bench -p tidemill-udfs --features lightgbm`; it fails if a goal is missed, unless `--no-fail` is given.

#![expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]

#[path = "common/clock.rs"]
mod clock;

use std::hint::black_box;

use clock::cpu_time;
use tidemill_udfs::oracle::{Oracle, Rows, Shape};
use tidemill_udfs::scorer::{Column, Model, Scratch};

/// Turns of each scorer per figure.
const TURNS: usize = 9;

/// A turn takes about this long.
const TURN_MICROS: f64 = 12_000.0;

struct Case {
    name: &'static str,
    shape: Shape,
    parameters: &'static str,
    trees: usize,
    /// Rows, and how many times faster at least.
    goals: &'static [(usize, f64)],
}

const PLAIN: Shape = Shape { num_features: 10, missing: 0.0, num_categorical: 0, num_classes: 2 };
const BATCH: &[(usize, f64)] = &[(8192, 10.0)];

const CASES: [Case; 9] = [
    Case {
        name: "200 trees x 31 leaves, 10 features",
        shape: PLAIN,
        parameters: "objective=binary num_leaves=31",
        trees: 200,
        goals: &[(1, 0.0), (2, 0.0), (4, 0.0), (8, 0.0), (10, 0.0), (100, 12.0), (1000, 20.0), (8192, 20.0)],
    },
    Case {
        name: "100 trees x 31",
        shape: PLAIN,
        parameters: "objective=binary num_leaves=31",
        trees: 100,
        goals: BATCH,
    },
    Case { name: "500 x 31", shape: PLAIN, parameters: "objective=binary num_leaves=31", trees: 500, goals: BATCH },
    Case { name: "1 000 x 63", shape: PLAIN, parameters: "objective=binary num_leaves=63", trees: 1000, goals: BATCH },
    Case {
        name: "300 trees of depth 5",
        shape: PLAIN,
        parameters: "objective=binary num_leaves=32 max_depth=5",
        trees: 300,
        goals: BATCH,
    },
    Case {
        name: "50 trees x 255",
        shape: PLAIN,
        parameters: "objective=binary num_leaves=255",
        trees: 50,
        goals: BATCH,
    },
    Case {
        name: "50 features",
        shape: Shape { num_features: 50, ..PLAIN },
        parameters: "objective=binary num_leaves=31",
        trees: 200,
        goals: BATCH,
    },
    Case {
        name: "with NaN",
        shape: Shape { missing: 0.1, ..PLAIN },
        parameters: "objective=binary num_leaves=31",
        trees: 200,
        goals: BATCH,
    },
    Case {
        name: "categorical splits",
        shape: Shape { num_categorical: 3, ..PLAIN },
        parameters: "objective=binary num_leaves=31 categorical_feature=0,1,2",
        trees: 200,
        goals: BATCH,
    },
];

const CLASSES: Case = Case {
    name: "3 classes (67 trees each)",
    shape: Shape { num_classes: 3, ..PLAIN },
    parameters: "objective=multiclass num_class=3 num_leaves=31",
    trees: 67,
    goals: BATCH,
};

/// One row of the main model must not take longer than this.
const ONE_ROW_MICROS_MAX: f64 = 4.0;

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    println!("| model | rows | LightGBM, us a row | tidemill, us a row | ratio | goal | |");
    println!("|---|---|---|---|---|---|---|");
    let mut missed = 0;
    for case in CASES.iter().chain([&CLASSES]) {
        if only.as_ref().is_none_or(|word| case.name.contains(word)) {
            missed += run(case);
        }
    }
    if missed > 0 && !std::env::args().any(|argument| argument == "--no-fail") {
        println!("{missed} goals missed");
        std::process::exit(1);
    }
}

fn run(case: &Case) -> usize {
    let training = Rows::make_up(case.shape, 40_000, 1);
    let text = Oracle::train(&training, case.parameters, case.trees).expect("LightGBM trains");
    let oracle = Oracle::load(&text).expect("LightGBM loads its own model");
    let model = Model::parse(&text).expect("the model is understood");
    let rows = Rows::make_up(case.shape, 32_768, 2);
    assert_equal(&oracle, &model, &rows);
    let mut missed = 0;
    for (num_rows, goal) in case.goals {
        let (theirs, ours, fast) = measure(&oracle, &model, &rows, *num_rows);
        let ratio = theirs / ours;
        let met = ratio >= *goal;
        let goal_text = if *goal > 0.0 { format!("{goal}x") } else { String::new() };
        let mark = if !met {
            "MISSED"
        } else if *goal > 0.0 {
            "met"
        } else {
            ""
        };
        println!("| {} | {num_rows} | {theirs:.3} | {ours:.3} | {ratio:.1}x | {goal_text} | {mark} |", case.name);
        missed += usize::from(!met);
        if *num_rows == 1 {
            let met = ours <= ONE_ROW_MICROS_MAX;
            let mark = if met { "met" } else { "MISSED" };
            println!(
                "| its single-row fast path | 1 | {fast:.3} | {ours:.3} | {:.1}x | {ONE_ROW_MICROS_MAX} us | {mark} |",
                fast / ours
            );
            missed += usize::from(!met);
        }
    }
    missed
}

fn assert_equal(oracle: &Oracle, model: &Model, rows: &Rows) {
    let columns = rows.columns();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut expected = vec![0.0; rows.num_rows() * oracle.num_outputs()];
    let mut found = expected.clone();
    oracle.predict(&rows.values, &mut expected);
    model.score(&columns, &mut found, &mut Scratch::default());
    let differ = expected.iter().zip(&found).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(differ, 0, "scores that differ from LightGBM's");
}

/// Microseconds a row: LightGBM's, ours, and LightGBM's single-row fast path.
fn measure(oracle: &Oracle, model: &Model, rows: &Rows, num_rows: usize) -> (f64, f64, f64) {
    let num_features = rows.num_features;
    let num_batches = rows.num_rows() / num_rows;
    let batches: Vec<&[f64]> = rows.values.chunks_exact(num_rows * num_features).collect();
    let columns = rows.columns();
    let mut scores = vec![0.0; num_rows * oracle.num_outputs()];
    let mut scratch = Scratch::default();
    let mut batch_columns: Vec<Column<'_>> = Vec::new();
    let single = oracle.single_row();
    let (mut theirs, mut ours, mut fast) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = (0..num_batches).cycle();
    for _ in 0..TURNS {
        let mut batch = || next.next().unwrap_or(0);
        theirs.push(turn(num_rows, || {
            oracle.predict(batches[batch()], &mut scores);
            black_box(&scores);
        }));
        ours.push(turn(num_rows, || {
            let at = batch() * num_rows;
            batch_columns.clear();
            batch_columns.extend(columns.iter().map(|column| Column::from(&column[at..at + num_rows])));
            model.score(&batch_columns, &mut scores, &mut scratch);
            black_box(&scores);
        }));
        if num_rows == 1 {
            fast.push(turn(1, || {
                single.predict(batches[batch()], &mut scores);
                black_box(&scores);
            }));
        }
    }
    (median(theirs), median(ours), if fast.is_empty() { 0.0 } else { median(fast) })
}

/// Microseconds a row, over a turn of many calls.
fn turn(num_rows: usize, mut call: impl FnMut()) -> f64 {
    let start = cpu_time();
    let mut calls = 0_usize;
    loop {
        for _ in 0..(256 / num_rows).max(1) {
            call();
            calls += 1;
        }
        let micros = (cpu_time() - start).as_secs_f64() * 1e6;
        if micros >= TURN_MICROS {
            return micros / (calls * num_rows) as f64;
        }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
