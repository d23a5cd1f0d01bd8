//! `tidemill bootstrap`: the first state of a pipeline from stored history, so that windows that look back further than the topic
//! are complete from the first record on. Writes the first checkpoints, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::HumanCount;

use super::replay::{parse_input, progress_bar, show_progress};
use super::{Environment, PipelineFile, load, print};
use crate::error::Result;
use crate::pipeline::parse_duration;
use crate::pipeline::settings::Partitioner;
use crate::pipeline::settings::StartPosition;
use crate::replay::{BootstrapSettings, CutOver, Input, bootstrap};
use crate::runtime::clock;
use crate::types::Offset;

#[derive(Debug, clap::Args)]
pub(crate) struct BootstrapArguments {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Stored rows of a source with windows: a file or a folder, local or s3://, Parquet or JSON lines. Once per source.
    #[arg(long = "input", value_name = "SOURCE=PATH", required = true, value_parser = parse_input)]
    inputs: Vec<(String, String)>,
    /// Where the run is to go on: earliest, latest, a time (RFC 3339), or topic/partition=offset,... for each partition. When it is
    /// not given: where the input ends, which has to say where its rows come from (the files of a Parquet sink with
    /// `positions: true`).
    #[arg(long, value_name = "PLACE", value_parser = parse_place)]
    at: Option<StartPosition>,
    /// How the topic's producers choose the partition of a key: as the source's `partitioner` says, when this is not given. Needed
    /// where the input does not say where its rows come from.
    #[arg(long, value_enum)]
    partitioner: Option<Partitioner>,
    /// Longest wait for the topic's partitions, such as 30s.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
}

fn parse_place(text: &str) -> Result<StartPosition, String> {
    match text {
        "earliest" => return Ok(StartPosition::Earliest),
        "latest" => return Ok(StartPosition::Latest),
        _ => {}
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(StartPosition::Timestamp(time.timestamp_millis()));
    }
    let entry = |entry: &str| {
        let (place, offset) = entry.trim().split_once('=')?;
        let (topic, partition) = place.rsplit_once('/')?;
        let offset = Offset::new(offset.parse().ok()?)?;
        Some(((topic.to_owned(), partition.parse().ok()?), offset))
    };
    let offsets: Option<BTreeMap<(String, i32), Offset>> = text.split(',').map(entry).collect();
    offsets.map(StartPosition::Offsets).ok_or_else(|| {
        format!(
            "expected earliest, latest, a time such as 2026-01-31T12:00:00Z, or offsets such as transactions/0=120,transactions/1=98, \
             found {text}"
        )
    })
}

pub(crate) fn run(arguments: &BootstrapArguments, environment: &Environment) -> Result<()> {
    let pipeline = load(&arguments.pipeline.file, environment)?;
    let started = clock::now();
    let input = |(source, uri): &(String, String)| Input { source: source.clone(), uri: uri.clone(), format: None };
    let settings = BootstrapSettings {
        inputs: arguments.inputs.iter().map(input).collect(),
        cut_over: arguments.at.clone().map_or(CutOver::EndOfArchive, CutOver::At),
        partitioner: arguments.partitioner,
        timeout: arguments.timeout,
    };
    let bar = progress_bar();
    let loaded = bootstrap(&pipeline, environment, &settings, |progress| show_progress(&bar, progress));
    bar.finish_and_clear();
    let loaded = loaded?;
    let rows: u64 = loaded.iter().map(|part| part.rows).sum();
    for part in &loaded {
        print(&format!(
            "{}: {} rows of history; a run goes on at offset {}",
            part.unit,
            HumanCount(part.rows),
            part.offset
        ));
    }
    print(&format!("{} rows loaded in {:.1} s", HumanCount(rows), started.elapsed().as_secs_f64()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_over_is_read_in_all_its_forms() {
        assert_eq!(parse_place("latest"), Ok(StartPosition::Latest));
        assert_eq!(parse_place("1970-01-01T00:00:01Z"), Ok(StartPosition::Timestamp(1000)));
        let offset = |number| Offset::new(number).unwrap();
        let offsets = BTreeMap::from([(("a/b".to_owned(), 0), offset(5)), (("a/b".to_owned(), 1), offset(0))]);
        assert_eq!(parse_place("a/b/0=5, a/b/1=0"), Ok(StartPosition::Offsets(offsets)));
        for wrong in ["", "newest", "t/0", "t=5", "t/0=-1", "t/x=1"] {
            assert!(parse_place(wrong).unwrap_err().contains("expected earliest"), "{wrong}");
        }
    }
}
