//! SQL text -> analysed logical plan, or everything that is wrong with it, each with its place. DataFusion's errors are
//! translated here; their texts come from the user's SQL, for no row exists yet.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Diagnostic, SchemaError, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DFStatement;
use datafusion::sql::sqlparser::ast::{
    Query, Select, SelectItem, SetExpr, Spanned, Statement, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use tidemill_udfs::functions::EXPLAIN_SCORE;

use super::Functions;
use super::accept::{Accepted, accept, accept_names, parse_failure};
use super::problem::{Refusal, choices, in_order_of_text, plainly};
use super::reasons::{Scores, is_number_of_reasons, name_of};
use super::session::{Call, CallArgument, block_on};
use super::table::SlotTable;
use crate::error::{Error, Result as EngineResult};

/// The session and the tables that SQL may name so far.
pub(super) struct Analysis<'a> {
    pub(super) state: SessionState,
    context: SessionContext,
    functions: &'a Functions,
    tables: Vec<String>,
    /// Views that could not be analysed: what reads them is judged by its text alone.
    failed: Vec<String>,
    /// Views by name, as they were written.
    views: HashMap<String, LogicalPlan>,
}

/// A query's plan.
#[derive(Debug)]
pub(super) struct Analysed {
    /// Before analysis, with the features of all calls.
    pub(super) written: LogicalPlan,
    pub(super) plan: LogicalPlan,
}

/// What is wrong, and perhaps all of it.
type Refusals = Vec<Refusal>;

impl<'a> Analysis<'a> {
    pub(super) fn new(state: SessionState, functions: &'a Functions) -> Analysis<'a> {
        let context = SessionContext::new_with_state(state.clone());
        Analysis { state, context, functions, tables: Vec::new(), failed: Vec::new(), views: HashMap::new() }
    }

    pub(super) fn functions(&self) -> &'a Functions {
        self.functions
    }

    /// Makes a table known by name. Returns whether the name was free.
    pub(super) fn add_table(&mut self, name: &str, schema: SchemaRef) -> EngineResult<bool> {
        if self.tables.iter().any(|table| table == name) {
            return Ok(false);
        }
        let table: std::sync::Arc<dyn TableProvider> =
            std::sync::Arc::new(SlotTable { name: name.into(), schema, slot: None });
        self.context
            .register_table(TableReference::bare(name), table)
            .map_err(|error| Error::internal("a table cannot be registered").with_source(error))?;
        self.tables.push(name.to_owned());
        Ok(true)
    }

    /// Makes a name known whose columns are not.
    pub(super) fn add_failed(&mut self, name: &str) {
        self.tables.push(name.to_owned());
        self.failed.push(name.to_owned());
    }

    /// Makes known what a view is computed from, for what asks what its rows were scored by.
    pub(super) fn add_view(&mut self, name: &str, written: LogicalPlan) {
        self.views.insert(name.to_owned(), written);
    }

    /// Analyses the SELECT of a view or a sink. `None` when a table that it reads could not be analysed.
    pub(super) fn query(&self, sql: &str) -> Result<Option<Analysed>, Refusals> {
        let tokens = tokens(sql)?;
        let query = parse_query(&tokens)?;
        let accepted = accept(&query, &tokens, &self.tables, &self.state, self.functions);
        let mut refusals = accept_names(&query);
        match accepted {
            Ok(accepted) if refusals.is_empty() => self.analyse(query, accepted),
            Ok(_) => Err(in_order_of_text(refusals)),
            Err(others) => {
                refusals.extend(others);
                Err(in_order_of_text(refusals))
            }
        }
    }

