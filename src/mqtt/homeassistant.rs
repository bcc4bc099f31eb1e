//! What Home Assistant is told: one document a device (or one an entity), typed, as its MQTT integration reads it.
//!
//! Entities are those of Home Assistant's own integration for these plugs, plus the route in use. This room only
//! writes documents and recognises them again; when they are sent is decided in `desk`.
//!
//! Nothing that identifies an entity holds the instance, so that entities survive a move to another machine.
//! What tells whose document it is stands in `via_device`, which names the bridge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bridge::event::PlugInfo;
use crate::model::PlugName;

use super::payload;
use super::topics::{Leaf, Part, Topics};

/// Our name in every document's `origin`, and the first part of every id of ours.
const ORIGIN: &str = "hs100d";
const MANUFACTURER: &str = "TP-Link";

/// Which documents Home Assistant gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// One document a device. Home Assistant reads these since 2024.11.
    #[default]
    Device,
    /// One document an entity, for consumers that know no device form.
    Component,
    /// None.
    Off,
}

/// What Home Assistant is told, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The form of the documents.
    pub discovery: Discovery,
    /// The first level of their topics.
    pub discovery_prefix: String,
    /// Where Home Assistant says that it has started.
    pub status_topic: String,
}

/// A document and the topic that it is kept at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// Writes the documents of one installation, and knows its own when it sees them.
#[derive(Debug, Clone)]
pub(super) struct Press {
    form: Discovery,
    prefix: String,
    /// The bridge device's id, which names the instance.
    bridge: String,
    topics: Topics,
}

/// Which of the optional entities a plug has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Abilities {
    /// The little light can be switched.
    pub(super) led: bool,
    /// The plug tells whether it is connected to TP-Link's cloud.
    pub(super) cloud: bool,
}

/// A kept document of ours, from this run or an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The plug it is about, if it is about one.
    pub(super) plug: Option<PlugName>,
    /// The ids and platforms of its components, if it is in device form.
    pub(super) components: BTreeMap<String, String>,
}

impl Press {
    pub(super) fn new(options: &Options, topics: Topics, instance: &str) -> Self {
        Self {
            form: options.discovery,
            prefix: options.discovery_prefix.clone(),
            bridge: format!("{ORIGIN}_{}", object_id(instance)),
            topics,
        }
    }

    /// The documents about a plug. None, if it says neither device id nor MAC, since there would be nothing
    /// that tells its entities from another plug's. Components named in `gone` are taken back from Home Assistant.
    pub(super) fn plug(
        &self,
        name: &PlugName,
        info: &PlugInfo,
        has: Abilities,
        gone: &BTreeMap<String, String>,
    ) -> Vec<Document> {
        let Some(id) = plug_id(info) else { return Vec::new() };
        let mut entities = self.plug_entities(name, &id);
        if !has.led {
            entities.remove(LED);
        }
        if !has.cloud {
            entities.remove(CLOUD);
        }
        let device = self.plug_device(name, &id, info);
        let availability = vec![
            Availability { topic: self.topics.bridge_state() },
            Availability { topic: self.topics.plug(name.as_str(), Leaf::Availability) },
        ];
        self.print(&id, &device, &availability, entities, gone)
    }

    /// The documents about the bridge itself.
    pub(super) fn bridge(&self) -> Vec<Document> {
        let device = Device {
            identifiers: [&self.bridge],
            name: "hs100d",
            manufacturer: ORIGIN,
            model: "Bridge to TP-Link smart plugs",
            hw_version: None,
            sw_version: Some(env!("CARGO_PKG_VERSION")),
            via_device: None,
        };
        self.print(&self.bridge, &device, &[], self.bridge_entities(), &BTreeMap::new())
    }

    /// The topic of a plug's document in device form, whichever form is written now.
    pub(super) fn device_topic(&self, info: &PlugInfo) -> Option<String> {
        plug_id(info).map(|id| self.topic_of_device(&id))
    }

