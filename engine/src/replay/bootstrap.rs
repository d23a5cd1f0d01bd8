//! The first state of a pipeline, from stored history: the rows before a cut-over go through the windows, and each partition gets a
//! first checkpoint at its offset of the cut-over, from which a run goes on. A run reads the topic from there, so no row counts
//! twice, and none is missing if the history ends where the run begins; where both have positions that is checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use tokio::runtime::Runtime;

use super::needed::{Output, with_outputs};
use super::preview::{check_heard, positions};
use super::sort::{SORT_BYTES, Sorter};
use super::turn::Turns;
use super::{Input, Progress, check_names, open_files};
use crate::checkpoint::layout::file_name_part;
use crate::error::{Error, Result};
use crate::pipeline::settings::Partitioner;
use crate::pipeline::settings::{Pipeline, Place, Source, SourceConnector, SqlText, StartPosition};
use crate::plan::{Call, CallCheck, OperatorInfo, Refusal};
use crate::runtime::bootstrap::{FirstCheckpoint, publish};
use crate::runtime::{Alone, clock, plan_untrained, tasks};
use crate::source::files::StoredRows;
use crate::source::kafka::partition;
use crate::source::{AssignmentNumbers, Waker};
use crate::types::{Assignment, EventTime, HIDDEN_W, Hidden, Offset, StateUnit, Watermark, num_visible};

/// Where the run will begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutOver {
    /// Where the files of an archive end, partition by partition.
    EndOfArchive,
    /// As a source's `start` says it, asked of the topic now.
    At(StartPosition),
}

/// What to load, and where the run will begin.
#[derive(Debug, Clone)]
pub struct BootstrapSettings {
    /// Stored rows, one input for each source with windows.
    pub inputs: Vec<Input>,
    /// Where the run will begin.
    pub cut_over: CutOver,
    /// How the topic's producers choose partitions; needed for rows that do not say where they come from.
    pub partitioner: Option<Partitioner>,
    /// Longest wait for the topic's partitions.
    pub timeout: Duration,
}

/// What a partition begins with.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The partition.
    pub unit: StateUnit,
    /// Where a run goes on.
    pub offset: Offset,
    /// Rows of history that went through the windows.
    pub rows: u64,
}

/// Loads the state and publishes the first checkpoints. Refused where a partition has a checkpoint already.
pub fn bootstrap(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    settings: &BootstrapSettings,
    mut on_progress: impl FnMut(Progress),
) -> Result<Vec<Loaded>> {
    check_names(pipeline, &settings.inputs)?;
    refuse_repartition(pipeline)?;
    let io = tasks::io_runtime()?;
    let plan = plan_untrained(pipeline, &any_call())?;
    let (operators, fingerprint) = (plan.operators(), plan.fingerprint());
    let with_windows: BTreeSet<usize> = operators.iter().map(|operator| operator.source).collect();
    if with_windows.is_empty() {
        return Err(Error::invalid(format!(
            "pipeline {} has no windows, so there is no state to load; start it with `tidemill run`",
            pipeline.name
        )));
    }
    let kept = pipeline.sources.iter().map(|source| source.name.clone()).collect();
    let stateful = with_outputs(pipeline, outputs(&operators), &kept);
    let plan = plan_untrained(&stateful, &any_call())?;
    let (waker, _wake) = Waker::new();
    let alone = Alone::new(env, io.handle(), waker);
    let mut turns = Turns::new(&stateful, &plan)?;
    let numbers = AssignmentNumbers::default();
    let mut checkpoints = Vec::new();
    let mut loaded = Vec::new();
    for index in with_windows {
        let source = &stateful.sources[index];
        let context = |error: Error| error.context(format!("source {}", source.name));
        let input = settings.inputs.iter().find(|input| input.source == source.name).ok_or_else(|| {
            Error::invalid(format!(
                "source {} has windows and no input; name its stored rows: --input {}=path/",
                source.name, source.name
            ))
        })?;
        let rows = open_files(input, env, &io, &numbers).map_err(context)?;
        let cut_over = cut_over(source, &rows, settings, &alone).map_err(context)?;
        let partitioner = settings.partitioner.or_else(|| declared_partitioner(source));
        let mut loading = Loading::new(index, source, cut_over, partitioner, &numbers).map_err(context)?;
        loading.run(&io, rows, &mut turns, &mut on_progress).map_err(context)?;
        for part in loading.parts {
            loaded.push(Loaded { unit: part.unit.clone(), offset: part.offset, rows: part.rows });
            let (source, offset, watermark) = (index, part.offset, part.watermark);
            checkpoints.push(FirstCheckpoint {
                source,
                assignment: part.assignment,
                unit: part.unit,
                offset,
                watermark,
            });
        }
    }
    publish(pipeline, env, io.handle(), turns.into_graph(), fingerprint, &checkpoints)?;
    Ok(loaded)
}

