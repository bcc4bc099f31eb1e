//! When a plug is read without anybody asking.

use std::time::{Duration, Instant};

use super::{Desk, Plug, Wake};
use crate::bridge::backoff::spread;
use crate::bridge::event::CloudStatus;
use crate::model::{Route, Verdict};
use crate::smarthome::message::Request;

/// How often a plug is asked whether it is connected to TP-Link's cloud.
const CLOUD_INFO_EVERY: Duration = Duration::from_secs(300);
/// A plug that failed to tell so often in a row is not asked again: some firmwares take the question badly.
const CLOUD_INFO_TRIES: u32 = 2;

impl Plug {
    pub(super) fn poll(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        let [local, cloud] = self.usable(desk);
        if self.may_use(Route::Local) {
            self.poll_route(Route::Local, local, wake, desk);
        }
        let cloud_needed = !local || self.routes.is_resting(Route::Local);
        if self.may_use(Route::Cloud) && cloud_needed && *desk.cloud != CloudStatus::Off {
            self.poll_route(Route::Cloud, cloud, wake, desk);
        }
        self.ask_cloud_info(wake, desk);
    }

    pub(super) fn poll_route(&mut self, route: Route, usable: bool, wake: &mut Wake, desk: &mut Desk<'_>) {
        if self.lanes[route.index()].is_some() {
            return;
        }
        if self.poll_at[route.index()] > desk.now {
            return wake.by(self.poll_at[route.index()]);
        }
        if usable {
            return self.start(route, Request::SysInfo, false, desk);
        }
        self.route_failed(route, Verdict::RouteDown, desk);
        self.poll_at[route.index()] = self.next_poll(route, desk.now, desk.now);
        wake.by(self.poll_at[route.index()]);
    }

    pub(super) fn next_poll(&self, route: Route, started: Instant, now: Instant) -> Instant {
        let pause = self.routes.poll_pause(route, &self.policy, now);
        // After the first round each plug finds its own place in the interval.
        let pause = if self.reported.is_none() && self.routes.is_up(route) {
            pause.mul_f64(0.2 + 0.8 * spread(self.key.0))
        } else {
            pause
        };
        (started + pause).max(now)
    }

    pub(super) fn ask_cloud_info(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        let calm = self.reported.is_some() && self.routes.is_up(Route::Local);
        if !calm || self.cloud_info_misses >= CLOUD_INFO_TRIES || self.lanes[Route::Local.index()].is_some() {
            return;
        }
        if self.cloud_info_at > desk.now {
            return wake.by(self.cloud_info_at);
        }
        self.cloud_info_at = desk.now + CLOUD_INFO_EVERY;
        self.start(Route::Local, Request::CloudInfo, false, desk);
    }
}