    /// Whether a document at this topic is in device form.
    pub(super) fn is_device_topic(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with("/device/"))
    }

    fn topic_of_device(&self, id: &str) -> String {
        format!("{}/device/{id}/config", self.prefix)
    }

    /// What has to be listened to for a moment in order to find all documents that an earlier run may have left
    /// in either form, and as little else as possible.
    pub(super) fn filters(&self) -> Vec<String> {
        let component =
            |(id, platform): &(&str, &str)| format!("{}/{platform}/+/{ORIGIN}_{id}/config", self.prefix);
        std::iter::once(format!("{}/device/+/config", self.prefix))
            .chain(COMPONENTS.iter().map(component))
            .collect()
    }

    /// Whether a topic is one that documents are kept at.
    pub(super) fn is_document_topic(&self, topic: &str) -> bool {
        topic
            .strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.starts_with('/') && rest.ends_with("/config"))
    }

    /// Reads a kept document; `None` unless it is one of this installation's.
    pub(super) fn recognise(&self, payload: &[u8]) -> Option<Found> {
        let kept: KeptDocument = serde_json::from_slice(payload).ok()?;
        let is_ours = kept.origin.name == ORIGIN
            && (kept.device.via_device.as_deref() == Some(&self.bridge)
                || kept.device.identifiers.contains(&self.bridge));
        let plug = kept.availability.iter().find_map(|a| self.topics.parse_availability(&a.topic));
        let platform = |(id, component): (String, KeptComponent)| (id, component.platform);
        is_ours.then(|| Found { plug, components: kept.components.into_iter().map(platform).collect() })
    }

    fn print(
        &self,
        id: &str,
        device: &Device<'_>,
        availability: &[Availability],
        entities: BTreeMap<&'static str, Entity>,
        gone: &BTreeMap<String, String>,
    ) -> Vec<Document> {
        match self.form {
            Discovery::Device => vec![self.print_device(id, device, availability, entities, gone)],
            Discovery::Component => entities
                .iter()
                .map(|(key, entity)| self.print_entity(id, key, device, availability, entity))
                .collect(),
            Discovery::Off => Vec::new(),
        }
    }

    fn print_device(
        &self,
        id: &str,
        device: &Device<'_>,
        availability: &[Availability],
        entities: BTreeMap<&'static str, Entity>,
        gone: &BTreeMap<String, String>,
    ) -> Document {
        let mut components: BTreeMap<&str, Component<'_>> =
            entities.iter().map(|(key, entity)| (*key, Component::Is(entity))).collect();
        for (key, platform) in gone {
            // The documented way to take one entity back: its key with nothing but its platform.
            components.entry(key).or_insert(Component::Gone { platform });
        }
        let document =
            DeviceDocument { device, origin: Origin::ours(), common: Common::of(availability), components };
        Document { topic: self.topic_of_device(id), payload: payload::json(&document) }
    }

    fn print_entity(
        &self,
        id: &str,
        key: &str,
        device: &Device<'_>,
        availability: &[Availability],
        entity: &Entity,
    ) -> Document {
        let document =
            EntityDocument { device, origin: Origin::ours(), common: Common::of(availability), entity };
        let topic = format!("{}/{}/{id}/{ORIGIN}_{key}/config", self.prefix, entity.platform);
        Document { topic, payload: payload::json(&document) }
    }

    fn plug_device<'a>(&'a self, name: &'a PlugName, id: &'a str, info: &'a PlugInfo) -> Device<'a> {
        let plate = &info.plate;
        Device {
            identifiers: [id],
            name: if plate.alias.trim().is_empty() { name.as_str() } else { &plate.alias },
            manufacturer: MANUFACTURER,
            model: &plate.model,
            hw_version: Some(&plate.hw_version),
            sw_version: Some(&plate.sw_version),
            via_device: Some(&self.bridge),
        }
    }

    fn plug_entities(&self, name: &PlugName, id: &str) -> BTreeMap<&'static str, Entity> {
        let state = self.topics.plug(name.as_str(), Leaf::State);
        let facts = self.topics.plug(name.as_str(), Leaf::Info);
        let entity = |key: &'static str, topic: &str| {
            let entity = Entity::new(key, topic);
            Entity {
                unique_id: format!("{id}_{key}"),
                default_entity_id: entity_id(entity.platform, name.as_str(), key),
                ..entity
            }
        };
        BTreeMap::from([
            (
                RELAY,
                Entity {
                    // The main entity carries the device's name alone.
                    name: None,
                    device_class: Some("outlet"),
                    default_entity_id: entity_id("switch", name.as_str(), ""),
                    command_topic: Some(self.topics.command(name.as_str(), Part::All)),
                    value_template: "{{ value_json.state }}",
                    ..entity(RELAY, &state)
                },
            ),
            (
                LED,
                Entity {
                    name: Some("LED"),
                    entity_category: Some("config"),
                    icon: Some("mdi:led-on"),
                    command_topic: Some(self.topics.command(name.as_str(), Part::Led)),
                    value_template: "{{ value_json.led }}",
                    ..entity(LED, &state)
                },
            ),
            (
                ROUTE,
                Entity {
                    name: Some("Route"),
                    device_class: Some("enum"),
                    options: Some(&["local", "cloud", "none"]),
                    icon: Some("mdi:routes"),
                    value_template: "{{ value_json.route }}",
                    ..entity(ROUTE, &state)
                },
            ),
            (
                ON_SINCE,
                Entity {
                    name: Some("On since"),
                    device_class: Some("timestamp"),
                    enabled_by_default: Some(false),
                    value_template: "{{ value_json.on_since }}",
                    ..entity(ON_SINCE, &state)
                },
            ),
            (
                SIGNAL,
                Entity {
                    name: Some("Signal strength"),
                    device_class: Some("signal_strength"),
                    unit_of_measurement: Some("dBm"),
                    state_class: Some("measurement"),
                    enabled_by_default: Some(false),
                    value_template: "{{ value_json.rssi }}",
                    ..entity(SIGNAL, &facts)
                },
            ),
            (
                HOST,
                Entity {
                    name: Some("Host address"),
                    icon: Some("mdi:ip-network"),
                    enabled_by_default: Some(false),
                    value_template: "{{ value_json.host }}",
                    ..entity(HOST, &facts)
                },
            ),
            (
                CLOUD,
                Entity {
                    name: Some("Cloud connection"),
                    device_class: Some("connectivity"),
                    enabled_by_default: Some(false),
                    // What the template engine makes of JSON's true and false.
                    payload_on: Some("True"),
                    payload_off: Some("False"),
                    value_template: "{{ value_json.cloud_connection }}",
                    ..entity(CLOUD, &facts)
                },
            ),
        ])
    }

    fn bridge_entities(&self) -> BTreeMap<&'static str, Entity> {
        let entity = |key: &'static str, topic: &str| {
            let entity = Entity::new(key, topic);
            Entity {
                unique_id: format!("{}_{key}", self.bridge),
                default_entity_id: entity_id(entity.platform, &self.bridge, key),
                ..entity
            }
        };
        BTreeMap::from([
            (
                CONNECTION,
                Entity {
                    name: Some("Connection"),
                    device_class: Some("connectivity"),
                    payload_on: Some("online"),
                    payload_off: Some("offline"),
                    value_template: "{{ value }}",
                    ..entity(CONNECTION, &self.topics.bridge_state())
                },
            ),
            (
                CLOUD_STATUS,
                Entity {
                    name: Some("Cloud status"),
                    device_class: Some("enum"),
                    options: Some(&["off", "ok", "down", "stopped"]),
                    icon: Some("mdi:cloud-outline"),
                    value_template: "{{ value_json.cloud.status }}",
                    // Not shown as it was last while the bridge is away; the connection itself is never unavailable.
                    availability: Some([Availability { topic: self.topics.bridge_state() }]),
                    ..entity(CLOUD_STATUS, &self.topics.bridge_info())
                },
            ),
        ])
    }
}

