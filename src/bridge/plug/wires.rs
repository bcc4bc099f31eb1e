//! What is said to a plug, and over which route: at most one exchange in flight on each, abandoned when it hangs.

use std::sync::Arc;
use std::time::Instant;

use super::{Desk, InFlight, LOST_AFTER, Plug, REPEAT_AFTER, Wake, takes_turns};
use crate::bridge::event::{Action, CloudStatus, Ended, Exchange, ExchangeId, Outcome, Target, What};
use crate::bridge::pursuit::{Job, Pursuit};
use crate::bridge::route::{Plan, Policy};
use crate::bridge::wish::{Slot, Wish};
use crate::model::{Address, Failure, RelayState, Route, Verdict};
use crate::smarthome::message::{Outlet, Reply, Request};

impl Plug {
    /// An exchange of this plug ended.
    pub(in crate::bridge) fn done(&mut self, id: ExchangeId, outcome: Outcome, desk: &mut Desk<'_>) {
        let Some(route) = self.route_of(id) else { return };
        let Some(flight) = self.lanes[route.index()].take() else { return };
        flight.leaves(route, outcome.result.is_ok(), desk);
        if let (Some(hello), false) =
            (outcome.hello, matches!(outcome.result, Err(Failure::WrongPlug { .. })))
        {
            self.read(hello, flight.started, route, desk);
        }
        match outcome.result {
            Ok(reply) => self.answered(route, &flight, reply, desk),
            Err(failure) => self.failed(route, &flight, &failure, desk),
        }
    }

    /// The route on which this exchange is in flight, unless it was given up.
    pub(in crate::bridge) fn route_of(&self, id: ExchangeId) -> Option<Route> {
        let flies = |route: &Route| self.lanes[route.index()].as_ref().is_some_and(|flight| flight.id == id);
        Route::ALL.into_iter().find(flies)
    }

    pub(super) fn pursue(&mut self, job: &Job, wake: &mut Wake, desk: &mut Desk<'_>) {
        let pursuit = match self.pursuit.take() {
            Some(pursuit) if pursuit.job == *job => pursuit,
            _ => Box::new(Pursuit::new(job.clone(), desk.now)),
        };
        let mut earlier_failed = true;
        for (route, head_start) in self.plan_for(job, desk).iter() {
            self.try_route(route, pursuit.due(route, head_start, earlier_failed), job, wake, desk);
            earlier_failed &= pursuit.has_failed(route) && !self.is_saying(route, job);
        }
        self.pursuit = Some(pursuit);
    }

    pub(super) fn plan_for(&self, job: &Job, desk: &Desk<'_>) -> Plan {
        let plan = self.routes.plan(self.usable(desk), &self.policy);
        let proven = self.wish_for(job.slot, job.part).and_then(Wish::proven_route);
        plan.led_by(proven, self.policy.cloud_after)
    }

    pub(super) fn try_route(
        &mut self,
        route: Route,
        due: Option<Instant>,
        job: &Job,
        wake: &mut Wake,
        desk: &mut Desk<'_>,
    ) {
        let Some(due) = due else { return };
        if self.is_saying(route, job) {
            return;
        }
        if due > desk.now {
            return wake.by(due);
        }
        if let Some(flight) = &self.lanes[route.index()] {
            // Something older is on the wire. An answer is a matter of milliseconds; when it stays away, the wire is
            // not waited for any longer.
            let patience = flight.started + self.policy.cloud_after;
            if patience > desk.now {
                return wake.by(patience);
            }
        }
        self.start(route, job.request.clone(), true, wake, desk);
    }

    /// Whether the job's request is on this wire already.
    pub(super) fn is_saying(&self, route: Route, job: &Job) -> bool {
        self.lanes[route.index()].as_ref().is_some_and(|flight| {
            flight.request == job.request
                && (job.request.changes_something() || flight.started >= job.not_before)
        })
    }

    pub(super) fn usable(&self, desk: &Desk<'_>) -> [bool; 2] {
        [
            self.may_use(Route::Local) && self.address.is_some(),
            self.may_use(Route::Cloud) && desk.cloud_is_open(),
        ]
    }

    /// Whether the user lets this route be used, and the plug can be named on it.
    pub(super) fn may_use(&self, route: Route) -> bool {
        match (route, self.policy.policy) {
            (Route::Local, Policy::Cloud) | (Route::Cloud, Policy::Local) => false,
            (Route::Local, _) => true,
            (Route::Cloud, _) => self.identity.device_id.is_some(),
        }
    }

