//! Examines the broker: whether it accepts us, and what a running daemon has published there.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::diagnosis::of_broker;
use super::report::{Finding, FindingSubject, Try};
use crate::cause::{self, Cause};
use crate::config::MqttChoice;
use crate::model::shown;
use crate::mqtt::{self, BrokerUnusable, MqttSettings, Probed};

/// A broker answers in milliseconds, a distant one in a second.
const WITHIN: Duration = Duration::from_secs(10);
/// The most addresses of one host that are tried.
const MOST_ADDRESSES: usize = 16;
/// The longest part of a daemon's text that is printed, in characters.
const WORDS_SHOWN: usize = 300;

/// What is known about a running daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DaemonState {
    /// It says that it is online.
    pub(super) is_online: bool,
    /// Why it has stopped using the account.
    pub(super) cloud_stopped: Option<String>,
}

/// Tries each broker that the config names, or the one that it chooses.
pub(super) async fn examine(choice: MqttChoice) -> (Vec<Finding>, DaemonState) {
    match choice {
        MqttChoice::Outside(options) => {
            let is_one = options.others.is_empty();
            let (mut findings, mut daemon) = (Vec::new(), DaemonState::default());
            for broker in options.brokers() {
                let name = broker.to_string();
                let (finding, notes, found) = examine_one(options.only_at(broker)).await;
                findings.push(if is_one { finding } else { finding.named(name) });
                findings.extend(notes);
                if !daemon.is_online {
                    daemon = found;
                }
            }
            (findings, daemon)
        }
        MqttChoice::Awaited => {
            let found = "the Supervisor names it; the log of the app says which";
            (vec![Finding::good(FindingSubject::Broker, found)], DaemonState::default())
        }
        MqttChoice::Embedded { broker, link } => {
            let (finding, daemon) = examine_embedded(broker.listen, link).await;
            (vec![finding], daemon)
        }
    }
}

/// Tries one broker. If its host has several addresses, each is tried, and the first that accepts us is examined; one that does
/// not gets a note, because the daemon uses another one.
async fn examine_one(options: MqttSettings) -> (Finding, Vec<Finding>, DaemonState) {
    let addresses = mqtt::addresses(&options, WITHIN).await;
    let (mut only, mut tries, mut notes) = (None, Vec::new(), Vec::new());
    if addresses.len() > 1 {
        // All at once, because a silent one takes all the time that it has.
        let log_in = |address| (address, tokio::spawn(log_in_at(options.clone(), address)));
        let logins: Vec<_> = addresses.into_iter().take(MOST_ADDRESSES).map(log_in).collect();
        for (address, login) in logins {
            let Ok((tried, accepted)) = login.await else { continue };
            tries.push(tried);
            match accepted {
                Ok(()) => _ = only.get_or_insert(address),
                Err(unusable) => {
                    let cause = Cause { remedy: unusable.remedy, ..of_broker(unusable.reason) };
                    let note = Finding::note(FindingSubject::Broker, words_without_remedy(&unusable), cause);
                    notes.push(note.named(format!("address {address}")));
                }
            }
        }
    }
    let (of_all, probed) = probe(options, only).await;
    tries.extend(of_all);
    let finding = match &probed {
        Ok(_) => Finding::good(FindingSubject::Broker, "connected; subscribing and publishing work"),
        Err(unusable) => {
            if only.is_none() {
                // It says the same of all of them.
                notes.clear();
            }
            unusable_finding(unusable)
        }
    };
    (finding.after(tries), notes, DaemonState::of(probed.ok().as_ref()))
}

async fn log_in_at(options: MqttSettings, address: SocketAddr) -> (Try, Result<(), BrokerUnusable>) {
    let begun = Instant::now();
    let accepted = mqtt::log_in_at(options, address, WITHIN).await;
    let came_back = accepted.as_ref().map_or_else(unusable_words, |()| "accepted".to_owned());
    (Try::since(begun, format!("log in at {address}"), came_back), accepted)
}

