//! The entities of a device, and their fields.
//!
//! Names, classes, units and what is enabled by default are those of Home Assistant's own integration for these devices. A key
//! is part of the entity's unique id, so it never changes.

use crate::bridge::event::PlugInfo;
use crate::model::PlugName;
use crate::mqtt::topics::{StateTopic, Topics};
use crate::payload::command::CommandPart;
use crate::smarthome::message::{DeviceInfo, DeviceKind, Outlet};

use super::fields::{AvailabilityTopic, Entity, Light};

const RELAY: &str = "relay";
const LIGHT: &str = "light";
const LED: &str = "led";
const REBOOT: &str = "reboot";
const ROUTE: &str = "route";
const ON_SINCE: &str = "on_since";
const UNTIL: &str = "until";
const SIGNAL: &str = "signal";
const HOST: &str = "host";
const CLOUD: &str = "cloud";
const POWER: &str = "power";
const VOLTAGE: &str = "voltage";
const CURRENT: &str = "current";
const ENERGY_TODAY: &str = "energy_today";
const ENERGY_MONTH: &str = "energy_month";
const ENERGY_TOTAL: &str = "energy_total";
const CONNECTION: &str = "connection";
const CLOUD_STATUS: &str = "cloud_status";

/// Every entity that a document may have, with its platform.
pub(super) const ALL: [(&str, &str); 18] = [
    (RELAY, "switch"),
    (LIGHT, "light"),
    (LED, "switch"),
    (REBOOT, "button"),
    (ROUTE, "sensor"),
    (ON_SINCE, "sensor"),
    (UNTIL, "sensor"),
    (SIGNAL, "sensor"),
    (HOST, "sensor"),
    (CLOUD, "binary_sensor"),
    (POWER, "sensor"),
    (VOLTAGE, "sensor"),
    (CURRENT, "sensor"),
    (ENERGY_TODAY, "sensor"),
    (ENERGY_MONTH, "sensor"),
    (ENERGY_TOTAL, "sensor"),
    (CONNECTION, "binary_sensor"),
    (CLOUD_STATUS, "sensor"),
];

/// Which optional entities a plug has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Abilities {
    /// The LED can be switched.
    pub(super) led: bool,
    /// The plug reports whether it is connected to TP-Link's cloud.
    pub(super) cloud: bool,
}

impl Abilities {
    /// The abilities that the keys of a document show.
    pub(super) fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        keys.fold(Self::default(), |has, key| Self {
            led: has.led || key == LED,
            cloud: has.cloud || key == CLOUD,
        })
    }
}

/// The entities of a plug, a switch, a dimmer, a strip as a whole, or an outlet of a strip.
pub(super) fn of_plug(
    topics: &Topics,
    id: &str,
    name: &PlugName,
    info: &PlugInfo,
    has: Abilities,
) -> Vec<Entity> {
    let subject = EntitySubject { topics, id, name };
    let device = &info.device;
    let is_whole = device.what() == DeviceKind::Strip && info.outlet.is_none();
    let mut entities = Vec::new();
    if info.outlet.is_none() {
        entities.extend(subject.entities_of_device(has));
    }
    entities.push(match device.what() {
        DeviceKind::Dimmer => subject.dimmer(),
        DeviceKind::Switch => subject.switch("switch"),
        DeviceKind::Plug | DeviceKind::Strip => subject.switch("outlet"),
    });
    // A strip as a whole has no time of switching on and no count-down.
    if !is_whole {
        entities.extend([subject.on_since(), subject.until()]);
    }
    if device.has_meter() {
        // Its energy is the sum of its outlets, so it has no voltage.
        entities.extend(subject.meter().into_iter().filter(|entity| !is_whole || entity.key != VOLTAGE));
    }
    entities
}

/// The part of an outlet's device id that differs from the strip's other outlets: the last two characters of the outlet id.
pub(super) fn outlet_digits(device: &DeviceInfo, number: Outlet) -> String {
    let id = device.outlets.get(usize::from(number)).map(|outlet| &outlet.id);
    let digits = id.and_then(|id| id.get(id.len().checked_sub(2)?..));
    let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_alphanumeric()));
    digits.map_or_else(|| format!("{number:02}"), str::to_owned)
}

/// The name of an outlet's device: its alias, with its number if the alias is missing or not unique.
pub(super) fn outlet_label(device: &DeviceInfo, number: Outlet) -> String {
    let aliases = || device.outlets.iter().map(|outlet| outlet.alias.trim());
    let strip = device.alias.trim();
    let alias = aliases().nth(usize::from(number)).unwrap_or_default();
    let is_its_own = alias != strip && aliases().filter(|other| *other == alias).count() == 1;
    let number = u16::from(number) + 1;
    match (alias, strip) {
        ("", "") => format!("Outlet {number}"),
        ("", strip) => format!("{strip} {number}"),
        (alias, _) if is_its_own => alias.to_owned(),
        (alias, _) => format!("{alias} {number}"),
    }
}

