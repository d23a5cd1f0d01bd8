//! Properties: the outcome of each row is the same whole, cut at random and cut at every row, and equal to what stock DataFusion
//! says; for SQL that can fail on rows and for SQL that cannot.

use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;

type Row = (Option<i32>, Option<i64>, Option<f64>);

fn row() -> impl Strategy<Value = Row> {
    let small = prop_oneof![Just(0), Just(1), -3i32..4, Just(i32::MAX), Just(i32::MIN)];
    let big = prop_oneof![Just(0i64), -3i64..4, Just(i64::MAX), Just(i64::MIN)];
    let float = prop_oneof![Just(0.0), -2.0..2.0f64, Just(f64::INFINITY), Just(1e300)];
    (
        proptest::option::weighted(0.8, small),
        proptest::option::weighted(0.8, big),
        proptest::option::weighted(0.8, float),
    )
}

/// SQL numbers of some integer type. `fails`: whether they may fail on some rows.
fn integer(fails: bool) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("a".to_owned()), Just("b".to_owned()), (-3i32..4).prop_map(|value| value.to_string())];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        let pair = (inner.clone(), inner.clone());
        let arithmetic = (pair.clone(), prop_oneof![Just("+"), Just("-"), Just("*")])
            .prop_map(|((left, right), operator)| format!("({left} {operator} {right})"));
        let choice = (inner.clone(), inner.clone(), inner.clone())
            .prop_map(|(when, then, or)| format!("CASE WHEN {when} > 0 THEN {then} ELSE {or} END"));
        let safe = prop_oneof![
            arithmetic,
            choice,
            pair.clone().prop_map(|(left, right)| format!("coalesce({left}, {right})")),
            pair.clone().prop_map(|(left, right)| format!("nullif({left}, {right})")),
            inner.prop_map(|value| format!("length(CAST({value} AS VARCHAR))")),
        ];
        if !fails {
            return safe.boxed();
        }
        let failing = prop_oneof![
            pair.clone().prop_map(|(left, right)| format!("({left} / {right})")),
            pair.clone().prop_map(|(left, right)| format!("({left} % {right})")),
            pair.prop_map(|(left, right)| format!(
                "CAST(substr(CAST({left} AS VARCHAR), 1, CAST({right} AS BIGINT)) AS INT)"
            )),
        ];
        prop_oneof![2 => safe, 1 => failing].boxed()
    })
    .boxed()
}

/// SQL conditions.
fn condition(fails: bool) -> BoxedStrategy<String> {
    let comparison = (integer(fails), prop_oneof![Just("<"), Just("="), Just("<>"), Just(">=")], integer(fails));
    let guard = if fails { "b <> 0 AND a / b > 0" } else { "b <> 0 AND a * b > 0" };
    let leaf = prop_oneof![
        3 => comparison.prop_map(|(left, operator, right)| format!("({left} {operator} {right})")),
        1 => Just("x > 0.5".to_owned()),
        1 => Just("(a IS NULL)".to_owned()),
        1 => Just("b IN (0, 1, 2)".to_owned()),
        1 => Just(guard.to_owned()),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} AND {right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} OR {right})")),
            inner.prop_map(|inner| format!("NOT ({inner})")),
        ]
    })
    .boxed()
}

fn query(fails: bool) -> impl Strategy<Value = String> {
    (integer(fails), integer(fails), condition(fails), condition(fails), any::<bool>()).prop_map(
        |(first, second, column, filter, nested)| {
            if nested {
                format!(
                    "SELECT id, n, n + coalesce(m, 0) AS s, c FROM (SELECT id, a, b, x, {first} AS n, {second} AS m, {column} AS c FROM events) AS t WHERE {filter}"
                )
            } else {
                format!("SELECT id, {first} AS n, {second} AS m, {column} AS c, x * 0.1 AS y FROM events WHERE {filter}")
            }
        },
    )
}

