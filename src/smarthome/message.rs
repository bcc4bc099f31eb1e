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
use serde_json::{Value, json};

use crate::model::{DeviceId, Mac, RelayState};

/// One thing asked of a plug. `None` for an outlet means the device as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who are you, and how are you?
    SysInfo,
    /// Switch the relay of a device that has one.
    SetRelay(RelayState),
    /// Switch several outlets of a strip at once.
    SetOutlets(Outlets, RelayState),
    /// Switch the little light. The wire says it the other way round: `off` 1 is dark.
    SetLed(RelayState),
    /// Dim to 1..=100 %. Does not switch on.
    SetBrightness(u8),
    /// Dim over so many milliseconds to 0..=100 %; 0 ends dark and off, anything else switches on.
    Fade(u8, u32),
    /// Call it so.
    SetAlias(Option<Outlet>, Arc<str>),
    /// Restart the firmware in a second. With a delay of 0 it would never answer.
    Reboot,
    /// Is the plug bound to an account, and connected to TP-Link's cloud?
    CloudInfo,
    /// What does the meter show?
    Meter(Option<Outlet>),
    /// What was used on each day of this month (year, month)?
    MeterDays(Option<Outlet>, u16, u8),
    /// What was used in each month of this year?
    MeterMonths(Option<Outlet>, u16),
    /// What time is it with you?
    Clock,
    /// Is a count-down running?
    CountDown(Option<Outlet>),
    /// Forget every count-down; only one has room.
    StopCountDown(Option<Outlet>),
    /// In so many seconds, bring the relay into this state by yourself.
    StartCountDown(Option<Outlet>, u32, RelayState),
    /// What is on your schedule?
    Schedule(Option<Outlet>),
}

/// An outlet of a strip, counted from 0.
pub type Outlet = u8;

/// Some outlets of one strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlets(u32);

impl Outlets {
    /// Just this one. Strips have six at most; beyond 31 there is none.
    pub fn one(outlet: Outlet) -> Self {
        Self(1_u32.checked_shl(outlet.into()).unwrap_or(0))
    }

    /// Both these and those.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether this one is among them.
    pub fn has(self, outlet: Outlet) -> bool {
        self.0 & Self::one(outlet).0 != 0
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Outlet> {
        (0..32).filter(move |&outlet| self.has(outlet))
    }
}

/// How a strip's outlets are called on a wire. Firmwares differ in the form of the ids, and one firmware over its
/// transports; the last two characters are always the outlet's own.
#[derive(Debug, Clone, Copy)]
pub enum OutletIds<'a> {
    /// As the strip itself gave them over this wire.
    AsGiven(&'a [OutletPlate]),
    /// The strip's device id and two digits, as the cloud wants them.
    Long(&'a DeviceId),
    /// The device has none.
    None,
}

/// What a plug answered, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The answer to [`Request::SysInfo`].
    SysInfo(Reading),
    /// The answer to [`Request::CloudInfo`].
    CloudInfo(CloudInfo),
    /// The answer to [`Request::Meter`].
    Meter(Meter),
    /// The answer to [`Request::MeterDays`] and [`Request::MeterMonths`]: number of the day or month, and kWh.
    Used(Vec<(u8, f64)>),
    /// The answer to [`Request::Clock`].
    Clock(Date),
    /// The answer to [`Request::CountDown`]: seconds left and the state that it ends in, if one is running.
    CountDown(Option<(u32, RelayState)>),
    /// The answer to [`Request::Schedule`].
    Schedule(Arc<[Rule]>),
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
    /// How bright a dimmer is set, 0..=100 %, whether it is on or not.
    pub brightness: Option<u8>,
    /// The outlets of a strip, in the order of [`Nameplate::outlets`].
    pub outlets: Box<[OutletState]>,
}

/// One outlet's relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutletState {
    /// Whether it is on.
    pub relay: RelayState,
    /// Seconds since it went on; only while it is on.
    pub on_time: Option<u64>,
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
    /// Whether it tells a brightness.
    pub dims: bool,
    /// The outlets of a strip.
    pub outlets: Box<[OutletPlate]>,
}

