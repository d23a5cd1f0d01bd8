//! From training rows to a reference profile: where the edges lie, what falls between them, and which features drift by
//! construction. Deterministic: no sampling by chance.

use std::collections::BTreeSet;

use tidemill_udfs::bins::{Binner, EDGES_MAX, MISSING};

use super::compare::{HOURS, hour_of_day, psi};
use super::{ColumnProfile, REFERENCE_PROFILE_VERSION, ReferenceProfile, SCORE};
use crate::error::{Error, Result};

/// Bins of equal shares that edges are sought for.
const QUANTILE_BINS: usize = 16;
/// A column with at most this many distinct values has a bin for each.
const VALUES_MAX: usize = EDGES_MAX / 2;
/// Values that quantiles are taken from, about: every n-th.
const SAMPLE_ROWS: usize = 65_536;
/// Parts of the training rows, in the order of time, that a feature which drifts by construction grows through.
const SLICES: usize = 10;
/// PSI between the first and the last three of them from which on it does.
const PSI_BY_CONSTRUCTION: f64 = 0.1;
/// Days of the training rows, each with as many rows, that it takes to say that a feature differs from day to day; the PSI against
/// the day before from which on a day is another one; and how often that must be.
const DAYS_MIN: usize = 7;
const DAY_ROWS_MIN: u64 = 1000;
const PSI_OF_DAYS: f64 = 0.2;
const JUMPS_MIN: usize = 3;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Makes a profile column by column, so that the rows need not stand in memory twice.
#[derive(Debug)]
pub struct ProfileBuilder {
    hours: Vec<u8>,
    /// Where each row's day stands among the days that have rows.
    days: Vec<u32>,
    num_days: usize,
    not_judged: BTreeSet<String>,
    profile: ReferenceProfile,
}

impl ProfileBuilder {
    /// For rows with these event times (microseconds since 1970-01-01 UTC), in their order. Features in `not_judged` are counted
    /// and shown; a difference in them is no alarm.
    pub fn new(event_times: &[i64], not_judged: &[String]) -> Result<ProfileBuilder> {
        let (Some(first), Some(last)) = (event_times.iter().min(), event_times.iter().max()) else {
            return Err(Error::data("a reference profile needs rows, found none"));
        };
        let hours: Vec<u8> = event_times.iter().map(|time| hour_of_day(*time) as u8).collect();
        let day_of = |time: &i64| time.div_euclid(MICROS_PER_DAY);
        let known: BTreeSet<i64> = event_times.iter().map(day_of).collect();
        let known: Vec<i64> = known.into_iter().collect();
        let days = event_times.iter().map(|time| known.partition_point(|day| *day < day_of(time)) as u32).collect();
        let mut rows_by_hour = vec![0; HOURS];
        hours.iter().for_each(|hour| rows_by_hour[usize::from(*hour)] += 1);
        let profile = ReferenceProfile {
            version: REFERENCE_PROFILE_VERSION,
            rows: hours.len() as u64,
            first_event_time: *first,
            last_event_time: *last,
            rows_by_hour,
            features: Vec::new(),
            score: None,
        };
        Ok(ProfileBuilder {
            hours,
            days,
            num_days: known.len(),
            not_judged: not_judged.iter().cloned().collect(),
            profile,
        })
    }

    /// Adds the next feature; NaN is a missing value.
    pub fn feature(&mut self, name: &str, values: impl Iterator<Item = f64> + Clone) -> Result<()> {
        let mut column = self.column(name, values)?;
        if self.not_judged.contains(name) {
            column.not_judged = Some("named as not to be judged".to_owned());
        }
        self.profile.features.push(column);
        Ok(())
    }

    /// Adds the score. It is always judged: a trend in it is what one wants to hear of.
    pub fn score(&mut self, values: impl Iterator<Item = f64> + Clone) -> Result<()> {
        let mut column = self.column(SCORE, values)?;
        column.not_judged = None;
        self.profile.score = Some(column);
        Ok(())
    }