/// Whether this is the key of an outlet's component in its strip's document, as version 0.1.0 wrote it.
pub(super) fn is_of_outlet(component: &str) -> bool {
    let key = component.split_once('_').filter(|(digits, _)| digits.len() == 2).map(|(_, key)| key);
    key.is_some_and(|key| ALL.iter().any(|(known, _)| *known == key))
}

/// The entities of the bridge itself.
pub(super) fn of_bridge(topics: &Topics, id: &str) -> Vec<Entity> {
    let entity = |key: &'static str| Entity {
        unique_id: format!("{id}_{key}"),
        default_entity_id: entity_id(platform(key), id, key),
        entity_category: Some("diagnostic"),
        ..blank(key)
    };
    vec![
        Entity {
            name: Some("Connection"),
            device_class: Some("connectivity"),
            payload_on: Some("online"),
            payload_off: Some("offline"),
            state_topic: Some(topics.bridge_state()),
            ..entity(CONNECTION)
        },
        // Unavailable while the bridge is offline; the connection sensor never is.
        Entity {
            name: Some("Cloud status"),
            device_class: Some("enum"),
            options: Some(&["off", "ok", "down", "stopped"]),
            icon: Some("mdi:cloud-outline"),
            state_topic: Some(topics.bridge_info()),
            value_template: Some("{{value_json.cloud.status}}"),
            ..entity(CLOUD_STATUS)
        }
        .available_by(vec![AvailabilityTopic { topic: topics.bridge_state() }]),
    ]
}

/// The device whose entities are created.
struct EntitySubject<'a> {
    topics: &'a Topics,
    /// The device id.
    id: &'a str,
    /// The name in its topics.
    name: &'a PlugName,
}

