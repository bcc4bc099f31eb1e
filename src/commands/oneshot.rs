//! One command to one plug without a daemon: the same bridge and the same transport, for as long as it takes.

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

/// The only command at its bridge.
const THE_COMMAND: CommandId = CommandId::new(Origin::CommandLine, 1);
/// How long the loop sleeps while nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// How the command ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: CommandResult,
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<Arc<PlugInfo>>,
    /// The last failure of each route.
    pub(super) failures: Failures,
}

/// Sends one command to a plug, or to one outlet of a strip, and waits for its result: for the entry's `command_ttl` at
/// most, for an outlet twice that, because the strip is read first. If no route can succeed any more, it ends at once.
pub(super) async fn run(
    mut entry: PlugSettings,
    outlet: Option<Outlet>,
    account: CloudAccount,
    lan_login: LanLogin,
    order: PlugCommand,
) -> Done {
    let device = entry.name.get_or_insert_with(PlugName::placeholder).clone();
    let chances = Chances::of(&entry, account.cloud.is_some());
    // If the device id is known, the account's list adds nothing.
    let sought = entry.identity.mac.filter(|_| entry.identity.device_id.is_none());
    let settings = Settings {
        policy: entry.policy,
        plugs: vec![entry],
        known: Vec::new(),
        adopt: false,
        cloud: account.cloud.is_some(),
    };
    let driver = Driver::new(Bridge::new(settings, Instant::now()), account, lan_login);
    let mut one_shot = OneShot { driver, sought, chances };
    let Some(outlet) = outlet else { return one_shot.carry(device, order).await };
    let mut asked = one_shot.carry(device, PlugCommand::Read).await;
    let name = asked.info.as_ref().and_then(|info| info.outlets.get(usize::from(outlet))).cloned();
    if let Some(name) = name {
        return one_shot.carry(name, order).await;
    }
    if asked.result.ended == Ended::Ok {
        let number = usize::from(outlet) + 1;
        let why = format!("the strip has no outlet {number}: see `hs100d discover`");
        asked.result.ended = Ended::Error(why);
    }
    asked
}

/// A bridge with its transport, for one command after another.
struct OneShot {
    driver: Driver,
    /// The MAC of a plug whose device id only the account knows.
    sought: Option<Mac>,
    chances: Chances,
}

impl OneShot {
    async fn carry(&mut self, plug: PlugName, order: PlugCommand) -> Done {
        let begun = Instant::now();
        self.chances.is_answered = false;
        self.driver.bridge.handle(Event::Command { id: THE_COMMAND, plug: plug.clone(), order }, begun);
        self.driver.bridge.republish(begun);
        let (mut state, mut info) = (None, None);
        let result = loop {
            let mut ended = None;
            while let Some(action) = self.driver.bridge.poll_action() {
                if matches!(action, Action::ListAccount) && self.sought.is_none() {
                    continue;
                }
                self.chances.note(&action);
                match self.driver.perform(action) {
                    Some(Action::Publish(Update::State(of, told))) if of == plug => state = Some(told),
                    Some(Action::Publish(Update::Info(of, told))) if of == plug => info = Some(told),
                    Some(Action::Publish(Update::Result(result))) => ended = Some(result),
                    _ => {}
                }
            }
            if let Some(result) = ended {
                break result;
            }
            if let Some(why) = self.chances.are_gone() {
                let (id, ended, took) = (THE_COMMAND, Ended::Error(why), begun.elapsed());
                break CommandResult { id, plug, ended, state: None, route: None, took };
            }
            let wake = self.driver.bridge.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
            let event = tokio::select! {
                incoming = self.driver.next() => self.take_in(incoming),
                () = sleep_until(wake.into()) => None,
            };
            self.driver.handle(event, Instant::now());
        };
        Done { result, state, info, failures: self.chances.failures.clone() }
    }

    fn take_in(&mut self, incoming: Incoming) -> Option<Event> {
        match incoming {
            Incoming::Event(event) => {
                self.chances.heard(&event);
                Some(event)
            }
            Incoming::Listed(listed) => {
                self.listed(listed);
                None
            }
        }
    }

    fn listed(&mut self, listed: Result<Vec<Row>, CloudError>) {
        let failure = match listed {
            Ok(rows) if rows.iter().any(|row| row.mac == self.sought) => return,
            Ok(_) => Failure::NotInAccount,
            Err(error) => error.into(),
        };
        self.chances.fails(Route::Cloud, &failure);
        self.chances.is_unlisted = true;
    }
}

/// Which routes may still succeed. If none can, the command ends before its time is over: a user waits at a terminal.
struct Chances {
    /// Whether a route may be used, by [`Route::index`].
    usable: [bool; 2],
    /// The last failure of each route.
    failures: Failures,
    in_flight: HashMap<ExchangeId, Route>,
    /// The plug answered, and may have executed the command.
    is_answered: bool,
    /// The account's list, which the cloud needs, does not have the plug.
    is_unlisted: bool,
}

impl Chances {
    fn of(entry: &PlugSettings, has_cloud: bool) -> Self {
        let policy = entry.policy.preference;
        let is_local = policy != RoutePreference::Cloud;
        let is_known = entry.identity != Identity::default();
        let mut chances = Self {
            usable: [is_local, policy != RoutePreference::Local && has_cloud && is_known],
            failures: Failures::default(),
            in_flight: HashMap::new(),
            is_answered: false,
            is_unlisted: false,
        };
        if entry.address.is_none() {
            chances.fails(Route::Local, &Failure::NoAddress);
        }
        chances
    }

