//! The payloads that are published: states, results, events, as JSON.
//!
//! Pure: values to bytes. Received payloads are parsed in [`super::command`].

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::bridge::event::{
    BridgeInfo, CloudStatus, CommandResult, Ended, Energy, Notice, PlugInfo, PlugState,
};
use crate::model::{Address, LanProtocol, PlugName};
use crate::smarthome::message::ScheduleRule;

/// The same moment on the monotonic clock and on the system clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Monotonic.
    pub instant: Instant,
    /// With a date.
    pub system: SystemTime,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// Both clocks at another instant; `None` if the system clock cannot represent it.
    pub(crate) fn at(&self, instant: Instant) -> Option<Self> {
        let past = self.instant.saturating_duration_since(instant);
        let future = instant.saturating_duration_since(self.instant);
        let system = self.system.checked_sub(past)?.checked_add(future)?;
        Some(Self { instant, system })
    }

    /// The date of another instant: RFC 3339, UTC, to the second.
    pub(crate) fn date(&self, instant: Instant) -> String {
        rfc3339(self.at(instant).map(|clock| clock.system))
    }
}

/// A date in UTC, to the second. The system clock may never have been set: a date outside of RFC 3339 becomes the nearest one
/// inside.
pub(crate) fn rfc3339(time: impl Into<Option<SystemTime>>) -> String {
    // The last second of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch =
        time.into().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch.min(LAST)).to_string()
}

/// `<plug>/state`.
pub fn state(state: &PlugState, clock: Clock) -> Vec<u8> {
    json(&StateDocument {
        state: state.relay.to_string(),
        route: state.route.map_or_else(|| "none".to_owned(), |route| route.to_string()),
        led: state.led.map(|led| led.to_string()),
        on_since: state.on_since.map(|instant| clock.date(instant)),
        brightness: state.brightness.filter(|percent| *percent > 0),
        until: state.until.map(|instant| clock.date(instant)),
    })
}

/// `<plug>/energy`: known values only, with one digit more than Home Assistant shows.
pub(crate) fn energy(energy: &Energy) -> Vec<u8> {
    json(&EnergyDocument {
        power: rounded(energy.meter.power, 2),
        voltage: rounded(energy.meter.voltage, 1),
        current: rounded(energy.meter.current, 3),
        energy_total: rounded(energy.meter.total, 3),
        energy_today: rounded(energy.today, 3),
        energy_month: rounded(energy.month, 3),
    })
}

/// A value with this many decimals; `None` if it is not finite. Adding 0 turns -0 into 0.
fn rounded(value: Option<f64>, decimals: i32) -> Option<f64> {
    let scale = 10_f64.powi(decimals);
    value.map(|value| (value * scale).round() / scale + 0.0).filter(|value| value.is_finite())
}

/// `<plug>/info`. An outlet has its own alias and the strip's device info.
pub(crate) fn info(info: &PlugInfo) -> Vec<u8> {
    let device = &info.device;
    let outlet = info.outlet.as_ref();
    let own = outlet.and_then(|outlet| device.outlets.get(usize::from(outlet.number)));
    json(&InfoDocument {
        alias: own.map_or(&device.alias, |own| &own.alias),
        model: &device.model,
        hw_version: &device.hw_version,
        sw_version: &device.sw_version,
        mac: device.mac.map(|mac| mac.to_string()),
        device_id: device.device_id.as_ref().map(|id| id.as_str()),
        host: info.address.as_ref().map(Address::host),
        protocol: info.protocol.map(LanProtocol::word),
        rssi: info.rssi,
        cloud_connection: info.cloud_connected,
        outlet: outlet.map(|outlet| u16::from(outlet.number) + 1),
        strip: outlet.map(|outlet| outlet.strip.as_str()),
        outlets: info.outlets.iter().map(PlugName::as_str).collect(),
        schedule: info.schedule.as_ref().map(|rules| rules.iter().map(RuleDocument::of).collect()),
    })
}

/// `bridge/info`.
pub(crate) fn bridge_info(info: &BridgeInfo, instance: &str, started: Instant, clock: Clock) -> Vec<u8> {
    let (status, reason) = match &info.cloud {
        CloudStatus::Off => ("off", None),
        CloudStatus::Ok => ("ok", None),
        CloudStatus::Down(reason) => ("down", Some(&**reason)),
        CloudStatus::Stopped(reason) => ("stopped", Some(&**reason)),
    };
    json(&BridgeDocument {
        version: env!("CARGO_PKG_VERSION"),
        instance,
        started: clock.date(started),
        plugs: info.plugs,
        online: info.online,
        cloud: CloudDocument { status, reason },
    })
}

/// `bridge/event`.
pub(crate) fn notice(notice: &Notice, clock: Clock) -> Vec<u8> {
    json(&EventDocument {
        event: notice.kind.word(),
        plug: notice.plug.as_ref().map(PlugName::as_str),
        detail: &notice.detail,
        at: rfc3339(clock.system),
    })
}

