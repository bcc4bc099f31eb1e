//! A model of the LAN: requests on the way to an address, the plug at that address, and their outcome. Also what a plug
//! does with a request from either route.

use std::collections::BTreeMap;
use std::time::Duration;

use hs100d::bridge::event::{Event, Exchange, ExchangeId, Identity, Outcome, Sighting, Target};
use hs100d::model::{Address, Failure, LanProtocol, RelayState, Route};
use hs100d::smarthome::message::{Reply, Request};

use super::judge::Cause;
use super::klap::{KlapFate, KlapFault, Pauses};
use super::plugs::{self, Condition, PlugCloud, PlugLan};
use super::{Next, Sabotage, World};

/// One way, on a healthy LAN.
const TRIP: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(6));
/// A hiccup of a healthy LAN: its probability, and its longest duration.
const HICCUP: f64 = 0.002;
const LONGEST_HICCUP: Duration = Duration::from_millis(1200);
/// The latest delivery on a connection that was closed and not reset.
const LONG_AFTER: Duration = Duration::from_secs(60);
/// The time until a connection to an unused address fails.
const NO_ROUTE: Duration = Duration::from_millis(2900);

/// The requests in flight.
#[derive(Default)]
pub struct Wires {
    flights: BTreeMap<ExchangeId, Flight>,
    /// Plugs that refuse KLAP, or whose session another client took.
    pub pauses: Pauses,
}

impl Wires {
    pub fn take(&mut self, id: ExchangeId) -> Option<Flight> {
        self.flights.remove(&id)
    }
}

/// A request in flight.
pub struct Flight {
    pub exchange: Exchange,
    pub plug: usize,
    pub asked: Duration,
    pub deadline: Duration,
    /// The cause for each relay that it switches.
    pub causes: Vec<(usize, Option<Cause>)>,
    fate: Fate,
}

/// The outcome of a request and its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The plug acts, and the reply is lost.
    Unanswered,
    Reset,
    Garbage,
    /// The plug does not receive the request.
    Undelivered,
}

/// A request that the daemon no longer waits for.
pub struct Errant {
    pub plug: usize,
    pub request: Request,
    pub route: Route,
    pub place: Option<u16>,
    pub causes: Vec<(usize, Option<Cause>)>,
    pub deadline: Duration,
}

impl World {
    pub(super) fn perform(&mut self, mut exchange: Exchange) {
        let meant = exchange.label.strip_prefix("plug-").and_then(|number| number.parse().ok());
        let Some(plug) = meant.filter(|&plug: &usize| plug < self.plugs.len()) else { return };
        self.sabotage_exchange(&mut exchange, plug);
        let (id, route, deadline) = (exchange.id, exchange.route(), self.since_start(exchange.deadline));
        self.tally.exchanges += 1;
        self.judge.asks(plug, route, id);
        self.judge.repeats(plug, &exchange);
        let causes = self.causes_of(plug, &exchange.request, deadline);
        if !causes.is_empty() || self.story.wants_polls(plug) {
            let line = format!("asked over the {route} route, {:?}: {:?}", exchange.target, exchange.request);
            self.tell(Some(plug), line);
        }
        let flight = Flight { exchange, plug, asked: self.at, deadline, causes, fate: Fate::Answered };
        match route {
            Route::Local => self.send_local(flight),
            Route::Cloud => self.begin_call(flight),
        }
    }

    fn causes_of(
        &mut self,
        plug: usize,
        request: &Request,
        deadline: Duration,
    ) -> Vec<(usize, Option<Cause>)> {
        let Some((relays, state)) = self.plugs[plug].told_to_switch_by(request) else { return vec![] };
        let cause = |relay| (relay, self.judge.switches(plug, relay, state, deadline));
        relays.into_iter().map(cause).collect()
    }

