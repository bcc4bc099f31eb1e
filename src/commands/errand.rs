//! One order to one plug without a daemon: the same bridge and the same wires, for as long as it takes.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::Failed;
use crate::bridge::event::{Action, CommandId, CommandResult, Event, PlugInfo, PlugState, Update};
use crate::bridge::{Bridge, PlugSettings, Settings};
use crate::config::Config;
use crate::model::{Order, PlugName};
use crate::store::Store;
use crate::transport::Transport;
use crate::transport::cloud::Cloud;

/// The only command of its bridge.
const THE_COMMAND: CommandId = CommandId(1);
/// For the loop to turn while nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// How an errand ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: CommandResult,
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<PlugInfo>,
}

/// Carries one order to a plug and waits for its result, which comes within the entry's `command_ttl`.
pub(super) async fn run(mut entry: PlugSettings, mut account: Account, order: Order) -> Done {
    let plug = entry.name.get_or_insert_with(PlugName::placeholder).clone();
    // Whose device id is known, of him the account's list tells nothing that is needed here.
    let is_nameless = entry.identity.device_id.is_none() && entry.identity.mac.is_some();
    let settings = Settings {
        policy: entry.policy,
        plugs: vec![entry],
        known: Vec::new(),
        adopt: false,
        cloud: account.cloud.is_some(),
    };
    let mut transport = Transport::new(account.cloud.take());
    let mut bridge = Bridge::new(settings, Instant::now());
    bridge.handle(Event::Command { id: THE_COMMAND, plug, order }, Instant::now());
    let (mut state, mut info) = (None, None);
    loop {
        while let Some(action) = bridge.poll_action() {
            match action {
                Action::Perform(exchange) => transport.perform(exchange),
                Action::Abandon(exchange) => transport.abandon(exchange),
                Action::Publish(Update::State(_, told)) => state = Some(told),
                Action::Publish(Update::Info(_, told)) => info = Some(told),
                Action::Publish(Update::Result(result)) => return Done { result, state, info },
                Action::ListAccount if is_nameless => list(transport.cloud()),
                Action::Publish(_) | Action::Discover { .. } | Action::ListAccount => {}
                Action::Remember(_) | Action::Forget(_) => {}
            }
        }
        let wake = bridge.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
        let event = tokio::select! {
            (exchange, outcome) = transport.next() => Some(Event::Done { exchange, outcome }),
            Some(event) = account.events.recv() => Some(event),
            () = sleep_until(wake.into()) => None,
        };
        match event {
            Some(event) => bridge.handle(event, Instant::now()),
            None => bridge.handle_timeout(Instant::now()),
        }
    }
}

/// The list itself comes as an event.
fn list(cloud: Option<&Cloud>) {
    let Some(cloud) = cloud.cloned() else { return };
    tokio::spawn(async move {
        if let Err(error) = cloud.list().await {
            tracing::debug!(%error, "the account's device list could not be read");
        }
    });
}

/// The cloud wire of the config, if there is one, and what it tells.
pub(super) struct Account {
    pub(super) cloud: Option<Cloud>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
}

impl Account {
    pub(super) fn of(config: &Config, store: &Store) -> Result<Self, Failed> {
        let (tell, events) = mpsc::unbounded_channel();
        let cloud =
            crate::daemon::start_cloud(config, store, tell).map_err(crate::daemon::StartError::from)?;
        Ok(Self { cloud, events })
    }
}
