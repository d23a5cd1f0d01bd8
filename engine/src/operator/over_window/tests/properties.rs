//! Random specs and logs: the answers are those of the naive reference, however the log was cut, and wherever its state
//! was saved and restored.

use proptest::prelude::*;

use super::super::SnapshotKind;
use super::*;

const ARGUMENTS: [DataType; 8] = [
    DataType::Float64,
    DataType::Int64,
    DataType::Utf8,
    DataType::UInt64,
    DataType::Float32,
    DataType::Decimal128(10, 2),
    DataType::Decimal128(30, 2),
    DataType::Binary,
];

fn frames() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (0_i64..60).prop_map(seconds),
        (0_i64..40, 0_i64..20).prop_map(|(length, until)| Frame::Range {
            preceding_micros: (length + until) * 1_000_000,
            until_micros: until * 1_000_000,
        }),
        (0_usize..12, 0_usize..4).prop_map(|(rows, until)| Frame::Rows { preceding: rows + until, until }),
        (0_usize..4).prop_map(|until| Frame::Unbounded { until }),
    ]
}

fn functions() -> impl Strategy<Value = Function> {
    prop_oneof![
        Just(Function::CountRows),
        Just(Function::Count),
        Just(Function::CountDistinct),
        Just(Function::Sum),
        Just(Function::Avg),
        Just(Function::Min),
        Just(Function::Max),
        Just(Function::VarSamp),
        Just(Function::VarPop),
        Just(Function::StddevSamp),
        Just(Function::StddevPop),
        Just(Function::FirstValue),
        Just(Function::LastValue),
        (0_usize..6).prop_map(|offset| Function::Lag { offset, default: None }),
        Just(Function::RowNumber),
    ]
}

fn default_for(data_type: &DataType) -> ArrayRef {
    let value = match data_type {
        DataType::Int64 => Value::Int(-7),
        DataType::UInt64 => Value::UInt(7),
        DataType::Utf8 => Value::Text("none".to_owned()),
        DataType::Decimal128(..) => Value::Decimal(-7),
        DataType::Binary => Value::Bytes(vec![255]),
        _ => Value::Float(0.5),
    };
    array_of(data_type, &[value])
}

/// A call that the kernels compute, whatever was drawn.
fn calls() -> impl Strategy<Value = Call> {
    let parts = (functions(), 0..ARGUMENTS.len(), prop::option::of(0_usize..2), frames(), any::<bool>());
    parts.prop_filter_map("no kernel", |(function, argument, filter, frame, has_default)| {
        let function = match function {
            Function::Lag { offset, .. } => {
                Function::Lag { offset, default: has_default.then(|| default_for(&ARGUMENTS[argument])) }
            }
            other => other,
        };
        let argument = (!matches!(function, Function::CountRows | Function::RowNumber)).then_some(argument);
        let call = Call { function, argument, filter, frame };
        call.output_type(&ARGUMENTS, 2).ok().map(|_| call)
    })
}

fn floats() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        6 => (0_u32..10_000).prop_map(|cents| Value::Float(f64::from(cents) / 100.0)),
        3 => prop::sample::select(vec![
            0.0, -0.0, 1e16, -1e16, 1.0, -1.0, 5e-324, 1e300, -1e300, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY,
        ]).prop_map(Value::Float),
        1 => any::<f64>().prop_map(Value::Float),
    ]
}

fn narrow(value: Value) -> Value {
    match value {
        // A signalling NaN becomes a quiet one by this, before it is a value of the test.
        Value::Float(value) => Value::Float(f64::from(value as f32)),
        other => other,
    }
}

#[derive(Debug, Clone)]
struct Step {
    unit: u32,
    key: u8,
    /// Seconds by which event time moves on before the row.
    gap: i64,
    /// Seconds by which the row is behind.
    behind: i64,
    is_same_record: bool,
    arguments: Vec<Value>,
    filters: Vec<Option<bool>>,
}

