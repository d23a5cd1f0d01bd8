//! The totals of all groups of a `GROUP BY` at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, Float64Array};
use datafusion_common::Result;
use datafusion_common::cast::{as_binary_array, as_float64_array};
use datafusion_expr::{EmitTo, GroupsAccumulator};

use super::accumulator::only;
use super::statistic::{Statistic, Totals};

#[derive(Debug)]
pub(super) struct ExactGroups<T> {
    statistic: Statistic,
    groups: Vec<T>,
    /// Kept up to date, since DataFusion asks after each batch, and a walk over all groups would cost more than the batch.
    heap_bytes: usize,
}

impl<T: Totals> ExactGroups<T> {
    pub(super) fn new(statistic: Statistic) -> Self {
        Self { statistic, groups: Vec::new(), heap_bytes: 0 }
    }

    fn apply(&mut self, group: usize, apply: impl FnOnce(&mut T)) {
        let totals = &mut self.groups[group];
        let before = totals.heap_bytes();
        apply(totals);
        self.heap_bytes = self.heap_bytes + totals.heap_bytes() - before;
    }

    fn resize(&mut self, num_groups: usize) {
        self.groups.resize_with(num_groups, T::default);
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<T> {
        let taken = emit_to.take_needed(&mut self.groups);
        self.heap_bytes -= taken.iter().map(T::heap_bytes).sum::<usize>();
        taken
    }
}

impl<T: Totals> GroupsAccumulator for ExactGroups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        num_groups: usize,
    ) -> Result<()> {
        self.resize(num_groups);
        let values = as_float64_array(only(values)?)?;
        let rows = group_indices.iter().zip(values.values());
        if values.null_count() == 0 && filter.is_none() {
            rows.for_each(|(group, value)| self.apply(*group, |totals| totals.add(*value)));
        } else {
            rows.enumerate()
                .filter(|(row, _)| values.is_valid(*row) && passes(filter, *row))
                .for_each(|(_, (group, value))| self.apply(*group, |totals| totals.add(*value)));
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], num_groups: usize) -> Result<()> {
        self.resize(num_groups);
        for (group, state) in group_indices.iter().zip(as_binary_array(only(states)?)?) {
            if let Some(state) = state {
                let other = T::from_state(state)?;
                self.apply(*group, |totals| totals.merge(&other));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.take(emit_to);
        Ok(Arc::new(groups.iter().map(|totals| totals.result(self.statistic)).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.take(emit_to);
        Ok(vec![Arc::new(BinaryArray::from_iter_values(groups.iter().map(T::to_bytes)))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let state = |value| {
            let mut totals = T::default();
            totals.add(value);
            totals.to_bytes()
        };
        let values = as_float64_array(only(values)?)?.iter().enumerate();
        let states = values.map(|(row, value)| value.filter(|_| passes(filter, row)).map(state));
        Ok(vec![Arc::new(states.collect::<BinaryArray>())])
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<T>() + self.heap_bytes
    }
}

/// Whether a row passes `FILTER (WHERE ...)`: null does not.
fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}
