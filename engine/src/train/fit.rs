//! One model: tree by tree, until the average precision of the validation rows has not grown for a while; then the best trees are
//! kept. Where nothing is to stop it all trees are kept, and a model that gets worse as it grows is refused.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::booster::{BinnedRows, Booster};
use crate::error::{Error, Result};
use crate::model::evaluation::average_precision;
use crate::pipeline::settings::{Imbalance, TreeParameters};

/// The last average precision may be this part of the best, where nothing stopped the learning.
const DIVERGED: f64 = 0.9;

/// How long a model grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// Trees, at most.
    pub(super) rounds: u32,
    /// Trees without a gain, at most. As many as `rounds`, or more: nothing stops it, and all trees are kept.
    pub(super) patience: u32,
}

/// A model that was grown.
#[derive(Debug, Clone)]
pub(super) struct Grown {
    /// LightGBM's text; empty where only the figures are asked for.
    pub(super) text: String,
    /// Trees that were kept.
    pub(super) num_trees: u32,
    /// Average precision of the validation rows with these trees.
    pub(super) average_precision: f64,
}

/// LightGBM's parameters as it takes them, and as the record keeps them. Equal rows and parameters give an equal model.
pub(super) fn parameters(
    tree: &TreeParameters,
    weight_of_positives: f64,
    growth: Growth,
    seed: u64,
) -> BTreeMap<String, Value> {
    let mut parameters = BTreeMap::from([
        ("objective".to_owned(), json!("binary")),
        ("metric".to_owned(), json!("none")),
        ("num_iterations".to_owned(), json!(growth.rounds)),
        ("learning_rate".to_owned(), json!(tree.learning_rate)),
        ("num_leaves".to_owned(), json!(tree.num_leaves)),
        ("min_data_in_leaf".to_owned(), json!(tree.min_data_in_leaf)),
        ("min_sum_hessian_in_leaf".to_owned(), json!(tree.min_sum_hessian_in_leaf)),
        ("lambda_l2".to_owned(), json!(tree.lambda_l2)),
        ("feature_fraction".to_owned(), json!(tree.feature_fraction)),
        ("bagging_fraction".to_owned(), json!(tree.bagging_fraction)),
        ("bagging_freq".to_owned(), json!(u8::from(tree.bagging_fraction < 1.0))),
        ("max_bin".to_owned(), json!(tree.max_bin)),
        // LightGBM takes a 32-bit seed.
        ("seed".to_owned(), json!(seed % (1 << 31))),
        ("deterministic".to_owned(), json!(true)),
        ("force_row_wise".to_owned(), json!(true)),
        ("feature_pre_filter".to_owned(), json!(false)),
        ("num_threads".to_owned(), json!(1)),
        ("verbosity".to_owned(), json!(-1)),
    ]);
    if weight_of_positives != 1.0 {
        parameters.insert("scale_pos_weight".to_owned(), json!(weight_of_positives));
    }
    parameters
}

