//! Places to restart the units of internal topics from. What was seen of such a topic belongs to one position exactly (I1), and a
//! restart begins where the slowest sink is. So the places of past checkpoints are kept for as long as a sink lies behind
//! them; the newest at or below the slowest sink goes into the manifest.

use std::collections::{BTreeMap, VecDeque};

use crate::checkpoint::RestartPoint;
use crate::types::{Assignment, Offset};

/// The places of all units held, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RestartPoints {
    points: BTreeMap<Assignment, VecDeque<RestartPoint>>,
}

impl RestartPoints {
    /// Notes where a unit is. Positions do not go back.
    pub(crate) fn note(&mut self, assignment: Assignment, point: RestartPoint) {
        let points = self.points.entry(assignment).or_default();
        if points.back().is_none_or(|last| last.offset < point.offset) {
            points.push_back(point);
        }
    }

    /// The newest place at or below `slowest`. Those before it are never asked for again.
    pub(crate) fn at_or_below(&mut self, assignment: Assignment, slowest: Offset) -> Option<RestartPoint> {
        let points = self.points.get_mut(&assignment)?;
        while points.get(1).is_some_and(|second| second.offset <= slowest) {
            points.pop_front();
        }
        points.front().filter(|first| first.offset <= slowest).cloned()
    }

    /// Forgets units that are somebody else's now.
    pub(crate) fn forget(&mut self, assignments: &[Assignment]) {
        self.points.retain(|assignment, _| !assignments.contains(assignment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SeenPosition, SeenPositions, Watermark};

    fn point(offset: i64) -> RestartPoint {
        let mut seen = SeenPositions::default();
        seen.advance("s/t", 0, SeenPosition(offset, 0));
        RestartPoint { offset: Offset::new(offset).unwrap(), watermark: Watermark::NONE, seen }
    }

    #[test]
    fn a_restart_begins_at_the_newest_place_that_no_sink_lies_behind() {
        let unit = Assignment(1);
        let mut points = RestartPoints::default();
        assert_eq!(points.at_or_below(unit, Offset::new(9).unwrap()), None);
        for offset in [10, 20, 20, 30] {
            points.note(unit, point(offset));
        }
        let mut at = |slowest: i64| points.at_or_below(unit, Offset::new(slowest).unwrap());
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some(point(10)));
        assert_eq!(at(19), Some(point(10)));
        assert_eq!(at(25), Some(point(20)));
        assert_eq!(at(99), Some(point(30)));
        assert_eq!(points.points[&unit].len(), 1, "what no sink can need is dropped");
        points.forget(&[unit]);
        assert_eq!(points.at_or_below(unit, Offset::new(99).unwrap()), None);
    }
}
