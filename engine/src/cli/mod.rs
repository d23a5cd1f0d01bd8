//! The command line: one file per command. The only place that reads the environment and writes to standard output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::observe::logging::{self, LogFormat};
use crate::pipeline::settings::Pipeline;

mod bootstrap;
mod check;
mod checkpoint;
mod demo;
mod drift;
mod explain;
mod generate;
mod model;
mod preview;
mod replay;
mod run;
mod schema;
mod state_tables;
mod test;
mod train;
#[cfg(feature = "lightgbm")]
mod train_registry;

/// SQL feature queries and a machine-learned score over Kafka.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 120)]
struct Arguments {
    /// How log lines on standard error look; text on a terminal, JSON elsewhere.
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    /// What is logged, as in RUST_LOG: `info`, `debug`, `tidemill=debug,warn`.
    #[arg(long, global = true, env = "RUST_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline on live input.
    Run(run::RunArguments),
    /// Load the first state of a pipeline from stored history, before its first run.
    Bootstrap(bootstrap::BootstrapArguments),
    /// Check a pipeline file and its SQL, without connecting to anything.
    Check(check::CheckArguments),
    /// Show how a pipeline will run: sources, segments, operators, kernels, state, sinks.
    Explain(explain::ExplainArguments),
    /// Look into a checkpoint: what is there, one manifest, the difference of two.
    Checkpoint(checkpoint::CheckpointArguments),
    /// Make simulated card transactions.
    Generate(generate::GenerateArguments),
    /// Train a model on stored history, on the features of the pipeline's own SQL.
    Train(train::TrainArguments),
    /// Hold what a pipeline makes of a stored period against what its models were trained on. Ends with 0 when there is drift
    /// and somebody should act, with 99 when there is none.
    Drift(drift::DriftArguments),
    /// Models in the registry: list, show, register, gate, promote, roll back.
    Model(model::ModelArguments),
    /// Show the main job with everything embedded: broker, transactions, model, alerts.
    Demo(demo::DemoArguments),
    /// Run a pipeline over stored rows, and write what its sinks would get. The checks of the pipeline file are applied, as in a
    /// run, except to an archive of accepted rows.
    Replay(replay::ReplayArguments),
    /// Show what the views make of some live records; writes nothing.
    Preview(preview::PreviewArguments),
    /// Run the cases beside pipeline files: small inputs and the rows that they must become.
    Test(test::TestArguments),
    /// Print the JSON Schema of pipeline files, for editors.
    Schema(schema::SchemaArguments),
}

/// The environment, read once.
pub(crate) type Environment = BTreeMap<String, String>;

/// Reads the command line, runs a command, reports its error.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let default_format =
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) { LogFormat::Text } else { LogFormat::Json };
    logging::start(
        arguments.log_format.unwrap_or(default_format),
        arguments.log.as_deref().or(arguments.command.default_log()),
    );
    let environment: Environment = std::env::vars().collect();
    match arguments.command.run(&environment) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => fail(&error),
    }
}

impl Command {
    /// Commands that talk to a person are quiet unless asked.
    fn default_log(&self) -> Option<&'static str> {
        match self {
            Command::Run(_) => None,
            Command::Check(_)
            | Command::Explain(_)
            | Command::Bootstrap(_)
            | Command::Replay(_)
            | Command::Preview(_)
            | Command::Test(_)
            | Command::Schema(_)
            | Command::Generate(_)
            | Command::Train(_)
            | Command::Drift(_)
            | Command::Model(_)
            | Command::Demo(_)
            | Command::Checkpoint(_) => Some("warn"),
        }
    }

    fn run(self, environment: &Environment) -> Result<Outcome> {
        let done = match self {
            Command::Drift(arguments) => return drift::run(&arguments, environment),
            Command::Model(arguments) => return model::run(&arguments, environment),
            Command::Run(arguments) => run::run(&arguments, environment),
            Command::Bootstrap(arguments) => bootstrap::run(&arguments, environment),
            Command::Check(arguments) => check::run(&arguments, environment),
            Command::Explain(arguments) => explain::run(&arguments, environment),
            Command::Replay(arguments) => replay::run(&arguments, environment),
            Command::Preview(arguments) => preview::run(&arguments, environment),
            Command::Test(arguments) => test::run(&arguments, environment),
            Command::Schema(arguments) => schema::run(&arguments),
            Command::Checkpoint(arguments) => checkpoint::run(&arguments, environment),
            Command::Generate(arguments) => generate::run(&arguments, environment),
            Command::Train(arguments) => train::run(&arguments, environment),
            Command::Demo(arguments) => demo::run(&arguments, environment),
        };
        done.map(|()| Outcome::Done)
    }
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what it was asked for.
    Done,
    /// There was nothing to do, or the answer is no.
    NothingToDo,
}

impl Outcome {
    /// What an orchestrator acts on.
    fn exit_code(self) -> ExitCode {
        match self {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::NothingToDo => ExitCode::from(99),
        }
    }
}

/// Gives a command's result to a machine: as the last line of standard output, into a file, or both.
pub(crate) fn give_result(result: &serde_json::Value, as_line: bool, file: Option<&Path>) -> Result<()> {
    if let Some(file) = file {
        let unavailable = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be written", file.display())).with_source(error)
        };
        // Whoever waits for the file never sees a part of it.
        let partial = file.with_file_name(format!(".{}.partial", file.file_name().unwrap_or_default().display()));
        std::fs::write(&partial, format!("{result}\n")).map_err(unavailable)?;
        std::fs::rename(&partial, file).map_err(unavailable)?;
    }
    if as_line {
        print(&result.to_string());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the last word to a person at the command line")]
fn fail(error: &Error) -> ExitCode {
    eprintln!("error ({}): {error}", error.kind());
    ExitCode::from(error.kind().exit_code())
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// Reads and validates a pipeline file.
pub(crate) fn load(file: &Path, environment: &Environment) -> Result<Pipeline> {
    Pipeline::load(file, &|name| environment.get(name).cloned()).map_err(Error::from)
}

/// A pipeline file on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct PipelineFile {
    /// The pipeline file.
    pub(crate) file: PathBuf,
}
