//! One desired value of a plug: it is sent, read back, and given up at its deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::CommandId;
use super::failures::Failures;
use crate::model::{RelayState, Route};
use crate::smarthome::message::{Outlet, Outlets, Request};

/// A value that is desired of a plug, or of one outlet of a strip.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) value: DesiredValue,
    /// Which outlet; `None` for the device as a whole.
    pub(super) part: Option<Outlet>,
    /// The command that gets the result; none if the bridge itself puts a late execution right.
    pub(super) command: Option<CommandOrigin>,
    pub(super) arrived: Instant,
    /// After this moment it is given up.
    pub(super) deadline: Instant,
    pub(super) step: DesiredStep,
    /// Why each route failed last, for the text of the result.
    pub(super) failures: Failures,
}

/// The command from which a value comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandOrigin {
    pub(super) id: CommandId,
    /// The part that the command names: a command to a strip becomes one value for each outlet.
    pub(super) of: Option<Outlet>,
}

/// The properties, in the order in which they are delivered. A newer value of a property replaces the older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Property {
    /// Before the relay: a dimmer is to come on at the new level.
    Brightness,
    Relay,
    /// After the relay: what is counted down to is the other state.
    CountDown,
    Led,
    Alias,
    Reboot,
    Read,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DesiredValue {
    /// The relay in this state.
    Relay(RelayState),
    /// The relay in the other state than the next reading shows; after a second toggle (`false`) in the same.
    FlipRelay(bool),
    /// All outlets of a strip in the same state, which the next reading decides.
    FlipStrip(StripFlip),
    /// This level, 1..=100 %.
    Brightness(u8),
    /// This level, 0..=100 %, reached within this time; the relay follows.
    Fade(u8, Duration),
    /// The LED in this state.
    Led(RelayState),
    /// This name.
    Alias(Arc<str>),
    /// This state in this many seconds; 0 stops the count-down.
    CountDown(u32, RelayState),
    /// A restart.
    Reboot,
    /// A reading.
    Read,
}

/// A toggle of a strip as a whole: all outlets off if any is on, else all on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StripFlip {
    /// False after a second toggle: all outlets in the state of the strip.
    flip: bool,
    /// Outlets that count as on, or as off: an older command was switching them.
    on: Outlets,
    off: Outlets,
    /// Outlets that count as the opposite of what is read: an older command was toggling them.
    inverted: Outlets,
}

/// How far the delivery of a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DesiredStep {
    /// The device is read first: it was never read and may be a strip, which needs a value for each outlet, or it is a
    /// strip whose toggle waits for a reading.
    Identify,
    /// An older count-down has to be removed first.
    Clear,
    /// It has to be sent to the plug.
    Act,
    /// The plug confirmed it; now it is read back.
    ReadBack {
        /// The route of the confirmation.
        route: Route,
        /// Readings that did not show it.
        mismatches: u32,
        /// A reading may lag behind, so the next one is not requested earlier than this.
        not_before: Instant,
    },
}

impl DesiredValue {
    /// The step with which its delivery begins.
    pub(super) fn first_step(&self) -> DesiredStep {
        if matches!(self, Self::CountDown(..)) { DesiredStep::Clear } else { DesiredStep::Act }
    }

    /// Whether it is a toggle that no reading has decided yet.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, Self::FlipRelay(_) | Self::FlipStrip(_))
    }

    /// What a toggle makes of this value of a relay.
    pub(super) fn toggled(&self) -> Self {
        match self {
            Self::Relay(state) => Self::Relay(!*state),
            Self::FlipRelay(flip) => Self::FlipRelay(!flip),
            Self::FlipStrip(strip) => Self::FlipStrip(StripFlip { flip: !strip.flip, ..*strip }),
            _ => Self::FlipRelay(true),
        }
    }
}

impl StripFlip {
    /// `flip`: as in [`DesiredValue::FlipRelay`].
    pub(super) fn new(flip: bool) -> Self {
        let none = Outlets::default();
        Self { flip, on: none, off: none, inverted: none }
    }

    /// Takes into account what an older command desires of an outlet.
    pub(super) fn note_older(&mut self, outlet: Outlet, older: &DesiredValue) {
        let outlets = match older {
            DesiredValue::Relay(RelayState::On) => &mut self.on,
            DesiredValue::Relay(RelayState::Off) => &mut self.off,
            DesiredValue::FlipRelay(true) => &mut self.inverted,
            _ => return,
        };
        *outlets = outlets.and(Outlets::one(outlet));
    }

    /// The state that all outlets get. `None` if the reading leaves out a state on which this depends.
    pub(super) fn resolve(&self, read: impl Iterator<Item = Option<RelayState>>) -> Option<RelayState> {
        let state_of = |(outlet, read): (Outlet, Option<RelayState>)| {
            let read = read.map(|read| if self.inverted.has(outlet) { !read } else { read });
            let on = self.on.has(outlet).then_some(RelayState::On);
            on.or(self.off.has(outlet).then_some(RelayState::Off)).or(read)
        };
        let states: Vec<_> = (0..).zip(read).map(state_of).collect();
        let is_on = states.contains(&Some(RelayState::On));
        let is_known = is_on || (!states.is_empty() && !states.contains(&None));
        is_known.then_some(RelayState::from_bool(is_on != self.flip))
    }
}

