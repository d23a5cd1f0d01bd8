//! Decode: bytes -> (rows, rejected records). One bad record never hurts its neighbours; normal badness is a value, not an
//! error. Fixes each accepted row's position, event time and W before any SQL.

use arrow::array::RecordBatch;

use crate::error::Result;

/// SQL conditions on rows, compiled by `plan`.
pub trait RowChecks: Send + std::fmt::Debug {
    /// For each row of `batch` (declared and metadata columns) the index of the first check that is not true, or `None`.
    /// A check that fails to evaluate on a row counts as not true for that row alone.
    fn first_failing(&mut self, batch: &RecordBatch) -> Result<Vec<Option<usize>>>;

    /// The text of a check, as the user wrote it.
    fn text(&self, check: usize) -> &str;
}
