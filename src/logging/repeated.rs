//! When a failure that repeats itself is worth a line: its first time, at growing intervals, and its end.

use std::fmt;
use std::time::{Duration, Instant};

/// How long a failure that goes on is not said again after its first time; then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// Once an hour is enough for whoever reads the log, and often enough to be found in it.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A failure that changes its reason is said again, but two that take turns do not fill the log.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);

/// Says when a failure that repeats itself is worth a line: its first time, at growing intervals, and its
/// end.
///
/// A value without a clock; whoever has something that can fail keeps one.
#[derive(Debug, Clone, Default)]
pub struct Repeated(Option<Streak>);

/// A failure that is going on.
#[derive(Debug, Clone)]
struct Streak {
    what: String,
    times: u64,
    since: Instant,
    said: Instant,
    pause: Duration,
}

/// A failure that has ended. Prints as `after 12 failures in 3m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// How often it happened.
    pub times: u64,
    /// From its first time to its end.
    pub lasted: Duration,
}

impl Past {
    /// How long it went on, in words.
    pub fn lasted(&self) -> humantime::FormattedDuration {
        humantime::format_duration(Duration::from_secs(self.lasted.as_secs()))
    }
}

impl Repeated {
    /// It failed. `Some` means that a line is due and how often it has failed by now, this time included.
    pub fn failed(&mut self, what: &str, now: Instant) -> Option<u64> {
        let Some(streak) = &mut self.0 else {
            let what = what.to_owned();
            self.0 = Some(Streak { what, times: 1, since: now, said: now, pause: FIRST_PAUSE });
            return Some(1);
        };
        streak.times += 1;
        let silent = now.saturating_duration_since(streak.said);
        let changed = streak.what != what && silent >= SHORTEST_PAUSE;
        if silent < streak.pause && !changed {
            return None;
        }
        if changed {
            what.clone_into(&mut streak.what);
        } else {
            streak.pause = (streak.pause * 2).min(LONGEST_PAUSE);
        }
        streak.said = now;
        Some(streak.times)
    }

    /// Whether a failure is going on.
    pub fn is_going_on(&self) -> bool {
        self.0.is_some()
    }

    /// It works. `Some` means that a line is due, because it had failed before.
    pub fn ended(&mut self, now: Instant) -> Option<Past> {
        let streak = self.0.take()?;
        Some(Past { times: streak.times, lasted: now.saturating_duration_since(streak.since) })
    }
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = if self.times == 1 { "failure" } else { "failures" };
        write!(f, "after {} {failures} in {}", self.times, self.lasted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_said_ever_more_seldom_and_once_when_it_ends() {
        let start = Instant::now();
        let mut repeated = Repeated::default();
        assert_eq!(repeated.ended(start), None);
        let said: Vec<u64> = (0..4 * 3600)
            .filter_map(|second| {
                repeated.failed("refused", start + Duration::from_secs(second)).map(|_| second)
            })
            .collect();
        assert_eq!(said, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]);
        let past = repeated.ended(start + Duration::from_secs(4 * 3600)).unwrap();
        assert_eq!(past.to_string(), "after 14400 failures in 4h");
        assert_eq!(repeated.failed("refused", start), Some(1), "it begins anew");
    }

    #[test]
    fn a_failure_that_changes_its_reason_is_said_again_but_not_in_a_flood() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut repeated = Repeated::default();
        assert_eq!(repeated.failed("refused", at(0)), Some(1));
        assert_eq!(repeated.failed("silent", at(1)), None);
        assert_eq!(repeated.failed("silent", at(11)), Some(3));
        assert_eq!(repeated.failed("silent", at(30)), None);
    }
}