    /// The profile.
    pub fn finish(self) -> Result<ReferenceProfile> {
        let known = |name: &&String| self.profile.features.iter().any(|feature| feature.name == **name);
        if let Some(unknown) = self.not_judged.iter().find(|name| !known(name)) {
            let names: Vec<&str> = self.profile.features.iter().map(|feature| feature.name.as_str()).collect();
            return Err(Error::invalid(format!(
                "no feature is named {unknown}, which is not to be judged for drift; features: {}",
                names.join(", ")
            )));
        }
        Ok(self.profile)
    }

    fn column(&self, name: &str, values: impl Iterator<Item = f64> + Clone) -> Result<ColumnProfile> {
        let (distinct, edges) = edges(values.clone(), self.hours.len());
        let binner =
            Binner::new(&edges).ok_or_else(|| Error::internal(format!("the edges of {name} do not ascend")))?;
        let num_bins = edges.len() + 1;
        let mut counts = vec![vec![0_u64; num_bins + 1]; HOURS];
        let mut slices = vec![vec![0_u64; num_bins + 1]; SLICES];
        let mut days = vec![vec![0_u64; num_bins + 1]; self.num_days];
        let (mut row, num_rows) = (0, self.hours.len());
        for value in values.take(num_rows) {
            let bin = match binner.bin(value) {
                MISSING => num_bins,
                bin => bin,
            };
            counts[usize::from(self.hours[row])][bin] += 1;
            slices[row * SLICES / num_rows][bin] += 1;
            days[self.days[row] as usize][bin] += 1;
            row += 1;
        }
        if row != num_rows {
            return Err(Error::internal(format!("{num_rows} rows, but {row} values of {name}")));
        }
        Ok(ColumnProfile {
            name: name.to_owned(),
            values: distinct,
            edges,
            counts,
            not_judged: by_construction(&slices).or_else(|| from_day_to_day(&days)),
        })
    }
}

impl ReferenceProfile {
    /// The profile of training rows in the order of event time: `columns` by name in the model's order, and the scores of the
    /// same rows. A feature that grows through them, as a counter does, or that differs from day to day, as a weekday does, is found
    /// and not judged.
    pub fn of(
        columns: &[(&str, &[f64])],
        scores: Option<&[f64]>,
        event_times: &[i64],
        not_judged: &[String],
    ) -> Result<ReferenceProfile> {
        let mut builder = ProfileBuilder::new(event_times, not_judged)?;
        for (name, values) in columns {
            builder.feature(name, values.iter().copied())?;
        }
        if let Some(scores) = scores {
            builder.score(scores.iter().copied())?;
        }
        builder.finish()
    }
}

/// Distinct values, when they are few, and the edges. Edges lie between values, so that reading them back a little off moves
/// no row.
fn edges(values: impl Iterator<Item = f64> + Clone, num_rows: usize) -> (Option<Vec<f64>>, Vec<f64>) {
    if let Some(distinct) = few_values(values.clone()) {
        let edges = edges_around(&distinct);
        return (Some(distinct), edges);
    }
    let mut sample: Vec<f64> =
        values.step_by(num_rows.div_ceil(SAMPLE_ROWS).max(1)).filter(|value| value.is_finite()).collect();
    sample.sort_unstable_by(f64::total_cmp);
    let mut edges: Vec<f64> = Vec::new();
    for bin in 1..QUANTILE_BINS {
        let Some(value) = sample.get(sample.len() * bin / QUANTILE_BINS) else { continue };
        // Before this value, and behind it where it fills a bin alone.
        let first = sample.partition_point(|other| other < value);
        let behind = sample.partition_point(|other| other <= value);
        if let Some(before) = first.checked_sub(1).map(|before| sample[before]) {
            edges.push(before.midpoint(*value));
        }
        if (behind - first) * QUANTILE_BINS >= sample.len()
            && let Some(after) = sample.get(behind)
        {
            edges.push(value.midpoint(*after));
        }
    }
    edges.sort_unstable_by(f64::total_cmp);
    edges.dedup();
    edges.truncate(EDGES_MAX);
    (None, edges)
}

