//! The requests to a plug, as JSON, and their replies, parsed.

use std::io::Write;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::model::{Failure, RelayState};
use crate::smarthome::lenient::repaired;
use crate::smarthome::message::answer::{NotAnAnswer, find_body, find_method, find_method_at_once};
use crate::smarthome::message::cloud_info::{CloudInfo, RawCloudInfo};
use crate::smarthome::message::meter::{Date, Meter, RawDate, RawDays, RawMeter, RawMonths};
use crate::smarthome::message::outlets::{Outlet, OutletIds, Outlets};
use crate::smarthome::message::rules::{RawCountDowns, RawRules, ScheduleRule};
use crate::smarthome::message::sysinfo::{DeviceInfo, RawSysInfo, Reading};

/// A request to a plug. `None` for an outlet means the device as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read the device info and the state.
    SysInfo,
    /// Switch the relay of a device that has one.
    SetRelay(RelayState),
    /// Switch the relay of a device that has one, and read its state after that. Methods run in the order in which they are
    /// written; a few firmwares fail with two in one request.
    SetRelayAndRead(RelayState),
    /// Switch several outlets of a strip at once.
    SetOutlets(Outlets, RelayState),
    /// Switch the LED. The message has the inverse: `off` 1 is dark.
    SetLed(RelayState),
    /// Dim to 1..=100 %. Does not switch on.
    SetBrightness(u8),
    /// Dim within this many milliseconds to 0..=100 %; 0 ends dark and off, anything else switches on.
    Fade(u8, u32),
    /// Set the name.
    SetAlias(Option<Outlet>, Arc<str>),
    /// Restart the firmware in a second. With a delay of 0 it would not reply.
    Reboot,
    /// Read whether the plug is bound to an account, and connected to TP-Link's cloud.
    CloudInfo,
    /// Read the meter.
    Meter(Option<Outlet>),
    /// Read the energy of each day of this month (year, month).
    MeterDays(Option<Outlet>, u16, u8),
    /// Read the energy of each month of this year.
    MeterMonths(Option<Outlet>, u16),
    /// Read the plug's date.
    Clock,
    /// Read the running count-down.
    CountDown(Option<Outlet>),
    /// Delete the count-down; a plug can have one.
    StopCountDown(Option<Outlet>),
    /// Start a count-down: seconds, and the state that it switches to.
    StartCountDown(Option<Outlet>, u32, RelayState),
    /// Read the schedule.
    Schedule(Option<Outlet>),
}