#[derive(Debug)]
struct AnyCall;

impl CallCheck for AnyCall {
    fn check(&self, _: &Call) -> Result<(), Refusal> {
        Ok(())
    }
}

fn any_call() -> Arc<dyn CallCheck> {
    Arc::new(AnyCall)
}

/// A reader of each view that has windows: what stands behind them is of no interest, and may need a model.
fn outputs(operators: &[OperatorInfo]) -> Vec<Output> {
    let view = |operator: &OperatorInfo| operator.name.rsplit_once('.').map_or("", |(view, _)| view).to_owned();
    let views: BTreeSet<String> = operators.iter().map(view).collect();
    let output = |view: String| {
        let sql = format!("SELECT 1 AS one FROM \"{}\"", view.replace('"', "\"\""));
        Output { name: view, select: SqlText { sql, place: Place { file: "bootstrap".into(), line: 1, column: 1 } } }
    };
    views.into_iter().map(output).collect()
}

/// What the file says of the producers of a source's topic.
fn declared_partitioner(source: &Source) -> Option<Partitioner> {
    match &source.connector {
        SourceConnector::Kafka(kafka) => kafka.partitioner,
        SourceConnector::Files(_) | SourceConnector::Generator(_) => None,
    }
}

/// The state of windows behind an internal topic is kept by that topic's positions, and before the first run there are none.
fn refuse_repartition(pipeline: &Pipeline) -> Result<()> {
    let sources = pipeline.sources.iter().map(|source| ("source", &source.name, &source.repartition));
    let views = pipeline.views.iter().map(|view| ("view", &view.name, &view.repartition));
    match sources.chain(views).find(|(_, _, repartition)| repartition.is_some()) {
        None => Ok(()),
        Some((kind, name, _)) => Err(Error::invalid(format!(
            "{kind} {name} goes through a topic of its own (`repartition`), and windows behind one cannot be loaded from history: \
             the topic has no rows yet, so there is no place in it where a run could go on; expected a pipeline without \
             `repartition`; write the history to the topic of the source, in order of event time, and `start: earliest`"
        ))),
    }
}

