//! Replay: the plan of a run over stored rows, from their beginning to their end. Models, checks, rejections and columns are those
//! of the run; positions, sinks and checkpoints are not touched. Rows come in one of two orders: as a run served them, which takes
//! an archive that says where its rows come from, or by event time, as if none had been late. The same input gives the same rows.

mod bootstrap;
mod bounded;
mod cases;
mod compare;
mod deal;
mod difference;
pub(crate) mod needed;
mod order;
pub(crate) mod output;
mod preview;
mod schedule;
mod sort;
mod tally;
mod turn;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_udfs::functions::Models;
use tokio::runtime::Runtime;

use crate::checkpoint::open_store;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::settings::{FileFormat, Pipeline, Source};
use crate::plan::Plan;
use crate::runtime::drift::DriftBoard;
use crate::runtime::{self, tasks};
use crate::source::AssignmentNumbers;
use crate::source::files::{FilesInOrder, StoredRows};
use crate::types::HIDDEN_COLUMNS;
pub use bootstrap::{BootstrapSettings, CutOver, Loaded, bootstrap};
#[cfg(feature = "lightgbm")]
pub(crate) use bounded::selecting;
pub use bounded::{KAFKA, ReadInput, ReadRows, select_each};
pub(crate) use cases::all_columns;
pub use cases::{CaseOutcome, run_cases};
pub use difference::{Difference, compare_files};
pub use order::Order;
use order::Reading;
pub use preview::{Preview, PreviewSettings, preview};
use schedule::Schedule;
pub use tally::{Counts, RejectedRecord};
use turn::Turns;

/// More workers than this are not made.
const WORKERS_MAX: usize = 128;

/// Workers of a replay for which nobody says how many: one for each processor.
#[must_use]
pub fn default_workers() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Stored rows that stand in for a source's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Name of the source.
    pub source: String,
    /// A file or a folder: a local path, `file://` or `s3://`.
    pub uri: String,
    /// Format of the files; `None`: as the names of the files say.
    pub format: Option<FileFormat>,
}

/// How far a replay has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Records read.
    pub read: u64,
    /// Bytes of files that were begun.
    pub bytes_begun: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
}

/// A replay that is ready to run: models loaded, plan compiled, files listed.
#[derive(Debug)]
pub struct Replay {
    io: Runtime,
    schemas: Vec<SchemaRef>,
    turns: Turns,
    /// In the pipeline's order.
    readings: Vec<Reading>,
    /// Whether a rejected record is an error.
    is_strict: bool,
}

/// All rows of a SELECT, and what became of the records.
#[derive(Debug, Clone)]
pub struct Selected {
    /// The columns of the SELECT.
    pub schema: SchemaRef,
    /// Its rows, in the order of the replay.
    pub batches: Vec<RecordBatch>,
    /// What was read, and what was rejected.
    pub counts: Counts,
}

impl Replay {
    /// Prepares a replay of all sinks of `pipeline` on `num_workers` threads; what comes out does not depend on their number.
    /// Each source that they reach needs an input. Without an `order` each
    /// source has its own: as served where its input says where its rows come from; else by event time where the pipeline has
    /// windows, and as the input has them where it has none.
    pub fn open(
        pipeline: &Pipeline,
        env: &BTreeMap<String, String>,
        inputs: &[Input],
        order: Option<Order>,
        num_workers: NonZeroUsize,
    ) -> Result<Replay> {
        Replay::open_with(pipeline, env, inputs, order, num_workers, None)
    }

    /// As [`Replay::open`]; with the checkpoints of a run in `models_of`, each row is scored by the model that scored it then.
    pub fn open_with(
        pipeline: &Pipeline,
        env: &BTreeMap<String, String>,
        inputs: &[Input],
        order: Option<Order>,
        num_workers: NonZeroUsize,
        models_of: Option<&str>,
    ) -> Result<Replay> {
        let compile =
            |pipeline: &Pipeline, io: &Runtime| runtime::compile_beside(pipeline, env, io.handle(), models_of);
        Replay::open_compiled(pipeline, env, inputs, order, num_workers, models_of, compile)
    }

