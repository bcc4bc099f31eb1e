//! The main loop: carries events into the bridge and its actions out, reads the one clock, and starts and stops every
//! module. It decides nothing about plugs.

pub(crate) mod driver;
mod event_log;
mod figures;
mod frontends;
mod http_frontend;
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
use crate::config::{BrokerConfig, Config, MqttChoice};
use crate::http::HttpOptions;
use crate::http::calls::{Portion, PortionRequest, ShowRequest};
use crate::http::overview::{BrokerStatus, DaemonInfo, Selection};
use crate::logging::Repeated;
use crate::mqtt::LoginSource;
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

/// Changes of the store within this time are written together.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// A failed write is tried again after this time: the disk may have room again.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// How long exchanges under way may take when the daemon stops; systemd waits longer than all of the stop.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);
/// The loop turns at least this often.
const IDLE: Duration = Duration::from_secs(60);
/// Why a config with another instance is not used.
const OTHER_INSTANCE: &str = "mqtt.instance is another one, and this daemon keeps its own: restart it";
/// The state of a connection before its first report.
const NOT_CONNECTED_YET: &str = "not connected yet";
/// The same while no broker is named.
const NO_BROKER_YET: &str = "no broker is named yet: the log says why";

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The embedded broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The client of the cloud.
    #[error(transparent)]
    Cloud(#[from] CloudStartError),
}

/// The modules, and the loop that connects them.
pub struct Daemon {
    driver: Driver,
    discovery: Option<Discovery>,
    frontends: Frontends,
    store: Store,
    /// Refused logins and used calls since the start, over all configs.
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
    event_log: EventLog,
    /// The content of the status line.
    info: BridgeInfo,
    link_state: Result<String, String>,
}

impl Daemon {
    /// Starts every module. It waits for no network: what cannot be reached is tried again until it can.
    ///
    /// When the broker refuses the login, `source` is asked whether there is another one. A reload brings it.
    pub async fn start(
        mut config: Config,
        store: Store,
        state_dir: PathBuf,
        read_config: ReadConfig,
        source: LoginSource,
    ) -> Result<Self, StartError> {
        let account = AccountMemory::default();
        let choice = config.mqtt(store.instance(), &state_dir);
        let link_state = not_connected(&choice);
        let daemon_info = DaemonInfo {
            instance: config.instance(store.instance()).into(),
            started: Instant::now(),
            cloud_requests: account.requests.clone(),
        };
        let frontends =
            Frontends::start(choice, listeners(&config), daemon_info, account.refused.clone(), source)
                .await?;
        let cloud = CloudAccount::start(&config, store.token_file(), store.terminal(), &account)?;
        let lan_login = LanLogin::load(&config, &store.hash_file());
        let settings = settings(&mut config, &store);
        let store_is_due = store.is_due();
        Ok(Self {
            driver: Driver::new(Bridge::new(settings, Instant::now()), cloud, lan_login),
            discovery: config.discovery.clone().map(Discovery::start),
            frontends,
            store,
            account,
            state_dir,
            // What could not be written when the store was opened.
            save_at: store_is_due.then(|| Instant::now() + SAVE_AGAIN),
            saving: JoinSet::new(),
            unsaved: Repeated::default(),
            config,
            read_config: Arc::new(read_config),
            reload: Reload::default(),
            systemd: Systemd::default(),
            wall_clock: WallClock::default(),
            event_log: EventLog::default(),
            info: BridgeInfo::default(),
            link_state,
        })
    }

    /// Takes dates from this clock instead of the system's.
    #[must_use]
    pub fn with_clock(mut self, read: ReadClock) -> Self {
        self.wall_clock = WallClock::new(read);
        self
    }

