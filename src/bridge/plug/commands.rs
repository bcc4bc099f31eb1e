//! What a command means for a device: it becomes desired values, and ends in one result.

use std::time::{Duration, Instant};

use super::{Ctx, Plug};
use crate::bridge::desired::{CommandOrigin, Desired, DesiredStep, DesiredValue, Property};
use crate::bridge::event::{CommandId, CommandResult, Ended, NoticeKind, Update};
use crate::model::{PlugCommand, RelayState, Route, SetCommand, Switch};
use crate::smarthome::message::{DeviceKind, Outlet};

const NO_RELAY: &str = "this device has no relay of its own";

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
                for (part, value) in values {
                    let mut desired = Desired::new(value, part, Some(origin), ctx.now, deadline);
                    if self.reported.reading().is_none() && desired.is_for_the_relay_of_a_device() {
                        desired.step = DesiredStep::Identify;
                    }
                    self.set_desired(desired, ctx);
                }
            }
            Err(why) => self.publish_result(origin, ctx.now, Ended::Error(why.into()), None, ctx),
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
            let parts = self.switched_parts(part);
            if parts.is_empty() {
                return Err(NO_RELAY);
            }
            for part in parts {
                values.push((part, self.resolve(part, switch)));
                values.extend(lasting.map(|lasting| (part, self.count_down(part, switch, lasting))));
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

    /// A toggle inverts what is desired already, else what will be read. Each outlet of a strip is toggled by itself.
    fn resolve(&self, part: Option<Outlet>, switch: Switch) -> DesiredValue {
        match (switch, self.desired.get(Property::Relay, part).map(|desired| &desired.value)) {
            (Switch::To(state), _) => DesiredValue::Relay(state),
            (Switch::Toggle, Some(DesiredValue::Relay(state))) => DesiredValue::Relay(!*state),
            (Switch::Toggle, Some(DesiredValue::FlipRelay(flip))) => DesiredValue::FlipRelay(!flip),
            (Switch::Toggle, _) => DesiredValue::FlipRelay(true),
        }
    }

    fn count_down(&self, part: Option<Outlet>, switch: Switch, lasting: Duration) -> DesiredValue {
        let state = match (switch, self.reported.relay(part)) {
            (Switch::To(state), _) => state,
            (Switch::Toggle, now) => !now.unwrap_or(RelayState::Off),
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
        for property in [Property::Relay, Property::CountDown] {
            match (&parts[..], self.desired.get_mut(property, None)) {
                (_, None) => {}
                ([None], Some(desired)) if desired.step == DesiredStep::Identify => {
                    desired.step = desired.value.first_step();
                }
                ([None], Some(_)) => {}
                ([], Some(_)) => self.end(property, None, Ended::Error(NO_RELAY.into()), None, ctx),
                (outlets, Some(_)) => self.split(property, outlets.iter().flatten().copied(), ctx),
            }
        }
    }

    /// Replaces the device's desired value by one for each outlet, unless the outlet has a newer one.
    fn split(&mut self, property: Property, outlets: impl Iterator<Item = Outlet>, ctx: &mut Ctx<'_>) {
        let Some(whole) = self.desired.take(property, None) else { return };
        for outlet in outlets {
            let newest = self.desired.get(property, Some(outlet)).map(|desired| desired.arrived);
            if newest.is_none_or(|newest| newest <= whole.arrived) {
                self.set_desired(whole.for_outlet(outlet), ctx);
            }
        }
        let is_replaced = !self.desired.has_command(whole.command);
        if let Some(origin) = whole.command.filter(|_| is_replaced) {
            self.publish_result(origin, whole.arrived, Ended::Superseded, None, ctx);
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
        if let Ended::Error(why) = &ended {
            ctx.notify(NoticeKind::CommandFailed, Some(&plug), route, why.clone());
            // A client that showed the desired state as a fact needs the real one.
            self.relays.forget_published_states();
        }
        self.publish(ctx);
        let state = self.reported.relay(origin.of);
        let took = ctx.now.saturating_duration_since(arrived);
        ctx.publish(Update::Result(CommandResult { id: origin.id, plug, ended, state, route, took }));
    }
}
