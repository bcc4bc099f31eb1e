//! The signals that the daemon listens to, and why.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Reasons to stop, to read the config again, or to tell how things are.
#[derive(Debug)]
pub(crate) struct Signals {
    /// systemd and `kill` stop a service so.
    terminate: Signal,
    /// Ctrl-C on a terminal.
    interrupt: Signal,
    /// A service's way to be told of a new config.
    hang_up: Signal,
    /// Asks for figures, as other daemons have it.
    user: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// Finish what is under way and end.
    Stop,
    /// Read the config again.
    Reload,
    /// Write to the log how much there is at this moment.
    Figures,
}

impl Signals {
    /// Listens from here on; before, these signals would have ended the process.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.hang_up.recv() => SignalRequest::Reload,
            _ = self.user.recv() => SignalRequest::Figures,
        }
    }
}
