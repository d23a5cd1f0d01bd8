//! A registration on an MLflow server: experiment, run, logged model, files, version. The order is the safety: files before
//! the logged model is ready, the run finished before the version, and aliases are not touched. Whatever fails, the run is
//! ended, and a logged model whose files are not all there is marked so.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use chrono::DateTime;
use serde_json::{Value, json};

use super::artifacts::Place;
use super::client::{Failure, Repeat};
use super::refusal::{expect, text};
use super::{EXISTS, MlflowRegistry, NOT_FOUND};
use crate::error::{Error, Result};
use crate::model::package::{MLMODEL, Package, RegisteredAs};
use crate::model::registry::{Dataset, MetricPoint, ModelVersion, RunRecord};

/// MLflow's limits of one request, and of one value.
const METRICS_AT_ONCE: usize = 1000;
const PARAMS_AT_ONCE: usize = 100;
const PARAM_CHARS_MAX: usize = 6000;
const TAG_CHARS_MAX: usize = 5000;
/// The tag by which a run is found whose creation was not answered.
const REGISTRATION_TAG: &str = "tidemill.registration";
const OLDEST_VERSION: u32 = 3;

/// What has come to be so far: what has to be ended when the rest fails.
#[derive(Debug, Default)]
struct Begun {
    run_id: OnceLock<String>,
    /// The logged model, until it is ready.
    model_id: OnceLock<String>,
    is_ready: OnceLock<()>,
}

/// A run and where its files go.
struct Run {
    id: String,
    experiment_id: String,
    artifact_uri: String,
}

struct LoggedModel {
    id: String,
    artifact_uri: String,
}

