//! The messages to systemd: ready, reloading, stopping, the watchdog, and a status line.
//!
//! Without systemd nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::bridge::event::{BridgeInfo, CloudStatus};
use crate::model::Route;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    sent: String,
}

impl Systemd {
    /// Half of the time after which systemd takes the daemon for hung.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    pub(super) fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    pub(super) fn alive(&self) {
        notify(&[NotifyState::Watchdog]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// The status line in `systemctl status`.
    pub(super) fn status(&mut self, info: &BridgeInfo, broker: &Result<(), String>) {
        let cloud = match &info.cloud {
            CloudStatus::Off => "off",
            CloudStatus::Ok => "ok",
            CloudStatus::Down(_) => "down",
            CloudStatus::Stopped(_) => "stopped",
        };
        let broker = if broker.is_ok() { "connected" } else { "not connected" };
        let BridgeInfo { plugs, online, served, .. } = info;
        let line =
            format!("{online} of {plugs} plugs online{}, cloud {cloud}, broker {broker}", routes(*served));
        if line != self.sent {
            notify(&[NotifyState::Status(&line)]);
            self.sent = line;
        }
    }
}

/// The plugs by route: ` (11 LAN, 1 cloud)`, or nothing if there are none.
fn routes(served: [usize; 2]) -> String {
    let names = [(Route::Local, "LAN"), (Route::Cloud, "cloud")];
    let counts = names.map(|(route, name)| (served[route.index()], name));
    let words: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_are_named_that_serve_somebody() {
        assert_eq!(routes([11, 1]), " (11 LAN, 1 cloud)");
        assert_eq!(routes([0, 2]), " (2 cloud)");
        assert_eq!(routes([0, 0]), "");
    }
}
