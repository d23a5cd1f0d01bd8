//! Windows from SQL to answers: the semantics cases, stock DataFusion as the oracle of in-order rows, cuts, rows that fail
//! behind a window, and state that is taken out and put back.

use arrow::array::BooleanArray;
use arrow::compute::concat_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::operator::over_window::SnapshotKind;
use crate::operator::over_window::tests::cases::parse_case;
use crate::types::Assignment;

/// Rows `(unit, offset, time in microseconds, k, x)` of one source.
type Log = Vec<(u32, i64, i64, i64, Option<f64>)>;

fn events(max_lateness: Duration, max_lookback: Duration) -> Source {
    Source {
        columns: vec![
            column("k", ColumnType::Int64, false),
            column("x", ColumnType::Float64, true),
            column("t", ColumnType::Timestamp, false),
        ],
        metadata: Vec::new(),
        event_time: Some("t".to_owned()),
        partitioned_by: vec!["k".to_owned()],
        max_lateness,
        max_lookback,
        ..source("events")
    }
}

fn usual() -> Source {
    events(Duration::from_secs(7200), Duration::from_secs(90 * 86_400))
}

/// The log as decode gives it: W is the greatest event time before a row in its unit.
fn batch(schema: &SchemaRef, log: &Log) -> RecordBatch {
    let mut greatest = BTreeMap::new();
    let mut w = Vec::new();
    for (unit, _, time, _, _) in log {
        let before = greatest.get(unit).copied();
        w.push(before);
        greatest.insert(*unit, before.map_or(*time, |before: i64| before.max(*time)));
    }
    let times = || log.iter().map(|row| row.2);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(log.iter().map(|row| row.3))),
        Arc::new(Float64Array::from_iter(log.iter().map(|row| row.4))),
        Arc::new(arrow::array::TimestampMicrosecondArray::from_iter_values(times())),
        Arc::new(UInt32Array::from_iter_values(log.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(log.iter().map(|row| row.1))),
        Arc::new(UInt32Array::from(vec![0; log.len()])),
        Arc::new(Int64Array::from_iter_values(times())),
        Arc::new(Int64Array::from(w)),
        Arc::new(Int64Array::from(vec![-1; log.len()])),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// Rows of the first sink over all parts, each part an epoch.
fn answers(graph: &mut Graph, parts: &[RecordBatch]) -> Vec<RecordBatch> {
    let run = |part: &RecordBatch| graph.run(vec![(0, part.clone())]).unwrap().sinks.remove(0);
    parts.iter().flat_map(run).collect()
}

fn cut(whole: &RecordBatch, ends: &[usize]) -> Vec<RecordBatch> {
    let mut start = 0;
    let mut parts = Vec::new();
    for end in ends.iter().copied().chain([whole.num_rows()]) {
        let end = end.clamp(start, whole.num_rows());
        parts.push(whole.slice(start, end - start));
        start = end;
    }
    parts
}

/// The number as its bits say it, so that the last one counts.
fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    match column.data_type() {
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        _ => arrow::util::display::array_value_to_string(column, row).unwrap(),
    }
}

fn of_json(json: &Json, data_type: &DataType) -> String {
    match (json, data_type) {
        (Json::Null, _) => "null".to_owned(),
        (json, DataType::Float64) => format!("{:?}", json.as_str().unwrap().parse::<f64>().unwrap()),
        (json, _) => json.as_str().unwrap().to_owned(),
    }
}

