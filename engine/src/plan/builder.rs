//! Queries -> stages: which views are cuts, where a query is cut at its windows, and which stages stand behind state. Also the
//! fingerprints of what state depends on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DataFusionError, Result as DFResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Window};
use sha2::{Digest, Sha256};

use super::checks::SourceChecks;
use super::compile::{Query, apart, can_fail, columns, lineage, readers};
use super::explain::explain;
use super::graph::Stage;
use super::hidden::{Origin, has_flag, multiplies, tables_read, thread_hidden, with_flags};
use super::observe::observed;
use super::origins::column_origins;
use super::problem::{PlanProblem, Refusal, plainly};
use super::segment::{Segment, Target};
use super::table::{visible_schema, with_hidden};
use super::window_stage::{OperatorInfo, WindowStage};
use super::windows::{WindowNode, cut};
use super::{Functions, Plan};
use crate::pipeline::settings::{Pipeline, Source};

/// The graph while it is built.
struct Builder<'a> {
    pipeline: &'a Pipeline,
    functions: &'a Functions,
    state: &'a SessionState,
    views: &'a [Query<'a>],
    /// Slot and columns of sources and of views that are cuts.
    slots: HashMap<&'a str, (usize, SchemaRef)>,
    num_slots: usize,
    /// Slots that hold answers of windows, or what became of them.
    after_state: HashSet<usize>,
    stages: Vec<Stage>,
}

/// A window between two segments of one query.
struct Pending {
    /// What the window reads, as a plan.
    input: LogicalPlan,
    stage: WindowStage,
}

impl<'a> Builder<'a> {
    /// Plans a query as a stage of its own, or as several around its windows. What stops it here the analysis did not see: a
    /// function's constant arguments, or something that DataFusion can analyse and not run.
    fn segment(&mut self, query: &Query<'_>, target: Option<usize>) -> Result<SchemaRef, Vec<PlanProblem>> {
        self.planned(query, target).map_err(|error| {
            let refusal = Refusal::new("plan", plainly(&error.find_root().strip_backtrace()), "");
            vec![refusal.into_problem(query.text, &query.part)]
        })
    }

    /// `sink`: the index of the sink, or a new slot.
    fn planned(&mut self, query: &Query<'_>, sink: Option<usize>) -> DFResult<SchemaRef> {
        let origin = |table: &str| {
            if let Some((slot, schema)) = self.slots.get(table) {
                return Some(Origin::Slot { slot: *slot, schema: Arc::clone(schema) });
            }
            self.views.iter().find(|view| view.name == table).map(|view| Origin::Inline(&view.plan))
        };
        let mut pending: Vec<Pending> = Vec::new();
        let mut plan = thread_hidden(&query.plan, &origin, &mut |window, input| {
            let (below, reader) = self.window(query, window, input, pending.len())?;
            pending.push(below);
            Ok(reader)
        })?;
        if query.has_windows {
            plan = with_flags(plan)?;
        }
        if let Some(observer) = &self.functions.observer {
            plan = observed(plan, observer)?;
            for below in &mut pending {
                below.input = observed(below.input.clone(), observer)?;
            }
        }
        let (part, inlined): (Arc<str>, _) = (query.part.as_str().into(), self.inlined(query));
        self.num_slots += 2 * pending.len();
        for Pending { input, stage } in pending {
            let target = Target::Slot(stage.input);
            let within = Segment::new(part.clone(), inlined.clone(), &input, target, multiplies(&input), self.state)?;
            self.push(within);
            self.after_state.insert(stage.output);
            self.stages.push(Stage::Window(Box::new(stage)));
        }
        let target = sink.map_or(Target::Slot(self.num_slots), Target::Sink);
        let mut segment = Segment::new(part, inlined, &plan, target, multiplies(&plan), self.state)?;
        segment.is_archive = sink.is_some() && self.is_archive(query, &plan);
        let schema = segment.schema();
        self.push(segment);
        if sink.is_none() {
            self.num_slots += 1;
        }
        Ok(schema)
    }

