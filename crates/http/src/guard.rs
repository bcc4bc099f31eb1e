//! Who may ask what over HTTP: the rules for `Host`, for requests that another site makes a browser send, and for tokens.
//!
//! Pure: headers in, a verdict out. A browser sends a request to a loopback address for any page that it shows, so an address
//! that only this machine reaches protects nothing by itself:
//!
//! - A site can have its own name point at our address (DNS rebinding). Then `Host` holds its name, which is none of ours.
//! - A site can post a form to us. Then `Sec-Fetch-Site` says `cross-site`, or `Origin` is another host than `Host`.
//!
//! Behind Home Assistant's proxy the name is that of Home Assistant, which is not known here. Only the proxy can connect there,
//! and it lets nobody in who is not logged in.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, AsHeaderName, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, StatusCode, Uri};

use hs100d_core::secret::Secret;

/// Not among the names of `http`.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// The host that the browser asked, as Home Assistant tells it.
const X_FORWARDED_HOST: &str = "x-forwarded-host";

/// The rules of one listener.
#[derive(Debug, Default)]
pub struct Guard {
    /// Names that a browser may use for us, in lower case, besides `localhost` and addresses.
    pub allowed_hosts: Vec<Box<str>>,
    /// Needed for everything but [`Scope::Health`].
    pub token: Option<Secret>,
    /// May only look.
    pub read_token: Option<Secret>,
    /// Whether a `GET` with the token in its query may switch a plug.
    pub simple_get: bool,
    /// Whether all requests come from Home Assistant's proxy.
    pub is_ingress: bool,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Says whether the daemon works, and nothing else.
    Health,
    /// Shows plugs.
    Look,
    /// Switches a plug, or makes the daemon do something.
    Change,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `Host`, or several.
    #[error("the request has no Host header, or more than one")]
    NoHost,
    /// A name that is not ours.
    #[error(
        "this name is not known here: use the address or localhost, or add the name to http.allowed_hosts"
    )]
    OtherHost,
    /// A browser sent it for a page of another site.
    #[error("a page of another site may not change anything here")]
    CrossSite,
    /// A token is needed and there is none.
    #[error("a token is needed: send the one of the config as `Authorization: Bearer TOKEN`")]
    NoToken,
    /// The token is not that of the config.
    #[error("this is not the token of the config (http.token, or its file)")]
    WrongToken,
    /// The token may only look.
    #[error("this token may only look: use the one in http.token")]
    ReadOnly,
    /// A change by `GET`.
    #[error("use POST: a GET changes nothing, unless http.simple_get is on and the URL has the token")]
    Get,
}

impl Refusal {
    /// The status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::OtherHost => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossSite | Self::ReadOnly => StatusCode::FORBIDDEN,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Get => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

impl Guard {
    /// Whether this request may do what its route does. `query_token` is the value of `token` in its query.
    ///
    /// # Errors
    /// The first rule that refuses it.
    pub fn check(
        &self,
        scope: Scope,
        method: &Method,
        headers: &HeaderMap,
        query_token: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let host = self.host(headers)?;
        match scope {
            Scope::Health => Ok(()),
            Scope::Look => self.may_look(headers),
            Scope::Change if method == Method::GET => self.may_change_by_get(query_token),
            Scope::Change if method == Method::HEAD => Err(Refusal::Get),
            Scope::Change if method == Method::OPTIONS => self.may_look(headers),
            Scope::Change => {
                // A proxy in front of Home Assistant may change `Host`. A page of another site cannot set this header.
                let forwarded = only(headers, X_FORWARDED_HOST).filter(|_| self.is_ingress);
                is_same_site(headers, forwarded.and_then(|host| host.to_str().ok()).unwrap_or(host))?;
                self.may_change(headers)
            }
        }
    }

