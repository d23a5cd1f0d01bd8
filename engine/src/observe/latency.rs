//! Latency from produce to emission, over every record: a histogram that percentiles are read from.

use std::sync::{Arc, Mutex, MutexGuard};

use hdrhistogram::Histogram;

/// Largest latency told apart, milliseconds: a day.
const MAX_MILLIS: u64 = 86_400_000;

/// A shared histogram of milliseconds.
#[derive(Debug, Clone)]
pub struct Latency(Arc<Mutex<Histogram<u64>>>);

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that the library accepts.
        let histogram =
            Histogram::new_with_bounds(1, MAX_MILLIS, 3).unwrap_or_else(|_| unreachable!("constant bounds"));
        Latency(Arc::new(Mutex::new(histogram)))
    }
}

impl Latency {
    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds `(milliseconds, records)` pairs; one lock for all of them.
    pub fn record(&self, counts: impl IntoIterator<Item = (u64, u64)>) {
        let mut histogram = self.lock();
        for (millis, records) in counts {
            histogram.saturating_record_n(millis, records);
        }
    }

    /// The latency, milliseconds, that `quantile` (0 to 1) of the records did not exceed; `None` without records.
    #[must_use]
    pub fn quantile_millis(&self, quantile: f64) -> Option<u64> {
        let histogram = self.lock();
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
    }

    /// Number of records.
    #[must_use]
    pub fn num_records(&self) -> u64 {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_records() {
        let latency = Latency::default();
        assert_eq!(latency.quantile_millis(0.5), None);
        latency.record([(2, 98), (50, 2)]);
        assert_eq!(latency.quantile_millis(0.5), Some(2));
        assert_eq!(latency.quantile_millis(0.99), Some(50));
        assert_eq!(latency.num_records(), 100);
    }
}
