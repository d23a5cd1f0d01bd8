//! JSON objects to columns in one pass: each member of a payload goes straight into its column. A payload is read alone and
//! either becomes a row whole or leaves nothing, so a bad record cannot touch its neighbours. `arrow-json` is the oracle of
//! the tests: what is accepted here, it reads to the same bits; it accepts more (`1.7` as 1, `"77"` as 77, `1e999`, `NaN`,
//! the last of doubled keys, `{"a":1 "b":2}`).

use arrow::array::ArrayRef;

use super::column::ColumnBuffer;
use super::reason::Reason;
use super::text::{Cursor, Nesting, Parse};
use crate::error::Result;
use crate::pipeline::settings::Column;

/// Members beyond these, and keys longer than these, are not predicted.
const MAX_PREDICTED_MEMBERS: usize = 256;
const MAX_PREDICTED_KEY_BYTES: usize = 64;

/// The rows of a batch that is being built from JSON payloads.
#[derive(Debug)]
pub(super) struct JsonRows {
    columns: Vec<ColumnBuffer>,
    /// The columns by name, sorted.
    by_name: Vec<(Vec<u8>, usize)>,
    num_rows: usize,
    /// The keys of the payload before, in their order: producers write them alike.
    predicted: Vec<PredictedKey>,
    nesting: Nesting,
    scratch: Vec<u8>,
    /// The column at which reading is or was.
    current: Option<usize>,
}

#[derive(Debug)]
struct PredictedKey {
    /// The key with its quotes, as it stood in the payload.
    literal: Vec<u8>,
    column: Option<usize>,
}

/// Why a payload did not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    /// Index of the column that it concerns, for those that concern one.
    pub(super) column: Option<usize>,
}

impl JsonRows {
    pub(super) fn new(columns: &[Column], event_time: Option<usize>) -> JsonRows {
        let mut by_name: Vec<_> =
            columns.iter().enumerate().map(|(index, column)| (column.name.clone().into_bytes(), index)).collect();
        by_name.sort_unstable();
        let columns = columns.iter().enumerate();
        JsonRows {
            by_name,
            columns: columns.map(|(index, column)| ColumnBuffer::new(column, event_time == Some(index))).collect(),
            num_rows: 0,
            predicted: Vec::new(),
            nesting: Nesting::default(),
            scratch: Vec::new(),
            current: None,
        }
    }

