//! The two URLs of the config, taken apart: scheme, host and port, and nothing else.
//!
//! A URL that holds a password is refused without being quoted.

use std::net::IpAddr;

use super::reader::quoted;
use crate::model::Address;

/// The domain that TP-Link's cloud lives under; the account's password goes nowhere else.
const CLOUD_DOMAIN: &str = "tplinkcloud.com";

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MqttUrl {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Where the cloud's entrance is: scheme, host and port, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CloudUrl(pub(super) String);

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BadUrl {
    /// No scheme, or one that we do not speak.
    Scheme,
    /// A user name before the host, and perhaps a password.
    UserInfo,
    /// More than a host and a port.
    Path,
    /// No host, or one that cannot be, or a port that cannot be.
    Host,
    /// Plain http to a host that is not this machine.
    PlainHttp,
    /// A host that is not TP-Link's.
    Stranger,
}

impl MqttUrl {
    /// Reads the URL, or says what to write instead.
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
            BadUrl::Scheme | BadUrl::PlainHttp | BadUrl::Stranger => {
                "must begin with mqtt:// or, for TLS, with mqtts://".to_owned()
            }
        })
    }

    fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, authority) = split(text)?;
        let (tls, default_port) = match scheme.as_str() {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(BadUrl::Scheme),
        };
        let address = address(authority, default_port)?;
        let port = match address {
            Address::Socket(socket) => socket.port(),
            Address::Name(_, port) => port,
        };
        Ok(Self { host: address.host(), port, tls })
    }
}

impl CloudUrl {
    /// Reads the URL, or says what to write instead.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|bad| match bad {
            BadUrl::Scheme => "must begin with https://".to_owned(),
            BadUrl::UserInfo => {
                "holds a user name or password: move them to cloud.username and cloud.password".to_owned()
            }
            BadUrl::Path => "must end after the host: write it like https://wap.tplinkcloud.com".to_owned(),
            BadUrl::Host => {
                format!("has no usable host: write it like https://wap.tplinkcloud.com (is {})", quoted(text))
            }
            BadUrl::PlainHttp => {
                "would send the password in the clear: write https:// (http is for loopback hosts only)"
                    .to_owned()
            }
            BadUrl::Stranger => {
                "is no host of TP-Link's: the account's password goes to hosts under tplinkcloud.com only"
                    .to_owned()
            }
        })
    }

    fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, authority) = split(text)?;
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return Err(BadUrl::Scheme),
        };
        let host = address(authority, default_port)?.host().to_ascii_lowercase();
        match (scheme.as_str(), is_loopback(&host)) {
            (_, true) => {}
            ("http", false) => return Err(BadUrl::PlainHttp),
            _ if is_tp_link(&host) => {}
            _ => return Err(BadUrl::Stranger),
        }
        Ok(Self(format!("{scheme}://{}", authority.to_ascii_lowercase())))
    }
}

/// The scheme in lower case, and host with port.
fn split(text: &str) -> Result<(String, &str), BadUrl> {
    let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
    // A password may hold a slash that nobody escaped, so the sign is looked for in all of the rest.
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
    // Brackets set an IPv6 address apart from a port; without a port there is nothing to set apart.
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(authority);
    Address::new(bare, default_port).ok_or(BadUrl::Host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_tp_link(host: &str) -> bool {
    host.strip_suffix(CLOUD_DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
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
    fn what_is_no_broker_url_is_refused_for_its_reason() {
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

    #[test]
    fn the_cloud_is_https_at_tp_links_or_anything_on_this_machine() {
        for (text, expected) in [
            ("https://wap.tplinkcloud.com", Ok("https://wap.tplinkcloud.com")),
            ("https://EU-WAP.tplinkcloud.com/", Ok("https://eu-wap.tplinkcloud.com")),
            ("https://tplinkcloud.com:8443", Ok("https://tplinkcloud.com:8443")),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("http://localhost:8080", Ok("http://localhost:8080")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("http://wap.tplinkcloud.com", Err(BadUrl::PlainHttp)),
            ("http://localhost.example.com", Err(BadUrl::PlainHttp)),
            ("https://example.com", Err(BadUrl::Stranger)),
            ("https://eviltplinkcloud.com", Err(BadUrl::Stranger)),
            ("https://wap.tplinkcloud.com.example.com", Err(BadUrl::Stranger)),
            ("https://wap.tplinkcloud.com#@example.com", Err(BadUrl::UserInfo)),
            ("https://example.com\\.tplinkcloud.com", Err(BadUrl::Host)),
            ("ftp://wap.tplinkcloud.com", Err(BadUrl::Scheme)),
        ] {
            assert_eq!(CloudUrl::parse(text), expected.map(|url| CloudUrl(url.to_owned())), "{text}");
        }
    }
}
