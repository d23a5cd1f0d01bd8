//! Sources: where records come from. A source runs its client on its own thread, behind one bounded channel and one closed
//! enum; the driver sets the pace and a source only answers. It never decodes, and never decides where to start.
//!
//! What a source owes:
//! 1. Records of one partition come in the order of their offsets, each once per assignment.
//! 2. Nothing of a partition comes before [`Source::start`] for its assignment, and nothing after its release.
//! 3. A revoked partition stays ours until [`Source::release`]: the group's protocol waits for it.
//! 4. Memory is bounded: with nobody reading, a source holds what its channel holds and no more.

pub mod files;
pub mod generated;
pub mod generator;
pub mod kafka;
pub mod scripted;

use std::time::Duration;

use crate::error::Result;
use crate::types::{Assignment, Offset, RecordBlock, RowBlock, StateUnit};

/// What a source has to say.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are records, and one stands for thousands")]
pub enum SourceEvent {
    /// Records, of started partitions only.
    Records(RecordBlock),
    /// Rows of a source that has columns already, of a started partition.
    Rows(RowBlock),
    /// Partitions given to this worker. Answer with [`Source::start`]. Assignment numbers are new within the process.
    Assigned(Vec<(Assignment, StateUnit)>),
    /// Partitions about to be taken. Answer with [`Source::release`] when all that was read of them is published or
    /// discarded.
    Revoked(Vec<Assignment>),
    /// Partitions that are already somebody else's: discard. No answer is expected.
    Lost(Vec<Assignment>),
    /// Positions that were gone from the log, under the policy that goes on: records skipped, as far as known.
    DataLost {
        /// The partition.
        assignment: Assignment,
        /// Where we wanted to read.
        wanted: Offset,
        /// Where reading goes on.
        found: Offset,
    },
    /// A bounded source has delivered everything of all its partitions.
    End,
}

/// Where a partition starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At a stored position.
    Stored(Offset),
    /// As the source's settings say: no position is stored.
    Configured,
    /// At the beginning: no position is stored, but the topic's other partitions have one, so this one was found while running.
    Beginning,
}

/// How far a partition has come, for lag and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The partition.
    pub assignment: Assignment,
    /// Next position that the source will read.
    pub position: Offset,
    /// After the last record that it gave out. Between it and `position` there is no record.
    pub delivered: Offset,
    /// First offset not yet written by the broker, as last heard.
    pub end: Option<Offset>,
}

/// Wakes the driver when a source has something to say. Cloned into the source's thread.
#[derive(Debug, Clone)]
pub struct Waker(crossbeam_channel::Sender<()>);

impl Waker {
    /// A waker and what it wakes: `recv_timeout` on the receiver returns when a source called [`Waker::wake`].
    #[must_use]
    pub fn new() -> (Waker, crossbeam_channel::Receiver<()>) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        (Waker(sender), receiver)
    }

    /// Wakes the driver; cheap when it is already woken.
    pub fn wake(&self) {
        match self.0.try_send(()) {
            // Full: a wake-up is already pending. Closed: the driver is gone.
            Ok(()) | Err(_) => {}
        }
    }
}

/// Closed until all that will ever be in a topic between two stages is there. The source that reads it ends at what is there
/// once the gate is open, instead of at what was there when it opened.
#[derive(Debug, Clone, Default)]
pub struct Gate(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Gate {
    /// Opens it, for good.
    pub fn open(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// Gives out assignment numbers; one per process.
#[derive(Debug, Clone, Default)]
pub struct AssignmentNumbers(std::sync::Arc<std::sync::atomic::AtomicU32>);

impl AssignmentNumbers {
    /// A number that nobody has had.
    #[must_use]
    pub fn next(&self) -> Assignment {
        Assignment(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

/// A source of records.
pub trait Source: Send + std::fmt::Debug {
    /// The next event, without waiting; `None` when there is nothing now. After an error the source is finished.
    fn next_event(&mut self) -> Result<Option<SourceEvent>>;

    /// Starts reading assigned partitions. Returns the positions that were resolved, one per entry: those of the settings
    /// are asked of the broker once and from then on stored, so that `latest` is not resolved again after a restart.
    /// A partition that was taken meanwhile is left out of the answer.
    fn start(&mut self, starts: &[(Assignment, StartAt)]) -> Result<Vec<(Assignment, Offset)>>;

    /// Gives revoked partitions back: the answer to [`SourceEvent::Revoked`].
    fn release(&mut self, assignments: &[Assignment]) -> Result<()>;

    /// Tells the outer system our positions, for its dashboards only; truth is the manifest. Best effort.
    fn report(&mut self, positions: &[(Assignment, Offset)]);

    /// Number of partitions that a topic had when this source opened; `None` when a source has no number that may grow.
    /// Known from the first [`SourceEvent::Assigned`] on.
    fn num_partitions(&self, topic: &str) -> Option<u32>;

    /// How far each started partition is.
    fn progress(&self) -> Vec<PartitionProgress>;

    /// Leaves: closes the client and ends its thread, waiting at most `timeout`. Unreleased partitions are given back.
    fn close(&mut self, timeout: Duration) -> Result<()>;
}
