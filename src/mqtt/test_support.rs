//! What the unit tests of several files need: settings, updates, and what is sent.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::homeassistant::{DocumentForm, HomeAssistantOptions};
use super::message::{Message, Outgoing};
use super::settings::MqttSettings;
use super::state::MqttState;
use crate::bridge::event::{CommandId, CommandResult, Ended, IdAllocator, PlugInfo, PlugState, Update};
use crate::model::{DeviceId, PlugName, RelayState};
use crate::payload::Clock;
use crate::smarthome::message::DeviceInfo;

pub(super) fn settings(discovery: DocumentForm) -> MqttSettings {
    MqttSettings {
        host: "127.0.0.1".to_owned(),
        port: 1883,
        others: Vec::new(),
        return_after: MqttSettings::RETURN_AFTER,
        will_delay: MqttSettings::WILL_DELAY,
        tls: None,
        username: None,
        password: None,
        client_id: "hs100d-test".to_owned(),
        base_topic: "hs100d".to_owned(),
        instance: "test".to_owned(),
        drawn_instance: "test".to_owned(),
        homeassistant: HomeAssistantOptions {
            discovery,
            discovery_prefix: "homeassistant".to_owned(),
            status_topic: "homeassistant/status".to_owned(),
        },
    }
}

pub(super) fn state_with(discovery: DocumentForm) -> MqttState {
    state_of(&settings(discovery))
}

pub(super) fn state_of(settings: &MqttSettings) -> MqttState {
    MqttState::new(
        settings,
        IdAllocator::default(),
        Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH },
    )
}

/// Connected, with the search over and everything sent.
pub(super) fn connected() -> MqttState {
    let mut mqtt = state_with(DocumentForm::Device);
    mqtt.connected();
    mqtt.end_search();
    sent(&mut mqtt);
    mqtt
}

pub(super) fn message<'a>(topic: &'a str, payload: &'a str, retained: bool) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), retained, response_topic: None, correlation: None }
}

pub(super) fn name(text: &str) -> PlugName {
    PlugName::new(text).unwrap()
}

pub(super) fn info(digit: char) -> PlugInfo {
    PlugInfo {
        device: Arc::new(DeviceInfo {
            device_id: DeviceId::new(&digit.to_string().repeat(40)),
            mac: None,
            alias: "Kettle".into(),
            model: "HS100(EU)".into(),
            hw_version: "1.0".into(),
            sw_version: "1.2".into(),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            feature: "TIM".into(),
            dev_name: "Plug".into(),
            dims: false,
            outlets: Box::default(),
        }),
        address: None,
        protocol: None,
        rssi: None,
        cloud_connected: None,
        outlet: None,
        outlets: Arc::default(),
        schedule: None,
    }
}

pub(super) fn document(digit: char) -> String {
    format!("homeassistant/device/hs100d_{}/config", digit.to_string().repeat(40))
}

pub(super) fn state(led: Option<RelayState>) -> PlugState {
    PlugState { relay: RelayState::On, route: None, led, on_since: None, brightness: None, until: None }
}

pub(super) fn update(mqtt: &mut MqttState, update: Update) {
    mqtt.handle_update(update, Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH });
}

pub(super) fn result(id: CommandId, plug: &str) -> Update {
    Update::Result(CommandResult {
        id,
        plug: name(plug),
        ended: Ended::Ok,
        state: None,
        route: None,
        took: Duration::ZERO,
    })
}

/// All messages to send, topic and payload.
pub(super) fn sent(mqtt: &mut MqttState) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    std::iter::from_fn(|| mqtt.take())
        .map(|outgoing| match outgoing {
            Outgoing::Retained(retained) => (retained.topic.to_string(), text(&retained.payload)),
            Outgoing::Transient(transient) => (transient.topic, text(&transient.payload)),
        })
        .collect()
}

pub(super) fn topics(sent: &[(String, String)]) -> Vec<&str> {
    sent.iter().map(|(topic, _)| topic.as_str()).collect()
}

/// The last payload at this topic.
pub(super) fn shown<'a>(sent: &'a [(String, String)], topic: &str) -> &'a str {
    sent.iter().rfind(|(t, _)| *t == topic).map_or("", |(_, text)| text.as_str())
}
