//! One tree, as its lines say it, with everything checked that the scorer relies on.
//!
//! After `Tree::parse` the children form one binary tree over all nodes and leaves, features and category sets exist, and
//! thresholds are not NaN, leaf values are finite. Nothing later checks that again.

use super::error::ModelError;
use super::number;
use super::shap::Counts;
use super::text::Section;

/// How LightGBM treats missing values at a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Missing {
    /// NaN counts as 0.
    None,
    /// 0 and NaN go to the default side.
    Zero,
    /// NaN goes to the default side.
    Nan,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    /// Left if the value is at most `threshold`.
    Numerical { threshold: f64, missing: Missing, default_left: bool },
    /// Left if the category is in the set: bits in words of 32, ascending.
    Categorical { set: std::ops::Range<usize> },
}

#[derive(Debug, Clone, PartialEq, Eq, Copy)]
pub(super) enum Child {
    Split(usize),
    Leaf(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Split {
    pub(super) feature: usize,
    pub(super) rule: Rule,
    pub(super) left: Child,
    pub(super) right: Child,
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// The root is split 0; a tree of one leaf has no splits.
    pub(super) splits: Vec<Split>,
    pub(super) leaf_values: Vec<f64>,
    /// The words that `Rule::Categorical` points into.
    pub(super) category_words: Vec<u32>,
    /// What only explanations need; scores do not depend on it.
    pub(super) counts: Result<Counts, ModelError>,
}

const WHOLE: &str = "a whole number";

impl Tree {
    pub(super) fn parse(section: &Section<'_>, num_features: usize) -> Result<Self, ModelError> {
        let num_leaves = section.number("num_leaves")?;
        if num_leaves == 0 || i32::try_from(num_leaves).is_err() {
            return Err(ModelError::malformed(section.place("num_leaves"), "at least 1", num_leaves.to_string()));
        }
        let leaf_values: Vec<f64> =
            number::list(|| section.place("leaf_value"), section.require("leaf_value")?, num_leaves, "a number")?;
        all(section, "leaf_value", &leaf_values, "finite numbers", f64::is_finite)?;
        let num_sets = section.number("num_cat")?;
        let num_splits = num_leaves - 1;
        let list = |key| number::list(|| section.place(key), section.require(key)?, num_splits, WHOLE);
        let left: Vec<i64> = list("left_child")?;
        let right: Vec<i64> = list("right_child")?;
        let features: Vec<i64> = list("split_feature")?;
        let decisions = match section.get("decision_type") {
            Some(_) => list("decision_type")?,
            None => vec![0; num_splits],
        };
        let thresholds: Vec<f64> =
            number::list(|| section.place("threshold"), section.require("threshold")?, num_splits, "a number")?;
        // LightGBM writes infinite thresholds where only NaN goes right.
        all(section, "threshold", &thresholds, "numbers, not NaN", |threshold| !threshold.is_nan())?;
        let (boundaries, category_words) = category_sets(section, num_sets)?;

        let mut splits = Vec::with_capacity(num_splits);
        for at in 0..num_splits {
            let feature = usize::try_from(features[at]).ok().filter(|feature| *feature < num_features);
            let feature = feature.ok_or_else(|| {
                let expected = format!("a feature from 0 to {}", num_features.saturating_sub(1));
                ModelError::malformed(section.place("split_feature"), expected, features[at].to_string())
            })?;
            splits.push(Split {
                feature,
                rule: rule(section, decisions[at], thresholds[at], &boundaries)?,
                left: child(section, "left_child", left[at], num_leaves)?,
                right: child(section, "right_child", right[at], num_leaves)?,
            });
        }
        let counts = Counts::parse(section, num_leaves);
        let tree = Self { splits, leaf_values, category_words, counts };
        tree.check_shape(section)?;
        Ok(tree)
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> Child {
        if self.splits.is_empty() { Child::Leaf(0) } else { Child::Split(0) }
    }

    /// Every node and every leaf must be reached from the root exactly once; otherwise a walk may never end.
    fn check_shape(&self, section: &Section<'_>) -> Result<(), ModelError> {
        let mut splits_seen = vec![false; self.splits.len()];
        let mut leaves_seen = vec![false; self.leaf_values.len()];
        let mut open = vec![self.root()];
        while let Some(next) = open.pop() {
            let seen = match next {
                Child::Split(at) => &mut splits_seen[at],
                Child::Leaf(at) => &mut leaves_seen[at],
            };
            if std::mem::replace(seen, true) {
                return Err(ModelError::malformed(
                    section.place("left_child and right_child"),
                    "a tree",
                    format!("{next:?} twice"),
                ));
            }
            if let Child::Split(at) = next {
                open.extend([self.splits[at].left, self.splits[at].right]);
            }
        }
        // n - 1 splits with two children each, all different, reach n leaves: nothing else can be left over but an island.
        if splits_seen.iter().chain(&leaves_seen).all(|seen| *seen) {
            Ok(())
        } else {
            Err(ModelError::malformed(
                section.place("left_child and right_child"),
                "a tree",
                "parts that the root does not reach",
            ))
        }
    }
}

fn all(
    section: &Section<'_>,
    key: &str,
    numbers: &[f64],
    expected: &str,
    accepted: impl Fn(f64) -> bool,
) -> Result<(), ModelError> {
    match numbers.iter().find(|number| !accepted(**number)) {
        None => Ok(()),
        Some(number) => Err(ModelError::malformed(section.place(key), expected, number.to_string())),
    }
}

/// LightGBM writes a leaf `l` as `-l - 1`.
fn child(section: &Section<'_>, key: &str, number: i64, num_leaves: usize) -> Result<Child, ModelError> {
    let child = if number >= 0 {
        usize::try_from(number).ok().filter(|split| *split < num_leaves - 1).map(Child::Split)
    } else {
        usize::try_from(!number).ok().filter(|leaf| *leaf < num_leaves).map(Child::Leaf)
    };
    child.ok_or_else(|| {
        let expected = format!("a child from -{num_leaves} to {}", num_leaves.saturating_sub(2));
        ModelError::malformed(section.place(key), expected, number.to_string())
    })
}

fn rule(section: &Section<'_>, decision: i64, threshold: f64, boundaries: &[usize]) -> Result<Rule, ModelError> {
    let missing = match decision {
        0..=3 => Missing::None,
        4..=7 => Missing::Zero,
        8..=11 => Missing::Nan,
        _ => {
            return Err(ModelError::unsupported(section.place("decision_type"), decision.to_string(), "0 to 11"));
        }
    };
    if decision & 1 == 0 {
        return Ok(Rule::Numerical { threshold, missing, default_left: decision & 2 != 0 });
    }
    // The threshold of a categorical split is the number of its set.
    let set = (threshold >= 0.0 && threshold.fract() == 0.0).then_some(threshold as usize);
    let range = set.and_then(|set| Some(*boundaries.get(set)?..*boundaries.get(set.checked_add(1)?)?));
    let set = range.ok_or_else(|| {
        let expected = format!("one of the tree's {} category sets", boundaries.len().saturating_sub(1));
        ModelError::malformed(section.place("threshold"), expected, threshold.to_string())
    })?;
    Ok(Rule::Categorical { set })
}

/// `cat_boundaries` cuts the words of `cat_threshold` into sets.
fn category_sets(section: &Section<'_>, num_sets: usize) -> Result<(Vec<usize>, Vec<u32>), ModelError> {
    if num_sets == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let key = "cat_boundaries";
    let count = num_sets.saturating_add(1);
    let boundaries: Vec<usize> = number::list(|| section.place(key), section.require(key)?, count, WHOLE)?;
    let first = boundaries.first().copied().unwrap_or(1);
    let last = boundaries.last().copied().unwrap_or(0);
    if first != 0 || !boundaries.is_sorted() {
        return Err(ModelError::malformed(section.place(key), "ascending numbers from 0", section.require(key)?));
    }
    let key = "cat_threshold";
    let words = number::list(|| section.place(key), section.require(key)?, last, "a word of 32 bits")?;
    Ok((boundaries, words))
}
