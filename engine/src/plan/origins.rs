//! What a view's columns are computed from: of each, the columns of the tables that the view reads. Whatever decides which rows
//! there are counts for every column, because a row that a condition leaves out is missing in the windows of others.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::logical_expr::{Expr, LogicalPlan};

/// Columns of tables: (table, column).
pub(crate) type Origins = BTreeSet<(String, String)>;

/// What a column is computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ColumnOrigins {
    /// Its values.
    pub(crate) value: Origins,
    /// Whether a row is there at all.
    pub(crate) rows: Origins,
}

/// Of a view's columns by name, what they are computed from.
pub(super) fn column_origins(plan: &LogicalPlan) -> BTreeMap<String, ColumnOrigins> {
    let Traced { columns, rows } = traced(plan);
    let names = plan.schema().fields().iter().map(|field| field.name().clone());
    names.zip(columns).map(|(name, value)| (name, ColumnOrigins { value, rows: rows.clone() })).collect()
}

struct Traced {
    /// By column of the plan.
    columns: Vec<Origins>,
    /// What decides which rows there are.
    rows: Origins,
}

fn traced(plan: &LogicalPlan) -> Traced {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.table_name.table();
            let column = |name: &String| Origins::from([(table.to_owned(), name.clone())]);
            let columns = plan.schema().fields().iter().map(|field| column(field.name())).collect();
            Traced { columns, rows: Origins::new() }
        }
        LogicalPlan::Projection(projection) => {
            let input = traced(&projection.input);
            let columns = projection.expr.iter().map(|expr| of_expr(expr, &projection.input, &input)).collect();
            Traced { columns, rows: input.rows }
        }
        LogicalPlan::Filter(filter) => {
            let mut input = traced(&filter.input);
            let condition = of_expr(&filter.predicate, &filter.input, &input);
            input.rows.extend(condition);
            input
        }
        LogicalPlan::Window(window) => {
            let mut input = traced(&window.input);
            let answers: Vec<Origins> = window
                .window_expr
                .iter()
                .map(|expr| {
                    let mut origins = of_expr(expr, &window.input, &input);
                    origins.extend(input.rows.iter().cloned());
                    origins
                })
                .collect();
            input.columns.extend(answers);
            input
        }
        LogicalPlan::Union(union) => {
            let mut inputs = union.inputs.iter().map(|input| traced(input));
            let mut all = inputs.next().unwrap_or(Traced { columns: Vec::new(), rows: Origins::new() });
            for other in inputs {
                all.rows.extend(other.rows);
                all.columns.iter_mut().zip(other.columns).for_each(|(column, other)| column.extend(other));
            }
            all
        }
        LogicalPlan::SubqueryAlias(alias) => traced(&alias.input),
        LogicalPlan::Unnest(unnest) => {
            let mut input = traced(&unnest.input);
            let of = |index: &usize| input.columns.get(*index).cloned().unwrap_or_default();
            let columns = unnest.dependency_indices.iter().map(of).collect();
            // How long a list is decides how many rows there are.
            let lists: Origins = unnest.list_type_columns.iter().flat_map(|(index, _)| of(index)).collect();
            input.rows.extend(lists);
            Traced { columns, rows: input.rows }
        }
        // The plan accepts no other node; one that came anyway is computed from everything below.
        other => {
            let below: Origins = other
                .inputs()
                .into_iter()
                .map(traced)
                .flat_map(|input| input.columns.into_iter().flatten().chain(input.rows).collect::<Vec<_>>())
                .collect();
            Traced { columns: vec![below.clone(); other.schema().fields().len()], rows: below }
        }
    }
}

fn of_expr(expr: &Expr, input: &LogicalPlan, traced: &Traced) -> Origins {
    let places = expr.column_refs().into_iter().filter_map(|column| input.schema().maybe_index_of_column(column));
    places.filter_map(|place| traced.columns.get(place)).flatten().cloned().collect()
}
