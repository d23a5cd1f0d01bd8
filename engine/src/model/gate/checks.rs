//! The rules of the gate, one function each. A check that fails says what was found, what is allowed, and what it means.

use super::{GateCheck, GateRules, Judged};
use crate::model::evaluation::{Categories, Examples, PairedPrAuc};

/// A drop in a group that chance gives more often than this is not held against the candidate.
const CHANCE_MOST: f64 = 0.05;

pub(super) struct Checks<'a> {
    rules: &'a GateRules,
    candidate: &'a Judged<'a>,
    made: Vec<GateCheck>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(rules: &'a GateRules, candidate: &'a Judged<'a>) -> Self {
        Checks { rules, candidate, made: Vec::new() }
    }

    pub(super) fn made(self) -> Vec<GateCheck> {
        self.made
    }

    fn add(&mut self, name: impl Into<String>, ok: bool, found: f64, limit: f64, why: String) {
        let number = |value: f64| value.is_finite().then_some(value);
        self.made.push(GateCheck { name: name.into(), ok, found: number(found), limit: number(limit), why });
    }

    /// Found must be at least the limit.
    fn at_least(&mut self, name: &str, found: f64, limit: f64, why: String) {
        self.add(name, found >= limit, found, limit, why);
    }

    /// Found must be at most the limit.
    fn at_most(&mut self, name: &str, found: f64, limit: f64, why: String) {
        self.add(name, found <= limit, found, limit, why);
    }

    /// What a candidate must keep to with or without a champion.
    pub(super) fn absolute(&mut self) {
        let (rules, found) = (self.rules, &self.candidate.evaluation);
        let positives = found.positives as f64;
        let why =
            format!("{} of the {} test rows are positive; fewer would decide by chance", found.positives, found.rows);
        self.at_least("positives", positives, rules.positives_least as f64, why);
        let chance = positives / found.rows as f64;
        let why = format!(
            "the lower end of the interval of PR-AUC {:.4}; scores without meaning have the share of positives",
            found.pr_auc.value
        );
        self.add("better_than_chance", found.pr_auc.low > chance, found.pr_auc.low, chance, why);
        if let Some(least) = rules.pr_auc_least {
            self.at_least("pr_auc_least", found.pr_auc.value, least, "PR-AUC that is needed in any case".to_owned());
        }
        if let Some(least) = rules.recall_least {
            let why = "recall at the alert budget that is needed in any case".to_owned();
            self.at_least("recall_least", recall(self.candidate), least, why);
        }
        if let Some(factor) = rules.calibration_factor {
            self.calibrated(factor, chance);
        }
    }

    fn calibrated(&mut self, factor: f64, share: f64) {
        let Some(calibration) = &self.candidate.evaluation.calibration else {
            let why = "the scores are no probabilities (not all between 0 and 1)".to_owned();
            self.add("calibration", false, f64::NAN, f64::NAN, why);
            return;
        };
        let ratio = calibration.mean_score / share;
        let why = format!(
            "the mean score {:.5} is {ratio:.2} times the share of positives {share:.5}; a factor of {factor} either way is allowed",
            calibration.mean_score
        );
        self.add("calibration", ratio <= factor && ratio * factor >= 1.0, ratio, factor, why);
        let why = "the Brier score; the limit is that of always saying the share of positives".to_owned();
        self.at_most("brier", calibration.brier, calibration.brier_of_constant, why);
    }

    /// What it must keep to beside a champion on the same rows.
    pub(super) fn beside(&mut self, champion: &Judged<'_>, pr_auc: &PairedPrAuc, rows: &Examples<'_>) {
        self.pr_auc(pr_auc);
        let difference = recall(self.candidate) - recall(champion);
        let why = format!(
            "recall at the alert budget: {:.4} beside the champion's {:.4}",
            recall(self.candidate),
            recall(champion)
        );
        self.at_least("recall_at_budget", difference, -self.rules.recall_margin, why);
        for (column, groups) in &rows.segments {
            self.groups(&format!("segment.{column}"), groups, champion, rows);
        }
        if let Some(kinds) = rows.kinds {
            self.groups("kind", kinds, champion, rows);
        }
        self.brier_beside(champion);
        self.features(champion);
    }

    fn pr_auc(&mut self, pr_auc: &PairedPrAuc) {
        let (low, value, high) = (pr_auc.difference.low, pr_auc.difference.value, pr_auc.difference.high);
        let areas = format!(
            "PR-AUC {:.4} beside the champion's {:.4}: the difference is {value:+.4}, from {low:+.4} to {high:+.4}",
            pr_auc.candidate, pr_auc.champion
        );
        let margin = -self.rules.pr_auc_margin;
        let verdict = if low >= margin {
            "not worse"
        } else if value < margin {
            "worse"
        } else {
            "too uncertain to rule out that it is worse: more labelled rows narrow the interval"
        };
        self.at_least("pr_auc", low, margin, format!("{areas}; {verdict}"));
        if let Some(gain) = self.rules.pr_auc_gain {
            self.at_least("pr_auc_gain", low, gain, format!("{areas}; the configuration asks for a gain"));
        }
    }

    /// The worst group of a column. A drop fails when it is beyond the margin and chance hardly gives it: of the positives that only
    /// one of the two models finds, far more are the champion's.
    fn groups(&mut self, name: &str, groups: &Categories, champion: &Judged<'_>, rows: &Examples<'_>) {
        let mut found = vec![Found::default(); groups.names().len()];
        for (row, code) in groups.codes().iter().enumerate() {
            if rows.labels[row] {
                found[*code as usize].add(self.candidate.at_budget[row], champion.at_budget[row]);
            }
        }
        let margin = self.rules.segment_margin;
        let fails = |group: &Found| group.difference() < -margin && group.chance() < CHANCE_MOST;
        // Failing groups first, then by how much worse they are.
        let worst = found
            .iter()
            .zip(groups.names())
            .filter(|(group, _)| group.positives > 0)
            .min_by(|(a, _), (b, _)| fails(b).cmp(&fails(a)).then(a.difference().total_cmp(&b.difference())));
        let Some((worst, group)) = worst else { return };
        let why = format!(
            "the worst group is {group:?}: of its {} positives the candidate finds {} at the alert budget, the champion {}; chance \
             alone would give such a drop with a probability of {:.2}",
            worst.positives,
            worst.candidate,
            worst.champion,
            worst.chance()
        );
        self.add(name, !fails(worst), worst.difference(), -margin, why);
    }

    fn brier_beside(&mut self, champion: &Judged<'_>) {
        let calibrations = (&self.candidate.evaluation.calibration, &champion.evaluation.calibration);
        let (Some(_), (Some(ours), Some(theirs))) = (self.rules.calibration_factor, calibrations) else { return };
        let why = format!("the Brier score beside the champion's {:.5}", theirs.brier);
        self.at_most("brier_beside_champion", ours.brier, theirs.brier * (1.0 + self.rules.brier_margin), why);
    }

    fn features(&mut self, champion: &Judged<'_>) {
        let Some(accepted) = &self.rules.feature_changes else { return };
        let (ours, theirs) = (self.candidate.contender.features, champion.contender.features);
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|name| !those.contains(name) && !accepted.contains(name)).cloned().collect()
        };
        let (new, gone) = (only(ours, theirs), only(theirs, ours));
        let why = if new.is_empty() && gone.is_empty() {
            "the same features as the champion's, or changes that the configuration accepts".to_owned()
        } else {
            let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("new features: {}; gone: {}; name them in the gate's accepted changes", list(&new), list(&gone))
        };
        self.at_most("features", (new.len() + gone.len()) as f64, 0.0, why);
    }
}

