//! Stored rows of a source -> a model directory. The features are those of the pipeline's own views, as a run would serve them;
//! parts of the rows follow each other in time; everything random is seeded, so that the same rows, SQL and settings give the
//! same model file. Needs the cargo feature `lightgbm`.
//!
//! `features`, `leaks` (what may be learnt from) -> `rows` -> `split` -> `search` -> `fit` (`booster`, `imbalance`) -> `threshold` ->
//! `champion` -> `directory`.

mod booster;
mod champion;
mod directory;
mod features;
mod fit;
mod gate;
mod imbalance;
mod leaks;
pub mod report;
mod rows;
mod scoring;
mod search;
mod split;
mod threshold;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;

use tidemill_udfs::scorer::Model;

pub use champion::{Champion, Comparison};
pub use directory::{check_output, write};
pub use features::{FeatureQuery, feature_query, training_of};
pub use gate::{Rescore, rescore};

use self::booster::{BinnedRows, LIGHTGBM_VERSION};
use self::fit::{Grown, grow, parameters, text_of, weight_of_positives};
use self::rows::{Collector, Rows};
use self::split::{Split, shown};
use self::threshold::ChosenOn;
use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::model::evaluation::{
    Bootstrap, Categories, Evaluation, EvaluationSettings, Examples, average_precision, evaluate,
};
use crate::model::gate::{GATE_FILE, GateReport};
use crate::model::manifest::{MODEL_MANIFEST_VERSION, ModelManifest, Search, TrainingData, Versions};
use crate::model::package::Package;
use crate::pipeline::settings::{Imbalance, Pipeline, Training, TreeParameters};
use crate::replay::{Input, Progress, ReadRows, select_each};
use crate::types::{EventTime, ThresholdPolicy};

/// Parts of the rows without a label beyond which it is said.
const UNLABELLED_SHARE: f64 = 0.01;

/// What is to be trained.
#[derive(Debug)]
pub struct Request<'a> {
    /// The pipeline whose views make the features.
    pub pipeline: &'a Pipeline,
    /// How it is trained.
    pub training: &'a Training,
    /// For stores and brokers.
    pub environment: &'a BTreeMap<String, String>,
    /// Rows of the sources.
    pub inputs: &'a [Input],
    /// What the caller calls this training.
    pub run: Option<&'a str>,
    /// The model in production, to be held against the new one.
    pub champion: Option<&'a Champion>,
    /// Trials side by side.
    pub num_threads: NonZeroUsize,
}

/// How far a training has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Rows are read, and their features made.
    Reading(Progress),
    /// Parameters are tried: done, of how many, the best mean average precision so far.
    Searching(usize, usize, f64),
    /// The model grows: trees, at most so many, average precision on the validation rows.
    Growing(u32, u32, f64),
    /// The model is judged.
    Judging,
}

/// A new model, and what is known of it.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its files.
    pub package: Package,
    /// Its record, which is among them.
    pub manifest: ModelManifest,
    /// How good it is on the test rows.
    pub evaluation: Evaluation,
    /// Beside the model in production.
    pub comparison: Option<Comparison>,
    /// Whether it may take that one's place.
    pub gate: GateReport,
}

/// A model before it is put into its files.
struct Outcome {
    text: String,
    manifest: ModelManifest,
    validation_scores: Vec<f64>,
    test_scores: Vec<f64>,
}

