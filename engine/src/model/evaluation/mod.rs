//! How good the scores of a model are on rows whose labels are known: from [`Examples`] to an [`Evaluation`]. Pure functions without
//! a clock and without I/O; all randomness is seeded. The definitions are scikit-learn's, and a check in Python compares every
//! number with it. Refuses scores that are not numbers and columns of different lengths; never picks a threshold by itself.

mod bootstrap;
mod budget;
mod calibration;
mod curves;
mod document;
mod examples;
mod flat;
mod groups;
mod measure;
pub mod policies;
mod ranking;
#[cfg(test)]
mod tests;

pub use bootstrap::{Bootstrap, paired_pr_auc};
pub use budget::top_of_each_day;
pub use document::{
    AtBudget, AtPrecision, AtThreshold, Calibration, CurvePoint, Curves, Estimate, Evaluation, Group, Histogram,
    KindOfPositive, PairedPrAuc, ReliabilityBin, Resampling, Segment, Unfindable,
};
pub use examples::{Categories, Examples, NO_NAME};
pub use flat::metric_name;
pub use groups::OTHER_NAMES;
pub use measure::{EvaluationSettings, Quality, evaluate, quality};
pub use ranking::{average_precision, roc_auc};
