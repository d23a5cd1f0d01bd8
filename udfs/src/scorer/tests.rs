//! The scorer against LightGBM, against itself, and against damaged files.

use proptest::prelude::*;

use super::*;

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../testdata/", $name, ".txt")),
            include_str!(concat!("../../testdata/", $name, ".rows")),
        )
    };
}
/// Small models, and rows with the scores that Python's LightGBM gives them (`tests/python/oracle_lightgbm.py --golden`).
pub(super) const GOLDEN: [(&str, &str, &str); 6] = [
    golden!("binary_31"),
    golden!("zero_as_missing"),
    golden!("categorical"),
    golden!("three_classes"),
    golden!("regression"),
    golden!("one_leaf"),
];

fn golden(name: &str) -> &'static str {
    GOLDEN.iter().find(|(other, ..)| *other == name).unwrap().1
}

pub(super) fn kernels() -> Vec<Kernel> {
    let mut kernels = vec![Kernel::Portable, Kernel::detect()];
    kernels.dedup();
    kernels
}

/// The feature values of golden rows, row by row.
pub(super) fn values_of(rows: &str) -> Vec<f64> {
    let values = rows.lines().flat_map(|line| line.split('=').next().unwrap().split_whitespace());
    values.map(|word| word.parse().unwrap()).collect()
}

/// Scores rows given row by row.
fn score(kernel: Kernel, model: &Model, rows: &[f64]) -> Vec<f64> {
    let num_features = model.feature_names().len();
    let columns: Vec<Vec<f64>> =
        (0..num_features).map(|feature| rows.iter().skip(feature).step_by(num_features).copied().collect()).collect();
    let columns: Vec<Column<'_>> = columns.iter().map(|column| column.as_slice().into()).collect();
    let mut scores = vec![f64::NAN; rows.len() / num_features * model.num_outputs()];
    model.score_with(kernel, &columns, &mut scores, &mut Scratch::default());
    scores
}

#[track_caller]
fn assert_same_bits(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{name}, score {at}: found {found:e}, expected {expected:e}");
    }
}

#[test]
fn golden_rows_score_as_in_python() {
    let numbers = |text: &str| text.split_whitespace().map(|word| word.parse::<f64>().unwrap()).collect::<Vec<_>>();
    for (name, text, rows) in GOLDEN {
        let model = Model::parse(text).unwrap();
        let (mut values, mut expected) = (Vec::new(), Vec::new());
        for line in rows.lines() {
            let (row, scores) = line.split_once('=').unwrap();
            values.extend(numbers(row));
            expected.extend(numbers(scores));
        }
        for kernel in kernels() {
            assert_same_bits(name, &score(kernel, &model, &values), &expected);
            for (row, expected) in values.chunks(model.feature_names().len()).zip(expected.chunks(model.num_outputs()))
            {
                assert_same_bits(name, &score(kernel, &model, row), expected);
            }
        }
    }
}

#[test]
fn nulls_score_as_nan_at_any_bit_offset() {
    let model = Model::parse(golden("binary_31")).unwrap();
    let num_features = model.feature_names().len();
    for num_rows in [1, 5, 70, 300] {
        let values: Vec<Vec<f64>> = (0..num_features)
            .map(|feature| (0..num_rows).map(|row| ((row * 7 + feature * 3) % 40) as f64 - 5.0).collect())
            .collect();
        for offset in [0, 3, 8, 13] {
            let bits: Vec<u8> = (0..num_rows / 8 + 4).map(|at| (at * 89 + 21) as u8).collect();
            let with_nulls: Vec<Column<'_>> = values
                .iter()
                .map(|values| Column { values, validity: Some(Validity { bits: &bits, offset }) })
                .collect();
            let mut found = vec![0.0; num_rows];
            model.score(&with_nulls, &mut found, &mut Scratch::default());
            let rows: Vec<f64> = (0..num_rows)
                .flat_map(|row| {
                    let bit = offset + row;
                    let valid = bits[bit / 8] >> (bit % 8) & 1 == 1;
                    values.iter().map(move |values| if valid { values[row] } else { f64::NAN })
                })
                .collect();
            assert_same_bits("nulls", &found, &score(Kernel::Portable, &model, &rows));
        }
    }
}

