//! The Kafka source. One consumer per worker, on its own thread (`reader`), behind one bounded channel of events and one of
//! commands. It never commits for its own sake, never resets a position by itself, and never reads a record's content.
//!
//! - *Group.* The classic protocol, cooperatively (`cooperative-sticky`): a rebalance moves only the partitions that must
//!   move, so the others keep their state and their generation, and read on. An assignment is acknowledged to the group at
//!   once; a partition is fetched from [`Source::start`] on. A revocation is acknowledged by [`Source::release`] alone, within
//!   `max.poll.interval.ms`; meanwhile nothing of those partitions is delivered.
//! - *Alone.* Without a group all partitions of the topics are assigned at once; nothing is reported.
//! - *Partitions found while running* (every `metadata_refresh` the group looks) start at their beginning, also under `latest`:
//!   the caller says [`crate::source::StartAt::Beginning`] for a partition without a stored position whose topic has stored positions, which
//!   holds over restarts; and a partition that was not there when this source opened starts there anyway.
//! - *`until: now`.* Ends are taken once, when the source opens (behind another stage: when that has written all, which its
//!   [`Gate`] says), of all partitions, and are those of committed records. A record
//!   past them is not delivered. A member of a group ends with the group: when its own partitions have ended and the positions
//!   that others reported ([`Source::report`]) are at the ends of all the rest; until then it stays, and takes over what a
//!   member leaves behind. After [`SourceEvent::End`] the group may still assign more, and `End` then comes again.

mod connection;
pub mod embedded;
mod group;
mod key_check;
mod native;
mod opening;
mod pace;
mod partitioner;
mod partitions;
mod peek;
mod reader;
mod start;

pub use key_check::KeyCheck;
pub use partitioner::partition;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use rdkafka::config::ClientConfig;

use self::native::{Consumer, Entry};
use self::partitions::Started;
use self::reader::{BLOCKS_WAITING, Command, Reader};
use super::{AssignmentNumbers, Gate, PartitionProgress, Source, SourceEvent, StartAt, Waker};
use crate::error::{Error, Result};
use crate::pipeline::settings;
use crate::types::{Assignment, Offset};

#[cfg(test)]
pub(crate) use self::connection::testing;
pub(crate) use self::connection::{client_config, client_error, config_error, log_line, now, set_all};
pub(crate) use self::peek::peek;

/// Who shares the topics' partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// The group of the settings.
    Group,
    /// Nobody: for previews, and bounded reads that leave no trace.
    Alone,
}

/// What a Kafka source needs.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Name of the source in the pipeline file.
    pub source: Arc<str>,
    /// Its settings.
    pub settings: settings::KafkaSource,
    /// Who shares the partitions.
    pub membership: Membership,
    /// Bytes of a record that must still get through; the client's limits are raised to it.
    pub max_record_bytes: usize,
    /// The process's numbers.
    pub numbers: AssignmentNumbers,
    /// The worker's waker.
    pub waker: Waker,
    /// Of a bounded source behind another stage: opens when that stage has written all.
    pub gate: Option<Gate>,
}

/// A Kafka source; see the module.
#[derive(Debug)]
pub struct KafkaSource {
    source: Arc<str>,
    consumer: Arc<Consumer>,
    started: Started,
    events: Receiver<Result<SourceEvent>>,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    reports: bool,
}

/// The longest that the driver waits for an answer: positions are asked for 30 s, and a stalled reader is busy with one
/// question to the cluster at most.
const ANSWER: Duration = Duration::from_secs(120);
/// Commands that wait for the reader.
const COMMANDS: usize = 16;

impl KafkaSource {
    /// Opens the source. Does not wait for a broker: what is wrong with the cluster comes with
    /// [`Source::next_event`]. Fails only for settings that librdkafka does not take.
    pub fn open(opening: Opening) -> Result<KafkaSource> {
        let context = |error: Error| error.context(format!("source `{}`", opening.source));
        let config = consumer_config(&opening);
        let release_within = release_within(&config).map_err(context)?;
        let consumer = Arc::new(Consumer::open(&config).map_err(config_error).map_err(context)?);
        let (events, received) = bounded(BLOCKS_WAITING);
        let (commands, obeyed) = bounded(COMMANDS);
        let started = Started::default();
        let source = opening.source.clone();
        let reports = opening.membership == Membership::Group;
        let reader = Reader::new(opening, consumer.clone(), started.clone(), events, obeyed, release_within);
        let thread = std::thread::Builder::new()
            .name(format!("kafka-{source}"))
            .spawn(move || reader.run())
            .map_err(|error| Error::unavailable("no thread for a kafka source").with_source(error))?;
        Ok(KafkaSource { source, consumer, started, events: received, commands, thread: Some(thread), reports })
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| self.ended())?;
        self.consumer.wake();
        Ok(())
    }

    /// Why the reader ended: what it said last, if it is still there.
    fn ended(&self) -> Error {
        let unsaid = || Error::internal(format!("source `{}` was used after its end", self.source));
        self.events.try_iter().find_map(Result::err).unwrap_or_else(unsaid)
    }
}

