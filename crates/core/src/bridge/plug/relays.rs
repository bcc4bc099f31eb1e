//! The relays of a device: one, or one for each outlet of a strip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exchanges::switched_state;
use super::late_execution::LateExecution;
use super::meter::MeterState;
use super::published::Published;
use super::sums::{MeterValue, Sums};
use crate::bridge::counters::CommandCounts;
use crate::model::{PlugName, RelayState};
use crate::smarthome::message::{Outlet, Request, ScheduleRule};

/// Two ends of a count-down, computed from whole seconds, are the same if they are this close.
const SAME_END: Duration = Duration::from_millis(2500);
/// Two moments of switching on are the same if they are this close: the count of some firmwares jumps by seconds.
const SAME_SWITCH: Duration = Duration::from_secs(5);

/// The device's relay and those of its outlets. A part is the device (`None`) or an outlet.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// The device's own relay, or what a strip shows as a whole.
    device: Relay,
    outlets: Vec<Relay>,
    outlet_names: Arc<[PlugName]>,
    /// Of a strip whose outlets have meters.
    sums: Option<Box<Sums>>,
}

/// One relay, and what belongs to it.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// An outlet's own name. The device has the plug's.
    pub(super) name: Option<PlugName>,
    pub(super) late_execution: LateExecution,
    pub(super) on_since: Option<Instant>,
    /// When a count-down switches it, and to which state.
    pub(super) count_down: Option<(Instant, RelayState)>,
    /// Few plugs have a meter.
    pub(super) meter: Option<Box<MeterState>>,
    pub(super) schedule: Option<Arc<[ScheduleRule]>>,
    pub(super) published: Published,
    pub(super) commands: CommandCounts,
}

impl Relays {
    /// The device, then its outlets.
    pub(super) fn parts(&self) -> impl Iterator<Item = Option<Outlet>> + use<> {
        let outlets = u8::try_from(self.outlets.len()).unwrap_or(u8::MAX);
        std::iter::once(None).chain((0..outlets).map(Some))
    }

    pub(super) fn get(&self, part: Option<Outlet>) -> Option<&Relay> {
        match part {
            None => Some(&self.device),
            Some(outlet) => self.outlets.get(usize::from(outlet)),
        }
    }

    /// The device's relay stands in for an outlet that is not known.
    pub(super) fn get_mut(&mut self, part: Option<Outlet>) -> &mut Relay {
        match part.and_then(|outlet| self.outlets.get_mut(usize::from(outlet))) {
            Some(relay) => relay,
            None => &mut self.device,
        }
    }

    pub(super) fn outlet_count(&self) -> usize {
        self.outlets.len()
    }

    /// Names the outlets, in their order.
    pub(super) fn set_outlet_names(&mut self, names: Vec<PlugName>) {
        self.outlets.resize_with(names.len(), Relay::default);
        self.outlet_names = names.iter().cloned().collect();
        for (relay, name) in self.outlets.iter_mut().zip(names) {
            relay.name = Some(name);
        }
    }

    pub(super) fn outlet_names(&self) -> &Arc<[PlugName]> {
        &self.outlet_names
    }

    /// A request without an answer may still be carried out until then.
    pub(super) fn note_stray(&mut self, request: &Request, until: Instant) {
        for part in self.parts() {
            if let Some(state) = switched_state(request, part) {
                self.get_mut(part).late_execution.note_stray(state, until);
            }
        }
    }

    /// When the effect of older requests can be seen, if it cannot yet.
    pub(super) fn check_at(&self, now: Instant) -> Option<Instant> {
        self.iter().filter_map(|relay| relay.late_execution.check_at(now)).min()
    }

    /// Whether an older request may have switched a relay unseen since the last reading, which was requested at `read`.
    pub(super) fn is_watched(&self, read: Option<Instant>, now: Instant) -> bool {
        self.iter().any(|relay| relay.late_execution.is_watched(read, now))
    }

    /// The meter of this outlet was read: computes the strip's.
    pub(super) fn sum_up(&mut self, outlet: Outlet, value: MeterValue) {
        let sums = &mut self.device.meter.get_or_insert_default().energy;
        let outlets = self.outlets.iter().map(|relay| relay.meter.as_ref().map(|meter| &meter.energy));
        self.sums.get_or_insert_default().sum_up(sums, outlets, outlet, value);
    }

    /// Everything is published again on the next occasion.
    pub(super) fn forget_published(&mut self) {
        for relay in self.iter_mut() {
            relay.published = Published::default();
            if let Some(meter) = &mut relay.meter {
                meter.forget_published();
            }
        }
    }

    pub(super) fn forget_published_states(&mut self) {
        self.iter_mut().for_each(|relay| relay.published.forget_state());
    }

