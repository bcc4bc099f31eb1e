//! Parses the payloads of commands and requests: words and JSON.
//!
//! Pure: bytes to values. The input is untrusted: everything is bounded, a wrong word is answered with the right ones, and an
//! error text repeats at most one key of the payload. Whether a plug supports a command is decided by the bridge.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::bridge::event::BridgeCommand;
use crate::duration;
use crate::model::{PlugCommand, PlugName, RelayState, SetCommand, Switch, shown};

/// The largest command that is read, in bytes.
pub const MAX_COMMAND: usize = 4096;

/// What a command is about, as the end of its topic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandPart<'a> {
    /// `set`: words or JSON.
    All,
    /// `set/led`.
    Led,
    /// `set/brightness`.
    Brightness,
    /// `set/reboot`.
    Reboot,
    /// `get`.
    Read,
    /// `set/` and an unknown name; answered with an error.
    Unknown(&'a str),
}

impl<'a> CommandPart<'a> {
    /// Parses the level after `set/`; `None` if there are more levels.
    pub fn named(name: &'a str) -> Option<Self> {
        match name {
            "led" => Some(Self::Led),
            "brightness" => Some(Self::Brightness),
            "reboot" => Some(Self::Reboot),
            _ => (!name.contains('/')).then_some(Self::Unknown(name)),
        }
    }
}

impl fmt::Display for CommandPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("set"),
            Self::Led => f.write_str("set/led"),
            Self::Brightness => f.write_str("set/brightness"),
            Self::Reboot => f.write_str("set/reboot"),
            Self::Read => f.write_str("get"),
            Self::Unknown(name) => write!(f, "set/{name}"),
        }
    }
}

/// The most characters of an unknown key that an error repeats.
const MAX_SHOWN: usize = 32;

/// The highest brightness, in %.
const MAX_BRIGHTNESS: u8 = 100;
/// Enough for a transition; a longer one needs several commands.
const MAX_TRANSITION: Duration = Duration::from_secs(60);
/// Our own limit; for longer times there are schedules.
const MAX_COUNT_DOWN: Duration = Duration::from_secs(24 * 3600);
/// Our own limit, in characters: the devices' limit is not documented, and their buffers are small.
const MAX_ALIAS: usize = 31;

/// A parsed command or request.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    /// Its meaning, or what is wrong with it on one line.
    pub result: Result<T, String>,
    /// The sender's `transaction`, which its result repeats; present even if the rest is wrong.
    pub transaction: Option<Value>,
}

/// Parses a message on a command topic of a plug.
pub fn command(part: CommandPart<'_>, payload: &[u8]) -> Parsed<PlugCommand> {
    match part {
        CommandPart::All => set(payload),
        CommandPart::Led => plain(payload, |text| Ok(set_led(led(text)?))),
        CommandPart::Reboot => plain(payload, reboot),
        CommandPart::Brightness => plain(payload, |text| Ok(set_brightness(brightness(text)?))),
        CommandPart::Read => read(payload),
        CommandPart::Unknown(name) => {
            let hint = "there are set, set/led, set/brightness, set/reboot and get";
            plain(payload, |_| Err(format!("set/{}: no such command: {hint}", shown(name, MAX_SHOWN))))
        }
    }
}

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeRequest {
    /// For the bridge.
    Ask(BridgeCommand),
    /// Read the config again.
    Reload,
}

/// Parses a message on `bridge/request/<name>`.
pub fn request(name: &str, payload: &[u8]) -> Parsed<BridgeRequest> {
    let RequestFields { plug, transaction } = match request_fields(payload) {
        Ok(fields) => fields,
        Err((fault, transaction)) => return Parsed { result: Err(fault), transaction },
    };
    let result = match (name, plug) {
        ("discover", None) => Ok(BridgeRequest::Ask(BridgeCommand::Discover)),
        ("refresh", plug) => Ok(BridgeRequest::Ask(BridgeCommand::Refresh(plug))),
        ("forget", Some(plug)) => Ok(BridgeRequest::Ask(BridgeCommand::Forget(plug))),
        ("forget", None) => Err("say which plug: its name, or {\"plug\": \"name\"}".to_owned()),
        ("reload", None) => Ok(BridgeRequest::Reload),
        ("discover" | "reload", Some(_)) => Err(format!("{name} is not about one plug")),
        _ => Err("no such request: there are discover, refresh, forget and reload".to_owned()),
    };
    Parsed { result, transaction }
}

