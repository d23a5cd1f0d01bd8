//! Rows in the order of some columns, however many there are: DataFusion's sort, which goes to disk beyond its memory. Rows are
//! pushed as they come and taken in order afterwards. Where files go is the operating system's choice (`TMPDIR`). What fits into
//! memory is sorted here, which is many times faster.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use futures::stream::poll_fn;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::deal::Pool;
use crate::error::{Error, Result};
use crate::runtime::tasks;
use crate::types::{HIDDEN_COLUMNS, Hidden};

/// Rows of a batch that comes out.
const BATCH_ROWS: usize = 8_192;
/// What a merge of files may hold beside the rows; of a small memory a part.
const MERGE_BYTES: usize = 10 << 20;
/// Batches that wait on either side.
const CHANNEL_BATCHES: usize = 2;

/// Memory of a sort by event time; beyond it rows go to disk.
pub(super) const SORT_BYTES: usize = 512 << 20;

/// Sorts rows of a source by event time, unit and offset, which come in the order of units and offsets: in memory as long as they
/// fit, where only their places are moved.
#[derive(Debug)]
pub(super) struct Sorting {
    io: Handle,
    schema: SchemaRef,
    memory_bytes: usize,
    bytes: usize,
    pool: Pool,
    order: Vec<(i64, u32, u32)>,
    /// Has all rows once they are too many.
    on_disk: Option<Sorter>,
}

/// All rows.
#[derive(Debug)]
pub(super) enum Sorted {
    /// Event time, batch and row of each, in order.
    InMemory { pool: Arc<Pool>, order: Vec<(i64, u32, u32)> },
    /// They went to disk.
    OnDisk(SortedRows),
}

impl Sorting {
    pub(super) fn new(io: &Handle, schema: SchemaRef, memory_bytes: usize) -> Sorting {
        let (io, pool) = (io.clone(), Pool::default());
        Sorting { io, schema, memory_bytes, bytes: 0, pool, order: Vec::new(), on_disk: None }
    }

    /// Takes rows, and their workers where those depend on the row.
    pub(super) fn push(&mut self, batch: RecordBatch, owners: Option<Vec<u8>>) -> Result<()> {
        if let Some(sorter) = &mut self.on_disk {
            return sorter.push(batch);
        }
        self.bytes += batch.get_array_memory_size() + batch.num_rows() * size_of::<(i64, u32, u32)>();
        if self.bytes > self.memory_bytes {
            let mut sorter = Sorter::by_event_time(&self.io, &self.schema, self.memory_bytes)?;
            let pool = std::mem::take(&mut self.pool);
            self.order = Vec::new();
            pool.into_batches().into_iter().chain([batch]).try_for_each(|batch| sorter.push(batch))?;
            self.on_disk = Some(sorter);
            return Ok(());
        }
        let number = self.pool.batches().len() as u32;
        let times = Hidden::of(&batch)?.event_time.values();
        self.order.extend((0..).zip(times.iter()).map(|(row, time)| (*time, number, row)));
        self.pool.push(batch, owners);
        Ok(())
    }

    /// No more rows.
    pub(super) fn finish(mut self) -> Sorted {
        if let Some(sorter) = self.on_disk {
            return Sorted::OnDisk(sorter.finish());
        }
        // Stable: rows of equal event time stay in the order in which they came. Stored rows are nearly in order, which it uses.
        self.order.sort_by_key(|(time, ..)| *time);
        Sorted::InMemory { pool: Arc::new(self.pool), order: self.order }
    }
}

/// Takes rows.
#[derive(Debug)]
pub(crate) struct Sorter {
    io: Handle,
    input: Sender<RecordBatch>,
    sorted: Receiver<Result<RecordBatch>>,
    #[cfg(test)]
    plan: Arc<dyn ExecutionPlan>,
}

/// Gives them in order.
#[derive(Debug)]
pub(crate) struct SortedRows {
    io: Handle,
    sorted: Receiver<Result<RecordBatch>>,
    #[cfg(test)]
    plan: Arc<dyn ExecutionPlan>,
}

impl Sorter {
    /// Sorts rows of a source, with their hidden columns, by event time, unit and offset. Numbers of units rise with partitions,
    /// or with files: they stand for either.
    pub(super) fn by_event_time(io: &Handle, schema: &SchemaRef, memory_bytes: usize) -> Result<Sorter> {
        let keys = [3, 0, 1].map(|hidden: usize| schema.index_of(HIDDEN_COLUMNS[hidden]));
        let keys = keys.into_iter().collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|_| Error::internal(format!("rows without {}", HIDDEN_COLUMNS.join(", "))))?;
        Sorter::new(io, schema, &keys, memory_bytes)
    }

    /// Sorts rows of `schema` by the columns at `keys`, rising, nulls first, floats by the order of their bits. Beyond
    /// `memory_bytes` rows go to disk.
    pub(crate) fn new(io: &Handle, schema: &SchemaRef, keys: &[usize], memory_bytes: usize) -> Result<Sorter> {
        let (input, rows) = channel(CHANNEL_BATCHES);
        let (output, sorted) = channel(CHANNEL_BATCHES);
        let pushed = Pushed { schema: schema.clone(), rows: Mutex::new(Some(rows)) };
        let scan = StreamingTableExec::try_new(schema.clone(), vec![Arc::new(pushed)], None, [], false, None);
        let scan = scan.map_err(|error| failed(&error))?;
        let key = |index: &usize| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(*index).name(), *index));
            PhysicalSortExpr::new(column, SortOptions::default())
        };
        let order = LexOrdering::new(keys.iter().map(key)).ok_or_else(|| Error::internal("a sort without a key"))?;
        let plan: Arc<dyn ExecutionPlan> = Arc::new(SortExec::new(order, Arc::new(scan)));
        let context = context(memory_bytes)?;
        let running = Arc::clone(&plan);
        // Ends when its rows are taken, or when either end is dropped.
        drop(tasks::spawn(io, async move {
            let mut stream = match running.execute(0, context) {
                Ok(stream) => stream,
                Err(error) => return drop(output.send(Err(failed(&error))).await),
            };
            while let Some(batch) = stream.next().await {
                if output.send(batch.map_err(|error| failed(&error))).await.is_err() {
                    return;
                }
            }
        }));
        Ok(Sorter {
            io: io.clone(),
            input,
            sorted,
            #[cfg(test)]
            plan,
        })
    }

    /// Takes rows; waits while the sort is busy.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        match self.io.block_on(self.input.send(batch)) {
            Ok(()) => Ok(()),
            // Nobody takes them any more: the sort has failed and says why.
            Err(_) => match self.io.block_on(self.sorted.recv()) {
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => Err(Error::internal("a sort ended before its rows")),
            },
        }
    }

    /// No more rows.
    pub(crate) fn finish(self) -> SortedRows {
        SortedRows {
            io: self.io,
            sorted: self.sorted,
            #[cfg(test)]
            plan: self.plan,
        }
    }
}

