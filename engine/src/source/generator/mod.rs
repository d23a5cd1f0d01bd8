//! The simulator: a credible world of card payments with fraud in it, for demos, training and tests.
//!
//! Everything is a pure function of (settings, time): no clock, no state, no order of calls. So any range of time and any shard of
//! users can be made alone, and the pieces put together are the whole, bit for bit. Only `write` touches files; nothing here
//! knows Kafka.

mod campaigns;
mod columns;
mod compat;
mod error;
mod feed;
mod json;
mod merchants;
mod numbers;
mod places;
mod request;
mod row;
mod settings;
mod slots;
#[cfg(test)]
mod tests;
mod world;
mod write;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

pub use columns::validate_batch;
pub use error::GeneratorError;
pub use feed::{Fault, FaultCounts, Feed, Record, RecordBlock};
pub use json::Malformation;
pub use request::{FieldName, GenerateRequest};
pub use row::{EventLimits, EventView, Kind, SchemaRule, validate};
pub use settings::{DAY_MS, Drift, FraudShares, GeneratorSettings, Imperfections, OptionalFields, Shard, WorldKind};
pub use write::{Summary, write_jsonl, write_parquet};

use compat::CompatWorld;
use row::Row;
use slots::{AnyWorld, OrderBy, SlotReader};
use world::World;

/// A world that can be asked for the events of any time. Cloning is cheap; a clone may go to another thread.
#[derive(Debug, Clone)]
pub struct Simulator {
    world: Arc<AnyWorld>,
    schema: SchemaRef,
}

impl Simulator {
    /// Checks the settings (all problems at once) and makes users and merchants.
    pub fn new(settings: GeneratorSettings) -> Result<Self, GeneratorError> {
        settings.check()?;
        let schema = columns::schema(settings.fields);
        let world = match settings.world {
            WorldKind::Credible => AnyWorld::Credible(World::new(settings)),
            WorldKind::Compat => AnyWorld::Compat(CompatWorld::new(settings)),
        };
        Ok(Self { world: Arc::new(world), schema })
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &GeneratorSettings {
        self.world.settings()
    }

    /// The columns of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The limits that events are checked against.
    pub fn limits(&self) -> EventLimits {
        self.world.limits()
    }

    /// The events whose event time (milliseconds since 1970) is in the range, each once, in order of event time and then of
    /// transaction id. Delivery's imperfections do not show here.
    pub fn batches(
        &self,
        event_time_ms: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, GeneratorError>> + Send + use<>, GeneratorError> {
        check_range(&event_time_ms)?;
        let (world, schema) = (Arc::clone(&self.world), self.schema());
        let mut rows = RangeRows::new(Arc::clone(&self.world), event_time_ms);
        let batch_rows = self.settings().batch_rows;
        Ok(std::iter::from_fn(move || {
            let rows = rows.next(batch_rows)?;
            Some(columns::to_batch(&world, &schema, rows))
        }))
    }

    /// The records that arrive in the range (milliseconds since 1970), in order of arrival, in blocks that are never empty. Without
    /// imperfections a record arrives at its event time (in the compat world, at the time of sending).
    pub fn records(
        &self,
        arrival_ms: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<RecordBlock, GeneratorError>> + Send + use<>, GeneratorError> {
        check_range(&arrival_ms)?;
        Ok(feed::Records::new(Arc::clone(&self.world), arrival_ms))
    }

    /// Records from `from_ms` on, given out as the caller's clock goes on.
    pub fn feed(&self, from_ms: i64) -> Feed {
        Feed::new(Arc::clone(&self.world), from_ms)
    }
}

const FIRST_MS_OF_YEAR_9999: i64 = 253_370_764_800_000;

/// A margin at both ends leaves room for stamps that lie before or after the range.
fn check_range(range: &Range<i64>) -> Result<(), GeneratorError> {
    if range.start >= range.end || range.start < 8 * DAY_MS || range.end > FIRST_MS_OF_YEAR_9999 {
        return Err(GeneratorError::Range { from_ms: range.start, to_ms: range.end });
    }
    Ok(())
}

/// The rows of a range of event time, in order, a number at a time.
#[derive(Debug)]
struct RangeRows {
    reader: SlotReader,
    range: Range<i64>,
    rows: Vec<Row>,
    given: usize,
    slot: Vec<Row>,
}

impl RangeRows {
    fn new(world: Arc<AnyWorld>, range: Range<i64>) -> Self {
        let reader = SlotReader::new(world, OrderBy::Event, range.start);
        Self { reader, range, rows: Vec::new(), given: 0, slot: Vec::new() }
    }

    /// Up to `num` rows; fewer at the end; none after it.
    fn next(&mut self, num: usize) -> Option<&[Row]> {
        self.rows.drain(..self.given);
        while self.rows.len() < num && self.reader.frontier_ms() < self.range.end {
            self.reader.read(&mut self.slot);
            let from = self.slot.partition_point(|row| row.event_ms < self.range.start);
            let to = self.slot.partition_point(|row| row.event_ms < self.range.end);
            self.rows.extend_from_slice(&self.slot[from..to]);
        }
        self.given = num.min(self.rows.len());
        (self.given > 0).then(|| &self.rows[..self.given])
    }
}
