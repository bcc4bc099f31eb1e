//! The HTTP/1.1 that KLAP needs: three kinds of POST out of bytes, and answers into them. Pure: bytes in, bytes out.
//!
//! The answer comes from a device that may be anything: head and body are bounded, and no announced length is believed.

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Header, Response, Status};

use hs100d_core::model::{Address, Destination};
use hs100d_core::secret::Secret;
use hs100d_core::smarthome::frame;

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
/// What follows the data of a chunk.
const CHUNK_END: &[u8] = b"\r\n";
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
    /// `Transfer-Encoding` other than `chunked`, or beside a length.
    #[error("it uses an unknown HTTP transfer encoding")]
    TransferEncoding,
    /// A chunk has no size, or does not end where its size says.
    #[error("its HTTP chunks are malformed")]
    BadChunk,
    /// The session id is too long, or cannot be sent back.
    #[error("its session id is unusable")]
    SessionId,
}

/// Parses the bytes received for one request; `None` while more are needed. `is_ended` says that no more will come, which ends
/// a body without an announced length. The chunks of a whole body are moved together; until then nothing changes.
///
/// # Errors
/// If they are no answer, whatever may follow.
pub fn parse(received: &mut [u8], is_ended: bool) -> Result<Option<KlapAnswer>, BadKlapAnswer> {
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
    let framing = body_framing(status, head.headers)?;
    let end = match framing {
        BodyFraming::Length(length) if length > MAX_BODY => return Err(BadKlapAnswer::Announced(length)),
        BodyFraming::Length(length) => Some(start + length).filter(|end| *end <= received.len()),
        BodyFraming::Chunks => end_of_chunks(received, start)?,
        BodyFraming::UntilClose if received.len() - start > MAX_BODY => {
            return Err(BadKlapAnswer::BodyTooLong);
        }
        BodyFraming::UntilClose => is_ended.then_some(received.len()),
    };
    let Some(end) = end else { return Ok(None) };
    // More bytes than the answer has could be taken for the next one.
    let is_alone = received.len() == end && !is_ended;
    let keeps_connection = version >= 1 && is_alone && !says_close(head.headers);
    let end = if framing == BodyFraming::Chunks { join_chunks(received, start) } else { end };
    Ok(Some(KlapAnswer { status, body: start..end, keeps_connection }))
}

/// How the end of a body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    /// By its length.
    Length(usize),
    /// By a chunk of length 0.
    Chunks,
    /// By the end of the connection.
    UntilClose,
}

fn body_framing(status: u16, headers: &[Header<'_>]) -> Result<BodyFraming, BadKlapAnswer> {
    if matches!(status, 100..200 | 204 | 304) {
        return Ok(BodyFraming::Length(0));
    }
    let mut framing = BodyFraming::UntilClose;
    for header in headers {
        let (found, bad) = if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            let is_chunked = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            (is_chunked.then_some(BodyFraming::Chunks), BadKlapAnswer::TransferEncoding)
        } else if header.name.eq_ignore_ascii_case("Content-Length") {
            (read_number(header.value).map(BodyFraming::Length), BadKlapAnswer::BadLength)
        } else {
            continue;
        };
        let found = found.ok_or(bad)?;
        match std::mem::replace(&mut framing, found) {
            BodyFraming::UntilClose => {}
            // A proxy in between may believe the one, and the plug the other.
            before if before != found => return Err(bad),
            _ => {}
        }
    }
    Ok(framing)
}

/// Where a body in chunks ends, its trailer included; `None` while more bytes are needed. Counts the sizes and the trailer
/// against [`MAX_BODY`] as well.
fn end_of_chunks(received: &[u8], start: usize) -> Result<Option<usize>, BadKlapAnswer> {
    let bounded = &received[..received.len().min(start + MAX_BODY)];
    let missing = if bounded.len() < received.len() { Err(BadKlapAnswer::BodyTooLong) } else { Ok(None) };
    let mut at = start;
    loop {
        let Some(data) = chunk_at(bounded, at)? else { return missing };
        if data.is_empty() {
            let mut trailer = [EMPTY_HEADER; MAX_HEADERS];
            return match httparse::parse_headers(&bounded[data.end..], &mut trailer) {
                Ok(Status::Complete((length, _))) => Ok(Some(data.end + length)),
                Ok(Status::Partial) => missing,
                Err(_) => Err(BadKlapAnswer::BadChunk),
            };
        }
        at = data.end + CHUNK_END.len();
    }
}

