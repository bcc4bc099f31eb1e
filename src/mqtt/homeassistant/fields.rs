//! The fields of a discovery document: device, origin, entities. Fields only, no decisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mqtt::topics;

/// Our name in `origin`, and the first part of all our ids.
pub(super) const ORIGIN: &str = "hs100d";

/// All entities of one device at one topic.
#[derive(Serialize)]
pub(super) struct DeviceDocument<'a> {
    #[serde(rename = "dev")]
    pub(super) device: &'a DiscoveryDevice<'a>,
    #[serde(rename = "o")]
    pub(super) origin: DiscoveryOrigin,
    #[serde(flatten)]
    pub(super) common: Common<'a>,
    /// The topic of the entities that name none. Home Assistant applies it to them, but not `~`.
    #[serde(rename = "stat_t", skip_serializing_if = "Option::is_none")]
    pub(super) state_topic: Option<&'a str>,
    #[serde(rename = "cmps")]
    pub(super) components: BTreeMap<&'a str, Component<'a>>,
}

/// One entity at one topic.
#[derive(Serialize)]
pub(super) struct EntityDocument<'a> {
    #[serde(rename = "dev")]
    pub(super) device: &'a DiscoveryDevice<'a>,
    #[serde(rename = "o")]
    pub(super) origin: DiscoveryOrigin,
    #[serde(flatten)]
    pub(super) common: Common<'a>,
    #[serde(flatten)]
    pub(super) entity: &'a Entity,
}

#[derive(Serialize)]
pub(super) struct DiscoveryDevice<'a> {
    #[serde(rename = "ids")]
    pub(super) identifiers: [&'a str; 1],
    pub(super) name: &'a str,
    #[serde(rename = "mf")]
    pub(super) manufacturer: &'a str,
    #[serde(rename = "mdl")]
    pub(super) model: &'a str,
    #[serde(rename = "hw", skip_serializing_if = "Option::is_none")]
    pub(super) hw_version: Option<&'a str>,
    #[serde(rename = "sw", skip_serializing_if = "Option::is_none")]
    pub(super) sw_version: Option<&'a str>,
    /// The bridge device; for an outlet its strip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) via_device: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct DiscoveryOrigin {
    name: &'static str,
    #[serde(rename = "sw")]
    sw_version: &'static str,
}

impl DiscoveryOrigin {
    pub(super) fn ours() -> Self {
        Self { name: ORIGIN, sw_version: env!("CARGO_PKG_VERSION") }
    }
}

/// Defaults for all entities of a device.
#[derive(Serialize)]
pub(super) struct Common<'a> {
    #[serde(rename = "avty", skip_serializing_if = "<[AvailabilityTopic]>::is_empty")]
    availability: &'a [AvailabilityTopic],
    #[serde(rename = "avty_mode", skip_serializing_if = "Option::is_none")]
    availability_mode: Option<&'static str>,
    qos: u8,
}

impl<'a> Common<'a> {
    pub(super) fn of(availability: &'a [AvailabilityTopic]) -> Self {
        Self { availability, availability_mode: (!availability.is_empty()).then_some(ALL), qos: 1 }
    }
}

/// Every availability topic must be `online`. Home Assistant's default is the topic with the latest message.
const ALL: &str = "all";

// In full and without `~`: Domoticz and older versions of openHAB read no other form.
#[derive(Serialize)]
pub(super) struct AvailabilityTopic {
    pub(super) topic: String,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Component<'a> {
    Is(&'a Entity),
    /// The documented way to remove one entity: its key with only its platform.
    Gone {
        #[serde(rename = "p")]
        platform: &'a str,
    },
}

/// One entity, with the abbreviated keys that Home Assistant documents. Unused keys are absent, so Home Assistant's default
/// applies.
#[derive(Serialize, Default)]
pub(super) struct Entity {
    /// Its key in [`super::entities`].
    #[serde(skip)]
    pub(super) key: &'static str,
    #[serde(rename = "p")]
    pub(super) platform: &'static str,
    /// The text that `~` stands for at the start of a topic.
    #[serde(rename = "~", skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<String>,
    /// `None` for the main entity, which has the device's name.
    pub(super) name: Option<&'static str>,
    #[serde(rename = "uniq_id")]
    pub(super) unique_id: String,
    #[serde(rename = "def_ent_id")]
    pub(super) default_entity_id: String,
    #[serde(rename = "dev_cla", skip_serializing_if = "Option::is_none")]
    pub(super) device_class: Option<&'static str>,
    #[serde(rename = "ent_cat", skip_serializing_if = "Option::is_none")]
    pub(super) entity_category: Option<&'static str>,
    #[serde(rename = "en", skip_serializing_if = "Option::is_none")]
    pub(super) enabled_by_default: Option<bool>,
    /// The same for Domoticz, which does not know the short key and reads documents of one entity only.
    #[serde(rename = "enabled_by_default", skip_serializing_if = "Option::is_none")]
    pub(super) enabled_by_default_in_full: Option<bool>,
    #[serde(rename = "ic", skip_serializing_if = "Option::is_none")]
    pub(super) icon: Option<&'static str>,
    #[serde(rename = "stat_t", skip_serializing_if = "Option::is_none")]
    pub(super) state_topic: Option<String>,
    #[serde(rename = "val_tpl", skip_serializing_if = "Option::is_none")]
    pub(super) value_template: Option<&'static str>,
    #[serde(rename = "cmd_t", skip_serializing_if = "Option::is_none")]
    pub(super) command_topic: Option<String>,
    #[serde(flatten)]
    pub(super) light: Option<Light>,
    #[serde(rename = "ops", skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<&'static [&'static str]>,
    #[serde(rename = "unit_of_meas", skip_serializing_if = "Option::is_none")]
    pub(super) unit_of_measurement: Option<&'static str>,
    #[serde(rename = "stat_cla", skip_serializing_if = "Option::is_none")]
    pub(super) state_class: Option<&'static str>,
    #[serde(rename = "sug_dsp_prc", skip_serializing_if = "Option::is_none")]
    pub(super) suggested_display_precision: Option<u8>,
    #[serde(rename = "pl_on", skip_serializing_if = "Option::is_none")]
    pub(super) payload_on: Option<&'static str>,
    #[serde(rename = "pl_off", skip_serializing_if = "Option::is_none")]
    pub(super) payload_off: Option<&'static str>,
    #[serde(rename = "pl_prs", skip_serializing_if = "Option::is_none")]
    pub(super) payload_press: Option<&'static str>,
    #[serde(rename = "avty", skip_serializing_if = "Option::is_none")]
    pub(super) availability: Option<Vec<AvailabilityTopic>>,
    #[serde(rename = "avty_mode", skip_serializing_if = "Option::is_none")]
    pub(super) availability_mode: Option<&'static str>,
}

impl Entity {
    /// With availability topics of its own, instead of its device's.
    pub(super) fn available_by(self, topics: Vec<AvailabilityTopic>) -> Self {
        Self { availability: Some(topics), availability_mode: Some(ALL), ..self }
    }

