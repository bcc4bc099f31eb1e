//! One plug: its parts, and the flow of one turn.
//!
//! An event comes ([`Plug::command`], [`Plug::done`], [`Plug::sighted`], …) and updates the parts: a command sets what is
//! desired, a reading what is reported. Then [`Plug::advance`] takes the steps that are due: it compares the two, delivers
//! what is desired, polls, and decides whether the plug is offline. At most one exchange is in flight on each route.
//!
//! The parts know nothing of each other; what concerns several of them is decided here and in `commands` (a command comes),
//! `answers` (an exchange ended), `readings` (a reading came) and `publish`.

mod answers;
mod commands;
mod desired;
mod exchanges;
mod late_execution;
mod location;
mod meter;
mod polls;
mod publish;
mod published;
mod reachability;
mod readings;
mod relays;
mod reported;
mod sightings;
mod slow_polls;
mod snapshot;
mod sums;
mod switch_and_read;
#[cfg(test)]
mod test_support;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bridge::counters::{CommandDurations, PlugCounters};
use crate::bridge::delivery::{Delivery, DeliveryJob};
use crate::bridge::desired::Desired;
use crate::bridge::event::{
    Action, CloudStatus, Ended, Exchange, ExchangeId, Identity, KnownPlug, Notice, NoticeKind, PlugKey,
    Target, Update,
};
use crate::bridge::interner::Interner;
use crate::bridge::poll_limiter::{self, PollLimiter};
use crate::bridge::route::{Plan, RoutePolicy, RoutePreference};
use crate::model::{Address, Failure, KLAP_PORT, LanProtocol, PlugName, Route, Verdict};
use crate::smarthome::message::{Outlet, Request};
use desired::DesiredState;
use exchanges::{Exchanges, InFlight, LOST_AFTER};
use location::Location;
use polls::Polls;
use reachability::Reachability;
use relays::Relays;
use reported::Reported;
use slow_polls::{NextSlowPoll, SlowPolls};
use switch_and_read::SwitchAndRead;

/// A plug for which nothing is due is looked at this often nevertheless.
const MAX_SLEEP: Duration = Duration::from_secs(120);

/// Where a plug listens for KLAP: at this port, or at the usual one.
pub(in crate::bridge) type KlapPort = Option<u16>;

/// One plug.
#[derive(Debug)]
pub(in crate::bridge) struct Plug {
    pub(in crate::bridge) key: PlugKey,
    /// `None` before the first answer of a plug of which only the address is known.
    pub(in crate::bridge) name: Option<PlugName>,
    /// What it is called in the log.
    label: Arc<str>,
    pub(in crate::bridge) identity: Identity,
    /// Shared by all plugs that are reached in the same way.
    policy: Arc<RoutePolicy>,
    location: Location,
    klap_port: KlapPort,
    reachability: Reachability,
    exchanges: Exchanges,
    switch_and_read: SwitchAndRead,
    polls: Polls,
    slow_polls: SlowPolls,
    desired: DesiredState,
    reported: Reported,
    relays: Relays,
    counters: PlugCounters,
}

/// What the bridge lends to a plug for one turn.
pub(in crate::bridge) struct Ctx<'a> {
    pub(in crate::bridge) now: Instant,
    pub(in crate::bridge) cloud: &'a CloudStatus,
    pub(in crate::bridge) actions: &'a mut VecDeque<Action>,
    pub(in crate::bridge) serial: &'a mut u32,
    pub(in crate::bridge) poll_limiter: &'a mut PollLimiter,
    pub(in crate::bridge) interner: &'a mut Interner,
    pub(in crate::bridge) durations: &'a mut CommandDurations,
}

impl Plug {
    pub(in crate::bridge) fn new(
        key: PlugKey,
        identity: Identity,
        policy: Arc<RoutePolicy>,
        now: Instant,
    ) -> Self {
        Self {
            key,
            name: None,
            label: "".into(),
            identity,
            policy,
            location: Location::default(),
            klap_port: None,
            reachability: Reachability::new(now),
            exchanges: Exchanges::default(),
            switch_and_read: SwitchAndRead::default(),
            polls: Polls::new(key, now),
            slow_polls: SlowPolls::default(),
            desired: DesiredState::default(),
            reported: Reported::default(),
            relays: Relays::default(),
            counters: PlugCounters::default(),
        }
    }

