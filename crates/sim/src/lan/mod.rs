//! The simulated LAN: plugs behind TCP and UDP on addresses of 127.0.0.0/8.
//!
//! Owns which plug is at which address. `plug_host` serves one address, `tcp_port` and `udp_port` are its sockets.
//! `connection` is one connection of the XOR protocol, `klap` is one of KLAP over `http`, and `tdp` has the datagrams
//! of UDP 20002. Plugs can be added, moved, swapped and removed while the LAN runs.
//!
//! Broadcasts are received on 127.255.255.255. On Linux each plug can have its own address of 127.0.0.0/8 and answers
//! from it, as a real plug does.

mod connection;
mod http;
mod klap;
mod plug_host;
mod tcp_port;
mod tdp;
mod udp_port;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

pub use self::plug_host::LanPorts;
use self::plug_host::PlugHost;
use self::udp_port::{DiscoveryPort, MAX_DATAGRAM};
use crate::fault::{Dialect, LanFault};
use crate::handle::PlugHandle;
use crate::notify::{ChangeNotifier, NotInTime};

/// The broadcast address of 127.0.0.0/8.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

/// The longest that [`SimLan::settled`] waits for a socket to close or open; it takes microseconds.
const SETTLING: Duration = Duration::from_secs(5);

/// The number of plugs that answer a broadcast at once. More would overrun the socket buffer of the receiver.
const ANSWERS_AT_ONCE: usize = 64;

/// The pause between such bursts.
const BETWEEN_BURSTS: Duration = Duration::from_millis(2);

/// A LAN of simulated plugs. It ends when it is dropped.
pub struct SimLan {
    broadcast: Ipv4Addr,
    ports: LanPorts,
    hosts: Arc<PlugHosts>,
    notifier: ChangeNotifier,
    listeners: Vec<AbortHandle>,
    /// A UDP socket that reserves the free port of KLAP, so that no other home takes it.
    _reserved: Option<UdpSocket>,
}

/// The address of each plug, by device id.
type PlugHosts = Mutex<BTreeMap<String, PlugHost>>;

impl SimLan {
    /// Starts to listen for broadcasts.
    ///
    /// # Errors
    /// If a port is taken.
    pub async fn start(ports: LanPorts, notifier: ChangeNotifier) -> io::Result<Self> {
        Self::start_at(BROADCAST, ports, notifier).await
    }

    /// As [`SimLan::start`], for a network of 254 addresses outside of loopback. Only for tests in a network namespace
    /// of their own; elsewhere these plugs would be among real ones.
    ///
    /// # Errors
    /// If a port is taken, or this machine does not have the address.
    pub async fn start_in_namespace(
        broadcast: Ipv4Addr,
        ports: LanPorts,
        notifier: ChangeNotifier,
    ) -> io::Result<Self> {
        Self::start_at(broadcast, ports, notifier).await
    }

    async fn start_at(broadcast: Ipv4Addr, ports: LanPorts, notifier: ChangeNotifier) -> io::Result<Self> {
        let hosts = Arc::new(PlugHosts::default());
        let xor = UdpSocket::bind((broadcast, ports.xor)).await?;
        let tdp = UdpSocket::bind((broadcast, ports.tdp)).await?;
        // The ports of KLAP open and close with their plugs. A UDP socket with the same number reserves it for this
        // LAN.
        let reserved = match ports.klap {
            0 => Some(UdpSocket::bind((broadcast, 0)).await?),
            _ => None,
        };
        let klap = match &reserved {
            Some(socket) => socket.local_addr()?.port(),
            None => ports.klap,
        };
        let ports = LanPorts { xor: xor.local_addr()?.port(), tdp: tdp.local_addr()?.port(), klap };
        let of_tdp = DiscoveryPort::Tdp { klap: ports.klap };
        Ok(Self {
            broadcast,
            ports,
            listeners: vec![
                tokio::spawn(answer_broadcasts(xor, DiscoveryPort::Xor, Arc::clone(&hosts))).abort_handle(),
                tokio::spawn(answer_broadcasts(tdp, of_tdp, Arc::clone(&hosts))).abort_handle(),
            ],
            hosts,
            notifier,
            _reserved: reserved,
        })
    }

