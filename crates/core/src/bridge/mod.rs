//! THE DECISIONS, as a value: events in, actions out, `now` as an argument. No socket, no clock, no async.
//!
//! The [`Bridge`] owns every plug and decides which route a command takes, when a plug is read, what counts as done
//! and what is published. Its driver calls [`Bridge::handle`] for each event, [`Bridge::handle_timeout`] at
//! [`Bridge::poll_timeout`], and carries out each action of [`Bridge::poll_action`].

pub mod counters;
mod delivery;
mod desired;
pub mod event;
pub mod failures;
mod identity;
mod interner;
mod lookups;
mod plug;
mod poll_limiter;
mod registry;
mod reload;
pub mod route;
pub mod slug;
pub mod snapshot;
mod timers;
pub mod unserved;
mod unserved_list;
mod unsupported;
mod unsupported_notices;
pub mod waiting;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::model::{Address, Failure, PlugCommand, PlugName, Route, shown};
use crate::smarthome::message::{Reading, Reply, is_plug_kind};
use counters::CommandDurations;
use event::{
    AccountPlug, Action, BridgeCommand, BridgeInfo, CloudStatus, CommandId, CommandResult, DiscoveryReply,
    Ended, Event, ExchangeId, Identity, KnownPlug, Notice, NoticeKind, Outcome, PlugKey, RequestId, Sighting,
    Update,
};
use interner::Interner;
use lookups::Lookups;
use plug::{Ctx, KlapPort, Plug};
use poll_limiter::PollLimiter;
use registry::Registry;
use reload::{PlugsByAddress, RememberedPlugs};
use route::RoutePolicy;
use snapshot::{PlugSnapshot, Snapshot};
use timers::Timers;
use unserved::{UnservedDevice, UnservedDevices};
use unsupported::UnsupportedDevices;
use waiting::{Waiting, WaitingFor};

/// After a start `bridge/state` is `online` once the first round of reads is done, or after this time.
const READY_AFTER: Duration = Duration::from_secs(3);
/// `bridge/info` counts plugs; it is published no more often than this.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// The pauses between searches while a plug is missing.
const SEARCH: Backoff = Backoff::new(FIRST_SEARCH_PAUSE, Duration::from_secs(60));
const FIRST_SEARCH_PAUSE: Duration = Duration::from_secs(2);
/// The account's device list is read this often.
const LIST_EVERY: Duration = Duration::from_secs(1800);
/// The pauses after a failed read of the device list: at boot the network may not be up yet.
const LIST_AGAIN: Backoff = Backoff::new(Duration::from_secs(15), LIST_EVERY);
/// One search asks at most this many last known addresses directly; the next one goes on from there.
const PROBES: usize = 256;
/// The capacity that the queue of actions keeps while it is empty.
const SOME_ACTIONS: usize = 256;
/// The devices of one portion of a snapshot.
const PORTION: usize = 200;
/// No more plugs than this are adopted: a device on the LAN may invent them.
const MOST_PLUGS: usize = 20_000;

/// The bridge's settings, given at the start and at each reload.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// The `[[plug]]` entries of the config.
    pub plugs: Vec<PlugSettings>,
    /// What the store knows about the plugs of earlier runs.
    pub known: Vec<KnownPlug>,
    /// Whether plugs that are found on the LAN or in the account are served, although they have no entry.
    pub adopt: bool,
    /// How plugs without an entry are reached.
    pub policy: RoutePolicy,
    /// Whether the config has an account.
    pub cloud: bool,
}

/// One entry of the config.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugSettings {
    /// Its name. Without one it is named by its alias.
    pub name: Option<PlugName>,
    /// Its device id and MAC, as far as the entry has them.
    pub identity: Identity,
    /// Its address, if the entry has one.
    pub address: Option<Address>,
    /// How it is reached.
    pub policy: RoutePolicy,
}

/// The whole daemon as a value.
#[derive(Debug)]
pub struct Bridge {
    plugs: Vec<Option<Plug>>,
    /// The plugs with an entry in the config.
    listed: HashSet<PlugKey>,
    registry: Registry,
    timers: Timers,
    poll_limiter: PollLimiter,
    interner: Interner,
    actions: VecDeque<Action>,
    serial: u32,
    adopt: bool,
    policy: Arc<RoutePolicy>,
    cloud: CloudStatus,
    counts: Counts,
    ready_at: Option<Instant>,
    summary: InfoSchedule,
    search: SearchSchedule,
    /// The next read of the account's device list; none without a cloud.
    list_at: Option<Instant>,
    /// Requests for the device list since it last arrived.
    list_misses: u32,
    unsupported: UnsupportedDevices,
    unserved: UnservedDevices,
    lookups: Lookups,
    durations: CommandDurations,
}

