//! One plug: what it reported, what is wanted of it, what is under way, when it is read next, and whether it can be
//! reached.
//!
//! A command only ever sets a wish, a reading only ever sets what is reported; [`Plug::advance`] compares the two and
//! takes the next step. At most one exchange is in flight on each route.

mod desired;
mod exchanges;
mod polls;
mod publish;
mod relays;
mod reported;
mod sums;
mod switch_and_read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bridge::delivery::Delivery;
use crate::bridge::desired::Desired;
use crate::bridge::event::{
    Action, CloudStatus, Ended, ExchangeId, Identity, KnownPlug, Notice, NoticeKind, PlugKey, Update,
};
use crate::bridge::failures::Failures;
use crate::bridge::interner::Interner;
use crate::bridge::poll_limiter::PollLimiter;
use crate::bridge::route::{RoutePolicy, RoutePreference, Routes};
use crate::model::{Address, Availability, LanProtocol, PlugName, Route};
use crate::smarthome::message::{Date, Reading, Request};
use polls::SlowPoll;
use relays::Relay;
use sums::Sums;
use switch_and_read::SwitchAndRead;

/// A plug with nothing due is looked at this often all the same.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(120);
/// The right wing keeps its deadlines; should it ever lose an exchange, the bridge lets go of it this much later.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// So many intervals of its polls an answer over the cloud counts for.
const FRESH_POLLS: u32 = 5;
/// No question is put and no request made over the same route again within this time, whatever fails, unless a command
/// came or was confirmed since: firmwares take a flood of requests badly, and cloud calls are counted.
const REPEAT_AFTER: Duration = Duration::from_millis(250);

/// One plug.
#[derive(Debug)]
pub(in crate::bridge) struct Plug {
    pub(in crate::bridge) key: PlugKey,
    /// What it is called; a plug that only an address is known of has no name before its first answer.
    pub(in crate::bridge) name: Option<PlugName>,
    label: Arc<str>,
    pub(in crate::bridge) identity: Identity,
    /// One for all plugs that are reached in the same way.
    policy: Arc<RoutePolicy>,
    /// The address that the user wrote.
    configured_address: Option<Address>,
    /// Where it is believed to be.
    address: Option<Address>,
    /// Where it answered last.
    answered_at: Option<Address>,
    /// Where it was sighted as well, while it still answered at `address` or had not been tried there.
    candidate_address: Option<Address>,
    /// `address` comes from a sighting and has neither answered nor failed since.
    untested: bool,
    routes: Routes,
    failures: Failures,
    in_flight: [Option<InFlight>; 2],
    /// What was asked last on each route.
    last_asked: [LastAsked; 2],
    /// Whether its firmware is switched and read in one request.
    switch_and_read: SwitchAndRead,
    /// When a command last came or was confirmed: what was asked before may be asked again at once.
    stirred: Option<Instant>,
    desired: Vec<Desired>,
    delivery: Option<Box<Delivery>>,
    reported: Option<Reported>,
    /// The device's own relay, or what a strip shows as a whole.
    device: Relay,
    /// The outlets of a strip.
    outlets: Vec<Relay>,
    /// What they are called.
    outlet_list: Arc<[PlugName]>,
    /// Of a strip whose outlets have meters.
    sums: Option<Box<Sums>>,
    /// When the plug last confirmed that it changed something.
    acted: Option<Instant>,
    poll_at: [Instant; 2],
    /// The place in a turn that was given out when many plugs wanted to be read over the LAN; it counts while `poll_at` is it.
    poll_slot: Option<Instant>,
    slow_polls: Vec<SlowPoll>,
    /// The plug's own date, for what its meter calls today.
    date: Option<Date>,
    cloud_connected: Option<bool>,
    born: Instant,
    last_heard: Option<Instant>,
    misses: u32,
    availability: Option<Availability>,
    serving: Option<Route>,
    /// Each route that could be used has failed since the last answer.
    unserved: bool,
}

/// What the bridge hands to a plug so that it can act.
pub(in crate::bridge) struct Ctx<'a> {
    pub(in crate::bridge) now: Instant,
    pub(in crate::bridge) cloud: &'a CloudStatus,
    pub(in crate::bridge) actions: &'a mut VecDeque<Action>,
    pub(in crate::bridge) serial: &'a mut u32,
    pub(in crate::bridge) poll_limiter: &'a mut PollLimiter,
    pub(in crate::bridge) interner: &'a mut Interner,
}

