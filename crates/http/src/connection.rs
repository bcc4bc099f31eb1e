//! One connection: hyper on a stream with time limits.
//!
//! A head is bounded by [`MAX_HEAD`], slow clients by [`TimeLimits`]; bodies are bounded where they are read (`middleware`).
//! hyper answers a head that it cannot read by itself, without a
//! body; [`LimitedStream`] holds that answer back, and a problem document is sent in its place.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::IntoResponse;
use http::{Request, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::listener::ClientStream;
use super::middleware::with_security_headers;
use super::problem::Problem;

/// The largest head of a request, in bytes. hyper allows no less.
const MAX_HEAD: usize = 8192;
/// A client that once took nothing must take this many bytes a second, on average, until it has the whole response.
const LEAST_RATE: u32 = 16 * 1024;
/// How long the rest of a request is read after its connection was closed: otherwise the kernel may withdraw our last answer.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// The most that is read of it, in bytes.
const MAX_LINGER: usize = 64 * 1024;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// From the first byte of a head to its last one, and from the connection to the first head.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// While it takes nothing of a response. After that it must take [`LEAST_RATE`].
    pub(super) write: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        let head = Duration::from_secs(10);
        Self { head, idle: Duration::from_secs(60), write: Duration::from_secs(10) }
    }
}

/// Serves the requests of one client, until either side ends it.
pub(super) async fn serve(
    stream: Box<dyn ClientStream>,
    router: Router,
    activity: Activity,
    limits: TimeLimits,
) {
    let mut stream = LimitedStream::new(stream, activity.clone(), limits);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let answer = activity.begin().map(|answering| (answering, router.call(request)));
        async move {
            let (answering, response) = answer.ok_or(ErrorKind::ConnectionAborted)?;
            let response = response.await.unwrap_or_else(|never| match never {});
            Ok::<_, io::Error>(response.map(|body| AnswerBody { body, _answering: answering }))
        }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD).header_read_timeout(None);
    let ended = http.serve_connection(TokioIo::new(&mut stream), service).await;
    let problem = match ended {
        Err(_) if stream.is_head_late => Some(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the head of a request must be here within {:?}", limits.head),
        )),
        Err(error) if stream.has_refused_head && error.is_parse_too_large() => Some(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the head of a request may have {MAX_HEAD} bytes and 100 lines"),
        )),
        Err(_) if stream.has_refused_head => {
            Some(Problem::new(StatusCode::BAD_REQUEST, "this is not a request of HTTP/1.1"))
        }
        _ => None,
    };
    close(stream.stream, problem).await;
}

/// Sends a last answer, if there is one, and closes the connection so that the client can still read it.
pub(super) async fn close(mut stream: Box<dyn ClientStream>, problem: Option<Problem>) {
    let closed = timeout(LINGER_TIME, async {
        if let Some(problem) = problem {
            stream.write_all(&last_answer(problem).await).await?;
        }
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut read = 0;
        while read < MAX_LINGER {
            match stream.read(&mut rest).await? {
                0 => break,
                bytes => read += bytes,
            }
        }
        io::Result::Ok(())
    });
    // An error means that the client has gone, a time-out that it does not close its side.
    let _ = closed.await;
}

/// A problem as the last response of a connection, in bytes.
async fn last_answer(problem: Problem) -> Vec<u8> {
    let (parts, body) = with_security_headers(problem.into_response()).into_parts();
    let body = to_bytes(body, MAX_LINGER).await.unwrap_or_default();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
    for (name, value) in &parts.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).into_bytes());
    bytes.extend(body);
    bytes
}

/// What a connection does at present. The clones are of the same connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<ActivityState>>);