/// All finite values, when they are few.
fn few_values(values: impl Iterator<Item = f64>) -> Option<Vec<f64>> {
    let mut distinct: Vec<f64> = Vec::new();
    for value in values.filter(|value| value.is_finite()) {
        // Zero has two signs and is one value.
        let value = value + 0.0;
        if let Err(place) = distinct.binary_search_by(|known| known.total_cmp(&value)) {
            if distinct.len() == VALUES_MAX {
                return None;
            }
            distinct.insert(place, value);
        }
    }
    Some(distinct)
}

/// An edge on each side of each value: what lies between two values was not there in training, and is to be seen.
fn edges_around(distinct: &[f64]) -> Vec<f64> {
    let mut edges = Vec::with_capacity(2 * distinct.len());
    for (at, value) in distinct.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| (value - distinct[before]) / 4.0);
        let after = distinct.get(at + 1).map(|after| (after - value) / 4.0);
        let alone = value.abs().max(1.0) / 4.0;
        edges.push(value - before.or(after).unwrap_or(alone).min(alone));
        edges.push(value + after.or(before).unwrap_or(alone).min(alone));
    }
    // Values so close that nothing lies between them share their edges, and none lies beyond all numbers.
    edges.retain(|edge| edge.is_finite());
    edges.sort_unstable_by(f64::total_cmp);
    edges.dedup();
    edges
}

/// Says so when a feature grows, or shrinks, from each part of the training rows to the next, and ends elsewhere than it began:
/// it will be elsewhere again when the model serves, whatever the world does.
fn by_construction(slices: &[Vec<u64>]) -> Option<String> {
    let mean_bin = |slice: &Vec<u64>| {
        let bins = &slice[..slice.len() - 1];
        let rows: u64 = bins.iter().sum();
        let sum: u64 = bins.iter().enumerate().map(|(bin, rows)| bin as u64 * rows).sum();
        (rows > 0).then(|| sum as f64 / rows as f64)
    };
    let means: Vec<f64> = slices.iter().map(mean_bin).collect::<Option<_>>()?;
    let grows = means.windows(2).all(|pair| pair[0] < pair[1]);
    let shrinks = means.windows(2).all(|pair| pair[0] > pair[1]);
    if !grows && !shrinks {
        return None;
    }
    let sum = |slices: &[Vec<u64>]| -> Vec<f64> {
        let places = 0..slices[0].len();
        places.map(|place| slices.iter().map(|slice| slice[place]).sum::<u64>() as f64).collect()
    };
    let psi = psi(&sum(&slices[SLICES - 3..]), &sum(&slices[..3]));
    let direction = if grows { "grows" } else { "shrinks" };
    (psi >= PSI_BY_CONSTRUCTION).then(|| {
        format!(
            "drifts by construction: it {direction} from each tenth of the training rows to the next, PSI {psi:.2} from the first \
             three to the last three"
        )
    })
}

/// Says so when days of training are far from the day before again and again, as weekdays and weekends are: so will be the days
/// that are served. A world that changed once, or changed and went back, is none of that.
fn from_day_to_day(days: &[Vec<u64>]) -> Option<String> {
    let days: Vec<Vec<f64>> = days
        .iter()
        .filter(|day| day.iter().sum::<u64>() >= DAY_ROWS_MIN)
        .map(|day| day.iter().map(|rows| *rows as f64).collect())
        .collect();
    let jumps = days.windows(2).filter(|pair| psi(&pair[1], &pair[0]) > PSI_OF_DAYS).count();
    (days.len() >= DAYS_MIN && jumps >= JUMPS_MIN).then(|| {
        format!(
            "differs from day to day by construction: {jumps} of {} training days have a PSI above {PSI_OF_DAYS} against the day before",
            days.len()
        )
    })
}
