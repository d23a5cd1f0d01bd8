//! The distinct conditions of an ensemble, per feature.
//!
//! Many splits ask the same question. Each distinct question becomes one bit mask per block of rows, and all questions about
//! one feature are answered from the rank of a value among that feature's thresholds. This file finds the questions.

use std::collections::{BTreeMap, BTreeSet};

use super::kernel::{AnyMachine, Machine};
use super::tree::{Missing, Rule, Tree};

/// Values are searched among thresholds in blocks of this many.
pub(super) const SEARCH_BLOCK: usize = 16;

/// The thresholds of one feature under one rule for missing values.
///
/// The *rank* of a value is the number of thresholds below it: `value <= thresholds[k]` means `rank <= k`. A missing value has
/// no rank: it is below all thresholds where splits default to the left, and above all where they default to the right. So a
/// numerical feature has up to two *variants* of its conditions, and a value has a rank in each.
#[derive(Debug)]
pub(super) struct Numerical {
    pub(super) feature: usize,
    pub(super) missing: Missing,
    pub(super) num_thresholds: usize,
    /// Sorted, then padded with infinity to whole search blocks, of which the last holds padding: a search never runs off.
    pub(super) blocks: Vec<[f64; SEARCH_BLOCK]>,
    /// The last threshold of each block, padded with infinity.
    pub(super) pivots: Vec<[f64; SEARCH_BLOCK]>,
    /// Position of the first mask; `num_thresholds + 1` masks, of which the last collects rows that no condition holds for.
    pub(super) first_mask: usize,
    pub(super) defaults: Defaults,
    /// Position of the rank in a row's ranks (the left variant, if there are both, at the next one).
    pub(super) first_rank: usize,
}

/// To which sides the splits of a numerical feature send missing values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defaults {
    Right,
    Left,
    /// Both: the masks for the left follow those for the right, from this position.
    Both {
        first_left_mask: usize,
    },
}

/// The category sets of one feature.
#[derive(Debug)]
pub(super) struct Categorical {
    pub(super) feature: usize,
    /// The categories that any set holds, ascending. The *code* of a value is its position here; all others share the next one.
    pub(super) categories: Vec<u32>,
    /// Code by category, where categories are small numbers; otherwise empty.
    pub(super) code_by_category: Vec<u32>,
    pub(super) sets: Vec<CategorySet>,
    pub(super) first_mask: usize,
    pub(super) first_rank: usize,
}

#[derive(Debug)]
pub(super) struct CategorySet {
    /// The codes in the set, or those outside it if these are fewer.
    pub(super) codes: Vec<u32>,
    pub(super) negated: bool,
    /// Position of the set's bits (by code) in `Conditions::set_words`.
    pub(super) first_word: usize,
}

/// What a split asks, as the scorers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) mask: u32,
    pub(super) rank: u32,
    /// Left if the rank is at most this; for categories, the position of the set's bits.
    pub(super) limit: u32,
    pub(super) categorical: bool,
}

#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) numerical: Vec<Numerical>,
    pub(super) categorical: Vec<Categorical>,
    pub(super) num_masks: usize,
    pub(super) num_ranks: usize,
    /// Bits by code, of all category sets.
    pub(super) set_words: Vec<u64>,
    numerical_by_key: BTreeMap<(usize, Missing), usize>,
    categorical_by_feature: BTreeMap<usize, usize>,
    set_by_words: BTreeMap<(usize, Vec<u32>), usize>,
}

/// Categories below this are looked up in a table, others by binary search: a hostile file must not make the table large.
const CATEGORY_TABLE_MAX: u32 = 1 << 16;

