//! Reasons come after the filter. Where one SELECT computes a score and its reasons, and another keeps few of the rows, the
//! optimiser leaves both below the filter: it cannot know that the reasons are not asked for there. Here they are computed above
//! it. Only within a stage: a view that several others read is computed for all of them, with its reasons.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use tidemill_udfs::functions::EXPLAIN_SCORE;

use crate::types::HIDDEN_PREFIX;

/// Moves columns of reasons above the filters that do not ask for them.
pub(super) fn after_filters(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|plan| match deferred(&plan)? {
        Some(deferred) => Ok(Transformed::yes(deferred)),
        None => Ok(Transformed::no(plan)),
    })?;
    Ok(plan.data)
}

fn is_reason(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let is_call = |expr: &Arc<dyn PhysicalExpr>| {
        expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| call.fun().name() == EXPLAIN_SCORE)
    };
    expr.exists(|expr| Ok(is_call(expr))).unwrap_or(false)
}

/// A filter over a SELECT list with reasons, as a SELECT list over the filter.
fn deferred(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(None) };
    let Some(projection) = filter.input().downcast_ref::<ProjectionExec>() else { return Ok(None) };
    if filter.projection().is_some() || filter.fetch().is_some() {
        return Ok(None);
    }
    let asked = collect_columns(filter.predicate());
    let waits = |(place, column): (usize, &ProjectionExpr)| {
        is_reason(&column.expr) && !asked.iter().any(|asked| asked.index() == place)
    };
    let waits: Vec<bool> = projection.expr().iter().enumerate().map(waits).collect();
    if !waits.contains(&true) {
        return Ok(None);
    }
    let mut below = Below::default();
    let columns = projection.expr().iter().zip(&waits);
    let places: Vec<Option<Column>> =
        columns.clone().map(|(column, waits)| (!waits).then(|| below.add(column.clone()))).collect();
    let above = columns.zip(&places).map(|((column, _), place)| {
        let expr = match place {
            Some(place) => Arc::new(place.clone()) as Arc<dyn PhysicalExpr>,
            None => mapped(&column.expr, |input| Some(below.passed(input)))?,
        };
        Ok(ProjectionExpr { expr, alias: column.alias.clone() })
    });
    let above = above.collect::<Result<Vec<_>>>()?;
    let predicate = mapped(filter.predicate(), |column| places.get(column.index()).cloned().flatten())?;
    let below = ProjectionExec::try_new(below.columns, Arc::clone(projection.input()))?;
    let filter = FilterExec::try_new(predicate, Arc::new(below))?;
    Ok(Some(Arc::new(ProjectionExec::try_new(above, Arc::new(filter))?)))
}

/// The SELECT list below the filter.
#[derive(Default)]
struct Below {
    columns: Vec<ProjectionExpr>,
}

impl Below {
    fn add(&mut self, column: ProjectionExpr) -> Column {
        let place = Column::new(&column.alias, self.columns.len());
        self.columns.push(column);
        place
    }

    /// Where a column of the input is passed on.
    fn passed(&mut self, input: &Column) -> Column {
        let is_it = |column: &ProjectionExpr| column.expr.downcast_ref::<Column>() == Some(input);
        match self.columns.iter().position(is_it) {
            Some(place) => Column::new(&self.columns[place].alias, place),
            None => {
                let alias = format!("{HIDDEN_PREFIX}input_{}", input.index());
                self.add(ProjectionExpr { expr: Arc::new(input.clone()), alias })
            }
        }
    }
}

fn mapped(
    expr: &Arc<dyn PhysicalExpr>,
    mut to: impl FnMut(&Column) -> Option<Column>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let expr = Arc::clone(expr).transform_up(|expr| match expr.downcast_ref::<Column>().and_then(&mut to) {
        Some(column) => Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>)),
        None => Ok(Transformed::no(expr)),
    })?;
    Ok(expr.data)
}