fn recall(judged: &Judged<'_>) -> f64 {
    judged.evaluation.at_budget.map_or(0.0, |at| at.recall)
}

/// Positives of a group, and which model finds them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    positives: u64,
    candidate: u64,
    champion: u64,
    only_candidate: u64,
    only_champion: u64,
}

impl Found {
    fn add(&mut self, candidate: bool, champion: bool) {
        self.positives += 1;
        self.candidate += u64::from(candidate);
        self.champion += u64::from(champion);
        self.only_candidate += u64::from(candidate && !champion);
        self.only_champion += u64::from(champion && !candidate);
    }

    /// Recall of the candidate less that of the champion.
    fn difference(&self) -> f64 {
        (self.candidate as f64 - self.champion as f64) / self.positives as f64
    }

    /// How probable it is that the champion finds at least so many that the candidate does not, if each of those that only one of them
    /// finds were as likely found by either (sign test).
    fn chance(&self) -> f64 {
        at_least_heads(self.only_candidate + self.only_champion, self.only_champion)
    }
}

/// The probability of at least `heads` among so many throws of a fair coin.
pub(super) fn at_least_heads(throws: u64, heads: u64) -> f64 {
    let mut log_ways = 0.0;
    let mut sum = 0.0;
    for count in 0..=throws {
        if count >= heads {
            sum += (log_ways - throws as f64 * std::f64::consts::LN_2).exp();
        }
        log_ways += ((throws - count) as f64).ln() - ((count + 1) as f64).ln();
    }
    sum.min(1.0)
}