fn steps() -> impl Strategy<Value = Step> {
    let gap = prop_oneof![6 => Just(0_i64), 6 => 1_i64..4, 1 => 10_i64..90];
    let behind = prop_oneof![6 => Just(0_i64), 3 => 1_i64..15, 2 => 15_i64..60, 1 => 60_i64..200];
    let text = prop_oneof![1 => Just(Value::Null), 5 => "[a-d]{0,2}".prop_map(Value::Text)];
    let int = prop_oneof![1 => Just(Value::Null), 5 => (-3_i64..4).prop_map(Value::Int), 1 => any::<i64>().prop_map(Value::Int)];
    let uint = prop_oneof![1 => Just(Value::Null), 5 => (0_u64..4).prop_map(Value::UInt), 1 => any::<u64>().prop_map(Value::UInt)];
    let decimal = |digits: u32| {
        let most = 10_i128.pow(digits) - 1;
        let values = prop_oneof![5 => -300_i128..300, 1 => -most..=most];
        prop_oneof![1 => Just(Value::Null), 6 => values.prop_map(Value::Decimal)]
    };
    let bytes = prop::collection::vec(prop::sample::select(vec![0_u8, 1, 255]), 0..3);
    let bytes = prop_oneof![1 => Just(Value::Null), 5 => bytes.prop_map(Value::Bytes)];
    let arguments = (floats(), int, text, uint, floats().prop_map(narrow), decimal(10), decimal(30), bytes)
        .prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h]);
    let place = (0_u32..2, prop_oneof![5 => Just(0_u8), 2 => 1_u8..5], gap, behind, prop::bool::weighted(0.1));
    (place, arguments, prop::collection::vec(any::<Option<bool>>(), 2)).prop_map(
        |((unit, key, gap, behind, is_same_record), arguments, filters)| Step {
            unit,
            key,
            gap,
            behind,
            is_same_record,
            arguments,
            filters,
        },
    )
}

/// The key of a number in each kind of key columns.
fn key_of(kind: u8, key: u8) -> Vec<Value> {
    let number = if key == 4 { Value::Null } else { Value::Int(i64::from(key) - 1) };
    let text = match key {
        0 | 1 => Value::Text("a".repeat(usize::from(key))),
        2 => Value::Null,
        _ => Value::Text("b".to_owned()),
    };
    let decimal = if key == 4 { Value::Null } else { Value::Decimal(i128::from(key) - 1) };
    let bytes = if key == 3 { Value::Null } else { Value::Bytes(vec![key]) };
    match kind {
        0 => vec![number],
        1 => vec![text],
        2 => vec![number, text],
        3 => vec![decimal],
        4 => vec![decimal, bytes],
        _ => vec![],
    }
}

fn key_types(kind: u8) -> Vec<DataType> {
    match kind {
        0 => vec![DataType::Int64],
        1 => vec![DataType::Utf8],
        2 => vec![DataType::Int32, DataType::Utf8View],
        3 => vec![DataType::Decimal128(10, 2)],
        4 => vec![DataType::Decimal128(30, 2), DataType::Binary],
        _ => vec![],
    }
}

fn log_of(steps: Vec<Step>, kind: u8) -> Vec<LogRow> {
    let mut now = [1_000_i64; 2];
    let mut position = [(0_i64, 0_u32, 0_i64); 2];
    let log = steps.into_iter().map(|step| {
        let unit = step.unit as usize;
        let (offset, ordinal, last) = &mut position[unit];
        let time = if step.is_same_record && *offset > 0 {
            *ordinal += 1;
            *last
        } else {
            (*offset, *ordinal) = (*offset + 1, 0);
            now[unit] += step.gap;
            now[unit] - step.behind
        };
        *last = time;
        LogRow {
            unit: step.unit,
            offset: *offset,
            ordinal: *ordinal,
            time: time * 1_000_000,
            w: None,
            key: key_of(kind, step.key),
            arguments: step.arguments,
            filters: step.filters,
        }
    });
    with_w(log.collect())
}

fn specs(kind: u8) -> impl Strategy<Value = WindowSpec> {
    (prop::collection::vec(calls(), 1..7), 0_u64..40, 0_u64..80).prop_map(move |(calls, lateness, lookback)| {
        WindowSpec {
            keys: key_types(kind),
            arguments: ARGUMENTS.to_vec(),
            num_filters: 2,
            calls,
            max_lateness: Duration::from_secs(lateness),
            max_lookback: Duration::from_secs(lookback),
        }
    })
}

fn cases(rows: Range<usize>) -> impl Strategy<Value = (WindowSpec, Vec<LogRow>, Vec<usize>)> {
    (0_u8..6).prop_flat_map(move |kind| {
        let log = prop::collection::vec(steps(), rows.clone()).prop_map(move |steps| log_of(steps, kind));
        (specs(kind), log, prop::collection::vec(any::<prop::sample::Index>(), 0..6)).prop_map(|(spec, log, cuts)| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
            cuts.extend([0, log.len()]);
            cuts.sort_unstable();
            (spec, log, cuts)
        })
    })
}