    /// The value of `Host`, if we are called that.
    fn host<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
        let host = only(headers, HOST).and_then(|host| host.to_str().ok()).ok_or(Refusal::NoHost)?;
        let name = without_port(host);
        let is_address = name.parse::<Ipv4Addr>().is_ok()
            || name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'))
                .is_some_and(|name| name.parse::<Ipv6Addr>().is_ok());
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_ours = name.eq_ignore_ascii_case("localhost")
            || self.allowed_hosts.iter().any(|allowed| name.eq_ignore_ascii_case(allowed));
        if is_address || is_ours || self.is_ingress { Ok(host) } else { Err(Refusal::OtherHost) }
    }

    fn may_look(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        if !headers.contains_key(AUTHORIZATION) {
            return Err(Refusal::NoToken);
        }
        let sent = token_in(headers).ok_or(Refusal::WrongToken)?;
        let may_read = self.read_token.as_ref().is_some_and(|token| token.is(&sent));
        if token.is(&sent) || may_read { Ok(()) } else { Err(Refusal::WrongToken) }
    }

    fn may_change(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.may_look(headers)?;
        match (&self.token, token_in(headers)) {
            (Some(token), Some(sent)) if !token.is(&sent) => Err(Refusal::ReadOnly),
            _ => Ok(()),
        }
    }

    /// A browser adds no token to a URL by itself, so no other site can make it send one.
    fn may_change_by_get(&self, query_token: Option<&[u8]>) -> Result<(), Refusal> {
        let (true, Some(sent), Some(token)) = (self.simple_get, query_token, &self.token) else {
            return Err(Refusal::Get);
        };
        if token.is(sent) { Ok(()) } else { Err(Refusal::WrongToken) }
    }
}

/// The rule of Fetch Metadata; for clients without it, which are programs and old browsers, that of `Origin`.
fn is_same_site(headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
    let is_same = match (headers.get(SEC_FETCH_SITE), headers.get(ORIGIN)) {
        (Some(_), _) => {
            let site = only(headers, SEC_FETCH_SITE).map(HeaderValue::as_bytes);
            matches!(site, Some(b"same-origin" | b"none"))
        }
        (None, None) => true,
        (None, Some(_)) => {
            let origin = only(headers, ORIGIN).and_then(|origin| origin.to_str().ok());
            let authority =
                origin.and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
    };
    if is_same { Ok(()) } else { Err(Refusal::CrossSite) }
}

/// The token of a program (`Bearer`), or what somebody typed into the browser's own dialogue (`Basic`: any name, and the token
/// as the password). A browser repeats the latter by itself, which the rule for other sites makes harmless.
fn token_in(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let (scheme, value) = only(headers, AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Cow::Borrowed(value.as_bytes()));
    }
    let decoded = BASE64_STANDARD.decode(value).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Cow::Owned(decoded[colon + 1..].to_vec()))
}

/// The value of `token` in the query, if there is exactly one.
pub fn query_token(uri: &Uri) -> Option<String> {
    let pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    let mut tokens = pairs.filter_map(|(key, value)| (key == "token").then_some(value));
    tokens.next().filter(|_| tokens.next().is_none()).map(Cow::into_owned)
}

