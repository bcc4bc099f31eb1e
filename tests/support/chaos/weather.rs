//! Faults: what breaks, when, for how long, and how it ends. From time to time all faults end at once and no command is
//! sent; then everything must be right.

use std::collections::VecDeque;
use std::time::Duration;

use hs100d::bridge::event::{DiscoveryReply, Event, Sighting};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};

use super::cloud::{self, Reach};
use super::klap::KlapFault;
use super::plugs::{self, Condition, Plug, PlugCloud, PlugLan};
use super::{Next, Sabotage, Season, World};

/// The LAN is probed once a minute while it rests, and a missing plug is searched as often: twice that and a little
/// more. Two poll intervals later a plug must be right.
const HEALED_WITHIN: Duration = Duration::from_secs(150);
/// After throttling, the daemon avoids the cloud for up to 75 minutes.
const HELD_BACK: Duration = Duration::from_secs(5400);
/// The time of rest after which everything must be right, in addition to the poll interval.
const REST: Duration = Duration::from_secs(900);
/// No command is in flight for this long.
const LONG_PAST: Duration = Duration::from_secs(600);
/// The time that a command needs in addition to hiccups: an older request is aborted first, and a second read is
/// delayed.
const NEEDED: Duration = Duration::from_millis(1100);
/// The time that a command needs in addition if the plug speaks another protocol than before: that is found out first.
const PROTOCOL_FOUND_WITHIN: Duration = Duration::from_secs(4);
/// The last commands come this long before all faults end.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// From the last poll that is answered to three that are not, on both routes; an answer over the cloud counts for five
/// minutes.
const DARK_FOR: Duration = Duration::from_secs(600);

/// The faults that affect everything.
#[derive(Debug, Default)]
pub struct Weather {
    pub lan_is_down: bool,
    pub is_resting: bool,
    /// When a fault of the LAN last affected each plug.
    troubled: Vec<Duration>,
    /// Recent hiccups of a healthy LAN: the plug, the start, the end.
    hiccups: VecDeque<(usize, Duration, Duration)>,
    /// When each plug last began to speak the other protocol.
    pub flipped: Vec<Duration>,
    /// When each plug last lost its power.
    dark_since: Vec<Duration>,
    /// When the cloud last throttled calls.
    throttled: Option<Duration>,
    /// The round of faults; a fault from an earlier round has ended already.
    round: u32,
}

/// The start or the end of a fault.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Breaks(Kind),
    /// The end of a fault from this round.
    Mends(Kind, usize, u32),
    /// A plug without power since then must be shown as offline.
    MustBeDark(usize, Duration),
    DaemonStarts,
    /// A person sends a command to this plug.
    Word(usize),
    /// Everybody changes several commands at once, while many requests are late.
    LastWords,
    Rest,
    /// This plug must be on its first route now, and shown as it is.
    MustBeHome(usize),
    /// Everything must be right now, and the next faults may start.
    Verdict,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The LAN of one plug.
    PlugLan,
    /// The cloud connection of one plug.
    PlugCloud,
    /// The plug itself.
    Condition,
    /// One plug loses its power.
    Power,
    /// One plug begins to speak the other protocol.
    Protocol,
    /// Another client takes the KLAP session of one plug, again and again.
    SessionThief,
    /// One plug holds another account, until a person corrects it.
    Owner,
    /// Two plugs swap their addresses, or one moves.
    Moves,
    /// A fault of the whole LAN.
    Lan,
    /// All plugs get other addresses.
    Router,
    Cloud,
    Throttle,
    Token,
    Account,
    BrokerRestarts,
    BrokerStalls,
    BrokerKicks,
    DaemonDies,
    DaemonFreezes,
    Reload,
    WallClock,
    Birth,
    /// A sighting at a wrong address.
    FalseSighting,
    /// The periodic discovery, which is not a fault.
    Look,
}

