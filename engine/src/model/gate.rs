//! May a new model version take the champion's place? A pure decision on the scores of both models for the same rows, and the document
//! that says why. It fails closed: what cannot be shown does not pass. It neither scores nor promotes.

mod checks;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::checks::Checks;
use super::evaluation::{
    Bootstrap, Evaluation, EvaluationSettings, Examples, PairedPrAuc, evaluate, paired_pr_auc, top_of_each_day,
};
use crate::error::{Error, Result};

/// The document's name in a model directory.
pub const GATE_FILE: &str = "gate.json";
/// Version of the document.
pub const GATE_REPORT_VERSION: u32 = 1;

/// What a candidate must keep to. A margin is how much worse than the champion it may be.
#[derive(Debug, Clone, PartialEq)]
pub struct GateRules {
    /// Positives that the test rows must hold.
    pub positives_least: u64,
    /// Margin of the area under the precision-recall curve.
    pub pr_auc_margin: f64,
    /// How sure it must be that the margin (or a gain) is kept: the share of bootstrap samples.
    pub confidence: f64,
    /// Margin of the recall at the alert budget.
    pub recall_margin: f64,
    /// Margin of the recall at the alert budget within each group of each segment and within each kind of positive.
    pub segment_margin: f64,
    /// Whether scores must be probabilities: within this factor of the share of positives on average, and with a lower Brier score than
    /// a constant. `None` for models that were trained with weights.
    pub calibration_factor: Option<f64>,
    /// Margin of the Brier score, as a share of the champion's. Checked with `calibration_factor`.
    pub brier_margin: f64,
    /// Microseconds that scoring one row may take.
    pub scoring_micros_most: f64,
    /// Features that may be new or gone. `None`: any.
    pub feature_changes: Option<Vec<String>>,
    /// Area under the precision-recall curve that is needed in any case.
    pub pr_auc_least: Option<f64>,
    /// Recall at the alert budget that is needed in any case.
    pub recall_least: Option<f64>,
    /// How much greater than the champion's the area under the precision-recall curve must be.
    pub pr_auc_gain: Option<f64>,
    /// The alert budget. `None`: as many as the champion (without one, the candidate) gives at its threshold.
    pub alerts_per_day: Option<u64>,
    /// Samples and seed of the bootstrap.
    pub bootstrap: Bootstrap,
}

impl Default for GateRules {
    fn default() -> Self {
        GateRules {
            positives_least: 100,
            pr_auc_margin: 0.01,
            confidence: 0.95,
            recall_margin: 0.01,
            segment_margin: 0.05,
            calibration_factor: Some(2.0),
            brier_margin: 0.1,
            scoring_micros_most: 20.0,
            feature_changes: Some(Vec::new()),
            pr_auc_least: None,
            recall_least: None,
            pr_auc_gain: None,
            alerts_per_day: None,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// A model with its scores of the test rows.
#[derive(Debug, Clone, Copy)]
pub struct Contender<'a> {
    /// Its version, as people call it.
    pub version: &'a str,
    /// One score a row.
    pub scores: &'a [f64],
    /// Its own threshold.
    pub threshold: f64,
    /// Its features.
    pub features: &'a [String],
    /// Hash of its text.
    pub sha256: &'a str,
}

/// Whether the candidate may be promoted, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateReport {
    /// [`GATE_REPORT_VERSION`].
    pub version: u32,
    /// Whether every check is ok.
    pub passed: bool,
    /// The version that would be promoted.
    pub candidate: String,
    /// Hash of its text.
    pub candidate_sha256: String,
    /// The version that it would replace.
    pub champion: Option<String>,
    /// Hash of its text: whether the champion is still the one that was judged.
    pub champion_sha256: Option<String>,
    /// Test rows.
    pub rows: u64,
    /// Positive ones.
    pub positives: u64,
    /// Event time of the first row, microseconds since 1970, UTC.
    pub from_micros: i64,
    /// Event time of the last row.
    pub to_micros: i64,
    /// The alert budget that both were held to.
    pub alerts_per_day: u64,
    /// Microseconds that scoring one row may take; measured where the model is to be served, not where it was trained.
    pub scoring_micros_most: f64,
    /// Every check that was made.
    pub checks: Vec<GateCheck>,
    /// The figures of both.
    pub figures: Vec<ComparedFigure>,
    /// Their areas under the precision-recall curve on the same samples.
    pub pr_auc: Option<PairedPrAuc>,
}

/// One rule and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateCheck {
    /// Its name; stable.
    pub name: String,
    /// Whether it is kept.
    pub ok: bool,
    /// What was found.
    pub found: Option<f64>,
    /// What is allowed.
    pub limit: Option<f64>,
    /// In words.
    pub why: String,
}

/// A figure of both models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparedFigure {
    /// Its name, as in [`Evaluation::flat`].
    pub name: String,
    /// The candidate's.
    pub candidate: f64,
    /// The champion's.
    pub champion: Option<f64>,
}

