//! Rows as JSON objects, all of a batch in one buffer. Every visible column is a member, nulls too; times are RFC 3339 in UTC;
//! NaN and the infinities, which JSON has not, become null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StructArray, make_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::json::writer::{EncoderOptions, make_encoder};

use crate::error::{Error, Result};
use crate::types::num_visible;

/// The rows of the batch that was encoded last.
#[derive(Debug, Default)]
pub(crate) struct JsonRows {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl JsonRows {
    /// Encodes the visible columns of `batch`, in the place of what was there.
    pub(super) fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encode_columns(batch, num_visible(batch))
    }

    /// Encodes the first `visible` columns of `batch`, in the place of what was there.
    pub(crate) fn encode_columns(&mut self, batch: &RecordBatch, visible: usize) -> Result<()> {
        self.data.clear();
        self.ends.clear();
        let failed = |error| Error::internal("rows cannot be written as JSON").with_source(error);
        let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = batch
            .schema_ref()
            .fields()
            .iter()
            .zip(batch.columns())
            .take(visible)
            .map(|(field, column)| in_utc(field, column))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let fields = Fields::from(fields);
        let row = Arc::new(Field::new("row", DataType::Struct(fields.clone()), false));
        let rows = match visible {
            0 => StructArray::new_empty_fields(batch.num_rows(), None),
            _ => StructArray::new(fields, columns, None),
        };
        let options = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.fZ".to_owned());
        let mut encoder = make_encoder(&row, &rows, &options).map_err(failed)?;
        for index in 0..batch.num_rows() {
            encoder.encode(index, &mut self.data);
            self.ends.push(self.data.len());
        }
        Ok(())
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The JSON text of a row, without a line end.
    pub(crate) fn row(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start..self.ends[index]]
    }
}

/// A column of times with a zone as one without: Arrow's times are UTC in memory whatever their zone is called.
fn in_utc(field: &FieldRef, column: &ArrayRef) -> Result<(FieldRef, ArrayRef)> {
    let DataType::Timestamp(unit, Some(_)) = field.data_type() else {
        return Ok((field.clone(), column.clone()));
    };
    let data_type = DataType::Timestamp(*unit, None);
    let data = column.to_data().into_builder().data_type(data_type.clone()).build();
    let data = data.map_err(|error| Error::internal("a column of times cannot be read").with_source(error))?;
    Ok((Arc::new(field.as_ref().clone().with_data_type(data_type)), make_array(data)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
    };
    use arrow::datatypes::Schema;

    use super::*;
    use crate::types::hidden_fields;

    fn with_hidden(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let rows = columns[0].1.len();
        let mut fields: Vec<FieldRef> = columns
            .iter()
            .map(|(name, column)| Arc::new(Field::new(*name, column.data_type().clone(), true)))
            .collect();
        let mut arrays: Vec<ArrayRef> = columns.into_iter().map(|(_, column)| column).collect();
        for field in hidden_fields() {
            let zeros: ArrayRef = match field.data_type() {
                DataType::UInt32 => Arc::new(UInt32Array::from(vec![0; rows])),
                _ => Arc::new(Int64Array::from(vec![0; rows])),
            };
            fields.push(field.clone());
            arrays.push(zeros);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    }

    #[test]
    fn rows_have_every_visible_column_and_no_hidden_one() {
        let batch = with_hidden(vec![
            ("id", Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]))),
            ("n", Arc::new(Int64Array::from(vec![Some(7), None]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)]))),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ]);
        let mut rows = JsonRows::default();
        rows.encode(&batch).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.row(0), br#"{"id":"a\n\"b\"","n":7,"x":0.1,"ok":true}"#);
        assert_eq!(rows.row(1), br#"{"id":null,"n":null,"x":null,"ok":null}"#);
    }

    #[test]
    fn times_are_utc_whatever_their_zone_is_called() {
        let times = TimestampMicrosecondArray::from(vec![1_700_000_000_000_000, 1_700_000_000_120_000]);
        let batch = with_hidden(vec![
            ("plain", Arc::new(times.clone())),
            ("zoned", Arc::new(times.with_timezone("Europe/Berlin"))),
        ]);
        let mut rows = JsonRows::default();
        rows.encode(&batch).unwrap();
        assert_eq!(rows.row(0), br#"{"plain":"2023-11-14T22:13:20Z","zoned":"2023-11-14T22:13:20Z"}"#);
        assert_eq!(rows.row(1), br#"{"plain":"2023-11-14T22:13:20.120Z","zoned":"2023-11-14T22:13:20.120Z"}"#);
    }

    #[test]
    fn decimals_keep_their_digits() {
        let decimals = Decimal128Array::from(vec![1230]).with_precision_and_scale(10, 2).unwrap();
        let mut rows = JsonRows::default();
        rows.encode(&with_hidden(vec![("amount", Arc::new(decimals))])).unwrap();
        assert_eq!(rows.row(0), br#"{"amount":12.30}"#);
    }
}
