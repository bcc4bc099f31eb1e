//! The loop: carries events into the bridge and its actions out, reads the one clock, and owns the life of every
//! room from start to drain. It decides nothing about plugs.

mod event_log;
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
use tokio::time::{sleep, sleep_until, timeout};

use crate::bridge::event::{Action, BridgeInfo, CloudStatus, Event, Update};
use crate::bridge::{Bridge, Settings};
use crate::config::{Config, Invalid, MqttChoice};
use crate::logging::Repeated;
use crate::mqtt::broker::{self, BrokerError, EmbeddedBroker};
use crate::mqtt::payload::Clock;
use crate::mqtt::{self, Inbound, Link};
use crate::secret::RefusedLogins;
use crate::store::{Store, Unwritable};
use crate::transport::Transport;
use crate::transport::cloud::session::AccountMemory;
use crate::transport::cloud::{Cloud, CloudStartError};
use crate::transport::discovery::Discovery;
use event_log::EventLog;
use signals::SignalRequest;
use systemd::Systemd;
use wall_clock::{ReadClock, WallClock};

/// Changes that come together are written down together.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// What could not be written is tried again after this time: somebody may have made room.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// Exchanges that are under way at the end get this long; systemd waits longer than all of this together.
const FINISH_WITHIN: Duration = Duration::from_millis(1500);
/// The broker gets this long to take the last words.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
/// The embedded broker's port is tried again after this time, so that all is told within 10 s of its being free.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// With nothing to do the loop turns once in this time.
const IDLE: Duration = Duration::from_secs(60);

/// Reads the config again.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, Invalid> + Send + Sync>;

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
    bridge: Bridge,
    transport: Transport,
    cloud_events: mpsc::UnboundedReceiver<Event>,
    discovery: Option<Discovery>,
    left: MqttFrontend,
    store: Store,
    /// What is known of the account since the start, over all configs.
    account: AccountMemory,
    state_dir: PathBuf,
    save_at: Option<Instant>,
    saving: JoinSet<Result<(), Unwritable>>,
    unsaved: Repeated,
    config: Config,
    reread: ReadConfig,
    systemd: Systemd,
    wall_clock: WallClock,
    news: EventLog,
    /// What the status line says.
    info: BridgeInfo,
    link_state: Result<(), String>,
}

/// The link to the broker, and the broker where it is our own.
struct MqttFrontend {
    /// What it was started with; none while nothing runs, so that the next reload tries again.
    choice: Option<MqttChoice>,
    /// None while the embedded broker is waited for: what listens at its port meanwhile is somebody else.
    link: Option<Link>,
    /// Where links leave what comes in.
    tell: mpsc::UnboundedSender<Inbound>,
    inbound: mpsc::UnboundedReceiver<Inbound>,
    broker: Option<EmbeddedBroker>,
    /// The embedded broker that cannot listen yet, in the task that tries it.
    awaited: JoinSet<EmbeddedBroker>,
    /// What brokers have refused, over all links.
    refused: RefusedLogins,
}

