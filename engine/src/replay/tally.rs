//! What became of the records of a replay: each is counted in one outcome (I6), and the first rejected ones are kept as examples.

use std::collections::BTreeMap;
use std::fmt;

use arrow::array::RecordBatch;

use crate::decode::Reason;
use crate::types::StateUnit;

/// A record that did not become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Where it was read: source, file or topic, partition.
    pub unit: StateUnit,
    /// Its offset there: the line or row of a file, counted from 0.
    pub offset: i64,
    /// Why.
    pub reason: Reason,
    /// Which column, check or view: never a value of the record.
    pub detail: Option<String>,
}

impl fmt::Display for RejectedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.unit, self.offset, self.reason)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// What became of the records that were read: `read` is `accepted` and all `rejected` together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Those that became rows.
    pub accepted: u64,
    /// Rejected ones, by source and reason.
    pub rejected: BTreeMap<(String, Reason), u64>,
    /// The first of them by unit and offset, for a person to look at.
    pub first_rejected: Vec<RejectedRecord>,
    /// Rows of each output.
    pub rows: Vec<u64>,
}

/// Rejected records that are kept as examples.
const EXAMPLES: usize = 10;

impl Counts {
    /// Number of rejected records.
    #[must_use]
    pub fn num_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }
}

/// Assignment and offset of a record.
pub(super) type Position = (u32, i64);

/// Rejected records and their positions.
pub(super) type Rejections = Vec<(Position, RejectedRecord)>;

/// Counts while they grow.
#[derive(Debug)]
pub(super) struct Tally {
    counts: Counts,
    /// The first rejected records by position, whenever they were found.
    first_rejected: BTreeMap<Position, RejectedRecord>,
}

impl Tally {
    pub(super) fn new(num_outputs: usize) -> Tally {
        let counts = Counts { rows: vec![0; num_outputs], ..Counts::default() };
        Tally { counts, first_rejected: BTreeMap::new() }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Records that were decoded.
    pub(super) fn read(&mut self, num_accepted: usize, rejected: &Rejections) {
        self.counts.read += (num_accepted + rejected.len()) as u64;
        self.counts.accepted += num_accepted as u64;
        self.note(rejected);
    }

    /// Records that were accepted, and on which the SQL failed.
    pub(super) fn failed(&mut self, failed: &Rejections) {
        self.counts.accepted -= failed.len() as u64;
        self.note(failed);
    }

    /// Rows of outputs, by their index.
    pub(super) fn rows<'a>(&mut self, outputs: impl Iterator<Item = (usize, &'a RecordBatch)>) {
        outputs.for_each(|(output, batch)| self.counts.rows[output] += batch.num_rows() as u64);
    }

    fn note(&mut self, rejected: &Rejections) {
        for (position, rejected) in rejected {
            *self.counts.rejected.entry((rejected.unit.source.to_string(), rejected.reason)).or_default() += 1;
            let is_among_first = self.first_rejected.len() < EXAMPLES
                || self.first_rejected.last_key_value().is_some_and(|(last, _)| position < last);
            if is_among_first {
                self.first_rejected.insert(*position, rejected.clone());
                if self.first_rejected.len() > EXAMPLES {
                    self.first_rejected.pop_last();
                }
                self.counts.first_rejected = self.first_rejected.values().cloned().collect();
            }
        }
    }
}