/// Trains a model.
pub fn train(request: &Request<'_>, on_step: &(dyn Fn(Step) + Sync)) -> Result<Trained> {
    let query = feature_query(request.pipeline, request.training)?;
    let (rows, read) = read(request, &query, on_step)?;
    let training = request.training;
    let split = Split::new(&rows.times, training)?;
    split.check(&rows)?;
    let mut notes = notes(&rows, &query, &split)?;
    let (tree, search) = chosen(request, &query, &rows, &split, on_step)?;
    let (grown, given) = fit(training, &query, &rows, &split, &tree, on_step)?;
    on_step(Step::Judging);
    let model = Model::parse(&grown.text)
        .map_err(|error| Error::internal(format!("the trained model cannot be read: {error}")))?;
    let all: Vec<usize> = (0..query.features.len()).collect();
    let validation_scores = scoring::scores(&model, &all, &rows, split.validation.clone())?;
    let test_scores = scoring::scores(&model, &all, &rows, split.test.clone())?;
    let threshold = threshold::threshold(&training.threshold, &chosen_on(&rows, &split, &validation_scores))?;
    let judge = |scores: &[f64], threshold: f64| judged(training, &rows, &split.test, scores, threshold);
    let evaluation = judge(&test_scores, threshold)?;
    let mut metrics = evaluation.flat();
    let validation_labels = rows.view(split.validation.clone()).labels;
    metrics.insert("validation.pr_auc".to_owned(), average_precision(&validation_scores, validation_labels));
    metrics.insert("trees".to_owned(), f64::from(grown.num_trees));
    let mut comparison = None;
    if let Some(champion) = request.champion {
        let candidate = champion::Candidate { features: &query.features, scores: &test_scores, threshold };
        let compared = champion::compare(champion, &rows, &split, &candidate, &bootstrap(training), &judge)?;
        match compared {
            Ok(compared) => {
                metrics.extend(compared.metrics());
                comparison = Some(compared);
            }
            Err(note) => notes.push(note),
        }
    }
    let manifest = ModelManifest {
        version: MODEL_MANIFEST_VERSION,
        model: training.model.clone(),
        run: request.run.map(str::to_owned),
        sha256: sha256_hex(grown.text.as_bytes()),
        features: query.features.clone(),
        label: training.label.clone(),
        amount: training.amount.clone(),
        segments: training.segments.clone(),
        threshold,
        threshold_policy: training.threshold,
        seed: training.seed,
        parts: split.parts(&rows),
        sql_fingerprint: query.fingerprint.clone(),
        data: data(&read),
        versions: Versions { tidemill: env!("CARGO_PKG_VERSION").to_owned(), lightgbm: LIGHTGBM_VERSION.to_owned() },
        parameters: given,
        imbalance: imbalance_text(&training.imbalance),
        search,
        metrics,
        notes,
    };
    let outcome = Outcome { text: grown.text, manifest, validation_scores, test_scores };
    let mut package = directory::package(request.pipeline, &query, &rows, &split, &outcome)?;
    let judged = Judged { rows: &rows, split: &split, outcome: &outcome, evaluation: &evaluation };
    let gate = judged.looked_at(request, comparison.as_ref(), &mut package)?;
    Ok(Trained { package, manifest: outcome.manifest, evaluation, comparison, gate })
}

/// A new model on its test rows.
struct Judged<'a> {
    rows: &'a Rows,
    split: &'a Split,
    outcome: &'a Outcome,
    evaluation: &'a Evaluation,
}

impl Judged<'_> {
    /// Puts what the gate says, and the report for people, into the model directory.
    fn looked_at(
        &self,
        request: &Request<'_>,
        comparison: Option<&Comparison>,
        package: &mut Package,
    ) -> Result<GateReport> {
        let manifest = &self.outcome.manifest;
        let candidate = gate::Judge {
            version: request.run.unwrap_or("the new model"),
            scores: &self.outcome.test_scores,
            threshold: manifest.threshold,
            features: &manifest.features,
            sha256: &manifest.sha256,
        };
        let champion = comparison.map(|champion| gate::Judge {
            version: &champion.champion,
            scores: &champion.scores,
            threshold: champion.threshold,
            features: &champion.features,
            sha256: &champion.sha256,
        });
        let mut gate = gate::decided(request.training, self.rows, &self.split.test, &candidate, champion.as_ref())?;
        if let (Some(champion), None) = (request.champion, comparison) {
            gate.add_unjudged_champion(&format!("{} takes features that score(...) has no longer", champion.name));
        }
        package.insert(GATE_FILE, format!("{}\n", gate.to_json()?))?;
        let importance = report::gain_of_features(&self.outcome.text);
        let report = report::report(&report::ReportInput {
            manifest,
            evaluation: self.evaluation,
            champion: comparison.map(|champion| (champion.champion.as_str(), &champion.evaluation)),
            gate: Some(&gate),
            importance: &importance,
        })?;
        for (path, file) in report.files {
            package.insert(&path, file)?;
        }
        Ok(gate)
    }
}

