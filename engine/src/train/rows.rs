//! The rows to train on, in memory once: numbers row by row as LightGBM takes them, filled batch by batch as they come and then
//! sorted in place by event time. Rows without a label are counted and left out; labels other than 0 and 1 are refused.

use std::ops::Range;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};

use super::features::FeatureQuery;
use crate::error::{Error, Result};
use crate::model::evaluation::Categories;

/// Some rows, as LightGBM takes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsView<'a> {
    /// Row by row.
    pub(super) values: &'a [f64],
    pub(super) labels: &'a [bool],
}

impl RowsView<'_> {
    pub(super) fn num_positives(&self) -> usize {
        self.labels.iter().filter(|label| **label).count()
    }
}

/// A column of names: one code a row.
#[derive(Debug, Default)]
struct Names {
    names: Vec<String>,
    known: std::collections::HashMap<String, u32>,
    codes: Vec<u32>,
}

const NO_CODE: u32 = u32::MAX;

impl Names {
    fn push(&mut self, name: Option<&str>) {
        let Some(name) = name else {
            self.codes.push(NO_CODE);
            return;
        };
        let code = match self.known.get(name) {
            Some(code) => *code,
            None => {
                let code = self.names.len() as u32;
                self.names.push(name.to_owned());
                self.known.insert(name.to_owned(), code);
                code
            }
        };
        self.codes.push(code);
    }

    fn categories(&self, rows: Range<usize>) -> Categories {
        Categories::of(self.codes[rows].iter().map(|code| self.names.get(*code as usize).map(String::as_str)))
    }
}

/// Rows in the order of event time.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) num_features: usize,
    values: Vec<f64>,
    pub(super) labels: Vec<bool>,
    pub(super) times: Vec<i64>,
    amounts: Option<Vec<f64>>,
    kinds: Option<Names>,
    segments: Vec<Names>,
    /// Rows that had no label.
    pub(super) num_unlabelled: u64,
    /// Rows outside the range of time that is asked for.
    pub(super) num_outside: u64,
}

impl Rows {
    pub(super) fn num_rows(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn view(&self, rows: Range<usize>) -> RowsView<'_> {
        RowsView {
            values: &self.values[rows.start * self.num_features..rows.end * self.num_features],
            labels: &self.labels[rows],
        }
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.num_features..(row + 1) * self.num_features]
    }

    /// One feature of some rows.
    pub(super) fn feature(&self, feature: usize, rows: Range<usize>) -> impl Iterator<Item = f64> + Clone + '_ {
        let rows = &self.values[rows.start * self.num_features..rows.end * self.num_features];
        rows.iter().skip(feature).step_by(self.num_features.max(1)).copied()
    }

    pub(super) fn amounts(&self, rows: Range<usize>) -> Option<&[f64]> {
        self.amounts.as_deref().map(|amounts| &amounts[rows])
    }

    pub(super) fn kinds(&self, rows: Range<usize>) -> Option<Categories> {
        self.kinds.as_ref().map(|kinds| kinds.categories(rows))
    }

    pub(super) fn segments(&self, rows: &Range<usize>) -> Vec<Categories> {
        self.segments.iter().map(|segment| segment.categories(rows.clone())).collect()
    }
}

/// Rows as they come.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    query: &'a FeatureQuery,
    within: Range<i64>,
    rows: Rows,
    /// Partition and offset of each row, where batches have them behind the columns of the query.
    positions: Vec<(i32, i64)>,
}

impl<'a> Collector<'a> {
    /// For rows of a query whose event time is in a range.
    pub(super) fn new(query: &'a FeatureQuery, within: Range<i64>) -> Collector<'a> {
        let rows = Rows {
            num_features: query.features.len(),
            amounts: query.amount.as_ref().map(|_| Vec::new()),
            kinds: query.kind.as_ref().map(|_| Names::default()),
            segments: query.segments.iter().map(|_| Names::default()).collect(),
            ..Rows::default()
        };
        Collector { query, within, rows, positions: Vec::new() }
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let num_features = self.query.features.len();
        let numbers = |column: usize| number_column(batch, column);
        let features = (0..num_features).map(numbers).collect::<Result<Vec<_>>>()?;
        let (labels, times) = (numbers(num_features)?, batch.column(num_features + 1));
        let times = times.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong_columns)?;
        let mut next = num_features + 2;
        let amounts = self.rows.amounts.is_some().then(|| numbers(next)).transpose()?;
        next += usize::from(amounts.is_some());
        let mut texts = Vec::new();
        for _ in 0..usize::from(self.rows.kinds.is_some()) + self.rows.segments.len() {
            texts.push(batch.column(next).as_string_opt::<i32>().ok_or_else(wrong_columns)?);
            next += 1;
        }
        let positions = positions(batch);
        for row in 0..batch.num_rows() {
            let time = times.value(row);
            if times.is_null(row) || !self.within.contains(&time) {
                self.rows.num_outside += 1;
                continue;
            }
            let Some(label) = self.label(labels, row)? else {
                self.rows.num_unlabelled += 1;
                continue;
            };
            let value = |array: &Float64Array| if array.is_null(row) { f64::NAN } else { array.value(row) };
            self.rows.values.extend(features.iter().map(|feature| value(feature)));
            self.rows.labels.push(label);
            self.rows.times.push(time);
            if let (Some(all), Some(amounts)) = (&mut self.rows.amounts, amounts) {
                all.push(value(amounts));
            }
            let names = self.rows.kinds.iter_mut().chain(&mut self.rows.segments);
            for (names, texts) in names.zip(&texts) {
                names.push(texts.is_valid(row).then(|| texts.value(row)));
            }
            if let Some((partitions, offsets)) = positions {
                self.positions.push((partitions.value(row), offsets.value(row)));
            }
        }
        Ok(())
    }