const RELAY: &str = "relay";
const LED: &str = "led";
const ROUTE: &str = "route";
const ON_SINCE: &str = "on_since";
const SIGNAL: &str = "signal";
const HOST: &str = "host";
const CLOUD: &str = "cloud";
const CONNECTION: &str = "connection";
const CLOUD_STATUS: &str = "cloud_status";

/// Every component that any document of ours may hold, with its platform.
const COMPONENTS: [(&str, &str); 9] = [
    (RELAY, "switch"),
    (LED, "switch"),
    (ROUTE, "sensor"),
    (ON_SINCE, "sensor"),
    (SIGNAL, "sensor"),
    (HOST, "sensor"),
    (CLOUD, "binary_sensor"),
    (CONNECTION, "binary_sensor"),
    (CLOUD_STATUS, "sensor"),
];

/// The id under which a plug's entities are known for good.
fn plug_id(info: &PlugInfo) -> Option<String> {
    let plate = &info.plate;
    let mac = || plate.mac.map(|mac| mac.to_string().replace(':', ""));
    let id = plate.device_id.as_ref().map(|id| id.as_str().to_owned()).or_else(mac)?;
    Some(format!("{ORIGIN}_{id}"))
}

/// Home Assistant takes `a-z A-Z 0-9 _ -` in the topic of a document and ignores the document otherwise.
fn object_id(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// The entity id to begin with; what the user renames stays renamed.
fn entity_id(platform: &str, owner: &str, key: &str) -> String {
    let owner = owner.replace('-', "_").to_ascii_lowercase();
    if key.is_empty() { format!("{platform}.{owner}") } else { format!("{platform}.{owner}_{key}") }
}

#[derive(Serialize)]
struct DeviceDocument<'a> {
    device: &'a Device<'a>,
    origin: Origin,
    #[serde(flatten)]
    common: Common<'a>,
    components: BTreeMap<&'a str, Component<'a>>,
}

