//! The fallback: an aggregate without a kernel, computed for each row from scratch on exactly the rows that it sees. The
//! rows of many frames are gathered before the aggregate is called, so that a batch pays for it once. What computes the
//! aggregate is not known here; nothing of it is state.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::blocks::{Row, Rows, mask};
use crate::state::strings::Strings;
use crate::state::value::ColumnBuilder;

use super::fold::for_each_bit;
use super::plan::Plan;

/// Gathered rows at which the aggregate is called: enough to make the call cheap, few enough to stay in the cache.
const ROWS_TOGETHER: usize = 8192;

/// An aggregate that is computed from all rows of a frame at once.
pub trait RowAggregate: Debug + Send + Sync {
    /// Its name in SQL.
    fn name(&self) -> &str;

    /// The types of the retained columns that it takes.
    fn argument_types(&self) -> &[DataType];

    /// The type of its answers.
    fn output_type(&self) -> &DataType;

    /// Answers some frames, in their order. `columns` are the retained columns that it takes. A frame is the rows
    /// `start..end` of these, in total order, those that its FILTER rejects left out; `None` is a frame that has no row
    /// even without FILTER. What it answers to a frame depends on that frame alone, whatever stands beside it, and it
    /// keeps nothing.
    fn evaluate(&self, columns: &[ArrayRef], frames: &[Option<Range<usize>>]) -> Result<FrameAnswers>;
}

/// Answers to some frames.
#[derive(Debug)]
pub struct FrameAnswers {
    /// One value per frame, of the aggregate's type.
    pub values: ArrayRef,
    /// The frames that could not be answered, ascending, and why, without the content of any row; their values are null.
    pub failures: Vec<(usize, String)>,
}

/// A row's call that could not be answered, such as an average that leaves the range of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// The row in the batch.
    pub row: usize,
    /// The call in the spec.
    pub call: usize,
    /// Why, without the content of any row: `avg over a window: number out of range`.
    pub reason: String,
}

/// A call without a kernel, made ready.
#[derive(Debug)]
pub(super) struct PlannedFallback {
    pub(super) aggregate: Arc<dyn RowAggregate>,
    /// Its retained columns.
    pub(super) arguments: Vec<usize>,
    /// Bit column of the filter.
    pub(super) filter: Option<usize>,
    /// Index of the call.
    pub(super) call: usize,
}

/// What one call without a kernel gathers and is answered in one batch.
#[derive(Debug)]
pub(super) struct Gathered {
    columns: Vec<ColumnBuilder>,
    num_rows: usize,
    /// Where the frame begins that is being gathered.
    frame_start: usize,
    frames: Vec<Option<Range<usize>>>,
    answers: Vec<ArrayRef>,
    num_answers: usize,
    failures: Vec<FailedCall>,
    /// The first error that is no answer.
    outcome: Result<()>,
}

impl Gathered {
    pub(super) fn new(plan: &Plan, fallback: &PlannedFallback) -> Gathered {
        Gathered {
            columns: columns(plan, fallback),
            num_rows: 0,
            frame_start: 0,
            frames: Vec::new(),
            answers: Vec::new(),
            num_answers: 0,
            failures: Vec::new(),
            outcome: Ok(()),
        }
    }

    /// Adds rows `from..to` of a block, but for those that the filter rejects.
    pub(super) fn add_rows(
        &mut self,
        fallback: &PlannedFallback,
        rows: &Rows<'_>,
        from: usize,
        to: usize,
        strings: &Strings,
    ) {
        let all = mask(from, to);
        let passing = all & fallback.filter.map_or(u64::MAX, |filter| rows.bits(filter));
        for (builder, argument) in self.columns.iter_mut().zip(&fallback.arguments) {
            let (column, valid) = (rows.column(*argument), rows.bits(*argument));
            if builder.is_bytes() {
                for_each_bit(passing, |lane| {
                    builder.push_bytes((valid >> lane & 1 == 1).then(|| strings.get(column[lane])));
                });
            } else if passing & valid == all {
                builder.extend(&column[from..to]);
            } else {
                for_each_bit(passing, |lane| builder.push((valid >> lane & 1 == 1).then(|| column[lane])));
            }
        }
        self.num_rows += passing.count_ones() as usize;
    }

