//! Dead letters on a topic that takes less than the input has: they are cut, and nothing stops.

use tidemill::checkpoint::sha256_hex;

use super::bench::{Bench, number};
use super::live::admin;
use crate::harness::{consume_all, produce, unique};

#[test]
fn a_dead_letter_that_is_too_large_for_its_topic_is_sent_without_what_is_too_large() {
    let mut bench = Bench::new(1);
    bench.dead_letters = unique("small");
    admin().create_topic(&bench.dead_letters, 1, &[("max.message.bytes", "1000")]).unwrap();
    let good = |id: i64| format!("{{\"id\": {id}, \"amount\": 1.0}}");
    let large = format!("{{\"id\": 100, \"note\": \"{}", "x".repeat(5_000));
    let key = "k".repeat(3_000);
    let mut records: Vec<(String, String)> = (0..100).map(|id| (id.to_string(), good(id))).collect();
    records.push(("large".to_owned(), large.clone()));
    records.push((key, "no json".to_owned()));
    // Small ones, of which a batch would be too large.
    records.extend((0..50).map(|id| (id.to_string(), format!("bad {id}"))));
    records.extend((100..200).map(|id| (id.to_string(), good(id))));
    produce(&bench.input, records.iter().map(|(key, value)| (0, key.as_str(), value.as_bytes())));
    let file = bench.file();
    bench.run(&file);

    let ids: Vec<i64> = bench.archive().into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());
    let letters = consume_all(&bench.dead_letters);
    assert_eq!(
        letters.iter().map(|letter| number(letter, "tidemill-offset")).collect::<Vec<_>>(),
        (100..152).collect::<Vec<_>>()
    );
    let header = |index: usize, name: &str| {
        letters[index].headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    assert_eq!((letters[0].value.as_ref(), letters[0].key.as_deref()), (None, Some(&b"large"[..])));
    assert_eq!(header(0, "tidemill-reason").as_deref(), Some("truncated_json"));
    assert_eq!(header(0, "tidemill-left-out").as_deref(), Some("value"));
    assert_eq!(header(0, "tidemill-value-sha256"), Some(sha256_hex(large.as_bytes())));
    assert_eq!(number(&letters[0], "tidemill-value-bytes"), large.len() as i64);
    assert_eq!((letters[1].value.as_deref(), letters[1].key.as_ref()), (Some(&b"no json"[..]), None));
    assert_eq!(header(1, "tidemill-left-out").as_deref(), Some("key"));
    assert_eq!((letters[2].value.as_deref(), header(2, "tidemill-left-out")), (Some(&b"bad 0"[..]), None));
    // Nothing is left that would stop the next start.
    bench.run(&file);
}
