//! In which order stored rows go through the plan. As served: partition by partition in the order of offsets, each a state unit
//! with its own W, as a run read them. By event time: all rows of a source in the total order (event time, partition, offset;
//! without positions: event time, file, row), as one state unit in which no row is late.

use std::fmt;

use std::sync::Arc;
use std::thread;

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Runtime;

use super::deal::{AsOne, Dealer, Place, Pool, Split};
use super::schedule::Schedule;
use super::sort::{SORT_BYTES, Sorted, Sorting};
use super::tally::RejectedRecord;
use super::turn::{Accepted, Inputs, Turns};
use super::workers::{self, Deals, Gone, Read, Step, TurnOrigin, start};
use crate::checkpoint::layout::file_name_part;
use crate::error::{Error, Result};
use crate::pipeline::settings::Source;
use crate::source::AssignmentNumbers;
use crate::source::files::{StoredBlock, StoredRows};
use crate::types::{Assignment, EventTime, HIDDEN_W, Hidden, Units, Watermark, num_visible};

/// Blocks that are read before they are decoded.
const BLOCKS_AHEAD: usize = 4;
/// Rows of a turn after a sort in memory.
const TURN_ROWS: usize = 16_384;

/// An order of stored rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As a run served them, late rows late; takes an archive with positions.
    AsServed,
    /// By event time, as if no row had been late.
    EventTime,
    /// As the input has them: file by file in the order of names, each file a unit of its own.
    #[value(skip)]
    Input,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::AsServed => "as served",
            Order::EventTime => "by event time",
            Order::Input => "as the files have them",
        })
    }
}

/// Why rows with positions do not say in which order windows saw them, where a `repartition` stands before those.
fn other_order(source: &Source, rows: &StoredRows, behind: Option<&str>) -> Option<String> {
    let StoredRows::Archive(archive) = rows else { return None };
    if let Some(view) = behind {
        return Some(format!(
            "a run sends the rows of view {view} through a topic of its own (`repartition`), and the archive of source {} does \
             not say in which order they came out",
            source.name
        ));
    }
    let repartition = source.repartition.as_ref()?;
    let name = file_name_part(&repartition.topic);
    let other = archive.ends().into_keys().map(|(topic, _)| topic).find(|topic| *topic != name)?;
    Some(format!(
        "a run sends the rows of source {} through the topic {} (`repartition`), and the archive has them as they stood in \
         {other}: the order in which they came out is not known",
        source.name, repartition.topic
    ))
}

/// What a reading has to say.
pub(super) enum Event<'a> {
    /// A record became no row.
    Rejected(&'a RejectedRecord),
    /// Rows of a sink.
    Rows(usize, RecordBatch),
    /// How far it has come: records of the whole replay, and bytes of this reading's files that are not begun.
    Read { read: u64, bytes_waiting: u64 },
}

/// The stored rows of a source, and their order.
#[derive(Debug)]
pub(super) struct Reading {
    source: usize,
    /// Columns that every window of the source is partitioned by, or more.
    keys: Vec<String>,
    rows: StoredRows,
    order: Order,
    /// The unit of a reading by event time, and whether it is to be sorted.
    one_unit: OneUnit,
    is_sorted: bool,
    sort_bytes: usize,
    schedule: Option<Arc<Schedule>>,
}

