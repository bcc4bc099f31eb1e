//! The frontend for browsers, scripts and Prometheus: the page, the API and the metrics.
//!
//! ```text
//!   server ---> guard ---> routes ---> calls ---> the daemon's loop
//!                            ^                          |
//!                            +------- frontend <--------+
//! ```
//!
//! `server` listens and bounds what a client may cost, [`guard`] refuses what a client may not do (`middleware` asks it), `routes`
//! is the table of paths. A handler asks the daemon's loop with a [`calls::Call`]; `frontend` is the part of HTTP that lives in
//! the loop and answers it.

pub mod calls;
mod commands;
mod connection;
pub(crate) mod document;
pub(crate) mod events;
pub mod frontend;
pub mod guard;
pub(crate) mod history;
pub(crate) mod listen;
mod listener;
pub(crate) mod metrics;
mod middleware;
mod openapi;
pub mod overview;
pub(crate) mod page;
pub(crate) mod problem;
mod request;
pub mod routes;
pub mod server;
mod stream;

use std::net::{IpAddr, SocketAddr};

use hs100d_core::secret::Secret;
pub use listen::Listen;

/// How one listener is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// Where.
    pub listen: Listen,
    /// The one address that may connect: Home Assistant's proxy. Connections from others are closed before anything is read.
    pub only_from: Option<IpAddr>,
    /// Needed for everything but health. `None` is for loopback, Unix sockets and ingress only.
    pub token: Option<Secret>,
    /// May look and change nothing.
    pub read_token: Option<Secret>,
    /// Names that a browser may use for this machine, in lower case, besides `localhost` and addresses.
    pub allowed_hosts: Vec<Box<str>>,
    /// Whether a `GET` with the token in its query may switch a plug.
    pub simple_get: bool,
}

impl HttpOptions {
    /// At this address, without a token.
    pub fn at(listen: Listen) -> Self {
        Self {
            listen,
            only_from: None,
            token: None,
            read_token: None,
            allowed_hosts: Vec::new(),
            simple_get: false,
        }
    }
}

/// The listener of the Home Assistant app: the Supervisor's proxy ("ingress") connects to it, and nobody else. It lets in who
/// is logged in to Home Assistant, so there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressOptions {
    /// The address and the port that the Supervisor gives to the app.
    pub listen: SocketAddr,
    /// The address of the proxy.
    pub only_from: IpAddr,
}

impl From<IngressOptions> for HttpOptions {
    fn from(IngressOptions { listen, only_from }: IngressOptions) -> Self {
        Self { only_from: Some(only_from), ..Self::at(Listen::Tcp(listen)) }
    }
}
