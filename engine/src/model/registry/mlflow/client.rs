//! Requests to an MLflow server: login, authority, time-outs, retries, and errors that say what to do. No token, password
//! or body of a request is ever in an error or a log line.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::refusal::Refusal;
use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A file may take this much longer for each of its MiB.
const TIMEOUT_PER_MIB: Duration = Duration::from_secs(1);
const RETRIES: u32 = 4;
const RETRIES_MAX: u32 = 20;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
const API: &str = "api/2.0/mlflow";

/// Whether a request may be sent again when nobody knows whether the first one was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A second time changes nothing.
    Harmless,
    /// A second time would make a second one.
    Doubles,
}

/// What a request says, beside where it goes.
#[derive(Debug)]
enum Body<'a> {
    None,
    Json(&'a Value),
    File(&'a Bytes),
}

/// Why there is no answer to use.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Refused(Refusal),
    /// Nothing came, or nothing that can be understood. The act may have been done, or not.
    Unknown(Error),
    /// It cannot work as it is set up.
    Fatal(Error),
}

/// One server.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    login: Option<HeaderValue>,
    timeout: Duration,
    retries: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn open(uri: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Client> {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty());
        let base = base(uri)?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        const CERTIFICATE: &str = "MLFLOW_TRACKING_SERVER_CERT_PATH";
        const INSECURE: &str = "MLFLOW_TRACKING_INSECURE_TLS";
        if let Some(path) = variable(CERTIFICATE) {
            let wrong = |why: &str| {
                Error::invalid(format!("{CERTIFICATE}: expected a file with certificates (PEM), found {path}: {why}"))
            };
            let pem = std::fs::read(&path).map_err(|error| wrong(&error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| wrong("it holds none"))?;
            if certificates.is_empty() {
                return Err(wrong("it holds none"));
            }
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        match variable(INSECURE).map(|text| text.to_lowercase()).as_deref() {
            None | Some("false" | "0") => {}
            Some("true" | "1") if variable(CERTIFICATE).is_some() => {
                return Err(Error::invalid(format!("{INSECURE} and {CERTIFICATE} are both set: expected one of them")));
            }
            Some("true" | "1") => {
                tracing::warn!(server = base.as_str(), "{INSECURE} is set: the server's certificate is not checked");
                builder = builder.danger_accept_invalid_certs(true);
            }
            Some(other) => return Err(Error::invalid(format!("{INSECURE}: expected true or false, found `{other}`"))),
        }
        let http =
            builder.build().map_err(|error| Error::internal("the HTTP client cannot start").with_source(error))?;
        let number = |name: &str, default: u64| match variable(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| Error::invalid(format!("{name}: expected a whole number, found `{text}`")))
            }
        };
        let seconds = number("MLFLOW_HTTP_REQUEST_TIMEOUT", REQUEST_TIMEOUT.as_secs())?.max(1);
        let retries = number("MLFLOW_HTTP_REQUEST_MAX_RETRIES", u64::from(RETRIES))?;
        Ok(Client {
            http,
            base,
            login: login(&variable)?,
            timeout: Duration::from_secs(seconds),
            retries: u32::try_from(retries).unwrap_or(RETRIES_MAX).min(RETRIES_MAX),
        })
    }

    /// The server's address, without a slash at its end.
    pub(super) fn uri(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// An address below the server's.
    fn url<'a>(&self, parts: impl Iterator<Item = &'a str>, query: &[(&str, &str)]) -> Result<Url> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("the address of the MLflow server has no path"))?
            .pop_if_empty()
            .extend(parts);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.json(Method::GET, path, query, Body::None, Repeat::Harmless).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value, repeat: Repeat) -> Result<Value, Failure> {
        self.json(Method::POST, path, &[], Body::Json(body), repeat).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::PATCH, path, &[], Body::Json(body), Repeat::Harmless).await
    }

    pub(super) async fn delete(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, &[], Body::Json(body), Repeat::Harmless).await
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Body<'_>,
        repeat: Repeat,
    ) -> Result<Value, Failure> {
        let url = self.url(API.split('/').chain(path.split('/')), query).map_err(Failure::Fatal)?;
        let bytes = self.send(method, &url, &body, repeat).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Failure::Fatal(Error::invalid(format!(
                "{}: expected JSON from an MLflow server, found something else at {}; is this its address, and not that of a login page?",
                self.uri(),
                url.path()
            )))
        })
    }

    /// The version that the server says it has; `None` when it says nothing that looks like one.
    pub(super) async fn version(&self) -> Result<Option<String>, Failure> {
        let url = self.url(std::iter::once("version"), &[]).map_err(Failure::Fatal)?;
        match self.send(Method::GET, &url, &Body::None, Repeat::Harmless).await {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes)
                .ok()
                .map(str::trim)
                .filter(|text| text.len() < 32 && text.starts_with(|first: char| first.is_ascii_digit()))
                .map(str::to_owned)),
            Err(Failure::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn artifact(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, Failure> {
        let parts = ["api", "2.0", "mlflow-artifacts", "artifacts"].into_iter();
        self.url(parts.chain(path.split('/').filter(|part| !part.is_empty())), query).map_err(Failure::Fatal)
    }

    /// Writes a file through the server.
    pub(super) async fn put_artifact(&self, path: &str, content: &Bytes) -> Result<(), Failure> {
        let url = self.artifact(path, &[])?;
        self.send(Method::PUT, &url, &Body::File(content), Repeat::Harmless).await.map(drop)
    }

    /// Reads a file through the server; `None` when it is not there. One larger than `bytes_max` is not read.
    pub(super) async fn get_artifact(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, Failure> {
        let url = self.artifact(path, &[])?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = self.get_file(&url, bytes_max).await;
            match result {
                Err(Failure::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
                Err(failure) if attempt <= self.retries && failure.may_pass() => {
                    tokio::time::sleep(wait(attempt)).await;
                }
                other => return other.map(Some),
            }
        }
    }

    async fn get_file(&self, url: &Url, bytes_max: u64) -> Result<Bytes, Failure> {
        let mut response = self.once(Method::GET, url, &Body::None).await?;
        let mut content = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unknown(error))? {
            if content.len() as u64 + piece.len() as u64 > bytes_max {
                return Err(Failure::Fatal(Error::invalid(format!(
                    "{}: the file {} has more than the {bytes_max} bytes that a model may have",
                    self.uri(),
                    url.path()
                ))));
            }
            content.extend_from_slice(&piece);
        }
        Ok(Bytes::from(content))
    }

    /// The files directly in a folder: (name, whether it is a folder).
    pub(super) async fn list_artifacts(&self, path: &str) -> Result<Vec<(String, bool)>, Failure> {
        let url = self.artifact("", &[("path", path)])?;
        let bytes = self.send(Method::GET, &url, &Body::None, Repeat::Harmless).await?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| {
            Failure::Fatal(Error::data(format!("{}: the list of files in {path} is not JSON", self.uri())))
        })?;
        let files = value.get("files").and_then(Value::as_array).cloned().unwrap_or_default();
        let entry = |file: &Value| {
            let is_folder = file.get("is_dir").and_then(Value::as_bool).unwrap_or(false);
            Some((file.get("path")?.as_str()?.to_owned(), is_folder))
        };
        Ok(files.iter().filter_map(entry).collect())
    }

    async fn send(&self, method: Method, url: &Url, body: &Body<'_>, repeat: Repeat) -> Result<Bytes, Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = match self.once(method.clone(), url, body).await {
                Ok(response) => response.bytes().await.map_err(|error| self.unknown(error)),
                Err(failure) => Err(failure),
            };
            let may_repeat = |failure: &Failure| match repeat {
                Repeat::Harmless => failure.may_pass(),
                Repeat::Doubles => failure.was_not_done(),
            };
            match result {
                Err(failure) if attempt <= self.retries && may_repeat(&failure) => {
                    tracing::debug!(server = self.uri(), path = url.path(), attempt, "a request is sent again");
                    tokio::time::sleep(wait(attempt)).await;
                }
                other => return other,
            }
        }
    }

    async fn once(&self, method: Method, url: &Url, body: &Body<'_>) -> Result<reqwest::Response, Failure> {
        let mut request = self.http.request(method, url.clone());
        let mut timeout = self.timeout;
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        match body {
            Body::None => {}
            Body::Json(value) => {
                request = request.header(CONTENT_TYPE, "application/json").body(value.to_string());
            }
            Body::File(content) => {
                timeout += TIMEOUT_PER_MIB * u32::try_from(content.len() >> 20).unwrap_or(u32::MAX);
                request = request.header(CONTENT_TYPE, "application/octet-stream").body((*content).clone());
            }
        }
        let response = request.timeout(timeout).send().await.map_err(|error| self.unknown(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        // A body that breaks off says no more than the status.
        let text = response.text().await.unwrap_or_default();
        Err(Failure::Refused(Refusal::new(status, &text)))
    }

    /// What a failure of the connection means. reqwest's own text may quote the address, and hides the cause.
    fn unknown(&self, error: reqwest::Error) -> Failure {
        let cause = {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(below) = cause.source() {
                cause = below;
            }
            if std::ptr::addr_eq(cause, &raw const error) { String::new() } else { format!(": {cause}") }
        };
        let server = self.uri();
        if cause.contains("certificate") {
            return Failure::Fatal(Error::invalid(format!(
                "{server}: the MLflow server's certificate is not accepted{cause}; if an authority of your own signed it, name its file (PEM) in MLFLOW_TRACKING_SERVER_CERT_PATH"
            )));
        }
        let message = if error.is_timeout() && !error.is_connect() {
            format!(
                "{server}: the MLflow server did not answer within {} s; see its log, or raise MLFLOW_HTTP_REQUEST_TIMEOUT",
                self.timeout.as_secs()
            )
        } else if error.is_connect() {
            format!(
                "{server}: the MLflow server cannot be reached{cause}; check the address of the registry, and that the server runs"
            )
        } else {
            format!("{server}: the connection to the MLflow server broke{cause}")
        };
        let error_is_before = error.is_connect();
        let error = Error::unavailable(message);
        if error_is_before { Failure::Refused(Refusal::not_sent(error)) } else { Failure::Unknown(error) }
    }

    /// What a person is told of a failure.
    pub(super) fn error(&self, act: &str, failure: Failure) -> Error {
        match failure {
            Failure::Refused(refusal) => {
                refusal.into_error(self.uri(), self.base.host_str(), self.login.is_some(), act)
            }
            Failure::Unknown(error) | Failure::Fatal(error) => error.context(format!("cannot {act}")),
        }
    }
}

impl Failure {
    /// Whether the same request may be answered later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Failure::Refused(refusal) => refusal.may_pass(),
            Failure::Unknown(_) => true,
            Failure::Fatal(_) => false,
        }
    }

    /// Whether the server certainly did nothing, and may do it later.
    fn was_not_done(&self) -> bool {
        match self {
            Failure::Refused(refusal) => refusal.was_not_done(),
            Failure::Unknown(_) | Failure::Fatal(_) => false,
        }
    }

    /// Whether the server answered with this code of MLflow's.
    pub(super) fn is(&self, code: &str) -> bool {
        matches!(self, Failure::Refused(refusal) if refusal.code.as_deref() == Some(code))
    }
}

