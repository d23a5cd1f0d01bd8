//! Rows of one Parquet file, from a given one on. At most one row group's compressed columns and one batch are held.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::listing::StoredFile;
use super::{gone_back, storage_error};
use crate::error::{Error, Result};
use crate::types::{Assignment, Offset, RowBlock};

/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;

/// Reads one file.
pub(super) struct ParquetRows {
    file: StoredFile,
    assignment: Assignment,
    stream: ParquetRecordBatchStream<StoredBytes>,
    next_row: i64,
    num_rows: i64,
}

impl ParquetRows {
    /// Opens `file` at row `start`.
    pub(super) async fn open(
        store: Arc<dyn ObjectStore>,
        file: StoredFile,
        assignment: Assignment,
        start: Offset,
    ) -> Result<ParquetRows> {
        let bytes = StoredBytes { store, path: file.path.clone(), bytes: file.bytes };
        let builder = ParquetRecordBatchStreamBuilder::new(bytes).await.map_err(|error| parquet_error(error, &file))?;
        let num_rows = builder.metadata().file_metadata().num_rows();
        if start.get() > num_rows {
            return Err(gone_back(&file.topic, start, num_rows));
        }
        // Whole row groups before the start are not read at all.
        let mut skipped = 0;
        let mut groups = Vec::new();
        for (index, group) in builder.metadata().row_groups().iter().enumerate() {
            if groups.is_empty() && skipped + group.num_rows() <= start.get() {
                skipped += group.num_rows();
            } else {
                groups.push(index);
            }
        }
        let rest = usize::try_from(start.get() - skipped).unwrap_or_default();
        let stream = builder.with_row_groups(groups).with_offset(rest).with_batch_size(BATCH_ROWS).build();
        let stream = stream.map_err(|error| parquet_error(error, &file))?;
        Ok(ParquetRows { file, assignment, stream, next_row: start.get(), num_rows })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.stream.schema()
    }

    pub(super) fn num_rows(&self) -> i64 {
        self.num_rows
    }

    /// The next rows; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RowBlock>> {
        loop {
            let Some(batch) = self.stream.next().await else {
                return Ok(None);
            };
            let batch = batch.map_err(|error| parquet_error(error, &self.file))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let first_offset = self.next_row;
            self.next_row += i64::try_from(batch.num_rows()).unwrap_or(i64::MAX);
            return Ok(Some(RowBlock { assignment: self.assignment, first_offset, batch }));
        }
    }
}

/// An error of the store may pass; one of the file does not.
fn parquet_error(error: ParquetError, file: &StoredFile) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<object_store::Error>() {
            Ok(error) => storage_error(*error, &file.path),
            Err(cause) => Error::unavailable(format!("file {} could not be read", file.path)).with_source(cause),
        },
        error => {
            let message =
                format!("file {} is not Parquet as it can be read; write it again, or take it away", file.path);
            Error::data(message).with_source(error)
        }
    }
}

/// One object as the Parquet reader wants it.
struct StoredBytes {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for StoredBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.store.get_range(&self.path, range).map_err(external).await }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).map_err(external).await }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            Ok(Arc::new(ParquetMetaDataReader::new().load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}
