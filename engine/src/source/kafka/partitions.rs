//! The partitions that this worker holds, from assignment to release: which may be delivered, and up to where each was.
//! Bookkeeping only; it calls no client.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::native::{Entry, Message};
use crate::types::{Assignment, Offset, RecordBlock, StateUnit};

/// A partition's name and position, as the driver's side sees them.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    next: AtomicI64,
    /// After the last record that was delivered. `next` may lie further: past control records, or at an end that was heard.
    delivered: AtomicI64,
}

impl Place {
    pub(super) fn next(&self) -> Offset {
        Offset::new(self.next.load(Ordering::Acquire)).unwrap_or_default()
    }

    pub(super) fn delivered(&self) -> Offset {
        Offset::new(self.delivered.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// The position of a driver that is done with everything below `done`: when that is all that was delivered, what
    /// follows is known to hold no record. Read in this order, `next` cannot be past a record that `delivered` does not know.
    pub(super) fn position_after(&self, done: Offset) -> Offset {
        let next = self.next();
        if done >= self.delivered() { next.max(done) } else { done }
    }
}

/// The started partitions, shared with the driver's side for progress and reports; and how many each topic had.
#[derive(Debug, Clone, Default)]
pub(super) struct Started {
    places: Arc<Mutex<BTreeMap<Assignment, Arc<Place>>>>,
    num_partitions: Arc<Mutex<BTreeMap<Arc<str>, i32>>>,
}

impl Started {
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<Assignment, Arc<Place>>) -> T) -> T {
        f(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn num_partitions(&self, topic: &str) -> Option<u32> {
        let numbers = self.num_partitions.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(topic).and_then(|number| u32::try_from(*number).ok())
    }
}

/// How far a partition's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Assigned, not started.
    Waiting,
    /// Records are delivered.
    Started,
    /// About to be taken; nothing is delivered any more.
    Revoking,
}

/// A partition that this worker holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) assignment: Assignment,
    pub(super) place: Arc<Place>,
    pub(super) stage: Stage,
    /// Whether the client has it: from its start to its release.
    pub(super) is_assigned: bool,
    /// Whether the client leaves it alone for now: past its end, or while nobody takes records.
    pub(super) is_paused: bool,
    /// Whether the client has given it up and must be given it again.
    pub(super) is_broken: bool,
    /// Where a bounded source ends.
    pub(super) end: Option<i64>,
}

impl Held {
    pub(super) fn next(&self) -> i64 {
        self.place.next.load(Ordering::Acquire)
    }

    /// Moves the position forward, never back.
    pub(super) fn advance(&self, next: i64) {
        self.place.next.fetch_max(next, Ordering::Release);
    }

    /// As librdkafka takes it: to be fetched from the position on.
    pub(super) fn entry(&self) -> Entry {
        Entry::new(&self.place.topic, self.place.partition, self.next())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage == Stage::Started && self.end.is_some_and(|end| self.next() >= end)
    }

    /// For messages to people.
    pub(super) fn unit(&self, source: &Arc<str>) -> StateUnit {
        StateUnit { source: source.clone(), topic: self.place.topic.clone(), partition: self.place.partition }
    }
}

/// All partitions held, and the fast way from a message to its own.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    held: Vec<Held>,
    started: Started,
    /// From (number of the topic, partition) to an index of `held`. Emptied when `held` changes.
    by_number: HashMap<(usize, i32), Option<usize>>,
    /// The last answer; records of one partition come in runs.
    last: Option<((usize, i32), Option<usize>)>,
}

impl Partitions {
    pub(super) fn new(started: Started) -> Partitions {
        Partitions { started, ..Partitions::default() }
    }

    /// Says how many partitions a topic had when the source opened.
    pub(super) fn set_num_partitions(&self, topic: &Arc<str>, number: i32) {
        self.started.num_partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone(), number);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.held.iter_mut()
    }

    pub(super) fn get(&self, assignment: Assignment) -> Option<&Held> {
        self.held.iter().find(|held| held.assignment == assignment)
    }

    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.place.partition == partition && *held.place.topic == *topic)
    }

    /// Takes a new assignment in.
    pub(super) fn add(&mut self, assignment: Assignment, topic: Arc<str>, partition: i32) {
        let place = Arc::new(Place { topic, partition, next: AtomicI64::new(0), delivered: AtomicI64::new(0) });
        self.held.push(Held {
            assignment,
            place,
            stage: Stage::Waiting,
            is_assigned: false,
            is_paused: false,
            is_broken: false,
            end: None,
        });
        self.forget_numbers();
    }

    /// Records of `assignment` may be delivered from `position` on.
    pub(super) fn start(&mut self, assignment: Assignment, position: Offset, end: Option<i64>) {
        if let Some(held) = self.held.iter_mut().find(|held| held.assignment == assignment) {
            held.place.delivered.store(position.get(), Ordering::Release);
            held.place.next.store(position.get(), Ordering::Release);
            held.stage = Stage::Started;
            held.end = end;
            self.started.with(|started| started.insert(assignment, held.place.clone()));
        }
    }

    /// Takes assignments out.
    pub(super) fn remove(&mut self, assignments: &[Assignment]) -> Vec<Held> {
        self.started.with(|started| started.retain(|assignment, _| !assignments.contains(assignment)));
        let (gone, kept) =
            std::mem::take(&mut self.held).into_iter().partition(|held| assignments.contains(&held.assignment));
        self.held = kept;
        self.forget_numbers();
        gone
    }

    fn forget_numbers(&mut self) {
        self.by_number.clear();
        self.last = None;
    }

    fn index_of(&mut self, message: Message<'_>) -> Option<usize> {
        let number = (message.topic_number(), message.partition());
        if let Some((last, index)) = self.last
            && last == number
        {
            return index;
        }
        let held = &self.held;
        let index = *self.by_number.entry(number).or_insert_with(|| {
            let topic = message.topic();
            held.iter().position(|held| held.place.partition == number.1 && *held.place.topic == *topic)
        });
        self.last = Some((number, index));
        index
    }

    /// Copies a record to `block` if it is to be delivered: its partition is started, it was not delivered before under
    /// this assignment, and it lies before the partition's end.
    pub(super) fn take(&mut self, message: Message<'_>, block: &mut RecordBlock) {
        let Some(index) = self.index_of(message) else { return };
        let held = &mut self.held[index];
        let offset = message.offset();
        if held.stage != Stage::Started || offset < held.next() {
            return;
        }
        match held.end {
            Some(end) if offset >= end => held.advance(end),
            _ => {
                message.append_to(block, held.assignment.0);
                let after = Offset::after(offset).get();
                held.place.delivered.store(after, Ordering::Release);
                held.advance(after);
            }
        }
    }
}
