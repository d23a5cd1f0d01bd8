//! What a worker knows of the state units that it holds: where each is, and below which position each sink has its rows
//! already.

use std::collections::BTreeMap;

use arrow::array::{Array as _, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;

use crate::error::{Error, Result};
use crate::observe::metrics::partition_gauges;
use crate::observe::status::PartitionStatus;
use crate::source::PartitionProgress;
use crate::types::{Assignment, Hidden, Offset, StateUnit, Units};

/// One state unit in a worker's hands.
#[derive(Debug)]
pub(crate) struct HeldUnit {
    /// Which source it belongs to.
    pub(crate) source: usize,
    /// What it is.
    pub(crate) unit: StateUnit,
    /// Next offset to process: everything below is in the outputs (I1).
    pub(crate) processed: Offset,
    /// Per sink (the dead letters last): rows of records below it are out for good (I5).
    pub(crate) sink_positions: Vec<Offset>,
    /// Position in the last manifest.
    pub(crate) published: Option<Offset>,
    /// Records below it were read and counted before a restart; they come again for state or for a sink that lagged.
    pub(crate) replayed_below: Offset,
}

impl HeldUnit {
    fn is_catching_up(&self) -> bool {
        self.replayed_below > self.processed || self.sink_positions.iter().any(|position| *position > self.processed)
    }
}

/// Of the records of an epoch, those that had been counted before a restart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Records.
    pub(crate) records: u64,
    /// Of them, those that became rows.
    pub(crate) rows: u64,
    /// Of the rows, those that were late.
    pub(crate) late: u64,
}

/// All units of a worker.
#[derive(Debug, Default)]
pub(crate) struct HeldUnits {
    held: BTreeMap<Assignment, HeldUnit>,
    names: Units,
    /// Assignments that read again what they had read before a restart: rows are suppressed for sinks that have them, and
    /// records are not counted again, until the unit has caught up.
    catching_up: Vec<Assignment>,
}

impl HeldUnits {
    /// Takes a unit over at its restart position.
    pub(crate) fn insert(&mut self, assignment: Assignment, unit: HeldUnit) {
        if unit.is_catching_up() {
            self.catching_up.push(assignment);
        }
        self.names.insert(assignment, unit.unit.clone());
        self.held.insert(assignment, unit);
    }

    /// Gives a unit up.
    pub(crate) fn remove(&mut self, assignment: Assignment) -> Option<HeldUnit> {
        self.names.remove(assignment);
        self.catching_up.retain(|other| *other != assignment);
        self.held.remove(&assignment)
    }

    /// The units by assignment, for decode and sinks.
    pub(crate) fn names(&self) -> &Units {
        &self.names
    }

