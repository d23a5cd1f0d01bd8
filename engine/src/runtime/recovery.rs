//! Where a claimed unit goes on, from its newest manifest: the position, each sink's own, and the state; or why it cannot.

use crate::checkpoint::{
    Recovery, RestartPoint, Restore, Resume, Serving, StateDecision, WantedOperator, choose_snapshot,
};
use crate::error::{Error, Result};
use crate::pipeline::settings::Backfill;
use crate::source::StartAt;
use crate::types::{Assignment, Generation, Offset, SeenPositions, StateUnit, Watermark};

/// A claimed unit and where it goes on.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) assignment: Assignment,
    pub(crate) unit: StateUnit,
    pub(crate) start: StartAt,
    /// In the order of the driver's sinks; `None` when nothing was ever published.
    pub(crate) sink_positions: Option<Vec<Offset>>,
    /// In the same order: where the ranges of each sink's files end.
    pub(crate) sinks_covered: Option<Vec<Offset>>,
    pub(crate) watermark: Watermark,
    /// Of an internal topic: what was seen below the start.
    pub(crate) seen: SeenPositions,
    /// Of an internal topic: the place that the last manifest names for a restart.
    pub(crate) restart: Option<RestartPoint>,
    pub(crate) published: Option<Offset>,
    /// Which models served which records so far.
    pub(crate) schedule: Vec<Serving>,
    /// State to load; the unit starts at its offset.
    pub(crate) restore: Option<Restore>,
    /// Our generation; `None` without checkpoints.
    pub(crate) generation: Option<Generation>,
    /// Number of partitions of its topic at the pipeline's first start on it, where that is known.
    pub(crate) num_first_partitions: Option<u32>,
}

/// What a unit that is claimed is to find again.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The sinks, in the driver's order.
    pub(crate) sinks: Vec<String>,
    /// The operators of its source.
    pub(crate) operators: Vec<WantedOperator>,
}

/// Where a claimed unit goes on, and with which state.
pub(super) fn recovered(
    assignment: Assignment,
    unit: &StateUnit,
    recovery: Recovery,
    wanted: &Wanted,
    backfill: Backfill,
) -> Result<Claimed> {
    let Recovery::Resume(resume) = recovery else { return Ok(unclaimed(assignment, unit)) };
    let mut claim = resumed_claim(assignment, unit, &resume, &wanted.sinks);
    let decision = choose_snapshot(&resume.state, resume.smallest, &wanted.operators);
    match (decision, backfill) {
        (StateDecision::Stateless, _) => {}
        (StateDecision::Restore(restore), Backfill::Nothing | Backfill::Missing) => {
            if !restore.dropped.is_empty() {
                tracing::info!(%unit, operators = ?restore.dropped, "state of windows that the pipeline no longer has is dropped");
            }
            claim.start = StartAt::Stored(restore.offset);
            claim.watermark = restore.watermark;
            claim.seen = restore.seen.clone();
            claim.restore = Some(restore);
        }
        (StateDecision::Missing(operators), Backfill::Nothing) => return Err(missing_state(&operators)),
        (StateDecision::Missing(_), Backfill::Missing) | (_, Backfill::All) => {
            claim.start = StartAt::Beginning;
            claim.watermark = Watermark::NONE;
            claim.seen = SeenPositions::default();
        }
    }
    Ok(claim)
}

pub(super) fn unclaimed(assignment: Assignment, unit: &StateUnit) -> Claimed {
    Claimed {
        assignment,
        unit: unit.clone(),
        start: StartAt::Configured,
        sink_positions: None,
        sinks_covered: None,
        watermark: Watermark::NONE,
        seen: SeenPositions::default(),
        restart: None,
        published: None,
        schedule: Vec::new(),
        restore: None,
        generation: None,
        num_first_partitions: None,
    }
}

fn resumed_claim(assignment: Assignment, unit: &StateUnit, resume: &Resume, sinks: &[String]) -> Claimed {
    for (sink, position) in &resume.gone {
        tracing::warn!(%unit, sink, position = position.get(), published = resume.published.get(), "a sink of the last run is gone from the pipeline; what it had not written will not be written");
    }
    let position = |sink: &String| resume.positions.get(sink).copied().unwrap_or(resume.published);
    let covered = |sink: &String| resume.covered.get(sink).copied().unwrap_or(resume.published);
    Claimed {
        start: StartAt::Stored(resume.offset),
        sink_positions: Some(sinks.iter().map(position).collect()),
        sinks_covered: Some(sinks.iter().map(covered).collect()),
        watermark: resume.watermark,
        seen: resume.seen.clone(),
        restart: resume.restart.clone(),
        published: Some(resume.published),
        schedule: resume.schedule.clone(),
        ..unclaimed(assignment, unit)
    }
}

fn missing_state(operators: &[String]) -> Error {
    Error::invalid(format!(
        "the checkpoint has no state for {} (new or changed windows): expected windows whose state was kept; either rebuild the \
         state from the log, once, with `tidemill run --backfill log`, or use another checkpoint path and start over, or go \
         back to the SQL that the checkpoint was made with",
        operators.join(", ")
    ))
}

/// Records that state needs are gone: going on after them would give other numbers than a replay, without a word.
pub(super) fn state_lost(unit: &StateUnit, wanted: Offset, found: Offset) -> Error {
    Error::data(format!(
        "{unit}: the windows' state needs the records from offset {wanted} on, and the log begins at {found}; either rebuild the \
         state from what the log still has with `tidemill run --backfill log-all` (rows whose frames reach further back are \
         flagged `_history_incomplete`), or use another checkpoint path and start over"
    ))
}
