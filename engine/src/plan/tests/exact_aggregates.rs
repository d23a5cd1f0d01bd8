//! The exact aggregates in SQL: what plans they get, and that every frame, group and cut gives what its rows give alone.
//! The arithmetic has its oracle of big integers in `udfs`; here a frame's oracle is a sum of exactly its rows, from scratch.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, IntervalUnit, Schema, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use tidemill_udfs::exact::{ExactMoments, ExactSum};

use super::super::session::{block_on, session};
use super::*;

const FUNCTIONS: [&str; 13] = [
    "sum",
    "avg",
    "mean",
    "var",
    "var_samp",
    "var_sample",
    "var_pop",
    "var_population",
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "count",
    "min",
];

/// Stock's session, and the same with the exact functions in it.
fn sessions(config: &SessionConfig) -> [SessionContext; 2] {
    let stock = SessionContext::new_with_config(config.clone());
    let exact = SessionContext::new_with_config(config.clone());
    for function in tidemill_udfs::aggregates() {
        exact.register_udaf(Arc::unwrap_or_clone(function));
    }
    [stock, exact]
}

fn register(context: &SessionContext, name: &str, partitions: Vec<Vec<RecordBatch>>) {
    let table = MemTable::try_new(partitions[0][0].schema(), partitions).unwrap();
    context.register_table(name, Arc::new(table)).unwrap();
}

fn collect(context: &SessionContext, sql: &str) -> datafusion::common::Result<RecordBatch> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let frame = context.sql(sql).await?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await?;
        Ok(concat_batches(batches.first().map_or(&schema, |batch| batch.schema_ref()), &batches)?)
    })
}

/// The plans of a query, as text, or that it is refused.
fn plans(context: &SessionContext, sql: &str) -> Option<(String, String, String)> {
    block_on(async {
        let frame = context.sql(sql).await.ok()?;
        let analysed = frame.logical_plan().display_indent_schema().to_string();
        let optimised = frame.clone().into_optimized_plan().ok()?.display_indent_schema().to_string();
        let physical = frame.create_physical_plan().await.ok()?;
        Some((analysed, optimised, physical.schema().to_string()))
    })
}

fn types() -> Vec<DataType> {
    vec![
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal32(5, 2),
        DataType::Decimal64(12, 2),
        DataType::Decimal128(20, 4),
        DataType::Decimal256(50, 4),
        DataType::Duration(TimeUnit::Millisecond),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Boolean,
        DataType::Utf8,
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Null,
    ]
}

#[test]
fn plans_and_types_are_those_of_stock() {
    let fields = types().into_iter().enumerate().map(|(at, data_type)| {
        // Half of them may not be null.
        Field::new(format!("c{at}"), data_type.clone(), at % 2 == 0 || data_type == DataType::Null)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let contexts = sessions(&SessionConfig::new());
    for context in &contexts {
        register(context, "t", vec![vec![RecordBatch::new_empty(Arc::clone(&schema))]]);
    }
    let mut num_accepted = 0;
    for (at, data_type) in types().iter().enumerate() {
        for function in FUNCTIONS {
            for call in [
                format!("SELECT {function}(c{at}) FROM t"),
                format!("SELECT {function}(c{at}) AS x FROM t GROUP BY c3"),
                format!("SELECT {function}(c{at}) FILTER (WHERE c3 > 1) FROM t GROUP BY c0"),
                format!("SELECT {function}(c{at}) OVER (PARTITION BY c0 ORDER BY c3) FROM t"),
                format!("SELECT {function}(DISTINCT c{at}) FROM t"),
            ] {
                let [stock, exact] = contexts.each_ref().map(|context| plans(context, &call));
                let is_beyond_stock = call.contains("stddev") && call.contains("DISTINCT");
                num_accepted += usize::from(stock.is_some());
                if !(is_beyond_stock && stock.is_none()) {
                    assert_eq!(stock, exact, "{call} of {data_type}");
                }
            }
        }
    }
    assert!(num_accepted > 500, "{num_accepted} calls were accepted");
}

/// A batch of one row per value, as of each type.
fn numbers() -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(-7), Some(12), Some(100), Some(3)]));
    let group: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 1, 2, 2, 2]));
    let null: ArrayRef = new_null_array(&DataType::Float64, 6);
    let columns = types().into_iter().filter(DataType::is_numeric).enumerate().map(|(at, data_type)| {
        let unsigned = arrow::compute::cast(&Int64Array::from(vec![3, 0, 7, 12, 100, 3]), &data_type);
        let cast = arrow::compute::cast(&values, &data_type).ok().filter(|_| !data_type.is_unsigned_integer());
        (format!("c{at}"), cast.unwrap_or_else(|| unsigned.unwrap()))
    });
    RecordBatch::try_from_iter(columns.chain([("g".to_owned(), group), ("n".to_owned(), null)])).unwrap()
}

