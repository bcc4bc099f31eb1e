//! One HTTP connection to a simulated plug that speaks KLAP: the steps of the handshake, requests, and what a faulty plug
//! does instead.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use uuid::Uuid;

use super::connection::{Open, Then, drip, hear_only, read_some, spoil};
use super::http::{self, Head, KlapRequest};
use crate::sim::fault::{KlapFault, LanFault};
use crate::sim::handle::PlugHandle;
use crate::sim::plug::klap::{Framing, OpenedMessage};
use crate::sim::plug::{SimPlug, SwitchedBy};

/// What some firmwares answer in place of ciphertext.
const HTML: &[u8] = b"<html><head><title>Welcome</title></head><body>200 OK</body></html>\r\n";
/// What a firmware that is confused sends in place of HTTP.
const NO_HTTP: &[u8] = b"\x8f\x02\xff\x00\x17no http\x00\x00";
/// What [`LanFault::HugeLength`] announces.
const HUGE: usize = 0x7fff_ffff;
/// When an answer without end does end, so that a client which reads all of it does not fill the machine.
const ENDLESS: usize = 64 * 1024 * 1024;

/// Serves one connection until one side ends it.
pub(super) async fn serve(mut stream: TcpStream, plug: PlugHandle) {
    let _open = Open::count(plug.clone());
    let _ = stream.set_nodelay(true);
    // How a connection ends matters to the client only.
    let _ = exchange(&mut stream, &plug).await;
}

async fn exchange(stream: &mut TcpStream, plug: &PlugHandle) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        match http::parse(&received) {
            Head::Whole { request, end } => {
                received.drain(..end);
                if answer(stream, plug, &request).await? == Then::HangUp {
                    return Ok(());
                }
            }
            Head::Wrong => return stream.write_all(&http::head(400, None, Some(0))).await,
            Head::Incomplete => {
                if read_some(stream, plug, &mut received).await? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

async fn answer(stream: &mut TcpStream, plug: &PlugHandle, request: &KlapRequest) -> io::Result<Then> {
    let (lan, framing, serves) = plug.read(|plug| {
        let serves = plug.dialect.speaks_klap() && plug.is_up(Instant::now());
        (plug.lan, plug.klap.framing, serves)
    });
    match lan {
        // Set after the connection was taken, and its task has not been ended yet.
        _ if !serves => return Ok(Then::HangUp),
        LanFault::Refused | LanFault::NotAccepting | LanFault::PortDead | LanFault::PortFiltered => {
            return Ok(Then::HangUp);
        }
        LanFault::Silent => return hear_only(plug),
        LanFault::ResetAfterRequest => {
            hear_only(plug)?;
            stream.set_zero_linger()?;
            return Ok(Then::HangUp);
        }
        LanFault::CloseWithoutReply => {
            hear_only(plug)?;
            return Ok(Then::HangUp);
        }
        LanFault::Latency(time) => sleep(time).await,
        _ => {}
    }
    let answer = match request.path.as_str() {
        "/app/handshake1" => handshake1(plug, request).await,
        "/app/handshake2" => handshake2(plug, request).await,
        "/app/request" => match lan {
            LanFault::SilentButActs(after) => return act_late(plug, request, after),
            _ => message(plug, request, lan),
        },
        _ => HttpAnswer::status(404),
    };
    send(stream, lan, framing, answer).await
}

/// What goes back.
struct HttpAnswer {
    status: u16,
    cookie: Option<String>,
    body: Vec<u8>,
    manner: AnswerManner,
}

/// How an answer goes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerManner {
    /// As a whole.
    Whole,
    /// As a whole; what [`LanFault`] does to the answer to a message happens to it.
    Message,
    /// [`NO_HTTP`] instead.
    NoHttp,
    /// Announced as a whole, and half of it.
    CutOff,
    /// Headers without end.
    EndlessHead,
    /// A body without end.
    EndlessBody,
}

impl HttpAnswer {
    fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, cookie: None, body, manner: AnswerManner::Whole }
    }

    fn status(status: u16) -> Self {
        Self { status, ..Self::ok(Vec::new()) }
    }

    fn no_http() -> Self {
        Self { manner: AnswerManner::NoHttp, ..Self::ok(Vec::new()) }
    }
}

