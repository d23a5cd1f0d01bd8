//! Holds a located tree against the JSON Schema and collects every problem of form: unknown and missing keys, wrong types,
//! choices that are none, numbers out of range. What is sound becomes JSON for serde; what is not is left out, so that the
//! rest of the file can still be judged. Scalars get their type here, from what is expected and not from how they look.

use std::time::Duration;

use serde_json::{Map, Value};

use super::problem::{choices_help, list, nearest, quoted};
use super::schema::{resolve, tag};
use super::text::{ByteSize, ColumnSpec, Listen, TextForm, TimestampMillis};
use super::yaml::{Content, Entry, Finding, Node, Scalar, Spot, Style};

/// Checks a tree. The value holds what is sound; at the top, required keys may be missing from it.
pub(super) fn check(schema: &Value, root: &Node) -> (Option<Value>, Vec<Finding>) {
    let mut walker = Walker { root: schema, findings: Vec::new(), path: Vec::new() };
    let value = walker.value(schema, root, Spot::START);
    (value, walker.findings)
}

/// The forms of text that a schema may ask for: `format`, what is expected, and the check.
type Form = (&'static str, &'static str, fn(&str) -> Result<(), String>);

fn form<T: TextForm>() -> Form {
    (T::FORMAT, T::EXPECTED, |text| T::parse(text).map(drop))
}

fn form_of(schema: &Value) -> Option<Form> {
    let format = schema.get("format")?.as_str()?;
    let forms =
        [form::<Duration>(), form::<ByteSize>(), form::<ColumnSpec>(), form::<TimestampMillis>(), form::<Listen>()];
    forms.into_iter().find(|(name, ..)| *name == format)
}

struct Walker<'a> {
    root: &'a Value,
    findings: Vec<Finding>,
    path: Vec<String>,
}

impl<'a> Walker<'a> {
    fn refuse(&mut self, spot: Spot, message: String, help: impl Into<Option<String>>) {
        self.findings.push(Finding::new(spot, message, help));
    }

    /// ``of `sources.transactions` ``.
    fn owner(&self) -> String {
        if self.path.is_empty() { "of the file".to_string() } else { format!("of {}", quoted(&self.path.join("."))) }
    }

