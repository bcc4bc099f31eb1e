//! How a plug is reached: what the user wrote ([`RoutePolicy`]), what we saw ([`Routes`]), and the [`Plan`] for one command.

use std::time::{Duration, Instant};

use crate::model::{Failure, LanProtocol, Route, Verdict};

/// Which routes may be used, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutePreference {
    /// The LAN first, the cloud when the LAN does not answer.
    #[default]
    LocalThenCloud,
    /// The LAN only.
    Local,
    /// The cloud only.
    Cloud,
}

/// What the user wrote about reaching one plug; each part may be set for all plugs or for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Which routes may be used.
    pub preference: RoutePreference,
    /// A LAN silent for this long: ask the cloud as well.
    pub cloud_after: Duration,
    /// A command that no route could deliver by then is dropped.
    pub command_ttl: Duration,
    /// Between two reads over the LAN.
    pub poll_interval: Duration,
    /// Between two reads over the cloud, for plugs that the LAN does not reach.
    pub cloud_poll_interval: Duration,
    /// Between two readings of the meter.
    pub energy_interval: Duration,
    /// The longest that one exchange on the LAN may take.
    pub local_timeout: Duration,
    /// The longest that one exchange over the cloud may take; the cloud holds a request while it wakes the plug.
    pub cloud_timeout: Duration,
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            preference: RoutePreference::LocalThenCloud,
            cloud_after: Duration::from_millis(700),
            command_ttl: Duration::from_secs(10),
            poll_interval: Duration::from_secs(5),
            cloud_poll_interval: Duration::from_secs(60),
            energy_interval: Duration::from_secs(15),
            local_timeout: Duration::from_secs(3),
            cloud_timeout: Duration::from_secs(15),
        }
    }
}

/// The pause after a failure that may be a hiccup, before the LAN is asked again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A resting LAN is probed at this interval …
const PROBE: Duration = Duration::from_secs(10);
/// … for this long …
const PROBE_OFTEN_FOR: Duration = Duration::from_secs(600);
/// … and at this interval afterwards.
const PROBE_SELDOM: Duration = Duration::from_secs(60);
/// The pause after each failed read in a row over the cloud, in poll intervals.
const CLOUD_PATIENCE: [u32; 4] = [1, 2, 5, 10];
/// Hiccups in a row after which a route rests.
const HICCUPS: u16 = 2;
/// Refusals of XOR in a row after which KLAP is tried although nothing says that the plug speaks it.
const REFUSALS_UNTIL_BLIND: u8 = 2;
/// A plug answers each datagram of a discovery round, in both forms if it knows both: answers within this time belong
/// together.
const SAME_ROUND: Duration = Duration::from_secs(5);

/// What we saw of one route to one plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Health {
    /// Not tried yet.
    #[default]
    Untried,
    /// Its last exchange was answered.
    Up,
    /// It failed in a way that may have been a hiccup.
    Doubtful,
    /// It does not work; it is probed at intervals and used again from its first answer.
    Resting { since: Instant },
}

/// What we saw of both routes to one plug. Kept small: there is one for each plug.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Routes {
    health: [Health; 2],
    /// Failures in a row of a route that is doubtful or rests.
    failures: [u16; 2],
    /// The protocol that the plug is believed to speak on the LAN.
    protocol: Option<LanProtocol>,
    /// When it was last seen to speak it; absent if only an earlier run saw it.
    protocol_seen: Option<Instant>,
    /// The protocol of its last answer on the LAN; that of an earlier run counts.
    answered_in: Option<LanProtocol>,
    /// The protocol that the plug refused last: the other one is spoken until it fails.
    ruled_out: Option<LanProtocol>,
    /// Whether the plug was seen to speak each protocol, in this run or an earlier one.
    was_spoken: [bool; 2],
    /// Refusals of XOR since the last answer on the LAN.
    xor_refusals: u8,
}

/// Which routes to try for one command, in order, and how long after the command each may start although the ones
/// before it have not failed.
pub(super) type Plan = RouteList<(Route, Duration)>;

impl Routes {
    pub(super) fn health(&self, route: Route) -> Health {
        self.health[route.index()]
    }

    pub(super) fn is_up(&self, route: Route) -> bool {
        self.health(route) == Health::Up
    }