impl Reading {
    /// `has_windows`: whether the order matters to the pipeline. `behind`: a view whose rows go through a topic of their own in
    /// a run.
    pub(super) fn new(
        index: usize,
        source: &Source,
        rows: StoredRows,
        wanted: Option<Order>,
        has_windows: bool,
        behind: Option<&str>,
        numbers: &AssignmentNumbers,
    ) -> Result<Reading> {
        let order = match wanted {
            Some(Order::AsServed) if !rows.has_positions() => {
                return Err(Error::invalid(
                    "the rows do not say where they come from, so the order in which they were served is not known; replay them with \
                     --order event-time, or replay the files of a Parquet sink that has `positions: true` and selects \
                     `SELECT * FROM` the source",
                ));
            }
            Some(Order::AsServed) if has_windows => match other_order(source, &rows, behind) {
                None => Order::AsServed,
                Some(reason) => {
                    return Err(Error::invalid(format!("{reason}; replay them with --order event-time")));
                }
            },
            Some(order) => order,
            None if rows.has_positions() && has_windows && other_order(source, &rows, behind).is_some() => {
                Order::EventTime
            }
            None if rows.has_positions() => Order::AsServed,
            None if has_windows => Order::EventTime,
            None => Order::Input,
        };
        // Without an event time there is nothing to sort by.
        let is_sorted = source.event_time.is_some();
        let one_unit = OneUnit::new(numbers.next());
        // Windows behind a topic of their own have other keys: there is none that they all have.
        let keys = match (&source.repartition, behind) {
            (_, Some(_)) => Vec::new(),
            (Some(repartition), None) => repartition.by.clone(),
            (None, None) => source.partitioned_by.clone(),
        };
        Ok(Reading { source: index, keys, rows, order, one_unit, is_sorted, sort_bytes: SORT_BYTES, schedule: None })
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Gives each row the models of its time. Refused where it is not known in which order rows were served.
    pub(super) fn set_schedule(&mut self, schedule: Schedule) -> Result<()> {
        if self.order != Order::AsServed {
            return Err(Error::invalid(
                "--models-of gives each row the model that served it, so rows have to be replayed as they were served: give an \
                 archive with positions, and leave --order out or say as-served",
            ));
        }
        self.schedule = Some(Arc::new(schedule));
        Ok(())
    }

    pub(super) fn bytes_waiting(&self) -> u64 {
        self.rows.bytes_waiting()
    }

    /// Sorts in another memory than the default.
    #[cfg(test)]
    pub(super) fn set_sort_bytes(&mut self, bytes: usize) {
        self.sort_bytes = bytes;
    }

    /// Reads everything.
    pub(super) fn run(
        self,
        io: &Runtime,
        turns: &mut Turns,
        mut on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let source = self.source;
        let split = Split::new(&self.keys, &turns.inputs.schema(source), turns.has_windows(source));
        let dealer = Dealer::new(split, turns.graphs.len());
        let decode = move |inputs: &mut Inputs, deals: &mut Deals| {
            thread::scope(|scope| {
                let Reading { rows, order, one_unit, is_sorted, sort_bytes, schedule, .. } = self;
                let (sender, blocks) = bounded(BLOCKS_AHEAD);
                start(scope, "replay-read", move || read(io, rows, &sender))?;
                let decoding = Decoding { source, inputs, deals, dealer, schedule, blocks };
                match order {
                    Order::AsServed | Order::Input => decoding.give_as_read(),
                    Order::EventTime if is_sorted => decoding.give_sorted(io, one_unit, sort_bytes),
                    Order::EventTime => decoding.give_all_as_one(one_unit),
                }
            })
        };
        workers::run(source, turns, decode, &mut on_event)
    }
}

/// A block as it was read.
#[derive(Debug)]
struct Block {
    block: StoredBlock,
    /// All units so far.
    units: Arc<Units>,
    bytes_waiting: u64,
}

/// Reads all blocks, until nobody wants them.
fn read(io: &Runtime, mut rows: StoredRows, blocks: &Sender<Result<Block>>) {
    let mut units = Arc::new(Units::default());
    loop {
        let block = match io.block_on(rows.next()) {
            Ok(None) => return,
            Ok(Some(block)) => {
                if units.len() != rows.units().len() {
                    units = Arc::new(rows.units().clone());
                }
                Ok(Block { block, units: Arc::clone(&units), bytes_waiting: rows.bytes_waiting() })
            }
            Err(error) => Err(error),
        };
        let is_last = block.is_err();
        if blocks.send(block).is_err() || is_last {
            return;
        }
    }
}

/// The thread that decodes and deals out.
struct Decoding<'a> {
    source: usize,
    inputs: &'a mut Inputs,
    deals: &'a mut Deals,
    dealer: Dealer,
    /// Which models served which rows.
    schedule: Option<Arc<Schedule>>,
    blocks: Receiver<Result<Block>>,
}

/// An error, or nobody who wants more.
type Ended = Result<Result<(), Gone>>;

