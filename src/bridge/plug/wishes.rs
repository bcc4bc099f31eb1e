//! What is wanted of a plug: commands become wishes, wishes become jobs, and each command ends in one result.

use std::time::{Duration, Instant};

use super::{Desk, InFlight, Plug};
use crate::bridge::event::{CommandId, CommandResult, Ended, Update, What};
use crate::bridge::pursuit::Job;
use crate::bridge::wish::{Asked, Slot, Step, Want, Wish};
use crate::model::{Order, RelayState, Route, Switch, Wishes};
use crate::smarthome::message::{Kind, Outlet, Outlets, Request};

/// Why a relay cannot be switched that is not there.
const NO_RELAY: &str = "this device has no relay of its own";

impl Plug {
    /// Takes a command to the device or to one of its outlets; each ends in exactly one result.
    pub(in crate::bridge) fn command(
        &mut self,
        id: CommandId,
        part: Option<Outlet>,
        order: Order,
        desk: &mut Desk<'_>,
    ) {
        let asked = Asked { id, of: part };
        self.stirred = Some(desk.now);
        // A fade is not late before it can have ended.
        let fade = if let Order::Set(wishes) = &order { wishes.transition } else { None };
        let deadline = desk.now + self.policy.command_ttl + fade.unwrap_or_default();
        match self.wants(part, order) {
            Ok(wants) => {
                for (part, want) in wants {
                    let mut wish = Wish::new(want, part, Some(asked), desk.now, deadline);
                    if self.reported.is_none() && wish.is_for_the_relay_of_a_device() {
                        wish.step = Step::Identify;
                    }
                    self.wish(wish, desk);
                }
            }
            Err(why) => self.report(asked, desk.now, Ended::Error(why.into()), None, desk),
        }
    }

