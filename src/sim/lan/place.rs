//! One address on the pretend LAN with one plug at it: its listening socket, its ears for UDP, and the task that
//! opens and closes them as the plug's state demands.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};

use super::{DiscoveryPort, MAX_DATAGRAM, talk, tdp};
use crate::sim::fault::LanFault;
use crate::sim::handle::PlugHandle;
use crate::sim::listener::{BACKLOG, Listener};
use crate::sim::notify::ChangeNotifier;
use crate::sim::plug::{PortBehaviour, SimPlug, SwitchedBy};
use crate::smarthome::cipher;

/// Tries to find a port that is free for both TCP and UDP, when any port will do.
const PORT_TRIES: usize = 8;

/// After this long a connection to a jammed door counts as hanging.
const HANGS: Duration = Duration::from_millis(100);

/// Connections that a backlog of none may still take before it is full.
const MOST_FILLERS: usize = 4;

/// The pause after a socket could not be opened or a connection not be taken.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The pause before it is looked again whether a socket is still in use.
const LET_GO: Duration = Duration::from_millis(1);

/// A plug at an address. Closed when dropped.
pub struct PlugHost {
    address: SocketAddr,
    xor: Arc<UdpPort>,
    /// There from the moment on when the plug first answers the newer discovery; most never do.
    tdp: Arc<OnceLock<Arc<UdpPort>>>,
    door: watch::Receiver<Option<PortBehaviour>>,
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
        let xor = Arc::new(UdpPort { discovery: DiscoveryPort::Xor, socket, plug: plug.clone() });
        let tdp = Arc::new(OnceLock::new());
        let (said, door) = watch::channel(None);
        let keeper = PlugHostTask {
            plug,
            address,
            entrance: PortState::Open(listener),
            talks: JoinSet::new(),
            said,
            notifier,
            xor: Arc::clone(&xor),
            tdp: Arc::clone(&tdp),
            tdp_port,
        };
        Ok(Self { address, xor, tdp, door, task: tokio::spawn(keeper.run()) })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its listening socket is; `None` while that changes.
    pub fn door(&self) -> Option<PortBehaviour> {
        *self.door.borrow()
    }

    /// The ear that hears this kind of question.
    pub(super) fn ear(&self, discovery: DiscoveryPort) -> Option<Arc<UdpPort>> {
        match discovery {
            DiscoveryPort::Xor => Some(Arc::clone(&self.xor)),
            DiscoveryPort::Tdp => self.tdp.get().cloned(),
        }
    }

    /// Closes its sockets and returns once they are closed.
    pub(super) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        // A broadcast that is being answered holds on to all ears until each plug has had its turn.
        while self.is_held() {
            sleep(LET_GO).await;
        }
    }

    fn is_held(&self) -> bool {
        [Some(&self.xor), self.tdp.get()].into_iter().flatten().any(|ear| Arc::strong_count(ear) > 1)
    }
}

impl Drop for PlugHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A UDP socket at a plug's own address, from which it answers.
pub(super) struct UdpPort {
    discovery: DiscoveryPort,
    socket: UdpSocket,
    plug: PlugHandle,
}

impl UdpPort {
    /// Whether broadcasts reach the plug at all.
    pub(super) fn hears_broadcasts(&self) -> bool {
        self.plug.read(|plug| plug.hears_broadcasts)
    }

    /// Answers one datagram, or not, as the plug's state says.
    pub(super) async fn answer(&self, datagram: &[u8], asker: SocketAddr) {
        let now = Instant::now();
        let answers = |plug: &SimPlug| plug.is_up(now) && plug.lan.answers_datagrams();
        let reply = match self.discovery {
            _ if !self.plug.read(answers) => None,
            DiscoveryPort::Xor => self.answer_xor(datagram, now),
            DiscoveryPort::Tdp => self.answer_tdp(datagram),
        };
        if let Some(reply) = reply {
            // An asker that has gone away misses its answer, as with any datagram.
            let _ = self.socket.send_to(&reply, asker).await;
        }
    }

