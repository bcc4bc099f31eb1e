//! Whether the broker sends us anything: our own `bridge/state` must come back on each connection, and is published again
//! from time to time for this. Values only.
//!
//! A cluster may lose a subscription that it has acknowledged: RabbitMQ does at times, when a client has changed the node. The
//! connection then works in one direction: states are published, and no command arrives.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// From the acknowledgement of our message until it has come back, at first.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// Our state is published again after this time, then after the double time, and so on.
const FIRST_PROBE: Duration = Duration::from_secs(15);
/// The longest time between two of them.
const LONGEST_PROBE: Duration = Duration::from_secs(600);
/// The longest such wait: the right to read may have been taken away, and then no connection brings anything back.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What is known about our own messages, over all connections.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// One has come back on an earlier connection: the broker lets us read them.
    has_come: bool,
    /// How many connections in a row were given up because none came.
    given_up: u32,
    /// One has come on this connection, perhaps before its acknowledgement.
    has_come_here: bool,
    /// When one must have come on this connection; `None` while none is expected.
    due: Option<Instant>,
    /// When our state is published again; `None` before it has come on this connection.
    probe_at: Option<Instant>,
    /// How often it was published again on this connection.
    probes: u32,
}

impl Echo {
    /// A connection begins. Nothing was published on it, and nothing of the one before is waited for.
    pub(super) fn begins(&mut self) {
        *self = Self { has_come: self.has_come, given_up: self.given_up, ..Self::default() };
    }

    /// The broker has accepted a message of ours that we are subscribed to.
    pub(super) fn published(&mut self, now: Instant) {
        if self.has_come && !self.has_come_here {
            self.due.get_or_insert(
                now + Backoff::new(FIRST_WAIT, LONGEST_WAIT).pause(self.given_up.saturating_add(1)),
            );
        }
    }

    /// Such a message has come.
    pub(super) fn came(&mut self, now: Instant) {
        (self.has_come, self.has_come_here, self.given_up, self.due) = (true, true, 0, None);
        let wait = Backoff::new(FIRST_PROBE, LONGEST_PROBE).pause(self.probes.saturating_add(1));
        self.probe_at.get_or_insert(now + wait);
    }

    /// When our state is to be published again.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    /// Whether our state is to be published again now. It must come back as at first.
    pub(super) fn is_probe_due(&mut self, now: Instant) -> bool {
        let is_due = self.probe_at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.has_come_here = false;
            self.probes = self.probes.saturating_add(1);
        }
        is_due
    }

    /// When a message must have come.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the connection is to be given up.
    pub(super) fn is_missing(&mut self, now: Instant) -> bool {
        let is_missing = self.due.take_if(|due| *due <= now).is_some();
        self.given_up = self.given_up.saturating_add(u32::from(is_missing));
        is_missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a new connection stands on which nothing comes, in seconds; `None` for ever.
    fn stands(echo: &mut Echo) -> Option<u64> {
        let now = Instant::now();
        echo.begins();
        echo.published(now);
        let due = echo.due()?;
        assert!(!echo.is_missing(due - Duration::from_millis(1)));
        assert!(echo.is_missing(due));
        Some((due - now).as_secs())
    }

    #[test]
    fn a_broker_that_sent_our_messages_back_and_does_not_any_more_is_given_up_after_growing_times() {
        let mut echo = Echo::default();
        echo.came(Instant::now());
        let waits: Vec<_> = (0..10).map(|_| stands(&mut echo).unwrap()).collect();
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        echo.came(Instant::now());
        assert_eq!(stands(&mut echo), Some(15));
    }

    #[test]
    fn a_broker_that_never_sent_our_messages_back_is_not_given_up() {
        assert_eq!(stands(&mut Echo::default()), None);
    }

    #[test]
    fn one_message_that_came_is_enough_for_a_connection() {
        let (mut echo, now) = (Echo::default(), Instant::now());
        echo.came(Instant::now());
        for is_acknowledged_first in [true, false] {
            echo.begins();
            if is_acknowledged_first {
                echo.published(now);
                assert_eq!(echo.due(), Some(now + FIRST_WAIT));
            }
            echo.came(Instant::now());
            echo.published(now);
            assert_eq!(echo.due(), None);
        }
    }

    #[test]
    fn a_subscription_that_is_lost_later_is_noticed_by_the_next_probe() {
        let (mut echo, mut now) = (Echo::default(), Instant::now());
        echo.begins();
        let mut waits = Vec::new();
        for _ in 0..8 {
            echo.published(now);
            echo.came(now);
            let at = echo.probe_at().unwrap();
            waits.push((at - now).as_secs());
            assert!(!echo.is_probe_due(at - Duration::from_millis(1)));
            assert!(echo.is_probe_due(at));
            now = at;
        }
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 600, 600]);
        echo.published(now);
        assert!(echo.is_missing(now + FIRST_WAIT));
    }
}
