//! What the connection's task sends to the daemon.

use super::settings::BrokerAddress;
use crate::bridge::event::{Event, RequestId};

/// From the connection's task to the daemon.
#[derive(Debug)]
pub enum Inbound {
    /// A command or request for the bridge.
    Event(Event),
    /// A request to reload the config. It is answered with [`Update::Response`](crate::bridge::event::Update::Response).
    Reload(RequestId),
    /// The connection changed. `Ok` says to which broker it is. `Err` says, in one line with the remedy, why there is none or
    /// what does not work on it. Sent only when it differs from the last one.
    Link(Result<BrokerAddress, String>),
}
