//! All untrusted input of the bridge, in any order and at any time.
//!
//! The input of the fuzzer is a list of events, a few bytes each: replies that fit and replies of another plug,
//! failures, outcomes of exchanges that were aborted or never existed, commands, sightings with borrowed identities,
//! device lists of the account, and time that passes by milliseconds or by days. [`Home`] carries out the bridge's
//! actions and keeps the records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hs100d::bridge::event::{
    AccountPlug, Action, BridgeCommand, CloudStatus, CommandId, DiscoveryReply, Energy, Event, Exchange,
    ExchangeId, Identity, KnownPlug, Origin, Outcome, PlugInfo, PlugKey, PlugState, RequestId, Sighting,
    Target, TdpReply, Update,
};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::snapshot::{PlugSnapshot, Snapshot};
use hs100d::bridge::{Bridge, PlugSettings, Settings};
use hs100d::model::{
    Address, Availability, DeviceId, Failure, LanProtocol, Mac, PlugCommand, PlugName, RelayState, Route,
    SetCommand, Switch,
};
use hs100d::smarthome::message::{
    CloudInfo, Date, DeviceInfo, Meter, OutletDescription, OutletState, Reading, Reply, Request, ScheduleRule,
};

use super::texts::fits_a_line;

/// The most events of one input; longer inputs find nothing new.
const MOST_EVENTS: usize = 200;
/// The most actions after one event, in a home with this few plugs.
const MOST_ACTIONS: usize = 3000;
/// The longest detail of a notice, in bytes.
const LONGEST_DETAIL: usize = 1024;
/// The longest lifetime of a command: the longest time to live that is used here, plus the longest fade.
const LIFE_OF_A_COMMAND: Duration = Duration::from_secs(10 + 60 + 1);
/// More wake-ups than this before the end of a command are a livelock.
const MOST_WAKES: usize = 20_000;

/// Aliases, of plugs and in the account.
const ALIASES: [&str; 8] = ["Lamp", "lamp", "", "bridge", "Küche ☕", "a\nb\u{1b}[2J", "plug", "🔌"];
const NAMES: [&str; 8] = ["lamp", "kettle", "lamp-0001", "plug", "hs100-eu", "lamp-2", "kuche", "nobody"];

pub fn hold(input: &[u8]) {
    let mut script = Script(input);
    let mut home = Home::new(settings(&mut script));
    for _ in 0..MOST_EVENTS {
        let Some(event) = script.next() else { break };
        home.take(event, &mut script);
    }
    home.close();
}

/// The bytes that decide what happens. After their end all are zero.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn state(&mut self) -> RelayState {
        RelayState::from_bool(self.flag())
    }

    /// One of a few values, or none.
    fn perhaps<T>(&mut self, one: impl FnOnce(usize) -> T) -> Option<T> {
        match self.byte() % 8 {
            0 => None,
            number => Some(one(usize::from(number))),
        }
    }
}

fn device_id(number: usize) -> DeviceId {
    DeviceId::new(&format!("8006{number:036X}")).unwrap()
}

fn mac(number: usize) -> Mac {
    Mac::new(&format!("50C7BF{number:06X}")).unwrap()
}

fn address(number: usize) -> Address {
    Address::new(&format!("192.0.2.{number}"), 9999).unwrap()
}

fn name(script: &mut Script<'_>) -> PlugName {
    PlugName::new(script.of(&NAMES)).unwrap()
}

fn settings(script: &mut Script<'_>) -> Settings {
    let flags = script.byte();
    let policy = policy(script);
    Settings {
        adopt: flags & 1 == 0,
        cloud: flags & 2 == 0,
        plugs: (0..script.below(4)).map(|number| listed(number, script)).collect(),
        known: (0..script.below(3)).map(|number| known(number, script)).collect(),
        policy,
    }
}

fn policy(script: &mut Script<'_>) -> RoutePolicy {
    let policy =
        script.of(&[RoutePreference::LocalThenCloud, RoutePreference::Local, RoutePreference::Cloud]);
    RoutePolicy { preference: policy, ..RoutePolicy::default() }
}

