//! What a manifest says of the operators' state: snapshots, their files, and what must hold of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Offset, SeenPositions, Watermark};

/// Which keys the files of a snapshot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// All of them.
    Full,
    /// Those that changed since the snapshot before it in the list.
    Delta,
}

/// Which of an operator's tables a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateTable {
    /// One row: what the state is of.
    Meta,
    /// One row per key.
    Slots,
    /// One row per retained row.
    Rows,
}

impl StateTable {
    /// Its name, as in names of files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StateTable::Meta => "meta",
            StateTable::Slots => "slots",
            StateTable::Rows => "rows",
        }
    }
}

/// A file of state: Arrow IPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// What it holds.
    pub table: StateTable,
    /// Its name, below the checkpoint's path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Rows in it.
    pub rows: u64,
    /// Record batches in it. Those of `slots` and `rows` belong together by number.
    pub batches: u64,
}

/// The state of one operator in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorState {
    /// What the state depends on; that of another fingerprint is another state.
    pub fingerprint: String,
    /// Names of the key columns, for people who query it.
    pub keys: Vec<String>,
    /// None when no row had reached the unit; otherwise one per table.
    pub files: Vec<StateFile>,
}

impl OperatorState {
    /// Its file of a table.
    #[must_use]
    pub fn file(&self, table: StateTable) -> Option<&StateFile> {
        self.files.iter().find(|file| file.table == table)
    }
}

/// The state of a unit's operators at one offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// It holds the effects of exactly the records below (I1).
    pub offset: Offset,
    /// W before the record at `offset` (I4).
    #[serde(rename = "watermark_micros")]
    pub watermark: Watermark,
    /// Of a unit of an internal topic: what was seen in the records below `offset`.
    #[serde(default, skip_serializing_if = "SeenPositions::is_empty")]
    pub seen: SeenPositions,
    /// Whether it stands alone.
    pub kind: StateKind,
    /// By the operators' names.
    pub operators: BTreeMap<String, OperatorState>,
}

impl Snapshot {
    /// A snapshot before the first row: state of any operator, of which there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kind == StateKind::Full && self.operators.values().all(|operator| operator.files.is_empty())
    }

    /// All its files.
    pub fn files(&self) -> impl Iterator<Item = &StateFile> {
        self.operators.values().flat_map(|operator| &operator.files)
    }

    /// Size of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }
}

pub(super) fn check_state(state: &[Snapshot], offset: Offset, watermark: Watermark) -> Result<(), String> {
    if state.first().is_some_and(|first| first.kind == StateKind::Delta) {
        return Err("its first snapshot of state is not a full one".into());
    }
    for pair in state.windows(2) {
        if pair[0].offset >= pair[1].offset || pair[0].watermark.get() > pair[1].watermark.get() {
            return Err(format!(
                "the snapshot of state at {} does not follow that at {}",
                pair[1].offset, pair[0].offset
            ));
        }
        let is_known = |(name, after): (&String, &OperatorState)| {
            pair[0].operators.get(name).is_some_and(|before| before.fingerprint == after.fingerprint)
        };
        if pair[1].kind == StateKind::Delta && !pair[1].operators.iter().all(is_known) {
            return Err(format!(
                "the snapshot of state at {} is not of the operators of the one before",
                pair[1].offset
            ));
        }
    }
    if let Some(last) = state.last().filter(|last| last.offset > offset || last.watermark.get() > watermark.get()) {
        return Err(format!(
            "the snapshot of state at {} lies beyond the offset {offset} or its watermark",
            last.offset
        ));
    }
    for operator in state.iter().flat_map(|snapshot| snapshot.operators.values()) {
        check_files(&operator.files)?;
    }
    Ok(())
}

fn check_files(files: &[StateFile]) -> Result<(), String> {
    let tables: Vec<StateTable> = files.iter().map(|file| file.table).collect();
    if !tables.is_empty() && tables != [StateTable::Meta, StateTable::Slots, StateTable::Rows] {
        return Err(format!("an operator has the files {tables:?}, expected one of each table, or none"));
    }
    let is_inside = |path: &str| {
        path.starts_with("units/")
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && path.contains("/state/")
    };
    match files.iter().find(|file| !is_inside(&file.path) || file.sha256.len() != 64) {
        Some(file) => Err(format!("{} is not a file of state with its sha256", file.path)),
        None => Ok(()),
    }
}
