//! Rows of a SELECT for a caller that takes them batch by batch: from stored rows, in the order of a replay, or from a topic as it
//! is, from its oldest record to what is there now. Reading a topic joins no group, commits nothing and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use crossbeam_channel::RecvTimeoutError;

use super::needed::{Output, with_outputs};
use super::preview::{check_heard, close, positions};
use super::tally::Counts;
use super::turn::Turns;
use super::{Input, Progress, Replay, check_names, default_workers, visible_schema};
use crate::error::{Error, Result};
use crate::pipeline::settings::{
    ParquetSink, Pipeline, Place, SinkConnector, Source, SourceConnector, SqlText, StartPosition, Until,
};
use crate::runtime::{self, Alone, clock, tasks};
use crate::source::files::FileBlock;
use crate::source::{SourceEvent, StartAt, Waker};
use crate::types::Units;

/// An input that is the source itself, and not stored rows of it.
pub const KAFKA: &str = "kafka";

/// Longest wait for a cluster's first answer, and for any answer after it.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// Where rows came from, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadInput {
    /// The source.
    pub source: String,
    /// Path, URI or topic.
    pub uri: String,
    /// Their order, for people.
    pub order: String,
}

/// What was read for a SELECT.
#[derive(Debug, Clone)]
pub struct ReadRows {
    /// The columns of the SELECT.
    pub schema: SchemaRef,
    /// What became of the records.
    pub counts: Counts,
    /// The inputs that the SELECT needs.
    pub inputs: Vec<ReadInput>,
}

/// `pipeline` cut down to what one SELECT needs.
pub(crate) fn selecting(pipeline: &Pipeline, sql: &str) -> Pipeline {
    let place = Place { file: PathBuf::from("select"), line: 1, column: 1 };
    let output = Output { name: "rows".to_owned(), select: SqlText { sql: sql.to_owned(), place } };
    with_outputs(pipeline, vec![output], &BTreeSet::new())
}

/// All rows of one SELECT over the sources and views of `pipeline`, batch by batch. Views, models and sources that it does not
/// need are left alone. An input `kafka` is the topic of its source, whose batches say behind their columns where each row stood.
pub fn select_each(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    inputs: &[Input],
    sql: &str,
    mut on_batch: impl FnMut(RecordBatch) -> Result<()>,
    on_progress: impl FnMut(Progress),
) -> Result<ReadRows> {
    check_names(pipeline, inputs)?;
    let pipeline = selecting(pipeline, sql);
    let needed = |input: &&Input| pipeline.sources.iter().any(|source| source.name == input.source);
    let inputs: Vec<Input> = inputs.iter().filter(needed).cloned().collect();
    if inputs.iter().any(|input| input.uri == KAFKA) {
        return select_topic(pipeline, env, on_batch);
    }
    let replay = Replay::open(&pipeline, env, &inputs, None, default_workers())?;
    let orders: Vec<String> = replay.orders().map(|order| order.to_string()).collect();
    let uri = |source: &Source| {
        let input = inputs.iter().find(|input| input.source == source.name);
        input.map_or_else(String::new, |input| input.uri.clone())
    };
    let read = pipeline.sources.iter().zip(orders);
    let read = read.map(|(source, order)| ReadInput { source: source.name.clone(), uri: uri(source), order });
    let read = read.collect();
    let schema = replay.sink_schema(0);
    let counts = replay.run(|_, batch| on_batch(batch), on_progress)?;
    Ok(ReadRows { schema, counts, inputs: read })
}

fn select_topic(
    mut pipeline: Pipeline,
    env: &BTreeMap<String, String>,
    mut on_batch: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<ReadRows> {
    // So the rows say where they stood, and their order does not depend on which partition answered first.
    pipeline.sinks[0].connector = SinkConnector::Parquet(ParquetSink {
        path: String::new(),
        max_rows: usize::MAX,
        max_bytes: usize::MAX,
        max_age: Duration::MAX,
        has_positions: true,
    });
    let [source] = pipeline.sources.as_slice() else {
        return Err(Error::invalid(
            "rows of several sources cannot be read from their topics: the order among them is not fixed; archive them with a Parquet \
             sink, and give its files",
        ));
    };
    let mut source = source.clone();
    let (topics, read) = bounded(&mut source, &pipeline)?;
    let io = tasks::io_runtime()?;
    let (plan, _) = runtime::compile(&pipeline, env, io.handle())?;
    let (waker, wake) = Waker::new();
    let alone = Alone::new(env, io.handle(), waker);
    // A cluster that does not answer is told apart from a topic that is empty.
    let found = positions(&source, &alone, StartPosition::Earliest, clock::now() + SILENCE_MAX)?;
    check_heard(&source, found.is_some(), SILENCE_MAX)?;
    let mut turns = Turns::new(&pipeline, &plan)?;
    let mut feed = alone.open(&source)?;
    let (mut units, mut has_ended, mut heard_at) = (Units::default(), false, clock::now());
    while !has_ended {
        let Some(event) = feed.next_event()? else {
            if heard_at.elapsed() > SILENCE_MAX {
                close(&mut *feed);
                return Err(Error::unavailable(format!(
                    "kafka did not answer for {SILENCE_MAX:?} while {topics} was read; try again"
                )));
            }
            if wake.recv_timeout(IDLE_WAIT) == Err(RecvTimeoutError::Disconnected) {
                std::thread::sleep(IDLE_WAIT);
            }
            continue;
        };
        heard_at = clock::now();
        let block = match event {
            SourceEvent::Records(block) => FileBlock::Records(block),
            SourceEvent::Rows(block) => FileBlock::Rows(block),
            SourceEvent::Assigned(given) => {
                let starts: Vec<_> = given.iter().map(|(unit, _)| (*unit, StartAt::Configured)).collect();
                feed.start(&starts)?;
                given.into_iter().for_each(|(number, unit)| units.insert(number, unit));
                continue;
            }
            SourceEvent::End => {
                has_ended = true;
                continue;
            }
            SourceEvent::Revoked(gone) | SourceEvent::Lost(gone) => {
                feed.release(&gone)?;
                continue;
            }
            SourceEvent::DataLost { .. } => continue,
        };
        for batch in turns.take(0, block, &units)?.outputs.swap_remove(0) {
            on_batch(batch)?;
        }
    }
    close(&mut *feed);
    Ok(ReadRows { schema: visible_schema(&plan, 0), counts: turns.counts().clone(), inputs: vec![read] })
}

/// Makes a source one that ends with what is there now.
fn bounded(source: &mut Source, pipeline: &Pipeline) -> Result<(String, ReadInput)> {
    let by_key = source.repartition.is_some() || pipeline.views.iter().any(|view| view.repartition.is_some());
    if by_key {
        return Err(Error::invalid(format!(
            "source {}: a run sends its rows through a topic of its own (`repartition`), whose order its first topic does not say; \
             archive the rows with a Parquet sink, and give its files",
            source.name
        )));
    }
    let SourceConnector::Kafka(kafka) = &mut source.connector else {
        return Err(Error::invalid(format!(
            "source {} reads no topic, so `{}={KAFKA}` has no meaning; expected a path, such as {}=history.parquet",
            source.name, source.name, source.name
        )));
    };
    (kafka.until, kafka.start) = (Until::Now, StartPosition::Earliest);
    let topics = kafka.topics.join(", ");
    let (source, uri) = (source.name.clone(), format!("kafka:{topics}"));
    Ok((topics, ReadInput { source, uri, order: "as served".to_owned() }))
}
