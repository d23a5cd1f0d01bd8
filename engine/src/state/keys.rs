//! Keys: the values of the PARTITION BY columns. One column of numbers is kept as a word; anything else in a form of
//! bytes of our own, which is never persisted. Nulls are equal to each other, as in SQL's PARTITION BY. It refuses
//! floats: they are no keys.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::error::{Error, Result};

use super::value::{ColumnBuilder, InputColumn, Kind};

/// A hash of a word, all of whose bits depend on all bits of the word.
#[inline(always)]
#[must_use]
pub fn hash_word(word: u64) -> u64 {
    fold(fold(word ^ 0x9e37_79b9_7f4a_7c15, 0xa5a3_56d2_8f12_b16d), 0x2d35_8dcc_aa6c_78a5)
}

/// Both halves of a product, folded.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// A hash of a byte string.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = hash_word(hash ^ u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = hash_word(hash ^ u64::from_le_bytes(last));
    }
    hash
}

/// The keys of one batch.
#[derive(Debug)]
pub struct BatchKeys {
    /// One hash per row.
    pub hashes: Vec<u64>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Words, and which of them are null.
    Words { words: Vec<u64>, nulls: Option<arrow::buffer::NullBuffer> },
    /// Bytes of all rows, and where each row's end.
    Bytes { bytes: Vec<u8>, ends: Vec<usize> },
}

/// The key of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// A number, or null.
    Word(u64, bool),
    /// Several columns, or a string.
    Bytes(&'a [u8]),
}

/// How the keys of an operator are kept.
#[derive(Debug, Clone)]
pub struct KeyLayout {
    types: Vec<DataType>,
    is_word: bool,
}

impl KeyLayout {
    /// The layout for key columns of these types. No columns is one key for all rows.
    pub fn new(types: Vec<DataType>) -> Result<KeyLayout> {
        for data_type in &types {
            match Kind::of(data_type) {
                None | Some(Kind::Float64 | Kind::Float32) => {
                    return Err(Error::invalid(format!(
                        "PARTITION BY a column of type {data_type} is not supported; use an integer, a decimal, a string, a boolean, a date or a timestamp"
                    )));
                }
                Some(_) => {}
            }
        }
        let is_word = types.len() == 1 && Kind::of(&types[0]) != Some(Kind::Bytes);
        Ok(KeyLayout { types, is_word })
    }

    /// Types of the key columns.
    #[must_use]
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Whether keys are words rather than bytes.
    #[inline(always)]
    #[must_use]
    pub fn is_word(&self) -> bool {
        self.is_word
    }

    /// Reads the key columns of a batch of `rows` rows and hashes them.
    pub fn read(&self, columns: &[ArrayRef], rows: usize) -> Result<BatchKeys> {
        if columns.len() != self.types.len() {
            return Err(Error::internal("an over-window was given another number of key columns than its spec says"));
        }
        let mut columns: Vec<InputColumn<'_>> = columns
            .iter()
            .zip(&self.types)
            .map(|(array, data_type)| InputColumn::read(array, data_type))
            .collect::<Result<_>>()?;
        if self.is_word
            && let Some(column) = columns.pop()
        {
            let mut words = column.words;
            if let Some(nulls) = &column.nulls {
                // What lies under a null is arbitrary, and all nulls are one key.
                words.iter_mut().enumerate().for_each(|(row, word)| *word *= u64::from(nulls.is_valid(row)));
            }
            let hashes = words.iter().map(|word| hash_word(*word)).collect();
            return Ok(BatchKeys { hashes, form: Form::Words { words, nulls: column.nulls } });
        }
        let (mut bytes, mut ends) = (Vec::with_capacity(rows * 16), Vec::with_capacity(rows));
        let mut hashes = Vec::with_capacity(rows);
        for row in 0..rows {
            let start = bytes.len();
            columns.iter().for_each(|column| write_value(column, row, &mut bytes));
            hashes.push(hash_bytes(&bytes[start..]));
            ends.push(bytes.len());
        }
        Ok(BatchKeys { hashes, form: Form::Bytes { bytes, ends } })
    }

    /// Builders for the key columns.
    #[must_use]
    pub fn builders(&self) -> Vec<ColumnBuilder> {
        self.types.iter().map(|data_type| ColumnBuilder::new(data_type, 0)).collect()
    }

    /// Appends a key to its columns.
    pub fn append(&self, key: Key<'_>, columns: &mut [ColumnBuilder]) {
        match key {
            Key::Word(word, is_null) => columns[0].push((!is_null).then_some(word)),
            Key::Bytes(mut bytes) => {
                for column in columns {
                    bytes = append_value(bytes, column);
                }
            }
        }
    }
}

impl BatchKeys {
    /// The key of a row.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, row: usize) -> Key<'_> {
        match &self.form {
            Form::Words { words, nulls } => {
                Key::Word(words[row], nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)))
            }
            Form::Bytes { bytes, ends } => {
                let start = if row == 0 { 0 } else { ends[row - 1] };
                Key::Bytes(&bytes[start..ends[row]])
            }
        }
    }
}

fn write_value(column: &InputColumn<'_>, row: usize, bytes: &mut Vec<u8>) {
    if !column.is_valid(row) {
        bytes.push(0);
        return;
    }
    bytes.push(1);
    match &column.bytes {
        Some(values) => {
            let value = values.get(row);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        None => bytes.extend_from_slice(&column.words[row].to_le_bytes()),
    }
}

/// Appends the first value of `bytes` and gives the rest. The bytes are those of [`write_value`].
fn append_value<'a>(bytes: &'a [u8], column: &mut ColumnBuilder) -> &'a [u8] {
    let Some((&is_valid, bytes)) = bytes.split_first() else { return bytes };
    if is_valid == 0 {
        if column.is_bytes() {
            column.push_bytes(None)
        } else {
            column.push(None)
        }
        return bytes;
    }
    if column.is_bytes() {
        let (length, bytes) =
            bytes.split_first_chunk().map_or((0, bytes), |(length, rest)| (u32::from_le_bytes(*length), rest));
        let (value, bytes) = bytes.split_at(length as usize);
        column.push_bytes(Some(value));
        return bytes;
    }
    match bytes.split_first_chunk() {
        Some((word, rest)) => {
            column.push(Some(u64::from_le_bytes(*word)));
            rest
        }
        None => bytes,
    }
}