#[test]
fn the_semantics_cases_hold_from_their_sql_to_their_answers() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/semantics");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 16, "{files:?}");
    for file in files {
        // Numbers come as strings: the parser of JSON would round some of them wrongly in their last bit.
        let case = parse_case(&std::fs::read_to_string(&file).unwrap());
        let seconds = |name: &str| case[name].as_str().map(|text| Duration::from_secs(text.parse().unwrap()));
        let lookback = seconds("max_lookback_s").unwrap_or(Duration::from_secs(90 * 86_400));
        let source = events(seconds("max_lateness_s").unwrap(), lookback);
        let columns = case["columns"].as_object().unwrap();
        let selected: Vec<String> =
            columns.iter().map(|(name, sql)| format!("{} AS {name}", sql.as_str().unwrap())).collect();
        let view = format!("SELECT k, {} FROM events", selected.join(", "));
        let plan = compiled(&pipeline(vec![source], &[("v", &view)], &[("out", "SELECT * FROM v")]), &functions());
        let log: Log = case["log"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let whole = |name: &str| row[name].as_str().unwrap().parse::<i64>().unwrap();
                let unit = u32::try_from(whole("partition")).unwrap();
                let x = row["x"].as_str().map(|x| x.parse().unwrap());
                (unit, whole("offset"), whole("t_s") * 1_000_000, whole("k"), x)
            })
            .collect();
        let whole = batch(&plan.source_schema(0), &log);
        for parts in [vec![whole.clone()], cut(&whole, &(1..log.len()).collect::<Vec<_>>())] {
            let out = answers(&mut plan.instantiate().unwrap(), &parts);
            let out = concat_batches(&plan.sink_schema(0), &out).unwrap();
            for (row, expected) in case["expect"].as_array().unwrap().iter().enumerate() {
                let found = |name: &str| out.column_by_name(name).unwrap();
                for name in columns.keys() {
                    let wanted = of_json(&expected[name], found(name).data_type());
                    assert_eq!(text(found(name), row), wanted, "{}: {name} of row {row}", file.display());
                }
                let late_by = expected["_late_by_s"].as_str().unwrap().parse::<i64>().unwrap() * 1_000_000;
                assert_eq!(text(found("_late_by"), row), late_by.to_string(), "{}", file.display());
                let incomplete = expected["_history_incomplete"].to_string();
                assert_eq!(text(found("_history_incomplete"), row), incomplete, "{}: row {row}", file.display());
            }
        }
    }
}

/// Several frames, filters, nested views and derived columns; the answers are for SQL's own oracle too.
const VIEWS: [(&str, &str); 3] = [
    (
        "near",
        "SELECT k, t, x, abs(x) AS y,
            count(*) OVER w AS n,
            sum(x) FILTER (WHERE x > 0.0) OVER w AS positive,
            avg(x * 2.0) OVER (PARTITION BY k ORDER BY t ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS rolling,
            max(CASE WHEN x > 1.0 THEN x END) OVER w AS large,
            lag(x, 2) OVER (PARTITION BY k ORDER BY t) AS before,
            median(x) FILTER (WHERE x < 1.9) OVER (PARTITION BY k ORDER BY t ROWS BETWEEN 4 PRECEDING AND CURRENT ROW) AS middle,
            row_number() OVER (PARTITION BY k ORDER BY t) AS number
         FROM events WHERE x IS NULL OR x > -1.5
         WINDOW w AS (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '10 milliseconds' PRECEDING AND CURRENT ROW)",
    ),
    ("some", "SELECT * FROM near WHERE n > 1 OR number < 3"),
    (
        "far",
        "SELECT k, t, n, positive, rolling, large, before, number,
            stddev(y) OVER (PARTITION BY k, n ORDER BY t ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING) AS spread, middle,
            sum(n) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '1 second' PRECEDING AND CURRENT ROW) AS sum_n
         FROM some",
    ),
];

fn log() -> impl Strategy<Value = Log> {
    let x = proptest::option::weighted(0.9, prop_oneof![Just(0.1), Just(-0.0), -2.0..2.0f64, Just(1e300)]);
    proptest::collection::vec((0..4i64, 1..9_000i64, x), 0..60).prop_map(|rows| {
        let mut time = 0;
        let row = |(offset, (k, step, x))| {
            time += step;
            // The unit follows from the key, as in a topic.
            (u32::try_from(k % 2).unwrap(), offset, time, k, x)
        };
        (0..).zip(rows).map(row).collect()
    })
}

fn plan_of_views(sink: &str) -> Plan {
    compiled(&pipeline(vec![usual()], &VIEWS, &[("out", sink)]), &functions())
}

/// Visible columns as text, sorted: stock DataFusion answers in the order of its partitions.
fn lines_of(batches: &[RecordBatch], columns: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|name| text(batch.column_by_name(name).unwrap(), row));
            lines.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    lines
}

