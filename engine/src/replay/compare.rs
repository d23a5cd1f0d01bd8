//! Expected rows of a case against the rows that were found: a subset of the columns, each value in the type of its column.
//! Differences are told to a person: which row, which column, expected, found.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, NaiveDateTime};

use crate::pipeline::{ExpectedRow, ExpectedRows, ExpectedValue};

/// What differs.
pub(super) fn compare(expected: &ExpectedRows, found: &RecordBatch, is_unordered: bool, tolerance: f64) -> Vec<String> {
    let unknown = unknown_columns(expected, found);
    if !unknown.is_empty() {
        return unknown;
    }
    let comparison = Comparison { expected, found, tolerance };
    if is_unordered { comparison.in_any_order() } else { comparison.in_order() }
}

fn unknown_columns(expected: &ExpectedRows, found: &RecordBatch) -> Vec<String> {
    let schema = found.schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let values = expected.rows.iter().flat_map(|row| &row.values);
    let unknown = values.filter(|value| !columns.contains(&value.column.as_str()));
    let message = |value: &ExpectedValue| {
        let (place, table) = (&value.place, &expected.table);
        format!("{place}: {table} has no column `{}`; columns: {}", value.column, columns.join(", "))
    };
    unknown.map(message).collect()
}

struct Comparison<'a> {
    expected: &'a ExpectedRows,
    found: &'a RecordBatch,
    tolerance: f64,
}

impl Comparison<'_> {
    fn in_order(&self) -> Vec<String> {
        let (rows, table) = (&self.expected.rows, &self.expected.table);
        let mut differences = Vec::new();
        for (index, row) in rows.iter().enumerate().take(self.found.num_rows()) {
            for value in &row.values {
                if let Some(found) = self.difference(value, index) {
                    let (place, column, number) = (&value.place, &value.column, index + 1);
                    let wanted = shown(value.text.as_deref());
                    differences
                        .push(format!("{place}: {table} row {number}, {column}: expected {wanted}, found {found}"));
                }
            }
        }
        for (index, row) in rows.iter().enumerate().skip(self.found.num_rows()) {
            let (place, number) = (&row.place, index + 1);
            differences.push(format!("{place}: {table} row {number}: expected {}, found no row", self.wanted(row)));
        }
        for index in rows.len()..self.found.num_rows() {
            let (place, number) = (&self.expected.place, index + 1);
            differences.push(format!("{place}: {table} row {number}: expected no row, found {}", self.row(index)));
        }
        differences
    }

    fn in_any_order(&self) -> Vec<String> {
        let table = &self.expected.table;
        let partners = self.pairs();
        let mut differences = Vec::new();
        for (index, row) in self.expected.rows.iter().enumerate() {
            if !partners.contains(&Some(index)) {
                let place = &row.place;
                differences
                    .push(format!("{place}: {table}: expected a row {}, found none that is left", self.wanted(row)));
            }
        }
        for (index, partner) in partners.iter().enumerate() {
            if partner.is_none() {
                let (place, number) = (&self.expected.place, index + 1);
                differences
                    .push(format!("{place}: {table} row {number}: expected no such row, found {}", self.row(index)));
            }
        }
        differences
    }

    /// For each row found the expected row that it stands for, such that as many as possible have one.
    fn pairs(&self) -> Vec<Option<usize>> {
        let mut partners = vec![None; self.found.num_rows()];
        for wanted in 0..self.expected.rows.len() {
            self.pair(wanted, &mut partners, &mut vec![false; self.found.num_rows()]);
        }
        partners
    }

    /// Finds a row for `wanted`, moving others to another row where that helps. `tried` are rows asked already.
    fn pair(&self, wanted: usize, partners: &mut [Option<usize>], tried: &mut [bool]) -> bool {
        let row = &self.expected.rows[wanted];
        for index in 0..partners.len() {
            if tried[index] || row.values.iter().any(|value| self.difference(value, index).is_some()) {
                continue;
            }
            tried[index] = true;
            let is_free = match partners[index] {
                None => true,
                Some(other) => self.pair(other, partners, tried),
            };
            if is_free {
                partners[index] = Some(wanted);
                return true;
            }
        }
        false
    }

    /// What is found in place of an expected value; `None` when it is that value.
    fn difference(&self, value: &ExpectedValue, row: usize) -> Option<String> {
        let column = self.found.column_by_name(&value.column)?;
        let is_same = match &value.text {
            None => column.is_null(row),
            Some(text) => column.is_valid(row) && is_same(column, row, text, self.tolerance),
        };
        (!is_same).then(|| cell(column, row))
    }

    fn wanted(&self, row: &ExpectedRow) -> String {
        let values = row.values.iter().map(|value| format!("{}: {}", value.column, shown(value.text.as_deref())));
        format!("{{{}}}", values.collect::<Vec<_>>().join(", "))
    }

    /// A row that was found: the columns that the case speaks of, or all when it speaks of none.
    fn row(&self, index: usize) -> String {
        let is_named =
            |name: &str| self.expected.rows.iter().flat_map(|row| &row.values).any(|value| value.column == name);
        let schema = self.found.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let shows_all = !names.iter().any(|name| is_named(name));
        let cells = names.iter().zip(self.found.columns()).filter(|(name, _)| shows_all || is_named(name));
        let cells = cells.map(|(name, column)| format!("{name}: {}", cell(column, index)));
        format!("{{{}}}", cells.collect::<Vec<_>>().join(", "))
    }
}

