//! The retained rows of a key, in total order: nothing, one block, or, beyond 64 rows, a tree of blocks. Ranks count
//! from the oldest row. It refuses to decide what may be removed; the operator says how many of the first rows it needs
//! no more.

use super::blocks::{BLOCK_ROWS_MAX, Block, Blocks, CLASS_MAX, Moved, Row, RowLayout, Rows};
use super::slab::Slab;
use super::strings::Strings;
use super::tree::{Around, Summarise, Tree};

/// Where the rows of one key are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ring {
    /// It has none.
    #[default]
    Empty,
    /// In one block.
    Short(Block),
    /// In the tree of this number.
    Long(u32),
}

/// A long ring: its tree, and what follows it along.
#[derive(Debug)]
pub struct Long<P: Summarise> {
    /// The rows.
    pub tree: Tree<P::Summary>,
    /// What follows insertions and removals.
    pub running: P::Running,
    /// Bytes of `running` when they were last counted.
    counted_bytes: usize,
}

/// The rings of one state unit.
#[derive(Debug)]
pub struct Rings<P: Summarise> {
    blocks: Blocks,
    long: Slab<Option<Box<Long<P>>>>,
    num_leaves: usize,
    /// Bytes of what follows the long ones, as last counted.
    running_bytes: usize,
}

impl Ring {
    /// Tells the ring that its block has another number now.
    pub fn set_block(&mut self, id: u32) {
        if let Ring::Short(block) = self {
            block.id = id;
        }
    }
}

impl<P: Summarise> Rings<P> {
    /// No rings.
    #[must_use]
    pub fn new(layout: RowLayout) -> Rings<P> {
        Rings { blocks: Blocks::new(layout), long: Slab::default(), num_leaves: 0, running_bytes: 0 }
    }

    /// Where the rows are.
    #[inline(always)]
    #[must_use]
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// A long ring.
    #[inline]
    #[must_use]
    pub fn long(&self, id: u32) -> Option<&Long<P>> {
        self.long[id].as_deref()
    }

    /// A long ring whose running state may change, and the blocks that its rows are in.
    #[inline]
    pub fn long_mut(&mut self, id: u32) -> (Option<&mut Long<P>>, &Blocks) {
        (self.long[id].as_deref_mut(), &self.blocks)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self, ring: Ring) -> usize {
        match ring {
            Ring::Empty => 0,
            Ring::Short(block) => usize::from(block.len),
            Ring::Long(id) => self.long(id).map_or(0, |long| long.tree.len()),
        }
    }

    /// Rows whose event time is below `time`.
    #[must_use]
    pub fn rank_lower(&self, ring: Ring, time: i64) -> usize {
        match ring {
            Ring::Empty => 0,
            Ring::Short(block) => self.blocks.rows(block).rank_lower(time),
            Ring::Long(id) => self.long(id).map_or(0, |long| long.tree.rank(&self.blocks, time, false)),
        }
    }

    /// Rows whose event time is at or below `time`.
    #[must_use]
    pub fn rank_upper(&self, ring: Ring, time: i64) -> usize {
        match ring {
            Ring::Empty => 0,
            Ring::Short(block) => self.blocks.rows(block).rank_upper(time),
            Ring::Long(id) => self.long(id).map_or(0, |long| long.tree.rank(&self.blocks, time, true)),
        }
    }

    /// Event time of the newest row.
    #[must_use]
    pub fn newest(&self, ring: Ring) -> Option<i64> {
        let (block, lane) = match ring {
            Ring::Empty => return None,
            Ring::Short(block) => (block, usize::from(block.len) - 1),
            Ring::Long(id) => self.long(id).map(|long| long.tree.place(long.tree.len() - 1))?,
        };
        Some(self.blocks.rows(block).time(lane))
    }

