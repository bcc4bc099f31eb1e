//! What every request passes on its way to a handler, and every response on its way back.
//!
//! [`check`] wraps each route and the answer to unknown paths: the guard, the time that a wrong token costs, `OPTIONS`, and the
//! body with its bounds. [`finish`] wraps everything: errors are problem documents, and all responses have the same security
//! headers.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode};
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::guard::{Guard, Refusal, Scope, query_token};
use super::problem::{PROBLEM_JSON, Problem};
use hs100d_core::model::shown;

/// The largest body of a request, in bytes: that of a command over MQTT.
const MAX_BODY: usize = 4096;
/// From the head of a request to the last byte of its body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What a wrong token costs.
const WRONG_TOKEN_TIME: Duration = Duration::from_millis(250);
/// The most wrong tokens that wait at a time, so that waiting takes no more than these connections.
const MAX_WRONG_TOKENS: usize = 8;

/// Who is logged in to Home Assistant: the name that is shown there, else that of the login.
const USER_NAMES: [&str; 2] = ["x-remote-user-display-name", "x-remote-user-name"];

/// The most characters of a foreign text in a line of the log.
const MAX_SHOWN: usize = 64;

/// What the page may load: nothing of other hosts, and no script that is not a file of ours. Only our own pages may frame it.
const CONTENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'self'",
);
/// On every response that has no value of its own for one of them.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];
/// How a client may send the token: a browser asks for it, a program has it.
const CHALLENGES: [HeaderValue; 2] =
    [HeaderValue::from_static("Basic realm=\"hs100d\""), HeaderValue::from_static("Bearer")];

/// The guard, and the wrong tokens that wait.
#[derive(Debug)]
pub(super) struct Gate {
    guard: Arc<Guard>,
    wrong_tokens: Semaphore,
    wrong_token_time: Duration,
    body_time: Duration,
}

impl Gate {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self {
            guard,
            wrong_tokens: Semaphore::new(MAX_WRONG_TOKENS),
            wrong_token_time: WRONG_TOKEN_TIME,
            body_time: BODY_TIME,
        }
    }

    fn check(&self, scope: Scope, request: &Request) -> Result<(), Refusal> {
        let token = query_token(request.uri());
        self.guard.check(scope, request.method(), request.headers(), token.as_deref().map(str::as_bytes))
    }

    async fn refuse(&self, refusal: Refusal) -> Response {
        if refusal == Refusal::WrongToken {
            let Ok(_waits) = self.wrong_tokens.try_acquire() else { return too_many_wrong_tokens() };
            sleep(self.wrong_token_time).await;
        }
        refused(refusal)
    }
}

/// Lets a request pass that the guard lets pass, with its whole body.
pub(super) async fn check(
    State((gate, scope)): State<(Arc<Gate>, Scope)>,
    request: Request,
    next: Next,
) -> Result<Response, Response> {
    if let Err(refusal) = gate.check(scope, &request) {
        return Err(gate.refuse(refusal).await);
    }
    // axum adds `Allow`, as for every method that a path does not have.
    if request.method() == Method::OPTIONS && request.extensions().get::<MatchedPath>().is_some() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if scope == Scope::Change && gate.guard.is_ingress {
        let path = shown(request.uri().path(), MAX_SHOWN);
        tracing::info!("{} in Home Assistant: {} {path}", user(request.headers()), request.method());
    }
    let (parts, body) = request.into_parts();
    let body = match timeout(gate.body_time, read(body)).await {
        Ok(body) => body.map_err(IntoResponse::into_response)?,
        Err(_) => {
            let what = format!("the body of a request must be here within {:?}", gate.body_time);
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, what).into_response());
        }
    };
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
}

/// The user of Home Assistant, as the Supervisor tells it.
fn user(headers: &HeaderMap) -> Cow<'static, str> {
    let name = USER_NAMES.into_iter().find_map(|name| headers.get(name)).map(HeaderValue::as_bytes);
    name.map_or("somebody".into(), |name| shown(&String::from_utf8_lossy(name), MAX_SHOWN).into())
}

async fn read(mut body: Body) -> Result<Vec<u8>, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {MAX_BODY} bytes"));
    // `Content-Length`
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame =
            frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body cannot be read to its end"))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(too_large());
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

fn refused(refusal: Refusal) -> Response {
    let mut response = Problem::from(refusal).into_response();
    let headers = response.headers_mut();
    match refusal {
        Refusal::NoToken | Refusal::WrongToken => {
            for challenge in CHALLENGES {
                headers.append(WWW_AUTHENTICATE, challenge);
            }
        }
        Refusal::Get => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        _ => {}
    }
    response
}

