//! The embedded broker.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the embedded broker listens and keeps what is retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Loopback only, unless users are configured.
    pub listen: SocketAddr,
    /// The folder that outlives a restart.
    pub state_dir: PathBuf,
}