#[track_caller]
fn assert_refused(text: &str, words: &[&str]) {
    let error = Model::parse(text).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let text = golden("binary_31");
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from:?}");
        text.replacen(from, to, 1)
    };
    assert_refused(&with("version=v4", "version=v5"), &["version", "v5", "v3, v4"]);
    assert_refused(&with("objective=binary sigmoid:1", "objective=poisson"), &["objective", "poisson", "binary"]);
    assert_refused(&with("objective=binary sigmoid:1\n", ""), &["objective", "custom"]);
    assert_refused(&with("objective=binary sigmoid:1", "objective=regression sqrt"), &["regression", "sqrt"]);
    assert_refused(&with("is_linear=0", "is_linear=1"), &["linear trees"]);
    assert_refused(&with("feature_names=", "average_output\nfeature_names="), &["random forest"]);
    assert_refused(&with("num_class=1", "num_class=1\nnovelty=3"), &["novelty"]);
    assert_refused(&with("num_cat=0", "num_cat=0\nleaf_magic=1"), &["leaf_magic"]);
    assert_refused(&with("num_tree_per_iteration=1", "num_tree_per_iteration=2"), &["num_tree_per_iteration"]);
    assert_refused(&format!("{text}\nparser:\nx\nend of parser\n"), &["parser"]);
    assert_refused(&format!("{text}\npandas_categorical:[[\"a\", \"b\"]]\n"), &["pandas_categorical", "integer codes"]);
    for harmless in ["null", "[]", "[[0, 1, 2], [0, 1]]"] {
        Model::parse(&format!("{text}\npandas_categorical:{harmless}\n")).unwrap();
    }
}

#[test]
fn damaged_files_are_refused_with_their_place() {
    let text = golden("binary_31");
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    let with_line = |key: &str, value: &str| {
        let size = text.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
        text.replacen(&format!("{size}\n"), "", 1).replacen(line(key), &format!("{key}{value}"), 1)
    };
    assert_refused("", &["empty"]);
    assert_refused("<html>", &["line 1", "LightGBM"]);
    assert_refused(&text[..text.len() / 2], &["tree"]);
    assert_refused(text.split("end of trees").next().unwrap(), &["end of trees"]);
    assert_refused(&with_line("left_child=", "0 -1 -2 -3"), &["tree 0", "a tree"]);
    assert_refused(&with_line("left_child=", "1 2 7 -1"), &["left_child", "7"]);
    assert_refused(&with_line("left_child=", "1 2 -9 -1"), &["left_child", "-9"]);
    assert_refused(&with_line("split_feature=", "0 1 2 99"), &["split_feature", "99"]);
    assert_refused(&with_line("threshold=", "1 2 3 nan"), &["threshold", "NaN"]);
    assert_refused(&with_line("threshold=", "1 2 3"), &["threshold", "4 numbers", "3 numbers"]);
    assert_refused(&with_line("leaf_value=", "1 2 3 4 inf"), &["leaf_value", "inf"]);
    assert_refused(&with_line("num_leaves=", "4000000000"), &["num_leaves"]);
    assert_refused(&with_line("num_leaves=", "2000000000"), &["leaf_value"]);
    assert_refused(&with_line("decision_type=", "1 2 2 2"), &["category sets"]);
    assert_refused(&with_line("decision_type=", "12 2 2 2"), &["decision_type", "12"]);
    assert_refused(&text.replacen("tree_sizes=", "tree_sizes=1 ", 1), &["tree_sizes"]);
    assert_refused(&text.replacen("feature_names=f0", "feature_names=f1", 1), &["feature_names", "twice"]);
    let categorical = golden("categorical");
    let boundaries = categorical.lines().find(|line| line.starts_with("cat_boundaries=")).unwrap();
    let sizes = categorical.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
    let without_sizes = categorical.replacen(&format!("{sizes}\n"), "", 1);
    assert_refused(&without_sizes.replacen(boundaries, "cat_boundaries=0 99999999999", 1), &["cat_"]);
}

#[test]
fn windows_line_ends_without_tree_sizes_are_read() {
    let text = golden("regression");
    let sizes = text.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
    let text = text.replacen(&format!("{sizes}\n"), "", 1).replace('\n', "\r\n");
    assert_eq!(Model::parse(&text).unwrap().num_trees(), 4);
}

