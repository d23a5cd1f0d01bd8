//! Tables of a pipeline as DataFusion sees them: schemas of sources, and the slot, a leaf of segments that yields the
//! batches that the worker put there for this epoch. A slot holds nothing between epochs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::pipeline::settings::{ColumnType, MetadataKind, Source};
use crate::types::hidden_fields;

/// Declared columns, then metadata columns: what SQL sees of a source.
pub(super) fn visible_schema(source: &Source) -> SchemaRef {
    if let Some(internal) = &source.internal {
        return Arc::clone(&internal.columns);
    }
    let declared = source
        .columns
        .iter()
        .map(|column| Field::new(&column.name, column_type(column.column_type), column.is_nullable));
    let metadata = source.metadata.iter().map(|column| metadata_field(&column.name, column.kind));
    Arc::new(Schema::new(declared.chain(metadata).collect::<Vec<_>>()))
}

/// `visible` and the hidden columns behind.
pub(super) fn with_hidden(visible: &Schema) -> SchemaRef {
    Arc::new(Schema::new(visible.fields().iter().chain(hidden_fields()).cloned().collect::<Fields>()))
}

fn column_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::String => DataType::Utf8,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
        ColumnType::Timestamp | ColumnType::Epoch(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}

fn metadata_field(name: &str, kind: MetadataKind) -> Field {
    match kind {
        MetadataKind::Topic => Field::new(name, DataType::Utf8, false),
        MetadataKind::Partition => Field::new(name, DataType::Int32, false),
        MetadataKind::Offset => Field::new(name, DataType::Int64, false),
        MetadataKind::Timestamp => Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), true),
        MetadataKind::Key => Field::new(name, DataType::Binary, true),
        MetadataKind::Headers => {
            let header = Fields::from(vec![
                Field::new("name", DataType::Utf8, false),
                Field::new("value", DataType::Binary, true),
            ]);
            Field::new(name, DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header), false))), false)
        }
    }
}

/// The slots of one worker, reached by segments through their task context.
#[derive(Debug)]
pub(super) struct Slots(Vec<Mutex<Vec<RecordBatch>>>);

impl Slots {
    pub(super) fn new(num_slots: usize) -> Slots {
        Slots((0..num_slots).map(|_| Mutex::default()).collect())
    }

    pub(super) fn fill(&self, slot: usize, batches: Vec<RecordBatch>) {
        *self.0[slot].lock().unwrap_or_else(PoisonError::into_inner) = batches;
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn read(&self, slot: usize) -> Option<Vec<RecordBatch>> {
        Some(self.0.get(slot)?.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A source or view. For analysis it has the visible columns and no slot; for planning all columns and a slot.
#[derive(Debug)]
pub(super) struct SlotTable {
    pub(super) name: Arc<str>,
    pub(super) schema: SchemaRef,
    pub(super) slot: Option<usize>,
}

impl TableProvider for SlotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    // Written out as `async_trait` would do it.
    fn scan<'a, 'b, 'c, 'd, 'out>(
        &'a self,
        _state: &'b dyn Session,
        projection: Option<&'c Vec<usize>>,
        _filters: &'d [Expr],
        _limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<dyn ExecutionPlan>>> + Send + 'out>>
    where
        'a: 'out,
        'b: 'out,
        'c: 'out,
        'd: 'out,
        Self: 'out,
    {
        // A plan over tables without slots is made to see whether it can be; nobody runs it.
        let slot = self.slot.unwrap_or(usize::MAX);
        let plan = SlotExec::new(Arc::clone(&self.name), slot, &self.schema, projection.cloned())
            .map(|exec| Arc::new(exec) as Arc<dyn ExecutionPlan>);
        Box::pin(std::future::ready(plan))
    }
}

/// The leaf of a segment.
#[derive(Debug, Clone)]
pub(super) struct SlotExec {
    name: Arc<str>,
    slot: usize,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl SlotExec {
    fn new(name: Arc<str>, slot: usize, schema: &SchemaRef, projection: Option<Vec<usize>>) -> Result<SlotExec> {
        let schema = match &projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => Arc::clone(schema),
        };
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(SlotExec { name, slot, projection, properties })
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// What is in the slot, with the columns that are wanted.
    pub(super) fn rows(&self, context: &TaskContext) -> Result<Vec<RecordBatch>> {
        let slots = context.session_config().get_extension::<Slots>();
        let Some(mut batches) = slots.and_then(|slots| slots.read(self.slot)) else {
            return internal_err!("a segment runs outside a worker's graph");
        };
        if let Some(columns) = &self.projection {
            for batch in &mut batches {
                *batch = batch.project(columns)?;
            }
        }
        Ok(batches)
    }
}

impl DisplayAs for SlotExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let columns = schema.fields().iter().map(|field| field.name().as_str()).filter(|name| !super::is_hidden(name));
        write!(f, "SlotExec: {}, columns=[{}]", self.name, columns.collect::<Vec<_>>().join(", "))
    }
}

impl ExecutionPlan for SlotExec {
    fn name(&self) -> &'static str {
        "SlotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a slot has no children") }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = futures::stream::iter(self.rows(&context)?.into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}