    /// As [`Replay::open`], with every scored row shown to the board that `board` makes for the loaded models.
    pub(crate) fn open_observed(
        pipeline: &Pipeline,
        env: &BTreeMap<String, String>,
        inputs: &[Input],
        board: impl FnOnce(&Models) -> Result<Arc<DriftBoard>>,
    ) -> Result<Replay> {
        let compile = |pipeline: &Pipeline, io: &Runtime| runtime::compile_observed(pipeline, env, io.handle(), board);
        Replay::open_compiled(pipeline, env, inputs, None, default_workers(), None, compile)
    }

    fn open_compiled(
        pipeline: &Pipeline,
        env: &BTreeMap<String, String>,
        inputs: &[Input],
        order: Option<Order>,
        num_workers: NonZeroUsize,
        models_of: Option<&str>,
        compile: impl FnOnce(&Pipeline, &Runtime) -> Result<(Plan, Arc<Models>)>,
    ) -> Result<Replay> {
        check_names(pipeline, inputs)?;
        let pipeline = needed::needed(pipeline);
        let io = tasks::io_runtime()?;
        let (plan, models) = compile(&pipeline, &io)?;
        let read = |uri| {
            let of_source = |source: &Source| Schedule::read(&io, env, uri, &source.name, &models);
            pipeline.sources.iter().map(of_source).collect::<Result<Vec<_>>>()
        };
        let schedules = models_of.map(read).transpose()?;
        // Workers share the models, which one of them must not change under another.
        let has_changes = schedules.iter().flatten().any(Schedule::has_changes);
        let num_workers = if has_changes { 1 } else { num_workers.get().min(WORKERS_MAX) };
        let turns = Turns::for_workers(&pipeline, &plan, num_workers)?;
        let numbers = AssignmentNumbers::default();
        let has_windows = needed::may_have_windows(&pipeline);
        let behind = pipeline.views.iter().find(|view| view.repartition.is_some()).map(|view| view.name.as_str());
        let mut readings = Vec::new();
        for (index, source) in pipeline.sources.iter().enumerate() {
            let Some(input) = inputs.iter().find(|input| input.source == source.name) else {
                return Err(Error::invalid(format!(
                    "source {} has no input; name its stored rows: --input {}=path/",
                    source.name, source.name
                )));
            };
            let opened = open_files(input, env, &io, &numbers);
            let opened =
                opened.and_then(|rows| Reading::new(index, source, rows, order, has_windows, behind, &numbers));
            readings.push(opened.map_err(|error| error.context(format!("input of source {}", source.name)))?);
        }
        for (reading, schedule) in readings.iter_mut().zip(schedules.into_iter().flatten()) {
            reading.set_schedule(schedule)?;
        }
        let schema =
            |sink| turns.outputs.schema_with_positions(sink).cloned().unwrap_or_else(|| visible_schema(&plan, sink));
        let schemas = (0..pipeline.sinks.len()).map(schema).collect();
        Ok(Replay { io, schemas, turns, readings, is_strict: false })
    }

    /// Makes a rejected record an error.
    #[must_use]
    pub fn strict(mut self, is_strict: bool) -> Replay {
        self.is_strict = is_strict;
        self
    }

    /// The columns of a sink's rows, without the hidden ones.
    #[must_use]
    pub fn sink_schema(&self, sink: usize) -> SchemaRef {
        self.schemas[sink].clone()
    }

