//! The listener: accepts connections, and bounds how many there are.
//!
//! While all connections are taken, a new one takes the place of the one that has been idle for longest: clients that connect
//! and say nothing, or say it slowly, keep nobody out. Only if a request is under way on each of them, the new one is answered with
//! 503. To let it wait would be worse: a browser would show nothing, and not say why.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{self, Activity, TimeLimits};
use super::listen::Listen;
use super::listener::{ClientStream, HttpListener, NewConnection};
use super::problem::Problem;
use hs100d_core::logging::Repeated;

/// The most further ones that are answered with 503 at a time. More are closed without an answer.
const MAX_REFUSED: usize = 64;
/// After an error of `accept`, which usually means that no more files may be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// The shortage is over when `accept` did not fail for this long.
const QUIET: Duration = Duration::from_secs(60);
/// How long requests under way may take when new rules replace those that let them in.
const GRACE: Duration = Duration::from_secs(1);

/// What the clients may cost together, and each of them.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    times: TimeLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, times: TimeLimits::default() }
    }
}

/// A listener and the connections that it accepted. Dropped, it ends all of them, and its address is free at once.
#[derive(Debug)]
pub struct Server {
    listener: Arc<HttpListener>,
    routers: watch::Sender<Router>,
    task: JoinSet<()>,
}

impl Server {
    /// Listens and serves, in a task on the current runtime. `only_from`: the one address that may connect, if not all may.
    ///
    /// # Errors
    /// The address is taken, or may not be used.
    pub fn start(listen: &Listen, only_from: Option<IpAddr>, router: Router) -> io::Result<Self> {
        Self::start_within(Limits::default(), HttpListener::bind(listen, only_from)?, router)
    }

    fn start_within(limits: Limits, listener: HttpListener, router: Router) -> io::Result<Self> {
        let listener = Arc::new(listener);
        let (routers, new_routers) = watch::channel(router);
        let mut task = JoinSet::new();
        task.spawn(accept(limits, Arc::downgrade(&listener), new_routers));
        Ok(Self { listener, routers, task })
    }

    /// Where it listens, with the port; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    /// Serves this from now on, and keeps listening meanwhile. Connections to the old router end: at once if they are idle, else
    /// with their response, or after a second.
    pub fn serve(&self, router: Router) {
        drop(self.routers.send_replace(router));
    }

    /// Accepts no more, and waits until the requests under way are answered, but no longer than [`GRACE`].
    pub async fn stop(self) {
        let Self { listener, routers, mut task } = self;
        drop((listener, routers));
        while task.join_next().await.is_some() {}
    }
}

async fn accept(limits: Limits, listener: Weak<HttpListener>, mut routers: watch::Receiver<Router>) {
    let mut connections = Connections::new(limits);
    let (mut failing, mut strangers) = (Repeated::default(), Repeated::default());
    let mut last_failure = None;
    loop {
        tokio::select! {
            accepted = next(&listener) => match accepted {
                Some(Ok(NewConnection::Client(stream))) => {
                    if last_failure.take_if(|last| *last + QUIET <= Instant::now()).is_some() {
                        failing.ended(std::time::Instant::now());
                    }
                    let router = routers.borrow().clone();
                    connections.open(stream, router);
                }
                // The client has gone again.
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Some(Ok(NewConnection::Stranger(address))) => {
                    // One reason for all of them: addresses that take turns must not fill the log.
                    if strangers.failed("stranger", std::time::Instant::now()).is_some() {
                        tracing::warn!("http: a connection was closed: {address} is not Home Assistant's proxy");
                    }
                }
                Some(Err(error)) => {
                    if failing.failed(&error.to_string(), std::time::Instant::now()).is_some() {
                        tracing::warn!(
                            "http: no connection can be accepted: {error}: clients wait until one can; if there are too many \
                             open files, raise the limit (LimitNOFILE= in the unit, ulimit -n in a shell)"
                        );
                    }
                    last_failure = Some(Instant::now());
                    // An open file less: that may be what is missing.
                    connections.close_longest_idle();
                    sleep(ACCEPT_PAUSE).await;
                }
                None => return connections.end().await,
            },
            changed = routers.changed() => match changed {
                Ok(()) => connections.retire(),
                Err(_) => return connections.end().await,
            },
            () = connections.tidy() => {}
        }
    }
}