    /// The JSON of a node, or nothing when it cannot be used. `owner` is the key that the node stands under.
    fn value(&mut self, schema: &'a Value, node: &Node, owner: Spot) -> Option<Value> {
        let default = schema.get("default");
        let schema = resolve(self.root, schema);
        let is_nullable = allows_null(schema);
        let schema = alternative(self.root, schema, node);
        match &node.content {
            Content::Unusable => return None,
            Content::Scalar(scalar) if scalar.is_null() && !is_options_text(schema) => {
                if is_nullable && (!scalar.is_empty() || scalar.is_substituted) {
                    return Some(Value::Null);
                }
                let help = match (is_nullable, default) {
                    (true, _) => "write a value, or `null`, or remove the key".to_string(),
                    (false, Some(Value::String(default))) => {
                        format!("remove the key for its default, {}", quoted(default))
                    }
                    (false, Some(_)) => "write a value, or remove the key for its default".to_string(),
                    (false, None) => "write a value".to_string(),
                };
                let is_unwritten = scalar.is_empty() && !scalar.is_substituted;
                let found = if scalar.is_empty() { "nothing".to_string() } else { scalar.shown() };
                let spot = if is_unwritten { owner } else { node.spot };
                self.refuse(spot, format!("expected {}, found {found}", expected(schema)), help);
                return None;
            }
            Content::Scalar(_) | Content::List(_) | Content::Mapping(_) => {}
        }
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return self.choice(schema, variants, node, owner);
        }
        match (type_of(schema), &node.content) {
            ("object", Content::Mapping(entries)) => self.mapping(schema, &[], entries, owner),
            ("array", Content::List(items)) => Some(self.list(schema, items)),
            ("integer", Content::Scalar(scalar)) => self.integer(schema, scalar, node.spot),
            ("number", Content::Scalar(scalar)) => self.number(schema, scalar, node.spot),
            ("boolean", Content::Scalar(scalar)) => self.truth(scalar, node.spot),
            ("string", Content::Scalar(scalar)) => self.text(schema, scalar, node.spot),
            _ => {
                self.refuse_type(schema, node);
                None
            }
        }
    }

    fn refuse_type(&mut self, schema: &Value, node: &Node) {
        let help = match (type_of(schema), &node.content) {
            ("array", Content::Scalar(scalar)) if !scalar.is_secret => Some(format!("write a list: [{}]", scalar.text)),
            ("object", Content::Scalar(_) | Content::List(_)) => Some("write `key: value` entries".to_string()),
            ("", _) => variants_help(schema),
            _ => None,
        };
        self.refuse(node.spot, format!("expected {}, found {}", expected(schema), found(node)), help);
    }

    fn list(&mut self, schema: &'a Value, items: &[Node]) -> Value {
        let item_schema = &schema["items"];
        let checked = items.iter().enumerate().filter_map(|(index, item)| {
            self.path.push(index.to_string());
            let value = self.value(item_schema, item, item.spot);
            self.path.pop();
            value
        });
        Value::Array(checked.collect())
    }

    /// A mapping with known keys, or one from names to values of one kind. `variants` are those that it was chosen from.
    fn mapping(&mut self, schema: &'a Value, variants: &[Value], entries: &[Entry], owner: Spot) -> Option<Value> {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return self.named(schema, entries, owner);
        };
        let mut object = Map::new();
        let mut is_whole = true;
        let mut meant = Vec::new();
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for entry in entries {
            let Some(property) = properties.get(&entry.key) else {
                meant.extend(nearest(&entry.key, properties.keys().map(String::as_str)));
                self.refuse_key(properties, variants, entry);
                continue;
            };
            match self.entry(property, entry) {
                Some(value) => drop(object.insert(entry.key.clone(), value)),
                None => is_whole &= !required.contains(&entry.key.as_str()),
            }
        }
        for key in required {
            let is_missing = !entries.iter().any(|entry| entry.key == key);
            is_whole &= !is_missing;
            // A misspelt key is one problem, not two.
            if is_missing && !meant.contains(&key) {
                let message = format!("missing key `{key}` {}", self.owner());
                let help = properties.get(key).and_then(|property| first_sentence(key, property));
                self.refuse(owner, message, help);
            }
        }
        // The file itself is judged further whatever it lacks.
        (is_whole || self.path.is_empty()).then_some(Value::Object(object))
    }

    fn refuse_key(&mut self, properties: &Map<String, Value>, variants: &[Value], entry: &Entry) {
        let has_key = |variant: &&Value| variant["properties"].get(&entry.key).is_some();
        let others: Vec<&str> = variants.iter().filter(has_key).filter_map(tag).map(|(_, word)| word).collect();
        let (message, help) = if others.is_empty() {
            let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
            (
                format!("unknown key {} {}", quoted(&entry.key), self.owner()),
                choices_help(&entry.key, "valid keys", &keys),
            )
        } else {
            let message = format!("the key {} {} is not one of this connector", quoted(&entry.key), self.owner());
            (message, format!("remove it; it belongs to: {}", list(others)))
        };
        self.refuse(entry.key_spot, message, help);
    }

    fn named(&mut self, schema: &'a Value, entries: &[Entry], owner: Spot) -> Option<Value> {
        if entries.is_empty() && schema.get("minProperties").is_some() {
            let message = format!("expected at least one entry {}, found none", self.owner());
            self.refuse(owner, message, "write `name: ...`".to_string());
            return None;
        }
        let item_schema = &schema["additionalProperties"];
        let mut object = Map::new();
        for entry in entries {
            if let Some(value) = self.entry(item_schema, entry) {
                object.insert(entry.key.clone(), value);
            }
        }
        Some(Value::Object(object))
    }

    fn entry(&mut self, schema: &'a Value, entry: &Entry) -> Option<Value> {
        self.path.push(entry.key.clone());
        let value = self.value(schema, &entry.value, entry.key_spot);
        self.path.pop();
        value
    }

    /// One of several: words, mappings told apart by a tag, or mappings of one key.
    fn choice(&mut self, schema: &'a Value, variants: &'a [Value], node: &Node, owner: Spot) -> Option<Value> {
        let words: Vec<&str> = variants.iter().filter_map(|variant| variant.get("const")?.as_str()).collect();
        match &node.content {
            Content::Scalar(scalar) if !words.is_empty() => {
                if words.contains(&scalar.text.as_str()) {
                    return Some(Value::String(scalar.text.clone()));
                }
                let nearest = if scalar.is_secret { None } else { nearest(&scalar.text, words.iter().copied()) };
                let help = nearest.map(|word| format!("did you mean {}?", quoted(word)));
                self.refuse(node.spot, format!("expected {}, found {}", expected(schema), scalar.shown()), help);
                None
            }
            Content::Mapping(entries) if variants.iter().any(|variant| tag(variant).is_some()) => {
                self.tagged(variants, entries, owner)
            }
            Content::Mapping(entries) if words.len() < variants.len() => self.keyed(variants, entries, node.spot),
            _ => {
                self.refuse_type(schema, node);
                None
            }
        }
    }

    /// The variant that the tag names.
    fn tagged(&mut self, variants: &'a [Value], entries: &[Entry], owner: Spot) -> Option<Value> {
        let tags: Vec<(&str, &str)> = variants.iter().filter_map(tag).collect();
        let key = tags.first()?.0;
        let words: Vec<&str> = tags.iter().map(|(_, word)| *word).collect();
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else {
            let help = format!("valid: {}", list(words));
            self.refuse(owner, format!("missing key `{key}` {}", self.owner()), help);
            return None;
        };
        let word = match &entry.value.content {
            Content::Scalar(scalar) => scalar.text.as_str(),
            Content::Unusable => return None,
            Content::List(_) | Content::Mapping(_) => "",
        };
        let Some(index) = words.iter().position(|known| *known == word) else {
            let message = format!("expected a kind of connector, found {}", found(&entry.value));
            self.refuse(entry.value.spot, message, choices_help(word, "valid", &words));
            return None;
        };
        self.mapping(variants.get(index)?, variants, entries, owner)
    }

    /// The variant whose one key stands here.
    fn keyed(&mut self, variants: &'a [Value], entries: &[Entry], spot: Spot) -> Option<Value> {
        let keyed = |key: &str| variants.iter().find_map(|variant| variant.get("properties")?.get(key));
        let keys: Vec<&str> = variants
            .iter()
            .filter_map(|variant| variant.get("properties")?.as_object())
            .flat_map(Map::keys)
            .map(String::as_str)
            .collect();
        for entry in entries.iter().filter(|entry| keyed(&entry.key).is_none()) {
            let message = format!("unknown key {} {}", quoted(&entry.key), self.owner());
            self.refuse(entry.key_spot, message, choices_help(&entry.key, "valid keys", &keys));
        }
        let [entry] = entries else {
            let help = format!("write one of: {}", list(keys));
            self.refuse(spot, format!("expected exactly one key {}, found {}", self.owner(), entries.len()), help);
            return None;
        };
        let value = self.entry(keyed(&entry.key)?, entry)?;
        Some(Value::Object(Map::from_iter([(entry.key.clone(), value)])))
    }

    fn text(&mut self, schema: &Value, scalar: &Scalar, spot: Spot) -> Option<Value> {
        if let Some((_, expected, check)) = form_of(schema) {
            if let Err(help) = check(&scalar.text) {
                let help = if scalar.is_secret { None } else { Some(help) };
                self.refuse(spot, format!("expected {expected}, found {}", scalar.shown()), help);
                return None;
            }
        } else if scalar.text.trim().is_empty() && !is_options_text(schema) {
            self.refuse(spot, "expected text, found an empty one".to_string(), "write a value".to_string());
            return None;
        }
        Some(Value::String(scalar.text.clone()))
    }

    fn integer(&mut self, schema: &Value, scalar: &Scalar, spot: Spot) -> Option<Value> {
        let text = scalar.text.as_str();
        let is_digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        let digits = text.strip_prefix('-').unwrap_or(text);
        let help = if scalar.style != Style::Plain && !scalar.is_substituted {
            Some("a number stands without quotes".to_string())
        } else if is_digits(digits) && digits.len() > 1 && digits.starts_with('0') {
            Some("write it without leading zeros".to_string())
        } else if !is_digits(digits) {
            Some("digits only, without unit, point or separator".to_string())
        } else {
            None
        };
        if help.is_some() {
            self.refuse(spot, format!("expected a whole number, found {}", scalar.shown()), help);
            return None;
        }
        let most = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => u64::from(u32::MAX),
            // Offsets and counts end where Kafka's do.
            _ => i64::MAX.unsigned_abs(),
        };
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        let (min, max) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(most));
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Some(Value::from(number)),
            _ => {
                let message = format!("expected a whole number from {min} to {max}, found {}", scalar.shown());
                self.refuse(spot, message, None);
                None
            }
        }
    }

    fn truth(&mut self, scalar: &Scalar, spot: Spot) -> Option<Value> {
        let is_written = scalar.style == Style::Plain || scalar.is_substituted;
        match scalar.text.as_str() {
            "true" if is_written => Some(Value::Bool(true)),
            "false" if is_written => Some(Value::Bool(false)),
            _ => {
                let help = "in small letters and without quotes".to_string();
                self.refuse(spot, format!("expected true or false, found {}", scalar.shown()), help);
                None
            }
        }
    }

    fn number(&mut self, schema: &Value, scalar: &Scalar, spot: Spot) -> Option<Value> {
        let text = scalar.text.as_str();
        let is_written = scalar.style == Style::Plain || scalar.is_substituted;
        let is_plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'));
        let number = text.parse::<f64>().ok().filter(|number| is_written && is_plain && number.is_finite());
        let Some(number) = number else {
            let help = "write it such as 0.7, without quotes and with a decimal point".to_string();
            self.refuse(spot, format!("expected a number, found {}", scalar.shown()), help);
            return None;
        };
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let is_in = bound("minimum").is_none_or(|min| number >= min)
            && bound("exclusiveMinimum").is_none_or(|min| number > min)
            && bound("maximum").is_none_or(|max| number <= max);
        if !is_in {
            let low = match (bound("minimum"), bound("exclusiveMinimum")) {
                (Some(min), _) => format!("from {min}"),
                (None, Some(min)) => format!("above {min} and up"),
                (None, None) => String::new(),
            };
            let high = bound("maximum").map_or_else(String::new, |max| format!(" to {max}"));
            self.refuse(spot, format!("expected a number {low}{high}, found {}", scalar.shown()), None);
            return None;
        }
        serde_json::Number::from_f64(number).map(Value::Number)
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn type_of(schema: &Value) -> &str {
    types(schema).into_iter().find(|one| *one != "null").unwrap_or_default()
}

/// Text, a number or a truth value: all are handed on as text.
fn is_options_text(schema: &Value) -> bool {
    types(schema).len() > 2
}

fn allows_null(schema: &Value) -> bool {
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    types(schema).contains(&"null")
        || alternatives.is_some_and(|some| some.iter().any(|one| types(one).contains(&"null")))
}

/// The schema of the value when it is not null: of text or a mapping, the one that stands here.
fn alternative<'a>(root: &'a Value, schema: &'a Value, node: &Node) -> &'a Value {
    let alternatives = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let others = || alternatives.iter().filter(|one| !types(one).contains(&"null")).map(|other| resolve(root, other));
    let is_mapping = matches!(node.content, Content::Mapping(_));
    let fitting = others().find(|other| is_mapping && type_of(other) == "object");
    fitting.or_else(|| others().next()).unwrap_or(schema)
}

/// What a schema asks for, in words.
fn expected(schema: &Value) -> String {
    if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
        let words: Vec<&str> = variants.iter().filter_map(|variant| variant.get("const")?.as_str()).collect();
        return match words.as_slice() {
            [] => "a mapping".to_string(),
            [one] => quoted(one),
            _ if words.len() < variants.len() => format!("{}, or a mapping with {}", list(words), keyed_list(variants)),
            _ => format!("one of {}", list(words)),
        };
    }
    if let Some((_, expected, _)) = form_of(schema) {
        return expected.to_string();
    }
    match type_of(schema) {
        "object" => "a mapping",
        "array" => "a list",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "text",
    }
    .to_string()
}