    /// Why a route that the user lets be used cannot be tried at all.
    pub(super) fn why_unusable(&self, route: Route, desk: &Desk<'_>) -> Option<Failure> {
        match (route, desk.cloud) {
            _ if !self.may_use(route) => None,
            (Route::Local, _) => self.address.is_none().then_some(Failure::NoAddress),
            (Route::Cloud, CloudStatus::Stopped(why)) => Some(Failure::CloudStopped(why.clone())),
            (Route::Cloud, _) => None,
        }
    }

    /// What each route that the user lets be used answered last, in words.
    pub(super) fn last_answers(&self, desk: &Desk<'_>) -> String {
        let mut failures = self.failures.clone();
        for route in Route::ALL {
            if self.may_use(route) {
                let hangs = self.lanes[route.index()].is_some();
                failures.complete(route, self.why_unusable(route, desk), hangs);
            } else {
                failures.forget(route);
            }
        }
        failures.words(None)
    }

    /// Asks the plug, in the place of what is on this route, unless the same was asked just now. Whether it was asked.
    pub(super) fn start(
        &mut self,
        route: Route,
        request: Request,
        urgent: bool,
        wake: &mut Wake,
        desk: &mut Desk<'_>,
    ) -> bool {
        let reading_as_well = self.read_as_well(route, &request);
        let reads_as_well = reading_as_well.is_some();
        let as_said = reading_as_well.unwrap_or_else(|| request.clone());
        if let Some(at) = self.too_soon_until(route, &as_said, desk.now) {
            wake.by(at);
            return false;
        }
        let target = match (route, &self.address, &self.identity.device_id) {
            (Route::Local, Some(address), _) => {
                Target::Local { address: address.clone(), expect: self.identity.clone() }
            }
            (Route::Cloud, _, Some(device_id)) => Target::Cloud { device_id: device_id.clone() },
            _ => return false,
        };
        let unanswered_since =
            self.lanes[route.index()].as_ref().map_or(desk.now, |flight| flight.unanswered_since);
        self.abandon(route, desk);
        let limit = match route {
            Route::Local => self.policy.local_timeout,
            Route::Cloud => self.policy.cloud_timeout,
        };
        // What is said for several outlets at once may not outlive the first of their wishes.
        let said = self.wishes.iter().filter(|wish| wish.is_said_by(&request)).map(|wish| wish.deadline);
        let deadline = said.fold(desk.now + limit, Instant::min);
        let id = desk.next_exchange(self.key);
        self.last_asked[route.index()].note(&as_said, desk.now);
        if takes_turns(route, &request) {
            desk.turns.begun(desk.now);
        }
        self.lanes[route.index()] =
            Some(InFlight { id, request, reads_as_well, started: desk.now, unanswered_since, deadline });
        let plate = self.reported.as_ref().map(|reported| Arc::clone(&reported.reading.plate));
        let label = Arc::clone(&self.label);
        desk.actions.push_back(Action::Perform(Exchange {
            id,
            plug: self.key,
            label,
            target,
            request: as_said,
            deadline,
            urgent,
            plate,
        }));
        true
    }

    /// Until when this request would come too soon after the last of its kind.
    fn too_soon_until(&self, route: Route, request: &Request, now: Instant) -> Option<Instant> {
        let last = self.last_asked[route.index()].at(request)?;
        let is_stirred = self.stirred.is_some_and(|stirred| stirred > last);
        Some(last + REPEAT_AFTER).filter(|&until| until > now && !is_stirred)
    }

    pub(super) fn abandon(&mut self, route: Route, desk: &mut Desk<'_>) {
        self.doubt_what_hangs(route);
        if let Some(flight) = self.lanes[route.index()].take() {
            flight.leaves(route, false, desk);
            desk.actions.push_back(Action::Abandon(flight.id));
            self.note_stray(&flight.request, flight.deadline);
        }
    }

    pub(super) fn let_go_of_lost(&mut self, desk: &mut Desk<'_>) {
        for route in Route::ALL {
            let lost = |flight: &InFlight| flight.deadline + LOST_AFTER <= desk.now;
            let Some(flight) = self.lanes[route.index()].clone().filter(lost) else { continue };
            self.abandon(route, desk);
            self.failed(route, &flight, &Failure::Silent, desk);
        }
    }

    /// A request that got no answer may still be carried out until its time is over.
    pub(super) fn note_stray(&mut self, request: &Request, until: Instant) {
        for part in self.parts() {
            if let Some(state) = switches(request, part) {
                let known = &mut self.relay_mut(part).stray[usize::from(state.is_on())];
                *known = (*known).max(Some(until));
            }
        }
    }

