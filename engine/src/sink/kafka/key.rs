//! A column as message keys: text and bytes as they are, everything else as its text. A null is no key.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::visible_column;
use crate::error::{Error, Result};

/// See the module.
pub(super) struct Key<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
    text: String,
}

enum Kind<'a> {
    Text(&'a arrow::array::StringArray),
    TextView(&'a arrow::array::StringViewArray),
    LargeText(&'a arrow::array::LargeStringArray),
    Bytes(&'a arrow::array::BinaryArray),
    BytesView(&'a arrow::array::BinaryViewArray),
    Whole(&'a arrow::array::Int64Array),
    LargeBytes(&'a arrow::array::LargeBinaryArray),
    Other(ArrayFormatter<'a>),
}

impl<'a> Key<'a> {
    /// The visible column `name` of `batch`.
    pub(super) fn of(batch: &'a RecordBatch, name: &str) -> Result<Key<'a>> {
        let missing = || Error::internal(format!("rows without the key column `{name}`"));
        Key::of_array(visible_column(batch, name).ok_or_else(missing)?)
    }

    pub(super) fn of_array(array: &'a dyn Array) -> Result<Key<'a>> {
        const FORMAT: FormatOptions<'static> = FormatOptions::new();
        let kind = match array.data_type() {
            DataType::Utf8 => Kind::Text(array.as_string()),
            DataType::Utf8View => Kind::TextView(array.as_string_view()),
            DataType::LargeUtf8 => Kind::LargeText(array.as_string()),
            DataType::Binary => Kind::Bytes(array.as_binary()),
            DataType::BinaryView => Kind::BytesView(array.as_binary_view()),
            DataType::LargeBinary => Kind::LargeBytes(array.as_binary()),
            DataType::Int64 => Kind::Whole(array.as_primitive()),
            other => Kind::Other(ArrayFormatter::try_new(array, &FORMAT).map_err(|error| {
                Error::internal(format!("a column of type {other} cannot be a message key")).with_source(error)
            })?),
        };
        Ok(Key { array, kind, text: String::new() })
    }

    /// The key of a row.
    pub(super) fn bytes(&mut self, row: usize) -> Option<&[u8]> {
        if self.array.is_null(row) {
            return None;
        }
        Some(match &self.kind {
            Kind::Text(array) => array.value(row).as_bytes(),
            Kind::TextView(array) => array.value(row).as_bytes(),
            Kind::LargeText(array) => array.value(row).as_bytes(),
            Kind::Bytes(array) => array.value(row),
            Kind::BytesView(array) => array.value(row),
            Kind::LargeBytes(array) => array.value(row),
            Kind::Whole(array) => {
                self.text.clear();
                // Writing to a string cannot fail.
                write!(self.text, "{}", array.value(row)).ok();
                self.text.as_bytes()
            }
            Kind::Other(formatter) => {
                self.text.clear();
                // Writing to a string cannot fail.
                write!(self.text, "{}", formatter.value(row)).ok();
                self.text.as_bytes()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray, StringViewArray, UInt32Array};

    use super::*;

    fn keys(array: ArrayRef) -> Vec<Option<Vec<u8>>> {
        let mut key = Key::of_array(array.as_ref()).unwrap();
        (0..array.len()).map(|row| key.bytes(row).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn text_and_bytes_are_kept_and_numbers_are_written_in_decimal() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(keys(Arc::new(StringArray::from(vec![Some("ab"), None]))), [text("ab"), None]);
        assert_eq!(keys(Arc::new(StringViewArray::from(vec!["ü"]))), [text("ü")]);
        assert_eq!(keys(Arc::new(BinaryArray::from(vec![&[0xff_u8, 0][..]]))), [Some(vec![0xff, 0])]);
        assert_eq!(keys(Arc::new(Int64Array::from(vec![Some(-12), None]))), [text("-12"), None]);
        assert_eq!(keys(Arc::new(UInt32Array::from(vec![7]))), [text("7")]);
    }
}
