//! One Parquet file while rows are added to it: encoded at once, held in memory, not yet anywhere.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};
use crate::sink::parquet::Limits;
use crate::types::{Offset, OffsetRange, StateUnit, Watermark};

/// Row groups of this size are read well, and bound what is encoded but not yet compressed.
const ROW_GROUP_BYTES: usize = 16 << 20;
const ROW_GROUP_ROWS: usize = 256 << 10;

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowMark {
    /// Offset of its record.
    pub(super) offset: Offset,
    /// W before the record.
    pub(super) before: Watermark,
}

/// A file that grows.
#[derive(Debug)]
pub(super) struct OpenFile {
    writer: ArrowWriter<Vec<u8>>,
    schema: SchemaRef,
    range_start: Offset,
    first: RowMark,
    last: RowMark,
    num_rows: usize,
    opened_at: Duration,
    is_due: bool,
}

fn encoding_failed(error: parquet::errors::ParquetError) -> Error {
    Error::internal("a batch cannot be written as parquet").with_source(error)
}

impl OpenFile {
    pub(super) fn new(schema: SchemaRef, range_start: Offset, first: RowMark, now: Duration) -> Result<OpenFile> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by("tidemill".to_owned())
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(encoding_failed)?;
        Ok(OpenFile { writer, schema, range_start, first, last: first, num_rows: 0, opened_at: now, is_due: false })
    }

    pub(super) fn append(&mut self, batch: &RecordBatch, marks: &[RowMark]) -> Result<()> {
        if batch.schema_ref() != &self.schema {
            return Err(Error::internal("the columns of a sink changed while it was running"));
        }
        for mark in marks {
            if mark.offset < self.last.offset {
                return Err(Error::internal(format!(
                    "a row of offset {} came after one of offset {}",
                    mark.offset, self.last.offset
                )));
            }
            self.last = *mark;
        }
        self.writer.write(batch).map_err(encoding_failed)?;
        self.num_rows += batch.num_rows();
        Ok(())
    }

    /// Ends the file; its bytes. Unit and range stand in its metadata too.
    pub(super) fn finish(mut self, unit: &StateUnit, range: OffsetRange) -> Result<Bytes> {
        for (key, value) in [("tidemill.unit", unit.to_string()), ("tidemill.offsets", range.to_string())] {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        Ok(Bytes::from(self.writer.into_inner().map_err(encoding_failed)?))
    }

    /// Whether it is to be rolled.
    pub(super) fn is_due(&self, limits: &Limits, now: Duration) -> bool {
        self.is_due
            || self.num_rows >= limits.rows
            || self.writer.bytes_written() + self.writer.in_progress_size() >= limits.bytes
            || now.saturating_sub(self.opened_at) >= limits.age
    }

    /// Has it rolled at the next occasion.
    pub(super) fn set_due(&mut self) {
        self.is_due = true;
    }

    pub(super) fn num_rows(&self) -> usize {
        self.num_rows
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.writer.inner().capacity() + self.writer.memory_size()
    }

    pub(super) fn range_start(&self) -> Offset {
        self.range_start
    }

    pub(super) fn first(&self) -> &RowMark {
        &self.first
    }

    pub(super) fn last(&self) -> &RowMark {
        &self.last
    }
}
