//! The habits that can be checked by reading the source: what a file starts with, how long it is, and which outside crate
//! may enter where.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// (path below the root, text) of every Rust file of ours.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["engine", "udfs", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 40, "the walk found only {} files", files.len());
    files
        .into_iter()
        .map(|path| {
            (
                path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

/// Lines before the unit tests, without `use` of test support.
fn num_lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
}

fn violations(problem: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
    sources()
        .iter()
        .filter_map(|(path, text)| problem(path, text).map(|problem| format!("{path}: {problem}")))
        .collect()
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let bad = violations(|_, text| (!text.starts_with("//!")).then(|| "does not start with //!".to_owned()));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn no_file_is_longer_than_one_thing_needs() {
    let bad = violations(|path, text| {
        let is_test = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/benches/");
        let limit = if path.ends_with("runtime/driver.rs") { 400 } else { 520 };
        let lines = num_lines_without_tests(text);
        (!is_test && lines > limit).then(|| format!("{lines} lines before its tests, {limit} at most"))
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn outside_crates_stay_where_the_layer_table_puts_them() {
    let table: [(&str, &[&str]); 5] = [
        ("rdkafka", &["engine/src/source/kafka", "engine/src/sink/kafka", "tests/", "engine/benches/"]),
        (
            "object_store",
            &[
                "engine/src/checkpoint/",
                "engine/src/source/files",
                "engine/src/sink/parquet",
                "engine/src/model/",
                "tests/",
            ],
        ),
        ("lightgbm3", &["engine/src/train", "udfs/", "tests/", "engine/benches/"]),
        ("reqwest", &["engine/src/model/registry/mlflow"]),
        ("axum", &["engine/src/observe/"]),
    ];
    let bad = violations(|path, text| {
        table.iter().find_map(|(name, homes)| {
            let is_used = text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && (line.contains(&format!("{name}::")) || line.contains(&format!("use {name}")))
            });
            (is_used && !homes.iter().any(|home| path.starts_with(home))).then(|| format!("uses {name}"))
        })
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn serialised_types_live_where_their_versions_are_kept() {
    let homes = [
        "engine/src/pipeline/",
        "engine/src/checkpoint/manifest",
        "engine/src/model/evaluation/",
        "engine/src/model/gate",
        "engine/src/model/manifest",
        "engine/src/model/profile/mod.rs",
        "engine/src/model/registry/folder/document.rs",
        "engine/src/observe/status.rs",
        "engine/src/observe/drift.rs",
        "engine/src/observe/labels.rs",
        "engine/src/types/",
        "engine/src/sink/mod.rs",
    ];
    let bad = violations(|path, text| {
        let derives = text
            .lines()
            .any(|line| line.contains("derive(") && (line.contains("Serialize") || line.contains("Deserialize")));
        (derives && path.starts_with("engine/") && !homes.iter().any(|home| path.starts_with(home)))
            .then(|| "derives Serialize or Deserialize".to_owned())
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let bad = violations(|_, text| words.iter().find(|word| text.contains(*word)).map(|word| format!("holds {word}")));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn the_top_level_holds_what_it_should() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "Makefile",
        "README.md",
        "docker",
        "engine",
        "pipelines",
        "sql",
        "tests",
        "udfs",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} does not belong at the top level");
    }
}
