//! Latency from produce to emission, over every record: a histogram that percentiles are read from, and its page for
//! Prometheus. The recorder of the other metrics keeps each sample until somebody asks, which is too much for every record.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use hdrhistogram::Histogram;

use super::metrics::{LATENCY_BUCKETS_SECONDS, name};

/// Largest latency told apart, milliseconds: a day.
const MAX_MILLIS: u64 = 86_400_000;

/// A shared histogram of milliseconds.
#[derive(Debug, Clone)]
pub struct Latency(Arc<Mutex<Recorded>>);

#[derive(Debug)]
struct Recorded {
    histogram: Histogram<u64>,
    sum_millis: u64,
}

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that the library accepts.
        let histogram =
            Histogram::new_with_bounds(1, MAX_MILLIS, 3).unwrap_or_else(|_| unreachable!("constant bounds"));
        Latency(Arc::new(Mutex::new(Recorded { histogram, sum_millis: 0 })))
    }
}

impl Latency {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds `(milliseconds, records)` pairs; one lock for all of them.
    pub fn record(&self, counts: impl IntoIterator<Item = (u64, u64)>) {
        let mut recorded = self.lock();
        for (millis, records) in counts {
            recorded.histogram.saturating_record_n(millis, records);
            recorded.sum_millis = recorded.sum_millis.saturating_add(millis.saturating_mul(records));
        }
    }

    /// The latency, milliseconds, that `quantile` (0 to 1) of the records did not exceed; `None` without records.
    #[must_use]
    pub fn quantile_millis(&self, quantile: f64) -> Option<u64> {
        let histogram = &self.lock().histogram;
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
    }

    /// Number of records.
    #[must_use]
    pub fn num_records(&self) -> u64 {
        self.lock().histogram.len()
    }

    /// The histogram as text for Prometheus, exposition format 0.0.4. Bounds above two seconds count to 0.1 %.
    #[must_use]
    pub fn exposition(&self) -> String {
        let recorded = self.lock();
        let name = name::LATENCY;
        let mut text = format!(
            "# HELP {name} from the broker's timestamp of a record to the emission of its rows\n# TYPE {name} histogram\n"
        );
        let mut line = |line: std::fmt::Arguments<'_>| {
            let written = writeln!(text, "{name}{line}");
            debug_assert!(written.is_ok(), "a String takes all text");
        };
        for bound in LATENCY_BUCKETS_SECONDS {
            let millis = (bound * 1e3).round() as u64;
            line(format_args!("_bucket{{le=\"{bound}\"}} {}", recorded.histogram.count_between(0, millis)));
        }
        let count = recorded.histogram.len();
        line(format_args!("_bucket{{le=\"+Inf\"}} {count}"));
        line(format_args!("_sum {}", recorded.sum_millis as f64 / 1e3));
        line(format_args!("_count {count}"));
        text
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

    #[test]
    fn the_page_counts_each_record_below_the_bounds_that_it_kept() {
        let latency = Latency::default();
        latency.record([(0, 1), (1, 2), (2, 4), (1500, 8), (100_000, 16)]);
        let page = latency.exposition();
        for line in [
            "_bucket{le=\"0.001\"} 3",
            "_bucket{le=\"0.002\"} 7",
            "_bucket{le=\"1\"} 7",
            "_bucket{le=\"2\"} 15",
            "_bucket{le=\"60\"} 15",
            "_bucket{le=\"+Inf\"} 31",
            "_sum 1612.01",
            "_count 31",
        ] {
            let line = format!("tidemill_produce_to_emit_seconds{line}\n");
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
    }
}
