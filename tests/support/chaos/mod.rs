//! Months of chaos in minutes: the daemon's real decisions (the bridge, the MQTT state and the account's auth queue)
//! in a simulated world with a seed: plugs, LAN, cloud, broker, people and faults.
//!
//! ```text
//!   weather ---- starts and ends faults ----+-----------------+-----------------------------+
//!                                           v                 v                             v
//!   people --- broker (model) --- MqttState | Bridge --- LAN (model)    AuthQueue --- cloud (model)
//!                                           |    \__________________________|
//!                                           v
//!   judge ---- sees what happens in the world and what the daemon sends, and checks the promises
//! ```
//!
//! Time is a number: the next event happens at once, however far away it is, and the same seed gives the same run.

#![allow(dead_code, unreachable_pub, reason = "the test and the example each use their own part of the kit")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a world that cannot go on says so by a panic")]

mod broker;
mod cloud;
mod dice;
mod judge;
mod klap;
mod lan;
mod plugs;
mod saboteur;
mod story;
mod weather;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use hs100d::bridge::event::{
    Action, Event, ExchangeId, Identity, KnownPlug, Notice, NoticeKind, PlugKey, Update,
};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};
use hs100d::bridge::{Bridge, PlugSettings, Settings};
use hs100d::model::{DeviceId, PlugName, RelayState};
use hs100d::payload::Clock;
use hs100d::transport::cloud::Tokens;

use broker::{Broker, Link};
use cloud::{Calls, Cloud, Interface};
use dice::Dice;
pub use judge::{Broken, Promise};
use judge::{Cause, Judge};
use lan::Wires;
use plugs::Plug;
pub use saboteur::Sabotage;
pub use story::Listener;
use story::Story;
use weather::{Change, Weather};

/// More turns than this at one moment are a livelock.
const MOST_TURNS: u32 = 100_000;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same seed gives the same run.
    pub seed: u64,
    /// How long, in simulated time.
    pub lasts: Duration,
    /// The number of plugs.
    pub plugs: usize,
    /// The frequency of faults.
    pub season: Season,
    /// A deliberate fault of the daemon, to check that the judge notices it.
    pub sabotage: Option<Sabotage>,
    /// What is printed during the run.
    pub listener: Listener,
}

/// The frequency of faults and of polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Season {
    /// A home over a year: a fault about every hour, and long poll intervals.
    Year,
    /// As much as possible: a fault every few seconds, and default poll intervals.
    Storm,
    /// The LAN is down from start to end without other faults; default poll intervals.
    DeadLan,
}

/// The counts of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub turns: u64,
    pub exchanges: u64,
    pub commands: u64,
    pub done: u64,
    pub failed: u64,
    pub superseded: u64,
    pub switchings: u64,
    pub hands: u64,
    pub faults: u64,
    /// Plugs that began to speak the other protocol.
    pub flips: u64,
    /// KLAP sessions that another client took twice in a row.
    pub sessions_taken: u64,
    /// Plugs that began to hold another account.
    pub owner_changes: u64,
    pub corrections: u64,
    pub cloud_calls: u64,
    pub logins: u64,
    pub restarts: u64,
    pub rests: u64,
    pub messages: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.turns += other.turns;
        self.exchanges += other.exchanges;
        self.commands += other.commands;
        self.done += other.done;
        self.failed += other.failed;
        self.superseded += other.superseded;
        self.switchings += other.switchings;
        self.hands += other.hands;
        self.faults += other.faults;
        self.flips += other.flips;
        self.sessions_taken += other.sessions_taken;
        self.owner_changes += other.owner_changes;
        self.corrections += other.corrections;
        self.cloud_calls += other.cloud_calls;
        self.logins += other.logins;
        self.restarts += other.restarts;
        self.rests += other.rests;
        self.messages += other.messages;
    }
}

/// The world and the daemon in it.
pub struct World {
    plan: Plan,
    dice: Dice,
    start: Instant,
    wall: SystemTime,
    /// Since the start of the run.
    at: Duration,
    queue: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    plugs: Vec<Plug>,
    /// The plug at each place on the LAN.
    places: Vec<Option<usize>>,
    policies: Vec<RoutePolicy>,
    broker: Broker,
    cloud: Cloud,
    weather: Weather,
    disk: Disk,
    daemon: Option<Daemon>,
    /// The number of this daemon, counted from the start.
    life: u32,
    /// When it last started, or was last suspended.
    disturbed: Duration,
    frozen_until: Duration,
    /// When it was suspended lately: start and end.
    hold_ups: Vec<(Duration, Duration)>,
    judge: Judge,
    story: Story,
    tally: Tally,
    turns_in_place: u32,
    /// Plugs whose shown state must be checked before the turn ends.
    touched: Vec<usize>,
}

