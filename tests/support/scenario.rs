//! The test bench of the bridge: model plugs, faults as plain fields, and a simulated clock.
//!
//! A [`Scenario`] carries out the bridge's actions on its models and hands the results back in the order of simulated
//! time. A day passes in milliseconds, and a livelock is a failure, not a hang.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the bench")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{
    AccountPlug, Action, CloudStatus, CommandId, CommandResult, DiscoveryReply, Ended, Event, Exchange,
    ExchangeId, Identity, KnownPlug, NoticeKind, Origin, Outcome, PlugState, Sighting, Target, TdpReply,
    Update,
};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::{Bridge, PlugSettings, Settings};
use hs100d::model::{
    Address, Availability, DeviceId, Failure, LanProtocol, Mac, PlugCommand, PlugName, RelayState, Route,
    SetCommand, Switch,
};
use hs100d::smarthome::message::{
    CloudInfo, Date, DeviceInfo, Meter, OutletDescription, OutletState, Reading, Reply, Request,
};

/// More steps than this are a livelock.
const MOST_STEPS: usize = 200_000;

/// The fault of the LAN for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lan {
    Works,
    Slow(Duration),
    Refused,
    NoRoute,
    Silent,
    /// Never replies, but carries the request out after this time.
    SilentButActs(Duration),
    ResetAfterRequest,
    ClosedWithoutReply,
    Garbage,
    CutOffJson,
    HugeLength,
    DeviceError,
    AnotherPlug,
}

/// The fault of the cloud for a request, as the cloud client reports it to the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    Works,
    Slow(Duration),
    /// The config has no cloud.
    Off,
    Down,
    Silent,
    /// The client refreshes the token and repeats the request.
    TokenExpired,
    /// The client logs in again and repeats the request.
    RefreshRefused,
    Throttled,
    PlugOffline,
    /// The client stops and reports why.
    WrongPassword,
}

/// How a firmware handles a request that switches the relay and reads its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchAndRead {
    Both,
    SwitchOnly,
    Refused,
    Garbled,
    NoAnswer,
    /// Switches, and never replies.
    Hangs,
    OldState,
}

/// A plug in the model world.
#[derive(Debug, Clone)]
pub struct ModelPlug {
    pub name: String,
    pub device_id: DeviceId,
    pub mac: Mac,
    pub alias: String,
    pub address: Option<Address>,
    pub relay: RelayState,
    pub led: RelayState,
    pub lan: Lan,
    /// The port of the other protocol refuses.
    pub protocol: LanProtocol,
    pub klap_port: u16,
    /// How it ends each handshake, if it refuses them.
    pub refusal: Option<Failure>,
    pub cloud: Cloud,
    pub switch_and_read: SwitchAndRead,
    pub firmware: &'static str,
    /// Every switching, with its time since the start.
    pub switched: Vec<(Duration, RelayState)>,
    /// Of a dimmer.
    pub brightness: Option<u8>,
    /// Of a strip: the name of each outlet and whether it is on.
    pub outlets: Vec<(String, RelayState)>,
    /// The values of its meters, by outlet or of the one plug; empty without a meter.
    pub meters: Vec<Meter>,
    /// The energy of each day of this month and each month of this year, by meter.
    pub used: Vec<[f64; 2]>,
    /// The running count-down of each relay.
    pub count_down: Vec<Option<(Duration, RelayState)>>,
    /// Whether it has a relay of its own; on a strip its outlets have them.
    pub has_relay: bool,
    /// The number of its last outlets that it does not report.
    pub hides: usize,
    /// Modules or methods that it does not have.
    pub lacks: Vec<&'static str>,
    /// The device type that it reports; a bulb has no relay.
    pub kind: &'static str,
    /// Whether its device id can be read.
    pub tells_id: bool,
    /// The `on_time` that it reports.
    pub on_time: Option<u64>,
    /// Whether it reports the energy of days and months.
    pub tells_use: bool,
}

