//! Why a row has its score: how far each feature moved it from the model's expected score (TreeSHAP on the counts of training
//! rows that the model file keeps), equal to LightGBM's `pred_contrib`.
//!
//! LightGBM extends and unwinds a path for every leaf. Here Shapley's weights are an integral: `k! (n-1-k)! / n!` is that of
//! `t^k (1-t)^(n-1-k)` from 0 to 1. A leaf then counts with a product over the features on the way to it, each `z (1-t) + o t`:
//! `z` is the share of training rows that go that way, and `o` is 1 if this row does. Products are made on the way down and summed
//! on the way up, at a few points `t` at once; Gauss' quadrature makes the integral exact, for it is one of a polynomial.
//!
//! Models without those counts are scored as ever and cannot be explained; the error says what is missing.

use std::collections::BTreeMap;

use super::block::as_lightgbm_reads;
use super::error::ModelError;
use super::kernel::{Kernel, Machine, Task};
use super::number;
use super::text::Section;
use super::tree::{Child, Missing, Rule, Tree};

#[cfg(test)]
mod tests;

/// Numbers of points that are computed at once. So many points are exact for twice as many features on the way to a leaf.
const POINTS: [usize; 4] = [4, 8, 16, 32];
/// A share of training rows that is 0 is taken for this: nothing is divided by 0, and no digit changes.
const SHARE_MIN: f64 = 1e-30;
/// The place of the root in its tree, where every feature is still open.
const ROOT: u32 = 0;

/// How many training rows came to each split and leaf of a tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counts {
    splits: Vec<f64>,
    leaves: Vec<f64>,
}

impl Counts {
    /// Reads them from a tree's lines.
    pub(super) fn parse(section: &Section<'_>, num_leaves: usize) -> Result<Self, ModelError> {
        let list = |key: &str, count: usize, least: i32| -> Result<Vec<f64>, ModelError> {
            let kind = format!("whole numbers of at least {least}");
            let unexplained =
                |found: String| ModelError::Unexplained { place: section.place(key), expected: kind.clone(), found };
            let text = section.get(key).ok_or_else(|| unexplained("no such line".to_owned()))?;
            let counts: Vec<i32> = number::list(|| section.place(key), text, count, &kind)
                .map_err(|error| unexplained(error.to_string()))?;
            match counts.iter().find(|count| **count < least) {
                Some(count) => Err(unexplained(count.to_string())),
                None => Ok(counts.into_iter().map(f64::from).collect()),
            }
        };
        if num_leaves == 1 {
            return Ok(Self { splits: Vec::new(), leaves: Vec::new() });
        }
        Ok(Self { splits: list("internal_count", num_leaves - 1, 1)?, leaves: list("leaf_count", num_leaves, 0)? })
    }

    fn of(&self, child: Child) -> f64 {
        match child {
            Child::Split(split) => self.splits[split],
            Child::Leaf(leaf) => self.leaves[leaf],
        }
    }
}

/// What of a row a split looks at: the value, made such that `value <= threshold` alone says where the row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    Numerical { feature: usize, missing: Missing, default_left: bool },
    Categorical { feature: usize },
}

impl Read {
    #[inline(always)]
    fn of(self, row: &[f64]) -> f64 {
        match self {
            Self::Categorical { feature } => row[feature],
            Self::Numerical { feature, missing, default_left } => match as_lightgbm_reads(row[feature], missing) {
                (value, false) => value,
                // Below every threshold, or not below any.
                (_, true) => {
                    if default_left {
                        f64::NEG_INFINITY
                    } else {
                        f64::NAN
                    }
                }
            },
        }
    }
}

#[derive(Debug)]
enum Question {
    Below(f64),
    /// The words of a category set.
    In(std::ops::Range<usize>),
}

/// A split, laid out. Places are those of splits and leaves in the scratch of a tree.
#[derive(Debug)]
struct Step {
    question: Question,
    read: u32,
    feature: u32,
    place: u32,
    left: u32,
    right: u32,
    /// The child of a split above this one that asked for the same feature; the root if there is none.
    previous: u32,
}

#[derive(Debug)]
struct Leaf {
    place: u32,
    value: f64,
}

#[derive(Debug)]
struct Plan {
    class: usize,
    points: usize,
    /// Parents before children.
    steps: std::ops::Range<usize>,
    leaves: std::ops::Range<usize>,
    /// Of each place, the share of training rows that go its way as far as its feature is asked.
    shares: std::ops::Range<usize>,
}

/// Points of Gauss' quadrature from 0 to 1.
#[derive(Debug, Clone)]
struct Quadrature {
    at: Vec<f64>,
    rest: Vec<f64>,
    inverse_rest: Vec<f64>,
    weights: Vec<f64>,
}

