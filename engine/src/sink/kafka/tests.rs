//! The Kafka sink against the embedded cluster: what comes out, and when it says that it is out.

#![expect(clippy::disallowed_methods, reason = "tests wait by the clock")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
    StructBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;

use super::*;
use crate::error::ErrorKind;
use crate::sink::recorded::tests::numbered_rows;
use crate::source::kafka::embedded::EmbeddedKafka;
use crate::source::kafka::testing;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(kafka: &EmbeddedKafka, topic: &str, key: Option<&str>) -> settings::KafkaSink {
    settings::KafkaSink {
        connection: KafkaConnection {
            bootstrap_servers: kafka.bootstrap_servers().to_owned(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ssl_ca_location: None,
            ssl_certificate_location: None,
            ssl_key_location: None,
            options: BTreeMap::new(),
        },
        topic: topic.to_owned(),
        key: key.map(str::to_owned),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    partition: i32,
}

fn read(kafka: &EmbeddedKafka, topic: &str, count: usize) -> Vec<Read> {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap_servers()).set("group.id", "reader");
    config.set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[topic]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records", records.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.unwrap();
            let headers = message.headers().map_or(vec![], |headers| {
                headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
            });
            records.push(Read {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers,
                partition: message.partition(),
            });
        }
    }
    records
}

fn unit(partition: i32) -> StateUnit {
    StateUnit { source: "s".into(), topic: "in".into(), partition }
}

fn units() -> Units {
    let mut units = Units::default();
    units.insert(Assignment(7), unit(2));
    units
}

fn prepare(sink: &mut KafkaSink, position: i64) {
    let upto = vec![(Assignment(7), Offset::new(position).unwrap(), unit(2))];
    sink.begin_prepare(PrepareRequest { upto, close: vec![] }).unwrap();
}

fn wait_prepared(sink: &mut KafkaSink) -> Vec<PreparedUnit> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(prepared) = sink.poll_prepared().unwrap() {
            return prepared;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn header(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(value.as_bytes().to_vec()))
}

/// `rows` with one more visible column before the hidden ones.
fn with_column(rows: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let visible = num_visible(rows);
    let mut fields: Vec<FieldRef> = rows.schema_ref().fields().iter().cloned().collect();
    let mut columns = rows.columns().to_vec();
    fields.insert(visible, Arc::new(Field::new(name, column.data_type().clone(), true)));
    columns.insert(visible, column);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[test]
fn each_option_that_the_sink_owns_is_refused_in_a_file() {
    testing::assert_owned_options_are_refused(|connection| {
        producer::producer_config(connection, "0", producer::BATCH_BYTES)
    });
}

#[test]
fn a_row_is_a_record_with_its_key_and_where_it_came_from() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("out", 1).unwrap();
    let mut sink = KafkaSink::open(&settings(&kafka, "out", Some("n")), PATIENCE).unwrap();
    let versions: ArrayRef = Arc::new(StringArray::from(vec![Some("fraud/3"), None]));
    sink.write(&with_column(&numbered_rows(Assignment(7), 40..42), MODEL_VERSION_COLUMN, versions), &units()).unwrap();
    sink.close(PATIENCE).unwrap();
    let records = read(&kafka, "out", 2);
    assert_eq!(records[0].key.as_deref(), Some(&b"40"[..]));
    assert_eq!(records[0].value.as_deref(), Some(&br#"{"n":40,"model_version":"fraud/3"}"#[..]));
    let source = |offset| {
        vec![
            header("tidemill-source-topic", "in"),
            header("tidemill-source-partition", "2"),
            header("tidemill-source-offset", offset),
        ]
    };
    let mut with_version = source("40");
    with_version.push(header("tidemill-model-version", "fraud/3"));
    assert_eq!(records[0].headers, with_version);
    assert_eq!(records[1].headers, source("41"));
    let counts = sink.counts();
    assert_eq!((counts.records, counts.acknowledged), (2, 2));
}

#[test]
fn prepared_means_acknowledged_up_to_the_mark_and_no_further() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("out", 4).unwrap();
    let mut sink = KafkaSink::open(&settings(&kafka, "out", Some("n")), PATIENCE).unwrap();
    for round in 0..20 {
        sink.write(&numbered_rows(Assignment(7), round * 500..round * 500 + 300), &units()).unwrap();
        prepare(&mut sink, round * 500 + 300);
        let sent = sink.counts().records;
        sink.write(&numbered_rows(Assignment(7), round * 500 + 300..round * 500 + 500), &units()).unwrap();
        let prepared = wait_prepared(&mut sink);
        assert_eq!((prepared[0].assignment, prepared[0].position.get()), (Assignment(7), round * 500 + 300));
        assert!(sink.counts().acknowledged >= sent, "{:?}", sink.counts());
        assert_eq!(sink.poll_prepared().unwrap(), None);
    }
    sink.close(PATIENCE).unwrap();
    assert_eq!(sink.counts().acknowledged, 10_000);
    assert_eq!(read(&kafka, "out", 10_000).len(), 10_000);
}

#[test]
fn nothing_is_prepared_while_the_cluster_is_away_and_nothing_is_lost() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("out", 1).unwrap();
    let mut sink = KafkaSink::open(&settings(&kafka, "out", None), PATIENCE).unwrap();
    kafka.set_down(true).unwrap();
    sink.write(&numbered_rows(Assignment(7), 0..100), &units()).unwrap();
    prepare(&mut sink, 100);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(sink.poll_prepared().unwrap(), None);
        std::thread::sleep(Duration::from_millis(10));
    }
    let error = sink.close(Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    kafka.set_down(false).unwrap();
    wait_prepared(&mut sink);
    let values: Vec<String> =
        read(&kafka, "out", 100).into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect();
    let expected: Vec<String> = (0..100).map(|number| format!("{{\"n\":{number}}}")).collect();
    assert_eq!(values, expected);
}

