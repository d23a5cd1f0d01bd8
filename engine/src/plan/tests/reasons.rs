//! `explain_score`: for which rows it is computed, and which features it gets where the SQL names none.

use datafusion::common::ScalarValue;

use super::*;

/// `explain_score(model, ...)`: its other arguments as text, and how many rows it has seen.
#[derive(Debug, Clone)]
struct Explain {
    signature: Signature,
    rows: Arc<AtomicUsize>,
}

impl PartialEq for Explain {
    fn eq(&self, _other: &Explain) -> bool {
        true
    }
}

impl Eq for Explain {}

impl std::hash::Hash for Explain {
    fn hash<H: std::hash::Hasher>(&self, _state: &mut H) {}
}

impl ScalarUDFImpl for Explain {
    fn name(&self) -> &'static str {
        "explain_score"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        self.rows.fetch_add(arguments.number_rows, Ordering::Relaxed);
        let columns: Vec<ArrayRef> =
            arguments.args[1..].iter().map(|argument| argument.to_array(arguments.number_rows).unwrap()).collect();
        let text = |row: usize| {
            let values = columns.iter().map(|column| ScalarValue::try_from_array(column, row).unwrap().to_string());
            values.collect::<Vec<_>>().join(" ")
        };
        let texts = (0..arguments.number_rows).map(|row| Some(text(row)));
        Ok(ColumnarValue::Array(Arc::new(texts.collect::<StringArray>())))
    }
}

/// Both functions, and what they have seen.
struct Both {
    score: Score,
    explain: Explain,
}

impl Both {
    fn new() -> Both {
        let signature = Signature::variadic_any(Volatility::Volatile);
        Both { score: Score::new(), explain: Explain { signature, rows: Arc::default() } }
    }

    fn functions(&self) -> Functions {
        let mut functions = self.score.functions();
        functions.scalar.push(Arc::new(ScalarUDF::new_from_impl(self.explain.clone())));
        functions.once.push("explain_score".to_owned());
        functions.infallible.push("explain_score".to_owned());
        functions
    }

    fn explained(&self) -> usize {
        self.explain.rows.swap(0, Ordering::Relaxed)
    }
}

/// The column `why` of a sink, with the row's id.
fn reasons(batches: &[RecordBatch]) -> Vec<String> {
    let whys = batches.iter().flat_map(|batch| batch.column_by_name("why").unwrap().as_string::<i32>().iter());
    ids(batches).into_iter().zip(whys).map(|(id, why)| format!("{id}: {}", why.unwrap())).collect()
}

const SCORED: &str = "SELECT *, score('m', a, x) AS p FROM events";
/// The rows of `SOME` with a score of 8 and more; NaN is above all numbers.
const HIGH: [&str; 4] = ["1: 10 1.5", "2: NULL NULL", "4: 8 9.25", ""];

#[test]
fn reasons_are_computed_for_the_rows_that_pass_the_filter_only() {
    let sinks = [
        "SELECT id, explain_score('m') AS why FROM v WHERE p >= 8",
        "SELECT id, explain_score('m', a, x) AS why FROM v WHERE p >= 8",
        "SELECT id, why FROM (SELECT *, explain_score('m') AS why FROM v) AS t WHERE p >= 8 AND id <> 'none'",
        "WITH t AS (SELECT id AS other, a AS first, x, p FROM v) SELECT other AS id, explain_score('m') AS why FROM t WHERE p >= 8",
        "SELECT id, explain_score('m') AS why FROM events WHERE score('m', a, x) >= 8",
    ];
    for sink in sinks {
        for others in [&[][..], &[("all", "SELECT id, p FROM v")][..]] {
            let both = Both::new();
            let all: Vec<(&str, &str)> = [("out", sink)].iter().chain(others).copied().collect();
            let plan = compiled(&pipeline(vec![narrow_source("events")], &[("v", SCORED)], &all), &both.functions());
            let mut graph = plan.instantiate().unwrap();
            let output = graph.run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
            assert_eq!(reasons(&output.sinks[0]), HIGH[..3], "{sink}");
            assert_eq!(both.explained(), 3, "{sink}\n{}", plan.explain());
            assert_eq!(both.score.rows() % 5, 0, "{sink}");
        }
    }
}

