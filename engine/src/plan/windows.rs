//! A Window node of an analysed plan as an over-window operator: which columns it reads, what it computes, and what it refuses.
//! It works from the logical parameters, since a FILTER cannot be read back from physical expressions.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{
    Column, DFSchema, DataFusionError, Result as DFResult, ScalarValue, TableReference, plan_err,
};
use datafusion::logical_expr::expr::{NullTreatment, Sort, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, LogicalPlan, Projection, Window, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition,
};

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::fallback::{AggregateCall, Argument, fallback, literal};
use super::hidden::{hidden_columns, scan_of};
use super::problem::Refusal;
use super::table::with_hidden;
use super::window_stage::INCOMPLETE;
use crate::operator::over_window::{Call, Frame, Function, WindowSpec};
use crate::types::HIDDEN_PREFIX;

/// A Window node, ready to become an operator.
#[derive(Debug)]
pub(super) struct WindowNode {
    pub(super) spec: WindowSpec,
    /// PARTITION BY, over the node's input.
    pub(super) keys: Vec<Expr>,
    /// The retained columns, each once, over the node's input.
    pub(super) arguments: Vec<Expr>,
    /// The FILTER conditions, each once, over the node's input.
    pub(super) filters: Vec<Expr>,
    /// The column that gives the order. The caller checks that it is the event time.
    pub(super) order: Expr,
}

impl WindowNode {
    /// Reads a node. All its calls share keys and order: DataFusion makes a node for each set of them. The caller sets
    /// `max_lateness` and `max_lookback`.
    pub(super) fn read(window: &Window) -> Result<WindowNode, Refusal> {
        let schema = window.input.schema();
        let first = function(window.window_expr.first())?;
        let mut node = WindowNode {
            spec: WindowSpec {
                keys: first.params.partition_by.iter().map(|key| type_of(key, schema)).collect::<Result<_, _>>()?,
                arguments: Vec::new(),
                num_filters: 0,
                calls: Vec::new(),
                max_lateness: WindowSpec::MAX_LATENESS,
                max_lookback: WindowSpec::MAX_LOOKBACK,
            },
            keys: first.params.partition_by.clone(),
            arguments: Vec::new(),
            filters: Vec::new(),
            order: order(&first.params)?,
        };
        for expr in &window.window_expr {
            let function = function(Some(expr))?;
            let call = node.call(function, schema)?;
            node.spec.calls.push(call);
        }
        Ok(node)
    }

    /// A call by its kernel; an aggregate that has none by the fallback.
    fn call(&mut self, function: &WindowFunction, schema: &DFSchema) -> Result<Call, Refusal> {
        let frame = frame(&function.params.window_frame, function)?;
        let filter = function.params.filter.as_deref().map(|filter| self.filter(filter));
        let num_arguments = self.arguments.len();
        let by_kernel = self.by_kernel(function, schema, frame, filter);
        let WindowFunctionDefinition::AggregateUDF(aggregate) = &function.fun else { return by_kernel };
        by_kernel.or_else(|_| {
            self.arguments.truncate(num_arguments);
            self.spec.arguments.truncate(num_arguments);
            self.by_fallback(function, aggregate, schema, frame, filter)
        })
    }

    fn by_kernel(
        &mut self,
        function: &WindowFunction,
        schema: &DFSchema,
        frame: Frame,
        filter: Option<usize>,
    ) -> Result<Call, Refusal> {
        if function.params.null_treatment == Some(NullTreatment::IgnoreNulls) {
            let reason = "IGNORE NULLS would have to look for a value beyond the frame's rows that are kept";
            return Err(Refusal::new(clause(function), reason, "leave it out, and use FILTER or CASE"));
        }
        let kernel = kernel(function, schema)?;
        let takes_argument = !matches!(kernel, Function::CountRows | Function::RowNumber);
        let argument = match function.params.args.first().filter(|_| takes_argument) {
            Some(argument) => Some(self.argument(argument, schema)?),
            None => None,
        };
        self.checked(Call { function: kernel, argument, filter, frame }, function)
    }

