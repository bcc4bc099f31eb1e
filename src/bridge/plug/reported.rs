//! What a plug says of itself: whether that fulfils a desired, is a button pressed, or an older command carried out late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::polls::SlowPoll;
use super::relays::SEEN_WITHIN;
use super::sums::Figure;
use super::{Ctx, Plug, Reported};
use crate::bridge::desired::{Desired, DesiredStep, DesiredValue, Property};
use crate::bridge::event::{Ended, NoticeKind, Update};
use crate::model::{RelayState, Route};
use crate::smarthome::message::{Date, Meter, Outlet, Reading};

/// The relay shown by a reading may lag behind the command by about a third of a second.
const SECOND_READING: Duration = Duration::from_millis(350);
/// So many readings that do not show the wished state, and it is said again.
const MISMATCHES_UNTIL_AGAIN: u32 = 3;
/// Two ends of a count-down that are computed from whole seconds are the same within this.
const SAME_MOMENT: Duration = Duration::from_millis(2500);
/// Two moments of switching on are the same within this: what firmwares count jumps by some seconds.
const SAME_SWITCHING: Duration = Duration::from_secs(5);

impl Plug {
    /// Takes a reading. `asked` is when the question was put: what was asked before the last known change is old.
    pub(super) fn read(&mut self, reading: Reading, asked: Instant, route: Route, ctx: &mut Ctx<'_>) {
        if !self.is_old(asked) {
            self.take(reading, asked, route, ctx);
        }
    }

    /// Whether the answer to a question of this moment may be older than what is known.
    pub(super) fn is_old(&self, asked: Instant) -> bool {
        let previous = self.reported.as_ref().map(|reported| reported.asked);
        previous.max(self.acted).is_some_and(|known| asked < known)
    }

    /// Takes a reading that is not old.
    pub(super) fn take(&mut self, mut reading: Reading, asked: Instant, route: Route, ctx: &mut Ctx<'_>) {
        let previous = self.reported.as_ref().map(|reported| reported.asked);
        let is_another = |known: &Reported| !Arc::ptr_eq(&known.reading.device, &reading.device);
        if self.reported.as_ref().is_none_or(is_another) {
            reading.device = ctx.interner.share(&reading.device, self.identity.device_id.as_ref());
            self.learn_kind(&reading, ctx.now);
        }
        self.read_meter_after_switching(&reading, ctx.now);
        let before = self.reported.replace(Reported { reading, asked });
        self.note_on_since(before.as_ref(), ctx.now);
        self.come_online(ctx);
        self.assign_to_relays(ctx);
        for part in self.parts() {
            match self.relay_of(part) {
                Some(relay) if part.is_some() || !self.is_strip() => {
                    self.compare_relay(part, relay, previous, route, ctx);
                }
                None if part.is_some() => self.miss_outlet(part, route, ctx),
                _ => {}
            }
        }
        self.compare_rest(asked, route, ctx);
        self.show(ctx);
    }

    /// What suits a device of this kind is asked from here on.
    fn learn_kind(&mut self, reading: &Reading, now: Instant) {
        let device = &reading.device;
        let known = self.reported.as_ref().map(|reported| &reported.reading.device);
        let same = known.is_some_and(|known| {
            known.feature == device.feature && known.outlets.len() == device.outlets.len()
        });
        if !same {
            self.slow_polls = SlowPoll::all_for(device, now);
        }
    }

    pub(super) fn is_strip(&self) -> bool {
        self.reported.as_ref().is_some_and(|reported| !reported.reading.outlets.is_empty())
    }

    fn note_on_since(&mut self, before: Option<&Reported>, now: Instant) {
        for part in self.parts() {
            let on_time = self.reported.as_ref().and_then(|reported| on_time_of(&reported.reading, part));
            let counted = before.and_then(|before| on_time_of(&before.reading, part));
            let relay = self.relay_of(part);
            let known = self.relay_mut(part);
            // Some firmwares stop counting.
            let stands_still = known.on_since.is_some() && on_time.is_some() && counted == on_time;
            if !stands_still {
                known.on_since = same_moment(known.on_since, on_time, now);
            }
            // A count-down that has done its work is over.
            known
                .until
                .take_if(|(at, then)| *at <= now || (Some(*then) == relay && *at <= now + SAME_MOMENT));
        }
    }

