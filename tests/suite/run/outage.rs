//! Services that go away and come back, a process that is stopped and goes on, and a pipeline that has no checkpoint: rows go on
//! where they can, nothing is lost, and nothing is burnt.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::bench::{Bench, File, Log, address, get, published, status, variable, wait_until, wait_until_published};
use crate::harness::{Process, broker, make_topic, unique};

/// A way to a server that can be cut.
pub(super) struct Way {
    pub(super) address: String,
    is_open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    pub(super) fn to(server: &str) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let way = Way { address, is_open: Arc::new(AtomicBool::new(true)), streams: Arc::default() };
        let (server, is_open, streams) = (server.to_owned(), Arc::clone(&way.is_open), Arc::clone(&way.streams));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        copy(&mut from, &mut to).ok();
                        to.shutdown(Shutdown::Write).ok();
                    });
                }
                streams.lock().unwrap().extend([near, far]);
            }
        });
        way
    }

    pub(super) fn cut(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub(super) fn mend(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

#[test]
fn while_the_store_is_away_alerts_go_on_and_checkpoints_follow_when_it_is_back() {
    let mut bench = Bench::on_s3(2);
    let endpoint = variable("TIDEMILL_TEST_S3_ENDPOINT");
    let way = Way::to(endpoint.trim_start_matches("http://").trim_end_matches('/'));
    bench.set("AWS_ENDPOINT_URL", &format!("http://{}", way.address));
    let mut log = Log::new(&bench, 2);
    log.append(0..2_000);
    let mut process = bench.start(&File { until: "forever", http: "127.0.0.1:0", ..bench.file() });
    let address = address(&process);
    wait_until_published(&process, &address, 2, 2_000);
    let num_before = bench.alerts().len();
    way.cut();
    log.append(2_000..4_000);
    wait_until("alerts go on", &process, || log.num_alerts() == bench.alerts().len());
    assert!(bench.alerts().len() > num_before);
    assert!(published(&status(&address)).values().sum::<i64>() < 4_000, "it cannot have published");
    // Longer than a client's own attempts.
    std::thread::sleep(Duration::from_secs(12));
    assert!(process.is_running(), "{}", process.log());
    way.mend();
    wait_until_published(&process, &address, 2, 4_000);
    assert_eq!(process.terminate().code, Some(0));
    log.check_all(&bench, false);
}

#[test]
fn a_process_that_slept_through_its_session_publishes_nothing_over_its_successor() {
    let bench = Bench::new(4);
    let mut log = Log::new(&bench, 4);
    log.append(0..6_000);
    let file = File { until: "forever", http: "127.0.0.1:0", source: vec!["rate_limit: 1000"], ..bench.file() };
    let first = bench.start(&file);
    first.wait_for_log("partition taken over");
    let second = bench.start(&file);
    let second_address = address(&second);
    wait_until("both have partitions", &second, || published(&status(&second_address)).len() == 2);
    // In the middle of its records, and for longer than its session.
    first.signal("STOP");
    wait_until_published(&second, &second_address, 4, 6_000);
    first.signal("CONT");
    log.append(6_000..7_000);
    // It may go on as a member, or end because others have its claims; it may not go on as if nothing had happened.
    let ended = first.terminate();
    assert!(matches!(ended.code, Some(0 | 76)), "{:?}\n{}", ended.code, ended.log);
    wait_until_published(&second, &second_address, 4, 7_000);
    assert_eq!(second.terminate().code, Some(0));
    log.check_all(&bench, true);
}

/// A pipeline of its own, without a checkpoint.
fn without_checkpoint(bench: &Bench, workers: usize) -> String {
    let text = format!(
        "pipeline: unsaved\nsources:\n  t:\n    connector: kafka\n    bootstrap_servers: \"{}\"\n    topic: {}\n    \
         columns: {{ id: bigint not null, amount: double not null }}\nsinks:\n  out: {{ connector: console, select: SELECT id FROM t }}\n\
         dead_letter: {{ connector: kafka, bootstrap_servers: \"{}\", topic: {} }}\n\
         run: {{ workers: {workers} }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n",
        broker(),
        bench.input,
        broker(),
        bench.dead_letters,
    );
    let name = format!("{}.yaml", unique("unsaved"));
    std::fs::write(bench.folder.path().join(&name), text).unwrap();
    name
}

#[test]
fn without_a_checkpoint_one_worker_reads_alone_and_sleeps_when_there_is_nothing() {
    let bench = Bench::new(2);
    let mut log = Log::new(&bench, 2);
    log.append(0..1_000);
    let process = bench.start_with(&["run", &without_checkpoint(&bench, 1)]);
    let address = address(&process);
    let read = || status(&address)["workers"][0]["sources"]["t"]["read"].as_u64();
    wait_until("all is read", &process, || read() == Some(1_000));
    // Another one reads everything again: it shares nothing with the first.
    let other = bench.start_with(&["run", &without_checkpoint(&bench, 1)]);
    let other_address = self::address(&other);
    wait_until("all is read again", &other, || {
        status(&other_address)["workers"][0]["sources"]["t"]["read"].as_u64() == Some(1_000)
    });
    let before = process.cpu_seconds();
    std::thread::sleep(Duration::from_secs(3));
    let used = process.cpu_seconds() - before;
    assert!(used < 1.0, "it used {used} s of CPU in 3 s without a record");
    assert_eq!(read(), Some(1_000));
    assert_eq!((process.terminate().code, other.terminate().code), (Some(0), Some(0)));
    let name = without_checkpoint(&bench, 2);
    for command in ["check", "run"] {
        let ended = bench.start_with(&[command, &name]).wait();
        assert_eq!(ended.code, Some(78), "{}", ended.log);
        assert!(ended.log.contains("`checkpoint`") && ended.log.contains("found 2"), "{}", ended.log);
    }
}

#[test]
fn an_epoch_has_at_most_max_batch_rows() {
    let bench = Bench::new(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..3_000);
    let file = File { until: "forever", http: "127.0.0.1:0", max_batch_rows: 64, ..bench.file() };
    let process = bench.start(&file);
    let address = address(&process);
    wait_until_published(&process, &address, 1, 3_000);
    let page = get(&address, "/metrics").1;
    let sample = |name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(sample("tidemill_epoch_rows_sum"), 3_000.0);
    assert!(sample("tidemill_epoch_rows_count") >= 3_000.0 / 64.0);
    assert_eq!(
        sample("tidemill_epoch_rows_bucket{worker=\"0\",le=\"64\"}"),
        sample("tidemill_epoch_rows_count"),
        "an epoch had more than 64 records"
    );
    assert_eq!(process.terminate().code, Some(0));
    log.check_all(&bench, false);
}

#[test]
fn the_lag_behind_a_transaction_is_nothing() {
    let mut bench = Bench::new(1);
    bench.input = unique("transactional");
    make_topic(&bench.input, 1);
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker()).set("transactional.id", unique("id")).create().unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    let send = |ids: std::ops::Range<i64>| {
        for id in ids {
            let value = format!("{{\"id\": {id}, \"amount\": 1.0}}");
            producer.send(BaseRecord::<(), str>::to(&bench.input).payload(&value)).unwrap();
        }
        producer.flush(patience).unwrap();
    };
    for is_committed in [true, false] {
        producer.begin_transaction().unwrap();
        send(0..10);
        if is_committed {
            producer.commit_transaction(patience).unwrap();
        } else {
            producer.abort_transaction(patience).unwrap();
        }
    }
    let process: Process = bench.start(&File { until: "forever", http: "127.0.0.1:0", ..bench.file() });
    let address = address(&process);
    wait_until("all is read, and nothing is behind", &process, || {
        let worker = &status(&address)["workers"][0];
        worker["sources"]["transactions"]["read"] == 10 && worker["partitions"][0]["lag"] == 0
    });
    assert_eq!(process.terminate().code, Some(0));
}