    /// A route that is not used cannot fail.
    fn fails(&mut self, route: Route, failure: &Failure) {
        if self.usable[route.index()] {
            self.failures.note(route, failure);
        }
    }

    fn note(&mut self, action: &Action) {
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

    fn came_out(&mut self, exchange: ExchangeId, outcome: &Outcome) {
        let Some(route) = self.ended(exchange) else { return };
        match &outcome.result {
            Ok(_) => {
                self.is_answered = true;
                self.failures.forget(route);
            }
            Err(failure) => self.fails(route, failure),
        }
    }

    fn heard(&mut self, event: &Event) {
        match event {
            Event::Done { exchange, outcome } => self.came_out(*exchange, outcome),
            Event::Cloud(CloudStatus::Stopped(why)) => {
                self.fails(Route::Cloud, &Failure::CloudStopped(why.clone()));
            }
            _ => {}
        }
    }

    /// The reasons, if no route can succeed any more.
    fn are_gone(&self) -> Option<String> {
        let is_open = |route: Route| {
            let is_in_flight = self.in_flight.values().any(|other| *other == route);
            let is_lasting = |failure| lasts(failure) || (route == Route::Cloud && self.is_unlisted);
            self.usable[route.index()] && (is_in_flight || !self.failures.get(route).is_some_and(is_lasting))
        };
        let is_over = !self.is_answered && !Route::ALL.into_iter().any(is_open);
        is_over.then(|| self.failures.words(None))
    }
}

/// Whether another try within seconds would most likely fail in the same way.
fn lasts(failure: &Failure) -> bool {
    match failure {
        Failure::NoAddress | Failure::Refused | Failure::NoRoute | Failure::WrongPlug { .. } => true,
        Failure::CloudOffline | Failure::NotInAccount | Failure::CloudRefused(_) => true,
        Failure::Unsupported(_) | Failure::Throttled | Failure::CloudStopped(_) => true,
        Failure::KlapBlocked | Failure::OtherAccount => true,
        Failure::Silent | Failure::Closed | Failure::Garbage(_) | Failure::Abandoned => false,
        Failure::SessionTaken => false,
        // The plug refused: the bridge ends the command.
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

    fn chances(policy: RoutePreference, address: Option<&str>, device_id: Option<&str>) -> Chances {
        let identity = Identity { device_id: device_id.and_then(DeviceId::new), mac: None };
        let address = address.and_then(|text| Address::new(text, 9999));
        let policy = RoutePolicy { preference: policy, ..RoutePolicy::default() };
        Chances::of(&PlugSettings { name: None, identity, address, policy }, true)
    }

    #[test]
    fn nothing_is_waited_for_once_no_route_can_succeed() {
        let id = |number| ExchangeId::new(PlugKey(0), number);
        let fails = |chances: &mut Chances, number, route, failure| {
            chances.begun(id(number), route);
            chances.came_out(id(number), &Outcome::of(Err(failure)));
        };
        let mut both = chances(RoutePreference::LocalThenCloud, Some("192.0.2.1"), Some("80060001"));
        assert_eq!(both.are_gone(), None);
        fails(&mut both, 1, Route::Local, Failure::Refused);
        assert_eq!(both.are_gone(), None, "the cloud was not asked yet");
        fails(&mut both, 2, Route::Cloud, Failure::NotInAccount);
        let why = "local: connection refused; cloud: the account does not list the plug";
        assert_eq!(both.are_gone().as_deref(), Some(why));
        both.begun(id(3), Route::Local);
        assert_eq!(both.are_gone(), None, "it is asked again");
        both.ended(id(3));
        fails(&mut both, 4, Route::Local, Failure::Silent);
        assert_eq!(both.are_gone(), None, "silence may end");

        let mut at_an_address = chances(RoutePreference::LocalThenCloud, Some("192.0.2.1"), None);
        fails(&mut at_an_address, 1, Route::Local, Failure::NoRoute);
        assert_eq!(at_an_address.are_gone().as_deref(), Some("local: no route to the host"));
        let nowhere = chances(RoutePreference::Local, None, Some("80060001")).are_gone();
        assert_eq!(nowhere.as_deref(), Some("local: its address on the LAN is not known"));

        let mut stopped = chances(RoutePreference::Local, Some("192.0.2.1"), Some("80060001"));
        stopped.heard(&Event::Cloud(CloudStatus::Stopped("wrong password".into())));
        fails(&mut stopped, 1, Route::Local, Failure::Refused);
        let why = stopped.are_gone();
        assert_eq!(why.as_deref(), Some("local: connection refused"), "the cloud was not to be used");

        let mut acted = chances(RoutePreference::Local, Some("192.0.2.1"), None);
        acted.begun(id(1), Route::Local);
        acted.came_out(id(1), &Outcome::of(Ok(crate::smarthome::message::Reply::Done)));
        fails(&mut acted, 2, Route::Local, Failure::Refused);
        assert_eq!(acted.are_gone(), None, "it may have been switched, so it is read until the time is over");
    }
}
