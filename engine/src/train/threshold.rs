//! The threshold of a policy on the validation rows, as a number with few digits between the two scores that it separates: so that
//! it is the same number wherever it is read. Pure.

use crate::error::{Error, Result};
use crate::model::evaluation::policies::{self, Costs};
use crate::types::{MissedCost, ThresholdPolicy};

/// Rows that a threshold is chosen on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChosenOn<'a> {
    pub(super) scores: &'a [f64],
    pub(super) labels: &'a [bool],
    pub(super) times: &'a [i64],
    pub(super) amounts: Option<&'a [f64]>,
}

/// The threshold of a policy.
pub(super) fn threshold(policy: &ThresholdPolicy, on: &ChosenOn<'_>) -> Result<f64> {
    let ChosenOn { scores, labels, times, amounts } = *on;
    let found = match policy {
        ThresholdPolicy::Fixed { threshold } => return Ok(*threshold),
        ThresholdPolicy::FBeta { beta } => policies::f_beta(scores, labels, *beta),
        ThresholdPolicy::PrecisionFloor { precision } => policies::precision_floor(scores, labels, *precision),
        ThresholdPolicy::AlertBudget { per_day } => policies::alert_budget(scores, times, *per_day),
        ThresholdPolicy::Costs { missed, review } => {
            let costs = match missed {
                MissedCost::Amount => Costs { alert: *review, missed: 0.0, missed_amount_share: 1.0 },
                MissedCost::Each(cost) => Costs { alert: *review, missed: *cost, missed_amount_share: 0.0 },
            };
            policies::least_cost(scores, labels, amounts, &costs)
        }
    };
    match found {
        Some(score) => Ok(short(scores, score)),
        None => Err(unreachable_policy(policy, on)),
    }
}

fn unreachable_policy(policy: &ThresholdPolicy, on: &ChosenOn<'_>) -> Error {
    match policy {
        ThresholdPolicy::PrecisionFloor { precision } => {
            let best = (1..100).rev().map(|percent| f64::from(percent) / 100.0);
            let mut best = best.filter(|floor| policies::precision_floor(on.scores, on.labels, *floor).is_some());
            let best = best.next().map_or_else(String::new, |best| format!(" (some reach {best})"));
            Error::data(format!(
                "no threshold has a precision of {precision} on the validation rows{best}; lower `training.threshold.precision_floor`, or \
                 give more history"
            ))
        }
        ThresholdPolicy::AlertBudget { per_day } => Error::data(format!(
            "no threshold keeps to {per_day} alerts a day: too many validation rows have the highest score; raise \
             `training.threshold.alert_budget`, or give more history"
        )),
        _ => Error::internal("no threshold was found on the validation rows"),
    }
}

/// A number with as few digits as separate the same rows: at most `score`, and above every lower score.
fn short(scores: &[f64], score: f64) -> f64 {
    let below = scores.iter().copied().filter(|other| *other < score).fold(f64::NEG_INFINITY, f64::max);
    for digits in 1..=15 {
        let scale = 10_f64.powi(digits);
        // Through text: the nearest number to the decimal, which every reader finds again.
        let text = format!("{:.*}", digits as usize, (score * scale).floor() / scale);
        let number = text.parse().unwrap_or(score);
        if number <= score && number > below && number > 0.0 {
            return number;
        }
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f64; 6] = [0.911_234_567_891, 0.72, 0.419, 0.418_123_456_789, 0.05, 0.01];
    const LABELS: [bool; 6] = [true, true, false, true, false, false];

    fn on() -> ChosenOn<'static> {
        ChosenOn { scores: &SCORES, labels: &LABELS, times: &[0, 1, 2, 3, 4, 2 * 86_400_000_000], amounts: None }
    }

    #[test]
    fn a_threshold_has_few_digits_and_separates_the_same_rows() {
        assert_eq!(short(&SCORES, SCORES[0]), 0.9);
        assert_eq!(short(&SCORES, SCORES[2]), 0.419);
        assert_eq!(short(&SCORES, SCORES[3]), 0.4);
        assert_eq!(short(&SCORES, SCORES[5]), 0.01);
        let close = [0.123_456_789_012_345_6, 0.123_456_789_012_345_5];
        assert!(short(&close, close[0]) > close[1]);
        for score in SCORES {
            let threshold = short(&SCORES, score);
            let alerts = |from: f64| SCORES.iter().filter(|score| **score >= from).count();
            assert_eq!(alerts(threshold), alerts(score));
            let json = serde_json::to_string(&threshold).unwrap();
            assert_eq!(serde_json::from_str::<f64>(&json).unwrap(), threshold);
        }
    }

    #[test]
    fn each_policy_finds_its_threshold() {
        let found = |policy| threshold(&policy, &on()).unwrap();
        assert_eq!(found(ThresholdPolicy::Fixed { threshold: 0.7 }), 0.7);
        assert_eq!(found(ThresholdPolicy::FBeta { beta: 1.0 }), 0.4);
        assert_eq!(found(ThresholdPolicy::PrecisionFloor { precision: 0.9 }), 0.7);
        assert_eq!(found(ThresholdPolicy::AlertBudget { per_day: 0.5 }), 0.9);
        let costs = |missed| ThresholdPolicy::Costs { missed, review: 1.0 };
        assert_eq!(found(costs(MissedCost::Each(10.0))), 0.4);
        assert!(found(costs(MissedCost::Each(0.5))) > 0.911_234_567_891);
        let amounts = [1.5, 2.5, 9.0, 0.5, 0.0, 0.0];
        let on = ChosenOn { amounts: Some(&amounts), ..on() };
        assert_eq!(threshold(&costs(MissedCost::Amount), &on).unwrap(), 0.7);
    }

    #[test]
    fn a_floor_that_nothing_reaches_says_what_is_reached() {
        let labels = [false, true, false, true, false, false];
        let policy = ThresholdPolicy::PrecisionFloor { precision: 0.9 };
        let error = threshold(&policy, &ChosenOn { labels: &labels, ..on() }).unwrap_err().to_string();
        assert!(error.contains("some reach 0.5") && error.contains("precision_floor"), "{error}");
    }
}
