//! Turns of a replay on several threads: one that decodes and deals rows out, one for each worker with a graph of its own, and
//! the caller's, which puts the workers' rows back into the order of the turn and counts. What comes out does not depend on the
//! number of workers. Every channel is bounded; whoever fails drops its ends, and the others stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::deal::Part;
use super::order::Event;
use super::tally::{Rejections, Tally};
use super::turn::{Inputs, Origin, Outputs, Turns};
use crate::error::{Error, Result};
use crate::plan::{Failure, Graph};
use crate::types::{Assignment, EventTime, Hidden, Units};

/// Turns that wait for a worker, or for the caller.
const CHANNEL_TURNS: usize = 4;

/// What the thread that decodes says, in the order of the replay.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// A block that was decoded.
    pub(super) read: Option<Read>,
    /// Rows that the workers have been given.
    pub(super) turn: Option<TurnOrigin>,
}

/// A block that was decoded.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) num_accepted: usize,
    pub(super) rejected: Rejections,
    /// Bytes of files that are not begun.
    pub(super) bytes_waiting: u64,
}

/// Where the rows of a turn come from; as [`Origin`].
#[derive(Debug)]
pub(super) struct TurnOrigin {
    pub(super) units: Arc<Units>,
    pub(super) unit: UInt32Array,
    pub(super) offset: Int64Array,
    /// Where rows go through the graphs as those of one unit: which, and the offset of the first.
    pub(super) as_one: Option<(Assignment, i64)>,
}

/// Nobody listens any more: whoever it was says why.
#[derive(Debug)]
pub(super) struct Gone;

/// The end of the channels that the thread that decodes has.
#[derive(Debug)]
pub(super) struct Deals {
    steps: Sender<Result<Step>>,
    workers: Vec<Sender<Part>>,
    begun: BTreeSet<Assignment>,
}

impl Deals {
    /// Says what was read and gives out its rows.
    pub(super) fn give(&mut self, step: Step, mut parts: Vec<Part>, times: &[i64]) -> Result<(), Gone> {
        if let Some(turn) = &step.turn {
            let begins = self.begins(turn, times);
            parts.iter_mut().for_each(|part| part.begins.clone_from(&begins));
        }
        self.steps.send(Ok(step)).map_err(|_| Gone)?;
        self.workers.iter().zip(parts).try_for_each(|(worker, part)| worker.send(part).map_err(|_| Gone))
    }

    /// Units of a turn that are new, with the event times of their first rows; rows of a unit stand together.
    fn begins(&mut self, turn: &TurnOrigin, times: &[i64]) -> Vec<(Assignment, EventTime)> {
        let mut begins = Vec::new();
        let mut row = 0;
        if let Some((unit, _)) = turn.as_one {
            return Vec::from_iter(self.begun.insert(unit).then(|| (unit, EventTime::from_micros(times[0]))));
        }
        for run in turn.unit.values().chunk_by(|a, b| a == b) {
            if self.begun.insert(Assignment(run[0])) {
                begins.push((Assignment(run[0]), EventTime::from_micros(times[row])));
            }
            row += run.len();
        }
        begins
    }
}

/// What came out of a worker's graph in one turn.
#[derive(Debug, Default)]
struct Served {
    sinks: Vec<Vec<RecordBatch>>,
    /// By their numbers among the rows of the turn.
    failed: Vec<(u32, Failure)>,
}

/// Runs turns of one source: `decode` gives them out, until it is done or its receivers are gone; `on_event` hears of them in
/// their order.
pub(super) fn run(
    source: usize,
    turns: &mut Turns,
    decode: impl FnOnce(&mut Inputs, &mut Deals) -> Result<Result<(), Gone>> + Send,
    on_event: &mut impl FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let Turns { inputs, graphs, outputs, tally } = turns;
    thread::scope(|scope| {
        // In here: all ends must be gone before the scope waits for its threads.
        let (steps, heard) = bounded(CHANNEL_TURNS);
        let (mut given, mut served) = (Vec::new(), Vec::new());
        for (number, graph) in graphs.iter_mut().enumerate() {
            let (part_sender, parts) = bounded(CHANNEL_TURNS);
            let (served_sender, served_receiver) = bounded(CHANNEL_TURNS);
            let work = move || serve(source, graph, &parts, &served_sender);
            start(scope, &format!("replay-{number}"), work)?;
            given.push(part_sender);
            served.push(served_receiver);
        }
        let decoding = move || {
            let failed = steps.clone();
            let mut deals = Deals { steps, workers: given, begun: BTreeSet::new() };
            if let Err(error) = decode(inputs, &mut deals) {
                // Nobody is left to hear it where this fails.
                drop(failed.send(Err(error)));
            }
        };
        start(scope, "replay-decode", decoding)?;
        let mut collecting = Collecting { served, outputs, tally };
        while let Ok(step) = heard.recv() {
            collecting.take(step?, on_event)?;
        }
        Ok(())
    })
}

