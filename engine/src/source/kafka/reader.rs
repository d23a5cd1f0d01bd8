//! The reader: the one thread that consumes. It turns batches into blocks, tells the driver of rebalances and answers them
//! when the driver did, and waits for room without ever leaving the group's protocol unserved. It decides no position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};

use rdkafka::error::RDKafkaErrorCode as Code;

use super::connection::{Verdict, client_error, verdict};
use super::native::{Consumer, Entry, Messages, Rebalance};
use super::pace::Pace;
use super::partitions::{Held, Partitions, Stage, Started};
use super::{Membership, Opening};
use crate::error::{Error, Result};
use crate::pipeline::settings::Until;
use crate::source::{SourceEvent, StartAt};
use crate::types::{Assignment, Offset, RecordBlock};

/// Records of a block at most.
const BLOCK_RECORDS: usize = 4096;
/// Bytes of a block, after which no record is added.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that wait for the driver.
pub(super) const BLOCKS_WAITING: usize = 8;
/// How long the reader sleeps when nothing happens. Records, callbacks and commands end the sleep.
const IDLE: Duration = Duration::from_millis(100);
/// After this long without room the client stops fetching, so that the queue holds callbacks only and they can be served.
const STALL: Duration = Duration::from_secs(1);
/// A worker without partitions in a bounded run waits this long for the group to give it some: the members that were there
/// before hear of a newcomer with their next heartbeat.
const ALONE: Duration = Duration::from_secs(5);

/// What the driver's side asks of the reader.
#[derive(Debug)]
pub(super) enum Command {
    Start { starts: Vec<(Assignment, StartAt)>, answer: Sender<Result<Vec<(Assignment, Offset)>>> },
    Release(Vec<Assignment>),
    Close,
}

/// Why the reader stops.
#[derive(Debug)]
pub(super) enum Halt {
    Closed,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Halt {
        Halt::Failed(error)
    }
}

/// Partitions that the group wants back.
#[derive(Debug)]
struct Revocation {
    revoked: Vec<Assignment>,
    /// Those of them that the driver has not released yet.
    waiting: Vec<Assignment>,
    deadline: Instant,
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) opening: Opening,
    /// Dropped before the consumer that they come from.
    messages: Messages,
    pub(super) consumer: Arc<Consumer>,
    pub(super) partitions: Partitions,
    /// What is to be said, in order. Holds one block and a few events at most.
    pub(super) outbox: VecDeque<SourceEvent>,
    /// What is known of the topics since they were first seen.
    pub(super) topics: super::opening::Topics,
    /// Whether a broker ever answered.
    pub(super) has_contact: bool,
    events: Sender<Result<SourceEvent>>,
    commands: Receiver<Command>,
    pace: Option<Pace>,
    revocation: Option<Revocation>,
    /// Time allowed for a release: after it the group goes on without us.
    release_within: Duration,
    /// When the group last said what is ours.
    assigned_at: Option<Instant>,
    has_said_end: bool,
    /// Whether fetching stopped because nobody takes records.
    is_stalled: bool,
}

impl Reader {
    pub(super) fn new(
        opening: Opening,
        consumer: Arc<Consumer>,
        started: Started,
        events: Sender<Result<SourceEvent>>,
        commands: Receiver<Command>,
        release_within: Duration,
    ) -> Reader {
        let pace = opening.settings.rate_limit.map(|rate| Pace::new(rate, Instant::now()));
        Reader {
            consumer,
            partitions: Partitions::new(started),
            outbox: VecDeque::new(),
            topics: super::opening::Topics::default(),
            has_contact: false,
            events,
            commands,
            messages: Messages::new(BLOCK_RECORDS),
            pace,
            revocation: None,
            release_within,
            assigned_at: None,
            has_said_end: false,
            is_stalled: false,
            opening,
        }
    }

    /// Reads until it is closed or cannot go on; then says why and leaves the group.
    pub(super) fn run(mut self) {
        let halt = match self.read() {
            Err(halt) => halt,
            Ok(never) => match never {},
        };
        if let Halt::Failed(error) = halt {
            self.say_failed(error);
        }
        self.messages = Messages::new(0);
        if let Some(revocation) = self.revocation.take() {
            let fetched = self.partitions.remove(&revocation.revoked);
            self.warn_if_refused("unassign", self.consumer.unassign(&fetched));
        }
        self.warn_if_refused("close", self.consumer.close());
    }

    fn read(&mut self) -> Result<std::convert::Infallible, Halt> {
        self.open()?;
        loop {
            self.serve_commands()?;
            self.serve_callbacks()?;
            self.say_end();
            self.flush()?;
            if self.messages.is_empty() {
                self.fetch()?;
            }
            self.fill()?;
        }
    }