/// A plug of the config. The config accepts no two plugs with the same name, id, MAC or address, and none without any
/// of these.
fn listed(number: usize, script: &mut Script<'_>) -> PlugSettings {
    let bits = script.byte();
    let given = |bit: u8| bits & bit != 0;
    let is_mute = bits & 7 == 0;
    PlugSettings {
        name: given(8).then(|| PlugName::new(NAMES[number]).unwrap()),
        identity: Identity {
            device_id: given(1).then(|| device_id(number + 1)),
            mac: (given(2) || is_mute).then(|| mac(number + 1)),
        },
        address: given(4).then(|| address(number + 1)),
        policy: policy(script),
    }
}

/// A plug of an earlier run, whose MAC or address may have changed since.
fn known(number: usize, script: &mut Script<'_>) -> KnownPlug {
    KnownPlug {
        device_id: device_id(number + 1),
        mac: script.perhaps(mac),
        name: PlugName::new(NAMES[number + 2]).unwrap(),
        address: script.perhaps(address),
        outlets: Vec::new(),
        home: None,
        protocol: [None, Some(LanProtocol::Xor), Some(LanProtocol::Klap)][number % 3],
        klap_port: [None, Some(8080)][number % 2],
    }
}

/// A reading of any plug.
fn reading(script: &mut Script<'_>) -> Reading {
    let flags = script.byte();
    let outlets = if flags & 12 == 12 { script.of(&[1, 2, 3, 32]) } else { 0 };
    let dims = flags & 48 == 48;
    let relay = script.state();
    let on_time = script.of(&[None, Some(0), Some(5), Some(86_400), Some(i64::MAX as u64)]);
    let outlet =
        |number: usize| OutletDescription { id: format!("{number:02}").into(), alias: "Outlet".into() };
    let kind = if flags & 192 == 192 { "IOT.SMARTBULB" } else { "IOT.SMARTPLUGSWITCH" };
    let device = DeviceInfo {
        device_id: script.perhaps(device_id),
        mac: script.perhaps(mac),
        alias: script.of(&ALIASES).into(),
        model: "HS100(EU)".into(),
        hw_version: "1.0".into(),
        sw_version: "1.2.5".into(),
        kind: kind.into(),
        feature: if flags & 1 == 1 { "TIM:ENE" } else { "TIM" }.into(),
        dev_name: "Wi-Fi Smart Plug".into(),
        dims,
        outlets: (0..outlets).map(outlet).collect(),
    };
    let told = OutletState { relay: Some(relay), on_time: on_time.filter(|_| relay.is_on()) };
    Reading {
        device: device.into(),
        relay: (outlets == 0).then_some(relay),
        led: (flags & 2 == 0).then_some(RelayState::On),
        on_time: told.on_time.filter(|_| outlets == 0),
        rssi: Some(-40),
        brightness: dims.then_some(flags % 101),
        outlets: vec![told; outlets].into(),
        unread: Box::default(),
    }
}

fn order(script: &mut Script<'_>) -> PlugCommand {
    let what = script.byte();
    let switch = script.of(&[Switch::To(RelayState::On), Switch::To(RelayState::Off), Switch::Toggle]);
    let (seconds, percent) = (script.of(&[0, 1, 60]), script.of(&[0, 1, 50, 100]));
    let set = SetCommand {
        relay: (what & 1 == 0).then_some(switch),
        led: (what & 2 == 2).then_some(RelayState::Off),
        brightness: (what & 4 == 4).then_some(percent),
        transition: (what & 12 == 12).then(|| Duration::from_secs(seconds)),
        lasting: (what & 16 == 16).then(|| Duration::from_secs(seconds * 60)),
        alias: (what & 32 == 32).then(|| "Lamp".into()),
    };
    match what {
        255 => PlugCommand::Reboot,
        254 => PlugCommand::Read,
        _ => PlugCommand::Set(set),
    }
}

