//! Whether records lie in the partition that their message keys belong to. A key in two partitions, as mixed producers or added
//! partitions make it, splits its history silently; here it is counted, and said once for each partition. Never a key itself.

use std::collections::BTreeMap;

use super::partitioner::partition_of;
use crate::pipeline::settings::Partitioner;
use crate::types::{Assignment, RecordBlock, StateUnit};

/// The partitions of one source, and how its producers choose among them.
#[derive(Debug)]
pub struct KeyCheck {
    partitioner: Partitioner,
    units: BTreeMap<u32, Place>,
}

#[derive(Debug)]
struct Place {
    unit: StateUnit,
    num_partitions: u32,
    was_said: bool,
}

impl KeyCheck {
    /// For producers that choose a partition as `partitioner` does.
    #[must_use]
    pub fn new(partitioner: Partitioner) -> KeyCheck {
        KeyCheck { partitioner, units: BTreeMap::new() }
    }

    /// A unit is ours: one of `num_partitions` partitions.
    pub fn take_over(&mut self, assignment: Assignment, unit: &StateUnit, num_partitions: u32) {
        self.units.insert(assignment.0, Place { unit: unit.clone(), num_partitions, was_said: false });
    }

    /// A unit is somebody else's.
    pub fn forget(&mut self, assignment: Assignment) {
        self.units.remove(&assignment.0);
    }

    /// How many records of a block, of those that `counts` names, have a key that belongs to another partition. Records without a
    /// key may lie anywhere.
    pub fn num_misplaced(&mut self, block: &RecordBlock, counts: impl Fn(usize) -> bool) -> u64 {
        let (mut start, mut misplaced) = (0, 0);
        while start < block.len() {
            // Records come in runs of one partition.
            let unit = block.units[start];
            let end = (start..block.len()).find(|record| block.units[*record] != unit).unwrap_or(block.len());
            if let Some(place) = self.units.get_mut(&unit) {
                let wrong = (start..end).filter(|record| counts(*record)).filter(|record| {
                    let key = block.keys.get(*record);
                    key.and_then(|key| partition_of(self.partitioner, key, place.num_partitions))
                        .is_some_and(|partition| partition != place.unit.partition)
                });
                let wrong = wrong.count() as u64;
                if wrong > 0 && !std::mem::replace(&mut place.was_said, true) {
                    tracing::warn!(
                        unit = %place.unit,
                        partitions = place.num_partitions,
                        "records have message keys that belong to other partitions by the source's partitioner: rows of one key \
                         may be in several partitions, and windows over it in pieces; use one partitioner for all producers, or \
                         `repartition`"
                    );
                }
                misplaced += wrong;
            }
            start = end;
        }
        misplaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_partitions_are_counted_and_those_that_may_lie_anywhere_are_not() {
        let mut check = KeyCheck::new(Partitioner::Murmur2);
        for partition in 0..3 {
            let unit = StateUnit { source: "s".into(), topic: "t".into(), partition };
            check.take_over(Assignment(partition as u32), &unit, 3);
        }
        let mut block = RecordBlock::default();
        let mut push = |unit: u32, key: Option<&[u8]>| {
            block.units.push(unit);
            block.keys.push(key);
        };
        let right = |key: &[u8]| partition_of(Partitioner::Murmur2, key, 3).unwrap() as u32;
        for number in 0..100_u32 {
            let key = number.to_string();
            push(right(key.as_bytes()), Some(key.as_bytes()));
        }
        push((right(b"x") + 1) % 3, Some(b"x"));
        push(0, None);
        push((right(b"y") + 2) % 3, Some(b"y"));
        push(9, Some(b"of a partition that is not ours"));
        assert_eq!(check.num_misplaced(&block, |_| true), 2);
        assert_eq!(check.num_misplaced(&block, |record| record != 100), 1, "those that were counted before are not");
        check.forget(Assignment((right(b"x") + 1) % 3));
        assert_eq!(check.num_misplaced(&block, |_| true), u64::from((right(b"x") + 1) % 3 != (right(b"y") + 2) % 3));
    }
}
