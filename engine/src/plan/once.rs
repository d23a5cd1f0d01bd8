//! Expensive functions (`score`) are evaluated once per row, wherever and however often their value is used. The optimiser
//! copies an expression into the filter that it pushes below a projection; here such calls are marked so that it does not,
//! and equal calls of one SELECT become one column.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Filter, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

/// A function that the optimiser may neither copy nor merge: it takes it for volatile.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Once {
    function: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for Once {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        self.function.return_field_from_args(arguments)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.function.invoke_with_args(arguments)
    }
}

/// Marks the calls in an analysed plan and computes equal ones of one SELECT once.
pub(super) fn evaluate_once(plan: LogicalPlan, once: &[String]) -> Result<LogicalPlan> {
    if once.is_empty() {
        return Ok(plan);
    }
    Ok(Hoist { once, num_columns: 0 }.plan(plan)?.0)
}

/// Calls that a plan's output already has as columns.
type Computed = Vec<(Expr, Column)>;

struct Hoist<'a> {
    once: &'a [String],
    num_columns: usize,
}

impl Hoist<'_> {
    /// A condition's calls become columns below it, which the SELECT list above may use; a list's calls only when it
    /// has them more than once, so that rows that the condition drops are not scored for the list.
    fn plan(&mut self, plan: LogicalPlan) -> Result<(LogicalPlan, Computed)> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let (input, mut computed) = self.plan(Arc::unwrap_or_clone(filter.input))?;
                let mut calls = Vec::new();
                self.collect(&filter.predicate, &mut calls);
                let input = self.materialise(input, calls, &mut computed)?;
                let predicate = self.rewrite(filter.predicate, &computed)?;
                Ok((LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?), computed))
            }
            LogicalPlan::Projection(projection) => {
                let (input, mut computed) = self.plan(Arc::unwrap_or_clone(projection.input))?;
                let mut calls = Vec::new();
                for expr in &projection.expr {
                    self.collect(expr, &mut calls);
                }
                let mut repeated: Vec<Expr> = Vec::new();
                for (index, call) in calls.iter().enumerate() {
                    if calls[..index].contains(call) && !repeated.contains(call) {
                        repeated.push(call.clone());
                    }
                }
                let input = self.materialise(input, repeated, &mut computed)?;
                let exprs = projection.expr.into_iter().map(|expr| {
                    let name = NamePreserver::new_for_projection().save(&expr);
                    Ok(name.restore(self.rewrite(expr, &computed)?))
                });
                let exprs = exprs.collect::<Result<Vec<_>>>()?;
                Ok((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), Computed::new()))
            }
            other => {
                let plan = other.map_children(|child| Ok(Transformed::yes(self.plan(child)?.0)))?.data;
                Ok((plan, Computed::new()))
            }
        }
    }

    fn is_call(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::ScalarFunction(call) if self.once.iter().any(|name| name == call.func.name()))
    }

    fn collect(&self, expr: &Expr, calls: &mut Vec<Expr>) {
        let found = expr.apply(|expr| {
            if self.is_call(expr) {
                calls.push(expr.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(found.is_ok(), "looking at expressions cannot fail");
    }

    fn materialise(&mut self, input: LogicalPlan, calls: Vec<Expr>, computed: &mut Computed) -> Result<LogicalPlan> {
        let mut new: Vec<Expr> = Vec::new();
        for call in calls {
            if !new.contains(&call) && !computed.iter().any(|(known, _)| *known == call) {
                new.push(call);
            }
        }
        if new.is_empty() {
            return Ok(input);
        }
        let mut exprs: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        let mut added = Computed::new();
        for call in new {
            let name = format!("{}call_{}", crate::types::HIDDEN_PREFIX, self.num_columns);
            self.num_columns += 1;
            exprs.push(self.rewrite(call.clone(), computed)?.alias(&name));
            added.push((call, Column::new_unqualified(name)));
        }
        computed.extend(added);
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
    }

    /// Replaces known calls by their columns and marks the others.
    fn rewrite(&self, expr: Expr, computed: &Computed) -> Result<Expr> {
        let expr = expr.transform_down(|expr| {
            if let Some((_, column)) = computed.iter().find(|(known, _)| *known == expr) {
                return Ok(Transformed::new(Expr::Column(column.clone()), true, TreeNodeRecursion::Jump));
            }
            match expr {
                Expr::ScalarFunction(call) if self.once.iter().any(|name| name == call.func.name()) => {
                    let mut signature = call.func.signature().clone();
                    signature.volatility = Volatility::Volatile;
                    let func = Arc::new(ScalarUDF::new_from_impl(Once { function: call.func, signature }));
                    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: call.args })))
                }
                other => Ok(Transformed::no(other)),
            }
        })?;
        Ok(expr.data)
    }
}
