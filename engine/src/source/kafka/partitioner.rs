//! Which partition a producer writes a key to. librdkafka's own functions: those of the Java client as it has them, and its own.

#![expect(unsafe_code, reason = "the partitioners exist in librdkafka's C API only")]

use std::ptr;

use rdkafka_sys as sys;

/// How producers choose the partition of a message with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Partitioner {
    /// Murmur2, as Kafka's Java client and those that follow it (kafka-python, franz-go, sarama by choice).
    Murmur2,
    /// CRC32, the default of librdkafka and of what is built on it (confluent-kafka for Python, Go and .NET).
    Crc32,
}

impl Partitioner {
    /// The partition of `key` in a topic of `num_partitions`.
    #[must_use]
    pub fn partition(self, key: &[u8], num_partitions: u32) -> i32 {
        let function = match self {
            Partitioner::Murmur2 => sys::rd_kafka_msg_partitioner_murmur2,
            Partitioner::Crc32 => sys::rd_kafka_msg_partitioner_consistent,
        };
        let count = i32::try_from(num_partitions.max(1)).unwrap_or(i32::MAX);
        // SAFETY: both read `key` for its length and nothing else; the topic and the opaque pointers are not looked at.
        unsafe { function(ptr::null(), key.as_ptr().cast(), key.len(), count, ptr::null_mut(), ptr::null_mut()) }
    }
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
            assert_eq!(Partitioner::Murmur2.partition(key.as_bytes(), 1_000_003), positive % 1_000_003, "{key}");
        }
    }

    #[test]
    fn crc32_is_the_usual_one() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(i64::from(Partitioner::Crc32.partition(b"123456789", 1_000_003)), 0xcbf4_3926_i64 % 1_000_003);
    }
}
