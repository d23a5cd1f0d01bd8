//! The record of a training run, as a registry keeps it beside the model: what went in, what came out. Names and numbers
//! only; never rows.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What is recorded of a run. Times are milliseconds since 1970, UTC.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunRecord {
    /// The experiment that the run belongs to; made when it is not there.
    pub experiment: String,
    /// Its name for people.
    pub run_name: String,
    /// When training began.
    pub started_ms: i64,
    /// When it ended: the time of registration.
    pub ended_ms: i64,
    /// Settings: chosen hyper-parameters, split, seed.
    pub params: BTreeMap<String, String>,
    /// Figures, by flat name: letters, digits, `_`, `-`, `.`, `/`, `:` and blanks.
    pub metrics: BTreeMap<String, f64>,
    /// Figures that have a course: one value a step.
    pub history: Vec<MetricPoint>,
    /// Notes on the run.
    pub tags: BTreeMap<String, String>,
    /// Notes on the version.
    pub version_tags: BTreeMap<String, String>,
    /// What was trained on.
    pub dataset: Option<Dataset>,
    /// Files to look at beside the run (report, pictures), by relative path.
    pub artifacts: BTreeMap<String, Bytes>,
}

/// One value of a figure that has a course.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPoint {
    /// The figure's name.
    pub name: String,
    /// Which step, from 0.
    pub step: i64,
    /// Its value there.
    pub value: f64,
}

/// The data of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dataset {
    /// A name for people: the source's.
    pub name: String,
    /// What tells it from others: a hash of what identifies it.
    pub digest: String,
    /// Where it came from.
    pub uris: Vec<String>,
    /// Its rows.
    pub num_rows: u64,
    /// Name and type of each column.
    pub columns: Vec<(String, String)>,
}
