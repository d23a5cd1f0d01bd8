//! Where two results differ: the rows of a sink against other Parquet files, column by column, bit for bit. Rows are matched by key
//! columns, by where they come from, or by their order; matching by key sorts both sides, on disk where memory does not do.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use arrow::array::{Array, ArrayRef, DynComparator, Int64Array, RecordBatch, RecordBatchOptions, make_comparator};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use tokio::runtime::Runtime;

use super::sort::{SortedRows, Sorter};
use crate::checkpoint::open_store;
use crate::error::{Error, Result};
use crate::pipeline::settings::FileFormat;
use crate::runtime::tasks;
use crate::source::AssignmentNumbers;
use crate::source::files::{FileBlock, FilesInOrder};
use crate::types::{NUM_POSITION_KEYS, POSITION_COLUMNS};

/// Differences of a column, and rows of one side, that are shown.
const EXAMPLES: usize = 3;
/// Memory of each side's sort.
const SORT_BYTES: usize = 256 << 20;
/// Numbers the rows of a side: equal keys are matched in the order in which they stand.
const ROW_NUMBER: &str = "__tm_row";

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Columns by which rows were matched; none: by their order.
    pub by: Vec<String>,
    /// Rows here and there.
    pub num_rows: [u64; 2],
    /// Rows that are on both sides.
    pub matched: u64,
    /// Columns that are on both sides.
    pub columns: Vec<ColumnDifference>,
    /// Columns that are only here, or only there.
    pub only_columns: [Vec<String>; 2],
    /// The first rows that are only here, or only there.
    pub only_rows: [Vec<String>; 2],
}

/// What differs in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDifference {
    /// Its name.
    pub name: String,
    /// The types, where they are not the same; then its values were not compared.
    pub types: Option<[String; 2]>,
    /// Rows whose values differ.
    pub differing: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Difference {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.num_rows == [self.matched; 2]
            && self.only_columns.iter().all(Vec::is_empty)
            && self.columns.iter().all(|column| column.differing == 0 && column.types.is_none())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [here, there] = self.num_rows;
        let by = if self.by.is_empty() { "their order".to_owned() } else { self.by.join(", ") };
        write!(f, "{here} rows here, {there} there; {} on both sides, matched by {by}", self.matched)?;
        for (side, place) in ["here", "there"].into_iter().enumerate() {
            let only = self.num_rows[side] - self.matched;
            if only > 0 {
                write!(f, "\n  only {place}: {only} rows")?;
            }
            for row in &self.only_rows[side] {
                write!(f, "\n    {row}")?;
            }
            if !self.only_columns[side].is_empty() {
                write!(f, "\n  columns only {place}: {}", self.only_columns[side].join(", "))?;
            }
        }
        let width = self.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0).max(6);
        write!(f, "\n  {:width$} {:>12} {:>12}", "column", "compared", "differing")?;
        for column in &self.columns {
            let name = &column.name;
            match &column.types {
                Some([here, there]) => write!(f, "\n  {name:width$} not compared: {here} here, {there} there")?,
                None => write!(f, "\n  {name:width$} {:>12} {:>12}", self.matched, column.differing)?,
            }
            for first in &column.first {
                write!(f, "\n    {first}")?;
            }
        }
        Ok(())
    }
}

/// Holds the Parquet file or folder `here` against `there`; rows are matched by the columns `by`, or, when there are none, by
/// the position columns if both sides have them, or else by their order.
pub fn compare_files(here: &str, there: &str, by: &[String], env: &BTreeMap<String, String>) -> Result<Difference> {
    let io = tasks::io_runtime()?;
    let sides = [Side::open(here, env, &io)?, Side::open(there, env, &io)?];
    let common = Common::of(&sides, by)?;
    let mut difference = common.start();
    let [here, there] = sides;
    if common.by.is_empty() {
        let rows = [Rows::InOrder(here.projected(&common)), Rows::InOrder(there.projected(&common))];
        in_order(rows.map(Cursor::new), &common, &mut difference, &io)?;
    } else {
        let rows = [here.sorted(&common, &io)?, there.sorted(&common, &io)?];
        by_key(rows.map(|rows| Cursor::new(Rows::Sorted(rows))), &common, &mut difference, &io)?;
    }
    Ok(difference)
}

/// The files of one side.
struct Side {
    files: FilesInOrder,
    schema: SchemaRef,
}

impl Side {
    fn open(uri: &str, env: &BTreeMap<String, String>, io: &Runtime) -> Result<Side> {
        let opened = || {
            let (store, path) = open_store(uri, &|name: &str| env.get(name).cloned())?;
            let numbers = AssignmentNumbers::default();
            let files = FilesInOrder::open("comparison", store, &path, FileFormat::Parquet, &numbers);
            let files = io.block_on(files)?;
            let schema = io.block_on(files.first_schema())?;
            Ok(Side { files, schema })
        };
        opened().map_err(|error: Error| error.context(format!("comparison with {uri}")))
    }

