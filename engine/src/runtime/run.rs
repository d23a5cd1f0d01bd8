//! A process that runs a pipeline: models loaded, plan compiled, workers started, and one verdict at the end. The first
//! worker to fail stops the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::build::{self, Shared};
use super::drift::Watch;
use super::worker::panicked;
use super::{clock, following, tasks};
use crate::error::{Error, Result};
use crate::observe::latency::Latency;
use crate::observe::status::{SourceCounts, Status, StatusBoard};
use crate::observe::{http, metrics};
use crate::pipeline::settings::Pipeline;
use crate::source::Waker;

/// Beyond its time-out a stop may take this long: a worker that is in the middle of a question to a service looks up only
/// when that is answered, and then has the time-out to drain and to leave.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the supervisor looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A run in progress.
#[derive(Debug)]
pub struct RunHandle {
    stop: CancellationToken,
    wakers: Vec<Waker>,
    status: StatusBoard,
    latency: Latency,
    http: Option<SocketAddr>,
    supervisor: JoinHandle<Result<()>>,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// The last status document.
    pub status: Status,
    /// Latency from the broker's timestamps to emission.
    pub latency: Latency,
}

impl RunSummary {
    /// The counts of all sources and workers together.
    #[must_use]
    pub fn counts(&self) -> SourceCounts {
        counts(&self.status)
    }
}

fn counts(status: &Status) -> SourceCounts {
    let mut sum = SourceCounts::default();
    for counts in status.workers.iter().flat_map(|worker| worker.sources.values()) {
        sum.add(counts);
    }
    sum
}

impl RunHandle {
    /// Asks for a graceful stop: drain, publish, commit.
    pub fn stop(&self) {
        self.stop.cancel();
        for waker in &self.wakers {
            waker.wake();
        }
    }

    /// A way to ask for a graceful stop from elsewhere, as a signal handler does.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let (stop, wakers) = (self.stop.clone(), self.wakers.clone());
        move || {
            stop.cancel();
            for waker in &wakers {
                waker.wake();
            }
        }
    }

    /// What the run says of itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// The counts of all sources and workers together, as of the last report.
    #[must_use]
    pub fn counts(&self) -> SourceCounts {
        counts(&self.status.read())
    }

    /// Latency so far.
    #[must_use]
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Where metrics and status are served.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Whether all workers have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// Waits for the end: every source ended, a stop, or an error.
    pub fn join(self) -> Result<RunSummary> {
        let result =
            self.supervisor.join().unwrap_or_else(|_| Err(Error::internal("the supervisor of the workers panicked")));
        result.map(|()| RunSummary { status: self.status.read(), latency: self.latency })
    }
}

