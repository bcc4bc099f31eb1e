//! Why each route to a plug failed last, and the text for results and events.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::cause::{self, Cause};
use crate::model::{Failure, Route};
use crate::smarthome::message::Outlet;

/// The last failure of each route since it last worked. Nearly all plugs have none.
#[derive(Debug, Clone, Default)]
pub struct Failures(Option<Box<[Option<Failure>; 2]>>);

impl Failures {
    /// How the route failed last.
    pub fn get(&self, route: Route) -> Option<&Failure> {
        self.0.as_ref()?[route.index()].as_ref()
    }

    /// The route failed.
    pub fn note(&mut self, route: Route, failure: &Failure) {
        let known = &mut self.0.get_or_insert_default()[route.index()];
        if known.as_ref() != Some(failure) {
            *known = Some(failure.clone());
        }
    }

    /// The route works, or is not used.
    pub fn forget(&mut self, route: Route) {
        self.0.take_if(|known| {
            known[route.index()] = None;
            known.iter().all(Option::is_none)
        });
    }

    /// Adds why the route cannot be tried. A route that hangs is silent, if nothing else is known.
    pub(super) fn complete(&mut self, route: Route, unusable: Option<Failure>, hangs: bool) {
        let hangs = hangs && self.get(route).is_none();
        if let Some(failure) = unusable.or(hangs.then_some(Failure::Silent)) {
            self.note(route, &failure);
        }
    }

    /// `local: connection refused; cloud: …; more`.
    pub fn words(&self, more: Option<&str>) -> String {
        let of_route = |route: Route| self.get(route).map(|failure| format!("{route}: {failure}"));
        let mut words: Vec<_> = Route::ALL.into_iter().filter_map(of_route).collect();
        words.extend(more.map(str::to_owned));
        if words.is_empty() { "there was no route to try".to_owned() } else { words.join("; ") }
    }
}

/// The last failure of each route and of the commands to each part, with its time. It stays after all works again, because
/// a user wonders later what happened. Nearly all plugs have none.
#[derive(Debug, Default)]
pub(super) struct LastErrors(Option<Box<PlugErrors>>);

#[derive(Debug, Default)]
struct PlugErrors {
    routes: [Option<RouteError>; 2],
    commands: Vec<(Option<Outlet>, LastError)>,
}

#[derive(Debug)]
struct RouteError {
    failure: Failure,
    at: Instant,
}

impl LastErrors {
    pub(super) fn note(&mut self, route: Route, failure: &Failure, now: Instant) {
        match &mut self.0.get_or_insert_default().routes[route.index()] {
            Some(last) if last.failure == *failure => last.at = now,
            last => *last = Some(RouteError { failure: failure.clone(), at: now }),
        }
    }

    /// A command to this part, which came at `arrived`, failed.
    pub(super) fn note_command(
        &mut self,
        part: Option<Outlet>,
        route: Option<Route>,
        why: &str,
        arrived: Instant,
        now: Instant,
    ) {
        let cause = self.cause_since(arrived);
        let error = LastError { route, at: now, what: PlugError::Command { why: why.into(), cause } };
        let commands = &mut self.0.get_or_insert_default().commands;
        commands.retain(|(other, _)| *other != part);
        commands.push((part, error));
    }

    /// The last error that concerns this part.
    pub(super) fn newest(&self, part: Option<Outlet>) -> Option<LastError> {
        let route = self.routes().max_by_key(|(_, last)| last.at).map(|(route, last)| LastError {
            route: Some(route),
            at: last.at,
            what: PlugError::Route(last.failure.clone()),
        });
        let mut commands = self.0.iter().flat_map(|errors| &errors.commands);
        let command = commands.find(|(of, _)| *of == part).map(|(_, error)| error.clone());
        route.into_iter().chain(command).max_by_key(|error| error.at)
    }

    /// The likely cause of what failed since then, the LAN's first.
    fn cause_since(&self, since: Instant) -> Option<Cause> {
        let mut recent = self.routes().filter(|(_, last)| last.at >= since);
        recent.find_map(|(route, last)| cause_on(route, &last.failure))
    }

    fn routes(&self) -> impl Iterator<Item = (Route, &RouteError)> {
        let routes = self.0.iter().flat_map(|errors| &errors.routes);
        Route::ALL.into_iter().zip(routes).filter_map(|(route, last)| Some((route, last.as_ref()?)))
    }
}

/// The last error of a plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The route; `None` of a command that failed on no route or on several.
    pub route: Option<Route>,
    /// When it last happened.
    pub at: Instant,
    /// What failed. Prints as in the log.
    pub what: PlugError,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlugError {
    /// An exchange, or the attempt to begin one.
    Route(Failure),
    /// A command.
    Command {
        /// The error of its result.
        why: Arc<str>,
        /// What the routes said meanwhile.
        cause: Option<Cause>,
    },
}

impl LastError {
    /// What to do; `None` if the error says it.
    pub fn remedy(&self) -> Option<String> {
        let cause = match (&self.what, self.route) {
            (PlugError::Route(failure), Some(route)) => cause_on(route, failure),
            (PlugError::Route(failure), None) => cause_of(failure),
            (PlugError::Command { cause, .. }, _) => *cause,
        };
        cause.map(|cause| cause.advice())
    }
}

impl fmt::Display for PlugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(failure) => failure.fmt(f),
            Self::Command { why, .. } => f.write_str(why),
        }
    }
}

/// The likely cause of a failure on this route of which nothing else is known.
fn cause_on(route: Route, failure: &Failure) -> Option<Cause> {
    match (route, failure) {
        (Route::Cloud, Failure::Silent | Failure::Garbage(_) | Failure::Closed) => Some(cause::CLOUD_SILENT),
        (Route::Cloud, Failure::Unsupported(_)) => Some(cause::OTHER_FAMILY),
        _ => cause_of(failure),
    }
}

/// The likely cause of a failure of which nothing else is known. `None` if the failure's own text says what to do.
pub fn cause_of(failure: &Failure) -> Option<Cause> {
    match failure {
        Failure::NoAddress | Failure::NoRoute | Failure::Silent => Some(cause::NO_ANSWER),
        Failure::Refused => Some(cause::PORT_CLOSED),
        Failure::OutOfFiles => Some(cause::TOO_MANY_FILES),
        Failure::Closed => Some(cause::CLOSES_CONNECTION),
        Failure::Garbage(_) => Some(cause::NOT_A_PLUG),
        Failure::WrongPlug { .. } => Some(cause::ANOTHER_PLUG),
        Failure::KlapBlocked => Some(cause::KLAP_BLOCKED),
        Failure::OtherAccount => Some(cause::OTHER_ACCOUNT),
        Failure::NoLanAccount => Some(cause::NO_LAN_ACCOUNT),
        Failure::SessionTaken => Some(cause::SESSION_TAKEN),
        Failure::Device { .. } => Some(cause::PLUG_REFUSES),
        Failure::CloudDown(_) => Some(cause::CLOUD_OUT_OF_ORDER),
        Failure::CloudFailsHere(_) => Some(cause::CLOUD_SILENT),
        Failure::CloudOffline => Some(cause::CLOUD_OFFLINE),
        Failure::NotInAccount => Some(cause::NOT_IN_ACCOUNT),
        Failure::Unsupported(_) => Some(cause::OTHER_KIND),
        Failure::Throttled => Some(cause::THROTTLED),
        Failure::CloudRefused(_) | Failure::CloudStopped(_) | Failure::Abandoned => None,
    }
}
