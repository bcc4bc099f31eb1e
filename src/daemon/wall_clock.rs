//! The clock that knows the date: the date of an instant, and whether the clock was set.
//!
//! Dates are computed from one pair of an instant and a date, so that an instant always has the same date. The clock is
//! set if a machine starts in 1970 and gets the date later, or if it slept. Then a new pair is read, and everything with a
//! date must be published again.

use std::fmt;
use std::time::{Duration, Instant};

use crate::payload::Clock;

/// The clock was set if it differs by at least this. Smaller differences arise when two clocks are read one after the
/// other, or when the rate of a clock is corrected.
const SET_IF_OFF_BY: Duration = Duration::from_secs(2);

/// Reads both clocks.
pub(super) type ReadClock = Box<dyn Fn() -> Clock + Send + Sync>;

/// Computes dates from one pair of an instant and a date.
pub(super) struct WallClock {
    read: ReadClock,
    pair: Clock,
}

impl WallClock {
    pub(super) fn new(read: ReadClock) -> Self {
        let pair = read();
        Self { read, pair }
    }

    /// The pair of this instant and its date.
    pub(super) fn at(&self, now: Instant) -> Clock {
        self.pair.at(now).unwrap_or(self.pair)
    }

    /// Whether the clock was set since the last call.
    pub(super) fn was_set(&mut self) -> bool {
        let now = (self.read)();
        let expected = self.at(now.instant).system;
        let (by, direction) = match now.system.duration_since(expected) {
            Ok(by) => (by, "forward"),
            Err(error) => (error.duration(), "back"),
        };
        if by < SET_IF_OFF_BY {
            return false;
        }
        self.pair = now;
        let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
        tracing::info!(
            "the clock of this machine was set {direction} by {by}: all times are published again"
        );
        true
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(Box::new(Clock::now))
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WallClock").field("pair", &self.pair).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_clock_that_is_set_forward_or_back_is_noticed_and_a_small_correction_is_not() {
        let begun = Instant::now();
        let second = |count: u64| Duration::from_secs(count);
        let clock = |at: u64, system: u64| Clock {
            instant: begun + second(at),
            system: SystemTime::UNIX_EPOCH + second(system),
        };
        let shown = Arc::new(Mutex::new(clock(0, 10)));
        let read = Arc::clone(&shown);
        let mut wall = WallClock::new(Box::new(move || *read.lock().unwrap()));
        let mut look = |clock| {
            *shown.lock().unwrap() = clock;
            let was_set = wall.was_set();
            (was_set, wall.at(begun).date(begun))
        };
        let date = |text: &str| text.to_owned();
        assert_eq!(look(clock(5, 15)), (false, date("1970-01-01T00:00:10Z")));
        assert_eq!(look(clock(6, 17)), (false, date("1970-01-01T00:00:10Z")), "a second is a correction");
        assert_eq!(look(clock(8, 1_800_000_008)), (true, date("2027-01-15T08:00:00Z")), "from 1970");
        assert_eq!(look(clock(9, 1_800_000_009)), (false, date("2027-01-15T08:00:00Z")));
        assert_eq!(look(clock(10, 1_799_999_010)), (true, date("2027-01-15T07:43:20Z")), "back");
    }
}
