//! The state of the daemon at one moment, as handlers get it.

use std::sync::Arc;
use std::time::Instant;

use super::history::History;
use crate::bridge::counters::CloudRequests;
use crate::bridge::snapshot::Snapshot;
use crate::model::PlugName;
use crate::payload::Clock;

/// What a handler wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The bridge without its plugs.
    Bridge,
    /// One plug.
    Plug(PlugName),
    /// All plugs.
    Plugs,
}

/// The state of the daemon at one moment.
#[derive(Debug)]
pub(crate) struct Overview {
    /// The bridge, and the selected plugs.
    pub(crate) snapshot: Snapshot,
    /// The histories of the plugs, in their order, if the daemon knows any.
    pub(crate) histories: Vec<Arc<History>>,
    /// The connection to the broker.
    pub(crate) broker: BrokerStatus,
    /// This moment.
    pub(crate) clock: Clock,
}

/// The connection to the broker.
#[derive(Debug, Clone)]
pub(crate) struct BrokerStatus {
    /// Whether it runs in this process.
    pub(crate) is_embedded: bool,
    /// Where the broker is; or why there is no connection, in one line with the remedy.
    pub(crate) link: Result<String, String>,
}

/// What stays the same while the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct DaemonInfo {
    /// The id of this installation.
    pub(crate) instance: Arc<str>,
    /// When the daemon started.
    pub(crate) started: Instant,
    /// Counted by the account's client.
    pub(crate) cloud_requests: CloudRequests,
}