#[test]
fn a_cluster_that_does_not_answer_is_named_at_the_start() {
    let kafka = EmbeddedKafka::start().unwrap();
    let mut unreachable = settings(&kafka, "out", None);
    unreachable.connection.bootstrap_servers = "127.0.0.1:1".to_owned();
    let error = KafkaSink::open(&unreachable, Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("topic `out`"), "{error}");
}

#[test]
fn a_record_of_the_writer_is_what_was_given() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("out", 1).unwrap();
    let settings = settings(&kafka, "out", None);
    let mut writer = KafkaWriter::open(&settings.connection, "out", Duration::ZERO, PATIENCE).unwrap();
    writer.write(Some(b"k"), Some(b"")).unwrap();
    writer.write(None, None).unwrap();
    writer.flush(PATIENCE).unwrap();
    let records = read(&kafka, "out", 2);
    assert_eq!((records[0].key.as_deref(), records[0].value.as_deref()), (Some(&b"k"[..]), Some(&b""[..])));
    assert_eq!((&records[1].key, &records[1].value, &records[1].headers), (&None, &None, &vec![]));
}

/// Two dead letters, one as it came in, one whose value was withheld.
fn dead_letters() -> RecordBatch {
    dead_letters_of(b"{broken")
}

fn dead_letters_of(value: &[u8]) -> RecordBatch {
    let header_fields =
        Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
    let item = Arc::new(Field::new("item", DataType::Struct(header_fields.clone()), false));
    let mut headers = ListBuilder::new(StructBuilder::from_fields(header_fields, 2)).with_field(item);
    for (name, value) in [("trace", Some(&b"\xff\x00"[..])), ("none", None), ("trace", Some(b""))] {
        headers.values().field_builder::<StringBuilder>(0).unwrap().append_value(name);
        headers.values().field_builder::<BinaryBuilder>(1).unwrap().append_option(value);
        headers.values().append(true);
    }
    headers.append(true);
    headers.append(true);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("key", Arc::new(BinaryArray::from_opt_vec(vec![Some(&b"\x00key"[..]), None]))),
        ("value", Arc::new(BinaryArray::from_opt_vec(vec![Some(value), None]))),
        ("headers", Arc::new(headers.finish())),
        ("topic", Arc::new(StringArray::from(vec!["in", "in"]))),
        ("partition", Arc::new(Int32Array::from(vec![2, 2]))),
        ("offset", Arc::new(Int64Array::from(vec![5, 6]))),
        ("timestamp", Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_000), None]))),
        ("reason", Arc::new(StringArray::from(vec!["truncated_json", "too_large"]))),
        ("detail", Arc::new(StringArray::from(vec![Some("at byte 7"), None]))),
        ("value_sha256", Arc::new(StringArray::from(vec![None, Some("abc")]))),
        ("value_bytes", Arc::new(Int64Array::from(vec![7, 20_000_000]))),
    ];
    let rows = numbered_rows(Assignment(7), 5..7);
    columns.into_iter().fold(rows, |rows, (name, column)| with_column(&rows, name, column))
}

