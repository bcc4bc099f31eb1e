//! How often we call the cloud: the bucket of calls, cooldowns after failures, the quota of logins.
//!
//! Values with `now` as an argument; nothing here sleeps. TP-Link publishes no limits: the numbers are those of clients that
//! run without errors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hs100d_core::backoff::Backoff;

/// Calls that may be made at once, from a full bucket.
const BURST: u32 = 60;
/// Calls that polls leave for commands.
const RESERVE: u32 = BURST / 2;
/// For one more call.
const REFILL: Duration = Duration::from_secs(1);

/// Automatic logins in [`LOGIN_GAP`]: one, and one more for a token that expires early.
const LOGINS_IN_GAP: usize = 2;
const LOGIN_GAP: Duration = Duration::from_secs(10 * 60);
/// Automatic logins in [`LOGIN_WINDOW`].
const LOGINS: usize = 6;
const LOGIN_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// A token bucket of calls.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// When the bucket will be full; `None` if it is. This is its whole state.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one call.
    ///
    /// # Errors
    /// The time of the next one.
    pub fn take(&mut self, urgent: bool, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.filter(|&at| at > now).unwrap_or(now);
        let may_lack = REFILL * (if urgent { BURST } else { BURST - RESERVE } - 1);
        match (full_at - now).checked_sub(may_lack) {
            None | Some(Duration::ZERO) => {
                self.full_at = Some(full_at + REFILL);
                Ok(())
            }
            Some(wait) => Err(now + wait),
        }
    }
}

/// The bucket of an account, shared by all its sessions: a reload does not fill it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallBudget(Arc<Mutex<Bucket>>);

impl CallBudget {
    /// Takes one call.
    ///
    /// # Errors
    /// The time of the next one.
    pub(crate) fn take(&self, urgent: bool, now: Instant) -> Result<(), Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(urgent, now)
    }
}

/// A time in which nothing is tried, begun by a failure. It grows with each failure in a row.
#[derive(Debug, Clone)]
pub(crate) struct Cooldown {
    backoff: Backoff,
    failures: u32,
    until: Option<Instant>,
}

impl Cooldown {
    /// `first` after the first failure, at most `longest`, each plus up to a quarter that depends on the seed.
    pub(crate) fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { backoff: Backoff::new(first, longest).spread(1.0, 1.25, seed), failures: 0, until: None }
    }

    /// Its end, if it is not over.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until > now)
    }

    /// Begins the next, longer one. A failure while one lasts is of a call made before it, and changes nothing.
    pub(crate) fn fail(&mut self, now: Instant) {
        if self.until(now).is_none() {
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now + self.backoff.pause(self.failures));
        }
    }

    /// Begins the longest one at once.
    pub(crate) fn fail_long(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + self.backoff.longest_pause());
    }

    /// Ends it; the next one is short again.
    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
        self.until = None;
    }
}

/// Limits automatic logins. Accounts were blocked most often for too many of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoginQuota {
    /// The logins of the last day, oldest first.
    logins: Vec<Instant>,
}

impl LoginQuota {
    /// When the next login may be made; `None` if now.
    pub(crate) fn not_before(&self, now: Instant) -> Option<Instant> {
        let over =
            |logins, time| self.logins.len().checked_sub(logins).map(|first| self.logins[first] + time);
        over(LOGINS_IN_GAP, LOGIN_GAP).max(over(LOGINS, LOGIN_WINDOW)).filter(|&until| until > now)
    }