    pub(super) fn is_resting(&self, route: Route) -> bool {
        matches!(self.health(route), Health::Resting { .. })
    }

    /// The protocol that the plug is believed to speak on the LAN, if one is known.
    pub(super) fn protocol(&self) -> Option<LanProtocol> {
        self.protocol
    }

    /// Whether the plug answers on the LAN, or answered XOR discovery just now.
    pub(super) fn is_heard(&self, now: Instant) -> bool {
        let is_recent = self.protocol_seen.is_some_and(|seen| seen + SAME_ROUND >= now);
        self.is_up(Route::Local) || (self.protocol == Some(LanProtocol::Xor) && is_recent)
    }

    /// The protocol of the next exchange on the LAN.
    pub(super) fn protocol_to_speak(&self) -> LanProtocol {
        let believed = self.protocol.unwrap_or(LanProtocol::Xor);
        if self.ruled_out == Some(believed) { believed.other() } else { believed }
    }

    /// The protocol of its last answer on the LAN, which the store keeps. What discovery said is not kept: a firmware that
    /// speaks XOR may say KLAP, and after a restart its next answer would be reported as a change.
    pub(super) fn last_answered_in(&self) -> Option<LanProtocol> {
        self.answered_in
    }

    /// The protocol of its last answer to an earlier run. What was seen since is newer.
    pub(super) fn remember_protocol(&mut self, protocol: Option<LanProtocol>) {
        let Some(protocol) = protocol.filter(|_| self.protocol_seen.is_none()) else { return };
        self.protocol = Some(protocol);
        self.answered_in = Some(protocol);
        self.was_spoken[protocol as usize] = true;
    }

    /// Discovery saw the plug speak this protocol. That counts only while the plug does not answer. Firmwares that speak XOR
    /// may answer the discovery of KLAP as well, so KLAP counts only where XOR is not heard, or was refused.
    pub(super) fn saw(&mut self, protocol: LanProtocol, now: Instant) {
        let counts = match protocol {
            LanProtocol::Xor => !self.is_up(Route::Local),
            LanProtocol::Klap => !self.is_heard(now) || self.xor_refusals > 0,
        };
        if counts {
            self.note_protocol(protocol, now);
            self.ruled_out.take_if(|refused| *refused == protocol);
        }
    }

    fn note_protocol(&mut self, protocol: LanProtocol, now: Instant) {
        self.protocol = Some(protocol);
        self.protocol_seen = Some(now);
        self.was_spoken[protocol as usize] = true;
    }

    /// The plug answered on the LAN in this protocol. Returns the one of its last answer if that was the other one.
    pub(super) fn answered_in(&mut self, protocol: LanProtocol, now: Instant) -> Option<LanProtocol> {
        self.note_protocol(protocol, now);
        self.ruled_out = None;
        self.xor_refusals = 0;
        self.answered_in.replace(protocol).filter(|&before| before != protocol)
    }

    /// An exchange on the LAN in this protocol failed. Whether the other protocol is to be tried at once, because the plug
    /// refuses this one and may speak the other.
    pub(super) fn tries_other_protocol(
        &mut self,
        protocol: LanProtocol,
        failure: &Failure,
        now: Instant,
    ) -> bool {
        let was_other_refused = self.ruled_out == Some(protocol.other());
        self.ruled_out = None;
        match failure {
            Failure::Refused | Failure::KlapBlocked => {}
            // It speaks KLAP: it proved that it holds an account, or had a session.
            Failure::OtherAccount | Failure::NoLanAccount | Failure::SessionTaken => {
                self.note_protocol(LanProtocol::Klap, now);
                return false;
            }
            _ => return false,
        }
        if protocol == LanProtocol::Xor {
            self.xor_refusals = self.xor_refusals.saturating_add(1);
        }
        let is_worth_it = protocol == LanProtocol::Klap
            || self.was_spoken[LanProtocol::Klap as usize]
            || self.xor_refusals >= REFUSALS_UNTIL_BLIND;
        if was_other_refused || !is_worth_it {
            return false;
        }
        self.ruled_out = Some(protocol);
        if !self.is_resting(Route::Local) {
            self.set(Route::Local, Health::Doubtful, 1);
        }
        true
    }

