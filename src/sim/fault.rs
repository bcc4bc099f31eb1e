//! What can be wrong with a plug, as plain values: a test iterates over them, a running home changes them.
//!
//! A rule for all of them: a fault of the *answer* changes only the answer, and the request is carried out; with
//! a fault of the *request* nothing is carried out. `LanFault::carries_out` is that rule.

use std::time::Duration;

/// How a plug behaves on its TCP ports, in either protocol.
///
/// With KLAP, a fault that lets requests be carried out leaves the handshake as it is or only slows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanFault {
    /// As it should.
    #[default]
    Works,
    /// Nothing listens; kept connections are gone.
    Refused,
    /// Connections are not taken: a new one waits for ever. On Linux, by a full backlog.
    NotAccepting,
    /// Nothing listens on TCP, while datagrams are answered: a port that has died after weeks.
    PortDead,
    /// Connections hang as with a firewall between, while datagrams are answered.
    PortFiltered,
    /// Takes the connection and the request, never answers, never acts.
    Silent,
    /// Takes the request and carries it out after this time, without ever answering.
    SilentButActs(Duration),
    /// Takes connections and reads nothing. What waits in the socket is read and carried out once it wakes,
    /// unless the client has reset the connection by then.
    Asleep,
    /// Acts and answers after this time.
    Latency(Duration),
    /// Acts, then answers one byte at a time, this far apart.
    SlowBytes(Duration),
    /// Reads the request and resets the connection.
    ResetAfterRequest,
    /// Acts, then sends half of the answer and resets the connection.
    ResetInAnswer,
    /// Reads the request and closes the connection.
    CloseWithoutReply,
    /// Acts, answers as it should, then closes, as some firmwares do.
    CloseAfterEachReply,
    /// Acts, then answers bytes that are no JSON, in a right frame.
    Garbage,
    /// Acts, then answers only the first half of the JSON, in a right frame.
    CutOffJson,
    /// Acts, then announces more bytes than any plug would send, and sends few.
    HugeLength,
    /// Answers each method with this `err_code`.
    DeviceError(i64),
}

impl LanFault {
    /// One of each, with mild times, for tables.
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

    /// Whether a request sent to a plug with this fault is carried out, be it late.
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

    /// Whether the plug hears and answers UDP as well. One that is dead or deaf on TCP is so on UDP.
    pub(crate) fn answers_datagrams(self) -> bool {
        !matches!(
            self,
            Self::Refused | Self::NotAccepting | Self::Silent | Self::SilentButActs(_) | Self::Asleep
        )
    }
}

/// How a firmware takes a request that switches the relay and asks how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwitchAndReadFault {
    /// Carries out both, in order, and answers both.
    #[default]
    Both,
    /// Switches, and leaves the second part out.
    SwitchOnly,
    /// Answers each method with this `err_code` and carries nothing out.
    Refused(i64),
    /// Switches, and answers half of the JSON.
    Garbled,
    /// Switches, and closes the connection without an answer; through the cloud it is not heard in time.
    NoAnswer,
    /// Switches, and answers both; the second part shows the relay as it was.
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
    /// KLAP only: TCP 9999 refuses, and only the newer discovery is answered.
    Klap,
    /// Both, and both discoveries.
    Both,
}

impl Dialect {
    /// Whether TCP and UDP 9999 are served.
    pub(crate) fn speaks_xor(self) -> bool {
        !matches!(self, Self::Klap)
    }

    /// Whether KLAP is served, and the newer discovery with it.
    pub(crate) fn speaks_klap(self) -> bool {
        !matches!(self, Self::Xor)
    }
}

/// What is wrong with the KLAP of a plug. [`LanFault`] is for what can happen in either protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KlapFault {
    /// Nothing.
    #[default]
    Works,
    /// Its port is closed, while the newer discovery is answered.
    Refused,
    /// Answers handshake1 with this status; 403 as plugs do whose account allows no third party.
    Handshake1Status(u16),
    /// Answers handshake1 with a page of HTML and status 200.
    Handshake1Html,
    /// Answers handshake1 with this many bytes.
    Handshake1Length(usize),
    /// Answers each step of the handshake after this time.
    SlowHandshake(Duration),
    /// Answers handshake2 with this status.
    Handshake2Status(u16),
    /// Answers each request with this status, and keeps the session.
    RequestStatus(u16),
    /// Another client takes the session after each handshake: each request is answered 403.
    SessionTaken,
    /// Carries out one request in each session, and answers the others with bytes that are not HTTP.
    OneRequestThenNoHttp,
    /// Carries out one request in each session, and answers the others with what nobody can decrypt.
    OneRequestThenUnreadable,
    /// Acts, then answers with a page of HTML and status 200.
    Html,
    /// The same where the reply has more bytes than this; acts in any case.
    HtmlAbove(usize),
    /// Answers with a page of HTML and status 200, and does not act.
    HtmlInstead,
    /// Acts, then answers bytes that are not HTTP.
    NoHttp,
    /// Acts, then answers with what nobody can decrypt.
    Unreadable,
    /// Acts, then answers with a wrong signature before the right ciphertext.
    WrongSignature,
    /// Acts, then answers with the first bytes of the right answer, this many, as if they were all.
    Length(usize),
    /// Acts, announces the whole answer, sends half of it and closes.
    CutOff,
    /// Acts, then sends headers without end.
    EndlessHead,
    /// Acts, then sends a body without end.
    EndlessBody,
}

impl KlapFault {
    /// One of each, with mild times.
    pub const ALL: [Self; 21] = [
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
    /// Not connected: the cloud answers -20571 at once, the device list says status 0.
    Offline,
    /// The cloud waits this long for the plug, then answers -20002; nothing is carried out.
    TimesOut(Duration),
    /// As `TimesOut`, but the plug carries the request out when the wait ends.
    TimesOutButActs(Duration),
    /// Acts and answers after this time.
    Latency(Duration),
    /// Acts; the answer comes as a JSON object instead of a text that holds JSON.
    ObjectReply,
    /// Acts; the answer has no `responseData`.
    NoReply,
    /// Acts; `responseData` is a text that is no JSON.
    Garbage,
    /// Answers each method with this `err_code`.
    DeviceError(i64),
}
