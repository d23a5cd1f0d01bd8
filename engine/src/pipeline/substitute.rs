//! `${VAR}` and `${VAR:-default}` inside one scalar, after parsing. `$${` stands for `${`. Nothing nests, and nothing else of
//! a shell is understood: what looks like it is refused.

use super::secret::is_secret_key;

/// A scalar with its variables put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// Whether something came from a variable or its default.
    pub(super) is_substituted: bool,
    /// Whether a variable whose name says so is secret.
    pub(super) is_secret: bool,
    /// Whether text of the file is left: more than one `${VAR}` without default.
    pub(super) has_own_text: bool,
}

/// A `${` that cannot be put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadVariable {
    /// As written, from `${` on.
    pub(super) written: String,
    pub(super) message: String,
    pub(super) help: &'static str,
}

const FORMS: &str = "write ${VAR} or ${VAR:-default}, and $${ for the characters ${ themselves";

/// Puts in the variables of one scalar; all that are wrong are reported.
pub(super) fn substitute(raw: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Substituted, Vec<BadVariable>> {
    let mut out = Substituted {
        text: String::with_capacity(raw.len()),
        is_substituted: false,
        is_secret: false,
        has_own_text: false,
    };
    let mut bad = Vec::new();
    let mut rest = raw;
    while let Some(start) = rest.find("${") {
        let before = &rest[..start];
        if let Some(before) = before.strip_suffix('$') {
            out.text.push_str(before);
            out.text.push_str("${");
            out.has_own_text = true;
            rest = &rest[start + 2..];
            continue;
        }
        out.text.push_str(before);
        out.has_own_text |= !before.is_empty();
        let Some(end) = rest[start..].find('}') else {
            bad.push(BadVariable {
                written: rest[start..].to_string(),
                message: "`${` without its `}`".to_string(),
                help: FORMS,
            });
            return Err(bad);
        };
        let inner = &rest[start + 2..start + end];
        match resolve(inner, env) {
            Ok(Value { text, is_default, is_secret }) => {
                out.text.push_str(&text);
                out.is_substituted = true;
                out.is_secret |= is_secret;
                out.has_own_text |= is_default;
            }
            Err((message, help)) => {
                bad.push(BadVariable { written: rest[start..=start + end].to_string(), message, help });
            }
        }
        rest = &rest[start + end + 1..];
    }
    out.has_own_text |= !rest.is_empty();
    out.text.push_str(rest);
    if bad.is_empty() { Ok(out) } else { Err(bad) }
}

struct Value {
    text: String,
    is_default: bool,
    is_secret: bool,
}

fn resolve(inner: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, (String, &'static str)> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(("expected the name of a variable inside `${...}`: letters, digits and `_`".to_string(), FORMS));
    }
    let is_secret = is_secret_key(name);
    // As in a shell, `:-` also stands in for a variable that is set to nothing.
    match (env(name).filter(|value| default.is_none() || !value.is_empty()), default) {
        (Some(text), _) => Ok(Value { text, is_default: false, is_secret }),
        (None, Some(default)) => Ok(Value { text: default.to_string(), is_default: true, is_secret }),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set, and no default stands here"),
            "set it, or write a default: ${VAR:-default}",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_string()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${SET}".to_string()),
            _ => None,
        }
    }

    fn text(raw: &str) -> String {
        substitute(raw, &env).unwrap().text
    }

    #[test]
    fn variables_defaults_and_escapes_are_put_in() {
        assert_eq!(text("a-${SET}-b"), "a-value-b");
        assert_eq!(text("${UNSET:-x y:-z}"), "x y:-z");
        assert_eq!(text("${SET:-x}${EMPTY:-y}${EMPTY}"), "valuey");
        assert_eq!(text("$${SET} costs $5 $"), "${SET} costs $5 $");
        assert_eq!(text("${UNSET:-}"), "");
    }

    #[test]
    fn a_value_is_not_substituted_again() {
        assert_eq!(text("${NESTED}"), "${SET}");
    }

    #[test]
    fn every_bad_variable_of_a_scalar_is_reported() {
        let bad = substitute("${UNSET} ${1A} ${} ${A?b} ${", &env).unwrap_err();
        assert_eq!(bad.len(), 5);
        assert!(bad[0].message.contains("`UNSET` is not set"));
    }

    #[test]
    fn text_of_the_file_is_told_from_text_of_the_environment() {
        assert!(!substitute("${SET}", &env).unwrap().has_own_text);
        assert!(substitute("${UNSET:-word}", &env).unwrap().has_own_text);
        assert!(substitute("x${SET}", &env).unwrap().has_own_text);
        assert!(substitute("word", &env).unwrap().has_own_text);
    }
}
