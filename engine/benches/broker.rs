//! The path from a real broker, without windows and with five: CPU time per row of `tidemill run` against bare librdkafka and the bare parts, the
//! memory that it takes, and the time from its start to the first alert. `--records N`, `--runs N` and `--rounds N` make it
//! shorter.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::process::ExitCode;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::Offset;
use rdkafka_sys as sys;
use tidemill::sink::kafka::KafkaWriter;

#[path = "common/clock.rs"]
mod clock;
#[path = "common/operator.rs"]
mod operator;
#[path = "common/parts.rs"]
mod parts;
#[path = "common/process.rs"]
mod process;
#[path = "common/report.rs"]
mod report;
#[path = "common/world.rs"]
mod world;

use process::{Engine, PARTITIONS, consumer, now, poll};
use report::{Goals, argument, median};
use world::{Features, World};

/// The CPU time of this process, all threads.
const PROCESS: i32 = 2;
/// Records that wait for an engine whose start is measured.
const WAITING: usize = 1_000;
/// Messages that bare librdkafka hands over at once.
const MESSAGES: usize = 4_096;

fn main() -> ExitCode {
    let number = |name, default| usize::try_from(argument(name, default)).unwrap().max(1);
    let (records, runs, rounds) = (number("--records", 400_000), number("--runs", 3), number("--rounds", 8));
    let mut goals = Goals::begin("path from a real broker: `tidemill run` at default settings, until: now");
    let full = filled(records);
    let empty = process::topic("empty");
    for (features, name) in [(Features::OfTheRow, "without windows"), (Features::WithWindows, "with five windows")] {
        println!("  {name}:");
        let world = World::new(features);
        measure(&mut goals, &world, name, (&full, &empty), [records, runs, rounds]);
        if features == Features::OfTheRow {
            let starts = (0..runs.max(3)).map(|_| start_to_alert(&world)).collect();
            goals.goal("start to first alert consumed", median(starts), ..=1.0, " s");
        }
    }
    goals.end()
}

fn measure(
    goals: &mut Goals,
    world: &World,
    name: &str,
    (full, empty): (&str, &str),
    [records, runs, rounds]: [usize; 3],
) {
    let parts = parts::measure(world, rounds);
    parts::print(&parts);
    let (mut bare, mut bare_empty) = (Vec::new(), Vec::new());
    let (mut ours, mut start_and_stop, mut memory) = (Vec::new(), Vec::new(), 0_f64);
    for _ in 0..runs {
        bare.push(clock::nanos_a_row(PROCESS, records, || consume(full, records)));
        // What is subtracted from our side is subtracted from this one: client, metadata, teardown.
        bare_empty.push(clock::nanos_a_row(PROCESS, records, || consume(empty, 0)));
        let (cpu, megabytes) = run(world, full);
        ours.push(cpu);
        memory = memory.max(megabytes);
        start_and_stop.push(run(world, empty).0);
    }
    let bare_empty = median(bare_empty);
    let bare = median(bare) - bare_empty;
    assert!(memory > 10.0, "the resident memory of the engine could not be read: {memory} MB");
    let start_and_stop = median(start_and_stop);
    let path = (median(ours) - start_and_stop) * 1e9 / records as f64;
    println!("    {records} records from the broker: bare librdkafka {bare:.0}; tidemill run {path:.0}");
    println!(
        "    not counted: {:.2} and {:.2} CPU seconds of bare librdkafka and of a run on an empty topic; {:.0} rows per CPU second",
        bare_empty * records as f64 / 1e9,
        start_and_stop,
        1e9 / path
    );
    let ratio = path / (bare + parts.bare());
    goals.goal(&format!("path / (librdkafka + sum of the bare parts), {name}"), ratio, ..=1.6, "");
    goals.goal(&format!("resident memory at its peak, {name}"), memory, ..=300.0, " MB");
}

/// A topic with transactions.
fn filled(count: usize) -> String {
    let topic = process::topic("transactions");
    let timeout = Duration::from_secs(30);
    let mut writer = KafkaWriter::open(&process::connection(), &topic, Duration::from_millis(5), timeout).unwrap();
    let blocks = world::transactions(count);
    for record in blocks.iter().flat_map(|block| block.iter()).take(count) {
        writer.write(Some(record.key), Some(record.value)).unwrap();
    }
    writer.flush(Duration::from_secs(120)).unwrap();
    topic
}

/// Reads a topic to the end of all its partitions, as a run does, with librdkafka alone, by its batch interface.
#[expect(unsafe_code, reason = "rdkafka has no batch interface of its own")]
fn consume(topic: &str, records: usize) {
    let consumer: BaseConsumer = consumer(topic, Offset::Beginning);
    let mut messages = vec![std::ptr::null_mut(); MESSAGES];
    let (mut read, mut bytes, mut ended) = (0, 0, 0);
    // SAFETY: the client lives until the end of this function; the reference to its queue is given back before.
    let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    while ended < PARTITIONS {
        // SAFETY: queue and array are alive; the array has room for so many. What is returned is that many live messages, each
        // destroyed once.
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), MESSAGES);
            for message in &messages[..usize::try_from(count).unwrap()] {
                match (**message).err {
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        read += 1;
                        bytes += (**message).len;
                    }
                    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => ended += 1,
                    _ => {}
                }
                sys::rd_kafka_message_destroy(*message);
            }
        }
    }
    // SAFETY: given back once, and not used again.
    unsafe { sys::rd_kafka_queue_destroy(queue) };
    assert_eq!(read, records);
    assert!(bytes >= records * 100, "{bytes} bytes in {records} records");
}

/// Runs the engine to the end of a topic: its CPU seconds, and its most resident memory in MB.
fn run(world: &World, topic: &str) -> (f64, f64) {
    let before = children_cpu_seconds();
    let mut engine = Engine::start(world, topic, &process::topic("alerts"), "now", None);
    let mut megabytes = 0_f64;
    while !engine.has_ended() {
        megabytes = megabytes.max(resident_megabytes(engine.child.id()));
        std::thread::sleep(Duration::from_millis(5));
    }
    (children_cpu_seconds() - before, megabytes)
}

/// The most memory that a process had resident so far, in MB; 0 when it has ended.
fn resident_megabytes(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// CPU time of the children that have ended, in seconds.
fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name in parentheses: fields 16 and 17 are user and system time of children, in hundredths.
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(13).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// Seconds from the start of a process to the first alert that a consumer sees, with records waiting.
fn start_to_alert(world: &World) -> f64 {
    let input = filled(WAITING);
    let alerts = process::topic("alerts");
    let consumer = consumer(&alerts, Offset::Beginning);
    while poll(&consumer, Duration::from_millis(200), |_| ()).is_some() {}
    let started = now();
    let mut engine = Engine::start(world, &input, &alerts, "forever", Some(0.0));
    while poll(&consumer, Duration::from_millis(20), |_| ()).is_none() {
        assert!(!engine.has_ended());
        assert!(started.elapsed() < Duration::from_secs(60), "no alert came");
    }
    started.elapsed().as_secs_f64()
}
