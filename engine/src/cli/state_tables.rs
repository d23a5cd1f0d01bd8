//! The state of a checkpoint as tables for SQL: per operator one of its keys and one of the rows that are retained of them,
//! over all state units, with the changes of deltas applied. Reads only, and only the operators that a query mentions; what is
//! read is held in memory.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int32Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::{cast, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, UInt64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::sync::mpsc::channel;

use crate::checkpoint::inspect::Inspector;
use crate::checkpoint::state::{ReadPart, read_state};
use crate::checkpoint::{Folder, OperatorState, Snapshot, StateTable, newest_snapshots};
use crate::error::{Error, Result};
use crate::types::StateUnit;

/// The tables of a checkpoint.
pub(super) struct StateTables {
    folder: Folder,
    /// By operator: of each unit the parts of its newest state, the full one first.
    operators: BTreeMap<String, Vec<(StateUnit, Vec<OperatorState>)>>,
}

/// An operator's two tables.
#[derive(Default)]
struct Tables {
    slots: Vec<RecordBatch>,
    rows: Vec<RecordBatch>,
}

impl StateTables {
    pub(super) async fn open(inspector: Inspector) -> Result<StateTables> {
        let mut operators: BTreeMap<String, Vec<(StateUnit, Vec<OperatorState>)>> = BTreeMap::new();
        for summary in inspector.list().await? {
            let state = summary.newest?.state;
            let newest = newest_snapshots(&state);
            let names = newest.last().into_iter().flat_map(|snapshot| snapshot.operators.keys());
            for name in names {
                let part = |snapshot: &Snapshot| snapshot.operators.get(name).cloned();
                let parts: Vec<OperatorState> =
                    newest.iter().filter_map(part).filter(|part| !part.files.is_empty()).collect();
                operators.entry(name.clone()).or_default().push((summary.unit.clone(), parts));
            }
        }
        Ok(StateTables { folder: inspector.folder().clone(), operators })
    }

    /// The tables, their sizes and columns.
    pub(super) async fn list(&self) -> Result<String> {
        let mut text = String::new();
        for (name, units) in &self.operators {
            let tables = self.load(name, units, true).await?;
            for (table, batches) in [(StateTable::Slots, &tables.slots), (StateTable::Rows, &tables.rows)] {
                let rows: u64 = units
                    .iter()
                    .flat_map(|(_, parts)| parts)
                    .filter_map(|part| part.file(table))
                    .map(|file| file.rows)
                    .sum();
                let columns = batches.first().map_or_else(String::new, |batch| {
                    let column = |field: &Arc<Field>| format!("{} {}", field.name(), field.data_type());
                    batch.schema_ref().fields().iter().map(column).collect::<Vec<_>>().join(", ")
                });
                let wide = if columns.is_empty() { "no rows yet".to_owned() } else { columns };
                writeln!(text, "{}  ({} units, up to {rows} rows)\n  {wide}", table_name(name, table), units.len())
                    .map_err(|error| Error::internal("a list cannot be written").with_source(error))?;
            }
        }
        if text.is_empty() {
            text.push_str("no state: the pipeline has no windows, or has published nothing yet\n");
        }
        Ok(text)
    }

    /// The answer to a SELECT, as a table for people.
    pub(super) async fn query(&self, sql: &str) -> Result<String> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for (name, units) in &self.operators {
            if !sql.contains(&base_name(name)) {
                continue;
            }
            let tables = self.load(name, units, false).await?;
            for (table, batches) in [(StateTable::Slots, tables.slots), (StateTable::Rows, tables.rows)] {
                let Some(schema) = batches.first().map(RecordBatch::schema) else { continue };
                let table_name = table_name(name, table);
                let stored = MemTable::try_new(schema, vec![batches]).map_err(|error| {
                    Error::data(format!(
                        "{table_name}: the units' state was written by different SQL and does not fit into one table"
                    ))
                    .with_source(error)
                })?;
                context.register_table(&table_name, Arc::new(stored)).map_err(|error| failed(&error))?;
            }
        }
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = context.sql_with_options(sql, options).await.map_err(|error| self.refused(&error))?;
        let batches = frame.collect().await.map_err(|error| failed(&error))?;
        let table = pretty_format_batches(&batches);
        table.map(|table| table.to_string()).map_err(unreadable)
    }

    fn refused(&self, error: &dyn std::fmt::Display) -> Error {
        let names: Vec<String> = self
            .operators
            .keys()
            .flat_map(|name| [StateTable::Slots, StateTable::Rows].map(|table| table_name(name, table)))
            .collect();
        Error::invalid(format!("{error}; expected a SELECT over {}", names.join(", ")))
    }

    /// Reads an operator's state in all units; of each unit only the beginning when `columns_only`.
    async fn load(&self, name: &str, units: &[(StateUnit, Vec<OperatorState>)], columns_only: bool) -> Result<Tables> {
        let mut tables = Tables::default();
        for (unit, parts) in units {
            let mut newer = HashSet::new();
            // The newest part first: a key in it replaces the key in older ones.
            for (age, part) in parts.iter().rev().enumerate() {
                let is_oldest = age + 1 == parts.len();
                self.read(unit, part, &mut newer, is_oldest, &mut tables)
                    .await
                    .map_err(|error| error.context(format!("operator {name} of {unit}")))?;
                if columns_only && !tables.slots.is_empty() {
                    return Ok(tables);
                }
            }
        }
        Ok(tables)
    }

    async fn read(
        &self,
        unit: &StateUnit,
        part: &OperatorState,
        newer: &mut HashSet<Vec<u8>>,
        is_oldest: bool,
        tables: &mut Tables,
    ) -> Result<()> {
        let (sender, mut receiver) = channel(2);
        let mut seen = Vec::new();
        let collect = async {
            while let Some(read) = receiver.recv().await {
                let ReadPart::Piece(slots, rows) = read else { continue };
                let stays =
                    newest_keys(&slots, part.keys.len(), newer, if is_oldest { None } else { Some(&mut seen) })?;
                let (slots, rows) = named(unit, part, &slots, &rows, &stays).map_err(unreadable)?;
                tables.slots.push(slots);
                tables.rows.push(rows);
            }
            Ok::<(), Error>(())
        };
        let (read, collected) = tokio::join!(read_state(self.folder.clone(), part.clone(), sender), collect);
        read?;
        collected?;
        newer.extend(seen);
        Ok(())
    }
}

