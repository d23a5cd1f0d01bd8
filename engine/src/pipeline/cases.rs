//! The file of cases beside a pipeline: small inputs, and the rows and rejections that they must come to. Read with the same
//! parser as the pipeline file, so every key, record and value knows its place, and all problems come together. It runs nothing.
//!
//! ```yaml
//! pipeline: fraud.yaml                   # from this file's folder
//! models: { fraud: models/small.txt }    # in place of the pipeline's, by name; may be left out
//! cases:
//!   - name: a payment at home is not across a border
//!     input:                             # by source: records in their order
//!       transactions:
//!         - { transaction_id: t1, amount: 12.5, currency: EUR, location: DE }
//!         - '{"transaction_id": 7'       # text is the payload as it stands; null is a record without one
//!     expect:                            # by sink, view or source: all its rows; of each some columns, or all
//!       features:
//!         - { transaction_id: t1, is_cross_border: 0.0 }
//!     rejected:                          # record 2 of the input, counted from 1; none when the key is left out
//!       - { record: 2, reason: truncated_json }
//!     unordered: false                   # whether rows may come in another order
//!     tolerance: 0                       # how far numbers with a fraction may be off
//! ```
//!
//! In records, what stands without quotes and is no JSON number, `true`, `false` or `null` is text. What an expected value
//! means follows from the type of its column.

use std::path::{Path, PathBuf};

use super::location;
use super::problem::{Problem, Problems, choices_help, list, quoted};
use super::settings::Place;
use super::yaml::{self, Content, Document, Entry, Finding, Node, Scalar, Spot, Style};

/// A file of cases.
#[derive(Debug, Clone)]
pub struct CaseFile {
    /// The pipeline file.
    pub pipeline: PathBuf,
    /// Models in place of the pipeline's: name, path or URI, and where it stands.
    pub models: Vec<(String, String, Place)>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Records by source.
    pub inputs: Vec<CaseInput>,
    /// Rows by sink, view or source.
    pub expect: Vec<ExpectedRows>,
    /// Records that must be rejected, and no others.
    pub rejected: Vec<ExpectedRejection>,
    /// Whether rows may come in another order.
    pub is_unordered: bool,
    /// How far numbers with a fraction may be off.
    pub tolerance: f64,
}

/// Records of one source.
#[derive(Debug, Clone)]
pub struct CaseInput {
    /// Name of the source.
    pub source: String,
    /// Where it stands.
    pub place: Place,
    /// Payloads in order; `None` is a record without one.
    pub records: Vec<Option<Vec<u8>>>,
}

/// All rows of a sink, view or source.
#[derive(Debug, Clone)]
pub struct ExpectedRows {
    /// Its name.
    pub table: String,
    /// Where it stands.
    pub place: Place,
    /// The rows.
    pub rows: Vec<ExpectedRow>,
}

/// Some columns of a row.
#[derive(Debug, Clone)]
pub struct ExpectedRow {
    /// Where it stands.
    pub place: Place,
    /// The values.
    pub values: Vec<ExpectedValue>,
}

/// The value of a column.
#[derive(Debug, Clone)]
pub struct ExpectedValue {
    /// Name of the column.
    pub column: String,
    /// Where the value stands.
    pub place: Place,
    /// The value as it is written; `None` is null.
    pub text: Option<String>,
}

/// A record that must be rejected.
#[derive(Debug, Clone)]
pub struct ExpectedRejection {
    /// Where it stands.
    pub place: Place,
    /// The source; may be left out when the case has one input.
    pub source: Option<String>,
    /// Number of the record in the input, from 1.
    pub record: u64,
    /// The name of the reason.
    pub reason: String,
}

impl CaseFile {
    /// Reads a file of cases. `reasons` are the names of the reasons for which records are rejected.
    ///
    /// # Errors
    /// All problems of the file, in the order of their places.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>, reasons: &[&str]) -> Result<CaseFile, Problems> {
        let start = |message: String| {
            Problems::only(Problem::new(Place { file: path.to_path_buf(), line: 1, column: 1 }, message))
        };
        let text =
            std::fs::read_to_string(path).map_err(|error| start(format!("cannot read the file of cases: {error}")))?;
        if text.trim().is_empty() {
            return Err(start("the file is empty: expected `pipeline` and `cases`".to_string()));
        }
        let (document, mut problems) = yaml::parse(path, &text, env);
        let Some(document) = document else {
            return Err(
                Problems::new(problems).unwrap_or_else(|| start("the file could not be understood".to_string()))
            );
        };
        let mut reader = Reader { document: &document, reasons, findings: Vec::new() };
        let file = reader.file(path);
        let findings = reader.findings;
        problems.extend(findings.into_iter().map(|finding| document.source.problem(finding)));
        match Problems::new(problems) {
            Some(problems) => Err(problems),
            None => Ok(file),
        }
    }
}

