//! The exchanges of one plug: at most one in flight on each route, and none repeated too soon.

use std::time::{Duration, Instant};

use crate::bridge::delivery::DeliveryJob;
use crate::bridge::event::ExchangeId;
use crate::bridge::poll_limiter::PollLimiter;
use crate::model::{LanProtocol, RelayState, Route};
use crate::smarthome::message::{Outlet, Request};

/// Transports keep deadlines themselves; an exchange that one of them lost is given up this long after its deadline.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(2);
/// The same request is not repeated over the same route within this time: firmwares take a flood of requests badly, and
/// calls to the cloud are counted.
const REPEAT_AFTER: Duration = Duration::from_millis(250);

/// What is in flight, and what was sent last.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    over_lan: Option<InFlight>,
    /// Boxed: most plugs are never asked over the cloud.
    over_cloud: Option<Box<InFlight>>,
    /// Over the LAN by protocol, then over the cloud.
    last_sent: [LastSent; 3],
    /// When a command last came or was confirmed. What was sent before may be repeated at once.
    repeats_allowed_at: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) id: ExchangeId,
    pub(super) request: Request,
    /// The protocol in which it went out, if that was on the LAN.
    pub(super) protocol: LanProtocol,
    /// It went out as a request that switches and reads.
    pub(super) reads_as_well: bool,
    pub(super) started: Instant,
    /// Since when its route has not answered: earlier than `started` if it replaced one that hung.
    pub(super) unanswered_since: Instant,
    pub(super) deadline: Instant,
}

/// What was sent last on one route, and when.
#[derive(Debug, Default)]
struct LastSent {
    sysinfo: Option<Instant>,
    /// Another request. Dropped as soon as it no longer counts, since plugs are seldom sent one.
    other: Option<Box<(Request, Instant)>>,
}

