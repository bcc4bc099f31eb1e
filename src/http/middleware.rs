//! What every request passes on its way to a handler, and every response on its way back.
//!
//! [`check`] wraps each route and the answer to unknown paths: the guard, the time that a wrong token costs, `OPTIONS`, and the
//! body with its bounds. [`finish`] wraps everything: errors are problem documents, and all responses have the same security
//! headers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode, Uri};
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::guard::{Guard, Refusal, Scope};
use super::problem::{PROBLEM_JSON, Problem};

/// The largest body of a request, in bytes: that of a command over MQTT.
const MAX_BODY: usize = 4096;
/// From the head of a request to the last byte of its body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What a wrong token costs.
const WRONG_TOKEN_TIME: Duration = Duration::from_millis(250);
/// The most wrong tokens that wait at a time, so that waiting takes no more than these connections.
const MAX_WRONG_TOKENS: usize = 8;

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
}

impl Gate {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, wrong_tokens: Semaphore::new(MAX_WRONG_TOKENS) }
    }

    fn check(&self, scope: Scope, request: &Request) -> Result<(), Refusal> {
        let token = query_token(request.uri());
        self.guard.check(scope, request.method(), request.headers(), token.as_deref().map(str::as_bytes))
    }

    async fn refuse(&self, refusal: Refusal) -> Response {
        if refusal == Refusal::WrongToken {
            let Ok(_waits) = self.wrong_tokens.try_acquire() else { return too_many_wrong_tokens() };
            sleep(WRONG_TOKEN_TIME).await;
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
    let (parts, body) = request.into_parts();
    let body = match timeout(BODY_TIME, read(body)).await {
        Ok(body) => body.map_err(IntoResponse::into_response)?,
        Err(_) => {
            let what = format!("the body of a request must be here within {} s", BODY_TIME.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, what).into_response());
        }
    };
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
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

/// The value of `token`, if there is exactly one.
fn query_token(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    let mut tokens = pairs.into_iter().filter_map(|(key, value)| (key == "token").then_some(value));
    tokens.next().filter(|_| tokens.next().is_none())
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
