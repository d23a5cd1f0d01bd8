//! Pipeline -> plan: all texts are analysed in order and all problems collected; then the views that several others read, or
//! that can fail, become slots, and everything that a sink needs becomes stages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::analyse::{Analysed, Analysis};
use super::builder::build;
use super::checks::{Check, SourceChecks};
use super::hidden::{HISTORY_INCOMPLETE, LATE_BY, foreign_node, has_windows, multiplies, tables_read};
use super::lineage::{Lineage, View};
use super::once::evaluate_once;
use super::problem::{PlanProblem, Refusal, choices, in_order_of_text};
use super::session::session;
use super::short_circuit::{decide_by_row, is_infallible};
use super::table::visible_schema;
use super::windows::{WindowNode, place_of_call};
use super::{Functions, Plan, is_hidden};
use crate::error::{Error, Result};
use crate::operator::over_window::OverWindow;
use crate::pipeline::settings::{KafkaSink, Pipeline, Place, Sink, SinkConnector, Source, SqlText};

/// A view or a sink's select.
pub(super) struct Query<'a> {
    pub(super) name: &'a str,
    /// `view features`, `sink alerts`.
    pub(super) part: String,
    pub(super) text: &'a SqlText,
    pub(super) plan: LogicalPlan,
    /// The plan before analysis.
    pub(super) written: LogicalPlan,
    /// Sources and views, once per place where they are read.
    pub(super) tables: Vec<String>,
    pub(super) has_windows: bool,
}

impl Query<'_> {
    /// What other queries see: its columns, and those that windows add.
    pub(super) fn visible_schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.plan.schema().fields().iter().cloned().collect();
        let mut add = |name: &str, data_type| {
            if self.has_windows && !fields.iter().any(|field| field.name() == name) {
                fields.push(Arc::new(Field::new(name, data_type, true)));
            }
        };
        add(LATE_BY, DataType::Int64);
        add(HISTORY_INCOMPLETE, DataType::Boolean);
        Arc::new(Schema::new(fields))
    }
}