impl EntitySubject<'_> {
    /// The entities that a device has once, whatever its number of outlets.
    fn entities_of_device(&self, has: Abilities) -> Vec<Entity> {
        let mut entities = vec![self.reboot(), self.route(), self.signal(), self.host()];
        if has.led {
            entities.push(self.led());
        }
        if has.cloud {
            entities.push(self.cloud());
        }
        entities
    }

    /// The main entity, named like the device.
    fn switch(&self, class: &'static str) -> Entity {
        Entity {
            device_class: Some(class),
            command_topic: Some(self.command(CommandPart::All)),
            value_template: Some("{{value_json.state}}"),
            ..self.main(RELAY)
        }
    }

    fn dimmer(&self) -> Entity {
        let light = Light {
            state_value_template: "{{value_json.state}}",
            brightness_state_topic: self.topic(StateTopic::State),
            // Home Assistant ignores an empty value.
            brightness_value_template: "{{value_json.brightness|default('')}}",
            brightness_command_topic: self.command(CommandPart::Brightness),
            brightness_scale: 100,
            // One command for "on at 40 %", instead of two that may overtake each other.
            on_command_type: "brightness",
        };
        Entity { command_topic: Some(self.command(CommandPart::All)), light: Some(light), ..self.main(LIGHT) }
    }

    fn led(&self) -> Entity {
        Entity {
            entity_category: Some("config"),
            icon: Some("mdi:led-on"),
            command_topic: Some(self.command(CommandPart::Led)),
            value_template: Some("{{value_json.led}}"),
            ..self.entity(LED, "LED", StateTopic::State)
        }
    }

    fn reboot(&self) -> Entity {
        Entity {
            device_class: Some("restart"),
            // Not on automatic dashboards: pressing it cuts the power for a moment.
            entity_category: Some("diagnostic"),
            enabled_by_default: Some(false),
            state_topic: None,
            command_topic: Some(self.command(CommandPart::Reboot)),
            payload_press: Some("PRESS"),
            ..self.entity(REBOOT, "Restart", StateTopic::State)
        }
    }

    fn route(&self) -> Entity {
        Entity {
            device_class: Some("enum"),
            entity_category: Some("diagnostic"),
            options: Some(&["local", "cloud", "none"]),
            icon: Some("mdi:routes"),
            value_template: Some("{{value_json.route}}"),
            ..self.entity(ROUTE, "Route", StateTopic::State)
        }
        // Independent of the plug's availability, so that `none` is shown.
        .available_by(vec![AvailabilityTopic { topic: self.topics.bridge_state() }])
    }

    fn on_since(&self) -> Entity {
        Entity {
            device_class: Some("timestamp"),
            entity_category: Some("diagnostic"),
            enabled_by_default: Some(false),
            value_template: Some("{{value_json.on_since}}"),
            ..self.entity(ON_SINCE, "On since", StateTopic::State)
        }
    }

    fn until(&self) -> Entity {
        Entity {
            device_class: Some("timestamp"),
            entity_category: Some("diagnostic"),
            enabled_by_default: Some(false),
            icon: Some("mdi:timer-outline"),
            // Rendered as `None`, which Home Assistant shows as unknown.
            value_template: Some("{{value_json.until|default(none)}}"),
            ..self.entity(UNTIL, "Count-down end", StateTopic::State)
        }
    }

    fn signal(&self) -> Entity {
        Entity {
            device_class: Some("signal_strength"),
            entity_category: Some("diagnostic"),
            unit_of_measurement: Some("dBm"),
            state_class: Some("measurement"),
            enabled_by_default: Some(false),
            value_template: Some("{{value_json.rssi}}"),
            ..self.entity(SIGNAL, "Signal strength", StateTopic::Info)
        }
    }

    fn host(&self) -> Entity {
        Entity {
            entity_category: Some("diagnostic"),
            icon: Some("mdi:ip-network"),
            enabled_by_default: Some(false),
            value_template: Some("{{value_json.host}}"),
            ..self.entity(HOST, "Host address", StateTopic::Info)
        }
    }

    fn cloud(&self) -> Entity {
        Entity {
            device_class: Some("connectivity"),
            entity_category: Some("diagnostic"),
            enabled_by_default: Some(false),
            // The template engine renders JSON's true and false like this.
            payload_on: Some("True"),
            payload_off: Some("False"),
            value_template: Some("{{value_json.cloud_connection}}"),
            ..self.entity(CLOUD, "Cloud connection", StateTopic::Info)
        }
    }

    fn meter(&self) -> [Entity; 6] {
        let measured = |key, name, class, unit, precision, template| Entity {
            device_class: Some(class),
            unit_of_measurement: Some(unit),
            state_class: Some("measurement"),
            suggested_display_precision: Some(precision),
            value_template: Some(template),
            ..self.entity(key, name, StateTopic::Energy)
        };
        // The class for a meter that restarts at 0, at midnight or after a power cut.
        let counted = |key, name, template| Entity {
            state_class: Some("total_increasing"),
            ..measured(key, name, "energy", "kWh", 3, template)
        };
        [
            measured(POWER, "Current consumption", "power", "W", 1, "{{value_json.power|default(none)}}"),
            measured(VOLTAGE, "Voltage", "voltage", "V", 1, "{{value_json.voltage|default(none)}}"),
            measured(CURRENT, "Current", "current", "A", 2, "{{value_json.current|default(none)}}"),
            counted(ENERGY_TODAY, "Today's consumption", "{{value_json.energy_today|default(none)}}"),
            counted(ENERGY_MONTH, "This month's consumption", "{{value_json.energy_month|default(none)}}"),
            counted(ENERGY_TOTAL, "Total consumption", "{{value_json.energy_total|default(none)}}"),
        ]
    }

    fn main(&self, key: &'static str) -> Entity {
        Entity {
            name: None,
            default_entity_id: entity_id(platform(key), self.name.as_str(), ""),
            ..self.entity(key, "", StateTopic::State)
        }
    }

    /// An entity that reads this topic, without a template.
    fn entity(&self, key: &'static str, name: &'static str, state_topic: StateTopic) -> Entity {
        Entity {
            name: Some(name),
            unique_id: format!("{}_{key}", self.id),
            default_entity_id: entity_id(platform(key), self.name.as_str(), key),
            state_topic: Some(self.topic(state_topic)),
            ..blank(key)
        }
    }

    fn topic(&self, state_topic: StateTopic) -> String {
        self.topics.plug(self.name.as_str(), state_topic)
    }

    fn command(&self, part: CommandPart<'_>) -> String {
        self.topics.command(self.name.as_str(), part)
    }
}

/// A plug or outlet is available while both the bridge and itself are online.
pub(super) fn availability(topics: &Topics, name: &PlugName) -> Vec<AvailabilityTopic> {
    vec![
        AvailabilityTopic { topic: topics.bridge_state() },
        AvailabilityTopic { topic: topics.plug(name.as_str(), StateTopic::Availability) },
    ]
}

fn blank(key: &'static str) -> Entity {
    Entity { key, platform: platform(key), ..Entity::default() }
}

fn platform(key: &str) -> &'static str {
    ALL.iter().find(|(known, _)| *known == key).map_or("sensor", |(_, platform)| platform)
}

/// The first entity id; a user may rename it.
fn entity_id(platform: &str, owner: &str, key: &str) -> String {
    let owner = owner.replace('-', "_").to_ascii_lowercase();
    if key.is_empty() { format!("{platform}.{owner}") } else { format!("{platform}.{owner}_{key}") }
}