fn shown(text: Option<&str>) -> &str {
    text.unwrap_or("null")
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    array_value_to_string(column, row).unwrap_or_else(|_| "a value that cannot be shown".to_owned())
}

/// Whether the value of a row is the one that `text` means in the column's type.
fn is_same(column: &ArrayRef, row: usize, text: &str, tolerance: f64) -> bool {
    let near = |found: f64, wanted: Option<f64>| {
        wanted.is_some_and(|wanted| {
            found == wanted || (found.is_nan() && wanted.is_nan()) || (found - wanted).abs() <= tolerance
        })
    };
    match column.data_type() {
        DataType::Float64 => near(column.as_primitive::<Float64Type>().value(row), text.parse().ok()),
        DataType::Float32 => {
            let wanted = text.parse::<f32>().ok().map(f64::from);
            near(column.as_primitive::<Float32Type>().value(row).into(), wanted)
        }
        DataType::Timestamp(..) => {
            let found = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None));
            let found = found.ok().map(|found| found.as_primitive::<TimestampMicrosecondType>().value(row));
            found.is_some() && found == micros(text)
        }
        kind if kind.is_numeric() => {
            let found = digits(&cell(column, row));
            found.is_some() && found == digits(text)
        }
        _ => cell(column, row) == text,
    }
}

/// A time as in RFC 3339, or without offset: then UTC.
fn micros(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    forms
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .map(|time| time.and_utc().timestamp_micros())
}

/// Sign and digits of a number without exponent, such that equal numbers are equal here.
fn digits(text: &str) -> Option<(bool, String, String)> {
    let is_negative = text.starts_with('-');
    let (whole, fraction) =
        text.strip_prefix('-').unwrap_or(text).split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
    let is_number = !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let is_zero = whole.is_empty() && fraction.is_empty();
    is_number.then(|| (is_negative && !is_zero, whole.to_owned(), fraction.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::pipeline::settings::Place;

    fn place() -> Place {
        Place { file: PathBuf::from("t.yaml"), line: 1, column: 1 }
    }

    fn expected(rows: &[&[(&str, Option<&str>)]]) -> ExpectedRows {
        let value = |(column, text): &(&str, Option<&str>)| ExpectedValue {
            column: (*column).to_owned(),
            place: place(),
            text: text.map(str::to_owned),
        };
        let rows = rows.iter().map(|row| ExpectedRow { place: place(), values: row.iter().map(value).collect() });
        ExpectedRows { table: "v".to_owned(), place: place(), rows: rows.collect() }
    }

    fn found() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("id", Arc::new(StringArray::from(vec!["7", "b"])) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![Some(-3), None]))),
            ("x", Arc::new(Float64Array::from(vec![0.1 + 0.2, f64::NAN]))),
            ("d", Arc::new(Decimal128Array::from(vec![1250, 0]).with_precision_and_scale(10, 2).unwrap())),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; 2]))),
        ])
        .unwrap()
    }

    #[test]
    fn values_are_compared_in_the_type_of_their_column() {
        let same: &[(&str, Option<&str>)] = &[
            ("id", Some("7")),
            ("n", Some("-3")),
            ("x", Some("0.30000000000000004")),
            ("d", Some("12.5")),
            ("t", Some("2023-11-14T23:13:20+01:00")),
        ];
        let second: &[(&str, Option<&str>)] =
            &[("n", None), ("x", Some("NaN")), ("d", Some("0")), ("t", Some("2023-11-14 22:13:20"))];
        assert_eq!(compare(&expected(&[same, second]), &found(), false, 0.0), Vec::<String>::new());
        for (column, text) in [("id", "8"), ("n", "3"), ("x", "0.3"), ("d", "12.51"), ("t", "2023-11-14T22:13:21Z")] {
            let differences = compare(&expected(&[&[(column, Some(text))], &[]]), &found(), false, 0.0);
            assert_eq!(differences.len(), 1, "{column} {differences:?}");
        }
        assert_eq!(compare(&expected(&[&[("x", Some("0.3"))], &[]]), &found(), false, 1e-9), Vec::<String>::new());
        assert_eq!(compare(&expected(&[&[("x", None)], &[("n", Some("null"))]]), &found(), false, 0.0).len(), 2);
    }

    #[test]
    fn missing_and_further_rows_are_told() {
        let one = compare(&expected(&[&[("id", Some("7"))]]), &found(), false, 0.0);
        assert_eq!(one, ["t.yaml:1:1: v row 2: expected no row, found {id: b}"]);
        let three = compare(&expected(&[&[], &[], &[("id", Some("c"))]]), &found(), false, 0.0);
        assert_eq!(three, ["t.yaml:1:1: v row 3: expected {id: c}, found no row"]);
    }

    #[test]
    fn rows_in_any_order_find_their_partners_even_when_an_earlier_one_took_them() {
        // The first expected row takes any row found; it has to leave "7" to the second.
        assert_eq!(compare(&expected(&[&[], &[("id", Some("7"))]]), &found(), true, 0.0), Vec::<String>::new());
        let twice = compare(&expected(&[&[("id", Some("b"))], &[("id", Some("b"))]]), &found(), true, 0.0);
        assert_eq!(twice.len(), 2, "{twice:?}");
    }

    #[test]
    fn a_column_that_is_not_there_is_named_with_those_that_are() {
        let differences = compare(&expected(&[&[("nn", Some("1"))]]), &found(), false, 0.0);
        assert_eq!(differences, ["t.yaml:1:1: v has no column `nn`; columns: id, n, x, d, t"]);
    }
}
