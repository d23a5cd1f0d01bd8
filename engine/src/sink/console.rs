//! Rows as JSON lines to a writer: standard output, or a buffer in tests. What is flushed is out; nothing is kept.

use std::io::Write;

use arrow::array::RecordBatch;

use super::json_rows::JsonRows;
use super::{PrepareRequest, PreparedUnit, Sink};
use crate::error::{Error, Result};
use crate::types::{Assignment, Offset, StateUnit, Units};

/// See the module.
pub struct ConsoleSink<W> {
    writer: W,
    rows: JsonRows,
    preparing: Option<PrepareRequest>,
}

impl<W> std::fmt::Debug for ConsoleSink<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleSink").finish_non_exhaustive()
    }
}

impl ConsoleSink<std::io::Stdout> {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        ConsoleSink::new(std::io::stdout())
    }
}

impl<W: Write + Send> ConsoleSink<W> {
    /// Writes to `writer`.
    pub fn new(writer: W) -> ConsoleSink<W> {
        ConsoleSink { writer, rows: JsonRows::default(), preparing: None }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::unavailable("standard output takes no more rows; is the reader of the pipe gone?").with_source(error)
}

impl<W: Write + Send> Sink for ConsoleSink<W> {
    /// Lines have no ranges.
    fn take_over(&mut self, _assignment: Assignment, _unit: &StateUnit, _covered: Offset) {}

    fn write(&mut self, batch: &RecordBatch, _units: &Units) -> Result<()> {
        self.rows.encode(batch)?;
        let mut text = Vec::new();
        for row in 0..self.rows.len() {
            text.extend_from_slice(self.rows.row(row));
            text.push(b'\n');
        }
        // One call, so that lines of several workers do not mix.
        self.writer.write_all(&text).and_then(|()| self.writer.flush()).map_err(failed)
    }

    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()> {
        match self.preparing.replace(request) {
            None => Ok(()),
            Some(_) => Err(Error::internal("a console sink was asked to prepare while it prepares")),
        }
    }

    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>> {
        Ok(self.preparing.take().map(PrepareRequest::without_files))
    }

    fn forget(&mut self, _units: &[Assignment]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::recorded::tests::numbered_rows;

    #[test]
    fn rows_are_lines_of_json() {
        let mut sink = ConsoleSink::new(Vec::new());
        sink.write(&numbered_rows(Assignment(3), 0..2), &Units::default()).unwrap();
        assert_eq!(sink.writer, b"{\"n\":0}\n{\"n\":1}\n");
    }

    #[test]
    fn what_was_written_is_prepared_at_once() {
        let mut sink = ConsoleSink::new(Vec::new());
        assert_eq!(sink.poll_prepared().unwrap(), None);
        let unit = StateUnit { source: "s".into(), topic: "t".into(), partition: 0 };
        let upto = vec![(Assignment(3), Offset::after(9), unit)];
        sink.begin_prepare(PrepareRequest { upto, close: vec![] }).unwrap();
        let prepared = sink.poll_prepared().unwrap().unwrap();
        assert_eq!((prepared[0].assignment, prepared[0].position.get()), (Assignment(3), 10));
        assert_eq!(sink.poll_prepared().unwrap(), None);
    }
}
