//! Curves thinned to some hundred points, so that a report stays small whatever the number of rows. A point is kept where the curve
//! has moved visibly since the last one kept.

use super::document::{CurvePoint, Curves, Histogram};
use super::ranking::Step;

/// How far recall, precision or threshold must have moved for the next point to be kept.
const RECALL_STEP: f64 = 0.005;
const PRECISION_STEP: f64 = 0.01;
const THRESHOLD_STEP: f64 = 0.005;
/// Bins of a histogram.
const NUM_BINS: usize = 50;

pub(super) fn curves(steps: &[Step], scores: &[f64], labels: &[bool]) -> Curves {
    let (lowest, highest) = scores
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), score| (low.min(*score), high.max(*score)));
    Curves {
        points: points(steps, (highest - lowest).max(f64::MIN_POSITIVE)),
        histogram: histogram(scores, labels, lowest, highest),
    }
}

/// `range` is what the thresholds span.
fn points(steps: &[Step], range: f64) -> Vec<CurvePoint> {
    let Some(last) = steps.last() else { return Vec::new() };
    let point = |step: &Step| CurvePoint {
        threshold: step.threshold,
        precision: step.precision(),
        recall: step.recall(last.hits),
        alerts_per_1000: 1000.0 * step.alerts as f64 / last.alerts as f64,
    };
    let mut kept: Vec<CurvePoint> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let next = point(step);
        let has_moved = kept.last().is_none_or(|before| {
            (next.recall - before.recall).abs() >= RECALL_STEP
                || (next.precision - before.precision).abs() >= PRECISION_STEP
                || (before.threshold - next.threshold) >= THRESHOLD_STEP * range
        });
        if has_moved || at + 1 == steps.len() {
            kept.push(next);
        }
    }
    kept
}

/// From 0 to 1 for probabilities, else from the lowest score to the highest.
fn histogram(scores: &[f64], labels: &[bool], lowest: f64, highest: f64) -> Histogram {
    let (from, to) = if lowest >= 0.0 && highest <= 1.0 {
        (0.0, 1.0)
    } else if lowest < highest {
        (lowest, highest)
    } else {
        (lowest - 0.5, highest + 0.5)
    };
    let mut histogram = Histogram { from, to, positives: vec![0; NUM_BINS], negatives: vec![0; NUM_BINS] };
    for (score, label) in scores.iter().zip(labels) {
        let at = ((score - from) / (to - from) * NUM_BINS as f64) as usize;
        let counts = if *label { &mut histogram.positives } else { &mut histogram.negatives };
        counts[at.min(NUM_BINS - 1)] += 1;
    }
    histogram
}
