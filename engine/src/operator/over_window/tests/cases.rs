//! The cases of `tests/semantics`: a log in, the exact answers out. Kernels, fallback and reference have to give them.

use serde_json::{Map, Value as Json};

use super::*;

macro_rules! semantics {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            check(include_str!(concat!("../../../../../tests/semantics/", stringify!($name), ".json")));
        }
    )*};
}

semantics!(
    before_this_row,
    boundary,
    exact_sums,
    in_order,
    late,
    nulls_distinct_filter,
    other_keys_advance_w,
    partitions_apart,
    rows_late,
    rows_lookback,
    rows_too_late,
    ties,
    too_late,
    two_keys_interleaved,
    unbounded_late,
    variance,
);

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let from = text.find(start)? + start.len();
    Some(&text[from..from + text[from..].find(end)?])
}

fn parse_frame(sql: &str) -> Frame {
    if sql.contains("UNBOUNDED PRECEDING") {
        let until = if sql.contains("AND 1 PRECEDING") { 1 } else { 0 };
        return Frame::Unbounded { until };
    }
    if let Some(length) = between(sql, "RANGE BETWEEN INTERVAL '", " seconds' PRECEDING AND CURRENT ROW") {
        return seconds(length.parse().unwrap());
    }
    if let Some(rows) = between(sql, "ROWS BETWEEN ", " PRECEDING AND") {
        let until = if sql.contains("AND CURRENT ROW") { 0 } else { 1 };
        return Frame::Rows { preceding: rows.parse().unwrap(), until };
    }
    Frame::Unbounded { until: 0 }
}

fn parse_call(sql: &str) -> Call {
    let function = match &sql[..sql.find(" OVER").unwrap()] {
        "count(*)" => Function::CountRows,
        "count(x)" => Function::Count,
        "count(DISTINCT x)" => Function::CountDistinct,
        "sum(x)" | "sum(x) FILTER (WHERE x > 10)" => Function::Sum,
        "avg(x)" => Function::Avg,
        "min(x)" => Function::Min,
        "max(x)" => Function::Max,
        "var_samp(x)" => Function::VarSamp,
        "stddev_samp(x)" => Function::StddevSamp,
        "first_value(x)" => Function::FirstValue,
        "lag(x)" => Function::Lag { offset: 1, default: None },
        "row_number()" => Function::RowNumber,
        other => panic!("the test does not know {other}"),
    };
    let argument = (!matches!(function, Function::CountRows | Function::RowNumber)).then_some(0);
    Call { function, argument, filter: sql.contains("FILTER").then_some(0), frame: parse_frame(sql) }
}

/// The case with its numbers as strings: the JSON parser would round some of them wrongly in their last bit.
pub(crate) fn parse_case(text: &str) -> Json {
    let mut quoted = String::new();
    let mut is_text = false;
    let mut is_number = false;
    for letter in text.chars() {
        is_text ^= letter == '"';
        let continues = letter.is_ascii_digit() || "+-.eE".contains(letter);
        let starts = letter.is_ascii_digit() || letter == '-';
        if !is_text && is_number != if is_number { continues } else { starts } {
            is_number = !is_number;
            quoted.push('"');
        }
        quoted.push(letter);
    }
    serde_json::from_str(&quoted).unwrap()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(json: &Json) -> Option<T> {
    json.as_str().map(|text| text.parse().unwrap())
}

fn seconds_of(json: &Json) -> i64 {
    number::<i64>(json).unwrap() * 1_000_000
}

fn parse_row(row: &Map<String, Json>) -> LogRow {
    let x = number(&row["x"]);
    LogRow {
        unit: number(&row["partition"]).unwrap(),
        offset: number(&row["offset"]).unwrap(),
        ordinal: 0,
        time: seconds_of(&row["t_s"]),
        w: None,
        key: vec![Value::Int(number(&row["k"]).unwrap())],
        arguments: vec![x.map_or(Value::Null, Value::Float)],
        filters: vec![x.map(|x| x > 10.0)],
    }
}

fn check(text: &str) {
    let case = parse_case(text);
    let columns = case["columns"].as_object().unwrap();
    let lookback = number(&case["max_lookback_s"]).map_or(WindowSpec::MAX_LOOKBACK, Duration::from_secs);
    let spec = WindowSpec {
        keys: vec![DataType::Int64],
        arguments: vec![DataType::Float64],
        num_filters: 1,
        calls: columns.values().map(|sql| parse_call(sql.as_str().unwrap())).collect(),
        max_lateness: Duration::from_secs(number(&case["max_lateness_s"]).unwrap()),
        max_lookback: lookback,
    };
    let log = with_w(case["log"].as_array().unwrap().iter().map(|row| parse_row(row.as_object().unwrap())).collect());
    let types: Vec<DataType> = OverWindow::new(&spec).unwrap().output_types().cloned().collect();
    let wanted: Vec<Answer> = case["expect"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let value = |(name, data_type): (&String, &DataType)| match (&row[name.as_str()], data_type) {
                (Json::Null, _) => Value::Null,
                (json, DataType::Int64) => Value::Int(number(json).unwrap()),
                (json, DataType::UInt64) => Value::UInt(number(json).unwrap()),
                (json, _) => Value::Float(number(json).unwrap()),
            };
            let values = columns.keys().zip(&types).map(|column| identity(&value(column))).collect();
            (values, seconds_of(&row["_late_by_s"]), row["_history_incomplete"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(wanted.len(), log.len());
    assert_eq!(expected(&spec, &log), wanted, "the reference");
    assert_eq!(run_whole(&spec, &log), wanted, "the kernels, whole");
    let rows: Vec<_> = (0..log.len()).map(|row| row..row + 1).collect();
    assert_eq!(run(&spec, &log, &rows), wanted, "the kernels, cut at every row");
    let forced = fallback::forced(&spec);
    assert_eq!(run_whole(&forced, &log), wanted, "the fallback, whole");
    assert_eq!(run(&forced, &log, &rows), wanted, "the fallback, cut at every row");
}
