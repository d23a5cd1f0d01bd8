//! Each rule of the gate, kept and broken; the document.

use super::checks::at_least_heads;
use super::*;
use crate::error::ErrorKind;
use crate::model::evaluation::Categories;

const DAY: i64 = 86_400_000_000;

/// 3000 rows of 15 days, every 20th positive, and the scores of a good model: nearly all positives are on top.
struct Rows {
    labels: Vec<bool>,
    times: Vec<i64>,
    country: Categories,
    good: Vec<f64>,
}

fn rows() -> Rows {
    let noise = |row: usize| (row * 7919 % 1000) as f64 / 1000.0;
    let labels: Vec<bool> = (0..3000).map(|row| row % 20 == 0).collect();
    Rows {
        times: (0..3000).map(|row| row / 200 * DAY + row % 200).collect(),
        country: Categories::of((0..3000).map(|row| Some(if row % 40 == 0 { "small" } else { "large" }))),
        good: (0..3000).map(|row| if labels[row] { 0.4 + 0.6 * noise(row) } else { 0.05 * noise(row) }).collect(),
        labels,
    }
}

impl Rows {
    fn examples(&self) -> Examples<'_> {
        Examples {
            labels: &self.labels,
            times: &self.times,
            segments: vec![("country", &self.country)],
            ..Examples::default()
        }
    }

    fn contender<'a>(&self, version: &'a str, scores: &'a [f64], features: &'a [String]) -> Contender<'a> {
        Contender { version, scores, threshold: 0.3, features, sha256: version }
    }

    fn decide(&self, candidate: &[f64], champion: Option<&[f64]>, rules: &GateRules) -> GateReport {
        let features = vec!["amount".to_owned()];
        let candidate = self.contender("2", candidate, &features);
        let champion = champion.map(|scores| self.contender("1", scores, &features));
        decide(&self.examples(), &candidate, champion.as_ref(), rules).unwrap()
    }
}

/// The scores with those of some rows made hopeless.
fn without(scores: &[f64], is_lost: impl Fn(usize) -> bool) -> Vec<f64> {
    scores.iter().enumerate().map(|(row, score)| if is_lost(row) { 0.0 } else { *score }).collect()
}

#[test]
fn the_same_model_passes_beside_itself_and_on_its_own() {
    let rows = rows();
    let report = rows.decide(&rows.good, Some(&rows.good), &GateRules::default());
    assert!(report.passed, "{:?}", report.checks);
    let names: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "positives",
            "better_than_chance",
            "calibration",
            "brier",
            "pr_auc",
            "recall_at_budget",
            "segment.country",
            "brier_beside_champion",
            "features"
        ]
    );
    let first = rows.decide(&rows.good, None, &GateRules::default());
    assert!(first.passed && first.champion.is_none() && first.checks.len() == 4, "{:?}", first.checks);
}

#[test]
fn a_worse_ranking_fails_and_a_better_one_passes() {
    let rows = rows();
    // Every tenth positive is lost.
    let worse = without(&rows.good, |row| row % 200 == 0);
    let report = rows.decide(&worse, Some(&rows.good), &GateRules::default());
    assert!(!report.passed && report.failed().contains(&"pr_auc") && report.failed().contains(&"recall_at_budget"));
    let check = report.checks.iter().find(|check| check.name == "pr_auc").unwrap();
    assert!(check.why.ends_with("; worse") && check.found.unwrap() < -0.05, "{check:?}");
    assert!(rows.decide(&rows.good, Some(&worse), &GateRules::default()).passed);
}

#[test]
fn a_difference_that_may_be_luck_does_not_pass() {
    let rows = rows();
    // Both lose a tenth of the positives, on other days.
    let [first, second] = [0, 1].map(|part| without(&rows.good, |row| row % 100 == 0 && row / 200 % 2 == part));
    let report = rows.decide(&first, Some(&second), &GateRules { segment_margin: 1.0, ..GateRules::default() });
    let check = report.checks.iter().find(|check| check.name == "pr_auc").unwrap();
    assert!(!check.ok && (check.why.contains("too uncertain") || check.why.ends_with("; worse")), "{check:?}");
}

