//! One discovery socket: sends probes from its address, and receives replies until it breaks.
//!
//! Replies are accepted from any source port. Other datagrams are counted and skipped; sightings that find no room are
//! counted and dropped, so a flood never blocks the receiver.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::container::Surroundings;
use super::interfaces::{self, BroadcastPath};
use super::obstacle::SearchObstacle;
use super::reply;
use hs100d_core::bridge::event::Sighting;
use hs100d_core::logging::Repeated;
use hs100d_core::model::Address;

/// Datagrams received so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiscoveryCounts {
    /// Replies of plugs, in either form. A plug replies to each datagram, so several times a round.
    pub answers: u64,
    /// Datagrams that no plug wrote.
    pub garbage: u64,
    /// Replies for which there was no room.
    pub(crate) dropped: u64,
}

/// A strip's reply has about 2 kB; this is the most that a datagram can hold.
const LARGEST_DATAGRAM: usize = 65_535;
/// A datagram that the system does not accept within this time counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// A socket bound to one of this machine's addresses. Dropping it closes it.
#[derive(Debug)]
pub(super) struct DiscoverySocket {
    local: Ipv4Addr,
    socket: Arc<UdpSocket>,
    receiver: JoinHandle<()>,
    send_failures: Repeated,
}

impl DiscoverySocket {
    /// Opens it and starts to receive.
    ///
    /// # Errors
    /// This machine does not have the address, or may open no more sockets.
    pub(super) fn open(local: Ipv4Addr, shared: Arc<SocketShared>) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let receiver = tokio::spawn(receive(Arc::clone(&socket), local, shared));
        Ok(Self { local, socket, receiver, send_failures: Repeated::default() })
    }

    /// Whether it still receives.
    pub(super) fn is_open(&self) -> bool {
        !self.receiver.is_finished()
    }

    /// Sends one datagram; a failure is logged once.
    ///
    /// # Errors
    /// The system did not accept it.
    pub(super) async fn send(&mut self, target: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let sent = timeout(SEND_TIMEOUT, self.socket.send_to(datagram, target)).await;
        match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => {
                self.send_failures.ended(Instant::now());
                Ok(())
            }
            Err(error) => {
                if self.send_failures.failed(&error.to_string(), Instant::now()).is_some() {
                    let local = self.local;
                    tracing::debug!(%local, %target, %error, "a discovery datagram was not sent");
                }
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Stops receiving as if the socket had broken.
    #[cfg(test)]
    pub(super) async fn break_off(&self) {
        self.receiver.abort();
        while self.is_open() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for DiscoverySocket {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

/// Shared by all sockets: the receiver of sightings, the counts, and the probed addresses.
#[derive(Debug)]
pub(super) struct SocketShared {
    /// The port that plugs listen on. They reply from any port.
    port: u16,
    sightings: mpsc::Sender<Sighting>,
    /// The addresses that are probed directly in this round.
    pub(super) probed: Mutex<HashSet<SocketAddr>>,
    /// The networks to which a broadcast was sent since the start.
    pub(super) asked: Mutex<BTreeSet<BroadcastPath>>,
    /// Why the last broadcast was not sent, if it was not.
    not_sent: Mutex<Option<String>>,
    replies: AtomicU64,
    garbage: AtomicU64,
    dropped: AtomicU64,
    /// In each round one sender of garbage is logged.
    is_garbage_logged: AtomicBool,
}

impl SocketShared {
    pub(super) fn new(port: u16, sightings: mpsc::Sender<Sighting>) -> Self {
        Self {
            port,
            sightings,
            probed: Mutex::default(),
            asked: Mutex::default(),
            not_sent: Mutex::default(),
            replies: AtomicU64::new(0),
            garbage: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            is_garbage_logged: AtomicBool::new(false),
        }
    }

    pub(super) fn tally(&self) -> DiscoveryCounts {
        DiscoveryCounts {
            answers: self.replies.load(Ordering::Relaxed),
            garbage: self.garbage.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// A broadcast was sent, or was not.
    pub(super) fn broadcast(&self, path: BroadcastPath, sent: io::Result<()>) {
        if sent.is_ok() {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        }
        let error = sent.err().map(|error| error.to_string());
        *self.not_sent.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Why no plug has answered, if this machine can tell.
    pub(super) fn obstacle(&self, surroundings: &Surroundings) -> Option<SearchObstacle> {
        if self.tally().answers > 0 {
            return None;
        }
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Plugs on loopback are simulated: any network reaches them.
        if asked.iter().any(|path| path.target.is_loopback()) {
            return None;
        }
        if let Some(names) = surroundings.own_network(&interfaces::names()) {
            return Some(SearchObstacle::ContainerNetwork(names));
        }
        if !asked.is_empty() {
            return None;
        }
        let not_sent = self.not_sent.lock().unwrap_or_else(PoisonError::into_inner);
        Some(not_sent.clone().map_or(SearchObstacle::NoInterface, SearchObstacle::NotSent))
    }

    pub(super) fn begin_round(&self) {
        self.is_garbage_logged.store(false, Ordering::Relaxed);
    }

    fn receive(&self, datagram: &mut [u8], from: SocketAddr) {
        let length = datagram.len();
        let Some(reply) = reply::parse(datagram) else {
            self.garbage.fetch_add(1, Ordering::Relaxed);
            if !self.is_garbage_logged.swap(true, Ordering::Relaxed) {
                tracing::debug!(%from, length, "a reply to discovery that no plug wrote");
            }
            return;
        };
        self.replies.fetch_add(1, Ordering::Relaxed);
        if self.sightings.try_send(Sighting { address: self.address_of(from), reply }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Plugs reply from any port, so the port for TCP is the one that they listen on; or the probed one, for a plug
    /// behind a router that forwards another port.
    fn address_of(&self, from: SocketAddr) -> Address {
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let port = if probed.contains(&from) { from.port() } else { self.port };
        SocketAddr::new(from.ip(), port).into()
    }
}

async fn receive(socket: Arc<UdpSocket>, local: Ipv4Addr, shared: Arc<SocketShared>) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => shared.receive(&mut buffer[..length], from),
            Err(error) => {
                tracing::debug!(%local, %error, "a discovery socket failed; it is opened again next round");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_has_the_port_that_plugs_listen_on_whichever_they_reply_from() {
        let (sender, mut sightings) = mpsc::channel(9);
        let shared = SocketShared::new(9999, sender);
        let forwarded: SocketAddr = "192.0.2.1:19999".parse().unwrap();
        shared.probed.lock().unwrap().insert(forwarded);
        let from: [SocketAddr; 3] =
            ["192.0.2.7:9999", "192.0.2.7:53211", "192.0.2.1:19999"].map(|a| a.parse().unwrap());
        let mut answer = br#"{"system":{"get_sysinfo":{"deviceId":"80060001","relay_state":1}}}"#.to_vec();
        hs100d_core::smarthome::cipher::encrypt(&mut answer);
        let addresses = from.map(|from| {
            shared.receive(&mut answer.clone(), from);
            sightings.try_recv().unwrap().address.to_string()
        });
        assert_eq!(addresses, ["192.0.2.7:9999", "192.0.2.7:9999", "192.0.2.1:19999"]);
    }

    #[test]
    fn garbage_and_sightings_without_room_are_counted() {
        let (sender, _sightings) = mpsc::channel(1);
        let shared = SocketShared::new(9999, sender);
        let from = "192.0.2.7:9999".parse().unwrap();
        let mut answer = br#"{"system":{"get_sysinfo":{"deviceId":"80060001","relay_state":1}}}"#.to_vec();
        hs100d_core::smarthome::cipher::encrypt(&mut answer);
        for _ in 0..3 {
            shared.receive(&mut answer.clone(), from);
            shared.receive(&mut b"NOTIFY * HTTP/1.1".to_vec(), from);
        }
        assert_eq!(shared.tally(), DiscoveryCounts { answers: 3, garbage: 3, dropped: 2 });
    }
}
