//! What a command means for a device: it becomes desired values, and ends in one result.

use std::time::{Duration, Instant};

use super::{Ctx, Plug};
use crate::bridge::desired::{CommandOrigin, Desired, DesiredStep, DesiredValue, Property, StripFlip};
use crate::bridge::event::{CommandId, CommandResult, Ended, NoticeKind, Update};
use crate::model::{PlugCommand, RelayState, Route, SetCommand, Switch};
use crate::smarthome::message::{DeviceKind, Outlet};

const NO_RELAY: &str = "this device has no relay of its own";
const OUTLETS_LEFT_OUT: &str = "the strip does not report all its outlets: switch it on or off instead";

/// A value that is desired of a part.
type PartValue = (Option<Outlet>, DesiredValue);

impl Plug {
    /// Takes a command to the device or to one of its outlets. It ends in exactly one result.
    pub(in crate::bridge) fn command(
        &mut self,
        id: CommandId,
        part: Option<Outlet>,
        command: PlugCommand,
        ctx: &mut Ctx<'_>,
    ) {
        let origin = CommandOrigin { id, of: part };
        self.exchanges.allow_repeats(ctx.now);
        // A fade cannot be done before its time.
        let fade = if let PlugCommand::Set(set) = &command { set.transition } else { None };
        let deadline = ctx.now + self.policy.command_ttl + fade.unwrap_or_default();
        let values = match command {
            PlugCommand::Set(set) => self.values_of(part, set),
            PlugCommand::Reboot => Ok(vec![(None, DesiredValue::Reboot)]),
            PlugCommand::Read => Ok(vec![(None, DesiredValue::Read)]),
        };
        match values {
            Ok(values) => {
                let is_read_first = self.reported.reading().is_none() || self.relays.outlet_count() > 0;
                for (part, value) in values {
                    let mut desired = Desired::new(value, part, Some(origin), ctx.now, deadline);
                    if is_read_first && desired.is_for_the_relay_of_a_device() {
                        desired.step = DesiredStep::Identify;
                    }
                    if origin.of.is_none() {
                        self.supersede_on_other_level(desired.property(), part, ctx);
                    }
                    self.set_desired(desired, ctx);
                }
            }
            Err(why) => self.publish_result(origin, ctx.now, Ended::Unfit(why), None, ctx),
        }
    }

