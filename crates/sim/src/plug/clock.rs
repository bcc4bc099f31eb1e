//! The device's own clock and calendar, which may be wrong.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::plug::json::{Answer, MEMBER_NOT_SUPPORT, UNKNOWN_ERROR};

/// 2026-01-01, the time of a new plug.
const START: Duration = Duration::from_secs(1_767_225_600);

/// 2000-01-01, the time that firmwares report until the clock is set.
const NOT_SET: Duration = Duration::from_secs(946_684_800);

/// A clock that runs with `now`.
#[derive(Debug, Clone, Copy)]
pub struct PlugClock {
    shown: SystemTime,
    at: Instant,
    /// Whether it was set since the start. Without internet after a start it is not, and methods about rules are
    /// refused.
    pub is_set: bool,
}

impl PlugClock {
    pub(super) fn new(now: Instant) -> Self {
        Self { shown: UNIX_EPOCH + START, at: now, is_set: true }
    }

    #[cfg(test)]
    fn set(&mut self, shown: SystemTime, now: Instant) {
        *self = Self { shown, at: now, is_set: true };
    }

    /// Runs one method of the module `time`.
    pub(super) fn answer(&self, method: &str, now: Instant) -> Answer {
        match method {
            "get_time" => self.time(now).ok_or(UNKNOWN_ERROR),
            "get_timezone" => Ok(Map::from_iter([("index".to_owned(), Value::from(39))])),
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    fn time(&self, now: Instant) -> Option<Map<String, Value>> {
        let shown = if self.is_set { self.shown } else { UNIX_EPOCH + NOT_SET };
        let text = humantime::format_rfc3339_seconds(shown + now.saturating_duration_since(self.at));
        let text = text.to_string();
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        let mut time = Map::new();
        for name in ["year", "month", "mday", "hour", "min", "sec"] {
            time.insert(name.into(), numbers.next()?.into());
        }
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn time(clock: &PlugClock, now: Instant) -> Value {
        clock.answer("get_time", now).unwrap().into()
    }

    #[test]
    fn it_goes_on_from_where_it_was_set() {
        let now = Instant::now();
        let mut clock = PlugClock::new(now);
        let later = now + Duration::from_secs(86_400 + 3_661);
        assert_eq!(
            time(&clock, later),
            json!({"year": 2026, "month": 1, "mday": 2, "hour": 1, "min": 1, "sec": 1})
        );
        clock.set(UNIX_EPOCH + Duration::from_secs(1_795_391_999), later);
        let midnight = time(&clock, later + Duration::from_secs(1));
        assert_eq!(midnight, json!({"year": 2026, "month": 11, "mday": 23, "hour": 0, "min": 0, "sec": 0}));
    }

    #[test]
    fn one_that_was_never_set_tells_a_time_long_ago() {
        let now = Instant::now();
        let clock = PlugClock { is_set: false, ..PlugClock::new(now) };
        assert_eq!(time(&clock, now)["year"], 2000);
    }
}
