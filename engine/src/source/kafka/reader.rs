//! The reader: the one thread that consumes. It turns batches into blocks, obeys the driver's commands, and waits for room
//! without ever leaving the group's protocol (`group`) unserved. It decides no position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};

use rdkafka::error::RDKafkaErrorCode as Code;

use super::Opening;
use super::connection::{Verdict, client_error, now, verdict};
use super::group::Revocation;
use super::native::{Consumer, Messages};
use super::pace::Pace;
use super::partitions::{Partitions, Stage, Started};
use crate::error::{Error, Result};
use crate::source::{SourceEvent, StartAt};
use crate::types::{Assignment, BytesColumn, Offset, RecordBlock};

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
/// How often it is said that the whole cluster cannot be reached.
const SAY_DOWN_AGAIN: Duration = Duration::from_secs(10);
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

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) opening: Opening,
    /// Dropped before the consumer that they come from.
    pub(super) messages: Messages,
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
    pub(super) revocation: Option<Revocation>,
    /// Time allowed for a release: after it the group goes on without us.
    pub(super) release_within: Duration,
    /// Whether the group has said what is ours, be it nothing.
    pub(super) is_assigned: bool,
    pub(super) has_said_end: bool,
    /// Of a bounded source: whether its ends were taken.
    pub(super) has_ends: bool,
    /// When the group was last asked how far its members are.
    pub(super) asked_group_at: Option<Instant>,
    /// Whether fetching stopped because nobody takes records.
    is_stalled: bool,
    /// When it was last said that no broker can be reached.
    said_down_at: Option<Instant>,
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
        let pace = opening.settings.rate_limit.map(|rate| Pace::new(rate, now()));
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
            is_assigned: false,
            has_said_end: false,
            has_ends: false,
            asked_group_at: None,
            is_stalled: false,
            said_down_at: None,
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
        self.release_all();
        self.warn_if_refused("close", self.consumer.close());
    }

    fn read(&mut self) -> Result<std::convert::Infallible, Halt> {
        self.open()?;
        loop {
            self.serve_commands()?;
            self.serve_callbacks()?;
            self.say_end();
            if self.partitions.iter().any(|held| held.is_broken) {
                self.stop_fetching();
            }
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
            room = pace.available(now());
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
        let (num_messages, num_bytes) = self.messages.size(BLOCK_BYTES);
        if num_messages == 0 {
            return Ok(());
        }
        let mut block = RecordBlock {
            units: Vec::with_capacity(num_messages),
            offsets: Vec::with_capacity(num_messages),
            timestamps_ms: Vec::with_capacity(num_messages),
            keys: BytesColumn::with_capacity(num_messages, 0),
            values: BytesColumn::with_capacity(num_messages, num_bytes),
            ..RecordBlock::default()
        };
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
        let began = now();
        while let Some(event) = self.outbox.pop_front() {
            match self.events.try_send(Ok(event)) {
                Ok(()) => self.opening.waker.wake(),
                Err(TrySendError::Disconnected(_)) => return Err(Halt::Closed),
                Err(TrySendError::Full(event)) => {
                    if let Ok(event) = event {
                        self.outbox.push_front(event);
                    }
                    if !self.is_stalled && began.elapsed() >= STALL {
                        tracing::debug!(
                            source = &*self.opening.source,
                            "nobody takes records; fetching stops until there is room"
                        );
                        self.stop_fetching();
                    }
                    if self.is_stalled {
                        self.serve_while_stalled(IDLE / 2)?;
                    } else {
                        self.wait_for_room();
                    }
                    self.serve_commands()?;
                }
            }
        }
        if self.is_stalled {
            self.restart_broken()?;
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

    /// Has the client leave all partitions alone, until the next flush has said everything.
    pub(super) fn stop_fetching(&mut self) {
        self.is_stalled = true;
        let mut paused = Vec::new();
        for held in self.partitions.iter_mut().filter(|held| held.is_assigned && !held.is_paused) {
            held.is_paused = true;
            paused.push(held.entry());
        }
        self.warn_if_refused("pause", self.consumer.pause(&paused));
    }

    /// Serves callbacks while nothing is fetched.
    fn serve_while_stalled(&mut self, timeout: Duration) -> Result<(), Halt> {
        let mut none = Messages::new(64);
        self.consumer.consume(&mut none, 64, timeout);
        while let Some(message) = none.current() {
            let (topic, partition) = (message.topic().to_owned(), message.partition());
            match message.error() {
                Some(code) => {
                    let (offset, text) = (message.offset(), message.error_text());
                    self.serve_partition_error(code, &topic, partition, offset, &text)?;
                }
                // Paused partitions give no records. Should one come all the same, it is fetched again.
                None => {
                    if let Some(entry) = self.partitions.find(&topic, partition).map(|held| held.entry()) {
                        self.warn_if_refused("seek", self.consumer.seek(entry));
                    }
                }
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
        let (mut assigned, mut resumed) = (Vec::new(), Vec::new());
        for held in self.partitions.iter_mut().filter(|held| held.stage == Stage::Started && !held.has_ended()) {
            if !held.is_assigned {
                held.is_assigned = true;
                assigned.push(held.entry());
            } else if held.is_paused && !held.is_broken {
                held.is_paused = false;
                resumed.push(held.entry());
            }
        }
        if !assigned.is_empty() {
            self.warn_if_refused("assign", self.consumer.assign(&assigned));
        }
        if !resumed.is_empty() {
            self.warn_if_refused("resume", self.consumer.resume(&resumed));
        }
    }

    /// Gives partitions to the client again that it has given up. Only a new assignment does that, and an unassign must not be
    /// taken for the answer to a revocation: so callbacks are heard first, and a revocation goes first.
    fn restart_broken(&mut self) -> Result<(), Halt> {
        if !self.partitions.iter().any(|held| held.is_broken) {
            return Ok(());
        }
        self.serve_while_stalled(Duration::ZERO)?;
        if self.is_revoking() {
            return Ok(());
        }
        let mut entries = Vec::new();
        for held in self.partitions.iter_mut().filter(|held| held.is_broken) {
            (held.is_broken, held.is_paused) = (false, false);
            entries.push(held.entry());
        }
        self.warn_if_refused("resume", self.consumer.resume(&entries));
        self.warn_if_refused("unassign", self.consumer.unassign(&entries));
        self.warn_if_refused("assign", self.consumer.assign(&entries));
        Ok(())
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

    pub(super) fn serve_client_error(&mut self, code: Code, reason: &str) -> Result<(), Halt> {
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
            // librdkafka says so after every attempt of every connection.
            if self.said_down_at.is_none_or(|said| said.elapsed() >= SAY_DOWN_AGAIN) {
                self.said_down_at = Some(now());
                let brokers = &*self.opening.settings.connection.bootstrap_servers;
                tracing::warn!(source, brokers, "no kafka broker can be reached; trying on");
            }
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
                tracing::warn!(
                    source,
                    "the group did not hear of this worker in time and has given its partitions away"
                );
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
        let deadline = now() + self.release_within;
        while now() < deadline {
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
