//! `MLmodel`, the file that says what a model directory holds: read as far as serving needs it, whoever wrote it. Lists are
//! skipped, since nothing that is asked for stands in one.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};

use super::some_of;
use crate::error::{Error, Result};

const BOOSTER: &str = "lightgbm.basic.Booster";
/// What only Python can read.
const PYTHON_ONLY: [&str; 6] = [".pkl", ".pickle", ".skops", ".cloudpickle", ".joblib", ".bin"];

/// The scalars of the file, by path: `flavors.lightgbm.data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MlModel {
    scalars: BTreeMap<String, String>,
    flavors: Vec<String>,
}

impl MlModel {
    pub(crate) fn parse(text: &str) -> Result<MlModel> {
        let wrong = |why: &str| Error::data(format!("MLmodel is not a file of MLflow's: {why}"));
        let (mut scalars, mut flavors) = (BTreeMap::new(), Vec::new());
        // The keys down to here; the last is `None` while a mapping waits for its next key.
        let mut path: Vec<Option<String>> = Vec::new();
        let mut lists = 0_usize;
        let mut parser = Parser::new_from_str(text);
        while let Some(next) = parser.next_event() {
            let (event, _) = next.map_err(|error| wrong(&format!("line {}", error.marker().line())))?;
            match event {
                Event::SequenceStart(..) => lists += 1,
                Event::SequenceEnd => {
                    lists = lists.saturating_sub(1);
                    if lists == 0 {
                        value_ends(&mut path);
                    }
                }
                _ if lists > 0 => {}
                Event::MappingStart(..) => path.push(None),
                Event::MappingEnd => {
                    path.pop();
                    value_ends(&mut path);
                }
                Event::Scalar(text, ..) => match path.last_mut() {
                    None => return Err(wrong("expected a mapping")),
                    Some(key @ None) => {
                        *key = Some(text.to_string());
                        if let [Some(first), Some(flavor)] = path.as_slice()
                            && first == "flavors"
                        {
                            flavors.push(flavor.clone());
                        }
                    }
                    Some(Some(_)) => {
                        let name: Vec<&str> = path.iter().flatten().map(String::as_str).collect();
                        scalars.insert(name.join("."), text.to_string());
                        value_ends(&mut path);
                    }
                },
                Event::Alias(_) => value_ends(&mut path),
                _ => {}
            }
        }
        if flavors.is_empty() {
            return Err(wrong("expected `flavors` in it"));
        }
        Ok(MlModel { scalars, flavors })
    }

    fn scalar(&self, path: &str) -> Option<&str> {
        self.scalars.get(path).map(String::as_str).filter(|text| !text.is_empty() && *text != "null" && *text != "~")
    }

    /// Where the model's text is, or why there is none that we can read.
    pub(crate) fn model_path(&self) -> Result<String> {
        const EXPECTED: &str = "expected a LightGBM Booster as `mlflow.lightgbm.log_model(booster, ...)` writes it";
        let flavor = ["flavors.lightgbm", "flavors.python_function"]
            .into_iter()
            .find(|flavor| self.scalar(&format!("{flavor}.data")).is_some());
        if !self.flavors.iter().any(|flavor| flavor == "lightgbm") {
            return Err(Error::invalid(format!(
                "this model cannot be served: {EXPECTED}, found a model with the flavors {}",
                some_of(self.flavors.iter().map(String::as_str))
            )));
        }
        let data = flavor.and_then(|flavor| self.scalar(&format!("{flavor}.data"))).ok_or_else(|| {
            Error::data("MLmodel does not say which file the model is: expected `flavors.lightgbm.data`")
        })?;
        let class = self.scalar("flavors.lightgbm.model_class").unwrap_or(BOOSTER);
        if class != BOOSTER || PYTHON_ONLY.iter().any(|suffix| data.ends_with(suffix)) {
            return Err(Error::invalid(format!(
                "this model cannot be served: {EXPECTED}, found a {class} in {data}, which only Python can read; log its booster instead: `mlflow.lightgbm.log_model(clf.booster_, ...)`"
            )));
        }
        super::check_path(data)?;
        Ok(data.to_owned())
    }
}

/// The value of the innermost key is complete: the mapping waits for the next key.
fn value_ends(path: &mut [Option<String>]) {
    if let Some(key) = path.last_mut() {
        *key = None;
    }
}
