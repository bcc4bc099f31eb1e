//! The lines of the embedded broker's store.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rumqttc::mqttbytes::v5::PublishProperties;
use rumqttc::mqttbytes::{QoS, qos};
use serde::{Deserialize, Serialize};

use super::filters::Terms;
use super::message::{BrokerMessage, is_valid_topic};
use super::session::{ClientSession, WaitingMessage};
use super::state::{BrokerState, Unsaved};

/// One line. A later one takes the place of an earlier one about the same thing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// A retained message.
    Retained(MessageRecord),
    /// A topic without a retained message.
    Cleared(String),
    /// A session that outlives its connection.
    Session(SessionRecord),
    /// A client without one.
    Ended(String),
    /// A message that waits for a client.
    Waiting {
        client: String,
        message: MessageRecord,
        retain: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        identifiers: Vec<usize>,
    },
}

/// A message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MessageRecord {
    topic: String,
    payload: Content,
    qos: u8,
    /// When it expires, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    properties: Option<PropertiesRecord>,
}

/// Bytes, readable where they are text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Text(String),
    Base64(String),
}

/// The properties that go on to subscribers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PropertiesRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<Content>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user: Vec<(String, String)>,
}

/// A session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    client: String,
    /// Seconds.
    expiry: u64,
    subscriptions: Vec<SubscriptionRecord>,
}

/// A subscription.
#[derive(Debug, Serialize, Deserialize)]
struct SubscriptionRecord {
    filter: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_local: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keeps_retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identifier: Option<usize>,
}

/// A line that is still to be made. It shares what the broker holds, so that collecting it takes no time under the lock.
#[derive(Debug)]
pub(super) enum Change {
    Retained(Arc<BrokerMessage>),
    Cleared(Arc<str>),
    Session(SessionRecord),
    Ended(Arc<str>),
    Waiting(Arc<str>, WaitingMessage),
}

impl Change {
    /// What has changed, and with `is_last` the messages that wait.
    pub(super) fn collect(state: &BrokerState, unsaved: &Unsaved, is_last: bool) -> Vec<Self> {
        let mut changes = Vec::new();
        if unsaved.everything {
            changes.extend(state.all_retained().map(|message| Self::Retained(Arc::clone(message))));
            changes.extend(state.lasting_sessions().map(|it| Self::Session(SessionRecord::of(it))));
        } else {
            changes.extend(unsaved.topics.iter().map(|topic| match state.retained(topic) {
                Some(message) => Self::Retained(Arc::clone(message)),
                None => Self::Cleared(Arc::clone(topic)),
            }));
            changes.extend(unsaved.clients.iter().map(|client| match state.lasting_session(client) {
                Some(session) => Self::Session(SessionRecord::of(session)),
                None => Self::Ended(Arc::clone(client)),
            }));
        }
        if is_last {
            for session in state.lasting_sessions() {
                let waiting = session.undelivered();
                changes.extend(waiting.map(|it| Self::Waiting(Arc::clone(&session.client), it.clone())));
            }
        }
        changes
    }

    /// The line. `wall` is the time of day at `now`.
    pub(super) fn record(self, now: Instant, wall: SystemTime) -> Record {
        let clock = BothClocks { now, wall };
        match self {
            Self::Retained(message) => Record::Retained(MessageRecord::of(&message, message.qos, clock)),
            Self::Cleared(topic) => Record::Cleared(topic.to_string()),
            Self::Session(session) => Record::Session(session),
            Self::Ended(client) => Record::Ended(client.to_string()),
            Self::Waiting(client, waiting) => Record::Waiting {
                client: client.to_string(),
                message: MessageRecord::of(&waiting.message, waiting.qos, clock),
                retain: waiting.retain,
                identifiers: waiting.identifiers,
            },
        }
    }
}

impl Record {
    /// Appends the line.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }
}

