//! The `tidemill` binary: reads the command line and the environment, runs one command, and turns its error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::cli::main()
}
