//! The reference profile: how the features and the score of a model were distributed over the rows that it was trained on, by
//! hour of day. What is served is held against it. Stands as `reference_profile.json` in the model directory, with a version.
//! It knows no model and reads no rows by itself; it never holds a value of a single row but for bin edges.

mod build;
mod compare;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tidemill_udfs::bins::Binner;

pub use build::ProfileBuilder;
pub use compare::{Distance, HOURS, HourWeights, hour_of_day, ks, psi};

use crate::error::{Error, Result};

/// Version of the document.
pub const REFERENCE_PROFILE_VERSION: u32 = 1;
/// Name of the document in a model directory.
pub const REFERENCE_PROFILE_FILE: &str = "reference_profile.json";
/// Under this name the score stands beside the features.
pub const SCORE: &str = "score";

/// The distributions that a model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceProfile {
    /// [`REFERENCE_PROFILE_VERSION`].
    pub version: u32,
    /// Rows that were counted.
    pub rows: u64,
    /// Event time of the first of them, microseconds since 1970-01-01 UTC.
    pub first_event_time: i64,
    /// Event time of the last.
    pub last_event_time: i64,
    /// Rows by hour of day, UTC.
    pub rows_by_hour: Vec<u64>,
    /// The features, in the model's order.
    pub features: Vec<ColumnProfile>,
    /// The score that the model gives to the same rows; absent for models of several classes.
    #[serde(default)]
    pub score: Option<ColumnProfile>,
}

/// The distribution of one feature, or of the score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnProfile {
    /// Name of the feature.
    pub name: String,
    /// The distinct values, when there are few: each has a bin of its own, and so has what lies between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<f64>>,
    /// Edges between bins, ascending: a bin holds what is at or above the edge before it.
    pub edges: Vec<f64>,
    /// Rows by hour of day and bin; the last place of each hour counts missing values.
    pub counts: Vec<Vec<u64>>,
    /// Why a difference is no alarm: the feature drifts by construction, or was named as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
}

impl ReferenceProfile {
    /// Reads the document, and refuses one that cannot be right.
    pub fn from_json(text: &str) -> Result<ReferenceProfile> {
        let again = "train the model again";
        let profile: ReferenceProfile = serde_json::from_str(text).map_err(|error| {
            Error::data(format!("{REFERENCE_PROFILE_FILE} is not a reference profile; {again}")).with_source(error)
        })?;
        if profile.version != REFERENCE_PROFILE_VERSION {
            return Err(Error::data(format!(
                "{REFERENCE_PROFILE_FILE} has version {}, this program reads {REFERENCE_PROFILE_VERSION}; {again}",
                profile.version
            )));
        }
        let wrong = profile.columns().find(|column| !column.is_whole()).map(|column| column.name.as_str());
        let wrong = wrong.or_else(|| (profile.rows_by_hour.len() != HOURS).then_some("rows_by_hour"));
        match wrong {
            Some(name) => Err(Error::data(format!(
                "{REFERENCE_PROFILE_FILE}: {name} does not have {HOURS} hours of counts for ascending edges; {again}"
            ))),
            None => Ok(profile),
        }
    }

    /// The document's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("a reference profile cannot be written").with_source(error))
    }

    /// The features in the model's order, then the score.
    pub fn columns(&self) -> impl Iterator<Item = &ColumnProfile> {
        self.features.iter().chain(&self.score)
    }
}

impl ColumnProfile {
    /// Bins, without that of missing values.
    #[must_use]
    pub fn num_bins(&self) -> usize {
        self.edges.len() + 1
    }

    /// What counts served values into the same bins; `None` when the edges are none.
    #[must_use]
    pub fn binner(&self) -> Option<Binner> {
        Binner::new(&self.edges)
    }

    fn is_whole(&self) -> bool {
        let has_bins = |hour: &Vec<u64>| hour.len() == self.num_bins() + 1;
        self.binner().is_some() && self.counts.len() == HOURS && self.counts.iter().all(has_bins)
    }
}
