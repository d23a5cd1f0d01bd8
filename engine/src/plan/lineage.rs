//! Where a window's rows come from: which source, which of its columns, and whether a score stands between. What a window may
//! be partitioned and ordered by follows from that.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::hidden::tables_read;
use super::problem::Refusal;
use super::windows::WindowNode;
use crate::pipeline::settings::{Source, SourceConnector};

/// The tables that a query may read: sources, and the views before it.
pub(super) struct Lineage<'a> {
    pub(super) sources: &'a [Source],
    pub(super) views: Vec<(&'a str, &'a LogicalPlan)>,
    /// Functions whose value is a model's.
    pub(super) of_models: &'a [String],
}

impl Lineage<'_> {
    fn view(&self, name: &str) -> Option<&LogicalPlan> {
        self.views.iter().find(|(view, _)| *view == name).map(|(_, plan)| *plan)
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

    /// The source's column that `expr` is, unchanged: (source, column). `None` when it is computed.
    pub(super) fn origin(&self, plan: &LogicalPlan, expr: &Expr) -> Option<(usize, String)> {
        let mut expr = expr;
        while let Expr::Alias(alias) = expr {
            expr = &alias.expr;
        }
        let Expr::Column(column) = expr else { return None };
        match plan {
            LogicalPlan::TableScan(scan) => {
                let table = scan.table_name.table();
                let Some(view) = self.view(table) else {
                    let source = self.sources.iter().position(|source| source.name == table)?;
                    return Some((source, column.name.clone()));
                };
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
    fn has_model(&self, plan: &LogicalPlan) -> bool {
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
        found || tables_read(plan).iter().filter_map(|table| self.view(table)).any(|view| self.has_model(view))
    }

    /// The source whose state units a window over `input` has, or why there is none.
    pub(super) fn source_of_window(&self, input: &LogicalPlan, node: &WindowNode) -> Result<usize, Refusal> {
        let refuse = |clause: &str, reason: String, alternative: &str| Err(Refusal::new(clause, reason, alternative));
        let sources = self.sources_of(input);
        let [source] = sources.as_slice() else {
            let names: Vec<&str> = sources.iter().map(|source| self.sources[*source].name.as_str()).collect();
            let reason = format!(
                "its rows come from several sources ({}), whose order among each other is not fixed",
                names.join(", ")
            );
            return refuse("OVER", reason, "write them to one topic with `repartition`, and select from that");
        };
        let (index, source) = (*source, &self.sources[*source]);
        if let SourceConnector::Kafka(kafka) = &source.connector
            && kafka.topics.len() > 1
        {
            let reason = format!(
                "source {} reads {} topics: the rows of one key have no fixed order over them",
                source.name,
                kafka.topics.len()
            );
            return refuse("OVER", reason, "bring them into one with `repartition` at the source");
        }
        let Some(event_time) = &source.event_time else {
            let reason = format!("source {} declares no event time", source.name);
            return refuse("ORDER BY", reason, "name the column that holds it with `event_time` at the source");
        };
        if self.origin(input, &node.order) != Some((index, event_time.clone())) {
            let reason = format!("rows stand in the order of event time, and {} is not that", node.order);
            let alternative =
                format!("write ORDER BY \"{event_time}\", the event time of source {}, as it is there", source.name);
            return refuse("ORDER BY", reason, &alternative);
        }
        self.check_keys(index, input, node)?;
        if self.has_model(input) {
            let reason = "state would depend on a model, and change its meaning with each new version".to_owned();
            return refuse("OVER", reason, "compute windows in a view before the one that scores");
        }
        Ok(index)
    }

    /// All rows of a key have to be in one partition: the key has to hold every column that the topic is partitioned by.
    fn check_keys(&self, index: usize, input: &LogicalPlan, node: &WindowNode) -> Result<(), Refusal> {
        let source = &self.sources[index];
        if source.partitioned_by.is_empty() {
            let reason = format!(
                "source {} does not say which columns its message key is made of, so the rows of one key may be in several partitions",
                source.name
            );
            let alternative =
                "declare `partitioned_by: [...]` at the source, or bring rows together with `repartition`";
            return Err(Refusal::new("PARTITION BY", reason, alternative));
        }
        let keys: Vec<Option<(usize, String)>> = node.keys.iter().map(|key| self.origin(input, key)).collect();
        let is_key = |column: &&String| keys.contains(&Some((index, (*column).clone())));
        match source.partitioned_by.iter().find(|column| !is_key(column)) {
            None => Ok(()),
            Some(missing) => Err(Refusal::new(
                "PARTITION BY",
                format!(
                    "source {} is partitioned by {}: rows of one key without {missing} are in several partitions, whose order is not fixed",
                    source.name,
                    source.partitioned_by.join(", ")
                ),
                format!(
                    "add {missing} to PARTITION BY, or bring the rows together with `repartition: {{ by: [...] }}`"
                ),
            )),
        }
    }
}