    /// A login is made.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.logins.retain(|&login| now < login + LOGIN_WINDOW);
        self.logins.push(now);
    }

    /// The last login did not reach the account.
    pub(crate) fn give_back(&mut self) {
        self.logins.pop();
    }

    /// The user acted: the quota is full again.
    pub(crate) fn forgive(&mut self) {
        self.logins.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn drain(bucket: &mut Bucket, urgent: bool, now: Instant) -> usize {
        (0..1000).take_while(|_| bucket.take(urgent, now).is_ok()).count()
    }

    #[test]
    fn polls_leave_half_of_the_bucket_to_commands() {
        let now = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!(drain(&mut bucket, false, now), 30);
        assert_eq!(drain(&mut bucket, true, now), 30);
        assert_eq!(bucket.take(true, now), Err(now + SECOND));
        assert_eq!(bucket.take(false, now), Err(now + 31 * SECOND));
    }

    #[test]
    fn commands_alone_may_use_the_bucket_to_the_last() {
        let now = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!(drain(&mut bucket, true, now), 60);
    }

    #[test]
    fn the_bucket_refills_one_a_second_and_never_overflows() {
        let start = Instant::now();
        let mut bucket = Bucket::default();
        drain(&mut bucket, true, start);
        assert_eq!(bucket.take(true, start + SECOND / 2), Err(start + SECOND));
        assert_eq!(drain(&mut bucket, true, start + SECOND), 1);
        assert_eq!(drain(&mut bucket, true, start + 11 * SECOND), 10);
        assert_eq!(drain(&mut bucket, false, start + 40 * SECOND), 0);
        assert_eq!(drain(&mut bucket, false, start + 42 * SECOND), 1);
        assert_eq!(drain(&mut bucket, true, start + HOUR), 60);
    }

    #[test]
    fn the_next_call_is_allowed_at_the_time_that_the_bucket_returns() {
        let now = Instant::now();
        let mut bucket = Bucket::default();
        drain(&mut bucket, true, now);
        let next = bucket.take(true, now).unwrap_err();
        assert!(bucket.take(true, next - Duration::from_nanos(1)).is_err());
        assert!(bucket.take(true, next).is_ok());
    }

    #[test]
    fn cooldowns_double_up_to_the_longest_and_start_again_after_success() {
        let mut cooldown = Cooldown::new(2 * MINUTE, HOUR, 7);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..8 {
            cooldown.fail(now);
            let until = cooldown.until(now).unwrap();
            waits.push(until - now);
            now = until;
        }
        for (wait, minutes) in waits.iter().zip([2, 4, 8, 16, 32, 60, 60, 60]) {
            let base = minutes * MINUTE;
            assert!((base..=base + base / 4).contains(wait), "{waits:?}");
        }
        cooldown.succeed();
        assert_eq!(cooldown.until(now), None);
        cooldown.fail(now);
        assert!(cooldown.until(now).unwrap() - now < 3 * MINUTE);
    }

    #[test]
    fn failures_during_a_cooldown_do_not_make_it_longer() {
        let now = Instant::now();
        let mut cooldown = Cooldown::new(2 * MINUTE, HOUR, 7);
        cooldown.fail(now);
        let until = cooldown.until(now);
        for _ in 0..100 {
            cooldown.fail(now + SECOND);
        }
        assert_eq!(cooldown.until(now), until);
        cooldown.fail_long(now);
        assert!(cooldown.until(now).unwrap() >= now + HOUR);
    }

    #[test]
    fn logins_are_two_in_ten_minutes_and_six_a_day_unless_the_user_acts() {
        let start = Instant::now();
        let mut quota = LoginQuota::default();
        for pair in 0..3 {
            let now = start + pair * 10 * MINUTE;
            assert_eq!(quota.not_before(now), None);
            quota.spend(now);
            let again = now + MINUTE;
            assert_eq!(quota.not_before(again), None, "the token expired early");
            quota.spend(again);
            assert!(
                quota.not_before(again).is_some_and(|until| until >= now + 10 * MINUTE),
                "the third waits"
            );
        }
        let now = start + HOUR;
        assert_eq!(quota.not_before(now), Some(start + 24 * HOUR));
        assert_eq!(quota.not_before(start + 24 * HOUR), None);
        quota.spend(start + 24 * HOUR);
        assert_eq!(quota.not_before(start + 24 * HOUR), Some(start + 24 * HOUR + MINUTE), "six in any day");
        quota.forgive();
        assert_eq!(quota.not_before(start + 24 * HOUR), None);
    }

    #[test]
    fn a_login_that_did_not_reach_the_account_does_not_count() {
        let now = Instant::now();
        let mut quota = LoginQuota::default();
        quota.spend(now);
        quota.spend(now);
        assert!(quota.not_before(now).is_some());
        quota.give_back();
        assert_eq!(quota.not_before(now), None);
    }
}
