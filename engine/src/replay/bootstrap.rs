//! The first state of a pipeline, from stored history: the rows before a cut-over go through the windows, and each partition gets a
//! first checkpoint at its offset of the cut-over, from which a run goes on. A run reads the topic from there, so no row counts
//! twice, and none is missing if the history ends where the run begins; where both have positions that is checked. Where the
//! pipeline goes through topics of its own, so do the rows of history, stage by stage, without being written to them.

mod loading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use loading::{Keying, Loading, Part, parts};
use tokio::runtime::Runtime;

use super::needed::with_sinks;
use super::preview::{check_heard, positions};
use super::sort::{SORT_BYTES, Sorter};
use super::turn::Turns;
use super::{Input, Progress, check_names, open_files};
use crate::checkpoint::layout::file_name_part;
use crate::error::{Error, Result};
use crate::pipeline::settings::{
    InternalTopic, Partitioner, Pipeline, Place, Sink, SinkConnector, Source, SourceConnector, SqlText, StartPosition,
};
use crate::plan::{Call, CallCheck, OperatorInfo, Refusal};
use crate::runtime::bootstrap::publish;
use crate::runtime::{Alone, clock, feeding_windows, make_topics, plan_untrained, staged_untrained, table_name, tasks};
use crate::source::files::StoredRows;
use crate::source::{AssignmentNumbers, Waker};
use crate::types::{Offset, StateUnit};

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
    let io = tasks::io_runtime()?;
    let staged = staged_untrained(pipeline, &any_call())?;
    let plan = plan_untrained(&staged, &any_call())?;
    let (operators, fingerprint) = (plan.operators(), plan.fingerprint());
    if operators.is_empty() {
        return Err(Error::invalid(format!(
            "pipeline {} has no windows, so there is no state to load; start it with `tidemill run`",
            pipeline.name
        )));
    }
    let feeding = feeding_windows(&staged, &plan);
    let stateful = stateful(&staged, &operators, &feeding);
    let plan = plan_untrained(&stateful, &any_call())?;
    make_topics(&staged)?;
    let (waker, _wake) = Waker::new();
    let mut bootstrap = Bootstrap {
        pipeline: &stateful,
        settings,
        env,
        io: &io,
        alone: Alone::new(env, io.handle(), waker),
        turns: Turns::new(&stateful, &plan)?,
        with_windows: operators.iter().map(|operator| operator.source).collect(),
        numbers: AssignmentNumbers::default(),
        going_on: BTreeMap::new(),
    };
    let mut checkpoints = Vec::new();
    // A source that reads an internal topic stands behind those whose rows go in.
    for source in feeding {
        let context = |error: Error| error.context(format!("source {}", table_name(&stateful.sources[source])));
        let parts = bootstrap.source(source, &mut on_progress).map_err(context)?;
        checkpoints.extend(parts.into_iter().map(|part| (source, part)));
    }
    let loaded = checkpoints.iter().map(|(_, part)| part.loaded()).collect();
    let checkpoints: Vec<_> = checkpoints.into_iter().map(|(source, part)| part.checkpoint(source)).collect();
    publish(&staged, env, io.handle(), bootstrap.turns.into_graph(), fingerprint, &checkpoints)?;
    Ok(loaded)
}

/// What a bootstrap has at hand.
struct Bootstrap<'a> {
    /// In stages, without what the windows do not need.
    pipeline: &'a Pipeline,
    settings: &'a BootstrapSettings,
    env: &'a BTreeMap<String, String>,
    io: &'a Runtime,
    alone: Alone<'a>,
    turns: Turns,
    with_windows: BTreeSet<usize>,
    numbers: AssignmentNumbers,
    /// By the name of an internal topic's source: the rows that would have gone through it. They come out by event time, as all
    /// history does; what is left of them in the windows does not depend on it.
    going_on: BTreeMap<String, Sorter>,
}

