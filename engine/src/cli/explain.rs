//! `tidemill explain`: how a pipeline will run. Connects to nothing, and reads the models in local files.

use super::{Environment, PipelineFile, load, print};
use crate::error::Result;
use crate::runtime::plan_unloaded;

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
}

pub(crate) fn run(arguments: &ExplainArguments, environment: &Environment) -> Result<()> {
    let planned = plan_unloaded(&load(&arguments.pipeline.file, environment)?)?;
    print(planned.plan.explain().trim_end());
    planned.unread.iter().for_each(|unread| print(&unread.to_string()));
    Ok(())
}
