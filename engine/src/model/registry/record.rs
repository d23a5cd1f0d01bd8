//! The record of a training run, as a registry keeps it beside the model: what went in, what came out. Names and numbers
//! only; never rows.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::checkpoint::sha256_hex;
use crate::error::Result;
use crate::model::manifest::{ModelManifest, Part};
use crate::model::package::Package;

/// Digits of a hash that tell one from another.
const DIGEST_DIGITS: usize = 16;

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

impl RunRecord {
    /// The record of a training, from the model manifest that it left; what is not in it stays empty. Times are the
    /// caller's, since a manifest has none.
    pub fn of_package(name: &str, package: &Package, now_ms: i64) -> Result<RunRecord> {
        let mut record = RunRecord {
            experiment: name.to_owned(),
            started_ms: now_ms,
            ended_ms: now_ms,
            artifacts: package.report_files(),
            ..RunRecord::default()
        };
        let sha256 = sha256_hex(package.model_text()?.as_bytes());
        record.version_tags.insert("sha256".to_owned(), sha256);
        if let Some(manifest) = package.manifest()? {
            record.add_manifest(&manifest);
        }
        Ok(record)
    }

    fn add_manifest(&mut self, manifest: &ModelManifest) {
        self.run_name = manifest.run.clone().unwrap_or_default();
        self.metrics = manifest.metrics.clone();
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.params = manifest.parameters.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
        let parts = &manifest.parts;
        for (part, Part { rows, positives, from, until }) in
            [("train", &parts.train), ("validation", &parts.validation), ("test", &parts.test)]
        {
            self.params.insert(format!("{part}/rows"), rows.to_string());
            self.params.insert(format!("{part}/positives"), positives.to_string());
            self.params.insert(format!("{part}/from"), from.clone());
            self.params.insert(format!("{part}/until"), until.clone());
        }
        for (name, value) in [
            ("seed", manifest.seed.to_string()),
            ("imbalance", manifest.imbalance.clone()),
            ("label", manifest.label.clone()),
            ("search/trials", manifest.search.trials.to_string()),
        ] {
            self.params.insert(name.to_owned(), value);
        }
        let tags = [
            ("threshold", manifest.threshold.to_string()),
            ("threshold_policy", manifest.threshold_policy.to_string()),
            ("sql_fingerprint", manifest.sql_fingerprint.clone()),
            ("tidemill_version", manifest.versions.tidemill.clone()),
        ];
        self.version_tags.extend(tags.map(|(name, value)| (name.to_owned(), value)));
        // What tells one data set from another: the places, and how many rows were there.
        let identity: String = manifest
            .data
            .iter()
            .map(|data| format!("{} {} {} {}\n", data.source, data.uri, data.order, data.rows))
            .collect();
        self.dataset = Some(Dataset {
            name: manifest.data.iter().map(|data| data.source.as_str()).collect::<Vec<_>>().join(", "),
            digest: sha256_hex(identity.as_bytes()).chars().take(DIGEST_DIGITS).collect(),
            uris: manifest.data.iter().map(|data| data.uri.clone()).collect(),
            num_rows: manifest.data.iter().map(|data| data.rows).sum(),
            columns: manifest.features.iter().map(|name| (name.clone(), "Float64".to_owned())).collect(),
        });
    }
}