    /// The values that a `set` desires of this device, or why it cannot be done.
    fn values_of(&self, part: Option<Outlet>, set: SetCommand) -> Result<Vec<PartValue>, &'static str> {
        let SetCommand { mut relay, led, brightness, transition, lasting, alias } = set;
        let mut values = Vec::new();
        if let Some(percent) = brightness {
            if self.reported.kind().is_some_and(|kind| kind != DeviceKind::Dimmer) {
                return Err("this device cannot be dimmed: leave brightness out");
            }
            match (transition, percent) {
                (Some(over), _) => values.push((None, DesiredValue::Fade(percent, over))),
                (None, 0) => relay = relay.or(Some(Switch::To(RelayState::Off))),
                (None, _) => {
                    values.push((None, DesiredValue::Brightness(percent)));
                    relay = relay.or(Some(Switch::To(RelayState::On)));
                }
            }
        }
        if let Some(switch) = relay {
            let relays = self.relay_values(part, switch);
            if relays.is_empty() {
                return Err(NO_RELAY);
            }
            for (part, value) in relays {
                let count_down = lasting.map(|lasting| (part, self.count_down(part, &value, lasting)));
                values.push((part, value));
                values.extend(count_down);
            }
        } else if let Some(lasting) = lasting {
            if !lasting.is_zero() {
                return Err("`for` needs a `state` that is to last so long");
            }
            let stop = |part| (part, DesiredValue::CountDown(0, RelayState::Off));
            values.extend(self.switched_parts(part).into_iter().map(stop));
        }
        if let Some(state) = led {
            if self.reported.reading().is_some_and(|reading| reading.led.is_none()) {
                return Err("this device has no LED that can be switched");
            }
            values.push((None, DesiredValue::Led(state)));
        }
        values.extend(alias.map(|alias| (part, DesiredValue::Alias(alias))));
        if values.is_empty() { Err("the command asks for nothing") } else { Ok(values) }
    }

    /// The parts whose relays a command to this part switches. A command to a strip switches all outlets, also those that
    /// are known from an earlier run only.
    fn switched_parts(&self, part: Option<Outlet>) -> Vec<Option<Outlet>> {
        let reading = self.reported.reading();
        let outlets = reading.map_or(0, |reading| reading.outlets.len()).max(self.relays.outlet_count());
        match (part, reading) {
            (Some(outlet), _) => vec![Some(outlet)],
            (None, _) if outlets > 0 => (0..).take(outlets).map(Some).collect(),
            (None, Some(reading)) if reading.relay.is_none() => vec![],
            (None, _) => vec![None],
        }
    }

    /// What a switch of this part desires of its relays.
    fn relay_values(&self, part: Option<Outlet>, switch: Switch) -> Vec<PartValue> {
        let parts = self.switched_parts(part);
        let is_strip = part.is_none() && matches!(parts[..], [Some(_), ..]);
        let value = match switch {
            Switch::To(state) => DesiredValue::Relay(state),
            Switch::Toggle if is_strip => self.toggle_strip(),
            Switch::Toggle => {
                let desired = self.desired_relay(part);
                desired.map_or(DesiredValue::FlipRelay(true), DesiredValue::toggled)
            }
        };
        match value {
            // It becomes a value for each outlet once a reading has decided it.
            value if is_strip && value.is_undecided() => vec![(None, value)],
            value => parts.into_iter().map(|part| (part, value.clone())).collect(),
        }
    }

    /// A toggle inverts what is desired already, else what will be read. A strip is on while any outlet is.
    fn toggle_strip(&self) -> DesiredValue {
        let outlets: Vec<_> = self.relays.parts().flatten().collect();
        let desired = |outlet: Outlet| self.desired_relay(Some(outlet));
        if let Some(whole) = self.desired_relay(None) {
            // An outlet's own value is newer than that of the strip.
            let is_on = |whole: RelayState| {
                let mut states = outlets.iter().map(|&outlet| match desired(outlet) {
                    Some(DesiredValue::Relay(state)) => *state,
                    Some(DesiredValue::FlipRelay(true)) => !whole,
                    _ => whole,
                });
                states.any(RelayState::is_on)
            };
            return match (is_on(RelayState::On), is_on(RelayState::Off)) {
                (true, true) => DesiredValue::Relay(RelayState::Off),
                (false, false) => DesiredValue::Relay(RelayState::On),
                (true, false) => whole.toggled(),
                (false, true) => whole.clone(),
            };
        }
        let mut flip = StripFlip::new(true);
        for &outlet in &outlets {
            if let Some(older) = desired(outlet) {
                flip.note_older(outlet, older);
            }
        }
        // What is desired may be enough to decide it.
        let decided = flip.resolve(outlets.iter().map(|_| None));
        decided.map_or(DesiredValue::FlipStrip(flip), DesiredValue::Relay)
    }

    fn desired_relay(&self, part: Option<Outlet>) -> Option<&DesiredValue> {
        self.desired.get(Property::Relay, part).map(|desired| &desired.value)
    }

    /// A toggle sets the state once a reading has decided it.
    fn count_down(&self, part: Option<Outlet>, relay: &DesiredValue, lasting: Duration) -> DesiredValue {
        let state = match relay {
            DesiredValue::Relay(state) => *state,
            _ => !self.reported.relay(part).unwrap_or(RelayState::Off),
        };
        // Firmwares count whole seconds.
        let seconds = lasting.as_secs() + u64::from(lasting.subsec_nanos() > 0);
        DesiredValue::CountDown(u32::try_from(seconds).unwrap_or(u32::MAX), !state)
    }

    /// A first reading shows what the device is. If it is a strip, its outlets take over what was desired of its relay.
    pub(super) fn assign_to_relays(&mut self, ctx: &mut Ctx<'_>) {
        if !self.desired.iter().any(Desired::is_for_the_relay_of_a_device) {
            return;
        }
        let parts = self.switched_parts(None);
        if let [Some(_), ..] = parts[..] {
            self.resolve_strip_toggle(ctx);
        }
        for property in [Property::Relay, Property::CountDown] {
            match (&parts[..], self.desired.get_mut(property, None)) {
                (_, None) => {}
                ([None], Some(desired)) if desired.step == DesiredStep::Identify => {
                    desired.step = desired.value.first_step();
                }
                ([None], Some(_)) => {}
                ([], Some(_)) => self.end(property, None, Ended::Unfit(NO_RELAY), None, ctx),
                (outlets, Some(_)) => self.split(property, outlets.iter().flatten().copied(), ctx),
            }
        }
    }

    /// A reading decides the toggle of a strip, or shows that it cannot be decided.
    fn resolve_strip_toggle(&mut self, ctx: &mut Ctx<'_>) {
        let flip = match self.desired_relay(None) {
            Some(DesiredValue::FlipStrip(flip)) => *flip,
            Some(DesiredValue::FlipRelay(flip)) => StripFlip::new(*flip),
            _ => return,
        };
        let outlets = self.reported.reading().map(|reading| &*reading.outlets).unwrap_or_default();
        match flip.resolve(outlets.iter().map(|outlet| outlet.relay)) {
            Some(state) => self.desired.resolve_toggle(None, state),
            None => self.end(Property::Relay, None, Ended::Unfit(OUTLETS_LEFT_OUT), None, ctx),
        }
    }

    /// Replaces the device's desired value by one for each outlet. An outlet's own value is newer and stays: a command to a
    /// strip ends the older ones when it comes.
    fn split(&mut self, property: Property, outlets: impl Iterator<Item = Outlet>, ctx: &mut Ctx<'_>) {
        let Some(whole) = self.desired.take(property, None) else { return };
        for outlet in outlets {
            match (self.desired.get(property, Some(outlet)).map(|newer| &newer.value), &whole.value) {
                (None, _) => self.set_desired(whole.for_outlet(outlet), ctx),
                // A newer toggle of the outlet inverts what was desired of the strip.
                (Some(DesiredValue::FlipRelay(flip)), DesiredValue::Relay(state)) => {
                    let state = if *flip { !*state } else { *state };
                    self.desired.resolve_toggle(Some(outlet), state);
                }
                (Some(_), _) => {}
            }
        }
        let is_replaced = !self.desired.has_command(whole.command);
        if let Some(origin) = whole.command.filter(|_| is_replaced) {
            self.publish_result(origin, whole.arrived, Ended::Superseded, None, ctx);
        }
    }

    /// A command to a strip desires one value of the whole or one of each outlet. It replaces older values of the other
    /// level too.
    fn supersede_on_other_level(&mut self, property: Property, part: Option<Outlet>, ctx: &mut Ctx<'_>) {
        if !matches!(property, Property::Relay | Property::CountDown) {
            return;
        }
        for other in self.relays.parts().filter(|other| other.is_none() != part.is_none()) {
            if property == Property::Relay {
                self.relays.get_mut(other).late_execution.stop();
            }
            self.end(property, other, Ended::Superseded, None, ctx);
        }
    }

    /// The value replaces an older one for the same property.
    pub(super) fn set_desired(&mut self, desired: Desired, ctx: &mut Ctx<'_>) {
        let (property, part) = (desired.property(), desired.part);
        if property == Property::Relay {
            self.relays.get_mut(part).late_execution.stop();
            if desired.command.is_some_and(|newer| self.desired.has_older_fade(part, newer)) {
                self.end(Property::Brightness, part, Ended::Superseded, None, ctx);
            }
        }
        self.end(property, part, Ended::Superseded, None, ctx);
        self.desired.insert(desired);
    }

    /// Ends the desired value, if there is one, and publishes the command's result if it was the last of its command.
    pub(super) fn end(
        &mut self,
        property: Property,
        part: Option<Outlet>,
        ended: Ended,
        route: Option<Route>,
        ctx: &mut Ctx<'_>,
    ) {
        if let Some((origin, arrived)) = self.desired.end(property, part, &ended) {
            self.publish_result(origin, arrived, ended, route, ctx);
        }
    }

    fn publish_result(
        &mut self,
        origin: CommandOrigin,
        arrived: Instant,
        ended: Ended,
        route: Option<Route>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(plug) = self.name_of(origin.of).cloned() else { return };
        if let Some(why) = ended.error() {
            ctx.notify(NoticeKind::CommandFailed, Some(&plug), route, why.to_owned());
            self.reachability.last_errors.note_command(origin.of, route, why, arrived, ctx.now);
            // A client that showed the desired state as a fact needs the real one.
            self.relays.forget_published_states();
        }
        self.publish(ctx);
        let state = self.reported.relay(origin.of);
        let took = ctx.now.saturating_duration_since(arrived);
        self.relays.get_mut(origin.of).commands.count(&ended, route);
        if let (Ended::Ok, Some(route)) = (&ended, route) {
            ctx.durations.note(route, took);
        }
        ctx.publish(Update::Result(CommandResult { id: origin.id, plug, ended, state, route, took }));
    }
}
