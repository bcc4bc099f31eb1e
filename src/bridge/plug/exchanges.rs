//! What is said to a plug, and over which route: at most one exchange in flight on each, abandoned when it hangs.

use std::sync::Arc;
use std::time::Instant;

use super::{Ctx, InFlight, LOST_AFTER, Plug, REPEAT_AFTER, Wake, is_limited};
use crate::bridge::delivery::{Delivery, DeliveryJob};
use crate::bridge::desired::{Desired, Property};
use crate::bridge::event::{Action, CloudStatus, Ended, Exchange, ExchangeId, NoticeKind, Outcome, Target};
use crate::bridge::route::{Plan, RoutePreference};
use crate::model::{Address, Failure, RelayState, Route, Verdict};
use crate::smarthome::message::{Outlet, Reply, Request};

impl Plug {
    /// An exchange of this plug ended.
    pub(in crate::bridge) fn done(&mut self, id: ExchangeId, outcome: Outcome, ctx: &mut Ctx<'_>) {
        let Some(route) = self.route_of(id) else { return };
        let Some(flight) = self.in_flight[route.index()].take() else { return };
        flight.leaves(route, outcome.result.is_ok(), ctx);
        if let (Some(hello), false) =
            (outcome.greeting, matches!(outcome.result, Err(Failure::WrongPlug { .. })))
        {
            self.read(hello, flight.started, route, ctx);
        }
        match outcome.result {
            Ok(reply) => self.answered(route, &flight, reply, ctx),
            Err(failure) => self.failed(route, &flight, &failure, ctx),
        }
    }

    /// The route on which this exchange is in flight, unless it was given up.
    pub(in crate::bridge) fn route_of(&self, id: ExchangeId) -> Option<Route> {
        let flies =
            |route: &Route| self.in_flight[route.index()].as_ref().is_some_and(|flight| flight.id == id);
        Route::ALL.into_iter().find(flies)
    }

    pub(super) fn pursue(&mut self, job: &DeliveryJob, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        let pursuit = match self.delivery.take() {
            Some(pursuit) if pursuit.job == *job => pursuit,
            _ => Box::new(Delivery::new(job.clone(), ctx.now)),
        };
        let mut earlier_failed = true;
        for (route, head_start) in self.plan_for(job, ctx).iter() {
            self.try_route(route, pursuit.due(route, head_start, earlier_failed), job, wake, ctx);
            earlier_failed &= pursuit.has_failed(route) && !self.is_saying(route, job);
        }
        self.delivery = Some(pursuit);
    }

    pub(super) fn plan_for(&self, job: &DeliveryJob, ctx: &Ctx<'_>) -> Plan {
        let plan = self.routes.plan(self.usable(ctx), &self.policy);
        let proven = self.wish_for(job.property, job.part).and_then(Desired::proven_route);
        plan.led_by(proven, self.policy.cloud_after)
    }

    pub(super) fn try_route(
        &mut self,
        route: Route,
        due: Option<Instant>,
        job: &DeliveryJob,
        wake: &mut Wake,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(due) = due else { return };
        if self.is_saying(route, job) {
            return;
        }
        if due > ctx.now {
            return wake.by(due);
        }
        if let Some(flight) = &self.in_flight[route.index()] {
            // Something older is on the wire. An answer is a matter of milliseconds; when it stays away, the wire is
            // not waited for any longer.
            let patience = flight.started + self.policy.cloud_after;
            if patience > ctx.now {
                return wake.by(patience);
            }
        }
        self.start(route, job.request.clone(), true, wake, ctx);
    }

    /// Whether the job's request is on this wire already.
    pub(super) fn is_saying(&self, route: Route, job: &DeliveryJob) -> bool {
        self.in_flight[route.index()].as_ref().is_some_and(|flight| {
            flight.request == job.request
                && (job.request.changes_something() || flight.started >= job.not_before)
        })
    }

    pub(super) fn usable(&self, ctx: &Ctx<'_>) -> [bool; 2] {
        [
            self.may_use(Route::Local) && self.address.is_some(),
            self.may_use(Route::Cloud) && ctx.cloud_is_open(),
        ]
    }

    /// Whether the user lets this route be used, and the plug can be named on it.
    pub(super) fn may_use(&self, route: Route) -> bool {
        match (route, self.policy.preference) {
            (Route::Local, RoutePreference::Cloud) | (Route::Cloud, RoutePreference::Local) => false,
            (Route::Local, _) => true,
            (Route::Cloud, _) => self.identity.device_id.is_some(),
        }
    }

