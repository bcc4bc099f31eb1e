//! The faults of KLAP, and what our client reports of them. The client in `transport/lan/klap.rs` needs a socket; this
//! models what it reports after its second attempt, and how long it then sends nothing to the plug.

use std::collections::BTreeMap;
use std::time::Duration;

use hs100d::model::{Address, Failure, LanProtocol};

use super::World;

/// No handshake for this long after each one that the plug refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// No request for this long after another client took the session twice, and up to the jitter longer.
const TAKEN_PAUSE: Duration = Duration::from_secs(10);
const JITTER: Duration = Duration::from_millis(2550);

/// The fault of a plug that shows only while it speaks KLAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KlapFault {
    #[default]
    None,
    /// Another client begins sessions, and each of them ends ours.
    SessionThief,
    /// The plug holds the credentials of an account that we do not know.
    OtherAccount,
}

/// What becomes of a request over KLAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KlapFate {
    /// The plug receives it, perhaps by a second attempt in a new session.
    Received,
    /// The plug acts, and its reply cannot be decrypted: another client began a session meanwhile.
    Unreadable,
    /// The plug does not act. The client made this number of attempts.
    Refused(Failure, u32),
}

/// The plugs to which the client sends nothing for some time, by number. A restart of the daemon forgets them.
#[derive(Debug, Default)]
pub struct Pauses(BTreeMap<usize, Pause>);

#[derive(Debug)]
struct Pause {
    address: Address,
    until: Duration,
    failure: Failure,
}

impl Pauses {
    /// The failure of a request to this address of the plug, if nothing is sent there now.
    pub fn failure(&mut self, plug: usize, address: &Address, at: Duration) -> Option<Failure> {
        let pause = self.0.get(&plug)?;
        if pause.address != *address || pause.until <= at {
            self.0.remove(&plug);
            return None;
        }
        Some(pause.failure.clone())
    }

    /// The account in the config is another one: every plug is tried again.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl World {
    /// What becomes of a request to the plug at this place.
    pub(super) fn klap_fate(&mut self, there: usize, changes_something: bool) -> KlapFate {
        match self.plugs[there].klap {
            KlapFault::None => KlapFate::Received,
            KlapFault::OtherAccount => KlapFate::Refused(Failure::OtherAccount, 1),
            KlapFault::SessionThief => match self.dice.below(10) {
                0..=3 => KlapFate::Received,
                4..=6 => KlapFate::Refused(Failure::SessionTaken, 2),
                // The session was taken between the two parts of the handshake, twice.
                7 => KlapFate::Refused(Failure::KlapBlocked, 2),
                // A read is sent again after an unreadable reply, and a change is not.
                _ if changes_something => KlapFate::Unreadable,
                _ => KlapFate::Received,
            },
        }
    }

    /// The client reports this failure after so many attempts, and pauses.
    pub(super) fn klap_refused(&mut self, plug: usize, address: Address, failure: Failure, attempts: u32) {
        let pause = match failure {
            Failure::KlapBlocked | Failure::OtherAccount => REFUSED_PAUSE * attempts,
            Failure::SessionTaken => TAKEN_PAUSE + self.dice.between(Duration::ZERO, JITTER),
            _ => return,
        };
        self.tally.sessions_taken += u64::from(failure != Failure::OtherAccount);
        let until = self.at + pause;
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.wires.pauses.0.insert(plug, Pause { address, until, failure });
        }
    }

    /// A person moves the switch "Third-Party Compatibility" in the app: the plug speaks the other protocol.
    pub(super) fn flips(&mut self, plug: usize) {
        let it = &mut self.plugs[plug];
        it.protocol = other(it.protocol);
        let line = format!("it speaks {} from now on", word(it.protocol));
        self.tally.flips += 1;
        self.weather.flipped[plug] = self.at;
        self.tell(Some(plug), line);
    }

    /// This plug or the next one that speaks KLAP.
    pub(super) fn next_with_klap(&self, plug: usize) -> Option<usize> {
        let count = self.plugs.len();
        let mut plugs = (plug..count).chain(0..plug);
        plugs.find(|&plug| self.plugs[plug].protocol == LanProtocol::Klap)
    }
}

pub fn other(protocol: LanProtocol) -> LanProtocol {
    match protocol {
        LanProtocol::Xor => LanProtocol::Klap,
        LanProtocol::Klap => LanProtocol::Xor,
    }
}

/// The word for it in payloads and events.
pub fn word(protocol: LanProtocol) -> &'static str {
    match protocol {
        LanProtocol::Xor => "xor",
        LanProtocol::Klap => "klap",
    }
}