impl Conditions {
    pub(super) fn collect(trees: &[Tree]) -> Self {
        let mut thresholds: BTreeMap<(usize, Missing), (BTreeSet<Ordered>, [bool; 2])> = BTreeMap::new();
        let mut sets: BTreeMap<usize, BTreeSet<Vec<u32>>> = BTreeMap::new();
        for tree in trees {
            for split in &tree.splits {
                match &split.rule {
                    Rule::Numerical { threshold, missing, default_left } => {
                        let entry = thresholds.entry((split.feature, *missing)).or_default();
                        entry.0.insert(Ordered(*threshold));
                        entry.1[usize::from(*default_left)] = true;
                    }
                    Rule::Categorical { set } => {
                        let words = significant(&tree.category_words[set.clone()]).to_vec();
                        sets.entry(split.feature).or_default().insert(words);
                    }
                }
            }
        }
        let mut conditions = Self::default();
        for ((feature, missing), (thresholds, sides)) in thresholds {
            conditions.add_numerical(feature, missing, &thresholds, sides);
        }
        for (feature, sets) in sets {
            conditions.add_categorical(feature, sets);
        }
        conditions
    }

    fn add_numerical(
        &mut self,
        feature: usize,
        missing: Missing,
        thresholds: &BTreeSet<Ordered>,
        [right, left]: [bool; 2],
    ) {
        let sorted: Vec<f64> = thresholds.iter().map(|threshold| threshold.0).collect();
        let first_mask = self.num_masks;
        self.num_masks += sorted.len() + 1;
        // Without missing values there is nothing to send to a default side, so one variant does.
        let defaults = match (missing, right, left) {
            (Missing::None, ..) | (_, true, false) => Defaults::Right,
            (_, false, _) => Defaults::Left,
            (_, true, true) => {
                let first_left_mask = self.num_masks;
                self.num_masks += sorted.len();
                Defaults::Both { first_left_mask }
            }
        };
        let first_rank = self.num_ranks;
        self.num_ranks += if matches!(defaults, Defaults::Both { .. }) { 2 } else { 1 };
        let blocks = in_blocks(&sorted);
        let pivots: Vec<f64> = blocks[..blocks.len() - 1].iter().map(|block| block[SEARCH_BLOCK - 1]).collect();
        self.numerical_by_key.insert((feature, missing), self.numerical.len());
        self.numerical.push(Numerical {
            feature,
            missing,
            num_thresholds: sorted.len(),
            pivots: in_blocks(&pivots),
            blocks,
            first_mask,
            defaults,
            first_rank,
        });
    }

    fn add_categorical(&mut self, feature: usize, sets: BTreeSet<Vec<u32>>) {
        let known: BTreeSet<u32> = sets.iter().flat_map(|words| members(words)).collect();
        let categories: Vec<u32> = known.into_iter().collect();
        let first_mask = self.num_masks;
        let num_words = categories.len() / 64 + 1;
        let index = self.categorical.len();
        let mut compiled = Vec::with_capacity(sets.len());
        for (at, words) in sets.into_iter().enumerate() {
            let holds =
                |category: u32| words.get(category as usize / 32).is_some_and(|word| word >> (category % 32) & 1 == 1);
            let (inside, outside): (Vec<u32>, Vec<u32>) =
                (0..categories.len() as u32).partition(|code| holds(categories[*code as usize]));
            let first_word = self.set_words.len();
            self.set_words.resize(first_word + num_words, 0);
            for code in &inside {
                self.set_words[first_word + *code as usize / 64] |= 1 << (code % 64);
            }
            // Outside are also all unknown categories: one more code.
            let negated = outside.len() + 1 < inside.len();
            let mut codes = if negated { outside } else { inside };
            if negated {
                codes.push(categories.len() as u32);
            }
            compiled.push(CategorySet { codes, negated, first_word });
            self.set_by_words.insert((feature, words), at);
        }
        self.num_masks += compiled.len();
        let first_rank = self.num_ranks;
        self.num_ranks += 1;
        let table_len = categories.last().filter(|last| **last < CATEGORY_TABLE_MAX).map_or(0, |last| *last + 1);
        let mut code_by_category = vec![categories.len() as u32; table_len as usize];
        if table_len > 0 {
            for (code, category) in categories.iter().enumerate() {
                code_by_category[*category as usize] = code as u32;
            }
        }
        self.categorical_by_feature.insert(feature, index);
        self.categorical.push(Categorical {
            feature,
            categories,
            code_by_category,
            sets: compiled,
            first_mask,
            first_rank,
        });
    }