    /// Sends a request to its address, and decides its outcome on the way.
    fn send_local(&mut self, mut flight: Flight) {
        let (id, life) = (flight.exchange.id, self.life);
        let Target::Local { address, protocol, .. } = &flight.exchange.target else { return };
        let (address, protocol) = (address.clone(), *protocol);
        if protocol == LanProtocol::Klap
            && let Some(failure) = self.klap_pause(flight.plug, &address)
        {
            return self.fail_after(flight, Duration::ZERO, failure);
        }
        let there = plugs::place(&address).and_then(|place| *self.places.get(usize::from(place))?);
        let Some(there) = there else {
            let wait = self.dice.one_of(&[NO_ROUTE, Duration::from_millis(3)]);
            return self.fail_after(flight, wait, Failure::NoRoute);
        };
        let trip = self.trip(flight.plug);
        if self.gives_up_corrections(&flight) {
            return self.fail_after(flight, trip, Failure::Garbage("rubbish".into()));
        }
        let is_deaf = self.plan.sabotage.is_some_and(|sabotage| sabotage.deafens(flight.plug));
        let lan = if self.weather.lan_is_down || is_deaf { PlugLan::Dead } else { self.plugs[there].lan };
        let left = flight.deadline.saturating_sub(self.at);
        if self.plugs[there].condition == Condition::Dark || lan == PlugLan::Dead {
            return self.lose(flight);
        }
        if lan == PlugLan::Refused || !self.plugs[there].listens(protocol, &address) {
            return self.fail_after(flight, trip, Failure::Refused);
        }
        let klap = match protocol {
            LanProtocol::Klap => self.klap_fate(there, flight.exchange.request.changes_something()),
            LanProtocol::Xor => KlapFate::Received,
        };
        if let KlapFate::Refused(failure, attempts) = klap {
            self.klap_refused(flight.plug, address, failure.clone(), attempts);
            return self.fail_after(flight, trip * 2, failure);
        }
        let (reaches_after, fate) = match lan {
            PlugLan::Clear => (trip, Fate::Answered),
            PlugLan::Slow(slow) => (slow.mul_f64(0.3 + self.dice.fraction()), Fate::Answered),
            PlugLan::Dead | PlugLan::Refused => unreachable!("nothing gets through"),
            PlugLan::Lossy(percent) if self.dice.chance(f64::from(percent) / 100.0) => {
                return self.lose(flight);
            }
            PlugLan::Lossy(percent) if self.dice.chance(f64::from(percent) / 100.0) => {
                (trip, Fate::Unanswered)
            }
            PlugLan::Lossy(_) => (trip, Fate::Answered),
            PlugLan::Resets if self.dice.chance(0.5) => {
                return self.fail_after(flight, trip, Failure::Closed);
            }
            PlugLan::Resets => (trip, Fate::Reset),
            PlugLan::Garbage => (trip, Fate::Garbage),
            PlugLan::Late => (left.mul_f64(self.dice.fraction()), Fate::Unanswered),
            PlugLan::Twice => (trip, Fate::Answered),
        };
        if lan == PlugLan::Twice {
            // The first try gets no reply, as on a connection that dies; the second one does.
            let again = trip.mul_f64(self.dice.fraction());
            // The same for the second try: data that has not arrived by the deadline is lost with the connection.
            if again < left {
                self.send_errant(&flight, again);
            }
        }
        flight.fate =
            if klap == KlapFate::Unreadable && fate == Fate::Answered { Fate::Garbage } else { fate };
        if reaches_after < left {
            self.later(reaches_after, Next::Arrive { life, id });
        } else {
            self.push(flight.deadline, silence(life, id));
        }
        self.keep(flight);
    }

    /// The request is lost on its way.
    fn lose(&mut self, flight: Flight) {
        // A reset discards what the kernel could not deliver.
        if self.plan.sabotage == Some(Sabotage::ClosesInsteadOfResetting) {
            let after = LONG_AFTER.mul_f64(self.dice.fraction());
            self.send_errant(&flight, after);
        }
        self.push(flight.deadline, silence(self.life, flight.exchange.id));
        self.keep(flight);
    }

    fn klap_pause(&mut self, plug: usize, address: &Address) -> Option<Failure> {
        let at = self.at;
        self.daemon.as_mut()?.wires.pauses.failure(plug, address, at)
    }

