//! The producers of the demo: the simulated time after the history, sped up to the asked rate, sent with the broker's time.

use std::collections::HashSet;
use std::time::Duration;

use super::DemoArguments;
use crate::cli::generate::plain_connection;
use crate::error::{Error, Result};
use crate::runtime::{RunHandle, clock};
use crate::sink::kafka::KafkaWriter;
use crate::source::generator::{Fault, GeneratorSettings, Kind, Simulator};

/// Simulated time that is made at once, milliseconds.
const STEP_MS: i64 = 60_000;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What was sent.
pub(super) struct Produced {
    /// Records.
    pub(super) records: u64,
    /// Ids of the frauds that can be scored.
    pub(super) frauds: HashSet<String>,
    /// From the first record to the last acknowledgement.
    pub(super) took: Duration,
}

/// Where the records go.
pub(super) struct Target<'a> {
    pub(super) brokers: &'a str,
    pub(super) topic: &'a str,
    pub(super) engine: &'a RunHandle,
}

/// Sends the records at the rate, until all are sent or the engine has stopped. `on_third` is called once, when a third of them
/// is sent.
pub(super) fn produce(
    to: &Target<'_>,
    world: GeneratorSettings,
    arguments: &DemoArguments,
    on_third: impl FnOnce() -> Result<()>,
) -> Result<Produced> {
    let failed =
        |error: crate::source::generator::GeneratorError| Error::internal(format!("the simulator failed: {error}"));
    let simulator = Simulator::new(world).map_err(failed)?;
    let mut writer = KafkaWriter::open(&plain_connection(to.brokers), to.topic, Duration::ZERO, TIMEOUT)?;
    let mut on_third = Some(on_third);
    let mut feed = simulator.feed(arguments.live_from_ms());
    let mut produced = Produced { records: 0, frauds: HashSet::new(), took: Duration::ZERO };
    let mut started = clock::now();
    'sending: loop {
        let block = feed.events(feed.position_ms() + STEP_MS).map_err(failed)?;
        for record in block.iter() {
            if produced.records >= arguments.events || to.engine.is_finished() {
                break 'sending;
            }
            let due = Duration::from_secs_f64(produced.records as f64 / arguments.rate.max(1) as f64);
            while let Some(wait) = due.checked_sub(started.elapsed()).filter(|wait| !wait.is_zero()) {
                writer.serve()?;
                std::thread::sleep(wait.min(Duration::from_millis(1)));
            }
            writer.write(Some(record.key), Some(record.value))?;
            if produced.records == 0 {
                // A new producer takes half a second to get its id from the broker. That is none of the engine's latency, so
                // the pace counts from the first acknowledgement.
                writer.flush(TIMEOUT)?;
                started = clock::now();
            }
            produced.records += 1;
            if produced.records == arguments.events / 3
                && let Some(act) = on_third.take()
            {
                act()?;
            }
            if record.kind != Kind::Honest && !matches!(record.fault, Some(Fault::Malformed(_))) {
                produced.frauds.extend(transaction_id(record.value));
            }
        }
    }
    writer.flush(TIMEOUT)?;
    produced.took = started.elapsed();
    Ok(produced)
}

fn transaction_id(value: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(value).ok()?;
    Some(event.get("transaction_id")?.as_str()?.to_owned())
}
