//! Leaks: features that are computed, through any number of views, from the label or from a column that is known only later. Found
//! from where each column comes from, with the path that leads there. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::error::{Error, Result};
use crate::plan::ColumnOrigins;

/// What a feature must not be computed from.
#[derive(Debug, Clone)]
pub(super) struct Forbidden<'a> {
    pub(super) label: &'a str,
    /// Columns by name, of any table.
    pub(super) known_later: Vec<&'a str>,
    /// Whether the file says which columns are known later.
    pub(super) says_what_is_later: bool,
}

/// Where the columns of a view come from; `None` of a source.
pub(super) type OriginsOf<'a> = dyn Fn(&str) -> Option<&'a BTreeMap<String, ColumnOrigins>> + 'a;

type Column = (String, String);

/// The leaks among the features of a view, each in a line with its path.
pub(super) fn leaks(
    origins: &OriginsOf<'_>,
    view: &str,
    features: &[String],
    forbidden: &Forbidden<'_>,
) -> Result<Vec<String>> {
    let of_label = columns_of_label(origins, view, forbidden)?;
    let why = |column: &Column| {
        if column.1 == forbidden.label || of_label.contains(column) {
            Some("the label")
        } else if forbidden.known_later.contains(&column.1.as_str()) {
            Some("known only later")
        } else {
            None
        }
    };
    let line = |feature: &String| {
        let (path, why) = path_to(origins, (view.to_owned(), feature.clone()), &why)?;
        let path: Vec<String> = path.iter().map(|(table, column)| format!("{table}.{column}")).collect();
        Some(format!("  {feature}: {} ({why})", path.join(" <- ")))
    };
    Ok(features.iter().filter_map(line).collect())
}

/// The columns that the label is, under whatever name.
fn columns_of_label(origins: &OriginsOf<'_>, view: &str, forbidden: &Forbidden<'_>) -> Result<BTreeSet<Column>> {
    let mut found = BTreeSet::new();
    let mut at = (view.to_owned(), forbidden.label.to_owned());
    loop {
        found.insert(at.clone());
        let Some(column) = origins(&at.0).and_then(|columns| columns.get(&at.1)) else { return Ok(found) };
        let mut value = column.value.iter();
        match (value.next(), value.next()) {
            (Some(only), None) => at = only.clone(),
            (None, _) => return Ok(found),
            (Some(_), Some(_)) if forbidden.says_what_is_later => return Ok(found),
            (Some(_), Some(_)) => {
                let names: Vec<String> =
                    column.value.iter().map(|(table, column)| format!("{table}.{column}")).collect();
                return Err(Error::invalid(format!(
                    "the label {} is computed from {}: say which of these are not known when a row is scored, so that no feature is computed \
                     from them: `training.known_later: [...]`",
                    forbidden.label,
                    names.join(", ")
                )));
            }
        }
    }
}

/// The shortest path from a column to one that is forbidden.
fn path_to(
    origins: &OriginsOf<'_>,
    from: Column,
    why: &impl Fn(&Column) -> Option<&'static str>,
) -> Option<(Vec<Column>, &'static str)> {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut waiting = VecDeque::from([vec![from]]);
    while let Some(path) = waiting.pop_front() {
        let at = path.last()?;
        if let Some(why) = why(at) {
            return Some((path, why));
        }
        let Some(column) = origins(&at.0).and_then(|columns| columns.get(&at.1)) else { continue };
        for next in column.value.iter().chain(&column.rows) {
            if seen.insert(next.clone()) {
                waiting.push_back(path.iter().cloned().chain([next.clone()]).collect());
            }
        }
    }
    None
}
