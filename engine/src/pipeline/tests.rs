//! Golden messages (`tests/pipelines/*.yaml` with `.expected` beside them; `BLESS=1` writes them anew), the pipelines of the
//! repository, the reference file against the code, and files that were damaged at random.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::settings::{ColumnType, SinkConnector, SourceConnector, StartPosition};
use super::yaml::{Content, Node};
use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// The environment of the golden cases.
fn test_env(name: &str) -> Option<String> {
    let value = match name {
        "WORKERS" => "4",
        "WORD" => "several",
        "EMPTY" => "",
        "TOPIC" => "transactions",
        "KAFKA_PASSWORD" => "hunter2",
        "COLON" => "a: [b",
        _ => return None,
    };
    Some(value.to_string())
}

fn no_env(_: &str) -> Option<String> {
    None
}

/// What `tidemill check` says of a file, without the folder that the repository happens to be in.
fn verdict(path: &Path) -> String {
    let text = match check(path, &test_env) {
        Ok(report) => report,
        Err(problems) => format!("{problems}\n"),
    };
    let shown = path.parent().map(|parent| format!("{}/", parent.display())).unwrap_or_default();
    let whole = std::path::absolute(path).unwrap();
    let whole = format!("{}/", location::local("..", &whole).display());
    let above = format!("{}/", location::local("../..", &std::path::absolute(path).unwrap()).display());
    let normal = format!("{}/", location::local("", Path::new(&shown)).display());
    text.replace(&shown, "").replace(&normal, "").replace(&whole, "/folder/").replace(&above, "/above/")
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        // Cases beside a pipeline: `replay` runs them.
        .filter(|path| !path.to_string_lossy().ends_with(".test.yaml"))
        .collect();
    files.sort();
    files
}

