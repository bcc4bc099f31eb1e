//! `check --online`: tries the broker, the account and each plug, and says for each what came back and what helps.
//!
//! Reads only: no plug is switched, and a running daemon is not disturbed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::errand::Account;
use super::{Exit, Failed};
use crate::bridge::event::{Exchange, ExchangeId, Identity, Outcome, PlugKey, Said, Target};
use crate::bridge::route::Policy;
use crate::config::{Config, MqttChoice};
use crate::model::{Address, Failure, Route};
use crate::mqtt;
use crate::smarthome::message::{Reply, Request};
use crate::store::Store;
use crate::transport::cloud::{Cloud, CloudError};
use crate::transport::discovery::Discovery;
use crate::transport::local::Lan;

/// A broker answers in milliseconds, one far away in a second.
const BROKER_WITHIN: Duration = Duration::from_secs(10);
/// How long plugs may take to answer a broadcast.
const SEARCH: Duration = Duration::from_secs(2);
/// So many plugs are asked at once.
const AT_ONCE: usize = 32;

/// What was tried, and how it went.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// `broker`, `cloud`, or `plug NAME`.
    what: String,
    ok: bool,
    /// What came back.
    found: String,
    /// What to do, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Tries everything that the config names or the store remembers.
pub(super) async fn examine(config: &Config, state_dir: &Path) -> Result<Vec<Finding>, Failed> {
    let store = Store::open(state_dir).0;
    let account = Account::of(config, &store)?;
    let mut findings = vec![examine_broker(config.mqtt(store.instance(), state_dir)).await];
    let mut cloud_works = false;
    if let Some(cloud) = &account.cloud {
        let finding = examine_account(cloud).await;
        cloud_works = finding.ok;
        findings.push(finding);
    }
    let cloud = account.cloud.filter(|_| cloud_works);
    findings.extend(examine_plugs(patients(config, &store).await, cloud).await);
    Ok(findings)
}

/// A line each.
pub(super) fn in_words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { what, ok, found, remedy } in findings {
        let verdict = if *ok { "ok  " } else { "FAIL" };
        let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!(": {remedy}"));
        _ = writeln!(text, "{verdict}  {what}: {found}{remedy}");
    }
    text
}

/// What to exit with.
pub(super) fn verdict(findings: &[Finding]) -> Result<(), Failed> {
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(()),
        failed => {
            let line = format!("check: {failed} of {} tries failed: see the lines above", findings.len());
            Err(Failed::new(Exit::Unavailable, line))
        }
    }
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, found: found.into(), remedy: None }
    }

    fn bad(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), ok: false, found: found.into(), remedy: Some(remedy.into()) }
    }
}

async fn examine_broker(choice: MqttChoice) -> Finding {
    match choice {
        MqttChoice::Outside(options) => {
            let place = format!("{}:{}", options.host, options.port);
            match mqtt::probe(options, BROKER_WITHIN).await {
                Ok(()) => Finding::ok("broker", format!("{place} takes us and lets us hear commands")),
                Err(why) => Finding { what: "broker".into(), ok: false, found: why, remedy: None },
            }
        }
        MqttChoice::Embedded { broker, .. } => match std::net::TcpListener::bind(broker.listen) {
            Ok(_) => Finding::ok("broker", format!("the embedded one can listen on {}", broker.listen)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::ok(
                "broker",
                format!("something listens on {} already: the daemon, if it is running", broker.listen),
            ),
            Err(error) => Finding::bad(
                "broker",
                format!("the embedded one cannot listen on {}: {error}", broker.listen),
                "choose another broker.listen",
            ),
        },
    }
}

async fn examine_account(cloud: &Cloud) -> Finding {
    match cloud.list().await {
        Ok(rows) => {
            let connected = rows.iter().filter(|row| row.connected).count();
            Finding::ok(
                "cloud",
                format!("the account lists {} devices, {connected} of them connected", rows.len()),
            )
        }
        Err(error) => {
            let remedy = match &error {
                CloudError::Down(_) | CloudError::Silent => {
                    "check the internet connection and the clock of this machine; the LAN works without it"
                }
                CloudError::Throttled => "do not log in or restart in the meantime",
                CloudError::Stopped(_)
                | CloudError::Plug(_)
                | CloudError::Faulty(_)
                | CloudError::NotSaved(_) => "",
            };
            let remedy = Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty());
            Finding { what: "cloud".into(), ok: false, found: error.to_string(), remedy }
        }
    }
}

