//! What consumers find: the messages that each node retains, and those that come after Home Assistant's birth message.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rumqttc::{Event, Packet, QoS, SubscribeFilter};
use serde_json::Value;

use super::client::{self, Book};
use super::cluster::{self, Cluster, NODES};
use super::plugs::{self, Plugs};
use super::process::Fault;
use super::site::{self, Sites};

/// The plugs of each site whose topics are read at a node.
const SAMPLE: usize = 3;
/// Topics in one SUBSCRIBE packet.
const AT_ONCE: usize = 200;
/// A node sends what it retains together with its SUBACK; after this long without a message there is no more.
const QUIET: Duration = Duration::from_millis(700);
/// The longest wait for a SUBACK.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How many of the expected messages are there, and how many of those are right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) expected: usize,
    pub(crate) present: usize,
    pub(crate) right: usize,
}

/// The meaning of a topic, from which follows what it must say.
#[derive(Debug, Clone, Copy)]
enum Kind {
    BridgeState,
    BridgeInfo,
    State(usize),
    Availability,
    Info(usize),
    Document(usize),
}

/// The topics of all sites, with this many plugs of each.
fn topics(sites: &Sites, sample: usize) -> Vec<(String, Kind)> {
    let mut topics = Vec::new();
    for site in 0..sites.count {
        let base = site::base(site);
        topics.push((format!("{base}/bridge/state"), Kind::BridgeState));
        topics.push((format!("{base}/bridge/info"), Kind::BridgeInfo));
        for plug in sites.plugs(site).take(sample) {
            let name = plugs::name(plug);
            topics.push((format!("{base}/{name}/state"), Kind::State(plug)));
            topics.push((format!("{base}/{name}/availability"), Kind::Availability));
            topics.push((format!("{base}/{name}/info"), Kind::Info(plug)));
            topics.push((document(plug), Kind::Document(plug)));
        }
    }
    topics
}

/// The topic of a plug's document.
fn document(plug: usize) -> String {
    format!("homeassistant/device/hs100d_{}/config", plugs::device_id(plug))
}

impl Kind {
    fn is_right(self, payload: &[u8], plugs: &Plugs) -> bool {
        let json = || serde_json::from_slice::<Value>(payload).unwrap_or_default();
        match self {
            Self::BridgeState | Self::Availability => payload == b"online",
            Self::BridgeInfo => json()["plugs"] == json()["online"] && json()["version"].is_string(),
            Self::State(plug) => {
                let state = json();
                state["state"] == if plugs.is_on(plug) { "ON" } else { "OFF" } && state["route"] == "local"
            }
            Self::Info(plug) => json()["device_id"] == plugs::device_id(plug),
            Self::Document(plug) => {
                let text = String::from_utf8_lossy(payload);
                json().is_object()
                    && text.contains(&plugs::device_id(plug))
                    && text.contains(&plugs::name(plug))
            }
        }
    }
}

/// Counts what is right in a set of messages.
fn count<'a>(expected: &[(String, Kind)], plugs: &Plugs, find: impl Fn(&str) -> Option<&'a [u8]>) -> Found {
    let mut found = Found { expected: expected.len(), ..Found::default() };
    for (topic, kind) in expected {
        let Some(payload) = find(topic) else { continue };
        found.present += 1;
        found.right += usize::from(kind.is_right(payload, plugs));
    }
    found
}

/// What a fresh client finds at each node, if it subscribes to each topic by name.
pub(crate) async fn retained(
    cluster: &Cluster,
    sites: &Sites,
    plugs: &Plugs,
) -> Result<[Found; NODES], Fault> {
    let expected = topics(sites, SAMPLE);
    let names: Vec<_> = expected.iter().map(|(topic, _)| topic.clone()).collect();
    let mut found = [Found::default(); NODES];
    for (node, found) in found.iter_mut().enumerate() {
        let messages = read(node, &cluster.password, &names).await?;
        *found = count(&expected, plugs, |topic| messages.get(topic).map(Vec::as_slice));
    }
    Ok(found)
}

/// The retained messages that a node sends to a fresh client with these filters.
pub(crate) async fn read(
    node: usize,
    password: &str,
    filters: &[String],
) -> Result<HashMap<String, Vec<u8>>, Fault> {
    let (client, mut events) = client::open("auditor", node, password, |_| {});
    if !client::connects(&client, &mut events, &[]).await {
        return Err(format!("no connection to {} for the audit", cluster::name(node)).into());
    }
    let mut messages = HashMap::new();
    for filters in filters.chunks(AT_ONCE) {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtMostOnce));
        client.try_subscribe_many(filters)?;
        let mut is_answered = false;
        loop {
            let wait = if is_answered { QUIET } else { ANSWERS_WITHIN };
            match tokio::time::timeout(wait, events.poll()).await {
                Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => is_answered = true,
                Ok(Ok(Event::Incoming(Packet::Publish(message)))) if message.retain => {
                    let topic = String::from_utf8_lossy(&message.topic).into_owned();
                    messages.insert(topic, message.payload.to_vec());
                }
                Ok(Ok(_)) => {}
                Err(_) if is_answered => break,
                Err(_) => return Err(format!("{} answers no SUBSCRIBE", cluster::name(node)).into()),
                Ok(Err(error)) => return Err(format!("the audit at {}: {error}", cluster::name(node)).into()),
            }
        }
    }
    // A disconnect that is not sent ends the connection all the same.
    let _ = client.try_disconnect();
    let _ = tokio::time::timeout(QUIET, async { while events.poll().await.is_ok() {} }).await;
    Ok(messages)
}

/// Waits until everything of all sites was published since then, and is right. Returns what there is and how long it took.
pub(crate) async fn published(
    sites: &Sites,
    plugs: &Plugs,
    book: &Book,
    since: Instant,
    within: Duration,
) -> (Found, Duration) {
    let expected = topics(sites, sites.each);
    loop {
        let found = {
            let heard = book.open();
            let new =
                |topic: &str| heard.last.get(topic).filter(|(_, at)| *at >= since).map(|(text, _)| &text[..]);
            count(&expected, plugs, new)
        };
        let took = since.elapsed();
        if found.right == found.expected || took > within {
            return (found, took);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
