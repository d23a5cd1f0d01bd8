//! What the plan promises, shown: golden messages and plans, one evaluation per row of `score`, and outcomes that do not
//! depend on how the input was cut, with stock DataFusion as the oracle.

mod exact_aggregates;
mod golden;
mod parity;
mod reasons;
mod windows;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::*;
use crate::pipeline::settings::*;
use crate::types::Hidden;

fn text(sql: &str, file: &str, line: usize, column: usize) -> SqlText {
    SqlText { sql: sql.to_owned(), place: Place { file: PathBuf::from(file), line, column } }
}

fn column(name: &str, column_type: ColumnType, is_nullable: bool) -> Column {
    Column { name: name.to_owned(), column_type, is_nullable }
}

/// A source with a column of each kind.
fn source(name: &str) -> Source {
    Source {
        name: name.to_owned(),
        connector: SourceConnector::Generator(GeneratorSource::default()),
        columns: vec![
            column("id", ColumnType::String, false),
            column("a", ColumnType::Int32, true),
            column("b", ColumnType::Int64, true),
            column("x", ColumnType::Float64, true),
            column("flag", ColumnType::Boolean, true),
            column("price", ColumnType::Decimal(10, 2), true),
            column("time", ColumnType::Timestamp, false),
            column("userId", ColumnType::Int64, true),
        ],
        metadata: vec![
            MetadataColumn { name: "topic".to_owned(), kind: MetadataKind::Topic },
            MetadataColumn { name: "key".to_owned(), kind: MetadataKind::Key },
            MetadataColumn { name: "headers".to_owned(), kind: MetadataKind::Headers },
        ],
        checks: Vec::new(),
        event_time: Some("time".to_owned()),
        partitioned_by: vec!["id".to_owned()],
        max_future_skew: Duration::from_secs(3600),
        max_lateness: Duration::from_secs(7200),
        max_lookback: Duration::from_secs(90 * 86_400),
        max_record_bytes: 1 << 20,
        max_rejection_rate: None,
        rejection_window: 1000,
        repartition: None,
        internal: None,
    }
}

/// A source with only `id`, `a`, `b` and `x`.
fn narrow_source(name: &str) -> Source {
    let mut source = source(name);
    source.columns.truncate(4);
    source.metadata.clear();
    source.event_time = None;
    source
}

fn pipeline(sources: Vec<Source>, views: &[(&str, &str)], sinks: &[(&str, &str)]) -> Pipeline {
    Pipeline {
        name: "test".to_owned(),
        folder: PathBuf::from("."),
        sources,
        registry: None,
        training: None,
        models: Vec::new(),
        views: views
            .iter()
            .map(|(name, sql)| View {
                name: (*name).to_owned(),
                query: text(sql, &format!("{name}.sql"), 1, 1),
                repartition: None,
            })
            .collect(),
        sinks: sinks
            .iter()
            .map(|(name, sql)| Sink {
                name: (*name).to_owned(),
                select: text(sql, "pipeline.yaml", 20, 14),
                connector: SinkConnector::Console,
            })
            .collect(),
        dead_letter: None,
        checkpoint: None,
        delivery: Delivery::AtLeastOnce,
        run: RunSettings {
            workers: 1,
            max_batch_rows: 8192,
            max_wait: Duration::from_millis(1),
            stop_timeout: Duration::from_secs(1),
            max_state_bytes: None,
        },
        http: None,
        drift: Default::default(),
        labels: None,
    }
}

/// `score(model, x, ...)`: the sum of its numbers, and how many rows it has seen.
#[derive(Debug, Clone)]
struct Score {
    signature: Signature,
    rows: Arc<AtomicUsize>,
}

impl Score {
    fn new() -> Score {
        Score { signature: Signature::variadic_any(Volatility::Immutable), rows: Arc::default() }
    }

    fn rows(&self) -> usize {
        self.rows.swap(0, Ordering::Relaxed)
    }

    fn functions(&self) -> Functions {
        Functions {
            scalar: vec![Arc::new(ScalarUDF::new_from_impl(self.clone()))],
            once: vec!["score".to_owned()],
            infallible: vec!["score".to_owned()],
            check_call: None,
            observer: None,
        }
    }
}

impl PartialEq for Score {
    fn eq(&self, _other: &Score) -> bool {
        true
    }
}

impl Eq for Score {}

