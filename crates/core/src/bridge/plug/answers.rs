//! What follows from the end of an exchange: an answer updates the parts, a failure says which route to try next.

use super::exchanges::InFlight;
use super::polls;
use super::sums::MeterValue;
use super::{Ctx, Plug};
use crate::bridge::desired::{Desired, Property};
use crate::bridge::event::{Ended, ExchangeId, NoticeKind, Outcome};
use crate::model::{Failure, LanProtocol, Route, Verdict};
use crate::smarthome::message::{Outlet, Reading, Reply, Request};

impl Plug {
    /// An exchange of this plug ended.
    pub(in crate::bridge) fn done(&mut self, id: ExchangeId, outcome: Outcome, ctx: &mut Ctx<'_>) {
        let Some(route) = self.exchanges.route_of(id) else { return };
        let was_answered = outcome.result.is_ok();
        let Some(flight) = self.exchanges.end(route, was_answered, ctx.poll_limiter, ctx.now) else { return };
        let is_wrong_plug = matches!(outcome.result, Err(Failure::WrongPlug { .. }));
        if let Some(greeting) = outcome.greeting.filter(|_| !is_wrong_plug) {
            self.read(greeting, flight.started, route, ctx);
        }
        match outcome.result {
            Ok(reply) => self.answered(route, &flight, reply, ctx),
            Err(failure) => self.failed(route, &flight, &failure, ctx),
        }
    }

    fn answered(&mut self, route: Route, flight: &InFlight, reply: Reply, ctx: &mut Ctx<'_>) {
        if route == Route::Cloud {
            self.note_overtaken(ctx);
        }
        if !flight.request.changes_something() {
            self.counters.count_poll(route, true);
        }
        self.heard(route, flight, ctx);
        match reply {
            Reply::SysInfo(reading) => {
                let next = self.next_poll(route, flight.started, ctx.now);
                self.read(reading, flight.started, route, ctx);
                self.poll_at(route, next, ctx);
            }
            Reply::Done => self.changed(route, flight, ctx),
            Reply::Switched(reading) => self.switched(route, flight, reading, ctx),
            reply => {
                self.slow_polls.ended(&flight.request, true, ctx.now);
                self.slow_poll_answered(reply, route, flight, ctx);
                self.publish_first_energy(ctx);
            }
        }
    }

    /// The cloud answered while the LAN was silent for `cloud_after`: the LAN rests until it answers.
    fn note_overtaken(&mut self, ctx: &Ctx<'_>) {
        let Some(flight) = self.exchanges.get(Route::Local) else { return };
        if flight.unanswered_since + self.policy.cloud_after <= ctx.now {
            self.reachability.routes.overtaken(Route::Local, ctx.now);
        }
    }

    /// The plug answered this exchange.
    fn heard(&mut self, route: Route, flight: &InFlight, ctx: &mut Ctx<'_>) {
        self.reachability.answered(route, ctx.now);
        if route == Route::Local {
            let stored = self.reachability.routes.last_answered_in();
            self.note_answer_in(flight.protocol, ctx);
            let is_moved = self.note_address(ctx);
            if is_moved || self.reachability.routes.last_answered_in() != stored {
                self.remember(ctx);
            }
        }
        self.choose_route(ctx);
    }

    fn note_answer_in(&mut self, protocol: LanProtocol, ctx: &mut Ctx<'_>) {
        let before = self.reachability.routes.answered_in(protocol, ctx.now);
        if let (Some(before), Some(name)) = (before, &self.name) {
            let detail = format!("{} -> {}", before.word(), protocol.word());
            ctx.notify(NoticeKind::ProtocolChanged, Some(name), Some(Route::Local), detail);
        }
    }

    /// The address in use answered. True if the last answer came from another one.
    fn note_address(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let (is_new, before) = self.location.confirm();
        let Some(address) = self.location.current().filter(|_| is_new) else { return false };
        if let (Some(before), Some(name)) = (before, &self.name) {
            let detail = format!("{before} -> {address}");
            ctx.notify(NoticeKind::AddressChanged, Some(name), Some(Route::Local), detail);
        }
        true
    }

    /// The plug confirmed that it did what was requested.
    fn changed(&mut self, route: Route, flight: &InFlight, ctx: &mut Ctx<'_>) {
        self.reported.note_change(ctx.now);
        self.exchanges.allow_repeats(ctx.now);
        let was_awaited = self.desired.confirm(&flight.request, route, ctx.now);
        if flight.only_switches() {
            self.switch_and_read.switched_alone(self.reported.firmware(), route, true);
        }
        // No reading shows a restart.
        if self.desired.get(Property::Reboot, None).is_some_and(Desired::is_read_back) {
            self.end(Property::Reboot, None, Ended::Ok, Some(route), ctx);
        }
        if !was_awaited {
            // A late execution of an older request: its effect is read at once, over the route that serves the plug. The
            // reading that confirms a newer command may not show it yet.
            self.relays.note_stray(&flight.request, ctx.now);
            self.polls.set_all(ctx.now);
        }
    }

