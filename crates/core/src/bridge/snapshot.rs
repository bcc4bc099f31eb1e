//! The present state of the bridge as a value. Frontends and figures are answered from it, so that none of them keeps a
//! second truth. Nothing is kept for it: it is built when it is asked for.

use std::sync::Arc;
use std::time::Instant;

use super::counters::{CommandCounts, CommandDurations, PlugCounters};
use super::event::{BridgeInfo, Energy, PlugInfo, PlugState};
use super::failures::{Failures, LastError};
use super::unserved::UnservedDevice;
use crate::model::{Availability, LanProtocol, PlugName, Route};

/// All plugs that have a name, and the bridge itself.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What `bridge/info` says.
    pub info: BridgeInfo,
    /// Whether the first round of reads is done, so that `bridge/state` may be `online`.
    pub is_ready: bool,
    /// The devices that were found and are not served, in no order.
    pub unserved: Vec<UnservedDevice>,
    /// How long commands took.
    pub durations: CommandDurations,
    /// Plugs and strips in the order in which they came, each strip followed by its outlets.
    pub plugs: Vec<PlugSnapshot>,
}

/// One plug, one strip, or one outlet of a strip.
#[derive(Debug, Clone)]
pub struct PlugSnapshot {
    /// What it is called.
    pub name: PlugName,
    /// What `<plug>/state` says; none before the first reading, and of an outlet that its strip no longer reports.
    pub state: Option<PlugState>,
    /// What `<plug>/info` says; none before the first reading.
    pub info: Option<Arc<PlugInfo>>,
    /// What `<plug>/energy` says; none before the first reading of its meter.
    pub energy: Option<Energy>,
    /// What `<plug>/availability` says; none before that is known.
    pub availability: Option<Availability>,
    /// The route in use, which `state` may say a moment later; none if every route has failed.
    pub route: Option<Route>,
    /// The last failure of each route since it last worked.
    pub failures: Failures,
    /// The last error of all, also if everything works again.
    pub last_error: Option<LastError>,
    /// The protocol that it is believed to speak on the LAN.
    pub protocol: Option<LanProtocol>,
    /// When it last answered over each route, by [`Route::index`].
    pub last_answers: [Option<Instant>; 2],
    /// What was counted of it. `None` for an outlet, which is read with its strip.
    pub counters: Option<PlugCounters>,
    /// How its commands ended.
    pub commands: CommandCounts,
}
