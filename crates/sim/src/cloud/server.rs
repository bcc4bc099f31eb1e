//! One host of the simulated cloud: accepts connections, counts requests, applies faults and forwards passthroughs to
//! plugs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::account::{
    AccountServer, CallResult, DEVICE_OFFLINE, ParsedCall, REQUEST_TIMEOUT, SIGNATURE_DOES_NOT_MATCH,
    failure, success,
};
use super::rule::{CloudFault, FaultRules, Method};
use super::signed;
use super::wire::{self, Cut, HttpReply, Pace};
use crate::fault::CloudLink;
use crate::handle::PlugHandle;
use crate::listener::{BACKLOG, Listener};
use crate::notify::ChangeNotifier;
use crate::plug::SwitchedBy;

/// Requests of which the text is kept: the memory of a demo that runs for months must not grow.
const REMEMBERED_CALLS: usize = 1000;

/// The longest request body that is read.
const MAX_BODY: usize = 1024 * 1024;

/// The pause after a failed `bind` or `accept`.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A request that a host received.
#[derive(Clone)]
pub struct CallRecord {
    /// The parsed `method`.
    pub method: Method,
    /// Index of the host that received it.
    pub host: usize,
    /// Path and query.
    pub uri: String,
    /// The body, byte for byte if it is UTF-8. It may hold the password and tokens of the simulated account.
    pub body: String,
}

/// Shared by all hosts.
pub(super) struct State {
    pub(super) inner: Mutex<Locked>,
    pub(super) notifier: ChangeNotifier,
}

pub(super) struct Locked {
    pub(super) server: AccountServer,
    pub(super) rules: FaultRules,
    pub(super) ledger: Ledger,
}

impl State {
    pub(super) fn lock(&self) -> MutexGuard<'_, Locked> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters by method, and the last requests.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) counts: [u64; Method::ALL.len()],
    under_way: [u64; Method::ALL.len()],
    pub(super) most_under_way: [u64; Method::ALL.len()],
    pub(super) records: VecDeque<CallRecord>,
}

/// Counts a request as under way until it is dropped.
struct UnderWay {
    state: Arc<State>,
    method: Method,
}

impl UnderWay {
    fn begin(state: &Arc<State>, record: CallRecord) -> Self {
        let method = record.method;
        let mut inner = state.lock();
        let ledger = &mut inner.ledger;
        let index = method.index();
        ledger.counts[index] += 1;
        ledger.under_way[index] += 1;
        ledger.most_under_way[index] = ledger.most_under_way[index].max(ledger.under_way[index]);
        if ledger.records.len() == REMEMBERED_CALLS {
            ledger.records.pop_front();
        }
        ledger.records.push_back(record);
        drop(inner);
        state.notifier.notify();
        Self { state: Arc::clone(state), method }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.state.lock().ledger.under_way[self.method.index()] -= 1;
        self.state.notifier.notify();
    }
}

pub(super) struct HostTask {
    pub(super) state: Arc<State>,
    pub(super) number: usize,
    pub(super) is_open: watch::Sender<bool>,
}