    /// The plug was switched by a combined request. A reading that still shows the old state is ignored: another one is
    /// requested.
    fn switched(&mut self, route: Route, flight: &InFlight, reading: Option<Reading>, ctx: &mut Ctx<'_>) {
        self.switch_and_read.answered(self.reported.firmware(), reading.is_some());
        let is_awaited = self.desired.awaits(&flight.request);
        let is_news = !self.reported.is_old(flight.started);
        self.changed(route, flight, ctx);
        let shows_it = |reading: &Reading| reading.relay == flight.switches(None);
        let Some(reading) = reading.filter(shows_it).filter(|_| is_news) else { return };
        let next = self.next_poll(route, flight.started, ctx.now);
        self.take(reading, flight.started, route, ctx);
        // If no command waits for this any more, the poll that `changed` set stays.
        if is_awaited {
            self.poll_at(route, next, ctx);
        }
    }

    /// Takes the answer to a slow poll, or to the read-back of a count-down.
    fn slow_poll_answered(&mut self, reply: Reply, route: Route, flight: &InFlight, ctx: &mut Ctx<'_>) {
        match (reply, &flight.request) {
            (Reply::CloudInfo(info), _) => {
                self.reported.cloud_connected = Some(info.connected);
                self.publish(ctx);
            }
            (Reply::Clock(date), _) => self.slow_polls.set_date(date),
            (Reply::Meter(meter), Request::Meter(part)) => {
                let dropped = self.relays.get_mut(*part).meter.get_or_insert_default().read(meter, ctx.now);
                self.publish_dropped(*part, dropped, ctx);
                self.meter_was_read(*part, MeterValue::Meter, ctx);
            }
            (Reply::Used(days), Request::MeterDays(part, year, month)) => {
                self.read_days(*part, (*year, *month), Some(&days), ctx);
            }
            (Reply::NotTold, Request::MeterDays(part, year, month)) => {
                self.read_days(*part, (*year, *month), None, ctx);
            }
            (Reply::Used(months), Request::MeterMonths(part, year)) => {
                self.read_months(*part, *year, Some(&months), ctx);
            }
            (Reply::NotTold, Request::MeterMonths(part, year)) => self.read_months(*part, *year, None, ctx),
            (Reply::CountDown(running), Request::CountDown(part)) => {
                self.relays.get_mut(*part).set_count_down(running, ctx.now);
                self.publish(ctx);
                self.compare_count_down(*part, running, route, ctx);
            }
            (Reply::Schedule(rules), Request::Schedule(part)) => {
                self.relays.get_mut(*part).schedule = Some(rules);
                self.publish(ctx);
            }
            // A reply is parsed by its request, so there are no other pairs.
            _ => {}
        }
    }

    /// The consumption of each day of a month; used only if that is still the plug's month.
    fn read_days(
        &mut self,
        part: Option<Outlet>,
        of: (u16, u8),
        days: Option<&[(u8, f64)]>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(date) = self.slow_polls.date().filter(|date| (date.year, date.month) == of) else { return };
        self.relays.get_mut(part).meter.get_or_insert_default().read_days(days, date, ctx.now);
        self.meter_was_read(part, MeterValue::Today, ctx);
    }

    /// The consumption of each month of a year; used only if that is still the plug's year.
    fn read_months(
        &mut self,
        part: Option<Outlet>,
        of: u16,
        months: Option<&[(u8, f64)]>,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(date) = self.slow_polls.date().filter(|date| date.year == of) else { return };
        self.relays.get_mut(part).meter.get_or_insert_default().read_months(months, date, ctx.now);
        self.meter_was_read(part, MeterValue::Month, ctx);
    }

    fn meter_was_read(&mut self, part: Option<Outlet>, value: MeterValue, ctx: &mut Ctx<'_>) {
        self.publish_energy(part, ctx);
        if let Some(outlet) = part {
            self.relays.sum_up(outlet, value);
            self.publish_energy(None, ctx);
        }
    }

