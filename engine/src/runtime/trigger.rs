//! When an epoch starts and how large it may be. Decides from what is pending; reads no clock.

use std::time::Duration;

/// Bytes of keys and payloads that make an epoch due and full, whatever its rows: 64 MiB.
pub(super) const EPOCH_BYTES_MAX: usize = 64 << 20;

/// When an epoch starts and how large it may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trigger {
    pub(crate) max_batch_rows: usize,
    pub(crate) max_wait: Duration,
}

impl Trigger {
    /// Whether `pending` (rows, bytes) fill an epoch.
    pub(super) fn is_full(self, pending: (usize, usize)) -> bool {
        pending.0 >= self.max_batch_rows || pending.1 >= EPOCH_BYTES_MAX
    }

    /// Whether to run what is pending now: it is full, it has waited long enough, or nothing more can come.
    pub(crate) fn is_due(self, pending: (usize, usize), waited: Duration, is_exhausted: bool) -> bool {
        pending.0 > 0 && (self.is_full(pending) || waited >= self.max_wait || is_exhausted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_starts_with_the_first_record_when_nothing_is_to_be_waited_for() {
        let trigger = Trigger { max_batch_rows: 100, max_wait: Duration::ZERO };
        assert!(trigger.is_due((1, 0), Duration::ZERO, false));
        assert!(!trigger.is_due((0, 0), Duration::from_secs(1), true));
    }

    #[test]
    fn an_epoch_waits_for_more_rows_but_not_past_its_deadline_its_size_or_the_end() {
        let trigger = Trigger { max_batch_rows: 100, max_wait: Duration::from_millis(5) };
        assert!(!trigger.is_due((99, 0), Duration::from_millis(4), false));
        assert!(trigger.is_due((99, 0), Duration::from_millis(5), false));
        assert!(trigger.is_due((100, 0), Duration::ZERO, false));
        assert!(trigger.is_due((2, EPOCH_BYTES_MAX), Duration::ZERO, false));
        assert!(trigger.is_due((1, 0), Duration::ZERO, true));
    }
}
