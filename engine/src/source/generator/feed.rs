//! Records in the order in which they arrive, with what delivery does to them.
//! There is no clock here: the caller says up to when it wants records. What happens to an event depends on the event alone, so two
//! feeds over neighbouring ranges give what one over both gives.

use std::ops::Range;
use std::sync::Arc;

use super::error::GeneratorError;
use super::json::{JsonWriter, Malformation, spoil};
use super::numbers::{Normal, Stream, exp, key, mix};
use super::row::{Kind, Row};
use super::settings::Imperfections;
use super::slots::{AnyWorld, OrderBy, SlotReader};

const FAULT: u64 = 0x0066_6175_6c74;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Its value breaks JSON or the schema.
    Malformed(Malformation),
    /// It arrives much later than its event time.
    Late,
    /// It is the second copy of a record.
    Duplicate,
    /// It was held back a little.
    OutOfOrder,
    /// Its timestamp is ahead of its arrival.
    Future,
}

/// How many records had which fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// Records with [`Fault::Malformed`].
    pub malformed: u64,
    /// Records with [`Fault::Late`].
    pub late: u64,
    /// Records with [`Fault::Duplicate`]: second copies.
    pub duplicate: u64,
    /// Records with [`Fault::OutOfOrder`].
    pub out_of_order: u64,
    /// Records with [`Fault::Future`].
    pub future: u64,
}

impl FaultCounts {
    pub(super) fn add(&mut self, fault: Option<Fault>) {
        match fault {
            None => {}
            Some(Fault::Malformed(_)) => self.malformed += 1,
            Some(Fault::Late) => self.late += 1,
            Some(Fault::Duplicate) => self.duplicate += 1,
            Some(Fault::OutOfOrder) => self.out_of_order += 1,
            Some(Fault::Future) => self.future += 1,
        }
    }
}

/// A record, borrowed from its block.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The message key.
    pub key: &'a [u8],
    /// The message value.
    pub value: &'a [u8],
    /// The time in the value (that which it would have, if the value is malformed), milliseconds since 1970.
    pub event_time_ms: i64,
    /// When it is to be sent, milliseconds since 1970.
    pub arrival_ms: i64,
    /// The kind of fraud, which gives the label.
    pub kind: Kind,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key_end: usize,
    value_end: usize,
    event_time_ms: i64,
    arrival_ms: i64,
    kind: Kind,
    fault: Option<Fault>,
}

/// Records in order of arrival, their bytes in one buffer.
#[derive(Debug, Default)]
pub struct RecordBlock {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl RecordBlock {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The records in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let record = Record {
                key: &self.bytes[start..entry.key_end],
                value: &self.bytes[entry.key_end..entry.value_end],
                event_time_ms: entry.event_time_ms,
                arrival_ms: entry.arrival_ms,
                kind: entry.kind,
                fault: entry.fault,
            };
            start = entry.value_end;
            record
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    arrival_ms: i64,
    fault: Option<Fault>,
    row: Row,
}

/// The records of a world from some time on, given out up to the time that the caller names.
#[derive(Debug)]
pub struct Feed {
    world: Arc<AnyWorld>,
    reader: SlotReader,
    writer: JsonWriter,
    faults: Faults,
    /// Sorted by arrival from `head` on.
    pending: Vec<Pending>,
    head: usize,
    position_ms: i64,
    slot: Vec<Row>,
}

impl Feed {
    pub(super) fn new(world: Arc<AnyWorld>, from_ms: i64) -> Self {
        let faults = Faults::new(world.settings().seed, world.settings().imperfections);
        Self {
            reader: SlotReader::new(Arc::clone(&world), OrderBy::Sent, from_ms - faults.plan.max_delay_ms()),
            writer: JsonWriter::new(&world),
            faults,
            world,
            pending: Vec::new(),
            head: 0,
            position_ms: from_ms,
            slot: Vec::new(),
        }
    }

    /// Up to where records have been given out.
    pub fn position_ms(&self) -> i64 {
        self.position_ms
    }

    /// The records that arrive from the position to `to_ms` (exclusive), which becomes the position. A `to_ms` at or before the
    /// position gives none: a clock may stand still or step back.
    pub fn events(&mut self, to_ms: i64) -> Result<RecordBlock, GeneratorError> {
        let mut block = RecordBlock::default();
        self.events_into(to_ms, &mut block)?;
        Ok(block)
    }

