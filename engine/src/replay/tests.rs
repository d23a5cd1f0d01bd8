//! What a replay promises, shown: the rows of a run, the same from either format; and what a preview and the cases beside a
//! pipeline file say.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::output::OutputFile;
use super::*;
use crate::decode::Reason;
use crate::pipeline::CaseFile;
use crate::pipeline::settings::{self, KafkaConnection, SourceConnector, SqlText};
use crate::sink::kafka::KafkaWriter;
use crate::source::generator::{GeneratorSettings, Simulator};
use crate::source::kafka::embedded::EmbeddedKafka;

const DAY_MS: i64 = 86_400_000;
/// Monday, 2026-03-09.
const MONDAY_MS: i64 = 20_521 * DAY_MS;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(path: &Path, env: &BTreeMap<String, String>) -> Pipeline {
    Pipeline::load(path, &|name| env.get(name).cloned()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn fraud(variables: &[(&str, &str)]) -> Pipeline {
    load(&folder("pipelines/fraud.yaml"), &env(variables))
}

/// Generated transactions as JSON.
fn transactions(minutes: i64) -> Vec<Vec<u8>> {
    let simulator = Simulator::new(GeneratorSettings::default().with_events_per_second(5.0)).unwrap();
    let blocks = simulator.records(MONDAY_MS..MONDAY_MS + minutes * 60_000).unwrap();
    blocks.flat_map(|block| block.unwrap().iter().map(|record| record.value.to_vec()).collect::<Vec<_>>()).collect()
}

fn workers(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn write_lines<'a>(path: &Path, lines: impl IntoIterator<Item = &'a [u8]>) {
    let mut file = fs::File::create(path).unwrap();
    for line in lines {
        file.write_all(line).unwrap();
        file.write_all(b"\n").unwrap();
    }
}

fn input(source: &str, path: &Path) -> Vec<Input> {
    vec![Input { source: source.to_owned(), uri: path.to_str().unwrap().to_owned(), format: None }]
}

fn whole(selected: &Selected) -> RecordBatch {
    concat_batches(&selected.schema, &selected.batches).unwrap()
}

fn write_parquet(folder: &Path, name: &str, rows: &RecordBatch) -> PathBuf {
    let mut file = OutputFile::create(folder, name, FileFormat::Parquet, rows.schema()).unwrap();
    file.write(rows).unwrap();
    file.finish().unwrap()
}

fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

#[test]
fn features_are_bit_equal_from_json_lines_and_from_parquet_and_need_no_model() {
    let temp = tempfile::tempdir().unwrap();
    let lines = temp.path().join("events.jsonl");
    let records = transactions(60);
    assert!(records.len() > 8_500, "{} records are more than one block", records.len());
    write_lines(&lines, records.iter().map(Vec::as_slice));
    let (pipeline, none) = (fraud(&[]), BTreeMap::new());
    let rows = whole(&select(&pipeline, &none, &input("transactions", &lines), "SELECT * FROM transactions").unwrap());
    assert_eq!(rows.num_rows(), records.len());
    let parquet = temp.path().join("parquet");
    write_parquet(&parquet, "a", &rows.slice(0, 100));
    write_parquet(&parquet, "b", &rows.slice(100, rows.num_rows() - 100));
    let sql = "SELECT * FROM features";
    let from_lines = select(&pipeline, &none, &input("transactions", &lines), sql).unwrap();
    let from_parquet = select(&pipeline, &none, &input("transactions", &parquet), sql).unwrap();
    assert_eq!(whole(&from_lines), whole(&from_parquet));
    assert_eq!(from_lines.schema.fields().len(), 46);
    assert_eq!((from_lines.counts.read, from_lines.counts.num_rejected()), (records.len() as u64, 0));
    assert_eq!(from_lines.counts, from_parquet.counts);
}

/// A pipeline from one file of JSON lines into Parquet, with dead letters and a model.
fn files_pipeline(temp: &Path) -> PathBuf {
    let model = folder("udfs/testdata/binary_31.txt");
    let text = format!(
        r#"
pipeline: files
sources:
  transactions:
    connector: files
    path: in
    format: json_lines
    columns:
      transaction_id: string not null
      user_id: bigint not null
      amount: double not null
      currency: string not null
      timestamp: timestamp not null
    check: [amount < 1000]
    event_time: timestamp
models:
  fraud: {{ uri: {model} }}
views:
  features: SELECT *, amount AS f0, ln(amount) AS f1, CAST(user_id % 5 AS DOUBLE) AS f2, date_part('hour', "timestamp") AS f3,
    CAST(100 / (user_id % 7) AS DOUBLE) AS part FROM transactions
  scored: SELECT *, score('fraud', f0, f1, f2, f3) AS p FROM features
sinks:
  out:
    connector: parquet
    path: out
    select: SELECT transaction_id, user_id, "timestamp", part, p FROM scored WHERE amount > 5
dead_letter: {{ connector: parquet, path: dead }}
checkpoint: {{ path: checkpoint }}
http: {{ listen: "off" }}
"#,
        model = model.display()
    );
    let path = temp.join("files.yaml");
    fs::write(&path, text).unwrap();
    path
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn a_replay_gives_the_rows_and_the_rejections_of_a_run() {
    let temp = tempfile::tempdir().unwrap();
    let mut records = transactions(8);
    records.insert(3, b"not json".to_vec());
    records.insert(700, br#"{"transaction_id": "x"}"#.to_vec());
    fs::create_dir(temp.path().join("in")).unwrap();
    write_lines(&temp.path().join("in/events.jsonl"), records.iter().map(Vec::as_slice));
    let none = BTreeMap::new();
    let pipeline = load(&files_pipeline(temp.path()), &none);
    let summary = runtime::start(&pipeline, &none).unwrap().join().unwrap();
    let written = parquet_files(&temp.path().join("out"));
    let rows: Vec<RecordBatch> = written.iter().flat_map(|path| read_parquet(path)).collect();

    let replay =
        Replay::open(&pipeline, &none, &input("transactions", &temp.path().join("in")), None, workers(2)).unwrap();
    let schema = replay.sink_schema(0);
    let mut replayed = Vec::new();
    let mut seen = 0;
    let counts = replay
        .run(
            |sink, batch| {
                assert_eq!(sink, 0);
                replayed.push(batch);
                Ok(())
            },
            |progress| seen = progress.read,
        )
        .unwrap();
    let (run, replayed) = (concat_batches(&schema, &rows).unwrap(), concat_batches(&schema, &replayed).unwrap());
    assert_eq!(run, replayed);
    assert!(run.num_rows() > 1_000, "{} rows", run.num_rows());
    assert_eq!((counts.read, seen), (records.len() as u64, records.len() as u64));
    assert_eq!(counts.rows, [run.num_rows() as u64]);
    let counted = summary.counts();
    assert_eq!(
        (counts.read, counts.accepted, counts.num_rejected()),
        (counted.read, counted.decoded, counted.rejected)
    );
    let letters = dead_letters(&temp.path().join("dead"));
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for (offset, value, reason) in &letters {
        assert_eq!(*value, records[usize::try_from(*offset).unwrap()], "offset {offset}, {reason}");
        *reasons.entry(reason.clone()).or_default() += 1;
    }
    let replayed = counts.rejected.iter().map(|((_, reason), number)| (reason.as_str().to_owned(), *number));
    assert_eq!(reasons, replayed.collect());
    let first: Vec<i64> = counts.first_rejected.iter().map(|rejected| rejected.offset).collect();
    assert_eq!(letters.iter().take(first.len()).map(|(offset, ..)| *offset).collect::<Vec<_>>(), first);
    for reason in [Reason::NotJson, Reason::MissingColumn, Reason::SqlError] {
        assert!(counts.rejected.contains_key(&("transactions".to_owned(), reason)), "{:?}", counts.rejected);
    }
    assert_eq!(
        counts.first_rejected[0].to_string(),
        "transactions/events.jsonl/0, offset 2: sql_error (division by zero in view features)"
    );
}

#[test]
fn an_archive_with_positions_reproduces_the_output_of_its_run_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let mut records = transactions(8);
    records.insert(3, b"not json".to_vec());
    // Late ones.
    let late = records.split_off(records.len() - 200);
    records.splice(500..500, late);
    fs::create_dir(temp.path().join("in")).unwrap();
    write_lines(&temp.path().join("in/events.jsonl"), records.iter().map(Vec::as_slice));
    let path = files_pipeline(temp.path());
    let archived = "    path: out\n    positions: true\n";
    let archive = "  archive: { connector: parquet, path: archive, max_rows: 300, positions: true, select: SELECT * FROM transactions }\ndead_letter:";
    let text = fs::read_to_string(&path).unwrap().replace("    path: out\n", archived).replace("dead_letter:", archive);
    fs::write(&path, text).unwrap();
    let none = BTreeMap::new();
    let pipeline = load(&path, &none);
    let summary = runtime::start(&pipeline, &none).unwrap().join().unwrap();
    assert!(parquet_files(&temp.path().join("archive")).len() > 3);

    let archive = temp.path().join("archive");
    let replay = |order| Replay::open(&pipeline, &none, &input("transactions", &archive), order, workers(3)).unwrap();
    assert_eq!(replay(None).orders().collect::<Vec<_>>(), [Order::AsServed]);
    for order in [None, Some(Order::EventTime)] {
        let replay = replay(order);
        let folder = temp.path().join("replayed");
        let mut file = OutputFile::create(&folder, "out", FileFormat::Parquet, replay.sink_schema(0)).unwrap();
        let counts = replay.run(|sink, batch| if sink == 0 { file.write(&batch) } else { Ok(()) }, |_| {}).unwrap();
        let replayed = file.finish().unwrap();
        let (live, replayed) = (temp.path().join("out"), replayed.to_str().unwrap().to_owned());
        let difference = compare_files(&replayed, live.to_str().unwrap(), &[], &none).unwrap();
        assert!(difference.is_none(), "{difference}");
        assert_eq!(difference.by, ["_topic", "_partition", "_offset", "_ordinal"]);
        assert!(difference.matched > 1_000, "{difference}");
        // An archive holds what decode accepted; a row on which the SQL failed is in it, and fails again.
        assert_eq!(counts.accepted, summary.counts().decoded);
        assert!(counts.rejected.keys().all(|(_, reason)| *reason == Reason::SqlError), "{:?}", counts.rejected);
        if order.is_none() {
            let in_order = compare_files(&replayed, live.to_str().unwrap(), &["transaction_id".to_owned()], &none);
            assert!(in_order.unwrap().is_none());
        }
    }
}

const WINDOWED: &str = r"
pipeline: windowed
sources:
  tx:
    connector: files
    path: in
    format: json_lines
    columns: { transaction_id: string not null, user_id: bigint, merchant: string, amount: double not null, timestamp: timestamp not null }
    check: [amount < 1500]
    event_time: timestamp
    partitioned_by: [user_id]
    max_future_skew: 30s
    max_lateness: 1m
views:
  history: |
    SELECT *, count(*) OVER w AS num, avg(amount) OVER w AS mean, count(DISTINCT merchant) OVER w AS merchants,
      lag(transaction_id) OVER (PARTITION BY user_id ORDER BY timestamp) AS last,
      sum(amount) OVER (PARTITION BY user_id, merchant ORDER BY timestamp) AS spent
    FROM tx
    WINDOW w AS (PARTITION BY user_id ORDER BY timestamp RANGE BETWEEN INTERVAL '90 minutes' PRECEDING AND CURRENT ROW)
sinks:
  all: { connector: parquet, path: all, positions: true, select: 'SELECT * FROM history' }
  failing: { connector: parquet, path: failing, select: 'SELECT transaction_id, 10 / (num - 5) AS q FROM history WHERE num > 2' }
  plain: { connector: parquet, path: plain, select: 'SELECT transaction_id, 1 / (floor(amount)::bigint - 12) AS q FROM tx' }
  archive: { connector: parquet, path: archive, max_rows: 3000, positions: true, select: 'SELECT * FROM tx' }
dead_letter: { connector: parquet, path: letters }
checkpoint: { path: checkpoint }
";

#[test]
fn files_are_the_same_bytes_whatever_the_number_of_workers() {
    let temp = tempfile::tempdir().unwrap();
    let mut records = transactions(130);
    // Late ones, and ones whose user is not known.
    let late = records.split_off(records.len() - 300);
    records.splice(500..500, late);
    for record in records.iter_mut().step_by(97) {
        *record = String::from_utf8(std::mem::take(record)).unwrap().replace("\"user_id\"", "\"nobody\"").into_bytes();
    }
    assert!(records.len() > 9_000, "{} records are more than one turn", records.len());
    fs::create_dir(temp.path().join("in")).unwrap();
    for (file, records) in records.chunks(12_000).enumerate() {
        write_lines(&temp.path().join(format!("in/{file}.jsonl")), records.iter().map(Vec::as_slice));
    }
    let path = temp.path().join("windowed.yaml");
    fs::write(&path, WINDOWED).unwrap();
    let none = BTreeMap::new();
    let pipeline = load(&path, &none);
    runtime::start(&pipeline, &none).unwrap().join().unwrap();
    let replayed = |from: &str, order: Order, number: usize| {
        let input = input("tx", &temp.path().join(from));
        let replay = Replay::open(&pipeline, &none, &input, Some(order), workers(number)).unwrap();
        let folder = temp.path().join(format!("{from}-{order:?}-{number}"));
        let create = |(index, sink): (usize, &settings::Sink)| {
            OutputFile::create(&folder, &sink.name, FileFormat::Parquet, replay.sink_schema(index)).unwrap()
        };
        let mut files: Vec<OutputFile> = pipeline.sinks.iter().enumerate().map(create).collect();
        let counts = replay.run(|sink, batch| files[sink].write(&batch), |_| {}).unwrap();
        let read = |file: OutputFile| fs::read(file.finish().unwrap()).unwrap();
        (files.into_iter().map(read).collect::<Vec<_>>(), counts)
    };
    for (from, order) in
        [("in", Order::Input), ("in", Order::EventTime), ("archive", Order::AsServed), ("archive", Order::EventTime)]
    {
        let (one, counts) = replayed(from, order, 1);
        let failed = counts.rejected[&("tx".to_owned(), Reason::SqlError)];
        assert!(failed > 100 && counts.rows[0] > 9_000 && counts.rows[1] > 500, "{counts:?}");
        assert!(counts.rows[0] > counts.rows[1], "{counts:?}");
        for number in [2, 3, 7] {
            let (many, found) = replayed(from, order, number);
            assert_eq!(found, counts, "{from} {order} {number}");
            assert!(many == one, "{from} {order} on {number} workers");
        }
        if order == Order::AsServed {
            // What the run wrote, and what a worker that saw only its own keys' rows would have got wrong: when the log began.
            let here = temp.path().join("archive-AsServed-7/all.parquet");
            let there = temp.path().join("all");
            let difference = compare_files(here.to_str().unwrap(), there.to_str().unwrap(), &[], &none).unwrap();
            assert!(difference.is_none() && difference.matched > 15_000, "{difference}");
        }
    }
}

#[test]
fn columns_that_positions_would_double_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = files_pipeline(temp.path());
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("    path: out\n", "    path: out\n    positions: true\n");
    fs::write(&path, text.replace("part, p FROM", "part AS _Offset, p FROM")).unwrap();
    let pipeline = load(&path, &BTreeMap::new());
    let error = runtime::plan_unloaded(&pipeline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.message().contains("sink out: `positions: true` adds a column that the SELECT has already"),
        "{error}"
    );
    assert!(error.message().contains("files.yaml:"), "{error}");
    assert!(Replay::open(&pipeline, &BTreeMap::new(), &[], None, workers(1)).is_err());
}

#[test]
fn only_a_pipeline_with_windows_is_sorted_unless_it_is_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let lines = temp.path().join("events.jsonl");
    write_lines(&lines, transactions(1).iter().map(Vec::as_slice));
    let pipeline = load(&files_pipeline(temp.path()), &BTreeMap::new());
    let orders = |order| {
        let replay =
            Replay::open(&pipeline, &BTreeMap::new(), &input("transactions", &lines), order, workers(2)).unwrap();
        replay.orders().collect::<Vec<_>>()
    };
    assert_eq!(orders(None), [Order::Input]);
    assert_eq!(orders(Some(Order::EventTime)), [Order::EventTime]);
    let view = &pipeline.views[0];
    let windowed = |sql: &str| {
        let query = SqlText { sql: sql.to_owned(), place: view.query.place.clone() };
        let views = vec![settings::View { query, ..view.clone() }];
        needed::may_have_windows(&Pipeline { views, ..pipeline.clone() })
    };
    assert!(windowed("SELECT count(*) Over(PARTITION BY a) FROM t"));
    assert!(!windowed("SELECT overdue, turn_over FROM t"));
}

/// Offset, value and reason of each dead letter in Parquet, in order; all of one file of JSON lines.
fn dead_letters(folder: &Path) -> Vec<(i64, Vec<u8>, String)> {
    let mut letters = Vec::new();
    for batch in parquet_files(folder).iter().flat_map(|path| read_parquet(path)) {
        let (offsets, values) = (batch["offset"].as_primitive::<Int64Type>(), batch["value"].as_binary::<i32>());
        let (reasons, topics) = (batch["reason"].as_string::<i32>(), batch["topic"].as_string::<i32>());
        for row in 0..batch.num_rows() {
            assert_eq!(topics.value(row), "events.jsonl");
            letters.push((offsets.value(row), values.value(row).to_vec(), reasons.value(row).to_owned()));
        }
    }
    letters.sort();
    letters
}

#[test]
fn a_strict_replay_stops_at_the_first_rejected_record() {
    let temp = tempfile::tempdir().unwrap();
    let lines = temp.path().join("events.jsonl");
    write_lines(&lines, [b"[]".as_slice()]);
    let pipeline = load(&files_pipeline(temp.path()), &BTreeMap::new());
    let replay = Replay::open(&pipeline, &BTreeMap::new(), &input("transactions", &lines), None, workers(2));
    let replay = replay.unwrap().strict(true);
    let error = replay.run(|_, _| Ok(()), |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("events.jsonl/0, offset 0: not_an_object"), "{error}");
}

#[test]
fn inputs_that_are_missing_unknown_or_of_two_formats_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let refused = |inputs: &[Input]| {
        let error = select(&fraud(&[]), &BTreeMap::new(), inputs, "SELECT * FROM features").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert!(refused(&[]).contains("--input transactions="));
    assert!(refused(&input("payments", temp.path())).contains("no source is named `payments`"));
    assert!(refused(&input("transactions", temp.path())).contains("no stored rows at"));
    fs::write(temp.path().join("a.jsonl"), "").unwrap();
    fs::write(temp.path().join("a.parquet"), "").unwrap();
    assert!(refused(&input("transactions", temp.path())).contains("--input-format"));
}

#[test]
fn a_file_has_its_name_only_when_it_is_complete() {
    let temp = tempfile::tempdir().unwrap();
    let batch = RecordBatch::try_from_iter([(
        "n",
        Arc::new(arrow::array::Int64Array::from(vec![1, 2])) as arrow::array::ArrayRef,
    )])
    .unwrap();
    let names = || {
        let entries = fs::read_dir(temp.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut file = OutputFile::create(temp.path(), "out", FileFormat::JsonLines, batch.schema()).unwrap();
    file.write(&batch).unwrap();
    assert_eq!(names(), [".out.jsonl.partial"]);
    drop(file);
    assert!(names().is_empty());
    let mut file = OutputFile::create(temp.path(), "out", FileFormat::JsonLines, batch.schema()).unwrap();
    file.write(&batch).unwrap();
    assert_eq!(fs::read_to_string(file.finish().unwrap()).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    let parquet = write_parquet(temp.path(), "out", &batch);
    assert_eq!(read_parquet(&parquet), [batch]);
    assert_eq!(names(), ["out.jsonl", "out.parquet"]);
}

fn preview_settings(num_rows: usize, tables: &[&str]) -> PreviewSettings {
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    PreviewSettings { num_rows, tables, timeout: Duration::from_secs(20), from_start: false }
}

#[test]
fn a_preview_of_a_topic_shows_late_records_and_leaves_no_trace() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("t", 1).unwrap();
    let pipeline = fraud(&[("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers()), ("KAFKA_TOPIC", "t")]);
    let connection = connection(&pipeline);
    let mut writer = KafkaWriter::open(&connection, "t", Duration::ZERO, Duration::from_secs(20)).unwrap();
    let records = transactions(5);
    for record in &records {
        writer.write(None, Some(record)).unwrap();
    }
    writer.write(None, Some(b"not json")).unwrap();
    writer.flush(Duration::from_secs(20)).unwrap();

    let seen = preview(&pipeline, &BTreeMap::new(), &preview_settings(3, &["features"])).unwrap();
    assert_eq!(seen.tables[0].0, "features");
    assert_eq!(seen.tables[0].1.num_rows(), 3);
    assert_eq!(seen.tables[0].1.num_columns(), 46);
    assert!(seen.counts.read <= 300, "{} were read, which is more than the end", seen.counts.read);

    let all = preview(&pipeline, &BTreeMap::new(), &preview_settings(100, &["transactions"])).unwrap();
    assert_eq!(all.tables[0].1.num_rows(), 100);
    let settings = PreviewSettings { from_start: true, ..preview_settings(100_000, &["transactions"]) };
    let whole = preview(&pipeline, &BTreeMap::new(), &settings).unwrap();
    assert_eq!(whole.counts.read, records.len() as u64 + 1);
    assert_eq!(whole.counts.rejected, BTreeMap::from([(("transactions".to_owned(), Reason::NotJson), 1)]));
    let first = whole.tables[0].1.column_by_name("user_id").unwrap().as_primitive::<Int64Type>().value(0);
    let written: serde_json::Value = serde_json::from_slice(&records[0]).unwrap();
    assert_eq!(Some(first), written["user_id"].as_i64());
}

fn connection(pipeline: &Pipeline) -> KafkaConnection {
    match &pipeline.sources[0].connector {
        SourceConnector::Kafka(kafka) => kafka.connection.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_preview_of_files_ends_with_them_and_names_what_can_be_shown() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("in")).unwrap();
    let records = transactions(1);
    write_lines(&temp.path().join("in/events.jsonl"), records.iter().map(Vec::as_slice));
    let pipeline = load(&files_pipeline(temp.path()), &BTreeMap::new());
    let seen = preview(&pipeline, &BTreeMap::new(), &preview_settings(10_000, &[])).unwrap();
    assert_eq!(seen.tables[0].0, "scored");
    assert_eq!(seen.counts.read, records.len() as u64);
    assert_eq!(seen.counts.rows[0], seen.tables[0].1.num_rows() as u64);
    assert!(!temp.path().join("out").exists() && !temp.path().join("checkpoint").exists());
    let error = preview(&pipeline, &BTreeMap::new(), &preview_settings(1, &["score"])).unwrap_err();
    assert!(error.message().contains("there are: features, scored, out, transactions"), "{error}");
}

fn cases(path: &Path) -> Result<Vec<CaseOutcome>> {
    let reasons = Reason::ALL.map(Reason::as_str);
    let file = CaseFile::load(path, &|_| None, &reasons)?;
    run_cases(&file, &load(&file.pipeline, &BTreeMap::new()), &BTreeMap::new())
}

#[test]
fn the_cases_of_the_fraud_pipeline_hold() {
    let outcomes = cases(&folder("pipelines/fraud.test.yaml")).unwrap();
    assert!(outcomes.len() >= 6);
    for outcome in outcomes {
        assert_eq!(outcome.failures, Vec::<String>::new(), "{}", outcome.name);
    }
}

/// Writes a file of cases beside the pipeline of files, and says what comes of it.
fn told(cases_text: &str) -> String {
    let temp = tempfile::tempdir().unwrap();
    files_pipeline(temp.path());
    let path = temp.path().join("a.test.yaml");
    fs::write(&path, cases_text).unwrap();
    let text = match cases(&path) {
        Ok(outcomes) => outcomes.iter().flat_map(|outcome| outcome.failures.clone()).collect::<Vec<_>>().join("\n"),
        Err(error) => error.to_string(),
    };
    text.replace(&format!("{}/", temp.path().display()), "")
}

#[test]
fn a_case_that_fails_says_where_what_was_expected_and_what_was_found() {
    let text = r#"
pipeline: files.yaml
cases:
  - name: wrong in every way
    input:
      transactions:
        - { transaction_id: a, user_id: 1, amount: 10, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }
        - { transaction_id: b, user_id: 2, amount: 20, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }
        - { transaction_id: c, user_id: 7, amount: 20, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }
        - { transaction_id: d, user_id: 1e3, amount: 20, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }
    expect:
      features:
        - { transaction_id: a, f0: 10.5, f3: 12 }
    rejected:
      - { record: 1, reason: not_json }
      - { record: 4, reason: wrong_type }
"#;
    assert_eq!(
        told(text),
        "a.test.yaml:15:9: record 1 of transactions: expected to be rejected for not_json, but it was accepted\n\
         a.test.yaml:16:9: record 4 of transactions: expected to be rejected for wrong_type, found fractional_number (user_id)\n\
         record 3 of transactions: expected to be accepted, but rejected for sql_error (division by zero in view features)\n\
         a.test.yaml:13:36: features row 1, f0: expected 10.5, found 10.0\n\
         a.test.yaml:12:7: features row 2: expected no row, found {transaction_id: b, f0: 20.0, f3: 12}"
    );
}

#[test]
fn a_case_may_bring_a_model_and_expect_the_rows_of_a_sink() {
    let model = folder("udfs/testdata/one_leaf.txt");
    let text = format!(
        r#"
pipeline: files.yaml
models: {{ fraud: {} }}
cases:
  - name: the one leaf scores everything alike
    input:
      transactions:
        - {{ transaction_id: a, user_id: 1, amount: 10, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }}
        - {{ transaction_id: b, user_id: 1, amount: 2, currency: EUR, timestamp: "2026-03-09T12:00:00Z" }}
    expect:
      out:
        - {{ transaction_id: a, p: 0.5430 }}
    tolerance: 1e-4
"#,
        model.display()
    );
    assert_eq!(told(&text), "");
}

#[test]
fn a_file_of_cases_that_is_wrong_is_told_all_at_once_with_places() {
    let text = r#"
pipeline: files.yaml
model: x
cases:
  - name: a
    inputs: {}
    rejected:
      - { record: 0, reason: bad }
"#;
    let message = told(text);
    for part in [
        "a.test.yaml:3:1: unknown key `model` of the file",
        "a.test.yaml:5:5: missing key `input` of a case",
        "a.test.yaml:6:5: unknown key `inputs` of a case",
        "did you mean `input`?",
        "a.test.yaml:8:30: no record is ever rejected for `bad`",
        "expected the number of a record, found `0`",
    ] {
        assert!(message.contains(part), "{part} is not in\n{message}");
    }
}

#[test]
fn names_that_the_pipeline_does_not_have_are_refused_with_those_that_it_has() {
    let text = r#"
pipeline: files.yaml
models: { froud: m.txt }
cases:
  - name: a
    input: { payments: [] }
    expect: { feature: [] }
"#;
    let message = told(text);
    for part in [
        "a.test.yaml:3:11: the pipeline has no model named `froud`",
        "a.test.yaml:6:14: the pipeline has no source named `payments`",
        "a.test.yaml:7:15: the pipeline has no sink, view or source named `feature`",
        "there are: out, features, scored, transactions",
    ] {
        assert!(message.contains(part), "{part} is not in\n{message}");
    }
}
