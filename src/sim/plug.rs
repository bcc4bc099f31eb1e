//! One plug as a value: requests in, replies out, and a memory of who switched it when.
//!
//! No socket, no task, no clock: `now` is an argument. What travels over TCP, UDP and through the cloud is the
//! same JSON, so one [`SimPlug::handle`] serves all three. Faults are fields; the LAN and the cloud obey them.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::sim::fault::{CloudLink, Dialect, LanFault};
use crate::sim::model::{Model, Wording};

/// How many switchings are remembered: a demo that runs for months must not grow.
const REMEMBERED_SWITCHINGS: usize = 1000;

/// How long a restart of the firmware takes unless the plug says otherwise. Real plugs need a few seconds.
const BOOT_TIME: Duration = Duration::from_millis(300);

/// A plug. Everything that a test may want to change is a public field.
#[derive(Clone)]
pub struct SimPlug {
    /// What it is.
    pub model: Model,
    /// 40 hexadecimal digits.
    pub device_id: String,
    /// With colons.
    pub mac: String,
    /// The user's name for it.
    pub alias: String,
    /// Wi-Fi signal, dBm.
    pub rssi: i32,
    /// Answers `{"system":{}}` to `"get_sysinfo": null`, as a KP303 with firmware 1.0.6 does.
    pub ignores_null: bool,
    /// Refuses to switch its relay with this `err_code`, over each route; reads still work.
    pub refuses_to_switch: Option<i64>,
    /// Whether it has power. Without, the LAN refuses and the cloud says that it is offline.
    pub powered: bool,
    /// How long a restart keeps it away.
    pub boot_time: Duration,
    /// What is wrong with it on the LAN.
    pub lan: LanFault,
    /// Which languages it speaks on the LAN.
    pub dialect: Dialect,
    /// Whether it hears broadcasts. Some networks swallow them.
    pub hears_broadcasts: bool,
    /// How the cloud reaches it.
    pub cloud: CloudLink,
    /// Whether the account owns it. If not, it is not listed and the cloud answers -20580.
    pub bound: bool,
    /// Which of the cloud's hosts serves it; 0 is the global entry.
    pub region: usize,
    /// What the device list gives as its `appServerUrl` instead of the right one.
    pub app_server_url: Option<String>,
    /// How much was asked of it.
    pub traffic: Traffic,
    on_since: Option<Instant>,
    led_on: bool,
    restart: Option<Restart>,
    switchings: VecDeque<Switching>,
    born: Instant,
    /// The plug's own clock when it was born.
    clock: SystemTime,
}

/// One order to the relay that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switching {
    /// When.
    pub at: Instant,
    /// To which state.
    pub on: bool,
    /// By which way it came.
    pub by: Origin,
    /// Whether the relay was in the other state before.
    pub changed: bool,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Someone on the LAN.
    Lan,
    /// Someone through the cloud.
    Cloud,
    /// A finger on the plug.
    Button,
}

/// How much was asked of a plug since it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// TCP connections taken.
    pub connections: u64,
    /// TCP connections open at this moment.
    pub open: u64,
    /// The most TCP connections that were ever open at once.
    pub most_open: u64,
    /// Requests heard on the LAN, answered or not.
    pub lan_requests: u64,
    /// Requests that came through the cloud, answered or not.
    pub cloud_requests: u64,
    /// Orders to the relay that were carried out, changing something or not.
    pub relay_orders: u64,
    /// Restarts of the firmware.
    pub restarts: u64,
}

impl SimPlug {
    /// A plug that is off, with its light on, as it comes out of the box and into an account.
    ///
    /// `number` tells it from the others of a house: it makes the device id and the MAC address.
    pub fn new(model: Model, number: u32, alias: &str, now: Instant) -> Self {
        let [_, a, b, c] = number.to_be_bytes();
        Self {
            model,
            device_id: format!("8006{number:036X}"),
            mac: format!("50:C7:BF:{a:02X}:{b:02X}:{c:02X}"),
            alias: alias.to_owned(),
            rssi: -47,
            ignores_null: false,
            refuses_to_switch: None,
            powered: true,
            boot_time: BOOT_TIME,
            lan: LanFault::Works,
            dialect: Dialect::Xor,
            hears_broadcasts: true,
            cloud: CloudLink::Works,
            bound: true,
            region: 1,
            app_server_url: None,
            traffic: Traffic::default(),
            on_since: None,
            led_on: true,
            restart: None,
            switchings: VecDeque::new(),
            born: now,
            clock: UNIX_EPOCH + Duration::from_secs(1_767_225_600), // 2026-01-01, a day like any other
        }
    }

