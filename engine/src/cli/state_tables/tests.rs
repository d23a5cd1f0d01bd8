//! Tests of the state as tables: keys by name, deltas applied, and nothing but reading.

use super::*;
use crate::checkpoint::state::{Part, write_snapshot};
use crate::checkpoint::testing::{AnyStore, InMemory, StorePath};
use arrow::array::Int64Array;

fn unit() -> StateUnit {
    StateUnit { source: "events".into(), topic: "t".into(), partition: 4 }
}

fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter(columns.iter().map(|(name, column)| (*name, Arc::clone(column)))).unwrap()
}

/// A part whose keys have the given retained amounts, in one piece per key.
async fn part(folder: &Folder, name: &str, keys: &[(&str, &[i64])]) -> OperatorState {
    let (sender, receiver) = channel(1);
    let keys: Vec<(String, Vec<i64>)> = keys.iter().map(|(key, rows)| ((*key).to_owned(), rows.to_vec())).collect();
    let feed = async move {
        let meta = Some(batch(&[("version", Arc::new(Int64Array::from(vec![1])))]));
        let operator = Part::Operator { name: "f.1".into(), fingerprint: "x".into(), keys: vec!["user".into()], meta };
        sender.send(operator).await.unwrap();
        for (number, (key, amounts)) in keys.into_iter().enumerate() {
            let number = number as u64;
            let slots = batch(&[
                ("key", Arc::new(UInt64Array::from(vec![number]))),
                ("key_0", Arc::new(StringArray::from(vec![key]))),
            ]);
            let rows = batch(&[
                ("key", Arc::new(UInt64Array::from(vec![number; amounts.len()]))),
                ("event_time", Arc::new(Int64Array::from(vec![1_000_000; amounts.len()]))),
                ("argument_0", Arc::new(Int64Array::from(amounts))),
            ]);
            sender.send(Part::Piece(slots, rows)).await.unwrap();
        }
        sender.send(Part::End).await.unwrap();
    };
    let place = format!("units/events/t/4/state/{name}");
    let (written, ()) = tokio::join!(write_snapshot(folder.clone(), place, receiver), feed);
    written.unwrap().unwrap().remove("f.1").unwrap()
}

async fn tables() -> StateTables {
    let store: Arc<dyn AnyStore> = Arc::new(InMemory::new());
    let folder = Folder::new(store, StorePath::from("c"), "memory://c".into());
    let full = part(&folder, "1", &[("ann", &[1, 2]), ("bob", &[3]), ("eve", &[])]).await;
    let delta = part(&folder, "2", &[("bob", &[30, 31])]).await;
    let newest = part(&folder, "3", &[("bob", &[300]), ("zoe", &[9])]).await;
    StateTables { folder, operators: BTreeMap::from([("f.1".to_owned(), vec![(unit(), vec![full, delta, newest])])]) }
}

#[tokio::test]
async fn a_query_sees_the_newest_state_of_each_key_by_the_names_of_the_sql() {
    let tables = tables().await;
    let text =
        tables.query("SELECT partition, \"user\", event_time, argument_0 FROM f_1_rows ORDER BY argument_0").await;
    let expected = "\
+-----------+------+----------------------+------------+
| partition | user | event_time           | argument_0 |
+-----------+------+----------------------+------------+
| 4         | ann  | 1970-01-01T00:00:01Z | 1          |
| 4         | ann  | 1970-01-01T00:00:01Z | 2          |
| 4         | zoe  | 1970-01-01T00:00:01Z | 9          |
| 4         | bob  | 1970-01-01T00:00:01Z | 300        |
+-----------+------+----------------------+------------+";
    assert_eq!(text.unwrap(), expected);
    let text = tables.query("SELECT count(*) AS n, min(\"user\") AS first FROM f_1_slots").await.unwrap();
    assert!(text.contains("| 4 | ann   |"), "{text}");
}

#[tokio::test]
async fn what_is_no_select_is_refused_with_the_tables_there_are() {
    let tables = tables().await;
    for sql in ["DROP TABLE f_1_rows", "SELECT * FROM nowhere", "COPY f_1_rows TO '/tmp/x'"] {
        let error = tables.query(sql).await.unwrap_err();
        assert!(error.to_string().contains("f_1_slots, f_1_rows"), "{sql}: {error}");
    }
    let list = tables.list().await.unwrap();
    assert!(
        list.contains(
            "f_1_rows  (1 units, up to 7 rows)\n  source Utf8, topic Utf8, partition Int32, user Utf8, event_time"
        ),
        "{list}"
    );
}
