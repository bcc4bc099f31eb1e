//! Slots for the reads of many plugs: the reads of a slot share one wake-up of the daemon, and the number of reads in a
//! slot and in flight is limited.

use std::time::{Duration, Instant};

/// At most this many plugs are read in one slot …
const READS_PER_SLOT: usize = 16;
/// … and slots are at least this far apart. After a start, or when the machine was suspended, all plugs are due at once.
const SLOT_INTERVAL: Duration = Duration::from_millis(4);
/// At most this many reads wait for their answers; further ones get a later slot.
const MAX_READS_IN_FLIGHT: usize = 256;
/// A read that has waited this long does not count: a silent plug must not block the others. If answers are slow, because
/// the plugs or this machine are busy, the time is this factor times the usual one …
const RECENT: Duration = Duration::from_millis(250);
const RECENT_FACTOR: u32 = 4;
/// … but never longer than this.
const LONGEST_RECENT: Duration = Duration::from_secs(3);
/// A read is done early if it is due within this part of its interval.
const AHEAD_DIVISOR: u32 = 20;

/// The slots that were given out.
#[derive(Debug, Default)]
pub(super) struct PollLimiter {
    /// The latest slot, and how many reads are in it.
    latest: Option<(Instant, usize)>,
    /// Reads that wait for their answers.
    recent: RecentReads,
    /// How long an answer takes at present.
    usual: Duration,
}

/// Counts the reads that began in the current span of time and in the one before.
#[derive(Debug)]
struct RecentReads {
    span: Duration,
    /// When this span began.
    since: Option<Instant>,
    now: usize,
    before: usize,
}

impl Default for RecentReads {
    fn default() -> Self {
        Self { span: RECENT, since: None, now: 0, before: 0 }
    }
}

impl PollLimiter {
    /// Whether a read that is due has to wait for a later slot. If so, `due` becomes the time of the slot, which `slot`
    /// remembers while `due` is not changed.
    pub(super) fn defers(&mut self, due: &mut Instant, slot: &mut Option<Instant>, now: Instant) -> bool {
        let given = self.take_slot(*slot == Some(*due), now);
        if given > now {
            *due = given;
            *slot = Some(given);
        }
        given > now
    }

    /// Takes the next slot that is not full, which may be now. `reserved`: the read already has this slot.
    fn take_slot(&mut self, reserved: bool, now: Instant) -> Instant {
        let is_full = self.recent.count(now) >= MAX_READS_IN_FLIGHT;
        if reserved && !is_full {
            return now;
        }
        let (slot, taken) = match self.latest {
            Some((slot, taken)) if now < slot + SLOT_INTERVAL && taken < READS_PER_SLOT => (slot, taken + 1),
            Some((slot, _)) => (now.max(slot + SLOT_INTERVAL), 1),
            None => (now, 1),
        };
        let (slot, taken) = if is_full && slot <= now { (now + SLOT_INTERVAL, 1) } else { (slot, taken) };
        self.latest = Some((slot, taken));
        slot.max(now)
    }

    /// A read begins.
    pub(super) fn begun(&mut self, now: Instant) {
        self.recent.pass(now);
        self.recent.now += 1;
    }

    /// A read that began at `begun` was answered.
    pub(super) fn answered(&mut self, begun: Instant, now: Instant) {
        self.ended(begun, now);
        self.usual = (self.usual * 7 + now.saturating_duration_since(begun)) / 8;
        self.recent.span = (self.usual * RECENT_FACTOR).clamp(RECENT, LONGEST_RECENT);
    }

    /// A read that began at `begun` ended.
    pub(super) fn ended(&mut self, begun: Instant, now: Instant) {
        self.recent.pass(now);
        self.recent.forget(begun);
    }

    /// Whether the present slot is not full.
    pub(super) fn has_slot(&self, now: Instant) -> bool {
        self.latest.is_none_or(|(slot, taken)| {
            slot + SLOT_INTERVAL <= now || (slot <= now && taken < READS_PER_SLOT)
        })
    }
}

impl RecentReads {
    fn count(&mut self, now: Instant) -> usize {
        self.pass(now);
        self.now + self.before
    }