    /// Answers one request, or not at all: to what is no JSON object, and while it has no power or restarts.
    ///
    /// Methods run in the order in which they are written.
    pub fn handle(&mut self, request: &[u8], by: Origin, now: Instant) -> Option<Vec<u8>> {
        match by {
            Origin::Lan => self.traffic.lan_requests += 1,
            Origin::Cloud => self.traffic.cloud_requests += 1,
            Origin::Button => {}
        }
        if !self.is_up(now) {
            return None;
        }
        let modules: Written<Box<RawValue>> = serde_json::from_slice(request).ok()?;
        let mut reply = Map::new();
        for (module, methods) in modules.0 {
            if module != "context" {
                let answer = self.answer_module(&module, methods.get(), by, now);
                reply.insert(module, answer);
            }
        }
        serde_json::to_vec(&reply).ok()
    }

    /// Answers each method of the request with this error and carries nothing out.
    pub fn refuse(&mut self, request: &[u8], code: i64, by: Origin) -> Option<Vec<u8>> {
        match by {
            Origin::Lan => self.traffic.lan_requests += 1,
            Origin::Cloud => self.traffic.cloud_requests += 1,
            Origin::Button => {}
        }
        let modules: Written<Written<Value>> = serde_json::from_slice(request).ok()?;
        let mut reply = Map::new();
        for (module, methods) in modules.0 {
            let errors: Map<_, _> = methods.0.into_iter().map(|(name, _)| (name, error(code))).collect();
            reply.insert(module, errors.into());
        }
        serde_json::to_vec(&reply).ok()
    }

    /// Presses the button, which toggles the relay. Without power nothing happens.
    pub fn press_button(&mut self, now: Instant) {
        if self.powered {
            self.switch(!self.is_on(), Origin::Button, now);
        }
    }

    /// Whether the relay is on.
    pub fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// Whether the little light is on.
    pub fn is_led_on(&self) -> bool {
        self.led_on
    }

    /// The last orders to the relay that were carried out, oldest first; [`Traffic::relay_orders`] counts them all.
    pub fn switchings(&self) -> impl Iterator<Item = &Switching> {
        self.switchings.iter()
    }

    /// Whether it has power and is not restarting.
    pub fn is_up(&self, now: Instant) -> bool {
        self.powered && !self.restart.is_some_and(|restart| restart.from <= now && now < restart.until)
    }

    /// Whether the cloud sees it connected.
    pub fn is_cloud_connected(&self, now: Instant) -> bool {
        self.is_up(now) && self.bound && self.cloud != CloudLink::Offline
    }