    // --- events -----------------------------------------------------------------------------------------------

    /// Names the plug, once.
    pub(in crate::bridge) fn set_name(&mut self, name: PlugName) {
        self.label = name.shared();
        self.name = Some(name);
    }

    /// Names the outlets of a strip, in their order.
    pub(in crate::bridge) fn set_outlet_names(&mut self, names: Vec<PlugName>) {
        self.relays.set_outlet_names(names);
    }

    /// Takes the address that the user wrote.
    pub(in crate::bridge) fn set_configured_address(&mut self, address: Option<Address>, ctx: &mut Ctx<'_>) {
        if let Some(address) = self.location.configure(address) {
            self.move_to(address, ctx);
            self.location.set_tested();
        }
        self.label_by_address();
    }

    fn label_by_address(&mut self) {
        if self.name.is_none() {
            let address = self.location.current();
            self.label = address.map_or_else(|| "a plug".into(), |address| address.to_string().into());
        }
    }

    /// Takes the policy that the user wrote.
    pub(in crate::bridge) fn adopt_policy(&mut self, policy: Arc<RoutePolicy>, now: Instant) {
        if self.policy != policy {
            self.policy = policy;
            self.polls.set_all(now);
        }
    }

    /// Takes the address of an earlier run. The configured address is tried next if the plug is not there any more.
    pub(in crate::bridge) fn remembered_at(&mut self, address: Option<Address>) {
        self.location.restore(address, self.was_tried());
    }

    /// Takes the protocol of an earlier run, and the port for KLAP.
    pub(in crate::bridge) fn remember_protocol(
        &mut self,
        protocol: Option<LanProtocol>,
        klap_port: KlapPort,
    ) {
        self.reachability.routes.remember_protocol(protocol);
        self.klap_port = self.klap_port.or(klap_port);
    }

    /// Another plug answered at this one's address.
    pub(in crate::bridge) fn lost_address(&mut self) {
        self.location.lose();
    }

    /// The cloud works again, or another account is used: what was seen of the old one no longer counts.
    pub(in crate::bridge) fn cloud_changed(&mut self, now: Instant) {
        self.reachability.routes.forget(Route::Cloud);
        self.polls.restart_cloud(self.key, now);
    }

    /// The cloud cannot be used any more.
    pub(in crate::bridge) fn cloud_closed(&mut self, ctx: &mut Ctx<'_>) {
        self.reachability.note_unserved(self.usable(ctx.cloud));
        self.publish(ctx);
    }

    /// Reads the plug now, over each route.
    pub(in crate::bridge) fn refresh(&mut self, now: Instant) {
        self.polls.set_all(now);
    }

    /// Reads the plug over the LAN now.
    pub(in crate::bridge) fn read_ahead(&mut self, now: Instant) {
        self.polls.set(Route::Local, now);
    }

    /// The plug is removed: ends all that is under way.
    pub(in crate::bridge) fn retire(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(desired) = self.desired.first() {
            let (property, part) = (desired.property(), desired.part);
            self.end(property, part, Ended::NoPlug("the plug was removed".to_owned()), None, ctx);
        }
        for route in Route::ALL {
            self.abandon(route, ctx);
        }
    }

    // --- steps ------------------------------------------------------------------------------------------------

    /// Takes every step that is due. Returns when the next one is.
    pub(in crate::bridge) fn advance(&mut self, ctx: &mut Ctx<'_>) -> Instant {
        let mut wake = Wake(ctx.now + MAX_SLEEP);
        self.give_up_lost(ctx);
        self.expire(ctx);
        let is_delivering = self.deliver(&mut wake, ctx);
        if !is_delivering {
            self.poll(&mut wake, ctx);
        }
        self.check_offline(&mut wake, ctx);
        for (_, flight) in self.exchanges.iter() {
            wake.by(flight.deadline + LOST_AFTER);
        }
        for desired in self.desired.iter() {
            wake.by(desired.deadline);
        }
        wake.0
    }