/// Scores some rows, so that a damaged file that is accepted shows what it does.
fn exercise(text: &str) {
    if let Ok(model) = Model::parse(text) {
        let num_features = model.feature_names().len();
        let rows: Vec<f64> = (0..300 * num_features)
            .map(|at| [0.0, -1.5, f64::NAN, 1e9, f64::INFINITY, 3.0, 31.0, -0.0][at * 7 % 8])
            .collect();
        for kernel in kernels() {
            let scores = score(kernel, &model, &rows);
            let first = score(kernel, &model, &rows[..num_features]);
            assert_same_bits("damaged", &first, &scores[..model.num_outputs()]);
        }
        if let Ok(explainer) = model.explainer() {
            let mut contributions = vec![0.0; explainer.num_contributions()];
            explainer.contributions(&rows[..num_features], &mut contributions, &mut ExplainScratch::default());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_models_never_panic(
        model in 0..GOLDEN.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, any::<u8>()), 1..6),
    ) {
        let mut text = GOLDEN[model].1.as_bytes().to_vec();
        for (place, kind, byte) in edits {
            let at = place.index(text.len().max(1));
            let end = (at + usize::from(byte)).min(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, b"0123456789-=. e\n"[usize::from(byte) % 16]),
                2 => { text.remove(at); }
                3 => { text.drain(at..end); }
                4 => { let copy = text[at..end].to_vec(); text.splice(at..at, copy); }
                // Numbers are where the danger is.
                _ => if let Some(digit) = text[at..].iter().position(u8::is_ascii_digit) { text[at + digit] = b'0' + byte % 10; },
            }
            if text.is_empty() { break; }
        }
        exercise(&String::from_utf8_lossy(&text));
    }

    #[test]
    fn damaged_numbers_of_trees_never_panic(
        model in 0..GOLDEN.len(),
        line in any::<prop::sample::Index>(),
        word in any::<prop::sample::Index>(),
        number in prop_oneof![Just(i64::MAX), Just(i64::MIN), -40..40_i64, 0..5_000_000_000_i64],
    ) {
        let text = GOLDEN[model].1;
        let keys = ["num_leaves", "num_cat", "left_child", "right_child", "split_feature", "threshold", "decision_type",
            "cat_boundaries", "cat_threshold", "num_class", "max_feature_idx", "internal_count", "leaf_count"];
        let mut lines: Vec<String> = text.lines().filter(|line| !line.starts_with("tree_sizes")).map(str::to_owned).collect();
        let places: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].split_once('=').is_some_and(|(key, _)| keys.contains(&key)))
            .collect();
        let line = places[line.index(places.len())];
        let (key, numbers) = lines[line].split_once('=').unwrap();
        let mut numbers: Vec<String> = numbers.split(' ').map(str::to_owned).collect();
        let word = word.index(numbers.len());
        numbers[word] = number.to_string();
        lines[line] = format!("{key}={}", numbers.join(" "));
        exercise(&lines.join("\n"));
    }
}

#[test]
#[ignore = "needs the folder that tests/python/oracle_lightgbm.py writes, in TIDEMILL_LIGHTGBM_ORACLE"]
fn python_scores_the_same_bits() {
    let folder = std::env::var_os("TIDEMILL_LIGHTGBM_ORACLE").expect("TIDEMILL_LIGHTGBM_ORACLE names the folder");
    let doubles = |path: std::path::PathBuf| -> Vec<f64> {
        let bytes = std::fs::read(path).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    };
    let mut num_models = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        let model = Model::parse(&std::fs::read_to_string(path.join("model.txt")).unwrap()).unwrap();
        let (rows, expected) = (doubles(path.join("rows.f64")), doubles(path.join("scores.f64")));
        for kernel in kernels() {
            assert_same_bits(&name, &score(kernel, &model, &rows), &expected);
        }
        let few = 2_000 * model.feature_names().len();
        for (row, expected) in rows[..few].chunks(model.feature_names().len()).zip(expected.chunks(model.num_outputs()))
        {
            assert_same_bits(&name, &score(Kernel::detect(), &model, row), expected);
        }
        num_models += 1;
    }
    assert!(num_models > 15, "only {num_models} models in the folder");
}

#[cfg(feature = "lightgbm")]
pub(super) use against_the_c_api::put_extremes;

#[cfg(feature = "lightgbm")]
mod against_the_c_api {
    use super::*;
    use crate::oracle::{Oracle, Random, Rows, Shape};

    const PLAIN: Shape = Shape { num_features: 8, missing: 0.1, num_categorical: 0, num_classes: 2 };

    const EXTREMES: [f64; 22] = [
        0.0,
        -0.0,
        1e-36,
        -1e-36,
        1e-35,
        -1e-35,
        block::ZERO_MAX,
        -block::ZERO_MAX,
        1.1e-35,
        5e-324,
        -5e-324,
        2.2e-308,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e300,
        -0.5,
        -1.0,
        31.9,
        2_147_483_647.0,
        2_147_483_648.0,
        -3.0,
    ];

    /// Puts extremes, and the model's thresholds and their neighbours, into a quarter of the rows.
    pub(in super::super) fn put_extremes(text: &str, rows: &mut Rows, seed: u64) {
        let mut pool = EXTREMES.to_vec();
        for line in text.lines().filter_map(|line| line.strip_prefix("threshold=")) {
            for threshold in line.split(' ').filter_map(|word| word.parse::<f64>().ok()) {
                pool.extend([threshold, threshold.next_up(), threshold.next_down()]);
            }
        }
        let mut random = Random(seed);
        for row in rows.values.chunks_mut(rows.num_features).step_by(4) {
            for value in row {
                if random.unit() < 0.4 {
                    let extreme = if random.unit() < 0.5 { EXTREMES.len() } else { pool.len() };
                    *value = pool[(random.unit() * extreme as f64) as usize];
                }
            }
        }
    }

