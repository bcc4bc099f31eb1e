//! The UDP sockets of a simulated plug: one for the discovery of the XOR protocol, one for TDP.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::{connection, tdp};
use crate::fault::LanFault;
use crate::handle::PlugHandle;
use crate::plug::{SimPlug, SwitchedBy};
use hs100d_core::smarthome::cipher;

/// The longest datagram that is read. Requests have a few hundred bytes, the key probe of TDP 501.
pub(super) const MAX_DATAGRAM: usize = 2048;

/// The pause after a failed receive.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The discovery that a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiscoveryPort {
    /// `get_sysinfo` under the XOR cipher.
    Xor,
    /// TDP, for plugs that speak KLAP.
    Tdp {
        /// The port of KLAP on this LAN.
        klap: u16,
    },
}

/// A UDP socket at a plug's own address; the plug answers from it.
pub(super) struct UdpPort {
    discovery: DiscoveryPort,
    socket: UdpSocket,
    plug: PlugHandle,
}

impl UdpPort {
    pub(super) fn new(discovery: DiscoveryPort, socket: UdpSocket, plug: PlugHandle) -> Self {
        Self { discovery, socket, plug }
    }

    /// Whether broadcasts reach the plug at all.
    pub(super) fn hears_broadcasts(&self) -> bool {
        self.plug.read(|plug| plug.hears_broadcasts)
    }

    /// Answers one datagram, if the plug's state allows it.
    pub(super) async fn answer(&self, datagram: &[u8], sender: SocketAddr) {
        let now = Instant::now();
        let answers = |plug: &SimPlug| plug.is_up(now) && plug.lan.answers_datagrams();
        let reply = match self.discovery {
            _ if !self.plug.read(answers) => None,
            DiscoveryPort::Xor => self.answer_xor(datagram, now),
            DiscoveryPort::Tdp { klap } => self.answer_tdp(datagram, klap, now),
        };
        if let Some(reply) = reply {
            // If the sender is gone, the answer is lost, as any datagram may be.
            let _ = self.socket.send_to(&reply, sender).await;
        }
    }

    fn answer_xor(&self, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut request = datagram.to_vec();
        cipher::decrypt(&mut request);
        let mut reply = self.plug.with(|plug| match plug.lan {
            _ if !plug.dialect.speaks_xor() => None,
            LanFault::DeviceError(code) => plug.refuse(&request, code, SwitchedBy::Datagram),
            fault => connection::spoil(fault, plug.handle(&request, SwitchedBy::Datagram, now)?),
        })?;
        cipher::encrypt(&mut reply);
        Some(reply)
    }

    /// A probe may open the port of KLAP; the plug's task is notified of the change.
    fn answer_tdp(&self, datagram: &[u8], klap: u16, now: Instant) -> Option<Vec<u8>> {
        let here = SocketAddr::new(self.socket.local_addr().ok()?.ip(), klap);
        let (reply, opens) = self.plug.read(|plug| {
            let reply = plug.dialect.speaks_klap().then(|| tdp::answer(datagram, plug, here))?;
            Some((reply?, plug.klap.wants_probe()))
        })?;
        if opens {
            self.plug.with(|plug| plug.klap.hear_probe(now));
        }
        Some(reply)
    }
}

/// The next datagram at this port. Waits for ever without a port.
pub(super) async fn receive(port: Option<&UdpPort>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match port {
        Some(port) => port.socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

/// Answers the datagram that [`receive`] returned.
pub(super) async fn answer_next(
    port: Option<&UdpPort>,
    buffer: &[u8],
    received: io::Result<(usize, SocketAddr)>,
) {
    match (port, received) {
        (Some(port), Ok((length, sender))) => port.answer(&buffer[..length], sender).await,
        _ => sleep(TRY_AGAIN).await,
    }
}
