//! Renders the discovery documents of plugs and of the bridge.

use std::collections::BTreeMap;

use super::discovery_topics::DiscoveryTopics;
use super::entities::{self, Abilities};
use super::fields::{
    AvailabilityTopic, Common, Component, DeviceDocument, DiscoveryDevice, DiscoveryOrigin, Entity,
    EntityDocument, ORIGIN,
};
use super::options::DocumentForm;
use crate::bridge::event::PlugInfo;
use crate::model::PlugName;
use crate::mqtt::settings::MqttSettings;
use crate::mqtt::topics::Topics;
use crate::payload;
use crate::smarthome::message::DeviceInfo;

const MANUFACTURER: &str = "TP-Link";

/// A document and its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// Renders the documents of one installation.
#[derive(Debug, Clone)]
pub(super) struct DiscoveryRenderer {
    form: DocumentForm,
    discovery: DiscoveryTopics,
    /// The id of the bridge device, which contains the instance.
    bridge: String,
    /// The same with the instance that was drawn.
    drawn_bridge: String,
    /// The bridge device's name in Home Assistant.
    bridge_name: String,
    topics: Topics,
}

/// The content of one device's documents.
struct DeviceContent<'a> {
    device: DiscoveryDevice<'a>,
    /// The first levels of its topics.
    base: String,
    availability: Vec<AvailabilityTopic>,
    entities: Vec<Entity>,
}

impl DiscoveryRenderer {
    pub(super) fn new(settings: &MqttSettings, topics: Topics) -> Self {
        let MqttSettings { homeassistant: options, instance, drawn_instance, .. } = settings;
        let is_named = instance != drawn_instance;
        Self {
            form: options.discovery,
            discovery: DiscoveryTopics::new(&options.discovery_prefix),
            bridge: format!("{ORIGIN}_{}", object_id(instance)),
            drawn_bridge: format!("{ORIGIN}_{}", object_id(drawn_instance)),
            bridge_name: if is_named { format!("{ORIGIN} {instance}") } else { ORIGIN.to_owned() },
            topics,
        }
    }

    pub(super) fn discovery(&self) -> &DiscoveryTopics {
        &self.discovery
    }

    /// The documents of a plug; none without a device id or MAC, since its entities would have no unique ids. Components in
    /// `gone` are removed from Home Assistant.
    pub(super) fn plug(
        &self,
        name: &PlugName,
        info: &PlugInfo,
        has: Abilities,
        gone: &BTreeMap<String, String>,
    ) -> Vec<Document> {
        self.some_of_plug(name, info, has, gone, |_| true)
    }