    /// Until when an older request may still bring the relay into this state.
    pub(super) fn stray_until(&self, part: Option<Outlet>, state: RelayState) -> Option<Instant> {
        let says_it = |flight: &&InFlight| switches(&flight.request, part) == Some(state);
        let flying = self.lanes.iter().flatten().filter(says_it).map(|flight| flight.deadline).max();
        flying.max(self.relay(part)?.stray[usize::from(state.is_on())])
    }

    pub(super) fn answered(&mut self, route: Route, flight: &InFlight, reply: Reply, desk: &mut Desk<'_>) {
        if route == Route::Cloud {
            self.note_overtaken(desk.now);
        }
        self.heard(route, desk);
        match reply {
            Reply::SysInfo(reading) => {
                let next = self.next_poll(route, flight.started, desk.now);
                self.read(reading, flight.started, route, desk);
                self.poll_at[route.index()] = self.sooner_if_watched(next, desk.now);
            }
            Reply::Done => self.acted(route, flight, desk),
            Reply::Switched(reading) => self.switched(route, flight, reading, desk),
            told => {
                self.aside_ended(&flight.request, true, desk.now);
                self.told(told, route, flight, desk);
                self.show_first_energy(desk);
            }
        }
    }

    /// Takes the answer to a slow question.
    fn told(&mut self, told: Reply, route: Route, flight: &InFlight, desk: &mut Desk<'_>) {
        match (told, &flight.request) {
            (Reply::CloudInfo(info), _) => {
                self.cloud_connected = Some(info.connected);
                self.show(desk);
            }
            (Reply::Clock(date), _) => self.date = Some(date),
            (Reply::Meter(meter), Request::Meter(part)) => self.read_meter(*part, meter, desk),
            (Reply::Used(days), Request::MeterDays(part, year, month)) => {
                self.read_today(*part, (*year, *month), Some(&days), desk);
            }
            (Reply::NotTold, Request::MeterDays(part, year, month)) => {
                self.read_today(*part, (*year, *month), None, desk);
            }
            (Reply::Used(months), Request::MeterMonths(part, year)) => {
                self.read_month(*part, *year, Some(&months), desk);
            }
            (Reply::NotTold, Request::MeterMonths(part, year)) => self.read_month(*part, *year, None, desk),
            (Reply::CountDown(running), Request::CountDown(part)) => {
                self.read_count_down(*part, running, route, desk);
            }
            (Reply::Schedule(rules), Request::Schedule(part)) => {
                self.relay_mut(*part).schedule = Some(rules);
                self.show(desk);
            }
            // An answer is read by the question that it answers, so there are no others.
            _ => {}
        }
    }

    /// The cloud had to answer because the LAN kept silent: the LAN rests, until it answers.
    pub(super) fn note_overtaken(&mut self, now: Instant) {
        let Some(flight) = &self.lanes[Route::Local.index()] else { return };
        if flight.unanswered_since + self.policy.cloud_after <= now {
            self.routes.overtaken(Route::Local, now);
        }
    }

    pub(super) fn acted(&mut self, route: Route, flight: &InFlight, desk: &mut Desk<'_>) {
        self.acted = Some(desk.now);
        self.stirred = Some(desk.now);
        let mut was_wished = false;
        for wish in self.wishes.iter_mut().filter(|wish| wish.is_said_by(&flight.request)) {
            was_wished = true;
            wish.step = wish.next_step(route, desk.now);
        }
        if matches!(flight.request, Request::SetRelay(_)) && !flight.reads_as_well {
            self.switched_alone(route, true);
        }
        self.end_what_is_not_read_back(route, desk);
        if !was_wished {
            // An older request was carried out late: look at once what it did, over whichever route serves. The reading
            // that confirms the newer one may not show it yet.
            self.note_stray(&flight.request, desk.now);
            self.poll_at = [desk.now; 2];
        }
    }

    /// A restart shows itself in nothing that could be read.
    fn end_what_is_not_read_back(&mut self, route: Route, desk: &mut Desk<'_>) {
        if self.wish_for(Slot::Reboot, None).is_some_and(Wish::is_read_back) {
            self.end(Slot::Reboot, None, Ended::Ok, Some(route), desk);
        }
    }