/// A model's trees, laid out for contributions.
#[derive(Debug)]
pub struct Explainer {
    num_features: usize,
    expected: Vec<f64>,
    reads: Vec<Read>,
    trees: Vec<Plan>,
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
    shares: Vec<f64>,
    category_words: Vec<u32>,
    /// One for each of [`POINTS`].
    quadratures: Vec<Quadrature>,
}

/// What [`Explainer::contributions`] works in. Keep one per thread and use it for every call and every model.
#[derive(Debug, Default)]
pub struct ExplainScratch {
    reads: Vec<f64>,
    /// By place: whether the row goes its way, as 1 or 0.
    held: Vec<f64>,
    /// By place and point: the product on the way down, then the sum of the leaves below.
    products: Vec<f64>,
    /// By place and point: one divided by the factor of the place's feature.
    inverses: Vec<f64>,
    /// By place and point: what its feature gains there, as far as it did not above.
    gains: Vec<f64>,
}

impl Explainer {
    /// Lays out `trees`, of which tree `i` belongs to class `i mod num_classes`.
    pub(super) fn new(trees: &[Tree], num_features: usize, num_classes: usize) -> Result<Self, ModelError> {
        let mut explainer = Self {
            num_features,
            expected: vec![0.0; num_classes],
            reads: Vec::new(),
            trees: Vec::with_capacity(trees.len()),
            steps: Vec::new(),
            leaves: Vec::new(),
            shares: Vec::new(),
            category_words: Vec::new(),
            quadratures: POINTS.map(Quadrature::new).to_vec(),
        };
        let mut layout = Layout { read_by_kind: BTreeMap::new(), latest: vec![ROOT; num_features] };
        for (index, tree) in trees.iter().enumerate() {
            let (class, counts) = (index % num_classes, tree.counts.as_ref().map_err(Clone::clone)?);
            explainer.expected[class] += expected(tree, counts);
            if !tree.splits.is_empty() {
                let firsts = [explainer.steps.len(), explainer.leaves.len(), explainer.shares.len()];
                let longest = layout.add(&mut explainer, tree, counts);
                let points = POINTS.into_iter().find(|points| 2 * points >= longest).ok_or_else(|| {
                    let expected = format!("at most {} different features on the way to a leaf", 2 * POINTS[3]);
                    ModelError::Unexplained { place: format!("tree {index}"), expected, found: longest.to_string() }
                })?;
                explainer.trees.push(Plan {
                    class,
                    points,
                    steps: firsts[0]..explainer.steps.len(),
                    leaves: firsts[1]..explainer.leaves.len(),
                    shares: firsts[2]..explainer.shares.len(),
                });
            }
        }
        let mut reads: Vec<(u32, Read)> = layout.read_by_kind.into_iter().map(|(read, place)| (place, read)).collect();
        reads.sort_unstable_by_key(|(place, _)| *place);
        explainer.reads = reads.into_iter().map(|(_, read)| read).collect();
        Ok(explainer)
    }

    /// How many numbers [`Explainer::contributions`] gives for a row.
    pub fn num_contributions(&self) -> usize {
        self.expected.len() * (self.num_features + 1)
    }

    /// The contributions to the raw score of a row, as `pred_contrib` lays them out: for each class those of the features, in
    /// the model's order, then the expected raw score. They sum to the raw score. NaN is a missing value.
    ///
    /// # Panics
    /// If the row has another number of values than the model features, or `contributions` another length than
    /// [`Explainer::num_contributions`].
    pub fn contributions(&self, row: &[f64], contributions: &mut [f64], scratch: &mut ExplainScratch) {
        self.contributions_with(Kernel::detect(), row, contributions, scratch);
    }

    /// As [`Explainer::contributions`], with a given kernel.
    pub(super) fn contributions_with(
        &self,
        kernel: Kernel,
        row: &[f64],
        contributions: &mut [f64],
        scratch: &mut ExplainScratch,
    ) {
        assert_eq!(row.len(), self.num_features, "one value per feature");
        assert_eq!(contributions.len(), self.num_contributions(), "a place for each contribution");
        kernel.run(ExplainRow { explainer: self, row, contributions, scratch });
    }
}

/// What a tree answers on average over its training rows, in LightGBM's own steps.
fn expected(tree: &Tree, counts: &Counts) -> f64 {
    let Some(total) = counts.splits.first() else { return tree.leaf_values[0] };
    tree.leaf_values.iter().zip(&counts.leaves).map(|(value, count)| (count / total) * value).sum()
}

