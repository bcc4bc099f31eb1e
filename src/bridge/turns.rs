//! How reads of many plugs share the wake-ups of the daemon, and how they are kept apart: at most so many begin together.

use std::time::{Duration, Instant};

/// So many plugs are read in one turn at the most …
const TOGETHER: usize = 16;
/// … and one turn follows the other in this time at the least. After a start, or when the whole machine has slept, every
/// plug wants to be read at once.
const APART: Duration = Duration::from_millis(4);
/// So many reads may be waiting for their answers; who comes then takes a later turn …
const IN_FLIGHT: usize = 256;
/// … but for those that have waited so long: a silent plug must not keep others from being read.
const YOUNG: Duration = Duration::from_millis(250);
/// A read is taken along if it is due within this part of its interval.
const AHEAD: u32 = 20;

/// The turns that were given out.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The latest one, and how many places in it are taken.
    latest: Option<(Instant, usize)>,
    /// Reads that wait for their answers, by when they began.
    young: Young,
}

/// Counts reads that began in this span of time and in the one before.
#[derive(Debug, Default)]
struct Young {
    /// When this span began.
    since: Option<Instant>,
    now: usize,
    before: usize,
}

impl Turns {
    /// Takes a place in the next turn that has one; it may be now. Where `reserved`, this is the turn that was given
    /// out before.
    pub(super) fn take_place(&mut self, reserved: bool, now: Instant) -> Instant {
        let is_full = self.young.count(now) >= IN_FLIGHT;
        if reserved && !is_full {
            return now;
        }
        let (turn, taken) = match self.latest {
            Some((turn, taken)) if now < turn + APART && taken < TOGETHER => (turn, taken + 1),
            Some((turn, _)) => (now.max(turn + APART), 1),
            None => (now, 1),
        };
        let (turn, taken) = if is_full && turn <= now { (now + APART, 1) } else { (turn, taken) };
        self.latest = Some((turn, taken));
        turn.max(now)
    }

    /// A read begins.
    pub(super) fn begun(&mut self, now: Instant) {
        self.young.pass(now);
        self.young.now += 1;
    }

    /// A read that began then is over.
    pub(super) fn ended(&mut self, begun: Instant, now: Instant) {
        self.young.pass(now);
        self.young.forget(begun);
    }

    /// Whether a place can be had at once.
    pub(super) fn has_place(&self, now: Instant) -> bool {
        self.latest.is_none_or(|(turn, taken)| turn + APART <= now || (turn <= now && taken < TOGETHER))
    }
}

impl Young {
    fn count(&mut self, now: Instant) -> usize {
        self.pass(now);
        self.now + self.before
    }

    fn pass(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now >= since + 2 * YOUNG {
            (self.now, self.before) = (0, 0);
            self.since = Some(now);
        } else if now >= since + YOUNG {
            (self.now, self.before) = (0, self.now);
            self.since = Some(since + YOUNG);
        }
    }

    fn forget(&mut self, begun: Instant) {
        let Some(since) = self.since else { return };
        if begun >= since {
            self.now = self.now.saturating_sub(1);
        } else if begun + YOUNG >= since {
            self.before = self.before.saturating_sub(1);
        }
    }
}

/// Until when a read with this interval may be due, to be taken along now.
pub(super) fn ahead(interval: Duration) -> Duration {
    interval / AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_out_by_turns_and_never_too_many_in_one() {
        let start = Instant::now();
        let mut turns = Turns::default();
        let places: Vec<_> = (0..3 * TOGETHER).map(|_| turns.take_place(false, start)).collect();
        for (number, place) in places.into_iter().enumerate() {
            assert_eq!(place, start + APART * (number / TOGETHER) as u32);
        }
        assert!(!turns.has_place(start + APART), "all that was given out is taken");
        assert!(turns.has_place(start + 3 * APART));
        assert_eq!(turns.take_place(false, start), start + 3 * APART, "behind those who came before");
    }

    #[test]
    fn who_comes_alone_need_not_wait() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for number in 0..100 {
            let now = start + APART * number;
            assert!(turns.has_place(now));
            assert_eq!(turns.take_place(false, now), now);
        }
    }

    #[test]
    fn who_comes_while_a_turn_has_room_joins_it_at_once() {
        let start = Instant::now();
        let mut turns = Turns::default();
        turns.take_place(false, start);
        assert_eq!(turns.take_place(false, start + APART / 2), start + APART / 2);
    }

    #[test]
    fn while_too_many_wait_for_their_answers_nobody_begins_and_the_old_ones_do_not_count() {
        let start = Instant::now();
        let mut turns = Turns::default();
        (0..IN_FLIGHT).for_each(|_| turns.begun(start));
        assert!(turns.take_place(false, start) > start);
        assert!(turns.take_place(true, start) > start, "not even who has a place already");
        turns.ended(start, start + APART);
        assert_eq!(turns.take_place(true, start + APART), start + APART);
        turns.begun(start + APART);
        let later = start + 2 * YOUNG;
        assert!(turns.take_place(true, later) == later, "the silent ones have waited long enough");
        (0..10).for_each(|_| turns.ended(start, later));
        assert_eq!(turns.young.count(later), 0);
    }
}
