//! What is known of a trained model beside its text: how it was made, its threshold, how good it was. Stands as JSON beside
//! the model file. Carries a version.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evaluation::Quality;
use crate::error::{Error, Result};

/// Version of the document.
pub const MODEL_MANIFEST_VERSION: u32 = 1;

/// The document beside a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// [`MODEL_MANIFEST_VERSION`].
    pub version: u32,
    /// Name in SQL.
    pub model: String,
    /// Hash of the model file.
    pub sha256: String,
    /// Features in the model's order.
    pub features: Vec<String>,
    /// The score from which on the decision is yes.
    pub threshold: f64,
    /// How the threshold was found.
    pub threshold_policy: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Rows trained on, validated on, tested on, in the order of event time.
    pub rows: [u64; 3],
    /// Positives among them.
    pub positives: [u64; 3],
    /// On the test rows, which nothing was chosen on.
    pub test: Quality,
}

impl ModelManifest {
    /// Where the manifest of a model file is: `fraud.txt` has `fraud.json`.
    #[must_use]
    pub fn path_of(model: &Path) -> PathBuf {
        model.with_extension("json")
    }

    /// Reads the manifest of a model file; `None` when there is none.
    pub fn read(model: &Path) -> Result<Option<ModelManifest>> {
        let path = ModelManifest::path_of(model);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::unavailable(format!("{} cannot be read", path.display())).with_source(error));
            }
        };
        let manifest: ModelManifest = serde_json::from_str(&text).map_err(|error| {
            Error::data(format!("{} is not a model's manifest; train the model again", path.display()))
                .with_source(error)
        })?;
        if manifest.version != MODEL_MANIFEST_VERSION {
            return Err(Error::data(format!(
                "{} has version {}, this program reads {MODEL_MANIFEST_VERSION}; train the model again",
                path.display(),
                manifest.version
            )));
        }
        Ok(Some(manifest))
    }

    /// The document's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("a model's manifest cannot be written").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> ModelManifest {
        ModelManifest {
            version: MODEL_MANIFEST_VERSION,
            model: "fraud".into(),
            sha256: "ab".into(),
            features: vec!["amount".into()],
            threshold: 0.25,
            threshold_policy: "quantile 0.995 of the validation scores".into(),
            seed: 42,
            rows: [7, 2, 1],
            positives: [1, 1, 1],
            test: Quality { pr_auc: 0.5, precision: 0.25, recall: 1.0 },
        }
    }

    #[test]
    fn version_1_is_read_as_it_was_written() {
        let golden = r#"{"version":1,"model":"fraud","sha256":"ab","features":["amount"],"threshold":0.25,
            "threshold_policy":"quantile 0.995 of the validation scores","seed":42,"rows":[7,2,1],"positives":[1,1,1],
            "test":{"pr_auc":0.5,"precision":0.25,"recall":1.0}}"#;
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("fraud.txt");
        std::fs::write(ModelManifest::path_of(&model), golden).unwrap();
        assert_eq!(ModelManifest::read(&model).unwrap(), Some(manifest()));
        std::fs::write(ModelManifest::path_of(&model), manifest().to_json().unwrap()).unwrap();
        assert_eq!(ModelManifest::read(&model).unwrap(), Some(manifest()));
    }

    #[test]
    fn a_manifest_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("fraud.txt");
        let text = ModelManifest { version: 2, ..manifest() }.to_json().unwrap();
        std::fs::write(ModelManifest::path_of(&model), text).unwrap();
        assert_eq!(ModelManifest::read(&model).unwrap_err().kind(), crate::ErrorKind::Data);
    }
}
