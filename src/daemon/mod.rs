//! The loop: carries events into the bridge and its actions out, reads the one clock, and owns the life of every
//! room from start to drain. It decides nothing about plugs.

pub(crate) mod driver;
mod event_log;
mod figures;
mod frontends;
pub(crate) mod lan_login;
mod mqtt_frontend;
mod reload;
pub mod signals;
mod systemd;
mod wall_clock;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep_until, timeout};

use crate::bridge::event::{Action, BridgeInfo, CloudStatus, Event, RequestId, Sighting, Update};
use crate::bridge::{Bridge, Settings};
use crate::config::Config;
use crate::logging::Repeated;
use crate::mqtt::broker::BrokerError;
use crate::store::{Store, Unwritable};
use crate::transport::cloud::CloudStartError;
use crate::transport::cloud::session::AccountMemory;
use crate::transport::discovery::Discovery;
use driver::{CloudAccount, Driver, Incoming};
use event_log::EventLog;
use frontends::{FrontendEvent, Frontends};
use lan_login::LanLogin;
pub(crate) use reload::ReadConfig;
use reload::{AccountBefore, BrokerMove, Moved, NewConfig, Reload, ReloadError, ReloadStep};
use signals::SignalRequest;
use systemd::Systemd;
use wall_clock::{ReadClock, WallClock};

/// Changes that come together are written down together.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// What could not be written is tried again after this time: somebody may have made room.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// Exchanges that are under way at the end get this long; systemd waits longer than all of this together.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);
/// With nothing to do the loop turns once in this time.
const IDLE: Duration = Duration::from_secs(60);
/// The state of a link that has said nothing.
const NOT_CONNECTED_YET: &str = "not connected yet";

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The embedded broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The cloud wire.
    #[error(transparent)]
    Cloud(#[from] CloudStartError),
}

/// All rooms, and the loop that joins them.
pub struct Daemon {
    driver: Driver,
    discovery: Option<Discovery>,
    frontends: Frontends,
    store: Store,
    /// What is known of the account since the start, over all configs.
    account: AccountMemory,
    state_dir: PathBuf,
    save_at: Option<Instant>,
    saving: JoinSet<Result<(), Unwritable>>,
    unsaved: Repeated,
    config: Config,
    read_config: Arc<ReadConfig>,
    reload: Reload,
    systemd: Systemd,
    wall_clock: WallClock,
    news: EventLog,
    /// What the status line says.
    info: BridgeInfo,
    link_state: Result<(), String>,
}

impl Daemon {
    /// Builds every room. No network is waited for: what is out of reach is tried until it is there.
    pub async fn start(
        mut config: Config,
        store: Store,
        state_dir: PathBuf,
        read_config: ReadConfig,
    ) -> Result<Self, StartError> {
        let account = AccountMemory::default();
        let choice = config.mqtt(store.instance(), &state_dir);
        let frontends = Frontends::start(choice, account.refused.clone()).await?;
        let cloud = CloudAccount::start(&config, store.token_file(), store.terminal(), &account)?;
        let lan_login = LanLogin::load(&config, &store.hash_file());
        let settings = settings(&mut config, &store);
        Ok(Self {
            driver: Driver::new(Bridge::new(settings, Instant::now()), cloud, lan_login),
            discovery: config.discovery.clone().map(Discovery::start),
            frontends,
            store,
            account,
            state_dir,
            save_at: None,
            saving: JoinSet::new(),
            unsaved: Repeated::default(),
            config,
            read_config: Arc::new(read_config),
            reload: Reload::default(),
            systemd: Systemd::default(),
            wall_clock: WallClock::default(),
            news: EventLog::default(),
            info: BridgeInfo::default(),
            link_state: Err(NOT_CONNECTED_YET.to_owned()),
        })
    }