    /// Gives up the exchanges that their transport lost.
    fn give_up_lost(&mut self, ctx: &mut Ctx<'_>) {
        for route in Route::ALL {
            let Some(flight) = self.exchanges.lost(route, ctx.now) else { continue };
            self.abandon(route, ctx);
            self.failed(route, &flight, &Failure::Silent, ctx);
        }
    }

    /// Ends the desired values whose time is over. A change that is in flight for one is abandoned.
    fn expire(&mut self, ctx: &mut Ctx<'_>) {
        while self.desired.expired(ctx.now).is_some() {
            let unusable = Route::ALL.map(|route| self.why_unusable(route, ctx));
            let Some(desired) = self.desired.expired(ctx.now) else { return };
            let in_flight = Route::ALL.map(|route| {
                self.exchanges.get(route).is_some_and(|flight| desired.is_set_by(&flight.request))
            });
            for ((route, unusable), hangs) in Route::ALL.into_iter().zip(unusable).zip(in_flight) {
                desired.failures.complete(route, unusable, hangs);
            }
            let (property, part, why) = (desired.property(), desired.part, desired.failure_text());
            let is_change = desired.request().changes_something();
            for route in Route::ALL.into_iter().filter(|route| is_change && in_flight[route.index()]) {
                self.abandon(route, ctx);
            }
            self.end(property, part, Ended::Error(format!("not done in time ({why})")), None, ctx);
        }
    }

    /// Delivers the desired value that comes first. False if none is due.
    fn deliver(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) -> bool {
        let Some(job) = self.desired.next_job(ctx.now) else {
            self.desired.delivery = None;
            return false;
        };
        let delivery = match self.desired.delivery.take() {
            Some(delivery) if delivery.job == job => delivery,
            _ => Box::new(Delivery::new(job.clone(), ctx.now)),
        };
        let mut earlier_failed = true;
        for (route, head_start) in self.plan(&job, ctx.cloud).iter() {
            if let Some(due) = delivery.due(route, head_start, earlier_failed) {
                self.try_route(route, due, &job, wake, ctx);
            }
            earlier_failed &= delivery.has_failed(route) && !self.exchanges.carries(route, &job);
        }
        self.desired.delivery = Some(delivery);
        job.not_before <= ctx.now
    }

    /// The routes for this job, that of the last confirmation first.
    fn plan(&self, job: &DeliveryJob, cloud: &CloudStatus) -> Plan {
        let plan = self.reachability.routes.plan(self.usable(cloud), &self.policy);
        let proven = self.desired.get(job.property, job.part).and_then(Desired::proven_route);
        plan.led_by(proven, self.policy.cloud_after)
    }

    fn try_route(
        &mut self,
        route: Route,
        due: Instant,
        job: &DeliveryJob,
        wake: &mut Wake,
        ctx: &mut Ctx<'_>,
    ) {
        if self.exchanges.carries(route, job) {
            return;
        }
        if due > ctx.now {
            return wake.by(due);
        }
        if let Some(flight) = self.exchanges.get(route) {
            // An older exchange is in flight. Its answer takes milliseconds; if it does not come, it is given up.
            let given_up_at = flight.started + self.policy.cloud_after;
            if given_up_at > ctx.now {
                return wake.by(given_up_at);
            }
        }
        self.start(route, job.request.clone(), true, wake, ctx);
    }

    /// Reads the plug over each route where that is due.
    fn poll(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        for route in Route::ALL {
            if self.is_polled(route, ctx.cloud) {
                self.poll_route(route, wake, ctx);
            }
        }
        self.poll_slowly(wake, ctx);
    }

    /// The cloud is polled only if the LAN does not reach the plug.
    fn is_polled(&self, route: Route, cloud: &CloudStatus) -> bool {
        let is_needed = match route {
            Route::Local => true,
            Route::Cloud => {
                let is_on_lan = self.usable(cloud)[Route::Local.index()];
                let is_reached = is_on_lan && !self.reachability.is_resting(Route::Local);
                !is_reached && *cloud != CloudStatus::Off
            }
        };
        is_needed && self.may_use(route)
    }

