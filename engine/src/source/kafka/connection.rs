//! From settings to librdkafka's configuration: the engine's defaults, the user's options, what the engine owns, and
//! librdkafka's own log. No client is made here, and no secret is ever put into a message.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;
use crate::pipeline::options::canonical;
use crate::pipeline::settings::KafkaConnection;

/// The clock of a client's waiting times. No row ever meets it.
#[expect(clippy::disallowed_methods, reason = "deadlines of the client's own thread and of waiting for brokers")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// The part of the configuration that sources, sinks and admin clients share. The user's options come first, so that what
/// the engine sets afterwards holds.
pub(crate) fn client_config(connection: &KafkaConnection, defaults: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Who asks librdkafka for its debug lines (`debug: fetch,cgrp`) gets them, at our own level of that name.
    let is_debugged = connection.options.contains_key("debug");
    config.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
    config.set("client.id", "tidemill");
    set_all(&mut config, defaults.iter().copied());
    set_all(&mut config, connection.options.iter().map(|(option, value)| (option.as_str(), value.as_str())));
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let named = [
        ("security.protocol", connection.security_protocol.clone()),
        ("sasl.mechanism", connection.sasl_mechanism.clone()),
        ("sasl.username", connection.sasl_username.clone()),
        ("sasl.password", connection.sasl_password.clone()),
        ("ssl.ca.location", path(&connection.ssl_ca_location)),
        ("ssl.certificate.location", path(&connection.ssl_certificate_location)),
        ("ssl.key.location", path(&connection.ssl_key_location)),
    ];
    set_all(&mut config, [("bootstrap.servers", &*connection.bootstrap_servers)]);
    set_all(&mut config, named.iter().filter_map(|(option, value)| Some((*option, value.as_deref()?))));
    config
}

/// Sets options, over what was set before under any of their names.
pub(crate) fn set_all<'a>(config: &mut ClientConfig, options: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (option, value) in options {
        config.set(canonical(option), value);
    }
}

/// A configuration that librdkafka does not take.
pub(crate) fn config_error(error: KafkaError) -> Error {
    match error {
        // The description may quote the value, so it is left out wherever a value may be a secret.
        KafkaError::ClientConfig(_, description, option, _) => {
            let is_secret =
                ["password", "secret", "key", "pem", "jaas", "token", "sasl"].iter().any(|word| option.contains(word));
            let why = if is_secret { "librdkafka refuses its value" } else { description.trim_end_matches('.') };
            Error::invalid(format!(
                "kafka option `{option}`: {why}; see librdkafka's CONFIGURATION.md for names and values"
            ))
        }
        KafkaError::ClientCreation(description) => {
            Error::invalid(format!("the kafka settings do not fit together: {}", description.trim_end_matches('.')))
        }
        error => Error::internal("a kafka client could not be made").with_source(error),
    }
}

/// What an error of the client as a whole means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// librdkafka goes on by itself; a person may want to know.
    GoesOn,
    /// Trying again is no use until the settings or the cluster's permissions change.
    Invalid,
    /// Somebody else has taken our place.
    Fenced,
    /// The client cannot be used any more; a new one may succeed.
    Broken,
}

/// See [`Verdict`].
pub(crate) fn verdict(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SecurityDisabled
        | Code::InconsistentGroupProtocol
        | Code::InvalidTopic
        | Code::InvalidSessionTimeout => Verdict::Invalid,
        Code::FencedInstanceId | Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Verdict::Fenced,
        Code::Fatal => Verdict::Broken,
        _ => Verdict::GoesOn,
    }
}

/// The error of a [`Verdict`] that ends the run; `None` when the client goes on.
pub(crate) fn client_error(code: RDKafkaErrorCode, what: &str, reason: &str) -> Option<Error> {
    let reason = reason.trim().trim_end_matches('.');
    Some(match verdict(code) {
        Verdict::GoesOn => return None,
        Verdict::Invalid => Error::invalid(format!(
            "{what}: the kafka cluster refuses us ({code}: {reason}); check `security_protocol`, the `sasl_*` and `ssl_*` \
             settings, and the rights of this user"
        )),
        Verdict::Fenced => Error::fenced(format!("{what}: another client has taken our place ({code}: {reason})")),
        Verdict::Broken => {
            Error::unavailable(format!("{what}: the kafka client has failed for good ({reason}); start again"))
        }
    })
}

/// A line of librdkafka's log, in ours. Its lines speak of brokers, topics and groups, never of records.
pub(crate) fn log_line(level: i32, facility: &str, line: &str) {
    let line = line.trim();
    match level {
        ..=4 => tracing::warn!(target: "tidemill::kafka", facility, "{line}"),
        5 | 6 => tracing::info!(target: "tidemill::kafka", facility, "{line}"),
        _ => tracing::debug!(target: "tidemill::kafka", facility, "{line}"),
    }
}

/// What holds the list of owned options against what is set.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::pipeline::options::refusal;

    /// With all that a connection can say.
    pub(crate) fn complete_connection() -> KafkaConnection {
        let text = || Some("ours".to_owned());
        KafkaConnection {
            bootstrap_servers: "ours:9092".to_owned(),
            security_protocol: text(),
            sasl_mechanism: text(),
            sasl_username: text(),
            sasl_password: text(),
            ssl_ca_location: Some("ours".into()),
            ssl_certificate_location: Some("ours".into()),
            ssl_key_location: Some("ours".into()),
            options: Default::default(),
        }
    }

    /// Each option that `configure` sets is either left to the user's value, or refused by the validator by its name.
    pub(crate) fn assert_owned_options_are_refused(configure: impl Fn(&KafkaConnection) -> ClientConfig) {
        let set = configure(&complete_connection());
        assert!(set.config_map().len() > 10);
        for option in set.config_map().keys() {
            let options = [(option.to_string(), "theirs".to_owned())].into();
            let config = configure(&KafkaConnection { options, ..complete_connection() });
            let is_owned = config.get(option) != Some("theirs");
            assert_eq!(refusal(option).is_some(), is_owned, "{option}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::complete_connection;
    use super::*;

    #[test]
    fn of_the_names_of_one_option_one_is_set_and_the_users_value_holds_over_a_default() {
        for name in ["linger.ms", "queue.buffering.max.ms"] {
            let options = [(name.to_owned(), "7".to_owned())].into();
            let connection = KafkaConnection { options, ..complete_connection() };
            let config = client_config(&connection, &[("queue.buffering.max.ms", "0")]);
            assert_eq!((config.get("linger.ms"), config.get("queue.buffering.max.ms")), (Some("7"), None));
        }
    }

    #[test]
    fn an_unknown_option_is_named_and_a_secret_is_not() {
        let mut config = ClientConfig::new();
        config.set("no.such.option", "x");
        let error = config_error(config.create_native_config().err().unwrap());
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
        assert!(error.message().contains("`no.such.option`"), "{error}");
        let error = config_error(KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"hunter2\"".to_owned(),
            "ssl.key.password".to_owned(),
            "hunter2".to_owned(),
        ));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_broker_that_is_down_is_waited_for_and_a_refusal_is_not() {
        assert_eq!(verdict(RDKafkaErrorCode::AllBrokersDown), Verdict::GoesOn);
        assert_eq!(verdict(RDKafkaErrorCode::BrokerTransportFailure), Verdict::GoesOn);
        assert_eq!(verdict(RDKafkaErrorCode::Authentication), Verdict::Invalid);
        assert_eq!(verdict(RDKafkaErrorCode::FencedInstanceId), Verdict::Fenced);
        assert_eq!(verdict(RDKafkaErrorCode::Fatal), Verdict::Broken);
    }
}
