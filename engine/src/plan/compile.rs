//! Pipeline -> plan: all texts are analysed in order and all problems collected; then the views that several others read, or
//! that can fail, become slots, and everything that a sink needs becomes stages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as DFResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use sha2::{Digest, Sha256};

use super::analyse::Analysis;
use super::checks::{Check, SourceChecks};
use super::explain::explain;
use super::graph::Stage;
use super::hidden::{Origin, foreign_node, multiplies, tables_read, thread_hidden};
use super::once::evaluate_once;
use super::problem::{PlanProblem, Refusal, choices, plainly};
use super::segment::{Segment, Target};
use super::session::session;
use super::short_circuit::{decide_by_row, is_infallible};
use super::table::{visible_schema, with_hidden};
use super::{Functions, Plan, is_hidden};
use crate::error::{Error, Result};
use crate::pipeline::settings::{KafkaSink, Pipeline, Place, Sink, SinkConnector, Source, SqlText};

/// A view or a sink's select.
pub(super) struct Query<'a> {
    pub(super) name: &'a str,
    /// `view features`, `sink alerts`.
    part: String,
    text: &'a SqlText,
    pub(super) plan: LogicalPlan,
    /// Sources and views, once per place where they are read.
    tables: Vec<String>,
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
        let query = query(&analysis, &sink.name, &part, &sink.select, functions, &mut problems);
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
    if foreign_node(&plan).is_some() || multiplies(&plan) {
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
    let mut views = Vec::new();
    for view in &pipeline.views {
        let part = format!("view {}", view.name);
        let functions = analysis.functions();
        match query(analysis, &view.name, &part, &view.query, functions, problems) {
            Some(query) => {
                let schema = Arc::new(query.plan.schema().as_arrow().clone());
                if !analysis.add_table(&view.name, schema)? {
                    return Err(Error::invalid(format!("{} is the name of two tables", view.name)));
                }
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
        Ok(Some(plan)) => {
            if let Some(node) = foreign_node(&plan) {
                let refusal =
                    Refusal::new(node, "it cannot be run on a stream", "select, filter and compute columns of rows");
                problems.push(refusal.into_problem(text, part));
                return None;
            }
            match evaluate_once(plan, &functions.once) {
                Ok(plan) => Some(Query { name, part: part.to_owned(), text, tables: tables_read(&plan), plan }),
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

/// The column that becomes the message key has to be among the sink's.
fn missing_key(sink: &Sink, query: &Query<'_>) -> Option<Refusal> {
    let SinkConnector::Kafka(KafkaSink { key: Some(key), .. }) = &sink.connector else {
        return None;
    };
    let columns: Vec<String> = query.plan.schema().fields().iter().map(|field| field.name().clone()).collect();
    if columns.contains(key) {
        return None;
    }
    let help = choices("columns", key, &columns);
    Some(Refusal::new(format!("key `{key}`"), "the select has no such column", help))
}

/// How often each view is read by what a sink needs.
fn readers<'a>(views: &'a [Query<'a>], sinks: &'a [Query<'a>]) -> HashMap<&'a str, usize> {
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
fn can_fail(query: &Query<'_>, state: &SessionState, functions: &Functions) -> bool {
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
fn apart<'a>(
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

/// The graph while it is built.
struct Builder<'a> {
    state: &'a SessionState,
    views: &'a [Query<'a>],
    /// Slot and columns of sources and of views that are cuts.
    slots: HashMap<&'a str, (usize, SchemaRef)>,
    stages: Vec<Stage>,
}

impl<'a> Builder<'a> {
    /// Plans a query as a stage of its own. What stops it here the analysis did not see: a function's constant arguments,
    /// or something that DataFusion can analyse and not run.
    fn segment(&mut self, query: &Query<'_>, target: Target) -> Result<SchemaRef, Vec<PlanProblem>> {
        self.planned(query, target).map_err(|error| {
            let refusal = Refusal::new("plan", plainly(&error.find_root().strip_backtrace()), "");
            vec![refusal.into_problem(query.text, &query.part)]
        })
    }

    fn planned(&mut self, query: &Query<'_>, target: Target) -> DFResult<SchemaRef> {
        let origin = |table: &str| {
            if let Some((slot, schema)) = self.slots.get(table) {
                return Some(Origin::Slot { slot: *slot, schema: Arc::clone(schema) });
            }
            self.views.iter().find(|view| view.name == table).map(|view| Origin::Inline(&view.plan))
        };
        let plan = thread_hidden(&query.plan, &origin)?;
        let (part, inlined) = (query.part.as_str().into(), self.inlined(query));
        let segment = Segment::new(part, inlined, &plan, target, multiplies(&plan), self.state)?;
        let schema = segment.schema();
        self.stages.push(Stage::Segment(segment));
        Ok(schema)
    }

    fn inlined(&self, query: &Query<'_>) -> Vec<String> {
        let mut inlined = Vec::new();
        for table in &query.tables {
            if let Some(view) = self.views.iter().find(|view| view.name == table && !self.slots.contains_key(view.name))
            {
                inlined.extend(self.inlined(view));
                inlined.push(view.name.to_owned());
            }
        }
        inlined
    }
}

fn build(
    pipeline: &Pipeline,
    state: &SessionState,
    functions: &Functions,
    checks: Vec<SourceChecks>,
    views: &[Query<'_>],
    sinks: &[Query<'_>],
) -> Result<Plan, Vec<PlanProblem>> {
    let sources: Vec<SchemaRef> = pipeline.sources.iter().map(|source| with_hidden(&visible_schema(source))).collect();
    let slots = pipeline.sources.iter().zip(&sources).enumerate();
    let slots = slots.map(|(slot, (source, schema))| (source.name.as_str(), (slot, Arc::clone(schema)))).collect();
    let mut builder = Builder { state, views, slots, stages: Vec::new() };
    let readers = readers(views, sinks);
    let apart = apart(views, sinks, &readers, state, functions);
    let mut num_slots = sources.len();
    for view in views {
        // Rows of one record are numbered where they arise, so that the numbers are the same for every reader.
        let num_readers = readers.get(view.name).copied().unwrap_or(0);
        if num_readers >= 2 || (num_readers == 1 && (multiplies(&view.plan) || apart.contains(view.name))) {
            let schema = builder.segment(view, Target::Slot(num_slots))?;
            builder.slots.insert(view.name, (num_slots, schema));
            num_slots += 1;
        }
    }
    let mut schemas = Vec::new();
    for (index, sink) in sinks.iter().enumerate() {
        schemas.push(builder.segment(sink, Target::Sink(index))?);
    }
    let stages = builder.stages;
    Ok(Plan {
        explanation: explain(pipeline, &sources, &stages),
        fingerprint: fingerprint(pipeline, views),
        sources: sources.into(),
        checks,
        sinks: schemas,
        stages: stages.into(),
        num_slots,
        context: state.task_ctx(),
    })
}

/// Raised when the same SQL would get another meaning.
const MEANING: &str = "1";

fn fingerprint(pipeline: &Pipeline, views: &[Query<'_>]) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    add(MEANING);
    for source in &pipeline.sources {
        add(&source.name);
        add(&columns(&visible_schema(source)));
        source.checks.iter().for_each(|check| add(&check.sql));
        add(&format!("{:?} {:?} {:?}", source.event_time, source.partitioned_by, source.max_future_skew));
    }
    for view in views {
        add(view.name);
        add(&view.plan.display_indent_schema().to_string());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `name type, name type not null, ...`
pub(super) fn columns(schema: &Schema) -> String {
    let column = |field: &Arc<arrow::datatypes::Field>| {
        format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " not null" })
    };
    schema.fields().iter().filter(|field| !is_hidden(field.name())).map(column).collect::<Vec<_>>().join(", ")
}
