//! The rate limit of a source: a token bucket that holds a tenth of a second. Pure: the caller says what time it is.

use std::time::{Duration, Instant};

/// Says how many records may be taken now.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    tokens: f64,
    last: Instant,
}

impl Pace {
    /// At most `per_second` records a second; at least one.
    pub(super) fn new(per_second: u64, now: Instant) -> Pace {
        Pace { per_second: per_second.max(1) as f64, tokens: 1.0, last: now }
    }

    /// Records that may be taken now.
    pub(super) fn available(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        let most = (self.per_second / 10.0).max(1.0);
        self.tokens = (self.tokens + elapsed * self.per_second).min(most);
        self.last = now;
        self.tokens.max(0.0) as usize
    }

    /// Records were taken.
    pub(super) fn take(&mut self, records: usize) {
        self.tokens -= records as f64;
    }

    /// Time until one record may be taken.
    pub(super) fn until_next(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_the_rate_through_and_no_more() {
        let start = super::super::now();
        let mut pace = Pace::new(1000, start);
        let mut taken = 0;
        for millisecond in 0..1000 {
            let records = pace.available(start + Duration::from_millis(millisecond));
            pace.take(records);
            taken += records;
        }
        assert!((999..=1001).contains(&taken), "{taken}");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = super::super::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.available(start + Duration::from_secs(60)), 100);
    }

    #[test]
    fn the_wait_for_the_next_record_is_one_over_the_rate() {
        let start = super::super::now();
        let mut pace = Pace::new(4, start);
        assert_eq!(pace.available(start), 1);
        pace.take(1);
        assert_eq!(pace.until_next(), Duration::from_millis(250));
        assert_eq!(pace.available(start + Duration::from_millis(251)), 1);
    }
}
