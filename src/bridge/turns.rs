//! How reads of many plugs share the wake-ups of the daemon, and how they are kept apart: at most so many begin together.

use std::time::{Duration, Instant};

/// So many plugs are read in one turn at the most …
pub(super) const TOGETHER: usize = 16;
/// … and one turn follows the other in this time at the least. After a start, or when the whole machine has slept, every
/// plug wants to be read at once.
const APART: Duration = Duration::from_millis(4);
/// A read is taken along if it is due within this part of its interval.
const AHEAD: u32 = 20;

/// The turns that were given out.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The latest one, and how many places in it are taken.
    latest: Option<(Instant, usize)>,
}

impl Turns {
    /// Takes a place in the next turn that has one; it may be now.
    pub(super) fn take_place(&mut self, now: Instant) -> Instant {
        let (turn, taken) = match self.latest {
            Some((turn, taken)) if now < turn + APART && taken < TOGETHER => (turn, taken + 1),
            Some((turn, _)) => (now.max(turn + APART), 1),
            None => (now, 1),
        };
        self.latest = Some((turn, taken));
        turn.max(now)
    }

    /// Whether a place can be had at once.
    pub(super) fn has_place(&self, now: Instant) -> bool {
        self.latest.is_none_or(|(turn, taken)| turn + APART <= now || (turn <= now && taken < TOGETHER))
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
        let places: Vec<_> = (0..3 * TOGETHER).map(|_| turns.take_place(start)).collect();
        for (number, place) in places.into_iter().enumerate() {
            assert_eq!(place, start + APART * (number / TOGETHER) as u32);
        }
        assert!(!turns.has_place(start + APART), "all that was given out is taken");
        assert!(turns.has_place(start + 3 * APART));
        assert_eq!(turns.take_place(start), start + 3 * APART, "behind those who came before");
    }

    #[test]
    fn who_comes_alone_need_not_wait() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for number in 0..100 {
            let now = start + APART * number;
            assert!(turns.has_place(now));
            assert_eq!(turns.take_place(now), now);
        }
    }

    #[test]
    fn who_comes_while_a_turn_has_room_joins_it_at_once() {
        let start = Instant::now();
        let mut turns = Turns::default();
        turns.take_place(start);
        assert_eq!(turns.take_place(start + APART / 2), start + APART / 2);
    }
}