impl Quadrature {
    /// The roots of Legendre's polynomial, by Newton's method.
    fn new(num: usize) -> Self {
        let mut quadrature = Self { at: Vec::new(), rest: Vec::new(), inverse_rest: Vec::new(), weights: Vec::new() };
        for index in 0..num {
            let mut root = (std::f64::consts::PI * (index as f64 + 0.75) / (num as f64 + 0.5)).cos();
            let mut slope = 1.0;
            // It converges in five or six steps from so near.
            for _ in 0..10 {
                let (mut before, mut value) = (1.0, root);
                for degree in 2..=num {
                    let degree = degree as f64;
                    (before, value) = (value, ((2.0 * degree - 1.0) * root * value - (degree - 1.0) * before) / degree);
                }
                slope = num as f64 * (root * value - before) / (root * root - 1.0);
                root -= value / slope;
            }
            let (at, rest) = ((1.0 - root) / 2.0, (1.0 + root) / 2.0);
            quadrature.at.push(at);
            quadrature.rest.push(rest);
            quadrature.inverse_rest.push(1.0 / rest);
            quadrature.weights.push(1.0 / ((1.0 - root * root) * slope * slope));
        }
        quadrature
    }

    #[inline(always)]
    fn points<const N: usize>(&self) -> Points<'_, N> {
        Points {
            at: &self.at.as_chunks().0[0],
            rest: &self.rest.as_chunks().0[0],
            inverse_rest: &self.inverse_rest.as_chunks().0[0],
            weights: &self.weights.as_chunks().0[0],
        }
    }
}

/// What the trees of a model are laid out with.
#[derive(Debug)]
struct Layout {
    read_by_kind: BTreeMap<Read, u32>,
    /// By feature: the place on the way to the current split where it was asked for last.
    latest: Vec<u32>,
}

/// What is still to do on the walk through a tree.
enum Open {
    /// A child, at its place.
    Child(Child, u32),
    /// From here on, the feature is as it was there before.
    Enter { feature: usize, place: u32 },
}

impl Layout {
    /// Lays a tree out, and returns the greatest number of different features on the way to a leaf.
    fn add(&mut self, to: &mut Explainer, tree: &Tree, counts: &Counts) -> usize {
        let first_share = to.shares.len();
        to.shares.push(1.0);
        let mut open = vec![Open::Child(Child::Split(0), ROOT)];
        let (mut num_features, mut longest) = (0, 0);
        while let Some(next) = open.pop() {
            match next {
                Open::Enter { feature, place } => {
                    num_features += usize::from(place != ROOT);
                    num_features -= usize::from(self.latest[feature] != ROOT);
                    self.latest[feature] = place;
                    longest = longest.max(num_features);
                }
                Open::Child(Child::Leaf(leaf), place) => {
                    to.leaves.push(Leaf { place, value: tree.leaf_values[leaf] });
                }
                Open::Child(Child::Split(split), place) => {
                    let feature = tree.splits[split].feature;
                    let previous = self.latest[feature];
                    let left = (to.shares.len() - first_share) as u32;
                    let step = self.step(to, tree, split, [place, left, left + 1, previous]);
                    to.steps.push(step);
                    open.push(Open::Enter { feature, place: previous });
                    for (child, place) in [(tree.splits[split].left, left), (tree.splits[split].right, left + 1)] {
                        let share =
                            to.shares[first_share + previous as usize] * counts.of(child) / counts.splits[split];
                        to.shares.push(share.max(SHARE_MIN));
                        open.extend([Open::Child(child, place), Open::Enter { feature, place }]);
                    }
                }
            }
        }
        longest
    }

    fn step(&mut self, to: &mut Explainer, tree: &Tree, split: usize, places: [u32; 4]) -> Step {
        let split = &tree.splits[split];
        let feature = split.feature;
        let (question, read) = match &split.rule {
            Rule::Numerical { threshold, missing, default_left } => {
                // Without missing values there is no default.
                let default_left = *default_left && *missing != Missing::None;
                (Question::Below(*threshold), Read::Numerical { feature, missing: *missing, default_left })
            }
            Rule::Categorical { set } => {
                let first = to.category_words.len();
                to.category_words.extend(&tree.category_words[set.clone()]);
                (Question::In(first..to.category_words.len()), Read::Categorical { feature })
            }
        };
        let next = self.read_by_kind.len() as u32;
        let read = *self.read_by_kind.entry(read).or_insert(next);
        let [place, left, right, previous] = places;
        Step { question, read, feature: feature as u32, place, left, right, previous }
    }
}

/// LightGBM truncates to a 32-bit integer; NaN, negative numbers and those that do not fit are in no set.
#[inline(always)]
fn is_in(words: &[u32], value: f64) -> bool {
    if !(value > -1.0 && value < 2_147_483_648.0) {
        return false;
    }
    let category = value as u32;
    words.get(category as usize / 32).is_some_and(|word| word >> (category % 32) & 1 == 1)
}