impl HostTask {
    pub(super) async fn run(
        self,
        first: Listener,
        address: SocketAddr,
        mut reachable: watch::Receiver<bool>,
    ) {
        let mut listener = Some(first);
        let mut connections = JoinSet::new();
        loop {
            let wanted = *reachable.borrow_and_update();
            if !wanted {
                listener = None;
                connections.shutdown().await;
            } else if listener.is_none() {
                listener = Listener::bind(address, BACKLOG).ok();
            }
            self.is_open.send_replace(listener.is_some());
            self.state.notifier.notify();
            while listener.is_some() == wanted {
                tokio::select! {
                    stream = accept(listener.as_ref()) => match stream {
                        Ok(stream) => drop(connections.spawn(serve_connection(Arc::clone(&self.state), self.number, stream))),
                        Err(_) => sleep(TRY_AGAIN).await,
                    },
                    Some(_) = connections.join_next() => {}
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

async fn accept(listener: Option<&Listener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn serve_connection(state: Arc<State>, host: usize, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| serve(Arc::clone(&state), host, request));
    // How a connection ends matters only to the client.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Closes the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("the simulated cloud closes the connection")]
struct HangUp;

async fn serve(
    state: Arc<State>,
    host: usize,
    request: Request<Incoming>,
) -> Result<Response<HttpReply>, HangUp> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| HangUp)?.to_bytes();
    let call = wire::check(&parts, &body);
    let method = match (&call, signed::method_of(parts.uri.path())) {
        (Err(_), _) => Method::Other,
        (Ok(_), Some(method)) => method,
        (Ok(call), None) => call["method"].as_str().map_or(Method::Other, Method::named),
    };
    let _under_way = UnderWay::begin(&state, record(&parts, &body, method, host));
    let fault = state.lock().rules.next_fault(method, Instant::now());
    let response_fault = match handling(fault) {
        Handling::Answer(response_fault) => response_fault,
        Handling::Instead(response) => return Ok(response),
        Handling::HangUp => return Err(HangUp),
        Handling::Never => match std::future::pending::<Infallible>().await {},
    };
    let (status, mut answer) = match call {
        Ok(call) => (StatusCode::OK, answer(&state, host, method, &call, &parts, &body).await),
        Err((status, code)) => (status, failure(code)),
    };
    if response_fault.empties_list && answer["result"]["deviceList"].is_array() {
        answer["result"]["deviceList"] = json!([]);
    }
    sleep(response_fault.pause).await;
    Ok(wire::json(status, &answer, response_fault.pace))
}

/// What a fault does to a request.
enum Handling {
    /// It gets its response, changed in this way.
    Answer(ResponseFault),
    /// It gets this response; nothing is done.
    Instead(Response<HttpReply>),
    /// The connection is closed.
    HangUp,
    /// It never gets a response.
    Never,
}

/// How a response is changed and sent.
struct ResponseFault {
    pause: Duration,
    pace: Pace,
    empties_list: bool,
}

fn handling(fault: Option<CloudFault>) -> Handling {
    let no_fault = ResponseFault { pause: Duration::ZERO, pace: Pace::Whole, empties_list: false };
    let json = |answer| Handling::Instead(wire::json(StatusCode::OK, &answer, Pace::Whole));
    let Some(fault) = fault else { return Handling::Answer(no_fault) };
    match fault {
        CloudFault::Code(code) => json(failure(code)),
        CloudFault::NestedCode(code) => json(success(json!({"errorCode": code.to_string()}))),
        CloudFault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            Handling::Instead(wire::html(status))
        }
        CloudFault::Html => Handling::Instead(wire::html(StatusCode::OK)),
        CloudFault::Redirect(to) => Handling::Instead(wire::redirect(&to)),
        CloudFault::Silent => Handling::Never,
        CloudFault::Close => Handling::HangUp,
        CloudFault::Latency(pause) => Handling::Answer(ResponseFault { pause, ..no_fault }),
        CloudFault::CutOff => Handling::Answer(ResponseFault { pace: Pace::CutOff(Cut::Before), ..no_fault }),
        CloudFault::SlowBytes(interval) => {
            Handling::Answer(ResponseFault { pace: Pace::Drip(interval, None), ..no_fault })
        }
        CloudFault::EmptyList => Handling::Answer(ResponseFault { empties_list: true, ..no_fault }),
    }
}

fn record(parts: &Parts, body: &[u8], method: Method, host: usize) -> CallRecord {
    CallRecord { method, host, uri: parts.uri.to_string(), body: String::from_utf8_lossy(body).into_owned() }
}

async fn answer(
    state: &State,
    host: usize,
    method: Method,
    call: &Value,
    parts: &Parts,
    body: &[u8],
) -> Value {
    let token = wire::token_in_query(parts.uri.query());
    let path = parts.uri.path();
    let is_second = path != "/";
    let params = if is_second { call } else { &call["params"] };
    let call = ParsedCall { method, params, token: token.as_deref(), host, is_second };
    let answer = {
        let mut inner = state.lock();
        let is_signed = match &inner.server.account.keys {
            Some(keys) if is_second || parts.headers.contains_key("x-authorization") => {
                signed::is_signed(keys, path, &parts.headers, body)
            }
            Some(_) => true,
            None => !is_second,
        };
        match is_signed {
            true => inner.server.answer(&call),
            false => CallResult::Now(failure(SIGNATURE_DOES_NOT_MATCH)),
        }
    };
    match answer {
        CallResult::Now(answer) => answer,
        CallResult::Forward { plug, request } => forward(plug, request).await,
    }
}

/// Forwards a request to a plug, under the faults of the plug's cloud connection.
async fn forward(plug: PlugHandle, request: String) -> Value {
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
    // In its own task: what is on its way to the plug arrives, even if the client disconnects.
    let on_its_way = tokio::spawn(async move {
        sleep(wait).await;
        plug.with(|plug| match link {
            CloudLink::DeviceError(code) => plug.refuse(request.as_bytes(), code, SwitchedBy::Cloud),
            _ => plug.handle(request.as_bytes(), SwitchedBy::Cloud, Instant::now()),
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
