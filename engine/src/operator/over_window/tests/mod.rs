//! The over-window against its cases and its naive reference: whole, cut anywhere, and restored anywhere. The helpers
//! here turn rows into batches and batches into values; nothing here knows how the operator works.

pub(crate) mod cases;
mod fallback;
mod long_rings;
mod properties;
mod storage;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, StringArray, StringViewArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{
    DataType, Decimal128Type, DurationMicrosecondType, Float32Type, Float64Type, Int32Type, Int64Type, UInt64Type,
};

use super::reference::{LogRow, Rules, Value, answer, identity};
use super::{Call, Frame, Function, OverWindow, WindowInput, WindowOutput, WindowSpec};
use crate::types::{Assignment, Hidden};

/// An array of one type from values.
pub(super) fn array_of(data_type: &DataType, values: &[Value]) -> ArrayRef {
    macro_rules! collect {
        ($array:ty, $pattern:pat => $value:expr) => {
            Arc::new(
                values
                    .iter()
                    .map(|value| match value {
                        $pattern => Some($value),
                        Value::Null => None,
                        other => panic!("{other:?} is not of type {data_type}"),
                    })
                    .collect::<$array>(),
            )
        };
    }
    match data_type {
        DataType::Int32 => collect!(Int32Array, Value::Int(value) => *value as i32),
        DataType::Int64 => collect!(Int64Array, Value::Int(value) => *value),
        DataType::UInt64 => collect!(UInt64Array, Value::UInt(value) => *value),
        DataType::Float64 => collect!(Float64Array, Value::Float(value) => *value),
        DataType::Float32 => collect!(Float32Array, Value::Float(value) => *value as f32),
        DataType::Boolean => collect!(BooleanArray, Value::Bool(value) => *value),
        DataType::Utf8 => collect!(StringArray, Value::Text(value) => value.as_str()),
        DataType::Utf8View => collect!(StringViewArray, Value::Text(value) => value.as_str()),
        DataType::Binary => collect!(BinaryArray, Value::Bytes(value) => value.as_slice()),
        DataType::Decimal128(precision, scale) => {
            let value = |value: &Value| match value {
                Value::Decimal(value) => Some(*value),
                Value::Null => None,
                other => panic!("{other:?} is not of type {data_type}"),
            };
            let array: Decimal128Array = values.iter().map(value).collect();
            Arc::new(array.with_precision_and_scale(*precision, *scale).unwrap())
        }
        other => panic!("no test values of type {other}"),
    }
}