    /// Analyses conditions on the rows of `table` as the columns of one projection. The condition's own text gives places.
    pub(super) fn condition(&self, table: &str, sql: &str) -> Result<LogicalPlan, Refusals> {
        let tokens = tokens(sql)?;
        let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens.clone());
        let condition =
            parser.parse_expr().map_err(|error| vec![parse_failure(&error.to_string(), end_of(&tokens))])?;
        let rest = parser.peek_token();
        if rest.token != Token::EOF {
            let clause = format!("`{}`", rest.token);
            return Err(vec![
                Refusal::new(clause, "a check is one condition", "join conditions with AND").at(rest.span),
            ]);
        }
        let select = format!("SELECT 1 FROM \"{}\"", table.replace('"', "\"\""));
        let mut query = parse_query(&self::tokens(&select)?)?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.projection = vec![SelectItem::UnnamedExpr(condition)];
        }
        let accepted = accept(&query, &tokens, &self.tables, &self.state, self.functions)?;
        if let Some((name, _, span)) = accepted.calls.first() {
            let reason = "a check decides what is accepted, before any score";
            return Err(vec![Refusal::new(format!("`{name}()`"), reason, "use columns of the record").at(*span)]);
        }
        if let Some(span) = accepted.windows.first() {
            let reason = "a check decides what is accepted, before there is any history";
            return Err(vec![Refusal::new("OVER", reason, "compute the window in a view, and filter there").at(*span)]);
        }
        self.analyse(query, accepted)?.map(|analysed| analysed.plan).ok_or_else(Vec::new)
    }

    fn analyse(&self, query: Query, accepted: Accepted) -> Result<Option<Analysed>, Refusals> {
        if accepted.tables.iter().any(|table| self.failed.contains(table)) {
            return Ok(None);
        }
        let (analysed, refusals) = self.plan(query.clone()).map_err(|error| self.translate(error, &query))?;
        if !refusals.is_empty() {
            let mut places = accepted.calls.iter().filter(|(name, arguments, _)| is_explained(name) && *arguments <= 2);
            let placed = |refusal: Refusal| refusal.at(places.next().map_or_else(Span::empty, |place| place.2));
            return Err(refusals.into_iter().map(placed).collect());
        }
        self.check_calls(&analysed.written, &accepted)?;
        Ok(Some(analysed))
    }

    /// The plan before and after analysis, and what keeps calls without features from having any.
    fn plan(&self, query: Query) -> Result<(Analysed, Refusals), DataFusionError> {
        let statement = DFStatement::Statement(Box::new(Statement::Query(Box::new(query))));
        let written = block_on(self.state.statement_to_plan(statement))?;
        let (written, refusals) = Scores { views: &self.views }.complete(written)?;
        let plan = self.state.analyzer().execute_and_check(written.clone(), self.state.config_options(), |_, _| {})?;
        // What cannot be computed or run shows here, where its place can still be found.
        block_on(self.state.create_physical_plan(&plan))?;
        Ok((Analysed { written, plan }, refusals))
    }

    fn check_calls(&self, plan: &LogicalPlan, accepted: &Accepted) -> Result<(), Refusals> {
        let Some(check) = &self.functions.check_call else {
            return Ok(());
        };
        let mut places = accepted.calls.clone();
        let mut refusals = Vec::new();
        let mut calls: Vec<Call> = Vec::new();
        collect_calls(plan, &self.functions.once, &mut calls)
            .map_err(|error| vec![Refusal::new("call", error.strip_backtrace(), "")])?;
        for call in calls {
            let place = places
                .iter()
                .position(|(name, arguments, _)| *name == call.function && is_written_with(*arguments, &call));
            let span = place.map_or_else(Span::empty, |place| places.swap_remove(place).2);
            if let Err(refusal) = check.check(&call) {
                refusals.push(if refusal.span.is_some() { refusal } else { refusal.at(span) });
            }
        }
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }

    /// DataFusion's errors as refusals. Where it does not know the place, the parts of the SELECT are tried one by one.
    fn translate(&self, error: DataFusionError, query: &Query) -> Refusals {
        let mut refusals = Vec::new();
        flatten(&error, None, &mut refusals);
        for refusal in &mut refusals {
            if refusal.span.is_none()
                && let Some(span) = self.locate(query)
            {
                *refusal = refusal.clone().at(span);
            }
        }
        refusals.dedup();
        refusals
    }

    fn locate(&self, query: &Query) -> Option<Span> {
        let SetExpr::Select(select) = query.body.as_ref() else {
            return None;
        };
        let fails = |change: &dyn Fn(&mut Select)| {
            let mut query = query.clone();
            if let SetExpr::Select(select) = query.body.as_mut() {
                change(select);
            }
            self.plan(query).is_err()
        };
        let all = || vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
        if let Some(condition) = &select.selection
            && fails(&|select| select.projection = all())
            && !fails(&|select| (select.projection, select.selection) = (all(), None))
        {
            return Some(condition.span());
        }
        let mut items = select.projection.iter();
        let item = items
            .find(|item| fails(&|select| (select.projection, select.selection) = (vec![(*item).clone()], None)))?;
        Some(item.span())
    }
}

pub(super) fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, Refusals> {
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| vec![parse_failure(&error.to_string(), Span::empty())])
}

fn end_of(tokens: &[TokenWithSpan]) -> Span {
    let last = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    last.map_or_else(Span::empty, |token| token.span)
}

pub(super) fn parse_query(tokens: &[TokenWithSpan]) -> Result<Query, Refusals> {
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens.to_vec());
    let statements = parser.parse_statements();
    let statements = statements.map_err(|error| vec![parse_failure(&error.to_string(), end_of(tokens))])?;
    let alternative = "write one SELECT per view; several views stand in the pipeline file";
    match <[Statement; 1]>::try_from(statements) {
        Ok([Statement::Query(query)]) => Ok(*query),
        Ok([_]) => {
            let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
            let clause = first.map_or_else(String::new, |token| token.token.to_string());
            let refusal = Refusal::new(clause, "a view is a SELECT", "write a SELECT");
            Err(vec![refusal.at(first.map_or_else(Span::empty, |token| token.span))])
        }
        Err(none) if none.is_empty() => Err(vec![Refusal::new("SQL", "there is no statement", alternative)]),
        Err(_) => {
            let end = tokens.iter().find(|token| token.token == Token::SemiColon);
            let span = end.map_or_else(Span::empty, |token| token.span);
            Err(vec![Refusal::new("`;`", "there is more than one statement", alternative).at(span)])
        }
    }
}