#[test]
fn a_dead_letter_keeps_its_bytes_and_says_where_it_came_from_and_why() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("dlq", 1).unwrap();
    let mut sink = KafkaSink::open_dead_letter(&settings(&kafka, "dlq", None), PATIENCE).unwrap();
    sink.write(&dead_letters(), &units()).unwrap();
    prepare(&mut sink, 7);
    wait_prepared(&mut sink);
    let records = read(&kafka, "dlq", 2);
    assert_eq!(records[0].key.as_deref(), Some(&b"\x00key"[..]));
    assert_eq!(records[0].value.as_deref(), Some(&b"{broken"[..]));
    assert_eq!(
        records[0].headers,
        [
            ("trace".to_owned(), Some(b"\xff\x00".to_vec())),
            ("none".to_owned(), None),
            ("trace".to_owned(), Some(vec![])),
            header("tidemill-topic", "in"),
            header("tidemill-partition", "2"),
            header("tidemill-offset", "5"),
            header("tidemill-timestamp", "1700000000000"),
            header("tidemill-reason", "truncated_json"),
            header("tidemill-detail", "at byte 7"),
        ]
    );
    assert_eq!((&records[1].key, &records[1].value), (&None, &None));
    assert_eq!(
        records[1].headers,
        [
            header("tidemill-topic", "in"),
            header("tidemill-partition", "2"),
            header("tidemill-offset", "6"),
            header("tidemill-reason", "too_large"),
            header("tidemill-left-out", "value"),
            header("tidemill-value-sha256", "abc"),
            header("tidemill-value-bytes", "20000000"),
        ]
    );
}

#[test]
fn of_a_dead_letter_that_its_topic_would_refuse_the_largest_parts_are_left_out() {
    let batch = dead_letters_of(&[b'x'; 1000]);
    let letters = DeadLetters::of(&batch).unwrap();
    let whole = letters.outgoing(0, usize::MAX);
    let names = |outgoing: &Outgoing<'_>| -> Vec<String> {
        outgoing.headers.as_ref().unwrap().iter().map(|header| header.key.to_owned()).collect()
    };
    let of = |outgoing: &Outgoing<'_>, name: &str| -> Option<String> {
        let headers = outgoing.headers.as_ref().unwrap();
        let found = headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8(found.value.unwrap().to_vec()).unwrap())
    };
    assert!(!names(&whole).contains(&"tidemill-left-out".to_owned()));
    // The limit falls: at some point each part goes, and what says where from and why stays. The key is as short as its
    // mention among what was left out, so that the detail goes with it.
    let mut seen = Vec::new();
    for bytes_max in (0..1500).rev() {
        let outgoing = letters.outgoing(0, bytes_max);
        let left_out = of(&outgoing, "tidemill-left-out").unwrap_or_default();
        let has = |part: &str| left_out.split(',').any(|one| one == part);
        assert_eq!(outgoing.key.is_none(), has("key"), "{left_out}");
        assert_eq!(outgoing.value.is_none(), has("value"), "{left_out}");
        assert_eq!(!names(&outgoing).contains(&"trace".to_owned()), has("headers"), "{left_out}");
        assert_eq!(of(&outgoing, "tidemill-detail").is_none(), has("detail"), "{left_out}");
        assert_eq!(of(&outgoing, "tidemill-value-sha256").is_some(), has("value"), "{left_out}");
        assert_eq!(of(&outgoing, "tidemill-reason").as_deref(), Some("truncated_json"));
        assert_eq!(of(&outgoing, "tidemill-offset").as_deref(), Some("5"));
        if seen.last() != Some(&left_out) {
            seen.push(left_out);
        }
    }
    assert_eq!(seen, ["", "value", "value,headers", "value,headers,key,detail"]);
}
