//! The documents of the payloads, as they are serialised: one type for each topic with JSON.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::clock::{Clock, rfc3339};
use crate::bridge::event::{
    BridgeInfo, CloudStatus, CommandResult, Ended, Energy, Notice, PlugInfo, PlugState,
};
use crate::model::{Address, LanProtocol, PlugName};
use crate::smarthome::message::ScheduleRule;

/// `<plug>/state`.
#[derive(Serialize)]
pub struct StateDocument {
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

impl StateDocument {
    /// Dates are those of this clock.
    pub fn of(state: &PlugState, clock: Clock) -> Self {
        Self {
            state: state.relay.to_string(),
            route: state.route.map_or_else(|| "none".to_owned(), |route| route.to_string()),
            led: state.led.map(|led| led.to_string()),
            on_since: state.on_since.map(|instant| clock.date(instant)),
            brightness: state.brightness.filter(|percent| *percent > 0),
            until: state.until.map(|instant| clock.date(instant)),
        }
    }
}

/// `<plug>/info`. An outlet has its own alias and the strip's device info.
// Keys that apply to every plug are always present, so that a template that reads one never fails.
#[derive(Serialize)]
pub struct InfoDocument<'a> {
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

impl<'a> InfoDocument<'a> {
    /// What the device does not tell is `null`, or left out where only some kinds of plugs have it.
    pub fn of(info: &'a PlugInfo) -> Self {
        let device = &info.device;
        let outlet = info.outlet.as_ref();
        Self {
            alias: info.alias(),
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
        }
    }
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

/// `<plug>/energy`: known values only, with one digit more than Home Assistant shows.
#[derive(Serialize)]
pub struct EnergyDocument {
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

impl EnergyDocument {
    /// Rounded, in W, V, A and kWh.
    pub fn of(energy: &Energy) -> Self {
        Self {
            power: rounded(energy.meter.power, 2),
            voltage: rounded(energy.meter.voltage, 1),
            current: rounded(energy.meter.current, 3),
            energy_total: rounded(energy.meter.total, 3),
            energy_today: rounded(energy.today, 3),
            energy_month: rounded(energy.month, 3),
        }
    }
}

/// A value with this many decimals; `None` if it is not finite. Adding 0 turns -0 into 0.
fn rounded(value: Option<f64>, decimals: i32) -> Option<f64> {
    let scale = 10_f64.powi(decimals);
    value.map(|value| (value * scale).round() / scale + 0.0).filter(|value| value.is_finite())
}

/// `bridge/info`.
#[derive(Serialize)]
pub(super) struct PublishedBridgeDocument<'a> {
    #[serde(flatten)]
    pub(super) bridge: BridgeDocument<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) broker: Option<UsedBrokerDocument<'a>>,
}

/// The broker that published it.
#[derive(Serialize)]
pub(super) struct UsedBrokerDocument<'a> {
    pub(super) address: &'a str,
}

/// The bridge itself.
#[derive(Serialize)]
pub struct BridgeDocument<'a> {
    version: &'a str,
    instance: &'a str,
    started: String,
    plugs: usize,
    online: usize,
    cloud: CloudDocument<'a>,
}

impl<'a> BridgeDocument<'a> {
    /// `instance` is the name of this installation; `started` is when the daemon was.
    pub fn of(info: &'a BridgeInfo, instance: &'a str, started: Instant, clock: Clock) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            instance,
            started: clock.date(started),
            plugs: info.plugs,
            online: info.online,
            cloud: CloudDocument::of(&info.cloud),
        }
    }
}

#[derive(Serialize)]
struct CloudDocument<'a> {
    status: &'a str,
    reason: Option<&'a str>,
}

impl<'a> CloudDocument<'a> {
    fn of(cloud: &'a CloudStatus) -> Self {
        let reason = match cloud {
            CloudStatus::Off | CloudStatus::Ok => None,
            CloudStatus::Down(reason) | CloudStatus::Stopped(reason) => Some(&**reason),
        };
        Self { status: cloud.word(), reason }
    }
}

/// `bridge/event`.
#[derive(Serialize)]
pub struct EventDocument<'a> {
    event: &'a str,
    plug: Option<&'a str>,
    detail: &'a str,
    at: String,
}

impl<'a> EventDocument<'a> {
    /// The event happens now, by this clock.
    pub fn of(notice: &'a Notice, clock: Clock) -> Self {
        Self {
            event: notice.kind.word(),
            plug: notice.plug.as_ref().map(PlugName::as_str),
            detail: &notice.detail,
            at: rfc3339(clock.system),
        }
    }
}

/// `<plug>/result`.
#[derive(Serialize)]
pub struct ResultDocument<'a> {
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

impl<'a> ResultDocument<'a> {
    /// Of a command that the bridge handled; `transaction` is echoed as it was received.
    pub fn of(result: &'a CommandResult, transaction: Option<&'a Value>) -> Self {
        let (status, error) = match &result.ended {
            Ended::Ok => ("ok", None),
            Ended::Superseded => ("superseded", None),
            Ended::Error(_) | Ended::Unfit(_) | Ended::NoPlug(_) => ("error", result.ended.error()),
        };
        Self {
            transaction,
            status,
            state: result.state.map(|state| state.to_string()),
            route: result.route.map(|route| route.to_string()),
            took_ms: u64::try_from(result.took.as_millis()).unwrap_or(u64::MAX),
            error,
        }
    }

    /// Of a command that was refused before the bridge, such as one that could not be read.
    pub fn refusal(why: &'a str, transaction: Option<&'a Value>) -> Self {
        Self { transaction, status: "error", state: None, route: None, took_ms: 0, error: Some(why) }
    }
}

/// `bridge/response/<x>`.
#[derive(Serialize)]
pub struct ResponseDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'a Value>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> ResponseDocument<'a> {
    /// The error says why the request was refused; `transaction` is echoed as it was received.
    pub fn of(result: Result<(), &'a str>, transaction: Option<&'a Value>) -> Self {
        let (status, error) = match result {
            Ok(()) => ("ok", None),
            Err(why) => ("error", Some(why)),
        };
        Self { transaction, status, error }
    }
}