    /// What an order comes to for this device, part by part, or why it cannot be.
    fn wants(&self, part: Option<Outlet>, order: Order) -> Result<Vec<(Option<Outlet>, Want)>, &'static str> {
        match order {
            Order::Set(wishes) => self.wants_set(part, wishes),
            Order::Reboot => Ok(vec![(None, Want::Reboot)]),
            Order::Read => Ok(vec![(None, Want::Read)]),
        }
    }

    fn wants_set(
        &self,
        part: Option<Outlet>,
        wishes: Wishes,
    ) -> Result<Vec<(Option<Outlet>, Want)>, &'static str> {
        let Wishes { mut relay, led, brightness, transition, lasting, alias } = wishes;
        let mut wants = Vec::new();
        if let Some(percent) = brightness {
            if self.kind().is_some_and(|kind| kind != Kind::Dimmer) {
                return Err("this device cannot be dimmed: leave brightness out");
            }
            match (transition, percent) {
                (Some(over), _) => wants.push((None, Want::Fade(percent, over))),
                (None, 0) => relay = relay.or(Some(Switch::To(RelayState::Off))),
                (None, _) => {
                    wants.push((None, Want::Brightness(percent)));
                    relay = relay.or(Some(Switch::To(RelayState::On)));
                }
            }
        }
        if let Some(switch) = relay {
            let parts = self.relay_parts(part);
            if parts.is_empty() {
                return Err(NO_RELAY);
            }
            for part in parts {
                wants.push((part, self.resolve(part, switch)));
                wants.extend(lasting.map(|lasting| (part, self.count_down(part, switch, lasting))));
            }
        } else if let Some(lasting) = lasting {
            if !lasting.is_zero() {
                return Err("`for` needs a `state` that is to last so long");
            }
            wants.extend(
                self.relay_parts(part).into_iter().map(|part| (part, Want::CountDown(0, RelayState::Off))),
            );
        }
        if let Some(state) = led {
            if self.reported.as_ref().is_some_and(|reported| reported.reading.led.is_none()) {
                return Err("this device has no LED that can be switched");
            }
            wants.push((None, Want::Led(state)));
        }
        wants.extend(alias.map(|alias| (part, Want::Alias(alias))));
        if wants.is_empty() { Err("the command asks for nothing") } else { Ok(wants) }
    }

    /// The parts whose relays a command to this part switches: a strip's own switches all its outlets, those that are
    /// known from an earlier run among them.
    fn relay_parts(&self, part: Option<Outlet>) -> Vec<Option<Outlet>> {
        let reading = self.reported.as_ref().map(|reported| &reported.reading);
        let outlets = reading.map_or(0, |reading| reading.outlets.len()).max(self.outlets.len());
        match (part, reading) {
            (Some(outlet), _) => vec![Some(outlet)],
            (None, _) if outlets > 0 => (0..).take(outlets).map(Some).collect(),
            (None, Some(reading)) if reading.relay.is_none() => vec![],
            (None, _) => vec![None],
        }
    }

    /// What a whole device's relay was to do before it was known what the device is. A strip's outlets do it instead.
    pub(super) fn assign_to_relays(&mut self, desk: &mut Desk<'_>) {
        let Some(parts) =
            self.wishes.iter().any(Wish::is_for_the_relay_of_a_device).then(|| self.relay_parts(None))
        else {
            return;
        };
        for slot in [Slot::Relay, Slot::CountDown] {
            match (&parts[..], self.wish_for_mut(slot, None)) {
                (_, None) => {}
                ([None], Some(wish)) if wish.step == Step::Identify => wish.step = wish.want.first_step(),
                ([None], Some(_)) => {}
                ([], Some(_)) => self.end(slot, None, Ended::Error(NO_RELAY.into()), None, desk),
                (outlets, Some(_)) => self.split(slot, outlets.iter().flatten().copied(), desk),
            }
        }
    }

    /// Makes of the whole device's wish of this kind one for each outlet, unless a newer one is there.
    fn split(&mut self, slot: Slot, outlets: impl Iterator<Item = Outlet>, desk: &mut Desk<'_>) {
        let is_it = |wish: &Wish| wish.slot() == slot && wish.part.is_none();
        let Some(place) = self.wishes.iter().position(is_it) else { return };
        let whole = self.wishes.swap_remove(place);
        for outlet in outlets {
            let newest = self.wish_for(slot, Some(outlet)).map(|wish| wish.arrived);
            if newest.is_none_or(|newest| newest <= whole.arrived) {
                self.wish(whole.for_outlet(outlet), desk);
            }
        }
        let is_left = self.wishes.iter().any(|wish| wish.command == whole.command);
        if let Some(asked) = whole.command.filter(|_| !is_left) {
            self.report(asked, whole.arrived, Ended::Superseded, None, desk);
        }
    }

    /// Toggle is relative to what is wished already, else to what will be read. A strip's own toggles each outlet by
    /// itself.
    fn resolve(&self, part: Option<Outlet>, switch: Switch) -> Want {
        match (switch, self.wish_for(Slot::Relay, part).map(|wish| &wish.want)) {
            (Switch::To(state), _) => Want::Relay(state),
            (Switch::Toggle, Some(Want::Relay(state))) => Want::Relay(!*state),
            (Switch::Toggle, Some(Want::FlipRelay(flip))) => Want::FlipRelay(!flip),
            (Switch::Toggle, _) => Want::FlipRelay(true),
        }
    }

    fn count_down(&self, part: Option<Outlet>, switch: Switch, lasting: Duration) -> Want {
        let state = match (switch, self.relay_of(part)) {
            (Switch::To(state), _) => state,
            (Switch::Toggle, now) => !now.unwrap_or(RelayState::Off),
        };
        // A part of a second is a second: the firmwares count whole ones.
        let seconds = lasting.as_secs() + u64::from(lasting.subsec_nanos() > 0);
        Want::CountDown(u32::try_from(seconds).unwrap_or(u32::MAX), !state)
    }

    pub(super) fn wish_for(&self, slot: Slot, part: Option<Outlet>) -> Option<&Wish> {
        self.wishes.iter().find(|wish| wish.slot() == slot && wish.part == part)
    }

    pub(super) fn wish_for_mut(&mut self, slot: Slot, part: Option<Outlet>) -> Option<&mut Wish> {
        self.wishes.iter_mut().find(|wish| wish.slot() == slot && wish.part == part)
    }

    pub(super) fn wish(&mut self, wish: Wish, desk: &mut Desk<'_>) {
        let slot = wish.slot();
        if slot == Slot::Relay {
            // What stood until here need not be defended against what is wanted from here on.
            self.relay_mut(wish.part).defended_until = None;
            self.break_off_fade(&wish, desk);
        }
        self.end(slot, wish.part, Ended::Superseded, None, desk);
        self.wishes.push(wish);
    }

    /// A newer command to the relay is the last word: a fade that was pursued further would light the lamp again.
    fn break_off_fade(&mut self, newer: &Wish, desk: &mut Desk<'_>) {
        let is_other = |wish: &Wish| matches!(wish.want, Want::Fade(..)) && wish.command != newer.command;
        if newer.command.is_some() && self.wish_for(Slot::Brightness, newer.part).is_some_and(is_other) {
            self.end(Slot::Brightness, newer.part, Ended::Superseded, None, desk);
        }
    }

    /// Ends the wish of this kind, if there is one. A command of several parts is answered once: with the first
    /// part that fails, or when the last part is done.
    pub(super) fn end(
        &mut self,
        slot: Slot,
        part: Option<Outlet>,
        ended: Ended,
        route: Option<Route>,
        desk: &mut Desk<'_>,
    ) {
        let is_it = |wish: &Wish| wish.slot() == slot && wish.part == part;
        let Some(place) = self.wishes.iter().position(is_it) else { return };
        let wish = self.wishes.swap_remove(place);
        let Some(asked) = wish.command else { return };
        let mut rest = self.wishes.iter_mut().filter(|other| other.command == Some(asked)).peekable();
        if ended == Ended::Ok && rest.peek().is_some() {
            return;
        }
        rest.for_each(|other| other.command = None);
        self.report(asked, wish.arrived, ended, route, desk);
    }

    fn report(
        &mut self,
        asked: Asked,
        arrived: Instant,
        ended: Ended,
        route: Option<Route>,
        desk: &mut Desk<'_>,
    ) {
        let Some(plug) = self.name_of(asked.of).cloned() else { return };
        if let Ended::Error(why) = &ended {
            desk.happened(What::CommandFailed, Some(&plug), route, why.clone());
            // Whoever showed the wish as a fact must see the truth again.
            self.forget_shown_states();
        }
        self.show(desk);
        let state = self.relay_of(asked.of);
        let took = desk.now.saturating_duration_since(arrived);
        desk.publish(Update::Result(CommandResult { id: asked.id, plug, ended, state, route, took }));
    }

    pub(super) fn bury_dead_wishes(&mut self, desk: &mut Desk<'_>) {
        while let Some(place) = self.wishes.iter().position(|wish| wish.deadline <= desk.now) {
            let unusable = Route::ALL.map(|route| self.why_unusable(route, desk));
            let wish = &mut self.wishes[place];
            for (route, unusable) in Route::ALL.into_iter().zip(unusable) {
                let says_it = |flight: &InFlight| wish.is_said_by(&flight.request);
                let hung = self.lanes[route.index()].as_ref().is_some_and(says_it);
                wish.failures.complete(route, unusable, hung);
            }
            let (slot, part, request, excuse) = (wish.slot(), wish.part, wish.request(), wish.excuse());
            if request.changes_something() {
                self.abandon_what_says(place, desk);
            }
            self.end(slot, part, Ended::Error(format!("not done in time ({excuse})")), None, desk);
        }
    }

    /// Takes back what is on its way to the plug for the wish at this place.
    fn abandon_what_says(&mut self, place: usize, desk: &mut Desk<'_>) {
        for route in Route::ALL {
            let says_it = |flight: &InFlight| self.wishes[place].is_said_by(&flight.request);
            if self.lanes[route.index()].as_ref().is_some_and(says_it) {
                self.abandon(route, desk);
            }
        }
    }

    /// What to pursue first: what can be said or read now, and acts before read-backs of the same kind, so that one
    /// reading serves several.
    pub(super) fn job(&self, now: Instant) -> Option<Job> {
        let order = |wish: &&Wish| (wish.not_before() > now, wish.slot(), wish.is_read_back(), wish.arrived);
        let first = self.wishes.iter().min_by_key(order)?;
        Some(Job {
            slot: first.slot(),
            part: first.part,
            request: self.joined(first),
            arrived: first.arrived,
            not_before: first.not_before(),
        })
    }

    /// The wish's request, and with it what the other outlets are to do as well.
    fn joined(&self, first: &Wish) -> Request {
        let (Step::Act, Want::Relay(state), Some(outlet)) = (first.step, &first.want, first.part) else {
            return first.request();
        };
        let same = self.wishes.iter().filter(|wish| wish.step == Step::Act && wish.want == first.want);
        let outlets =
            same.filter_map(|wish| wish.part).map(Outlets::one).fold(Outlets::one(outlet), Outlets::and);
        Request::SetOutlets(outlets, *state)
    }
}
