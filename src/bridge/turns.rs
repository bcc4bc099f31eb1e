//! How reads of many plugs share the wake-ups of the daemon, and how they are kept apart: at most so many begin together,
//! and at most so many wait for their answers.

use std::time::{Duration, Instant};

/// So many plugs are read in one turn at the most …
const TOGETHER: usize = 16;
/// … and one turn follows the other in this time at the least. After a start, or when the whole machine has slept, every
/// plug wants to be read at once.
const APART: Duration = Duration::from_millis(4);
/// So many reads may be waiting for their answers; who comes then takes a later turn …
const IN_FLIGHT: usize = 256;
/// … but for those that have waited so long: a silent plug must not keep others from being read. Where answers take their
/// time, because the plugs or this machine are busy, silence is told from slowness only after so many times as long …
const YOUNG: Duration = Duration::from_millis(250);
const TIMES_AS_LONG: u32 = 4;
/// … but at last.
const OLD: Duration = Duration::from_secs(3);
/// A read is taken along if it is due within this part of its interval.
const AHEAD: u32 = 20;

/// The turns that were given out.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The latest one, and how many places in it are taken.
    latest: Option<(Instant, usize)>,
    /// Reads that wait for their answers, by when they began.
    young: Young,
    /// How long an answer takes just now.
    usual: Duration,
}

/// Counts reads that began in this span of time and in the one before.
#[derive(Debug)]
struct Young {
    span: Duration,
    /// When this span began.
    since: Option<Instant>,
    now: usize,
    before: usize,
}

impl Default for Young {
    fn default() -> Self {
        Self { span: YOUNG, since: None, now: 0, before: 0 }
    }
}

impl Turns {
    /// Whether what is due has to wait for a later turn; then `due` is moved to its place there, which `place` remembers
    /// for as long as `due` is not moved elsewhere.
    pub(super) fn puts_off(&mut self, due: &mut Instant, place: &mut Option<Instant>, now: Instant) -> bool {
        let given = self.take_place(*place == Some(*due), now);
        if given > now {
            *due = given;
            *place = Some(given);
        }
        given > now
    }

    /// Takes a place in the next turn that has one; it may be now. Where `reserved`, this is the turn that was given
    /// out before.
    fn take_place(&mut self, reserved: bool, now: Instant) -> Instant {
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

    /// A read that began then was answered.
    pub(super) fn answered(&mut self, begun: Instant, now: Instant) {
        self.ended(begun, now);
        self.usual = (self.usual * 7 + now.saturating_duration_since(begun)) / 8;
        self.young.span = (self.usual * TIMES_AS_LONG).clamp(YOUNG, OLD);
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

    #[test]
    fn where_answers_take_their_time_slow_plugs_are_not_taken_for_silent_ones() {
        let start = Instant::now();
        let mut turns = Turns::default();
        let begin_all = |turns: &mut Turns, at| (0..IN_FLIGHT).for_each(|_| turns.begun(at));
        begin_all(&mut turns, start);
        let slow = start + 2 * YOUNG;
        (0..IN_FLIGHT / 2).for_each(|_| turns.answered(start, slow));
        begin_all(&mut turns, slow);
        assert!(turns.take_place(true, slow + 2 * YOUNG) > slow + 2 * YOUNG, "they may still answer");
        let late = slow + 2 * OLD;
        assert_eq!(turns.take_place(true, late), late, "no plug is waited for that long");
        begin_all(&mut turns, late);
        (0..IN_FLIGHT).for_each(|_| turns.answered(late, late));
        begin_all(&mut turns, late);
        assert_eq!(turns.take_place(true, late + 2 * YOUNG), late + 2 * YOUNG, "they are quick again");
    }
}
