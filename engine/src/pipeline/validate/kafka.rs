//! Connections to Kafka: brokers, login and encryption that fit together, options that the engine leaves to the user, and
//! what an output takes over from the pipeline's source.

use super::super::file::{SaslMechanismFile, SecurityFile, SecurityProtocolFile};
use super::super::forms::{Named, OptionText};
use super::super::options;
use super::super::problem::quoted;
use super::super::secret::is_secret_key;
use super::super::settings::{KafkaConnection, Source, SourceConnector};
use super::super::yaml::{Content, Document};
use super::{Validator, location};

/// The connection that outputs without brokers of their own take over.
pub(super) enum Inherited {
    /// That of the Kafka sources, which all have the same.
    Connection(KafkaConnection),
    /// There is no Kafka source.
    NoSource,
    /// Kafka sources differ, by these names.
    Several(Vec<String>),
    /// A Kafka source could not be used; that was reported.
    Unknown,
}

impl Inherited {
    pub(super) fn from_sources(sources: &[Source], document: &Document) -> Inherited {
        let kafka: Vec<(&str, &KafkaConnection)> = sources
            .iter()
            .filter_map(|source| match &source.connector {
                SourceConnector::Kafka(kafka) => Some((source.name.as_str(), &kafka.connection)),
                SourceConnector::Files(_) | SourceConnector::Generator(_) => None,
            })
            .collect();
        let num_written = match document.root.at(&["sources"]).map(|node| &node.content) {
            Some(Content::Mapping(entries)) => entries.len(),
            _ => 0,
        };
        match kafka.split_first() {
            _ if num_written != sources.len() => Inherited::Unknown,
            None if sources.is_empty() => Inherited::Unknown,
            None => Inherited::NoSource,
            Some(((_, first), rest)) if rest.iter().all(|(_, other)| is_same(first, other)) => {
                Inherited::Connection(KafkaConnection { options: Default::default(), ..(*first).clone() })
            }
            Some(_) => Inherited::Several(kafka.iter().map(|(name, _)| (*name).to_string()).collect()),
        }
    }
}

/// Whether two connections lead to the same cluster in the same way. Options do not count.
fn is_same(a: &KafkaConnection, b: &KafkaConnection) -> bool {
    a.bootstrap_servers == b.bootstrap_servers
        && a.security_protocol == b.security_protocol
        && a.sasl_mechanism == b.sasl_mechanism
        && a.sasl_username == b.sasl_username
        && a.sasl_password == b.sasl_password
        && a.ssl_ca_location == b.ssl_ca_location
        && a.ssl_certificate_location == b.ssl_certificate_location
        && a.ssl_key_location == b.ssl_key_location
}

