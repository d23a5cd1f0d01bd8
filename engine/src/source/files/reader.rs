//! One file, or several in order, as blocks of records or rows: for the source, for a replay and for a preview. Bounded in
//! memory; decodes nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use object_store::ObjectStore;
use object_store::path::Path;

use super::lines::JsonLines;
use super::listing::{StoredFile, list_files};
use super::parquet::ParquetRows;
use crate::error::Result;
use crate::pipeline::settings::FileFormat;
use crate::source::AssignmentNumbers;
use crate::types::{Assignment, Offset, RecordBlock, RowBlock, StateUnit, Units};

/// A part of a file.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one of them stands for thousands of rows")]
pub enum FileBlock {
    /// Lines.
    Records(RecordBlock),
    /// Rows of a columnar file.
    Rows(RowBlock),
}

/// Reads one file from a position on.
pub struct FileReader(Inner);

enum Inner {
    Parquet(Box<ParquetRows>),
    JsonLines(Box<JsonLines>),
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Parquet(_) => "FileReader(Parquet)",
            Inner::JsonLines(_) => "FileReader(JsonLines)",
        })
    }
}

impl FileReader {
    /// Opens `file` at `start`: a row of a Parquet file, a line of a file of JSON lines.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        format: FileFormat,
        file: StoredFile,
        assignment: Assignment,
        start: Offset,
    ) -> Result<FileReader> {
        Ok(FileReader(match format {
            FileFormat::Parquet => Inner::Parquet(Box::new(ParquetRows::open(store, file, assignment, start).await?)),
            FileFormat::JsonLines => Inner::JsonLines(Box::new(JsonLines::open(store, file, assignment, start).await?)),
        }))
    }

    /// The next part; `None` at the end of the file.
    pub async fn next(&mut self) -> Result<Option<FileBlock>> {
        match &mut self.0 {
            Inner::Parquet(rows) => Ok(rows.next().await?.map(FileBlock::Rows)),
            Inner::JsonLines(lines) => Ok(lines.next().await?.map(FileBlock::Records)),
        }
    }

    /// Number of rows of the file, where the format says it in advance.
    #[must_use]
    pub fn num_rows(&self) -> Option<i64> {
        match &self.0 {
            Inner::Parquet(rows) => Some(rows.num_rows()),
            Inner::JsonLines(_) => None,
        }
    }
}

/// All files of a source, one after the other, from their beginnings: what a replay and a preview read. Each block goes to
/// a [`crate::decode::Decoder`] with all checks, with [`FilesInOrder::units`].
#[derive(Debug)]
pub struct FilesInOrder {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) source: Arc<str>,
    pub(super) format: FileFormat,
    pub(super) waiting: VecDeque<(Assignment, StoredFile)>,
    current: Option<FileReader>,
    units: Units,
}

impl FilesInOrder {
    /// Lists the files of the source named `source_name` at `path`.
    pub async fn open(
        source_name: &str,
        store: Arc<dyn ObjectStore>,
        path: &Path,
        format: FileFormat,
        numbers: &AssignmentNumbers,
    ) -> Result<FilesInOrder> {
        let files = list_files(store.as_ref(), path, format).await?;
        let source: Arc<str> = source_name.into();
        let mut units = Units::default();
        let mut waiting = VecDeque::with_capacity(files.len());
        for file in files {
            let assignment = numbers.next();
            units.insert(assignment, unit_of(&source, &file));
            waiting.push_back((assignment, file));
        }
        Ok(FilesInOrder { store, source, format, waiting, current: None, units })
    }

    /// One unit for each file.
    #[must_use]
    pub fn units(&self) -> &Units {
        &self.units
    }

    /// Bytes of the files that are not opened yet, for progress.
    #[must_use]
    pub fn bytes_waiting(&self) -> u64 {
        self.waiting.iter().map(|(_, file)| file.bytes).sum()
    }

    /// The columns of the first file; none where the format does not say them in advance.
    pub async fn first_schema(&self) -> Result<SchemaRef> {
        match self.waiting.front() {
            Some((assignment, file)) if self.format == FileFormat::Parquet => {
                let opened = ParquetRows::open(self.store.clone(), file.clone(), *assignment, Offset::ZERO).await?;
                Ok(opened.schema().clone())
            }
            _ => Ok(Arc::new(Schema::empty())),
        }
    }

    /// The next part; `None` after the last file.
    pub async fn next(&mut self) -> Result<Option<FileBlock>> {
        loop {
            if let Some(reader) = &mut self.current {
                if let Some(block) = reader.next().await? {
                    return Ok(Some(block));
                }
                self.current = None;
            }
            let Some((assignment, file)) = self.waiting.pop_front() else {
                return Ok(None);
            };
            let reader = FileReader::open(self.store.clone(), self.format, file, assignment, Offset::ZERO).await?;
            self.current = Some(reader);
        }
    }
}

/// The state unit of a file: its name stands for it, because its place among the others changes when files are added.
pub(super) fn unit_of(source: &Arc<str>, file: &StoredFile) -> StateUnit {
    StateUnit { source: source.clone(), topic: file.topic.clone(), partition: 0 }
}