#[test]
fn a_gain_is_asked_for_only_where_the_configuration_does() {
    let rows = rows();
    let rules = GateRules { pr_auc_gain: Some(0.001), ..GateRules::default() };
    assert_eq!(rows.decide(&rows.good, Some(&rows.good), &rules).failed(), ["pr_auc_gain"]);
    let worse = without(&rows.good, |row| row % 100 == 0);
    assert!(rows.decide(&rows.good, Some(&worse), &rules).passed);
}

#[test]
fn a_group_that_is_lost_fails_by_name_although_the_whole_is_no_worse() {
    let rows = rows();
    // The candidate finds all but a third of the small country, the champion all but as many of the large one.
    let candidate = without(&rows.good, |row| row % 120 == 0);
    let champion = without(&rows.good, |row| row % 120 == 20);
    let rules = GateRules { pr_auc_margin: 1.0, ..GateRules::default() };
    let report = rows.decide(&candidate, Some(&champion), &rules);
    assert_eq!(report.failed(), ["segment.country"]);
    let check = report.checks.iter().find(|check| check.name == "segment.country").unwrap();
    assert!(check.why.contains("the worst group is \"small\"") && check.found.unwrap() < -0.3, "{check:?}");
}

#[test]
fn a_drop_of_a_few_positives_in_a_small_group_is_chance() {
    let rows = rows();
    let tiny = Categories::of((0..3000).map(|row| Some(if row < 200 { "tiny" } else { "rest" })));
    // Two of the ten positives of the group.
    let candidate = without(&rows.good, |row| row == 0 || row == 20);
    let features = Vec::new();
    let examples = Examples { segments: vec![("country", &tiny)], ..rows.examples() };
    let contenders = [rows.contender("2", &candidate, &features), rows.contender("1", &rows.good, &features)];
    let rules = GateRules { pr_auc_margin: 1.0, recall_margin: 1.0, ..GateRules::default() };
    let report = decide(&examples, &contenders[0], Some(&contenders[1]), &rules).unwrap();
    assert!(report.passed, "{:?}", report.checks);
    let check = report.checks.iter().find(|check| check.name == "segment.country").unwrap();
    assert!(check.found.unwrap() < -0.15 && check.why.contains("probability of 0.25"), "{check:?}");
}

#[test]
fn too_few_positives_and_bare_chance_fail_without_a_champion() {
    let rows = rows();
    let rules =
        GateRules { positives_least: 151, pr_auc_least: Some(1.1), recall_least: Some(1.1), ..GateRules::default() };
    let report = rows.decide(&rows.good, None, &rules);
    assert_eq!(report.failed(), ["positives", "pr_auc_least", "recall_least"]);
    let nonsense: Vec<f64> = (0..3000).map(|row| (row * 7919 % 1000) as f64 / 10_000.0).collect();
    assert!(rows.decide(&nonsense, None, &GateRules::default()).failed().contains(&"better_than_chance"));
}

#[test]
fn scores_that_are_no_probabilities_fail_unless_the_rules_allow_it() {
    let rows = rows();
    let threefold: Vec<f64> = rows.good.iter().map(|score| (score * 3.0 + 0.1).min(1.0)).collect();
    assert!(rows.decide(&threefold, Some(&rows.good), &GateRules::default()).failed().contains(&"calibration"));
    let raw: Vec<f64> = rows.good.iter().map(|score| score * 10.0 - 3.0).collect();
    assert_eq!(rows.decide(&raw, Some(&rows.good), &GateRules::default()).failed(), ["calibration"]);
    let lenient = GateRules { calibration_factor: None, ..GateRules::default() };
    assert!(rows.decide(&raw, Some(&rows.good), &lenient).passed);
}

