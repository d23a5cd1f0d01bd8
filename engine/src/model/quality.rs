//! How good scores are: average precision, precision and recall at a threshold, quantiles. Pure.

use crate::model::manifest::Quality;

/// The score that a share `quantile` (0 to 1) of `scores` does not exceed: nearest rank. `None` without scores.
#[cfg(any(test, feature = "lightgbm"))]
pub(crate) fn quantile(scores: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
}

/// Average precision: the mean, over the positives, of the precision at their score; equal scores count as one step.
/// (As scikit-learn's `average_precision_score`.)
pub(crate) fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let num_positives = labels.iter().filter(|label| **label).count();
    let (mut seen, mut hits, mut sum) = (0_usize, 0_usize, 0.0);
    let mut index = 0;
    while index < order.len() {
        let score = scores[order[index]];
        let before = hits;
        while index < order.len() && scores[order[index]] == score {
            hits += usize::from(labels[order[index]]);
            seen += 1;
            index += 1;
        }
        sum += (hits - before) as f64 * hits as f64 / seen as f64;
    }
    if num_positives == 0 { 0.0 } else { sum / num_positives as f64 }
}

/// All figures of some rows.
pub(crate) fn quality(scores: &[f64], labels: &[bool], threshold: f64) -> Quality {
    let alerts = scores.iter().filter(|score| **score >= threshold).count();
    let hits = scores.iter().zip(labels).filter(|(score, label)| **score >= threshold && **label).count();
    let positives = labels.iter().filter(|label| **label).count();
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    Quality {
        pr_auc: average_precision(scores, labels),
        precision: share(hits, alerts),
        recall: share(hits, positives),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_is_that_of_scikit_learn() {
        // average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.8333...
        let ap = average_precision(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]);
        assert!((ap - 0.833_333_333_333_333_3).abs() < 1e-12, "{ap}");
        // All scores equal: the share of positives.
        assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_quantile_leaves_its_share_above() {
        let scores: Vec<f64> = (0..1000).map(f64::from).collect();
        let threshold = quantile(&scores, 0.995).unwrap();
        assert_eq!(scores.iter().filter(|score| **score > threshold).count(), 5);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn precision_and_recall_count_the_threshold_itself_as_an_alert() {
        let quality = quality(&[0.2, 0.7, 0.9, 0.7], &[false, true, false, true], 0.7);
        assert!((quality.precision - 2.0 / 3.0).abs() < 1e-12 && (quality.recall - 1.0).abs() < 1e-12);
    }
}
