//! DataFusion's aggregates through the fallback: equal to the kernels bit for bit where there are kernels, late rows and
//! filters included, and to stock's own answers on rows in order.

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::array::{
    AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::functions_aggregate::{
    all_default_aggregate_functions, array_agg, average, correlation, count, median, min_max, sum,
};
use datafusion::logical_expr::{
    Accumulator, LogicalPlan, Volatility, WindowFunctionDefinition, create_udaf, expr::NullTreatment,
};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;
use crate::operator::over_window::{Call, Frame, OverWindow, WindowInput, WindowOutput, WindowSpec};
use crate::types::{Assignment, Hidden};

const SECOND: i64 = 1_000_000;

/// Rows of one state unit as the operator takes them: key, event time, W before, retained columns, filters.
#[derive(Debug)]
struct Log {
    keys: ArrayRef,
    times: Vec<i64>,
    columns: Vec<ArrayRef>,
    filters: Vec<ArrayRef>,
}

impl Log {
    fn send(&self, operator: &mut OverWindow, rows: Range<usize>) -> WindowOutput {
        let cut = |arrays: &[ArrayRef]| -> Vec<ArrayRef> {
            arrays.iter().map(|array| array.slice(rows.start, rows.len())).collect()
        };
        let unit = UInt32Array::from(vec![0; rows.len()]);
        let offset: Int64Array = rows.clone().map(|row| Some(row as i64)).collect();
        let event_time: Int64Array = self.times[rows.clone()].iter().map(|time| Some(*time)).collect();
        let w: Int64Array = rows.clone().map(|row| self.times[..row].iter().max().copied()).collect();
        let hidden = Hidden {
            unit: &unit,
            offset: &offset,
            ordinal: &unit,
            event_time: &event_time,
            w: &w,
            broker_time: &offset,
        };
        let (keys, arguments, filters) =
            (cut(std::slice::from_ref(&self.keys)), cut(&self.columns), cut(&self.filters));
        operator.process(&WindowInput { keys: &keys, arguments: &arguments, filters: &filters, hidden }).unwrap()
    }

    fn answers(&self, calls: Vec<Call>) -> (Vec<ArrayRef>, usize) {
        let mut operator = OverWindow::new(&self.spec(calls)).unwrap();
        operator.add_unit(Assignment(0), None).unwrap();
        let output = self.send(&mut operator, 0..self.times.len());
        (output.columns, output.failures.len())
    }

    fn answers_one_by_one(&self, calls: Vec<Call>) -> Vec<ArrayRef> {
        let num_calls = calls.len();
        let mut operator = OverWindow::new(&self.spec(calls)).unwrap();
        operator.add_unit(Assignment(0), None).unwrap();
        let rows: Vec<_> = (0..self.times.len()).map(|row| self.send(&mut operator, row..row + 1).columns).collect();
        let column = |call: usize| rows.iter().map(|row| row[call].as_ref()).collect::<Vec<_>>();
        (0..num_calls).map(|call| concat(&column(call)).unwrap()).collect()
    }

    fn spec(&self, calls: Vec<Call>) -> WindowSpec {
        WindowSpec {
            keys: vec![self.keys.data_type().clone()],
            arguments: self.columns.iter().map(|column| column.data_type().clone()).collect(),
            num_filters: self.filters.len(),
            calls,
            max_lateness: Duration::from_secs(20),
            max_lookback: Duration::from_secs(60),
        }
    }
}

fn retained(column: usize, data_type: &DataType) -> Argument {
    Argument::Retained { column, data_type: data_type.clone() }
}

fn plain(function: &Arc<AggregateUDF>, arguments: &[Argument], is_distinct: bool) -> Result<Function, String> {
    fallback(&AggregateCall { function, arguments, is_distinct, ignores_nulls: false })
}

fn exact(name: &str) -> Arc<AggregateUDF> {
    tidemill_udfs::aggregates().into_iter().find(|function| function.name() == name).unwrap()
}

/// Kernels, and the aggregates that they stand for.
fn pairs() -> Vec<(Function, Arc<AggregateUDF>)> {
    vec![
        (Function::Sum, exact("sum")),
        (Function::Avg, exact("avg")),
        (Function::VarSamp, exact("var")),
        (Function::VarPop, exact("var_pop")),
        (Function::StddevSamp, exact("stddev")),
        (Function::StddevPop, exact("stddev_pop")),
        (Function::Min, min_max::min_udaf()),
        (Function::Max, min_max::max_udaf()),
        (Function::Count, count::count_udaf()),
        (Function::CountDistinct, count::count_udaf()),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (0_i64..60, 0_i64..20).prop_map(|(length, until)| Frame::Range {
            preceding_micros: (length + until) * SECOND,
            until_micros: until * SECOND,
        }),
        (0_usize..12, 0_usize..4).prop_map(|(rows, until)| Frame::Rows { preceding: rows + until, until }),
    ]
}

fn floats() -> impl Strategy<Value = Option<f64>> {
    let special = [0.0, -0.0, 1e16, -1e16, 1.0, 1e300, -1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    prop_oneof![
        1 => Just(None),
        6 => (0_u32..10_000).prop_map(|cents| Some(f64::from(cents) / 100.0)),
        2 => prop::sample::select(special.to_vec()).prop_map(Some),
    ]
}

fn logs() -> impl Strategy<Value = Log> {
    let gap = prop_oneof![6 => Just(0_i64), 6 => 1_i64..4, 1 => 10_i64..90];
    let behind = prop_oneof![6 => Just(0_i64), 3 => 1_i64..15, 2 => 15_i64..60, 1 => 60_i64..200];
    let row = (0_i64..3, gap, behind, floats(), prop::option::of(-5_i64..5), any::<Option<bool>>());
    prop::collection::vec(row, 1..150).prop_map(|rows| {
        let mut now = 1_000;
        let times = rows.iter().map(|row| {
            now += row.1;
            (now - row.2) * SECOND
        });
        let integers: Int64Array = rows.iter().map(|row| row.4).collect();
        Log {
            times: times.collect(),
            keys: Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            columns: vec![
                Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
                Arc::new(integers.clone()),
                Arc::new(integers.unary::<_, Float64Type>(|value| value as f64)),
            ],
            filters: vec![Arc::new(rows.iter().map(|row| row.5).collect::<BooleanArray>())],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_there_is_a_kernel_the_fallback_gives_its_bits_and_cuts_change_nothing(
        log in logs(),
        frames in prop::collection::vec((frames(), any::<bool>()), 1..4),
    ) {
        let mut calls = Vec::new();
        for (frame, has_filter) in frames {
            for (kernel, function) in pairs() {
                for column in 0..2 {
                    let filter = has_filter.then_some(0);
                    // Type coercion casts what these take to doubles; the kernel of an integer does so itself.
                    let is_cast = !matches!(kernel, Function::Sum | Function::Min | Function::Max | Function::Count | Function::CountDistinct);
                    let argument = if is_cast && column == 1 { 2 } else { column };
                    let is_distinct = matches!(kernel, Function::CountDistinct);
                    let stock = plain(&function, &[retained(argument, log.columns[argument].data_type())], is_distinct).unwrap();
                    calls.push(Call { function: kernel.clone(), argument: Some(column), filter, frame });
                    calls.push(Call { function: stock, argument: None, filter, frame });
                }
            }
        }
        let num_paired = calls.len();
        for (function, num_arguments) in
            [(median::median_udaf(), 1), (array_agg::array_agg_udaf(), 1), (correlation::corr_udaf(), 2)]
        {
            let arguments = [0, 2].map(|column| retained(column, &DataType::Float64));
            let function = plain(&function, &arguments[..num_arguments], false).unwrap();
            calls.push(Call { function, argument: None, filter: None, frame: calls[0].frame });
        }
        let (columns, num_failures) = log.answers(calls.clone());
        prop_assert_eq!(num_failures, 0);
        prop_assert_eq!(&log.answers_one_by_one(calls.clone()), &columns, "cut at every row");
        for (call, pair) in calls[..num_paired].chunks(2).zip(columns.chunks(2)) {
            let bits = |array: &ArrayRef| -> Vec<Option<u64>> {
                match array.as_primitive_opt::<Float64Type>() {
                    Some(floats) => floats.iter().map(|value| value.map(f64::to_bits)).collect(),
                    None => array.as_primitive::<Int64Type>().iter().map(|value| value.map(|value| value as u64)).collect(),
                }
            };
            prop_assert_eq!(bits(&pair[0]), bits(&pair[1]), "{:?}", call[0]);
        }
    }
}

/// Rows in order, without ties: some keys, doubles with nulls, decimals short and long, strings.
fn table(num_rows: usize) -> RecordBatch {
    let mut state = 7_u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let mut column = |end: u64| -> Vec<Option<i64>> {
        (0..num_rows).map(|_| Some(below(end) as i64).filter(|value| value % 11 != 5)).collect()
    };
    let (x, y, d) = (column(500), column(500), column(100_000));
    let decimal = |precision: u8, scale: i8| -> ArrayRef {
        let values: Decimal128Array = d.iter().map(|value| value.map(|value| i128::from(value) - 50_000)).collect();
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    };
    let float = |values: &[Option<i64>]| -> ArrayRef {
        Arc::new(values.iter().map(|value| value.map(|value| value as f64 / 4.0)).collect::<Float64Array>())
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("i", Arc::new((0..num_rows as i64).map(Some).collect::<Int64Array>())),
        ("k", Arc::new((0..num_rows as i64).map(|row| Some(row * row % 7)).collect::<Int64Array>())),
        ("t", Arc::new((0..num_rows as i64).map(|row| Some(row * SECOND)).collect::<Int64Array>())),
        ("x", float(&x)),
        ("y", float(&y)),
        ("n", Arc::new(x.iter().copied().collect::<Int64Array>())),
        ("u", Arc::new(x.iter().map(|value| value.map(|value| value as u64)).collect::<UInt64Array>())),
        ("d", decimal(10, 2)),
        ("e", decimal(30, 4)),
        ("s", Arc::new(y.iter().map(|value| value.map(|value| format!("s{}", value % 20))).collect::<StringArray>())),
        ("b", Arc::new(x.iter().map(|value| value.map(|value| value % 3 == 0)).collect::<BooleanArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn context(batch: &RecordBatch) -> SessionContext {
    let context = SessionContext::new();
    for function in tidemill_udfs::aggregates() {
        context.register_udaf(Arc::unwrap_or_clone(function));
    }
    let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

fn collect(context: &SessionContext, sql: &str) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        concat_batches(batches[0].schema_ref(), &batches).unwrap()
    })
}

/// The first window call of a query, after type coercion.
fn window_call(context: &SessionContext, sql: &str) -> datafusion::logical_expr::expr::WindowFunction {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let state = context.state();
    let plan = runtime.block_on(state.create_logical_plan(sql)).unwrap();
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).unwrap();
    let mut found = None;
    plan.apply(|node| {
        if let LogicalPlan::Window(window) = node
            && let Expr::WindowFunction(call) = window.window_expr[0].clone().unalias_nested().data
        {
            found = Some(*call);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    found.unwrap()
}

/// The operator's answers to `call` over the table, the call planned from SQL as it stands in a pipeline.
fn through_the_fallback(context: &SessionContext, batch: &RecordBatch, call: &str, frame: (&str, Frame)) -> ArrayRef {
    let sql = format!("SELECT {call} OVER (PARTITION BY k ORDER BY t {}) FROM t", frame.0);
    let call = window_call(context, &sql);
    let WindowFunctionDefinition::AggregateUDF(function) = &call.fun else { panic!("{sql} is no aggregate") };
    let evaluated = |expr: &Expr| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let frame =
            runtime.block_on(context.table("t")).unwrap().sort(vec![datafusion::prelude::col("i").sort(true, true)]);
        let batches = runtime.block_on(frame.unwrap().select(vec![expr.clone()]).unwrap().collect()).unwrap();
        Arc::clone(concat_batches(batches[0].schema_ref(), &batches).unwrap().column(0))
    };
    let mut log = Log {
        keys: Arc::clone(batch.column_by_name("k").unwrap()),
        times: batch.column_by_name("t").unwrap().as_primitive::<Int64Type>().values().to_vec(),
        columns: Vec::new(),
        filters: call.params.filter.iter().map(|filter| evaluated(filter)).collect(),
    };
    let mut arguments = Vec::new();
    for expr in &call.params.args {
        arguments.push(match literal(expr) {
            Some(value) => Argument::Literal(value),
            None => {
                log.columns.push(evaluated(expr));
                retained(log.columns.len() - 1, log.columns[log.columns.len() - 1].data_type())
            }
        });
    }
    let function = fallback(&AggregateCall {
        function,
        arguments: &arguments,
        is_distinct: call.params.distinct,
        ignores_nulls: call.params.null_treatment == Some(NullTreatment::IgnoreNulls),
    });
    let function = function.unwrap_or_else(|reason| panic!("{sql}: {reason}"));
    let filter = call.params.filter.as_ref().map(|_| 0);
    let (columns, num_failures) = log.answers(vec![Call { function, argument: None, filter, frame: frame.1 }]);
    assert_eq!(num_failures, 0, "{sql}");
    Arc::clone(&columns[0])
}

const FRAMES: [(&str, Frame); 3] = [
    (
        "RANGE BETWEEN 30000000 PRECEDING AND CURRENT ROW",
        Frame::Range { preceding_micros: 30 * SECOND, until_micros: 0 },
    ),
    ("ROWS BETWEEN 7 PRECEDING AND CURRENT ROW", Frame::Rows { preceding: 7, until: 0 }),
    ("ROWS BETWEEN 5 PRECEDING AND 1 PRECEDING", Frame::Rows { preceding: 5, until: 1 }),
];

#[test]
fn rows_in_order_are_answered_as_stock_answers_them() {
    let batch = table(300);
    let context = context(&batch);
    for call in [
        "median(x)",
        "median(d)",
        "percentile_cont(x, 0.95)",
        "percentile_cont(n, 0.25) FILTER (WHERE b)",
        "array_agg(x)",
        "array_agg(s) FILTER (WHERE x > 50)",
        "count(DISTINCT d)",
        "count(DISTINCT e)",
        "count(*) FILTER (WHERE y < 60)",
        "sum(d)",
        "sum(e)",
        "avg(d)",
        "avg(e)",
        "min(d)",
        "max(e)",
        "min(s)",
        "sum(u)",
        "bit_xor(n)",
    ] {
        for frame in FRAMES {
            let sql = format!("SELECT {call} OVER (PARTITION BY k ORDER BY t {}) AS a FROM t ORDER BY i", frame.0);
            let stock = collect(&context, &sql);
            let ours = through_the_fallback(&context, &batch, call, frame);
            assert_eq!(ours.as_ref(), stock.column(0).as_ref(), "{sql}");
        }
    }
}

/// What stock computes over no sliding frame, or not exactly there, it computes in a group of exactly the visible rows.
#[test]
fn rows_in_order_are_answered_as_stock_answers_a_group_of_them() {
    let batch = table(300);
    let context = context(&batch);
    let frame = (
        "RANGE BETWEEN 60000000 PRECEDING AND CURRENT ROW",
        Frame::Range { preceding_micros: 60 * SECOND, until_micros: 0 },
    );
    for (call, grouped) in [
        ("corr(x, y)", "corr(b.x, b.y)"),
        ("covar_samp(x, y)", "covar_samp(b.x, b.y)"),
        ("covar_pop(x, n)", "covar_pop(b.x, b.n)"),
        ("regr_slope(y, x)", "regr_slope(b.y, b.x)"),
        ("string_agg(s, ', ')", "string_agg(b.s, ', ' ORDER BY b.i)"),
        ("string_agg(DISTINCT s, '-')", "string_agg(DISTINCT b.s, '-' ORDER BY b.s)"),
        ("array_agg(DISTINCT s)", "array_agg(DISTINCT b.s ORDER BY b.s)"),
        ("median(DISTINCT x)", "median(DISTINCT b.x)"),
        ("bool_or(b)", "bool_or(b.b)"),
        ("approx_distinct(s)", "approx_distinct(b.s)"),
        ("approx_median(n)", "approx_median(b.n)"),
    ] {
        let sql = format!(
            "SELECT {grouped} FROM t a JOIN t b ON a.k = b.k AND b.i <= a.i AND b.t >= a.t - 60000000 GROUP BY a.i ORDER BY a.i"
        );
        let stock = collect(&context, &sql);
        let stock = stock.column(0);
        let ours = through_the_fallback(&context, &batch, call, frame);
        assert_eq!(ours.len(), stock.len());
        let mut num_values = BTreeSet::new();
        for row in 0..ours.len() {
            let [a, b] = [&ours, stock].map(|array| array_value_to_string(array, row).unwrap());
            let is_near = match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0) || (a.is_nan() && b.is_nan()),
                _ => a == b,
            };
            assert!(is_near, "{call}, row {row}: {a}, stock {b}");
            num_values.insert(a);
        }
        assert!(num_values.len() > 1, "{call}: the test needs more than {num_values:?}");
    }
}

#[test]
fn every_aggregate_of_datafusion_has_a_fallback_but_for_grouping() {
    let float = DataType::Float64;
    let list = all_default_aggregate_functions();
    let mut refused = Vec::new();
    for function in &list {
        let arguments = match function.name() {
            "corr" | "covar_samp" | "covar_pop" => vec![retained(0, &float), retained(1, &float)],
            name if name.starts_with("regr_") => vec![retained(0, &float), retained(1, &float)],
            "approx_percentile_cont" | "percentile_cont" => {
                vec![retained(0, &float), Argument::Literal(ScalarValue::Float64(Some(0.95)))]
            }
            "approx_percentile_cont_with_weight" => {
                vec![retained(0, &float), retained(1, &float), Argument::Literal(ScalarValue::Float64(Some(0.95)))]
            }
            "string_agg" => vec![retained(0, &DataType::Utf8), Argument::Literal(ScalarValue::from(", "))],
            "nth_value" => vec![retained(0, &float), Argument::Literal(ScalarValue::Int64(Some(2)))],
            "bit_and" | "bit_or" | "bit_xor" => vec![retained(0, &DataType::Int64)],
            "bool_and" | "bool_or" => vec![retained(0, &DataType::Boolean)],
            "approx_distinct" => vec![retained(0, &DataType::Utf8)],
            _ => vec![retained(0, &float)],
        };
        match plain(function, &arguments, false) {
            Ok(_) => {}
            Err(reason) => refused.push(format!("{}: {reason}", function.name())),
        }
    }
    assert!(list.len() > 30);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].starts_with("grouping: DataFusion does not compute it for each row"), "{refused:?}");
}

#[test]
fn what_cannot_be_computed_is_refused_before_the_start() {
    let float = DataType::Float64;
    let reason = plain(&median::median_udaf(), &[], false).unwrap_err();
    assert!(reason.contains("does not compute it"), "{reason}");
    let reason = plain(&correlation::corr_udaf(), &[retained(0, &float), retained(1, &float)], true).unwrap_err();
    assert_eq!(reason, "DataFusion does not heed DISTINCT in it; leave DISTINCT out");
    let nth = datafusion::functions_aggregate::nth_value::nth_value_udaf();
    let arguments = [retained(0, &float), Argument::Literal(ScalarValue::from(2_i64))];
    let call = AggregateCall { function: &nth, arguments: &arguments, is_distinct: false, ignores_nulls: true };
    assert!(fallback(&call).unwrap_err().starts_with("DataFusion does not heed IGNORE NULLS in it"));
    let percentile = datafusion::functions_aggregate::percentile_cont::percentile_cont_udaf();
    let reason = plain(&percentile, &[retained(0, &float), retained(1, &float)], false).unwrap_err();
    assert!(reason.contains("literal") && !reason.contains('\n'), "{reason}");
    let liar = create_udaf(
        "liar",
        vec![DataType::Float64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Refusing(f64::NAN)))),
        Arc::new(vec![]),
    );
    let reason = plain(&Arc::new(liar), &[retained(0, &float)], false).unwrap_err();
    assert_eq!(reason, "it says that it gives Int64, and gives Float64; mend the function");
}

#[test]
fn first_and_last_value_that_ignore_nulls_and_nth_value_have_a_fallback() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0), Some(2.0), None]));
    let log = one_key(vec![0, SECOND, 2 * SECOND, 3 * SECOND], vec![values]);
    let list = all_default_aggregate_functions();
    let answers = |name: &str, second: Option<i64>, ignores_nulls: bool| -> Vec<Option<f64>> {
        let function = list.iter().find(|function| function.name() == name).unwrap();
        let mut arguments = vec![retained(0, &DataType::Float64)];
        arguments.extend(second.map(|n| Argument::Literal(ScalarValue::from(n))));
        let call = AggregateCall { function, arguments: &arguments, is_distinct: false, ignores_nulls };
        let frame = Frame::Rows { preceding: 2, until: 0 };
        let call = Call { function: fallback(&call).unwrap(), argument: None, filter: None, frame };
        log.answers(vec![call]).0[0].as_primitive::<Float64Type>().iter().collect()
    };
    assert_eq!(answers("first_value", None, true), [None, Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(answers("last_value", None, true), [None, Some(1.0), Some(2.0), Some(2.0)]);
    assert_eq!(answers("first_value", None, false), [None, None, None, Some(1.0)]);
    assert_eq!(answers("nth_value", Some(2), false), [None, Some(1.0), Some(1.0), Some(2.0)]);
}

/// The number of rows as a double; refuses one value.
#[derive(Debug)]
struct Refusing(f64);

impl Accumulator for Refusing {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
        let values = values[0].as_primitive::<Float64Type>();
        match values.iter().flatten().any(|value| value == 13.0) {
            true => Err(DataFusionError::Execution("13 is unlucky".to_owned())),
            false => {
                self.0 = values.len() as f64;
                Ok(())
            }
        }
    }

    fn evaluate(&mut self) -> datafusion::common::Result<ScalarValue> {
        Ok(ScalarValue::Float64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> datafusion::common::Result<Vec<ScalarValue>> {
        Ok(vec![])
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> datafusion::common::Result<()> {
        Ok(())
    }
}

fn one_key(times: Vec<i64>, columns: Vec<ArrayRef>) -> Log {
    Log { keys: Arc::new(Int64Array::from(vec![1; times.len()])), times, columns, filters: vec![] }
}

#[test]
fn a_users_function_is_run_and_where_it_refuses_the_row_is_named_without_its_content() {
    let function = create_udaf(
        "counted",
        vec![DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::new(Refusing(f64::NAN)))),
        Arc::new(vec![]),
    );
    let function = plain(&Arc::new(function), &[retained(0, &DataType::Float64)], false).unwrap();
    let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 13.0, 2.0, 3.0]));
    let log = one_key(vec![0, SECOND, 2 * SECOND, 3 * SECOND], vec![values]);
    let frame = Frame::Rows { preceding: 1, until: 0 };
    let mut operator =
        OverWindow::new(&log.spec(vec![Call { function, argument: None, filter: None, frame }])).unwrap();
    operator.add_unit(Assignment(0), None).unwrap();
    let output = log.send(&mut operator, 0..4);
    let wanted = Float64Array::from(vec![Some(1.0), None, None, Some(2.0)]);
    assert_eq!(output.columns[0].as_primitive::<Float64Type>(), &wanted);
    let failures: Vec<(usize, &str)> =
        output.failures.iter().map(|failed| (failed.row, failed.reason.as_str())).collect();
    let reason = "counted over a window: function refused its arguments";
    assert_eq!(failures, [(1, reason), (2, reason)]);
}