pub const PLUG: &str = "IOT.SMARTPLUGSWITCH";
pub const BULB: &str = "IOT.SMARTBULB";

/// The day and the month on the clock of every model plug.
pub const TODAY: Date = Date { year: 2026, month: 11, day: 22 };

pub struct Scenario {
    pub bridge: Bridge,
    pub now: Instant,
    start: Instant,
    pub plugs: Vec<ModelPlug>,
    pending: BTreeMap<(Instant, u64), Pending>,
    serial: u64,
    next_command: u64,
    /// Every update for the broker, with its time since the start.
    pub updates: Vec<(Duration, Update)>,
    /// Every request, with its route and its time since the start.
    pub asked: Vec<(Duration, Route, Request)>,
    /// The protocol of each request over the LAN.
    pub spoken: Vec<LanProtocol>,
    /// Its address.
    pub connected_to: Vec<Address>,
    /// The deadline of each of them, since the start.
    pub deadlines: Vec<Duration>,
    pub remembered: BTreeMap<String, KnownPlug>,
    pub discoveries: usize,
    /// The addresses that each discovery probed directly, with its time since the start.
    pub searches: Vec<(Duration, Vec<Address>)>,
    /// Whether plugs answer a broadcast.
    pub broadcasts_work: bool,
    /// The times since the start at which the account's device list was requested.
    pub listings: Vec<Duration>,
}

enum Pending {
    Answer(ExchangeId, Outcome),
    Act(usize, Request),
    Event(Event),
}

/// The time of a request and its reply on the model LAN and over the model cloud.
pub const LAN_TRIP: Duration = Duration::from_millis(4);
pub const CLOUD_TRIP: Duration = Duration::from_millis(150);

pub fn device_id(number: usize) -> DeviceId {
    DeviceId::new(&format!("8006{number:036X}")).unwrap()
}

pub fn mac(number: usize) -> Mac {
    Mac::new(&format!("50C7BF{number:06X}")).unwrap()
}

pub fn address(number: usize) -> Address {
    Address::new(&format!("192.0.{}.{}", 2 + number / 256, number % 256), 9999).unwrap()
}

pub fn plug_name(number: usize) -> PlugName {
    PlugName::new(&format!("plug-{number}")).unwrap()
}

/// What the store remembers of a plug from an earlier run.
pub fn known(number: usize) -> KnownPlug {
    KnownPlug {
        device_id: device_id(number),
        mac: Some(mac(number)),
        name: plug_name(number),
        address: Some(address(number)),
        home: None,
        protocol: None,
        klap_port: None,
        outlets: vec![],
    }
}

