//! Dead letters as Kafka records: key, value and headers as they came in, and the engine's own headers after them, which say
//! from where and why. A value that was withheld (too large) is absent; its hash and length stand in headers.

use arrow::array::{
    Array, ArrowPrimitiveType, AsArray, BinaryArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType};
use rdkafka::message::{Header, OwnedHeaders};

use super::producer::Outgoing;
use super::visible_column;
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

    /// The record of a row.
    pub(super) fn outgoing(&self, row: usize) -> Outgoing<'a> {
        Outgoing {
            key: self.key.is_valid(row).then(|| self.key.value(row)),
            value: self.value.is_valid(row).then(|| self.value.value(row)),
            headers: Some(self.all_headers(row)),
            timestamp: None,
        }
    }

    fn all_headers(&self, row: usize) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(10);
        if self.headers.is_valid(row) {
            let items = self.headers.value(row);
            let items: &StructArray = items.as_struct();
            let (names, values) = (items.column(0).as_string::<i32>(), items.column(1).as_binary::<i32>());
            for item in 0..items.len() {
                let value = values.is_valid(item).then(|| values.value(item));
                headers = headers.insert(Header { key: names.value(item), value });
            }
        }
        let number = |number: i64| Some(number.to_string());
        let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let is_withheld = self.value_sha256.is_valid(row);
        let ours = [
            ("tidemill-topic", text(self.topic)),
            ("tidemill-partition", number(i64::from(self.partition.value(row)))),
            ("tidemill-offset", number(self.offset.value(row))),
            ("tidemill-timestamp", self.timestamp.is_valid(row).then(|| self.timestamp.value(row).to_string())),
            ("tidemill-reason", text(self.reason)),
            ("tidemill-detail", text(self.detail)),
            ("tidemill-value-sha256", text(self.value_sha256)),
            ("tidemill-value-bytes", number(self.value_bytes.value(row)).filter(|_| is_withheld)),
        ];
        for (name, value) in ours {
            if let Some(value) = value {
                headers = headers.insert(Header { key: name, value: Some(value.as_bytes()) });
            }
        }
        headers
    }
}
