//! Files as a source on a real S3 server: listed, read to their end, resumed at a row, and decoded.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use tidemill::decode::{Decoder, NoChecks};
use tidemill::pipeline::settings::{
    Column, ColumnType, FileFormat, FilesSource as Files, Source as Settings, SourceConnector,
};
use tidemill::source::files::{FilesLocation, FilesSource};
use tidemill::source::{AssignmentNumbers, Source, SourceEvent, StartAt, Waker};
use tidemill::types::{Hidden, Offset, Units};

fn variable(name: &str) -> String {
    let value = std::env::vars().find(|(found, _)| found == name).map(|(_, value)| value);
    value.unwrap_or_else(|| panic!("this test needs a real S3 server: run `make test`, or set {name}"))
}

fn store() -> Arc<dyn ObjectStore> {
    let store = AmazonS3Builder::new()
        .with_endpoint(variable("TIDEMILL_TEST_S3_ENDPOINT"))
        .with_bucket_name(variable("TIDEMILL_TEST_S3_BUCKET"))
        .with_access_key_id(variable("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(variable("AWS_SECRET_ACCESS_KEY"))
        .with_region("us-east-1")
        .with_allow_http(true);
    Arc::new(store.build().unwrap())
}

fn settings(format: FileFormat) -> Settings {
    Settings {
        name: "numbers".to_owned(),
        connector: SourceConnector::Files(Files { path: "s3://unused".to_owned(), format }),
        columns: vec![Column { name: "n".to_owned(), column_type: ColumnType::Int64, is_nullable: false }],
        metadata: Vec::new(),
        checks: Vec::new(),
        event_time: None,
        partitioned_by: Vec::new(),
        max_future_skew: Duration::from_secs(3_600),
        max_lateness: Duration::from_secs(7_200),
        max_lookback: Duration::from_secs(90 * 86_400),
        max_record_bytes: 1 << 20,
        max_rejection_rate: None,
        rejection_window: 1_000,
        repartition: None,
        internal: None,
    }
}

/// (offset, n) of all rows of the folder, each file from `start` on.
fn read(runtime: &tokio::runtime::Runtime, folder: &Path, format: FileFormat, start: i64) -> Vec<(i64, i64)> {
    let location = FilesLocation {
        source_name: "numbers".to_owned(),
        store: store(),
        path: folder.clone(),
        format,
        worker: 0,
        num_workers: 1,
    };
    let (waker, woken) = Waker::new();
    let numbers = AssignmentNumbers::default();
    let mut source = FilesSource::new(location, &numbers, runtime.handle().clone(), waker).unwrap();
    let mut decoder = Decoder::new(&settings(format), Box::new(NoChecks)).unwrap();
    let (mut units, mut rows) = (Units::default(), Vec::new());
    loop {
        let decoded = match source.next_event().unwrap() {
            Some(SourceEvent::Assigned(assigned)) => {
                let start = StartAt::Stored(Offset::new(start).unwrap());
                let starts: Vec<_> = assigned.iter().map(|(assignment, _)| (*assignment, start)).collect();
                assigned.into_iter().for_each(|(assignment, unit)| units.insert(assignment, unit));
                source.start(&starts).unwrap();
                continue;
            }
            Some(SourceEvent::Records(block)) => decoder.decode(&block, &units).unwrap(),
            Some(SourceEvent::Rows(block)) => decoder.accept_rows(&block, &units).unwrap(),
            Some(SourceEvent::End) => break,
            Some(event) => panic!("{event:?}"),
            None => {
                woken.recv_timeout(Duration::from_secs(30)).unwrap();
                continue;
            }
        };
        assert!(decoded.rejected.is_empty());
        let offsets = Hidden::of(&decoded.batch).unwrap().offset.values().to_vec();
        rows.extend(
            offsets.into_iter().zip(decoded.batch.column(0).as_primitive::<Int64Type>().values().iter().copied()),
        );
    }
    source.close(Duration::from_secs(5)).unwrap();
    rows
}

#[test]
fn files_on_s3_are_read_in_the_order_of_names_and_resumed_at_a_row() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let root = format!("files-source-{}", uuid::Uuid::new_v4());
    let put = |name: &str, bytes: Vec<u8>| {
        let path = Path::from(format!("{root}/{name}"));
        runtime.block_on(store().put(&path, PutPayload::from(bytes))).unwrap();
    };
    let parquet = |values: std::ops::Range<i64>| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    };
    let lines =
        |values: std::ops::Range<i64>| values.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes();
    put("b.parquet", parquet(20_000..20_010));
    put("a.parquet", parquet(0..20_000));
    put("_staging/c.parquet", b"not for readers".to_vec());
    put("b.jsonl", lines(20_000..20_010));
    put("a/a.jsonl", lines(0..20_000));

    let folder = Path::from(root.as_str());
    for format in [FileFormat::Parquet, FileFormat::JsonLines] {
        for start in [0, 1, 7] {
            let expected = (start..20_000).chain(20_000 + start..20_010).map(|n| (n % 20_000, n));
            assert_eq!(read(&runtime, &folder, format, start), expected.collect::<Vec<_>>(), "{format:?}");
        }
    }
}
