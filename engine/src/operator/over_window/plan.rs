//! A spec made ready to run: distinct frames and measures, what each call reads, and how long rows are needed. Nothing
//! in it changes while the operator lives, so state is a function of the plan and the rows alone (I8).

use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::error::{Error, Result};
use crate::state::blocks::{Row, RowLayout, Rows};
use crate::state::keys::KeyLayout;
use crate::state::strings::Strings;
use crate::state::tree::Summarise;
use crate::state::value::{ColumnBuilder, InputColumn, Kind};

use super::fallback::PlannedFallback;
use super::fold::{Fold, Measure, What};
use super::follow::Followers;
use super::spec::{Call, Frame, Function, WindowSpec};

/// How a call's output comes from what was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// The fold of a measure over the frame.
    Fold { measure: usize, finish: Finish },
    /// The number of distinct values.
    Distinct { argument: usize },
    /// The value of the frame's first row, or its last.
    Edge { argument: usize, is_first: bool },
    /// The value of the row `offset` before, or the default.
    Lag { argument: usize, offset: usize, default: Option<Literal> },
    /// Computed from scratch, by the fallback of this index.
    Fallback { index: usize },
}

/// What is taken from a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Count,
    Sum,
    Mean,
    Variance { ddof: u64, is_root: bool },
    Extreme,
    Edge,
}

/// A constant of an argument's type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Word(u64),
    Bytes(Box<[u8]>),
}

/// One call, made ready.
#[derive(Debug, Clone)]
pub(super) struct PlannedCall {
    pub(super) act: Act,
    /// Index among the distinct frames.
    pub(super) frame: usize,
    /// Index of its fold among those of the rows that a key forgot; for unbounded frames.
    pub(super) prefix: Option<usize>,
    pub(super) output: DataType,
    /// The argument's kind.
    pub(super) kind: Kind,
    /// Bit column of the filter.
    pub(super) filter: Option<usize>,
}

impl PlannedCall {
    /// Room for its answers; none for a call without a kernel, whose answers come whole.
    pub(super) fn builder(&self, rows: usize) -> ColumnBuilder {
        match self.act {
            Act::Fallback { .. } => ColumnBuilder::new(&DataType::Boolean, 0),
            _ => ColumnBuilder::new(&self.output, rows),
        }
    }
}

/// A spec made ready to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) keys: KeyLayout,
    pub(super) arguments: Vec<(DataType, Kind)>,
    pub(super) num_filters: usize,
    pub(super) calls: Vec<PlannedCall>,
    pub(super) fallbacks: Vec<PlannedFallback>,
    pub(super) frames: Vec<Frame>,
    pub(super) measures: Vec<Measure>,
    /// Measures of which long rings keep summaries; a number of rows needs none.
    summarised: Vec<usize>,
    /// Measures of which each key keeps the fold of the rows that it forgot.
    pub(super) prefixes: Vec<usize>,
    pub(super) max_lateness: i64,
    pub(super) max_lookback: i64,
    /// Length of the longest RANGE frame.
    range_max: Option<i64>,
    /// Rows that the longest ROWS frame or lag reaches back.
    rows_max: Option<usize>,
    /// Rows that an unbounded frame leaves out at its end, beyond the row itself.
    unbounded_until: Option<usize>,
}

fn micros(duration: Duration, name: &str) -> Result<i64> {
    i64::try_from(duration.as_micros()).map_err(|_| Error::invalid(format!("{name} is longer than 290 000 years")))
}

fn literal(array: &ArrayRef) -> Result<Option<Literal>> {
    let column = InputColumn::read(array, array.data_type())?;
    Ok(column.is_valid(0).then(|| match &column.bytes {
        Some(bytes) => Literal::Bytes(bytes.get(0).into()),
        None => Literal::Word(column.words[0]),
    }))
}

fn position_or_push<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    items.iter().position(|held| *held == item).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}

