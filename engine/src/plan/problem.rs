//! What is wrong with a pipeline's SQL: where, which clause, why, and what to write instead. Collected, never thrown one by
//! one. It quotes the user's SQL and names, never rows.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::pipeline::settings::{Place, SqlText};

/// One reason why a pipeline cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanProblem {
    /// Where in the user's file.
    pub place: Place,
    /// The part of the pipeline: `view features`, `sink alerts`, `check 2 of source transactions`.
    pub part: String,
    /// The clause or name that cannot stay.
    pub clause: String,
    /// Why.
    pub reason: String,
    /// What to write instead.
    pub alternative: String,
}

impl fmt::Display for PlanProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.place, self.part, self.clause, self.reason)?;
        if !self.alternative.is_empty() {
            write!(f, "; {}", self.alternative)?;
        }
        Ok(())
    }
}

/// A problem whose place is still a span of one SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(super) span: Option<Span>,
    /// See [`PlanProblem::clause`].
    pub clause: String,
    /// See [`PlanProblem::reason`].
    pub reason: String,
    /// See [`PlanProblem::alternative`].
    pub alternative: String,
}

impl Refusal {
    /// A refusal of the whole text, or of the call it is about.
    pub fn new(clause: impl Into<String>, reason: impl Into<String>, alternative: impl Into<String>) -> Refusal {
        Refusal { span: None, clause: clause.into(), reason: reason.into(), alternative: alternative.into() }
    }

    pub(super) fn at(mut self, span: Span) -> Refusal {
        self.span = known(span);
        self
    }

    /// Gives the refusal its place in the file that holds `text`.
    pub(super) fn into_problem(self, text: &SqlText, part: &str) -> PlanProblem {
        PlanProblem {
            place: self.span.map_or_else(|| text.place.clone(), |span| place_in(text, span.start)),
            part: part.to_owned(),
            clause: self.clause,
            reason: self.reason,
            alternative: self.alternative,
        }
    }
}

/// The parser's empty span means that it does not know.
pub(super) fn known(span: Span) -> Option<Span> {
    (span.start.line > 0).then_some(span)
}

/// The text's first line starts at the text's own place; the others start at the beginning of a line.
fn place_in(text: &SqlText, location: Location) -> Place {
    let line = usize::try_from(location.line).unwrap_or(1).max(1);
    let column = usize::try_from(location.column).unwrap_or(1).max(1);
    Place {
        file: text.place.file.clone(),
        line: text.place.line + line - 1,
        column: if line == 1 { text.place.column + column - 1 } else { column },
    }
}

/// The order in which a reader meets them.
pub(super) fn in_order_of_text(mut refusals: Vec<Refusal>) -> Vec<Refusal> {
    refusals.sort_by_key(|refusal| refusal.span.map(|span| (span.start.line, span.start.column)));
    refusals
}

/// A text of DataFusion in our form: its first line, lower case, no full stop, no dump of a syntax tree.
pub(super) fn plainly(text: &str) -> String {
    let mut line = text.lines().next().unwrap_or_default();
    for prefix in [
        "Error during planning: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
        "External error: ",
    ] {
        line = line.trim_start_matches(prefix);
    }
    // A title with the message at the end of a drawing.
    let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    let titled = if line.ends_with(':') { format!("{line} {last}") } else { line.to_owned() };
    let line = titled.as_str();
    let line = line.split(" {").next().unwrap_or_default();
    let line = line.split(". No function matches").next().unwrap_or_default().trim_end_matches('.');
    let mut letters = line.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(letters).collect(),
        _ => line.to_owned(),
    }
}

/// `; did you mean`-style help: the nearest of the valid names, and all of them.
pub(crate) fn choices(what: &str, wanted: &str, valid: &[String]) -> String {
    const SHOWN: usize = 40;
    if valid.is_empty() {
        return format!("there are no {what}");
    }
    let mut help = String::new();
    if let Some(near) = nearest(wanted, valid) {
        let quoted = near.to_lowercase() == wanted.to_lowercase() && near != near.to_lowercase();
        if quoted {
            help = format!("unquoted names are folded to lower case: write \"{near}\"; ");
        } else {
            help = format!("did you mean `{near}`? ");
        }
    }
    let list = valid.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if valid.len() > SHOWN { format!(" and {} more", valid.len() - SHOWN) } else { String::new() };
    format!("{help}{what}: {list}{more}")
}

/// The valid name that is most like `wanted`, if one is near.
pub(super) fn nearest<'a>(wanted: &str, valid: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    valid
        .iter()
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name.as_str()))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
