//! Whether a plug can be reached, over which route, and when it counts as offline.

use std::time::{Duration, Instant};

use crate::bridge::counters::PlugCounters;
use crate::bridge::failures::{Failures, LastErrors};
use crate::bridge::route::{RoutePolicy, Routes};
use crate::model::{Availability, Route, Verdict};

/// A plug is offline if this many reads in a row failed on all routes …
const MISSES_UNTIL_OFFLINE: u32 = 3;
/// … and this much time passed without an answer.
const SILENCE_UNTIL_OFFLINE: Duration = Duration::from_secs(30);
/// An answer over the cloud counts for this many poll intervals: the rate limit may hold polls back.
const FRESH_POLLS: u32 = 5;

/// What was seen of the routes to one plug, and what follows from it.
#[derive(Debug)]
pub(super) struct Reachability {
    pub(super) routes: Routes,
    /// Why each route failed last, unless it has worked since.
    pub(super) failures: Failures,
    pub(super) last_errors: LastErrors,
    /// When the plug last answered; until it does, when it was added.
    silent_since: Instant,
    /// When it last answered over each route.
    last_answers: [Option<Instant>; 2],
    /// Failed reads since then.
    misses: u32,
    availability: Option<Availability>,
    /// The route that serves the plug.
    serving: Option<Route>,
    /// Each usable route has failed since the last answer.
    is_unserved: bool,
    /// The route at the last count of route changes; `None` before the first answer.
    counted: Option<Option<Route>>,
}

