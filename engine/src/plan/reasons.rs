//! `explain_score('fraud')` without features: it gets those of the one call `score('fraud', ...)` that its rows were scored by, so
//! that nobody writes them twice. They are followed through views and SELECTs to columns of the row; where they cannot be, or
//! where there are several such calls, the call is refused. Nothing is taken by its name alone.

use std::collections::HashMap;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection};
use tidemill_udfs::functions::EXPLAIN_SCORE;

use super::problem::Refusal;

/// The function whose calls are explained.
const SCORE: &str = "score";

/// What a call of `score` gives its model: by argument, its name and the column of a plan's rows that it is, if it is one.
type Given = Vec<(String, Option<Expr>)>;

/// Finds what rows were scored by.
pub(super) struct Scores<'a> {
    /// Views by name, as they were written.
    pub(super) views: &'a HashMap<String, LogicalPlan>,
}

impl Scores<'_> {
    /// Gives all calls without features theirs. Where one cannot have them, the refusal, in the order of the calls.
    pub(super) fn complete(&self, plan: LogicalPlan) -> Result<(LogicalPlan, Vec<Refusal>)> {
        let mut refusals = Vec::new();
        let plan = plan.transform_up(|node| {
            if !node.expressions().iter().any(has_short_call) {
                return Ok(Transformed::no(node));
            }
            match node {
                LogicalPlan::Projection(projection) => {
                    let below = (self.own(&projection.expr), self.given(&projection.input));
                    let exprs = projection.expr.into_iter().map(|expr| {
                        let name = NamePreserver::new_for_projection().save(&expr);
                        Ok(name.restore(completed(expr, &below, &mut refusals)?))
                    });
                    let exprs = exprs.collect::<Result<Vec<_>>>()?;
                    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, projection.input)?)))
                }
                LogicalPlan::Filter(filter) => {
                    let below = (self.own(std::slice::from_ref(&filter.predicate)), self.given(&filter.input));
                    let predicate = completed(filter.predicate, &below, &mut refusals)?;
                    Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
                }
                other => {
                    let reason = "features are found for a SELECT list and for WHERE only";
                    let alternative = "compute it in a SELECT before, under a name";
                    refusals.push(Refusal::new(format!("{EXPLAIN_SCORE}(...)"), reason, alternative));
                    Ok(Transformed::no(other))
                }
            }
        })?;
        Ok((plan.data, refusals))
    }

    /// Calls in a node's own expressions, over the columns of its input.
    fn own(&self, exprs: &[Expr]) -> Vec<(String, Given)> {
        let mut calls = Vec::new();
        for expr in exprs {
            let found = expr.apply(|expr| {
                if let Expr::ScalarFunction(call) = expr
                    && call.func.name() == SCORE
                    && let Some((model, arguments)) = call.args.split_first()
                    && let Some(model) = text_of(model)
                {
                    let given = arguments.iter().map(|argument| (name_of(argument), Some(argument.clone())));
                    calls.push((model, given.collect()));
                }
                Ok(TreeNodeRecursion::Continue)
            });
            debug_assert!(found.is_ok(), "looking at expressions cannot fail");
        }
        calls
    }

    /// Calls that a plan's rows were scored by, over the columns of those rows.
    fn given(&self, plan: &LogicalPlan) -> Vec<(String, Given)> {
        let columns = plan.schema().columns();
        let at = |place: Option<usize>| place.and_then(|place| columns.get(place)).cloned().map(Expr::Column);
        let same_place = |input: &LogicalPlan| {
            let below = input.schema().columns();
            let place = |expr: &Expr| below.iter().position(|column| is_column(expr, column));
            mapped(self.given(input), |expr| at(place(expr)))
        };
        let found = match plan {
            LogicalPlan::Projection(projection) => {
                let mut calls = self.own(&projection.expr);
                calls.extend(self.given(&projection.input));
                mapped(calls, |expr| {
                    at(projection.expr.iter().position(|defined| unaliased(defined) == unaliased(expr)))
                })
            }
            LogicalPlan::Filter(filter) => {
                let mut calls = self.own(std::slice::from_ref(&filter.predicate));
                calls.extend(self.given(&filter.input));
                calls
            }
            LogicalPlan::TableScan(scan) => match self.views.get(scan.table_name.table()) {
                Some(view) => {
                    let below = view.schema().columns();
                    let name = |expr: &Expr| below.iter().find(|column| is_column(expr, column));
                    let place = |name: &Column| columns.iter().position(|column| column.name == name.name);
                    mapped(self.given(view), |expr| at(name(expr).and_then(place)))
                }
                None => Vec::new(),
            },
            LogicalPlan::SubqueryAlias(alias) => same_place(&alias.input),
            // A window's own columns stand behind those of its input.
            LogicalPlan::Window(window) => same_place(&window.input),
            LogicalPlan::Union(union) => union.inputs.iter().flat_map(|input| same_place(input)).collect(),
            // Columns that cannot be followed are missing.
            other => other.inputs().iter().flat_map(|input| mapped(self.given(input), |_| None)).collect(),
        };
        let mut distinct: Vec<(String, Given)> = Vec::new();
        for call in found {
            if !distinct.contains(&call) {
                distinct.push(call);
            }
        }
        distinct
    }
}

