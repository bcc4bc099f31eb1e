//! The payloads that every frontend shares: states, results and events as JSON, and [`command`], which parses those received.
//!
//! Pure: values to bytes.

mod clock;
pub mod command;
pub mod document;

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::bridge::event::{BridgeInfo, CommandResult, Energy, Notice, PlugInfo, PlugState};
pub use clock::Clock;
use document::{
    BridgeDocument, EnergyDocument, EventDocument, InfoDocument, PublishedBridgeDocument, ResponseDocument,
    ResultDocument, StateDocument, UsedBrokerDocument,
};

/// `<plug>/state`.
pub fn state(state: &PlugState, clock: Clock) -> Vec<u8> {
    json(&StateDocument::of(state, clock))
}

/// `<plug>/energy`.
pub fn energy(energy: &Energy) -> Vec<u8> {
    json(&EnergyDocument::of(energy))
}

/// `<plug>/info`.
pub fn info(info: &PlugInfo) -> Vec<u8> {
    json(&InfoDocument::of(info))
}

/// `bridge/info`.
pub fn bridge_info(
    info: &BridgeInfo,
    instance: &str,
    broker: Option<&str>,
    started: Instant,
    clock: Clock,
) -> Vec<u8> {
    let bridge = BridgeDocument::of(info, instance, started, clock);
    json(&PublishedBridgeDocument { bridge, broker: broker.map(|address| UsedBrokerDocument { address }) })
}

/// `bridge/event`.
pub fn notice(notice: &Notice, clock: Clock) -> Vec<u8> {
    json(&EventDocument::of(notice, clock))
}

/// `<plug>/result` of a command that the bridge handled.
pub fn result(result: &CommandResult, transaction: Option<&Value>) -> Vec<u8> {
    json(&ResultDocument::of(result, transaction))
}

/// `<plug>/result` of a command that was refused before the bridge.
pub fn refusal(why: &str, transaction: Option<&Value>) -> Vec<u8> {
    json(&ResultDocument::refusal(why, transaction))
}

/// `bridge/response/<x>`.
pub fn response(result: Result<(), &str>, transaction: Option<&Value>) -> Vec<u8> {
    json(&ResponseDocument::of(result, transaction))
}

