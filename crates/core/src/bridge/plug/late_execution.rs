//! Commands that a plug carries out late: the newest confirmed state of a relay is defended against older requests.

use std::time::{Duration, Instant};

use crate::model::RelayState;

/// A late execution is corrected if it is seen within this time, in which a failed read can be repeated. A later change
/// is assumed to be manual and kept.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// What guards the state of one relay.
#[derive(Debug, Default)]
pub(super) struct LateExecution {
    /// The state that should hold: that of the newest confirmed command, or of the button since.
    settled: Option<RelayState>,
    /// Until when an older request may still be carried out against `settled`. Corrected once.
    defended_until: Option<Instant>,
    /// Until when a request without an answer may still switch to off, to on.
    stray: [Option<Instant>; 2],
}

impl LateExecution {
    /// A read showed this state, and nothing is wrong with it.
    pub(super) fn settle(&mut self, state: RelayState) {
        self.settled = Some(state);
    }

    pub(super) fn defend_until(&mut self, until: Option<Instant>) {
        self.defended_until = until;
    }

    /// A newer command came: the state before it is not defended against it.
    pub(super) fn stop(&mut self) {
        self.defended_until = None;
    }

    /// A request into this state was not answered, and may be carried out until then.
    pub(super) fn note_stray(&mut self, state: RelayState, until: Instant) {
        let known = &mut self.stray[usize::from(state.is_on())];
        *known = (*known).max(Some(until));
    }

    /// Until when a request without an answer may still bring the relay into this state.
    pub(super) fn stray_until(&self, state: RelayState) -> Option<Instant> {
        self.stray[usize::from(state.is_on())]
    }

    /// When the effect of older requests can be seen, if it cannot yet.
    pub(super) fn check_at(&self, now: Instant) -> Option<Instant> {
        self.defended_until.filter(|&until| until > now)
    }

    /// Whether an older request may have switched the relay unseen since the last reading, which was requested at `read`.
    pub(super) fn is_watched(&self, read: Option<Instant>, now: Instant) -> bool {
        let Some((until, read)) = self.defended_until.zip(read) else { return false };
        read < until && now <= until + SEEN_WITHIN
    }

    /// Whether this state is the late execution of an older request. `read`: as in [`Self::is_watched`].
    pub(super) fn shows(&self, state: RelayState, read: Option<Instant>, now: Instant) -> bool {
        self.settled.is_some_and(|settled| settled != state) && self.is_watched(read, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RelayState::{Off, On};

    #[test]
    fn a_late_execution_is_seen_only_while_an_older_request_may_have_been_carried_out() {
        let read = Instant::now();
        let (until, later) = (read + Duration::from_secs(3), read + Duration::from_secs(4));
        let mut relay = LateExecution::default();
        relay.settle(On);
        assert!(!relay.shows(Off, Some(read), later), "nothing older is under way: a button");
        relay.defend_until(Some(until));
        assert!(relay.shows(Off, Some(read), later));
        assert!(!relay.shows(On, Some(read), later), "that is the settled state");
        assert!(!relay.shows(Off, Some(until), later), "the last reading was newer than the request");
        assert!(!relay.shows(Off, Some(read), until + SEEN_WITHIN + Duration::from_secs(1)), "too late");
        relay.stop();
        assert!(!relay.shows(Off, Some(read), later), "a newer command came");
    }

    #[test]
    fn the_latest_stray_request_counts_for_each_state() {
        let now = Instant::now();
        let mut relay = LateExecution::default();
        relay.note_stray(On, now + Duration::from_secs(3));
        relay.note_stray(On, now + Duration::from_secs(1));
        assert_eq!(relay.stray_until(On), Some(now + Duration::from_secs(3)));
        assert_eq!(relay.stray_until(Off), None);
    }
}
