//! What is published of a plug and of the outlets of a strip: only what differs from the last publication.

use std::sync::Arc;

use super::{Ctx, Plug};
use crate::bridge::event::{NoticeKind, OutletInfo, PlugInfo, PlugState, Update};
use crate::model::{Availability, PlugName, Route};
use crate::smarthome::message::Outlet;

impl Plug {
    /// Publishes everything: for another broker, or one that starts empty.
    pub(in crate::bridge) fn republish(&mut self, ctx: &mut Ctx<'_>) {
        self.relays.forget_published();
        for name in self.names() {
            ctx.publish(Update::Expected(name.clone()));
        }
        if let Some(availability) = self.reachability.availability() {
            self.publish_availability(availability, ctx);
        }
        self.publish(ctx);
        for part in self.relays.parts() {
            self.publish_energy(part, ctx);
        }
    }

    /// Publishes the states that contain a date again.
    pub(in crate::bridge) fn republish_dates(&mut self, ctx: &mut Ctx<'_>) {
        self.relays.forget_published_dates();
        self.publish(ctx);
    }

    /// Publishes `info` and `state` of each part, if they changed.
    pub(super) fn publish(&mut self, ctx: &mut Ctx<'_>) {
        self.reachability.count_route_change(&mut self.counters);
        for part in self.relays.parts() {
            self.publish_info(part, ctx);
        }
        for part in self.relays.parts() {
            let Some((name, state)) = self.name_of(part).cloned().zip(self.state_of(part)) else { continue };
            if self.relays.get_mut(part).published.set_state(&state) {
                ctx.publish(Update::State(name, state));
            }
        }
    }

    fn publish_info(&mut self, part: Option<Outlet>, ctx: &mut Ctx<'_>) {
        let published = self.relays.get(part).and_then(|relay| relay.published.info(ctx.now));
        if published.is_some_and(|(info, is_recent)| self.is_published(part, info, is_recent)) {
            return;
        }
        let Some((name, info)) = self.name_of(part).cloned().zip(self.info_of(part)) else { return };
        let info = Arc::new(info);
        self.relays.get_mut(part).published.set_info(&info, ctx.now);
        ctx.publish(Update::Info(name, info));
    }

    /// Whether this `info` is still true; the signal may differ if it is recent. Nearly every reading ends here, so nothing
    /// is allocated.
    fn is_published(&self, part: Option<Outlet>, info: &PlugInfo, is_recent: bool) -> bool {
        let (Some(reading), Some(relay)) = (self.reported.reading(), self.relays.get(part)) else {
            return true;
        };
        let PlugInfo { device, address, protocol, rssi, cloud_connected, outlet, outlets, schedule } = info;
        *device == reading.device
            && address.as_ref() == self.location.current()
            && *protocol == self.reachability.routes.protocol()
            && (is_recent || *rssi == reading.rssi)
            && *cloud_connected == self.reported.cloud_connected
            && outlet.as_ref().map(|outlet| &outlet.strip) == part.and(self.name.as_ref())
            && (part.is_some() || *outlets == *self.relays.outlet_names())
            && *schedule == relay.schedule
    }

    fn info_of(&self, part: Option<Outlet>) -> Option<PlugInfo> {
        let reading = self.reported.reading()?;
        let outlet = || Some(OutletInfo { number: part?, strip: self.name.clone()? });
        let outlets: Arc<[PlugName]> = match part {
            None => Arc::clone(self.relays.outlet_names()),
            Some(_) => Arc::default(),
        };
        Some(PlugInfo {
            device: Arc::clone(&reading.device),
            address: self.location.current().cloned(),
            protocol: self.reachability.routes.protocol(),
            rssi: reading.rssi,
            cloud_connected: self.reported.cloud_connected,
            outlet: outlet(),
            outlets,
            schedule: self.relays.get(part)?.schedule.clone(),
        })
    }

