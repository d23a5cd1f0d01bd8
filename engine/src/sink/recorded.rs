//! A sink in memory: the double for tests, of the driver above all. It keeps what it was given, answers a checkpoint when it is
//! told to, and fails when it is told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;

use super::{PrepareRequest, PreparedUnit, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Assignment, Offset, StateUnit, Units};

/// What a recorded sink was given, and what it is told.
#[derive(Debug, Default)]
pub struct Recording {
    /// The batches, in order.
    pub batches: Vec<RecordBatch>,
    /// Number of batches that were there when the last checkpoint began.
    pub num_batches_prepared: usize,
    /// Units that were taken over, and where the ranges of their files end, in order.
    pub taken_over: Vec<(Assignment, Offset)>,
    /// Units that were forgotten, in order.
    pub forgotten: Vec<Assignment>,
    /// While true, nothing becomes durable.
    pub holds: bool,
    /// The next write, or answer to a checkpoint, fails so.
    pub fails: Option<(ErrorKind, String)>,
    preparing: Option<PrepareRequest>,
}

/// See the module. Clones share one recording.
#[derive(Debug, Clone, Default)]
pub struct RecordedSink(Arc<Mutex<Recording>>);

impl RecordedSink {
    /// An empty sink.
    #[must_use]
    pub fn new() -> RecordedSink {
        RecordedSink::default()
    }

    /// The recording, to look at or to change.
    pub fn recording(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of rows given.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.recording().batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Recording {
    fn fail_if_told(&mut self) -> Result<()> {
        self.fails.take().map_or(Ok(()), |(kind, message)| Err(Error::new(kind, message)))
    }
}

impl Sink for RecordedSink {
    fn take_over(&mut self, assignment: Assignment, _unit: &StateUnit, covered: Offset) {
        self.recording().taken_over.push((assignment, covered));
    }

    fn write(&mut self, batch: &RecordBatch, _units: &Units) -> Result<()> {
        let mut recording = self.recording();
        recording.fail_if_told()?;
        recording.batches.push(batch.clone());
        Ok(())
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        let mut recording = self.recording();
        recording.num_batches_prepared = recording.batches.len();
        match recording.preparing.replace(request) {
            None => Ok(()),
            Some(_) => Err(Error::internal("a recorded sink was asked to prepare while it prepares")),
        }
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        let mut recording = self.recording();
        recording.fail_if_told()?;
        if recording.holds {
            return Ok(None);
        }
        Ok(recording.preparing.take().map(PrepareRequest::without_files))
    }

    fn forget(&mut self, units: &[Assignment]) {
        self.recording().forgotten.extend_from_slice(units);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::ops::Range;

    use arrow::array::{ArrayRef, Int64Array, UInt32Array};
    use arrow::datatypes::{DataType, Field, FieldRef, Schema};

    use super::*;
    use crate::types::hidden_fields;

    /// Rows `n` of one unit, each from the record with the same offset.
    pub(in crate::sink) fn numbered_rows(unit: Assignment, numbers: Range<i64>) -> RecordBatch {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        let rows = n.len();
        let mut fields: Vec<FieldRef> = vec![Arc::new(Field::new("n", DataType::Int64, false))];
        let mut columns = vec![n.clone()];
        for (index, field) in hidden_fields().iter().enumerate() {
            let column: ArrayRef = match (index, field.data_type()) {
                (0, _) => Arc::new(UInt32Array::from(vec![unit.0; rows])),
                (1, _) => n.clone(),
                (_, DataType::UInt32) => Arc::new(UInt32Array::from(vec![0; rows])),
                _ => Arc::new(Int64Array::from(vec![0; rows])),
            };
            fields.push(field.clone());
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn it_holds_back_and_fails_as_told() {
        let handle = RecordedSink::new();
        let mut sink = handle.clone();
        sink.write(&numbered_rows(Assignment(1), 0..3), &Units::default()).unwrap();
        assert_eq!(handle.num_rows(), 3);
        let unit = StateUnit { source: "s".into(), topic: "t".into(), partition: 0 };
        handle.recording().holds = true;
        sink.begin_prepare(PrepareRequest { upto: vec![(Assignment(1), Offset::after(2), unit)], close: vec![] })
            .unwrap();
        assert_eq!(sink.poll_prepared().unwrap(), None);
        handle.recording().holds = false;
        assert_eq!(sink.poll_prepared().unwrap().unwrap().len(), 1);
        handle.recording().fails = Some((ErrorKind::Unavailable, "told to".to_owned()));
        let error = sink.write(&numbered_rows(Assignment(1), 0..3), &Units::default()).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, "told to"));
        assert_eq!(handle.num_rows(), 3);
    }
}
