//! Offsets are always "next to read" and ranges half-open. The only place where one is added to a record's own offset.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The next position to read in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(i64);

impl Offset {
    /// The beginning of a partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset as the broker counts it. `None` when negative (librdkafka's logical offsets are not positions).
    #[must_use]
    pub fn new(next: i64) -> Option<Offset> {
        (next >= 0).then_some(Offset(next))
    }

    /// The position after the record at `record_offset`.
    #[must_use]
    pub fn after(record_offset: i64) -> Offset {
        Offset(record_offset.max(-1) + 1)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `[start, end)` in one partition. Control records leave gaps, so its length is not a number of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First position of the range.
    pub start: Offset,
    /// First position after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// `[start, end)`; `None` when `end` lies before `start`.
    #[must_use]
    pub fn new(start: Offset, end: Offset) -> Option<OffsetRange> {
        (start <= end).then_some(OffsetRange { start, end })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}