    /// A request arrives at its address: the plug there identifies itself, acts, and replies.
    pub(super) fn arrived(&mut self, life: u32, id: ExchangeId) {
        let Some(flight) = self.flight(life, id) else { return };
        let (plug, fate, deadline) = (flight.plug, flight.fate, flight.deadline);
        let (request, causes) = (flight.exchange.request.clone(), flight.causes.clone());
        let Target::Local { address, protocol, expect: identity } = flight.exchange.target.clone() else {
            return;
        };
        let found = plugs::place(&address).and_then(|place| self.places[usize::from(place)]);
        let Some(found) = found.filter(|&found| self.plugs[found].condition != Condition::Dark) else {
            return self.push(deadline, silence(life, id));
        };
        if !self.plugs[found].listens(protocol, &address) {
            return self.arrived_at_closed_port(found, id, &identity, &causes);
        }
        if protocol == LanProtocol::Klap && self.plugs[found].klap == KlapFault::OtherAccount {
            self.klap_refused(plug, address, Failure::OtherAccount, 1);
            return self.answer_by(life, id, Outcome::of(Err(Failure::OtherAccount)), deadline);
        }
        if !identity.admits(&self.plugs[found].device) {
            let hello = Some(self.plugs[found].reading(self.at));
            let failure = Failure::WrongPlug { found: "another".into() };
            return self.answer_by(life, id, Outcome { result: Err(failure), greeting: hello }, deadline);
        }
        self.do_as_told(plug, found, &request, &causes, deadline);
        let result = self.plugs[found].answer(&request, self.at);
        let outcome = match fate {
            Fate::Unanswered | Fate::Undelivered => return self.push(deadline, silence(life, id)),
            Fate::Reset => Outcome::of(Err(Failure::Closed)),
            Fate::Garbage => Outcome::of(Err(Failure::Garbage("rubbish".into()))),
            // A new connection starts with `get_sysinfo`.
            Fate::Answered if request != Request::SysInfo && found == plug && self.dice.chance(0.3) => {
                Outcome { result, greeting: Some(self.plugs[found].reading(self.at)) }
            }
            Fate::Answered => Outcome::of(result),
        };
        self.answer_by(life, id, outcome, deadline);
    }

    /// The plug began to speak the other protocol while the request was on its way: the connection breaks, before or after
    /// the plug has acted.
    fn arrived_at_closed_port(
        &mut self,
        found: usize,
        id: ExchangeId,
        identity: &Identity,
        causes: &[(usize, Option<Cause>)],
    ) {
        let life = self.life;
        let Some(flight) = self.flight(life, id) else { return };
        let (plug, fate, deadline, request) =
            (flight.plug, flight.fate, flight.deadline, flight.exchange.request.clone());
        if identity.admits(&self.plugs[found].device) && self.dice.chance(0.5) {
            self.do_as_told(plug, found, &request, causes, deadline);
        }
        match fate {
            Fate::Unanswered | Fate::Undelivered => self.push(deadline, silence(life, id)),
            Fate::Answered | Fate::Reset | Fate::Garbage => {
                self.answer_by(life, id, Outcome::of(Err(Failure::Closed)), deadline);
            }
        }
    }

    /// Sends a reply back, if it arrives in time.
    fn answer_by(&mut self, life: u32, id: ExchangeId, outcome: Outcome, deadline: Duration) {
        let Some(plug) = self.flight(life, id).map(|flight| flight.plug) else { return };
        let at = self.at + self.trip(plug);
        if at < deadline {
            self.push(at, Next::Answer { life, id, outcome: Box::new(outcome) });
        } else {
            self.push(deadline, silence(life, id));
        }
    }

    /// Switches the relays, unless the plug's fault prevents it.
    pub(super) fn do_as_told(
        &mut self,
        meant: usize,
        found: usize,
        request: &Request,
        causes: &[(usize, Option<Cause>)],
        deadline: Duration,
    ) {
        let Some((relays, state)) = self.plugs[found].switched_by(request) else { return };
        if matches!(self.plugs[found].condition, Condition::Lies | Condition::Stubborn) {
            return;
        }
        self.judge.switched_in_time(found, deadline);
        self.judge.switched_in_place_of(meant, found);
        let there = self.plugs[found].relays.len();
        for relay in relays.into_iter().filter(|&relay| relay < there) {
            let cause = causes.iter().find(|(place, _)| *place == relay).and_then(|(_, cause)| *cause);
            self.switch(found, relay, state, cause);
        }
    }

