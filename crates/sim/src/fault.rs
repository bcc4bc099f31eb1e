//! What can be wrong with a plug, as plain values: a test iterates over them, a running home changes them.
//!
//! One rule for all: with a fault of the *reply* the request is carried out and only the reply is changed; with a fault
//! of the *request* nothing is carried out. `LanFault::carries_out` is that rule.

use std::time::Duration;

/// How a plug behaves on its TCP ports, in either protocol.
///
/// With KLAP, a fault under which requests are carried out leaves the handshake intact or only delays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanFault {
    /// No fault.
    #[default]
    Works,
    /// Nothing listens, and open connections are closed.
    Refused,
    /// Connections are not accepted: a new one hangs. On Linux, by a full backlog.
    NotAccepting,
    /// Nothing listens on TCP, while UDP works: the port has died after weeks.
    PortDead,
    /// TCP connections hang, as behind a firewall, while UDP works.
    PortFiltered,
    /// Accepts the connection, reads the request, never replies, never acts.
    Silent,
    /// Reads the request and carries it out after this delay, but never replies.
    SilentButActs(Duration),
    /// Accepts connections and reads nothing. After it wakes, it reads and carries out the requests that wait in the
    /// socket, unless the client has reset the connection by then.
    Asleep,
    /// Acts and replies after this delay.
    Latency(Duration),
    /// Acts, then replies byte by byte, at this interval.
    SlowBytes(Duration),
    /// Reads the request and resets the connection.
    ResetAfterRequest,
    /// Acts, then sends half of the reply and resets the connection.
    ResetInAnswer,
    /// Reads the request and closes the connection.
    CloseWithoutReply,
    /// Acts, replies correctly, then closes, as some firmwares do.
    CloseAfterEachReply,
    /// Acts, then replies with bytes that are not JSON, in a valid frame.
    Garbage,
    /// Acts, then replies with the first half of the JSON, in a valid frame.
    CutOffJson,
    /// Acts, then announces more bytes than any plug would send, and sends few.
    HugeLength,
    /// Replies to each method with this `err_code`.
    DeviceError(i64),
}

impl LanFault {
    /// One of each, with short delays.
    pub const ALL: [Self; 18] = [
        Self::Works,
        Self::Refused,
        Self::NotAccepting,
        Self::PortDead,
        Self::PortFiltered,
        Self::Silent,
        Self::SilentButActs(Duration::from_millis(50)),
        Self::Asleep,
        Self::Latency(Duration::from_millis(50)),
        Self::SlowBytes(Duration::from_millis(1)),
        Self::ResetAfterRequest,
        Self::ResetInAnswer,
        Self::CloseWithoutReply,
        Self::CloseAfterEachReply,
        Self::Garbage,
        Self::CutOffJson,
        Self::HugeLength,
        Self::DeviceError(-1),
    ];

    /// Whether a request to a plug with this fault is carried out, even if late.
    #[cfg(test)]
    pub(crate) fn carries_out(self) -> bool {
        match self {
            Self::Works => true,
            Self::Refused => false,
            Self::NotAccepting => false,
            Self::PortDead => false,
            Self::PortFiltered => false,
            Self::Silent => false,
            Self::SilentButActs(_) => true,
            Self::Asleep => false,
            Self::Latency(_) => true,
            Self::SlowBytes(_) => true,
            Self::ResetAfterRequest => false,
            Self::ResetInAnswer => true,
            Self::CloseWithoutReply => false,
            Self::CloseAfterEachReply => true,
            Self::Garbage => true,
            Self::CutOffJson => true,
            Self::HugeLength => true,
            Self::DeviceError(_) => false,
        }
    }

    /// Whether the plug answers UDP as well. A plug that is dead or silent on TCP is so on UDP.
    pub(crate) fn answers_datagrams(self) -> bool {
        !matches!(
            self,
            Self::Refused | Self::NotAccepting | Self::Silent | Self::SilentButActs(_) | Self::Asleep
        )
    }
}

/// How a firmware handles a request that switches the relay and reads its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwitchAndReadFault {
    /// Runs both methods in order and replies to both.
    #[default]
    Both,
    /// Switches, and ignores the second method.
    SwitchOnly,
    /// Replies to each method with this `err_code` and carries nothing out.
    Refused(i64),
    /// Switches, and replies with half of the JSON.
    Garbled,
    /// Switches, and closes the connection without a reply; over the cloud the request times out.
    NoAnswer,
    /// Switches, and replies to both; the second reply has the old relay state.
    OldState,
}

impl SwitchAndReadFault {
    /// One of each.
    pub const ALL: [Self; 6] =
        [Self::Both, Self::SwitchOnly, Self::Refused(-3), Self::Garbled, Self::NoAnswer, Self::OldState];
}

/// Which protocol a plug speaks on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// The XOR protocol, on TCP and UDP 9999.
    #[default]
    Xor,
    /// KLAP only: TCP 9999 refuses, and only the discovery on UDP 20002 is answered.
    Klap,
    /// Both, and both discoveries.
    Both,
}

