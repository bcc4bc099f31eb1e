//! Executes one command at one plug without a daemon, with a bridge and a transport of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::Failed;
use crate::bridge::event::{
    Action, CloudStatus, CommandId, CommandResult, Ended, Event, ExchangeId, Identity, Origin, Outcome,
    PlugInfo, PlugState, Update,
};
use crate::bridge::failures::Failures;
use crate::bridge::route::RoutePreference;
use crate::bridge::{Bridge, PlugSettings, Settings};
use crate::config::Config;
use crate::daemon::StartError;
use crate::daemon::driver::{CloudAccount, Driver, Incoming};
use crate::daemon::lan_login::LanLogin;
use crate::model::{Failure, Mac, PlugCommand, PlugName, Route};
use crate::smarthome::message::Outlet;
use crate::store::Store;
use crate::transport::cloud::CloudError;
use crate::transport::cloud::api::Row;
use crate::transport::cloud::session::AccountMemory;

/// The id of the command: its bridge has no other one.
const COMMAND_ID: CommandId = CommandId::new(Origin::CommandLine, 1);
/// How long the loop sleeps if no timer runs.
const IDLE: Duration = Duration::from_secs(1);

/// The result of the command, and what is known about the plug.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: CommandResult,
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<Arc<PlugInfo>>,
    /// The last failure of each route.
    pub(super) failures: Failures,
    /// What the plug waits for next, the earliest first, in the words that SIGUSR1 has the daemon log.
    pub(super) waits_for: Vec<String>,
}

/// Executes a command at a plug, or at one outlet of a strip, and waits for its result: at most the `command_ttl` of the
/// entry, or twice that where the plug is read first. Ends at once if no route can succeed.
pub(super) async fn run(
    mut entry: PlugSettings,
    outlet: Option<Outlet>,
    account: CloudAccount,
    lan_login: LanLogin,
    command: PlugCommand,
) -> Done {
    let plug = entry.name.get_or_insert_with(PlugName::placeholder).clone();
    let open_routes = OpenRoutes::of(&entry, account.cloud.is_some());
    // If the device id is known, the account's list adds nothing.
    let mac_to_list = entry.identity.mac.filter(|_| entry.identity.device_id.is_none());
    let settings = Settings {
        policy: entry.policy,
        plugs: vec![entry],
        known: Vec::new(),
        adopt: false,
        cloud: account.cloud.is_some(),
    };
    let mut one_shot = OneShot {
        driver: Driver::new(Bridge::new(settings, Instant::now()), account, lan_login),
        mac_to_list,
        open_routes,
    };
    // An outlet has no name before its strip is read, and only a plug that was read is known not to dim.
    let needs_reading =
        outlet.is_some() || matches!(&command, PlugCommand::Set(set) if set.brightness.is_some());
    if !needs_reading {
        return one_shot.execute(plug, command).await;
    }
    let mut read = one_shot.execute(plug.clone(), PlugCommand::Read).await;
    let Some(outlet) = outlet else {
        let is_read = read.result.ended == Ended::Ok;
        return if is_read { one_shot.execute(plug, command).await } else { read };
    };
    let name = read.info.as_ref().and_then(|info| info.outlets.get(usize::from(outlet))).cloned();
    if let Some(name) = name {
        return one_shot.execute(name, command).await;
    }
    if read.result.ended == Ended::Ok {
        let number = usize::from(outlet) + 1;
        let why = format!("the strip has no outlet {number}: see `hs100d discover`");
        read.result.ended = Ended::Error(why);
    }
    read
}

/// A bridge with its transport, for one command after another.
struct OneShot {
    driver: Driver,
    /// The MAC of a plug whose device id must be looked up in the account's list.
    mac_to_list: Option<Mac>,
    open_routes: OpenRoutes,
}