/// As LightGBM reads them.
pub(super) fn text_of(parameters: &BTreeMap<String, Value>) -> String {
    let one = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    parameters.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What each positive weighs.
pub(super) fn weight_of_positives(imbalance: &Imbalance, num_rows: usize, num_positives: usize) -> f64 {
    let ratio = (num_rows - num_positives) as f64 / num_positives.max(1) as f64;
    match imbalance {
        Imbalance::FullWeight => ratio,
        Imbalance::SqrtWeight => ratio.sqrt(),
        Imbalance::Weight(weight) => *weight,
        Imbalance::Nothing | Imbalance::Undersampling(_) | Imbalance::Smote(_) => 1.0,
    }
}

/// Grows a model; `labels` are those of the validation rows. `on_tree` is told after each tree how good it is by now.
pub(super) fn grow(
    train: &BinnedRows,
    validation: &BinnedRows,
    labels: &[bool],
    parameters: &str,
    growth: Growth,
    with_text: bool,
    on_tree: &mut dyn FnMut(u32, f64),
) -> Result<Grown> {
    let mut booster = Booster::new(train, validation, parameters)?;
    let (mut best, mut best_trees) = (f64::NEG_INFINITY, 0);
    let (mut last, mut num_trees) = (0.0, 0);
    let mut scores = Vec::new();
    while num_trees < growth.rounds && booster.grow()? {
        num_trees += 1;
        booster.validation_scores(&mut scores)?;
        last = average_precision(&scores, labels);
        on_tree(num_trees, last);
        if last > best {
            (best, best_trees) = (last, num_trees);
        } else if num_trees - best_trees >= growth.patience {
            break;
        }
    }
    if best_trees == 0 {
        return Err(Error::data(
            "there is nothing to learn: no feature tells positives from others; check that the features are not constant and that \
             the label is the right column, or lower `training.parameters.min_data_in_leaf` for few rows",
        ));
    }
    let keeps_all = growth.patience >= growth.rounds;
    if keeps_all && last < DIVERGED * best {
        return Err(Error::data(format!(
            "the model gets worse as it grows: average precision {best:.3} after {best_trees} trees, {last:.3} after {num_trees}; lower \
             `training.parameters.learning_rate`, raise `lambda_l2` or `min_sum_hessian_in_leaf`, or let `training.early_stopping`, below \
             `training.rounds`, stop it"
        )));
    }
    let (num_trees, average_precision) = if keeps_all { (num_trees, last) } else { (best_trees, best) };
    let text = if with_text { booster.text(num_trees)? } else { String::new() };
    Ok(Grown { text, num_trees, average_precision })
}

#[cfg(test)]
mod tests {
    use super::super::rows::RowsView;
    use super::*;

    const GROWTH: Growth = Growth { rounds: 60, patience: 60 };

    fn names() -> Vec<String> {
        vec!["signal".into(), "noise".into()]
    }

    /// Rows whose first feature says something, seeded.
    fn rows(num_rows: u32) -> (Vec<f64>, Vec<bool>) {
        let mut state = 12_345_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..num_rows {
            let (signal, noise, luck) = (next(), next(), next());
            values.extend([signal, noise]);
            labels.push(luck < 0.3 * signal * signal);
        }
        (values, labels)
    }

    fn binned(values: &[f64], labels: &[bool], text: &str) -> (BinnedRows, BinnedRows) {
        let view = RowsView { values, labels };
        let train = BinnedRows::new(&view, &names(), text, None).unwrap();
        let validation = BinnedRows::new(&view, &names(), text, Some(&train)).unwrap();
        (train, validation)
    }

    #[test]
    fn the_same_rows_give_the_same_text_also_side_by_side() {
        let (values, labels) = rows(3000);
        let tree = TreeParameters { feature_fraction: 0.8, bagging_fraction: 0.7, ..TreeParameters::default() };
        let text = text_of(&parameters(&tree, 1.0, GROWTH, 7));
        let (train, validation) = binned(&values, &labels, &text);
        let grown = || grow(&train, &validation, &labels, &text, GROWTH, true, &mut |_, _| {}).unwrap().text;
        let alone = grown();
        assert!(alone.starts_with("tree\n") && alone.contains("feature_names=signal noise"));
        let together: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(grown)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(together.iter().all(|text| *text == alone));
        let other = text_of(&parameters(&tree, 1.0, GROWTH, 8));
        let other = grow(&train, &validation, &labels, &other, GROWTH, true, &mut |_, _| {}).unwrap();
        assert_ne!(other.text, alone, "the seed is of no effect");
    }

    #[test]
    fn growing_stops_and_the_best_trees_are_kept() {
        let (values, labels) = rows(4000);
        let (learnt, judged) = (6000..8000, 3000..4000);
        let text = text_of(&parameters(&TreeParameters::default(), 1.0, GROWTH, 7));
        let train =
            BinnedRows::new(&RowsView { values: &values[..6000], labels: &labels[..3000] }, &names(), &text, None);
        let train = train.unwrap();
        let view = RowsView { values: &values[learnt], labels: &labels[judged.clone()] };
        let validation = BinnedRows::new(&view, &names(), &text, Some(&train)).unwrap();
        let growth = Growth { rounds: 500, patience: 10 };
        let mut seen = Vec::new();
        let grown =
            grow(&train, &validation, &labels[judged], &text, growth, true, &mut |_, ap| seen.push(ap)).unwrap();
        assert!(seen.len() < 500 && seen.len() == grown.num_trees as usize + 10, "{} {}", seen.len(), grown.num_trees);
        assert_eq!(grown.text.matches("\nTree=").count(), grown.num_trees as usize);
        assert_eq!(seen.iter().copied().fold(0.0, f64::max), grown.average_precision);
    }

    #[test]
    fn nothing_to_learn_is_an_error_that_says_so() {
        let values = vec![1.0; 200];
        let labels: Vec<bool> = (0..100).map(|row| row % 3 == 0).collect();
        let text = text_of(&parameters(&TreeParameters::default(), 1.0, GROWTH, 7));
        let (train, validation) = binned(&values, &labels, &text);
        let error = grow(&train, &validation, &labels, &text, GROWTH, true, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("nothing to learn"), "{error}");
    }

    #[test]
    fn weights_follow_the_ratio_of_the_labels() {
        let weight = |imbalance| weight_of_positives(&imbalance, 1000, 10);
        assert_eq!(weight(Imbalance::FullWeight), 99.0);
        assert_eq!(weight(Imbalance::SqrtWeight), 99.0_f64.sqrt());
        assert_eq!(weight(Imbalance::Weight(5.0)), 5.0);
        assert_eq!(weight(Imbalance::Nothing), 1.0);
        assert_eq!(parameters(&TreeParameters::default(), 5.0, GROWTH, 1)["scale_pos_weight"], 5.0);
    }
}