/// Reads the rows, and refuses what nothing can be learnt from.
fn read(request: &Request<'_>, query: &FeatureQuery, on_step: &(dyn Fn(Step) + Sync)) -> Result<(Rows, ReadRows)> {
    let training = request.training;
    let micros = |time: Option<EventTime>, else_at: i64| time.map_or(else_at, EventTime::as_micros);
    let within = micros(training.from, i64::MIN)..micros(training.until, i64::MAX);
    let mut collector = Collector::new(query, within);
    let read = select_each(
        request.pipeline,
        request.environment,
        request.inputs,
        &query.select,
        |batch| collector.push(&batch),
        |progress| on_step(Step::Reading(progress)),
    )?;
    let rows = collector.finish();
    if rows.num_rows() > 0 {
        return Ok((rows, read));
    }
    let (unlabelled, outside) = (rows.num_unlabelled, rows.num_outside);
    let why = if unlabelled > 0 {
        format!(
            "none of the {unlabelled} rows has a label: {} is null in all of them; wait until labels have arrived, or join them in a view",
            query.label
        )
    } else if outside > 0 {
        format!(
            "none of the {outside} rows has an event time from {} until {}; mend `training.from` and `training.until`, or give other \
             history",
            training.from.map_or_else(|| "the beginning".to_owned(), |time| shown(time.as_micros())),
            training.until.map_or_else(|| "the end".to_owned(), |time| shown(time.as_micros())),
        )
    } else {
        format!(
            "{} records were read and {} of them rejected, which leaves no rows of view {}; check --input, and look at rejections with \
             `tidemill replay --strict`",
            read.counts.read,
            read.counts.num_rejected(),
            query.view
        )
    };
    Err(Error::data(format!("there is nothing to train on: {why}")))
}

/// What a reader of the record should know; refuses rows in which no feature says anything.
fn notes(rows: &Rows, query: &FeatureQuery, split: &Split) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let (mut empty, mut constant) = (Vec::new(), Vec::new());
    for (index, feature) in query.features.iter().enumerate() {
        let mut values = rows.feature(index, split.train.clone());
        let first = values.next().map(f64::to_bits);
        if values.all(|value| Some(value.to_bits()) == first) {
            let is_empty = first.is_some_and(|bits| f64::from_bits(bits).is_nan());
            if is_empty { &mut empty } else { &mut constant }.push(feature.as_str());
        }
    }
    if empty.len() + constant.len() == query.features.len() {
        return Err(Error::data(format!(
            "all {} features are constant or null in the training rows; check the view {} with `tidemill replay`, and that the history is \
             that of its sources",
            query.features.len(),
            query.view
        )));
    }
    if !empty.is_empty() {
        notes.push(format!("null in all training rows, so the model does not use them: {}", empty.join(", ")));
    }
    if !constant.is_empty() {
        notes.push(format!("constant in all training rows, so the model does not use them: {}", constant.join(", ")));
    }
    let num_all = rows.num_rows() as f64 + rows.num_unlabelled as f64;
    if rows.num_unlabelled as f64 > UNLABELLED_SHARE * num_all {
        notes.push(format!("{} rows without a label were left out", rows.num_unlabelled));
    }
    Ok(notes)
}

/// The parameters: those of the settings, or the best of a search.
fn chosen(
    request: &Request<'_>,
    query: &FeatureQuery,
    rows: &Rows,
    split: &Split,
    on_step: &(dyn Fn(Step) + Sync),
) -> Result<(TreeParameters, Search)> {
    let training = request.training;
    if training.trials == 0 {
        return Ok((training.parameters, Search::default()));
    }
    let folds = split.folds(rows, training.folds)?;
    let on_trial = |done: usize, of: usize, best: f64| on_step(Step::Searching(done, of, best));
    let found = search::search(rows, &query.features, &folds, training, request.num_threads.get(), &on_trial)?;
    Ok((found.parameters, found.search))
}

