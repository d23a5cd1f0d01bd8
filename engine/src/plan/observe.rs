//! Calls of `score` that somebody looks at: what went in, what came out, and when the rows happened. The call gets the hidden
//! event time as one more argument, which only the observer sees. One virtual call a batch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Filter, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::hidden::hidden_columns;
use crate::types::{HIDDEN_COLUMNS, HIDDEN_W};

/// The function that is looked at.
const SCORE: &str = "score";

/// Sees the rows that are scored. A row may be seen again when another row of its epoch fails in the SQL.
pub trait ScoreObserver: Send + Sync + std::fmt::Debug {
    /// Features as doubles in the call's order, the scores that they got, and the event times, microseconds; of equal length.
    fn observe(&self, model: &str, features: &[ArrayRef], scores: &ArrayRef, event_times: &Int64Array);
}

/// Lets `observer` see every call of `score` in a plan with its hidden columns.
pub(super) fn observed(plan: LogicalPlan, observer: &Arc<dyn ScoreObserver>) -> Result<LogicalPlan> {
    let plan = plan.transform_up(|node| match node {
        LogicalPlan::Projection(projection) if projection.expr.iter().any(has_call) => {
            let time = event_time(&projection.input)?;
            let exprs = projection.expr.into_iter().map(|expr| {
                let name = NamePreserver::new_for_projection().save(&expr);
                Ok(name.restore(with_observer(expr, &time, observer)?))
            });
            let exprs = exprs.collect::<Result<Vec<_>>>()?;
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, projection.input)?)))
        }
        LogicalPlan::Filter(filter) if has_call(&filter.predicate) => {
            let time = event_time(&filter.input)?;
            let predicate = with_observer(filter.predicate, &time, observer)?;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn event_time(input: &LogicalPlan) -> Result<Expr> {
    let hidden = hidden_columns(input)?;
    let at = hidden.len().checked_sub(HIDDEN_COLUMNS.len() - (HIDDEN_W - 1));
    at.and_then(|at| hidden.get(at).cloned()).ok_or_else(|| internal_datafusion_err!("a plan lost its event times"))
}

fn is_call(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.name() == SCORE && call.func.inner().downcast_ref::<Observed>().is_none())
}

fn has_call(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(is_call(expr))).unwrap_or(false)
}

fn with_observer(expr: Expr, time: &Expr, observer: &Arc<dyn ScoreObserver>) -> Result<Expr> {
    let expr = expr.transform_down(|expr| match expr {
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == SCORE => {
            let observed = Observed {
                function: func,
                observer: Arc::clone(observer),
                signature: Signature::user_defined(Volatility::Volatile),
            };
            args.push(time.clone());
            let func = Arc::new(ScalarUDF::new_from_impl(observed));
            let call = Expr::ScalarFunction(ScalarFunction { func, args });
            Ok(Transformed::new(call, true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(expr.data)
}

/// `score` with an observer; its last argument is the event time.
#[derive(Debug)]
struct Observed {
    function: Arc<ScalarUDF>,
    observer: Arc<dyn ScoreObserver>,
    signature: Signature,
}

impl PartialEq for Observed {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function && Arc::ptr_eq(&self.observer, &other.observer)
    }
}

impl Eq for Observed {}

impl Hash for Observed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for Observed {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(&types[..types.len().saturating_sub(1)])
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let num_own = arguments.arg_fields.len().saturating_sub(1);
        self.function.return_field_from_args(ReturnFieldArgs {
            arg_fields: &arguments.arg_fields[..num_own],
            scalar_arguments: &arguments.scalar_arguments[..num_own],
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((_, own)) = types.split_last() else { return internal_err!("a call without an event time") };
        let mut types = match self.function.signature().type_signature {
            TypeSignature::UserDefined => self.function.inner().coerce_types(own)?,
            // It was analysed with its own types before.
            _ => own.to_vec(),
        };
        types.push(DataType::Int64);
        Ok(types)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs { mut args, mut arg_fields, number_rows, return_field, config_options } = arguments;
        let Some(times) = args.pop() else { return internal_err!("a call without an event time") };
        arg_fields.pop();
        let model = match args.first() {
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(model)))) => Some(model.clone()),
            _ => None,
        };
        let features: Vec<ArrayRef> =
            args.iter().skip(1).map(|feature| feature.to_array(number_rows)).collect::<Result<_>>()?;
        let own = args.into_iter().take(1).chain(features.iter().cloned().map(ColumnarValue::Array)).collect();
        let own = ScalarFunctionArgs { args: own, arg_fields, number_rows, return_field, config_options };
        let scores = self.function.invoke_with_args(own)?.into_array(number_rows)?;
        let times = times.into_array(number_rows)?;
        if let (Some(model), Some(times)) = (model, times.as_primitive_opt::<Int64Type>()) {
            self.observer.observe(&model, &features, &scores, times);
        }
        Ok(ColumnarValue::Array(scores))
    }
}
