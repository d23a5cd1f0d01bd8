//! What is known of a trained model beside its text: how it was made, on which rows, its threshold, how good it was. It is
//! `tidemill.json` of a model directory. Carries a version, and is read without the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::ThresholdPolicy;

/// Version of the document.
pub const MODEL_MANIFEST_VERSION: u32 = 2;
/// The manifest's name in a model directory.
pub const MANIFEST_FILE: &str = "tidemill.json";
/// The name of a model's text in a model directory that we write.
pub const MODEL_FILE: &str = "model.lgb";

/// The document beside a model. It says on what the model was trained, not when: the same training gives the same document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// [`MODEL_MANIFEST_VERSION`].
    pub version: u32,
    /// Name in SQL.
    pub model: String,
    /// What the caller calls this training (`--run`).
    pub run: Option<String>,
    /// Hash of the model's text.
    pub sha256: String,
    /// Features in the model's order.
    pub features: Vec<String>,
    /// The column that says what is positive.
    pub label: String,
    /// The column of money, if one is named.
    pub amount: Option<String>,
    /// Columns by whose values the model is judged apart.
    pub segments: Vec<String>,
    /// The score from which on the decision is yes: what `threshold('NAME')` says.
    pub threshold: f64,
    /// How the threshold was found.
    pub threshold_policy: ThresholdPolicy,
    /// Seed of everything random.
    pub seed: u64,
    /// The rows that it learnt from, was chosen on, and was tested on.
    pub parts: Parts,
    /// Hash of the SQL that the features depend on.
    pub sql_fingerprint: String,
    /// What was read.
    pub data: Vec<TrainingData>,
    /// What made it.
    pub versions: Versions,
    /// LightGBM's parameters, as they were given to it.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// How the imbalance of the labels was treated.
    pub imbalance: String,
    /// How the parameters were found.
    pub search: Search,
    /// Figures of the test rows by the names of [`super::evaluation::Evaluation::flat`]; those of other rows and models have a
    /// prefix: `validation.pr_auc`, `champion.pr_auc`.
    pub metrics: BTreeMap<String, f64>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The rows of a training by what they were used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Learnt from.
    pub train: Part,
    /// Left out between training and validation, because their labels would not have been there.
    pub gap: Part,
    /// Where learning stopped, and the threshold was chosen.
    pub validation: Part,
    /// Nothing was chosen on these.
    pub test: Part,
}

/// Rows of a half-open range of event time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Rows.
    pub rows: u64,
    /// Positives among them.
    pub positives: u64,
    /// First event time that may be in it, RFC 3339.
    pub from: String,
    /// First event time behind it.
    pub until: String,
}

/// Rows that were read for one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingData {
    /// The source's name.
    pub source: String,
    /// Where they were.
    pub uri: String,
    /// The order in which they were read: `as served`, `by event time`, ...
    pub order: String,
    /// How many records.
    pub rows: u64,
    /// How many of these were rejected.
    pub rejected: u64,
}

/// Versions of what made a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Of this program.
    pub tidemill: String,
    /// Of LightGBM.
    pub lightgbm: String,
}

/// A search of parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Sets of parameters that were tried beside the defaults.
    pub trials: u64,
    /// Folds that each was tried on; 0 without a search.
    pub folds: u64,
    /// Mean average precision of the chosen set over the folds.
    pub average_precision: Option<f64>,
    /// The same, of the defaults.
    pub of_defaults: Option<f64>,
}

impl ModelManifest {
    /// Where the manifest of a model is: in its directory; of a model file on its own, `fraud.txt`, in `fraud.json`.
    #[must_use]
    pub fn path_of(model: &Path) -> PathBuf {
        if model.is_dir() {
            return model.join(MANIFEST_FILE);
        }
        match model.file_name() {
            Some(name) if name == MODEL_FILE => model.with_file_name(MANIFEST_FILE),
            _ => model.with_extension("json"),
        }
    }