impl Bootstrap<'_> {
    /// Loads the history of one source.
    fn source(&mut self, index: usize, on_progress: &mut impl FnMut(Progress)) -> Result<Vec<Part>> {
        let source = &self.pipeline.sources[index];
        if let Some(internal) = &source.internal {
            let parts = parts(self.empty_topic(source, internal)?, &self.numbers)?;
            let mut loading = Loading { source: index, parts, keys: Keying::Internal(&internal.by) };
            if let Some(rows) = self.going_on.remove(&source.name) {
                self.sorted(&mut loading, rows)?;
            }
            return Ok(loading.parts);
        }
        let name = table_name(source);
        let input = self.settings.inputs.iter().find(|input| input.source == name).ok_or_else(|| {
            Error::invalid(format!("it has windows and no input; name its stored rows: --input {name}=path/"))
        })?;
        let rows = open_files(input, self.env, self.io, &self.numbers)?;
        // The positions in an archive of a repartitioned source are those of its internal topic.
        let has_positions = rows.has_positions() && name == source.name;
        let cut_over = self.cut_over(source, &rows, has_positions)?;
        let partitioner = self.settings.partitioner.or_else(|| declared_partitioner(source));
        let keys = if has_positions {
            Keying::Archived
        } else if !self.with_windows.contains(&index) {
            Keying::Nothing
        } else {
            Keying::Columns(&source.partitioned_by, partitioner.ok_or_else(no_partitioner)?)
        };
        let mut loading = Loading { source: index, parts: parts(cut_over, &self.numbers)?, keys };
        self.files(&mut loading, rows, on_progress)?;
        Ok(loading.parts)
    }

    fn files(
        &mut self,
        loading: &mut Loading<'_>,
        mut rows: StoredRows,
        on_progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        let bytes_total = rows.bytes_waiting();
        let mut tell = |turns: &Turns, waiting: u64| {
            let bytes_begun = bytes_total.saturating_sub(waiting);
            on_progress(Progress { read: turns.counts().read, bytes_begun, bytes_total });
        };
        let is_archived = matches!(loading.keys, Keying::Archived);
        let schema = self.turns.inputs.schema(loading.source);
        let mut sorter = Sorter::by_event_time(self.io.handle(), &schema, SORT_BYTES)?;
        while let Some(block) = self.io.block_on(rows.next())? {
            let accepted = self.turns.accept(loading.source, block, rows.units())?;
            if is_archived {
                if let Some(batch) = loading.of_archive(&accepted.batch, &rows)? {
                    self.feed(loading.source, batch)?;
                }
            } else if accepted.batch.num_rows() > 0 {
                sorter.push(accepted.batch)?;
            }
            tell(&self.turns, rows.bytes_waiting());
        }
        self.sorted(loading, sorter)
    }

    /// Feeds rows in the order of event time, each in the partition of its key.
    fn sorted(&mut self, loading: &mut Loading<'_>, rows: Sorter) -> Result<()> {
        let schema = self.turns.inputs.schema(loading.source);
        let mut sorted = rows.finish();
        while let Some(batch) = sorted.next()? {
            let batch = loading.by_key(&batch, &schema)?;
            self.feed(loading.source, batch)?;
        }
        Ok(())
    }

    /// Puts rows through the windows, and keeps what a run would write into internal topics.
    fn feed(&mut self, source: usize, batch: RecordBatch) -> Result<()> {
        let out = self.turns.feed(source, batch)?;
        for (sink, batches) in self.pipeline.sinks.iter().zip(out) {
            let SinkConnector::Internal(internal) = &sink.connector else { continue };
            let Some(reader) = self.pipeline.sources.iter().find(|source| reads(source, internal)) else { continue };
            for batch in batches {
                if !self.going_on.contains_key(&reader.name) {
                    let sorter = Sorter::by_event_time(self.io.handle(), &batch.schema(), SORT_BYTES)?;
                    self.going_on.insert(reader.name.clone(), sorter);
                }
                if let Some(sorter) = self.going_on.get_mut(&reader.name) {
                    sorter.push(batch)?;
                }
            }
        }
        Ok(())
    }

    /// The partitions of an internal topic, where a run goes on: it must hold nothing yet.
    fn empty_topic(&self, source: &Source, internal: &InternalTopic) -> Result<BTreeMap<StateUnit, Offset>> {
        let (oldest, ends) = (self.ask(source, StartPosition::Earliest)?, self.ask(source, StartPosition::Latest)?);
        if oldest != ends {
            return Err(Error::invalid(format!(
                "its internal topic `{}` holds records already, which were written without this history; name another topic under \
                 `repartition`, or delete that one",
                internal.topic
            )));
        }
        Ok(ends)
    }

    fn ask(&self, source: &Source, start: StartPosition) -> Result<BTreeMap<StateUnit, Offset>> {
        let timeout = self.settings.timeout;
        let found = positions(source, &self.alone, start, clock::now() + timeout)?;
        check_heard(source, found.is_some(), timeout)?;
        Ok(found.unwrap_or_default())
    }

    /// Offsets of the cut-over, of all partitions of a topic that is not ours.
    fn cut_over(&self, source: &Source, rows: &StoredRows, has_positions: bool) -> Result<BTreeMap<StateUnit, Offset>> {
        let SourceConnector::Kafka(_) = &source.connector else {
            return Err(Error::invalid(
                "it does not read a topic, so there is no place in one where a run could go on",
            ));
        };
        let oldest = self.ask(source, StartPosition::Earliest)?;
        let ends = match rows {
            StoredRows::Archive(archive) if has_positions => archive.ends(),
            StoredRows::Archive(_) | StoredRows::Plain(_) => BTreeMap::new(),
        };
        let end_of = |unit: &StateUnit| ends.get(&(file_name_part(&unit.topic), unit.partition)).copied();
        let wanted = match &self.settings.cut_over {
            CutOver::EndOfArchive if !has_positions => {
                return Err(Error::invalid(
                    "the rows do not say where in the topic they come from, so where they end in it is not known; say where the run is \
                     to go on: --at earliest, latest, a time, or topic/partition=offset,...",
                ));
            }
            CutOver::EndOfArchive => {
                oldest.iter().map(|(unit, oldest)| (unit.clone(), end_of(unit).unwrap_or(*oldest))).collect()
            }
            CutOver::At(start) => self.ask(source, start.clone())?,
        };
        for (unit, offset) in &wanted {
            let begin = oldest.get(unit).copied().unwrap_or_default();
            let end = if has_positions { end_of(unit).unwrap_or_default() } else { *offset };
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

/// What the windows of a pipeline in stages need: what stands behind them is of no interest, and may need a model.
fn stateful(staged: &Pipeline, operators: &[OperatorInfo], feeding: &BTreeSet<usize>) -> Pipeline {
    let kept = staged.sources.iter().map(|source| source.name.clone()).collect();
    let is_fed = |internal: &InternalTopic| feeding.iter().any(|place| reads(&staged.sources[*place], internal));
    let goes_on = |sink: &&Sink| matches!(&sink.connector, SinkConnector::Internal(internal) if is_fed(internal));
    let sinks = readers(operators).into_iter().chain(staged.sinks.iter().filter(goes_on).cloned()).collect();
    with_sinks(staged, sinks, &kept)
}

fn reads(source: &Source, internal: &InternalTopic) -> bool {
    source.internal.as_ref().is_some_and(|one| one.topic == internal.topic)
}

/// A sink for each view that has windows.
fn readers(operators: &[OperatorInfo]) -> Vec<Sink> {
    let view = |operator: &OperatorInfo| operator.name.rsplit_once('.').map_or("", |(view, _)| view).to_owned();
    let views: BTreeSet<String> = operators.iter().map(view).collect();
    let reader = |view: String| {
        let sql = format!("SELECT 1 AS one FROM \"{}\"", view.replace('"', "\"\""));
        let select = SqlText { sql, place: Place { file: "bootstrap".into(), line: 1, column: 1 } };
        Sink { name: view, select, connector: SinkConnector::Console }
    };
    views.into_iter().map(reader).collect()
}

/// What the file says of the producers of a source's topic.
fn declared_partitioner(source: &Source) -> Option<Partitioner> {
    match &source.connector {
        SourceConnector::Kafka(kafka) => kafka.partitioner,
        SourceConnector::Files(_) | SourceConnector::Generator(_) => None,
    }
}

fn no_partitioner() -> Error {
    Error::invalid(
        "the rows do not say which partition they belong to; say how the topic's producers choose it: --partitioner murmur2 (Java) or \
         crc32 (librdkafka), or `partitioner` at the source, or load an archive with positions",
    )
}
