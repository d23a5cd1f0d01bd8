//! `tidemill check`: a pipeline file, its SQL files and its plan, without connecting to anything.

use super::{Environment, PipelineFile, load, print};
use crate::error::{Error, Result};
use crate::pipeline;
use crate::runtime::plan_unloaded;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
}

pub(crate) fn run(arguments: &CheckArguments, environment: &Environment) -> Result<()> {
    let report =
        pipeline::check(&arguments.pipeline.file, &|name| environment.get(name).cloned()).map_err(Error::from)?;
    plan_unloaded(&load(&arguments.pipeline.file, environment)?)?;
    print(report.trim_end());
    Ok(())
}