fn stock(input: &RecordBatch, columns: &[&str]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rows = runtime.block_on(async {
        let context = SessionContext::new();
        tidemill_udfs::aggregates().into_iter().for_each(|function| context.register_udaf((*function).clone()));
        let visible = input.project(&[0, 1, 2])?;
        context.register_table("events", Arc::new(MemTable::try_new(visible.schema(), vec![vec![visible]])?))?;
        for (name, sql) in VIEWS {
            let view = context.sql(sql).await?.into_view();
            context.register_table(name, view)?;
        }
        context.sql("SELECT * FROM far").await?.collect().await
    });
    lines_of(&rows.unwrap(), columns)
}

const FAR: [&str; 11] =
    ["k", "t", "n", "positive", "rolling", "large", "before", "number", "spread", "middle", "sum_n"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_order_rows_get_the_answers_of_stock_datafusion_however_they_are_cut(
        log in log(),
        mut ends in proptest::collection::vec(0..60usize, 0..8),
    ) {
        let plan = plan_of_views("SELECT * FROM far");
        let whole = batch(&plan.source_schema(0), &log);
        let wanted = stock(&whole, &FAR);
        ends.sort_unstable();
        for parts in [vec![whole.clone()], cut(&whole, &ends), cut(&whole, &(1..=log.len()).collect::<Vec<_>>())] {
            let out = answers(&mut plan.instantiate().unwrap(), &parts);
            prop_assert_eq!(&lines_of(&out, &FAR), &wanted);
        }
    }

    #[test]
    fn state_that_is_taken_out_and_put_back_answers_the_same(log in log(), at in 0..60usize, later in 0..60usize) {
        let plan = plan_of_views("SELECT * FROM far");
        let whole = batch(&plan.source_schema(0), &log);
        let wanted = lines_of(&answers(&mut plan.instantiate().unwrap(), std::slice::from_ref(&whole)), &FAR);
        let parts = cut(&whole, &[at.min(later), at.max(later)]);
        let mut first = plan.instantiate().unwrap();
        let mut out = answers(&mut first, &parts[..1]);
        let mut saved = vec![taken(&mut first, SnapshotKind::Full)];
        out.extend(answers(&mut first, &parts[1..2]));
        saved.push(taken(&mut first, SnapshotKind::Delta));
        let mut second = plan.instantiate().unwrap();
        for (unit, operator, meta, pieces) in saved.into_iter().flatten() {
            second.restore_meta(operator, unit, &meta).unwrap();
            for piece in &pieces {
                second.restore_piece(operator, unit, piece).unwrap();
            }
        }
        out.extend(answers(&mut second, &parts[2..]));
        prop_assert_eq!(lines_of(&out, &FAR), wanted);
    }
}

type Taken = (Assignment, usize, RecordBatch, Vec<crate::operator::over_window::Piece>);

fn taken(graph: &mut Graph, kind: SnapshotKind) -> Vec<Taken> {
    let mut all = Vec::new();
    for unit in [Assignment(0), Assignment(1)] {
        for (operator, meta) in graph.begin_snapshot(unit, kind).unwrap().into_iter().enumerate() {
            let Some(meta) = meta else { continue };
            let pieces = std::iter::from_fn(|| graph.next_piece(operator, unit, 3).unwrap()).collect();
            all.push((unit, operator, meta, pieces));
        }
    }
    all
}

#[test]
fn a_row_that_fails_behind_a_window_stays_in_its_state_and_in_the_archive() {
    let views = [
        (
            "counted",
            "SELECT k, t, x, count(*) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM events",
        ),
        ("checked", "SELECT k, n, 6 / (n - 2) AS q FROM counted"),
    ];
    let sinks =
        [("out", "SELECT * FROM checked"), ("all", "SELECT * FROM events"), ("counts", "SELECT n FROM counted")];
    let plan = compiled(&pipeline(vec![usual()], &views, &sinks), &functions());
    let log: Log = (0..5).map(|row| (0, row, row * 1000, 7, Some(1.0))).collect();
    let whole = batch(&plan.source_schema(0), &log);
    for parts in [vec![whole.clone()], cut(&whole, &[1, 2, 3, 4])] {
        let mut graph = plan.instantiate().unwrap();
        let (mut rows, mut failed) = ([Vec::new(), Vec::new(), Vec::new()], Vec::new());
        for part in &parts {
            let output = graph.run(vec![(0, part.clone())]).unwrap();
            for (all, batches) in rows.iter_mut().zip(output.sinks) {
                all.extend(batches);
            }
            failed.extend(output.rejected);
        }
        assert_eq!(lines_of(&rows[0], &["n", "q"]), ["1 -6", "3 6", "4 3", "5 2"]);
        assert_eq!(rows[1].iter().map(RecordBatch::num_rows).sum::<usize>(), 5, "what depends on no window has all");
        assert_eq!(
            lines_of(&rows[2], &["n"]),
            ["1", "3", "4", "5"],
            "a rejected row is in no sink that depends on one"
        );
        assert_eq!(failed.len(), 1);
        assert_eq!(
            failed[0].failure.to_string(),
            "division by zero in view checked, after the windows took the row in"
        );
    }
}

