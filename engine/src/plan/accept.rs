//! What SQL may be written over a stream, judged on the parsed text, where every clause still has its place. It refuses
//! what has no answer before a stream's end, what is not the same on every run, and what is not built. Types and columns
//! are the analysis's business.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, ObjectName,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, Value, Visit,
    Visitor,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::problem::{Refusal, choices, in_order_of_text, known, plainly};
use super::{Functions, is_hidden};

/// What an accepted text refers to.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// Sources and views, once per reference.
    pub(super) tables: Vec<String>,
    /// Calls of the functions that are evaluated once: name, number of arguments, place.
    pub(super) calls: Vec<(String, usize, Span)>,
    /// Places of functions over windows.
    pub(super) windows: Vec<Span>,
}

/// Judges `query`. `tables` are the names it may use.
pub(super) fn accept(
    query: &Query,
    tokens: &[TokenWithSpan],
    tables: &[String],
    state: &SessionState,
    functions: &Functions,
) -> Result<Accepted, Vec<Refusal>> {
    let mut walk = Walk {
        tokens,
        tables,
        state,
        functions,
        named_here: named_here(query),
        inside_refused: Vec::new(),
        refuses_next_query: false,
        accepted: Accepted::default(),
        refusals: Vec::new(),
    };
    walk.hidden_names();
    match query.visit(&mut walk) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => {}
    }
    if walk.refusals.is_empty() { Ok(walk.accepted) } else { Err(in_order_of_text(walk.refusals)) }
}

/// The columns of a view or a sink need names that can be written: those of the outermost SELECT.
pub(super) fn accept_names(query: &Query) -> Vec<Refusal> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => body = &query.body,
            SetExpr::Select(select) => return select.projection.iter().filter_map(unnamed).collect(),
            _ => return Vec::new(),
        }
    }
}

fn unnamed(item: &SelectItem) -> Option<Refusal> {
    match item {
        SelectItem::UnnamedExpr(expr) if !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => Some(
            Refusal::new(format!("`{item}`"), "the column has no name of its own", "write `... AS name`")
                .at(expr.span()),
        ),
        _ => None,
    }
}

/// Names of common table expressions.
fn named_here(query: &Query) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl Visitor for Names {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|with| &with.cte_tables);
            self.0.extend(tables.map(|table| folded(&table.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(BTreeSet::new());
    match query.visit(&mut names) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => names.0,
    }
}

/// A name as SQL understands it.
pub(super) fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

struct Walk<'a> {
    tokens: &'a [TokenWithSpan],
    tables: &'a [String],
    state: &'a SessionState,
    functions: &'a Functions,
    named_here: BTreeSet<String>,
    /// For each query around the place, whether it was refused as a whole.
    inside_refused: Vec<bool>,
    refuses_next_query: bool,
    accepted: Accepted,
    refusals: Vec<Refusal>,
}

const PER_ROW: &str = "a view answers for each row as it comes";

