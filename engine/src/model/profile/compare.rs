//! How far counts of served rows are from a reference profile: PSI and the largest distance of the cumulative shares, over bins.
//! Hour-matched: the reference is mixed from its hours of day in the proportions of the served rows, so that a part of a day
//! is held against the same part of the days of training. Pure.

use super::{ColumnProfile, ReferenceProfile};

/// Hours of a day.
pub const HOURS: usize = 24;
/// Rows by hour of day, UTC.
pub type HourWeights = [u64; HOURS];

/// Share that an empty bin counts as. Without it one row where there was none would be infinitely far.
const SHARE_FLOOR: f64 = 1e-4;
/// An hour of the reference with fewer rows says nothing by itself; the whole reference stands in for it.
const HOUR_ROWS_MIN: u64 = 500;
const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// The hour of day of an event time, UTC.
#[must_use]
pub fn hour_of_day(event_time: i64) -> usize {
    event_time.div_euclid(MICROS_PER_HOUR).rem_euclid(HOURS as i64) as usize
}

/// How far served rows are from the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Population stability index: 0 is the same, above 0.1 is to be watched, above 0.2 is another distribution.
    pub psi: f64,
    /// Largest distance of the cumulative shares at an edge, missing values left out: from 0 to 1.
    pub ks: f64,
    /// Share of missing values in the served rows.
    pub missing_share: f64,
    /// The same in the reference.
    pub reference_missing_share: f64,
}

impl ReferenceProfile {
    /// The share of the reference's rows that fall into hours of day in which `served` has any. 1 is a whole day.
    #[must_use]
    pub fn coverage(&self, served: &HourWeights) -> f64 {
        let covered: u64 =
            self.rows_by_hour.iter().zip(served).filter(|(_, served)| **served > 0).map(|(rows, _)| rows).sum();
        covered as f64 / self.rows.max(1) as f64
    }
}

impl ColumnProfile {
    /// The reference's shares by bin, missing values last, in the served rows' mix of hours.
    #[must_use]
    pub fn reference_shares(&self, served: &HourWeights) -> Vec<f64> {
        let num_places = self.num_bins() + 1;
        let mut whole = vec![0.0; num_places];
        for hour in &self.counts {
            hour.iter().zip(&mut whole).for_each(|(rows, sum)| *sum += *rows as f64);
        }
        let whole = shares(&whole);
        let mut mixed = vec![0.0; num_places];
        for (hour, weight) in self.counts.iter().zip(served) {
            let rows: u64 = hour.iter().sum();
            for (place, sum) in mixed.iter_mut().enumerate() {
                let share = if rows < HOUR_ROWS_MIN { whole[place] } else { hour[place] as f64 / rows as f64 };
                *sum += share * *weight as f64;
            }
        }
        shares(&mixed)
    }

    /// The distance of served rows, by bin with missing values last, `by_hour` being how many of them there are in each hour.
    #[must_use]
    pub fn distance(&self, served: &[u64], by_hour: &HourWeights) -> Distance {
        let served: Vec<f64> = served.iter().map(|rows| *rows as f64).collect();
        let reference = self.reference_shares(by_hour);
        let missing = |places: &[f64]| places.last().copied().unwrap_or(0.0) / places.iter().sum::<f64>().max(1e-300);
        Distance {
            psi: psi(&served, &reference),
            ks: ks(&served[..served.len().saturating_sub(1)], &reference[..reference.len().saturating_sub(1)]),
            missing_share: missing(&served),
            reference_missing_share: missing(&reference),
        }
    }
}

fn shares(counts: &[f64]) -> Vec<f64> {
    let sum: f64 = counts.iter().sum();
    counts.iter().map(|count| if sum > 0.0 { count / sum } else { 0.0 }).collect()
}

/// Population stability index of two counts, or shares, over the same bins: the sum of `(p - q) ln(p / q)`. Nothing is 0 away
/// from everything: a side without rows says nothing.
#[must_use]
pub fn psi(served: &[f64], reference: &[f64]) -> f64 {
    let (served, reference) = (shares(served), shares(reference));
    if served.iter().sum::<f64>() == 0.0 || reference.iter().sum::<f64>() == 0.0 {
        return 0.0;
    }
    let term = |(p, q): (&f64, &f64)| {
        let (p, q) = (p.max(SHARE_FLOOR), q.max(SHARE_FLOOR));
        (p - q) * (p / q).ln()
    };
    served.iter().zip(&reference).map(term).sum()
}

/// Largest distance of the cumulative shares of two counts over the same bins.
#[must_use]
pub fn ks(served: &[f64], reference: &[f64]) -> f64 {
    let (served, reference) = (shares(served), shares(reference));
    if served.iter().sum::<f64>() == 0.0 || reference.iter().sum::<f64>() == 0.0 {
        return 0.0;
    }
    let mut distance = 0.0;
    let mut largest: f64 = 0.0;
    for (p, q) in served.iter().zip(&reference) {
        distance += p - q;
        largest = largest.max(f64::abs(distance));
    }
    largest
}
