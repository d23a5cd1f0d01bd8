//! What is counted of a group of served rows, and what follows from it. Scores are kept in bins, so PR-AUC is that of scores
//! rounded to them: rows of one bin count as equal.

use super::LabelCounts;

/// Bins of scores: even steps of the logit, where the scores of rare events spread.
pub(super) const SCORE_BINS: usize = 512;
const LOGIT_MAX: f64 = 14.0;

/// Upper bounds of label delays, seconds: an hour to 30 days.
pub const DELAY_BOUNDS_SECONDS: [f64; 8] =
    [3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 1_209_600.0, 2_592_000.0, 7_776_000.0];

/// The bin of a score; what is no probability goes to the ends.
pub(super) fn score_bin(score: f64) -> u16 {
    let logit = if score.is_nan() { f64::NEG_INFINITY } else { (score / (1.0 - score)).ln() };
    let logit = if score >= 1.0 {
        LOGIT_MAX
    } else if score <= 0.0 {
        -LOGIT_MAX
    } else {
        logit
    };
    let at = (logit.clamp(-LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX) / (2.0 * LOGIT_MAX) * SCORE_BINS as f64;
    (at as usize).min(SCORE_BINS - 1) as u16
}

/// Rows of one model version and segment.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) version: String,
    pub(super) segment: String,
    served: u64,
    alerts: u64,
    /// By label and alert.
    labelled: [[u64; 2]; 2],
    /// By label and bin of the score.
    scores: [Vec<u64>; 2],
}

impl Default for Group {
    fn default() -> Group {
        Group::new("", "")
    }
}

impl Group {
    pub(super) fn new(version: &str, segment: &str) -> Group {
        Group {
            version: version.to_owned(),
            segment: segment.to_owned(),
            served: 0,
            alerts: 0,
            labelled: [[0; 2]; 2],
            scores: [vec![0; SCORE_BINS], vec![0; SCORE_BINS]],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.served == 0
    }

    pub(super) fn add(&mut self, score_bin: u16, alert: bool, label: Option<bool>) {
        self.served += 1;
        self.alerts += u64::from(alert);
        if let Some(label) = label {
            self.labelled[usize::from(label)][usize::from(alert)] += 1;
            self.scores[usize::from(label)][usize::from(score_bin)] += 1;
        }
    }

    /// Takes back what [`Group::add`] added.
    pub(super) fn remove(&mut self, score_bin: u16, alert: bool, label: Option<bool>) {
        let less = |count: &mut u64| *count = count.saturating_sub(1);
        less(&mut self.served);
        if alert {
            less(&mut self.alerts);
        }
        if let Some(label) = label {
            less(&mut self.labelled[usize::from(label)][usize::from(alert)]);
            less(&mut self.scores[usize::from(label)][usize::from(score_bin)]);
        }
    }

    pub(super) fn merge(&mut self, more: &Group) {
        self.served += more.served;
        self.alerts += more.alerts;
        for label in 0..2 {
            for alert in 0..2 {
                self.labelled[label][alert] += more.labelled[label][alert];
            }
            self.scores[label].iter_mut().zip(&more.scores[label]).for_each(|(sum, rows)| *sum += rows);
        }
    }

    pub(super) fn figures(&self) -> GroupFigures {
        let [[true_negatives, false_positives], [false_negatives, true_positives]] = self.labelled;
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        GroupFigures {
            version: self.version.clone(),
            segment: self.segment.clone(),
            served: self.served,
            alerts: self.alerts,
            labelled: true_negatives + false_positives + false_negatives + true_positives,
            true_positives,
            false_positives,
            false_negatives,
            precision: share(true_positives, true_positives + false_positives),
            recall: share(true_positives, true_positives + false_negatives),
            pr_auc: self.pr_auc(),
        }
    }

    /// Average precision; equal bins are one step.
    fn pr_auc(&self) -> Option<f64> {
        let positives: u64 = self.scores[1].iter().sum();
        let (mut seen, mut hits, mut sum) = (0_u64, 0_u64, 0.0);
        for (negative, positive) in self.scores[0].iter().zip(&self.scores[1]).rev() {
            seen += negative + positive;
            hits += positive;
            if *positive > 0 {
                sum += *positive as f64 * hits as f64 / seen as f64;
            }
        }
        (positives > 0).then(|| sum / positives as f64)
    }
}

/// How good what was served is, as far as labels say.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupFigures {
    /// Version of the model; empty when it was not told, or of all.
    pub version: String,
    /// Segment; empty when it was not told, or of all.
    pub segment: String,
    /// Rows kept.
    pub served: u64,
    /// Alerts among them.
    pub alerts: u64,
    /// Rows with a label. All figures are of these.
    pub labelled: u64,
    /// Alerts that were right.
    pub true_positives: u64,
    /// Alerts that were wrong.
    pub false_positives: u64,
    /// Positives without an alert.
    pub false_negatives: u64,
    /// Of the alerts with a label, the share that was right; `None` without any.
    pub precision: Option<f64>,
    /// Of the positives, the share with an alert; `None` without any.
    pub recall: Option<f64>,
    /// Area under the precision-recall curve; `None` without positives.
    pub pr_auc: Option<f64>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelFigures {
    /// Of all rows.
    pub all: GroupFigures,
    /// By model version and segment.
    pub groups: Vec<GroupFigures>,
    /// What became of the labels.
    pub counts: LabelCounts,
    /// Labels whose rows were not served yet.
    pub waiting: u64,
    /// First labels of rows, by how long after the row they came: up to each bound, and beyond.
    pub delays: [u64; DELAY_BOUNDS_SECONDS.len() + 1],
    /// Sum of these delays.
    pub delay_seconds_sum: f64,
}