/// A plug to be tried.
struct Patient {
    name: String,
    identity: Identity,
    address: Option<Address>,
    policy: Policy,
    patience: [Duration; 2],
}

/// The plugs of the config, and with adoption those of the store and those that answer a broadcast.
async fn patients(config: &Config, store: &Store) -> Vec<Patient> {
    let known = store.known_plugs();
    let sighted = sighted(config).await;
    let policy = config.bridge.policy;
    let patience = [policy.local_timeout, policy.cloud_timeout];
    let address_of = |identity: &Identity| {
        let is_it = |other: &Identity| match &identity.device_id {
            Some(id) => other.device_id.as_ref() == Some(id),
            None => identity.mac.is_some() && other.mac == identity.mac,
        };
        let seen = sighted.iter().find(|(other, ..)| is_it(other)).map(|(_, _, address)| address.clone());
        let remembered = known
            .iter()
            .find(|plug| is_it(&Identity { device_id: Some(plug.device_id.clone()), mac: plug.mac }));
        seen.or_else(|| remembered.and_then(|plug| plug.address.clone()))
    };
    let mut patients: Vec<Patient> = Vec::new();
    for entry in &config.bridge.plugs {
        let address = entry.address.clone().or_else(|| address_of(&entry.identity));
        let name = entry
            .name
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| address.as_ref().map(ToString::to_string));
        patients.push(Patient {
            name: name.unwrap_or_else(|| "without a name".into()),
            identity: entry.identity.clone(),
            address,
            policy: entry.policy.policy,
            patience,
        });
    }
    if config.bridge.adopt {
        let stored = known.iter().map(|plug| {
            let identity = Identity { device_id: Some(plug.device_id.clone()), mac: plug.mac };
            (identity, plug.name.to_string(), plug.address.clone())
        });
        let seen = sighted
            .iter()
            .map(|(identity, alias, address)| (identity.clone(), alias.clone(), Some(address.clone())));
        for (identity, name, address) in stored.chain(seen) {
            let is_there = |patient: &Patient| {
                (identity.device_id.is_some() && patient.identity.device_id == identity.device_id)
                    || (address.is_some() && patient.address == address)
            };
            if !patients.iter().any(is_there) {
                let address = address_of(&identity).or(address);
                patients.push(Patient { name, identity, address, policy: policy.policy, patience });
            }
        }
    }
    patients
}

async fn sighted(config: &Config) -> Vec<(Identity, String, Address)> {
    let Some(options) = config.discovery.clone() else { return Vec::new() };
    let mut discovery = Discovery::start(options);
    let mut sighted: Vec<(Identity, String, Address)> = Vec::new();
    let search = async {
        loop {
            let sighting = discovery.next().await;
            let Said::SysInfo(reading) = sighting.said else { continue };
            if !sighted.iter().any(|(.., address)| *address == sighting.address) {
                let plate = &reading.plate;
                let identity = Identity { device_id: plate.device_id.clone(), mac: plate.mac };
                sighted.push((identity, plate.alias.escape_debug().to_string(), sighting.address));
            }
        }
    };
    // The search ends with its time; that is how it is meant to end.
    let _ = timeout(SEARCH, search).await;
    sighted
}

async fn examine_plugs(patients: Vec<Patient>, cloud: Option<Cloud>) -> Vec<Finding> {
    let lan = Arc::new(Lan::default());
    let mut waiting = patients.into_iter().enumerate();
    let mut under_way = JoinSet::new();
    let mut findings = Vec::new();
    loop {
        while under_way.len() < AT_ONCE {
            let Some((number, patient)) = waiting.next() else { break };
            let (lan, cloud) = (Arc::clone(&lan), cloud.clone());
            under_way.spawn(async move { (number, examine_plug(&patient, &lan, cloud.as_ref()).await) });
        }
        match under_way.join_next().await {
            Some(Ok(found)) => findings.push(found),
            Some(Err(_)) => {}
            None => break,
        }
    }
    findings.sort_by_key(|(number, _)| *number);
    findings.into_iter().flat_map(|(_, findings)| findings).collect()
}