impl Plan {
    pub(super) fn new(spec: &WindowSpec) -> Result<Plan> {
        let kind = |data_type: &DataType| {
            Kind::of(data_type)
                .ok_or_else(|| crate::state::value::unsupported(data_type))
                .map(|kind| (data_type.clone(), kind))
        };
        if spec.arguments.len() + spec.num_filters > 64 {
            return Err(Error::invalid(
                "an over-window holds at most 64 argument and FILTER columns; use several windows",
            ));
        }
        let mut plan = Plan {
            keys: KeyLayout::new(spec.keys.clone())?,
            arguments: spec.arguments.iter().map(kind).collect::<Result<_>>()?,
            num_filters: spec.num_filters,
            calls: Vec::new(),
            fallbacks: Vec::new(),
            frames: Vec::new(),
            measures: Vec::new(),
            summarised: Vec::new(),
            prefixes: Vec::new(),
            max_lateness: micros(spec.max_lateness, "max_lateness")?,
            max_lookback: micros(spec.max_lookback, "max_lookback")?,
            range_max: None,
            rows_max: None,
            unbounded_until: None,
        };
        for call in &spec.calls {
            let output = call.output_type(&spec.arguments, spec.num_filters)?;
            plan.add_call(call, output)?;
        }
        plan.summarised = (0..plan.measures.len()).filter(|measure| !plan.measures[*measure].counts_rows()).collect();
        Ok(plan)
    }

    fn add_call(&mut self, call: &Call, output: DataType) -> Result<()> {
        let kind = call.argument.map_or(Kind::Unsigned, |argument| self.arguments[argument].1);
        let frame = match &call.function {
            Function::Lag { offset, .. } => Frame::Rows { preceding: *offset, until: 0 },
            Function::RowNumber => Frame::Unbounded { until: 0 },
            _ => call.frame,
        };
        let is_unbounded = matches!(frame, Frame::Unbounded { .. });
        let filter = call.filter.map(|filter| self.arguments.len() + filter);
        let act = self.act(call, &output, is_unbounded, filter)?;
        let prefix = match act {
            Act::Fold { measure, .. } if is_unbounded => Some(position_or_push(&mut self.prefixes, measure)),
            _ => None,
        };
        match frame {
            Frame::Range { preceding_micros, .. } => self.range_max = self.range_max.max(Some(preceding_micros)),
            Frame::Rows { preceding, .. } => self.rows_max = self.rows_max.max(Some(preceding)),
            Frame::Unbounded { until } => {
                self.unbounded_until = self.unbounded_until.max(Some(until.saturating_sub(1)));
            }
        }
        let frame = position_or_push(&mut self.frames, frame);
        self.calls.push(PlannedCall { act, frame, prefix, output, kind, filter });
        Ok(())
    }

    fn act(&mut self, call: &Call, output: &DataType, is_unbounded: bool, filter: Option<usize>) -> Result<Act> {
        let argument = call.argument.unwrap_or(0);
        let (what, finish) = match &call.function {
            Function::CountDistinct => return Ok(Act::Distinct { argument }),
            Function::Lag { offset, default } => {
                let default = default.as_ref().map(literal).transpose()?.flatten();
                return Ok(Act::Lag { argument, offset: *offset, default });
            }
            Function::FirstValue | Function::LastValue if !is_unbounded => {
                return Ok(Act::Edge { argument, is_first: matches!(call.function, Function::FirstValue) });
            }
            Function::Fallback { aggregate, arguments } => {
                let (aggregate, arguments) = (Arc::clone(aggregate), arguments.clone());
                self.fallbacks.push(PlannedFallback { aggregate, arguments, filter, call: self.calls.len() });
                return Ok(Act::Fallback { index: self.fallbacks.len() - 1 });
            }
            Function::CountRows | Function::Count | Function::RowNumber => (What::Count, Finish::Count),
            Function::Sum if *output == DataType::Float64 => (What::Floats, Finish::Sum),
            Function::Sum => (What::Integers, Finish::Sum),
            Function::Avg => (What::Floats, Finish::Mean),
            Function::Min => (What::Min, Finish::Extreme),
            Function::Max => (What::Max, Finish::Extreme),
            Function::VarSamp => (What::Moments, Finish::Variance { ddof: 1, is_root: false }),
            Function::VarPop => (What::Moments, Finish::Variance { ddof: 0, is_root: false }),
            Function::StddevSamp => (What::Moments, Finish::Variance { ddof: 1, is_root: true }),
            Function::StddevPop => (What::Moments, Finish::Variance { ddof: 0, is_root: true }),
            Function::FirstValue => (What::First, Finish::Edge),
            Function::LastValue => (What::Last, Finish::Edge),
        };
        let kind = call.argument.map_or(Kind::Unsigned, |argument| self.arguments[argument].1);
        let measure = Measure { what, argument: call.argument, kind, filter };
        Ok(Act::Fold { measure: position_or_push(&mut self.measures, measure), finish })
    }