/// What is counted over all plugs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    plugs: usize,
    online: usize,
    /// The plugs that are online, by the route that serves them.
    served: [usize; 2],
    untried: usize,
    missing: usize,
}

/// When `bridge/info` is published next.
#[derive(Debug, Default)]
struct InfoSchedule {
    due: Option<Instant>,
    published: Option<Instant>,
}

/// When missing plugs are searched next.
#[derive(Debug, Default)]
struct SearchSchedule {
    due: Option<Instant>,
    rounds: u32,
    /// When the last search began.
    begun: Option<Instant>,
    /// The plug whose address the next search asks first.
    first: u32,
}

impl Bridge {
    /// A bridge with these plugs. Its first actions are ready at once.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let mut bridge = Self {
            plugs: Vec::new(),
            listed: HashSet::new(),
            registry: Registry::default(),
            timers: Timers::default(),
            poll_limiter: PollLimiter::default(),
            interner: Interner::default(),
            actions: VecDeque::new(),
            serial: 0,
            adopt: false,
            policy: Arc::default(),
            cloud: CloudStatus::Off,
            counts: Counts::default(),
            ready_at: Some(now + READY_AFTER),
            summary: InfoSchedule { due: Some(now), published: None },
            search: SearchSchedule::default(),
            list_at: None,
            list_misses: 0,
            unsupported: UnsupportedDevices::default(),
            unserved: UnservedDevices::default(),
            lookups: Lookups::default(),
            durations: CommandDurations::default(),
        };
        bridge.reload(settings, now);
        bridge
    }

    /// Takes the settings of a reloaded config. Plugs that stay keep their state and their connection.
    pub fn reload(&mut self, settings: Settings, now: Instant) {
        self.adopt = settings.adopt;
        self.policy = Arc::new(settings.policy);
        match (settings.cloud, &self.cloud) {
            (false, _) => self.cloud = CloudStatus::Off,
            (true, CloudStatus::Off) => self.cloud = CloudStatus::Down(CloudStatus::NOT_ASKED.into()),
            (true, _) => {}
        }
        self.list_at = settings.cloud.then_some(now);
        self.list_misses = 0;
        self.unsupported.report_again();
        self.unserved.clear();
        self.lookups.reconsider();
        let mut remembered = RememberedPlugs::new(settings.known);
        let by_address = PlugsByAddress::of(self.plugs.iter().flatten());
        let entries = settings.plugs.into_iter();
        let listed = entries.map(|entry| self.list(entry, &mut remembered, &by_address, now)).collect();
        self.listed = listed;
        for plug in remembered.into_rest() {
            if settings.adopt && self.find(Some(&plug.device_id), plug.mac).is_none() {
                self.restore(plug, now);
            }
        }
        for key in self.keys() {
            if !self.adopt && !self.listed.contains(&key) {
                self.remove(key, now);
            } else if !self.listed.contains(&key) {
                let policy = Arc::clone(&self.policy);
                self.with_plug(key, now, |plug, ctx| {
                    plug.adopt_policy(policy, ctx.now);
                    plug.set_configured_address(None, ctx);
                });
                self.remember(key);
            } else {
                self.with_plug(key, now, |_, _| {});
            }
        }
        self.summary.due.get_or_insert(now);
    }

    /// Publishes everything again: the broker is another one, or lost its retained messages.
    pub fn republish(&mut self, now: Instant) {
        for key in self.keys() {
            self.touch(key, now, Plug::republish);
        }
        self.publish(Update::Ready);
        self.summary.due = Some(now);
    }

    /// Publishes everything with a date again: the clock from which dates are computed was set.
    pub fn republish_dates(&mut self, now: Instant) {
        for key in self.keys() {
            self.touch(key, now, Plug::republish_dates);
        }
        self.summary.due = Some(now);
    }

    /// Handles one event.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Command { id, plug, order } => self.on_command(id, plug, order, now),
            Event::Request { id, ask } => self.on_request(id, ask, now),
            Event::Done { exchange, outcome } => self.on_done(exchange, outcome, now),
            Event::Sighted(sighting) => self.on_sighting(sighting, now),
            Event::Account(rows) => self.on_account(rows, now),
            Event::Cloud(status) => self.on_cloud(status, now),
        }
    }

    /// Does everything that is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut is_awake = false;
        while let Some(key) = self.timers.pop_expired(now) {
            self.with_plug(key, now, |_, _| {});
            is_awake = true;
        }
        if is_awake {
            self.read_ahead(now);
        }
        let first_round_done = self.counts.plugs > 0 && self.counts.untried == 0;
        if self.ready_at.take_if(|at| *at <= now || first_round_done).is_some() {
            self.publish(Update::Ready);
        }
        // The plugs that were missing may have been found since.
        if self.search.due.take_if(|at| *at <= now).is_some() && self.counts.missing > 0 {
            self.look_for_missing(now);
        }
        if self.list_at.take_if(|at| *at <= now).is_some() {
            self.list_misses += 1;
            self.list_at = Some(now + LIST_AGAIN.pause(self.list_misses));
            self.actions.push_back(Action::ListAccount);
        }
        self.report_unsupported(now);
        if self.summary.due.take_if(|at| *at <= now).is_some() {
            self.summary.published = Some(now);
            self.publish(Update::Bridge(self.info()));
        }
    }

    /// The next action to carry out.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() {
            // A start or a new config has far more actions than a usual turn.
            self.actions.shrink_to(SOME_ACTIONS);
        }
        action
    }

    /// When [`Bridge::handle_timeout`] must be called, if no event comes earlier.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.own_timers().into_iter().filter_map(|(_, until)| until);
        own.chain(self.timers.next()).min()
    }

    /// What the bridge and each plug wait for, and until when. Costs time for each plug.
    pub fn waiting(&self, now: Instant) -> impl Iterator<Item = Waiting> + '_ {
        let own = self.own_timers().into_iter();
        let own = own.filter_map(|(what, until)| Some(Waiting { plug: None, what, until: until? }));
        own.chain(self.plugs.iter().flatten().flat_map(move |plug| {
            let timers = plug.waiting(&self.cloud, now).into_iter();
            timers.map(|(what, until)| Waiting { plug: plug.name.clone(), what, until })
        }))
    }

    fn own_timers(&self) -> [(WaitingFor, Option<Instant>); 5] {
        let is_round_done = self.counts.plugs > 0 && self.counts.untried == 0;
        // If the first round is done, this is due at once: the moment lies in the past.
        let first_round = self.ready_at.map(|at| if is_round_done { at - READY_AFTER } else { at });
        [
            (WaitingFor::FirstRound, first_round),
            (WaitingFor::Info, self.summary.due),
            (WaitingFor::Search, self.search.due),
            (WaitingFor::DeviceList, self.list_at),
            (WaitingFor::XorReply, self.unsupported.due()),
        ]
    }

    /// The present state as a value. Costs time for each plug, and is built at each call.
    pub fn snapshot(&self) -> Snapshot {
        let plugs = self.plugs.iter().flatten().flat_map(Plug::snapshot).collect();
        Snapshot { plugs, ..self.snapshot_without_plugs() }
    }

    /// The present state of the bridge itself.
    pub fn snapshot_without_plugs(&self) -> Snapshot {
        let (info, is_ready) = (self.info(), self.ready_at.is_none());
        let unserved = self.unserved();
        Snapshot { info, is_ready, unserved, durations: self.durations, plugs: Vec::new() }
    }

    /// The present state of some devices, beginning with this one, and with which one the next portion begins.
    pub fn snapshot_portion(&self, first: usize) -> (Vec<PlugSnapshot>, Option<usize>) {
        let slots = self.plugs.get(first..).unwrap_or_default();
        let (portion, rest) = slots.split_at(slots.len().min(PORTION));
        let plugs = portion.iter().flatten().flat_map(Plug::snapshot).collect();
        (plugs, (!rest.is_empty()).then_some(first + PORTION))
    }

    /// The present state of the bridge and of this plug, if there is one of this name.
    pub fn snapshot_of(&self, name: &PlugName) -> Snapshot {
        let plug = self.registry.named(name).and_then(|(key, part)| self.plug(key)?.snapshot_of(part));
        Snapshot { plugs: plug.into_iter().collect(), ..self.snapshot_without_plugs() }
    }

    fn info(&self) -> BridgeInfo {
        let Counts { plugs, online, served, .. } = self.counts;
        BridgeInfo { plugs, online, served, cloud: self.cloud.clone() }
    }

    /// What the store keeps about each plug.
    pub fn known_plugs(&self) -> impl Iterator<Item = KnownPlug> + '_ {
        self.plugs.iter().flatten().filter_map(Plug::known)
    }

    // --- events -----------------------------------------------------------------------------------------------

    fn on_command(&mut self, id: CommandId, name: PlugName, order: PlugCommand, now: Instant) {
        match self.registry.named(&name) {
            Some((key, part)) => self.with_plug(key, now, |plug, ctx| plug.command(id, part, order, ctx)),
            None => {
                let ended = Ended::NoPlug(format!("there is no plug called {name}"));
                let result =
                    CommandResult { id, plug: name, ended, state: None, route: None, took: Duration::ZERO };
                self.publish(Update::Result(result));
            }
        }
    }

    fn on_request(&mut self, id: RequestId, ask: BridgeCommand, now: Instant) {
        let named = |bridge: &Self, name: &PlugName| {
            bridge
                .registry
                .named(name)
                .map(|(key, _)| key)
                .ok_or_else(|| format!("there is no plug called {name}"))
        };
        let result = match ask {
            BridgeCommand::Discover => {
                self.look_for_missing(now);
                self.actions.push_back(Action::ListAccount);
                Ok(())
            }
            BridgeCommand::Refresh(None) => {
                for key in self.keys() {
                    self.with_plug(key, now, |plug, ctx| plug.refresh(ctx.now));
                }
                Ok(())
            }
            BridgeCommand::Refresh(Some(name)) => {
                named(self, &name).map(|key| self.with_plug(key, now, |plug, ctx| plug.refresh(ctx.now)))
            }
            BridgeCommand::Forget(name) => named(self, &name).and_then(|key| self.forget(key, &name, now)),
        };
        self.publish(Update::Response { id, result });
    }

    fn on_done(&mut self, exchange: ExchangeId, outcome: Outcome, now: Instant) {
        let key = exchange.plug();
        let Some(plug) = self.plug(key).filter(|plug| plug.route_of(exchange).is_some()) else { return };
        if self.lookups.is_running(key) {
            return self.end_lookup(key, &outcome, now);
        }
        let at = plug.address().cloned();
        let klap = plug.klap_port_of(exchange);
        let is_wrong = matches!(outcome.result, Err(Failure::WrongPlug { .. }));
        let reading = outcome.reading().filter(|_| !is_wrong);
        if let Some((reading, kind)) =
            reading.and_then(|reading| reading.other_kind().map(|kind| (reading.clone(), kind)))
        {
            return self.on_other_kind(key, exchange, &reading, kind, now);
        }
        match (&outcome.result, &outcome.greeting) {
            (Err(Failure::WrongPlug { .. }), Some(other)) => {
                let other = other.clone();
                self.with_plug(key, now, |plug, ctx| {
                    plug.lost_address();
                    plug.done(exchange, outcome, ctx);
                });
                if let Some(address) = at {
                    self.on_sysinfo(&other, address, klap, now);
                }
                return;
            }
            (Ok(Reply::SysInfo(reading) | Reply::Switched(Some(reading))), _) | (_, Some(reading)) => {
                let device = Arc::clone(&reading.device);
                if !self.learn(key, &device, now) {
                    return;
                }
            }
            _ => {}
        }
        self.finish(key, exchange, outcome, now);
    }

    fn finish(&mut self, key: PlugKey, exchange: ExchangeId, outcome: Outcome, now: Instant) {
        let refusal = outcome.result.as_ref().err().filter(|failure| failure.is_klap_refusal()).cloned();
        let was_here = self.plug(key).is_some_and(Plug::is_here);
        self.with_plug(key, now, |plug, ctx| plug.done(exchange, outcome, ctx));
        if let Some(failure) = refusal {
            self.report_refusal(key, &failure, now);
        }
        if let Some(plug) = self.plug(key).filter(|plug| !was_here && plug.is_here()) {
            self.unsupported.now_supported(plug.identity.mac);
        }
    }

    fn on_sighting(&mut self, sighting: Sighting, now: Instant) {
        let Sighting { address, reply } = sighting;
        match reply {
            DiscoveryReply::SysInfo(reading) => self.on_sysinfo(&reading, address, None, now),
            DiscoveryReply::Tdp(reply) => self.on_tdp_reply(address, reply, now),
        }
    }

    /// A plug is at this address: it speaks XOR, or KLAP at this port.
    fn on_sysinfo(&mut self, reading: &Reading, address: Address, klap: Option<KlapPort>, now: Instant) {
        let device = &reading.device;
        if reading.is_plug() {
            self.unsupported.now_supported(device.mac);
        }
        match self.find(device.device_id.as_ref(), device.mac) {
            Some(key) if self.is_second_of_its_id(key, device, &address, now) => {}
            Some(key) => self.sight(key, address, klap, now),
            // An entry that knows only this address identifies the plug on its own connection.
            None if self.is_awaited_at(&address, device) => {}
            None if !reading.is_plug() => self.report_unsupported_on_lan(device, &address, now),
            None if self.may_adopt(device) => self.adopt_from_lan(reading, address, klap, now),
            None => {
                let identity = Identity { device_id: device.device_id.clone(), mac: device.mac };
                let reason = self.why_not_adopted(&identity);
                let found = UnservedDevice::new(identity, Some(&address), reason, now);
                self.note_unserved(found.called(&device.alias, &device.model), now);
            }
        }
    }

    /// The plug was sighted at this address: it speaks XOR, or KLAP at this port.
    fn sight(&mut self, key: PlugKey, address: Address, klap: Option<KlapPort>, now: Instant) {
        self.with_plug(key, now, |plug, ctx| match klap {
            Some(port) => plug.sighted_with_klap(address, port, ctx),
            None => plug.sighted(address, ctx),
        });
    }

    fn on_account(&mut self, rows: Vec<AccountPlug>, now: Instant) {
        self.list_misses = 0;
        self.list_at = self.list_at.map(|_| now + LIST_EVERY);
        for row in rows {
            if !is_plug_kind(&row.kind) {
                self.report_unsupported_in_account(&row, now);
                continue;
            }
            match self.find(Some(&row.device_id), row.mac) {
                Some(key) => self.join_account(key, &row, now),
                None if self.adopt && self.counts.plugs < MOST_PLUGS => self.adopt_from_account(row, now),
                None => {
                    let identity = Identity { device_id: Some(row.device_id), mac: row.mac };
                    let reason = self.why_not_adopted(&identity);
                    let found = UnservedDevice::new(identity, None, reason, now);
                    self.note_unserved(found.called(&row.alias, &row.model), now);
                }
            }
        }
    }

    fn on_cloud(&mut self, status: CloudStatus, now: Instant) {
        if status == self.cloud || self.cloud == CloudStatus::Off {
            return;
        }
        let opened = status == CloudStatus::Ok;
        let notice = match &status {
            CloudStatus::Stopped(why) => Some((NoticeKind::CloudStopped, why.to_string())),
            CloudStatus::Ok => Some((NoticeKind::CloudOk, "the cloud answers".to_owned())),
            CloudStatus::Off | CloudStatus::Down(_) => None,
        };
        self.cloud = status;
        if let Some((kind, detail)) = notice {
            self.publish(Update::Notice(Notice { kind, plug: None, route: None, detail }));
        }
        for key in self.keys() {
            self.with_plug(key, now, |plug, ctx| {
                if opened {
                    plug.cloud_changed(ctx.now);
                } else {
                    plug.cloud_closed(ctx);
                }
            });
        }
        self.publish_info_soon(now);
    }

    // --- plumbing ---------------------------------------------------------------------------------------------

    fn plug(&self, key: PlugKey) -> Option<&Plug> {
        self.plugs.get(key.0 as usize)?.as_ref()
    }

    fn keys(&self) -> Vec<PlugKey> {
        self.plugs.iter().flatten().map(|plug| plug.key).collect()
    }

    fn next_key(&self) -> PlugKey {
        PlugKey(u32::try_from(self.plugs.len()).unwrap_or(u32::MAX))
    }

    fn add(&mut self, plug: Plug, now: Instant) -> PlugKey {
        let key = plug.key;
        self.registry.enter(key, &plug.identity);
        match self.plugs.get_mut(key.0 as usize) {
            Some(slot) => *slot = Some(plug),
            None => self.plugs.push(Some(plug)),
        }
        let entered = self.counts_of(key);
        self.count(Counts::default(), entered, now);
        key
    }

    /// Nearly all plugs have the same policy, so they share it.
    fn shared(&self, policy: RoutePolicy) -> Arc<RoutePolicy> {
        if policy == *self.policy { Arc::clone(&self.policy) } else { Arc::new(policy) }
    }

    fn publish(&mut self, update: Update) {
        self.actions.push_back(Action::Publish(update));
    }

    /// Calls `act` on a plug, then performs each of its steps that are due.
    fn with_plug(&mut self, key: PlugKey, now: Instant, act: impl FnOnce(&mut Plug, &mut Ctx<'_>)) {
        let wake = self.touch(key, now, |plug, ctx| {
            act(plug, ctx);
            plug.advance(ctx)
        });
        if wake.is_some() {
            self.timers.set(key, wake);
        }
    }

    /// Calls `act` on a plug, and updates the counts.
    fn touch<T>(
        &mut self,
        key: PlugKey,
        now: Instant,
        act: impl FnOnce(&mut Plug, &mut Ctx<'_>) -> T,
    ) -> Option<T> {
        let before = self.counts_of(key);
        let plug = self.plugs.get_mut(key.0 as usize)?.as_mut()?;
        let mut ctx = Ctx {
            now,
            cloud: &self.cloud,
            actions: &mut self.actions,
            serial: &mut self.serial,
            poll_limiter: &mut self.poll_limiter,
            interner: &mut self.interner,
            durations: &mut self.durations,
        };
        let result = act(plug, &mut ctx);
        let after = self.counts_of(key);
        self.count(before, after, now);
        Some(result)
    }

    /// Reads plugs now that would be read in a moment: for a few plugs the wake-up costs more than the read.
    fn read_ahead(&mut self, now: Instant) {
        let mut place = (now, PlugKey(u32::MAX));
        while self.poll_limiter.has_slot(now)
            && let Some(next @ (_, key)) = self.timers.after(place)
            && self.plug(key).is_some_and(|plug| plug.may_be_read_ahead(next.0, now))
        {
            place = next;
            self.with_plug(key, now, |plug, ctx| plug.read_ahead(ctx.now));
        }
    }

    fn counts_of(&self, key: PlugKey) -> Counts {
        let served = self.plug(key).filter(|_| !self.lookups.is_running(key));
        served.map_or_else(Counts::default, |plug| Counts {
            plugs: 1,
            online: plug.is_online().into(),
            served: Route::ALL.map(|route| plug.is_served_over(route).into()),
            untried: (!plug.was_tried()).into(),
            missing: plug.is_missing().into(),
        })
    }

    fn count(&mut self, before: Counts, after: Counts, now: Instant) {
        if before == after {
            return;
        }
        let counts = &mut self.counts;
        counts.plugs = counts.plugs + after.plugs - before.plugs;
        counts.online = counts.online + after.online - before.online;
        counts.served = [0, 1].map(|route| counts.served[route] + after.served[route] - before.served[route]);
        counts.untried = counts.untried + after.untried - before.untried;
        counts.missing = counts.missing + after.missing - before.missing;
        if (before.plugs, before.online, before.served) != (after.plugs, after.online, after.served) {
            self.publish_info_soon(now);
        }
        if after.missing > before.missing {
            // At once, unless a search has just begun: when a router restarts, many plugs go missing together.
            let due = self.search.begun.map_or(now, |begun| now.max(begun + FIRST_SEARCH_PAUSE));
            self.search.due = Some(self.search.due.map_or(due, |earlier| earlier.min(due)));
            self.search.rounds = 0;
        }
    }

    fn publish_info_soon(&mut self, now: Instant) {
        let due = self.summary.published.map_or(now, |at| now.max(at + SUMMARY_EVERY));
        self.summary.due.get_or_insert(due);
    }

    fn look_for_missing(&mut self, now: Instant) {
        let (before, from) = self.plugs.split_at(self.plugs.len().min(self.search.first as usize));
        let missing = from.iter().chain(before).flatten().filter(|plug| plug.is_missing());
        let mut missing = missing.filter(|plug| plug.candidate_addresses().next().is_some());
        let asked: Vec<_> = missing.by_ref().take(PROBES).collect();
        let probe = asked.iter().flat_map(|plug| plug.candidate_addresses().cloned()).collect();
        self.search.first = missing.next().map_or(0, |next| next.key.0);
        self.search.begun = Some(now);
        self.actions.push_back(Action::Discover { probe });
        if self.counts.missing > 0 {
            self.search.rounds += 1;
            self.search.due = Some(now + SEARCH.pause(self.search.rounds));
        }
    }
}

/// A device's text, shortened and escaped for a notice and the log: any device on the LAN can send any text.
fn for_notice(text: &str) -> String {
    const MOST: usize = 40;
    shown(text, MOST)
}
