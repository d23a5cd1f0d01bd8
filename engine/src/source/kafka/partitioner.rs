//! Which partition a producer writes a key to. librdkafka's own functions: those of the Java client as it has them, and its own.

#![expect(unsafe_code, reason = "the partitioners exist in librdkafka's C API only")]

use std::ptr;

use rdkafka_sys as sys;

use crate::pipeline::settings::Partitioner;

/// The partition of `key` in a topic of `num_partitions`.
#[must_use]
pub fn partition(partitioner: Partitioner, key: &[u8], num_partitions: u32) -> i32 {
    let function = match partitioner {
        Partitioner::Murmur2 => sys::rd_kafka_msg_partitioner_murmur2,
        Partitioner::Crc32 => sys::rd_kafka_msg_partitioner_consistent,
    };
    let count = i32::try_from(num_partitions.max(1)).unwrap_or(i32::MAX);
    // SAFETY: both read `key` for its length and nothing else; the topic and the opaque pointers are not looked at.
    unsafe { function(ptr::null(), key.as_ptr().cast(), key.len(), count, ptr::null_mut(), ptr::null_mut()) }
}

/// The partition that a key belongs to; `None` of one that may go anywhere: librdkafka's default spreads empty keys.
#[must_use]
pub(super) fn partition_of(partitioner: Partitioner, key: &[u8], num_partitions: u32) -> Option<i32> {
    let goes_anywhere = partitioner == Partitioner::Crc32 && key.is_empty();
    (!goes_anywhere && num_partitions > 0).then(|| partition(partitioner, key, num_partitions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_the_java_client() {
        // From the tests of Kafka's `Utils.murmur2`; the partition is the positive hash modulo the number of partitions.
        let known = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            let positive = hash & 0x7fff_ffff;
            assert_eq!(partition(Partitioner::Murmur2, key.as_bytes(), 1_000_003), positive % 1_000_003, "{key}");
        }
    }

    #[test]
    fn a_key_that_may_go_anywhere_belongs_to_no_partition() {
        assert_eq!(partition_of(Partitioner::Crc32, b"", 3), None);
        assert_eq!(partition_of(Partitioner::Murmur2, b"", 3), Some(0x106E_08D9 % 3));
        assert_eq!(partition_of(Partitioner::Murmur2, b"x", 0), None);
    }

    #[test]
    fn crc32_is_the_usual_one() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(i64::from(partition(Partitioner::Crc32, b"123456789", 1_000_003)), 0xcbf4_3926_i64 % 1_000_003);
    }
}
