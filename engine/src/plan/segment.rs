//! A segment: a stateless piece of the graph, planned once by DataFusion and run again for every epoch, on the calling thread
//! and without a runtime. Only nodes that are known to keep nothing between executions and to spawn nothing may stand in it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result as DFResult, plan_err};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::defer::after_filters;
use super::session::block_on;
use super::short_circuit::decide_by_row;
use super::table::SlotExec;
use crate::error::Error;
use crate::types::{HIDDEN_COLUMNS, Hidden};

/// Where a segment's rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Into a slot that other stages read.
    Slot(usize),
    /// Out of the graph.
    Sink(usize),
}

/// A planned segment. Shared by all workers: nodes that DataFusion runs are executed through copies that
/// [`reset_plan_states`] makes.
#[derive(Debug)]
pub(super) struct Segment {
    /// `view features`, `sink alerts`.
    pub(super) part: Arc<str>,
    /// Views that are computed within it.
    pub(super) inlined: Vec<String>,
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) target: Target,
    /// Whether one record can become several rows, which then need new ordinals and the order of their records.
    pub(super) multiplies: bool,
    /// Slots that it reads.
    pub(super) reads: Vec<usize>,
    /// Whether a window feeds it.
    pub(super) is_after_state: bool,
    /// Whether it only passes on what a source accepted, and no row can fail in it: an archive, which gets every row, whatever
    /// other SQL makes of it.
    pub(super) is_archive: bool,
}

impl Segment {
    /// Optimises and plans `plan`.
    pub(super) fn new(
        part: Arc<str>,
        inlined: Vec<String>,
        plan: &LogicalPlan,
        target: Target,
        multiplies: bool,
        state: &SessionState,
    ) -> DFResult<Segment> {
        let physical = by_row(after_filters(block_on(state.create_physical_plan(plan))?)?)?;
        if let Some(name) = foreign_node(&physical) {
            return plan_err!("it needs {name}, which is not known to run the same in every epoch");
        }
        let schema = physical.schema();
        let first = schema.fields().len().saturating_sub(HIDDEN_COLUMNS.len());
        if schema.fields().iter().skip(first).map(|field| field.name().as_str()).ne(HIDDEN_COLUMNS) {
            return plan_err!("the columns of its rows' positions are lost");
        }
        let mut reads = Vec::new();
        slots_read(&physical, &mut reads);
        Ok(Segment {
            part,
            inlined,
            plan: physical,
            target,
            multiplies,
            reads,
            is_after_state: false,
            is_archive: false,
        })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// Runs over what is in the slots. No output batch is empty.
    pub(super) fn run(&self, context: &Arc<TaskContext>) -> DFResult<Vec<RecordBatch>> {
        let batches = rows_of(&self.plan, context)?;
        if self.multiplies { self.joined(batches) } else { Ok(batches) }
    }

    /// The output of runs over parts of the slots as that of one run over all of them.
    pub(super) fn joined(&self, batches: Vec<RecordBatch>) -> DFResult<Vec<RecordBatch>> {
        if self.multiplies && !batches.is_empty() {
            return Ok(vec![in_order(&concat_batches(&self.schema(), &batches)?)?]);
        }
        Ok(batches)
    }
}

/// The rows of a node; no batch is empty. Conditions and columns, which nearly all nodes are, are evaluated here: DataFusion's
/// streams are made for long queries, and set up counters with the text of every expression for each, which takes a third of
/// an epoch of few rows. Everything else runs as DataFusion runs it.
fn rows_of(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> DFResult<Vec<RecordBatch>> {
    let mut rows = if let Some(slot) = plan.downcast_ref::<SlotExec>() {
        slot.rows(context)?
    } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let batches = rows_of(projection.input(), context)?;
        batches.iter().map(|batch| computed(projection, batch)).collect::<DFResult<_>>()?
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|filter| filter.fetch().is_none()) {
        let batches = rows_of(filter.input(), context)?;
        batches.iter().map(|batch| filtered(filter, batch)).collect::<DFResult<_>>()?
    } else {
        streamed(plan, context)?
    };
    rows.retain(|batch| batch.num_rows() > 0);
    Ok(rows)
}

fn computed(projection: &ProjectionExec, batch: &RecordBatch) -> DFResult<RecordBatch> {
    let num_rows = batch.num_rows();
    let column = |column: &ProjectionExpr| column.expr.evaluate(batch)?.into_array_of_size(num_rows);
    let columns = projection.expr().iter().map(column).collect::<DFResult<_>>()?;
    Ok(RecordBatch::try_new(projection.schema(), columns)?)
}

/// The rows for which the condition is true, neither false nor null.
fn filtered(filter: &FilterExec, batch: &RecordBatch) -> DFResult<RecordBatch> {
    let holds = filter.predicate().evaluate(batch)?.into_array_of_size(batch.num_rows())?;
    let holds = as_boolean_array(&holds)?;
    Ok(match filter.projection() {
        Some(columns) => filter_record_batch(&batch.project(columns)?, holds)?,
        None => filter_record_batch(batch, holds)?,
    })
}

fn streamed(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> DFResult<Vec<RecordBatch>> {
    let plan = reset_plan_states(Arc::clone(plan))?;
    let mut batches = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, Arc::clone(context))?;
        while let Some(batch) = block_on(stream.next()) {
            batches.push(batch?);
        }
    }
    Ok(batches)
}

