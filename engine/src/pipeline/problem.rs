//! What is wrong with a pipeline: all problems at once, each with its place, what was expected, what was found and what to
//! do, and the line of the file under a caret. A line that holds a secret is never shown.

use std::fmt;

use super::settings::Place;
use crate::error::Error;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What was expected and what was found.
    pub message: String,
    /// Valid choices, the nearest of them, and the next step.
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

/// A line of the file and how much of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    line: String,
    width: usize,
}

impl Problem {
    /// A problem at a place. The message is lower case and without a full stop.
    pub fn new(place: Place, message: impl Into<String>) -> Problem {
        Problem { place, message: message.into(), help: None, excerpt: None }
    }

    /// Adds the valid choices or the next step.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Adds the line of the file; the caller has made sure that it holds no secret.
    #[must_use]
    pub(super) fn with_excerpt(mut self, line: &str, width: usize) -> Problem {
        let line = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.excerpt = Some(Excerpt { line, width });
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        let number = self.place.line.to_string();
        let gutter = " ".repeat(number.len());
        if let Some(excerpt) = &self.excerpt {
            let indent = " ".repeat(self.place.column.saturating_sub(1));
            let rest = excerpt.line.chars().count().saturating_sub(indent.len());
            let caret = "^".repeat(excerpt.width.min(rest).max(1));
            write!(f, "\n  {number} | {}\n  {gutter} | {indent}{caret}", excerpt.line)?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  {gutter} = {help}"),
            None => Ok(()),
        }
    }
}

/// All problems of a pipeline, in the order of their places; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts the problems by place. `None` when there are none.
    #[must_use]
    pub fn new(mut problems: Vec<Problem>) -> Option<Problems> {
        if problems.is_empty() {
            return None;
        }
        problems.sort_by(|a, b| {
            let key = |problem: &Problem| (problem.place.file.clone(), problem.place.line, problem.place.column);
            key(a).cmp(&key(b))
        });
        problems.dedup();
        Some(Problems(problems))
    }

    /// One problem.
    pub(super) fn only(problem: Problem) -> Problems {
        Problems(vec![problem])
    }

    /// The problems, in the order of their places.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}\n")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Error {
        Error::invalid(problems.to_string())
    }
}

/// `text` in backticks: shortened, and without control characters, so that a message stays one line.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown: String = text.chars().take(CHARS_MAX).flat_map(escaped).collect();
    if text.chars().count() > CHARS_MAX {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// `` `a`, `b`, `c` ``.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The choice that `found` was probably meant to be.
pub(super) fn nearest<'a>(found: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['.', '-', ' '], "_");
    let wanted = plain(found);
    let distance_max = (wanted.chars().count() / 3).max(1);
    choices
        .into_iter()
        .map(|choice| (strsim::damerau_levenshtein(&wanted, &plain(choice)), choice))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}

/// `` did you mean `x`? valid: `x`, `y` ``. A long list is left out when the choice that was meant is known.
pub(super) fn choices_help(found: &str, valid: &str, choices: &[&str]) -> String {
    const LISTED_MAX: usize = 12;
    let listed = list(choices.iter().copied());
    match nearest(found, choices.iter().copied()) {
        Some(choice) if choices.len() > LISTED_MAX => format!("did you mean {}?", quoted(choice)),
        Some(choice) => format!("did you mean {}? {valid}: {listed}", quoted(choice)),
        None => format!("{valid}: {listed}"),
    }
}
