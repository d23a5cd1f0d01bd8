//! Scores of rows that are held row by row, by the scorer that serves: what is reported here is what a run would answer.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::Float64Type;
use tidemill_udfs::functions::score_arrays;
use tidemill_udfs::scorer::Model;

use super::rows::Rows;
use crate::error::{Error, Result};

/// Rows whose columns are made at a time.
const CHUNK_ROWS: usize = 8192;

/// Scores of some rows; `features` are the places of the model's features among those of the rows.
pub(super) fn scores(model: &Model, features: &[usize], rows: &Rows, range: Range<usize>) -> Result<Vec<f64>> {
    let mut all = Vec::with_capacity(range.len());
    let mut start = range.start;
    while start < range.end {
        let chunk = start..(start + CHUNK_ROWS).min(range.end);
        let column = |feature: &usize| {
            Arc::new(Float64Array::from_iter_values(rows.feature(*feature, chunk.clone()))) as ArrayRef
        };
        let columns: Vec<ArrayRef> = features.iter().map(column).collect();
        let scores = score_arrays(model, &columns, chunk.len())
            .map_err(|error| Error::internal("the model cannot score").with_source(error))?;
        let scores = scores.as_primitive_opt::<Float64Type>().filter(|scores| scores.null_count() == 0);
        all.extend_from_slice(
            scores.ok_or_else(|| Error::invalid("a model with several classes cannot be judged here"))?.values(),
        );
        start = chunk.end;
    }
    Ok(all)
}

/// Where the features of a model stand among those of the rows, or which of them are not there.
pub(super) fn places(model: &[String], rows: &[String]) -> Result<Vec<usize>, Vec<String>> {
    let place = |feature: &String| rows.iter().position(|name| name == feature);
    let missing: Vec<String> = model.iter().filter(|feature| place(feature).is_none()).cloned().collect();
    if missing.is_empty() { Ok(model.iter().filter_map(place).collect()) } else { Err(missing) }
}
