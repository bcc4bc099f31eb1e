//! The subset of HTTP that a plug speaks: parses requests, builds heads of responses. Pure.

use httparse::{EMPTY_HEADER, Status};

/// A request with more headers is refused.
const MAX_HEADERS: usize = 32;
/// In bytes; a request with a longer head is refused.
const MAX_HEAD: usize = 8 * 1024;
/// In bytes; a longer body is refused. The plug has little memory, and requests have a few hundred bytes.
const MAX_BODY: usize = 16 * 1024;

/// The parts of a request that a plug uses.
pub(super) struct KlapRequest {
    /// Without the query.
    pub(super) path: String,
    /// The value of `seq` in the query.
    pub(super) seq: Option<String>,
    /// The value of `Cookie`; it may be empty.
    pub(super) cookie: Option<String>,
    pub(super) body: Vec<u8>,
}

/// What the bytes received so far begin with.
pub(super) enum Head {
    /// More bytes are needed.
    Incomplete,
    /// Not a request that a plug accepts.
    Wrong,
    /// A request; the next one starts at `end`.
    Whole { request: KlapRequest, end: usize },
}

pub(super) fn parse(received: &[u8]) -> Head {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let start = match head.parse(received) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(Status::Partial) if received.len() <= MAX_HEAD => return Head::Incomplete,
        _ => return Head::Wrong,
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    let (Some("POST"), Some(path), Some(length @ ..=MAX_BODY)) = (head.method, head.path, length) else {
        return Head::Wrong;
    };
    let end = start + length;
    let Some(body) = received.get(start..end) else { return Head::Incomplete };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let seq = query.split('&').find_map(|pair| pair.strip_prefix("seq="));
    let request = KlapRequest {
        path: path.to_owned(),
        seq: seq.map(str::to_owned),
        cookie: header("Cookie").map(str::to_owned),
        body: body.to_vec(),
    };
    Head::Whole { request, end }
}

/// The head of a response, with the empty line at its end. `length` is the value of `Content-Length`, if the plug sends
/// one.
pub(super) fn head(status: u16, cookie: Option<&str>, length: Option<usize>) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        _ => "Error",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nServer: SHIP 2.0\r\n");
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    if let Some(cookie) = cookie {
        head.push_str(&format!("Set-Cookie: {cookie}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The head of a response that comes in chunks.
pub(super) fn chunked_head(status: u16, cookie: Option<&str>) -> Vec<u8> {
    let mut head = head(status, cookie, None);
    head.truncate(head.len() - "\r\n".len());
    head.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"POST /app/request?a=1&seq=-7 HTTP/1.1\r\nHost: 127.0.0.11\r\ncookie: TP_SESSIONID=A\r\n\
        content-length: 4\r\n\r\nbodyPOST /next";

    #[test]
    fn a_request_is_whole_with_its_last_byte_and_the_next_one_follows() {
        let end = REQUEST.len() - "POST /next".len();
        for length in 0..end {
            assert!(matches!(parse(&REQUEST[..length]), Head::Incomplete), "{length}");
        }
        let Head::Whole { request, end: seen } = parse(REQUEST) else { panic!("no request") };
        assert_eq!((request.path.as_str(), request.seq.as_deref()), ("/app/request", Some("-7")));
        assert_eq!(
            (request.cookie.as_deref(), request.body.as_slice()),
            (Some("TP_SESSIONID=A"), &b"body"[..])
        );
        assert_eq!(seen, end);
    }

    #[test]
    fn what_no_plug_takes_is_wrong() {
        let long = format!("POST / HTTP/1.1\r\nx: {}", "y".repeat(MAX_HEAD));
        for bytes in [
            "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 16385\r\n\r\n",
            "\0\0\0\x1d",
            &long,
        ] {
            assert!(matches!(parse(bytes.as_bytes()), Head::Wrong), "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_says_no_more_than_asked() {
        assert_eq!(
            head(403, None, Some(0)),
            b"HTTP/1.1 403 Forbidden\r\nServer: SHIP 2.0\r\nContent-Length: 0\r\n\r\n"
        );
        let cookie = "TP_SESSIONID=A;TIMEOUT=86400";
        assert_eq!(
            head(200, Some(cookie), None),
            b"HTTP/1.1 200 OK\r\nServer: SHIP 2.0\r\nSet-Cookie: TP_SESSIONID=A;TIMEOUT=86400\r\n\r\n"
        );
    }
}
