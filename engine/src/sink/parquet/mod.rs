//! Parquet files as a sink: one open file per state unit, its rows in order, hidden columns left out. A full or old file
//! goes up to `_staging/`, where readers do not look (names that begin with `_`); it gets its final name, which says unit
//! and range, from `checkpoint` after the manifest that names it. Serves archives and dead letters alike.
//!
//! With the option `positions` each row says where it comes from, so that a replay can read an archive as it was served.
//!
//! A file is never cut inside the rows of one record: the position after it would promise rows that are not in it.

mod open_file;
pub(crate) mod positions;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use tokio::runtime::Handle;

use crate::checkpoint::layout::{file_name_part, staging_folder};
use crate::checkpoint::{Folder, RetryPolicy};
use crate::error::{Error, Result};
use crate::pipeline::settings::ParquetSink as ParquetSettings;
use crate::sink::{PrepareRequest, PreparedUnit, Sink, StagedFile};
use crate::types::{Assignment, EventTime, Hidden, Offset, OffsetRange, StateUnit, Units, Watermark, num_visible};

use open_file::{OpenFile, RowMark};
use upload::Upload;

/// Memory for open files and for those on their way, over all units.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Rows are appended in pieces of at most this, so that the limits of a file are looked at often enough.
const PIECE_ROWS_MAX: usize = 8192;
/// Uploads, beside the attempts of the store's own client: as patient as the manifests that follow them, some five minutes.
const RETRY: RetryPolicy =
    RetryPolicy { attempts_max: 80, first_wait: Duration::from_millis(100), wait_max: Duration::from_secs(4) };
/// How long a write waits for room: 30 s.
const WAIT: Duration = Duration::from_millis(5);
const WAITS_MAX: usize = 6000;

/// Time since some moment, never going back.
pub type MonotonicClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a [`ParquetSink`] needs besides its settings.
#[derive(Clone)]
pub struct ParquetParts {
    /// The sink's folder.
    pub folder: Folder,
    /// Whose staged files they are: unique among all pipelines and sinks that write to the folder.
    pub owner: String,
    /// Where uploads run.
    pub runtime: Handle,
    /// For the age of files.
    pub clock: MonotonicClock,
}

impl fmt::Debug for ParquetParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetParts").field("folder", &self.folder).field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// See the file's head. After an error of [`Sink::poll_prepared`] or [`Sink::write`] it is finished.
#[derive(Debug)]
pub struct ParquetSink {
    parts: ParquetParts,
    limits: Limits,
    retry: RetryPolicy,
    columns: FileColumns,
    units: BTreeMap<Assignment, UnitFiles>,
    preparing: Option<Vec<Preparing>>,
}

/// What of a batch goes into the files.
#[derive(Debug)]
enum FileColumns {
    /// The columns of the SELECT.
    Visible,
    /// And where each row comes from; the schema of the files, once it is known.
    WithPositions(Option<SchemaRef>),
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    rows: usize,
    bytes: usize,
    age: Duration,
    memory_bytes: usize,
}

/// The files of one unit.
#[derive(Debug)]
struct UnitFiles {
    unit: StateUnit,
    open: Option<OpenFile>,
    /// Rolled and not yet asked for.
    rolled: Vec<Upload>,
    /// Where the ranges of all files so far end; `None` before the first of a unit that nobody said it of.
    covered: Option<Offset>,
}

#[derive(Debug)]
struct Preparing {
    prepared: PreparedUnit,
    uploads: Vec<Upload>,
}

impl ParquetSink {
    /// A sink that writes below `parts.folder`; the path in `settings` is not looked at.
    #[must_use]
    pub fn new(settings: &ParquetSettings, parts: ParquetParts) -> ParquetSink {
        let limits = Limits {
            rows: settings.max_rows.max(1),
            bytes: settings.max_bytes.max(1),
            age: settings.max_age,
            memory_bytes: MEMORY_BYTES_MAX,
        };
        let columns = if settings.has_positions { FileColumns::WithPositions(None) } else { FileColumns::Visible };
        ParquetSink { parts, limits, retry: RETRY, columns, units: BTreeMap::new(), preparing: None }
    }

    /// With another limit for memory than the default of 64 MiB.
    #[must_use]
    pub fn with_memory_bytes_max(mut self, memory_bytes: usize) -> ParquetSink {
        self.limits.memory_bytes = memory_bytes;
        self
    }

