//! Replay of what a live run read, from a real S3 server: the same rows, to the byte.

use bytes::Bytes;

use super::bench::{Bench, File, Log, block_on};
use crate::harness::{broker, produce};

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

/// A pipeline file of its own: an archive, and the scores with the threshold and the model that gave them.
fn scored_file(bench: &Bench, model: &str, threshold: &str) -> String {
    let text = format!(
        "pipeline: scored\n\
         sources:\n  transactions:\n    connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {topic}\n    until: now\n    \
         partitioned_by: [id]\n    event_time: at\n    max_future_skew: 1h\n    \
         columns: {{ id: bigint not null, amount: double not null, f1: double, f2: double, f3: double, at: epoch_ms not null }}\n\
         models:\n  fraud: {{ uri: {model}, threshold: {threshold} }}\n\
         views:\n  features: SELECT id, amount AS f0, f1, f2, f3 FROM transactions\n  scored: |\n    \
         SELECT id, score('fraud', f0, f1, f2, f3) AS p, threshold('fraud') AS t, model_version('fraud') AS v FROM features\n\
         sinks:\n  \
         archive: {{ connector: parquet, path: \"{lake}/all\", positions: true, select: SELECT * FROM transactions }}\n  \
         scores: {{ connector: parquet, path: \"{lake}/scores\", positions: true, select: SELECT * FROM scored }}\n\
         checkpoint: {{ path: \"{checkpoint}\", interval: 100ms }}\ndelivery: exactly_once\nhttp: {{ listen: \"off\" }}\n",
        broker = broker(),
        topic = bench.input,
        lake = bench.lake,
        checkpoint = bench.checkpoint,
    );
    let name = format!("scored-{}.yaml", threshold.replace('.', "-"));
    std::fs::write(bench.folder.path().join(&name), text).unwrap();
    name
}

#[test]
fn replay_gives_each_row_the_model_and_the_threshold_that_served_it() {
    let bench = Bench::new(2);
    let folder = bench.folder.path().to_owned();
    let first = std::fs::read_to_string(folder.join("model.txt")).unwrap();
    // Another model with the same features: its last tree is left out.
    let trees: Vec<usize> = first.match_indices("\nTree=").map(|(at, _)| at).collect();
    let (last, end) = (*trees.last().unwrap(), first.find("\nend of trees").unwrap());
    let second = format!("{}{}", &first[..last], &first[end..]);
    let sizes = second.lines().find(|line| line.starts_with("tree_sizes=")).unwrap();
    let second = second.replace(sizes, sizes.rsplit_once(' ').unwrap().0);
    std::fs::write(folder.join("second.txt"), second).unwrap();
    let send = |ids: std::ops::Range<i64>| {
        let at = |id: i64| 1_700_000_000_000 + id;
        let record = |id: i64| {
            let part = |step: i64| (id * step % 97) as f64 / 9.7;
            format!(
                "{{\"id\":{id},\"amount\":{},\"f1\":{},\"f2\":{},\"f3\":{},\"at\":{}}}",
                part(7),
                part(11),
                part(13),
                part(17),
                at(id)
            )
        };
        let records: Vec<(i32, String, String)> = ids.map(|id| ((id % 2) as i32, id.to_string(), record(id))).collect();
        produce(
            &bench.input,
            records.iter().map(|(partition, key, value)| (*partition, key.as_str(), value.as_bytes())),
        );
    };
    for (model, threshold, ids) in
        [("model.txt", "0.625", 0..700), ("second.txt", "0.1", 700..1500), ("model.txt", "0.5", 1500..2000)]
    {
        send(ids);
        let ended = bench.start_with(&["run", &scored_file(&bench, model, threshold)]).wait();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }
    let file = scored_file(&bench, "model.txt", "0.5");
    let (input, there) = (format!("transactions={}/all", bench.lake), format!("scores={}/scores", bench.lake));
    let replay = |more: &[&str]| {
        let arguments =
            ["replay", &file, "--input", &input, "--output", "out", "--sink", "scores", "--compare", &there];
        bench.start_with(&[&arguments[..], more].concat()).wait()
    };
    let ended = replay(&["--models-of", &bench.checkpoint, "--workers", "2"]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.log);
    assert!(ended.stdout.contains("2000 rows here, 2000 there"), "{}", ended.stdout);
    let ended = replay(&[]);
    assert_eq!(ended.code, Some(65), "without the schedule all rows have the model of today:\n{}", ended.stdout);
    let ended = replay(&["--models-of", &bench.checkpoint, "--order", "event-time"]);
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains("--models-of"), "{}", ended.log);
}