/// An entry of the account's device list, for a device that is connected.
pub fn row(number: usize, alias: &str, kind: &str) -> AccountPlug {
    AccountPlug {
        device_id: device_id(number),
        mac: Some(mac(number)),
        alias: alias.into(),
        model: "HS100(UK)".into(),
        kind: kind.into(),
        connected: true,
    }
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Scenario {
    /// A home with this many plugs and a cloud. The config has each plug with address, device id and name, `plug-1` and
    /// so on.
    pub fn with_plugs(count: usize) -> Self {
        Self::with(count, RoutePolicy::default(), true)
    }

    /// The same with this policy, with or without a cloud.
    pub fn with(count: usize, policy: RoutePolicy, cloud: bool) -> Self {
        let plugs: Vec<_> = (1..=count).map(|number| ModelPlug::new(number, cloud)).collect();
        let entries = (1..=count).map(|number| PlugSettings {
            name: Some(plug_name(number)),
            identity: Identity { device_id: Some(device_id(number)), mac: Some(mac(number)) },
            address: Some(address(number)),
            policy,
        });
        let settings = Settings { plugs: entries.collect(), known: vec![], adopt: false, policy, cloud };
        Self::from_settings(settings, plugs)
    }

    /// A home in which this plug is known by its address and was never read.
    pub fn of_unread(plug: ModelPlug) -> Self {
        let entry = PlugSettings {
            name: Some(plug_name(1)),
            identity: Identity::default(),
            address: Some(address(1)),
            policy: RoutePolicy::default(),
        };
        let settings = Settings { plugs: vec![entry], adopt: true, cloud: true, ..Settings::default() };
        Self::from_settings(settings, vec![plug])
    }

    pub fn from_settings(settings: Settings, plugs: Vec<ModelPlug>) -> Self {
        let start = Instant::now();
        let cloud = settings.cloud;
        let mut scenario = Self {
            bridge: Bridge::new(settings, start),
            now: start,
            start,
            plugs,
            pending: BTreeMap::new(),
            serial: 0,
            next_command: 0,
            updates: vec![],
            asked: vec![],
            spoken: vec![],
            connected_to: vec![],
            deadlines: vec![],
            remembered: BTreeMap::new(),
            discoveries: 0,
            searches: vec![],
            broadcasts_work: false,
            listings: vec![],
        };
        scenario.carry_out();
        if cloud {
            scenario.event(Event::Cloud(CloudStatus::Ok));
        }
        scenario
    }

    /// The same with its plugs read and at rest.
    pub fn settled(count: usize) -> Self {
        let mut scenario = Self::with_plugs(count);
        scenario.run_for(seconds(4));
        scenario.forget_the_past();
        scenario
    }

    pub fn forget_the_past(&mut self) {
        self.updates.clear();
        self.asked.clear();
        self.spoken.clear();
        self.connected_to.clear();
        self.deadlines.clear();
        for plug in &mut self.plugs {
            plug.switched.clear();
        }
    }

    /// The time of its start.
    pub fn start(&self) -> Instant {
        self.start
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub fn plug(&mut self, number: usize) -> &mut ModelPlug {
        &mut self.plugs[number - 1]
    }

    /// A press of the button.
    pub fn press(&mut self, number: usize) {
        let at = self.elapsed();
        let plug = self.plug(number);
        plug.relay = !plug.relay;
        plug.switched.push((at, plug.relay));
    }

    /// Sends an event to the bridge now.
    pub fn event(&mut self, event: Event) {
        self.bridge.handle(event, self.now);
        self.carry_out();
    }

    pub fn send(&mut self, number: usize, order: PlugCommand) -> CommandId {
        self.next_command += 1;
        let id = CommandId::new(Origin::Mqtt, self.next_command);
        self.event(Event::Command { id, plug: plug_name(number), order });
        id
    }

    pub fn switch(&mut self, number: usize, state: RelayState) -> CommandId {
        self.send(
            number,
            PlugCommand::Set(SetCommand {
                relay: Some(Switch::To(state)),
                led: None,
                ..SetCommand::default()
            }),
        )
    }

    pub fn toggle(&mut self, number: usize) -> CommandId {
        self.send(
            number,
            PlugCommand::Set(SetCommand { relay: Some(Switch::Toggle), led: None, ..SetCommand::default() }),
        )
    }

    /// A sighting of this plug at its address.
    pub fn sight(&mut self, number: usize) {
        let plug = self.plug(number).clone();
        let reply = DiscoveryReply::SysInfo(Box::new(plug.reading()));
        let address = plug.address.expect("a sighted plug has an address");
        self.event(Event::Sighted(Sighting { address, reply }));
    }

    /// The plug answers the discovery of KLAP.
    pub fn sight_klap(&mut self, number: usize) {
        let sighting = self.plug(number).tdp_sighting();
        self.event(Event::Sighted(sighting));
    }

    /// The same, with a reply that has no MAC.
    pub fn sight_klap_without_mac(&mut self, number: usize) {
        let mut sighting = self.plug(number).tdp_sighting();
        if let DiscoveryReply::Tdp(reply) = &mut sighting.reply {
            reply.mac = None;
        }
        self.event(Event::Sighted(sighting));
    }

    /// Runs for this time.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..MOST_STEPS {
            if !self.step(end) {
                self.now = end;
                return;
            }
        }
        panic!("no end after {MOST_STEPS} steps: {:?}", self.bridge);
    }

    /// Runs until the condition holds. Returns how long that took.
    pub fn run_until(&mut self, bound: Duration, mut condition: impl FnMut(&Self) -> bool) -> Duration {
        let begun = self.now;
        let end = self.now + bound;
        for _ in 0..MOST_STEPS {
            if condition(self) {
                return self.now - begun;
            }
            assert!(self.step(end), "not within {bound:?}: {:#?}\nasked {:#?}", self.updates, self.asked);
        }
        panic!("no end after {MOST_STEPS} steps");
    }

    /// Runs until the command has its result, which must come within the bound.
    pub fn result(&mut self, id: CommandId, bound: Duration) -> (CommandResult, Duration) {
        let took = self.run_until(bound, |scenario| scenario.results(id).next().is_some());
        let result = self.results(id).next().unwrap().clone();
        (result, took)
    }

    pub fn results(&self, id: CommandId) -> impl Iterator<Item = &CommandResult> {
        self.updates.iter().filter_map(move |(_, update)| match update {
            Update::Result(result) if result.id == id => Some(result),
            _ => None,
        })
    }

    /// The last state that was published.
    pub fn shown(&self, number: usize) -> Option<&PlugState> {
        self.updates.iter().rev().find_map(|(_, update)| match update {
            Update::State(name, state) if *name == plug_name(number) => Some(state),
            _ => None,
        })
    }

    /// Every availability that was published, in order, with its time.
    pub fn availability(&self, number: usize) -> Vec<(Duration, Availability)> {
        let told = self.updates.iter().filter_map(|(at, update)| match update {
            Update::Availability(name, availability) if *name == plug_name(number) => {
                Some((*at, *availability))
            }
            _ => None,
        });
        told.collect()
    }

    pub fn happened(&self, what: NoticeKind) -> usize {
        let is_it = |(_, update): &&(_, Update)| matches!(update, Update::Notice(it) if it.kind == what);
        self.updates.iter().filter(is_it).count()
    }

    /// The routes of the requests that switch, in order.
    pub fn switching_routes(&self) -> Vec<Route> {
        let switching = self.asked.iter().filter(|(_, _, request)| request.changes_something());
        switching.map(|&(_, route, _)| route).collect()
    }

    /// Advances to the next event, unless that is after `end`.
    fn step(&mut self, end: Instant) -> bool {
        let next_pending = self.pending.first_key_value().map(|(&(at, _), _)| at);
        let next_timeout = self.bridge.poll_timeout();
        let Some(next) = next_pending.into_iter().chain(next_timeout).min().filter(|&next| next <= end)
        else {
            return false;
        };
        self.now = self.now.max(next);
        match self.pending.first_entry().filter(|entry| entry.key().0 <= self.now) {
            Some(entry) => match entry.remove() {
                Pending::Answer(exchange, outcome) => {
                    self.bridge.handle(Event::Done { exchange, outcome }, self.now);
                }
                Pending::Act(plug, request) => self.act(plug, &request),
                Pending::Event(event) => self.bridge.handle(event, self.now),
            },
            None => self.bridge.handle_timeout(self.now),
        }
        self.carry_out();
        true
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.bridge.poll_action() {
            match action {
                Action::Perform(exchange) => self.perform(exchange),
                Action::Abandon(id) => {
                    self.pending
                        .retain(|_, pending| !matches!(pending, Pending::Answer(other, _) if *other == id));
                }
                Action::Publish(update) => self.updates.push((self.elapsed(), update)),
                Action::Remember(known) => {
                    self.remembered.insert(known.device_id.as_str().into(), known);
                }
                Action::Forget(id) => {
                    self.remembered.remove(id.as_str());
                }
                Action::Discover { probe } => self.search(probe),
                Action::ListAccount => self.listings.push(self.elapsed()),
            }
        }
    }

    fn search(&mut self, probe: Vec<Address>) {
        self.discoveries += 1;
        for number in 1..=self.plugs.len() {
            let plug = self.plug(number).clone();
            let is_asked = plug.address.as_ref().is_some_and(|at| probe.contains(at)) || self.broadcasts_work;
            if plug.protocol == LanProtocol::Klap && plug.lan == Lan::Works && is_asked {
                let sighting = plug.tdp_sighting();
                self.later(LAN_TRIP, Pending::Event(Event::Sighted(sighting)));
            }
        }
        self.searches.push((self.elapsed(), probe));
        if !self.broadcasts_work {
            return;
        }
        let answers = |plug: &&ModelPlug| plug.lan == Lan::Works && plug.protocol == LanProtocol::Xor;
        for plug in self.plugs.clone().iter().filter(answers) {
            if let Some(address) = plug.address.clone() {
                let reply = DiscoveryReply::SysInfo(Box::new(plug.reading()));
                self.later(LAN_TRIP, Pending::Event(Event::Sighted(Sighting { address, reply })));
            }
        }
    }

    fn perform(&mut self, exchange: Exchange) {
        let route = exchange.route();
        assert!(exchange.deadline > self.now, "an exchange without time: {exchange:?}");
        self.asked.push((self.elapsed(), route, exchange.request.clone()));
        self.deadlines.push(exchange.deadline - self.start);
        let in_flight =
            |pending: &&Pending| matches!(pending, Pending::Answer(id, _) if id.plug() == exchange.id.plug());
        assert!(self.pending.values().filter(in_flight).count() < 2, "more than one request on a wire");
        match &exchange.target {
            Target::Local { address, protocol, expect } => {
                self.spoken.push(*protocol);
                self.connected_to.push(address.clone());
                self.perform_local(&exchange, address, *protocol, expect);
            }
            Target::Cloud { device_id } => self.perform_cloud(&exchange, device_id),
        }
    }

    fn perform_local(
        &mut self,
        exchange: &Exchange,
        address: &Address,
        protocol: LanProtocol,
        expect: &Identity,
    ) {
        let ip = |address: &Address| address.socket().unwrap().ip();
        let is_there = |plug: &ModelPlug| plug.address.as_ref().is_some_and(|at| ip(at) == ip(address));
        let Some(place) = self.plugs.iter().position(is_there) else {
            return self.answer(exchange, millis(1), Outcome::of(Err(Failure::NoRoute)));
        };
        let plug = &self.plugs[place];
        let listens = match protocol {
            LanProtocol::Xor => plug.address.as_ref() == Some(address),
            LanProtocol::Klap => address.socket().unwrap().port() == plug.klap_port,
        };
        let is_open = plug.protocol == protocol && listens;
        if !is_open && !matches!(plug.lan, Lan::Silent | Lan::SilentButActs(_) | Lan::NoRoute) {
            return self.answer(exchange, millis(1), Outcome::of(Err(Failure::Refused)));
        }
        if let Some(refusal) = plug.refusal.clone().filter(|_| protocol == LanProtocol::Klap) {
            return self.answer(exchange, LAN_TRIP, Outcome::of(Err(refusal)));
        }
        let device = plug.reading().device;
        if !expect.admits(&device) {
            let found = plug.device_id.to_string().into();
            let hello = Some(plug.reading());
            return self.answer(
                exchange,
                LAN_TRIP,
                Outcome { result: Err(Failure::WrongPlug { found }), greeting: hello },
            );
        }
        let (after, failure) = match plug.lan {
            Lan::Works => return self.act_and_answer(place, exchange, LAN_TRIP),
            Lan::Slow(trip) => return self.act_and_answer(place, exchange, trip),
            Lan::Refused => (millis(1), Failure::Refused),
            Lan::NoRoute => (millis(1), Failure::NoRoute),
            Lan::Silent => return self.stay_silent(exchange),
            Lan::SilentButActs(after) => {
                self.later(after, Pending::Act(place, exchange.request.clone()));
                return self.stay_silent(exchange);
            }
            Lan::ResetAfterRequest | Lan::ClosedWithoutReply => (LAN_TRIP, Failure::Closed),
            Lan::Garbage => (LAN_TRIP, Failure::Garbage("not JSON".into())),
            Lan::CutOffJson => (LAN_TRIP, Failure::Garbage("JSON cut off".into())),
            Lan::HugeLength => (LAN_TRIP, Failure::Garbage("a length of 4 GiB".into())),
            Lan::DeviceError if exchange.request.changes_something() => {
                (LAN_TRIP, Failure::Device { code: -3, message: "invalid argument".into() })
            }
            Lan::DeviceError => return self.act_and_answer(place, exchange, LAN_TRIP),
            Lan::AnotherPlug => (LAN_TRIP, Failure::WrongPlug { found: "8006…FFFF".into() }),
        };
        self.answer(exchange, after, Outcome::of(Err(failure)));
    }

    fn perform_cloud(&mut self, exchange: &Exchange, device_id: &DeviceId) {
        let Some(place) = self.plugs.iter().position(|plug| plug.device_id == *device_id) else {
            return self.answer(exchange, CLOUD_TRIP, Outcome::of(Err(Failure::NotInAccount)));
        };
        let (after, failure) = match self.plugs[place].cloud {
            Cloud::Works => return self.act_and_answer(place, exchange, CLOUD_TRIP),
            Cloud::Slow(trip) => return self.act_and_answer(place, exchange, trip),
            Cloud::TokenExpired => return self.act_and_answer(place, exchange, CLOUD_TRIP * 3),
            Cloud::RefreshRefused => return self.act_and_answer(place, exchange, CLOUD_TRIP * 4),
            Cloud::Off => panic!("the bridge asked a cloud that is not configured"),
            Cloud::Down => (millis(5), Failure::CloudDown("connection refused".into())),
            Cloud::Silent => return self.stay_silent(exchange),
            Cloud::Throttled => (millis(1), Failure::Throttled),
            Cloud::PlugOffline => (CLOUD_TRIP, Failure::CloudOffline),
            Cloud::WrongPassword => {
                let why: Box<str> = "wrong password".into();
                self.later(CLOUD_TRIP, Pending::Event(Event::Cloud(CloudStatus::Stopped(why.clone()))));
                (CLOUD_TRIP, Failure::CloudStopped(why))
            }
        };
        self.answer(exchange, after, Outcome::of(Err(failure)));
    }

    fn act_and_answer(&mut self, place: usize, exchange: &Exchange, trip: Duration) {
        if exchange.deadline < self.now + trip {
            self.later(trip, Pending::Act(place, exchange.request.clone()));
            return self.stay_silent(exchange);
        }
        let (module, method) = exchange.request.method();
        if [module, method].iter().any(|lacking| self.plugs[place].lacks.contains(lacking)) {
            let failure = Failure::Device { code: -1, message: "module not support".into() };
            return self.answer(exchange, trip, Outcome::of(Err(failure)));
        }
        if let Request::SetRelayAndRead(state) = exchange.request {
            return self.switch_and_read(place, exchange, trip, state);
        }
        self.act(place, &exchange.request);
        let reply = self.reply(place, &exchange.request);
        self.answer(exchange, trip, Outcome::of(Ok(reply)));
    }

    fn switch_and_read(&mut self, place: usize, exchange: &Exchange, trip: Duration, state: RelayState) {
        let habit = self.plugs[place].switch_and_read;
        let before = self.plugs[place].reading();
        if habit == SwitchAndRead::Refused {
            let failure = Failure::Device { code: -3, message: "invalid argument".into() };
            return self.answer(exchange, trip, Outcome::of(Err(failure)));
        }
        self.act(place, &Request::SetRelay(state));
        if habit == SwitchAndRead::Hangs {
            return self.stay_silent(exchange);
        }
        let result = match habit {
            SwitchAndRead::Both | SwitchAndRead::Refused | SwitchAndRead::Hangs => {
                Ok(Reply::Switched(Some(self.plugs[place].reading())))
            }
            SwitchAndRead::SwitchOnly => Ok(Reply::Switched(None)),
            SwitchAndRead::OldState => Ok(Reply::Switched(Some(before))),
            SwitchAndRead::Garbled => Err(Failure::Garbage("JSON cut off at byte 300".into())),
            SwitchAndRead::NoAnswer => Err(Failure::Closed),
        };
        self.answer(exchange, trip, Outcome::of(result));
    }

    fn reply(&self, place: usize, request: &Request) -> Reply {
        let plug = &self.plugs[place];
        let of = |outlet: &Option<u8>| usize::from(outlet.unwrap_or(0));
        match request {
            Request::SysInfo => Reply::SysInfo(plug.reading()),
            Request::CloudInfo => Reply::CloudInfo(CloudInfo { bound: true, connected: true }),
            Request::Clock => Reply::Clock(TODAY),
            Request::Meter(outlet) => Reply::Meter(plug.meters[of(outlet)]),
            Request::MeterDays(..) | Request::MeterMonths(..) if !plug.tells_use => Reply::NotTold,
            Request::MeterDays(outlet, ..) => {
                Reply::Used(vec![(1, 9.0), (TODAY.day, plug.used[of(outlet)][0])])
            }
            Request::MeterMonths(outlet, _) => Reply::Used(vec![(TODAY.month, plug.used[of(outlet)][1])]),
            Request::CountDown(outlet) => {
                let running = plug.count_down[of(outlet)].filter(|(at, _)| *at > self.elapsed());
                let left = |at: Duration| u32::try_from((at - self.elapsed()).as_secs()).unwrap();
                Reply::CountDown(running.map(|(at, then)| (left(at), then)))
            }
            Request::Schedule(_) => Reply::Schedule(Arc::default()),
            _ => Reply::Done,
        }
    }

    fn act(&mut self, place: usize, request: &Request) {
        let at = self.elapsed();
        let plug = &mut self.plugs[place];
        let of = |outlet: &Option<u8>| usize::from(outlet.unwrap_or(0));
        match request {
            Request::SetRelay(state) | Request::SetRelayAndRead(state) => {
                plug.switched.push((at, *state));
                plug.relay = *state;
            }
            Request::SetOutlets(outlets, state) => {
                for outlet in outlets.iter() {
                    plug.outlets[usize::from(outlet)].1 = *state;
                    plug.switched.push((at, *state));
                }
            }
            Request::SetLed(state) => plug.led = *state,
            Request::SetBrightness(percent) => plug.brightness = Some(*percent),
            Request::Fade(percent, _) => {
                plug.relay = RelayState::from_bool(*percent > 0);
                plug.brightness = Some((*percent).max(1));
            }
            Request::SetAlias(None, alias) => plug.alias = alias.to_string(),
            Request::SetAlias(Some(outlet), alias) => {
                plug.outlets[usize::from(*outlet)].0 = alias.to_string()
            }
            Request::StopCountDown(outlet) => plug.count_down[of(outlet)] = None,
            Request::StartCountDown(outlet, delay, then) => {
                plug.count_down[of(outlet)] = Some((at + Duration::from_secs((*delay).into()), *then));
            }
            _ => {}
        }
    }

    fn stay_silent(&mut self, exchange: &Exchange) {
        self.answer(exchange, exchange.deadline - self.now, Outcome::of(Err(Failure::Silent)));
    }

    fn answer(&mut self, exchange: &Exchange, after: Duration, outcome: Outcome) {
        self.later(after, Pending::Answer(exchange.id, outcome));
    }

    fn later(&mut self, after: Duration, pending: Pending) {
        self.serial += 1;
        self.pending.insert((self.now + after, self.serial), pending);
    }
}

