//! Settings to components: the only place that names concrete connectors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::checkpointer::{Checkpointer, CheckpointerParts};
use super::drift::{DriftBoard, drift_settings};
use super::driver::{Driver, SinkLane, SourceLane};
use super::following::Following;
use super::labels::{self, LabelBoard};
use super::limits::StateLimit;
use super::log_checks::LogCheck;
use super::models::{ModelSet, Offers, WorkerModels};
use super::repartition::{feeding_windows, staged};
use super::stages::{self, stamp};
use super::starting::{self, Started};
use super::trigger::Trigger;
use super::worker::{Feed, Upstream, Worker};
use super::{clock, functions, positions};
use crate::checkpoint::{CheckpointSettings, Checkpoints, RetryPolicy, Stores};
use crate::decode::{Decoder, RejectionRate};
use crate::error::{Error, Result};
use crate::model::follow::Follower;
use crate::model::profile::ReferenceProfile;
use crate::model::{self, Library};
use crate::observe::latency::Latency;
use crate::observe::metrics::{SourceMetrics, WorkerMetrics};
use crate::observe::status::{SourceCounts, StatusBoard};
use crate::pipeline::settings::{
    DEAD_LETTER_NAME, DataLossPolicy, InternalTopic, Pipeline, SinkConnector, Source as SourceSettings,
    SourceConnector, Until,
};
use crate::plan::{self, Functions, Graph, Plan};
use crate::sink::Sink;
use crate::sink::console::ConsoleSink;
use crate::sink::kafka::KafkaSink;
use crate::sink::parquet::{ParquetParts, ParquetSink};
use crate::source::files::{FilesLocation, FilesSource};
use crate::source::generated::GeneratedSource;
use crate::source::kafka::{KafkaSource, KeyCheck, Membership, Opening};
use crate::source::{AssignmentNumbers, Gate, Source, Waker};
use crate::types::Assignment;
use tidemill_udfs::functions::Models;

/// What a sink's rows are.
#[derive(Debug, Clone, Copy)]
enum Rows {
    Accepted,
    Rejected,
}

/// What all workers of a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// In stages, where something in it is repartitioned.
    pipeline: Pipeline,
    pub(crate) plan: Plan,
    stores: Stores,
    checkpoints: Option<Checkpoints>,
    /// The models of the start; each worker has its own copy.
    models: Arc<Models>,
    offers: Offers,
    numbers: AssignmentNumbers,
    limit: StateLimit,
    /// What is counted of the served values.
    pub(crate) drift: Option<Arc<DriftBoard>>,
    /// Where labels meet what was served.
    pub(crate) labels: Option<Arc<LabelBoard>>,
    io: Handle,
    env: BTreeMap<String, String>,
}

impl Shared {
    /// Loads models, compiles the plan, opens the checkpoint, and makes internal topics that are not there. With it come the
    /// followers of the models' places, to be started when the workers are there.
    pub(crate) fn build(
        pipeline: &Pipeline,
        env: &BTreeMap<String, String>,
        io: &Handle,
        status: &StatusBoard,
    ) -> Result<(Shared, Vec<Follower>)> {
        let stores = Stores::new({
            let env = env.clone();
            move |name| env.get(name).cloned()
        });
        let (mut started, drift, pipeline, plan) = planned(pipeline, env, &stores, io)?;
        positions::check(&pipeline, &plan)?;
        labels::check_sinks(&pipeline, &plan)?;
        let labels = pipeline.labels.as_ref().map(|labels| Arc::new(LabelBoard::new(labels)));
        let checkpoints = open_checkpoints(&pipeline, &stores, env, io)?;
        stages::prepare(&pipeline, checkpoints.as_ref(), io)?;
        if let Some(checkpoints) = &checkpoints {
            io.block_on(started.keep(checkpoints.folder()))?;
        }
        status.set_models(std::mem::take(&mut started.statuses));
        let Started { models, followers, .. } = started;
        let offers = Offers::new(&models);
        let numbers = AssignmentNumbers::default();
        let limit = StateLimit::new(pipeline.run.max_state_bytes, pipeline.run.workers);
        let (io, env) = (io.clone(), env.clone());
        let shared =
            Shared { pipeline, plan, stores, checkpoints, models, offers, numbers, limit, drift, labels, io, env };
        Ok((shared, followers))
    }

