//! One plug: what it reported, what is wanted of it, what is under way, when it is read next, and whether it can be
//! reached.
//!
//! A command only ever sets a wish, a reading only ever sets what is reported; [`Plug::advance`] compares the two and
//! takes the next step. At most one exchange is in flight on each route.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::spread;
use super::event::{
    Action, CloudStatus, CommandId, CommandResult, Ended, Exchange, ExchangeId, Happening, Identity,
    KnownPlug, Outcome, PlugInfo, PlugKey, PlugState, Target, Update, What,
};
use super::pursuit::{Job, Pursuit};
use super::route::{Plan, Policy, RoutePolicy, Routes};
use super::wish::{Slot, Step, Want, Wish};
use crate::model::{
    Address, Availability, Failure, Order, PlugName, RelayState, Route, Switch, Verdict, Wishes,
};
use crate::smarthome::message::{Reading, Reply, Request};

/// So many reads in a row must fail, on whatever routes there are …
const MISSES_UNTIL_OFFLINE: u32 = 3;
/// … and so much time must pass without an answer, before a plug is offline.
const SILENCE_UNTIL_OFFLINE: Duration = Duration::from_secs(30);
/// The relay shown by a reading may lag behind the command by about a third of a second.
const SECOND_READING: Duration = Duration::from_millis(350);
/// So many readings that do not show the wished state, and it is said again.
const MISMATCHES_UNTIL_AGAIN: u32 = 3;
/// The right wing keeps its deadlines; should it ever lose an exchange, the bridge lets go of it this much later.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How often a plug is asked whether it is connected to TP-Link's cloud.
const CLOUD_INFO_EVERY: Duration = Duration::from_secs(300);
/// A plug that failed to tell so often in a row is not asked again: some firmwares take the question badly.
const CLOUD_INFO_TRIES: u32 = 2;
/// The signal wavers from reading to reading; on its own it is told no more often than this.
const SIGNAL_EVERY: Duration = Duration::from_secs(60);
/// Two moments of switching on that are computed from whole seconds are the same within this.
const SAME_MOMENT: Duration = Duration::from_millis(2500);

/// One plug.
#[derive(Debug)]
pub(super) struct Plug {
    pub(super) key: PlugKey,
    /// What it is called; a plug that only an address is known of has no name before its first answer.
    pub(super) name: Option<PlugName>,
    label: Arc<str>,
    pub(super) identity: Identity,
    policy: RoutePolicy,
    /// The address that the user wrote.
    home: Option<Address>,
    /// Where it is believed to be.
    address: Option<Address>,
    /// Where it was sighted as well, while it still answered at `address`.
    rumour: Option<Address>,
    routes: Routes,
    lanes: [Option<InFlight>; 2],
    wishes: [Option<Wish>; 4],
    pursuit: Option<Pursuit>,
    reported: Option<Reported>,
    /// When the plug last confirmed that it changed something.
    acted: Option<Instant>,
    /// The state that should hold: of the newest confirmed command, or of the button since.
    settled: Option<RelayState>,
    /// Whether `settled` was put right once already.
    defended: bool,
    /// Until when a request that got no answer may still switch the relay to off, to on.
    stray: [Option<Instant>; 2],
    poll_at: [Instant; 2],
    cloud_info_at: Instant,
    cloud_info_misses: u32,
    cloud_connected: Option<bool>,
    born: Instant,
    last_heard: Option<Instant>,
    misses: u32,
    availability: Option<Availability>,
    serving: Option<Route>,
    shown_state: Option<PlugState>,
    shown_info: Option<(PlugInfo, Instant)>,
}

/// What the bridge hands to a plug so that it can act.
pub(super) struct Desk<'a> {
    pub(super) now: Instant,
    pub(super) cloud: &'a CloudStatus,
    pub(super) actions: &'a mut VecDeque<Action>,
    pub(super) serial: &'a mut u32,
}

#[derive(Debug, Clone)]
struct InFlight {
    id: ExchangeId,
    request: Request,
    started: Instant,
    deadline: Instant,
}

/// What was last read back.
#[derive(Debug, Clone)]
struct Reported {
    reading: Reading,
    /// When the question was asked that this answers; an answer to an older question is older news.
    asked: Instant,
    on_since: Option<Instant>,
}