impl Desired {
    pub(super) fn new(
        value: DesiredValue,
        part: Option<Outlet>,
        command: Option<CommandOrigin>,
        arrived: Instant,
        deadline: Instant,
    ) -> Self {
        let step = value.first_step();
        Self { value, part, command, arrived, deadline, step, failures: Failures::default() }
    }

    /// The same value for an outlet: the device turned out to be a strip.
    pub(super) fn for_outlet(&self, outlet: Outlet) -> Self {
        Self::new(self.value.clone(), Some(outlet), self.command, self.arrived, self.deadline)
    }

    pub(super) fn property(&self) -> Property {
        match self.value {
            DesiredValue::Relay(_) | DesiredValue::FlipRelay(_) | DesiredValue::FlipStrip(_) => {
                Property::Relay
            }
            DesiredValue::Brightness(_) | DesiredValue::Fade(..) => Property::Brightness,
            DesiredValue::CountDown(..) => Property::CountDown,
            DesiredValue::Led(_) => Property::Led,
            DesiredValue::Alias(_) => Property::Alias,
            DesiredValue::Reboot => Property::Reboot,
            DesiredValue::Read => Property::Read,
        }
    }

    /// The request to send next.
    pub(super) fn request(&self) -> Request {
        match (self.step, &self.value) {
            (DesiredStep::Identify, _) => Request::SysInfo,
            (DesiredStep::Clear, _) => Request::StopCountDown(self.part),
            (DesiredStep::ReadBack { .. }, DesiredValue::CountDown(..)) => Request::CountDown(self.part),
            (DesiredStep::ReadBack { .. }, _) => Request::SysInfo,
            (DesiredStep::Act, DesiredValue::Relay(state)) => match self.part {
                Some(outlet) => Request::SetOutlets(Outlets::one(outlet), *state),
                None => Request::SetRelay(*state),
            },
            (DesiredStep::Act, DesiredValue::FlipRelay(_) | DesiredValue::FlipStrip(_)) => Request::SysInfo,
            (DesiredStep::Act, DesiredValue::Brightness(percent)) => Request::SetBrightness(*percent),
            (DesiredStep::Act, DesiredValue::Fade(percent, over)) => {
                Request::Fade(*percent, u32::try_from(over.as_millis()).unwrap_or(u32::MAX))
            }
            (DesiredStep::Act, DesiredValue::Led(state)) => Request::SetLed(*state),
            (DesiredStep::Act, DesiredValue::Alias(alias)) => Request::SetAlias(self.part, Arc::clone(alias)),
            (DesiredStep::Act, DesiredValue::CountDown(seconds, then)) => {
                Request::StartCountDown(self.part, *seconds, *then)
            }
            (DesiredStep::Act, DesiredValue::Reboot) => Request::Reboot,
            (DesiredStep::Act, DesiredValue::Read) => Request::SysInfo,
        }
    }

    /// Whether this request, which may be about several outlets, includes [`Desired::request`].
    pub(super) fn is_set_by(&self, request: &Request) -> bool {
        match (self.step, &self.value, self.part, request) {
            (
                DesiredStep::Act,
                DesiredValue::Relay(state),
                Some(outlet),
                Request::SetOutlets(outlets, new),
            ) => state == new && outlets.has(outlet),
            _ => self.request() == *request,
        }
    }

    /// The step after the plug confirmed the request.
    pub(super) fn next_step(&self, route: Route, now: Instant) -> DesiredStep {
        let not_before = match self.value {
            DesiredValue::Fade(_, over) => now + over,
            _ => now,
        };
        match (self.step, &self.value) {
            (DesiredStep::Clear, DesiredValue::CountDown(1.., _)) => DesiredStep::Act,
            _ => DesiredStep::ReadBack { route, mismatches: 0, not_before },
        }
    }

    /// Before this moment an answer to [`Desired::request`] proves nothing.
    pub(super) fn not_before(&self) -> Instant {
        match self.step {
            DesiredStep::Identify | DesiredStep::Clear | DesiredStep::Act => self.arrived,
            DesiredStep::ReadBack { not_before, .. } => not_before,
        }
    }

    /// The route to prefer: that of the confirmation.
    pub(super) fn proven_route(&self) -> Option<Route> {
        match self.step {
            DesiredStep::Identify | DesiredStep::Clear | DesiredStep::Act => None,
            DesiredStep::ReadBack { route, .. } => Some(route),
        }
    }

    /// Whether it is about the relay of a device, and not about an outlet's.
    pub(super) fn is_for_the_relay_of_a_device(&self) -> bool {
        self.part.is_none() && matches!(self.property(), Property::Relay | Property::CountDown)
    }

    pub(super) fn is_read_back(&self) -> bool {
        matches!(self.step, DesiredStep::ReadBack { .. })
    }

    /// Why it failed, for the result.
    pub(super) fn failure_text(&self) -> String {
        let strays = matches!(self.step, DesiredStep::ReadBack { mismatches, .. } if mismatches > 0);
        self.failures.words(strays.then_some("the plug did not keep the state"))
    }
}