/// Output rows in their order, and the numbers of the rejected ones.
fn outcome(graph: &mut Graph, parts: &[RecordBatch]) -> (Vec<RecordBatch>, Vec<usize>) {
    let mut out = Vec::new();
    let mut rejected = Vec::new();
    let mut before = 0;
    for part in parts {
        let output = graph.run(vec![(0, part.clone())]).unwrap();
        out.extend(output.sinks.into_iter().next().unwrap());
        rejected.extend(output.rejected.iter().map(|row| row.row + before));
        before += part.num_rows();
    }
    (out, rejected)
}

/// Stock DataFusion with all its rules over the visible columns.
fn stock(sql: &str, input: &RecordBatch) -> datafusion::common::Result<Vec<RecordBatch>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let context = SessionContext::new();
        let visible = input.project(&[0, 1, 2, 3])?;
        context.register_table("events", Arc::new(MemTable::try_new(visible.schema(), vec![vec![visible]])?))?;
        context.sql(sql).await?.collect().await
    })
}

fn as_text(batches: &[RecordBatch]) -> String {
    if batches.iter().all(|batch| batch.num_rows() == 0) { String::new() } else { shown(batches) }
}

fn stock_text(batches: &[RecordBatch]) -> String {
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return String::new();
    }
    pretty_format_batches(batches).unwrap().to_string()
}

fn cut(input: &RecordBatch, cuts: &[usize]) -> Vec<RecordBatch> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.num_rows() + 1)).collect();
    ends.push(input.num_rows());
    ends.sort_unstable();
    let mut start = 0;
    let parts = ends.into_iter().map(|end| {
        let part = input.slice(start, end - start);
        start = end;
        part
    });
    parts.collect()
}

fn check_parity(sql: &str, values: &[Row], cuts: &[usize]) -> Result<(), TestCaseError> {
    let pipeline = pipeline(vec![narrow_source("events")], &[], &[("out", sql)]);
    let plan = match Plan::compile(&pipeline, &Functions::default()) {
        Ok(plan) => plan,
        // Types that do not fit: the generator does not know them.
        Err(_) => return Err(TestCaseError::reject("not a query")),
    };
    let mut graph = plan.instantiate().unwrap();
    let input = rows(&plan.source_schema(0), values);
    let whole = outcome(&mut graph, std::slice::from_ref(&input));
    let alone: Vec<_> = (0..input.num_rows()).map(|row| input.slice(row, 1)).collect();
    let alone = outcome(&mut graph, &alone);
    let parts = outcome(&mut graph, &cut(&input, cuts));
    prop_assert_eq!(as_text(&whole.0), as_text(&alone.0), "whole and row by row: {}", sql);
    prop_assert_eq!(as_text(&parts.0), as_text(&alone.0), "in parts and row by row: {}", sql);
    prop_assert_eq!(&whole.1, &alone.1, "rejected: {}", sql);
    prop_assert_eq!(&parts.1, &alone.1, "rejected: {}", sql);
    if whole.1.is_empty()
        && let Ok(stock) = stock(sql, &input)
    {
        prop_assert_eq!(as_text(&whole.0), stock_text(&stock), "stock: {}", sql);
    }
    let one = cuts.first().copied().unwrap_or(0) % values.len();
    match stock(sql, &input.slice(one, 1)) {
        Ok(stock) => {
            prop_assert!(!whole.1.contains(&one), "stock accepts row {} of {}", one, sql);
            let (out, _) = outcome(&mut graph, &[input.slice(one, 1)]);
            prop_assert_eq!(as_text(&out), stock_text(&stock), "stock, row {} alone: {}", one, sql);
        }
        Err(_) => prop_assert!(whole.1.contains(&one), "stock refuses row {} of {}", one, sql),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, max_shrink_iters: 2000, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn sql_that_cannot_fail_says_what_stock_datafusion_says_however_it_is_cut(
        sql in query(false),
        values in proptest::collection::vec(row(), 1..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        check_parity(&sql, &values, &cuts)?;
    }

    #[test]
    fn the_fate_of_a_row_is_the_one_it_gets_alone(
        sql in query(true),
        values in proptest::collection::vec(row(), 1..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        check_parity(&sql, &values, &cuts)?;
    }
}