/// One row's contributions.
struct ExplainRow<'a> {
    explainer: &'a Explainer,
    row: &'a [f64],
    contributions: &'a mut [f64],
    scratch: &'a mut ExplainScratch,
}

impl Task for ExplainRow<'_> {
    #[inline(always)]
    fn run(self, _: impl Machine) {
        let Self { explainer, row, contributions, scratch } = self;
        scratch.reads.clear();
        scratch.reads.extend(explainer.reads.iter().map(|read| read.of(row)));
        contributions.fill(0.0);
        let stride = explainer.num_features + 1;
        for (class, expected) in explainer.expected.iter().enumerate() {
            contributions[class * stride + stride - 1] = *expected;
        }
        for tree in &explainer.trees {
            let contributions = &mut contributions[tree.class * stride..][..stride];
            match tree.points {
                4 => add_tree::<4>(explainer, &explainer.quadratures[0], tree, scratch, contributions),
                8 => add_tree::<8>(explainer, &explainer.quadratures[1], tree, scratch, contributions),
                16 => add_tree::<16>(explainer, &explainer.quadratures[2], tree, scratch, contributions),
                _ => add_tree::<32>(explainer, &explainer.quadratures[3], tree, scratch, contributions),
            }
        }
    }
}

/// The numbers of a [`Quadrature`].
struct Points<'a, const N: usize> {
    at: &'a [f64; N],
    rest: &'a [f64; N],
    inverse_rest: &'a [f64; N],
    weights: &'a [f64; N],
}

/// Adds a tree's contributions of a row.
#[inline(always)]
fn add_tree<const N: usize>(
    explainer: &Explainer,
    quadrature: &Quadrature,
    tree: &Plan,
    scratch: &mut ExplainScratch,
    contributions: &mut [f64],
) {
    let shares = &explainer.shares[tree.shares.clone()];
    let (steps, leaves) = (&explainer.steps[tree.steps.clone()], &explainer.leaves[tree.leaves.clone()]);
    let points: Points<'_, N> = quadrature.points();
    let ExplainScratch { reads, held, products, inverses, gains } = scratch;
    held.resize(held.len().max(shares.len()), 0.0);
    for numbers in [&mut *products, &mut *inverses, &mut *gains] {
        numbers.resize(numbers.len().max(shares.len() * N), 0.0);
    }
    let products: &mut [[f64; N]] = products.as_chunks_mut().0;
    let inverses: &mut [[f64; N]] = inverses.as_chunks_mut().0;
    let gains: &mut [[f64; N]] = gains.as_chunks_mut().0;
    (held[0], products[0], inverses[0]) = (1.0, [1.0; N], [1.0; N]);
    for step in steps {
        let value = reads[step.read as usize];
        let goes_left = match &step.question {
            Question::Below(threshold) => value <= *threshold,
            Question::In(words) => is_in(&explainer.category_words[words.clone()], value),
        };
        let (way, other) = if goes_left { (step.left, step.right) } else { (step.right, step.left) };
        let (way, other, previous) = (way as usize, other as usize, step.previous as usize);
        let (was_held, inverse, product) = (held[previous], inverses[previous], products[step.place as usize]);
        let (share, other_share) = (shares[way], shares[other]);
        let other_inverse = 1.0 / other_share;
        (held[way], held[other]) = (was_held, 0.0);
        for point in 0..N {
            let gained = (was_held - shares[previous]) * inverse[point];
            let product = product[point] * inverse[point];
            let factor = share * points.rest[point] + was_held * points.at[point];
            inverses[way][point] = 1.0 / factor;
            products[way][point] = product * factor;
            gains[way][point] = (was_held - share) / factor - gained;
            inverses[other][point] = other_inverse * points.inverse_rest[point];
            products[other][point] = product * other_share * points.rest[point];
            gains[other][point] = -points.inverse_rest[point] - gained;
        }
    }
    for leaf in leaves {
        for (product, weight) in products[leaf.place as usize].iter_mut().zip(points.weights) {
            *product *= weight * leaf.value;
        }
    }
    for step in steps.iter().rev() {
        let (left, right) = (step.left as usize, step.right as usize);
        let mut sums = [0.0; N];
        for point in 0..N {
            let (from_left, from_right) = (products[left][point], products[right][point]);
            products[step.place as usize][point] = from_left + from_right;
            sums[point] = from_left * gains[left][point] + from_right * gains[right][point];
        }
        contributions[step.feature as usize] += sums.iter().sum::<f64>();
    }
}