#[test]
fn small_integers_give_what_stock_gives() {
    let batch = numbers();
    let contexts = sessions(&SessionConfig::new().with_target_partitions(2));
    for context in &contexts {
        register(context, "t", vec![vec![batch.slice(0, 2), batch.slice(2, 2)], vec![batch.slice(4, 2)]]);
    }
    for at in 0..batch.num_columns() - 2 {
        for function in ["sum", "avg"] {
            for sql in [
                format!("SELECT {function}(c{at}) FROM t"),
                format!("SELECT g, {function}(c{at}) FROM t GROUP BY g ORDER BY g"),
                format!("SELECT g, {function}(DISTINCT c{at}) FROM t GROUP BY g ORDER BY g"),
                format!("SELECT {function}(c{at}) FILTER (WHERE g > 5) FROM t"),
            ] {
                let [stock, exact] = contexts.each_ref().map(|context| collect(context, &sql).unwrap());
                assert_eq!(stock, exact, "{sql}");
            }
        }
    }
    for function in FUNCTIONS.iter().filter(|function| **function != "count") {
        let batch = collect(&contexts[1], &format!("SELECT {function}(n) FROM t")).unwrap();
        assert_eq!(batch.column(0).null_count(), 1, "{function} of nulls");
    }
}

/// A row: key, order, value.
type Row = (i64, i64, Option<f64>);

fn value() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        6 => (-100_000_i64..1_000_000).prop_map(|cents| Some(cents as f64 / 100.0)),
        2 => prop::sample::select(vec![Some(1e16), Some(-1e16), Some(1e300), Some(1e-300), Some(0.0), Some(-0.0)]),
        1 => prop::sample::select(vec![Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY), None]),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0..3_i64, value()), 1..40)
        .prop_map(|rows| rows.into_iter().zip(0..).map(|((key, value), order)| (key, order, value)).collect())
}

fn batch_of(rows: &[Row]) -> RecordBatch {
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let (keys, orders) = rows.iter().map(|row| (row.0, row.1)).unzip();
    let values: Float64Array = rows.iter().map(|row| row.2).collect();
    let wanted: BooleanArray = rows.iter().map(|row| (row.1 % 5 != 4).then_some(row.1 % 3 != 0)).collect();
    RecordBatch::try_from_iter([
        ("k", column(keys)),
        ("t", column(orders)),
        ("x", Arc::new(values) as ArrayRef),
        ("w", Arc::new(wanted) as ArrayRef),
    ])
    .unwrap()
}

/// The six statistics of exactly these values, by their bits; NaN is one value.
fn expected(values: impl IntoIterator<Item = f64>) -> Vec<Option<u64>> {
    let (mut sum, mut moments) = (ExactSum::new(), ExactMoments::new());
    for value in values {
        sum.add(value);
        moments.add(value);
    }
    let some = moments.count() > 0;
    let (sample, population) = (moments.var(1), moments.var(0));
    let results = [
        some.then(|| sum.value()),
        some.then(|| sum.mean(moments.count())),
        sample,
        population,
        sample.map(f64::sqrt),
        population.map(f64::sqrt),
    ];
    results.map(|result| result.map(bits)).to_vec()
}

fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

/// The calls whose results [`expected`] gives.
fn calls(modifier: &str, after: &str) -> String {
    let functions = ["sum", "avg", "var_samp", "var_pop", "stddev_samp", "stddev_pop"];
    functions.map(|function| format!("{function}({modifier}x) {after}")).join(", ")
}