    fn fetch(&mut self) -> Result<(), Halt> {
        let mut room = BLOCK_RECORDS;
        if let Some(pace) = &mut self.pace {
            room = pace.available(Instant::now());
            if room == 0 {
                let wait = pace.until_next();
                return match self.commands.recv_timeout(wait) {
                    Ok(command) => self.obey(command),
                    Err(crossbeam_channel::RecvTimeoutError::Timeout) => Ok(()),
                    Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(Halt::Closed),
                };
            }
        }
        self.consumer.consume(&mut self.messages, room, IDLE);
        Ok(())
    }

    /// Copies messages into one block, and puts it into the outbox.
    fn fill(&mut self) -> Result<(), Halt> {
        let mut block = RecordBlock::default();
        let mut bytes = 0;
        while let Some(message) = self.messages.current() {
            if let Some(code) = message.error() {
                if !block.is_empty() {
                    break;
                }
                let (topic, partition) = (message.topic().to_owned(), message.partition());
                let (offset, text) = (message.offset(), message.error_text());
                self.messages.advance();
                self.serve_partition_error(code, &topic, partition, offset, &text)?;
                continue;
            }
            self.partitions.take(message, &mut block);
            bytes += message.num_bytes();
            self.messages.advance();
            if block.len() >= BLOCK_RECORDS || bytes >= BLOCK_BYTES {
                break;
            }
        }
        if !block.is_empty() {
            if let Some(pace) = &mut self.pace {
                pace.take(block.len());
            }
            self.has_contact = true;
            self.outbox.push_back(SourceEvent::Records(block));
        }
        Ok(())
    }

    /// Says what is in the outbox. Waits for room; commands and, after a while, the group are served meanwhile.
    pub(super) fn flush(&mut self) -> Result<(), Halt> {
        let began = Instant::now();
        while let Some(event) = self.outbox.pop_front() {
            match self.events.try_send(Ok(event)) {
                Ok(()) => self.opening.waker.wake(),
                Err(TrySendError::Disconnected(_)) => return Err(Halt::Closed),
                Err(TrySendError::Full(event)) => {
                    if let Ok(event) = event {
                        self.outbox.push_front(event);
                    }
                    if !self.is_stalled && began.elapsed() >= STALL {
                        self.stop_fetching();
                    }
                    if self.is_stalled {
                        self.serve_while_stalled()?;
                    } else {
                        self.wait_for_room();
                    }
                    self.serve_commands()?;
                }
            }
        }
        if self.is_stalled {
            self.is_stalled = false;
            self.fetch_started();
        }
        Ok(())
    }

    fn wait_for_room(&self) {
        let mut select = Select::new();
        select.send(&self.events);
        select.recv(&self.commands);
        // Which of them it is, or the timeout, is seen by the caller's loop.
        select.ready_timeout(STALL).ok();
    }

    /// Gives up what was fetched ahead; it is fetched again from the positions.
    fn stop_fetching(&mut self) {
        tracing::debug!(source = &*self.opening.source, "nobody takes records; fetching stops until there is room");
        self.is_stalled = true;
        let mut fetched = Vec::new();
        for held in self.partitions.iter_mut().filter(|held| held.is_fetched) {
            fetched.push(held.entry());
            held.is_fetched = false;
        }
        self.warn_if_refused("unassign", self.consumer.unassign(&fetched));
        self.messages = Messages::new(BLOCK_RECORDS);
    }

    fn serve_while_stalled(&mut self) -> Result<(), Halt> {
        let mut none = Messages::new(64);
        self.consumer.consume(&mut none, 64, IDLE / 2);
        while let Some(message) = none.current() {
            // A record here was on its way when fetching stopped; it comes again.
            if let Some(code) = message.error() {
                let (topic, partition) = (message.topic().to_owned(), message.partition());
                let (offset, text) = (message.offset(), message.error_text());
                self.serve_partition_error(code, &topic, partition, offset, &text)?;
            }
            none.advance();
        }
        self.serve_callbacks()
    }

    /// Has every started partition fetched that is not; later, when nobody takes records now.
    pub(super) fn fetch_started(&mut self) {
        if self.is_stalled {
            return;
        }
        let mut entries = Vec::new();
        for held in self.partitions.iter_mut() {
            if held.stage == Stage::Started && !held.is_fetched && !held.has_ended() {
                entries.push(held.entry());
                held.is_fetched = true;
            }
        }
        if !entries.is_empty() {
            self.warn_if_refused("assign", self.consumer.assign(&entries));
        }
    }

