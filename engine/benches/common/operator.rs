//! The five windows of the benchmarks, as the operator knows them: count, sum and max over a day, average of six rows, lag.

use std::time::Duration;

use arrow::datatypes::DataType;
use tidemill::operator::over_window::{Call, Frame, Function, WindowSpec};

/// In microseconds.
pub(crate) const SECOND: i64 = 1_000_000;
/// In microseconds.
pub(crate) const DAY: i64 = 24 * 3600 * SECOND;
/// In microseconds.
pub(crate) const LATENESS: i64 = 2 * 3600 * SECOND;

/// By an integer, over a float.
pub(crate) fn five_windows(max_lookback: Duration) -> WindowSpec {
    let day = Frame::Range { preceding_micros: DAY, until_micros: 0 };
    let call = |function, argument, frame| Call { function, argument, filter: None, frame };
    WindowSpec {
        keys: vec![DataType::Int64],
        arguments: vec![DataType::Float64],
        num_filters: 0,
        calls: vec![
            call(Function::CountRows, None, day),
            call(Function::Sum, Some(0), day),
            call(Function::Avg, Some(0), Frame::Rows { preceding: 5, until: 0 }),
            call(Function::Max, Some(0), day),
            call(Function::Lag { offset: 1, default: None }, Some(0), day),
        ],
        max_lateness: Duration::from_micros(LATENESS.unsigned_abs()),
        max_lookback,
    }
}
