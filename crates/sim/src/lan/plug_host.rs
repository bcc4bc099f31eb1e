//! One plug at one address of the simulated LAN: its TCP and UDP ports, and the task that opens and closes them as the
//! plug's state demands.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

use super::tcp_port::TcpPort;
use super::udp_port::{DiscoveryPort, MAX_DATAGRAM, UdpPort, answer_next, receive};
use super::{connection, klap};
use crate::handle::PlugHandle;
use crate::listener::{BACKLOG, Listener};
use crate::notify::ChangeNotifier;
use crate::plug::TcpPorts;

/// Attempts to find a port that is free for both TCP and UDP, if any port will do.
const PORT_TRIES: usize = 8;

/// The pause after a failed `bind` or `accept`.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How often it is checked whether a socket is still in use.
const LET_GO: Duration = Duration::from_millis(1);

/// The ports of a LAN; 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LanPorts {
    /// The XOR protocol, TCP and UDP. 9999 at real plugs.
    pub xor: u16,
    /// TDP, the discovery for plugs that speak KLAP, UDP. 20002 at real plugs.
    pub tdp: u16,
    /// KLAP. 80 at real plugs.
    pub klap: u16,
}

/// A plug at an address. Dropping it closes its ports.
pub(super) struct PlugHost {
    address: SocketAddr,
    xor: Arc<UdpPort>,
    /// Opened when the plug first speaks KLAP; most plugs never do.
    tdp: Arc<OnceLock<Arc<UdpPort>>>,
    tcp_ports: watch::Receiver<Option<TcpPorts>>,
    task: JoinHandle<()>,
}

impl PlugHost {
    /// Binds the sockets and starts to serve them.
    pub(super) async fn open(
        plug: PlugHandle,
        address: SocketAddr,
        ports: LanPorts,
        notifier: ChangeNotifier,
    ) -> io::Result<Self> {
        let (listener, socket) = bind(address).await?;
        let address = listener.local_addr()?;
        let xor = Arc::new(UdpPort::new(DiscoveryPort::Xor, socket, plug.clone()));
        let tdp = Arc::new(OnceLock::new());
        let (published, tcp_ports) = watch::channel(None);
        let task = PlugHostTask {
            plug,
            xor_port: TcpPort::open(address, listener),
            klap_port: TcpPort::shut((address.ip(), ports.klap).into()),
            published,
            notifier,
            xor: Arc::clone(&xor),
            tdp: Arc::clone(&tdp),
            address,
            ports,
        };
        Ok(Self { address, xor, tdp, tcp_ports, task: tokio::spawn(task.run()) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The present state of its listening sockets; `None` during a change.
    pub(super) fn tcp_ports(&self) -> Option<TcpPorts> {
        *self.tcp_ports.borrow()
    }

    /// The UDP port of this discovery, if it is open.
    pub(super) fn port(&self, discovery: DiscoveryPort) -> Option<Arc<UdpPort>> {
        match discovery {
            DiscoveryPort::Xor => Some(Arc::clone(&self.xor)),
            DiscoveryPort::Tdp { .. } => self.tdp.get().cloned(),
        }
    }

    /// Closes its sockets, and returns once they are closed.
    pub(super) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        // A broadcast in progress holds every port until each plug has answered.
        while self.is_held() {
            sleep(LET_GO).await;
        }
    }

    fn is_held(&self) -> bool {
        [Some(&self.xor), self.tdp.get()].into_iter().flatten().any(|port| Arc::strong_count(port) > 1)
    }
}

impl Drop for PlugHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct PlugHostTask {
    plug: PlugHandle,
    xor_port: TcpPort,
    klap_port: TcpPort,
    /// Received by `tcp_ports` of [`PlugHost`].
    published: watch::Sender<Option<TcpPorts>>,
    notifier: ChangeNotifier,
    xor: Arc<UdpPort>,
    tdp: Arc<OnceLock<Arc<UdpPort>>>,
    address: SocketAddr,
    ports: LanPorts,
}

impl PlugHostTask {
    async fn run(mut self) {
        let mut changes = self.plug.changes();
        let (mut for_xor, mut for_tdp) = (vec![0; MAX_DATAGRAM], vec![0; MAX_DATAGRAM]);
        loop {
            changes.mark_unchanged();
            if self.arrange().await.is_err() {
                sleep(TRY_AGAIN).await;
                continue;
            }
            let (xor, tdp) = (Some(&*self.xor), self.tdp.get().map(|port| &**port));
            let next_change = self.plug.read(|plug| plug.next_change(Instant::now()));
            tokio::select! {
                stream = self.xor_port.accept() => if let Some(stream) = accepted(stream).await {
                    self.xor_port.serve(connection::serve(stream, self.plug.clone()));
                },
                stream = self.klap_port.accept() => if let Some(stream) = accepted(stream).await {
                    self.klap_port.serve(klap::serve(stream, self.plug.clone()));
                },
                received = receive(xor, &mut for_xor) => answer_next(xor, &for_xor, received).await,
                received = receive(tdp, &mut for_tdp) => answer_next(tdp, &for_tdp, received).await,
                _ = changes.changed() => {}
                () = until(next_change) => self.plug.with(|plug| plug.pass_time(Instant::now())),
            }
        }
    }

    /// Opens and closes the listening sockets as the plug's state demands.
    async fn arrange(&mut self) -> io::Result<()> {
        let (wanted, answers_tdp) =
            self.plug.read(|plug| (plug.tcp_ports(Instant::now()), plug.dialect.speaks_klap()));
        if answers_tdp && self.tdp.get().is_none() {
            let socket = UdpSocket::bind((self.address.ip(), self.ports.tdp)).await?;
            let port = DiscoveryPort::Tdp { klap: self.ports.klap };
            self.tdp.get_or_init(|| Arc::new(UdpPort::new(port, socket, self.plug.clone())));
        }
        if *self.published.borrow() != Some(wanted) {
            self.published.send_replace(None);
            self.xor_port.arrange(wanted.xor, self.address.port()).await?;
            self.klap_port.arrange(wanted.klap, wanted.klap_port.unwrap_or(self.ports.klap)).await?;
            self.published.send_replace(Some(wanted));
            self.notifier.notify();
        }
        Ok(())
    }
}

/// Returns an accepted connection. Pauses after an error.
async fn accepted(stream: io::Result<TcpStream>) -> Option<TcpStream> {
    if stream.is_err() {
        sleep(TRY_AGAIN).await;
    }
    stream.ok()
}

/// Binds TCP and UDP at one address and the same port.
async fn bind(address: SocketAddr) -> io::Result<(Listener, UdpSocket)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..tries {
        let listener = Listener::bind(address, BACKLOG)?;
        outcome = match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) => Err(error),
        };
    }
    outcome
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
