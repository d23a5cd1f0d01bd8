//! The path from memory, and its bare parts on the same bytes: arrow-json in bulk, stock DataFusion with a cached plan, the windows
//! on columns that are there already, the scorer on feature arrays. In turns, on one thread, as CPU time per row.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::DataType;
use arrow::json::ReaderBuilder;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use futures::executor::block_on;
use tidemill::decode::{Decoder, table_schema};
use tidemill::operator::over_window::{OverWindow, WindowInput};
use tidemill::pipeline::settings::Pipeline;
use tidemill::plan::{Graph, Plan};
use tidemill::runtime;
use tidemill::types::{Assignment, Hidden, RecordBlock, StateUnit, Units};
use tidemill_udfs::functions::score_arrays;

use super::clock::{THREAD, nanos_a_row};
use super::operator::five_windows;
use super::report::median;
use super::world::{Features, World, row_sql, transactions};

/// Rows of a micro-batch.
const ROWS: usize = 8_192;
const BLOCKS: usize = 8;
const PARTITIONS: usize = 4;

/// Nanoseconds of CPU time per row; medians.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    /// Bytes to rows, with checks, positions and watermarks.
    pub(crate) decode: f64,
    /// Rows to alerts: features, score, filter.
    pub(crate) graph: f64,
    /// arrow-json in bulk: no checks, no positions, one bad record fails all.
    pub(crate) bare_json: f64,
    /// The features without windows, by DataFusion alone.
    pub(crate) bare_sql: f64,
    /// The windows on the columns that they read; 0 where there are none.
    pub(crate) bare_operator: f64,
    /// The model on the feature arrays.
    pub(crate) bare_score: f64,
}

impl Parts {
    /// The whole path.
    pub(crate) fn path(&self) -> f64 {
        self.decode + self.graph
    }

    /// The sum of the bare parts.
    pub(crate) fn bare(&self) -> f64 {
        self.bare_json + self.bare_sql + self.bare_operator + self.bare_score
    }
}

/// The transactions as `num` blocks of four partitions, each a run, as a Kafka source hands them over.
pub(crate) fn blocks(rows: usize, num: usize) -> Vec<RecordBlock> {
    let made = transactions(rows * num);
    let mut records = made.iter().flat_map(|block| block.iter());
    let mut blocks = Vec::new();
    for number in 0..num {
        let mut block = RecordBlock::default();
        for (row, record) in records.by_ref().take(rows).enumerate() {
            let run = rows.div_ceil(PARTITIONS);
            block.units.push(u32::try_from(row / run).unwrap());
            block.offsets.push(i64::try_from(number * run + row % run).unwrap());
            block.timestamps_ms.push(record.arrival_ms);
            block.keys.push(Some(record.key));
            block.values.push(Some(record.value));
            block.headers.end_record();
        }
        blocks.push(block);
    }
    blocks
}

fn units(source: &str) -> Units {
    let mut units = Units::default();
    for partition in 0..PARTITIONS {
        let partition = i32::try_from(partition).unwrap();
        let unit = StateUnit { source: source.into(), topic: "transactions".into(), partition };
        units.insert(Assignment(partition.unsigned_abs()), unit);
    }
    units
}

/// The features that need no state over one batch, planned once.
struct BareSql {
    context: SessionContext,
    plan: Arc<dyn ExecutionPlan>,
}

impl BareSql {
    fn new(batch: &RecordBatch) -> BareSql {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
        context.register_table("transactions", Arc::new(table)).unwrap();
        let plan = block_on(async { context.sql(&row_sql()).await.unwrap().create_physical_plan().await.unwrap() });
        BareSql { context, plan }
    }

    fn run(&self) -> Vec<RecordBatch> {
        let stream = self.plan.execute(0, self.context.task_ctx()).unwrap();
        block_on(stream.map(Result::unwrap).collect())
    }
}

fn bulk(schema: &arrow::datatypes::SchemaRef, bytes: &[u8]) -> RecordBatch {
    let mut reader = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(ROWS).build_decoder().unwrap();
    reader.decode(bytes).unwrap();
    reader.flush().unwrap().unwrap()
}

/// The path: decode, then features, score and filter, as the driver calls them.
pub(crate) struct Path {
    decoder: Decoder,
    graph: Graph,
    units: Units,
    alerts: usize,
}

impl Path {
    pub(crate) fn new(pipeline: &Pipeline, plan: &Plan) -> Path {
        let source = &pipeline.sources[0];
        let decoder = Decoder::new(source, plan.checks(0)).unwrap();
        Path { decoder, graph: plan.instantiate().unwrap(), units: units(&source.name), alerts: 0 }
    }

