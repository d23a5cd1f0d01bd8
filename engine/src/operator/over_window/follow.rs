//! What follows a long ring along, so that a row in order costs the same however long its frame: the fold of a frame
//! that ends at the newest row, and the counts of distinct values. Both move by adding and removing rows, exactly;
//! where that is more work than starting afresh from the tree's summaries, they start afresh. They refuse to be state:
//! nothing of them is persisted.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::state::blocks::{BLOCK_ROWS_MAX, Blocks, Row, Rows};
use crate::state::keys::hash_word;
use crate::state::strings::Strings;
use crate::state::tree::Tree;

use super::fold::{Fold, Measure};
use super::plan::{Act, Plan};

/// Rows that are added and removed one by one rather than summed up from the tree.
const STEPS_MAX: usize = 256;

/// A hasher for words only.
#[derive(Debug, Default)]
pub(super) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = hash_word(self.0 ^ word);
    }
}

type Counts = HashMap<u64, u32, BuildHasherDefault<WordHasher>>;

/// What follows one call.
#[derive(Debug)]
enum Follower {
    /// The fold of the rows from rank `start` to the newest.
    Fold { start: usize, fold: Fold },
    /// How often each value stands in the rows of ranks `start..end`.
    Distinct { start: usize, end: usize, counts: Counts },
}

/// What follows the calls of one long ring, by call.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Option<Follower>>);

fn measure_of(plan: &Plan, call: usize) -> Option<&Measure> {
    match plan.calls[call].act {
        Act::Fold { measure, .. } => Some(&plan.measures[measure]),
        Act::Distinct { .. } | Act::Edge { .. } | Act::Lag { .. } | Act::Fallback { .. } => None,
    }
}

/// The measure of a call of `count(DISTINCT)`: which rows it counts.
pub(super) fn distinct_mask(plan: &Plan, call: usize, rows: &Rows<'_>, from: usize, to: usize) -> u64 {
    let Act::Distinct { argument } = plan.calls[call].act else { return 0 };
    let filter = plan.calls[call].filter.map_or(u64::MAX, |filter| rows.bits(filter));
    crate::state::blocks::mask(from, to) & rows.bits(argument) & filter
}

impl Followers {
    /// A row was inserted at rank `at`.
    pub(super) fn inserted(&mut self, plan: &Plan, at: usize, row: Row<'_>, strings: &Strings) {
        for (call, follower) in self.0.iter_mut().enumerate() {
            match follower {
                None => {}
                Some(Follower::Fold { start, fold }) => {
                    if at < *start {
                        *start += 1;
                    } else if let Some(measure) = measure_of(plan, call) {
                        measure.add_row(fold, row, strings);
                    }
                }
                Some(Follower::Distinct { start, end, counts }) => {
                    if at <= *start {
                        *start += 1;
                        *end += 1;
                    } else if at < *end {
                        *end += 1;
                        if let Some(word) = plan.distinct_word(call, row) {
                            *counts.entry(word).or_default() += 1;
                        }
                    }
                }
            }
        }
    }

    /// The first `num` rows were removed.
    pub(super) fn removed_first(&mut self, num: usize) {
        for follower in &mut self.0 {
            match follower {
                Some(Follower::Fold { start, .. }) if *start >= num => *start -= num,
                Some(Follower::Distinct { start, end, .. }) if *start >= num => {
                    *start -= num;
                    *end -= num;
                }
                _ => *follower = None,
            }
        }
    }

    /// Bytes held, about. A hash table fills seven eighths of its places and has a byte beside each.
    pub(super) fn bytes(&self) -> usize {
        let counts = |follower: &Option<Follower>| match follower {
            Some(Follower::Distinct { counts, .. }) => counts.capacity() * 8 / 7 * (size_of::<(u64, u32)>() + 1),
            Some(Follower::Fold { .. }) | None => 0,
        };
        self.0.capacity() * size_of::<Option<Follower>>() + self.0.iter().map(counts).sum::<usize>()
    }

    fn follower(&mut self, plan: &Plan, call: usize) -> &mut Option<Follower> {
        self.0.resize_with(plan.calls.len(), || None);
        &mut self.0[call]
    }

