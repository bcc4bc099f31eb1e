//! What is said to a plug and what it says back, as JSON: `{"<module>":{"<method>":{…}}}` both ways.
//!
//! Owns the words; knows neither the wire they travel on nor what a reply means for anyone. Facts are from
//! recordings of real devices: every method's argument is `{}`, never `null` (some firmwares answer `null` with
//! nothing), and each method is asked alone, because some firmwares crash on requests for modules that they lack.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::model::{DeviceId, Mac, RelayState};

/// One thing asked of a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Who are you, and how are you?
    SysInfo,
    /// Switch the relay.
    SetRelay(RelayState),
    /// Switch the little light. The wire says it the other way round: `off` 1 is dark.
    SetLed(RelayState),
    /// Restart the firmware in a second. With a delay of 0 it would never answer.
    Reboot,
    /// Is the plug bound to an account, and connected to TP-Link's cloud?
    CloudInfo,
}

/// What a plug answered, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The answer to [`Request::SysInfo`].
    SysInfo(Reading),
    /// The answer to [`Request::CloudInfo`].
    CloudInfo(CloudInfo),
    /// It was done; nothing more is said.
    Done,
}

/// What `get_sysinfo` tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What seldom changes. Shared with the reading before, as long as it is the same.
    pub plate: Arc<Nameplate>,
    /// The relay; absent on strips, whose outlets have one each.
    pub relay: Option<RelayState>,
    /// The little light, where the plug has one.
    pub led: Option<RelayState>,
    /// Seconds since the relay went on; only while it is on.
    pub on_time: Option<u64>,
    /// Wi-Fi signal in dBm, negative.
    pub rssi: Option<i32>,
}

/// Who a plug is: the part of `get_sysinfo` that seldom changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameplate {
    /// Its identity; absent only in replies that are not a plug's.
    pub device_id: Option<DeviceId>,
    /// Its MAC address, which firmwares name in different ways.
    pub mac: Option<Mac>,
    /// The name that its owner gave it, any text; may be empty.
    pub alias: Box<str>,
    /// Model and region, such as `HS100(EU)`.
    pub model: Box<str>,
    /// Hardware version, such as `4.1`.
    pub hw_version: Box<str>,
    /// Firmware version, whole.
    pub sw_version: Box<str>,
    /// `IOT.SMARTPLUGSWITCH` for all of this family.
    pub kind: Box<str>,
    /// Colon-separated abilities: `TIM`, with `ENE` where the plug has a meter.
    pub feature: Box<str>,
    /// The product name; tells switches and dimmers from plugs.
    pub dev_name: Box<str>,
}

impl Nameplate {
    /// Whether the plug has an energy meter. Never ask `emeter` of one that does not say so.
    pub fn has_meter(&self) -> bool {
        self.feature.split(':').any(|feature| feature == "ENE")
    }
}

/// What `cnCloud.get_info` tells. The account's name that it also holds is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudInfo {
    /// The plug belongs to an account.
    pub bound: bool,
    /// It is connected to the cloud now.
    pub connected: bool,
}

/// Why a text is not the answer that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// Not JSON, cut off, or of another shape. The text names the fault, never the contents.
    #[error("{0}")]
    Malformed(Box<str>),
    /// JSON that does not hold the method that was asked.
    #[error("the answer has no {module}.{method}")]
    Missing {
        /// The module that was asked.
        module: &'static str,
        /// The method that was asked.
        method: &'static str,
    },
    /// The plug says that it could not do it.
    #[error("{code} ({message})")]
    Device {
        /// `err_code`
        code: i64,
        /// `err_msg`, or what the code is known to mean.
        message: Box<str>,
    },
}