#[derive(Serialize)]
struct EntityDocument<'a> {
    device: &'a Device<'a>,
    origin: Origin,
    #[serde(flatten)]
    common: Common<'a>,
    #[serde(flatten)]
    entity: &'a Entity,
}

#[derive(Serialize)]
struct Device<'a> {
    identifiers: [&'a str; 1],
    name: &'a str,
    manufacturer: &'a str,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hw_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sw_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via_device: Option<&'a str>,
}

#[derive(Serialize)]
struct Origin {
    name: &'static str,
    sw_version: &'static str,
}

impl Origin {
    fn ours() -> Self {
        Self { name: ORIGIN, sw_version: env!("CARGO_PKG_VERSION") }
    }
}

/// What all entities of a device share.
#[derive(Serialize)]
struct Common<'a> {
    #[serde(skip_serializing_if = "<[Availability]>::is_empty")]
    availability: &'a [Availability],
    /// Without it the topic that spoke last would decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_mode: Option<&'static str>,
    qos: u8,
}

impl<'a> Common<'a> {
    fn of(availability: &'a [Availability]) -> Self {
        Self { availability, availability_mode: (!availability.is_empty()).then_some("all"), qos: 1 }
    }
}

#[derive(Serialize)]
struct Availability {
    topic: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Component<'a> {
    Is(&'a Entity),
    Gone { platform: &'a str },
}

#[derive(Serialize)]
struct Entity {
    platform: &'static str,
    name: Option<&'static str>,
    unique_id: String,
    default_entity_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_category: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_by_default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<&'static str>,
    state_topic: String,
    value_template: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<&'static [&'static str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_of_measurement: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_on: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_off: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability: Option<[Availability; 1]>,
}

impl Entity {
    fn new(key: &str, state_topic: &str) -> Self {
        let platform =
            COMPONENTS.iter().find(|(id, _)| *id == key).map_or("sensor", |(_, platform)| platform);
        Self {
            platform,
            name: None,
            unique_id: String::new(),
            default_entity_id: String::new(),
            device_class: None,
            // All but the relay itself are about the plug rather than about what it switches.
            entity_category: (key != RELAY).then_some("diagnostic"),
            enabled_by_default: None,
            icon: None,
            state_topic: state_topic.to_owned(),
            value_template: "{{ value }}",
            command_topic: None,
            options: None,
            unit_of_measurement: None,
            state_class: None,
            payload_on: None,
            payload_off: None,
            availability: None,
        }
    }
}

// The part of a kept document that says whose it is. Documents of others come by here, so that everything may be
// missing.
#[derive(Deserialize)]
struct KeptDocument {
    origin: KeptOrigin,
    device: KeptDevice,
    #[serde(default)]
    availability: Vec<KeptAvailability>,
    #[serde(default)]
    components: BTreeMap<String, KeptComponent>,
}

#[derive(Deserialize)]
struct KeptOrigin {
    name: String,
}

#[derive(Deserialize)]
struct KeptDevice {
    #[serde(default)]
    identifiers: Vec<String>,
    via_device: Option<String>,
}

#[derive(Deserialize)]
struct KeptAvailability {
    topic: String,
}

#[derive(Deserialize)]
struct KeptComponent {
    platform: String,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{DeviceId, Mac};
    use crate::smarthome::message::Nameplate;
    use serde_json::Value;

    fn press(form: Discovery) -> Press {
        let options = Options {
            discovery: form,
            discovery_prefix: "homeassistant".to_owned(),
            status_topic: "homeassistant/status".to_owned(),
        };
        Press::new(&options, Topics::new("hs100d"), "0f3a")
    }

    fn kettle() -> PlugName {
        PlugName::new("kitchen-kettle").unwrap()
    }

    fn info() -> PlugInfo {
        PlugInfo {
            plate: Arc::new(Nameplate {
                device_id: DeviceId::new("8006AABBCCDDEEFF00112233445566778899AABB"),
                mac: Mac::new("50:C7:BF:01:02:03"),
                alias: "Kettle".into(),
                model: "HS100(EU)".into(),
                hw_version: "1.0".into(),
                sw_version: "1.2.6 Build 200727 Rel.120821".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM".into(),
                dev_name: "Wi-Fi Smart Plug".into(),
            }),
            address: crate::model::Address::new("192.168.1.20", 9999),
            rssi: Some(-51),
            cloud_connected: Some(true),
        }
    }

    const ALL: Abilities = Abilities { led: true, cloud: true };

    fn none_gone() -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Compares with a file under tests/golden. `HS100D_BLESS=1 cargo test` writes them anew, to be read in the diff.
    fn golden(name: &str, documents: &[Document]) {
        let shown: BTreeMap<&str, Value> = documents
            .iter()
            .map(|document| (document.topic.as_str(), serde_json::from_slice(&document.payload).unwrap()))
            .collect();
        // The version is in every document and changes with every release.
        let shown =
            serde_json::to_string_pretty(&shown).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("HS100D_BLESS").is_some() {
            std::fs::write(&path, shown + "\n").unwrap();
            return;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown.trim(), expected.trim(), "{}", path.display());
    }

    #[test]
    fn the_device_form_is_one_document_a_plug() {
        let press = press(Discovery::Device);
        golden("device.json", &press.plug(&kettle(), &info(), ALL, &none_gone()));
        golden("device-bridge.json", &press.bridge());
    }

    #[test]
    fn the_component_form_is_one_document_an_entity() {
        let press = press(Discovery::Component);
        golden("component.json", &press.plug(&kettle(), &info(), ALL, &none_gone()));
        golden("component-bridge.json", &press.bridge());
    }

    #[test]
    fn entities_that_the_plug_does_not_have_are_left_out() {
        let press = press(Discovery::Device);
        golden("device-bare.json", &press.plug(&kettle(), &info(), Abilities::default(), &none_gone()));
    }

    #[test]
    fn a_component_that_is_gone_is_taken_back_by_its_platform_alone() {
        let gone = BTreeMap::from([
            ("led".to_owned(), "switch".to_owned()),
            ("relay".to_owned(), "switch".to_owned()),
        ]);
        let documents = press(Discovery::Device).plug(&kettle(), &info(), Abilities::default(), &gone);
        let document: Value = serde_json::from_slice(&documents[0].payload).unwrap();
        assert_eq!(document["components"]["led"], serde_json::json!({"platform": "switch"}));
        assert!(document["components"]["relay"]["unique_id"].is_string());
    }

    #[test]
    fn no_documents_when_switched_off_or_when_the_plug_says_nothing_of_itself() {
        let off = press(Discovery::Off);
        assert_eq!(off.plug(&kettle(), &info(), ALL, &none_gone()), []);
        assert_eq!(off.bridge(), []);
        let mut info = info();
        let plate = Arc::make_mut(&mut info.plate);
        plate.device_id = None;
        assert_eq!(press(Discovery::Device).plug(&kettle(), &info, ALL, &none_gone()).len(), 1);
        Arc::make_mut(&mut info.plate).mac = None;
        assert_eq!(press(Discovery::Device).plug(&kettle(), &info, ALL, &none_gone()), []);
    }

    #[test]
    fn ids_do_not_hold_the_instance_so_that_they_survive_a_move() {
        for document in press(Discovery::Component).plug(&kettle(), &info(), ALL, &none_gone()) {
            let shown: Value = serde_json::from_slice(&document.payload).unwrap();
            assert!(shown["unique_id"].as_str().unwrap().contains("8006AABB"));
            assert!(!shown["unique_id"].as_str().unwrap().contains("0f3a"));
            assert!(!document.topic.contains("0f3a"));
        }
    }

    #[test]
    fn own_documents_are_found_and_recognised_and_those_of_others_are_not() {
        for form in [Discovery::Device, Discovery::Component] {
            let press = press(form);
            let documents =
                press.plug(&kettle(), &info(), ALL, &none_gone()).into_iter().chain(press.bridge());
            for document in documents {
                assert!(press.is_document_topic(&document.topic));
                let heard = press.filters().iter().any(|filter| rumqttc::matches(&document.topic, filter));
                assert!(heard, "{}", document.topic);
                let found = press.recognise(&document.payload).unwrap();
                assert_eq!(found.plug.is_some(), document.topic.contains("8006"), "{}", document.topic);
                let neighbour = Press { bridge: "hs100d_other".to_owned(), ..press.clone() };
                assert_eq!(neighbour.recognise(&document.payload), None);
            }
        }
        let press = press(Discovery::Device);
        for other in [
            &b"not json"[..],
            b"{}",
            br#"{"origin":{"name":"Zigbee2MQTT"},"device":{"identifiers":["x"],"via_device":"hs100d_0f3a"}}"#,
            br#"{"origin":{"name":"hs100d"},"device":{"identifiers":["x"]}}"#,
            br#"{"origin":{"name":"hs100d"},"device":{"identifiers":"hs100d_0f3a"}}"#,
        ] {
            assert_eq!(press.recognise(other), None, "{}", String::from_utf8_lossy(other));
        }
        assert!(!press.is_document_topic("homeassistantx/device/a/config"));
        assert!(!press.is_document_topic("hs100d/kettle/state"));
    }

    #[test]
    fn an_instance_of_any_text_makes_a_topic_that_home_assistant_takes() {
        let odd =
            Press { bridge: format!("hs100d_{}", object_id("Büro/Pi #1")), ..press(Discovery::Device) };
        assert_eq!(odd.bridge()[0].topic, "homeassistant/device/hs100d_B_ro_Pi__1/config");
    }
}