fn batches(cuts: &[usize]) -> Vec<Range<usize>> {
    cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_reference_however_the_log_is_cut((spec, log, cuts) in cases(1..120)) {
        let wanted = expected(&spec, &log);
        prop_assert_eq!(&run_whole(&spec, &log), &wanted, "whole");
        prop_assert_eq!(&run(&spec, &log, &batches(&cuts)), &wanted, "cut at random");
        let rows: Vec<_> = (0..log.len()).map(|row| row..row + 1).collect();
        prop_assert_eq!(&run(&spec, &log, &rows), &wanted, "cut at every row");
    }

    #[test]
    fn the_fallback_answers_as_the_reference_does_however_the_log_is_cut((spec, log, cuts) in cases(1..120)) {
        let wanted = expected(&spec, &log);
        let forced = fallback::forced(&spec);
        prop_assert_eq!(&run_whole(&forced, &log), &wanted, "whole");
        prop_assert_eq!(&run(&forced, &log, &batches(&cuts)), &wanted, "cut at random");
        let rows: Vec<_> = (0..log.len()).map(|row| row..row + 1).collect();
        prop_assert_eq!(&run(&forced, &log, &rows), &wanted, "cut at every row");
    }

    #[test]
    fn the_fallback_answers_as_the_reference_does_when_state_is_restored((spec, log, cuts) in cases(1..120), rows_max in 1_usize..40) {
        let forced = fallback::forced(&spec);
        let mut operator = operator_for(&forced, &log);
        let mut answers = Vec::new();
        for batch in batches(&cuts) {
            operator = restored(&forced, &mut operator, &log, rows_max);
            answers.extend(send(&mut operator, &forced, &log[batch]));
        }
        prop_assert_eq!(&answers, &expected(&spec, &log));
    }

    #[test]
    fn answers_are_those_of_the_reference_when_state_is_restored_at_every_cut((spec, log, cuts) in cases(1..120), rows_max in 1_usize..40) {
        let wanted = expected(&spec, &log);
        let mut operator = operator_for(&spec, &log);
        let mut answers = Vec::new();
        for batch in batches(&cuts) {
            operator = restored(&spec, &mut operator, &log, rows_max);
            answers.extend(send(&mut operator, &spec, &log[batch]));
        }
        prop_assert_eq!(&answers, &wanted, "restored at the cuts");
        let mut operator = operator_for(&spec, &log);
        let mut answers = Vec::new();
        for row in 0..log.len() {
            answers.extend(send(&mut operator, &spec, &log[row..=row]));
            operator = restored(&spec, &mut operator, &log, rows_max);
        }
        prop_assert_eq!(&answers, &wanted, "restored after every row");
    }

    /// A snapshot taken piece by piece while the log goes on, then deltas: what comes back is the state where the last
    /// delta began.
    #[test]
    fn pieces_taken_between_batches_are_the_state_where_their_snapshot_began(
        (spec, log, cuts) in cases(1..160),
        rows_max in 1_usize..6,
        deltas in any::<bool>(),
    ) {
        let wanted = expected(&spec, &log);
        let kind = if deltas { SnapshotKind::Delta } else { SnapshotKind::Full };
        let mut operator = operator_for(&spec, &log);
        let mut saved = Vec::new();
        let mut at = 0;
        for batch in batches(&cuts) {
            // A snapshot begins here, and is taken while the rows of this batch come one by one.
            at = batch.start;
            let mut pieces: Vec<_> = units_of(&log).into_iter().map(|unit| (unit, operator.begin_snapshot(unit, kind).unwrap(), Vec::new())).collect();
            for row in batch {
                prop_assert_eq!(&send(&mut operator, &spec, &log[row..=row])[0], &wanted[row]);
                for (unit, _, pieces) in &mut pieces {
                    pieces.extend(operator.next_piece(*unit, rows_max).unwrap());
                }
            }
            for (unit, _, pieces) in &mut pieces {
                while let Some(piece) = operator.next_piece(*unit, rows_max).unwrap() {
                    pieces.push(piece);
                }
            }
            if !deltas {
                saved.clear();
            }
            saved.extend(pieces);
        }
        let mut operator = operator_for(&spec, &log);
        for (unit, meta, pieces) in &saved {
            operator.restore_meta(*unit, meta).unwrap();
            for piece in pieces {
                operator.restore_piece(*unit, piece).unwrap();
            }
        }
        prop_assert_eq!(&send(&mut operator, &spec, &log[at..])[..], &wanted[at..]);
    }
}
