//! The over-window written down a second time, straight from the rules of design section 4: every row looks at every
//! row that arrived before it. Quadratic, without state, without summaries, and so obviously right that the kernels are
//! tested against it. For tests only.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::exact::{ExactMoments, ExactSum};
use super::spec::{Call, Frame, Function};

/// A value, whatever its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    UInt(u64),
    Float(f64),
    Bool(bool),
    Text(String),
    Decimal(i128),
    Bytes(Vec<u8>),
}

/// An accepted row, with the W that its partition had before it.
#[derive(Debug, Clone)]
pub(super) struct LogRow {
    pub(super) unit: u32,
    pub(super) offset: i64,
    pub(super) ordinal: u32,
    pub(super) time: i64,
    pub(super) w: Option<i64>,
    pub(super) key: Vec<Value>,
    pub(super) arguments: Vec<Value>,
    pub(super) filters: Vec<Option<bool>>,
}

impl LogRow {
    /// The total order within a state unit.
    fn order(&self) -> (i64, i64, u32) {
        (self.time, self.offset, self.ordinal)
    }
}

/// Settings, microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) max_lateness: i64,
    pub(super) max_lookback: i64,
}

/// The answers to the last row of `log`: one per call, then `_late_by` and `_history_incomplete`. The log holds all
/// units.
pub(super) fn answer(log: &[LogRow], calls: &[Call], rules: Rules) -> (Vec<Value>, i64, bool) {
    let row = &log[log.len() - 1];
    let unit: Vec<&LogRow> = log.iter().filter(|other| other.unit == row.unit).collect();
    let arrived: Vec<&LogRow> = unit[..unit.len() - 1].iter().copied().filter(|other| other.key == row.key).collect();
    let h = row.w.map(|w| w - rules.max_lateness);
    let is_too_late = h.is_some_and(|h| row.time < h);
    let anchor = h.map_or(row.time, |h| h.max(row.time));
    let values = calls.iter().map(|call| one(call, row, &arrived, h, rules)).collect();
    let late_by = row.w.map_or(0, |w| (w - row.time).max(0));
    let reaches_below = calls.iter().any(|call| match (&call.function, call.frame) {
        (Function::Lag { .. } | Function::RowNumber, _) => false,
        (_, Frame::Range { preceding_micros, .. }) => anchor - preceding_micros < unit[0].time,
        _ => false,
    });
    (values, late_by, is_too_late || reaches_below)
}

