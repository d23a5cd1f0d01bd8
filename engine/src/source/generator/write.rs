//! The simulator to local files: Parquet with all cores, JSON lines in order of arrival.
//! A file or folder appears under its name only when it is complete and on disk; a name that is taken is refused, never replaced.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::error::GeneratorError;
use super::feed::FaultCounts;
use super::row::Kind;
use super::settings::{DAY_MS, GeneratorSettings};
use super::slots::AnyWorld;
use super::{RangeRows, Simulator, check_range, columns};

/// Rows of a row group, about.
const GROUP_ROWS: f64 = 262_144.0;
/// Row groups of a file in a folder.
const GROUPS_PER_FILE: usize = 16;

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows of Parquet, lines of JSON.
    pub rows: u64,
    /// Rows by kind, in the order of [`Kind::ALL`].
    pub rows_by_kind: [u64; Kind::ALL.len()],
    /// JSON lines only.
    pub faults: FaultCounts,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files, complete and on disk.
    pub files: Vec<PathBuf>,
}

impl Summary {
    /// Rows labelled as fraud.
    pub fn frauds(&self) -> u64 {
        self.rows - self.rows_by_kind[Kind::Honest.index()]
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> GeneratorError + use<'a> {
    move |source| GeneratorError::Io { action, path: path.to_owned(), source }
}

/// A path that is being filled under a temporary name beside it. Dropped before `publish`, it is removed.
#[derive(Debug)]
struct Staged {
    target: PathBuf,
    staging: PathBuf,
    is_published: bool,
}

impl Staged {
    fn new(target: &Path) -> Result<Self, GeneratorError> {
        if target.exists() {
            return Err(GeneratorError::Occupied { path: target.to_owned() });
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let staging = target.with_file_name(format!(".{name}.partial"));
        if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(io_error("create the folder", parent))?;
        }
        if staging.exists() {
            return Err(GeneratorError::Occupied { path: staging });
        }
        Ok(Self { target: target.to_owned(), staging, is_published: false })
    }

    fn publish(mut self) -> Result<(), GeneratorError> {
        fs::rename(&self.staging, &self.target).map_err(io_error("rename the finished output to", &self.target))?;
        self.is_published = true;
        let parent = self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder", parent))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_published {
            // The error that brought us here is the one to report; what is left is under a hidden, temporary name.
            drop(fs::remove_dir_all(&self.staging).or_else(|_| fs::remove_file(&self.staging)));
        }
    }
}

/// Writes the events of a range of event time to Parquet: to one file if the path ends in `.parquet`, else to a new folder of
/// `part-00000.parquet` and so on. The bytes do not depend on `threads`.
pub fn write_parquet(
    settings: GeneratorSettings,
    event_time_ms: Range<i64>,
    path: &Path,
    threads: usize,
) -> Result<Summary, GeneratorError> {
    check_range(&event_time_ms)?;
    let simulator = Simulator::new(settings)?;
    let staged = Staged::new(path)?;
    let is_file = path.extension().is_some_and(|e| e == "parquet");
    if !is_file {
        fs::create_dir(&staged.staging).map_err(io_error("create the folder", &staged.staging))?;
    }
    let chunks = chunks(&simulator.world, &event_time_ms);
    let mut output =
        ParquetOutput { simulator: &simulator, staged: &staged, is_file, open: None, summary: Summary::default() };
    let threads = threads.clamp(1, chunks.len());
    let factory = output.factory()?;
    std::thread::scope(|scope| {
        let mut finished = Vec::new();
        for worker in 0..threads {
            // One group waits while the next is made; more would only take memory.
            let (send, receive) = sync_channel(1);
            finished.push(receive);
            let (simulator, chunks, factory) = (&simulator, &chunks, &factory);
            scope.spawn(move || {
                for chunk in chunks.iter().skip(worker).step_by(threads) {
                    // Nobody listens any more once an error has ended the taking below.
                    if send.send(encode(simulator, factory, chunk.clone(), path)).is_err() {
                        return;
                    }
                }
            });
        }
        // Worker w makes the chunks w, w + threads, ...: taking from each in turn gives them in order.
        (0..chunks.len()).try_for_each(|i| match finished[i % threads].recv() {
            Ok(group) => output.append(group?),
            Err(_) => Err(GeneratorError::Io {
                action: "generate events for",
                path: path.to_owned(),
                source: std::io::Error::other("a worker thread died"),
            }),
        })
    })?;
    let summary = output.finish()?;
    staged.publish()?;
    Ok(summary)
}