impl Request {
    /// Appends the request as JSON, with the outlet ids of this route.
    pub fn write_json(&self, ids: OutletIds<'_>, out: &mut Vec<u8>) {
        if *self == Self::SysInfo {
            // Sent far more often than all others together.
            return out.extend_from_slice(br#"{"system":{"get_sysinfo":{}}}"#);
        }
        let (module, method) = self.method();
        let argument = self.argument();
        if matches!(self, Self::SetRelayAndRead(_)) {
            // Writing to memory cannot fail.
            let _ = write!(out, r#"{{"{module}":{{"{method}":{argument},"get_sysinfo":{{}}}}}}"#);
            return;
        }
        let context = self.outlets().map(|outlets| json!({ "child_ids": ids.list(outlets) }));
        // The context comes first, because firmwares parse from front to back. Writing to memory cannot fail.
        let _ = match context {
            Some(context) => write!(out, r#"{{"context":{context},"{module}":{{"{method}":{argument}}}}}"#),
            None => write!(out, r#"{{"{module}":{{"{method}":{argument}}}}}"#),
        };
    }

    /// Parses the reply to this request. `known` is the device info of the last reading, which is reused if it has not
    /// changed, so that a repeated reading allocates nothing.
    ///
    /// # Errors
    /// If the text is not a reply to this request, or reports an error.
    pub fn read_reply(&self, json: &[u8], known: Option<&Arc<DeviceInfo>>) -> Result<Reply, NotAnAnswer> {
        let text = String::from_utf8_lossy(json);
        match self.read_text(&text, known) {
            Err(fault @ NotAnAnswer::Malformed(_)) => {
                repaired(&text).map_or(Err(fault), |text: String| self.read_text(&text, known))
            }
            answer => answer,
        }
    }

    fn read_text(&self, text: &str, known: Option<&Arc<DeviceInfo>>) -> Result<Reply, NotAnAnswer> {
        let method = self.method();
        match self {
            Self::SysInfo => read_sysinfo(text, known).map(Reply::SysInfo),
            Self::SetRelayAndRead(_) => {
                let IgnoredAny = find_method(text, method)?;
                Ok(Reply::Switched(read_sysinfo(text, known).ok()))
            }
            Self::CloudInfo => Ok(Reply::CloudInfo(find_method::<RawCloudInfo>(text, method)?.into())),
            Self::Meter(_) => Ok(Reply::Meter(find_method::<RawMeter>(text, method)?.into())),
            Self::MeterDays(_, year, month) => {
                let used = find_method::<RawDays>(text, method)?.used(*year, *month);
                Ok(used.map_or(Reply::NotTold, Reply::Used))
            }
            Self::MeterMonths(_, year) => {
                let used = find_method::<RawMonths>(text, method)?.used(*year);
                Ok(used.map_or(Reply::NotTold, Reply::Used))
            }
            Self::Clock => find_method::<RawDate>(text, method)?.date().map(Reply::Clock),
            Self::CountDown(_) => Ok(Reply::CountDown(find_method::<RawCountDowns>(text, method)?.running())),
            Self::Schedule(_) => Ok(Reply::Schedule(find_method::<RawRules<'_>>(text, method)?.rules())),
            Self::SetRelay(_)
            | Self::SetOutlets(..)
            | Self::SetLed(_)
            | Self::SetBrightness(_)
            | Self::Fade(..)
            | Self::SetAlias(..)
            | Self::Reboot
            | Self::StopCountDown(_)
            | Self::StartCountDown(..) => find_method(text, method).map(|IgnoredAny| Reply::Done),
        }
    }

    /// Whether it changes the plug.
    pub fn changes_something(&self) -> bool {
        match self {
            Self::SetRelay(_)
            | Self::SetRelayAndRead(_)
            | Self::SetOutlets(..)
            | Self::SetLed(_)
            | Self::SetBrightness(_)
            | Self::Fade(..)
            | Self::SetAlias(..)
            | Self::Reboot
            | Self::StopCountDown(_)
            | Self::StartCountDown(..) => true,
            Self::SysInfo
            | Self::CloudInfo
            | Self::Meter(_)
            | Self::MeterDays(..)
            | Self::MeterMonths(..)
            | Self::Clock
            | Self::CountDown(_)
            | Self::Schedule(_) => false,
        }
    }

    /// The first module and method of this request; the reply is under the same names.
    pub fn method(&self) -> (&'static str, &'static str) {
        match self {
            Self::SysInfo => ("system", "get_sysinfo"),
            Self::SetRelay(_) | Self::SetRelayAndRead(_) | Self::SetOutlets(..) => {
                ("system", "set_relay_state")
            }
            Self::SetLed(_) => ("system", "set_led_off"),
            Self::SetBrightness(_) => ("smartlife.iot.dimmer", "set_brightness"),
            Self::Fade(..) => ("smartlife.iot.dimmer", "set_dimmer_transition"),
            Self::SetAlias(..) => ("system", "set_dev_alias"),
            Self::Reboot => ("system", "reboot"),
            Self::CloudInfo => ("cnCloud", "get_info"),
            Self::Meter(_) => ("emeter", "get_realtime"),
            Self::MeterDays(..) => ("emeter", "get_daystat"),
            Self::MeterMonths(..) => ("emeter", "get_monthstat"),
            Self::Clock => ("time", "get_time"),
            Self::CountDown(_) => ("count_down", "get_rules"),
            Self::StopCountDown(_) => ("count_down", "delete_all_rules"),
            Self::StartCountDown(..) => ("count_down", "add_rule"),
            Self::Schedule(_) => ("schedule", "get_rules"),
        }
    }

    /// The argument of the method: integers where firmwares require them, and `{}`, never `null`.
    fn argument(&self) -> Value {
        match self {
            Self::SetRelay(state) | Self::SetRelayAndRead(state) | Self::SetOutlets(_, state) => {
                json!({ "state": bit(*state) })
            }
            Self::SetLed(state) => json!({ "off": bit(!*state) }),
            Self::SetBrightness(percent) => json!({ "brightness": percent }),
            Self::Fade(percent, over) => json!({ "brightness": percent, "duration": over.max(&1) }),
            Self::SetAlias(_, alias) => json!({ "alias": &**alias }),
            Self::Reboot => json!({ "delay": 1 }),
            Self::MeterDays(_, year, month) => json!({ "year": year, "month": month }),
            Self::MeterMonths(_, year) => json!({ "year": year }),
            Self::StartCountDown(_, delay, then) => {
                json!({ "enable": 1, "delay": delay, "act": bit(*then), "name": "hs100d" })
            }
            Self::SysInfo
            | Self::CloudInfo
            | Self::Meter(_)
            | Self::Clock
            | Self::CountDown(_)
            | Self::StopCountDown(_)
            | Self::Schedule(_) => json!({}),
        }
    }

    /// The outlets of the request; `None` if it is about the device as a whole.
    fn outlets(&self) -> Option<Outlets> {
        match self {
            Self::SetOutlets(outlets, _) => Some(*outlets),
            Self::SetAlias(outlet, _)
            | Self::Meter(outlet)
            | Self::MeterDays(outlet, ..)
            | Self::MeterMonths(outlet, _)
            | Self::CountDown(outlet)
            | Self::StopCountDown(outlet)
            | Self::StartCountDown(outlet, ..)
            | Self::Schedule(outlet) => outlet.map(Outlets::one),
            Self::SysInfo
            | Self::SetRelay(_)
            | Self::SetRelayAndRead(_)
            | Self::SetLed(_)
            | Self::SetBrightness(_)
            | Self::Fade(..)
            | Self::Reboot
            | Self::CloudInfo
            | Self::Clock => None,
        }
    }
}

fn read_sysinfo(text: &str, known: Option<&Arc<DeviceInfo>>) -> Result<Reading, NotAnAnswer> {
    let method = Request::SysInfo.method();
    let sound = find_method_at_once(text, method).filter(RawSysInfo::is_sound);
    let sysinfo = sound.map_or_else(|| RawSysInfo::by_field(find_body(text, method)?), Ok)?;
    sysinfo.into_reading(known)
}

fn bit(state: RelayState) -> u8 {
    state.is_on().into()
}

/// A parsed reply of a plug.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::SysInfo`].
    SysInfo(Reading),
    /// To [`Request::CloudInfo`].
    CloudInfo(CloudInfo),
    /// To [`Request::Meter`].
    Meter(Meter),
    /// To [`Request::MeterDays`] and [`Request::MeterMonths`]: number of the day or month, and kWh.
    Used(Vec<(u8, f64)>),
    /// To [`Request::MeterDays`] or [`Request::MeterMonths`], without these values.
    NotTold,
    /// To [`Request::Clock`].
    Clock(Date),
    /// To [`Request::CountDown`]: seconds left and the state that it switches to, if one is running.
    CountDown(Option<(u32, RelayState)>),
    /// To [`Request::Schedule`].
    Schedule(Arc<[ScheduleRule]>),
    /// The request was carried out.
    Done,
    /// To [`Request::SetRelayAndRead`]: it was carried out, and the state that the plug reported after that, if any.
    Switched(Option<Reading>),
}

impl Reply {
    /// The reading in the reply to [`Request::SysInfo`]; any other reply is no answer to it.
    pub fn into_sysinfo(self) -> Result<Reading, Failure> {
        match self {
            Self::SysInfo(reading) => Ok(reading),
            _ => Err(Failure::Garbage("no sysinfo".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::DeviceId;
    use crate::smarthome::message::OutletDescription;

    /// One of each kind, for a plug and for an outlet.
    fn every_request() -> Vec<Request> {
        let whole = [
            Request::SysInfo,
            Request::SetRelay(RelayState::On),
            Request::SetRelayAndRead(RelayState::On),
            Request::SetOutlets(Outlets::one(0).and(Outlets::one(5)), RelayState::Off),
            Request::SetLed(RelayState::Off),
            Request::SetBrightness(33),
            Request::Fade(0, 0),
            Request::Reboot,
            Request::CloudInfo,
            Request::Clock,
        ];
        let about = |outlet| {
            [
                Request::SetAlias(outlet, "Lamp".into()),
                Request::Meter(outlet),
                Request::MeterDays(outlet, 2026, 11),
                Request::MeterMonths(outlet, 2026),
                Request::CountDown(outlet),
                Request::StopCountDown(outlet),
                Request::StartCountDown(outlet, 1800, RelayState::Off),
                Request::Schedule(outlet),
            ]
        };
        whole.into_iter().chain(about(None)).chain(about(Some(3))).collect()
    }

    fn encoded(request: &Request, ids: OutletIds<'_>) -> String {
        let mut json = Vec::new();
        request.write_json(ids, &mut json);
        String::from_utf8(json).unwrap()
    }

    fn read(request: &Request, json: &str) -> Result<Reply, NotAnAnswer> {
        request.read_reply(json.as_bytes(), None)
    }

    #[test]
    fn each_request_is_said_in_the_words_of_the_firmwares() {
        let (on, off) = (RelayState::On, RelayState::Off);
        let table = [
            (Request::SysInfo, r#"{"system":{"get_sysinfo":{}}}"#),
            (Request::SetRelay(on), r#"{"system":{"set_relay_state":{"state":1}}}"#),
            (Request::SetRelay(off), r#"{"system":{"set_relay_state":{"state":0}}}"#),
            (Request::SetLed(on), r#"{"system":{"set_led_off":{"off":0}}}"#),
            (Request::SetBrightness(33), r#"{"smartlife.iot.dimmer":{"set_brightness":{"brightness":33}}}"#),
            (
                Request::Fade(0, 0),
                r#"{"smartlife.iot.dimmer":{"set_dimmer_transition":{"brightness":0,"duration":1}}}"#,
            ),
            (Request::Reboot, r#"{"system":{"reboot":{"delay":1}}}"#),
            (Request::CloudInfo, r#"{"cnCloud":{"get_info":{}}}"#),
            (Request::Clock, r#"{"time":{"get_time":{}}}"#),
            (Request::Meter(None), r#"{"emeter":{"get_realtime":{}}}"#),
            (Request::MeterDays(None, 2026, 11), r#"{"emeter":{"get_daystat":{"month":11,"year":2026}}}"#),
            (Request::MeterMonths(None, 2026), r#"{"emeter":{"get_monthstat":{"year":2026}}}"#),
            (Request::CountDown(None), r#"{"count_down":{"get_rules":{}}}"#),
            (Request::StopCountDown(None), r#"{"count_down":{"delete_all_rules":{}}}"#),
            (
                Request::StartCountDown(None, 1800, off),
                r#"{"count_down":{"add_rule":{"act":0,"delay":1800,"enable":1,"name":"hs100d"}}}"#,
            ),
            (Request::Schedule(None), r#"{"schedule":{"get_rules":{}}}"#),
        ];
        for (request, json) in table {
            let written: Value = serde_json::from_str(&encoded(&request, OutletIds::None)).unwrap();
            assert_eq!(written, serde_json::from_str::<Value>(json).unwrap(), "{request:?}");
        }
    }

    #[test]
    fn the_relay_is_switched_before_it_is_told_how_it_is() {
        let json = encoded(&Request::SetRelayAndRead(RelayState::Off), OutletIds::None);
        assert_eq!(json, r#"{"system":{"set_relay_state":{"state":0},"get_sysinfo":{}}}"#);
    }

    #[test]
    fn an_answer_to_switching_and_reading_at_once_counts_by_its_first_part() {
        const SYSINFO: &str = r#""get_sysinfo":{"relay_state":1,"deviceId":"8006","err_code":0}"#;
        let read = |json: &str| read(&Request::SetRelayAndRead(RelayState::On), json);
        let relay = |json: &str| match read(json) {
            Ok(Reply::Switched(reading)) => Ok(reading.map(|reading| reading.relay)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        let both = |done: &str, sysinfo: &str| format!(r#"{{"system":{{{done},{sysinfo}}}}}"#);
        let done = r#""set_relay_state":{"err_code":0}"#;
        let refused = r#""set_relay_state":{"err_code":-3}"#;
        let read_back = Ok(Some(Some(RelayState::On)));
        assert_eq!(relay(&both(done, SYSINFO)), read_back);
        assert_eq!(relay(&both(SYSINFO, done)), read_back, "in whichever order");
        assert_eq!(relay(&format!(r#"{{"system":{{{done}}}}}"#)), Ok(None));
        assert_eq!(relay(&both(done, r#""get_sysinfo":{"err_code":-2}"#)), Ok(None));
        assert_eq!(relay(&both(done, r#""get_sysinfo":7"#)), Ok(None));
        assert!(matches!(read(&both(refused, SYSINFO)), Err(NotAnAnswer::Device { code: -3, .. })));
        assert!(matches!(read(r#"{"system":{"err_code":-1}}"#), Err(NotAnAnswer::Device { code: -1, .. })));
        let only_sysinfo = read(&format!(r#"{{"system":{{{SYSINFO}}}}}"#));
        assert!(matches!(only_sysinfo, Err(NotAnAnswer::Missing { method: "set_relay_state", .. })));
        let whole = both(done, SYSINFO);
        for end in 0..whole.len() {
            assert!(matches!(read(&whole[..end]), Err(NotAnAnswer::Malformed(_))), "{}", &whole[..end]);
        }
    }

    #[test]
    fn outlets_are_named_before_the_module_in_the_form_of_the_wire() {
        let id = DeviceId::new(&"80".repeat(20)).unwrap();
        let device = |id: String| OutletDescription { id: id.into(), alias: Box::default() };
        let short: Vec<_> = (0..6).map(|outlet| device(format!("{outlet:02}"))).collect();
        let first = Request::SetOutlets(Outlets::one(0), RelayState::On);
        assert_eq!(
            encoded(&first, OutletIds::AsGiven(&short)),
            r#"{"context":{"child_ids":["00"]},"system":{"set_relay_state":{"state":1}}}"#
        );
        let several = Request::SetOutlets(Outlets::one(4).and(Outlets::one(1)), RelayState::Off);
        assert_eq!(
            encoded(&several, OutletIds::Long(&id)),
            format!(
                r#"{{"context":{{"child_ids":["{0}01","{0}04"]}},"system":{{"set_relay_state":{{"state":0}}}}}}"#,
                id.as_str()
            )
        );
        for request in every_request() {
            let json = encoded(&request, OutletIds::AsGiven(&short));
            assert_eq!(json.contains("context"), request.outlets().is_some(), "{json}");
            assert_eq!(
                json.starts_with(r#"{"context":{"child_ids":["0"#),
                request.outlets().is_some(),
                "{json}"
            );
        }
    }

    #[test]
    fn no_request_says_null() {
        for request in every_request() {
            let json = encoded(&request, OutletIds::None);
            let (module, method) = request.method();
            let value: Value = serde_json::from_str(&json).unwrap();
            assert!(value[module][method].is_object(), "{json}");
            assert!(!json.contains("null"), "{json}");
        }
    }

    #[test]
    fn an_alias_is_said_as_it_is() {
        for alias in ["Küche ☕", "\"quoted\"", "back\\slash", "{}", "", "\u{0}"] {
            let json = encoded(&Request::SetAlias(None, alias.into()), OutletIds::None);
            let value: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["system"]["set_dev_alias"]["alias"], alias);
        }
        let cup = encoded(&Request::SetAlias(None, "Küche ☕".into()), OutletIds::None);
        assert_eq!(cup, r#"{"system":{"set_dev_alias":{"alias":"Küche ☕"}}}"#, "as UTF-8, not escaped");
    }

    #[test]
    fn each_answer_is_read_from_under_its_own_method() {
        let (off, on) = (RelayState::Off, RelayState::On);
        let table = [
            (Request::SetRelay(on), r#"{"system":{"set_relay_state":{"err_code":0}}}"#, Reply::Done),
            (
                Request::SetOutlets(Outlets::one(1), on),
                r#"{"system":{"set_relay_state":{"err_code":0}}}"#,
                Reply::Done,
            ),
            (
                Request::StartCountDown(None, 60, off),
                r#"{"count_down":{"add_rule":{"id":"0A","err_code":0}}}"#,
                Reply::Done,
            ),
            (
                Request::Meter(Some(2)),
                r#"{"emeter":{"get_realtime":{"slot_id":2,"power_mw":1500,"err_code":0}}}"#,
                Reply::Meter(Meter { power: Some(1.5), ..Meter::default() }),
            ),
            (
                Request::MeterDays(None, 2026, 11),
                r#"{"emeter":{"get_daystat":{"day_list":[{"year":2026,"month":11,"day":9,"energy":0.5}]}}}"#,
                Reply::Used(vec![(9, 0.5)]),
            ),
            (
                Request::MeterMonths(None, 2026),
                r#"{"emeter":{"get_monthstat":{"month_list":[{"year":2026,"month":11,"energy_wh":500}]}}}"#,
                Reply::Used(vec![(11, 0.5)]),
            ),
            (
                Request::Clock,
                r#"{"time":{"get_time":{"year":2026,"month":11,"mday":22,"hour":1,"min":2,"sec":3}}}"#,
                Reply::Clock(Date { year: 2026, month: 11, day: 22 }),
            ),
            (
                Request::CountDown(None),
                r#"{"count_down":{"get_rules":{"rule_list":[{"enable":1,"remain":9,"act":1}]}}}"#,
                Reply::CountDown(Some((9, on))),
            ),
            (
                Request::Schedule(None),
                r#"{"schedule":{"get_rules":{"rule_list":[],"enable":1,"version":2}}}"#,
                Reply::Schedule([].into()),
            ),
            (
                Request::CloudInfo,
                r#"{"cnCloud":{"get_info":{"username":"me@example.com","binded":1,"cld_connection":0}}}"#,
                Reply::CloudInfo(CloudInfo { bound: true, connected: false }),
            ),
        ];
        for (request, json, reply) in table {
            assert_eq!(read(&request, json), Ok(reply), "{request:?}");
        }
    }

    #[test]
    fn what_no_module_answers_is_an_error_for_every_request() {
        for request in every_request() {
            let (module, method) = request.method();
            assert_eq!(read(&request, "{}"), Err(NotAnAnswer::Missing { module, method }));
            let refused = read(&request, &format!(r#"{{"{module}":{{"err_code":-1}}}}"#));
            assert!(matches!(refused, Err(NotAnAnswer::Device { code: -1, .. })), "{refused:?}");
        }
    }

    /// JSON that resembles replies: the relevant keys, with any values.
    fn lookalike() -> impl Strategy<Value = Value> {
        const KEYS: [&str; 24] = [
            "err_code",
            "err_msg",
            "deviceId",
            "mac",
            "alias",
            "relay_state",
            "on_time",
            "rssi",
            "brightness",
            "children",
            "id",
            "state",
            "led_off",
            "power",
            "total_wh",
            "day_list",
            "month_list",
            "day",
            "energy",
            "rule_list",
            "enable",
            "remain",
            "stime_opt",
            "wday",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..8).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_reply_makes_reading_panic(bytes in any::<Vec<u8>>()) {
            for request in every_request() {
                let _ = request.read_reply(&bytes, None);
            }
        }

        #[test]
        fn no_lookalike_of_a_reply_makes_reading_panic(body in lookalike()) {
            for request in every_request() {
                let (module, method) = request.method();
                let json = json!({ module: { method: body.clone() } }).to_string();
                if let Ok(Reply::SysInfo(reading)) = request.read_reply(json.as_bytes(), None) {
                    prop_assert_eq!(reading.outlets.len(), reading.device.outlets.len());
                    let again = request.read_reply(json.as_bytes(), Some(&reading.device));
                    prop_assert!(matches!(again, Ok(Reply::SysInfo(again)) if Arc::ptr_eq(&again.device, &reading.device)));
                }
            }
        }
    }
}
