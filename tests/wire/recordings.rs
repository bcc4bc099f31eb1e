//! Recordings of real devices, parsed as replies are.
//!
//! They belong to others and are not part of the project: the environment variable `HS100D_FIXTURES` names a folder of
//! them, `<model>_<hardware>_<firmware>.json`, each a map of modules of methods of replies. If it is not set, the tests
//! say so and pass. The expected values come from the file itself, by a second and simpler parser; python-kasa's rule,
//! which uses product names, is compared with ours, which uses abilities.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use hs100d::model::{DeviceId, Mac, RelayState};
use hs100d::smarthome::message::{DeviceInfo, DeviceKind, Meter, NotAnAnswer, Reading, Reply, Request};
use serde_json::{Value, json};

/// Says so past the test harness, which swallows what a passing test prints.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[test]
fn every_recording_of_a_real_device_is_read_right() {
    let Some(folder) = std::env::var_os("HS100D_FIXTURES") else {
        return say("skipped: HS100D_FIXTURES names no folder of recordings");
    };
    let mut kinds = BTreeMap::<String, usize>::new();
    let mut meters = 0;
    for (name, recording) in recordings(Path::new(&folder)) {
        let reading = read_sysinfo(&name, &recording);
        expect_plate(&name, &recording["system"]["get_sysinfo"], &reading.device);
        expect_state(&name, &recording["system"]["get_sysinfo"], &reading);
        meters += usize::from(expect_meter(&name, &recording, &reading.device));
        *kinds.entry(format!("{:?}", reading.device.what())).or_default() += 1;
    }
    assert!(!kinds.is_empty(), "no recording of a plug in {}", folder.display());
    say(&format!("read {kinds:?}, {meters} of them with a meter"));
}