/// Who an outlet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletPlate {
    /// Its id in the form that the strip gave over this wire: two digits, or the strip's device id and two digits.
    pub id: Box<str>,
    /// The name that its owner gave it; may be empty.
    pub alias: Box<str>,
}

/// What a device of this family is, decided by what it says and never by its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plug with one relay.
    Plug,
    /// A wall switch with one relay.
    Switch,
    /// One relay and a brightness.
    Dimmer,
    /// Several outlets.
    Strip,
}

impl Nameplate {
    /// Whether the plug has an energy meter. Never ask `emeter` of one that does not say so.
    pub fn has_meter(&self) -> bool {
        self.feature.split(':').any(|feature| feature == "ENE")
    }

    /// What it is.
    pub fn what(&self) -> Kind {
        if !self.outlets.is_empty() {
            Kind::Strip
        } else if self.dims {
            Kind::Dimmer
        } else if self.dev_name.to_ascii_lowercase().contains("light") {
            Kind::Switch
        } else {
            Kind::Plug
        }
    }
}

/// What a meter shows, in the units that MQTT tells. Absent what the firmware does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Meter {
    /// W, as the plug measures it: real power, not voltage times current.
    pub power: Option<f64>,
    /// V
    pub voltage: Option<f64>,
    /// A
    pub current: Option<f64>,
    /// kWh since the meter was new or lost its power.
    pub total: Option<f64>,
}

/// The plug's own wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// Month, 1..=12.
    pub month: u8,
    /// Day of the month, 1..=31.
    pub day: u8,
}