impl std::hash::Hash for Score {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {}
}

impl ScalarUDFImpl for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(DataType::Float64)
    }

    /// Asked for where an observer stands around it.
    fn coerce_types(&self, types: &[DataType]) -> datafusion::common::Result<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        self.rows.fetch_add(arguments.number_rows, Ordering::Relaxed);
        let mut sums = vec![0.0; arguments.number_rows];
        for argument in &arguments.args[1..] {
            let values = argument.cast_to(&DataType::Float64, None)?.into_array(arguments.number_rows)?;
            for (sum, value) in sums.iter_mut().zip(values.as_primitive::<Float64Type>()) {
                *sum += value.unwrap_or(f64::NAN);
            }
        }
        Ok(ColumnarValue::Array(Arc::new(Float64Array::from(sums))))
    }
}

fn compiled(pipeline: &Pipeline, functions: &Functions) -> Plan {
    match Plan::compile(pipeline, functions) {
        Ok(plan) => plan,
        Err(problems) => panic!("refused: {}", lines(&problems)),
    }
}

fn lines(problems: &[PlanProblem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// Rows of [`narrow_source`]: `id` is their number, the position goes over two units.
fn rows(schema: &SchemaRef, values: &[(Option<i32>, Option<i64>, Option<f64>)]) -> RecordBatch {
    let count = values.len();
    let numbers = || 0..i64::try_from(count).unwrap();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(numbers().map(|row| row.to_string()))),
        Arc::new(Int32Array::from_iter(values.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter(values.iter().map(|row| row.1))),
        Arc::new(Float64Array::from_iter(values.iter().map(|row| row.2))),
    ];
    columns.push(Arc::new(UInt32Array::from_iter_values((0..count).map(|row| u32::from(row % 3 == 0)))));
    columns.push(Arc::new(Int64Array::from_iter_values(numbers())));
    columns.push(Arc::new(UInt32Array::from(vec![0; count])));
    columns.push(Arc::new(Int64Array::from_iter_values(numbers().map(|row| row * 1000))));
    columns.push(Arc::new(Int64Array::from_iter(numbers().map(|row| (row > 0).then_some(row)))));
    columns.push(Arc::new(Int64Array::from_iter_values(numbers().map(|row| row - 1))));
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// The visible columns, as text.
fn shown(batches: &[RecordBatch]) -> String {
    let visible = batches.iter().map(|batch| {
        let columns: Vec<usize> = (0..crate::types::num_visible(batch)).collect();
        batch.project(&columns).unwrap()
    });
    pretty_format_batches(&visible.collect::<Vec<_>>()).unwrap().to_string()
}

fn ids(batches: &[RecordBatch]) -> Vec<String> {
    let ids = batches.iter().flat_map(|batch| batch.column_by_name("id").unwrap().as_string::<i32>().iter());
    ids.map(|id| id.unwrap().to_owned()).collect()
}

fn simple(sql: &str) -> (Plan, Graph) {
    let pipeline = pipeline(vec![narrow_source("events")], &[("v", sql)], &[("out", "SELECT * FROM v")]);
    let plan = compiled(&pipeline, &Functions::default());
    let graph = plan.instantiate().unwrap();
    (plan, graph)
}

const SOME: [(Option<i32>, Option<i64>, Option<f64>); 5] = [
    (Some(1), Some(2), Some(0.5)),
    (Some(10), Some(0), Some(1.5)),
    (None, Some(3), None),
    (Some(7), None, Some(-2.0)),
    (Some(8), Some(4), Some(9.25)),
];

#[test]
fn positions_travel_with_the_rows_and_stay_out_of_sight() {
    let (plan, mut graph) = simple("SELECT * FROM (SELECT id, a * 2 AS twice FROM events AS e WHERE a > 1) AS t");
    let input = rows(&plan.source_schema(0), &SOME);
    let output = graph.run(vec![(0, input)]).unwrap();
    let batch = &output.sinks[0][0];
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..2], ["id", "twice"]);
    assert_eq!(names[2..], crate::types::HIDDEN_COLUMNS);
    assert_eq!(ids(&output.sinks[0]), ["1", "3", "4"]);
    let hidden = Hidden::of(batch).unwrap();
    assert_eq!(hidden.offset.values(), &[1, 3, 4]);
    assert_eq!(hidden.unit.values(), &[0, 1, 0]);
    assert_eq!(hidden.event_time.values(), &[1000, 3000, 4000]);
    assert_eq!(plan.sink_schema(0), batch.schema());
    assert!(output.rejected.is_empty());
}

