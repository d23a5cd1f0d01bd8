//! The rows that are evaluated: a view of columns that the caller holds. Checked once, before anything is computed.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;
/// A period shorter than this is taken for one hour where something is counted per day.
const PERIOD_MICROS_LEAST: i64 = 3_600_000_000;
/// The name of the group of rows that have none.
pub const NO_NAME: &str = "(none)";

/// A column of names, as a dictionary and one code a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Categories {
    names: Vec<String>,
    codes: Vec<u32>,
}

impl Categories {
    /// One name a row; a row without one belongs to the group [`NO_NAME`].
    pub fn of<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Categories {
        let mut categories = Categories::default();
        let mut known: HashMap<&'a str, u32> = HashMap::new();
        for value in values {
            let name = value.unwrap_or(NO_NAME);
            let code = *known.entry(name).or_insert_with(|| {
                categories.names.push(name.to_owned());
                categories.names.len() as u32 - 1
            });
            categories.codes.push(code);
        }
        categories
    }

    /// The names, in the order of their first row.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// For each row the index of its name.
    #[must_use]
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }
}

/// Rows with their scores and labels. All columns have one value a row.
#[derive(Debug, Clone, Default)]
pub struct Examples<'a> {
    /// What the model says; higher is more suspicious.
    pub scores: &'a [f64],
    /// Whether the row is positive.
    pub labels: &'a [bool],
    /// Event times in microseconds since 1970, UTC.
    pub times: &'a [i64],
    /// What a row is worth. A value that is not a number above zero counts as nothing.
    pub amounts: Option<&'a [f64]>,
    /// What kind of positive a row is; the values of other rows are not read.
    pub kinds: Option<&'a Categories>,
    /// Columns by name whose groups are looked at apart.
    pub segments: Vec<(&'a str, &'a Categories)>,
}

impl Examples<'_> {
    /// Whether these rows can be evaluated: columns of one length, scores that are numbers, both labels present.
    pub fn check(&self) -> Result<()> {
        let num_rows = self.scores.len();
        let mut columns = vec![("the labels", self.labels.len()), ("the event times", self.times.len())];
        columns.extend(self.amounts.map(|amounts| ("the amounts", amounts.len())));
        columns.extend(self.kinds.map(|kinds| ("the kinds", kinds.codes.len())));
        columns.extend(self.segments.iter().map(|(name, groups)| (*name, groups.codes.len())));
        if let Some((name, found)) = columns.into_iter().find(|(_, found)| *found != num_rows) {
            return Err(Error::internal(format!("{name} have {found} values for {num_rows} scores")));
        }
        if let Some(row) = self.scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::data(format!(
                "the score of row {row} of {num_rows} is {}, expected a number; such a model cannot be evaluated",
                self.scores[row]
            )));
        }
        match self.num_positives() {
            0 => Err(Error::data(format!(
                "none of the {num_rows} rows to evaluate on is positive; give more history, or wait for labels"
            ))),
            positives if positives == num_rows => Err(Error::data(format!(
                "all {num_rows} rows to evaluate on are positive; the others are missing, or the label says something else"
            ))),
            _ => Ok(()),
        }
    }

    /// Rows whose label is true.
    #[must_use]
    pub fn num_positives(&self) -> usize {
        self.labels.iter().filter(|label| **label).count()
    }

    /// What the row is worth: 0 for what is no number above zero.
    pub(super) fn amount(&self, row: usize) -> f64 {
        self.amounts.map_or(0.0, |amounts| worth(amounts[row]))
    }
}

/// An amount that is not a number above zero counts as nothing.
pub(super) fn worth(amount: f64) -> f64 {
    if amount.is_finite() && amount > 0.0 { amount } else { 0.0 }
}

/// The UTC day of an event time, counted from 1970.
pub(super) fn day(time_micros: i64) -> i64 {
    time_micros.div_euclid(DAY_MICROS)
}

/// How many days lie between the first and the last of these event times, as a fraction; at least an hour's worth.
pub(super) fn num_days(times: &[i64]) -> f64 {
    let first = times.iter().min().copied().unwrap_or(0);
    let last = times.iter().max().copied().unwrap_or(0);
    last.saturating_sub(first).max(PERIOD_MICROS_LEAST) as f64 / DAY_MICROS as f64
}