const STATE_WORDS: &str = "ON, OFF or TOGGLE";
const LED_WORDS: &str = "ON or OFF";
const KEYS: &str = "state, led, brightness, transition, for, alias";

/// `set`: a word, or JSON with several properties.
fn set(payload: &[u8]) -> Parsed<PlugCommand> {
    if !is_object(payload) {
        return plain(payload, |text| Ok(set_relay(switch(text)?)));
    }
    let CommandFields { entries, transaction, fault } = fields(payload);
    let result = match fault.or_else(|| too_large(payload)) {
        Some(fault) => Err(fault),
        None => set_command(&entries).map(PlugCommand::Set),
    };
    Parsed { result, transaction }
}

/// `get`: only the transaction matters.
fn read(payload: &[u8]) -> Parsed<PlugCommand> {
    let transaction = if is_object(payload) { fields(payload).transaction } else { None };
    Parsed { result: too_large(payload).map_or(Ok(PlugCommand::Read), Err), transaction }
}

/// A topic whose payload is one word.
fn plain(payload: &[u8], meaning: impl FnOnce(&str) -> Result<PlugCommand, String>) -> Parsed<PlugCommand> {
    // JSON is wrong here, but the error repeats its transaction.
    let transaction = if is_object(payload) { fields(payload).transaction } else { None };
    Parsed { result: word(payload).and_then(meaning), transaction }
}

fn word(payload: &[u8]) -> Result<&str, String> {
    if let Some(fault) = too_large(payload) {
        return Err(fault);
    }
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?.trim();
    if text.is_empty() { Err("the payload is empty: send a word or JSON".to_owned()) } else { Ok(text) }
}

fn too_large(payload: &[u8]) -> Option<String> {
    let size = payload.len();
    (size > MAX_COMMAND).then(|| format!("the payload has {size} bytes: at most {MAX_COMMAND} are read"))
}

fn is_object(payload: &[u8]) -> bool {
    payload.trim_ascii_start().first() == Some(&b'{')
}

fn set_command(entries: &[(String, Value)]) -> Result<SetCommand, String> {
    let mut command = SetCommand::default();
    for (key, value) in entries {
        set_property(&mut command, key, value)
            .map_err(|fault| format!("{}: {fault}", shown(key, MAX_SHOWN)))?;
    }
    if command == SetCommand::default() {
        return Err(format!("nothing to do: give one of {KEYS}"));
    }
    if command.transition.is_some() && command.brightness.is_none() {
        return Err("transition: it leads to a brightness: give that as well".to_owned());
    }
    Ok(command)
}

fn set_property(command: &mut SetCommand, key: &str, value: &Value) -> Result<(), String> {
    match key {
        "state" => command.relay = Some(switch(&value_word(value)?)?),
        "led" => command.led = Some(led(&value_word(value)?)?),
        "brightness" => command.brightness = Some(brightness(&value_word(value)?)?),
        "transition" => command.transition = Some(transition(value)?),
        "for" => command.lasting = Some(lasting(&value_word(value)?)?),
        "alias" => command.alias = Some(alias(value)?),
        _ => return Err(format!("no such key: there are {KEYS} and transaction")),
    }
    Ok(())
}

/// Words, `true`, `false`, `1` and `0` mean the same with and without quotes.
fn value_word(value: &Value) -> Result<String, String> {
    match value {
        Value::String(word) => Ok(word.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => Err("neither a word nor a number".to_owned()),
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

fn brightness(word: &str) -> Result<u8, String> {
    let percent = word.parse().ok().filter(|percent| *percent <= MAX_BRIGHTNESS);
    percent.ok_or_else(|| format!("not a brightness: use a whole number of %, 0 to {MAX_BRIGHTNESS}"))
}

fn transition(value: &Value) -> Result<Duration, String> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let over = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    over.filter(|over| *over <= MAX_TRANSITION)
        .ok_or_else(|| format!("not a transition: use seconds, 0 to {}", MAX_TRANSITION.as_secs()))
}

fn lasting(word: &str) -> Result<Duration, String> {
    let lasting = duration::parse(word)?;
    if lasting <= MAX_COUNT_DOWN {
        return Ok(lasting);
    }
    Err(format!("longer than {}, the most that is taken", duration::show(MAX_COUNT_DOWN)))
}

fn alias(value: &Value) -> Result<Arc<str>, String> {
    let name = value.as_str().map(str::trim).ok_or("not a text")?;
    if name.chars().any(char::is_control) {
        return Err("may not hold control characters".to_owned());
    }
    let length = name.chars().count();
    if !(1..=MAX_ALIAS).contains(&length) {
        return Err(format!("has {length} characters: 1 to {MAX_ALIAS} are taken"));
    }
    Ok(name.into())
}

fn on_off(word: &str) -> Option<RelayState> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Some(RelayState::On),
        "off" | "false" | "0" => Some(RelayState::Off),
        _ => None,
    }
}

