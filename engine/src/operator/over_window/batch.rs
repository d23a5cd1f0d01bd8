//! The input of an over-window, column by column, and the way from there to the words of one row.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::strings::Strings;
use crate::state::value::InputColumn;
use crate::types::Hidden;

use super::plan::Plan;

/// A batch as the operator takes it: the columns that its spec names, in the spec's order, and the hidden columns. Rows
/// of one state unit stand in the order of arrival; units may be mixed.
#[derive(Debug, Clone, Copy)]
pub struct WindowInput<'a> {
    /// The PARTITION BY columns.
    pub keys: &'a [ArrayRef],
    /// The retained columns.
    pub arguments: &'a [ArrayRef],
    /// The FILTER columns, boolean; null counts as false.
    pub filters: &'a [ArrayRef],
    /// Positions, event time and W.
    pub hidden: Hidden<'a>,
}

/// The columns of a batch, read.
#[derive(Debug)]
pub(super) struct BatchRows<'a> {
    arguments: Vec<InputColumn<'a>>,
    filters: Vec<InputColumn<'a>>,
    pub(super) event_times: &'a [i64],
    w: &'a arrow::array::Int64Array,
}

impl<'a> BatchRows<'a> {
    pub(super) fn new(plan: &Plan, input: &WindowInput<'a>) -> Result<BatchRows<'a>> {
        if input.arguments.len() != plan.arguments.len() || input.filters.len() != plan.num_filters {
            return Err(Error::internal("an over-window was given another number of columns than its spec says"));
        }
        let arguments: Vec<InputColumn<'a>> = input
            .arguments
            .iter()
            .zip(&plan.arguments)
            .map(|(array, (data_type, _))| InputColumn::read(array, data_type))
            .collect::<Result<_>>()?;
        let filters: Vec<InputColumn<'a>> =
            input.filters.iter().map(|array| InputColumn::read(array, &DataType::Boolean)).collect::<Result<_>>()?;
        let rows = input.hidden.num_rows();
        let arrays = input.keys.iter().chain(input.arguments).chain(input.filters);
        if arrays.into_iter().any(|array| array.len() != rows) {
            return Err(Error::internal("an over-window was given columns of different lengths"));
        }
        Ok(BatchRows { arguments, filters, event_times: input.hidden.event_time.values(), w: input.hidden.w })
    }

    /// W before a row, microseconds.
    #[inline(always)]
    pub(super) fn w(&self, row: usize) -> Option<i64> {
        use arrow::array::Array;
        (!self.w.is_null(row)).then(|| self.w.value(row))
    }

    /// Writes the words of a row, each string held once more, and gives its bits.
    #[inline(always)]
    pub(super) fn read(&self, row: usize, strings: &mut Strings, words: &mut [u64]) -> u64 {
        let mut bits = 0;
        for (index, (column, word)) in self.arguments.iter().zip(words).enumerate() {
            let is_valid = column.is_valid(row);
            bits |= u64::from(is_valid) << index;
            *word = match (is_valid, &column.bytes) {
                (false, _) => 0,
                (true, None) => column.words[row],
                (true, Some(bytes)) => strings.hold(bytes.get(row)),
            };
        }
        for (index, filter) in self.filters.iter().enumerate() {
            let passes = filter.is_valid(row) && filter.words[row] != 0;
            bits |= u64::from(passes) << (self.arguments.len() + index);
        }
        bits
    }
}
