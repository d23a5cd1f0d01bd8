//! Contributions against Shapley's own definition, against LightGBM, and on trees that are made to be difficult.

use super::super::tests::{GOLDEN, kernels, values_of};
use super::super::text::ModelText;
use super::super::tree::Split;
use super::super::{Column, Model, Scratch};
use super::*;

/// How far contributions may be from LightGBM's, as a share of the greatest number of the row.
const NEAR: f64 = 1e-9;

#[track_caller]
fn assert_near(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let greatest = expected.iter().fold(1.0, |greatest: f64, number| greatest.max(number.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= NEAR * greatest,
            "{name}, contribution {at}: found {found:e}, expected {expected:e}"
        );
    }
}

fn contributions(explainer: &Explainer, kernel: Kernel, row: &[f64], scratch: &mut ExplainScratch) -> Vec<f64> {
    let mut contributions = vec![f64::NAN; explainer.num_contributions()];
    explainer.contributions_with(kernel, row, &mut contributions, scratch);
    contributions
}

/// What a tree answers on average where only the features in `known` are.
fn average(tree: &Tree, counts: &Counts, at: Child, row: &[f64], known: u32) -> f64 {
    let Child::Split(split) = at else {
        let Child::Leaf(leaf) = at else { unreachable!() };
        return tree.leaf_values[leaf];
    };
    let Split { feature, rule, left, right } = &tree.splits[split];
    let side = |child: Child| average(tree, counts, child, row, known);
    if known >> feature & 1 == 0 {
        let total = counts.splits[split];
        return (counts.of(*left) * side(*left) + counts.of(*right) * side(*right)) / total;
    }
    let value = if row[*feature].abs() <= 1e-35_f32 as f64 { 0.0 } else { row[*feature] };
    let goes_left = match rule {
        Rule::Numerical { threshold, missing, default_left } => {
            let read = if value.is_nan() && *missing != Missing::Nan { 0.0 } else { value };
            let is_missing = match missing {
                Missing::None => false,
                Missing::Zero => read == 0.0,
                Missing::Nan => read.is_nan(),
            };
            if is_missing { *default_left } else { read <= *threshold }
        }
        Rule::Categorical { set } => {
            let words = &tree.category_words[set.clone()];
            (0..words.len() * 32).any(|category| {
                words[category / 32] >> (category % 32) & 1 == 1 && value.trunc() == category as f64 && value > -1.0
            })
        }
    };
    side(if goes_left { *left } else { *right })
}

/// Shapley's definition: each feature's gain, over all sets of the others. Exponential.
fn by_definition(trees: &[Tree], num_features: usize, num_classes: usize, row: &[f64]) -> Vec<f64> {
    let stride = num_features + 1;
    let mut contributions = vec![0.0; num_classes * stride];
    let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
    for (index, tree) in trees.iter().enumerate() {
        let counts = tree.counts.as_ref().unwrap();
        let of_class = &mut contributions[index % num_classes * stride..][..stride];
        let answers: Vec<f64> =
            (0..1_u32 << num_features).map(|known| average(tree, counts, tree.root(), row, known)).collect();
        of_class[num_features] += answers[0];
        for (feature, contribution) in of_class[..num_features].iter_mut().enumerate() {
            for known in (0..1_u32 << num_features).filter(|known| known >> feature & 1 == 0) {
                let size = known.count_ones();
                let weight =
                    factorial(size) * factorial(num_features as u32 - 1 - size) / factorial(num_features as u32);
                *contribution += weight * (answers[(known | 1 << feature) as usize] - answers[known as usize]);
            }
        }
    }
    contributions
}

#[test]
fn contributions_are_shapleys_by_their_definition() {
    let mut scratch = ExplainScratch::default();
    for (name, text, rows) in GOLDEN {
        let ModelText { trees, num_classes, feature_names, .. } = ModelText::parse(text).unwrap();
        let explainer = Explainer::new(&trees, feature_names.len(), num_classes).unwrap();
        for row in values_of(rows).chunks(feature_names.len()) {
            let expected = by_definition(&trees, feature_names.len(), num_classes, row);
            for kernel in kernels() {
                assert_near(name, &contributions(&explainer, kernel, row, &mut scratch), &expected);
            }
        }
    }
}

