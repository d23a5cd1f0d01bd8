//! What people look at after a training: pictures, and one HTML file that holds everything and loads nothing. Made from the manifest and
//! the evaluation alone; computes no figure of its own. Needs the cargo feature `lightgbm`.

mod canvas;
mod html;
mod importance;
mod numbers;
mod pictures;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::canvas::{Picture, picture};
pub(super) use self::importance::gain_of_features;
use crate::error::Result;
use crate::model::evaluation::Evaluation;
use crate::model::gate::GateReport;
use crate::model::manifest::ModelManifest;

/// What a report is made from.
#[derive(Debug, Clone)]
pub struct ReportInput<'a> {
    /// The record of the training.
    pub manifest: &'a ModelManifest,
    /// On the test rows.
    pub evaluation: &'a Evaluation,
    /// Version and evaluation of the model in production, on the same rows.
    pub champion: Option<(&'a str, &'a Evaluation)>,
    /// What the gate says, if it was asked.
    pub gate: Option<&'a GateReport>,
    /// Features with the gain of their splits, in any order.
    pub importance: &'a [(String, f64)],
}

/// The files of a report, by their path in the model directory: `report.html`, `plots/NAME.png`, `plots/NAME.svg`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Path and content.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A picture with its name in files and its description for those who cannot see it.
struct Named {
    name: &'static str,
    description: String,
    picture: Picture,
}

/// Draws the pictures and writes the HTML file.
pub fn report(input: &ReportInput<'_>) -> Result<Report> {
    let pictures = pictures(input)?;
    let html = html::html(input, &pictures)?;
    let mut files = BTreeMap::from([("report.html".to_owned(), html.into_bytes())]);
    for Named { name, picture, .. } in pictures {
        files.insert(format!("plots/{name}.svg"), picture.svg.into_bytes());
        files.insert(format!("plots/{name}.png"), picture.png);
    }
    Ok(Report { files })
}

fn pictures(input: &ReportInput<'_>) -> Result<Vec<Named>> {
    let evaluation = input.evaluation;
    let at = &evaluation.at_threshold;
    let champion = input.champion.map(|(_, champion)| champion);
    let named = |name, description: String, picture| Named { name, description, picture };
    let mut pictures = vec![
        named(
            "confusion_matrix",
            format!(
                "Of the positives {} are alerts and {} are not; of the others {} are alerts and {} are not.",
                at.true_positives, at.false_negatives, at.false_positives, at.true_negatives
            ),
            picture(&pictures::ConfusionMatrix { at })?,
        ),
        named(
            "precision_recall",
            format!(
                "Precision over recall. At the threshold: precision {:.3}, recall {:.3}. Area {:.3}.",
                at.precision, at.recall, evaluation.pr_auc.value
            ),
            picture(&pictures::PrecisionRecall { evaluation, champion })?,
        ),
        named(
            "score_distribution",
            "How many rows of each label have which score.".to_owned(),
            picture(&pictures::ScoreDistribution { evaluation })?,
        ),
        named(
            "threshold_curve",
            "Precision, recall and F1 at every threshold.".to_owned(),
            picture(&pictures::ThresholdCurve { evaluation })?,
        ),
    ];
    if let Some(calibration) = &evaluation.calibration {
        let description = "The share of positives in bins of the score, beside the mean score.".to_owned();
        pictures.push(named("calibration", description, picture(&pictures::Reliability { calibration })?));
    }
    let mut features: Vec<(&str, f64)> = input.importance.iter().map(|(name, gain)| (name.as_str(), *gain)).collect();
    features.sort_by(|(a, left), (b, right)| right.total_cmp(left).then_with(|| a.cmp(b)));
    let total: f64 = features.iter().map(|(_, gain)| gain).sum();
    if total > 0.0 {
        let description = format!("The features by gain; first {}.", features[0].0);
        let drawing = pictures::Importance { features: &features, total };
        pictures.push(named("feature_importance", description, picture(&drawing)?));
    }
    Ok(pictures)
}