fn failure(script: &mut Script<'_>) -> Failure {
    match script.byte() % 14 {
        0 => Failure::Refused,
        1 => Failure::NoRoute,
        2 => Failure::Silent,
        3 => Failure::Closed,
        4 => Failure::Garbage("JSON cut off".into()),
        5 => Failure::Device { code: -1, message: "module not support".into() },
        6 => Failure::CloudDown("no answer in time".into()),
        7 => Failure::CloudOffline,
        8 => Failure::NotInAccount,
        9 => Failure::Unsupported("another command set".into()),
        10 => Failure::Throttled,
        11 => Failure::CloudStopped("wrong password".into()),
        12 => Failure::NoAddress,
        _ => Failure::Abandoned,
    }
}

/// The last published values of one plug.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    state: Option<PlugState>,
    info: Option<Arc<PlugInfo>>,
    energy: Option<Energy>,
    availability: Option<Availability>,
}

/// The bridge, a simulated clock, and the records.
struct Home {
    bridge: Bridge,
    now: Instant,
    /// The exchanges under way, with their routes.
    under_way: BTreeMap<ExchangeId, Exchange>,
    lanes: HashMap<(PlugKey, Route), ExchangeId>,
    /// The exchange whose outcome is being handled. If that outcome removes the plug, the bridge aborts the exchange,
    /// which is harmless.
    ending: Option<ExchangeId>,
    /// The exchanges that have ended or were aborted.
    over: Vec<ExchangeId>,
    /// Every id so far.
    ids: HashSet<ExchangeId>,
    /// Commands and requests that have no result yet.
    owed: BTreeMap<CommandId, Instant>,
    asked: HashSet<RequestId>,
    serial: u64,
    /// The published values of each plug.
    shown: HashMap<PlugName, Shown>,
    is_ready: bool,
}

