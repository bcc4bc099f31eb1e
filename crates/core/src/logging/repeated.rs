//! The log throttle: a failure that repeats is logged the first time, at growing intervals, and when it ends.
//! A value with `now` as an argument.

use std::fmt;
use std::time::{Duration, Instant};

/// Between the first line and the second; doubles from line to line.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// A line an hour shows that the failure goes on.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// After a line, a new reason is logged only after this pause, so that two that alternate do not fill the log.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);

/// Decides when the failures of one thing are logged.
#[derive(Debug, Clone, Default)]
pub struct Repeated(Option<Streak>);

/// A failure that is going on.
#[derive(Debug, Clone)]
struct Streak {
    reason: String,
    times: u64,
    since: Instant,
    logged: Instant,
    pause: Duration,
}

/// A failure that has ended. Prints as `after 12 failures in 3m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// The number of failures.
    pub(crate) times: u64,
    /// From the first failure to the end.
    pub(crate) lasted: Duration,
}

impl Past {
    /// From the first failure to the end, in words for a message, to the second: `3m 5s`.
    pub fn lasted(&self) -> humantime::FormattedDuration {
        humantime::format_duration(Duration::from_secs(self.lasted.as_secs()))
    }
}

impl Repeated {
    /// It failed. Returns the number of failures so far if a line is due.
    pub fn failed(&mut self, reason: &str, now: Instant) -> Option<u64> {
        let Some(streak) = &mut self.0 else {
            let reason = reason.to_owned();
            self.0 = Some(Streak { reason, times: 1, since: now, logged: now, pause: FIRST_PAUSE });
            return Some(1);
        };
        streak.times += 1;
        let silent = now.saturating_duration_since(streak.logged);
        let changed = streak.reason != reason && silent >= SHORTEST_PAUSE;
        if silent < streak.pause && !changed {
            return None;
        }
        if changed {
            reason.clone_into(&mut streak.reason);
        } else {
            streak.pause = (streak.pause * 2).min(LONGEST_PAUSE);
        }
        streak.logged = now;
        Some(streak.times)
    }

    /// Whether it fails at present.
    pub fn is_going_on(&self) -> bool {
        self.0.is_some()
    }

    /// It works. Returns the past failure if there was one: a line is due.
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
    fn a_failure_is_logged_at_growing_intervals_and_once_when_it_ends() {
        let start = Instant::now();
        let mut repeated = Repeated::default();
        assert_eq!(repeated.ended(start), None);
        let logged: Vec<u64> = (0..4 * 3600)
            .filter_map(|second| {
                repeated.failed("refused", start + Duration::from_secs(second)).map(|_| second)
            })
            .collect();
        assert_eq!(logged, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]);
        let past = repeated.ended(start + Duration::from_secs(4 * 3600)).unwrap();
        assert_eq!(past.to_string(), "after 14400 failures in 4h");
        assert_eq!(repeated.failed("refused", start), Some(1), "it begins anew");
    }

    #[test]
    fn a_new_reason_is_logged_but_not_in_a_flood() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut repeated = Repeated::default();
        assert_eq!(repeated.failed("refused", at(0)), Some(1));
        assert_eq!(repeated.failed("silent", at(1)), None);
        assert_eq!(repeated.failed("silent", at(11)), Some(3));
        assert_eq!(repeated.failed("silent", at(30)), None);
    }
}
