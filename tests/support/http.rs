//! A client of the daemon's HTTP interface, which sends what a test writes and nothing else. Each request has a connection
//! of its own.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::e2e::{Talker, holds};
use crate::support::mqtt::within;

/// The interface of one daemon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
}

/// A request to write.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    web: Web,
    line: String,
    headers: String,
    body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// An open stream of events.
pub(crate) struct Events {
    lines: BufReader<TcpStream>,
}

/// One event of a stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamedEvent {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Web {
    /// The interface of this daemon, once it says where it is.
    pub(crate) async fn of(daemon: &Talker) -> Self {
        let line = daemon.says("the status page is at http://").await;
        let address = line.rsplit("http://").next().unwrap().trim_end_matches('/');
        Self { address: address.parse().unwrap() }
    }

    pub(crate) fn ask(self, method: &str, path: &str) -> Ask {
        let line = format!("{method} {path} HTTP/1.1");
        Ask { web: self, line, headers: format!("Host: {}\r\n", self.address), body: Vec::new() }
    }

    pub(crate) async fn get(self, path: &str) -> Page {
        self.ask("GET", path).send().await
    }

    pub(crate) async fn post(self, path: &str, body: impl Into<Vec<u8>>) -> Page {
        self.ask("POST", path).body(body).send().await
    }

    /// Waits until the JSON at this path contains all of this.
    pub(crate) async fn shows(self, path: &str, expected: Value) -> Value {
        let what = format!("{path} with {expected}");
        within(&what, async {
            loop {
                let page = self.get(path).await;
                if let Some(found) = page.try_json().filter(|found| holds(found, &expected)) {
                    return found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
    }

    /// Opens the stream of events. Its first event is read with the others.
    pub(crate) async fn events(self) -> Events {
        // An answer to HTTP/1.0 is not chunked.
        let mut ask = self.ask("GET", "/api/v1/events");
        ask.line = "GET /api/v1/events HTTP/1.0".to_owned();
        let mut lines = BufReader::new(ask.sent().await);
        let mut status = String::new();
        within("a stream", lines.read_line(&mut status)).await.unwrap();
        assert!(status.contains(" 200 "), "{status}");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && !head.ends_with("\n\n") {
            within("the head of a stream", lines.read_line(&mut head)).await.unwrap();
        }
        assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
        assert!(head.to_ascii_lowercase().contains("cache-control: no-store"), "{head}");
        Events { lines }
    }
}

/// How often something is asked for again while a test waits for it.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A form, as a page without JavaScript sends it.
    pub(crate) fn form(self, fields: &str) -> Self {
        self.header("Content-Type", "application/x-www-form-urlencoded").body(fields)
    }

    pub(crate) async fn send(self) -> Page {
        let what = format!("the answer to {}", self.line);
        within(&what, async {
            let mut stream = self.sent().await;
            let mut answer = Vec::new();
            // A server that refuses a request may reset the connection after its answer.
            let _ = stream.read_to_end(&mut answer).await;
            Page::read(&answer)
        })
        .await
    }

    /// The status of the answer, whose body may never end.
    pub(crate) async fn status(self) -> u16 {
        let mut lines = BufReader::new(self.sent().await);
        let mut line = String::new();
        within("a status line", lines.read_line(&mut line)).await.unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The connection, once the request is written.
    pub(crate) async fn sent(&self) -> TcpStream {
        let Self { web, line, headers, body } = self;
        let mut stream = TcpStream::connect(web.address).await.unwrap();
        let length = if body.is_empty() && line.starts_with("GET") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("{line}\r\n{headers}{length}Connection: close\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        stream
    }
}

impl Page {
    fn read(answer: &[u8]) -> Self {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        self.try_json().unwrap_or_else(|| panic!("{self:?}"))
    }

    fn try_json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }

    /// The problem, if the answer is one with this status.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        problem
    }
}

impl Events {
    /// The next event; `None` if the daemon ended the stream.
    pub(crate) async fn next(&mut self) -> Option<StreamedEvent> {
        within("an event", self.read()).await
    }

    /// The next event of this kind.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Value {
        within(&format!("an event of the kind {kind}"), async {
            loop {
                let event = self.read().await.expect("the stream goes on");
                if event.kind == kind {
                    return event.data;
                }
            }
        })
        .await
    }

    /// Waits for an event of this kind with all of this.
    pub(crate) async fn sees(&mut self, kind: &str, expected: Value) -> Value {
        loop {
            let data = self.next_of(kind).await;
            if holds(&data, &expected) {
                return data;
            }
        }
    }

    async fn read(&mut self) -> Option<StreamedEvent> {
        let mut event = StreamedEvent { kind: String::new(), id: String::new(), data: Value::Null };
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                // The empty line after an event, unless that was only `retry`.
                None if !event.kind.is_empty() => return Some(event),
                None => {}
                Some(("event", kind)) => event.kind = kind.trim().to_owned(),
                Some(("id", id)) => event.id = id.trim().to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                // `retry`, and comments.
                Some(_) => {}
            }
        }
    }
}