/// The six results of each row.
fn found(batch: &RecordBatch) -> Vec<Vec<Option<u64>>> {
    let columns: Vec<&Float64Array> = batch.columns().iter().rev().take(6).rev().map(AsArray::as_primitive).collect();
    let row = |row| columns.iter().map(|column| column.iter().nth(row).flatten().map(bits)).collect();
    (0..batch.num_rows()).map(row).collect()
}

fn check_windows(context: &SessionContext, rows: &[Row]) {
    // The frame in SQL, and the rows before the current one that are in it.
    let frames = [
        ("ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", 2),
        ("ROWS BETWEEN 7 PRECEDING AND CURRENT ROW", 7),
        ("ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", usize::MAX),
    ];
    for (frame, preceding) in frames {
        for modifier in ["", "DISTINCT "] {
            let over = format!("OVER (PARTITION BY k ORDER BY t {frame})");
            let sql = format!("SELECT {} FROM events ORDER BY t", calls(modifier, &over));
            let found = found(&collect(context, &sql).unwrap());
            for (at, row) in rows.iter().enumerate() {
                let seen = rows[..=at].iter().rev().filter(|other| other.0 == row.0).take(preceding.saturating_add(1));
                let seen = seen.filter_map(|other| other.2);
                let expected = if modifier.is_empty() { expected(seen) } else { distinct(seen) };
                assert_eq!(found[at], expected, "row {at} of {sql}");
            }
        }
    }
    // By value: rows whose order lies at most four below, over all keys.
    let over = "OVER (ORDER BY t RANGE BETWEEN 4 PRECEDING AND CURRENT ROW)";
    let found = found(&collect(context, &format!("SELECT {} FROM events ORDER BY t", calls("", over))).unwrap());
    for (at, found) in found.iter().enumerate() {
        assert_eq!(*found, expected(rows[at.saturating_sub(4)..=at].iter().filter_map(|row| row.2)));
    }
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<Option<u64>> {
    // The sum of 0.0 and -0.0 is 0.0; they are one value, as all NaN are.
    let values: BTreeMap<u64, f64> = values.map(|value| (bits(value + 0.0), value)).collect();
    expected(values.into_values())
}

fn check_groups(context: &SessionContext, rows: &[Row]) {
    type Choice = fn(&Row) -> bool;
    let all: Choice = |_| true;
    let filtered: Choice = |row| row.1 % 5 != 4 && row.1 % 3 != 0;
    for (after, choice) in [("", all), ("FILTER (WHERE w)", filtered)] {
        for modifier in ["", "DISTINCT "] {
            let of = |chosen: &mut dyn Iterator<Item = &Row>| {
                let values = chosen.filter(|row| choice(row)).filter_map(|row| row.2);
                if modifier.is_empty() { expected(values) } else { distinct(values) }
            };
            let calls = calls(modifier, after);
            let one = collect(context, &format!("SELECT {calls} FROM events")).unwrap();
            assert_eq!(found(&one), [of(&mut rows.iter())], "{calls}");
            let by_key = collect(context, &format!("SELECT k, {calls} FROM events GROUP BY k ORDER BY k")).unwrap();
            let mut keys: Vec<i64> = rows.iter().map(|row| row.0).collect();
            keys.sort_unstable();
            keys.dedup();
            let expected: Vec<_> = keys.iter().map(|key| of(&mut rows.iter().filter(|row| row.0 == *key))).collect();
            assert_eq!(found(&by_key), expected, "{calls} by key");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Several partitions and batches: states are made, merged and, with the second setting, made of single rows.
    #[test]
    fn groups_are_exact_however_they_are_cut(rows in rows(), cuts in prop::collection::vec(0..40_usize, 0..5)) {
        let input = batch_of(&rows);
        let mut parts: Vec<Vec<RecordBatch>> = vec![Vec::new(), Vec::new(), Vec::new()];
        let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut % rows.len()).chain([rows.len()]).collect();
        ends.sort_unstable();
        let mut start = 0;
        for (at, end) in ends.into_iter().enumerate() {
            parts[at % 3].push(input.slice(start, end - start));
            start = end;
        }
        for part in &mut parts {
            part.push(input.slice(0, 0));
        }
        let mut skipping = SessionConfig::new().with_target_partitions(3);
        skipping.options_mut().execution.skip_partial_aggregation_probe_rows_threshold = 0;
        skipping.options_mut().execution.skip_partial_aggregation_probe_ratio_threshold = 0.0;
        for config in [SessionConfig::new().with_target_partitions(3).with_batch_size(3), skipping] {
            let [_, context] = sessions(&config);
            register(&context, "events", parts.clone());
            check_groups(&context, &rows);
        }
    }

    #[test]
    fn windows_are_exact_whatever_left_them(rows in rows()) {
        let [_, context] = sessions(&SessionConfig::new().with_target_partitions(1).with_batch_size(8));
        register(&context, "events", vec![vec![batch_of(&rows)]]);
        check_windows(&context, &rows);
    }
}

/// The engine's own session has them, under every name.
#[test]
fn the_engine_plans_with_the_exact_functions() {
    let state = session(&Functions::default()).unwrap();
    let context = SessionContext::new_with_state(state);
    let rows = [(1, 0, Some(1e16)), (1, 1, Some(1.0)), (1, 2, Some(-1e16)), (1, 3, Some(1.5))];
    register(&context, "events", vec![vec![batch_of(&rows)]]);
    for (function, value) in [("sum", 2.5), ("avg", 0.625), ("mean", 0.625)] {
        let batch = collect(&context, &format!("SELECT {function}(x) FROM events")).unwrap();
        assert_eq!(batch.column(0).as_primitive::<Float64Type>().value(0), value);
    }
    for function in FUNCTIONS.iter().filter(|name| name.starts_with("var") || name.starts_with("stddev")) {
        let batch = collect(&context, &format!("SELECT {function}(x) FROM events")).unwrap();
        let results = expected(rows.iter().filter_map(|row| row.2));
        let at = usize::from(function.contains("pop")) + if function.starts_with("var") { 2 } else { 4 };
        assert_eq!(Some(batch.column(0).as_primitive::<Float64Type>().value(0).to_bits()), results[at], "{function}");
    }
}

/// Stock would make `sum(x) + 0.1 * count(x)` of this.
#[test]
fn a_constant_is_added_to_each_row() {
    let [_, context] = sessions(&SessionConfig::new());
    let rows = [(1, 0, Some(1e16)), (1, 1, Some(-1e16)), (1, 2, Some(0.1))];
    register(&context, "events", vec![vec![batch_of(&rows)]]);
    let batch = collect(&context, "SELECT sum(x + 0.1), sum(x + 0.2), sum(t + 1), sum(t + 2) FROM events").unwrap();
    let column = |at: usize| batch.column(at).as_primitive::<Float64Type>().value(0);
    let by_row =
        |constant: f64| f64::from_bits(expected(rows.iter().filter_map(|row| row.2.map(|x| x + constant)))[0].unwrap());
    assert_eq!((column(0), column(1)), (by_row(0.1), by_row(0.2)));
    assert_eq!(batch.column(2).as_primitive::<arrow::datatypes::Int64Type>().value(0), 6);
}

/// `semantics/exact_sums.json`, which has neither ties nor late rows, in SQL.
#[test]
fn the_agreed_sums_in_sql() {
    let [_, context] = sessions(&SessionConfig::new());
    let (infinity, nan) = (f64::INFINITY, f64::NAN);
    let log = [1e16, 1.0, -1e16, 0.1, 0.2, infinity, 1.0, 2.0, 3.0, nan, 1.0, 2.0, 3.0, -0.0, -0.0, -0.0];
    let sums = [
        1e16,
        1e16,
        1.0,
        -9999999999999998.0,
        -1e16,
        infinity,
        infinity,
        infinity,
        6.0,
        nan,
        nan,
        nan,
        6.0,
        5.0,
        3.0,
        0.0,
    ];
    let rows: Vec<Row> = log.iter().zip(0..).map(|(x, at)| (1, 100 + 4 * at, Some(*x))).collect();
    register(&context, "events", vec![vec![batch_of(&rows)]]);
    let over = "OVER (PARTITION BY k ORDER BY to_timestamp_seconds(t)
        RANGE BETWEEN INTERVAL '8 seconds' PRECEDING AND CURRENT ROW)";
    let batch = collect(&context, &format!("SELECT sum(x) {over} FROM events ORDER BY t")).unwrap();
    let found: Vec<u64> = batch.column(0).as_primitive::<Float64Type>().values().iter().map(|sum| bits(*sum)).collect();
    assert_eq!(found, sums.map(bits));
}