impl Source for KafkaSource {
    fn next_event(&mut self) -> Result<Option<SourceEvent>> {
        match self.events.try_recv() {
            Ok(event) => event.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.ended()),
        }
    }

    fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>> {
        let (answer, answered) = bounded(1);
        self.command(Command::Start { starts: starts.to_vec(), answer })?;
        match answered.recv_timeout(ANSWER) {
            Ok(resolved) => resolved,
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => Err(Error::unavailable(format!(
                "source `{}`: partitions were not started within {} s; is the kafka cluster overloaded? try again",
                self.source,
                ANSWER.as_secs()
            ))),
        }
    }

    fn release(&mut self, assignments: &[Assignment]) -> Result<()> {
        self.command(Command::Release(assignments.to_vec()))
    }

    fn report(&mut self, positions: &[(Assignment, Offset)]) {
        if !self.reports || positions.is_empty() {
            return;
        }
        let entries: Vec<Entry> = self.started.with(|started| {
            let entry = |(assignment, position): &(Assignment, Offset)| {
                let place = started.get(assignment)?;
                Some(Entry::new(&place.topic, place.partition, place.position_after(*position).get()))
            };
            positions.iter().filter_map(entry).collect()
        });
        if let Err(error) = self.consumer.commit_soon(&entries) {
            tracing::debug!(source = &*self.source, %error, "the group was not told our positions");
        }
    }

    fn num_partitions(&self, topic: &str) -> Option<u32> {
        self.started.num_partitions(topic)
    }

    fn progress(&self) -> Vec<PartitionProgress> {
        let started: Vec<_> = self.started.with(|started| started.clone().into_iter().collect());
        let progress = |(assignment, place): (Assignment, Arc<partitions::Place>)| {
            // Before the position, which may move on meanwhile.
            let delivered = place.delivered();
            // librdkafka's own position is past control records, of which we never hear.
            let heard = self.consumer.position(&place.topic, place.partition).and_then(Offset::new);
            let position = place.next().max(heard.unwrap_or_default());
            let end = self.consumer.last_heard_end(&place.topic, place.partition).and_then(Offset::new);
            PartitionProgress { assignment, position, delivered, end }
        };
        started.into_iter().map(progress).collect()
    }

    fn close(&mut self, timeout: Duration) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let deadline = now() + timeout;
        // A full channel empties while the reader lives; a closed one says that it ended by itself.
        drop(self.commands.send_timeout(Command::Close, timeout));
        self.consumer.wake();
        while !thread.is_finished() {
            if now() >= deadline {
                return Err(Error::unavailable(format!(
                    "source `{}`: the kafka client did not leave its group within {} ms; the group will notice by itself",
                    self.source,
                    timeout.as_millis()
                )));
            }
            // The reader may wait for room: what it still says is of no use any more.
            drop(self.events.recv_timeout(Duration::from_millis(5)));
        }
        thread.join().map_err(|_| Error::internal(format!("source `{}`: its thread panicked", self.source)))
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // The thread ends by itself; nobody waits for it.
        drop(self.commands.try_send(Command::Close));
        self.consumer.wake();
    }
}

fn consumer_config(opening: &Opening) -> ClientConfig {
    let settings = &opening.settings;
    // A record with its key, headers and framing must fit into one fetch.
    let fetch = (opening.max_record_bytes + (1 << 20)).clamp(10 << 20, 1 << 30).to_string();
    let receive = (opening.max_record_bytes + (2 << 20)).clamp(64 << 20, (1 << 30) + (1 << 20)).to_string();
    let defaults = [
        // What is fetched ahead: enough for a millisecond of work at full speed, and bounded (`queued.max` is of the client).
        ("queued.min.messages", "100000"),
        ("queued.max.messages.kbytes", "16384"),
        ("fetch.message.max.bytes", &*fetch),
        ("fetch.max.bytes", &*fetch),
        ("receive.message.max.bytes", &*receive),
        // A broker that has nothing holds the question for so long; it answers at once when a record comes.
        ("fetch.wait.max.ms", "500"),
        ("fetch.min.bytes", "1"),
        // A new worker waits for the old ones' next heartbeat, and the partitions of one that was killed for the session's end.
        ("heartbeat.interval.ms", "500"),
        ("session.timeout.ms", "10000"),
        ("fetch.error.backoff.ms", "50"),
        ("fetch.queue.backoff.ms", "20"),
        ("reconnect.backoff.max.ms", "2000"),
    ];
    let embedded = embedded::consumer_defaults(&settings.connection.bootstrap_servers);
    let mut config = client_config(&settings.connection, &[&defaults, embedded].concat());
    let refresh = settings.metadata_refresh.as_millis().clamp(100, 3_600_000).to_string();
    // librdkafka's batches take the application to be past the end that they tell, so a rebalance (which fetches anew from there)
    // passes over the next record. Where the end is the end for good, nothing comes behind it; an internal topic grows until
    // the stage before it has ended, and has no control records that only the end would tell.
    let ends = settings.until == settings::Until::Now && opening.gate.is_none();
    let owned = [
        ("group.id", &*settings.group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("enable.partition.eof", if ends { "true" } else { "false" }),
        ("topic.metadata.refresh.interval.ms", &*refresh),
        ("allow.auto.create.topics", "false"),
    ];
    set_all(&mut config, owned);
    config
}

/// How long the group waits for a member that gives partitions back.
fn release_within(config: &ClientConfig) -> Result<Duration> {
    let native = config.create_native_config().map_err(config_error)?;
    let interval = native.get("max.poll.interval.ms").map_err(config_error)?;
    Ok(Duration::from_millis(interval.parse().unwrap_or(300_000)))
}

#[cfg(test)]
mod tests;
