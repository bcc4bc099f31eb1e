//! What is wanted of one plug and not yet true: a wish has a deadline, an act and a read-back, and dies with its time.

use std::time::Instant;

use super::event::CommandId;
use crate::model::{Failure, RelayState, Route};
use crate::smarthome::message::Request;

/// One thing wanted of a plug.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) want: Want,
    /// Who waits for the result; nobody, when the bridge itself puts a drift right.
    pub(super) command: Option<CommandId>,
    pub(super) arrived: Instant,
    /// After this moment the wish is dead.
    pub(super) deadline: Instant,
    pub(super) step: Step,
    /// Why each route failed last, for the result's words.
    pub(super) failures: [Option<Failure>; 2],
}

/// The kinds of wish. A newer wish of a kind takes the older one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Relay,
    Led,
    Reboot,
    Read,
}

impl Slot {
    /// In the order in which they are pursued.
    pub(super) const ALL: [Self; 4] = [Self::Relay, Self::Led, Self::Reboot, Self::Read];

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// The relay in this state.
    Relay(RelayState),
    /// The relay the other way round than it is read to be; `false` after a second toggle: as it is.
    FlipRelay(bool),
    /// The little light in this state.
    Led(RelayState),
    /// A restart.
    Reboot,
    /// A reading.
    Read,
}

/// How far a wish has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has to be said to the plug.
    Act,
    /// The plug has said that it did it; now it is read back.
    ReadBack {
        /// When the plug said so: older readings prove nothing.
        acted: Instant,
        /// The route that worked.
        route: Route,
        /// Readings that did not show it yet.
        mismatches: u32,
        /// The relay shown by a reading may lag behind, so another one is asked for no earlier than this.
        not_before: Instant,
    },
}

impl Wish {
    pub(super) fn new(want: Want, command: Option<CommandId>, arrived: Instant, deadline: Instant) -> Self {
        Self { want, command, arrived, deadline, step: Step::Act, failures: [None, None] }
    }

    pub(super) fn slot(&self) -> Slot {
        match self.want {
            Want::Relay(_) | Want::FlipRelay(_) => Slot::Relay,
            Want::Led(_) => Slot::Led,
            Want::Reboot => Slot::Reboot,
            Want::Read => Slot::Read,
        }
    }

    /// What to say next.
    pub(super) fn request(&self) -> Request {
        match (self.step, self.want) {
            (Step::ReadBack { .. }, _) => Request::SysInfo,
            (Step::Act, Want::Relay(state)) => Request::SetRelay(state),
            (Step::Act, Want::FlipRelay(_)) => Request::SysInfo,
            (Step::Act, Want::Led(state)) => Request::SetLed(state),
            (Step::Act, Want::Reboot) => Request::Reboot,
            (Step::Act, Want::Read) => Request::SysInfo,
        }
    }

    /// Before this moment an answer to [`Wish::request`] would prove nothing.
    pub(super) fn not_before(&self) -> Instant {
        match self.step {
            Step::Act => self.arrived,
            Step::ReadBack { not_before, .. } => not_before,
        }
    }

    /// The route to prefer: the one that has just worked.
    pub(super) fn proven_route(&self) -> Option<Route> {
        match self.step {
            Step::Act => None,
            Step::ReadBack { route, .. } => Some(route),
        }
    }

    /// Why it came to nothing, in words.
    pub(super) fn excuse(&self) -> String {
        let mut words = Vec::new();
        for route in Route::ALL {
            if let Some(failure) = &self.failures[route.index()] {
                words.push(format!("{route}: {failure}"));
            }
        }
        match self.step {
            Step::ReadBack { mismatches, .. } if mismatches > 0 => {
                words.push("the plug did not keep the state".into())
            }
            _ if words.is_empty() => words.push("there was no route to try".into()),
            _ => {}
        }
        words.join("; ")
    }
}
