//! An evaluation as it is stored beside a model and shown in reports. Shares are from 0 to 1; times are microseconds since 1970, UTC.

use serde::{Deserialize, Serialize};

/// How good the scores of a model are on some rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Rows.
    pub rows: u64,
    /// Positive ones among them.
    pub positives: u64,
    /// Event time of the first row.
    pub from_micros: i64,
    /// Event time of the last row.
    pub to_micros: i64,
    /// Days from the first row to the last, as a fraction; at least an hour's worth.
    pub days: f64,
    /// Area under the precision-recall curve (average precision). Of scores without meaning it is the share of positives.
    pub pr_auc: Estimate,
    /// Area under the ROC curve, for reference: at one percent of positives it is near 1 for almost any model.
    pub roc_auc: f64,
    /// At the model's threshold.
    pub at_threshold: AtThreshold,
    /// The highest recall at fixed precisions.
    pub at_precision: Vec<AtPrecision>,
    /// At an alert budget, if one is set.
    pub at_budget: Option<AtBudget>,
    /// Positives by kind, most frequent first.
    pub kinds: Vec<KindOfPositive>,
    /// What no model can find, if the kinds say so.
    pub unfindable: Option<Unfindable>,
    /// By the groups of each segment column.
    pub segments: Vec<Segment>,
    /// `None` when the scores are no probabilities.
    pub calibration: Option<Calibration>,
    /// Thinned to some hundred points.
    pub curves: Curves,
}

/// A number and the interval that a bootstrap gives it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// On all rows.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The share of samples between the two.
    pub confidence: f64,
    /// What was drawn.
    pub resampling: Resampling,
    /// Samples drawn.
    pub rounds: u32,
}

/// What a bootstrap draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// Whole UTC days: the rows of a campaign are not independent of each other, and a day holds most of one.
    Days,
    /// Rows, positives and others apart: too few days to draw from.
    Rows,
}

/// Area under the precision-recall curve of two models on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairedPrAuc {
    /// Of the candidate.
    pub candidate: f64,
    /// Of the champion.
    pub champion: f64,
    /// Candidate less champion; both are computed on the same samples.
    pub difference: Estimate,
}

/// Counts and shares at a threshold; a score equal to it is an alert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtThreshold {
    /// The threshold.
    pub threshold: f64,
    /// Positives that are alerts.
    pub true_positives: u64,
    /// Others that are alerts.
    pub false_positives: u64,
    /// Positives that are none.
    pub false_negatives: u64,
    /// Others that are none.
    pub true_negatives: u64,
    /// Of the alerts, the share that is positive; 0 without alerts.
    pub precision: f64,
    /// Of the positives, the share that is an alert.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Alerts per 1000 rows.
    pub alerts_per_1000: f64,
    /// Alerts per day of the period.
    pub alerts_per_day: f64,
    /// Of what the positives are worth, the share that is in alerts.
    pub value_recall: Option<f64>,
}

/// The best threshold that has at least a precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtPrecision {
    /// The precision that is asked for.
    pub precision: f64,
    /// The highest recall that has it; 0 when none has.
    pub recall: f64,
    /// Where, if anywhere.
    pub threshold: Option<f64>,
}

/// The highest scores of each UTC day, so many as are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtBudget {
    /// The budget.
    pub alerts_per_day: u64,
    /// Alerts in all; a day with fewer rows gives fewer.
    pub alerts: u64,
    /// Of the alerts, the share that is positive.
    pub precision: f64,
    /// Of the positives, the share that is an alert.
    pub recall: f64,
    /// Of what the positives are worth, the share that is in alerts.
    pub value_recall: Option<f64>,
}

/// Positives of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindOfPositive {
    /// Its name.
    pub kind: String,
    /// Positives of this kind.
    pub positives: u64,
    /// Those at or above the threshold.
    pub hits: u64,
    /// Their share.
    pub recall: f64,
    /// The share found at the alert budget.
    pub recall_at_budget: Option<f64>,
    /// Of what they are worth, the share at or above the threshold.
    pub value_recall: Option<f64>,
}

/// Positives that nothing tells from other rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfindable {
    /// The kinds that are noise by construction.
    pub kinds: Vec<String>,
    /// Positives of these kinds.
    pub positives: u64,
    /// Their share in all positives.
    pub share: f64,
    /// The recall of a model that finds all others and none of these.
    pub recall_most: f64,
    /// The recall at the threshold among the others.
    pub recall_of_findable: f64,
}

/// The groups of a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The column.
    pub column: String,
    /// Most positives first; rare groups are put together.
    pub groups: Vec<Group>,
}

/// Rows with the same value in a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The value.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Positive ones.
    pub positives: u64,
    /// At or above the threshold.
    pub alerts: u64,
    /// Positive ones among the alerts.
    pub hits: u64,
    /// Of the alerts, the share that is positive; 0 without alerts.
    pub precision: f64,
    /// Of the positives, the share that is an alert; 0 without positives.
    pub recall: f64,
    /// The share of the positives found at the alert budget.
    pub recall_at_budget: Option<f64>,
}

/// Whether scores can be read as probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Mean squared distance of score and label.
    pub brier: f64,
    /// The Brier score of always saying the share of positives.
    pub brier_of_constant: f64,
    /// Expected calibration error: the mean distance of score and share of positives over the bins.
    pub ece: f64,
    /// Mean of the scores; the share of positives is what it should be.
    pub mean_score: f64,
    /// The bins that hold rows.
    pub bins: Vec<ReliabilityBin>,
}

/// Rows whose scores are above `from` and at most `to`; the first bin holds 0 too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityBin {
    /// Lower edge.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Rows.
    pub rows: u64,
    /// Positive ones.
    pub positives: u64,
    /// Mean of their scores.
    pub mean_score: f64,
    /// What it should be.
    pub share_of_positives: f64,
}

/// What pictures are drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// From the highest threshold to the lowest.
    pub points: Vec<CurvePoint>,
    /// Scores by label.
    pub histogram: Histogram,
}

/// What one threshold gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// The threshold.
    pub threshold: f64,
    /// Precision there.
    pub precision: f64,
    /// Recall there.
    pub recall: f64,
    /// Alerts per 1000 rows there.
    pub alerts_per_1000: f64,
}

/// Counts of scores in bins of equal width, by label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Lower edge of the first bin.
    pub from: f64,
    /// Upper edge of the last bin.
    pub to: f64,
    /// Positives in each bin.
    pub positives: Vec<u64>,
    /// Others in each bin.
    pub negatives: Vec<u64>,
}
