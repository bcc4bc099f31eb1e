//! The messages between the daemon and the connection's task.

use std::time::Duration;

use tokio::sync::oneshot;

use super::payload::Clock;
use crate::bridge::event::{Event, RequestId, Update};

/// From the connection's task to the daemon.
#[derive(Debug)]
pub enum Inbound {
    /// A command or request for the bridge.
    Event(Event),
    /// A request to reload the config. It is answered with [`Update::Response`].
    Reload(RequestId),
    /// The connection changed. `Err` says, in one line with the remedy, why there is none or what does not work on it. Sent
    /// only when it differs from the last one.
    Link(Result<(), String>),
}

/// From the daemon to the connection's task.
#[derive(Debug)]
pub(super) enum LinkRequest {
    /// Publish this; its dates are computed from these clocks.
    Publish(Box<Update>, Clock),
    /// Disconnect within this time, then answer.
    Stop(Duration, oneshot::Sender<()>),
}
