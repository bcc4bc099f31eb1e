//! What breaks, when, for how long, and what mends it. Now and then everything is mended at once and nobody touches
//! anything, and then all must be as it should.

use std::collections::VecDeque;
use std::time::Duration;

use hs100d::bridge::event::{DiscoveryReply, Event, Sighting};
use hs100d::bridge::route::{RoutePolicy, RoutePreference};

use super::cloud::{self, Reach};
use super::plugs::{self, Air, Far, Plug, Temper};
use super::{Next, Sabotage, Season, World};

/// A resting LAN is probed once a minute, and a missing plug looked for as often; twice that, and a little more. Two
/// intervals of its polls later a plug must be right.
const HEALED_WITHIN: Duration = Duration::from_secs(150);
/// After throttling the cloud is left alone for up to an hour and a quarter.
const HELD_BACK: Duration = Duration::from_secs(5400);
/// How long all is left in peace before it must be right, beside the interval of the polls.
const REST: Duration = Duration::from_secs(900);
/// No command is under way for so long.
const LONG_PAST: Duration = Duration::from_secs(600);
/// What a command needs beside the hiccups on its way: an older request is given up first, and a second reading is put
/// off.
const NEEDED: Duration = Duration::from_millis(1100);
/// So long before everything is mended, everybody has his last word.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// From the last poll that is answered to three that are not, on both routes, with an answer over the cloud counting for
/// five minutes.
const DARK_FOR: Duration = Duration::from_secs(600);

/// The state of things that concern everybody.
#[derive(Debug, Default)]
pub struct Weather {
    pub lan_is_down: bool,
    pub is_resting: bool,
    /// When something last stood in the way to each plug on the LAN.
    troubled: Vec<Duration>,
    /// What of late took long on the way to which plug or from it, although the LAN is healthy; from when until when.
    hiccups: VecDeque<(usize, Duration, Duration)>,
    /// When each plug last lost its power.
    dark_since: Vec<Duration>,
    /// When the cloud last held calls back.
    throttled: Option<Duration>,
    /// Which round of faults it is; what mends in an earlier one is mended already.
    round: u32,
}

/// Something breaks or mends.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Breaks(Kind),
    /// What broke in that round.
    Mends(Kind, usize, u32),
    /// A plug that has been dark since then must be shown as offline.
    MustBeDark(usize, Duration),
    DaemonStarts,
    /// Somebody sends a command to this plug.
    Word(usize),
    /// Everybody changes his mind about everything, while much is late.
    LastWords,
    Rest,
    /// By now this plug must be where it belongs, and shown as it is.
    MustBeHome(usize),
    /// All must be right by now, and the next storm may come.
    Verdict,
}

/// What can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Air,
    Far,
    Temper,
    Power,
    /// Two plugs swap their addresses, or one moves.
    Moves,
    /// The LAN as a whole.
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
    /// Somebody is said to be where he is not.
    Rumour,
    /// The periodic look around, which is no fault.
    Look,
}

impl Kind {
    /// How often it happens in a house of a hundred plugs, in a year and in a storm.
    fn every(self, season: Season) -> Duration {
        let (year, storm) = match self {
            Self::Air => (1200, 8),
            Self::Far => (3600, 30),
            Self::Temper => (7200, 60),
            Self::Power => (7200, 60),
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
            Self::Rumour => (3600, 60),
            Self::Look => (6 * 3600, 600),
        };
        Duration::from_secs(match season {
            Season::Year => year,
            Season::Storm => storm,
            // Nothing of this breaks then.
            Season::DeadLan => u64::MAX,
        })
    }

    const ALL: [Self; 21] = [
        Self::Air,
        Self::Far,
        Self::Temper,
        Self::Power,
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
        Self::Rumour,
        Self::Look,
    ];
}

