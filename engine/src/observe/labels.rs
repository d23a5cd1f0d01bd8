//! What a run says of labels that came to what it served: a part of the status document, and metrics. Only numbers, versions and
//! segments.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Unit, describe_gauge, gauge};
use serde::{Deserialize, Serialize};

/// Names of the metrics.
pub mod name {
    /// Rows with a label, by version and segment.
    pub const LABELLED: &str = "tidemill_live_labelled_rows";
    /// Of the alerts with a label, the share that was right.
    pub const PRECISION: &str = "tidemill_live_precision";
    /// Of the positives, the share with an alert.
    pub const RECALL: &str = "tidemill_live_recall";
    /// Area under the precision-recall curve.
    pub const PR_AUC: &str = "tidemill_live_pr_auc";
    /// Alerts that were wrong.
    pub const FALSE_POSITIVES: &str = "tidemill_live_false_positives";
    /// Labels by what became of them.
    pub const LABELS: &str = "tidemill_labels";
    /// From a row to its first label.
    pub const DELAY: &str = "tidemill_label_delay_seconds";
}

/// Says what each metric is, for `/metrics`.
pub fn describe() {
    describe_gauge!(name::LABELLED, Unit::Count, "served rows of the last days that have a label");
    describe_gauge!(name::PRECISION, Unit::Count, "of the labelled alerts of the last days, the share that was right");
    describe_gauge!(name::RECALL, Unit::Count, "of the labelled positives of the last days, the share with an alert");
    describe_gauge!(
        name::PR_AUC,
        Unit::Count,
        "area under the precision-recall curve of the labelled rows of the last days"
    );
    describe_gauge!(name::FALSE_POSITIVES, Unit::Count, "labelled alerts of the last days that were wrong");
    describe_gauge!(
        name::LABELS,
        Unit::Count,
        "labels since the start by outcome: matched, repeated, unmatched; and waiting"
    );
}

/// Labels of what was served.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelsStatus {
    /// Of all rows that are kept.
    pub all: QualityStatus,
    /// By model version and segment.
    pub groups: Vec<QualityStatus>,
    /// Labels of rows that were served.
    pub matched: u64,
    /// Labels of rows that had one, counted in `matched` too.
    pub repeated: u64,
    /// Labels that were given up: their rows were not served by this process since it started, or are gone.
    pub unmatched: u64,
    /// Labels whose rows were not served yet.
    pub waiting: u64,
    /// Served rows that were given up before their time, because there were too many.
    pub crowded_out: u64,
    /// First labels by delay.
    pub delays: Vec<DelayStatus>,
}

/// How good what was served is, as far as labels say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QualityStatus {
    /// Version of the model; empty when it was not told, or of all.
    pub model_version: String,
    /// Segment; empty when it was not told, or of all.
    pub segment: String,
    /// Rows kept.
    pub served: u64,
    /// Alerts among them.
    pub alerts: u64,
    /// Rows with a label; what follows is of these.
    pub labelled: u64,
    /// Alerts that were right.
    pub true_positives: u64,
    /// Alerts that were wrong.
    pub false_positives: u64,
    /// Positives without an alert.
    pub false_negatives: u64,
    /// `None` without labelled alerts.
    pub precision: Option<f64>,
    /// `None` without positives.
    pub recall: Option<f64>,
    /// `None` without positives.
    pub pr_auc: Option<f64>,
}

/// Labels that came so late, and not earlier than the bound before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DelayStatus {
    /// At most so long after their rows; `None`: longer than all bounds.
    pub seconds_max: Option<f64>,
    /// Labels.
    pub labels: u64,
}

/// Sets the gauges.
pub fn set_gauges(status: &LabelsStatus) {
    for (outcome, labels) in [
        ("matched", status.matched),
        ("repeated", status.repeated),
        ("unmatched", status.unmatched),
        ("waiting", status.waiting),
    ] {
        gauge!(name::LABELS, "outcome" => outcome).set(labels as f64);
    }
    for group in &status.groups {
        let labels = [("version", group.model_version.clone()), ("segment", group.segment.clone())];
        let share = |share: Option<f64>| share.unwrap_or(f64::NAN);
        gauge!(name::LABELLED, &labels).set(group.labelled as f64);
        gauge!(name::PRECISION, &labels).set(share(group.precision));
        gauge!(name::RECALL, &labels).set(share(group.recall));
        gauge!(name::PR_AUC, &labels).set(share(group.pr_auc));
        gauge!(name::FALSE_POSITIVES, &labels).set(group.false_positives as f64);
    }
}

/// The histogram of delays as text for Prometheus, exposition format 0.0.4: it is kept whole elsewhere.
#[derive(Debug, Clone, Default)]
pub struct DelayPage(Arc<Mutex<String>>);

impl DelayPage {
    /// Writes it anew.
    pub fn set(&self, delays: &[DelayStatus], sum_seconds: f64) {
        let name = name::DELAY;
        let mut text = format!("# HELP {name} from a served row to its first label\n# TYPE {name} histogram\n");
        let mut total = 0;
        for delay in delays {
            total += delay.labels;
            let bound = delay.seconds_max.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            let written = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}");
            debug_assert!(written.is_ok(), "a String takes all text");
        }
        text.push_str(&format!("{name}_sum {sum_seconds}\n{name}_count {total}\n"));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The text; empty before there are labels.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
