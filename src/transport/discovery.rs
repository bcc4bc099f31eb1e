//! Looking for plugs on the LAN: UDP broadcast out, sightings in.
//!
//! Owns the sockets, one for each interface, bound to that interface's own address, because a broadcast leaves by one
//! interface only. Asks for `get_sysinfo` and nothing else: some firmwares crash on more. Answers are taken from any
//! source port. What is no plug's answer is counted and skipped.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bridge::event::{OtherDialect, Said, Sighting};
use crate::model::{Address, Mac};
use crate::smarthome::cipher;
use crate::smarthome::message::{Reply, Request};

/// Between two rounds, where the user says nothing else.
const INTERVAL: Duration = Duration::from_secs(60);
/// Where newer firmwares listen for a discovery of another form, UDP.
pub const TDP_PORT: u16 = 20002;
/// The shortest probe of that form: version 2, operation 1, no payload, and the checksum of just that.
const TDP_PROBE: [u8; 16] = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];
/// The bytes before the JSON of an answer of that form.
const TDP_HEADER: usize = 16;
/// One datagram may be lost, so each round sends so many …
const DATAGRAMS: usize = 3;
/// … this far apart.
const APART: Duration = Duration::from_millis(300);
/// A strip's answer has about 2 kB; this is the most that a datagram can hold.
const LARGEST_DATAGRAM: usize = 65_535;
/// Sightings that wait for the loop; a flood beyond them is dropped, since every plug is heard again next round.
const WAITING: usize = 1024;

/// How to look for plugs on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Between two rounds.
    pub interval: Duration,
    /// Where to; empty: every interface's own broadcast address.
    pub broadcast: Vec<Ipv4Addr>,
    /// The port that plugs listen on, UDP and TCP.
    pub port: u16,
    /// The port of the newer discovery: [`TDP_PORT`], but for pretend plugs.
    pub tdp_port: u16,
}

impl Options {
    /// Every minute, on every interface, for plugs that listen on this port.
    pub fn usual(port: u16) -> Self {
        Self { interval: INTERVAL, broadcast: Vec::new(), port, tdp_port: TDP_PORT }
    }
}

/// The running search. Ends when dropped.
#[derive(Debug)]
pub struct Discovery {
    ask: mpsc::Sender<Vec<Address>>,
    sightings: mpsc::Receiver<Sighting>,
    _task: JoinSet<()>,
}

impl Discovery {
    /// Starts with a round at once.
    pub fn start(options: Options) -> Self {
        let (ask, asked) = mpsc::channel(4);
        let (tell, sightings) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        task.spawn(Search { options, tell, sockets: HashMap::new(), listening: JoinSet::new() }.run(asked));
        Self { ask, sightings, _task: task }
    }

    /// Looks now, and asks these addresses directly as well.
    pub fn look(&self, probe: Vec<Address>) {
        // A full queue means that a round is about to begin anyway.
        let _ = self.ask.try_send(probe);
    }

    /// The next plug that made itself heard. Waits for ever when there is none. Cancel safe.
    pub async fn next(&mut self) -> Sighting {
        match self.sightings.recv().await {
            Some(sighting) => sighting,
            None => std::future::pending().await,
        }
    }
}

/// The search as its task sees it.
struct Search {
    options: Options,
    tell: mpsc::Sender<Sighting>,
    /// By the address that each is bound to.
    sockets: HashMap<Ipv4Addr, Arc<UdpSocket>>,
    listening: JoinSet<Ipv4Addr>,
}

impl Search {
    async fn run(mut self, mut asked: mpsc::Receiver<Vec<Address>>) {
        let mut probe = Vec::new();
        loop {
            self.round(&probe).await;
            probe.clear();
            tokio::select! {
                more = asked.recv() => match more {
                    Some(more) => probe = more,
                    None => return,
                },
                () = tokio::time::sleep(self.options.interval) => {}
            }
        }
    }

    async fn round(&mut self, probe: &[Address]) {
        let ways = self.ways_out();
        self.open_sockets(&ways);
        let mut xor = Vec::new();
        Request::SysInfo.write_json(&mut xor);
        cipher::encrypt(&mut xor);
        for datagram in 0..DATAGRAMS {
            if datagram > 0 {
                tokio::time::sleep(APART).await;
            }
            for (local, target) in &ways {
                self.send(*local, &xor, SocketAddr::from((*target, self.options.port))).await;
                self.send(*local, &TDP_PROBE, SocketAddr::from((*target, self.options.tdp_port))).await;
            }
            for address in probe {
                if let (Address::Socket(target), Some((local, _))) = (address, ways.first()) {
                    self.send(*local, &xor, *target).await;
                }
            }
        }
    }

