//! Where a window's rows come from: which source, which of its columns, and whether a score stands between. What a window may
//! be partitioned and ordered by follows from that.
//!
//! Rows come from a *log*, which fixes their order: a source, or a view with `repartition`. In a run the latter is a source (its
//! topic); where rows are only read, as in a replay, it is the view itself, in the order of its source.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::hidden::tables_read;
use super::problem::Refusal;
use super::windows::WindowNode;
use crate::pipeline::settings::{Source, SourceConnector};

/// The tables that a query may read: sources, and the views before it.
pub(super) struct Lineage<'a> {
    pub(super) sources: &'a [Source],
    pub(super) views: Vec<View<'a>>,
    /// Functions whose value is a model's.
    pub(super) of_models: &'a [String],
}

/// A view.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) plan: &'a LogicalPlan,
    /// Of one with `repartition`: by what.
    pub(super) partitioned_by: Option<&'a [String]>,
}

/// What fixes the order of rows: a source, or a view with `repartition`; its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Log {
    Source(usize),
    View(usize),
}

impl Lineage<'_> {
    fn view(&self, name: &str) -> Option<&LogicalPlan> {
        self.views.iter().find(|view| view.name == name).map(|view| view.plan)
    }

    /// The log that a table is; `None` of a view within one.
    fn log(&self, table: &str) -> Option<Log> {
        match self.views.iter().position(|view| view.name == table) {
            Some(view) => self.views[view].partitioned_by.map(|_| Log::View(view)),
            None => self.sources.iter().position(|source| source.name == table).map(Log::Source),
        }
    }

    /// The logs that a plan's rows come from, through views within one.
    fn logs_of(&self, plan: &LogicalPlan) -> Vec<Log> {
        let mut found = Vec::new();
        for table in tables_read(plan) {
            match (self.log(&table), self.view(&table)) {
                (Some(log), _) => found.push(log),
                (None, Some(view)) => found.extend(self.logs_of(view)),
                (None, None) => {}
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// For people: `source transactions`, `view features`.
    fn name_of(&self, log: Log) -> String {
        match log {
            Log::Source(source) => format!("source {}", self.sources[source].name),
            Log::View(view) => format!("view {}", self.views[view].name),
        }
    }

    /// The columns that the rows of one partition of a log have in common.
    fn partitioned_by(&self, log: Log) -> &[String] {
        match log {
            Log::Source(source) => {
                let source = &self.sources[source];
                source.repartition.as_ref().map_or(&source.partitioned_by, |repartition| &repartition.by)
            }
            Log::View(view) => self.views[view].partitioned_by.unwrap_or_default(),
        }
    }

    /// Whether a log's column is the event time of its rows' source, unchanged.
    fn is_event_time(&self, log: Log, column: &str) -> bool {
        match log {
            Log::Source(source) => self.sources[source].event_time.as_deref() == Some(column),
            Log::View(view) => {
                let plan = self.views[view].plan;
                let found = plan.schema().columns().into_iter().find(|found| found.name == column);
                let origin = found.and_then(|found| self.origin(plan, &Expr::Column(found)));
                origin.is_some_and(|(log, column)| self.is_event_time(log, &column))
            }
        }
    }

    /// Indices of the sources that a plan's rows come from, through views.
    pub(super) fn sources_of(&self, plan: &LogicalPlan) -> Vec<usize> {
        let mut found = Vec::new();
        for table in tables_read(plan) {
            match self.view(&table) {
                Some(view) => found.extend(self.sources_of(view)),
                None => found.extend(self.sources.iter().position(|source| source.name == table)),
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The log's column that `expr` is, unchanged. `None` when it is computed.
    fn origin(&self, plan: &LogicalPlan, expr: &Expr) -> Option<(Log, String)> {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let Expr::Column(column) = expr else { return None };
        match plan {
            LogicalPlan::TableScan(scan) => {
                let table = scan.table_name.table();
                if let Some(log) = self.log(table) {
                    return Some((log, column.name.clone()));
                }
                let view = self.view(table)?;
                let below = view.schema().columns().into_iter().find(|below| below.name == column.name)?;
                self.origin(view, &Expr::Column(below))
            }
            LogicalPlan::Projection(projection) => {
                let place = projection.schema.maybe_index_of_column(column)?;
                self.origin(&projection.input, &projection.expr[place])
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let place = alias.schema.maybe_index_of_column(column)?;
                self.origin(&alias.input, &Expr::Column(alias.input.schema().columns().into_iter().nth(place)?))
            }
            LogicalPlan::Filter(filter) => self.origin(&filter.input, expr),
            LogicalPlan::Window(window) => self.origin(&window.input, expr),
            LogicalPlan::Unnest(unnest) => self.origin(&unnest.input, expr),
            _ => None,
        }
    }

    /// Whether the value of `expr` comes, in any part, from a window.
    pub(super) fn has_history(&self, plan: &LogicalPlan, expr: &Expr) -> bool {
        expr.column_refs().into_iter().any(|column| match plan {
            LogicalPlan::TableScan(scan) => self.view(scan.table_name.table()).is_some_and(|view| {
                let below = view.schema().columns().into_iter().find(|below| below.name == column.name);
                below.is_none_or(|below| self.has_history(view, &Expr::Column(below)))
            }),
            _ => {
                let place = plan.schema().maybe_index_of_column(column);
                place.is_none_or(|place| self.has_history_at(plan, place))
            }
        })
    }

    fn has_history_at(&self, plan: &LogicalPlan, place: usize) -> bool {
        let column_of = |input: &LogicalPlan| input.schema().columns().into_iter().nth(place).map(Expr::Column);
        let below = |input: &LogicalPlan| column_of(input).is_none_or(|column| self.has_history(input, &column));
        match plan {
            LogicalPlan::Projection(projection) => self.has_history(&projection.input, &projection.expr[place]),
            LogicalPlan::Window(window) if place < window.input.schema().fields().len() => below(&window.input),
            LogicalPlan::SubqueryAlias(alias) => below(&alias.input),
            LogicalPlan::Filter(filter) => below(&filter.input),
            LogicalPlan::Union(union) => union.inputs.iter().any(|input| below(input)),
            LogicalPlan::Unnest(unnest) => {
                let name = plan.schema().field(place).name();
                let column = unnest.input.schema().columns().into_iter().find(|column| column.name == *name);
                column.is_none_or(|column| self.has_history(&unnest.input, &Expr::Column(column)))
            }
            // A window's own answer, or a column that nobody can follow.
            _ => true,
        }
    }

    /// Whether a model's value is computed somewhere below.
    pub(super) fn has_model(&self, plan: &LogicalPlan) -> bool {
        let mut found = false;
        let walk = plan.apply(|node| {
            let in_node = node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    found |= matches!(expr, Expr::ScalarFunction(call) if self.of_models.iter().any(|name| name == call.func.name()));
                    Ok(TreeNodeRecursion::Continue)
                })
            });
            in_node.map(|_| TreeNodeRecursion::Continue)
        });
        debug_assert!(walk.is_ok(), "looking at a plan cannot fail");
        let is_before =
            |source: &usize| self.sources[*source].internal.as_ref().is_some_and(|internal| internal.has_scores);
        found
            || self.sources_of(plan).iter().any(is_before)
            || tables_read(plan).iter().filter_map(|table| self.view(table)).any(|view| self.has_model(view))
    }

    /// The source whose state units a window over `input` has, or why there is none.
    pub(super) fn source_of_window(&self, input: &LogicalPlan, node: &WindowNode) -> Result<usize, Refusal> {
        let refuse = |clause: &str, reason: String, alternative: &str| Err(Refusal::new(clause, reason, alternative));
        let logs = self.logs_of(input);
        let [log] = logs.as_slice() else {
            let name = |log: &Log| match log {
                Log::Source(source) => self.sources[*source].name.as_str(),
                Log::View(view) => self.views[*view].name,
            };
            let names: Vec<&str> = logs.iter().map(name).collect();
            let reason = format!(
                "its rows come from several sources ({}), whose order among each other is not fixed",
                names.join(", ")
            );
            return refuse("OVER", reason, "write them to one topic with `repartition`, and select from that");
        };
        let index = self.source_of_log(*log)?;
        let source = &self.sources[index];
        let Some(event_time) = &source.event_time else {
            let reason = format!("source {} declares no event time", source.name);
            return refuse("ORDER BY", reason, "name the column that holds it with `event_time` at the source");
        };
        let order = self.origin(input, &node.order);
        if !order.is_some_and(|(of, column)| of == *log && self.is_event_time(of, &column)) {
            let reason = format!("rows stand in the order of event time, and {} is not that", node.order);
            let alternative =
                format!("write ORDER BY \"{event_time}\", the event time of source {}, as it is there", source.name);
            return refuse("ORDER BY", reason, &alternative);
        }
        self.check_keys(*log, input, node)?;
        if self.has_model(input) {
            let reason = "state would depend on a model, and change its meaning with each new version".to_owned();
            return refuse("OVER", reason, "compute windows in a view before the one that scores");
        }
        Ok(index)
    }

    /// The source whose rows a log's are, or why they have no order.
    fn source_of_log(&self, log: Log) -> Result<usize, Refusal> {
        let index = match log {
            Log::Source(source) => source,
            Log::View(view) => match self.sources_of(self.views[view].plan).as_slice() {
                [source] => *source,
                several => {
                    let names: Vec<&str> = several.iter().map(|source| self.sources[*source].name.as_str()).collect();
                    return Err(Refusal::new(
                        "OVER",
                        format!(
                            "the rows of view {} come from several sources ({}), whose order among each other is known in its topic only",
                            self.views[view].name,
                            names.join(", ")
                        ),
                        "`tidemill run` can do that; this command needs a view of one source",
                    ));
                }
            },
        };
        let source = &self.sources[index];
        if let (Log::Source(_), SourceConnector::Kafka(kafka), None) = (log, &source.connector, &source.repartition)
            && kafka.topics.len() > 1
        {
            let reason = format!(
                "source {} reads {} topics: the rows of one key have no fixed order over them",
                source.name,
                kafka.topics.len()
            );
            return Err(Refusal::new("OVER", reason, "bring them into one with `repartition` at the source"));
        }
        Ok(index)
    }

    /// All rows of a key have to be in one partition: the key has to hold every column that the log is partitioned by.
    fn check_keys(&self, log: Log, input: &LogicalPlan, node: &WindowNode) -> Result<(), Refusal> {
        let (by, name) = (self.partitioned_by(log), self.name_of(log));
        if by.is_empty() {
            let reason = format!(
                "{name} does not say which columns its message key is made of, so the rows of one key may be in several partitions"
            );
            let alternative =
                "declare `partitioned_by: [...]` at the source, or bring rows together with `repartition`";
            return Err(Refusal::new("PARTITION BY", reason, alternative));
        }
        let keys: Vec<Option<(Log, String)>> = node.keys.iter().map(|key| self.origin(input, key)).collect();
        let is_key = |column: &&String| keys.contains(&Some((log, (*column).clone())));
        match by.iter().find(|column| !is_key(column)) {
            None => Ok(()),
            Some(missing) => Err(Refusal::new(
                "PARTITION BY",
                format!(
                    "{name} is partitioned by {}: rows of one key without {missing} are in several partitions, whose order is not fixed",
                    by.join(", ")
                ),
                format!(
                    "add {missing} to PARTITION BY, or bring the rows together with `repartition: {{ by: [...] }}`"
                ),
            )),
        }
    }
}
