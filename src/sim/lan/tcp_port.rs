//! A listening socket of a simulated plug in each of its states: open, closed, or with a full backlog.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::sim::listener::{BACKLOG, Listener};
use crate::sim::plug::PortBehaviour;

/// A connection to a full backlog that takes longer counts as hanging.
const HANGS: Duration = Duration::from_millis(100);

/// Connections that a backlog of none may still take before it is full.
const MOST_FILLERS: usize = 4;

/// One port and the connections that came through it, which end when it is closed.
pub(super) struct TcpPort {
    address: SocketAddr,
    state: PortState,
    connections: JoinSet<()>,
}

impl TcpPort {
    /// A port that is open already.
    pub(super) fn open(address: SocketAddr, listener: Listener) -> Self {
        Self { address, state: PortState::Open(listener), connections: JoinSet::new() }
    }

    /// A port that refuses.
    pub(super) fn shut(address: SocketAddr) -> Self {
        Self { address, state: PortState::Shut, connections: JoinSet::new() }
    }

    /// Makes it so, at this port. Its connections are gone if that is a change.
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

    /// The next connection; never one unless the port is open.
    pub(super) async fn accept(&mut self) -> io::Result<TcpStream> {
        loop {
            tokio::select! {
                stream = self.state.accept() => return stream,
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    /// Serves a connection until it or the port ends.
    pub(super) fn serve(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(connection);
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
