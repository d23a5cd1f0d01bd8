//! What a run watches of its models, as the file writes it: drift of what is served, and labels that come later.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::forms::Text;
use super::millis;

/// Drift of what the models serve against what they were trained on, for models that have a reference profile beside them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::pipeline) struct DriftFile {
    /// Whether what is scored is counted.
    pub(in crate::pipeline) enabled: bool,
    /// Length of a window of event time: a day or more, since hours of a day differ by themselves.
    pub(in crate::pipeline) window: Text<Duration>,
    /// A window with fewer rows is not judged.
    #[schemars(range(min = 100))]
    pub(in crate::pipeline) min_rows: u64,
    /// PSI above which a difference is to be watched.
    #[schemars(range(max = 10), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) watch: f64,
    /// PSI above which a difference is far. Above `watch`.
    #[schemars(range(max = 10), extend("exclusiveMinimum" = 0))]
    pub(in crate::pipeline) act: f64,
    /// Judged windows, one after the other, in which a feature or the score must be far before it says `act`.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::pipeline) consecutive: u64,
    /// Features that are shown and not judged. Those that grow through the training rows are not judged in any case.
    pub(in crate::pipeline) ignore: Vec<String>,
}

impl Default for DriftFile {
    fn default() -> DriftFile {
        DriftFile {
            enabled: true,
            window: millis(86_400_000),
            min_rows: 5000,
            watch: 0.1,
            act: 0.2,
            consecutive: 2,
            ignore: Vec::new(),
        }
    }
}

/// Labels that come after the scores, joined to them by an id: how good the served model is, live.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct LabelsFile {
    /// The SELECT of what was served: SQL, or a file that ends in `.sql`. Its columns: `id` (text or whole number), `score`
    /// (number), `alert` (boolean), and, if wanted, `model_version` and `segment` (text).
    pub(in crate::pipeline) served: String,
    /// The SELECT of the labels, over a source of their own: `id`, and `label` (boolean, or a number: 1 is positive).
    pub(in crate::pipeline) reported: String,
    /// How long, in event time, what was served waits for its label, and a label for what was served.
    #[serde(default = "thirty_days")]
    pub(in crate::pipeline) keep: Text<Duration>,
    /// Served rows that are kept, at most; about 100 bytes each. The oldest go first.
    #[serde(default = "served_rows")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub(in crate::pipeline) max_rows: u64,
}

fn thirty_days() -> Text<Duration> {
    millis(30 * 86_400_000)
}

fn served_rows() -> u64 {
    2_000_000
}
