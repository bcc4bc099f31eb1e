//! What is wanted of a plug: commands become wishes, wishes become jobs, and each command ends in one result.

use std::time::Instant;

use super::{Desk, InFlight, Plug};
use crate::bridge::event::{CommandId, CommandResult, Ended, Update, What};
use crate::bridge::pursuit::Job;
use crate::bridge::wish::{Slot, Want, Wish};
use crate::model::{Failure, Order, Route, Switch, Wishes};

impl Plug {
    /// Takes a command; each ends in exactly one result.
    pub(in crate::bridge) fn command(&mut self, id: CommandId, order: Order, desk: &mut Desk<'_>) {
        let deadline = desk.now + self.policy.command_ttl;
        let wants = match self.wants(order) {
            Ok(wants) => wants,
            Err(why) => return self.report(id, desk.now, Ended::Error(why.into()), None, desk),
        };
        for want in wants.into_iter().flatten() {
            self.wish(Wish::new(want, Some(id), desk.now, deadline), desk);
        }
    }

    /// What an order comes to for this plug, or why it cannot be.
    pub(super) fn wants(&self, order: Order) -> Result<[Option<Want>; 2], &'static str> {
        let Wishes { relay, led } = match order {
            Order::Set(wishes) => wishes,
            Order::Reboot => return Ok([Some(Want::Reboot), None]),
            Order::Read => return Ok([Some(Want::Read), None]),
        };
        let reading = self.reported.as_ref().map(|reported| &reported.reading);
        if relay.is_none() && led.is_none() {
            return Err("the command asks for nothing");
        }
        if relay.is_some() && reading.is_some_and(|reading| reading.relay.is_none()) {
            return Err("this device has no relay of its own");
        }
        if led.is_some() && reading.is_some_and(|reading| reading.led.is_none()) {
            return Err("this device has no LED that can be switched");
        }
        Ok([relay.map(|switch| self.resolve(switch)), led.map(Want::Led)])
    }

    /// Toggle is relative to what is wished already, else to what will be read.
    pub(super) fn resolve(&self, switch: Switch) -> Want {
        match (switch, self.wishes[Slot::Relay.index()].as_ref().map(|wish| wish.want)) {
            (Switch::To(state), _) => Want::Relay(state),
            (Switch::Toggle, Some(Want::Relay(state))) => Want::Relay(!state),
            (Switch::Toggle, Some(Want::FlipRelay(flip))) => Want::FlipRelay(!flip),
            (Switch::Toggle, _) => Want::FlipRelay(true),
        }
    }

    pub(super) fn wish(&mut self, wish: Wish, desk: &mut Desk<'_>) {
        let slot = wish.slot();
        if slot == Slot::Relay {
            // What stood until here need not be defended against what is wanted from here on.
            self.defended_until = None;
        }
        self.end(slot, Ended::Superseded, None, desk);
        self.wishes[slot.index()] = Some(wish);
    }

    /// Ends the wish in this slot, if there is one. A command of several parts is answered once: with the first
    /// part that fails, or when the last part is done.
    pub(super) fn end(&mut self, slot: Slot, ended: Ended, route: Option<Route>, desk: &mut Desk<'_>) {
        let Some(wish) = self.wishes[slot.index()].take() else { return };
        let Some(id) = wish.command else { return };
        let mut rest = self.wishes.iter_mut().flatten().filter(|other| other.command == Some(id)).peekable();
        if ended == Ended::Ok && rest.peek().is_some() {
            return;
        }
        rest.for_each(|other| other.command = None);
        self.report(id, wish.arrived, ended, route, desk);
    }

    pub(super) fn report(
        &mut self,
        id: CommandId,
        arrived: Instant,
        ended: Ended,
        route: Option<Route>,
        desk: &mut Desk<'_>,
    ) {
        let Some(plug) = self.name.clone() else { return };
        if let Ended::Error(why) = &ended {
            desk.happened(What::CommandFailed, Some(&plug), why.clone());
            // Whoever showed the wish as a fact must see the truth again.
            self.shown_state = None;
            self.show(desk);
        }
        let state = self.reported.as_ref().and_then(|reported| reported.reading.relay);
        let took = desk.now.saturating_duration_since(arrived);
        desk.publish(Update::Result(CommandResult { id, plug, ended, state, route, took }));
    }

    pub(super) fn bury_dead_wishes(&mut self, desk: &mut Desk<'_>) {
        for slot in Slot::ALL {
            let Some(wish) = &mut self.wishes[slot.index()] else { continue };
            if wish.deadline > desk.now {
                continue;
            }
            let request = wish.request();
            for route in Route::ALL {
                let silent =
                    self.lanes[route.index()].as_ref().is_some_and(|flight| flight.request == request);
                let failure = &mut wish.failures[route.index()];
                if silent && failure.is_none() {
                    *failure = Some(Failure::Silent);
                }
            }
            for route in Route::ALL {
                let reason = self.why_unusable(route, desk);
                if let (Some(wish), Some(reason)) = (&mut self.wishes[slot.index()], reason) {
                    wish.failures[route.index()] = Some(reason);
                }
            }
            let excuse = self.wishes[slot.index()].as_ref().map_or_else(String::new, Wish::excuse);
            for route in Route::ALL {
                let acts = |flight: &InFlight| flight.request == request && request.changes_something();
                if self.lanes[route.index()].as_ref().is_some_and(acts) {
                    self.abandon(route, desk);
                }
            }
            self.end(slot, Ended::Error(format!("not done in time ({excuse})")), None, desk);
        }
    }

    pub(super) fn job(&self) -> Option<Job> {
        let wish = self.wishes.iter().flatten().next()?;
        Some(Job {
            slot: wish.slot(),
            request: wish.request(),
            arrived: wish.arrived,
            not_before: wish.not_before(),
        })
    }
}