/// The next connection; `None` after the server was dropped. Cancel safe.
async fn next(listener: &Weak<HttpListener>) -> Option<io::Result<NewConnection>> {
    poll_fn(|cx| match listener.upgrade() {
        Some(listener) => listener.poll_accept(cx).map(Some),
        None => Poll::Ready(None),
    })
    .await
}

/// The connections that are open.
struct Connections {
    limits: Limits,
    tasks: JoinSet<()>,
    current: HashMap<Id, OpenConnection>,
    /// To a router that was replaced. They end by then.
    old: HashMap<Id, OpenConnection>,
    old_end: Option<Instant>,
    refused: JoinSet<()>,
}

struct OpenConnection {
    activity: Activity,
    task: AbortHandle,
}

impl Connections {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            tasks: JoinSet::new(),
            current: HashMap::new(),
            old: HashMap::new(),
            old_end: None,
            refused: JoinSet::new(),
        }
    }

    fn open(&mut self, stream: Box<dyn ClientStream>, router: Router) {
        if self.current.len() >= self.limits.connections && !self.close_longest_idle() {
            return self.refuse(stream);
        }
        let activity = Activity::new();
        let task = connection::serve(stream, router, activity.clone(), self.limits.times);
        let task = self.tasks.spawn(task);
        self.current.insert(task.id(), OpenConnection { activity, task });
    }

    /// Returns whether there was one.
    fn close_longest_idle(&mut self) -> bool {
        let idle = self.current.iter().filter_map(|(id, it)| Some((it.activity.idle_since()?, *id)));
        let longest = idle.min_by_key(|(since, _)| *since).and_then(|(_, id)| self.current.remove(&id));
        longest.inspect(|connection| connection.task.abort()).is_some()
    }

    fn refuse(&mut self, stream: Box<dyn ClientStream>) {
        if self.refused.len() < MAX_REFUSED {
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("all {} connections are in use: try again in a moment", self.limits.connections),
            );
            self.refused.spawn(connection::close(stream, Some(problem)));
        }
    }

    /// Ends all of them: idle ones at once, the others when they become idle, or after [`GRACE`].
    fn retire(&mut self) {
        self.current.values().for_each(|connection| connection.activity.retire());
        self.old.extend(self.current.drain());
        self.old_end = Some(Instant::now() + GRACE);
        self.end_old();
    }

    /// Waits until all of them have ended: see [`Connections::retire`].
    async fn end(&mut self) {
        self.retire();
        while !self.old.is_empty() {
            self.tidy().await;
        }
    }

    fn end_old(&mut self) {
        let is_late = self.old_end.is_some_and(|end| end <= Instant::now());
        self.old.retain(|_, connection| {
            let ends = is_late || connection.activity.idle_since().is_some();
            if ends {
                connection.task.abort();
            }
            !ends
        });
        if self.old.is_empty() {
            self.old_end = None;
        }
    }

    /// Waits until something ends, and forgets it. Cancel safe.
    async fn tidy(&mut self) {
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                self.current.remove(&id);
                self.old.remove(&id);
            }
            Some(_) = self.refused.join_next() => {}
            () = until(self.old_end) => self.end_old(),
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::Context;

    use axum::body::Body;
    use axum::routing::get;
    use bytes::Bytes;
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};
    use tokio::sync::{Notify, oneshot};
    use tokio::time::timeout;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    const GET_AND_CLOSE: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    const SHORT: Duration = Duration::from_millis(50);
    const BOUND: Duration = Duration::from_secs(20);

    /// Long enough for every test.
    fn limits() -> Limits {
        Limits { connections: 64, times: TimeLimits { head: BOUND, idle: BOUND, write: BOUND } }
    }

    fn start(limits: Limits, router: Router) -> Server {
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        Server::start_within(limits, HttpListener::bind(&listen, None).unwrap(), router).unwrap()
    }

    fn says(text: &'static str) -> Router {
        Router::new().route("/", get(move || async move { text }))
    }

    async fn connect(server: &Server) -> TcpStream {
        TcpStream::connect(server.address().unwrap()).await.unwrap()
    }

    /// Reads to the end of the stream.
    async fn rest(mut stream: impl ClientStream) -> String {
        let mut bytes = Vec::new();
        // A reset ends it as well.
        let _ = timeout(BOUND, stream.read_to_end(&mut bytes)).await.expect("an end of the connection");
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until this was said.
    async fn hears(stream: &mut (impl ClientStream + ?Sized), end: &str) {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            bytes.push(timeout(BOUND, stream.read_u8()).await.expect(end).unwrap());
        }
    }

    async fn sends(server: &Server, request: &str) -> TcpStream {
        let mut stream = connect(server).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn answer(server: &Server, request: &str) -> String {
        rest(sends(server, request).await).await
    }

    #[track_caller]
    fn is_problem(response: &str, status: u16) {
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        for part in [
            "content-type: application/problem+json",
            "content-security-policy: default-src 'none'",
            "connection: close",
            &format!("\"status\":{status}"),
        ] {
            assert!(response.contains(part), "{part}: {response}");
        }
    }

    #[tokio::test]
    async fn only_the_one_address_that_may_connect_is_answered() {
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let proxy: IpAddr = "127.0.0.2".parse().unwrap();
        let server = Server::start(&listen, Some(proxy), says("hello")).unwrap();
        let address = server.address().unwrap();
        for (client, expected) in
            [("127.0.0.3", ""), ("127.0.0.2", "hello"), ("127.0.0.1", ""), ("127.0.0.2", "hello")]
        {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            // A closed connection may refuse it already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("the connection ends");
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.is_empty(), expected.is_empty(), "{client}: {answer}");
            assert!(answer.ends_with(expected), "{client}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_or_is_no_head_is_answered_with_a_problem() {
        let server = start(limits(), says("hello"));
        let head =
            |bytes: usize| format!("GET / HTTP/1.1\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes));
        assert!(answer(&server, &head(7000)).await.ends_with("hello"));
        is_problem(&answer(&server, &head(9000)).await, 431);
        is_problem(&answer(&server, &head(1_000_000)).await, 431);
        let lines = "x: y\r\n".repeat(101);
        is_problem(&answer(&server, &format!("GET / HTTP/1.1\r\n{lines}\r\n")).await, 431);
        for garbage in
            ["hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"]
        {
            is_problem(&answer(&server, garbage).await, 400);
        }
    }

    #[tokio::test]
    async fn a_refused_head_does_not_cost_the_answer_to_the_request_before_it() {
        let server = start(limits(), says("hello"));
        let response = answer(&server, &format!("{GET}garbage\r\n\r\n")).await;
        assert!(response.contains("hello") && response.contains("HTTP/1.1 400 "), "{response}");
    }

    #[tokio::test]
    async fn a_slow_head_is_answered_and_a_silent_client_is_closed() {
        let mut limits = limits();
        limits.times.head = SHORT;
        let server = start(limits, says("hello"));
        is_problem(&answer(&server, "GET / HT").await, 408);
        assert_eq!(answer(&server, "").await, "");
        let mut stream = sends(&server, GET).await;
        hears(&mut stream, "hello").await;
        stream.write_all(b"GET").await.unwrap();
        is_problem(&rest(stream).await, 408);
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_after_the_idle_time() {
        let mut limits = limits();
        limits.times.idle = SHORT;
        let server = start(limits, says("hello"));
        let mut stream = sends(&server, GET).await;
        hears(&mut stream, "hello").await;
        assert_eq!(rest(stream).await, "");
    }

    /// A body without end, and its end.
    struct Endless(#[expect(dead_code, reason = "its drop is the end")] Option<oneshot::Sender<()>>);

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16384])))))
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_a_response_is_cut_off() {
        let mut limits = limits();
        limits.times.write = SHORT;
        let (dropped, is_dropped) = oneshot::channel();
        let dropped = Arc::new(Mutex::new(Some(dropped)));
        let endless = move || {
            let dropped = dropped.lock().unwrap().take();
            async move { Body::new(Endless(dropped)) }
        };
        let server = start(limits, Router::new().route("/", get(endless)));
        let stream = sends(&server, GET).await;
        timeout(BOUND, is_dropped).await.expect("it is cut off").unwrap_err();
        drop(stream);
    }

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_the_one_that_is_idle_for_longest() {
        let server = start(Limits { connections: 3, ..limits() }, says("hello"));
        let mut used = sends(&server, GET).await;
        hears(&mut used, "hello").await;
        let slow = sends(&server, "GET / HT").await;
        used.write_all(GET.as_bytes()).await.unwrap();
        hears(&mut used, "hello").await;
        let silent = connect(&server).await;
        for _ in 0..2 {
            let mut other = sends(&server, GET).await;
            hears(&mut other, "hello").await;
            // It stays open until the end of the test.
            std::mem::forget(other);
        }
        assert_eq!((rest(slow).await, rest(used).await), (String::new(), String::new()));
        drop(silent);
    }

    #[tokio::test]
    async fn while_a_request_is_under_way_on_each_connection_further_ones_get_503() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            move || async move {
                begun.notify_one();
                go_on.notified().await;
                "done"
            }
        };
        let server = start(Limits { connections: 1, ..limits() }, Router::new().route("/", get(handler)));
        let busy = sends(&server, GET_AND_CLOSE).await;
        timeout(BOUND, begun.notified()).await.unwrap();
        is_problem(&answer(&server, GET).await, 503);
        is_problem(&rest(connect(&server).await).await, 503);
        go_on.notify_one();
        assert!(rest(busy).await.ends_with("done"));
    }

    #[tokio::test]
    async fn a_new_router_keeps_the_socket_and_ends_the_old_connections() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            move || async move {
                begun.notify_one();
                go_on.notified().await;
                "old"
            }
        };
        let server = start(
            limits(),
            Router::new()
                .route("/", get(handler))
                .merge(Router::new().route("/idle", get(|| async { "idle" }))),
        );
        let mut idle = sends(&server, "GET /idle HTTP/1.1\r\n\r\n").await;
        hears(&mut idle, "idle").await;
        // Its second request comes too late.
        let first = sends(&server, &format!("{GET}GET /idle HTTP/1.1\r\n\r\n")).await;
        timeout(BOUND, begun.notified()).await.unwrap();
        let second = sends(&server, GET).await;
        timeout(BOUND, begun.notified()).await.unwrap();
        server.serve(says("new"));
        assert_eq!(rest(idle).await, "");
        assert!(answer(&server, GET_AND_CLOSE).await.ends_with("new"));
        go_on.notify_one();
        let response = rest(first).await;
        assert!(response.ends_with("old") && response.matches("200 OK").count() == 1, "{response}");
        assert_eq!(rest(second).await, "", "its time was up");
    }

    #[tokio::test]
    async fn a_dropped_server_ends_its_connections_and_frees_its_address_at_once() {
        let server = start(limits(), says("hello"));
        let address = server.address().unwrap();
        let mut stream = sends(&server, GET).await;
        hears(&mut stream, "hello").await;
        drop(server);
        let again = Server::start(&Listen::Tcp(address), None, says("again")).unwrap();
        assert_eq!(rest(stream).await, "");
        assert!(answer(&again, GET_AND_CLOSE).await.ends_with("again"));
        assert_eq!(
            Server::start(&Listen::Tcp(address), None, says("taken")).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
    }

    #[tokio::test]
    async fn a_unix_socket_serves_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let server = Server::start(&Listen::Unix(path.clone()), None, says("hello")).unwrap();
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(GET_AND_CLOSE.as_bytes()).await.unwrap();
        assert!(rest(stream).await.ends_with("hello"));
        drop(server);
        assert!(!path.exists());
    }
}