    fn projected(self, common: &Common) -> Projected {
        Projected { files: self.files, names: common.names.clone(), num_rows: 0 }
    }

    fn sorted(self, common: &Common, io: &Runtime) -> Result<SortedRows> {
        let mut rows = self.projected(common);
        let mut sorter = Sorter::new(io.handle(), &common.schema, &common.sort_keys(), SORT_BYTES)?;
        while let Some(batch) = rows.next(&common.schema, io)? {
            sorter.push(batch)?;
        }
        Ok(sorter.finish())
    }
}

/// What both sides have in common.
struct Common {
    /// Names of the columns that are compared.
    names: Vec<String>,
    /// Those columns in their plain types, and the number of the row.
    schema: SchemaRef,
    /// Places of the columns by which rows are matched.
    by: Vec<usize>,
    only_columns: [Vec<String>; 2],
    /// Columns whose types differ.
    of_other_type: Vec<ColumnDifference>,
}

impl Common {
    fn of(sides: &[Side; 2], by: &[String]) -> Result<Common> {
        let [here, there] = [&sides[0].schema, &sides[1].schema];
        let mut fields = Vec::new();
        let mut of_other_type = Vec::new();
        for field in here.fields() {
            let Ok(other) = there.field_with_name(field.name()) else { continue };
            let types = [plain(field.data_type()), plain(other.data_type())];
            if types[0].equals_datatype(&types[1]) {
                fields.push(Field::new(field.name(), types[0].clone(), true));
            } else {
                let types = Some(types.map(|data_type| data_type.to_string()));
                of_other_type.push(ColumnDifference {
                    name: field.name().clone(),
                    types,
                    differing: 0,
                    first: Vec::new(),
                });
            }
        }
        let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        let positions = || POSITION_COLUMNS[..NUM_POSITION_KEYS].iter().map(|name| place(name)).collect();
        let by = if by.is_empty() {
            Option::<Vec<usize>>::unwrap_or_default(positions())
        } else {
            let place = |wanted: &String| {
                place(wanted).ok_or_else(|| {
                    Error::invalid(format!(
                        "rows cannot be matched by `{wanted}`: expected a column that both sides have in one type; these are: {}",
                        names.join(", ")
                    ))
                })
            };
            by.iter().map(place).collect::<Result<_>>()?
        };
        let only = |one: &SchemaRef, other: &SchemaRef| {
            let names = one.fields().iter().map(|field| field.name());
            names.filter(|name| other.column_with_name(name).is_none()).cloned().collect()
        };
        let only_columns = [only(here, there), only(there, here)];
        fields.push(Field::new(ROW_NUMBER, DataType::Int64, false));
        Ok(Common { names, schema: Schema::new(fields).into(), by, only_columns, of_other_type })
    }

    fn sort_keys(&self) -> Vec<usize> {
        self.by.iter().copied().chain([self.names.len()]).collect()
    }

    /// A difference in which no row was compared yet.
    fn start(&self) -> Difference {
        let column =
            |name: &String| ColumnDifference { name: name.clone(), types: None, differing: 0, first: Vec::new() };
        Difference {
            by: self.by.iter().map(|place| self.names[*place].clone()).collect(),
            columns: self.names.iter().map(column).chain(self.of_other_type.iter().cloned()).collect(),
            only_columns: self.only_columns.clone(),
            ..Difference::default()
        }
    }

    /// What tells a row from others, for a person.
    fn shown(&self, batch: &RecordBatch, row: usize) -> String {
        let columns = if self.by.is_empty() { vec![self.names.len()] } else { self.by.clone() };
        let cells = columns.into_iter().map(|place| {
            let name = self.names.get(place).map_or("row", String::as_str);
            format!("{name}: {}", cell(batch.column(place), row))
        });
        cells.collect::<Vec<_>>().join(", ")
    }
}

/// The type without how it is laid out in memory, which files do not keep.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    array_value_to_string(column, row).unwrap_or_else(|_| "a value that cannot be shown".to_owned())
}

/// Rows of a side, in the columns that are compared.
struct Projected {
    files: FilesInOrder,
    names: Vec<String>,
    num_rows: i64,
}

impl Projected {
    fn next(&mut self, schema: &SchemaRef, io: &Runtime) -> Result<Option<RecordBatch>> {
        let block = match io.block_on(self.files.next())? {
            Some(FileBlock::Rows(block)) => block,
            Some(FileBlock::Records(_)) => return Err(Error::internal("lines in a Parquet file")),
            None => return Ok(None),
        };
        let mut columns = Vec::with_capacity(self.names.len() + 1);
        for (name, field) in self.names.iter().zip(schema.fields()) {
            let column = block.batch.column_by_name(name);
            let column = column.and_then(|column| cast(column, field.data_type()).ok());
            columns.push(column.ok_or_else(|| {
                let file = self.files.units().get(block.assignment).map(|unit| unit.topic.clone()).unwrap_or_default();
                let expected = field.data_type();
                Error::data(format!("file {file}: expected a column {name} of type {expected}, as in the others"))
            })?);
        }
        // As a person counts.
        let numbers = (self.num_rows + 1..).take(block.len());
        columns.push(std::sync::Arc::new(Int64Array::from_iter_values(numbers)));
        self.num_rows += block.len() as i64;
        let options = RecordBatchOptions::new().with_row_count(Some(block.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options);
        batch.map(Some).map_err(|error| Error::internal("rows to be compared lost their columns").with_source(error))
    }
}

enum Rows {
    InOrder(Projected),
    Sorted(SortedRows),
}

/// A row of one side.
struct Cursor {
    rows: Rows,
    batch: Option<RecordBatch>,
    row: usize,
    num_rows: u64,
}

impl Cursor {
    fn new(rows: Rows) -> Cursor {
        Cursor { rows, batch: None, row: 0, num_rows: 0 }
    }

