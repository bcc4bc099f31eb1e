//! What the daemon sends to the connection's task.

use std::time::Duration;

use tokio::sync::oneshot;

use super::responses::Unanswered;
use crate::bridge::event::Update;
use crate::payload::Clock;

/// From the daemon to the connection's task.
#[derive(Debug)]
pub(super) enum LinkRequest {
    /// Publish this; its dates are computed from these clocks.
    Publish(Box<Update>, Clock),
    /// Answer what another connection left unanswered.
    Adopt(Box<Unanswered>),
    /// Disconnect.
    Stop(StopRequest),
}

/// How to disconnect.
#[derive(Debug)]
pub(super) struct StopRequest {
    /// How long the results of commands are waited for.
    pub(super) results_within: Duration,
    /// How long all of it may take.
    pub(super) within: Duration,
    /// Gets what is left unanswered.
    pub(super) done: oneshot::Sender<Unanswered>,
}
