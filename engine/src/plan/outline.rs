//! What is known of a view before its pipeline is planned: its columns, which of them hold the event time as the source has it,
//! and the sources that its rows come from. For views that a run makes to sources of their own.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::analyse::Analysis;
use super::compile::{lineage, sources, views, whole};
use super::hidden::tables_read;
use super::session::session;
use super::{Functions, PlanProblem};
use crate::pipeline::settings::Pipeline;

/// A view in outline.
#[derive(Debug, Clone)]
pub(crate) struct Outline {
    pub(crate) columns: SchemaRef,
    /// Columns that are the event time of the row's source, unchanged; in the order of the view.
    pub(crate) event_times: Vec<String>,
    /// Sources that it reads, also through other views.
    pub(crate) sources: BTreeSet<String>,
    /// Whether a model's value is computed for it, also in what it reads.
    pub(crate) has_scores: bool,
}

/// What the analysis of earlier tables has shown.
#[derive(Debug, Default)]
struct Table {
    /// Of each column, whether it is the event time.
    is_event_time: Vec<bool>,
    sources: BTreeSet<String>,
}

/// The last view of `pipeline`, or everything that is wrong with it and those before it.
pub(crate) fn outline(pipeline: &Pipeline, functions: &Functions) -> Result<Outline, Vec<PlanProblem>> {
    let state = session(functions).map_err(|error| whole(pipeline, &error))?;
    let mut analysis = Analysis::new(state, functions);
    let mut problems = Vec::new();
    sources(pipeline, &mut analysis, &mut problems).map_err(|error| whole(pipeline, &error))?;
    let queries = views(pipeline, &mut analysis, &mut problems).map_err(|error| whole(pipeline, &error))?;
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut tables: HashMap<&str, Table> = HashMap::new();
    for source in &pipeline.sources {
        let schema = super::table::visible_schema(source);
        let is_event_time =
            schema.fields().iter().map(|field| Some(field.name()) == source.event_time.as_ref()).collect();
        tables.insert(&source.name, Table { is_event_time, sources: [source.name.clone()].into() });
    }
    let mut last = None;
    for (index, query) in queries.iter().enumerate() {
        let is_event_time = event_times(&query.plan, &tables);
        let read = tables_read(&query.plan);
        let sources = read.iter().filter_map(|table| tables.get(table.as_str()));
        let sources: BTreeSet<String> = sources.flat_map(|table| table.sources.iter().cloned()).collect();
        let columns = query.visible_schema();
        let named = columns.fields().iter().zip(&is_event_time).filter(|(_, is_it)| **is_it);
        let has_scores = lineage(pipeline, &queries[..index], functions).has_model(&query.plan);
        let event_times = named.map(|(field, _)| field.name().clone()).collect();
        last = Some(Outline { columns, event_times, sources: sources.clone(), has_scores });
        tables.insert(query.name, Table { is_event_time, sources });
    }
    last.ok_or_else(|| whole(pipeline, &crate::error::Error::internal("a pipeline without views has no last one")))
}

/// Of each column of a plan, whether it is the event time of the row's source. Says no when in doubt.
fn event_times(plan: &LogicalPlan, tables: &HashMap<&str, Table>) -> Vec<bool> {
    let num_columns = plan.schema().fields().len();
    let mut found = match plan {
        LogicalPlan::TableScan(scan) => match (tables.get(scan.table_name.table()), &scan.projection) {
            (Some(table), None) => table.is_event_time.clone(),
            (Some(table), Some(columns)) => {
                columns.iter().map(|column| table.is_event_time.get(*column).copied().unwrap_or(false)).collect()
            }
            (None, _) => Vec::new(),
        },
        LogicalPlan::Projection(projection) => {
            let input = event_times(&projection.input, tables);
            let is_it = |expr: &Expr| column_of(expr, &projection.input).is_some_and(|column| input[column]);
            projection.expr.iter().map(is_it).collect()
        }
        LogicalPlan::Union(union) => {
            let inputs: Vec<Vec<bool>> = union.inputs.iter().map(|input| event_times(input, tables)).collect();
            (0..num_columns).map(|column| inputs.iter().all(|input| input.get(column) == Some(&true))).collect()
        }
        LogicalPlan::Unnest(unnest) => {
            let input = event_times(&unnest.input, tables);
            let origin = |column: &usize| input.get(*column).copied().unwrap_or(false);
            unnest.dependency_indices.iter().map(origin).collect()
        }
        // A window's own columns stand behind those of its input.
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Window(_) => {
            plan.inputs().first().map_or_else(Vec::new, |input| event_times(input, tables))
        }
        _ => Vec::new(),
    };
    found.resize(num_columns, false);
    found
}

fn column_of(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    match expr {
        Expr::Column(column) => input.schema().maybe_index_of_column(column),
        Expr::Alias(alias) => column_of(&alias.expr, input),
        _ => None,
    }
}
