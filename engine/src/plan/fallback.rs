//! The fallback of history windows: an aggregate of DataFusion, or of the user, computed for each row from scratch on the
//! rows that it sees (design, section 5). It judges whether an aggregate can be computed so, and refuses what the
//! operator decides: which rows are seen, and what is retained.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{AggregateUDF, Expr};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

use super::failure::classify;
use crate::error::{Error, Result};
use crate::operator::over_window::{FrameAnswers, Function, RowAggregate};

#[cfg(test)]
mod tests;

/// An argument of an aggregate, as type coercion left it.
#[derive(Debug, Clone)]
pub enum Argument {
    /// A column that the operator retains.
    Retained {
        /// Its index among the retained columns.
        column: usize,
        /// Its type.
        data_type: DataType,
    },
    /// A constant, such as the 0.95 of `percentile_cont(x, 0.95)`: some aggregates take nothing else there.
    Literal(ScalarValue),
}

/// The call of an aggregate over a window.
#[derive(Debug, Clone)]
pub struct AggregateCall<'a> {
    /// The aggregate.
    pub function: &'a Arc<AggregateUDF>,
    /// Its arguments; `count(*)` has a literal one.
    pub arguments: &'a [Argument],
    /// `DISTINCT`; values that are given one by one are then in their own order.
    pub is_distinct: bool,
    /// `IGNORE NULLS`.
    pub ignores_nulls: bool,
}

/// Aggregates that take DISTINCT and do not heed it.
const DEAF_TO_DISTINCT: [&str; 14] = [
    "approx_percentile_cont",
    "corr",
    "covar_pop",
    "covar_samp",
    "nth_value",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
];

/// Aggregates that give their distinct values in the order of a hash table, which is another one in each process, unless
/// they are asked for theirs.
const UNORDERED_IF_DISTINCT: [&str; 2] = ["array_agg", "string_agg"];

/// The fallback of an aggregate, or why there is none: a text for a user, to stand behind the name of the call.
pub fn fallback(call: &AggregateCall<'_>) -> Result<Function, String> {
    if call.is_distinct && DEAF_TO_DISTINCT.contains(&call.function.name()) {
        return Err("DataFusion does not heed DISTINCT in it; leave DISTINCT out".to_owned());
    }
    let heeds_nulls = call.function.supports_null_handling_clause() && call.function.name() != "nth_value";
    if call.ignores_nulls && !heeds_nulls {
        return Err("DataFusion does not heed IGNORE NULLS in it; write FILTER (WHERE x IS NOT NULL)".to_owned());
    }
    let stock = StockAggregate::new(call).map_err(|error| reason(&error))?;
    let arguments = call.arguments.iter().filter_map(|argument| match argument {
        Argument::Retained { column, .. } => Some(*column),
        Argument::Literal(_) => None,
    });
    let arguments = arguments.collect();
    stock.probe()?;
    Ok(Function::Fallback { aggregate: Arc::new(stock), arguments })
}

