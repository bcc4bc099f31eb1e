//! Requests to the running daemon over HTTP, at the address of `http.listen` in the config that both read.
//!
//! Another program may listen there: head and body are bounded in size and time, and an answer counts only if it is that of
//! hs100d. Uses no proxy.

use std::io::{self, ErrorKind};
#[cfg(feature = "sim")]
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::event_stream::{EventParser, ReportedEvent};
use crate::config::Config;
use crate::http::Listen;
use crate::model::shown;
use crate::secret::Secret;

/// The largest answer, in bytes: that of 10,000 plugs has a tenth of it.
const MAX_BODY: usize = 64 << 20;
/// The largest answer of which an error text is read, in bytes.
const MAX_PROBLEM: usize = 4096;
/// The most characters of the daemon's own words that are repeated.
const MAX_DETAIL: usize = 300;
/// The bridge: the first request, because its answer shows that hs100d listens there.
const BRIDGE: &str = "/api/v1/bridge";
const PLUGS: &str = "/api/v1/plugs";
const EVENTS: &str = "/api/v1/events";
const EVENT_STREAM: &str = "text/event-stream";
/// The daemon sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
const NOT_OURS: &str = "its answer is not that of hs100d";
const PROBLEM_JSON: &str = "application/problem+json";

/// Where the daemon listens, and what it wants to see.
#[derive(Debug, Clone)]
pub(super) struct DaemonHttp {
    listen: Listen,
    token: Option<Secret>,
}

/// A connection to a daemon that has said who it is.
#[derive(Debug)]
pub(super) struct DaemonConnection {
    requests: SendRequest<Empty<Bytes>>,
    /// Reads and writes. Ends when this is dropped.
    _task: JoinSet<()>,
    at: DaemonHttp,
    /// `/api/v1/bridge`.
    pub(super) bridge: Value,
}

/// The stream of events of a daemon.
#[derive(Debug)]
pub(super) struct DaemonEvents {
    body: Incoming,
    parser: EventParser,
    connection: DaemonConnection,
}

/// Why the daemon does not answer over HTTP. Each is one line, without the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpFailure {
    /// No program listens there.
    #[error("nothing listens at {0}")]
    Absent(String),
    /// The Unix socket is not for this user.
    #[error("this user may not open {0}")]
    Denied(String),
    /// The daemon wants another token than that of the config.
    #[error("the daemon at {0} refuses the token of this config")]
    WrongToken(String),
    /// The daemon wants a token.
    #[error("the daemon at {0} wants a token, and this config has none")]
    NoToken(String),
    /// The daemon answers with an error.
    #[error("the daemon at {0} refuses the request: {1}")]
    Refused(String, String),
    /// An answer that hs100d does not give, or none.
    #[error("what listens at {0} is not hs100d: {1}")]
    Other(String, String),
    /// The connection cannot be made.
    #[error("{0}: {1}")]
    Unreachable(String, String),
}

impl DaemonHttp {
    /// `None` if HTTP is turned off, or if its port is not known before the daemon runs.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let token = config.http.as_ref()?.token.clone();
        Some(Self { listen: config.http_address()?, token })
    }

    /// A daemon without a token at this address.
    #[cfg(feature = "sim")]
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { listen: Listen::Tcp(address), token: None }
    }

    /// The path of a plug in the API.
    #[cfg(feature = "sim")]
    pub(super) fn plug_path(name: &str) -> String {
        format!("{PLUGS}/{name}")
    }

    /// Connects, and checks that hs100d answers.
    ///
    /// # Errors
    /// It does not, by this time.
    pub(super) async fn connect(self, end: Instant) -> Result<DaemonConnection, HttpFailure> {
        let opened = timeout_at(end, open(&self.listen)).await;
        let opened = opened.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        let stream = opened.map_err(|error| self.not_connected(&error))?;
        let (requests, task) = start(stream).await.map_err(|error| self.broken(&error))?;
        let mut connection = DaemonConnection { requests, _task: task, at: self, bridge: Value::Null };
        connection.bridge = connection.get(BRIDGE, end).await?;
        if is_of_hs100d(&connection.bridge) { Ok(connection) } else { Err(connection.at.other(NOT_OURS)) }
    }

    fn not_connected(&self, error: &io::Error) -> HttpFailure {
        let at = self.listen.to_string();
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => HttpFailure::Absent(at),
            ErrorKind::PermissionDenied => HttpFailure::Denied(at),
            _ => HttpFailure::Unreachable(at, error.to_string()),
        }
    }

    fn other(&self, why: impl Into<String>) -> HttpFailure {
        HttpFailure::Other(self.listen.to_string(), why.into())
    }

    /// An error of an exchange on a connection.
    fn broken(&self, error: &hyper::Error) -> HttpFailure {
        self.other(if error.is_parse() {
            "it does not speak HTTP"
        } else {
            "it ends the connection before its answer is complete"
        })
    }

    fn unread(&self, unread: &Unread) -> HttpFailure {
        match unread {
            Unread::TooLarge => self.other("its answer is too large"),
            Unread::Broken(error) => self.broken(error),
        }
    }

    fn silent(&self) -> HttpFailure {
        self.other("it does not answer in time")
    }

    fn refuses_token(&self) -> HttpFailure {
        match &self.token {
            Some(_) => HttpFailure::WrongToken(self.place()),
            None => HttpFailure::NoToken(self.place()),
        }
    }

    /// As in the config.
    pub(super) fn place(&self) -> String {
        self.listen.to_string()
    }
}