/// What an observer saw: model, features and score of each row, and its event time.
#[derive(Debug, Default)]
struct Seen(std::sync::Mutex<Vec<(String, Vec<f64>, i64)>>);

impl ScoreObserver for Seen {
    fn observe(&self, rows: Scored<'_>) {
        let Scored { model, features, scores, event_times, .. } = rows;
        let doubles = features.iter().chain([scores]).map(|column| column.as_primitive::<Float64Type>());
        let doubles: Vec<_> = doubles.collect();
        for (row, time) in event_times.values().iter().enumerate() {
            let values = doubles.iter().map(|column| if !column.is_valid(row) { -1.0 } else { column.value(row) });
            self.0.lock().unwrap().push((model.to_owned(), values.collect(), *time));
        }
    }
}

#[test]
fn an_observer_sees_every_scored_row_once_with_its_event_time_and_changes_nothing() {
    let scored = "SELECT id, score('m', CAST(a AS DOUBLE), x) AS s FROM events WHERE a > 1";
    let sinks = [("alerts", "SELECT * FROM scored WHERE s > 9"), ("all", "SELECT id, s FROM scored")];
    for (view, sinks) in [(scored, &sinks[..]), (scored, &sinks[..1])] {
        let pipeline = pipeline(vec![narrow_source("events")], &[("scored", view)], sinks);
        let seen = Arc::new(Seen::default());
        let score = Score::new();
        let observed = Functions { observer: Some(Arc::clone(&seen) as _), ..score.functions() };
        let (plan, plain) = (compiled(&pipeline, &observed), compiled(&pipeline, &score.functions()));
        let input = rows(&plan.source_schema(0), &SOME);
        let output = plan.instantiate().unwrap().run(vec![(0, input.clone())]).unwrap();
        let expected = plain.instantiate().unwrap().run(vec![(0, input)]).unwrap();
        assert_eq!(output.sinks, expected.sinks);
        assert_eq!(plan.fingerprint(), plain.fingerprint());
        let seen = seen.0.lock().unwrap();
        let times: Vec<i64> = seen.iter().map(|(_, _, time)| *time).collect();
        assert_eq!(times, [1000, 3000, 4000], "{seen:?}");
        assert!(seen.iter().all(|(model, values, _)| model == "m" && values.len() == 3), "{seen:?}");
        assert_eq!((seen[0].1[0], seen[0].1[1]), (10.0, 1.5));
    }
}

#[test]
fn a_second_epoch_sees_nothing_of_the_first() {
    let (plan, mut graph) = simple("SELECT id FROM events");
    let input = rows(&plan.source_schema(0), &SOME);
    for epoch in 0..50 {
        let part = input.slice(epoch % 5, 1);
        let output = graph.run(vec![(0, part)]).unwrap();
        assert_eq!(ids(&output.sinks[0]), [(epoch % 5).to_string()]);
    }
    assert!(graph.run(vec![]).unwrap().sinks[0].is_empty());
    assert!(graph.run(vec![(0, input.slice(0, 0))]).unwrap().sinks[0].is_empty());
}

#[test]
fn a_shared_view_is_computed_once_and_a_private_one_within_its_reader() {
    let score = Score::new();
    let views =
        [("features", "SELECT id, a, x FROM events"), ("scored", "SELECT *, score('m', a, x) AS p FROM features")];
    let one = pipeline(vec![narrow_source("events")], &views, &[("all", "SELECT * FROM scored")]);
    let two = pipeline(
        vec![narrow_source("events")],
        &views,
        &[("all", "SELECT * FROM scored"), ("alerts", "SELECT id, p FROM scored WHERE p >= 8")],
    );
    for (pipeline, stages) in [(one, 1), (two, 3)] {
        let plan = compiled(&pipeline, &score.functions());
        assert_eq!(plan.explain().matches("stage ").count(), stages, "{}", plan.explain());
        let mut graph = plan.instantiate().unwrap();
        graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
        assert_eq!(score.rows(), 5);
    }
}