/// The keys of the variants that are mappings of one key.
fn keyed_list(variants: &[Value]) -> String {
    let keys = variants.iter().filter_map(|variant| variant.get("properties")?.as_object()).flat_map(Map::keys);
    keys.map(|key| quoted(key)).collect::<Vec<_>>().join(" or ")
}

/// How to write a mapping that is told apart by a tag.
fn variants_help(schema: &Value) -> Option<String> {
    let tags: Vec<(&str, &str)> = schema.get("oneOf")?.as_array()?.iter().filter_map(tag).collect();
    let (key, _) = tags.first()?;
    Some(format!("write a mapping with the key `{key}`: {}", list(tags.iter().map(|(_, word)| *word))))
}

fn found(node: &Node) -> String {
    match &node.content {
        Content::Scalar(scalar) => scalar.shown(),
        Content::List(_) => "a list".to_string(),
        Content::Mapping(_) => "a mapping".to_string(),
        Content::Unusable => "something that was refused".to_string(),
    }
}

/// What a missing key is for.
fn first_sentence(key: &str, schema: &Value) -> Option<String> {
    let description = schema.get("description")?.as_str()?;
    let sentence = description.split(". ").next()?.trim_end_matches('.');
    let mut chars = sentence.chars();
    let first = chars.next()?.to_lowercase();
    Some(format!("`{key}`: {first}{}", chars.as_str()))
}
