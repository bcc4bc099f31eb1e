//! The signals that the daemon handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The streams of the signals.
#[derive(Debug)]
pub(crate) struct Signals {
    /// SIGTERM: how systemd and `kill` stop a service.
    terminate: Signal,
    /// SIGINT: Ctrl-C on a terminal.
    interrupt: Signal,
    /// SIGHUP: the usual signal for a reload.
    hang_up: Signal,
    /// SIGUSR1: the usual signal for statistics.
    user1: Signal,
}

/// What the daemon must do after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// End the exchanges in flight, and stop.
    Stop,
    /// Reload the config.
    Reload,
    /// Write the figures to the log.
    Figures,
}

impl Signals {
    /// Handles the signals from now on. Without it they end the process.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.hang_up.recv() => SignalRequest::Reload,
            _ = self.user1.recv() => SignalRequest::Figures,
        }
    }
}