impl Decoding<'_> {
    fn accept(&mut self, block: Block) -> Result<(RecordBatch, Read, Arc<Units>)> {
        let Block { block, units, bytes_waiting } = block;
        let Accepted { batch, rejected } = self.inputs.accept(self.source, block, &units)?;
        Ok((batch.clone(), Read { num_accepted: batch.num_rows(), rejected, bytes_waiting }, units))
    }

    fn give_as_read(mut self) -> Ended {
        while let Ok(block) = self.blocks.recv() {
            let (batch, read, units) = self.accept(block?)?;
            if let Some(schedule) = self.schedule.clone().filter(|_| batch.num_rows() > 0) {
                if let Err(gone) = self.give_as_served(&schedule, &batch, read, &units)? {
                    return Ok(Err(gone));
                }
                continue;
            }
            let hidden = Hidden::of(&batch)?;
            let (unit, offset, times) = (hidden.unit.clone(), hidden.offset.clone(), hidden.event_time.clone());
            let has_rows = batch.num_rows() > 0;
            let turn = has_rows.then_some(TurnOrigin { units, unit, offset, as_one: None });
            let parts = if has_rows { self.dealer.batch(batch)? } else { Vec::new() };
            if let Err(gone) = self.deals.give(Step { read: Some(read), turn }, parts, times.values()) {
                return Ok(Err(gone));
            }
        }
        Ok(Ok(()))
    }

    /// Rows of one partition, each with the models of its time.
    fn give_as_served(&mut self, schedule: &Schedule, batch: &RecordBatch, read: Read, units: &Arc<Units>) -> Ended {
        let (mut start, mut read) = (0, Some(read));
        while start < batch.num_rows() {
            let hidden = Hidden::of(batch)?;
            let unit = units.get(Assignment(hidden.unit.value(start)));
            let unit = unit.ok_or_else(|| Error::internal("rows of a unit that is not known"))?;
            let (serve, until) = schedule.at(unit, hidden.offset.value(start))?;
            let offsets = &hidden.offset.values()[start..];
            let num_rows = until.map_or(offsets.len(), |until| offsets.partition_point(|offset| *offset < until));
            let rows = batch.slice(start, num_rows);
            let hidden = Hidden::of(&rows)?;
            let (unit, offset, times) = (hidden.unit.clone(), hidden.offset.clone(), hidden.event_time.clone());
            let turn = TurnOrigin { units: Arc::clone(units), unit, offset, as_one: None };
            let mut parts = self.dealer.batch(rows)?;
            parts.iter_mut().for_each(|part| part.serve = Some(serve.clone()));
            if let Err(gone) = self.deals.give(Step { read: read.take(), turn: Some(turn) }, parts, times.values()) {
                return Ok(Err(gone));
            }
            start += num_rows;
        }
        Ok(Ok(()))
    }

    /// All rows as one unit, as they come.
    fn give_all_as_one(mut self, mut one_unit: OneUnit) -> Ended {
        while let Ok(block) = self.blocks.recv() {
            let (batch, read, units) = self.accept(block?)?;
            if let Err(gone) = self.give_as_one(Some(read), batch, &units, &mut one_unit)? {
                return Ok(Err(gone));
            }
        }
        Ok(Ok(()))
    }

    fn give_sorted(mut self, io: &Runtime, mut one_unit: OneUnit, sort_bytes: usize) -> Ended {
        let mut sorting = Sorting::new(io.handle(), self.inputs.schema(self.source), sort_bytes);
        let mut all_units = Arc::new(Units::default());
        while let Ok(block) = self.blocks.recv() {
            let (batch, read, units) = self.accept(block?)?;
            all_units = units;
            if batch.num_rows() > 0 {
                let owners = self.dealer.owners(&batch)?;
                sorting.push(batch, owners)?;
            }
            if let Err(gone) = self.deals.give(Step { read: Some(read), turn: None }, Vec::new(), &[]) {
                return Ok(Err(gone));
            }
        }
        match sorting.finish() {
            Sorted::OnDisk(mut rows) => {
                while let Some(batch) = rows.next()? {
                    if let Err(gone) = self.give_as_one(None, batch, &all_units, &mut one_unit)? {
                        return Ok(Err(gone));
                    }
                }
            }
            Sorted::InMemory { pool, order } => {
                let own = OwnPositions::new(&pool)?;
                for turn in order.chunks(TURN_ROWS) {
                    let places: Vec<Place> =
                        turn.iter().map(|(_, batch, row)| (*batch as usize, *row as usize)).collect();
                    let times: Vec<i64> = turn.iter().map(|(time, ..)| *time).collect();
                    let (unit, offset) = own.of(&places);
                    let origin = TurnOrigin { units: Arc::clone(&all_units), unit, offset, as_one: None };
                    let given = self.give_picked(None, &pool, &places, origin, &times, &mut one_unit);
                    if let Err(gone) = given {
                        return Ok(Err(gone));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// A batch as rows of one unit.
    fn give_as_one(&mut self, read: Option<Read>, batch: RecordBatch, units: &Arc<Units>, one: &mut OneUnit) -> Ended {
        let hidden = Hidden::of(&batch)?;
        let (unit, offset, times) = (hidden.unit.clone(), hidden.offset.clone(), hidden.event_time.clone());
        let origin = TurnOrigin { units: Arc::clone(units), unit, offset, as_one: None };
        let places: Vec<Place> = (0..batch.num_rows()).map(|row| (0, row)).collect();
        let owners = self.dealer.owners(&batch)?;
        let mut pool = Pool::default();
        pool.push(batch, owners);
        Ok(self.give_picked(read, &Arc::new(pool), &places, origin, times.values(), one))
    }

    fn give_picked(
        &mut self,
        read: Option<Read>,
        pool: &Arc<Pool>,
        places: &[Place],
        mut origin: TurnOrigin,
        times: &[i64],
        one: &mut OneUnit,
    ) -> Result<(), Gone> {
        if places.is_empty() {
            return self.deals.give(Step { read, turn: None }, Vec::new(), &[]);
        }
        let (first, w) = one.advance(times);
        origin.as_one = Some((one.assignment, first));
        let as_one = AsOne { assignment: one.assignment, first, w: &w };
        let parts = self.dealer.picked(pool, places, Some(as_one));
        self.deals.give(Step { read, turn: Some(origin) }, parts, times)
    }
}

/// Rows of all units of a source as those of one: how far it has come.
#[derive(Debug)]
pub(super) struct OneUnit {
    assignment: Assignment,
    num_rows: i64,
    watermark: Watermark,
}

impl OneUnit {
    /// The beginning of a unit; the assignment is new.
    pub(super) fn new(assignment: Assignment) -> OneUnit {
        OneUnit { assignment, num_rows: 0, watermark: Watermark::NONE }
    }

    /// The next rows with positions in this unit, and the offset of the first.
    pub(super) fn place(&mut self, batch: &RecordBatch) -> Result<(i64, RecordBatch)> {
        let (first, w) = self.advance(Hidden::of(batch)?.event_time.values());
        let hidden = num_visible(batch);
        let mut columns = batch.columns().to_vec();
        columns[hidden] = Arc::new(UInt32Array::from(vec![self.assignment.0; w.len()]));
        columns[hidden + 1] = Arc::new(Int64Array::from_iter_values((first..).take(w.len())));
        columns[hidden + HIDDEN_W] = Arc::new(Int64Array::from(w));
        let placed = RecordBatch::try_new(batch.schema(), columns);
        let placed =
            placed.map_err(|error| Error::internal("rows cannot be given other positions").with_source(error))?;
        Ok((first, placed))
    }

    /// The next rows: the offset of the first, and W before each.
    fn advance(&mut self, times: &[i64]) -> (i64, Vec<Option<i64>>) {
        let first = self.num_rows;
        self.num_rows += times.len() as i64;
        let before = times.iter().map(|micros| {
            let before = self.watermark;
            self.watermark.advance(EventTime::from_micros(*micros));
            before.get().map(EventTime::as_micros)
        });
        (first, before.collect())
    }
}

/// Units and offsets of the rows of a pool.
struct OwnPositions(Vec<(UInt32Array, Int64Array)>);

impl OwnPositions {
    fn new(pool: &Pool) -> Result<OwnPositions> {
        let own = |batch| Hidden::of(batch).map(|hidden| (hidden.unit.clone(), hidden.offset.clone()));
        pool.batches().iter().map(own).collect::<Result<_>>().map(OwnPositions)
    }

    fn of(&self, places: &[Place]) -> (UInt32Array, Int64Array) {
        let unit = places.iter().map(|(batch, row)| self.0[*batch].0.value(*row));
        let offset = places.iter().map(|(batch, row)| self.0[*batch].1.value(*row));
        (UInt32Array::from_iter_values(unit), Int64Array::from_iter_values(offset))
    }
}

#[cfg(test)]
mod tests;