    /// The models of the start.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// What followers of models share.
    pub(crate) fn following(&self, status: &StatusBoard) -> Following {
        Following {
            models: Arc::clone(&self.models),
            offers: self.offers.clone(),
            folder: self.checkpoints.as_ref().map(|checkpoints| checkpoints.folder().clone()),
            status: status.clone(),
            io: self.io.clone(),
            drift: self.drift.clone(),
        }
    }

    /// A worker's own models, and the plan that calls them.
    fn of_worker(&self, waker: &Waker) -> Result<(WorkerModels, Graph)> {
        let models = Arc::new(self.models.fork());
        let graph = match models.names().next() {
            None => self.plan.instantiate()?,
            Some(_) => {
                let plan =
                    Plan::compile(&self.pipeline, &observed(&models, self.drift.as_ref())).map_err(plan::refused)?;
                plan.instantiate()?
            }
        };
        self.offers.wake(waker.clone());
        let folder = self.checkpoints.as_ref().map(|checkpoints| checkpoints.folder().clone());
        Ok((WorkerModels::new(models, self.offers.clone(), folder, self.io.clone()), graph))
    }
}

/// The models of the start, the pipeline in stages, and its plan. Where the SQL does not take the models that their places mean
/// now, it is tried with those that served last: an alias that was moved to a wrong model keeps no restart down.
fn planned(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    stores: &Stores,
    io: &Handle,
) -> Result<(Started, Option<Arc<DriftBoard>>, Pipeline, Plan)> {
    let library = Library::open(pipeline, env)?;
    let folder = pipeline.checkpoint.as_ref().map(|checkpoint| stores.open(&checkpoint.path)).transpose()?;
    let plan = |mut started: Started| {
        let drift = drift_board(pipeline, std::mem::take(&mut started.profiles));
        let functions = observed(&started.models, drift.as_ref());
        let pipeline = staged(pipeline, &functions).map_err(plan::refused)?;
        let plan = Plan::compile(&pipeline, &functions).map_err(plan::refused)?;
        Ok((started, drift, pipeline, plan))
    };
    let started = io.block_on(starting::start(pipeline, &library, folder.as_ref(), None))?;
    let has_read = started.has_read();
    plan(started).or_else(|error: Error| {
        if !has_read {
            return Err(error);
        }
        let before = io.block_on(starting::start(pipeline, &library, folder.as_ref(), Some(&error)));
        before.and_then(plan).map_err(|_| error)
    })
}

/// Counts what the models of a pipeline serve, where they have reference profiles.
fn drift_board(pipeline: &Pipeline, profiles: Vec<(String, ReferenceProfile)>) -> Option<Arc<DriftBoard>> {
    if !pipeline.drift.is_enabled || pipeline.models.is_empty() {
        return None;
    }
    let board = DriftBoard::new(drift_settings(&pipeline.drift));
    for (sha256, profile) in profiles {
        board.set_reference(&sha256, profile);
    }
    Some(Arc::new(board))
}

/// The functions over `models`, with what looks at their calls.
fn observed(models: &Arc<Models>, board: Option<&Arc<DriftBoard>>) -> Functions {
    Functions { observer: board.map(|board| board.observer(models)), ..functions::loaded(models) }
}

/// As [`compile`], with every scored row shown to the board that is made for the loaded models.
pub(crate) fn compile_observed(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    io: &Handle,
    board: impl FnOnce(&Models) -> Result<Arc<DriftBoard>>,
) -> Result<(Plan, Arc<Models>)> {
    let library = Library::open(pipeline, env)?;
    let models = Arc::new(io.block_on(model::load(&library, &pipeline.models))?);
    let board = board(&models)?;
    let plan = Plan::compile(pipeline, &observed(&models, Some(&board))).map_err(plan::refused)?;
    positions::check(pipeline, &plan)?;
    Ok((plan, models))
}

/// Loads a pipeline's models and compiles its plan as it stands: repartitioned tables are the sources and views themselves.
pub fn compile(pipeline: &Pipeline, env: &BTreeMap<String, String>, io: &Handle) -> Result<(Plan, Arc<Models>)> {
    compile_beside(pipeline, env, io, None)
}

