//! `tidemill schema`: the JSON Schema of pipeline files, for editors. Connects to nothing.

use super::print;
use crate::error::{Error, Result};
use crate::pipeline;

#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArguments {}

pub(crate) fn run(_arguments: &SchemaArguments) -> Result<()> {
    let schema = serde_json::to_string_pretty(&pipeline::json_schema());
    print(&schema.map_err(|error| Error::internal("the schema cannot be written").with_source(error))?);
    Ok(())
}
