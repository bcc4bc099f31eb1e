//! When everything is published again for a Home Assistant that has started. Values only.

use std::time::{Duration, Instant};

use crate::backoff;

/// Home Assistant has everything within ten seconds of its birth message: the documents after `FIRST` to `FIRST` plus
/// `SPREAD`, since all bridges of a home receive the same birth message, and the states `STATES_AFTER` them.
const FIRST: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(6);
/// How long Home Assistant may take to subscribe to the states of its new entities. A broker whose nodes do not share what they
/// retain sends it only those that are published after that.
const STATES_AFTER: Duration = Duration::from_secs(2);

/// What is to be published again, and when.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    documents_at: Option<Instant>,
    states_at: Option<Instant>,
    births: u64,
}

impl Announcement {
    /// A birth message has come. One announcement answers several.
    pub(super) fn plan(&mut self, instance: &str, now: Instant) {
        self.births += 1;
        let seed = backoff::seed(instance).wrapping_add(self.births);
        self.documents_at.get_or_insert(now + FIRST + SPREAD.mul_f64(backoff::spread(seed)));
    }

    /// The time of the next step.
    pub(super) fn timer(&self) -> Option<Instant> {
        [self.documents_at, self.states_at].into_iter().flatten().min()
    }

    /// Whether the documents are to be published again now. The states follow.
    pub(super) fn takes_documents(&mut self, now: Instant) -> bool {
        let is_due = self.documents_at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.states_at = Some(now + STATES_AFTER);
        }
        is_due
    }

    /// Whether the states are to be published again now.
    pub(super) fn takes_states(&mut self, now: Instant) -> bool {
        self.states_at.take_if(|at| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_follows_a_birth_message_within_ten_seconds_and_the_states_come_last() {
        for instance in ["a", "b", "c", "d"] {
            let (mut announcement, now) = (Announcement::default(), Instant::now());
            announcement.plan(instance, now);
            let documents_at = announcement.timer().unwrap();
            assert!(documents_at >= now + FIRST && documents_at <= now + FIRST + SPREAD, "{instance}");
            announcement.plan(instance, now + SPREAD);
            assert_eq!(
                announcement.timer(),
                Some(documents_at),
                "a second birth message does not put it off"
            );

            assert!(!announcement.takes_documents(documents_at - Duration::from_millis(1)));
            assert!(
                announcement.takes_documents(documents_at) && !announcement.takes_documents(documents_at)
            );
            assert!(!announcement.takes_states(documents_at));
            let states_at = announcement.timer().unwrap();
            assert!(states_at > documents_at && states_at < now + Duration::from_secs(10), "{instance}");
            assert!(announcement.takes_states(states_at));
            assert_eq!(announcement.timer(), None);
        }
    }
}
