//! What a store answered when it refused a request: status and code. The body of an answer is never shown, since it may
//! quote what was sent, a session token for one. The client's types for answers are private, so its text is read.

use std::fmt;

/// Words of the client before an answer: (words, whether a status follows them).
const BEFORE_AN_ANSWER: [(&str, bool); 3] = [
    ("Server returned non-2xx status code: ", true),
    ("Server returned error response: ", false),
    ("DeleteObjects request failed for key ", false),
];
/// Codes that say that the credentials are wrong, or not good any more.
const OF_CREDENTIALS: [&str; 13] = [
    "AccessDenied",
    "AccessDeniedException",
    "AccountProblem",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];
const STATUS_CHARS_MAX: usize = 48;
const CODE_CHARS_MAX: usize = 64;

/// An answer that refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: Option<String>,
    code: Option<String>,
}

impl Answer {
    /// The answer in the text of an error; `None` when the store did not answer at all.
    pub(super) fn of(error: &object_store::Error) -> Option<Answer> {
        let text = error.to_string();
        let (at, (words, has_status)) =
            BEFORE_AN_ANSWER.iter().find_map(|words| Some((text.find(words.0)?, *words)))?;
        let answer = &text[at + words.len()..];
        let status = answer.split(':').next().filter(|status| has_status && is_status(status));
        let code = between(answer, "<Code>", "</Code>").or_else(|| between(answer, "(code: ", ")"));
        Some(Answer { status: status.map(str::to_owned), code: code.map(str::to_owned) })
    }

    /// Whether other credentials are needed.
    pub(super) fn refuses_credentials(&self) -> bool {
        self.code.as_deref().is_some_and(|code| OF_CREDENTIALS.contains(&code))
    }

    /// Whether there is no such bucket.
    pub(super) fn misses_bucket(&self) -> bool {
        self.code.as_deref() == Some("NoSuchBucket")
    }
}

/// `400 Bad Request`, and nothing that an answer made up.
fn is_status(text: &str) -> bool {
    text.len() <= STATUS_CHARS_MAX
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || " -'".contains(char))
}

/// A code: one word.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    let code = &rest[..rest.find(after)?];
    (code.len() <= CODE_CHARS_MAX && code.chars().all(|char| char.is_ascii_alphanumeric())).then_some(code)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.as_deref().unwrap_or("an error");
        match &self.code {
            Some(code) => write!(f, "it answered {status}, {code}"),
            None => write!(f, "it answered {status}"),
        }
    }
}