#[test]
fn contributions_sum_to_the_raw_score() {
    let mut scratch = ExplainScratch::default();
    for name in ["binary_31", "regression", "one_leaf"] {
        let (_, text, rows) = GOLDEN.into_iter().find(|(other, ..)| *other == name).unwrap();
        let model = Model::parse(text).unwrap();
        let is_binary = text.contains("objective=binary");
        for row in values_of(rows).chunks(model.feature_names().len()) {
            let columns: Vec<Column<'_>> = row.chunks(1).map(Column::from).collect();
            let mut score = [0.0];
            model.score(&columns, &mut score, &mut Scratch::default());
            let sum: f64 = contributions(model.explainer().unwrap(), Kernel::detect(), row, &mut scratch).iter().sum();
            let found = if is_binary { 1.0 / (1.0 + (-sum).exp()) } else { sum };
            assert_near(name, &[found], &score);
        }
    }
}

#[test]
fn all_machines_give_the_same_bits() {
    for (name, text, rows) in GOLDEN {
        let model = Model::parse(text).unwrap();
        for row in values_of(rows).chunks(model.feature_names().len()) {
            let bits = kernels().into_iter().map(|kernel| {
                let found = contributions(model.explainer().unwrap(), kernel, row, &mut ExplainScratch::default());
                found.iter().map(|number| number.to_bits()).collect::<Vec<_>>()
            });
            let bits: Vec<_> = bits.collect();
            assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
        }
    }
}

/// A chain of splits, each on the next of `num_features` features, of which the row goes all ways if its values are 0.
fn chain(num_splits: usize, num_features: usize) -> Tree {
    let split = |at: usize| Split {
        feature: at % num_features,
        rule: Rule::Numerical { threshold: 0.5, missing: Missing::Nan, default_left: true },
        left: if at + 1 < num_splits { Child::Split(at + 1) } else { Child::Leaf(num_splits) },
        right: Child::Leaf(at),
    };
    let leaves: Vec<f64> = (0..=num_splits).map(|leaf| (leaf * 7 % 5 + 1) as f64).collect();
    let splits = (0..num_splits).map(|at| leaves[at..].iter().sum()).collect();
    Tree {
        splits: (0..num_splits).map(split).collect(),
        leaf_values: (0..=num_splits).map(|leaf| (leaf as f64 * 1.7).sin()).collect(),
        category_words: Vec::new(),
        counts: Ok(Counts { splits, leaves }),
    }
}

#[test]
fn long_ways_with_returning_features_are_explained() {
    for (num_splits, num_features) in [(1, 1), (9, 2), (12, 5), (8, 8), (9, 9), (40, 11)] {
        let tree = [chain(num_splits, num_features)];
        let explainer = Explainer::new(&tree, num_features, 1).unwrap();
        for pattern in [0, 1, 2, 5, 9, 10] {
            let row: Vec<f64> = (0..num_features).map(|at| f64::from(u8::from(at + 1 == pattern))).collect();
            let found = contributions(&explainer, Kernel::detect(), &row, &mut ExplainScratch::default());
            assert_near("chain", &found, &by_definition(&tree, num_features, 1, &row));
        }
    }
}

#[test]
fn ways_with_up_to_64_features_sum_up_and_longer_ones_are_refused() {
    for num_features in [15, 16, 17, 32, 33, 64] {
        let tree = [chain(2 * num_features, num_features)];
        let explainer = Explainer::new(&tree, num_features, 1).unwrap();
        let row = vec![0.0; num_features];
        let found = contributions(&explainer, Kernel::detect(), &row, &mut ExplainScratch::default());
        let leaf = tree[0].leaf_values[2 * num_features];
        assert_near("sum", &[found.iter().sum()], &[leaf]);
    }
    let error = Explainer::new(&[chain(65, 65)], 65, 1).unwrap_err().to_string();
    assert!(error.contains("tree 0") && error.contains("at most 64") && error.contains("found 65"), "{error}");
}

