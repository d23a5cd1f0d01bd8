//! Walking trees row by row: for few rows, where a block would be mostly empty, and for trees too large for a block.
//!
//! A row's values are turned into ranks once; a node then compares two small integers, whatever its rule for missing values.
//! Several trees are walked side by side, without branches on data, so that their loads overlap.

use super::block::as_lightgbm_reads;
use super::condition::{Conditions, Defaults, Numerical};
use super::kernel::{Machine, Task};
use super::program::{CATEGORICAL, Node, Program, WALK_TREES};

/// The ranks of one feature's value in a row's ranks: one, or two where splits default to both sides.
#[inline(always)]
pub(super) fn numerical_ranks(machine: impl Machine, column: &Numerical, value: f64, ranks: &mut [u32]) {
    let (value, missing) = as_lightgbm_reads(value, column.missing);
    let rank = column.rank(machine, value) as u32;
    let (right, left) = if missing { (u32::MAX, 0) } else { (rank, rank) };
    match column.defaults {
        Defaults::Right => ranks[column.first_rank] = right,
        Defaults::Left => ranks[column.first_rank] = left,
        Defaults::Both { .. } => {
            ranks[column.first_rank] = right;
            ranks[column.first_rank + 1] = left;
        }
    }
}

/// Leaves the sums of one row, whose values `value` gives by feature, in `sums`, one per class.
pub(super) struct SumRow<'a, V> {
    pub(super) program: &'a Program,
    pub(super) conditions: &'a Conditions,
    pub(super) value: V,
    pub(super) ranks: &'a mut [u32],
    pub(super) sums: &'a mut [f64],
}

impl<V: Fn(usize) -> f64> Task for SumRow<'_, V> {
    #[inline(always)]
    fn run(self, machine: impl Machine) {
        let Self { program, conditions, value, ranks, sums } = self;
        for column in &conditions.numerical {
            numerical_ranks(machine, column, value(column.feature), ranks);
        }
        for column in &conditions.categorical {
            ranks[column.first_rank] = column.code(value(column.feature)) as u32;
        }
        for (sum, trees) in sums.iter_mut().zip(&program.walks) {
            *sum = 0.0;
            add_leaf_values(program, conditions, trees.clone(), ranks, sum);
        }
    }
}

/// Adds the leaf values of a row in `trees`, in order.
#[inline(always)]
pub(super) fn add_leaf_values(
    program: &Program,
    conditions: &Conditions,
    trees: std::ops::Range<usize>,
    ranks: &[u32],
    sum: &mut f64,
) {
    if conditions.categorical.is_empty() {
        add_leaf_values_by(program, trees, sum, |node| ranks[node.rank as usize] <= node.limit);
    } else {
        add_leaf_values_by(program, trees, sum, |node| {
            let rank = ranks[(node.rank & !CATEGORICAL) as usize];
            if node.rank & CATEGORICAL == 0 {
                rank <= node.limit
            } else {
                conditions.set_words[node.limit as usize + rank as usize / 64] >> (rank % 64) & 1 == 1
            }
        });
    }
}

#[inline(always)]
fn add_leaf_values_by(
    program: &Program,
    trees: std::ops::Range<usize>,
    sum: &mut f64,
    goes_first: impl Fn(&Node) -> bool,
) {
    for trees in program.walk_trees[trees].chunks(WALK_TREES) {
        let mut places = [0_u32; WALK_TREES];
        let mut depth = 0;
        for (place, tree) in places.iter_mut().zip(trees) {
            *place = tree.root;
            depth = depth.max(tree.depth);
        }
        for _ in 0..depth {
            for place in &mut places {
                // A finished tree stays at its leaf.
                let node = &program.nodes[*place as usize];
                *place = node.next + u32::from(!goes_first(node));
            }
        }
        for place in &places[..trees.len()] {
            *sum += program.values[*place as usize];
        }
    }
}