#[derive(Debug, Clone)]
struct InFlight {
    id: ExchangeId,
    request: Request,
    /// The request went out as one that reads as well.
    reads_as_well: bool,
    started: Instant,
    /// Since when its route has been asked without an answer: from before its start, if it took a hung one's place.
    unanswered_since: Instant,
    deadline: Instant,
}

/// What was asked last on one route, and when.
#[derive(Debug, Default)]
struct LastAsked {
    sysinfo: Option<Instant>,
    /// Something else. Kept no longer than it counts: at most moments nothing but the state was asked for lately.
    other: Option<Box<(Request, Instant)>>,
}

impl LastAsked {
    /// When this was asked last, unless something else was since.
    fn at(&self, request: &Request) -> Option<Instant> {
        match request {
            Request::SysInfo => self.sysinfo,
            _ => self.other.as_ref().filter(|other| other.0 == *request).map(|other| other.1),
        }
    }

    fn note(&mut self, request: &Request, now: Instant) {
        match request {
            Request::SysInfo => {
                self.sysinfo = Some(now);
                self.other.take_if(|other| other.1 + REPEAT_AFTER <= now);
            }
            _ => self.other = Some(Box::new((request.clone(), now))),
        }
    }
}

/// Whether a request is one of those that take turns.
fn is_limited(route: Route, request: &Request) -> bool {
    route == Route::Local && !request.changes_something()
}

impl InFlight {
    /// A question over the LAN leaves its turn to others.
    fn leaves(&self, route: Route, was_answered: bool, ctx: &mut Ctx<'_>) {
        if !is_limited(route, &self.request) {
            return;
        }
        if was_answered {
            ctx.poll_limiter.answered(self.started, ctx.now);
        } else {
            ctx.poll_limiter.ended(self.started, ctx.now);
        }
    }
}

