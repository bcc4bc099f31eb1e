//! What is desired of a plug and not yet true: at most one value for each property of a part, and the delivery of one.

use std::time::Instant;

use crate::bridge::delivery::{Delivery, DeliveryJob};
use crate::bridge::desired::{CommandOrigin, Desired, DesiredStep, DesiredValue, Property};
use crate::bridge::event::Ended;
use crate::model::{Failure, RelayState, Route, Verdict};
use crate::smarthome::message::{Outlet, Outlets, Request};

/// A command that ended: whom to answer, and when the command arrived.
pub(super) type EndedCommand = (CommandOrigin, Instant);

/// All that is desired of one plug.
#[derive(Debug, Default)]
pub(super) struct DesiredState {
    values: Vec<Desired>,
    /// The delivery of the value that comes first.
    pub(super) delivery: Option<Box<Delivery>>,
}

impl DesiredState {
    pub(super) fn get(&self, property: Property, part: Option<Outlet>) -> Option<&Desired> {
        self.values.iter().find(|desired| desired.property() == property && desired.part == part)
    }

    pub(super) fn get_mut(&mut self, property: Property, part: Option<Outlet>) -> Option<&mut Desired> {
        self.values.iter_mut().find(|desired| desired.property() == property && desired.part == part)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Desired> {
        self.values.iter()
    }

    pub(super) fn first(&self) -> Option<&Desired> {
        self.values.first()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The caller has ended the older value for the same property and part.
    pub(super) fn insert(&mut self, desired: Desired) {
        self.values.push(desired);
    }

    pub(super) fn take(&mut self, property: Property, part: Option<Outlet>) -> Option<Desired> {
        let is_it = |desired: &Desired| desired.property() == property && desired.part == part;
        let index = self.values.iter().position(is_it)?;
        Some(self.values.swap_remove(index))
    }

    /// A reading decided a toggle: this state is desired from now on, whatever later readings show. The count-down of the
    /// same command leads to the other state.
    pub(super) fn resolve_toggle(&mut self, part: Option<Outlet>, state: RelayState) {
        let Some(toggle) = self.get_mut(Property::Relay, part) else { return };
        toggle.value = DesiredValue::Relay(state);
        let command = toggle.command;
        if let Some(count_down) = self.get_mut(Property::CountDown, part)
            && count_down.command == command
            && let DesiredValue::CountDown(_, then) = &mut count_down.value
        {
            *then = !state;
        }
    }

    /// Ends a value. A command for several parts is answered once: when one of them fails, or when the last is done.
    pub(super) fn end(
        &mut self,
        property: Property,
        part: Option<Outlet>,
        ended: &Ended,
    ) -> Option<EndedCommand> {
        let desired = self.take(property, part)?;
        let count_down = self.get(Property::CountDown, part);
        if desired.value.is_undecided() && count_down.is_some_and(|it| it.command == desired.command) {
            // Nobody knows to which state it was to lead.
            self.take(Property::CountDown, part);
        }
        let command = desired.command?;
        let mut rest = self.values.iter_mut().filter(|other| other.command == Some(command)).peekable();
        if *ended == Ended::Ok && rest.peek().is_some() {
            return None;
        }
        rest.for_each(|other| other.command = None);
        Some((command, desired.arrived))
    }

    /// Whether some value is part of this command.
    pub(super) fn has_command(&self, command: Option<CommandOrigin>) -> bool {
        self.values.iter().any(|desired| desired.command == command)
    }

    /// The fade that a newer command to the relay replaces: going on with it would light the lamp again.
    pub(super) fn has_older_fade(&self, part: Option<Outlet>, newer: CommandOrigin) -> bool {
        self.get(Property::Brightness, part).is_some_and(|desired| {
            matches!(desired.value, DesiredValue::Fade(..)) && desired.command != Some(newer)
        })
    }

    /// Whether a value waits for the answer to this request.
    pub(super) fn awaits(&self, request: &Request) -> bool {
        self.values.iter().any(|desired| desired.is_set_by(request))
    }

    /// The earliest deadline of the values that this request is about: it must not outlive any of them.
    pub(super) fn deadline_of(&self, request: &Request) -> Option<Instant> {
        let values = self.values.iter().filter(|desired| desired.is_set_by(request));
        values.map(|desired| desired.deadline).min()
    }

    /// The plug confirmed this request. True if a value waited for it.
    pub(super) fn confirm(&mut self, request: &Request, route: Route, now: Instant) -> bool {
        let mut was_awaited = false;
        for desired in self.values.iter_mut().filter(|desired| desired.is_set_by(request)) {
            was_awaited = true;
            desired.step = desired.next_step(route, now);
        }
        was_awaited
    }

    /// This request failed. Returns the values that the plug refuses.
    pub(super) fn fail(
        &mut self,
        request: &Request,
        route: Route,
        failure: &Failure,
        now: Instant,
    ) -> Vec<(Property, Option<Outlet>)> {
        if let Some(delivery) = self.delivery.as_mut().filter(|delivery| delivery.job.request == *request) {
            delivery.failed(route, failure, now);
        }
        let mut refused = Vec::new();
        for desired in self.values.iter_mut().filter(|desired| desired.is_set_by(request)) {
            desired.failures.note(route, failure);
            if failure.verdict() == Verdict::PlugRefuses {
                refused.push((desired.property(), desired.part));
            }
        }
        refused
    }

    /// A value whose deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Option<&mut Desired> {
        self.values.iter_mut().find(|desired| desired.deadline <= now)
    }

    /// What to deliver first: what can be sent now, by property; changes before read-backs of the same property, so that
    /// one reading serves several values.
    pub(super) fn next_job(&self, now: Instant) -> Option<DeliveryJob> {
        let order = |desired: &&Desired| {
            (desired.not_before() > now, desired.property(), desired.is_read_back(), desired.arrived)
        };
        let first = self.values.iter().min_by_key(order)?;
        Some(DeliveryJob {
            property: first.property(),
            part: first.part,
            request: self.joined_request(first),
            arrived: first.arrived,
            not_before: first.not_before(),
        })
    }

    /// The request of this value. One request switches all outlets that are to be in the same state.
    fn joined_request(&self, first: &Desired) -> Request {
        let (DesiredStep::Act, DesiredValue::Relay(state), Some(outlet)) =
            (first.step, &first.value, first.part)
        else {
            return first.request();
        };
        let is_same = |desired: &&Desired| desired.step == DesiredStep::Act && desired.value == first.value;
        let same = self.values.iter().filter(is_same).filter_map(|desired| desired.part);
        Request::SetOutlets(same.map(Outlets::one).fold(Outlets::one(outlet), Outlets::and), *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::{CommandId, Origin};
    use crate::model::RelayState::{Off, On};
    use std::time::Duration;

    const COMMAND: CommandOrigin = CommandOrigin { id: CommandId::new(Origin::Mqtt, 1), of: None };

    fn relay(part: Option<Outlet>, state: RelayState, now: Instant) -> Desired {
        let deadline = now + Duration::from_secs(10);
        Desired::new(DesiredValue::Relay(state), part, Some(COMMAND), now, deadline)
    }

    #[test]
    fn a_command_for_two_outlets_is_answered_when_the_last_is_done() {
        let now = Instant::now();
        let mut desired = DesiredState::default();
        (0..2).for_each(|outlet| desired.insert(relay(Some(outlet), On, now)));
        assert_eq!(desired.end(Property::Relay, Some(0), &Ended::Ok), None);
        assert_eq!(desired.end(Property::Relay, Some(1), &Ended::Ok), Some((COMMAND, now)));
        assert!(desired.is_empty());
    }

    #[test]
    fn a_command_for_two_outlets_is_answered_once_if_one_fails() {
        let now = Instant::now();
        let mut desired = DesiredState::default();
        (0..2).for_each(|outlet| desired.insert(relay(Some(outlet), On, now)));
        assert_eq!(desired.end(Property::Relay, Some(0), &Ended::Superseded), Some((COMMAND, now)));
        assert_eq!(desired.end(Property::Relay, Some(1), &Ended::Ok), None);
    }

    #[test]
    fn outlets_that_are_to_be_in_the_same_state_are_switched_by_one_request() {
        let now = Instant::now();
        let mut desired = DesiredState::default();
        for (outlet, state) in [(0, On), (1, Off), (2, On)] {
            desired.insert(relay(Some(outlet), state, now));
        }
        let job = desired.next_job(now).unwrap();
        let both = Outlets::one(0).and(Outlets::one(2));
        assert_eq!(job.request, Request::SetOutlets(both, On));
        assert!(desired.confirm(&job.request, Route::Local, now));
        let read_back = |outlet| desired.get(Property::Relay, Some(outlet)).unwrap().is_read_back();
        assert_eq!([0, 1, 2].map(read_back), [true, false, true]);
        let next = desired.next_job(now).unwrap().request;
        assert_eq!(next, Request::SetOutlets(Outlets::one(1), Off), "a change goes before a read-back");
    }

    #[test]
    fn a_refusal_names_the_values_that_it_is_about_and_a_silence_none() {
        let now = Instant::now();
        let mut desired = DesiredState::default();
        desired.insert(relay(None, On, now));
        desired.insert(Desired::new(DesiredValue::Led(Off), None, None, now, now));
        let request = Request::SetRelay(On);
        assert!(desired.fail(&request, Route::Local, &Failure::Silent, now).is_empty());
        let refusal = Failure::Device { code: -1, message: "no".into() };
        assert_eq!(desired.fail(&request, Route::Local, &refusal, now), [(Property::Relay, None)]);
        assert_eq!(desired.expired(now).map(|desired| desired.property()), Some(Property::Led));
    }
}
