//! Replay of what a live run read, from a real S3 server: the same rows, to the byte.

use bytes::Bytes;

use super::bench::{Bench, File, Log, block_on};

#[test]
fn replay_of_the_same_records_from_s3_gives_the_alerts_of_the_live_run_to_the_byte() {
    let bench = Bench::on_s3(1);
    let mut log = Log::new(&bench, 1);
    log.append(0..3_000);
    bench.run(&bench.file());
    let mut live: Vec<Vec<u8>> = bench.alerts().into_iter().filter_map(|alert| alert.value).collect();
    live.sort_unstable();
    assert!(live.len() > 100, "{} alerts show little", live.len());

    let history = format!("{}/history", bench.lake);
    let lines: Vec<u8> = log.records.iter().flat_map(|record| [&record.value[..], b"\n"].concat()).collect();
    let half = lines[..lines.len() / 2].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let folder = bench.stores().open(&history).unwrap();
    block_on(async {
        folder.write("a.jsonl", Bytes::copy_from_slice(&lines[..half])).await.unwrap();
        folder.write("b.jsonl", Bytes::copy_from_slice(&lines[half..])).await.unwrap();
    });
    let name = bench.write(&File { broker: "127.0.0.1:1".to_owned(), ..bench.file() });
    let input = format!("transactions={history}");
    let arguments = ["replay", &name, "--input", &input, "--output", "out", "--sink", "alerts", "--format", "jsonl"];
    let ended = bench.start_with(&arguments).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.stdout.contains(&format!("{} rejected", log.num_rejected())), "{}", ended.stdout);
    let replayed = std::fs::read(bench.folder.path().join("out/alerts.jsonl")).unwrap();
    let mut replayed: Vec<&[u8]> = replayed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    replayed.sort_unstable();
    assert!(replayed == live, "{} alerts came live, {} in replay", live.len(), replayed.len());
}
