//! When the state of a plug is read next over each route, without a command.

use std::time::{Duration, Instant};

use crate::backoff::spread;
use crate::bridge::event::PlugKey;
use crate::bridge::poll_limiter::PollLimiter;
use crate::bridge::route::RoutePolicy;
use crate::model::Route;

/// After a failed read that was to show what an older command did late.
const READ_AGAIN: Duration = Duration::from_secs(2);
/// When the cloud works again, the plugs are read this far apart: its calls are counted.
const CLOUD_STEP: Duration = Duration::from_millis(10);
/// The same at the start.
const FIRST_CLOUD_STEP: Duration = Duration::from_millis(1);

/// The next polls of one plug.
#[derive(Debug)]
pub(super) struct Polls {
    due: [Instant; 2],
    /// The slot that the limiter gave the next poll over the LAN; valid while that poll is due then.
    slot: Option<Instant>,
}

impl Polls {
    pub(super) fn new(key: PlugKey, now: Instant) -> Self {
        Self { due: [now, now + FIRST_CLOUD_STEP * key.0], slot: None }
    }

    pub(super) fn due(&self, route: Route) -> Instant {
        self.due[route.index()]
    }

    pub(super) fn set(&mut self, route: Route, at: Instant) {
        self.due[route.index()] = at;
    }

    pub(super) fn set_all(&mut self, at: Instant) {
        self.due = [at; 2];
    }

    /// Moves later polls to this moment, whichever route serves the plug by then.
    pub(super) fn hasten(&mut self, at: Instant) {
        self.due = self.due.map(|due| due.min(at));
    }

    /// The cloud works again.
    pub(super) fn restart_cloud(&mut self, key: PlugKey, now: Instant) {
        self.set(Route::Cloud, now + CLOUD_STEP * key.0);
    }

    /// Asks the limiter for a slot for the poll over the LAN that is due; returns when it is due if not now.
    pub(super) fn defer(&mut self, limiter: &mut PollLimiter, now: Instant) -> Option<Instant> {
        let due = &mut self.due[Route::Local.index()];
        limiter.defers(due, &mut self.slot, now).then_some(*due)
    }

    /// Whether the poll over the LAN is due then, and has no slot of its own yet.
    pub(super) fn is_next(&self, at: Instant) -> bool {
        self.due(Route::Local) == at && self.slot != Some(at)
    }
}

/// Spreads the first polls after a start over the interval, so that each plug keeps its own place in it.
pub(super) fn first_pause(pause: Duration, key: PlugKey) -> Duration {
    pause.mul_f64(0.2 + 0.8 * spread(key.0.into()))
}

/// The pause after a poll that the rate limit of the cloud held back: shorter than a whole interval, and not the same
/// for all plugs.
pub(super) fn pause_after_throttle(policy: &RoutePolicy, key: PlugKey) -> Duration {
    policy.cloud_poll_interval.mul_f64(0.25 + 0.25 * spread(key.0.into()))
}

/// When to read again for the effect of an older command: at `check_at` if that effect cannot be seen earlier, soon if
/// a read is missing.
pub(super) fn watch_at(check_at: Option<Instant>, is_watched: bool, now: Instant) -> Option<Instant> {
    check_at.or_else(|| is_watched.then(|| now + READ_AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_only_for_the_poll_that_it_was_given_to() {
        let now = Instant::now();
        let mut limiter = PollLimiter::default();
        let mut polls: Vec<_> = (0..40).map(|key| Polls::new(PlugKey(key), now)).collect();
        let deferred: Vec<_> = polls.iter_mut().filter_map(|polls| polls.defer(&mut limiter, now)).collect();
        assert!(!deferred.is_empty(), "forty plugs do not fit into one slot");
        let last = polls.last_mut().unwrap();
        let slot = last.due(Route::Local);
        assert_eq!(Some(&slot), deferred.last());
        assert!(!last.is_next(slot), "it has a slot of its own");
        assert_eq!(last.defer(&mut limiter, slot), None, "its slot has come");
        last.set(Route::Local, slot + Duration::from_secs(5));
        assert!(last.is_next(slot + Duration::from_secs(5)));
    }

    #[test]
    fn polls_are_hastened_and_never_put_off() {
        let now = Instant::now();
        let mut polls = Polls::new(PlugKey(0), now);
        polls.set(Route::Cloud, now + Duration::from_secs(60));
        polls.hasten(now + Duration::from_secs(3));
        assert_eq!(Route::ALL.map(|route| polls.due(route)), [now, now + Duration::from_secs(3)]);
    }

    #[test]
    fn the_first_pauses_differ_from_plug_to_plug() {
        let pause = Duration::from_secs(5);
        let pauses = [0, 1, 2].map(|key| first_pause(pause, PlugKey(key)));
        assert!(pauses[0] != pauses[1] && pauses[1] != pauses[2]);
        assert!(pauses.iter().all(|first| *first >= pause / 5 && *first <= pause));
    }
}