fn reboot(word: &str) -> Result<PlugCommand, String> {
    if word.eq_ignore_ascii_case("press") {
        Ok(PlugCommand::Reboot)
    } else {
        Err("send PRESS to reboot".to_owned())
    }
}

fn set_relay(switch: Switch) -> PlugCommand {
    PlugCommand::Set(SetCommand { relay: Some(switch), ..SetCommand::default() })
}

fn set_led(state: RelayState) -> PlugCommand {
    PlugCommand::Set(SetCommand { led: Some(state), ..SetCommand::default() })
}

fn set_brightness(percent: u8) -> PlugCommand {
    PlugCommand::Set(SetCommand { brightness: Some(percent), ..SetCommand::default() })
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
    let CommandFields { entries, transaction, fault } = fields(payload);
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
            _ => {
                return Err(format!(
                    "{}: no such key: there are plug and transaction",
                    shown(key, MAX_SHOWN)
                ));
            }
        }
    }
    Ok(plug)
}

fn plug_name(name: &str) -> Result<PlugName, String> {
    PlugName::new(name).map_err(|why| format!("plug: the name {why}"))
}

/// The entries of a JSON object, up to the first error.
#[derive(Default)]
struct CommandFields {
    entries: Vec<(String, Value)>,
    transaction: Option<Value>,
    fault: Option<String>,
}

/// Reads an object entry by entry, so that the transaction survives an error after it.
fn fields(payload: &[u8]) -> CommandFields {
    let mut fields = CommandFields::default();
    if std::str::from_utf8(payload).is_err() {
        fields.fault = Some("the payload is not UTF-8".to_owned());
        return fields;
    }
    let mut reader = serde_json::Deserializer::from_slice(payload);
    let read = reader.deserialize_map(&mut fields).and_then(|()| reader.end());
    fields.fault = read.err().map(|fault| format!("not a command in JSON: {fault}"));
    fields
}

impl<'de> Visitor<'de> for &mut CommandFields {
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
                return Err(A::Error::custom(format_args!("{} is there twice", shown(&key, MAX_SHOWN))));
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
    use proptest::prelude::*;
    use serde_json::json;

    fn set_text(payload: &str) -> Result<PlugCommand, String> {
        command(CommandPart::All, payload.as_bytes()).result
    }

    fn relay(switch: Switch) -> Result<PlugCommand, String> {
        Ok(set_relay(switch))
    }

