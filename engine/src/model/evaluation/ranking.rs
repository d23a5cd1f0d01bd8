//! Rows by falling score, where equal scores count as one step, and what follows from that order alone: average precision, ROC-AUC,
//! and the counts at every possible threshold. As scikit-learn's `average_precision_score`, `roc_auc_score` and
//! `precision_recall_curve`.

/// Rows by falling score; equal scores by event time, then by row.
pub(super) fn by_falling_score(scores: &[f64], times: &[i64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let time = |row: usize| times.get(row).copied().unwrap_or(0);
    order.sort_unstable_by(|a, b| {
        let (a, b) = (*a as usize, *b as usize);
        // 0.0 and -0.0 are one score.
        let (first, second) = (scores[a] + 0.0, scores[b] + 0.0);
        second.total_cmp(&first).then_with(|| time(a).cmp(&time(b))).then_with(|| a.cmp(&b))
    });
    order
}

/// What a threshold that is a score of the data lets through: this score and all above it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) threshold: f64,
    pub(super) hits: u64,
    pub(super) alerts: u64,
}

impl Step {
    pub(super) fn precision(&self) -> f64 {
        share(self.hits, self.alerts)
    }

    pub(super) fn recall(&self, num_positives: u64) -> f64 {
        share(self.hits, num_positives)
    }
}

/// One step for each distinct score, from the highest.
pub(super) fn steps(scores: &[f64], labels: &[bool]) -> Vec<Step> {
    steps_of(&by_falling_score(scores, &[]), scores, labels)
}

pub(super) fn steps_of(order: &[u32], scores: &[f64], labels: &[bool]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut hits, mut alerts) = (0, 0);
    for row in order {
        let row = *row as usize;
        hits += u64::from(labels[row]);
        alerts += 1;
        let step = Step { threshold: scores[row], hits, alerts };
        match steps.last_mut() {
            Some(last) if last.threshold == step.threshold => *last = step,
            _ => steps.push(step),
        }
    }
    steps
}

/// Area under the precision-recall curve: the mean, over the positives, of the precision at their score. 0 without positives.
#[must_use]
pub fn average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    average_precision_of(&steps(scores, labels))
}

pub(super) fn average_precision_of(steps: &[Step]) -> f64 {
    let num_positives = steps.last().map_or(0, |last| last.hits);
    let mut before = 0;
    let mut sum = 0.0;
    for step in steps {
        sum += (step.hits - before) as f64 * step.precision();
        before = step.hits;
    }
    if num_positives == 0 { 0.0 } else { sum / num_positives as f64 }
}

/// The chance that a positive scores higher than another row; a tie counts half. 0.5 when one of the two labels is missing.
#[must_use]
pub fn roc_auc(scores: &[f64], labels: &[bool]) -> f64 {
    roc_auc_of(&steps(scores, labels))
}

pub(super) fn roc_auc_of(steps: &[Step]) -> f64 {
    let (positives, rows) = steps.last().map_or((0, 0), |last| (last.hits, last.alerts));
    let negatives = rows - positives;
    if positives == 0 || negatives == 0 {
        return 0.5;
    }
    let (mut hits, mut false_alarms, mut wins) = (0, 0, 0.0);
    for step in steps {
        let new_hits = step.hits - hits;
        let new_false_alarms = (step.alerts - step.hits) - false_alarms;
        wins += new_false_alarms as f64 * (hits as f64 + new_hits as f64 / 2.0);
        hits = step.hits;
        false_alarms = step.alerts - step.hits;
    }
    wins / positives as f64 / negatives as f64
}

/// A part of a whole; 0 of nothing, as scikit-learn's `zero_division=0`.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
