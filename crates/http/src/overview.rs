//! The state of the daemon at one moment, as handlers get it.

use std::sync::Arc;
use std::time::Instant;

use super::history::History;
use hs100d_core::bridge::counters::CloudRequests;
use hs100d_core::bridge::snapshot::Snapshot;
use hs100d_core::model::PlugName;
use hs100d_core::payload::Clock;

/// What a handler wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The bridge without its plugs.
    Bridge,
    /// One plug.
    Plug(PlugName),
    /// All plugs.
    Plugs,
}

/// The state of the daemon at one moment.
#[derive(Debug)]
pub struct Overview {
    /// The bridge, and the selected plugs.
    pub snapshot: Snapshot,
    /// The histories of the plugs, in their order, if the daemon knows any.
    pub histories: Vec<Arc<History>>,
    /// The connection to the broker.
    pub broker: BrokerStatus,
    /// This moment.
    pub clock: Clock,
}

/// The connection to the broker.
#[derive(Debug, Clone)]
pub struct BrokerStatus {
    /// Whether it runs in this process.
    pub is_embedded: bool,
    /// Where the broker is; or why there is no connection, in one line with the remedy.
    pub link: Result<String, String>,
}

/// What stays the same while the daemon runs.
#[derive(Debug, Clone)]
pub struct DaemonInfo {
    /// The id of this installation.
    pub instance: Arc<str>,
    /// When the daemon started.
    pub started: Instant,
    /// Counted by the account's client.
    pub cloud_requests: CloudRequests,
}
