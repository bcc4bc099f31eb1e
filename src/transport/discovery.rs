//! UDP broadcast out, sightings in.

use std::net::Ipv4Addr;
use std::time::Duration;

/// How to look for plugs on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Between two rounds.
    pub interval: Duration,
    /// Where to; empty: every interface's own broadcast address.
    pub broadcast: Vec<Ipv4Addr>,
    /// The port that plugs listen on, UDP and TCP.
    pub port: u16,
}
