//! What Home Assistant is told: one document a device (or one an entity), typed, as its MQTT integration reads it.
//!
//! Entities are those of Home Assistant's own integration for these devices, plus the route in use; `entities` has
//! them. A strip is one device, and its outlets are entities of it. This room only writes documents and recognises
//! them again; when they are sent is decided in `desk`.
//!
//! Nothing that identifies an entity holds the instance, so that entities survive a move to another machine.
//! What tells whose document it is stands in `via_device`, which names the bridge.

mod document;
mod entities;

use std::collections::BTreeMap;

use crate::bridge::event::PlugInfo;
use crate::model::PlugName;

use self::document::{
    Availability, Common, Component, Device, DeviceDocument, Entity, EntityDocument, KeptDocument, Origin,
};
use super::payload;
use super::topics::{self, Leaf, Topics};

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
    /// The id of the device that it is about.
    pub(super) device: String,
    /// The plug that it is about, by its topics, if it is about one.
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

    /// Whether a topic is where Home Assistant looks for documents.
    pub(super) fn is_below_prefix(&self, topic: &str) -> bool {
        topics::is_below(&self.prefix, topic)
    }

    /// The documents about a plug. None, if it says neither device id nor MAC, since there would be nothing
    /// that tells its entities from another plug's; none about an outlet, which its strip's document holds.
    /// Components named in `gone` are taken back from Home Assistant.
    pub(super) fn plug(
        &self,
        name: &PlugName,
        info: &PlugInfo,
        has: Abilities,
        gone: &BTreeMap<String, String>,
    ) -> Vec<Document> {
        self.some_of_plug(name, info, has, gone, |_| true)
    }

    /// The one of these documents that stands at this topic.
    pub(super) fn plug_at(
        &self,
        topic: &str,
        name: &PlugName,
        info: &PlugInfo,
        has: Abilities,
        gone: &BTreeMap<String, String>,
    ) -> Option<Document> {
        self.some_of_plug(name, info, has, gone, |other| other == topic).pop()
    }

    fn some_of_plug(
        &self,
        name: &PlugName,
        info: &PlugInfo,
        has: Abilities,
        gone: &BTreeMap<String, String>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<Document> {
        let Some(id) = self.device(info) else { return Vec::new() };
        let entities = entities::of_plug(&self.topics, &id, name, info, has);
        let device = self.plug_device(name, &id, info);
        self.print(&id, &device, &entities::availability(&self.topics, name), &entities, gone, is_wanted)
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
        let entities = entities::of_bridge(&self.topics, &self.bridge);
        self.print(&self.bridge, &device, &[], &entities, &BTreeMap::new(), |_| true)
    }

    /// The id under which a device's entities are known for good, if it is to have documents. A strip whose outlets
    /// have no names yet waits for them, or its document would take back entities that are about to come.
    pub(super) fn device(&self, info: &PlugInfo) -> Option<String> {
        let plate = &info.plate;
        if info.outlet.is_some() || info.outlets.len() < plate.outlets.len() {
            return None;
        }
        let mac = || plate.mac.map(|mac| mac.to_string().replace(':', ""));
        let id = plate.device_id.as_ref().map(|id| id.as_str().to_owned()).or_else(mac)?;
        Some(format!("{ORIGIN}_{id}"))
    }

    /// The id of the bridge's own device.
    pub(super) fn bridge_device(&self) -> &str {
        &self.bridge
    }

    /// What a kept document shows its device to be able to do.
    pub(super) fn abilities(&self, topic: &str, found: &Found) -> Abilities {
        let key = topic.rsplit('/').nth(1).and_then(|object| object.strip_prefix(ORIGIN)?.strip_prefix('_'));
        let key = key.filter(|_| !self.is_device_topic(topic));
        Abilities::of(found.components.keys().map(String::as_str).chain(key))
    }

    /// Whether a document at this topic is in device form.
    pub(super) fn is_device_topic(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with("/device/"))
    }

    /// Whether a document at this topic is in the form that is not written now.
    pub(super) fn is_other_form(&self, topic: &str) -> bool {
        match self.form {
            Discovery::Device => !self.is_device_topic(topic),
            Discovery::Component => self.is_device_topic(topic),
            Discovery::Off => false,
        }
    }

    /// What has to be listened to for a moment in order to find all documents that an earlier run may have left
    /// in either form, and as little else as possible.
    pub(super) fn filters(&self) -> Vec<String> {
        let component =
            |(key, platform): &(&str, &str)| format!("{}/{platform}/+/{ORIGIN}_{key}/config", self.prefix);
        std::iter::once(self.topic_of_device("+")).chain(entities::ALL.iter().map(component)).collect()
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
        let device = kept.device.identifiers.into_iter().next()?;
        let is_ours = kept.origin.name == ORIGIN
            && (kept.device.via_device.as_deref() == Some(&self.bridge) || device == self.bridge);
        let available = kept.availability.iter().find_map(|a| self.topics.parse_availability(&a.topic));
        // The route is there while the bridge is, and names its plug only by what it reads.
        let of_state = |topic: &String| self.topics.parse_told(topic, Leaf::State);
        let plug = available.or_else(|| kept.state_topic.as_ref().and_then(of_state));
        // What was taken back by then is over and done with.
        let there = kept.components.into_iter().filter(|(_, component)| component.unique_id.is_some());
        let components = there.map(|(key, component)| (key, component.platform)).collect();
        is_ours.then_some(Found { device, plug, components })
    }

    fn topic_of_device(&self, id: &str) -> String {
        format!("{}/device/{id}/config", self.prefix)
    }

    fn topic_of_entity(&self, id: &str, entity: &Entity) -> String {
        let Entity { platform, key, outlet, .. } = entity;
        let part = outlet.as_deref().unwrap_or_default();
        format!("{}/{platform}/{id}{part}/{ORIGIN}_{key}/config", self.prefix)
    }

    fn print(
        &self,
        id: &str,
        device: &Device<'_>,
        availability: &[Availability],
        entities: &[Entity],
        gone: &BTreeMap<String, String>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<Document> {
        let print_device =
            |topic| Document { topic, payload: print_device(device, availability, entities, gone) };
        let print_entity = |entity| {
            let topic = Some(self.topic_of_entity(id, entity)).filter(|topic| is_wanted(topic))?;
            Some(Document { topic, payload: print_entity(device, availability, entity) })
        };
        match self.form {
            Discovery::Device => {
                let topic = Some(self.topic_of_device(id)).filter(|topic| is_wanted(topic));
                topic.map(print_device).into_iter().collect()
            }
            Discovery::Component => entities.iter().filter_map(print_entity).collect(),
            Discovery::Off => Vec::new(),
        }
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
}

fn print_device(
    device: &Device<'_>,
    availability: &[Availability],
    entities: &[Entity],
    gone: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut components: BTreeMap<String, Component<'_>> =
        entities.iter().map(|entity| (entity.component(), Component::Is(entity))).collect();
    for (key, platform) in gone {
        components.entry(key.clone()).or_insert(Component::Gone { platform });
    }
    payload::json(&DeviceDocument {
        device,
        origin: Origin::ours(),
        common: Common::of(availability),
        components,
    })
}

fn print_entity(device: &Device<'_>, availability: &[Availability], entity: &Entity) -> Vec<u8> {
    let shared = if entity.availability.is_some() { &[] } else { availability };
    payload::json(&EntityDocument { device, origin: Origin::ours(), common: Common::of(shared), entity })
}

/// Home Assistant takes `a-z A-Z 0-9 _ -` in the topic of a document and ignores the document otherwise.
fn object_id(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bridge::event::OutletInfo;
    use crate::model::{DeviceId, Mac};
    use crate::smarthome::message::{Nameplate, OutletPlate};
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
                dims: false,
                outlets: Box::default(),
            }),
            address: crate::model::Address::new("192.168.1.20", 9999),
            rssi: Some(-51),
            cloud_connected: Some(true),
            outlet: None,
            outlets: Arc::default(),
            schedule: None,
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

    /// One of each kind.
    fn kinds() -> [(&'static str, PlugInfo); 5] {
        let outlet = |id: &str, alias: &str| OutletPlate { id: id.into(), alias: alias.into() };
        let with = |change: &dyn Fn(&mut Nameplate)| {
            let mut info = info();
            change(Arc::make_mut(&mut info.plate));
            info
        };
        let meter = with(&|plate| {
            plate.model = "HS110(EU)".into();
            plate.feature = "TIM:ENE".into();
        });
        let switch = with(&|plate| {
            plate.model = "HS200(US)".into();
            plate.dev_name = "Wi-Fi Smart Light Switch".into();
        });
        let dimmer = with(&|plate| {
            plate.model = "HS220(US)".into();
            plate.dev_name = "Smart Wi-Fi Dimmer".into();
            plate.dims = true;
        });
        let mut strip = with(&|plate| {
            plate.alias = "Desk".into();
            plate.model = "HS300(US)".into();
            plate.feature = "TIM:ENE".into();
            // Whole ids, as one firmware gives them; the last two characters are the outlet's own.
            let id = "8006AABBCCDDEEFF00112233445566778899AABB";
            plate.outlets = [outlet(&format!("{id}00"), "Lamp"), outlet(&format!("{id}01"), " ")].into();
        });
        strip.outlets = ["lamp", "desk-2"].map(|name| PlugName::new(name).unwrap()).into();
        [("plug", info()), ("meter", meter), ("switch", switch), ("dimmer", dimmer), ("strip", strip)]
    }

    #[test]
    fn the_device_form_is_one_document_a_device() {
        let press = press(Discovery::Device);
        for (kind, info) in kinds() {
            let documents = press.plug(&kettle(), &info, ALL, &none_gone());
            assert_eq!(documents.len(), 1, "{kind}");
            golden(&format!("device-{kind}.json"), &documents);
        }
        golden("device-bridge.json", &press.bridge());
    }

    #[test]
    fn the_component_form_is_one_document_an_entity() {
        let press = press(Discovery::Component);
        for (kind, info) in kinds() {
            golden(&format!("component-{kind}.json"), &press.plug(&kettle(), &info, ALL, &none_gone()));
        }
        golden("component-bridge.json", &press.bridge());
    }

    #[test]
    fn entities_that_the_plug_does_not_have_are_left_out() {
        let press = press(Discovery::Device);
        golden("device-bare.json", &press.plug(&kettle(), &info(), Abilities::default(), &none_gone()));
    }

    #[test]
    fn both_forms_say_the_same_of_every_entity() {
        for (kind, info) in kinds() {
            let of = |form| -> Vec<Value> {
                press(form)
                    .plug(&kettle(), &info, ALL, &none_gone())
                    .iter()
                    .map(|document| serde_json::from_slice(&document.payload).unwrap())
                    .collect()
            };
            let device = &of(Discovery::Device)[0];
            let shared = ["availability", "availability_mode", "device", "origin", "qos"];
            let mut whole: Vec<Value> = device["components"].as_object().unwrap().values().cloned().collect();
            for entity in &mut whole {
                for key in shared {
                    if entity.get(key).is_none() {
                        entity[key] = device[key].clone();
                    }
                }
            }
            let mut single = of(Discovery::Component);
            let id = |entity: &Value| entity["unique_id"].as_str().unwrap().to_owned();
            whole.sort_by_key(id);
            single.sort_by_key(id);
            assert_eq!(whole, single, "{kind}");
            let ids: std::collections::BTreeSet<String> = single.iter().map(id).collect();
            assert_eq!(ids.len(), single.len(), "{kind}: no id is given twice");
        }
    }

    #[test]
    fn an_outlet_is_there_while_the_bridge_is_and_it_can_be_reached_itself() {
        let [.., (_, strip)] = kinds();
        for document in press(Discovery::Component).plug(&kettle(), &strip, ALL, &none_gone()) {
            let text = String::from_utf8(document.payload).unwrap();
            // A key that is there twice would be read by its last.
            assert_eq!(text.matches("\"availability\"").count(), 1, "{text}");
            let shown: Value = serde_json::from_str(&text).unwrap();
            let owner = ["desk-2", "lamp"].into_iter().find(|name| text.contains(&format!("hs100d/{name}/")));
            let topic = format!("hs100d/{}/availability", owner.unwrap_or("kitchen-kettle"));
            let mut expected = serde_json::json!([{"topic": "hs100d/bridge/state"}, {"topic": topic}]);
            if shown["name"] == "Route" {
                expected.as_array_mut().unwrap().pop();
            }
            assert_eq!((&shown["availability"], &shown["availability_mode"]), (&expected, &"all".into()));
        }
    }

    #[test]
    fn the_route_is_there_as_long_as_the_bridge_so_that_none_is_seen() {
        let [.., (_, strip)] = kinds();
        for info in [info(), strip] {
            let documents = press(Discovery::Device).plug(&kettle(), &info, ALL, &none_gone());
            let document: Value = serde_json::from_slice(&documents[0].payload).unwrap();
            let route = &document["components"]["route"];
            assert_eq!(route["availability"], serde_json::json!([{"topic": "hs100d/bridge/state"}]));
            assert!(route["options"].as_array().unwrap().contains(&"none".into()));
        }
    }

    #[test]
    fn the_button_that_restarts_a_plug_is_nowhere_until_the_user_enables_it() {
        for (_, info) in kinds() {
            let documents = press(Discovery::Device).plug(&kettle(), &info, ALL, &none_gone());
            let document: Value = serde_json::from_slice(&documents[0].payload).unwrap();
            let restart = &document["components"]["reboot"];
            assert_eq!(restart["entity_category"], "diagnostic");
            assert_eq!(restart["enabled_by_default"], false);
        }
    }

    #[test]
    fn a_strip_waits_for_the_names_of_its_outlets() {
        let [.., (_, strip)] = kinds();
        for known in 0..2 {
            let unnamed = PlugInfo { outlets: strip.outlets[..known].into(), ..strip.clone() };
            assert_eq!(press(Discovery::Device).plug(&kettle(), &unnamed, ALL, &none_gone()), []);
        }
    }

    #[test]
    fn an_outlet_has_no_document_of_its_own() {
        let [.., (_, strip)] = kinds();
        let part = OutletInfo { number: 1, strip: kettle() };
        let outlet = PlugInfo { outlet: Some(part), outlets: Arc::default(), ..strip };
        for form in [Discovery::Device, Discovery::Component] {
            assert_eq!(press(form).plug(&PlugName::new("lamp").unwrap(), &outlet, ALL, &none_gone()), []);
        }
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
        for (form, (_, info)) in [Discovery::Device, Discovery::Component]
            .into_iter()
            .flat_map(|form| kinds().map(|kind| (form, kind)))
        {
            let press = press(form);
            let documents = press.plug(&kettle(), &info, ALL, &none_gone()).into_iter().chain(press.bridge());
            for document in documents {
                assert!(press.is_document_topic(&document.topic));
                let heard = press.filters().iter().any(|filter| rumqttc::matches(&document.topic, filter));
                assert!(heard, "{}", document.topic);
                let found = press.recognise(&document.payload).unwrap();
                let is_plug = document.topic.contains("8006");
                assert_eq!(found.plug.is_some(), is_plug, "{}", document.topic);
                let device = if is_plug { press.device(&info).unwrap() } else { press.bridge.clone() };
                assert_eq!(found.device, device, "{}", document.topic);
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
    fn a_document_is_printed_by_itself_as_among_the_others() {
        let info = info();
        for form in [Discovery::Device, Discovery::Component] {
            let press = press(form);
            for document in press.plug(&kettle(), &info, ALL, &none_gone()) {
                let alone = press.plug_at(&document.topic, &kettle(), &info, ALL, &none_gone());
                assert_eq!(alone.as_ref(), Some(&document));
            }
            assert_eq!(press.plug_at("homeassistant/elsewhere", &kettle(), &info, ALL, &none_gone()), None);
        }
    }

    #[test]
    fn an_instance_of_any_text_makes_a_topic_that_home_assistant_takes() {
        let odd =
            Press { bridge: format!("hs100d_{}", object_id("Büro/Pi #1")), ..press(Discovery::Device) };
        assert_eq!(odd.bridge()[0].topic, "homeassistant/device/hs100d_B_ro_Pi__1/config");
    }
}
