//! What the reasons of an alert cost: microseconds per explained row, next to `pred_contrib` of LightGBM's C API on the same rows,
//! on one thread and in turns, as medians of CPU time. The contributions are held against each other first. Run it with
//! `cargo bench -p tidemill-udfs --features lightgbm --bench explain`; it fails if a goal is missed, unless `--no-fail` is given.

#![expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]

#[path = "common/clock.rs"]
mod clock;

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use clock::cpu_time;
use tidemill_udfs::functions::{REASONS, explain_arrays};
use tidemill_udfs::oracle::{Oracle, Rows, Shape};
use tidemill_udfs::scorer::{ExplainScratch, Model};

const TURNS: usize = 7;
const ROWS: usize = 200;

const PLAIN: Shape = Shape { num_features: 36, missing: 0.1, num_categorical: 0, num_classes: 2 };

/// Model, shape of the rows, parameters, trees, how many times faster at least.
const CASES: [(&str, Shape, &str, usize, f64); 4] = [
    ("200 trees x 31 leaves, 36 features", PLAIN, "objective=binary num_leaves=31", 200, 4.0),
    ("500 x 31", PLAIN, "objective=binary num_leaves=31", 500, 4.0),
    ("100 x 63, depth at most 8", PLAIN, "objective=binary num_leaves=63 max_depth=8", 100, 4.0),
    (
        "categorical splits",
        Shape { num_categorical: 3, ..PLAIN },
        "objective=binary num_leaves=31 categorical_feature=0,1,2",
        200,
        4.0,
    ),
];

fn main() {
    println!("| model | LightGBM, us a row | tidemill, us a row | as JSON, us a row | ratio | goal |");
    println!("|---|---|---|---|---|---|");
    let missed = CASES.iter().filter(|case| !run(case)).count();
    if missed > 0 && !std::env::args().any(|argument| argument == "--no-fail") {
        println!("{missed} goals missed");
        std::process::exit(1);
    }
}

fn run((name, shape, parameters, trees, goal): &(&str, Shape, &str, usize, f64)) -> bool {
    let text = Oracle::train(&Rows::make_up(*shape, 20_000, 1), parameters, *trees).expect("LightGBM trains");
    let (oracle, model) = (Oracle::load(&text).expect("LightGBM loads"), Model::parse(&text).expect("we load"));
    let explainer = model.explainer().expect("the model has counts");
    let rows = Rows::make_up(*shape, ROWS, 2);
    let per_row = explainer.num_contributions();
    let (mut expected, mut found) = (vec![0.0; ROWS * per_row], vec![0.0; ROWS * per_row]);
    let mut scratch = ExplainScratch::default();
    let columns: Vec<ArrayRef> =
        rows.columns().into_iter().map(|column| Arc::new(Float64Array::from(column)) as ArrayRef).collect();
    let (mut theirs, mut ours, mut as_json) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        theirs.push(micros(|| oracle.contributions(&rows.values, &mut expected)));
        ours.push(micros(|| {
            for (row, found) in rows.values.chunks(shape.num_features).zip(found.chunks_mut(per_row)) {
                explainer.contributions(row, found, &mut scratch);
            }
        }));
        as_json.push(micros(|| {
            black_box(explain_arrays(&model, &columns, ROWS, REASONS).expect("rows are explained"));
        }));
    }
    let worst = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
    assert!(worst <= 1e-9, "{name}: a contribution differs by {worst:e}");
    let (theirs, ours, as_json) = (median(theirs), median(ours), median(as_json));
    let ratio = theirs / ours;
    println!("| {name} | {theirs:.0} | {ours:.0} | {as_json:.0} | {ratio:.1} | {goal:.0} |");
    ratio >= *goal
}

fn micros(mut call: impl FnMut()) -> f64 {
    let start = cpu_time();
    call();
    (cpu_time() - start).as_secs_f64() * 1e6 / ROWS as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
