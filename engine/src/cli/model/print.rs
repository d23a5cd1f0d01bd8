//! What `tidemill model` tells people: plain text, one thing a line.

use chrono::SecondsFormat;

use crate::model::manifest::ModelManifest;
use crate::model::registry::{GATE_TAG, ModelVersion, Promotion, RegisteredModel};

/// The models of a registry.
pub(super) fn models(registry: &str, models: &[RegisteredModel]) -> String {
    if models.is_empty() {
        return format!("the registry {registry} has no models yet: `tidemill train --register` makes one");
    }
    let rows = models.iter().map(|model| {
        let aliases: Vec<String> = model.aliases.iter().map(|(alias, version)| format!("{alias}={version}")).collect();
        [model.name.clone(), aliases.join(" ")]
    });
    table(["model", "aliases"], rows)
}

/// The versions of a model.
pub(super) fn versions(versions: &[ModelVersion]) -> String {
    let rows = versions.iter().map(|version| {
        let gate = version.tags.get(GATE_TAG).map_or("-", String::as_str);
        [version.version.clone(), created(version), gate.to_owned(), version.aliases.join(" ")]
    });
    table(["version", "created", "gate", "aliases"], rows)
}

fn created(version: &ModelVersion) -> String {
    version.created.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// One version, field by field.
pub(super) fn version(version: &ModelVersion, manifest: Option<&ModelManifest>) -> String {
    let mut fields: Vec<[String; 2]> = Vec::new();
    let mut add = |name: &str, value: String| fields.push([name.to_owned(), value]);
    add("model", version.name.clone());
    add("version", version.version.clone());
    add("aliases", version.aliases.join(" "));
    add("created", created(version));
    add("run", version.run_id.clone().unwrap_or_default());
    add("files", version.location.clone());
    for (name, value) in &version.tags {
        add(&format!("tag {name}"), value.clone());
    }
    if let Some(manifest) = manifest {
        add("threshold", format!("{} ({})", manifest.threshold, manifest.threshold_policy));
        add("features", manifest.features.join(" "));
        for (name, value) in &manifest.metrics {
            add(name, value.to_string());
        }
        for note in &manifest.notes {
            add("note", note.clone());
        }
    }
    table(["", ""], fields)
}

/// What a promotion or a roll-back changed.
pub(super) fn promotion(promotion: &Promotion) -> String {
    let Promotion { name, alias, version, before } = promotion;
    match before {
        Some(before) if before == version => format!("{name}@{alias} is version {version} already"),
        Some(before) => format!("{name}@{alias} is version {version} now; it was {before}"),
        None => format!("{name}@{alias} is version {version} now; it meant none before"),
    }
}

/// Columns as wide as their widest cell; the last as it is. A head without words is left out.
fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut all: Vec<[String; N]> = Vec::new();
    if head.iter().any(|word| !word.is_empty()) {
        all.push(head.map(str::to_owned));
    }
    all.extend(rows);
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["1".to_owned(), "x".to_owned()], ["10".to_owned(), String::new()]];
        assert_eq!(table(["version", "gate"], rows), "version  gate\n1        x\n10\n");
        assert_eq!(table(["", ""], [["a".to_owned(), "b c".to_owned()]]), "a  b c\n");
    }
}
