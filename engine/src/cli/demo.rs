//! `tidemill demo`: the main job with everything around it in one process: a broker (embedded, or a real one), simulated
//! transactions, models trained on simulated history if there are none, alerts as they come, a change of models on the way, and a
//! summary.

mod alerts;
mod model;
mod producer;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use alerts::Alerts;
use producer::Produced;

use super::generate::plain_connection;
use super::{Environment, load, print};
use crate::error::{Error, Result};
use crate::model::reference::CHAMPION;
use crate::pipeline::settings::Partitioner;
use crate::pipeline::settings::{Pipeline, StartPosition};
use crate::replay::{BootstrapSettings, CutOver, Input, bootstrap};
use crate::runtime::{self, RunHandle, RunSummary, clock};
use crate::sink::kafka::KafkaAdmin;
use crate::source::generator::{DAY_MS, GeneratorSettings, Imperfections};
use crate::source::kafka::embedded::EmbeddedKafka;

/// Where the simulated history begins: 2026-01-01 UTC, milliseconds.
const HISTORY_FROM_MS: i64 = 1_767_225_600_000;
/// Share of malformed records in the live stream, so that dead letters are seen.
const MALFORMED_SHARE: f64 = 0.001;
/// Partitions of the demo's topics.
const NUM_PARTITIONS: u32 = 4;
/// How often the run looks whether the champion is another version.
const RELOAD: Duration = Duration::from_millis(250);
/// How long the engine may take for what was produced.
const CATCH_UP: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// A real broker, host:port; without it one is embedded.
    #[arg(long)]
    broker: Option<String>,
    /// The pipeline file.
    #[arg(long, default_value = "pipelines/fraud.yaml")]
    pipeline: PathBuf,
    /// Transactions to send.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Transactions per second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Seed of the simulated world.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Days of simulated history that the models are trained on.
    #[arg(long, default_value_t = 40)]
    history_days: u32,
    /// Train the models again, even if there are some.
    #[arg(long)]
    retrain: bool,
    /// Folder for the models' registry and other files of the demo.
    #[arg(long, default_value = ".tidemill")]
    folder: PathBuf,
}

impl DemoArguments {
    fn world(&self) -> GeneratorSettings {
        GeneratorSettings { seed: self.seed, ..GeneratorSettings::default() }
    }

    fn history(&self) -> std::ops::Range<i64> {
        HISTORY_FROM_MS..self.live_from_ms()
    }

    /// The live stream is the time after the history, sped up.
    fn live_from_ms(&self) -> i64 {
        HISTORY_FROM_MS + i64::from(self.history_days) * DAY_MS
    }
}

/// The topics of one demo, unlike those of any other.
struct Topics {
    transactions: String,
    alerts: String,
    dead_letters: String,
}

impl Topics {
    fn new() -> Topics {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let name = |what: &str| format!("tidemill-demo-{}-{what}", &id[..8]);
        Topics { transactions: name("transactions"), alerts: name("alerts"), dead_letters: name("dead-letters") }
    }

    fn all(&self) -> [&str; 3] {
        [&self.transactions, &self.alerts, &self.dead_letters]
    }
}

/// The broker of the demo; an embedded one ends with this value.
enum Broker {
    Embedded(EmbeddedKafka),
    Real(String),
}

impl Broker {
    fn open(address: Option<&str>, topics: &Topics) -> Result<Broker> {
        match address {
            Some(address) => {
                let admin = KafkaAdmin::open(&plain_connection(address))?;
                for topic in topics.all() {
                    admin.create_topic(topic, NUM_PARTITIONS, &[])?;
                }
                Ok(Broker::Real(address.to_owned()))
            }
            None => {
                let embedded = EmbeddedKafka::start()?;
                for topic in topics.all() {
                    embedded.create_topic(topic, NUM_PARTITIONS)?;
                }
                Ok(Broker::Embedded(embedded))
            }
        }
    }

    fn address(&self) -> &str {
        match self {
            Broker::Embedded(embedded) => embedded.bootstrap_servers(),
            Broker::Real(address) => address,
        }
    }
}