#[derive(Debug)]
struct ActivityState {
    /// Requests so far.
    requests: u64,
    /// Those of which the client has the whole response.
    answered: u64,
    /// Whether a handler, or the body of its response, is at work.
    is_answering: bool,
    /// Whether it ends with the response that is under way.
    is_retired: bool,
    /// When the last response was complete, or the connection was accepted.
    idle_since: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(ActivityState {
            requests: 0,
            answered: 0,
            is_answering: false,
            is_retired: false,
            idle_since: Instant::now(),
        })))
    }

    /// Since when no request is under way; `None` while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.with(|state| (state.requests == state.answered).then_some(state.idle_since))
    }

    /// Takes no further request.
    pub(super) fn retire(&self) {
        self.with(|state| state.is_retired = true);
    }

    fn is_retired(&self) -> bool {
        self.with(|state| state.is_retired)
    }

    /// A request has come. `None` if none is taken.
    fn begin(&self) -> Option<Answering> {
        self.with(|state| {
            if state.is_retired {
                return None;
            }
            state.requests += 1;
            state.is_answering = true;
            Some(Answering(self.clone()))
        })
    }

    /// Everything that was written so far is with the kernel. Returns whether that completes a response.
    fn flushed(&self) -> bool {
        self.with(|state| {
            let is_complete = !state.is_answering && state.answered != state.requests;
            if is_complete {
                state.answered = state.requests;
                state.idle_since = Instant::now();
            }
            is_complete
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut ActivityState) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Exists from a request to the end of its response's body.
#[derive(Debug)]
struct Answering(Activity);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.with(|state| state.is_answering = false);
    }
}

/// The body of a response.
struct AnswerBody {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for AnswerBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

/// A stream that fails when its client is too slow.
struct LimitedStream {
    stream: Box<dyn ClientStream>,
    activity: Activity,
    limits: TimeLimits,
    /// For the next head, or the rest of it.
    read_limit: Pin<Box<Sleep>>,
    /// The requests that had come when `read_limit` was set.
    requests: u64,
    is_in_head: bool,
    /// Set from the moment when the client takes nothing, until it has everything.
    write_limit: Option<Pin<Box<Sleep>>>,
    /// The rest of a head did not come in time.
    is_head_late: bool,
    /// hyper refused a head, and its answer was held back.
    has_refused_head: bool,
}

impl LimitedStream {
    fn new(stream: Box<dyn ClientStream>, activity: Activity, limits: TimeLimits) -> Self {
        Self {
            stream,
            activity,
            limits,
            read_limit: Box::pin(sleep(limits.head)),
            requests: 0,
            is_in_head: false,
            write_limit: None,
            is_head_late: false,
            has_refused_head: false,
        }
    }

    /// Whether a head is due, or a part of it. Sets the time for it.
    fn expects_head(&mut self) -> bool {
        if self.activity.idle_since().is_none() {
            return false;
        }
        let requests = self.activity.with(|state| state.requests);
        if requests != self.requests {
            self.requests = requests;
            self.is_in_head = false;
            let end = Instant::now() + self.limits.idle;
            self.read_limit.as_mut().reset(end);
        }
        true
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        write: impl FnOnce(Pin<&mut dyn ClientStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.activity.idle_since().is_some() {
            // Only hyper itself answers while there is no request.
            self.has_refused_head = true;
            return Poll::Ready(Ok(len));
        }
        match write(Pin::new(&mut *self.stream), cx) {
            Poll::Ready(Ok(bytes)) => {
                if let Some(limit) = &mut self.write_limit {
                    let earned =
                        Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / LEAST_RATE;
                    let deadline = (limit.deadline() + earned).min(Instant::now() + self.limits.write);
                    limit.as_mut().reset(deadline);
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let time = self.limits.write;
                let limit = self.write_limit.get_or_insert_with(|| Box::pin(sleep(time)));
                ready!(limit.as_mut().poll(cx));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let expects_head = self.expects_head();
        if expects_head && self.activity.is_retired() {
            // As if the client had closed it.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.stream).poll_read(cx, buf);
        if !expects_head {
            return read;
        }
        if read.is_pending() {
            ready!(self.read_limit.as_mut().poll(cx));
            self.is_head_late = self.is_in_head;
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        if buf.filled().len() > before && !self.is_in_head {
            self.is_in_head = true;
            let end = Instant::now() + self.limits.head;
            self.read_limit.as_mut().reset(end);
        }
        read
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, buf.len(), |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_write_with(cx, len, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
        self.write_limit = None;
        if self.activity.flushed() {
            // hyper waits for the next head already: it must ask again, so that the time for it is set.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// [`close`] does it, after the last answer.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