fn value_at(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt64 => Value::UInt(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => Value::Float(array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Utf8View => Value::Text(array.as_string_view().value(row).to_owned()),
        DataType::Binary => Value::Bytes(array.as_binary::<i32>().value(row).to_owned()),
        DataType::Decimal128(..) => Value::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        other => panic!("no test values of type {other}"),
    }
}

/// The one value of a default.
pub(super) fn first_value_of(array: &ArrayRef) -> Value {
    value_at(array, 0)
}

/// What one row was answered, in a form that compares floats by their bits.
type Answer = (Vec<String>, i64, bool);

/// Sends rows through an operator as one batch.
fn send(operator: &mut OverWindow, spec: &WindowSpec, log: &[LogRow]) -> Vec<Answer> {
    let column = |data_type: &DataType, get: &dyn Fn(&LogRow) -> Value| {
        array_of(data_type, &log.iter().map(get).collect::<Vec<_>>())
    };
    let keys: Vec<ArrayRef> =
        spec.keys.iter().enumerate().map(|(i, data_type)| column(data_type, &|row| row.key[i].clone())).collect();
    let arguments: Vec<ArrayRef> = spec
        .arguments
        .iter()
        .enumerate()
        .map(|(i, data_type)| column(data_type, &|row| row.arguments[i].clone()))
        .collect();
    let filters: Vec<ArrayRef> = (0..spec.num_filters)
        .map(|i| column(&DataType::Boolean, &|row| row.filters[i].map_or(Value::Null, Value::Bool)))
        .collect();
    let output = send_columns(operator, &keys, &arguments, &filters, log);
    answers(&output)
}

fn send_columns(
    operator: &mut OverWindow,
    keys: &[ArrayRef],
    arguments: &[ArrayRef],
    filters: &[ArrayRef],
    log: &[LogRow],
) -> WindowOutput {
    let unit: UInt32Array = log.iter().map(|row| Some(row.unit)).collect();
    let offset: Int64Array = log.iter().map(|row| Some(row.offset)).collect();
    let ordinal: UInt32Array = log.iter().map(|row| Some(row.ordinal)).collect();
    let event_time: Int64Array = log.iter().map(|row| Some(row.time)).collect();
    let w: Int64Array = log.iter().map(|row| row.w).collect();
    let broker_time: Int64Array = log.iter().map(|_| Some(-1)).collect();
    let hidden = Hidden {
        unit: &unit,
        offset: &offset,
        ordinal: &ordinal,
        event_time: &event_time,
        w: &w,
        broker_time: &broker_time,
    };
    operator.process(&WindowInput { keys, arguments, filters, hidden }).unwrap()
}

fn answers(output: &WindowOutput) -> Vec<Answer> {
    let late_by = output.late_by.as_primitive::<DurationMicrosecondType>();
    let is_incomplete = output.is_history_incomplete.as_boolean();
    (0..late_by.len())
        .map(|row| {
            let values = output.columns.iter().map(|column| identity(&value_at(column, row))).collect();
            (values, late_by.value(row), is_incomplete.value(row))
        })
        .collect()
}

/// An operator with all units of a log.
fn operator_for(spec: &WindowSpec, log: &[LogRow]) -> OverWindow {
    let mut operator = OverWindow::new(spec).unwrap();
    for unit in units_of(log) {
        operator.add_unit(unit, None).unwrap();
    }
    operator
}

fn units_of(log: &[LogRow]) -> Vec<Assignment> {
    let mut units: Vec<Assignment> = log.iter().map(|row| Assignment(row.unit)).collect();
    units.sort();
    units.dedup();
    units
}

/// The answers to a log cut into batches.
fn run(spec: &WindowSpec, log: &[LogRow], batches: &[Range<usize>]) -> Vec<Answer> {
    let mut operator = operator_for(spec, log);
    batches.iter().flat_map(|batch| send(&mut operator, spec, &log[batch.clone()])).collect()
}

/// The answers to a log in one batch.
fn run_whole(spec: &WindowSpec, log: &[LogRow]) -> Vec<Answer> {
    run(spec, log, std::slice::from_ref(&(0..log.len())))
}

/// The answers of the reference.
fn expected(spec: &WindowSpec, log: &[LogRow]) -> Vec<Answer> {
    let rules = Rules {
        max_lateness: spec.max_lateness.as_micros() as i64,
        max_lookback: spec.max_lookback.as_micros() as i64,
    };
    (0..log.len())
        .map(|row| {
            let (values, late_by, is_incomplete) = answer(&log[..=row], &spec.calls, rules);
            (values.iter().map(identity).collect(), late_by, is_incomplete)
        })
        .collect()
}

/// Fills in the W of each row: the greatest event time at lower offsets of its unit. Ordinals of one record share it.
fn with_w(mut log: Vec<LogRow>) -> Vec<LogRow> {
    for row in 0..log.len() {
        let (unit, offset) = (log[row].unit, log[row].offset);
        log[row].w =
            log[..row].iter().filter(|other| other.unit == unit && other.offset < offset).map(|other| other.time).max();
    }
    log
}

/// A unit's state as it comes out of a snapshot, put into another operator.
fn restored(spec: &WindowSpec, operator: &mut OverWindow, log: &[LogRow], rows_max: usize) -> OverWindow {
    let mut next = operator_for(spec, log);
    for unit in units_of(log) {
        let meta = operator.begin_snapshot(unit, super::SnapshotKind::Full).unwrap();
        next.restore_meta(unit, &meta).unwrap();
        while let Some(piece) = operator.next_piece(unit, rows_max).unwrap() {
            next.restore_piece(unit, &piece).unwrap();
        }
    }
    next
}

fn call(function: Function, argument: Option<usize>, frame: Frame) -> Call {
    Call { function, argument, filter: None, frame }
}

/// A frame of some seconds to the current row.
fn seconds(seconds: i64) -> Frame {
    Frame::Range { preceding_micros: seconds * 1_000_000, until_micros: 0 }
}

fn spec(arguments: Vec<DataType>, calls: Vec<Call>) -> WindowSpec {
    WindowSpec {
        keys: vec![DataType::Int64],
        arguments,
        num_filters: 0,
        calls,
        max_lateness: Duration::from_secs(20),
        max_lookback: Duration::from_secs(60),
    }
}