/// The same; with checkpoints, models that cannot be had where they come from are those that served last beside them.
pub(crate) fn compile_beside(
    pipeline: &Pipeline,
    env: &BTreeMap<String, String>,
    io: &Handle,
    checkpoints: Option<&str>,
) -> Result<(Plan, Arc<Models>)> {
    let library = Library::open(pipeline, env)?;
    let models = match checkpoints {
        None => Arc::new(io.block_on(model::load(&library, &pipeline.models))?),
        Some(uri) => {
            let env = env.clone();
            let folder = Stores::new(move |name| env.get(name).cloned()).open(uri)?;
            io.block_on(starting::start(pipeline, &library, Some(&folder), None))?.models
        }
    };
    let plan = Plan::compile(pipeline, &functions::loaded(&models)).map_err(plan::refused)?;
    positions::check(pipeline, &plan)?;
    Ok((plan, models))
}

pub(super) fn sink_names(pipeline: &Pipeline) -> Vec<String> {
    let dead_letter = pipeline.dead_letter.as_ref().map(|_| DEAD_LETTER_NAME.to_owned());
    pipeline.sinks.iter().map(|sink| sink.name.clone()).chain(dead_letter).collect()
}

pub(super) fn open_checkpoints(
    pipeline: &Pipeline,
    stores: &Stores,
    env: &BTreeMap<String, String>,
    io: &Handle,
) -> Result<Option<Checkpoints>> {
    let Some(checkpoint) = &pipeline.checkpoint else { return Ok(None) };
    let settings = CheckpointSettings {
        pipeline: pipeline.name.clone(),
        path: checkpoint.path.clone(),
        sinks: sink_names(pipeline),
        retain: checkpoint.retain,
        host: env.get("HOSTNAME").cloned().unwrap_or_else(|| "localhost".to_owned()),
        clock: Arc::new(clock::wall),
        retry: RetryPolicy::default(),
    };
    let opened = io.block_on(Checkpoints::open(stores, settings));
    opened.map(Some).map_err(|error| error.context(format!("checkpoint path {}", checkpoint.path)))
}

/// One worker, not yet started.
pub(crate) fn worker(
    shared: &Shared,
    index: usize,
    waker: Waker,
    wake: Receiver<()>,
    stop: CancellationToken,
    status: &StatusBoard,
    latency: &Latency,
) -> Result<Worker> {
    let pipeline = &shared.pipeline;
    let (feeds, lanes) = inputs(shared, index, &waker)?;
    let timeout = pipeline.run.stop_timeout;
    let mut sinks = Vec::new();
    for sink in &pipeline.sinks {
        let opened = open_sink(&sink.connector, shared, &sink.name, Rows::Accepted, timeout)
            .map_err(|error| error.context(format!("sink {}", sink.name)))?;
        sinks.push(SinkLane::new(&sink.name, opened));
    }
    let dead_letter = match &pipeline.dead_letter {
        None => None,
        Some(settings) => {
            let opened = open_sink(&settings.connector, shared, DEAD_LETTER_NAME, Rows::Rejected, timeout)
                .map_err(|error| error.context("dead_letter"))?;
            Some(SinkLane::new(DEAD_LETTER_NAME, opened))
        }
    };
    let metrics = WorkerMetrics::new(index);
    let (models, graph) = shared.of_worker(&waker)?;
    let checkpointer = checkpointer(pipeline, shared, metrics.clone());
    Ok(Worker {
        index,
        feeds,
        driver: Driver::new(lanes, graph, sinks, dead_letter, metrics, latency.clone()),
        checkpointer,
        models,
        trigger: Trigger { max_batch_rows: pipeline.run.max_batch_rows, max_wait: pipeline.run.max_wait },
        wake,
        stop,
        stop_timeout: timeout,
        status: status.clone(),
        reported_at: clock::now(),
        pending_since: None,
        first_feed: 0,
        limit: shared.limit.clone(),
        over_limit: None,
    })
}

