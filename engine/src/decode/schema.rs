//! The table that a source's records become: declared columns, then metadata columns. The one place where the types of a
//! pipeline file become Arrow types.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use crate::pipeline::settings::{ColumnType, MetadataKind, Source};
use crate::types::hidden_fields;

/// The Arrow type of a declared column.
#[must_use]
pub fn arrow_type(column_type: ColumnType) -> DataType {
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

/// The columns that SQL sees: the declared ones, then those of metadata.
#[must_use]
pub fn table_schema(source: &Source) -> SchemaRef {
    if let Some(internal) = &source.internal {
        return internal.columns.clone();
    }
    let declared = source.columns.iter();
    let declared = declared.map(|column| Field::new(&column.name, arrow_type(column.column_type), column.is_nullable));
    let metadata = source.metadata.iter().map(|column| {
        let (data_type, is_nullable) = metadata_type(column.kind);
        Field::new(&column.name, data_type, is_nullable)
    });
    Arc::new(Schema::new(declared.chain(metadata).collect::<Vec<_>>()))
}

/// `schema` with the hidden columns after it.
pub(super) fn with_hidden(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().chain(hidden_fields()).cloned();
    Arc::new(Schema::new(fields.collect::<Fields>()))
}

/// Type of a metadata column, and whether it may be null.
fn metadata_type(kind: MetadataKind) -> (DataType, bool) {
    match kind {
        MetadataKind::Topic => (DataType::Utf8, false),
        MetadataKind::Partition => (DataType::Int32, false),
        MetadataKind::Offset => (DataType::Int64, false),
        MetadataKind::Timestamp => (DataType::Timestamp(TimeUnit::Microsecond, None), true),
        MetadataKind::Key => (DataType::Binary, true),
        MetadataKind::Headers => (DataType::List(header_item()), false),
    }
}

/// The items of a list of headers.
pub(super) fn header_item() -> FieldRef {
    static ITEM: LazyLock<FieldRef> =
        LazyLock::new(|| Arc::new(Field::new("item", DataType::Struct(header_fields()), false)));
    ITEM.clone()
}

/// The fields of a header.
pub(super) fn header_fields() -> Fields {
    static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
        Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
    });
    FIELDS.clone()
}