    fn switch(&mut self, plug: usize, relay: usize, state: RelayState, cause: Option<Cause>) {
        self.tally.switchings += 1;
        let at = self.at;
        self.plugs[plug].turn(relay, state, at);
        self.judge.carried_out(plug, relay, state, cause);
        self.tell(Some(plug), format!("relay {relay} is switched {state} by {cause:?}"));
    }

    pub(super) fn arrived_late(&mut self, errant: Errant) {
        let Errant { plug, request, route, place, causes, deadline } = errant;
        let found = match place {
            Some(place) => self.places[usize::from(place)],
            None => Some(plug),
        };
        let is_there = |plug: usize| self.plugs[plug].condition != Condition::Dark;
        // A connection stays with the plug at which it began.
        if found != Some(plug) || !is_there(plug) {
            return;
        }
        self.tell(Some(plug), format!("what was said over the {route} route comes late: {request:?}"));
        self.do_as_told(plug, plug, &request, &causes, deadline);
        let at = self.at;
        let _ = self.plugs[plug].answer(&request, at);
    }

    /// An aborted exchange is reset. The plug may have read it already.
    pub(super) fn abandon(&mut self, id: ExchangeId) {
        let Some(flight) = self.daemon.as_mut().and_then(|daemon| daemon.wires.flights.remove(&id)) else {
            return;
        };
        self.judge.ends(flight.plug, flight.exchange.route(), id);
        self.drop_call(id);
        self.may_come_late(&flight);
    }

    /// The daemon is gone: its connections end, but the plugs may have read what was in flight.
    pub(super) fn lose_exchanges(&mut self, wires: Wires) {
        for flight in wires.flights.into_values() {
            self.may_come_late(&flight);
        }
    }

    fn may_come_late(&mut self, flight: &Flight) {
        let is_heard = match flight.exchange.route() {
            _ if flight.fate == Fate::Undelivered => false,
            Route::Local => !self.weather.lan_is_down && self.plugs[flight.plug].lan != PlugLan::Dead,
            Route::Cloud => self.plugs[flight.plug].cloud != PlugCloud::Offline && self.cloud.is_reached(),
        };
        let left = flight.deadline.saturating_sub(self.at);
        if is_heard && !left.is_zero() && !flight.causes.is_empty() && self.dice.chance(0.5) {
            let after = left.mul_f64(self.dice.fraction());
            self.send_errant(flight, after);
        }
    }

    pub(super) fn send_errant(&mut self, flight: &Flight, after: Duration) {
        let place = match &flight.exchange.target {
            Target::Local { address, .. } => plugs::place(address),
            Target::Cloud { .. } => None,
        };
        let errant = Errant {
            plug: flight.plug,
            request: flight.exchange.request.clone(),
            route: flight.exchange.route(),
            place,
            causes: flight.causes.clone(),
            deadline: flight.deadline,
        };
        self.later(after, Next::Late(Box::new(errant)));
    }

