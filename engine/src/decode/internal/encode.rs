//! Rows to records, a batch at a time into one buffer: first how long each row is, then the values, column by column.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{FieldRef, Schema};

use super::{FIXED_BYTES, Form, MAGIC, Stamp, VERSION, form};
use crate::error::{Error, Result};
use crate::types::{Assignment, Hidden, StateUnit, Units, num_visible};

/// Encodes the rows of one internal topic.
#[derive(Debug)]
pub(crate) struct RowEncoder {
    stamp: Stamp,
    columns: Vec<(FieldRef, Form)>,
    data: Vec<u8>,
    ends: Vec<usize>,
    /// Where the next value of each row goes.
    at: Vec<usize>,
}

impl RowEncoder {
    /// An encoder of rows with these columns.
    pub(crate) fn new(schema: &Schema, stamp: Stamp) -> Result<RowEncoder> {
        let unsupported = |field: &FieldRef| {
            Error::internal(format!("column {} of type {} has no internal form", field.name(), field.data_type()))
        };
        let columns = schema
            .fields()
            .iter()
            .map(|field| Ok((field.clone(), form(field.data_type()).ok_or_else(|| unsupported(field))?)));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RowEncoder { stamp, columns, data: Vec::new(), ends: Vec::new(), at: Vec::new() })
    }

    /// Encodes the visible columns of `batch` and the positions of its rows, in the place of what was there.
    pub(crate) fn encode(&mut self, batch: &RecordBatch, units: &Units) -> Result<()> {
        self.check(batch)?;
        let hidden = Hidden::of(batch)?;
        check_order(&hidden)?;
        self.measure(batch, &hidden, units)?;
        self.data.clear();
        self.data.resize(self.ends.last().copied().unwrap_or(0), 0);
        self.write_prefixes(&hidden, units)?;
        for column in 0..self.columns.len() {
            self.write_column(column, batch.column(column));
        }
        Ok(())
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The record of a row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.data[start..self.ends[row]]
    }

    fn check(&self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema_ref();
        let is_as_declared = num_visible(batch) == self.columns.len()
            && self.columns.iter().zip(schema.fields()).all(|((declared, _), field)| {
                declared.name() == field.name() && declared.data_type() == field.data_type()
            });
        if is_as_declared {
            return Ok(());
        }
        Err(Error::internal("rows for an internal topic have other columns than it was made for"))
    }

    /// Where each row ends.
    fn measure(&mut self, batch: &RecordBatch, hidden: &Hidden<'_>, units: &Units) -> Result<()> {
        let fixed = FIXED_BYTES + self.columns.len().div_ceil(8);
        self.ends.clear();
        let mut last: Option<(u32, usize)> = None;
        for unit in hidden.unit.values() {
            let bytes = match last {
                Some((of, bytes)) if of == *unit => bytes,
                _ => place_bytes(unit_of(*unit, units)?),
            };
            last = Some((*unit, bytes));
            self.ends.push(fixed + bytes);
        }
        for (column, (_, form)) in self.columns.iter().enumerate() {
            let array = batch.column(column);
            add_lengths(&mut self.ends, array, *form);
        }
        let mut end = 0;
        for row in &mut self.ends {
            end += *row;
            *row = end;
        }
        Ok(())
    }

    fn write_prefixes(&mut self, hidden: &Hidden<'_>, units: &Units) -> Result<()> {
        let bitmap_bytes = self.columns.len().div_ceil(8);
        self.at.clear();
        let mut start = 0;
        for row in 0..self.ends.len() {
            let unit = unit_of(hidden.unit.value(row), units)?;
            let (source, topic) = (unit.source.as_bytes(), unit.topic.as_bytes());
            let bytes = u16::try_from(place_bytes(unit))
                .map_err(|_| Error::internal(format!("{unit} has a name of over 65535 bytes")))?;
            let record = &mut self.data[start..self.ends[row]];
            record[0] = MAGIC;
            record[1] = VERSION;
            record[2..10].copy_from_slice(&self.stamp.pipeline.to_le_bytes());
            record[10..18].copy_from_slice(&self.stamp.columns.to_le_bytes());
            record[18..22].copy_from_slice(&unit.partition.to_le_bytes());
            record[22..30].copy_from_slice(&hidden.offset.value(row).to_le_bytes());
            record[30..34].copy_from_slice(&hidden.ordinal.value(row).to_le_bytes());
            record[34..36].copy_from_slice(&bytes.to_le_bytes());
            let slash = FIXED_BYTES + source.len();
            let after = slash + 1 + topic.len();
            record[FIXED_BYTES..slash].copy_from_slice(source);
            record[slash] = b'/';
            record[slash + 1..after].copy_from_slice(topic);
            self.at.push(start + after + bitmap_bytes);
            start = self.ends[row];
        }
        Ok(())
    }

    fn write_column(&mut self, column: usize, array: &dyn Array) {
        let form = self.columns[column].1;
        self.write_validity(column, array, form);
        match form {
            Form::Nothing => {}
            Form::Boolean => {
                let values = array.as_boolean();
                self.write_fixed::<1>(array, |row| [u8::from(values.value(row))]);
            }
            Form::Fixed(width) => self.write_width(array, width),
            Form::Text => {
                let values = array.as_string::<i32>();
                self.write_bytes(array, |row| values.value(row).as_bytes());
            }
            Form::LargeText => {
                let values = array.as_string::<i64>();
                self.write_bytes(array, |row| values.value(row).as_bytes());
            }
            Form::TextView => {
                let values = array.as_string_view();
                self.write_bytes(array, |row| values.value(row).as_bytes());
            }
            Form::Bytes => {
                let values = array.as_binary::<i32>();
                self.write_bytes(array, |row| values.value(row));
            }
            Form::LargeBytes => {
                let values = array.as_binary::<i64>();
                self.write_bytes(array, |row| values.value(row));
            }
            Form::BytesView => {
                let values = array.as_binary_view();
                self.write_bytes(array, |row| values.value(row));
            }
        }
    }

    /// The bit of each row; its bitmap lies before its first value, and so at a place that the source's name decides.
    fn write_validity(&mut self, column: usize, array: &dyn Array, form: Form) {
        if form == Form::Nothing {
            return;
        }
        let (bit, nulls) = (1 << (column % 8), array.nulls());
        let mut start = 0;
        for (row, end) in self.ends.iter().enumerate() {
            if is_valid(nulls, row) {
                let bytes = u16::from_le_bytes([self.data[start + 34], self.data[start + 35]]);
                let bitmap = start + FIXED_BYTES + usize::from(bytes);
                self.data[bitmap + column / 8] |= bit;
            }
            start = *end;
        }
    }

    fn write_width(&mut self, array: &dyn Array, width: usize) {
        let data = array.to_data();
        let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
        let bytes = bytes.get(data.offset() * width..).unwrap_or_default();
        fn value<const W: usize>(bytes: &[u8], row: usize) -> [u8; W] {
            let mut value = [0; W];
            value.copy_from_slice(&bytes[row * W..(row + 1) * W]);
            value
        }
        match width {
            1 => self.write_fixed(array, |row| value::<1>(bytes, row)),
            2 => self.write_fixed(array, |row| value::<2>(bytes, row)),
            4 => self.write_fixed(array, |row| value::<4>(bytes, row)),
            8 => self.write_fixed(array, |row| value::<8>(bytes, row)),
            16 => self.write_fixed(array, |row| value::<16>(bytes, row)),
            width => {
                let nulls = array.nulls();
                for (row, at) in self.at.iter_mut().enumerate() {
                    if is_valid(nulls, row) {
                        self.data[*at..*at + width].copy_from_slice(&bytes[row * width..(row + 1) * width]);
                        *at += width;
                    }
                }
            }
        }
    }

    fn write_fixed<const W: usize>(&mut self, array: &dyn Array, value: impl Fn(usize) -> [u8; W]) {
        let nulls = array.nulls();
        for (row, at) in self.at.iter_mut().enumerate() {
            if is_valid(nulls, row) {
                self.data[*at..*at + W].copy_from_slice(&value(row));
                *at += W;
            }
        }
    }

    fn write_bytes<'a>(&mut self, array: &dyn Array, value: impl Fn(usize) -> &'a [u8]) {
        let nulls = array.nulls();
        for (row, at) in self.at.iter_mut().enumerate() {
            if is_valid(nulls, row) {
                let value = value(row);
                // A value of 4 GiB does not fit into an Arrow batch of ours, let alone into a record.
                let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
                self.data[*at..*at + 4].copy_from_slice(&length.to_le_bytes());
                self.data[*at + 4..*at + 4 + value.len()].copy_from_slice(value);
                *at += 4 + value.len();
            }
        }
    }
}