    /// With other attempts for uploads than the default, which is some five minutes of them.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> ParquetSink {
        self.retry = retry;
        self
    }

    /// Bytes held, in open files and in those on their way.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.units.values().filter_map(|files| files.open.as_ref()).map(OpenFile::memory_bytes).sum::<usize>()
            + self.upload_bytes()
    }

    fn upload_bytes(&self) -> usize {
        let preparing = self.preparing.iter().flatten().flat_map(|preparing| &preparing.uploads);
        self.units.values().flat_map(|files| &files.rolled).chain(preparing).map(Upload::pending_bytes).sum()
    }

    fn visible(batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<usize> = (0..num_visible(batch)).collect();
        batch.project(&columns).map_err(|error| Error::internal("a batch cannot be projected").with_source(error))
    }

    /// The columns that the files need of a batch.
    fn needed_columns(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        match self.columns {
            FileColumns::Visible => Self::visible(batch),
            FileColumns::WithPositions(_) => Ok(batch.clone()),
        }
    }

    /// The columns of a file, of rows of one unit with the needed columns.
    fn file_columns(&mut self, rows: RecordBatch, unit: &StateUnit) -> Result<RecordBatch> {
        let FileColumns::WithPositions(schema) = &mut self.columns else { return Ok(rows) };
        let visible = Self::visible(&rows)?;
        let schema = schema.get_or_insert_with(|| positions::schema_with_positions(visible.schema_ref()));
        let hidden = Hidden::of(&rows)?;
        let offsets = hidden.offset.values().iter().map(|offset| (unit, *offset));
        positions::with_positions(&visible, schema.clone(), offsets, hidden.ordinal, hidden.broker_time)
    }

    fn append(
        &mut self,
        assignment: Assignment,
        unit: &StateUnit,
        batch: &RecordBatch,
        marks: &[RowMark],
    ) -> Result<()> {
        let (limits, now) = (self.limits, (self.parts.clock)());
        let files = self.units.entry(assignment).or_insert_with(|| UnitFiles::new(unit.clone(), None));
        let mut at = 0;
        while at < marks.len() {
            if let Some(open) =
                files.open.take_if(|open| open.is_due(&limits, now) && marks[at].offset > open.last().offset)
            {
                files.roll(open, None, &self.parts, self.retry)?;
            }
            let open = match &mut files.open {
                Some(open) => open,
                None => {
                    let range_start = *files.covered.get_or_insert(marks[at].offset);
                    files.open.insert(OpenFile::new(batch.schema(), range_start, marks[at], now)?)
                }
            };
            let room = limits.rows.saturating_sub(open.num_rows()).clamp(1, PIECE_ROWS_MAX);
            let mut end = marks.len().min(at + room);
            // The rest of a record goes with its first row.
            while end < marks.len() && marks[end].offset == marks[end - 1].offset {
                end += 1;
            }
            open.append(&batch.slice(at, end - at), &marks[at..end])
                .map_err(|error| error.context(format!("rows of {}", files.unit)))?;
            at = end;
        }
        Ok(())
    }

    /// Keeps memory within its limit: rolls the largest files, then waits for uploads.
    fn make_room(&mut self) -> Result<()> {
        if self.memory_bytes() <= self.limits.memory_bytes {
            return Ok(());
        }
        if let Some(open) =
            self.units.values_mut().filter_map(|files| files.open.as_mut()).max_by_key(|open| open.memory_bytes())
        {
            // At the next record of its unit, or at the next checkpoint.
            open.set_due();
        }
        for _ in 0..WAITS_MAX {
            if self.upload_bytes() <= self.limits.memory_bytes / 2 {
                return Ok(());
            }
            std::thread::sleep(WAIT);
        }
        Err(Error::unavailable(format!(
            "{}: files are written more slowly than rows come: waited {} s for an upload",
            self.parts.folder.uri(),
            (WAIT * u32::try_from(WAITS_MAX).unwrap_or(u32::MAX)).as_secs()
        )))
    }

    fn mark(hidden: &Hidden<'_>, row: usize) -> Result<RowMark> {
        let offset =
            Offset::new(hidden.offset.value(row)).ok_or_else(|| Error::internal("a row has a negative offset"))?;
        let mut before = Watermark::NONE;
        if hidden.w.is_valid(row) {
            before.advance(EventTime::from_micros(hidden.w.value(row)));
        }
        Ok(RowMark { offset, before })
    }
}

impl UnitFiles {
    fn new(unit: StateUnit, covered: Option<Offset>) -> UnitFiles {
        UnitFiles { unit, open: None, rolled: Vec::new(), covered }
    }

    /// Closes `open` and sends it up. Its range ends at `upto`, or after its last record.
    fn roll(&mut self, open: OpenFile, upto: Option<Offset>, parts: &ParquetParts, retry: RetryPolicy) -> Result<()> {
        let after_last = Offset::after(open.last().offset.get());
        let end = upto.unwrap_or(after_last);
        let range = OffsetRange::new(open.range_start(), end).filter(|_| after_last <= end).ok_or_else(|| {
            Error::internal(format!("rows of {} were written beyond the offset {end} of a checkpoint", self.unit))
        })?;
        let rows = open.num_rows() as u64;
        let bytes = open.finish(&self.unit, range).map_err(|error| error.context(format!("rows of {}", self.unit)))?;
        let staged = StagedFile {
            folder: parts.folder.uri().to_owned(),
            staged: format!("{}/{}.parquet", staging_folder(&parts.owner, &self.unit), uuid::Uuid::new_v4()),
            name: file_name(&self.unit, range),
            bytes: bytes.len() as u64,
            rows,
            range,
        };
        self.rolled.push(Upload::start(&parts.runtime, parts.folder.clone(), staged, bytes, retry));
        self.covered = Some(end);
        Ok(())
    }

