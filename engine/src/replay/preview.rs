//! A preview: some live records through the plan, for a person to look at. It joins no group, commits nothing and writes
//! nothing; what it reads, a run reads as if there had been no preview.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use crossbeam_channel::RecvTimeoutError;

use super::cases::all_columns;
use super::needed::{Output, with_outputs};
use super::order::OneUnit;
use super::tally::Counts;
use super::turn::Turns;
use super::visible_schema;
use crate::error::{Error, Result};
use crate::pipeline::settings::{
    self, DataLossPolicy, Pipeline, Place, SourceConnector, SqlText, StartPosition, Until,
};
use crate::runtime::{self, Alone, clock, tasks};
use crate::source::files::FileBlock;
use crate::source::{Source, SourceEvent, StartAt, Waker};
use crate::types::{Assignment, Offset, StateUnit, Units};

/// What is previewed.
#[derive(Debug, Clone)]
pub struct PreviewSettings {
    /// Rows of each table, at most.
    pub num_rows: usize,
    /// Sinks, views and sources by name; none: the last view, or without views the first source.
    pub tables: Vec<String>,
    /// Longest wait for rows.
    pub timeout: Duration,
    /// Whether topics are read from where the pipeline's `start` says, and not from near their end.
    pub from_start: bool,
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Rows of each table, by name.
    pub tables: Vec<(String, RecordBatch)>,
    /// The records behind them.
    pub counts: Counts,
}

/// Records that are read of each partition for each row that is wanted: a view may let few of them through.
const RECORDS_PER_ROW: i64 = 100;
/// Longest sleep while nothing is heard.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// Time for a source to leave.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Reads until every table has its rows, until the sources have no more for now, or until the time is over.
pub fn preview(pipeline: &Pipeline, env: &BTreeMap<String, String>, settings: &PreviewSettings) -> Result<Preview> {
    let outputs = outputs(pipeline, &settings.tables)?;
    let pipeline = with_outputs(pipeline, outputs, &BTreeSet::new());
    let deadline = clock::now() + settings.timeout;
    let io = tasks::io_runtime()?;
    let (plan, _) = runtime::compile(&pipeline, env, io.handle())?;
    let (waker, wake) = Waker::new();
    let alone = Alone::new(env, io.handle(), waker);
    let mut feeds = Vec::new();
    for source in &pipeline.sources {
        let mut source = source.clone();
        let (mut starts, mut is_near_end) = (BTreeMap::new(), false);
        if let SourceConnector::Kafka(kafka) = &mut source.connector {
            // Where the log ends by now is no end: more may be on its way.
            (kafka.until, kafka.on_data_loss) = (Until::Forever, DataLossPolicy::Continue);
            if !settings.from_start {
                is_near_end = true;
            }
        }
        if is_near_end {
            starts = near_end(&source, &alone, settings, deadline)?;
        }
        feeds.push(Feed {
            source: alone.open(&source)?,
            starts,
            units: Units::default(),
            one_unit: goes_on_by_key(&pipeline, &source).then(|| OneUnit::new(alone.number())),
            is_assigned: false,
            has_ended: false,
        });
    }
    let mut reading = Reading {
        turns: Turns::new(&pipeline, &plan)?,
        tables: vec![Vec::new(); pipeline.sinks.len()],
        num_rows: settings.num_rows,
    };
    let outcome = read(&mut feeds, &mut reading, &wake, deadline);
    feeds.iter_mut().for_each(|feed| close(&mut *feed.source));
    outcome?;
    for (source, feed) in pipeline.sources.iter().zip(&feeds) {
        check_heard(source, feed.is_assigned, settings.timeout)?;
    }
    let mut tables = Vec::new();
    for (index, sink) in pipeline.sinks.iter().enumerate() {
        let rows = concat_batches(&visible_schema(&plan, index), &reading.tables[index]);
        let rows =
            rows.map_err(|error| Error::internal("rows of one table differ in their columns").with_source(error))?;
        tables.push((sink.name.clone(), rows));
    }
    Ok(Preview { tables, counts: reading.turns.counts().clone() })
}

/// A topic without records is a preview without rows; a cluster that did not even name its partitions is an error.
pub(super) fn check_heard(source: &settings::Source, is_assigned: bool, timeout: Duration) -> Result<()> {
    match &source.connector {
        SourceConnector::Kafka(kafka) if !is_assigned => Err(Error::unavailable(format!(
            "source `{}`: kafka at {} did not answer within {timeout:?}; check `bootstrap_servers` and that the cluster can be \
             reached from here, or try a longer --timeout",
            source.name, kafka.connection.bootstrap_servers,
        ))),
        _ => Ok(()),
    }
}

