//! A source's `check`s as compiled conditions. A condition that is false, null or fails on a row does not hold for that row.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::physical_expr::PhysicalExpr;

use super::failure::classify;
use crate::decode::RowChecks;
use crate::error::{Error, Result};

/// One compiled check.
#[derive(Debug, Clone)]
pub(super) struct Check {
    /// As the user wrote it.
    pub(super) text: Arc<str>,
    pub(super) condition: Arc<dyn PhysicalExpr>,
}

/// All checks of one source.
#[derive(Debug, Clone)]
pub(super) struct SourceChecks {
    pub(super) source: Arc<str>,
    pub(super) checks: Vec<Check>,
}

impl RowChecks for SourceChecks {
    fn first_failing(&mut self, batch: &RecordBatch) -> Result<Vec<Option<usize>>> {
        let mut first = vec![None; batch.num_rows()];
        for (index, check) in self.checks.iter().enumerate() {
            let holds = self.evaluate(check, batch)?;
            if holds.null_count() == 0 && !holds.has_false() {
                continue;
            }
            for (row, first) in first.iter_mut().enumerate() {
                let holds = holds.is_valid(row) && holds.value(row);
                if !holds && first.is_none() {
                    *first = Some(index);
                }
            }
        }
        Ok(first)
    }

    fn text(&self, check: usize) -> &str {
        &self.checks[check].text
    }
}

impl SourceChecks {
    /// The condition per row; false where it cannot be evaluated.
    fn evaluate(&self, check: &Check, batch: &RecordBatch) -> Result<BooleanArray> {
        if batch.num_rows() == 0 {
            return Ok(BooleanArray::from(Vec::<bool>::new()));
        }
        let value = check.condition.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        match value {
            Ok(array) => array.as_boolean_opt().cloned().ok_or_else(|| Error::internal("a check is not a condition")),
            Err(error) => {
                classify(&error, &format!("check of source {}", self.source))?;
                if batch.num_rows() == 1 {
                    return Ok(BooleanArray::from(vec![false]));
                }
                let middle = batch.num_rows() / 2;
                let left = self.evaluate(check, &batch.slice(0, middle))?;
                let right = self.evaluate(check, &batch.slice(middle, batch.num_rows() - middle))?;
                Ok(left.iter().chain(right.iter()).collect())
            }
        }
    }
}