/// One entry of a plug's own schedule, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the user called it.
    pub name: Box<str>,
    /// Whether it is used.
    pub enabled: bool,
    /// What it does; `None` where the firmware says neither.
    pub then: Option<RelayState>,
    /// When, in words: `07:30`, `sunrise`, `sunset`.
    pub at: Box<str>,
    /// On which days of the week, Sunday first.
    pub days: [bool; 7],
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
    /// Appends the request as JSON, naming outlets as this wire wants them.
    pub fn write_json(&self, ids: OutletIds<'_>, out: &mut Vec<u8>) {
        if *self == Self::SysInfo {
            // Said far more often than all else together.
            return out.extend_from_slice(br#"{"system":{"get_sysinfo":{}}}"#);
        }
        let (module, method) = self.method();
        let mut object = serde_json::Map::new();
        if let Some(ids) = self.outlets().map(|outlets| ids.list(outlets)) {
            object.insert("context".into(), json!({ "child_ids": ids }));
        }
        object.insert(module.into(), json!({ method: self.argument() }));
        // Writing a value to memory cannot fail.
        let _ = serde_json::to_writer(out, &object);
    }

    /// The module and the method that this request names, under which the answer stands too.
    pub fn method(&self) -> (&'static str, &'static str) {
        match self {
            Self::SysInfo => ("system", "get_sysinfo"),
            Self::SetRelay(_) | Self::SetOutlets(..) => ("system", "set_relay_state"),
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

    /// Whether carrying it out changes the plug.
    pub fn changes_something(&self) -> bool {
        match self {
            Self::SetRelay(_)
            | Self::SetOutlets(..)
            | Self::SetLed(_)
            | Self::SetBrightness(_)
            | Self::Fade(..) => true,
            Self::SetAlias(..) | Self::Reboot | Self::StopCountDown(_) | Self::StartCountDown(..) => true,
            Self::SysInfo
            | Self::CloudInfo
            | Self::Meter(_)
            | Self::MeterDays(..)
            | Self::MeterMonths(..) => false,
            Self::Clock | Self::CountDown(_) | Self::Schedule(_) => false,
        }
    }

    /// The outlets that it is about, where it is not about the device as a whole.
    fn outlets(&self) -> Option<Outlets> {
        match self {
            Self::SetOutlets(outlets, _) => Some(*outlets),
            Self::SetAlias(outlet, _) | Self::Meter(outlet) | Self::MeterDays(outlet, ..) => {
                outlet.map(Outlets::one)
            }
            Self::MeterMonths(outlet, _) | Self::CountDown(outlet) | Self::StopCountDown(outlet) => {
                outlet.map(Outlets::one)
            }
            Self::StartCountDown(outlet, ..) | Self::Schedule(outlet) => outlet.map(Outlets::one),
            Self::SysInfo | Self::SetRelay(_) | Self::SetLed(_) | Self::SetBrightness(_) | Self::Fade(..) => {
                None
            }
            Self::Reboot | Self::CloudInfo | Self::Clock => None,
        }
    }

    /// What stands under the method. Integers where the firmwares want them, and `{}`, never `null`.
    fn argument(&self) -> Value {
        match self {
            Self::SetRelay(state) | Self::SetOutlets(_, state) => json!({ "state": u8::from(state.is_on()) }),
            Self::SetLed(state) => json!({ "off": u8::from(!state.is_on()) }),
            Self::SetBrightness(percent) => json!({ "brightness": percent }),
            Self::Fade(percent, over) => json!({ "brightness": percent, "duration": over.max(&1) }),
            Self::SetAlias(_, alias) => json!({ "alias": &**alias }),
            Self::Reboot => json!({ "delay": 1 }),
            Self::MeterDays(_, year, month) => json!({ "year": year, "month": month }),
            Self::MeterMonths(_, year) => json!({ "year": year }),
            Self::StartCountDown(_, delay, then) => {
                json!({ "enable": 1, "delay": delay, "act": u8::from(then.is_on()), "name": "hs100d" })
            }
            Self::SysInfo | Self::CloudInfo | Self::Meter(_) | Self::Clock => json!({}),
            Self::CountDown(_) | Self::StopCountDown(_) | Self::Schedule(_) => json!({}),
        }
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
            Self::Meter(_) => self.find_method::<RawMeter>(&text).map(|raw| Reply::Meter(raw.into())),
            Self::MeterDays(..) => {
                self.find_method::<RawDays>(&text).map(|raw| Reply::Used(used(&raw.day_list)))
            }
            Self::MeterMonths(..) => {
                self.find_method::<RawMonths>(&text).map(|raw| Reply::Used(used(&raw.month_list)))
            }
            Self::Clock => self.find_method::<RawDate>(&text)?.date().map(Reply::Clock),
            Self::CountDown(_) => {
                self.find_method::<RawCountDowns>(&text).map(|raw| Reply::CountDown(raw.running()))
            }
            Self::Schedule(_) => {
                self.find_method::<RawRules<'_>>(&text).map(|raw| Reply::Schedule(raw.rules()))
            }
            Self::SetRelay(_)
            | Self::SetOutlets(..)
            | Self::SetLed(_)
            | Self::SetBrightness(_)
            | Self::Fade(..) => self.read_done(&text),
            Self::SetAlias(..) | Self::Reboot | Self::StopCountDown(_) | Self::StartCountDown(..) => {
                self.read_done(&text)
            }
        }
    }

    fn read_done(&self, text: &str) -> Result<Reply, NotAnAnswer> {
        self.find_method(text).map(|IgnoredAny| Reply::Done)
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

impl OutletIds<'_> {
    fn list(self, outlets: Outlets) -> Vec<String> {
        outlets.iter().map(|outlet| self.of(outlet)).collect()
    }

    fn of(self, outlet: Outlet) -> String {
        match self {
            Self::AsGiven(plates) => plates
                .get(usize::from(outlet))
                .map_or_else(|| format!("{outlet:02}"), |plate| plate.id.to_string()),
            Self::Long(device_id) => format!("{}{outlet:02}", device_id.as_str()),
            Self::None => format!("{outlet:02}"),
        }
    }
}

/// Old firmwares tell A, V, W and kWh, newer ones mA, mV, mW and Wh; the keys tell which.
#[derive(Deserialize)]
struct RawMeter {
    current: Option<f64>,
    voltage: Option<f64>,
    power: Option<f64>,
    total: Option<f64>,
    current_ma: Option<f64>,
    voltage_mv: Option<f64>,
    power_mw: Option<f64>,
    total_wh: Option<f64>,
}

impl From<RawMeter> for Meter {
    fn from(raw: RawMeter) -> Self {
        let thousandth = |small: Option<f64>| small.map(|value| value / 1000.0);
        Self {
            power: raw.power.or(thousandth(raw.power_mw)),
            voltage: raw.voltage.or(thousandth(raw.voltage_mv)),
            current: raw.current.or(thousandth(raw.current_ma)),
            total: raw.total.or(thousandth(raw.total_wh)),
        }
    }
}

#[derive(Deserialize)]
struct RawDays {
    #[serde(default)]
    day_list: Vec<RawUse>,
}

#[derive(Deserialize)]
struct RawMonths {
    #[serde(default)]
    month_list: Vec<RawUse>,
}

#[derive(Deserialize)]
struct RawUse {
    day: Option<u8>,
    #[serde(default)]
    month: u8,
    energy: Option<f64>,
    energy_wh: Option<f64>,
}

fn used(list: &[RawUse]) -> Vec<(u8, f64)> {
    let entry = |raw: &RawUse| {
        let kwh = raw.energy.or_else(|| raw.energy_wh.map(|wh| wh / 1000.0))?;
        Some((raw.day.unwrap_or(raw.month), kwh))
    };
    list.iter().filter_map(entry).collect()
}

#[derive(Deserialize)]
struct RawDate {
    #[serde(default)]
    year: Num,
    #[serde(default)]
    month: Num,
    #[serde(default)]
    mday: Num,
}

impl RawDate {
    fn date(&self) -> Result<Date, NotAnAnswer> {
        let (year, month, day) =
            (u16::try_from(self.year.0), u8::try_from(self.month.0), u8::try_from(self.mday.0));
        match (year, month, day) {
            (Ok(year), Ok(month @ 1..=12), Ok(day @ 1..=31)) => Ok(Date { year, month, day }),
            _ => Err(NotAnAnswer::Malformed("a date that does not exist".into())),
        }
    }
}

#[derive(Deserialize)]
struct RawCountDowns {
    #[serde(default)]
    rule_list: Vec<RawCountDown>,
}

#[derive(Deserialize)]
struct RawCountDown {
    #[serde(default)]
    enable: Num,
    #[serde(default)]
    remain: Num,
    #[serde(default)]
    act: Num,
}

impl RawCountDowns {
    fn running(&self) -> Option<(u32, RelayState)> {
        let rule = self.rule_list.iter().find(|rule| rule.enable.0 != 0 && rule.remain.0 > 0)?;
        Some((u32::try_from(rule.remain.0).ok()?, RelayState::from_bool(rule.act.0 != 0)))
    }
}

#[derive(Deserialize)]
struct RawRules<'a> {
    #[serde(borrow, default)]
    rule_list: Vec<RawRule<'a>>,
}

#[derive(Deserialize)]
struct RawRule<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    enable: Num,
    #[serde(default)]
    sact: Option<Num>,
    #[serde(default)]
    stime_opt: Num,
    #[serde(default)]
    smin: Num,
    #[serde(default)]
    wday: Vec<Num>,
}