/// A worker's sources, each with what the driver needs of it.
fn inputs(shared: &Shared, index: usize, waker: &Waker) -> Result<(Vec<Feed>, Vec<SourceLane>)> {
    let pipeline = &shared.pipeline;
    let feeds_windows = feeding_windows(pipeline, &shared.plan);
    let membership = membership(pipeline)?;
    let mut feeds = Vec::new();
    let mut lanes = Vec::new();
    for (number, source) in pipeline.sources.iter().enumerate() {
        let upstream = source.internal.as_ref().map(|internal| upstream(pipeline, source, internal));
        let seat = Seat {
            gate: upstream.as_ref().and_then(|upstream| upstream.gate.clone()),
            membership,
            numbers: &shared.numbers,
            io: &shared.io,
            env: &shared.env,
            worker: index,
            num_workers: pipeline.run.workers,
            waker: waker.clone(),
        };
        let opened = open_source(source, seat)?;
        feeds.push(Feed {
            source: opened,
            pending: Vec::new(),
            has_ended: false,
            is_assigned: false,
            on_data_loss: match &source.connector {
                SourceConnector::Kafka(kafka) => kafka.on_data_loss,
                SourceConnector::Files(_) | SourceConnector::Generator(_) => DataLossPolicy::Fail,
            },
            upstream,
            log_check: feeds_windows.contains(&number).then(|| LogCheck::new(source)).flatten(),
        });
        lanes.push(SourceLane {
            name: source.name.clone(),
            decoder: decoder(source, number, shared)?,
            rejection_rate: RejectionRate::new(source),
            key_check: key_check(source),
            max_record_bytes: source.max_record_bytes,
            metrics: SourceMetrics::new(&source.name),
            counts: SourceCounts::default(),
        });
    }
    Ok((feeds, lanes))
}

fn checkpointer(pipeline: &Pipeline, shared: &Shared, metrics: WorkerMetrics) -> Checkpointer {
    let intervals = pipeline.checkpoint.as_ref().map(|checkpoint| (checkpoint.interval, checkpoint.snapshot_interval));
    let (interval, snapshot_interval) = intervals.unwrap_or((Duration::from_secs(1), Duration::from_secs(60)));
    Checkpointer::new(CheckpointerParts {
        checkpoints: shared.checkpoints.clone(),
        io: shared.io.clone(),
        interval,
        snapshot_interval,
        timeout: pipeline.run.stop_timeout,
        served: ModelSet::of(&shared.models).served(),
        sql_fingerprint: shared.plan.fingerprint(),
        backfill: pipeline.checkpoint.as_ref().map(|checkpoint| checkpoint.backfill).unwrap_or_default(),
        metrics,
    })
}

/// Members of a group hand partitions over by the positions in the checkpoint. Without one whoever takes a partition over would
/// begin where `start` says, so the process reads alone.
fn membership(pipeline: &Pipeline) -> Result<Membership> {
    let has_topics = pipeline.sources.iter().any(|source| matches!(source.connector, SourceConnector::Kafka(_)));
    match &pipeline.checkpoint {
        Some(_) => Ok(Membership::Group),
        None if has_topics && pipeline.run.workers > 1 => Err(Error::invalid(format!(
            "expected one worker, found {}: workers that share a topic hand its partitions over by a checkpoint; add \
             `checkpoint: {{ path: ... }}`, or run one worker",
            pipeline.run.workers
        ))),
        None => Ok(Membership::Alone),
    }
}

fn key_check(source: &SourceSettings) -> Option<KeyCheck> {
    match &source.connector {
        SourceConnector::Kafka(kafka) => kafka.partitioner.map(KeyCheck::new),
        SourceConnector::Files(_) | SourceConnector::Generator(_) => None,
    }
}

fn decoder(source: &SourceSettings, number: usize, shared: &Shared) -> Result<Decoder> {
    match &source.internal {
        None => Decoder::new(source, shared.plan.checks(number)),
        Some(internal) => Decoder::of_internal(source, internal, stamp(internal, shared.checkpoints.as_ref())?),
    }
}

/// What writes the topic that an internal source reads, by the sources' places in the pipeline.
fn upstream(pipeline: &Pipeline, source: &SourceSettings, internal: &InternalTopic) -> Upstream {
    let is_upstream = |(_, source): &(usize, &SourceSettings)| internal.upstream.contains(&source.name);
    let sources = pipeline.sources.iter().enumerate().filter(is_upstream).map(|(number, _)| number).collect();
    let ends = matches!(&source.connector, SourceConnector::Kafka(kafka) if kafka.until == Until::Now);
    Upstream { sources, gate: ends.then(Gate::default) }
}

