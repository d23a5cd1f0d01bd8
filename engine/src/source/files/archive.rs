//! An archive: Parquet files that say topic, partition and offset of each row, and in their names the offsets that they cover.
//! Its rows are read as they were served: partition by partition in the order of offsets, whatever the files are called or
//! however they were cut. Offsets that are there twice or not at all, and rows that contradict the name of their file, are refused.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use object_store::ObjectStore;

use super::listing::StoredFile;
use super::parquet::ParquetRows;
use super::reader::{FileBlock, FilesInOrder};
use crate::checkpoint::layout::file_name_part;
use crate::error::{Error, Result};
use crate::source::AssignmentNumbers;
use crate::types::{Assignment, Offset, OffsetRange, POSITION_COLUMNS, RecordBlock, StateUnit, Units, position_fields};

/// Problems of an archive that are told at once.
const PROBLEMS_TOLD: usize = 10;

/// Rows of an archive, all of one partition, in the order of offsets.
#[derive(Debug, Clone)]
pub struct ArchivedRows {
    /// Columns as the file has them.
    pub batch: RecordBatch,
    /// Where each row comes from; without keys, payloads and headers.
    pub records: RecordBlock,
}

/// A part of stored rows.
#[derive(Debug, Clone)]
pub enum StoredBlock {
    /// Of a file that is a partition of its own.
    File(FileBlock),
    /// Of an archive.
    Archived(ArchivedRows),
}

/// Stored rows of a source: an archive, or files that say nothing of where their rows come from.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each source of a replay")]
pub enum StoredRows {
    /// Files, each a partition of its own.
    Plain(FilesInOrder),
    /// An archive.
    Archive(ArchiveInOrder),
}

impl StoredRows {
    /// What `files` are: an archive when the first of them has the columns of one.
    pub async fn of(files: FilesInOrder, numbers: &AssignmentNumbers) -> Result<StoredRows> {
        if has_positions(&*files.first_schema().await?) {
            return ArchiveInOrder::new(files, numbers).map(StoredRows::Archive);
        }
        Ok(StoredRows::Plain(files))
    }

    /// Whether it is an archive.
    #[must_use]
    pub fn has_positions(&self) -> bool {
        matches!(self, StoredRows::Archive(_))
    }

    /// The units of what was read so far.
    #[must_use]
    pub fn units(&self) -> &Units {
        match self {
            StoredRows::Plain(files) => files.units(),
            StoredRows::Archive(archive) => &archive.units,
        }
    }

    /// Bytes of the files that are not opened yet, for progress.
    #[must_use]
    pub fn bytes_waiting(&self) -> u64 {
        match self {
            StoredRows::Plain(files) => files.bytes_waiting(),
            StoredRows::Archive(archive) => archive.waiting.iter().map(|file| file.file.bytes).sum(),
        }
    }

    /// The next part; `None` after the last row.
    pub async fn next(&mut self) -> Result<Option<StoredBlock>> {
        match self {
            StoredRows::Archive(archive) => Ok(archive.next().await?.map(StoredBlock::Archived)),
            StoredRows::Plain(files) => {
                let Some(block) = files.next().await? else { return Ok(None) };
                if let FileBlock::Rows(rows) = &block
                    && has_positions(rows.batch.schema_ref())
                {
                    let file = files.units().get(rows.assignment).map(|unit| unit.topic.clone()).unwrap_or_default();
                    return Err(Error::invalid(format!(
                        "file {file} says where its rows come from, and others of the input do not; replay them apart"
                    )));
                }
                Ok(Some(StoredBlock::File(block)))
            }
        }
    }
}

/// Whether a file has the columns of an archive.
fn has_positions(schema: &Schema) -> bool {
    POSITION_COLUMNS.iter().all(|name| schema.column_with_name(name).is_some())
}

/// A file of an archive, and what its name says.
#[derive(Debug, Clone)]
struct ArchivedFile {
    file: StoredFile,
    partition: PartitionName,
    range: OffsetRange,
}

/// A partition as the names of its files say it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PartitionName {
    topic: String,
    partition: i32,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {}", self.partition, self.topic)
    }
}