    /// The daemon receives a reply.
    pub(super) fn answered(&mut self, id: ExchangeId, outcome: Outcome) {
        let Some(flight) = self.daemon.as_mut().and_then(|daemon| daemon.wires.flights.remove(&id)) else {
            return;
        };
        let plug = flight.plug;
        self.judge.ends(plug, flight.exchange.route(), id);
        if let Target::Local { protocol, .. } = flight.exchange.target {
            match &outcome.result {
                Ok(_) => self.judge.answered_in(plug, protocol),
                Err(Failure::Device { .. }) => self.judge.refused_in(plug, protocol),
                Err(_) => {}
            }
        }
        let is_another = matches!(outcome.result, Err(Failure::WrongPlug { .. }));
        if let Some(hello) = outcome.greeting.as_ref().filter(|_| !is_another) {
            self.judge.read(plug, flight.asked, relays_of(hello));
        }
        match &outcome.result {
            Ok(Reply::SysInfo(reading)) => self.judge.read(plug, flight.asked, relays_of(reading)),
            Ok(Reply::Done) => self.judge.acted(plug),
            Ok(Reply::Switched(reading)) => {
                let state = self.plugs[plug].switched_by(&flight.exchange.request).map(|(_, state)| state);
                // A reading that contradicts the confirmation does not count.
                let reading = reading.as_ref().filter(|reading| reading.relay == state);
                self.judge.switched_and_read(plug, flight.asked, reading.map(relays_of));
            }
            _ => {}
        }
        if !flight.causes.is_empty() || self.story.wants_polls(plug) {
            let heard = match &outcome.result {
                Ok(Reply::SysInfo(reading)) => format!("{:?}", relays_of(reading).collect::<Vec<_>>()),
                other => format!("{other:?}"),
            };
            let line = format!("answered over the {} route: {heard}", flight.exchange.route());
            self.tell(Some(plug), line);
        }
        self.touched.push(plug);
        self.hear(Event::Done { exchange: id, outcome });
    }

    /// The request is not delivered, and the daemon hears why after this time.
    pub(super) fn fail_after(&mut self, mut flight: Flight, wait: Duration, failure: Failure) {
        flight.fate = Fate::Undelivered;
        let (id, life) = (flight.exchange.id, self.life);
        let at = (self.at + wait).min(flight.deadline);
        self.keep(flight);
        self.push(at, Next::Answer { life, id, outcome: Box::new(Outcome::of(Err(failure))) });
    }

    pub(super) fn keep(&mut self, flight: Flight) {
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.wires.flights.insert(flight.exchange.id, flight);
        }
    }

    pub(super) fn flight(&self, life: u32, id: ExchangeId) -> Option<&Flight> {
        let daemon = self.daemon.as_ref().filter(|_| life == self.life)?;
        daemon.wires.flights.get(&id)
    }

    fn trip(&mut self, plug: usize) -> Duration {
        if self.dice.chance(HICCUP) {
            let takes = self.dice.long_tailed(TRIP.1, LONGEST_HICCUP);
            self.hiccups(plug, takes);
            return takes;
        }
        self.dice.between(TRIP.0, TRIP.1)
    }

    // --- discovery ------------------------------------------------------------------------------------------------

    /// A broadcast, and unicast probes to a few addresses.
    pub(super) fn look_around(&mut self, probe: &[Address]) {
        if self.weather.lan_is_down {
            return;
        }
        let asked: Vec<_> = probe.iter().filter_map(plugs::place).collect();
        for plug in 0..self.plugs.len() {
            let Self { plugs, dice, weather, .. } = self;
            let it = &plugs[plug];
            let is_asked = asked.contains(&it.place);
            let hears = is_asked || it.hears_broadcasts();
            let is_lost = !weather.is_resting && dice.chance(0.1);
            let answers = it.condition != Condition::Dark
                && !matches!(it.lan, PlugLan::Dead | PlugLan::Refused)
                && !is_lost;
            if hears && answers {
                self.sight(plug, self.plugs[plug].place);
            }
        }
    }

    /// The daemon gets sightings of a plug at this place, true or not.
    pub(super) fn sight(&mut self, plug: usize, place: u16) {
        for reply in self.plugs[plug].discovery_replies(self.at) {
            let event = Event::Sighted(Sighting { address: plugs::address(place), reply });
            let (wait, life) = (self.trip(plug), self.life);
            self.later(wait, Next::Heard { life, event: Box::new(event) });
        }
    }
}

fn silence(life: u32, id: ExchangeId) -> Next {
    Next::Answer { life, id, outcome: Box::new(Outcome::of(Err(Failure::Silent))) }
}

fn relays_of(reading: &hs100d::smarthome::message::Reading) -> impl Iterator<Item = RelayState> + '_ {
    reading.relay.into_iter().chain(reading.outlets.iter().filter_map(|outlet| outlet.relay))
}

impl Sabotage {
    /// Whether the LAN of this plug never works again.
    pub(super) fn deafens(self, plug: usize) -> bool {
        self == Self::NeverComesHome && plug == 3
    }
}
