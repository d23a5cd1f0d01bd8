//! `tidemill checkpoint list | show | diff | query`: what a pipeline has published, and what its windows held. Reads only; a running pipeline does not notice.

use std::path::Path;

use super::state_tables::StateTables;
use super::{Environment, load, print};
use crate::checkpoint::inspect::{Inspector, diff, parse_unit, render_diff, render_list, render_manifest};
use crate::checkpoint::{Manifest, ManifestNumber, Stores};
use crate::error::{Error, Result};
use crate::runtime::tasks;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckpointArguments {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CheckpointCommand {
    /// All state units, each with its newest manifest.
    List {
        #[command(flatten)]
        place: CheckpointPlace,
    },
    /// One manifest, field by field.
    Show {
        #[command(flatten)]
        place: CheckpointPlace,
        /// The state unit: `source/topic/partition`.
        unit: String,
        /// Number of the manifest; the newest when left out.
        number: Option<u64>,
        /// The object as it is, in JSON.
        #[arg(long)]
        json: bool,
    },
    /// The fields in which two manifests of a unit differ.
    Diff {
        #[command(flatten)]
        place: CheckpointPlace,
        /// The state unit: `source/topic/partition`.
        unit: String,
        /// Number of the first manifest.
        before: u64,
        /// Number of the second; the newest when left out.
        after: Option<u64>,
    },
    /// SQL over the windows' state in the newest manifests.
    Query {
        #[command(flatten)]
        place: CheckpointPlace,
        /// A SELECT over the tables of the state.
        #[arg(required_unless_present = "tables")]
        sql: Option<String>,
        /// Lists the tables and their columns.
        #[arg(long)]
        tables: bool,
    },
}

#[derive(Debug, clap::Args)]
struct CheckpointPlace {
    /// A pipeline file, or the `path` of its `checkpoint`: a folder, `file://` or `s3://`.
    path: String,
}

pub(crate) fn run(arguments: &CheckpointArguments, environment: &Environment) -> Result<()> {
    let text = tasks::io_runtime()?.block_on(answer(&arguments.command, environment))?;
    print(text.trim_end());
    Ok(())
}

async fn answer(command: &CheckpointCommand, environment: &Environment) -> Result<String> {
    match command {
        CheckpointCommand::List { place } => {
            let inspector = open(place, environment).await?;
            Ok(render_list(inspector.pipeline(), &inspector.list().await?))
        }
        CheckpointCommand::Show { place, unit, number, json } => {
            let manifest = find(&open(place, environment).await?, unit, *number).await?;
            if *json {
                let bytes = manifest.to_bytes()?;
                return String::from_utf8(bytes.to_vec())
                    .map_err(|error| Error::internal("a manifest is not UTF-8").with_source(error));
            }
            Ok(render_manifest(&manifest))
        }
        CheckpointCommand::Diff { place, unit, before, after } => {
            let inspector = open(place, environment).await?;
            let (before, after) = (find(&inspector, unit, Some(*before)).await?, find(&inspector, unit, *after).await?);
            Ok(render_diff(&diff(&before, &after)))
        }
        CheckpointCommand::Query { place, sql, .. } => {
            let state = StateTables::open(open(place, environment).await?).await?;
            match sql {
                Some(sql) => state.query(sql).await,
                None => state.list().await,
            }
        }
    }
}

async fn find(inspector: &Inspector, unit: &str, number: Option<u64>) -> Result<Manifest> {
    let number = number
        .map(|number| {
            ManifestNumber::new(number).ok_or_else(|| Error::invalid("manifests are numbered from 1, found 0"))
        })
        .transpose()?;
    inspector.show(&parse_unit(unit)?, number).await
}

async fn open(place: &CheckpointPlace, environment: &Environment) -> Result<Inspector> {
    let path = if place.path.ends_with(".yaml") || place.path.ends_with(".yml") {
        let pipeline = load(Path::new(&place.path), environment)?;
        let checkpoint = pipeline.checkpoint.ok_or_else(|| {
            Error::invalid(format!(
                "{}: this pipeline keeps no checkpoint: it has no `checkpoint: {{ path: ... }}`",
                place.path
            ))
        })?;
        checkpoint.path
    } else {
        place.path.clone()
    };
    let environment = environment.clone();
    let stores = Stores::new(move |name| environment.get(name).cloned());
    Inspector::open(&stores, &path).await
}
