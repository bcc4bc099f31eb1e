//! The pretend cloud: an HTTP server on loopback that behaves as TP-Link's V1 interface was seen to.
//!
//! Owns the listening sockets and what a test may turn while it runs. What is answered is [`desk`]'s, what HTTP makes
//! of it [`wire`]'s, what goes wrong [`rule`]'s. It serves the same plugs as the LAN, by the same handles.
//!
//! Host 0 is the global entry, where clients log in and list; plugs live on the regional hosts 1, 2, …, each of
//! them a port. A passthrough at a host that is not the plug's own is answered -20571, as by the real ones.

pub mod desk;
pub mod rule;
mod wire;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use self::desk::{Account, Answer, Call, DEVICE_OFFLINE, Desk, REQUEST_TIMEOUT, failure, success};
use self::rule::{CloudFault, Method, Rule, Rules, Times};
use self::wire::{Cut, Pace, Reply};
use super::bell::{Bell, NotInTime};
use super::fault::CloudLink;
use super::handle::PlugHandle;
use super::plug::Origin;

/// How many calls are remembered whole: a demo that runs for months must not grow.
const REMEMBERED_CALLS: usize = 1000;

/// The longest body that is read.
const MAX_BODY: usize = 1024 * 1024;

/// How long [`SimCloud::set_reachable`] waits for sockets to close or open; it takes microseconds.
const SETTLING: Duration = Duration::from_secs(5);

/// The pause after a socket could not be opened or a connection not be taken.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A cloud of pretend plugs. It ends when it is dropped.
pub struct SimCloud {
    state: Arc<State>,
    reachable: watch::Sender<bool>,
    hosts: Vec<Host>,
}

/// One call as it came in.
#[derive(Clone)]
pub struct CallRecord {
    /// When.
    pub at: Instant,
    /// Which call.
    pub method: Method,
    /// To which host.
    pub host: usize,
    /// Path and query.
    pub uri: String,
    /// The `Content-Type`, empty if there was none.
    pub content_type: String,
    /// The `User-Agent`, empty if there was none.
    pub user_agent: String,
    /// The body, to the byte if it was UTF-8. It may hold the password and tokens of the pretend account.
    pub body: String,
}

impl SimCloud {
    /// Listens at these loopback addresses: the global entry first, then a regional host for each other. Port 0 takes
    /// a free one.
    ///
    /// # Errors
    /// When an address is not a loopback one, or is taken.
    pub async fn start(account: Account, addresses: &[SocketAddr], bell: Bell) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for address in addresses {
            if !address.ip().is_loopback() {
                let why = format!("{address}: a pretend cloud lives on loopback only");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            listeners.push(TcpListener::bind(address).await?);
        }
        let addresses: Vec<_> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let urls = addresses.iter().map(|address| format!("http://{address}")).collect();
        let (reachable, _) = watch::channel(true);
        let inner =
            Inner { desk: Desk::new(account, urls), rules: Rules::default(), ledger: Ledger::default() };
        let state = Arc::new(State { inner: Mutex::new(inner), bell });
        let open = |(number, listener): (usize, TcpListener)| {
            let (said, door) = watch::channel(true);
            let keeper = Keeper { state: Arc::clone(&state), number, said };
            let task = tokio::spawn(keeper.run(listener, addresses[number], reachable.subscribe()));
            Host { address: addresses[number], open: door, task: task.abort_handle() }
        };
        let hosts = listeners.into_iter().enumerate().map(open).collect();
        Ok(Self { state, reachable, hosts })
    }

    /// The global entry, where clients log in: `http://127.…:port`, without a slash at the end.
    pub fn url(&self) -> String {
        self.host_url(0)
    }

    /// One of the hosts; empty if there is no such.
    pub fn host_url(&self, host: usize) -> String {
        self.hosts.get(host).map_or_else(String::new, |host| format!("http://{}", host.address))
    }

    /// Lets the cloud know a plug.
    pub fn add(&self, plug: &PlugHandle) {
        self.state.lock().desk.add(plug.clone());
    }

    /// Changes the account: password, lock, two-step verification, …
    pub fn account(&self, change: impl FnOnce(&mut Account)) {
        change(&mut self.state.lock().desk.account);
    }

    /// Voids every token that there is, as when they expire. -20651 is what the real cloud says then.
    pub fn void_tokens(&self, code: i64) {
        self.state.lock().desk.void_tokens(code);
    }

    /// Voids every refresh token that there is: -20655 expired, -20656 incorrect.
    pub fn void_refresh_tokens(&self, code: i64) {
        self.state.lock().desk.void_refresh_tokens(code);
    }

