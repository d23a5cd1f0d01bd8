//! Event time and the watermark: microseconds since 1970-01-01 UTC, as the columns of type `timestamp` hold them.

use serde::{Deserialize, Serialize};

/// The time in a row, in microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(i64);

impl EventTime {
    /// From microseconds since the epoch.
    #[must_use]
    pub fn from_micros(micros: i64) -> EventTime {
        EventTime(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }
}

/// W: the greatest event time of the accepted records read so far from one partition. It never goes back (I4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(Option<EventTime>);

impl Watermark {
    /// Nothing seen yet.
    pub const NONE: Watermark = Watermark(None);

    /// The greatest event time seen, if any row was.
    #[must_use]
    pub fn get(self) -> Option<EventTime> {
        self.0
    }

    /// Whether a row with this event time is late: below the greatest already seen.
    #[must_use]
    pub fn is_late(self, time: EventTime) -> bool {
        self.0.is_some_and(|w| time < w)
    }

    /// Takes a row into account.
    pub fn advance(&mut self, time: EventTime) {
        if self.0.is_none_or(|w| time > w) {
            self.0 = Some(time);
        }
    }
}
