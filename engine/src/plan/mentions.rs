//! What a text of SQL mentions, read from the text alone: enough to leave out the parts of a pipeline that some outputs do not
//! need, before any model is loaded. It judges nothing; where it cannot tell, it says so.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Query, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::accept::folded;
use super::analyse::{parse_query, tokens};

/// Names in a SELECT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Tables after FROM and JOIN; names of common table expressions are among them.
    pub tables: BTreeSet<String>,
    /// Strings that open the arguments of a call, as the name of a model does.
    pub first_arguments: BTreeSet<String>,
}

/// What `sql` mentions; `None` when it is not a SELECT.
#[must_use]
pub fn mentions(sql: &str) -> Option<Mentions> {
    let tokens = tokens(sql).ok()?;
    let query = parse_query(&tokens).ok()?;
    Some(Mentions { tables: tables(&query), first_arguments: first_arguments(&tokens) })
}

fn tables(query: &Query) -> BTreeSet<String> {
    struct Tables(BTreeSet<String>);
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, .. } = factor {
                self.0.extend(name.0.iter().filter_map(|part| part.as_ident()).map(folded));
            }
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables(BTreeSet::new());
    match query.visit(&mut tables) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => tables.0,
    }
}

fn first_arguments(tokens: &[TokenWithSpan]) -> BTreeSet<String> {
    let written: Vec<&Token> =
        tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let first = |window: &[&Token]| match window {
        [Token::Word(_), Token::LParen, Token::SingleQuotedString(text)] => Some(text.clone()),
        _ => None,
    };
    written.windows(3).filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_models_are_found_wherever_they_stand() {
        let sql = "WITH c AS (SELECT * FROM \"Odd\") SELECT a, score( -- the model\n 'fraud', a) AS s FROM c
                   UNION ALL SELECT b, 'x' FROM (SELECT * FROM Features)";
        let found = mentions(sql).unwrap();
        assert_eq!(found.tables.iter().map(String::as_str).collect::<Vec<_>>(), ["Odd", "c", "features"]);
        assert_eq!(found.first_arguments.iter().map(String::as_str).collect::<Vec<_>>(), ["fraud"]);
    }

    #[test]
    fn what_is_no_select_is_not_known() {
        assert_eq!(mentions("SELECT 'a"), None);
        assert_eq!(mentions("DROP TABLE t"), None);
    }
}
