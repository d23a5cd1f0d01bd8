//! From settings to librdkafka's configuration: the options that the engine owns, those that the user may pass through, and
//! librdkafka's own log. No client is made here, and no secret is ever put into a message.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;
use crate::pipeline::settings::KafkaConnection;

/// Options of librdkafka that a pipeline file cannot pass through, and where each is decided instead.
pub const OWNED_OPTIONS: &[(&str, &str)] = &[
    ("acks", "the engine waits for all replicas"),
    ("allow.auto.create.topics", "topics are never made by accident"),
    ("auto.commit.enable", "positions are in the checkpoint"),
    ("auto.offset.reset", "use `start` and `on_data_loss`"),
    ("bootstrap.servers", "use `bootstrap_servers`"),
    ("client.rack", "read from the leader: positions are checked against it"),
    ("delivery.timeout.ms", "a record is sent until it is acknowledged"),
    ("enable.auto.commit", "positions are in the checkpoint"),
    ("enable.auto.offset.store", "positions are in the checkpoint"),
    ("enable.idempotence", "always on"),
    ("enable.partition.eof", "use `until`"),
    ("group.id", "use `group`"),
    ("group.protocol", "the engine speaks the classic protocol, cooperatively"),
    ("isolation.level", "always read_committed"),
    ("message.timeout.ms", "a record is sent until it is acknowledged"),
    ("metadata.broker.list", "use `bootstrap_servers`"),
    ("partition.assignment.strategy", "the engine speaks the classic protocol, cooperatively"),
    ("partitioner", "always murmur2_random, as Java's producers"),
    ("request.required.acks", "the engine waits for all replicas"),
    ("sasl.mechanism", "use `sasl_mechanism`"),
    ("sasl.mechanisms", "use `sasl_mechanism`"),
    ("sasl.password", "use `sasl_password`"),
    ("sasl.username", "use `sasl_username`"),
    ("security.protocol", "use `security_protocol`"),
    ("ssl.ca.location", "use `ssl_ca_location`"),
    ("ssl.certificate.location", "use `ssl_certificate_location`"),
    ("ssl.key.location", "use `ssl_key_location`"),
    ("topic.metadata.refresh.interval.ms", "use `metadata_refresh`"),
    ("transactional.id", "the engine names its transactions"),
];

/// The clock of a client's waiting times. No row ever meets it.
#[expect(clippy::disallowed_methods, reason = "deadlines of the client's own thread and of waiting for brokers")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Who decides `option` instead of the user; `None` when it may be passed through.
#[must_use]
pub fn owned_option(option: &str) -> Option<&'static str> {
    OWNED_OPTIONS.iter().find(|(name, _)| *name == option).map(|(_, instead)| *instead)
}

/// The part of the configuration that sources, sinks and admin clients share. The user's options come first, so that what
/// the engine sets afterwards holds.
pub(crate) fn client_config(connection: &KafkaConnection, defaults: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    // Who asks librdkafka for its debug lines (`debug: fetch,cgrp`) gets them, at our own level of that name.
    let is_debugged = connection.options.contains_key("debug");
    config.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
    config.set("client.id", "tidemill");
    for (option, value) in defaults {
        config.set(*option, *value);
    }
    for (option, value) in &connection.options {
        config.set(option, value);
    }
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
    config.set("bootstrap.servers", &connection.bootstrap_servers);
    for (option, value) in named {
        if let Some(value) = value {
            config.set(option, value);
        }
    }
    config
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_options_are_sorted_and_found() {
        assert!(OWNED_OPTIONS.is_sorted());
        assert_eq!(owned_option("group.id"), Some("use `group`"));
        assert_eq!(owned_option("fetch.wait.max.ms"), None);
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
