//! Which hosts may get a password or a token.
//!
//! The device list names the server of each plug, which gets the token next. [`check_host`] accepts hosts under
//! `tplinkcloud.com` over https, and loopback hosts over plain http for the simulated home and the tests. It refuses
//! everything else, without exceptions.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;

use hs100d_core::model::shown;

/// The vendor's domain.
const DOMAIN: &str = "tplinkcloud.com";
/// The most that is shown of a refused server, in characters.
const NAME_SHOWN: usize = 80;

/// A host that may get a token. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustedHost {
    /// Scheme, host and port, with a slash at the end.
    url: Arc<str>,
    loopback: bool,
}

/// Why a URL may not get a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadHost {
    /// Not a URL.
    #[error("is not a URL such as https://wap.tplinkcloud.com")]
    NotAUrl,
    /// Another scheme than https, or http to a host that is not this machine.
    #[error("must begin with https:// (plain http is accepted for loopback hosts only)")]
    NotHttps,
    /// It holds a user name or a password.
    #[error("must not hold a user name or a password")]
    UserInfo,
    /// Something follows the host.
    #[error("must end after the host: no path, no query, no fragment")]
    NotBare,
    /// A port other than 443.
    #[error("must use port 443")]
    Port,
    /// An address instead of a name.
    #[error("must name a host under tplinkcloud.com, not an IP address")]
    IpLiteral,
    /// A host of another domain.
    #[error("must name a host under tplinkcloud.com")]
    Foreign,
    /// An account on loopback names a host outside, or the reverse.
    #[error("must not lead from the internet to this machine, or from this machine to the internet")]
    OtherWorld,
}

/// A server in the device list that may not get a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{named} {why}")]
pub struct RefusedServer {
    /// Its URL for a message: without user, password, query and fragment.
    pub(crate) named: Box<str>,
    /// Why it is refused.
    pub(crate) why: BadHost,
}

impl RefusedServer {
    fn new(named: &str, why: BadHost) -> Self {
        let end = named.find(['?', '#']).unwrap_or(named.len());
        let named = &named[..end];
        let (scheme, rest) = named.split_once("://").map_or(("", named), |(scheme, rest)| (scheme, rest));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let gap = if scheme.is_empty() { "" } else { "://" };
        Self { named: shown(&format!("{scheme}{gap}{rest}"), NAME_SHOWN).into(), why }
    }
}

/// Parses a URL of the cloud.
///
/// Accepts https to `tplinkcloud.com` or a host under it, port 443; or plain http to a loopback host, any port.
///
/// # Errors
/// Why no secret may be sent there.
pub fn check_host(url: &str) -> Result<TrustedHost, BadHost> {
    // TP-Link's hosts have names in ASCII, and `url` is built without the tables for others: it expects none.
    if !url.is_ascii() || url.contains('%') {
        return Err(BadHost::NotAUrl);
    }
    let url = Url::parse(url).map_err(|_| BadHost::NotAUrl)?;
    let name = url.host_str().ok_or(BadHost::NotAUrl)?;
    let loopback = is_loopback(name);
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => return Err(BadHost::NotHttps),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadHost::UserInfo);
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(BadHost::NotBare);
    }
    if url.scheme() == "https" {
        check_vendor(&url)?;
    }
    Ok(TrustedHost { loopback, url: url.as_str().into() })
}

impl TrustedHost {
    /// Whether it is on this machine, so that plain http is no leak.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Checks the server that this host names for a plug. Both must be on loopback or neither: the internet must not direct a
    /// token to a port of this machine, nor a simulated cloud to the internet.
    pub(super) fn check_server(&self, url: &str) -> Result<Self, RefusedServer> {
        let same_world = |server: Self| {
            if server.loopback == self.loopback { Ok(server) } else { Err(BadHost::OtherWorld) }
        };
        check_host(url).and_then(same_world).map_err(|why| RefusedServer::new(url, why))
    }

    /// Whether it is one of the hosts with a certificate of TP-Link's own authority.
    pub(super) fn has_private_authority(&self) -> bool {
        let name = self.url.strip_prefix("https://").unwrap_or_default();
        name.starts_with("n-") || name.contains(".i.")
    }

    /// A host on loopback over https, to see TLS fail.
    #[cfg(test)]
    pub(super) fn unchecked(url: &str) -> Self {
        Self { url: url.into(), loopback: false }
    }

    /// The URL of all calls; its path is `/`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for TrustedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.trim_end_matches('/'))
    }
}

