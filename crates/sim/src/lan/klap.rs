//! One HTTP connection to a simulated plug that speaks KLAP: handshake, requests, and its faults.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use uuid::Uuid;

use super::connection::{Open, Then, drip, lose_request, read_some, spoil};
use super::http::{self, Head, KlapRequest};
use crate::fault::{KlapFault, LanFault};
use crate::handle::PlugHandle;
use crate::plug::klap::{Framing, OpenedMessage};
use crate::plug::{SimPlug, SwitchedBy};

/// Some firmwares send it in place of ciphertext.
const HTML: &[u8] = b"<html><head><title>Welcome</title></head><body>200 OK</body></html>\r\n";
/// Some firmwares send bytes like these in place of HTTP.
const NO_HTTP: &[u8] = b"\x8f\x02\xff\x00\x17no http\x00\x00";
/// The length that [`LanFault::HugeLength`] announces.
const HUGE: usize = 0x7fff_ffff;
/// In bytes: less than each body that a plug sends, so that there are several chunks.
const CHUNK: usize = 20;
/// In bytes. A response without end stops here, so that a client that reads all of it does not exhaust the memory.
const ENDLESS: usize = 64 * 1024 * 1024;

/// Serves one connection until one side ends it.
pub(super) async fn serve(mut stream: TcpStream, plug: PlugHandle) {
    let _open = Open::count(plug.clone());
    let _ = stream.set_nodelay(true);
    // How a connection ends matters only to the client.
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
        // The fault was set after the connection was accepted; this task will be ended.
        _ if !serves => return Ok(Then::HangUp),
        LanFault::Refused | LanFault::NotAccepting | LanFault::PortDead | LanFault::PortFiltered => {
            return Ok(Then::HangUp);
        }
        LanFault::Silent => return lose_request(plug),
        LanFault::ResetAfterRequest => {
            lose_request(plug)?;
            stream.set_zero_linger()?;
            return Ok(Then::HangUp);
        }
        LanFault::CloseWithoutReply => {
            lose_request(plug)?;
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
    if plug.read(|plug| plug.klap.fault == KlapFault::Chunked) {
        stream.write_all(&chunked(&answer)).await?;
        return Ok(Then::GoOn);
    }
    send(stream, lan, framing, answer).await
}

struct HttpAnswer {
    status: u16,
    cookie: Option<String>,
    body: Vec<u8>,
    manner: AnswerManner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerManner {
    /// At once.
    Whole,
    /// At once, with the fault of [`LanFault`], if it is one of replies.
    Message,
    /// [`NO_HTTP`] instead.
    NoHttp,
    /// Announces the whole, sends half of it.
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
    let (greeting, gives_cookie) =
        plug.with(|plug| (plug.klap.handshake1(&request.body, seed, Instant::now()), plug.klap.gives_cookie));
    let Some(greeting) = greeting else { return HttpAnswer::status(400) };
    let mut body = greeting.body;
    if let KlapFault::Handshake1Length(length) = fault {
        body.resize(length, 0);
    }
    HttpAnswer { cookie: gives_cookie.then_some(greeting.cookie), ..HttpAnswer::ok(body) }
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

/// A response with this status; a 403 is counted.
fn refuse(plug: &PlugHandle, status: u16) -> HttpAnswer {
    plug.with(|plug| plug.traffic.klap_refusals += u64::from(status == 403));
    HttpAnswer::status(status)
}

/// Handles `/app/request`. It holds one lock from the session to the relay, so two clients are served one after the
/// other.
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

/// Carries out a message and replies, or does what the fault says.
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
    // A reply that is not JSON ends the session, as it ends a connection of the XOR protocol.
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

/// Valid form, but no key decrypts it.
fn unreadable(length: usize) -> Vec<u8> {
    let random = std::iter::repeat_with(|| Uuid::new_v4().into_bytes()).flatten();
    random.take(length).collect()
}

/// Decrypts the message now and carries it out later, even if the client and the session are gone by then.
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

/// The whole response in chunks.
fn chunked(answer: &HttpAnswer) -> Vec<u8> {
    let mut bytes = http::chunked_head(answer.status, answer.cookie.as_deref());
    for chunk in answer.body.chunks(CHUNK) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

async fn close(stream: &mut TcpStream) -> io::Result<Then> {
    stream.shutdown().await?;
    Ok(Then::HangUp)
}

/// Sends the same bytes until the client disconnects or [`ENDLESS`] is reached.
async fn repeat(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Then> {
    let mut sent = 0;
    while sent < ENDLESS {
        stream.write_all(bytes).await?;
        sent += bytes.len().max(1);
    }
    Ok(Then::HangUp)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::{Value, json};
    use tokio::io::AsyncReadExt;
    use tokio::net::UdpSocket;
    use tokio::time::timeout;

    use super::*;
    use crate::fault::Dialect;
    use crate::lan::{LanPorts, SimLan};
    use crate::model::{Model, SimKlapVersion};
    use crate::notify::ChangeNotifier;
    use crate::plug::Traffic;
    use crate::plug::klap::{HeldAccount, KlapRefusal, SessionTimeout};
    use crate::plug::klap_crypto::{self, HASH, SEED, SessionKeys, SimSeed};

    const BOUND: Duration = Duration::from_secs(5);
    /// Long enough to show that nothing comes.
    const NOTHING_COMES: Duration = Duration::from_millis(200);
    /// In bytes: more than any response of a plug.
    const TOO_MUCH: usize = 256 * 1024;
    const SYSINFO: &str = r#"{"system":{"get_sysinfo":{}}}"#;
    const ON: &str = r#"{"system":{"set_relay_state":{"state":1}}}"#;
    const ACCOUNT: (&str, &str) = ("user@example.com", "great_password");

    struct KlapScene {
        lan: SimLan,
        notifier: ChangeNotifier,
        plug: PlugHandle,
    }

    impl KlapScene {
        async fn new() -> Self {
            let notifier = ChangeNotifier::new();
            let lan = SimLan::start(LanPorts::default(), notifier.clone()).await.unwrap();
            let mut plug = SimPlug::new(Model::HS100_HW1, 1, "Lamp", Instant::now());
            plug.dialect = Dialect::Klap;
            plug.klap.account = HeldAccount::new(ACCOUNT.0, ACCOUNT.1);
            let plug = PlugHandle::new(plug, notifier.clone());
            lan.plug_in(&plug, ([127, 0, 0, 11], lan.port()).into()).await.unwrap();
            Self { lan, notifier, plug }
        }

        fn address(&self) -> SocketAddr {
            self.lan.klap_address(&self.plug).unwrap()
        }

        async fn set(&self, change: impl FnOnce(&mut SimPlug)) {
            self.plug.with(change);
            self.lan.settled(&self.plug).await.unwrap();
        }

        async fn client(&self) -> Client {
            let version = self.plug.read(|plug| plug.klap.version);
            Client::shake_hands(self.address(), version).await.unwrap()
        }

        /// The changes of the counters since `before`.
        fn since(&self, before: Traffic) -> (u64, u64, u64, u64, u64) {
            let now = self.plug.traffic();
            (
                now.klap_handshakes - before.klap_handshakes,
                now.klap_sessions - before.klap_sessions,
                now.klap_requests - before.klap_requests,
                now.klap_refusals - before.klap_refusals,
                now.relay_orders - before.relay_orders,
            )
        }
    }

    /// What a client sees.
    #[derive(Debug, PartialEq)]
    enum KlapSeen {
        Reply(Value),
        /// A reply with a wrong signature.
        Unsigned(Value),
        Status(u16),
        /// A body with status 200 that cannot be decrypted; its length.
        Body(usize),
        NoHttp,
        NoJson,
        /// A body shorter than announced.
        CutOff,
        TooMuch,
        Refused,
        ConnectHangs,
        Nothing,
        Closed,
        Reset,
    }

    /// A client with one session. Each request uses the same connection, or a new one if that has ended.
    struct Client {
        stream: TcpStream,
        address: SocketAddr,
        cookie: String,
        keys: SessionKeys,
        seq: i32,
    }

    impl Client {
        async fn shake_hands(address: SocketAddr, version: SimKlapVersion) -> Result<Self, KlapSeen> {
            let mut stream = connect(address, BOUND).await?;
            let seed: SimSeed = [9; SEED];
            let (head, body) = post(&mut stream, "/app/handshake1", None, &seed, BOUND).await?;
            if body.len() != SEED + HASH {
                return Err(KlapSeen::Body(body.len()));
            }
            let cookie = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
            let cookie = cookie.split(';').next().unwrap().to_owned();
            let plug: SimSeed = body[..SEED].try_into().unwrap();
            let auth = klap_crypto::auth_hash(version, ACCOUNT.0, ACCOUNT.1);
            if body[SEED..] != klap_crypto::proof(version, &seed, &plug, &auth) {
                return Err(KlapSeen::Body(body.len()));
            }
            let proof = klap_crypto::proof(version, &plug, &seed, &auth);
            if has_ended(&stream) {
                stream = connect(address, BOUND).await?;
            }
            post(&mut stream, "/app/handshake2", Some(&cookie), &proof, BOUND).await?;
            let keys = SessionKeys::derive(&seed, &plug, &auth);
            Ok(Self { stream, address, cookie, seq: keys.first_seq, keys })
        }

        async fn ask(&mut self, json: &str) -> KlapSeen {
            self.ask_within(json, BOUND).await
        }

        async fn ask_within(&mut self, json: &str, bound: Duration) -> KlapSeen {
            self.try_ask(json, bound).await.unwrap_or_else(|seen| seen)
        }

        async fn try_ask(&mut self, json: &str, bound: Duration) -> Result<KlapSeen, KlapSeen> {
            if has_ended(&self.stream) {
                self.stream = connect(self.address, bound).await?;
            }
            self.seq = self.seq.wrapping_add(1);
            let path = format!("/app/request?seq={}", self.seq);
            let body = self.keys.seal(self.seq, json.as_bytes());
            let (_, mut body) = post(&mut self.stream, &path, Some(&self.cookie), &body, bound).await?;
            let opened = self.keys.open(self.seq, &body);
            if let Some(first) = body.first_mut() {
                *first ^= 1;
            }
            match (opened, self.keys.open(self.seq, &body)) {
                (Ok(json), _) => Ok(serde_json::from_slice(&json).map_or(KlapSeen::NoJson, KlapSeen::Reply)),
                (_, Ok(json)) => Ok(KlapSeen::Unsigned(serde_json::from_slice(&json).unwrap())),
                _ => Ok(KlapSeen::Body(body.len())),
            }
        }
    }

    async fn connect(address: SocketAddr, bound: Duration) -> Result<TcpStream, KlapSeen> {
        match timeout(bound, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(KlapSeen::Refused),
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => Err(KlapSeen::ConnectHangs),
        }
    }

    /// Whether the plug has closed the connection.
    fn has_ended(stream: &TcpStream) -> bool {
        !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Head and body of a response with status 200.
    async fn post(
        stream: &mut TcpStream,
        path: &str,
        cookie: Option<&str>,
        body: &[u8],
        bound: Duration,
    ) -> Result<(String, Vec<u8>), KlapSeen> {
        let cookie = cookie.map_or(String::new(), |cookie| format!("Cookie: {cookie}\r\n"));
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: plug\r\n{cookie}Content-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        timeout(bound, read_answer(stream)).await.unwrap_or(Err(KlapSeen::Nothing))
    }

    /// The body of a response in chunks, once it is whole.
    fn joined(mut chunks: &[u8]) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = chunks.windows(2).position(|bytes| bytes == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
            let data = chunks.get(end + 2..end + 2 + size + 2)?;
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&data[..size]);
            chunks = &chunks[end + 2 + size + 2..];
        }
    }

    async fn read_answer(stream: &mut TcpStream) -> Result<(String, Vec<u8>), KlapSeen> {
        let mut received = Vec::new();
        loop {
            let split = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
            let head = split.map(|at| std::str::from_utf8(&received[..at]).unwrap());
            if let (Some(at), Some(head)) = (split, head)
                && head.contains("\r\nTransfer-Encoding: chunked\r\n")
                && let Some(body) = joined(&received[at..])
            {
                return Ok((head.to_owned(), body));
            }
            let length = head.map(|head| head.lines().find_map(|line| line.strip_prefix("Content-Length: ")));
            let length = length.map(|length| length.map(|length| length.parse::<usize>().unwrap()));
            let is_whole =
                matches!((split, length), (Some(at), Some(Some(length))) if received.len() == at + length);
            let mut buffer = [0; 4096];
            let read = if is_whole { Ok(0) } else { stream.read(&mut buffer).await };
            match read {
                Err(_) => return Err(KlapSeen::Reset),
                Ok(_) if received.len() > TOO_MUCH => return Err(KlapSeen::TooMuch),
                Ok(0) if received.is_empty() => return Err(KlapSeen::Closed),
                Ok(0) => {
                    let (Some(at), Some(length)) = (split, length) else { return Err(KlapSeen::NoHttp) };
                    let head = String::from_utf8(received[..at].to_vec()).unwrap();
                    let body = received.split_off(at);
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return match (status, length) {
                        (200, Some(length)) if body.len() < length => Err(KlapSeen::CutOff),
                        (200, _) => Ok((head, body)),
                        _ => Err(KlapSeen::Status(status)),
                    };
                }
                Ok(length) => received.extend_from_slice(&buffer[..length]),
            }
        }
    }

    fn switched() -> KlapSeen {
        KlapSeen::Reply(json!({"system": {"set_relay_state": {"err_code": 0}}}))
    }

    #[tokio::test]
    async fn a_session_is_read_and_switched_in_both_versions() {
        for version in [SimKlapVersion::V1, SimKlapVersion::V2] {
            let scene = KlapScene::new().await;
            scene.set(|plug| plug.klap.version = version).await;
            let before = scene.plug.traffic();
            let mut client = scene.client().await;
            let KlapSeen::Reply(sysinfo) = client.ask(SYSINFO).await else { panic!("no reply") };
            assert_eq!(sysinfo["system"]["get_sysinfo"]["deviceId"], scene.plug.device_id());
            assert_eq!(client.ask(ON).await, switched());
            assert_eq!(scene.since(before), (1, 1, 2, 0, 1));
            let log: Vec<_> = scene.plug.switchings().iter().map(|it| (it.on, it.by)).collect();
            assert_eq!(log, [(true, SwitchedBy::Klap)]);
            assert_eq!((scene.plug.traffic().connections, scene.plug.traffic().lan_requests), (1, 2));
        }
    }

    #[tokio::test]
    async fn each_fault_of_klap_shows_as_it_should_and_acts_only_where_it_says_so() {
        let scene = KlapScene::new().await;
        for fault in KlapFault::ALL {
            scene.set(|plug| plug.klap.fault = fault).await;
            let before = scene.plug.traffic();
            let version = scene.plug.read(|plug| plug.klap.version);
            let seen = match Client::shake_hands(scene.address(), version).await {
                Ok(mut client) => client.ask(ON).await,
                Err(seen) => seen,
            };
            let expected = match fault {
                KlapFault::Works | KlapFault::SlowHandshake(_) | KlapFault::HtmlAbove(_) => switched(),
                KlapFault::OneRequestThenNoHttp | KlapFault::OneRequestThenUnreadable => switched(),
                KlapFault::Chunked => switched(),
                KlapFault::Refused => KlapSeen::Refused,
                KlapFault::Handshake1Status(status) | KlapFault::Handshake2Status(status) => {
                    KlapSeen::Status(status)
                }
                KlapFault::RequestStatus(status) => KlapSeen::Status(status),
                KlapFault::SessionTaken => KlapSeen::Status(403),
                KlapFault::Handshake1Html | KlapFault::Html | KlapFault::HtmlInstead => {
                    KlapSeen::Body(HTML.len())
                }
                KlapFault::Handshake1Length(length) | KlapFault::Length(length) => KlapSeen::Body(length),
                KlapFault::NoHttp => KlapSeen::NoHttp,
                KlapFault::Unreadable => KlapSeen::Body(80),
                KlapFault::WrongSignature => {
                    KlapSeen::Unsigned(json!({"system": {"set_relay_state": {"err_code": 0}}}))
                }
                KlapFault::CutOff => KlapSeen::CutOff,
                KlapFault::EndlessHead | KlapFault::EndlessBody => KlapSeen::TooMuch,
            };
            assert_eq!(seen, expected, "{fault:?}");
            let orders = scene.since(before).4;
            assert_eq!(orders, u64::from(fault.carries_out()), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn each_fault_of_the_lan_shows_over_klap_as_well() {
        let scene = KlapScene::new().await;
        for fault in LanFault::ALL {
            scene.lan.set_fault(&scene.plug, fault).await.unwrap();
            let before = scene.plug.traffic().relay_orders;
            let expected = match fault {
                LanFault::Works | LanFault::Latency(_) | LanFault::SlowBytes(_) => switched(),
                LanFault::CloseAfterEachReply => switched(),
                LanFault::Refused | LanFault::PortDead => KlapSeen::Refused,
                LanFault::NotAccepting | LanFault::PortFiltered => KlapSeen::ConnectHangs,
                LanFault::Silent | LanFault::SilentButActs(_) | LanFault::Asleep => KlapSeen::Nothing,
                LanFault::ResetAfterRequest | LanFault::ResetInAnswer => KlapSeen::Reset,
                LanFault::CloseWithoutReply => KlapSeen::Closed,
                LanFault::Garbage | LanFault::CutOffJson => KlapSeen::NoJson,
                LanFault::HugeLength => KlapSeen::Nothing,
                LanFault::DeviceError(code) => KlapSeen::Reply(
                    json!({"system": {"set_relay_state": {"err_code": code, "err_msg": "module not support"}}}),
                ),
            };
            let nothing = matches!(expected, KlapSeen::Nothing | KlapSeen::ConnectHangs);
            let bound = if nothing { NOTHING_COMES } else { BOUND };
            let seen = match timeout(bound, Client::shake_hands(scene.address(), SimKlapVersion::V2)).await {
                Ok(Ok(mut client)) => client.ask_within(ON, bound).await,
                Ok(Err(seen)) => seen,
                Err(_) if fault == LanFault::NotAccepting || fault == LanFault::PortFiltered => {
                    KlapSeen::ConnectHangs
                }
                Err(_) => KlapSeen::Nothing,
            };
            assert_eq!(seen, expected, "{fault:?}");
            let orders = || scene.plug.traffic().relay_orders - before;
            scene.notifier.wait_until(BOUND, || orders() == u64::from(fault.carries_out())).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_plug_with_one_request_in_a_session_wants_a_handshake_before_each() {
        let scene = KlapScene::new().await;
        for (fault, expected) in [
            (KlapFault::OneRequestThenNoHttp, KlapSeen::NoHttp),
            (KlapFault::OneRequestThenUnreadable, KlapSeen::Body(96)),
        ] {
            scene.set(|plug| plug.klap.fault = fault).await;
            let before = scene.plug.traffic();
            for _ in 0..2 {
                let mut client = scene.client().await;
                assert_eq!(client.ask(ON).await, switched());
                assert_eq!(client.ask(ON).await, expected, "{fault:?}");
            }
            assert_eq!(scene.since(before), (2, 2, 4, 0, 2), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_page_comes_in_place_of_long_replies_only() {
        let scene = KlapScene::new().await;
        scene.set(|plug| plug.klap.fault = KlapFault::HtmlAbove(300)).await;
        let mut client = scene.client().await;
        assert_eq!(client.ask(SYSINFO).await, KlapSeen::Body(HTML.len()));
        assert_eq!(client.ask(ON).await, switched());
    }

    #[tokio::test]
    async fn an_answer_may_end_with_its_connection() {
        let scene = KlapScene::new().await;
        scene.set(|plug| plug.klap.framing = Framing::Close).await;
        let mut client = scene.client().await;
        assert_eq!(client.ask(ON).await, switched());
        assert_eq!(client.ask(ON).await, switched());
        assert_eq!(scene.plug.traffic().connections, 4, "a connection for each step and each request");
    }

    #[tokio::test]
    async fn of_two_clients_the_last_one_has_the_session() {
        let scene = KlapScene::new().await;
        let (mut one, mut other) = (scene.client().await, scene.client().await);
        assert_eq!(one.ask(ON).await, KlapSeen::Status(403));
        assert_eq!(other.ask(ON).await, switched());
        assert_eq!(scene.plug.read(|plug| plug.klap.last_refusal), Some(KlapRefusal::OtherCookie));
        scene.plug.with(|plug| plug.klap.end_session());
        assert_eq!(other.ask(ON).await, KlapSeen::Status(403));
        assert_eq!(scene.plug.traffic().klap_refusals, 2);
    }

    #[tokio::test]
    async fn an_account_that_the_plug_does_not_hold_is_refused_and_held_again_it_is_not() {
        let scene = KlapScene::new().await;
        let own = scene.plug.read(|plug| plug.klap.account.clone());
        let others = [HeldAccount::kasa_setup(), HeldAccount::tapo_setup(), HeldAccount::blank()];
        for other in others.into_iter().chain([HeldAccount::new("User@example.com", ACCOUNT.1)]) {
            scene.set(|plug| plug.klap.account = other).await;
            let seen = Client::shake_hands(scene.address(), SimKlapVersion::V2).await;
            assert_eq!(seen.err(), Some(KlapSeen::Body(48)));
        }
        scene.set(|plug| plug.klap.account = own).await;
        assert_eq!(scene.client().await.ask(ON).await, switched());
    }

    #[tokio::test]
    async fn a_flip_of_the_protocol_closes_one_port_opens_the_other_and_ends_the_session() {
        let scene = KlapScene::new().await;
        let xor = scene.lan.address(&scene.plug).unwrap();
        let mut client = scene.client().await;
        assert_eq!(connect(xor, BOUND).await.err(), Some(KlapSeen::Refused));

        scene.lan.set_dialect(&scene.plug, Dialect::Xor).await.unwrap();
        assert!(!scene.plug.read(|plug| plug.klap.has_session()));
        assert_eq!(client.ask(ON).await, KlapSeen::Refused);
        let mut kept = connect(xor, BOUND).await.unwrap();

        scene.lan.set_dialect(&scene.plug, Dialect::Klap).await.unwrap();
        assert!(matches!(timeout(BOUND, kept.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
        assert_eq!(connect(xor, BOUND).await.err(), Some(KlapSeen::Refused));
        assert_eq!(client.ask(ON).await, KlapSeen::Status(403));
        assert_eq!(scene.client().await.ask(ON).await, switched());

        scene.lan.set_dialect(&scene.plug, Dialect::Both).await.unwrap();
        connect(xor, BOUND).await.unwrap();
        assert_eq!(scene.client().await.ask(ON).await, switched());
    }

    #[tokio::test]
    async fn a_restart_and_a_loss_of_power_end_the_session() {
        let scene = KlapScene::new().await;
        let mut client = scene.client().await;
        let reboot = r#"{"system":{"reboot":{"delay":0}}}"#;
        assert!(matches!(client.ask(reboot).await, KlapSeen::Reply(_)));
        let is_back = || scene.plug.read(|plug| plug.is_up(Instant::now()));
        scene.notifier.wait_until(BOUND, is_back).await.unwrap();
        scene.lan.settled(&scene.plug).await.unwrap();
        assert_eq!(client.ask(ON).await, KlapSeen::Status(403));

        let mut client = scene.client().await;
        scene.set(|plug| plug.powered = false).await;
        assert_eq!(client.ask(ON).await, KlapSeen::Refused);
        scene.set(|plug| plug.powered = true).await;
        assert_eq!(client.ask(ON).await, KlapSeen::Status(403));
    }

    #[tokio::test]
    async fn a_port_that_waits_for_a_probe_opens_with_it_and_closes_with_the_next_start() {
        let scene = KlapScene::new().await;
        scene.set(|plug| plug.klap.waits_for_probe = true).await;
        let plug = scene.address();
        assert_eq!(connect(plug, BOUND).await.err(), Some(KlapSeen::Refused));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = (plug.ip(), scene.lan.tdp_port());
        socket.send_to(b"no probe", to).await.unwrap();
        let probe = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];
        socket.send_to(&probe, to).await.unwrap();
        let (length, _) = timeout(BOUND, socket.recv_from(&mut [0; 2048])).await.unwrap().unwrap();
        assert!(length > 16);
        scene.lan.settled(&scene.plug).await.unwrap();
        assert_eq!(scene.client().await.ask(ON).await, switched());

        scene.set(|plug| plug.powered = false).await;
        scene.set(|plug| plug.powered = true).await;
        assert_eq!(connect(plug, BOUND).await.err(), Some(KlapSeen::Refused));
    }

    #[tokio::test]
    async fn a_plug_may_serve_klap_at_a_port_of_its_own() {
        let scene = KlapScene::new().await;
        let usual = scene.address();
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind((usual.ip(), 0)).unwrap().local_addr().unwrap().port();
        scene.set(|plug| plug.klap.port = Some(free)).await;
        assert_eq!(connect(usual, BOUND).await.err(), Some(KlapSeen::Refused));
        assert_eq!(scene.address().port(), free);
        assert_eq!(scene.client().await.ask(ON).await, switched());
    }

    #[tokio::test]
    async fn a_session_that_is_over_by_its_timeout_is_refused() {
        let scene = KlapScene::new().await;
        scene.set(|plug| plug.klap.timeout = SessionTimeout::After(Duration::ZERO)).await;
        let seen = Client::shake_hands(scene.address(), SimKlapVersion::V2).await;
        assert_eq!(seen.err(), Some(KlapSeen::Status(403)));
        assert_eq!(scene.plug.read(|plug| plug.klap.last_refusal), Some(KlapRefusal::Expired));
    }

    #[tokio::test]
    async fn what_is_no_request_is_answered_400_and_an_empty_cookie_with_a_page() {
        let scene = KlapScene::new().await;
        let mut stream = connect(scene.address(), BOUND).await.unwrap();
        stream.write_all(b"\0\0\0\x1d nothing of HTTP").await.unwrap();
        assert_eq!(read_answer(&mut stream).await.err(), Some(KlapSeen::Status(400)));
        let mut stream = connect(scene.address(), BOUND).await.unwrap();
        let empty = post(&mut stream, "/app/handshake1", Some(""), &[9; SEED], BOUND).await;
        assert_eq!(empty.unwrap().1, HTML);
        for (path, body, status) in [("/app/handshake1", &[9; 15][..], 400), ("/app", &[], 404)] {
            let seen = post(&mut stream, path, None, body, BOUND).await;
            assert_eq!(seen.err(), Some(KlapSeen::Status(status)), "{path}");
        }
    }
}
