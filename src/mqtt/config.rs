//! The `[mqtt]` table.

use super::topics::check_prefix;
use crate::config::problems::Checker;
use crate::config::value::{Size, Span};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The largest packet that MQTT can carry.
pub const PROTOCOL_MAX_PACKET: u64 = 268_435_455;

/// Connection to the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Broker's host name or address. Default `localhost`.
    pub host: String,
    /// TCP port. Default 1883, or 8883 with `tls`.
    pub port: Option<u16>,
    /// Protocol: 5 or "3.1.1". Default 5.
    pub version: Version,
    /// Unique at the broker and stable, so that the session survives a restart. Default `jouled-<node>-<8 hex digits that are the machine's>`.
    pub client_id: Option<String>,
    /// First levels of every topic. Default `jouled`.
    pub prefix: String,
    /// User name. Default none.
    pub username: Option<String>,
    /// File whose content, without the last line break, is the password. Read again at every connect. Default none.
    pub password_file: Option<PathBuf>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the password. Default none.
    pub credential: Option<String>,
    /// Interval of pings, and what the broker waits 1.5 times for before it publishes the last will. 5 s to 18 h, default 30 s.
    pub keep_alive: Span,
    /// Limit for connecting, TLS and CONNACK together. 1 s to 5 min, default 10 s.
    pub connect_timeout: Span,
    /// How long the broker keeps requests for an absent daemon (MQTT 5; with 3.1.1 it is the broker's setting). 0 s to 45 days, default 1 day.
    pub session_expiry: Span,
    /// Requests that the broker may have outstanding at once (MQTT 5). 1 to 65535, default 32.
    pub receive_maximum: u16,
    /// Published messages that may wait for the broker's acknowledgement at once. 1 to 1000, default 64.
    pub in_flight: u16,
    /// No acknowledgement of a publish or a subscription for so long: connect anew. 100 ms to 1 h, default 20 s.
    pub ack_timeout: Span,
    /// A larger request is answered with `payload_too_large`. Up to `max_packet`, default 4 MiB.
    pub max_payload: Size,
    /// A larger packet never reaches memory. MQTT 5: the broker is told and drops it. 3.1.1: it breaks the connection, and after a
    /// few times the session is discarded to get rid of it: limit the message size at the broker. 4 KiB to 256 MiB, default 16 MiB.
    pub max_packet: Size,
    /// Messages kept while the broker is away or slow; beyond, the oldest sensor results are dropped. 1 to 1000000, default 1000.
    pub outbox_messages: usize,
    /// The same as a limit of bytes. Default 16 MiB.
    pub outbox_bytes: Size,
    /// Response topics must lie below one of these and outside of the daemon's own topics. Default: only `prefix`.
    pub response_prefixes: Option<Vec<String>>,
    /// First wait before connecting anew. 1 ms up to `backoff_max`, default 1 s.
    pub backoff_min: Span,
    /// Longest wait before connecting anew. Up to 1 h, default 1 min.
    pub backoff_max: Span,
    /// Encrypts the connection when the table is there, even an empty one.
    pub tls: Option<Tls>,
}

/// The `[mqtt.tls]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the authorities to trust. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate and its chain. Needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the client's private key. Needs `cert`.
    pub key: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "localhost".into(),
            port: None,
            version: Version::V5,
            client_id: None,
            prefix: "jouled".into(),
            username: None,
            password_file: None,
            credential: None,
            keep_alive: Span::secs(30),
            connect_timeout: Span::secs(10),
            session_expiry: Span::secs(86_400),
            receive_maximum: 32,
            in_flight: 64,
            ack_timeout: Span::secs(20),
            max_payload: Size::mib(4),
            max_packet: Size::mib(16),
            outbox_messages: 1000,
            outbox_bytes: Size::mib(16),
            response_prefixes: None,
            backoff_min: Span::secs(1),
            backoff_max: Span::secs(60),
            tls: None,
        }
    }
}

