//! What a team that looks at so many alerts a day would see: the highest scores of each UTC day.

use std::collections::HashMap;

use super::document::AtBudget;
use super::examples::{Examples, day};
use super::ranking::{by_falling_score, share};

/// Which rows are among the `per_day` highest scores of their UTC day. Equal scores: the earlier row first, then the one that stands
/// first, so that always exactly `per_day` rows of a day are taken, or all that it has.
#[must_use]
pub fn top_of_each_day(scores: &[f64], times: &[i64], per_day: u64) -> Vec<bool> {
    let mut taken_by_day: HashMap<i64, u64> = HashMap::new();
    let mut is_taken = vec![false; scores.len()];
    for row in by_falling_score(scores, times) {
        let row = row as usize;
        let taken = taken_by_day.entry(day(times[row])).or_default();
        if *taken < per_day {
            *taken += 1;
            is_taken[row] = true;
        }
    }
    is_taken
}

/// The figures of these alerts.
pub(super) fn at_budget(examples: &Examples<'_>, is_alert: &[bool], per_day: u64) -> AtBudget {
    let alerts = is_alert.iter().filter(|alert| **alert).count() as u64;
    let hits = is_alert.iter().zip(examples.labels).filter(|(alert, label)| **alert && **label).count() as u64;
    AtBudget {
        alerts_per_day: per_day,
        alerts,
        precision: share(hits, alerts),
        recall: share(hits, examples.num_positives() as u64),
        value_recall: value_recall(examples, is_alert),
    }
}

/// Of what the positives are worth, the share that is in alerts. `None` when nothing is known to be worth anything.
pub(super) fn value_recall(examples: &Examples<'_>, is_alert: &[bool]) -> Option<f64> {
    examples.amounts?;
    let (mut all, mut found) = (0.0, 0.0);
    for (row, is_alert) in is_alert.iter().enumerate() {
        if examples.labels[row] {
            let amount = examples.amount(row);
            all += amount;
            found += if *is_alert { amount } else { 0.0 };
        }
    }
    (all > 0.0).then(|| found / all)
}