    /// Fetches a partition again, from its position.
    pub(super) fn fetch_again(&mut self, topic: &str, partition: i32) {
        let Some(held) = self.partitions.find(topic, partition).filter(|held| held.is_fetched) else { return };
        held.is_fetched = false;
        let entry = held.entry();
        self.warn_if_refused("unassign", self.consumer.unassign(&[entry]));
        self.fetch_started();
    }

    fn serve_commands(&mut self) -> Result<(), Halt> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Halt::Closed),
            }
        }
    }

    /// Whether a close is waiting, or the driver's side is gone. Before the group is joined no other command can come.
    pub(super) fn is_closing(&self) -> bool {
        !matches!(self.commands.try_recv(), Err(TryRecvError::Empty))
    }

    fn obey(&mut self, command: Command) -> Result<(), Halt> {
        match command {
            Command::Start { starts, answer } => {
                let resolved = self.start(&starts);
                // Nobody waits for the answer any more when the driver's side is gone; the next turn sees that.
                drop(answer.send(resolved));
                Ok(())
            }
            Command::Release(assignments) => {
                self.release(&assignments);
                Ok(())
            }
            Command::Close => Err(Halt::Closed),
        }
    }

    fn release(&mut self, assignments: &[Assignment]) {
        let Some(revocation) = &mut self.revocation else { return };
        revocation.waiting.retain(|assignment| !assignments.contains(assignment));
        // The group goes on with the first unassign, so all wait for the last release.
        if revocation.waiting.is_empty() {
            let revoked = std::mem::take(&mut revocation.revoked);
            self.revocation = None;
            let fetched = self.partitions.remove(&revoked);
            self.warn_if_refused("unassign", self.consumer.unassign(&fetched));
        }
    }

    pub(super) fn serve_callbacks(&mut self) -> Result<(), Halt> {
        for error in self.consumer.errors() {
            self.serve_client_error(error.code, &error.reason)?;
        }
        for rebalance in self.consumer.rebalances() {
            self.has_contact = true;
            match rebalance {
                Rebalance::Assigned(entries) => self.assigned(&entries),
                Rebalance::Revoked(entries) => self.revoked(&entries),
                Rebalance::Lost(entries) => self.lost(&entries),
            }
        }
        if self.revocation.is_some() && self.consumer.has_lost_its_assignment() {
            // While it waits for us the group cannot say so by a callback.
            let lost: Vec<Entry> =
                self.partitions.iter().filter(|held| held.stage == Stage::Revoking).map(Held::entry).collect();
            self.lost(&lost);
        }
        let Some(revocation) = &self.revocation else { return Ok(()) };
        if Instant::now() < revocation.deadline {
            return Ok(());
        }
        Err(Halt::Failed(Error::unavailable(format!(
            "source `{}`: {} partitions were to be given to another worker, and were not released within {} s; the group has \
             gone on without us: start again, and raise the kafka option `max.poll.interval.ms` if a checkpoint takes that long",
            self.opening.source,
            revocation.waiting.len(),
            self.release_within.as_secs(),
        ))))
    }

    /// Takes partitions in. The group is told at once that we heard it; fetching begins with `start`.
    pub(super) fn assigned(&mut self, entries: &[Entry]) {
        if self.opening.membership == Membership::Group {
            self.warn_if_refused("assign", self.consumer.assign(&[]));
        }
        self.assigned_at = Some(Instant::now());
        let stale: Vec<Entry> = entries
            .iter()
            .filter(|entry| self.partitions.find(&entry.topic, entry.partition).is_some())
            .cloned()
            .collect();
        if !stale.is_empty() {
            self.lost(&stale);
        }
        let mut units = Vec::new();
        for entry in entries {
            let assignment = self.opening.numbers.next();
            self.partitions.add(assignment, entry.topic.clone(), entry.partition);
            units.extend(self.partitions.get(assignment).map(|held| (assignment, held.unit(&self.opening.source))));
        }
        if !units.is_empty() {
            self.has_said_end = false;
            self.outbox.push_back(SourceEvent::Assigned(units));
        }
    }

    fn revoked(&mut self, entries: &[Entry]) {
        let mut assignments = Vec::new();
        for entry in entries {
            if let Some(held) = self.partitions.find(&entry.topic, entry.partition) {
                held.stage = Stage::Revoking;
                assignments.push(held.assignment);
            }
        }
        if assignments.is_empty() {
            return self.warn_if_refused("unassign", self.consumer.unassign(&[]));
        }
        self.outbox.push_back(SourceEvent::Revoked(assignments.clone()));
        self.revocation = Some(Revocation {
            revoked: assignments.clone(),
            waiting: assignments,
            deadline: Instant::now() + self.release_within,
        });
    }

    fn lost(&mut self, entries: &[Entry]) {
        let mut assignments = Vec::new();
        for entry in entries {
            assignments.extend(self.partitions.find(&entry.topic, entry.partition).map(|held| held.assignment));
        }
        tracing::warn!(
            source = &*self.opening.source,
            num_partitions = assignments.len(),
            "partitions were lost to the group: this worker was too slow or cut off; what was not committed of them is discarded"
        );
        if let Some(revocation) = &mut self.revocation {
            revocation.waiting.retain(|assignment| !assignments.contains(assignment));
            if revocation.waiting.is_empty() {
                self.revocation = None;
            }
        }
        let fetched = self.partitions.remove(&assignments);
        self.warn_if_refused("unassign", self.consumer.unassign(&fetched));
        if !assignments.is_empty() {
            self.outbox.push_back(SourceEvent::Lost(assignments));
        }
    }

    /// Of a bounded source: says the end when every partition has reached its own.
    fn say_end(&mut self) {
        if self.opening.settings.until == Until::Forever || self.has_said_end || !self.messages.is_empty() {
            return;
        }
        let Some(assigned_at) = self.assigned_at else { return };
        self.stop_ended();
        let is_settled = self.revocation.is_none() && self.partitions.iter().all(|held| held.has_ended());
        let is_patient = !self.partitions.is_empty()
            || self.opening.membership == Membership::Alone
            || assigned_at.elapsed() >= ALONE;
        if is_settled && is_patient {
            self.has_said_end = true;
            self.outbox.push_back(SourceEvent::End);
        }
    }

    /// Stops fetching partitions that have reached their end: by a record, or, past control records that end a transaction,
    /// by librdkafka's word that there is nothing more.
    fn stop_ended(&mut self) {
        let mut ended = Vec::new();
        for held in self.partitions.iter_mut().filter(|held| held.is_fetched && held.has_ended()) {
            held.is_fetched = false;
            ended.push(held.entry());
        }
        if !ended.is_empty() {
            self.warn_if_refused("unassign", self.consumer.unassign(&ended));
        }
    }

    fn serve_client_error(&mut self, code: Code, reason: &str) -> Result<(), Halt> {
        let source = &*self.opening.source;
        if let Some(error) = client_error(code, &format!("source `{source}`"), reason) {
            return Err(Halt::Failed(error));
        }
        if code == Code::SSL && !self.has_contact {
            let reason = reason.trim_end_matches('.');
            return Err(Halt::Failed(Error::invalid(format!(
                "source `{source}`: no secure connection to the kafka cluster ({reason}); check `security_protocol` and the \
                 `ssl_*` settings"
            ))));
        }
        if code == Code::AllBrokersDown {
            let brokers = &*self.opening.settings.connection.bootstrap_servers;
            tracing::warn!(source, brokers, "no kafka broker can be reached; trying on");
        } else {
            tracing::info!(source, code = %code, reason, "the kafka client reports");
        }
        Ok(())
    }

    fn serve_partition_error(
        &mut self,
        code: Code,
        topic: &str,
        partition: i32,
        offset: i64,
        text: &str,
    ) -> Result<(), Halt> {
        let source = &*self.opening.source;
        match code {
            Code::PartitionEOF => {
                if let Some(held) = self.partitions.find(topic, partition) {
                    held.advance(offset);
                }
                Ok(())
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => self.find_again(topic, partition),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                Err(Halt::Failed(Error::invalid(format!(
                    "source `{source}`: topic `{topic}` is gone from the kafka cluster; create it again or mend `topic`"
                ))))
            }
            Code::PollExceeded => {
                tracing::warn!(source, "the group did not hear of this worker in time and has given its partitions away");
                Ok(())
            }
            code if verdict(code) != Verdict::GoesOn => self.serve_client_error(code, text),
            code => {
                tracing::warn!(source, topic, partition, code = %code, reason = text, "reading is disturbed; trying on");
                Ok(())
            }
        }
    }

    /// The last thing said. The driver may be slow, but not for ever.
    fn say_failed(&mut self, error: Error) {
        let mut message = Err(error);
        let deadline = Instant::now() + self.release_within;
        while Instant::now() < deadline {
            self.opening.waker.wake();
            match self.events.send_timeout(message, IDLE) {
                Ok(()) => return self.opening.waker.wake(),
                Err(crossbeam_channel::SendTimeoutError::Disconnected(_)) => return,
                Err(crossbeam_channel::SendTimeoutError::Timeout(unsent)) => message = unsent,
            }
            // Whoever waits for an answer gets none: the channel of the answer is dropped with the command.
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::Close) {
                    return;
                }
            }
        }
    }

    pub(super) fn warn_if_refused(&self, act: &str, result: rdkafka::error::KafkaResult<()>) {
        if let Err(error) = result {
            tracing::warn!(source = &*self.opening.source, act, %error, "the kafka client refuses");
        }
    }
}
