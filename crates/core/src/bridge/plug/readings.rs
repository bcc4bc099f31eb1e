//! What a reading means: whether it fulfils a desired value, shows a pressed button, or a command that was carried out
//! late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::late_execution::SEEN_WITHIN;
use super::reported::on_time;
use super::{Ctx, Plug};
use crate::bridge::desired::{Desired, DesiredStep, DesiredValue, Property};
use crate::bridge::event::{Ended, NoticeKind};
use crate::model::{RelayState, Route};
use crate::smarthome::message::{Outlet, Reading};

/// The relay in a reading may lag behind the command by about a third of a second.
const LAG: Duration = Duration::from_millis(350);
/// After this many readings that do not show the desired value it is sent again.
const MAX_MISMATCHES: u32 = 3;

impl Plug {
    /// Takes a reading that was requested at this moment, unless it is old.
    pub(super) fn read(&mut self, reading: Reading, requested_at: Instant, route: Route, ctx: &mut Ctx<'_>) {
        if !self.reported.is_old(requested_at) {
            self.take(reading, requested_at, route, ctx);
        }
    }

    /// Takes a reading that is not old.
    pub(super) fn take(
        &mut self,
        mut reading: Reading,
        requested_at: Instant,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) {
        let previous = self.reported.requested_at();
        if self.reported.device().is_none_or(|known| !Arc::ptr_eq(known, &reading.device)) {
            reading.device = ctx.interner.share(&reading.device, self.identity.device_id.as_ref());
            if !self.reported.is_like(&reading.device) {
                self.slow_polls.suit(&reading.device, ctx.now);
            }
        }
        // Over the LAN only: calls to the cloud are counted.
        if let Some(before) = self.reported.reading()
            && self.reachability.serving() == Some(Route::Local)
        {
            self.slow_polls.read_switched_meters(before, &reading, ctx.now);
        }
        let before = self.reported.replace(reading, requested_at);
        self.note_times(before.as_ref(), ctx.now);
        self.come_online(ctx);
        self.assign_to_relays(ctx);
        for part in self.relays.parts() {
            match self.reported.relay(part) {
                Some(state) if part.is_some() || !self.reported.is_strip() => {
                    self.compare_relay(part, state, previous, route, ctx);
                }
                None if part.is_some() => self.miss_outlet(part, route, ctx),
                _ => {}
            }
        }
        self.compare_rest(requested_at, route, ctx);
        self.publish(ctx);
    }

    fn note_times(&mut self, before: Option<&Reading>, now: Instant) {
        for part in self.relays.parts() {
            let [is, was] = [self.reported.reading(), before].map(|reading| on_time(reading?, part));
            let state = self.reported.relay(part);
            let relay = self.relays.get_mut(part);
            relay.set_on_time(is, was, now);
            relay.end_count_down(state, now);
        }
    }

    /// `previous`: when the reading before this one was requested.
    fn compare_relay(
        &mut self,
        part: Option<Outlet>,
        state: RelayState,
        previous: Option<Instant>,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(desired) = self.desired.get_mut(Property::Relay, part) else {
            let late_execution = &mut self.relays.get_mut(part).late_execution;
            if late_execution.shows(state, previous, ctx.now) {
                return self.put_right(part, state, ctx);
            }
            return late_execution.settle(state);
        };
        if let DesiredValue::FlipRelay(flip) = desired.value {
            return self.desired.resolve_toggle(part, if flip { !state } else { state });
        }
        if self.compare(Property::Relay, part, |value| *value == DesiredValue::Relay(state), route, ctx) {
            self.relays.get_mut(part).late_execution.settle(state);
            self.defend(part, state);
        }
    }

    /// The state is defended until the last older request is dead and its effect can be seen, over whichever route serves
    /// the plug by then.
    fn defend(&mut self, part: Option<Outlet>, settled: RelayState) {
        let late_execution = &mut self.relays.get_mut(part).late_execution;
        let in_flight = self.exchanges.may_switch_until(part, !settled);
        let until = in_flight.max(late_execution.stray_until(!settled)).map(|until| until + LAG);
        late_execution.defend_until(until);
        if let Some(until) = until {
            self.polls.hasten(until);
        }
    }

