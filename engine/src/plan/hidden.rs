//! From analysed queries to plans over slots: views that nobody else reads are put in their reader's place, and the hidden
//! columns are threaded from every slot to the top, where the optimiser cannot prune them. Also the list of what may
//! stand in a plan: the second wall behind `accept`.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, internal_err};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, SubqueryAlias, TableScanBuilder, Union, Unnest};

use super::table::SlotTable;
use crate::types::HIDDEN_COLUMNS;

/// Where the rows of a table come from.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// A slot with all columns.
    Slot { slot: usize, schema: SchemaRef },
    /// The view's own analysed plan.
    Inline(&'a LogicalPlan),
}

/// Rewrites `plan` so that it reads slots and ends with the hidden columns.
pub(super) fn thread_hidden<'a>(
    plan: &LogicalPlan,
    origin: &dyn Fn(&str) -> Option<Origin<'a>>,
) -> Result<LogicalPlan> {
    let child = |plan: &Arc<LogicalPlan>| thread_hidden(plan, origin).map(Arc::new);
    match plan {
        LogicalPlan::TableScan(scan) => match origin(scan.table_name.table()) {
            Some(Origin::Slot { slot, schema }) => {
                let name = Arc::from(scan.table_name.table());
                let table: Arc<dyn TableProvider> = Arc::new(SlotTable { name, schema, slot: Some(slot) });
                let scan = TableScanBuilder::new(scan.table_name.clone(), provider_as_source(table)).build()?;
                Ok(LogicalPlan::TableScan(scan))
            }
            Some(Origin::Inline(view)) => {
                let view = Arc::new(thread_hidden(view, origin)?);
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
            Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
        }
        LogicalPlan::Unnest(unnest) => {
            let columns = unnest.exec_columns.clone();
            Ok(LogicalPlan::Unnest(Unnest::try_new(child(&unnest.input)?, columns, unnest.options.clone())?))
        }
        other => internal_err!("{} cannot carry positions", other.display()),
    }
}

fn hidden_columns(plan: &LogicalPlan) -> Result<Vec<Expr>> {
    let schema = plan.schema();
    let first = schema.fields().len().saturating_sub(HIDDEN_COLUMNS.len());
    let hidden: Vec<Column> = schema.columns().into_iter().skip(first).collect();
    if hidden.iter().map(|column| column.name.as_str()).ne(HIDDEN_COLUMNS) {
        return internal_err!("a plan lost the columns of its rows' positions");
    }
    Ok(hidden.into_iter().map(Expr::Column).collect())
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
        | LogicalPlan::Unnest(_) => {
            let foreign = node.expressions().into_iter().find_map(|expr| foreign_expr(&expr));
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

fn foreign_expr(expr: &Expr) -> Option<String> {
    let mut found = None;
    let walk = expr.apply(|expr| {
        let foreign = matches!(
            expr,
            Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
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
