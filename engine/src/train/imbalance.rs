//! Rows to learn from with other shares of positives: others left out, or positives made between positives (SMOTE). Only ever used
//! on the rows that are learnt from. Seeded. Weights are not here: they are a parameter of LightGBM.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::rows::RowsView;
use crate::pipeline::settings::Imbalance;

/// Neighbours between which positives are made.
const NEIGHBOURS: usize = 5;
/// Positives among which neighbours are looked for, at most.
const CANDIDATES_MAX: usize = 20_000;

/// Rows that are not those that were given.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Resampled {
    values: Vec<f64>,
    labels: Vec<bool>,
}

impl Resampled {
    pub(super) fn view(&self) -> RowsView<'_> {
        RowsView { values: &self.values, labels: &self.labels }
    }
}

/// The rows to learn from, where they are not those that are given.
pub(super) fn resampled(
    rows: &RowsView<'_>,
    num_features: usize,
    imbalance: &Imbalance,
    seed: u64,
) -> Option<Resampled> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    match imbalance {
        Imbalance::Undersampling(ratio) => Some(undersampled(rows, num_features, *ratio, &mut random)),
        Imbalance::Smote(ratio) => Some(with_made(rows, num_features, *ratio, &mut random)),
        Imbalance::Nothing | Imbalance::FullWeight | Imbalance::SqrtWeight | Imbalance::Weight(_) => None,
    }
}

fn undersampled(rows: &RowsView<'_>, num_features: usize, ratio: f64, random: &mut impl Rng) -> Resampled {
    let num_wanted = (rows.num_positives() as f64 * ratio).round() as usize;
    let mut others: Vec<usize> = (0..rows.labels.len()).filter(|row| !rows.labels[*row]).collect();
    let num_wanted = num_wanted.clamp(1, others.len().max(1)).min(others.len());
    others.partial_shuffle(random, num_wanted);
    // `partial_shuffle` leaves its choice at the end.
    let mut is_kept = rows.labels.to_vec();
    others[others.len() - num_wanted..].iter().for_each(|row| is_kept[*row] = true);
    let mut kept = Resampled::default();
    for (row, _) in is_kept.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
        kept.values.extend_from_slice(&rows.values[row * num_features..(row + 1) * num_features]);
        kept.labels.push(rows.labels[row]);
    }
    kept
}

fn with_made(rows: &RowsView<'_>, num_features: usize, ratio: f64, random: &mut impl Rng) -> Resampled {
    let row = |row: usize| &rows.values[row * num_features..(row + 1) * num_features];
    let mut all = Resampled { values: rows.values.to_vec(), labels: rows.labels.to_vec() };
    let mut positives: Vec<usize> = (0..rows.labels.len()).filter(|row| rows.labels[*row]).collect();
    let num_wanted = (ratio * (rows.labels.len() - positives.len()) as f64).round() as usize;
    let num_made = num_wanted.saturating_sub(positives.len());
    positives.shuffle(random);
    positives.truncate(CANDIDATES_MAX);
    if positives.len() < 2 {
        return all;
    }
    let scales = scales(positives.iter().map(|positive| row(*positive)), num_features);
    // Of each positive that is used, once.
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); positives.len()];
    for _ in 0..num_made {
        let base = random.random_range(0..positives.len());
        if neighbours[base].is_empty() {
            neighbours[base] = nearest(base, &positives, &row, &scales);
        }
        let other = neighbours[base][random.random_range(0..neighbours[base].len())];
        let share: f64 = random.random();
        let pairs = row(positives[base]).iter().zip(row(positives[other]));
        // A value that one of them lacks is lacking.
        all.values.extend(pairs.map(|(a, b)| a + share * (b - a)));
        all.labels.push(true);
    }
    all
}

