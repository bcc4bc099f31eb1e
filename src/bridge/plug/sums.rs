//! What the meters of a strip's outlets show together.

use super::{Ctx, Plug};
use crate::bridge::event::Energy;
use crate::smarthome::message::{Meter, Outlet, Outlets};

/// Which of an outlet's readings of its meter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Figure {
    Meter,
    Today,
    Month,
}

/// What stands between the readings of the outlets and their sums.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// Which outlets were read since the last sum, by [`Figure`].
    read: [Outlets; 3],
    /// A sum of kWh that fell, by [`Figure`].
    fallen: [Option<f64>; 3],
}

impl Plug {
    /// An outlet's meter was read. Power and current are summed at once; what was used only when every outlet has been
    /// read: at midnight some count from zero already and others do not, and a sum that falls in steps would be
    /// counted again at each of them.
    pub(super) fn sum_up(&mut self, part: Option<Outlet>, figure: Figure, ctx: &mut Ctx<'_>) {
        let Some(outlet) = part else { return };
        let all = (0..self.outlets.len()).filter_map(|number| Outlet::try_from(number).ok());
        let all = all.map(Outlets::one).fold(Outlets::default(), Outlets::and);
        let sums = self.sums.get_or_insert_default();
        let place = figure as usize;
        sums.read[place] = sums.read[place].and(Outlets::one(outlet));
        let is_round = sums.read[place] == all;
        if is_round {
            sums.read[place] = Outlets::default();
        }
        // None as long as one of them is not known: a part of the sum would jump when the rest comes.
        let of = |value: fn(&Energy) -> Option<f64>| -> Option<f64> {
            self.outlets.iter().map(|relay| value(&relay.metered.as_ref()?.energy)).sum()
        };
        let energy = &mut self.device.metered.get_or_insert_default().energy;
        if let Figure::Meter = figure {
            let (power, current) = (of(|energy| energy.meter.power), of(|energy| energy.meter.current));
            energy.meter = Meter { power, current, voltage: None, ..energy.meter };
        }
        if is_round {
            let (told, sum) = match figure {
                Figure::Meter => (&mut energy.meter.total, of(|energy| energy.meter.total)),
                Figure::Today => (&mut energy.today, of(|energy| energy.today)),
                Figure::Month => (&mut energy.month, of(|energy| energy.month)),
            };
            *told = believed(*told, sum, &mut sums.fallen[place]);
        }
        self.show_energy(None, ctx);
    }
}

/// A sum that fell may be of before and after; it is told once the next round finds it no lower.
fn believed(told: Option<f64>, sum: Option<f64>, fallen: &mut Option<f64>) -> Option<f64> {
    let falls = told.zip(sum).is_some_and(|(told, sum)| sum < told);
    if falls && fallen.is_none_or(|fallen| sum < Some(fallen)) {
        *fallen = sum;
        return told;
    }
    *fallen = None;
    sum
}