impl Home {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let mut home = Self {
            bridge: Bridge::new(settings, now),
            now,
            under_way: BTreeMap::new(),
            lanes: HashMap::new(),
            ending: None,
            over: Vec::new(),
            ids: HashSet::new(),
            owed: BTreeMap::new(),
            asked: HashSet::new(),
            serial: 0,
            shown: HashMap::new(),
            is_ready: false,
        };
        home.carry_out();
        home
    }

    fn take(&mut self, event: u8, script: &mut Script<'_>) {
        match event % 16 {
            0 | 1 => self.answer(script),
            2 => self.fail(script),
            3 => self.answer_too_late(script),
            4 => {
                let id = ExchangeId::new(PlugKey(script.byte().into()), script.byte().into());
                if !self.under_way.contains_key(&id) {
                    self.done(id, Ok(Reply::SysInfo(reading(script))));
                }
            }
            5 | 6 => self.command(script),
            7 => self.sight(script),
            8 => self.list(script),
            9 => {
                let why = || "no answer".into();
                let moods = [
                    CloudStatus::Ok,
                    CloudStatus::Down(why()),
                    CloudStatus::Stopped(why()),
                    CloudStatus::Off,
                ];
                self.hear(Event::Cloud(moods[script.below(moods.len())].clone()));
            }
            10 => self.pass(Duration::from_millis(u64::from(script.byte()) * 10)),
            11 => self.pass(script.of(&[1, 3, 10, 60]) * Duration::from_secs(1)),
            12 => self.pass(script.of(&[1, 24, 24 * 400]) * Duration::from_secs(3600)),
            13 => self.ask(script),
            14 => {
                self.bridge.reload(settings(script), self.now);
                self.carry_out();
            }
            _ => {
                self.bridge.republish(self.now);
                self.carry_out();
            }
        }
    }

    // --- untrusted input --------------------------------------------------------------------------------------

    fn one_under_way(&self, script: &mut Script<'_>) -> Option<Exchange> {
        let place = script.below(self.under_way.len());
        self.under_way.values().nth(place).cloned()
    }

    /// A reply that fits the request. It may come from another plug: here, as in the LAN transport, that is checked.
    fn answer(&mut self, script: &mut Script<'_>) {
        let Some(exchange) = self.one_under_way(script) else { return };
        let hello = reading(script);
        if let Target::Local { expect, .. } = &exchange.target
            && !expect.admits(&hello.device)
        {
            let result = Err(Failure::WrongPlug { found: "another".into() });
            return self.end(exchange.id, Outcome { result, greeting: Some(hello) });
        }
        let result = Ok(reply_to(&exchange.request, &hello, script));
        let is_greeted =
            exchange.request != Request::SysInfo && exchange.route() == Route::Local && script.flag();
        self.end(exchange.id, Outcome { result, greeting: is_greeted.then_some(hello) });
    }

    fn fail(&mut self, script: &mut Script<'_>) {
        if let Some(exchange) = self.one_under_way(script) {
            self.end(exchange.id, Outcome::of(Err(failure(script))));
        }
    }

    fn answer_too_late(&mut self, script: &mut Script<'_>) {
        let place = script.below(self.over.len());
        if let Some(&id) = self.over.get(place) {
            self.done(id, Ok(Reply::SysInfo(reading(script))));
        }
    }

    fn end(&mut self, id: ExchangeId, outcome: Outcome) {
        self.strike(id);
        self.ending = Some(id);
        self.hear(Event::Done { exchange: id, outcome });
        self.ending = None;
    }

    fn done(&mut self, exchange: ExchangeId, result: Result<Reply, Failure>) {
        self.hear(Event::Done { exchange, outcome: Outcome::of(result) });
    }

    fn command(&mut self, script: &mut Script<'_>) {
        self.serial += 1;
        let id = CommandId::new(Origin::Mqtt, self.serial);
        self.owed.insert(id, self.now + LIFE_OF_A_COMMAND);
        let shown = self.shown.keys().min().filter(|_| script.flag()).cloned();
        let plug = shown.unwrap_or_else(|| name(script));
        self.hear(Event::Command { id, plug, order: order(script) });
    }

    fn sight(&mut self, script: &mut Script<'_>) {
        let reply = if script.below(4) == 0 {
            DiscoveryReply::Tdp(TdpReply {
                mac: script.perhaps(mac),
                kind: script.of(&["IOT.SMARTPLUGSWITCH", "SMART.TAPOPLUG", "\n"]).into(),
                model: script.of(&["HS100(UK)", "", "P100\r\nforged"]).into(),
                encryption: script.of(&["KLAP", "", "\u{7}"]).into(),
                port: None,
                owner: None,
            })
        } else {
            DiscoveryReply::SysInfo(Box::new(reading(script)))
        };
        let address = address(script.below(8));
        self.hear(Event::Sighted(Sighting { address, reply }));
    }

    fn list(&mut self, script: &mut Script<'_>) {
        let row = |script: &mut Script<'_>| AccountPlug {
            device_id: device_id(script.below(8)),
            mac: script.perhaps(mac),
            alias: script.of(&ALIASES).into(),
            model: script.of(&["HS100(UK)", "\u{85}"]).into(),
            kind: script.of(&["IOT.SMARTPLUGSWITCH", "SMART.TAPOPLUG", "\n"]).into(),
            connected: script.flag(),
        };
        let rows = (0..script.below(4)).map(|_| row(script)).collect();
        self.hear(Event::Account(rows));
    }

    fn ask(&mut self, script: &mut Script<'_>) {
        self.serial += 1;
        let id = RequestId::new(Origin::Mqtt, self.serial);
        self.asked.insert(id);
        let ask = match script.byte() % 4 {
            0 => BridgeCommand::Discover,
            1 => BridgeCommand::Refresh(None),
            2 => BridgeCommand::Refresh(Some(name(script))),
            _ => BridgeCommand::Forget(name(script)),
        };
        self.hear(Event::Request { id, ask });
        assert!(!self.asked.contains(&id), "a request was not answered");
    }

    // --- the home ---------------------------------------------------------------------------------------------

    fn hear(&mut self, event: Event) {
        self.bridge.handle(event, self.now);
        self.carry_out();
    }

    /// Lets time pass, and wakes the bridge when it asks for that. No reply arrives meanwhile.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        // A process that sleeps for a day is woken once, late.
        if duration <= LIFE_OF_A_COMMAND {
            for wakes in 0.. {
                assert!(wakes < MOST_WAKES, "no end of wake-ups");
                let Some(at) = self.bridge.poll_timeout().filter(|&at| at <= end) else { break };
                self.now = self.now.max(at);
                self.wake();
            }
        }
        self.now = end;
        self.wake();
    }

    fn wake(&mut self) {
        self.bridge.handle_timeout(self.now);
        self.carry_out();
        let is_due = |home: &Self| home.bridge.poll_timeout().is_some_and(|at| at <= home.now);
        if is_due(self) {
            // One plug's timer may make another one due at once, but not without end.
            self.bridge.handle_timeout(self.now);
            self.carry_out();
            assert!(!is_due(self), "woken, and due again at once: {:?}", self.bridge.poll_timeout());
        }
    }

    /// Carries out the bridge's actions, and checks them.
    fn carry_out(&mut self) {
        for actions in 0.. {
            assert!(actions < MOST_ACTIONS, "no end of actions");
            let Some(action) = self.bridge.poll_action() else { break };
            match action {
                Action::Perform(exchange) => self.perform(exchange),
                Action::Abandon(id) => {
                    let is_ending = self.ending == Some(id);
                    assert!(
                        is_ending || self.under_way.contains_key(&id),
                        "{id:?} is given up and not under way"
                    );
                    self.strike(id);
                }
                Action::Publish(update) => self.publish(update),
                Action::Discover { probe } => assert!(probe.len() <= 512, "{} to ask", probe.len()),
                Action::Remember(plug) => assert!(!plug.outlets.contains(&plug.name)),
                Action::ListAccount | Action::Forget(_) => {}
            }
        }
        self.every_name_is_one_plugs();
        self.the_snapshot_is_what_was_published();
        let late = self.owed.iter().find(|(_, by)| **by < self.now);
        assert!(late.is_none(), "no result in its time: {late:?} of {:?}", self.now);
    }

    fn perform(&mut self, exchange: Exchange) {
        assert!(self.ids.insert(exchange.id), "{:?} for the second time", exchange.id);
        assert_eq!(exchange.id.plug(), exchange.plug);
        let route = exchange.route();
        let before = self.lanes.insert((exchange.plug, route), exchange.id);
        assert_eq!(before, None, "two on the {route} route of {:?}", exchange.plug);
        let limit = RoutePolicy::default().cloud_timeout;
        assert!(exchange.deadline >= self.now && exchange.deadline <= self.now + limit);
        self.under_way.insert(exchange.id, exchange);
    }

    fn strike(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.under_way.remove(&id) {
            self.lanes.remove(&(exchange.plug, exchange.route()));
            self.over.push(id);
        }
    }

    fn publish(&mut self, update: Update) {
        match update {
            // The broker may retain more, but this is all that is known of the plug.
            Update::Expected(name) => _ = self.shown.insert(name, Shown::default()),
            Update::Gone(name) => _ = self.shown.remove(&name),
            Update::State(name, state) => self.shown_of(&name).state = Some(state),
            Update::Info(name, info) => self.shown_of(&name).info = Some(info),
            Update::Energy(name, energy) => self.shown_of(&name).energy = Some(energy),
            Update::Availability(name, availability) => {
                self.shown_of(&name).availability = Some(availability);
            }
            Update::Result(result) => {
                assert!(self.owed.remove(&result.id).is_some(), "{:?} has a second result", result.id);
                result.ended.error().iter().for_each(|why| fits_a_line(why, LONGEST_DETAIL));
            }
            Update::Response { id, result } => {
                assert!(self.asked.remove(&id), "{id:?} is answered twice");
                result.err().iter().for_each(|why| fits_a_line(why, LONGEST_DETAIL));
            }
            Update::Notice(happening) if happening.detail.is_empty() => {}
            Update::Notice(happening) => fits_a_line(&happening.detail, LONGEST_DETAIL),
            Update::Bridge(info) => assert!(info.online <= info.plugs),
            Update::Ready => self.is_ready = true,
            Update::Dropped(..) => {}
        }
    }

    fn shown_of(&mut self, name: &PlugName) -> &mut Shown {
        self.shown.get_mut(name).unwrap_or_else(|| panic!("{name} is not expected"))
    }

    /// A snapshot has exactly what was published.
    fn the_snapshot_is_what_was_published(&self) {
        let Snapshot { info, is_ready, plugs, .. } = self.bridge.snapshot();
        assert!(info.online <= info.plugs);
        // Another broker gets `Ready` before the first round is done.
        assert!(self.is_ready || !is_ready);
        assert_eq!(plugs.len(), self.shown.len(), "a plug is there twice, or missing");
        for plug in plugs {
            let PlugSnapshot { name, state, info, energy, availability, .. } = plug;
            let shown = &self.shown[&name];
            // The state of an outlet is unknown once its strip does not report it.
            assert!(state.is_none() || state == shown.state, "{name}: {state:?}, shown {:?}", shown.state);
            let found = (&info, energy, availability);
            assert_eq!(found, (&shown.info, shown.energy, shown.availability), "{name}");
        }
    }

    fn every_name_is_one_plugs(&self) {
        let (mut names, mut ids) = (HashSet::new(), HashSet::new());
        for plug in self.bridge.known_plugs() {
            assert!(ids.insert(plug.device_id.clone()), "{} is served twice", plug.device_id);
            for name in plug.outlets.into_iter().chain([plug.name]) {
                assert!(names.insert(name.clone()), "{name} is the name of two");
            }
        }
    }

    /// In the end every command has its result, with or without replies.
    fn close(&mut self) {
        self.pass(LIFE_OF_A_COMMAND);
        assert!(self.owed.is_empty(), "never answered: {:?}", self.owed);
        assert!(self.asked.is_empty(), "never answered: {:?}", self.asked);
        self.nothing_is_shown_of_what_is_not_there();
    }

    /// If everything is published again, the same plugs are published: each plug that is gone was reported as gone.
    fn nothing_is_shown_of_what_is_not_there(&mut self) {
        let shown = std::mem::take(&mut self.shown);
        self.bridge.republish(self.now);
        self.carry_out();
        let names = |shown: &HashMap<PlugName, Shown>| shown.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&self.shown), names(&shown));
    }
}