    fn by_fallback(
        &mut self,
        function: &WindowFunction,
        aggregate: &Arc<AggregateUDF>,
        schema: &DFSchema,
        frame: Frame,
        filter: Option<usize>,
    ) -> Result<Call, Refusal> {
        let mut arguments = Vec::new();
        for argument in &function.params.args {
            arguments.push(match literal(argument) {
                Some(value) => Argument::Literal(value),
                None => Argument::Retained {
                    column: self.argument(argument, schema)?,
                    data_type: type_of(argument, schema)?,
                },
            });
        }
        let call = AggregateCall {
            function: aggregate,
            arguments: &arguments,
            is_distinct: function.params.distinct,
            ignores_nulls: function.params.null_treatment == Some(NullTreatment::IgnoreNulls),
        };
        let fallback = fallback(&call).map_err(|reason| Refusal::new(clause(function), reason, ""))?;
        self.checked(Call { function: fallback, argument: None, filter, frame }, function)
    }

    fn checked(&self, call: Call, function: &WindowFunction) -> Result<Call, Refusal> {
        let output = call.output_type(&self.spec.arguments, self.spec.num_filters);
        output.map(|_| call).map_err(|error| Refusal::new(clause(function), error.message(), ""))
    }

    /// The place of a retained column.
    fn argument(&mut self, expr: &Expr, schema: &DFSchema) -> Result<usize, Refusal> {
        if let Some(known) = self.arguments.iter().position(|known| known == expr) {
            return Ok(known);
        }
        self.spec.arguments.push(type_of(expr, schema)?);
        self.arguments.push(expr.clone());
        Ok(self.arguments.len() - 1)
    }

    /// The place of a FILTER.
    fn filter(&mut self, expr: &Expr) -> usize {
        if let Some(known) = self.filters.iter().position(|known| known == expr) {
            return known;
        }
        self.filters.push(expr.clone());
        self.spec.num_filters = self.filters.len();
        self.filters.len() - 1
    }
}

fn function(expr: Option<&Expr>) -> Result<&WindowFunction, Refusal> {
    let mut expr = expr;
    while let Some(Expr::Alias(alias)) = expr {
        expr = Some(&alias.expr);
    }
    match expr {
        Some(Expr::WindowFunction(function)) => Ok(function),
        _ => Err(Refusal::new("OVER", "a window without a function", "")),
    }
}

fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType, Refusal> {
    expr.get_type(schema).map_err(|error| Refusal::new(format!("`{expr}`"), error.strip_backtrace(), ""))
}

fn clause(function: &WindowFunction) -> String {
    format!("`{}()` OVER", function.fun.name())
}

/// The one column that gives the order, ascending.
fn order(params: &WindowFunctionParams) -> Result<Expr, Refusal> {
    let alternative = "write ORDER BY and the source's event time";
    match params.order_by.as_slice() {
        [Sort { expr, asc: true, .. }] => Ok(expr.clone()),
        [] => Err(Refusal::new(
            "OVER",
            "a window over a stream needs an order, which says what comes before a row",
            alternative,
        )),
        [_] => Err(Refusal::new("ORDER BY ... DESC", "a row sees what came before it, not after", alternative)),
        [..] => Err(Refusal::new(
            "ORDER BY",
            "rows of equal event time stand in the order of their positions already",
            alternative,
        )),
    }
}

/// What the kernels call a function.
fn kernel(function: &WindowFunction, schema: &DFSchema) -> Result<Function, Refusal> {
    let params = &function.params;
    let is_star =
        params.args.first().is_none_or(|argument| matches!(argument, Expr::Literal(value, _) if !value.is_null()));
    let distinct = |plain: Function| {
        let reason = "DISTINCT is built for count only";
        if params.distinct { Err(Refusal::new(clause(function), reason, "use count(DISTINCT ...)")) } else { Ok(plain) }
    };
    match function.fun.name() {
        "count" if params.distinct => Ok(Function::CountDistinct),
        "count" if is_star => Ok(Function::CountRows),
        "count" => Ok(Function::Count),
        "sum" => distinct(Function::Sum),
        "avg" => distinct(Function::Avg),
        "min" => Ok(Function::Min),
        "max" => Ok(Function::Max),
        "var" => distinct(Function::VarSamp),
        "var_pop" => distinct(Function::VarPop),
        "stddev" => distinct(Function::StddevSamp),
        "stddev_pop" => distinct(Function::StddevPop),
        "first_value" => Ok(Function::FirstValue),
        "last_value" => Ok(Function::LastValue),
        "row_number" => Ok(Function::RowNumber),
        "lag" => lag(function, schema),
        _ => {
            let alternative = "there are lag, row_number, and every aggregate function";
            let reason = "its answer depends on rows that come later, or on all rows";
            Err(Refusal::new(clause(function), reason, alternative))
        }
    }
}