    fn compare_relay(
        &mut self,
        part: Option<Outlet>,
        relay: RelayState,
        previous: Option<Instant>,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(desired) = self.wish_for_mut(Property::Relay, part) else {
            if self.is_late_execution(part, relay, previous, ctx.now) {
                return self.put_right(part, relay, ctx);
            }
            self.relay_mut(part).settled = Some(relay);
            return;
        };
        if let DesiredValue::FlipRelay(flip) = desired.value {
            desired.value = DesiredValue::Relay(if flip { !relay } else { relay });
            return;
        }
        if self.compare(Property::Relay, part, |want| *want == DesiredValue::Relay(relay), route, ctx) {
            self.relay_mut(part).settled = Some(relay);
            self.watch_for_strays(part, relay);
        }
    }

    /// The strip told nothing of this outlet.
    fn miss_outlet(&mut self, part: Option<Outlet>, route: Route, ctx: &mut Ctx<'_>) {
        let Some(desired) = self.wish_for(Property::Relay, part) else { return };
        if matches!(desired.value, DesiredValue::FlipRelay(_)) {
            let why = "the strip does not tell of this outlet: switch it on or off instead";
            return self.end(Property::Relay, part, Ended::Error(why.into()), Some(route), ctx);
        }
        self.compare(Property::Relay, part, |_| false, route, ctx);
    }

    /// Everything but the relays.
    fn compare_rest(&mut self, asked: Instant, route: Route, ctx: &mut Ctx<'_>) {
        let Some(Reported { reading, .. }) = &self.reported else { return };
        let (led, brightness, relay, device) =
            (reading.led, reading.brightness, reading.relay, Arc::clone(&reading.device));
        let is_bright = |want: &DesiredValue| match want {
            DesiredValue::Brightness(percent) => brightness == Some(*percent),
            DesiredValue::Fade(0, _) => relay == Some(RelayState::Off),
            DesiredValue::Fade(percent, _) => brightness == Some(*percent) && relay == Some(RelayState::On),
            _ => false,
        };
        self.compare(Property::Brightness, None, is_bright, route, ctx);
        self.compare(
            Property::Led,
            None,
            |want| led.is_some_and(|led| *want == DesiredValue::Led(led)),
            route,
            ctx,
        );
        for part in self.parts() {
            let alias = match part {
                None => Some(&device.alias),
                Some(outlet) => device.outlets.get(usize::from(outlet)).map(|outlet| &outlet.alias),
            };
            let is_called = |want: &DesiredValue| matches!(want, DesiredValue::Alias(name) if alias.is_some_and(|alias| **alias == **name));
            self.compare(Property::Alias, part, is_called, route, ctx);
        }
        if self.wish_for(Property::Read, None).is_some_and(|desired| asked >= desired.arrived) {
            self.end(Property::Read, None, Ended::Ok, Some(route), ctx);
        }
    }

    /// Whether the desired of this kind is at its read-back and what was read is it.
    fn compare(
        &mut self,
        slot: Property,
        part: Option<Outlet>,
        fulfilled: impl Fn(&DesiredValue) -> bool,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let Some(desired) = self.wish_for_mut(slot, part) else { return false };
        let DesiredStep::ReadBack { mismatches, not_before, .. } = &mut desired.step else { return false };
        // A poll in the middle of a fade shows neither where it began nor where it ends.
        if matches!(desired.value, DesiredValue::Fade(..)) && ctx.now < *not_before {
            return false;
        }
        if fulfilled(&desired.value) {
            self.end(slot, part, Ended::Ok, Some(route), ctx);
            return true;
        }
        *mismatches += 1;
        *not_before = ctx.now + SECOND_READING;
        if *mismatches >= MISMATCHES_UNTIL_AGAIN {
            desired.step = DesiredStep::Act;
        }
        false
    }

    /// Requests of older commands may still be carried out: look again when the last of them is dead and what it did can
    /// be seen, over whichever route serves the plug by then.
    fn watch_for_strays(&mut self, part: Option<Outlet>, settled: RelayState) {
        let until = self.stray_until(part, !settled).map(|until| until + SECOND_READING);
        self.relay_mut(part).defended_until = until;
        if let Some(until) = until {
            self.poll_at = self.poll_at.map(|poll_at| poll_at.min(until));
        }
    }

    /// A state that differs from the settled one, while a request of an older command may have been carried out
    /// since the reading before.
    fn is_late_execution(
        &self,
        part: Option<Outlet>,
        relay: RelayState,
        previous: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Some(known) = self.relay(part) else { return false };
        known.settled.is_some_and(|settled| settled != relay) && known.is_watched(previous, now)
    }

