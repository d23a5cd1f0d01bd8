//! The same figures for parts of the rows: positives by kind, rows by segment. Rare groups are put together, so that a column with
//! thousands of values neither floods a report nor a registry.

use super::document::{Group, KindOfPositive, Segment, Unfindable};
use super::examples::{Categories, Examples};
use super::ranking::share;

/// Groups of a column that are shown apart; those with the most positives.
const GROUPS_MAX: usize = 20;
/// The name of all other groups together.
pub const OTHER_NAMES: &str = "(others)";

/// Which rows are alerts: at the threshold, and at the alert budget if there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alerts<'a> {
    pub(super) at_threshold: &'a [bool],
    pub(super) at_budget: Option<&'a [bool]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    rows: u64,
    positives: u64,
    alerts: u64,
    hits: u64,
    budget_hits: u64,
    worth: f64,
    worth_found: f64,
}

impl Tally {
    fn plus(mut self, other: &Tally) -> Tally {
        self.rows += other.rows;
        self.positives += other.positives;
        self.alerts += other.alerts;
        self.hits += other.hits;
        self.budget_hits += other.budget_hits;
        self.worth += other.worth;
        self.worth_found += other.worth_found;
        self
    }
}

/// Name and tally of each group, most positives first, rare ones together.
fn tallies(examples: &Examples<'_>, groups: &Categories, alerts: Alerts<'_>) -> Vec<(String, Tally)> {
    let mut tallies = vec![Tally::default(); groups.names().len()];
    for (row, code) in groups.codes().iter().enumerate() {
        let tally = &mut tallies[*code as usize];
        let (is_positive, is_alert) = (examples.labels[row], alerts.at_threshold[row]);
        tally.rows += 1;
        tally.alerts += u64::from(is_alert);
        if is_positive {
            let worth = examples.amount(row);
            tally.positives += 1;
            tally.hits += u64::from(is_alert);
            tally.budget_hits += u64::from(alerts.at_budget.is_some_and(|is_alert| is_alert[row]));
            tally.worth += worth;
            tally.worth_found += if is_alert { worth } else { 0.0 };
        }
    }
    let mut named: Vec<(String, Tally)> = groups.names().iter().cloned().zip(tallies).collect();
    named.sort_by(|(a, left), (b, right)| {
        right.positives.cmp(&left.positives).then(right.rows.cmp(&left.rows)).then_with(|| a.cmp(b))
    });
    if named.len() > GROUPS_MAX {
        let others = named.drain(GROUPS_MAX - 1..).fold(Tally::default(), |sum, (_, tally)| sum.plus(&tally));
        named.push((OTHER_NAMES.to_owned(), others));
    }
    named
}

pub(super) fn segment(examples: &Examples<'_>, column: &str, groups: &Categories, alerts: Alerts<'_>) -> Segment {
    let groups = tallies(examples, groups, alerts)
        .into_iter()
        .map(|(name, tally)| Group {
            name,
            rows: tally.rows,
            positives: tally.positives,
            alerts: tally.alerts,
            hits: tally.hits,
            precision: share(tally.hits, tally.alerts),
            recall: share(tally.hits, tally.positives),
            recall_at_budget: alerts.at_budget.map(|_| share(tally.budget_hits, tally.positives)),
        })
        .collect();
    Segment { column: column.to_owned(), groups }
}

pub(super) fn kinds(examples: &Examples<'_>, groups: &Categories, alerts: Alerts<'_>) -> Vec<KindOfPositive> {
    tallies(examples, groups, alerts)
        .into_iter()
        .filter(|(_, tally)| tally.positives > 0)
        .map(|(kind, tally)| KindOfPositive {
            kind,
            positives: tally.positives,
            hits: tally.hits,
            recall: share(tally.hits, tally.positives),
            recall_at_budget: alerts.at_budget.map(|_| share(tally.budget_hits, tally.positives)),
            value_recall: (tally.worth > 0.0).then(|| tally.worth_found / tally.worth),
        })
        .collect()
}

/// What the kinds say of the limit of any model. `None` when no kind is noise by construction, or the kinds are not known.
pub(super) fn unfindable(kinds: &[KindOfPositive], names: &[String]) -> Option<Unfindable> {
    let is_noise = |kind: &&KindOfPositive| names.contains(&kind.kind);
    let noise: Vec<&KindOfPositive> = kinds.iter().filter(is_noise).collect();
    if noise.is_empty() {
        return None;
    }
    let count = |kinds: &[&KindOfPositive]| {
        kinds.iter().fold((0, 0), |(hits, positives), kind| (hits + kind.hits, positives + kind.positives))
    };
    let (_, positives) = count(&noise);
    let (hits_of_others, others) = count(&kinds.iter().filter(|kind| !is_noise(kind)).collect::<Vec<_>>());
    Some(Unfindable {
        kinds: noise.iter().map(|kind| kind.kind.clone()).collect(),
        positives,
        share: share(positives, positives + others),
        recall_most: share(others, positives + others),
        recall_of_findable: share(hits_of_others, others),
    })
}
