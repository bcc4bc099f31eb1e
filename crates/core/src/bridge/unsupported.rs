//! The devices that hs100d does not support: those that were reported, and those that may have to be. As values;
//! `unsupported_notices` reports them.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::event::TdpReply;
use crate::model::{Address, Mac};

/// Some firmwares answer both discoveries: after a reply to TDP, the XOR reply is awaited for this long.
const XOR_REPLY_WITHIN: Duration = Duration::from_secs(2);
/// The most devices that are remembered as reported. This bounds a flood of invented ones.
const MAX_REPORTED: usize = 1000;

/// Devices that were reported, and those that may have to be.
#[derive(Debug, Default)]
pub(super) struct UnsupportedDevices {
    reported: HashSet<Box<str>>,
    /// Have replied only to TDP so far. The first is due first.
    candidates: VecDeque<(Instant, Address, TdpReply)>,
}

impl UnsupportedDevices {
    /// A device replied to TDP. It is a candidate, unless it is one already, or was reported and cannot be served.
    pub(super) fn add(&mut self, address: Address, reply: TdpReply, now: Instant) {
        let Self { reported, candidates } = self;
        let is_known = candidates.iter().any(|(_, at, other)| *at == address || other.mac == reply.mac);
        let may_count = reply.is_klap_plug() || !reported.contains(&*key_of(&address, &reply));
        if !is_known && candidates.len() < MAX_REPORTED && may_count {
            candidates.push_back((now + XOR_REPLY_WITHIN, address, reply));
        }
    }

    /// When the time for the first candidate's XOR reply is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.candidates.front().map(|&(due, ..)| due)
    }

    /// The next candidate whose time for an XOR reply is over.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Address, TdpReply)> {
        self.due().filter(|due| *due <= now)?;
        self.candidates.pop_front().map(|(_, address, reply)| (address, reply))
    }

    /// The plug is served on the LAN after all. If that ends, it is reported again.
    pub(super) fn now_supported(&mut self, mac: Option<Mac>) {
        if let Some(mac) = mac.filter(|_| !self.reported.is_empty()) {
            self.reported.remove(&*mac.to_string());
        }
    }

    /// The user may have changed what was reported: what is still so is reported once more.
    pub(super) fn report_again(&mut self) {
        self.reported.clear();
    }

    /// Whether this one has not been reported before.
    pub(super) fn is_first(&mut self, key: String) -> bool {
        self.reported.len() < MAX_REPORTED && self.reported.insert(key.into())
    }
}

/// The key of a device that replied to TDP.
pub(super) fn key_of(address: &Address, reply: &TdpReply) -> String {
    reply.mac.map_or_else(|| address.to_string(), |mac| mac.to_string())
}