fn too_many_wrong_tokens() -> Response {
    let what = format!("{MAX_WRONG_TOKENS} wrong tokens are waiting for their answer: try again in a second");
    let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, what).into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Makes every error a problem document, and adds the headers that all responses have.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    with_security_headers(as_problem(next.run(request).await))
}

/// axum answers some requests itself: with plain text, or nothing.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().get(CONTENT_TYPE) == Some(&PROBLEM_JSON) {
        return response;
    }
    let detail = match status {
        StatusCode::BAD_REQUEST => "the path or the query cannot be read",
        StatusCode::NOT_FOUND => "there is nothing at this path: /openapi.json has all paths",
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path does not have this method: the header Allow has those of it"
        }
        other => other.canonical_reason().unwrap_or("it failed"),
    };
    let mut problem = Problem::new(status, detail).into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        problem.headers_mut().insert(ALLOW, allow.clone());
    }
    problem
}

pub(super) fn with_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::SocketAddr;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::calls::Caller;
    use super::super::listen::Listen;
    use super::super::overview::DaemonInfo;
    use super::super::routes::{self, App};
    use super::super::server::Server;
    use super::*;
    use hs100d_core::bridge::counters::CloudRequests;
    use hs100d_core::bridge::event::IdAllocator;
    use hs100d_core::secret::Secret;

    const TOKEN: &str = "0123456789abcdef";
    const READ: &str = "fedcba9876543210";
    const BOUND: Duration = Duration::from_secs(20);
    const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];

    /// The real table of endpoints, and a loop that has stopped: a request that passes gets 503, or what needs no loop.
    fn serve(token: bool, simple_get: bool, gate: impl FnOnce(&mut Gate)) -> (Server, SocketAddr) {
        let secret = |text: &str| token.then(|| Secret::new(text.to_owned()));
        let allowed_hosts = vec!["hs100d.lan".into()];
        let guard = Arc::new(Guard {
            allowed_hosts,
            token: secret(TOKEN),
            read_token: secret(READ),
            simple_get,
            is_ingress: false,
        });
        let mut with_guard = Gate::new(Arc::clone(&guard));
        with_guard.wrong_token_time = Duration::ZERO;
        gate(&mut with_guard);
        let (caller, _) = Caller::new(IdAllocator::default());
        let daemon_info = DaemonInfo {
            instance: "abc".into(),
            started: Instant::now(),
            cloud_requests: CloudRequests::default(),
        };
        let router = routes::router_behind(with_guard, App { caller, daemon_info, guard });
        let server = Server::start(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), None, router).unwrap();
        let address = server.address().unwrap();
        (server, address)
    }

    /// The paths of the table, with what their rows do; and one that is not in it.
    fn paths() -> BTreeMap<String, Vec<Scope>> {
        let mut paths = BTreeMap::from([("/nothing/here".to_owned(), vec![Scope::Look])]);
        for endpoint in routes::ENDPOINTS {
            let path = endpoint.path.replace("{name}", "kettle");
            paths.entry(path).or_default().push(endpoint.scope);
        }
        paths
    }

    /// What a request with this method does, if it passes. A method that no row of the path has falls to one of its rows.
    fn scope_of(scopes: &[Scope], method: &str) -> Scope {
        let has = |scope| scopes.contains(&scope);
        match method {
            "GET" | "HEAD" if has(Scope::Look) => Scope::Look,
            _ if has(Scope::Change) => Scope::Change,
            _ => scopes[0],
        }
    }

    /// A request, as the table varies it.
    #[derive(Debug, Clone, Copy)]
    struct Sent<'a> {
        method: &'a str,
        path: &'a str,
        host: &'a str,
        site: &'a str,
        authorization: Option<&'a str>,
        body: usize,
    }

    impl Sent<'_> {
        fn text(&self) -> String {
            let Sent { method, path, host, site, authorization, body } = self;
            let authorization =
                authorization.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
            let length = if *body > 0 { format!("content-length: {body}\r\n") } else { String::new() };
            let body = "x".repeat(*body);
            format!(
                "{method} {path} HTTP/1.1\r\n{host}{site}{authorization}{length}connection: close\r\n\r\n{body}"
            )
        }
    }

    async fn answer(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let ended = timeout(BOUND, stream.read_to_end(&mut bytes)).await.is_ok();
        assert!(ended, "{request:?} has no end: {}", String::from_utf8_lossy(&bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn status(response: &str) -> u16 {
        response
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("{response:?}"))
    }

    /// What must be true for every answer.
    fn is_well_formed(sent: &Sent<'_>, response: &str) {
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "frame-ancestors 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: ",
            "cache-control: ",
        ] {
            assert!(response.contains(header), "{header}: {sent:?}\n{response}");
        }
        let status = status(response);
        if status >= 400 {
            assert!(response.contains("content-type: application/problem+json"), "{sent:?}\n{response}");
            assert!(response.contains("cache-control: no-store"), "{sent:?}\n{response}");
        }
        // axum adds it also where the guard refuses a method that the path does not have.
        if status == 405 || sent.method == "OPTIONS" && status == 204 {
            assert!(response.contains("\r\nallow: "), "{sent:?}\n{response}");
        }
        assert_eq!(
            status == 401,
            response.contains("www-authenticate: Basic realm=\"hs100d\"\r\nwww-authenticate: Bearer"),
            "{sent:?}\n{response}"
        );
        assert!(!response.contains(TOKEN) && !response.contains(READ), "{sent:?}\n{response}");
    }

    /// The rules of the interface, written a second time and in another way.
    fn refusal(scope: Scope, sent: &Sent<'_>, needs_token: bool) -> Option<u16> {
        let changes = scope == Scope::Change && !["GET", "HEAD", "OPTIONS"].contains(&sent.method);
        let is_other_site = !sent.site.is_empty() && !sent.site.contains("same-origin");
        let may_look = !needs_token || [Some(TOKEN), Some(READ)].contains(&sent.authorization);
        let may_change = !needs_token || sent.authorization == Some(TOKEN);
        match () {
            () if sent.host.is_empty() => Some(400),
            () if sent.host.contains("example") => Some(421),
            () if scope == Scope::Health => None,
            () if scope == Scope::Change && ["GET", "HEAD"].contains(&sent.method) => Some(405),
            () if changes && is_other_site => Some(403),
            () if !may_look => Some(401),
            () if changes && !may_change => Some(403),
            () => None,
        }
    }

    #[test]
    fn the_user_of_home_assistant_is_named_in_one_short_line() {
        let named = |lines: &[(&'static str, &[u8])]| {
            let value = |value: &[u8]| HeaderValue::from_bytes(value).unwrap();
            let lines = lines.iter().map(|(name, text)| (HeaderName::from_static(name), value(text)));
            user(&lines.collect()).into_owned()
        };
        let (display_name, name) = ("x-remote-user-display-name", "x-remote-user-name");
        assert_eq!(named(&[]), "somebody");
        assert_eq!(named(&[(name, b"frida")]), "frida");
        assert_eq!(named(&[(name, b"frida"), (display_name, "Frida Ü.".as_bytes())]), "Frida Ü.");
        // What could colour the terminal, is no text, or fills the log.
        let c1 = "Frida\u{9b}31m".as_bytes();
        assert_eq!(named(&[(name, c1)]), "Frida\\u{9b}31m");
        assert_eq!(named(&[(name, b"\xff\"")]), "\u{fffd}\\\"");
        assert_eq!(named(&[(name, &[b'x'; 4000])]), "x".repeat(MAX_SHOWN) + "…");
    }

    #[tokio::test]
    async fn every_rule_holds_on_every_path_with_every_method() {
        const HOSTS: [&str; 3] = ["host: localhost:1\r\n", "host: example.com\r\n", ""];
        const SITES: [&str; 4] = [
            "",
            "sec-fetch-site: same-origin\r\n",
            "sec-fetch-site: cross-site\r\n",
            "origin: http://example.com\r\n",
        ];
        const AUTHORIZATIONS: [Option<&str>; 4] = [None, Some("wrong-wrong-wrong"), Some(READ), Some(TOKEN)];
        let mut seen = BTreeSet::new();
        for needs_token in [false, true] {
            let (_server, address) = serve(needs_token, false, |_| {});
            for (path, scopes) in &paths() {
                for method in METHODS {
                    let scope = scope_of(scopes, method);
                    let is_of_two_rows = scopes.len() > 1 && ["PUT", "DELETE"].contains(&method);
                    let usual = Sent {
                        method,
                        path,
                        host: HOSTS[0],
                        site: "",
                        authorization: needs_token.then_some(TOKEN),
                        body: 0,
                    };
                    let mut all: Vec<_> = HOSTS.map(|host| Sent { host, ..usual }).into();
                    for site in SITES {
                        let authorizations =
                            if needs_token { &AUTHORIZATIONS[..] } else { &AUTHORIZATIONS[..1] };
                        all.extend(authorizations.iter().map(|it| Sent {
                            site,
                            authorization: *it,
                            ..usual
                        }));
                    }
                    for sent in all {
                        let response = answer(address, &sent.text()).await;
                        is_well_formed(&sent, &response);
                        let got = status(&response);
                        match refusal(scope, &sent, needs_token) {
                            Some(403) if is_of_two_rows => {
                                assert!([403, 405].contains(&got), "{sent:?}\n{response}")
                            }
                            Some(refused) => assert_eq!(got, refused, "{sent:?}\n{response}"),
                            None => assert!(![401, 403, 421, 429].contains(&got), "{sent:?}\n{response}"),
                        }
                        seen.insert(got);
                    }
                    let large = Sent { body: MAX_BODY + 1, ..usual };
                    let expected = refusal(scope, &large, needs_token).unwrap_or(413);
                    let got = status(&answer(address, &large.text()).await);
                    assert!(got == expected || method == "OPTIONS" && got == 204, "{got}: {method} {path}");
                }
            }
        }
        assert!(seen.is_superset(&BTreeSet::from([200, 204, 400, 401, 403, 404, 405, 421, 503])), "{seen:?}");
    }

    #[tokio::test]
    async fn a_get_passes_with_the_token_in_its_query_only_where_that_is_on() {
        for (simple_get, query, passes) in [
            (true, format!("token={TOKEN}"), true),
            (true, "for=30m&token=0123456789abcde%66".to_owned(), true),
            (true, format!("token={READ}"), false),
            (true, format!("token={TOKEN}&token={TOKEN}"), false),
            (true, "token=".to_owned(), false),
            (true, "x".to_owned(), false),
            (false, format!("token={TOKEN}"), false),
        ] {
            let (_server, address) = serve(true, simple_get, |_| {});
            let changing =
                paths().into_iter().filter(|(_, scopes)| scopes.iter().all(|it| *it == Scope::Change));
            for (path, _) in changing {
                let request = |method| {
                    format!(
                        "{method} {path}?{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                    )
                };
                let response = answer(address, &request("GET")).await;
                let is_refused = status(&response) == 401 || response.contains("http.simple_get");
                assert_eq!(is_refused, !passes, "{path}?{query}: {response}");
                assert!(!response.contains(TOKEN), "{response}");
                assert_eq!(status(&answer(address, &request("HEAD")).await), 405, "nothing changes by HEAD");
            }
        }
    }

    #[tokio::test]
    async fn eight_wrong_tokens_wait_and_the_ninth_is_refused_at_once() {
        let (_server, address) = serve(true, false, |gate| gate.wrong_token_time = BOUND);
        let with_token = |token: &str| {
            format!(
                "GET /nothing HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
            )
        };
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..=MAX_WRONG_TOKENS {
            let request = with_token("wrong-wrong-wrong");
            answers.spawn(async move { answer(address, &request).await });
        }
        let first = timeout(BOUND, answers.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status(&first), 429, "{first}");
        assert!(first.contains("retry-after: 1"), "{first}");
        assert_eq!(status(&answer(address, &with_token(TOKEN)).await), 404, "the right one does not wait");
        let without = "GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        assert_eq!(status(&answer(address, without).await), 401, "nor a browser that has yet to ask for it");
        assert!(answers.try_join_next().is_none(), "the others still wait");
    }

    #[tokio::test]
    async fn a_body_that_is_slow_or_breaks_off_gets_a_sentence() {
        let (_server, address) = serve(false, false, |gate| gate.body_time = Duration::from_millis(50));
        let head = "POST /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
        let slow = answer(address, &format!("{head}content-length: 5\r\n\r\nab")).await;
        assert_eq!(status(&slow), 408, "{slow}");
        assert!(slow.contains("application/problem+json"), "{slow}");
        let chunks = format!("{:x}\r\n{}\r\n", 3000, "x".repeat(3000)).repeat(2);
        let large =
            answer(address, &format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")).await;
        assert_eq!(status(&large), 413, "{large}");
        let malformed = answer(address, &format!("{head}transfer-encoding: chunked\r\n\r\nhello\r\n")).await;
        assert_eq!(status(&malformed), 400, "{malformed}");
    }
}
