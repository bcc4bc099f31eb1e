//! The replies of a plug, over any route.

use std::sync::Arc;

use hs100d::model::{DeviceId, Failure, Mac, RelayState};
use hs100d::smarthome::message::{
    DeviceInfo, NotAnAnswer, OutletIds, Outlets, Reading, Reply, Request, ScheduleRule,
};
use serde_json::{Map, Value, json};

use super::texts::fits_a_line;

/// No strip has more outlets; further ones are ignored.
const MOST_OUTLETS: usize = 32;
/// The longest error text for an invalid reply, in bytes: our own words, and eighty characters of the plug's, with up
/// to four bytes each.
const LONGEST_COMPLAINT: usize = 128 + 80 * 4;

/// The first byte selects the request; the rest is the reply.
pub fn hold(input: &[u8]) {
    let Some((&choice, json)) = input.split_first() else { return };
    let requests = requests();
    let request = &requests[usize::from(choice) % requests.len()];
    let answer = request.read_reply(json, None);
    assert_eq!(answer, request.read_reply(json, None), "read twice");
    match answer {
        Ok(reply) => reply_holds(request, &reply, json),
        Err(fault) => complaint_holds(fault),
    }
}

/// One of each kind. Files of the corpus begin with its index.
pub fn requests() -> Vec<Request> {
    let (on, off) = (RelayState::On, RelayState::Off);
    vec![
        Request::SysInfo,
        Request::Meter(None),
        Request::MeterDays(None, 2026, 11),
        Request::MeterMonths(Some(1), 2026),
        Request::Clock,
        Request::CountDown(None),
        Request::Schedule(None),
        Request::CloudInfo,
        Request::SetRelay(on),
        Request::SetOutlets(Outlets::one(0).and(Outlets::one(5)), off),
        Request::SetLed(on),
        Request::SetBrightness(33),
        Request::Fade(0, 0),
        Request::SetAlias(None, "Lamp".into()),
        Request::Reboot,
        Request::StopCountDown(None),
        Request::StartCountDown(Some(2), 1800, off),
        Request::SetRelayAndRead(on),
    ]
}

fn reply_holds(request: &Request, reply: &Reply, json: &[u8]) {
    match (request, reply) {
        (Request::SysInfo, Reply::SysInfo(reading)) => reading_holds(reading, json),
        (Request::Meter(_), Reply::Meter(meter)) => {
            let told = [meter.power, meter.voltage, meter.current, meter.total];
            assert!(told.into_iter().flatten().all(f64::is_finite), "{meter:?}");
        }
        (Request::MeterDays(..) | Request::MeterMonths(..), Reply::Used(used)) => {
            assert!(used.iter().all(|(number, kwh)| *number >= 1 && kwh.is_finite()), "{used:?}");
        }
        (Request::MeterDays(..) | Request::MeterMonths(..), Reply::NotTold) => {
            reads_back(request, reply, json!({}));
        }
        (Request::Clock, Reply::Clock(date)) => {
            let exists = date.year >= 1 && (1..=12).contains(&date.month) && (1..=31).contains(&date.day);
            assert!(exists, "{date:?}");
            let (year, month, mday) = (date.year, date.month, date.day);
            reads_back(request, reply, json!({"year": year, "month": month, "mday": mday}));
        }
        (Request::CountDown(_), Reply::CountDown(running)) => {
            assert!(running.is_none_or(|(seconds, _)| seconds > 0), "{running:?}");
            let rules = running.map(|(left, then)| json!({"enable": 1, "remain": left, "act": bit(then)}));
            reads_back(request, reply, json!({"rule_list": rules.into_iter().collect::<Vec<_>>()}));
        }
        (Request::Schedule(_), Reply::Schedule(rules)) => rules.iter().for_each(rule_holds),
        (Request::CloudInfo, Reply::CloudInfo(info)) => {
            let (bound, connected) = (u8::from(info.bound), u8::from(info.connected));
            reads_back(request, reply, json!({"binded": bound, "cld_connection": connected}));
        }
        (Request::SetRelayAndRead(_), Reply::Switched(None)) => {}
        (Request::SetRelayAndRead(_), Reply::Switched(Some(reading))) => reading_holds(reading, json),
        (request, Reply::Done) if request.changes_something() => reads_back(request, reply, json!({})),
        _ => panic!("{request:?} was answered {reply:?}"),
    }
}

/// A parsed reply that is written in its simplest form is parsed as the same reply.
fn reads_back(request: &Request, reply: &Reply, body: Value) {
    let (module, method) = request.method();
    let json = json!({ module: { method: body } }).to_string();
    assert_eq!(request.read_reply(json.as_bytes(), None).as_ref(), Ok(reply), "{json}");
}