    /// CPU time per row of decode and of the rest.
    pub(crate) fn run(&mut self, block: &RecordBlock) -> [f64; 2] {
        let rows = block.len();
        let mut decoded = None;
        let decode =
            nanos_a_row(THREAD, rows, || decoded = Some(self.decoder.decode(black_box(block), &self.units).unwrap()));
        let decoded = decoded.unwrap();
        assert_eq!(decoded.batch.num_rows(), rows, "the simulator's records are all good");
        let graph = nanos_a_row(THREAD, rows, || {
            let output = black_box(self.graph.run(vec![(0, decoded.batch)]).unwrap());
            self.alerts += output.sinks[0].iter().map(RecordBatch::num_rows).sum::<usize>();
        });
        [decode, graph]
    }
}

/// The windows of `windows.sql` alone.
struct BareOperator(OverWindow);

impl BareOperator {
    fn new() -> BareOperator {
        let spec = five_windows(Duration::from_secs(90 * 24 * 3_600));
        let mut operator = OverWindow::new(&spec).unwrap();
        (0..u32::try_from(PARTITIONS).unwrap()).for_each(|unit| operator.add_unit(Assignment(unit), None).unwrap());
        BareOperator(operator)
    }

    fn run(&mut self, rows: &RecordBatch) {
        let (keys, amounts) = (Arc::clone(&rows["user_id"]), Arc::clone(&rows["amount"]));
        let (keys, arguments) = (std::slice::from_ref(&keys), std::slice::from_ref(&amounts));
        let input = WindowInput { keys, arguments, filters: &[], hidden: Hidden::of(rows).unwrap() };
        black_box(self.0.process(&input).unwrap());
    }
}

/// Measures everything in `rounds` turns over some blocks. No block comes twice: with windows, time goes on.
pub(crate) fn measure(world: &World, rounds: usize) -> Parts {
    let pipeline = world.pipeline();
    let io = runtime::tasks::io_runtime().unwrap();
    let (plan, models) = runtime::compile(&pipeline, &world.environment, io.handle()).unwrap();
    let mut path = Path::new(&pipeline, &plan);
    let model = models.slot("fraud").unwrap().current();
    assert_eq!(model.model.num_trees(), 200);
    let schema = table_schema(&pipeline.sources[0]);
    let mut all_features = pipeline;
    "SELECT * FROM features".clone_into(&mut all_features.sinks[0].select.sql);
    let (features_plan, _) = runtime::compile(&all_features, &world.environment, io.handle()).unwrap();
    let mut features_path = Path::new(&all_features, &features_plan);
    let mut operator = (world.features == Features::WithWindows).then(BareOperator::new);
    let mut times: [Vec<f64>; 6] = Default::default();
    // In turns, so that a busy machine is busy for all. The first turn only warms up.
    for (number, block) in blocks(ROWS, BLOCKS * (rounds + 1)).iter().enumerate() {
        let bytes = block.values.as_parts().0;
        let sql = BareSql::new(&bulk(&schema, bytes));
        let decoded = features_path.decoder.decode(block, &features_path.units).unwrap().batch;
        let features = features_path.graph.run(vec![(0, decoded.clone())]).unwrap().sinks.swap_remove(0);
        let features = feature_arrays(&features, model.model.feature_names());
        let [decode, graph] = path.run(block);
        let json = nanos_a_row(THREAD, ROWS, || drop(black_box(bulk(&schema, black_box(bytes)))));
        let stock = nanos_a_row(THREAD, ROWS, || drop(black_box(sql.run())));
        let windows =
            operator.as_mut().map_or(0.0, |operator| nanos_a_row(THREAD, ROWS, || operator.run(black_box(&decoded))));
        let score = nanos_a_row(THREAD, ROWS, || drop(black_box(score_arrays(&model.model, &features, ROWS).unwrap())));
        if number >= BLOCKS {
            let found = [decode, graph, json, stock, windows, score];
            times.iter_mut().zip(found).for_each(|(times, time)| times.push(time));
        }
    }
    assert!(path.alerts > 0 && path.alerts < ROWS * BLOCKS * rounds / 10, "{} alerts", path.alerts);
    let [decode, graph, bare_json, bare_sql, bare_operator, bare_score] = times.map(median);
    Parts { decode, graph, bare_json, bare_sql, bare_operator, bare_score }
}

fn feature_arrays(batches: &[RecordBatch], names: &[String]) -> Vec<ArrayRef> {
    let batch = concat_batches(&batches[0].schema(), batches).unwrap();
    // The SQL's own cast stands in the path: counts are integers.
    names.iter().map(|name| cast(&batch[name.as_str()], &DataType::Float64).unwrap()).collect()
}

/// The bare parts, a line each.
pub(crate) fn print(parts: &Parts) {
    println!("  CPU time, ns a row, medians:");
    println!(
        "    bare parts: arrow-json {:.0} + SQL {:.0} + windows {:.0} + scorer {:.0} = {:.0}",
        parts.bare_json,
        parts.bare_sql,
        parts.bare_operator,
        parts.bare_score,
        parts.bare()
    );
    println!(
        "    from memory: decode {:.0} + features, score and filter {:.0} = {:.0}; {:.0} rows per CPU second",
        parts.decode,
        parts.graph,
        parts.path(),
        1e9 / parts.path()
    );
}
