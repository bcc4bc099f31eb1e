//! Payloads: command words and JSON in, states and results out.
//!
//! Pure: bytes to values and back. What comes in is what strangers send, so that everything is bounded, a wrong
//! word is answered with what would have been right, and no error text repeats more of a payload than one key.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::bridge::event::{
    Ask, BridgeInfo, CloudStatus, CommandResult, Ended, Energy, Happening, PlugInfo, PlugState,
};
use crate::model::{Address, Order, PlugName, RelayState, Switch, Wishes};

use super::topics::Part;

/// The largest command that is read, in bytes.
pub const MAX_COMMAND: usize = 4096;

/// How much of a key that we do not know an error repeats, in characters.
const KEY_SHOWN: usize = 32;

/// A command or request as it was read: what is wanted, or why that cannot be said, and what to echo.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted<T> {
    /// What is wanted, or what is wrong with it in one line.
    pub result: Result<T, String>,
    /// The sender's own mark, echoed in the answer; there even when the rest could not be used.
    pub transaction: Option<Value>,
}

/// Reads what came on one of a plug's command topics.
pub fn command(part: Part<'_>, payload: &[u8]) -> Wanted<Order> {
    match part {
        Part::All => set(payload),
        Part::Led => plain(payload, |text| Ok(wish_led(led(text)?))),
        Part::Reboot => plain(payload, reboot),
        Part::Brightness => plain(payload, |_| Err(NO_BRIGHTNESS.to_owned())),
        Part::Read => read(payload),
        Part::Unknown(name) => {
            let hint = "there are set, set/led, set/reboot and get";
            plain(payload, |_| Err(format!("set/{}: no such command: {hint}", shown(name))))
        }
    }
}

/// What a request to the daemon asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Something for the bridge.
    Ask(Ask),
    /// Read the config again.
    Reload,
}

/// Reads what came on `bridge/request/<name>`.
pub fn request(name: &str, payload: &[u8]) -> Wanted<Request> {
    let RequestFields { plug, transaction } = match request_fields(payload) {
        Ok(fields) => fields,
        Err((fault, transaction)) => return Wanted { result: Err(fault), transaction },
    };
    let result = match (name, plug) {
        ("discover", None) => Ok(Request::Ask(Ask::Discover)),
        ("refresh", plug) => Ok(Request::Ask(Ask::Refresh(plug))),
        ("forget", Some(plug)) => Ok(Request::Ask(Ask::Forget(plug))),
        ("forget", None) => Err("say which plug: its name, or {\"plug\": \"name\"}".to_owned()),
        ("reload", None) => Ok(Request::Reload),
        ("discover" | "reload", Some(_)) => Err(format!("{name} is not about one plug")),
        _ => Err("no such request: there are discover, refresh, forget and reload".to_owned()),
    };
    Wanted { result, transaction }
}

/// The same moment on the clock that never jumps and on the one with a date.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// On the one that never jumps.
    pub instant: Instant,
    /// On the one with a date.
    pub system: SystemTime,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { instant: Instant::now(), system: SystemTime::now() }
    }

    /// The date of another instant, RFC 3339 in UTC, to the second.
    pub fn date(&self, instant: Instant) -> String {
        let past = self.instant.saturating_duration_since(instant);
        let future = instant.saturating_duration_since(self.instant);
        rfc3339(self.system.checked_sub(past).and_then(|time| time.checked_add(future)))
    }
}

/// A date in UTC, to the second. A clock that was never set must not stop the daemon, so that dates which cannot
/// be written are given as the nearest that can.
pub fn rfc3339(time: impl Into<Option<SystemTime>>) -> String {
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
    })
}

/// `<plug>/energy`.
pub fn energy(energy: &Energy) -> Vec<u8> {
    json(&EnergyDocument {
        power: energy.meter.power,
        voltage: energy.meter.voltage,
        current: energy.meter.current,
        energy_total: energy.meter.total,
        energy_today: energy.today,
        energy_month: energy.month,
    })
}

/// `<plug>/info`.
pub fn info(info: &PlugInfo) -> Vec<u8> {
    let plate = &info.plate;
    json(&InfoDocument {
        alias: &plate.alias,
        model: &plate.model,
        hw_version: &plate.hw_version,
        sw_version: &plate.sw_version,
        mac: plate.mac.map(|mac| mac.to_string()),
        device_id: plate.device_id.as_ref().map(|id| id.as_str()),
        host: info.address.as_ref().map(Address::host),
        rssi: info.rssi,
        cloud_connection: info.cloud_connected,
    })
}

