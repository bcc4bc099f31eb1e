//! The sums of the meters of a strip's outlets.

use crate::bridge::event::Energy;
use crate::smarthome::message::{Meter, Outlet, Outlets};

/// Which values of a meter were read.
#[derive(Debug, Clone, Copy)]
pub(super) enum MeterValue {
    Meter,
    Today,
    Month,
}

/// What the next sums depend on.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The outlets that were read since the last sum, by [`MeterValue`].
    read: [Outlets; 3],
    /// A sum of kWh that fell, by [`MeterValue`].
    fallen: [Option<f64>; 3],
}

impl Sums {
    /// The meter of this outlet was read; `outlets` are the values of all. Power and current are summed at once,
    /// consumption only when every outlet was read: at midnight some outlets already count from zero and others do not,
    /// and Home Assistant would take each step of a falling sum for a new start.
    pub(super) fn sum_up<'a>(
        &mut self,
        sums: &mut Energy,
        outlets: impl Iterator<Item = Option<&'a Energy>> + Clone,
        outlet: Outlet,
        value: MeterValue,
    ) {
        let index = value as usize;
        self.read[index] = self.read[index].and(Outlets::one(outlet));
        let numbers = (0..outlets.clone().count()).filter_map(|number| Outlet::try_from(number).ok());
        let is_complete =
            self.read[index] == numbers.map(Outlets::one).fold(Outlets::default(), Outlets::and);
        if is_complete {
            self.read[index] = Outlets::default();
        }
        // None while one outlet is not known: a part of the sum would jump when the rest comes.
        let sum = |value: fn(&Energy) -> Option<f64>| -> Option<f64> {
            outlets.clone().map(|energy| value(energy?)).sum()
        };
        if let MeterValue::Meter = value {
            let (power, current) = (sum(|energy| energy.meter.power), sum(|energy| energy.meter.current));
            sums.meter = Meter { power, current, voltage: None, ..sums.meter };
        }
        if is_complete {
            let (known, sum) = match value {
                MeterValue::Meter => (&mut sums.meter.total, sum(|energy| energy.meter.total)),
                MeterValue::Today => (&mut sums.today, sum(|energy| energy.today)),
                MeterValue::Month => (&mut sums.month, sum(|energy| energy.month)),
            };
            *known = believed(*known, sum, &mut self.fallen[index]);
        }
    }
}

/// A sum that falls may mix values from before and after midnight. It is believed if the next one is no lower.
fn believed(known: Option<f64>, sum: Option<f64>, fallen: &mut Option<f64>) -> Option<f64> {
    let falls = known.zip(sum).is_some_and(|(known, sum)| sum < known);
    if falls && fallen.is_none_or(|fallen| sum < Some(fallen)) {
        *fallen = sum;
        return known;
    }
    *fallen = None;
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(power: f64, today: f64) -> Energy {
        Energy { meter: Meter { power: Some(power), ..Meter::default() }, today: Some(today), month: None }
    }

    #[test]
    fn power_is_summed_at_once_and_consumption_when_every_outlet_was_read() {
        let (mut sums, mut sum) = (Sums::default(), Energy::default());
        let outlets = [used(5.0, 1.0), used(7.0, 2.0)];
        let all = || outlets.iter().map(Some);
        sums.sum_up(&mut sum, all(), 0, MeterValue::Meter);
        assert_eq!(sum.meter.power, Some(12.0));
        sums.sum_up(&mut sum, all(), 0, MeterValue::Today);
        assert_eq!(sum.today, None, "the other outlet was not read");
        sums.sum_up(&mut sum, all(), 1, MeterValue::Today);
        assert_eq!(sum.today, Some(3.0));
        sums.sum_up(&mut sum, [Some(&outlets[0]), None].into_iter(), 0, MeterValue::Meter);
        assert_eq!(sum.meter.power, None, "one outlet is not known");
    }

    #[test]
    fn a_sum_that_falls_is_believed_in_the_next_round() {
        let (mut sums, mut sum) = (Sums::default(), Energy::default());
        let mut round = |today: [f64; 2]| {
            let outlets = today.map(|today| used(0.0, today));
            for outlet in [0, 1] {
                sums.sum_up(&mut sum, outlets.iter().map(Some), outlet, MeterValue::Today);
            }
            sum.today
        };
        assert_eq!(round([1.0, 2.0]), Some(3.0));
        assert_eq!(round([0.0, 2.0]), Some(3.0), "only one outlet counts the new day");
        assert_eq!(round([0.0, 0.0]), Some(3.0), "lower still");
        assert_eq!(round([0.0, 0.0]), Some(0.0));
    }
}
