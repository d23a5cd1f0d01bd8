//! Which worker takes which rows. Rows of one key go to one worker, so that each worker answers as if it had all rows; rows of
//! a source without windows go anywhere. Nothing that is said here changes an answer, only where it is computed (I8).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::interleave;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;

use super::schedule::Serve;
use crate::error::{Error, Result};
use crate::state::keys::KeyLayout;
use crate::types::{Assignment, EventTime, HIDDEN_W, num_visible};

/// How rows of a source are split.
#[derive(Debug)]
pub(super) enum Split {
    /// By a hash of these columns.
    Keys { layout: KeyLayout, columns: Vec<usize> },
    /// Turn by turn, each to the next worker.
    Turns,
    /// All to the first worker.
    Whole,
}

impl Split {
    /// For a source whose rows have the columns of `schema`, and whose windows are partitioned by `keys` at least.
    pub(super) fn new(keys: &[String], schema: &Schema, has_windows: bool) -> Split {
        if !has_windows {
            return Split::Turns;
        }
        let columns = keys.iter().map(|name| schema.index_of(name).ok()).collect::<Option<Vec<_>>>();
        let Some(columns) = columns.filter(|columns| !columns.is_empty()) else { return Split::Whole };
        let types = columns.iter().map(|column| schema.field(*column).data_type().clone()).collect();
        KeyLayout::new(types).map_or(Split::Whole, |layout| Split::Keys { layout, columns })
    }

    /// The worker of each row; nothing where they do not depend on the row.
    pub(super) fn owners(&self, batch: &RecordBatch, num_workers: usize) -> Result<Option<Vec<u8>>> {
        let Split::Keys { layout, columns } = self else { return Ok(None) };
        if num_workers == 1 {
            return Ok(None);
        }
        let keys: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        let hashes = layout.read(&keys, batch.num_rows())?.hashes;
        // By the upper half: the lower bits choose a worker's sub-table.
        let owner = |hash: &u64| (((hash >> 32) * num_workers as u64) >> 32) as u8;
        Ok(Some(hashes.iter().map(owner).collect()))
    }
}

/// Batches of one schema from which rows are picked.
#[derive(Debug, Default)]
pub(super) struct Pool {
    batches: Vec<RecordBatch>,
    /// The worker of each row of each batch, where it depends on the row.
    owners: Vec<Option<Vec<u8>>>,
}

impl Pool {
    pub(super) fn push(&mut self, batch: RecordBatch, owners: Option<Vec<u8>>) {
        self.batches.push(batch);
        self.owners.push(owners);
    }

    pub(super) fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    pub(super) fn into_batches(self) -> Vec<RecordBatch> {
        self.batches
    }

    fn owner(&self, (batch, row): Place) -> Option<usize> {
        self.owners[batch].as_ref().map(|owners| usize::from(owners[row]))
    }

    /// Some rows, with other positions if they are given.
    fn gather(&self, places: &[Place], positions: Option<Positions>) -> Result<RecordBatch> {
        let internal = |error: ArrowError| Error::internal("rows cannot be put into another order").with_source(error);
        let first = self.batches.first().ok_or_else(|| Error::internal("rows of no batch"))?;
        let hidden = num_visible(first);
        let replaced = |column: usize| {
            let positions = positions.as_ref()?;
            match column.checked_sub(hidden)? {
                0 => Some(Arc::clone(&positions.unit)),
                1 => Some(Arc::clone(&positions.offset)),
                HIDDEN_W => Some(Arc::clone(&positions.w)),
                _ => None,
            }
        };
        let column = |column: usize| match replaced(column) {
            Some(array) => Ok(array),
            None => {
                let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
                interleave(&arrays, places).map_err(internal)
            }
        };
        let columns = (0..first.num_columns()).map(column).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(first.schema(), columns).map_err(internal)
    }
}

/// Batch and row.
pub(super) type Place = (usize, usize);

/// Hidden columns in place of a row's own.
#[derive(Debug)]
struct Positions {
    unit: ArrayRef,
    offset: ArrayRef,
    w: ArrayRef,
}