#[test]
fn score_is_evaluated_once_per_row_wherever_it_stands() {
    let score = Score::new();
    // A score of a null is NaN here, and NaN is above all numbers.
    let cases = [
        ("SELECT id, score('m', a, x) AS p FROM events", "SELECT * FROM v WHERE p >= 8 AND p < 100", 5, 2),
        ("SELECT id, score('m', a) AS p FROM events WHERE score('m', a) > 1", "SELECT * FROM v", 5, 4),
        ("SELECT id, score('m', a) AS p, score('m', a) >= 8 AS alert FROM events", "SELECT * FROM v WHERE alert", 5, 3),
        ("SELECT id, score('m', a) AS p, score('m', x) AS q FROM events", "SELECT * FROM v WHERE p > q", 10, 3),
        ("SELECT id, a, score('m', a) AS p FROM events", "SELECT id, p, p + 1 AS r FROM v WHERE a = 8 AND p > 0", 1, 1),
        ("SELECT id, a, score('m', a) AS p FROM events WHERE a > 1", "SELECT id, p FROM v WHERE p > 7", 3, 2),
        ("SELECT id, score('m', score('m', a)) AS p FROM events", "SELECT id, p FROM v WHERE p > 7", 10, 3),
    ];
    for (view, sink, evaluated, out) in cases {
        let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", sink)]);
        let plan = compiled(&pipeline, &score.functions());
        let mut graph = plan.instantiate().unwrap();
        let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
        assert_eq!(score.rows(), evaluated, "{view} | {sink}\n{}", plan.explain());
        assert_eq!(ids(&output.sinks[0]).len(), out, "{view} | {sink}");
    }
}

#[test]
fn a_row_that_fails_is_taken_out_alone() {
    let (plan, mut graph) = simple("SELECT id, a / b AS r FROM events");
    let input = rows(&plan.source_schema(0), &SOME);
    let output = graph.run(vec![(0, input)]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["0", "2", "3", "4"]);
    assert_eq!(output.rejected.len(), 1);
    let row = &output.rejected[0];
    assert_eq!((row.source, row.input, row.row), (0, 0, 1));
    assert_eq!(row.failure.to_string(), "division by zero in view v");
}

#[test]
fn the_fate_of_a_row_does_not_depend_on_who_else_reads_a_view() {
    let cases = [
        // The reader's condition would be evaluated before the view's column, and save the row of b = 0.
        ("SELECT id, b, a / b AS r FROM events", "SELECT id, r FROM v WHERE b <> 0", vec![1]),
        // The reader leaves the column that fails out.
        ("SELECT id, b, a / b AS r FROM events", "SELECT id FROM v", vec![1]),
        // The reader's condition would be evaluated before the view's, which guards it.
        ("SELECT id, a, b FROM events WHERE b <> 0", "SELECT id, a / b AS r FROM v WHERE a / b >= 0", vec![]),
        ("SELECT id, b, ln(x) AS l FROM events", "SELECT id FROM v WHERE 1 / b >= 0", vec![1]),
    ];
    for (view, sink, expected) in cases {
        let middle = [("v", view), ("w", "SELECT * FROM v")];
        let through = sink.replace("FROM v", "FROM w");
        let pipelines = [
            pipeline(vec![narrow_source("events")], &middle[..1], &[("out", sink)]),
            pipeline(vec![narrow_source("events")], &middle[..1], &[("out", sink), ("other", "SELECT id FROM v")]),
            pipeline(vec![narrow_source("events")], &middle, &[("out", &through)]),
            pipeline(vec![narrow_source("events")], &middle, &[("out", &through), ("other", "SELECT id FROM v")]),
            pipeline(vec![narrow_source("events")], &middle, &[("out", &through), ("other", "SELECT id FROM w")]),
        ];
        for pipeline in pipelines {
            let plan = compiled(&pipeline, &Functions::default());
            let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
            let rejected: Vec<usize> = output.rejected.iter().map(|row| row.row).collect();
            assert_eq!(rejected, expected, "{view} | {sink}\n{}", plan.explain());
        }
    }
}

#[test]
fn a_guard_holds_whatever_else_is_in_the_batch() {
    for guard in ["b <> 0 AND a / b > 1", "NOT (b = 0 OR a / b <= 1)", "CASE WHEN b <> 0 THEN a / b > 1 END"] {
        let (plan, mut graph) = simple(&format!("SELECT id, {guard} AS r FROM events WHERE {guard}"));
        let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
        assert!(output.rejected.is_empty(), "{guard}: {:?}", output.rejected);
        assert_eq!(ids(&output.sinks[0]), ["4"], "{guard}");
    }
}

