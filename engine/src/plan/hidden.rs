//! From analysed queries to plans over slots: views that nobody else reads are put in their reader's place, windows become
//! slots of their own, and the hidden columns are threaded from every slot to the top, where the optimiser cannot prune them.
//! Also the list of what may stand in a plan: the second wall behind `accept`.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, internal_err};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, Projection, SubqueryAlias, TableScanBuilder, Union, Unnest, Window, lit, when,
};

use super::table::SlotTable;
use super::window_stage::INCOMPLETE;
use crate::types::{HIDDEN_COLUMNS, HIDDEN_W};

/// Columns that a view with windows has beside its own: by how much its row was late, microseconds, and whether its windows
/// could not see all of their frames.
pub(super) const LATE_BY: &str = "_late_by";
/// See [`LATE_BY`].
pub(super) const HISTORY_INCOMPLETE: &str = "_history_incomplete";

/// Where the rows of a table come from.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// A slot with all columns.
    Slot { slot: usize, schema: SchemaRef },
    /// The view's own analysed plan.
    Inline(&'a LogicalPlan),
}

/// What stands in a window's place: given the node and its threaded input, the plan that reads the answers.
pub(super) type Cut<'c> = dyn FnMut(&Window, LogicalPlan) -> Result<LogicalPlan> + 'c;

/// Rewrites `plan` so that it reads slots and ends with the hidden columns; above a window, [`INCOMPLETE`] stands before
/// them.
pub(super) fn thread_hidden<'a>(
    plan: &LogicalPlan,
    origin: &dyn Fn(&str) -> Option<Origin<'a>>,
    cut: &mut Cut<'_>,
) -> Result<LogicalPlan> {
    let mut child = |plan: &Arc<LogicalPlan>| thread_hidden(plan, origin, &mut *cut).map(Arc::new);
    match plan {
        LogicalPlan::TableScan(scan) => match origin(scan.table_name.table()) {
            Some(Origin::Slot { slot, schema }) => {
                Ok(scan_of(scan.table_name.clone(), scan.table_name.table(), slot, schema)?)
            }
            Some(Origin::Inline(view)) => {
                let view = Arc::new(thread_hidden(view, origin, cut)?);
                Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(view, scan.table_name.clone())?))
            }
            None => internal_err!("no rows for the table {}", scan.table_name),
        },
        LogicalPlan::Projection(projection) => {
            let input = child(&projection.input)?;
            let mut exprs = projection.expr.clone();
            exprs.extend(hidden_columns(&input)?);
            Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?))
        }
        LogicalPlan::Filter(filter) => {
            Ok(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), child(&filter.input)?)?))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(child(&alias.input)?, alias.alias.clone())?))
        }
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(child).collect::<Result<Vec<_>>>()?;
            Ok(LogicalPlan::Union(Union::try_new_with_loose_types(with_equal_flags(inputs)?)?))
        }
        LogicalPlan::Unnest(unnest) => {
            let columns = unnest.exec_columns.clone();
            Ok(LogicalPlan::Unnest(Unnest::try_new(child(&unnest.input)?, columns, unnest.options.clone())?))
        }
        LogicalPlan::Window(window) => {
            let input = thread_hidden(&window.input, origin, cut)?;
            cut(window, input)
        }
        other => internal_err!("{} cannot carry positions", other.display()),
    }
}

/// A scan of a slot with all its columns, under a name.
pub(super) fn scan_of(
    table: impl Into<datafusion::common::TableReference>,
    name: &str,
    slot: usize,
    schema: SchemaRef,
) -> Result<LogicalPlan> {
    let provider: Arc<dyn TableProvider> = Arc::new(SlotTable { name: Arc::from(name), schema, slot: Some(slot) });
    let scan = TableScanBuilder::new(table, provider_as_source(provider)).build()?;
    Ok(LogicalPlan::TableScan(scan))
}

/// Branches of a UNION have the same columns: without a window below, nothing is missing.
fn with_equal_flags(inputs: Vec<Arc<LogicalPlan>>) -> Result<Vec<Arc<LogicalPlan>>> {
    if !inputs.iter().any(|input| has_flag(input)) {
        return Ok(inputs);
    }
    let flagged = |input: Arc<LogicalPlan>| {
        if has_flag(&input) {
            return Ok(input);
        }
        let mut exprs: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.insert(exprs.len() - HIDDEN_COLUMNS.len(), lit(false).alias(INCOMPLETE));
        Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, input)?)))
    };
    inputs.into_iter().map(flagged).collect()
}

/// The column that says whose history is incomplete, where the rows came through a window.
pub(super) fn flag_of(plan: &LogicalPlan) -> Option<Column> {
    let columns = plan.schema().columns();
    let place = columns.len().checked_sub(HIDDEN_COLUMNS.len() + 1)?;
    columns.into_iter().nth(place).filter(|column| column.name == INCOMPLETE)
}

