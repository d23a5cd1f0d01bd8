//! The path from memory (decode, feature SQL, 200 trees, filter), without windows and with five, against the sum of its bare parts
//! in the same run: CPU time per row on one thread. `--rounds N` sets the number of turns.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::process::ExitCode;

#[path = "common/clock.rs"]
mod clock;
#[path = "common/operator.rs"]
mod operator;
#[path = "common/parts.rs"]
mod parts;
#[path = "common/report.rs"]
mod report;
#[path = "common/world.rs"]
mod world;

use parts::{Path, blocks};
use report::{Goals, argument, median};
use tidemill::runtime;
use world::{Features, World};

fn main() -> ExitCode {
    let rounds = usize::try_from(argument("--rounds", 15)).unwrap().max(1);
    let mut goals =
        Goals::begin("path from memory: simulated transactions, 200 trees x 31 leaves, without windows and with five");
    for (features, name) in [(Features::OfTheRow, "without windows"), (Features::WithWindows, "with five windows")] {
        println!("  {name}:");
        let world = World::new(features);
        let parts = parts::measure(&world, rounds);
        parts::print(&parts);
        for rows in [1, 10, 100] {
            let [decode, graph] = epoch_micros(&world, rows, 3_000);
            println!("    a micro-batch of {rows}: decode {decode:.1} + features, score and filter {graph:.1} us");
        }
        goals.goal(&format!("path / sum of the bare parts, {name}"), parts.path() / parts.bare(), ..=1.5, "");
    }
    goals.end()
}

/// CPU time, in microseconds, of decode and of the graph for one micro-batch of `rows`: what each epoch costs however few its
/// rows are.
fn epoch_micros(world: &World, rows: usize, turns: usize) -> [f64; 2] {
    let pipeline = world.pipeline();
    let io = runtime::tasks::io_runtime().unwrap();
    let (plan, _) = runtime::compile(&pipeline, &world.environment, io.handle()).unwrap();
    let mut path = Path::new(&pipeline, &plan);
    let mut times: [Vec<f64>; 2] = Default::default();
    for block in blocks(rows, turns) {
        times.iter_mut().zip(path.run(&block)).for_each(|(times, nanos)| times.push(nanos * rows as f64 / 1e3));
    }
    times.map(median)
}
