//! Models as the file writes them: where one comes from, how its successors are found, and who is scored beside it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::forms::Text;
use super::super::text::TextForm;

/// A model that `score` may use.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::pipeline) struct ModelFile {
    /// A model of the registry, `models:/name@alias` or `models:/name/version`; or a LightGBM text model or a model directory: a
    /// local path, `file://` or `s3://`.
    pub(in crate::pipeline) uri: String,
    /// What `threshold('name')` says in SQL, between 0 and 1. The model's own when it is null.
    #[schemars(range(min = 0, max = 1))]
    pub(in crate::pipeline) threshold: Option<f64>,
    /// How often a run looks whether `uri` means another model now, or `never`. 30s for an alias of the registry, and never for
    /// anything else, when it is null.
    pub(in crate::pipeline) reload: Option<Text<Reload>>,
    /// A second model that is scored beside this one, and may be absent: `score('name@challenger', ...)` in SQL. It takes the same
    /// features.
    pub(in crate::pipeline) challenger: Option<String>,
}

/// How often a run looks for a model's successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Reload {
    Every(Duration),
    Never,
}

const NEVER: &str = "never";

impl TextForm for Reload {
    const FORMAT: &'static str = "tidemill-reload";
    const PATTERN: &'static str = "^(never|[0-9]+(ms|s|m|h|d))$";
    const EXPECTED: &'static str = "a duration such as 30s, or `never`";

    fn parse(text: &str) -> Result<Reload, String> {
        if text == NEVER { Ok(Reload::Never) } else { Duration::parse(text).map(Reload::Every) }
    }

    fn print(&self) -> String {
        match self {
            Reload::Every(every) => every.print(),
            Reload::Never => NEVER.to_owned(),
        }
    }
}