impl Validator<'_> {
    /// The connection that is written at `path`, or the one to take over.
    pub(super) fn connection(
        &mut self,
        path: &[&str],
        servers: Option<&str>,
        security: &SecurityFile,
        options: &Named<OptionText>,
        inherited: Option<&Inherited>,
    ) -> KafkaConnection {
        let options = self.options(path, options);
        if let Some(servers) = servers {
            self.servers(path, servers);
            self.security(path, security);
            return KafkaConnection { options, ..self.written(servers, security) };
        }
        if let Some(key) = first_security_key(security) {
            let message = format!("the key `{key}` without `bootstrap_servers`");
            let help = "brokers and security are taken over from the source together: add `bootstrap_servers`, or remove this key";
            self.refuse_key(&[path, &[key]].concat(), message, help);
        }
        let missing = |rest: &str| format!("missing key `bootstrap_servers` of {}{rest}", quoted(&path.join(".")));
        match inherited {
            Some(Inherited::Connection(connection)) => return KafkaConnection { options, ..connection.clone() },
            Some(Inherited::NoSource) => {
                self.refuse_key(path, missing(""), "there is no Kafka source to take it over from");
            }
            Some(Inherited::Several(names)) => {
                let help = format!("the Kafka sources have different connections: {}", names.join(", "));
                self.refuse_key(path, missing(""), help);
            }
            Some(Inherited::Unknown) | None => {}
        }
        KafkaConnection { options, ..self.written("", security) }
    }

    fn written(&self, servers: &str, security: &SecurityFile) -> KafkaConnection {
        let file = |text: &Option<String>| text.as_ref().map(|text| location::local(text, &self.folder));
        let protocol = security.security_protocol.map(|protocol| match protocol {
            SecurityProtocolFile::Plaintext => "plaintext",
            SecurityProtocolFile::Ssl => "ssl",
            SecurityProtocolFile::SaslPlaintext => "sasl_plaintext",
            SecurityProtocolFile::SaslSsl => "sasl_ssl",
        });
        let mechanism = security.sasl_mechanism.map(|mechanism| match mechanism {
            SaslMechanismFile::Plain => "PLAIN",
            SaslMechanismFile::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanismFile::ScramSha512 => "SCRAM-SHA-512",
        });
        KafkaConnection {
            bootstrap_servers: servers.split(',').map(str::trim).collect::<Vec<_>>().join(","),
            security_protocol: protocol.map(String::from),
            sasl_mechanism: mechanism.map(String::from),
            sasl_username: security.sasl_username.clone(),
            sasl_password: security.sasl_password.as_ref().map(|password| password.0.clone()),
            ssl_ca_location: file(&security.ssl_ca_location),
            ssl_certificate_location: file(&security.ssl_certificate_location),
            ssl_key_location: file(&security.ssl_key_location),
            options: Default::default(),
        }
    }

    fn servers(&mut self, path: &[&str], servers: &str) {
        for server in servers.split(',').map(str::trim) {
            if let Err(help) = check_server(server) {
                let message = format!("expected brokers as `host:port,host:port`, found {}", quoted(server));
                self.refuse(&[path, &["bootstrap_servers"]].concat(), message, help);
            }
        }
    }

    /// Keys of login and encryption demand each other.
    fn security(&mut self, path: &[&str], security: &SecurityFile) {
        use SecurityProtocolFile::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
        let at = |key: &'static str| [path, &[key]].concat();
        self.stands_in_file(&at("sasl_password"));
        if security.security_protocol.is_none() && self.is_unusable(&at("security_protocol")) {
            return;
        }
        let protocol = security.security_protocol.unwrap_or(Plaintext);
        let sasl: [(&'static str, bool); 3] = [
            ("sasl_mechanism", security.sasl_mechanism.is_some()),
            ("sasl_username", security.sasl_username.is_some()),
            ("sasl_password", security.sasl_password.is_some()),
        ];
        let wants_sasl = matches!(protocol, SaslPlaintext | SaslSsl);
        for (key, is_set) in sasl {
            if is_set && !wants_sasl {
                let help = "set `security_protocol` to `sasl_ssl` or `sasl_plaintext`, or remove this key";
                self.refuse_key(&at(key), format!("the key `{key}` without a `sasl_` protocol"), help);
            } else if wants_sasl && !is_set && !self.is_written(&at(key)) {
                let message = format!("missing key `{key}` of {}", quoted(&path.join(".")));
                self.refuse(
                    &at("security_protocol"),
                    message,
                    "a `sasl_` protocol needs mechanism, username and password",
                );
            }
        }
        let ssl: [(&'static str, bool); 3] = [
            ("ssl_ca_location", security.ssl_ca_location.is_some()),
            ("ssl_certificate_location", security.ssl_certificate_location.is_some()),
            ("ssl_key_location", security.ssl_key_location.is_some()),
        ];
        for (key, is_set) in ssl {
            if is_set && !matches!(protocol, Ssl | SaslSsl) {
                let help = "set `security_protocol` to `ssl` or `sasl_ssl`, or remove this key";
                self.refuse_key(&at(key), format!("the key `{key}` without an `ssl` protocol"), help);
            }
        }
        for (key, is_set, other, has_other) in
            [(ssl[1].0, ssl[1].1, ssl[2].0, ssl[2].1), (ssl[2].0, ssl[2].1, ssl[1].0, ssl[1].1)]
        {
            if is_set && !has_other && !self.is_written(&at(other)) {
                self.refuse_key(
                    &at(key),
                    format!("the key `{key}` without `{other}`"),
                    "a certificate and its key go together",
                );
            }
        }
    }

    fn options(&mut self, path: &[&str], options: &Named<OptionText>) -> std::collections::BTreeMap<String, String> {
        for (index, (option, _)) in options.0.iter().enumerate() {
            let at = [path, &["options", option]].concat();
            let name = options::canonical(option);
            if let Some((other, _)) = options.0[..index].iter().find(|(other, _)| options::canonical(other) == name) {
                let message = format!("the option {} is set twice, also as {}", quoted(option), quoted(other));
                self.refuse_key(&at, message, "the two are one option: keep one of them");
            }
            if let Some(why) = options::refusal(option) {
                self.refuse_key(&at, format!("the option {} cannot be set", quoted(option)), why);
            } else if is_secret_key(option) {
                self.stands_in_file(&at);
            }
        }
        options.0.iter().map(|(option, value)| (option.clone(), value.0.clone())).collect()
    }

    /// Refuses a secret that stands in the file itself.
    fn stands_in_file(&mut self, path: &[&str]) {
        let node = self.document.root.at(path).map(|node| &node.content);
        if matches!(node, Some(Content::Scalar(scalar)) if scalar.has_own_text && !scalar.is_null()) {
            let message = format!("a secret stands in the file, at {}", quoted(&path.join(".")));
            self.refuse(path, message, "take it from the environment alone, without default: ${KAFKA_PASSWORD}");
        }
    }
}

fn first_security_key(security: &SecurityFile) -> Option<&'static str> {
    [
        ("security_protocol", security.security_protocol.is_some()),
        ("sasl_mechanism", security.sasl_mechanism.is_some()),
        ("sasl_username", security.sasl_username.is_some()),
        ("sasl_password", security.sasl_password.is_some()),
        ("ssl_ca_location", security.ssl_ca_location.is_some()),
        ("ssl_certificate_location", security.ssl_certificate_location.is_some()),
        ("ssl_key_location", security.ssl_key_location.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_set)| is_set.then_some(key))
}

fn check_server(server: &str) -> Result<(), &'static str> {
    if server.contains("://") {
        return Err("no scheme stands before a broker: the protocol is `security_protocol`");
    }
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    match server.rsplit_once(':') {
        Some((host, number)) if !host.is_empty() && port(number) && !host.contains(char::is_whitespace) => Ok(()),
        _ => Err("such as localhost:9092"),
    }
}
