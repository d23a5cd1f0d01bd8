//! What the history features are worth: precision, recall and PR-AUC of the scores that the demo served, and of the same model on
//! the same rows with constants in place of the history features, as the replaced job served them.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_udfs::functions::score_arrays;
use tidemill_udfs::scorer::Model;

use super::model::Ready;
use crate::error::{Error, Result};
use crate::model::evaluation::{Quality, quality};
use crate::model::manifest::{MODEL_FILE, ModelManifest};
use crate::pipeline::settings::{ParquetSink, Pipeline, Place, Sink, SinkConnector, SqlText};
use crate::plan::{Call, CallCheck, Refusal};
use crate::runtime::plan_untrained;

/// What the replaced job served for each of its history features.
const CONSTANT: f64 = 1000.0;
/// Columns behind the features.
const LABEL: &str = "demo_label";
const SCORE: &str = "demo_score";

/// How good the scores were.
#[derive(Debug)]
pub(super) struct Verdict {
    served: Quality,
    with_constants: Quality,
    num_features: usize,
    num_history: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |quality: &Quality| {
            format!("precision {:.3}, recall {:.3}, PR-AUC {:.3}", quality.precision, quality.recall, quality.pr_auc)
        };
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
        "SELECT {}, CAST(is_fraud AS DOUBLE) AS {LABEL}, fraud_probability AS {SCORE} FROM scored",
        features.collect::<Vec<_>>().join(", ")
    );
    Ok(Sink {
        name: "demo_scores".to_owned(),
        connector: SinkConnector::Parquet(ParquetSink {
            path: super::absolute(folder)?,
            max_rows: 1 << 20,
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(3600),
            has_positions: false,
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
    let text = std::fs::read_to_string(model.path.join(MODEL_FILE))
        .map_err(|error| Error::unavailable(format!("{} cannot be read", model.path.display())).with_source(error))?;
    let scorer = Model::parse(&text)
        .map_err(|error| Error::data(format!("{} is not a model: {error}", model.path.display())))?;
    let features = &model.manifest.features;
    let (mut labels, mut served, mut with_constants) = (Vec::new(), Vec::new(), Vec::new());
    for batch in read(folder)? {
        let column = |name: &str| -> Result<ArrayRef> {
            let found = batch.column_by_name(name).cloned();
            found.ok_or_else(|| Error::internal(format!("the demo's scores lost their column {name}")))
        };
        let constant: ArrayRef = Arc::new(Float64Array::from(vec![CONSTANT; batch.num_rows()]));
        let replaced = |name: &String| if history.contains(name) { Ok(Arc::clone(&constant)) } else { column(name) };
        let columns = features.iter().map(replaced).collect::<Result<Vec<_>>>()?;
        let scores = score_arrays(&scorer, &columns, batch.num_rows())
            .map_err(|error| Error::internal("the demo's model cannot score").with_source(error))?;
        with_constants.extend(numbers(&scores)?);
        served.extend(numbers(&column(SCORE)?)?);
        labels.extend(numbers(&column(LABEL)?)?.into_iter().map(|label| label > 0.5));
    }
    Ok(Verdict {
        served: quality(&served, &labels, model.manifest.threshold),
        with_constants: quality(&with_constants, &labels, model.manifest.threshold),
        num_features: features.len(),
        num_history: features.iter().filter(|name| history.contains(name)).count(),
    })
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
