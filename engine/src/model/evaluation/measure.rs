//! All figures of some rows, put together; and the three that a progress line shows.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, pr_auc};
use super::budget::{at_budget, top_of_each_day, value_recall};
use super::calibration::calibration;
use super::curves::curves;
use super::document::{AtPrecision, AtThreshold, Evaluation};
use super::examples::{Examples, num_days};
use super::groups::{Alerts, kinds, segment, unfindable};
use super::ranking::{Step, average_precision, by_falling_score, roc_auc_of, share, steps_of};
use crate::error::Result;

/// What an evaluation is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationSettings {
    /// The model's threshold.
    pub threshold: f64,
    /// Alerts a day that people look at.
    pub alerts_per_day: Option<u64>,
    /// Precisions at which the highest recall is reported.
    pub precisions: Vec<f64>,
    /// Kinds that no model can find, because they are noise by construction (of generated data).
    pub unfindable_kinds: Vec<String>,
    /// How the interval is drawn.
    pub bootstrap: Bootstrap,
}

impl EvaluationSettings {
    /// The usual figures at this threshold.
    #[must_use]
    pub fn at(threshold: f64) -> Self {
        EvaluationSettings {
            threshold,
            alerts_per_day: None,
            precisions: vec![0.5, 0.8, 0.88, 0.9],
            unfindable_kinds: Vec::new(),
            bootstrap: Bootstrap::default(),
        }
    }
}

/// Evaluates the rows. An error says why they cannot be evaluated, see [`Examples::check`].
pub fn evaluate(examples: &Examples<'_>, settings: &EvaluationSettings) -> Result<Evaluation> {
    examples.check()?;
    let Examples { scores, labels, times, .. } = *examples;
    let steps = steps_of(&by_falling_score(scores, times), scores, labels);
    let is_alert: Vec<bool> = scores.iter().map(|score| *score >= settings.threshold).collect();
    let top = settings.alerts_per_day.map(|per_day| (per_day, top_of_each_day(scores, times, per_day)));
    let alerts = Alerts { at_threshold: &is_alert, at_budget: top.as_ref().map(|(_, top)| top.as_slice()) };
    let kinds = examples.kinds.map(|groups| kinds(examples, groups, alerts)).unwrap_or_default();
    Ok(Evaluation {
        rows: scores.len() as u64,
        positives: examples.num_positives() as u64,
        from_micros: times.iter().min().copied().unwrap_or(0),
        to_micros: times.iter().max().copied().unwrap_or(0),
        days: num_days(times),
        pr_auc: pr_auc(scores, labels, times, &settings.bootstrap),
        roc_auc: roc_auc_of(&steps),
        at_threshold: at_threshold(examples, settings.threshold, &is_alert),
        at_precision: settings.precisions.iter().map(|precision| at_precision(&steps, *precision)).collect(),
        at_budget: top.as_ref().map(|(per_day, top)| at_budget(examples, top, *per_day)),
        unfindable: unfindable(&kinds, &settings.unfindable_kinds),
        kinds,
        segments: examples.segments.iter().map(|(name, groups)| segment(examples, name, groups, alerts)).collect(),
        calibration: calibration(scores, labels),
        curves: curves(&steps, scores, labels),
    })
}

fn at_threshold(examples: &Examples<'_>, threshold: f64, is_alert: &[bool]) -> AtThreshold {
    let Counts { alerts, hits, positives, rows } = count(is_alert, examples.labels);
    AtThreshold {
        threshold,
        true_positives: hits,
        false_positives: alerts - hits,
        false_negatives: positives - hits,
        true_negatives: rows - positives - (alerts - hits),
        precision: share(hits, alerts),
        recall: share(hits, positives),
        f1: share(2 * hits, alerts + positives),
        alerts_per_1000: 1000.0 * share(alerts, rows),
        alerts_per_day: alerts as f64 / num_days(examples.times),
        value_recall: value_recall(examples, is_alert),
    }
}

struct Counts {
    alerts: u64,
    hits: u64,
    positives: u64,
    rows: u64,
}

fn count(is_alert: &[bool], labels: &[bool]) -> Counts {
    let mut counts = Counts { alerts: 0, hits: 0, positives: 0, rows: labels.len() as u64 };
    for (is_alert, label) in is_alert.iter().zip(labels) {
        counts.alerts += u64::from(*is_alert);
        counts.positives += u64::from(*label);
        counts.hits += u64::from(*is_alert && *label);
    }
    counts
}

/// The step with the highest recall among those that are precise enough; the highest threshold of several.
fn at_precision(steps: &[Step], precision: f64) -> AtPrecision {
    let num_positives = steps.last().map_or(0, |last| last.hits);
    let mut best: Option<&Step> = None;
    for step in steps.iter().filter(|step| step.precision() >= precision) {
        if step.hits > best.map_or(0, |best| best.hits) {
            best = Some(step);
        }
    }
    AtPrecision {
        precision,
        recall: best.map_or(0.0, |step| step.recall(num_positives)),
        threshold: best.map(|step| step.threshold),
    }
}

/// The three figures of a progress line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Area under the precision-recall curve (average precision).
    pub pr_auc: f64,
    /// Of those at or above the threshold, the share that is positive.
    pub precision: f64,
    /// Of the positives, the share at or above the threshold.
    pub recall: f64,
}

/// The figures of some rows, without anything that needs event times or randomness.
#[must_use]
pub fn quality(scores: &[f64], labels: &[bool], threshold: f64) -> Quality {
    let is_alert: Vec<bool> = scores.iter().map(|score| *score >= threshold).collect();
    let Counts { alerts, hits, positives, .. } = count(&is_alert, labels);
    Quality {
        pr_auc: average_precision(scores, labels),
        precision: share(hits, alerts),
        recall: share(hits, positives),
    }
}
