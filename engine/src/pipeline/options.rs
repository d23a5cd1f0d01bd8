//! Options of librdkafka that a pipeline file may not set, each with the reason: those that have a key of their own, those
//! that the engine must own so that its promises hold, and those that load code or fake a cluster.

/// The names that librdkafka has twice: (another name, the one that we use). Both are one setting, and of two that are set
/// which one holds is left to chance, so names are mapped before anything is set.
const ALIASES: [(&str, &str); 12] = [
    ("auto.commit.enable", "enable.auto.commit"),
    ("compression.codec", "compression.type"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("max.in.flight.requests.per.connection", "max.in.flight"),
    ("message.send.max.retries", "retries"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("request.required.acks", "acks"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];
/// Options of the client whose own names begin with `topic.`; before others that word is only an address.
const OF_ALL_TOPICS: [&str; 2] = ["topic.metadata.", "topic.blacklist"];

/// The one name of an option.
#[must_use]
pub(crate) fn canonical(option: &str) -> &str {
    let of_all = OF_ALL_TOPICS.iter().any(|prefix| option.starts_with(prefix));
    let option = option.strip_prefix("topic.").filter(|_| !of_all).unwrap_or(option);
    ALIASES.iter().find(|(other, _)| *other == option).map_or(option, |(_, ours)| ours)
}

/// Why an option is refused, under whatever name; `None` when it may stand.
pub(crate) fn refusal(option: &str) -> Option<&'static str> {
    let option = canonical(option);
    let exact = OWNED.iter().find(|(names, _)| names.contains(&option));
    let by_prefix = || OWNED_PREFIXES.iter().find(|(prefix, _)| option.starts_with(prefix)).map(|(_, why)| *why);
    let callback = option.ends_with("_cb") || option == "opaque" || option == "default_topic_conf";
    exact.map(|(_, why)| *why).or_else(by_prefix).or(callback.then_some("it is for programs, not for files: remove it"))
}

/// Under their canonical names.
const OWNED: [(&[&str], &str); 22] = [
    (&["bootstrap.servers"], "write the key `bootstrap_servers`"),
    (&["group.id"], "write the key `group`"),
    (&["security.protocol"], "write the key `security_protocol`"),
    (&["sasl.mechanism"], "write the key `sasl_mechanism`"),
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
        &["enable.auto.commit", "auto.commit.interval.ms", "enable.auto.offset.store"],
        "positions belong to the checkpoint, and are never committed by the client",
    ),
    (&["isolation.level"], "what a source may read follows from `delivery`"),
    (&["client.rack"], "records are read from leaders, against which positions are checked"),
    (&["transactional.id", "transaction.timeout.ms"], "transactions follow from `delivery`"),
    (
        &[
            "enable.idempotence",
            "enable.gapless.guarantee",
            "acks",
            "max.in.flight",
            "delivery.timeout.ms",
            "delivery.report.only.error",
        ],
        "order and acknowledgement of what is sent follow from `delivery`",
    ),
    (&["partitioner"], "a record's partition follows from its key, as with Java's producers"),
    (&["allow.auto.create.topics"], "a misspelt topic is not to be made by accident"),
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
    fn an_owned_option_is_refused_under_each_of_its_names() {
        for option in [
            "delivery.timeout.ms",
            "message.timeout.ms",
            "metadata.broker.list",
            "request.required.acks",
            "topic.acks",
            "topic.request.required.acks",
            "topic.partitioner",
            "topic.metadata.refresh.interval.ms",
            "auto.commit.enable",
            "sasl.mechanisms",
            "max.in.flight.requests.per.connection",
        ] {
            assert!(refusal(option).is_some(), "{option}");
        }
    }

    #[test]
    fn an_option_has_one_name_and_canonical_names_are_their_own() {
        assert_eq!(canonical("queue.buffering.max.ms"), "linger.ms");
        assert_eq!(canonical("topic.compression.codec"), "compression.type");
        assert_eq!(canonical("topic.blacklist"), "topic.blacklist");
        for (_, name) in ALIASES {
            assert_eq!(canonical(name), name);
        }
        for (name, _) in OWNED.iter().flat_map(|(names, why)| names.iter().map(move |name| (*name, why))) {
            assert_eq!(canonical(name), name);
        }
    }

    #[test]
    fn options_of_throughput_may_stand() {
        for option in ["fetch.min.bytes", "linger.ms", "compression.type", "session.timeout.ms", "client.id", "debug"] {
            assert_eq!(refusal(option), None, "{option}");
        }
    }
}