#[test]
fn reasons_in_a_view_wait_for_its_readers_filter() {
    let views = [
        "SELECT *, score('m', a, x) AS p, explain_score('m') AS why FROM events WHERE a > 0",
        "SELECT id, score('m', a, x) AS p, explain_score('m') AS why, x + 1 AS more FROM events WHERE a > 0",
        "SELECT *, explain_score('m') AS why FROM (SELECT *, score('m', a, x) AS p FROM events) AS t WHERE a > 0",
    ];
    let sinks =
        ["SELECT id, why FROM v WHERE p >= 8", "SELECT id, why FROM (SELECT * FROM v WHERE p >= 8) AS u WHERE p < 100"];
    for (view, sink) in views.iter().flat_map(|view| sinks.map(|sink| (*view, sink))) {
        let both = Both::new();
        let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", sink)]);
        let plan = compiled(&pipeline, &both.functions());
        let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
        assert_eq!(reasons(&output.sinks[0]), ["1: 10 1.5", "4: 8 9.25"], "{view} | {sink}");
        assert_eq!((both.explained(), both.score.rows()), (2, 4), "{view} | {sink}\n{}", plan.explain());
    }
}

#[test]
fn reasons_that_a_condition_asks_for_are_computed_once() {
    let both = Both::new();
    let view = "SELECT id, score('m', a, x) AS p, explain_score('m') AS why FROM events";
    let sink = "SELECT id, why FROM v WHERE p >= 8 AND why LIKE '%5'";
    let plan = compiled(&pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", sink)]), &both.functions());
    let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
    assert_eq!(reasons(&output.sinks[0]), ["1: 10 1.5", "4: 8 9.25"]);
    assert_eq!(both.explained(), 5, "{}", plan.explain());
}

#[test]
fn a_call_without_features_gets_those_of_the_score() {
    let both = Both::new();
    let cases = [
        (
            "SELECT id, score('m', x, a) AS p, explain_score('m') AS why FROM events",
            "SELECT id, why FROM v",
            "1: 1.5 10",
        ),
        (
            "SELECT id, score('m', x, a) AS p, explain_score('m', 2) AS why FROM events",
            "SELECT id, why FROM v",
            "1: 2 1.5 10",
        ),
        (
            "SELECT id, score('m', x * 2, a) AS p, explain_score('m') AS why FROM events",
            "SELECT id, why FROM v",
            "1: 3 10",
        ),
        (
            "SELECT *, score('m', b) AS p, score('n', a) AS q FROM events",
            "SELECT id, explain_score('n') AS why FROM v",
            "1: 10",
        ),
        (
            "SELECT *, score('m', b) AS p FROM events",
            "SELECT id, explain_score('m') AS why, score('m', b) AS again FROM v",
            "1: 0",
        ),
        (
            "SELECT id, x AS y, a, score('m', x, a) AS p FROM events",
            "SELECT id, explain_score('m') AS why FROM v AS w",
            "1: 1.5 10",
        ),
        // The column of the same name is another one.
        (
            "SELECT id, b AS a, a AS b, score('m', a) AS p FROM events",
            "SELECT id, explain_score('m') AS why FROM v",
            "1: 10",
        ),
    ];
    for (view, sink, second) in cases {
        let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", sink)]);
        let plan = compiled(&pipeline, &both.functions());
        let output = plan.instantiate().unwrap().run(vec![(0, rows(&plan.source_schema(0), &SOME))]).unwrap();
        assert_eq!(reasons(&output.sinks[0])[1], second, "{view} | {sink}");
    }
}

#[test]
fn a_call_without_features_is_refused_where_they_are_not_known() {
    let cases = [
        (
            "SELECT * FROM events",
            "SELECT id, explain_score('m') AS why FROM v",
            "pipeline.yaml:20:25: sink out: explain_score('m'): no score('m', ...) is computed for these rows; ",
        ),
        (
            "SELECT *, score('m', a) AS p FROM events",
            "SELECT id, explain_score('n', 3) AS why FROM v",
            "pipeline.yaml:20:25: sink out: explain_score('n'): no score('n', ...) is computed for these rows; ",
        ),
        (
            "SELECT *, score('m', a) AS p, score('m', b) AS q FROM events",
            "SELECT id, explain_score('m') AS why FROM v",
            "pipeline.yaml:20:25: sink out: explain_score('m'): these rows are scored by several calls score('m', ...) with different arguments; ",
        ),
        (
            "SELECT id, b AS a, score('m', a, b, x) AS p FROM events",
            "SELECT id, explain_score('m') AS why FROM v",
            "pipeline.yaml:20:25: sink out: explain_score('m'): these rows do not have what score('m', ...) was given: a, x; ",
        ),
        (
            "SELECT id, score('m', a) AS p, a FROM events UNION ALL SELECT id, score('m', b) AS p, a FROM events",
            "SELECT id, explain_score('m') AS why FROM v",
            "with different arguments",
        ),
    ];
    for (view, sink, expected) in cases {
        let pipeline = pipeline(vec![narrow_source("events")], &[("v", view)], &[("out", sink)]);
        let problems = lines(&Plan::compile(&pipeline, &Both::new().functions()).unwrap_err());
        assert!(problems.contains(expected) && problems.lines().count() == 1, "{problems}");
    }
}

#[test]
fn a_call_for_reasons_is_checked_like_that_of_the_score() {
    #[derive(Debug)]
    struct Names;
    impl CallCheck for Names {
        fn check(&self, call: &Call) -> std::result::Result<(), Refusal> {
            let names: Vec<&str> = call.arguments[1..].iter().map(|argument| argument.name.as_str()).collect();
            if names == ["a", "x"] {
                return Ok(());
            }
            Err(Refusal::new(format!("{}('m', ...)", call.function), names.join(" "), ""))
        }
    }
    let functions = Functions { check_call: Some(Arc::new(Names)), ..Both::new().functions() };
    let compile = |sink: &str| {
        Plan::compile(&pipeline(vec![narrow_source("events")], &[("v", SCORED)], &[("out", sink)]), &functions)
    };
    for accepted in [
        "SELECT id, explain_score('m') AS why FROM v",
        "SELECT id, explain_score('m', 2) AS why FROM v",
        "SELECT id, explain_score('m', 2, a, x) AS why FROM v",
        "SELECT why FROM (SELECT explain_score('m') AS why FROM (SELECT id, a AS first, x FROM v) AS t) AS u",
    ] {
        assert!(compile(accepted).is_ok(), "{accepted}");
    }
    let problems = lines(&compile("SELECT id, explain_score('m', 2, x, a) AS why FROM v").unwrap_err());
    assert_eq!(problems, "pipeline.yaml:20:25: sink out: explain_score('m', ...): x a\n");
}

#[test]
fn explain_shows_that_reasons_come_after_the_filter() {
    let both = Both::new();
    let sinks = [("out", "SELECT id, explain_score('m') AS why FROM v WHERE p >= 8"), ("all", "SELECT id, p FROM v")];
    let plan = compiled(&pipeline(vec![narrow_source("events")], &[("v", SCORED)], &sinks), &both.functions());
    let explanation = plan.explain();
    let lines: Vec<&str> = explanation.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains("explain_score(m, a@")).unwrap();
    let mut below = lines[at + 1..].iter().take_while(|line| !line.starts_with("stage"));
    assert!(
        lines[at].starts_with("ProjectionExec") && below.any(|line| line.starts_with("FilterExec: p@")),
        "{explanation}"
    );
}