    /// Trains, and compares the scores of 100 000 rows.
    fn check(shape: Shape, parameters: &str, trees: usize) {
        let text = Oracle::train(&Rows::make_up(shape, 10_000, 3), parameters, trees).unwrap();
        let oracle = Oracle::load(&text).unwrap();
        let model = Model::parse(&text).unwrap();
        assert_eq!(model.num_outputs(), oracle.num_outputs());
        let mut rows = Rows::make_up(shape, 100_000, 4);
        put_extremes(&text, &mut rows, 5);
        let mut expected = vec![0.0; rows.num_rows() * oracle.num_outputs()];
        oracle.predict(&rows.values, &mut expected);
        for kernel in kernels() {
            assert_same_bits(parameters, &score(kernel, &model, &rows.values), &expected);
        }
        // Every number of rows around the borders of walking and of blocks.
        for num_rows in (1..=33).chain(255..=258).chain(511..=513) {
            for kernel in kernels() {
                let values = &rows.values[..num_rows * shape.num_features];
                assert_same_bits(
                    parameters,
                    &score(kernel, &model, values),
                    &expected[..num_rows * model.num_outputs()],
                );
            }
        }
        let single = oracle.single_row();
        let mut scores = vec![0.0; oracle.num_outputs()];
        for (row, expected) in rows.values.chunks(shape.num_features).zip(expected.chunks(scores.len())).take(500) {
            single.predict(row, &mut scores);
            assert_same_bits("single row", &scores, expected);
        }
    }

    #[test]
    fn common_models_are_bit_equal() {
        check(PLAIN, "objective=binary num_leaves=31", 100);
        check(Shape { missing: 0.0, ..PLAIN }, "objective=binary num_leaves=31 sigmoid=0.73", 30);
        check(PLAIN, "objective=binary num_leaves=32 max_depth=5", 60);
    }

    #[test]
    fn missing_rules_are_bit_equal() {
        check(PLAIN, "objective=binary num_leaves=31 zero_as_missing=true", 40);
        check(PLAIN, "objective=binary num_leaves=31 use_missing=false", 40);
        check(Shape { missing: 0.6, ..PLAIN }, "objective=binary num_leaves=63", 40);
    }

    #[test]
    fn large_trees_are_bit_equal() {
        check(PLAIN, "objective=binary num_leaves=255 min_data_in_leaf=3", 10);
        check(PLAIN, "objective=binary num_leaves=256 min_data_in_leaf=3", 5);
        check(
            Shape { num_categorical: 2, ..PLAIN },
            "objective=binary num_leaves=600 min_data_in_leaf=2 categorical_feature=0,1",
            6,
        );
    }

    #[test]
    fn small_trees_are_bit_equal() {
        check(Shape { num_features: 3, ..PLAIN }, "objective=binary num_leaves=2", 150);
        check(PLAIN, "objective=binary num_leaves=31 min_data_in_leaf=1000000", 3);
        check(Shape { num_features: 1, ..PLAIN }, "objective=binary num_leaves=9", 40);
        check(PLAIN, "objective=binary num_leaves=17", 40);
    }

    #[test]
    fn wide_models_are_bit_equal() {
        check(Shape { num_features: 50, ..PLAIN }, "objective=binary num_leaves=31", 40);
        check(Shape { num_features: 2, ..PLAIN }, "objective=binary num_leaves=127 max_bin=4000 min_data_in_bin=1", 30);
    }

    #[test]
    fn categorical_models_are_bit_equal() {
        let shape = Shape { num_categorical: 3, ..PLAIN };
        check(shape, "objective=binary num_leaves=31 categorical_feature=0,1,2 min_data_per_group=2 cat_smooth=1", 40);
        check(shape, "objective=binary num_leaves=15 categorical_feature=0,1,2 max_cat_to_onehot=100", 20);
    }

    #[test]
    fn other_objectives_are_bit_equal() {
        check(Shape { num_classes: 3, ..PLAIN }, "objective=multiclass num_class=3 num_leaves=31", 20);
        check(Shape { num_classes: 3, ..PLAIN }, "objective=multiclassova num_class=3 num_leaves=15", 10);
        check(Shape { num_classes: 0, ..PLAIN }, "objective=regression num_leaves=31", 40);
        check(Shape { num_classes: 0, ..PLAIN }, "objective=regression_l1 num_leaves=31", 10);
        check(Shape { num_classes: 0, ..PLAIN }, "objective=huber num_leaves=31", 10);
        check(PLAIN, "objective=binary boosting=dart num_leaves=31", 30);
    }
}