pub(super) fn compile(pipeline: &Pipeline, functions: &Functions) -> Result<Plan, Vec<PlanProblem>> {
    let state = session(functions).map_err(|error| whole(pipeline, &error))?;
    let mut problems = Vec::new();
    let mut analysis = Analysis::new(state, functions);
    let checks = match sources(pipeline, &mut analysis, &mut problems) {
        Ok(checks) => checks,
        Err(error) => return Err(whole(pipeline, &error)),
    };
    let views = match views(pipeline, &mut analysis, &mut problems) {
        Ok(views) => views,
        Err(error) => return Err(whole(pipeline, &error)),
    };
    let mut sinks = Vec::new();
    for sink in &pipeline.sinks {
        let part = format!("sink {}", sink.name);
        let mut query = query(&analysis, &sink.name, &part, &sink.select, functions, &mut problems);
        if query.take_if(|query| query.has_windows).is_some() {
            let span = first_over(&sink.select.sql);
            let reason = "state belongs to views, so that an edited sink changes none";
            let refusal = Refusal::new("OVER", reason, "move the window into a view, and select from that").at(span);
            problems.push(refusal.into_problem(&sink.select, &part));
        }
        problems.extend(
            query.as_ref().and_then(|query| missing_key(sink, query)).map(|key| key.into_problem(&sink.select, &part)),
        );
        sinks.extend(query);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    build(pipeline, &analysis.state, functions, checks, &views, &sinks)
}

/// A problem of no particular place.
pub(super) fn whole(pipeline: &Pipeline, error: &Error) -> Vec<PlanProblem> {
    let file = pipeline.views.first().map_or_else(|| pipeline.folder.clone(), |view| view.query.place.file.clone());
    vec![PlanProblem {
        place: Place { file, line: 1, column: 1 },
        part: format!("pipeline {}", pipeline.name),
        clause: "plan".to_owned(),
        reason: error.to_string(),
        alternative: String::new(),
    }]
}

pub(super) fn sources(
    pipeline: &Pipeline,
    analysis: &mut Analysis<'_>,
    problems: &mut Vec<PlanProblem>,
) -> Result<Vec<SourceChecks>> {
    for source in &pipeline.sources {
        if !analysis.add_table(&source.name, visible_schema(source))? {
            return Err(Error::invalid(format!("two sources have the name {}", source.name)));
        }
        if let Some(hidden) = source.columns.iter().map(|column| &column.name).find(|name| is_hidden(name)) {
            return Err(Error::invalid(format!(
                "column {hidden} of source {}: such names are the engine's",
                source.name
            )));
        }
    }
    let mut all = Vec::new();
    for source in &pipeline.sources {
        let mut checks = Vec::new();
        for (index, text) in source.checks.iter().enumerate() {
            let part = format!("check {} of source {}", index + 1, source.name);
            match check(source, text, analysis) {
                Ok(check) => checks.push(check),
                Err(refusals) => problems.extend(refusals.into_iter().map(|refusal| refusal.into_problem(text, &part))),
            }
        }
        all.push(SourceChecks { source: source.name.as_str().into(), checks });
    }
    Ok(all)
}

fn check(source: &Source, text: &SqlText, analysis: &Analysis<'_>) -> Result<Check, Vec<Refusal>> {
    let plan = analysis.condition(&source.name, &text.sql)?;
    let refuse = |reason: String| vec![Refusal::new("check", reason, "write a condition on the row's columns")];
    let LogicalPlan::Projection(projection) = &plan else {
        return Err(refuse("it is not a condition".to_owned()));
    };
    if projection.schema.fields().len() != 1 || *projection.schema.field(0).data_type() != DataType::Boolean {
        return Err(refuse(format!("its type is {}, not Boolean", projection.schema.field(0).data_type())));
    }
    if foreign_node(&plan).is_some() || multiplies(&plan) || has_windows(&plan) {
        return Err(refuse("it is more than a condition on one row".to_owned()));
    }
    let schema = projection.input.schema();
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .with_config_options(Arc::clone(analysis.state.config_options()))
        .build();
    let condition = ExprSimplifier::new(context)
        .simplify(projection.expr[0].clone())
        .and_then(|condition| analysis.state.create_physical_expr(condition, schema))
        .and_then(|condition| decide_by_row(condition, schema.as_arrow()));
    match condition {
        Ok(condition) => Ok(Check { text: text.sql.as_str().into(), condition }),
        Err(error) => Err(refuse(error.strip_backtrace())),
    }
}

pub(super) fn views<'a>(
    pipeline: &'a Pipeline,
    analysis: &mut Analysis<'_>,
    problems: &mut Vec<PlanProblem>,
) -> Result<Vec<Query<'a>>> {
    let mut views: Vec<Query<'a>> = Vec::new();
    for view in &pipeline.views {
        let part = format!("view {}", view.name);
        let functions = analysis.functions();
        let analysed = query(analysis, &view.name, &part, &view.query, functions, problems).and_then(|query| {
            let refusals = window_refusals(&query, &lineage(pipeline, &views, functions));
            let is_refused = !refusals.is_empty();
            problems.extend(refusals.into_iter().map(|refusal| refusal.into_problem(query.text, &part)));
            (!is_refused).then_some(query)
        });
        match analysed {
            Some(query) => {
                if !analysis.add_table(&view.name, query.visible_schema())? {
                    return Err(Error::invalid(format!("{} is the name of two tables", view.name)));
                }
                analysis.add_view(&view.name, query.written.clone());
                views.push(query);
            }
            None => analysis.add_failed(&view.name),
        }
    }
    Ok(views)
}

/// Analyses one text. `None` when it is wrong or reads something wrong.
fn query<'a>(
    analysis: &Analysis<'_>,
    name: &'a str,
    part: &str,
    text: &'a SqlText,
    functions: &Functions,
    problems: &mut Vec<PlanProblem>,
) -> Option<Query<'a>> {
    match analysis.query(&text.sql) {
        Ok(Some(Analysed { written, plan })) => {
            if let Some(node) = foreign_node(&plan) {
                let refusal =
                    Refusal::new(node, "it cannot be run on a stream", "select, filter and compute columns of rows");
                problems.push(refusal.into_problem(text, part));
                return None;
            }
            match evaluate_once(plan, &functions.once) {
                Ok(plan) => {
                    let (tables, has_windows) = (tables_read(&plan), has_windows(&plan));
                    Some(Query { name, part: part.to_owned(), text, tables, plan, written, has_windows })
                }
                Err(error) => {
                    let refusal = Refusal::new("expression", error.strip_backtrace(), "");
                    problems.push(refusal.into_problem(text, part));
                    None
                }
            }
        }
        Ok(None) => None,
        Err(refusals) => {
            problems.extend(refusals.into_iter().map(|refusal| refusal.into_problem(text, part)));
            None
        }
    }
}

