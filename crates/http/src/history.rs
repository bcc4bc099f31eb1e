//! What the page draws of the last day: for each plug the routes and states by interval, and the power by minute.
//!
//! Values with `now`: no clock, no I/O. Kept in memory while HTTP is on, bounded for each plug, and lost at a restart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hs100d_core::model::{RelayState, Route};

/// The history goes back this far.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// One value of the power each.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// The most intervals of a plug: one that changes more often loses the oldest first.
const MAX_INTERVALS: usize = 512;

/// The history of one plug or outlet.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The oldest first. Each lasts until the next one begins.
    intervals: VecDeque<Interval>,
    /// `None` of a plug without a meter.
    power: Option<Box<Power>>,
}

/// From this moment on the plug was reached like this and in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) since: Instant,
    /// `None` if no route reached it.
    pub(crate) route: Option<Route>,
    /// `None` before the first reading.
    pub(crate) state: Option<RelayState>,
}

/// The share of a time span in which the LAN, the cloud or neither served a plug, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares {
    pub(crate) local: f64,
    pub(crate) cloud: f64,
    pub(crate) none: f64,
}

/// The mean power of each minute, in watts.
#[derive(Debug, Clone, Default)]
struct Power {
    /// The first minute in `minutes`; `None` before the first value.
    begin: Option<Instant>,
    /// Not a number for a minute without a value. Grows with the first values.
    minutes: VecDeque<f32>,
    /// The sum and the number of the values of the newest minute.
    newest: (f32, u32),
}

impl History {
    /// The plug is reached like this and in this state now.
    pub(crate) fn note(&mut self, route: Option<Route>, state: Option<RelayState>, now: Instant) {
        if self.intervals.back().is_some_and(|last| (last.route, last.state) == (route, state)) {
            return;
        }
        // Two changes at one moment are one.
        if self.intervals.back().is_some_and(|last| last.since == now) {
            self.intervals.pop_back();
        }
        self.forget(now);
        if self.intervals.is_empty() {
            // Most plugs keep to their first interval, and a deque would begin with room for four.
            self.intervals.reserve_exact(1);
        }
        self.intervals.push_back(Interval { since: now, route, state });
    }

    /// Since when the plug has its route and its state; `None` before anything is known.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.intervals.back().map(|last| last.since)
    }

    /// Whether anything is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The meter shows this power, in watts, now.
    pub(crate) fn note_power(&mut self, watts: f32, now: Instant) {
        self.power.get_or_insert_default().note(watts, now);
    }

    /// Removes what is older than a day, but for the interval that reaches into it, and makes room for one more.
    fn forget(&mut self, now: Instant) {
        let begins_before = |interval: &Interval| now.saturating_duration_since(interval.since) >= DAY;
        while self.intervals.len() >= MAX_INTERVALS || self.intervals.get(1).is_some_and(begins_before) {
            self.intervals.pop_front();
        }
    }

    /// The intervals of the last `span`, the oldest first. The first one may begin before it.
    pub(crate) fn intervals(&self, span: Duration, now: Instant) -> impl Iterator<Item = &Interval> {
        let ends_before = move |next: &Interval| now.saturating_duration_since(next.since) >= span;
        let skipped = self.intervals.iter().skip(1).take_while(|next| ends_before(next)).count();
        self.intervals.iter().skip(skipped)
    }

    /// How the plug was reached in the last `span`, as far as that is known; `None` before anything is.
    pub(crate) fn shares(&self, span: Duration, now: Instant) -> Option<Shares> {
        let begin = now.checked_sub(span);
        let mut seconds = [0.0; 3];
        let mut intervals = self.intervals(span, now).peekable();
        while let Some(interval) = intervals.next() {
            let since = begin.map_or(interval.since, |begin| begin.max(interval.since));
            let until = intervals.peek().map_or(now, |next| next.since);
            let place = match interval.route {
                Some(Route::Local) => 0,
                Some(Route::Cloud) => 1,
                None => 2,
            };
            seconds[place] += until.saturating_duration_since(since).as_secs_f64();
        }
        let all: f64 = seconds.iter().sum();
        let [local, cloud, none] = seconds.map(|part| part / all);
        (all > 0.0).then_some(Shares { local, cloud, none })
    }

    /// The mean power of each of the last minutes, the oldest first, and the moment at which the first one begins.
    pub(crate) fn power(&self) -> Option<(Instant, impl Iterator<Item = Option<f32>>)> {
        let power = self.power.as_ref()?;
        let minutes = power.minutes.iter().map(|watts| (!watts.is_nan()).then_some(*watts));
        Some((power.begin?, minutes))
    }
}

impl Power {
    fn note(&mut self, watts: f32, now: Instant) {
        let begin = *self.begin.get_or_insert(now);
        let minute = minutes_between(begin, now);
        if minute >= self.minutes.len() {
            let old = (minute + 1).saturating_sub(minutes_of(DAY));
            if old >= self.minutes.len() {
                // Nothing of before is left.
                self.minutes.clear();
                self.begin = Some(now);
                self.minutes.push_back(f32::NAN);
            } else {
                self.minutes.drain(..old);
                self.begin = u32::try_from(old).ok().map(|old| begin + MINUTE * old);
                self.minutes.resize(minute + 1 - old, f32::NAN);
            }
            self.newest = (0.0, 0);
        }
        self.newest = (self.newest.0 + watts, self.newest.1 + 1);
        if let Some(newest) = self.minutes.back_mut() {
            *newest = self.newest.0 / self.newest.1 as f32;
        }
    }
}

