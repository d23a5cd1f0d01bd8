//! S3 and what speaks its protocol. Settings come from a lookup, not from the process's environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::error::{Error, Result};

/// One request; a part of an upload is at most 8 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The client's own retries of reads and of errors 5xx. What may not be retried blindly is retried by us.
const RETRIES_MAX: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// Variables that are looked at here.
const OWN_VARIABLES: [&str; 7] = [
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
];

/// Variables that pass through to the client as they are.
const PASSED_THROUGH: [&str; 9] = [
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
];

/// All that is asked for here, so that it can be kept for later.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    OWN_VARIABLES.into_iter().chain(PASSED_THROUGH)
}

pub(super) fn open(
    uri: &str,
    rest: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(Error::invalid(format!("`{uri}` names no bucket: expected `s3://bucket/prefix`")));
    }
    let path = Path::parse(prefix).map_err(|error| Error::invalid(format!("`{uri}` is not a valid place: {error}")))?;
    let value = |names: &[&str]| names.iter().find_map(|name| env(name).filter(|value| !value.is_empty()));

    let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_retry(retry)
        .with_bucket_name(bucket)
        .with_region(value(&["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| "us-east-1".into()));
    if let Some(endpoint) = value(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"]) {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    match (value(&["AWS_ACCESS_KEY_ID"]), value(&["AWS_SECRET_ACCESS_KEY"])) {
        (Some(key), Some(secret)) => builder = builder.with_access_key_id(key).with_secret_access_key(secret),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::invalid(
                "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY one is set: expected both, or neither (credentials of a role)",
            ));
        }
    }
    for name in PASSED_THROUGH {
        if let Some(value) = value(&[name]) {
            let key: AmazonS3ConfigKey = name
                .to_lowercase()
                .parse()
                .map_err(|_| Error::internal(format!("the client of S3 does not know {name}")))?;
            builder = builder.with_config(key, value);
        }
    }
    let store =
        builder.build().map_err(|error| Error::invalid(format!("`{uri}` cannot be opened")).with_source(error))?;
    Ok((Arc::new(store), path))
}