    /// When [`SimPlug::is_up`] will change by itself.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let restart = self.restart?;
        [restart.from, restart.until].into_iter().find(|&at| at > now)
    }

    /// What its listening socket should be.
    pub fn door(&self, now: Instant) -> Door {
        match self.lan {
            _ if !self.is_up(now) || !self.dialect.speaks_xor() => Door::Shut,
            LanFault::Refused => Door::Shut,
            LanFault::NotAccepting => Door::Jammed,
            _ => Door::Open,
        }
    }

    fn answer_module(&mut self, module: &str, methods: &str, by: Origin, now: Instant) -> Value {
        if !MODULES.contains(&module) {
            return error(MODULE_NOT_SUPPORT);
        }
        let Ok(methods) = serde_json::from_str::<Written<Value>>(methods) else {
            return error(INVALID_ARGUMENT);
        };
        let mut reply = Map::new();
        for (method, argument) in methods.0 {
            if method == "get_sysinfo" && argument.is_null() && self.ignores_null {
                continue;
            }
            let answer = match self.run((module, &method), &argument, by, now) {
                Ok(mut fields) => {
                    fields.insert("err_code".into(), 0.into());
                    fields.into()
                }
                Err(code) => error(code),
            };
            reply.insert(method, answer);
        }
        reply.into()
    }

    fn run(
        &mut self,
        method: (&str, &str),
        argument: &Value,
        by: Origin,
        now: Instant,
    ) -> Result<Map<String, Value>, i64> {
        match method {
            ("system", "get_sysinfo") => Ok(self.sysinfo(now)),
            ("system", "set_relay_state") => {
                let on = flag(argument, "state")?;
                self.refuses_to_switch.map_or(Ok(()), Err)?;
                self.switch(on, by, now);
                Ok(Map::new())
            }
            ("system", "set_led_off") => {
                self.led_on = !flag(argument, "off")?;
                Ok(Map::new())
            }
            ("system", "set_dev_alias") => {
                self.alias = argument["alias"].as_str().ok_or(INVALID_ARGUMENT)?.to_owned();
                Ok(Map::new())
            }
            ("system", "reboot") => {
                self.restart_after(argument["delay"].as_u64().ok_or(INVALID_ARGUMENT)?, now);
                Ok(Map::new())
            }
            ("cnCloud", "get_info") => Ok(self.cloud_info(now)),
            ("time", "get_time") => self.time(now).ok_or(UNKNOWN_ERROR),
            ("time", "get_timezone") => Ok(fields(json!({"index": 39}))),
            ("schedule", "get_next_action") => Ok(fields(json!({"type": -1}))),
            ("schedule", "get_daystat") => Ok(fields(json!({"day_list": []}))),
            ("schedule", "get_monthstat") => Ok(fields(json!({"month_list": []}))),
            ("schedule", "get_rules") => Ok(fields(json!({"rule_list": [], "version": 2, "enable": 0}))),
            ("anti_theft" | "count_down", "get_rules") => Ok(fields(json!({"rule_list": []}))),
            _ => Err(MEMBER_NOT_SUPPORT),
        }
    }

    fn switch(&mut self, on: bool, by: Origin, now: Instant) {
        let changed = on != self.is_on();
        if changed {
            self.on_since = on.then_some(now);
        }
        if self.switchings.len() == REMEMBERED_SWITCHINGS {
            self.switchings.pop_front();
        }
        self.switchings.push_back(Switching { at: now, on, by, changed });
        self.traffic.relay_orders += 1;
    }

    fn restart_after(&mut self, delay_seconds: u64, now: Instant) {
        // A delay beyond what an `Instant` can say never comes.
        let from = now.checked_add(Duration::from_secs(delay_seconds));
        self.restart = from.map(|from| Restart { from, until: from + self.boot_time });
        self.traffic.restarts += 1;
    }

    fn sysinfo(&self, now: Instant) -> Map<String, Value> {
        let mut sysinfo = fields(json!({
            "sw_ver": self.model.sw_ver,
            "hw_ver": self.model.hw_ver,
            "model": self.model.name,
            "deviceId": self.device_id,
            "hwId": "0000000000000000000000000000AAAA",
            "oemId": "0000000000000000000000000000BBBB",
            "mac": self.mac,
            "alias": self.alias,
            "dev_name": self.model.dev_name,
            "feature": self.model.feature,
            "relay_state": u8::from(self.is_on()),
            "on_time": self.on_since.map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            "active_mode": "none",
            "led_off": u8::from(!self.led_on),
            "updating": 0,
            "rssi": self.rssi,
            "icon_hash": "",
        }));
        sysinfo.append(&mut match self.model.wording {
            Wording::First => fields(json!({
                "type": self.model.kind, "fwId": NO_ID, "latitude": 0, "longitude": 0,
            })),
            Wording::Second => fields(json!({
                "type": self.model.kind, "fwId": NO_ID, "latitude_i": 0, "longitude_i": 0,
                "next_action": {"type": -1},
            })),
            Wording::Fourth => fields(json!({
                "mic_type": self.model.kind, "latitude_i": 0, "longitude_i": 0,
                "next_action": {"type": -1}, "status": "new", "obd_src": "tplink", "ntc_state": 0,
            })),
        });
        sysinfo
    }

    fn cloud_info(&self, now: Instant) -> Map<String, Value> {
        fields(json!({
            "username": if self.bound { "user@example.com" } else { "" },
            "server": "devs.tplinkcloud.com",
            "binded": u8::from(self.bound),
            "cld_connection": u8::from(self.is_cloud_connected(now)),
            "illegalType": 0,
            "stopConnect": 0,
            "tcspStatus": 1,
            "fwDlPage": "",
            "tcspInfo": "",
            "fwNotifyType": 0,
        }))
    }

    fn time(&self, now: Instant) -> Option<Map<String, Value>> {
        let text = humantime::format_rfc3339_seconds(self.clock + now.saturating_duration_since(self.born));
        let text = text.to_string();
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        let mut time = Map::new();
        for name in ["year", "month", "mday", "hour", "min", "sec"] {
            time.insert(name.into(), numbers.next()?.into());
        }
        Some(time)
    }
}

