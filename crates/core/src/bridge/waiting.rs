//! The timers of the bridge and of its plugs, as SIGUSR1 and `plug TARGET info -v` print them.

use std::fmt;
use std::time::Instant;

use crate::model::{PlugName, Route};

/// What a timer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingFor {
    /// Bridge: the first round of reads; `bridge/state` is `online` at this time at the latest.
    FirstRound,
    /// Bridge: the next `bridge/info`, whose counts have changed.
    Info,
    /// Bridge: the next search for plugs that are missing on the LAN.
    Search,
    /// Bridge: the next read of the account's device list.
    DeviceList,
    /// Bridge: a device that replied to TDP may still send an XOR reply.
    XorReply,
    /// Plug: the answer to the exchange in flight on this route; the time is its deadline.
    Answer(Route),
    /// Plug: the end of a command that has not succeeded until then.
    CommandDeadline,
    /// Plug: the next attempt to deliver a command over this route.
    Attempt(Route),
    /// Plug: the next read of its state over this route.
    Poll(Route),
    /// Plug: the next read of its meter, schedule or the like.
    SlowPoll,
    /// Plug: the time at which the late execution of an older request can be seen.
    LateExecution,
    /// Plug: an answer on any route; without one it is offline at this time.
    Offline,
}

/// A timer that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The plug that waits; none if it has no name yet, or if the bridge itself waits.
    pub plug: Option<PlugName>,
    /// What it waits for.
    pub what: WaitingFor,
    /// Until when.
    pub until: Instant,
}

impl Waiting {
    /// `the next read over the local route in 4s`.
    pub fn in_words(&self, now: Instant) -> String {
        format!("{} in {}s", self.what, self.until.saturating_duration_since(now).as_secs())
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstRound => f.write_str("the first round of reads"),
            Self::Info => f.write_str("the next bridge/info"),
            Self::Search => f.write_str("the next search for missing plugs"),
            Self::DeviceList => f.write_str("the next read of the account's device list"),
            Self::XorReply => f.write_str("an XOR reply of a device that answered with KLAP"),
            Self::Answer(route) => write!(f, "an answer over the {route} route"),
            Self::CommandDeadline => f.write_str("the deadline of a command"),
            Self::Attempt(route) => write!(f, "the next attempt to deliver a command over the {route} route"),
            Self::Poll(route) => write!(f, "the next read over the {route} route"),
            Self::SlowPoll => f.write_str("the next read of the meter, the schedule or the like"),
            Self::LateExecution => f.write_str("a late execution of an older command"),
            Self::Offline => f.write_str("an answer, or else to count as offline"),
        }
    }
}