    /// Goes over all rows, in order, a block at a time.
    pub fn for_each_block(&self, ring: Ring, act: &mut impl FnMut(Rows<'_>)) {
        match ring {
            Ring::Empty => {}
            Ring::Short(block) => act(self.blocks.rows(block)),
            Ring::Long(id) => {
                if let Some(long) = self.long(id) {
                    long.tree.for_each_block(&mut |block| act(self.blocks.rows(block)));
                }
            }
        }
    }

    /// Whether a row more needs more memory, so that it is time to remove what is needed no more.
    #[inline(always)]
    #[must_use]
    pub fn is_time_to_remove(&self, ring: Ring) -> bool {
        match ring {
            Ring::Empty => false,
            Ring::Short(block) => Blocks::is_full(block),
            Ring::Long(id) => self.long(id).is_some_and(|long| long.tree.len() % (BLOCK_ROWS_MAX / 2) == 0),
        }
    }

    /// Counts the bytes of what follows a ring again, after it was asked something.
    #[inline(always)]
    pub fn count_bytes(&mut self, ring: Ring, plan: &P) {
        if let Ring::Long(id) = ring
            && let Some(long) = &mut self.long[id]
        {
            let bytes = plan.running_bytes(&long.running);
            self.running_bytes = self.running_bytes + bytes - long.counted_bytes;
            long.counted_bytes = bytes;
        }
    }

    /// Inserts a row before the row of rank `at` of the ring of slot `slot`. Another slot's block may move:
    /// [`Rings::take_moved`].
    #[inline]
    pub fn insert(&mut self, slot: u32, ring: &mut Ring, at: usize, row: Row<'_>, plan: &P, strings: &Strings) {
        match ring {
            Ring::Short(block) if !Blocks::is_full(*block) => self.blocks.insert(block, at, row),
            _ => self.insert_growing(slot, ring, at, row, plan, strings),
        }
    }

    /// The block that an insertion or removal moved, once: its owner's ring has to be told.
    #[inline(always)]
    pub fn take_moved(&mut self) -> Option<Moved> {
        self.blocks.take_moved()
    }

    fn insert_growing(&mut self, slot: u32, ring: &mut Ring, at: usize, row: Row<'_>, plan: &P, strings: &Strings) {
        match ring {
            Ring::Empty => {
                let mut block = self.blocks.allocate(0, slot);
                self.blocks.insert(&mut block, at, row);
                *ring = Ring::Short(block);
            }
            Ring::Short(block) if block.class < CLASS_MAX => {
                let mut larger = self.move_to_class(slot, *block, block.class + 1);
                self.blocks.insert(&mut larger, at, row);
                *ring = Ring::Short(larger);
            }
            Ring::Short(block) => {
                let (tree, running) = (Tree::of_block(*block, &self.blocks), P::Running::default());
                let long = Long { tree, running, counted_bytes: 0 };
                self.num_leaves += 1;
                *ring = Ring::Long(self.long.insert(Some(Box::new(long))));
                self.insert_growing(slot, ring, at, row, plan, strings);
            }
            Ring::Long(id) => {
                let Rings { blocks, long, num_leaves, .. } = self;
                if let Some(long) = &mut long[*id] {
                    let before = long.tree.num_leaves();
                    long.tree.insert(&mut Around { blocks, plan, strings }, at, row);
                    plan.inserted(&mut long.running, at, row, strings);
                    *num_leaves += long.tree.num_leaves() - before;
                }
            }
        }
    }

    /// Removes at most the first `num` rows; of a long ring only whole leaves, so some may stay. Calls `on_removed`
    /// with the rows before they go.
    pub fn remove_first(
        &mut self,
        ring: &mut Ring,
        num: usize,
        plan: &P,
        strings: &mut Strings,
        on_removed: &mut impl FnMut(&Rows<'_>, usize, &mut Strings),
    ) {
        let mut num = num;
        if let Ring::Long(id) = *ring {
            while let Some(first) = self.long(id).and_then(|long| long.tree.first_leaf())
                && usize::from(first.len) <= num
            {
                on_removed(&self.blocks.rows(first), usize::from(first.len), strings);
                num -= usize::from(first.len);
                let Rings { blocks, long, num_leaves, .. } = self;
                if let Some(long) = &mut long[id] {
                    long.tree.pop_first_leaf(&mut Around { blocks, plan, strings });
                    plan.removed_first(&mut long.running, usize::from(first.len));
                }
                *num_leaves -= 1;
                self.blocks.free(first);
            }
            let Some(only) = self.long(id).and_then(|long| long.tree.only_block()) else { return };
            let long = self.long.remove(id, None);
            self.running_bytes -= long.map_or(0, |long| long.counted_bytes);
            self.num_leaves -= 1;
            *ring = Ring::Short(only);
        }
        if let Ring::Short(block) = ring
            && num > 0
        {
            on_removed(&self.blocks.rows(*block), num, strings);
            self.blocks.remove_first(block, num);
            if block.len == 0 {
                self.blocks.free(*block);
                *ring = Ring::Empty;
            }
        }
    }

    /// Moves the rows of a short ring to the smallest block that holds one row more, if that is much smaller.
    pub fn shrink(&mut self, slot: u32, ring: &mut Ring) {
        if let Ring::Short(block) = ring {
            let class = Blocks::class_for(usize::from(block.len) + 1);
            if class + 1 < block.class {
                *block = self.move_to_class(slot, *block, class);
            }
        }
    }

    /// Bytes that the rows of one key take.
    #[must_use]
    pub fn ring_bytes(&self, ring: Ring, plan: &P) -> usize {
        match ring {
            Ring::Empty => 0,
            Ring::Short(block) => self.blocks.block_bytes(block.class),
            Ring::Long(id) => {
                let leaves = self.long(id).map_or(0, |long| long.tree.num_leaves());
                let running = self.long(id).map_or(0, |long| long.counted_bytes);
                leaves * (self.blocks.block_bytes(CLASS_MAX) + plan.summary_bytes()) + running
            }
        }
    }

    /// Bytes of all rings.
    #[must_use]
    pub fn bytes(&self, plan: &P) -> usize {
        self.blocks.bytes() + self.long.bytes() + self.num_leaves * plan.summary_bytes() + self.running_bytes
    }

    fn move_to_class(&mut self, slot: u32, block: Block, class: u8) -> Block {
        let mut block = block;
        let mut target = self.blocks.allocate(class, slot);
        self.blocks.move_rows(&mut block, 0, &mut target);
        self.blocks.free(block);
        target
    }
}
