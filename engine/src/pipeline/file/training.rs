//! How a model is trained, as the file writes it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::defaults::millis;
use super::super::forms::Text;
use super::super::settings::{Gate, TreeParameters};
use super::super::text::TimestampMillis;

/// How `tidemill train` makes a model: on the arguments of `score('name', ...)`, in the order of that call, as the views of
/// this file compute them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct TrainingFile {
    /// The column of the features' view that says what is positive: 1 or true, and 0 or false. Rows without a label are left
    /// out.
    pub(in crate::pipeline) label: String,
    /// The model. The only one of `models` when it is null.
    pub(in crate::pipeline) model: Option<String>,
    /// The view with the features. The one before the view that scores when it is null.
    pub(in crate::pipeline) view: Option<String>,
    /// Columns that are not known when a row is scored, of sources or views. A feature that is computed from one of them, or from
    /// the label, is refused.
    #[serde(default)]
    pub(in crate::pipeline) known_later: Vec<String>,
    /// The column of money: for costs, and for the share of the money that is saved.
    pub(in crate::pipeline) amount: Option<String>,
    /// Columns of the features' view by whose values the model is judged apart.
    #[serde(default)]
    pub(in crate::pipeline) segments: Vec<String>,
    /// The column of the features' view that says what kind of positive a row is, for the report. Never a feature.
    pub(in crate::pipeline) kind: Option<String>,
    /// Kinds that no model can find, because they are noise by construction: simulated rows have such.
    #[serde(default)]
    pub(in crate::pipeline) unfindable_kinds: Vec<String>,
    /// Alerts a day that people can look at, for the figures at that budget. Those of the threshold's budget, if it is one, when it
    /// is null.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub(in crate::pipeline) alerts_per_day: Option<u64>,
    /// Rows before this event time are not used, but seen by the windows of others (RFC 3339). All are used when it is null.
    pub(in crate::pipeline) from: Option<Text<TimestampMillis>>,
    /// Rows from this event time on are not used (RFC 3339). All are used when it is null.
    pub(in crate::pipeline) until: Option<Text<TimestampMillis>>,
    /// Time until labels are known: rows of this time before the validation rows are left out. Seven days, or a tenth of the
    /// history where that is less, when it is null.
    pub(in crate::pipeline) label_delay: Option<Text<Duration>>,
    /// Share of the time, before the test rows, whose rows say when learning stops and what the threshold is.
    #[serde(default = "validation_share")]
    #[schemars(range(max = 0.9), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) validation_share: f64,
    /// The first event time of the validation rows, in place of the share (RFC 3339).
    pub(in crate::pipeline) validation_from: Option<Text<TimestampMillis>>,
    /// Share of the time, at the end, whose rows are for the test alone.
    #[serde(default = "test_share")]
    #[schemars(range(max = 0.9), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) test_share: f64,
    /// The first event time of the test rows, in place of the share (RFC 3339).
    pub(in crate::pipeline) test_from: Option<Text<TimestampMillis>>,
    /// Folds that parameters are tried on, in the order of time: each learns from all rows before those that it is judged on.
    #[serde(default = "folds")]
    #[schemars(range(min = 1, max = 20))]
    pub(in crate::pipeline) folds: u64,
    /// Sets of parameters that are tried at random, beside those of `parameters`. 0: no search.
    #[serde(default = "trials")]
    #[schemars(range(max = 10_000))]
    pub(in crate::pipeline) trials: u64,
    /// No trial begins after this time.
    #[serde(default = "time_budget")]
    pub(in crate::pipeline) time_budget: Text<Duration>,
    /// Seed of everything random. The same rows, SQL and settings give the same model file.
    #[serde(default = "seed")]
    pub(in crate::pipeline) seed: u64,
    /// Trees, at most.
    #[serde(default = "rounds")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::pipeline) rounds: u32,
    /// Learning stops when so many trees have not made the average precision of the validation rows better, and the best trees are
    /// kept. With as many as `rounds` nothing stops it, and all trees are kept.
    #[serde(default = "early_stopping")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::pipeline) early_stopping: u32,
    /// Parameters of LightGBM, by its names. A search varies those that bound the trees.
    #[serde(default)]
    pub(in crate::pipeline) parameters: ParametersFile,
    /// What is done about rare positives, in the rows that are learnt from. All but `none` cost calibration.
    #[serde(default)]
    pub(in crate::pipeline) imbalance: ImbalanceFile,
    /// How the threshold is chosen, on the validation rows.
    #[serde(default)]
    pub(in crate::pipeline) threshold: ThresholdFile,
    /// What a new version must keep to, beside the one in production and on its own. See `tidemill model gate`.
    #[serde(default)]
    pub(in crate::pipeline) gate: GateFile,
}