    fn label(&self, labels: &Float64Array, row: usize) -> Result<Option<bool>> {
        if labels.is_null(row) {
            return Ok(None);
        }
        match labels.value(row) {
            0.0 => Ok(Some(false)),
            1.0 => Ok(Some(true)),
            _ => Err(Error::data(format!(
                "the label {} has a value other than 0 and 1; expected 1 (or true) for a positive, 0 (or false) for any other \
                 row, and null where it is not known; compute such a column in a view, and name it as `training.label`",
                self.query.label
            ))),
        }
    }

    /// All rows, in the order of event time; of equal ones in that of their positions, or as they came.
    pub(super) fn finish(self) -> Rows {
        let Collector { mut rows, positions, .. } = self;
        let mut order: Vec<u32> = (0..rows.times.len() as u32).collect();
        let position = |row: u32| positions.get(row as usize).copied().unwrap_or_default();
        order.sort_unstable_by_key(|row| (rows.times[*row as usize], position(*row), *row));
        rows.times.sort_unstable();
        let labels = order.iter().map(|row| rows.labels[*row as usize]).collect();
        rows.labels = labels;
        if let Some(amounts) = &mut rows.amounts {
            *amounts = order.iter().map(|row| amounts[*row as usize]).collect();
        }
        for names in rows.kinds.iter_mut().chain(&mut rows.segments) {
            names.codes = order.iter().map(|row| names.codes[*row as usize]).collect();
        }
        permute(&mut rows.values, rows.num_features, order);
        rows
    }
}

/// Partition and offset of rows that say where they come from.
fn positions(batch: &RecordBatch) -> Option<(&arrow::array::Int32Array, &arrow::array::Int64Array)> {
    let partitions = batch.column_by_name("_partition")?.as_primitive_opt()?;
    let offsets = batch.column_by_name("_offset")?.as_primitive_opt()?;
    Some((partitions, offsets))
}

fn wrong_columns() -> Error {
    Error::internal("the rows to train on do not have the columns of their query")
}

fn number_column(batch: &RecordBatch, column: usize) -> Result<&Float64Array> {
    batch.column(column).as_primitive_opt::<Float64Type>().ok_or_else(wrong_columns)
}

/// Row `i` becomes what row `order[i]` was, without a second copy of all: along the cycles of the permutation.
fn permute(values: &mut [f64], num_features: usize, mut order: Vec<u32>) {
    let mut kept = vec![0.0; num_features];
    for start in 0..order.len() {
        if order[start] as usize == start {
            continue;
        }
        kept.copy_from_slice(&values[start * num_features..(start + 1) * num_features]);
        let mut row = start;
        loop {
            let from = order[row] as usize;
            order[row] = row as u32;
            if from == start {
                values[row * num_features..(row + 1) * num_features].copy_from_slice(&kept);
                break;
            }
            values.copy_within(from * num_features..(from + 1) * num_features, row * num_features);
            row = from;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rows for tests: of each the time, the label and the features.
    pub(crate) fn rows(rows: &[(i64, bool, Vec<f64>)]) -> Rows {
        Rows {
            num_features: rows.first().map_or(0, |row| row.2.len()),
            values: rows.iter().flat_map(|row| row.2.clone()).collect(),
            labels: rows.iter().map(|row| row.1).collect(),
            times: rows.iter().map(|row| row.0).collect(),
            ..Rows::default()
        }
    }

    #[test]
    fn rows_are_permuted_in_place() {
        for order in [vec![0, 1, 2, 3], vec![3, 2, 1, 0], vec![1, 2, 3, 0], vec![2, 0, 1, 3], vec![1, 0, 3, 2]] {
            let mut values: Vec<f64> = (0..8).map(f64::from).collect();
            permute(&mut values, 2, order.clone());
            let expected: Vec<f64> =
                order.iter().flat_map(|row| [f64::from(2 * row), f64::from(2 * row + 1)]).collect();
            assert_eq!(values, expected, "{order:?}");
        }
        permute(&mut [], 3, Vec::new());
    }
}