#[test]
fn a_row_on_which_an_aggregate_fails_is_rejected_and_stays_in_the_state() {
    let view = "SELECT k, n, s FROM (SELECT k,
            avg(CAST(x AS DECIMAL(38, 0))) OVER (PARTITION BY k ORDER BY t ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s,
            count(*) OVER (PARTITION BY k ORDER BY t ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS n
        FROM events) AS t";
    let sinks = [("out", "SELECT * FROM v"), ("all", "SELECT * FROM events")];
    let plan = compiled(&pipeline(vec![usual()], &[("v", view)], &sinks), &functions());
    let log: Log = [1.0, 9e37, 3.0, 2.0].iter().zip(0..).map(|(x, row)| (0, row, row * 1000, 7, Some(*x))).collect();
    let output = plan.instantiate().unwrap().run(vec![(0, batch(&plan.source_schema(0), &log))]).unwrap();
    assert_eq!(output.sinks[1].iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    let failed: Vec<_> = output.rejected.iter().map(|failed| (failed.row, failed.failure.to_string())).collect();
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2], "{failed:?}");
    assert!(failed[0].1.contains("avg over a window"), "{failed:?}");
    assert_eq!(lines_of(&output.sinks[0], &["n"]), ["1", "4"]);
}

#[test]
fn a_row_that_fails_before_a_window_never_was_there() {
    let view = "SELECT k, n, count(*) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS c
        FROM (SELECT k, t, 6 / (CAST(x AS BIGINT)) AS n FROM events) AS divided";
    let sinks =
        [("out", "SELECT * FROM v"), ("all", "SELECT * FROM events"), ("some", "SELECT * FROM events WHERE k > 0")];
    let plan = compiled(&pipeline(vec![usual()], &[("v", view)], &sinks), &functions());
    let log: Log =
        [1.0, 0.0, 2.0, 0.0, 3.0].iter().zip(0..).map(|(x, row)| (0, row, row * 1000, 7, Some(*x))).collect();
    let output = plan.instantiate().unwrap().run(vec![(0, batch(&plan.source_schema(0), &log))]).unwrap();
    assert_eq!(lines_of(&output.sinks[0], &["n", "c"]), ["2 3", "3 2", "6 1"]);
    assert_eq!(output.rejected.iter().map(|failed| failed.row).collect::<Vec<_>>(), [1, 3]);
    // A replay of the archive has to see what the run saw, W above all.
    assert_eq!(output.sinks[1].iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    assert_eq!(output.sinks[2].iter().map(RecordBatch::num_rows).sum::<usize>(), 3, "a condition makes no archive");
}

#[test]
fn the_log_of_a_unit_begins_with_its_first_accepted_row_whatever_a_condition_drops() {
    let view = "SELECT t, count(*) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '5 milliseconds' PRECEDING AND CURRENT ROW) AS n
        FROM events WHERE x > 0.0";
    let plan = compiled(&pipeline(vec![usual()], &[("v", view)], &[("out", "SELECT * FROM v")]), &functions());
    let log: Log = vec![(0, 0, 0, 7, Some(-1.0)), (0, 1, 5_000, 7, Some(1.0)), (0, 2, 5_001, 7, Some(1.0))];
    let out = answers(&mut plan.instantiate().unwrap(), &[batch(&plan.source_schema(0), &log)]);
    let out = concat_batches(&plan.sink_schema(0), &out).unwrap();
    let incomplete = out.column_by_name("_history_incomplete").unwrap();
    let incomplete: &BooleanArray = incomplete.as_boolean();
    assert_eq!(incomplete.iter().collect::<Vec<_>>(), [Some(false), Some(false)]);
}

#[test]
fn a_row_is_as_late_as_at_the_latest_of_its_windows() {
    let count =
        "count(*) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n";
    // What the windows before a repartition said stands in the rows behind it.
    let views = [
        ("before", "SELECT *, CAST(2000 AS BIGINT) AS _late_by FROM events"),
        ("v", &format!("SELECT *, {count} FROM before")),
    ];
    let plan = compiled(&pipeline(vec![usual()], &views, &[("out", "SELECT * FROM v")]), &functions());
    let log: Log = [9_000, 8_000, 4_000].iter().zip(0..).map(|(t, row)| (0, row, *t, 7, Some(1.0))).collect();
    let out = answers(&mut plan.instantiate().unwrap(), &[batch(&plan.source_schema(0), &log)]);
    let out = concat_batches(&plan.sink_schema(0), &out).unwrap();
    let late_by = out.column_by_name("_late_by").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    assert_eq!(late_by.values(), &[2000, 2000, 5000]);
}

/// What an observer was told of each row: its event time, and whether its history is incomplete.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<(i64, bool)>>);

impl ScoreObserver for Told {
    fn observe(&self, rows: Scored<'_>) {
        let told = rows.event_times.values().iter().copied().zip(rows.is_history_incomplete.values());
        self.0.lock().unwrap().extend(told);
    }
}

#[test]
fn an_observer_of_scores_is_told_whose_windows_reach_behind_the_first_record() {
    let counted = "SELECT t, x, count(*) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '5 milliseconds' PRECEDING AND CURRENT ROW) AS n
        FROM events";
    let log: Log = [0, 3_000, 5_000, 9_000].iter().zip(0..).map(|(t, row)| (0, row, *t, 7, Some(1.0))).collect();
    for (features, expected) in [
        (counted, [(0, true), (3_000, true), (5_000, false), (9_000, false)]),
        ("SELECT t, x, 1 AS n FROM events", [(0, false), (3_000, false), (5_000, false), (9_000, false)]),
    ] {
        let views = [("features", features), ("v", "SELECT t, score('m', x, CAST(n AS DOUBLE)) AS s FROM features")];
        let told = Arc::new(Told::default());
        let with = Functions { observer: Some(Arc::clone(&told) as _), ..Score::new().functions() };
        let plan = compiled(&pipeline(vec![usual()], &views, &[("out", "SELECT * FROM v")]), &with);
        plan.instantiate().unwrap().run(vec![(0, batch(&plan.source_schema(0), &log))]).unwrap();
        assert_eq!(*told.0.lock().unwrap(), expected, "{features}");
    }
}

#[test]
fn the_fingerprint_of_a_windows_state_knows_what_the_state_depends_on_and_nothing_else() {
    let of = |view: &str, sink: &str, source: Source| {
        let views = [("clean", "SELECT k, t, x FROM events WHERE x > 0.0"), ("v", view)];
        let plan = compiled(&pipeline(vec![source], &views, &[("out", sink)]), &functions());
        plan.instantiate().unwrap().operators()[0].fingerprint.clone()
    };
    let window =
        "sum(x) OVER (PARTITION BY k ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS s";
    let view = format!("SELECT k, {window} FROM clean");
    let first = of(&view, "SELECT * FROM v", usual());
    assert_eq!(first, of(&view, "SELECT * FROM v WHERE s > 3.0", usual()));
    assert_eq!(first, of(&format!("SELECT k, k + 1 AS k1, {window} FROM clean"), "SELECT * FROM v", usual()));
    assert_ne!(first, of(&format!("SELECT k, {window} FROM clean WHERE x < 9.0"), "SELECT * FROM v", usual()));
    assert_ne!(first, of(&view.replace("1 hour", "2 hours"), "SELECT * FROM v", usual()));
    let later = Source { max_lateness: Duration::from_secs(8000), ..usual() };
    assert_ne!(first, of(&view, "SELECT * FROM v", later));
}

fn functions() -> Functions {
    Score::new().functions()
}
