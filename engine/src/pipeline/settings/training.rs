//! How a model is trained: the validated `training` section. Data only; what the columns are is known when the SQL is planned.

use std::time::Duration;

use crate::types::{EventTime, ThresholdPolicy};

/// How `tidemill train` makes a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Name of the model in SQL.
    pub model: String,
    /// The column that says what is positive.
    pub label: String,
    /// The view with the features; `None`: the one before the view that scores.
    pub view: Option<String>,
    /// Columns that are not known when a row is scored.
    pub known_later: Vec<String>,
    /// The column of money.
    pub amount: Option<String>,
    /// Columns by whose values the model is judged apart.
    pub segments: Vec<String>,
    /// The column that says what kind of positive a row is.
    pub kind: Option<String>,
    /// Kinds that no model can find.
    pub unfindable_kinds: Vec<String>,
    /// Alerts a day that people can look at.
    pub alerts_per_day: Option<u64>,
    /// Rows before this are not used.
    pub from: Option<EventTime>,
    /// Rows from this on are not used.
    pub until: Option<EventTime>,
    /// Time until labels are known; `None`: seven days, or a tenth of the history where that is less.
    pub label_delay: Option<Duration>,
    /// Where the validation rows begin.
    pub validation: Boundary,
    /// Where the test rows begin.
    pub test: Boundary,
    /// Folds of the search.
    pub folds: usize,
    /// Sets of parameters that are tried beside the defaults.
    pub trials: usize,
    /// No trial begins after this.
    pub time_budget: Duration,
    /// Seed of everything random.
    pub seed: u64,
    /// Trees, at most.
    pub rounds: u32,
    /// Learning stops when so many trees have not made it better.
    pub early_stopping: u32,
    /// Parameters of LightGBM: what is not searched for.
    pub parameters: TreeParameters,
    /// What is done about rare positives.
    pub imbalance: Imbalance,
    /// How the threshold is chosen.
    pub threshold: ThresholdPolicy,
    /// What a new version must keep to.
    pub gate: Gate,
}

/// What a new version of a model must keep to before it may take the place of the one in production.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Positives among the test rows, at least.
    pub positives: u64,
    /// How much worse the area under the precision-recall curve may be.
    pub pr_auc_margin: f64,
    /// How much worse the recall at the alert budget may be.
    pub recall_margin: f64,
    /// The same within each segment and kind.
    pub segment_margin: f64,
    /// How much better the area under the precision-recall curve must be.
    pub pr_auc_gain: Option<f64>,
    /// Area under the precision-recall curve that is needed in any case.
    pub pr_auc_least: Option<f64>,
    /// Recall at the alert budget that is needed in any case.
    pub recall_least: Option<f64>,
    /// Whether scores must be shares of positives.
    pub is_calibrated: bool,
    /// Microseconds that scoring a row may take.
    pub scoring_micros: f64,
    /// Features that may be new or gone.
    pub feature_changes: Vec<String>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            positives: 100,
            pr_auc_margin: 0.01,
            recall_margin: 0.01,
            segment_margin: 0.05,
            pr_auc_gain: None,
            pr_auc_least: None,
            recall_least: None,
            is_calibrated: true,
            scoring_micros: 20.0,
            feature_changes: Vec::new(),
        }
    }
}

/// Where a part of the rows begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Boundary {
    /// The part has this share of the time.
    Share(f64),
    /// Its first event time.
    From(EventTime),
}

/// Parameters of LightGBM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TreeParameters {
    /// `learning_rate`.
    pub learning_rate: f64,
    /// `num_leaves`.
    pub num_leaves: u32,
    /// `min_data_in_leaf`.
    pub min_data_in_leaf: u32,
    /// `min_sum_hessian_in_leaf`.
    pub min_sum_hessian_in_leaf: f64,
    /// `lambda_l2`.
    pub lambda_l2: f64,
    /// `feature_fraction`.
    pub feature_fraction: f64,
    /// `bagging_fraction`, each tree anew.
    pub bagging_fraction: f64,
    /// `max_bin`.
    pub max_bin: u32,
}

impl Default for TreeParameters {
    /// Those that do not diverge at one percent of positives and less.
    fn default() -> TreeParameters {
        TreeParameters {
            learning_rate: 0.05,
            num_leaves: 31,
            min_data_in_leaf: 50,
            min_sum_hessian_in_leaf: 1.0,
            lambda_l2: 5.0,
            feature_fraction: 1.0,
            bagging_fraction: 1.0,
            max_bin: 255,
        }
    }
}

/// What is done about rare positives, in the rows that are learnt from and in no others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Imbalance {
    /// Nothing.
    Nothing,
    /// Positives weigh as much as all others together.
    FullWeight,
    /// The square root of that.
    SqrtWeight,
    /// A weight of each positive.
    Weight(f64),
    /// So many others for each positive, chosen at random.
    Undersampling(f64),
    /// Positives are made between positives that are near each other, until there are so many for each other row.
    Smote(f64),
}