/// `bridge/info`.
pub fn bridge_info(info: &BridgeInfo, instance: &str, started: SystemTime) -> Vec<u8> {
    let (status, reason) = match &info.cloud {
        CloudStatus::Off => ("off", None),
        CloudStatus::Ok => ("ok", None),
        CloudStatus::Down(reason) => ("down", Some(&**reason)),
        CloudStatus::Stopped(reason) => ("stopped", Some(&**reason)),
    };
    json(&BridgeDocument {
        version: env!("CARGO_PKG_VERSION"),
        instance,
        started: rfc3339(started),
        plugs: info.plugs,
        online: info.online,
        cloud: CloudDocument { status, reason },
    })
}

/// `bridge/event`.
pub fn happening(happening: &Happening, clock: Clock) -> Vec<u8> {
    json(&EventDocument {
        event: happening.what.word(),
        plug: happening.plug.as_ref().map(PlugName::as_str),
        detail: &happening.detail,
        at: rfc3339(clock.system),
    })
}

/// `<plug>/result` for a command that the bridge carried out, or tried to.
pub fn result(result: &CommandResult, transaction: Option<&Value>) -> Vec<u8> {
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

/// `<plug>/result` for a command that went no further than here.
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

/// Serialises what cannot fail to be: structs of text and numbers.
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
}

// All keys are always there, so that a template that reads one never fails.
#[derive(Serialize)]
struct InfoDocument<'a> {
    alias: &'a str,
    model: &'a str,
    hw_version: &'a str,
    sw_version: &'a str,
    mac: Option<String>,
    device_id: Option<&'a str>,
    host: Option<String>,
    rssi: Option<i32>,
    cloud_connection: Option<bool>,
}

#[derive(Serialize)]
struct EnergyDocument {
    power: Option<f64>,
    voltage: Option<f64>,
    current: Option<f64>,
    energy_total: Option<f64>,
    energy_today: Option<f64>,
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

const NO_BRIGHTNESS: &str = "brightness: this plug cannot be dimmed";
const STATE_WORDS: &str = "ON, OFF or TOGGLE";
const LED_WORDS: &str = "ON or OFF";

/// `set`: a word, or JSON with several wishes at once.
fn set(payload: &[u8]) -> Wanted<Order> {
    if !is_object(payload) {
        return plain(payload, |text| Ok(wish_relay(switch(text)?)));
    }
    let Fields { entries, transaction, fault } = fields(payload);
    let result = match fault.or_else(|| too_large(payload)) {
        Some(fault) => Err(fault),
        None => wishes(&entries).map(Order::Set),
    };
    Wanted { result, transaction }
}

/// `get`: anything goes; only the mark is of interest.
fn read(payload: &[u8]) -> Wanted<Order> {
    let transaction = if is_object(payload) { fields(payload).transaction } else { None };
    Wanted { result: too_large(payload).map_or(Ok(Order::Read), Err), transaction }
}

/// A topic whose payload is one word.
fn plain(payload: &[u8], meaning: impl FnOnce(&str) -> Result<Order, String>) -> Wanted<Order> {
    // JSON is not for these topics, but its sender may still be told which of its commands failed.
    let transaction = if is_object(payload) { fields(payload).transaction } else { None };
    Wanted { result: word(payload).and_then(meaning), transaction }
}

fn word(payload: &[u8]) -> Result<&str, String> {
    if let Some(fault) = too_large(payload) {
        return Err(fault);
    }
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?.trim();
    if text.is_empty() { Err("the payload is empty".to_owned()) } else { Ok(text) }
}

fn too_large(payload: &[u8]) -> Option<String> {
    let size = payload.len();
    (size > MAX_COMMAND).then(|| format!("the payload has {size} bytes: at most {MAX_COMMAND} are read"))
}

fn is_object(payload: &[u8]) -> bool {
    payload.trim_ascii_start().first() == Some(&b'{')
}

fn wishes(entries: &[(String, Value)]) -> Result<Wishes, String> {
    let mut wishes = Wishes::default();
    for (key, value) in entries {
        match key.as_str() {
            "state" => {
                wishes.relay = Some(value_word(value).and_then(|word| switch(&word)).map_err(named(key))?)
            }
            "led" => wishes.led = Some(value_word(value).and_then(|word| led(&word)).map_err(named(key))?),
            "brightness" => return Err(NO_BRIGHTNESS.to_owned()),
            "for" => return Err("for: count-downs are not supported".to_owned()),
            "alias" => return Err("alias: renaming a plug is not supported".to_owned()),
            _ => return Err(format!("{}: no such key: there are state, led and transaction", shown(key))),
        }
    }
    if wishes == Wishes::default() {
        return Err("nothing to do: give state or led".to_owned());
    }
    Ok(wishes)
}

fn named(key: &str) -> impl Fn(String) -> String {
    move |fault| format!("{key}: {fault}")
}

/// Words, `true`, `false`, `1` and `0` mean the same with and without quotation marks.
fn value_word(value: &Value) -> Result<String, String> {
    match value {
        Value::String(word) => Ok(word.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => Err("neither a word nor true or false".to_owned()),
    }
}

fn switch(word: &str) -> Result<Switch, String> {
    if word.eq_ignore_ascii_case("toggle") {
        return Ok(Switch::Toggle);
    }
    on_off(word).map(Switch::To).ok_or_else(|| format!("not a word for a plug: use {STATE_WORDS}"))
}

fn led(word: &str) -> Result<RelayState, String> {
    on_off(word).ok_or_else(|| format!("not a word for the LED: use {LED_WORDS}"))
}

fn on_off(word: &str) -> Option<RelayState> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Some(RelayState::On),
        "off" | "false" | "0" => Some(RelayState::Off),
        _ => None,
    }
}