/// The files of an archive in the order in which they are read, checked.
#[derive(Debug)]
pub struct ArchiveInOrder {
    store: Arc<dyn ObjectStore>,
    source: Arc<str>,
    waiting: VecDeque<ArchivedFile>,
    current: Option<Open>,
    assignments: BTreeMap<PartitionName, Assignment>,
    units: Units,
}

struct Open {
    rows: ParquetRows,
    file: ArchivedFile,
    /// No row may be below it.
    next: Offset,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("file", &self.file).field("next", &self.next).finish_non_exhaustive()
    }
}

impl ArchiveInOrder {
    fn new(files: FilesInOrder, numbers: &AssignmentNumbers) -> Result<ArchiveInOrder> {
        let (store, source) = (files.store, files.source);
        let waiting = in_order(files.waiting.into_iter().map(|(_, file)| file))?;
        let mut assignments = BTreeMap::new();
        // Numbers rise with the partitions: rows of equal event time are put into order by them.
        for file in &waiting {
            assignments.entry(file.partition.clone()).or_insert_with(|| numbers.next());
        }
        Ok(ArchiveInOrder {
            store,
            source,
            waiting: waiting.into(),
            current: None,
            assignments,
            units: Units::default(),
        })
    }

    /// Where the ranges of each partition's files end, by topic (as in names of files) and partition. Before the first is read.
    pub(crate) fn ends(&self) -> BTreeMap<(String, i32), Offset> {
        let mut ends: BTreeMap<(String, i32), Offset> = BTreeMap::new();
        for file in &self.waiting {
            let end = ends.entry((file.partition.topic.clone(), file.partition.partition)).or_default();
            *end = file.range.end.max(*end);
        }
        ends
    }

    async fn next(&mut self) -> Result<Option<ArchivedRows>> {
        loop {
            if let Some(open) = &mut self.current {
                let assignment = self.assignments.get(&open.file.partition).copied();
                let assignment = assignment.ok_or_else(|| Error::internal("a partition without a number"))?;
                if let Some(block) = open.rows.next().await? {
                    return open.take(block.batch, assignment, &self.source, &mut self.units).map(Some);
                }
                self.current = None;
            }
            let Some(file) = self.waiting.pop_front() else { return Ok(None) };
            let rows = ParquetRows::open(self.store.clone(), file.file.clone(), Assignment(0), Offset::ZERO).await?;
            if !has_positions(rows.schema()) {
                return Err(Error::invalid(format!(
                    "file {} does not say where its rows come from, and others of the input do; replay them apart",
                    file.file.topic
                )));
            }
            let next = file.range.start;
            self.current = Some(Open { rows, file, next });
        }
    }
}

impl Open {
    /// Checks where the rows of a batch come from.
    fn take(
        &mut self,
        batch: RecordBatch,
        assignment: Assignment,
        source: &Arc<str>,
        units: &mut Units,
    ) -> Result<ArchivedRows> {
        let columns = self.position_columns(&batch)?;
        let topics = columns[0].as_string::<i32>();
        let partitions = columns[1].as_primitive::<Int32Type>();
        let offsets = columns[2].as_primitive::<Int64Type>();
        let ordinals = columns[3].as_primitive::<Int32Type>();
        let times = columns[4].as_primitive::<TimestampMicrosecondType>();
        let mut records = RecordBlock::default();
        if units.get(assignment).is_none() && batch.num_rows() > 0 {
            let (topic, partition) = (topics.value(0).into(), partitions.value(0));
            units.insert(assignment, StateUnit { source: source.clone(), topic, partition });
        }
        let unit = units.get(assignment).ok_or_else(|| Error::internal("a batch without rows"))?;
        let is_named = file_name_part(&unit.topic) == self.file.partition.topic;
        for row in 0..batch.num_rows() {
            let (topic, partition, offset) = (topics.value(row), partitions.value(row), offsets.value(row));
            let is_own = *unit.topic == *topic && unit.partition == partition;
            if !is_own || !is_named || partition != self.file.partition.partition {
                let said = format!("partition {partition} of {topic}");
                return Err(self.contradiction(&format!("a row comes from {said}, which is not in its name")));
            }
            if ordinals.value(row) != 0 {
                return Err(self.contradiction(&format!(
                    "the record of offset {offset} has several rows, so these are not the rows of a source; archive `SELECT * FROM {source}`"
                )));
            }
            if offset < self.next.get() || offset >= self.file.range.end.get() {
                let (next, end) = (self.next, self.file.range.end);
                return Err(self.contradiction(&format!(
                    "found a row of offset {offset} where one from {next} to below {end} is expected"
                )));
            }
            self.next = Offset::after(offset);
            records.units.push(assignment.0);
            records.offsets.push(offset);
            records.timestamps_ms.push(if times.is_null(row) { -1 } else { times.value(row).div_euclid(1_000) });
            records.keys.push(None);
            records.values.push(None);
            records.headers.end_record();
        }
        Ok(ArchivedRows { batch, records })
    }

