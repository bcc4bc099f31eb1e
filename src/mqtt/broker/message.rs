//! A message while the broker has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{LastWill, Publish, PublishProperties};

/// What each record of a message costs in memory besides its topic and payload, in bytes; roughly.
const OVERHEAD: usize = 200;

/// A message that was published, or a last will that is not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokerMessage {
    /// Without wildcards.
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Those that go on to the subscribers; no expiry, which is `expires`.
    pub(super) properties: Option<PublishProperties>,
    /// After it the message is not delivered any more.
    pub(super) expires: Option<Instant>,
}

impl BrokerMessage {
    /// Copies what it holds, for the packet is a slice of all that was read with it. `None` if the topic is not valid.
    pub(super) fn published(publish: &Publish, now: Instant) -> Option<Self> {
        let mut properties = publish.properties.clone();
        let expiry = properties.as_mut().and_then(|properties| {
            // From a client they mean nothing to others.
            properties.subscription_identifiers.clear();
            properties.topic_alias = None;
            properties.message_expiry_interval.take()
        });
        let expires = expiry.map(|seconds| now + Duration::from_secs(seconds.into()));
        Self::new(&publish.topic, &publish.payload, publish.qos, publish.retain, properties, expires)
    }

    /// The last will, without its expiry, which counts from its publication. `None` if the topic is not valid.
    pub(super) fn of_will(will: &LastWill) -> Option<Self> {
        let properties = will.properties.clone().map(|properties| PublishProperties {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: None,
            topic_alias: None,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            subscription_identifiers: Vec::new(),
            content_type: properties.content_type,
        });
        Self::new(&will.topic, &will.message, will.qos, will.retain, properties, None)
    }

    fn new(
        topic: &[u8],
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: Option<PublishProperties>,
        expires: Option<Instant>,
    ) -> Option<Self> {
        let topic = std::str::from_utf8(topic).ok().filter(|topic| is_valid_topic(topic))?;
        Some(Self {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload),
            qos,
            retain,
            properties: properties.filter(|it| *it != PublishProperties::default()),
            expires,
        })
    }

    /// Roughly what it takes in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |properties| {
            let user =
                properties.user_properties.iter().map(|(name, value)| OVERHEAD + name.len() + value.len());
            let texts = [&properties.response_topic, &properties.content_type];
            let texts = texts.into_iter().flatten().map(String::len);
            let data = properties.correlation_data.as_ref().map_or(0, Bytes::len);
            user.sum::<usize>() + texts.sum::<usize>() + data
        });
        OVERHEAD + self.topic.len() + self.payload.len() + properties
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The packet for a subscriber, without an id.
    pub(super) fn packet(&self, qos: QoS, retain: bool, identifiers: &[usize], now: Instant) -> Publish {
        let mut properties = self.properties.clone();
        if let Some(expires) = self.expires {
            let left = expires.saturating_duration_since(now).as_secs();
            properties.get_or_insert_default().message_expiry_interval =
                Some(u32::try_from(left).unwrap_or(u32::MAX));
        }
        if !identifiers.is_empty() {
            properties.get_or_insert_default().subscription_identifiers = identifiers.to_vec();
        }
        Publish {
            dup: false,
            qos,
            retain,
            topic: Bytes::copy_from_slice(self.topic.as_bytes()),
            pkid: 0,
            payload: self.payload.clone(),
            properties,
        }
    }
}

/// Whether a message can be published to this topic (MQTT 5.0, section 4.7).
pub(super) fn is_valid_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= usize::from(u16::MAX) && !topic.contains(['+', '#', '\0'])
}
