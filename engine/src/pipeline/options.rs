//! Options of librdkafka that a pipeline file may not set, each with the reason: those that have a key of their own, those
//! that the engine must own so that its promises hold, and those that load code or fake a cluster.

/// Why an option is refused; `None` when it may stand.
pub(super) fn refusal(option: &str) -> Option<&'static str> {
    let exact = OWNED.iter().find(|(names, _)| names.contains(&option));
    let by_prefix = || OWNED_PREFIXES.iter().find(|(prefix, _)| option.starts_with(prefix)).map(|(_, why)| *why);
    let callback = option.ends_with("_cb") || option == "opaque" || option == "default_topic_conf";
    exact.map(|(_, why)| *why).or_else(by_prefix).or(callback.then_some("it is for programs, not for files: remove it"))
}

const OWNED: [(&[&str], &str); 19] = [
    (&["bootstrap.servers", "metadata.broker.list"], "write the key `bootstrap_servers`"),
    (&["group.id"], "write the key `group`"),
    (&["security.protocol"], "write the key `security_protocol`"),
    (&["sasl.mechanism", "sasl.mechanisms"], "write the key `sasl_mechanism`"),
    (&["sasl.username"], "write the key `sasl_username`"),
    (&["sasl.password"], "write the key `sasl_password`"),
    (&["ssl.ca.location"], "write the key `ssl_ca_location`"),
    (&["ssl.certificate.location"], "write the key `ssl_certificate_location`"),
    (&["ssl.key.location"], "write the key `ssl_key_location`"),
    (&["topic.metadata.refresh.interval.ms"], "write the key `metadata_refresh`"),
    (
        &["auto.offset.reset"],
        "where reading starts is said by `start`, and what happens to a lost position by `on_data_loss`",
    ),
    (
        &["enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms", "enable.auto.offset.store"],
        "positions belong to the checkpoint, and are never committed by the client",
    ),
    (&["isolation.level"], "what a source may read follows from `delivery`"),
    (&["transactional.id", "transaction.timeout.ms"], "transactions follow from `delivery`"),
    (
        &[
            "enable.idempotence",
            "enable.gapless.guarantee",
            "acks",
            "request.required.acks",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "delivery.report.only.error",
        ],
        "order and acknowledgement of what is sent follow from `delivery`",
    ),
    (
        &[
            "partition.assignment.strategy",
            "group.protocol",
            "group.protocol.type",
            "group.remote.assignor",
            "group.instance.id",
        ],
        "how partitions move between workers is the engine's: their state moves with them",
    ),
    (&["enable.partition.eof"], "the engine needs it to know where the log ends"),
    (&["plugin.library.paths"], "a pipeline file does not load code"),
    (&["builtin.features"], "it cannot be set: remove it"),
];

const OWNED_PREFIXES: [(&str, &str); 4] = [
    ("test.", "it is for tests of the client: a pipeline runs on a real cluster"),
    ("offset.store.", "positions belong to the checkpoint, and are never committed by the client"),
    ("sasl.oauthbearer.", "this login is not supported: use `sasl_mechanism` PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    ("sasl.kerberos.", "this login is not supported: use `sasl_mechanism` PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_options_are_refused_with_a_reason() {
        for option in
            ["group.id", "acks", "test.mock.num.brokers", "rebalance_cb", "enable.auto.commit", "plugin.library.paths"]
        {
            assert!(refusal(option).is_some(), "{option}");
        }
    }

    #[test]
    fn options_of_throughput_may_stand() {
        for option in ["fetch.min.bytes", "linger.ms", "compression.type", "session.timeout.ms", "client.id", "debug"] {
            assert_eq!(refusal(option), None, "{option}");
        }
    }
}
