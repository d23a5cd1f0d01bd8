//! `tidemill preview`: some live records through a pipeline's views, as tables. Joins no group, commits nothing, writes nothing.

use std::time::Duration;

use arrow::util::pretty::pretty_format_batches;

use super::replay::rejections;
use super::{Environment, PipelineFile, load, print};
use crate::error::{Error, Result};
use crate::pipeline::parse_duration;
use crate::replay::{PreviewSettings, preview};

#[derive(Debug, clap::Args)]
pub(crate) struct PreviewArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Rows of each table.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rows: u64,
    /// A view, sink or source; may be given several times. The last view when it is not given.
    #[arg(long = "view", value_name = "NAME")]
    views: Vec<String>,
    /// Longest wait for rows, such as 10s.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Read topics from where the pipeline's `start` says, and not from near their end.
    #[arg(long)]
    from_start: bool,
}

pub(crate) fn run(arguments: &PreviewArguments, environment: &Environment) -> Result<()> {
    let pipeline = load(&arguments.pipeline.file, environment)?;
    let settings = PreviewSettings {
        num_rows: usize::try_from(arguments.rows).unwrap_or(usize::MAX),
        tables: arguments.views.clone(),
        timeout: arguments.timeout,
        from_start: arguments.from_start,
    };
    let preview = preview(&pipeline, environment, &settings)?;
    for (name, rows) in &preview.tables {
        let table = pretty_format_batches(std::slice::from_ref(rows))
            .map_err(|error| Error::internal("rows cannot be shown").with_source(error))?;
        print(&format!("{name}: {} rows\n{table}", rows.num_rows()));
    }
    let counts = &preview.counts;
    let none =
        if counts.read == 0 { "; nothing came in time: a longer --timeout, or --from-start, may help" } else { "" };
    let (read, accepted, rejected) = (counts.read, counts.accepted, counts.num_rejected());
    let text = format!("{read} records read, {accepted} accepted, {rejected} rejected{none}\n{}", rejections(counts));
    print(text.trim_end());
    Ok(())
}