/// Starts a thread that the scope waits for.
pub(super) fn start<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    name: &str,
    body: impl FnOnce() + Send + 'scope,
) -> Result<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, body);
    started.map(drop).map_err(|error| Error::unavailable(format!("the thread {name} cannot start")).with_source(error))
}

fn serve(source: usize, graph: &mut Graph, parts: &Receiver<Part>, served: &Sender<Result<Served>>) {
    for part in parts {
        let answer = answer(source, graph, part);
        let is_last = answer.is_err();
        if served.send(answer).is_err() || is_last {
            return;
        }
    }
}

fn answer(source: usize, graph: &mut Graph, part: Part) -> Result<Served> {
    for (unit, begin) in &part.begins {
        graph.begin_unit(source, *unit, *begin)?;
    }
    if let Some(serve) = &part.serve {
        serve.apply()?;
    }
    let Some((batch, numbers)) = part.into_rows()? else { return Ok(Served::default()) };
    let output = graph.run(vec![(source, batch)])?;
    let number = |row: usize| numbers.as_ref().map_or(row as u32, |numbers| numbers[row]);
    let failed = output.rejected.into_iter().map(|failed| (number(failed.row), failed.failure)).collect();
    Ok(Served { sinks: output.sinks, failed })
}

/// The caller's side.
struct Collecting<'a> {
    served: Vec<Receiver<Result<Served>>>,
    outputs: &'a Outputs,
    tally: &'a mut Tally,
}

impl Collecting<'_> {
    fn take(&mut self, step: Step, on_event: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let mut rejected = Vec::new();
        let mut bytes_waiting = None;
        if let Some(read) = step.read {
            self.tally.read(read.num_accepted, &read.rejected);
            rejected = read.rejected;
            bytes_waiting = Some(read.bytes_waiting);
        }
        let mut rows = Vec::new();
        if let Some(turn) = step.turn {
            let TurnOrigin { units, unit, offset, as_one } = turn;
            let origin = Origin { units: &units, unit, offset, first: as_one.map(|(_, first)| first) };
            rows = self.collect(&origin, &mut rejected)?;
        }
        rejected.iter().try_for_each(|(_, rejected)| on_event(Event::Rejected(rejected)))?;
        rows.into_iter().try_for_each(|(sink, batch)| on_event(Event::Rows(sink, batch)))?;
        match bytes_waiting {
            Some(bytes_waiting) => on_event(Event::Read { read: self.tally.counts().read, bytes_waiting }),
            None => Ok(()),
        }
    }

    /// What the workers made of a turn: at most one batch for each sink, however many they are.
    fn collect(&mut self, origin: &Origin<'_>, rejected: &mut Rejections) -> Result<Vec<(usize, RecordBatch)>> {
        let mut sinks: Vec<Vec<Vec<RecordBatch>>> = Vec::new();
        let mut failed = Rejections::new();
        for served in &self.served {
            let served = served.recv().map_err(|_| Error::internal("a worker of the replay is gone"))??;
            for (row, failure) in served.failed {
                failed.push(origin.rejected(row as usize, &failure)?);
            }
            sinks.resize_with(sinks.len().max(served.sinks.len()), Vec::new);
            sinks.iter_mut().zip(served.sinks).for_each(|(sink, batches)| sink.push(batches));
        }
        self.tally.failed(&failed);
        rejected.extend(failed);
        rejected.sort_by_key(|(position, _)| *position);
        let mut rows = Vec::new();
        for (sink, workers) in sinks.into_iter().enumerate() {
            if let Some(batch) = merged(workers)? {
                rows.push((sink, self.outputs.finish(sink, &batch, origin)?));
            }
        }
        self.tally.rows(rows.iter().map(|(sink, batch)| (*sink, batch)));
        Ok(rows)
    }
}

/// Rows of all workers by their offsets; those of one record are one worker's, and stay as they stand.
fn merged(workers: Vec<Vec<RecordBatch>>) -> Result<Option<RecordBatch>> {
    let internal =
        |error: arrow::error::ArrowError| Error::internal("rows of workers cannot be joined").with_source(error);
    let num_serving = workers.iter().filter(|batches| !batches.is_empty()).count();
    let mut batches: Vec<RecordBatch> = workers.into_iter().flatten().collect();
    let Some(last) = batches.pop() else { return Ok(None) };
    if batches.is_empty() {
        return Ok(Some(last));
    }
    let schema = last.schema();
    batches.push(last);
    if num_serving == 1 {
        return concat_batches(&schema, &batches).map(Some).map_err(internal);
    }
    let mut places = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for (index, batch) in batches.iter().enumerate() {
        let offsets = Hidden::of(batch)?.offset.values();
        places.extend(offsets.iter().enumerate().map(|(row, offset)| (*offset, (index, row))));
    }
    // Each worker's offsets rise, so this is a merge.
    places.sort_by_key(|(offset, _)| *offset);
    let places: Vec<(usize, usize)> = places.into_iter().map(|(_, place)| place).collect();
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    interleave_record_batch(&batches, &places).map(Some).map_err(internal)
}