/// Whether a threaded plan's rows came through a window.
pub(super) fn has_flag(plan: &LogicalPlan) -> bool {
    flag_of(plan).is_some()
}

/// The columns behind the visible ones of a threaded plan.
pub(super) fn hidden_columns(plan: &LogicalPlan) -> Result<Vec<Expr>> {
    let schema = plan.schema();
    let first = schema.fields().len().saturating_sub(HIDDEN_COLUMNS.len());
    let hidden: Vec<Column> = schema.columns().into_iter().skip(first).collect();
    if hidden.iter().map(|column| column.name.as_str()).ne(HIDDEN_COLUMNS) {
        return internal_err!("a plan lost the columns of its rows' positions");
    }
    Ok(flag_of(plan).into_iter().chain(hidden).map(Expr::Column).collect())
}

/// The threaded plan of a query with windows, with [`LATE_BY`] and [`HISTORY_INCOMPLETE`] among its visible columns. Those of
/// a view below that pass through it are joined with what its own windows say: behind a repartition a row can be late that was in
/// time before it.
pub(super) fn with_flags(plan: LogicalPlan) -> Result<LogicalPlan> {
    let Some(flag) = flag_of(&plan) else {
        return internal_err!("the rows of a query with windows came through none");
    };
    let columns = plan.schema().columns();
    let (visible, hidden) = columns.split_at(columns.len() - HIDDEN_COLUMNS.len());
    let visible = &visible[..visible.len() - 1];
    let incomplete = |column: &Column| Expr::Column(column.clone()).or(Expr::Column(flag.clone()));
    let (w, time) = (Expr::Column(hidden[HIDDEN_W].clone()), Expr::Column(hidden[HIDDEN_W - 1].clone()));
    let late_by = when(w.clone().gt(time.clone()), w - time).otherwise(lit(0_i64))?;
    let later = |column: &Column| {
        let below = Expr::Column(column.clone());
        when(late_by.clone().gt(below.clone()), late_by.clone()).otherwise(below)
    };
    let mut exprs: Vec<Expr> = visible
        .iter()
        .map(|column| match column.name.as_str() {
            LATE_BY => Ok(later(column)?.alias_qualified(column.relation.clone(), LATE_BY)),
            HISTORY_INCOMPLETE => Ok(incomplete(column).alias_qualified(column.relation.clone(), HISTORY_INCOMPLETE)),
            _ => Ok(Expr::Column(column.clone())),
        })
        .collect::<Result<_>>()?;
    let has = |name: &str| visible.iter().any(|column| column.name == name);
    if !has(LATE_BY) {
        exprs.push(late_by.alias(LATE_BY));
    }
    if !has(HISTORY_INCOMPLETE) {
        exprs.push(Expr::Column(flag).alias(HISTORY_INCOMPLETE));
    }
    exprs.extend(hidden.iter().cloned().map(Expr::Column));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// Whether a plan has windows.
pub(super) fn has_windows(plan: &LogicalPlan) -> bool {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Window(_)))).unwrap_or(true)
}

/// A node that a segment cannot run, by name.
pub(super) fn foreign_node(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let walk = plan.apply_with_subqueries(|node| match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Unnest(_) => {
            let is_window = matches!(node, LogicalPlan::Window(_));
            let foreign = node.expressions().into_iter().find_map(|expr| foreign_expr(&expr, is_window));
            if foreign.is_some() {
                found = foreign;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        }
        other => {
            found = Some(other.display().to_string());
            Ok(TreeNodeRecursion::Stop)
        }
    });
    debug_assert!(walk.is_ok(), "looking at a plan cannot fail");
    found
}

fn foreign_expr(expr: &Expr, is_window: bool) -> Option<String> {
    let mut found = None;
    let walk = expr.apply(|expr| {
        let foreign = matches!(expr, Expr::WindowFunction(_) if !is_window)
            || matches!(
                expr,
                Expr::AggregateFunction(_)
                    | Expr::GroupingSet(_)
                    | Expr::ScalarVariable(..)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::OuterReferenceColumn(..)
                    | Expr::Placeholder(_)
            );
        if foreign {
            found = Some(expr.to_string());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walk.is_ok(), "looking at an expression cannot fail");
    found
}

/// The sources and views that a plan reads, once per place.
pub(super) fn tables_read(plan: &LogicalPlan) -> Vec<String> {
    let mut tables = Vec::new();
    let walk = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.push(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walk.is_ok(), "looking at a plan cannot fail");
    tables
}

/// Whether one record can become several rows.
pub(super) fn multiplies(plan: &LogicalPlan) -> bool {
    let multiplies = plan.exists(|node| Ok(matches!(node, LogicalPlan::Union(_) | LogicalPlan::Unnest(_))));
    multiplies.unwrap_or(true)
}