/// The value of a header that must not be repeated: two parties could each take another one.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The host of an authority. The port is never compared: a proxy in front of us may have another one.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const READ: &str = "fedcba9876543210";

    fn guard(token: bool) -> Guard {
        let secret = |text: &str| token.then(|| Secret::new(text.to_owned()));
        Guard {
            allowed_hosts: vec!["hs100d.lan".into()],
            token: secret(TOKEN),
            read_token: secret(READ),
            simple_get: false,
            is_ingress: false,
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn all(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_host_is_an_address_localhost_or_an_allowed_name_whatever_the_port() {
        let ours = [
            "127.0.0.1",
            "127.0.0.1:8100",
            "192.168.1.9:80",
            "[::1]",
            "[::1]:8100",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "hs100d.lan",
            "HS100D.lan.:8100",
        ];
        let others = [
            "",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "hs100d.lan.example.com",
            "xhs100d.lan",
            "::1",
            "[::1",
            "[example.com]",
            "127.0.0.1:80:80",
            "1",
            "127.1",
            "0x7f000001",
            "localhost:80a",
            ":8100",
        ];
        for scope in [Scope::Health, Scope::Look, Scope::Change] {
            let check = |map: &HeaderMap| guard(false).check(scope, &Method::POST, map, None);
            for host in ours {
                assert_eq!(check(&all(&[("host", host)])), Ok(()), "{host}");
            }
            for host in others {
                assert_eq!(check(&all(&[("host", host)])), Err(Refusal::OtherHost), "{host}");
            }
            assert_eq!(check(&HeaderMap::new()), Err(Refusal::NoHost));
            let twice = all(&[("host", "localhost"), ("host", "localhost")]);
            assert_eq!(check(&twice), Err(Refusal::NoHost));
        }
    }

    #[test]
    fn only_our_own_page_and_programs_change_anything() {
        let sites = [
            Some("same-origin"),
            Some("none"),
            Some("same-site"),
            Some("cross-site"),
            Some(""),
            Some("x"),
            None,
        ];
        let origins = [
            (None, true),
            (Some("http://localhost:8100"), true),
            (Some("HTTP://LOCALHOST:8100"), true),
            (Some("http://localhost"), false),
            (Some("http://localhost:8101"), false),
            (Some("http://example.com"), false),
            (Some("null"), false),
            (Some(""), false),
        ];
        for site in sites {
            for (origin, is_host) in origins {
                let mut map = headers(&[("host", "localhost:8100")]);
                site.map(|site| map.append(SEC_FETCH_SITE, site.parse().unwrap()));
                origin.map(|origin| map.append(ORIGIN, origin.parse().unwrap()));
                let may = site.map_or(is_host, |site| ["same-origin", "none"].contains(&site));
                let expected = if may { Ok(()) } else { Err(Refusal::CrossSite) };
                for method in [Method::POST, Method::PUT, Method::DELETE] {
                    let verdict = guard(false).check(Scope::Change, &method, &map, None);
                    assert_eq!(verdict, expected, "{site:?} {origin:?}");
                }
                assert_eq!(guard(false).check(Scope::Look, &Method::GET, &map, None), Ok(()));
            }
        }
        let twice = all(&[("host", "localhost"), (SEC_FETCH_SITE, "none"), (SEC_FETCH_SITE, "cross-site")]);
        assert_eq!(guard(false).check(Scope::Change, &Method::POST, &twice, None), Err(Refusal::CrossSite));
        let two_origins =
            all(&[("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://x")]);
        assert_eq!(
            guard(false).check(Scope::Change, &Method::POST, &two_origins, None),
            Err(Refusal::CrossSite)
        );
    }

    #[test]
    fn a_token_opens_everything_and_one_for_reading_only_what_shows() {
        let basic =
            |user: &str, token: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{token}")));
        let full =
            [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN} "), basic("me", TOKEN), basic("", TOKEN)];
        let read = [format!("Bearer {READ}"), basic("me", READ)];
        let wrong = [
            format!("Bearer {TOKEN}x"),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            TOKEN.to_owned(),
            format!("Token {TOKEN}"),
            "Basic !".to_owned(),
            format!("Basic {}", BASE64_STANDARD.encode(TOKEN)),
        ];
        let check = |scope, method: Method, authorization: Option<&str>| {
            let mut map = headers(&[("host", "localhost")]);
            authorization.map(|value| map.append(AUTHORIZATION, value.parse().unwrap()));
            guard(true).check(scope, &method, &map, Some(TOKEN.as_bytes()))
        };
        for value in full.iter().map(|value| Some(value.as_str())) {
            assert_eq!(check(Scope::Look, Method::GET, value), Ok(()), "{value:?}");
            assert_eq!(check(Scope::Change, Method::POST, value), Ok(()), "{value:?}");
        }
        for value in read.iter().map(|value| Some(value.as_str())) {
            assert_eq!(check(Scope::Look, Method::GET, value), Ok(()), "{value:?}");
            assert_eq!(check(Scope::Change, Method::POST, value), Err(Refusal::ReadOnly), "{value:?}");
        }
        let wrong = wrong.iter().map(|value| (Some(value.as_str()), Refusal::WrongToken));
        for (value, refusal) in wrong.chain([(None, Refusal::NoToken)]) {
            assert_eq!(check(Scope::Look, Method::GET, value), Err(refusal), "{value:?}");
            assert_eq!(check(Scope::Change, Method::POST, value), Err(refusal), "{value:?}");
            assert_eq!(check(Scope::Change, Method::OPTIONS, value), Err(refusal), "{value:?}");
            assert_eq!(check(Scope::Health, Method::GET, value), Ok(()), "{value:?}");
        }
    }

    #[test]
    fn behind_home_assistants_proxy_any_name_is_taken_and_other_sites_still_change_nothing() {
        let ingress = Guard { is_ingress: true, ..guard(false) };
        let post = |lines: &[(&'static str, &str)]| {
            [&ingress, &guard(false)]
                .map(|guard| guard.check(Scope::Change, &Method::POST, &all(lines), None))
        };
        let home = ("host", "home.example:8123");
        let (refused, other) = (Err(Refusal::CrossSite), Err(Refusal::OtherHost));
        assert_eq!(post(&[home]), [Ok(()), other]);
        assert_eq!(post(&[home, ("sec-fetch-site", "same-origin")]), [Ok(()), other]);
        assert_eq!(post(&[home, ("sec-fetch-site", "cross-site")]), [refused, other]);
        assert_eq!(post(&[home, ("origin", "http://home.example:8123")]), [Ok(()), other]);
        assert_eq!(post(&[home, ("origin", "http://evil.example")]), [refused, other]);
        assert_eq!(post(&[]), [Err(Refusal::NoHost); 2]);
        // A proxy in front of Home Assistant has put its own name into `Host`.
        let inner = [("host", "127.0.0.1:8123"), ("x-forwarded-host", "home.example")];
        let from = |origin| post(&[inner[0], inner[1], ("origin", origin)]);
        assert_eq!(from("https://home.example"), [Ok(()), refused], "only the proxy is believed");
        assert_eq!(from("http://127.0.0.1:8123"), [refused, Ok(())]);
        let twice = [inner[0], inner[1], inner[1], ("origin", "https://home.example")];
        assert_eq!(post(&twice), [refused; 2]);
        assert_eq!(ingress.check(Scope::Change, &Method::GET, &all(&[home]), None), Err(Refusal::Get));
    }

    #[test]
    fn a_get_changes_something_only_with_the_full_token_in_its_query_where_that_is_allowed() {
        let map = headers(&[("host", "localhost"), ("authorization", "Bearer 0123456789abcdef")]);
        for (token, simple_get, query, expected) in [
            (true, true, Some(TOKEN), Ok(())),
            (true, true, Some(READ), Err(Refusal::WrongToken)),
            (true, true, Some(""), Err(Refusal::WrongToken)),
            (true, true, None, Err(Refusal::Get)),
            (true, false, Some(TOKEN), Err(Refusal::Get)),
            (false, true, Some(TOKEN), Err(Refusal::Get)),
            (false, true, None, Err(Refusal::Get)),
        ] {
            let guard = Guard { simple_get, ..guard(token) };
            let check = |method| guard.check(Scope::Change, &method, &map, query.map(str::as_bytes));
            assert_eq!(check(Method::GET), expected, "{token} {simple_get} {query:?}");
            // A client asks so before it decides: nothing may change.
            assert_eq!(check(Method::HEAD), Err(Refusal::Get));
        }
    }
}
