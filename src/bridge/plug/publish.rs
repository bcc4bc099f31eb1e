//! What the broker is told of a plug and of the outlets of a strip, and when a plug counts as there.

use std::sync::Arc;
use std::time::Duration;

use super::relays::Published;
use super::{Ctx, Plug, Reported, Wake};
use crate::bridge::event::{NoticeKind, OutletInfo, PlugInfo, PlugState, Update};
use crate::model::{Availability, PlugName, Route};
use crate::smarthome::message::Outlet;

/// So many reads in a row must fail, on whatever routes there are …
const MISSES_UNTIL_OFFLINE: u32 = 3;
/// … and so much time must pass without an answer, before a plug is offline.
const SILENCE_UNTIL_OFFLINE: Duration = Duration::from_secs(30);
/// The signal wavers from reading to reading; on its own it is told no more often than this.
const SIGNAL_EVERY: Duration = Duration::from_secs(60);

impl Plug {
    pub(super) fn judge(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        if self.misses < MISSES_UNTIL_OFFLINE || self.availability == Some(Availability::Offline) {
            return;
        }
        let silent_until = self.last_heard.unwrap_or(self.born) + SILENCE_UNTIL_OFFLINE;
        if self.is_reached(ctx.now) {
            return;
        }
        if silent_until > ctx.now {
            return wake.by(silent_until);
        }
        let Some(name) = self.name.clone() else { return };
        self.availability = Some(Availability::Offline);
        self.serving = None;
        self.tell_availability(Availability::Offline, ctx);
        let detail = format!("no answer on any route ({})", self.last_answers(ctx));
        ctx.notify(NoticeKind::PlugOffline, Some(&name), None, detail);
        self.show(ctx);
    }

    pub(super) fn come_online(&mut self, ctx: &mut Ctx<'_>) {
        let Some(name) = self.name.clone().filter(|_| !self.is_online()) else { return };
        self.availability = Some(Availability::Online);
        self.show_info(ctx);
        self.tell_availability(Availability::Online, ctx);
        let detail = self.serving.map_or_else(String::new, |route| format!("over the {route} route"));
        ctx.notify(NoticeKind::PlugOnline, Some(&name), self.serving, detail);
    }

    pub(super) fn tell_availability(&self, availability: Availability, ctx: &mut Ctx<'_>) {
        for name in self.parts().filter_map(|part| self.name_of(part)) {
            ctx.publish(Update::Availability(name.clone(), availability));
        }
    }

    /// The LAN serves while it works; the cloud from its first answer without it.
    pub(super) fn choose_serving(&mut self, ctx: &mut Ctx<'_>) {
        let route = match (self.routes.is_up(Route::Local), self.routes.is_up(Route::Cloud)) {
            (true, _) => Route::Local,
            (false, true) if self.routes.is_resting(Route::Local) || !self.may_use(Route::Local) => {
                Route::Cloud
            }
            (false, true) if self.serving.is_none() => Route::Cloud,
            _ => return,
        };
        let before = self.serving.replace(route);
        if let (Some(before), Some(name)) = (before.filter(|&before| before != route), &self.name) {
            ctx.notify(NoticeKind::RouteChanged, Some(name), Some(route), format!("{before} -> {route}"));
        }
    }

    /// Tells what differs from what was told last.
    pub(super) fn show(&mut self, ctx: &mut Ctx<'_>) {
        self.show_info(ctx);
        for part in self.parts() {
            let Some((name, state)) = self.name_of(part).cloned().zip(self.state_of(part)) else { continue };
            let shown = &mut self.relay_mut(part).shown.state;
            if shown.as_ref() != Some(&state) {
                *shown = Some(state.clone());
                ctx.publish(Update::State(name, state));
            }
        }
    }

    pub(super) fn show_energy(&mut self, part: Option<Outlet>, ctx: &mut Ctx<'_>) {
        if !self.tells_energy(part) {
            return;
        }
        let Some(name) = self.name_of(part).cloned() else { return };
        let Some(metered) = &mut self.relay_mut(part).metered else { return };
        metered.is_told = true;
        if metered.shown != Some(metered.energy) {
            metered.shown = Some(metered.energy);
            ctx.publish(Update::Energy(name, metered.energy));
        }
    }

