//! One order to one plug without a daemon: the same bridge and the same wires, for as long as it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::Failed;
use crate::bridge::event::{Action, CommandId, CommandResult, Event, PlugInfo, PlugState, Update};
use crate::bridge::{Bridge, PlugSettings, Settings};
use crate::config::Config;
use crate::model::{Order, PlugName};
use crate::smarthome::message::Outlet;
use crate::store::Store;
use crate::transport::Transport;
use crate::transport::cloud::Cloud;

/// The only command under way at its bridge.
const THE_COMMAND: CommandId = CommandId(1);
/// For the loop to turn while nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// How an errand ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: CommandResult,
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<Arc<PlugInfo>>,
}

/// Carries one order to a plug, or to one outlet of a strip, and waits for its result. It comes within the entry's
/// `command_ttl`; for an outlet, which has to be asked for first, within twice that.
pub(super) async fn run(
    mut entry: PlugSettings,
    outlet: Option<Outlet>,
    mut account: Account,
    order: Order,
) -> Done {
    let device = entry.name.get_or_insert_with(PlugName::placeholder).clone();
    // Whose device id is known, of him the account's list tells nothing that is needed here.
    let is_nameless = entry.identity.device_id.is_none() && entry.identity.mac.is_some();
    let settings = Settings {
        policy: entry.policy,
        plugs: vec![entry],
        known: Vec::new(),
        adopt: false,
        cloud: account.cloud.is_some(),
    };
    let mut errand = Errand {
        transport: Transport::new(account.cloud.take()),
        bridge: Bridge::new(settings, Instant::now()),
        events: account.events,
        is_nameless,
    };
    let Some(outlet) = outlet else { return errand.carry(device, order).await };
    let asked = errand.carry(device, Order::Read).await;
    let name = asked.info.as_ref().and_then(|info| info.outlets.get(usize::from(outlet))).cloned();
    match name {
        Some(name) => errand.carry(name, order).await,
        None => asked,
    }
}

/// A bridge and its wires, for one command after another.
struct Errand {
    transport: Transport,
    bridge: Bridge,
    events: mpsc::UnboundedReceiver<Event>,
    /// Only the account can tell its device id.
    is_nameless: bool,
}

impl Errand {
    async fn carry(&mut self, plug: PlugName, order: Order) -> Done {
        self.bridge.handle(Event::Command { id: THE_COMMAND, plug: plug.clone(), order }, Instant::now());
        self.bridge.republish(Instant::now());
        let (mut state, mut info) = (None, None);
        loop {
            while let Some(action) = self.bridge.poll_action() {
                match action {
                    Action::Perform(exchange) => self.transport.perform(exchange),
                    Action::Abandon(exchange) => self.transport.abandon(exchange),
                    Action::Publish(Update::State(of, told)) if of == plug => state = Some(told),
                    Action::Publish(Update::Info(of, told)) if of == plug => info = Some(told),
                    Action::Publish(Update::Result(result)) => return Done { result, state, info },
                    Action::ListAccount if self.is_nameless => list(self.transport.cloud()),
                    Action::Publish(_) | Action::Discover { .. } | Action::ListAccount => {}
                    Action::Remember(_) | Action::Forget(_) => {}
                }
            }
            let wake = self.bridge.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
            let event = tokio::select! {
                (exchange, outcome) = self.transport.next() => Some(Event::Done { exchange, outcome }),
                Some(event) = self.events.recv() => Some(event),
                () = sleep_until(wake.into()) => None,
            };
            match event {
                Some(event) => self.bridge.handle(event, Instant::now()),
                None => self.bridge.handle_timeout(Instant::now()),
            }
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