impl ModelPlug {
    pub fn new(number: usize, cloud: bool) -> Self {
        Self {
            name: plug_name(number).to_string(),
            device_id: device_id(number),
            mac: mac(number),
            alias: format!("Plug {number}"),
            address: Some(address(number)),
            relay: RelayState::Off,
            led: RelayState::On,
            lan: Lan::Works,
            protocol: LanProtocol::Xor,
            klap_port: 80,
            refusal: None,
            cloud: if cloud { Cloud::Works } else { Cloud::Off },
            switch_and_read: SwitchAndRead::Both,
            firmware: "1.2.5",
            switched: vec![],
            brightness: None,
            outlets: vec![],
            meters: vec![],
            used: vec![],
            count_down: vec![None],
            has_relay: true,
            hides: 0,
            lacks: vec![],
            kind: PLUG,
            tells_id: true,
            on_time: None,
            tells_use: true,
        }
    }

    /// The same as a strip with this many outlets.
    pub fn strip(number: usize, outlets: usize) -> Self {
        let outlet = |n| (format!("Outlet {n}"), RelayState::Off);
        Self {
            outlets: (1..=outlets).map(outlet).collect(),
            count_down: vec![None; outlets],
            ..Self::new(number, true)
        }
    }

    /// A plug that speaks KLAP, of the same number.
    pub fn klap(number: usize, cloud: bool) -> Self {
        Self { protocol: LanProtocol::Klap, ..Self::new(number, cloud) }
    }