    /// Makes sure that there is a row, if there is any left; whether the batch is another one now.
    fn fill(&mut self, schema: &SchemaRef, io: &Runtime) -> Result<bool> {
        if self.batch.as_ref().is_some_and(|batch| self.row < batch.num_rows()) {
            return Ok(false);
        }
        loop {
            self.row = 0;
            self.batch = match &mut self.rows {
                Rows::InOrder(rows) => rows.next(schema, io)?,
                Rows::Sorted(rows) => rows.next()?,
            };
            if self.batch.as_ref().is_none_or(|batch| batch.num_rows() > 0) {
                return Ok(true);
            }
        }
    }

    fn step(&mut self) {
        self.row += 1;
        self.num_rows += 1;
    }
}

/// Compares values of two batches by their bits, in the order of the sort.
fn comparators(here: &RecordBatch, there: &RecordBatch, columns: usize) -> Result<Vec<DynComparator>> {
    let pairs = here.columns().iter().zip(there.columns()).take(columns);
    pairs
        .map(|(here, there)| {
            make_comparator(here, there, SortOptions::default()).map_err(|error| {
                Error::invalid(format!("values of type {} cannot be compared", here.data_type())).with_source(error)
            })
        })
        .collect()
}

fn in_order(cursors: [Cursor; 2], common: &Common, difference: &mut Difference, io: &Runtime) -> Result<()> {
    merge(cursors, common, difference, io, |_, _| Ordering::Equal)
}

fn by_key(cursors: [Cursor; 2], common: &Common, difference: &mut Difference, io: &Runtime) -> Result<()> {
    merge(cursors, common, difference, io, |comparators, [here, there]| {
        let orders = common.by.iter().map(|column| comparators[*column](here, there));
        orders.fold(Ordering::Equal, Ordering::then)
    })
}

/// Goes through both sides; `order` says which of two rows is first, or that they belong together.
fn merge(
    [mut here, mut there]: [Cursor; 2],
    common: &Common,
    difference: &mut Difference,
    io: &Runtime,
    order: impl Fn(&[DynComparator], [usize; 2]) -> Ordering,
) -> Result<()> {
    let mut compared = Vec::new();
    loop {
        let is_other = here.fill(&common.schema, io)? | there.fill(&common.schema, io)?;
        match (&here.batch, &there.batch) {
            (Some(left), Some(right)) => {
                if is_other {
                    compared = comparators(left, right, common.names.len())?;
                }
                let rows = [here.row, there.row];
                match order(&compared, rows) {
                    Ordering::Less => only(&mut here, 0, common, difference),
                    Ordering::Greater => only(&mut there, 1, common, difference),
                    Ordering::Equal => {
                        both([left, right], rows, &compared, common, difference);
                        here.step();
                        there.step();
                    }
                }
            }
            (Some(_), None) => only(&mut here, 0, common, difference),
            (None, Some(_)) => only(&mut there, 1, common, difference),
            (None, None) => break,
        }
    }
    difference.num_rows = [here.num_rows, there.num_rows];
    Ok(())
}

/// A row that is on one side.
fn only(cursor: &mut Cursor, side: usize, common: &Common, difference: &mut Difference) {
    let examples = &mut difference.only_rows[side];
    if let Some(batch) = cursor.batch.as_ref().filter(|_| examples.len() < EXAMPLES) {
        examples.push(common.shown(batch, cursor.row));
    }
    cursor.step();
}

/// A row that is on both sides.
fn both(
    [left, right]: [&RecordBatch; 2],
    [row, other]: [usize; 2],
    compared: &[DynComparator],
    common: &Common,
    difference: &mut Difference,
) {
    difference.matched += 1;
    for (place, compare) in compared.iter().enumerate() {
        if compare(row, other).is_eq() {
            continue;
        }
        let column = &mut difference.columns[place];
        column.differing += 1;
        if column.first.len() < EXAMPLES {
            let cells = [cell(left.column(place), row), cell(right.column(place), other)];
            let bits = if cells[0] == cells[1] { ", with other bits" } else { "" };
            let at = common.shown(left, row);
            column.first.push(format!("{at}: {} here, {} there{bits}", cells[0], cells[1]));
        }
    }
}

#[cfg(test)]
mod tests;
