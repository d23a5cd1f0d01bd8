//! Sinks: where rows go. A sink takes rows at the driver's pace, says when what it took is durable, and never decides what
//! is committed: under protocol F the manifest's creation is the commit, and what a sink prepared is finished by
//! `checkpoint` from the manifest alone, the same way after a crash.
//!
//! What a sink owes: rows of one state unit keep their order; [`PreparedUnit`] is given only when everything up to the reported
//! positions is acknowledged or stored; nothing becomes visible of files before the manifest that names them.

pub mod console;
pub(crate) mod json_rows;
pub mod kafka;
pub mod parquet;
pub mod recorded;

use arrow::array::RecordBatch;

use crate::error::Result;
use crate::types::{Assignment, Offset, OffsetRange, StateUnit, Units, Watermark};

/// A file written where readers do not look; it gets its final name after the commit. In the manifest as it stands here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StagedFile {
    /// The sink's folder, as a URI.
    pub folder: String,
    /// Path below the folder where the file is now: `_staging/...`.
    pub staged: String,
    /// Path below the folder that it gets; says unit and range.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// The unit's offsets whose rows are in it.
    pub range: OffsetRange,
}

/// What a sink has durable for one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedUnit {
    /// The unit.
    pub assignment: Assignment,
    /// Rows of records below it are out for good once the manifest is published.
    pub position: Offset,
    /// W before the record at `position`, when that lies below where the unit's rows were written up to; `None` when the
    /// position is just there, where the driver knows W. A restart begins at the smallest position, with its W.
    pub watermark: Option<Watermark>,
    /// Of a sink of files: where the ranges of its files so far end, which may lie below the position.
    pub covered: Option<Offset>,
    /// Files to be renamed after that.
    pub files: Vec<StagedFile>,
}

/// A checkpoint's request to a sink.
#[derive(Debug, Clone)]
pub struct PrepareRequest {
    /// Up to where each unit's rows were written to the sink.
    pub upto: Vec<(Assignment, Offset, StateUnit)>,
    /// Units whose buffers must go out now, full or not: those that are revoked, or all at a stop.
    pub close: Vec<Assignment>,
}

impl PrepareRequest {
    /// The answer of a sink that writes no files and has everything out.
    #[must_use]
    pub fn without_files(self) -> Vec<PreparedUnit> {
        let prepared = |(assignment, position, _)| PreparedUnit {
            assignment,
            position,
            watermark: None,
            covered: None,
            files: Vec::new(),
        };
        self.upto.into_iter().map(prepared).collect()
    }
}

/// Where rows go.
pub trait Sink: Send + std::fmt::Debug {
    /// A unit is ours from now on: its rows come next. The ranges of the files that were made of it end at `covered`, so
    /// that is where the next one begins, whatever its first row is: records that became no row lie in some range too.
    fn take_over(&mut self, assignment: Assignment, unit: &StateUnit, covered: Offset);

    /// Takes rows: visible columns, then the hidden ones (`types::position`). After `Ok` the sink owns them. It may wait
    /// for room in its queue (backpressure), never without bound: then `Unavailable`.
    fn write(&mut self, batch: &RecordBatch, units: &Units) -> Result<()>;

    /// Begins to make durable what was written so far. One at a time; later writes do not belong to it.
    fn begin_prepare(&mut self, request: PrepareRequest) -> Result<()>;

    /// What became durable; `None` while something is outstanding. Does not wait. One entry per unit of the request.
    fn poll_prepared(&mut self) -> Result<Option<Vec<PreparedUnit>>>;

    /// Forgets what is buffered of units that are somebody else's now.
    fn forget(&mut self, units: &[Assignment]);
}
