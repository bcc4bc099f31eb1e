//! What one meter shows, and which of its counts are believed.

use std::time::Instant;

use crate::bridge::event::Energy;
use crate::smarthome::message::{Date, MOST_POWER, Meter};

/// One meter: its values, and those that were published last.
#[derive(Debug, Default)]
pub(super) struct MeterState {
    pub(super) energy: Energy,
    pub(super) published: Option<Energy>,
    /// The first publication waits until all values are there; later ones do not.
    was_published: bool,
    total: Counter,
    today: Counter,
    month: Counter,
    /// How many impossible values were dropped.
    dropped: u32,
}

impl MeterState {
    /// Takes a reading. Returns how many impossible values were dropped by now, if this reading had one.
    pub(super) fn read(&mut self, mut meter: Meter, now: Instant) -> Option<u32> {
        let dropped = meter.drop_impossible();
        if dropped > 0 {
            self.dropped = self.dropped.saturating_add(dropped);
            let known = self.energy.meter;
            meter.power = meter.power.or(known.power);
            meter.voltage = meter.voltage.or(known.voltage);
            meter.current = meter.current.or(known.current);
        }
        meter.total = self.total.believe(meter.total, None, now);
        self.energy.meter = meter;
        (dropped > 0).then_some(self.dropped)
    }

    /// Takes the consumption of each day of this month; `None` if the plug does not report it.
    pub(super) fn read_days(&mut self, days: Option<&[(u8, f64)]>, date: Date, now: Instant) {
        let used = days.map(|days| used_in(days, date.day));
        self.energy.today = self.today.believe(used, Some(date), now);
    }

    /// Takes the consumption of each month of this year; `None` if the plug does not report it.
    pub(super) fn read_months(&mut self, months: Option<&[(u8, f64)]>, date: Date, now: Instant) {
        let used = months.map(|months| used_in(months, date.month));
        self.energy.month = self.month.believe(used, Some(Date { day: 0, ..date }), now);
    }

    pub(super) fn was_published(&self) -> bool {
        self.was_published
    }

    /// The values, if they differ from those that were published last.
    pub(super) fn publish(&mut self) -> Option<Energy> {
        self.was_published = true;
        let is_news = self.published != Some(self.energy);
        is_news.then(|| *self.published.insert(self.energy))
    }

    /// They are published again on the next occasion.
    pub(super) fn forget_published(&mut self) {
        self.published = None;
    }
}

/// A day or a month that is not listed used nothing.
fn used_in(list: &[(u8, f64)], wanted: u8) -> f64 {
    list.iter().find(|(number, _)| *number == wanted).map_or(0.0, |(_, kwh)| *kwh)
}

/// A count of kWh that only grows until it starts again at zero. Home Assistant takes a fall for such a start, and adds
/// all that follows once more. So a single reading is not believed if it falls, or if it grows faster than a plug's
/// greatest load.
#[derive(Debug, Default)]
struct Counter {
    /// The last count that was believed, and when.
    last: Option<(f64, Instant)>,
    /// The reading before this one, if it was not believed.
    doubted: Option<(f64, Instant)>,
    /// The day or the month that is counted; `None` for a count of all time.
    period: Option<Date>,
}

/// kWh: counts of some firmwares grow in steps of up to this much.
const COUNTER_STEP: f64 = 0.1;

impl Counter {
    /// The count to publish. A reading is believed if it continues the last count or the reading before it, or if it is
    /// the first of its period.
    fn believe(&mut self, read: Option<f64>, period: Option<Date>, now: Instant) -> Option<f64> {
        if self.period != period {
            *self = Self { period, ..Self::default() };
        }
        let read = read?;
        let continues = |(count, at): (f64, Instant)| {
            let hours = now.saturating_duration_since(at).as_secs_f64() / 3600.0;
            (count..=count + COUNTER_STEP + MOST_POWER / 1000.0 * hours).contains(&read)
        };
        match self.last {
            Some(last) if !continues(last) && !self.doubted.is_some_and(continues) => {
                self.doubted = Some((read, now));
                Some(last.0)
            }
            _ => {
                self.last = Some((read, now));
                self.doubted = None;
                Some(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn meter(power: f64, total: f64) -> Meter {
        Meter { power: Some(power), total: Some(total), ..Meter::default() }
    }

    #[test]
    fn a_count_that_falls_once_is_not_believed_and_twice_it_is() {
        let now = Instant::now();
        let mut state = MeterState::default();
        let mut total = |kwh, seconds| {
            state.read(meter(5.0, kwh), now + Duration::from_secs(seconds));
            state.energy.meter.total
        };
        assert_eq!(total(12.5, 0), Some(12.5));
        assert_eq!(total(0.0, 15), Some(12.5), "a hiccup of the firmware");
        assert_eq!(total(12.51, 30), Some(12.51));
        assert_eq!(total(0.0, 45), Some(12.51));
        assert_eq!(total(0.0, 60), Some(0.0), "it did start again");
    }

    #[test]
    fn an_impossible_value_is_dropped_and_counted_and_the_one_before_it_stays() {
        let now = Instant::now();
        let mut state = MeterState::default();
        assert_eq!(state.read(meter(60.0, 1.0), now), None);
        assert_eq!(state.read(meter(1e9, 1.0), now), Some(1));
        assert_eq!(state.energy.meter.power, Some(60.0));
        assert_eq!(state.read(meter(-1e9, 1.0), now), Some(2));
    }

    #[test]
    fn a_new_day_starts_at_zero_without_a_doubt() {
        let now = Instant::now();
        let mut state = MeterState::default();
        let day = |day| Date { year: 2026, month: 11, day };
        state.read_days(Some(&[(26, 3.5)]), day(26), now);
        assert_eq!(state.energy.today, Some(3.5));
        state.read_days(Some(&[(26, 3.5)]), day(27), now);
        assert_eq!(state.energy.today, Some(0.0));
        state.read_days(None, day(27), now);
        assert_eq!(state.energy.today, None, "the plug no longer reports it");
    }

    #[test]
    fn the_same_values_are_published_once() {
        let mut state = MeterState::default();
        state.read(meter(60.0, 1.0), Instant::now());
        assert!(!state.was_published());
        assert_eq!(state.publish(), Some(state.energy));
        assert_eq!(state.publish(), None);
        state.forget_published();
        assert!(state.publish().is_some() && state.was_published());
    }
}
