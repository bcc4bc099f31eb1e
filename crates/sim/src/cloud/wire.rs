//! HTTP of the simulated cloud: checks requests, builds responses, and sends them as a fault demands.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Method as Verb, Response, StatusCode};
use serde_json::Value;
use tokio::time::{Sleep, sleep};

use super::account::{BODY_IS_NULL, GENERIC_ERROR, JSON_FORMAT_ERROR, NO_SUCH_METHOD};
use super::signed;

/// As proxies and login portals send it.
const HTML_PAGE: &str =
    "<!DOCTYPE html><html><title>Not the cloud</title><p>Please come back later.</p></html>";

/// Checks what every request must fulfil. An error is the HTTP status and the error code to respond with.
pub(super) fn check(parts: &Parts, body: &[u8]) -> Result<Value, (StatusCode, i64)> {
    if parts.method != Verb::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, GENERIC_ERROR));
    }
    let path = parts.uri.path();
    if path != "/" && signed::method_of(path).is_none() {
        return Err((StatusCode::NOT_FOUND, NO_SUCH_METHOD));
    }
    if body.is_empty() {
        return Err((StatusCode::BAD_REQUEST, GENERIC_ERROR));
    }
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_json = kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    match serde_json::from_slice(body) {
        Ok(call @ Value::Object(_)) if is_json => Ok(call),
        Ok(Value::Null) if is_json => Err((StatusCode::OK, BODY_IS_NULL)),
        _ => Err((StatusCode::OK, JSON_FORMAT_ERROR)),
    }
}

pub(super) fn token_in_query(query: Option<&str>) -> Option<String> {
    query?.split('&').find_map(|pair| pair.strip_prefix("token=")).map(unescape)
}

fn unescape(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        let digit =
            |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).unwrap_or_default() as u8;
        plain.push(match byte {
            b'%' => digit(bytes.next()) << 4 | digit(bytes.next()),
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

pub(super) fn json(status: StatusCode, answer: &Value, pace: Pace) -> Response<HttpReply> {
    response(status, "application/json;charset=UTF-8", answer.to_string().into(), pace)
}

pub(super) fn html(status: StatusCode) -> Response<HttpReply> {
    response(status, "text/html", HTML_PAGE.into(), Pace::Whole)
}

/// 307: the client sends the same method and body again.
pub(super) fn redirect(to: &str) -> Response<HttpReply> {
    let mut response = html(StatusCode::TEMPORARY_REDIRECT);
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn response(status: StatusCode, kind: &'static str, bytes: Bytes, pace: Pace) -> Response<HttpReply> {
    let mut response = Response::new(HttpReply { left: bytes.clone(), length: bytes.len(), pace });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How the body of a response is sent.
pub(super) enum Pace {
    /// At once.
    Whole,
    /// Half of it, then the connection ends.
    CutOff(Cut),
    /// Byte by byte, at this interval.
    Drip(Duration, Option<Pin<Box<Sleep>>>),
}

/// The steps of [`Pace::CutOff`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing was sent yet.
    Before,
    /// The first half was handed over; hyper gets one turn to send it.
    Sending,
    /// The connection ends.
    After,
}

/// A response body. It announces its whole length, also if less is sent.
pub(super) struct HttpReply {
    left: Bytes,
    length: usize,
    pace: Pace,
}

impl Body for HttpReply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let half = self.length / 2;
        let next = match &mut self.pace {
            Pace::Whole => self.length,
            Pace::CutOff(cut) => match cut {
                Cut::Before => {
                    *cut = Cut::Sending;
                    half
                }
                Cut::Sending => {
                    *cut = Cut::After;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Cut::After => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            },
            Pace::Drip(interval, pause) => {
                let interval = *interval;
                let waiting = pause.get_or_insert_with(|| Box::pin(sleep(interval)));
                ready!(waiting.as_mut().poll(context));
                *pause = None;
                1
            }
        };
        let next = next.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(next)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_any_query() {
        let table = [
            (Some("token=ab-cd"), Some("ab-cd")),
            (Some("appName=Kasa_Android&termID=x&token=ab%2Dcd"), Some("ab-cd")),
            (Some("token=a+b%20c"), Some("a b c")),
            (Some("token=%"), Some("\0")),
            (Some("mytoken=ab"), None),
            (Some(""), None),
            (None, None),
        ];
        for (query, token) in table {
            assert_eq!(token_in_query(query).as_deref(), token, "{query:?}");
        }
    }
}
