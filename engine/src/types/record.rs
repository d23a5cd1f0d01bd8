//! Records as they come from a source: columns of bytes in shared buffers, no allocation per record; or rows, from a source
//! that has columns already.

use arrow::array::RecordBatch;

use super::unit::Assignment;

/// Byte strings, one after the other in one buffer; each may be absent.
#[derive(Debug, Clone, Default)]
pub struct BytesColumn {
    data: Vec<u8>,
    ends: Vec<usize>,
    /// Indices of the absent ones, ascending.
    absent: Vec<usize>,
}

impl BytesColumn {
    /// An empty column with room for `records` strings of `bytes` in all.
    #[must_use]
    pub fn with_capacity(records: usize, bytes: usize) -> BytesColumn {
        BytesColumn { data: Vec::with_capacity(bytes), ends: Vec::with_capacity(records), absent: Vec::new() }
    }

    /// Appends a byte string or its absence.
    pub fn push(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.data.extend_from_slice(bytes),
            None => self.absent.push(self.ends.len()),
        }
        self.ends.push(self.data.len());
    }

    /// The byte string at `index`; `None` when it is absent.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if self.absent.binary_search(&index).is_ok() {
            return None;
        }
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.data[start..self.ends[index]])
    }

    /// Number of byte strings, absent ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether some are absent.
    #[must_use]
    pub fn has_absent(&self) -> bool {
        !self.absent.is_empty()
    }

    /// All bytes, in order, and where each string ends.
    #[must_use]
    pub fn as_parts(&self) -> (&[u8], &[usize]) {
        (&self.data, &self.ends)
    }

    /// Bytes held.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.data.len()
    }

    /// Empties it and keeps its buffers.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
        self.absent.clear();
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: &BytesColumn) {
        let (rows, bytes) = (self.ends.len(), self.data.len());
        self.data.extend_from_slice(&other.data);
        self.ends.extend(other.ends.iter().map(|end| end + bytes));
        self.absent.extend(other.absent.iter().map(|index| index + rows));
    }
}

/// The headers of each record: name and value (which may be absent), in their order, duplicates kept.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// Header `i` of the block belongs to the record `r` with `ends[r - 1] <= i < ends[r]`.
    ends: Vec<usize>,
    names: BytesColumn,
    values: BytesColumn,
}

impl Headers {
    /// Adds a header to the record that the next [`Headers::end_record`] ends.
    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        self.names.push(Some(name.as_bytes()));
        self.values.push(value);
    }

    /// Ends a record. Called once per record.
    pub fn end_record(&mut self) {
        self.ends.push(self.names.len());
    }

    /// The headers of record `index`: (name, value). Names are UTF-8 as they were pushed.
    pub fn of(&self, index: usize) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        (start..self.ends[index]).map(|header| (self.names.get(header).unwrap_or_default(), self.values.get(header)))
    }

    fn append(&mut self, other: &Headers) {
        let headers = self.names.len();
        self.ends.extend(other.ends.iter().map(|end| end + headers));
        self.names.append(&other.names);
        self.values.append(&other.values);
    }
}

/// Records of one source, over all its partitions, in the order in which they came; those of one partition stand in the
/// order of their offsets. All columns have one entry per record.
#[derive(Debug, Clone, Default)]
pub struct RecordBlock {
    /// [`crate::types::Assignment`] number of the partition.
    pub units: Vec<u32>,
    /// The record's own offset.
    pub offsets: Vec<i64>,
    /// Broker timestamp, milliseconds since the epoch; -1 when the record has none.
    pub timestamps_ms: Vec<i64>,
    /// Message keys.
    pub keys: BytesColumn,
    /// Payloads; an absent one is a tombstone.
    pub values: BytesColumn,
    /// Headers.
    pub headers: Headers,
}

impl RecordBlock {
    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Bytes of keys and payloads.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.keys.num_bytes() + self.values.num_bytes()
    }

    /// A copy of some records, in their order.
    #[must_use]
    pub fn slice(&self, records: std::ops::Range<usize>) -> RecordBlock {
        let mut slice = RecordBlock::default();
        for record in records {
            slice.units.push(self.units[record]);
            slice.offsets.push(self.offsets[record]);
            slice.timestamps_ms.push(self.timestamps_ms[record]);
            slice.keys.push(self.keys.get(record));
            slice.values.push(self.values.get(record));
            for (name, value) in self.headers.of(record) {
                slice.headers.push(std::str::from_utf8(name).unwrap_or_default(), value);
            }
            slice.headers.end_record();
        }
        slice
    }

    /// Appends all records of `other`.
    pub fn append(&mut self, other: &RecordBlock) {
        self.units.extend_from_slice(&other.units);
        self.offsets.extend_from_slice(&other.offsets);
        self.timestamps_ms.extend_from_slice(&other.timestamps_ms);
        self.keys.append(&other.keys);
        self.values.append(&other.values);
        self.headers.append(&other.headers);
    }
}

/// Rows of one partition of a source that has columns already (Parquet), in the order of their offsets, without gaps.
#[derive(Debug, Clone)]
pub struct RowBlock {
    /// The partition.
    pub assignment: Assignment,
    /// Offset of the first row.
    pub first_offset: i64,
    /// Columns as the source has them.
    pub batch: RecordBatch,
}

impl RowBlock {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// Some of the rows, in their order, without a copy.
    #[must_use]
    pub fn slice(&self, rows: std::ops::Range<usize>) -> RowBlock {
        RowBlock {
            assignment: self.assignment,
            first_offset: self.first_offset + rows.start as i64,
            batch: self.batch.slice(rows.start, rows.len()),
        }
    }

    /// The rows as records: positions, but neither key nor payload, headers nor timestamp.
    #[must_use]
    pub fn to_records(&self) -> RecordBlock {
        let mut records = RecordBlock::default();
        for (_, offset) in (0..self.len()).zip(self.first_offset..) {
            records.units.push(self.assignment.0);
            records.offsets.push(offset);
            records.timestamps_ms.push(-1);
            records.keys.push(None);
            records.values.push(None);
            records.headers.end_record();
        }
        records
    }
}