/// Rows of one unit made of all: its number, and of each row W before it. Offsets count the rows from `first`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOne<'a> {
    pub(super) assignment: Assignment,
    pub(super) first: i64,
    pub(super) w: &'a [Option<i64>],
}

/// What a worker is given in one turn.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Units that are new, and when their logs begin: a worker may never see the first row.
    pub(super) begins: Vec<(Assignment, EventTime)>,
    /// The models that serve the rows, where they change.
    pub(super) serve: Option<Serve>,
    rows: Option<Rows>,
}

#[derive(Debug)]
enum Rows {
    All(RecordBatch),
    Some {
        pool: Arc<Pool>,
        places: Vec<Place>,
        /// Their numbers among the rows of the turn.
        numbers: Vec<u32>,
        positions: Option<Positions>,
    },
}

impl Part {
    /// A whole batch.
    fn all(batch: RecordBatch) -> Part {
        Part { begins: Vec::new(), serve: None, rows: Some(Rows::All(batch)) }
    }

    /// The rows, and the number of each among those of the turn; without numbers they are all of the turn.
    pub(super) fn into_rows(self) -> Result<Option<(RecordBatch, Option<Vec<u32>>)>> {
        Ok(match self.rows {
            None => None,
            Some(Rows::All(batch)) => Some((batch, None)),
            Some(Rows::Some { pool, places, numbers, positions }) => {
                Some((pool.gather(&places, positions)?, Some(numbers)))
            }
        })
    }
}

/// Deals turns out.
#[derive(Debug)]
pub(super) struct Dealer {
    split: Split,
    num_workers: usize,
    num_turns: usize,
}

impl Dealer {
    pub(super) fn new(split: Split, num_workers: usize) -> Dealer {
        Dealer { split, num_workers, num_turns: 0 }
    }

    /// A batch as it will be dealt out.
    pub(super) fn owners(&self, batch: &RecordBatch) -> Result<Option<Vec<u8>>> {
        self.split.owners(batch, self.num_workers)
    }

    /// A batch as one turn.
    pub(super) fn batch(&mut self, batch: RecordBatch) -> Result<Vec<Part>> {
        let owners = self.owners(&batch)?;
        if owners.is_none() {
            let mut parts: Vec<Part> = (0..self.num_workers).map(|_| Part::default()).collect();
            let next = self.next_worker();
            parts[next] = Part::all(batch);
            return Ok(parts);
        }
        let places: Vec<Place> = (0..batch.num_rows()).map(|row| (0, row)).collect();
        let mut pool = Pool::default();
        pool.push(batch, owners);
        Ok(self.picked(&Arc::new(pool), &places, None))
    }

    /// Some rows of a pool, in this order, as one turn.
    pub(super) fn picked(&mut self, pool: &Arc<Pool>, places: &[Place], one: Option<AsOne<'_>>) -> Vec<Part> {
        let next = self.next_worker();
        let mut numbers: Vec<Vec<u32>> =
            (0..self.num_workers).map(|_| Vec::with_capacity(places.len() / self.num_workers * 9 / 8)).collect();
        for (number, place) in (0..).zip(places) {
            numbers[pool.owner(*place).unwrap_or(next)].push(number);
        }
        let part = |numbers: Vec<u32>| {
            if numbers.is_empty() {
                return Part::default();
            }
            let places = numbers.iter().map(|number| places[*number as usize]).collect();
            let positions = one.map(|one| Positions {
                unit: Arc::new(UInt32Array::from(vec![one.assignment.0; numbers.len()])),
                offset: Arc::new(Int64Array::from_iter_values(
                    numbers.iter().map(|number| one.first + i64::from(*number)),
                )),
                w: Arc::new(numbers.iter().map(|number| one.w[*number as usize]).collect::<Int64Array>()),
            });
            let rows = Rows::Some { pool: Arc::clone(pool), places, numbers, positions };
            Part { begins: Vec::new(), serve: None, rows: Some(rows) }
        };
        numbers.into_iter().map(part).collect()
    }

    /// The worker of rows that may go anywhere.
    fn next_worker(&mut self) -> usize {
        let turn = self.num_turns;
        self.num_turns += 1;
        if matches!(self.split, Split::Turns) { turn % self.num_workers } else { 0 }
    }
}
