//! Where the embedded broker listens, who may log in, and why it does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::secret::Secret;

/// Where the embedded broker listens and where it stores retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerOptions {
    /// Must be on loopback unless there are users. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may log in. Empty: clients need no login.
    pub users: Vec<User>,
    /// The folder that survives a restart; the broker has a folder of its own in it.
    pub state_dir: PathBuf,
}

/// A user who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name.
    pub name: String,
    /// Compared in constant time.
    pub password: Secret,
}

/// Why the embedded broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It would listen on the network without users: anybody there could switch the plugs.
    #[error(
        "broker.listen: {0} is reachable from other machines, and there is no [[broker.user]]: add one, or use \
         127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// Another program listens on this port.
    #[error(
        "broker.listen: {0} is taken: set mqtt.url to use the broker that listens there, or another port in \
         broker.listen"
    )]
    PortTaken(SocketAddr),
    /// The operating system refuses to listen there.
    #[error(
        "broker.listen: cannot listen on {address}: {source}: set another address or port in broker.listen"
    )]
    Listen {
        /// The address in the config.
        address: SocketAddr,
        /// The reason of the operating system.
        source: std::io::Error,
    },
    /// Another broker uses our folder.
    #[error(
        "{0}: another embedded broker stores its messages there: stop it first, or use another state directory"
    )]
    StoreInUse(PathBuf),
    /// It ended right after its start.
    #[error("the embedded broker failed to start: {0}: set mqtt.url to use another broker")]
    Failed(String),
    /// This program was built without the feature `broker`.
    #[error(
        "this hs100d was built without the embedded broker: set mqtt.url, or build it with the feature \"broker\""
    )]
    NotBuilt,
}

impl BrokerError {
    /// Whether trying again can help: the port may become free, and an address that the machine does not have yet may
    /// come with its network.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::PortTaken(_) => true,
            Self::Listen { source, .. } => source.kind() == std::io::ErrorKind::AddrNotAvailable,
            Self::NotLoopback(_) | Self::StoreInUse(_) | Self::Failed(_) | Self::NotBuilt => false,
        }
    }
}