#[test]
fn a_guard_needs_no_bisecting() {
    let score = Score::new();
    let view = "SELECT id, score('m', a) AS p FROM events WHERE b > -1 OR score('m', a) > 0 AND a / b > 1";
    let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", "SELECT * FROM v")]);
    let plan = compiled(&pipeline, &score.functions());
    let values: Vec<_> = (0..1000).map(|row| (Some(row), Some(i64::from(row % 7)), None)).collect();
    let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &values))]).unwrap();
    assert_eq!((output.rejected.len(), ids(&output.sinks[0]).len(), score.rows()), (0, 1000, 1000));
}

#[test]
fn a_constant_that_fails_fails_the_rows_that_need_it() {
    let (plan, mut graph) = simple("SELECT id, CASE WHEN a > 5 THEN 1 / 0 ELSE 1 END AS n FROM events");
    let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["0", "2"]);
    assert_eq!(output.rejected.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn many_failing_rows_of_several_inputs_are_found() {
    let (plan, mut graph) = simple("SELECT id, 100 / a AS r, CAST(id AS INT) AS n FROM events WHERE b > 0");
    let values: Vec<_> = (0..1000).map(|row| (Some(row % 7), Some(i64::from(row % 3)), None)).collect();
    let input = rows(&plan.source_schema(0), &values);
    let output =
        graph.run(vec![(0, input.slice(0, 300)), (0, input.slice(300, 1)), (0, input.slice(301, 699))]).unwrap();
    let failing: Vec<_> = (0..1000).filter(|row| row % 7 == 0 && row % 3 != 0).collect();
    let rejected: Vec<_> = output.rejected.iter().map(|row| row.row + [0, 300, 301][row.input]).collect();
    assert_eq!(rejected, failing);
    let passing = (0..1000).filter(|row| row % 7 != 0 && row % 3 != 0).map(|row: i32| row.to_string());
    assert_eq!(ids(&output.sinks[0]), passing.collect::<Vec<_>>());
}

#[test]
fn reasons_never_quote_a_row() {
    let (plan, mut graph) = simple("SELECT CAST(id || 'secret' AS INT) AS n FROM events");
    let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(output.rejected.len(), 5);
    assert_eq!(output.rejected[0].failure.to_string(), "value cannot be converted in view v");
    assert!(!format!("{:?}", output.rejected).contains("secret"));
}

#[test]
fn an_error_that_no_row_causes_stops_the_epoch() {
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Broken(Signature);
    impl ScalarUDFImpl for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn signature(&self) -> &Signature {
            &self.0
        }
        fn return_type(&self, _types: &[DataType]) -> datafusion::common::Result<DataType> {
            Ok(DataType::Int32)
        }
        fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
            Err(datafusion::common::DataFusionError::ResourcesExhausted("secret".to_owned()))
        }
    }
    let broken = ScalarUDF::new_from_impl(Broken(Signature::any(1, Volatility::Immutable)));
    let functions = Functions { scalar: vec![Arc::new(broken)], ..Functions::default() };
    let pipeline = pipeline(vec![narrow_source("events")], &[], &[("out", "SELECT broken(a) AS r FROM events")]);
    let plan = compiled(&pipeline, &functions);
    let error = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unavailable);
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn rows_of_other_columns_are_an_error_of_ours() {
    let (_, mut graph) = simple("SELECT id FROM events");
    let other = rows(&with_other_name(), &SOME);
    assert_eq!(graph.run(vec![(0, other.clone())]).unwrap_err().kind(), crate::ErrorKind::Internal);
    assert_eq!(graph.run(vec![(3, other)]).unwrap_err().kind(), crate::ErrorKind::Internal);
}

fn with_other_name() -> SchemaRef {
    let mut source = narrow_source("events");
    source.columns[1].name = "z".to_owned();
    table::with_hidden(&table::visible_schema(&source))
}