impl Walk<'_> {
    fn refuse(&mut self, span: Span, clause: &str, reason: &str, alternative: &str) {
        if !self.inside_refused.contains(&true) {
            self.refusals.push(Refusal::new(clause, reason, alternative).at(span));
        }
    }

    fn hidden_names(&mut self) {
        for token in self.tokens {
            if let Token::Word(word) = &token.token
                && is_hidden(&word.value)
            {
                let clause = format!("`{}`", word.value);
                self.refuse(token.span, &clause, "names that begin with `__tm_` are the engine's", "use another name");
            }
        }
    }

    /// The last keyword `word` at or before `span`, or the first one after `span` when `after`.
    fn keyword(&self, word: &str, span: Span, after: bool) -> Span {
        let is_word = |token: &&TokenWithSpan| matches!(&token.token, Token::Word(found) if found.value.eq_ignore_ascii_case(word));
        let Some(span) = known(span) else {
            return Span::empty();
        };
        let found = if after {
            self.tokens.iter().filter(|token| token.span.start >= span.start).find(is_word)
        } else {
            self.tokens.iter().rev().filter(|token| token.span.start <= span.start).find(is_word)
        };
        found.map_or(span, |token| token.span)
    }

    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(_) | SetExpr::Query(_) => {}
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                match (op, set_quantifier) {
                    (SetOperator::Union, SetQuantifier::All) => {}
                    (SetOperator::Union, _) => self.refuse(
                        self.keyword("UNION", right.span(), false),
                        "UNION",
                        "finding doubled rows would keep every row for ever",
                        "write UNION ALL",
                    ),
                    (op, _) => self.refuse(
                        self.keyword(&op.to_string(), right.span(), false),
                        &op.to_string(),
                        "comparing with all rows would keep every row for ever",
                        "use a WHERE condition on each row",
                    ),
                }
                self.body(left);
                self.body(right);
            }
            SetExpr::Values(values) => self.refuse(
                values.span(),
                "VALUES",
                "static tables are not built yet",
                "write the values as a CASE expression",
            ),
            other => self.refuse(other.span(), "statement", "a view is one SELECT", "write a SELECT"),
        }
    }

    fn tail(&mut self, query: &Query) {
        if let Some(order) = &query.order_by {
            let at = self.keyword("ORDER", order.span(), false);
            self.refuse(
                at,
                "ORDER BY",
                "a stream has no end at which its rows could be sorted",
                "sort where the rows are read",
            );
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            let found = if query.fetch.is_some() { "FETCH" } else { "LIMIT" };
            let word = if self.tokens.iter().any(|token| token.token.to_string().eq_ignore_ascii_case(found)) {
                found
            } else {
                "OFFSET"
            };
            let at = self.keyword(word, query.body.span(), true);
            self.refuse(
                at,
                word,
                "a stream goes on for ever, and after a restart its count would begin again",
                "filter with WHERE",
            );
        }
        let others = !query.locks.is_empty()
            || query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        if others {
            self.refuse(query.body.span(), "what follows the SELECT", "it has no meaning on a stream", "leave it out");
        }
    }

    fn aggregation(&mut self, select: &Select) {
        let grouped = match &select.group_by {
            GroupByExpr::All(_) => Some(select.select_token.0.span),
            GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty() => None,
            GroupByExpr::Expressions(by, _) => Some(by.first().map_or(select.select_token.0.span, Spanned::span)),
        };
        if let Some(span) = grouped {
            let at = self.keyword("GROUP", span, false);
            self.refuse(at, "GROUP BY", "a group is complete only when the stream ends", PER_ROW);
        }
        if let Some(having) = &select.having {
            let at = self.keyword("HAVING", having.span(), false);
            self.refuse(at, "HAVING", "a group is complete only when the stream ends", "filter rows with WHERE");
        }
        if let Some(distinct) = &select.distinct
            && !matches!(distinct, Distinct::All)
        {
            let at = self.keyword("DISTINCT", select.select_token.0.span, true);
            self.refuse(
                at,
                "DISTINCT",
                "finding doubled rows would keep every row for ever",
                "remove doubles where the rows are read",
            );
        }
    }

    fn from(&mut self, select: &Select) {
        let reason = "joins are not built yet: two streams meet only within a bound of time that SQL does not say";
        let alternative = "select from one table; enrich the records before they come";
        match select.from.as_slice() {
            [] => {
                let at = select.select_token.0.span;
                self.refuse(
                    at,
                    "SELECT without FROM",
                    "it has no rows to answer for",
                    "select from a source or a view",
                );
            }
            [_] => {}
            [_, second, ..] => self.refuse(second.span(), "`,` in FROM", reason, alternative),
        }
        for join in select.from.iter().flat_map(|table| table.joins.first()) {
            let at = self.keyword("JOIN", join.relation.span(), false);
            self.refuse(at, "JOIN", reason, alternative);
        }
        let others = select.top.is_some()
            || select.into.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || select.value_table_mode.is_some();
        if others {
            let clause = "TOP, INTO, LATERAL VIEW, PREWHERE, CONNECT BY, CLUSTER BY, DISTRIBUTE BY or SORT BY";
            self.refuse(select.select_token.0.span, clause, "a view is a plain SELECT", "leave it out");
        }
    }

    fn table(&mut self, name: &ObjectName) {
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
            self.refuse(
                name.span(),
                &format!("table `{name}`"),
                "tables have one name, without a schema",
                "write the name of a source or a view",
            );
            return;
        };
        let table = folded(ident);
        if self.tables.contains(&table) && !self.named_here.contains(&table) {
            self.accepted.tables.push(table);
        } else if !self.named_here.contains(&table) {
            let help = choices("sources and views before this one", &table, self.tables);
            self.refuse(ident.span, &format!("table `{table}`"), "there is no such source or view", &help);
        }
    }

    fn function(&mut self, function: &Function) {
        let name = match function.name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => folded(ident),
            _ => function.name.to_string(),
        };
        let span = function.name.span();
        let clause = format!("`{name}()`");
        if function.over.is_some() {
            self.accepted.windows.push(span);
            if has_order_of_its_own(function) {
                let reason = "the order of the rows within a window is that of event time";
                self.refuse(span, &format!("{clause} with ORDER BY inside"), reason, "leave the inner ORDER BY out");
            }
            let is_known = self.state.aggregate_functions().contains_key(&name)
                || self.state.window_functions().contains_key(&name);
            if !is_known {
                let all = self.state.aggregate_functions().keys().chain(self.state.window_functions().keys());
                let all: BTreeSet<String> = all.cloned().collect();
                let all: Vec<String> = all.into_iter().collect();
                let help = choices("functions over windows", &name, &all);
                self.refuse(span, &format!("{clause} OVER"), "there is no such function over a window", &help);
            }
        } else if self.functions.once.contains(&name) {
            self.accepted.calls.push((name, num_arguments(function), span));
        } else if self.functions.scalar.iter().any(|own| own.name() == name) || name == "unnest" {
        } else if let Some(known) = self.state.scalar_functions().get(&name) {
            self.known_function(&clause, known.signature().volatility, span);
        } else if self.state.higher_order_functions().contains_key(&name) {
        } else if self.state.aggregate_functions().contains_key(&name) {
            let alternative = "in a view, give it a window: OVER (PARTITION BY key ORDER BY event_time RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW)";
            self.refuse(span, &clause, "an aggregate over a stream is complete only when the stream ends", alternative);
        } else if self.state.window_functions().contains_key(&name) {
            let alternative = "in a view, write OVER (PARTITION BY key ORDER BY event_time) behind it";
            self.refuse(span, &clause, "it needs a window", alternative);
        } else {
            let own = self.functions.scalar.iter().map(|own| own.name().to_owned());
            let all: BTreeSet<String> = self.state.scalar_functions().keys().cloned().chain(own).collect();
            let all: Vec<String> = all.into_iter().collect();
            let help = match super::problem::nearest(&name, &all) {
                Some(near) => format!("did you mean `{near}()`?"),
                None => "see the list of functions of DataFusion".to_owned(),
            };
            self.refuse(span, &clause, "there is no such function", &help);
        }
    }

    fn known_function(&mut self, clause: &str, volatility: Volatility, span: Span) {
        match volatility {
            Volatility::Immutable => {}
            Volatility::Stable | Volatility::Volatile => self.refuse(
                span,
                clause,
                "its value is another one on every run, so a replay could not give the same answer",
                "use a column of the record: the event time, or the metadata column of the broker's timestamp",
            ),
        }
    }
}