/// `<plug>/result` of a command that the bridge handled.
pub(crate) fn result(result: &CommandResult, transaction: Option<&Value>) -> Vec<u8> {
    let (status, error) = match &result.ended {
        Ended::Ok => ("ok", None),
        Ended::Error(why) => ("error", Some(why.as_str())),
        Ended::Superseded => ("superseded", None),
    };
    json(&ResultDocument {
        transaction,
        status,
        state: result.state.map(|state| state.to_string()),
        route: result.route.map(|route| route.to_string()),
        took_ms: u64::try_from(result.took.as_millis()).unwrap_or(u64::MAX),
        error,
    })
}

/// `<plug>/result` of a command that was refused before the bridge.
pub fn refusal(why: &str, transaction: Option<&Value>) -> Vec<u8> {
    json(&ResultDocument {
        transaction,
        status: "error",
        state: None,
        route: None,
        took_ms: 0,
        error: Some(why),
    })
}

/// `bridge/response/<x>`.
pub fn response(result: Result<(), &str>, transaction: Option<&Value>) -> Vec<u8> {
    let (status, error) = match result {
        Ok(()) => ("ok", None),
        Err(why) => ("error", Some(why)),
    };
    json(&ResponseDocument { transaction, status, error })
}

/// Serialises structs of text and numbers, which cannot fail.
pub(super) fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

#[derive(Serialize)]
struct StateDocument {
    state: String,
    route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    led: Option<String>,
    on_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    brightness: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

// Keys that apply to every plug are always present, so that a template that reads one never fails.
#[derive(Serialize)]
struct InfoDocument<'a> {
    alias: &'a str,
    model: &'a str,
    hw_version: &'a str,
    sw_version: &'a str,
    mac: Option<String>,
    device_id: Option<&'a str>,
    host: Option<String>,
    protocol: Option<&'static str>,
    rssi: Option<i32>,
    cloud_connection: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outlet: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strip: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outlets: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Vec<RuleDocument<'a>>>,
}

#[derive(Serialize)]
struct RuleDocument<'a> {
    name: &'a str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    at: &'a str,
    days: Vec<&'static str>,
}

impl<'a> RuleDocument<'a> {
    fn of(rule: &'a ScheduleRule) -> Self {
        let days = WEEK.into_iter().zip(rule.days).filter_map(|(day, is_on)| is_on.then_some(day));
        let state = rule.then.map(|state| state.to_string());
        Self { name: &rule.name, enabled: rule.enabled, state, at: &rule.at, days: days.collect() }
    }
}

/// The days of the week in the order of [`ScheduleRule::days`].
const WEEK: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

#[derive(Serialize)]
struct EnergyDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    power: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    voltage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_total: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_today: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_month: Option<f64>,
}

#[derive(Serialize)]
struct BridgeDocument<'a> {
    version: &'a str,
    instance: &'a str,
    started: String,
    plugs: usize,
    online: usize,
    cloud: CloudDocument<'a>,
}

#[derive(Serialize)]
struct CloudDocument<'a> {
    status: &'a str,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct EventDocument<'a> {
    event: &'a str,
    plug: Option<&'a str>,
    detail: &'a str,
    at: String,
}

#[derive(Serialize)]
struct ResultDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'a Value>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ResponseDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'a Value>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bridge::event::{CommandId, NoticeKind, Origin, OutletInfo};
    use crate::model::{DeviceId, RelayState, Route};
    use crate::smarthome::message::{DeviceInfo, Meter, OutletDescription};
    use serde_json::json;

    fn text(payload: Vec<u8>) -> String {
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn dates_are_computed_from_one_pair_of_clocks() {
        let clock =
            Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH + Duration::from_secs(90_000) };
        assert_eq!(clock.date(clock.instant), "1970-01-02T01:00:00Z");
        assert_eq!(clock.date(clock.instant + Duration::from_secs(60)), "1970-01-02T01:01:00Z");
        let earlier = clock.instant.checked_sub(Duration::from_secs(3600)).unwrap();
        assert_eq!(clock.date(earlier), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn a_system_clock_that_was_never_set_gives_valid_dates() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(rfc3339(far), "9999-12-31T23:59:59Z");
        let clock =
            Clock { instant: Instant::now() + Duration::from_secs(9), system: SystemTime::UNIX_EPOCH };
        assert_eq!(clock.date(clock.instant - Duration::from_secs(9)), "1970-01-01T00:00:00Z");
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
        let shown = text(bridge_info(&info, "abc", clock.instant, clock));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            shown,
            format!(
                r#"{{"version":"{version}","instance":"abc","started":"1970-01-01T00:00:00Z","plugs":3,"online":2,"cloud":{{"status":"stopped","reason":"wrong password"}}}}"#
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