/// Starts a pipeline. Returns when models are loaded, the plan is compiled and the workers run.
pub fn start(pipeline: &Pipeline, env: &BTreeMap<String, String>) -> Result<RunHandle> {
    let io = tasks::io_runtime()?;
    let recorder = http::install_recorder()?;
    let delivery = format!("{:?}", pipeline.delivery);
    let status = StatusBoard::new(&pipeline.name, &delivery, pipeline.run.workers, clock::wall_millis());
    let (shared, followers) = Shared::build(pipeline, env, io.handle(), &status)?;
    for (name, slot) in shared.models().slots() {
        if let Some(model) = slot.serving() {
            metrics::ModelMetrics::new(name).in_use(&model, 1.0);
        }
    }
    for model in status.read().models.iter().filter(|model| model.refused.is_some()) {
        metrics::ModelMetrics::new(&model.name).refused.increment(1);
    }
    let stop = CancellationToken::new();
    let latency = Latency::default();
    let mut background = vec![tasks::spawn(io.handle(), http::upkeep(recorder.clone(), stop.child_token()))];
    let watch = Watch { drift: shared.drift.clone(), labels: shared.labels.clone() };
    background.push(tasks::spawn(io.handle(), watch.clone().report_until(status.clone(), stop.child_token())));
    let mut address = None;
    if let Some(listen) = pipeline.http {
        let delays = shared.labels.as_ref().map(|labels| labels.delays.clone()).unwrap_or_default();
        let pages = http::Pages { latency: latency.clone(), delays };
        let serving = http::serve(listen, status.clone(), recorder, pages, stop.child_token());
        let (bound, serving) = io.block_on(serving)?;
        tracing::info!(address = %bound, "serving /metrics, /healthz, /readyz and /status");
        address = Some(bound);
        background.push(tasks::spawn(io.handle(), serving));
    }
    let mut wakers = Vec::new();
    let mut workers = Vec::new();
    for index in 0..pipeline.run.workers {
        let (waker, wake) = Waker::new();
        let worker = build::worker(&shared, index, waker.clone(), wake, stop.clone(), &status, &latency)?;
        wakers.push(waker);
        workers.push(worker);
    }
    let workers = workers
        .into_iter()
        .map(|worker| tasks::spawn_thread(&format!("tidemill-w{}", worker.index), move || worker.run()))
        .collect::<Result<Vec<_>>>()?;
    for follower in followers {
        let following = following::follow(follower, shared.following(&status), stop.child_token());
        background.push(tasks::spawn(io.handle(), following));
    }
    let stop_timeout = pipeline.run.stop_timeout;
    let supervisor = Supervisor {
        workers,
        stop: stop.clone(),
        stop_timeout,
        wakers: wakers.clone(),
        background,
        io,
        status: status.clone(),
        watch,
        shared: Arc::new(shared),
    };
    let supervisor = tasks::spawn_thread("tidemill-supervisor", move || supervisor.run())?;
    Ok(RunHandle { stop, wakers, status, latency, http: address, supervisor })
}

/// Waits for the workers; owns what must outlive them.
struct Supervisor {
    workers: Vec<JoinHandle<Result<()>>>,
    stop: CancellationToken,
    stop_timeout: Duration,
    wakers: Vec<Waker>,
    /// What runs beside the workers: the HTTP server, the upkeep of metrics.
    background: Vec<tokio::task::JoinHandle<()>>,
    io: Runtime,
    status: StatusBoard,
    watch: Watch,
    shared: Arc<Shared>,
}

impl Supervisor {
    fn run(mut self) -> Result<()> {
        let mut verdict = Ok(());
        let mut stopping_since = None;
        let mut running: Vec<(usize, JoinHandle<Result<()>>)> = self.workers.drain(..).enumerate().collect();
        while !running.is_empty() {
            let (ended, rest): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, worker)| worker.is_finished());
            running = rest;
            for (index, worker) in ended {
                let result = worker.join().unwrap_or_else(|_| Err(panicked(index)));
                if let Err(error) = result {
                    tracing::error!(worker = index, kind = %error.kind(), %error, "a worker failed; the others stop");
                    self.stop.cancel();
                    self.wakers.iter().for_each(Waker::wake);
                    verdict = verdict.and(Err(error));
                }
            }
            if self.is_overdue(&mut stopping_since) {
                // Their threads end with the process; what they had not published comes again with the next start.
                verdict = verdict.and(Err(overdue(running.len(), self.stop_timeout)));
                self.io.shutdown_background();
                return verdict;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.stop.cancel();
        let ended = futures::future::join_all(self.background.drain(..));
        drop(self.io.block_on(async { tokio::time::timeout(Duration::from_secs(1), ended).await }));
        self.watch.report(&self.status);
        drop(self.shared);
        self.io.shutdown_timeout(Duration::from_secs(5));
        verdict
    }

    /// Whether a stop was asked for, and the workers have had their time for it.
    fn is_overdue(&self, stopping_since: &mut Option<Instant>) -> bool {
        self.stop.is_cancelled()
            && stopping_since.get_or_insert_with(clock::now).elapsed() >= self.stop_timeout + STOP_GRACE
    }
}

fn overdue(num_workers: usize, stop_timeout: Duration) -> Error {
    Error::unavailable(format!(
        "{num_workers} workers did not stop within {stop_timeout:?}: a service does not answer; the next start goes on from the last manifest"
    ))
}
