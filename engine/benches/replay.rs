//! A replay over Parquet with five windows against stock DataFusion on the same SQL and the same file: rows per second of wall
//! time, ours with two workers, stock with its own aggregates and two target partitions; both give all rows as batches in memory.
//! The rows are those of the simulator in the disorder of their arrival. `--days N` and `--rounds N` make it shorter.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail loudly")]

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, sort_to_indices, take, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::execution::options::ParquetReadOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use tidemill::pipeline::settings::Pipeline;
use tidemill::replay::{Input, Order, Replay};
use tidemill::source::generator::{DAY_MS, GeneratorSettings, Simulator};

#[path = "common/report.rs"]
mod report;

use report::{Goals, argument, median};

/// 2026-01-01 UTC, milliseconds.
const FROM_MS: i64 = 1_767_225_600_000;
/// About 265 000 rows a day.
const USERS: u32 = 120_000;
const PARTITIONS: usize = 2;
/// Rows arrive up to so much after their event.
const DELAY_MICROS: i64 = 55 * 60 * 1_000_000;

/// What both run.
const SQL: &str = r#"SELECT
    transaction_id,
    user_id,
    amount,
    "timestamp",
    count(*) OVER day AS num_24h,
    sum(amount) OVER day AS spent_24h,
    max(amount) OVER day AS largest_24h,
    avg(amount) OVER last_7 AS mean_of_7,
    lag("timestamp") OVER in_order AS last_timestamp
FROM transactions
WINDOW
    day AS (PARTITION BY user_id ORDER BY "timestamp" RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW),
    last_7 AS (PARTITION BY user_id ORDER BY "timestamp" ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING),
    in_order AS (PARTITION BY user_id ORDER BY "timestamp")"#;

const PIPELINE: &str = "
pipeline: bench
sources:
  transactions:
    connector: files
    path: unused
    format: parquet
    columns: { transaction_id: string not null, user_id: bigint not null, amount: double not null, timestamp: timestamp not null }
    event_time: timestamp
    partitioned_by: [user_id]
views:
  features: features.sql
sinks:
  out:
    connector: console
    select: SELECT transaction_id, user_id, amount, timestamp, num_24h, spent_24h, largest_24h, mean_of_7, last_timestamp FROM features
checkpoint: { path: checkpoint }
";

fn main() -> ExitCode {
    let days = i64::try_from(argument("--days", 7)).unwrap().max(1);
    let rounds = argument("--rounds", 3).max(1);
    let mut goals =
        Goals::begin("replay over Parquet with five windows, two workers, against stock DataFusion on two partitions");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-replay");
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("transactions.parquet");
    let (rows, users) = write(days, &file);
    println!("    {rows} rows of {users} users, {:.0} MB", std::fs::metadata(&file).unwrap().len() as f64 / 1e6);
    let pipeline = pipeline(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(PARTITIONS).enable_all().build().unwrap();
    let (mut ours, mut stock, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turns, so that a busy machine is busy for both.
        let (our_seconds, our_rows) = timed(|| replay(&pipeline, &file));
        let (stock_seconds, stock_rows) = timed(|| runtime.block_on(datafusion(&file)));
        if round == 0 {
            compare(&our_rows, &stock_rows, rows);
        }
        ours.push(rows as f64 / our_seconds);
        stock.push(rows as f64 / stock_seconds);
        ratios.push(stock_seconds / our_seconds);
    }
    println!("    rows a second, medians: replay {:.0}; stock DataFusion {:.0}", median(ours), median(stock));
    goals.goal("replay / stock DataFusion", median(ratios), 5.0.., "");
    std::fs::remove_dir_all(&folder).unwrap();
    goals.end()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark takes the time")]
fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed().as_secs_f64(), result)
}