/// The constant that an argument is, through aliases and the casts that type coercion adds.
#[must_use]
pub fn literal(argument: &Expr) -> Option<ScalarValue> {
    match argument {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Cast(cast) => literal(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        Expr::Negative(inner) => literal(inner)?.arithmetic_negate().ok(),
        _ => None,
    }
}

/// What DataFusion says of a call, without its prefixes and hints for its own developers.
fn reason(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.lines().next().unwrap_or_default();
    let prefixes = ["Error during planning: ", "This feature is not implemented: ", "Execution error: "];
    let text = prefixes.iter().fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    format!("DataFusion does not compute it for each row: {}", text.trim_end_matches('.'))
}

/// An aggregate of DataFusion's, made ready.
#[derive(Debug)]
struct StockAggregate {
    name: String,
    output: DataType,
    aggregate: AggregateFunctionExpr,
    /// The literal arguments in their places; the others are the retained columns, in order.
    arguments: Vec<Option<ScalarValue>>,
    /// Types of the retained columns.
    retained: Vec<DataType>,
    /// The answer to a frame that has no row.
    empty: ScalarValue,
}

impl StockAggregate {
    fn new(call: &AggregateCall<'_>) -> Result<StockAggregate, DataFusionError> {
        let (mut fields, mut expressions) = (Vec::new(), Vec::<Arc<dyn PhysicalExpr>>::new());
        let (mut arguments, mut retained) = (Vec::new(), Vec::new());
        for argument in call.arguments {
            match argument {
                Argument::Retained { data_type, .. } => {
                    let (place, name) = (fields.len(), format!("argument_{}", fields.len()));
                    fields.push(Field::new(&name, data_type.clone(), true));
                    expressions.push(Arc::new(Column::new(&name, place)));
                    retained.push(data_type.clone());
                    arguments.push(None);
                }
                Argument::Literal(value) => {
                    expressions.push(Arc::new(Literal::new(value.clone())));
                    arguments.push(Some(value.clone()));
                }
            }
        }
        let name = call.function.name().to_owned();
        let is_to_be_ordered = call.is_distinct && UNORDERED_IF_DISTINCT.contains(&name.as_str());
        let order_by = expressions.first().filter(|_| is_to_be_ordered).map(|first| PhysicalSortExpr {
            expr: Arc::clone(first),
            options: SortOptions { descending: false, nulls_first: false },
        });
        let aggregate = AggregateExprBuilder::new(Arc::clone(call.function), expressions)
            .schema(Arc::new(Schema::new(fields)))
            .alias(&name)
            .order_by(order_by.into_iter().collect())
            .with_ignore_nulls(call.ignores_nulls)
            .with_distinct(call.is_distinct)
            .build()?;
        let output = aggregate.field().data_type().clone();
        // A window answers an empty frame by this, not by an accumulator that saw nothing.
        let empty = aggregate.default_value(&output)?;
        Ok(StockAggregate { name, output, aggregate, arguments, retained, empty })
    }

    /// Computes the aggregate of no rows and of nulls, so that what cannot work fails before the start.
    fn probe(&self) -> Result<(), String> {
        let columns: Vec<ArrayRef> = self.retained.iter().map(|data_type| new_null_array(data_type, 2)).collect();
        let arguments = self.arguments(&columns, 2).map_err(|error| reason(&error))?;
        let whole = self.one(&arguments, &(0..2)).map_err(|error| reason(&error))?;
        let none = self.one(&arguments, &(0..0)).map_err(|error| reason(&error))?;
        for value in [whole, none, self.empty.clone()] {
            if value.data_type() != self.output {
                return Err(format!(
                    "it says that it gives {}, and gives {}; mend the function",
                    self.output,
                    value.data_type()
                ));
            }
        }
        Ok(())
    }

    /// The arguments of `num_rows` rows.
    fn arguments(&self, columns: &[ArrayRef], num_rows: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
        let mut columns = columns.iter();
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for literal in &self.arguments {
            match literal {
                Some(value) => arguments.push(value.to_array_of_size(num_rows)?),
                None => arguments.extend(columns.next().cloned()),
            }
        }
        Ok(arguments)
    }

    /// The aggregate of some rows. A fresh accumulator, as one that slides keeps a trace of what has left it.
    fn one(&self, arguments: &[ArrayRef], rows: &Range<usize>) -> Result<ScalarValue, DataFusionError> {
        let mut accumulator = self.aggregate.create_accumulator()?;
        let rows: Vec<ArrayRef> = arguments.iter().map(|array| array.slice(rows.start, rows.len())).collect();
        accumulator.update_batch(&rows)?;
        accumulator.evaluate()
    }
}

impl RowAggregate for StockAggregate {
    fn name(&self) -> &str {
        &self.name
    }

    fn argument_types(&self) -> &[DataType] {
        &self.retained
    }

    fn output_type(&self) -> &DataType {
        &self.output
    }

    fn evaluate(&self, columns: &[ArrayRef], frames: &[Option<Range<usize>>]) -> Result<FrameAnswers> {
        let num_rows = frames.iter().rev().flatten().next().map_or(0, |last| last.end);
        let place = format!("{} over a window", self.name);
        let arguments = self.arguments(columns, num_rows).map_err(|_| broken(&place))?;
        let (mut values, mut failures) = (Vec::with_capacity(frames.len()), Vec::new());
        let null = ScalarValue::try_from(&self.output).map_err(|_| broken(&place))?;
        for (frame, rows) in frames.iter().enumerate() {
            let value = match rows {
                None => Ok(self.empty.clone()),
                Some(rows) => self.one(&arguments, rows),
            };
            values.push(match value {
                Ok(value) => value,
                Err(error) => {
                    failures.push((frame, classify(&error, &place)?.as_str().to_owned()));
                    null.clone()
                }
            });
        }
        let values = ScalarValue::iter_to_array(values).map_err(|_| broken(&place))?;
        Ok(FrameAnswers { values, failures })
    }
}

/// The text of the cause stays out: it may quote a value.
fn broken(place: &str) -> Error {
    Error::internal(format!("{place}: the answers of the aggregate do not fit together"))
}
