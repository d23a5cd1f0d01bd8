//! A long ring: a B+ tree of blocks in total order, by rank, with a summary per subtree, so that inserting anywhere,
//! finding a place and summing up a stretch take logarithmic time on a key with millions of rows. It refuses removal
//! except of whole first leaves.

use super::blocks::{BLOCK_ROWS_MAX, Block, Blocks, CLASS_MAX, Row, Rows};
use super::strings::Strings;

/// Children of an inner node.
const CHILDREN_MAX: usize = 32;

/// What is known of a stretch of rows without looking at them, and what follows a ring along. Summaries of the two
/// halves of a stretch merge into that of the whole, exactly.
pub trait Summarise {
    /// Of a stretch of rows.
    type Summary: std::fmt::Debug;
    /// Of one long ring: follows insertions and removals by rank.
    type Running: std::fmt::Debug + Default;

    /// The summary of no rows.
    fn empty(&self) -> Self::Summary;
    /// Adds one row.
    fn add_row(&self, summary: &mut Self::Summary, row: Row<'_>, strings: &Strings);
    /// Adds rows `from..to` of a block.
    fn add_rows(&self, summary: &mut Self::Summary, rows: &Rows<'_>, from: usize, to: usize, strings: &Strings);
    /// Adds the rows of `other`.
    fn merge(&self, summary: &mut Self::Summary, other: &Self::Summary, strings: &Strings);
    /// A row was inserted at rank `at`.
    fn inserted(&self, running: &mut Self::Running, at: usize, row: Row<'_>, strings: &Strings);
    /// The first `num` rows were removed.
    fn removed_first(&self, running: &mut Self::Running, num: usize);
    /// Bytes of a summary, about.
    fn summary_bytes(&self) -> usize;
    /// Bytes of what follows a ring, about.
    fn running_bytes(&self, running: &Self::Running) -> usize;
}

#[derive(Debug)]
enum Node<S> {
    Leaf(Block),
    Inner(Vec<Child<S>>),
}

#[derive(Debug)]
struct Child<S> {
    /// Event time of the last row.
    last_time: i64,
    rows: usize,
    summary: S,
    node: Node<S>,
}

/// The rows of one key, many of them.
#[derive(Debug)]
pub struct Tree<S> {
    root: Node<S>,
    len: usize,
    num_leaves: usize,
    /// Event time of the last row, so that rows in order need no search.
    last_time: i64,
}

/// What an insertion did to a node.
enum Inserted<S> {
    /// The row is in it.
    Here,
    /// A new node stands to the right of it; the node itself lost rows or gained one.
    SplitChanged(Child<S>),
    /// A new node with the row stands to the right of it; the node is as it was.
    SplitUnchanged(Child<S>),
}

/// What every act on a tree needs besides the tree.
#[derive(Debug)]
pub struct Around<'a, P> {
    /// Where the rows are.
    pub blocks: &'a mut Blocks,
    /// How stretches are summed up.
    pub plan: &'a P,
    /// The strings of the rows.
    pub strings: &'a Strings,
}

impl<S> Tree<S> {
    /// A tree of the rows of one block of the largest class.
    #[must_use]
    pub fn of_block(block: Block, blocks: &Blocks) -> Tree<S> {
        debug_assert_eq!(block.class, CLASS_MAX, "leaves are of the largest class");
        let len = usize::from(block.len);
        Tree { root: Node::Leaf(block), len, num_leaves: 1, last_time: blocks.rows(block).time(len - 1) }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of leaves.
    #[must_use]
    pub fn num_leaves(&self) -> usize {
        self.num_leaves
    }

    /// Its only block, if it has only one: then it is no long ring any more.
    #[must_use]
    pub fn only_block(&self) -> Option<Block> {
        match &self.root {
            Node::Leaf(block) => Some(*block),
            Node::Inner(_) => None,
        }
    }

    /// Rows whose event time is below `time`, or also at it.
    #[must_use]
    pub fn rank(&self, blocks: &Blocks, time: i64, including: bool) -> usize {
        if time > self.last_time || (including && time == self.last_time) {
            return self.len;
        }
        let mut node = &self.root;
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(block) => {
                    let rows = blocks.rows(*block);
                    return rank + if including { rows.rank_upper(time) } else { rows.rank_lower(time) };
                }
                Node::Inner(children) => {
                    let is_before = |child: &Child<S>| {
                        if including { child.last_time <= time } else { child.last_time < time }
                    };
                    let Some(at) = children.iter().position(|child| !is_before(child)) else { return self.len };
                    rank += children[..at].iter().map(|child| child.rows).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }

    /// The block that holds the row of a rank, and the row's place in it. The rank must be below the length.
    #[must_use]
    pub fn place(&self, mut rank: usize) -> (Block, usize) {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(block) => return (*block, rank),
                Node::Inner(children) => {
                    let mut at = 0;
                    while rank >= children[at].rows {
                        rank -= children[at].rows;
                        at += 1;
                    }
                    node = &children[at].node;
                }
            }
        }
    }

    /// Goes over the rows of ranks `from..to`: by summaries where a whole subtree lies within, by rows elsewhere, in
    /// order.
    pub fn visit<'b>(
        &'b self,
        blocks: &'b Blocks,
        from: usize,
        to: usize,
        on_summary: &mut impl FnMut(&'b S),
        on_rows: &mut impl FnMut(Rows<'b>, usize, usize),
    ) {
        if from < to {
            visit(&self.root, blocks, from, to, on_summary, on_rows);
        }
    }

    /// Goes over the rows of ranks `from..to`, in order, a block at a time.
    pub fn visit_rows<'b>(
        &'b self,
        blocks: &'b Blocks,
        from: usize,
        to: usize,
        on_rows: &mut impl FnMut(Rows<'b>, usize, usize),
    ) {
        if from < to {
            visit_rows(&self.root, blocks, from, to, on_rows);
        }
    }

    /// Inserts a row before the row of rank `at`.
    pub fn insert<P: Summarise<Summary = S>>(&mut self, around: &mut Around<'_, P>, at: usize, row: Row<'_>) {
        let is_append = at == self.len;
        let mut new_leaves = 0;
        let right = match insert(&mut self.root, around, at, row, is_append, &mut new_leaves) {
            Inserted::Here => None,
            Inserted::SplitChanged(right) | Inserted::SplitUnchanged(right) => Some(right),
        };
        if let Some(right) = right {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            self.root = Node::Inner(vec![child(around, left), right]);
        }
        self.len += 1;
        self.last_time = self.last_time.max(row.time);
        self.num_leaves += new_leaves;
    }

    /// The first leaf, if it is not the only one.
    #[must_use]
    pub fn first_leaf(&self) -> Option<Block> {
        let mut node = &self.root;
        if matches!(node, Node::Leaf(_)) {
            return None;
        }
        loop {
            match node {
                Node::Leaf(block) => return Some(*block),
                Node::Inner(children) => node = &children[0].node,
            }
        }
    }

    /// Takes the first leaf out. There must be more than one.
    pub fn pop_first_leaf<P: Summarise<Summary = S>>(&mut self, around: &mut Around<'_, P>) -> Option<Block> {
        let block = pop_first(&mut self.root, around)?;
        self.len -= usize::from(block.len);
        self.num_leaves -= 1;
        while let Node::Inner(children) = &mut self.root
            && children.len() == 1
            && let Some(only) = children.pop()
        {
            self.root = only.node;
        }
        Some(block)
    }

    /// Calls `act` with every block.
    pub fn for_each_block(&self, act: &mut impl FnMut(Block)) {
        fn walk<S>(node: &Node<S>, act: &mut impl FnMut(Block)) {
            match node {
                Node::Leaf(block) => act(*block),
                Node::Inner(children) => children.iter().for_each(|child| walk(&child.node, act)),
            }
        }
        walk(&self.root, act);
    }
}

fn child<P: Summarise>(around: &Around<'_, P>, node: Node<P::Summary>) -> Child<P::Summary> {
    let mut child = Child { last_time: 0, rows: 0, summary: around.plan.empty(), node };
    refresh(around, &mut child);
    child
}

/// Sums a child up again.
fn refresh<P: Summarise>(around: &Around<'_, P>, child: &mut Child<P::Summary>) {
    let mut summary = around.plan.empty();
    match &child.node {
        Node::Leaf(block) => {
            let rows = around.blocks.rows(*block);
            child.rows = rows.len();
            child.last_time = rows.time(rows.len() - 1);
            around.plan.add_rows(&mut summary, &rows, 0, rows.len(), around.strings);
        }
        Node::Inner(children) => {
            child.rows = children.iter().map(|child| child.rows).sum();
            child.last_time = children.last().map_or(i64::MIN, |child| child.last_time);
            children.iter().for_each(|child| around.plan.merge(&mut summary, &child.summary, around.strings));
        }
    }
    child.summary = summary;
}

fn insert<P: Summarise>(
    node: &mut Node<P::Summary>,
    around: &mut Around<'_, P>,
    at: usize,
    row: Row<'_>,
    is_append: bool,
    new_leaves: &mut usize,
) -> Inserted<P::Summary> {
    match node {
        Node::Leaf(block) => insert_into_leaf(block, around, at, row, is_append, new_leaves),
        Node::Inner(children) => {
            let (mut index, mut at) = (0, at);
            while at > children[index].rows {
                at -= children[index].rows;
                index += 1;
            }
            let own = &mut children[index];
            let right = match insert(&mut own.node, around, at, row, is_append, new_leaves) {
                Inserted::Here => {
                    own.rows += 1;
                    own.last_time = own.last_time.max(row.time);
                    around.plan.add_row(&mut own.summary, row, around.strings);
                    return Inserted::Here;
                }
                Inserted::SplitUnchanged(right) => right,
                Inserted::SplitChanged(right) => {
                    refresh(around, own);
                    right
                }
            };
            children.insert(index + 1, right);
            if children.len() <= CHILDREN_MAX {
                // The node as a whole gained one row and lost none.
                return Inserted::Here;
            }
            // Rows that come in order leave full nodes behind.
            let keep = if is_append { children.len() - 1 } else { children.len() / 2 };
            let right = children.split_off(keep);
            Inserted::SplitChanged(child(around, Node::Inner(right)))
        }
    }
}

fn insert_into_leaf<P: Summarise>(
    block: &mut Block,
    around: &mut Around<'_, P>,
    at: usize,
    row: Row<'_>,
    is_append: bool,
    new_leaves: &mut usize,
) -> Inserted<P::Summary> {
    if !Blocks::is_full(*block) {
        around.blocks.insert(block, at, row);
        return Inserted::Here;
    }
    *new_leaves += 1;
    let mut right = around.blocks.allocate_leaf();
    if is_append {
        around.blocks.insert(&mut right, 0, row);
        return Inserted::SplitUnchanged(child(around, Node::Leaf(right)));
    }
    let half = BLOCK_ROWS_MAX / 2;
    around.blocks.move_rows(block, half, &mut right);
    if at <= half {
        around.blocks.insert(block, at, row);
    } else {
        around.blocks.insert(&mut right, at - half, row);
    }
    Inserted::SplitChanged(child(around, Node::Leaf(right)))
}

fn pop_first<P: Summarise>(node: &mut Node<P::Summary>, around: &mut Around<'_, P>) -> Option<Block> {
    let Node::Inner(children) = node else { return None };
    if let Node::Leaf(block) = children.first()?.node {
        children.remove(0);
        return Some(block);
    }
    let first = children.first_mut()?;
    let block = pop_first(&mut first.node, around);
    if matches!(&first.node, Node::Inner(children) if children.is_empty()) {
        children.remove(0);
    } else {
        refresh(around, first);
    }
    block
}

fn visit<'b, S>(
    node: &'b Node<S>,
    blocks: &'b Blocks,
    from: usize,
    to: usize,
    on_summary: &mut impl FnMut(&'b S),
    on_rows: &mut impl FnMut(Rows<'b>, usize, usize),
) {
    match node {
        Node::Leaf(block) => on_rows(blocks.rows(*block), from, to),
        Node::Inner(children) => over_children(children, from, to, &mut |child, from, to| {
            if (from, to) == (0, child.rows) {
                on_summary(&child.summary);
            } else {
                visit(&child.node, blocks, from, to, on_summary, on_rows);
            }
        }),
    }
}

fn visit_rows<'b, S>(
    node: &'b Node<S>,
    blocks: &'b Blocks,
    from: usize,
    to: usize,
    on_rows: &mut impl FnMut(Rows<'b>, usize, usize),
) {
    match node {
        Node::Leaf(block) => on_rows(blocks.rows(*block), from, to),
        Node::Inner(children) => over_children(children, from, to, &mut |child, from, to| {
            visit_rows(&child.node, blocks, from, to, on_rows);
        }),
    }
}

/// Calls `act` with each child that has rows within `from..to`, and those rows.
fn over_children<'b, S>(
    children: &'b [Child<S>],
    from: usize,
    to: usize,
    act: &mut dyn FnMut(&'b Child<S>, usize, usize),
) {
    let mut start = 0;
    for child in children {
        let end = start + child.rows;
        if end > from && start < to {
            act(child, from.max(start) - start, to.min(end) - start);
        }
        if end >= to {
            return;
        }
        start = end;
    }
}
