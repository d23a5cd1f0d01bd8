//! Dead letters as Parquet: every rejected record of a run, as it was, with where it came from and why it was rejected.

use std::fs;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{Int32Type, Int64Type};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::harness::{broker, make_topic, parquet_rows, tidemill, unique};

/// A record, and why it is rejected, if it is.
struct Sent {
    partition: i32,
    key: Option<&'static [u8]>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, Option<&'static [u8]>)>,
    reason: Option<&'static str>,
}

fn sent(partition: i32, key: Option<&'static [u8]>, value: Option<&str>, reason: Option<&'static str>) -> Sent {
    Sent { partition, key, value: value.map(|value| value.as_bytes().to_vec()), headers: Vec::new(), reason }
}

/// Good and bad ones in turns; bytes that are no text, nothing at all, and a value above the limit.
fn records() -> Vec<Sent> {
    let good = Some("{\"id\": 1, \"amount\": 1.5}");
    let large = format!("{{\"id\": 1, \"amount\": 1.5, \"note\": \"{}\"}}", "x".repeat(2_000));
    vec![
        sent(0, Some(b"a"), good, None),
        Sent {
            headers: vec![("trace", Some(b"\x00\xff")), ("trace", Some(b"again")), ("nothing", None)],
            ..sent(0, Some(b"b"), Some("{\"id\": 1, \"amount\""), Some("truncated_json"))
        },
        sent(0, None, Some("{\"id\": 1, \"amount\": -1}"), Some("failed_check")),
        Sent { value: Some(b"{\"id\": \xff}".to_vec()), ..sent(1, Some(b"\xfe"), None, Some("invalid_utf8")) },
        sent(1, Some(b"c"), None, Some("tombstone")),
        sent(1, Some(b""), good, None),
        sent(1, Some(b"d"), Some(&large), Some("too_large")),
        sent(1, Some(b"e"), Some("{\"id\": 0, \"amount\": 2}"), Some("sql_error")),
    ]
}

fn produce(topic: &str, records: &[Sent]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    for sent in records {
        let header = |headers: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| {
            headers.insert(Header { key, value: value.map(<[u8]>::to_vec).as_ref() })
        };
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(sent.partition);
        if let Some(key) = sent.key {
            record = record.key(key);
        }
        if let Some(value) = &sent.value {
            record = record.payload(value);
        }
        if !sent.headers.is_empty() {
            record = record.headers(sent.headers.iter().fold(OwnedHeaders::new(), header));
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

fn pipeline(topic: &str) -> String {
    format!(
        r#"
pipeline: buried
sources:
  events:
    connector: kafka
    bootstrap_servers: "{broker}"
    topic: {topic}
    until: now
    columns: {{ id: bigint not null, amount: double not null }}
    check: ["amount >= 0"]
    max_record_bytes: 1KiB
views:
  shares: SELECT id, 100 / id AS share FROM events
sinks:
  archive: {{ connector: parquet, path: lake, select: SELECT * FROM shares }}
dead_letter: {{ connector: parquet, path: dead }}
checkpoint: {{ path: checkpoint }}
http: {{ listen: "off" }}
"#,
        broker = broker(),
    )
}

type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A dead letter: partition, offset, key, value, size of the value, headers, topic, reason.
type Letter = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>, Headers, String, String);

fn expected(topic: &str, records: &[Sent]) -> Vec<Letter> {
    let mut ends = [0, 0];
    let mut letters = Vec::new();
    for sent in records {
        let end = &mut ends[usize::try_from(sent.partition).unwrap()];
        let offset = *end;
        *end += 1;
        let Some(reason) = sent.reason else { continue };
        let headers = sent.headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)));
        letters.push((
            sent.partition,
            offset,
            sent.key.map(<[u8]>::to_vec),
            sent.value.clone().filter(|_| reason != "too_large"),
            sent.value.as_ref().map(|value| i64::try_from(value.len()).unwrap()),
            headers.collect(),
            topic.to_owned(),
            reason.to_owned(),
        ));
    }
    letters
}

fn read(folder: &std::path::Path) -> Vec<Letter> {
    let mut letters = Vec::new();
    for batch in parquet_rows(folder) {
        let bytes = |name: &str, row: usize| {
            let column = batch[name].as_binary::<i32>();
            column.is_valid(row).then(|| column.value(row).to_vec())
        };
        let text = |name: &str, row: usize| batch[name].as_string::<i32>().value(row).to_owned();
        let sizes = batch["value_bytes"].as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let headers = batch["headers"].as_list::<i32>().value(row);
            let (names, values) =
                (headers.as_struct().column(0).as_string::<i32>(), headers.as_struct().column(1).as_binary::<i32>());
            let headers = (0..names.len()).map(|header| {
                let value = values.is_valid(header).then(|| values.value(header).to_vec());
                (names.value(header).to_owned(), value)
            });
            letters.push((
                batch["partition"].as_primitive::<Int32Type>().value(row),
                batch["offset"].as_primitive::<Int64Type>().value(row),
                bytes("key", row),
                bytes("value", row),
                sizes.is_valid(row).then(|| sizes.value(row)),
                headers.collect(),
                text("topic", row),
                text("reason", row),
            ));
            assert_eq!(batch["value_sha256"].is_valid(row), text("reason", row) == "too_large");
            assert!(batch["timestamp"].is_valid(row));
        }
    }
    letters.sort();
    letters
}

#[test]
fn dead_letters_in_parquet_are_the_rejected_records_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let topic = unique("buried");
    make_topic(&topic, 2);
    let records = records();
    produce(&topic, &records);
    fs::write(folder.path().join("buried.yaml"), pipeline(&topic)).unwrap();
    let ended = tidemill(folder.path(), &["run", "buried.yaml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(read(&folder.path().join("dead")), expected(&topic, &records));
    let archived: usize = parquet_rows(&folder.path().join("lake")).iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(archived, records.iter().filter(|record| record.reason.is_none()).count());
    // Nothing is buried twice by a run that has nothing to do.
    assert_eq!(tidemill(folder.path(), &["run", "buried.yaml"]).code, Some(0));
    assert_eq!(read(&folder.path().join("dead")), expected(&topic, &records));
}
