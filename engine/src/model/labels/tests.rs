//! What the join promises: figures of what is kept, whatever the order of rows and labels.

use proptest::prelude::*;

use super::figures::SCORE_BINS;
use super::*;

const DAY: i64 = 86_400_000_000;

fn join(keep_days: i64, rows_max: usize) -> LabelJoin {
    LabelJoin::new(LabelSettings { keep_micros: keep_days * DAY, rows_max })
}

fn row(id: u64, time: i64, score: f64) -> ServedRow<'static> {
    ServedRow { id, time, score, alert: score >= 0.5, version: "7", segment: "DE" }
}

#[test]
fn labels_before_and_behind_their_rows_are_joined() {
    let mut join = join(30, 1000);
    join.report(1, DAY, true);
    for (id, score) in [(1, 0.9), (2, 0.8), (3, 0.1), (4, 0.2), (5, 0.7)] {
        join.serve(row(id, DAY / 2 * id as i64 / 5, score));
    }
    join.report(2, 2 * DAY, false);
    join.report(3, 2 * DAY, true);
    join.report(4, 2 * DAY, false);
    let figures = join.figures();
    let all = &figures.all;
    assert_eq!((all.served, all.alerts, all.labelled), (5, 3, 4));
    assert_eq!((all.true_positives, all.false_positives, all.false_negatives), (1, 1, 1));
    assert_eq!((all.precision, all.recall), (Some(0.5), Some(0.5)));
    assert_eq!((figures.counts.matched, figures.waiting, figures.counts.unmatched), (4, 0, 0));
    assert_eq!(
        (figures.groups.len(), figures.groups[0].version.as_str(), figures.groups[0].segment.as_str()),
        (1, "7", "DE")
    );
    // All between one and three days after their rows.
    assert_eq!(figures.delays[2..4].iter().sum::<u64>(), 4, "{:?}", figures.delays);
}

#[test]
fn a_second_label_takes_the_place_of_the_first() {
    let mut join = join(30, 1000);
    join.serve(row(1, 0, 0.9));
    join.report(1, DAY, true);
    join.report(1, 2 * DAY, false);
    let figures = join.figures();
    assert_eq!((figures.all.true_positives, figures.all.false_positives, figures.all.labelled), (0, 1, 1));
    assert_eq!((figures.counts.matched, figures.counts.repeated), (2, 1));
}

#[test]
fn a_row_that_is_served_twice_counts_once() {
    let mut join = join(30, 1000);
    join.serve(row(1, 0, 0.9));
    join.report(1, DAY, true);
    join.serve(ServedRow { version: "8", ..row(1, 0, 0.1) });
    let figures = join.figures();
    assert_eq!((figures.all.served, figures.all.labelled, figures.all.false_negatives), (1, 1, 1));
    assert_eq!(figures.groups.iter().map(|group| group.version.as_str()).collect::<Vec<_>>(), ["8"]);
}

#[test]
fn what_is_too_old_goes_with_its_figures() {
    let mut join = join(2, 1000);
    join.serve(row(1, 0, 0.9));
    join.report(1, 1, true);
    join.serve(row(2, 3 * DAY, 0.9));
    let figures = join.figures();
    assert_eq!((figures.all.served, figures.all.labelled, figures.all.precision), (1, 0, None));
    // Its label comes too late, and is given up when rows younger than it were served.
    join.report(1, 3 * DAY, true);
    assert_eq!(join.figures().waiting, 1);
    join.serve(row(3, 4 * DAY, 0.9));
    assert_eq!((join.figures().waiting, join.figures().counts.unmatched), (0, 1));
}

#[test]
fn there_are_never_more_rows_than_allowed() {
    let mut join = join(365, 10);
    for id in 0..1000 {
        join.serve(row(id, id as i64, 0.9));
        join.report(1_000_000 + id, id as i64, true);
    }
    assert_eq!((join.kept.len(), join.order.len(), join.waiting.len(), join.waiting_order.len()), (10, 10, 10, 10));
    let figures = join.figures();
    assert_eq!((figures.all.served, figures.counts.crowded_out, figures.counts.unmatched), (10, 990, 990));
}