#[test]
fn rows_that_one_record_becomes_are_numbered_and_stay_in_order() {
    let (plan, mut graph) =
        simple("SELECT id, 'left' AS side FROM events UNION ALL SELECT id, 'right' AS side FROM events WHERE a > 5");
    let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    // Rows 0 and 3 are of unit 1, the others of unit 0.
    assert_eq!(ids(&output.sinks[0]), ["1", "1", "2", "4", "4", "0", "3", "3"]);
    let hidden = Hidden::of(&output.sinks[0][0]).unwrap();
    assert_eq!(hidden.ordinal.values(), &[0, 1, 0, 0, 1, 0, 0, 1]);
    assert_eq!(hidden.offset.values(), &[1, 1, 2, 4, 4, 0, 3, 3]);
}

#[test]
fn unnest_makes_numbered_rows() {
    let (plan, mut graph) =
        simple("SELECT id, unnest(string_to_array(id || ',y,z', ',')) AS part FROM events WHERE a = 8");
    let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["4", "4", "4"]);
    assert_eq!(Hidden::of(&output.sinks[0][0]).unwrap().ordinal.values(), &[0, 1, 2]);
}

#[test]
fn a_table_of_one_select_may_hide_the_view_that_it_reads() {
    let pipeline = pipeline(
        vec![narrow_source("events")],
        &[
            ("v", "SELECT id, a FROM events UNION ALL SELECT id, a FROM events"),
            ("w", "WITH v AS (SELECT id, a FROM v WHERE a > 7) SELECT id FROM v"),
        ],
        &[("out", "SELECT * FROM w")],
    );
    let plan = compiled(&pipeline, &Functions::default());
    assert_eq!(plan.explain().matches("stage ").count(), 2, "{}", plan.explain());
    let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["1", "1", "4", "4"]);
}

#[test]
fn the_key_of_a_kafka_sink_is_one_of_its_columns() {
    let mut pipeline = pipeline(vec![narrow_source("events")], &[], &[("out", "SELECT id, a FROM events")]);
    let connection = KafkaConnection {
        bootstrap_servers: "localhost:9092".to_owned(),
        security_protocol: None,
        sasl_mechanism: None,
        sasl_username: None,
        sasl_password: None,
        ssl_ca_location: None,
        ssl_certificate_location: None,
        ssl_key_location: None,
        options: BTreeMap::new(),
    };
    pipeline.sinks[0].connector =
        SinkConnector::Kafka(KafkaSink { connection, topic: "alerts".to_owned(), key: Some("ib".to_owned()) });
    let problems = Plan::compile(&pipeline, &Functions::default()).unwrap_err();
    assert_eq!(
        lines(&problems),
        "pipeline.yaml:20:14: sink out: key `ib`: the select has no such column; columns: id, a\n"
    );
}

#[test]
fn a_plan_serves_all_threads_and_a_graph_moves_to_its_worker() {
    fn serves<T: Send + Sync>() {}
    fn moves<T: Send>() {}
    serves::<Plan>();
    moves::<Graph>();
    let (plan, _) = simple("SELECT id FROM events");
    let input = rows(&plan.source_schema(0), &SOME);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (plan, input) = (&plan, &input);
            scope.spawn(move || {
                let mut graph = plan.instantiate().unwrap();
                for _ in 0..200 {
                    let output = graph.run(vec![(0, input.slice(worker, 1))]).unwrap();
                    assert_eq!(ids(&output.sinks[0]), [worker.to_string()]);
                }
            });
        }
    });
}

#[test]
fn two_sources_meet_in_a_union_and_keep_their_units() {
    let pipeline = pipeline(
        vec![narrow_source("one"), narrow_source("two")],
        &[("v", "SELECT id, a FROM one UNION ALL SELECT id, a + 100 AS a FROM two")],
        &[("out", "SELECT * FROM v"), ("some", "SELECT id FROM two WHERE a > 5")],
    );
    let plan = compiled(&pipeline, &Functions::default());
    let mut graph = plan.instantiate().unwrap();
    let input = rows(&plan.source_schema(0), &SOME);
    let output = graph.run(vec![(0, input.slice(0, 2)), (1, input.slice(2, 3))]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["1", "2", "4", "0", "3"]);
    assert_eq!(ids(&output.sinks[1]), ["3", "4"]);
}