fn reading_holds(reading: &Reading, json: &[u8]) {
    let device = &reading.device;
    assert!(reading.on_time.is_none() || reading.relay.is_some_and(RelayState::is_on));
    assert!(reading.rssi != Some(0) && reading.brightness.is_none_or(|percent| percent <= 100));
    assert_eq!(device.dims, reading.brightness.is_some());
    assert_eq!(device.outlets.len(), reading.outlets.len());
    assert!(device.outlets.len() <= MOST_OUTLETS);
    assert!(
        reading
            .outlets
            .iter()
            .all(|outlet| outlet.on_time.is_none() || outlet.relay.is_some_and(RelayState::is_on))
    );
    identity_holds(device);
    let again = json!({"system": {"get_sysinfo": sysinfo(reading)}}).to_string();
    let reply = Request::SysInfo.read_reply(again.as_bytes(), None);
    let plain = Reading { unread: Box::default(), ..reading.clone() };
    assert_eq!(reply, Ok(Reply::SysInfo(plain)), "{again}");
    // The device info of the last reading is reused if it has not changed, and that of another plug changes nothing.
    let Ok(Reply::SysInfo(known)) = Request::SysInfo.read_reply(json, Some(device)) else {
        panic!("once more")
    };
    assert!(Arc::ptr_eq(&known.device, device));
    let another =
        Arc::new(DeviceInfo { alias: format!("{} too", device.alias).into(), ..(**device).clone() });
    let after_another = Request::SysInfo.read_reply(json, Some(&another));
    assert_eq!(after_another, Ok(Reply::SysInfo(reading.clone())));
    requests_to_its_outlets_name_them(device);
}

fn identity_holds(device: &DeviceInfo) {
    if let Some(id) = &device.device_id {
        let digits = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        assert!((8..=64).contains(&id.as_str().len()) && digits(id.as_str()), "{}", id.as_str());
        assert_eq!(DeviceId::new(id.as_str()).as_ref(), Some(id));
        assert!(format!("{id} {id:?}").chars().count() <= 2 * 9 + 1, "prints whole");
    }
    if let Some(mac) = device.mac {
        assert_eq!(Mac::new(&mac.to_string()), Some(mac));
    }
}

/// The reply of a plug with this reading.
fn sysinfo(reading: &Reading) -> Value {
    let device = &reading.device;
    let mut told = Map::new();
    let mut tell = |key: &str, value: Option<Value>| told.extend(value.map(|value| (key.to_owned(), value)));
    tell("deviceId", device.device_id.as_ref().map(|id| json!(id.as_str())));
    tell("mac", device.mac.map(|mac| json!(mac.to_string())));
    for (key, text) in [
        ("alias", &*device.alias),
        ("model", &*device.model),
        ("hw_ver", &*device.hw_version),
        ("sw_ver", &*device.sw_version),
        ("type", &*device.kind),
        ("feature", &*device.feature),
        ("dev_name", &*device.dev_name),
    ] {
        tell(key, Some(json!(text)));
    }
    tell("relay_state", reading.relay.map(|state| json!(bit(state))));
    tell("led_off", reading.led.map(|state| json!(bit(!state))));
    tell("on_time", reading.on_time.map(|seconds| json!(seconds)));
    tell("rssi", reading.rssi.map(|dbm| json!(dbm)));
    tell("brightness", reading.brightness.map(|percent| json!(percent)));
    let outlets = device.outlets.iter().zip(&reading.outlets).map(|(device, state)| {
        let on_time = state.on_time.unwrap_or_default();
        let mut outlet = json!({"id": device.id, "alias": device.alias});
        if let Some(relay) = state.relay {
            outlet["state"] = json!(bit(relay));
        }
        if state.on_time.is_some() {
            outlet["on_time"] = json!(on_time);
        }
        outlet
    });
    tell("children", Some(outlets.collect()).filter(|outlets: &Value| *outlets != json!([])));
    // Without device id and MAC, the device was accepted for an unreadable field.
    let is_mute = device.device_id.is_none() && device.mac.is_none();
    if is_mute && reading.relay.is_none() && device.outlets.is_empty() {
        tell("deviceId", Some(json!("no id")));
    }
    told.into()
}

/// The ids of outlets are untrusted, and are sent back in requests.
fn requests_to_its_outlets_name_them(device: &DeviceInfo) {
    for (outlet, told) in (0..).zip(&device.outlets) {
        let mut words = Vec::new();
        let request = Request::SetOutlets(Outlets::one(outlet), RelayState::On);
        request.write_json(OutletIds::AsGiven(&device.outlets), &mut words);
        let words: Value = serde_json::from_slice(&words).expect("a request is JSON");
        let expected =
            json!({"context": {"child_ids": [told.id]}, "system": {"set_relay_state": {"state": 1}}});
        assert_eq!(words, expected);
    }
    let mut words = Vec::new();
    Request::SetAlias(None, (&*device.alias).into()).write_json(OutletIds::None, &mut words);
    let words: Value = serde_json::from_slice(&words).expect("a request is JSON");
    assert_eq!(words, json!({"system": {"set_dev_alias": {"alias": device.alias}}}));
}

fn rule_holds(rule: &ScheduleRule) {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, ':' | '+' | '-');
    assert!(rule.at.len() <= 32 && rule.at.chars().all(is_plain), "{:?}", rule.at);
}

/// The error text has nothing of the reply except a code and, shortened, the plug's own reason.
fn complaint_holds(fault: NotAnAnswer) {
    if let NotAnAnswer::Malformed(why) = &fault {
        let words = why.trim_end_matches(|c: char| c.is_ascii_digit());
        let ours = [
            "JSON cut off at byte ",
            "not JSON at byte ",
            "JSON of another shape at byte ",
            "neither deviceId, MAC nor relay_state in it",
            "a date that does not exist",
        ];
        assert!(ours.contains(&words), "{why}");
    }
    fits_a_line(&fault.to_string(), LONGEST_COMPLAINT);
    fits_a_line(&Failure::from(fault).to_string(), LONGEST_COMPLAINT);
}

fn bit(state: RelayState) -> u8 {
    state.is_on().into()
}