impl Dialect {
    /// Whether TCP and UDP 9999 are served.
    pub(crate) fn speaks_xor(self) -> bool {
        !matches!(self, Self::Klap)
    }

    /// Whether KLAP and the discovery on UDP 20002 are served.
    pub(crate) fn speaks_klap(self) -> bool {
        !matches!(self, Self::Xor)
    }
}

/// A fault of KLAP itself. [`LanFault`] has those that occur in either protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KlapFault {
    /// No fault.
    #[default]
    Works,
    /// Its port is closed, while the discovery on UDP 20002 is answered.
    Refused,
    /// Returns this status to handshake1: 403 as plugs do whose account allows no third party.
    Handshake1Status(u16),
    /// Returns an HTML page with status 200 to handshake1.
    Handshake1Html,
    /// Returns this many bytes to handshake1.
    Handshake1Length(usize),
    /// Responds to each step of the handshake after this delay.
    SlowHandshake(Duration),
    /// Returns this status to handshake2.
    Handshake2Status(u16),
    /// Returns this status to each request, and keeps the session.
    RequestStatus(u16),
    /// Another client takes the session after each handshake: each request gets 403.
    SessionTaken,
    /// Carries out one request in each session, and answers later ones with bytes that are not HTTP.
    OneRequestThenNoHttp,
    /// Carries out one request in each session, and answers later ones with bytes that no key decrypts.
    OneRequestThenUnreadable,
    /// Acts, then returns an HTML page with status 200.
    Html,
    /// As `Html`, but only where the reply has more bytes than this. Always acts.
    HtmlAbove(usize),
    /// Returns an HTML page with status 200, and does not act.
    HtmlInstead,
    /// Acts, then sends bytes that are not HTTP.
    NoHttp,
    /// Acts, then returns bytes that no key decrypts.
    Unreadable,
    /// Acts, then returns a wrong signature before the right ciphertext.
    WrongSignature,
    /// Acts, then returns only this many bytes of the right response, with a `Content-Length` that agrees.
    Length(usize),
    /// No fault of the plug: a proxy in front of it sends each response in chunks.
    Chunked,
    /// Acts, announces the whole response, sends half of it and closes.
    CutOff,
    /// Acts, then sends headers without end.
    EndlessHead,
    /// Acts, then sends a body without end.
    EndlessBody,
}

impl KlapFault {
    /// One of each, with short delays.
    pub const ALL: [Self; 22] = [
        Self::Works,
        Self::Refused,
        Self::Handshake1Status(403),
        Self::Handshake1Html,
        Self::Handshake1Length(47),
        Self::SlowHandshake(Duration::from_millis(50)),
        Self::Handshake2Status(403),
        Self::RequestStatus(500),
        Self::SessionTaken,
        Self::OneRequestThenNoHttp,
        Self::OneRequestThenUnreadable,
        Self::Html,
        Self::HtmlAbove(300),
        Self::HtmlInstead,
        Self::NoHttp,
        Self::Unreadable,
        Self::WrongSignature,
        Self::Length(33),
        Self::Chunked,
        Self::CutOff,
        Self::EndlessHead,
        Self::EndlessBody,
    ];

    /// Whether the first request of a client that knows the account is carried out.
    pub fn carries_out(self) -> bool {
        match self {
            Self::Works => true,
            Self::Refused => false,
            Self::Handshake1Status(_) => false,
            Self::Handshake1Html => false,
            Self::Handshake1Length(_) => false,
            Self::SlowHandshake(_) => true,
            Self::Handshake2Status(_) => false,
            Self::RequestStatus(_) => false,
            Self::SessionTaken => false,
            Self::OneRequestThenNoHttp => true,
            Self::OneRequestThenUnreadable => true,
            Self::Html => true,
            Self::HtmlAbove(_) => true,
            Self::HtmlInstead => false,
            Self::NoHttp => true,
            Self::Unreadable => true,
            Self::WrongSignature => true,
            Self::Length(_) => true,
            Self::Chunked => true,
            Self::CutOff => true,
            Self::EndlessHead => true,
            Self::EndlessBody => true,
        }
    }
}

/// How a plug is reached through the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloudLink {
    /// Connected.
    #[default]
    Works,
    /// Not connected: the cloud returns -20571 at once, and the device list has status 0.
    Offline,
    /// The cloud waits this long for the plug, then returns -20002; nothing is carried out.
    TimesOut(Duration),
    /// As `TimesOut`, but the plug carries the request out when the wait ends.
    TimesOutButActs(Duration),
    /// Acts and replies after this delay.
    Latency(Duration),
    /// Acts; `responseData` is a JSON object instead of a string that holds JSON.
    ObjectReply,
    /// Acts; the response has no `responseData`.
    NoReply,
    /// Acts; `responseData` is a string that is not JSON.
    Garbage,
    /// Replies to each method with this `err_code`.
    DeviceError(i64),
}
