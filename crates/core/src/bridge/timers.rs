//! The wake-ups of all plugs, ordered by time: one for each plug, found without a search. `waiting` says what they are for.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Instant;

use super::event::PlugKey;

/// At most one wake-up for each plug.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, PlugKey)>,
    armed: Vec<Option<Instant>>,
}

impl Timers {
    /// Starts or moves the plug's timer; `None` stops it.
    pub(super) fn set(&mut self, key: PlugKey, at: Option<Instant>) {
        let index = key.0 as usize;
        if self.armed.len() <= index {
            self.armed.resize(index + 1, None);
        }
        if self.armed[index] == at {
            return;
        }
        if let Some(old) = self.armed[index].take() {
            self.queue.remove(&(old, key));
        }
        if let Some(at) = at {
            self.queue.insert((at, key));
            self.armed[index] = Some(at);
        }
    }

    /// The earliest wake-up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// The next wake-up after this one.
    pub(super) fn after(&self, timer: (Instant, PlugKey)) -> Option<(Instant, PlugKey)> {
        self.queue.range((Bound::Excluded(timer), Bound::Unbounded)).next().copied()
    }

    /// Takes one plug whose wake-up is due.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<PlugKey> {
        let &(at, key) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn plugs_are_woken_in_the_order_of_their_time_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(PlugKey(7), Some(at(3)));
        timers.set(PlugKey(1), Some(at(2)));
        timers.set(PlugKey(2), Some(at(1)));
        timers.set(PlugKey(1), Some(at(4)));
        timers.set(PlugKey(2), None);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.after((at(1), PlugKey(9))), Some((at(3), PlugKey(7))));
        assert_eq!(timers.after((at(3), PlugKey(7))), Some((at(4), PlugKey(1))));
        assert_eq!(timers.after((at(4), PlugKey(1))), None);
        assert_eq!(timers.pop_expired(at(2)), None);
        assert_eq!(timers.pop_expired(at(9)), Some(PlugKey(7)));
        assert_eq!(timers.pop_expired(at(9)), Some(PlugKey(1)));
        assert_eq!(timers.pop_expired(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