    /// From which address to which broadcast address.
    fn ways_out(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        if !self.options.broadcast.is_empty() {
            return self.options.broadcast.iter().map(|&target| (Ipv4Addr::UNSPECIFIED, target)).collect();
        }
        let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "the network interfaces cannot be listed, so no plug can be looked for");
            Vec::new()
        });
        let way = |interface: if_addrs::Interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) if !v4.is_loopback() => Some((v4.ip, v4.broadcast?)),
            _ => None,
        };
        interfaces.into_iter().filter_map(way).collect()
    }

    /// One socket for each way, opened when the interface comes and closed when it goes.
    fn open_sockets(&mut self, ways: &[(Ipv4Addr, Ipv4Addr)]) {
        while let Some(ended) = self.listening.try_join_next() {
            if let Ok(local) = ended {
                self.sockets.remove(&local);
            }
        }
        self.sockets.retain(|local, _| ways.iter().any(|(way, _)| way == local));
        for &(local, _) in ways {
            if self.sockets.contains_key(&local) {
                continue;
            }
            match open(local) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let weak = Arc::downgrade(&socket);
                    self.listening.spawn(listen(weak, local, self.options.port, self.tell.clone()));
                    self.sockets.insert(local, socket);
                }
                Err(error) => tracing::warn!(%local, %error, "no socket to look for plugs from this address"),
            }
        }
    }

    async fn send(&self, local: Ipv4Addr, datagram: &[u8], target: SocketAddr) {
        let Some(socket) = self.sockets.get(&local) else { return };
        if let Err(error) = socket.send_to(datagram, target).await {
            tracing::debug!(%local, %target, %error, "a discovery datagram was not sent");
        }
    }
}

fn open(local: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((local, 0))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Hears answers until the socket is closed or breaks.
async fn listen(
    socket: std::sync::Weak<UdpSocket>,
    local: Ipv4Addr,
    port: u16,
    tell: mpsc::Sender<Sighting>,
) -> Ipv4Addr {
    /// The socket is let go of this often, so that it can be closed from outside.
    const BREATH: Duration = Duration::from_secs(5);
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    while let Some(socket) = socket.upgrade() {
        match tokio::time::timeout(BREATH, socket.recv_from(&mut buffer)).await {
            Err(_) => {}
            Ok(Ok((length, from))) => hear(&mut buffer[..length], from.ip(), port, &tell),
            Ok(Err(error)) => {
                tracing::debug!(%local, %error, "a discovery socket broke; it is opened again next round");
                break;
            }
        }
    }
    local
}

fn hear(datagram: &mut [u8], from: IpAddr, port: u16, tell: &mpsc::Sender<Sighting>) {
    let address = Address::Socket(SocketAddr::new(from, port));
    match understand(datagram) {
        Some(said) => {
            if tell.try_send(Sighting { address, said }).is_err() {
                tracing::debug!(%from, "more plugs answer at once than can be taken in; the next round hears them");
            }
        }
        None => tracing::debug!(%from, length = datagram.len(), "an answer to discovery that is no plug's"),
    }
}

/// What a datagram says, in either of the two forms.
fn understand(datagram: &mut [u8]) -> Option<Said> {
    if let Some(device) = datagram.get(TDP_HEADER..).and_then(understand_tdp) {
        return Some(Said::Other(device));
    }
    cipher::decrypt(datagram);
    match Request::SysInfo.read_reply(datagram, None) {
        Ok(Reply::SysInfo(reading)) => Some(Said::SysInfo(Box::new(reading))),
        _ => None,
    }
}

fn understand_tdp(json: &[u8]) -> Option<OtherDialect> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: Device<'a>,
    }
    #[derive(Deserialize)]
    struct Device<'a> {
        mac: &'a str,
        device_type: &'a str,
        #[serde(default)]
        device_model: &'a str,
        #[serde(borrow, default)]
        mgt_encrypt_schm: Encryption<'a>,
    }
    #[derive(Deserialize, Default)]
    struct Encryption<'a> {
        #[serde(default)]
        encrypt_type: &'a str,
    }
    let Answer { result } = serde_json::from_slice(json).ok()?;
    Some(OtherDialect {
        mac: Mac::new(result.mac),
        kind: result.device_type.into(),
        model: result.device_model.into(),
        encryption: result.mgt_encrypt_schm.encrypt_type.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xor_answer_is_understood() {
        let mut datagram =
            br#"{"system":{"get_sysinfo":{"deviceId":"8006000000000000000000000000000000000001",
            "relay_state":1,"alias":"Lamp","mac":"50:C7:BF:00:00:01"}}}"#
                .to_vec();
        cipher::encrypt(&mut datagram);
        let Some(Said::SysInfo(reading)) = understand(&mut datagram) else { panic!("not understood") };
        assert_eq!(&*reading.plate.alias, "Lamp");
    }

    #[test]
    fn an_answer_of_the_newer_form_is_understood_as_another_dialect() {
        let mut datagram = vec![2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        datagram.extend_from_slice(
            br#"{"error_code":0,"result":{"device_id":"00","device_type":"IOT.SMARTPLUGSWITCH",
            "device_model":"HS100(UK)","mac":"CC-32-E5-00-00-01","mgt_encrypt_schm":{"encrypt_type":"KLAP"}}}"#,
        );
        let Some(Said::Other(device)) = understand(&mut datagram) else { panic!("not understood") };
        assert_eq!((device.mac, &*device.encryption), (Mac::new("CC32E5000001"), "KLAP"));
    }

    #[test]
    fn what_is_no_plugs_answer_is_nothing() {
        for datagram in [&b""[..], b"{}", b"M-SEARCH * HTTP/1.1", &[0; 20], &[0xff; 2000]] {
            assert_eq!(understand(&mut datagram.to_vec()), None, "{datagram:?}");
        }
    }
}