struct Reader<'a> {
    document: &'a Document,
    reasons: &'a [&'a str],
    findings: Vec<Finding>,
}

impl<'a> Reader<'a> {
    fn refuse(&mut self, spot: Spot, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.findings.push(Finding::new(spot, message, help));
    }

    fn place(&self, spot: Spot) -> Place {
        self.document.source.place(spot)
    }

    fn file(&mut self, path: &Path) -> CaseFile {
        let folder = path.parent().unwrap_or(Path::new(""));
        let root = &self.document.root;
        self.check_keys(root, "of the file", &["pipeline", "models", "cases"], &["pipeline", "cases"]);
        let pipeline = root.entry("pipeline").and_then(|entry| self.text(&entry.value)).unwrap_or_default();
        let mut models = Vec::new();
        for entry in root.entry("models").map_or(&[][..], |entry| self.entries(&entry.value)) {
            let Some(text) = self.text(&entry.value) else { continue };
            match location::resolve(&text, folder) {
                Ok(uri) => models.push((entry.key.clone(), uri, self.place(entry.key_spot))),
                Err((message, help)) => self.refuse(entry.value.spot, message, help),
            }
        }
        let cases = root.entry("cases").map_or(&[][..], |entry| self.items(&entry.value));
        if let (Some(entry), []) = (root.entry("cases"), cases) {
            self.refuse(entry.key_spot, "expected at least one case, found none", "write `- name: ...`".to_string());
        }
        let cases = cases.iter().map(|case| self.case(case)).collect();
        CaseFile { pipeline: location::local(&pipeline, folder), models, cases }
    }

    fn case(&mut self, node: &'a Node) -> Case {
        let keys = ["name", "input", "expect", "rejected", "unordered", "tolerance"];
        self.check_keys(node, "of a case", &keys, &["name", "input"]);
        if node.entry("expect").is_none()
            && node.entry("rejected").is_none()
            && matches!(node.content, Content::Mapping(_))
        {
            let help = "add `expect` with rows, or `rejected` with records".to_string();
            self.refuse(node.spot, "the case expects nothing", help);
        }
        let name = node.entry("name").and_then(|entry| self.text(&entry.value)).unwrap_or_default();
        let below = |key: &str| node.entry(key).map(|entry| &entry.value);
        let inputs = below("input").map_or(&[][..], |value| self.entries(value));
        let inputs: Vec<CaseInput> = inputs.iter().map(|entry| self.input(entry)).collect();
        let expect = below("expect").map_or(&[][..], |value| self.entries(value));
        let expect = expect.iter().map(|entry| self.expected(entry)).collect();
        let rejected = below("rejected").map_or(&[][..], |value| self.items(value));
        let rejected = rejected.iter().filter_map(|item| self.rejection(item, &inputs)).collect();
        let is_unordered = below("unordered").is_some_and(|value| self.truth(value));
        let tolerance = below("tolerance").map_or(0.0, |value| self.tolerance(value));
        Case { name, inputs, expect, rejected, is_unordered, tolerance }
    }

    fn input(&mut self, entry: &'a Entry) -> CaseInput {
        let mut records = Vec::new();
        for item in self.items(&entry.value) {
            records.push(match &item.content {
                Content::Scalar(scalar) if scalar.is_null() => None,
                Content::Scalar(scalar) => Some(scalar.text.clone().into_bytes()),
                Content::Mapping(_) => Some(json(item).into_bytes()),
                Content::List(_) | Content::Unusable => {
                    let help = "write `{ column: value, ... }`, or the payload as text in quotes".to_string();
                    self.refuse(item.spot, "expected a record", help);
                    None
                }
            });
        }
        CaseInput { source: entry.key.clone(), place: self.place(entry.key_spot), records }
    }

    fn expected(&mut self, entry: &'a Entry) -> ExpectedRows {
        let mut rows = Vec::new();
        for item in self.items(&entry.value) {
            let mut values = Vec::new();
            for value in self.entries(item) {
                let Content::Scalar(scalar) = &value.value.content else {
                    let help = "lists and structures cannot be compared; select their parts in a view".to_string();
                    self.refuse(value.value.spot, "expected a value of a column", help);
                    continue;
                };
                let place = self.place(value.value.spot);
                let text = (!scalar.is_null()).then(|| scalar.text.clone());
                values.push(ExpectedValue { column: value.key.clone(), place, text });
            }
            rows.push(ExpectedRow { place: self.place(item.spot), values });
        }
        ExpectedRows { table: entry.key.clone(), place: self.place(entry.key_spot), rows }
    }