#[test]
fn a_check_that_is_false_null_or_fails_does_not_hold_for_that_row_alone() {
    let mut source = narrow_source("events");
    source.checks = ["a > 1", "a / b >= 0 OR b > 100", "x IS NULL OR x BETWEEN 0 AND 5"]
        .iter()
        .map(|sql| text(sql, "pipeline.yaml", 7, 10))
        .collect();
    let plan = compiled(&pipeline(vec![source], &[], &[("out", "SELECT * FROM events")]), &Functions::default());
    let mut checks = plan.checks(0);
    let batch = rows(&plan.source_schema(0), &SOME);
    let declared = batch.project(&[0, 1, 2, 3]).unwrap();
    let failing = checks.first_failing(&declared).unwrap();
    assert_eq!(failing, [Some(0), Some(1), Some(0), Some(1), Some(2)]);
    assert_eq!(checks.text(2), "x IS NULL OR x BETWEEN 0 AND 5");
    assert_eq!(checks.first_failing(&batch.slice(0, 0)).unwrap(), []);
    for row in 0..5 {
        assert_eq!(checks.first_failing(&declared.slice(row, 1)).unwrap(), failing[row..=row]);
    }
}

#[test]
fn the_fingerprint_is_of_meaning_and_of_views_only() {
    let fingerprint = |view: &str, sink: &str, check: &str| {
        let mut source = narrow_source("events");
        source.checks = vec![text(check, "pipeline.yaml", 1, 1)];
        compiled(&pipeline(vec![source], &[("v", view)], &[("out", sink)]), &Functions::default()).fingerprint()
    };
    let first = fingerprint("SELECT id, a FROM events", "SELECT * FROM v", "a > 0");
    assert_eq!(first.len(), 64);
    assert_eq!(first, fingerprint("select id, -- the id\n  a from events", "SELECT id FROM v WHERE a > 3", "a > 0"));
    assert_ne!(first, fingerprint("SELECT id, a + 1 AS a FROM events", "SELECT * FROM v", "a > 0"));
    assert_ne!(first, fingerprint("SELECT id, a FROM events", "SELECT * FROM v", "a > 1"));
}

#[test]
fn every_call_of_score_is_checked_with_its_columns_and_types() {
    #[derive(Debug, Default)]
    struct Recorder(std::sync::Mutex<Vec<Call>>);
    impl CallCheck for Recorder {
        fn check(&self, call: &Call) -> std::result::Result<(), Refusal> {
            self.0.lock().unwrap().push(call.clone());
            match call.arguments[0].literal.as_deref() {
                Some("fraud") => Ok(()),
                _ => Err(Refusal::new("score('frodo')", "there is no such model", "models: fraud")),
            }
        }
    }
    let recorder = Arc::new(Recorder::default());
    let functions = Functions { check_call: Some(Arc::clone(&recorder) as _), ..Score::new().functions() };
    let view = "SELECT id, score('fraud', a, x * 2) AS p,\n  score('frodo', a) AS q FROM events";
    let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", "SELECT * FROM v")]);
    let problems = Plan::compile(&pipeline, &functions).unwrap_err();
    assert_eq!(lines(&problems), "v.sql:2:3: view v: score('frodo'): there is no such model; models: fraud\n");
    let calls = recorder.0.lock().unwrap();
    let arguments: Vec<_> =
        calls[0].arguments.iter().map(|argument| (argument.name.as_str(), argument.data_type.clone())).collect();
    assert_eq!(calls.len(), 2);
    assert_eq!(arguments[1], ("a", DataType::Int32));
    assert_eq!(arguments[2], ("events.x * Int64(2)", DataType::Float64));
}

#[test]
fn all_problems_of_all_texts_come_at_once() {
    let mut source = narrow_source("events");
    source.checks = vec![text("amount > 0", "pipeline.yaml", 5, 12)];
    let views =
        [("v", "SELECT id,\n  nothing FROM events"), ("w", "SELECT * FROM v LIMIT 5"), ("u", "SELECT id FROM v")];
    let problems = Plan::compile(
        &pipeline(vec![source], &views, &[("out", "SELECT id FROM w"), ("other", "SELECT id FROM evens")]),
        &Functions::default(),
    );
    let places: Vec<_> = problems.unwrap_err().iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(places, ["pipeline.yaml:5:12", "v.sql:2:3", "w.sql:1:17", "pipeline.yaml:20:29"]);
}

#[test]
fn a_literal_scalar_condition_is_a_condition_too() {
    let (plan, mut graph) = simple("SELECT id FROM events WHERE true AND a / 1 > 7 AND CAST('1' AS INT) = 1");
    let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(ids(&output.sinks[0]), ["1", "4"]);
}
