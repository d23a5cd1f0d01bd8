//! Which keys hold secrets, and which texts carry one. Errs on the side of hiding: a misspelt `sasl_pasword` is a secret too.

/// Whether a value under `key` (of the pipeline file, of librdkafka, or the name of a variable) is never shown.
pub(super) fn is_secret_key(key: &str) -> bool {
    const PARTS: [&str; 8] = ["pass", "pasw", "pwd", "secret", "token", "credential", "jaas", "oauthbearer"];
    let key = key.to_lowercase().replace(['.', '-'], "_");
    PARTS.iter().any(|part| key.contains(part))
        || key.ends_with("_pem")
        || strsim::damerau_levenshtein(&key, "sasl_password") <= 3
}

/// Whether a text is a URI with a user and a password in it.
pub(super) fn has_credentials(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.contains('@')
    })
}

/// Whether a line that could not be parsed may hold a secret.
pub(super) fn may_hold_secret(line: &str) -> bool {
    has_credentials(line) || line.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).any(is_secret_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_secrets_are_known_also_when_misspelt() {
        for key in [
            "sasl_password",
            "sasl_pasword",
            "SASL.PASSWORD",
            "ssl.key.pem",
            "sasl_passwrod",
            "KAFKA_PASSWORD",
            "sasl.jaas.config",
        ] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in ["topic", "sasl_username", "sasl_mechanism", "security_protocol", "key", "ssl_key_location"] {
            assert!(!is_secret_key(key), "{key}");
        }
    }

    #[test]
    fn credentials_in_a_uri_are_seen() {
        assert!(has_credentials("s3://user:word@bucket/path"));
        assert!(!has_credentials("s3://bucket/path@2"));
        assert!(!has_credentials("models/a@b"));
    }
}
