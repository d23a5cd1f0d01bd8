//! Stored rows for a replay or a preview: the declared columns only, with neither checks nor guard, because an archive holds
//! what was accepted. A row that cannot be one is therefore an error, which names the file and the row.

use arrow::array::RecordBatch;

use super::NoChecks;
use super::decoder::{Decoded, Decoder};
use crate::error::{Error, Result};
use crate::pipeline::settings::Source;
use crate::types::{Assignment, RecordBlock, RowBlock, StateUnit, Units, num_visible};

/// Reads rows of one source from its files, in the order in which they are given.
#[derive(Debug)]
pub struct StoredRows {
    decoder: Decoder,
}

impl StoredRows {
    /// A reader of the declared columns of `source`.
    pub fn new(source: &Source) -> Result<StoredRows> {
        let plain = Source { metadata: Vec::new(), checks: Vec::new(), event_time: None, ..source.clone() };
        Ok(StoredRows { decoder: Decoder::new(&plain, Box::new(NoChecks))? })
    }

    /// The rows of JSON lines.
    pub fn of_records(&mut self, block: &RecordBlock, units: &Units) -> Result<RecordBatch> {
        let decoded = self.decoder.decode(block, units)?;
        visible(decoded, |record| (units.get(Assignment(block.units[record])), block.offsets[record]))
    }

    /// The rows of a columnar file.
    pub fn of_rows(&mut self, rows: &RowBlock, units: &Units) -> Result<RecordBatch> {
        let decoded = self.decoder.accept_rows(rows, units)?;
        visible(decoded, |row| (units.get(rows.assignment), rows.first_offset + i64::try_from(row).unwrap_or(i64::MAX)))
    }
}

fn visible<'a>(decoded: Decoded, place: impl Fn(usize) -> (Option<&'a StateUnit>, i64)) -> Result<RecordBatch> {
    if let Some(rejected) = decoded.rejected.first() {
        let (unit, offset) = place(rejected.record);
        let file = unit.map_or("", |unit| &unit.topic);
        let detail = rejected.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return Err(Error::data(format!(
            "file {file}: row {offset}, counted from 0, is not a row of the declared columns: {}{detail}; mend the file, or the columns",
            rejected.reason
        )));
    }
    let columns: Vec<usize> = (0..num_visible(&decoded.batch)).collect();
    decoded.batch.project(&columns).map_err(|_| Error::internal("a batch lost its declared columns"))
}