impl Kind {
    /// The mean interval in a home with a hundred plugs, for a year and for a storm.
    fn every(self, season: Season) -> Duration {
        let (year, storm) = match self {
            Self::PlugLan => (1200, 8),
            Self::PlugCloud => (3600, 30),
            Self::Condition => (7200, 60),
            Self::Power => (7200, 60),
            Self::Protocol => (21_600, 20),
            Self::SessionThief => (21_600, 60),
            Self::Owner => (2 * 86_400, 120),
            Self::Moves => (14_400, 60),
            Self::Lan => (86_400, 1800),
            Self::Router => (7 * 86_400, 3600),
            Self::Cloud => (43_200, 600),
            Self::Throttle => (5 * 86_400, 5400),
            Self::Token => (86_400, 900),
            Self::Account => (20 * 86_400, 7200),
            Self::BrokerRestarts => (2 * 86_400, 900),
            Self::BrokerStalls => (2 * 86_400, 900),
            Self::BrokerKicks => (86_400, 600),
            Self::DaemonDies => (5 * 86_400, 3600),
            Self::DaemonFreezes => (2 * 86_400, 1200),
            Self::Reload => (3 * 86_400, 1200),
            Self::WallClock => (5 * 86_400, 1800),
            Self::Birth => (86_400, 900),
            Self::FalseSighting => (3600, 60),
            Self::Look => (6 * 3600, 600),
        };
        Duration::from_secs(match season {
            Season::Year => year,
            Season::Storm => storm,
            // None of these faults happens then.
            Season::DeadLan => u64::MAX,
        })
    }

    const ALL: [Self; 24] = [
        Self::PlugLan,
        Self::PlugCloud,
        Self::Condition,
        Self::Power,
        Self::Protocol,
        Self::SessionThief,
        Self::Owner,
        Self::Moves,
        Self::Lan,
        Self::Router,
        Self::Cloud,
        Self::Throttle,
        Self::Token,
        Self::Account,
        Self::BrokerRestarts,
        Self::BrokerStalls,
        Self::BrokerKicks,
        Self::DaemonDies,
        Self::DaemonFreezes,
        Self::Reload,
        Self::WallClock,
        Self::Birth,
        Self::FalseSighting,
        Self::Look,
    ];
}

/// The mean interval of the commands of one of the three people.
pub fn hand_every(season: Season) -> Duration {
    match season {
        Season::Year => Duration::from_secs(360),
        Season::Storm => Duration::from_secs(6),
        Season::DeadLan => Duration::from_secs(120),
    }
}