/// Offsets of the cut-over, of all partitions.
fn cut_over(
    source: &Source,
    rows: &StoredRows,
    settings: &BootstrapSettings,
    alone: &Alone<'_>,
) -> Result<BTreeMap<StateUnit, Offset>> {
    let SourceConnector::Kafka(_) = &source.connector else {
        return Err(Error::invalid("it does not read a topic, so there is no place in one where a run could go on"));
    };
    let deadline = clock::now() + settings.timeout;
    let ask = |start| {
        let found = positions(source, alone, start, deadline)?;
        check_heard(source, found.is_some(), settings.timeout)?;
        Ok::<_, Error>(found.unwrap_or_default())
    };
    let oldest = ask(StartPosition::Earliest)?;
    let ends = match rows {
        StoredRows::Archive(archive) => archive.ends(),
        StoredRows::Plain(_) => BTreeMap::new(),
    };
    let end_of = |unit: &StateUnit| ends.get(&(file_name_part(&unit.topic), unit.partition)).copied();
    let wanted = match &settings.cut_over {
        CutOver::EndOfArchive if !rows.has_positions() => {
            return Err(Error::invalid(
                "the rows do not say where they come from, so where they end in the topic is not known; say where the run is to go \
                 on: --at earliest, latest, a time, or topic/partition=offset,...",
            ));
        }
        CutOver::EndOfArchive => {
            oldest.iter().map(|(unit, oldest)| (unit.clone(), end_of(unit).unwrap_or(*oldest))).collect()
        }
        CutOver::At(start) => ask(start.clone())?,
    };
    for (unit, offset) in &wanted {
        let begin = oldest.get(unit).copied().unwrap_or_default();
        let end = if rows.has_positions() { end_of(unit).unwrap_or_default() } else { *offset };
        if *offset < begin || end < *offset && begin < *offset {
            let (from, to) = if *offset < begin { (*offset, begin) } else { (end.max(begin), *offset) };
            return Err(Error::invalid(format!(
                "{unit}: records [{from}, {to}) would be in neither the history nor the run: the topic begins at {begin}, the \
                 history ends at {end}, and the cut-over is at {offset}; take it where both have the records"
            )));
        }
    }
    Ok(wanted)
}

/// A partition while its history is read.
#[derive(Debug)]
struct Part {
    unit: StateUnit,
    assignment: Assignment,
    offset: Offset,
    watermark: Watermark,
    rows: u64,
}

/// The history of one source on its way into the windows.
#[derive(Debug)]
struct Loading {
    source: usize,
    /// By partition.
    parts: Vec<Part>,
    keys: Vec<String>,
    partitioner: Option<Partitioner>,
}

impl Loading {
    fn new(
        index: usize,
        source: &Source,
        cut_over: BTreeMap<StateUnit, Offset>,
        partitioner: Option<Partitioner>,
        numbers: &AssignmentNumbers,
    ) -> Result<Loading> {
        let part =
            |(unit, offset)| Part { unit, assignment: numbers.next(), offset, watermark: Watermark::NONE, rows: 0 };
        let parts: Vec<Part> = cut_over.into_iter().map(part).collect();
        // In the order of partitions, so that a partition is its own place.
        let is_whole = parts.iter().enumerate().all(|(place, part)| usize::try_from(part.unit.partition) == Ok(place));
        if !is_whole {
            return Err(Error::invalid("history can be loaded for one topic with all its partitions"));
        }
        Ok(Loading { source: index, parts, keys: source.partitioned_by.clone(), partitioner })
    }

    fn run(
        &mut self,
        io: &Runtime,
        mut rows: StoredRows,
        turns: &mut Turns,
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        let bytes_total = rows.bytes_waiting();
        let mut tell = |turns: &Turns, waiting: u64| {
            let bytes_begun = bytes_total.saturating_sub(waiting);
            on_progress(Progress { read: turns.counts().read, bytes_begun, bytes_total });
        };
        if rows.has_positions() {
            while let Some(block) = io.block_on(rows.next())? {
                let accepted = turns.accept(self.source, block, rows.units())?;
                if let Some((place, batch)) = self.of_archive(&accepted.batch, &rows)? {
                    self.parts[place].rows += batch.num_rows() as u64;
                    turns.feed(self.source, batch)?;
                }
                tell(turns, rows.bytes_waiting());
            }
            return Ok(());
        }
        let partitioner = self.partitioner.ok_or_else(|| {
            Error::invalid(
                "the rows do not say which partition they belong to; say how the topic's producers choose it: --partitioner murmur2 \
                 (Java) or crc32 (librdkafka), or `partitioner` at the source, or load an archive with positions",
            )
        })?;
        let mut sorter = Sorter::by_event_time(io.handle(), &turns.inputs.schema(self.source), SORT_BYTES)?;
        while let Some(block) = io.block_on(rows.next())? {
            let accepted = turns.accept(self.source, block, rows.units())?;
            if accepted.batch.num_rows() > 0 {
                sorter.push(accepted.batch)?;
            }
            tell(turns, rows.bytes_waiting());
        }
        let mut sorted = sorter.finish();
        while let Some(batch) = sorted.next()? {
            let batch = self.by_key(&batch, partitioner)?;
            turns.feed(self.source, batch)?;
        }
        Ok(())
    }

