//! Dates of instants: the monotonic clock and the system clock as a pair.

use std::time::{Duration, Instant, SystemTime};

/// The same moment on the monotonic clock and on the system clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Monotonic.
    pub instant: Instant,
    /// With a date.
    pub system: SystemTime,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// Both clocks at another instant; `None` if the system clock cannot represent it.
    pub fn at(&self, instant: Instant) -> Option<Self> {
        let past = self.instant.saturating_duration_since(instant);
        let future = instant.saturating_duration_since(self.instant);
        let system = self.system.checked_sub(past)?.checked_add(future)?;
        Some(Self { instant, system })
    }

    /// The date of another instant: RFC 3339, UTC, to the second.
    pub fn date(&self, instant: Instant) -> String {
        rfc3339(self.at(instant).map(|clock| clock.system))
    }
}

/// A date in UTC, to the second. The system clock may never have been set: a date outside of RFC 3339 becomes the nearest one
/// inside.
pub(crate) fn rfc3339(time: impl Into<Option<SystemTime>>) -> String {
    // The last second of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch =
        time.into().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch.min(LAST)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_computed_from_one_pair_of_clocks() {
        let clock =
            Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH + Duration::from_secs(90_000) };
        assert_eq!(clock.date(clock.instant), "1970-01-02T01:00:00Z");
        assert_eq!(clock.date(clock.instant + Duration::from_secs(60)), "1970-01-02T01:01:00Z");
        let earlier = clock.instant.checked_sub(Duration::from_secs(3600)).unwrap();
        assert_eq!(clock.date(earlier), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn a_system_clock_that_was_never_set_gives_valid_dates() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(rfc3339(far), "9999-12-31T23:59:59Z");
        let clock =
            Clock { instant: Instant::now() + Duration::from_secs(9), system: SystemTime::UNIX_EPOCH };
        assert_eq!(clock.date(clock.instant - Duration::from_secs(9)), "1970-01-01T00:00:00Z");
    }
}
