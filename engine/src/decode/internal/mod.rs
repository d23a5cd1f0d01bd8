//! The records of internal topics: rows between two stages of one pipeline, in a form of our own, bit for bit. Written by the
//! Kafka sink of a repartitioned source or view (`encode`), read by the source in its place (`decode`). Nobody else writes them.
//!
//! | bytes | |
//! |---|---|
//! | 1 | `0xF5`, which begins no text in UTF-8 |
//! | 1 | version, 1 |
//! | 8 | stamp of the pipeline: its checkpoint's identity |
//! | 8 | stamp of the columns: names, types, what may be null, the key, the event time |
//! | 4 | source partition |
//! | 8 | source offset |
//! | 4 | ordinal among the rows of that record |
//! | 2 + n | source and topic, `name/topic`, after the length |
//! | (columns + 7) / 8 | which columns are not null, lowest bit first |
//! | | the values that are not null: of fixed width as they lie in memory, a boolean as one byte, others after their length (4) |
//!
//! All numbers are little endian. Position and row are one value, so that no record has the one without the other.

mod decode;
mod encode;
mod rows;
#[cfg(test)]
mod tests;

use arrow::datatypes::{DataType, Field, Schema};
use sha2::{Digest, Sha256};

pub(crate) use decode::{Foreign, Prefix, RowDecoder};
pub(crate) use encode::RowEncoder;
pub(super) use rows::InternalRows;
pub(crate) use rows::refuse_foreign;

const MAGIC: u8 = 0xF5;
const VERSION: u8 = 1;
/// Bytes before the source's name.
const FIXED_BYTES: usize = 36;

const _: () = assert!(cfg!(target_endian = "little"), "rows are written as they lie in memory");

/// What the records of one internal topic have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) pipeline: u64,
    pub(crate) columns: u64,
}

impl Stamp {
    /// Of a pipeline's identity, the columns of an internal topic, its key and its event time.
    pub(crate) fn new(pipeline_id: &str, schema: &Schema, by: &[String], event_time: &str) -> Stamp {
        let field = |field: &Field| format!("{:?} {:?} {}", field.name(), field.data_type(), field.is_nullable());
        let fields = schema.fields().iter().map(|one| field(one)).collect::<Vec<_>>();
        Stamp { pipeline: hash(pipeline_id), columns: hash(&format!("{fields:?} {by:?} {event_time:?}")) }
    }
}

fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// How a column's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Always null.
    Nothing,
    Boolean,
    Fixed(usize),
    Text,
    LargeText,
    TextView,
    Bytes,
    LargeBytes,
    BytesView,
}

/// The form of a type; `None` for one that cannot go through an internal topic.
fn form(data_type: &DataType) -> Option<Form> {
    Some(match data_type {
        DataType::Null => Form::Nothing,
        DataType::Boolean => Form::Boolean,
        DataType::Utf8 => Form::Text,
        DataType::LargeUtf8 => Form::LargeText,
        DataType::Utf8View => Form::TextView,
        DataType::Binary => Form::Bytes,
        DataType::LargeBinary => Form::LargeBytes,
        DataType::BinaryView => Form::BytesView,
        DataType::FixedSizeBinary(width) => Form::Fixed(usize::try_from(*width).ok()?),
        other => Form::Fixed(other.primitive_width()?),
    })
}

/// The first column whose values cannot go through an internal topic.
pub(crate) fn unsupported(schema: &Schema) -> Option<&Field> {
    schema.fields().iter().map(AsRef::as_ref).find(|field| form(field.data_type()).is_none())
}

/// Whether equal values of a type have equal keys: what `by` may name. (0.0 and -0.0 are equal, and have other bits.)
pub(crate) fn can_be_key(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(..)
                | DataType::Decimal32(..)
                | DataType::Decimal64(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}
