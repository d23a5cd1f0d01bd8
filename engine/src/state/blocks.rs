//! Blocks of retained rows: columns of up to 64 rows side by side in one piece of memory, in total order, from slabs by
//! size with free lists. A row costs eight bytes for its event time and eight per retained column; which rows are null
//! or filtered is one bit each. It refuses positions: rows of a state unit arrive in the order of their positions, so
//! among equal event times the order of arrival is the order of positions, and a new row stands behind its peers.

/// Rows of the largest block, and of a leaf of a long ring: as many as a word has bits.
pub const BLOCK_ROWS_MAX: usize = 64;

/// Rows of the blocks, by size class. A ring moves to the next class when it is full.
const CLASS_ROWS: [usize; 8] = [4, 8, 12, 16, 24, 32, 48, BLOCK_ROWS_MAX];

/// The class of the largest blocks.
pub const CLASS_MAX: u8 = CLASS_ROWS.len() as u8 - 1;

/// Bytes of a page of blocks, about. Growth by one page is no visible pause.
const PAGE_BYTES: usize = 32 * 1024;

/// What a block holds per row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLayout {
    /// Retained columns of one word each.
    pub num_words: usize,
    /// Columns of one bit each: whether each retained column is not null, then the filters.
    pub num_bits: usize,
}

/// A row that is not in a block.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Microseconds since the epoch.
    pub time: i64,
    /// One word per retained column; zero where null.
    pub words: &'a [u64],
    /// Bit `i` is the value of bit column `i`.
    pub bits: u64,
}

/// Rows `0..len` of one block, in total order.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The columns of bits, one word each; then the event times, then the retained columns, `rows_max` words each.
    block: &'a [u64],
    rows_max: usize,
    times_at: usize,
    len: usize,
}

impl<'a> Rows<'a> {
    /// Number of rows.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Event time of a row, microseconds.
    #[inline(always)]
    #[must_use]
    pub fn time(&self, row: usize) -> i64 {
        self.block[self.times_at + row] as i64
    }

    /// A retained column.
    #[inline(always)]
    #[must_use]
    pub fn column(&self, column: usize) -> &'a [u64] {
        let start = self.times_at + (1 + column) * self.rows_max;
        &self.block[start..start + self.len]
    }

    /// A column of bits, row `i` in bit `i`.
    #[inline(always)]
    #[must_use]
    pub fn bits(&self, column: usize) -> u64 {
        self.block[column]
    }

    /// Rows whose event time is below `time`.
    #[inline(always)]
    #[must_use]
    pub fn rank_lower(&self, time: i64) -> usize {
        self.rank(|row_time| row_time < time)
    }

    /// Rows whose event time is at or below `time`.
    #[inline(always)]
    #[must_use]
    pub fn rank_upper(&self, time: i64) -> usize {
        self.rank(|row_time| row_time <= time)
    }

    #[inline(always)]
    fn rank(&self, is_before: impl Fn(i64) -> bool) -> usize {
        let times = &self.block[self.times_at..self.times_at + self.len];
        if times.len() <= 16 {
            // Counting has no branch to guess wrong.
            times.iter().map(|time| usize::from(is_before(*time as i64))).sum()
        } else {
            times.partition_point(|time| is_before(*time as i64))
        }
    }
}

/// Bits `from..to` set, where `to <= 64`.
#[inline(always)]
#[must_use]
pub fn mask(from: usize, to: usize) -> u64 {
    if from >= to { 0 } else { (u64::MAX >> (64 - (to - from))) << from }
}

#[derive(Debug)]
struct Class {
    rows_max: usize,
    /// Words of a block.
    stride: usize,
    page_shift: u32,
    pages: Vec<Box<[u64]>>,
    /// Blocks that there are. Of all classes but the largest each is in use.
    num_blocks: u32,
    /// The largest class only, whose blocks may be leaves and stay where they are: number of the first free block plus
    /// one; the first word of a free block is the number of the next plus one.
    free: u32,
}