/// Shortened: a device id belongs in no log, not even a pretend one.
impl fmt::Debug for SimPlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPlug")
            .field("alias", &self.alias)
            .field("on", &self.is_on())
            .field("lan", &self.lan)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

/// What a plug's listening socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// It takes connections.
    Open,
    /// It is closed: connections are refused.
    Shut,
    /// Its backlog is full: connections hang.
    Jammed,
}

/// A restart of the firmware, during which nothing is heard of the plug.
#[derive(Debug, Clone, Copy)]
struct Restart {
    from: Instant,
    until: Instant,
}

/// The modules that an HS100 has. It has no meter, so no `emeter`.
const MODULES: [&str; 6] = ["system", "time", "cnCloud", "schedule", "anti_theft", "count_down"];

/// Old firmwares have a `fwId` of zeros.
const NO_ID: &str = "00000000000000000000000000000000";

const MODULE_NOT_SUPPORT: i64 = -1;
const MEMBER_NOT_SUPPORT: i64 = -2;
const INVALID_ARGUMENT: i64 = -3;
const UNKNOWN_ERROR: i64 = -7;

/// An error as plugs write it.
fn error(code: i64) -> Value {
    let message = match code {
        MODULE_NOT_SUPPORT => "module not support",
        MEMBER_NOT_SUPPORT => "member not support",
        INVALID_ARGUMENT => "invalid argument",
        -5 => "not enough memory",
        -10 => "table is full",
        -11 => "time not sync",
        -14 => "entry not exist",
        _ => "unknown error",
    };
    json!({"err_code": code, "err_msg": message})
}