impl Request {
    /// Appends the request as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let json: &[u8] = match self {
            Self::SysInfo => br#"{"system":{"get_sysinfo":{}}}"#,
            Self::SetRelay(RelayState::On) => br#"{"system":{"set_relay_state":{"state":1}}}"#,
            Self::SetRelay(RelayState::Off) => br#"{"system":{"set_relay_state":{"state":0}}}"#,
            Self::SetLed(RelayState::On) => br#"{"system":{"set_led_off":{"off":0}}}"#,
            Self::SetLed(RelayState::Off) => br#"{"system":{"set_led_off":{"off":1}}}"#,
            Self::Reboot => br#"{"system":{"reboot":{"delay":1}}}"#,
            Self::CloudInfo => br#"{"cnCloud":{"get_info":{}}}"#,
        };
        out.extend_from_slice(json);
    }

    /// The module and the method that this request names, under which the answer stands too.
    pub fn method(&self) -> (&'static str, &'static str) {
        match self {
            Self::SysInfo => ("system", "get_sysinfo"),
            Self::SetRelay(_) => ("system", "set_relay_state"),
            Self::SetLed(_) => ("system", "set_led_off"),
            Self::Reboot => ("system", "reboot"),
            Self::CloudInfo => ("cnCloud", "get_info"),
        }
    }

    /// Whether carrying it out changes the plug.
    pub fn changes_something(&self) -> bool {
        !matches!(self, Self::SysInfo | Self::CloudInfo)
    }

    /// Reads the answer to this request. `known` is the plate of the reading before, reused when it still fits,
    /// so that a plug's thousandth reading allocates nothing.
    pub fn read_reply(&self, json: &[u8], known: Option<&Arc<Nameplate>>) -> Result<Reply, NotAnAnswer> {
        let text = String::from_utf8_lossy(json);
        match self {
            Self::SysInfo => {
                let raw: RawSysInfo<'_> = self.find_method(&text)?;
                raw.into_reading(known).map(Reply::SysInfo)
            }
            Self::CloudInfo => {
                let raw: RawCloudInfo = self.find_method(&text)?;
                Ok(Reply::CloudInfo(CloudInfo {
                    bound: raw.binded == Num(1),
                    connected: raw.cld_connection == Num(1),
                }))
            }
            Self::SetRelay(_) | Self::SetLed(_) | Self::Reboot => {
                let IgnoredAny = self.find_method(&text)?;
                Ok(Reply::Done)
            }
        }
    }

    fn find_method<'a, T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, NotAnAnswer> {
        let (module, method) = self.method();
        let malformed = |error: &serde_json::Error| NotAnAnswer::Malformed(describe(error).into());
        let mut json = serde_json::Deserializer::from_str(text);
        let found = Within { key: module, inner: Within { key: method, inner: Body } }
            .deserialize(&mut json)
            .map_err(|error| malformed(&error))?;
        // Firmwares report errors at any of three levels: the whole, the module, the method.
        let found = found.flatten_errors()?.map(Found::flatten_errors).transpose()?.flatten();
        let Some(body) = found else {
            return Err(NotAnAnswer::Missing { module, method });
        };
        let status: Status<'_> = serde_json::from_str(body.get()).map_err(|error| malformed(&error))?;
        status.check()?;
        serde_json::from_str(body.get()).map_err(|error| malformed(&error))
    }
}

/// A serde error without the words that it would quote from the reply.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "JSON cut off",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "JSON of another shape",
        serde_json::error::Category::Io => "unreadable",
    };
    format!("{what} at byte {}", error.column())
}

/// `err_code` and `err_msg`, wherever they stand.
#[derive(Deserialize)]
struct Status<'a> {
    #[serde(default)]
    err_code: Num,
    #[serde(borrow, default)]
    err_msg: Option<Cow<'a, str>>,
}

impl Status<'_> {
    fn check(&self) -> Result<(), NotAnAnswer> {
        match self.err_code.0 {
            0 => Ok(()),
            code => Err(NotAnAnswer::Device { code, message: self.message(code).into() }),
        }
    }

    fn message(&self, code: i64) -> &str {
        match (&self.err_msg, code) {
            (Some(message), _) if !message.is_empty() => message,
            (_, -1) => "module not supported",
            (_, -2) => "member not supported",
            (_, -3) => "invalid argument",
            (_, -10) => "table is full",
            (_, -11) => "its clock is not set",
            (_, -14) => "no such entry",
            _ => "no reason given",
        }
    }
}

