//! Logs: JSON lines on standard error, or plain text where a person watches. Logged where handled, once, with fields;
//! never the content of a record.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a terminal.
    Text,
}

/// Starts logging. `filter` is as in `RUST_LOG`; a filter that cannot be read falls back to `info` and says so.
pub fn start(format: LogFormat, filter: Option<&str>) {
    let chosen = filter.unwrap_or("info");
    let (filter, problem) = match EnvFilter::try_new(chosen) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    };
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (tests) keeps the first one's subscriber.
    let started = match format {
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Text => registry.with(fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init(),
    };
    if let (Ok(()), Some(problem)) = (started, problem) {
        tracing::warn!(problem, "the log filter cannot be read; logging at info");
    }
}