fn reply_to(request: &Request, reading: &Reading, script: &mut Script<'_>) -> Reply {
    match request {
        Request::SysInfo => Reply::SysInfo(reading.clone()),
        Request::SetRelayAndRead(_) => Reply::Switched(script.flag().then(|| reading.clone())),
        Request::CloudInfo => Reply::CloudInfo(CloudInfo { bound: true, connected: script.flag() }),
        Request::Meter(_) => {
            Reply::Meter(Meter { power: Some(f64::from(script.byte())), ..Meter::default() })
        }
        Request::MeterDays(..) | Request::MeterMonths(..) => Reply::Used(vec![(script.byte().max(1), 1.5)]),
        Request::Clock => Reply::Clock(Date { year: 2026, month: script.byte() % 12 + 1, day: 22 }),
        Request::CountDown(_) => {
            let seconds = script.of(&[0, 1, 60, u32::MAX]);
            let then = script.state();
            Reply::CountDown((seconds > 0).then_some((seconds, then)))
        }
        Request::Schedule(_) => {
            let rule = ScheduleRule {
                name: "x".into(),
                enabled: true,
                then: None,
                at: "07:30".into(),
                days: [true; 7],
            };
            Reply::Schedule([rule].into())
        }
        _ => Reply::Done,
    }
}
