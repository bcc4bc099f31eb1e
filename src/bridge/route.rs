//! How a plug is reached: what the user wrote ([`RoutePolicy`]), what we saw, and the plan for one command.

use std::time::{Duration, Instant};

use crate::model::{LanProtocol, Route, Verdict};

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

/// How long a hiccup is waited out before the LAN is asked again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A resting LAN is probed this often …
const PROBE: Duration = Duration::from_secs(10);
/// … for this long …
const PROBE_OFTEN_FOR: Duration = Duration::from_secs(600);
/// … and this often afterwards.
const PROBE_SELDOM: Duration = Duration::from_secs(60);
/// After each refused read over the cloud the next one waits so many poll intervals.
const CLOUD_PATIENCE: [u32; 4] = [1, 2, 5, 10];
/// Hiccups in a row after which a route is rested.
const HICCUPS: u32 = 2;

/// What we saw of one route to one plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Health {
    /// Not tried yet.
    #[default]
    Untried,
    /// Its last exchange was answered.
    Up,
    /// It failed in a way that may have been a hiccup, so many times in a row.
    Doubtful(u32),
    /// It does not work; it is probed now and then and used again from its first answer.
    Resting {
        /// Since when.
        since: Instant,
        /// Failures since then.
        failures: u32,
    },
}

/// What we saw of both routes to one plug.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Routes {
    health: [Health; 2],
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

    /// How to speak to the plug on the LAN. [`LanProtocol::Klap`] is not built yet, so plugs are probed with XOR.
    #[expect(clippy::unused_self, reason = "it will depend on what was seen")]
    pub(super) fn lan_protocol(&self) -> LanProtocol {
        LanProtocol::Xor
    }

    /// The plug answered over this route.
    pub(super) fn answered(&mut self, route: Route) {
        self.health[route.index()] = Health::Up;
    }

    /// An exchange over this route failed.
    pub(super) fn failed(&mut self, route: Route, verdict: Verdict, now: Instant) {
        let health = &mut self.health[route.index()];
        *health = match (*health, verdict) {
            (_, Verdict::PlugRefuses) => Health::Up,
            (Health::Resting { since, failures }, _) => Health::Resting { since, failures: failures + 1 },
            (_, Verdict::RouteDown) => Health::Resting { since: now, failures: 1 },
            (Health::Doubtful(hiccups), _) if hiccups + 1 >= HICCUPS => {
                Health::Resting { since: now, failures: hiccups + 1 }
            }
            (Health::Doubtful(hiccups), _) => Health::Doubtful(hiccups + 1),
            (Health::Untried | Health::Up, _) => Health::Doubtful(1),
        };
    }

    /// The other route had to answer in this one's place.
    pub(super) fn overtaken(&mut self, route: Route, now: Instant) {
        if !self.is_resting(route) {
            self.health[route.index()] = Health::Resting { since: now, failures: 1 };
        }
    }

    /// What was seen no longer counts: the plug is somewhere else, or the cloud is another.
    pub(super) fn forget(&mut self, route: Route) {
        self.health[route.index()] = Health::Untried;
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

    /// The pause before the next read over this route, by what was seen of it.
    pub(super) fn poll_pause(&self, route: Route, policy: &RoutePolicy, now: Instant) -> Duration {
        match (route, self.health(route)) {
            (Route::Local, Health::Untried | Health::Up) => policy.poll_interval,
            (Route::Local, Health::Doubtful(_)) => SECOND_LOOK,
            (Route::Local, Health::Resting { since, .. }) if now < since + PROBE_OFTEN_FOR => PROBE,
            (Route::Local, Health::Resting { .. }) => PROBE_SELDOM,
            (Route::Cloud, Health::Resting { failures, .. }) => {
                let step = (failures.saturating_sub(1) as usize).min(CLOUD_PATIENCE.len() - 1);
                policy.cloud_poll_interval * CLOUD_PATIENCE[step]
            }
            (Route::Cloud, Health::Doubtful(_)) => policy.cloud_poll_interval.min(PROBE),
            (Route::Cloud, Health::Untried | Health::Up) => policy.cloud_poll_interval,
        }
    }
}

/// A list of at most two, in place.
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
