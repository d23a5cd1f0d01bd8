//! What the demo served: whether each record was scored once, and by which version of the model. And what the history features are
//! worth: precision, recall and PR-AUC of the scores, and of the same models on the same rows with constants in place of the history
//! features, as the replaced job served them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_udfs::functions::score_arrays;
use tidemill_udfs::scorer::Model;

use super::model::Ready;
use crate::error::{Error, Result};
use crate::model::evaluation::{Quality, quality};
use crate::model::manifest::ModelManifest;
use crate::pipeline::settings::{ParquetSink, Pipeline, Place, Sink, SinkConnector, SqlText};
use crate::plan::{Call, CallCheck, Refusal};
use crate::runtime::plan_untrained;

/// What the replaced job served for each of its history features.
const CONSTANT: f64 = 1000.0;
/// Columns behind the features.
const LABEL: &str = "demo_label";
const SCORE: &str = "demo_score";
const VERSION: &str = "demo_version";

/// The columns of a position that the sink adds.
const PARTITION: &str = "_partition";
const OFFSET: &str = "_offset";

/// How good the scores were, and by whom.
#[derive(Debug)]
pub(super) struct Verdict {
    served: Quality,
    with_constants: Quality,
    num_features: usize,
    num_history: usize,
    /// Rows by the version that scored them.
    by_version: BTreeMap<String, u64>,
    /// Rows that are there more than once.
    num_repeated: u64,
}