/// Cuts a range into pieces of about a row group, at the same times whatever the number of threads.
fn chunks(world: &AnyWorld, range: &Range<i64>) -> Vec<Range<i64>> {
    let slot_ms = world.slot_ms();
    let rate_ms =
        world.settings().events_per_second() / 1000.0 / world.settings().shard.map_or(1.0, |s| f64::from(s.of));
    let slots = (GROUP_ROWS / (rate_ms * slot_ms as f64)).clamp(1.0, 366.0 * DAY_MS as f64 / slot_ms as f64) as i64;
    let step = slots * slot_ms;
    let mut chunks = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let end = ((start.div_euclid(step) + 1) * step).min(range.end);
        chunks.push(start..end);
        start = end;
    }
    chunks
}

struct Group {
    columns: Vec<ArrowColumnChunk>,
    rows_by_kind: [u64; Kind::ALL.len()],
}

/// Generates and encodes one piece.
fn encode(
    simulator: &Simulator,
    factory: &ArrowRowGroupWriterFactory,
    range: Range<i64>,
    path: &Path,
) -> Result<Group, GeneratorError> {
    let parquet_error = |source| GeneratorError::Parquet { path: path.to_owned(), source };
    let mut writers = factory.create_column_writers(0).map_err(parquet_error)?;
    let mut rows_by_kind = [0; Kind::ALL.len()];
    let mut rows = RangeRows::new(Arc::clone(&simulator.world), range);
    // Small batches stay in the cache between their making and their encoding.
    while let Some(rows) = rows.next(8_192) {
        for row in rows {
            rows_by_kind[row.kind.index()] += 1;
        }
        let batch = columns::to_batch(&simulator.world, &simulator.schema, rows)?;
        write_columns(&mut writers, &batch).map_err(parquet_error)?;
    }
    let columns = writers.into_iter().map(|w| w.close()).collect::<Result<_, _>>().map_err(parquet_error)?;
    Ok(Group { columns, rows_by_kind })
}

fn write_columns(
    writers: &mut [parquet::arrow::arrow_writer::ArrowColumnWriter],
    batch: &RecordBatch,
) -> Result<(), ParquetError> {
    let mut writers = writers.iter_mut();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        for leaf in compute_leaves(field, column)? {
            match writers.next() {
                Some(writer) => writer.write(&leaf)?,
                None => return Err(ParquetError::General("more columns than writers".to_owned())),
            }
        }
    }
    Ok(())
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let column = |name: &str| ColumnPath::from(name);
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // Ids and amounts do not repeat enough for a dictionary to pay.
        .set_column_dictionary_enabled(column("transaction_id"), false)
        .set_column_statistics_enabled(column("transaction_id"), EnabledStatistics::None)
        .set_column_dictionary_enabled(column("amount"), false)
        .set_column_dictionary_enabled(column("timestamp"), false)
        .set_column_encoding(column("timestamp"), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(column("device_id"), false)
        .build())
}

struct OpenFile {
    writer: SerializedFileWriter<BufWriter<File>>,
    path: PathBuf,
    groups: usize,
}

struct ParquetOutput<'a> {
    simulator: &'a Simulator,
    staged: &'a Staged,
    is_file: bool,
    open: Option<OpenFile>,
    summary: Summary,
}

