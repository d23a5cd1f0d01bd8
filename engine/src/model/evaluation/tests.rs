//! The figures on rows small enough to count by hand, and on what cannot be evaluated. Python compares large random cases.

use super::*;
use crate::error::ErrorKind;

const DAY: i64 = 86_400_000_000;

fn settings(threshold: f64) -> EvaluationSettings {
    EvaluationSettings { alerts_per_day: Some(1), ..EvaluationSettings::at(threshold) }
}

#[test]
fn average_precision_is_that_of_scikit_learn() {
    // average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.8333...
    let ap = average_precision(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]);
    assert!((ap - 0.833_333_333_333_333_3).abs() < 1e-12, "{ap}");
    // All scores equal: the share of positives.
    assert!((average_precision(&[0.5; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
}

#[test]
fn precision_and_recall_count_the_threshold_itself_as_an_alert() {
    let quality = quality(&[0.2, 0.7, 0.9, 0.7], &[false, true, false, true], 0.7);
    assert!((quality.precision - 2.0 / 3.0).abs() < 1e-12 && (quality.recall - 1.0).abs() < 1e-12);
}

#[test]
fn a_zero_is_one_score_whatever_its_sign() {
    assert!((roc_auc(&[0.0, -0.0], &[true, false]) - 0.5).abs() < 1e-12);
    assert!((average_precision(&[0.0, -0.0], &[true, false]) - 0.5).abs() < 1e-12);
}

#[test]
fn a_small_table_is_evaluated_as_counted_by_hand() {
    let kinds = Categories::of([Some("takeover"), None, Some("noise"), Some("takeover"), None, Some("wrong")]);
    let channel = Categories::of([Some("online"), Some("online"), Some("card"), None, None, Some("card")]);
    let examples = Examples {
        scores: &[0.9, 0.8, 0.2, 0.6, 0.1, 0.3],
        labels: &[true, false, true, true, false, false],
        times: &[0, DAY / 2, DAY, DAY, DAY, 2 * DAY],
        amounts: Some(&[10.0, 50.0, 30.0, f64::NAN, 1.0, 1.0]),
        kinds: Some(&kinds),
        segments: vec![("channel", &channel)],
    };
    let settings = EvaluationSettings { unfindable_kinds: vec!["noise".into()], ..settings(0.6) };
    let found = evaluate(&examples, &settings).unwrap();
    let at = found.at_threshold;
    assert_eq!((at.true_positives, at.false_positives, at.false_negatives, at.true_negatives), (2, 1, 1, 2));
    assert_eq!(at.value_recall, Some(0.25));
    assert!((at.alerts_per_day - 1.5).abs() < 1e-12 && (at.alerts_per_1000 - 500.0).abs() < 1e-12);
    // The top of each day: rows 0, 3 and 5.
    let budget = found.at_budget.unwrap();
    assert_eq!((budget.alerts, budget.precision, budget.recall), (3, 2.0 / 3.0, 2.0 / 3.0));
    let kinds: Vec<_> = found.kinds.iter().map(|kind| (kind.kind.as_str(), kind.positives, kind.hits)).collect();
    assert_eq!(kinds, [("takeover", 2, 2), ("noise", 1, 0)], "a kind of other rows is not read");
    let unfindable = found.unfindable.unwrap();
    assert_eq!((unfindable.positives, unfindable.share, unfindable.recall_of_findable), (1, 1.0 / 3.0, 1.0));
    let groups: Vec<_> = found.segments[0]
        .groups
        .iter()
        .map(|group| (group.name.as_str(), group.rows, group.alerts, group.hits))
        .collect();
    assert_eq!(groups, [("(none)", 2, 1, 1), ("card", 2, 0, 0), ("online", 2, 2, 1)]);
}

#[test]
fn rare_groups_are_put_together() {
    let names: Vec<String> = (0..100).map(|name| format!("m{name:03}")).collect();
    let groups = Categories::of(names.iter().map(|name| Some(name.as_str())));
    let labels: Vec<bool> = (0..100).map(|row| row >= 50).collect();
    let examples = Examples {
        scores: &[0.5; 100],
        labels: &labels,
        times: &[0; 100],
        segments: vec![("merchant", &groups)],
        ..Examples::default()
    };
    let found = evaluate(&examples, &settings(0.5)).unwrap();
    let groups = &found.segments[0].groups;
    assert_eq!(groups.len(), 20);
    assert_eq!((groups[0].name.as_str(), groups[19].name.as_str()), ("m050", OTHER_NAMES));
    assert_eq!(groups.iter().map(|group| group.rows).sum::<u64>(), 100);
    assert_eq!(groups.iter().map(|group| group.positives).sum::<u64>(), 50);
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    let refused = |scores: &[f64], labels: &[bool]| {
        let times = vec![0; scores.len()];
        let examples = Examples { scores, labels, times: &times, ..Examples::default() };
        evaluate(&examples, &settings(0.5)).unwrap_err()
    };
    let none = refused(&[0.1, 0.2], &[false, false]);
    assert_eq!(none.kind(), ErrorKind::Data);
    assert!(none.to_string().contains("none of the 2 rows to evaluate on is positive"), "{none}");
    assert!(refused(&[0.1, 0.2], &[true, true]).to_string().contains("all 2 rows"));
    assert!(refused(&[0.1, f64::NAN], &[true, false]).to_string().contains("the score of row 1 of 2 is NaN"));
    assert!(refused(&[], &[]).to_string().contains("none of the 0 rows"));
    assert_eq!(refused(&[0.1, 0.2], &[true]).kind(), ErrorKind::Internal);
}

#[test]
fn exactly_the_budget_is_taken_of_each_day_however_many_scores_are_equal() {
    let times = [DAY + 5, DAY + 1, DAY + 3, 0, -1, -DAY - 1];
    let taken = top_of_each_day(&[0.5; 6], &times, 2);
    assert_eq!(
        taken,
        [false, true, true, true, true, true],
        "the earlier rows of a day first; days before 1970 are days"
    );
}

#[test]
fn scores_that_are_no_probabilities_have_no_calibration() {
    let examples =
        Examples { scores: &[-2.0, 3.0, 1.0], labels: &[false, true, false], times: &[0, 1, 2], ..Examples::default() };
    let found = evaluate(&examples, &settings(2.0)).unwrap();
    assert_eq!(found.calibration, None);
    assert_eq!((found.curves.histogram.from, found.curves.histogram.to), (-2.0, 3.0));
    assert_eq!(found.curves.histogram.positives.iter().sum::<u64>(), 1);
}

#[test]
fn a_curve_of_many_rows_is_thinned_and_keeps_its_ends() {
    let scores: Vec<f64> = (0..20_000).map(|row| f64::from((row * 7919) % 20_000) / 20_000.0).collect();
    let labels: Vec<bool> =
        scores.iter().enumerate().map(|(row, score)| score * score * 100.0 > (row % 100) as f64).collect();
    let examples = Examples { scores: &scores, labels: &labels, times: &vec![0; 20_000], ..Examples::default() };
    let points = evaluate(&examples, &settings(0.5)).unwrap().curves.points;
    assert!((100..600).contains(&points.len()), "{}", points.len());
    assert!(points[0].threshold > 0.99 && points.last().unwrap().threshold == 0.0);
    assert!((points.last().unwrap().recall - 1.0).abs() < 1e-12);
    assert!(points.windows(2).all(|pair| pair[0].threshold > pair[1].threshold && pair[0].recall <= pair[1].recall));
}

#[test]
fn an_evaluation_is_read_as_it_was_written() {
    let kinds = Categories::of([Some("a"), None, None]);
    let examples = Examples {
        scores: &[0.9, 0.3, 0.1],
        labels: &[true, false, false],
        times: &[0, 1, 2],
        kinds: Some(&kinds),
        segments: vec![("kind", &kinds)],
        ..Examples::default()
    };
    let found = evaluate(&examples, &settings(0.5)).unwrap();
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), found);
}

#[test]
fn flat_names_are_what_mlflow_takes_and_all_different() {
    let groups = Categories::of([Some("a/b"), Some("a:b"), Some(""), Some("ä.ö")]);
    let examples = Examples {
        scores: &[0.9, 0.3, 0.1, 0.7],
        labels: &[true, false, false, true],
        times: &[0, 1, 2, 3],
        kinds: Some(&groups),
        segments: vec![("made in", &groups)],
        ..Examples::default()
    };
    let flat = evaluate(&examples, &settings(0.5)).unwrap().flat();
    let allowed = |name: &String| name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    assert!(flat.keys().all(allowed), "{:?}", flat.keys());
    assert!(flat.values().all(|value| value.is_finite()));
    for name in
        ["pr_auc", "recall_at_precision_0.88", "recall_at_budget", "kind.a_b.recall", "segment.made_in.a_b_2.rows"]
    {
        assert!(flat.contains_key(name), "{name} in {:?}", flat.keys());
    }
    assert!(!flat.contains_key("segment.made_in.a_b_2.recall"), "a share of no positives is no zero");
}

mod choosing {
    //! The threshold policies.

    use super::super::policies::*;
    use super::DAY;

    const SCORES: [f64; 6] = [0.9, 0.8, 0.8, 0.5, 0.4, 0.1];
    const LABELS: [bool; 6] = [true, true, false, false, true, false];

    #[test]
    fn a_quantile_leaves_its_share_above() {
        let scores: Vec<f64> = (0..1000).map(f64::from).collect();
        let threshold = quantile(&scores, 0.995).unwrap();
        assert_eq!(scores.iter().filter(|score| **score > threshold).count(), 5);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn f_beta_weighs_recall_by_beta() {
        // F1: 0.5 at 0.9, 2/3 at 0.8, 4/7 at 0.5, 3/4 at 0.4, 2/3 at 0.1.
        assert_eq!(f_beta(&SCORES, &LABELS, 1.0), Some(0.4));
        assert_eq!(f_beta(&SCORES, &LABELS, 0.1), Some(0.9));
        assert_eq!(f_beta(&[0.3, 0.2], &[false, false], 1.0), None);
    }

    #[test]
    fn a_precision_floor_gives_the_highest_recall_that_keeps_it() {
        assert_eq!(precision_floor(&SCORES, &LABELS, 0.66), Some(0.8));
        assert_eq!(precision_floor(&SCORES, &LABELS, 0.6), Some(0.4));
        assert_eq!(precision_floor(&SCORES, &LABELS, 1.0), Some(0.9));
        assert_eq!(precision_floor(&[0.9, 0.1], &[false, true], 0.9), None);
    }

    #[test]
    fn an_alert_budget_is_never_exceeded_by_equal_scores() {
        let times: Vec<i64> = (0..6).map(|row| row * 2 * DAY / 5).collect();
        assert_eq!(alert_budget(&SCORES, &times, 1.0), Some(0.9), "two alerts in two days would be three");
        assert_eq!(alert_budget(&SCORES, &times, 1.5), Some(0.8));
        assert_eq!(alert_budget(&SCORES, &times, 1000.0), Some(0.1));
        assert_eq!(alert_budget(&[0.5, 0.5], &[0, DAY], 1.0), None, "one alert cannot be had");
        assert_eq!(alert_budget(&[], &[], 1.0), None);
    }

    #[test]
    fn a_threshold_has_few_digits_and_separates_the_same_rows() {
        let at = |scores: [f64; 2]| f_beta(&scores, &[true, false], 1.0).unwrap();
        assert_eq!(at([0.123_456_789_012_345_68, 0.1]), 0.123_456);
        assert_eq!(at([0.123_456_789_012_345_68, 0.123_456_7]), 0.123_456_78);
        assert_eq!(at([0.3, 0.3_f64.next_down()]), 0.3, "nothing is between the two");
        assert_eq!(at([1e-9, 1e-12]), 1e-9);
        assert_eq!(at([-1.5, -2.0]), -1.5);
        assert_eq!(at([123_456_789_012.3, 1.0]), 123_456_789_012.3);
        let read: f64 =
            serde_json::from_str(&serde_json::to_string(&at([0.278_345_678_912_345_6, 0.1])).unwrap()).unwrap();
        assert_eq!(read, 0.278_345);
    }

    #[test]
    fn costs_choose_the_cheapest_threshold_or_none() {
        let costs = Costs { alert: 1.0, missed: 1.6, missed_amount_share: 0.0 };
        // Against no alert at all: -0.6 at 0.9, -0.2 at 0.8, 0.8 at 0.5, 0.2 at 0.4.
        assert_eq!(least_cost(&SCORES, &LABELS, None, &costs), Some(0.9));
        let by_amount = Costs { alert: 1.0, missed: 0.0, missed_amount_share: 0.5 };
        let amounts = [0.0, 0.0, 0.0, 0.0, 100.0, 0.0];
        assert_eq!(least_cost(&SCORES, &LABELS, Some(&amounts), &by_amount), Some(0.4));
        let never = least_cost(&SCORES, &LABELS, None, &by_amount).unwrap();
        assert!(SCORES.iter().all(|score| *score < never));
        assert_eq!(least_cost(&[], &[], None, &costs), None);
    }
}

mod python {
    //! The Rust half of tests/python/check_evaluation.py.

    use std::path::Path;

    use super::super::*;

    fn eight_bytes<T>(folder: &Path, name: &str, value: fn([u8; 8]) -> T) -> Vec<T> {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        bytes.chunks_exact(8).map(|chunk| value(chunk.try_into().unwrap())).collect()
    }

    #[test]
    #[ignore = "needs the folder that tests/python/check_evaluation.py writes, in TIDEMILL_EVALUATION_CASES"]
    fn evaluations_of_the_cases_that_python_wrote_are_written_beside_them() {
        let cases = std::env::var_os("TIDEMILL_EVALUATION_CASES").expect("TIDEMILL_EVALUATION_CASES names the folder");
        let mut num_cases = 0;
        for case in std::fs::read_dir(cases).unwrap() {
            let folder = case.unwrap().path();
            let scores = eight_bytes(&folder, "scores.f64", f64::from_le_bytes);
            let champion = eight_bytes(&folder, "champion.f64", f64::from_le_bytes);
            let amounts = eight_bytes(&folder, "amounts.f64", f64::from_le_bytes);
            let times = eight_bytes(&folder, "times.i64", i64::from_le_bytes);
            let groups = eight_bytes(&folder, "groups.i64", i64::from_le_bytes);
            let labels: Vec<bool> =
                std::fs::read(folder.join("labels.u8")).unwrap().into_iter().map(|label| label == 1).collect();
            let asked: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.join("asked.json")).unwrap()).unwrap();
            let number = |name: &str| asked[name].as_f64().unwrap();
            let names: Vec<String> = groups.iter().map(|group| format!("g{group}")).collect();
            let groups = Categories::of(names.iter().map(|name| Some(name.as_str())));
            let examples = Examples {
                scores: &scores,
                labels: &labels,
                times: &times,
                amounts: Some(&amounts),
                kinds: Some(&groups),
                segments: vec![("group", &groups)],
            };
            let per_day = asked["alerts_per_day"].as_u64();
            let settings =
                EvaluationSettings { alerts_per_day: per_day, ..EvaluationSettings::at(number("threshold")) };
            let costs = policies::Costs {
                alert: number("cost_alert"),
                missed: number("cost_missed"),
                missed_amount_share: number("cost_missed_amount_share"),
            };
            let answer = serde_json::json!({
                "evaluation": evaluate(&examples, &settings).unwrap(),
                "paired": paired_pr_auc(&scores, &champion, &labels, &times, &settings.bootstrap),
                "f_beta": policies::f_beta(&scores, &labels, number("beta")),
                "precision_floor": policies::precision_floor(&scores, &labels, number("floor")),
                "alert_budget": policies::alert_budget(&scores, &times, number("alerts_per_day")),
                "least_cost": policies::least_cost(&scores, &labels, Some(&amounts), &costs),
            });
            std::fs::write(folder.join("answer.json"), answer.to_string()).unwrap();
            num_cases += 1;
        }
        assert!(num_cases > 0, "the folder holds no case");
    }
}
