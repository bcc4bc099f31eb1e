//! The record of what was done to a device, for the test.

use std::collections::VecDeque;
use std::time::Instant;

/// How many switchings are remembered: a demo that runs for months must not grow.
const REMEMBERED_SWITCHINGS: usize = 1000;

/// One order to a relay that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switching {
    /// When.
    pub at: Instant,
    /// Which outlet, counted from 0; 0 also where there is but one.
    pub outlet: usize,
    /// To which state.
    pub on: bool,
    /// Over which route it came.
    pub by: SwitchedBy,
    /// Whether the relay was in the other state before.
    pub(crate) changed: bool,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchedBy {
    /// Someone on the LAN, over TCP.
    Lan,
    /// Someone on the LAN, over KLAP.
    Klap,
    /// Someone on the LAN, by UDP.
    Datagram,
    /// Someone through the cloud.
    Cloud,
    /// The button.
    Button,
    /// The plug's own count-down.
    CountDown,
}

/// Counters of a plug since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// TCP connections accepted.
    pub connections: u64,
    /// TCP connections open at this moment.
    pub open: u64,
    /// The most TCP connections that were ever open at once.
    pub most_open: u64,
    /// Requests received on the LAN, answered or not.
    pub lan_requests: u64,
    /// Requests that came through the cloud, answered or not.
    pub cloud_requests: u64,
    /// First steps of a KLAP handshake, answered or not.
    pub klap_handshakes: u64,
    /// KLAP sessions that began.
    pub klap_sessions: u64,
    /// Requests over KLAP, answered or not; those that were opened and handed on are among `lan_requests` as well.
    pub klap_requests: u64,
    /// Steps of a handshake and requests over KLAP that were answered 403.
    pub klap_refusals: u64,
    /// Orders to a relay that were carried out, changing something or not.
    pub relay_orders: u64,
    /// Requests that were to switch the relay and tell how it is.
    pub switch_and_reads: u64,
    /// Restarts of the firmware.
    pub restarts: u64,
    /// Modules and methods asked for that it does not have. Some real firmwares crash on them.
    pub(crate) not_supported: u64,
}

impl Traffic {
    pub(super) fn count_request(&mut self, by: SwitchedBy) {
        match by {
            SwitchedBy::Lan | SwitchedBy::Klap | SwitchedBy::Datagram => self.lan_requests += 1,
            SwitchedBy::Cloud => self.cloud_requests += 1,
            SwitchedBy::Button | SwitchedBy::CountDown => {}
        }
    }
}

/// The last switchings, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Switchings(VecDeque<Switching>);

impl Switchings {
    pub(super) fn push(&mut self, switching: Switching) {
        if self.0.len() == REMEMBERED_SWITCHINGS {
            self.0.pop_front();
        }
        self.0.push_back(switching);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Switching> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_switchings_is_bounded_and_keeps_the_last() {
        let mut switchings = Switchings::default();
        let at = Instant::now();
        for outlet in 0..REMEMBERED_SWITCHINGS + 5 {
            switchings.push(Switching { at, outlet, on: true, by: SwitchedBy::Button, changed: true });
        }
        assert_eq!(switchings.iter().count(), REMEMBERED_SWITCHINGS);
        assert_eq!(switchings.iter().next().map(|first| first.outlet), Some(5));
    }
}