impl GateReport {
    /// The names of the checks that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&str> {
        self.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect()
    }

    /// Adds a check that was made elsewhere, in place of one of the same name.
    pub fn add(&mut self, check: GateCheck) {
        self.checks.retain(|made| made.name != check.name);
        self.checks.push(check);
        self.passed = self.checks.iter().all(|check| check.ok);
    }

    /// Adds what scoring one row takes, measured.
    pub fn add_scoring_time(&mut self, micros: f64) {
        self.add(GateCheck {
            name: "scoring_time".to_owned(),
            ok: micros <= self.scoring_micros_most,
            found: Some(micros),
            limit: Some(self.scoring_micros_most),
            why: "microseconds to score one row, measured by this run".to_owned(),
        });
    }

    /// Adds that there is a champion which could not be judged: then nothing shows that the candidate is not worse.
    pub fn add_unjudged_champion(&mut self, why: &str) {
        self.add(GateCheck { name: "champion".to_owned(), ok: false, found: None, limit: None, why: why.to_owned() });
    }

    /// Reads a document.
    pub fn parse(text: &str) -> Result<GateReport> {
        let report: GateReport = serde_json::from_str(text).map_err(|error| {
            Error::data("it is not a gate's report; train the model again, or ask the gate with --rescore")
                .with_source(error)
        })?;
        if report.version != GATE_REPORT_VERSION {
            return Err(Error::data(format!(
                "expected a gate's report of version {GATE_REPORT_VERSION}, found {}; train the model again",
                report.version
            )));
        }
        Ok(report)
    }

    /// The document's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("a gate's report cannot be written").with_source(error))
    }
}

/// A model's figures, and which rows are its alerts at the common budget.
struct Judged<'a> {
    contender: &'a Contender<'a>,
    evaluation: Evaluation,
    at_budget: Vec<bool>,
}

/// Decides. The scores in `rows` are not read; those of the contenders are. An error says why the rows do not allow a decision.
pub fn decide(
    rows: &Examples<'_>,
    candidate: &Contender<'_>,
    champion: Option<&Contender<'_>>,
    rules: &GateRules,
) -> Result<GateReport> {
    let measure = champion.unwrap_or(candidate);
    let alerts_per_day = match rules.alerts_per_day {
        Some(alerts) => alerts,
        None => alerts_of(rows, measure)?,
    };
    let candidate = judge(rows, candidate, alerts_per_day, rules)?;
    let champion = champion.map(|champion| judge(rows, champion, alerts_per_day, rules)).transpose()?;
    let pr_auc = champion.as_ref().map(|champion| {
        // One-sided: the lower end of an interval that leaves as much out above.
        let bootstrap = Bootstrap { confidence: 2.0 * rules.confidence - 1.0, ..rules.bootstrap };
        paired_pr_auc(candidate.contender.scores, champion.contender.scores, rows.labels, rows.times, &bootstrap)
    });
    let mut checks = Checks::new(rules, &candidate);
    checks.absolute();
    if let (Some(champion), Some(pr_auc)) = (&champion, &pr_auc) {
        checks.beside(champion, pr_auc, rows);
    }
    let checks = checks.made();
    Ok(GateReport {
        version: GATE_REPORT_VERSION,
        passed: checks.iter().all(|check| check.ok),
        candidate: candidate.contender.version.to_owned(),
        candidate_sha256: candidate.contender.sha256.to_owned(),
        champion: champion.as_ref().map(|champion| champion.contender.version.to_owned()),
        champion_sha256: champion.as_ref().map(|champion| champion.contender.sha256.to_owned()),
        rows: candidate.evaluation.rows,
        positives: candidate.evaluation.positives,
        from_micros: candidate.evaluation.from_micros,
        to_micros: candidate.evaluation.to_micros,
        alerts_per_day,
        scoring_micros_most: rules.scoring_micros_most,
        checks,
        figures: figures(&candidate.evaluation, champion.as_ref().map(|champion| &champion.evaluation)),
        pr_auc,
    })
}

/// Alerts a day of a model at its own threshold, at least one.
fn alerts_of(rows: &Examples<'_>, contender: &Contender<'_>) -> Result<u64> {
    let found = evaluate_at(rows, contender, None, &GateRules::default())?;
    Ok(found.at_threshold.alerts_per_day.round().max(1.0) as u64)
}

fn judge<'a>(
    rows: &Examples<'_>,
    contender: &'a Contender<'a>,
    alerts_per_day: u64,
    rules: &GateRules,
) -> Result<Judged<'a>> {
    Ok(Judged {
        contender,
        evaluation: evaluate_at(rows, contender, Some(alerts_per_day), rules)?,
        at_budget: top_of_each_day(contender.scores, rows.times, alerts_per_day),
    })
}

fn evaluate_at(
    rows: &Examples<'_>,
    contender: &Contender<'_>,
    alerts_per_day: Option<u64>,
    rules: &GateRules,
) -> Result<Evaluation> {
    let examples = Examples { scores: contender.scores, ..rows.clone() };
    let settings = EvaluationSettings {
        alerts_per_day,
        bootstrap: rules.bootstrap,
        ..EvaluationSettings::at(contender.threshold)
    };
    evaluate(&examples, &settings).map_err(|error| error.context(format!("model {}", contender.version)))
}

/// The figures that people compare models by, the most telling first. Recall at fixed precisions comes behind them.
const COMPARED: [&str; 16] = [
    "pr_auc",
    "recall_at_budget",
    "precision_at_budget",
    "value_recall_at_budget",
    "precision",
    "recall",
    "f1",
    "value_recall",
    "recall_of_findable",
    "alerts_per_day",
    "threshold",
    "roc_auc",
    "brier",
    "ece",
    "mean_score",
    "alerts_per_1000",
];

/// The figures of one or both models that people compare models by. Those of kinds and segments are in the evaluations.
#[must_use]
pub fn figures(candidate: &Evaluation, champion: Option<&Evaluation>) -> Vec<ComparedFigure> {
    let of_champion = champion.map(Evaluation::flat);
    let of_candidate = candidate.flat();
    let at_precision = of_candidate.keys().map(String::as_str).filter(|name| name.starts_with("recall_at_precision_"));
    let figure = |name: &str| {
        Some(ComparedFigure {
            candidate: *of_candidate.get(name)?,
            champion: of_champion.as_ref().and_then(|figures| figures.get(name).copied()),
            name: name.to_owned(),
        })
    };
    COMPARED.into_iter().chain(at_precision).filter_map(figure).collect()
}
