//! `tidemill explain`: how a pipeline will run. Connects to nothing.

use super::{Environment, PipelineFile, load, print};
use crate::error::Result;
use crate::runtime::plan_unloaded;

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
}

pub(crate) fn run(arguments: &ExplainArguments, environment: &Environment) -> Result<()> {
    let plan = plan_unloaded(&load(&arguments.pipeline.file, environment)?)?;
    print(plan.explain().trim_end());
    Ok(())
}
