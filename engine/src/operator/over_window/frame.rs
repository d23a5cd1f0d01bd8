//! From a frame to ranks: which of a key's retained rows a row sees. All the rules of design section 4 on lateness, H,
//! `max_lookback` and the prefix are here and in [`Plan::num_unneeded`], and nowhere else. What is stored and not
//! visible is never seen.

use super::plan::Plan;
use super::spec::Frame;

/// The ring of a row's key before the row is in it, as ranks by event time.
pub(super) trait Ranks {
    /// Rows below `time`.
    fn rank_lower(&self, time: i64) -> usize;
    /// Rows at or below `time`.
    fn rank_upper(&self, time: i64) -> usize;
    /// Event time of the row of a rank.
    fn time(&self, rank: usize) -> i64;
}

/// When a row is and what it may see because of that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Event time, microseconds.
    pub(super) time: i64,
    /// W - `max_lateness`; the smallest number where there is no W.
    pub(super) h: i64,
    /// Retained rows before it in the total order: its rank once it is in the ring.
    pub(super) rank: usize,
}

/// The retained rows that a row sees, by rank before it is in the ring, and whether it sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) has_own: bool,
}

impl Place {
    /// Whether the row is older than H.
    pub(super) fn is_too_late(&self) -> bool {
        self.time < self.h
    }

    /// The event time from which a frame of some length counts back.
    fn anchor(&self) -> i64 {
        self.time.max(self.h)
    }

    /// Whether a RANGE frame reaches below the event time at which the unit's log began, or the row is too late to see
    /// all of its frames.
    pub(super) fn is_history_incomplete(&self, plan: &Plan, log_begin: i64) -> bool {
        self.is_too_late()
            || plan.frames.iter().any(|frame| match frame {
                Frame::Range { preceding_micros, .. } => self.anchor().saturating_sub(*preceding_micros) < log_begin,
                Frame::Rows { .. } | Frame::Unbounded { .. } => false,
            })
    }

    /// The rows that the row sees in a frame.
    #[inline]
    pub(super) fn span(&self, frame: Frame, max_lookback: i64, ring: &impl Ranks) -> Span {
        match frame {
            Frame::Range { preceding_micros, until_micros } => {
                let from = ring.rank_lower(self.anchor().saturating_sub(preceding_micros));
                let has_own = until_micros == 0;
                let to = if has_own { self.rank } else { ring.rank_upper(self.time.saturating_sub(until_micros)) };
                Span { from: from.min(to), to, has_own }
            }
            Frame::Rows { preceding, until } => {
                let bound = self.anchor().saturating_sub(max_lookback);
                let first = self.rank.saturating_sub(preceding);
                // The oldest row that it reaches nearly always lies within the lookback.
                let is_within = first == self.rank || ring.time(first) >= bound;
                let mut visible = if is_within { first } else { ring.rank_lower(bound) };
                if self.is_too_late() {
                    // Below H only the newest rows are seen, wherever among them the row stands.
                    visible = visible.max(ring.rank_lower(self.h).saturating_sub(preceding));
                }
                let to = if until == 0 { self.rank } else { (self.rank + 1).saturating_sub(until) };
                let from = first.max(visible);
                Span { from: from.min(to), to, has_own: until == 0 }
            }
            Frame::Unbounded { until } => {
                // A row that is too late stands right behind the prefix.
                let before = if self.is_too_late() { ring.rank_lower(self.h) } else { self.rank };
                Span { from: 0, to: before.saturating_sub(until.saturating_sub(1)), has_own: until == 0 }
            }
        }
    }
}
