//! Records to rows, column by column over all records of a block. A record that is not whole is told by its place, and takes
//! nobody with it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, LargeBinaryArray, LargeStringArray, NullArray,
    StringArray, StringViewArray, make_array,
};
use arrow::array::{ArrayDataBuilder, GenericBinaryArray, GenericStringArray, OffsetSizeTrait};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};

use super::{FIXED_BYTES, Form, MAGIC, Stamp, VERSION, form};
use crate::error::{Error, Result};

/// Why a record is not one of this topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Somebody else wrote it.
    NotOurs,
    /// An engine wrote it that has another form.
    Version(u8),
    /// Another pipeline, or this one with another checkpoint.
    Pipeline,
    /// This pipeline with other columns.
    Columns,
}

/// What stands before a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix<'a> {
    /// Source and topic, `name/topic`.
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) ordinal: u32,
    /// Bitmap and values.
    pub(crate) body: &'a [u8],
}

/// Decodes the records of one internal topic.
#[derive(Debug)]
pub(crate) struct RowDecoder {
    stamp: Stamp,
    schema: SchemaRef,
    forms: Vec<Form>,
}

impl RowDecoder {
    /// A decoder to rows with the columns of `schema`.
    pub(crate) fn new(schema: SchemaRef, stamp: Stamp) -> Result<RowDecoder> {
        let forms = schema.fields().iter().map(|field| form(field.data_type())).collect::<Option<Vec<_>>>();
        let forms = forms.ok_or_else(|| Error::internal("a column of an internal topic has no internal form"))?;
        Ok(RowDecoder { stamp, schema, forms })
    }

    /// Reads what stands before the row of a record.
    pub(crate) fn prefix<'a>(&self, payload: &'a [u8]) -> Result<Prefix<'a>, Foreign> {
        match payload {
            [MAGIC, VERSION, ..] => {}
            [MAGIC, version, ..] => return Err(Foreign::Version(*version)),
            _ => return Err(Foreign::NotOurs),
        }
        fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Foreign> {
            bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(Foreign::NotOurs)
        }
        let pipeline = u64::from_le_bytes(number(payload, 2)?);
        let columns = u64::from_le_bytes(number(payload, 10)?);
        if pipeline != self.stamp.pipeline {
            return Err(Foreign::Pipeline);
        }
        if columns != self.stamp.columns {
            return Err(Foreign::Columns);
        }
        let after = FIXED_BYTES + usize::from(u16::from_le_bytes(number(payload, 34)?));
        let topic = payload.get(FIXED_BYTES..after).and_then(|topic| std::str::from_utf8(topic).ok());
        let body = payload.get(after..).filter(|body| body.len() >= self.forms.len().div_ceil(8));
        Ok(Prefix {
            topic: topic.ok_or(Foreign::NotOurs)?,
            partition: i32::from_le_bytes(number(payload, 18)?),
            offset: i64::from_le_bytes(number(payload, 22)?),
            ordinal: u32::from_le_bytes(number(payload, 30)?),
            body: body.ok_or(Foreign::NotOurs)?,
        })
    }

    /// The columns of rows, by the bodies of their records; and the rows, ascending, whose records are not whole. Those stand
    /// in the columns with nulls, to be taken out.
    pub(crate) fn columns(&self, bodies: &[&[u8]]) -> Result<(Vec<ArrayRef>, Vec<usize>)> {
        let mut reading = Reading::new(bodies, self.forms.len().div_ceil(8));
        let mut columns = Vec::with_capacity(self.forms.len());
        for (index, (field, form)) in self.schema.fields().iter().zip(&self.forms).enumerate() {
            let array = reading.column(index, *form, field.data_type())?;
            if !field.is_nullable() && array.null_count() > 0 {
                (0..array.len()).filter(|row| array.is_null(*row)).for_each(|row| reading.spoil(row));
            }
            columns.push(array);
        }
        Ok((columns, reading.broken()))
    }
}

/// The records of a block while their columns are taken.
struct Reading<'a> {
    bodies: &'a [&'a [u8]],
    /// Where the next value of each begins; [`Reading::BROKEN`] of one that is not whole.
    at: Vec<usize>,
}

impl<'a> Reading<'a> {
    /// No body is so long, so nothing is found there.
    const BROKEN: usize = usize::MAX / 2;