/// Lines that differ, with those around them left out.
fn diff(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same_start = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let same_end =
        expected[same_start..].iter().rev().zip(found[same_start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let minus = expected[same_start..expected.len() - same_end].iter().map(|line| format!("- {line}\n"));
    let plus = found[same_start..found.len() - same_end].iter().map(|line| format!("+ {line}\n"));
    format!("from line {}:\n{}{}", same_start + 1, minus.collect::<String>(), plus.collect::<String>())
}

fn compare(path: &Path, found: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let is_blessed = std::env::var("BLESS").is_ok();
    if is_blessed {
        std::fs::write(path, found).unwrap();
        return None;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    (expected != found).then(|| format!("{}: {}", path.display(), diff(&expected, found)))
}

#[test]
fn every_golden_pipeline_is_judged_as_written_beside_it() {
    let files = yaml_files(&folder("tests/pipelines"));
    assert!(files.len() >= 25, "only {} cases were found", files.len());
    let differences: Vec<String> =
        files.iter().filter_map(|path| compare(&path.with_extension("expected"), &verdict(path))).collect();
    assert!(differences.is_empty(), "BLESS=1 takes the new texts over\n{}", differences.join("\n"));
}

#[test]
fn the_schema_for_editors_is_that_of_the_types() {
    let schema = format!("{}\n", serde_json::to_string_pretty(&json_schema()).unwrap());
    let difference = compare(&folder("pipelines/pipeline.schema.json"), &schema);
    assert_eq!(difference, None, "BLESS=1 takes the new schema over");
}

#[test]
fn secrets_are_in_no_message_and_no_debug_text() {
    for path in yaml_files(&folder("tests/pipelines")) {
        let text = verdict(&path);
        assert!(!text.contains("hunter2"), "{}: {text}", path.display());
    }
    let pipeline = Pipeline::load(&folder("tests/pipelines/valid_everything.yaml"), &test_env).unwrap();
    assert!(!format!("{pipeline:?}").contains("hunter2"));
    let SourceConnector::Kafka(kafka) = &pipeline.sources[0].connector else { panic!("a kafka source") };
    assert_eq!(kafka.connection.sasl_password.as_deref(), Some("hunter2"));
}

#[test]
fn every_pipeline_of_the_repository_is_valid() {
    for path in yaml_files(&folder("pipelines")) {
        if let Err(problems) = Pipeline::load(&path, &no_env) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_fraud_pipeline_says_what_it_is_documented_to_say() {
    let env = |name: &str| (name == "KAFKA_TOPIC").then(|| "payments".to_string());
    let pipeline = Pipeline::load(&folder("pipelines/fraud.yaml"), &env).unwrap();
    let source = &pipeline.sources[0];
    let SourceConnector::Kafka(kafka) = &source.connector else { panic!("a kafka source") };
    assert_eq!((kafka.topics.as_slice(), kafka.group.as_str()), (["payments".to_string()].as_slice(), "fraud"));
    assert_eq!(kafka.start, StartPosition::Earliest);
    let names: Vec<&str> = source.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(
        names,
        ["transaction_id", "user_id", "amount", "currency", "merchant", "timestamp", "location", "is_fraud"]
    );
    assert_eq!(source.columns[5].column_type, ColumnType::Timestamp);
    let SinkConnector::Kafka(alerts) = &pipeline.sinks[0].connector else { panic!("a kafka sink") };
    assert_eq!(alerts.connection.bootstrap_servers, "localhost:9092");
    assert!(Path::new(&pipeline.models[0].uri).is_absolute());
    assert!(pipeline.models[0].uri.ends_with("/.tidemill/models/fraud"));
}

#[test]
fn no_feature_is_made_of_the_label() {
    let pipeline = Pipeline::load(&folder("pipelines/fraud.yaml"), &no_env).unwrap();
    let code = |view: usize| -> String {
        pipeline.views[view]
            .query
            .sql
            .lines()
            .map(|line| line.split("--").next().unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    };
    // A star carries it along; it is in no expression, and no argument of the score.
    assert!(code(0).contains("*,"));
    assert_eq!(code(0).matches("is_fraud").count(), 0);
    assert_eq!(code(1).matches("is_fraud").count(), 0);
}

#[test]
fn sql_has_the_place_where_it_begins() {
    let pipeline = Pipeline::load(&folder("tests/pipelines/valid_everything.yaml"), &test_env).unwrap();
    let text = std::fs::read_to_string(folder("tests/pipelines/valid_everything.yaml")).unwrap();
    let at = |place: &Place| -> String {
        text.lines().nth(place.line - 1).unwrap().chars().skip(place.column - 1).collect()
    };
    for sql in pipeline.sinks.iter().map(|sink| &sink.select).chain(&pipeline.sources[0].checks) {
        if sql.place.file.extension().is_some_and(|extension| extension == "yaml") {
            let first: String = sql.sql.trim().chars().take(8).collect();
            assert!(at(&sql.place).starts_with(&first), "{:?} at {}", first, at(&sql.place));
        }
    }
    let view = &pipeline.views[0].query;
    assert!(view.place.file.ends_with("sql/ok.sql"));
    assert_eq!((view.place.line, view.place.column), (1, 1));
}

/// The reference file, held against the schema: which keys stand in it, and which defaults it shows.
struct Reference {
    schema: Value,
    /// `section.variant.key` of all keys that the schema has.
    known: BTreeSet<String>,
    written: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Reference {
    fn variants<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = schema::resolve(&self.schema, schema);
        match schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array) {
            Some(variants) => variants.iter().flat_map(|variant| self.variants(variant)).collect(),
            None => vec![schema],
        }
    }

    fn collect(&mut self, schema: &Value, path: &str) {
        for variant in self.variants(schema).into_iter().cloned().collect::<Vec<_>>() {
            if let Some(item) = variant.get("additionalProperties").filter(|item| item.is_object()) {
                self.collect(item, path);
            }
            let tag = schema::tag(&variant).map(|(_, word)| format!(".{word}")).unwrap_or_default();
            for (key, property) in variant.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}{tag}.{key}");
                self.known.insert(path.clone());
                self.collect(property, &path);
            }
        }
    }

    fn visit(&mut self, schema: &Value, node: &Node, path: &str) {
        let Content::Mapping(entries) = &node.content else { return };
        let word = node.at(&["connector"]).and_then(|node| match &node.content {
            Content::Scalar(scalar) => Some(scalar.text.clone()),
            _ => None,
        });
        let variants: Vec<Value> = self.variants(schema).into_iter().cloned().collect();
        let is_mapping =
            |variant: &&Value| variant["properties"].is_object() || variant["additionalProperties"].is_object();
        let is_chosen = |variant: &&Value| schema::tag(variant).map(|(_, tag)| tag.to_string()) == word;
        let variant = variants.iter().filter(is_mapping).find(is_chosen);
        let Some(variant) = variant else { return };
        for entry in entries {
            let Some(property) = variant["properties"].get(&entry.key) else {
                self.visit(&variant["additionalProperties"], &entry.value, path);
                continue;
            };
            let tag = word.as_ref().map(|word| format!(".{word}")).unwrap_or_default();
            let path = format!("{path}{tag}.{}", entry.key);
            self.default_of(property, &entry.value, &path);
            self.visit(property, &entry.value, &path);
            self.written.insert(path);
        }
    }

    fn default_of(&mut self, property: &Value, node: &Node, path: &str) {
        let Content::Scalar(scalar) = &node.content else { return };
        let default = match property.get("default") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return,
        };
        let is_same =
            default == scalar.text || default.parse::<f64>().ok().is_some_and(|x| scalar.text.parse() == Ok(x));
        if !is_same {
            self.wrong.push(format!("{path}: the file shows `{}`, the code says `{default}`", scalar.text));
        }
    }
}

#[test]
fn the_reference_file_shows_every_key_at_its_default() {
    let path = folder("pipelines/reference.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (document, problems) = yaml::parse(&path, &text, &no_env);
    assert_eq!(problems, Vec::new());
    let schema = schema::substituted_schema();
    let mut reference =
        Reference { schema: schema.clone(), known: BTreeSet::new(), written: BTreeSet::new(), wrong: Vec::new() };
    reference.collect(&schema, "");
    reference.visit(&schema, &document.unwrap().root, "");
    assert!(reference.known.len() > 80, "{:?}", reference.known);
    assert_eq!(reference.wrong, Vec::<String>::new());
    // What excludes each other cannot stand in one file: the alternative stands in a comment.
    let comments: String =
        text.lines().filter_map(|line| line.split_once('#')).map(|(_, comment)| format!("{comment}\n")).collect();
    let missing: Vec<&String> = reference.known.difference(&reference.written).collect();
    let alternatives: BTreeMap<&str, bool> = missing
        .iter()
        .map(|path| (path.as_str(), comments.contains(&format!("{}:", path.rsplit('.').next().unwrap()))))
        .collect();
    let expected = [
        ".dead_letter.parquet.connector",
        ".dead_letter.parquet.max_age",
        ".dead_letter.parquet.max_bytes",
        ".dead_letter.parquet.max_rows",
        ".dead_letter.parquet.path",
        ".sources.kafka.repartition.by",
        ".sources.kafka.repartition.partitions",
        ".sources.kafka.repartition.retention",
        ".sources.kafka.repartition.topic",
        ".sources.kafka.start.offsets",
        ".sources.kafka.start.timestamp",
        ".sources.kafka.topics",
        ".training.imbalance.smote",
        ".training.imbalance.undersampling",
        ".training.imbalance.weight",
        ".training.threshold.alert_budget",
        ".training.threshold.costs",
        ".training.threshold.costs.missed",
        ".training.threshold.costs.review",
        ".training.threshold.fixed",
        ".training.threshold.precision_floor",
    ];
    assert_eq!(alternatives, expected.into_iter().map(|path| (path, true)).collect());
}

#[test]
fn what_the_check_accepts_is_what_the_schema_accepts_of_keys_and_defaults() {
    // Each default, put where it stands for, is accepted: types, schema and walk agree.
    fn defaults(schema: &Value, found: &mut Vec<(Value, Value)>) {
        match schema {
            Value::Object(object) => {
                if let Some(default) = object.get("default") {
                    found.push((schema.clone(), default.clone()));
                }
                object.values().for_each(|value| defaults(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| defaults(value, found)),
            _ => {}
        }
    }
    let root = schema::substituted_schema();
    let mut found = Vec::new();
    defaults(&root, &mut found);
    assert!(found.len() > 30);
    for (schema, default) in found {
        let mut schema = schema;
        schema["$defs"] = root["$defs"].clone();
        let text = default.to_string();
        let (document, problems) = yaml::parse(Path::new("x"), &text, &no_env);
        assert_eq!(problems, Vec::new(), "{text}");
        let (value, findings) = walk::check(&schema, &document.unwrap().root);
        assert!(findings.is_empty(), "{text}: {findings:?}");
        assert_eq!(value.unwrap().to_string().replace(".0", ""), text.replace(".0", ""));
    }
}

fn judge(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    match check(file.path(), &test_env) {
        Ok(report) => report,
        Err(problems) => problems.to_string(),
    }
}

/// One edit of a text: at a place, so many characters out, and this in.
fn edits() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let piece = prop_oneof![
        "[a-z0-9 :\\-\\[\\]{}\"'#&*!|>%@\n\t$,\\.]{0,6}",
        Just("${".to_string()),
        Just("${X:-}".to_string()),
        Just("\n  - ".to_string()),
        Just(": null\n".to_string()),
        Just("\u{0}\u{feff}é\r".to_string()),
        any::<String>(),
    ];
    prop::collection::vec((any::<usize>(), 0..20_usize, piece), 1..6)
}

fn edited(text: &str, edits: &[(usize, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, out, piece) in edits {
        let at = at % (chars.len() + 1);
        let end = (at + out).min(chars.len());
        chars.splice(at..end, piece.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_file_is_judged_and_never_panics(edits in edits(), which in any::<bool>()) {
        let name = if which { "pipelines/reference.yaml" } else { "tests/pipelines/valid_everything.yaml" };
        let text = std::fs::read_to_string(folder(name)).unwrap();
        let verdict = judge(&edited(&text, &edits));
        prop_assert!(verdict.contains("the file is valid") || !verdict.contains("hunter2"), "a secret is shown: {verdict}");
        prop_assert!(!verdict.is_empty());
        prop_assert!(!verdict.contains("does not have the form of a pipeline"), "the walk let something through: {verdict}");
        prop_assert!(!verdict.contains("could not be understood"), "nothing was said: {verdict}");
    }

    #[test]
    fn any_text_is_judged_and_never_panics(text in any::<String>()) {
        prop_assert!(judge(&text).contains("problem"));
    }

    #[test]
    fn durations_and_sizes_that_are_printed_are_read_again(number in 0_u64..10_000_000_000) {
        use super::text::{ByteSize, TextForm};
        let duration = std::time::Duration::from_millis(number);
        prop_assert_eq!(std::time::Duration::parse(&duration.print()), Ok(duration));
        prop_assert_eq!(ByteSize::parse(&ByteSize(number).print()), Ok(ByteSize(number)));
    }
}