    /// Lets a fault fall on these calls (`None`: on all), after the rules that are there already.
    pub fn fail(&self, on: Option<Method>, times: Times, fault: CloudFault) {
        self.state.lock().rules.add(Rule { on, times, fault });
    }

    /// Takes all faults away. Calls that are held up already stay so.
    pub fn mend(&self) {
        self.state.lock().rules.clear();
    }

    /// Closes or opens all hosts and returns once that is done. While closed, connections are refused and those that
    /// were open are gone.
    ///
    /// # Errors
    /// When the sockets could not be closed or opened in time.
    pub async fn set_reachable(&self, reachable: bool) -> Result<(), NotInTime> {
        self.reachable.send_replace(reachable);
        let agree = || self.hosts.iter().all(|host| *host.open.borrow() == reachable);
        self.state.bell.wait_until(SETTLING, agree).await
    }

    /// How many calls of this kind came in.
    pub fn calls(&self, method: Method) -> u64 {
        self.state.lock().ledger.counts[method.index()]
    }

    /// The most calls of this kind that were ever under way at once.
    pub fn most_at_once(&self, method: Method) -> u64 {
        self.state.lock().ledger.most_under_way[method.index()]
    }

    /// How many tokens were handed out, by logins and refreshes.
    pub fn tokens_issued(&self) -> u64 {
        self.state.lock().desk.tokens_issued
    }

    /// Whether this token is good.
    pub fn is_good(&self, token: &str) -> bool {
        self.state.lock().desk.is_good(token)
    }

    /// The last thousand calls, oldest first.
    pub fn records(&self) -> Vec<CallRecord> {
        self.state.lock().ledger.records.iter().cloned().collect()
    }
}

impl Drop for SimCloud {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.task.abort();
        }
    }
}

/// One host of the cloud.
struct Host {
    address: SocketAddr,
    /// The other end is the keeper's `said`.
    open: watch::Receiver<bool>,
    task: AbortHandle,
}

/// What all hosts share.
struct State {
    inner: Mutex<Inner>,
    bell: Bell,
}

