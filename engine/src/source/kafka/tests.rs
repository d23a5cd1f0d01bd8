//! The Kafka source against the embedded cluster. What that cluster cannot do (times, transactions, deleted records, new
//! partitions) is tested against a real broker, in `tests/suite/kafka.rs`.

#![expect(clippy::disallowed_methods, reason = "tests wait by the clock")]

use std::collections::BTreeMap;
use std::time::Instant;

use self::worker::{PATIENCE, Worker, numbers, sorted};
use super::embedded::EmbeddedKafka;
use super::*;
use crate::error::ErrorKind;
use crate::pipeline::settings::{DataLossPolicy, KafkaConnection, StartPosition, Until};
use crate::sink::kafka::KafkaWriter;
use crate::types::{RecordBlock, StateUnit};

mod worker;

fn connection(kafka: &EmbeddedKafka) -> KafkaConnection {
    KafkaConnection {
        bootstrap_servers: kafka.bootstrap_servers().to_owned(),
        security_protocol: None,
        sasl_mechanism: None,
        sasl_username: None,
        sasl_password: None,
        ssl_ca_location: None,
        ssl_certificate_location: None,
        ssl_key_location: None,
        options: BTreeMap::new(),
    }
}

fn settings(kafka: &EmbeddedKafka, topics: &[&str]) -> settings::KafkaSource {
    settings::KafkaSource {
        connection: connection(kafka),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        group: "group".to_owned(),
        start: StartPosition::Earliest,
        until: Until::Forever,
        rate_limit: None,
        on_data_loss: DataLossPolicy::Fail,
        metadata_refresh: Duration::from_secs(1),
        partitioner: None,
        trusts_timestamps: false,
    }
}

fn write(kafka: &EmbeddedKafka, topic: &str, values: impl IntoIterator<Item = String>) {
    let mut writer = KafkaWriter::open(&connection(kafka), topic, Duration::ZERO, PATIENCE).unwrap();
    for value in values {
        writer.write(Some(value.as_bytes()), Some(value.as_bytes())).unwrap();
    }
    writer.flush(PATIENCE).unwrap();
}

#[test]
fn each_option_that_the_source_owns_is_refused_in_a_file() {
    let opening = |connection: &KafkaConnection| Opening {
        source: "s".into(),
        settings: settings::KafkaSource {
            connection: connection.clone(),
            topics: vec!["t".to_owned()],
            group: "ours".to_owned(),
            start: StartPosition::Earliest,
            until: Until::Forever,
            rate_limit: None,
            on_data_loss: DataLossPolicy::Fail,
            metadata_refresh: Duration::from_secs(1),
            partitioner: None,
            trusts_timestamps: false,
        },
        membership: Membership::Group,
        max_record_bytes: 1 << 20,
        numbers: AssignmentNumbers::default(),
        waker: Waker::new().0,
        gate: None,
    };
    testing::assert_owned_options_are_refused(|connection| consumer_config(&opening(connection)));
}

#[test]
fn all_records_come_once_and_in_order_of_their_partition() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 4).unwrap();
    kafka.create_topic("b", 1).unwrap();
    write(&kafka, "a", numbers(0, 5000));
    write(&kafka, "b", numbers(5000, 6000));
    let mut worker = Worker::open(settings(&kafka, &["a", "b"]), Membership::Group);
    worker.run_until(|worker| worker.num_records() == 6000);
    assert_eq!(worker.values(), sorted(numbers(0, 6000)));
    for records in worker.records.values() {
        assert!(records.iter().enumerate().all(|(index, record)| index as i64 == record.offset));
    }
    let numbers = ["a", "b", "c"].map(|topic| worker.source.num_partitions(topic));
    assert_eq!(numbers, [Some(4), Some(1), None]);
    let mut progress = worker.source.progress();
    progress.sort_by_key(|progress| progress.assignment);
    assert_eq!(progress.len(), 5);
    assert!(progress.iter().all(|progress| Some(progress.position) == progress.end), "{progress:?}");
    worker.source.close(PATIENCE).unwrap();
}