impl Config {
    /// The configured port, or the protocol's.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls.is_some() { 8883 } else { 1883 })
    }

    /// The prefixes below which response topics are allowed.
    pub fn response_prefixes(&self) -> Vec<String> {
        self.response_prefixes.clone().unwrap_or_else(|| vec![self.prefix.clone()])
    }

    /// Reports every value that cannot work, by key.
    pub fn check(&self, at: &mut Checker) {
        self.check_address(at);
        self.check_password(at);
        self.check_times(at);
        self.check_limits(at);
        if let Some(tls) = &self.tls {
            tls.check(&mut at.below("tls"));
        }
    }

    fn check_address(&self, at: &mut Checker) {
        let host = &self.host;
        at.expect(!host.is_empty() && !host.contains(char::is_whitespace), "host", || {
            format!("expected a host name or address, got `{host}`")
        });
        if self.tls.is_some() && host.parse::<Ipv6Addr>().is_ok() {
            at.problem("host", "TLS needs a host name or an IPv4 address, not an IPv6 address: put a name for it into /etc/hosts");
        }
        at.expect(self.port != Some(0), "port", || "expected 1 to 65535, got 0".into());
        if let Some(id) = &self.client_id {
            let good = !id.is_empty() && id.len() <= 256 && !id.chars().any(char::is_control);
            at.expect(good, "client_id", || format!("expected 1 to 256 bytes without control characters, got `{}`", id.escape_debug()));
        }
        if let Err(message) = check_prefix(&self.prefix) {
            at.problem("prefix", message);
        }
        for (i, prefix) in self.response_prefixes.iter().flatten().enumerate() {
            if let Err(message) = check_prefix(prefix.trim_end_matches('/')) {
                at.problem(&format!("response_prefixes[{i}]"), message);
            }
        }
    }

    fn check_password(&self, at: &mut Checker) {
        if self.password_file.is_some() && self.credential.is_some() {
            at.problem("credential", "give either `credential` or `password_file`, not both");
        }
        if self.username.is_none() && (self.password_file.is_some() || self.credential.is_some()) {
            at.problem("username", "expected a user name, as there is a password");
        }
        if let Some(name) = &self.credential {
            let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
            at.expect(plain, "credential", || format!("expected the name of a credential without `/`, got `{name}`"));
        }
    }

    fn check_times(&self, at: &mut Checker) {
        let mut within = |key: &str, span: Span, low: Span, high: Span| {
            at.expect((low..=high).contains(&span), key, || format!("expected {low} to {high}, got {span}"));
        };
        within("keep_alive", self.keep_alive, Span::secs(5), Span::secs(18 * 3600));
        within("connect_timeout", self.connect_timeout, Span::secs(1), Span::secs(300));
        within("session_expiry", self.session_expiry, Span::secs(0), Span::secs(45 * 86_400));
        within("ack_timeout", self.ack_timeout, Span::millis(100), Span::secs(3600));
        within("backoff_min", self.backoff_min, Span::millis(1), self.backoff_max.max(Span::millis(1)));
        within("backoff_max", self.backoff_max, Span::millis(1), Span::secs(3600));
    }

    fn check_limits(&self, at: &mut Checker) {
        at.expect(self.receive_maximum > 0, "receive_maximum", || "expected 1 to 65535, got 0".into());
        at.expect((1..=1000).contains(&self.in_flight), "in_flight", || format!("expected 1 to 1000, got {}", self.in_flight));
        let packet = Size::kib(4)..=Size(PROTOCOL_MAX_PACKET + 1);
        at.expect(packet.contains(&self.max_packet), "max_packet", || format!("expected 4KiB to 256MiB, got {}", self.max_packet));
        let payload = self.max_payload > Size(0) && self.max_payload <= self.max_packet;
        at.expect(payload, "max_payload", || format!("expected 1B to `max_packet` ({}), got {}", self.max_packet, self.max_payload));
        let messages = self.outbox_messages;
        at.expect((1..=1_000_000).contains(&messages), "outbox_messages", || format!("expected 1 to 1000000, got {messages}"));
        at.expect(self.outbox_bytes > Size(0), "outbox_bytes", || "expected more than 0 bytes".into());
    }
}