    /// Has dates come from another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, read: ReadClock) -> Self {
        self.wall_clock = WallClock::new(read);
        self
    }

    /// Where the embedded broker listens, if there is one.
    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.frontends.mqtt.broker_address()
    }

    /// Turns until asked to stop, then drains: exchanges under way end or are dropped, plugs and bridge go `offline`
    /// at the broker, and what is worth keeping is written.
    pub async fn run(mut self, mut requests: mpsc::Receiver<SignalRequest>) {
        self.carry_out(Instant::now());
        self.systemd.ready();
        self.tell_status();
        let watchdog = self.systemd.watchdog_interval().unwrap_or(IDLE);
        let mut alive_at = Instant::now() + watchdog;
        loop {
            let wake = self.wake_at().min(alive_at);
            let event = tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(SignalRequest::Reload) => { self.reload(None); None }
                    Some(SignalRequest::Figures) => { self.tell_figures(); None }
                    Some(SignalRequest::Stop) | None => break,
                },
                incoming = self.driver.next() => take_in(incoming),
                incoming = self.frontends.next() => self.take_in_from_frontend(incoming),
                step = self.reload.next() => { self.continue_reload(step); None }
                Some(saved) = self.saving.join_next() => { self.saved(saved.ok()); None }
                sighting = heard(&mut self.discovery) => Some(Event::Sighted(sighting)),
                () = sleep_until(wake.into()) => None,
            };
            let now = Instant::now();
            let is_command = matches!(event, Some(Event::Command { .. }));
            if let Some(event) = &event {
                self.news.look_at(event);
            }
            self.driver.handle(event, now);
            if self.wall_clock.was_set() {
                self.driver.bridge.republish_dates(now);
            }
            if alive_at <= now {
                self.systemd.alive();
                alive_at = now + watchdog;
            }
            self.carry_out(now);
            if is_command {
                // What it leads to goes out before anything else is looked at.
                yield_now().await;
            }
            self.news.look_at_cloud(&self.info, now);
        }
        self.drain().await;
    }

    // --- in -----------------------------------------------------------------------------------------------------

    fn wake_at(&self) -> Instant {
        let save_at = self.save_at.filter(|_| self.saving.is_empty());
        let idle = Instant::now() + IDLE;
        [self.driver.bridge.poll_timeout(), save_at].into_iter().flatten().fold(idle, Instant::min)
    }

    fn take_in_from_frontend(&mut self, incoming: FrontendEvent) -> Option<Event> {
        match incoming {
            FrontendEvent::Bridge(event) => return Some(event),
            FrontendEvent::Reload(id) => self.reload(Some(id)),
            FrontendEvent::Broker(state) => {
                self.link_state = state;
                self.tell_status();
            }
            FrontendEvent::Empty => self.driver.bridge.republish(Instant::now()),
        }
        None
    }

    // --- out ----------------------------------------------------------------------------------------------------

    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.driver.bridge.poll_action() {
            match self.driver.perform(action) {
                Some(Action::Publish(update)) => self.publish(update, now),
                Some(Action::Discover { probe }) => {
                    if let Some(discovery) = &self.discovery {
                        discovery.look(probe);
                    }
                }
                Some(Action::Remember(plug)) => {
                    self.store.remember(plug);
                    self.save_at.get_or_insert(now + SAVE_AFTER);
                }
                Some(Action::Forget(device_id)) => {
                    self.store.forget(&device_id);
                    self.save_at.get_or_insert(now + SAVE_AFTER);
                }
                Some(Action::Perform(_) | Action::Abandon(_) | Action::ListAccount) | None => {}
            }
        }
        // With the rest; the account has tried it just now.
        if self.save_at.is_none() && self.saving.is_empty() && self.store.has_unsaved_tokens() {
            self.save_at = Some(now + SAVE_AGAIN);
        }
        if self.save_at.is_some_and(|at| at <= now) && self.saving.is_empty() {
            self.save();
        }
    }

    fn publish(&mut self, update: Update, now: Instant) {
        self.news.tell(&update, now);
        if let Update::Bridge(info) = &update {
            self.info = info.clone();
            self.tell_status();
        }
        self.frontends.publish(update, self.wall_clock.at(now));
    }

    fn tell_status(&mut self) {
        self.systemd.status(&self.info, &self.link_state);
    }

    fn tell_figures(&self) {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let exchanges = self.driver.transport.under_way();
        let (bridge, now) = (&self.driver.bridge, Instant::now());
        let waiting: Vec<_> = bridge.waiting(now).collect();
        for line in figures::lines(&bridge.snapshot(), &waiting, now, exchanges, tasks) {
            tracing::info!("{line}");
        }
    }

    /// Writes off the loop: a disk may take its time, a command may not wait for it.
    fn save(&mut self) {
        self.save_at = None;
        if let Some(snapshot) = self.store.snapshot() {
            self.saving.spawn_blocking(move || snapshot.write());
        }
    }

    /// A writing ended; `None` if it was lost.
    fn saved(&mut self, result: Option<Result<(), Unwritable>>) {
        let now = Instant::now();
        self.store.written(result.as_ref());
        match result {
            Some(Ok(())) => {
                if let Some(past) = self.unsaved.ended(now) {
                    tracing::info!("names and addresses are saved again {past}");
                }
                return;
            }
            Some(Err(error)) if error.is_of_tokens() => tracing::debug!("{error}"),
            Some(Err(error)) if self.unsaved.failed(&error.to_string(), now).is_some() => {
                tracing::warn!("{error}");
            }
            Some(Err(_)) | None => {}
        }
        self.save_at = Some(now + SAVE_AGAIN);
    }

    // --- reload and end -----------------------------------------------------------------------------------------

    /// Begins to read the config again, or puts that off until the reload under way has ended.
    fn reload(&mut self, requested_by: Option<RequestId>) {
        if self.reload.request(requested_by) {
            self.begin_reload();
        }
    }

    fn begin_reload(&mut self) {
        self.systemd.reloading();
        let account = AccountBefore {
            options: self.config.cloud.as_ref().map(|cloud| cloud.options.clone()),
            tokens: self.store.token_file(),
            hashes: self.store.hash_file(),
            terminal: self.store.terminal(),
            memory: self.account.clone(),
        };
        self.reload.read(Arc::clone(&self.read_config), account);
    }

    fn continue_reload(&mut self, step: ReloadStep) {
        match step {
            ReloadStep::Read(Ok(new)) => self.follow(*new),
            ReloadStep::Read(Err(error)) => self.end_reload(Err(error)),
            ReloadStep::Moved(moved) => {
                let result = self.adopt(*moved);
                self.end_reload(result.map_err(ReloadError::Rejected));
            }
        }
    }

    /// What can fail goes first, so that a config is taken over as a whole or not at all.
    fn follow(&mut self, new: NewConfig) {
        let choice = new.config.mqtt(self.store.instance(), &self.state_dir);
        let broker = (!self.frontends.mqtt.runs_with(&choice)).then(|| {
            let (session, starter) = self.frontends.mqtt.leave();
            BrokerMove { session, starter, choice }
        });
        let cloud = self.driver.transport.cloud().cloned();
        self.reload.follow(new, broker, cloud, self.store.token_file());
    }

    fn adopt(&mut self, moved: Moved) -> Result<(), String> {
        let Moved { new: NewConfig { mut config, account, lan_login }, mqtt, result } = moved;
        let now = Instant::now();
        if let Some(session) = mqtt {
            self.frontends.mqtt.install(session);
            self.link_state = Err(NOT_CONNECTED_YET.to_owned());
            // The link is another one even where it leads to the old broker, and knows nothing yet.
            self.driver.bridge.republish(now);
        }
        result?;
        let is_other_account = account.is_some();
        if let Some(account) = account {
            self.driver.set_account(account);
        }
        self.driver.set_lan_login(lan_login);
        if config.discovery != self.config.discovery {
            self.discovery = config.discovery.clone().map(Discovery::start);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        self.driver.bridge.reload(settings(&mut config, &self.store), now);
        if is_other_account {
            // What the other account says is published even if the one before said the same.
            let not_asked = CloudStatus::Down(CloudStatus::NOT_ASKED.into());
            self.driver.bridge.handle(Event::Cloud(not_asked), now);
        }
        self.config = config;
        Ok(())
    }

    fn end_reload(&mut self, result: Result<(), ReloadError>) {
        const NOT_TAKEN_OVER: &str = "the config was not taken over, the old one stays";
        match &result {
            Ok(()) => tracing::info!("the config was read again"),
            // The config may be right.
            Err(error @ ReloadError::Unread(_)) => tracing::warn!("{NOT_TAKEN_OVER}: {error}"),
            Err(error) => tracing::error!("{NOT_TAKEN_OVER}: {error}"),
        }
        let (requested_by, goes_on) = self.reload.end();
        self.answer_reload(requested_by, &result.map_err(|error| error.to_string()));
        self.systemd.ready();
        self.tell_status();
        if goes_on {
            self.begin_reload();
        }
    }

    fn answer_reload(&self, requested_by: Vec<RequestId>, result: &Result<(), String>) {
        let clock = self.wall_clock.at(Instant::now());
        for id in requested_by {
            self.frontends.publish(Update::Response { id, result: result.clone() }, clock);
        }
    }

    async fn drain(mut self) {
        self.systemd.stopping();
        let reload = self.reload.stop();
        let finish = async {
            while !self.driver.transport.is_idle() {
                let (exchange, outcome) = self.driver.transport.next().await;
                self.driver.bridge.handle(Event::Done { exchange, outcome }, Instant::now());
                while let Some(action) = self.driver.bridge.poll_action() {
                    match action {
                        Action::Publish(update) => {
                            self.frontends.publish(update, self.wall_clock.at(Instant::now()));
                        }
                        Action::Remember(plug) => self.store.remember(plug),
                        _ => {}
                    }
                }
            }
        };
        let (finished, (session, requested_by)) = tokio::join!(timeout(FINISH_WITHIN, finish), reload);
        if finished.is_err() {
            tracing::debug!("dropping what plugs have not answered yet");
        }
        if let Some(session) = session {
            self.frontends.mqtt.install(Some(session));
        }
        self.answer_reload(requested_by, &Err("the daemon stops".to_owned()));
        self.driver.transport.close();
        self.frontends.stop().await;
        // What is being written must not come after what is written last.
        while let Some(saved) = self.saving.join_next().await {
            self.saved(saved.ok());
        }
        if let Err(error) = self.store.save() {
            tracing::warn!("{error}");
        }
    }
}

/// What the bridge is told. The list of plugs goes over to it: there may be ten thousand, and nobody else asks for them.
fn settings(config: &mut Config, store: &Store) -> Settings {
    let plugs = std::mem::take(&mut config.bridge.plugs);
    Settings { plugs, known: store.known_plugs(), ..config.bridge.clone() }
}

fn take_in(incoming: Incoming) -> Option<Event> {
    match incoming {
        Incoming::Event(event) => return Some(event),
        Incoming::Listed(Ok(_)) => {}
        Incoming::Listed(Err(error)) => {
            tracing::debug!(%error, "the account's device list could not be read");
        }
    }
    None
}

async fn heard(discovery: &mut Option<Discovery>) -> Sighting {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}