/// The simulated devices were made after real ones; this compares them with the recorded ones.
#[cfg(feature = "sim")]
#[test]
fn our_simulated_devices_have_the_fields_of_the_real_ones() {
    use hs100d::sim::model::Model;
    use hs100d::sim::plug::{SimPlug, SwitchedBy};
    let Some(folder) = std::env::var_os("HS100D_FIXTURES") else {
        return say("skipped: HS100D_FIXTURES names no folder of recordings");
    };
    let recordings = recordings(Path::new(&folder));
    let mut compared = 0;
    for (word, model) in Model::ALL {
        let version = model.sw_ver.split(' ').next().unwrap();
        let name = format!("{}_{}_{version}", model.name, model.hw_ver);
        let Some((_, recording)) = recordings.iter().find(|(found, _)| *found == name) else { continue };
        let now = std::time::Instant::now();
        let mut plug = SimPlug::new(model, 1, "Lamp", now);
        let mut ask = |request: &str| -> Value {
            serde_json::from_slice(&plug.handle(request.as_bytes(), SwitchedBy::Lan, now).unwrap()).unwrap()
        };
        let ours = ask(r#"{"system":{"get_sysinfo":{}}}"#);
        let (ours, real) = (&ours["system"]["get_sysinfo"], &recording["system"]["get_sysinfo"]);
        assert_eq!(fields(ours), fields(real), "{word}");
        assert_eq!(children(ours).len(), children(real).len(), "{word}");
        for (ours, real) in children(ours).iter().zip(children(real)) {
            assert_eq!(fields(ours), fields(real), "an outlet of {word}");
        }
        for told in ["model", "hw_ver", "sw_ver", "dev_name", "feature"] {
            assert_eq!(ours[told], real[told], "{word}");
        }
        let ours = ask(r#"{"emeter":{"get_realtime":{}}}"#);
        if recording["emeter"]["get_realtime"]["err_code"] == 0 {
            let (ours, real) = (&ours["emeter"]["get_realtime"], &recording["emeter"]["get_realtime"]);
            assert_eq!(fields(ours), fields(real), "the meter of {word}");
        }
        compared += 1;
    }
    say(&format!("compared {compared} of {} simulated models with recordings", Model::ALL.len()));
}

/// The names and kinds of an object's fields.
#[cfg(feature = "sim")]
fn fields(object: &Value) -> BTreeMap<&str, &'static str> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    object.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), kind(value))).collect()
}

/// All files in the folder with a `get_sysinfo` of this family; bulbs and range extenders are not of it.
fn recordings(folder: &Path) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let recording: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let sysinfo = &recording["system"]["get_sysinfo"];
        if ["type", "mic_type"].iter().any(|key| sysinfo[key] == "IOT.SMARTPLUGSWITCH") {
            found.push((path.file_stem().unwrap().to_string_lossy().into_owned(), recording));
        } else {
            say(&format!("left out: {} is no plug, switch, dimmer or strip", path.display()));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

fn read(request: &Request, reply: &Value) -> Result<Reply, NotAnAnswer> {
    request.read_reply(reply.to_string().as_bytes(), None)
}

/// The reply as the daemon requests it, and with everything else that was recorded of the device, errors included.
fn read_sysinfo(name: &str, recording: &Value) -> Reading {
    let alone = json!({ "system": { "get_sysinfo": recording["system"]["get_sysinfo"] } });
    let reading = match read(&Request::SysInfo, &alone) {
        Ok(Reply::SysInfo(reading)) => reading,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(read(&Request::SysInfo, recording), Ok(Reply::SysInfo(reading.clone())), "{name}");
    let again = Request::SysInfo.read_reply(alone.to_string().as_bytes(), Some(&reading.device));
    let Ok(Reply::SysInfo(again)) = again else { panic!("{name}: {again:?}") };
    assert!(std::sync::Arc::ptr_eq(&again.device, &reading.device), "{name}: its plate is not shared");
    reading
}

fn expect_plate(name: &str, sysinfo: &Value, device: &DeviceInfo) {
    let text = |key: &str| sysinfo[key].as_str().unwrap_or_default();
    assert_eq!(device.device_id, DeviceId::new(text("deviceId")), "{name}");
    assert!(device.device_id.is_some(), "{name} has a device id");
    assert_eq!(device.mac, Mac::new(text("mac")), "{name}");
    assert!(device.mac.is_some(), "{name} has a MAC address");
    let shown = [
        &*device.alias,
        &device.model,
        &device.hw_version,
        &device.sw_version,
        &device.feature,
        &device.dev_name,
    ];
    let told = ["alias", "model", "hw_ver", "sw_ver", "feature", "dev_name"].map(text);
    assert_eq!(shown, told, "{name}");
    assert_eq!(&*device.kind, "IOT.SMARTPLUGSWITCH", "{name}");
    assert_eq!(device.has_meter(), text("feature").contains("ENE"), "{name}");
    assert_eq!(device.dims, sysinfo.get("brightness").is_some(), "{name}");
    assert_eq!(device.what(), kind_by_product_name(sysinfo), "{name}");
    let outlets = children(sysinfo);
    assert_eq!(device.outlets.len(), outlets.len(), "{name}");
    assert_eq!(outlets.len() as u64, sysinfo["child_num"].as_u64().unwrap_or(0), "{name}");
    for (outlet, child) in device.outlets.iter().zip(outlets) {
        assert_eq!(
            (&*outlet.id, &*outlet.alias),
            (child["id"].as_str().unwrap(), child["alias"].as_str().unwrap())
        );
    }
}

fn kind_by_product_name(sysinfo: &Value) -> DeviceKind {
    let product = sysinfo["dev_name"].as_str().unwrap_or_default();
    if product.contains("Dimmer") {
        DeviceKind::Dimmer
    } else if sysinfo.get("children").is_some() {
        DeviceKind::Strip
    } else if product.to_lowercase().contains("light") {
        DeviceKind::Switch
    } else {
        DeviceKind::Plug
    }
}

fn expect_state(name: &str, sysinfo: &Value, reading: &Reading) {
    let relay = |value: &Value| value.as_i64().map(|state| RelayState::from_bool(state == 1));
    assert_eq!(reading.relay, relay(&sysinfo["relay_state"]), "{name}");
    assert!(reading.unread.is_empty() && reading.is_plug(), "{name}: {:?}", reading.unread);
    assert_eq!(reading.led, relay(&sysinfo["led_off"]).map(|off| !off), "{name}");
    assert_eq!(reading.on_time, time_on(&sysinfo["relay_state"], &sysinfo["on_time"]), "{name}");
    assert_eq!(reading.rssi.map(i64::from), sysinfo["rssi"].as_i64(), "{name}");
    assert_eq!(reading.brightness.map(u64::from), sysinfo["brightness"].as_u64(), "{name}");
    for (outlet, child) in reading.outlets.iter().zip(children(sysinfo)) {
        assert_eq!(outlet.relay, relay(&child["state"]), "{name}");
        assert_eq!(outlet.on_time, time_on(&child["state"], &child["on_time"]), "{name}");
    }
}

/// Some strips continue to count for outlets that are off, and one recording has a negative time.
fn time_on(state: &Value, seconds: &Value) -> Option<u64> {
    if state == 1 { seconds.as_u64() } else { None }
}

fn children(sysinfo: &Value) -> &[Value] {
    sysinfo["children"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether the recording has a meter's values. If the device reports that it has no meter, the reply must say so.
fn expect_meter(name: &str, recording: &Value, device: &DeviceInfo) -> bool {
    let Some(emeter) = recording.get("emeter") else { return false };
    let answer = read(&Request::Meter(None), recording);
    if !device.has_meter() {
        assert!(matches!(answer, Err(NotAnAnswer::Device { code: -1, .. })), "{name}: {answer:?}");
        return false;
    }
    let told = &emeter["get_realtime"];
    let either = |whole: &str, small: &str| {
        told[whole].as_f64().or_else(|| told[small].as_f64().map(|thousandths| thousandths / 1000.0))
    };
    let expected = Meter {
        power: either("power", "power_mw"),
        voltage: either("voltage", "voltage_mv"),
        current: either("current", "current_ma"),
        total: either("total", "total_wh"),
    };
    assert_eq!(answer, Ok(Reply::Meter(expected)), "{name}");
    let voltage = expected.voltage.unwrap();
    assert!((85.0..265.0).contains(&voltage), "{name}: {voltage} V is no mains voltage");
    let apparent = voltage * expected.current.unwrap();
    assert!(
        expected.power.unwrap() <= apparent * 1.05 + 0.1,
        "{name}: more power than current: {expected:?}"
    );
    true
}
