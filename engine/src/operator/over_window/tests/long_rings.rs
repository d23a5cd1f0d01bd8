//! Keys with thousands of rows: trees, followers and removal, in order and in disorder, against the reference (on a
//! sample of the rows) and against smaller state.

use super::*;

/// Numbers that look random and are the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn long_log(rows: usize, disorder_s: u64, seed: u64) -> Vec<LogRow> {
    let mut numbers = Numbers(seed);
    let mut w = None;
    (0..rows)
        .map(|row| {
            let time = (row as i64 / 4 - numbers.below(disorder_s + 1) as i64) * 1_000_000;
            let x = match numbers.below(40) {
                0 => Value::Null,
                1 => Value::Float(f64::INFINITY),
                2 => Value::Float(1e16),
                _ => Value::Float(numbers.below(10_000) as f64 / 100.0),
            };
            let merchant = match numbers.below(30) {
                0 => Value::Null,
                other => Value::Text(format!("m{}", other * numbers.below(10))),
            };
            let log_row = LogRow {
                unit: 0,
                offset: row as i64,
                ordinal: 0,
                time,
                w,
                key: vec![Value::Int(i64::from(numbers.below(100) == 0))],
                arguments: vec![x, merchant],
                filters: vec![Some(numbers.below(3) == 0)],
            };
            w = w.max(Some(time));
            log_row
        })
        .collect()
}

fn long_spec(lateness_s: u64) -> WindowSpec {
    let all = [
        call(Function::CountRows, None, seconds(200)),
        call(Function::Sum, Some(0), seconds(200)),
        call(Function::Avg, Some(0), seconds(500)),
        call(Function::Max, Some(0), seconds(300)),
        call(Function::Min, Some(1), seconds(300)),
        call(Function::CountDistinct, Some(1), seconds(250)),
        call(Function::VarSamp, Some(0), seconds(100)),
        call(Function::FirstValue, Some(1), seconds(100)),
        call(Function::LastValue, Some(0), Frame::Range { preceding_micros: 400_000_000, until_micros: 60_000_000 }),
        call(Function::Sum, Some(0), Frame::Range { preceding_micros: 400_000_000, until_micros: 60_000_000 }),
        call(Function::Sum, Some(0), Frame::Rows { preceding: 300, until: 0 }),
        call(Function::Max, Some(0), Frame::Rows { preceding: 300, until: 2 }),
        call(Function::Lag { offset: 150, default: None }, Some(1), seconds(0)),
        call(Function::RowNumber, None, seconds(0)),
        call(Function::Sum, Some(0), Frame::Unbounded { until: 0 }),
        call(Function::Max, Some(1), Frame::Unbounded { until: 3 }),
        call(Function::FirstValue, Some(0), Frame::Unbounded { until: 0 }),
    ];
    let mut calls = all.to_vec();
    calls.extend(
        all.iter()
            .filter(|call| matches!(call.function, Function::Sum | Function::CountDistinct | Function::Max))
            .map(|call| Call { filter: Some(0), ..call.clone() }),
    );
    WindowSpec {
        num_filters: 1,
        max_lateness: Duration::from_secs(lateness_s),
        max_lookback: Duration::from_secs(600),
        ..spec(vec![DataType::Float64, DataType::Utf8], calls)
    }
}

/// Compares some of the answers with the reference, which is too slow for all of them.
fn check(spec: &WindowSpec, log: &[LogRow], answers: &[Answer]) {
    let rules = Rules {
        max_lateness: spec.max_lateness.as_micros() as i64,
        max_lookback: spec.max_lookback.as_micros() as i64,
    };
    for row in (0..log.len()).filter(|row| row % 37 == 0 || *row > log.len() - 20) {
        let (values, late_by, is_incomplete) = answer(&log[..=row], &spec.calls, rules);
        let wanted: Answer = (values.iter().map(identity).collect(), late_by, is_incomplete);
        assert_eq!(answers[row], wanted, "row {row}");
    }
}

#[test]
fn a_hot_key_in_order_is_answered_as_the_reference_does() {
    let (spec, log) = (long_spec(30), long_log(6_000, 0, 1));
    check(&spec, &log, &run(&spec, &log, &[0..2_500, 2_500..6_000]));
}

