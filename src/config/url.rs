//! Parses the URL of a broker: scheme, host and port, and nothing else.
//!
//! A URL with a password in it is refused and not quoted. The `url` crate does not serve here: for `mqtt:` it accepts any host
//! and port 0, and takes the end of a password with a slash in it for a path. The URL of the cloud is checked by
//! [`crate::transport::cloud::host::check_host`].

use std::fmt;

use super::diagnostic::quoted;
use crate::model::Address;
use crate::mqtt::BrokerAddress;

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MqttUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BadUrl {
    /// No scheme, or not one of MQTT.
    Scheme,
    /// A user name or a password before the host.
    UserInfo,
    /// More than a host and a port.
    Path,
    /// A missing or invalid host, or an invalid port.
    Host,
}

impl MqttUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|bad| match bad {
            BadUrl::UserInfo => {
                "holds a user name or password: move them to mqtt.username and mqtt.password".to_owned()
            }
            BadUrl::Path => "must end after host and port: write it like mqtts://broker.lan:8883".to_owned(),
            BadUrl::Host => {
                format!(
                    "has no usable host and port: write it like mqtt://broker.lan:1883 (is {})",
                    quoted(text)
                )
            }
            BadUrl::Scheme => "must begin with mqtt:// or, for TLS, with mqtts://".to_owned(),
        })
    }

    /// Whether both lead to the same port of the same host, as far as that can be told from their text.
    pub(super) fn is_same_broker(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }

    fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, authority) = split(text)?;
        let (tls, default_port) = match scheme.as_str() {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(BadUrl::Scheme),
        };
        let address = address(authority, default_port)?;
        Ok(Self { host: address.host(), port: address.port(), tls })
    }
}

/// As it would be written, with the port.
impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}", BrokerAddress { host: self.host.clone(), port: self.port })
    }
}

/// The scheme in lower case, and host with port.
fn split(text: &str) -> Result<(String, &str), BadUrl> {
    let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
    // A password may hold a slash that is not escaped, so the `@` may be anywhere.
    if rest.contains('@') {
        return Err(BadUrl::UserInfo);
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(BadUrl::Path);
    }
    Ok((scheme.to_ascii_lowercase(), authority))
}

fn address(authority: &str, default_port: u16) -> Result<Address, BadUrl> {
    // `Address` accepts an IPv6 address in brackets only with a port.
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(authority);
    Address::new(bare, default_port).ok_or(BadUrl::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_url_is_a_scheme_a_host_and_perhaps_a_port() {
        for (text, host, port, tls) in [
            ("mqtt://broker.lan", "broker.lan", 1883, false),
            ("mqtts://broker.lan", "broker.lan", 8883, true),
            ("MQTT://10.0.0.2:1884/", "10.0.0.2", 1884, false),
            ("mqtts://[::1]:9", "::1", 9, true),
            ("mqtts://[::1]", "::1", 8883, true),
        ] {
            assert_eq!(MqttUrl::parse(text), Ok(MqttUrl { host: host.to_owned(), port, tls }), "{text}");
        }
    }

    #[test]
    fn any_other_url_is_refused_with_the_reason() {
        for (text, bad) in [
            ("broker.lan:1883", BadUrl::Scheme),
            ("tcp://broker.lan", BadUrl::Scheme),
            ("mqtt://me:secret@broker.lan", BadUrl::UserInfo),
            ("mqtt://me:sec/ret@broker.lan", BadUrl::UserInfo),
            ("mqtt://broker.lan/topic", BadUrl::Path),
            ("mqtt://broker.lan?x=1", BadUrl::Path),
            ("mqtt://", BadUrl::Host),
            ("mqtt://broker.lan:0", BadUrl::Host),
            ("mqtt://broker.lan:65536", BadUrl::Host),
            ("mqtt://bro ker", BadUrl::Host),
            ("mqtt://192.168.1.300", BadUrl::Host),
        ] {
            assert_eq!(MqttUrl::parse(text), Err(bad), "{text}");
        }
    }
}