/// What a restart of the daemon keeps.
#[derive(Default)]
struct Disk {
    known: BTreeMap<String, KnownPlug>,
    tokens: Option<Tokens>,
}

/// The daemon's decisions, as its loop holds them.
struct Daemon {
    bridge: Bridge,
    wires: Wires,
    calls: Calls,
    link: Link,
    began: Duration,
}

struct Entry {
    at: Duration,
    serial: u64,
    what: Next,
}

/// A future event.
enum Next {
    /// An exchange of the daemon with this life has its outcome.
    Answer { life: u32, id: ExchangeId, outcome: Box<hs100d::bridge::event::Outcome> },
    /// A request arrives where it was sent.
    Arrive { life: u32, id: ExchangeId },
    /// A request arrives at the plug after the daemon has stopped waiting for it, or for the second time.
    Late(Box<lan::Errant>),
    /// An event for the daemon with this life.
    Heard { life: u32, event: Box<Event> },
    /// An event in the daemon's use of the account.
    Account { life: u32, step: cloud::Next },
    /// An event between the daemon and the broker.
    Broker(broker::Next),
    /// A person sends a command or presses a button.
    Hand(usize),
    /// A fault starts or ends.
    Change(Change),
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut dice = Dice::new(plan.seed);
        let strips = plan.plugs / 10;
        let plugs: Vec<_> = (0..plan.plugs)
            .map(|number| Plug::new(number, if number < strips { 3 } else { 0 }, &mut dice))
            .collect();
        let policies = (0..plan.plugs).map(|number| policy(plan.season, number, &mut dice)).collect();
        let relays = plugs.iter().map(|plug| plug.relays.iter().map(|relay| relay.state).collect());
        let mut world = Self {
            judge: Judge::new(relays),
            story: Story::new(plan.plugs, plan.listener),
            places: (0..plan.plugs * 2).map(|place| (place < plan.plugs).then_some(place)).collect(),
            start: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
            at: Duration::ZERO,
            queue: BinaryHeap::new(),
            serial: 0,
            policies,
            broker: Broker::default(),
            cloud: Cloud::default(),
            weather: Weather::default(),
            disk: Disk::default(),
            daemon: None,
            life: 0,
            disturbed: Duration::ZERO,
            frozen_until: Duration::ZERO,
            hold_ups: vec![],
            tally: Tally::default(),
            turns_in_place: 0,
            touched: vec![],
            plugs,
            dice,
            plan,
        };
        world.start_daemon();
        world.begin_weather();
        world
    }

    /// Runs to the end, or until a promise is broken.
    pub fn play(&mut self) -> Result<Tally, Box<Broken>> {
        while !self.judge.is_broken() && self.turn() {}
        match self.judge.verdict() {
            Some(mut broken) => {
                broken.story = self.story.last_of(broken.plug);
                Err(Box::new(broken))
            }
            None => Ok(self.tally),
        }
    }

    /// The whole story, if the settings ask for it.
    pub fn written(&self) -> &str {
        self.story.written()
    }

    /// Advances to the next event, unless that is after the end.
    fn turn(&mut self) -> bool {
        let event = self.queue.peek().map(|Reverse(entry)| entry.at);
        let wake = self.daemon.as_ref().and_then(|daemon| daemon.bridge.poll_timeout());
        let wake = wake.map(|wake| wake.saturating_duration_since(self.start).max(self.frozen_until));
        let end = self.plan.lasts;
        let Some(next) = event.into_iter().chain(wake).min().filter(|&next| next <= end) else {
            return false;
        };
        if next > self.at {
            self.at = next;
            self.judge.at = next;
            self.turns_in_place = 0;
        }
        self.turns_in_place += 1;
        if self.turns_in_place > MOST_TURNS {
            self.judge.complain(Promise::GoesOn, None, "the same moment again and again");
        }
        self.tally.turns += 1;
        if event.is_some_and(|event| event <= self.at) {
            let Some(Reverse(entry)) = self.queue.pop() else { return true };
            self.happen(entry);
        } else {
            let now = self.now();
            let takes_it_off = self.plan.sabotage != Some(Sabotage::Spins);
            if let Some(daemon) = self.daemon.as_mut().filter(|_| takes_it_off) {
                daemon.bridge.handle_timeout(now);
            }
        }
        self.carry_out();
        self.look_at_what_is_shown();
        true
    }

    fn happen(&mut self, entry: Entry) {
        // A suspended process notices nothing, and receives everything when it resumes.
        if self.at < self.frozen_until && entry.what.is_for_the_daemon() {
            return self.push(self.frozen_until, entry.what);
        }
        match entry.what {
            Next::Answer { life, id, outcome } if life == self.life => {
                self.sabotage_silence(&outcome);
                self.answered(id, *outcome);
            }
            Next::Arrive { life, id } => self.arrived(life, id),
            Next::Late(errant) => self.arrived_late(*errant),
            Next::Heard { life, event } if life == self.life => self.hear(*event),
            Next::Account { life, step } if life == self.life => self.account_step(step),
            Next::Broker(next) => self.broker_step(next),
            Next::Hand(hand) => self.use_hand(hand),
            Next::Change(change) => self.change(change),
            // For a daemon that no longer runs.
            Next::Answer { .. } | Next::Heard { .. } | Next::Account { .. } => {}
        }
    }

    // --- the daemon -----------------------------------------------------------------------------------------------

    fn start_daemon(&mut self) {
        self.life += 1;
        self.disturbed = self.at;
        self.judge.daemon_is_new();
        let now = self.now();
        self.daemon = Some(Daemon {
            bridge: Bridge::new(self.settings(), now),
            wires: Wires::default(),
            calls: Calls::new(
                self.disk.tokens.clone(),
                self.cloud.written_password,
                Interface::of(self.plan.seed),
            ),
            link: Link::new(Clock { instant: self.now(), system: self.wall_clock() }),
            began: self.at,
        });
        self.begin_link();
        self.carry_out();
    }

    /// Kills the daemon, as a power cut does: it sends nothing more, and requests in flight may still reach plugs.
    fn kill_daemon(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        self.lose_exchanges(daemon.wires);
        self.broker_loses_us();
        self.frozen_until = self.at;
    }

    fn settings(&self) -> Settings {
        let entry = |(plug, policy): (&Plug, &RoutePolicy)| PlugSettings {
            name: Some(plug.name.clone()),
            identity: Identity { device_id: Some(plug.device_id.clone()), mac: Some(plug.mac) },
            // Every third user wrote down the plug's first address. A plug that receives no broadcasts needs it.
            address: (plug.number.is_multiple_of(3) || !plug.hears_broadcasts())
                .then(|| plugs::address(plug.number as u16)),
            policy: *policy,
        };
        Settings {
            plugs: self.plugs.iter().zip(&self.policies).map(entry).collect(),
            known: self.disk.known.values().cloned().collect(),
            adopt: self.plan.sabotage == Some(Sabotage::AdoptsEverybody),
            policy: RoutePolicy::default(),
            cloud: true,
        }
    }

    fn hear(&mut self, event: Event) {
        let now = self.now();
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.bridge.handle(event, now);
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.daemon.as_mut().and_then(|daemon| daemon.bridge.poll_action()) {
            match action {
                Action::Perform(exchange) => self.perform(exchange),
                Action::Abandon(id) => self.abandon(id),
                Action::Publish(update) => self.publish(update),
                Action::Discover { probe } => self.look_around(&probe),
                Action::ListAccount => self.list_account(),
                Action::Remember(known) => {
                    self.disk.known.insert(known.device_id.as_str().to_owned(), known);
                }
                Action::Forget(id) => {
                    self.disk.known.remove(id.as_str());
                }
            }
        }
        self.pump();
    }

    fn publish(&mut self, update: Update) {
        match &update {
            Update::Result(result) => {
                let of = self.whose(&result.plug);
                let was_well = of.is_some_and(|(plug, _)| self.was_well(plug, result.took));
                let held_up = self.held_up(result.took);
                let mut number = None;
                for _ in 0..self.sabotage_result() {
                    number = self.judge.result(result.id, &result.ended, was_well, held_up);
                }
                match &result.ended {
                    hs100d::bridge::event::Ended::Ok => self.tally.done += 1,
                    hs100d::bridge::event::Ended::Superseded => self.tally.superseded += 1,
                    _ => self.tally.failed += 1,
                }
                let number = number.map_or_else(|| "?".to_owned(), |number| number.to_string());
                let line = format!(
                    "command {number} to {} ends after {:?}: {:?}, {:?} over {:?}",
                    result.plug, result.took, result.ended, result.state, result.route
                );
                self.tell(of.map(|(plug, _)| plug), line);
            }
            Update::Notice(Notice { kind: what, plug, detail, .. }) => {
                let of = plug.as_ref().and_then(|name| self.whose(name));
                if let (NoticeKind::DriftCorrected, Some((plug, relay))) = (what, of) {
                    self.tally.corrections += 1;
                    let policy = self.policies[plug];
                    self.judge.corrects(plug, relay.unwrap_or(0), policy.command_ttl);
                }
                if let (NoticeKind::ProtocolChanged, Some((plug, _))) = (what, of)
                    && self.plan.sabotage != Some(Sabotage::HidesProtocolChanges)
                {
                    self.judge.reports_protocol(plug, detail);
                }
                let line = format!("{}: {detail}", what.word());
                self.tell(of.map(|(plug, _)| plug), line);
            }
            _ => {}
        }
        if let Some(update) = self.sabotaged_update(update) {
            self.show(update);
        }
    }

    /// For how much of the last `took` the daemon was suspended.
    fn held_up(&self, took: Duration) -> Duration {
        let arrived = self.at.saturating_sub(took);
        self.hold_ups.iter().map(|&(from, until)| until.min(self.at).saturating_sub(from.max(arrived))).sum()
    }

    // --- small parts ----------------------------------------------------------------------------------------------

    fn now(&self) -> Instant {
        self.start + self.at
    }

    fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.start)
    }

    fn wall_clock(&self) -> SystemTime {
        self.wall + self.at
    }

    fn push(&mut self, at: Duration, what: Next) {
        self.serial += 1;
        self.queue.push(Reverse(Entry { at, serial: self.serial, what }));
    }

    fn later(&mut self, wait: Duration, what: Next) {
        self.push(self.at + wait, what);
    }

    fn tell(&mut self, plug: Option<usize>, line: impl Into<Box<str>>) {
        self.story.tell(self.at, plug, line);
    }

    /// The plug with this name, and which of its relays if the name is that of an outlet.
    fn whose(&self, name: &PlugName) -> Option<(usize, Option<usize>)> {
        let mut numbers = name.as_str().strip_prefix("plug-")?.split('-').map(str::parse::<usize>);
        let plug = numbers.next()?.ok()?;
        let outlet = numbers.next().and_then(Result::ok).map(|outlet| outlet - 1);
        (plug < self.plugs.len()).then_some((plug, outlet))
    }

    fn plug_with(&self, id: &DeviceId) -> Option<usize> {
        let number = usize::from_str_radix(&id.as_str()[4..], 16).ok()?;
        (number < self.plugs.len()).then_some(number)
    }

    /// The size of the daemon's values, measured by the length of their debug text.
    fn weight(&self) -> usize {
        let Some(daemon) = &self.daemon else { return 0 };
        weight_of(&daemon.bridge) + daemon.link.weight() + daemon.calls.weight()
    }
}

