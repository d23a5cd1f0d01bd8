//! Files as a source: names and order, resuming at any row, blocks, ends, and what is refused.

use std::collections::BTreeMap;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::types::StateUnit;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A Parquet file with the column `n` of the given values, in row groups of ten.
fn parquet_of(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn store_of(runtime: &Runtime, files: &[(&str, &[u8])]) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for (name, bytes) in files {
        runtime.block_on(store.put(&Path::from(*name), PutPayload::from(bytes.to_vec()))).unwrap();
    }
    Arc::new(store)
}

fn location(store: Arc<dyn ObjectStore>, format: FileFormat) -> FilesLocation {
    let path = Path::from("data");
    FilesLocation { source_name: "tx".to_owned(), store, path, format, worker: 0, num_workers: 1 }
}

/// (topic, offset, text or number) of every record and row.
type Seen = Vec<(String, i64, String)>;

/// Runs a source to its end, each file from the stored position if there is one.
fn drain(runtime: &Runtime, location: FilesLocation, stored: &BTreeMap<&str, i64>) -> Result<Seen> {
    let (waker, woken) = Waker::new();
    let mut source = FilesSource::new(location, &AssignmentNumbers::default(), runtime.handle().clone(), waker)?;
    let mut units: BTreeMap<Assignment, StateUnit> = BTreeMap::new();
    let mut seen = Vec::new();
    loop {
        match source.next_event()? {
            Some(SourceEvent::Assigned(assigned)) => {
                let starts: Vec<_> = assigned
                    .iter()
                    .map(|(assignment, unit)| match stored.get(&*unit.topic) {
                        Some(offset) => (*assignment, StartAt::Stored(Offset::new(*offset).unwrap())),
                        None => (*assignment, StartAt::Configured),
                    })
                    .collect();
                units.extend(assigned);
                assert_eq!(source.start(&starts)?.len(), starts.len());
            }
            Some(SourceEvent::Records(block)) => {
                for record in 0..block.len() {
                    let text = String::from_utf8_lossy(block.values.get(record).unwrap()).into_owned();
                    let topic = units[&Assignment(block.units[record])].topic.to_string();
                    assert_eq!((block.timestamps_ms[record], block.keys.get(record)), (-1, None));
                    seen.push((topic, block.offsets[record], text));
                }
            }
            Some(SourceEvent::Rows(rows)) => {
                let values = rows.batch.column(0).as_primitive::<Int64Type>().values().iter();
                for (offset, value) in (rows.first_offset..).zip(values) {
                    seen.push((units[&rows.assignment].topic.to_string(), offset, value.to_string()));
                }
            }
            Some(SourceEvent::End) => break,
            Some(event) => panic!("{event:?}"),
            None => woken.recv_timeout(Duration::from_secs(5)).expect("woken"),
        }
    }
    assert!(source.next_event()?.is_none(), "the end is said once");
    let progress = source.progress();
    assert!(progress.iter().all(|progress| progress.end == Some(progress.position)));
    source.close(Duration::from_secs(5))?;
    Ok(seen)
}

fn seen(rows: &[(&str, i64, &str)]) -> Seen {
    rows.iter().map(|(topic, offset, text)| ((*topic).to_owned(), *offset, (*text).to_owned())).collect()
}

#[test]
fn lines_of_all_files_come_in_the_order_of_names_and_hidden_names_are_left_out() {
    let runtime = runtime();
    let store = store_of(
        &runtime,
        &[
            ("data/b.jsonl", b"{\"b\":1}\n\n  \n{\"b\":2}"),
            ("data/a/z.json", b"{\"a\":1}\r\n"),
            ("data/a.ndjson", b""),
            ("data/_staging/c.jsonl", b"no\n"),
            ("data/.hidden.jsonl", b"no\n"),
            ("data/readme.txt", b"no\n"),
            ("database/d.jsonl", b"no\n"),
        ],
    );
    let all = drain(&runtime, location(store, FileFormat::JsonLines), &BTreeMap::new()).unwrap();
    assert_eq!(all, seen(&[("a/z.json", 0, "{\"a\":1}\r"), ("b.jsonl", 0, "{\"b\":1}"), ("b.jsonl", 3, "{\"b\":2}")]));
}

