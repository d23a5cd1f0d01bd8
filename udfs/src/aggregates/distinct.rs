//! The accumulator of `DISTINCT`: it counts each value, so that a value leaves a window with its last row.
//!
//! 0.0 and -0.0 are one value, and so are all NaN, as in a `GROUP BY`. Stock's accumulators tell them apart, but its planner makes a `GROUP BY` of a
//! `DISTINCT` that is alone; here a result must not depend on which plan it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Field};
use datafusion_common::utils::SingleRowListArrayBuilder;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::Accumulator;

use super::accumulator::{for_each_value, only};
use super::statistic::{Statistic, Totals};

/// The state: the list of the values, in the order of their bits.
pub(super) fn state_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Float64, true)))
}

/// Bits that are equal for equal values.
fn key(value: f64) -> u64 {
    // The sum of 0.0 and -0.0 is 0.0.
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}

#[derive(Debug)]
pub(super) struct DistinctAccumulator<T> {
    statistic: Statistic,
    /// How many rows hold the value of these [`key`] bits.
    rows: BTreeMap<u64, u64>,
    totals: T,
}

impl<T: Totals> DistinctAccumulator<T> {
    pub(super) fn new(statistic: Statistic) -> Self {
        Self { statistic, rows: BTreeMap::new(), totals: T::default() }
    }

    fn add(&mut self, value: f64) {
        let rows = self.rows.entry(key(value)).or_insert(0);
        *rows += 1;
        if *rows == 1 {
            self.totals.add(value);
        }
    }

    fn remove(&mut self, value: f64) {
        let key = key(value);
        if let Some(rows) = self.rows.get_mut(&key) {
            *rows -= 1;
            if *rows == 0 {
                self.rows.remove(&key);
                self.totals.remove(value);
            }
        }
    }
}

impl<T: Totals> Accumulator for DistinctAccumulator<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for_each_value(values, |value| self.add(value))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for_each_value(values, |value| self.remove(value))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.totals.result(self.statistic)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = Float64Array::from_iter_values(self.rows.keys().copied().map(f64::from_bits));
        Ok(vec![SingleRowListArrayBuilder::new(Arc::new(values)).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in only(states)?.as_list::<i32>().iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        // The tree's nodes are about as full as not.
        size_of_val(self) + self.totals.heap_bytes() + self.rows.len() * 3 * size_of::<u64>()
    }
}
