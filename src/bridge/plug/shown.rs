//! What the broker is told of a plug, and when it counts as there.

use std::sync::Arc;

use std::time::Duration;

use super::{Desk, Plug, Wake};
use crate::bridge::event::{PlugInfo, PlugState, Update, What};
use crate::model::{Availability, Route};

/// So many reads in a row must fail, on whatever routes there are …
const MISSES_UNTIL_OFFLINE: u32 = 3;
/// … and so much time must pass without an answer, before a plug is offline.
const SILENCE_UNTIL_OFFLINE: Duration = Duration::from_secs(30);
/// The signal wavers from reading to reading; on its own it is told no more often than this.
const SIGNAL_EVERY: Duration = Duration::from_secs(60);

impl Plug {
    pub(super) fn judge(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        if self.misses < MISSES_UNTIL_OFFLINE || self.availability == Some(Availability::Offline) {
            return;
        }
        let silent_until = self.last_heard.unwrap_or(self.born) + SILENCE_UNTIL_OFFLINE;
        if self.is_reached() {
            return;
        }
        if silent_until > desk.now {
            return wake.by(silent_until);
        }
        let Some(name) = self.name.clone() else { return };
        self.availability = Some(Availability::Offline);
        self.serving = None;
        desk.publish(Update::Availability(name.clone(), Availability::Offline));
        desk.happened(What::PlugOffline, Some(&name), "no answer on any route".into());
        self.show(desk);
    }

    pub(super) fn come_online(&mut self, desk: &mut Desk<'_>) {
        let Some(name) = self.name.clone().filter(|_| !self.is_online()) else { return };
        self.availability = Some(Availability::Online);
        self.show_info(desk);
        desk.publish(Update::Availability(name.clone(), Availability::Online));
        let detail = self.serving.map_or_else(String::new, |route| format!("over the {route} route"));
        desk.happened(What::PlugOnline, Some(&name), detail);
    }

    /// The LAN serves while it works; the cloud from its first answer without it.
    pub(super) fn choose_serving(&mut self, desk: &mut Desk<'_>) {
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
            desk.happened(What::RouteChanged, Some(name), format!("{before} -> {route}"));
        }
    }

    pub(super) fn show(&mut self, desk: &mut Desk<'_>) {
        self.show_info(desk);
        let (Some(name), Some(reported)) = (&self.name, &self.reported) else { return };
        let Some(relay) = reported.reading.relay else { return };
        let state =
            PlugState { relay, route: self.serving, led: reported.reading.led, on_since: reported.on_since };
        if self.shown_state.as_ref() != Some(&state) {
            desk.publish(Update::State(name.clone(), state.clone()));
            self.shown_state = Some(state);
        }
    }

    pub(super) fn show_info(&mut self, desk: &mut Desk<'_>) {
        let (Some(name), Some(reported)) = (&self.name, &self.reported) else { return };
        if let Some((shown, at)) = &self.shown_info {
            let only_signal = shown.plate == reported.reading.plate
                && shown.address == self.address
                && shown.cloud_connected == self.cloud_connected;
            if only_signal && (shown.rssi == reported.reading.rssi || *at + SIGNAL_EVERY > desk.now) {
                return;
            }
        }
        let info = PlugInfo {
            plate: Arc::clone(&reported.reading.plate),
            address: self.address.clone(),
            rssi: reported.reading.rssi,
            cloud_connected: self.cloud_connected,
        };
        desk.publish(Update::Info(name.clone(), info.clone()));
        self.shown_info = Some((info, desk.now));
    }
}