impl Next {
    fn is_for_the_daemon(&self) -> bool {
        match self {
            Self::Answer { .. } | Self::Heard { .. } => true,
            Self::Account { step, .. } => step.is_for_the_daemon(),
            Self::Broker(next) => next.is_for_the_daemon(),
            Self::Arrive { .. } | Self::Late(_) | Self::Hand(_) | Self::Change(_) => false,
        }
    }
}

/// The length of a value's debug text without digits: times in it are those of this machine and differ from run to run.
fn weight_of(value: &impl fmt::Debug) -> usize {
    struct Counter(usize);
    impl fmt::Write for Counter {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.bytes().filter(|byte| !byte.is_ascii_digit()).count();
            Ok(())
        }
    }
    let mut counter = Counter(0);
    fmt::write(&mut counter, format_args!("{value:?}")).expect("counting does not fail");
    counter.0
}

/// What the config says about one plug.
fn policy(season: Season, number: usize, dice: &mut Dice) -> RoutePolicy {
    let seconds = Duration::from_secs;
    let poll_interval = match season {
        Season::Storm => dice.one_of(&[seconds(5), seconds(5), seconds(15), seconds(60)]),
        Season::DeadLan => seconds(5),
        // A hundred plugs at five seconds would be six hundred million polls a year.
        Season::Year if number.is_multiple_of(50) => seconds(5),
        Season::Year if number.is_multiple_of(10) => seconds(60),
        Season::Year => seconds(600),
    };
    let policy = match number % 20 {
        7 => RoutePreference::Local,
        13 => RoutePreference::Cloud,
        _ => RoutePreference::LocalThenCloud,
    };
    let command_ttl = dice.one_of(&[seconds(10), seconds(10), seconds(10), seconds(30), seconds(2)]);
    RoutePolicy { preference: policy, poll_interval, command_ttl, ..RoutePolicy::default() }
}

/// The requested state of a relay, if it is resolved.
type Wanted = Option<RelayState>;

/// The bridge's plugs, with their numbers in the world.
type Keys = Vec<(PlugKey, usize)>;

/// The cause of a request, relay by relay.
type Causes = Vec<(usize, Option<Cause>)>;