    /// The fold of the rows from rank `from` to the newest. Of sums the rows that have left the frame are removed; an
    /// extreme value stays until a row as extreme leaves, and is then looked up in the tree.
    pub(super) fn fold_to_newest(
        &mut self,
        plan: &Plan,
        call: usize,
        measure: usize,
        ring: (&Tree<Box<[Fold]>>, &Blocks),
        from: usize,
        strings: &Strings,
    ) -> Fold {
        let (tree, blocks) = ring;
        let follower = self.follower(plan, call);
        let rule = &plan.measures[measure];
        if let Some(Follower::Fold { start, fold }) = follower
            && start.abs_diff(from) <= STEPS_MAX
        {
            let mut is_kept = true;
            tree.visit_rows(blocks, *start, from, &mut |rows, from, to| {
                is_kept &= rule.remove_rows(fold, &rows, from, to)
            });
            if is_kept {
                tree.visit_rows(blocks, from, *start, &mut |rows, from, to| {
                    rule.add_rows(fold, &rows, from, to, strings)
                });
                *start = from;
                return fold.clone();
            }
        }
        let fold = fold_range(plan, measure, ring, from, tree.len(), strings);
        *follower = Some(Follower::Fold { start: from, fold: fold.clone() });
        fold
    }

    /// How many distinct values the rows of ranks `from..to` have, and whether `own` is one more.
    pub(super) fn distinct(
        &mut self,
        plan: &Plan,
        call: usize,
        ring: (&Tree<Box<[Fold]>>, &Blocks),
        span: (usize, usize),
        own: Option<u64>,
    ) -> u64 {
        let ((tree, blocks), (from, to)) = (ring, span);
        let Act::Distinct { argument } = plan.calls[call].act else { return 0 };
        let follower = self.follower(plan, call);
        let afresh = || Follower::Distinct { start: from, end: from, counts: Counts::default() };
        let is_near = |start: usize, end: usize| {
            start.abs_diff(from) + end.abs_diff(to) <= to - from && start.max(from) <= end.min(to)
        };
        match follower {
            Some(Follower::Distinct { start, end, .. }) if is_near(*start, *end) => {}
            _ => *follower = Some(afresh()),
        }
        let Some(Follower::Distinct { start, end, counts }) = follower else { return 0 };
        let mut walk = |from: usize, to: usize, is_added: bool| {
            tree.visit_rows(blocks, from, to, &mut |rows, from, to| {
                let column = rows.column(argument);
                super::fold::for_each_bit(distinct_mask(plan, call, &rows, from, to), |lane| {
                    count(counts, column[lane], is_added);
                });
            });
        };
        walk(from, *start, true);
        walk(*end, to, true);
        walk(*start, from, false);
        walk(to, *end, false);
        (*start, *end) = (from, to);
        let is_new = own.is_some_and(|word| !counts.contains_key(&word));
        counts.len() as u64 + u64::from(is_new)
    }
}

fn count(counts: &mut Counts, word: u64, is_added: bool) {
    if is_added {
        *counts.entry(word).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&word) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&word);
        }
    }
}

/// The fold of a measure over the rows of ranks `from..to`, by the tree's summaries.
pub(super) fn fold_range(
    plan: &Plan,
    measure: usize,
    (tree, blocks): (&Tree<Box<[Fold]>>, &Blocks),
    from: usize,
    to: usize,
    strings: &Strings,
) -> Fold {
    let rule = &plan.measures[measure];
    let Some(summary) = plan.summary_of(measure) else {
        return Fold::Count(to.saturating_sub(from) as u64);
    };
    if to.saturating_sub(from) <= BLOCK_ROWS_MAX {
        let mut whole = rule.empty();
        tree.visit_rows(blocks, from, to, &mut |rows, from, to| rule.add_rows(&mut whole, &rows, from, to, strings));
        return whole;
    }
    let whole = std::cell::RefCell::new(rule.empty());
    tree.visit(
        blocks,
        from,
        to,
        &mut |summaries| rule.merge(&mut whole.borrow_mut(), &summaries[summary], strings),
        &mut |rows, from, to| rule.add_rows(&mut whole.borrow_mut(), &rows, from, to, strings),
    );
    whole.into_inner()
}
