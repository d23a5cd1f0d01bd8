//! The gate on rows: at the end of a training, and again on stored rows for two versions that exist. Makes the rows and scores that the
//! pure decision in `model::gate` asks for. Both models get the same rows, made by the pipeline's views as they are now.

use std::collections::BTreeMap;
use std::ops::Range;

use tidemill_udfs::scorer::Model;

use super::features::feature_query;
use super::rows::{Collector, Rows};
use super::scoring::{places, scores};
use super::split::Split;
use super::{Champion, bootstrap, budget};
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::model::evaluation::{Categories, Examples};
use crate::model::gate::{Contender, GateReport, GateRules, decide};
use crate::model::manifest::ModelManifest;
use crate::pipeline::settings::{Gate, Pipeline, Training};
use crate::replay::{Input, select_each};

/// A model with its scores.
pub(super) type Judge<'a> = Contender<'a>;

/// Two versions, and the rows to judge them on.
#[derive(Debug)]
pub struct Rescore<'a> {
    /// The pipeline whose views make the features.
    pub pipeline: &'a Pipeline,
    /// Its `training` section.
    pub training: &'a Training,
    /// For stores and brokers.
    pub environment: &'a BTreeMap<String, String>,
    /// Rows of the sources.
    pub inputs: &'a [Input],
    /// The version that would be promoted.
    pub candidate: &'a Champion,
    /// The version in production.
    pub champion: Option<&'a Champion>,
}

/// The rules of a pipeline file.
fn rules(training: &Training) -> GateRules {
    let Gate {
        positives,
        pr_auc_margin,
        recall_margin,
        segment_margin,
        pr_auc_gain,
        pr_auc_least,
        recall_least,
        is_calibrated,
        scoring_micros,
        feature_changes,
    } = training.gate.clone();
    let usual = GateRules::default();
    GateRules {
        positives_least: positives,
        pr_auc_margin,
        recall_margin,
        segment_margin,
        calibration_factor: usual.calibration_factor.filter(|_| is_calibrated),
        scoring_micros_most: scoring_micros,
        feature_changes: Some(feature_changes),
        pr_auc_least,
        recall_least,
        pr_auc_gain,
        alerts_per_day: budget(training),
        bootstrap: bootstrap(training),
        ..usual
    }
}

/// Decides on some of the rows.
pub(super) fn decided(
    training: &Training,
    rows: &Rows,
    part: &Range<usize>,
    candidate: &Judge<'_>,
    champion: Option<&Judge<'_>>,
) -> Result<GateReport> {
    let (kinds, segments) = (rows.kinds(part.clone()), rows.segments(part));
    let names = training.segments.iter().map(String::as_str);
    let segments: Vec<(&str, &Categories)> = names.zip(&segments).collect();
    let examples = Examples {
        scores: candidate.scores,
        labels: rows.view(part.clone()).labels,
        times: &rows.times[part.clone()],
        amounts: rows.amounts(part.clone()),
        kinds: kinds.as_ref(),
        segments,
    };
    decide(&examples, candidate, champion, &rules(training))
}

/// A model ready to score the rows.
struct Scored {
    scores: Vec<f64>,
    features: Vec<String>,
    sha256: String,
    threshold: f64,
}

/// Makes the rows of the candidate's test period again, and decides on them.
pub fn rescore(request: &Rescore<'_>) -> Result<GateReport> {
    let training = request.training;
    let query = feature_query(request.pipeline, training)?;
    let manifest = request.candidate.package.manifest()?;
    let within = match &manifest {
        Some(manifest) => test_period(manifest)?,
        None => i64::MIN..i64::MAX,
    };
    let mut collector = Collector::new(&query, within);
    select_each(
        request.pipeline,
        request.environment,
        request.inputs,
        &query.select,
        |batch| collector.push(&batch),
        |_| {},
    )?;
    let rows = collector.finish();
    if rows.num_rows() == 0 {
        return Err(Error::data(format!(
            "the inputs have no labelled rows in the test period of {} ({}); give the history that it was tested on",
            request.candidate.name,
            manifest.map_or_else(String::new, |found| format!(
                "{} until {}",
                found.parts.test.from, found.parts.test.until
            ))
        )));
    }
    // A model without a record says nothing of its test period: that of the training section.
    let part = match &manifest {
        Some(_) => 0..rows.num_rows(),
        None => Split::new(&rows.times, training)?.test,
    };
    let threshold = manifest.as_ref().map(|manifest| manifest.threshold);
    let candidate = scored(request.candidate, &query.features, &rows, &part, threshold)?;
    let champion = request
        .champion
        .map(|champion| scored(champion, &query.features, &rows, &part, Some(candidate.threshold)))
        .transpose()?;
    let of_candidate = contender(&request.candidate.name, &candidate);
    let of_champion = request.champion.zip(champion.as_ref()).map(|(model, scored)| contender(&model.name, scored));
    decided(training, &rows, &part, &of_candidate, of_champion.as_ref())
}

fn contender<'a>(name: &'a str, scored: &'a Scored) -> Contender<'a> {
    let Scored { scores, features, sha256, threshold } = scored;
    Contender { version: name, scores, threshold: *threshold, features, sha256 }
}

/// Scores the rows with a version, at its own threshold, or the given one if its directory holds none.
fn scored(
    model: &Champion,
    names: &[String],
    rows: &Rows,
    part: &Range<usize>,
    threshold: Option<f64>,
) -> Result<Scored> {
    let context = |error: Error| error.context(&model.name);
    let text = model.package.model_text().map_err(context)?;
    let parsed = Model::parse(text).map_err(|error| Error::data(format!("{} cannot be read: {error}", model.name)))?;
    let features = places(parsed.feature_names(), names).map_err(|missing| {
        Error::invalid(format!(
            "{} takes features that score(...) of this pipeline does not have: {}; judge it with the pipeline that it was made for, or \
             promote with --force",
            model.name,
            missing.join(", ")
        ))
    })?;
    let own = model.package.manifest().map_err(context)?.map(|manifest| manifest.threshold);
    let threshold = own.or(threshold).ok_or_else(|| {
        Error::invalid(format!("{} holds no threshold ({} is missing)", model.name, crate::model::package::MANIFEST))
    })?;
    Ok(Scored {
        scores: scores(&parsed, &features, rows, part.clone())?,
        features: parsed.feature_names().to_vec(),
        sha256: sha256_hex(text.as_bytes()),
        threshold,
    })
}

fn test_period(manifest: &ModelManifest) -> Result<Range<i64>> {
    let test = &manifest.parts.test;
    let micros = |text: &str| {
        chrono::DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_micros()).map_err(|error| {
            Error::data(format!("the model manifest says a test period that is no time: {text}")).with_source(error)
        })
    };
    Ok(micros(&test.from)?..micros(&test.until)?)
}