    /// The plug answered over this route.
    pub(super) fn answered(&mut self, route: Route) {
        self.set(route, Health::Up, 0);
    }

    /// An exchange over this route failed.
    pub(super) fn failed(&mut self, route: Route, verdict: Verdict, now: Instant) {
        let failures = self.failures[route.index()].saturating_add(1);
        match (self.health(route), verdict) {
            (_, Verdict::PlugRefuses) => self.set(route, Health::Up, 0),
            (resting @ Health::Resting { .. }, _) => self.set(route, resting, failures),
            (_, Verdict::RouteDown) => self.set(route, Health::Resting { since: now }, 1),
            (Health::Doubtful, _) if failures >= HICCUPS => {
                self.set(route, Health::Resting { since: now }, failures);
            }
            (Health::Doubtful, _) => self.set(route, Health::Doubtful, failures),
            (Health::Untried | Health::Up, _) => self.set(route, Health::Doubtful, 1),
        }
    }

    /// The other route had to answer in this one's place.
    pub(super) fn overtaken(&mut self, route: Route, now: Instant) {
        if !matches!(self.health(route), Health::Resting { .. }) {
            self.set(route, Health::Resting { since: now }, 1);
        }
    }

    /// What was seen of this route no longer counts: the plug has another address, or the cloud is another.
    pub(super) fn forget(&mut self, route: Route) {
        self.set(route, Health::Untried, 0);
        if route == Route::Local {
            self.ruled_out = None;
            self.xor_refusals = 0;
        }
    }

    fn set(&mut self, route: Route, health: Health, failures: u16) {
        self.health[route.index()] = health;
        self.failures[route.index()] = failures;
    }

    /// The order of routes for one command. A resting LAN comes last, yet is never dropped.
    pub(super) fn plan(&self, usable: [bool; 2], policy: &RoutePolicy) -> Plan {
        let [local, cloud] = usable;
        let cloud_first = self.is_resting(Route::Local) && !self.is_resting(Route::Cloud);
        match (local, cloud) {
            (true, true) if cloud_first => {
                Plan::two((Route::Cloud, Duration::ZERO), (Route::Local, policy.cloud_after))
            }
            (true, true) => Plan::two((Route::Local, Duration::ZERO), (Route::Cloud, policy.cloud_after)),
            (true, false) => Plan::one((Route::Local, Duration::ZERO)),
            (false, true) => Plan::one((Route::Cloud, Duration::ZERO)),
            (false, false) => Plan::none(),
        }
    }

    /// The pause before the next read over this route.
    pub(super) fn poll_pause(&self, route: Route, policy: &RoutePolicy, now: Instant) -> Duration {
        match (route, self.health(route)) {
            (Route::Local, Health::Untried | Health::Up) => policy.poll_interval,
            (Route::Local, Health::Doubtful) => SECOND_LOOK,
            (Route::Local, Health::Resting { since }) if now < since + PROBE_OFTEN_FOR => PROBE,
            (Route::Local, Health::Resting { .. }) => PROBE_SELDOM,
            (Route::Cloud, Health::Resting { .. }) => {
                let earlier = usize::from(self.failures[route.index()].saturating_sub(1));
                let step = earlier.min(CLOUD_PATIENCE.len() - 1);
                policy.cloud_poll_interval * CLOUD_PATIENCE[step]
            }
            (Route::Cloud, Health::Doubtful) => policy.cloud_poll_interval.min(PROBE),
            (Route::Cloud, Health::Untried | Health::Up) => policy.cloud_poll_interval,
        }
    }
}

/// A list of at most two, without an allocation.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteList<T>([Option<T>; 2]);

impl<T: Copy> RouteList<T> {
    const fn none() -> Self {
        Self([None, None])
    }

    const fn one(first: T) -> Self {
        Self([Some(first), None])
    }

    const fn two(first: T, second: T) -> Self {
        Self([Some(first), Some(second)])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().flatten().copied()
    }
}

impl Plan {
    /// The same routes with this one first, if it is among them.
    pub(super) fn led_by(self, first: Option<Route>, head_start: Duration) -> Self {
        match self.0 {
            [Some((before, _)), Some((after, _))] if first == Some(after) => {
                Self::two((after, Duration::ZERO), (before, head_start))
            }
            _ => self,
        }
    }
}
