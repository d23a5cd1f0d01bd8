//! Decode: bytes -> (rows, rejected records). One bad record never hurts its neighbours; normal badness is a value, not an
//! error. Fixes each accepted row's position, event time and W before any SQL.

mod column;
mod dead_letter;
mod decoder;
mod json;
mod metadata;
mod number;
mod reason;
mod rejection_rate;
mod rows;
mod schema;
mod stored;
mod text;
mod timestamp;

#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;

use crate::error::Result;

pub use dead_letter::{dead_letter_batch, dead_letter_schema};
pub use decoder::{Decoded, Decoder};
pub use reason::{Reason, Rejected};
pub use rejection_rate::RejectionRate;
pub use schema::{arrow_type, table_schema};
pub use stored::StoredRows;

/// SQL conditions on rows, compiled by `plan`.
pub trait RowChecks: Send + std::fmt::Debug {
    /// For each row of `batch` (declared and metadata columns) the index of the first check that is not true, or `None`.
    /// A check that fails to evaluate on a row counts as not true for that row alone.
    fn first_failing(&mut self, batch: &RecordBatch) -> Result<Vec<Option<usize>>>;

    /// The text of a check, as the user wrote it.
    fn text(&self, check: usize) -> &str;
}

/// The checks of a source that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChecks;

impl RowChecks for NoChecks {
    fn first_failing(&mut self, batch: &RecordBatch) -> Result<Vec<Option<usize>>> {
        Ok(vec![None; batch.num_rows()])
    }

    fn text(&self, _check: usize) -> &str {
        ""
    }
}
