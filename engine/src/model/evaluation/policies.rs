//! How a threshold is chosen on validation rows: by F-beta, by a floor of the precision, by an alert budget, by costs, or as a
//! quantile of the scores. A row is an alert when its score is at or above the threshold. Where several thresholds are equally good,
//! the highest is taken: the same result with fewer alerts. `None` means that no threshold does what is asked. A threshold is a number
//! with few digits between the lowest score that it lets through and the next one below, so that JSON, YAML and tags keep it to the bit.

use super::examples::{num_days, worth};
use super::ranking::{Step, by_falling_score, steps};

/// What wrong decisions cost, in the unit of the amounts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Looking at one alert.
    pub alert: f64,
    /// Missing one positive, whatever its amount.
    pub missed: f64,
    /// Missing one positive, as a share of its amount.
    pub missed_amount_share: f64,
}

/// The threshold with the highest F-beta. `beta` above 1 weighs recall more, below 1 precision. `None` without positives.
#[must_use]
pub fn f_beta(scores: &[f64], labels: &[bool], beta: f64) -> Option<f64> {
    let steps = steps(scores, labels);
    let num_positives = steps.last()?.hits;
    let squared = beta * beta;
    let mut best = None;
    for (at, step) in steps.iter().enumerate() {
        // (1 + b2) P R / (b2 P + R), in counts.
        let value = (1.0 + squared) * step.hits as f64 / (squared * num_positives as f64 + step.alerts as f64);
        if step.hits > 0 && best.is_none_or(|(highest, _)| value > highest) {
            best = Some((value, at));
        }
    }
    best.map(|(_, at)| at_step(&steps, at))
}

/// The threshold with the highest recall among those whose precision is at least `floor`. `None` when none has it.
#[must_use]
pub fn precision_floor(scores: &[f64], labels: &[bool], floor: f64) -> Option<f64> {
    let steps = steps(scores, labels);
    let mut best: Option<(u64, usize)> = None;
    for (at, step) in steps.iter().enumerate() {
        if step.precision() >= floor && step.hits > best.map_or(0, |(hits, _)| hits) {
            best = Some((step.hits, at));
        }
    }
    best.map(|(_, at)| at_step(&steps, at))
}

/// The lowest threshold that gives at most `per_day` alerts a day on average over the period of these rows. `None` without rows, or
/// when even the highest score is given to more rows than that.
#[must_use]
pub fn alert_budget(scores: &[f64], times: &[i64], per_day: f64) -> Option<f64> {
    if times.is_empty() {
        return None;
    }
    // Less than one alert in the whole period would choose none: then one is taken.
    let most = (per_day * num_days(times)).floor().max(1.0);
    // No label is needed to count alerts.
    let steps = steps(scores, &vec![false; scores.len()]);
    let within = steps.iter().take_while(|step| step.alerts as f64 <= most).count();
    within.checked_sub(1).map(|at| at_step(&steps, at))
}

/// The threshold with the lowest cost: of the alerts, and of the positives that are missed. Above all scores when no alert is worth
/// its cost. `None` without rows.
#[must_use]
pub fn least_cost(scores: &[f64], labels: &[bool], amounts: Option<&[f64]>, costs: &Costs) -> Option<f64> {
    let order = by_falling_score(scores, &[]);
    let highest = scores[*order.first()? as usize];
    let (mut cost, mut best) = (0.0, (0.0, above(highest)));
    for (at, row) in order.iter().enumerate() {
        let row = *row as usize;
        cost += costs.alert;
        if labels[row] {
            cost -= costs.missed + costs.missed_amount_share * amounts.map_or(0.0, |amounts| worth(amounts[row]));
        }
        let next = order.get(at + 1).map(|next| scores[*next as usize]);
        if next != Some(scores[row]) && cost < best.0 {
            best = (cost, between(scores[row], next));
        }
    }
    Some(best.1)
}

/// The threshold that lets through this step and those above it.
fn at_step(steps: &[Step], at: usize) -> f64 {
    between(steps[at].threshold, steps.get(at + 1).map(|below| below.threshold))
}

/// Digits behind the point of a threshold: at least, and at most.
const DECIMALS: std::ops::RangeInclusive<i32> = 6..=15;
/// Integers up to here divided by a power of ten are that decimal number, to the bit.
const EXACT_MOST: f64 = (1_u64 << 53) as f64;

/// A number with few digits, at most `score` and above `below`; the score itself where the two are too close for that.
fn between(score: f64, below: Option<f64>) -> f64 {
    let candidates = DECIMALS.map(|decimals| {
        let scale = 10_f64.powi(decimals);
        ((score * scale).floor(), scale)
    });
    candidates
        .filter(|(whole, _)| whole.abs() < EXACT_MOST)
        .map(|(whole, scale)| whole / scale)
        .find(|short| *short <= score && below.is_none_or(|below| *short > below))
        .unwrap_or(score)
}

/// A number with few digits above a score.
fn above(score: f64) -> f64 {
    let scale = 10_f64.powi(*DECIMALS.start());
    let short = ((score * scale).floor() + 1.0) / scale;
    if short > score { short } else { score.next_up() }
}

/// The score that a share `quantile` (0 to 1) of the scores does not exceed: nearest rank. `None` without scores.
#[must_use]
pub fn quantile(scores: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
}