impl Exchanges {
    pub(super) fn get(&self, route: Route) -> Option<&InFlight> {
        match route {
            Route::Local => self.over_lan.as_ref(),
            Route::Cloud => self.over_cloud.as_deref(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Route, &InFlight)> {
        Route::ALL.into_iter().filter_map(|route| Some((route, self.get(route)?)))
    }

    /// The route of this exchange, unless it was abandoned.
    pub(super) fn route_of(&self, id: ExchangeId) -> Option<Route> {
        self.iter().find(|(_, flight)| flight.id == id).map(|(route, _)| route)
    }

    /// Until when this request would repeat the last one too soon.
    pub(super) fn too_soon_until(
        &self,
        route: Route,
        protocol: LanProtocol,
        sent: &Request,
        now: Instant,
    ) -> Option<Instant> {
        let last = self.last_sent[sent_index(route, protocol)].at(sent)?;
        let is_allowed = self.repeats_allowed_at.is_some_and(|allowed| allowed > last);
        Some(last + REPEAT_AFTER).filter(|&until| until > now && !is_allowed)
    }

    pub(super) fn allow_repeats(&mut self, now: Instant) {
        self.repeats_allowed_at = Some(now);
    }

    /// `sent` is the request as it goes out.
    pub(super) fn begin(
        &mut self,
        route: Route,
        flight: InFlight,
        sent: &Request,
        limiter: &mut PollLimiter,
    ) {
        self.last_sent[sent_index(route, flight.protocol)].note(sent, flight.started);
        if flight.is_limited(route) {
            limiter.begun(flight.started);
        }
        match route {
            Route::Local => self.over_lan = Some(flight),
            Route::Cloud => self.over_cloud = Some(Box::new(flight)),
        }
    }

    /// The exchange on this route is over; the limiter gets its place back.
    pub(super) fn end(
        &mut self,
        route: Route,
        was_answered: bool,
        limiter: &mut PollLimiter,
        now: Instant,
    ) -> Option<InFlight> {
        let flight = match route {
            Route::Local => self.over_lan.take()?,
            Route::Cloud => *self.over_cloud.take()?,
        };
        match (flight.is_limited(route), was_answered) {
            (true, true) => limiter.answered(flight.started, now),
            (true, false) => limiter.ended(flight.started, now),
            (false, _) => {}
        }
        Some(flight)
    }

    /// The exchange that its transport lost.
    pub(super) fn lost(&self, route: Route, now: Instant) -> Option<InFlight> {
        self.get(route).filter(|flight| flight.deadline + LOST_AFTER <= now).cloned()
    }

    /// Whether this job's request is in flight already.
    pub(super) fn carries(&self, route: Route, job: &DeliveryJob) -> bool {
        self.get(route).is_some_and(|flight| {
            flight.request == job.request
                && (job.request.changes_something() || flight.started >= job.not_before)
        })
    }

    /// Until when a request in flight may switch this relay into this state.
    pub(super) fn may_switch_until(&self, part: Option<Outlet>, state: RelayState) -> Option<Instant> {
        let switches_it = |(_, flight): &(Route, &InFlight)| flight.switches(part) == Some(state);
        self.iter().filter(switches_it).map(|(_, flight)| flight.deadline).max()
    }
}

impl InFlight {
    /// Whether the poll limiter counts it.
    fn is_limited(&self, route: Route) -> bool {
        route == Route::Local && !self.request.changes_something()
    }

    pub(super) fn switches(&self, part: Option<Outlet>) -> Option<RelayState> {
        switched_state(&self.request, part)
    }

    /// It was to set the relay and nothing else.
    pub(super) fn only_switches(&self) -> bool {
        matches!(self.request, Request::SetRelay(_)) && !self.reads_as_well
    }
}

impl LastSent {
    /// When this request was sent, if no other one was sent since.
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

/// The place in [`Exchanges::last_sent`]. A request that one protocol refused may go out in the other at once.
const fn sent_index(route: Route, protocol: LanProtocol) -> usize {
    match route {
        Route::Local => protocol as usize,
        Route::Cloud => 2,
    }
}

/// The state into which a request switches the relay of this part.
pub(super) fn switched_state(request: &Request, part: Option<Outlet>) -> Option<RelayState> {
    match (request, part) {
        (Request::SetRelay(state), None) => Some(*state),
        (Request::SetOutlets(outlets, state), Some(outlet)) if outlets.has(outlet) => Some(*state),
        (Request::Fade(percent, _), None) => Some(RelayState::from_bool(*percent > 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::PlugKey;

    const ON: Request = Request::SetRelay(RelayState::On);

    fn flight(request: Request, now: Instant) -> InFlight {
        let id = ExchangeId::new(PlugKey(0), 1);
        let deadline = now + Duration::from_secs(3);
        let protocol = LanProtocol::Xor;
        InFlight {
            id,
            request,
            protocol,
            reads_as_well: false,
            started: now,
            unanswered_since: now,
            deadline,
        }
    }

    #[test]
    fn a_request_is_repeated_after_a_pause_or_once_a_command_came() {
        let now = Instant::now();
        let mut limiter = PollLimiter::default();
        let mut exchanges = Exchanges::default();
        exchanges.begin(Route::Local, flight(ON, now), &ON, &mut limiter);
        exchanges.end(Route::Local, false, &mut limiter, now);
        assert_eq!(
            exchanges.too_soon_until(Route::Local, LanProtocol::Xor, &ON, now),
            Some(now + REPEAT_AFTER)
        );
        assert_eq!(exchanges.too_soon_until(Route::Cloud, LanProtocol::Xor, &ON, now), None, "another route");
        assert_eq!(
            exchanges.too_soon_until(Route::Local, LanProtocol::Xor, &Request::SysInfo, now),
            None,
            "another request"
        );
        assert_eq!(exchanges.too_soon_until(Route::Local, LanProtocol::Klap, &ON, now), None);
        assert_eq!(exchanges.too_soon_until(Route::Local, LanProtocol::Xor, &ON, now + REPEAT_AFTER), None);
        exchanges.allow_repeats(now + Duration::from_millis(1));
        assert_eq!(
            exchanges.too_soon_until(Route::Local, LanProtocol::Xor, &ON, now + Duration::from_millis(1)),
            None
        );
    }

    #[test]
    fn an_exchange_is_found_by_its_id_until_it_ends_and_lost_after_its_deadline() {
        let now = Instant::now();
        let mut limiter = PollLimiter::default();
        let mut exchanges = Exchanges::default();
        let begun = flight(ON, now);
        let (id, deadline) = (begun.id, begun.deadline);
        exchanges.begin(Route::Cloud, begun, &ON, &mut limiter);
        assert_eq!(exchanges.route_of(id), Some(Route::Cloud));
        assert_eq!(exchanges.may_switch_until(None, RelayState::On), Some(deadline));
        assert_eq!(exchanges.may_switch_until(None, RelayState::Off), None);
        assert!(exchanges.lost(Route::Cloud, deadline).is_none());
        assert!(exchanges.lost(Route::Cloud, deadline + LOST_AFTER).is_some());
        assert!(exchanges.end(Route::Cloud, true, &mut limiter, now).is_some());
        assert_eq!(exchanges.route_of(id), None);
    }
}
