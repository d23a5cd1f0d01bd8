//! MLflow 3 as a registry, by its REST interface. Models are logged as it wants them since version 3 (a logged model,
//! finished before a version names it), so a version whose files are not all there cannot come to be. Read are also models
//! that Python logged.

mod artifacts;
mod client;
mod publish;
mod refusal;

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::{Value, json};

use self::artifacts::Place;
use self::client::{Client, Failure, Repeat};
use self::refusal::{expect, text};
use super::{Fetch, ModelVersion, RegisteredModel};
use crate::checkpoint::store::{Environment, keep_environment};
use crate::error::{Error, Result};
use crate::model::package::{MLMODEL, MODEL, Package, SERVED_FILES, some_of};

const NOT_FOUND: &str = "RESOURCE_DOES_NOT_EXIST";
const EXISTS: &str = "RESOURCE_ALREADY_EXISTS";
/// What MLflow answers to an alias that there is not.
const INVALID: &str = "INVALID_PARAMETER_VALUE";
const PAGE: &str = "200";
/// A server that always names a next page would be asked for ever.
const PAGES_MAX: usize = 1000;

/// An MLflow server.
#[derive(Clone)]
pub struct MlflowRegistry {
    client: Client,
    /// For buckets that its clients read and write directly.
    env: Environment,
}

impl std::fmt::Debug for MlflowRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MlflowRegistry").field("client", &self.client).finish_non_exhaustive()
    }
}

