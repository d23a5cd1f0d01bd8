//! What is kept and for how long, units apart, what is refused, and what stored state must say to be restored.

use super::super::SnapshotKind;
use super::*;
use crate::error::ErrorKind;

fn row(offset: i64, key: i64, time_s: i64, w_s: Option<i64>, x: f64) -> LogRow {
    LogRow {
        unit: 0,
        offset,
        ordinal: 0,
        time: time_s * 1_000_000,
        w: w_s.map(|w| w * 1_000_000),
        key: vec![Value::Int(key)],
        arguments: vec![Value::Float(x)],
        filters: vec![],
    }
}

fn sum_spec() -> WindowSpec {
    spec(vec![DataType::Float64], vec![call(Function::Sum, Some(0), seconds(10))])
}

#[test]
fn keys_whose_rows_nobody_can_see_any_more_are_removed() {
    let spec = sum_spec();
    let mut w = None;
    let log: Vec<LogRow> = (0..20_000)
        .map(|offset| {
            let row = row(offset, offset, offset / 100, w, 1.0);
            w = w.max(Some(offset / 100));
            row
        })
        .collect();
    let mut operator = operator_for(&spec, &log);
    for batch in log.chunks(500) {
        send(&mut operator, &spec, batch);
    }
    // Frame and lateness are 30 s of 100 keys each.
    let num_keys = operator.num_keys(Assignment(0));
    assert!((3_000..4_500).contains(&num_keys), "{num_keys} keys");
    assert!((100..400).contains(&operator.bytes_per_key(8)), "{} bytes", operator.bytes_per_key(8));
    assert!(operator.bytes_per_key(6_400) > 50 * operator.bytes_per_key(64));
    let bytes = operator.bytes(Assignment(0));
    assert!(bytes > 0 && bytes < 5_000_000, "{bytes} bytes");
}

#[test]
fn units_are_added_and_dropped_alone() {
    let spec = sum_spec();
    let mut operator = OverWindow::new(&spec).unwrap();
    operator.add_unit(Assignment(0), None).unwrap();
    operator.add_unit(Assignment(7), None).unwrap();
    assert_eq!(operator.add_unit(Assignment(7), None).unwrap_err().kind(), ErrorKind::Internal);
    let mixed =
        [row(0, 1, 100, None, 1.0), LogRow { unit: 7, ..row(0, 1, 100, None, 2.0) }, row(1, 1, 101, Some(100), 4.0)];
    let answers = send(&mut operator, &spec, &mixed);
    let sums: Vec<&str> = answers.iter().map(|answer| answer.0[0].as_str()).collect();
    let float = |value: f64| identity(&Value::Float(value));
    assert_eq!(sums, [float(1.0), float(2.0), float(5.0)]);
    assert!(operator.drop_unit(Assignment(7)));
    assert_eq!(operator.units().collect::<Vec<_>>(), [Assignment(0)]);
    assert_eq!(operator.num_keys(Assignment(7)), 0);
}

#[test]
fn the_log_may_have_begun_before_the_first_row_that_comes_here() {
    let spec = sum_spec();
    let mut operator = OverWindow::new(&spec).unwrap();
    operator.add_unit(Assignment(0), Some(crate::types::EventTime::from_micros(90_000_000))).unwrap();
    let answers = send(&mut operator, &spec, &[row(5, 1, 100, Some(99), 1.0), row(6, 1, 99, Some(100), 1.0)]);
    assert_eq!((answers[0].2, answers[1].2), (false, true));
}

#[test]
fn state_of_another_layout_or_version_is_refused() {
    let spec = sum_spec();
    let log = [row(0, 1, 100, None, 1.0)];
    let mut operator = operator_for(&spec, &log);
    send(&mut operator, &spec, &log);
    let meta = operator.begin_snapshot(Assignment(0), SnapshotKind::Full).unwrap();
    let mut other_spec = spec.clone();
    other_spec.max_lateness = Duration::from_secs(21);
    let mut other = operator_for(&other_spec, &log);
    let error = other.restore_meta(Assignment(0), &meta).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    let mut columns = meta.columns().to_vec();
    columns[0] = Arc::new(UInt32Array::from(vec![99]));
    let newer = arrow::array::RecordBatch::try_new(meta.schema(), columns).unwrap();
    let error = operator_for(&spec, &log).restore_meta(Assignment(0), &newer).unwrap_err();
    assert!(error.message().contains("version Some(99)"), "{error}");
}

#[test]
fn a_delta_holds_only_what_changed_since_the_last_whole_snapshot() {
    let spec = sum_spec();
    let log: Vec<LogRow> = (0..100).map(|key| row(key, key, 100, Some(100), 1.0)).collect();
    let mut operator = operator_for(&spec, &log);
    send(&mut operator, &spec, &log);
    let unit = Assignment(0);
    let take = |operator: &mut OverWindow, kind| {
        operator.begin_snapshot(unit, kind).unwrap();
        let mut keys = 0;
        while let Some(piece) = operator.next_piece(unit, 30).unwrap() {
            assert!(piece.slots.num_rows() <= 30);
            keys += piece.slots.num_rows();
        }
        keys
    };
    assert_eq!(take(&mut operator, SnapshotKind::Delta), 100, "the first is full");
    assert_eq!(take(&mut operator, SnapshotKind::Delta), 0);
    send(&mut operator, &spec, &[row(100, 3, 101, Some(100), 1.0), row(101, 500, 101, Some(101), 1.0)]);
    operator.begin_snapshot(unit, SnapshotKind::Delta).unwrap();
    operator.abort_snapshot(unit);
    assert_eq!(take(&mut operator, SnapshotKind::Delta), 2, "what was given up counts for nothing");
    assert_eq!(take(&mut operator, SnapshotKind::Full), 101);
}

#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let refused = |call: Call, arguments: Vec<DataType>| OverWindow::new(&spec(arguments, vec![call])).unwrap_err();
    let decimal = DataType::Decimal128(10, 2);
    let error = refused(call(Function::Sum, Some(0), seconds(1)), vec![decimal]);
    assert!(error.message().contains("Decimal128(10, 2)"), "{error}");
    let error = refused(call(Function::CountDistinct, Some(0), Frame::Unbounded { until: 0 }), vec![DataType::Int64]);
    assert!(error.message().contains("bounded"), "{error}");
    let error = refused(call(Function::Avg, Some(0), seconds(1)), vec![DataType::Utf8]);
    assert!(error.message().starts_with("avg over a window"), "{error}");
    let error = refused(call(Function::Count, Some(0), Frame::Rows { preceding: 1, until: 2 }), vec![DataType::Int64]);
    assert!(error.message().contains("ends before it begins"), "{error}");
    let lag = Function::Lag { offset: 1, default: Some(array_of(&DataType::Int64, &[Value::Int(0)])) };
    let error = refused(call(lag, Some(0), seconds(1)), vec![DataType::Float64]);
    assert!(error.message().contains("the default"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut by_float = sum_spec();
    by_float.keys = vec![DataType::Float64];
    assert!(OverWindow::new(&by_float).unwrap_err().message().contains("PARTITION BY"));
}
