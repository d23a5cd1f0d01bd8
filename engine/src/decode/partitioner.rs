//! Whether records lie in the partition that their message keys belong to. A key in two partitions, as mixed producers or added
//! partitions make it, splits its history silently; here it is counted, and said once for each partition. Never a key itself.

use std::collections::BTreeMap;

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

    /// How many records of a block have a key that belongs to another partition. Records without a key may lie anywhere.
    pub fn num_misplaced(&mut self, block: &RecordBlock) -> u64 {
        let (mut start, mut misplaced) = (0, 0);
        while start < block.len() {
            // Records come in runs of one partition.
            let unit = block.units[start];
            let end = (start..block.len()).find(|record| block.units[*record] != unit).unwrap_or(block.len());
            if let Some(place) = self.units.get_mut(&unit) {
                let wrong = (start..end).filter(|record| {
                    let key = block.keys.get(*record);
                    key.and_then(|key| self.partitioner.partition_of(key, place.num_partitions))
                        .is_some_and(|partition| i64::from(partition) != i64::from(place.unit.partition))
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

impl Partitioner {
    /// The partition that a key belongs to; `None` of one that may go anywhere.
    #[must_use]
    fn partition_of(self, key: &[u8], num_partitions: u32) -> Option<u32> {
        match self {
            Partitioner::Murmur2 => (murmur2(key) & 0x7FFF_FFFF).checked_rem(num_partitions),
            Partitioner::Crc32 if key.is_empty() => None,
            Partitioner::Crc32 => crc32(key).checked_rem(num_partitions),
        }
    }
}

/// The hash of Kafka's Java clients.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mixed = |word: u32| {
        let word = word.wrapping_mul(M);
        (word ^ (word >> 24)).wrapping_mul(M)
    };
    let (words, rest) = key.as_chunks::<4>();
    let mut hash = 0x9747_B28C ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    for word in words {
        hash = hash.wrapping_mul(M) ^ mixed(u32::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The checksum of zlib, which librdkafka takes by default.
fn crc32(key: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut value, mut bit) = (byte as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !key.iter().fold(!0, |crc: u32, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_kafkas_java_clients() {
        // From the tests of librdkafka.
        for (key, hash) in [
            ("kafka", 0xD067_CF64_u32),
            ("giberish123456789", 0x8F55_2B0C),
            ("1234", 0x9FC9_7B14),
            ("234", 0xE7C0_09CA),
            ("34", 0x8739_30DA),
            ("4", 0x5A4B_5CA1),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4F1C),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4A62_B377),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xE0E4_E09E),
            ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62B8_B43F),
            ("", 0x106E_08D9),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn crc32_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"The quick brown fox jumps over the lazy dog"), 0x414F_A339);
    }

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
        let right = |key: &[u8]| Partitioner::Murmur2.partition_of(key, 3).unwrap();
        for number in 0..100_u32 {
            let key = number.to_string();
            push(right(key.as_bytes()), Some(key.as_bytes()));
        }
        push((right(b"x") + 1) % 3, Some(b"x"));
        push(0, None);
        push((right(b"y") + 2) % 3, Some(b"y"));
        push(9, Some(b"of a partition that is not ours"));
        assert_eq!(check.num_misplaced(&block), 2);
        check.forget(Assignment((right(b"x") + 1) % 3));
        assert_eq!(check.num_misplaced(&block), u64::from((right(b"x") + 1) % 3 != (right(b"y") + 2) % 3));
    }
}