fn reboot(word: &str) -> Result<Order, String> {
    if word.eq_ignore_ascii_case("press") {
        Ok(Order::Reboot)
    } else {
        Err("send PRESS to reboot".to_owned())
    }
}

fn wish_relay(switch: Switch) -> Order {
    Order::Set(Wishes { relay: Some(switch), ..Wishes::default() })
}

fn wish_led(state: RelayState) -> Order {
    Order::Set(Wishes { led: Some(state), ..Wishes::default() })
}

/// A key for an error text: cut, and with nothing in it that could forge a log line.
fn shown(key: &str) -> String {
    key.chars().take(KEY_SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect()
}

struct RequestFields {
    plug: Option<PlugName>,
    transaction: Option<Value>,
}

fn request_fields(payload: &[u8]) -> Result<RequestFields, (String, Option<Value>)> {
    if !is_object(payload) {
        return match word(payload) {
            Ok(name) => plug_name(name)
                .map(|plug| RequestFields { plug: Some(plug), transaction: None })
                .map_err(|fault| (fault, None)),
            Err(_) if payload.trim_ascii().is_empty() && payload.len() <= MAX_COMMAND => {
                Ok(RequestFields { plug: None, transaction: None })
            }
            Err(fault) => Err((fault, None)),
        };
    }
    let Fields { entries, transaction, fault } = fields(payload);
    if let Some(fault) = fault.or_else(|| too_large(payload)) {
        return Err((fault, transaction));
    }
    match request_plug(&entries) {
        Ok(plug) => Ok(RequestFields { plug, transaction }),
        Err(fault) => Err((fault, transaction)),
    }
}

fn request_plug(entries: &[(String, Value)]) -> Result<Option<PlugName>, String> {
    let mut plug = None;
    for (key, value) in entries {
        match (key.as_str(), value) {
            ("plug", Value::Null) => {}
            ("plug", Value::String(name)) => plug = Some(plug_name(name)?),
            ("plug", _) => return Err("plug: not a name".to_owned()),
            _ => return Err(format!("{}: no such key: there are plug and transaction", shown(key))),
        }
    }
    Ok(plug)
}

fn plug_name(name: &str) -> Result<PlugName, String> {
    PlugName::new(name).map_err(|why| format!("plug: the name {why}"))
}

/// The entries of a JSON object, as far as they could be read.
#[derive(Default)]
struct Fields {
    entries: Vec<(String, Value)>,
    transaction: Option<Value>,
    fault: Option<String>,
}

/// Reads an object entry by entry, so that the mark survives a fault that comes after it.
fn fields(payload: &[u8]) -> Fields {
    let mut fields = Fields::default();
    if std::str::from_utf8(payload).is_err() {
        fields.fault = Some("the payload is not UTF-8".to_owned());
        return fields;
    }
    let mut reader = serde_json::Deserializer::from_slice(payload);
    let read = reader.deserialize_map(&mut fields).and_then(|()| reader.end());
    fields.fault = read.err().map(|fault| format!("not a command in JSON: {fault}"));
    fields
}

impl<'de> Visitor<'de> for &mut Fields {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<Value>()?;
            let twice = match key.as_str() {
                "transaction" => self.transaction.is_some(),
                _ => self.entries.iter().any(|(other, _)| *other == key),
            };
            if twice {
                return Err(A::Error::custom(format_args!("{} is there twice", shown(&key))));
            }
            match key.as_str() {
                "transaction" => self.transaction = Some(value),
                _ => self.entries.push((key, value)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::event::{CommandId, What};
    use crate::model::Route;
    use proptest::prelude::*;
    use serde_json::json;

    fn set_text(payload: &str) -> Result<Order, String> {
        command(Part::All, payload.as_bytes()).result
    }

    fn relay(switch: Switch) -> Result<Order, String> {
        Ok(wish_relay(switch))
    }

    #[test]
    fn words_are_read_in_any_case() {
        for word in ["ON", "on", "On", " on\n", "true", "TRUE", "1"] {
            assert_eq!(set_text(word), relay(Switch::To(RelayState::On)), "{word}");
        }
        for word in ["OFF", "off", "false", "0"] {
            assert_eq!(set_text(word), relay(Switch::To(RelayState::Off)), "{word}");
        }
        for word in ["TOGGLE", "toggle"] {
            assert_eq!(set_text(word), relay(Switch::Toggle), "{word}");
        }
    }

    #[test]
    fn json_may_wish_for_several_things_and_carries_a_transaction() {
        let wanted = command(Part::All, br#"{"state": "toggle", "led": false, "transaction": 7}"#);
        let wishes = Wishes { relay: Some(Switch::Toggle), led: Some(RelayState::Off), ..Wishes::default() };
        assert_eq!(wanted, Wanted { result: Ok(Order::Set(wishes)), transaction: Some(json!(7)) });
        assert_eq!(set_text(r#"{"state": true}"#), relay(Switch::To(RelayState::On)));
        assert_eq!(set_text(r#"{"state": 0}"#), relay(Switch::To(RelayState::Off)));
    }

    #[test]
    fn each_command_topic_has_its_own_words() {
        let read = |part, text: &str| command(part, text.as_bytes()).result;
        assert_eq!(read(Part::Led, "on"), Ok(wish_led(RelayState::On)));
        assert_eq!(read(Part::Reboot, "press"), Ok(Order::Reboot));
        assert_eq!(read(Part::Read, ""), Ok(Order::Read));
        assert_eq!(read(Part::Read, "whatever"), Ok(Order::Read));
        assert_eq!(read(Part::Led, "toggle").unwrap_err(), "not a word for the LED: use ON or OFF");
        assert_eq!(read(Part::Reboot, "now").unwrap_err(), "send PRESS to reboot");
        assert_eq!(read(Part::Brightness, "50").unwrap_err(), "brightness: this plug cannot be dimmed");
        assert!(read(Part::Unknown("colour"), "red").unwrap_err().starts_with("set/colour: no such command"));
    }

    #[test]
    fn what_cannot_be_done_names_the_key() {
        let refused = |text: &str| set_text(text).unwrap_err();
        assert_eq!(refused(r#"{"state":"ON","brightness":5}"#), "brightness: this plug cannot be dimmed");
        assert_eq!(refused(r#"{"state":"ON","for":"30m"}"#), "for: count-downs are not supported");
        assert_eq!(refused(r#"{"alias":"x"}"#), "alias: renaming a plug is not supported");
        assert_eq!(
            refused(r#"{"colour":"red"}"#),
            "colour: no such key: there are state, led and transaction"
        );
        assert_eq!(refused(r#"{"state":"up"}"#), "state: not a word for a plug: use ON, OFF or TOGGLE");
        assert_eq!(refused(r#"{"led":[1]}"#), "led: neither a word nor true or false");
        assert_eq!(refused(r#"{"transaction":1}"#), "nothing to do: give state or led");
        assert!(refused(r#"{"state":"ON","state":"OFF"}"#).contains("state is there twice"));
        assert_eq!(refused("up"), "not a word for a plug: use ON, OFF or TOGGLE");
        assert_eq!(refused(""), "the payload is empty");
        assert_eq!(command(Part::All, b"\xff\xfe").result.unwrap_err(), "the payload is not UTF-8");
        assert_eq!(command(Part::All, b"{\xff}").result.unwrap_err(), "the payload is not UTF-8");
        assert_eq!(refused(&"x".repeat(4097)), "the payload has 4097 bytes: at most 4096 are read");
    }

    #[test]
    fn a_transaction_is_echoed_even_when_the_rest_is_broken() {
        let marks = [
            r#"{"transaction":"t1","state":ON}"#,
            r#"{"transaction":"t1","state":"#,
            r#"{"transaction":"t1"} trailing"#,
            r#"{"transaction":"t1","state":"ON","state":"OFF"}"#,
            r#"{"state":"up","transaction":"t1"}"#,
            &format!(r#"{{"transaction":"t1","state":"{}"}}"#, "x".repeat(5000)),
        ];
        for payload in marks {
            for part in [Part::All, Part::Led, Part::Unknown("x")] {
                let wanted = command(part, payload.as_bytes());
                assert!(wanted.result.is_err(), "{payload}");
                assert_eq!(wanted.transaction, Some(json!("t1")), "{payload}");
            }
        }
    }

    #[test]
    fn a_request_is_empty_a_name_or_json() {
        let read = |name, text: &str| request(name, text.as_bytes()).result;
        let kettle = PlugName::new("kettle").unwrap();
        assert_eq!(read("discover", ""), Ok(Request::Ask(Ask::Discover)));
        assert_eq!(read("refresh", ""), Ok(Request::Ask(Ask::Refresh(None))));
        assert_eq!(read("refresh", "kettle"), Ok(Request::Ask(Ask::Refresh(Some(kettle.clone())))));
        assert_eq!(read("forget", r#"{"plug":"kettle"}"#), Ok(Request::Ask(Ask::Forget(kettle))));
        assert_eq!(read("reload", "{}"), Ok(Request::Reload));
        for (name, text, hint) in [
            ("forget", "", "say which plug"),
            ("forget", "Kettle", "plug: the name may hold"),
            ("forget", r#"{"plug":5}"#, "plug: not a name"),
            ("reload", "kettle", "not about one plug"),
            ("refresh", r#"{"plugs":"kettle"}"#, "plugs: no such key"),
            ("explode", "", "no such request"),
        ] {
            assert!(read(name, text).unwrap_err().contains(hint), "{name} {text}");
        }
        assert_eq!(request("forget", br#"{"transaction":"t","plug":}"#).transaction, Some(json!("t")));
        assert!(request("refresh", &[b' '; 5000]).result.is_err());
    }

    fn text(payload: Vec<u8>) -> String {
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn dates_are_taken_from_one_pair_of_clocks() {
        let clock =
            Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH + Duration::from_secs(90_000) };
        assert_eq!(clock.date(clock.instant), "1970-01-02T01:00:00Z");
        assert_eq!(clock.date(clock.instant + Duration::from_secs(60)), "1970-01-02T01:01:00Z");
        let earlier = clock.instant.checked_sub(Duration::from_secs(3600)).unwrap();
        assert_eq!(clock.date(earlier), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn a_clock_that_was_never_set_does_no_harm() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), "1970-01-01T00:00:00Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(rfc3339(far), "9999-12-31T23:59:59Z");
        let clock =
            Clock { instant: Instant::now() + Duration::from_secs(9), system: SystemTime::UNIX_EPOCH };
        assert_eq!(clock.date(clock.instant - Duration::from_secs(9)), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_state_says_what_was_read_and_leaves_out_a_light_that_is_not_there() {
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
    fn results_and_responses_echo_the_transaction() {
        let mark = json!({"a": 1});
        let mut ended = CommandResult {
            id: CommandId(1),
            plug: PlugName::new("kettle").unwrap(),
            ended: Ended::Ok,
            state: Some(RelayState::On),
            route: Some(Route::Local),
            took: Duration::from_millis(42),
        };
        assert_eq!(
            text(result(&ended, Some(&mark))),
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
    fn the_bridge_tells_of_itself_and_of_what_happened() {
        let info = BridgeInfo { plugs: 3, online: 2, cloud: CloudStatus::Stopped("wrong password".into()) };
        let shown = text(bridge_info(&info, "abc", SystemTime::UNIX_EPOCH));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            shown,
            format!(
                r#"{{"version":"{version}","instance":"abc","started":"1970-01-01T00:00:00Z","plugs":3,"online":2,"cloud":{{"status":"stopped","reason":"wrong password"}}}}"#
            )
        );
        let clock = Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        let event = Happening {
            what: What::RouteChanged,
            plug: PlugName::new("kettle").ok(),
            detail: "to cloud".to_owned(),
        };
        assert_eq!(
            text(happening(&event, clock)),
            r#"{"event":"route_changed","plug":"kettle","detail":"to cloud","at":"1970-01-01T00:00:00Z"}"#
        );
    }

    proptest! {
        #[test]
        fn no_payload_makes_the_reader_stumble(payload in proptest::collection::vec(any::<u8>(), 0..200), tail in any::<bool>()) {
            let mut payload = payload;
            if tail {
                payload.insert(0, b'{');
            }
            for part in [Part::All, Part::Led, Part::Brightness, Part::Reboot, Part::Read, Part::Unknown("x")] {
                command(part, &payload);
            }
            request("forget", &payload);
        }
    }
}
