//! One plug at one address of the simulated LAN: its listening socket, its UDP ports, and the task that opens and closes
//! them as the plug's state demands.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::connection;
use super::udp_port::{DiscoveryPort, MAX_DATAGRAM, UdpPort, answer_next, receive};
use crate::sim::handle::PlugHandle;
use crate::sim::listener::{BACKLOG, Listener};
use crate::sim::notify::ChangeNotifier;
use crate::sim::plug::PortBehaviour;

/// Tries to find a port that is free for both TCP and UDP, when any port will do.
const PORT_TRIES: usize = 8;

/// A connection to a full backlog that takes longer counts as hanging.
const HANGS: Duration = Duration::from_millis(100);

/// Connections that a backlog of none may still take before it is full.
const MOST_FILLERS: usize = 4;

/// The pause after a socket could not be opened or a connection not be accepted.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How often it is checked whether a socket is still in use.
const LET_GO: Duration = Duration::from_millis(1);

/// A plug at an address. Closed when dropped.
pub(super) struct PlugHost {
    address: SocketAddr,
    xor: Arc<UdpPort>,
    /// Opened when the plug first answers the newer discovery; most never do.
    tdp: Arc<OnceLock<Arc<UdpPort>>>,
    tcp_port: watch::Receiver<Option<PortBehaviour>>,
    task: JoinHandle<()>,
}

impl PlugHost {
    /// Binds the sockets and starts to serve.
    pub(super) async fn open(
        plug: PlugHandle,
        address: SocketAddr,
        tdp_port: u16,
        notifier: ChangeNotifier,
    ) -> io::Result<Self> {
        let (listener, socket) = bind(address).await?;
        let address = listener.local_addr()?;
        let xor = Arc::new(UdpPort::new(DiscoveryPort::Xor, socket, plug.clone()));
        let tdp = Arc::new(OnceLock::new());
        let (published, tcp_port) = watch::channel(None);
        let task = PlugHostTask {
            plug,
            address,
            entrance: PortState::Open(listener),
            connections: JoinSet::new(),
            published,
            notifier,
            xor: Arc::clone(&xor),
            tdp: Arc::clone(&tdp),
            tdp_port,
        };
        Ok(Self { address, xor, tdp, tcp_port, task: tokio::spawn(task.run()) })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its listening socket is; `None` while that changes.
    pub(super) fn tcp_port(&self) -> Option<PortBehaviour> {
        *self.tcp_port.borrow()
    }

    /// The port of this discovery.
    pub(super) fn port(&self, discovery: DiscoveryPort) -> Option<Arc<UdpPort>> {
        match discovery {
            DiscoveryPort::Xor => Some(Arc::clone(&self.xor)),
            DiscoveryPort::Tdp => self.tdp.get().cloned(),
        }
    }

    /// Closes its sockets and returns once they are closed.
    pub(super) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        // While a broadcast is answered, all ports are held until each plug has had its turn.
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

/// The task of one plug at its address.
struct PlugHostTask {
    plug: PlugHandle,
    address: SocketAddr,
    entrance: PortState,
    connections: JoinSet<()>,
    /// The other end is the `tcp_port` of [`PlugHost`].
    published: watch::Sender<Option<PortBehaviour>>,
    notifier: ChangeNotifier,
    xor: Arc<UdpPort>,
    tdp: Arc<OnceLock<Arc<UdpPort>>>,
    tdp_port: u16,
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
                stream = self.entrance.take() => self.welcome(stream).await,
                received = receive(xor, &mut for_xor) => answer_next(xor, &for_xor, received).await,
                received = receive(tdp, &mut for_tdp) => answer_next(tdp, &for_tdp, received).await,
                Some(_) = self.connections.join_next() => {}
                _ = changes.changed() => {}
                () = until(next_change) => self.plug.with(|plug| plug.pass_time(Instant::now())),
            }
        }
    }

    /// Makes the listening socket what the plug's state demands.
    async fn arrange(&mut self) -> io::Result<()> {
        let wanted = self.plug.read(|plug| plug.tcp_port(Instant::now()));
        if self.entrance.tcp_port() != wanted {
            self.published.send_replace(None);
            self.entrance = PortState::Shut;
            self.connections.shutdown().await;
            self.entrance = PortState::make(wanted, self.address).await?;
        }
        if self.tdp.get().is_none() && self.plug.read(|plug| plug.dialect.answers_tdp()) {
            let socket = UdpSocket::bind((self.address.ip(), self.tdp_port)).await?;
            let port = UdpPort::new(DiscoveryPort::Tdp, socket, self.plug.clone());
            self.tdp.get_or_init(|| Arc::new(port));
        }
        if *self.published.borrow() != Some(wanted) {
            self.published.send_replace(Some(wanted));
            self.notifier.notify();
        }
        Ok(())
    }

    async fn welcome(&mut self, stream: io::Result<TcpStream>) {
        match stream {
            Ok(stream) => drop(self.connections.spawn(connection::serve(stream, self.plug.clone()))),
            Err(_) => sleep(TRY_AGAIN).await,
        }
    }
}

/// The listening socket in one of its states.
enum PortState {
    Open(Listener),
    Shut,
    /// Never accepted from, and filled up by connections of our own.
    Jammed {
        _listener: Listener,
        _fillers: Vec<TcpStream>,
    },
}

impl PortState {
    fn tcp_port(&self) -> PortBehaviour {
        match self {
            Self::Open(_) => PortBehaviour::Open,
            Self::Shut => PortBehaviour::Shut,
            Self::Jammed { .. } => PortBehaviour::Jammed,
        }
    }

    async fn make(tcp_port: PortBehaviour, address: SocketAddr) -> io::Result<Self> {
        match tcp_port {
            PortBehaviour::Open => Listener::bind(address, BACKLOG).map(Self::Open),
            PortBehaviour::Shut => Ok(Self::Shut),
            PortBehaviour::Jammed => {
                let listener = Listener::bind(address, 0)?;
                let mut fillers = Vec::new();
                while fillers.len() < MOST_FILLERS {
                    match timeout(HANGS, TcpStream::connect(address)).await {
                        Ok(stream) => fillers.push(stream?),
                        Err(_) => break,
                    }
                }
                Ok(Self::Jammed { _listener: listener, _fillers: fillers })
            }
        }
    }

    /// The next connection; never one unless the port is open.
    async fn take(&self) -> io::Result<TcpStream> {
        match self {
            Self::Open(listener) => Ok(listener.accept().await?.0),
            Self::Shut | Self::Jammed { .. } => std::future::pending().await,
        }
    }
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