/// An argument that must be the integer 0 or 1; firmwares refuse `true` and `"1"`.
fn flag(argument: &Value, name: &str) -> Result<bool, i64> {
    match argument[name].as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A JSON object in the order in which it was written. Of two equal keys the last one holds, at the first one's place.
struct Written<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Written<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

struct InOrder<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
    type Value = Written<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut written: Vec<(String, V)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, V>()? {
            match written.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = value,
                None => written.push((key, value)),
            }
        }
        Ok(Written(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(model: Model) -> (SimPlug, Instant) {
        let now = Instant::now();
        (SimPlug::new(model, 7, "Küche ☕", now), now)
    }

    fn ask(plug: &mut SimPlug, request: &str, now: Instant) -> Value {
        serde_json::from_slice(&plug.handle(request.as_bytes(), Origin::Lan, now).unwrap()).unwrap()
    }

    #[test]
    fn each_request_gets_the_answer_of_a_real_plug() {
        let not_supported = json!({"err_code": -1, "err_msg": "module not support"});
        let no_member = json!({"err_code": -2, "err_msg": "member not support"});
        let invalid = json!({"err_code": -3, "err_msg": "invalid argument"});
        let done = json!({"err_code": 0});
        let table = [
            (r#"{"emeter":{"get_realtime":{}}}"#, json!({"emeter": not_supported})),
            (r#"{"system":{"get_weather":{}}}"#, json!({"system": {"get_weather": no_member}})),
            (
                r#"{"system":{"set_relay_state":{"state":2}}}"#,
                json!({"system": {"set_relay_state": invalid}}),
            ),
            (
                r#"{"system":{"set_relay_state":{"state":true}}}"#,
                json!({"system": {"set_relay_state": invalid}}),
            ),
            (r#"{"system":{"set_relay_state":{}}}"#, json!({"system": {"set_relay_state": invalid}})),
            (r#"{"system":{"set_relay_state":null}}"#, json!({"system": {"set_relay_state": invalid}})),
            (r#"{"system":{"set_relay_state":{"state":1}}}"#, json!({"system": {"set_relay_state": done}})),
            (r#"{"system":{"set_led_off":{"off":1}}}"#, json!({"system": {"set_led_off": done}})),
            (r#"{"system":{"set_dev_alias":{"alias":7}}}"#, json!({"system": {"set_dev_alias": invalid}})),
            (r#"{"system":{"reboot":{"delay":"1"}}}"#, json!({"system": {"reboot": invalid}})),
            (r#"{"system":7}"#, json!({"system": invalid})),
            (
                r#"{"time":{"get_timezone":{}}}"#,
                json!({"time": {"get_timezone": {"index": 39, "err_code": 0}}}),
            ),
            (r#"{"context":{"child_ids":[]},"system":{}}"#, json!({"system": {}})),
            ("{}", json!({})),
        ];
        let (mut plug, now) = plug(Model::HS100_HW1);
        for (request, reply) in table {
            assert_eq!(ask(&mut plug, request, now), reply, "{request}");
        }
        assert!(plug.is_on() && !plug.is_led_on());
    }

    #[test]
    fn what_is_no_json_object_is_not_answered() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        for request in ["", "null", "[]", "{", r#"{"system":{"get_sysinfo":{}}"#, "\u{fffd}"] {
            assert_eq!(plug.handle(request.as_bytes(), Origin::Lan, now), None, "{request}");
        }
    }

    #[test]
    fn sysinfo_has_the_fields_of_its_hardware_and_only_those() {
        let table = [
            (
                Model::HS100_HW1,
                vec!["type", "fwId", "latitude"],
                vec!["mic_type", "next_action", "latitude_i"],
            ),
            (
                Model::HS100_HW2,
                vec!["type", "fwId", "latitude_i", "next_action"],
                vec!["mic_type", "latitude"],
            ),
            (Model::HS100_HW4, vec!["mic_type", "status", "ntc_state"], vec!["type", "fwId", "latitude"]),
        ];
        for (model, present, absent) in table {
            let (mut plug, now) = plug(model);
            let reply = ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, now);
            let sysinfo = &reply["system"]["get_sysinfo"];
            assert_eq!(sysinfo["alias"], "Küche ☕");
            assert_eq!(sysinfo["deviceId"], "8006000000000000000000000000000000000007");
            assert_eq!(sysinfo["mac"], "50:C7:BF:00:00:07");
            assert_eq!((&sysinfo["relay_state"], &sysinfo["led_off"]), (&json!(0), &json!(0)));
            for field in present {
                assert!(!sysinfo[field].is_null(), "{} has {field}", model.name);
            }
            for field in absent {
                assert!(sysinfo[field].is_null(), "{} has no {field}", model.name);
            }
        }
    }

    #[test]
    fn methods_run_in_the_order_in_which_they_are_written() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let request = r#"{"system":{"set_relay_state":{"state":1},"get_sysinfo":{}}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["relay_state"], 1);
        let request = r#"{"system":{"get_sysinfo":{},"set_relay_state":{"state":0}}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["relay_state"], 1);
        assert!(!plug.is_on());
    }

    #[test]
    fn of_two_equal_keys_the_last_one_holds() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        ask(&mut plug, r#"{"system":{"set_relay_state":{"state":0},"set_relay_state":{"state":1}}}"#, now);
        assert_eq!(plug.switchings().map(|switching| switching.on).collect::<Vec<_>>(), [true]);
    }

    #[test]
    fn null_as_argument_is_answered_by_old_firmwares_and_ignored_by_some() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let request = r#"{"system":{"get_sysinfo":null}}"#;
        assert_eq!(ask(&mut plug, request, now)["system"]["get_sysinfo"]["err_code"], 0);
        plug.ignores_null = true;
        assert_eq!(ask(&mut plug, request, now), json!({"system": {}}));
        assert_eq!(
            ask(&mut plug, &request.replace("null", "{}"), now)["system"]["get_sysinfo"]["err_code"],
            0
        );
    }

    #[test]
    fn it_remembers_who_switched_it_when() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let later = now + Duration::from_secs(61);
        let on = br#"{"system":{"set_relay_state":{"state":1}}}"#;
        plug.handle(on, Origin::Lan, now);
        plug.handle(on, Origin::Cloud, later);
        let sysinfo = ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, later);
        assert_eq!(sysinfo["system"]["get_sysinfo"]["on_time"], 61);
        plug.press_button(later);
        let log: Vec<_> = plug.switchings().copied().collect();
        assert_eq!(
            log,
            [
                Switching { at: now, on: true, by: Origin::Lan, changed: true },
                Switching { at: later, on: true, by: Origin::Cloud, changed: false },
                Switching { at: later, on: false, by: Origin::Button, changed: true },
            ]
        );
        assert_eq!(plug.traffic.relay_orders, 3);
    }

    #[test]
    fn the_memory_of_switchings_is_bounded() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        for _ in 0..REMEMBERED_SWITCHINGS + 5 {
            plug.press_button(now);
        }
        assert_eq!(plug.switchings().count(), REMEMBERED_SWITCHINGS);
        assert_eq!(plug.traffic.relay_orders, REMEMBERED_SWITCHINGS as u64 + 5);
    }

    #[test]
    fn it_is_away_while_it_restarts_and_keeps_its_relay() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.press_button(now);
        ask(&mut plug, r#"{"system":{"reboot":{"delay":1}}}"#, now);
        let (down, up) = (now + Duration::from_secs(1), now + Duration::from_secs(1) + plug.boot_time);
        assert!(plug.is_up(now));
        assert_eq!(plug.next_change(now), Some(down));
        assert!(!plug.is_up(down));
        assert_eq!(plug.door(down), Door::Shut);
        assert_eq!(plug.handle(b"{}", Origin::Lan, down), None);
        assert_eq!(plug.next_change(down), Some(up));
        assert!(plug.is_up(up) && plug.is_on());
        assert_eq!(plug.next_change(up), None);
    }

    #[test]
    fn one_that_refuses_to_switch_can_still_be_read() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        plug.refuses_to_switch = Some(-7);
        let reply = ask(&mut plug, r#"{"system":{"set_relay_state":{"state":1}}}"#, now);
        assert_eq!(reply["system"]["set_relay_state"]["err_code"], -7);
        assert!(!plug.is_on() && plug.switchings().count() == 0);
        assert_eq!(
            ask(&mut plug, r#"{"system":{"get_sysinfo":{}}}"#, now)["system"]["get_sysinfo"]["err_code"],
            0
        );
    }

    #[test]
    fn a_refusal_names_each_method_and_changes_nothing() {
        let (mut plug, _) = plug(Model::HS100_HW1);
        let reply = plug.refuse(br#"{"system":{"set_relay_state":{"state":1}}}"#, -3, Origin::Lan).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&reply).unwrap(),
            json!({"system": {"set_relay_state": {"err_code": -3, "err_msg": "invalid argument"}}})
        );
        assert!(!plug.is_on());
    }

    #[test]
    fn its_clock_goes_on() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let time = ask(&mut plug, r#"{"time":{"get_time":{}}}"#, now + Duration::from_secs(86_400 + 3_661));
        assert_eq!(
            time["time"]["get_time"],
            json!({"year": 2026, "month": 1, "mday": 2, "hour": 1, "min": 1, "sec": 1, "err_code": 0})
        );
    }

    #[test]
    fn its_cloud_connection_is_told_as_it_is() {
        let (mut plug, now) = plug(Model::HS100_HW1);
        let connected = |plug: &mut SimPlug| {
            let info = ask(plug, r#"{"cnCloud":{"get_info":{}}}"#, now);
            (
                info["cnCloud"]["get_info"]["binded"].clone(),
                info["cnCloud"]["get_info"]["cld_connection"].clone(),
            )
        };
        assert_eq!(connected(&mut plug), (json!(1), json!(1)));
        plug.cloud = CloudLink::Offline;
        assert_eq!(connected(&mut plug), (json!(1), json!(0)));
        plug.bound = false;
        assert_eq!(connected(&mut plug), (json!(0), json!(0)));
    }
}
