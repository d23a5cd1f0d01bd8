//! `tidemill run`: a pipeline on live input, until its sources end or a signal asks for a graceful stop.

use std::sync::{Arc, OnceLock};

use super::{Environment, load};
use crate::error::{Error, Result};
use crate::pipeline::settings::Backfill;
use crate::runtime::{self, tasks};

#[derive(Debug, clap::Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pipeline: super::PipelineFile,
    /// Workers in this process, in place of the file's `run: { workers: ... }`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=256))]
    workers: Option<u64>,
    /// Rebuild the windows' state at this start, by reading the log from its oldest record; what sinks have is not given to
    /// them again. Without it a start is refused when the checkpoint has no state of some window.
    #[arg(long, value_enum)]
    backfill: Option<BackfillChoice>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BackfillChoice {
    /// Of partitions whose snapshot lacks the state of some window.
    Log,
    /// Of all partitions, as when files of state are damaged, or when records after the last snapshot are gone.
    LogAll,
}

pub(crate) fn run(arguments: &RunArguments, environment: &Environment) -> Result<()> {
    let mut pipeline = load(&arguments.pipeline.file, environment)?;
    if let Some(workers) = arguments.workers {
        pipeline.run.workers = usize::try_from(workers).unwrap_or(usize::MAX);
    }
    if let Some(choice) = arguments.backfill {
        let Some(checkpoint) = &mut pipeline.checkpoint else {
            return Err(Error::invalid(
                "`--backfill` rebuilds the state of a checkpoint, and this pipeline keeps none; without one every start begins \
                 without state: leave `--backfill` out, or add `checkpoint: { path: ... }`",
            ));
        };
        checkpoint.backfill = match choice {
            BackfillChoice::Log => Backfill::Missing,
            BackfillChoice::LogAll => Backfill::All,
        };
    }
    let stopper = Arc::new(OnceLock::new());
    stop_on_signals({
        let stopper = Arc::clone(&stopper);
        move || stop_or_exit(&stopper)
    })?;
    let handle = runtime::start(&pipeline, environment)?;
    stopper.get_or_init(|| Box::new(handle.stopper()));
    let summary = handle.join()?;
    let counts = summary.counts();
    tracing::info!(
        read = counts.read,
        decoded = counts.decoded,
        rejected = counts.rejected,
        late = counts.late,
        repeated = counts.repeated,
        stale = counts.stale,
        replayed = counts.replayed,
        "stopped"
    );
    Ok(())
}

type Stopper = Box<dyn Fn() + Send + Sync>;

/// Stops a run; while it is still starting (a model or a cluster may not answer) nothing was read, and the process may end.
fn stop_or_exit(stopper: &OnceLock<Stopper>) {
    match stopper.get() {
        Some(stop) => stop(),
        None => std::process::exit(0),
    }
}

/// SIGTERM or SIGINT: a graceful stop. A second signal: the process ends at once, and the next start recovers.
pub(crate) fn stop_on_signals(stop: impl Fn() + Send + 'static) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let unavailable = |error: std::io::Error| Error::internal("signals cannot be listened for").with_source(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate()).map_err(unavailable)?, signal(SignalKind::interrupt()).map_err(unavailable)?)
    };
    // Lives as long as the process: there is nothing to wait for.
    drop(tasks::spawn_thread("tidemill-signals", move || {
        runtime.block_on(async {
            for turn in 0.. {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                if turn > 0 {
                    tracing::warn!("second signal: ending at once; the next start recovers from the last manifest");
                    std::process::exit(130);
                }
                tracing::info!("signal received: draining");
                stop();
            }
        });
    })?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Arguments;

    #[test]
    fn workers_are_as_many_as_the_file_may_ask_for() {
        let parsed = |workers: &str| Arguments::try_parse_from(["tidemill", "run", "a.yaml", "--workers", workers]);
        for workers in ["1", "256"] {
            assert!(parsed(workers).is_ok(), "{workers}");
        }
        for workers in ["0", "257", "100000"] {
            assert!(parsed(workers).unwrap_err().to_string().contains("--workers"), "{workers}");
        }
    }
}
