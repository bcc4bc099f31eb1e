//! The bridge with its transport: hands events to the bridge, and performs its actions on plugs and on the account.
//!
//! The daemon and the one-shot commands both drive their bridge with it, so that they behave alike.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use super::lan_login::LanLogin;
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
    lan_login: LanLogin,
    /// How TP-Link spells the account's e-mail address; `None` without an account.
    registered: Option<watch::Receiver<Option<String>>>,
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
    pub(crate) fn new(bridge: Bridge, account: CloudAccount, lan_login: LanLogin) -> Self {
        let CloudAccount { cloud, events } = account;
        let mut driver = Self {
            bridge,
            registered: cloud.as_ref().map(Cloud::registered),
            transport: Transport::new(cloud),
            cloud_events: events,
            lists: JoinSet::new(),
            lan_login,
        };
        driver.update_klap_accounts();
        driver.lan_login.log();
        driver
    }

    /// Uses another account, or none. Exchanges under way end on the one they started with.
    pub(crate) fn set_account(&mut self, account: CloudAccount) {
        self.registered = account.cloud.as_ref().map(Cloud::registered);
        self.transport.set_cloud(account.cloud);
        self.cloud_events = account.events;
        self.update_klap_accounts();
    }

    /// Another account for the LAN, or the same.
    pub(crate) fn set_lan_login(&mut self, lan_login: LanLogin) {
        if self.lan_login != lan_login {
            self.lan_login = lan_login;
            self.lan_login.log();
            self.update_klap_accounts();
        }
    }

    /// The LAN goes on with its sessions if the accounts stay the same.
    fn update_klap_accounts(&mut self) {
        let registered = self.registered.as_mut().and_then(|watch| watch.borrow_and_update().clone());
        self.transport.set_klap_accounts(self.lan_login.accounts(registered.as_deref()));
    }

    /// The next event. Waits for ever while nothing is under way. Cancel safe.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            tokio::select! {
                biased;
                (exchange, outcome) = self.transport.next() => {
                    return Incoming::Event(Event::Done { exchange, outcome });
                }
                Some(event) = self.cloud_events.recv() => return Incoming::Event(event),
                Some(listed) = self.lists.join_next() => {
                    return Incoming::Listed(listed.unwrap_or_else(lost));
                }
                () = changed(&mut self.registered) => self.update_klap_accounts(),
            }
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

/// Waits until a login tells another spelling.
async fn changed(registered: &mut Option<watch::Receiver<Option<String>>>) {
    if let Some(watch) = registered
        && watch.changed().await.is_ok()
    {
        return;
    }
    // There is no account, or its task has ended.
    std::future::pending().await
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
            Err(error @ (CloudStartError::NoAuthorities | CloudStartError::Authorities(_))) => {
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

#[cfg(feature = "sim")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::Settings;
    use crate::bridge::event::{Exchange, Identity, PlugKey, Target};
    use crate::config::paths::{ConfigPath, Environment};
    use crate::model::{Address, Failure, LanProtocol};
    use crate::sim::cloud::account::SimAccount;
    use crate::sim::home::{HomeOptions, SimHome};
    use crate::smarthome::message::Reply;
    use crate::store::Store;
    use std::time::Duration;

    /// Far longer than anything here takes.
    const BOUND: Duration = Duration::from_secs(20);

    async fn read(driver: &mut Driver, address: &Address) -> Result<Reply, Failure> {
        let target = Target::Local {
            address: address.clone(),
            protocol: LanProtocol::Klap,
            expect: Identity::default(),
        };
        let exchange = Exchange::look(PlugKey(0), "lamp".into(), target, Instant::now() + BOUND);
        driver.transport.perform(exchange);
        loop {
            if let Incoming::Event(Event::Done { outcome, .. }) = driver.next().await {
                return outcome.result;
            }
        }
    }

    #[tokio::test]
    async fn a_login_that_tells_another_spelling_opens_the_plugs_that_hold_it() {
        let mut options = HomeOptions::of(&["Lamp"]);
        options.klap = vec![0];
        options.account = SimAccount::new("Me@Example.com", "pw");
        let home = SimHome::start(options).await.unwrap();
        let url = home.cloud().url();
        let text = format!("[cloud]\nusername = \"ME@example.com\"\npassword = \"pw\"\nurl = {url:?}\n");
        let config = Config::read(&text, &ConfigPath::Nowhere, &Environment::of([])).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path());
        let memory = AccountMemory::default();
        let account = CloudAccount::start(&config, store.token_file(), store.terminal(), &memory).unwrap();
        let lan_login = LanLogin::load(&config, &store.hash_file());
        let bridge = Bridge::new(Settings::default(), Instant::now());
        let mut driver = Driver::new(bridge, account, lan_login);
        let address = Address::from(home.lan().klap_address(home.plug(0)).unwrap());
        assert_eq!(read(&mut driver, &address).await, Err(Failure::OtherAccount));

        driver.transport.cloud().unwrap().list().await.unwrap();
        let opened = async { while read(&mut driver, &address).await.is_err() {} };
        tokio::time::timeout(BOUND, opened).await.expect("the plug stays closed");
    }
}
