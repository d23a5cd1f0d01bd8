//! Trees compiled for the two scorers: groups of bit-sliced trees, and nodes to walk.
//!
//! Trees are taken class by class, each class in the file's order: the sum of a class is then LightGBM's own, addition by
//! addition.

use super::condition::{Condition, Conditions};
use super::tree::{Child, Tree};

/// A group's slots are numbered by a byte.
pub(super) const SLOTS: usize = 256;

/// Slots are read in eights.
const SLOTS_MIN: usize = 8;

/// One split of a leaf slot: rows of `source` that fail the condition move to `target`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) mask: u32,
    pub(super) source: u8,
    pub(super) target: u8,
}

/// The slots of one tree in its group: a power of two, at least eight, starting at a multiple of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    pub(super) first: u8,
    /// How many bits number them: 3 to 8.
    pub(super) planes: u8,
    pub(super) leaves: u16,
}

/// Trees that are bit-sliced together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) trees: Vec<Slots>,
    pub(super) cuts: std::ops::Range<usize>,
    pub(super) leaf_values: Box<[f64; SLOTS]>,
}

/// A part of the ensemble, in the order of addition.
#[derive(Debug)]
pub(super) enum Part {
    Group(Group),
    /// Trees of more leaves than a group has slots: walked.
    Walk(std::ops::Range<usize>),
}

/// A node to walk: go on at `next` if the rank is at most `limit`, else at the node after it. A leaf goes on at itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// The position of the rank to look at; the highest bit marks a category set.
    pub(super) rank: u32,
    pub(super) limit: u32,
    pub(super) next: u32,
}

pub(super) const CATEGORICAL: u32 = 1 << 31;

/// Trees that are walked side by side.
pub(super) const WALK_TREES: usize = 8;

#[derive(Debug, Clone, Copy)]
pub(super) struct WalkTree {
    pub(super) root: u32,
    pub(super) depth: u32,
}

#[derive(Debug, Default)]
pub(super) struct Program {
    /// Per class.
    pub(super) parts: Vec<Vec<Part>>,
    pub(super) cuts: Vec<Cut>,
    /// Per class, ranges of `walk_trees`.
    pub(super) walks: Vec<std::ops::Range<usize>>,
    pub(super) walk_trees: Vec<WalkTree>,
    pub(super) nodes: Vec<Node>,
    /// By node; 0 where a node is no leaf.
    pub(super) values: Vec<f64>,
    pub(super) has_large_trees: bool,
}

impl Program {
    pub(super) fn compile(trees: &[Tree], num_classes: usize, conditions: &Conditions) -> Self {
        let mut program = Self::default();
        for class in 0..num_classes {
            let first = program.walk_trees.len();
            let mut parts = Vec::new();
            let mut open = OpenGroup::default();
            for tree in trees.iter().skip(class).step_by(num_classes) {
                let at = program.walk_trees.len();
                program.add_walk_tree(tree, conditions);
                if tree.leaf_values.len() > SLOTS {
                    program.close(&mut open, &mut parts);
                    program.has_large_trees = true;
                    match parts.last_mut() {
                        Some(Part::Walk(range)) => range.end = at + 1,
                        _ => parts.push(Part::Walk(at..at + 1)),
                    }
                } else if !open.add(tree, conditions) {
                    program.close(&mut open, &mut parts);
                    open.add(tree, conditions);
                }
            }
            program.close(&mut open, &mut parts);
            program.parts.push(parts);
            program.walks.push(first..program.walk_trees.len());
        }
        program
    }

    fn close(&mut self, open: &mut OpenGroup, parts: &mut Vec<Part>) {
        let group = std::mem::take(open);
        if group.trees.is_empty() {
            return;
        }
        let first = self.cuts.len();
        // Level by level over all trees: the chain of dependent cuts of one tree hides behind the others'.
        self.cuts.extend(group.levels.into_iter().flatten());
        let mut leaf_values = Box::new([0.0; SLOTS]);
        leaf_values[..group.leaf_values.len()].copy_from_slice(&group.leaf_values);
        parts.push(Part::Group(Group { trees: group.trees, cuts: first..self.cuts.len(), leaf_values }));
    }

    /// Places the nodes level by level, siblings side by side.
    fn add_walk_tree(&mut self, tree: &Tree, conditions: &Conditions) {
        let root = self.nodes.len() as u32;
        let mut depth = 0;
        let mut level = vec![tree.root()];
        loop {
            let mut below = Vec::new();
            let mut next = (self.nodes.len() + level.len()) as u32;
            for child in level {
                match child {
                    Child::Leaf(leaf) => {
                        // Whatever the rank, it is at most this limit.
                        let own = self.nodes.len() as u32;
                        self.nodes.push(Node { rank: 0, limit: u32::MAX, next: own });
                        self.values.push(tree.leaf_values[leaf]);
                    }
                    Child::Split(at) => {
                        let split = &tree.splits[at];
                        let condition = conditions.of(tree, split.feature, &split.rule);
                        let mark = if condition.categorical { CATEGORICAL } else { 0 };
                        self.nodes.push(Node { rank: condition.rank | mark, limit: condition.limit, next });
                        self.values.push(0.0);
                        below.extend([split.left, split.right]);
                        next += 2;
                    }
                }
            }
            if below.is_empty() {
                break;
            }
            depth += 1;
            level = below;
        }
        self.walk_trees.push(WalkTree { root, depth });
    }
}

/// A group that still takes trees.
#[derive(Default)]
struct OpenGroup {
    trees: Vec<Slots>,
    /// Cuts by their depth in their tree.
    levels: Vec<Vec<Cut>>,
    /// By slot; its length is the number of slots taken.
    leaf_values: Vec<f64>,
}

impl OpenGroup {
    /// False if the tree does not fit any more.
    fn add(&mut self, tree: &Tree, conditions: &Conditions) -> bool {
        let size = tree.leaf_values.len().next_power_of_two().max(SLOTS_MIN);
        let first = self.leaf_values.len().next_multiple_of(size);
        if first + size > SLOTS {
            return false;
        }
        self.leaf_values.resize(first + size, 0.0);
        self.trees.push(Slots {
            first: first as u8,
            planes: size.ilog2() as u8,
            leaves: tree.leaf_values.len() as u16,
        });
        let mut next_slot = first + 1;
        let mut level = vec![(tree.root(), first)];
        for depth in 0.. {
            let mut below = Vec::new();
            for (child, slot) in level {
                match child {
                    Child::Leaf(leaf) => self.leaf_values[slot] = tree.leaf_values[leaf],
                    Child::Split(at) => {
                        let split = &tree.splits[at];
                        let Condition { mask, .. } = conditions.of(tree, split.feature, &split.rule);
                        if self.levels.len() <= depth {
                            self.levels.push(Vec::new());
                        }
                        let target = next_slot as u8;
                        self.levels[depth].push(Cut { mask, source: slot as u8, target });
                        below.extend([(split.left, slot), (split.right, next_slot)]);
                        next_slot += 1;
                    }
                }
            }
            if below.is_empty() {
                return true;
            }
            level = below;
        }
        true
    }
}