impl MlflowRegistry {
    pub(super) fn open(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<MlflowRegistry> {
        Ok(MlflowRegistry { client: Client::open(uri, env)?, env: keep_environment(env) })
    }

    pub(super) fn uri(&self) -> &str {
        self.client.uri()
    }

    pub(super) async fn by_alias(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>> {
        let found = self.client.get("registered-models/alias", &[("name", name), ("alias", alias)]).await;
        match found {
            Ok(answer) => self.version(&answer["model_version"]).map(Some),
            Err(failure) if failure.is(NOT_FOUND) || failure.is(INVALID) => Ok(None),
            Err(failure) => Err(self.client.error(&format!("look up {name}@{alias}"), failure)),
        }
    }

    pub(super) async fn by_version(&self, name: &str, version: &str) -> Result<Option<ModelVersion>> {
        match self.client.get("model-versions/get", &[("name", name), ("version", version)]).await {
            Ok(answer) => self.version(&answer["model_version"]).map(Some),
            Err(failure) if failure.is(NOT_FOUND) => Ok(None),
            Err(failure) => Err(self.client.error(&format!("look up version {version} of {name}"), failure)),
        }
    }

    /// A version as the server tells it.
    fn version(&self, answer: &Value) -> Result<ModelVersion> {
        let server = self.uri();
        let created = millis(&answer["creation_timestamp"]).and_then(DateTime::from_timestamp_millis);
        let created =
            created.ok_or_else(|| Error::data(format!("{server}: expected the time of a version, found none")))?;
        let aliases = answer["aliases"].as_array().into_iter().flatten();
        Ok(ModelVersion {
            name: expect(answer, "/name", server)?.to_owned(),
            version: expect(answer, "/version", server)?.to_owned(),
            run_id: text(answer, "/run_id").map(str::to_owned),
            created,
            tags: tags_of(answer),
            aliases: aliases.filter_map(Value::as_str).map(str::to_owned).collect(),
            location: text(answer, "/source").unwrap_or_default().to_owned(),
        })
    }

    /// All pages of a search.
    async fn pages(&self, path: &str, query: &[(&str, &str)], field: &str, act: &str) -> Result<Vec<Value>> {
        let (mut found, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut query = query.to_vec();
            query.push(("max_results", PAGE));
            if !token.is_empty() {
                query.push(("page_token", &token));
            }
            let mut answer = self.client.get(path, &query).await.map_err(|failure| self.client.error(act, failure))?;
            if let Some(Value::Array(page)) = answer.get_mut(field).map(Value::take) {
                found.extend(page);
            }
            match text(&answer, "/next_page_token") {
                Some(next) => token = next.to_owned(),
                None => return Ok(found),
            }
        }
        Err(Error::data(format!("{}: more than {PAGES_MAX} pages, cannot {act}", self.uri())))
    }

    pub(super) async fn versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        let act = format!("list the versions of {name}");
        // A search does not tell aliases; the model does, all of them.
        let aliases = match self.client.get("registered-models/get", &[("name", name)]).await {
            Ok(answer) => aliases_of(&answer["registered_model"]),
            Err(failure) if failure.is(NOT_FOUND) => return Ok(Vec::new()),
            Err(failure) => return Err(self.client.error(&act, failure)),
        };
        let filter = format!("name='{name}'");
        let query = [("filter", filter.as_str()), ("order_by", "version_number DESC")];
        let found = self.pages("model-versions/search", &query, "model_versions", &act).await?;
        found
            .iter()
            .map(|answer| {
                let mut version = self.version(answer)?;
                let of_it = aliases.iter().filter(|(_, other)| **other == version.version);
                version.aliases = of_it.map(|(alias, _)| alias.clone()).collect();
                Ok(version)
            })
            .collect()
    }

    pub(super) async fn names(&self) -> Result<Vec<RegisteredModel>> {
        let found = self.pages("registered-models/search", &[], "registered_models", "list models").await?;
        let mut models = Vec::with_capacity(found.len());
        for answer in &found {
            let name = expect(answer, "/name", self.uri())?.to_owned();
            models.push(RegisteredModel { name, aliases: aliases_of(answer) });
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// Where the files of a version are.
    async fn place(&self, version: &ModelVersion) -> Result<Place<'_>> {
        let ModelVersion { name, version, .. } = version;
        let act = "find the files of a model";
        let error = |failure: Failure| self.client.error(act, failure);
        let query = [("name", name.as_str()), ("version", version.as_str())];
        let answer = self.client.get("model-versions/get-download-uri", &query).await.map_err(error)?;
        let uri = expect(&answer, "/artifact_uri", self.uri())?;
        // Versions that were registered from a run are told as that.
        let Some(rest) = uri.strip_prefix("runs:/") else { return Place::open(&self.client, &self.env, uri) };
        let (run_id, path) = rest.split_once('/').unwrap_or((rest, ""));
        let answer = self.client.get("runs/get", &[("run_id", run_id)]).await.map_err(error)?;
        let root = expect(&answer, "/run/info/artifact_uri", self.uri())?;
        Place::open(&self.client, &self.env, &format!("{}/{path}", root.trim_end_matches('/')))
    }

    pub(super) async fn fetch(&self, version: &ModelVersion, which: Fetch<'_>) -> Result<Package> {
        let place = self.place(version).await?;
        // What is there is asked first: a server with a bucket behind it answers a file that is missing as a failure of its own.
        let there = place.list().await?;
        let mut package = Package::default();
        let mut wanted: Vec<&str> = match which {
            Fetch::All => there.iter().map(String::as_str).collect(),
            Fetch::Only(names) => names.to_vec(),
            Fetch::Serving => SERVED_FILES.to_vec(),
        };
        wanted.retain(|name| there.iter().any(|file| file == name));
        for name in wanted {
            read_into(&place, name, &mut package).await?;
        }
        if which == Fetch::Serving {
            let has_mlmodel = package.files.contains_key(MLMODEL);
            let model = if has_mlmodel { package.model_path()? } else { MODEL.to_owned() };
            if !there.contains(&model) {
                return Err(Error::data(format!(
                    "{}: its files are gone: expected {model} at {}, found {}",
                    self.uri(),
                    version.location,
                    some_of(there.iter().map(String::as_str))
                )));
            }
            read_into(&place, &model, &mut package).await?;
        }
        Ok(package)
    }

    pub(super) async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        let body = json!({"name": name, "alias": alias, "version": version});
        let act = format!("set {name}@{alias} to version {version}");
        self.done(self.client.post("registered-models/alias", &body, Repeat::Harmless).await, &act)
    }

    pub(super) async fn delete_alias(&self, name: &str, alias: &str) -> Result<()> {
        let body = json!({"name": name, "alias": alias});
        match self.client.delete("registered-models/alias", &body).await {
            Err(failure) if failure.is(NOT_FOUND) => Ok(()),
            other => self.done(other, &format!("delete {name}@{alias}")),
        }
    }

    pub(super) async fn set_tags(&self, name: &str, version: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        for (key, value) in tags {
            let body = json!({"name": name, "version": version, "key": key, "value": value});
            let set = self.client.post("model-versions/set-tag", &body, Repeat::Harmless).await;
            self.done(set, &format!("set the tag {key} of version {version} of {name}"))?;
        }
        Ok(())
    }

    fn done(&self, result: Result<Value, Failure>, act: &str) -> Result<()> {
        result.map(drop).map_err(|failure| self.client.error(act, failure))
    }
}

async fn read_into(place: &Place<'_>, name: &str, package: &mut Package) -> Result<()> {
    if let Some(content) = place.read(name).await? {
        package.check_room(name, content.len() as u64)?;
        package.insert(name, content)?;
    }
    Ok(())
}

/// A number of milliseconds, which some servers write as text.
fn millis(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn tags_of(answer: &Value) -> BTreeMap<String, String> {
    let tags = answer["tags"].as_array().into_iter().flatten();
    tags.filter_map(|tag| Some((text(tag, "/key")?.to_owned(), tag.get("value")?.as_str()?.to_owned()))).collect()
}

fn aliases_of(answer: &Value) -> BTreeMap<String, String> {
    let aliases = answer["aliases"].as_array().into_iter().flatten();
    aliases.filter_map(|entry| Some((text(entry, "/alias")?.to_owned(), text(entry, "/version")?.to_owned()))).collect()
}