impl RawRules<'_> {
    fn rules(&self) -> Arc<[Rule]> {
        self.rule_list.iter().map(RawRule::rule).collect()
    }
}

impl RawRule<'_> {
    fn rule(&self) -> Rule {
        let at = match self.stime_opt.0 {
            1 => "sunrise".to_owned(),
            2 => "sunset".to_owned(),
            _ => format!("{:02}:{:02}", self.smin.0.div_euclid(60), self.smin.0.rem_euclid(60)),
        };
        let then = match self.sact.map(|act| act.0) {
            Some(0) => Some(RelayState::Off),
            Some(1) => Some(RelayState::On),
            _ => None,
        };
        let days = std::array::from_fn(|day| self.wday.get(day).is_some_and(|on| on.0 != 0));
        Rule { name: (*self.name).into(), enabled: self.enable.0 != 0, then, at: at.into(), days }
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
    brightness: Option<Num>,
    #[serde(borrow, default)]
    children: Vec<RawOutlet<'a>>,
}

#[derive(Deserialize)]
struct RawOutlet<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    alias: Cow<'a, str>,
    #[serde(default)]
    state: Num,
    on_time: Option<Num>,
}

impl RawOutlet<'_> {
    fn into_plate(self) -> OutletPlate {
        OutletPlate { id: self.id.into(), alias: self.alias.into() }
    }

    fn state(&self) -> OutletState {
        let relay = RelayState::from_bool(self.state.0 != 0);
        OutletState { relay, on_time: on_time(relay, self.on_time) }
    }
}

