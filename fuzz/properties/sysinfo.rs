//! A valid reply to `get_sysinfo` with one unexpected field: the identity and the relays are still read.

use std::collections::BTreeSet;

use hs100d::model::{DeviceId, Mac, RelayState};
use hs100d::smarthome::message::{Reading, Reply, Request};
use serde_json::{Value, json};

/// The reply of a plug, of a strip and of a dimmer, written by hand.
fn good() -> [Value; 3] {
    let plug = json!({"err_code": 0, "sw_ver": "1.2.5 Build 171129 Rel.174814", "hw_ver": "1.0",
        "type": "IOT.SMARTPLUGSWITCH", "model": "HS100(EU)", "mac": "50:C7:BF:00:00:07", "deviceId": ID,
        "alias": "K\u{fc}che", "dev_name": "Wi-Fi Smart Plug", "relay_state": 1, "on_time": 61, "feature": "TIM",
        "led_off": 0, "rssi": -43, "latitude": 0.5, "next_action": {"type": -1}});
    let outlet = |id: &str, state: u8| json!({"id": id, "alias": "Lamp", "state": state, "on_time": 9});
    let mut strip = plug.clone();
    strip["children"] = json!([outlet("00", 1), outlet("01", 0), outlet("02", 1)]);
    strip["child_num"] = json!(3);
    drop(strip.as_object_mut().map(|strip| strip.remove("relay_state")));
    let mut dimmer = plug.clone();
    dimmer["brightness"] = json!(25);
    [plug, strip, dimmer]
}

const ID: &str = "8006000000000000000000000000000000000007";

/// The first byte selects the device and the kind of change, the second the field; the rest is the value: JSON, or else
/// a string.
pub fn hold(input: &[u8]) {
    let [form, choice, value @ ..] = input else { return };
    let device = &good()[usize::from(form % 3)];
    let pointers = fields(device, "");
    let field = &pointers[usize::from(*choice) % pointers.len()];
    let text = String::from_utf8_lossy(value);
    let odd = match serde_json::from_slice::<Value>(value) {
        Ok(value) => value.to_string(),
        Err(_) => json!(text).to_string(),
    };
    // Unescaped control characters, which JSON does not allow in a string.
    let raw = format!("\"{}\"", text.replace(['"', '\\'], ""));
    let has_key = !field.ends_with(|c: char| c.is_ascii_digit());
    let is_twice = form / 3 % 3 == 1 && has_key;
    let text = with(device, field, |key, good| match form / 3 % 3 {
        _ if is_twice => format!("{key}{odd},{key}{good}"),
        2 => format!("{key}{raw}"),
        _ => format!("{key}{odd}"),
    });
    let mark = if form / 9 % 2 == 1 { "\u{feff}" } else { "" };
    let json = format!("{mark}{{\"system\":{{\"get_sysinfo\":{text}}}}}");
    let reading = match Request::SysInfo.read_reply(json.as_bytes(), None) {
        Ok(Reply::SysInfo(reading)) => reading,
        other => panic!("{json}: {other:?}"),
    };
    holds(&reading, device, if is_twice { "" } else { field }, &json);
}

/// Everything except the changed field.
fn holds(reading: &Reading, device: &Value, odd: &str, json: &str) {
    let info = &reading.device;
    assert!(odd == "/deviceId" || info.device_id == DeviceId::new(ID), "{json}");
    assert!(odd == "/mac" || info.mac == Mac::new("50C7BF000007"), "{json}");
    assert!(odd == "/type" || reading.is_plug(), "{json}");
    if let Some(state) = device.get("relay_state") {
        let is_read = reading.relay == Some(RelayState::from_bool(*state == 1));
        assert!(odd == "/relay_state" || is_read, "{json}");
    }
    let children = device["children"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |id: &Value, relay: Option<RelayState>| {
        let mut told = info.outlets.iter().zip(&reading.outlets);
        told.any(|(outlet, state)| id == &*outlet.id && (relay.is_none() || state.relay == relay))
    };
    for (number, child) in children.iter().enumerate().filter(|_| odd != "/children") {
        let own = format!("/children/{number}");
        let relay = Some(RelayState::from_bool(child["state"] == 1));
        let relay = relay.filter(|_| odd != format!("{own}/state"));
        assert!(odd == own || odd == format!("{own}/id") || has(&child["id"], relay), "{json}");
    }
    let unread: BTreeSet<_> = reading.unread.iter().map(|key| format!("/{key}")).collect();
    assert!(unread.iter().all(|key| odd == key || odd.starts_with(&format!("{key}/"))), "{unread:?} {json}");
}

/// The path of each field, also of those of its outlets.
fn fields(value: &Value, way: &str) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (format!("{way}/{key}"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(number, value)| (format!("{way}/{number}"), value)).collect()
        }
        _ => Vec::new(),
    };
    let with_inner = |(way, value): (String, &Value)| {
        let inner = fields(value, &way);
        std::iter::once(way).chain(inner).collect::<Vec<_>>()
    };
    inner.into_iter().flat_map(with_inner).collect()
}

/// The text of the object with this field replaced. `write` gets the key, which items of a list do not have.
fn with(value: &Value, field: &str, write: impl Fn(&str, &str) -> String + Copy) -> String {
    let Some(rest) = field.strip_prefix('/') else { return value.to_string() };
    let (key, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let changed = |value: &Value| with(value, rest, write);
    match value {
        Value::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| {
                let quoted = json!(name).to_string();
                match name == key {
                    true if rest.is_empty() => write(&format!("{quoted}:"), &value.to_string()),
                    true => format!("{quoted}:{}", changed(value)),
                    false => format!("{quoted}:{value}"),
                }
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items = items.iter().enumerate().map(|(number, value)| match number.to_string() == key {
                true if rest.is_empty() => write("", &value.to_string()),
                true => changed(value),
                false => value.to_string(),
            });
            format!("[{}]", items.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}
