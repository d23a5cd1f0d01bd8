//! In which order stored rows go through the plan. As served: partition by partition in the order of offsets, each a state unit
//! with its own W, as a run read them. By event time: all rows of a source in the total order (event time, partition, offset;
//! without positions: event time, file, row), as one state unit in which no row is late.

use std::fmt;

use arrow::array::RecordBatch;
use tokio::runtime::Runtime;

use super::sort::{SortedRows, Sorter};
use super::turn::{Accepted, OneUnit, RejectedRecord, Turn, Turns};
use crate::checkpoint::layout::file_name_part;
use crate::error::{Error, Result};
use crate::pipeline::settings::Source;
use crate::source::AssignmentNumbers;
use crate::source::files::StoredRows;
use crate::types::{HIDDEN_COLUMNS, Units};

/// Memory of a sort by event time; beyond it rows go to disk.
pub(super) const SORT_BYTES: usize = 512 << 20;

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
    rows: StoredRows,
    order: Order,
    /// The unit of a reading by event time, and whether it is to be sorted.
    one_unit: OneUnit,
    is_sorted: bool,
    sort_bytes: usize,
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
        Ok(Reading { source: index, rows, order, one_unit, is_sorted, sort_bytes: SORT_BYTES })
    }

    pub(super) fn order(&self) -> Order {
        self.order
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
        on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        match self.order {
            Order::AsServed | Order::Input => self.run_as_read(io, turns, on_event),
            Order::EventTime if self.is_sorted => self.run_sorted(io, turns, on_event),
            Order::EventTime => self.run_as_one(io, turns, on_event),
        }
    }

    fn run_as_read(
        mut self,
        io: &Runtime,
        turns: &mut Turns,
        mut on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        while let Some(block) = io.block_on(self.rows.next())? {
            let turn = turns.take_stored(self.source, block, self.rows.units())?;
            tell(turn, &mut on_event)?;
            on_event(self.read(turns))?;
        }
        Ok(())
    }

    /// All rows as one unit, as they come.
    fn run_as_one(
        mut self,
        io: &Runtime,
        turns: &mut Turns,
        mut on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        while let Some(block) = io.block_on(self.rows.next())? {
            let units = self.rows.units();
            let accepted = turns.accept(self.source, block, units)?;
            accepted.rejected().try_for_each(|rejected| on_event(Event::Rejected(rejected)))?;
            let turn = turns.take_in_order(self.source, &accepted.batch, &mut self.one_unit, units)?;
            tell(turn, &mut on_event)?;
            on_event(self.read(turns))?;
        }
        Ok(())
    }

    fn run_sorted(
        mut self,
        io: &Runtime,
        turns: &mut Turns,
        mut on_event: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let (rows, sort_bytes) = (&mut self.rows, self.sort_bytes);
        let mut sorted = sorted(io, rows, self.source, turns, sort_bytes, |turns, accepted, bytes_waiting| {
            accepted.rejected().try_for_each(|rejected| on_event(Event::Rejected(rejected)))?;
            on_event(Event::Read { read: turns.counts().read, bytes_waiting })
        })?;
        let units: &Units = self.rows.units();
        while let Some(batch) = sorted.next()? {
            let turn = turns.take_in_order(self.source, &batch, &mut self.one_unit, units)?;
            tell(turn, &mut on_event)?;
        }
        Ok(())
    }

    fn read(&self, turns: &Turns) -> Event<'static> {
        Event::Read { read: turns.counts().read, bytes_waiting: self.bytes_waiting() }
    }
}

/// The accepted rows of a source by event time, partition and offset. `on_read` hears of each block.
pub(super) fn sorted(
    io: &Runtime,
    rows: &mut StoredRows,
    source: usize,
    turns: &mut Turns,
    sort_bytes: usize,
    mut on_read: impl FnMut(&Turns, &Accepted, u64) -> Result<()>,
) -> Result<SortedRows> {
    let schema = turns.source_schema(source);
    // Numbers of units rise with partitions, or with files: they stand for either.
    let keys = [3, 0, 1].map(|hidden: usize| schema.index_of(HIDDEN_COLUMNS[hidden]));
    let keys = keys.into_iter().collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|_| Error::internal(format!("rows without {}", HIDDEN_COLUMNS.join(", "))))?;
    let mut sorter = Sorter::new(io.handle(), &schema, &keys, sort_bytes)?;
    while let Some(block) = io.block_on(rows.next())? {
        let accepted = turns.accept(source, block, rows.units())?;
        on_read(turns, &accepted, rows.bytes_waiting())?;
        if accepted.batch.num_rows() > 0 {
            sorter.push(accepted.batch)?;
        }
    }
    Ok(sorter.finish())
}

fn tell(turn: Turn, on_event: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
    turn.rejected.iter().try_for_each(|rejected| on_event(Event::Rejected(rejected)))?;
    for (sink, batches) in turn.outputs.into_iter().enumerate() {
        batches.into_iter().try_for_each(|batch| on_event(Event::Rows(sink, batch)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
