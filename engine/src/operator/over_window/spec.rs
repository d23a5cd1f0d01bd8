//! What an over-window computes, as plain data: keys, retained columns, calls and their frames. It says what type a
//! call gives and refuses, by name, what the kernels do not do, so that the caller can fall back or tell the user.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::value::{Kind, unsupported};

use super::fallback::RowAggregate;

/// What a call computes over the rows of its frame. Nulls are skipped as SQL does, except by the functions that name a
/// row.
#[derive(Debug, Clone)]
pub enum Function {
    /// `count(*)`.
    CountRows,
    /// `count(x)`.
    Count,
    /// `count(DISTINCT x)`; floats are told apart by their bits, as DataFusion does.
    CountDistinct,
    /// `sum(x)`: of integers wrapping in 64 bits, of floats exact and rounded once.
    Sum,
    /// `avg(x)`, exact and rounded once; integers as the doubles that a cast makes of them.
    Avg,
    /// `min(x)`; floats by `total_cmp`.
    Min,
    /// `max(x)`; floats by `total_cmp`, so that a NaN is the greatest.
    Max,
    /// `var_samp(x)`.
    VarSamp,
    /// `var_pop(x)`.
    VarPop,
    /// `stddev_samp(x)`.
    StddevSamp,
    /// `stddev_pop(x)`.
    StddevPop,
    /// `first_value(x)`, nulls included.
    FirstValue,
    /// `last_value(x)`, nulls included.
    LastValue,
    /// `lag(x, offset, default)`; the frame is not looked at.
    Lag {
        /// Rows back; 0 is the row itself.
        offset: usize,
        /// An array of one value of the argument's type, used where there is no such row; null without one.
        default: Option<ArrayRef>,
    },
    /// `row_number()`; the frame is not looked at.
    RowNumber,
    /// An aggregate that has no kernel, computed for each row from scratch on the rows of its frame, which must be
    /// bounded.
    Fallback {
        /// What computes it.
        aggregate: Arc<dyn RowAggregate>,
        /// Indices of the columns that it takes among the retained columns; the call's own `argument` is none.
        arguments: Vec<usize>,
    },
}

/// Which rows of its key a row's call sees, always among those that arrived before it or are itself (design, section
/// 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frame {
    /// `RANGE BETWEEN <preceding> PRECEDING AND <until> PRECEDING`, in microseconds; `until` 0 is `CURRENT ROW`.
    Range {
        /// Length back from the row, microseconds, not negative.
        preceding_micros: i64,
        /// Where it ends before the row, microseconds, at most `preceding_micros`.
        until_micros: i64,
    },
    /// `ROWS BETWEEN <preceding> PRECEDING AND <until> PRECEDING`; `until` 0 is `CURRENT ROW`.
    Rows {
        /// Rows back.
        preceding: usize,
        /// Rows before the row where it ends, at most `preceding`.
        until: usize,
    },
    /// `ROWS` (or, to `CURRENT ROW`, `RANGE`) `BETWEEN UNBOUNDED PRECEDING AND <until> PRECEDING`; `until` 0 is
    /// `CURRENT ROW`.
    Unbounded {
        /// Rows before the row where it ends.
        until: usize,
    },
}

/// One call of a window function: one output column.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it computes.
    pub function: Function,
    /// Index of its argument among the retained columns; none for `count(*)`, `row_number()` and a fallback.
    pub argument: Option<usize>,
    /// Index of its FILTER among the filter columns.
    pub filter: Option<usize>,
    /// Which rows it sees.
    pub frame: Frame,
}

/// Everything that one over-window operator computes: calls that share keys and order.
#[derive(Debug, Clone)]
pub struct WindowSpec {
    /// Types of the PARTITION BY columns. None is one key for all rows of a state unit.
    pub keys: Vec<DataType>,
    /// Types of the retained columns: the calls' arguments, each once.
    pub arguments: Vec<DataType>,
    /// Number of boolean FILTER columns.
    pub num_filters: usize,
    /// The calls, in the order of the output columns.
    pub calls: Vec<Call>,
    /// How far below W a row may be and still see all of its frame.
    pub max_lateness: Duration,
    /// The length that `ROWS n` and `lag` have in event time.
    pub max_lookback: Duration,
}

impl WindowSpec {
    /// The default of `max_lateness`: two hours.
    pub const MAX_LATENESS: Duration = Duration::from_secs(2 * 3600);

    /// The default of `max_lookback`: ninety days.
    pub const MAX_LOOKBACK: Duration = Duration::from_secs(90 * 24 * 3600);
}

impl Function {
    /// Its name in SQL.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Function::CountRows | Function::Count | Function::CountDistinct => "count",
            Function::Sum => "sum",
            Function::Avg => "avg",
            Function::Min => "min",
            Function::Max => "max",
            Function::VarSamp => "var_samp",
            Function::VarPop => "var_pop",
            Function::StddevSamp => "stddev_samp",
            Function::StddevPop => "stddev_pop",
            Function::FirstValue => "first_value",
            Function::LastValue => "last_value",
            Function::Lag { .. } => "lag",
            Function::RowNumber => "row_number",
            Function::Fallback { aggregate, .. } => aggregate.name(),
        }
    }

    fn takes_filter(&self) -> bool {
        !matches!(self, Function::FirstValue | Function::LastValue | Function::Lag { .. } | Function::RowNumber)
    }
}

