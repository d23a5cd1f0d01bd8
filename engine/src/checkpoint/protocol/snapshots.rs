//! The decisions about snapshots of state: which one recovery starts from, which ones a manifest names, which files may go. Pure,
//! as all of the protocol.

use std::collections::BTreeSet;

use crate::checkpoint::manifest::{OperatorState, Snapshot, StateKind};
use crate::types::{Generation, Offset, SeenPositions, Watermark};

/// An operator of the plan that needs its state back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOperator {
    /// Its index in the plan.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What its state depends on.
    pub fingerprint: String,
    /// Names of its key columns.
    pub keys: Vec<String>,
}

/// Where the state of a unit comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateDecision {
    /// The plan has no operators for the unit.
    Stateless,
    /// From a snapshot; records from its offset on are read again.
    Restore(Restore),
    /// These operators of the plan have no state in the snapshot that recovery would start from.
    Missing(Vec<String>),
}

/// A snapshot to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Read from here.
    pub offset: Offset,
    /// W before the record at `offset`.
    pub watermark: Watermark,
    /// What was seen of an internal topic below `offset`.
    pub seen: SeenPositions,
    /// What to load, by operator.
    pub loads: Vec<Load>,
    /// Operators in the snapshot that the plan no longer has.
    pub dropped: Vec<String>,
    /// The snapshots that the state is made of, the last of them at `offset`.
    pub state: Vec<Snapshot>,
}

/// The state of one operator of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The operator's index in the plan.
    pub operator: usize,
    /// The full state, then what changed, in the order in which to load them.
    pub parts: Vec<OperatorState>,
}

/// Chooses the newest snapshot at or below `smallest`, the smallest position of the sinks, and what of it the operators of
/// the plan load. State is known by its fingerprint: an operator may have another name than it had. Before a unit's first
/// row there is no state, and a new operator misses nothing.
#[must_use]
pub fn choose_snapshot(state: &[Snapshot], smallest: Offset, wanted: &[WantedOperator]) -> StateDecision {
    if wanted.is_empty() {
        return StateDecision::Stateless;
    }
    let names = || wanted.iter().map(|operator| operator.name.clone()).collect();
    let chain = snapshots_of(state, smallest);
    let Some(snapshot) = chain.last() else { return StateDecision::Missing(names()) };
    let (mut loads, mut missing, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for operator in wanted {
        let has_it = |name: &&String| {
            snapshot.operators.get(*name).is_some_and(|found| found.fingerprint == operator.fingerprint)
        };
        let name = Some(&operator.name).filter(has_it).or_else(|| snapshot.operators.keys().find(has_it));
        match name {
            Some(name) => {
                let parts = chain.iter().filter_map(|snapshot| snapshot.operators.get(name));
                let parts = parts.filter(|part| !part.files.is_empty()).cloned().collect();
                used.insert(name.clone());
                loads.push(Load { operator: operator.index, parts });
            }
            None if snapshot.is_empty() => {}
            None => missing.push(operator.name.clone()),
        }
    }
    if !missing.is_empty() {
        return StateDecision::Missing(missing);
    }
    StateDecision::Restore(Restore {
        offset: snapshot.offset,
        watermark: snapshot.watermark,
        seen: snapshot.seen.clone(),
        loads,
        dropped: snapshot.operators.keys().filter(|name| !used.contains(*name)).cloned().collect(),
        state: chain.to_vec(),
    })
}

/// The snapshots that the state at the newest one at or below `smallest` is made of: a full one and those after it.
fn snapshots_of(state: &[Snapshot], smallest: Offset) -> &[Snapshot] {
    let end = state.iter().take_while(|snapshot| snapshot.offset <= smallest).count();
    let start = state[..end].iter().rposition(|snapshot| snapshot.kind == StateKind::Full).unwrap_or(end);
    &state[start..end]
}

/// The snapshots that the newest state is made of.
#[must_use]
pub fn newest_snapshots(state: &[Snapshot]) -> &[Snapshot] {
    state.last().map_or(&[], |last| snapshots_of(state, last.offset))
}

/// What a manifest at `offset`, whose sinks are at `smallest` or beyond, must name of `state`: the snapshots that recovery
/// from it may need, now or when the sinks have come further.
#[must_use]
pub fn needed_snapshots(state: &[Snapshot], smallest: Offset, offset: Offset) -> &[Snapshot] {
    let end = state.iter().take_while(|snapshot| snapshot.offset <= offset).count();
    let num_chosen = snapshots_of(&state[..end], smallest).len();
    let num_reached = state[..end].iter().take_while(|snapshot| snapshot.offset <= smallest).count();
    &state[num_reached - num_chosen..end]
}

/// Files of state that one manifest names and the one after it does not: nobody starts from them once the second exists.
#[must_use]
pub fn files_let_go(before: &[Snapshot], after: &[Snapshot]) -> Vec<String> {
    let kept: BTreeSet<&str> = after.iter().flat_map(Snapshot::files).map(|file| file.path.as_str()).collect();
    let files = before.iter().flat_map(Snapshot::files).map(|file| file.path.clone());
    files.filter(|path| !kept.contains(path.as_str())).collect()
}

/// Whether a file of state that a listing shows to a unit's writer, of generation `own`, just after its claim was left behind:
/// no manifest will ever name it. Who wrote it publishes nothing any more, and the claim names all that was published.
#[must_use]
pub fn is_left_behind(written_by: Option<u64>, is_named: bool, own: Generation) -> bool {
    !is_named && written_by.is_some_and(|generation| generation < own.get())
}
