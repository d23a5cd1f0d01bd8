//! The bit-sliced scorer: 256 rows at a time, one bit a row.
//!
//! Each distinct condition becomes a mask of the rows that it holds for. Trees cut row masks with condition masks until each
//! leaf has the mask of its rows; the masks of the leaves give the bits of each row's leaf number; these select leaf values,
//! which are added in LightGBM's order. There is no branch on data anywhere.
//!
//! All of it is plain code for the vectoriser, compiled twice: for every machine, and for AVX2.

use super::condition::{Categorical, Conditions, Defaults, Numerical};
use super::kernel::{Machine, Task};
use super::program::{Group, Part, Program, SLOTS, Slots};
use super::tree::Missing;
use super::walk;

/// Rows of a block.
pub(super) const ROWS: usize = 256;

/// Rows whose leaf values are added side by side: the bytes of a word.
const LANES: usize = 8;

/// LightGBM's `kZeroThreshold`, a float: what is not farther from 0 than this is read as 0.
pub(super) const ZERO_MAX: f64 = 1e-35_f32 as f64;

/// One bit a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(align(32))]
pub(super) struct Mask([u64; 4]);

impl Mask {
    const ALL: Self = Self([u64::MAX; 4]);

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    #[inline(always)]
    fn and_not(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    #[inline(always)]
    fn not(self) -> Self {
        Self(std::array::from_fn(|word| !self.0[word]))
    }

    /// Sets the bit of `row`. Row 32 i + 8 q + b is bit 8 b + i of word q: `leaf_numbers` then has the rows in order.
    #[inline(always)]
    fn set(&mut self, row: usize, on: bool) {
        self.0[row >> 3 & 3] |= u64::from(on) << ((row & 7) * 8 + (row >> 5 & 7));
    }
}

/// The columns' values of one block, one column at a time.
pub(super) trait BlockColumns {
    /// Puts the values of a feature's rows into `values`, NaN where there is none. The rest of `values` may be anything.
    fn load(&self, feature: usize, values: &mut [f64; ROWS]);
}

/// What a block is worked out in, kept from block to block.
#[derive(Debug)]
pub(super) struct BlockScratch {
    masks: Vec<Mask>,
    slots: Box<[Mask; SLOTS]>,
    /// Per tree of a group, the slot number of each row.
    numbers: Vec<[u8; ROWS]>,
    /// The rows' ranks, row by row: only for models with trees to walk.
    ranks: Vec<u32>,
    /// Masks of the rows of each category.
    categories: Vec<Mask>,
    /// Per class, the sums of leaf values.
    pub(super) sums: Vec<[f64; ROWS]>,
}

impl Default for BlockScratch {
    fn default() -> Self {
        Self {
            masks: Vec::new(),
            slots: Box::new([Mask::default(); SLOTS]),
            numbers: vec![[0; ROWS]; SLOTS / LANES],
            ranks: Vec::new(),
            categories: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl BlockScratch {
    /// Makes room for a model. Scratch that served a larger model stays as large.
    pub(super) fn prepare(&mut self, program: &Program, conditions: &Conditions) {
        let grow = |masks: &mut Vec<Mask>, len| {
            if masks.len() < len {
                masks.resize(len, Mask::default());
            }
        };
        grow(&mut self.masks, conditions.num_masks);
        let categories = conditions.categorical.iter().map(|column| column.categories.len() + 1).max();
        grow(&mut self.categories, categories.unwrap_or(0));
        if program.has_large_trees && self.ranks.len() < conditions.num_ranks * ROWS {
            self.ranks.resize(conditions.num_ranks * ROWS, 0);
        }
        if self.sums.len() < program.parts.len() {
            self.sums.resize(program.parts.len(), [0.0; ROWS]);
        }
    }
}

/// Leaves the sums of leaf values of a block's first `rows` rows in `scratch.sums`.
pub(super) struct SumBlock<'a, C> {
    pub(super) program: &'a Program,
    pub(super) conditions: &'a Conditions,
    pub(super) columns: &'a C,
    pub(super) rows: usize,
    pub(super) scratch: &'a mut BlockScratch,
}

impl<C: BlockColumns> Task for SumBlock<'_, C> {
    #[inline(always)]
    fn run(self, machine: impl Machine) {
        let Self { program, conditions, columns, rows, scratch } = self;
        find_masks(machine, program, conditions, columns, rows, scratch);
        sum_parts(machine, program, conditions, rows, scratch);
    }
}

/// The masks of all conditions, and the rows' ranks if trees are walked.
#[inline(always)]
fn find_masks(
    machine: impl Machine,
    program: &Program,
    conditions: &Conditions,
    columns: &impl BlockColumns,
    rows: usize,
    scratch: &mut BlockScratch,
) {
    let mut values = [0.0; ROWS];
    let mut loaded = None;
    let num_ranks = conditions.num_ranks;
    for column in &conditions.numerical {
        if loaded != Some(column.feature) {
            columns.load(column.feature, &mut values);
            loaded = Some(column.feature);
        }
        numerical_masks(machine, column, &values, rows, &mut scratch.masks);
        if program.has_large_trees {
            for (row, value) in values[..rows].iter().enumerate() {
                walk::numerical_ranks(machine, column, *value, &mut scratch.ranks[row * num_ranks..][..num_ranks]);
            }
        }
    }
    for column in &conditions.categorical {
        columns.load(column.feature, &mut values);
        categorical_masks(column, &values, rows, &mut scratch.categories, &mut scratch.masks);
        if program.has_large_trees {
            for (row, value) in values[..rows].iter().enumerate() {
                scratch.ranks[row * num_ranks + column.first_rank] = column.code(*value) as u32;
            }
        }
    }
}

/// Runs the parts of the ensemble, each class's on its own sums.
#[inline(always)]
fn sum_parts(
    machine: impl Machine,
    program: &Program,
    conditions: &Conditions,
    rows: usize,
    scratch: &mut BlockScratch,
) {
    let num_ranks = conditions.num_ranks;
    for (class, parts) in program.parts.iter().enumerate() {
        let sums = &mut scratch.sums[class];
        *sums = [0.0; ROWS];
        for part in parts {
            match part {
                Part::Group(group) => {
                    leaf_masks(group, program, &scratch.masks, &mut scratch.slots);
                    for (slots, numbers) in group.trees.iter().zip(&mut scratch.numbers) {
                        number_leaves(*slots, &scratch.slots, numbers);
                    }
                    add_leaf_values(machine, group, &scratch.numbers, rows, sums);
                }
                Part::Walk(trees) => {
                    for (row, sum) in sums[..rows].iter_mut().enumerate() {
                        let ranks = &scratch.ranks[row * num_ranks..][..num_ranks];
                        walk::add_leaf_values(program, conditions, trees.clone(), ranks, sum);
                    }
                }
            }
        }
    }
}

/// The masks of one feature's conditions: rows are put under their rank, and each condition holds for all ranks up to its own.
#[inline(always)]
fn numerical_masks(machine: impl Machine, column: &Numerical, values: &[f64; ROWS], rows: usize, masks: &mut [Mask]) {
    let num_thresholds = column.num_thresholds;
    let own = &mut masks[column.first_mask..][..num_thresholds + 1];
    own.fill(Mask::default());
    // One small pass after the other: each is short enough for many rows to be in flight.
    let mut read = [0.0; ROWS];
    let mut missing = [false; ROWS];
    for ((read, missing), value) in read.iter_mut().zip(&mut missing).zip(values) {
        (*read, *missing) = as_lightgbm_reads(*value, column.missing);
    }
    let mut ranks = [0_u32; ROWS];
    for (rank, value) in ranks[..rows].iter_mut().zip(&read) {
        *rank = column.rank(machine, *value) as u32;
    }
    let mut missing_rows = Mask::default();
    if column.missing != Missing::None {
        for (row, missing) in missing[..rows].iter().enumerate() {
            missing_rows.set(row, *missing);
            // A missing row is under no rank: it is added to all masks or to none.
            ranks[row] = if *missing { num_thresholds as u32 } else { ranks[row] };
        }
    }
    for (row, rank) in ranks[..rows].iter().enumerate() {
        own[*rank as usize].set(row, true);
    }
    let mut running = if column.defaults == Defaults::Left { missing_rows } else { Mask::default() };
    for mask in &mut own[..num_thresholds] {
        running = running.or(*mask);
        *mask = running;
    }
    if let Defaults::Both { first_left_mask } = column.defaults {
        let (right, left) = masks.split_at_mut(first_left_mask);
        let right = &right[column.first_mask..][..num_thresholds];
        for (left, right) in left.iter_mut().zip(right) {
            *left = right.or(missing_rows);
        }
    }
}

/// The value that LightGBM compares, and whether it is missing instead.
#[inline(always)]
pub(super) fn as_lightgbm_reads(value: f64, missing: Missing) -> (f64, bool) {
    let is_nan = value.is_nan();
    let value = if value.abs() <= ZERO_MAX || (is_nan && missing != Missing::Nan) { 0.0 } else { value };
    match missing {
        Missing::None => (value, false),
        Missing::Zero => (value, value == 0.0),
        Missing::Nan => (value, is_nan),
    }
}

/// The masks of one feature's category sets, from the masks of its categories.
#[inline(always)]
fn categorical_masks(
    column: &Categorical,
    values: &[f64; ROWS],
    rows: usize,
    categories: &mut [Mask],
    masks: &mut [Mask],
) {
    let categories = &mut categories[..column.categories.len() + 1];
    categories.fill(Mask::default());
    for (row, value) in values[..rows].iter().enumerate() {
        categories[column.code(*value)].set(row, true);
    }
    for (set, mask) in column.sets.iter().zip(&mut masks[column.first_mask..]) {
        let mut union = Mask::default();
        for code in &set.codes {
            union = union.or(categories[*code as usize]);
        }
        *mask = if set.negated { union.not() } else { union };
    }
}

/// Cuts the masks of a group's trees, from the roots down, into the masks of the leaves.
#[inline(always)]
fn leaf_masks(group: &Group, program: &Program, masks: &[Mask], slots: &mut [Mask; SLOTS]) {
    for tree in &group.trees {
        let first = usize::from(tree.first);
        slots[first] = Mask::ALL;
        slots[first + usize::from(tree.leaves)..first + (1 << tree.planes)].fill(Mask::default());
    }
    for cut in &program.cuts[group.cuts.clone()] {
        let condition = masks[cut.mask as usize];
        let rows = slots[usize::from(cut.source)];
        slots[usize::from(cut.source)] = rows.and(condition);
        slots[usize::from(cut.target)] = rows.and_not(condition);
    }
}

/// From the masks of a tree's slots to the slot number of each row.
#[inline(always)]
fn number_leaves(tree: Slots, slots: &[Mask; SLOTS], numbers: &mut [u8; ROWS]) {
    // The number of bits as a constant lets the compiler leave out the others.
    match tree.planes {
        3 => number_leaves_of::<3>(tree, slots, numbers),
        4 => number_leaves_of::<4>(tree, slots, numbers),
        5 => number_leaves_of::<5>(tree, slots, numbers),
        6 => number_leaves_of::<6>(tree, slots, numbers),
        7 => number_leaves_of::<7>(tree, slots, numbers),
        _ => number_leaves_of::<8>(tree, slots, numbers),
    }
}

#[inline(always)]
fn number_leaves_of<const PLANES: usize>(tree: Slots, slots: &[Mask; SLOTS], numbers: &mut [u8; ROWS]) {
    let slots = &slots[usize::from(tree.first)..][..1 << PLANES];
    let mut planes = [Mask::default(); 8];
    // The three lowest bits, eight slots at a time; the union of each eight stands for them in the higher bits.
    let mut unions = [Mask::default(); SLOTS / LANES];
    for (eight, union) in slots.as_chunks::<8>().0.iter().zip(&mut unions) {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = *eight;
        let (s23, s45, s67) = (s2.or(s3), s4.or(s5), s6.or(s7));
        planes[0] = planes[0].or(s1.or(s3)).or(s5.or(s7));
        planes[1] = planes[1].or(s23.or(s67));
        planes[2] = planes[2].or(s45.or(s67));
        *union = s0.or(s1).or(s23).or(s45.or(s67));
    }
    for (plane, bit) in planes.iter_mut().enumerate().take(PLANES).skip(3) {
        let num_unions = 1 << (PLANES - plane - 1);
        for at in 0..num_unions {
            let (low, high) = (unions[2 * at], unions[2 * at + 1]);
            *bit = bit.or(high);
            unions[at] = low.or(high);
        }
    }
    transpose(&mut planes);
    let first = u64::from_ne_bytes([tree.first; 8]);
    for (word, bytes) in planes.as_flattened_words().zip(numbers.as_chunks_mut::<LANES>().0) {
        *bytes = (word | first).to_le_bytes();
    }
}

trait Words {
    fn as_flattened_words(&self) -> impl Iterator<Item = u64>;
}

impl Words for [Mask; 8] {
    #[inline(always)]
    fn as_flattened_words(&self) -> impl Iterator<Item = u64> {
        self.iter().flat_map(|mask| mask.0)
    }
}

/// Transposes the 8 x 8 bits that each byte position of the eight planes holds: bit i of plane p becomes bit p of mask i.
#[inline(always)]
fn transpose(planes: &mut [Mask; 8]) {
    exchange::<4>(planes, 0x0f0f_0f0f_0f0f_0f0f);
    exchange::<2>(planes, 0x3333_3333_3333_3333);
    exchange::<1>(planes, 0x5555_5555_5555_5555);
}

/// Exchanges the high parts of plane p with the low parts of plane p + `DISTANCE`.
#[inline(always)]
fn exchange<const DISTANCE: usize>(planes: &mut [Mask; 8], low: u64) {
    for at in 0..8 {
        if at & DISTANCE == 0 {
            for word in 0..4 {
                let (a, b) = (planes[at].0[word], planes[at + DISTANCE].0[word]);
                let difference = (a >> DISTANCE ^ b) & low;
                planes[at].0[word] = a ^ difference << DISTANCE;
                planes[at + DISTANCE].0[word] = b ^ difference;
            }
        }
    }
}

/// Adds each row's leaf values, tree by tree.
#[inline(always)]
fn add_leaf_values(_machine: impl Machine, group: &Group, numbers: &[[u8; ROWS]], rows: usize, sums: &mut [f64; ROWS]) {
    let numbers = &numbers[..group.trees.len()];
    for (at, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate().take(rows.div_ceil(LANES)) {
        let mut lanes = *sums;
        for tree in numbers {
            let leaves = &tree.as_chunks::<LANES>().0[at];
            for lane in 0..LANES {
                lanes[lane] += group.leaf_values[usize::from(leaves[lane])];
            }
        }
        *sums = lanes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_puts_rows_in_order() {
        let mut planes = [Mask::default(); 8];
        for row in 0..ROWS {
            for (plane, mask) in planes.iter_mut().enumerate() {
                mask.set(row, row >> plane & 1 == 1);
            }
        }
        transpose(&mut planes);
        let rows: Vec<u8> = planes.as_flattened_words().flat_map(u64::to_le_bytes).collect();
        assert_eq!(rows, (0..=255).collect::<Vec<u8>>());
    }
}