impl OneShot {
    async fn execute(&mut self, plug: PlugName, command: PlugCommand) -> Done {
        let begun = Instant::now();
        self.open_routes.is_answered = false;
        self.driver
            .bridge
            .handle(Event::Command { id: COMMAND_ID, plug: plug.clone(), order: command }, begun);
        self.driver.bridge.republish(begun);
        let (mut state, mut info) = (None, None);
        let result = loop {
            let mut ended = None;
            while let Some(action) = self.driver.bridge.poll_action() {
                if matches!(action, Action::ListAccount) && self.mac_to_list.is_none() {
                    continue;
                }
                self.open_routes.on_action(&action);
                match self.driver.perform(action) {
                    Some(Action::Publish(Update::State(of, new))) if of == plug => state = Some(new),
                    Some(Action::Publish(Update::Info(of, new))) if of == plug => info = Some(new),
                    Some(Action::Publish(Update::Result(result))) => ended = Some(result),
                    _ => {}
                }
            }
            if let Some(result) = ended {
                break result;
            }
            if let Some(why) = self.open_routes.exhausted() {
                let (id, ended, took) = (COMMAND_ID, Ended::Error(why), begun.elapsed());
                break CommandResult { id, plug, ended, state: None, route: None, took };
            }
            let wake = self.driver.bridge.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
            let event = tokio::select! {
                incoming = self.driver.next() => self.on_incoming(incoming),
                () = sleep_until(wake.into()) => None,
            };
            self.driver.handle(event, Instant::now());
        };
        let (failures, waits_for) = (self.open_routes.failures.clone(), self.waits_for(Instant::now()));
        Done { result, state, info, failures, waits_for }
    }

    /// The timers of the plug; the bridge serves no other one.
    fn waits_for(&self, now: Instant) -> Vec<String> {
        let timers = self.driver.bridge.waiting(now).filter(|timer| timer.plug.is_some());
        timers.map(|timer| timer.in_words(now)).collect()
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Option<Event> {
        match incoming {
            Incoming::Event(event) => {
                self.open_routes.on_event(&event);
                Some(event)
            }
            Incoming::Listed(listed) => {
                self.on_list(listed);
                None
            }
        }
    }

    fn on_list(&mut self, listed: Result<Vec<Row>, CloudError>) {
        let failure = match listed {
            Ok(rows) if rows.iter().any(|row| row.mac == self.mac_to_list) => return,
            Ok(_) => Failure::NotInAccount,
            Err(error) => error.into(),
        };
        self.open_routes.failed(Route::Cloud, &failure);
        self.open_routes.is_unlisted = true;
    }
}

/// The routes that may still succeed. If there is none, the command ends before its time is over: a user waits for it.
struct OpenRoutes {
    /// Whether a route may be used, by [`Route::index`].
    usable: [bool; 2],
    /// The last failure of each route.
    failures: Failures,
    in_flight: HashMap<ExchangeId, Route>,
    /// Whether the plug answered: it may have executed the command.
    is_answered: bool,
    /// Whether the account's list, which the cloud route needs, failed or lacks the plug.
    is_unlisted: bool,
}

impl OpenRoutes {
    fn of(entry: &PlugSettings, has_cloud: bool) -> Self {
        let policy = entry.policy.preference;
        let is_local = policy != RoutePreference::Cloud;
        let is_known = entry.identity != Identity::default();
        let mut routes = Self {
            usable: [is_local, policy != RoutePreference::Local && has_cloud && is_known],
            failures: Failures::default(),
            in_flight: HashMap::new(),
            is_answered: false,
            is_unlisted: false,
        };
        if entry.address.is_none() {
            routes.failed(Route::Local, &Failure::NoAddress);
        }
        routes
    }

    /// Notes a failure, unless the route is not used.
    fn failed(&mut self, route: Route, failure: &Failure) {
        if self.usable[route.index()] {
            self.failures.note(route, failure);
        }
    }

    fn on_action(&mut self, action: &Action) {
        match action {
            Action::Perform(exchange) => self.begun(exchange.id, exchange.route()),
            Action::Abandon(exchange) => drop(self.ended(*exchange)),
            _ => {}
        }
    }

    fn begun(&mut self, exchange: ExchangeId, route: Route) {
        self.in_flight.insert(exchange, route);
    }

    fn ended(&mut self, exchange: ExchangeId) -> Option<Route> {
        self.in_flight.remove(&exchange)
    }

    fn on_outcome(&mut self, exchange: ExchangeId, outcome: &Outcome) {
        let Some(route) = self.ended(exchange) else { return };
        match &outcome.result {
            Ok(_) => {
                self.is_answered = true;
                self.failures.forget(route);
            }
            Err(failure) => self.failed(route, failure),
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Done { exchange, outcome } => self.on_outcome(*exchange, outcome),
            Event::Cloud(CloudStatus::Stopped(why)) => {
                self.failed(Route::Cloud, &Failure::CloudStopped(why.clone()));
            }
            _ => {}
        }
    }