    /// Reads the manifest of a model directory or file; `None` when there is none.
    pub fn read(model: &Path) -> Result<Option<ModelManifest>> {
        let path = ModelManifest::path_of(model);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::unavailable(format!("{} cannot be read", path.display())).with_source(error));
            }
        };
        ModelManifest::parse(&text).map(Some).map_err(|error| error.context(path.display().to_string()))
    }

    /// A manifest from its text.
    pub fn parse(text: &str) -> Result<ModelManifest> {
        let not_one = |error| Error::data("this is not a model's manifest; train the model again").with_source(error);
        let value: serde_json::Value = serde_json::from_str(text).map_err(not_one)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(MODEL_MANIFEST_VERSION) => Err(Error::data(format!(
                "the model's manifest has version {version}, this program reads {MODEL_MANIFEST_VERSION}; train the model again"
            ))),
            _ => serde_json::from_value(value).map_err(not_one),
        }
    }

    /// A figure of its test rows by its name: `pr_auc`, `precision`, `recall`, ...
    #[must_use]
    pub fn test_metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// The document's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("a model's manifest cannot be written").with_source(error))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest for tests.
    pub(crate) fn manifest() -> ModelManifest {
        let part = |rows, from: &str, until: &str| Part { rows, positives: 1, from: from.into(), until: until.into() };
        ModelManifest {
            version: MODEL_MANIFEST_VERSION,
            model: "fraud".into(),
            run: None,
            sha256: "ab".into(),
            features: vec!["amount".into()],
            label: "is_fraud".into(),
            amount: Some("amount".into()),
            segments: vec!["region".into()],
            threshold: 0.25,
            threshold_policy: ThresholdPolicy::AlertBudget { per_day: 100.0 },
            seed: 42,
            parts: Parts {
                train: part(7, "2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z"),
                gap: Part::default(),
                validation: part(2, "2026-01-08T00:00:00Z", "2026-01-10T00:00:00Z"),
                test: part(1, "2026-01-10T00:00:00Z", "2026-01-11T00:00:00Z"),
            },
            sql_fingerprint: "cd".into(),
            data: vec![TrainingData {
                source: "transactions".into(),
                uri: "history/".into(),
                order: "as served".into(),
                rows: 10,
                rejected: 0,
            }],
            versions: Versions { tidemill: "0.1.0".into(), lightgbm: "4.6.0".into() },
            parameters: BTreeMap::from([("num_leaves".into(), 31.into())]),
            imbalance: "none".into(),
            search: Search { trials: 2, folds: 3, average_precision: Some(0.5), of_defaults: Some(0.25) },
            metrics: BTreeMap::from([("pr_auc".into(), 0.5)]),
            notes: Vec::new(),
        }
    }

    const GOLDEN: &str = r#"{"version":2,"model":"fraud","run":null,"sha256":"ab","features":["amount"],"label":"is_fraud",
        "amount":"amount","segments":["region"],"threshold":0.25,
        "threshold_policy":{"policy":"alert_budget","per_day":100.0},"seed":42,"parts":{
        "train":{"rows":7,"positives":1,"from":"2026-01-01T00:00:00Z","until":"2026-01-08T00:00:00Z"},
        "gap":{"rows":0,"positives":0,"from":"","until":""},
        "validation":{"rows":2,"positives":1,"from":"2026-01-08T00:00:00Z","until":"2026-01-10T00:00:00Z"},
        "test":{"rows":1,"positives":1,"from":"2026-01-10T00:00:00Z","until":"2026-01-11T00:00:00Z"}},
        "sql_fingerprint":"cd",
        "data":[{"source":"transactions","uri":"history/","order":"as served","rows":10,"rejected":0}],
        "versions":{"tidemill":"0.1.0","lightgbm":"4.6.0"},"parameters":{"num_leaves":31},"imbalance":"none",
        "search":{"trials":2,"folds":3,"average_precision":0.5,"of_defaults":0.25},
        "metrics":{"pr_auc":0.5},"notes":[]}"#;

    #[test]
    fn version_2_is_read_as_it_was_written() {
        assert_eq!(ModelManifest::parse(GOLDEN).unwrap(), manifest());
        assert_eq!(ModelManifest::parse(&manifest().to_json().unwrap()).unwrap(), manifest());
        assert_eq!(manifest().test_metric("pr_auc"), Some(0.5));
    }

    #[test]
    fn a_manifest_stands_in_its_directory_or_beside_its_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ModelManifest::read(folder.path()).unwrap(), None);
        let model = folder.path().join(MODEL_FILE);
        for path in [folder.path(), model.as_path(), &folder.path().join("fraud.txt")] {
            std::fs::write(ModelManifest::path_of(path), GOLDEN).unwrap();
            assert_eq!(ModelManifest::read(path).unwrap(), Some(manifest()));
        }
        assert!(folder.path().join("tidemill.json").exists() && folder.path().join("fraud.json").exists());
    }

    #[test]
    fn a_manifest_of_another_version_is_refused_by_that() {
        let error =
            ModelManifest::parse(r#"{"version":1,"model":"fraud","threshold_policy":"a quantile"}"#).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data);
        assert!(error.to_string().contains("version 1, this program reads 2"), "{error}");
        assert_eq!(ModelManifest::parse("{}").unwrap_err().kind(), crate::ErrorKind::Data);
    }
}