/// Looks whether the embedded broker can listen, or already does in a running daemon.
async fn examine_embedded(listen: SocketAddr, link: MqttSettings) -> (Finding, DaemonState) {
    let listening = Instant::now();
    let what = format!("listen on {listen}");
    match TcpListener::bind(listen) {
        Ok(_) => {
            let found = format!("the embedded broker can listen on {listen}");
            let tries = vec![Try::since(listening, what, "possible")];
            (Finding::good(FindingSubject::Broker, found).after(tries), DaemonState::default())
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let tried = Try::since(listening, what, "taken");
            let (mut tries, probed) = probe(link, None).await;
            tries.insert(0, tried);
            let daemon = DaemonState::of(probed.as_ref().ok());
            let finding = if daemon.is_online {
                let found = format!("the running daemon's embedded broker listens on {listen}");
                Finding::good(FindingSubject::Broker, found)
            } else {
                let why = probed.as_ref().err().map(|unusable| format!(" ({})", unusable.reason.sign()));
                let found = format!("{listen} is taken, and not by an hs100d{}", why.unwrap_or_default());
                Finding::bad(FindingSubject::Broker, found, cause::PORT_TAKEN)
            };
            (finding.after(tries), daemon)
        }
        Err(error) => {
            let found = format!("the embedded broker cannot listen on {listen}: {error}");
            let tries = vec![Try::since(listening, what, error.to_string())];
            let finding = Finding::bad(FindingSubject::Broker, found, cause::PORT_UNUSABLE);
            (finding.after(tries), DaemonState::default())
        }
    }
}

fn unusable_finding(unusable: &BrokerUnusable) -> Finding {
    let cause = Cause { remedy: unusable.remedy, ..of_broker(unusable.reason) };
    Finding::bad(FindingSubject::Broker, words_without_remedy(unusable), cause)
}

/// The text of a failure ends with its remedy, which the finding holds separately.
fn words_without_remedy(unusable: &BrokerUnusable) -> &str {
    let remedy = format!(": {}", unusable.remedy);
    unusable.text.strip_suffix(&remedy).unwrap_or(&unusable.text)
}

async fn probe(
    options: MqttSettings,
    only: Option<SocketAddr>,
) -> (Vec<Try>, Result<Probed, BrokerUnusable>) {
    let tls = if options.tls.is_some() { " over TLS" } else { "" };
    let what = format!("connect to {}:{}{tls}, subscribe and publish", options.host, options.port);
    let begun = Instant::now();
    let probed = mqtt::probe_at(options, only, WITHIN).await;
    let mut tries = Vec::new();
    match &probed {
        Ok(kept) => {
            tries.push(Try::since(begun, what, "connected, subscribed and published"));
            tries.push(Try::new("read what a daemon retains there", describe(kept)));
        }
        Err(unusable) => tries.push(Try::since(begun, what, unusable_words(unusable))),
    }
    (tries, probed)
}

fn unusable_words(unusable: &BrokerUnusable) -> String {
    shown(&unusable.text, WORDS_SHOWN)
}

fn describe(kept: &Probed) -> String {
    let text = |value: &Value| value.as_str().map(|text| shown(text, WORDS_SHOWN));
    let state = kept.state.as_deref().map(|state| shown(state, WORDS_SHOWN));
    let Some(state) = state else { return "nothing: no daemon has used this broker".to_owned() };
    let Some(info) = &kept.info else { return format!("the daemon is {state}") };
    let version = text(&info["version"]).unwrap_or_default();
    let cloud = text(&info["cloud"]["status"]).unwrap_or_default();
    let number = |key: &str| info[key].as_u64().unwrap_or_default();
    let (plugs, online) = (number("plugs"), number("online"));
    format!("the daemon {version} is {state}, {online} of {plugs} plugs online, cloud {cloud}")
}

impl DaemonState {
    fn of(probed: Option<&Probed>) -> Self {
        let Some(Probed { state, info }) = probed else { return Self::default() };
        let is_online = state.as_deref() == Some("online");
        let cloud = info.as_ref().map(|info| &info["cloud"]);
        let stopped = cloud.filter(|cloud| is_online && cloud["status"] == "stopped");
        let reason = |cloud: &Value| shown(cloud["reason"].as_str().unwrap_or_default(), WORDS_SHOWN);
        Self { is_online, cloud_stopped: stopped.map(reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_daemon_that_is_offline_does_not_keep_the_doctor_from_the_account() {
        let info = json!({"version": "1", "plugs": 3, "online": 2, "cloud": {"status": "stopped", "reason": "a\nb"}});
        let kept = |state: &str| Probed { state: Some(state.to_owned()), info: Some(info.clone()) };
        let stopped = DaemonState::of(Some(&kept("online")));
        assert_eq!(stopped, DaemonState { is_online: true, cloud_stopped: Some("a\\nb".to_owned()) });
        assert_eq!(DaemonState::of(Some(&kept("offline"))), DaemonState::default());
        assert_eq!(DaemonState::of(None), DaemonState::default());
        assert_eq!(describe(&kept("online")), "the daemon 1 is online, 2 of 3 plugs online, cloud stopped");
        assert!(describe(&Probed::default()).starts_with("nothing"));
    }
}