pub(crate) fn run(arguments: &DemoArguments, environment: &Environment) -> Result<()> {
    let model = model::ready(arguments, environment)?;
    model.promote(0)?;
    let topics = Topics::new();
    let broker = Broker::open(arguments.broker.as_deref(), &topics)?;
    let checkpoints = arguments.folder.join(format!("demo-{}", topics.transactions));
    let mut environment = environment.clone();
    for (name, value) in [
        ("KAFKA_BOOTSTRAP_SERVERS", broker.address().to_owned()),
        ("KAFKA_TOPIC", topics.transactions.clone()),
        ("KAFKA_OUTPUT_TOPIC", topics.alerts.clone()),
        ("KAFKA_DLQ_TOPIC", topics.dead_letters.clone()),
        ("TIDEMILL_MODEL", format!("models:/{}@{CHAMPION}", model::MODEL)),
        ("TIDEMILL_REGISTRY", model::registry_place(arguments)?),
        ("TIDEMILL_CHECKPOINT", absolute(&checkpoints)?),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let mut pipeline = load(&arguments.pipeline, &environment)?;
    pipeline.http = pipeline.http.map(|mut listen| {
        // Any free port: the demo must not fail because something else listens on the usual one.
        listen.set_port(0);
        listen
    });
    for model in &mut pipeline.models {
        model.reload = Some(RELOAD);
    }
    let scores = arguments.folder.join(format!("scores-{}", topics.transactions));
    pipeline.sinks.push(verdict::sink(&scores, &model.versions[0].manifest)?);
    let history = verdict::history(&pipeline)?;
    load_history(&pipeline, &environment, arguments)?;
    let kind = if arguments.broker.is_some() { "real" } else { "embedded" };
    print(&format!("broker    {} ({kind})", broker.address()));
    let started = clock::now();
    let handle = runtime::start(&pipeline, &environment)?;
    if let Some(address) = handle.http_address() {
        print(&format!("status    http://{address}/status, metrics at /metrics"));
    }
    super::run::stop_on_signals(handle.stopper())?;
    let alerts = Alerts::listen(broker.address(), &topics.alerts)?;
    let imperfections = Imperfections { malformed_share: MALFORMED_SHARE, ..Imperfections::default() };
    let world = GeneratorSettings { imperfections, ..arguments.world() };
    print(&format!(
        "sending   {} transactions at {}/s, {:.1} % of them malformed\n",
        arguments.events,
        arguments.rate,
        100.0 * MALFORMED_SHARE
    ));
    wait_until_ready(&handle)?;
    let swap = || {
        print(&format!("           version {} is promoted while records flow", model.versions[1].number));
        model.promote(1)
    };
    let to = producer::Target { brokers: broker.address(), topic: &topics.transactions, engine: &handle };
    let produced = producer::produce(&to, world, arguments, swap)?;
    wait_until_read(&handle, produced.records)?;
    let took = started.elapsed();
    handle.stop();
    let summary = handle.join()?;
    let raised = alerts.finish(rows_out(&summary))?;
    let verdict = verdict::judge(&scores, &model, &history)?;
    verdict.check(summary.counts().decoded)?;
    print(&report(&produced, &summary, &raised, took, &verdict));
    // The demo starts anew each time; its files are of no use to the next one.
    for folder in [checkpoints, scores] {
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::debug!(%error, folder = %folder.display(), "a folder of the demo was not removed");
        }
    }
    Ok(())
}

/// Has the windows begin with what they would have seen by now: the stream goes on where the history ends.
fn load_history(pipeline: &Pipeline, environment: &Environment, arguments: &DemoArguments) -> Result<()> {
    let uri = model::history(arguments)?.display().to_string();
    let source = pipeline.sources.first().map(|source| source.name.clone()).unwrap_or_default();
    let settings = BootstrapSettings {
        inputs: vec![Input { source, uri, format: None }],
        cut_over: CutOver::At(StartPosition::Earliest),
        // The demo's own producer writes keys where Java's would.
        partitioner: Some(Partitioner::Murmur2),
        timeout: CATCH_UP,
    };
    let started = clock::now();
    let loaded = bootstrap(pipeline, environment, &settings, |_| {})?;
    let rows: u64 = loaded.iter().map(|part| part.rows).sum();
    print(&format!("state     {rows} transactions of history loaded into the windows in {:.1} s", since(started)));
    Ok(())
}

fn absolute(path: &std::path::Path) -> Result<String> {
    let path = std::path::absolute(path)
        .map_err(|error| Error::invalid(format!("{} is not a path", path.display())).with_source(error))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Waits until the engine holds its partitions, so that latency is that of a running pipeline, not of its start.
fn wait_until_ready(handle: &RunHandle) -> Result<()> {
    let deadline = clock::now() + CATCH_UP;
    while !handle.status().ready && !handle.is_finished() {
        if clock::now() > deadline {
            return Err(Error::unavailable(format!("the engine was not given its partitions within {CATCH_UP:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn wait_until_read(handle: &RunHandle, records: u64) -> Result<()> {
    let deadline = clock::now() + CATCH_UP;
    while handle.counts().read < records && !handle.is_finished() {
        if clock::now() > deadline {
            return Err(Error::unavailable(format!(
                "the engine read {} of {records} records within {CATCH_UP:?}",
                handle.counts().read
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn rows_out(summary: &RunSummary) -> u64 {
    summary.status.workers.iter().filter_map(|worker| worker.rows_out.get("alerts")).sum()
}

fn report(
    produced: &Produced,
    summary: &RunSummary,
    raised: &alerts::Raised,
    took: Duration,
    verdict: &verdict::Verdict,
) -> String {
    let counts = summary.counts();
    let millis = |quantile| summary.latency.quantile_millis(quantile).unwrap_or(0);
    format!(
        "\nevents    {} sent, {} read: {} scored, {} rejected to the dead letters\n\
         rate      {:.0} events/s over {:.1} s\n\
         latency   produce to emit, every scored record: p50 {} ms, p95 {} ms, p99 {} ms, p99.9 {} ms\n\
         alerts    {} raised; {} frauds among the scored\n\
         {verdict}",
        produced.records,
        counts.read,
        counts.decoded,
        counts.rejected,
        produced.records as f64 / produced.took.as_secs_f64(),
        took.as_secs_f64(),
        millis(0.5),
        millis(0.95),
        millis(0.99),
        millis(0.999),
        raised.ids.len(),
        produced.frauds.len(),
    )
}

/// Time since `start`, for lines that come as things happen.
fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