    fn put_right(&mut self, part: Option<Outlet>, state: RelayState, ctx: &mut Ctx<'_>) {
        let detail = format!("an older command switched it {state} late; switching it {} again", !state);
        ctx.notify(NoticeKind::DriftCorrected, self.name_of(part), self.reachability.serving(), detail);
        // A short `command_ttl` is no reason to give up earlier than a late execution can be seen.
        let deadline = ctx.now + self.policy.command_ttl.max(SEEN_WITHIN);
        self.set_desired(Desired::new(DesiredValue::Relay(!state), part, None, ctx.now, deadline), ctx);
    }

    /// The strip left this outlet out.
    fn miss_outlet(&mut self, part: Option<Outlet>, route: Route, ctx: &mut Ctx<'_>) {
        let Some(desired) = self.desired.get(Property::Relay, part) else { return };
        if desired.value.is_undecided() {
            let why = "the strip does not report this outlet: switch it on or off instead";
            return self.end(Property::Relay, part, Ended::Unfit(why), Some(route), ctx);
        }
        self.compare(Property::Relay, part, |_| false, route, ctx);
    }

    /// Everything but the relays.
    fn compare_rest(&mut self, requested_at: Instant, route: Route, ctx: &mut Ctx<'_>) {
        let Some(reading) = self.reported.reading() else { return };
        let (led, brightness, relay, device) =
            (reading.led, reading.brightness, reading.relay, Arc::clone(&reading.device));
        let is_bright = |value: &DesiredValue| match value {
            DesiredValue::Brightness(percent) => brightness == Some(*percent),
            DesiredValue::Fade(0, _) => relay == Some(RelayState::Off),
            DesiredValue::Fade(percent, _) => brightness == Some(*percent) && relay == Some(RelayState::On),
            _ => false,
        };
        self.compare(Property::Brightness, None, is_bright, route, ctx);
        let is_lit = |value: &DesiredValue| led.is_some_and(|led| *value == DesiredValue::Led(led));
        self.compare(Property::Led, None, is_lit, route, ctx);
        for part in self.relays.parts() {
            let alias = match part {
                None => Some(&device.alias),
                Some(outlet) => device.outlets.get(usize::from(outlet)).map(|outlet| &outlet.alias),
            };
            let is_called = |value: &DesiredValue| matches!(value, DesiredValue::Alias(name) if alias.is_some_and(|alias| **alias == **name));
            self.compare(Property::Alias, part, is_called, route, ctx);
        }
        if self.desired.get(Property::Read, None).is_some_and(|desired| requested_at >= desired.arrived) {
            self.end(Property::Read, None, Ended::Ok, Some(route), ctx);
        }
    }

    /// A running count-down, or none, may be what was desired.
    pub(super) fn compare_count_down(
        &mut self,
        part: Option<Outlet>,
        running: Option<(u32, RelayState)>,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) {
        let is_fulfilled = |value: &DesiredValue| match value {
            DesiredValue::CountDown(0, _) => running.is_none(),
            DesiredValue::CountDown(_, then) => running.is_some_and(|(_, found)| found == *then),
            _ => false,
        };
        self.compare(Property::CountDown, part, is_fulfilled, route, ctx);
    }

    /// Compares a desired value that is being read back with what was read. Ends it if they agree; after several
    /// readings that do not it is sent again.
    fn compare(
        &mut self,
        property: Property,
        part: Option<Outlet>,
        is_fulfilled: impl Fn(&DesiredValue) -> bool,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let Some(desired) = self.desired.get_mut(property, part) else { return false };
        let DesiredStep::ReadBack { mismatches, not_before, .. } = &mut desired.step else { return false };
        // A reading in the middle of a fade shows neither its start nor its end.
        if matches!(desired.value, DesiredValue::Fade(..)) && ctx.now < *not_before {
            return false;
        }
        if is_fulfilled(&desired.value) {
            self.end(property, part, Ended::Ok, Some(route), ctx);
            return true;
        }
        *mismatches += 1;
        *not_before = ctx.now + LAG;
        if *mismatches >= MAX_MISMATCHES {
            desired.step = DesiredStep::Act;
        }
        false
    }
}