    /// The states that contain a date are published again.
    pub(super) fn forget_published_dates(&mut self) {
        let has_date = |relay: &&mut Relay| relay.on_since.is_some() || relay.count_down.is_some();
        self.iter_mut().filter(has_date).for_each(|relay| relay.published.forget_state());
    }

    fn iter(&self) -> impl Iterator<Item = &Relay> {
        std::iter::once(&self.device).chain(&self.outlets)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Relay> {
        std::iter::once(&mut self.device).chain(&mut self.outlets)
    }
}

impl Relay {
    /// Takes the seconds since the relay went on, and those of the reading before.
    pub(super) fn set_on_time(&mut self, on_time: Option<u64>, before: Option<u64>, now: Instant) {
        // Some firmwares stop counting.
        let stands_still = self.on_since.is_some() && on_time.is_some() && before == on_time;
        if !stands_still {
            let on_since = on_time.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds)));
            self.on_since = on_since
                .map(|at| self.on_since.filter(|&known| is_same(known, at, SAME_SWITCH)).unwrap_or(at));
        }
    }

    /// Takes the seconds until a count-down switches the relay, and to which state.
    pub(super) fn set_count_down(&mut self, running: Option<(u32, RelayState)>, now: Instant) {
        let end = running.map(|(seconds, then)| (now + Duration::from_secs(seconds.into()), then));
        self.count_down = match (self.count_down, end) {
            // Whole seconds vary by one from reading to reading: the known end stays.
            (Some((known, was)), Some((at, then))) if was == then && is_same(known, at, SAME_END) => {
                Some((known, then))
            }
            _ => end,
        };
    }

    /// A reading shows this state: a count-down that has led to it is over.
    pub(super) fn end_count_down(&mut self, state: Option<RelayState>, now: Instant) {
        self.count_down.take_if(|(at, then)| *at <= now || (Some(*then) == state && *at <= now + SAME_END));
    }
}

fn is_same(one: Instant, other: Instant, within: Duration) -> bool {
    one.saturating_duration_since(other).max(other.saturating_duration_since(one)) <= within
}

#[cfg(test)]
mod tests {
    use super::*;
    use RelayState::{Off, On};

    #[test]
    fn the_moment_of_switching_on_stays_while_the_count_jumps_by_seconds() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut relay = Relay::default();
        relay.set_on_time(Some(60), None, start);
        let on_since = relay.on_since;
        assert_eq!(on_since, Some(start - Duration::from_secs(60)));
        relay.set_on_time(Some(62), Some(60), start + Duration::from_secs(5));
        assert_eq!(relay.on_since, on_since, "three seconds off");
        relay.set_on_time(Some(62), Some(62), start + Duration::from_secs(100));
        assert_eq!(relay.on_since, on_since, "the firmware stopped counting");
        relay.set_on_time(Some(2), Some(62), start + Duration::from_secs(105));
        assert_eq!(relay.on_since, Some(start + Duration::from_secs(103)), "it was switched again");
        relay.set_on_time(None, Some(2), start + Duration::from_secs(110));
        assert_eq!(relay.on_since, None);
    }

    #[test]
    fn a_count_down_keeps_its_end_until_its_work_is_done() {
        let start = Instant::now();
        let mut relay = Relay::default();
        relay.set_count_down(Some((60, Off)), start);
        let end = Some((start + Duration::from_secs(60), Off));
        relay.set_count_down(Some((54, Off)), start + Duration::from_secs(5));
        assert_eq!(relay.count_down, end, "whole seconds vary");
        relay.end_count_down(Some(Off), start + Duration::from_secs(5));
        assert_eq!(relay.count_down, end, "it has not led to this state");
        relay.end_count_down(Some(Off), start + Duration::from_secs(59));
        assert_eq!(relay.count_down, None);
        relay.set_count_down(Some((60, Off)), start);
        relay.set_count_down(Some((60, On)), start);
        assert_eq!(relay.count_down, Some((start + Duration::from_secs(60), On)));
    }

    #[test]
    fn a_stray_request_counts_for_the_outlets_that_it_is_about() {
        let now = Instant::now();
        let until = now + Duration::from_secs(3);
        let mut relays = Relays::default();
        relays.set_outlet_names(vec![PlugName::new("left").unwrap(), PlugName::new("right").unwrap()]);
        let right = crate::smarthome::message::Outlets::one(1);
        relays.note_stray(&Request::SetOutlets(right, On), until);
        let strays: Vec<_> = relays.iter().map(|relay| relay.late_execution.stray_until(On)).collect();
        assert_eq!(strays, [None, None, Some(until)]);
        relays.get_mut(Some(1)).late_execution.defend_until(Some(until));
        assert_eq!(relays.check_at(now), Some(until));
        assert_eq!(relays.check_at(until), None);
    }
}
