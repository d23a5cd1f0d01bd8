//! The JSON Schema of the pipeline file, draft 2020-12, from the types in `file.rs`. It serves editors and our own check of
//! the file alike, so the two cannot differ.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::file::PipelineFile;

/// The JSON Schema of the pipeline file as it is written, for editors: wherever a value has a form, `${VAR}` may stand for it.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = substituted_schema();
    allow_variables(&mut schema);
    schema
}

/// The JSON Schema of the pipeline file with its variables put in.
pub(super) fn substituted_schema() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<PipelineFile>();
    let mut schema = schema.to_value();
    join_lines(&mut schema);
    close_variants(&mut schema);
    schema
}

/// Follows a `$ref`; other schemas stand for themselves.
pub(super) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// The key whose value tells the variants of a schema apart, and its value in each variant.
pub(super) fn tag(variant: &Value) -> Option<(&str, &str)> {
    let properties = variant.get("properties")?.as_object()?;
    properties.iter().find_map(|(key, schema)| Some((key.as_str(), schema.get("const")?.as_str()?)))
}

/// Doc comments are wrapped; descriptions are not.
fn join_lines(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => *text = text.replace('\n', " "),
                    other => join_lines(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(join_lines),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Lets `${VAR}` stand for every scalar that is more than text.
fn allow_variables(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for key in ["properties", "$defs"] {
        let below = object.get_mut(key).and_then(Value::as_object_mut);
        below.into_iter().flat_map(Map::values_mut).for_each(allow_variables);
    }
    for key in ["oneOf", "anyOf"] {
        let below = object.get_mut(key).and_then(Value::as_array_mut);
        below.into_iter().flatten().for_each(allow_variables);
    }
    for key in ["additionalProperties", "items"] {
        object.get_mut(key).into_iter().for_each(allow_variables);
    }
    let variable = json!({ "type": "string", "pattern": "\\$\\{[A-Za-z_]", "description": "From the environment." });
    if let Some(variants) = object.get_mut("oneOf").and_then(Value::as_array_mut) {
        if variants.iter().any(|variant| variant.get("const").is_some()) {
            variants.push(variable);
        }
    } else if object.contains_key("pattern") || is_number_or_truth(object) {
        let mut own = std::mem::take(object);
        for key in ["description", "default"] {
            if let Some(value) = own.shift_remove(key) {
                object.insert(key.to_string(), value);
            }
        }
        object.insert("anyOf".to_string(), json!([own, variable]));
    }
}

fn is_number_or_truth(schema: &Map<String, Value>) -> bool {
    let is_one = |word: &Value| word == "integer" || word == "number" || word == "boolean";
    match schema.get("type") {
        // Options take text as well.
        Some(Value::Array(words)) => words.iter().any(is_one) && !words.iter().any(|word| word == "string"),
        Some(word) => is_one(word),
        None => false,
    }
}

/// A connector's keys stand beside those that all connectors share, so the types flatten one into the other, and their
/// schema leaves unknown keys open. Here each variant becomes one closed mapping of its own.
fn close_variants(root: &mut Value) {
    let before = root.clone();
    let Some(definitions) = root.get_mut("$defs").and_then(Value::as_object_mut) else { return };
    let mut merged_away = Vec::new();
    for definition in definitions.values_mut() {
        let Some(object) = definition.as_object_mut() else { continue };
        let is_tagged = |variants: &Value| variants.as_array().is_some_and(|v| v.iter().all(|v| tag(v).is_some()));
        if !object.get("oneOf").is_some_and(is_tagged) {
            continue;
        }
        let shared = Value::Object(std::mem::take(object));
        let variants = shared["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        merged_away.extend(variants.iter().filter_map(|variant| variant.get("$ref").cloned()));
        let closed: Vec<Value> = variants.iter().map(|variant| close(&before, variant, &shared)).collect();
        object.insert("description".to_string(), shared["description"].clone());
        object.insert("oneOf".to_string(), Value::Array(closed));
    }
    definitions.retain(|name, _| !merged_away.contains(&json!(format!("#/$defs/{name}"))));
}

/// One variant: its tag, its own keys, the shared keys, and no others.
fn close(root: &Value, variant: &Value, shared: &Value) -> Value {
    let own = resolve(root, variant);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for part in [variant, own, shared] {
        properties.extend(part.get("properties").and_then(Value::as_object).cloned().unwrap_or_default());
        required.extend(part.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
    }
    required.dedup();
    json!({
        "type": "object",
        "description": variant["description"],
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}