async fn handshake1(plug: &PlugHandle, request: &KlapRequest) -> HttpAnswer {
    let fault = plug.with(|plug| {
        plug.traffic.klap_handshakes += 1;
        plug.klap.fault
    });
    match fault {
        KlapFault::SlowHandshake(time) => sleep(time).await,
        KlapFault::Handshake1Status(status) => return refuse(plug, status),
        KlapFault::Handshake1Html => return HttpAnswer::ok(HTML.to_vec()),
        _ => {}
    }
    // Some servers answer an empty `Cookie` with a page.
    if request.cookie.as_deref() == Some("") {
        return HttpAnswer::ok(HTML.to_vec());
    }
    let seed = || Uuid::new_v4().into_bytes();
    let greeting = plug.with(|plug| plug.klap.handshake1(&request.body, seed, Instant::now()));
    let Some(greeting) = greeting else { return HttpAnswer::status(400) };
    let mut body = greeting.body;
    if let KlapFault::Handshake1Length(length) = fault {
        body.resize(length, 0);
    }
    HttpAnswer { cookie: Some(greeting.cookie), ..HttpAnswer::ok(body) }
}

async fn handshake2(plug: &PlugHandle, request: &KlapRequest) -> HttpAnswer {
    match plug.read(|plug| plug.klap.fault) {
        KlapFault::SlowHandshake(time) => sleep(time).await,
        KlapFault::Handshake2Status(status) => return refuse(plug, status),
        _ => {}
    }
    let is_proved = plug.with(|plug| {
        let is_proved = plug.klap.handshake2(request.cookie.as_deref(), &request.body, Instant::now());
        plug.traffic.klap_sessions += u64::from(is_proved);
        is_proved
    });
    if is_proved { HttpAnswer::status(200) } else { refuse(plug, 403) }
}

/// An answer of this status, counted if it says that something is forbidden.
fn refuse(plug: &PlugHandle, status: u16) -> HttpAnswer {
    plug.with(|plug| plug.traffic.klap_refusals += u64::from(status == 403));
    HttpAnswer::status(status)
}

/// Answers `/app/request`. One lock from the session to the relay: of two clients, one is served after the other.
fn message(plug: &PlugHandle, request: &KlapRequest, lan: LanFault) -> HttpAnswer {
    let now = Instant::now();
    let answer = plug.with(|plug| {
        plug.traffic.klap_requests += 1;
        match plug.klap.fault {
            KlapFault::RequestStatus(status) => return Err(status),
            KlapFault::SessionTaken => {
                plug.klap.end_session();
                return Err(403);
            }
            _ => {}
        }
        let opened = open(plug, request, now).ok_or(403_u16)?;
        Ok(carry_out(plug, &opened, lan, now))
    });
    answer.unwrap_or_else(|status| refuse(plug, status))
}

fn open(plug: &mut SimPlug, request: &KlapRequest, now: Instant) -> Option<OpenedMessage> {
    plug.klap.open(request.cookie.as_deref(), request.seq.as_deref(), &request.body, now).ok()
}

