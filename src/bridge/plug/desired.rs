//! What is wanted of a plug: commands become wishes, wishes become jobs, and each command ends in one result.

use std::time::{Duration, Instant};

use super::{Ctx, InFlight, Plug};
use crate::bridge::delivery::DeliveryJob;
use crate::bridge::desired::{CommandOrigin, Desired, DesiredStep, DesiredValue, Property};
use crate::bridge::event::{CommandId, CommandResult, Ended, NoticeKind, Update};
use crate::model::{PlugCommand, RelayState, Route, SetCommand, Switch};
use crate::smarthome::message::{DeviceKind, Outlet, Outlets, Request};

/// Why a relay cannot be switched that is not there.
const NO_RELAY: &str = "this device has no relay of its own";

impl Plug {
    /// Takes a command to the device or to one of its outlets; each ends in exactly one result.
    pub(in crate::bridge) fn command(
        &mut self,
        id: CommandId,
        part: Option<Outlet>,
        order: PlugCommand,
        ctx: &mut Ctx<'_>,
    ) {
        let asked = CommandOrigin { id, of: part };
        self.stirred = Some(ctx.now);
        // A fade is not late before it can have ended.
        let fade = if let PlugCommand::Set(wishes) = &order { wishes.transition } else { None };
        let deadline = ctx.now + self.policy.command_ttl + fade.unwrap_or_default();
        match self.wants(part, order) {
            Ok(wants) => {
                for (part, want) in wants {
                    let mut desired = Desired::new(want, part, Some(asked), ctx.now, deadline);
                    if self.reported.is_none() && desired.is_for_the_relay_of_a_device() {
                        desired.step = DesiredStep::Identify;
                    }
                    self.desired(desired, ctx);
                }
            }
            Err(why) => self.report(asked, ctx.now, Ended::Error(why.into()), None, ctx),
        }
    }

