//! The bridge with its transport: hands events to the bridge, and performs its actions on plugs and on the account.
//!
//! The daemon and the one-shot commands both drive their bridge with it, so that they behave alike.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use crate::bridge::Bridge;
use crate::bridge::event::{Action, CloudStatus, Event};
use crate::config::Config;
use crate::store::TokenFile;
use crate::transport::Transport;
use crate::transport::cloud::api::Row;
use crate::transport::cloud::session::AccountMemory;
use crate::transport::cloud::{Cloud, CloudError, CloudStartError};

/// A bridge, its transport, and its account.
pub(crate) struct Driver {
    pub(crate) bridge: Bridge,
    pub(crate) transport: Transport,
    cloud_events: mpsc::UnboundedReceiver<Event>,
    /// Requests for the account's device list. The list itself comes as an event.
    lists: JoinSet<Result<Vec<Row>, CloudError>>,
}

/// An event from outside of the bridge.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// For the bridge.
    Event(Event),
    /// A request for the account's device list ended.
    Listed(Result<Vec<Row>, CloudError>),
}

impl Driver {
    pub(crate) fn new(bridge: Bridge, account: CloudAccount) -> Self {
        let CloudAccount { cloud, events } = account;
        Self { bridge, transport: Transport::new(cloud), cloud_events: events, lists: JoinSet::new() }
    }

    /// Uses another account, or none. Exchanges under way end on the one they started with.
    pub(crate) fn set_account(&mut self, account: CloudAccount) {
        self.transport.set_cloud(account.cloud);
        self.cloud_events = account.events;
    }

    /// The next event. Waits for ever while nothing is under way. Cancel safe.
    pub(crate) async fn next(&mut self) -> Incoming {
        tokio::select! {
            biased;
            (exchange, outcome) = self.transport.next() => Incoming::Event(Event::Done { exchange, outcome }),
            Some(event) = self.cloud_events.recv() => Incoming::Event(event),
            Some(listed) = self.lists.join_next() => Incoming::Listed(listed.unwrap_or_else(lost)),
        }
    }

    /// Hands an event to the bridge, if there is one, and lets it do what is due.
    pub(crate) fn handle(&mut self, event: Option<Event>, now: Instant) {
        if let Some(event) = event {
            self.bridge.handle(event, now);
        }
        if self.bridge.poll_timeout().is_some_and(|at| at <= now) {
            self.bridge.handle_timeout(now);
        }
    }

    /// Performs an action on a plug or the account; returns any other.
    pub(crate) fn perform(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Perform(exchange) => self.transport.perform(exchange),
            Action::Abandon(exchange) => self.transport.abandon(exchange),
            Action::ListAccount => self.list_account(),
            other => return Some(other),
        }
        None
    }

    fn list_account(&mut self) {
        if let Some(cloud) = self.transport.cloud().cloned() {
            self.lists.spawn(async move { cloud.list().await });
        }
    }
}

fn lost(error: JoinError) -> Result<Vec<Row>, CloudError> {
    Err(CloudError::Down(format!("the request for the device list was lost: {error}").into()))
}

/// The account's client, if there is an account, and its events.
pub(crate) struct CloudAccount {
    pub(crate) cloud: Option<Cloud>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

impl CloudAccount {
    /// The account of the config, with the tokens in `tokens`; reads files. Refused logins and used calls in `memory`
    /// count for it too. If this machine lacks something for it, only the LAN is used and the cloud counts as stopped.
    pub(crate) fn start(
        config: &Config,
        tokens: TokenFile,
        terminal: Uuid,
        memory: &AccountMemory,
    ) -> Result<Self, CloudStartError> {
        let Some(cloud) = &config.cloud else { return Ok(Self::none()) };
        let (sender, events) = mpsc::unbounded_channel();
        let known = tokens.load().unwrap_or_else(|why| {
            tracing::warn!("{why}");
            None
        });
        let (options, token_store) = (cloud.options.clone(), Arc::new(tokens));
        let cloud = match Cloud::start(options, terminal, known, token_store, sender.clone(), memory.clone())
        {
            Ok(cloud) => Some(cloud),
            Err(error @ CloudStartError::NoAuthorities) => {
                // `events` is its receiver, so this cannot fail.
                let _ = sender.send(Event::Cloud(CloudStatus::Stopped(error.to_string().into())));
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { cloud, events })
    }

    /// No account.
    pub(crate) fn none() -> Self {
        Self { cloud: None, events: mpsc::unbounded_channel().1 }
    }
}
