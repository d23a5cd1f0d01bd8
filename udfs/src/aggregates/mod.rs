//! `sum`, `avg`, `var`, `stddev` and their kin over doubles, exact: the result depends on which rows there are, and on nothing else.
//!
//! They stand in for DataFusion's own functions under the same names and aliases, with its signatures, result types and plans, so that no SQL and no schema
//! changes. What stock casts to double (smaller floats, integers in `avg` and `var`) is cast as before, each value rounded to the nearest double, and then summed
//! exactly. What is exact as it is (sums of integers, which wrap; decimals, durations, intervals) stays with stock. Refuses nothing that stock accepts.
//!
//! Where stock and this differ beyond the last bits: a NaN or an infinity makes any variance NaN, also of one value, and a zero result is never negative.
//! Beyond stock, `DISTINCT` works for `stddev` and in sliding windows.

mod accumulator;
mod distinct;
mod groups;
mod statistic;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, Operator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion_functions_aggregate::{average, stddev, sum, variance};

use crate::exact::ExactMoments;
use accumulator::ExactAccumulator;
use distinct::DistinctAccumulator;
use groups::ExactGroups;
use statistic::{CountedSum, Statistic, Totals};

/// The exact functions. Register all of them: each replaces the stock one of its name, under all of its aliases.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let stock = [
        (sum::sum_udaf(), Statistic::Sum),
        (average::avg_udaf(), Statistic::Mean),
        (variance::var_samp_udaf(), Statistic::Variance { ddof: 1 }),
        (variance::var_pop_udaf(), Statistic::Variance { ddof: 0 }),
        (stddev::stddev_udaf(), Statistic::Deviation { ddof: 1 }),
        (stddev::stddev_pop_udaf(), Statistic::Deviation { ddof: 0 }),
    ];
    let exact = stock.into_iter().map(|(stock, statistic)| AggregateUDF::from(ExactAggregate { stock, statistic }));
    exact.map(Arc::new).collect()
}

/// A stock function whose doubles are summed exactly.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    stock: Arc<AggregateUDF>,
    statistic: Statistic,
}

impl ExactAggregate {
    fn stock(&self) -> &dyn AggregateUDFImpl {
        self.stock.inner().as_ref()
    }

    /// The accumulator of doubles; None if stock's is exact.
    fn exact(&self, args: &AccumulatorArgs<'_>) -> Option<Box<dyn Accumulator>> {
        if !takes_doubles(args.expr_fields) {
            return None;
        }
        Some(match self.statistic {
            Statistic::Sum | Statistic::Mean => accumulator::<CountedSum>(self.statistic, args.is_distinct),
            Statistic::Variance { .. } | Statistic::Deviation { .. } => {
                accumulator::<ExactMoments>(self.statistic, args.is_distinct)
            }
        })
    }
}

fn accumulator<T: Totals>(statistic: Statistic, is_distinct: bool) -> Box<dyn Accumulator> {
    if is_distinct {
        Box::new(DistinctAccumulator::<T>::new(statistic))
    } else {
        Box::new(ExactAccumulator::<T>::new(statistic))
    }
}

fn takes_doubles(fields: &[FieldRef]) -> bool {
    matches!(fields, [field] if *field.data_type() == DataType::Float64)
}

impl AggregateUDFImpl for ExactAggregate {
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.exact(&args).map_or_else(|| self.stock().accumulator(args), Ok)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.exact(&args).map_or_else(|| self.stock().create_sliding_accumulator(args), Ok)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if !takes_doubles(args.input_fields) {
            return self.stock().state_fields(args);
        }
        let name = format_state_name(args.name, if args.is_distinct { "distinct" } else { "exact" });
        let data_type = if args.is_distinct { distinct::state_type() } else { DataType::Binary };
        Ok(vec![Arc::new(Field::new(name, data_type, true))])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        if takes_doubles(args.expr_fields) {
            !args.is_distinct
        } else {
            self.stock().groups_accumulator_supported(args)
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if !takes_doubles(args.expr_fields) {
            return self.stock().create_groups_accumulator(args);
        }
        Ok(match self.statistic {
            Statistic::Sum | Statistic::Mean => Box::new(ExactGroups::<CountedSum>::new(self.statistic)),
            Statistic::Variance { .. } | Statistic::Deviation { .. } => {
                Box::new(ExactGroups::<ExactMoments>::new(self.statistic))
            }
        })
    }

    /// Stock makes `sum(x) + 1.5 * count(x)` of `sum(x + 1.5)`, which rounds elsewhere. Over integers it is the same number.
    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        operator: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> Result<Option<Expr>> {
        match literal {
            Expr::Literal(value, _) if !value.data_type().is_floating() => {
                self.stock().simplify_expr_op_literal(function, argument, operator, literal, argument_is_left)
            }
            _ => Ok(None),
        }
    }

    /// Stored statistics of doubles were rounded by whoever wrote them.
    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        if args.return_type.is_floating() { None } else { self.stock().value_from_stats(args) }
    }

    // What follows is stock's.

    fn name(&self) -> &str {
        self.stock().name()
    }

    fn aliases(&self) -> &[String] {
        self.stock().aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.stock().schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.stock().human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.stock().window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.stock().display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.stock().window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.stock().signature()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.stock().coerce_types(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.stock().return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.stock().return_field(arg_fields)
    }

    fn is_nullable(&self) -> bool {
        self.stock().is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.stock().default_value(data_type)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.stock().order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.stock().reverse_expr()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.stock().simplify()
    }

    fn is_descending(&self) -> Option<bool> {
        self.stock().is_descending()
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.stock().supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.stock().supports_within_group_clause()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.stock().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stock().documentation()
    }
}