fn mapped(calls: Vec<(String, Given)>, to: impl Fn(&Expr) -> Option<Expr>) -> Vec<(String, Given)> {
    let map = |given: Given| given.into_iter().map(|(text, expr)| (text, expr.as_ref().and_then(&to))).collect();
    calls.into_iter().map(|(model, given)| (model, map(given))).collect()
}

fn is_column(expr: &Expr, column: &Column) -> bool {
    matches!(expr, Expr::Column(found) if found == column)
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

/// Whether an argument is the number of reasons: an integer constant.
pub(super) fn is_number_of_reasons(argument: &Expr) -> bool {
    matches!(argument, Expr::Literal(ScalarValue::Int64(Some(_)), _))
}

/// Whether a call gives no feature.
fn is_short(call: &ScalarFunction) -> bool {
    call.func.name() == EXPLAIN_SCORE
        && match call.args.as_slice() {
            [_] => true,
            [_, number] => is_number_of_reasons(number),
            _ => false,
        }
}

fn has_short_call(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(matches!(expr, Expr::ScalarFunction(call) if is_short(call)))).unwrap_or(false)
}

/// Calls of `score`, by model.
type Calls = Vec<(String, Given)>;

/// `expr` with features in its calls; `below`: calls beside it, and calls that its rows were scored by.
fn completed(expr: Expr, (beside, before): &(Calls, Calls), refusals: &mut Vec<Refusal>) -> Result<Expr> {
    let expr = expr.transform_up(|expr| {
        let Expr::ScalarFunction(mut call) = expr else { return Ok(Transformed::no(expr)) };
        let model = call.args.first().and_then(text_of).filter(|_| is_short(&call));
        let Some(model) = model else { return Ok(Transformed::no(Expr::ScalarFunction(call))) };
        let mut found: Vec<&Given> = Vec::new();
        for (of, given) in beside.iter().chain(before) {
            if *of == model && !found.contains(&given) {
                found.push(given);
            }
        }
        match features(&model, &found) {
            Ok(features) => call.args.extend(features),
            Err(refusal) => refusals.push(refusal),
        }
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    })?;
    Ok(expr.data)
}

fn features(model: &str, found: &[&Given]) -> Result<Vec<Expr>, Refusal> {
    let refuse = |reason: String, alternative: &str| {
        Err(Refusal::new(format!("{EXPLAIN_SCORE}('{model}')"), reason, alternative))
    };
    let given = match found {
        [given] => given,
        [] => {
            return refuse(
                format!("no score('{model}', ...) is computed for these rows"),
                "score the rows before, in this SELECT or in a view; or give the model's features as further arguments",
            );
        }
        _ => {
            return refuse(
                format!("these rows are scored by several calls score('{model}', ...) with different arguments"),
                "give the model's features as further arguments",
            );
        }
    };
    let missing: Vec<&str> = given.iter().filter(|(_, expr)| expr.is_none()).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        return refuse(
            format!("these rows do not have what score('{model}', ...) was given: {}", missing.join(", ")),
            "let the SELECTs between pass these columns on, such as by SELECT *",
        );
    }
    // A renamed column is the feature that it was.
    let named = |(name, expr): &(String, Option<Expr>)| match expr {
        Some(Expr::Column(column)) if column.name != *name => Some(Expr::Column(column.clone()).alias(name)),
        other => other.clone(),
    };
    Ok(given.iter().filter_map(named).collect())
}

/// A column's name without its table, or the expression's text.
pub(super) fn name_of(argument: &Expr) -> String {
    match argument {
        Expr::Column(column) => column.name.clone(),
        Expr::Alias(alias) => alias.name.clone(),
        other => other.to_string(),
    }
}
