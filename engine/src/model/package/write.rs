//! The files that MLflow wants in a model directory, so that `mlflow.pyfunc.load_model` and `mlflow.lightgbm.load_model`
//! load it: `MLmodel` with both flavors, a signature of doubles, an input example, and the packages that loading needs.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{INPUT_EXAMPLE, MLMODEL, MODEL, Package, SELF_TEST, SERVING_INPUT_EXAMPLE, SelfTest};
use crate::error::{Error, Result};

/// The MLflow whose files these are.
const MLFLOW_VERSION: &str = "3.17.2";
const PYTHON_VERSION: &str = "3.11.14";
/// Lines of `MLmodel` that say where it is registered.
const REGISTERED_KEYS: [&str; 5] = ["artifact_path", "model_id", "model_uuid", "run_id", "utc_time_created"];

/// What a model directory is made from.
#[derive(Debug, Clone, Copy)]
pub struct ModelFiles<'a> {
    /// LightGBM's text.
    pub model_text: &'a str,
    /// Version of the LightGBM that trained it.
    pub lightgbm_version: &'a str,
    /// A few rows as the model got them, and their scores.
    pub self_test: &'a SelfTest,
    /// Facts for those who load the model in Python, as the values of `metadata`: its threshold.
    pub metadata: &'a [(&'a str, Value)],
}

/// Where and when a model was registered: what `MLmodel` says of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegisteredAs<'a> {
    pub(crate) artifact_path: &'a str,
    pub(crate) model_id: &'a str,
    pub(crate) run_id: &'a str,
    /// `2026-11-22 16:20:00.000000`, UTC.
    pub(crate) utc_time_created: &'a str,
}

impl Package {
    /// A directory with the model, MLflow's files and the self-test. The manifest, the report and the rest are added.
    pub fn of_model(files: &ModelFiles<'_>) -> Result<Package> {
        let mut package = Package::default();
        let test = files.self_test;
        let example = json!({"columns": test.features, "data": json_rows(test)});
        package.insert(MODEL, files.model_text.to_owned())?;
        package.insert(MLMODEL, mlmodel(files)?)?;
        package.insert(SELF_TEST, test.to_json())?;
        package.insert(SERVING_INPUT_EXAMPLE, format!("{:#}\n", json!({"dataframe_split": example})))?;
        package.insert(INPUT_EXAMPLE, format!("{example:#}\n"))?;
        let lightgbm = files.lightgbm_version;
        package
            .insert("requirements.txt", format!("mlflow=={MLFLOW_VERSION}\nlightgbm=={lightgbm}\npandas>=2.2,<4\n"))?;
        package.insert(
            "conda.yaml",
            format!(
                "channels:\n- conda-forge\ndependencies:\n- python={PYTHON_VERSION}\n- pip\n- pip:\n  - mlflow=={MLFLOW_VERSION}\n  - lightgbm=={lightgbm}\n  - pandas>=2.2,<4\nname: mlflow-env\n"
            ),
        )?;
        package.insert(
            "python_env.yaml",
            format!("python: {PYTHON_VERSION}\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n"),
        )?;
        Ok(package)
    }

    /// The same files, with `MLmodel` saying where they are registered. Only its lines at the left margin are looked at.
    pub(crate) fn registered_as(&self, registered: &RegisteredAs<'_>) -> Result<Package> {
        let mut package = self.clone();
        let Some(text) = self.text(MLMODEL)? else {
            return Err(Error::invalid(format!("a model in a registry of MLflow's needs the file {MLMODEL}")));
        };
        let is_registered_key =
            |line: &str| line.split_once(':').is_some_and(|(key, _)| REGISTERED_KEYS.contains(&key));
        let mut lines: String =
            text.lines().filter(|line| !is_registered_key(line)).fold(String::new(), |all, line| all + line + "\n");
        let RegisteredAs { artifact_path, model_id, run_id, utc_time_created } = registered;
        for (key, value) in [
            ("artifact_path", artifact_path),
            ("model_id", model_id),
            ("model_uuid", model_id),
            ("run_id", run_id),
            ("utc_time_created", utc_time_created),
        ] {
            writeln!(lines, "{key}: {}", quoted(value)).map_err(|_| Error::internal("text cannot be written"))?;
        }
        package.files.insert(MLMODEL.to_owned(), Bytes::from(lines));
        Ok(package)
    }
}

/// Missing values are `null`: JSON has no NaN.
fn json_rows(test: &SelfTest) -> Vec<Vec<Value>> {
    let number = |number: &f64| serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number);
    test.rows.iter().map(|row| row.iter().map(number).collect()).collect()
}

/// A text in YAML's single quotes, on one line.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn mlmodel(files: &ModelFiles<'_>) -> Result<String> {
    let columns: Vec<Value> =
        files.self_test.features.iter().map(|name| json!({"type": "double", "name": name, "required": true})).collect();
    let outputs = json!([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]);
    let mut text = format!(
        "flavors:
  lightgbm:
    code: null
    data: {MODEL}
    lgb_version: {lightgbm}
    model_class: lightgbm.basic.Booster
  python_function:
    data: {MODEL}
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.lightgbm
    python_version: {PYTHON_VERSION}
mlflow_version: {MLFLOW_VERSION}
saved_input_example_info:
  artifact_path: {INPUT_EXAMPLE}
  pandas_orient: split
  serving_input_path: {SERVING_INPUT_EXAMPLE}
  type: dataframe
signature:
  inputs: {inputs}
  outputs: {outputs}
  params: null
",
        lightgbm = files.lightgbm_version,
        inputs = quoted(&Value::from(columns).to_string()),
        outputs = quoted(&outputs.to_string()),
    );
    if !files.metadata.is_empty() {
        text.push_str("metadata:\n");
    }
    for (key, value) in files.metadata {
        // A JSON value is a YAML value.
        writeln!(text, "  {key}: {value}").map_err(|_| Error::internal("text cannot be written"))?;
    }
    Ok(text)
}