    fn poll_route(&mut self, route: Route, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        if self.exchanges.get(route).is_some() {
            return;
        }
        if self.polls.due(route) > ctx.now {
            return wake.by(self.polls.due(route));
        }
        if !self.usable(ctx.cloud)[route.index()] {
            if let Some(failure) = self.why_unusable(route, ctx) {
                self.reachability.last_errors.note(route, &failure, ctx.now);
            }
            self.route_failed(route, Verdict::RouteDown, ctx);
            self.polls.set(route, self.next_poll(route, ctx.now, ctx.now));
            return wake.by(self.polls.due(route));
        }
        // A read that shows what an older command did late is part of the newer command.
        let is_urgent = self.relays.check_at(ctx.now).is_none() && self.is_watched(ctx.now);
        if route == Route::Local
            && !is_urgent
            && let Some(slot) = self.polls.defer(ctx.poll_limiter, ctx.now)
        {
            return wake.by(slot);
        }
        self.start(route, Request::SysInfo, is_urgent, wake, ctx);
    }

    /// Sends the slow poll that has waited longest, over the route that serves the plug.
    fn poll_slowly(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        let Some(route) = self.slow_poll_route() else { return };
        let request = match self.slow_polls.next(route, ctx.poll_limiter, ctx.now) {
            Some(NextSlowPoll::Now(request)) => request,
            Some(NextSlowPoll::At(due)) => return wake.by(due),
            None => return,
        };
        if self.start(route, request.clone(), false, wake, ctx) {
            self.slow_polls.sent(&request, route, &self.policy, ctx.now);
        }
    }

    /// The route that serves the plug, if it is up and free.
    fn slow_poll_route(&self) -> Option<Route> {
        let is_free = |route: &Route| self.reachability.is_up(*route) && self.exchanges.get(*route).is_none();
        self.reachability.serving().filter(is_free)
    }

    fn check_offline(&mut self, wake: &mut Wake, ctx: &mut Ctx<'_>) {
        match self.reachability.offline_at(&self.policy, ctx.now) {
            Some(at) if at > ctx.now => wake.by(at),
            Some(_) => self.go_offline(ctx),
            None => {}
        }
    }

    /// When the plug is read next over this route, after a read that started then.
    fn next_poll(&self, route: Route, started: Instant, now: Instant) -> Instant {
        let mut pause = self.reachability.routes.poll_pause(route, &self.policy, now);
        if self.reported.reading().is_none() && self.reachability.is_up(route) {
            pause = polls::first_pause(pause, self.key);
        }
        (started + pause).max(now)
    }

    /// Polls then, or earlier if an older command may have done something that no reading shows yet.
    fn poll_at(&mut self, route: Route, at: Instant, ctx: &Ctx<'_>) {
        let watch_at = polls::watch_at(self.relays.check_at(ctx.now), self.is_watched(ctx.now), ctx.now);
        self.polls.set(route, watch_at.map_or(at, |watch_at| watch_at.min(at)));
    }

    fn is_watched(&self, now: Instant) -> bool {
        self.relays.is_watched(self.reported.requested_at(), now)
    }

    // --- exchanges --------------------------------------------------------------------------------------------

    /// Sends a request, in place of what is in flight on this route. False if the same one was sent just now.
    fn start(
        &mut self,
        route: Route,
        request: Request,
        urgent: bool,
        wake: &mut Wake,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let combined = self.combined_request(route, &request);
        let reads_as_well = combined.is_some();
        let sent = combined.unwrap_or_else(|| request.clone());
        let protocol = self.reachability.routes.protocol_to_speak();
        if let Some(at) = self.exchanges.too_soon_until(route, protocol, &sent, ctx.now) {
            wake.by(at);
            return false;
        }
        let Some(target) = self.target(route) else { return false };
        let unanswered_since = self.exchanges.get(route).map_or(ctx.now, |flight| flight.unanswered_since);
        self.abandon(route, ctx);
        let timeout = match route {
            Route::Local => self.policy.local_timeout,
            Route::Cloud => self.policy.cloud_timeout,
        };
        let deadline = self.desired.deadline_of(&request).into_iter().fold(ctx.now + timeout, Instant::min);
        let id = ctx.next_exchange(self.key);
        let started = ctx.now;
        let flight = InFlight { id, request, protocol, reads_as_well, started, unanswered_since, deadline };
        self.exchanges.begin(route, flight, &sent, ctx.poll_limiter);
        ctx.actions.push_back(Action::Perform(Exchange {
            id,
            plug: self.key,
            label: Arc::clone(&self.label),
            target,
            request: sent,
            deadline,
            urgent,
            known_info: self.reported.device().cloned(),
        }));
        true
    }

