//! Lines of one file as records, from a given line on. Lines are cut at line feeds and not looked at; lines of white space
//! are left out, and counted. What is held is one piece from the store, one unfinished line and one block.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{ObjectStore, ObjectStoreExt};

use super::listing::StoredFile;
use super::{gone_back, storage_error};
use crate::error::{Error, Result};
use crate::types::{Assignment, Offset, RecordBlock};

/// Records and bytes of a block.
const BLOCK_RECORDS: usize = 8_192;
const BLOCK_BYTES: usize = 4 << 20;
/// A longer line stops the source: it would have to be held whole. Far above what `max_record_bytes` lets through.
const MAX_LINE_BYTES: usize = 256 << 20;

/// Reads one file.
pub(super) struct JsonLines {
    file: StoredFile,
    assignment: Assignment,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    /// What has come from the store and is not yet cut into lines.
    piece: Bytes,
    /// The beginning of a line whose end has not come yet.
    unfinished: Vec<u8>,
    /// Number of the line that is read now.
    line: i64,
    start: Offset,
    is_at_end: bool,
}

impl JsonLines {
    /// Opens `file` at line `start`, counted from 0.
    pub(super) async fn open(
        store: Arc<dyn ObjectStore>,
        file: StoredFile,
        assignment: Assignment,
        start: Offset,
    ) -> Result<JsonLines> {
        let object = store.get(&file.path).await.map_err(|error| storage_error(error, &file.path))?;
        Ok(JsonLines::new(object.into_stream(), file, assignment, start))
    }

    fn new(
        stream: BoxStream<'static, object_store::Result<Bytes>>,
        file: StoredFile,
        assignment: Assignment,
        start: Offset,
    ) -> JsonLines {
        let (piece, unfinished) = (Bytes::new(), Vec::new());
        JsonLines { file, assignment, stream, piece, unfinished, line: 0, start, is_at_end: false }
    }

    /// A file that the store gives in these pieces.
    #[cfg(test)]
    pub(super) fn of_pieces(pieces: Vec<object_store::Result<Bytes>>, start: Offset) -> JsonLines {
        let file = StoredFile { path: "lines.jsonl".into(), topic: "lines.jsonl".into(), bytes: 0 };
        JsonLines::new(futures::stream::iter(pieces).boxed(), file, Assignment(0), start)
    }

    /// The next records; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBlock>> {
        let mut block = RecordBlock::default();
        while !self.is_at_end && block.len() < BLOCK_RECORDS && block.num_bytes() < BLOCK_BYTES {
            if self.piece.is_empty() {
                match self.stream.next().await {
                    Some(piece) => self.piece = piece.map_err(|error| storage_error(error, &self.file.path))?,
                    None => self.end(&mut block)?,
                }
                continue;
            }
            self.cut(&mut block)?;
        }
        Ok((!block.is_empty()).then_some(block))
    }

    /// Takes one line, or the beginning of one, from the piece.
    fn cut(&mut self, block: &mut RecordBlock) -> Result<()> {
        let Some(end) = self.piece.iter().position(|byte| *byte == b'\n') else {
            if self.unfinished.len() + self.piece.len() > MAX_LINE_BYTES {
                return Err(Error::data(format!(
                    "file {}: line {}, counted from 0, is longer than {MAX_LINE_BYTES} bytes; one object a line is expected",
                    self.file.path, self.line
                )));
            }
            self.unfinished.extend_from_slice(&self.piece);
            self.piece.clear();
            return Ok(());
        };
        let line = self.piece.split_to(end + 1).slice(..end);
        if self.unfinished.is_empty() {
            self.push(&line, block);
        } else {
            let mut whole = std::mem::take(&mut self.unfinished);
            whole.extend_from_slice(&line);
            self.push(&whole, block);
            // Its room is kept for the next one, unless this one was unusual.
            if whole.capacity() <= BLOCK_BYTES {
                whole.clear();
                self.unfinished = whole;
            }
        }
        Ok(())
    }

    fn push(&mut self, line: &[u8], block: &mut RecordBlock) {
        let offset = self.line;
        self.line += 1;
        if offset < self.start.get() || line.trim_ascii().is_empty() {
            return;
        }
        block.units.push(self.assignment.0);
        block.offsets.push(offset);
        block.timestamps_ms.push(-1);
        block.keys.push(None);
        block.values.push(Some(line));
        block.headers.end_record();
    }

    /// The last line need not end with a line feed.
    fn end(&mut self, block: &mut RecordBlock) -> Result<()> {
        self.is_at_end = true;
        let last = std::mem::take(&mut self.unfinished);
        if !last.is_empty() {
            self.push(&last, block);
        }
        if self.line < self.start.get() {
            return Err(gone_back(&self.file.topic, self.start, self.line));
        }
        Ok(())
    }
}