/// Before a version may be promoted. Both models are judged on the same rows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::pipeline) struct GateFile {
    /// Positives among the test rows, at least.
    pub(in crate::pipeline) positives: u64,
    /// How much worse than the champion's the area under the precision-recall curve may be. It must be shown not to be worse: the
    /// lower end of a paired bootstrap counts (95 % one-sided).
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) pr_auc_margin: f64,
    /// How much worse the recall at the alert budget may be.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) recall_margin: f64,
    /// How much worse the recall at the alert budget may be within each group of each segment, and within each kind.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) segment_margin: f64,
    /// How much better the area under the precision-recall curve must be. Not worse is enough when it is null.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) pr_auc_gain: Option<f64>,
    /// Area under the precision-recall curve that is needed in any case.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) pr_auc_least: Option<f64>,
    /// Recall at the alert budget that is needed in any case.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) recall_least: Option<f64>,
    /// Scores must be shares of positives: off for models that are trained with weights.
    pub(in crate::pipeline) calibration: bool,
    /// Microseconds that scoring a row may take.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) scoring_micros: f64,
    /// Features that may be new or gone. Other changes need a person: `promote --force`.
    pub(in crate::pipeline) feature_changes: Vec<String>,
}

impl Default for GateFile {
    fn default() -> GateFile {
        let gate = Gate::default();
        GateFile {
            positives: gate.positives,
            pr_auc_margin: gate.pr_auc_margin,
            recall_margin: gate.recall_margin,
            segment_margin: gate.segment_margin,
            pr_auc_gain: gate.pr_auc_gain,
            pr_auc_least: gate.pr_auc_least,
            recall_least: gate.recall_least,
            calibration: gate.is_calibrated,
            scoring_micros: gate.scoring_micros,
            feature_changes: gate.feature_changes,
        }
    }
}

/// Parameters of LightGBM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::pipeline) struct ParametersFile {
    /// How much each tree counts.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) learning_rate: f64,
    /// Leaves of a tree, at most.
    #[schemars(range(min = 2, max = 4096))]
    pub(in crate::pipeline) num_leaves: u32,
    /// Rows of a leaf, at least.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::pipeline) min_data_in_leaf: u32,
    /// Sum of the second derivatives in a leaf, at least: what keeps rare positives from diverging.
    #[schemars(range(min = 0))]
    pub(in crate::pipeline) min_sum_hessian_in_leaf: f64,
    /// Penalty on the squares of the leaves' values.
    #[schemars(range(min = 0))]
    pub(in crate::pipeline) lambda_l2: f64,
    /// Share of the features that each tree may use.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) feature_fraction: f64,
    /// Share of the rows that each tree learns from.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) bagging_fraction: f64,
    /// Intervals that the values of a feature are put into, at most.
    #[schemars(range(min = 2, max = 65_535))]
    pub(in crate::pipeline) max_bin: u32,
}

impl Default for ParametersFile {
    fn default() -> ParametersFile {
        let TreeParameters {
            learning_rate,
            num_leaves,
            min_data_in_leaf,
            min_sum_hessian_in_leaf,
            lambda_l2,
            feature_fraction,
            bagging_fraction,
            max_bin,
        } = TreeParameters::default();
        ParametersFile {
            learning_rate,
            num_leaves,
            min_data_in_leaf,
            min_sum_hessian_in_leaf,
            lambda_l2,
            feature_fraction,
            bagging_fraction,
            max_bin,
        }
    }
}

/// What is done about rare positives.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::pipeline) enum ImbalanceFile {
    /// Nothing: ranks as well as the others, and scores stay shares.
    #[default]
    None,
    /// Positives weigh as much as all others together.
    FullWeight,
    /// Positives weigh the square root of that.
    SqrtWeight,
    /// Each positive weighs this much.
    Weight(#[schemars(extend("exclusiveMinimum" = 0))] f64),
    /// So many others for each positive, chosen at random.
    Undersampling(#[schemars(extend("exclusiveMinimum" = 0))] f64),
    /// SMOTE: positives are made between positives that are near each other, until there are so many for each other row.
    Smote(#[schemars(range(max = 1), extend("exclusiveMinimum" = 0))] f64),
}

/// How the threshold is chosen.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::pipeline) enum ThresholdFile {
    /// The best F-beta: recall counts so many times as much as precision.
    FBeta(#[schemars(range(max = 100), extend("exclusiveMinimum" = 0))] f64),
    /// The most recall at a precision of at least this.
    PrecisionFloor(#[schemars(range(max = 1), extend("exclusiveMinimum" = 0))] f64),
    /// So many alerts a day.
    AlertBudget(#[schemars(extend("exclusiveMinimum" = 0))] f64),
    /// The least costs.
    Costs(CostsFile),
    /// This number.
    Fixed(#[schemars(range(min = 0, max = 1))] f64),
}

impl Default for ThresholdFile {
    fn default() -> ThresholdFile {
        ThresholdFile::FBeta(1.0)
    }
}

/// What mistakes cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct CostsFile {
    /// What an alert costs, right or wrong.
    #[schemars(range(min = 0))]
    pub(in crate::pipeline) review: f64,
    /// What a missed positive costs. The value of its column `amount` when it is null.
    #[schemars(range(min = 0))]
    pub(in crate::pipeline) missed: Option<f64>,
}

fn validation_share() -> f64 {
    0.15
}

fn test_share() -> f64 {
    0.2
}

fn folds() -> u64 {
    3
}

fn trials() -> u64 {
    16
}

fn time_budget() -> Text<Duration> {
    millis(10 * 60_000)
}

fn seed() -> u64 {
    42
}

fn rounds() -> u32 {
    500
}

fn early_stopping() -> u32 {
    50
}