/// Moves the chunks of a whole body together, to its start. Returns where it ends then.
fn join_chunks(received: &mut [u8], start: usize) -> usize {
    let (mut at, mut end) = (start, start);
    while let Ok(Some(data)) = chunk_at(received, at)
        && !data.is_empty()
    {
        at = data.end + CHUNK_END.len();
        let length = data.len();
        received.copy_within(data, end);
        end += length;
    }
    end
}

/// Where the data of the chunk at this place are; `None` while more bytes are needed. The last chunk has none.
fn chunk_at(received: &[u8], at: usize) -> Result<Option<Range<usize>>, BadKlapAnswer> {
    let rest = received.get(at..).unwrap_or_default();
    // The parser takes a line without digits for a size of 0.
    if rest.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
        return Err(BadKlapAnswer::BadChunk);
    }
    let (start, length) = match httparse::parse_chunk_size(rest) {
        Ok(Status::Complete((start, length))) => (at + start, usize::try_from(length).unwrap_or(usize::MAX)),
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err(BadKlapAnswer::BadChunk),
    };
    if length > MAX_BODY {
        return Err(BadKlapAnswer::Announced(length));
    }
    let data = start..start + length;
    match received.get(data.end..data.end + CHUNK_END.len()) {
        _ if data.is_empty() => Ok(Some(data)),
        Some(end) if end == CHUNK_END => Ok(Some(data)),
        Some(_) => Err(BadKlapAnswer::BadChunk),
        None => Ok(None),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\nServer: SHIP 2.0\r\nContent-Length: 5\r\n\r\nhello";

    fn parse(received: &[u8], is_ended: bool) -> Result<Option<KlapAnswer>, BadKlapAnswer> {
        super::parse(&mut received.to_vec(), is_ended)
    }

    fn parsed(received: &str) -> Result<Option<(u16, String, bool)>, BadKlapAnswer> {
        let mut received = received.as_bytes().to_vec();
        let answer = super::parse(&mut received, false)?;
        let body = |body: Range<usize>| String::from_utf8(received[body].to_vec()).unwrap();
        Ok(answer.map(|answer| (answer.status, body(answer.body), answer.keeps_connection)))
    }

    /// The outcome of [`parsed`] for a whole answer.
    fn whole(
        status: u16,
        body: &str,
        keeps_connection: bool,
    ) -> Result<Option<(u16, String, bool)>, BadKlapAnswer> {
        Ok(Some((status, body.to_owned(), keeps_connection)))
    }

    fn cookie(header: &str) -> Result<(Option<String>, u64), BadKlapAnswer> {
        let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
        let cookie = SessionCookie::read(head.as_bytes())?;
        Ok((cookie.id.map(|id| id.expose().to_owned()), cookie.timeout.as_secs()))
    }

    #[test]
    fn a_request_is_what_plugs_take() {
        let address = Address::new("192.0.2.7", 80).unwrap();
        let mut buffer = b"left over".to_vec();
        write_request(&mut buffer, KlapPath::Handshake1, &address, None, b"seed");
        assert_eq!(
            std::str::from_utf8(&buffer).unwrap(),
            "POST /app/handshake1 HTTP/1.1\r\nHost: 192.0.2.7\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: 4\r\n\r\nseed"
        );
        let id = Secret::new("A1B2".to_owned());
        for (address, path, first_lines) in [
            ("[fe80::1]:81", KlapPath::Handshake2, "POST /app/handshake2 HTTP/1.1\r\nHost: [fe80::1]:81\r\n"),
            ("plug.lan", KlapPath::Request(7), "POST /app/request?seq=7 HTTP/1.1\r\nHost: plug.lan\r\n"),
            (
                "::1",
                KlapPath::Request(i32::MIN),
                "POST /app/request?seq=-2147483648 HTTP/1.1\r\nHost: [::1]\r\n",
            ),
        ] {
            write_request(&mut buffer, path, &Address::new(address, 80).unwrap(), Some(&id), &[0; 80]);
            let (head, body) = buffer.split_at(buffer.len() - 80);
            let rest = "Cookie: TP_SESSIONID=A1B2\r\nContent-Type: application/octet-stream\r\n\
                        Content-Length: 80\r\n\r\n";
            assert_eq!(std::str::from_utf8(head).unwrap(), [first_lines, rest].concat());
            assert_eq!(body, [0; 80]);
        }
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        for end in 0..OK.len() {
            for is_ended in [false, true] {
                assert_eq!(parse(&OK.as_bytes()[..end], is_ended), Ok(None), "{end}");
            }
        }
        assert_eq!(parsed(OK), whole(200, "hello", true));
        assert_eq!(parsed(&format!("{OK}H")), whole(200, "hello", false), "one byte too many");
        let ended = parse(OK.as_bytes(), true).unwrap().unwrap();
        assert!(!ended.keeps_connection);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let answer = "HTTP/1.1 200 OK\r\n\r\nhello";
        for end in 0..=answer.len() {
            assert_eq!(parse(&answer.as_bytes()[..end], false), Ok(None), "{end}");
        }
        let whole = KlapAnswer { status: 200, body: 19..24, keeps_connection: false };
        assert_eq!(parse(answer.as_bytes(), true), Ok(Some(whole)));
        let most = [answer.as_bytes(), &vec![0; MAX_BODY - 5]].concat();
        assert_eq!(parse(&most, true).unwrap().unwrap().body.len(), MAX_BODY);
        for is_ended in [false, true] {
            let too_long = [&most[..], b"0"].concat();
            assert_eq!(parse(&too_long, is_ended), Err(BadKlapAnswer::BodyTooLong));
        }
    }

    #[test]
    fn a_connection_is_kept_unless_the_plug_closes_it() {
        for (version, header, is_kept) in [
            ("1.1", "Server: x", true),
            ("1.1", "Connection: keep-alive", true),
            ("1.1", "Connection: close", false),
            ("1.1", "connection: Upgrade, CLOSE", false),
            ("1.0", "Server: x", false),
        ] {
            let answer = format!("HTTP/{version} 403 Forbidden\r\n{header}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(parsed(&answer), whole(403, "", is_kept), "{version} {header}");
        }
        for status in [100, 101, 204, 304] {
            assert_eq!(
                parsed(&format!("HTTP/1.1 {status} x\r\n\r\n")),
                whole(status, "", true),
                "they have no body, and no length"
            );
        }
    }

    #[test]
    fn what_is_no_answer_says_why_whatever_follows() {
        let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
        for (received, bad) in [
            ("\u{8f}\0", BadKlapAnswer::NotHttp),
            ("<html>", BadKlapAnswer::NotHttp),
            ("HTTP/2 200 OK\r\n", BadKlapAnswer::NotHttp),
            (&head("Content-Length: 65537"), BadKlapAnswer::Announced(65537)),
            (&head("Content-Length: 2147483647"), BadKlapAnswer::Announced(2147483647)),
            (&head("Content-Length: 99999999999999999999"), BadKlapAnswer::BadLength),
            (&head("Content-Length: -1"), BadKlapAnswer::BadLength),
            (&head("Content-Length: +1"), BadKlapAnswer::BadLength),
            (&head("Content-Length:"), BadKlapAnswer::BadLength),
            (&head("Content-Length: 1\r\nContent-Length: 2"), BadKlapAnswer::BadLength),
            (&head("Transfer-Encoding: gzip"), BadKlapAnswer::TransferEncoding),
            (&head("Transfer-Encoding: gzip, chunked"), BadKlapAnswer::TransferEncoding),
            (&head("Content-Length: 1\r\nTransfer-Encoding: chunked"), BadKlapAnswer::TransferEncoding),
            (&head("Transfer-Encoding: chunked\r\nContent-Length: 1"), BadKlapAnswer::BadLength),
            (&head(&"x: y\r\n".repeat(33)), BadKlapAnswer::HeadTooLong),
            (&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD)), BadKlapAnswer::HeadTooLong),
        ] {
            assert_eq!(parsed(received), Err(bad), "{received:?}");
            assert_eq!(parsed(&format!("{received}\r\n\r\nmore")), Err(bad), "{received:?}");
        }
        assert_eq!(parsed(&head("Content-Length: 0\r\nContent-Length: 0")), whole(200, "", true));
    }

    const SOME_CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_body_in_chunks_is_whole_with_the_end_of_its_trailer_and_not_before() {
        for (chunks, body) in [
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("2;name=value\r\nhe\r\n00001\r\nl\r\n2 \r\nlo\r\n0\r\nDate: today\r\nx: y\r\n\r\n", "hello"),
            ("9\r\n0\r\n\r\n5\r\nx\r\na\r\n0123456789\r\n000\r\n\r\n", "0\r\n\r\n5\r\nx0123456789"),
            ("0\r\n\r\n", ""),
        ] {
            let answer = format!("{CHUNKED}{chunks}");
            for end in 0..answer.len() {
                for is_ended in [false, true] {
                    assert_eq!(parse(&answer.as_bytes()[..end], is_ended), Ok(None), "{end} {chunks:?}");
                }
            }
            assert_eq!(parsed(&answer), whole(200, body, true));
            assert_eq!(parsed(&format!("{answer}H")), whole(200, body, false), "one byte too many");
            let closed = answer.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            assert_eq!(parsed(&closed), whole(200, body, false));
        }
    }

    #[test]
    fn malformed_chunks_and_too_many_of_them_are_no_answer() {
        for (chunks, bad) in [
            ("x\r\n", BadKlapAnswer::BadChunk),
            ("\r\n", BadKlapAnswer::BadChunk),
            ("-1\r\n", BadKlapAnswer::BadChunk),
            ("1\r\nhello", BadKlapAnswer::BadChunk),
            ("1\nh\r\n", BadKlapAnswer::BadChunk),
            ("0\r\n: no name\r\n", BadKlapAnswer::BadChunk),
            ("11111111111111111\r\n", BadKlapAnswer::BadChunk),
            ("10001\r\n", BadKlapAnswer::Announced(65537)),
            (&"1\r\nx\r\n".repeat(MAX_BODY / 6 + 1), BadKlapAnswer::BodyTooLong),
            (&format!("1;{}", "x".repeat(MAX_BODY)), BadKlapAnswer::BodyTooLong),
            (&format!("0\r\nx: {}", "y".repeat(MAX_BODY)), BadKlapAnswer::BodyTooLong),
        ] {
            let answer = format!("{CHUNKED}{chunks}");
            assert_eq!(parsed(&answer), Err(bad), "{chunks:.40?}");
            assert_eq!(parsed(&format!("{answer}\r\n0\r\n\r\n")), Err(bad), "{chunks:.40?}");
        }
    }

    #[test]
    fn the_session_id_and_the_lifetime_are_read_from_one_header_or_from_two() {
        let id = Some("A1B2".to_owned());
        for (header, expected) in [
            ("Set-Cookie: TP_SESSIONID=A1B2;TIMEOUT=86400", (id.clone(), 86400)),
            ("set-cookie: TP_SESSIONID=A1B2; TIMEOUT=90; Path=/", (id.clone(), 90)),
            ("Set-Cookie: TP_SESSIONID=A1B2\r\nSet-Cookie: TIMEOUT=90", (id.clone(), 90)),
            ("Set-Cookie: TP_SESSIONID=A1B2", (id.clone(), 86400)),
            ("Set-Cookie: TP_SESSIONID=A1B2;TIMEOUT=soon", (id.clone(), 86400)),
            ("Set-Cookie: TP_SESSIONID=A1B2;TIMEOUT=-1", (id.clone(), 86400)),
            ("Set-Cookie: TP_SESSIONID=A1B2;TIMEOUT=99999999999", (id, 86400)),
            ("Set-Cookie: TP_SESSIONID=;TIMEOUT=90", (None, 90)),
            ("Set-Cookie: other=A1B2", (None, 86400)),
            ("Server: SHIP 2.0", (None, 86400)),
        ] {
            assert_eq!(cookie(header), Ok(expected), "{header}");
        }
    }

    #[test]
    fn a_session_id_that_cannot_be_sent_back_is_refused() {
        for id in ["a b", "a\tb", "ä", &"a".repeat(MAX_SESSION_ID + 1)] {
            assert_eq!(
                cookie(&format!("Set-Cookie: TP_SESSIONID={id}")),
                Err(BadKlapAnswer::SessionId),
                "{id}"
            );
        }
        assert!(cookie(&format!("Set-Cookie: TP_SESSIONID={}", "a".repeat(MAX_SESSION_ID))).is_ok());
    }

    #[test]
    fn a_session_id_is_not_printed() {
        let cookie =
            SessionCookie::read(b"HTTP/1.1 200 OK\r\nSet-Cookie: TP_SESSIONID=A1B2\r\n\r\n").unwrap();
        assert!(!format!("{cookie:?}").contains("A1B2"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_alike_however_they_are_cut(
            start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just(OK), Just("HTTP/1.1 403 x\r\n\r\n"), Just(CHUNKED), Just(SOME_CHUNKS)],
            rest in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let received = [start.as_bytes(), &rest].concat();
            let whole = parse(&received, false);
            for end in 0..received.len() {
                match parse(&received[..end], false) {
                    Ok(None) => {}
                    Ok(Some(answer)) => {
                        let whole = whole.clone().unwrap().unwrap();
                        prop_assert_eq!((answer.status, answer.body), (whole.status, whole.body));
                    }
                    bad => prop_assert_eq!(&bad, &whole),
                }
            }
            if let Ok(Some(answer)) = parse(&received, true) {
                prop_assert!(answer.body.end <= received.len() && !answer.keeps_connection);
                let _ = SessionCookie::read(&received[..answer.body.start]);
            }
        }
    }
}