/// `AND` and `OR` decided by row in all conditions and columns.
fn by_row(plan: Arc<dyn ExecutionPlan>) -> DFResult<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|plan| {
        if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            let predicate = decide_by_row(Arc::clone(filter.predicate()), &filter.input().schema())?;
            let filter = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            return Ok(Transformed::yes(Arc::new(filter) as Arc<dyn ExecutionPlan>));
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let schema = projection.input().schema();
            let exprs = projection.expr().iter().map(|column| {
                let expr = decide_by_row(Arc::clone(&column.expr), &schema)?;
                Ok(ProjectionExpr { expr, alias: column.alias.clone() })
            });
            let exprs = exprs.collect::<DFResult<Vec<_>>>()?;
            let projection = ProjectionExec::try_new(exprs, Arc::clone(projection.input()))?;
            return Ok(Transformed::yes(Arc::new(projection) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(plan))
    })?;
    Ok(plan.data)
}

fn foreign_node(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let known = plan.is::<SlotExec>()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<UnionExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<EmptyExec>()
        || plan.is::<PlaceholderRowExec>();
    if !known {
        return Some(plan.name().to_owned());
    }
    plan.children().into_iter().find_map(foreign_node)
}

fn slots_read(plan: &Arc<dyn ExecutionPlan>, slots: &mut Vec<usize>) {
    if let Some(slot) = plan.downcast_ref::<SlotExec>() {
        slots.push(slot.slot());
        slots.sort_unstable();
        slots.dedup();
    }
    plan.children().into_iter().for_each(|child| slots_read(child, slots));
}

/// The rows in the order of their records, with the rows of one record numbered from 0 as they stand.
fn in_order(batch: &RecordBatch) -> DFResult<RecordBatch> {
    let internal = |error: Error| DataFusionError::Internal(error.message().to_owned());
    let hidden = Hidden::of(batch).map_err(internal)?;
    // The row's own place last keeps the order of rows of one record.
    let places: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..batch.num_rows() as u64));
    let columns = [Arc::new(hidden.unit.clone()) as ArrayRef, Arc::new(hidden.offset.clone()), places];
    let columns = columns.map(|values| SortColumn { values, options: None });
    let sorted = take_record_batch(batch, &lexsort_to_indices(&columns, None)?)?;
    let hidden = Hidden::of(&sorted).map_err(internal)?;
    let mut ordinal = 0;
    let ordinals = (0..sorted.num_rows()).map(|row| {
        let follows = row > 0
            && hidden.unit.value(row) == hidden.unit.value(row - 1)
            && hidden.offset.value(row) == hidden.offset.value(row - 1);
        ordinal = if follows { ordinal + 1 } else { 0 };
        ordinal
    });
    let ordinals: ArrayRef = Arc::new(UInt32Array::from_iter_values(ordinals));
    debug_assert_eq!(ordinals.len(), sorted.num_rows());
    let mut columns = sorted.columns().to_vec();
    let place = columns.len() - HIDDEN_COLUMNS.len() + 2;
    columns[place] = ordinals;
    Ok(RecordBatch::try_new(sorted.schema(), columns)?)
}