/// A source that does not close in time ends with the process; nobody waits for it.
pub(super) fn close(source: &mut dyn Source) {
    if let Err(error) = source.close(CLOSE_WAIT) {
        tracing::debug!(%error, "a source did not close");
    }
}

/// Whether a run sends the rows of a source through a topic of another key, on their way or at once.
fn goes_on_by_key(pipeline: &Pipeline, source: &settings::Source) -> bool {
    source.repartition.is_some() || pipeline.views.iter().any(|view| view.repartition.is_some())
}

/// The SELECT behind each table.
fn outputs(pipeline: &Pipeline, wanted: &[String]) -> Result<Vec<Output>> {
    let (sinks, views, sources) = (&pipeline.sinks, &pipeline.views, &pipeline.sources);
    let place = |text: Option<&SqlText>| {
        text.map_or(Place { file: pipeline.folder.clone(), line: 1, column: 1 }, |text| text.place.clone())
    };
    let select = |name: &str| {
        if let Some(sink) = sinks.iter().find(|sink| sink.name == name) {
            return Some(sink.select.clone());
        }
        let view = views.iter().find(|view| view.name == name).map(|view| &view.query);
        (view.is_some() || sources.iter().any(|source| source.name == name)).then(|| all_columns(name, &place(view)))
    };
    let last = views.last().map(|view| &view.name).or_else(|| sources.first().map(|source| &source.name));
    let names: Vec<&String> = if wanted.is_empty() { last.into_iter().collect() } else { wanted.iter().collect() };
    let output = |name: &String| {
        let select = select(name).ok_or_else(|| {
            let known = views.iter().map(|view| view.name.as_str());
            let known = known.chain(sinks.iter().map(|sink| sink.name.as_str()));
            let known: Vec<&str> = known.chain(sources.iter().map(|source| source.name.as_str())).collect();
            Error::invalid(format!("no view, sink or source is named `{name}`; there are: {}", known.join(", ")))
        })?;
        Ok(Output { name: name.clone(), select })
    };
    names.into_iter().map(output).collect()
}

/// A source that is read, and where its partitions start if not as configured.
#[derive(Debug)]
struct Feed {
    source: Box<dyn Source>,
    starts: BTreeMap<StateUnit, Offset>,
    units: Units,
    /// For all partitions: a run brings the rows of a key together.
    one_unit: Option<OneUnit>,
    is_assigned: bool,
    has_ended: bool,
}

impl Feed {
    /// Whether there is nothing more for now.
    fn is_at_end(&self) -> bool {
        let progress = self.source.progress();
        let is_behind = |end: Option<Offset>, position: Offset| end.is_none_or(|end| position < end);
        self.has_ended || (self.is_assigned && !progress.iter().any(|one| is_behind(one.end, one.position)))
    }
}

/// Rows so far.
#[derive(Debug)]
struct Reading {
    turns: Turns,
    tables: Vec<Vec<RecordBatch>>,
    num_rows: usize,
}

impl Reading {
    fn is_full(&self) -> bool {
        let num_rows = |batches: &Vec<RecordBatch>| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.tables.iter().all(|batches| num_rows(batches) >= self.num_rows)
    }

    fn take(&mut self, source: usize, block: FileBlock, units: &Units, one_unit: Option<&mut OneUnit>) -> Result<()> {
        let turn = match one_unit {
            None => self.turns.take(source, block, units)?,
            Some(one_unit) => self.turns.take_as_one(source, block, units, one_unit)?,
        };
        for (table, batches) in self.tables.iter_mut().zip(turn.outputs) {
            keep(table, batches, self.num_rows);
        }
        Ok(())
    }
}

/// Adds to the rows of a table as many as are still wanted: while another table waits for its rows, the full ones do not grow.
fn keep(table: &mut Vec<RecordBatch>, batches: Vec<RecordBatch>, num_rows: usize) {
    let mut wanted = num_rows.saturating_sub(table.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        if wanted == 0 {
            return;
        }
        let part = batch.slice(0, batch.num_rows().min(wanted));
        wanted -= part.num_rows();
        table.push(part);
    }
}