/// Whose source it is.
struct Seat<'a> {
    gate: Option<Gate>,
    membership: Membership,
    numbers: &'a AssignmentNumbers,
    io: &'a Handle,
    env: &'a BTreeMap<String, String>,
    worker: usize,
    num_workers: usize,
    waker: Waker,
}

fn open_source(source: &SourceSettings, seat: Seat<'_>) -> Result<Box<dyn Source>> {
    let Seat { gate, membership, numbers, io, env, worker, num_workers, waker } = seat;
    match &source.connector {
        SourceConnector::Kafka(settings) => {
            let opening = Opening {
                source: source.name.as_str().into(),
                settings: settings.clone(),
                membership,
                max_record_bytes: source.max_record_bytes,
                numbers: numbers.clone(),
                waker,
                gate,
            };
            Ok(Box::new(KafkaSource::open(opening)?))
        }
        SourceConnector::Files(settings) => {
            let lookup = |name: &str| env.get(name).cloned();
            let (store, path) = crate::checkpoint::open_store(&settings.path, &lookup)?;
            let location = FilesLocation {
                source_name: source.name.clone(),
                store,
                path,
                format: settings.format,
                worker,
                num_workers,
            };
            Ok(Box::new(FilesSource::new(location, numbers, io.clone(), waker)?))
        }
        SourceConnector::Generator(settings) => {
            Ok(Box::new(GeneratedSource::new(&source.name, settings, worker, numbers, Box::new(clock::monotonic()))?))
        }
    }
}

/// Opens sources for one reader that shares them with nobody and leaves no trace.
pub(crate) struct Alone<'a> {
    numbers: AssignmentNumbers,
    io: &'a Handle,
    env: &'a BTreeMap<String, String>,
    waker: Waker,
}

impl<'a> Alone<'a> {
    pub(crate) fn new(env: &'a BTreeMap<String, String>, io: &'a Handle, waker: Waker) -> Alone<'a> {
        Alone { numbers: AssignmentNumbers::default(), io, env, waker }
    }

    /// The number of an assignment that no source gives out.
    pub(crate) fn number(&self) -> Assignment {
        self.numbers.next()
    }

    pub(crate) fn open(&self, source: &SourceSettings) -> Result<Box<dyn Source>> {
        let (numbers, io, env) = (&self.numbers, self.io, self.env);
        let waker = self.waker.clone();
        let (gate, membership) = (None, Membership::Alone);
        open_source(source, Seat { gate, membership, numbers, io, env, worker: 0, num_workers: 1, waker })
    }
}

fn open_sink(
    connector: &SinkConnector,
    shared: &Shared,
    name: &str,
    rows: Rows,
    timeout: Duration,
) -> Result<Box<dyn Sink>> {
    match (connector, rows) {
        (SinkConnector::Kafka(settings), Rows::Accepted) => Ok(Box::new(KafkaSink::open(settings, timeout)?)),
        (SinkConnector::Kafka(settings), Rows::Rejected) => {
            Ok(Box::new(KafkaSink::open_dead_letter(settings, timeout)?))
        }
        (SinkConnector::Parquet(settings), _) => {
            let checkpoints = shared.checkpoints.as_ref().ok_or_else(|| {
                Error::invalid("a parquet sink commits its files with checkpoints; add `checkpoint: { path: ... }` to the pipeline")
            })?;
            // The same for all workers and processes of the pipeline: whoever takes a unit over finds what was left of it.
            let (folder, owner) =
                (shared.stores.open(&settings.path)?, format!("{}-{name}", checkpoints.pipeline_id()));
            checkpoints.register_staging(&folder, &owner);
            let parts = ParquetParts { folder, owner, runtime: shared.io.clone(), clock: Arc::new(clock::monotonic()) };
            Ok(Box::new(ParquetSink::new(settings, parts)))
        }
        (SinkConnector::Internal(internal), _) => {
            Ok(Box::new(KafkaSink::open_internal(internal, stamp(internal, shared.checkpoints.as_ref())?, timeout)?))
        }
        (SinkConnector::Labels(side), _) => {
            let board = shared.labels.as_ref().ok_or_else(|| Error::internal("a sink of labels without labels"))?;
            Ok(board.sink(*side))
        }
        (SinkConnector::Console, _) => Ok(Box::new(ConsoleSink::stdout())),
    }
}
