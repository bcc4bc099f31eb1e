//! What was done to a device, recorded for tests.

use std::collections::VecDeque;
use std::time::Instant;

/// Memory of a demo that runs for months must not grow.
const REMEMBERED_SWITCHINGS: usize = 1000;

/// One relay command that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switching {
    /// The time of it.
    pub at: Instant,
    /// The outlet, counted from 0; 0 on a device with one relay.
    pub outlet: usize,
    /// The state that it was switched to.
    pub on: bool,
    /// What switched it.
    pub by: SwitchedBy,
    /// Whether this changed the relay.
    pub(crate) changed: bool,
}

/// Where a request or a switching comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchedBy {
    /// A client on the LAN, over TCP with the XOR cipher.
    Lan,
    /// A client on the LAN, over KLAP.
    Klap,
    /// A client on the LAN, over UDP.
    Datagram,
    /// A client of the cloud.
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
    /// TCP connections open now.
    pub open: u64,
    /// The highest number of TCP connections that were open at once.
    pub most_open: u64,
    /// Requests received on the LAN, with or without a reply.
    pub lan_requests: u64,
    /// Requests received over the cloud, with or without a reply.
    pub cloud_requests: u64,
    /// Requests for handshake1 of KLAP, with or without a response.
    pub klap_handshakes: u64,
    /// KLAP sessions that began.
    pub klap_sessions: u64,
    /// Requests over KLAP, with or without a response. Those that could be decrypted also count in `lan_requests`.
    pub klap_requests: u64,
    /// KLAP requests and steps of a handshake that got 403.
    pub klap_refusals: u64,
    /// Relay commands that were carried out, whether or not they changed the relay.
    pub relay_orders: u64,
    /// Requests that switch the relay and read its state.
    pub switch_and_reads: u64,
    /// Restarts of the firmware.
    pub restarts: u64,
    /// Requested modules and methods that it does not have. Some real firmwares crash on them.
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