impl World {
    pub(super) fn begin_weather(&mut self) {
        self.weather.troubled = vec![Duration::ZERO; self.plugs.len()];
        self.weather.flipped = vec![Duration::ZERO; self.plugs.len()];
        self.weather.dark_since = vec![Duration::ZERO; self.plugs.len()];
        if self.plan.season == Season::DeadLan {
            self.weather.lan_is_down = true;
            self.all_are_troubled();
            self.tell(None, "the LAN is dead");
        } else {
            for kind in Kind::ALL {
                self.break_later(kind);
            }
        }
        for hand in 0..3 {
            let wait = self.dice.wait(hand_every(self.plan.season));
            self.later(wait, Next::Hand(hand));
        }
        self.plan_rest();
    }

    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Breaks(kind) => {
                self.break_later(kind);
                if !self.weather.is_resting {
                    self.tally.faults += u64::from(kind != Kind::Look);
                    self.breaks(kind);
                }
            }
            Change::Mends(kind, plug, round) if round == self.weather.round => self.mends(kind, plug),
            Change::Mends(..) => {}
            Change::MustBeDark(plug, since) => {
                let is_dark =
                    self.plugs[plug].condition == Condition::Dark && self.weather.dark_since[plug] == since;
                if is_dark && self.disturbed < since {
                    self.must_be_offline(plug);
                }
            }
            Change::DaemonStarts => {
                if self.daemon.is_none() {
                    self.start_daemon();
                }
            }
            Change::Word(plug) => self.send_command(plug),
            Change::LastWords => self.last_words(),
            Change::Rest => self.rest(),
            Change::MustBeHome(plug) => self.must_be_right(plug),
            Change::Verdict => self.verdict(),
        }
    }

    fn break_later(&mut self, kind: Kind) {
        // Faults of single plugs scale with the number of plugs.
        let share = self.plugs.len() as f64 / 100.0;
        let mean = match kind {
            Kind::PlugLan
            | Kind::PlugCloud
            | Kind::Condition
            | Kind::Power
            | Kind::Protocol
            | Kind::SessionThief
            | Kind::Owner
            | Kind::Moves
            | Kind::FalseSighting => kind.every(self.plan.season).div_f64(share),
            _ => kind.every(self.plan.season),
        };
        let wait = self.dice.wait(mean);
        self.later(wait, Next::Change(Change::Breaks(kind)));
    }

    fn breaks(&mut self, kind: Kind) {
        let plug = self.dice.below(self.plugs.len());
        let lasts = self.how_long();
        let plug = match kind {
            Kind::SessionThief | Kind::Owner => self.next_with_klap(plug).unwrap_or(plug),
            _ => plug,
        };
        match kind {
            Kind::PlugLan => {
                self.plugs[plug].lan = self.dice.one_of(&PlugLan::FAULTS);
                self.is_troubled(plug);
                self.tell(Some(plug), format!("the LAN: {:?} for {lasts:?}", self.plugs[plug].lan));
            }
            Kind::PlugCloud => {
                self.plugs[plug].cloud = self.dice.one_of(&PlugCloud::FAULTS);
                self.tell(Some(plug), format!("its cloud: {:?} for {lasts:?}", self.plugs[plug].cloud));
            }
            Kind::Condition => {
                self.plugs[plug].condition = self.dice.one_of(&[Condition::Lies, Condition::Stubborn]);
                self.is_troubled(plug);
                self.tell(Some(plug), format!("the plug: {:?} for {lasts:?}", self.plugs[plug].condition));
            }
            Kind::Power => self.loses_power(plug),
            Kind::Protocol => self.flips(plug),
            Kind::SessionThief => {
                self.plugs[plug].klap = KlapFault::SessionThief;
                self.is_troubled(plug);
                self.tell(Some(plug), format!("another client takes its session for {lasts:?}"));
            }
            Kind::Owner => {
                self.plugs[plug].klap = KlapFault::OtherAccount;
                self.tally.owner_changes += 1;
                self.is_troubled(plug);
                self.tell(Some(plug), format!("it holds another account for {lasts:?}"));
            }
            Kind::Moves => self.moves(plug),
            Kind::Lan => {
                self.weather.lan_is_down = true;
                self.all_are_troubled();
                self.tell(None, format!("the LAN is down for {lasts:?}"));
            }
            Kind::Router => self.router_restarts(),
            Kind::Cloud => {
                self.cloud.reach = self.dice.one_of(&Reach::FAULTS);
                self.tell(None, format!("the cloud: {:?} for {lasts:?}", self.cloud.reach));
            }
            Kind::Throttle => {
                self.cloud.throttles = true;
                self.weather.throttled = Some(self.at + lasts);
                self.tell(None, format!("the cloud holds calls back for {lasts:?}"));
            }
            Kind::Token => {
                let and_refresh = self.dice.chance(0.5);
                self.cloud.forget_tokens(and_refresh);
                self.tell(None, format!("the token is dead, and the refresh token: {and_refresh}"));
            }
            Kind::Account => {
                self.cloud.refusal = Some(self.dice.one_of(&cloud::FINAL));
                self.cloud.forget_tokens(true);
                self.tell(None, format!("the account says no for {lasts:?}: {:?}", self.cloud.refusal));
            }
            Kind::BrokerRestarts => self.broker_restarts(lasts.min(Duration::from_secs(600))),
            Kind::BrokerStalls => {
                let lasts = lasts.min(Duration::from_secs(60));
                self.broker.stalled_until = self.at + lasts;
                self.tell(None, format!("the broker takes nothing for {lasts:?}"));
                self.link(lasts, super::broker::Next::Pump);
            }
            Kind::BrokerKicks => {
                self.tell(None, "the broker throws us out");
                self.broker_loses_us();
            }
            Kind::DaemonDies => self.daemon_dies(lasts.min(Duration::from_secs(300))),
            Kind::DaemonFreezes => self.freeze(lasts.min(Duration::from_secs(40))),
            Kind::Reload => self.reload(),
            Kind::WallClock => self.wall_clock_jumps(),
            Kind::Birth => self.home_assistant_is_born(),
            Kind::FalseSighting => {
                let place = self.dice.below(self.places.len());
                self.tell(Some(plug), format!("it is said to be at {}", plugs::address(place as u16)));
                self.sight(plug, place as u16);
            }
            Kind::Look => self.look_around(&[]),
        }
        if matches!(
            kind,
            Kind::PlugLan
                | Kind::PlugCloud
                | Kind::Condition
                | Kind::SessionThief
                | Kind::Owner
                | Kind::Lan
                | Kind::Cloud
                | Kind::Throttle
                | Kind::Account
        ) {
            self.mend_later(kind, plug, lasts);
        }
        if self.plan.sabotage == Some(Sabotage::AdoptsEverybody) {
            self.sight_somebody_new();
        }
    }

    fn mends(&mut self, kind: Kind, plug: usize) {
        match kind {
            Kind::PlugLan => {
                self.plugs[plug].lan = PlugLan::Clear;
                self.is_troubled(plug);
            }
            Kind::PlugCloud => self.plugs[plug].cloud = PlugCloud::Connected,
            Kind::SessionThief => {
                self.plugs[plug].klap = KlapFault::None;
                self.is_troubled(plug);
            }
            Kind::Owner => self.owner_is_corrected(plug),
            Kind::Condition | Kind::Power => {
                self.plugs[plug].condition = Condition::Sound;
                self.is_troubled(plug);
            }
            Kind::Lan => {
                self.weather.lan_is_down = false;
                self.all_are_troubled();
                self.tell(None, "the LAN is up again");
            }
            Kind::Cloud => {
                self.cloud.reach = Reach::Up;
                self.tell(None, "the cloud is up again");
            }
            Kind::Throttle => self.cloud.throttles = false,
            Kind::Account => {
                self.account_is_sorted_out();
                self.tell(None, "the user sorts the account out");
                self.reload();
            }
            Kind::BrokerRestarts => {
                self.broker.is_up = true;
                self.tell(None, "the broker is up again");
            }
            _ => return,
        }
        self.tell(
            (!matches!(kind, Kind::Lan | Kind::Cloud | Kind::Throttle)).then_some(plug),
            format!("{kind:?} mended"),
        );
    }

    fn mend_later(&mut self, kind: Kind, plug: usize, after: Duration) {
        let round = self.weather.round;
        self.later(after, Next::Change(Change::Mends(kind, plug, round)));
    }

    fn how_long(&mut self) -> Duration {
        let most = match self.plan.season {
            Season::Year => Duration::from_secs(6 * 3600),
            Season::Storm | Season::DeadLan => Duration::from_secs(900),
        };
        self.dice.long_tailed(Duration::from_millis(300), most)
    }

    // --- longer faults --------------------------------------------------------------------------------------------

    fn loses_power(&mut self, plug: usize) {
        // Booting takes some time; some plugs return with their relays off.
        let lasts = self.how_long().max(Duration::from_secs(8));
        self.plugs[plug].condition = Condition::Dark;
        self.weather.dark_since[plug] = self.at;
        self.is_troubled(plug);
        let forgets = self.dice.chance(0.3);
        for relay in 0..self.plugs[plug].relays.len() {
            if forgets {
                let (at, off) = (self.at, hs100d::model::RelayState::Off);
                self.plugs[plug].turn(relay, off, at);
                self.judge.hand(plug, relay, off);
            }
        }
        self.tell(Some(plug), format!("without power for {lasts:?}, relays forget: {forgets}"));
        self.mend_later(Kind::Power, plug, lasts);
        let dark = DARK_FOR + self.policies[plug].poll_interval * 2;
        if lasts > dark {
            let since = self.at;
            self.later(dark, Next::Change(Change::MustBeDark(plug, since)));
        }
    }

    /// A person adds the plug to our account again, or writes its account into the config.
    fn owner_is_corrected(&mut self, plug: usize) {
        self.plugs[plug].klap = KlapFault::None;
        self.is_troubled(plug);
        if self.dice.chance(0.5) {
            self.tell(Some(plug), "its account is written into the config");
            if let Some(daemon) = self.daemon.as_mut() {
                daemon.wires.pauses.clear();
            }
            self.reload();
        }
    }

    fn moves(&mut self, plug: usize) {
        let place = self.dice.below(self.places.len());
        let other = self.places[place];
        // A plug that receives no broadcasts has a fixed address.
        let is_fixed = |plug: usize| !self.plugs[plug].hears_broadcasts();
        if is_fixed(plug) || other.is_some_and(is_fixed) {
            return;
        }
        let before = usize::from(self.plugs[plug].place);
        self.places[before] = other;
        self.places[place] = Some(plug);
        self.plugs[plug].place = place as u16;
        self.is_troubled(plug);
        if let Some(other) = other {
            self.plugs[other].place = before as u16;
            self.is_troubled(other);
            self.tell(Some(other), format!("moves to {}", plugs::address(before as u16)));
        }
        self.tell(Some(plug), format!("moves to {}", plugs::address(place as u16)));
    }

    fn router_restarts(&mut self) {
        self.tell(None, "the router restarts and gives out other addresses");
        for plug in 0..self.plugs.len() {
            self.moves(plug);
        }
    }

    fn broker_restarts(&mut self, lasts: Duration) {
        if !self.broker.is_up {
            return;
        }
        let with_store = self.dice.chance(0.5);
        self.tell(None, format!("the broker is away for {lasts:?}, and keeps its store: {with_store}"));
        self.broker.is_up = false;
        if !with_store {
            self.broker.lose_store();
        }
        self.broker_loses_us();
        self.mend_later(Kind::BrokerRestarts, 0, lasts);
    }

    fn daemon_dies(&mut self, lasts: Duration) {
        self.tell(None, format!("the daemon is killed, and started after {lasts:?}"));
        self.tally.restarts += 1;
        self.kill_daemon();
        self.later(lasts, Next::Change(Change::DaemonStarts));
    }

    /// Suspends the process, as on a machine that swaps; the clock continues.
    fn freeze(&mut self, lasts: Duration) {
        self.tell(None, format!("the daemon is held up for {lasts:?}"));
        let (from, until) = (self.at.max(self.frozen_until), self.at + lasts);
        self.hold_ups.retain(|&(_, until)| until + LONG_PAST > from);
        self.hold_ups.push((from, until.max(from)));
        self.frozen_until = until.max(from);
        self.disturbed = self.frozen_until;
    }

    pub(super) fn reload(&mut self) {
        self.tell(None, "the config is read again");
        self.rearm_account();
        let (now, settings) = (self.now(), self.settings());
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.bridge.reload(settings, now);
        }
    }

    fn wall_clock_jumps(&mut self) {
        let jump = self.dice.long_tailed(Duration::from_secs(1), Duration::from_secs(400 * 86_400));
        self.wall = if self.dice.chance(0.5) { self.wall + jump } else { self.wall - jump };
        self.tell(None, format!("the clock on the wall jumps by {jump:?}"));
    }

    fn sight_somebody_new(&mut self) {
        let number = 1_000_000 + self.dice.below(1_000_000);
        let other_plug = Plug::new(number % 60_000, 0, &mut self.dice);
        let mut device = (*other_plug.device).clone();
        device.alias = "somebody".into();
        device.device_id = hs100d::model::DeviceId::new(&format!("8007{number:036X}"));
        device.mac = None;
        let mut reading = other_plug.reading(self.at);
        reading.device = device.into();
        let reply = DiscoveryReply::SysInfo(Box::new(reading));
        self.hear(Event::Sighted(Sighting { address: plugs::address(60_000), reply }));
    }

    // --- effects of faults ----------------------------------------------------------------------------------------

    fn is_troubled(&mut self, plug: usize) {
        self.weather.troubled[plug] = self.at;
    }

    fn all_are_troubled(&mut self) {
        self.weather.troubled.fill(self.at);
    }

    /// Whether no fault was between the daemon and this plug on the LAN, since well before a command that came `took`
    /// ago.
    pub(super) fn was_well(&self, plug: usize, took: Duration) -> bool {
        let it = &self.plugs[plug];
        let poll_interval = self.policies[plug].poll_interval;
        let arrived = self.at.saturating_sub(took);
        let since = self.weather.troubled[plug].max(self.disturbed);
        let is_well = (it.lan, it.klap, it.condition) == (PlugLan::Clear, KlapFault::None, Condition::Sound)
            && !self.weather.lan_is_down;
        let is_deaf = self.plan.sabotage.is_some_and(|sabotage| sabotage.deafens(plug));
        let uses_lan = self.policies[plug].preference != RoutePreference::Cloud && !is_deaf;
        // Two hiccups in a row are longer than the shortest lifetime of a command.
        let has_flipped = self.weather.flipped[plug] + HEALED_WITHIN + poll_interval > arrived;
        let needed = NEEDED + if has_flipped { PROTOCOL_FOUND_WITHIN } else { Duration::ZERO };
        let had_time = self.hiccups_since(plug, arrived) + needed < self.policies[plug].command_ttl;
        uses_lan && is_well && had_time && since + HEALED_WITHIN + poll_interval < arrived
    }

    /// Messages to and from this plug take this long now.
    pub(super) fn hiccups(&mut self, plug: usize, takes: Duration) {
        let at = self.at;
        let hiccups = &mut self.weather.hiccups;
        while hiccups.front().is_some_and(|&(_, from, _)| from + LONG_PAST < at) {
            hiccups.pop_front();
        }
        hiccups.push_back((plug, at, at + takes));
    }

    /// The sum of the hiccups of this plug since then.
    fn hiccups_since(&self, plug: usize, since: Duration) -> Duration {
        let of_it = self.weather.hiccups.iter().filter(|(it, ..)| *it == plug);
        of_it.map(|&(_, from, until)| until.min(self.at).saturating_sub(from.max(since))).sum()
    }

    // --- rest -----------------------------------------------------------------------------------------------------

    fn plan_rest(&mut self) {
        let wait = match self.plan.season {
            Season::Year => Duration::from_secs(23 * 3600),
            Season::Storm => Duration::from_secs(3600),
            Season::DeadLan => return,
        };
        self.later(wait - LAST_WORDS, Next::Change(Change::LastWords));
        self.later(wait, Next::Change(Change::Rest));
    }

    /// The hardest case: of several commands to each plug the last must hold, and the others may arrive after it. Some
    /// plugs begin to speak the other protocol in between.
    fn last_words(&mut self) {
        for plug in 0..self.plugs.len() {
            if self.dice.chance(0.5) && self.plugs[plug].lan == PlugLan::Clear {
                self.plugs[plug].lan = PlugLan::Late;
                self.is_troubled(plug);
            }
            self.send_command(plug);
            if self.dice.chance(0.1) {
                self.flips(plug);
            }
            self.later(LAST_WORDS / 5, Next::Change(Change::Word(plug)));
        }
    }

    /// All faults end, and nobody sends commands or presses buttons.
    fn rest(&mut self) {
        self.tell(None, "all is mended, and left in peace");
        self.weather.is_resting = true;
        self.weather.round += 1;
        self.weather.lan_is_down = false;
        if self.cloud.throttles {
            self.cloud.throttles = false;
            self.weather.throttled = Some(self.at);
        }
        self.cloud.reach = Reach::Up;
        self.account_is_sorted_out();
        (self.broker.is_up, self.broker.stalled_until) = (true, self.at);
        for plug in &mut self.plugs {
            (plug.lan, plug.klap) = (PlugLan::Clear, KlapFault::None);
            (plug.cloud, plug.condition) = (PlugCloud::Connected, Condition::Sound);
        }
        self.all_are_troubled();
        self.judge.all_is_mended();
        if self.daemon.is_none() {
            self.start_daemon();
        }
        self.reload();
        for plug in 0..self.plugs.len() {
            let RoutePolicy { preference: policy, poll_interval, .. } = self.policies[plug];
            if policy != RoutePreference::Cloud {
                self.later(HEALED_WITHIN + poll_interval * 2, Next::Change(Change::MustBeHome(plug)));
            }
        }
        let slowest = self.policies.iter().map(|policy| policy.poll_interval).max().unwrap_or_default();
        self.later(REST + slowest, Next::Change(Change::Verdict));
    }

    /// There were no commands and no faults for long enough.
    fn must_be_right(&mut self, plug: usize) {
        for relay in 0..self.plugs[plug].relays.len() {
            let state = self.plugs[plug].relays[relay].state;
            self.judge.at_rest(plug, relay, state);
        }
        self.must_be_home(plug, self.policies[plug].preference != RoutePreference::Cloud);
    }

    fn verdict(&mut self) {
        self.tally.rests += 1;
        self.judge.hold_to_account();
        let held_back = self.weather.throttled.is_some_and(|at| self.at < at + HELD_BACK);
        for plug in 0..self.plugs.len() {
            if !(held_back && self.policies[plug].preference == RoutePreference::Cloud) {
                self.must_be_right(plug);
            }
        }
        let weight = self.weight();
        self.judge.weigh(weight);
        self.tell(None, format!("all is as it should be; the daemon holds {weight} bytes of text"));
        self.weather.is_resting = false;
        self.plan_rest();
    }
}