impl DaemonConnection {
    /// Where the daemon listens.
    pub(super) fn place(&self) -> String {
        self.at.place()
    }

    /// `/api/v1/plugs`.
    ///
    /// # Errors
    /// The daemon does not answer by this time.
    pub(super) async fn plugs(&mut self, end: Instant) -> Result<Vec<Value>, HttpFailure> {
        match self.get(PLUGS, end).await? {
            Value::Array(plugs) if plugs.iter().all(|plug| plug["name"].is_string()) => Ok(plugs),
            _ => Err(self.at.other(NOT_OURS)),
        }
    }

    /// `/api/v1/events`. The snapshot is the first event.
    ///
    /// # Errors
    /// The daemon does not answer by this time.
    pub(super) async fn events(mut self, end: Instant) -> Result<DaemonEvents, HttpFailure> {
        let sent = timeout_at(end, self.send(EVENTS, EVENT_STREAM)).await;
        let response = sent.unwrap_or_else(|_| Err(self.at.silent()))?;
        Ok(DaemonEvents { body: response.into_body(), parser: EventParser::default(), connection: self })
    }

    /// The JSON at this path.
    ///
    /// # Errors
    /// There is none by this time.
    pub(super) async fn get(&mut self, path: &str, end: Instant) -> Result<Value, HttpFailure> {
        let getting = async {
            let response = self.send(path, "application/json").await?;
            let body = read(response, MAX_BODY).await.map_err(|unread| self.at.unread(&unread))?;
            serde_json::from_slice(&body).map_err(|_| self.at.other("its answer is not JSON"))
        };
        timeout_at(end, getting).await.unwrap_or_else(|_| Err(self.at.silent()))
    }

    /// Sends a request, and returns its response if that has the status 200.
    async fn send(&mut self, path: &str, accept: &'static str) -> Result<Response<Incoming>, HttpFailure> {
        let host = match &self.at.listen {
            Listen::Tcp(address) => address.to_string(),
            Listen::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::get(path).header(HOST, host).header(ACCEPT, accept);
        if let Some(token) = self.at.token.as_ref().and_then(bearer) {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::new()).map_err(|error| self.at.other(error.to_string()))?;
        let response = self.requests.send_request(request).await.map_err(|error| self.at.broken(&error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED => Err(self.at.refuses_token()),
            status => Err(self.refused(status, response).await),
        }
    }

    async fn refused(&self, status: StatusCode, response: Response<Incoming>) -> HttpFailure {
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind != Some(PROBLEM_JSON.as_bytes()) {
            return self.at.other(format!("it answers with the status {}", status.as_u16()));
        }
        let problem = read(response, MAX_PROBLEM).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&problem).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("without a reason");
        HttpFailure::Refused(self.place(), shown(detail, MAX_DETAIL))
    }
}

impl DaemonEvents {
    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// The stream has ended, and why, in words.
    pub(super) async fn next(&mut self) -> Result<ReportedEvent, String> {
        let place = self.connection.place();
        let not_events = |_| format!("what the daemon at {place} sends is no stream of events");
        loop {
            if let Some(event) = self.parser.next().map_err(not_events)? {
                return Ok(event);
            }
            match timeout(SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.parser.feed(&data).map_err(not_events)?;
                }
                Ok(Some(Err(_)) | None) => {
                    return Err(format!("the daemon at {place} has ended the connection"));
                }
                Err(_) => return Err(format!("the daemon at {place} is silent")),
            }
        }
    }
}

/// A stream to the daemon.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn open(listen: &Listen) -> io::Result<Box<dyn Stream>> {
    Ok(match listen {
        Listen::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Listen::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

async fn start(stream: Box<dyn Stream>) -> hyper::Result<(SendRequest<Empty<Bytes>>, JoinSet<()>)> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    // An error is reported to the request that it ends.
    task.spawn(async { drop(connection.await) });
    Ok((requests, task))
}

/// Whether this is what `/api/v1/bridge` of a daemon says.
fn is_of_hs100d(bridge: &Value) -> bool {
    bridge["version"].is_string() && bridge["instance"].is_string() && bridge["cloud"]["status"].is_string()
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Why a body cannot be read.
enum Unread {
    TooLarge,
    Broken(hyper::Error),
}

async fn read(response: Response<Incoming>, most: usize) -> Result<Vec<u8>, Unread> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(Unread::TooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
