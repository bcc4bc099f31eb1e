//! The HTTP/1.1 that KLAP needs: three kinds of POST out of bytes, and answers into them. Pure: bytes in, bytes out.
//!
//! The answer comes from a device that may be anything: head and body are bounded, and no announced length is believed.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Header, Response, Status};

use crate::model::{Address, Destination};
use crate::secret::Secret;
use crate::smarthome::frame;

/// The longest head of an answer, in bytes. Those of plugs have about 100.
pub const MAX_HEAD: usize = 4096;
/// The longest body of an answer, in bytes: as much as the other protocol may send.
pub const MAX_BODY: usize = frame::MAX_PAYLOAD;
/// The most header lines of an answer. Plugs send four.
const MAX_HEADERS: usize = 32;
/// The longest session id, in bytes. Plugs use 32.
const MAX_SESSION_ID: usize = 256;
/// The lifetime of a session where the plug does not say it. All that say it say this.
const USUAL_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Not written in `Host`.
const HTTP_PORT: u16 = 80;

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub(super) enum KlapPath {
    /// Our seed.
    Handshake1,
    /// Our proof.
    Handshake2,
    /// The request of this number in a session.
    Request(i32),
}

/// Replaces the contents of `buffer` by a whole request.
pub(super) fn write_request(
    buffer: &mut Vec<u8>,
    path: KlapPath,
    address: &Address,
    session_id: Option<&Secret>,
    body: &[u8],
) {
    buffer.clear();
    // Writing to memory cannot fail.
    let _ = match path {
        KlapPath::Handshake1 => write!(buffer, "POST /app/handshake1"),
        KlapPath::Handshake2 => write!(buffer, "POST /app/handshake2"),
        KlapPath::Request(number) => write!(buffer, "POST /app/request?seq={number}"),
    };
    let _ = match address.destination() {
        Destination::Socket(SocketAddr::V6(socket)) => write!(buffer, " HTTP/1.1\r\nHost: [{}]", socket.ip()),
        Destination::Socket(SocketAddr::V4(socket)) => write!(buffer, " HTTP/1.1\r\nHost: {}", socket.ip()),
        Destination::Name(name, _) => write!(buffer, " HTTP/1.1\r\nHost: {name}"),
    };
    if address.port() != HTTP_PORT {
        let _ = write!(buffer, ":{}", address.port());
    }
    // Some servers answer an empty `Cookie` with a page, and `TIMEOUT` must not be sent back.
    if let Some(id) = session_id {
        let _ = write!(buffer, "\r\nCookie: TP_SESSIONID={}", id.expose());
    }
    let length = body.len();
    let _ = write!(buffer, "\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n");
    buffer.extend_from_slice(body);
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KlapAnswer {
    /// The status code.
    pub status: u16,
    /// Where the body stands in the bytes received; the head stands before it.
    pub body: Range<usize>,
    /// Whether another request may be sent on the connection.
    pub keeps_connection: bool,
}

/// Why the bytes received are no answer, whatever may follow. Quotes nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKlapAnswer {
    /// Not the head of an HTTP/1 response.
    #[error("not HTTP")]
    NotHttp,
    /// Longer than [`MAX_HEAD`].
    #[error("its HTTP head is too long")]
    HeadTooLong,
    /// `Content-Length` is no number, or there are two that differ.
    #[error("its HTTP length is no number")]
    BadLength,
    /// `Content-Length` is larger than [`MAX_BODY`].
    #[error("it announces {0} bytes")]
    Announced(usize),
    /// A body without an announced length is longer than [`MAX_BODY`].
    #[error("it does not end after {MAX_BODY} bytes")]
    BodyTooLong,
    /// `Transfer-Encoding`. No plug was seen to use one.
    #[error("it uses an HTTP transfer encoding")]
    TransferEncoding,
    /// The session id is too long, or cannot be sent back.
    #[error("its session id is unusable")]
    SessionId,
}