impl Class {
    fn new(rows_max: usize, layout: RowLayout) -> Class {
        let stride = rows_max * (1 + layout.num_words) + layout.num_bits + OWNER_WORDS;
        let page_shift = (PAGE_BYTES / (stride * size_of::<u64>())).max(4).ilog2();
        Class { rows_max, stride, page_shift, pages: Vec::new(), num_blocks: 0, free: 0 }
    }

    #[inline(always)]
    fn place(&self, id: u32) -> (usize, usize) {
        let lane = id & ((1 << self.page_shift) - 1);
        ((id >> self.page_shift) as usize, lane as usize * self.stride)
    }

    #[inline(always)]
    fn block(&self, id: u32) -> &[u64] {
        let (page, start) = self.place(id);
        &self.pages[page][start..start + self.stride]
    }

    #[inline(always)]
    fn block_mut(&mut self, id: u32) -> &mut [u64] {
        let (page, start) = self.place(id);
        &mut self.pages[page][start..start + self.stride]
    }

    fn allocate(&mut self, owner: u32) -> u32 {
        if self.free != 0 {
            let id = self.free - 1;
            self.free = self.block(id)[0] as u32;
            return id;
        }
        let id = self.num_blocks;
        if (id >> self.page_shift) as usize == self.pages.len() {
            self.pages.push(vec![0; self.stride << self.page_shift].into());
        }
        self.num_blocks += 1;
        let owner_at = self.stride - OWNER_WORDS;
        self.block_mut(id)[owner_at] = u64::from(owner);
        id
    }

    fn free_in_place(&mut self, id: u32) {
        let next = u64::from(self.free);
        self.block_mut(id)[0] = next;
        self.free = id + 1;
    }

    /// Frees a block by moving the last one into its place. Gives the owner of the block that moved, if one did.
    fn free_dense(&mut self, id: u32) -> Option<u32> {
        self.num_blocks -= 1;
        let last = self.num_blocks;
        let mut owner = None;
        if id != last {
            let (page, start) = self.place(last);
            let (to_page, to) = self.place(id);
            if page == to_page {
                self.pages[page].copy_within(start..start + self.stride, to);
            } else {
                let (before, after) = self.pages.split_at_mut(page);
                before[to_page][to..to + self.stride].copy_from_slice(&after[0][start..start + self.stride]);
            }
            owner = Some(self.block(id)[self.stride - OWNER_WORDS] as u32);
        }
        // One page is kept free, so that one block that comes and goes does not make a page come and go.
        let pages_needed = (last >> self.page_shift) as usize + 2;
        self.pages.truncate(pages_needed);
        owner
    }

    fn page_bytes(&self) -> usize {
        (self.stride << self.page_shift) * size_of::<u64>()
    }
}

/// Words at the end of a block that say whose it is.
const OWNER_WORDS: usize = 1;

/// A block of another owner that took the place of a freed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The slot whose ring it is.
    pub slot: u32,
    /// Its new number within its class.
    pub id: u32,
}

/// The blocks of one state unit.
#[derive(Debug)]
pub struct Blocks {
    layout: RowLayout,
    classes: Vec<Class>,
    /// Where the last freed block's place was taken by another one.
    moved: Option<Moved>,
}

/// One block: its class, its number within the class, and how many rows it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Number within the class.
    pub id: u32,
    /// Size class.
    pub class: u8,
    /// Rows held.
    pub len: u8,
}

impl Blocks {
    /// No blocks.
    #[must_use]
    pub fn new(layout: RowLayout) -> Blocks {
        let classes = CLASS_ROWS.iter().map(|rows_max| Class::new(*rows_max, layout)).collect();
        Blocks { layout, classes, moved: None }
    }

    /// What a block holds per row.
    #[must_use]
    pub fn layout(&self) -> RowLayout {
        self.layout
    }

    /// The smallest class for `rows` rows.
    #[must_use]
    pub fn class_for(rows: usize) -> u8 {
        CLASS_ROWS.iter().position(|rows_max| rows <= *rows_max).unwrap_or(usize::from(CLASS_MAX)) as u8
    }

    /// An empty block of a class for the ring of the slot `owner`.
    pub fn allocate(&mut self, class: u8, owner: u32) -> Block {
        Block { id: self.classes[usize::from(class)].allocate(owner), class, len: 0 }
    }

