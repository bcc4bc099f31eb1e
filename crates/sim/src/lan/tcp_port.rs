//! A listening socket of a simulated plug in each of its states: open, closed, or with a full backlog.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::listener::{BACKLOG, Listener};
use crate::plug::PortBehaviour;

/// A connection to a full backlog that takes longer than this counts as hanging.
const HANGS: Duration = Duration::from_millis(100);

/// The most connections that fill a backlog of 0: Linux accepts a few before it is full.
const MOST_FILLERS: usize = 4;

/// One port and its connections, which end when it is closed.
pub(super) struct TcpPort {
    address: SocketAddr,
    state: PortState,
    connections: JoinSet<()>,
}

impl TcpPort {
    pub(super) fn open(address: SocketAddr, listener: Listener) -> Self {
        Self { address, state: PortState::Open(listener), connections: JoinSet::new() }
    }

    /// A closed port: connections are refused.
    pub(super) fn shut(address: SocketAddr) -> Self {
        Self { address, state: PortState::Shut, connections: JoinSet::new() }
    }

    /// Brings the port into this state. A change ends its connections.
    pub(super) async fn arrange(&mut self, wanted: PortBehaviour, port: u16) -> io::Result<()> {
        if self.state.behaviour() == wanted && self.address.port() == port {
            return Ok(());
        }
        self.state = PortState::Shut;
        self.connections.shutdown().await;
        self.address.set_port(port);
        self.state = PortState::make(wanted, self.address).await?;
        Ok(())
    }

    /// The next connection. Waits for ever unless the port is open.
    pub(super) async fn accept(&mut self) -> io::Result<TcpStream> {
        loop {
            tokio::select! {
                stream = self.state.accept() => return stream,
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    /// Serves a connection until it ends or the port changes.
    pub(super) fn serve(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(connection);
    }
}

enum PortState {
    Open(Listener),
    Shut,
    /// Never accepts. Connections of our own fill its backlog.
    Jammed {
        _listener: Listener,
        _fillers: Vec<TcpStream>,
    },
}

impl PortState {
    fn behaviour(&self) -> PortBehaviour {
        match self {
            Self::Open(_) => PortBehaviour::Open,
            Self::Shut => PortBehaviour::Shut,
            Self::Jammed { .. } => PortBehaviour::Jammed,
        }
    }

    async fn make(wanted: PortBehaviour, address: SocketAddr) -> io::Result<Self> {
        match wanted {
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

    async fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Open(listener) => Ok(listener.accept().await?.0),
            Self::Shut | Self::Jammed { .. } => std::future::pending().await,
        }
    }
}
