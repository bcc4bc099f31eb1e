//! A plug with one relay is switched and read in one request, which saves a round trip and a call to the cloud. What is
//! known of firmwares that drop, refuse or garble the second part: they are switched alone, and read afterwards.

use std::sync::Arc;

use super::exchanges::switches;
use super::{Ctx, InFlight, Plug};
use crate::model::{Failure, Route};
use crate::smarthome::message::{Reading, Request};

/// What was seen of one plug's firmware.
#[derive(Debug, Default)]
pub(super) struct SwitchAndRead {
    /// Of which firmware version something is known, and whether it takes both in one request.
    known: Option<(Arc<str>, bool)>,
    /// A request that was not answered as it should be. Until it is known whether the plug can be switched alone over
    /// the same route, it is.
    doubt: Option<Doubt>,
    /// What speaks against it so far: the weight of such doubts that were confirmed.
    against: u8,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    route: Route,
    weight: u8,
}

/// So much has to speak against it: a refusal, or an answer that is none …
const ENOUGH: u8 = 2;
/// … or two answers that stayed away, because the network may have lost one.
const HALF: u8 = 1;

impl Plug {
    /// The request that reads as well, where this one switches the relay of a plug that is not known to take that
    /// badly.
    pub(super) fn read_as_well(&self, route: Route, request: &Request) -> Option<Request> {
        let Request::SetRelay(state) = *request else { return None };
        let reading = &self.reported.as_ref()?.reading;
        let has_one_relay = reading.relay.is_some() && reading.outlets.is_empty() && self.outlets.is_empty();
        let is_in_doubt = self.switch_and_read.doubt.is_some() || self.is_doubted_if_given_up(route);
        let may = has_one_relay && !is_in_doubt && self.takes_both() != Some(false);
        may.then_some(Request::SetRelayAndRead(state))
    }

    /// Whether the firmware that was read last takes both in one request, if that is known.
    fn takes_both(&self) -> Option<bool> {
        let firmware = &self.reported.as_ref()?.reading.device.sw_version;
        self.switch_and_read.known.as_ref().filter(|(known, _)| known == firmware).map(|&(_, takes)| takes)
    }

    fn learn_whether_it_takes_both(&mut self, takes: bool) {
        let Some(reported) = &self.reported else { return };
        let firmware = Arc::clone(&reported.reading.device.sw_version);
        self.switch_and_read = SwitchAndRead { known: Some((firmware, takes)), ..SwitchAndRead::default() };
    }

    /// It was switched, and may have told how it is since. What still shows the old state is no news: it is read back.
    pub(super) fn switched(
        &mut self,
        route: Route,
        flight: &InFlight,
        reading: Option<Reading>,
        ctx: &mut Ctx<'_>,
    ) {
        if self.takes_both() != Some(reading.is_some()) {
            self.learn_whether_it_takes_both(reading.is_some());
        }
        let is_wished = self.desired.iter().any(|desired| desired.is_said_by(&flight.request));
        let is_news = !self.is_old(flight.started);
        let shows_it = |reading: &Reading| reading.relay == switches(&flight.request, None);
        self.acted(route, flight, ctx);
        let Some(reading) = reading.filter(shows_it).filter(|_| is_news) else { return };
        let next = self.next_poll(route, flight.started, ctx.now);
        self.take(reading, flight.started, route, ctx);
        // What nobody wishes any more is looked at again at once.
        if is_wished {
            self.poll_at[route.index()] = self.sooner_if_watched(next, ctx.now);
        }
    }

    /// A request that switches and reads was not answered as it should be, and may have been carried out: the same
    /// state is asked for again, alone. True if at once, because the failure says nothing of the route.
    pub(super) fn is_to_switch_alone(&mut self, route: Route, flight: &InFlight, failure: &Failure) -> bool {
        let is_known_to_work = self.takes_both() == Some(true);
        let weight = match failure {
            Failure::Device { .. } => ENOUGH,
            Failure::Garbage(_) if is_known_to_work => 0,
            Failure::Garbage(_) => ENOUGH,
            Failure::Closed if !is_known_to_work => HALF,
            Failure::Silent if !is_known_to_work => HALF,
            _ => return false,
        };
        self.switch_and_read.doubt = Some(Doubt { route, weight });
        *failure != Failure::Silent && self.desired.iter().any(|desired| desired.is_said_by(&flight.request))
    }

    /// What is under way on this route is given up without an answer.
    pub(super) fn doubt_what_hangs(&mut self, route: Route) {
        if self.is_doubted_if_given_up(route) {
            self.switch_and_read.doubt = Some(Doubt { route, weight: HALF });
        }
    }

    fn is_doubted_if_given_up(&self, route: Route) -> bool {
        let reads_as_well = self.in_flight[route.index()].as_ref().is_some_and(|flight| flight.reads_as_well);
        reads_as_well && self.takes_both().is_none()
    }

    /// It was switched alone, or would not be: that is what was in doubt, if the route is the same.
    pub(super) fn switched_alone(&mut self, route: Route, was_done: bool) {
        let Some(doubt) = self.switch_and_read.doubt.take_if(|doubt| doubt.route == route) else { return };
        if was_done {
            self.switch_and_read.against += doubt.weight;
        }
        if self.switch_and_read.against >= ENOUGH {
            self.learn_whether_it_takes_both(false);
        }
    }
}