    /// The port of the XOR protocol, TCP and UDP, at which broadcasts are received.
    pub fn port(&self) -> u16 {
        self.ports.xor
    }

    /// The port of the discovery for KLAP, UDP 20002 at real plugs.
    pub fn tdp_port(&self) -> u16 {
        self.ports.tdp
    }

    /// The port of KLAP, of all plugs that have no own one.
    pub fn klap_port(&self) -> u16 {
        self.ports.klap
    }

    /// The address for broadcasts.
    pub fn broadcast(&self) -> SocketAddr {
        (self.broadcast, self.ports.xor).into()
    }

    /// Adds a plug at this address, or moves it there. Returns once each protocol that it speaks can be reached. Port 0
    /// takes a free one.
    ///
    /// # Errors
    /// If the address is not on this LAN, or one of its ports is taken.
    pub async fn plug_in(&self, plug: &PlugHandle, address: SocketAddr) -> io::Result<SocketAddr> {
        if !self.has(address.ip()) {
            let why = format!("{address}: a simulated plug has an address of 127.0.0.0/8 only");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.unplug(plug).await;
        let host = PlugHost::open(plug.clone(), address, self.ports, self.notifier.clone()).await?;
        let address = host.address();
        self.hosts().insert(plug.device_id(), host);
        self.notifier.notify();
        match plug.read(|plug| plug.dialect) {
            Dialect::Xor => {}
            Dialect::Klap | Dialect::Both => self.settled(plug).await.map_err(io::Error::other)?,
        }
        Ok(address)
    }

    /// Removes a plug from the LAN: its address refuses connections, and open ones are closed.
    pub async fn unplug(&self, plug: &PlugHandle) {
        let host = self.hosts().remove(&plug.device_id());
        if let Some(host) = host {
            host.close().await;
        }
        self.notifier.notify();
    }

    /// Swaps the addresses of two plugs, as a router does that has lost its leases.
    ///
    /// # Errors
    /// If one of them is not plugged in.
    pub async fn swap(&self, one: &PlugHandle, other: &PlugHandle) -> io::Result<()> {
        let not_here = || io::Error::new(io::ErrorKind::NotFound, "only plugs that are plugged in can swap");
        let at_one = self.address(one).ok_or_else(not_here)?;
        let at_other = self.address(other).ok_or_else(not_here)?;
        self.unplug(one).await;
        self.unplug(other).await;
        self.plug_in(one, at_other).await?;
        self.plug_in(other, at_one).await?;
        Ok(())
    }

    /// The address of a plug, if it is plugged in.
    pub fn address(&self, plug: &PlugHandle) -> Option<SocketAddr> {
        self.hosts().get(&plug.device_id()).map(PlugHost::address)
    }

    /// The address of a plug's KLAP port, if the plug is plugged in.
    pub fn klap_address(&self, plug: &PlugHandle) -> Option<SocketAddr> {
        let port = plug.read(|plug| plug.klap.port).unwrap_or(self.ports.klap);
        self.address(plug).map(|address| SocketAddr::new(address.ip(), port))
    }

    /// Sets the fault of a plug on the LAN. Returns once its sockets match, so that the next connection meets the
    /// fault.
    ///
    /// # Errors
    /// If its sockets were not closed or opened in time.
    pub async fn set_fault(&self, plug: &PlugHandle, fault: LanFault) -> Result<(), NotInTime> {
        plug.with(|plug| plug.lan = fault);
        self.settled(plug).await
    }

    /// Changes which protocols a plug speaks, as the account's switch "Third-Party Compatibility" does. Returns once
    /// its sockets match. Connections and the session of a protocol that it no longer speaks are closed.
    ///
    /// # Errors
    /// If its sockets were not closed or opened in time.
    pub async fn set_dialect(&self, plug: &PlugHandle, dialect: Dialect) -> Result<(), NotInTime> {
        plug.with(|plug| plug.dialect = dialect);
        self.settled(plug).await
    }

    /// Waits until a plug's listening sockets match its state, after a change by [`PlugHandle::with`].
    ///
    /// # Errors
    /// If one was not closed or opened in time.
    pub async fn settled(&self, plug: &PlugHandle) -> Result<(), NotInTime> {
        let id = plug.device_id();
        let agrees = || {
            let wanted = plug.read(|plug| plug.tcp_ports(Instant::now()));
            self.hosts().get(&id).is_none_or(|host| host.tcp_ports() == Some(wanted))
        };
        self.notifier.wait_until(SETTLING, agrees).await
    }

    /// Whether the address is on this LAN.
    fn has(&self, address: IpAddr) -> bool {
        match address {
            _ if self.broadcast == BROADCAST => address.is_loopback(),
            IpAddr::V4(address) => address.octets()[..3] == self.broadcast.octets()[..3],
            IpAddr::V6(_) => false,
        }
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<String, PlugHost>> {
        lock(&self.hosts)
    }
}

impl Drop for SimLan {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

/// Receives broadcasts; each plug answers from its own address.
async fn answer_broadcasts(socket: UdpSocket, discovery: DiscoveryPort, hosts: Arc<PlugHosts>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, sender)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(BETWEEN_BURSTS).await;
            continue;
        };
        let answering: Vec<_> = lock(&hosts).values().filter_map(|host| host.port(discovery)).collect();
        for burst in answering.chunks(ANSWERS_AT_ONCE) {
            for port in burst.iter().filter(|port| port.hears_broadcasts()) {
                port.answer(&buffer[..length], sender).await;
            }
            if answering.len() > ANSWERS_AT_ONCE {
                tokio::time::sleep(BETWEEN_BURSTS).await;
            }
        }
    }
}