    fn rejection(&mut self, node: &'a Node, inputs: &[CaseInput]) -> Option<ExpectedRejection> {
        self.check_keys(node, "of a rejection", &["source", "record", "reason"], &["record", "reason"]);
        let source = node.entry("source").and_then(|entry| self.text(&entry.value));
        let record = self.text(&node.entry("record")?.value)?;
        let reason = node.entry("reason")?;
        let name = self.text(&reason.value)?;
        if !self.reasons.contains(&name.as_str()) {
            let help = choices_help(&name, "reasons", self.reasons);
            self.refuse(reason.value.spot, format!("no record is ever rejected for {}", quoted(&name)), help);
        }
        let spot = node.spot;
        if source.is_none() && inputs.len() > 1 {
            let names = list(inputs.iter().map(|input| input.source.as_str()));
            self.refuse(spot, "the case has several inputs", format!("add `source: ...`, one of {names}"));
        }
        let Some(number) = record.parse::<u64>().ok().filter(|number| *number > 0) else {
            let help = "records are counted from 1 in each input".to_string();
            self.refuse(spot, format!("expected the number of a record, found {}", quoted(&record)), help);
            return None;
        };
        Some(ExpectedRejection { place: self.place(spot), source, record: number, reason: name })
    }

    fn check_keys(&mut self, node: &Node, owner: &str, valid: &[&str], required: &[&str]) {
        let Content::Mapping(entries) = &node.content else {
            if !matches!(node.content, Content::Unusable) {
                self.refuse(
                    node.spot,
                    "expected a mapping",
                    format!("write `key: value` entries; keys: {}", list(valid.iter().copied())),
                );
            }
            return;
        };
        for entry in entries.iter().filter(|entry| !valid.contains(&entry.key.as_str())) {
            let help = choices_help(&entry.key, "valid keys", valid);
            self.refuse(entry.key_spot, format!("unknown key {} {owner}", quoted(&entry.key)), help);
        }
        for key in required.iter().filter(|key| node.entry(key).is_none()) {
            self.refuse(node.spot, format!("missing key `{key}` {owner}"), None);
        }
    }

    fn entries(&mut self, node: &'a Node) -> &'a [Entry] {
        match &node.content {
            Content::Mapping(entries) => entries,
            Content::Unusable => &[],
            Content::Scalar(_) | Content::List(_) => {
                self.refuse(node.spot, "expected a mapping", "write `name: ...` entries".to_string());
                &[]
            }
        }
    }

    fn items(&mut self, node: &'a Node) -> &'a [Node] {
        match &node.content {
            Content::List(items) => items,
            Content::Unusable => &[],
            Content::Scalar(_) | Content::Mapping(_) => {
                self.refuse(node.spot, "expected a list", "write `- ...` items, or [] for none".to_string());
                &[]
            }
        }
    }

    fn text(&mut self, node: &Node) -> Option<String> {
        match &node.content {
            Content::Scalar(scalar) if !scalar.text.trim().is_empty() && !scalar.is_null() => Some(scalar.text.clone()),
            Content::Unusable => None,
            Content::Scalar(_) | Content::List(_) | Content::Mapping(_) => {
                self.refuse(node.spot, "expected text", None);
                None
            }
        }
    }

    fn truth(&mut self, node: &Node) -> bool {
        match &node.content {
            Content::Scalar(scalar) if scalar.text == "true" => true,
            Content::Scalar(scalar) if scalar.text == "false" => false,
            _ => {
                self.refuse(node.spot, "expected true or false", None);
                false
            }
        }
    }

    fn tolerance(&mut self, node: &Node) -> f64 {
        let number = match &node.content {
            Content::Scalar(scalar) => scalar.text.parse::<f64>().ok(),
            Content::List(_) | Content::Mapping(_) | Content::Unusable => None,
        };
        number.filter(|number| number.is_finite() && *number >= 0.0).unwrap_or_else(|| {
            self.refuse(node.spot, "expected a number that is not negative, such as 1e-9", None);
            0.0
        })
    }
}

/// A record as JSON. Numbers keep the form in which they are written: `1.0` is not `1` to a column of whole numbers.
fn json(node: &Node) -> String {
    match &node.content {
        Content::Scalar(scalar) => json_scalar(scalar),
        Content::List(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Content::Mapping(entries) => {
            let member = |entry: &Entry| format!("{}:{}", json_text(&entry.key), json(&entry.value));
            format!("{{{}}}", entries.iter().map(member).collect::<Vec<_>>().join(","))
        }
        Content::Unusable => "null".to_string(),
    }
}

fn json_scalar(scalar: &Scalar) -> String {
    if scalar.is_null() {
        return "null".to_string();
    }
    let is_plain = scalar.style == Style::Plain || scalar.is_substituted;
    let is_word = matches!(scalar.text.as_str(), "true" | "false");
    if is_plain && (is_word || is_json_number(&scalar.text)) {
        return scalar.text.clone();
    }
    json_text(&scalar.text)
}

/// Whether JSON knows `text` as a number, however large.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
