//! Dead letters as Kafka records: key, value and headers as they came in, and the engine's own headers after them, which say
//! from where and why. A value that was withheld (too large for the engine, or for the topic of dead letters) is absent; its
//! hash and length stand in headers. A key or headers that are too large for the topic are left out likewise.

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, BinaryArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType};
use rdkafka::message::{Header, OwnedHeaders};

use super::producer::Outgoing;
use super::visible_column;
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};

/// The columns of a batch of dead letters, typed.
#[derive(Debug)]
pub(super) struct DeadLetters<'a> {
    key: &'a BinaryArray,
    value: &'a BinaryArray,
    headers: &'a ListArray,
    topic: &'a StringArray,
    partition: &'a PrimitiveArray<Int32Type>,
    offset: &'a PrimitiveArray<Int64Type>,
    timestamp: &'a PrimitiveArray<TimestampMillisecondType>,
    reason: &'a StringArray,
    detail: &'a StringArray,
    value_sha256: &'a StringArray,
    value_bytes: &'a PrimitiveArray<Int64Type>,
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    visible_column(batch, name).ok_or_else(|| Error::internal(format!("dead letters without a column `{name}`")))
}

fn wrong_type(name: &str, array: &dyn Array) -> Error {
    Error::internal(format!("dead letters with a column `{name}` of type {}", array.data_type()))
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let array = column(batch, name)?;
    array.as_string_opt().ok_or_else(|| wrong_type(name, array))
}

fn bytes<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a BinaryArray> {
    let array = column(batch, name)?;
    array.as_binary_opt().ok_or_else(|| wrong_type(name, array))
}

fn numbers<'a, T: ArrowPrimitiveType>(batch: &'a RecordBatch, name: &str) -> Result<&'a PrimitiveArray<T>> {
    let array = column(batch, name)?;
    array.as_primitive_opt().ok_or_else(|| wrong_type(name, array))
}

impl<'a> DeadLetters<'a> {
    /// Reads the columns of `batch`.
    pub(super) fn of(batch: &'a RecordBatch) -> Result<DeadLetters<'a>> {
        let headers = column(batch, "headers")?;
        let list = headers.as_list_opt::<i32>().ok_or_else(|| wrong_type("headers", headers))?;
        let is_header = |item: &DataType| {
            matches!(item, DataType::Struct(fields)
                if fields.len() == 2 && *fields[0].data_type() == DataType::Utf8 && *fields[1].data_type() == DataType::Binary)
        };
        if !is_header(&list.value_type()) {
            return Err(wrong_type("headers", headers));
        }
        Ok(DeadLetters {
            key: bytes(batch, "key")?,
            value: bytes(batch, "value")?,
            headers: list,
            topic: text(batch, "topic")?,
            partition: numbers(batch, "partition")?,
            offset: numbers(batch, "offset")?,
            timestamp: numbers(batch, "timestamp")?,
            reason: text(batch, "reason")?,
            detail: text(batch, "detail")?,
            value_sha256: text(batch, "value_sha256")?,
            value_bytes: numbers(batch, "value_bytes")?,
        })
    }

    /// The record of a row, within `bytes_max`: what is too large is left out, the largest part first, and a header says
    /// what. A letter that its topic refuses would stop the pipeline at this record, at each start again.
    pub(super) fn outgoing(&self, row: usize, bytes_max: usize) -> Outgoing<'a> {
        let items = self.headers.is_valid(row).then(|| self.headers.value(row));
        let mut parts = Parts {
            key: self.key.is_valid(row).then(|| self.key.value(row)),
            value: self.value.is_valid(row).then(|| self.value.value(row)),
            headers: items.as_ref().map(|items| headers_of(items.as_struct())).unwrap_or_default(),
            left_out: Vec::new(),
        };
        if self.value_sha256.is_valid(row) {
            parts.left_out.push(VALUE);
        }
        let mut about = self.about(row, &parts.left_out);
        while FRAME_BYTES + parts.bytes() + about.iter().map(about_bytes).sum::<usize>() > bytes_max {
            if !parts.leave_out_the_largest() {
                break;
            }
            about = self.about(row, &parts.left_out);
        }
        let mut headers = OwnedHeaders::new_with_capacity(parts.headers.len() + about.len());
        for (name, value) in parts.headers {
            headers = headers.insert(Header { key: name, value });
        }
        for (name, value) in &about {
            headers = headers.insert(Header { key: name, value: Some(value.as_bytes()) });
        }
        Outgoing { key: parts.key, value: parts.value, headers: Some(headers), timestamp: None }
    }

