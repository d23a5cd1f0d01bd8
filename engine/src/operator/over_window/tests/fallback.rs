//! The fallback's side of the operator: which rows an aggregate is shown, in which order, and what becomes of its answers
//! and failures. The aggregates here are the reference's own; those of DataFusion are tested where they are adapted.

use std::ops::Range;

use super::super::reference::of_rows;
use super::super::{FailedCall, FrameAnswers, RowAggregate};
use super::*;

/// A function of the reference, as an aggregate without a kernel.
#[derive(Debug)]
struct Naive {
    function: Function,
    argument: Vec<DataType>,
    output: DataType,
    /// A frame that has this value fails.
    poison: Option<Value>,
}

impl RowAggregate for Naive {
    fn name(&self) -> &str {
        "naive"
    }

    fn argument_types(&self) -> &[DataType] {
        &self.argument
    }

    fn output_type(&self) -> &DataType {
        &self.output
    }

    fn evaluate(&self, columns: &[ArrayRef], frames: &[Option<Range<usize>>]) -> crate::error::Result<FrameAnswers> {
        let rows_of = |rows: &Option<Range<usize>>| -> Vec<Value> {
            let value = |row: usize| columns.first().map_or(Value::Null, |column| value_at(column, row));
            rows.clone().into_iter().flatten().map(value).collect()
        };
        let mut failures = Vec::new();
        let answer = |(frame, rows): (usize, &Option<Range<usize>>)| {
            let rows = rows_of(rows);
            if self.poison.as_ref().is_some_and(|poison| rows.contains(poison)) {
                failures.push((frame, "poisoned".to_owned()));
                return Value::Null;
            }
            of_rows(&self.function, &rows)
        };
        let values: Vec<Value> = frames.iter().enumerate().map(answer).collect();
        Ok(FrameAnswers { values: array_of(&self.output, &values), failures })
    }
}

fn naive(call: &Call, arguments: &[DataType], num_filters: usize, poison: Option<Value>) -> Call {
    let output = call.output_type(arguments, num_filters).unwrap();
    let argument = call.argument.iter().map(|argument| arguments[*argument].clone()).collect();
    let aggregate = Arc::new(Naive { function: call.function.clone(), argument, output, poison });
    let function = Function::Fallback { aggregate, arguments: call.argument.into_iter().collect() };
    Call { function, argument: None, ..call.clone() }
}

/// The spec with every call through the fallback that may go there: those of functions that name no row, in bounded
/// frames.
pub(super) fn forced(spec: &WindowSpec) -> WindowSpec {
    let force = |call: &Call| match (&call.function, call.frame) {
        (Function::Lag { .. } | Function::RowNumber, _) | (_, Frame::Unbounded { .. }) => call.clone(),
        _ => naive(call, &spec.arguments, spec.num_filters, None),
    };
    WindowSpec { calls: spec.calls.iter().map(force).collect(), ..spec.clone() }
}

/// Rows of one key, a second apart.
fn log(rows: i64) -> Vec<LogRow> {
    let row = |at: i64| LogRow {
        unit: (at % 2) as u32,
        offset: at / 2,
        ordinal: 0,
        time: at * 1_000_000,
        w: None,
        key: vec![Value::Int(1)],
        arguments: vec![Value::Int(at % 97)],
        filters: vec![],
    };
    with_w((0..rows).map(row).collect())
}

#[test]
fn many_rows_are_gathered_in_several_goes() {
    let calls = vec![
        call(Function::Sum, Some(0), seconds(500)),
        call(Function::CountRows, None, seconds(700)),
        call(Function::Max, Some(0), Frame::Rows { preceding: 300, until: 1 }),
    ];
    let spec = spec(vec![DataType::Int64], calls);
    let log = log(600);
    let wanted = run_whole(&spec, &log);
    assert_eq!(run_whole(&forced(&spec), &log), wanted);
    assert_eq!(run(&forced(&spec), &log, &[0..1, 1..450, 450..600]), wanted);
}