fn read(
    feeds: &mut [Feed],
    reading: &mut Reading,
    wake: &crossbeam_channel::Receiver<()>,
    deadline: Instant,
) -> Result<()> {
    let mut num_quiet = 0;
    while clock::now() < deadline && !reading.is_full() {
        let mut heard = false;
        for (index, feed) in feeds.iter_mut().enumerate() {
            while let Some(event) = feed.source.next_event()? {
                heard = true;
                match event {
                    SourceEvent::Records(block) => {
                        reading.take(index, FileBlock::Records(block), &feed.units, feed.one_unit.as_mut())?;
                    }
                    SourceEvent::Rows(block) => {
                        reading.take(index, FileBlock::Rows(block), &feed.units, feed.one_unit.as_mut())?;
                    }
                    SourceEvent::Assigned(units) => begin(feed, units)?,
                    SourceEvent::End => feed.has_ended = true,
                    SourceEvent::Revoked(gone) | SourceEvent::Lost(gone) => feed.source.release(&gone)?,
                    SourceEvent::DataLost { .. } => {}
                }
                if reading.is_full() || clock::now() >= deadline {
                    return Ok(());
                }
            }
        }
        let is_at_end = feeds.iter().all(Feed::is_at_end);
        let has_more_to_come = feeds.iter().any(|feed| !feed.has_ended);
        num_quiet = if heard { 0 } else { num_quiet + 1 };
        // Twice: between the last event and the look at the positions more may have come.
        if num_quiet >= 2 && is_at_end && (reading.turns.counts().read > 0 || !has_more_to_come) {
            return Ok(());
        }
        if !heard && wake.recv_timeout(IDLE_WAIT) == Err(RecvTimeoutError::Disconnected) {
            std::thread::sleep(IDLE_WAIT);
        }
    }
    Ok(())
}

fn begin(feed: &mut Feed, units: Vec<(Assignment, StateUnit)>) -> Result<()> {
    let mut starts = Vec::with_capacity(units.len());
    for (assignment, unit) in units {
        starts
            .push((assignment, feed.starts.get(&unit).map_or(StartAt::Configured, |offset| StartAt::Stored(*offset))));
        feed.units.insert(assignment, unit);
    }
    feed.source.start(&starts)?;
    feed.is_assigned = true;
    Ok(())
}

/// Positions a little before the ends of a source's partitions, but none before the oldest record: that would be told as data
/// that was lost.
fn near_end(
    settings: &settings::Source,
    alone: &Alone<'_>,
    preview: &PreviewSettings,
    deadline: Instant,
) -> Result<BTreeMap<StateUnit, Offset>> {
    let back = i64::try_from(preview.num_rows).unwrap_or(i64::MAX).saturating_mul(RECORDS_PER_ROW);
    let ask = |start| {
        let found = positions(settings, alone, start, deadline)?;
        check_heard(settings, found.is_some(), preview.timeout)?;
        Ok::<_, Error>(found.unwrap_or_default())
    };
    let (ends, oldest) = (ask(StartPosition::Latest)?, ask(StartPosition::Earliest)?);
    let start = |(unit, end): (StateUnit, Offset)| {
        // A partition that is new by now is read as the pipeline says.
        let oldest = *oldest.get(&unit)?;
        Some((unit, Offset::new(end.get().saturating_sub(back).max(0))?.max(oldest)))
    };
    Ok(ends.into_iter().filter_map(start).collect())
}

/// Where a source's partitions begin with `start`; `None` when they were not named in time.
pub(super) fn positions(
    settings: &settings::Source,
    alone: &Alone<'_>,
    start: StartPosition,
    deadline: Instant,
) -> Result<Option<BTreeMap<StateUnit, Offset>>> {
    let mut settings = settings.clone();
    if let SourceConnector::Kafka(kafka) = &mut settings.connector {
        kafka.start = start;
    }
    let mut source = alone.open(&settings)?;
    let mut positions = None;
    while positions.is_none() && clock::now() < deadline {
        let Some(event) = source.next_event()? else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        if let SourceEvent::Assigned(units) = event {
            let starts: Vec<_> = units.iter().map(|(assignment, _)| (*assignment, StartAt::Configured)).collect();
            let found: BTreeMap<Assignment, Offset> = source.start(&starts)?.into_iter().collect();
            let position = |(assignment, unit): (Assignment, StateUnit)| Some((unit, *found.get(&assignment)?));
            positions = Some(units.into_iter().filter_map(position).collect());
        }
    }
    close(&mut *source);
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_table_keeps_the_first_rows_that_are_wanted_and_no_more() {
        let batch = |numbers: std::ops::Range<i64>| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
            RecordBatch::try_from_iter([("n", numbers)]).unwrap()
        };
        let mut table = Vec::new();
        keep(&mut table, vec![batch(0..2)], 5);
        keep(&mut table, vec![batch(2..4), batch(4..9), batch(9..12)], 5);
        for block in 0..100 {
            keep(&mut table, vec![batch(block..block + 10)], 5);
        }
        let numbers: Vec<i64> =
            table.iter().flat_map(|batch| batch["n"].as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!(table.len(), 3, "batches without rows are kept too");
    }
}