    /// Why a route that the user lets be used cannot be tried at all.
    pub(super) fn why_unusable(&self, route: Route, ctx: &Ctx<'_>) -> Option<Failure> {
        match (route, ctx.cloud) {
            _ if !self.may_use(route) => None,
            (Route::Local, _) => self.address.is_none().then_some(Failure::NoAddress),
            (Route::Cloud, CloudStatus::Stopped(why)) => Some(Failure::CloudStopped(why.clone())),
            (Route::Cloud, _) => None,
        }
    }

    /// What each route that the user lets be used answered last, in words.
    pub(super) fn last_answers(&self, ctx: &Ctx<'_>) -> String {
        let mut failures = self.failures.clone();
        for route in Route::ALL {
            if self.may_use(route) {
                let hangs = self.in_flight[route.index()].is_some();
                failures.complete(route, self.why_unusable(route, ctx), hangs);
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
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let reading_as_well = self.read_as_well(route, &request);
        let reads_as_well = reading_as_well.is_some();
        let as_said = reading_as_well.unwrap_or_else(|| request.clone());
        if let Some(at) = self.too_soon_until(route, &as_said, ctx.now) {
            wake.by(at);
            return false;
        }
        let target = match (route, &self.address, &self.identity.device_id) {
            (Route::Local, Some(address), _) => Target::Local {
                address: address.clone(),
                protocol: self.routes.protocol_to_speak(),
                expect: self.identity.clone(),
            },
            (Route::Cloud, _, Some(device_id)) => Target::Cloud { device_id: device_id.clone() },
            _ => return false,
        };
        let unanswered_since =
            self.in_flight[route.index()].as_ref().map_or(ctx.now, |flight| flight.unanswered_since);
        self.abandon(route, ctx);
        let limit = match route {
            Route::Local => self.policy.local_timeout,
            Route::Cloud => self.policy.cloud_timeout,
        };
        // What is said for several outlets at once may not outlive the first of their wishes.
        let said = self
            .desired
            .iter()
            .filter(|desired| desired.is_said_by(&request))
            .map(|desired| desired.deadline);
        let deadline = said.fold(ctx.now + limit, Instant::min);
        let id = ctx.next_exchange(self.key);
        self.last_asked[route.index()].note(&as_said, ctx.now);
        if is_limited(route, &request) {
            ctx.poll_limiter.begun(ctx.now);
        }
        self.in_flight[route.index()] =
            Some(InFlight { id, request, reads_as_well, started: ctx.now, unanswered_since, deadline });
        let device = self.reported.as_ref().map(|reported| Arc::clone(&reported.reading.device));
        let label = Arc::clone(&self.label);
        ctx.actions.push_back(Action::Perform(Exchange {
            id,
            plug: self.key,
            label,
            target,
            request: as_said,
            deadline,
            urgent,
            known_info: device,
        }));
        true
    }

    /// Until when this request would come too soon after the last of its kind.
    fn too_soon_until(&self, route: Route, request: &Request, now: Instant) -> Option<Instant> {
        let last = self.last_asked[route.index()].at(request)?;
        let is_stirred = self.stirred.is_some_and(|stirred| stirred > last);
        Some(last + REPEAT_AFTER).filter(|&until| until > now && !is_stirred)
    }

    pub(super) fn abandon(&mut self, route: Route, ctx: &mut Ctx<'_>) {
        self.doubt_what_hangs(route);
        if let Some(flight) = self.in_flight[route.index()].take() {
            flight.leaves(route, false, ctx);
            ctx.actions.push_back(Action::Abandon(flight.id));
            self.note_stray(&flight.request, flight.deadline);
        }
    }

    pub(super) fn let_go_of_lost(&mut self, ctx: &mut Ctx<'_>) {
        for route in Route::ALL {
            let lost = |flight: &InFlight| flight.deadline + LOST_AFTER <= ctx.now;
            let Some(flight) = self.in_flight[route.index()].clone().filter(lost) else { continue };
            self.abandon(route, ctx);
            self.failed(route, &flight, &Failure::Silent, ctx);
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
        let flying = self.in_flight.iter().flatten().filter(says_it).map(|flight| flight.deadline).max();
        flying.max(self.relay(part)?.stray[usize::from(state.is_on())])
    }

    pub(super) fn answered(&mut self, route: Route, flight: &InFlight, reply: Reply, ctx: &mut Ctx<'_>) {
        if route == Route::Cloud {
            self.note_overtaken(ctx.now);
        }
        self.heard(route, ctx);
        match reply {
            Reply::SysInfo(reading) => {
                let next = self.next_poll(route, flight.started, ctx.now);
                self.read(reading, flight.started, route, ctx);
                self.poll_at[route.index()] = self.sooner_if_watched(next, ctx.now);
            }
            Reply::Done => self.acted(route, flight, ctx),
            Reply::Switched(reading) => self.switched(route, flight, reading, ctx),
            told => {
                self.slow_poll_ended(&flight.request, true, ctx.now);
                self.told(told, route, flight, ctx);
                self.show_first_energy(ctx);
            }
        }
    }

    /// Takes the answer to a slow question.
    fn told(&mut self, told: Reply, route: Route, flight: &InFlight, ctx: &mut Ctx<'_>) {
        match (told, &flight.request) {
            (Reply::CloudInfo(info), _) => {
                self.cloud_connected = Some(info.connected);
                self.show(ctx);
            }
            (Reply::Clock(date), _) => self.date = Some(date),
            (Reply::Meter(meter), Request::Meter(part)) => self.read_meter(*part, meter, ctx),
            (Reply::Used(days), Request::MeterDays(part, year, month)) => {
                self.read_today(*part, (*year, *month), Some(&days), ctx);
            }
            (Reply::NotTold, Request::MeterDays(part, year, month)) => {
                self.read_today(*part, (*year, *month), None, ctx);
            }
            (Reply::Used(months), Request::MeterMonths(part, year)) => {
                self.read_month(*part, *year, Some(&months), ctx);
            }
            (Reply::NotTold, Request::MeterMonths(part, year)) => self.read_month(*part, *year, None, ctx),
            (Reply::CountDown(running), Request::CountDown(part)) => {
                self.read_count_down(*part, running, route, ctx);
            }
            (Reply::Schedule(rules), Request::Schedule(part)) => {
                self.relay_mut(*part).schedule = Some(rules);
                self.show(ctx);
            }
            // An answer is read by the question that it answers, so there are no others.
            _ => {}
        }
    }

    /// The cloud had to answer because the LAN kept silent: the LAN rests, until it answers.
    pub(super) fn note_overtaken(&mut self, now: Instant) {
        let Some(flight) = &self.in_flight[Route::Local.index()] else { return };
        if flight.unanswered_since + self.policy.cloud_after <= now {
            self.routes.overtaken(Route::Local, now);
        }
    }

    pub(super) fn acted(&mut self, route: Route, flight: &InFlight, ctx: &mut Ctx<'_>) {
        self.acted = Some(ctx.now);
        self.stirred = Some(ctx.now);
        let mut was_wished = false;
        for desired in self.desired.iter_mut().filter(|desired| desired.is_said_by(&flight.request)) {
            was_wished = true;
            desired.step = desired.next_step(route, ctx.now);
        }
        if matches!(flight.request, Request::SetRelay(_)) && !flight.reads_as_well {
            self.switched_alone(route, true);
        }
        self.end_what_is_not_read_back(route, ctx);
        if !was_wished {
            // An older request was carried out late: look at once what it did, over whichever route serves. The reading
            // that confirms the newer one may not show it yet.
            self.note_stray(&flight.request, ctx.now);
            self.poll_at = [ctx.now; 2];
        }
    }

    /// A restart shows itself in nothing that could be read.
    fn end_what_is_not_read_back(&mut self, route: Route, ctx: &mut Ctx<'_>) {
        if self.wish_for(Property::Reboot, None).is_some_and(Desired::is_read_back) {
            self.end(Property::Reboot, None, Ended::Ok, Some(route), ctx);
        }
    }

    pub(super) fn failed(&mut self, route: Route, flight: &InFlight, failure: &Failure, ctx: &mut Ctx<'_>) {
        // A plug that restarts may well be gone before it has answered.
        if flight.request == Request::Reboot && *failure == Failure::Closed {
            return self.answered(route, flight, Reply::Done, ctx);
        }
        if failure.may_act_later() {
            self.note_stray(&flight.request, flight.deadline);
        }
        if flight.reads_as_well && self.is_to_switch_alone(route, flight, failure) {
            if failure.verdict() == Verdict::PlugRefuses {
                self.heard(route, ctx);
            }
            return;
        }
        if self.slow_poll_ended(&flight.request, false, ctx.now) {
            self.show_first_energy(ctx);
            return self.note_failure(route, flight, failure, ctx);
        }
        self.failures.note(route, failure);
        let is_wished = self.desired.iter().any(|desired| desired.is_said_by(&flight.request));
        if *failure == Failure::Throttled && !is_wished {
            // A poll that was kept back says nothing about a plug that answered lately.
            if !self.is_reached(ctx.now) {
                self.route_failed(route, failure.verdict(), ctx);
            }
            // Those that got none come round again first.
            let next = ctx.now + self.kept_back_pause();
            self.poll_at[route.index()] = self.sooner_if_watched(next, ctx.now);
            return;
        }
        let was_alone = matches!(flight.request, Request::SetRelay(_)) && !flight.reads_as_well;
        if was_alone && failure.verdict() == Verdict::PlugRefuses {
            self.switched_alone(route, false);
        }
        match failure.verdict() {
            Verdict::PlugRefuses => self.heard(route, ctx),
            verdict => self.route_failed(route, verdict, ctx),
        }
        let next = self.next_poll(route, flight.started, ctx.now);
        self.poll_at[route.index()] = self.sooner_if_watched(next, ctx.now);
        if let Some(address) = self.candidate_address.take_if(|_| route == Route::Local) {
            return self.move_to(address, ctx);
        }
        self.note_failure(route, flight, failure, ctx);
    }

    /// Tells the wishes that waited for this.
    fn note_failure(&mut self, route: Route, flight: &InFlight, failure: &Failure, ctx: &mut Ctx<'_>) {
        if let Some(pursuit) = self.delivery.as_mut().filter(|pursuit| pursuit.job.request == flight.request)
        {
            pursuit.failed(route, failure, ctx.now);
        }
        let mut refused = Vec::new();
        for desired in self.desired.iter_mut().filter(|desired| desired.is_said_by(&flight.request)) {
            desired.failures.note(route, failure);
            if failure.verdict() == Verdict::PlugRefuses {
                refused.push((desired.property(), desired.part));
            }
        }
        for (slot, part) in refused {
            self.end(slot, part, Ended::Error(format!("{route}: {failure}")), Some(route), ctx);
        }
    }

    pub(super) fn route_failed(&mut self, route: Route, verdict: Verdict, ctx: &mut Ctx<'_>) {
        self.routes.failed(route, verdict, ctx.now);
        if !self.is_reached(ctx.now) {
            self.misses += 1;
        }
        // An answer of the cloud from before its last interval proves nothing; it is asked again first.
        if route == Route::Local && self.poll_at[Route::Cloud.index()] > ctx.now {
            self.choose_serving(ctx);
        }
        self.note_unserved(ctx);
        self.show(ctx);
        if route == Route::Local {
            self.untested = false;
        }
    }

    pub(super) fn move_to(&mut self, address: Address, ctx: &mut Ctx<'_>) {
        self.address = Some(address);
        self.candidate_address = None;
        self.untested = self.may_use(Route::Local);
        self.routes.forget(Route::Local);
        self.poll_at[Route::Local.index()] = ctx.now;
        self.abandon(Route::Local, ctx);
        self.delivery = None;
    }

    pub(super) fn heard(&mut self, route: Route, ctx: &mut Ctx<'_>) {
        self.last_heard = Some(ctx.now);
        self.misses = 0;
        self.unserved = false;
        let believed = self.routes.protocol();
        self.routes.answered(route, ctx.now);
        self.failures.forget(route);
        if route == Route::Local {
            self.candidate_address = None;
            self.untested = false;
            if self.note_address(ctx) || self.routes.protocol() != believed {
                self.remember(ctx);
            }
        }
        self.choose_serving(ctx);
    }

    /// It answers where it is believed to be. Whether it answered elsewhere before.
    fn note_address(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let Some(address) = self.address.as_ref().filter(|&here| self.answered_at.as_ref() != Some(here))
        else {
            return false;
        };
        let before = self.answered_at.replace(address.clone());
        if let (Some(before), Some(name)) = (before, &self.name) {
            ctx.notify(
                NoticeKind::AddressChanged,
                Some(name),
                Some(Route::Local),
                format!("{before} -> {address}"),
            );
        }
        true
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