/// One line for each route that the plug may be reached by.
async fn examine_plug(patient: &Patient, lan: &Lan, cloud: Option<&Cloud>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if patient.policy != Policy::Cloud {
        findings.push(match &patient.address {
            Some(address) => {
                let target = Target::Local { address: address.clone(), expect: patient.identity.clone() };
                let exchange = exchange(patient, target, Route::Local);
                patient.finding(&exchange, lan.perform(&exchange, address, &patient.identity).await)
            }
            None => patient.failed(Route::Local, &Failure::NoAddress),
        });
    }
    if let (Some(cloud), Some(device_id), true) =
        (cloud, &patient.identity.device_id, patient.policy != Policy::Local)
    {
        let exchange = exchange(patient, Target::Cloud { device_id: device_id.clone() }, Route::Cloud);
        let outcome = cloud.perform(&exchange).await;
        findings.push(patient.finding(&exchange, outcome));
    }
    findings
}

fn exchange(patient: &Patient, target: Target, route: Route) -> Exchange {
    Exchange {
        id: ExchangeId::new(PlugKey(0), 0),
        plug: PlugKey(0),
        label: patient.name.as_str().into(),
        target,
        request: Request::SysInfo,
        deadline: Instant::now() + patient.patience[route.index()],
        urgent: true,
        plate: None,
    }
}

impl Patient {
    fn finding(&self, exchange: &Exchange, outcome: Outcome) -> Finding {
        let route = exchange.route();
        match outcome.result {
            Ok(Reply::SysInfo(reading)) => {
                let state = reading.relay.map_or("no relay".to_owned(), |relay| relay.to_string());
                let signal = reading.rssi.map_or_else(String::new, |dbm| format!(", signal {dbm} dBm"));
                Finding::ok(self.what(route), format!("{} answers: {state}{signal}", reading.plate.model))
            }
            Ok(_) => self.failed(route, &Failure::Garbage("no sysinfo".into())),
            Err(failure) => self.failed(route, &failure),
        }
    }

    fn failed(&self, route: Route, failure: &Failure) -> Finding {
        let place = self.address.as_ref().filter(|_| route == Route::Local);
        let found = place.map_or_else(|| failure.to_string(), |place| format!("{place}: {failure}"));
        Finding::bad(self.what(route), found, remedy(failure))
    }

    fn what(&self, route: Route) -> String {
        format!("plug {} ({route})", self.name)
    }
}

/// The likely cause and what helps, by what is known of these plugs.
fn remedy(failure: &Failure) -> &'static str {
    match failure {
        Failure::NoAddress => {
            "it did not answer a broadcast: is it powered and on this network? A plug behind a router, on another VLAN \
             or with AP isolation needs `host` in its [[plug]] entry"
        }
        Failure::Refused => {
            "its firmware may have closed TCP 9999: in the Kasa app, Me > Settings > Third-Party Compatibility opens \
             it again; a power cycle helps plugs whose port has died"
        }
        Failure::NoRoute => {
            "nothing has this address now: the plug is off, off the Wi-Fi, or has another address"
        }
        Failure::Silent => {
            "it may be off, on another VLAN, behind AP isolation or a firewall; a plug that hangs needs a power cycle"
        }
        Failure::Closed => {
            "try again: healthy plugs do this now and then, and while another client talks to them"
        }
        Failure::Garbage(_) => "what listens there may be no plug: check the address",
        Failure::WrongPlug { .. } => {
            "the address has another plug: correct `host` or `device_id`, or run `hs100d forget` for a plug that was \
             replaced"
        }
        Failure::Device { .. } => "the plug understood and refuses: update its firmware, or power-cycle it",
        Failure::CloudDown(_) => "check the internet connection; the LAN works without it",
        Failure::CloudOffline => {
            "the plug has no connection to TP-Link: check its internet access, and remote control in the Kasa app"
        }
        Failure::NotInAccount => {
            "add it to this account in the Kasa app, or use the account that it belongs to"
        }
        Failure::Unsupported(_) => "it can be reached over the other route only",
        Failure::Throttled => "wait some minutes; do not restart or log in again in the meantime",
        Failure::CloudStopped(_) => "see the line of the cloud",
        Failure::OutOfFiles => "close what else is running in this session, or raise its limit",
        Failure::Abandoned => "try again",
    }
}