    /// The request that switches and reads, if this one switches a single relay and the firmware takes both.
    fn combined_request(&self, route: Route, request: &Request) -> Option<Request> {
        let Request::SetRelay(state) = *request else { return None };
        let reading = self.reported.reading()?;
        let has_outlets = !reading.outlets.is_empty() || self.relays.outlet_count() > 0;
        let hangs = self.exchanges.get(route).is_some_and(|flight| flight.reads_as_well);
        let may_be_sent = self.switch_and_read.may_be_sent(self.reported.firmware(), hangs);
        (reading.relay.is_some() && !has_outlets && may_be_sent).then_some(Request::SetRelayAndRead(state))
    }

    fn target(&self, route: Route) -> Option<Target> {
        Some(match route {
            Route::Local => {
                let protocol = self.reachability.routes.protocol_to_speak();
                let address = self.location.current()?;
                let address = match protocol {
                    LanProtocol::Xor => address.clone(),
                    LanProtocol::Klap => address.with_port(self.klap_port.unwrap_or(KLAP_PORT)),
                };
                Target::Local { address, protocol, expect: self.identity.clone() }
            }
            Route::Cloud => Target::Cloud { device_id: self.identity.device_id.clone()? },
        })
    }

    /// Drops what is in flight on this route. The plug may carry it out nevertheless.
    fn abandon(&mut self, route: Route, ctx: &mut Ctx<'_>) {
        let Some(flight) = self.exchanges.end(route, false, ctx.poll_limiter, ctx.now) else { return };
        if flight.reads_as_well {
            self.switch_and_read.given_up(self.reported.firmware(), route);
        }
        ctx.actions.push_back(Action::Abandon(flight.id));
        self.relays.note_stray(&flight.request, flight.deadline);
    }

    /// The routes that can be tried now.
    fn usable(&self, cloud: &CloudStatus) -> [bool; 2] {
        [
            self.may_use(Route::Local) && self.location.current().is_some(),
            self.may_use(Route::Cloud) && matches!(cloud, CloudStatus::Ok | CloudStatus::Down(_)),
        ]
    }

    /// Whether the user allows this route, and the plug can be named on it.
    fn may_use(&self, route: Route) -> bool {
        match (route, self.policy.preference) {
            (Route::Local, RoutePreference::Cloud) | (Route::Cloud, RoutePreference::Local) => false,
            (Route::Local, _) => true,
            (Route::Cloud, _) => self.identity.device_id.is_some(),
        }
    }

    /// Why a route that the user allows cannot be tried.
    fn why_unusable(&self, route: Route, ctx: &Ctx<'_>) -> Option<Failure> {
        match (route, ctx.cloud) {
            _ if !self.may_use(route) => None,
            (Route::Local, _) => self.location.current().is_none().then_some(Failure::NoAddress),
            (Route::Cloud, CloudStatus::Stopped(why)) => Some(Failure::CloudStopped(why.clone())),
            (Route::Cloud, _) => None,
        }
    }

    // --- facts ------------------------------------------------------------------------------------------------

    pub(in crate::bridge) fn is_online(&self) -> bool {
        self.reachability.is_online()
    }

    pub(in crate::bridge) fn is_served_over(&self, route: Route) -> bool {
        self.is_online() && self.reachability.serving() == Some(route)
    }

    /// Whether the first attempt to read it has ended.
    pub(in crate::bridge) fn was_tried(&self) -> bool {
        self.reachability.was_tried()
    }

    /// Whether a search on the LAN would help.
    pub(in crate::bridge) fn is_missing(&self) -> bool {
        self.may_use(Route::Local)
            && (self.location.current().is_none() || self.reachability.is_resting(Route::Local))
    }