    /// What an order comes to for this device, part by part, or why it cannot be.
    fn wants(
        &self,
        part: Option<Outlet>,
        order: PlugCommand,
    ) -> Result<Vec<(Option<Outlet>, DesiredValue)>, &'static str> {
        match order {
            PlugCommand::Set(wishes) => self.wants_set(part, wishes),
            PlugCommand::Reboot => Ok(vec![(None, DesiredValue::Reboot)]),
            PlugCommand::Read => Ok(vec![(None, DesiredValue::Read)]),
        }
    }

    fn wants_set(
        &self,
        part: Option<Outlet>,
        wishes: SetCommand,
    ) -> Result<Vec<(Option<Outlet>, DesiredValue)>, &'static str> {
        let SetCommand { mut relay, led, brightness, transition, lasting, alias } = wishes;
        let mut wants = Vec::new();
        if let Some(percent) = brightness {
            if self.kind().is_some_and(|kind| kind != DeviceKind::Dimmer) {
                return Err("this device cannot be dimmed: leave brightness out");
            }
            match (transition, percent) {
                (Some(over), _) => wants.push((None, DesiredValue::Fade(percent, over))),
                (None, 0) => relay = relay.or(Some(Switch::To(RelayState::Off))),
                (None, _) => {
                    wants.push((None, DesiredValue::Brightness(percent)));
                    relay = relay.or(Some(Switch::To(RelayState::On)));
                }
            }
        }
        if let Some(switch) = relay {
            let parts = self.relay_parts(part);
            if parts.is_empty() {
                return Err(NO_RELAY);
            }
            for part in parts {
                wants.push((part, self.resolve(part, switch)));
                wants.extend(lasting.map(|lasting| (part, self.count_down(part, switch, lasting))));
            }
        } else if let Some(lasting) = lasting {
            if !lasting.is_zero() {
                return Err("`for` needs a `state` that is to last so long");
            }
            wants.extend(
                self.relay_parts(part)
                    .into_iter()
                    .map(|part| (part, DesiredValue::CountDown(0, RelayState::Off))),
            );
        }
        if let Some(state) = led {
            if self.reported.as_ref().is_some_and(|reported| reported.reading.led.is_none()) {
                return Err("this device has no LED that can be switched");
            }
            wants.push((None, DesiredValue::Led(state)));
        }
        wants.extend(alias.map(|alias| (part, DesiredValue::Alias(alias))));
        if wants.is_empty() { Err("the command asks for nothing") } else { Ok(wants) }
    }

    /// The parts whose relays a command to this part switches: a strip's own switches all its outlets, those that are
    /// known from an earlier run among them.
    fn relay_parts(&self, part: Option<Outlet>) -> Vec<Option<Outlet>> {
        let reading = self.reported.as_ref().map(|reported| &reported.reading);
        let outlets = reading.map_or(0, |reading| reading.outlets.len()).max(self.outlets.len());
        match (part, reading) {
            (Some(outlet), _) => vec![Some(outlet)],
            (None, _) if outlets > 0 => (0..).take(outlets).map(Some).collect(),
            (None, Some(reading)) if reading.relay.is_none() => vec![],
            (None, _) => vec![None],
        }
    }

    /// What a whole device's relay was to do before it was known what the device is. A strip's outlets do it instead.
    pub(super) fn assign_to_relays(&mut self, ctx: &mut Ctx<'_>) {
        let Some(parts) =
            self.desired.iter().any(Desired::is_for_the_relay_of_a_device).then(|| self.relay_parts(None))
        else {
            return;
        };
        for slot in [Property::Relay, Property::CountDown] {
            match (&parts[..], self.wish_for_mut(slot, None)) {
                (_, None) => {}
                ([None], Some(desired)) if desired.step == DesiredStep::Identify => {
                    desired.step = desired.value.first_step()
                }
                ([None], Some(_)) => {}
                ([], Some(_)) => self.end(slot, None, Ended::Error(NO_RELAY.into()), None, ctx),
                (outlets, Some(_)) => self.split(slot, outlets.iter().flatten().copied(), ctx),
            }
        }
    }

    /// Makes of the whole device's desired of this kind one for each outlet, unless a newer one is there.
    fn split(&mut self, slot: Property, outlets: impl Iterator<Item = Outlet>, ctx: &mut Ctx<'_>) {
        let is_it = |desired: &Desired| desired.property() == slot && desired.part.is_none();
        let Some(place) = self.desired.iter().position(is_it) else { return };
        let whole = self.desired.swap_remove(place);
        for outlet in outlets {
            let newest = self.wish_for(slot, Some(outlet)).map(|desired| desired.arrived);
            if newest.is_none_or(|newest| newest <= whole.arrived) {
                self.desired(whole.for_outlet(outlet), ctx);
            }
        }
        let is_left = self.desired.iter().any(|desired| desired.command == whole.command);
        if let Some(asked) = whole.command.filter(|_| !is_left) {
            self.report(asked, whole.arrived, Ended::Superseded, None, ctx);
        }
    }

    /// Toggle is relative to what is wished already, else to what will be read. A strip's own toggles each outlet by
    /// itself.
    fn resolve(&self, part: Option<Outlet>, switch: Switch) -> DesiredValue {
        match (switch, self.wish_for(Property::Relay, part).map(|desired| &desired.value)) {
            (Switch::To(state), _) => DesiredValue::Relay(state),
            (Switch::Toggle, Some(DesiredValue::Relay(state))) => DesiredValue::Relay(!*state),
            (Switch::Toggle, Some(DesiredValue::FlipRelay(flip))) => DesiredValue::FlipRelay(!flip),
            (Switch::Toggle, _) => DesiredValue::FlipRelay(true),
        }
    }

    fn count_down(&self, part: Option<Outlet>, switch: Switch, lasting: Duration) -> DesiredValue {
        let state = match (switch, self.relay_of(part)) {
            (Switch::To(state), _) => state,
            (Switch::Toggle, now) => !now.unwrap_or(RelayState::Off),
        };
        // A part of a second is a second: the firmwares count whole ones.
        let seconds = lasting.as_secs() + u64::from(lasting.subsec_nanos() > 0);
        DesiredValue::CountDown(u32::try_from(seconds).unwrap_or(u32::MAX), !state)
    }

    pub(super) fn wish_for(&self, slot: Property, part: Option<Outlet>) -> Option<&Desired> {
        self.desired.iter().find(|desired| desired.property() == slot && desired.part == part)
    }

    pub(super) fn wish_for_mut(&mut self, slot: Property, part: Option<Outlet>) -> Option<&mut Desired> {
        self.desired.iter_mut().find(|desired| desired.property() == slot && desired.part == part)
    }

    pub(super) fn desired(&mut self, desired: Desired, ctx: &mut Ctx<'_>) {
        let slot = desired.property();
        if slot == Property::Relay {
            // What stood until here need not be defended against what is wanted from here on.
            self.relay_mut(desired.part).defended_until = None;
            self.break_off_fade(&desired, ctx);
        }
        self.end(slot, desired.part, Ended::Superseded, None, ctx);
        self.desired.push(desired);
    }

    /// A newer command to the relay is the last word: a fade that was pursued further would light the lamp again.
    fn break_off_fade(&mut self, newer: &Desired, ctx: &mut Ctx<'_>) {
        let is_other = |desired: &Desired| {
            matches!(desired.value, DesiredValue::Fade(..)) && desired.command != newer.command
        };
        if newer.command.is_some() && self.wish_for(Property::Brightness, newer.part).is_some_and(is_other) {
            self.end(Property::Brightness, newer.part, Ended::Superseded, None, ctx);
        }
    }

    /// Ends the desired of this kind, if there is one. A command of several parts is answered once: with the first
    /// part that fails, or when the last part is done.
    pub(super) fn end(
        &mut self,
        slot: Property,
        part: Option<Outlet>,
        ended: Ended,
        route: Option<Route>,
        ctx: &mut Ctx<'_>,
    ) {
        let is_it = |desired: &Desired| desired.property() == slot && desired.part == part;
        let Some(place) = self.desired.iter().position(is_it) else { return };
        let desired = self.desired.swap_remove(place);
        let Some(asked) = desired.command else { return };
        let mut rest = self.desired.iter_mut().filter(|other| other.command == Some(asked)).peekable();
        if ended == Ended::Ok && rest.peek().is_some() {
            return;
        }
        rest.for_each(|other| other.command = None);
        self.report(asked, desired.arrived, ended, route, ctx);
    }

    fn report(
        &mut self,
        asked: CommandOrigin,
        arrived: Instant,
        ended: Ended,
        route: Option<Route>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(plug) = self.name_of(asked.of).cloned() else { return };
        if let Ended::Error(why) = &ended {
            ctx.notify(NoticeKind::CommandFailed, Some(&plug), route, why.clone());
            // Whoever showed the desired as a fact must see the truth again.
            self.forget_shown_states();
        }
        self.show(ctx);
        let state = self.relay_of(asked.of);
        let took = ctx.now.saturating_duration_since(arrived);
        ctx.publish(Update::Result(CommandResult { id: asked.id, plug, ended, state, route, took }));
    }

    pub(super) fn expire(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(place) = self.desired.iter().position(|desired| desired.deadline <= ctx.now) {
            let unusable = Route::ALL.map(|route| self.why_unusable(route, ctx));
            let desired = &mut self.desired[place];
            for (route, unusable) in Route::ALL.into_iter().zip(unusable) {
                let says_it = |flight: &InFlight| desired.is_said_by(&flight.request);
                let hung = self.in_flight[route.index()].as_ref().is_some_and(says_it);
                desired.failures.complete(route, unusable, hung);
            }
            let (slot, part, request, excuse) =
                (desired.property(), desired.part, desired.request(), desired.failure_text());
            if request.changes_something() {
                self.abandon_what_says(place, ctx);
            }
            self.end(slot, part, Ended::Error(format!("not done in time ({excuse})")), None, ctx);
        }
    }

    /// Takes back what is on its way to the plug for the desired at this place.
    fn abandon_what_says(&mut self, place: usize, ctx: &mut Ctx<'_>) {
        for route in Route::ALL {
            let says_it = |flight: &InFlight| self.desired[place].is_said_by(&flight.request);
            if self.in_flight[route.index()].as_ref().is_some_and(says_it) {
                self.abandon(route, ctx);
            }
        }
    }

    /// What to pursue first: what can be said or read now, and acts before read-backs of the same kind, so that one
    /// reading serves several.
    pub(super) fn job(&self, now: Instant) -> Option<DeliveryJob> {
        let order = |desired: &&Desired| {
            (desired.not_before() > now, desired.property(), desired.is_read_back(), desired.arrived)
        };
        let first = self.desired.iter().min_by_key(order)?;
        Some(DeliveryJob {
            property: first.property(),
            part: first.part,
            request: self.joined(first),
            arrived: first.arrived,
            not_before: first.not_before(),
        })
    }

    /// The desired's request, and with it what the other outlets are to do as well.
    fn joined(&self, first: &Desired) -> Request {
        let (DesiredStep::Act, DesiredValue::Relay(state), Some(outlet)) =
            (first.step, &first.value, first.part)
        else {
            return first.request();
        };
        let same = self
            .desired
            .iter()
            .filter(|desired| desired.step == DesiredStep::Act && desired.value == first.value);
        let outlets = same
            .filter_map(|desired| desired.part)
            .map(Outlets::one)
            .fold(Outlets::one(outlet), Outlets::and);
        Request::SetOutlets(outlets, *state)
    }
}
