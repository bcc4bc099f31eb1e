//! The relays of a device: one, or one for each outlet of a strip; what each is called and what was made of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Plug;
use crate::bridge::event::{Energy, PlugInfo, PlugState};
use crate::model::{PlugName, RelayState};
use crate::smarthome::message::{Date, DeviceKind, MOST_POWER, Outlet, OutletState, ScheduleRule};

/// One relay, and all that is told of it.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// Of an outlet: its own name. The device's is the plug's.
    pub(super) name: Option<PlugName>,
    /// The state that should hold: of the newest confirmed command, or of the button since.
    pub(super) settled: Option<RelayState>,
    /// Until when a request of a command older than the settled one may still be carried out. Put right once.
    pub(super) defended_until: Option<Instant>,
    /// Until when a request that got no answer may still switch it to off, to on.
    pub(super) stray: [Option<Instant>; 2],
    pub(super) on_since: Option<Instant>,
    /// When a count-down switches it, and to what.
    pub(super) until: Option<(Instant, RelayState)>,
    /// Few plugs have a meter.
    pub(super) metered: Option<Box<MeterState>>,
    pub(super) schedule: Option<Arc<[ScheduleRule]>>,
    pub(super) shown: Published,
}

/// What an older command did late is put right if it is seen within this time, in which a look that fails can be
/// repeated. Later it is let be: a hand may have been there since.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(15);

impl Relay {
    /// Whether an older command may have switched it unseen since the last reading, whose question was put then.
    pub(super) fn is_watched(&self, asked: Option<Instant>, now: Instant) -> bool {
        let Some((until, asked)) = self.defended_until.zip(asked) else { return false };
        asked < until && now <= until + SEEN_WITHIN
    }
}

/// What the broker was told last.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<(Arc<PlugInfo>, Instant)>,
}

/// What a meter told, and what of it the broker was told last.
#[derive(Debug, Default)]
pub(super) struct MeterState {
    pub(super) energy: Energy,
    pub(super) shown: Option<Energy>,
    /// It is told: the first time whole, from then on as it changes.
    pub(super) is_told: bool,
    pub(super) total: Counter,
    pub(super) today: Counter,
    pub(super) month: Counter,
    /// How many values were dropped that no plug can have measured.
    pub(super) dropped: u32,
}

/// A count of kWh that only grows until it begins anew. Home Assistant takes a fall for such a beginning and counts all
/// that comes after it again, so one reading alone is not believed that falls, or grows by more than a plug can carry.
#[derive(Debug, Default)]
pub(super) struct Counter {
    /// The count that was believed last, and when.
    last: Option<(f64, Instant)>,
    /// The reading before this one, if it was not believed.
    doubted: Option<(f64, Instant)>,
    /// The day or the month that it is about; nothing of a count for all time.
    period: Option<Date>,
}

/// kWh: counts of some firmwares go on in steps of up to this much.
const COUNTER_STEP: f64 = 0.1;

impl Counter {
    /// The count as it is to be told. A new period begins anew without a doubt; else a reading counts that goes on from
    /// the last one, or from the one that was doubted before it.
    pub(super) fn believe(&mut self, told: Option<f64>, period: Option<Date>, now: Instant) -> Option<f64> {
        if self.period != period {
            *self = Self { period, ..Self::default() };
        }
        let told = told?;
        let goes_on_from = |(count, at): (f64, Instant)| {
            let hours = now.saturating_duration_since(at).as_secs_f64() / 3600.0;
            (count..=count + COUNTER_STEP + MOST_POWER / 1000.0 * hours).contains(&told)
        };
        match self.last {
            Some(last) if !goes_on_from(last) && !self.doubted.is_some_and(goes_on_from) => {
                self.doubted = Some((told, now));
                Some(last.0)
            }
            _ => {
                self.last = Some((told, now));
                self.doubted = None;
                Some(told)
            }
        }
    }
}

impl Plug {
    /// The device itself, then its outlets.
    pub(super) fn parts(&self) -> impl Iterator<Item = Option<Outlet>> + use<> {
        let outlets = u8::try_from(self.outlets.len()).unwrap_or(u8::MAX);
        std::iter::once(None).chain((0..outlets).map(Some))
    }

    pub(super) fn relay(&self, part: Option<Outlet>) -> Option<&Relay> {
        match part {
            None => Some(&self.device),
            Some(outlet) => self.outlets.get(usize::from(outlet)),
        }
    }

    pub(super) fn relay_mut(&mut self, part: Option<Outlet>) -> &mut Relay {
        match part.and_then(|outlet| self.outlets.get_mut(usize::from(outlet))) {
            Some(relay) => relay,
            None => &mut self.device,
        }
    }

    /// What this part is called, if it has a name already.
    pub(super) fn name_of(&self, part: Option<Outlet>) -> Option<&PlugName> {
        match part {
            None => self.name.as_ref(),
            Some(_) => self.relay(part)?.name.as_ref(),
        }
    }

    /// The relay as last read; a strip is on while any outlet is.
    pub(super) fn relay_of(&self, part: Option<Outlet>) -> Option<RelayState> {
        let reading = &self.reported.as_ref()?.reading;
        match part {
            Some(outlet) => reading.outlets.get(usize::from(outlet)).and_then(|outlet| outlet.relay),
            None if reading.outlets.is_empty() => reading.relay,
            None => {
                let is = |outlet: &OutletState, state| outlet.relay == Some(state);
                let all_off = reading.outlets.iter().all(|outlet| is(outlet, RelayState::Off));
                let any_on = reading.outlets.iter().any(|outlet| is(outlet, RelayState::On));
                (any_on || all_off).then_some(RelayState::from_bool(any_on))
            }
        }
    }

    pub(super) fn kind(&self) -> Option<DeviceKind> {
        self.reported.as_ref().map(|reported| reported.reading.device.what())
    }

    /// Gives the outlets of a strip their names, in their order.
    pub(in crate::bridge) fn set_outlet_names(&mut self, names: Vec<PlugName>) {
        self.outlets.resize_with(names.len(), Relay::default);
        self.outlet_list = names.iter().cloned().collect();
        for (relay, name) in self.outlets.iter_mut().zip(names) {
            relay.name = Some(name);
        }
    }

    /// What its outlets are called.
    pub(in crate::bridge) fn outlet_names(&self) -> impl Iterator<Item = &PlugName> {
        self.outlets.iter().filter_map(|relay| relay.name.as_ref())
    }
}