/// Brings a state up to date. `wall` is the time of day at `now`.
pub(super) fn apply(record: Record, state: &mut BrokerState, now: Instant, wall: SystemTime) {
    let clock = BothClocks { now, wall };
    match record {
        Record::Retained(record) => {
            if let Some(message) = record.message(true, clock) {
                state.restore_retained(message);
            }
        }
        Record::Cleared(topic) => {
            let payload = Content::Text(String::new());
            let record = MessageRecord { topic, payload, qos: 0, expires: None, properties: None };
            if let Some(message) = record.message(true, clock) {
                state.restore_retained(message);
            }
        }
        Record::Session(SessionRecord { client, expiry, subscriptions }) => {
            let terms = |it: SubscriptionRecord| {
                let SubscriptionRecord { filter, qos, no_local, keeps_retain, identifier } = it;
                (filter, Terms { qos, no_local, keeps_retain, identifier })
            };
            let subscriptions = subscriptions.into_iter().map(terms).collect();
            state.restore_session(Arc::from(client), Duration::from_secs(expiry), subscriptions, now);
        }
        Record::Ended(client) => state.restore_end(&client),
        Record::Waiting { client, message, retain, identifiers } => {
            if let Some(message) = message.message(false, clock) {
                let qos = message.qos;
                let message = Arc::new(message);
                state.restore_waiting(&client, WaitingMessage { message, qos, retain, identifiers });
            }
        }
    }
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct BothClocks {
    now: Instant,
    wall: SystemTime,
}

impl BothClocks {
    /// Seconds since 1970.
    fn seconds(self, at: Instant) -> u64 {
        let at = self.wall + at.saturating_duration_since(self.now);
        at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    fn instant(self, seconds: u64) -> Instant {
        let at = UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX)));
        self.now + at.duration_since(self.wall).unwrap_or_default()
    }
}

impl MessageRecord {
    fn of(message: &BrokerMessage, qos: QoS, clock: BothClocks) -> Self {
        Self {
            topic: message.topic.to_string(),
            payload: Content::of(&message.payload),
            qos: qos as u8,
            expires: message.expires.map(|at| clock.seconds(at)),
            properties: message.properties.as_ref().map(|properties| PropertiesRecord {
                payload_format: properties.payload_format_indicator,
                content_type: properties.content_type.clone(),
                response_topic: properties.response_topic.clone(),
                correlation: properties.correlation_data.as_deref().map(Content::of),
                user: properties.user_properties.clone(),
            }),
        }
    }

    /// `None` if it is not one that could have been written.
    fn message(self, retain: bool, clock: BothClocks) -> Option<BrokerMessage> {
        if !is_valid_topic(&self.topic) {
            return None;
        }
        let properties = match self.properties {
            None => None,
            Some(it) => Some(PublishProperties {
                payload_format_indicator: it.payload_format,
                content_type: it.content_type,
                response_topic: it.response_topic,
                correlation_data: match it.correlation {
                    None => None,
                    Some(correlation) => Some(correlation.bytes()?),
                },
                user_properties: it.user,
                ..PublishProperties::default()
            }),
        };
        Some(BrokerMessage {
            topic: Arc::from(self.topic),
            payload: self.payload.bytes()?,
            qos: qos(self.qos).ok()?,
            retain,
            properties,
            expires: self.expires.map(|seconds| clock.instant(seconds)),
        })
    }
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(bytes)),
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(Bytes::from(text)),
            Self::Base64(text) => STANDARD.decode(text).ok().map(Bytes::from),
        }
    }
}

impl SessionRecord {
    fn of(session: &ClientSession) -> Self {
        let subscription = |(filter, terms): (_, &Terms)| SubscriptionRecord {
            filter,
            qos: terms.qos,
            no_local: terms.no_local,
            keeps_retain: terms.keeps_retain,
            identifier: terms.identifier,
        };
        Self {
            client: session.client.to_string(),
            expiry: session.expiry.as_secs(),
            subscriptions: session
                .subscriptions
                .iter()
                .map(|(filter, terms)| (filter.to_string(), terms))
                .map(subscription)
                .collect(),
        }
    }
}