/// What was last read back.
#[derive(Debug, Clone)]
struct Reported {
    reading: Reading,
    /// When the question was asked that this answers; an answer to an older question is older news.
    asked: Instant,
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
            configured_address: None,
            address: None,
            answered_at: None,
            candidate_address: None,
            untested: false,
            routes: Routes::default(),
            failures: Failures::default(),
            in_flight: [None, None],
            last_asked: Default::default(),
            switch_and_read: SwitchAndRead::default(),
            stirred: None,
            desired: Vec::new(),
            delivery: None,
            reported: None,
            device: Relay::default(),
            outlets: Vec::new(),
            outlet_list: Arc::default(),
            sums: None,
            acted: None,
            // The cloud's calls are counted.
            poll_at: [now, now + Duration::from_millis(key.0.into())],
            poll_slot: None,
            slow_polls: Vec::new(),
            date: None,
            cloud_connected: None,
            born: now,
            last_heard: None,
            misses: 0,
            availability: None,
            serving: None,
            unserved: false,
        }
    }

    // --- what the bridge tells it -----------------------------------------------------------------------------

    /// Gives the plug its name, once.
    pub(in crate::bridge) fn set_name(&mut self, name: PlugName) {
        self.label = name.shared();
        self.name = Some(name);
    }

    /// The user wrote where the plug is.
    pub(in crate::bridge) fn set_configured_address(&mut self, home: Option<Address>, ctx: &mut Ctx<'_>) {
        if self.configured_address != home {
            self.configured_address.clone_from(&home);
            if let Some(home) = home.filter(|home| self.address.as_ref() != Some(home)) {
                self.move_to(home, ctx);
                self.untested = false;
            }
        }
        if self.name.is_none() {
            self.label =
                self.address.as_ref().map_or_else(|| "a plug".into(), |address| address.to_string().into());
        }
    }

    /// The user wrote another policy.
    pub(in crate::bridge) fn adopt_policy(&mut self, policy: Arc<RoutePolicy>, now: Instant) {
        if self.policy != policy {
            self.policy = policy;
            self.poll_at = [now; 2];
        }
    }

    /// Somebody saw the plug at this address. Believed at once where the known address does not answer, and tried next
    /// where another sighting is just being tried: one of the two may be a reflection.
    pub(in crate::bridge) fn sighted(&mut self, address: Address, ctx: &mut Ctx<'_>) {
        self.note_protocol(LanProtocol::Xor, ctx);
        if self.address.as_ref() == Some(&address) {
            self.candidate_address = None;
            if !self.routes.is_up(Route::Local) {
                self.poll_at[Route::Local.index()] = ctx.now;
            }
        } else if self.address.is_some() && (self.routes.is_up(Route::Local) || self.untested) {
            self.candidate_address = Some(address);
        } else {
            self.move_to(address, ctx);
        }
    }

    /// The plug was seen at this address to speak KLAP. The address is tried when the known one fails, or there is none.
    /// Whether this run did not know that it speaks KLAP.
    pub(in crate::bridge) fn sighted_with_klap(&mut self, address: Address, ctx: &mut Ctx<'_>) -> bool {
        let was_seen = self.routes.has_seen(LanProtocol::Klap);
        self.note_protocol(LanProtocol::Klap, ctx);
        if !self.routes.has_seen(LanProtocol::Klap) {
            return false;
        }
        match &self.address {
            Some(known) if *known == address => {}
            Some(_) => self.candidate_address = Some(address),
            None => self.move_to(address, ctx),
        }
        self.show(ctx);
        !was_seen
    }

    fn note_protocol(&mut self, protocol: LanProtocol, ctx: &mut Ctx<'_>) {
        let believed = self.routes.protocol();
        self.routes.saw(protocol, ctx.now);
        if self.routes.protocol() != believed {
            self.remember(ctx);
        }
    }

    /// The protocol that an earlier run believed it to speak.
    pub(in crate::bridge) fn remember_protocol(&mut self, protocol: Option<LanProtocol>) {
        self.routes.remember_protocol(protocol);
    }

    /// Where the plug was in an earlier run. Should it be gone from there, it is tried where the user wrote.
    pub(in crate::bridge) fn remembered_at(&mut self, address: Option<Address>) {
        self.answered_at = self.answered_at.take().or_else(|| address.clone());
        let is_settled = self.address.is_some() && self.was_tried();
        if let Some(address) = address.filter(|address| !is_settled && self.address.as_ref() != Some(address))
        {
            self.candidate_address = self.address.replace(address);
        }
    }

    /// Its address turned out to be another plug's. Where the user wrote that it lives it may come back to.
    pub(in crate::bridge) fn lost_address(&mut self) {
        self.address.clone_from(&self.configured_address);
    }

    /// The cloud works again, or is another: what was seen of it no longer counts.
    pub(in crate::bridge) fn cloud_changed(&mut self, now: Instant) {
        self.routes.forget(Route::Cloud);
        self.poll_at[Route::Cloud.index()] = now + Duration::from_millis(u64::from(self.key.0) * 10);
    }

    /// The cloud cannot be used any more.
    pub(in crate::bridge) fn cloud_closed(&mut self, ctx: &mut Ctx<'_>) {
        self.note_unserved(ctx);
        self.show(ctx);
    }

    /// Read it soon.
    pub(in crate::bridge) fn refresh(&mut self, now: Instant) {
        self.poll_at = [now; 2];
    }

    /// Everything of the plug that the broker shows.
    pub(in crate::bridge) fn republish(&mut self, ctx: &mut Ctx<'_>) {
        self.forget_shown();
        for name in self.parts().filter_map(|part| self.name_of(part)) {
            ctx.publish(Update::Expected(name.clone()));
        }
        if let Some(availability) = self.availability {
            self.tell_availability(availability, ctx);
        }
        self.show(ctx);
        for part in self.parts() {
            self.show_energy(part, ctx);
        }
    }

    /// What was told of the plug with a date.
    pub(in crate::bridge) fn tell_times(&mut self, ctx: &mut Ctx<'_>) {
        for part in self.parts() {
            let relay = self.relay_mut(part);
            if relay.on_since.is_some() || relay.until.is_some() {
                relay.shown.state = None;
            }
        }
        self.show(ctx);
    }

    /// Takes every step that is due, and says when the next one is.
    pub(in crate::bridge) fn advance(&mut self, ctx: &mut Ctx<'_>) -> Instant {
        self.let_go_of_lost(ctx);
        self.expire(ctx);
        let mut wake = Wake(ctx.now + LOOK_AT_LEAST_EVERY);
        let job = self.job(ctx.now);
        let is_due = job.as_ref().is_some_and(|job| job.not_before <= ctx.now);
        match job {
            Some(job) => self.pursue(&job, &mut wake, ctx),
            None => self.delivery = None,
        }
        if !is_due {
            self.poll(&mut wake, ctx);
        }
        self.judge(&mut wake, ctx);
        for flight in self.in_flight.iter().flatten() {
            wake.by(flight.deadline + LOST_AFTER);
        }
        for wish in self.desired.iter() {
            wake.by(wish.deadline);
        }
        wake.0
    }

    // --- what it tells ----------------------------------------------------------------------------------------

    pub(in crate::bridge) fn is_online(&self) -> bool {
        self.availability == Some(Availability::Online)
    }

    pub(in crate::bridge) fn is_served_over(&self, route: Route) -> bool {
        self.is_online() && self.serving == Some(route)
    }

    /// Whether the last exchange on some route was answered; over the cloud, where polls may be kept back, not long ago.
    fn is_reached(&self, now: Instant) -> bool {
        let fresh = self.policy.cloud_poll_interval * FRESH_POLLS;
        let is_fresh = || self.last_heard.is_some_and(|heard| now < heard + fresh);
        self.routes.is_up(Route::Local) || (self.routes.is_up(Route::Cloud) && is_fresh())
    }

    /// Whether the first attempt to read it has come to an end.
    pub(in crate::bridge) fn was_tried(&self) -> bool {
        self.last_heard.is_some() || self.misses > 0
    }

    /// Whether looking for it on the LAN would help.
    pub(in crate::bridge) fn is_missing(&self) -> bool {
        self.policy.preference != RoutePreference::Cloud
            && (self.address.is_none() || self.routes.is_resting(Route::Local))
    }

    pub(in crate::bridge) fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Where it may be: where it is believed to be, where it answered last, and where the user wrote that it is.
    pub(in crate::bridge) fn candidate_addresses(&self) -> impl Iterator<Item = &Address> {
        let (here, last, home) = (&self.address, &self.answered_at, &self.configured_address);
        let last = last.iter().filter(move |&last| here.as_ref() != Some(last));
        let home = home
            .iter()
            .filter(move |&home| here.as_ref() != Some(home) && self.answered_at.as_ref() != Some(home));
        here.iter().chain(last).chain(home)
    }

    /// Whether it answers at its address on the LAN.
    pub(in crate::bridge) fn is_here(&self) -> bool {
        self.routes.is_up(Route::Local)
    }

    /// Whether it answers XOR on the LAN, on TCP or just now on UDP.
    pub(in crate::bridge) fn speaks_xor(&self, now: Instant) -> bool {
        self.routes.hears_xor(now)
    }

    /// Whether it is known to speak KLAP at this address.
    pub(in crate::bridge) fn speaks_klap_at(&self, address: &Address) -> bool {
        self.routes.has_seen(LanProtocol::Klap) && self.address.as_ref() == Some(address)
    }

    /// The address that the user wrote.
    pub(in crate::bridge) fn configured_address(&self) -> Option<&Address> {
        self.configured_address.as_ref()
    }

    pub(in crate::bridge) fn known(&self) -> Option<KnownPlug> {
        Some(KnownPlug {
            device_id: self.identity.device_id.clone()?,
            mac: self.identity.mac,
            name: self.name.clone()?,
            address: self.address.clone(),
            outlets: self.outlet_names().cloned().collect(),
            home: self.configured_address.clone(),
            protocol: self.routes.protocol(),
        })
    }

    fn remember(&self, ctx: &mut Ctx<'_>) {
        ctx.actions.extend(self.known().map(Action::Remember));
    }

    /// Ends all that is under way, because the plug is removed.
    pub(in crate::bridge) fn retire(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(wish) = self.desired.first() {
            let (slot, part) = (wish.property(), wish.part);
            self.end(slot, part, Ended::Error("the plug was removed".into()), None, ctx);
        }
        for route in Route::ALL {
            self.abandon(route, ctx);
        }
    }
}

impl Ctx<'_> {
    fn cloud_is_open(&self) -> bool {
        matches!(self.cloud, CloudStatus::Ok | CloudStatus::Down(_))
    }

    fn next_exchange(&mut self, plug: PlugKey) -> ExchangeId {
        *self.serial = self.serial.wrapping_add(1);
        ExchangeId::new(plug, *self.serial)
    }

    pub(in crate::bridge) fn publish(&mut self, update: Update) {
        self.actions.push_back(Action::Publish(update));
    }

    pub(in crate::bridge) fn notify(
        &mut self,
        what: NoticeKind,
        plug: Option<&PlugName>,
        route: Option<Route>,
        detail: String,
    ) {
        self.publish(Update::Notice(Notice { kind: what, plug: plug.cloned(), route, detail }));
    }
}

/// The earliest moment of several.
struct Wake(Instant);

impl Wake {
    fn by(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }
}
