//! Calls of `score` that somebody looks at: what went in, what came out, when the rows happened, and whether their history was
//! whole. The call gets what is hidden of that as arguments more, which only the observer sees. One virtual call a batch.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Filter, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

use super::hidden::{HISTORY_INCOMPLETE, flag_of, hidden_columns};
use crate::types::{HIDDEN_COLUMNS, HIDDEN_W};

/// The function that is looked at.
const SCORE: &str = "score";
/// Arguments that only the observer sees: the event time, and whether the history is incomplete.
const NUM_OWN: usize = 2;

/// Rows that were scored together; all columns are of equal length.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// The model's name in SQL.
    pub model: &'a str,
    /// Features as doubles in the call's order.
    pub features: &'a [ArrayRef],
    /// What they got.
    pub scores: &'a ArrayRef,
    /// Event times, microseconds since 1970-01-01 UTC.
    pub event_times: &'a Int64Array,
    /// Which rows' windows reach behind the first record that their state has seen: `_history_incomplete`, as far as the views below
    /// let it pass.
    pub is_history_incomplete: &'a BooleanArray,
}

/// Sees the rows that are scored. A row may be seen again when another row of its epoch fails in the SQL.
pub trait ScoreObserver: Send + Sync + std::fmt::Debug {
    /// Sees the rows of a batch, on the worker's thread.
    fn observe(&self, rows: Scored<'_>);
}

/// Lets `observer` see every call of `score` in a plan with its hidden columns.
pub(super) fn observed(plan: LogicalPlan, observer: &Arc<dyn ScoreObserver>) -> Result<LogicalPlan> {
    let plan = plan.transform_up(|node| match node {
        LogicalPlan::Projection(projection) if projection.expr.iter().any(has_call) => {
            let own = own_arguments(&projection.input)?;
            let exprs = projection.expr.into_iter().map(|expr| {
                let name = NamePreserver::new_for_projection().save(&expr);
                Ok(name.restore(with_observer(expr, &own, observer)?))
            });
            let exprs = exprs.collect::<Result<Vec<_>>>()?;
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, projection.input)?)))
        }
        LogicalPlan::Filter(filter) if has_call(&filter.predicate) => {
            let own = own_arguments(&filter.input)?;
            let predicate = with_observer(filter.predicate, &own, observer)?;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn own_arguments(input: &LogicalPlan) -> Result<[Expr; NUM_OWN]> {
    let hidden = hidden_columns(input)?;
    let at = hidden.len().checked_sub(HIDDEN_COLUMNS.len() - (HIDDEN_W - 1));
    let time = at.and_then(|at| hidden.get(at).cloned());
    let time = time.ok_or_else(|| internal_datafusion_err!("a plan lost its event times"))?;
    // Of this view's own windows, and of those of views below as far as their column passes.
    let is_flag =
        |(_, field): &(_, &FieldRef)| field.name() == HISTORY_INCOMPLETE && *field.data_type() == DataType::Boolean;
    let below = input.schema().iter().find(is_flag).map(Column::from);
    let flags = flag_of(input).into_iter().chain(below).map(|flag| Expr::Column(flag).is_true());
    Ok([time, flags.reduce(Expr::or).unwrap_or_else(|| lit(false))])
}

fn is_call(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.name() == SCORE && call.func.inner().downcast_ref::<Observed>().is_none())
}

fn has_call(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(is_call(expr))).unwrap_or(false)
}

fn with_observer(expr: Expr, own: &[Expr; NUM_OWN], observer: &Arc<dyn ScoreObserver>) -> Result<Expr> {
    let expr = expr.transform_down(|expr| match expr {
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == SCORE => {
            let observed = Observed {
                function: func,
                observer: Arc::clone(observer),
                signature: Signature::user_defined(Volatility::Volatile),
            };
            args.extend(own.iter().cloned());
            let func = Arc::new(ScalarUDF::new_from_impl(observed));
            let call = Expr::ScalarFunction(ScalarFunction { func, args });
            Ok(Transformed::new(call, true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(expr.data)
}

/// `score` with an observer; its last arguments are [`own_arguments`].
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
        self.function.return_type(&types[..types.len().saturating_sub(NUM_OWN)])
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let num_args = arguments.arg_fields.len().saturating_sub(NUM_OWN);
        self.function.return_field_from_args(ReturnFieldArgs {
            arg_fields: &arguments.arg_fields[..num_args],
            scalar_arguments: &arguments.scalar_arguments[..num_args],
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((args, [_, _])) = types.split_last_chunk() else {
            return internal_err!("a call without an event time");
        };
        let mut types = match self.function.signature().type_signature {
            TypeSignature::UserDefined => self.function.inner().coerce_types(args)?,
            // It was analysed with its own types before.
            _ => args.to_vec(),
        };
        types.extend([DataType::Int64, DataType::Boolean]);
        Ok(types)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs { mut args, mut arg_fields, number_rows, return_field, config_options } = arguments;
        let (Some(incomplete), Some(times)) = (args.pop(), args.pop()) else {
            return internal_err!("a call without an event time");
        };
        arg_fields.truncate(args.len());
        let model = match args.first() {
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(model)))) => Some(model.clone()),
            _ => None,
        };
        let features: Vec<ArrayRef> =
            args.iter().skip(1).map(|feature| feature.to_array(number_rows)).collect::<Result<_>>()?;
        let own = args.into_iter().take(1).chain(features.iter().cloned().map(ColumnarValue::Array)).collect();
        let own = ScalarFunctionArgs { args: own, arg_fields, number_rows, return_field, config_options };
        let scores = self.function.invoke_with_args(own)?.into_array(number_rows)?;
        let (times, incomplete) = (times.into_array(number_rows)?, incomplete.into_array(number_rows)?);
        if let (Some(model), Some(event_times), Some(is_history_incomplete)) =
            (model, times.as_primitive_opt::<Int64Type>(), incomplete.as_boolean_opt())
        {
            let (features, scores) = (&*features, &scores);
            self.observer.observe(Scored { model: &model, features, scores, event_times, is_history_incomplete });
        }
        Ok(ColumnarValue::Array(scores))
    }
}
