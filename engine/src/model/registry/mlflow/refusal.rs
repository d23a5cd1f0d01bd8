//! What an MLflow server said when it refused: status, its own code, and what a person can do about it.

use reqwest::StatusCode;
use serde_json::Value;

use crate::error::{Error, Result};

/// What is shown of a message; a trace of the server's insides is not.
const MESSAGE_CHARS_MAX: usize = 300;

/// An answer that refuses, or a request that was never sent.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// MLflow's code: `RESOURCE_DOES_NOT_EXIST`.
    pub(super) code: Option<String>,
    message: String,
    not_sent: Option<Error>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: &str) -> Refusal {
        let value: Option<Value> = serde_json::from_str(text).ok();
        let field = |name: &str| Some(value.as_ref()?.get(name)?.as_str()?.to_owned());
        // A page is not for people at a command line.
        let plain = if text.trim_start().starts_with('<') { String::new() } else { text.to_owned() };
        let message = field("message").unwrap_or(plain);
        let message = message.lines().next().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
        Refusal { status, code: field("error_code"), message, not_sent: None }
    }

    /// The server could not be reached: nothing was sent.
    pub(super) fn not_sent(error: Error) -> Refusal {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Refusal { status, code: None, message: String::new(), not_sent: Some(error) }
    }

    pub(super) fn may_pass(&self) -> bool {
        self.status.is_server_error()
            || self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::REQUEST_TIMEOUT
    }

    /// Whether the server certainly did nothing, and may do it later.
    pub(super) fn was_not_done(&self) -> bool {
        self.not_sent.is_some()
            || matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    pub(super) fn into_error(self, server: &str, host: Option<&str>, has_login: bool, act: &str) -> Error {
        let Refusal { status, code, message, not_sent } = self;
        if let Some(error) = not_sent {
            return error.context(format!("cannot {act}"));
        }
        let said = match (&code, message.as_str()) {
            (Some(code), "") => format!("it answered {}, {code}", status.as_u16()),
            (Some(code), text) => format!("it answered {}, {code}: {text}", status.as_u16()),
            (None, "") => format!("it answered {status}"),
            (None, text) => format!("it answered {}: {text}", status.as_u16()),
        };
        let advice = match status {
            StatusCode::FORBIDDEN if message.contains("Host header") => {
                let host = host.unwrap_or("HOST");
                format!(
                    "; it does not know itself by the name {host}: start it with `--allowed-hosts '{host},{host}:*,localhost:*,127.0.0.1:*'`, or set MLFLOW_SERVER_ALLOWED_HOSTS so"
                )
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_login => {
                "; check MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: this login may not do it".to_owned()
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; it wants a login: set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD".to_owned()
            }
            StatusCode::NOT_FOUND if code.is_none() => {
                "; expected an MLflow server of version 3 at this address".to_owned()
            }
            _ => String::new(),
        };
        let kind = if status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        {
            crate::ErrorKind::Unavailable
        } else {
            crate::ErrorKind::Invalid
        };
        Error::new(kind, format!("cannot {act} on the MLflow server {server}: {said}{advice}"))
    }
}

/// A text of an answer.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// A text that an answer must have.
pub(super) fn expect<'a>(value: &'a Value, path: &str, server: &str) -> Result<&'a str> {
    text(value, path).ok_or_else(|| {
        Error::data(format!("{server}: expected {path} in the answer of an MLflow server of version 3, found none"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, text: &str, has_login: bool) -> Error {
        let refusal = Refusal::new(StatusCode::from_u16(status).unwrap(), text);
        refusal.into_error("http://mlflow:5000", Some("mlflow"), has_login, "read versions")
    }

    #[test]
    fn a_host_that_the_server_does_not_know_gets_the_setting() {
        let error = said(403, "Invalid Host header - possible DNS rebinding attack detected", true).to_string();
        assert!(error.contains("--allowed-hosts 'mlflow,mlflow:*"), "{error}");
    }

    #[test]
    fn a_missing_login_names_the_variables() {
        for (status, has_login, hint) in [(401, false, "it wants a login"), (403, true, "this login may not")] {
            let error = said(status, "", has_login);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains(hint) && error.to_string().contains("MLFLOW_TRACKING_TOKEN"), "{error}");
        }
    }

    #[test]
    fn a_page_is_not_shown_and_a_trace_is_cut() {
        let error = said(404, "<!doctype html><p>secret</p>", false).to_string();
        assert!(error.contains("version 3") && !error.contains("secret"), "{error}");
        let error = said(500, r#"{"error_code":"INTERNAL_ERROR","message":"broken\nTraceback: hunter2"}"#, false);
        assert_eq!(error.kind(), crate::ErrorKind::Unavailable);
        assert!(error.to_string().ends_with("INTERNAL_ERROR: broken"), "{error}");
    }
}