/// Which keys of a piece no newer part has.
fn newest_keys(
    slots: &RecordBatch,
    num_keys: usize,
    newer: &HashSet<Vec<u8>>,
    seen: Option<&mut Vec<Vec<u8>>>,
) -> Result<BooleanArray> {
    let columns = slots.columns().get(1..1 + num_keys).ok_or_else(|| unreadable("too few columns"))?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows =
        RowConverter::new(fields).and_then(|converter| converter.convert_columns(columns)).map_err(unreadable)?;
    if let Some(seen) = seen {
        seen.extend(rows.iter().map(|row| row.as_ref().to_vec()));
    }
    Ok(rows.iter().map(|row| Some(!newer.contains(row.as_ref()))).collect())
}

/// The tables of one piece: unit and key by name in both, and without the numbers that join them.
fn named(
    unit: &StateUnit,
    part: &OperatorState,
    slots: &RecordBatch,
    rows: &RecordBatch,
    stays: &BooleanArray,
) -> std::result::Result<(RecordBatch, RecordBatch), ArrowError> {
    let wrong = || ArrowError::SchemaError("another form of state".into());
    let numbers = slots.column(0).as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let of_rows = rows.column(0).as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    // The keys of a piece are numbered one after the other.
    let first = numbers.values().first().copied().unwrap_or(0);
    let places = UInt64Array::from_iter_values(of_rows.values().iter().map(|number| number.saturating_sub(first)));
    let row_stays = take(stays, &places, None)?;
    let num_keys = part.keys.len();
    let key_columns: Vec<ArrayRef> = slots.columns()[1..1 + num_keys].to_vec();
    let row_keys = key_columns.iter().map(|column| take(column, &places, None)).collect::<Result<Vec<_>, _>>()?;
    let rest = |batch: &RecordBatch, from: usize| -> Vec<(String, ArrayRef)> {
        let names = batch.schema_ref().fields().iter().map(|field| field.name().clone());
        names.zip(batch.columns().iter().cloned()).skip(from).collect()
    };
    let slots = table(unit, &part.keys, key_columns, rest(slots, 1 + num_keys), slots.num_rows())?;
    let rows = table(unit, &part.keys, row_keys, rest(rows, 1), rows.num_rows())?;
    Ok((filter_record_batch(&slots, stays)?, filter_record_batch(&rows, row_stays.as_boolean())?))
}

fn table(
    unit: &StateUnit,
    names: &[String],
    keys: Vec<ArrayRef>,
    rest: Vec<(String, ArrayRef)>,
    num_rows: usize,
) -> std::result::Result<RecordBatch, ArrowError> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; num_rows])) };
    let mut columns = vec![
        ("source".to_owned(), text(&unit.source)),
        ("topic".to_owned(), text(&unit.topic)),
        ("partition".to_owned(), Arc::new(Int32Array::from(vec![unit.partition; num_rows])) as ArrayRef),
    ];
    let mut add = |name: &str, column: ArrayRef| {
        let is_taken = columns.iter().any(|(taken, _)| taken == name);
        let name = if is_taken { format!("{name}_{}", columns.len()) } else { name.to_owned() };
        columns.push((name, column));
    };
    for (name, column) in names.iter().zip(keys) {
        add(name, column);
    }
    for (name, column) in rest {
        let is_time = name == "event_time" || (name.starts_with("prefix_") && name.ends_with("_time"));
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        add(&name, if is_time { cast(&column, &utc)? } else { column });
    }
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())
}

/// `features.1` is `features_1` in SQL.
fn base_name(operator: &str) -> String {
    operator.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

fn table_name(operator: &str, table: StateTable) -> String {
    format!("{}_{}", base_name(operator), table.as_str())
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("the query failed: {error}"))
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::data(format!("the state cannot be read as tables: {error}"))
}

#[cfg(test)]
mod tests;
