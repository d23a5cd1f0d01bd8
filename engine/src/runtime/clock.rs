//! The only place that reads a clock. Operators never see it; triggers, metrics and log lines do.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment for measuring durations and deadlines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970-01-01 UTC, by this machine's wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// A clock that starts now at zero and never goes back.
pub fn monotonic() -> impl Fn() -> Duration + Send + Sync + 'static {
    let start = now();
    move || start.elapsed()
}