    /// Makes room for `rows` more.
    pub(super) fn reserve(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.reserve(rows);
        }
    }

    /// Adds the row that `payload` holds, or nothing.
    #[inline]
    pub(super) fn push(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.current = None;
        match self.read(payload) {
            Ok(()) => {
                self.num_rows += 1;
                Ok(())
            }
            Err(reason) => {
                self.truncate();
                Err(Fault { reason, column: self.current.filter(|_| concerns_a_column(reason)) })
            }
        }
    }

    /// Takes the last row out again.
    pub(super) fn pop(&mut self) {
        self.num_rows = self.num_rows.saturating_sub(1);
        self.truncate();
    }

    /// The last row's value in a column of times.
    pub(super) fn last_micros(&self, column: usize) -> Option<i64> {
        self.columns.get(column)?.last_micros()
    }

    /// The columns; no row is left.
    pub(super) fn take(&mut self) -> Result<Vec<ArrayRef>> {
        self.num_rows = 0;
        self.columns.iter_mut().map(ColumnBuffer::take).collect()
    }

    fn truncate(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.num_rows);
        }
    }

    fn read(&mut self, payload: &[u8]) -> Parse<()> {
        match payload.first() {
            None => return Err(Reason::EmptyPayload),
            Some(0) => return Err(Reason::SchemaRegistryFraming),
            Some(_) => {}
        }
        let payload = str::from_utf8(payload).map_err(|_| Reason::InvalidUtf8)?;
        let cursor = &mut Cursor::new(payload);
        cursor.skip_space();
        match cursor.peek() {
            None => return Err(Reason::EmptyPayload),
            Some(b'{') => self.read_members(cursor)?,
            Some(_) => {
                cursor.skip_value(&mut self.nesting, &mut self.scratch)?;
                return Err(Reason::NotAnObject);
            }
        }
        cursor.skip_space();
        match cursor.peek() {
            None => {}
            Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => return Err(Reason::SeveralValues),
            Some(_) => return Err(Reason::NotJson),
        }
        self.add_absent()
    }

    fn read_members(&mut self, cursor: &mut Cursor<'_>) -> Parse<()> {
        cursor.pass(b"{");
        cursor.skip_space();
        if cursor.pass(b"}") {
            return Ok(());
        }
        let mut member = 0;
        loop {
            let column = self.read_key(cursor, member)?;
            if cursor.next_token()? != b':' {
                return Err(Reason::NotJson);
            }
            cursor.skip_space();
            match column {
                Some(index) => self.read_value(cursor, index)?,
                None => cursor.skip_value(&mut self.nesting, &mut self.scratch)?,
            }
            match cursor.next_token()? {
                b',' => cursor.skip_space(),
                b'}' => return Ok(()),
                _ => return Err(Reason::NotJson),
            }
            member += 1;
        }
    }

    #[inline]
    fn read_value(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Parse<()> {
        self.current = Some(index);
        let column = &mut self.columns[index];
        if column.len() > self.num_rows {
            return Err(Reason::DuplicateKey);
        }
        column.read(cursor, &mut self.scratch)
    }

    /// Passes a key; its column, if it has one.
    #[inline]
    fn read_key(&mut self, cursor: &mut Cursor<'_>, member: usize) -> Parse<Option<usize>> {
        if let Some(predicted) = self.predicted.get(member)
            && cursor.pass(&predicted.literal)
        {
            return Ok(predicted.column);
        }
        self.read_unexpected_key(cursor, member)
    }

    #[cold]
    fn read_unexpected_key(&mut self, cursor: &mut Cursor<'_>, member: usize) -> Parse<Option<usize>> {
        match cursor.peek() {
            Some(b'"') => {}
            Some(_) => return Err(Reason::NotJson),
            None => return Err(Reason::TruncatedJson),
        }
        let start = cursor.position();
        let key = cursor.string(&mut self.scratch)?;
        let found = self.by_name.binary_search_by(|(name, _)| name.as_slice().cmp(key));
        let column = found.ok().map(|found| self.by_name[found].1);
        let literal = cursor.since(start);
        // With the closing quote in it a literal is the whole key: nothing longer begins with it, escaped or not.
        if literal.len() <= MAX_PREDICTED_KEY_BYTES && member < MAX_PREDICTED_MEMBERS {
            if self.predicted.len() <= member {
                // This byte never occurs in UTF-8, so what is not predicted matches nothing.
                self.predicted.resize_with(member + 1, || PredictedKey { literal: vec![0xFF], column: None });
            }
            let predicted = &mut self.predicted[member];
            predicted.literal.clear();
            predicted.literal.extend_from_slice(literal);
            predicted.column = column;
        }
        Ok(column)
    }

    fn add_absent(&mut self) -> Parse<()> {
        for (index, column) in self.columns.iter_mut().enumerate() {
            if column.len() == self.num_rows {
                self.current = Some(index);
                column.push_absent()?;
            }
        }
        Ok(())
    }
}

/// Whether the reason is about the value at which reading stopped, not about the payload.
fn concerns_a_column(reason: Reason) -> bool {
    match reason {
        Reason::DuplicateKey
        | Reason::WrongType
        | Reason::NullValue
        | Reason::MissingColumn
        | Reason::NumberOverflow
        | Reason::FractionalNumber
        | Reason::QuotedNumber
        | Reason::NonFiniteNumber
        | Reason::DecimalTooPrecise
        | Reason::InvalidTimestamp
        | Reason::NullEventTime
        | Reason::FutureEventTime => true,
        Reason::Tombstone
        | Reason::EmptyPayload
        | Reason::TooLarge
        | Reason::SchemaRegistryFraming
        | Reason::InvalidUtf8
        | Reason::NotJson
        | Reason::TruncatedJson
        | Reason::NotAnObject
        | Reason::SeveralValues
        | Reason::FailedCheck
        | Reason::SqlError
        | Reason::ForeignRecord => false,
    }
}