#[test]
fn parquet_rows_are_resumed_at_any_row() {
    let runtime = runtime();
    let store = store_of(&runtime, &[("data/1.parquet", &parquet_of(0..35)), ("data/2.parquet", &parquet_of([]))]);
    for start in 0..=35 {
        let rows =
            drain(&runtime, location(store.clone(), FileFormat::Parquet), &BTreeMap::from([("1.parquet", start)]));
        let expected: Seen = (start..35).map(|row| ("1.parquet".to_owned(), row, row.to_string())).collect();
        assert_eq!(rows.unwrap(), expected);
    }
}

#[test]
fn a_file_is_a_source_by_itself_whatever_its_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/_export.txt"), "1\n2\n").unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let runtime = runtime();
    let path = Path::from("data/_export.txt");
    let file = FilesLocation { path, ..location(store.clone(), FileFormat::JsonLines) };
    let lines = drain(&runtime, file, &BTreeMap::new()).unwrap();
    assert_eq!(lines, seen(&[("_export.txt", 0, "1"), ("_export.txt", 1, "2")]));

    let error = drain(&runtime, location(store, FileFormat::JsonLines), &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    assert_eq!(
        error.message(),
        "source tx: no file to read at data: expected a file, or a folder with files that end in .jsonl or .ndjson or \
         .json, found 1 others; names that begin with _ or . are left out"
    );
}

#[test]
fn many_blocks_pass_the_bounded_channel_in_order() {
    let runtime = runtime();
    let text: String = (0..50_000).map(|line| format!("{line}\n")).collect();
    let store = store_of(&runtime, &[("data/x.jsonl", text.as_bytes()), ("data/y.jsonl", b"end")]);
    let lines = drain(&runtime, location(store, FileFormat::JsonLines), &BTreeMap::from([("x.jsonl", 3)])).unwrap();
    assert_eq!(lines.len(), 50_001 - 3);
    assert!(
        lines[..lines.len() - 1].iter().zip(3..).all(|(line, number)| line.1 == number && line.2 == number.to_string())
    );
    assert_eq!(lines[lines.len() - 1].2, "end");
}

#[test]
fn workers_share_the_files_and_one_without_any_ends_at_once() {
    let runtime = runtime();
    let store = store_of(&runtime, &[("data/1.jsonl", b"1"), ("data/2.jsonl", b"2"), ("data/3.jsonl", b"3")]);
    let of_worker = |worker: usize, num_workers: usize| {
        let location = FilesLocation { worker, num_workers, ..location(store.clone(), FileFormat::JsonLines) };
        let lines = drain(&runtime, location, &BTreeMap::new()).unwrap();
        lines.into_iter().map(|(_, _, text)| text).collect::<Vec<_>>()
    };
    assert_eq!((of_worker(0, 2), of_worker(1, 2)), (vec!["1".to_owned(), "3".to_owned()], vec!["2".to_owned()]));
    assert!(of_worker(3, 4).is_empty());
}

#[test]
fn a_file_that_became_shorter_or_is_no_parquet_is_an_error_that_names_it() {
    let runtime = runtime();
    let parquet = store_of(&runtime, &[("data/1.parquet", &parquet_of(0..5))]);
    let lines = store_of(&runtime, &[("data/1.jsonl", b"1\n2\n")]);
    for (store, format, name) in
        [(parquet, FileFormat::Parquet, "1.parquet"), (lines, FileFormat::JsonLines, "1.jsonl")]
    {
        let error = drain(&runtime, location(store, format), &BTreeMap::from([(name, 6)])).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data);
        assert!(error.message().starts_with(&format!("file {name} was read up to 6 and now ends at ")), "{error}");
    }
    let garbage = store_of(&runtime, &[("data/1.parquet", b"this is not a Parquet file")]);
    let error = drain(&runtime, location(garbage, FileFormat::Parquet), &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Data);
    assert!(error.message().contains("data/1.parquet is not Parquet"), "{error}");
}