    /// Its answer to the discovery of KLAP.
    pub fn tdp_sighting(&self) -> Sighting {
        let reply = DiscoveryReply::Tdp(TdpReply {
            mac: Some(self.mac),
            kind: PLUG.into(),
            model: "HS100(UK)".into(),
            encryption: "KLAP".into(),
            port: Some(self.klap_port),
            owner: None,
        });
        Sighting { address: self.address.clone().expect("a sighted plug has an address"), reply }
    }

    pub fn reading(&self) -> Reading {
        let outlets = &self.outlets[..self.outlets.len() - self.hides];
        Reading {
            device: Arc::new(DeviceInfo {
                device_id: self.tells_id.then(|| self.device_id.clone()),
                mac: Some(self.mac),
                alias: self.alias.as_str().into(),
                model: "HS100(EU)".into(),
                hw_version: "1.0".into(),
                sw_version: self.firmware.into(),
                kind: self.kind.into(),
                feature: if self.meters.is_empty() { "TIM" } else { "TIM:ENE" }.into(),
                dev_name: "Wi-Fi Smart Plug".into(),
                dims: self.brightness.is_some(),
                outlets: outlets.iter().enumerate().map(outlet_plate).collect(),
            }),
            relay: (self.has_relay && self.kind != BULB && self.outlets.is_empty()).then_some(self.relay),
            led: Some(self.led),
            on_time: self.on_time.filter(|_| self.relay.is_on()),
            rssi: Some(-50),
            brightness: self.brightness,
            outlets: outlets
                .iter()
                .map(|(_, relay)| OutletState { relay: Some(*relay), on_time: None })
                .collect(),
            unread: Box::default(),
        }
    }
}

fn outlet_plate((number, (alias, _)): (usize, &(String, RelayState))) -> OutletDescription {
    OutletDescription { id: format!("{number:02}").into(), alias: alias.as_str().into() }
}

/// A result of a command that was done.
pub fn is_ok(result: &CommandResult) -> bool {
    result.ended == Ended::Ok
}

/// A policy with this preference and the usual times.
pub fn policy(policy: RoutePreference) -> RoutePolicy {
    RoutePolicy { preference: policy, ..RoutePolicy::default() }
}
