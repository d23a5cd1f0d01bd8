//! The new model beside the one in production, on the same test rows, each with its own threshold.

use std::collections::BTreeMap;

use tidemill_udfs::scorer::Model;

use super::rows::Rows;
use super::scoring::{places, scores};
use super::split::Split;
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::model::evaluation::{Bootstrap, Evaluation, PairedPrAuc, paired_pr_auc};
use crate::model::package::Package;

/// The model in production.
#[derive(Debug, Clone)]
pub struct Champion {
    /// How people know it: a path, or `models:/fraud@champion` and its version.
    pub name: String,
    /// Its files.
    pub package: Package,
}

/// How the new model compares.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// See [`Champion::name`].
    pub champion: String,
    /// The champion on the test rows, at its own threshold.
    pub evaluation: Evaluation,
    /// The areas under the precision-recall curves, and their difference.
    pub pr_auc: PairedPrAuc,
    /// Its scores of the test rows, threshold, features and hash: what the gate asks for.
    pub(super) scores: Vec<f64>,
    pub(super) threshold: f64,
    pub(super) features: Vec<String>,
    pub(super) sha256: String,
}

impl Comparison {
    /// Its figures by name.
    pub(super) fn metrics(&self) -> BTreeMap<String, f64> {
        let of_champion = self.evaluation.flat().into_iter();
        // Figures of its segments would make the record twice as long.
        let of_champion = of_champion.filter(|(name, _)| !name.contains('.') || name.starts_with("recall_at"));
        let mut metrics: BTreeMap<String, f64> =
            of_champion.map(|(name, value)| (format!("champion.{name}"), value)).collect();
        let difference = &self.pr_auc.difference;
        metrics.insert("over_champion.pr_auc".to_owned(), difference.value);
        metrics.insert("over_champion.pr_auc_low".to_owned(), difference.low);
        metrics.insert("over_champion.pr_auc_high".to_owned(), difference.high);
        metrics
    }
}

/// The new model on the test rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// Those of the rows.
    pub(super) features: &'a [String],
    pub(super) scores: &'a [f64],
    pub(super) threshold: f64,
}

/// Judges the champion on the test rows; what cannot be compared is a note. A champion that says no threshold is judged at that of
/// the candidate.
pub(super) fn compare(
    champion: &Champion,
    rows: &Rows,
    split: &Split,
    candidate: &Candidate<'_>,
    bootstrap: &Bootstrap,
    evaluate: &dyn Fn(&[f64], f64) -> Result<Evaluation>,
) -> Result<std::result::Result<Comparison, String>> {
    let context = |error: Error| error.context(format!("the champion {}", champion.name));
    let text = champion.package.model_text().map_err(context)?;
    let model = Model::parse(text)
        .map_err(|error| Error::data(format!("the champion {} cannot be read: {error}", champion.name)))?;
    let features = match places(model.feature_names(), candidate.features) {
        Ok(features) => features,
        Err(missing) => {
            return Ok(Err(format!(
                "not compared with the champion {}: it takes features that score(...) has no longer: {}",
                champion.name,
                missing.join(", ")
            )));
        }
    };
    let manifest = champion.package.manifest().map_err(context)?;
    let threshold = manifest.map_or(candidate.threshold, |manifest| manifest.threshold);
    let of_champion = scores(&model, &features, rows, split.test.clone())?;
    let view = rows.view(split.test.clone());
    let times = &rows.times[split.test.clone()];
    let pr_auc = paired_pr_auc(candidate.scores, &of_champion, view.labels, times, bootstrap);
    let evaluation = evaluate(&of_champion, threshold)?;
    Ok(Ok(Comparison {
        champion: champion.name.clone(),
        evaluation,
        pr_auc,
        scores: of_champion,
        threshold,
        features: model.feature_names().to_vec(),
        sha256: sha256_hex(text.as_bytes()),
    }))
}