    #[test]
    fn words_are_accepted_in_any_case() {
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
    fn json_may_set_several_properties_and_has_a_transaction() {
        let parsed = command(CommandPart::All, br#"{"state": "toggle", "led": false, "transaction": 7}"#);
        let expected =
            SetCommand { relay: Some(Switch::Toggle), led: Some(RelayState::Off), ..SetCommand::default() };
        assert_eq!(parsed, Parsed { result: Ok(PlugCommand::Set(expected)), transaction: Some(json!(7)) });
        assert_eq!(set_text(r#"{"state": true}"#), relay(Switch::To(RelayState::On)));
        assert_eq!(set_text(r#"{"state": 0}"#), relay(Switch::To(RelayState::Off)));
    }

    #[test]
    fn each_command_topic_has_its_own_words() {
        let read = |part, text: &str| command(part, text.as_bytes()).result;
        assert_eq!(read(CommandPart::Led, "on"), Ok(set_led(RelayState::On)));
        assert_eq!(read(CommandPart::Reboot, "press"), Ok(PlugCommand::Reboot));
        assert_eq!(read(CommandPart::Read, ""), Ok(PlugCommand::Read));
        assert_eq!(read(CommandPart::Read, "whatever"), Ok(PlugCommand::Read));
        assert_eq!(read(CommandPart::Led, "toggle").unwrap_err(), "not a word for the LED: use ON or OFF");
        assert_eq!(read(CommandPart::Reboot, "now").unwrap_err(), "send PRESS to reboot");
        assert_eq!(read(CommandPart::Brightness, " 50\n"), Ok(set_brightness(50)));
        assert_eq!(read(CommandPart::Brightness, "0"), Ok(set_brightness(0)));
        for wrong in ["101", "-1", "50.5", "50%", "ON", "{\"brightness\":50}"] {
            let refused = read(CommandPart::Brightness, wrong).unwrap_err();
            assert_eq!(refused, "not a brightness: use a whole number of %, 0 to 100", "{wrong}");
        }
        assert!(
            read(CommandPart::Unknown("colour"), "red")
                .unwrap_err()
                .starts_with("set/colour: no such command")
        );
    }

    #[test]
    fn an_error_names_the_key() {
        let refused = |text: &str| set_text(text).unwrap_err();
        assert_eq!(
            refused(r#"{"colour":"red"}"#),
            "colour: no such key: there are state, led, brightness, transition, for, alias and transaction"
        );
        assert_eq!(refused(r#"{"state":"up"}"#), "state: not a word for a plug: use ON, OFF or TOGGLE");
        assert_eq!(refused(r#"{"led":[1]}"#), "led: neither a word nor a number");
        assert_eq!(
            refused(r#"{"transaction":1}"#),
            "nothing to do: give one of state, led, brightness, transition, for, alias"
        );
        assert!(refused(r#"{"state":"ON","state":"OFF"}"#).contains("state is there twice"));
        assert_eq!(refused("up"), "not a word for a plug: use ON, OFF or TOGGLE");
        assert_eq!(refused(""), "the payload is empty: send a word or JSON");
        assert_eq!(command(CommandPart::All, b"\xff\xfe").result.unwrap_err(), "the payload is not UTF-8");
        assert_eq!(command(CommandPart::All, b"{\xff}").result.unwrap_err(), "the payload is not UTF-8");
        assert_eq!(refused(&"x".repeat(4097)), "the payload has 4097 bytes: at most 4096 are read");
    }

    #[test]
    fn a_dimmer_takes_a_brightness_and_a_transition() {
        let command = |brightness, transition| {
            Ok(PlugCommand::Set(SetCommand {
                brightness: Some(brightness),
                transition,
                ..SetCommand::default()
            }))
        };
        assert_eq!(set_text(r#"{"brightness":40}"#), command(40, None));
        assert_eq!(set_text(r#"{"brightness":"40"}"#), command(40, None));
        let over = |ms| Some(Duration::from_millis(ms));
        assert_eq!(set_text(r#"{"brightness":0,"transition":1.5}"#), command(0, over(1500)));
        assert_eq!(set_text(r#"{"brightness":100,"transition":60}"#), command(100, over(60_000)));
        let wrong = "brightness: not a brightness: use a whole number of %, 0 to 100";
        for text in ["101", "-1", "1.5", "true", "\"\"", "1e3"] {
            assert_eq!(set_text(&format!(r#"{{"brightness":{text}}}"#)), Err(wrong.to_owned()), "{text}");
        }
        for text in ["-1", "60.1", "1e300", "true", "\"soon\"", "\"NaN\"", "null"] {
            let refused = set_text(&format!(r#"{{"brightness":5,"transition":{text}}}"#));
            assert_eq!(
                refused,
                Err("transition: not a transition: use seconds, 0 to 60".to_owned()),
                "{text}"
            );
        }
        let alone = set_text(r#"{"state":"ON","transition":2}"#).unwrap_err();
        assert_eq!(alone, "transition: it leads to a brightness: give that as well");
    }

    #[test]
    fn a_count_down_is_a_duration_with_a_unit() {
        let lasting = |text: &str| match set_text(&format!(r#"{{"state":"ON","for":{text}}}"#)) {
            Ok(PlugCommand::Set(command)) => Ok(command.lasting.unwrap().as_secs()),
            Ok(order) => panic!("{order:?}"),
            Err(why) => Err(why),
        };
        for (text, seconds) in [("30m", 1800), ("1h 30m", 5400), ("0s", 0), ("24h", 86_400), ("1d", 86_400)] {
            assert_eq!(lasting(&format!("\"{text}\"")), Ok(seconds), "{text}");
        }
        for (text, remedy) in [
            ("1800", r#"for: has no unit: write "1800s" for seconds"#),
            ("\"25h\"", "for: longer than 1d, the most that is taken"),
            ("\"soon\"", r#"for: has the unit "soon": use ms, s, m, h or d"#),
            ("true", r#"for: has the unit "true": use ms, s, m, h or d"#),
            ("null", "for: neither a word nor a number"),
        ] {
            assert_eq!(lasting(text), Err(remedy.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_alias_may_have_any_printable_characters() {
        let called = |text: &str| set_text(&serde_json::json!({ "alias": text }).to_string());
        for name in ["x", "Küche ☕", &"é".repeat(31)] {
            let command = SetCommand { alias: Some(name.into()), ..SetCommand::default() };
            assert_eq!(called(name), Ok(PlugCommand::Set(command)), "{name}");
        }
        assert_eq!(called("  ").unwrap_err(), "alias: has 0 characters: 1 to 31 are taken");
        assert_eq!(called(&"é".repeat(32)).unwrap_err(), "alias: has 32 characters: 1 to 31 are taken");
        assert_eq!(called("a\nb").unwrap_err(), "alias: may not hold control characters");
        assert_eq!(set_text(r#"{"alias":7}"#).unwrap_err(), "alias: not a text");
    }

    #[test]
    fn a_transaction_is_repeated_even_if_the_rest_is_wrong() {
        let payloads = [
            r#"{"transaction":"t1","state":ON}"#,
            r#"{"transaction":"t1","state":"#,
            r#"{"transaction":"t1"} trailing"#,
            r#"{"transaction":"t1","state":"ON","state":"OFF"}"#,
            r#"{"state":"up","transaction":"t1"}"#,
            &format!(r#"{{"transaction":"t1","state":"{}"}}"#, "x".repeat(5000)),
        ];
        for payload in payloads {
            for part in [CommandPart::All, CommandPart::Led, CommandPart::Unknown("x")] {
                let parsed = command(part, payload.as_bytes());
                assert!(parsed.result.is_err(), "{payload}");
                assert_eq!(parsed.transaction, Some(json!("t1")), "{payload}");
            }
        }
    }

    /// Found by the fuzzer: it came back as a neighbouring number, which its sender does not know.
    #[test]
    fn a_number_as_transaction_comes_back_unchanged() {
        for number in
            ["1844674407370.9553", "0.1", "18446744073709551615", "-3", "5e-324", "1.7976931348623157e+308"]
        {
            let parsed =
                command(CommandPart::All, format!(r#"{{"state":"ON","transaction":{number}}}"#).as_bytes());
            assert_eq!(parsed.transaction.unwrap().to_string(), number);
        }
    }

    #[test]
    fn a_request_is_empty_a_name_or_json() {
        let read = |name, text: &str| request(name, text.as_bytes()).result;
        let kettle = PlugName::new("kettle").unwrap();
        assert_eq!(read("discover", ""), Ok(BridgeRequest::Ask(BridgeCommand::Discover)));
        assert_eq!(read("refresh", ""), Ok(BridgeRequest::Ask(BridgeCommand::Refresh(None))));
        assert_eq!(
            read("refresh", "kettle"),
            Ok(BridgeRequest::Ask(BridgeCommand::Refresh(Some(kettle.clone()))))
        );
        assert_eq!(
            read("forget", r#"{"plug":"kettle"}"#),
            Ok(BridgeRequest::Ask(BridgeCommand::Forget(kettle)))
        );
        assert_eq!(read("reload", "{}"), Ok(BridgeRequest::Reload));
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

    proptest! {
        #[test]
        fn no_payload_makes_the_parser_panic(payload in proptest::collection::vec(any::<u8>(), 0..200), tail in any::<bool>()) {
            let mut payload = payload;
            if tail {
                payload.insert(0, b'{');
            }
            for part in [CommandPart::All, CommandPart::Led, CommandPart::Brightness, CommandPart::Reboot, CommandPart::Read, CommandPart::Unknown("x")] {
                command(part, &payload);
            }
            request("forget", &payload);
        }
    }
}