/// Serialises structs of text and numbers, which cannot fail.
pub fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// The same as a value, to put it into another document.
pub fn value(document: &impl Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::bridge::event::{CloudStatus, CommandId, Ended, NoticeKind, Origin, OutletInfo};
    use crate::model::{DeviceId, LanProtocol, PlugName, RelayState, Route};
    use crate::smarthome::message::{DeviceInfo, Meter, OutletDescription, ScheduleRule};
    use serde_json::json;

    fn text(payload: Vec<u8>) -> String {
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn a_state_has_no_led_if_the_plug_has_none() {
        let clock = Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        let mut plug = PlugState {
            relay: RelayState::On,
            route: Some(Route::Cloud),
            led: Some(RelayState::Off),
            on_since: Some(clock.instant),
            brightness: None,
            until: None,
        };
        assert_eq!(
            text(state(&plug, clock)),
            r#"{"state":"ON","route":"cloud","led":"OFF","on_since":"1970-01-01T00:00:00Z"}"#
        );
        plug = PlugState {
            relay: RelayState::Off,
            route: None,
            led: None,
            on_since: None,
            brightness: None,
            until: None,
        };
        assert_eq!(text(state(&plug, clock)), r#"{"state":"OFF","route":"none","on_since":null}"#);
    }

    #[test]
    fn a_state_has_the_brightness_of_a_dimmer_and_the_end_of_a_count_down() {
        let clock = Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        let mut plug = PlugState {
            relay: RelayState::On,
            route: Some(Route::Local),
            led: None,
            on_since: None,
            brightness: Some(40),
            until: Some(clock.instant + Duration::from_secs(1800)),
        };
        assert_eq!(
            text(state(&plug, clock)),
            r#"{"state":"ON","route":"local","on_since":null,"brightness":40,"until":"1970-01-01T00:30:00Z"}"#
        );
        plug.brightness = Some(0);
        plug.until = None;
        assert_eq!(text(state(&plug, clock)), r#"{"state":"ON","route":"local","on_since":null}"#);
    }

    #[test]
    fn energy_is_rounded_and_has_known_values_only() {
        let meter = Meter {
            power: Some(0.928_511),
            voltage: Some(231.067_823),
            current: Some(0.014_937),
            total: Some(55.139),
        };
        assert_eq!(
            text(energy(&Energy { meter, today: Some(0.0), month: Some(1.000_4) })),
            r#"{"power":0.93,"voltage":231.1,"current":0.015,"energy_total":55.139,"energy_today":0.0,"energy_month":1.0}"#
        );
        let strange = Meter { power: Some(f64::NAN), voltage: Some(f64::INFINITY), ..Meter::default() };
        assert_eq!(text(energy(&Energy { meter: strange, ..Energy::default() })), "{}");
        let below = Meter { power: Some(-0.003), ..Meter::default() };
        assert_eq!(text(energy(&Energy { meter: below, ..Energy::default() })), r#"{"power":0.0}"#);
    }

    fn strip() -> PlugInfo {
        let outlet = |id: &str, alias: &str| OutletDescription { id: id.into(), alias: alias.into() };
        PlugInfo {
            device: Arc::new(DeviceInfo {
                device_id: DeviceId::new("8006AABBCCDD"),
                mac: None,
                alias: "Desk".into(),
                model: "HS300(US)".into(),
                hw_version: "1.0".into(),
                sw_version: "1.0.6".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM:ENE".into(),
                dev_name: "Wi-Fi Smart Power Strip".into(),
                dims: false,
                outlets: [outlet("00", "Lamp"), outlet("01", "")].into(),
            }),
            address: None,
            protocol: None,
            rssi: Some(-40),
            cloud_connected: None,
            outlet: None,
            outlets: ["lamp", "desk-2"].map(|name| PlugName::new(name).unwrap()).into(),
            schedule: None,
        }
    }

    #[test]
    fn a_strip_names_its_outlets_and_an_outlet_its_strip() {
        let shown: Value = serde_json::from_slice(&info(&strip())).unwrap();
        assert_eq!((&shown["alias"], &shown["outlets"]), (&json!("Desk"), &json!(["lamp", "desk-2"])));
        assert!(shown.get("outlet").is_none() && shown.get("strip").is_none(), "{shown}");

        let part = OutletInfo { number: 0, strip: PlugName::new("desk").unwrap() };
        let protocol = Some(LanProtocol::Klap);
        let outlet = PlugInfo { outlet: Some(part), outlets: Arc::default(), protocol, ..strip() };
        let shown: Value = serde_json::from_slice(&info(&outlet)).unwrap();
        assert_eq!((&shown["alias"], &shown["device_id"]), (&json!("Lamp"), &json!("8006AABBCCDD")));
        assert_eq!((&shown["outlet"], &shown["strip"]), (&json!(1), &json!("desk")));
        assert_eq!(shown["protocol"], "klap");
        assert!(shown.get("outlets").is_none(), "{shown}");
    }

    #[test]
    fn a_schedule_is_listed_after_it_was_read() {
        let rule = ScheduleRule {
            name: "Morning".into(),
            enabled: true,
            then: Some(RelayState::On),
            at: "07:30".into(),
            days: [false, true, false, false, false, true, false],
        };
        let plug = PlugInfo { schedule: Some([rule].into()), ..strip() };
        let shown: Value = serde_json::from_slice(&info(&plug)).unwrap();
        assert_eq!(
            shown["schedule"],
            json!([{"name": "Morning", "enabled": true, "state": "ON", "at": "07:30", "days": ["mon", "fri"]}])
        );
        let unread: Value = serde_json::from_slice(&info(&strip())).unwrap();
        assert!(unread.get("schedule").is_none(), "{unread}");
    }

    #[test]
    fn results_and_responses_repeat_the_transaction() {
        let transaction = json!({"a": 1});
        let mut ended = CommandResult {
            id: CommandId::new(Origin::Mqtt, 1),
            plug: PlugName::new("kettle").unwrap(),
            ended: Ended::Ok,
            state: Some(RelayState::On),
            route: Some(Route::Local),
            took: Duration::from_millis(42),
        };
        assert_eq!(
            text(result(&ended, Some(&transaction))),
            r#"{"transaction":{"a":1},"status":"ok","state":"ON","route":"local","took_ms":42}"#
        );
        ended.ended = Ended::Error("no answer in time".to_owned());
        ended.state = None;
        ended.route = None;
        assert_eq!(
            text(result(&ended, None)),
            r#"{"status":"error","took_ms":42,"error":"no answer in time"}"#
        );
        ended.ended = Ended::Superseded;
        assert_eq!(text(result(&ended, None)), r#"{"status":"superseded","took_ms":42}"#);
        assert_eq!(text(refusal("no", None)), r#"{"status":"error","took_ms":0,"error":"no"}"#);
        assert_eq!(text(response(Ok(()), Some(&json!(1)))), r#"{"transaction":1,"status":"ok"}"#);
        assert_eq!(text(response(Err("no"), None)), r#"{"status":"error","error":"no"}"#);
    }

    #[test]
    fn bridge_info_and_events_are_published() {
        let cloud = CloudStatus::Stopped("wrong password".into());
        let info = BridgeInfo { plugs: 3, online: 2, served: [1, 1], cloud };
        let clock = Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        let shown = text(bridge_info(&info, "abc", Some("broker.lan:1883"), clock.instant, clock));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            shown,
            format!(
                r#"{{"version":"{version}","instance":"abc","started":"1970-01-01T00:00:00Z","plugs":3,"online":2,"cloud":{{"status":"stopped","reason":"wrong password"}},"broker":{{"address":"broker.lan:1883"}}}}"#
            )
        );
        let event = Notice {
            kind: NoticeKind::RouteChanged,
            plug: PlugName::new("kettle").ok(),
            route: Some(Route::Cloud),
            detail: "to cloud".to_owned(),
        };
        assert_eq!(
            text(notice(&event, clock)),
            r#"{"event":"route_changed","plug":"kettle","detail":"to cloud","at":"1970-01-01T00:00:00Z"}"#
        );
    }
}