    /// As [`Feed::events`], into a block whose memory is used again; its old records are dropped.
    pub fn events_into(&mut self, to_ms: i64, block: &mut RecordBlock) -> Result<(), GeneratorError> {
        block.clear();
        if to_ms <= self.position_ms {
            return Ok(());
        }
        while self.reader.frontier_ms() < to_ms {
            self.read_slot();
        }
        let waiting = &self.pending[self.head..];
        let num = waiting.partition_point(|pending| pending.arrival_ms < to_ms);
        block.entries.reserve(num);
        block.bytes.reserve(num * 220);
        for pending in &waiting[..num] {
            self.writer.push_key(&self.world, &pending.row, &mut block.bytes);
            let key_end = block.bytes.len();
            self.writer
                .push_value(&self.world, &pending.row, &mut block.bytes)
                .map_err(|rule| GeneratorError::Schema { rule })?;
            if let Some(Fault::Malformed(how)) = pending.fault {
                spoil(&mut block.bytes, key_end, how);
            }
            block.entries.push(Entry {
                key_end,
                value_end: block.bytes.len(),
                event_time_ms: pending.row.event_ms,
                arrival_ms: pending.arrival_ms,
                kind: pending.row.kind,
                fault: pending.fault,
            });
        }
        self.head += num;
        self.position_ms = to_ms;
        Ok(())
    }

    fn read_slot(&mut self) {
        self.reader.read(&mut self.slot);
        self.pending.drain(..self.head);
        self.head = 0;
        for row in &self.slot {
            self.faults.deliver(*row, self.position_ms, &mut self.pending);
        }
        // Copies of a record have the same id; the first comes first because it arrives earlier.
        self.pending.sort_unstable_by_key(|pending| (pending.arrival_ms, pending.row.id));
    }
}

/// Decides what happens to an event.
#[derive(Debug)]
struct Faults {
    seed: u64,
    plan: Imperfections,
    normal: Normal,
}

impl Faults {
    fn new(seed: u64, plan: Imperfections) -> Self {
        Self { seed: mix(seed ^ FAULT), plan, normal: Normal::new() }
    }

    /// Appends the records of an event that arrive at `from_ms` or later.
    fn deliver(&self, row: Row, from_ms: i64, out: &mut Vec<Pending>) {
        let mut row = row;
        let mut stream = Stream::new(key(self.seed, row.id[0], row.id[1]));
        let mut draw = stream.unit();
        let plan = &self.plan;
        let mut falls_in = |share: f64| {
            let hit = draw < share;
            draw -= share;
            hit && draw < 0.0
        };
        let mut arrival_ms = row.sent_ms;
        let mut fault = None;
        let mut push = |arrival_ms: i64, fault: Option<Fault>, row: Row| {
            if arrival_ms >= from_ms {
                out.push(Pending { arrival_ms, fault, row });
            }
        };
        if falls_in(plan.malformed_share) {
            fault = Some(Fault::Malformed(Malformation::ALL[stream.below(Malformation::ALL.len() as u32) as usize]));
        } else if falls_in(plan.late_share) {
            let delay = plan.late_median_ms as f64 * exp(self.normal.at(stream.bits()));
            arrival_ms += (delay as i64).clamp(1, plan.late_max_ms);
            fault = Some(Fault::Late);
        } else if falls_in(plan.duplicate_share) {
            push(arrival_ms + 1 + stream.below_ms(plan.duplicate_max_ms), Some(Fault::Duplicate), row);
        } else if falls_in(plan.out_of_order_share) {
            arrival_ms += 1 + stream.below_ms(plan.out_of_order_max_ms);
            fault = Some(Fault::OutOfOrder);
        } else if falls_in(plan.future_share) {
            let least = (plan.future_max_ms / 10).max(1);
            row.event_ms = row.sent_ms + least + stream.below_ms(plan.future_max_ms - least + 1);
            fault = Some(Fault::Future);
        }
        push(arrival_ms, fault, row);
    }
}

/// The records of a range of arrival time, a block per slot.
#[derive(Debug)]
pub(super) struct Records {
    feed: Feed,
    to_ms: i64,
}

impl Records {
    pub(super) fn new(world: Arc<AnyWorld>, range: Range<i64>) -> Self {
        Self { feed: Feed::new(world, range.start), to_ms: range.end }
    }
}

impl Iterator for Records {
    type Item = Result<RecordBlock, GeneratorError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.feed.position_ms < self.to_ms {
            let slot_ms = self.feed.world.slot_ms();
            let next = (self.feed.position_ms.div_euclid(slot_ms) + 1) * slot_ms;
            match self.feed.events(next.min(self.to_ms)) {
                Ok(block) if block.is_empty() => {}
                other => return Some(other),
            }
        }
        None
    }
}
