//! What a run watches of its models, as settings that cannot be wrong.

use std::time::Duration;

use super::settings::SqlText;

/// When served rows differ so much from what a model was trained on that somebody should look, or act.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// Whether what is scored is counted.
    pub is_enabled: bool,
    /// Length of a window of event time.
    pub window: Duration,
    /// A window with fewer rows is not judged.
    pub min_rows: u64,
    /// PSI above which a difference is to be watched.
    pub watch: f64,
    /// PSI above which a difference is far.
    pub act: f64,
    /// Judged windows in a row in which a column must be far.
    pub consecutive: usize,
    /// Features that are not judged.
    pub ignore: Vec<String>,
}

impl Default for Drift {
    fn default() -> Drift {
        Drift {
            is_enabled: true,
            window: Duration::from_secs(86_400),
            min_rows: 5000,
            watch: 0.1,
            act: 0.2,
            consecutive: 2,
            ignore: Vec::new(),
        }
    }
}

/// Labels that come after the scores.
#[derive(Debug, Clone)]
pub struct Labels {
    /// The SELECT of what was served.
    pub served: SqlText,
    /// The SELECT of the labels.
    pub reported: SqlText,
    /// How long either waits for the other, in event time.
    pub keep: Duration,
    /// Served rows that are kept, at most.
    pub max_rows: usize,
}

/// The two sides of the join of scores and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelSide {
    /// What was served.
    Served,
    /// Labels.
    Reported,
}