    /// Whether it answers at its address on the LAN.
    pub(in crate::bridge) fn is_here(&self) -> bool {
        self.reachability.is_up(Route::Local)
    }

    /// Whether it answers on the LAN, or answered the XOR discovery that is running.
    pub(in crate::bridge) fn is_heard(&self, now: Instant) -> bool {
        self.reachability.routes.is_heard(now)
    }

    /// Where it listens for KLAP, if it is believed to speak that.
    pub(in crate::bridge) fn klap(&self) -> Option<KlapPort> {
        (self.reachability.routes.protocol() == Some(LanProtocol::Klap)).then_some(self.klap_port)
    }

    /// Whether its LAN does not work.
    pub(in crate::bridge) fn is_lost_on_lan(&self) -> bool {
        self.reachability.is_resting(Route::Local)
    }

    /// Whether it would wake up at this moment only for its usual poll over the LAN, and soon.
    pub(in crate::bridge) fn may_be_read_ahead(&self, wakes: Instant, now: Instant) -> bool {
        self.polls.is_next(wakes)
            && self.is_here()
            && self.desired.is_empty()
            && wakes <= now + poll_limiter::ahead(self.policy.poll_interval)
    }

    /// The route of this exchange, unless it was abandoned.
    pub(in crate::bridge) fn route_of(&self, exchange: ExchangeId) -> Option<Route> {
        self.exchanges.route_of(exchange)
    }

    /// Where this exchange went, if it went out over KLAP.
    pub(in crate::bridge) fn klap_port_of(&self, exchange: ExchangeId) -> Option<KlapPort> {
        let flight = self.exchanges.get(self.route_of(exchange)?)?;
        (flight.protocol == LanProtocol::Klap).then_some(self.klap_port)
    }

    pub(in crate::bridge) fn address(&self) -> Option<&Address> {
        self.location.current()
    }

    pub(in crate::bridge) fn configured_address(&self) -> Option<&Address> {
        self.location.configured()
    }

    /// Each address where the plug may be.
    pub(in crate::bridge) fn candidate_addresses(&self) -> impl Iterator<Item = &Address> {
        self.location.all()
    }

    pub(in crate::bridge) fn outlet_names(&self) -> impl Iterator<Item = &PlugName> {
        self.relays.outlet_names().iter()
    }

    /// What the store keeps of it.
    pub(in crate::bridge) fn known(&self) -> Option<KnownPlug> {
        Some(KnownPlug {
            device_id: self.identity.device_id.clone()?,
            mac: self.identity.mac,
            name: self.name.clone()?,
            address: self.location.current().cloned(),
            outlets: self.outlet_names().cloned().collect(),
            home: self.location.configured().cloned(),
            protocol: self.reachability.routes.last_answered_in(),
            klap_port: self.klap_port,
        })
    }

    fn remember(&self, ctx: &mut Ctx<'_>) {
        ctx.actions.extend(self.known().map(Action::Remember));
    }

    /// What this part is called, if it has a name already.
    fn name_of(&self, part: Option<Outlet>) -> Option<&PlugName> {
        match part {
            None => self.name.as_ref(),
            Some(_) => self.relays.get(part)?.name.as_ref(),
        }
    }
}

impl Ctx<'_> {
    fn next_exchange(&mut self, plug: PlugKey) -> ExchangeId {
        *self.serial = self.serial.wrapping_add(1);
        ExchangeId::new(plug, *self.serial)
    }

    pub(in crate::bridge) fn publish(&mut self, update: Update) {
        self.actions.push_back(Action::Publish(update));
    }

    pub(in crate::bridge) fn notify(
        &mut self,
        kind: NoticeKind,
        plug: Option<&PlugName>,
        route: Option<Route>,
        detail: String,
    ) {
        self.publish(Update::Notice(Notice { kind, plug: plug.cloned(), route, detail }));
    }
}

/// The earliest moment of several.
struct Wake(Instant);

impl Wake {
    fn by(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its texts, its retained messages and its connection it takes about four times as much.
    #[test]
    fn the_record_of_a_plug_is_small() {
        assert!(size_of::<Plug>() <= 1040, "{} bytes", size_of::<Plug>());
    }
}