/// Whether a function sorts its input, which DataFusion does not heed over windows.
fn has_order_of_its_own(function: &Function) -> bool {
    let is_order = |clause: &FunctionArgumentClause| matches!(clause, FunctionArgumentClause::OrderBy(_));
    let is_inside = match &function.args {
        FunctionArguments::List(list) => list.clauses.iter().any(is_order),
        _ => false,
    };
    is_inside || !function.within_group.is_empty()
}

fn num_arguments(function: &Function) -> usize {
    match &function.args {
        FunctionArguments::List(list) => list.args.len(),
        _ => 0,
    }
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let refused = std::mem::take(&mut self.refuses_next_query);
        self.inside_refused.push(refused);
        if let Some(with) = &query.with
            && with.recursive
        {
            let at = self.keyword("RECURSIVE", with.with_token.0.span, true);
            self.refuse(
                at,
                "WITH RECURSIVE",
                "it would have to see the whole stream again and again",
                "use a plain WITH",
            );
        }
        self.body(&query.body);
        self.tail(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.inside_refused.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.from(select);
        self.aggregation(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: None, version: None, with_ordinality: false, sample: None, .. } => {
                self.table(name)
            }
            TableFactor::Derived { lateral: false, sample: None, .. } => {}
            TableFactor::NestedJoin { table_with_joins, .. } if table_with_joins.joins.is_empty() => {}
            other => self.refuse(
                other.span(),
                &format!("`{other}` in FROM"),
                "it is neither a source nor a view",
                "select from a source, a view or a SELECT in parentheses",
            ),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Subquery(query) | Expr::InSubquery { subquery: query, .. } | Expr::Exists { subquery: query, .. } => {
                let reason = "a subquery in an expression would need all rows of its table";
                self.refuse(query.body.span(), "subquery", reason, "use the columns of the row, or a list of values");
                self.refuses_next_query = true;
            }
            Expr::Function(function) => self.function(function),
            Expr::SimilarTo { expr, .. } => {
                let at = self.keyword("SIMILAR", expr.span(), true);
                let reason = "DataFusion reads its pattern as a regular expression, which it is not";
                self.refuse(at, "SIMILAR TO", reason, "write LIKE, or `~` with a regular expression");
            }
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                let clause = format!("`{}`", value.value);
                self.refuse(
                    value.span,
                    &clause,
                    "nobody gives it a value",
                    "write the value, or ${VARIABLE} in the pipeline file",
                );
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Where a parser's message says that it stopped; `end` when it wanted more.
pub(super) fn parse_failure(message: &str, end: Span) -> Refusal {
    let (text, place) = message.split_once(" at Line: ").unwrap_or((message, ""));
    let numbers: Vec<u64> = place.split(", Column: ").filter_map(|number| number.trim().parse().ok()).collect();
    let text = text.trim_start_matches("sql parser error: ").replace("found: EOF", "found its end");
    let text = text.replace("Expected: ", "expected ").replace("found: ", "found ");
    let refusal = Refusal::new("SQL", plainly(&text), "it has to be one SELECT, or one condition in a check");
    match numbers.as_slice() {
        [line, column] => {
            let location = Location { line: *line, column: *column };
            refusal.at(Span::new(location, location))
        }
        _ => refusal.at(Span::new(end.end, end.end)),
    }
}