/// Whoever reads the rows tells a repetition by its place, so those of one unit must come in the order of their places.
fn check_order(hidden: &Hidden<'_>) -> Result<()> {
    let (units, offsets, ordinals) = (hidden.unit.values(), hidden.offset.values(), hidden.ordinal.values());
    let follows = |row: usize| {
        units[row - 1] != units[row] || (offsets[row - 1], ordinals[row - 1]) < (offsets[row], ordinals[row])
    };
    if (1..units.len()).all(follows) {
        return Ok(());
    }
    Err(Error::internal("rows for an internal topic are not in the order of their positions"))
}

fn is_valid(nulls: Option<&NullBuffer>, row: usize) -> bool {
    nulls.is_none_or(|nulls| nulls.is_valid(row))
}

fn unit_of(unit: u32, units: &Units) -> Result<&StateUnit> {
    let unit = units.get(Assignment(unit));
    unit.ok_or_else(|| Error::internal("a row of a partition that is not ours any more"))
}

/// Bytes of `name/topic`.
fn place_bytes(unit: &StateUnit) -> usize {
    unit.source.len() + 1 + unit.topic.len()
}

fn add_lengths(lengths: &mut [usize], array: &dyn Array, form: Form) {
    match form {
        Form::Nothing => {}
        Form::Boolean => add_each(lengths, array, |_| 1),
        Form::Fixed(width) => add_each(lengths, array, |_| width),
        Form::Text => {
            let values = array.as_string::<i32>();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
        Form::LargeText => {
            let values = array.as_string::<i64>();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
        Form::TextView => {
            let values = array.as_string_view();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
        Form::Bytes => {
            let values = array.as_binary::<i32>();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
        Form::LargeBytes => {
            let values = array.as_binary::<i64>();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
        Form::BytesView => {
            let values = array.as_binary_view();
            add_each(lengths, array, |row| 4 + values.value(row).len());
        }
    }
}

fn add_each(lengths: &mut [usize], array: &dyn Array, of: impl Fn(usize) -> usize) {
    let nulls = array.nulls();
    for (row, length) in lengths.iter_mut().enumerate() {
        if is_valid(nulls, row) {
            *length += of(row);
        }
    }
}
