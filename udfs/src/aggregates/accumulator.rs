//! The accumulator of one group or one window. Removing is exact, so the one that slides is the one that does not.

use arrow::array::{Array, ArrayRef};
use datafusion_common::cast::{as_binary_array, as_float64_array};
use datafusion_common::{Result, ScalarValue, internal_datafusion_err};
use datafusion_expr::Accumulator;

use super::statistic::{Statistic, Totals};

#[derive(Debug)]
pub(super) struct ExactAccumulator<T> {
    statistic: Statistic,
    totals: T,
}

impl<T: Totals> ExactAccumulator<T> {
    pub(super) fn new(statistic: Statistic) -> Self {
        Self { statistic, totals: T::default() }
    }
}

impl<T: Totals> Accumulator for ExactAccumulator<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for_each_value(values, |value| self.totals.add(value))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for_each_value(values, |value| self.totals.remove(value))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.totals.result(self.statistic)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.totals.to_bytes()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in as_binary_array(only(states)?)?.iter().flatten() {
            self.totals.merge(&T::from_state(state)?);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.totals.heap_bytes()
    }
}

/// The one column that these functions take, and the one that is their state.
pub(super) fn only(columns: &[ArrayRef]) -> Result<&ArrayRef> {
    match columns {
        [column] => Ok(column),
        _ => Err(internal_datafusion_err!("an exact aggregate takes one column, found {}", columns.len())),
    }
}

/// Calls `apply` with every double that is not null.
pub(super) fn for_each_value(values: &[ArrayRef], mut apply: impl FnMut(f64)) -> Result<()> {
    let values = as_float64_array(only(values)?)?;
    if values.null_count() == 0 {
        values.values().iter().for_each(|value| apply(*value));
    } else {
        values.iter().flatten().for_each(apply);
    }
    Ok(())
}