#[test]
fn ways_that_no_training_row_went_are_explained() {
    let mut tree = chain(6, 3);
    let Ok(counts) = &mut tree.counts else { unreachable!() };
    (counts.leaves[2], counts.leaves[4]) = (0.0, 0.0);
    counts.splits = (0..6).map(|at| counts.leaves[at..].iter().sum()).collect();
    let tree = [tree];
    let explainer = Explainer::new(&tree, 3, 1).unwrap();
    for pattern in 0..8_u8 {
        let row: Vec<f64> = (0..3).map(|at| f64::from(pattern >> at & 1)).collect();
        let found = contributions(&explainer, Kernel::detect(), &row, &mut ExplainScratch::default());
        assert_near("empty leaves", &found, &by_definition(&tree, 3, 1, &row));
    }
}

#[test]
fn the_quadrature_is_exact_for_shapleys_weights() {
    for num in POINTS {
        let Quadrature { at, rest, weights, .. } = Quadrature::new(num);
        for features in 1..=2 * num {
            let mut weight = 1.0 / features as f64;
            for size in 0..features {
                let others = features - 1 - size;
                let points = at.iter().zip(&rest).zip(&weights);
                let found: f64 =
                    points.map(|((at, rest), w)| w * at.powi(size as i32) * rest.powi(others as i32)).sum();
                assert!((found - weight).abs() <= 1e-13 * weight.max(1e-3), "{num} points, {size} of {features}");
                // k! (n - 1 - k)! / n!, from one k to the next.
                weight *= (size + 1) as f64 / others.max(1) as f64;
            }
        }
    }
}

#[test]
fn models_without_counts_score_and_cannot_be_explained() {
    let (_, text, _) = GOLDEN[0];
    let sizes = text.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
    let text = text.replacen(&format!("{sizes}\n"), "", 1);
    for (key, value, words) in [
        ("leaf_count=", None, "tree 0, leaf_count: expected whole numbers of at least 0, found no such line"),
        ("internal_count=", None, "tree 0, internal_count: expected whole numbers of at least 1, found no such line"),
        ("internal_count=", Some("5 0 3 4"), "internal_count: expected whole numbers of at least 1, found 0"),
        ("leaf_count=", Some("5 0 -3 4 1"), "found -3"),
        ("leaf_count=", Some("5 0 3"), "5 numbers"),
        ("leaf_count=", Some("5 0 3 x 3"), "\"x\""),
    ] {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let damaged =
            text.replacen(&format!("{line}\n"), &value.map_or(String::new(), |value| format!("{key}{value}\n")), 1);
        let model = Model::parse(&damaged).unwrap();
        let error = model.explainer().unwrap_err().to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
}

#[test]
#[ignore = "needs the folder that tests/python/oracle_lightgbm.py writes, in TIDEMILL_LIGHTGBM_ORACLE"]
fn python_explains_the_same() {
    let folder = std::env::var_os("TIDEMILL_LIGHTGBM_ORACLE").expect("TIDEMILL_LIGHTGBM_ORACLE names the folder");
    let doubles = |path: std::path::PathBuf| -> Vec<f64> {
        let bytes = std::fs::read(path).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    };
    let (mut num_models, mut scratch) = (0, ExplainScratch::default());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let model = Model::parse(&std::fs::read_to_string(path.join("model.txt")).unwrap()).unwrap();
        let explainer = model.explainer().unwrap();
        let (rows, expected) = (doubles(path.join("rows.f64")), doubles(path.join("contributions.f64")));
        let expected = expected.chunks(explainer.num_contributions());
        assert!(expected.len() >= 100, "{} rows show little", expected.len());
        for (row, expected) in rows.chunks(model.feature_names().len()).zip(expected) {
            let found = contributions(explainer, Kernel::detect(), row, &mut scratch);
            assert_near(&path.display().to_string(), &found, expected);
        }
        num_models += 1;
    }
    assert!(num_models > 15, "only {num_models} models in the folder");
}

