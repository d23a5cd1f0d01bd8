//! Decode: bytes -> (rows, rejected records). One bad record never hurts its neighbours; normal badness is a value, not an
//! error. Fixes each accepted row's position, event time and W before any SQL.
//!
//! A payload is one JSON object, strictly as in RFC 8259. Keys that are no column are ignored, whatever their values; a
//! column that is absent is null; a column that occurs twice rejects the record. What a column takes:
//!
//! | type | JSON | not |
//! |---|---|---|
//! | `string` | strings | numbers, booleans |
//! | `int`, `bigint` | numbers without fraction and exponent, in range | `1.0`, `1e3`, `"77"` |
//! | `float`, `double` | numbers, rounded to the nearest | `"1.5"`, `NaN`, numbers beyond the greatest |
//! | `decimal(p, s)` | numbers and strings of them, exactly | digits that the scale cannot hold (zeros at the end can) |
//! | `boolean` | `true`, `false` | `0`, `"true"` |
//! | `timestamp` | strings as in RFC 3339, `T` or a space, without offset UTC; digits beyond microseconds are cut off | numbers, dates alone |
//! | `epoch_s`, `epoch_ms`, `epoch_us` | numbers without fraction and exponent, years 0 to 9999 | strings |

mod column;
mod dead_letter;
mod decoder;
pub(crate) mod internal;
mod json;
mod metadata;
mod number;
mod reason;
mod rejection_rate;
mod rows;
mod schema;
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
