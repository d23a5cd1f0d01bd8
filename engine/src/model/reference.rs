//! How a model of a registry is named: `models:/fraud@champion` (whatever the alias means now) or `models:/fraud/3` (this
//! version for ever). Refused, with what to write instead: stages, `latest`, and names that a registry could not keep.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a reference begins with.
pub const SCHEME: &str = "models:/";
/// The alias of the version that serves.
pub const CHAMPION: &str = "champion";
/// The alias of the version that is scored beside it.
pub const CHALLENGER: &str = "challenger";

const NAME_CHARS_MAX: usize = 200;
/// Stages of old registries, and the alias `latest`, which MLflow keeps for itself.
const STAGES: [&str; 5] = ["latest", "none", "staging", "production", "archived"];

/// A model in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelReference {
    /// Its name there.
    pub name: String,
    /// Which of its versions.
    pub at: At,
}

/// Which version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// The one that this alias means.
    Alias(String),
    /// This one.
    Version(String),
}

impl ModelReference {
    /// Whether a URI of the pipeline file is a reference, and no path.
    #[must_use]
    pub fn is_reference(uri: &str) -> bool {
        uri.starts_with(SCHEME)
    }

    /// `models:/name@alias`.
    pub fn alias(name: &str, alias: &str) -> Result<ModelReference> {
        check_name(name)?;
        check_alias(alias)?;
        Ok(ModelReference { name: name.to_owned(), at: At::Alias(alias.to_owned()) })
    }

    /// `models:/name/version`.
    pub fn version(name: &str, version: &str) -> Result<ModelReference> {
        check_name(name)?;
        check_version(version)?;
        Ok(ModelReference { name: name.to_owned(), at: At::Version(version.to_owned()) })
    }
}

impl FromStr for ModelReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<ModelReference> {
        const EXPECTED: &str = "expected `models:/name@alias` or `models:/name/version`";
        let wrong = |why: &str| Error::invalid(format!("{EXPECTED}, found `{text}`{why}"));
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong(""))?;
        if rest.starts_with('/') {
            return Err(wrong(": there is one slash after the colon"));
        }
        if let Some((name, alias)) = rest.split_once('@') {
            return ModelReference::alias(name, alias).map_err(|error| error.context(format!("`{text}`")));
        }
        let Some((name, version)) = rest.split_once('/') else {
            return Err(wrong(&format!(": which version? try `{SCHEME}{rest}@{CHAMPION}`")));
        };
        if STAGES.contains(&version.to_lowercase().as_str()) {
            return Err(wrong(&format!(
                ": stages and `latest` are not followed; set an alias, and write `{SCHEME}{name}@{CHAMPION}`"
            )));
        }
        ModelReference::version(name, version).map_err(|error| error.context(format!("`{text}`")))
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Alias(alias) => write!(f, "{SCHEME}{}@{alias}", self.name),
            At::Version(version) => write!(f, "{SCHEME}{}/{version}", self.name),
        }
    }
}

/// Refuses names that are no name of a model in every registry.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) || name.starts_with('.') {
        return Err(Error::invalid(format!(
            "the name of a model: expected at most {NAME_CHARS_MAX} letters, digits, `_`, `-` and `.`, the first not `.`, found `{name}`"
        )));
    }
    Ok(())
}

/// Refuses aliases that MLflow would refuse.
pub fn check_alias(alias: &str) -> Result<()> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
    let wrong = |why: &str| {
        Err(Error::invalid(format!(
            "the alias of a version: expected letters, digits, `_` and `-`, found `{alias}`{why}"
        )))
    };
    if alias.is_empty() || alias.len() > NAME_CHARS_MAX || !alias.chars().all(is_plain) {
        return wrong("");
    }
    let lower = alias.to_lowercase();
    let is_version = lower.strip_prefix('v').is_some_and(|rest| rest.chars().all(|char| char.is_ascii_digit()));
    if lower == "latest" || (is_version && lower.len() > 1) {
        return wrong(": `latest` and `v1`, `v2`, ... are reserved");
    }
    Ok(())
}

/// Refuses what is no number of a version.
pub fn check_version(version: &str) -> Result<()> {
    let is_number = version.parse::<u32>().is_ok_and(|number| number > 0 && number.to_string() == version);
    if is_number {
        return Ok(());
    }
    Err(Error::invalid(format!("the version of a model: expected a whole number from 1 on, found `{version}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_as_it_is_written() {
        for text in ["models:/fraud@champion", "models:/fraud.v2-a_b/17"] {
            assert_eq!(text.parse::<ModelReference>().unwrap().to_string(), text);
        }
        let reference: ModelReference = "models:/fraud/3".parse().unwrap();
        assert_eq!(reference, ModelReference { name: "fraud".into(), at: At::Version("3".into()) });
    }

    #[test]
    fn what_is_no_reference_says_what_to_write() {
        for (text, hint) in [
            ("fraud@champion", "models:/name@alias"),
            ("models://fraud@champion", "one slash"),
            ("models:/fraud", "models:/fraud@champion"),
            ("models:/fraud/Production", "set an alias"),
            ("models:/fraud/latest", "set an alias"),
            ("models:/fraud/0", "from 1 on"),
            ("models:/fraud/03", "from 1 on"),
            ("models:/fraud@latest", "reserved"),
            ("models:/fraud@v3", "reserved"),
            ("models:/fraud@", "letters"),
            ("models:/a b@champion", "letters"),
            ("models:/a/x/3", "from 1 on"),
            ("models:/../3", "not `.`"),
            ("models:/.x@champion", "not `.`"),
        ] {
            let error = text.parse::<ModelReference>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains(hint), "{text}: {error}");
        }
    }
}
