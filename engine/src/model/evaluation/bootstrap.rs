//! How far the area under the precision-recall curve would move with other test rows. Drawn are whole UTC days where there are enough
//! of them, because the rows of a fraud campaign stand and fall together and a day holds most of one; rows drawn one by one would
//! give an interval that is too narrow. With too few days, rows are drawn, positives and others apart, so that the share of
//! positives, on which the area depends, stays put. Seeded.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::document::{Estimate, PairedPrAuc, Resampling};
use super::examples::day;
use super::ranking::{average_precision, by_falling_score};

/// Days with positives from which on whole days are drawn.
const DAYS_LEAST: usize = 10;

/// How an interval is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Samples.
    pub rounds: u32,
    /// The share of samples inside the interval.
    pub confidence: f64,
    /// Seed of the samples.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { rounds: 400, confidence: 0.95, seed: 42 }
    }
}

/// What is drawn, with replacement and as many as there are.
enum Units {
    /// For each row the index of its day; the number of days.
    Days(Vec<u32>, usize),
    /// The positive rows, and the others.
    Rows([Vec<u32>; 2]),
}

impl Units {
    fn new(labels: &[bool], times: &[i64]) -> Self {
        let mut index_of_day: BTreeMap<i64, (u32, bool)> = BTreeMap::new();
        for (time, label) in times.iter().zip(labels) {
            let next = index_of_day.len() as u32;
            let entry = index_of_day.entry(day(*time)).or_insert((next, false));
            entry.1 |= *label;
        }
        let days_with_positives = index_of_day.values().filter(|(_, has_positives)| *has_positives).count();
        if days_with_positives >= DAYS_LEAST {
            let index = times.iter().map(|time| index_of_day.get(&day(*time)).map_or(0, |(index, _)| *index));
            return Units::Days(index.collect(), index_of_day.len());
        }
        let rows = |wanted| (0..labels.len() as u32).filter(|row| labels[*row as usize] == wanted).collect();
        Units::Rows([rows(true), rows(false)])
    }

    fn resampling(&self) -> Resampling {
        match self {
            Units::Days(..) => Resampling::Days,
            Units::Rows(_) => Resampling::Rows,
        }
    }

    /// A sample: for each row, how often it is in it.
    fn draw(&self, random: &mut Xoshiro256PlusPlus, weights: &mut [u32]) {
        match self {
            Units::Days(day_of_row, num_days) => {
                let mut weight_of_day = vec![0_u32; *num_days];
                for _ in 0..*num_days {
                    weight_of_day[random.random_range(0..*num_days)] += 1;
                }
                for (weight, day) in weights.iter_mut().zip(day_of_row) {
                    *weight = weight_of_day[*day as usize];
                }
            }
            Units::Rows(strata) => {
                weights.fill(0);
                for rows in strata {
                    for _ in 0..rows.len() {
                        weights[rows[random.random_range(0..rows.len())] as usize] += 1;
                    }
                }
            }
        }
    }
}

/// The rows of one model by falling score, ready for many samples.
struct Ranked {
    /// Row, whether it is positive, whether the next row has another score.
    rows: Vec<(u32, bool, bool)>,
}

impl Ranked {
    fn new(scores: &[f64], labels: &[bool]) -> Self {
        let order = by_falling_score(scores, &[]);
        let ends =
            |at: usize| order.get(at + 1).is_none_or(|next| scores[*next as usize] != scores[order[at] as usize]);
        Ranked { rows: order.iter().enumerate().map(|(at, row)| (*row, labels[*row as usize], ends(at))).collect() }
    }

    /// Average precision of a sample. `None` when it holds no positive.
    fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut seen, mut hits, mut before, mut sum) = (0_u64, 0_u64, 0_u64, 0.0);
        for (row, is_positive, ends_step) in &self.rows {
            let weight = u64::from(weights[*row as usize]);
            seen += weight;
            hits += if *is_positive { weight } else { 0 };
            if *ends_step && hits > before {
                sum += (hits - before) as f64 * hits as f64 / seen as f64;
                before = hits;
            }
        }
        (hits > 0).then(|| sum / hits as f64)
    }
}

/// Area under the precision-recall curve with its interval.
pub(super) fn pr_auc(scores: &[f64], labels: &[bool], times: &[i64], bootstrap: &Bootstrap) -> Estimate {
    let ranked = Ranked::new(scores, labels);
    samples(labels, times, bootstrap, average_precision(scores, labels), |weights| ranked.average_precision(weights))
}

/// The areas of two models on the same rows, and their difference with its interval. Both see the same samples, so what is luck of
/// the rows cancels out: the interval is far narrower than two separate ones.
#[must_use]
pub fn paired_pr_auc(
    candidate: &[f64],
    champion: &[f64],
    labels: &[bool],
    times: &[i64],
    bootstrap: &Bootstrap,
) -> PairedPrAuc {
    let ranked = [Ranked::new(candidate, labels), Ranked::new(champion, labels)];
    let areas = [average_precision(candidate, labels), average_precision(champion, labels)];
    let difference = samples(labels, times, bootstrap, areas[0] - areas[1], |weights| {
        Some(ranked[0].average_precision(weights)? - ranked[1].average_precision(weights)?)
    });
    PairedPrAuc { candidate: areas[0], champion: areas[1], difference }
}