    fn state_of(&self, part: Option<Outlet>) -> Option<PlugState> {
        let reading = self.reported.reading()?;
        let relay = self.relays.get(part)?;
        Some(PlugState {
            relay: self.reported.relay(part)?,
            route: self.reachability.published_route(),
            led: reading.led.filter(|_| part.is_none()),
            on_since: relay.on_since,
            brightness: reading.brightness.filter(|_| part.is_none()),
            until: relay.count_down.map(|(at, _)| at),
        })
    }

    pub(super) fn publish_energy(&mut self, part: Option<Outlet>, ctx: &mut Ctx<'_>) {
        if !self.may_publish_energy(part) {
            return;
        }
        let Some(name) = self.name_of(part).cloned() else { return };
        let Some(meter) = &mut self.relays.get_mut(part).meter else { return };
        if let Some(energy) = meter.publish() {
            ctx.publish(Update::Energy(name, energy));
        }
    }

    /// A slow poll ended, which may be the last one that a first publication waited for.
    pub(super) fn publish_first_energy(&mut self, ctx: &mut Ctx<'_>) {
        for part in self.relays.parts() {
            let meter = self.relays.get(part).and_then(|relay| relay.meter.as_ref());
            if meter.is_some_and(|meter| !meter.was_published()) {
                self.publish_energy(part, ctx);
            }
        }
    }

    /// The first publication waits for today's and this month's consumption, or Home Assistant would show `unknown` for a
    /// moment.
    fn may_publish_energy(&self, part: Option<Outlet>) -> bool {
        let meter = self.relays.get(part).and_then(|relay| relay.meter.as_ref());
        meter.is_some_and(|meter| meter.was_published() || self.slow_polls.meter_was_read(part))
    }

    /// `dropped`: how many impossible values were dropped by now, if one was just dropped.
    pub(super) fn publish_dropped(&self, part: Option<Outlet>, dropped: Option<u32>, ctx: &mut Ctx<'_>) {
        if let Some((name, dropped)) = self.name_of(part).cloned().zip(dropped) {
            ctx.publish(Update::Dropped(name, dropped));
        }
    }

    /// A reading came: the plug is online.
    pub(super) fn come_online(&mut self, ctx: &mut Ctx<'_>) {
        let Some(name) = self.name.clone().filter(|_| !self.is_online()) else { return };
        self.reachability.set_online();
        for part in self.relays.parts() {
            self.publish_info(part, ctx);
        }
        self.publish_availability(Availability::Online, ctx);
        let serving = self.reachability.serving();
        let detail = serving.map_or_else(String::new, |route| format!("over the {route} route"));
        ctx.notify(NoticeKind::PlugOnline, Some(&name), serving, detail);
    }

    /// No answer came for too long.
    pub(super) fn go_offline(&mut self, ctx: &mut Ctx<'_>) {
        let Some(name) = self.name.clone() else { return };
        self.reachability.set_offline();
        self.publish_availability(Availability::Offline, ctx);
        let detail = format!("no answer on any route ({})", self.failure_text(ctx));
        ctx.notify(NoticeKind::PlugOffline, Some(&name), None, detail);
        self.publish(ctx);
    }

    fn publish_availability(&self, availability: Availability, ctx: &mut Ctx<'_>) {
        for name in self.names() {
            ctx.publish(Update::Availability(name.clone(), availability));
        }
    }

    /// Why each route that the user allows failed last.
    fn failure_text(&self, ctx: &Ctx<'_>) -> String {
        let mut failures = self.reachability.failures.clone();
        for route in Route::ALL {
            if self.may_use(route) {
                let hangs = self.exchanges.get(route).is_some();
                failures.complete(route, self.why_unusable(route, ctx), hangs);
            } else {
                failures.forget(route);
            }
        }
        failures.words(None)
    }

    /// The names of the parts that have one.
    fn names(&self) -> impl Iterator<Item = &PlugName> {
        self.relays.parts().filter_map(|part| self.name_of(part))
    }
}