    fn contradiction(&self, what: &str) -> Error {
        Error::data(format!("archive file {}: {what}; put back the file as the sink wrote it", self.file.file.topic))
    }

    /// The position columns in their own types; another program may have written the file again.
    fn position_columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |field: &arrow::datatypes::FieldRef| {
            let found = batch.column_by_name(field.name());
            let found = found.and_then(|found| cast(found, field.data_type()).ok());
            found.filter(|found| field.is_nullable() || found.null_count() == 0).ok_or_else(|| {
                let expected = format!("{} in column {}, without nulls", field.data_type(), field.name());
                self.contradiction(&format!("expected {expected}"))
            })
        };
        position_fields().iter().map(column).collect()
    }
}

/// What the name of a file says: `SOURCE--TOPIC--PARTITION--FROM-TO.parquet`.
fn parse_name(file: &StoredFile) -> Option<(PartitionName, OffsetRange)> {
    let name = file.path.filename()?.strip_suffix(".parquet")?;
    let mut parts = name.rsplitn(4, "--");
    let (range, partition, topic, _source) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (start, end) = range.split_once('-')?;
    let offset = |text: &str| Offset::new(text.parse().ok()?);
    let range = OffsetRange::new(offset(start)?, offset(end)?)?;
    Some((PartitionName { topic: topic.to_owned(), partition: partition.parse().ok()? }, range))
}

/// The files by partition and range; refuses what is there twice or not at all.
fn in_order(files: impl Iterator<Item = StoredFile>) -> Result<Vec<ArchivedFile>> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match parse_name(&file) {
            Some((partition, range)) => found.push(ArchivedFile { file, partition, range }),
            None => problems.push(format!(
                "file {}: its name does not say which offsets it covers; archives are read with the names that the sink gave: \
                 SOURCE--TOPIC--PARTITION--FROM-TO.parquet",
                file.topic
            )),
        }
    }
    found.sort_by(|left, right| {
        let key = |file: &ArchivedFile| (file.range.start, file.range.end);
        left.partition.cmp(&right.partition).then_with(|| key(left).cmp(&key(right)))
    });
    // The file that reaches farthest so far, not the one before: a short one may lie inside a long one.
    let mut farthest: Option<&ArchivedFile> = None;
    for file in &found {
        let last = farthest.filter(|last| last.partition == file.partition);
        if let Some(last) = last {
            let (end, start) = (last.range.end, file.range.start);
            let of = &file.partition;
            if start < end {
                let doubled = format!("[{start}, {})", end.min(file.range.end));
                problems.push(format!(
                    "{of}: offsets {doubled} are there twice, in {} and in {}; take one of them away",
                    last.file.topic, file.file.topic
                ));
            } else if end < start {
                problems.push(format!(
                    "{of}: offsets [{end}, {start}) are missing, between {} and {}; put back the files that cover them, or replay \
                     what is before and after them apart",
                    last.file.topic, file.file.topic
                ));
            }
        }
        if last.is_none_or(|last| last.range.end <= file.range.end) {
            farthest = Some(file);
        }
    }
    if problems.is_empty() {
        return Ok(found);
    }
    let more = problems.len().saturating_sub(PROBLEMS_TOLD);
    problems.truncate(PROBLEMS_TOLD);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(Error::data(format!("the archive cannot be replayed as it is:\n{}", problems.join("\n"))))
}