impl Plug {
    pub(super) fn new(key: PlugKey, identity: Identity, policy: RoutePolicy, now: Instant) -> Self {
        // Ten thousand plugs are not all asked in the first instant.
        let first_poll = now + Duration::from_millis(key.0.into());
        Self {
            key,
            name: None,
            label: "".into(),
            identity,
            policy,
            home: None,
            address: None,
            rumour: None,
            routes: Routes::default(),
            lanes: [None, None],
            wishes: [const { None }; 4],
            pursuit: None,
            reported: None,
            acted: None,
            settled: None,
            defended: false,
            stray: [None, None],
            poll_at: [first_poll; 2],
            cloud_info_at: first_poll,
            cloud_info_misses: 0,
            cloud_connected: None,
            born: now,
            last_heard: None,
            misses: 0,
            availability: None,
            serving: None,
            shown_state: None,
            shown_info: None,
        }
    }

    // --- what the bridge tells it -----------------------------------------------------------------------------

    /// Gives the plug its name, once.
    pub(super) fn christen(&mut self, name: PlugName) {
        self.label = name.as_str().into();
        self.name = Some(name);
    }

    /// The user wrote where the plug is.
    pub(super) fn settle_at(&mut self, home: Option<Address>) {
        if self.home != home {
            self.home.clone_from(&home);
            if home.is_some() {
                self.address = home;
                self.routes.forget(Route::Local);
            }
        }
        if self.name.is_none() {
            self.label =
                self.address.as_ref().map_or_else(|| "a plug".into(), |address| address.to_string().into());
        }
    }

    /// The user wrote another policy.
    pub(super) fn adopt_policy(&mut self, policy: RoutePolicy, now: Instant) {
        if self.policy != policy {
            self.policy = policy;
            self.poll_at = [now; 2];
        }
    }

    /// Somebody saw the plug at this address. Believed at once where the known address does not answer.
    pub(super) fn sighted(&mut self, address: Address, desk: &mut Desk<'_>) {
        if self.address.as_ref() == Some(&address) {
            self.rumour = None;
            if !self.routes.is_up(Route::Local) {
                self.poll_at[Route::Local.index()] = desk.now;
            }
        } else if self.address.is_some() && self.routes.is_up(Route::Local) {
            self.rumour = Some(address);
        } else {
            self.move_to(address, desk);
        }
    }

    /// Where the plug was in an earlier run.
    pub(super) fn remembered_at(&mut self, address: Option<Address>) {
        if self.address.is_none() {
            self.address = address;
        }
    }

    /// Its address turned out to be another plug's. Where the user wrote that it lives it may come back to.
    pub(super) fn lost_address(&mut self) {
        self.address.clone_from(&self.home);
    }

    /// The cloud works again, or is another: what was seen of it no longer counts.
    pub(super) fn cloud_changed(&mut self, now: Instant) {
        self.routes.forget(Route::Cloud);
        self.poll_at[Route::Cloud.index()] = now + Duration::from_millis(u64::from(self.key.0) * 10);
    }