impl Daemon {
    /// Builds every room. No network is waited for: what is out of reach is tried until it is there.
    pub async fn start(
        mut config: Config,
        store: Store,
        state_dir: PathBuf,
        reread: ReadConfig,
    ) -> Result<Self, StartError> {
        let account = AccountMemory::default();
        let choice = config.mqtt(store.instance(), &state_dir);
        let left = MqttFrontend::start(choice, IfTaken::Wait, account.refused.clone()).await?;
        let (tell, cloud_events) = mpsc::unbounded_channel();
        let cloud = start_cloud(&config, &store, tell, &account)?;
        let settings = settings(&mut config, &store);
        Ok(Self {
            bridge: Bridge::new(settings, Instant::now()),
            transport: Transport::new(cloud),
            cloud_events,
            discovery: config.discovery.clone().map(Discovery::start),
            left,
            store,
            account,
            state_dir,
            save_at: None,
            saving: JoinSet::new(),
            unsaved: Repeated::default(),
            config,
            reread,
            systemd: Systemd::default(),
            wall_clock: WallClock::default(),
            news: EventLog::default(),
            info: BridgeInfo::default(),
            link_state: Err("not connected yet".to_owned()),
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
        self.left.broker.as_ref().map(EmbeddedBroker::addr)
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
                    Some(SignalRequest::Reload) => { self.reload(None).await; None }
                    Some(SignalRequest::Figures) => { self.tell_figures(); None }
                    Some(SignalRequest::Stop) | None => break,
                },
                (exchange, outcome) = self.transport.next() => Some(Event::Done { exchange, outcome }),
                Some(inbound) = self.left.inbound.recv() => self.take_in(inbound).await,
                Some(Ok(broker)) = self.left.awaited.join_next() => { self.link_to(broker); None }
                Some(event) = self.cloud_events.recv() => Some(event),
                Some(saved) = self.saving.join_next() => { self.saved(saved.ok()); None }
                sighting = heard(&mut self.discovery) => Some(Event::Sighted(sighting)),
                () = sleep_until(wake.into()) => None,
            };
            let now = Instant::now();
            let is_command = matches!(event, Some(Event::Command { .. }));
            if let Some(event) = event {
                self.news.look_at(&event);
                self.bridge.handle(event, now);
            }
            if self.bridge.poll_timeout().is_some_and(|at| at <= now) {
                self.bridge.handle_timeout(now);
            }
            if self.wall_clock.was_set() {
                self.bridge.tell_times(now);
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
        [self.bridge.poll_timeout(), save_at].into_iter().flatten().fold(idle, Instant::min)
    }

    async fn take_in(&mut self, inbound: Inbound) -> Option<Event> {
        match inbound {
            Inbound::Event(event) => return Some(event),
            Inbound::Reload(id) => self.reload(Some(id)).await,
            Inbound::Link(state) => {
                self.link_state = state;
                self.tell_status();
            }
        }
        None
    }

    /// The embedded broker that was waited for listens: everything is told there.
    fn link_to(&mut self, broker: EmbeddedBroker) {
        self.left.connect(broker);
        self.bridge.republish(Instant::now());
    }

    // --- out ----------------------------------------------------------------------------------------------------

    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.bridge.poll_action() {
            match action {
                Action::Perform(exchange) => self.transport.perform(exchange),
                Action::Abandon(exchange) => self.transport.abandon(exchange),
                Action::Publish(update) => self.publish(update, now),
                Action::Discover { probe } => {
                    if let Some(discovery) = &self.discovery {
                        discovery.look(probe);
                    }
                }
                Action::ListAccount => self.list_account(),
                Action::Remember(plug) => {
                    self.store.remember(plug);
                    self.save_at.get_or_insert(now + SAVE_AFTER);
                }
                Action::Forget(device_id) => {
                    self.store.forget(&device_id);
                    self.save_at.get_or_insert(now + SAVE_AFTER);
                }
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
        self.left.publish(update, self.wall_clock.at(now));
    }

    fn tell_status(&mut self) {
        self.systemd.status(&self.info, &self.link_state);
    }

    /// Figures that stay where they are while all is well: what grows here without more plugs is a leak.
    fn tell_figures(&self) {
        let BridgeInfo { plugs, online, .. } = self.info;
        let exchanges = self.transport.under_way();
        let tasks = Handle::current().metrics().num_alive_tasks();
        tracing::info!("figures plugs={plugs} online={online} exchanges={exchanges} tasks={tasks}");
    }

    /// The list itself comes as an event.
    fn list_account(&self) {
        let Some(cloud) = self.transport.cloud().cloned() else { return };
        tokio::spawn(async move {
            if let Err(error) = cloud.list().await {
                tracing::debug!(%error, "the account's device list could not be read");
            }
        });
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

    /// Takes a new config over, or says what is wrong with it and keeps the old one.
    async fn reload(&mut self, asked_by: Option<crate::bridge::event::RequestId>) {
        self.systemd.reloading();
        let result = match (self.reread)() {
            Ok(config) => self.adopt(config).await,
            Err(invalid) => Err(invalid.lines.join("; ")),
        };
        match &result {
            Ok(()) => tracing::info!("the config was read again"),
            Err(why) => tracing::error!("the config was not taken over, the old one stays: {why}"),
        }
        if let Some(id) = asked_by {
            self.left.publish(Update::Response { id, result }, self.wall_clock.at(Instant::now()));
        }
        self.systemd.ready();
    }

    /// What can fail goes first, so that a config is taken over as a whole or not at all.
    async fn adopt(&mut self, mut config: Config) -> Result<(), String> {
        let same_account = config.cloud.as_ref().map(|cloud| &cloud.options)
            == self.config.cloud.as_ref().map(|cloud| &cloud.options);
        // Whoever logged out took the token away; the one in memory goes with it.
        let is_other = !same_account || self.store.token_file().was_removed();
        let (tell, events) = mpsc::unbounded_channel();
        let other_account = is_other.then(|| start_cloud(&config, &self.store, tell, &self.account));
        let other_account = other_account.transpose().map_err(|error| error.to_string())?;
        let choice = config.mqtt(self.store.instance(), &self.state_dir);
        self.follow_broker(choice).await.map_err(|error| error.to_string())?;
        match other_account {
            None => self.rearm_cloud().await,
            Some(cloud) => {
                if let Some(before) = self.transport.cloud() {
                    before.retire().await;
                }
                self.store.token_file().begin_anew();
                self.transport.set_cloud(cloud);
                self.cloud_events = events;
            }
        }
        if config.discovery != self.config.discovery {
            self.discovery = config.discovery.clone().map(Discovery::start);
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let now = Instant::now();
        self.bridge.reload(settings(&mut config, &self.store), now);
        if is_other {
            // What the other account says is told even where the one before said the same.
            self.bridge.handle(Event::Cloud(CloudStatus::Down(CloudStatus::NOT_ASKED.into())), now);
        }
        self.config = config;
        Ok(())
    }

    async fn follow_broker(&mut self, choice: MqttChoice) -> Result<(), BrokerError> {
        if self.left.choice.as_ref() == Some(&choice) {
            return Ok(());
        }
        let restarted = self.left.restart(choice).await;
        // The link is another one even where it leads to the old broker, and knows nothing yet.
        self.bridge.republish(Instant::now());
        restarted
    }

    async fn rearm_cloud(&self) {
        let Some(cloud) = self.transport.cloud() else { return };
        let tokens = self.store.token_file().load().unwrap_or_else(|why| {
            tracing::warn!("{why}");
            None
        });
        cloud.rearm(tokens).await;
    }

    async fn drain(mut self) {
        self.systemd.stopping();
        let finish = async {
            while !self.transport.is_idle() {
                let (exchange, outcome) = self.transport.next().await;
                self.bridge.handle(Event::Done { exchange, outcome }, Instant::now());
                while let Some(action) = self.bridge.poll_action() {
                    match action {
                        Action::Publish(update) => {
                            self.left.publish(update, self.wall_clock.at(Instant::now()));
                        }
                        Action::Remember(plug) => self.store.remember(plug),
                        _ => {}
                    }
                }
            }
        };
        if timeout(FINISH_WITHIN, finish).await.is_err() {
            tracing::debug!("dropping what plugs have not answered yet");
        }
        self.transport.close();
        self.left.stop().await;
        // What is being written must not come after what is written last.
        while let Some(saved) = self.saving.join_next().await {
            self.saved(saved.ok());
        }
        if let Err(error) = self.store.save() {
            tracing::warn!("{error}");
        }
    }
}

/// What becomes of an embedded broker whose port cannot be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfTaken {
    /// It is waited for, and the plugs are served meanwhile.
    Wait,
    /// It is an error.
    Fail,
}

impl MqttFrontend {
    async fn start(
        choice: MqttChoice,
        if_taken: IfTaken,
        refused: RefusedLogins,
    ) -> Result<Self, BrokerError> {
        let (tell, inbound) = mpsc::unbounded_channel();
        let awaited = JoinSet::new();
        let mut left =
            Self { choice: Some(choice.clone()), link: None, tell, inbound, broker: None, awaited, refused };
        match choice {
            MqttChoice::Outside(options) => left.start_link(options),
            MqttChoice::Embedded { broker: options, .. } => {
                match EmbeddedBroker::start(options.clone()).await {
                    Ok(broker) => left.connect(broker),
                    Err(error) if if_taken == IfTaken::Wait && error.may_pass() => {
                        left.awaited.spawn(wait_for_broker(options, error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(left)
    }

    /// Starts the link to our own broker.
    fn connect(&mut self, broker: EmbeddedBroker) {
        let Some(MqttChoice::Embedded { link, .. }) = &self.choice else { return };
        let options = mqtt::MqttSettings { port: broker.addr().port(), ..link.clone() };
        self.start_link(options);
        self.broker = Some(broker);
    }

    fn start_link(&mut self, options: mqtt::MqttSettings) {
        self.link = Some(Link::start(options, self.refused.clone(), self.tell.clone()));
    }

    /// What is said while there is no link is said again once there is.
    fn publish(&self, update: Update, clock: Clock) {
        if let Some(link) = &self.link {
            link.publish(update, clock);
        }
    }

    /// Says good-bye and begins anew. Where the new broker cannot be started, the old one is started again.
    async fn restart(&mut self, choice: MqttChoice) -> Result<(), BrokerError> {
        self.stop().await;
        let old = self.choice.take();
        let Err(error) = self.begin(choice, IfTaken::Fail).await else { return Ok(()) };
        if let Some(old) = old {
            self.begin(old, IfTaken::Wait).await?;
        }
        Err(error)
    }

    /// Starts in the place of what has stopped.
    async fn begin(&mut self, choice: MqttChoice, if_taken: IfTaken) -> Result<(), BrokerError> {
        *self = Self::start(choice, if_taken, self.refused.clone()).await?;
        Ok(())
    }

    async fn stop(&mut self) {
        self.awaited.shutdown().await;
        let guests = self.broker.as_ref().map_or(0, EmbeddedBroker::clients);
        if let Some(link) = self.link.take() {
            link.stop(FAREWELL_WITHIN).await;
        }
        if let Some(broker) = self.broker.take() {
            broker.see_off(guests).await;
            broker.stop().await;
        }
    }
}

/// Tries until the embedded broker listens. It is said at growing intervals, and once when it does.
async fn wait_for_broker(options: broker::BrokerOptions, mut error: BrokerError) -> EmbeddedBroker {
    let mut failing = Repeated::default();
    loop {
        if failing.failed(&error.to_string(), Instant::now()).is_some() {
            tracing::warn!("{error}; it is waited for, and the plugs are served without MQTT until then");
        }
        sleep(LISTEN_AGAIN).await;
        match EmbeddedBroker::start(options.clone()).await {
            Ok(broker) => {
                let past = failing.ended(Instant::now()).map(|past| format!(" {past}")).unwrap_or_default();
                tracing::info!("the embedded broker listens on {}{past}", broker.addr());
                return broker;
            }
            Err(again) => error = again,
        }
    }
}

/// What the bridge is told. The list of plugs goes over to it: there may be ten thousand, and nobody else asks for them.
fn settings(config: &mut Config, store: &Store) -> Settings {
    let plugs = std::mem::take(&mut config.bridge.plugs);
    Settings { plugs, known: store.known_plugs(), ..config.bridge.clone() }
}

/// The cloud wire of the config, if there is one, with the tokens that are kept. What `account` remembers of refused logins
/// and of calls holds for it too. Where it cannot be started for want of something on this machine, the LAN goes on alone
/// and the cloud counts as stopped.
pub fn start_cloud(
    config: &Config,
    store: &Store,
    tell: mpsc::UnboundedSender<Event>,
    account: &AccountMemory,
) -> Result<Option<Cloud>, CloudStartError> {
    let Some(cloud) = &config.cloud else { return Ok(None) };
    let vault = store.token_file();
    let tokens = vault.load().unwrap_or_else(|why| {
        tracing::warn!("{why}");
        None
    });
    let (options, vault) = (cloud.options.clone(), Arc::new(vault));
    match Cloud::start(options, store.terminal(), tokens, vault, tell.clone(), account.clone()) {
        Err(error @ CloudStartError::NoAuthorities) => {
            let stopped = CloudStatus::Stopped(error.to_string().into());
            // The receiver is held by whoever called.
            let _ = tell.send(Event::Cloud(stopped));
            Ok(None)
        }
        started => started.map(Some),
    }
}

async fn heard(discovery: &mut Option<Discovery>) -> crate::bridge::event::Sighting {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}
