//! The stateless path from memory (decode, feature SQL, 200 trees, filter) against the sum of its bare parts in the same run:
//! CPU time per row on one thread. `--rounds N` sets the number of turns.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::process::ExitCode;

#[path = "common/clock.rs"]
mod clock;
#[path = "common/parts.rs"]
mod parts;
#[path = "common/report.rs"]
mod report;
#[path = "common/world.rs"]
mod world;

use report::{Goals, argument};

fn main() -> ExitCode {
    let rounds = usize::try_from(argument("--rounds", 15)).unwrap().max(1);
    let mut goals = Goals::begin("stateless path from memory: simulated transactions, pipelines/fraud.yaml, 200 trees x 31 leaves");
    let parts = parts::measure(&world::environment(), rounds);
    parts::print(&parts);
    println!("    {:.0} rows per CPU second", 1e9 / parts.path());
    goals.at_most("path / sum of the bare parts", parts.path() / parts.bare(), 1.5, "");
    goals.end()
}