    /// In which order the rows of each source are read, in the pipeline's order of sources.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        self.readings.iter().map(Reading::order)
    }

    /// Reads everything: source by source in the pipeline's order, each in its order. Rows go to `on_rows` with the index of
    /// their sink.
    pub fn run(
        mut self,
        mut on_rows: impl FnMut(usize, RecordBatch) -> Result<()>,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<Counts> {
        let bytes_total = self.readings.iter().map(Reading::bytes_waiting).sum();
        let mut bytes_later: u64 = bytes_total;
        for reading in std::mem::take(&mut self.readings) {
            bytes_later = bytes_later.saturating_sub(reading.bytes_waiting());
            let on_turn = |event: order::Event<'_>| match event {
                order::Event::Rejected(rejected) if self.is_strict => {
                    Err(Error::data(format!("rejected: {rejected}; mend the rows, or replay without --strict")))
                }
                order::Event::Rejected(_) => Ok(()),
                order::Event::Rows(sink, batch) => on_rows(sink, batch),
                order::Event::Read { read, bytes_waiting } => {
                    let bytes_begun = bytes_total.saturating_sub(bytes_waiting + bytes_later);
                    on_progress(Progress { read, bytes_begun, bytes_total });
                    Ok(())
                }
            };
            reading.run(&self.io, &mut self.turns, on_turn)?;
        }
        Ok(self.turns.counts().clone())
    }
}

/// All rows of one SELECT over the sources and views of `pipeline`, in memory. Views, models and sources that it does not
/// need are left alone, so features can be selected before there is a model. Rows come as served where the input says where they
/// come from, late ones late, because that is how a model will see them.
pub fn select(pipeline: &Pipeline, env: &BTreeMap<String, String>, inputs: &[Input], sql: &str) -> Result<Selected> {
    let mut batches = Vec::new();
    let keep = |batch| {
        batches.push(batch);
        Ok(())
    };
    let read = select_each(pipeline, env, inputs, sql, keep, |_| {})?;
    Ok(Selected { schema: read.schema, batches, counts: read.counts })
}

/// Sources that do not exist, or that have two inputs.
fn check_names(pipeline: &Pipeline, inputs: &[Input]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for input in inputs {
        if !pipeline.sources.iter().any(|source| source.name == input.source) {
            let names: Vec<&str> = pipeline.sources.iter().map(|source| source.name.as_str()).collect();
            return Err(Error::invalid(format!(
                "no source is named `{}`; sources of this pipeline: {}",
                input.source,
                names.join(", ")
            )));
        }
        if !seen.insert(&input.source) {
            return Err(Error::invalid(format!(
                "source {} has two inputs; put the files into one folder",
                input.source
            )));
        }
    }
    Ok(())
}

fn visible_schema(plan: &Plan, sink: usize) -> SchemaRef {
    let schema = plan.sink_schema(sink);
    let num_visible = schema.fields().len().saturating_sub(HIDDEN_COLUMNS.len());
    Schema::new(schema.fields()[..num_visible].to_vec()).into()
}

fn open_files(
    input: &Input,
    env: &BTreeMap<String, String>,
    io: &Runtime,
    numbers: &AssignmentNumbers,
) -> Result<StoredRows> {
    let lookup = |name: &str| env.get(name).cloned();
    let (store, path) = open_store(&input.uri, &lookup)?;
    let open = |format| io.block_on(FilesInOrder::open(&input.source, store.clone(), &path, format, numbers));
    if let Some(format) = input.format.or_else(|| format_of_name(&input.uri)) {
        return io.block_on(StoredRows::of(open(format)?, numbers));
    }
    let found = |opened: Result<FilesInOrder>| match opened {
        Ok(files) => Ok(Some(files)),
        Err(error) if error.kind() == ErrorKind::Invalid => Ok(None),
        Err(error) => Err(error),
    };
    match (found(open(FileFormat::Parquet))?, found(open(FileFormat::JsonLines))?) {
        (Some(files), None) | (None, Some(files)) => io.block_on(StoredRows::of(files, numbers)),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "{} can be read as Parquet and as JSON lines; say which: --input-format parquet or jsonl",
            input.uri
        ))),
        (None, None) => Err(Error::invalid(format!(
            "no stored rows at {}: expected a file, or a folder with files that end in .parquet, .jsonl, .ndjson or .json",
            input.uri
        ))),
    }
}

fn format_of_name(uri: &str) -> Option<FileFormat> {
    let ends = |extensions: &[&str]| extensions.iter().any(|extension| uri.ends_with(extension));
    if ends(&[".parquet"]) {
        Some(FileFormat::Parquet)
    } else if ends(&[".jsonl", ".ndjson", ".json"]) {
        Some(FileFormat::JsonLines)
    } else {
        None
    }
}
