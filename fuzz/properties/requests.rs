//! Requests over HTTP: what a head may do, by the rules for names, sites and tokens.

use std::net::{Ipv4Addr, Ipv6Addr};

use hs100d::http::guard::{self, Guard, Refusal, Scope};
use hs100d::secret::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::texts::fits_a_line;

/// In the corpus as well.
const TOKEN: &str = "canary-canary-canary";
const READ_TOKEN: &str = "reader-reader-reader";
const NAME: &str = "hs100d.lan";
const LONGEST_COMPLAINT: usize = 256;
/// The bit of the choice for the listener behind Home Assistant's proxy.
const INGRESS: u8 = 8;

/// The first byte chooses the rules; the rest is the head of a request.
pub fn hold(input: &[u8]) {
    let Some((&choice, head)) = input.split_first() else { return };
    let Some((method, uri, headers)) = parsed(head) else { return };
    let query_token = guard::query_token(&uri);
    for simple_get in [false, true] {
        let guard = guard_of(choice, simple_get);
        let check = |scope| guard.check(scope, &method, &headers, query_token.as_deref().map(str::as_bytes));
        let [health, look, change] = [Scope::Health, Scope::Look, Scope::Change].map(check);
        for verdict in [health, look, change] {
            assert_eq!(verdict.is_err_and(is_about_host), !is_ours(&headers, choice), "{headers:?}");
            if let Err(refusal) = verdict {
                fits_a_line(&refusal.to_string(), LONGEST_COMPLAINT);
                assert!(refusal.status().is_client_error());
            }
        }
        assert!(health.is_ok() || health.is_err_and(is_about_host), "health needs no token");
        if guard.token.is_some() {
            assert!(look.is_err() || holds(&headers, &[TOKEN, READ_TOKEN]), "{headers:?}");
            let may_change = holds(&headers, &[TOKEN]) || simple_get && query_token.as_deref() == Some(TOKEN);
            assert!(change.is_err() || may_change, "{uri} {headers:?}");
        }
        if change.is_ok() {
            changes_only_for_our_own_page(&method, &headers, simple_get && query_token.is_some(), choice);
        }
    }
}

/// As hyper reads it.
fn parsed(head: &[u8]) -> Option<(Method, Uri, HeaderMap)> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut lines);
    request.parse(head).ok().filter(httparse::Status::is_complete)?;
    let mut headers = HeaderMap::new();
    for line in request.headers.iter() {
        headers.append(line.name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some((request.method?.parse().ok()?, request.path?.parse().ok()?, headers))
}

fn guard_of(choice: u8, simple_get: bool) -> Guard {
    let secret = |text: &str| Secret::new(text.to_owned());
    Guard {
        allowed_hosts: if choice & 1 == 0 { Vec::new() } else { vec![NAME.into()] },
        token: (choice & 2 != 0).then(|| secret(TOKEN)),
        read_token: (choice & 4 != 0).then(|| secret(READ_TOKEN)),
        simple_get,
        is_ingress: choice & INGRESS != 0,
    }
}

fn is_about_host(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::NoHost | Refusal::OtherHost)
}

/// The name of this machine, written in another way than in the guard.
fn is_ours(headers: &HeaderMap, choice: u8) -> bool {
    let values: Vec<_> = headers.get_all("host").iter().collect();
    let [host] = values[..] else { return false };
    let Ok(host) = host.to_str() else { return false };
    if choice & INGRESS != 0 {
        return true;
    }
    let end = host.find(']').map(|end| end + 1).or(host.find(':')).unwrap_or(host.len());
    let (name, port) = host.split_at(end);
    let is_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|it| it.bytes().all(|b| b.is_ascii_digit()));
    let name = name.to_ascii_lowercase();
    let own = ["localhost", NAME].map(|own| [own.to_owned(), format!("{own}.")]);
    let is_own = own[0].contains(&name) || choice & 1 != 0 && own[1].contains(&name);
    let in_brackets = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address =
        name.parse::<Ipv4Addr>().is_ok() || in_brackets.is_some_and(|it| it.parse::<Ipv6Addr>().is_ok());
    is_port && (is_own || is_address)
}

/// Whether one of these tokens is in the head, in either form.
fn holds(headers: &HeaderMap, tokens: &[&str]) -> bool {
    let values: Vec<_> = headers.get_all("authorization").iter().collect();
    let [value] = values[..] else { return false };
    let Ok(value) = value.to_str() else { return false };
    let is_basic = value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "));
    // The unit tests decode it.
    tokens.iter().any(|token| value.contains(token)) || is_basic
}

fn changes_only_for_our_own_page(method: &Method, headers: &HeaderMap, has_query_token: bool, choice: u8) {
    assert!(*method != Method::HEAD, "nothing changes by HEAD");
    assert!(*method != Method::GET || has_query_token, "nothing changes by GET");
    if [Method::GET, Method::OPTIONS].contains(method) {
        return;
    }
    let all = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let host = match &all("x-forwarded-host")[..] {
        [forwarded]
            if choice & INGRESS != 0
                && HeaderValue::from_bytes(forwarded).is_ok_and(|it| it.to_str().is_ok()) =>
        {
            forwarded
        }
        _ => all("host")[0],
    };
    let host = host.to_ascii_lowercase();
    match (&all("sec-fetch-site")[..], &all("origin")[..]) {
        ([], []) => {}
        ([], [origin]) => {
            assert!(origin.to_ascii_lowercase().ends_with(&[b"://", &host[..]].concat()), "{headers:?}")
        }
        ([site], _) => assert!([&b"same-origin"[..], b"none"].contains(site), "{headers:?}"),
        _ => panic!("more than one: {headers:?}"),
    }
}