/// Some strips count on for outlets that are off.
fn on_time(relay: RelayState, seconds: Option<Num>) -> Option<u64> {
    seconds.filter(|_| relay.is_on()).and_then(|seconds| u64::try_from(seconds.0).ok())
}

impl RawSysInfo<'_> {
    fn into_reading(self, known: Option<&Arc<Nameplate>>) -> Result<Reading, NotAnAnswer> {
        let relay = self.relay_state.map(|state| RelayState::from_bool(state.0 != 0));
        if self.device_id.is_empty() && relay.is_none() && self.children.is_empty() {
            return Err(NotAnAnswer::Malformed("neither deviceId nor relay_state in it".into()));
        }
        Ok(Reading {
            relay,
            led: self.led_off.map(|off| RelayState::from_bool(off.0 == 0)),
            on_time: relay.and_then(|relay| on_time(relay, self.on_time)),
            brightness: self.brightness.and_then(|percent| u8::try_from(percent.0.clamp(0, 100)).ok()),
            outlets: self.children.iter().map(RawOutlet::state).collect(),
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
            && plate.dims == self.brightness.is_some()
            && plate.outlets.len() == self.children.len()
            && plate
                .outlets
                .iter()
                .zip(&self.children)
                .all(|(plate, raw)| *plate.id == *raw.id && *plate.alias == *raw.alias)
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
            dims: self.brightness.is_some(),
            outlets: self.children.into_iter().map(RawOutlet::into_plate).collect(),
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

    fn read(request: &Request, json: &str) -> Result<Reply, NotAnAnswer> {
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
            request.write_json(OutletIds::None, &mut json);
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
            read(&relay, r#"{"err_code":-1,"err_msg":"module not support"}"#),
            device(-1, "module not support")
        );
        assert_eq!(read(&relay, r#"{"system":{"err_code":-2}}"#), device(-2, "member not supported"));
        assert_eq!(
            read(&relay, r#"{"system":{"set_relay_state":{"err_code":-3}}}"#),
            device(-3, "invalid argument")
        );
        assert_eq!(read(&relay, r#"{"system":{"set_relay_state":{"err_code":0}}}"#), Ok(Reply::Done));
    }

    #[test]
    fn an_error_of_another_module_spoils_nothing() {
        let json = r#"{"emeter":{"err_code":-1},"system":{"set_relay_state":{"err_code":0}},"err_code":0}"#;
        assert_eq!(read(&Request::SetRelay(RelayState::On), json), Ok(Reply::Done));
    }

    #[test]
    fn what_is_no_answer_is_said_without_quoting_it() {
        let malformed = |json| match read(&Request::SysInfo, json) {
            Err(NotAnAnswer::Malformed(why)) => why.to_string(),
            other => panic!("{json}: {other:?}"),
        };
        assert!(malformed(&HS100[..200]).starts_with("JSON cut off"));
        assert!(malformed("<html>secret</html>").starts_with("not JSON"));
        assert!(malformed(r#"{"system":"secret"}"#).starts_with("JSON of another shape"));
        assert!(malformed(r#"{"system":{"get_sysinfo":{"err_code":0}}}"#).contains("neither deviceId"));
        assert!(!malformed("<html>secret</html>").contains("secret"));
        assert_eq!(
            read(&Request::SysInfo, r#"{"system":{}}"#),
            Err(NotAnAnswer::Missing { module: "system", method: "get_sysinfo" })
        );
        assert!(matches!(read(&Request::SysInfo, "{}"), Err(NotAnAnswer::Missing { .. })));
        assert!(matches!(read(&Request::SysInfo, ""), Err(NotAnAnswer::Malformed(_))));
    }

    #[test]
    fn the_cloud_info_keeps_only_what_is_needed() {
        let json = r#"{"cnCloud":{"get_info":{"username":"me@example.com","binded":1,"cld_connection":0,"err_code":0}}}"#;
        let info = read(&Request::CloudInfo, json).unwrap();
        assert_eq!(info, Reply::CloudInfo(CloudInfo { bound: true, connected: false }));
    }
}
