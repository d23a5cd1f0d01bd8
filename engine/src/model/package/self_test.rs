//! `self_test.json`: a few rows and the scores that the model must give them, so that whoever loads it can check at once
//! that it does. Numbers stand as texts: JSON's readers may round what they read, and a score is compared to the bit.

use serde_json::{Value, json};

use crate::error::{Error, Result};

const VERSION: u64 = 1;

/// Rows of features and the scores that they must get.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// Features, in the model's order.
    pub features: Vec<String>,
    /// Rows; NaN where a value is missing.
    pub rows: Vec<Vec<f64>>,
    /// The score of each row.
    pub scores: Vec<f64>,
}

impl SelfTest {
    pub(super) fn parse(text: &str) -> Result<SelfTest> {
        let wrong = |why: &str| Error::data(format!("{}: {why}; train the model again", super::SELF_TEST));
        let value: Value = serde_json::from_str(text).map_err(|error| wrong(&format!("not JSON: {error}")))?;
        if value.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(wrong(&format!("expected version {VERSION}")));
        }
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
        let numbers = |value: &Value| -> Option<Vec<f64>> {
            value.as_array()?.iter().map(|number| number.as_str()?.parse().ok()).collect()
        };
        let features: Option<Vec<String>> = list(value.get("features"))
            .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        let rows: Option<Vec<Vec<f64>>> = list(value.get("rows")).and_then(|rows| rows.iter().map(numbers).collect());
        let scores = value.get("scores").and_then(numbers);
        let (Some(features), Some(rows), Some(scores)) = (features, rows, scores) else {
            return Err(wrong("expected `features`, `rows` and `scores`, numbers as texts"));
        };
        if rows.len() != scores.len() || rows.iter().any(|row| row.len() != features.len()) {
            return Err(wrong("its rows, features and scores are not equally many"));
        }
        Ok(SelfTest { features, rows, scores })
    }

    /// The file's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        let texts = |numbers: &[f64]| -> Vec<String> { numbers.iter().map(f64::to_string).collect() };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| texts(row)).collect();
        let value = json!({
            "version": VERSION, "features": self.features, "rows": rows, "scores": texts(&self.scores),
        });
        format!("{value:#}\n")
    }
}
