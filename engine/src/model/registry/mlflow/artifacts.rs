//! Where an MLflow server keeps files: behind itself (`mlflow-artifacts:`), or in a bucket that its clients write to
//! directly (`s3://`). A folder of the server's own machine is refused: nobody else can reach it.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use url::Url;

use super::client::Client;
use crate::checkpoint::Folder;
use crate::checkpoint::store::{Environment, open_store};
use crate::error::{Error, Result};
use crate::model::MODEL_BYTES_MAX;
use crate::model::package::check_path;

const REQUESTS_AT_ONCE: usize = 4;
/// A model directory has pictures in folders, and no tree.
const DEPTH_MAX: usize = 6;

/// A folder of files.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// Behind the server; the path below its root of artefacts.
    Proxied(&'a Client, String),
    /// In a bucket.
    Direct(Folder),
}

impl<'a> Place<'a> {
    pub(super) fn open(client: &'a Client, env: &Environment, uri: &str) -> Result<Place<'a>> {
        let refused = |why: &str| {
            Err(Error::invalid(format!(
                "{}: its files are at {uri}, {why}; start the server with `--artifacts-destination s3://bucket/folder`, or with `--no-serve-artifacts --default-artifact-root s3://bucket/folder`",
                client.uri()
            )))
        };
        if let Some(path) = uri.strip_prefix("mlflow-artifacts:") {
            let Some(rest) = path.strip_prefix("//") else {
                return Ok(Place::Proxied(client, path.trim_matches('/').to_owned()));
            };
            // With an authority: it must be this server, or the login would go to another.
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            if !authority.is_empty() && !is_same(authority, client.base()) {
                return refused("behind another server");
            }
            return Ok(Place::Proxied(client, path.trim_matches('/').to_owned()));
        }
        if uri.starts_with("s3://") || uri.starts_with("s3a://") {
            let (store, path) = open_store(uri, env.as_ref())?;
            return Ok(Place::Direct(Folder::new(store, path, uri.trim_end_matches('/').to_owned())));
        }
        if uri.starts_with('/') || uri.starts_with("file:") || uri.starts_with('.') {
            return refused("a folder of its own machine");
        }
        refused("a kind of store that is not supported")
    }

    /// Writes files; when this returns they are there.
    pub(super) async fn write(&self, files: impl Iterator<Item = (&String, &Bytes)>) -> Result<()> {
        let writes = files.map(|(name, content)| self.write_file(name, content));
        futures::stream::iter(writes).buffer_unordered(REQUESTS_AT_ONCE).try_collect().await
    }

    async fn write_file(&self, name: &str, content: &Bytes) -> Result<()> {
        check_path(name)?;
        match self {
            Place::Proxied(client, path) => client
                .put_artifact(&format!("{path}/{name}"), content)
                .await
                .map_err(|failure| client.error(&format!("write the file {name}"), failure)),
            Place::Direct(folder) => folder.write(name, content.clone()).await,
        }
    }

    /// A file; `None` when it is not there.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        check_path(name)?;
        match self {
            Place::Proxied(client, path) => client
                .get_artifact(&format!("{path}/{name}"), MODEL_BYTES_MAX)
                .await
                .map_err(|failure| client.error(&format!("read the file {name}"), failure)),
            Place::Direct(folder) => folder.read(name, MODEL_BYTES_MAX).await,
        }
    }

    /// The names of all files.
    pub(super) async fn list(&self) -> Result<Vec<String>> {
        match self {
            Place::Proxied(client, path) => {
                let mut names = Vec::new();
                list_below(client, path, String::new(), 0, &mut names).await?;
                Ok(names)
            }
            Place::Direct(folder) => Ok(folder.list("").await?.into_iter().map(|object| object.name).collect()),
        }
    }
}

fn list_below<'a>(
    client: &'a Client,
    root: &'a str,
    below: String,
    depth: usize,
    names: &'a mut Vec<String>,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let path = format!("{root}/{below}");
        let found = client
            .list_artifacts(path.trim_end_matches('/'))
            .await
            .map_err(|failure| client.error("list the files of a model", failure))?;
        for (name, is_folder) in found {
            let name = format!("{below}{name}");
            if !is_folder {
                names.push(name);
            } else if depth < DEPTH_MAX {
                list_below(client, root, format!("{name}/"), depth + 1, names).await?;
            }
        }
        Ok(())
    })
}

fn is_same(authority: &str, base: &Url) -> bool {
    let Ok(other) = Url::parse(&format!("{}://{authority}", base.scheme())) else { return false };
    other.host_str() == base.host_str() && other.port_or_known_default() == base.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_behind_the_server_or_in_a_bucket() {
        let client = Client::open("http://mlflow:5000", &|_| None).unwrap();
        let env: Environment = std::sync::Arc::new(|_: &str| None);
        for uri in
            ["mlflow-artifacts:/1/models/m-1/artifacts", "mlflow-artifacts://mlflow:5000/1/models/m-1/artifacts/"]
        {
            match Place::open(&client, &env, uri).unwrap() {
                Place::Proxied(_, path) => assert_eq!(path, "1/models/m-1/artifacts"),
                Place::Direct(_) => panic!("{uri} goes through the server"),
            }
        }
        assert!(matches!(Place::open(&client, &env, "s3://bucket/x").unwrap(), Place::Direct(_)));
        for uri in ["/mlruns/1", "file:///mlruns", "./mlruns", "gs://b/x", "mlflow-artifacts://evil/1"] {
            let error = Place::open(&client, &env, uri).unwrap_err();
            assert!(error.to_string().contains("--artifacts-destination"), "{error}");
        }
    }
}