#[test]
fn other_features_must_be_accepted_by_name() {
    let rows = rows();
    let [ours, theirs] = [["amount", "age"], ["amount", "zip"]].map(|names| names.map(str::to_owned).to_vec());
    let (candidate, champion) = (rows.contender("2", &rows.good, &ours), rows.contender("1", &rows.good, &theirs));
    let failed = |changes: Option<Vec<String>>| {
        let rules = GateRules { feature_changes: changes, ..GateRules::default() };
        decide(&rows.examples(), &candidate, Some(&champion), &rules).unwrap()
    };
    let report = failed(Some(Vec::new()));
    assert_eq!(report.failed(), ["features"]);
    assert!(report.checks.last().unwrap().why.starts_with("new features: age; gone: zip"));
    assert!(!failed(Some(vec!["age".into()])).passed);
    assert!(failed(Some(vec!["age".into(), "zip".into()])).passed && failed(None).passed);
}

#[test]
fn without_a_budget_both_are_held_to_the_champions_alerts() {
    let rows = rows();
    let report = rows.decide(&rows.good, Some(&rows.good), &GateRules::default());
    // 150 positives above 0.3 in 14 days.
    assert_eq!(report.alerts_per_day, 11);
    let fixed = GateRules { alerts_per_day: Some(3), ..GateRules::default() };
    let report = rows.decide(&rows.good, Some(&rows.good), &fixed);
    let recall = report.figures.iter().find(|figure| figure.name == "recall_at_budget").unwrap();
    assert_eq!((report.alerts_per_day, recall.candidate, recall.champion), (3, 0.3, Some(0.3)));
}

#[test]
fn rows_that_cannot_be_evaluated_name_the_model() {
    let rows = rows();
    let broken = without(&rows.good, |_| true).iter().map(|_| f64::NAN).collect::<Vec<_>>();
    let features = Vec::new();
    let (candidate, champion) = (rows.contender("2", &rows.good, &features), rows.contender("1", &broken, &features));
    let error = decide(&rows.examples(), &candidate, Some(&champion), &GateRules::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("model 1: the score of row 0"), "{error}");
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let rows = rows();
    let report = rows.decide(&rows.good, Some(&rows.good), &GateRules::default());
    let read: GateReport = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let words = |report: &GateReport| -> Vec<(String, bool, String)> {
        report.checks.iter().map(|check| (check.name.clone(), check.ok, check.why.clone())).collect()
    };
    assert_eq!(words(&read), words(&report));
    assert_eq!((read.passed, read.candidate, read.champion), (true, "2".to_owned(), Some("1".to_owned())));
    // The reader of JSON may miss the last bit of a number.
    let same =
        |(a, b): (&ComparedFigure, &ComparedFigure)| a.name == b.name && (a.candidate - b.candidate).abs() < 1e-12;
    assert!(read.figures.len() == report.figures.len() && read.figures.iter().zip(&report.figures).all(same));
}

#[test]
fn what_is_measured_or_missing_where_a_model_is_to_be_served_counts_too() {
    let rows = rows();
    let rules = GateRules { scoring_micros_most: 5.0, ..GateRules::default() };
    let mut report = rows.decide(&rows.good, None, &rules);
    report.add_scoring_time(6.0);
    assert_eq!((report.passed, report.failed()), (false, vec!["scoring_time"]));
    report.add_scoring_time(4.0);
    assert!(report.passed && report.checks.iter().filter(|check| check.name == "scoring_time").count() == 1);
    report.add_unjudged_champion("it takes features that are gone");
    assert_eq!((report.passed, report.failed()), (false, vec!["champion"]));
}

#[test]
fn a_document_of_another_version_is_refused() {
    let rows = rows();
    let report = rows.decide(&rows.good, None, &GateRules::default());
    assert_eq!(GateReport::parse(&report.to_json().unwrap()).unwrap().failed(), report.failed());
    let newer = GateReport { version: 2, ..report };
    assert_eq!(GateReport::parse(&newer.to_json().unwrap()).unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(GateReport::parse("{}").unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn a_fair_coin_is_counted_exactly() {
    assert!((at_least_heads(2, 2) - 0.25).abs() < 1e-12);
    assert!((at_least_heads(10, 8) - 56.0 / 1024.0).abs() < 1e-12);
    assert!((at_least_heads(0, 0) - 1.0).abs() < 1e-12);
    assert!((at_least_heads(4000, 2000) - 0.506_307).abs() < 1e-5);
}