    /// What is durable once the rolled files are up, given that rows were written up to `upto`.
    fn prepare(&mut self, assignment: Assignment, upto: Offset) -> Result<Preparing> {
        let (position, watermark) = match &self.open {
            Some(open) => (open.first().offset, Some(open.first().before)),
            None => (upto, None),
        };
        if position > upto {
            return Err(Error::internal(format!(
                "rows of {} were written beyond the offset {upto} of a checkpoint",
                self.unit
            )));
        }
        let uploads = std::mem::take(&mut self.rolled);
        let files = uploads.iter().map(|upload| upload.staged().clone()).collect();
        // Without files so far, and without a word of where to begin, they begin where the unit's first rows are.
        let covered = Some(*self.covered.get_or_insert(position));
        Ok(Preparing { prepared: PreparedUnit { assignment, position, watermark, covered, files }, uploads })
    }
}

impl Sink for ParquetSink {
    fn take_over(&mut self, assignment: Assignment, unit: &StateUnit, covered: Offset) {
        self.units.insert(assignment, UnitFiles::new(unit.clone(), Some(covered)));
    }

    fn write(&mut self, batch: &RecordBatch, units: &Units) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let hidden = Hidden::of(batch)?;
        let columns = self.needed_columns(batch)?;
        let mut rows_by_unit: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, assignment) in (0..).zip(hidden.unit.values()) {
            rows_by_unit.entry(*assignment).or_default().push(row);
        }
        for (assignment, rows) in rows_by_unit {
            let assignment = Assignment(assignment);
            // Not ours any more: its rows are somebody else's to write.
            let Some(unit) = units.get(assignment) else { continue };
            let marks = rows.iter().map(|row| Self::mark(&hidden, *row as usize)).collect::<Result<Vec<_>>>()?;
            let of_unit = if rows.len() == columns.num_rows() {
                columns.clone()
            } else {
                take_record_batch(&columns, &UInt32Array::from(rows)).map_err(|error| {
                    Error::internal("rows of a unit cannot be taken from a batch").with_source(error)
                })?
            };
            let of_unit = self.file_columns(of_unit, unit)?;
            self.append(assignment, unit, &of_unit, &marks)?;
        }
        self.make_room()
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        if self.preparing.is_some() {
            return Err(Error::internal("a sink was asked to prepare before the last answer was taken"));
        }
        let now = (self.parts.clock)();
        let closing: BTreeSet<Assignment> = request.close.into_iter().collect();
        let mut preparing = Vec::with_capacity(request.upto.len());
        for (assignment, upto, unit) in request.upto {
            let files = self.units.entry(assignment).or_insert_with(|| UnitFiles::new(unit, None));
            let is_closing = closing.contains(&assignment);
            if let Some(open) = files.open.take_if(|open| is_closing || open.is_due(&self.limits, now)) {
                files.roll(open, Some(upto), &self.parts, self.retry)?;
            }
            preparing.push(files.prepare(assignment, upto)?);
        }
        // Also of units that close without being asked for: nothing of theirs can be published.
        self.units.retain(|assignment, _| !closing.contains(assignment));
        self.preparing = Some(preparing);
        Ok(())
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        let Some(preparing) = &mut self.preparing else {
            return Err(Error::internal("a sink that was not asked to prepare was asked for its answer"));
        };
        let mut is_done = true;
        for upload in preparing.iter_mut().flat_map(|preparing| &mut preparing.uploads) {
            is_done &= upload.poll()?;
        }
        if !is_done {
            return Ok(None);
        }
        Ok(self.preparing.take().map(|preparing| preparing.into_iter().map(|preparing| preparing.prepared).collect()))
    }

    fn forget(&mut self, units: &[Assignment]) {
        for assignment in units {
            self.units.remove(assignment);
        }
        // Staged files that are left are swept by the unit's next writer.
        if let Some(preparing) = &mut self.preparing {
            preparing.retain(|preparing| !units.contains(&preparing.prepared.assignment));
        }
    }
}

fn file_name(unit: &StateUnit, range: OffsetRange) -> String {
    format!(
        "{}--{}--{}--{:020}-{:020}.parquet",
        file_name_part(&unit.source),
        file_name_part(&unit.topic),
        unit.partition,
        range.start.get(),
        range.end.get()
    )
}

#[cfg(test)]
mod tests;