#[test]
fn an_average_of_decimals_beyond_their_range_is_null_and_named() {
    let data_type = DataType::Decimal128(38, 0);
    let most = 10_i128.pow(38) - 1;
    let values = Decimal128Array::from(vec![1, most, 2]).with_precision_and_scale(38, 0).unwrap();
    let log = one_key(vec![0, SECOND, 100 * SECOND], vec![Arc::new(values)]);
    let frame = Frame::Range { preceding_micros: 5 * SECOND, until_micros: 0 };
    let call = |function: Arc<AggregateUDF>| {
        let function = plain(&function, &[retained(0, &data_type)], false).unwrap();
        Call { function, argument: None, filter: None, frame }
    };
    let mut operator =
        OverWindow::new(&log.spec(vec![call(average::avg_udaf()), call(sum::sum_udaf()), call(min_max::max_udaf())]))
            .unwrap();
    operator.add_unit(Assignment(0), None).unwrap();
    let output = log.send(&mut operator, 0..3);
    assert_eq!(output.failures.len(), 1, "{:?}", output.failures);
    assert_eq!((output.failures[0].row, output.failures[0].call), (1, 0));
    assert!(output.failures[0].reason.starts_with("avg over a window: "), "{:?}", output.failures);
    let text = |column: usize, row: usize| array_value_to_string(&output.columns[column], row).unwrap();
    assert_eq!([text(0, 0), text(0, 1), text(0, 2)], ["1.0000", "", "2.0000"]);
    assert_eq!([text(2, 0), text(2, 1), text(2, 2)], ["1".to_owned(), most.to_string(), "2".to_owned()]);
}
