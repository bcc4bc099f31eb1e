//! What systemd is told: that the loop stands, that it still turns, and one line that a person can read.
//!
//! Outside systemd there is nobody to tell, and nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::bridge::event::{BridgeInfo, CloudStatus};

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Systemd {
    told: String,
}

impl Systemd {
    /// Half the time after which systemd would take the daemon for hung.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The line that `systemctl status` shows.
    pub(super) fn status(&mut self, info: &BridgeInfo, broker: &Result<(), String>) {
        let cloud = match &info.cloud {
            CloudStatus::Off => "off",
            CloudStatus::Ok => "ok",
            CloudStatus::Down(_) => "down",
            CloudStatus::Stopped(_) => "stopped",
        };
        let broker = if broker.is_ok() { "connected" } else { "not connected" };
        let line = format!("{} of {} plugs online, cloud {cloud}, broker {broker}", info.online, info.plugs);
        if line != self.told {
            tell(&[NotifyState::Status(&line)]);
            self.told = line;
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