    /// The one of these documents that belongs at this topic.
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
        let device_info = &info.device;
        let outlet = info.outlet.as_ref();
        let label = outlet.map(|outlet| entities::outlet_label(device_info, outlet.number));
        let strip = outlet.and_then(|_| device_id(device_info));
        let device = DiscoveryDevice {
            identifiers: [&id],
            name: match &label {
                Some(label) => label,
                None if device_info.alias.trim().is_empty() => name.as_str(),
                None => &device_info.alias,
            },
            manufacturer: MANUFACTURER,
            model: &device_info.model,
            hw_version: Some(&device_info.hw_version),
            sw_version: Some(&device_info.sw_version),
            via_device: Some(strip.as_deref().unwrap_or(&self.bridge)),
        };
        let content = DeviceContent {
            device,
            base: self.topics.of_plug(name.as_str()),
            availability: entities::availability(&self.topics, name),
            entities: entities::of_plug(&self.topics, &id, name, info, has),
        };
        self.render(content, gone, is_wanted)
    }

    /// The documents of the bridge itself.
    pub(super) fn bridge(&self) -> Vec<Document> {
        let device = DiscoveryDevice {
            identifiers: [&self.bridge],
            name: &self.bridge_name,
            manufacturer: ORIGIN,
            model: "Bridge to TP-Link smart plugs",
            hw_version: None,
            sw_version: Some(env!("CARGO_PKG_VERSION")),
            via_device: None,
        };
        let content = DeviceContent {
            device,
            base: self.topics.of_plug(PlugName::RESERVED),
            availability: Vec::new(),
            entities: entities::of_bridge(&self.topics, &self.bridge),
        };
        self.render(content, &BTreeMap::new(), |_| true)
    }

    /// The stable id of a plug's device; `None` while it can have no documents. A strip waits until its outlets have names:
    /// its document would remove entities that move to the outlets' documents.
    pub(super) fn device(&self, info: &PlugInfo) -> Option<String> {
        let device_info = &info.device;
        let device = device_id(device_info)?;
        match &info.outlet {
            Some(outlet) => Some(device + &entities::outlet_digits(device_info, outlet.number)),
            None => (info.outlets.len() >= device_info.outlets.len()).then_some(device),
        }
    }

    /// The device id of an outlet's strip.
    pub(super) fn strip(&self, info: &PlugInfo) -> Option<String> {
        info.outlet.as_ref().and_then(|_| device_id(&info.device))
    }

    /// The id of the bridge device.
    pub(super) fn bridge_device(&self) -> &str {
        &self.bridge
    }

    /// The id that it had before the config named this installation.
    pub(super) fn drawn_bridge_device(&self) -> &str {
        &self.drawn_bridge
    }

    /// Whether the document at this topic is in the form that is not written now.
    pub(super) fn is_other_form(&self, topic: &str) -> bool {
        match self.form {
            DocumentForm::Device => !self.discovery.is_device(topic),
            DocumentForm::Component => self.discovery.is_device(topic),
            DocumentForm::Off => false,
        }
    }

    /// Whether no documents are written.
    pub(super) fn is_off(&self) -> bool {
        self.form == DocumentForm::Off
    }

    fn render(
        &self,
        content: DeviceContent<'_>,
        gone: &BTreeMap<String, String>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<Document> {
        let id = content.device.identifiers[0];
        match self.form {
            DocumentForm::Device => {
                let topic = Some(self.discovery.device(id)).filter(|topic| is_wanted(topic));
                topic.map(|topic| render_device(topic, content, gone)).into_iter().collect()
            }
            DocumentForm::Component => {
                let DeviceContent { device, base, availability, entities } = content;
                let wanted = entities.into_iter().filter_map(|entity| {
                    let topic = self.discovery.entity(entity.platform, id, entity.key);
                    is_wanted(&topic)
                        .then(|| render_entity(topic, &device, &availability, &entity.alone(&base)))
                });
                wanted.collect()
            }
            DocumentForm::Off => Vec::new(),
        }
    }
}

/// The id of the whole device.
fn device_id(device_info: &DeviceInfo) -> Option<String> {
    let mac = || device_info.mac.map(|mac| mac.to_string().replace(':', ""));
    let id = device_info.device_id.as_ref().map(|id| id.as_str().to_owned()).or_else(mac)?;
    Some(format!("{ORIGIN}_{id}"))
}

fn render_device(topic: String, content: DeviceContent<'_>, gone: &BTreeMap<String, String>) -> Document {
    let DeviceContent { device, base, availability, entities } = content;
    let state_topic = shared_state_topic(&entities);
    let entities: Vec<Entity> =
        entities.into_iter().map(|entity| entity.among_others(&base, state_topic.as_deref())).collect();
    let mut components: BTreeMap<&str, Component<'_>> =
        entities.iter().map(|entity| (entity.key, Component::Is(entity))).collect();
    for (key, platform) in gone {
        components.entry(key).or_insert(Component::Gone { platform });
    }
    let payload = payload::json(&DeviceDocument {
        device: &device,
        origin: DiscoveryOrigin::ours(),
        common: Common::of(&availability),
        state_topic: state_topic.as_deref(),
        components,
    });
    Document { topic, payload }
}

/// The topic that most of these entities read, if more than one reads it.
fn shared_state_topic(entities: &[Entity]) -> Option<String> {
    let readers =
        |topic: &str| entities.iter().filter(|one| one.state_topic.as_deref() == Some(topic)).count();
    let topics = entities.iter().filter_map(|entity| entity.state_topic.as_deref());
    let (count, topic) = topics.map(|topic| (readers(topic), topic)).max()?;
    (count > 1).then(|| topic.to_owned())
}

fn render_entity(
    topic: String,
    device: &DiscoveryDevice<'_>,
    availability: &[AvailabilityTopic],
    entity: &Entity,
) -> Document {
    let shared = if entity.availability.is_some() { &[] } else { availability };
    let document =
        EntityDocument { device, origin: DiscoveryOrigin::ours(), common: Common::of(shared), entity };
    Document { topic, payload: payload::json(&document) }
}