/// Carries out a message, unless the fault says otherwise, and answers as the fault says.
fn carry_out(plug: &mut SimPlug, opened: &OpenedMessage, lan: LanFault, now: Instant) -> HttpAnswer {
    let fault = plug.klap.fault;
    let is_first = plug.klap.requests_in_session() == 1;
    match fault {
        KlapFault::HtmlInstead => return HttpAnswer::ok(HTML.to_vec()),
        KlapFault::OneRequestThenNoHttp if !is_first => return HttpAnswer::no_http(),
        KlapFault::OneRequestThenUnreadable if !is_first => return HttpAnswer::ok(unreadable(96)),
        _ => {}
    }
    let reply = match lan {
        LanFault::DeviceError(code) => plug.refuse(&opened.json, code, SwitchedBy::Klap),
        _ => plug.handle(&opened.json, SwitchedBy::Klap, now),
    };
    // What is no JSON ends the session, as it ends a connection of the XOR protocol.
    let Some(reply) = reply.and_then(|reply| spoil(lan, reply)) else {
        plug.klap.end_session();
        return HttpAnswer::status(400);
    };
    let mut body = opened.seal.seal(&reply);
    let manner = match fault {
        KlapFault::Html => return HttpAnswer::ok(HTML.to_vec()),
        KlapFault::HtmlAbove(most) if reply.len() > most => return HttpAnswer::ok(HTML.to_vec()),
        KlapFault::NoHttp => return HttpAnswer::no_http(),
        KlapFault::Unreadable => return HttpAnswer::ok(unreadable(body.len())),
        KlapFault::WrongSignature => {
            body[0] ^= 1;
            AnswerManner::Message
        }
        KlapFault::Length(length) => {
            body.truncate(length);
            AnswerManner::Message
        }
        KlapFault::CutOff => AnswerManner::CutOff,
        KlapFault::EndlessHead => AnswerManner::EndlessHead,
        KlapFault::EndlessBody => AnswerManner::EndlessBody,
        _ => AnswerManner::Message,
    };
    HttpAnswer { manner, ..HttpAnswer::ok(body) }
}

/// Bytes of the right form that nobody has a key for.
fn unreadable(length: usize) -> Vec<u8> {
    let random = std::iter::repeat_with(|| Uuid::new_v4().into_bytes()).flatten();
    random.take(length).collect()
}

/// Takes the message now, and carries it out later, also when the client and the session have gone.
fn act_late(plug: &PlugHandle, request: &KlapRequest, after: Duration) -> io::Result<Then> {
    let opened = plug.with(|plug| {
        plug.traffic.klap_requests += 1;
        open(plug, request, Instant::now())
    });
    if let Some(opened) = opened {
        let plug = plug.clone();
        tokio::spawn(async move {
            sleep(after).await;
            plug.with(|plug| plug.handle(&opened.json, SwitchedBy::Klap, Instant::now()));
        });
    }
    Ok(Then::GoOn)
}

async fn send(
    stream: &mut TcpStream,
    lan: LanFault,
    framing: Framing,
    answer: HttpAnswer,
) -> io::Result<Then> {
    let length = match (framing, answer.manner, lan) {
        (Framing::Close, ..) | (_, AnswerManner::EndlessBody, _) => None,
        (_, AnswerManner::Message, LanFault::HugeLength) => Some(HUGE),
        _ => Some(answer.body.len()),
    };
    let mut bytes = http::head(answer.status, answer.cookie.as_deref(), length);
    let head = bytes.len();
    bytes.extend_from_slice(&answer.body);
    match (answer.manner, lan) {
        (AnswerManner::NoHttp, _) => {
            stream.write_all(NO_HTTP).await?;
            return close(stream).await;
        }
        (AnswerManner::CutOff, _) => {
            stream.write_all(&bytes[..head + answer.body.len() / 2]).await?;
            return close(stream).await;
        }
        (AnswerManner::EndlessHead, _) => {
            stream.write_all(&bytes[..head - "\r\n".len()]).await?;
            return repeat(stream, b"X-Filler: 0123456789abcdef\r\n").await;
        }
        (AnswerManner::EndlessBody, _) => {
            stream.write_all(&bytes).await?;
            return repeat(stream, &answer.body).await;
        }
        (AnswerManner::Message, LanFault::ResetInAnswer) => {
            stream.write_all(&bytes[..bytes.len() / 2]).await?;
            stream.set_zero_linger()?;
            return Ok(Then::HangUp);
        }
        (_, LanFault::SlowBytes(interval)) => drip(stream, &bytes, interval).await?,
        _ => stream.write_all(&bytes).await?,
    }
    if framing == Framing::Close || lan == LanFault::CloseAfterEachReply {
        return close(stream).await;
    }
    Ok(Then::GoOn)
}

async fn close(stream: &mut TcpStream) -> io::Result<Then> {
    stream.shutdown().await?;
    Ok(Then::HangUp)
}

/// Sends the same again and again, until the client has enough of it.
async fn repeat(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Then> {
    let mut sent = 0;
    while sent < ENDLESS {
        stream.write_all(bytes).await?;
        sent += bytes.len().max(1);
    }
    Ok(Then::HangUp)
}