    /// An empty block for a leaf.
    pub fn allocate_leaf(&mut self) -> Block {
        self.allocate(CLASS_MAX, u32::MAX)
    }

    /// Gives a block back. Blocks lie without gaps, so that memory follows what is held: another block may move into
    /// its place, which the owner must be told before the next block is freed ([`Blocks::take_moved`]).
    pub fn free(&mut self, block: Block) {
        debug_assert!(self.moved.is_none(), "who owns the block that moved has been told");
        let class = &mut self.classes[usize::from(block.class)];
        if block.class == CLASS_MAX {
            class.free_in_place(block.id);
        } else {
            self.moved = class.free_dense(block.id).map(|slot| Moved { slot, id: block.id });
        }
    }

    /// The block that moved when the last one was freed, once.
    #[inline(always)]
    pub fn take_moved(&mut self) -> Option<Moved> {
        self.moved.take()
    }

    /// Whether no row fits any more.
    #[inline(always)]
    #[must_use]
    pub fn is_full(block: Block) -> bool {
        usize::from(block.len) == CLASS_ROWS[usize::from(block.class)]
    }

    /// The rows of a block.
    #[inline(always)]
    #[must_use]
    pub fn rows(&self, block: Block) -> Rows<'_> {
        let class = &self.classes[usize::from(block.class)];
        Rows {
            block: class.block(block.id),
            rows_max: class.rows_max,
            times_at: self.layout.num_bits,
            len: usize::from(block.len),
        }
    }

    /// Reads a word of each cache line of a block, so that they are in the cache when its rows are looked at.
    #[inline(always)]
    #[must_use]
    pub fn touch(&self, block: Block) -> u64 {
        const LINE_WORDS: usize = 8;
        const LINES_MAX: usize = 12;
        let words = self.classes[usize::from(block.class)].block(block.id);
        words.iter().step_by(LINE_WORDS).take(LINES_MAX).fold(0, |touched, word| touched ^ word)
    }

    /// Inserts a row before row `at`. The block must not be full.
    #[inline]
    pub fn insert(&mut self, block: &mut Block, at: usize, row: Row<'_>) {
        let len = usize::from(block.len);
        let class = &mut self.classes[usize::from(block.class)];
        let rows_max = class.rows_max;
        let (bits, words) = class.block_mut(block.id).split_at_mut(self.layout.num_bits);
        let (times, columns) = words.split_at_mut(rows_max);
        times.copy_within(at..len, at + 1);
        times[at] = row.time as u64;
        for (column, word) in columns.chunks_exact_mut(rows_max).zip(row.words) {
            column.copy_within(at..len, at + 1);
            column[at] = *word;
        }
        let below = mask(0, at);
        for (column, to) in bits.iter_mut().enumerate() {
            *to = (*to & below) | ((row.bits >> column & 1) << at) | ((*to & !below) << 1);
        }
        block.len += 1;
    }

    /// Removes the first `num` rows.
    pub fn remove_first(&mut self, block: &mut Block, num: usize) {
        let len = usize::from(block.len);
        let class = &mut self.classes[usize::from(block.class)];
        let rows_max = class.rows_max;
        let (bits, columns) = class.block_mut(block.id).split_at_mut(self.layout.num_bits);
        for column in columns.chunks_exact_mut(rows_max) {
            column.copy_within(num..len, 0);
        }
        for bits in bits {
            *bits = if num == 64 { 0 } else { *bits >> num };
        }
        block.len -= num as u8;
    }

    /// Moves rows `from..` of a block to the end of another one, which must have room for them.
    pub fn move_rows(&mut self, source: &mut Block, from: usize, target: &mut Block) {
        let num = usize::from(source.len) - from;
        let at = usize::from(target.len);
        let RowLayout { num_words, num_bits } = self.layout;
        let (source_class, target_class) = (usize::from(source.class), usize::from(target.class));
        let mut lane = [0; BLOCK_ROWS_MAX];
        for column in 0..=num_words {
            let class = &self.classes[source_class];
            let start = num_bits + column * class.rows_max + from;
            lane[..num].copy_from_slice(&class.block(source.id)[start..start + num]);
            let class = &mut self.classes[target_class];
            let start = num_bits + column * class.rows_max + at;
            class.block_mut(target.id)[start..start + num].copy_from_slice(&lane[..num]);
        }
        for column in 0..num_bits {
            let word = &mut self.classes[source_class].block_mut(source.id)[column];
            let moved = if num == 0 { 0 } else { *word >> from };
            *word &= mask(0, from);
            let word = &mut self.classes[target_class].block_mut(target.id)[column];
            *word = (*word & mask(0, at)) | if num == 0 { 0 } else { moved << at };
        }
        source.len = from as u8;
        target.len += num as u8;
    }

    /// Bytes of the blocks that a ring of `rows` rows takes at least, without what a tree adds.
    #[must_use]
    pub fn bytes_for(layout: RowLayout, rows: usize) -> usize {
        let class = Blocks::class_for(rows);
        Class::new(CLASS_ROWS[usize::from(class)], layout).stride * size_of::<u64>() * rows.div_ceil(BLOCK_ROWS_MAX)
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self, class: u8) -> usize {
        self.classes[usize::from(class)].stride * size_of::<u64>()
    }

    /// Bytes of all pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.classes.iter().map(|class| class.pages.len() * class.page_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time: i64, words: &[u64], bits: u64) -> Row<'_> {
        Row { time, words, bits }
    }

    fn contents(blocks: &Blocks, block: Block) -> Vec<(i64, u64, u64)> {
        let rows = blocks.rows(block);
        (0..rows.len()).map(|at| (rows.time(at), rows.column(0)[at], rows.bits(0) >> at & 1)).collect()
    }

    #[test]
    fn rows_keep_their_values_through_insertion_removal_and_moves() {
        let mut blocks = Blocks::new(RowLayout { num_words: 1, num_bits: 2 });
        let mut block = blocks.allocate_leaf();
        let mut expected = Vec::new();
        for step in 0..64_i64 {
            let at = (step * 7 % (step + 1)) as usize;
            blocks.insert(&mut block, at, row(step, &[step as u64 * 3], (step % 3 == 0).into()));
            expected.insert(at, (step, step as u64 * 3, u64::from(step % 3 == 0)));
        }
        assert!(Blocks::is_full(block));
        assert_eq!(contents(&blocks, block), expected);
        blocks.remove_first(&mut block, 5);
        expected.drain(..5);
        let mut second = blocks.allocate_leaf();
        blocks.move_rows(&mut block, 29, &mut second);
        assert_eq!(contents(&blocks, block), expected[..29]);
        assert_eq!(contents(&blocks, second), expected[29..]);
        let mut third = blocks.allocate(Blocks::class_for(29), 7);
        blocks.move_rows(&mut block, 0, &mut third);
        assert_eq!(contents(&blocks, third), expected[..29]);
        blocks.remove_first(&mut second, 30);
        assert!(blocks.rows(second).is_empty());
        blocks.free(second);
        assert_eq!(blocks.allocate_leaf().id, second.id);
    }

    #[test]
    fn the_last_block_takes_the_place_of_a_freed_one() {
        let mut blocks = Blocks::new(RowLayout { num_words: 1, num_bits: 2 });
        let mut held: Vec<Block> = (0..1_000).map(|slot| blocks.allocate(1, slot)).collect();
        for (at, block) in held.iter_mut().enumerate() {
            blocks.insert(block, 0, row(at as i64, &[at as u64], 1));
        }
        let bytes = blocks.bytes();
        blocks.free(held[3]);
        let moved = blocks.take_moved().unwrap();
        assert_eq!(moved, Moved { slot: 999, id: held[3].id });
        held[999].id = moved.id;
        assert_eq!(contents(&blocks, held[999]), [(999, 999, 1)]);
        for at in (4..999).rev() {
            blocks.free(held[at]);
            if let Some(moved) = blocks.take_moved() {
                held[moved.slot as usize].id = moved.id;
            }
        }
        assert_eq!(contents(&blocks, held[999]), [(999, 999, 1)]);
        assert_eq!(contents(&blocks, held[2]), [(2, 2, 1)]);
        assert!(blocks.bytes() < bytes / 3, "{} of {bytes} bytes are left", blocks.bytes());
    }
}
