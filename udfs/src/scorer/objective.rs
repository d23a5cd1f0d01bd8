//! From the sum of leaf values to the score: LightGBM's own transforms, operation by operation.
//!
//! Objectives whose transform is not written here are refused by name.

use super::error::ModelError;
use super::number;

/// What a raw score becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// The raw score itself (regression and its variants).
    Regression,
    /// A probability, by the logistic function of `sigmoid * raw`.
    Binary { sigmoid: f64 },
    /// Probabilities that sum to one, by softmax.
    Multiclass,
    /// A probability per class, each on its own.
    MulticlassOva { sigmoid: f64 },
}

const SUPPORTED: &str = "binary, regression, regression_l1, huber, fair, quantile, mape, multiclass, multiclassova";

impl Objective {
    pub(super) fn parse(line: Option<&str>, num_classes: usize) -> Result<Self, ModelError> {
        let Some(line) = line else {
            return Err(ModelError::unsupported("objective", "none (a custom objective)", SUPPORTED));
        };
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        let mut sigmoid = None;
        let mut classes = None;
        for word in words {
            match word.split_once(':') {
                Some(("sigmoid", value)) if matches!(name, "binary" | "multiclassova") => {
                    sigmoid = number::parameter(value).filter(|value| *value > 0.0 && value.is_finite());
                    if sigmoid.is_none() {
                        return Err(ModelError::malformed("the header, objective", "sigmoid above 0", word));
                    }
                }
                Some(("num_class", value)) if matches!(name, "multiclass" | "multiclassova") => {
                    classes = value.parse().ok();
                }
                _ => {
                    return Err(ModelError::unsupported(format!("objective {name}"), word, "no such parameter"));
                }
            }
        }
        let missing = |what| ModelError::malformed("the header, objective", what, format!("{line:?}"));
        let objective = match name {
            "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" => Self::Regression,
            "binary" => Self::Binary { sigmoid: sigmoid.ok_or_else(|| missing("sigmoid:..."))? },
            "multiclass" => Self::Multiclass,
            "multiclassova" => Self::MulticlassOva { sigmoid: sigmoid.ok_or_else(|| missing("sigmoid:..."))? },
            _ => return Err(ModelError::unsupported("objective", name, SUPPORTED)),
        };
        let expected = match objective {
            Self::Regression | Self::Binary { .. } => 1,
            Self::Multiclass | Self::MulticlassOva { .. } => {
                classes.filter(|classes| *classes > 1).ok_or_else(|| missing("num_class:... of at least 2"))?
            }
        };
        if expected != num_classes {
            return Err(ModelError::malformed(
                "the header, num_class",
                format!("{expected} for objective {name}"),
                num_classes.to_string(),
            ));
        }
        Ok(objective)
    }

    /// Turns the raw scores of one row, one per class, into its scores, in place.
    #[inline]
    pub(super) fn transform(self, scores: &mut [f64]) {
        match self {
            Self::Regression => {}
            Self::Binary { sigmoid } | Self::MulticlassOva { sigmoid } => {
                for score in scores {
                    // f64::exp is the C library's, as in LightGBM; another exp differs in last bits.
                    *score = 1.0 / (1.0 + (-sigmoid * *score).exp());
                }
            }
            Self::Multiclass => softmax(scores),
        }
    }
}

fn softmax(scores: &mut [f64]) {
    let mut greatest = scores[0];
    for score in &scores[1..] {
        greatest = if *score < greatest { greatest } else { *score };
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - greatest).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}