    /// Whether a sink's query has a row for every row that one source accepted, and cannot fail on any.
    fn is_archive(&self, query: &Query<'_>, plan: &LogicalPlan) -> bool {
        let is_source = |table: &String| self.pipeline.sources.iter().any(|source| source.name == *table);
        let is_plain = |node: &LogicalPlan| {
            matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_))
        };
        let has_others = plan.exists(|node| Ok(!is_plain(node))).unwrap_or(true);
        query.tables.iter().all(is_source) && !has_others && !can_fail(query, self.state, self.functions)
    }

    fn push(&mut self, mut segment: Segment) {
        segment.is_after_state = segment.reads.iter().any(|slot| self.after_state.contains(slot));
        if let (Target::Slot(slot), true) = (segment.target, segment.is_after_state) {
            self.after_state.insert(slot);
        }
        self.stages.push(Stage::Segment(segment));
    }

    /// One window of a query, `number` of them being below it: its stage, and the plan that reads its answers.
    fn window(
        &self,
        query: &Query<'_>,
        window: &Window,
        input: LogicalPlan,
        number: usize,
    ) -> DFResult<(Pending, LogicalPlan)> {
        let refused = |refusal: Refusal| DataFusionError::Plan(format!("{}: {}", refusal.clause, refusal.reason));
        let mut node = WindowNode::read(window).map_err(refused)?;
        let views = &self.views[..self.views.iter().position(|view| view.name == query.name).unwrap_or(0)];
        let lineage = lineage(self.pipeline, views, self.functions);
        let source = lineage.source_of_window(&window.input, &node).map_err(refused)?;
        let settings = &self.pipeline.sources[source];
        (node.spec.max_lateness, node.spec.max_lookback) = (settings.max_lateness, settings.max_lookback);
        let slot = self.num_slots + 2 * number;
        let cut = cut(window, &node, &input, slot + 1)?;
        let info = OperatorInfo {
            name: format!("{}.{}", query.name, number + 1),
            fingerprint: self.state_fingerprint(window, &node),
            source,
            keys: node.keys.iter().map(key_name).collect(),
        };
        let stage = WindowStage {
            info,
            part: query.part.as_str().into(),
            input: slot,
            output: slot + 1,
            num_passed: window.input.schema().fields().len(),
            has_incomplete: has_flag(&input),
            schema: cut.schema,
            texts: window.window_expr.iter().map(as_written).collect(),
            arguments: node.arguments.iter().map(ToString::to_string).collect(),
            spec: node.spec,
        };
        Ok((Pending { input: cut.input, stage }, cut.reader))
    }

    /// A hash of everything that a window's state depends on.
    fn state_fingerprint(&self, window: &Window, node: &WindowNode) -> String {
        let mut texts = vec![MEANING.to_owned(), window.input.display_indent_schema().to_string()];
        texts.extend(window.window_expr.iter().map(ToString::to_string));
        texts.push(format!("{:?} {:?}", node.spec.max_lateness, node.spec.max_lookback));
        self.add_tables(&window.input, &mut texts);
        hash(&texts)
    }

    fn add_tables(&self, plan: &LogicalPlan, texts: &mut Vec<String>) {
        for table in tables_read(plan) {
            if let Some(source) = self.pipeline.sources.iter().find(|source| source.name == table) {
                texts.extend(source_texts(source));
            }
            if let Some(view) = self.views.iter().find(|view| view.name == table) {
                texts.push(view.plan.display_indent_schema().to_string());
                self.add_tables(&view.plan, texts);
            }
        }
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

pub(super) fn build(
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
    let mut builder = Builder {
        pipeline,
        functions,
        state,
        views,
        slots,
        num_slots: sources.len(),
        after_state: HashSet::new(),
        stages: Vec::new(),
    };
    let readers = readers(views, sinks);
    let apart = apart(views, sinks, &readers, state, functions);
    for view in views {
        // Rows of one record are numbered where they arise, so that the numbers are the same for every reader.
        let num_readers = readers.get(view.name).copied().unwrap_or(0);
        let is_cut = view.has_windows || multiplies(&view.plan) || apart.contains(view.name);
        if num_readers >= 2 || (num_readers == 1 && is_cut) {
            let schema = builder.segment(view, None)?;
            builder.slots.insert(view.name, (builder.num_slots - 1, schema));
        }
    }
    let mut schemas = Vec::new();
    for (index, sink) in sinks.iter().enumerate() {
        schemas.push(builder.segment(sink, Some(index))?);
    }
    let (stages, num_slots) = (builder.stages, builder.num_slots);
    let history = views.iter().enumerate().map(|(index, view)| {
        let lineage = lineage(pipeline, &views[..index], functions);
        let columns = view.plan.schema().columns().into_iter();
        let columns = columns.filter(|column| lineage.has_history(&view.plan, &Expr::Column(column.clone())));
        (view.name.to_owned(), columns.map(|column| column.name).collect())
    });
    let history = history.collect();
    let origins = views.iter().map(|view| (view.name.to_owned(), column_origins(&view.plan))).collect();
    Ok(Plan {
        explanation: explain(pipeline, &sources, &stages),
        fingerprint: fingerprint(pipeline, views),
        history,
        origins,
        sources: sources.into(),
        checks,
        sinks: schemas,
        stages: stages.into(),
        num_slots,
        context: state.task_ctx(),
    })
}

/// Raised when the same SQL would get another meaning.
const MEANING: &str = "2";

fn fingerprint(pipeline: &Pipeline, views: &[Query<'_>]) -> String {
    let mut texts = vec![MEANING.to_owned()];
    for source in &pipeline.sources {
        texts.push(source.name.clone());
        texts.extend(source_texts(source));
    }
    for view in views {
        texts.extend([view.name.to_owned(), view.plan.display_indent_schema().to_string()]);
    }
    hash(&texts)
}

/// Of a source what its rows and the order of them depend on.
fn source_texts(source: &Source) -> Vec<String> {
    let mut texts = vec![columns(&visible_schema(source))];
    texts.extend(source.checks.iter().map(|check| check.sql.clone()));
    texts.push(format!("{:?} {:?} {:?}", source.event_time, source.partitioned_by, source.max_future_skew));
    texts.push(format!("{:?} {:?}", source.max_lateness, source.max_lookback));
    texts
}

fn hash(texts: &[String]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A call as the parser names it; an alias has its frame in words.
fn as_written(expr: &Expr) -> String {
    match expr {
        Expr::Alias(alias) => alias.name.clone(),
        other => other.to_string(),
    }
}

fn key_name(key: &Expr) -> String {
    match key {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    }
}
