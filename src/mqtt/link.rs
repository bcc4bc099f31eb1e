//! The daemon's handle of the connection to the broker.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::channel::Inbound;
use super::connection::ConnectionTask;
use super::link_request::{LinkRequest, StopRequest};
use super::login_inquiry::LoginSource;
use super::responses::Unanswered;
use super::settings::MqttSettings;
use crate::bridge::event::{IdAllocator, Update};
use crate::payload::Clock;
use crate::secret::RefusedLogins;

/// The connection to the broker. It connects, and reconnects after each failure, until it is stopped or dropped.
///
/// Dropped without [`Link::stop`], it ends like a killed process: the broker publishes the last will.
#[derive(Debug)]
pub struct Link {
    requests: mpsc::UnboundedSender<LinkRequest>,
}

impl Link {
    /// Starts to connect, in a task on the current runtime, which sends to `inbound`. If the login is one of the `refused`
    /// ones, the first attempt is delayed. Commands and requests get their ids from `ids`. When the broker refuses the login,
    /// `source` is asked whether there is another one.
    pub fn start(
        settings: MqttSettings,
        ids: IdAllocator,
        refused: RefusedLogins,
        source: LoginSource,
        inbound: mpsc::UnboundedSender<Inbound>,
    ) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        tokio::spawn(ConnectionTask::new(settings, ids, refused, source, receiver, inbound).run());
        Self { requests }
    }

    /// Publishes an update. Never waits and never fails: retained values stay here until the broker has them, other messages
    /// are dropped while there is no connection. Dates are computed from `clock`. Returns false if the link was stopped.
    pub fn publish(&self, update: Update, clock: Clock) -> bool {
        self.requests.send(LinkRequest::Publish(Box::new(update), clock)).is_ok()
    }

    /// Answers what another link left unanswered, on the first connection if that stands within half a minute.
    pub fn adopt(&self, unanswered: Unanswered) {
        if !unanswered.is_empty() {
            // An error means that this link was stopped.
            let _ = self.requests.send(LinkRequest::Adopt(Box::new(unanswered)));
        }
    }

    /// Publishes plugs and bridge as offline, waits until the broker has acknowledged that, and disconnects. After `within`
    /// the connection is cut, and the last will replaces that. Returns what is left unanswered.
    pub async fn stop(&self, within: Duration) -> Unanswered {
        self.leave(Duration::ZERO, within).await
    }

    /// Like [`Link::stop`], but waits for the results of commands before it disconnects, for `results_within` at most.
    pub async fn leave(&self, results_within: Duration, within: Duration) -> Unanswered {
        let (done, stopped) = oneshot::channel();
        let _ = self.requests.send(LinkRequest::Stop(StopRequest { results_within, within, done }));
        // An error means that the task has ended already.
        stopped.await.unwrap_or_default()
    }
}