fn lag(function: &WindowFunction, schema: &DFSchema) -> Result<Function, Refusal> {
    let args = &function.params.args;
    let offset = match args.get(1) {
        None => 1,
        Some(Expr::Literal(value, _)) => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(offset))) if offset >= 0 => usize::try_from(offset).unwrap_or(usize::MAX),
            _ => return Err(Refusal::new(clause(function), "its offset has to be a whole number, not negative", "")),
        },
        Some(_) => return Err(Refusal::new(clause(function), "its offset has to be a number, not an expression", "")),
    };
    let default = match (args.first(), args.get(2)) {
        (_, None) => None,
        (Some(argument), Some(Expr::Literal(value, _))) => {
            let value = value.cast_to(&type_of(argument, schema)?).and_then(|value| value.to_array());
            Some(value.map_err(|error| {
                Refusal::new(clause(function), error.strip_backtrace(), "write a default of the argument's type")
            })?)
        }
        _ => {
            return Err(Refusal::new(
                clause(function),
                "its default has to be a value, not an expression",
                "use coalesce over it",
            ));
        }
    };
    Ok(Function::Lag { offset, default })
}

/// The frame, if it ends at the row or before it.
fn frame(frame: &WindowFrame, function: &WindowFunction) -> Result<Frame, Refusal> {
    let refuse = |reason: &str, alternative: &str| Err(Refusal::new(clause(function), reason, alternative));
    if matches!(frame.end_bound, WindowFrameBound::Following(_))
        || matches!(frame.start_bound, WindowFrameBound::Following(_))
    {
        return refuse(
            "FOLLOWING: a row is answered when it comes, before those that follow",
            "end the frame at CURRENT ROW",
        );
    }
    if frame.start_bound.is_unbounded() {
        return match (frame.units, &frame.end_bound) {
            (_, WindowFrameBound::CurrentRow) => Ok(Frame::Unbounded { until: 0 }),
            (WindowFrameUnits::Rows, WindowFrameBound::Preceding(rows)) => {
                Ok(Frame::Unbounded { until: self::rows(rows, function)? })
            }
            _ => refuse("an unbounded RANGE frame ends at CURRENT ROW", "write ROWS, or a RANGE with a beginning"),
        };
    }
    match frame.units {
        WindowFrameUnits::Rows => Ok(Frame::Rows {
            preceding: bound(&frame.start_bound, |rows| self::rows(rows, function))?,
            until: bound(&frame.end_bound, |rows| self::rows(rows, function))?,
        }),
        WindowFrameUnits::Range => Ok(Frame::Range {
            preceding_micros: bound(&frame.start_bound, |length| micros(length, function))?,
            until_micros: bound(&frame.end_bound, |length| micros(length, function))?,
        }),
        WindowFrameUnits::Groups => refuse("GROUPS counts event times that are equal", "write ROWS or RANGE"),
    }
}

fn bound<T: Default>(
    bound: &WindowFrameBound,
    length: impl Fn(&ScalarValue) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    match bound {
        WindowFrameBound::Preceding(value) => length(value),
        WindowFrameBound::CurrentRow | WindowFrameBound::Following(_) => Ok(T::default()),
    }
}

fn rows(value: &ScalarValue, function: &WindowFunction) -> Result<usize, Refusal> {
    match value {
        ScalarValue::UInt64(Some(rows)) => Ok(usize::try_from(*rows).unwrap_or(usize::MAX)),
        other => Err(Refusal::new(clause(function), format!("a number of rows was expected, found {other}"), "")),
    }
}