    pub(super) fn row_layout(&self) -> RowLayout {
        RowLayout { num_words: self.arguments.len(), num_bits: self.arguments.len() + self.num_filters }
    }

    /// How long after its event time a row may be needed, counted by W, in microseconds.
    pub(super) fn lifetime(&self) -> i64 {
        let lookback = self.rows_max.map_or(0, |_| self.max_lookback);
        self.range_max.unwrap_or(0).max(lookback).saturating_add(self.max_lateness)
    }

    /// How many of a ring's first rows no row to come can see one by one, given H (design, section 4). `rank_lower`
    /// counts the rows below an event time. W never goes back (I4), so what is not needed now never will be.
    #[inline]
    pub(super) fn num_unneeded(&self, h: i64, rank_lower: impl Fn(i64) -> usize) -> usize {
        let below_h = rank_lower(h);
        let mut unneeded = below_h;
        if let Some(range) = self.range_max {
            unneeded = unneeded.min(rank_lower(h.saturating_sub(range)));
        }
        if let Some(rows) = self.rows_max {
            let below_lookback = rank_lower(h.saturating_sub(self.max_lookback));
            unneeded = unneeded.min(below_h.saturating_sub(rows).max(below_lookback));
        }
        if let Some(until) = self.unbounded_until {
            unneeded = unneeded.min(below_h.saturating_sub(until));
        }
        unneeded
    }

    /// A text that says what the state is made of; state of another layout is refused.
    pub(super) fn layout(&self) -> String {
        let arguments: Vec<&DataType> = self.arguments.iter().map(|(data_type, _)| data_type).collect();
        let prefixes: Vec<&Measure> = self.prefixes.iter().map(|measure| &self.measures[*measure]).collect();
        format!(
            "keys {:?}; arguments {arguments:?}; filters {}; prefixes {prefixes:?}; range {:?}; rows {:?}; until {:?}; lateness {}; lookback {}",
            self.keys.types(),
            self.num_filters,
            self.range_max,
            self.rows_max,
            self.unbounded_until,
            self.max_lateness,
            self.max_lookback
        )
    }

    /// The value that a row gives to a call of `count(DISTINCT)`, if it gives one.
    #[inline]
    pub(super) fn distinct_word(&self, call: usize, row: Row<'_>) -> Option<u64> {
        let Act::Distinct { argument } = self.calls[call].act else { return None };
        let is_set = |column: usize| row.bits >> column & 1 == 1;
        (is_set(argument) && self.calls[call].filter.is_none_or(is_set)).then(|| row.words[argument])
    }

    /// The place of a measure among the summaries of long rings.
    pub(super) fn summary_of(&self, measure: usize) -> Option<usize> {
        self.summarised.iter().position(|held| *held == measure)
    }
}

impl Summarise for Plan {
    type Summary = Box<[Fold]>;
    type Running = Followers;

    fn empty(&self) -> Box<[Fold]> {
        self.summarised.iter().map(|measure| self.measures[*measure].empty()).collect()
    }

    fn add_row(&self, summary: &mut Box<[Fold]>, row: Row<'_>, strings: &Strings) {
        for (fold, measure) in summary.iter_mut().zip(&self.summarised) {
            self.measures[*measure].add_row(fold, row, strings);
        }
    }

    fn add_rows(&self, summary: &mut Box<[Fold]>, rows: &Rows<'_>, from: usize, to: usize, strings: &Strings) {
        for (fold, measure) in summary.iter_mut().zip(&self.summarised) {
            self.measures[*measure].add_rows(fold, rows, from, to, strings);
        }
    }

    fn merge(&self, summary: &mut Box<[Fold]>, other: &Box<[Fold]>, strings: &Strings) {
        for ((fold, other), measure) in summary.iter_mut().zip(other).zip(&self.summarised) {
            self.measures[*measure].merge(fold, other, strings);
        }
    }

    fn inserted(&self, running: &mut Followers, at: usize, row: Row<'_>, strings: &Strings) {
        running.inserted(self, at, row, strings);
    }

    fn removed_first(&self, running: &mut Followers, num: usize) {
        running.removed_first(num);
    }

    fn running_bytes(&self, running: &Followers) -> usize {
        running.bytes()
    }

    fn summary_bytes(&self) -> usize {
        size_of::<Self::Summary>() + self.summarised.len() * size_of::<Fold>() + 64
    }
}