    /// The condition of a split of `tree`, one of those given to `collect`.
    pub(super) fn of(&self, tree: &Tree, feature: usize, rule: &Rule) -> Condition {
        match rule {
            Rule::Numerical { threshold, missing, default_left } => {
                let numerical = &self.numerical[self.numerical_by_key[&(feature, *missing)]];
                let limit = numerical.rank(AnyMachine, *threshold);
                let (mask, rank) = match numerical.defaults {
                    Defaults::Both { first_left_mask } if *default_left => {
                        (first_left_mask + limit, numerical.first_rank + 1)
                    }
                    _ => (numerical.first_mask + limit, numerical.first_rank),
                };
                Condition { mask: mask as u32, rank: rank as u32, limit: limit as u32, categorical: false }
            }
            Rule::Categorical { set } => {
                let categorical = &self.categorical[self.categorical_by_feature[&feature]];
                let words = significant(&tree.category_words[set.clone()]).to_vec();
                let at = self.set_by_words[&(feature, words)];
                Condition {
                    mask: (categorical.first_mask + at) as u32,
                    rank: categorical.first_rank as u32,
                    limit: categorical.sets[at].first_word as u32,
                    categorical: true,
                }
            }
        }
    }
}

impl Numerical {
    /// The number of thresholds below `value`.
    #[inline(always)]
    pub(super) fn rank(&self, machine: impl Machine, value: f64) -> usize {
        let block = if let [pivots] = self.pivots.as_slice() {
            if self.blocks.len() == 1 { 0 } else { machine.below(pivots, value) }
        } else {
            let group = self.pivots.partition_point(|pivots| pivots[SEARCH_BLOCK - 1] < value);
            group * SEARCH_BLOCK + self.pivots.get(group).map_or(0, |pivots| machine.below(pivots, value))
        };
        block * SEARCH_BLOCK + self.blocks.get(block).map_or(0, |thresholds| machine.below(thresholds, value))
    }
}

impl Categorical {
    /// LightGBM truncates to a 32-bit integer; NaN, negative numbers and those that do not fit are in no set.
    #[inline(always)]
    pub(super) fn code(&self, value: f64) -> usize {
        let unknown = self.categories.len();
        // False for NaN too. The truncation of -0.5 is category 0.
        if !(value > -1.0 && value < 2_147_483_648.0) {
            return unknown;
        }
        let category = value as u32;
        if self.code_by_category.is_empty() {
            return self.categories.binary_search(&category).unwrap_or(unknown);
        }
        self.code_by_category.get(category as usize).map_or(unknown, |code| *code as usize)
    }
}

fn in_blocks(sorted: &[f64]) -> Vec<[f64; SEARCH_BLOCK]> {
    let mut blocks = vec![[f64::INFINITY; SEARCH_BLOCK]; sorted.len() / SEARCH_BLOCK + 1];
    for (slot, value) in blocks.as_flattened_mut().iter_mut().zip(sorted) {
        *slot = *value;
    }
    blocks
}

/// A set without the zero words at its end, which hold nothing.
fn significant(words: &[u32]) -> &[u32] {
    let len = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
    &words[..len]
}

fn members(words: &[u32]) -> impl Iterator<Item = u32> + '_ {
    words.iter().enumerate().flat_map(|(at, word)| {
        (0..32)
            .filter(move |bit| word >> bit & 1 == 1)
            .filter_map(move |bit| u32::try_from(at * 32).ok()?.checked_add(bit))
    })
}

/// A number, not NaN, ordered as comparisons order it: -0.0 equals 0.0.
#[derive(Debug, Clone, Copy)]
struct Ordered(f64);

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}
impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Ordered {}
