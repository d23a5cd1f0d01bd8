//! Reads the alerts topic as a stranger would, and prints alerts as they come.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::since;
use crate::cli::generate::plain_connection;
use crate::cli::print;
use crate::error::{Error, Result};
use crate::pipeline::settings::{DataLossPolicy, KafkaSource as Settings, StartPosition, Until};
use crate::runtime::{clock, tasks};
use crate::source::kafka::{KafkaSource, Membership, Opening};
use crate::source::{AssignmentNumbers, Source, SourceEvent, StartAt, Waker};
use crate::types::RecordBlock;

/// Alerts printed in full; the rest is counted, so that a terminal can follow.
const PRINTED_MAX: usize = 20;
/// How long the last alerts are waited for.
const LAST_WAIT: Duration = Duration::from_secs(20);
const NOT_YET: u64 = u64::MAX;

/// What was raised.
pub(super) struct Raised {
    /// Ids of the transactions; a repeated alert counts once.
    pub(super) ids: HashSet<String>,
}

/// The reader, on its own thread.
pub(super) struct Alerts {
    expected: Arc<AtomicU64>,
    thread: JoinHandle<Result<Raised>>,
}

impl Alerts {
    /// Starts to listen.
    pub(super) fn listen(brokers: &str, topic: &str) -> Result<Alerts> {
        let (waker, wake) = Waker::new();
        let source = KafkaSource::open(Opening {
            source: "alerts".into(),
            settings: Settings {
                connection: plain_connection(brokers),
                topics: vec![topic.to_owned()],
                group: "tidemill-demo".to_owned(),
                start: StartPosition::Earliest,
                until: Until::Forever,
                rate_limit: None,
                on_data_loss: DataLossPolicy::Fail,
                metadata_refresh: Duration::from_secs(10),
                partitioner: None,
                trusts_timestamps: false,
            },
            membership: Membership::Alone,
            max_record_bytes: 1 << 20,
            numbers: AssignmentNumbers::default(),
            waker,
            gate: None,
        })?;
        let expected = Arc::new(AtomicU64::new(NOT_YET));
        let goal = Arc::clone(&expected);
        let thread = tasks::spawn_thread("demo-alerts", move || {
            let started = clock::now();
            Reader { source, raised: Raised { ids: HashSet::new() }, seen: 0, started }.run(&goal, &wake)
        })?;
        Ok(Alerts { expected, thread })
    }

    /// Waits for `expected` alerts, and says what was raised.
    pub(super) fn finish(self, expected: u64) -> Result<Raised> {
        self.expected.store(expected, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| Err(Error::internal("the reader of the alerts panicked")))
    }
}

struct Reader {
    source: KafkaSource,
    raised: Raised,
    seen: u64,
    started: Instant,
}

impl Reader {
    fn run(mut self, expected: &AtomicU64, wake: &crossbeam_channel::Receiver<()>) -> Result<Raised> {
        let mut deadline = None;
        loop {
            while let Some(event) = self.source.next_event()? {
                match event {
                    SourceEvent::Assigned(units) => {
                        let starts: Vec<_> =
                            units.iter().map(|(assignment, _)| (*assignment, StartAt::Configured)).collect();
                        self.source.start(&starts)?;
                    }
                    SourceEvent::Records(block) => self.take(&block),
                    _ => {}
                }
            }
            let goal = expected.load(Ordering::Acquire);
            if goal != NOT_YET {
                let deadline = *deadline.get_or_insert_with(|| clock::now() + LAST_WAIT);
                if self.seen >= goal {
                    self.source.close(Duration::from_secs(5))?;
                    return Ok(self.raised);
                }
                if clock::now() > deadline {
                    return Err(Error::unavailable(format!(
                        "{} of {goal} alerts were read back within {LAST_WAIT:?}",
                        self.seen
                    )));
                }
            }
            // Woken by records, or by time to look whether all are there.
            match wake.recv_timeout(Duration::from_millis(50)) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn take(&mut self, block: &RecordBlock) {
        for record in 0..block.len() {
            self.seen += 1;
            let Some(alert) =
                block.values.get(record).and_then(|value| serde_json::from_slice::<serde_json::Value>(value).ok())
            else {
                continue;
            };
            let text = |name: &str| {
                alert
                    .get(name)
                    .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            };
            if self.raised.ids.insert(text("transaction_id")) && self.raised.ids.len() <= PRINTED_MAX {
                let score = alert.get("fraud_probability").and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
                print(&format!(
                    "{:7.2} s  ALERT  score {score:.3}  user {}  {:>9} {}  {}  {}{}",
                    since(self.started),
                    text("user_id"),
                    text("amount"),
                    text("currency"),
                    text("location"),
                    text("merchant"),
                    because(&text("reasons")),
                ));
                if self.raised.ids.len() == PRINTED_MAX {
                    print("           further alerts are counted, not printed");
                }
            }
        }
    }
}

/// The two features that moved a score most, for one line.
fn because(reasons: &str) -> String {
    let Ok(serde_json::Value::Array(reasons)) = serde_json::from_str(reasons) else { return String::new() };
    let shown = |reason: &serde_json::Value| {
        let feature = reason.get("feature")?.as_str()?;
        let value = reason.get("value")?.as_f64().map_or_else(|| "null".to_owned(), |value| format!("{value:.2}"));
        Some(format!("{feature} {value}"))
    };
    let shown: Vec<String> = reasons.iter().filter_map(shown).take(2).collect();
    if shown.is_empty() { String::new() } else { format!("  because {}", shown.join(", ")) }
}