    fn put_right(&mut self, part: Option<Outlet>, relay: RelayState, ctx: &mut Ctx<'_>) {
        let detail = format!("an older command switched it {relay} late; switching it {} again", !relay);
        ctx.notify(NoticeKind::DriftCorrected, self.name_of(part), self.serving, detail);
        // As long as it could have been seen: a short life of commands is no reason to give up early.
        let deadline = ctx.now + self.policy.command_ttl.max(SEEN_WITHIN);
        self.desired(Desired::new(DesiredValue::Relay(!relay), part, None, ctx.now, deadline), ctx);
    }

    // --- the answers to slow questions ----------------------------------------------------------------------------

    pub(super) fn read_meter(&mut self, part: Option<Outlet>, mut meter: Meter, ctx: &mut Ctx<'_>) {
        let dropped = meter.drop_impossible();
        let name = self.name_of(part).cloned().filter(|_| dropped > 0);
        let metered = self.relay_mut(part).metered.get_or_insert_default();
        if dropped > 0 {
            metered.dropped = metered.dropped.saturating_add(dropped);
            let known = metered.energy.meter;
            meter.power = meter.power.or(known.power);
            meter.voltage = meter.voltage.or(known.voltage);
            meter.current = meter.current.or(known.current);
        }
        if let Some(name) = name {
            ctx.publish(Update::Dropped(name, metered.dropped));
        }
        meter.total = metered.total.believe(meter.total, None, ctx.now);
        metered.energy.meter = meter;
        self.show_energy(part, ctx);
        self.sum_up(part, Figure::Meter, ctx);
    }

    /// What was used on the days of a month; a day that is not listed used nothing. Without a list it is not known.
    pub(super) fn read_today(
        &mut self,
        part: Option<Outlet>,
        of: (u16, u8),
        days: Option<&[(u8, f64)]>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(date) = self.date.filter(|date| (date.year, date.month) == of) else { return };
        let metered = self.relay_mut(part).metered.get_or_insert_default();
        let told = days.map(|days| used_in(days, date.day));
        metered.energy.today = metered.today.believe(told, Some(date), ctx.now);
        self.show_energy(part, ctx);
        self.sum_up(part, Figure::Today, ctx);
    }

    /// What was used in the months of a year.
    pub(super) fn read_month(
        &mut self,
        part: Option<Outlet>,
        of: u16,
        months: Option<&[(u8, f64)]>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(date) = self.date.filter(|date| date.year == of) else { return };
        let metered = self.relay_mut(part).metered.get_or_insert_default();
        let told = months.map(|months| used_in(months, date.month));
        metered.energy.month = metered.month.believe(told, Some(Date { day: 0, ..date }), ctx.now);
        self.show_energy(part, ctx);
        self.sum_up(part, Figure::Month, ctx);
    }

    /// Whether a count-down runs, which may be what a desired waits for.
    pub(super) fn read_count_down(
        &mut self,
        part: Option<Outlet>,
        running: Option<(u32, RelayState)>,
        route: Route,
        ctx: &mut Ctx<'_>,
    ) {
        let end = |(seconds, then): (u32, RelayState)| (ctx.now + Duration::from_secs(seconds.into()), then);
        let known = self.relay_mut(part);
        known.until = match (known.until, running.map(end)) {
            // Whole seconds waver: the same end is not told anew.
            (Some((known, was)), Some((at, then))) if was == then && is_same(known, at, SAME_MOMENT) => {
                Some((known, then))
            }
            (_, found) => found,
        };
        self.show(ctx);
        let fulfilled = |want: &DesiredValue| match want {
            DesiredValue::CountDown(0, _) => running.is_none(),
            DesiredValue::CountDown(_, then) => running.is_some_and(|(_, found)| found == *then),
            _ => false,
        };
        self.compare(Property::CountDown, part, fulfilled, route, ctx);
    }
}

fn used_in(list: &[(u8, f64)], wanted: u8) -> f64 {
    list.iter().find(|(number, _)| *number == wanted).map_or(0.0, |(_, kwh)| *kwh)
}

fn on_time_of(reading: &Reading, part: Option<Outlet>) -> Option<u64> {
    match part {
        None => reading.on_time,
        Some(outlet) => reading.outlets.get(usize::from(outlet))?.on_time,
    }
}

/// When the relay went on, computed anew only where it differs from what was known.
fn same_moment(known: Option<Instant>, on_time: Option<u64>, now: Instant) -> Option<Instant> {
    let computed = now.checked_sub(Duration::from_secs(on_time?))?;
    Some(known.filter(|&known| is_same(known, computed, SAME_SWITCHING)).unwrap_or(computed))
}

fn is_same(one: Instant, other: Instant, within: Duration) -> bool {
    one.saturating_duration_since(other).max(other.saturating_duration_since(one)) <= within
}