    /// If no route can succeed any more, the failure of each.
    fn exhausted(&self) -> Option<String> {
        let is_open = |route: Route| {
            let is_in_flight = self.in_flight.values().any(|other| *other == route);
            let is_lasting = |failure| lasts(failure) || (route == Route::Cloud && self.is_unlisted);
            self.usable[route.index()] && (is_in_flight || !self.failures.get(route).is_some_and(is_lasting))
        };
        let is_over = !self.is_answered && !Route::ALL.into_iter().any(is_open);
        is_over.then(|| self.failures.words(None))
    }
}

/// Whether another attempt within seconds would most likely fail in the same way.
fn lasts(failure: &Failure) -> bool {
    match failure {
        Failure::NoAddress | Failure::Refused | Failure::NoRoute | Failure::WrongPlug { .. } => true,
        Failure::CloudOffline | Failure::NotInAccount | Failure::CloudRefused(_) => true,
        Failure::Unsupported(_) | Failure::Throttled | Failure::CloudStopped(_) => true,
        Failure::KlapBlocked | Failure::OtherAccount | Failure::NoLanAccount => true,
        Failure::Silent | Failure::Closed | Failure::Garbage(_) | Failure::Abandoned => false,
        Failure::SessionTaken => false,
        // The plug refused the command: the bridge ends it.
        Failure::Device { .. } => false,
        Failure::CloudDown(_) | Failure::CloudFailsHere(_) | Failure::OutOfFiles => false,
    }
}

/// The account of the config, if there is one.
pub(super) fn account(config: &Config, store: &Store) -> Result<CloudAccount, Failed> {
    let (tokens, memory) = (store.token_file(), AccountMemory::default());
    Ok(CloudAccount::start(config, tokens, store.terminal(), &memory).map_err(StartError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::PlugKey;
    use crate::bridge::route::RoutePolicy;
    use crate::model::{Address, DeviceId};

    fn routes(policy: RoutePreference, address: Option<&str>, device_id: Option<&str>) -> OpenRoutes {
        let identity = Identity { device_id: device_id.and_then(DeviceId::new), mac: None };
        let address = address.and_then(|text| Address::new(text, 9999));
        let policy = RoutePolicy { preference: policy, ..RoutePolicy::default() };
        OpenRoutes::of(&PlugSettings { name: None, identity, address, policy }, true)
    }

    #[test]
    fn nothing_is_waited_for_once_no_route_can_succeed() {
        let id = |number| ExchangeId::new(PlugKey(0), number);
        let fails = |routes: &mut OpenRoutes, number, route, failure| {
            routes.begun(id(number), route);
            routes.on_outcome(id(number), &Outcome::of(Err(failure)));
        };
        let mut both = routes(RoutePreference::LocalThenCloud, Some("192.0.2.1"), Some("80060001"));
        assert_eq!(both.exhausted(), None);
        fails(&mut both, 1, Route::Local, Failure::Refused);
        assert_eq!(both.exhausted(), None, "no exchange over the cloud yet");
        fails(&mut both, 2, Route::Cloud, Failure::NotInAccount);
        let why = "local: connection refused; cloud: the account does not list the plug";
        assert_eq!(both.exhausted().as_deref(), Some(why));
        both.begun(id(3), Route::Local);
        assert_eq!(both.exhausted(), None, "an exchange is in flight");
        both.ended(id(3));
        fails(&mut both, 4, Route::Local, Failure::Silent);
        assert_eq!(both.exhausted(), None, "the next attempt may succeed");

        let mut at_an_address = routes(RoutePreference::LocalThenCloud, Some("192.0.2.1"), None);
        fails(&mut at_an_address, 1, Route::Local, Failure::NoRoute);
        assert_eq!(at_an_address.exhausted().as_deref(), Some("local: no route to the host"));
        let nowhere = routes(RoutePreference::Local, None, Some("80060001")).exhausted();
        assert_eq!(nowhere.as_deref(), Some("local: its address on the LAN is not known"));

        let mut stopped = routes(RoutePreference::Local, Some("192.0.2.1"), Some("80060001"));
        stopped.on_event(&Event::Cloud(CloudStatus::Stopped("wrong password".into())));
        fails(&mut stopped, 1, Route::Local, Failure::Refused);
        let why = stopped.exhausted();
        assert_eq!(why.as_deref(), Some("local: connection refused"), "the cloud was not to be used");

        let mut acted = routes(RoutePreference::Local, Some("192.0.2.1"), None);
        acted.begun(id(1), Route::Local);
        acted.on_outcome(id(1), &Outcome::of(Ok(crate::smarthome::message::Reply::Done)));
        fails(&mut acted, 2, Route::Local, Failure::Refused);
        assert_eq!(
            acted.exhausted(),
            None,
            "it may have been switched, so it is read until the time is over"
        );
    }
}
