//! Decode against bare `arrow-json` in bulk, which checks nothing, on the same transactions in the same run. Prints
//! nanoseconds a row and their ratio; the bound is 1.3.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, takes the time, and may fail loudly"
)]

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow::json::ReaderBuilder;
use tidemill::decode::{Decoder, NoChecks, table_schema};
use tidemill::pipeline::settings::{Column, ColumnType, FileFormat, FilesSource, Source, SourceConnector};
use tidemill::types::{Assignment, RecordBlock, StateUnit, Units};

const ROWS: usize = 8_192;
const ROUNDS: usize = 101;

fn source() -> Source {
    let column = |name: &str, column_type, is_nullable| Column { name: name.to_owned(), column_type, is_nullable };
    Source {
        name: "transactions".to_owned(),
        connector: SourceConnector::Files(FilesSource { path: "unused".to_owned(), format: FileFormat::JsonLines }),
        columns: vec![
            column("transaction_id", ColumnType::String, false),
            column("user_id", ColumnType::Int64, false),
            column("amount", ColumnType::Float64, false),
            column("currency", ColumnType::String, false),
            column("merchant", ColumnType::String, true),
            column("timestamp", ColumnType::Timestamp, false),
            column("location", ColumnType::String, true),
            column("is_fraud", ColumnType::Int32, false),
        ],
        metadata: Vec::new(),
        checks: Vec::new(),
        event_time: Some("timestamp".to_owned()),
        partitioned_by: vec!["user_id".to_owned()],
        max_future_skew: Duration::from_secs(3_600),
        max_lateness: Duration::from_secs(2 * 3_600),
        max_lookback: Duration::from_secs(90 * 24 * 3_600),
        max_record_bytes: 1 << 20,
        max_rejection_rate: None,
        rejection_window: 10_000,
        repartition: None,
        internal: None,
    }
}

/// Transactions as the generator writes them, about 200 bytes each.
fn block(shuffle: bool) -> RecordBlock {
    let mut block = RecordBlock::default();
    let mut state = 42_u64;
    let mut payload = String::new();
    for row in 0..ROWS {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = state >> 16;
        payload.clear();
        let mut members = [
            format!("\"transaction_id\":\"{random:012x}-4a6b-4c1d-9e2f-{row:012x}\""),
            format!("\"user_id\":{}", 1_000 + random % 9_000),
            format!("\"amount\":{}.{:02}", random % 10_000, random % 89 + 10),
            "\"currency\":\"EUR\"".to_owned(),
            format!("\"merchant\":\"Merchant number {}\"", random % 1_500),
            format!(
                "\"timestamp\":\"2026-03-01T{:02}:{:02}:{:02}.{:06}+00:00\"",
                row / 3_600,
                row / 60 % 60,
                row % 60,
                random % 1_000_000
            ),
            "\"location\":\"DE\"".to_owned(),
            format!("\"is_fraud\":{}", u8::from(random.is_multiple_of(70))),
        ];
        if shuffle && row % 2 == 0 {
            members.reverse();
        }
        write!(payload, "{{{}}}", members.join(",")).unwrap();
        block.units.push(u32::try_from(row / 2_048).unwrap());
        block.offsets.push(i64::try_from(row).unwrap());
        block.timestamps_ms.push(1_772_323_200_000 + i64::try_from(row).unwrap() * 1_000);
        block.keys.push(Some(b"1234"));
        block.values.push(Some(payload.as_bytes()));
        block.headers.end_record();
    }
    block
}

/// The median of the rounds, in nanoseconds a row.
fn nanos_a_row(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9 / ROWS as f64
}

fn measure(name: &str, block: &RecordBlock) {
    let source = source();
    let mut units = Units::default();
    for unit in 0..4 {
        let partition = i32::try_from(unit).unwrap();
        units.insert(Assignment(unit), StateUnit { source: "transactions".into(), topic: "tx".into(), partition });
    }
    let mut decoder = Decoder::new(&source, Box::new(NoChecks)).unwrap();
    let mut bare = ReaderBuilder::new(table_schema(&source)).with_batch_size(ROWS).build_decoder().unwrap();
    let (bytes, _) = block.values.as_parts();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // Interleaved, so that a busy machine is busy for both.
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let decoded = black_box(decoder.decode(black_box(block), &units).unwrap());
        ours.push(start.elapsed());
        assert_eq!(decoded.batch.num_rows(), ROWS);
        let start = Instant::now();
        bare.decode(black_box(bytes)).unwrap();
        let batch = black_box(bare.flush().unwrap().unwrap());
        theirs.push(start.elapsed());
        assert_eq!(batch.num_rows(), ROWS);
    }
    let (ours, theirs) = (nanos_a_row(&mut ours), nanos_a_row(&mut theirs));
    println!(
        "{name}: {} bytes a row; decode {ours:.0} ns, bare arrow-json {theirs:.0} ns a row; ratio {:.2}",
        bytes.len() / ROWS,
        ours / theirs
    );
}

fn main() {
    measure("keys in the same order", &block(false));
    measure("keys in changing order", &block(true));
}
