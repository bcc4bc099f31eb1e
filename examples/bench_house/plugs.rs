//! Simulated plugs that reply as fast as possible: ten thousand of them in one thread, each at its own address.
//!
//! They understand only what the measured daemon sends; `hs100d::sim` has realistic plugs. One listening socket for each
//! protocol serves all addresses, since a file for each would be too many: the local address of a connection identifies the
//! plug. Each plug speaks one protocol, and closes connections to the other port. `klap_plug` has what KLAP needs.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hs100d::model::LanProtocol;
use hs100d::smarthome::cipher;
use hs100d::smarthome::frame::{self, Frame, HEADER_LEN};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::klap_plug::{self, KlapPlug};
use super::process::Fault;

/// The network of the first plug: 127.16.0.0, then upwards.
const FIRST: u32 = 0x7f10_0000;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
const USUAL_RSSI: i32 = -52;
const SYSINFO: &[u8] = br#"{"system":{"get_sysinfo":{}}}"#;

/// A relay that was just switched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Switched {
    pub(crate) plug: usize,
    pub(crate) on: bool,
    pub(crate) at: Instant,
}

/// All plugs. They end when this is dropped.
pub(crate) struct Plugs {
    /// Where the plugs listen that speak XOR.
    pub(crate) port: u16,
    /// Where the others listen.
    pub(crate) klap_port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) plugs: Vec<Plug>,
    begun: Instant,
    /// Requests that were answered.
    asked: AtomicU64,
    /// The delay of a reply, in microseconds.
    delay: AtomicU64,
    /// Whether each read shows another signal strength than the one before.
    is_restless: AtomicBool,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
    /// The times between two reads of the same plug, while they are recorded.
    gaps: Mutex<Option<Vec<f64>>>,
    switched: mpsc::UnboundedSender<Switched>,
}

pub(super) struct Plug {
    /// `None` for a plug that speaks XOR.
    pub(super) klap: Option<KlapPlug>,
    /// The reply to `get_sysinfo`, off and on: for XOR a frame, for KLAP the message.
    read: [Box<[u8]>; 2],
    /// The reply to a request that switches and reads, off and on.
    switched_and_read: [Box<[u8]>; 2],
    is_on: AtomicBool,
    is_silent: AtomicBool,
    /// Microseconds since the start; 0 before the first read.
    read_at: AtomicU64,
}