/// The rules for https. `domain` is `None` for any IP address.
fn check_vendor(url: &Url) -> Result<(), BadHost> {
    let domain = url.domain().ok_or(BadHost::IpLiteral)?;
    if domain != DOMAIN && !domain.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.')) {
        return Err(BadHost::Foreign);
    }
    // `None` for the default port.
    if url.port().is_some() { Err(BadHost::Port) } else { Ok(()) }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_hosts_are_admitted_over_https() {
        for good in [
            "https://wap.tplinkcloud.com",
            "https://use1-wap.tplinkcloud.com/",
            "https://WAP.TPLinkCloud.com:443",
            "https://tplinkcloud.com",
        ] {
            let host = check_host(good).unwrap();
            assert!(!host.is_loopback(), "{good}");
            assert!(host.url().ends_with(".com/"), "{good}");
        }
        assert_eq!(
            check_host("https://WAP.tplinkcloud.com:443/").unwrap().to_string(),
            "https://wap.tplinkcloud.com"
        );
    }

    #[test]
    fn loopback_hosts_are_admitted_over_plain_http() {
        for good in ["http://127.0.0.1:18181", "http://127.9.9.9", "http://[::1]:80/", "http://localhost:1"] {
            assert!(check_host(good).unwrap().is_loopback(), "{good}");
        }
    }

    #[test]
    fn no_other_host_is_ever_admitted() {
        for (bad, why) in [
            ("", BadHost::NotAUrl),
            ("wap.tplinkcloud.com", BadHost::NotAUrl),
            ("https://", BadHost::NotAUrl),
            ("https://E\u{fffd}-WAP.tplinkcloud.com", BadHost::NotAUrl),
            ("https://a..b\u{664}cW", BadHost::NotAUrl),
            ("https://a..b%D9%A4cW", BadHost::NotAUrl),
            ("http://wap.tplinkcloud.com", BadHost::NotHttps),
            ("ftp://wap.tplinkcloud.com", BadHost::NotHttps),
            ("http://127.0.0.1.example", BadHost::NotHttps),
            ("http://localhost.example", BadHost::NotHttps),
            ("https://eviltplinkcloud.com", BadHost::Foreign),
            ("https://tplinkcloud.com.evil.example", BadHost::Foreign),
            ("https://wap.tplinkcloud.com.", BadHost::Foreign),
            ("https://wap.tplinknbu.com", BadHost::Foreign),
            ("https://localhost", BadHost::Foreign),
            ("https://127.0.0.1", BadHost::IpLiteral),
            ("https://0x7f000001", BadHost::IpLiteral),
            ("https://[::1]", BadHost::IpLiteral),
            ("https://user@wap.tplinkcloud.com", BadHost::UserInfo),
            ("https://:pw@wap.tplinkcloud.com", BadHost::UserInfo),
            ("https://wap.tplinkcloud.com@evil.example", BadHost::UserInfo),
            ("https://evil.example\\@wap.tplinkcloud.com", BadHost::NotBare),
            ("https://evil.example/.tplinkcloud.com", BadHost::NotBare),
            ("https://wap.tplinkcloud.com/api", BadHost::NotBare),
            ("https://wap.tplinkcloud.com?x", BadHost::NotBare),
            ("https://wap.tplinkcloud.com/#x", BadHost::NotBare),
            ("https://wap.tplinkcloud.com:8443", BadHost::Port),
            ("https://wap.tplinkcloud.com:80", BadHost::Port),
        ] {
            assert_eq!(check_host(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_server_must_be_of_the_same_world_as_the_account() {
        let internet = check_host("https://wap.tplinkcloud.com").unwrap();
        let simulated = check_host("http://127.0.0.1:18181").unwrap();
        assert!(internet.check_server("https://eu-wap.tplinkcloud.com").is_ok());
        assert!(simulated.check_server("http://127.0.0.1:18182").is_ok());
        let why = |host: &TrustedHost, server| host.check_server(server).map_err(|refused| refused.why);
        assert_eq!(why(&internet, "http://127.0.0.1:18182"), Err(BadHost::OtherWorld));
        assert_eq!(why(&simulated, "https://eu-wap.tplinkcloud.com"), Err(BadHost::OtherWorld));
    }

    #[test]
    fn a_refused_server_is_named_in_one_line_without_what_may_be_secret() {
        let internet = check_host("https://wap.tplinkcloud.com").unwrap();
        for (server, named) in [
            ("https://evil.example", "https://evil.example"),
            ("http://me:hunter2@wap.tplinkcloud.com/x?token=hunter2#y", "http://wap.tplinkcloud.com/x"),
            ("hunter2@evil", "evil"),
            ("not\na url", "not\\na url"),
            ("", ""),
        ] {
            assert_eq!(&*internet.check_server(server).unwrap_err().named, named, "{server}");
        }
        let long = internet.check_server(&"x".repeat(5000)).unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
    }
}
