//! Walking trees row by row: for few rows, where a block would be mostly empty, and for trees too large for a block.
//!
//! A row's values are turned into ranks once; a node then compares two small integers, whatever its rule for missing values.
//! Several trees are walked side by side, without branches on data, so that their loads overlap.

use super::block::as_lightgbm_reads;
use super::condition::{Conditions, Defaults, Numerical};
use super::program::{CATEGORICAL, Node, Program, WALK_TREES};

/// The ranks of one feature's value in a row's ranks: one, or two where splits default to both sides.
#[inline(always)]
pub(super) fn numerical_ranks(column: &Numerical, value: f64, ranks: &mut [u32]) {
    let (value, missing) = as_lightgbm_reads(value, column.missing);
    let rank = column.rank(value) as u32;
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

/// The ranks of one row, whose values `value` gives by feature.
pub(super) fn row_ranks(conditions: &Conditions, value: impl Fn(usize) -> f64, ranks: &mut [u32]) {
    for column in &conditions.numerical {
        numerical_ranks(column, value(column.feature), ranks);
    }
    for column in &conditions.categorical {
        ranks[column.first_rank] = column.code(value(column.feature)) as u32;
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
    for trees in program.walk_trees[trees].chunks(WALK_TREES) {
        let mut places = [-1_i32; WALK_TREES];
        let mut depth = 0;
        for (place, tree) in places.iter_mut().zip(trees) {
            *place = tree.root;
            depth = depth.max(tree.depth);
        }
        for _ in 0..depth {
            for place in &mut places {
                // A finished tree looks at some node and stays where it is.
                let node = program.nodes[(*place).max(0) as usize];
                let next = if goes_left(node, conditions, ranks) { node.left } else { node.right };
                *place = if *place < 0 { *place } else { next };
            }
        }
        for place in &places[..trees.len()] {
            *sum += program.leaf_values[!*place as usize];
        }
    }
}

#[inline(always)]
fn goes_left(node: Node, conditions: &Conditions, ranks: &[u32]) -> bool {
    let rank = ranks[(node.rank & !CATEGORICAL) as usize];
    if node.rank & CATEGORICAL == 0 {
        rank <= node.limit
    } else {
        conditions.set_words[node.limit as usize + rank as usize / 64] >> (rank % 64) & 1 == 1
    }
}
