//! The columns that say in a stored file where each of its rows comes from: what makes an archive of a source's rows replayable
//! in the order in which they were served. Visible, because people ask for them too; they come after the columns of the SELECT.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

/// Topic, partition and offset of the row's record, number of the row among those that its record became, and the broker's
/// timestamp of the record (null when it has none).
pub const POSITION_COLUMNS: [&str; 5] = ["_topic", "_partition", "_offset", "_ordinal", "_timestamp"];

/// Number of the position columns that tell one row from all others: all but the timestamp.
pub const NUM_POSITION_KEYS: usize = 4;

/// The fields of the position columns.
#[must_use]
pub fn position_fields() -> &'static [FieldRef; 5] {
    static FIELDS: LazyLock<[FieldRef; 5]> = LazyLock::new(|| {
        let field =
            |index: usize, data_type, nullable| Arc::new(Field::new(POSITION_COLUMNS[index], data_type, nullable));
        [
            field(0, DataType::Utf8, false),
            field(1, DataType::Int32, false),
            field(2, DataType::Int64, false),
            field(3, DataType::Int32, false),
            field(4, DataType::Timestamp(TimeUnit::Microsecond, None), true),
        ]
    });
    &FIELDS
}