#[test]
fn nothing_comes_of_a_file_before_its_start_or_after_its_release() {
    let runtime = runtime();
    let store = store_of(&runtime, &[("data/1.jsonl", b"1\n"), ("data/2.jsonl", b"2\n")]);
    let (waker, woken) = Waker::new();
    let handle = runtime.handle().clone();
    let location = location(store, FileFormat::JsonLines);
    let mut source = FilesSource::new(location, &AssignmentNumbers::default(), handle, waker).unwrap();
    woken.recv_timeout(Duration::from_secs(5)).unwrap();
    let Some(SourceEvent::Assigned(units)) = source.next_event().unwrap() else { panic!("assigned first") };
    assert!(woken.recv_timeout(Duration::from_millis(50)).is_err());
    assert!(source.next_event().unwrap().is_none());
    assert!(source.progress().is_empty());

    source.start(&[(units[0].0, StartAt::Configured)]).unwrap();
    source.release(&[units[0].0]).unwrap();
    source.start(&[(units[1].0, StartAt::Configured)]).unwrap();
    assert!(source.start(&[(units[0].0, StartAt::Configured)]).unwrap().is_empty(), "it was given back");
    let mut texts = Vec::new();
    loop {
        match source.next_event().unwrap() {
            Some(SourceEvent::Records(block)) => texts.push(block.values.get(0).unwrap().to_vec()),
            Some(SourceEvent::End) => break,
            Some(event) => panic!("{event:?}"),
            None => drop(woken.recv_timeout(Duration::from_secs(5))),
        }
    }
    assert_eq!(texts, [b"2"]);
}

#[test]
fn a_source_that_nobody_reads_closes_in_time() {
    let runtime = runtime();
    let text = "1\n".repeat(100_000);
    let store = store_of(&runtime, &[("data/1.jsonl", text.as_bytes())]);
    let (waker, _woken) = Waker::new();
    let handle = runtime.handle().clone();
    let location = location(store, FileFormat::JsonLines);
    let mut source = FilesSource::new(location, &AssignmentNumbers::default(), handle, waker).unwrap();
    let Some(SourceEvent::Assigned(units)) = source.next_event().unwrap() else { panic!("assigned first") };
    source.start(&[(units[0].0, StartAt::Configured)]).unwrap();
    source.close(Duration::from_secs(5)).unwrap();
}

#[test]
fn all_files_in_order_are_the_same_rows_for_a_replay() {
    let runtime = runtime();
    let store = store_of(&runtime, &[("data/1.parquet", &parquet_of(0..25)), ("data/2.parquet", &parquet_of(25..30))]);
    let numbers = AssignmentNumbers::default();
    let values = runtime.block_on(async {
        let path = Path::from("data");
        let mut files = FilesInOrder::open("tx", store, &path, FileFormat::Parquet, &numbers).await.unwrap();
        let total = files.bytes_waiting();
        let mut values = Vec::new();
        while let Some(block) = files.next().await.unwrap() {
            let FileBlock::Rows(rows) = block else { panic!("Parquet has rows") };
            assert!(files.units().get(rows.assignment).is_some() && files.bytes_waiting() < total);
            values.extend_from_slice(rows.batch.column(0).as_primitive::<Int64Type>().values());
        }
        values
    });
    assert_eq!(values, (0..30).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn lines_do_not_depend_on_how_the_store_cuts_the_file(
        text in "([a-z\u{e9}]{0,6}\r?\n| ){0,20}[a-z]{0,3}",
        pieces in prop::collection::vec(1_usize..7, 1..5),
        start in 0_usize..6,
    ) {
        let all: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
        let num_lines = all.len() - usize::from(all.last().is_some_and(|last| last.is_empty()));
        prop_assume!(start <= num_lines);
        let expected: Vec<(i64, Vec<u8>)> = (0..)
            .zip(&all)
            .skip(start)
            .filter(|(_, line)| !line.trim_ascii().is_empty())
            .map(|(number, line)| (number, line.to_vec()))
            .collect();
        let mut cut = Vec::new();
        let mut rest = text.as_bytes();
        for size in pieces.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            cut.push(Ok(bytes::Bytes::copy_from_slice(piece)));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let start = Offset::new(i64::try_from(start).unwrap()).unwrap();
        let lines = lines::JsonLines::of_pieces(cut, start);
        let found = runtime().block_on(all_lines(lines));
        prop_assert_eq!(found, expected);
    }
}

async fn all_lines(mut lines: lines::JsonLines) -> Vec<(i64, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(block) = lines.next().await.unwrap() {
        for record in 0..block.len() {
            found.push((block.offsets[record], block.values.get(record).unwrap().to_vec()));
        }
    }
    found
}
