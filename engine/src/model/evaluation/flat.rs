//! An evaluation as numbers by name, as MLflow takes them: letters, digits, `_`, `-`, `.` and space; finite values only. The names are
//! stable: dashboards and gates of other programs read them.

use std::collections::BTreeMap;

use super::document::{Evaluation, Group, KindOfPositive};

/// Characters of a name in a metric's name; MLflow takes 250 in all.
const NAME_CHARS_MAX: usize = 80;

impl Evaluation {
    /// Every figure by its name: `pr_auc`, `recall_at_precision_0.88`, `kind.takeover.recall`, `segment.channel.online.recall`.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, f64> {
        let mut flat = BTreeMap::new();
        let at = &self.at_threshold;
        put(&mut flat, "rows", self.rows as f64);
        put(&mut flat, "positives", self.positives as f64);
        put(&mut flat, "days", self.days);
        put(&mut flat, "pr_auc", self.pr_auc.value);
        put(&mut flat, "pr_auc_low", self.pr_auc.low);
        put(&mut flat, "pr_auc_high", self.pr_auc.high);
        put(&mut flat, "roc_auc", self.roc_auc);
        put(&mut flat, "threshold", at.threshold);
        put(&mut flat, "true_positives", at.true_positives as f64);
        put(&mut flat, "false_positives", at.false_positives as f64);
        put(&mut flat, "false_negatives", at.false_negatives as f64);
        put(&mut flat, "true_negatives", at.true_negatives as f64);
        put(&mut flat, "precision", at.precision);
        put(&mut flat, "recall", at.recall);
        put(&mut flat, "f1", at.f1);
        put(&mut flat, "alerts_per_1000", at.alerts_per_1000);
        put(&mut flat, "alerts_per_day", at.alerts_per_day);
        put_some(&mut flat, "value_recall", at.value_recall);
        for point in &self.at_precision {
            put(&mut flat, &format!("recall_at_precision_{}", point.precision), point.recall);
        }
        if let Some(budget) = &self.at_budget {
            put(&mut flat, "budget_per_day", budget.alerts_per_day as f64);
            put(&mut flat, "precision_at_budget", budget.precision);
            put(&mut flat, "recall_at_budget", budget.recall);
            put_some(&mut flat, "value_recall_at_budget", budget.value_recall);
        }
        if let Some(calibration) = &self.calibration {
            put(&mut flat, "brier", calibration.brier);
            put(&mut flat, "ece", calibration.ece);
            put(&mut flat, "mean_score", calibration.mean_score);
        }
        if let Some(unfindable) = &self.unfindable {
            put(&mut flat, "unfindable_share", unfindable.share);
            put(&mut flat, "recall_most", unfindable.recall_most);
            put(&mut flat, "recall_of_findable", unfindable.recall_of_findable);
        }
        let kind_names = names(self.kinds.iter().map(|kind| kind.kind.as_str()));
        for (kind, name) in self.kinds.iter().zip(&kind_names) {
            put_kind(&mut flat, &format!("kind.{name}"), kind);
        }
        let columns = names(self.segments.iter().map(|segment| segment.column.as_str()));
        for (segment, column) in self.segments.iter().zip(&columns) {
            let group_names = names(segment.groups.iter().map(|group| group.name.as_str()));
            for (group, name) in segment.groups.iter().zip(&group_names) {
                put_group(&mut flat, &format!("segment.{column}.{name}"), group);
            }
        }
        flat
    }
}

fn put_kind(flat: &mut BTreeMap<String, f64>, name: &str, kind: &KindOfPositive) {
    put(flat, &format!("{name}.positives"), kind.positives as f64);
    put(flat, &format!("{name}.recall"), kind.recall);
    put_some(flat, &format!("{name}.recall_at_budget"), kind.recall_at_budget);
}

fn put_group(flat: &mut BTreeMap<String, f64>, name: &str, group: &Group) {
    put(flat, &format!("{name}.rows"), group.rows as f64);
    put(flat, &format!("{name}.positives"), group.positives as f64);
    // Of nothing there is no share: a zero here would look like a failure.
    put_some(flat, &format!("{name}.precision"), (group.alerts > 0).then_some(group.precision));
    put_some(flat, &format!("{name}.recall"), (group.positives > 0).then_some(group.recall));
}

fn put(flat: &mut BTreeMap<String, f64>, name: &str, value: f64) {
    if value.is_finite() {
        flat.insert(name.to_owned(), value);
    }
}

fn put_some(flat: &mut BTreeMap<String, f64>, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        put(flat, name, value);
    }
}

/// A name as a part of a metric's name: what MLflow does not take becomes `_`, and so does a dot, which separates parts.
#[must_use]
pub fn metric_name(name: &str) -> String {
    let allowed = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
    let name: String = name.chars().map(allowed).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

/// Names as parts of metrics' names, all different.
fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::new();
    for name in names {
        let wanted = metric_name(name);
        let mut free = wanted.clone();
        for number in 2.. {
            if !taken.contains(&free) {
                break;
            }
            free = format!("{wanted}_{number}");
        }
        taken.push(free);
    }
    taken
}