#[test]
fn a_lone_record_comes_at_once() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 2).unwrap();
    let mut worker = Worker::open(settings(&kafka, &["a"]), Membership::Group);
    worker.run_until(|worker| worker.positions.len() == 2);
    let mut writer = KafkaWriter::open(&connection(&kafka), "a", Duration::ZERO, PATIENCE).unwrap();
    let mut latencies: Vec<Duration> = (0..20)
        .map(|number: i32| {
            std::thread::sleep(Duration::from_millis(30));
            let before = Instant::now();
            writer.write(None, Some(number.to_string().as_bytes())).unwrap();
            worker.run_until(|worker| worker.num_records() as i32 == number + 1);
            before.elapsed()
        })
        .collect();
    latencies.sort();
    // A broker's or the reader's timeout in the way would show as 100 ms and more, every time.
    assert!(latencies[10] < Duration::from_millis(50), "{latencies:?}");
}

#[test]
fn positions_come_from_the_store_first_and_the_settings_after_it() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 1).unwrap();
    kafka.create_topic("b", 1).unwrap();
    write(&kafka, "a", numbers(0, 10));
    write(&kafka, "b", numbers(10, 20));
    let mut latest = settings(&kafka, &["a", "b"]);
    latest.start = StartPosition::Latest;
    let mut worker = Worker::open(latest, Membership::Group);
    worker.store("a", 0, 7);
    worker.run_until(|worker| worker.positions.len() == 2 && worker.num_records() == 3);
    assert_eq!(worker.positions[&("a".to_owned(), 0)].get(), 7);
    assert_eq!(worker.positions[&("b".to_owned(), 0)].get(), 10);
    write(&kafka, "b", numbers(20, 21));
    worker.run_until(|worker| worker.num_records() == 4);
    assert_eq!(worker.values(), sorted(numbers(7, 10).into_iter().chain(numbers(20, 21)).collect()));
}

#[test]
fn explicit_offsets_hold_for_the_partitions_they_name() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 2).unwrap();
    write(&kafka, "a", numbers(0, 100));
    let mut named = settings(&kafka, &["a"]);
    named.start = StartPosition::Offsets(BTreeMap::from([(("a".to_owned(), 1), Offset::new(20).unwrap())]));
    let mut worker = Worker::open(named, Membership::Group);
    worker.run_until(|worker| worker.positions.len() == 2);
    assert_eq!(worker.positions[&("a".to_owned(), 0)], Offset::ZERO);
    assert_eq!(worker.positions[&("a".to_owned(), 1)].get(), 20);
}

#[test]
fn a_bounded_source_ends_at_what_was_there_when_it_opened() {
    for membership in [Membership::Group, Membership::Alone] {
        let kafka = EmbeddedKafka::start().unwrap();
        kafka.create_topic("a", 3).unwrap();
        kafka.create_topic("empty", 2).unwrap();
        write(&kafka, "a", numbers(0, 1000));
        let mut bounded = settings(&kafka, &["a", "empty"]);
        bounded.until = Until::Now;
        let mut worker = Worker::open(bounded, membership);
        worker.run_until(|worker| worker.positions.len() == 5);
        write(&kafka, "a", numbers(1000, 1100));
        worker.run_until(|worker| worker.has_ended);
        assert_eq!(worker.values(), sorted(numbers(0, 1000)), "{membership:?}");
        worker.source.close(PATIENCE).unwrap();
    }
}

#[test]
fn a_missing_topic_is_named() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("transactions", 1).unwrap();
    let mut worker = Worker::open(settings(&kafka, &["transaction"]), Membership::Group);
    let error = worker.failure();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for part in ["source `s`", "no topic `transaction`", "did you mean `transactions`?"] {
        assert!(error.message().contains(part), "{error}");
    }
}

#[test]
fn a_partition_moves_only_when_it_is_released() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 4).unwrap();
    write(&kafka, "a", numbers(0, 400));
    let mut first = Worker::open(settings(&kafka, &["a"]), Membership::Group);
    first.run_until(|worker| worker.num_records() == 400);
    first.releases = false;
    let mut second = Worker::open(settings(&kafka, &["a"]), Membership::Group);
    second.stored = first.stored.clone();
    first.run_until(|worker| worker.events.iter().any(|event| event == "revoked 2"));
    // The group waits for the first; the second has nothing, and nothing of the revoked partitions comes any more.
    let revoked = first.revoked.clone();
    let of_revoked = |worker: &Worker| -> usize {
        let places = revoked.iter().map(|assignment| &worker.units[assignment]);
        places.map(|unit| worker.records[&(unit.topic.to_string(), unit.partition)].len()).sum()
    };
    let before = of_revoked(&first);
    write(&kafka, "a", numbers(400, 800));
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        first.step().unwrap();
        second.step().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(second.units.is_empty(), "{:?}", second.events);
    assert_eq!(of_revoked(&first), before);
    // Give them back; the second goes on where the first was.
    first.release(&revoked).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while first.num_records() + second.num_records() < 800 {
        assert!(Instant::now() < deadline, "{:?} {:?}", first.events, second.events);
        first.step().unwrap();
        second.step().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(second.units.len(), 2);
    let all: Vec<String> = first.values().into_iter().chain(second.values()).collect();
    assert_eq!(sorted(all), sorted(numbers(0, 800)));
    assert_eq!(first.events, ["assigned 4", "revoked 2"]);
    // A member may hear first that it has nothing yet: that makes a worker ready.
    let given: Vec<&String> = second.events.iter().filter(|event| *event != "assigned 0").collect();
    assert_eq!(given, ["assigned 2"]);
}