impl MlflowRegistry {
    pub(in crate::model::registry) async fn register_until(
        &self,
        name: &str,
        package: &Package,
        record: &RunRecord,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<ModelVersion> {
        if !package.files.contains_key(MLMODEL) {
            return Err(Error::invalid(format!(
                "the model has no file {MLMODEL}, which MLflow needs; train it with `tidemill train`, or log it with `mlflow.lightgbm`"
            )));
        }
        let begun = Begun::default();
        let prepared = tokio::select! {
            prepared = self.prepare(name, package, record, &begun) => prepared,
            () = stop => {
                self.give_up(&begun, record, "KILLED").await;
                return Err(Error::unavailable(format!("the registration of {name} was interrupted; no version was made")));
            }
        };
        let published = match prepared {
            Ok((run, model)) => self.publish(name, &run, &model, record).await,
            Err(error) => Err(error),
        };
        if published.is_err() {
            self.give_up(&begun, record, "FAILED").await;
        }
        published.map_err(|error| error.context(format!("registering {name}: no version was made")))
    }

    /// Everything that comes before the version, up to a logged model that is ready.
    async fn prepare(
        &self,
        name: &str,
        package: &Package,
        record: &RunRecord,
        begun: &Begun,
    ) -> Result<(Run, LoggedModel)> {
        self.expect_version_3().await?;
        let experiment_id = self.experiment(&record.experiment).await?;
        let run = self.begin_run(experiment_id, record).await?;
        begun.run_id.get_or_init(|| run.id.clone());
        self.log_params(&run, record).await?;
        let model = self.begin_model(name, &run, record).await?;
        begun.model_id.get_or_init(|| model.id.clone());
        self.log_metrics(&run, &model, record).await?;
        if let Some(dataset) = &record.dataset {
            self.log_dataset(&run, dataset).await?;
        }
        let created = DateTime::from_timestamp_millis(record.ended_ms).unwrap_or_default();
        let package = package.registered_as(&RegisteredAs {
            artifact_path: &model.artifact_uri,
            model_id: &model.id,
            run_id: &run.id,
            utc_time_created: &created.format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
        })?;
        let (client, env) = (&self.client, &self.env);
        Place::open(client, env, &run.artifact_uri)?.write(record.artifacts.iter()).await?;
        Place::open(client, env, &model.artifact_uri)?.write(package.files.iter()).await?;
        self.set_model_status(&model.id, "LOGGED_MODEL_READY").await?;
        begun.is_ready.get_or_init(|| ());
        let outputs = json!({"run_id": run.id, "models": [{"model_id": model.id, "step": 0}]});
        self.act("runs/outputs", &outputs, "note the run's model").await?;
        Ok((run, model))
    }

    /// The run's end and the version: short, and not interrupted.
    async fn publish(&self, name: &str, run: &Run, model: &LoggedModel, record: &RunRecord) -> Result<ModelVersion> {
        match self.client.post("registered-models/create", &json!({"name": name}), Repeat::Harmless).await {
            Ok(_) => {}
            Err(failure) if failure.is(EXISTS) => {}
            Err(failure) => return Err(self.client.error(&format!("create the model {name}"), failure)),
        }
        self.end_run(&run.id, record, "FINISHED").await?;
        let body = json!({
            "name": name, "source": format!("models:/{}", model.id), "run_id": run.id, "model_id": model.id,
            "tags": key_values(&record.version_tags, TAG_CHARS_MAX),
        });
        let act = format!("create a version of {name}");
        match self.client.post("model-versions/create", &body, Repeat::Doubles).await {
            Ok(answer) => self.version(&answer["model_version"]),
            // Perhaps it was made and the answer was lost; the run is ours alone, so its version is.
            Err(failure) if failure.may_pass() => match self.version_of_run(name, &run.id).await {
                Ok(Some(version)) => Ok(version),
                Ok(None) | Err(_) => Err(self.client.error(&act, failure)),
            },
            Err(failure) => Err(self.client.error(&act, failure)),
        }
    }

    async fn version_of_run(&self, name: &str, run_id: &str) -> Result<Option<ModelVersion>> {
        let filter = format!("name='{name}' AND run_id='{run_id}'");
        let query = [("filter", filter.as_str())];
        let found = self.pages("model-versions/search", &query, "model_versions", "look for the version").await?;
        found.first().map(|answer| self.version(answer)).transpose()
    }

    /// Ends what was begun. It failed already; a second failure is only logged.
    async fn give_up(&self, begun: &Begun, record: &RunRecord, status: &str) {
        let mut left = Vec::new();
        if let (Some(model_id), None) = (begun.model_id.get(), begun.is_ready.get())
            && let Err(error) = self.set_model_status(model_id, "LOGGED_MODEL_UPLOAD_FAILED").await
        {
            left.push(error);
        }
        if let Some(run_id) = begun.run_id.get()
            && let Err(error) = self.end_run(run_id, record, status).await
        {
            left.push(error);
        }
        for error in left {
            tracing::warn!(error = error.to_string(), "a failed registration could not be marked as failed");
        }
    }

    async fn expect_version_3(&self) -> Result<()> {
        let version =
            self.client.version().await.map_err(|failure| self.client.error("ask for its version", failure))?;
        let Some(version) = version else { return Ok(()) };
        let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_some_and(|major| major < OLDEST_VERSION) {
            return Err(Error::invalid(format!(
                "{}: expected an MLflow server of version {OLDEST_VERSION} or newer, found {version}",
                self.uri()
            )));
        }
        Ok(())
    }

    async fn act(&self, path: &str, body: &Value, act: &str) -> Result<Value> {
        self.client.post(path, body, Repeat::Harmless).await.map_err(|failure| self.client.error(act, failure))
    }

    async fn experiment(&self, name: &str) -> Result<String> {
        let name = if name.is_empty() { "Default" } else { name };
        if let Some(id) = self.find_experiment(name).await? {
            return Ok(id);
        }
        let act = format!("create the experiment {name}");
        match self.client.post("experiments/create", &json!({"name": name}), Repeat::Harmless).await {
            Ok(answer) => expect(&answer, "/experiment_id", self.uri()).map(str::to_owned),
            // Somebody else was faster, or we were and did not hear of it.
            Err(failure) if failure.is(EXISTS) => match self.find_experiment(name).await? {
                Some(id) => Ok(id),
                None => Err(self.client.error(&act, failure)),
            },
            Err(failure) => Err(self.client.error(&act, failure)),
        }
    }

    async fn find_experiment(&self, name: &str) -> Result<Option<String>> {
        let found = self.client.get("experiments/get-by-name", &[("experiment_name", name)]).await;
        let answer = match found {
            Ok(answer) => answer,
            Err(failure) if failure.is(NOT_FOUND) => return Ok(None),
            Err(failure) => return Err(self.client.error(&format!("look up the experiment {name}"), failure)),
        };
        if text(&answer, "/experiment/lifecycle_stage") == Some("deleted") {
            return Err(Error::invalid(format!(
                "the experiment {name} was deleted on the MLflow server {}; restore it there, or name another",
                self.uri()
            )));
        }
        expect(&answer, "/experiment/experiment_id", self.uri()).map(|id| Some(id.to_owned()))
    }

    async fn begin_run(&self, experiment_id: String, record: &RunRecord) -> Result<Run> {
        let registration = uuid::Uuid::new_v4().simple().to_string();
        let mut tags = BTreeMap::from([
            ("mlflow.source.name".to_owned(), "tidemill".to_owned()),
            ("mlflow.source.type".to_owned(), "LOCAL".to_owned()),
        ]);
        tags.extend(record.tags.clone());
        tags.insert(REGISTRATION_TAG.to_owned(), registration.clone());
        let body = json!({
            "experiment_id": experiment_id, "start_time": record.started_ms, "run_name": record.run_name,
            "tags": key_values(&tags, TAG_CHARS_MAX),
        });
        let run = match self.client.post("runs/create", &body, Repeat::Doubles).await {
            Ok(mut answer) => answer["run"].take(),
            Err(failure) => self.lost_run(&experiment_id, &registration, failure).await?,
        };
        Ok(Run {
            id: expect(&run, "/info/run_id", self.uri())?.to_owned(),
            artifact_uri: expect(&run, "/info/artifact_uri", self.uri())?.to_owned(),
            experiment_id,
        })
    }

    /// The run whose creation was not answered: left alone, it would be running for ever.
    async fn lost_run(&self, experiment_id: &str, registration: &str, failure: Failure) -> Result<Value> {
        let act = "create a run";
        if failure.may_pass() {
            let filter = format!("tags.`{REGISTRATION_TAG}` = '{registration}'");
            let body = json!({"experiment_ids": [experiment_id], "filter": filter, "max_results": 1});
            if let Ok(mut answer) = self.client.post("runs/search", &body, Repeat::Harmless).await
                && answer.pointer("/runs/0").is_some()
            {
                return Ok(answer["runs"][0].take());
            }
        }
        Err(self.client.error(act, failure))
    }

    async fn end_run(&self, run_id: &str, record: &RunRecord, status: &str) -> Result<()> {
        let body = json!({"run_id": run_id, "status": status, "end_time": record.ended_ms});
        self.act("runs/update", &body, "end the run").await.map(drop)
    }

    async fn begin_model(&self, name: &str, run: &Run, record: &RunRecord) -> Result<LoggedModel> {
        let params: Vec<Value> = key_values(&plain_names(&record.params), PARAM_CHARS_MAX);
        let body = json!({
            "experiment_id": run.experiment_id, "name": name, "source_run_id": run.id, "params": params,
            "tags": key_values(&record.version_tags, TAG_CHARS_MAX),
        });
        // One that was made and not heard of stays pending, and nothing names it.
        let answer = self.act("logged-models", &body, "create a logged model").await?;
        Ok(LoggedModel {
            id: expect(&answer, "/model/info/model_id", self.uri())?.to_owned(),
            artifact_uri: expect(&answer, "/model/info/artifact_uri", self.uri())?.to_owned(),
        })
    }

    async fn set_model_status(&self, model_id: &str, status: &str) -> Result<()> {
        let body = json!({"model_id": model_id, "status": status});
        let done = self.client.patch(&format!("logged-models/{model_id}"), &body).await;
        self.done(done, "finish the logged model")
    }

    async fn log_params(&self, run: &Run, record: &RunRecord) -> Result<()> {
        let params: Vec<Value> = key_values(&plain_names(&record.params), PARAM_CHARS_MAX);
        for some in params.chunks(PARAMS_AT_ONCE) {
            self.act("runs/log-batch", &json!({"run_id": run.id, "params": some}), "log parameters").await?;
        }
        Ok(())
    }

    async fn log_metrics(&self, run: &Run, model: &LoggedModel, record: &RunRecord) -> Result<()> {
        let final_values = record.metrics.iter().map(|(name, value)| {
            let mut metric = metric(name, 0, *value, record.ended_ms);
            metric["model_id"] = Value::from(model.id.as_str());
            metric
        });
        let history = record.history.iter();
        let history = history.map(|MetricPoint { name, step, value }| metric(name, *step, *value, record.ended_ms));
        let metrics: Vec<Value> = final_values.chain(history).collect();
        for some in metrics.chunks(METRICS_AT_ONCE) {
            self.act("runs/log-batch", &json!({"run_id": run.id, "metrics": some}), "log metrics").await?;
        }
        Ok(())
    }

    async fn log_dataset(&self, run: &Run, dataset: &Dataset) -> Result<()> {
        let is_bucket = !dataset.uris.is_empty() && dataset.uris.iter().all(|uri| uri.starts_with("s3://"));
        let columns: Vec<Value> = dataset
            .columns
            .iter()
            .map(|(name, data_type)| json!({"name": name, "type": column_type(data_type), "required": false}))
            .collect();
        // JSON in JSON: so MLflow wants it.
        let dataset = json!({
            "name": dataset.name, "digest": dataset.digest.chars().take(36).collect::<String>(),
            "source_type": if is_bucket { "s3" } else { "local" },
            "source": json!({"uri": dataset.uris.join(" ")}).to_string(),
            "schema": json!({"mlflow_colspec": columns}).to_string(),
            "profile": json!({"num_rows": dataset.num_rows}).to_string(),
        });
        let tags = json!([{"key": "mlflow.data.context", "value": "training"}]);
        let body = json!({"run_id": run.id, "datasets": [{"dataset": dataset, "tags": tags}]});
        self.act("runs/log-inputs", &body, "log the data set").await.map(drop)
    }
}

/// As lists of MLflow's; what is too long for it is cut.
fn key_values(map: &BTreeMap<String, String>, chars_max: usize) -> Vec<Value> {
    let cut = move |value: &str| value.chars().take(chars_max).collect::<String>();
    map.iter().map(move |(key, value)| json!({"key": key, "value": cut(value)})).collect()
}

fn plain_names(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    map.iter().map(|(name, value)| (plain_name(name), value.clone())).collect()
}

/// A name with only the characters that MLflow takes.
fn plain_name(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "_-./: ".contains(char) { char } else { '_' };
    name.chars().map(plain).collect()
}

fn metric(name: &str, step: i64, value: f64, timestamp: i64) -> Value {
    // JSON has neither NaN nor infinity; MLflow takes them as texts.
    let value = if value.is_nan() {
        Value::from("NaN")
    } else if value.is_infinite() {
        Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Value::from(value)
    };
    json!({"key": plain_name(name), "value": value, "timestamp": timestamp, "step": step})
}

/// MLflow's word for a type of Arrow's.
fn column_type(data_type: &str) -> &'static str {
    match data_type {
        "Boolean" => "boolean",
        "Int8" | "Int16" | "Int32" | "UInt8" | "UInt16" => "integer",
        "Int64" | "UInt32" | "UInt64" => "long",
        "Float16" | "Float32" => "float",
        "Float64" => "double",
        "Binary" | "LargeBinary" | "BinaryView" => "binary",
        other if other.starts_with("Timestamp") || other.starts_with("Date") => "datetime",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_go_as_texts_and_names_are_made_plain() {
        assert_eq!(metric("recall@100", 0, f64::NAN, 1)["value"], "NaN");
        assert_eq!(metric("recall@100", 0, f64::NEG_INFINITY, 1)["value"], "-Infinity");
        assert_eq!(
            metric("recall@100", 2, 0.5, 1),
            json!({"key": "recall_100", "value": 0.5, "timestamp": 1, "step": 2})
        );
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let map = BTreeMap::from([("k".to_owned(), "ä".repeat(10))]);
        assert_eq!(key_values(&map, 3), [json!({"key": "k", "value": "äää"})]);
    }
}