impl Call {
    /// What computes it, for `explain`.
    #[must_use]
    pub fn runs_on(&self) -> String {
        let kind = if matches!(self.function, Function::Fallback { .. }) { "fallback" } else { "kernel" };
        format!("{kind} {}", self.function.name())
    }

    /// The type of its output column, or why the kernels do not compute it (kind `Invalid`). `arguments` and
    /// `num_filters` are those of the spec.
    pub fn output_type(&self, arguments: &[DataType], num_filters: usize) -> Result<DataType> {
        let name = self.function.name();
        let refuse = |why: &str| Err(Error::invalid(format!("{name} over a window: {why}")));
        if self.filter.is_some_and(|filter| filter >= num_filters) {
            return Err(Error::internal("a window call names a filter that its spec does not have"));
        }
        if self.filter.is_some() && !self.function.takes_filter() {
            return refuse("FILTER applies to aggregate functions only");
        }
        self.check_frame()?;
        if let Function::Fallback { aggregate, arguments: columns } = &self.function {
            return self.fallback_type(aggregate.as_ref(), columns, arguments);
        }
        let argument = match (&self.function, self.argument) {
            (Function::CountRows, None) => return Ok(DataType::Int64),
            (Function::RowNumber, None) => return Ok(DataType::UInt64),
            (Function::CountRows | Function::RowNumber, Some(_)) => return refuse("takes no argument"),
            (_, None) => return refuse("needs an argument"),
            (_, Some(argument)) => arguments
                .get(argument)
                .ok_or_else(|| Error::internal("a window call names an argument that its spec does not have"))?,
        };
        if Kind::of(argument).is_none() {
            return Err(unsupported(argument));
        }
        match &self.function {
            Function::Count => Ok(DataType::Int64),
            Function::CountDistinct if matches!(self.frame, Frame::Unbounded { .. }) => {
                refuse("count(DISTINCT) needs a bounded frame, as its state would grow for ever")
            }
            Function::CountDistinct => Ok(DataType::Int64),
            Function::Sum if argument.is_signed_integer() => Ok(DataType::Int64),
            Function::Sum if argument.is_unsigned_integer() => Ok(DataType::UInt64),
            Function::Sum if is_float(argument) => Ok(DataType::Float64),
            Function::Avg | Function::VarSamp | Function::VarPop | Function::StddevSamp | Function::StddevPop
                if argument.is_integer() || is_float(argument) =>
            {
                Ok(DataType::Float64)
            }
            Function::Sum | Function::Avg => refuse(&format!("not of type {argument}; integers and floats")),
            Function::VarSamp | Function::VarPop | Function::StddevSamp | Function::StddevPop => {
                refuse(&format!("not of type {argument}; integers and floats"))
            }
            Function::Lag { default: Some(default), .. } if default.len() != 1 || default.data_type() != argument => {
                refuse(&format!("the default must be one value of type {argument}"))
            }
            _ => Ok(argument.clone()),
        }
    }

    fn fallback_type(
        &self,
        aggregate: &dyn RowAggregate,
        columns: &[usize],
        arguments: &[DataType],
    ) -> Result<DataType> {
        if matches!(self.frame, Frame::Unbounded { .. }) {
            return Err(Error::invalid(format!(
                "{} over a window needs a bounded frame, as its state would grow for ever; write RANGE BETWEEN INTERVAL '90 days' PRECEDING AND CURRENT ROW, or ROWS BETWEEN 1000 PRECEDING AND CURRENT ROW, with the length that the feature needs",
                aggregate.name()
            )));
        }
        if self.argument.is_some() {
            return Err(Error::internal("the arguments of a window call that falls back stand in its function"));
        }
        let types = columns.iter().map(|column| arguments.get(*column));
        if !types.eq(aggregate.argument_types().iter().map(Some)) {
            return Err(Error::internal(format!(
                "{} over a window is given columns of other types than it was made for",
                aggregate.name()
            )));
        }
        match aggregate.argument_types().iter().find(|argument| Kind::of(argument).is_none()) {
            Some(argument) => Err(unsupported(argument)),
            None => Ok(aggregate.output_type().clone()),
        }
    }

    fn check_frame(&self) -> Result<()> {
        let is_wrong = match self.frame {
            Frame::Range { preceding_micros, until_micros } => until_micros < 0 || preceding_micros < until_micros,
            Frame::Rows { preceding, until } => preceding < until,
            Frame::Unbounded { .. } => false,
        };
        if is_wrong {
            return Err(Error::invalid(format!(
                "{} over a window: the frame ends before it begins, or after the current row",
                self.function.name()
            )));
        }
        Ok(())
    }
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float64 | DataType::Float32)
}