fn minutes_between(begin: Instant, end: Instant) -> usize {
    minutes_of(end.saturating_duration_since(begin))
}

/// The whole minutes of a time span.
pub(crate) fn minutes_of(span: Duration) -> usize {
    usize::try_from(span.as_secs() / MINUTE.as_secs()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ON: Option<RelayState> = Some(RelayState::On);
    const OFF: Option<RelayState> = Some(RelayState::Off);

    #[test]
    fn the_shares_of_a_span_count_what_reaches_into_it() {
        let begin = Instant::now();
        let mut history = History::default();
        assert_eq!(history.shares(DAY, begin), None);
        history.note(Some(Route::Local), OFF, begin);
        history.note(Some(Route::Local), ON, begin + 50 * SECOND);
        history.note(Some(Route::Cloud), ON, begin + 60 * SECOND);
        history.note(None, ON, begin + 90 * SECOND);
        let now = begin + 100 * SECOND;
        assert_eq!(history.shares(DAY, now), Some(Shares { local: 0.6, cloud: 0.3, none: 0.1 }));
        assert_eq!(history.shares(20 * SECOND, now), Some(Shares { local: 0.0, cloud: 0.5, none: 0.5 }));
        assert_eq!(history.intervals(20 * SECOND, now).count(), 2);
        assert_eq!(history.intervals(DAY, now).count(), 4);
    }

    #[test]
    fn what_did_not_change_is_one_interval_and_what_changed_twice_at_once_as_well() {
        let begin = Instant::now();
        let mut history = History::default();
        history.note(Some(Route::Local), OFF, begin);
        history.note(Some(Route::Local), OFF, begin + SECOND);
        history.note(Some(Route::Cloud), OFF, begin + 2 * SECOND);
        history.note(Some(Route::Cloud), ON, begin + 2 * SECOND);
        let intervals: Vec<_> = history.intervals(DAY, begin + 3 * SECOND).copied().collect();
        assert_eq!(intervals.len(), 2);
        let last = Interval { since: begin + 2 * SECOND, route: Some(Route::Cloud), state: ON };
        assert_eq!(intervals[1], last);
    }

    #[test]
    fn a_history_is_bounded_in_time_and_in_number() {
        let begin = Instant::now();
        let mut history = History::default();
        for second in 0..10_000 {
            let state = if second % 2 == 0 { ON } else { OFF };
            history.note(Some(Route::Local), state, begin + second * SECOND);
        }
        assert_eq!(history.intervals(DAY, begin + 10_000 * SECOND).count(), MAX_INTERVALS);
        history.note(None, ON, begin + 10_000 * SECOND + DAY);
        assert_eq!(
            history.intervals(DAY, begin + 10_000 * SECOND + DAY).count(),
            2,
            "the one before reaches into it"
        );
    }

    /// docs/PERFORMANCE.md has both figures.
    #[test]
    fn a_history_takes_at_most_so_many_bytes() {
        let begin = Instant::now();
        let mut history = History::default();
        let bytes = |history: &History| {
            size_of::<History>()
                + history.intervals.capacity() * size_of::<Interval>()
                + history
                    .power
                    .as_ref()
                    .map_or(0, |power| size_of::<Power>() + power.minutes.capacity() * size_of::<f32>())
        };
        history.note(Some(Route::Local), ON, begin);
        assert!(bytes(&history) <= 64, "a plug that was read: {}", bytes(&history));
        for minute in 0..5000 {
            let now = begin + minute * MINUTE;
            history.note_power(1.0, now);
            for second in 0..4 {
                history.note(
                    Some(Route::Local),
                    if second % 2 == 0 { OFF } else { ON },
                    now + second * SECOND,
                );
            }
        }
        assert!(bytes(&history) <= 21_000, "{}", bytes(&history));
    }

    #[test]
    fn the_power_of_a_minute_is_the_mean_of_its_values_and_a_minute_without_one_has_none() {
        let begin = Instant::now();
        let mut history = History::default();
        assert!(history.power().is_none());
        for (second, watts) in [(0, 10.0), (30, 20.0), (61, 5.0), (200, 7.0)] {
            history.note_power(watts, begin + second * SECOND);
        }
        let (since, minutes) = history.power().expect("there is power");
        assert_eq!(
            (since, minutes.collect::<Vec<_>>()),
            (begin, vec![Some(15.0), Some(5.0), None, Some(7.0)])
        );
        history.note_power(1.0, begin + DAY);
        let (since, minutes) = history.power().expect("there is power");
        assert_eq!((since, minutes.count()), (begin + MINUTE, 1440));
        history.note_power(2.0, begin + 3 * DAY);
        let (since, minutes) = history.power().expect("there is power");
        assert_eq!((since, minutes.collect::<Vec<_>>()), (begin + 3 * DAY, vec![Some(2.0)]));
    }
}