impl ParquetOutput<'_> {
    fn parquet_error(&self, source: ParquetError) -> GeneratorError {
        GeneratorError::Parquet { path: self.staged.target.clone(), source }
    }

    /// What makes the column writers; it needs no file.
    fn factory(&self) -> Result<ArrowRowGroupWriterFactory, GeneratorError> {
        let make =
            || ArrowWriter::try_new(Vec::new(), self.simulator.schema(), Some(properties()?))?.into_serialized_writer();
        make().map(|(_, factory)| factory).map_err(|e| self.parquet_error(e))
    }

    fn file(&mut self) -> Result<OpenFile, GeneratorError> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let part = format!("part-{:05}.parquet", self.summary.files.len());
        let (path, target) = if self.is_file {
            (self.staged.staging.clone(), self.staged.target.clone())
        } else {
            (self.staged.staging.join(&part), self.staged.target.join(&part))
        };
        let file = File::create_new(&path).map_err(io_error("create the file", &path))?;
        self.summary.files.push(target);
        let make = || {
            ArrowWriter::try_new(BufWriter::new(file), self.simulator.schema(), Some(properties()?))?
                .into_serialized_writer()
        };
        let (writer, _) = make().map_err(|e| self.parquet_error(e))?;
        Ok(OpenFile { writer, path, groups: 0 })
    }

    fn append(&mut self, group: Group) -> Result<(), GeneratorError> {
        for (sum, num) in self.summary.rows_by_kind.iter_mut().zip(group.rows_by_kind) {
            *sum += num;
            self.summary.rows += num;
        }
        if group.rows_by_kind.iter().sum::<u64>() == 0 {
            return Ok(());
        }
        let mut open = self.file()?;
        let append = |open: &mut OpenFile| {
            let mut row_group = open.writer.next_row_group()?;
            for column in group.columns {
                column.append_to_row_group(&mut row_group)?;
            }
            row_group.close().map(|_| ())
        };
        append(&mut open).map_err(|e| self.parquet_error(e))?;
        open.groups += 1;
        if open.groups >= GROUPS_PER_FILE && !self.is_file {
            return self.close(open);
        }
        self.open = Some(open);
        Ok(())
    }

    fn close(&mut self, open: OpenFile) -> Result<(), GeneratorError> {
        let buffer = open.writer.into_inner().map_err(|e| self.parquet_error(e))?;
        let file = buffer.into_inner().map_err(|e| io_error("write", &open.path)(e.into_error()))?;
        file.sync_all().map_err(io_error("sync", &open.path))?;
        self.summary.bytes += file.metadata().map_err(io_error("read the size of", &open.path))?.len();
        Ok(())
    }

    /// Closes the last file; a range without events still gives one, so that readers find the schema.
    fn finish(mut self) -> Result<Summary, GeneratorError> {
        if self.open.is_some() || self.summary.files.is_empty() {
            let open = self.file()?;
            self.close(open)?;
        }
        Ok(self.summary)
    }
}

/// Writes the records that arrive in a range to a file of JSON lines, in order of arrival. Malformed values that hold a line break
/// would break the file; none of ours does. An empty value is an empty line.
pub fn write_jsonl(
    settings: GeneratorSettings,
    arrival_ms: Range<i64>,
    path: &Path,
) -> Result<Summary, GeneratorError> {
    let simulator = Simulator::new(settings)?;
    let records = simulator.records(arrival_ms)?;
    let staged = Staged::new(path)?;
    let file = File::create_new(&staged.staging).map_err(io_error("create the file", &staged.staging))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut summary = Summary { files: vec![path.to_owned()], ..Summary::default() };
    for block in records {
        for record in block?.iter() {
            summary.rows += 1;
            summary.rows_by_kind[record.kind.index()] += 1;
            summary.faults.add(record.fault);
            summary.bytes += record.value.len() as u64 + 1;
            out.write_all(record.value)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(io_error("write", &staged.staging))?;
        }
    }
    let file = out.into_inner().map_err(|e| io_error("write", &staged.staging)(e.into_error()))?;
    file.sync_all().map_err(io_error("sync", &staged.staging))?;
    drop(file);
    staged.publish()?;
    Ok(summary)
}
