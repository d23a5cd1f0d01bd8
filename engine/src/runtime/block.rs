//! What a worker has read of a source and not yet run: records, or rows, of a size that can be counted and cut.

use crate::types::{RecordBlock, RowBlock};

/// What a source read: records, or rows of a source that has columns already.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a handful, each moved once an epoch")]
pub(crate) enum Block {
    Records(RecordBlock),
    Rows(RowBlock),
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        match self {
            Block::Records(records) => records.len(),
            Block::Rows(rows) => rows.len(),
        }
    }

    /// Bytes of keys and payloads. Rows have none: their number bounds them.
    pub(crate) fn num_bytes(&self) -> usize {
        match self {
            Block::Records(records) => records.num_bytes(),
            Block::Rows(_) => 0,
        }
    }

    /// Unit and offset of a record.
    pub(crate) fn position(&self, record: usize) -> (u32, i64) {
        match self {
            Block::Records(records) => (records.units[record], records.offsets[record]),
            Block::Rows(rows) => (rows.assignment.0, rows.first_offset + record as i64),
        }
    }

    /// Some of it, in its order.
    pub(crate) fn slice(&self, records: std::ops::Range<usize>) -> Block {
        match self {
            Block::Records(block) => Block::Records(block.slice(records)),
            Block::Rows(block) => Block::Rows(block.slice(records)),
        }
    }

    /// In pieces of at most `rows_max`.
    pub(crate) fn split(self, rows_max: usize) -> Vec<Block> {
        if self.len() <= rows_max {
            return vec![self];
        }
        let starts = (0..self.len()).step_by(rows_max.max(1));
        let piece = |start: usize| {
            let end = (start + rows_max.max(1)).min(self.len());
            self.slice(start..end)
        };
        starts.map(piece).collect()
    }
}
