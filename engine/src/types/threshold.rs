//! How the score from which on the decision is yes is found: what a pipeline file asks for, and what a model manifest keeps.
//! Holds no number that was found.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A policy of the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
pub enum ThresholdPolicy {
    /// The greatest F-beta.
    FBeta {
        /// How many times recall counts as much as precision.
        beta: f64,
    },
    /// The greatest recall at a precision of at least this.
    PrecisionFloor {
        /// Between 0 and 1.
        precision: f64,
    },
    /// So many alerts a day.
    AlertBudget {
        /// Alerts of one day.
        per_day: f64,
    },
    /// The least costs.
    Costs {
        /// What a missed positive costs.
        missed: MissedCost,
        /// What an alert costs.
        review: f64,
    },
    /// A number that somebody chose.
    Fixed {
        /// Between 0 and 1.
        threshold: f64,
    },
}

/// What a missed positive costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedCost {
    /// The row's own amount.
    Amount,
    /// The same for all.
    Each(f64),
}

impl fmt::Display for ThresholdPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThresholdPolicy::FBeta { beta } => write!(f, "the best F{beta} on validation"),
            ThresholdPolicy::PrecisionFloor { precision } => {
                write!(f, "the most recall at a precision of {precision} on validation")
            }
            ThresholdPolicy::AlertBudget { per_day } => write!(f, "{per_day} alerts a day on validation"),
            ThresholdPolicy::Costs { missed: MissedCost::Amount, review } => {
                write!(f, "the least costs on validation: a missed positive costs its amount, an alert {review}")
            }
            ThresholdPolicy::Costs { missed: MissedCost::Each(cost), review } => {
                write!(f, "the least costs on validation: a missed positive costs {cost}, an alert {review}")
            }
            ThresholdPolicy::Fixed { threshold } => write!(f, "fixed at {threshold} in the pipeline file"),
        }
    }
}