    fn new(bodies: &'a [&'a [u8]], bitmap_bytes: usize) -> Reading<'a> {
        Reading { bodies, at: vec![bitmap_bytes; bodies.len()] }
    }

    fn spoil(&mut self, row: usize) {
        self.at[row] = Reading::BROKEN;
    }

    fn is_valid(&self, row: usize, column: usize) -> bool {
        self.bodies[row].get(column / 8).is_some_and(|byte| byte >> (column % 8) & 1 == 1)
    }

    /// The next `len` bytes of a row.
    fn take(&mut self, row: usize, len: usize) -> Option<&'a [u8]> {
        let at = self.at[row];
        match self.bodies[row].get(at..at.saturating_add(len)) {
            Some(bytes) => {
                self.at[row] = at + len;
                Some(bytes)
            }
            None => {
                self.spoil(row);
                None
            }
        }
    }

    /// Rows that are not whole, or go on behind their last value.
    fn broken(&self) -> Vec<usize> {
        (0..self.bodies.len()).filter(|row| self.at[*row] != self.bodies[*row].len()).collect()
    }

    fn column(&mut self, column: usize, form: Form, data_type: &DataType) -> Result<ArrayRef> {
        Ok(match form {
            Form::Nothing => Arc::new(NullArray::new(self.bodies.len())),
            Form::Boolean => self.booleans(column),
            Form::Fixed(width) => self.fixed(column, width, data_type)?,
            Form::Text => Arc::new(self.text::<i32>(column)?),
            Form::LargeText => Arc::new(self.text::<i64>(column)?) as Arc<LargeStringArray>,
            Form::TextView => Arc::new(StringViewArray::from(&self.text::<i32>(column)? as &StringArray)),
            Form::Bytes => Arc::new(self.bytes::<i32>(column)?) as Arc<BinaryArray>,
            Form::LargeBytes => Arc::new(self.bytes::<i64>(column)?) as Arc<LargeBinaryArray>,
            Form::BytesView => Arc::new(BinaryViewArray::from(&self.bytes::<i32>(column)? as &BinaryArray)),
        })
    }

    fn booleans(&mut self, column: usize) -> ArrayRef {
        let rows = self.bodies.len();
        let (mut values, mut valid) = (vec![false; rows], vec![false; rows]);
        for row in (0..rows).filter(|row| self.is_valid(*row, column)).collect::<Vec<_>>() {
            match self.take(row, 1) {
                Some([value @ (0 | 1)]) => (values[row], valid[row]) = (*value == 1, true),
                _ => self.spoil(row),
            }
        }
        Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls(valid)))
    }

    fn fixed(&mut self, column: usize, width: usize, data_type: &DataType) -> Result<ArrayRef> {
        let mut values = MutableBuffer::from_len_zeroed(self.bodies.len() * width);
        let bytes = values.as_slice_mut();
        let valid = match width {
            1 => self.fixed_into::<1>(column, bytes),
            2 => self.fixed_into::<2>(column, bytes),
            4 => self.fixed_into::<4>(column, bytes),
            8 => self.fixed_into::<8>(column, bytes),
            16 => self.fixed_into::<16>(column, bytes),
            width => self.wide_into(column, width, bytes),
        };
        let data = ArrayDataBuilder::new(data_type.clone())
            .len(self.bodies.len())
            .add_buffer(Buffer::from(values))
            .nulls(nulls(valid))
            .build();
        data.map(make_array).map_err(|error| Error::internal("a column cannot be rebuilt").with_source(error))
    }

    fn fixed_into<const W: usize>(&mut self, column: usize, values: &mut [u8]) -> Vec<bool> {
        let mut valid = vec![false; self.bodies.len()];
        for (row, (value, valid)) in values.chunks_exact_mut(W).zip(&mut valid).enumerate() {
            if self.is_valid(row, column)
                && let Some(bytes) = self.take(row, W)
            {
                value.copy_from_slice(bytes);
                *valid = true;
            }
        }
        valid
    }

    fn wide_into(&mut self, column: usize, width: usize, values: &mut [u8]) -> Vec<bool> {
        let mut valid = vec![false; self.bodies.len()];
        for (row, valid) in valid.iter_mut().enumerate() {
            if self.is_valid(row, column)
                && let Some(bytes) = self.take(row, width)
            {
                values[row * width..(row + 1) * width].copy_from_slice(bytes);
                *valid = true;
            }
        }
        valid
    }

    fn bytes<O: OffsetSizeTrait>(&mut self, column: usize) -> Result<GenericBinaryArray<O>> {
        let (mut values, mut offsets) = (Vec::new(), Vec::with_capacity(self.bodies.len() + 1));
        let mut valid = vec![false; self.bodies.len()];
        offsets.push(O::usize_as(0));
        for (row, valid) in valid.iter_mut().enumerate() {
            if self.is_valid(row, column) {
                let length = self.take(row, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
                if let Some(bytes) = length.and_then(|length| self.take(row, length as usize)) {
                    values.extend_from_slice(bytes);
                    *valid = true;
                }
            }
            let end = O::from_usize(values.len());
            offsets.push(end.ok_or_else(|| Error::internal("more bytes than a column can hold"))?);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        GenericBinaryArray::try_new(offsets, Buffer::from_vec(values), nulls(valid))
            .map_err(|error| Error::internal("a column cannot be rebuilt").with_source(error))
    }

    fn text<O: OffsetSizeTrait>(&mut self, column: usize) -> Result<GenericStringArray<O>> {
        let bytes = self.bytes::<O>(column)?;
        if let Ok(text) = GenericStringArray::try_from_binary(bytes.clone()) {
            return Ok(text);
        }
        let text = |row: usize| bytes.is_valid(row).then(|| std::str::from_utf8(bytes.value(row)));
        let text: Vec<_> = (0..bytes.len()).map(text).collect();
        for (row, text) in text.iter().enumerate() {
            if matches!(text, Some(Err(_))) {
                self.spoil(row);
            }
        }
        Ok(text.into_iter().map(|text| text.and_then(Result::ok)).collect())
    }
}

fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0)
}
