//! Tests of the files of state: what is written is read back, piece by piece, and damage of any byte is found and named.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::sync::mpsc::channel;

use super::*;
use crate::error::ErrorKind;

fn batch(name: &str, values: &[i64]) -> RecordBatch {
    let texts = StringArray::from_iter_values(values.iter().map(|value| format!("text {value}")));
    let columns: [(&str, ArrayRef); 2] =
        [(name, Arc::new(Int64Array::from(values.to_vec()))), ("text", Arc::new(texts))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn folder(store: &Arc<InMemory>) -> Folder {
    Folder::new(Arc::clone(store) as Arc<dyn ObjectStore>, Path::from("c"), "memory://c".into())
}

/// Two pieces of one operator, nothing of a second, and a third without a piece.
async fn written(store: &Arc<InMemory>) -> BTreeMap<String, OperatorState> {
    let (sender, receiver) = channel(1);
    let writer = write_snapshot(folder(store), "units/s/t/0/state/5-g1-x".into(), receiver);
    let feed = async move {
        let operator = |name: &str, meta| Part::Operator {
            name: name.into(),
            fingerprint: "f".into(),
            keys: vec!["k".into()],
            meta,
        };
        sender.send(operator("a.1", Some(batch("version", &[1])))).await.unwrap();
        sender.send(Part::Piece(batch("key", &[0, 1]), batch("time", &[10, 11, 12]))).await.unwrap();
        sender.send(Part::Piece(batch("key", &[2]), batch("time", &[]))).await.unwrap();
        sender.send(operator("b.1", None)).await.unwrap();
        sender.send(operator("c.1", Some(batch("version", &[1])))).await.unwrap();
        sender.send(Part::End).await.unwrap();
    };
    let (written, ()) = tokio::join!(writer, feed);
    written.unwrap().unwrap()
}

async fn read(store: &Arc<InMemory>, state: &OperatorState) -> Result<Vec<ReadPart>> {
    let (sender, mut receiver) = channel(1);
    let collect = async move {
        let mut parts = Vec::new();
        while let Some(part) = receiver.recv().await {
            parts.push(part);
        }
        parts
    };
    let (result, parts) = tokio::join!(read_state(folder(store), state.clone(), sender), collect);
    result.map(|()| parts)
}

#[tokio::test]
async fn what_is_written_is_read_back_in_the_same_pieces() {
    let store = Arc::new(InMemory::new());
    let operators = written(&store).await;
    assert_eq!(operators["b.1"].files, []);
    let parts = read(&store, &operators["a.1"]).await.unwrap();
    let [ReadPart::Meta(meta), ReadPart::Piece(slots, rows), ReadPart::Piece(more_slots, more_rows)] = &parts[..]
    else {
        panic!("{parts:?}")
    };
    assert_eq!(*meta, batch("version", &[1]));
    assert_eq!((slots, rows), (&batch("key", &[0, 1]), &batch("time", &[10, 11, 12])));
    assert_eq!((more_slots, more_rows), (&batch("key", &[2]), &batch("time", &[])));
    assert_eq!(operators["a.1"].file(StateTable::Rows).unwrap().rows, 3);
    assert!(matches!(&read(&store, &operators["c.1"]).await.unwrap()[..], [ReadPart::Meta(_)]));
}

#[tokio::test]
async fn the_files_are_arrow_files_that_any_reader_reads() {
    let store = Arc::new(InMemory::new());
    let operators = written(&store).await;
    for file in operators.values().flat_map(|operator| &operator.files).filter(|file| file.batches > 0) {
        let bytes = folder(&store).read(&file.path, 1 << 20).await.unwrap().unwrap();
        let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
        let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows as u64, file.rows, "{}", file.path);
    }
}

#[tokio::test]
async fn a_file_with_any_byte_changed_is_named() {
    let store = Arc::new(InMemory::new());
    let operators = written(&store).await;
    for file in &operators["a.1"].files {
        let path = Path::from(format!("c/{}", file.path));
        let good = folder(&store).read(&file.path, 1 << 20).await.unwrap().unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..good.len())
            .step_by(7)
            .map(|at| {
                let mut bytes = good.to_vec();
                bytes[at] ^= 0x41;
                bytes
            })
            .collect();
        damaged.push(good[..good.len() / 2].to_vec());
        damaged.push([&good[..], b"x"].concat());
        damaged.push(Vec::new());
        for bytes in damaged {
            store.put(&path, PutPayload::from(bytes)).await.unwrap();
            let error = read(&store, &operators["a.1"]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data, "{error}");
            assert!(
                error.to_string().contains(&file.path) && error.to_string().contains("--backfill log-all"),
                "{error}"
            );
        }
        store.delete(&path).await.unwrap();
        let error = read(&store, &operators["a.1"]).await.unwrap_err();
        assert!(error.to_string().contains("no such object"), "{error}");
        store.put(&path, PutPayload::from_bytes(good)).await.unwrap();
    }
    read(&store, &operators["a.1"]).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_is_not_ended_is_given_up() {
    let (sender, receiver) = channel(1);
    let store = Arc::new(InMemory::new());
    let writer = write_snapshot(folder(&store), "units/s/t/0/state/5-g1-x".into(), receiver);
    let feed = async move {
        let operator = Part::Operator {
            name: "a.1".into(),
            fingerprint: "f".into(),
            keys: Vec::new(),
            meta: Some(batch("version", &[1])),
        };
        sender.send(operator).await.unwrap();
        sender.send(Part::Piece(batch("key", &[0]), batch("time", &[10]))).await.unwrap();
    };
    let (written, ()) = tokio::join!(writer, feed);
    assert!(written.unwrap().is_none());
}