#[test]
fn a_call_that_fails_for_a_row_is_null_there_and_named_and_the_others_go_on() {
    let plain = spec(
        vec![DataType::Int64],
        vec![
            call(Function::Sum, Some(0), seconds(10)),
            call(Function::Max, Some(0), seconds(300)),
            call(Function::Count, Some(0), Frame::Rows { preceding: 200, until: 0 }),
        ],
    );
    let mut poisoned = forced(&plain);
    poisoned.calls[0] = naive(&plain.calls[0], &plain.arguments, 0, Some(Value::Int(50)));
    let log = log(400);
    let wanted = run_whole(&plain, &log);
    for cuts in [vec![0, 400], vec![0, 57, 58, 400]] {
        let mut operator = operator_for(&poisoned, &log);
        let (mut given, mut failed) = (Vec::new(), Vec::new());
        for batch in cuts.windows(2).map(|cut| cut[0]..cut[1]) {
            let arguments: Vec<Value> = log[batch.clone()].iter().map(|row| row.arguments[0].clone()).collect();
            let keys: Vec<Value> = log[batch.clone()].iter().map(|row| row.key[0].clone()).collect();
            let (arguments, keys) = (array_of(&DataType::Int64, &arguments), array_of(&DataType::Int64, &keys));
            let output = send_columns(&mut operator, &[keys], &[arguments], &[], &log[batch.clone()]);
            given.extend(answers(&output));
            failed.extend(
                output.failures.into_iter().map(|failed| FailedCall { row: batch.start + failed.row, ..failed }),
            );
        }
        let sees_poison = |row: usize| {
            (row.saturating_sub(10)..=row)
                .any(|other| log[other].unit == log[row].unit && log[other].arguments[0] == Value::Int(50))
        };
        let rows: Vec<usize> = (0..log.len()).filter(|row| sees_poison(*row)).collect();
        assert!(rows.len() > 20, "the test needs rows that fail");
        let reason = "naive over a window: poisoned".to_owned();
        let named: Vec<_> = rows.iter().map(|row| FailedCall { row: *row, call: 0, reason: reason.clone() }).collect();
        assert_eq!(failed, named);
        for (row, (given, wanted)) in given.into_iter().zip(&wanted).enumerate() {
            let sum = if rows.contains(&row) { identity(&Value::Null) } else { wanted.0[0].clone() };
            assert_eq!(given.0[0], sum, "row {row}");
            assert_eq!(given.0[1..], wanted.0[1..], "row {row}");
        }
    }
}

#[test]
fn an_unbounded_frame_has_no_fallback() {
    let mut call = naive(&call(Function::Sum, Some(0), seconds(1)), &[DataType::Int64], 0, None);
    call.frame = Frame::Unbounded { until: 0 };
    let error = OverWindow::new(&spec(vec![DataType::Int64], vec![call])).unwrap_err();
    assert!(error.message().starts_with("naive over a window needs a bounded frame"), "{error}");
    assert!(error.message().contains("for ever; write RANGE BETWEEN"), "{error}");
}

#[test]
fn a_fallback_made_for_other_columns_is_no_spec() {
    let sum = naive(&call(Function::Sum, Some(0), seconds(1)), &[DataType::Int64], 0, None);
    for arguments in [vec![DataType::Float64], vec![]] {
        let error = OverWindow::new(&spec(arguments, vec![sum.clone()])).unwrap_err();
        assert!(error.message().contains("other types than it was made for"), "{error}");
    }
}

#[test]
fn a_decimal_of_more_digits_than_its_type_is_an_error_before_any_row_is_taken_in() {
    let spec = spec(vec![DataType::Decimal128(18, 2)], vec![call(Function::Max, Some(0), seconds(1))]);
    let log = &log(1);
    let mut operator = operator_for(&spec, log);
    let value: ArrayRef = Arc::new(Decimal128Array::from(vec![i128::MAX]).with_data_type(DataType::Decimal128(18, 2)));
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let unit = UInt32Array::from(vec![0]);
    let (numbers, none) = (Int64Array::from(vec![0]), Int64Array::from(vec![None]));
    let hidden =
        Hidden { unit: &unit, offset: &numbers, ordinal: &unit, event_time: &numbers, w: &none, broker_time: &numbers };
    let input = WindowInput { keys: &[keys], arguments: &[value], filters: &[], hidden };
    let error = operator.process(&input).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::Data);
    assert!(error.message().contains("Decimal128(18, 2)"), "{error}");
    assert_eq!(operator.num_keys(Assignment(0)), 0);
}