    pub(super) fn failed(&mut self, route: Route, flight: &InFlight, failure: &Failure, desk: &mut Desk<'_>) {
        // A plug that restarts may well be gone before it has answered.
        if flight.request == Request::Reboot && *failure == Failure::Closed {
            return self.answered(route, flight, Reply::Done, desk);
        }
        if failure.may_act_later() {
            self.note_stray(&flight.request, flight.deadline);
        }
        if flight.reads_as_well && self.is_to_switch_alone(route, flight, failure) {
            if failure.verdict() == Verdict::PlugRefuses {
                self.heard(route, desk);
            }
            return;
        }
        if self.aside_ended(&flight.request, false, desk.now) {
            self.show_first_energy(desk);
            return self.note_failure(route, flight, failure, desk);
        }
        self.failures.note(route, failure);
        let is_wished = self.wishes.iter().any(|wish| wish.is_said_by(&flight.request));
        if *failure == Failure::Throttled && !is_wished {
            // A poll that was kept back says nothing about a plug that answered lately.
            if !self.is_reached(desk.now) {
                self.route_failed(route, failure.verdict(), desk);
            }
            // Those that got none come round again first.
            let next = desk.now + self.kept_back_pause();
            self.poll_at[route.index()] = self.sooner_if_watched(next, desk.now);
            return;
        }
        let was_alone = matches!(flight.request, Request::SetRelay(_)) && !flight.reads_as_well;
        if was_alone && failure.verdict() == Verdict::PlugRefuses {
            self.switched_alone(route, false);
        }
        match failure.verdict() {
            Verdict::PlugRefuses => self.heard(route, desk),
            verdict => self.route_failed(route, verdict, desk),
        }
        let next = self.next_poll(route, flight.started, desk.now);
        self.poll_at[route.index()] = self.sooner_if_watched(next, desk.now);
        if let Some(address) = self.rumour.take_if(|_| route == Route::Local) {
            return self.move_to(address, desk);
        }
        self.note_failure(route, flight, failure, desk);
    }

    /// Tells the wishes that waited for this.
    fn note_failure(&mut self, route: Route, flight: &InFlight, failure: &Failure, desk: &mut Desk<'_>) {
        if let Some(pursuit) = self.pursuit.as_mut().filter(|pursuit| pursuit.job.request == flight.request) {
            pursuit.failed(route, failure, desk.now);
        }
        let mut refused = Vec::new();
        for wish in self.wishes.iter_mut().filter(|wish| wish.is_said_by(&flight.request)) {
            wish.failures.note(route, failure);
            if failure.verdict() == Verdict::PlugRefuses {
                refused.push((wish.slot(), wish.part));
            }
        }
        for (slot, part) in refused {
            self.end(slot, part, Ended::Error(format!("{route}: {failure}")), Some(route), desk);
        }
    }

    pub(super) fn route_failed(&mut self, route: Route, verdict: Verdict, desk: &mut Desk<'_>) {
        self.routes.failed(route, verdict, desk.now);
        if !self.is_reached(desk.now) {
            self.misses += 1;
        }
        // An answer of the cloud from before its last interval proves nothing; it is asked again first.
        if route == Route::Local && self.poll_at[Route::Cloud.index()] > desk.now {
            self.choose_serving(desk);
        }
        self.note_unserved(desk);
        self.show(desk);
        if route == Route::Local {
            self.untested = false;
        }
    }

    pub(super) fn move_to(&mut self, address: Address, desk: &mut Desk<'_>) {
        self.address = Some(address);
        self.rumour = None;
        self.untested = self.may_use(Route::Local);
        self.routes.forget(Route::Local);
        self.poll_at[Route::Local.index()] = desk.now;
        self.abandon(Route::Local, desk);
        self.pursuit = None;
    }

    pub(super) fn heard(&mut self, route: Route, desk: &mut Desk<'_>) {
        self.last_heard = Some(desk.now);
        self.misses = 0;
        self.unserved = false;
        self.routes.answered(route);
        self.failures.forget(route);
        if route == Route::Local {
            self.rumour = None;
            self.untested = false;
            self.note_address(desk);
        }
        self.choose_serving(desk);
    }

    /// It answers where it is believed to be.
    fn note_address(&mut self, desk: &mut Desk<'_>) {
        let Some(address) = self.address.as_ref().filter(|&here| self.answered_at.as_ref() != Some(here))
        else {
            return;
        };
        let before = self.answered_at.replace(address.clone());
        if let (Some(before), Some(name)) = (before, &self.name) {
            desk.happened(
                What::AddressChanged,
                Some(name),
                Some(Route::Local),
                format!("{before} -> {address}"),
            );
        }
        if let Some(known) = self.known() {
            desk.actions.push_back(Action::Remember(known));
        }
    }
}

/// What a request does to the relay of this part.
pub(super) fn switches(request: &Request, part: Option<Outlet>) -> Option<RelayState> {
    match (request, part) {
        (Request::SetRelay(state), None) => Some(*state),
        (Request::SetOutlets(outlets, state), Some(outlet)) if outlets.has(outlet) => Some(*state),
        (Request::Fade(percent, _), None) => Some(RelayState::from_bool(*percent > 0)),
        _ => None,
    }
}
