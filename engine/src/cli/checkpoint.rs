//! `tidemill checkpoint`: what a pipeline's checkpoint holds, for people. Reads only.

use super::{Environment, load, print};
use crate::checkpoint::inspect::{Inspector, diff, parse_unit, render_diff, render_list, render_manifest};
use crate::checkpoint::{ManifestNumber, Stores};
use crate::error::{Error, Result};
use crate::runtime::tasks;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckpointArguments {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CheckpointCommand {
    /// All state units, and the newest manifest of each.
    List {
        #[command(flatten)]
        place: CheckpointPlace,
    },
    /// One manifest, field by field.
    Show {
        #[command(flatten)]
        place: CheckpointPlace,
        /// source/topic/partition
        unit: String,
        /// Number of the manifest; the newest when it is not given.
        number: Option<u64>,
    },
    /// The fields in which two manifests of one unit differ.
    Diff {
        #[command(flatten)]
        place: CheckpointPlace,
        /// source/topic/partition
        unit: String,
        /// Number of the manifest before.
        before: u64,
        /// Number of the manifest after; the newest when it is not given.
        after: Option<u64>,
    },
}

#[derive(Debug, clap::Args)]
struct CheckpointPlace {
    /// A pipeline file (.yaml or .yml), or the path of a checkpoint: a folder or s3://.
    place: String,
}

pub(crate) fn run(arguments: &CheckpointArguments, environment: &Environment) -> Result<()> {
    let io = tasks::io_runtime()?;
    let text = io.block_on(text(&arguments.command, environment))?;
    print(text.trim_end());
    Ok(())
}

async fn text(command: &CheckpointCommand, environment: &Environment) -> Result<String> {
    match command {
        CheckpointCommand::List { place } => {
            let inspector = open(place, environment).await?;
            Ok(render_list(inspector.pipeline(), &inspector.list().await?))
        }
        CheckpointCommand::Show { place, unit, number } => {
            let inspector = open(place, environment).await?;
            let number = number.map(manifest_number).transpose()?;
            Ok(render_manifest(&inspector.show(&parse_unit(unit)?, number).await?))
        }
        CheckpointCommand::Diff { place, unit, before, after } => {
            let inspector = open(place, environment).await?;
            let unit = parse_unit(unit)?;
            let before = inspector.show(&unit, Some(manifest_number(*before)?)).await?;
            let after = inspector.show(&unit, after.map(manifest_number).transpose()?).await?;
            Ok(render_diff(&diff(&before, &after)))
        }
    }
}

fn manifest_number(number: u64) -> Result<ManifestNumber> {
    ManifestNumber::new(number).ok_or_else(|| Error::invalid("manifests are numbered from 1"))
}

async fn open(place: &CheckpointPlace, environment: &Environment) -> Result<Inspector> {
    let place = &place.place;
    let path = if place.ends_with(".yaml") || place.ends_with(".yml") {
        let pipeline = load(place.as_ref(), environment)?;
        let checkpoint = pipeline.checkpoint.ok_or_else(|| {
            Error::invalid(format!("{place}: the pipeline has no `checkpoint`, so nothing is kept of its progress"))
        })?;
        checkpoint.path
    } else {
        place.clone()
    };
    let environment = environment.clone();
    let stores = Stores::new(move |name| environment.get(name).cloned());
    Inspector::open(&stores, &path).await
}
