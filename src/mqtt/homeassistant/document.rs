//! The documents as they are written: an entity, a device, and what frames them. Fields only, no decisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ORIGIN;

/// All entities of one device at one topic.
#[derive(Serialize)]
pub(super) struct DeviceDocument<'a> {
    pub(super) device: &'a Device<'a>,
    pub(super) origin: Origin,
    #[serde(flatten)]
    pub(super) common: Common<'a>,
    pub(super) components: BTreeMap<String, Component<'a>>,
}

/// One entity at one topic.
#[derive(Serialize)]
pub(super) struct EntityDocument<'a> {
    pub(super) device: &'a Device<'a>,
    pub(super) origin: Origin,
    #[serde(flatten)]
    pub(super) common: Common<'a>,
    #[serde(flatten)]
    pub(super) entity: &'a Entity,
}

#[derive(Serialize)]
pub(super) struct Device<'a> {
    pub(super) identifiers: [&'a str; 1],
    pub(super) name: &'a str,
    pub(super) manufacturer: &'a str,
    pub(super) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hw_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sw_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) via_device: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Origin {
    name: &'static str,
    sw_version: &'static str,
}

impl Origin {
    pub(super) fn ours() -> Self {
        Self { name: ORIGIN, sw_version: env!("CARGO_PKG_VERSION") }
    }
}

/// What all entities of a device share, unless they say otherwise.
#[derive(Serialize)]
pub(super) struct Common<'a> {
    #[serde(skip_serializing_if = "<[Availability]>::is_empty")]
    availability: &'a [Availability],
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_mode: Option<&'static str>,
    qos: u8,
}

impl<'a> Common<'a> {
    pub(super) fn of(availability: &'a [Availability]) -> Self {
        Self { availability, availability_mode: (!availability.is_empty()).then_some(ALL), qos: 1 }
    }
}

/// Every topic has to say `online`. Left out, the topic that spoke last would decide.
const ALL: &str = "all";

#[derive(Serialize)]
pub(super) struct Availability {
    pub(super) topic: String,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Component<'a> {
    Is(&'a Entity),
    /// The documented way to take one entity back: its key with nothing but its platform.
    Gone {
        platform: &'a str,
    },
}

/// One entity. What it does not use is left out, so that Home Assistant's own default holds.
#[derive(Serialize, Default)]
pub(super) struct Entity {
    /// Which of the entities in [`super::entities`] it is.
    #[serde(skip)]
    pub(super) key: &'static str,
    /// Of an outlet's: the two digits that tell the outlet from the strip's others.
    #[serde(skip)]
    pub(super) outlet: Option<String>,
    pub(super) platform: &'static str,
    /// None for the main entity, which carries the device's name alone.
    pub(super) name: Option<String>,
    pub(super) unique_id: String,
    pub(super) default_entity_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entity_category: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enabled_by_default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) icon: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_template: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command_topic: Option<String>,
    #[serde(flatten)]
    pub(super) light: Option<Light>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit_of_measurement: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suggested_display_precision: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_on: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_off: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_press: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) availability: Option<Vec<Availability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) availability_mode: Option<&'static str>,
}

impl Entity {
    /// The entity, available while each of these topics says so, whatever its device's others do.
    pub(super) fn available_by(self, topics: Vec<Availability>) -> Self {
        Self { availability: Some(topics), availability_mode: Some(ALL), ..self }
    }

    /// Its key in a document in device form.
    pub(super) fn component(&self) -> String {
        match &self.outlet {
            Some(outlet) => format!("{outlet}_{}", self.key),
            None => self.key.to_owned(),
        }
    }
}

/// What only lights have.
#[derive(Serialize)]
pub(super) struct Light {
    pub(super) state_value_template: &'static str,
    pub(super) brightness_state_topic: String,
    pub(super) brightness_value_template: &'static str,
    pub(super) brightness_command_topic: String,
    pub(super) brightness_scale: u8,
    pub(super) on_command_type: &'static str,
}

// The part of a kept document that says whose it is. Documents of others come by here, so that everything may be
// missing.
#[derive(Deserialize)]
pub(super) struct KeptDocument {
    pub(super) origin: KeptOrigin,
    pub(super) device: KeptDevice,
    #[serde(default)]
    pub(super) availability: Vec<KeptAvailability>,
    pub(super) state_topic: Option<String>,
    #[serde(default)]
    pub(super) components: BTreeMap<String, KeptComponent>,
}

#[derive(Deserialize)]
pub(super) struct KeptOrigin {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct KeptDevice {
    #[serde(default)]
    pub(super) identifiers: Vec<String>,
    pub(super) via_device: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct KeptAvailability {
    pub(super) topic: String,
}

#[derive(Deserialize)]
pub(super) struct KeptComponent {
    pub(super) platform: String,
    /// Missing where the document only says that the entity is gone.
    pub(super) unique_id: Option<String>,
}
