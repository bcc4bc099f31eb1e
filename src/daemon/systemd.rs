//! The messages to systemd: ready, reloading, stopping, the watchdog, and a status line. Without systemd none is sent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::bridge::event::{BridgeInfo, CloudStatus};
use crate::model::Route;

/// The connection to systemd, and the status line that it has.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    status: String,
}

impl Systemd {
    /// How often the watchdog is to be notified: twice in the time after which systemd restarts the daemon.
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

    /// Sets the status line that `systemctl status` shows.
    pub(super) fn status(&mut self, info: &BridgeInfo, broker: &Result<String, String>) {
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
        if line != self.status {
            notify(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }
}

/// The number of plugs by route, ` (11 LAN, 1 cloud)`; empty without plugs.
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
    fn the_status_names_the_routes_that_serve_plugs() {
        assert_eq!(routes([11, 1]), " (11 LAN, 1 cloud)");
        assert_eq!(routes([0, 2]), " (2 cloud)");
        assert_eq!(routes([0, 0]), "");
    }
}