#[test]
fn a_driver_that_takes_nothing_costs_a_bounded_number_of_blocks_and_loses_nothing() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 2).unwrap();
    let mut worker = Worker::open(settings(&kafka, &["a"]), Membership::Group);
    worker.run_until(|worker| worker.positions.len() == 2);
    // One record a block, so that the channel is full; then silence for longer than a stall.
    for number in 0..40 {
        write(&kafka, "a", numbers(number, number + 1));
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert!(worker.source.events.len() <= BLOCKS_WAITING);
    write(&kafka, "a", numbers(40, 2000));
    worker.run_until(|worker| worker.num_records() == 2000);
    assert_eq!(worker.values(), sorted(numbers(0, 2000)));
    assert_eq!(worker.events, ["assigned 2"]);
}

#[test]
fn a_rate_limit_holds() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 2).unwrap();
    write(&kafka, "a", numbers(0, 2000));
    let mut limited = settings(&kafka, &["a"]);
    limited.rate_limit = Some(500);
    let mut worker = Worker::open(limited, Membership::Group);
    worker.run_until(|worker| worker.num_records() > 0);
    let (began, before) = (Instant::now(), worker.num_records());
    worker.run_until(|worker| worker.num_records() >= before + 500);
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("a", 1).unwrap();
    write(&kafka, "a", numbers(0, 10));
    let mut worker = Worker::open(settings(&kafka, &["a"]), Membership::Group);
    worker.run_until(|worker| worker.num_records() == 10);
    kafka.set_down(true).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        worker.step().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    kafka.set_down(false).unwrap();
    write(&kafka, "a", numbers(10, 20));
    worker.run_until(|worker| worker.num_records() == 20);
    assert_eq!(worker.values(), sorted(numbers(0, 20)));
}

#[test]
fn a_cluster_that_cannot_be_reached_is_waited_for_and_can_be_left() {
    let mut unreachable = settings(&EmbeddedKafka::start().unwrap(), &["a"]);
    unreachable.connection.bootstrap_servers = "127.0.0.1:1".to_owned();
    let mut worker = Worker::open(unreachable, Membership::Group);
    std::thread::sleep(Duration::from_millis(300));
    assert!(worker.source.next_event().unwrap().is_none());
    let began = Instant::now();
    worker.source.close(PATIENCE).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn an_option_of_the_user_is_passed_through_and_the_engines_own_are_not() {
    let kafka = EmbeddedKafka::start().unwrap();
    let mut with_options = settings(&kafka, &["a"]);
    with_options.connection.options.insert("fetch.wait.max.ms".to_owned(), "50".to_owned());
    with_options.connection.options.insert("isolation.level".to_owned(), "read_uncommitted".to_owned());
    let (waker, _) = Waker::new();
    let opening = Opening {
        source: "s".into(),
        settings: with_options.clone(),
        membership: Membership::Group,
        max_record_bytes: 1 << 20,
        numbers: AssignmentNumbers::default(),
        waker,
        gate: None,
    };
    let config = consumer_config(&opening);
    assert_eq!(config.get("fetch.wait.max.ms"), Some("50"));
    assert_eq!(config.get("isolation.level"), Some("read_committed"));
    with_options.connection.options.insert("no.such.option".to_owned(), "1".to_owned());
    let error = KafkaSource::open(Opening { settings: with_options, ..opening }).unwrap_err();
    assert!(error.message().contains("source `s`") && error.message().contains("`no.such.option`"), "{error}");
}
