//! The Kafka source and sink against a real broker: what the embedded cluster cannot show. Times, transactions, deleted records,
//! new partitions, large records, moves under load, and the group's own view.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests wait by the clock, and end at what is not there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill::pipeline::settings::{self, DataLossPolicy, KafkaConnection, StartPosition, Until};
use tidemill::sink::kafka::{KafkaAdmin, KafkaSink, KafkaWriter};
use tidemill::source::kafka::{KafkaSource, Membership, Opening};
use tidemill::source::{AssignmentNumbers, Source, SourceEvent, StartAt, Waker};
use tidemill::types::{Assignment, Offset, RecordBlock, StateUnit};
use tidemill::{Error, ErrorKind, Result};

use self::worker::{Delivered, PATIENCE, Place, Worker, numbers, sorted};
use crate::harness::{broker, make_topic, unique};

#[path = "../../engine/src/source/kafka/tests/worker.rs"]
mod worker;

fn connection() -> KafkaConnection {
    KafkaConnection {
        bootstrap_servers: broker(),
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

fn settings(topics: &[&str]) -> settings::KafkaSource {
    settings::KafkaSource {
        connection: connection(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        group: unique("group"),
        start: StartPosition::Earliest,
        until: Until::Forever,
        rate_limit: None,
        on_data_loss: DataLossPolicy::Fail,
        metadata_refresh: Duration::from_millis(500),
        partitioner: None,
        trusts_timestamps: false,
    }
}

fn topic(name: &str, partitions: i32) -> String {
    let topic = unique(name);
    make_topic(&topic, partitions);
    topic
}

fn write(topic: &str, values: impl IntoIterator<Item = String>) {
    let mut writer = KafkaWriter::open(&connection(), topic, Duration::ZERO, PATIENCE).unwrap();
    for value in values {
        writer.write(Some(value.as_bytes()), Some(value.as_bytes())).unwrap();
    }
    writer.flush(PATIENCE).unwrap();
}

fn producer(options: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker()).set("message.max.bytes", "20000000");
    for (option, value) in options {
        config.set(*option, *value);
    }
    config.create().unwrap()
}

fn offset(number: i64) -> Offset {
    Offset::new(number).unwrap()
}

#[test]
fn a_time_means_the_first_record_at_or_after_it_and_the_end_when_there_is_none() {
    let topic = topic("times", 2);
    let producer = producer(&[]);
    for number in 0..10_i64 {
        let record =
            BaseRecord::<(), [u8]>::to(&topic).partition(0).payload(b"x").timestamp(1_700_000_000_000 + number * 1000);
        producer.send(record).unwrap();
    }
    producer
        .send(BaseRecord::<(), [u8]>::to(&topic).partition(1).payload(b"old").timestamp(1_600_000_000_000))
        .unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut from_time = settings(&[&topic]);
    from_time.start = StartPosition::Timestamp(1_700_000_003_500);
    let mut worker = Worker::open(from_time, Membership::Group);
    worker.run_until(|worker| worker.num_records() == 6);
    assert_eq!(worker.positions, BTreeMap::from([((topic.clone(), 0), offset(4)), ((topic.clone(), 1), offset(1))]));
    assert_eq!(worker.records[&(topic, 0)][0].timestamp_ms, 1_700_000_004_000);
}

#[test]
fn a_bounded_read_ends_past_control_records_and_has_committed_records_only() {
    let topic = topic("transactions", 2);
    let id = unique("id");
    let producer = producer(&[("transactional.id", &id)]);
    producer.init_transactions(PATIENCE).unwrap();
    let transact = |values: Vec<String>, commits: bool| {
        producer.begin_transaction().unwrap();
        for (index, value) in values.iter().enumerate() {
            producer.send(BaseRecord::<(), str>::to(&topic).partition((index % 2) as i32).payload(value)).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        if commits { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) }.unwrap();
    };
    transact(numbers(0, 10), true);
    transact(numbers(10, 20), false);
    transact(numbers(20, 30), true);
    transact(numbers(30, 40), false);
    let committed = sorted(numbers(0, 10).into_iter().chain(numbers(20, 30)).collect());
    for membership in [Membership::Group, Membership::Alone] {
        let mut bounded = settings(&[&topic]);
        bounded.until = Until::Now;
        let mut worker = Worker::open(bounded, membership);
        worker.run_until(|worker| worker.has_ended);
        assert_eq!(worker.values(), committed, "{membership:?}");
        worker.source.close(PATIENCE).unwrap();
    }
    // Each partition: 5 records and a marker, four times. After the last committed one (16) come its marker, five aborted
    // records and theirs: nothing to read, and the end (24) lies past them.
    let mut after = settings(&[&topic]);
    after.until = Until::Now;
    let mut worker = Worker::open(after, Membership::Group);
    for partition in 0..2 {
        worker.store(&topic, partition, 17);
    }
    worker.run_until(|worker| worker.has_ended);
    assert_eq!(worker.values(), [] as [String; 0]);
}

#[test]
fn an_open_transaction_is_not_waited_for_by_a_bounded_read() {
    let topic = topic("open", 1);
    write(&topic, numbers(0, 5));
    let id = unique("id");
    let producer = producer(&[("transactional.id", &id)]);
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), str>::to(&topic).payload("undecided")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut bounded = settings(&[&topic]);
    bounded.until = Until::Now;
    let mut worker = Worker::open(bounded, Membership::Group);
    worker.run_until(|worker| worker.has_ended);
    assert_eq!(worker.values(), sorted(numbers(0, 5)));
    producer.abort_transaction(PATIENCE).unwrap();
}

/// Runs workers in turns until `done`.
fn run_all(workers: &mut [&mut Worker], done: impl Fn(&[&mut Worker]) -> bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !done(workers) {
        let told =
            || workers.iter().map(|worker| format!("{:?} {}", worker.events, worker.num_records())).collect::<Vec<_>>();
        assert!(Instant::now() < deadline, "{:?}", told());
        let mut is_idle = true;
        for worker in &mut *workers {
            is_idle &= !worker.step().unwrap();
        }
        if is_idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn num_all(workers: &[&mut Worker]) -> usize {
    workers.iter().map(|worker| worker.num_records()).sum()
}

#[test]
fn partitions_move_between_workers_under_load_and_no_record_is_lost_or_read_twice() {
    let topic = topic("moves", 6);
    let is_writing = Arc::new(AtomicBool::new(true));
    let writing = {
        let (topic, is_writing) = (topic.clone(), is_writing.clone());
        std::thread::spawn(move || {
            let mut writer = KafkaWriter::open(&connection(), &topic, Duration::ZERO, PATIENCE).unwrap();
            let mut number = 0;
            while is_writing.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    let value = format!("value {number}");
                    writer.write(Some(value.as_bytes()), Some(value.as_bytes())).unwrap();
                    number += 1;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            writer.flush(PATIENCE).unwrap();
            number
        })
    };
    let numbering = AssignmentNumbers::default();
    let shared = settings(&[&topic]);
    let open = || Worker::numbered(shared.clone(), Membership::Group, numbering.clone());
    let mut first = open();
    run_all(&mut [&mut first], |workers| workers[0].units.len() == 6 && num_all(workers) > 100);
    let mut second = open();
    let mut third = open();
    second.stored = first.stored.clone();
    third.stored = first.stored.clone();
    run_all(&mut [&mut first, &mut second, &mut third], |workers| {
        num_all(workers) > 1000 && workers.iter().all(|worker| worker.units.len() == 2)
    });
    // One leaves in good order; the others take over.
    let held: Vec<Assignment> = second.units.keys().copied().collect();
    second.release(&held).unwrap();
    second.source.close(PATIENCE).unwrap();
    run_all(&mut [&mut first, &mut third], |workers| workers.iter().all(|worker| worker.units.len() == 3));
    is_writing.store(false, Ordering::Relaxed);
    let written: usize = writing.join().unwrap();
    let of_second = second.num_records();
    run_all(&mut [&mut first, &mut third], |workers| num_all(workers) + of_second >= written);
    let all: Vec<String> = [&first, &second, &third].iter().flat_map(|worker| worker.values()).collect();
    assert_eq!(all.len(), written);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), written);
    assert!(first.events.iter().any(|event| event.starts_with("revoked")), "{:?}", first.events);
    assert!(!first.events.iter().chain(&third.events).any(|event| event.starts_with("lost")));
}

#[test]
fn partitions_that_come_while_running_are_read_from_their_beginning_even_under_latest() {
    let topic = topic("grows", 1);
    write(&topic, numbers(0, 10));
    let mut latest = settings(&[&topic]);
    latest.start = StartPosition::Latest;
    let mut worker = Worker::open(latest, Membership::Group);
    worker.run_until(|worker| worker.positions.len() == 1);
    assert_eq!(worker.positions[&(topic.clone(), 0)], offset(10));
    KafkaAdmin::open(&connection()).unwrap().set_num_partitions(&topic, 3).unwrap();
    let producer = producer(&[]);
    for partition in 0..3 {
        // The new partitions may not have a leader yet.
        let deadline = Instant::now() + PATIENCE;
        while producer.send(BaseRecord::<(), str>::to(&topic).partition(partition).payload("new")).is_err() {
            assert!(Instant::now() < deadline);
            producer.poll(Duration::from_millis(100));
        }
    }
    producer.flush(PATIENCE).unwrap();
    worker.run_until(|worker| worker.num_records() == 3);
    assert_eq!(worker.positions[&(topic.clone(), 1)], Offset::ZERO);
    assert_eq!(worker.positions[&(topic, 2)], Offset::ZERO);
}

#[test]
fn a_stored_position_that_is_gone_stops_the_start_or_is_counted_as_the_policy_says() {
    let topic = topic("gone", 1);
    write(&topic, numbers(0, 20));
    KafkaAdmin::open(&connection()).unwrap().delete_records(&topic, 0, offset(12)).unwrap();
    let mut worker = Worker::open(settings(&[&topic]), Membership::Group);
    worker.store(&topic, 0, 5);
    let error = worker.failure();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    for part in [&*format!("s/{topic}/0"), "position 5", "[12, 20)", "on_data_loss"] {
        assert!(error.message().contains(part), "{error}");
    }
    let mut going_on = settings(&[&topic]);
    going_on.on_data_loss = DataLossPolicy::Continue;
    let mut worker = Worker::open(going_on.clone(), Membership::Group);
    worker.store(&topic, 0, 5);
    worker.run_until(|worker| worker.num_records() == 8);
    assert_eq!(worker.events, ["assigned 1", "data lost 5 12"]);
    assert_eq!(worker.positions[&(topic.clone(), 0)], offset(12));
    worker.source.close(PATIENCE).unwrap();
    let mut worker = Worker::open(going_on, Membership::Group);
    worker.store(&topic, 0, 21);
    assert!(worker.failure().message().contains("made anew or truncated"));
}

#[test]
fn records_deleted_under_a_slow_reader_stop_it_or_are_counted_as_the_policy_says() {
    for policy in [DataLossPolicy::Fail, DataLossPolicy::Continue] {
        let topic = topic("deleted", 1);
        let big = "x".repeat(300_000);
        write(&topic, (0..100).map(|_| big.clone()));
        let mut slow = settings(&[&topic]);
        slow.on_data_loss = policy;
        let mut worker = Worker::open(slow, Membership::Group);
        worker.run_until(|worker| worker.num_records() > 0);
        // Nobody takes records: the source stops fetching, and holds a few blocks.
        std::thread::sleep(Duration::from_millis(2500));
        KafkaAdmin::open(&connection()).unwrap().delete_records(&topic, 0, offset(90)).unwrap();
        match policy {
            DataLossPolicy::Fail => {
                let error = worker.failure();
                assert_eq!(error.kind(), ErrorKind::Data, "{error}");
                assert!(error.message().contains("[90, 100)"), "{error}");
            }
            DataLossPolicy::Continue => {
                let place: Place = (topic.clone(), 0);
                worker.run_until(|worker| worker.records[&place].last().is_some_and(|last| last.offset == 99));
                let offsets: Vec<i64> = worker.records[&place].iter().map(|record| record.offset).collect();
                let read = offsets.iter().position(|offset| *offset == 90).unwrap() as i64;
                assert!(read < 90, "nothing was lost: {offsets:?}");
                assert_eq!(offsets, (0..read).chain(90..100).collect::<Vec<_>>());
                assert_eq!(worker.events, ["assigned 1".to_owned(), format!("data lost {read} 90")]);
            }
        }
    }
}

#[test]
fn keys_headers_tombstones_and_large_records_come_as_they_were_written() {
    let topic = topic("bytes", 1);
    let large = vec![b'x'; 10_000_000];
    let producer = producer(&[]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some(&b"\xff\x00"[..]) })
        .insert(Header { key: "none", value: None::<&[u8]> })
        .insert(Header { key: "trace", value: Some(&b""[..]) });
    producer
        .send(BaseRecord::to(&topic).key(&b"\x00k"[..]).payload(&b"\xfe"[..]).headers(headers).timestamp(5))
        .unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).key(b"tombstone")).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).key(b"").payload(b"")).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).payload(&large)).unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).payload(b"after")).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut worker = Worker::open(settings(&[&topic]), Membership::Group);
    worker.run_until(|worker| worker.num_records() == 5);
    let records = &worker.records[&(topic, 0)];
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    assert_eq!(
        records[0],
        Delivered {
            offset: 0,
            timestamp_ms: 5,
            key: Some(b"\x00k".to_vec()),
            value: Some(b"\xfe".to_vec()),
            headers: vec![header("trace", Some(b"\xff\x00")), header("none", None), header("trace", Some(b""))],
        }
    );
    assert_eq!((records[1].key.as_deref(), records[1].value.as_deref()), (Some(&b"tombstone"[..]), None));
    assert_eq!((records[2].key.as_deref(), records[2].value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
    assert_eq!((records[3].key.as_deref(), records[3].value.as_deref()), (None, Some(&*large)));
    assert_eq!(records[4].value.as_deref(), Some(&b"after"[..]));
}

#[test]
fn positions_are_reported_to_the_group_and_lag_is_known() {
    let topic = topic("reports", 1);
    write(&topic, numbers(0, 30));
    let reported = settings(&[&topic]);
    let group = reported.group.clone();
    let mut worker = Worker::open(reported, Membership::Group);
    worker.run_until(|worker| worker.num_records() == 30);
    let progress = worker.source.progress();
    assert_eq!((progress[0].position, progress[0].end), (offset(30), Some(offset(30))));
    worker.source.report(&[(progress[0].assignment, offset(20))]);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker()).set("group.id", &group).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition(&topic, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let committed = consumer.committed_offsets(list.clone(), PATIENCE).unwrap();
        if committed.elements()[0].offset() == rdkafka::Offset::Offset(20) {
            break;
        }
        assert!(Instant::now() < deadline, "{committed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_topic_that_is_not_there_is_named_by_source_and_sink() {
    let missing = unique("missing");
    let mut worker = Worker::open(settings(&[&missing]), Membership::Group);
    let error = worker.failure();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains(&missing), "{error}");
    let sink = settings::KafkaSink { connection: connection(), topic: missing.clone(), key: None };
    let error = KafkaSink::open(&sink, PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains(&missing), "{error}");
}

#[test]
fn a_record_that_the_topic_refuses_is_an_error_that_says_so_and_not_its_content() {
    let topic = unique("small");
    KafkaAdmin::open(&connection()).unwrap().create_topic(&topic, 1, &[("max.message.bytes", "1000")]).unwrap();
    let mut writer = KafkaWriter::open(&connection(), &topic, Duration::ZERO, PATIENCE).unwrap();
    writer.write(None, Some(&b"secret".repeat(1000))).unwrap();
    let error = writer.flush(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.message().contains(&topic) && error.message().contains("6000 bytes"), "{error}");
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn topics_are_created_once_and_counted() {
    let admin = KafkaAdmin::open(&connection()).unwrap();
    let topic = unique("made");
    assert_eq!(admin.num_partitions(&topic).unwrap(), None);
    assert!(admin.create_topic(&topic, 3, &[]).unwrap());
    assert!(!admin.create_topic(&topic, 5, &[]).unwrap());
    assert_eq!(admin.num_partitions(&topic).unwrap(), Some(3));
}

#[test]
fn a_writer_and_a_source_carry_many_records() {
    const NUM_RECORDS: usize = 300_000;
    let topic = topic("many", 4);
    let value = [b'v'; 200];
    let mut writer = KafkaWriter::open(&connection(), &topic, Duration::from_millis(5), PATIENCE).unwrap();
    let began = Instant::now();
    for number in 0..NUM_RECORDS {
        writer.write(Some(&number.to_le_bytes()), Some(&value)).unwrap();
    }
    writer.flush(PATIENCE).unwrap();
    let written = began.elapsed();
    let mut bounded = settings(&[&topic]);
    bounded.until = Until::Now;
    let mut worker = Worker::open(bounded, Membership::Group);
    let began = Instant::now();
    let (mut num_records, mut has_ended) = (0, false);
    while !has_ended {
        match worker.source.next_event().unwrap() {
            Some(SourceEvent::Records(block)) => num_records += block.len(),
            Some(SourceEvent::Assigned(units)) => {
                let starts: Vec<_> = units.iter().map(|(assignment, _)| (*assignment, StartAt::Configured)).collect();
                worker.source.start(&starts).unwrap();
            }
            Some(SourceEvent::End) => has_ended = true,
            Some(other) => panic!("{other:?}"),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
        assert!(began.elapsed() < PATIENCE, "{num_records} records");
    }
    assert_eq!(num_records, NUM_RECORDS);
    let read = began.elapsed();
    // Far below what it does; a stop and go with a broker's waiting times would be far below this.
    assert!(
        written < Duration::from_secs(30) && read < Duration::from_secs(10),
        "written in {written:?}, read in {read:?}"
    );
}

#[test]
fn a_worker_without_partitions_ends_too() {
    let topic = topic("few", 1);
    write(&topic, numbers(0, 50));
    let mut bounded = settings(&[&topic]);
    bounded.until = Until::Now;
    let (mut first, mut second) =
        (Worker::open(bounded.clone(), Membership::Group), Worker::open(bounded, Membership::Group));
    second.stored = first.stored.clone();
    run_all(&mut [&mut first, &mut second], |workers| workers.iter().all(|worker| worker.has_ended));
    let all: Vec<String> = first.values().into_iter().chain(second.values()).collect();
    assert_eq!(sorted(all), sorted(numbers(0, 50)));
}

#[test]
fn a_bounded_worker_waits_for_partitions_that_another_is_slow_to_give_away() {
    let topic = topic("slow", 4);
    write(&topic, numbers(0, 800));
    let mut bounded = settings(&[&topic]);
    (bounded.until, bounded.rate_limit) = (Until::Now, Some(200));
    let numbering = AssignmentNumbers::default();
    let open = || Worker::numbered(bounded.clone(), Membership::Group, numbering.clone());
    let mut first = open();
    first.run_until(|worker| worker.num_records() > 0);
    first.releases = false;
    let mut second = open();
    second.stored = first.stored.clone();
    // Two partitions are to move; the first has read a part of them, and its checkpoint takes long.
    run_all(&mut [&mut first, &mut second], |workers| !workers[0].revoked.is_empty());
    let released_at = Instant::now() + Duration::from_secs(7);
    run_all(&mut [&mut first, &mut second], |_| Instant::now() >= released_at);
    assert!(!second.has_ended, "it left while partitions were on their way to it");
    assert!(!first.has_ended);
    let revoked = std::mem::take(&mut first.revoked);
    first.releases = true;
    first.release(&revoked).unwrap();
    run_all(&mut [&mut first, &mut second], |workers| workers.iter().all(|worker| worker.has_ended));
    let all: Vec<String> = first.values().into_iter().chain(second.values()).collect();
    assert_eq!(sorted(all), sorted(numbers(0, 800)));
}

#[test]
fn a_driver_that_takes_nothing_still_gives_partitions_up_and_can_be_closed() {
    let topic = topic("stalled", 2);
    let big = "x".repeat(300_000);
    write(&topic, (0..100).map(|number| format!("{number} {big}")));
    let shared = settings(&[&topic]);
    let numbering = AssignmentNumbers::default();
    let open = || Worker::numbered(shared.clone(), Membership::Group, numbering.clone());
    let mut first = open();
    first.run_until(|worker| worker.num_records() > 0);
    // The channel is full by now. The second's join must reach the first all the same.
    let mut second = open();
    second.stored = first.stored.clone();
    std::thread::sleep(Duration::from_millis(2500));
    run_all(&mut [&mut first, &mut second], |workers| {
        num_all(workers) == 100 && workers.iter().all(|worker| worker.units.len() == 1)
    });
    let all: Vec<String> = first.values().into_iter().chain(second.values()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 100);
    let mut third = Worker::open(settings(&[&topic]), Membership::Group);
    third.run_until(|worker| worker.num_records() > 0);
    std::thread::sleep(Duration::from_millis(1500));
    let began = Instant::now();
    third.source.close(PATIENCE).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_worker_that_never_releases_loses_its_partitions_after_the_poll_interval() {
    let topic = topic("kept", 2);
    write(&topic, numbers(0, 20));
    let mut impatient = settings(&[&topic]);
    for (option, value) in [("session.timeout.ms", "3000"), ("max.poll.interval.ms", "4000")] {
        impatient.connection.options.insert(option.to_owned(), value.to_owned());
    }
    let mut first = Worker::open(impatient.clone(), Membership::Group);
    first.run_until(|worker| worker.num_records() == 20);
    first.releases = false;
    let mut second = Worker::open(impatient, Membership::Group);
    let deadline = Instant::now() + PATIENCE;
    // Either the group says that the partitions are lost, or the source ends with an error first.
    let has_lost = |worker: &Worker| worker.events.iter().any(|event| event.starts_with("lost"));
    let failure = loop {
        assert!(Instant::now() < deadline, "{:?} {:?}", first.events, second.events);
        second.step().unwrap();
        match first.step() {
            Err(error) => break Some(error),
            Ok(_) if has_lost(&first) => break None,
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if let Some(error) = failure {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("max.poll.interval.ms"), "{error}");
    }
    drop(first);
    second.run_until(|worker| worker.units.len() == 2);
}
