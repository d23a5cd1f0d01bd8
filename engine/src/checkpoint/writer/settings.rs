//! What is to be known of a pipeline before its checkpoints are opened. Data only.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::checkpoint::store::RetryPolicy;

/// The time, for people.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What [`Checkpoints::open`] needs to know.
#[derive(Clone)]
pub struct CheckpointSettings {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Folder, as a URI.
    pub path: String,
    /// Names of all sinks of the pipeline.
    pub sinks: Vec<String>,
    /// Manifests kept per unit, beside those that fencing needs; at least one is.
    pub retain: usize,
    /// Name of this host, for people.
    pub host: String,
    /// The time.
    pub clock: WallClock,
    /// For doubtful results.
    pub retry: RetryPolicy,
}

impl fmt::Debug for CheckpointSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointSettings")
            .field("pipeline", &self.pipeline)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