/// A length of time; months have none.
fn micros(value: &ScalarValue, function: &WindowFunction) -> Result<i64, Refusal> {
    let refuse = |reason: &str| Err(Refusal::new(clause(function), reason, "write days, hours, minutes or seconds"));
    const DAY_MICROS: i64 = 86_400_000_000;
    let (days, nanos) = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months != 0 => {
            return refuse("months and years have no fixed length");
        }
        ScalarValue::IntervalMonthDayNano(Some(interval)) => (i64::from(interval.days), interval.nanoseconds),
        ScalarValue::IntervalDayTime(Some(interval)) => {
            (i64::from(interval.days), i64::from(interval.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(_) => return refuse("months and years have no fixed length"),
        ScalarValue::DurationMicrosecond(Some(micros)) => (0, micros.saturating_mul(1000)),
        ScalarValue::DurationNanosecond(Some(nanos)) => (0, *nanos),
        ScalarValue::DurationMillisecond(Some(millis)) => (0, millis.saturating_mul(1_000_000)),
        ScalarValue::DurationSecond(Some(seconds)) => (0, seconds.saturating_mul(1_000_000_000)),
        other => return refuse(&format!("a length of time was expected, found {other}")),
    };
    if nanos % 1000 != 0 {
        return refuse("event times are microseconds; the frame's length is no whole number of them");
    }
    match days.checked_mul(DAY_MICROS).and_then(|days| days.checked_add(nanos / 1000)) {
        Some(micros) if micros >= 0 => Ok(micros),
        _ => refuse("the frame's length is negative, or beyond all event times"),
    }
}

/// A query cut at a window.
pub(super) struct Cut {
    /// What the window reads.
    pub(super) input: LogicalPlan,
    /// Columns of the slot with its answers.
    pub(super) schema: SchemaRef,
    /// What stands in the node's place: the answers, under the names that the rest of the query knows.
    pub(super) reader: LogicalPlan,
}

/// Cuts at `window`, whose threaded input is `input` and whose answers come into `slot`.
pub(super) fn cut(window: &Window, node: &WindowNode, input: &LogicalPlan, slot: usize) -> DFResult<Cut> {
    let named = |letter: char, exprs: &[Expr]| -> Vec<Expr> {
        exprs.iter().enumerate().map(|(index, expr)| expr.clone().alias(format!("{letter}{index}"))).collect()
    };
    let passed: Vec<Expr> = window.input.schema().columns().into_iter().map(Expr::Column).collect();
    let mut exprs = named('c', &passed);
    exprs.extend(named('k', &node.keys));
    exprs.extend(named('a', &node.arguments));
    exprs.extend(named('f', &node.filters));
    exprs.extend(hidden_columns(input)?);
    let below = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.clone()))?);
    let mut fields: Vec<FieldRef> = below.schema().fields().iter().take(passed.len()).cloned().collect();
    for (index, call) in node.spec.calls.iter().enumerate() {
        let field = window.schema.field(passed.len() + index);
        let output = call.output_type(&node.spec.arguments, node.spec.num_filters);
        let output = output.map_err(|error| DataFusionError::Plan(error.message().to_owned()))?;
        if output != *field.data_type() {
            return plan_err!("{} gives {output}, and {} is expected", field.name(), field.data_type());
        }
        fields.push(Arc::new(Field::new(format!("w{index}"), output, true)));
    }
    fields.push(Arc::new(Field::new(INCOMPLETE, DataType::Boolean, false)));
    let schema = with_hidden(&Schema::new(fields));
    let table = TableReference::bare(format!("{HIDDEN_PREFIX}window_{slot}"));
    let scan = scan_of(table.clone(), table.table(), slot, Arc::clone(&schema))?;
    let mut exprs: Vec<Expr> = window
        .schema
        .iter()
        .zip(schema.fields())
        .map(|((qualifier, field), answer)| {
            let column = Expr::Column(Column::new(Some(table.clone()), answer.name()));
            column.alias_qualified(qualifier.cloned(), field.name())
        })
        .collect();
    exprs.extend(hidden_columns(&scan)?);
    let reader = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(scan))?);
    Ok(Cut { input: below, schema, reader })
}

/// Where a refused clause stands: "`name()` OVER" at the first such call, a keyword at its first place behind OVER.
pub(super) fn place_of_call(sql: &str, clause: &str) -> Option<Span> {
    let tokens: Vec<TokenWithSpan> = super::analyse::tokens(sql).ok()?;
    let tokens: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let is_word = |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(text));
    let over = tokens.iter().position(|token| is_word(token, "OVER") || is_word(token, "WINDOW"))?;
    if let Some(name) = clause.strip_prefix('`').and_then(|rest| rest.split_once("()")).map(|(name, _)| name) {
        let is_call = |pair: &[&TokenWithSpan]| is_word(pair[0], name) && pair[1].token == Token::LParen;
        return tokens.windows(2).find(|pair| is_call(pair)).map(|pair| pair[0].span);
    }
    let word = clause.split(' ').next().unwrap_or(clause);
    let found = tokens[over..].iter().find(|token| is_word(token, word));
    Some(found.map_or(tokens[over].span, |token| token.span))
}
