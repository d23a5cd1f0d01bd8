//! The pipeline file: as written, validated, and as settings that cannot be wrong. No I/O beyond reading the files named,
//! and no environment but the one that is handed in.
//!
//! The way of a file: `yaml` makes a tree that knows its places and puts variables in, `walk` holds it against the schema of
//! the types in `file`, `validate` turns it into `settings`. Each collects all problems, and each goes on with what is sound.

mod cases;
mod defaults;
mod file;
mod forms;
mod location;
mod monitoring;
pub(crate) mod options;
mod problem;
mod report;
mod schema;
mod secret;
pub mod settings;
mod substitute;
mod text;
mod validate;
mod walk;
mod yaml;

#[cfg(test)]
mod stock_sql;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

pub use cases::{Case, CaseFile, CaseInput, ExpectedRejection, ExpectedRow, ExpectedRows, ExpectedValue};
pub use problem::{Problem, Problems};
pub use report::check;
pub use schema::json_schema;
use settings::{Pipeline, Place};

/// A duration as the pipeline file writes it: `250ms`, `10s`, `5m`.
///
/// # Errors
/// What is wrong with the text, and what to write.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    use text::TextForm;
    std::time::Duration::parse(text).map_err(|help| format!("expected {}: {help}", std::time::Duration::EXPECTED))
}

impl Pipeline {
    /// Reads and validates a pipeline file and the SQL files that it names. `env` gives the environment's variables.
    ///
    /// # Errors
    /// All problems of the file, in the order of their places.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Pipeline, Problems> {
        let (pipeline, problems) = load(path, env);
        match (pipeline, Problems::new(problems)) {
            (_, Some(problems)) => Err(problems),
            (Some(pipeline), None) => Ok(pipeline),
            (None, None) => Err(Problems::only(at_start(path, "the file could not be understood"))),
        }
    }
}

fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> (Option<Pipeline>, Vec<Problem>) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let problem = at_start(path, format!("cannot read the pipeline file: {}", validate::reason(&error)));
            return (None, vec![problem]);
        }
    };
    let (document, mut problems) = yaml::parse(path, &text, env);
    let Some(document) = document else { return (None, problems) };
    let (value, findings) = walk::check(&schema::substituted_schema(), &document.root);
    problems.extend(findings.into_iter().map(|finding| document.source.problem(finding)));
    let Some(mut value) = value else { return (None, problems) };
    if let Some(object) = value.as_object_mut() {
        // What is missing was reported; with something in its place the rest can still be judged.
        for (key, stand_in) in [("pipeline", json!("unnamed")), ("sources", json!({})), ("sinks", json!({}))] {
            object.entry(key).or_insert(stand_in);
        }
    }
    match file::PipelineFile::deserialize(value) {
        Ok(file) => {
            let (pipeline, found) = validate::validate(&file, &document, path);
            problems.extend(found);
            (Some(pipeline), problems)
        }
        // The walk let something through that the types refuse: our bug, but the user must not be left without a word.
        Err(error) => {
            problems.push(at_start(path, format!("the file does not have the form of a pipeline: {error}")));
            (None, problems)
        }
    }
}

fn at_start(path: &Path, message: impl Into<String>) -> Problem {
    Problem::new(Place { file: path.to_path_buf(), line: 1, column: 1 }, message)
}