/// An integer that firmwares write as an integer, a float or a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Num(i64);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNumber;
        impl Visitor<'_> for AnyNumber {
            type Value = Num;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Num, E> {
                Ok(Num(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Num, E> {
                Ok(Num(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Num, E> {
                Ok(Num(value as i64))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Num, E> {
                Ok(Num(value.into()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Num, E> {
                value.trim().parse().map(Num).map_err(|_| E::custom("not a number"))
            }
        }
        deserializer.deserialize_any(AnyNumber)
    }
}

#[derive(Deserialize)]
struct RawCloudInfo {
    #[serde(default)]
    binded: Num,
    #[serde(default)]
    cld_connection: Num,
}

#[derive(Deserialize)]
struct RawSysInfo<'a> {
    #[serde(rename = "deviceId", borrow, default)]
    device_id: Cow<'a, str>,
    #[serde(borrow, default)]
    mac: Cow<'a, str>,
    #[serde(borrow, default)]
    mic_mac: Cow<'a, str>,
    #[serde(borrow, default)]
    ethernet_mac: Cow<'a, str>,
    #[serde(borrow, default)]
    alias: Cow<'a, str>,
    #[serde(borrow, default)]
    model: Cow<'a, str>,
    #[serde(borrow, default)]
    hw_ver: Cow<'a, str>,
    #[serde(borrow, default)]
    sw_ver: Cow<'a, str>,
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    mic_type: Cow<'a, str>,
    #[serde(borrow, default)]
    feature: Cow<'a, str>,
    #[serde(borrow, default)]
    dev_name: Cow<'a, str>,
    relay_state: Option<Num>,
    led_off: Option<Num>,
    on_time: Option<Num>,
    rssi: Option<Num>,
}

impl RawSysInfo<'_> {
    fn into_reading(self, known: Option<&Arc<Nameplate>>) -> Result<Reading, NotAnAnswer> {
        let relay = self.relay_state.map(|state| RelayState::from_bool(state.0 != 0));
        if self.device_id.is_empty() && relay.is_none() {
            return Err(NotAnAnswer::Malformed("neither deviceId nor relay_state in it".into()));
        }
        Ok(Reading {
            relay,
            led: self.led_off.map(|off| RelayState::from_bool(off.0 == 0)),
            // Some strips count on for outlets that are off.
            on_time: match relay {
                Some(RelayState::On) => self.on_time.and_then(|seconds| u64::try_from(seconds.0).ok()),
                _ => None,
            },
            rssi: self.rssi.and_then(|dbm| i32::try_from(dbm.0).ok()).filter(|&dbm| dbm != 0),
            plate: match known {
                Some(plate) if self.is_of(plate) => Arc::clone(plate),
                _ => Arc::new(self.into_plate()),
            },
        })
    }

    fn mac(&self) -> Option<Mac> {
        [&self.mac, &self.mic_mac, &self.ethernet_mac].into_iter().find_map(|text| Mac::new(text))
    }

    fn kind(&self) -> &str {
        if self.kind.is_empty() { &self.mic_type } else { &self.kind }
    }

    fn is_of(&self, plate: &Nameplate) -> bool {
        plate.device_id.as_ref().map_or("", DeviceId::as_str).eq_ignore_ascii_case(&self.device_id)
            && plate.alias.as_ref() == self.alias
            && plate.mac == self.mac()
            && plate.model.as_ref() == self.model
            && plate.hw_version.as_ref() == self.hw_ver
            && plate.sw_version.as_ref() == self.sw_ver
            && plate.kind.as_ref() == self.kind()
            && plate.feature.as_ref() == self.feature
            && plate.dev_name.as_ref() == self.dev_name
    }

    fn into_plate(self) -> Nameplate {
        Nameplate {
            device_id: DeviceId::new(&self.device_id),
            mac: self.mac(),
            kind: self.kind().into(),
            alias: self.alias.into(),
            model: self.model.into(),
            hw_version: self.hw_ver.into(),
            sw_version: self.sw_ver.into(),
            feature: self.feature.into(),
            dev_name: self.dev_name.into(),
        }
    }
}

/// What was found at one level: the part that was looked for, and the error that may stand beside it.
struct Found<T> {
    part: Option<T>,
    error: Option<NotAnAnswer>,
}

impl<T> Found<T> {
    /// An error beside the part that was asked for belongs to something else.
    fn flatten_errors(self) -> Result<Option<T>, NotAnAnswer> {
        match (self.part, self.error) {
            (Some(part), _) => Ok(Some(part)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// Looks for one key of an object and reads only what stands there, and the level's own error.
struct Within<S> {
    key: &'static str,
    inner: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Within<S> {
    type Value = Found<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Within<S> {
    type Value = Found<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut inner = Some(self.inner);
        let mut part = None;
        let mut status = Status { err_code: Num(0), err_msg: None };
        while let Some(key) = map.next_key_seed(KeyIn { wanted: self.key })? {
            match (key, inner.take()) {
                (Key::Wanted, Some(seed)) => part = Some(map.next_value_seed(seed)?),
                (key, unused) => {
                    inner = unused;
                    match key {
                        Key::ErrCode => status.err_code = map.next_value()?,
                        Key::ErrMsg => status.err_msg = map.next_value()?,
                        Key::Wanted | Key::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
            }
        }
        Ok(Found { part, error: status.check().err() })
    }
}

/// Which of the keys that matter at one level this is.
enum Key {
    Wanted,
    ErrCode,
    ErrMsg,
    Other,
}

/// Tells a key without keeping it.
struct KeyIn {
    wanted: &'static str,
}

impl<'de> DeserializeSeed<'de> for KeyIn {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIn {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            key if key == self.wanted => Key::Wanted,
            "err_code" => Key::ErrCode,
            "err_msg" => Key::ErrMsg,
            _ => Key::Other,
        })
    }
}

/// The method's own body, kept as text and read by who knows its fields.
struct Body;

impl<'de> DeserializeSeed<'de> for Body {
    type Value = &'de serde_json::value::RawValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Deserialize::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: Request, json: &str) -> Result<Reply, NotAnAnswer> {
        request.read_reply(json.as_bytes(), None)
    }

    fn reading(json: &[u8], known: Option<&Arc<Nameplate>>) -> Reading {
        match Request::SysInfo.read_reply(json, known) {
            Ok(Reply::SysInfo(reading)) => reading,
            other => panic!("{other:?}"),
        }
    }

    /// An HS100 as hardware 1.0 answers, in our own words.
    const HS100: &str = r#"{"system":{"get_sysinfo":{"err_code":0,"sw_ver":"1.2.5 Build 171129 Rel.174814",
        "hw_ver":"1.0","type":"IOT.SMARTPLUGSWITCH","model":"HS100(EU)","mac":"50:C7:BF:00:00:07",
        "deviceId":"8006000000000000000000000000000000000007","alias":"K\u00fcche","dev_name":"Wi-Fi Smart Plug",
        "relay_state":1,"on_time":61,"feature":"TIM","led_off":0,"rssi":-43,"latitude":0.5,"unheard_of":[{}]}}}"#;

    #[test]
    fn no_request_says_null() {
        let led = Request::SetLed(RelayState::Off);
        for request in
            [Request::SysInfo, Request::SetRelay(RelayState::On), led, Request::Reboot, Request::CloudInfo]
        {
            let mut json = Vec::new();
            request.write_json(&mut json);
            let json = String::from_utf8(json).unwrap();
            let (module, method) = request.method();
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(value[module][method].is_object(), "{json}");
            assert!(!json.contains("null"), "{json}");
        }
    }

    #[test]
    fn sysinfo_is_read_whole() {
        let reading = reading(HS100.as_bytes(), None);
        assert_eq!(reading.relay, Some(RelayState::On));
        assert_eq!(reading.led, Some(RelayState::On));
        assert_eq!((reading.on_time, reading.rssi), (Some(61), Some(-43)));
        assert_eq!(&*reading.plate.alias, "Küche");
        assert_eq!(&*reading.plate.kind, "IOT.SMARTPLUGSWITCH");
        assert_eq!(reading.plate.mac, Mac::new("50C7BF000007"));
        assert!(!reading.plate.has_meter());
    }

    #[test]
    fn a_plate_that_still_fits_is_shared_and_another_is_not() {
        let first = reading(HS100.as_bytes(), None);
        let again = reading(HS100.as_bytes(), Some(&first.plate));
        assert!(Arc::ptr_eq(&first.plate, &again.plate));
        let renamed = reading(HS100.replace("K\\u00fcche", "Bad").as_bytes(), Some(&first.plate));
        assert!(!Arc::ptr_eq(&first.plate, &renamed.plate));
        assert_eq!(&*renamed.plate.alias, "Bad");
    }

    #[test]
    fn newer_firmwares_name_the_kind_and_the_mac_otherwise() {
        let json = HS100.replace("\"type\"", "\"mic_type\"").replace("\"mac\"", "\"mic_mac\"");
        let reading = reading(json.as_bytes(), None);
        assert_eq!(&*reading.plate.kind, "IOT.SMARTPLUGSWITCH");
        assert_eq!(reading.plate.mac, Mac::new("50C7BF000007"));
    }

    #[test]
    fn numbers_may_be_integers_floats_or_strings() {
        let json = HS100.replace("\"relay_state\":1", "\"relay_state\":1.0").replace("-43", "\"-43\"");
        let reading = reading(json.as_bytes(), None);
        assert_eq!((reading.relay, reading.rssi), (Some(RelayState::On), Some(-43)));
    }

    #[test]
    fn on_time_is_told_only_while_the_relay_is_on() {
        let json = HS100.replace("\"relay_state\":1", "\"relay_state\":0");
        assert_eq!(reading(json.as_bytes(), None).on_time, None);
    }

    #[test]
    fn an_alias_that_is_not_utf8_is_shown_lossily() {
        let mut json = HS100.replace("K\\u00fcche", "K?che").into_bytes();
        let place = json.iter().position(|&b| b == b'?').unwrap();
        json[place] = 0xfc;
        assert_eq!(&*reading(&json, None).plate.alias, "K\u{fffd}che");
    }

    #[test]
    fn an_error_is_found_at_each_of_its_three_levels() {
        let device = |code, message: &str| Err(NotAnAnswer::Device { code, message: message.into() });
        let relay = Request::SetRelay(RelayState::On);
        assert_eq!(
            read(relay, r#"{"err_code":-1,"err_msg":"module not support"}"#),
            device(-1, "module not support")
        );
        assert_eq!(read(relay, r#"{"system":{"err_code":-2}}"#), device(-2, "member not supported"));
        assert_eq!(
            read(relay, r#"{"system":{"set_relay_state":{"err_code":-3}}}"#),
            device(-3, "invalid argument")
        );
        assert_eq!(read(relay, r#"{"system":{"set_relay_state":{"err_code":0}}}"#), Ok(Reply::Done));
    }

    #[test]
    fn an_error_of_another_module_spoils_nothing() {
        let json = r#"{"emeter":{"err_code":-1},"system":{"set_relay_state":{"err_code":0}},"err_code":0}"#;
        assert_eq!(read(Request::SetRelay(RelayState::On), json), Ok(Reply::Done));
    }

    #[test]
    fn what_is_no_answer_is_said_without_quoting_it() {
        let malformed = |json| match read(Request::SysInfo, json) {
            Err(NotAnAnswer::Malformed(why)) => why.to_string(),
            other => panic!("{json}: {other:?}"),
        };
        assert!(malformed(&HS100[..200]).starts_with("JSON cut off"));
        assert!(malformed("<html>secret</html>").starts_with("not JSON"));
        assert!(malformed(r#"{"system":"secret"}"#).starts_with("JSON of another shape"));
        assert!(malformed(r#"{"system":{"get_sysinfo":{"err_code":0}}}"#).contains("neither deviceId"));
        assert!(!malformed("<html>secret</html>").contains("secret"));
        assert_eq!(
            read(Request::SysInfo, r#"{"system":{}}"#),
            Err(NotAnAnswer::Missing { module: "system", method: "get_sysinfo" })
        );
        assert!(matches!(read(Request::SysInfo, "{}"), Err(NotAnAnswer::Missing { .. })));
        assert!(matches!(read(Request::SysInfo, ""), Err(NotAnAnswer::Malformed(_))));
    }

    #[test]
    fn the_cloud_info_keeps_only_what_is_needed() {
        let json = r#"{"cnCloud":{"get_info":{"username":"me@example.com","binded":1,"cld_connection":0,"err_code":0}}}"#;
        let info = read(Request::CloudInfo, json).unwrap();
        assert_eq!(info, Reply::CloudInfo(CloudInfo { bound: true, connected: false }));
    }
}