#[cfg(feature = "lightgbm")]
mod against_the_c_api {
    use super::*;
    use crate::oracle::{Oracle, Rows, Shape};

    const PLAIN: Shape = Shape { num_features: 8, missing: 0.1, num_categorical: 0, num_classes: 2 };

    fn compare(name: &str, text: &str, rows: &[f64]) {
        let oracle = Oracle::load(text).unwrap();
        let model = Model::parse(text).unwrap();
        let explainer = model.explainer().unwrap();
        let (num_features, per_row) = (model.feature_names().len(), explainer.num_contributions());
        let mut expected = vec![0.0; rows.len() / num_features * per_row];
        oracle.contributions(rows, &mut expected);
        let mut raw = vec![0.0; rows.len() / num_features * model.num_outputs()];
        oracle.predict_raw(rows, &mut raw);
        let mut scratch = ExplainScratch::default();
        let answers = expected.chunks(per_row).zip(raw.chunks(model.num_outputs()));
        for (row, (expected, raw)) in rows.chunks(num_features).zip(answers) {
            let found = contributions(explainer, Kernel::detect(), row, &mut scratch);
            assert_near(name, &found, expected);
            let sums: Vec<f64> = found.chunks(num_features + 1).map(|class| class.iter().sum()).collect();
            assert_near(name, &sums, raw);
        }
    }

    fn check(shape: Shape, parameters: &str, trees: usize) {
        let text = Oracle::train(&Rows::make_up(shape, 5_000, 3), parameters, trees).unwrap();
        let mut rows = Rows::make_up(shape, 300, 4);
        super::super::super::tests::put_extremes(&text, &mut rows, 5);
        compare(parameters, &text, &rows.values);
    }

    #[test]
    fn golden_models_are_explained_as_by_lightgbm() {
        for (name, text, rows) in GOLDEN {
            compare(name, text, &values_of(rows));
        }
    }

    #[test]
    fn random_models_are_explained_as_by_lightgbm() {
        check(Shape { num_features: 36, ..PLAIN }, "objective=binary num_leaves=31", 40);
        check(PLAIN, "objective=binary num_leaves=31 zero_as_missing=true", 20);
        check(PLAIN, "objective=binary num_leaves=31 use_missing=false", 20);
        check(Shape { missing: 0.6, ..PLAIN }, "objective=binary num_leaves=63", 10);
        check(PLAIN, "objective=binary num_leaves=31 bagging_fraction=0.3 bagging_freq=1 feature_fraction=0.5", 20);
        check(PLAIN, "objective=binary boosting=dart num_leaves=31", 15);
        check(PLAIN, "objective=binary num_leaves=31 min_data_in_leaf=1000000", 3);
        check(Shape { num_features: 1, ..PLAIN }, "objective=binary num_leaves=9", 20);
        check(Shape { num_features: 50, ..PLAIN }, "objective=binary num_leaves=700 min_data_in_leaf=1", 3);
    }

    #[test]
    fn categories_and_other_objectives_are_explained_as_by_lightgbm() {
        let categories = "categorical_feature=0,1,2 min_data_per_group=2 cat_smooth=1";
        check(Shape { num_categorical: 3, ..PLAIN }, &format!("objective=binary num_leaves=31 {categories}"), 20);
        check(Shape { num_classes: 3, ..PLAIN }, "objective=multiclass num_class=3 num_leaves=31", 10);
        check(Shape { num_classes: 3, ..PLAIN }, "objective=multiclassova num_class=3 num_leaves=15", 10);
        check(Shape { num_classes: 0, ..PLAIN }, "objective=regression num_leaves=600 min_data_in_leaf=2", 5);
        check(Shape { num_classes: 0, ..PLAIN }, "objective=regression_l1 num_leaves=31", 5);
    }
}