    /// As written among the entities of a device with this shared state topic.
    pub(super) fn among_others(mut self, base: &str, state_topic: Option<&str>) -> Self {
        self.state_topic.take_if(|own| Some(own.as_str()) == state_topic);
        self.shorten_topics(base);
        self
    }

    /// As written in a document of its own.
    pub(super) fn alone(mut self, base: &str) -> Self {
        self.enabled_by_default_in_full = self.enabled_by_default.take();
        self.shorten_topics(base);
        self
    }

    /// Replaces the base of its topics with `~`, if that makes the document shorter.
    fn shorten_topics(&mut self, base: &str) {
        let light = self.light.as_mut();
        let of_light = light.map(|l| [&mut l.brightness_state_topic, &mut l.brightness_command_topic]);
        let own = self.state_topic.iter_mut().chain(self.command_topic.as_mut());
        let below = own.chain(of_light.into_iter().flatten()).filter(|topic| topics::is_below(base, topic));
        let below: Vec<&mut String> = below.collect();
        // The cost of `"~":"…",` against what each `~` saves.
        if below.len() * base.len().saturating_sub(1) <= base.len() + r#""~":"","#.len() {
            return;
        }
        for topic in below {
            topic.replace_range(..base.len(), "~");
        }
        self.base = Some(base.to_owned());
    }
}

/// The fields of a light.
#[derive(Serialize)]
pub(super) struct Light {
    #[serde(rename = "stat_val_tpl")]
    pub(super) state_value_template: &'static str,
    #[serde(rename = "bri_stat_t")]
    pub(super) brightness_state_topic: String,
    #[serde(rename = "bri_val_tpl")]
    pub(super) brightness_value_template: &'static str,
    #[serde(rename = "bri_cmd_t")]
    pub(super) brightness_command_topic: String,
    #[serde(rename = "bri_scl")]
    pub(super) brightness_scale: u8,
    // Domoticz does not know the short key.
    pub(super) on_command_type: &'static str,
}

// The fields of a retained document that identify its writer. Other programs write documents too, so each field may be
// missing. Earlier versions of hs100d wrote the keys in full.
#[derive(Deserialize)]
pub(super) struct ReadDocument {
    #[serde(rename = "o", alias = "origin")]
    pub(super) origin: ReadOrigin,
    #[serde(rename = "dev", alias = "device")]
    pub(super) device: ReadDevice,
    #[serde(default, rename = "avty", alias = "availability")]
    pub(super) availability: Vec<ReadAvailability>,
    #[serde(rename = "stat_t", alias = "state_topic")]
    pub(super) state_topic: Option<String>,
    #[serde(default, rename = "cmps", alias = "components")]
    pub(super) components: BTreeMap<String, ReadComponent>,
}

#[derive(Deserialize)]
pub(super) struct ReadOrigin {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct ReadDevice {
    #[serde(default, rename = "ids", alias = "identifiers")]
    pub(super) identifiers: Vec<String>,
    pub(super) via_device: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ReadAvailability {
    pub(super) topic: String,
}

#[derive(Deserialize)]
pub(super) struct ReadComponent {
    #[serde(rename = "p", alias = "platform")]
    pub(super) platform: String,
    /// Missing if the document removes the entity.
    #[serde(rename = "uniq_id", alias = "unique_id")]
    pub(super) unique_id: Option<String>,
    #[serde(rename = "stat_t", alias = "state_topic")]
    state_topic: Option<String>,
}

impl ReadDocument {
    /// Whether the document is about entities that this topic makes available, or that read it.
    pub(super) fn has_topic(&self, topic: &str) -> bool {
        let of_components = self.components.values().filter_map(|component| component.state_topic.as_deref());
        let mut read = of_components.chain(self.state_topic.as_deref());
        self.availability.iter().any(|a| a.topic == topic) || read.any(|read| read == topic)
    }
}
