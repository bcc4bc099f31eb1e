//! Reads what a daemon publishes, for commands.

use std::collections::BTreeMap;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::{Incoming, SubscribeFilterInput};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::client::{BrokerUnusable, Client};
use super::connect::refused_filters;
use super::failure::explain::LinkFailure;
use super::failure::reason::FailureReason;
use super::settings::MqttSettings;
use super::topics::{StateTopic, Topics};
use crate::model::PlugName;

/// Retained messages come before or after the SUBACK. If none has come for this time after it, all of them have.
const QUIET: Duration = Duration::from_millis(300);

/// A connection that reads the topics of a daemon.
pub(crate) struct Reader {
    client: Client,
    topics: Topics,
    scope: ReadScope,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadScope {
    /// `bridge/state` and `bridge/info`.
    Bridge,
    /// Those, and the retained topics of the plugs.
    Plugs,
    /// All of these and `bridge/event`, also what is published after the retained messages.
    Changes,
}

/// A message of the daemon, as an event of the API's stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PublishedEvent {
    /// `bridge/state`.
    BridgeState(String),
    /// A change, with its kind.
    Change(&'static str, Value),
}

/// What a daemon has published.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DaemonTopics {
    /// `bridge/state`.
    pub(crate) state: Option<String>,
    /// `bridge/info`.
    pub(crate) info: Value,
    /// For each plug an object as in the API.
    pub(crate) plugs: BTreeMap<PlugName, Value>,
}

impl Reader {
    /// Connects to the broker at the first read.
    pub(crate) fn start(settings: MqttSettings, scope: ReadScope) -> Self {
        let topics = Topics::new(&settings.base_topic);
        Self { client: Client::start(settings, "read"), topics, scope }
    }

    /// What the broker retains of the daemon.
    ///
    /// # Errors
    /// The broker cannot be used, or does not answer by this time.
    pub(crate) async fn retained(&mut self, end: Instant) -> Result<DaemonTopics, BrokerUnusable> {
        let mut published = DaemonTopics::default();
        let subscribed = self.client.client.try_subscribe_many(self.filters());
        subscribed.map_err(|error| {
            LinkFailure::of(FailureReason::HungUp, &error.to_string(), &self.client.settings)
        })?;
        let mut is_subscribed = false;
        while !(is_subscribed && self.has_all(&published)) {
            let wait = if is_subscribed { end.min(Instant::now() + QUIET) } else { end };
            match timeout_at(wait, self.client.next()).await {
                Ok(Ok(Incoming::SubAck(suback))) => {
                    if let Some(why) = refused_filters(&suback).next() {
                        return Err(self.client.denied(&format!("{why:?}")).into());
                    }
                    is_subscribed = true;
                }
                Ok(Ok(Incoming::Publish(message))) => {
                    published.take(&self.topics, &message.topic, &message.payload);
                }
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Err(failure.into()),
                Err(_) if is_subscribed => break,
                Err(_) => return Err(LinkFailure::silent(&self.client.settings).into()),
            }
        }
        Ok(published)
    }

    /// The next message after [`Reader::retained`]. Cancel safe.
    ///
    /// # Errors
    /// The connection has ended, and why.
    pub(crate) async fn next(&mut self) -> Result<PublishedEvent, BrokerUnusable> {
        loop {
            if let Incoming::Publish(message) = self.client.next().await?
                && let Some(event) = PublishedEvent::of(&self.topics, &message.topic, &message.payload)
            {
                return Ok(event);
            }
        }
    }

    /// Disconnects.
    pub(crate) async fn end(mut self) {
        self.client.end().await;
    }

    fn filters(&self) -> Vec<SubscribeFilterInput> {
        let bridge = [self.topics.bridge_state(), self.topics.bridge_info()];
        let plugs = StateTopic::RETAINED.map(|topic| self.topics.plug("+", topic));
        let plugs = plugs.into_iter().filter(|_| self.scope != ReadScope::Bridge);
        let events = (self.scope == ReadScope::Changes).then(|| self.topics.bridge_event());
        let filters = bridge.into_iter().chain(plugs).chain(events);
        filters.map(|topic| SubscribeFilterInput::new(topic, QoS::AtLeastOnce)).collect()
    }

    /// Whether nothing more can come. How many plugs there are is not known.
    fn has_all(&self, published: &DaemonTopics) -> bool {
        self.scope == ReadScope::Bridge && published.state.is_some() && !published.info.is_null()
    }
}

impl PublishedEvent {
    /// `None` for a message that the stream does not have.
    fn of(topics: &Topics, topic: &[u8], payload: &[u8]) -> Option<Self> {
        let topic = std::str::from_utf8(topic).ok()?;
        if topic == topics.bridge_state() {
            return Some(Self::BridgeState(String::from_utf8_lossy(payload).into_owned()));
        }
        let bridge = [("event", topics.bridge_event()), ("bridge", topics.bridge_info())];
        if let Some((kind, _)) = bridge.iter().find(|(_, of_kind)| topic == of_kind) {
            return Some(Self::Change(kind, serde_json::from_slice(payload).ok()?));
        }
        let (kind, plug) = StateTopic::RETAINED
            .into_iter()
            .find_map(|kind| Some((kind, topics.parse_state(topic, kind)?)))?;
        let mut data = match kind {
            StateTopic::Availability if payload.is_empty() => {
                return Some(Self::Change("gone", json!({ "plug": plug.as_str() })));
            }
            StateTopic::Availability => json!({ "availability": String::from_utf8_lossy(payload) }),
            _ => serde_json::from_slice(payload).ok().filter(Value::is_object)?,
        };
        data["plug"] = json!(plug.as_str());
        Some(Self::Change(kind.as_str(), data))
    }
}

impl DaemonTopics {
    fn take(&mut self, topics: &Topics, topic: &[u8], payload: &[u8]) {
        let Ok(topic) = std::str::from_utf8(topic) else { return };
        if topic == topics.bridge_state() {
            self.state = Some(String::from_utf8_lossy(payload).into_owned());
        } else if topic == topics.bridge_info() {
            self.info = serde_json::from_slice(payload).unwrap_or_default();
        }
        for kind in StateTopic::RETAINED {
            let Some(name) = topics.parse_state(topic, kind) else { continue };
            let value = match kind {
                StateTopic::Availability => json!(String::from_utf8_lossy(payload)),
                _ => serde_json::from_slice(payload).unwrap_or_default(),
            };
            let plug = self.plugs.entry(name).or_insert_with_key(unread);
            plug[kind.to_string()] = value;
        }
    }
}

/// A plug of which nothing is known.
fn unread(name: &PlugName) -> Value {
    json!({ "name": name.as_str(), "availability": null, "state": null, "energy": null, "info": null })
}