/// Home Assistant ignores a document whose topic has other characters than `a-z A-Z 0-9 _ -`.
fn object_id(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bridge::event::OutletInfo;
    use crate::model::{DeviceId, Mac};
    use crate::mqtt::homeassistant::retained::RetainedDocument;
    use crate::mqtt::test_support;
    use crate::smarthome::message::{DeviceInfo, OutletDescription};
    use serde_json::Value;

    fn renderer(form: DocumentForm) -> DiscoveryRenderer {
        named_renderer(form, "0f3a", "hs100d")
    }

    /// That of an installation which was drawn as 0f3a, with the name that its config gives it.
    fn named_renderer(form: DocumentForm, instance: &str, base: &str) -> DiscoveryRenderer {
        let [instance, drawn_instance] = [instance, "0f3a"].map(str::to_owned);
        let settings = MqttSettings { instance, drawn_instance, ..test_support::settings(form) };
        DiscoveryRenderer::new(&settings, Topics::new(base))
    }

    /// Reads a document as the installation of this renderer does.
    fn read_by(renderer: &DiscoveryRenderer, payload: &[u8]) -> Option<RetainedDocument> {
        RetainedDocument::read(payload, &renderer.topics, &renderer.bridge, &renderer.drawn_bridge)
    }

    fn kettle() -> PlugName {
        PlugName::new("kitchen-kettle").unwrap()
    }

    fn info() -> PlugInfo {
        PlugInfo {
            device: Arc::new(DeviceInfo {
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
            protocol: None,
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

    /// One of each kind; of a strip the whole and one of its outlets.
    fn kinds() -> [(&'static str, PlugInfo); 6] {
        let outlet = |id: &str, alias: &str| OutletDescription { id: id.into(), alias: alias.into() };
        let with = |change: &dyn Fn(&mut DeviceInfo)| {
            let mut info = info();
            change(Arc::make_mut(&mut info.device));
            info
        };
        let meter = with(&|device_info| {
            device_info.model = "HS110(EU)".into();
            device_info.feature = "TIM:ENE".into();
        });
        let switch = with(&|device_info| {
            device_info.model = "HS200(US)".into();
            device_info.dev_name = "Wi-Fi Smart Light Switch".into();
        });
        let dimmer = with(&|device_info| {
            device_info.model = "HS220(US)".into();
            device_info.dev_name = "Smart Wi-Fi Dimmer".into();
            device_info.dims = true;
        });
        let mut strip = with(&|device_info| {
            device_info.alias = "Desk".into();
            device_info.model = "HS300(US)".into();
            device_info.feature = "TIM:ENE".into();
            // Whole ids, as one firmware gives them; the last two characters are the outlet's own.
            let id = "8006AABBCCDDEEFF00112233445566778899AABB";
            device_info.outlets =
                [outlet(&format!("{id}00"), "Lamp"), outlet(&format!("{id}01"), " ")].into();
        });
        strip.outlets = ["lamp", "desk-2"].map(|name| PlugName::new(name).unwrap()).into();
        [
            ("plug", info()),
            ("meter", meter),
            ("switch", switch),
            ("dimmer", dimmer),
            ("outlet", outlet_of(&strip, 0)),
            ("strip", strip),
        ]
    }

    fn outlet_of(strip: &PlugInfo, number: u8) -> PlugInfo {
        let part = OutletInfo { number, strip: PlugName::new("desk").unwrap() };
        PlugInfo { outlet: Some(part), outlets: Arc::default(), ..strip.clone() }
    }

    /// A document as Home Assistant reads it: keys in full, topics in full, and with what a device hands down to its
    /// components.
    fn read(document: &Document) -> Value {
        const KEYS: [(&str, &str); 36] = [
            ("p", "platform"),
            ("o", "origin"),
            ("dev", "device"),
            ("cmps", "components"),
            ("uniq_id", "unique_id"),
            ("def_ent_id", "default_entity_id"),
            ("dev_cla", "device_class"),
            ("ent_cat", "entity_category"),
            ("en", "enabled_by_default"),
            ("ic", "icon"),
            ("stat_t", "state_topic"),
            ("val_tpl", "value_template"),
            ("cmd_t", "command_topic"),
            ("ops", "options"),
            ("unit_of_meas", "unit_of_measurement"),
            ("stat_cla", "state_class"),
            ("sug_dsp_prc", "suggested_display_precision"),
            ("pl_on", "payload_on"),
            ("pl_off", "payload_off"),
            ("pl_prs", "payload_press"),
            ("avty", "availability"),
            ("avty_mode", "availability_mode"),
            ("stat_val_tpl", "state_value_template"),
            ("bri_stat_t", "brightness_state_topic"),
            ("bri_val_tpl", "brightness_value_template"),
            ("bri_cmd_t", "brightness_command_topic"),
            ("bri_scl", "brightness_scale"),
            ("ids", "identifiers"),
            ("mf", "manufacturer"),
            ("mdl", "model"),
            ("hw", "hw_version"),
            ("sw", "sw_version"),
            // These have no short form, or one that we do not use.
            ("enabled_by_default", "enabled_by_default"),
            ("on_command_type", "on_command_type"),
            ("via_device", "via_device"),
            ("topic", "topic"),
        ];
        fn in_full(value: &Value) -> Value {
            let Value::Object(fields) = value else { return value.clone() };
            let is_plain = |key: &str| matches!(key, "~" | "name" | "qos");
            let full = |key: &str| KEYS.iter().find(|(short, _)| *short == key).map(|(_, full)| *full);
            let mut read: serde_json::Map<String, Value> = fields
                .iter()
                .map(|(key, value)| {
                    let full = full(key).or(is_plain(key).then_some(key.as_str()));
                    let full = full.unwrap_or_else(|| panic!("{key} is no key that Home Assistant knows"));
                    (full.to_owned(), in_full(value))
                })
                .collect();
            if let Some(Value::String(base)) = read.remove("~") {
                for (_, value) in read.iter_mut().filter(|(key, _)| key.ends_with("topic")) {
                    let topic = value.as_str().unwrap();
                    *value =
                        topic.strip_prefix('~').map_or(topic.to_owned(), |rest| base.clone() + rest).into();
                }
            }
            read.into()
        }
        let mut document: Value = serde_json::from_slice(&document.payload).unwrap();
        let Some(components) = document.as_object_mut().unwrap().remove("cmps") else {
            return in_full(&document);
        };
        let components = components.as_object().unwrap().iter().map(|(key, one)| (key.clone(), in_full(one)));
        let mut components: serde_json::Map<String, Value> = components.collect();
        let mut device = in_full(&document);
        assert!(device.get("~").is_none(), "it is not handed down");
        for component in components.values_mut().filter(|one| one.get("unique_id").is_some()) {
            for shared in ["availability", "availability_mode", "state_topic", "qos", "device", "origin"] {
                if component.get(shared).is_none() && device.get(shared).is_some() {
                    component[shared] = device[shared].clone();
                }
            }
            // A button has none.
            if component["platform"] == "button" {
                component.as_object_mut().unwrap().remove("state_topic");
            }
        }
        device["components"] = components.into();
        device
    }

    #[test]
    fn the_device_form_is_one_document_a_device() {
        let renderer = renderer(DocumentForm::Device);
        for (kind, info) in kinds() {
            let documents = renderer.plug(&kettle(), &info, ALL, &none_gone());
            assert_eq!(documents.len(), 1, "{kind}");
            golden(&format!("device-{kind}.json"), &documents);
        }
        golden("device-bridge.json", &renderer.bridge());
    }

    #[test]
    fn the_component_form_is_one_document_an_entity() {
        let renderer = renderer(DocumentForm::Component);
        for (kind, info) in kinds() {
            golden(&format!("component-{kind}.json"), &renderer.plug(&kettle(), &info, ALL, &none_gone()));
        }
        golden("component-bridge.json", &renderer.bridge());
    }

    #[test]
    fn entities_that_the_plug_does_not_have_are_left_out() {
        let renderer = renderer(DocumentForm::Device);
        golden("device-bare.json", &renderer.plug(&kettle(), &info(), Abilities::default(), &none_gone()));
    }

    #[test]
    fn both_forms_say_the_same_of_every_entity() {
        for (kind, info) in kinds() {
            let of = |form| -> Vec<Value> {
                renderer(form).plug(&kettle(), &info, ALL, &none_gone()).iter().map(read).collect()
            };
            let device = &of(DocumentForm::Device)[0];
            let mut whole: Vec<Value> = device["components"].as_object().unwrap().values().cloned().collect();
            let mut single = of(DocumentForm::Component);
            for entity in &mut single {
                // This level of the topic is the platform.
                entity["platform"] =
                    whole.iter().find(|one| one["unique_id"] == entity["unique_id"]).unwrap()["platform"]
                        .clone();
            }
            let id = |entity: &Value| entity["unique_id"].as_str().unwrap().to_owned();
            whole.sort_by_key(id);
            single.sort_by_key(id);
            assert_eq!(whole, single, "{kind}");
            let ids: std::collections::BTreeSet<String> = single.iter().map(id).collect();
            assert_eq!(ids.len(), single.len(), "{kind}: no id is given twice");
        }
    }

    #[test]
    fn a_document_of_one_entity_is_one_that_domoticz_and_older_versions_of_openhab_read() {
        for (kind, info) in kinds() {
            for document in renderer(DocumentForm::Component).plug(&kettle(), &info, ALL, &none_gone()) {
                let shown: Value = serde_json::from_slice(&document.payload).unwrap();
                // Neither expands `~` or short keys within the list; Domoticz has no short key for these two.
                let mut topics =
                    shown["avty"].as_array().unwrap().iter().map(|one| one["topic"].as_str().unwrap());
                assert!(topics.clone().all(|topic| topic.starts_with("hs100d/")), "{kind}: {shown}");
                assert!(shown.get("en").is_none() && shown.get("on_cmd_type").is_none(), "{kind}: {shown}");
                if shown["name"] != "Route" {
                    assert_eq!(
                        topics.next_back(),
                        Some("hs100d/kitchen-kettle/availability"),
                        "the last one counts"
                    );
                }
                let tilde = shown["~"].as_str();
                assert!(tilde.is_none_or(|base| base == "hs100d/kitchen-kettle"), "{kind}: {shown}");
            }
        }
    }

    #[test]
    fn documents_are_small_enough_for_a_broker_that_takes_few_kilobytes_at_once() {
        let sizes = |info: &PlugInfo| {
            let documents = renderer(DocumentForm::Device).plug(&kettle(), info, ALL, &none_gone());
            documents.iter().map(|document| document.payload.len()).sum::<usize>()
        };
        let [(_, plug), .., (_, mut strip)] = kinds();
        let device = strip.device.device_id.clone().unwrap();
        let outlets = (0..6).map(|n| OutletDescription {
            id: format!("{}0{n}", device.as_str()).into(),
            alias: format!("Outlet {n}").into(),
        });
        Arc::make_mut(&mut strip.device).outlets = outlets.collect();
        strip.outlets = (0..6).map(|n| PlugName::new(&format!("outlet-{n}")).unwrap()).collect();
        let whole = sizes(&strip);
        let parts: Vec<usize> = (0..6).map(|number| sizes(&outlet_of(&strip, number))).collect();
        let sum = whole + parts.iter().sum::<usize>();
        println!("HS100 {} HS300 {whole} + {parts:?} = {sum}", sizes(&plug));
        assert!(sizes(&plug) < 3_000, "{}", sizes(&plug));
        assert!(whole < 4_500 && parts.iter().all(|part| *part < 3_500), "{whole} {parts:?}");
        assert!(sum < 25_000, "{sum}");
    }

    #[test]
    fn an_outlet_is_a_device_of_its_own_that_is_reached_by_way_of_its_strip() {
        let [.., (_, strip)] = kinds();
        let id = "hs100d_8006AABBCCDDEEFF00112233445566778899AABB";
        for (number, label) in [(0, "Lamp"), (1, "Desk 2")] {
            let outlet = outlet_of(&strip, number);
            let documents = renderer(DocumentForm::Device).plug(&kettle(), &outlet, ALL, &none_gone());
            let [document] = &documents[..] else { panic!("{documents:?}") };
            assert_eq!(document.topic, format!("homeassistant/device/{id}0{number}/config"));
            let shown = read(document);
            assert_eq!(
                (&shown["device"]["via_device"], &shown["device"]["name"]),
                (&id.into(), &label.into())
            );
            let relay = &shown["components"]["relay"];
            // As it was when it was an entity of the strip's device.
            assert_eq!(relay["unique_id"], format!("{id}0{number}_relay"));
            assert_eq!(
                (&relay["name"], &relay["default_entity_id"]),
                (&Value::Null, &"switch.kitchen_kettle".into())
            );
            assert_eq!(
                shown["components"]["energy_total"]["unique_id"],
                format!("{id}0{number}_energy_total")
            );
        }
        let documents = renderer(DocumentForm::Device).plug(&kettle(), &strip, ALL, &none_gone());
        let shown = read(&documents[0]);
        assert_eq!(shown["device"]["via_device"], "hs100d_0f3a");
        let keys: Vec<&String> = shown["components"].as_object().unwrap().keys().collect();
        let expected = [
            "cloud",
            "current",
            "energy_month",
            "energy_today",
            "energy_total",
            "host",
            "led",
            "power",
            "reboot",
            "relay",
            "route",
            "signal",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn outlets_are_told_apart_whatever_they_are_called() {
        let [.., (_, mut strip)] = kinds();
        let device_info = Arc::make_mut(&mut strip.device);
        device_info.alias = "Lab Strip".into();
        let aliases = ["Lab Strip", "Lab Strip", "Fan", "Fan", "", "Lamp"];
        let outlet = |alias: &&str| OutletDescription { id: "".into(), alias: (*alias).into() };
        device_info.outlets = aliases.iter().map(outlet).collect();
        let labels: Vec<String> =
            (0..6).map(|number| entities::outlet_label(&strip.device, number)).collect();
        assert_eq!(labels, ["Lab Strip 1", "Lab Strip 2", "Fan 3", "Fan 4", "Lab Strip 5", "Lamp"]);
    }

    #[test]
    fn the_route_is_there_as_long_as_the_bridge_so_that_none_is_seen() {
        let [.., (_, strip)] = kinds();
        for info in [info(), strip] {
            let documents = renderer(DocumentForm::Device).plug(&kettle(), &info, ALL, &none_gone());
            let document = read(&documents[0]);
            let route = &document["components"]["route"];
            assert_eq!(route["availability"], serde_json::json!([{"topic": "hs100d/bridge/state"}]));
            assert!(route["options"].as_array().unwrap().contains(&"none".into()));
        }
    }

    #[test]
    fn the_button_that_restarts_a_plug_is_nowhere_until_the_user_enables_it() {
        for (_, info) in kinds().into_iter().filter(|(_, info)| info.outlet.is_none()) {
            let documents = renderer(DocumentForm::Device).plug(&kettle(), &info, ALL, &none_gone());
            let document = read(&documents[0]);
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
            assert_eq!(renderer(DocumentForm::Device).plug(&kettle(), &unnamed, ALL, &none_gone()), []);
        }
    }

    #[test]
    fn a_component_that_is_gone_is_taken_back_by_its_platform_alone() {
        let gone = BTreeMap::from([
            ("led".to_owned(), "switch".to_owned()),
            ("relay".to_owned(), "switch".to_owned()),
        ]);
        let documents = renderer(DocumentForm::Device).plug(&kettle(), &info(), Abilities::default(), &gone);
        let document: Value = serde_json::from_slice(&documents[0].payload).unwrap();
        assert_eq!(document["cmps"]["led"], serde_json::json!({"p": "switch"}));
        assert!(document["cmps"]["relay"]["uniq_id"].is_string());
    }

    #[test]
    fn no_documents_when_switched_off_or_when_the_plug_says_nothing_of_itself() {
        let off = renderer(DocumentForm::Off);
        assert_eq!(off.plug(&kettle(), &info(), ALL, &none_gone()), []);
        assert_eq!(off.bridge(), []);
        let mut info = info();
        let device_info = Arc::make_mut(&mut info.device);
        device_info.device_id = None;
        assert_eq!(renderer(DocumentForm::Device).plug(&kettle(), &info, ALL, &none_gone()).len(), 1);
        Arc::make_mut(&mut info.device).mac = None;
        assert_eq!(renderer(DocumentForm::Device).plug(&kettle(), &info, ALL, &none_gone()), []);
    }

    #[test]
    fn ids_do_not_hold_the_instance_so_that_they_survive_a_move() {
        for document in renderer(DocumentForm::Component).plug(&kettle(), &info(), ALL, &none_gone()) {
            let shown: Value = serde_json::from_slice(&document.payload).unwrap();
            assert!(shown["uniq_id"].as_str().unwrap().contains("8006AABB"));
            assert!(!shown["uniq_id"].as_str().unwrap().contains("0f3a"));
            assert!(!document.topic.contains("0f3a"));
        }
    }

    #[test]
    fn own_documents_are_recognised_and_others_are_not() {
        for (form, (_, info)) in [DocumentForm::Device, DocumentForm::Component]
            .into_iter()
            .flat_map(|form| kinds().map(|kind| (form, kind)))
        {
            let renderer = renderer(form);
            let documents =
                renderer.plug(&kettle(), &info, ALL, &none_gone()).into_iter().chain(renderer.bridge());
            for document in documents {
                assert!(renderer.discovery.is_document(&document.topic));
                let heard = renderer
                    .discovery
                    .filters()
                    .iter()
                    .any(|filter| rumqttc::matches(&document.topic, filter));
                assert!(heard, "{}", document.topic);
                let found = read_by(&renderer, &document.payload).unwrap();
                let is_plug = document.topic.contains("8006");
                assert_eq!(found.plug.is_some(), is_plug, "{}", document.topic);
                let device = if is_plug { renderer.device(&info).unwrap() } else { renderer.bridge.clone() };
                assert_eq!(found.device, device, "{}", document.topic);
                // An outlet's document names its strip, so only the base topic identifies the instance.
                let neighbour = DiscoveryRenderer {
                    bridge: "hs100d_other".to_owned(),
                    drawn_bridge: "hs100d_other".to_owned(),
                    ..renderer.clone()
                };
                let found = read_by(&neighbour, &document.payload);
                assert!(
                    found.is_none_or(|found| found.is_outlet && info.outlet.is_some()),
                    "{}",
                    document.topic
                );
                let neighbour = DiscoveryRenderer { topics: Topics::new("other"), ..neighbour };
                assert_eq!(read_by(&neighbour, &document.payload), None);
                // The installation itself, after its config named it; and a clone of its disk at another base topic.
                let named = named_renderer(form, "north", "hs100d");
                assert!(read_by(&named, &document.payload).is_some(), "{}", document.topic);
                let clone = named_renderer(form, "south", "other");
                assert_eq!(read_by(&clone, &document.payload), None, "{}", document.topic);
            }
        }
        let renderer = renderer(DocumentForm::Device);
        for other in [
            &b"not json"[..],
            b"{}",
            br#"{"origin":{"name":"Zigbee2MQTT"},"device":{"identifiers":["x"],"via_device":"hs100d_0f3a"}}"#,
            br#"{"origin":{"name":"hs100d"},"device":{"identifiers":["x"]}}"#,
            br#"{"origin":{"name":"hs100d"},"device":{"identifiers":"hs100d_0f3a"}}"#,
        ] {
            assert_eq!(read_by(&renderer, other), None, "{}", String::from_utf8_lossy(other));
        }
        assert!(!renderer.discovery.is_document("homeassistantx/device/a/config"));
        assert!(!renderer.discovery.is_document("hs100d/kettle/state"));
    }

    #[test]
    fn a_document_rendered_alone_is_the_same_as_among_the_others() {
        let info = info();
        for form in [DocumentForm::Device, DocumentForm::Component] {
            let renderer = renderer(form);
            for document in renderer.plug(&kettle(), &info, ALL, &none_gone()) {
                let alone = renderer.plug_at(&document.topic, &kettle(), &info, ALL, &none_gone());
                assert_eq!(alone.as_ref(), Some(&document));
            }
            assert_eq!(
                renderer.plug_at("homeassistant/elsewhere", &kettle(), &info, ALL, &none_gone()),
                None
            );
        }
    }

    #[test]
    fn the_bridge_of_a_named_installation_has_its_name() {
        for (instance, id, name) in
            [("0f3a", "hs100d_0f3a", "hs100d"), ("north", "hs100d_north", "hs100d north")]
        {
            let bridge = named_renderer(DocumentForm::Device, instance, "hs100d").bridge();
            let shown: Value = serde_json::from_slice(&bridge[0].payload).unwrap();
            assert_eq!((&shown["dev"]["ids"][0], &shown["dev"]["name"]), (&id.into(), &name.into()));
        }
    }

    #[test]
    fn an_instance_of_any_text_makes_a_topic_that_home_assistant_takes() {
        let odd = DiscoveryRenderer {
            bridge: format!("hs100d_{}", object_id("Büro/Pi #1")),
            ..renderer(DocumentForm::Device)
        };
        assert_eq!(odd.bridge()[0].topic, "homeassistant/device/hs100d_B_ro_Pi__1/config");
    }
}