#[test]
fn a_hot_key_in_disorder_is_answered_as_the_reference_does() {
    let (spec, log) = (long_spec(120), long_log(5_000, 150, 2));
    check(&spec, &log, &run_whole(&spec, &log));
}

#[test]
fn a_hot_key_with_rows_far_too_late_is_answered_as_the_reference_does() {
    let (spec, log) = (long_spec(20), long_log(4_000, 700, 3));
    check(&spec, &log, &run_whole(&spec, &log));
}

#[test]
fn a_hot_key_restored_now_and_then_gives_the_same_answers() {
    let (spec, log) = (long_spec(120), long_log(4_000, 150, 4));
    let whole = run_whole(&spec, &log);
    let mut operator = operator_for(&spec, &log);
    let mut answers = Vec::new();
    for batch in log.chunks(700) {
        answers.extend(send(&mut operator, &spec, batch));
        operator = restored(&spec, &mut operator, &log, 1_000);
    }
    assert!(answers == whole);
}

#[test]
fn a_key_that_was_hot_gives_its_memory_back() {
    let spec = spec(vec![DataType::Float64], vec![call(Function::Sum, Some(0), seconds(10))]);
    let row = |offset: i64, time_s: i64, w: i64| LogRow {
        unit: 0,
        offset,
        ordinal: 0,
        time: time_s * 1_000_000,
        w: Some(w * 1_000_000),
        key: vec![Value::Int(5)],
        arguments: vec![Value::Float(1.0)],
        filters: vec![],
    };
    let hot: Vec<LogRow> = (0..5_000).map(|offset| row(offset, 1_000, 1_000)).collect();
    let mut operator = operator_for(&spec, &hot);
    send(&mut operator, &spec, &hot);
    let key = [array_of(&DataType::Int64, &[Value::Int(5)])];
    assert_eq!(operator.retained(Assignment(0), &key).unwrap().unwrap().num_rows, 5_000);
    // Two rows long after; the second finds W far ahead.
    let cold: Vec<LogRow> = (0..80).map(|step| row(5_000 + step, 2_000 + step, 1_000 + 1_000 * step.min(1))).collect();
    let answers = send(&mut operator, &spec, &cold);
    assert_eq!(answers[0].0[0], identity(&Value::Float(1.0)));
    let retained = operator.retained(Assignment(0), &key).unwrap().unwrap();
    assert!(retained.num_rows < 100, "{retained:?}");
    assert!(retained.bytes < 4_000, "{retained:?}");
}

#[test]
fn counts_of_distinct_values_are_part_of_the_state_and_go_with_it() {
    let row = |at: i64, x: i64| LogRow {
        unit: 0,
        offset: at,
        ordinal: 0,
        time: at * 1_000_000,
        w: None,
        key: vec![Value::Int(1)],
        arguments: vec![Value::Int(x)],
        filters: vec![],
    };
    let bytes = |function: Function, num_values: i64| {
        let spec = spec(vec![DataType::Int64], vec![call(function, Some(0), seconds(100_000))]);
        let log = with_w((0..10_000).map(|at| row(at, at % num_values)).collect());
        let mut operator = operator_for(&spec, &log);
        send(&mut operator, &spec, &log);
        let held = operator.bytes(Assignment(0));
        let end = LogRow { w: Some(200_000 * 1_000_000), ..row(300_000, 1) };
        send(&mut operator, &spec, &[end.clone(), LogRow { offset: 300_001, w: Some(end.time), ..end }]);
        (held, operator.bytes(Assignment(0)))
    };
    let [many, few, none] =
        [bytes(Function::CountDistinct, 9_000), bytes(Function::CountDistinct, 2), bytes(Function::Count, 9_000)];
    assert!(many.0 > few.0 + 9_000 * 17, "{many:?} {few:?}");
    assert!(few.0 < none.0 + 1_000, "{few:?} {none:?}");
    assert!(many.1 < few.1 + 1_000, "what nobody sees any more is not counted: {many:?} {few:?}");
}
