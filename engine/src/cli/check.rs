//! `tidemill check`: a pipeline file, its SQL files and its plan, without connecting to anything. Of the models it reads those in local
//! files.

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
    let planned = plan_unloaded(&load(&arguments.pipeline.file, environment)?)?;
    print(report.trim_end());
    planned.unread.iter().for_each(|unread| print(&unread.to_string()));
    Ok(())
}