    /// The address of the embedded broker, if it runs.
    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.frontends.mqtt.broker_address()
    }

    /// Where HTTP is served, if it is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.frontends.http.address()
    }

    /// Runs until a request to stop. Then exchanges under way end or are dropped, plugs and bridge become `offline` at
    /// the broker, and the store is written.
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
                self.event_log.log_unread(event);
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
                // Actions of this turn are carried out before the next event.
                yield_now().await;
            }
            self.event_log.log_cloud(&self.info, now);
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
                self.show_bridge(Instant::now());
            }
            FrontendEvent::Show(request) => self.show(request),
            FrontendEvent::Portion(PortionRequest { first, portion }) => {
                let (plugs, next) = self.driver.bridge.snapshot_portion(first);
                // An error means that the client has gone.
                let _ = portion.send(Portion { plugs, next });
            }
            FrontendEvent::Empty => self.driver.bridge.republish(Instant::now()),
        }
        None
    }

    fn show(&mut self, request: ShowRequest) {
        let bridge = &self.driver.bridge;
        let snapshot = match request.selection() {
            Selection::Bridge => bridge.snapshot_without_plugs(),
            Selection::Plug(name) => bridge.snapshot_of(name),
            Selection::Plugs => bridge.snapshot(),
        };
        let (broker, clock) = (self.broker_status(), self.wall_clock.at(Instant::now()));
        self.frontends.http.show(request, snapshot, broker, clock);
    }

    fn broker_status(&self) -> BrokerStatus {
        let is_embedded = matches!(self.config.broker, BrokerConfig::Embedded { .. });
        BrokerStatus { is_embedded, link: self.link_state.clone() }
    }

    /// Something about the bridge itself changed.
    fn show_bridge(&mut self, now: Instant) {
        self.tell_status();
        let (broker, clock) = (self.broker_status(), self.wall_clock.at(now));
        let bridge = &self.driver.bridge;
        self.frontends.http.show_bridge(|| bridge.snapshot_without_plugs(), broker, clock);
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
        // Tried again with the other changes: the account could not save them a moment ago.
        if self.save_at.is_none() && self.saving.is_empty() && self.store.has_unsaved_tokens() {
            self.save_at = Some(now + SAVE_AGAIN);
        }
        if self.save_at.is_some_and(|at| at <= now) && self.saving.is_empty() {
            self.save();
        }
    }

    fn publish(&mut self, update: Update, now: Instant) {
        self.event_log.log(&update, now);
        if let Update::Bridge(info) = &update {
            self.info = info.clone();
            self.show_bridge(now);
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
        let broker = self.link_state.as_deref().ok();
        for line in figures::lines(&bridge.snapshot(), &waiting, now, exchanges, tasks, broker) {
            tracing::info!("{line}");
        }
    }

    /// Writes the store in a task, because a slow disk must not delay commands.
    fn save(&mut self) {
        self.save_at = None;
        if let Some(snapshot) = self.store.snapshot() {
            self.saving.spawn_blocking(move || snapshot.write());
        }
    }

    /// A write ended; `None` if its task was lost.
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

    /// Starts a reload, or queues one behind the reload under way.
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

    /// Steps that can fail come first, so that the config is used as a whole or not at all.
    fn follow(&mut self, new: NewConfig) {
        let drawn = self.store.instance();
        if new.config.instance(drawn) != self.config.instance(drawn) {
            return self.end_reload(Err(ReloadError::Rejected(OTHER_INSTANCE.to_owned())));
        }
        let choice = new.config.mqtt(self.store.instance(), &self.state_dir);
        let mut broker = None;
        if !self.frontends.mqtt.runs_with(&choice) {
            if let Err(error) = self.frontends.mqtt.check(&choice) {
                return self.end_reload(Err(ReloadError::Rejected(error.to_string())));
            }
            broker = Some(self.leave_broker(choice));
        }
        let cloud = self.driver.transport.cloud().cloned();
        self.reload.follow(new, broker, cloud, self.store.token_file());
    }

    /// A client that requested the reload over MQTT gets its response where it listens. If it stays connected while our
    /// connection is replaced, that is on the new connection: a command that it sends after the response is received.
    /// Otherwise it is the last message on the old one, because the client is not at the new broker. The config was
    /// checked by then, so that the response says `ok` before the change.
    fn leave_broker(&mut self, choice: MqttChoice) -> BrokerMove {
        let is_same_broker = self.frontends.mqtt.is_same_broker(&choice);
        if !is_same_broker {
            let requested_by = self.reload.take_requests();
            self.answer_reload(requested_by, &Ok(()));
        }
        let (session, starter) = self.frontends.mqtt.leave();
        // The new connection may report its state before it is installed.
        self.link_state = not_connected(&choice);
        BrokerMove { session, starter, choice, is_same_broker }
    }

    fn adopt(&mut self, moved: Moved) -> Result<(), String> {
        let Moved { new: NewConfig { mut config, account, lan_login }, mqtt, result } = moved;
        let now = Instant::now();
        if let Some(session) = mqtt {
            self.frontends.mqtt.install(session);
            // The connection is a new one, even to the same broker, and has nothing to publish yet.
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
        self.frontends.http.serve(listeners(&config));
        self.frontends.http.begin(|| self.driver.bridge.snapshot(), now);
        self.driver.bridge.reload(settings(&mut config, &self.store), now);
        if is_other_account {
            // The status of the new account is published even if it equals that of the old one.
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
            // The config may be valid.
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

    fn answer_reload(&mut self, requested_by: Vec<RequestId>, result: &Result<(), String>) {
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
        // The write under way must end before the last write starts.
        while let Some(saved) = self.saving.join_next().await {
            self.saved(saved.ok());
        }
        if let Err(error) = self.store.save() {
            tracing::warn!("{error}");
        }
    }
}

/// That of `[http]`, and the one behind Home Assistant's proxy.
fn listeners(config: &Config) -> [Option<HttpOptions>; 2] {
    [config.http.clone(), config.ingress.map(HttpOptions::from)]
}

/// The state of a connection that has not reported its own.
fn not_connected(choice: &MqttChoice) -> Result<String, String> {
    let why = if *choice == MqttChoice::Awaited { NO_BROKER_YET } else { NOT_CONNECTED_YET };
    Err(why.to_owned())
}

/// The settings of the bridge. The list of plugs is moved into it, not copied: there may be ten thousand, and no other
/// module needs it.
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