/// What a difference of one in each feature counts: features of any unit count alike.
fn scales<'a>(rows: impl Iterator<Item = &'a [f64]>, num_features: usize) -> Vec<f64> {
    let (mut counts, mut sums, mut squares) =
        (vec![0.0_f64; num_features], vec![0.0; num_features], vec![0.0; num_features]);
    for row in rows {
        for (feature, value) in row.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            counts[feature] += 1.0;
            sums[feature] += value;
            squares[feature] += value * value;
        }
    }
    let scale = |feature: usize| {
        let count = counts[feature].max(1.0);
        let mean = sums[feature] / count;
        let deviation = (squares[feature] / count - mean * mean).max(0.0).sqrt();
        if deviation > 0.0 { 1.0 / deviation } else { 0.0 }
    };
    (0..num_features).map(scale).collect()
}

fn nearest<'a>(base: usize, positives: &[usize], row: &impl Fn(usize) -> &'a [f64], scales: &[f64]) -> Vec<usize> {
    let from = row(positives[base]);
    let mut found: Vec<(f64, usize)> = Vec::with_capacity(NEIGHBOURS + 1);
    for (index, positive) in positives.iter().enumerate().filter(|(index, _)| *index != base) {
        let term = |((a, b), scale): ((&f64, &f64), &f64)| match (a.is_nan(), b.is_nan()) {
            (false, false) => ((a - b) * scale).powi(2),
            (true, true) => 0.0,
            // As far as two that differ by a deviation.
            _ => 1.0,
        };
        let distance: f64 = from.iter().zip(row(*positive)).zip(scales).map(term).sum();
        if found.len() == NEIGHBOURS && found.last().is_some_and(|last| distance >= last.0) {
            continue;
        }
        let at = found.partition_point(|other| other.0 <= distance);
        found.insert(at, (distance, index));
        found.truncate(NEIGHBOURS);
    }
    found.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred rows; each tenth is positive.
    fn rows() -> (Vec<f64>, Vec<bool>) {
        let values = (0..100).flat_map(|row| [f64::from(row), if row % 20 == 0 { f64::NAN } else { 1.0 }]).collect();
        (values, (0..100).map(|row| row % 10 == 0).collect())
    }

    /// NaN is not equal to itself; its bits are.
    fn bits(rows: &Resampled) -> Vec<u64> {
        rows.values.iter().map(|value| value.to_bits()).collect()
    }

    fn of(imbalance: &Imbalance, seed: u64) -> Resampled {
        let (values, labels) = rows();
        resampled(&RowsView { values: &values, labels: &labels }, 2, imbalance, seed).unwrap()
    }

    #[test]
    fn undersampling_keeps_all_positives_and_so_many_others_for_each() {
        let kept = of(&Imbalance::Undersampling(3.0), 1);
        assert_eq!((kept.view().num_positives(), kept.labels.len()), (10, 40));
        assert_eq!(bits(&kept), bits(&of(&Imbalance::Undersampling(3.0), 1)));
        assert_ne!(bits(&kept), bits(&of(&Imbalance::Undersampling(3.0), 2)));
        let firsts: Vec<f64> = kept.values.iter().step_by(2).copied().collect();
        assert!(firsts.is_sorted(), "rows keep their order");
        assert_eq!(of(&Imbalance::Undersampling(1000.0), 1).labels.len(), 100);
    }

    #[test]
    fn smote_makes_positives_between_positives() {
        let (values, labels) = rows();
        let made = of(&Imbalance::Smote(0.5), 1);
        assert_eq!(made.view().num_positives(), 45);
        let given: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits(&made)[..200], given);
        assert_eq!(made.labels[..100], labels);
        for row in made.values[200..].chunks(2) {
            assert!((0.0..=90.0).contains(&row[0]), "{row:?}");
            assert!(row[1] == 1.0 || row[1].is_nan());
        }
        assert_eq!(bits(&made), bits(&of(&Imbalance::Smote(0.5), 1)));
    }

    #[test]
    fn other_settings_leave_the_rows_as_they_are() {
        let (values, labels) = rows();
        let rows = RowsView { values: &values, labels: &labels };
        assert_eq!(resampled(&rows, 2, &Imbalance::Nothing, 1), None);
        assert_eq!(resampled(&rows, 2, &Imbalance::FullWeight, 1), None);
    }
}
