//! Blocks of retained rows: columns of up to 64 rows side by side in one piece of memory, in total order, from slabs by size with
//! free lists. A row costs eight bytes for its event time and eight per retained column; which rows are null or filtered is one bit each.
//! It refuses positions: rows of a state unit arrive in the order of their positions, so among equal event times the order of
//! arrival is the order of positions, and a new row stands behind its peers.

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
    block: &'a [u64],
    rows_max: usize,
    bits_at: usize,
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
        self.block[row] as i64
    }

    /// A retained column.
    #[inline(always)]
    #[must_use]
    pub fn column(&self, column: usize) -> &'a [u64] {
        let start = (1 + column) * self.rows_max;
        &self.block[start..start + self.len]
    }

    /// A column of bits, row `i` in bit `i`.
    #[inline(always)]
    #[must_use]
    pub fn bits(&self, column: usize) -> u64 {
        self.block[self.bits_at + column]
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
        let times = &self.block[..self.len];
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
    num_blocks: u32,
    num_used: usize,
    /// Number of the first free block plus one; the first word of a free block is the number of the next plus one.
    free: u32,
}

impl Class {
    fn new(rows_max: usize, layout: RowLayout) -> Class {
        let stride = rows_max * (1 + layout.num_words) + layout.num_bits;
        let page_shift = (PAGE_BYTES / (stride * size_of::<u64>())).max(4).ilog2();
        Class { rows_max, stride, page_shift, pages: Vec::new(), num_blocks: 0, num_used: 0, free: 0 }
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

    fn allocate(&mut self) -> u32 {
        self.num_used += 1;
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
        id
    }

    fn free(&mut self, id: u32) {
        self.num_used -= 1;
        let next = u64::from(self.free);
        self.block_mut(id)[0] = next;
        self.free = id + 1;
    }

    fn page_bytes(&self) -> usize {
        (self.stride << self.page_shift) * size_of::<u64>()
    }
}

/// The blocks of one state unit.
#[derive(Debug)]
pub struct Blocks {
    layout: RowLayout,
    classes: Vec<Class>,
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
        Blocks { layout, classes }
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

    /// An empty block of a class.
    pub fn allocate(&mut self, class: u8) -> Block {
        Block { id: self.classes[usize::from(class)].allocate(), class, len: 0 }
    }

    /// Gives a block back.
    pub fn free(&mut self, block: Block) {
        self.classes[usize::from(block.class)].free(block.id);
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
            bits_at: class.rows_max * (1 + self.layout.num_words),
            len: usize::from(block.len),
        }
    }

    /// Inserts a row before row `at`. The block must not be full.
    #[inline]
    pub fn insert(&mut self, block: &mut Block, at: usize, row: Row<'_>) {
        let len = usize::from(block.len);
        let class = &mut self.classes[usize::from(block.class)];
        let rows_max = class.rows_max;
        let words = class.block_mut(block.id);
        words.copy_within(at..len, at + 1);
        words[at] = row.time as u64;
        let (columns, bits) = words[rows_max..].split_at_mut(rows_max * self.layout.num_words);
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
        let (columns, bits) = class.block_mut(block.id).split_at_mut(rows_max * (1 + self.layout.num_words));
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
            let start = column * class.rows_max + from;
            lane[..num].copy_from_slice(&class.block(source.id)[start..start + num]);
            let class = &mut self.classes[target_class];
            let start = column * class.rows_max + at;
            class.block_mut(target.id)[start..start + num].copy_from_slice(&lane[..num]);
        }
        for column in 0..num_bits {
            let class = &mut self.classes[source_class];
            let bits_at = class.rows_max * (1 + num_words) + column;
            let word = &mut class.block_mut(source.id)[bits_at];
            let moved = if num == 0 { 0 } else { *word >> from };
            *word &= mask(0, from);
            let class = &mut self.classes[target_class];
            let bits_at = class.rows_max * (1 + num_words) + column;
            let word = &mut class.block_mut(target.id)[bits_at];
            *word = (*word & mask(0, at)) | if num == 0 { 0 } else { moved << at };
        }
        source.len = from as u8;
        target.len += num as u8;
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
        let mut block = blocks.allocate(CLASS_MAX);
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
        let mut second = blocks.allocate(CLASS_MAX);
        blocks.move_rows(&mut block, 29, &mut second);
        assert_eq!(contents(&blocks, block), expected[..29]);
        assert_eq!(contents(&blocks, second), expected[29..]);
        let mut third = blocks.allocate(Blocks::class_for(29));
        blocks.move_rows(&mut block, 0, &mut third);
        assert_eq!(contents(&blocks, third), expected[..29]);
        blocks.remove_first(&mut second, 30);
        assert!(blocks.rows(second).is_empty());
        blocks.free(second);
        assert_eq!(blocks.allocate(CLASS_MAX).id, second.id);
    }
}
