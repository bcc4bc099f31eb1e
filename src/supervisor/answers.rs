//! What the Supervisor has said so far, shared by the task that asks it and by whoever reads the config.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::client::BrokerService;

/// The answers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    known: Arc<Mutex<KnownAnswers>>,
    /// The config was read.
    read: Arc<Notify>,
}

/// What is known, and what is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownAnswers {
    /// `None`: the Supervisor has not named one yet.
    pub(crate) broker: Option<BrokerService>,
    /// `None`: not known yet, or the app has no page.
    pub(crate) ingress: Option<SocketAddr>,
    pub(crate) wanted: WantedAnswers,
}

/// What the config takes from the Supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WantedAnswers {
    /// The config names the broker.
    #[default]
    Nothing,
    /// The broker, without its login.
    Broker,
    /// The broker and its login.
    BrokerAndLogin,
}

impl Answers {
    pub(crate) fn known(&self) -> KnownAnswers {
        self.with(|known| known.clone())
    }

    /// The config was read, and wants this.
    pub(crate) fn want(&self, wanted: WantedAnswers) {
        self.with(|known| known.wanted = wanted);
        self.read.notify_one();
    }

    /// Waits until the config is read. Cancel safe.
    pub(super) async fn read(&self) {
        self.read.notified().await;
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut KnownAnswers) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