    fn answer_xor(&self, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut request = datagram.to_vec();
        cipher::decrypt(&mut request);
        let mut reply = self.plug.with(|plug| match plug.lan {
            _ if !plug.dialect.speaks_xor() => None,
            LanFault::DeviceError(code) => plug.refuse(&request, code, SwitchedBy::Datagram),
            fault => talk::spoil(fault, plug.handle(&request, SwitchedBy::Datagram, now)?),
        })?;
        cipher::encrypt(&mut reply);
        Some(reply)
    }

    fn answer_tdp(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let here = self.socket.local_addr().ok()?;
        self.plug.read(|plug| plug.dialect.answers_tdp().then(|| tdp::answer(datagram, plug, here.ip())))?
    }
}

/// The task of one place.
struct PlugHostTask {
    plug: PlugHandle,
    address: SocketAddr,
    entrance: PortState,
    talks: JoinSet<()>,
    /// The other end is the place's `door`.
    said: watch::Sender<Option<PortBehaviour>>,
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
            let (xor, tdp) = (Some(&*self.xor), self.tdp.get().map(|ear| &**ear));
            let next_change = self.plug.read(|plug| plug.next_change(Instant::now()));
            tokio::select! {
                stream = self.entrance.take() => self.welcome(stream).await,
                heard = hear(xor, &mut for_xor) => reply(xor, &for_xor, heard).await,
                heard = hear(tdp, &mut for_tdp) => reply(tdp, &for_tdp, heard).await,
                Some(_) = self.talks.join_next() => {}
                _ = changes.changed() => {}
                () = until(next_change) => self.plug.with(|plug| plug.pass_time(Instant::now())),
            }
        }
    }

    /// Makes the listening socket what the plug's state demands.
    async fn arrange(&mut self) -> io::Result<()> {
        let wanted = self.plug.read(|plug| plug.door(Instant::now()));
        if self.entrance.door() != wanted {
            self.said.send_replace(None);
            self.entrance = PortState::Shut;
            self.talks.shutdown().await;
            self.entrance = PortState::make(wanted, self.address).await?;
        }
        if self.tdp.get().is_none() && self.plug.read(|plug| plug.dialect.answers_tdp()) {
            let socket = UdpSocket::bind((self.address.ip(), self.tdp_port)).await?;
            let ear = UdpPort { discovery: DiscoveryPort::Tdp, socket, plug: self.plug.clone() };
            self.tdp.get_or_init(|| Arc::new(ear));
        }
        if *self.said.borrow() != Some(wanted) {
            self.said.send_replace(Some(wanted));
            self.notifier.ring();
        }
        Ok(())
    }

    async fn welcome(&mut self, stream: io::Result<TcpStream>) {
        match stream {
            Ok(stream) => drop(self.talks.spawn(talk::converse(stream, self.plug.clone()))),
            Err(_) => sleep(TRY_AGAIN).await,
        }
    }
}

/// The listening socket in one of its states.
enum PortState {
    Open(Listener),
    Shut,
    /// Never taken from, and filled up by connections of our own.
    Jammed {
        _listener: Listener,
        _fillers: Vec<TcpStream>,
    },
}

impl PortState {
    fn door(&self) -> PortBehaviour {
        match self {
            Self::Open(_) => PortBehaviour::Open,
            Self::Shut => PortBehaviour::Shut,
            Self::Jammed { .. } => PortBehaviour::Jammed,
        }
    }

    async fn make(door: PortBehaviour, address: SocketAddr) -> io::Result<Self> {
        match door {
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

    /// The next connection; never one while the door is not open.
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

async fn hear(ear: Option<&UdpPort>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match ear {
        Some(ear) => ear.socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

async fn reply(ear: Option<&UdpPort>, buffer: &[u8], heard: io::Result<(usize, SocketAddr)>) {
    match (ear, heard) {
        (Some(ear), Ok((length, asker))) => ear.answer(&buffer[..length], asker).await,
        _ => sleep(TRY_AGAIN).await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