fn samples(
    labels: &[bool],
    times: &[i64],
    bootstrap: &Bootstrap,
    value: f64,
    figure: impl Fn(&[u32]) -> Option<f64>,
) -> Estimate {
    let units = Units::new(labels, times);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(bootstrap.seed);
    let mut weights = vec![0; labels.len()];
    let mut figures = Vec::with_capacity(bootstrap.rounds as usize);
    for _ in 0..bootstrap.rounds {
        units.draw(&mut random, &mut weights);
        figures.extend(figure(&weights));
    }
    figures.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - bootstrap.confidence) / 2.0;
    Estimate {
        value,
        low: interpolated(&figures, tail).unwrap_or(value),
        high: interpolated(&figures, 1.0 - tail).unwrap_or(value),
        confidence: bootstrap.confidence,
        resampling: units.resampling(),
        rounds: figures.len() as u32,
    }
}

/// A quantile of sorted numbers, interpolated as NumPy does by default.
fn interpolated(sorted: &[f64], quantile: f64) -> Option<f64> {
    let at = quantile.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let below = sorted[at.floor() as usize];
    Some(below + (sorted[at.ceil() as usize] - below) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    /// Scores that are right more often than not; a number of days.
    fn rows(num_days: usize) -> (Vec<f64>, Vec<bool>, Vec<i64>) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut rows = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..2000 {
            let label = random.random_range(0..20) == 0;
            rows.0.push(random.random::<f64>() + if label { 0.4 } else { 0.0 });
            rows.1.push(label);
            rows.2.push((row % num_days) as i64 * DAY);
        }
        rows
    }

    #[test]
    fn an_interval_holds_the_value_and_is_the_same_for_the_same_seed() {
        for num_days in [3, 20] {
            let (scores, labels, times) = rows(num_days);
            let estimate = pr_auc(&scores, &labels, &times, &Bootstrap::default());
            assert!(estimate.low < estimate.value && estimate.value < estimate.high, "{estimate:?}");
            assert!(estimate.high - estimate.low < 0.3, "{estimate:?}");
            assert_eq!(estimate, pr_auc(&scores, &labels, &times, &Bootstrap::default()));
            assert_ne!(estimate, pr_auc(&scores, &labels, &times, &Bootstrap { seed: 43, ..Bootstrap::default() }));
        }
    }

    #[test]
    fn days_are_drawn_where_there_are_enough_of_them() {
        let resampling = |num_days| {
            let (scores, labels, times) = rows(num_days);
            pr_auc(&scores, &labels, &times, &Bootstrap::default()).resampling
        };
        assert_eq!(resampling(DAYS_LEAST - 1), Resampling::Rows);
        assert_eq!(resampling(DAYS_LEAST), Resampling::Days);
    }

    #[test]
    fn rows_that_come_in_clusters_widen_the_interval_of_days() {
        // Each day is all right or all wrong: 12 facts, not 1200.
        let (mut scores, mut labels, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for day in 0..12 {
            for row in 0..100 {
                let label = row < 10;
                labels.push(label);
                scores.push(if label == (day % 2 == 0) { 0.9 } else { 0.1 } + f64::from(row) * 1e-6);
                times.push(day * DAY);
            }
        }
        let by_day = pr_auc(&scores, &labels, &times, &Bootstrap::default());
        let by_row = pr_auc(&scores, &labels, &vec![0; labels.len()], &Bootstrap::default());
        assert_eq!((by_day.resampling, by_row.resampling), (Resampling::Days, Resampling::Rows));
        assert!(by_day.high - by_day.low > 2.0 * (by_row.high - by_row.low), "{by_day:?} {by_row:?}");
    }

    #[test]
    fn two_equal_models_differ_by_nothing_in_every_sample() {
        let (scores, labels, times) = rows(15);
        let halved: Vec<f64> = scores.iter().map(|score| score / 2.0).collect();
        let paired = paired_pr_auc(&scores, &halved, &labels, &times, &Bootstrap::default());
        assert_eq!((paired.difference.low, paired.difference.value, paired.difference.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_paired_interval_is_narrower_than_that_of_one_model() {
        let (scores, labels, times) = rows(15);
        let rougher: Vec<f64> = scores.iter().map(|score| (score * 30.0).round() / 30.0).collect();
        let paired = paired_pr_auc(&rougher, &scores, &labels, &times, &Bootstrap::default()).difference;
        let single = pr_auc(&scores, &labels, &times, &Bootstrap::default());
        assert!(paired.high - paired.low < 0.5 * (single.high - single.low), "{paired:?} {single:?}");
    }

    #[test]
    fn quantiles_are_interpolated_as_numpy_does() {
        assert_eq!(interpolated(&[1.0, 2.0, 4.0], 0.75), Some(3.0));
        assert_eq!(interpolated(&[1.0, 2.0, 4.0], 1.0), Some(4.0));
        assert_eq!(interpolated(&[], 0.5), None);
    }
}
