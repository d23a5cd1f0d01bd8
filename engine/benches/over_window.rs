//! The over-window alone, from memory: CPU time per row on one thread for five features (count, sum and max over a day,
//! average of six rows, lag), with few keys and many, in order, in heavy disorder (events stamped -5 to +50 minutes
//! around now) and with a hot key; bytes per key; one-row batches. `--keys N` sets the many.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, UInt32Array};
use tidemill::operator::over_window::{OverWindow, WindowInput};
use tidemill::types::{Assignment, Hidden};

#[path = "common/clock.rs"]
mod clock;
#[path = "common/operator.rs"]
mod operator;
#[path = "common/report.rs"]
mod report;

use operator::{DAY, LATENESS, SECOND, five_windows};
use report::{Goals, argument, median};

const ROWS_PER_KEY: u64 = 8;
const BATCH_ROWS: usize = 8192;

fn main() -> ExitCode {
    let many = argument("--keys", 10_000_000);
    let mut goals = Goals::begin("over-window: five features, one thread");
    let in_order = measure("100 000 keys in order", 100_000, Stream::default(), 4_000_000);
    goals.goal("100 000 keys in order", in_order.nanos, ..=500.0, " ns a row");
    goals.goal("state at 8 retained rows", in_order.bytes_per_key, ..=400.0, " bytes a key");
    let disorder = Stream { is_disordered: true, ..Stream::default() };
    let hot = Stream { is_hot: true, ..Stream::default() };
    let both = Stream { is_disordered: true, is_hot: true };
    for (name, stream) in [("heavy disorder", disorder), ("hot key", hot), ("hot key in heavy disorder", both)] {
        let figures = measure(name, 100_000, stream, 4_000_000);
        goals.goal(&format!("{name} / in order"), figures.nanos / in_order.nanos, ..=3.0, "");
    }
    let one = measure("one key of 100 000 rows", 1, Stream::default(), 1_000_000);
    goals.goal("one-row batch, one key", one.one_row_micros, ..=20.0, " us");
    let figures = measure("many keys in order", many, Stream::default(), 4_000_000);
    goals.goal(&format!("{many} keys in order"), figures.nanos, ..=1_000.0, " ns a row");
    goals.goal(&format!("one-row batch, {many} keys"), figures.one_row_micros, ..=20.0, " us");
    goals.end()
}

struct Figures {
    nanos: f64,
    bytes_per_key: f64,
    one_row_micros: f64,
}

/// Fills the state with the rows that frames and lateness hold, then measures.
fn measure(name: &str, keys: u64, stream: Stream, rows: usize) -> Figures {
    let rows_held = if keys == 1 { 100_000 } else { keys * ROWS_PER_KEY };
    let mut rows_made = Rows::new(stream, keys, (DAY + LATENESS) * 1_000 / i64::try_from(rows_held).unwrap());
    let mut operator = OverWindow::new(&five_windows(Duration::from_micros(DAY.unsigned_abs()))).unwrap();
    let unit = Assignment(0);
    operator.add_unit(unit, None).unwrap();
    while rows_made.made < rows_held {
        rows_made.process(&mut operator, BATCH_ROWS);
    }
    let turns = rows / BATCH_ROWS;
    let nanos = (0..turns).map(|_| rows_made.process(&mut operator, BATCH_ROWS)).sum::<f64>() / turns as f64;
    let one_row = median((0..20_000).map(|_| rows_made.process(&mut operator, 1) / 1e3).collect());
    let bytes_per_key = operator.bytes(unit) as f64 / operator.num_keys(unit) as f64;
    println!(
        "    {name}: {nanos:.0} ns a row, {:.2} million rows/s; {bytes_per_key:.0} bytes a key; one row {one_row:.1} us",
        1e3 / nanos
    );
    Figures { nanos, bytes_per_key, one_row_micros: one_row }
}

/// How rows come.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Stamped -5 to +50 minutes around now.
    is_disordered: bool,
    /// One row in a hundred is of the same key.
    is_hot: bool,
}

/// Rows that look random and are the same on every run.
struct Rows {
    stream: Stream,
    keys: u64,
    nanos_between: i64,
    random: u64,
    made: u64,
    w: Option<i64>,
}

impl Rows {
    fn new(stream: Stream, keys: u64, nanos_between: i64) -> Rows {
        Rows { stream, keys, nanos_between, random: 88_172_645_463_325_252, made: 0, w: None }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) * end) >> 32
    }

    fn key(&mut self) -> u64 {
        // At first each key once, so that all of them are there.
        if self.made < self.keys {
            return self.made;
        }
        if self.stream.is_hot && self.below(100) == 0 { 0 } else { self.below(self.keys) }
    }

    /// Makes a batch and has it answered. CPU time of the answer, in nanoseconds a row.
    fn process(&mut self, operator: &mut OverWindow, rows: usize) -> f64 {
        let (mut keys, mut amounts, mut times, mut w, mut offsets) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..rows {
            let now = DAY * 20_000 + i64::try_from(self.made).unwrap() * self.nanos_between / 1_000;
            let shift =
                if self.stream.is_disordered { self.below(3_300_000_000).cast_signed() - 300 * SECOND } else { 0 };
            let time = now + shift;
            keys.push(self.key().cast_signed() * 7_919);
            amounts.push(self.below(1_000_000) as f64 / 100.0);
            times.push(time);
            w.push(self.w);
            offsets.push(self.made.cast_signed());
            self.w = self.w.max(Some(time));
            self.made += 1;
        }
        let keys: ArrayRef = Arc::new(Int64Array::from(keys));
        let amounts: ArrayRef = Arc::new(Float64Array::from(amounts));
        let (zeros, times, offsets) =
            (UInt32Array::from(vec![0; rows]), Int64Array::from(times), Int64Array::from(offsets));
        let (w, none) = (Int64Array::from(w), Int64Array::from(vec![-1; rows]));
        let hidden =
            Hidden { unit: &zeros, offset: &offsets, ordinal: &zeros, event_time: &times, w: &w, broker_time: &none };
        let input = WindowInput {
            keys: std::slice::from_ref(&keys),
            arguments: std::slice::from_ref(&amounts),
            filters: &[],
            hidden,
        };
        clock::nanos_a_row(clock::THREAD, rows, || {
            black_box(operator.process(&input).unwrap());
        })
    }
}