    /// Rows of an archive below the cut-over, as rows of their partition here.
    fn of_archive(&mut self, batch: &RecordBatch, rows: &StoredRows) -> Result<Option<(usize, RecordBatch)>> {
        let hidden = Hidden::of(batch)?;
        if hidden.num_rows() == 0 {
            return Ok(None);
        }
        let unit = rows.units().get(Assignment(hidden.unit.value(0)));
        let place = unit.and_then(|unit| {
            self.parts.iter().position(|part| part.unit.topic == unit.topic && part.unit.partition == unit.partition)
        });
        let Some(place) = place else {
            let unit = unit.map(ToString::to_string).unwrap_or_default();
            return Err(Error::data(format!("the archive has rows of {unit}, which the topic does not have")));
        };
        let end = self.parts[place].offset.get();
        let before = hidden.offset.values().iter().map(|offset| Some(*offset < end)).collect();
        let batch = filter_record_batch(batch, &before).map_err(internal)?;
        let hidden = Hidden::of(&batch)?;
        let part = &mut self.parts[place];
        hidden.event_time.values().iter().for_each(|micros| part.watermark.advance(EventTime::from_micros(*micros)));
        let units = UInt32Array::from(vec![part.assignment.0; batch.num_rows()]);
        replaced(&batch, &[(0, Arc::new(units))]).map(|batch| Some((place, batch)))
    }

    /// Rows in the order of event time, each in the partition of its key, which has its own W and numbers its rows.
    fn by_key(&mut self, batch: &RecordBatch, partitioner: Partitioner) -> Result<RecordBatch> {
        let keys = self.key_texts(batch)?;
        let keys = keys.as_string::<i32>();
        let hidden = Hidden::of(batch)?;
        let num_partitions = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let (mut units, mut offsets, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            // A key that is null is written anywhere; such rows are nobody's history.
            let number = partition(partitioner, keys.value(row).as_bytes(), num_partitions);
            let part = &mut self.parts[usize::try_from(number).unwrap_or(0)];
            units.push(part.assignment.0);
            offsets.push(part.rows as i64);
            before.push(part.watermark.get().map(EventTime::as_micros));
            part.rows += 1;
            part.watermark.advance(EventTime::from_micros(hidden.event_time.value(row)));
        }
        let columns: [(usize, ArrayRef); 3] = [
            (0, Arc::new(UInt32Array::from(units))),
            (1, Arc::new(Int64Array::from(offsets))),
            (HIDDEN_W, Arc::new(Int64Array::from(before))),
        ];
        replaced(batch, &columns)
    }

    /// The message key that a producer gives a row: the one column of `partitioned_by`, as text.
    fn key_texts(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let [key] = self.keys.as_slice() else {
            return Err(Error::invalid(format!(
                "its key is made of {} columns, and how their text is joined is not known; load an archive with positions",
                self.keys.len()
            )));
        };
        let column = batch.column_by_name(key).ok_or_else(|| Error::internal("the rows lost their key"))?;
        cast(column, &DataType::Utf8).map_err(internal)
    }
}

fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal("rows of history cannot be given other positions").with_source(error)
}

/// `batch` with other hidden columns.
fn replaced(batch: &RecordBatch, hidden: &[(usize, ArrayRef)]) -> Result<RecordBatch> {
    let first = num_visible(batch);
    let mut columns = batch.columns().to_vec();
    for (index, column) in hidden {
        columns[first + index] = Arc::clone(column);
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(internal)
}
