//! What state, manifests and fencing are kept by: the state unit, its assignment to a worker, epochs and generations.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One turn of a driver, numbered from 1 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The first epoch.
    pub const FIRST: Epoch = Epoch(1);

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// Number of the writer of one state unit; each claim takes the next (I3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    /// That of a unit's first writer.
    pub const FIRST: Generation = Generation(1);

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// That of the writer after this one.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A source partition: what state, snapshots and manifests are kept by, and what moves between workers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateUnit {
    /// Name of the source in the pipeline file.
    pub source: Arc<str>,
    /// Topic (Kafka), path (files) or `generator`.
    pub topic: Arc<str>,
    /// Number of the partition within it.
    pub partition: i32,
}

impl fmt::Display for StateUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.source, self.topic, self.partition)
    }
}

/// One assignment of a state unit to a worker. Numbers are unique within the process and never used again, so records
/// of an earlier assignment are told apart from those of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment(pub u32);

/// The state units that a worker holds, by assignment.
#[derive(Debug, Clone, Default)]
pub struct Units {
    units: BTreeMap<Assignment, StateUnit>,
}

impl Units {
    /// Adds a unit. The assignment must be new.
    pub fn insert(&mut self, assignment: Assignment, unit: StateUnit) {
        let before = self.units.insert(assignment, unit);
        debug_assert!(before.is_none(), "an assignment is never used twice");
    }

    /// Takes a unit out.
    pub fn remove(&mut self, assignment: Assignment) -> Option<StateUnit> {
        self.units.remove(&assignment)
    }

    /// The unit of an assignment; `None` when it was revoked (its records are stale).
    #[must_use]
    pub fn get(&self, assignment: Assignment) -> Option<&StateUnit> {
        self.units.get(&assignment)
    }

    /// All units, in the order of their assignments.
    pub fn iter(&self) -> impl Iterator<Item = (Assignment, &StateUnit)> {
        self.units.iter().map(|(assignment, unit)| (*assignment, unit))
    }

    /// Number of units held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }
}