impl SortedRows {
    /// The next rows; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.io.block_on(self.sorted.recv()).transpose()
    }

    /// How often rows went to disk so far.
    #[cfg(test)]
    fn num_spills(&self) -> usize {
        self.plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0)
    }
}

fn context(memory_bytes: usize) -> Result<Arc<TaskContext>> {
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::OsTmpDirectory)
        // The disk is the limit.
        .with_max_temp_directory_size(u64::MAX);
    let environment = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .build_arc()
        .map_err(|error| failed(&error))?;
    let config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_sort_spill_reservation_bytes(MERGE_BYTES.min(memory_bytes / 4));
    Ok(Arc::new(TaskContext::default().with_session_config(config).with_runtime(environment)))
}

/// The text of DataFusion names sizes and files, never values.
fn failed(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Error::invalid(format!(
            "rows are too large to be sorted, {BATCH_ROWS} of them do not fit into memory: {error}"
        )),
        _ => Error::unavailable(format!(
            "rows could not be sorted; is there room in the folder of temporary files? TMPDIR names another: {error}"
        )),
    }
}

/// The rows that are pushed, as DataFusion reads them: once.
struct Pushed {
    schema: SchemaRef,
    rows: Mutex<Option<Receiver<RecordBatch>>>,
}

impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pushed")
    }
}

impl PartitionStream for Pushed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut rows = self.rows.lock().ok().and_then(|mut rows| rows.take());
        let pushed = poll_fn(move |context| match &mut rows {
            Some(rows) => rows.poll_recv(context).map(|batch| batch.map(Ok)),
            None => std::task::Poll::Ready(None),
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), pushed))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;
    use crate::runtime::tasks::io_runtime;

    #[test]
    fn more_rows_than_memory_go_to_disk_and_come_back_in_order() {
        let io = io_runtime().unwrap();
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("time", DataType::Int64, false),
            Field::new("number", DataType::Int64, false),
            Field::new("text", DataType::Utf8, false),
        ]));
        let mut sorter = Sorter::new(io.handle(), &schema, &[0, 1], 4 << 20).unwrap();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut expected = Vec::new();
        for block in 0..60_i64 {
            let times: Vec<i64> = (0..1_000).map(|_| rng.random_range(0..5_000)).collect();
            let numbers: Vec<i64> = (0..1_000).map(|row| block * 1_000 + row).collect();
            let texts: Vec<String> = numbers.iter().map(|number| format!("{number:0>200}")).collect();
            expected.extend(times.iter().copied().zip(numbers.iter().copied()));
            let columns: Vec<arrow::array::ArrayRef> = vec![
                Arc::new(Int64Array::from(times)),
                Arc::new(Int64Array::from(numbers)),
                Arc::new(StringArray::from(texts)),
            ];
            sorter.push(RecordBatch::try_new(schema.clone(), columns).unwrap()).unwrap();
        }
        expected.sort_unstable();
        let mut sorted = sorter.finish();
        let mut found = Vec::new();
        while let Some(batch) = sorted.next().unwrap() {
            let (times, numbers) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
            let texts = batch.column(2).as_string::<i32>();
            for row in 0..batch.num_rows() {
                assert_eq!(texts.value(row), format!("{:0>200}", numbers.value(row)));
                found.push((times.value(row), numbers.value(row)));
            }
        }
        assert_eq!(found, expected);
        // 12 MB of text in 4 MiB of memory.
        assert!(sorted.num_spills() > 1, "{} spills", sorted.num_spills());
    }

    #[test]
    fn a_sort_that_fails_says_why_to_whoever_pushes_or_takes() {
        let io = io_runtime().unwrap();
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        // Not even one batch fits.
        let mut sorter = Sorter::new(io.handle(), &schema, &[0], 100).unwrap();
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(0..10_000))]).unwrap();
        let pushed = (0..20).try_for_each(|_| sorter.push(batch.clone()));
        let error = match pushed {
            Err(error) => error,
            Ok(()) => {
                let mut sorted = sorter.finish();
                loop {
                    match sorted.next() {
                        Err(error) => break error,
                        Ok(rows) => assert!(rows.is_some(), "sorted in 100 bytes"),
                    }
                }
            }
        };
        assert!(error.message().contains("do not fit into memory"), "{error}");
    }
}