pub(super) fn lineage<'a>(pipeline: &'a Pipeline, views: &'a [Query<'_>], functions: &'a Functions) -> Lineage<'a> {
    let table = |view: &'a Query<'_>| {
        let repartition = pipeline.views.iter().find(|one| one.name == view.name)?.repartition.as_ref()?;
        Some(repartition.by.as_slice())
    };
    let table = |view: &'a Query<'_>| View { name: view.name, plan: &view.plan, partitioned_by: table(view) };
    Lineage { sources: &pipeline.sources, views: views.iter().map(table).collect(), of_models: &functions.once }
}

/// Everything about a query's windows that cannot be done, each at its call.
fn window_refusals(query: &Query<'_>, lineage: &Lineage<'_>) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    let walk = query.plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            let read = WindowNode::read(window).and_then(|node| {
                lineage.source_of_window(&window.input, &node)?;
                OverWindow::new(&node.spec).map(|_| ()).map_err(|error| Refusal::new("OVER", error.message(), ""))
            });
            refusals.extend(read.err());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walk.is_ok(), "looking at a plan cannot fail");
    let placed = |refusal: Refusal| match place_of_call(&query.text.sql, &refusal.clause) {
        Some(span) if refusal.span.is_none() => refusal.at(span),
        _ => refusal,
    };
    in_order_of_text(refusals.into_iter().map(placed).collect())
}

fn first_over(sql: &str) -> Span {
    place_of_call(sql, "OVER").unwrap_or_else(Span::empty)
}

/// The column that becomes the message key has to be among the sink's.
fn missing_key(sink: &Sink, query: &Query<'_>) -> Option<Refusal> {
    let SinkConnector::Kafka(KafkaSink { key: Some(key), .. }) = &sink.connector else {
        return None;
    };
    let columns: Vec<String> = query.visible_schema().fields().iter().map(|field| field.name().clone()).collect();
    if columns.contains(key) {
        return None;
    }
    let help = choices("columns", key, &columns);
    Some(Refusal::new(format!("key `{key}`"), "the select has no such column", help))
}

/// How often each view is read by what a sink needs.
pub(super) fn readers<'a>(views: &'a [Query<'a>], sinks: &'a [Query<'a>]) -> HashMap<&'a str, usize> {
    let mut readers: HashMap<&str, usize> = HashMap::new();
    let mut read = |query: &'a Query<'a>| {
        for table in &query.tables {
            *readers.entry(table.as_str()).or_default() += 1;
        }
    };
    sinks.iter().for_each(&mut read);
    // A view is read only by later ones, so going back each is complete when it is reached.
    let mut readers_of = |view: &'a Query<'a>| {
        if readers.contains_key(view.name) {
            for table in &view.tables {
                *readers.entry(table.as_str()).or_default() += 1;
            }
        }
    };
    views.iter().rev().for_each(&mut readers_of);
    readers
}

/// Whether some row can make a query's own text fail, computed over its tables as they are. Says yes when in doubt.
pub(super) fn can_fail(query: &Query<'_>, state: &SessionState, functions: &Functions) -> bool {
    let fails = |expr: &Expr, schema: &DFSchema| {
        let physical = state.create_physical_expr(expr.clone(), schema);
        physical.map_or(true, |expr| !is_infallible(&expr, schema.as_arrow(), &functions.infallible))
    };
    let node_fails = |node: &LogicalPlan| match node {
        LogicalPlan::Projection(projection) => {
            projection.expr.iter().any(|expr| fails(expr, projection.input.schema()))
        }
        LogicalPlan::Filter(filter) => fails(&filter.predicate, filter.input.schema()),
        LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => false,
        _ => true,
    };
    query.plan.exists(|node| Ok(node_fails(node))).unwrap_or(true)
}

/// Views that can fail, and those that are read by what can. Within its reader such a view would be computed for fewer rows and
/// columns than in a stage of its own, or its condition after the reader's: which rows fail would depend on who else reads it.
pub(super) fn apart<'a>(
    views: &'a [Query<'a>],
    sinks: &'a [Query<'a>],
    readers: &HashMap<&str, usize>,
    state: &SessionState,
    functions: &Functions,
) -> HashSet<&'a str> {
    let mut apart = HashSet::new();
    for query in views.iter().filter(|view| readers.contains_key(view.name)).chain(sinks) {
        if can_fail(query, state, functions) {
            apart.insert(query.name);
            apart.extend(query.tables.iter().map(String::as_str));
        }
    }
    apart
}

/// `name type, name type not null, ...`
pub(super) fn columns(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| {
        format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " not null" })
    };
    schema.fields().iter().filter(|field| !is_hidden(field.name())).map(column).collect::<Vec<_>>().join(", ")
}