struct Inner {
    desk: Desk,
    rules: Rules,
    ledger: Ledger,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who called, and how often. Tables are indexed by method.
#[derive(Default)]
struct Ledger {
    counts: [u64; Method::ALL.len()],
    under_way: [u64; Method::ALL.len()],
    most_under_way: [u64; Method::ALL.len()],
    records: VecDeque<CallRecord>,
}

/// Counts a call as under way as long as it lives.
struct UnderWay {
    state: Arc<State>,
    method: Method,
}

impl UnderWay {
    fn begin(state: &Arc<State>, record: CallRecord) -> Self {
        let method = record.method;
        let mut inner = state.lock();
        let ledger = &mut inner.ledger;
        let place = method.index();
        ledger.counts[place] += 1;
        ledger.under_way[place] += 1;
        ledger.most_under_way[place] = ledger.most_under_way[place].max(ledger.under_way[place]);
        if ledger.records.len() == REMEMBERED_CALLS {
            ledger.records.pop_front();
        }
        ledger.records.push_back(record);
        drop(inner);
        state.bell.ring();
        Self { state: Arc::clone(state), method }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.lock().ledger.under_way[self.method.index()] -= 1;
        self.state.bell.ring();
    }
}

/// The task of one host.
struct Keeper {
    state: Arc<State>,
    number: usize,
    said: watch::Sender<bool>,
}

impl Keeper {
    async fn run(self, first: TcpListener, address: SocketAddr, mut reachable: watch::Receiver<bool>) {
        let mut listener = Some(first);
        let mut talks = JoinSet::new();
        loop {
            let wanted = *reachable.borrow_and_update();
            if !wanted {
                listener = None;
                talks.shutdown().await;
            } else if listener.is_none() {
                listener = TcpListener::bind(address).await.ok();
            }
            self.said.send_replace(listener.is_some());
            self.state.bell.ring();
            while listener.is_some() == wanted {
                tokio::select! {
                    stream = take(listener.as_ref()) => match stream {
                        Ok(stream) => drop(talks.spawn(converse(Arc::clone(&self.state), self.number, stream))),
                        Err(_) => sleep(TRY_AGAIN).await,
                    },
                    Some(_) = talks.join_next() => {}
                    changed = reachable.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
            if wanted && listener.is_none() {
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

async fn take(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn converse(state: Arc<State>, host: usize, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| serve(Arc::clone(&state), host, request));
    // How a connection ends is the client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the pretend cloud hangs up")]
struct HangUp;

async fn serve(
    state: Arc<State>,
    host: usize,
    request: Request<Incoming>,
) -> Result<Response<Reply>, HangUp> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| HangUp)?.to_bytes();
    let call = wire::check(&parts, &body);
    let name = call.as_ref().ok().and_then(|call| call["method"].as_str());
    let method = name.map_or(Method::Other, Method::named);
    let _under_way = UnderWay::begin(&state, record(&parts, &body, method, host));
    let fault = state.lock().rules.fall(method, Instant::now());
    let ok = StatusCode::OK;
    let mut pace = Pace::Whole;
    let mut pause = Duration::ZERO;
    let mut is_list_empty = false;
    match fault {
        None => {}
        Some(CloudFault::Code(code)) => return Ok(wire::json(ok, &failure(code), pace)),
        Some(CloudFault::NestedCode(code)) => {
            return Ok(wire::json(ok, &success(json!({"errorCode": code.to_string()})), pace));
        }
        Some(CloudFault::Status(status)) => {
            return Ok(wire::html(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY)));
        }
        Some(CloudFault::Html) => return Ok(wire::html(ok)),
        Some(CloudFault::Redirect(to)) => return Ok(wire::redirect(&to)),
        Some(CloudFault::Silent) => match std::future::pending::<Infallible>().await {},
        Some(CloudFault::Close) => return Err(HangUp),
        Some(CloudFault::Latency(time)) => pause = time,
        Some(CloudFault::CutOff) => pace = Pace::CutOff(Cut::Before),
        Some(CloudFault::SlowBytes(interval)) => pace = Pace::Drip(interval, None),
        Some(CloudFault::EmptyList) => is_list_empty = true,
    }
    let (status, mut answer) = match call {
        Ok(call) => (ok, answer(&state, host, method, &call, parts.uri.query()).await),
        Err((status, code)) => (status, failure(code)),
    };
    if is_list_empty && answer["result"]["deviceList"].is_array() {
        answer["result"]["deviceList"] = json!([]);
    }
    sleep(pause).await;
    Ok(wire::json(status, &answer, pace))
}

fn record(parts: &Parts, body: &[u8], method: Method, host: usize) -> CallRecord {
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    CallRecord {
        at: Instant::now(),
        method,
        host,
        uri: parts.uri.to_string(),
        content_type: header(CONTENT_TYPE).to_owned(),
        user_agent: header(USER_AGENT).to_owned(),
        body: String::from_utf8_lossy(body).into_owned(),
    }
}

async fn answer(state: &State, host: usize, method: Method, call: &Value, query: Option<&str>) -> Value {
    let token = wire::token_in_query(query);
    let call = Call { method, params: &call["params"], token: token.as_deref(), host };
    let answer = state.lock().desk.answer(&call);
    match answer {
        Answer::Now(answer) => answer,
        Answer::Ask { plug, request } => ask(plug, request).await,
    }
}

/// Asks a plug, as its link to the cloud allows.
async fn ask(plug: PlugHandle, request: String) -> Value {
    let link = plug.read(|plug| match plug.is_cloud_connected(Instant::now()) {
        true => plug.cloud,
        false => CloudLink::Offline,
    });
    let wait = match link {
        CloudLink::Offline => return failure(DEVICE_OFFLINE),
        CloudLink::TimesOut(wait) => {
            sleep(wait).await;
            return failure(REQUEST_TIMEOUT);
        }
        CloudLink::TimesOutButActs(wait) | CloudLink::Latency(wait) => wait,
        _ => Duration::ZERO,
    };
    // On a task of its own: what is on its way to the plug gets there, even if the client has hung up.
    let on_its_way = tokio::spawn(async move {
        sleep(wait).await;
        plug.with(|plug| match link {
            CloudLink::DeviceError(code) => plug.refuse(request.as_bytes(), code, Origin::Cloud),
            _ => plug.handle(request.as_bytes(), Origin::Cloud, Instant::now()),
        })
    });
    let reply = on_its_way.await.ok().flatten().and_then(|reply| String::from_utf8(reply).ok());
    match (link, reply) {
        (CloudLink::TimesOutButActs(_), _) | (_, None) => failure(REQUEST_TIMEOUT),
        (CloudLink::ObjectReply, Some(reply)) => {
            success(json!({"responseData": serde_json::from_str::<Value>(&reply).unwrap_or_default()}))
        }
        (CloudLink::NoReply, Some(_)) => success(json!({})),
        (CloudLink::Garbage, Some(_)) => success(json!({"responseData": "<html>not a plug</html>"})),
        (_, Some(reply)) => success(json!({"responseData": reply})),
    }
}
