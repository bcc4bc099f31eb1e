//! The address of the interface: a TCP port or a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the interface listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP port. Port 0: any free one.
    Tcp(SocketAddr),
    /// On a Unix socket with this path.
    Unix(PathBuf),
}

impl Listen {
    /// Before the path of a Unix socket in the config.
    pub const UNIX: &'static str = "unix:";

    /// Whether only this machine can reach it.
    pub fn is_on_this_machine(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// As in the config.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{}", Self::UNIX, path.display()),
        }
    }
}