    pub(crate) fn get_mut(&mut self, assignment: Assignment) -> Option<&mut HeldUnit> {
        self.held.get_mut(&assignment)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Assignment, &HeldUnit)> {
        self.held.iter().map(|(assignment, unit)| (*assignment, unit))
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Moves units forward over the records of an epoch. Positions never go back (I1).
    pub(crate) fn advance(&mut self, units: &[u32], offsets: &[i64]) -> Result<()> {
        let mut index = 0;
        while index < units.len() {
            // Records come in runs of one partition, in the order of their offsets: one step per run.
            let start = index;
            while index < units.len() && units[index] == units[start] {
                index += 1;
            }
            let Some(held) = self.held.get_mut(&Assignment(units[start])) else { continue };
            let after = Offset::after(offsets[index - 1]);
            if Offset::after(offsets[start]) <= held.processed {
                return Err(Error::internal(format!(
                    "{}: a record at offset {} came again after position {}",
                    held.unit, offsets[start], held.processed
                )));
            }
            held.processed = after;
        }
        let held = &self.held;
        self.catching_up.retain(|assignment| held.get(assignment).is_some_and(HeldUnit::is_catching_up));
        Ok(())
    }

    /// Whether some unit reads again what it had read before a restart.
    pub(crate) fn is_catching_up(&self) -> bool {
        !self.catching_up.is_empty()
    }

    /// Whether a record was read and counted before a restart.
    pub(crate) fn is_replayed(&self, unit: u32, offset: i64) -> bool {
        !self.catching_up.is_empty()
            && self.held.get(&Assignment(unit)).is_some_and(|unit| Offset::after(offset) <= unit.replayed_below)
    }

    /// What of an epoch's records, and of the rows that they became, was counted before a restart.
    pub(crate) fn replayed(&self, units: &[u32], offsets: &[i64], rows: &RecordBatch) -> Result<Replayed> {
        if self.catching_up.is_empty() {
            return Ok(Replayed::default());
        }
        let records =
            units.iter().zip(offsets).filter(|(unit, offset)| self.is_replayed(**unit, **offset)).count() as u64;
        let hidden = Hidden::of(rows)?;
        let is_late = |row: &usize| hidden.w.is_valid(*row) && hidden.event_time.value(*row) < hidden.w.value(*row);
        let is_replayed = |row: &usize| self.is_replayed(hidden.unit.value(*row), hidden.offset.value(*row));
        let (mut num_rows, mut late) = (0, 0);
        for row in (0..hidden.num_rows()).filter(is_replayed) {
            num_rows += 1;
            late += u64::from(is_late(&row));
        }
        Ok(Replayed { records, rows: num_rows, late })
    }

    /// `batch` without the rows that `sink` has already (they come again after a restart that had to go further back for
    /// another sink).
    pub(crate) fn suppress(&self, sink: usize, batch: RecordBatch) -> Result<RecordBatch> {
        if self.catching_up.is_empty() {
            return Ok(batch);
        }
        let hidden = Hidden::of(&batch)?;
        let keep = BooleanBuffer::collect_bool(hidden.num_rows(), |row| {
            self.held
                .get(&Assignment(hidden.unit.value(row)))
                .is_none_or(|unit| Offset::after(hidden.offset.value(row)) > unit.sink_positions[sink])
        });
        if keep.count_set_bits() == batch.num_rows() {
            return Ok(batch);
        }
        filter_record_batch(&batch, &BooleanArray::new(keep, None))
            .map_err(|error| Error::internal("rows that a sink has already cannot be left out").with_source(error))
    }
}

/// Where a partition stands, for the status document; sets its gauges.
pub(super) fn partition_status(
    held: &HeldUnit,
    progress: Option<&PartitionProgress>,
    watermark: Option<crate::types::EventTime>,
) -> PartitionStatus {
    let end = progress.and_then(|progress| progress.end);
    // When all records that came are processed, what lies between the last of them and the source's position are none.
    let position = progress.filter(|progress| held.processed >= progress.delivered).map(|progress| progress.position);
    let position = position.unwrap_or(held.processed).max(held.processed);
    let lag = end.map(|end| (end.get() - position.get()).max(0));
    let (lag_gauge, position_gauge) = partition_gauges(&held.unit);
    if let Some(lag) = lag {
        lag_gauge.set(lag as f64);
    }
    position_gauge.set(held.processed.get() as f64);
    PartitionStatus {
        source: held.unit.source.to_string(),
        topic: held.unit.topic.to_string(),
        partition: held.unit.partition,
        position: held.processed.get(),
        published: held.published.map(Offset::get),
        end: end.map(Offset::get),
        lag,
        watermark_micros: watermark.map(crate::types::EventTime::as_micros),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, UInt32Array};
    use arrow::datatypes::Schema;

    use super::*;
    use crate::types::hidden_fields;

    fn unit(processed: i64, sinks: &[i64]) -> HeldUnit {
        HeldUnit {
            source: 0,
            unit: StateUnit { source: "s".into(), topic: "t".into(), partition: 0 },
            processed: Offset::new(processed).unwrap(),
            sink_positions: sinks.iter().map(|position| Offset::new(*position).unwrap()).collect(),
            published: None,
            replayed_below: Offset::new(0).unwrap(),
        }
    }

    fn rows(unit: u32, offsets: &[i64]) -> RecordBatch {
        let rows = offsets.len();
        RecordBatch::try_new(
            Arc::new(Schema::new(hidden_fields().to_vec())),
            vec![
                Arc::new(UInt32Array::from(vec![unit; rows])),
                Arc::new(Int64Array::from(offsets.to_vec())),
                Arc::new(UInt32Array::from(vec![0; rows])),
                Arc::new(Int64Array::from(vec![0; rows])),
                Arc::new(Int64Array::from(vec![None; rows])),
                Arc::new(Int64Array::from(vec![-1; rows])),
            ],
        )
        .unwrap()
    }

    #[test]
    fn a_sink_that_is_ahead_gets_no_row_twice() {
        let mut units = HeldUnits::default();
        units.insert(Assignment(7), unit(10, &[12, 10]));
        let offsets = |batch: RecordBatch| Hidden::of(&batch).unwrap().offset.values().to_vec();
        assert_eq!(offsets(units.suppress(0, rows(7, &[10, 11, 12, 13])).unwrap()), [12, 13]);
        assert_eq!(offsets(units.suppress(1, rows(7, &[10, 11, 12, 13])).unwrap()), [10, 11, 12, 13]);
    }

    #[test]
    fn a_unit_that_caught_up_is_no_longer_looked_at() {
        let mut units = HeldUnits::default();
        units.insert(Assignment(7), unit(10, &[12]));
        units.advance(&[7, 7], &[10, 11]).unwrap();
        assert!(units.catching_up.is_empty());
        assert_eq!(units.get_mut(Assignment(7)).unwrap().processed, Offset::new(12).unwrap());
    }

    #[test]
    fn records_that_were_read_before_a_restart_are_told_from_new_ones() {
        let mut units = HeldUnits::default();
        units.insert(Assignment(7), HeldUnit { replayed_below: Offset::new(12).unwrap(), ..unit(10, &[10]) });
        let counted = units.replayed(&[7, 7, 7, 8], &[10, 11, 12, 0], &rows(7, &[10, 12])).unwrap();
        assert_eq!(counted, Replayed { records: 2, rows: 1, late: 0 });
        assert!(units.is_replayed(7, 11) && !units.is_replayed(7, 12));
        units.advance(&[7, 7], &[10, 11]).unwrap();
        assert!(units.catching_up.is_empty() && !units.is_replayed(7, 11));
    }

    #[test]
    fn a_record_below_the_position_is_refused() {
        let mut units = HeldUnits::default();
        units.insert(Assignment(7), unit(10, &[10]));
        assert!(units.advance(&[7], &[9]).is_err());
    }

    #[test]
    fn gaps_of_control_records_are_passed_over() {
        let mut units = HeldUnits::default();
        units.insert(Assignment(1), unit(0, &[0]));
        units.insert(Assignment(2), unit(0, &[0]));
        units.advance(&[1, 1, 2, 1], &[0, 4, 0, 9]).unwrap();
        let positions: Vec<i64> = units.iter().map(|(_, unit)| unit.processed.get()).collect();
        assert_eq!(positions, [10, 1]);
    }
}