fn wait(attempt: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(WAIT_MAX)
}

fn base(uri: &str) -> Result<Url> {
    const EXPECTED: &str = "the registry: expected the address of an MLflow server, `http://host:port`";
    let url = Url::parse(uri).map_err(|_| Error::invalid(format!("{EXPECTED}, found one that is no address")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid(format!(
            "{EXPECTED}, found one with a login in it; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )));
    }
    if url.host_str().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(Error::invalid(format!("{EXPECTED}, found one without a host, or with `?` or `#`")));
    }
    Ok(url)
}

/// The header with the login, if there is one.
fn login(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<HeaderValue>> {
    const TOKEN: &str = "MLFLOW_TRACKING_TOKEN";
    const USER: &str = "MLFLOW_TRACKING_USERNAME";
    const PASSWORD: &str = "MLFLOW_TRACKING_PASSWORD";
    let text = match (variable(USER), variable(PASSWORD), variable(TOKEN)) {
        // As MLflow's own client: a user comes before a token.
        (Some(user), Some(password), _) => format!("Basic {}", base64(format!("{user}:{password}").as_bytes())),
        (None, None, Some(token)) => format!("Bearer {token}"),
        (None, None, None) => return Ok(None),
        (Some(_), None, _) | (None, Some(_), _) => {
            return Err(Error::invalid(format!("of {USER} and {PASSWORD} one is set: expected both, or {TOKEN}")));
        }
    };
    let mut header = HeaderValue::from_str(&text)
        .map_err(|_| Error::invalid(format!("{TOKEN}: expected one line of visible characters")))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word =
            group.iter().enumerate().fold(0_u32, |word, (index, byte)| word | (u32::from(*byte) << (16 - 8 * index)));
        for digit in 0..4 {
            let is_there = digit <= group.len();
            text.push(if is_there { char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(uri: &str, variables: &[(&str, &str)]) -> Result<Client> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Client::open(uri, &find)
    }

    #[test]
    fn logins_become_headers() {
        assert_eq!(base64(b"Aladdin:open sesame"), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(base64(b"user:pass"), "dXNlcjpwYXNz");
        assert_eq!(base64(b""), "");
        let header = |variables: &[(&str, &str)]| opened("http://m", variables).unwrap().login;
        assert_eq!(header(&[]), None);
        assert_eq!(header(&[("MLFLOW_TRACKING_TOKEN", "abc")]).unwrap(), "Bearer abc");
        let both =
            [("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "p"), ("MLFLOW_TRACKING_TOKEN", "t")];
        assert_eq!(header(&both).unwrap(), format!("Basic {}", base64(b"u:p")).as_str());
    }

    #[test]
    fn a_wrong_setting_is_refused_and_no_secret_is_shown() {
        for (uri, variables, hint) in [
            ("http://user:hunter2@m", vec![], "MLFLOW_TRACKING_USERNAME"),
            ("http://m?token=hunter2", vec![], "`?`"),
            ("http://m", vec![("MLFLOW_TRACKING_PASSWORD", "hunter2")], "one is set"),
            ("http://m", vec![("MLFLOW_TRACKING_TOKEN", "hunter2\n")], "one line"),
            ("https://m", vec![("MLFLOW_TRACKING_SERVER_CERT_PATH", "/no/such")], "/no/such"),
            ("https://m", vec![("MLFLOW_TRACKING_INSECURE_TLS", "yes")], "true or false"),
            ("https://m", vec![("MLFLOW_HTTP_REQUEST_TIMEOUT", "long")], "whole number"),
        ] {
            let error = opened(uri, &variables).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(hint) && !text.contains("hunter2"), "{text}");
        }
        let client = opened("http://m/prefix/", &[("MLFLOW_TRACKING_TOKEN", "hunter2")]).unwrap();
        assert!(!format!("{client:?}").contains("hunter2"));
        assert_eq!(client.uri(), "http://m/prefix");
        assert_eq!(
            client.url(["a b", "c"].into_iter(), &[("x", "'")]).unwrap().as_str(),
            "http://m/prefix/a%20b/c?x=%27"
        );
    }
}