/// Parses the bytes received for one request; `None` while more are needed. `is_ended` says that no more will come, which ends
/// a body without an announced length.
///
/// # Errors
/// If they are no answer, whatever may follow.
pub fn parse(received: &[u8], is_ended: bool) -> Result<Option<KlapAnswer>, BadKlapAnswer> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut head = Response::new(&mut headers);
    let start = match head.parse(received) {
        Ok(Status::Complete(start)) if start <= MAX_HEAD => start,
        Ok(Status::Partial) if received.len() <= MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadKlapAnswer::HeadTooLong),
        Err(_) => return Err(BadKlapAnswer::NotHttp),
    };
    // A complete head has both.
    let (Some(status), Some(version)) = (head.code, head.version) else { return Err(BadKlapAnswer::NotHttp) };
    let Some(length) = body_length(status, head.headers)? else {
        let body = start..received.len();
        if body.len() > MAX_BODY {
            return Err(BadKlapAnswer::BodyTooLong);
        }
        return Ok(is_ended.then_some(KlapAnswer { status, body, keeps_connection: false }));
    };
    if length > MAX_BODY {
        return Err(BadKlapAnswer::Announced(length));
    }
    let end = start + length;
    if received.len() < end {
        return Ok(None);
    }
    // More bytes than the answer has could be taken for the next one.
    let keeps_connection = version >= 1 && received.len() == end && !is_ended && !says_close(head.headers);
    Ok(Some(KlapAnswer { status, body: start..end, keeps_connection }))
}

/// `None` for a body that ends with the connection.
fn body_length(status: u16, headers: &[Header<'_>]) -> Result<Option<usize>, BadKlapAnswer> {
    if matches!(status, 100..200 | 204 | 304) {
        return Ok(Some(0));
    }
    let mut found = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Err(BadKlapAnswer::TransferEncoding);
        }
        if header.name.eq_ignore_ascii_case("Content-Length") {
            let length = read_number(header.value).ok_or(BadKlapAnswer::BadLength)?;
            if found.replace(length).is_some_and(|other| other != length) {
                return Err(BadKlapAnswer::BadLength);
            }
        }
    }
    Ok(found)
}

fn says_close(headers: &[Header<'_>]) -> bool {
    let of_connection = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Connection"));
    of_connection
        .flat_map(|header| header.value.split(|&byte| byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Digits only: `parse` would take a sign.
fn read_number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    let text = text.trim_ascii();
    let is_digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_digits)?.parse().ok()
}

/// What the answer to the first handshake says of the session.
#[derive(Debug)]
pub struct SessionCookie {
    /// Absent if the plug gives none; the requests then have no `Cookie`.
    pub id: Option<Secret>,
    /// The session's lifetime.
    pub timeout: Duration,
}

impl SessionCookie {
    /// Reads the head of an answer. Plugs write `Set-Cookie: TP_SESSIONID=<hex>;TIMEOUT=86400`, where the second looks like
    /// an attribute of the cookie and is none.
    ///
    /// # Errors
    /// If it is no head, or the session id cannot be sent back.
    pub fn read(head: &[u8]) -> Result<Self, BadKlapAnswer> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut headers);
        let Ok(Status::Complete(_)) = response.parse(head) else { return Err(BadKlapAnswer::NotHttp) };
        let mut cookie = Self { id: None, timeout: USUAL_TIMEOUT };
        for header in response.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("Set-Cookie")) {
            for pair in header.value.split(|&byte| byte == b';').map(<[u8]>::trim_ascii) {
                if let Some(id) = pair.strip_prefix(b"TP_SESSIONID=") {
                    cookie.id = read_session_id(id)?;
                } else if let Some(seconds) = pair.strip_prefix(b"TIMEOUT=").and_then(read_number::<u32>) {
                    cookie.timeout = Duration::from_secs(seconds.into());
                }
            }
        }
        Ok(cookie)
    }
}

/// `None` for an empty one.
fn read_session_id(id: &[u8]) -> Result<Option<Secret>, BadKlapAnswer> {
    let is_usable = id.len() <= MAX_SESSION_ID && id.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(id).ok().filter(|_| is_usable).ok_or(BadKlapAnswer::SessionId)?;
    Ok((!text.is_empty()).then(|| Secret::new(text.to_owned())))
}
