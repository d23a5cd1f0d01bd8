//! First checkpoints of units whose state did not come from their log: claimed, with a snapshot of the state and all sinks at the
//! same offset, and released. What a run finds is what a clean stop at that offset would have left.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime::Handle;

use super::build::{open_checkpoints, sink_names};
use super::checkpointer::{Checkpointer, CheckpointerParts};
use super::driver::{Driver, SinkLane, SourceLane};
use super::recovery::Wanted;
use super::stages::stamp;
use super::units::HeldUnit;
use crate::checkpoint::{Checkpoints, Stores};
use crate::decode::{Decoder, NoChecks};
use crate::error::{Error, Result};
use crate::observe::latency::Latency;
use crate::observe::metrics::{SourceMetrics, WorkerMetrics};
use crate::observe::status::SourceCounts;
use crate::pipeline::settings::{DEAD_LETTER_NAME, Pipeline, Source};
use crate::plan::Graph;
use crate::sink::recorded::RecordedSink;
use crate::types::{Assignment, Offset, StateUnit, Watermark};

/// A unit, and where its run begins.
#[derive(Debug, Clone)]
pub(crate) struct FirstCheckpoint {
    pub(crate) source: usize,
    pub(crate) assignment: Assignment,
    pub(crate) unit: StateUnit,
    pub(crate) offset: Offset,
    /// W before the record at `offset`.
    pub(crate) watermark: Watermark,
}

/// How long storing the state may take.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Publishes the state in `graph` as the first checkpoints of `units`. `sql_fingerprint` is that of the plan that a run will have.
pub(crate) fn publish(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    io: &Handle,
    graph: Graph,
    sql_fingerprint: String,
    units: &[FirstCheckpoint],
) -> Result<()> {
    let stores = Stores::new({
        let env = env.clone();
        move |name| env.get(name).cloned()
    });
    let Some(checkpoints) = open_checkpoints(pipeline, &stores, env, io)? else {
        return Err(Error::invalid(
            "state is loaded into a checkpoint; add `checkpoint: { path: ... }` to the pipeline",
        ));
    };
    let settings = pipeline.checkpoint.clone();
    let metrics = WorkerMetrics::new(0);
    let mut driver = driver(pipeline, graph, &checkpoints, metrics.clone())?;
    let mut checkpointer = Checkpointer::new(CheckpointerParts {
        checkpoints: Some(checkpoints),
        io: io.clone(),
        interval: TIMEOUT,
        snapshot_interval: TIMEOUT,
        timeout: TIMEOUT,
        served: BTreeMap::new(),
        sql_fingerprint,
        backfill: settings.map(|checkpoint| checkpoint.backfill).unwrap_or_default(),
        metrics,
    });
    let claims: Vec<(Assignment, StateUnit)> = units.iter().map(|one| (one.assignment, one.unit.clone())).collect();
    let wanted = Wanted { sinks: sink_names(pipeline), operators: Vec::new() };
    let num_partitions = |unit: &StateUnit| {
        let of_topic = units.iter().filter(|one| one.unit.source == unit.source && one.unit.topic == unit.topic);
        u32::try_from(of_topic.count()).ok()
    };
    let claimed = checkpointer.claim(&claims, &wanted, num_partitions)?;
    let assignments: Vec<Assignment> = units.iter().map(|one| one.assignment).collect();
    let result = match claimed.iter().find(|claim| claim.published.is_some()) {
        Some(claim) => Err(Error::invalid(format!(
            "{}: there is a checkpoint already, at offset {}; history is loaded before the first run: take another \
             `checkpoint.path`, or leave the state as it is",
            claim.unit,
            claim.published.unwrap_or_default()
        ))),
        None => {
            for (one, claim) in units.iter().zip(claimed) {
                driver.sources[one.source].decoder.set_watermark(one.assignment, one.watermark);
                let held = HeldUnit {
                    source: one.source,
                    unit: one.unit.clone(),
                    processed: one.offset,
                    sink_positions: vec![one.offset; driver.num_sinks()],
                    published: None,
                    replayed_below: one.offset,
                };
                driver.units.insert(one.assignment, held);
                if let Some(generation) = claim.generation {
                    checkpointer.snapshots.take_over_loaded(one.assignment, &one.unit, generation);
                }
            }
            checkpointer.close(&mut driver, &assignments)
        }
    };
    result.and(checkpointer.release(&assignments))
}

/// A driver that only holds the state: its sinks are where nothing goes.
fn driver(pipeline: &Pipeline, graph: Graph, checkpoints: &Checkpoints, metrics: WorkerMetrics) -> Result<Driver> {
    let decoder = |source: &Source| match &source.internal {
        None => Decoder::new(source, Box::new(NoChecks)),
        Some(internal) => Decoder::of_internal(source, internal, stamp(internal, Some(checkpoints))?),
    };
    let lane = |source: &Source| -> Result<SourceLane> {
        Ok(SourceLane {
            name: source.name.clone(),
            decoder: decoder(source)?,
            rejection_rate: None,
            key_check: None,
            max_record_bytes: source.max_record_bytes,
            metrics: SourceMetrics::new(&source.name),
            counts: SourceCounts::default(),
        })
    };
    let lanes = pipeline.sources.iter().map(lane).collect::<Result<_>>()?;
    let sink = |name: &str| SinkLane::new(name, Box::new(RecordedSink::new()));
    let sinks = pipeline.sinks.iter().map(|one| sink(&one.name)).collect();
    let dead_letter = pipeline.dead_letter.as_ref().map(|_| sink(DEAD_LETTER_NAME));
    Ok(Driver::new(lanes, graph, sinks, dead_letter, metrics, Latency::default()))
}