    /// Read it soon.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.poll_at = [now; 2];
    }

    /// Everything of the plug that the broker shows.
    pub(super) fn republish(&mut self, desk: &mut Desk<'_>) {
        self.shown_state = None;
        self.shown_info = None;
        if let (Some(name), Some(availability)) = (self.name.clone(), self.availability) {
            desk.publish(Update::Availability(name, availability));
        }
        self.show(desk);
    }

    // --- what is asked of it ----------------------------------------------------------------------------------

    /// Takes a command; each ends in exactly one result.
    pub(super) fn command(&mut self, id: CommandId, order: Order, desk: &mut Desk<'_>) {
        let deadline = desk.now + self.policy.command_ttl;
        let wants = match self.wants(order) {
            Ok(wants) => wants,
            Err(why) => return self.report(id, desk.now, Ended::Error(why.into()), None, desk),
        };
        for want in wants.into_iter().flatten() {
            self.wish(Wish::new(want, Some(id), desk.now, deadline), desk);
        }
    }

    /// An exchange of this plug ended.
    pub(super) fn done(&mut self, id: ExchangeId, outcome: Outcome, desk: &mut Desk<'_>) {
        let Some(route) = self.route_of(id) else { return };
        let Some(flight) = self.lanes[route.index()].take() else { return };
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
    pub(super) fn route_of(&self, id: ExchangeId) -> Option<Route> {
        let flies = |route: &Route| self.lanes[route.index()].as_ref().is_some_and(|flight| flight.id == id);
        Route::ALL.into_iter().find(flies)
    }

    /// Takes every step that is due, and says when the next one is.
    pub(super) fn advance(&mut self, desk: &mut Desk<'_>) -> Instant {
        self.let_go_of_lost(desk);
        self.bury_dead_wishes(desk);
        let mut wake = Wake(desk.now + SILENCE_UNTIL_OFFLINE * 4);
        match self.job() {
            Some(job) => self.pursue(job, &mut wake, desk),
            None => {
                self.pursuit = None;
                self.poll(&mut wake, desk);
            }
        }
        self.judge(&mut wake, desk);
        for flight in self.lanes.iter().flatten() {
            wake.by(flight.deadline + LOST_AFTER);
        }
        for wish in self.wishes.iter().flatten() {
            wake.by(wish.deadline);
        }
        wake.0
    }

    // --- what it tells ----------------------------------------------------------------------------------------

    pub(super) fn is_online(&self) -> bool {
        self.availability == Some(Availability::Online)
    }

    /// Whether the last exchange on some route was answered.
    fn is_reached(&self) -> bool {
        Route::ALL.into_iter().any(|route| self.routes.is_up(route))
    }

    /// Whether the first attempt to read it has come to an end.
    pub(super) fn was_tried(&self) -> bool {
        self.last_heard.is_some() || self.misses > 0
    }

    /// Whether looking for it on the LAN would help.
    pub(super) fn is_missing(&self) -> bool {
        self.policy.policy != Policy::Cloud
            && (self.address.is_none() || self.routes.is_resting(Route::Local))
    }

    pub(super) fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// The address that the user wrote.
    pub(super) fn home(&self) -> Option<&Address> {
        self.home.as_ref()
    }

    pub(super) fn known(&self) -> Option<KnownPlug> {
        Some(KnownPlug {
            device_id: self.identity.device_id.clone()?,
            mac: self.identity.mac,
            name: self.name.clone()?,
            address: self.address.clone(),
        })
    }

    /// Ends all that is under way, because the plug is removed.
    pub(super) fn retire(&mut self, desk: &mut Desk<'_>) {
        for slot in Slot::ALL {
            self.end(slot, Ended::Error("the plug was removed".into()), None, desk);
        }
        for route in Route::ALL {
            self.abandon(route, desk);
        }
    }

    // --- wishes -----------------------------------------------------------------------------------------------

    /// What an order comes to for this plug, or why it cannot be.
    fn wants(&self, order: Order) -> Result<[Option<Want>; 2], &'static str> {
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
    fn resolve(&self, switch: Switch) -> Want {
        match (switch, self.wishes[Slot::Relay.index()].as_ref().map(|wish| wish.want)) {
            (Switch::To(state), _) => Want::Relay(state),
            (Switch::Toggle, Some(Want::Relay(state))) => Want::Relay(!state),
            (Switch::Toggle, Some(Want::FlipRelay(flip))) => Want::FlipRelay(!flip),
            (Switch::Toggle, _) => Want::FlipRelay(true),
        }
    }

    fn wish(&mut self, wish: Wish, desk: &mut Desk<'_>) {
        let slot = wish.slot();
        self.end(slot, Ended::Superseded, None, desk);
        self.wishes[slot.index()] = Some(wish);
    }

    /// Ends the wish in this slot, if there is one. A command of several parts is answered once: with the first
    /// part that fails, or when the last part is done.
    fn end(&mut self, slot: Slot, ended: Ended, route: Option<Route>, desk: &mut Desk<'_>) {
        let Some(wish) = self.wishes[slot.index()].take() else { return };
        let Some(id) = wish.command else { return };
        let mut rest = self.wishes.iter_mut().flatten().filter(|other| other.command == Some(id)).peekable();
        if ended == Ended::Ok && rest.peek().is_some() {
            return;
        }
        rest.for_each(|other| other.command = None);
        self.report(id, wish.arrived, ended, route, desk);
    }

    fn report(
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

    fn bury_dead_wishes(&mut self, desk: &mut Desk<'_>) {
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

    fn job(&self) -> Option<Job> {
        let wish = self.wishes.iter().flatten().next()?;
        Some(Job {
            slot: wish.slot(),
            request: wish.request(),
            arrived: wish.arrived,
            not_before: wish.not_before(),
        })
    }

    // --- routes -----------------------------------------------------------------------------------------------

    fn pursue(&mut self, job: Job, wake: &mut Wake, desk: &mut Desk<'_>) {
        let pursuit = match self.pursuit {
            Some(pursuit) if pursuit.job == job => pursuit,
            _ => Pursuit::new(job, desk.now),
        };
        self.pursuit = Some(pursuit);
        let mut earlier_failed = true;
        for (route, head_start) in self.plan_for(job, desk).iter() {
            self.try_route(route, pursuit.due(route, head_start, earlier_failed), job, wake, desk);
            earlier_failed &= pursuit.has_failed(route) && !self.is_saying(route, job);
        }
    }

    fn plan_for(&self, job: Job, desk: &Desk<'_>) -> Plan {
        let plan = self.routes.plan(self.usable(desk), &self.policy);
        let proven = self.wishes[job.slot.index()].as_ref().and_then(Wish::proven_route);
        plan.led_by(proven, self.policy.cloud_after)
    }

    fn try_route(
        &mut self,
        route: Route,
        due: Option<Instant>,
        job: Job,
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
            self.abandon(route, desk);
        }
        self.start(route, job.request, true, desk);
    }

    /// Whether the job's request is on this wire already.
    fn is_saying(&self, route: Route, job: Job) -> bool {
        self.lanes[route.index()].as_ref().is_some_and(|flight| {
            flight.request == job.request
                && (job.request.changes_something() || flight.started >= job.not_before)
        })
    }

    fn usable(&self, desk: &Desk<'_>) -> [bool; 2] {
        [
            self.may_use(Route::Local) && self.address.is_some(),
            self.may_use(Route::Cloud) && desk.cloud_is_open(),
        ]
    }

    /// Whether the user lets this route be used, and the plug can be named on it.
    fn may_use(&self, route: Route) -> bool {
        match (route, self.policy.policy) {
            (Route::Local, Policy::Cloud) | (Route::Cloud, Policy::Local) => false,
            (Route::Local, _) => true,
            (Route::Cloud, _) => self.identity.device_id.is_some(),
        }
    }

    /// Why a route that the user lets be used cannot be tried at all.
    fn why_unusable(&self, route: Route, desk: &Desk<'_>) -> Option<Failure> {
        match (route, desk.cloud) {
            _ if !self.may_use(route) => None,
            (Route::Local, _) => self.address.is_none().then_some(Failure::NoAddress),
            (Route::Cloud, CloudStatus::Stopped(why)) => Some(Failure::CloudStopped(why.clone())),
            (Route::Cloud, _) => None,
        }
    }

    fn start(&mut self, route: Route, request: Request, urgent: bool, desk: &mut Desk<'_>) {
        let target = match (route, &self.address, &self.identity.device_id) {
            (Route::Local, Some(address), _) => {
                Target::Local { address: address.clone(), expect: self.identity.clone() }
            }
            (Route::Cloud, _, Some(device_id)) => Target::Cloud { device_id: device_id.clone() },
            _ => return,
        };
        let limit = match route {
            Route::Local => self.policy.local_timeout,
            Route::Cloud => self.policy.cloud_timeout,
        };
        let mut deadline = desk.now + limit;
        if let (true, Some(wish)) = (request.changes_something(), self.wishes.iter().flatten().next()) {
            deadline = deadline.min(wish.deadline);
        }
        let id = desk.next_exchange(self.key);
        self.lanes[route.index()] = Some(InFlight { id, request, started: desk.now, deadline });
        let plate = self.reported.as_ref().map(|reported| Arc::clone(&reported.reading.plate));
        let label = Arc::clone(&self.label);
        desk.actions.push_back(Action::Perform(Exchange {
            id,
            plug: self.key,
            label,
            target,
            request,
            deadline,
            urgent,
            plate,
        }));
    }

    fn abandon(&mut self, route: Route, desk: &mut Desk<'_>) {
        if let Some(flight) = self.lanes[route.index()].take() {
            desk.actions.push_back(Action::Abandon(flight.id));
            self.note_stray(&flight);
        }
    }

    fn let_go_of_lost(&mut self, desk: &mut Desk<'_>) {
        for route in Route::ALL {
            let lost = |flight: &InFlight| flight.deadline + LOST_AFTER <= desk.now;
            let Some(flight) = self.lanes[route.index()].clone().filter(lost) else { continue };
            self.abandon(route, desk);
            self.failed(route, &flight, &Failure::Silent, desk);
        }
    }

    /// A request that got no answer may still be carried out until its time is over.
    fn note_stray(&mut self, flight: &InFlight) {
        if let Request::SetRelay(state) = flight.request {
            let until = &mut self.stray[usize::from(state.is_on())];
            *until = (*until).max(Some(flight.deadline));
        }
    }

    /// Until when an older request may still bring the relay into this state.
    fn stray_until(&self, state: RelayState) -> Option<Instant> {
        let flying = self.lanes.iter().flatten().filter(|flight| flight.request == Request::SetRelay(state));
        flying.map(|flight| flight.deadline).max().max(self.stray[usize::from(state.is_on())])
    }

    // --- answers ----------------------------------------------------------------------------------------------

    fn answered(&mut self, route: Route, flight: &InFlight, reply: Reply, desk: &mut Desk<'_>) {
        self.heard(route, desk);
        if route == Route::Cloud {
            self.note_overtaken(desk.now);
        }
        match reply {
            Reply::SysInfo(reading) => {
                self.poll_at[route.index()] = self.next_poll(route, flight.started, desk.now);
                self.read(reading, flight.started, route, desk);
            }
            Reply::CloudInfo(info) => {
                self.cloud_info_misses = 0;
                self.cloud_connected = Some(info.connected);
                self.show(desk);
            }
            Reply::Done => self.acted(route, flight, desk),
        }
    }

    /// The cloud had to answer because the LAN kept silent: the LAN rests, until it answers.
    fn note_overtaken(&mut self, now: Instant) {
        let Some(flight) = &self.lanes[Route::Local.index()] else { return };
        if flight.started + self.policy.cloud_after <= now {
            self.routes.overtaken(Route::Local, now);
        }
    }

    fn acted(&mut self, route: Route, flight: &InFlight, desk: &mut Desk<'_>) {
        self.acted = Some(desk.now);
        let done = |wish: &&mut Wish| wish.step == Step::Act && wish.request() == flight.request;
        if let Some(wish) = self.wishes.iter_mut().flatten().find(done) {
            if wish.want == Want::Reboot {
                return self.end(Slot::Reboot, Ended::Ok, Some(route), desk);
            }
            wish.step = Step::ReadBack { acted: desk.now, route, mismatches: 0, not_before: desk.now };
            return;
        }
        // An older request was carried out late: look at once what it did.
        if let Request::SetRelay(state) = flight.request {
            let until = &mut self.stray[usize::from(state.is_on())];
            *until = (*until).max(Some(desk.now));
            self.poll_at[route.index()] = desk.now;
        }
    }

    fn failed(&mut self, route: Route, flight: &InFlight, failure: &Failure, desk: &mut Desk<'_>) {
        // A plug that restarts may well be gone before it has answered.
        if (flight.request, failure) == (Request::Reboot, &Failure::Closed) {
            return self.answered(route, flight, Reply::Done, desk);
        }
        if failure.may_act_later() {
            self.note_stray(flight);
        }
        if flight.request == Request::CloudInfo {
            self.cloud_info_misses += 1;
            return;
        }
        match failure.verdict() {
            Verdict::PlugRefuses => self.heard(route, desk),
            verdict => self.route_failed(route, verdict, desk),
        }
        self.poll_at[route.index()] = self.next_poll(route, flight.started, desk.now);
        let Some(pursuit) = self.pursuit.as_mut().filter(|pursuit| pursuit.job.request == flight.request)
        else {
            return;
        };
        pursuit.failed(route, failure, desk.now);
        let slot = pursuit.job.slot;
        if let Some(wish) = &mut self.wishes[slot.index()] {
            wish.failures[route.index()] = Some(failure.clone());
        }
        if failure.verdict() == Verdict::PlugRefuses {
            self.end(slot, Ended::Error(format!("{route}: {failure}")), Some(route), desk);
        }
    }

    fn route_failed(&mut self, route: Route, verdict: Verdict, desk: &mut Desk<'_>) {
        self.routes.failed(route, verdict, desk.now);
        if !self.is_reached() {
            self.misses += 1;
        }
        // An answer of the cloud from before its last interval proves nothing; it is asked again first.
        if route == Route::Local && self.poll_at[Route::Cloud.index()] > desk.now {
            self.choose_serving(desk);
            self.show(desk);
        }
        if let Some(address) = self.rumour.take_if(|_| route == Route::Local) {
            self.move_to(address, desk);
        }
    }

    fn move_to(&mut self, address: Address, desk: &mut Desk<'_>) {
        let from = self.address.replace(address.clone());
        self.rumour = None;
        self.routes.forget(Route::Local);
        self.poll_at[Route::Local.index()] = desk.now;
        self.abandon(Route::Local, desk);
        self.pursuit = None;
        if let (Some(from), Some(name)) = (from, &self.name) {
            desk.happened(What::AddressChanged, Some(name), format!("{from} -> {address}"));
        }
        if let Some(known) = self.known() {
            desk.actions.push_back(Action::Remember(known));
        }
    }

    fn heard(&mut self, route: Route, desk: &mut Desk<'_>) {
        self.last_heard = Some(desk.now);
        self.misses = 0;
        self.routes.answered(route);
        if route == Route::Local {
            self.rumour = None;
        }
        self.choose_serving(desk);
    }

    /// Takes a reading. `asked` is when the question was put: what was asked before the last known change is old.
    pub(super) fn read(&mut self, reading: Reading, asked: Instant, route: Route, desk: &mut Desk<'_>) {
        let previous = self.reported.as_ref().map(|reported| reported.asked);
        if previous.is_some_and(|previous| asked < previous) || self.acted.is_some_and(|acted| asked < acted)
        {
            return;
        }
        let on_since = self.on_since(&reading, desk.now);
        let (relay, led) = (reading.relay, reading.led);
        self.reported = Some(Reported { reading, asked, on_since });
        self.come_online(desk);
        if let Some(relay) = relay {
            self.compare_relay(relay, previous, route, desk);
        }
        if let Some(led) = led {
            self.compare(Slot::Led, Want::Led(led), route, desk);
        }
        if self.wishes[Slot::Read.index()].as_ref().is_some_and(|wish| asked >= wish.arrived) {
            self.show(desk);
            self.end(Slot::Read, Ended::Ok, Some(route), desk);
        }
        self.show(desk);
    }

    fn on_since(&self, reading: &Reading, now: Instant) -> Option<Instant> {
        let computed = now.checked_sub(Duration::from_secs(reading.on_time?))?;
        let same = |known: &Instant| {
            known.saturating_duration_since(computed).max(computed.saturating_duration_since(*known))
                <= SAME_MOMENT
        };
        let known = self.reported.as_ref().and_then(|reported| reported.on_since);
        Some(known.filter(same).unwrap_or(computed))
    }

    fn compare_relay(
        &mut self,
        relay: RelayState,
        previous: Option<Instant>,
        route: Route,
        desk: &mut Desk<'_>,
    ) {
        let Some(wish) = &mut self.wishes[Slot::Relay.index()] else {
            if self.is_late_execution(relay, previous) {
                return self.put_right(relay, desk);
            }
            self.settled = Some(relay);
            return;
        };
        if let Want::FlipRelay(flip) = wish.want {
            wish.want = Want::Relay(if flip { !relay } else { relay });
            return;
        }
        if self.compare(Slot::Relay, Want::Relay(relay), route, desk) {
            self.settled = Some(relay);
            self.defended = false;
            self.watch_for_strays(relay, route);
        }
    }

    /// Whether the wish in this slot is at its read-back and `read` is it.
    fn compare(&mut self, slot: Slot, read: Want, route: Route, desk: &mut Desk<'_>) -> bool {
        let Some(wish) = &mut self.wishes[slot.index()] else { return false };
        let Step::ReadBack { mismatches, not_before, .. } = &mut wish.step else { return false };
        if wish.want == read {
            self.show(desk);
            self.end(slot, Ended::Ok, Some(route), desk);
            return true;
        }
        *mismatches += 1;
        *not_before = desk.now + SECOND_READING;
        if *mismatches >= MISMATCHES_UNTIL_AGAIN {
            wish.step = Step::Act;
        }
        false
    }

    /// Requests of older commands may still be carried out: look again when the last of them is dead.
    fn watch_for_strays(&mut self, settled: RelayState, route: Route) {
        if let Some(until) = self.stray_until(!settled) {
            let poll_at = &mut self.poll_at[route.index()];
            *poll_at = (*poll_at).min(until);
        }
    }

    /// A state that differs from the settled one, while a request for it may have been carried out since the
    /// reading before.
    fn is_late_execution(&self, relay: RelayState, previous: Option<Instant>) -> bool {
        let drifted = self.settled.is_some_and(|settled| settled != relay);
        let possible =
            self.stray_until(relay).is_some_and(|until| previous.is_some_and(|previous| previous <= until));
        drifted && possible && !self.defended
    }

    fn put_right(&mut self, relay: RelayState, desk: &mut Desk<'_>) {
        self.defended = true;
        let detail = format!("an older command switched it {relay} late; switching it {} again", !relay);
        desk.happened(What::DriftCorrected, self.name.as_ref(), detail);
        let deadline = desk.now + self.policy.command_ttl;
        self.wish(Wish::new(Want::Relay(!relay), None, desk.now, deadline), desk);
    }

    // --- polls ------------------------------------------------------------------------------------------------

    fn poll(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        let [local, cloud] = self.usable(desk);
        if self.may_use(Route::Local) {
            self.poll_route(Route::Local, local, wake, desk);
        }
        let cloud_needed = !local || self.routes.is_resting(Route::Local);
        if self.may_use(Route::Cloud) && cloud_needed && *desk.cloud != CloudStatus::Off {
            self.poll_route(Route::Cloud, cloud, wake, desk);
        }
        self.ask_cloud_info(wake, desk);
    }

    fn poll_route(&mut self, route: Route, usable: bool, wake: &mut Wake, desk: &mut Desk<'_>) {
        if self.lanes[route.index()].is_some() {
            return;
        }
        if self.poll_at[route.index()] > desk.now {
            return wake.by(self.poll_at[route.index()]);
        }
        if usable {
            return self.start(route, Request::SysInfo, false, desk);
        }
        self.route_failed(route, Verdict::RouteDown, desk);
        self.poll_at[route.index()] = self.next_poll(route, desk.now, desk.now);
        wake.by(self.poll_at[route.index()]);
    }

    fn next_poll(&self, route: Route, started: Instant, now: Instant) -> Instant {
        let pause = self.routes.poll_pause(route, &self.policy, now);
        // After the first round each plug finds its own place in the interval.
        let pause = if self.reported.is_none() && self.routes.is_up(route) {
            pause.mul_f64(0.2 + 0.8 * spread(self.key.0))
        } else {
            pause
        };
        (started + pause).max(now)
    }

    fn ask_cloud_info(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        let calm = self.reported.is_some() && self.routes.is_up(Route::Local);
        if !calm || self.cloud_info_misses >= CLOUD_INFO_TRIES || self.lanes[Route::Local.index()].is_some() {
            return;
        }
        if self.cloud_info_at > desk.now {
            return wake.by(self.cloud_info_at);
        }
        self.cloud_info_at = desk.now + CLOUD_INFO_EVERY;
        self.start(Route::Local, Request::CloudInfo, false, desk);
    }

    // --- what the broker shows --------------------------------------------------------------------------------

    fn judge(&mut self, wake: &mut Wake, desk: &mut Desk<'_>) {
        if self.misses < MISSES_UNTIL_OFFLINE || self.availability == Some(Availability::Offline) {
            return;
        }
        let silent_until = self.last_heard.unwrap_or(self.born) + SILENCE_UNTIL_OFFLINE;
        if self.is_reached() {
            return;
        }
        if silent_until > desk.now {
            return wake.by(silent_until);
        }
        let Some(name) = self.name.clone() else { return };
        self.availability = Some(Availability::Offline);
        self.serving = None;
        desk.publish(Update::Availability(name.clone(), Availability::Offline));
        desk.happened(What::PlugOffline, Some(&name), "no answer on any route".into());
        self.show(desk);
    }

    fn come_online(&mut self, desk: &mut Desk<'_>) {
        let Some(name) = self.name.clone().filter(|_| !self.is_online()) else { return };
        self.availability = Some(Availability::Online);
        self.show_info(desk);
        desk.publish(Update::Availability(name.clone(), Availability::Online));
        let detail = self.serving.map_or_else(String::new, |route| format!("over the {route} route"));
        desk.happened(What::PlugOnline, Some(&name), detail);
    }

    /// The LAN serves while it works; the cloud from its first answer without it.
    fn choose_serving(&mut self, desk: &mut Desk<'_>) {
        let route = match (self.routes.is_up(Route::Local), self.routes.is_up(Route::Cloud)) {
            (true, _) => Route::Local,
            (false, true) if self.routes.is_resting(Route::Local) || !self.may_use(Route::Local) => {
                Route::Cloud
            }
            (false, true) if self.serving.is_none() => Route::Cloud,
            _ => return,
        };
        let before = self.serving.replace(route);
        if let (Some(before), Some(name)) = (before.filter(|&before| before != route), &self.name) {
            desk.happened(What::RouteChanged, Some(name), format!("{before} -> {route}"));
        }
    }

    fn show(&mut self, desk: &mut Desk<'_>) {
        self.show_info(desk);
        let (Some(name), Some(reported)) = (&self.name, &self.reported) else { return };
        let Some(relay) = reported.reading.relay else { return };
        let state =
            PlugState { relay, route: self.serving, led: reported.reading.led, on_since: reported.on_since };
        if self.shown_state.as_ref() != Some(&state) {
            desk.publish(Update::State(name.clone(), state.clone()));
            self.shown_state = Some(state);
        }
    }

    fn show_info(&mut self, desk: &mut Desk<'_>) {
        let (Some(name), Some(reported)) = (&self.name, &self.reported) else { return };
        if let Some((shown, at)) = &self.shown_info {
            let only_signal = shown.plate == reported.reading.plate
                && shown.address == self.address
                && shown.cloud_connected == self.cloud_connected;
            if only_signal && (shown.rssi == reported.reading.rssi || *at + SIGNAL_EVERY > desk.now) {
                return;
            }
        }
        let info = PlugInfo {
            plate: Arc::clone(&reported.reading.plate),
            address: self.address.clone(),
            rssi: reported.reading.rssi,
            cloud_connected: self.cloud_connected,
        };
        desk.publish(Update::Info(name.clone(), info.clone()));
        self.shown_info = Some((info, desk.now));
    }
}

impl Desk<'_> {
    fn cloud_is_open(&self) -> bool {
        matches!(self.cloud, CloudStatus::Ok | CloudStatus::Down(_))
    }

    fn next_exchange(&mut self, plug: PlugKey) -> ExchangeId {
        *self.serial = self.serial.wrapping_add(1);
        ExchangeId::new(plug, *self.serial)
    }

    pub(super) fn publish(&mut self, update: Update) {
        self.actions.push_back(Action::Publish(update));
    }

    pub(super) fn happened(&mut self, what: What, plug: Option<&PlugName>, detail: String) {
        self.publish(Update::Happened(Happening { what, plug: plug.cloned(), detail }));
    }
}

/// The earliest moment of several.
struct Wake(Instant);

impl Wake {
    fn by(&mut self, at: Instant) {
        self.0 = self.0.min(at);
    }
}