    pub(super) fn failed(&mut self, route: Route, flight: &InFlight, failure: &Failure, ctx: &mut Ctx<'_>) {
        // A plug that restarts may close the connection before it answers.
        if flight.request == Request::Reboot && *failure == Failure::Closed {
            return self.answered(route, flight, Reply::Done, ctx);
        }
        // A poll that the rate limit held back was not sent.
        if !flight.request.changes_something() && *failure != Failure::Throttled {
            self.counters.count_poll(route, false);
        }
        if failure.may_act_later() {
            self.relays.note_stray(&flight.request, flight.deadline);
        }
        if flight.reads_as_well
            && self.switch_and_read.failed(self.reported.firmware(), route, failure)
            && *failure != Failure::Silent
            && self.desired.awaits(&flight.request)
        {
            // The plug is switched alone at once: this says nothing about the route.
            if failure.verdict() == Verdict::PlugRefuses {
                self.heard(route, flight, ctx);
            }
            return;
        }
        if self.slow_polls.ended(&flight.request, false, ctx.now) {
            // An unknown slow poll says nothing about the route either.
            self.publish_first_energy(ctx);
            return self.fail_desired(route, flight, failure, ctx);
        }
        let refusal = failure;
        let failure = if self.hides_block(route, failure) { &Failure::KlapBlocked } else { failure };
        self.reachability.failures.note(route, failure);
        if route == Route::Local
            && self.reachability.routes.tries_other_protocol(flight.protocol, refusal, ctx.now)
        {
            return self.try_other_protocol(flight, failure, ctx);
        }
        if *failure == Failure::Throttled && !self.desired.awaits(&flight.request) {
            return self.poll_throttled(route, failure, ctx);
        }
        self.reachability.last_errors.note(route, failure, ctx.now);
        if flight.only_switches() && failure.verdict() == Verdict::PlugRefuses {
            self.switch_and_read.switched_alone(self.reported.firmware(), route, false);
        }
        match failure.verdict() {
            Verdict::PlugRefuses => self.heard(route, flight, ctx),
            verdict => self.route_failed(route, verdict, ctx),
        }
        self.poll_at(route, self.next_poll(route, flight.started, ctx.now), ctx);
        if route == Route::Local
            && let Some(address) = self.location.take_candidate()
        {
            return self.move_to(address, ctx);
        }
        self.fail_desired(route, flight, failure, ctx);
    }

    /// Whether the plug refuses XOR after it blocked KLAP. Then the block is reported, which the user can lift.
    fn hides_block(&self, route: Route, failure: &Failure) -> bool {
        *failure == Failure::Refused
            && self.reachability.failures.get(route) == Some(&Failure::KlapBlocked)
            && self.reachability.routes.protocol_to_speak() == LanProtocol::Xor
    }

    /// The plug refuses the protocol that it was believed to speak. What was to be sent goes out in the other one at once.
    fn try_other_protocol(&mut self, flight: &InFlight, failure: &Failure, ctx: &mut Ctx<'_>) {
        self.fail_desired(Route::Local, flight, failure, ctx);
        self.try_local_anew();
        self.polls.set(Route::Local, ctx.now);
    }

    /// The rate limit of the cloud held a poll back. That says nothing about a plug that answered lately.
    fn poll_throttled(&mut self, route: Route, failure: &Failure, ctx: &mut Ctx<'_>) {
        if !self.reachability.is_reached(&self.policy, ctx.now) {
            self.route_failed(route, failure.verdict(), ctx);
        }
        self.poll_at(route, ctx.now + polls::pause_after_throttle(&self.policy, self.key), ctx);
    }

    /// Tells the desired values that waited for this request; those that the plug refuses end.
    fn fail_desired(&mut self, route: Route, flight: &InFlight, failure: &Failure, ctx: &mut Ctx<'_>) {
        for (property, part) in self.desired.fail(&flight.request, route, failure, ctx.now) {
            self.end(property, part, Ended::Error(format!("{route}: {failure}")), Some(route), ctx);
        }
    }

    /// An exchange over this route failed, or could not begin.
    pub(super) fn route_failed(&mut self, route: Route, verdict: Verdict, ctx: &mut Ctx<'_>) {
        self.reachability.failed(route, verdict, &self.policy, ctx.now);
        // An answer of the cloud from before its last poll interval proves nothing: the cloud is polled first.
        if route == Route::Local && self.polls.due(Route::Cloud) > ctx.now {
            self.choose_route(ctx);
        }
        self.reachability.note_unserved(self.usable(ctx.cloud));
        self.publish(ctx);
        if route == Route::Local {
            self.location.set_tested();
        }
    }

    fn choose_route(&mut self, ctx: &mut Ctx<'_>) {
        let may_use_local = self.may_use(Route::Local);
        let change = self.reachability.choose_route(may_use_local);
        if let (Some((before, route)), Some(name)) = (change, &self.name) {
            let detail = match self.why_left(before, ctx) {
                Some(failure) => format!("{before} -> {route} ({before}: {failure})"),
                None => format!("{before} -> {route}"),
            };
            ctx.notify(NoticeKind::RouteChanged, Some(name), Some(route), detail);
        }
    }

    /// Why this route does not serve the plug any more. `None` if it works: the LAN is used as soon as it answers.
    fn why_left(&self, route: Route, ctx: &Ctx<'_>) -> Option<Failure> {
        let mut failures = self.reachability.failures.clone();
        let hangs = self.exchanges.get(route).is_some();
        failures.complete(route, self.why_unusable(route, ctx), hangs);
        failures.get(route).filter(|_| route == Route::Local).cloned()
    }
}
