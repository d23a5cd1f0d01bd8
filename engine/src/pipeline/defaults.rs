//! Defaults of the pipeline file, by name, as its types ask for them.

use std::time::Duration;

use super::forms::Text;
use super::text::ByteSize;

pub(super) fn millis(millis: u64) -> Text<Duration> {
    Text(Duration::from_millis(millis))
}

pub(super) fn second() -> Text<Duration> {
    millis(1_000)
}

pub(super) fn minute() -> Text<Duration> {
    millis(60_000)
}

pub(super) fn ten_seconds() -> Text<Duration> {
    millis(10_000)
}

pub(super) fn hour() -> Text<Duration> {
    millis(3_600_000)
}

pub(super) fn two_hours() -> Text<Duration> {
    millis(2 * 3_600_000)
}

pub(super) fn ninety_days() -> Text<Duration> {
    millis(90 * 86_400_000)
}

pub(super) fn mebibyte() -> Text<ByteSize> {
    Text(ByteSize(1 << 20))
}

pub(super) fn parquet_bytes() -> Text<ByteSize> {
    Text(ByteSize(128 << 20))
}

pub(super) fn parquet_rows() -> u64 {
    1_000_000
}

pub(super) fn rejection_window() -> u64 {
    10_000
}

pub(super) fn retain() -> u64 {
    10
}
