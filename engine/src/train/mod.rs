//! Features of stored rows -> a LightGBM model with its threshold. The features are made by the pipeline's own views through
//! `replay`. Splits by time; seeded, so that the same rows give the same model. Needs the cargo feature `lightgbm`.

mod features;
pub mod report;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use lightgbm3::{Booster, Dataset};
use serde_json::json;
use tidemill_udfs::functions::score_arrays;
use tidemill_udfs::scorer::Model;

pub use features::{FeatureQuery, feature_query};

use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

use crate::model::evaluation::{policies, quality};
use crate::model::manifest::{MODEL_MANIFEST_VERSION, ModelManifest, Part, Parts, Search, Versions};

/// How a model is trained. The defaults are those that do not diverge at one percent of positives.
#[derive(Debug, Clone)]
pub struct TrainSettings {
    /// Name in SQL.
    pub model: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Trees.
    pub rounds: u32,
    /// Leaves of a tree.
    pub leaves: u32,
    /// Threads of LightGBM.
    pub threads: usize,
    /// Shares of the rows, in the order of event time, for training and for validation; the rest is for the test.
    pub split: [f64; 2],
    /// The threshold is this quantile of the validation scores.
    pub threshold_quantile: f64,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            model: "fraud".to_owned(),
            seed: 42,
            rounds: 200,
            leaves: 31,
            threads: 2,
            split: [0.7, 0.15],
            threshold_quantile: 0.995,
        }
    }
}

/// A model and what is known of it.
#[derive(Debug, Clone)]
pub struct Trained {
    /// LightGBM's text.
    pub text: String,
    /// What stands beside it.
    pub manifest: ModelManifest,
}

/// Rows in the order of event time.
struct Rows {
    num_features: usize,
    /// Row-major.
    values: Vec<f64>,
    labels: Vec<bool>,
}

impl Rows {
    fn num_rows(&self) -> usize {
        self.labels.len()
    }

    fn slice(&self, rows: std::ops::Range<usize>) -> Rows {
        Rows {
            num_features: self.num_features,
            values: self.values[rows.start * self.num_features..rows.end * self.num_features].to_vec(),
            labels: self.labels[rows].to_vec(),
        }
    }

    fn num_positives(&self) -> u64 {
        self.labels.iter().filter(|label| **label).count() as u64
    }
}

/// Trains on the rows of a [`FeatureQuery`].
pub fn train(batches: &[RecordBatch], query: &FeatureQuery, settings: &TrainSettings) -> Result<Trained> {
    let rows = in_order_of_time(batches, query.features.len())?;
    let cut = |share: f64| (share * rows.num_rows() as f64) as usize;
    let (first, second) = (cut(settings.split[0]), cut(settings.split[0] + settings.split[1]));
    let parts = [rows.slice(0..first), rows.slice(first..second), rows.slice(second..rows.num_rows())];
    for (part, name) in parts.iter().zip(["training", "validation", "test"]) {
        if part.num_positives() == 0 || part.num_positives() == part.num_rows() as u64 {
            return Err(Error::data(format!(
                "the {name} rows ({} of {}) hold only one of the two labels; give more history",
                part.num_rows(),
                rows.num_rows()
            )));
        }
    }
    let text = fit(&parts[0], query, settings)?;
    let model =
        Model::parse(&text).map_err(|error| Error::internal(format!("the trained model cannot be read: {error}")))?;
    let validation = scores(&model, &parts[1])?;
    let threshold = policies::quantile(&validation, settings.threshold_quantile)
        .ok_or_else(|| Error::internal("there are no validation scores"))?;
    let test = quality(&scores(&model, &parts[2])?, &parts[2].labels, threshold);
    let part = |rows: &Rows| Part {
        rows: rows.num_rows() as u64,
        positives: rows.num_positives(),
        from: String::new(),
        until: String::new(),
    };
    let manifest = ModelManifest {
        version: MODEL_MANIFEST_VERSION,
        model: settings.model.clone(),
        run: None,
        sha256: sha256_hex(text.as_bytes()),
        features: query.features.clone(),
        label: String::new(),
        amount: None,
        segments: Vec::new(),
        threshold,
        threshold_policy: crate::types::ThresholdPolicy::Fixed { threshold },
        seed: settings.seed,
        parts: Parts {
            train: part(&parts[0]),
            gap: Part::default(),
            validation: part(&parts[1]),
            test: part(&parts[2]),
        },
        sql_fingerprint: String::new(),
        data: Vec::new(),
        versions: Versions { tidemill: env!("CARGO_PKG_VERSION").to_owned(), lightgbm: String::new() },
        parameters: BTreeMap::new(),
        imbalance: "none".to_owned(),
        search: Search::default(),
        metrics: BTreeMap::from([
            ("test/pr_auc".to_owned(), test.pr_auc),
            ("test/precision".to_owned(), test.precision),
            ("test/recall".to_owned(), test.recall),
        ]),
        notes: Vec::new(),
    };
    Ok(Trained { text, manifest })
}

