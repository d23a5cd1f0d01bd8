//! The status document served at `/status`: what each worker does now. Workers write it once per epoch; a reader takes a
//! copy. One of the four places with serialised types; carries a version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::drift::DriftStatus;
use super::labels::LabelsStatus;

/// Version of the document.
pub const STATUS_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_VERSION`].
    pub version: u32,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The engine's version.
    pub engine: String,
    /// When the run started, milliseconds since 1970-01-01 UTC.
    pub started_at_ms: i64,
    /// Whether every worker holds its partitions, with its models loaded.
    pub ready: bool,
    /// What is promised.
    pub delivery: String,
    /// The models of the pipeline, challengers behind their champions.
    pub models: Vec<ModelStatus>,
    /// One entry per worker.
    pub workers: Vec<WorkerStatus>,
    /// Drift of what each model serves.
    #[serde(default)]
    pub drift: Vec<DriftStatus>,
    /// How good what was served is, where labels come.
    #[serde(default)]
    pub labels: Option<LabelsStatus>,
}

/// A model of the pipeline. A challenger that is not there has no version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Name in SQL.
    pub name: String,
    /// Where it comes from, as the pipeline file says it.
    #[serde(default)]
    pub uri: String,
    /// The alias that is followed.
    #[serde(default)]
    pub alias: Option<String>,
    /// Version that serves.
    pub version: Option<String>,
    /// The training run that it came from, where that is known.
    #[serde(default)]
    pub run_id: Option<String>,
    /// Hash of the model file.
    pub sha256: Option<String>,
    /// What `threshold` says in SQL.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// Since when this process serves it, milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub since_ms: Option<i64>,
    /// Whether it was taken from beside the checkpoints because the place that it comes from could not be read.
    #[serde(default)]
    pub is_kept_copy: bool,
    /// When its place was last looked at with success, milliseconds since 1970-01-01 UTC.
    #[serde(default)]
    pub checked_at_ms: Option<i64>,
    /// Why the last look failed; `None` after one that did not.
    #[serde(default)]
    pub check_error: Option<String>,
    /// What its place means instead, where that was refused.
    #[serde(default)]
    pub refused: Option<RefusedModel>,
}

/// A model that may not serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedModel {
    /// Its version; `None` where it has no number.
    pub version: Option<String>,
    /// When it was refused, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
}

/// What a worker has done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Number of the worker.
    pub worker: usize,
    /// Number of epochs run.
    pub epochs: u64,
    /// Whether the worker has its partitions and runs.
    pub ready: bool,
    /// Records read, decoded, rejected and late, by source.
    pub sources: BTreeMap<String, SourceCounts>,
    /// Rows given to each sink.
    pub rows_out: BTreeMap<String, u64>,
    /// Records of the last epoch.
    pub last_epoch_rows: u64,
    /// Duration of the last epoch, microseconds.
    pub last_epoch_micros: u64,
    /// When the last checkpoint was published, milliseconds since 1970-01-01 UTC.
    pub checkpoint_at_ms: Option<i64>,
    /// Duration of the last checkpoint, milliseconds.
    pub checkpoint_millis: Option<u64>,
    /// The partitions held.
    pub partitions: Vec<PartitionStatus>,
    /// What the windows hold, by operator.
    #[serde(default)]
    pub state: BTreeMap<String, StateStatus>,
    /// Versions of the models that score this worker's rows, by name.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
}

/// Where the records of a source went. `read = decoded + rejected + stale + repeated`, `late` are among the decoded (I6).
/// `replayed` are in none of these: they were counted before a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Records read.
    pub read: u64,
    /// Records that became rows.
    pub decoded: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records of a partition that was taken meanwhile; they are read again by its new owner.
    pub stale: u64,
    /// Records of an internal topic that were in it before: the stage that writes it had crashed.
    #[serde(default)]
    pub repeated: u64,
    /// Rows below W of their partition.
    pub late: u64,
    /// Records whose message key belongs to another partition, where the source's `partitioner` is known.
    #[serde(default)]
    pub misplaced: u64,
    /// Records read again after a restart, for state or for a sink that lagged; their rows are suppressed where they are out.
    #[serde(default)]
    pub replayed: u64,
}

impl SourceCounts {
    /// Adds other counts.
    pub fn add(&mut self, more: &SourceCounts) {
        self.read += more.read;
        self.decoded += more.decoded;
        self.rejected += more.rejected;
        self.stale += more.stale;
        self.repeated += more.repeated;
        self.late += more.late;
        self.misplaced += more.misplaced;
        self.replayed += more.replayed;
    }
}

/// What an operator holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStatus {
    /// Keys.
    pub keys: u64,
    /// Bytes, about.
    pub bytes: u64,
}

/// Where a partition stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Name of the source.
    pub source: String,
    /// Topic or file.
    pub topic: String,
    /// Number.
    pub partition: i32,
    /// Next offset to process.
    pub position: i64,
    /// Position in the last manifest.
    pub published: Option<i64>,
    /// First offset not yet written, as last heard.
    pub end: Option<i64>,
    /// `end - position`.
    pub lag: Option<i64>,
    /// Greatest event time seen, microseconds since 1970-01-01 UTC.
    pub watermark_micros: Option<i64>,
}

/// The document, shared between workers and readers.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard(Arc<Mutex<Status>>);

impl StatusBoard {
    /// A board for a run.
    #[must_use]
    pub fn new(pipeline: &str, delivery: &str, workers: usize, started_at_ms: i64) -> StatusBoard {
        let workers = (0..workers).map(|worker| WorkerStatus { worker, ..WorkerStatus::default() }).collect();
        StatusBoard(Arc::new(Mutex::new(Status {
            version: STATUS_VERSION,
            pipeline: pipeline.to_owned(),
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms,
            delivery: delivery.to_owned(),
            workers,
            ..Status::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // A reader that panicked cannot have left it half written: it only copies.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A copy of the document.
    #[must_use]
    pub fn read(&self) -> Status {
        let mut status = self.lock().clone();
        status.ready = !status.workers.is_empty() && status.workers.iter().all(|worker| worker.ready);
        status
    }

    /// Changes what a worker says.
    pub fn update(&self, worker: usize, change: impl FnOnce(&mut WorkerStatus)) {
        if let Some(worker) = self.lock().workers.get_mut(worker) {
            change(worker);
        }
    }

    /// Says how far what is served is from what the models were trained on.
    pub fn set_drift(&self, drift: Vec<DriftStatus>) {
        self.lock().drift = drift;
    }

    /// Says how good what was served is.
    pub fn set_labels(&self, labels: LabelsStatus) {
        self.lock().labels = Some(labels);
    }

    /// Says which models the pipeline has.
    pub fn set_models(&self, models: Vec<ModelStatus>) {
        self.lock().models = models;
    }

    /// Changes what is said of a model.
    pub fn update_model(&self, name: &str, change: impl FnOnce(&mut ModelStatus)) {
        if let Some(model) = self.lock().models.iter_mut().find(|model| model.name == name) {
            change(model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_ready_when_every_worker_is() {
        let board = StatusBoard::new("p", "at_least_once", 2, 0);
        assert!(!board.read().ready);
        board.update(0, |worker| worker.ready = true);
        assert!(!board.read().ready);
        board.update(1, |worker| worker.ready = true);
        assert!(board.read().ready);
    }
}