impl Plugs {
    /// Starts this many plugs, all off; those in `klap` speak KLAP. Each switching is sent to `switched`.
    pub(crate) fn start(
        count: usize,
        klap: &Range<usize>,
        switched: mpsc::UnboundedSender<Switched>,
    ) -> Result<Self, Fault> {
        let listen = || listen().map_err(|error| format!("the plugs' socket: {error}"));
        let (xor, klap_listener) = (listen()?, listen()?);
        let (port, klap_port) = (xor.local_addr()?.port(), klap_listener.local_addr()?.port());
        let shared = Arc::new(Shared {
            plugs: (0..count).map(|plug| Plug::new(plug, klap.contains(&plug))).collect(),
            begun: Instant::now(),
            asked: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            is_restless: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            most_in_flight: AtomicU64::new(0),
            gaps: Mutex::new(None),
            switched,
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || runtime.block_on(serve(xor, klap_listener, served, stopped)));
        Ok(Self { port, klap_port, shared, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.plugs.len()
    }

    pub(crate) fn is_on(&self, plug: usize) -> bool {
        self.shared.plugs[plug].is_on.load(Ordering::Relaxed)
    }

    /// From now on this plug reads requests without a reply, or replies again.
    pub(crate) fn set_silent(&self, plug: usize, silent: bool) {
        self.shared.plugs[plug].is_silent.store(silent, Ordering::Relaxed);
    }

    /// From now on each reply is delayed by this.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_micros() as u64, Ordering::Relaxed);
        self.shared.most_in_flight.store(0, Ordering::Relaxed);
    }

    /// From now on each read shows another signal strength than the one before, or none does again.
    pub(crate) fn set_restless(&self, restless: bool) {
        self.shared.is_restless.store(restless, Ordering::Relaxed);
    }

    /// The number of answered requests.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// The highest number of requests in progress at once since [`Plugs::set_delay`].
    pub(crate) fn most_in_flight(&self) -> u64 {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }

    /// Starts to record the time between two reads of a plug that replies.
    pub(crate) fn note_gaps(&self) {
        for plug in &self.shared.plugs {
            plug.read_at.store(0, Ordering::Relaxed);
        }
        *self.shared.gaps() = Some(Vec::new());
    }

    /// The recorded times in milliseconds; a plug that is overdue now counts with its time so far.
    pub(crate) fn gaps(&self) -> Vec<f64> {
        let mut gaps = self.shared.gaps().take().unwrap_or_default();
        let now = self.shared.now();
        for plug in self.shared.plugs.iter().filter(|plug| !plug.is_silent.load(Ordering::Relaxed)) {
            match plug.read_at.load(Ordering::Relaxed) {
                0 => {}
                at => gaps.push(now.saturating_sub(at) as f64 / 1000.0),
            }
        }
        gaps
    }
}

impl Drop for Plugs {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// An answer was written.
    pub(super) fn note_answered(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    fn gaps(&self) -> std::sync::MutexGuard<'_, Option<Vec<f64>>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plug {
    fn new(number: usize, speaks_klap: bool) -> Self {
        let reply = |json: &str| if speaks_klap { json.as_bytes().into() } else { framed(json) };
        Self {
            klap: speaks_klap.then(|| KlapPlug::new(number)),
            read: [0, 1].map(|relay| reply(&sysinfo(number, relay, USUAL_RSSI))),
            switched_and_read: [0, 1].map(|relay| {
                let done = r#"{"system":{"set_relay_state":{"err_code":0},"#;
                reply(&sysinfo(number, relay, USUAL_RSSI).replacen(r#"{"system":{"#, done, 1))
            }),
            is_on: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            read_at: AtomicU64::new(0),
        }
    }
}

/// The topic name of a plug.
pub(crate) fn name(plug: usize) -> String {
    format!("plug-{plug:05}")
}

/// The plug with this topic name.
pub(crate) fn number(name: &str) -> Option<usize> {
    name.strip_prefix("plug-")?.parse().ok()
}

pub(crate) fn device_id(plug: usize) -> String {
    format!("8006{plug:036X}")
}

pub(crate) fn address(plug: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + plug as u32 + 1)
}

/// The entry of a plug in a config.
pub(crate) fn entry(plug: usize) -> String {
    format!(
        "\n[[plug]]\nname = \"{}\"\nhost = \"{}\"\ndevice_id = \"{}\"\n",
        name(plug),
        address(plug),
        device_id(plug)
    )
}

/// One frame that switches a relay.
pub(crate) fn switch_frame(on: bool) -> Box<[u8]> {
    framed(&format!(r#"{{"system":{{"set_relay_state":{{"state":{}}}}}}}"#, u8::from(on)))
}

/// The frame of `get_sysinfo`.
pub(crate) fn ask_frame() -> Box<[u8]> {
    framed(std::str::from_utf8(SYSINFO).unwrap_or_default())
}

fn framed(json: &str) -> Box<[u8]> {
    let mut bytes = Vec::new();
    frame::build(&mut bytes, |payload| payload.extend_from_slice(json.as_bytes()));
    bytes.into()
}

/// An HS100 with hardware 1.0, written by hand.
fn sysinfo(number: usize, relay: u8, rssi: i32) -> String {
    let mac = format!("50:C7:BF:{:02X}:{:02X}:{:02X}", number >> 16 & 255, number >> 8 & 255, number & 255);
    format!(
        r#"{{"system":{{"get_sysinfo":{{"err_code":0,"sw_ver":"1.2.5 Build 171129 Rel.174814","hw_ver":"1.0","type":"IOT.SMARTPLUGSWITCH","model":"HS100(EU)","mac":"{mac}","deviceId":"{}","hwId":"22603EA5E716DEAEA6642A30BE87AFCB","fwId":"00000000000000000000000000000000","oemId":"812A90EB2FCF306A993FAD8748024B07","alias":"Plug {number}","dev_name":"Wi-Fi Smart Plug","icon_hash":"","relay_state":{relay},"on_time":0,"active_mode":"schedule","feature":"TIM","updating":0,"rssi":{rssi},"led_off":0,"latitude":0.5,"longitude":0.5}}}}}}"#,
        device_id(number)
    )
}

/// Listens on all of loopback and nothing else.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(b"lo"))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn serve(xor: TcpListener, klap: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let (taken, protocol) = tokio::select! {
            _ = &mut stopped => return,
            taken = xor.accept() => (taken, LanProtocol::Xor),
            taken = klap.accept() => (taken, LanProtocol::Klap),
        };
        let Ok((stream, _)) = taken else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(converse(stream, protocol, Arc::clone(&shared)));
    }
}

async fn converse(mut stream: TcpStream, protocol: LanProtocol, shared: Arc<Shared>) {
    let Some(number) = stream.local_addr().ok().and_then(number_at) else { return };
    let Some(plug) = shared.plugs.get(number) else { return };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // How a connection ends matters only to the client.
    let _ = match (protocol, &plug.klap) {
        (LanProtocol::Xor, None) => answer_all(&mut stream, number, &shared).await,
        (LanProtocol::Klap, Some(klap)) => klap_plug::answer_all(&mut stream, number, klap, &shared).await,
        _ => Ok(()),
    };
}

fn number_at(address: SocketAddr) -> Option<usize> {
    let IpAddr::V4(address) = address.ip() else { return None };
    Some(u32::from(address).checked_sub(FIRST + 1)? as usize)
}

async fn answer_all(stream: &mut TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    let mut received = Vec::with_capacity(128);
    while stream.read_buf(&mut received).await? > 0 {
        while let Frame::Whole { end } = frame::parse(&received) {
            let mut request: Vec<u8> = received.drain(..end).skip(HEADER_LEN).collect();
            cipher::decrypt(&mut request);
            let Some(answer) = answer(number, shared, &request).await else { continue };
            let written = match answer {
                Answer::Prepared(frame) => stream.write_all(frame).await,
                Answer::Other(json) => stream.write_all(&framed(&json)).await,
            };
            shared.note_answered();
            written?;
        }
    }
    Ok(())
}

/// The answer to a request.
pub(super) enum Answer<'a> {
    /// One of those that each plug has ready.
    Prepared(&'a [u8]),
    /// A message.
    Other(String),
}

/// Does what the request says, and answers after the delay. `None` from a plug that is silent.
pub(super) async fn answer<'a>(number: usize, shared: &'a Shared, request: &[u8]) -> Option<Answer<'a>> {
    let plug = &shared.plugs[number];
    if plug.is_silent.load(Ordering::Relaxed) {
        return None;
    }
    let in_flight = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
    shared.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
    let delay = shared.delay.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    Some(if request == SYSINFO {
        note_read(plug, shared);
        let on = plug.is_on.load(Ordering::Relaxed);
        if shared.is_restless.load(Ordering::Relaxed) {
            let rssi = -53 - (shared.asked.load(Ordering::Relaxed) % 7) as i32;
            Answer::Other(sysinfo(number, u8::from(on), rssi))
        } else {
            Answer::Prepared(&plug.read[usize::from(on)])
        }
    } else if let Some(on) = switched_and_read(request) {
        note_read(plug, shared);
        switch(number, plug, shared, on);
        Answer::Prepared(&plug.switched_and_read[usize::from(on)])
    } else {
        Answer::Other(other_reply(number, plug, shared, request))
    })
}

fn note_read(plug: &Plug, shared: &Shared) {
    let now = shared.now();
    let before = plug.read_at.swap(now, Ordering::Relaxed);
    if let Some(gaps) = shared.gaps().as_mut().filter(|_| before > 0) {
        gaps.push((now - before) as f64 / 1000.0);
    }
}

/// A request that switches and reads at once, up to the new state.
const SWITCH_AND_READ: (&[u8], &[u8]) =
    (br#"{"system":{"set_relay_state":{"state":"#, br#"},"get_sysinfo":{}}}"#);

/// The new state in a request that switches and reads at once.
fn switched_and_read(request: &[u8]) -> Option<bool> {
    match request.strip_prefix(SWITCH_AND_READ.0)?.strip_suffix(SWITCH_AND_READ.1)? {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

fn switch(number: usize, plug: &Plug, shared: &Shared, on: bool) {
    plug.is_on.store(on, Ordering::Relaxed);
    // The receiver is gone if nothing is measured any more.
    let _ = shared.switched.send(Switched { plug: number, on, at: Instant::now() });
}

/// Switches the relay, or replies that the module does not exist.
fn other_reply(number: usize, plug: &Plug, shared: &Shared, request: &[u8]) -> String {
    let said: HashMap<String, HashMap<String, serde_json::Value>> =
        serde_json::from_slice(request).unwrap_or_default();
    let Some((module, methods)) = said.into_iter().next() else { return "{}".to_owned() };
    let Some((method, argument)) = methods.into_iter().next() else { return "{}".to_owned() };
    if method == "set_relay_state" {
        switch(number, plug, shared, argument["state"] == 1);
        return format!(r#"{{"{module}":{{"{method}":{{"err_code":0}}}}}}"#);
    }
    format!(
        r#"{{"{module}":{{"{method}":{{"binded":0,"cld_connection":0,"rule_list":[],"enable":0,"err_code":0}}}}}}"#
    )
}
