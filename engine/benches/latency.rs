//! Latency at 1 000 events a second on a real broker, at least once, from produce to consumed alert (the threshold is 0, so
//! every transaction is one), beside a bare relay on librdkafka: consume, produce, nothing else. In turns; medians over the
//! turns. `--seconds N` and `--rounds N` make it shorter.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

#[path = "common/process.rs"]
mod process;
#[path = "common/report.rs"]
mod report;
#[path = "common/world.rs"]
mod world;

use process::{Engine, broker, consumer, now, poll};
use report::{Goals, argument, median};
use world::{Features, World};

/// Time between two events.
const INTERVAL: Duration = Duration::from_millis(1);
/// Events at the beginning of a turn that are not counted.
const WARM_UP: usize = 1_000;
/// After the last event, for what is still on its way.
const PATIENCE: Duration = Duration::from_secs(20);

/// An event to send.
#[derive(Debug)]
struct Event {
    id: String,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// One way from produce to consume: its topics and its clients at both ends.
struct Way {
    input: String,
    output: String,
    producer: BaseProducer,
    consumer: BaseConsumer,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Way {
    fn new() -> Way {
        let (input, output) = (process::topic("transactions"), process::topic("alerts"));
        let consumer = consumer(&output, Offset::Beginning);
        Way { input, output, producer: producer(), consumer, p50: Vec::new(), p99: Vec::new() }
    }

    /// Sends events at their rate and takes what comes out; notes the latencies.
    fn turn(&mut self, events: &[Event]) {
        let began = now();
        let mut latencies = std::thread::scope(|scope| {
            let sending = scope.spawn(|| send(&self.producer, &self.input, events, began));
            let arrived = arrivals(&self.consumer, events.len());
            let sent = sending.join().unwrap();
            let latency = |(event, sent): (&Event, &Instant)| (arrived[&event.id] - *sent).as_secs_f64() * 1e3;
            events.iter().zip(&sent).skip(WARM_UP).map(latency).collect::<Vec<f64>>()
        });
        latencies.sort_by(f64::total_cmp);
        let at = |quantile: f64| latencies[(latencies.len() as f64 * quantile) as usize];
        self.p50.push(at(0.5));
        self.p99.push(at(0.99));
    }

    fn last(&self) -> (f64, f64) {
        (*self.p50.last().unwrap(), *self.p99.last().unwrap())
    }
}

fn main() -> ExitCode {
    let seconds = argument("--seconds", 60).max(2);
    let rounds = argument("--rounds", 5).max(1);
    let mut goals =
        Goals::begin("latency at 1 000 events/s, at least once, from produce to consumed alert, on a real broker");
    let world = World::new(Features::OfThePipeline);
    let per_turn = usize::try_from(seconds * 1_000).unwrap();
    let mut events = events(2 * per_turn * usize::try_from(rounds).unwrap());
    let (mut relayed, mut ours) = (Way::new(), Way::new());
    let mut engine = Engine::start(&world, &ours.input, &ours.output, "forever", Some(0.0));
    let stop = AtomicBool::new(false);
    let (from, to) = (relayed.input.clone(), relayed.output.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| relay(&from, &to, &stop));
        for round in 1..=rounds {
            relayed.turn(&events.split_off(events.len() - per_turn));
            ours.turn(&events.split_off(events.len() - per_turn));
            assert!(!engine.has_ended());
            let (relay, tidemill) = (relayed.last(), ours.last());
            println!(
                "    turn {round} of {seconds} s, p50 and p99 in ms: relay {:.2} {:.2}, tidemill {:.2} {:.2}",
                relay.0, relay.1, tidemill.0, tidemill.1
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    goals.goal("p50 above the relay's", median(ours.p50) - median(relayed.p50), ..=3.0, " ms");
    goals.goal("p99 above the relay's", median(ours.p99) - median(relayed.p99), ..=10.0, " ms");
    goals.end()
}

fn events(count: usize) -> Vec<Event> {
    let blocks = world::transactions(count);
    let event = |record: tidemill::source::generator::Record<'_>| Event {
        id: transaction_id(record.value),
        key: record.key.to_vec(),
        value: record.value.to_vec(),
    };
    blocks.iter().flat_map(|block| block.iter()).take(count).map(event).collect()
}

/// The id of a transaction or of an alert.
fn transaction_id(payload: &[u8]) -> String {
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    payload["transaction_id"].as_str().unwrap().to_owned()
}

fn producer() -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", broker()).set("linger.ms", "0").create().unwrap()
}

/// Sends every event when it is due. When each was sent.
fn send(producer: &BaseProducer, topic: &str, events: &[Event], began: Instant) -> Vec<Instant> {
    let mut sent = Vec::with_capacity(events.len());
    let mut due = began;
    for event in events {
        due += INTERVAL;
        std::thread::sleep(due.saturating_duration_since(now()));
        sent.push(now());
        producer.send(BaseRecord::to(topic).key(&event.key).payload(&event.value)).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).unwrap();
    sent
}

/// When each of `count` events was first seen at the output.
fn arrivals(consumer: &BaseConsumer, count: usize) -> HashMap<String, Instant> {
    let mut arrived = HashMap::with_capacity(count);
    let mut last = now();
    while arrived.len() < count {
        if let Some((time, payload)) = poll(consumer, Duration::from_millis(100), |payload| (now(), payload.to_vec())) {
            last = time;
            arrived.entry(transaction_id(&payload)).or_insert(time);
        }
        assert!(last.elapsed() < PATIENCE, "{} of {count} events came out", arrived.len());
    }
    arrived
}

/// Consumes and produces, as directly as librdkafka allows.
fn relay(from: &str, to: &str, stop: &AtomicBool) {
    let (consumer, producer) = (consumer(from, Offset::Beginning), producer());
    while !stop.load(Ordering::Relaxed) {
        // Errors are the ends of partitions.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let (key, payload) = (message.key().unwrap(), message.payload().unwrap());
            producer.send(BaseRecord::to(to).key(key).payload(payload)).unwrap();
            producer.poll(Duration::ZERO);
        }
    }
}
