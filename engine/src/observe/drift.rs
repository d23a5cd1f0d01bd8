//! What a run, and `tidemill drift`, say of drift: a part of the status document, and gauges. Only numbers and names of features.

use metrics::{Unit, describe_gauge, gauge};
use serde::{Deserialize, Serialize};

/// Names of the metrics.
pub mod name {
    /// PSI of a feature or the score in the newest judged window.
    pub const PSI: &str = "tidemill_drift_psi";
    /// Largest distance of the cumulative shares in the same window.
    pub const KS: &str = "tidemill_drift_ks";
    /// Rows of the newest window, judged or not.
    pub const WINDOW_ROWS: &str = "tidemill_drift_window_rows";
    /// First event time of the newest judged window.
    pub const WINDOW_START: &str = "tidemill_drift_window_start_timestamp_seconds";
    /// 0 steady, 1 watch, 2 act; not a number without a judged window.
    pub const STATE: &str = "tidemill_drift_state";
}

/// Says what each metric is, for `/metrics`.
pub fn describe() {
    describe_gauge!(
        name::PSI,
        Unit::Count,
        "PSI of a feature, or of the score, against the rows that the model was trained on"
    );
    describe_gauge!(
        name::KS,
        Unit::Count,
        "largest distance of cumulative shares from the rows that the model was trained on"
    );
    describe_gauge!(name::WINDOW_ROWS, Unit::Count, "rows scored in the newest window of event time");
    describe_gauge!(
        name::WINDOW_START,
        Unit::Seconds,
        "first event time of the newest judged window, seconds since 1970"
    );
    describe_gauge!(
        name::STATE,
        Unit::Count,
        "0 steady, 1 to be watched, 2 act: far in several windows that follow each other"
    );
}

/// Drift of what one model serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DriftStatus {
    /// Name in SQL.
    pub model: String,
    /// The version that serves; a swap begins anew.
    pub version: String,
    /// `no_reference`, `too_few_rows`, `steady`, `watch` or `act`.
    pub state: String,
    /// Columns that are far in several judged windows that follow each other.
    pub acting: Vec<String>,
    /// Columns that differ in the newest judged window.
    pub watched: Vec<String>,
    /// Windows of event time, oldest first, of this process since it started.
    pub windows: Vec<DriftWindowStatus>,
    /// Rows whose windows had been given up before they came.
    pub rows_too_old: u64,
}

/// One window of event time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DriftWindowStatus {
    /// First event time, microseconds since 1970-01-01 UTC.
    pub start_micros: i64,
    /// First event time after it.
    pub end_micros: i64,
    /// Rows scored.
    pub rows: u64,
    /// Those of them whose SQL windows reach behind the first record that was there to be read: empty features look like drift.
    #[serde(default)]
    pub rows_history_incomplete: u64,
    /// The share of the reference's rows whose hours of day the window has.
    pub coverage: f64,
    /// Whether it has enough rows from enough of the day.
    pub judged: bool,
    /// The score, `None` without one in the reference profile.
    pub score: Option<DriftColumnStatus>,
    /// The features that are furthest, those that are judged first.
    pub worst: Vec<DriftColumnStatus>,
}

/// One feature, or the score, in a window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DriftColumnStatus {
    /// Name.
    pub name: String,
    /// Population stability index.
    pub psi: f64,
    /// Largest distance of the cumulative shares.
    pub ks: f64,
    /// Share of missing values.
    pub missing_share: f64,
    /// The same in training.
    pub reference_missing_share: f64,
    /// Why it is not judged, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
}

/// Sets the gauges of a model: its state, its newest window, and the columns of the newest judged window, which are not numbers
/// while there is none.
pub fn set_gauges(model: &str, state: f64, window_rows: u64, window_start: Option<i64>, columns: &[DriftColumnStatus]) {
    let model = || ("model", model.to_owned());
    gauge!(name::STATE, &[model()]).set(state);
    gauge!(name::WINDOW_ROWS, &[model()]).set(window_rows as f64);
    gauge!(name::WINDOW_START, &[model()]).set(window_start.map_or(f64::NAN, |start| start as f64 / 1e6));
    for column in columns {
        let labels = [model(), ("feature", column.name.clone())];
        gauge!(name::PSI, &labels).set(column.psi);
        gauge!(name::KS, &labels).set(column.ks);
    }
}
