//! The hidden columns: a row's position, event time and W, fixed by decode before any SQL, and carried by every batch up to
//! the sinks, after the visible columns. Users cannot name them: the prefix is refused in their columns.

use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, UInt32Type};

use crate::error::{Error, Result};

/// Columns with this prefix are the engine's.
pub const HIDDEN_PREFIX: &str = "__tm_";

/// The hidden columns, in their order: assignment (UInt32), the record's own offset (Int64), ordinal among the rows that
/// one record became (UInt32), event time in microseconds (Int64), W in microseconds (Int64, null when no record was
/// accepted before), broker timestamp in milliseconds (Int64, -1 when none).
pub const HIDDEN_COLUMNS: [&str; 6] =
    ["__tm_unit", "__tm_offset", "__tm_ordinal", "__tm_event_time", "__tm_w", "__tm_broker_time"];

/// Place of W among the hidden columns.
pub const HIDDEN_W: usize = 4;

/// The fields of the hidden columns.
#[must_use]
pub fn hidden_fields() -> &'static [FieldRef; 6] {
    static FIELDS: LazyLock<[FieldRef; 6]> = LazyLock::new(|| {
        let field =
            |index: usize, data_type, nullable| Arc::new(Field::new(HIDDEN_COLUMNS[index], data_type, nullable));
        [
            field(0, DataType::UInt32, false),
            field(1, DataType::Int64, false),
            field(2, DataType::UInt32, false),
            field(3, DataType::Int64, false),
            field(4, DataType::Int64, true),
            field(5, DataType::Int64, false),
        ]
    });
    &FIELDS
}

/// Number of the visible columns of a batch that ends with the hidden ones.
#[must_use]
pub fn num_visible(batch: &RecordBatch) -> usize {
    batch.num_columns().saturating_sub(HIDDEN_COLUMNS.len())
}

/// The hidden columns of one batch, typed.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// [`crate::types::Assignment`] of each row.
    pub unit: &'a UInt32Array,
    /// The record's own offset.
    pub offset: &'a Int64Array,
    /// Number of the row among those that its record became.
    pub ordinal: &'a UInt32Array,
    /// Microseconds since the epoch.
    pub event_time: &'a Int64Array,
    /// W before the row, microseconds; null when none.
    pub w: &'a Int64Array,
    /// Milliseconds since the epoch; -1 when none.
    pub broker_time: &'a Int64Array,
}

impl<'a> Hidden<'a> {
    /// Reads the last six columns of `batch`.
    pub fn of(batch: &'a RecordBatch) -> Result<Hidden<'a>> {
        let missing = || Error::internal("a batch lost the columns of its rows' positions");
        let first = num_visible(batch);
        if batch.num_columns() < HIDDEN_COLUMNS.len() || batch.schema_ref().field(first).name() != HIDDEN_COLUMNS[0] {
            return Err(missing());
        }
        let int64 = |index: usize| batch.column(first + index).as_primitive_opt::<Int64Type>().ok_or_else(missing);
        let uint32 = |index: usize| batch.column(first + index).as_primitive_opt::<UInt32Type>().ok_or_else(missing);
        Ok(Hidden {
            unit: uint32(0)?,
            offset: int64(1)?,
            ordinal: uint32(2)?,
            event_time: int64(3)?,
            w: int64(4)?,
            broker_time: int64(5)?,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.unit.len()
    }
}