fn in_order_of_time(batches: &[RecordBatch], num_features: usize) -> Result<Rows> {
    let wrong = || Error::internal("the rows to train on do not have the columns of their query");
    let mut order = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let times = batch.column(num_features + 1).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong)?;
        order.extend(times.values().iter().enumerate().map(|(row, time)| (*time, index, row)));
    }
    order.sort_unstable();
    let mut rows = Rows {
        num_features,
        values: Vec::with_capacity(order.len() * num_features),
        labels: Vec::with_capacity(order.len()),
    };
    let columns: Vec<Vec<_>> = batches
        .iter()
        .map(|batch| {
            (0..=num_features)
                .map(|column| batch.column(column).as_primitive_opt::<Float64Type>().ok_or_else(wrong))
                .collect()
        })
        .collect::<Result<_>>()?;
    for (_, batch, row) in order {
        let value = |column: usize| {
            let array = columns[batch][column];
            if array.is_null(row) { f64::NAN } else { array.value(row) }
        };
        let label = value(num_features);
        if label.is_nan() {
            continue;
        }
        rows.values.extend((0..num_features).map(value));
        rows.labels.push(label > 0.5);
    }
    Ok(rows)
}

fn fit(rows: &Rows, query: &FeatureQuery, settings: &TrainSettings) -> Result<String> {
    let failed = |error: lightgbm3::Error| Error::internal("lightgbm cannot train").with_source(error);
    let labels: Vec<f32> = rows.labels.iter().map(|label| f32::from(u8::from(*label))).collect();
    let num_features = i32::try_from(rows.num_features).map_err(|_| Error::invalid("too many features"))?;
    let mut dataset = Dataset::from_slice(&rows.values, &labels, num_features, true).map_err(failed)?;
    dataset.set_feature_names(&query.features).map_err(failed)?;
    let parameters = json!({
        "objective": "binary",
        "num_iterations": settings.rounds,
        "num_leaves": settings.leaves,
        "learning_rate": 0.05,
        "lambda_l2": 5.0,
        "min_sum_hessian_in_leaf": 1.0,
        "min_data_in_leaf": 50,
        "seed": settings.seed,
        "deterministic": true,
        "force_row_wise": true,
        "num_threads": settings.threads,
        "verbosity": -1,
    });
    Booster::train(dataset, &parameters).and_then(|booster| booster.save_string()).map_err(failed)
}

fn scores(model: &Model, rows: &Rows) -> Result<Vec<f64>> {
    let column = |feature: usize| {
        let values = rows.values.iter().skip(feature).step_by(rows.num_features).copied();
        std::sync::Arc::new(arrow::array::Float64Array::from_iter_values(values)) as arrow::array::ArrayRef
    };
    let columns: Vec<_> = (0..rows.num_features).map(column).collect();
    let scores = score_arrays(model, &columns, rows.num_rows())
        .map_err(|error| Error::internal("the trained model cannot score").with_source(error))?;
    let scores =
        scores.as_primitive_opt::<Float64Type>().ok_or_else(|| Error::internal("a binary model gave no numbers"))?;
    Ok(scores.values().to_vec())
}