    /// Adds one row, unless the filter rejects it.
    pub(super) fn add_row(&mut self, fallback: &PlannedFallback, row: Row<'_>, strings: &Strings) {
        let is_set = |column: usize| row.bits >> column & 1 == 1;
        if !fallback.filter.is_none_or(is_set) {
            return;
        }
        for (builder, argument) in self.columns.iter_mut().zip(&fallback.arguments) {
            let word = is_set(*argument).then(|| row.words[*argument]);
            if builder.is_bytes() {
                builder.push_bytes(word.map(|word| strings.get(word)));
            } else {
                builder.push(word);
            }
        }
        self.num_rows += 1;
    }

    /// Ends the frame of one row of the batch.
    pub(super) fn end_frame(&mut self, plan: &Plan, fallback: &PlannedFallback, has_rows: bool) {
        self.frames.push(has_rows.then_some(self.frame_start..self.num_rows));
        self.frame_start = self.num_rows;
        if self.num_rows >= ROWS_TOGETHER {
            self.answer(plan, fallback);
        }
    }

    /// Has the gathered frames answered.
    fn answer(&mut self, plan: &Plan, fallback: &PlannedFallback) {
        let gathered = std::mem::replace(&mut self.columns, columns(plan, fallback));
        let frames = std::mem::take(&mut self.frames);
        (self.num_rows, self.frame_start) = (0, 0);
        if frames.is_empty() || self.outcome.is_err() {
            return;
        }
        self.outcome = self.take_answers(gathered, &frames, fallback);
        self.num_answers += frames.len();
    }

    fn take_answers(
        &mut self,
        gathered: Vec<ColumnBuilder>,
        frames: &[Option<Range<usize>>],
        fallback: &PlannedFallback,
    ) -> Result<()> {
        let columns: Vec<ArrayRef> = gathered.into_iter().map(ColumnBuilder::finish).collect::<Result<_>>()?;
        let FrameAnswers { values, failures } = fallback.aggregate.evaluate(&columns, frames)?;
        if values.len() != frames.len() || values.data_type() != fallback.aggregate.output_type() {
            return Err(Error::internal(format!(
                "{} over a window gave {} answers of type {}, asked were {} of type {}",
                fallback.aggregate.name(),
                values.len(),
                values.data_type(),
                frames.len(),
                fallback.aggregate.output_type()
            )));
        }
        self.answers.push(values);
        let first = self.num_answers;
        let name = fallback.aggregate.name();
        self.failures.extend(failures.into_iter().map(|(frame, reason)| FailedCall {
            row: first + frame,
            call: fallback.call,
            reason: format!("{name} over a window: {reason}"),
        }));
        Ok(())
    }

    /// The call's column, and which rows could not be answered.
    pub(super) fn finish(mut self, plan: &Plan, fallback: &PlannedFallback) -> Result<(ArrayRef, Vec<FailedCall>)> {
        self.answer(plan, fallback);
        self.outcome?;
        let column = match self.answers.as_slice() {
            [] => new_empty_array(fallback.aggregate.output_type()),
            [only] => Arc::clone(only),
            several => {
                let several: Vec<&dyn Array> = several.iter().map(|array| array.as_ref()).collect();
                arrow::compute::concat(&several).map_err(|error| {
                    Error::internal("the answers of a call over a window do not fit together").with_source(error)
                })?
            }
        };
        Ok((column, self.failures))
    }
}

fn columns(plan: &Plan, fallback: &PlannedFallback) -> Vec<ColumnBuilder> {
    fallback.arguments.iter().map(|argument| ColumnBuilder::new(&plan.arguments[*argument].0, 0)).collect()
}