impl Reachability {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            routes: Routes::default(),
            failures: Failures::default(),
            last_errors: LastErrors::default(),
            silent_since: now,
            last_answers: [None; 2],
            misses: 0,
            availability: None,
            serving: None,
            is_unserved: false,
            counted: None,
        }
    }

    pub(super) fn is_up(&self, route: Route) -> bool {
        self.routes.is_up(route)
    }

    pub(super) fn is_resting(&self, route: Route) -> bool {
        self.routes.is_resting(route)
    }

    pub(super) fn availability(&self) -> Option<Availability> {
        self.availability
    }

    pub(super) fn is_online(&self) -> bool {
        self.availability == Some(Availability::Online)
    }

    pub(super) fn serving(&self) -> Option<Route> {
        self.serving
    }

    /// The route to publish: none if all have failed.
    pub(super) fn published_route(&self) -> Option<Route> {
        self.serving.filter(|_| !self.is_unserved)
    }

    /// Counts a change of the route to publish, if it has changed since the last call. The first one is no change.
    pub(super) fn count_route_change(&mut self, counters: &mut PlugCounters) {
        if self.availability.is_none() {
            return;
        }
        let route = self.published_route();
        if self.counted.replace(route).is_some_and(|before| before != route) {
            counters.count_route_change(route);
        }
    }

    pub(super) fn last_answers(&self) -> [Option<Instant>; 2] {
        self.last_answers
    }

    fn has_answered(&self) -> bool {
        self.last_answers.iter().any(Option::is_some)
    }

    /// Whether the first attempt to read the plug has ended.
    pub(super) fn was_tried(&self) -> bool {
        self.has_answered() || self.misses > 0
    }

    /// Whether the last exchange on some route was answered; over the cloud only if that is not long ago.
    pub(super) fn is_reached(&self, policy: &RoutePolicy, now: Instant) -> bool {
        let fresh_until = self.silent_since + policy.cloud_poll_interval * FRESH_POLLS;
        let is_fresh = self.has_answered() && now < fresh_until;
        self.is_up(Route::Local) || (self.is_up(Route::Cloud) && is_fresh)
    }

    /// The plug answered over this route.
    pub(super) fn answered(&mut self, route: Route, now: Instant) {
        self.silent_since = now;
        self.last_answers[route.index()] = Some(now);
        self.misses = 0;
        self.is_unserved = false;
        self.routes.answered(route);
        self.failures.forget(route);
    }

    /// An exchange over this route failed.
    pub(super) fn failed(&mut self, route: Route, verdict: Verdict, policy: &RoutePolicy, now: Instant) {
        self.routes.failed(route, verdict, now);
        if !self.is_reached(policy, now) {
            self.misses += 1;
        }
    }

    /// Chooses the route that serves the plug: the LAN while it works, the cloud once it answered without the LAN. Returns
    /// the route before and the new one, if they differ.
    pub(super) fn choose_route(&mut self, may_use_local: bool) -> Option<(Route, Route)> {
        let route = match (self.is_up(Route::Local), self.is_up(Route::Cloud)) {
            (true, _) => Route::Local,
            (false, true) if self.is_resting(Route::Local) || !may_use_local => Route::Cloud,
            (false, true) if self.serving.is_none() => Route::Cloud,
            _ => return None,
        };
        let before = self.serving.replace(route)?;
        (before != route).then_some((before, route))
    }

    /// Notes if each usable route has failed. A route that was not tried, or failed once in a way that may pass, may still
    /// answer.
    pub(super) fn note_unserved(&mut self, usable: [bool; 2]) {
        let may_answer = |route: &Route| usable[route.index()] && !self.is_resting(*route);
        self.is_unserved |= !Route::ALL.iter().any(may_answer);
    }

    /// When the plug is offline if it stays silent; `None` if it is offline already, or reached, or has not missed enough.
    pub(super) fn offline_at(&self, policy: &RoutePolicy, now: Instant) -> Option<Instant> {
        let is_offline = self.availability == Some(Availability::Offline);
        if self.misses < MISSES_UNTIL_OFFLINE || is_offline || self.is_reached(policy, now) {
            return None;
        }
        Some(self.silent_since + SILENCE_UNTIL_OFFLINE)
    }

    pub(super) fn set_offline(&mut self) {
        self.availability = Some(Availability::Offline);
        self.serving = None;
    }

    pub(super) fn set_online(&mut self) {
        self.availability = Some(Availability::Online);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Verdict = Verdict::RouteDown;

    #[test]
    fn a_plug_is_offline_after_three_misses_and_half_a_minute() {
        let (policy, start) = (RoutePolicy::default(), Instant::now());
        let mut plug = Reachability::new(start);
        plug.answered(Route::Local, start);
        plug.set_online();
        for miss in 1..MISSES_UNTIL_OFFLINE {
            plug.failed(Route::Local, DOWN, &policy, start + Duration::from_secs(miss.into()));
            assert_eq!(plug.offline_at(&policy, start + Duration::from_secs(60)), None, "{miss} misses");
        }
        plug.failed(Route::Local, DOWN, &policy, start + Duration::from_secs(5));
        assert_eq!(
            plug.offline_at(&policy, start + Duration::from_secs(5)),
            Some(start + SILENCE_UNTIL_OFFLINE)
        );
        plug.set_offline();
        assert_eq!((plug.offline_at(&policy, start), plug.serving()), (None, None));
        plug.answered(Route::Local, start);
        assert!(!plug.is_online(), "the plug decides when it is published");
        plug.set_online();
        assert_eq!(plug.offline_at(&policy, start), None);
    }

    #[test]
    fn an_answer_over_the_cloud_counts_for_some_polls_and_one_over_the_lan_until_it_fails() {
        let (policy, start) = (RoutePolicy::default(), Instant::now());
        let later = start + policy.cloud_poll_interval * FRESH_POLLS;
        let mut plug = Reachability::new(start);
        assert!(!plug.is_reached(&policy, start));
        plug.answered(Route::Cloud, start);
        assert!(plug.is_reached(&policy, start) && !plug.is_reached(&policy, later));
        plug.answered(Route::Local, start);
        assert!(plug.is_reached(&policy, later));
    }

    #[test]
    fn the_cloud_serves_once_it_answered_without_the_lan_and_the_lan_from_its_first_answer() {
        let (policy, now) = (RoutePolicy::default(), Instant::now());
        let mut plug = Reachability::new(now);
        plug.answered(Route::Local, now);
        assert_eq!(plug.choose_route(true), None, "the first one is no change");
        plug.failed(Route::Local, Verdict::RouteDoubtful, &policy, now);
        plug.answered(Route::Cloud, now);
        assert_eq!(plug.choose_route(true), None, "that may have been a hiccup");
        plug.failed(Route::Local, DOWN, &policy, now);
        assert_eq!(plug.choose_route(true), Some((Route::Local, Route::Cloud)));
        plug.answered(Route::Local, now);
        assert_eq!(plug.choose_route(true), Some((Route::Cloud, Route::Local)));
    }

    #[test]
    fn no_route_is_published_once_each_usable_one_has_failed() {
        let (policy, now) = (RoutePolicy::default(), Instant::now());
        let mut plug = Reachability::new(now);
        plug.answered(Route::Local, now);
        plug.choose_route(true);
        plug.failed(Route::Local, DOWN, &policy, now);
        plug.note_unserved([true, true]);
        assert_eq!(plug.published_route(), Some(Route::Local), "the cloud was not tried");
        plug.note_unserved([true, false]);
        assert_eq!(plug.published_route(), None);
        plug.answered(Route::Local, now);
        assert_eq!(plug.published_route(), Some(Route::Local));
    }
}