fn is_explained(function: &str) -> bool {
    function == EXPLAIN_SCORE
}

/// Whether a call can be one that was written with so many arguments: reasons may be asked for without features, and with
/// their number.
fn is_written_with(arguments: usize, call: &Call) -> bool {
    arguments == call.arguments.len()
        || (is_explained(&call.function) && (arguments <= 2 || arguments == call.arguments.len() + 1))
}

/// Finds the calls of the functions in `once`, with the types of their arguments as the user wrote them.
fn collect_calls(plan: &LogicalPlan, once: &[String], calls: &mut Vec<Call>) -> Result<(), DataFusionError> {
    plan.apply(|node| {
        let mut schema = datafusion::common::DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if let Expr::ScalarFunction(function) = expression
                    && once.iter().any(|name| name == function.func.name())
                {
                    // The number of reasons is no feature.
                    let is_number = |(place, argument): &(usize, &Expr)| {
                        *place == 1 && is_explained(function.func.name()) && is_number_of_reasons(argument)
                    };
                    let arguments = function.args.iter().enumerate().filter(|argument| !is_number(argument));
                    let arguments = arguments.map(|(_, argument)| call_argument(argument, &schema));
                    let arguments = arguments.collect::<Result<_, DataFusionError>>()?;
                    calls.push(Call { function: function.func.name().to_owned(), arguments });
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn call_argument(argument: &Expr, schema: &datafusion::common::DFSchema) -> Result<CallArgument, DataFusionError> {
    let literal = match argument {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    };
    Ok(CallArgument { name: name_of(argument), literal, data_type: argument.get_type(schema)? })
}

fn flatten(error: &DataFusionError, diagnostic: Option<&Diagnostic>, refusals: &mut Refusals) {
    match error {
        DataFusionError::Collection(errors) => {
            for error in errors {
                flatten(error, diagnostic, refusals);
            }
        }
        DataFusionError::Diagnostic(inner, error) => flatten(error, diagnostic.or(Some(inner)), refusals),
        DataFusionError::Context(_, error) => flatten(error, diagnostic, refusals),
        DataFusionError::Shared(error) => flatten(error, diagnostic, refusals),
        DataFusionError::SchemaError(error, _) => refusals.push(schema_refusal(error, diagnostic)),
        other => refusals.push(other_refusal(other, diagnostic)),
    }
}

fn place_of(diagnostic: Option<&Diagnostic>) -> Span {
    diagnostic.and_then(|diagnostic| diagnostic.span).map_or_else(Span::empty, span)
}

fn span(span: datafusion::common::Span) -> Span {
    let location = |location: datafusion::common::Location| Location { line: location.line, column: location.column };
    Span::new(location(span.start), location(span.end))
}

fn schema_refusal(error: &SchemaError, diagnostic: Option<&Diagnostic>) -> Refusal {
    let refusal = match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let valid: Vec<String> = valid_fields.iter().map(|column| column.name.clone()).collect();
            let refusal = Refusal::new(
                format!("column `{}`", field.flat_name()),
                "there is no such column",
                choices("columns", &field.name, &valid),
            );
            match field.spans().first() {
                Some(found) => refusal.at(span(found)),
                None => refusal,
            }
        }
        SchemaError::AmbiguousReference { field } => Refusal::new(
            format!("column `{}`", field.flat_name()),
            "more than one column has this name",
            "write the table before it, or rename one with AS",
        ),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Refusal::new(format!("column `{name}`"), "two columns would have this name", "rename one of them with AS")
        }
    };
    let place = place_of(diagnostic);
    if refusal.span.is_none() { refusal.at(place) } else { refusal }
}

fn other_refusal(error: &DataFusionError, diagnostic: Option<&Diagnostic>) -> Refusal {
    let reason = plainly(&error.find_root().strip_backtrace());
    if reason.contains("unique expression names") {
        return Refusal::new("SELECT list", "two columns have the same name", "rename one of them with AS")
            .at(place_of(diagnostic));
    }
    let help = diagnostic.and_then(|diagnostic| diagnostic.helps.first()).map(|help| help.message.clone());
    let alternative = help.unwrap_or_else(|| {
        let types = ["coerce", "common", "non-boolean", "argument type"].iter().any(|word| reason.contains(word));
        if types { "make the types the same with CAST".to_owned() } else { String::new() }
    });
    Refusal::new("expression", reason, alternative).at(place_of(diagnostic))
}