/// How often one of the three hands in the house does something.
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
                    self.plugs[plug].temper == Temper::Dark && self.weather.dark_since[plug] == since;
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
        // Faults of single plugs are as many as there are plugs.
        let share = self.plugs.len() as f64 / 100.0;
        let mean = match kind {
            Kind::Air | Kind::Far | Kind::Temper | Kind::Power | Kind::Moves | Kind::Rumour => {
                kind.every(self.plan.season).div_f64(share)
            }
            _ => kind.every(self.plan.season),
        };
        let wait = self.dice.wait(mean);
        self.later(wait, Next::Change(Change::Breaks(kind)));
    }

    fn breaks(&mut self, kind: Kind) {
        let plug = self.dice.below(self.plugs.len());
        let lasts = self.how_long();
        match kind {
            Kind::Air => {
                self.plugs[plug].air = self.dice.one_of(&Air::FAULTS);
                self.is_troubled(plug);
                self.tell(Some(plug), format!("the LAN: {:?} for {lasts:?}", self.plugs[plug].air));
            }
            Kind::Far => {
                self.plugs[plug].far = self.dice.one_of(&Far::FAULTS);
                self.tell(Some(plug), format!("its cloud: {:?} for {lasts:?}", self.plugs[plug].far));
            }
            Kind::Temper => {
                self.plugs[plug].temper = self.dice.one_of(&[Temper::Lies, Temper::Stubborn]);
                self.is_troubled(plug);
                self.tell(Some(plug), format!("the plug: {:?} for {lasts:?}", self.plugs[plug].temper));
            }
            Kind::Power => self.loses_power(plug),
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
            Kind::Rumour => {
                let place = self.dice.below(self.places.len());
                self.tell(Some(plug), format!("it is said to be at {}", plugs::address(place as u16)));
                self.sight(plug, place as u16);
            }
            Kind::Look => self.look_around(&[]),
        }
        if matches!(
            kind,
            Kind::Air | Kind::Far | Kind::Temper | Kind::Lan | Kind::Cloud | Kind::Throttle | Kind::Account
        ) {
            self.mend_later(kind, plug, lasts);
        }
        if self.plan.sabotage == Some(Sabotage::AdoptsEverybody) {
            self.sight_somebody_new();
        }
    }

    fn mends(&mut self, kind: Kind, plug: usize) {
        match kind {
            Kind::Air => {
                self.plugs[plug].air = Air::Clear;
                self.is_troubled(plug);
            }
            Kind::Far => self.plugs[plug].far = Far::Connected,
            Kind::Temper | Kind::Power => {
                self.plugs[plug].temper = Temper::Sound;
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

    // --- the longer ones ------------------------------------------------------------------------------------------

    fn loses_power(&mut self, plug: usize) {
        // Starting takes a while; some come back with their relays off.
        let lasts = self.how_long().max(Duration::from_secs(8));
        self.plugs[plug].temper = Temper::Dark;
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

    fn moves(&mut self, plug: usize) {
        let place = self.dice.below(self.places.len());
        let other = self.places[place];
        // Whoever cannot hear a broadcast has a fixed address.
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

    /// The process gets no time, as on a machine that swaps; the clock goes on.
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
        let stranger = Plug::new(number % 60_000, 0, &mut self.dice);
        let mut device = (*stranger.device).clone();
        device.alias = "somebody".into();
        device.device_id = hs100d::model::DeviceId::new(&format!("8007{number:036X}"));
        device.mac = None;
        let mut reading = stranger.reading(self.at);
        reading.device = device.into();
        let said = DiscoveryReply::SysInfo(Box::new(reading));
        self.hear(Event::Sighted(Sighting { address: plugs::address(60_000), said }));
    }

    // --- trouble --------------------------------------------------------------------------------------------------

    fn is_troubled(&mut self, plug: usize) {
        self.weather.troubled[plug] = self.at;
    }

    fn all_are_troubled(&mut self) {
        self.weather.troubled.fill(self.at);
    }

    /// Whether nothing stood between the daemon and this plug on the LAN since well before a command that came so
    /// long ago.
    pub(super) fn was_well(&self, plug: usize, took: Duration) -> bool {
        let it = &self.plugs[plug];
        let arrived = self.at.saturating_sub(took);
        let since = self.weather.troubled[plug].max(self.disturbed);
        let is_well = (it.air, it.temper) == (Air::Clear, Temper::Sound) && !self.weather.lan_is_down;
        let is_deaf = self.plan.sabotage.is_some_and(|sabotage| sabotage.deafens(plug));
        let uses_lan = self.policies[plug].preference != RoutePreference::Cloud && !is_deaf;
        // Two in a row are more than the shortest life of a command.
        let had_time = self.hiccups_since(plug, arrived) + NEEDED < self.policies[plug].command_ttl;
        uses_lan && is_well && had_time && since + HEALED_WITHIN + self.policies[plug].poll_interval < arrived
    }

    /// What goes to this plug now, or comes from it, takes so long.
    pub(super) fn hiccups(&mut self, plug: usize, takes: Duration) {
        let at = self.at;
        let hiccups = &mut self.weather.hiccups;
        while hiccups.front().is_some_and(|&(_, from, _)| from + LONG_PAST < at) {
            hiccups.pop_front();
        }
        hiccups.push_back((plug, at, at + takes));
    }

    /// How much of the time since then went into hiccups on the way to this plug.
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

    /// The hardest moment to be right after: of several commands to each plug the last has to hold, and the others may
    /// come after it.
    fn last_words(&mut self) {
        for plug in 0..self.plugs.len() {
            if self.dice.chance(0.5) && self.plugs[plug].air == Air::Clear {
                self.plugs[plug].air = Air::Late;
                self.is_troubled(plug);
            }
            self.send_command(plug);
            self.later(LAST_WORDS / 5, Next::Change(Change::Word(plug)));
        }
    }

    /// Everything is mended, and everybody keeps his hands off.
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
            (plug.air, plug.far, plug.temper) = (Air::Clear, Far::Connected, Temper::Sound);
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

    /// Nobody has touched the plug, and nothing was wrong with it, for long enough.
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