impl Verdict {
    /// Holds what was scored against what was accepted: each row once, and by both versions in turn.
    pub(super) fn check(&self, num_accepted: u64) -> Result<()> {
        let num_scored: u64 = self.by_version.values().sum();
        if num_scored != num_accepted || self.num_repeated > 0 {
            return Err(Error::internal(format!(
                "{num_accepted} records were accepted, {num_scored} scored, {} of them more than once",
                self.num_repeated
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |quality: &Quality| {
            format!("precision {:.3}, recall {:.3}, PR-AUC {:.3}", quality.precision, quality.recall, quality.pr_auc)
        };
        let versions: Vec<String> =
            self.by_version.iter().map(|(version, rows)| format!("{rows} scored by version {version}")).collect();
        writeln!(f, "models    {}; each record once, none without a score", versions.join(", "))?;
        write!(
            f,
            "quality   {} with the {} history features among {}\n          {} with constants in their place, as the replaced job served them",
            line(&self.served),
            self.num_history,
            self.num_features,
            line(&self.with_constants),
        )
    }
}

/// A sink that keeps what was scored, beside the pipeline's own.
pub(super) fn sink(folder: &Path, model: &ModelManifest) -> Result<Sink> {
    let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let features = model.features.iter().map(|name| format!("CAST({0} AS DOUBLE) AS {0}", quoted(name)));
    let select = format!(
        "SELECT {}, CAST(is_fraud AS DOUBLE) AS {LABEL}, fraud_probability AS {SCORE}, model_version AS {VERSION} FROM scored",
        features.collect::<Vec<_>>().join(", ")
    );
    Ok(Sink {
        name: "demo_scores".to_owned(),
        connector: SinkConnector::Parquet(ParquetSink {
            path: super::absolute(folder)?,
            max_rows: 1 << 20,
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(3600),
            has_positions: true,
        }),
        select: SqlText { sql: select, place: Place { file: "demo".into(), line: 1, column: 1 } },
    })
}

#[derive(Debug)]
struct AnyCall;

impl CallCheck for AnyCall {
    fn check(&self, _: &Call) -> std::result::Result<(), Refusal> {
        Ok(())
    }
}

/// The columns that come from windows.
pub(super) fn history(pipeline: &Pipeline) -> Result<Vec<String>> {
    let plan = plan_untrained(pipeline, &(Arc::new(AnyCall) as Arc<dyn CallCheck>))?;
    Ok(plan.history_columns("features").to_vec())
}

/// Reads what the sink wrote and judges it.
pub(super) fn judge(folder: &Path, model: &Ready, history: &[String]) -> Result<Verdict> {
    let features = &model.versions[0].manifest.features;
    let mut scorers = BTreeMap::new();
    for version in &model.versions {
        let scorer = Model::parse(&version.text)
            .map_err(|error| Error::data(format!("version {} is not a model: {error}", version.number)))?;
        scorers.insert(version.number.as_str(), (scorer, version.manifest.threshold));
    }
    let (mut served, mut with_constants) = (Scored::default(), Scored::default());
    let (mut by_version, mut seen, mut num_repeated) = (BTreeMap::new(), HashSet::new(), 0);
    for batch in read(folder)? {
        let column = |name: &str| -> Result<ArrayRef> {
            let found = batch.column_by_name(name).cloned();
            found.ok_or_else(|| Error::internal(format!("the demo's scores lost their column {name}")))
        };
        let constant: ArrayRef = Arc::new(Float64Array::from(vec![CONSTANT; batch.num_rows()]));
        let replaced = |name: &String| if history.contains(name) { Ok(Arc::clone(&constant)) } else { column(name) };
        let columns = features.iter().map(replaced).collect::<Result<Vec<_>>>()?;
        let mut otherwise = BTreeMap::new();
        for (number, (scorer, _)) in &scorers {
            let scores = score_arrays(scorer, &columns, batch.num_rows())
                .map_err(|error| Error::internal("the demo's model cannot score").with_source(error))?;
            otherwise.insert(*number, numbers(&scores)?);
        }
        let versions = cast(&column(VERSION)?, &DataType::Utf8).map_err(unlike)?;
        let partitions = cast(&column(PARTITION)?, &DataType::Int64).map_err(unlike)?;
        let offsets = cast(&column(OFFSET)?, &DataType::Int64).map_err(unlike)?;
        let (scores, labels) = (numbers(&column(SCORE)?)?, numbers(&column(LABEL)?)?);
        for row in 0..batch.num_rows() {
            let version = versions.as_string::<i32>().value(row);
            let place =
                (partitions.as_primitive::<Int64Type>().value(row), offsets.as_primitive::<Int64Type>().value(row));
            num_repeated += u64::from(!seen.insert(place));
            *by_version.entry(version.to_owned()).or_default() += 1;
            let Some((_, threshold)) = scorers.get(version) else {
                return Err(Error::internal(format!(
                    "a row was scored by version {version}, which is none of the demo's"
                )));
            };
            served.push(scores[row], labels[row] > 0.5, *threshold);
            with_constants.push(otherwise[version][row], labels[row] > 0.5, *threshold);
        }
    }
    Ok(Verdict {
        served: served.quality(),
        with_constants: with_constants.quality(),
        num_features: features.len(),
        num_history: features.iter().filter(|name| history.contains(name)).count(),
        by_version,
        num_repeated,
    })
}

/// Scores by models of several thresholds.
#[derive(Debug, Default)]
struct Scored {
    scores: Vec<f64>,
    labels: Vec<bool>,
    /// 1 where the score reached its model's threshold.
    alerts: Vec<f64>,
}

impl Scored {
    fn push(&mut self, score: f64, label: bool, threshold: f64) {
        self.scores.push(score);
        self.labels.push(label);
        self.alerts.push(f64::from(u8::from(score >= threshold)));
    }

    fn quality(&self) -> Quality {
        let Quality { precision, recall, .. } = quality(&self.alerts, &self.labels, 1.0);
        Quality { precision, recall, ..quality(&self.scores, &self.labels, 1.0) }
    }
}

fn unlike(error: arrow::error::ArrowError) -> Error {
    Error::internal("the demo's scores have columns of other types").with_source(error)
}

fn numbers(array: &ArrayRef) -> Result<Vec<f64>> {
    let numbers = array.as_primitive_opt::<Float64Type>();
    Ok(numbers.ok_or_else(|| Error::internal("the demo's scores are no numbers"))?.values().to_vec())
}

fn read(folder: &Path) -> Result<Vec<RecordBatch>> {
    let unreadable = |path: &Path| {
        let text = format!("{} cannot be read", path.display());
        move |error: std::io::Error| Error::unavailable(text).with_source(error)
    };
    let mut batches = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        if path.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let file = File::open(&path).map_err(unreadable(&path))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
        let damaged = |_| Error::data(format!("{} is not a Parquet file", path.display()));
        for batch in reader.map_err(damaged)? {
            batches.push(batch.map_err(|_| Error::data(format!("{} is damaged", path.display())))?);
        }
    }
    Ok(batches)
}
