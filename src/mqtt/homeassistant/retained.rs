//! The discovery documents that the broker retains: which of them are ours, and their content.

use std::collections::BTreeMap;

use super::discovery_topics::DiscoveryTopics;
use super::entities::{self, Abilities};
use super::fields::{ORIGIN, ReadDocument};
use crate::model::PlugName;
use crate::mqtt::topics::{StateTopic, Topics};

/// A retained document of ours, of this run or an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RetainedDocument {
    /// The id of its device.
    pub(super) device: String,
    /// The plug whose topics it names, if it is not the bridge's.
    pub(super) plug: Option<PlugName>,
    /// In device form: the ids and platforms of its components, without those of a strip's outlets.
    pub(super) components: BTreeMap<String, String>,
    /// It has components of a strip's outlets.
    pub(super) has_outlets: bool,
    /// It is an outlet's: recognised by its base topic alone, which another instance may use by mistake.
    pub(super) is_outlet: bool,
}

impl RetainedDocument {
    /// Reads a payload; `None` unless this installation, with this bridge device, wrote it. Before the config named it, its
    /// bridge device was `drawn`; clones of its disk have the same, with other topics.
    pub(super) fn read(payload: &[u8], topics: &Topics, bridge: &str, drawn: &str) -> Option<Self> {
        let mut document: ReadDocument = serde_json::from_slice(payload).ok()?;
        let device = std::mem::take(&mut document.device.identifiers).into_iter().next()?;
        let via = document.device.via_device.as_deref();
        let is_below_our_base = || document.has_topic(&topics.bridge_state());
        let outlet = via.and_then(|via| device.strip_prefix(via));
        let is_outlet = outlet.is_some_and(|digits| digits.len() == 2) && is_below_our_base();
        let is_of = |bridge: &str| via == Some(bridge) || device == bridge;
        let is_ours = document.origin.name == ORIGIN
            && (is_of(bridge) || is_outlet || (is_of(drawn) && is_below_our_base()));
        if !is_ours {
            return None;
        }
        let plug_of = |topic: &str, state| topics.parse_state(topic, state);
        let mut availability = document.availability.iter();
        let available = availability.find_map(|a| plug_of(&a.topic, StateTopic::Availability));
        // The route sensor depends on the bridge's availability only: its plug is in the topic that it reads.
        let read = || document.state_topic.as_ref().and_then(|topic| plug_of(topic, StateTopic::State));
        let plug = available.or_else(read);
        // A component without an id was removed by that document.
        let present = document.components.into_iter().filter(|(_, component)| component.unique_id.is_some());
        let platforms = present.map(|(key, component)| (key, component.platform));
        let (of_outlets, components): (BTreeMap<_, _>, _) =
            platforms.partition(|(key, _)| entities::is_of_outlet(key));
        Some(Self { device, plug, components, has_outlets: !of_outlets.is_empty(), is_outlet })
    }

    /// The abilities that the document at this topic shows.
    pub(super) fn abilities(&self, topic: &str, discovery: &DiscoveryTopics) -> Abilities {
        let key = topic.rsplit('/').nth(1).and_then(|object| object.strip_prefix(ORIGIN)?.strip_prefix('_'));
        let key = key.filter(|_| !discovery.is_device(topic));
        Abilities::of(self.components.keys().map(String::as_str).chain(key))
    }

    /// Whether the document at this topic has entities of outlets on their strip's device, as version 0.1.0 wrote them. They
    /// move to documents and devices of their own.
    pub(super) fn is_outgrown(&self, topic: &str, discovery: &DiscoveryTopics) -> bool {
        if discovery.is_device(topic) {
            return self.has_outlets;
        }
        topic.rsplit('/').nth(2).is_some_and(|id| id != self.device)
    }
}