/// The model, and LightGBM's parameters as they were given.
fn fit(
    training: &Training,
    query: &FeatureQuery,
    rows: &Rows,
    split: &Split,
    tree: &TreeParameters,
    on_step: &(dyn Fn(Step) + Sync),
) -> Result<(Grown, BTreeMap<String, serde_json::Value>)> {
    let learnt = rows.view(split.train.clone());
    let weight = weight_of_positives(&training.imbalance, learnt.labels.len(), learnt.num_positives());
    let growth = search::growth(training);
    let given = parameters(tree, weight, growth, training.seed);
    let text = text_of(&given);
    let made = imbalance::resampled(&learnt, rows.num_features, &training.imbalance, training.seed);
    let learnt = made.as_ref().map_or(learnt, |made| made.view());
    let train = BinnedRows::new(&learnt, &query.features, &text, None)?;
    drop(made);
    let judged = rows.view(split.validation.clone());
    let validation = BinnedRows::new(&judged, &query.features, &text, Some(&train))?;
    let mut on_tree = |tree, found| on_step(Step::Growing(tree, training.rounds, found));
    let grown = grow(&train, &validation, judged.labels, &text, growth, true, &mut on_tree)?;
    Ok((grown, given))
}

fn chosen_on<'a>(rows: &'a Rows, split: &Split, scores: &'a [f64]) -> ChosenOn<'a> {
    ChosenOn {
        scores,
        labels: rows.view(split.validation.clone()).labels,
        times: &rows.times[split.validation.clone()],
        amounts: rows.amounts(split.validation.clone()),
    }
}

fn bootstrap(training: &Training) -> Bootstrap {
    Bootstrap { seed: training.seed, ..Bootstrap::default() }
}

/// Alerts a day that people look at: as it is said, or as the threshold's policy says it.
fn budget(training: &Training) -> Option<u64> {
    let of_policy = match training.threshold {
        ThresholdPolicy::AlertBudget { per_day } => Some(per_day.round().max(1.0) as u64),
        _ => None,
    };
    training.alerts_per_day.or(of_policy)
}

/// Scores of some rows against their labels.
fn judged(training: &Training, rows: &Rows, part: &Range<usize>, scores: &[f64], threshold: f64) -> Result<Evaluation> {
    let (kinds, segments) = (rows.kinds(part.clone()), rows.segments(part));
    let names = training.segments.iter().map(String::as_str);
    let segments: Vec<(&str, &Categories)> = names.zip(&segments).collect();
    let examples = Examples {
        scores,
        labels: rows.view(part.clone()).labels,
        times: &rows.times[part.clone()],
        amounts: rows.amounts(part.clone()),
        kinds: kinds.as_ref(),
        segments,
    };
    let settings = EvaluationSettings {
        alerts_per_day: budget(training),
        unfindable_kinds: training.unfindable_kinds.clone(),
        bootstrap: bootstrap(training),
        ..EvaluationSettings::at(threshold)
    };
    evaluate(&examples, &settings)
}

fn data(read: &ReadRows) -> Vec<TrainingData> {
    let of_source = |source: &str| {
        let rejected = read.counts.rejected.iter().filter(|((name, _), _)| name == source);
        rejected.map(|(_, count)| *count).sum()
    };
    let data = |input: &crate::replay::ReadInput| TrainingData {
        source: input.source.clone(),
        uri: input.uri.clone(),
        order: input.order.clone(),
        rows: read.counts.read,
        rejected: of_source(&input.source),
    };
    read.inputs.iter().map(data).collect()
}

fn imbalance_text(imbalance: &Imbalance) -> String {
    let uncalibrated = "scores are no shares of positives any more";
    match imbalance {
        Imbalance::Nothing => "none".to_owned(),
        Imbalance::FullWeight => format!("positives weigh as much as all others together; {uncalibrated}"),
        Imbalance::SqrtWeight => format!("positives weigh the square root of the ratio of the labels; {uncalibrated}"),
        Imbalance::Weight(weight) => format!("each positive weighs {weight}; {uncalibrated}"),
        Imbalance::Undersampling(ratio) => format!("undersampling, {ratio} others for each positive; {uncalibrated}"),
        Imbalance::Smote(ratio) => format!("SMOTE, {ratio} positives for each other row; {uncalibrated}"),
    }
}

#[cfg(test)]
mod tests;