/// Those of `arrived` that the row sees in its frame, in total order, and the row itself behind them if it sees itself.
fn visible<'a>(frame: Frame, row: &'a LogRow, arrived: &[&'a LogRow], h: Option<i64>, rules: Rules) -> Vec<&'a LogRow> {
    let mut arrived = arrived.to_vec();
    arrived.sort_by_key(|other| other.order());
    let is_below_h = |time: i64| h.is_some_and(|h| time < h);
    let anchor = h.map_or(row.time, |h| h.max(row.time));
    let before: Vec<&LogRow> = arrived.iter().copied().filter(|other| other.order() < row.order()).collect();
    let (mut seen, has_own) = match frame {
        Frame::Range { preceding_micros, until_micros } => {
            let seen = before
                .into_iter()
                .filter(|other| other.time >= anchor - preceding_micros)
                .filter(|other| until_micros == 0 || other.time <= row.time - until_micros);
            (seen.collect::<Vec<_>>(), until_micros == 0)
        }
        Frame::Rows { preceding, until } => {
            let below_h: Vec<_> = arrived.iter().filter(|other| is_below_h(other.time)).collect();
            let newest: BTreeSet<_> = below_h.iter().rev().take(preceding).map(|other| other.order()).collect();
            let seen: Vec<_> = before
                .into_iter()
                .filter(|other| other.time >= anchor - rules.max_lookback)
                .filter(|other| !is_below_h(other.time) || newest.contains(&other.order()))
                .collect();
            let from = seen.len().saturating_sub(preceding);
            let to = (seen.len() + usize::from(until > 0)).saturating_sub(until).max(from);
            (seen[from..to].to_vec(), until == 0)
        }
        Frame::Unbounded { until } => {
            let mut seen = if is_below_h(row.time) {
                arrived.iter().copied().filter(|other| is_below_h(other.time)).collect()
            } else {
                before
            };
            seen.truncate(seen.len().saturating_sub(until.saturating_sub(1)));
            (seen, until == 0)
        }
    };
    if has_own {
        seen.push(row);
    }
    seen
}

fn one(call: &Call, row: &LogRow, arrived: &[&LogRow], h: Option<i64>, rules: Rules) -> Value {
    let argument = call.argument.unwrap_or(0);
    match &call.function {
        Function::Lag { offset, default } => {
            let frame = Frame::Rows { preceding: *offset, until: 0 };
            let seen = visible(frame, row, arrived, h, rules);
            return match seen.len().checked_sub(1 + offset) {
                Some(at) => seen[at].arguments[argument].clone(),
                None => default.as_ref().map_or(Value::Null, super::tests::first_value_of),
            };
        }
        Function::RowNumber => {
            return Value::UInt(visible(Frame::Unbounded { until: 0 }, row, arrived, h, rules).len() as u64);
        }
        _ => {}
    }
    let seen = visible(call.frame, row, arrived, h, rules);
    let passes = |other: &LogRow| call.filter.is_none_or(|filter| other.filters[filter] == Some(true));
    let all: Vec<Value> = seen
        .iter()
        .filter(|other| passes(other))
        .map(|other| other.arguments.get(argument).cloned().unwrap_or(Value::Null))
        .collect();
    of_rows(&call.function, &all)
}

/// The answer of a function that sees rows of these values.
pub(super) fn of_rows(function: &Function, all: &[Value]) -> Value {
    match function {
        Function::CountRows => return Value::Int(all.len() as i64),
        Function::FirstValue => return all.first().cloned().unwrap_or(Value::Null),
        Function::LastValue => return all.last().cloned().unwrap_or(Value::Null),
        _ => {}
    }
    let values: Vec<Value> = all.iter().filter(|value| **value != Value::Null).cloned().collect();
    aggregate(function, &values)
}

fn aggregate(function: &Function, values: &[Value]) -> Value {
    let float = |value: Option<f64>| value.map_or(Value::Null, Value::Float);
    let mut sum = ExactSum::new();
    let mut moments = ExactMoments::new();
    for value in values {
        if let Some(value) = as_f64(value) {
            sum.add(value);
            moments.add(value);
        }
    }
    match function {
        Function::Count => Value::Int(values.len() as i64),
        Function::CountDistinct => {
            let distinct: BTreeSet<String> = values.iter().map(identity).collect();
            Value::Int(distinct.len() as i64)
        }
        _ if values.is_empty() => Value::Null,
        Function::Sum => match values[0] {
            Value::Int(_) => Value::Int(values.iter().fold(0, |sum: i64, value| sum.wrapping_add(as_i64(value)))),
            Value::UInt(_) => {
                Value::UInt(values.iter().fold(0, |sum: u64, value| sum.wrapping_add(as_i64(value) as u64)))
            }
            _ => Value::Float(sum.value()),
        },
        Function::Avg => Value::Float(sum.mean(values.len() as u64)),
        Function::VarSamp => float(moments.var(1)),
        Function::VarPop => float(moments.var(0)),
        Function::StddevSamp => float(moments.var(1).map(f64::sqrt)),
        Function::StddevPop => float(moments.var(0).map(f64::sqrt)),
        Function::Min => values.iter().min_by(|a, b| compare(a, b)).cloned().unwrap_or(Value::Null),
        Function::Max => values.iter().max_by(|a, b| compare(a, b)).cloned().unwrap_or(Value::Null),
        other => panic!("{other:?} is no aggregate"),
    }
}

fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::Int(value) => Some(*value as f64),
        Value::UInt(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::Null | Value::Bool(_) | Value::Text(_) | Value::Decimal(_) | Value::Bytes(_) => None,
    }
}

fn as_i64(value: &Value) -> i64 {
    match value {
        Value::Int(value) => *value,
        Value::UInt(value) => *value as i64,
        other => panic!("{other:?} is no integer"),
    }
}

/// What tells two values apart: of floats the bits.
pub(super) fn identity(value: &Value) -> String {
    match value {
        Value::Float(value) => format!("float {:x}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::UInt(a), Value::UInt(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        _ => panic!("values of two types: {a:?}, {b:?}"),
    }
}
