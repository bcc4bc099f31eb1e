//! One socket of the search: asks from its address, and hears whatever comes back until it breaks.
//!
//! Answers are taken from any source port. What is no plug's answer is counted and skipped; what comes faster than it
//! can be taken in is counted and dropped. Nothing that is heard makes anybody wait.

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

use super::DiscoveryCounts;
use super::answer::understand;
use super::interfaces::BroadcastPath;
use crate::bridge::event::Sighting;
use crate::logging::Repeated;
use crate::model::Address;

/// A strip's answer has about 2 kB; this is the most that a datagram can hold.
const LARGEST_DATAGRAM: usize = 65_535;
/// A datagram that the system does not take by then is as good as lost.
const SEND_WITHIN: Duration = Duration::from_millis(100);

/// A socket bound to one of this machine's addresses. Closed when dropped.
#[derive(Debug)]
pub(super) struct DiscoverySocket {
    local: Ipv4Addr,
    socket: Arc<UdpSocket>,
    listening: JoinHandle<()>,
    sending: Repeated,
}

impl DiscoverySocket {
    /// Opens it and begins to listen.
    ///
    /// # Errors
    /// The address is none of this machine's, or there are no more sockets.
    pub(super) fn open(local: Ipv4Addr, hearing: Arc<SocketShared>) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let listening = tokio::spawn(listen(Arc::clone(&socket), local, hearing));
        Ok(Self { local, socket, listening, sending: Repeated::default() })
    }

    /// Whether it still listens.
    pub(super) fn is_sound(&self) -> bool {
        !self.listening.is_finished()
    }

    /// Sends one datagram, or says that it could not. Whether the system took it.
    pub(super) async fn ask(&mut self, target: SocketAddr, words: &[u8]) -> bool {
        let sent = timeout(SEND_WITHIN, self.socket.send_to(words, target)).await;
        match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => {
                self.sending.ended(Instant::now());
                true
            }
            Err(error) => {
                if self.sending.failed(&error.to_string(), Instant::now()).is_some() {
                    let local = self.local;
                    tracing::debug!(%local, %target, %error, "a discovery datagram was not sent");
                }
                false
            }
        }
    }

    #[cfg(test)]
    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// Stops listening as if the socket had broken.
    #[cfg(test)]
    pub(super) async fn give_up(&self) {
        self.listening.abort();
        while self.is_sound() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for DiscoverySocket {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What all ears share: whom they tell, what they count, and who was asked.
#[derive(Debug)]
pub(super) struct SocketShared {
    /// The port that plugs listen on, whichever they answer from.
    port: u16,
    tell: mpsc::Sender<Sighting>,
    /// Who was asked directly in this round.
    pub(super) probed: Mutex<HashSet<SocketAddr>>,
    /// The networks that were asked since the start: a broadcast to each was sent.
    pub(super) asked: Mutex<BTreeSet<BroadcastPath>>,
    answers: AtomicU64,
    garbage: AtomicU64,
    dropped: AtomicU64,
    /// One sender of garbage is named in each round.
    is_garbage_told: AtomicBool,
}

impl SocketShared {
    pub(super) fn new(port: u16, tell: mpsc::Sender<Sighting>) -> Self {
        Self {
            port,
            tell,
            probed: Mutex::default(),
            asked: Mutex::default(),
            answers: AtomicU64::new(0),
            garbage: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            is_garbage_told: AtomicBool::new(false),
        }
    }

    pub(super) fn tally(&self) -> DiscoveryCounts {
        DiscoveryCounts {
            answers: self.answers.load(Ordering::Relaxed),
            garbage: self.garbage.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    pub(super) fn begin_round(&self) {
        self.is_garbage_told.store(false, Ordering::Relaxed);
    }

    fn hear(&self, datagram: &mut [u8], from: SocketAddr) {
        let length = datagram.len();
        let Some(said) = understand(datagram) else {
            self.garbage.fetch_add(1, Ordering::Relaxed);
            if !self.is_garbage_told.swap(true, Ordering::Relaxed) {
                tracing::debug!(%from, length, "an answer to discovery that is no plug's");
            }
            return;
        };
        self.answers.fetch_add(1, Ordering::Relaxed);
        if self.tell.try_send(Sighting { address: self.address_of(from), said }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Plugs answer from any port, and are spoken to at the one that they listen on. A plug that was asked at another
    /// port, behind a router that forwards it, is spoken to there.
    fn address_of(&self, from: SocketAddr) -> Address {
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let port = if probed.contains(&from) { from.port() } else { self.port };
        SocketAddr::new(from.ip(), port).into()
    }
}

async fn listen(socket: Arc<UdpSocket>, local: Ipv4Addr, hearing: Arc<SocketShared>) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => hearing.hear(&mut buffer[..length], from),
            Err(error) => {
                tracing::debug!(%local, %error, "a discovery socket broke; it is opened again next round");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plug_is_spoken_to_at_its_port_whichever_it_answers_from() {
        let (tell, mut sightings) = mpsc::channel(9);
        let hearing = SocketShared::new(9999, tell);
        let forwarded: SocketAddr = "192.0.2.1:19999".parse().unwrap();
        hearing.probed.lock().unwrap().insert(forwarded);
        let from: [SocketAddr; 3] =
            ["192.0.2.7:9999", "192.0.2.7:53211", "192.0.2.1:19999"].map(|a| a.parse().unwrap());
        let mut answer = br#"{"system":{"get_sysinfo":{"deviceId":"80060001","relay_state":1}}}"#.to_vec();
        crate::smarthome::cipher::encrypt(&mut answer);
        let heard = from.map(|from| {
            hearing.hear(&mut answer.clone(), from);
            sightings.try_recv().unwrap().address.to_string()
        });
        assert_eq!(heard, ["192.0.2.7:9999", "192.0.2.7:9999", "192.0.2.1:19999"]);
    }

    #[test]
    fn what_is_no_answer_or_has_no_room_is_counted() {
        let (tell, _sightings) = mpsc::channel(1);
        let hearing = SocketShared::new(9999, tell);
        let from = "192.0.2.7:9999".parse().unwrap();
        let mut answer = br#"{"system":{"get_sysinfo":{"deviceId":"80060001","relay_state":1}}}"#.to_vec();
        crate::smarthome::cipher::encrypt(&mut answer);
        for _ in 0..3 {
            hearing.hear(&mut answer.clone(), from);
            hearing.hear(&mut b"NOTIFY * HTTP/1.1".to_vec(), from);
        }
        assert_eq!(hearing.tally(), DiscoveryCounts { answers: 3, garbage: 3, dropped: 2 });
    }
}
