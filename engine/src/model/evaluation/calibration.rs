//! Whether a score of 0.3 means 30 of 100: Brier score, expected calibration error, and the bins of a reliability diagram (as
//! scikit-learn's `brier_score_loss` and `calibration_curve` with bins of equal width).

use super::document::{Calibration, ReliabilityBin};
use super::ranking::share;

/// Bins of equal width from 0 to 1.
const NUM_BINS: usize = 10;

/// The lower edge of a bin, to the bit as NumPy's `linspace` has it.
fn edge(at: usize) -> f64 {
    if at == NUM_BINS { 1.0 } else { at as f64 * (1.0 / NUM_BINS as f64) }
}

/// `None` when a score is no probability.
pub(super) fn calibration(scores: &[f64], labels: &[bool]) -> Option<Calibration> {
    if scores.is_empty() || scores.iter().any(|score| !(0.0..=1.0).contains(score)) {
        return None;
    }
    let mut bins: Vec<(u64, u64, f64)> = vec![(0, 0, 0.0); NUM_BINS];
    let (mut squares, mut sum, mut positives) = (0.0, 0.0, 0_u64);
    for (score, label) in scores.iter().zip(labels) {
        let outcome = f64::from(u8::from(*label));
        squares += (score - outcome) * (score - outcome);
        sum += score;
        positives += u64::from(*label);
        // A score on an edge belongs to the bin below it, as NumPy's `searchsorted` has it.
        let bin = &mut bins[(1..NUM_BINS).filter(|at| edge(*at) < *score).count()];
        *bin = (bin.0 + 1, bin.1 + u64::from(*label), bin.2 + score);
    }
    let num_rows = scores.len() as f64;
    let rate = positives as f64 / num_rows;
    let bins: Vec<ReliabilityBin> = bins
        .into_iter()
        .enumerate()
        .filter(|(_, (rows, ..))| *rows > 0)
        .map(|(at, (rows, positives, sum))| ReliabilityBin {
            from: edge(at),
            to: edge(at + 1),
            rows,
            positives,
            mean_score: sum / rows as f64,
            share_of_positives: share(positives, rows),
        })
        .collect();
    let error = |bin: &ReliabilityBin| bin.rows as f64 / num_rows * (bin.mean_score - bin.share_of_positives).abs();
    Some(Calibration {
        brier: squares / num_rows,
        brier_of_constant: rate * (1.0 - rate),
        ece: bins.iter().map(error).sum(),
        mean_score: sum / num_rows,
        bins,
    })
}