/// Writes the rows; their number and that of their users.
fn write(days: i64, file: &Path) -> (usize, usize) {
    let settings = GeneratorSettings { num_users: USERS, ..GeneratorSettings::default() };
    let simulator = Simulator::new(settings).unwrap();
    let batches: Vec<RecordBatch> =
        simulator.batches(FROM_MS..FROM_MS + days * DAY_MS).unwrap().map(Result::unwrap).collect();
    let batch = concat_batches(&simulator.schema(), &batches).unwrap();
    let users = batch["user_id"].as_primitive::<Int64Type>().values();
    let micros = cast(&batch["timestamp"], &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap();
    let micros = micros.as_primitive::<TimestampMicrosecondType>().values();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    // Without two events of a user at one instant: stock RANGE would count those that have not arrived.
    let mut seen = HashSet::new();
    let mut arrivals: Vec<(i64, u32)> = (0..)
        .zip(users.iter().zip(micros))
        .filter(|(_, (user, micros))| seen.insert((**user, **micros)))
        .map(|(row, (_, micros))| (micros + random.random_range(0..DELAY_MICROS), row))
        .collect();
    arrivals.sort_unstable();
    let rows = UInt32Array::from_iter_values(arrivals.iter().map(|(_, row)| *row));
    let batch = take_record_batch(&batch, &rows).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(128 * 1024))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    (batch.num_rows(), users.iter().collect::<HashSet<_>>().len())
}

fn pipeline(folder: &Path) -> Pipeline {
    let path: PathBuf = folder.join("pipeline.yaml");
    std::fs::write(&path, PIPELINE).unwrap();
    std::fs::write(folder.join("features.sql"), SQL).unwrap();
    Pipeline::load(&path, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn replay(pipeline: &Pipeline, file: &Path) -> Vec<RecordBatch> {
    let input = Input { source: "transactions".to_owned(), uri: file.display().to_string(), format: None };
    let workers = NonZeroUsize::new(PARTITIONS).unwrap();
    let replay = Replay::open(pipeline, &BTreeMap::new(), &[input], Some(Order::EventTime), workers).unwrap();
    let mut batches = Vec::new();
    let counts = replay.run(
        |_, batch| {
            batches.push(batch);
            Ok(())
        },
        |_| {},
    );
    assert_eq!(counts.unwrap().num_rejected(), 0);
    batches
}

async fn datafusion(file: &Path) -> Vec<RecordBatch> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(PARTITIONS));
    let path = file.to_str().unwrap();
    context.register_parquet("transactions", path, ParquetReadOptions::default()).await.unwrap();
    let partitions = context.sql(SQL).await.unwrap().collect_partitioned().await.unwrap();
    partitions.into_iter().flatten().collect()
}

/// The same rows, floats but for what stock sums lose.
fn compare(ours: &[RecordBatch], stock: &[RecordBatch], rows: usize) {
    let (ours, stock) = (by_id(ours), by_id(stock));
    assert_eq!((ours.num_rows(), stock.num_rows()), (rows, rows));
    for (ours_column, stock_column) in ours.columns().iter().zip(stock.columns()) {
        if let Some(ours) = ours_column.as_primitive_opt::<Float64Type>() {
            let stock: &Float64Array = stock_column.as_primitive();
            assert_eq!(ours.nulls(), stock.nulls());
            let is_near = |(ours, stock): (&f64, &f64)| (ours - stock).abs() <= 1e-9 * stock.abs().max(1e3);
            assert!(ours.values().iter().zip(stock.values()).all(is_near));
        } else {
            let stock: ArrayRef = cast(stock_column, ours_column.data_type()).unwrap();
            assert!(*ours_column == stock, "a column of {} differs", ours_column.data_type());
        }
    }
}

fn by_id(batches: &[RecordBatch]) -> RecordBatch {
    let batch = concat_batches(&batches[0].schema(), batches).unwrap();
    let ids = cast(batch.column(0), &DataType::Utf8).unwrap();
    let order = sort_to_indices(&ids, None, None).unwrap();
    let columns = batch.columns().iter().map(|column| take(column, &order, None).unwrap()).collect();
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}