impl Tls {
    /// Reports a certificate without a key and the reverse.
    pub fn check(&self, at: &mut Checker) {
        match (&self.cert, &self.key) {
            (Some(_), None) => at.problem("key", "expected the private key of `cert`"),
            (None, Some(_)) => at.problem("cert", "expected the certificate of `key`"),
            _ => {}
        }
    }
}

/// Protocol version: 5, or 3.1.1 (which is called 4 on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V5,
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Version::V4 => serializer.serialize_str("3.1.1"),
            Version::V5 => serializer.serialize_u8(5),
        }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        struct VersionVisitor;
        impl Visitor<'_> for VersionVisitor {
            type Value = Version;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("5 or \"3.1.1\"")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Version, E> {
                if n == 5 { Ok(Version::V5) } else { Err(E::invalid_value(de::Unexpected::Signed(n), &self)) }
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Version, E> {
                if n == 5 { Ok(Version::V5) } else { Err(E::invalid_value(de::Unexpected::Unsigned(n), &self)) }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Version, E> {
                match text {
                    "5" | "5.0" => Ok(Version::V5),
                    "3.1.1" => Ok(Version::V4),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(VersionVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        let mut found = Vec::new();
        config.check(&mut Checker::new(&mut found).below("mqtt"));
        found.into_iter().map(|p| p.key).collect()
    }

    #[test]
    fn defaults_are_good_and_survive_a_round_trip() {
        assert!(problems("").is_empty());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
        assert_eq!(Config::default().port(), 1883);
        assert_eq!(toml::from_str::<Config>("[tls]").unwrap().port(), 8883);
    }

    #[test]
    fn both_protocol_versions_are_read() {
        assert_eq!(toml::from_str::<Config>("version = 5").unwrap().version, Version::V5);
        assert_eq!(toml::from_str::<Config>("version = \"3.1.1\"").unwrap().version, Version::V4);
        assert!(toml::from_str::<Config>("version = 4").unwrap_err().to_string().contains("3.1.1"));
        assert!(toml::from_str::<Config>("qos = 2").is_err());
    }

    #[test]
    fn every_bad_value_is_reported_by_key() {
        let bad = r##"
            host = ""
            port = 0
            client_id = ""
            prefix = "a/#"
            response_prefixes = ["ok/", "$SYS"]
            password_file = "/p"
            credential = "../etc"
            keep_alive = "1s"
            connect_timeout = "0s"
            session_expiry = "46d"
            receive_maximum = 0
            in_flight = 1001
            ack_timeout = "1ms"
            max_payload = "17MiB"
            max_packet = "1GiB"
            outbox_messages = 0
            outbox_bytes = 0
            backoff_min = "2m"
            [tls]
            cert = "c.pem"
        "##
        .replace("46d", "1104h");
        let found = problems(&bad);
        for key in [
            "host",
            "port",
            "client_id",
            "prefix",
            "response_prefixes[1]",
            "credential",
            "username",
            "keep_alive",
            "connect_timeout",
            "session_expiry",
            "receive_maximum",
            "in_flight",
            "ack_timeout",
            "max_packet",
            "outbox_messages",
            "outbox_bytes",
            "backoff_min",
            "tls.key",
        ] {
            assert!(found.contains(&format!("mqtt.{key}")), "{key} is missing from {found:?}");
        }
        assert_eq!(problems("max_payload = \"17MiB\""), ["mqtt.max_payload"]);
        assert_eq!(problems("host = \"::1\"\n[tls]"), ["mqtt.host"]);
    }
}