    /// The engine's own headers.
    fn about(&self, row: usize, left_out: &[&'static str]) -> Vec<(&'static str, String)> {
        let number = |number: i64| Some(number.to_string());
        let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let is_withheld = left_out.contains(&VALUE);
        let hash = || self.value.is_valid(row).then(|| sha256_hex(self.value.value(row)));
        let all = [
            ("tidemill-topic", text(self.topic)),
            ("tidemill-partition", number(i64::from(self.partition.value(row)))),
            ("tidemill-offset", number(self.offset.value(row))),
            ("tidemill-timestamp", self.timestamp.is_valid(row).then(|| self.timestamp.value(row).to_string())),
            ("tidemill-reason", text(self.reason)),
            ("tidemill-detail", text(self.detail).filter(|_| !left_out.contains(&DETAIL))),
            ("tidemill-left-out", (!left_out.is_empty()).then(|| left_out.join(","))),
            ("tidemill-value-sha256", text(self.value_sha256).or_else(|| is_withheld.then(hash).flatten())),
            ("tidemill-value-bytes", number(self.value_bytes.value(row)).filter(|_| is_withheld)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// What of a letter can be left out, as its header names it.
const VALUE: &str = "value";
const HEADERS: &str = "headers";
const KEY: &str = "key";
const DETAIL: &str = "detail";
/// More than a batch of one record takes besides key, value and headers (61 bytes, and at most 36 of the record).
const FRAME_BYTES: usize = 128;
/// More than a header takes besides name and value: two lengths.
const HEADER_FRAME_BYTES: usize = 10;

/// What the hash and the size of a value take that is left out: a shorter one stays.
const HASH_BYTES: usize = 160;

/// What came in, as far as it is passed on.
struct Parts<'a, 'h> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<(&'h str, Option<&'h [u8]>)>,
    left_out: Vec<&'static str>,
}

impl Parts<'_, '_> {
    fn header_bytes(&self) -> usize {
        let bytes = |(name, value): &(&str, Option<&[u8]>)| header_bytes(name, value.unwrap_or_default());
        self.headers.iter().map(bytes).sum()
    }

    fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.header_bytes()
    }

    /// Whether there was something left to leave out.
    fn leave_out_the_largest(&mut self) -> bool {
        let sizes = [
            (self.key.map_or(0, <[u8]>::len), KEY),
            (self.header_bytes(), HEADERS),
            (self.value.map_or(0, |value| value.len().saturating_sub(HASH_BYTES)), VALUE),
        ];
        let part = match sizes.into_iter().max() {
            Some((bytes, part)) if bytes > 0 => part,
            _ if !self.left_out.contains(&DETAIL) => DETAIL,
            _ => return false,
        };
        match part {
            KEY => self.key = None,
            HEADERS => self.headers.clear(),
            VALUE => self.value = None,
            _ => {}
        }
        self.left_out.push(part);
        true
    }
}

fn header_bytes(name: &str, value: &[u8]) -> usize {
    HEADER_FRAME_BYTES + name.len() + value.len()
}

fn about_bytes((name, value): &(&'static str, String)) -> usize {
    header_bytes(name, value.as_bytes())
}

fn headers_of(items: &StructArray) -> Vec<(&str, Option<&[u8]>)> {
    let (names, values) = (items.column(0).as_string::<i32>(), items.column(1).as_binary::<i32>());
    (0..items.len()).map(|item| (names.value(item), values.is_valid(item).then(|| values.value(item)))).collect()
}