fn lock(hosts: &PlugHosts) -> MutexGuard<'_, BTreeMap<String, PlugHost>> {
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;
    use crate::model::Model;
    use crate::plug::SimPlug;
    use hs100d_core::smarthome::{cipher, frame};

    const BOUND: Duration = Duration::from_secs(5);
    /// Long enough to show that nothing comes.
    const NOTHING_COMES: Duration = Duration::from_millis(200);
    const SYSINFO: &str = r#"{"system":{"get_sysinfo":{}}}"#;
    const ON: &str = r#"{"system":{"set_relay_state":{"state":1}}}"#;
    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 0);

    struct LanScene {
        lan: SimLan,
        notifier: ChangeNotifier,
    }

    impl LanScene {
        async fn new() -> Self {
            let notifier = ChangeNotifier::new();
            Self { lan: SimLan::start(LanPorts::default(), notifier.clone()).await.unwrap(), notifier }
        }

        async fn plug(&self, number: u32) -> (PlugHandle, SocketAddr) {
            let plug = SimPlug::new(Model::HS100_HW1, number, "Lamp", Instant::now());
            let plug = PlugHandle::new(plug, self.notifier.clone());
            let address = self.lan.plug_in(&plug, ANY_PORT).await.unwrap();
            (plug, address)
        }
    }

    fn framed(json: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::build(&mut bytes, |payload| payload.extend_from_slice(json.as_bytes()));
        bytes
    }

    async fn read_reply(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        let mut header = [0; 4];
        stream.read_exact(&mut header).await?;
        let length = u32::from_be_bytes(header);
        assert!(length < 65536, "announced {length}");
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        cipher::decrypt(&mut payload);
        Ok(payload)
    }

    async fn ask(stream: &mut TcpStream, json: &str) -> std::io::Result<Value> {
        stream.write_all(&framed(json)).await?;
        Ok(serde_json::from_slice(&read_reply(stream).await?)?)
    }

    fn is_sysinfo_of(reply: &Value, plug: &PlugHandle) -> bool {
        reply["system"]["get_sysinfo"]["deviceId"] == plug.device_id().as_str()
    }

    #[tokio::test]
    async fn several_requests_on_one_connection_are_answered_in_turn() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(is_sysinfo_of(&ask(&mut stream, SYSINFO).await.unwrap(), &plug));
        assert_eq!(ask(&mut stream, ON).await.unwrap()["system"]["set_relay_state"]["err_code"], 0);
        assert!(plug.is_on());
        let both = [framed(SYSINFO), framed(SYSINFO)].concat();
        stream.write_all(&both).await.unwrap();
        for _ in 0..2 {
            read_reply(&mut stream).await.unwrap();
        }
        assert_eq!((plug.traffic().connections, plug.traffic().lan_requests), (1, 4));
    }

    #[tokio::test]
    async fn a_request_split_over_segments_is_put_together() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in framed(ON) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        read_reply(&mut stream).await.unwrap();
        assert!(plug.is_on());
    }

    #[tokio::test]
    async fn a_huge_request_and_one_that_is_no_json_end_the_connection() {
        let scene = LanScene::new().await;
        let (_plug, address) = scene.plug(1).await;
        for request in [vec![0xff; 4], framed("{"), framed("")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&request).await.unwrap();
            assert_eq!(timeout(BOUND, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 0, "{request:?}");
        }
    }

    /// What a client sees of a plug under a fault.
    #[derive(Debug, PartialEq)]
    enum LanSeen {
        Answer(i64),
        NoConnection(io::ErrorKind),
        ConnectHangs,
        Nothing,
        Closed,
        Reset,
        NoJson,
        Huge,
    }

    async fn look(address: SocketAddr, request: &str, bound: Duration) -> LanSeen {
        let mut stream = match timeout(bound, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return LanSeen::NoConnection(error.kind()),
            Err(_) => return LanSeen::ConnectHangs,
        };
        // Resets the connection at the end, so that a request that still waits at the plug is not part of the next
        // case.
        stream.set_zero_linger().unwrap();
        stream.write_all(&framed(request)).await.unwrap();
        let mut header = [0; 4];
        match timeout(bound, stream.read_exact(&mut header)).await {
            Err(_) => return LanSeen::Nothing,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return LanSeen::Reset,
            Ok(Err(_)) => return LanSeen::Closed,
            Ok(Ok(_)) => {}
        }
        let length = u32::from_be_bytes(header) as usize;
        if length > frame::MAX_PAYLOAD {
            return LanSeen::Huge;
        }
        let mut payload = vec![0; length];
        match timeout(BOUND, stream.read_exact(&mut payload)).await.unwrap() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return LanSeen::Reset,
            read => read.unwrap(),
        };
        cipher::decrypt(&mut payload);
        match serde_json::from_slice::<Value>(&payload) {
            Ok(reply) => LanSeen::Answer(reply["system"]["set_relay_state"]["err_code"].as_i64().unwrap()),
            Err(_) => LanSeen::NoJson,
        }
    }

    #[tokio::test]
    async fn each_fault_shows_as_it_should_and_acts_only_where_it_says_so() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        for fault in LanFault::ALL {
            let before = plug.traffic().relay_orders;
            scene.lan.set_fault(&plug, fault).await.unwrap();
            let expected = match fault {
                LanFault::Works | LanFault::Latency(_) => LanSeen::Answer(0),
                LanFault::SlowBytes(_) | LanFault::CloseAfterEachReply => LanSeen::Answer(0),
                LanFault::DeviceError(code) => LanSeen::Answer(code),
                LanFault::Refused | LanFault::PortDead => {
                    LanSeen::NoConnection(io::ErrorKind::ConnectionRefused)
                }
                LanFault::NotAccepting | LanFault::PortFiltered => LanSeen::ConnectHangs,
                LanFault::Silent | LanFault::SilentButActs(_) | LanFault::Asleep => LanSeen::Nothing,
                LanFault::ResetAfterRequest | LanFault::ResetInAnswer => LanSeen::Reset,
                LanFault::CloseWithoutReply => LanSeen::Closed,
                LanFault::Garbage | LanFault::CutOffJson => LanSeen::NoJson,
                LanFault::HugeLength => LanSeen::Huge,
            };
            let nothing_comes = matches!(expected, LanSeen::ConnectHangs | LanSeen::Nothing);
            let seen = look(address, ON, if nothing_comes { NOTHING_COMES } else { BOUND }).await;
            assert_eq!(seen, expected, "{fault:?}");
            if fault.carries_out() {
                let acted = || plug.traffic().relay_orders == before + 1;
                scene
                    .notifier
                    .wait_until(BOUND, acted)
                    .await
                    .unwrap_or_else(|why| panic!("{fault:?}: {why}"));
            }
            assert_eq!(plug.traffic().relay_orders - before, u64::from(fault.carries_out()), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_plug_that_refused_is_found_again_at_the_same_address() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        ask(&mut kept, SYSINFO).await.unwrap();
        for fault in [LanFault::Refused, LanFault::NotAccepting] {
            scene.lan.set_fault(&plug, fault).await.unwrap();
            assert!(ask(&mut kept, SYSINFO).await.is_err(), "a kept connection is gone under {fault:?}");
            assert_eq!(plug.traffic().open, 0);
            scene.lan.set_fault(&plug, LanFault::Works).await.unwrap();
            kept = TcpStream::connect(address).await.unwrap();
            assert!(is_sysinfo_of(&ask(&mut kept, SYSINFO).await.unwrap(), &plug));
        }
    }

    #[tokio::test]
    async fn a_plug_that_wakes_up_carries_out_what_waits_for_it() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        scene.lan.set_fault(&plug, LanFault::Asleep).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&framed(ON)).await.unwrap();
        assert!(timeout(NOTHING_COMES, stream.readable()).await.is_err());
        scene.lan.set_fault(&plug, LanFault::Works).await.unwrap();
        read_reply(&mut stream).await.unwrap();
        assert!(plug.is_on());
    }

    #[tokio::test]
    async fn a_reset_takes_back_what_waits_for_a_sleeping_plug() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        scene.lan.set_fault(&plug, LanFault::Asleep).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&framed(ON)).await.unwrap();
        scene.notifier.wait_until(BOUND, || plug.traffic().open == 1).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        scene.lan.set_fault(&plug, LanFault::Works).await.unwrap();
        scene.notifier.wait_until(BOUND, || plug.traffic().open == 0).await.unwrap();
        assert!(!plug.is_on() && plug.switchings().is_empty());
    }

    #[tokio::test]
    async fn plugs_swap_and_leave_and_come_back_elsewhere() {
        let scene = LanScene::new().await;
        let ((one, at_one), (other, at_other)) = (scene.plug(1).await, scene.plug(2).await);
        scene.lan.swap(&one, &other).await.unwrap();
        assert_eq!((scene.lan.address(&one), scene.lan.address(&other)), (Some(at_other), Some(at_one)));
        let mut stream = TcpStream::connect(at_one).await.unwrap();
        assert!(is_sysinfo_of(&ask(&mut stream, SYSINFO).await.unwrap(), &other));

        scene.lan.unplug(&other).await;
        assert_eq!(scene.lan.address(&other), None);
        assert!(ask(&mut stream, SYSINFO).await.is_err());
        let refused = TcpStream::connect(at_one).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(scene.lan.swap(&one, &other).await.is_err());

        let elsewhere = SocketAddr::from(([127, 0, 0, 77], at_one.port()));
        scene.lan.plug_in(&other, elsewhere).await.unwrap();
        let mut stream = TcpStream::connect(elsewhere).await.unwrap();
        assert!(is_sysinfo_of(&ask(&mut stream, SYSINFO).await.unwrap(), &other));
    }

    #[tokio::test]
    async fn plugs_swap_while_a_broadcast_is_being_answered() {
        let scene = LanScene::new().await;
        let mut plugs = Vec::new();
        // One more than answer at once: the last one waits for the next burst, and all ports are held
        // meanwhile.
        for number in 1..=ANSWERS_AT_ONCE as u32 + 1 {
            let (plug, _) = scene.plug(number).await;
            let address = SocketAddr::from(([127, 0, 1, number as u8], scene.lan.port()));
            scene.lan.plug_in(&plug, address).await.unwrap();
            plugs.push(plug);
        }
        let socket = sender().await;
        socket.send_to(&datagram(SYSINFO), scene.lan.broadcast()).await.unwrap();
        timeout(BOUND, socket.recv_from(&mut [0; 2048])).await.unwrap().unwrap();
        scene.lan.swap(&plugs[0], &plugs[1]).await.unwrap();
        assert_eq!(scene.lan.address(&plugs[0]).unwrap().ip(), IpAddr::from([127, 0, 1, 2]));
    }

    #[tokio::test]
    async fn a_plug_is_away_while_it_restarts_and_comes_back_by_itself() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, r#"{"system":{"reboot":{"delay":0}}}"#).await.unwrap();
        let mut byte = [0; 1];
        assert!(matches!(timeout(BOUND, stream.read(&mut byte)).await.unwrap(), Ok(0) | Err(_)));
        let is_back = || plug.read(|plug| plug.is_up(Instant::now()));
        scene.notifier.wait_until(BOUND, is_back).await.unwrap();
        scene.lan.settled(&plug).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(is_sysinfo_of(&ask(&mut stream, SYSINFO).await.unwrap(), &plug));
    }

    #[tokio::test]
    async fn only_loopback_addresses_can_be_plugged_in_at() {
        let scene = LanScene::new().await;
        let (plug, _) = scene.plug(1).await;
        let outside = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = scene.lan.plug_in(&plug, outside).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    async fn sender() -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.set_broadcast(true).unwrap();
        socket
    }

    fn datagram(json: &str) -> Vec<u8> {
        framed(json).split_off(4)
    }

    /// Waits for this many answers, and checks that no further one comes.
    async fn answers(socket: &UdpSocket, expected: usize) -> BTreeMap<SocketAddr, Vec<u8>> {
        let mut answers = BTreeMap::new();
        let mut buffer = [0; 2048];
        loop {
            let bound = if answers.len() < expected { BOUND } else { NOTHING_COMES };
            let Ok(answer) = timeout(bound, socket.recv_from(&mut buffer)).await else { return answers };
            let (length, from) = answer.unwrap();
            answers.insert(from, buffer[..length].to_vec());
        }
    }

    #[tokio::test]
    async fn a_broadcast_is_answered_by_each_plug_from_its_own_address() {
        let scene = LanScene::new().await;
        let mut plugs = Vec::new();
        for (number, last) in [(1, 21), (2, 22), (3, 23), (4, 24)] {
            let (plug, _) = scene.plug(number).await;
            let address = SocketAddr::from(([127, 0, 0, last], scene.lan.port()));
            scene.lan.plug_in(&plug, address).await.unwrap();
            plugs.push((plug, address));
        }
        plugs[2].0.with(|plug| plug.hears_broadcasts = false);
        scene.lan.set_fault(&plugs[3].0, LanFault::Refused).await.unwrap();
        let socket = sender().await;
        socket.send_to(&datagram(SYSINFO), scene.lan.broadcast()).await.unwrap();
        let answers = answers(&socket, 2).await;
        assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [plugs[0].1, plugs[1].1]);
        for (plug, address) in &plugs[..2] {
            let mut answer = answers[address].clone();
            cipher::decrypt(&mut answer);
            assert!(is_sysinfo_of(&serde_json::from_slice(&answer).unwrap(), plug));
        }
    }

    #[tokio::test]
    async fn a_plug_that_hears_no_broadcast_answers_when_it_is_asked_itself() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        plug.with(|plug| plug.hears_broadcasts = false);
        let socket = sender().await;
        socket.send_to(&datagram(SYSINFO), address).await.unwrap();
        assert_eq!(answers(&socket, 1).await.into_keys().collect::<Vec<_>>(), [address]);
    }

    #[tokio::test]
    async fn a_plug_that_speaks_only_klap_refuses_tcp_and_answers_the_newer_discovery_alone() {
        let scene = LanScene::new().await;
        let (plug, address) = scene.plug(1).await;
        plug.with(|plug| plug.dialect = Dialect::Klap);
        scene.lan.settled(&plug).await.unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let socket = sender().await;
        socket.send_to(&datagram(SYSINFO), scene.lan.broadcast()).await.unwrap();
        assert!(answers(&socket, 0).await.is_empty());
        let probe = [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x3c, 0xb5, 0xd3];
        socket.send_to(&probe, (BROADCAST, scene.lan.tdp_port())).await.unwrap();
        let answers = answers(&socket, 1).await;
        let body: Value = serde_json::from_slice(&answers.values().next().unwrap()[16..]).unwrap();
        assert_eq!(body["result"]["mac"], "50-C7-BF-00-00-01");
    }
}
