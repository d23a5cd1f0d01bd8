//! How far an internal topic repeats what it held already: of each partition of the outer source the greatest position seen.
//! It belongs to a position of the internal topic, as W does: a function of the log below it, and of nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A row of the outer source: its record's own offset, and its number among the rows that the record became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeenPosition(pub i64, pub u32);

/// The greatest position seen of each partition of what the rows came from, by `source/topic` and partition: two sources may
/// read topics of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeenPositions(BTreeMap<Arc<str>, BTreeMap<i32, SeenPosition>>);

impl SeenPositions {
    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes all that `other` has seen.
    pub fn merge(&mut self, other: &SeenPositions) {
        for (topic, partitions) in &other.0 {
            partitions.iter().for_each(|(partition, position)| self.advance(topic, *partition, *position));
        }
    }

    /// The greatest position seen of a partition.
    #[must_use]
    pub fn get(&self, topic: &str, partition: i32) -> Option<SeenPosition> {
        self.0.get(topic)?.get(&partition).copied()
    }

    /// Notes a position. It never goes back.
    pub fn advance(&mut self, topic: &str, partition: i32, position: SeenPosition) {
        if !self.0.contains_key(topic) {
            self.0.insert(topic.into(), BTreeMap::new());
        }
        let Some(partitions) = self.0.get_mut(topic) else { return };
        let seen = partitions.entry(partition).or_insert(position);
        *seen = (*seen).max(position);
    }

    /// Whether every position is at or above that of `earlier`.
    #[must_use]
    pub fn covers(&self, earlier: &SeenPositions) -> bool {
        let all = earlier.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |one| (topic, one)));
        all.into_iter().all(|(topic, (partition, position))| self.get(topic, *partition) >= Some(*position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_greater_by_offset_and_then_by_ordinal_and_never_goes_back() {
        let mut seen = SeenPositions::default();
        assert_eq!(seen.get("t", 0), None);
        for (offset, ordinal, after) in [(5, 0, (5, 0)), (5, 2, (5, 2)), (4, 9, (5, 2)), (6, 0, (6, 0))] {
            seen.advance("t", 0, SeenPosition(offset, ordinal));
            assert_eq!(seen.get("t", 0), Some(SeenPosition(after.0, after.1)));
        }
        assert_eq!(seen.get("t", 1), None);
        let earlier = seen.clone();
        seen.advance("u", -3, SeenPosition(0, 0));
        assert!(seen.covers(&earlier) && !earlier.covers(&seen));
        let mut merged = earlier;
        merged.advance("t", 0, SeenPosition(9, 9));
        merged.merge(&seen);
        assert!(merged.covers(&seen) && merged.get("t", 0) == Some(SeenPosition(9, 9)));
        assert!(!merged.is_empty() && SeenPositions::default().is_empty());
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(json, r#"{"t":{"0":[6,0]},"u":{"-3":[0,0]}}"#);
        assert_eq!(serde_json::from_str::<SeenPositions>(&json).unwrap(), seen);
    }
}
