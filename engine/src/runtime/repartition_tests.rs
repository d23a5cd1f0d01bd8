//! Pipelines in stages: what they are rewritten to, what is refused, and a run on the embedded broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::plan::Plan;
use crate::runtime;
use crate::sink::kafka::KafkaWriter;
use crate::source::kafka::embedded::EmbeddedKafka;

/// Rows by user, and then by merchant.
fn file(servers: &str, folder: &Path, views: &str) -> String {
    format!(
        "pipeline: stages
sources:
  cards:
    connector: kafka
    bootstrap_servers: \"{servers}\"
    topic: cards
    until: now
    columns: {{ id: bigint not null, user_id: bigint not null, merchant: string, amount: double, ts: epoch_ms not null }}
    check: [\"id >= 0\"]
    event_time: ts
    repartition: {{ by: [user_id], topic: cards_by_user, partitions: 3 }}
views:
{views}
sinks:
  by_user: {{ connector: parquet, path: \"{folder}/by_user\", select: \"SELECT id, user_id, amount FROM cards\" }}
  by_merchant: {{ connector: parquet, path: \"{folder}/by_merchant\", select: \"SELECT * FROM large\" }}
dead_letter: {{ connector: kafka, topic: dead }}
checkpoint: {{ path: \"{folder}/checkpoint\", interval: 50ms }}
run: {{ workers: 2 }}
http: {{ listen: \"off\" }}
",
        folder = folder.display()
    )
}

const LARGE: &str = "  renamed: SELECT id, user_id, merchant, amount + 1 AS more, ts AS happened_at FROM cards
  large:
    sql: SELECT id, merchant, more, happened_at FROM renamed WHERE id % 10 <> 7
    repartition: { by: [merchant], topic: cards_by_merchant }";

fn load(text: &str) -> Pipeline {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Pipeline::load(file.path(), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn stages(views: &str) -> Result<Pipeline, String> {
    let text = file("localhost:9092", Path::new("/tmp/unused"), views);
    staged(&load(&text), &Functions::default())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn each_repartition_becomes_a_sink_and_a_source_of_the_tables_name() {
    let pipeline = stages(LARGE).unwrap();
    let names: Vec<&str> = pipeline.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["cards.outer", "cards", "large"]);
    assert_eq!(pipeline.views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["renamed", "large.outer"]);
    let sinks: Vec<(&str, &str)> =
        pipeline.sinks.iter().map(|sink| (sink.name.as_str(), sink.select.sql.as_str())).collect();
    assert_eq!(sinks[2], ("cards.internal", "SELECT * FROM \"cards.outer\""));
    assert_eq!(sinks[3].0, "large.internal");
    let internal: Vec<_> = pipeline.sources.iter().filter_map(|source| source.internal.as_ref()).collect();
    let shown = |internal: &InternalTopic| {
        let columns: Vec<String> = internal.columns.fields().iter().map(|field| field.name().clone()).collect();
        (columns.join(" "), internal.by.join(" "), internal.event_time.clone(), internal.upstream.join(" "))
    };
    let text = |parts: [&str; 4]| (parts[0].into(), parts[1].into(), parts[2].into(), parts[3].into());
    assert_eq!(shown(internal[0]), text(["id user_id merchant amount ts", "user_id", "ts", "cards.outer"]));
    assert_eq!(shown(internal[1]), text(["id merchant more happened_at", "merchant", "happened_at", "cards"]));
    assert_eq!((internal[0].num_partitions, internal[1].num_partitions), (Some(3), None));
    assert_eq!(
        internal[1].outer_topics[0].1, "cards",
        "the number of partitions is that of the first topic in the row"
    );
    let groups: Vec<&str> = pipeline.sources.iter().filter_map(kafka).map(|kafka| kafka.group.as_str()).collect();
    assert_eq!(groups, ["stages", "stages.cards", "stages.cards.large"]);
    // The checks are those of the outer source alone, and what stands behind it is planned over the internal ones.
    assert_eq!(pipeline.sources.iter().map(|source| source.checks.len()).collect::<Vec<_>>(), [1, 0, 0]);
    let plan = Plan::compile(&pipeline, &Functions::default()).unwrap();
    assert!(plan.explain().contains("source large (internal topic cards_by_merchant of cards)"), "{}", plan.explain());
}

#[test]
fn without_repartition_a_pipeline_stays_as_it_is() {
    let text = file("localhost:9092", Path::new("/tmp/unused"), "  large: SELECT * FROM cards");
    let text = text.replace("    repartition: { by: [user_id], topic: cards_by_user, partitions: 3 }\n", "");
    let pipeline = load(&text);
    let after = staged(&pipeline, &Functions::default()).unwrap();
    assert_eq!(format!("{after:?}"), format!("{pipeline:?}"));
}

#[test]
fn a_view_that_cannot_go_through_a_topic_is_refused_with_what_to_do() {
    let view = |sql: &str, by: &str| {
        stages(&format!("  large:\n    sql: {sql}\n    repartition: {{ by: [{by}], topic: x }}")).unwrap_err()
    };
    for (sql, by, parts) in [
        ("SELECT id, merchant, ts FROM cards", "merchnat", vec!["by `merchnat`", "did you mean `merchant`?"]),
        ("SELECT id, amount, ts FROM cards", "amount", vec!["by `amount`", "Float64 cannot be a key"]),
        ("SELECT id FROM cards", "id", vec!["event time", "select the column ts as it is"]),
        ("SELECT id, ts + interval '1 second' AS ts FROM cards", "id", vec!["event time", "unchanged"]),
        ("SELECT id, ts, make_array(id) AS ids FROM cards", "id", vec!["column `ids`", "leave the column out"]),
        ("SELECT id, tss FROM cards", "id", vec!["column `tss`", "view large"]),
    ] {
        let refused = view(sql, by);
        for part in parts {
            assert!(refused.contains(part), "{part:?} is not in {refused}");
        }
    }
}

#[test]
fn the_event_time_is_found_through_other_names_unions_and_filters() {
    let union = "  both: SELECT ts AS t, id, merchant FROM cards UNION ALL SELECT ts, id, merchant FROM cards
  large: { sql: \"SELECT id, merchant, t FROM both WHERE id > 1\", repartition: { by: [merchant], topic: x } }";
    let pipeline = stages(union).unwrap();
    assert_eq!(pipeline.sources.last().unwrap().event_time.as_deref(), Some("t"));
    let mixed =
        union.replace("SELECT ts, id, merchant FROM cards", "SELECT ts + interval '1 day', id, merchant FROM cards");
    assert!(stages(&mixed).unwrap_err().contains("event time"));
}

/// Windows by user on the source, and by merchant on a view of them.
const HISTORY: &str = "  users: >-
    SELECT id, user_id, merchant, amount, ts, count(*) OVER (PARTITION BY user_id ORDER BY ts) AS n FROM cards
  large:
    sql: SELECT * FROM users
    repartition: { by: [merchant], topic: cards_by_merchant }
  places: >-
    SELECT id, n, count(DISTINCT user_id) OVER (PARTITION BY merchant ORDER BY ts
    RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS visitors FROM large";

fn refusal(pipeline: &Pipeline, functions: &Functions) -> String {
    let problems = Plan::compile(pipeline, functions).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn with_places(text: &str) -> String {
    text.replace("SELECT * FROM large\"", "SELECT * FROM places\"")
}

#[test]
fn windows_over_repartitioned_rows_are_planned_in_stages_and_as_the_file_stands() {
    let text = with_places(&file("localhost:9092", Path::new("/tmp/unused"), HISTORY));
    let plain = load(&text);
    let functions = Functions::default();
    let stages = || staged(&plain, &functions).unwrap_or_else(|problems| panic!("{}", problems[0]));
    let plan = Plan::compile(&stages(), &functions).unwrap_or_else(|problems| panic!("{}", problems[0]));
    let sources = |plan: &Plan, pipeline: &Pipeline| -> Vec<(String, String)> {
        let source = |operator: &crate::plan::OperatorInfo| {
            (operator.name.clone(), pipeline.sources[operator.source].name.clone())
        };
        plan.operators().iter().map(source).collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(sources(&plan, &stages()), [pair("users.1", "cards"), pair("places.1", "large")]);
    // Each start makes the same stages of a file, so state is found again.
    let again = Plan::compile(&stages(), &functions).unwrap();
    let prints = |plan: &Plan| plan.operators().into_iter().map(|one| one.fingerprint).collect::<Vec<_>>();
    assert_eq!(
        (prints(&again), again.fingerprint(), again.explain()),
        (prints(&plan), plan.fingerprint(), plan.explain())
    );
    // To a replay all rows of the source are one unit.
    let whole = Plan::compile(&plain, &functions).unwrap_or_else(|problems| panic!("{}", problems[0]));
    assert_eq!(sources(&whole, &plain), [pair("users.1", "cards"), pair("places.1", "cards")]);
}

#[test]
fn windows_over_another_key_than_that_of_the_repartition_or_over_a_score_are_refused() {
    let functions = Functions::default();
    for (from, to, name) in [
        ("PARTITION BY merchant", "PARTITION BY user_id", "large is partitioned by merchant"),
        ("PARTITION BY user_id", "PARTITION BY merchant", "source cards is partitioned by user_id"),
    ] {
        let text = with_places(&file("localhost:9092", Path::new("/tmp/unused"), &HISTORY.replace(from, to)));
        let plain = load(&text);
        assert!(refusal(&plain, &functions).contains(name), "{}", refusal(&plain, &functions));
        let refused = match staged(&plain, &functions) {
            Ok(stages) => refusal(&stages, &functions),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        assert!(refused.contains(name), "{refused}");
    }
    // Whatever `once` names stands for a model.
    let functions = Functions { once: vec!["abs".to_owned()], ..functions };
    let text = file(
        "localhost:9092",
        Path::new("/tmp/unused"),
        &HISTORY.replace("amount, ts, count", "abs(amount) AS amount, ts, count"),
    );
    let plain = load(&with_places(&text));
    let stages = staged(&plain, &functions).unwrap_or_else(|problems| panic!("{}", problems[0]));
    for pipeline in [&plain, &stages] {
        let refused = refusal(pipeline, &functions);
        assert!(refused.contains("state would depend on a model"), "{refused}");
    }
}

/// The rows below a folder: id, and the number of the unit in the file's name.
fn rows(folder: &Path, column: &str) -> Vec<(i64, String, String)> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('_') {
            continue;
        }
        let unit = name.rsplit_once("--").unwrap().0.to_owned();
        for batch in ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap().build().unwrap()
        {
            let batch = batch.unwrap();
            let ids = batch["id"].as_primitive::<Int64Type>();
            let keys = arrow::compute::cast(&batch[column], &arrow::datatypes::DataType::Utf8).unwrap();
            for row in 0..batch.num_rows() {
                let key = keys.as_string::<i32>();
                let key = if arrow::array::Array::is_valid(key, row) { key.value(row) } else { "" };
                rows.push((ids.value(row), key.to_owned(), unit.clone()));
            }
            if let Some(amounts) = batch.column_by_name("amount") {
                let amounts = amounts.as_primitive::<Float64Type>();
                assert!(amounts.values().iter().zip(ids.values()).all(|(amount, id)| *amount == *id as f64 / 8.0));
            }
        }
    }
    rows.sort();
    rows
}

fn is_each_key_in_one_unit(rows: &[(i64, String, String)]) -> bool {
    let mut units: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, key, unit) in rows {
        units.entry(key).or_default().insert(unit);
    }
    units.values().all(|units| units.len() == 1) && units.values().flatten().collect::<BTreeSet<_>>().len() > 1
}

#[test]
fn on_the_embedded_broker_rows_go_through_both_topics_once_and_a_second_run_goes_on() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("cards", 2).unwrap();
    kafka.create_topic("dead", 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pipeline = load(&file(kafka.bootstrap_servers(), folder.path(), LARGE));
    let connection = &kafka_of(&pipeline).connection;
    let mut writer = KafkaWriter::open(connection, "cards", Duration::ZERO, Duration::from_secs(20)).unwrap();
    let mut write = |ids: std::ops::Range<i64>| {
        for id in ids {
            let record = format!(
                "{{\"id\": {}, \"user_id\": {}, \"merchant\": {}, \"amount\": {}, \"ts\": {}}}",
                if id % 50 == 3 { -1 } else { id },
                id % 17,
                if id % 11 == 0 { "null".to_owned() } else { format!("\"m{}\"", id % 11) },
                id as f64 / 8.0,
                1_700_000_000_000_i64 + id,
            );
            writer.write(Some(id.to_string().as_bytes()), Some(record.as_bytes())).unwrap();
        }
        writer.flush(Duration::from_secs(20)).unwrap();
    };
    for end in [1_000, 1_500] {
        write(if end == 1_000 { 0..1_000 } else { 1_000..1_500 });
        let run = runtime::start(&pipeline, &BTreeMap::new()).unwrap();
        let ended = run.join().unwrap();
        let expected: Vec<i64> = (0..end).filter(|id| id % 50 != 3).collect();
        let by_user = rows(&folder.path().join("by_user"), "user_id");
        assert_eq!(by_user.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), expected);
        assert!(is_each_key_in_one_unit(&by_user));
        let by_merchant = rows(&folder.path().join("by_merchant"), "merchant");
        let expected: Vec<i64> = expected.into_iter().filter(|id| id % 10 != 7).collect();
        assert_eq!(by_merchant.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), expected);
        assert!(is_each_key_in_one_unit(&by_merchant));
        assert_eq!(ended.counts().repeated, 0);
    }
}

#[test]
fn a_preview_brings_the_rows_of_a_key_together_as_a_run_does() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("cards", 2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pipeline = load(&with_places(&file(kafka.bootstrap_servers(), folder.path(), HISTORY)));
    let connection = &kafka_of(&pipeline).connection;
    let mut writer = KafkaWriter::open(connection, "cards", Duration::ZERO, Duration::from_secs(20)).unwrap();
    for id in 0..200 {
        let record = format!(
            r#"{{"id": {id}, "user_id": 7, "merchant": "m", "amount": 1, "ts": {}}}"#,
            1_700_000_000_000_i64 + id
        );
        writer.write(Some(id.to_string().as_bytes()), Some(record.as_bytes())).unwrap();
    }
    writer.flush(Duration::from_secs(20)).unwrap();
    let settings = crate::replay::PreviewSettings {
        num_rows: 200,
        tables: vec!["places".to_owned()],
        timeout: Duration::from_secs(20),
        from_start: true,
    };
    let seen = crate::replay::preview(&pipeline, &BTreeMap::new(), &settings).unwrap();
    let counts = seen.tables[0].1["n"].as_primitive::<Int64Type>().clone();
    assert_eq!(counts.len(), 200);
    // About half of the rows are in either partition.
    assert!(counts.values().iter().any(|count| *count > 150), "{counts:?}");
}

#[test]
fn records_in_other_partitions_than_their_keys_belong_to_are_counted() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("cards", 4).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = |partitioner: &str| {
        format!(
            "pipeline: keys
sources:
  cards:
    connector: kafka
    bootstrap_servers: \"{}\"
    topic: cards
    until: now
    columns: {{ id: bigint not null }}
    partitioned_by: [id]
    partitioner: {partitioner}
sinks:
  out: {{ connector: parquet, path: \"{folder}/{partitioner}\", select: SELECT * FROM cards }}
checkpoint: {{ path: \"{folder}/checkpoint_{partitioner}\" }}
http: {{ listen: \"off\" }}
",
            kafka.bootstrap_servers(),
            folder = folder.path().display()
        )
    };
    let pipeline = load(&text("none"));
    let connection = &kafka_of(&pipeline).connection;
    // As Java's producers have it.
    let mut writer = KafkaWriter::open(connection, "cards", Duration::ZERO, Duration::from_secs(20)).unwrap();
    for id in 0..400 {
        writer.write(Some(id.to_string().as_bytes()), Some(format!("{{\"id\": {id}}}").as_bytes())).unwrap();
    }
    writer.flush(Duration::from_secs(20)).unwrap();
    for (partitioner, expected) in [("none", 0..1), ("murmur2", 0..1), ("crc32", 200..400)] {
        let counts = runtime::start(&load(&text(partitioner)), &BTreeMap::new()).unwrap().join().unwrap().counts();
        assert_eq!(counts.decoded, 400);
        assert!(expected.contains(&counts.misplaced), "{partitioner}: {}", counts.misplaced);
    }
}

fn kafka_of(pipeline: &Pipeline) -> &KafkaSource {
    kafka(&pipeline.sources[0]).unwrap()
}

#[test]
fn windows_behind_topics_of_the_pipeline_rest_on_the_topics_before_them_too() {
    let windows = "  sold:
    sql: SELECT id, merchant, amount, ts FROM cards
    repartition: { by: [merchant], topic: cards_by_merchant }
  large: >-
    SELECT id, count(*) OVER (PARTITION BY merchant ORDER BY ts RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) AS num
    FROM sold";
    let feeding = |views: &str| {
        let staged = stages(views).unwrap();
        let plan = Plan::compile(&staged, &Functions::default()).unwrap_or_else(|problems| panic!("{problems:?}"));
        let names = feeding_windows(&staged, &plan).into_iter().map(|place| staged.sources[place].name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(feeding(windows), ["cards.outer", "cards", "sold"]);
    assert_eq!(feeding(LARGE), [""; 0]);
}