    fn pass(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now >= since + 2 * self.span {
            (self.now, self.before) = (0, 0);
            self.since = Some(now);
        } else if now >= since + self.span {
            (self.now, self.before) = (0, self.now);
            self.since = Some(since + self.span);
        }
    }

    fn forget(&mut self, begun: Instant) {
        let Some(since) = self.since else { return };
        if begun >= since {
            self.now = self.now.saturating_sub(1);
        } else if begun + self.span >= since {
            self.before = self.before.saturating_sub(1);
        }
    }
}

/// How early a read with this interval may be done.
pub(super) fn ahead(interval: Duration) -> Duration {
    interval / AHEAD_DIVISOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_spread_over_slots_of_limited_size() {
        let start = Instant::now();
        let mut limiter = PollLimiter::default();
        let slots: Vec<_> = (0..3 * READS_PER_SLOT).map(|_| limiter.take_slot(false, start)).collect();
        for (number, slot) in slots.into_iter().enumerate() {
            assert_eq!(slot, start + SLOT_INTERVAL * (number / READS_PER_SLOT) as u32);
        }
        assert!(!limiter.has_slot(start + SLOT_INTERVAL), "the slot is full");
        assert!(limiter.has_slot(start + 3 * SLOT_INTERVAL));
        assert_eq!(limiter.take_slot(false, start), start + 3 * SLOT_INTERVAL, "after the full slots");
    }

    #[test]
    fn a_single_read_does_not_wait() {
        let start = Instant::now();
        let mut limiter = PollLimiter::default();
        for number in 0..100 {
            let now = start + SLOT_INTERVAL * number;
            assert!(limiter.has_slot(now));
            assert_eq!(limiter.take_slot(false, now), now);
        }
    }

    #[test]
    fn a_read_begins_at_once_while_the_slot_is_not_full() {
        let start = Instant::now();
        let mut limiter = PollLimiter::default();
        limiter.take_slot(false, start);
        assert_eq!(limiter.take_slot(false, start + SLOT_INTERVAL / 2), start + SLOT_INTERVAL / 2);
    }

    #[test]
    fn no_read_begins_while_too_many_are_in_flight_and_old_ones_do_not_count() {
        let start = Instant::now();
        let mut limiter = PollLimiter::default();
        (0..MAX_READS_IN_FLIGHT).for_each(|_| limiter.begun(start));
        assert!(limiter.take_slot(false, start) > start);
        assert!(limiter.take_slot(true, start) > start, "a reserved slot does not help");
        limiter.ended(start, start + SLOT_INTERVAL);
        assert_eq!(limiter.take_slot(true, start + SLOT_INTERVAL), start + SLOT_INTERVAL);
        limiter.begun(start + SLOT_INTERVAL);
        let later = start + 2 * RECENT;
        assert!(limiter.take_slot(true, later) == later, "silent plugs count for a limited time");
        (0..10).for_each(|_| limiter.ended(start, later));
        assert_eq!(limiter.recent.count(later), 0);
    }

    #[test]
    fn where_answers_are_slow_a_read_counts_as_in_flight_for_longer() {
        let start = Instant::now();
        let mut limiter = PollLimiter::default();
        let begin_all =
            |limiter: &mut PollLimiter, at| (0..MAX_READS_IN_FLIGHT).for_each(|_| limiter.begun(at));
        begin_all(&mut limiter, start);
        let slow = start + 2 * RECENT;
        (0..MAX_READS_IN_FLIGHT / 2).for_each(|_| limiter.answered(start, slow));
        begin_all(&mut limiter, slow);
        assert!(limiter.take_slot(true, slow + 2 * RECENT) > slow + 2 * RECENT, "they may still answer");
        let late = slow + 2 * LONGEST_RECENT;
        assert_eq!(limiter.take_slot(true, late), late, "that is the longest time");
        begin_all(&mut limiter, late);
        (0..MAX_READS_IN_FLIGHT).for_each(|_| limiter.answered(late, late));
        begin_all(&mut limiter, late);
        assert_eq!(limiter.take_slot(true, late + 2 * RECENT), late + 2 * RECENT, "they are quick again");
    }
}