#[test]
fn more_segments_than_are_told_apart_share_one() {
    let mut join = join(30, 100_000);
    for id in 0..2000_u64 {
        let segment = id.to_string();
        join.serve(ServedRow { segment: &segment, ..row(id, 0, 0.9) });
    }
    let figures = join.figures();
    assert_eq!((figures.groups.len(), figures.all.served), (GROUPS_MAX, 2000));
    let other: Vec<_> = figures.groups.iter().filter(|group| group.segment == OTHER).collect();
    assert_eq!(other.iter().map(|group| group.served).collect::<Vec<_>>(), [2000 - GROUPS_MAX as u64 + 1]);
    assert!(join.group_of.len() <= 17 * GROUPS_MAX);
}

#[test]
fn scores_of_all_sizes_have_bins_in_their_order() {
    let scores = [f64::NAN, -1.0, 0.0, 1e-9, 1e-4, 0.01, 0.5, 0.99, 0.9999, 1.0, 7.0];
    let bins: Vec<u16> = scores.iter().map(|score| score_bin(*score)).collect();
    assert!(bins.windows(2).all(|pair| pair[0] <= pair[1]), "{bins:?}");
    assert_eq!((bins[0], bins[10]), (0, SCORE_BINS as u16 - 1));
    assert!(bins[4] > bins[3] && bins[5] > bins[4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn figures_are_those_of_the_rows_themselves_in_any_order(
        rows in prop::collection::vec((0.0..1.0_f64, any::<bool>(), any::<bool>()), 1..200),
        labels_first in any::<bool>(),
    ) {
        let mut join = join(30, 1_000_000);
        let label = |join: &mut LabelJoin| {
            for (id, (_, label, has_label)) in rows.iter().enumerate() {
                if *has_label {
                    join.report(id as u64, DAY, *label);
                }
            }
        };
        if labels_first {
            label(&mut join);
        }
        for (id, (score, _, _)) in rows.iter().enumerate() {
            join.serve(row(id as u64, 0, *score));
        }
        if !labels_first {
            label(&mut join);
        }
        let figures = join.figures().all;
        let count = |alert: bool, is: bool| {
            rows.iter().filter(|(score, label, has)| *has && *label == is && (*score >= 0.5) == alert).count() as u64
        };
        prop_assert_eq!(figures.true_positives, count(true, true));
        prop_assert_eq!(figures.false_positives, count(true, false));
        prop_assert_eq!(figures.false_negatives, count(false, true));
        prop_assert_eq!(figures.served, rows.len() as u64);
        // As if scores of one bin were equal.
        let labelled: Vec<_> = rows.iter().filter(|row| row.2).collect();
        let scores: Vec<f64> = labelled.iter().map(|row| f64::from(score_bin(row.0))).collect();
        let labels: Vec<bool> = labelled.iter().map(|row| row.1).collect();
        let expected = naive_average_precision(&scores, &labels);
        prop_assert!(figures.pr_auc.unwrap_or(0.0) - expected < 1e-9 && expected - figures.pr_auc.unwrap_or(0.0) < 1e-9);
    }
}

/// For every positive the precision among the rows that score at least as much.
fn naive_average_precision(scores: &[f64], labels: &[bool]) -> f64 {
    let positives: Vec<f64> = scores.iter().zip(labels).filter(|(_, label)| **label).map(|(score, _)| *score).collect();
    let precision = |least: &f64| {
        let above = scores.iter().zip(labels).filter(|(score, _)| *score >= least);
        let (hits, all) = above.fold((0, 0), |(hits, all), (_, label)| (hits + u32::from(*label), all + 1));
        f64::from(hits) / f64::from(all)
    };
    if positives.is_empty() { 0.0 } else { positives.iter().map(precision).sum::<f64>() / positives.len() as f64 }
}