    /// What waited to be told whole, once nothing more is waited for.
    pub(super) fn show_first_energy(&mut self, ctx: &mut Ctx<'_>) {
        for part in self.parts() {
            let metered = self.relay(part).and_then(|relay| relay.metered.as_ref());
            if metered.is_some_and(|metered| !metered.is_told) {
                self.show_energy(part, ctx);
            }
        }
    }

    /// The first time only with what was used today and this month, or Home Assistant would show `unknown` for a
    /// moment.
    fn tells_energy(&self, part: Option<Outlet>) -> bool {
        let metered = self.relay(part).and_then(|relay| relay.metered.as_ref());
        metered.is_some_and(|metered| metered.is_told || self.meter_was_asked(part))
    }

    /// What was told is told again at the next occasion.
    pub(super) fn forget_shown(&mut self) {
        for part in self.parts() {
            let relay = self.relay_mut(part);
            relay.shown = Published::default();
            if let Some(metered) = &mut relay.metered {
                metered.shown = None;
            }
        }
    }

    pub(super) fn forget_shown_states(&mut self) {
        for part in self.parts() {
            self.relay_mut(part).shown.state = None;
        }
    }

    /// Takes note when each route that could be used has failed. One that has yet to be tried, or has failed only once
    /// in a way that may be a hiccup, may still answer.
    pub(super) fn note_unserved(&mut self, ctx: &Ctx<'_>) {
        let usable = self.usable(ctx);
        let may_answer = |route: &Route| usable[route.index()] && !self.routes.is_resting(*route);
        self.unserved |= !Route::ALL.iter().any(may_answer);
    }

    fn state_of(&self, part: Option<Outlet>) -> Option<PlugState> {
        let reading = &self.reported.as_ref()?.reading;
        let relay = self.relay(part)?;
        Some(PlugState {
            relay: self.relay_of(part)?,
            route: self.serving.filter(|_| !self.unserved),
            led: reading.led.filter(|_| part.is_none()),
            on_since: relay.on_since,
            brightness: reading.brightness.filter(|_| part.is_none()),
            until: relay.until.map(|(at, _)| at),
        })
    }

    fn show_info(&mut self, ctx: &mut Ctx<'_>) {
        for part in self.parts() {
            let shown = self.relay(part).and_then(|relay| relay.shown.info.as_ref());
            if shown.is_some_and(|(known, at)| self.is_told(part, known, *at + SIGNAL_EVERY > ctx.now)) {
                continue;
            }
            let Some((name, info)) = self.name_of(part).cloned().zip(self.info_of(part)) else { continue };
            let info = Arc::new(info);
            self.relay_mut(part).shown.info = Some((Arc::clone(&info), ctx.now));
            ctx.publish(Update::Info(name, info));
        }
    }

    /// Whether this is all still so, the signal excepted where it was told just now. Nearly every reading ends here.
    fn is_told(&self, part: Option<Outlet>, known: &PlugInfo, just_now: bool) -> bool {
        let (Some(Reported { reading, .. }), Some(relay)) = (&self.reported, self.relay(part)) else {
            return true;
        };
        let PlugInfo { device: plate, address, protocol, rssi, cloud_connected, outlet, outlets, schedule } =
            known;
        *plate == reading.device
            && *address == self.address
            && *protocol == self.routes.protocol()
            && (just_now || *rssi == reading.rssi)
            && *cloud_connected == self.cloud_connected
            && outlet.as_ref().map(|outlet| &outlet.strip) == part.and(self.name.as_ref())
            && (part.is_some() || *outlets == self.outlet_list)
            && *schedule == relay.schedule
    }

    fn info_of(&self, part: Option<Outlet>) -> Option<PlugInfo> {
        let reading = &self.reported.as_ref()?.reading;
        let strip = || Some(OutletInfo { number: part?, strip: self.name.clone()? });
        let outlets: Arc<[PlugName]> = match part {
            None => Arc::clone(&self.outlet_list),
            Some(_) => Arc::default(),
        };
        Some(PlugInfo {
            device: Arc::clone(&reading.device),
            address: self.address.clone(),
            protocol: self.routes.protocol(),
            rssi: reading.rssi,
            cloud_connected: self.cloud_connected,
            outlet: strip(),
            outlets,
            schedule: self.relay(part)?.schedule.clone(),
        })
    }
}
