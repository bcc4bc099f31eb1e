//! The reply to `get_sysinfo`: identity, kind and state of a plug.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::{DeviceId, Mac, RelayState, shown};
use crate::smarthome::lenient::Fields;
use crate::smarthome::message::answer::{NotAnAnswer, Status, malformed};
use crate::smarthome::message::number::Num;
use crate::smarthome::message::outlets::{MOST_OUTLETS, OutletDescription};

/// The reply to `get_sysinfo`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The part that seldom changes, shared with the last reading while it is the same.
    pub device: Arc<DeviceInfo>,
    /// The relay; absent on strips, where each outlet has one.
    pub relay: Option<RelayState>,
    /// The LED, if the plug has one.
    pub led: Option<RelayState>,
    /// Seconds since the relay was switched on; only while it is on.
    pub on_time: Option<u64>,
    /// Wi-Fi signal in dBm, negative.
    pub rssi: Option<i32>,
    /// The brightness of a dimmer, 0..=100 %, whether it is on or off.
    pub brightness: Option<u8>,
    /// The outlets of a strip, in the order of [`DeviceInfo::outlets`].
    pub outlets: Box<[OutletState]>,
    /// The fields of the reply that could not be read; they count as absent.
    pub unread: Box<[&'static str]>,
}

/// The longest part of a device's own kind or model that is shown, in characters.
const KIND_SHOWN: usize = 40;

/// Whether this is the device type of this family. Bulbs and devices of TP-Link's newer protocol have others.
pub fn is_plug_kind(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("IOT.SMARTPLUGSWITCH")
}

impl Reading {
    /// Whether it belongs to the family that this program serves: by its type, or by its relay if the type is missing
    /// or unknown.
    pub fn is_plug(&self) -> bool {
        let kind = self.device.kind.as_bytes();
        let names =
            |family: &[u8]| kind.get(..family.len()).is_some_and(|it| it.eq_ignore_ascii_case(family));
        is_plug_kind(&self.device.kind) || (self.has_relay() && !names(b"IOT.") && !names(b"SMART."))
    }

    /// What it is instead, if it is neither a plug nor has a relay: a bulb, a camera.
    pub fn other_kind(&self) -> Option<String> {
        let DeviceInfo { kind, model, .. } = &*self.device;
        let other = || format!("it is a {} ({})", shown(kind, KIND_SHOWN), shown(model, KIND_SHOWN));
        (!self.is_plug() && !self.has_relay()).then(other)
    }

    fn has_relay(&self) -> bool {
        self.relay.is_some() || !self.outlets.is_empty()
    }
}

/// The relay of one outlet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutletState {
    /// Whether it is on; absent if that could not be read.
    pub relay: Option<RelayState>,
    /// Seconds since it was switched on; only while it is on.
    pub on_time: Option<u64>,
}

/// The part of `get_sysinfo` that seldom changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its identity; absent only in replies that are not a plug's.
    pub device_id: Option<DeviceId>,
    /// Its MAC address, which firmwares name in different ways.
    pub mac: Option<Mac>,
    /// The name that the user gave it, any text; may be empty.
    pub alias: Box<str>,
    /// Model and region, such as `HS100(EU)`.
    pub model: Arc<str>,
    /// Hardware version, such as `4.1`.
    pub hw_version: Arc<str>,
    /// Firmware version, whole.
    pub sw_version: Arc<str>,
    /// `IOT.SMARTPLUGSWITCH` for all of this family.
    pub kind: Arc<str>,
    /// Colon-separated abilities: `TIM`, and `ENE` if the plug has a meter.
    pub feature: Arc<str>,
    /// The product name; distinguishes switches and dimmers from plugs.
    pub dev_name: Arc<str>,
    /// Whether it reports a brightness.
    pub dims: bool,
    /// The outlets of a strip.
    pub outlets: Box<[OutletDescription]>,
}

/// The kind of device, decided by its fields and never by its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A plug with one relay.
    Plug,
    /// A wall switch with one relay.
    Switch,
    /// One relay and a brightness.
    Dimmer,
    /// Several outlets.
    Strip,
}

impl DeviceInfo {
    /// Whether the plug has an energy meter. Never send `emeter` to one without.
    pub fn has_meter(&self) -> bool {
        self.feature.split(':').any(|feature| feature == "ENE")
    }

    /// The kind of device.
    pub fn what(&self) -> DeviceKind {
        if !self.outlets.is_empty() {
            DeviceKind::Strip
        } else if self.dims {
            DeviceKind::Dimmer
        } else if self.is_wall_switch() {
            DeviceKind::Switch
        } else {
            DeviceKind::Plug
        }
    }

    /// Wall switches are named light switches; a plug for lights would be named a plug.
    fn is_wall_switch(&self) -> bool {
        let name = self.dev_name.to_ascii_lowercase();
        name.contains("light") && !name.contains("plug")
    }
}

/// `system.get_sysinfo`. Firmwares name the same field in different ways; none has all of these.
#[derive(Deserialize)]
pub(super) struct RawSysInfo<'a> {
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
    #[serde(default)]
    err_code: Num,
    #[serde(skip)]
    unread: Vec<&'static str>,
}

impl<'a> RawSysInfo<'a> {
    /// Whether it reports no error.
    pub(super) fn is_sound(&self) -> bool {
        self.err_code.0 == 0
    }

    /// Parses a reply that serde's derived reader refuses. A plug that reports its identity and its state has replied,
    /// whatever error is beside them.
    pub(super) fn by_field(body: &'a RawValue) -> Result<Self, NotAnAnswer> {
        let mut fields: Fields<'a> = serde_json::from_str(body.get()).map_err(|error| malformed(&error))?;
        let mut sysinfo = Self {
            device_id: fields.text("deviceId"),
            mac: fields.text("mac"),
            mic_mac: fields.text("mic_mac"),
            ethernet_mac: fields.text("ethernet_mac"),
            alias: fields.text("alias"),
            model: fields.text("model"),
            hw_ver: fields.text("hw_ver"),
            sw_ver: fields.text("sw_ver"),
            kind: fields.text("type"),
            mic_type: fields.text("mic_type"),
            feature: fields.text("feature"),
            dev_name: fields.text("dev_name"),
            relay_state: fields.value("relay_state"),
            led_off: fields.value("led_off"),
            on_time: fields.value("on_time"),
            rssi: fields.value("rssi"),
            brightness: fields.value("brightness"),
            children: RawOutlet::all_by_field(&mut fields),
            err_code: fields.value("err_code").unwrap_or_default(),
            unread: Vec::new(),
        };
        let says_who = !sysinfo.device_id.is_empty() || sysinfo.mac().is_some();
        let says_how = sysinfo.relay_state.is_some() || !sysinfo.children.is_empty();
        if !(says_who && says_how) {
            Status::new(sysinfo.err_code, fields.text("err_msg")).check()?;
        }
        sysinfo.unread = fields.unread();
        Ok(sysinfo)
    }

    pub(super) fn into_reading(mut self, known: Option<&Arc<DeviceInfo>>) -> Result<Reading, NotAnAnswer> {
        let relay = self.relay_state.map(|state| RelayState::from_bool(state.0 != 0));
        let is_mute = self.device_id.is_empty() && relay.is_none() && self.children.is_empty();
        if is_mute && self.mac().is_none() {
            return Err(NotAnAnswer::Malformed("neither deviceId, MAC nor relay_state in it".into()));
        }
        self.children.sort_by(|one, other| one.own_digits().cmp(other.own_digits()));
        self.children.truncate(MOST_OUTLETS);
        Ok(Reading {
            relay,
            led: self.led_off.map(|off| RelayState::from_bool(off.0 == 0)),
            on_time: relay.and_then(|relay| on_time(relay, self.on_time)),
            brightness: self.brightness.and_then(|percent| u8::try_from(percent.0.clamp(0, 100)).ok()),
            outlets: self.children.iter().map(RawOutlet::state).collect(),
            rssi: self.rssi.and_then(|dbm| i32::try_from(dbm.0).ok()).filter(|&dbm| dbm != 0),
            unread: std::mem::take(&mut self.unread).into(),
            device: match known {
                Some(info) if self.is_of(info) => Arc::clone(info),
                _ => Arc::new(self.into_info()),
            },
        })
    }

    fn mac(&self) -> Option<Mac> {
        [&self.mac, &self.mic_mac, &self.ethernet_mac].into_iter().find_map(|text| Mac::new(text))
    }

    fn kind(&self) -> &str {
        if self.kind.is_empty() { &self.mic_type } else { &self.kind }
    }

    fn is_of(&self, info: &DeviceInfo) -> bool {
        let same_id = match &info.device_id {
            Some(id) => id.as_str().eq_ignore_ascii_case(&self.device_id),
            None => DeviceId::new(&self.device_id).is_none(),
        };
        same_id
            && info.alias.as_ref() == self.alias
            && info.mac == self.mac()
            && info.model.as_ref() == self.model
            && info.hw_version.as_ref() == self.hw_ver
            && info.sw_version.as_ref() == self.sw_ver
            && info.kind.as_ref() == self.kind()
            && info.feature.as_ref() == self.feature
            && info.dev_name.as_ref() == self.dev_name
            && info.dims == self.brightness.is_some()
            && info.outlets.len() == self.children.len()
            && info
                .outlets
                .iter()
                .zip(&self.children)
                .all(|(info, raw)| *info.id == *raw.id && *info.alias == *raw.alias)
    }

    fn into_info(self) -> DeviceInfo {
        DeviceInfo {
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
            outlets: self.children.into_iter().map(RawOutlet::into_info).collect(),
        }
    }
}

#[derive(Deserialize)]
struct RawOutlet<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    alias: Cow<'a, str>,
    state: Option<Num>,
    on_time: Option<Num>,
}

impl<'a> RawOutlet<'a> {
    /// The outlets of a reply that is parsed field by field. An outlet with an unreadable id gets the number that the
    /// others leave free, in the form of theirs.
    fn all_by_field(fields: &mut Fields<'a>) -> Vec<Self> {
        let items = fields.list("children");
        let mut outlets: Vec<Self> = Vec::new();
        for item in items.into_iter().take(MOST_OUTLETS) {
            let (outlet, is_whole) = Self::by_field(item);
            if !is_whole {
                fields.note_unread("children");
            }
            outlets.push(outlet);
        }
        let strip = outlets.iter().find_map(|outlet| outlet.id.get(..outlet.id.len().checked_sub(2)?));
        let strip = strip.unwrap_or_default().to_owned();
        for index in 0..outlets.len() {
            if outlets[index].id.is_empty() {
                let is_free =
                    |digits: &String| !outlets.iter().any(|outlet| outlet.own_digits() == digits.as_bytes());
                let digits = (0..=MOST_OUTLETS).map(|number| format!("{number:02}")).find(is_free);
                outlets[index].id = format!("{strip}{}", digits.unwrap_or_default()).into();
            }
        }
        outlets
    }

    /// One outlet, and whether all of it could be read.
    fn by_field(item: &'a RawValue) -> (Self, bool) {
        let Ok(mut fields) = serde_json::from_str::<Fields<'a>>(item.get()) else {
            return (Self { id: Cow::default(), alias: Cow::default(), state: None, on_time: None }, false);
        };
        let outlet = Self {
            id: fields.text("id"),
            alias: fields.text("alias"),
            state: fields.value("state"),
            on_time: fields.value("on_time"),
        };
        (outlet, fields.unread().is_empty())
    }

    /// The last two characters, which are the outlet's own in both forms of the ids.
    fn own_digits(&self) -> &[u8] {
        let id = self.id.as_bytes();
        &id[id.len().saturating_sub(2)..]
    }

    fn into_info(self) -> OutletDescription {
        OutletDescription { id: self.id.into(), alias: self.alias.into() }
    }

    fn state(&self) -> OutletState {
        let relay = self.state.map(|state| RelayState::from_bool(state.0 != 0));
        OutletState { relay, on_time: relay.and_then(|relay| on_time(relay, self.on_time)) }
    }
}

/// Some strips continue to count for outlets that are off.
fn on_time(relay: RelayState, seconds: Option<Num>) -> Option<u64> {
    seconds.filter(|_| relay.is_on()).and_then(|seconds| u64::try_from(seconds.0).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smarthome::message::{Reply, Request};

    fn reading(json: &[u8], known: Option<&Arc<DeviceInfo>>) -> Reading {
        match Request::SysInfo.read_reply(json, known) {
            Ok(Reply::SysInfo(reading)) => reading,
            other => panic!("{other:?}"),
        }
    }

    /// As an HS100 with hardware 1.0 replies, written by hand.
    const HS100: &str = r#"{"system":{"get_sysinfo":{"err_code":0,"sw_ver":"1.2.5 Build 171129 Rel.174814",
        "hw_ver":"1.0","type":"IOT.SMARTPLUGSWITCH","model":"HS100(EU)","mac":"50:C7:BF:00:00:07",
        "deviceId":"8006000000000000000000000000000000000007","alias":"K\u00fcche","dev_name":"Wi-Fi Smart Plug",
        "relay_state":1,"on_time":61,"feature":"TIM","led_off":0,"rssi":-43,"latitude":0.5,"unheard_of":[{}]}}}"#;

    #[test]
    fn sysinfo_is_read_whole() {
        let reading = reading(HS100.as_bytes(), None);
        assert_eq!(reading.relay, Some(RelayState::On));
        assert_eq!(reading.led, Some(RelayState::On));
        assert_eq!((reading.on_time, reading.rssi), (Some(61), Some(-43)));
        assert_eq!(&*reading.device.alias, "Küche");
        assert_eq!(&*reading.device.kind, "IOT.SMARTPLUGSWITCH");
        assert_eq!(reading.device.mac, Mac::new("50C7BF000007"));
        assert!(!reading.device.has_meter());
    }

    #[test]
    fn a_plate_that_still_fits_is_shared_and_another_is_not() {
        let first = reading(HS100.as_bytes(), None);
        let again = reading(HS100.as_bytes(), Some(&first.device));
        assert!(Arc::ptr_eq(&first.device, &again.device));
        let renamed = reading(HS100.replace("K\\u00fcche", "Bad").as_bytes(), Some(&first.device));
        assert!(!Arc::ptr_eq(&first.device, &renamed.device));
        assert_eq!(&*renamed.device.alias, "Bad");
    }

    #[test]
    fn newer_firmwares_name_the_kind_and_the_mac_otherwise() {
        let json = HS100.replace("\"type\"", "\"mic_type\"").replace("\"mac\"", "\"mic_mac\"");
        let reading = reading(json.as_bytes(), None);
        assert_eq!(&*reading.device.kind, "IOT.SMARTPLUGSWITCH");
        assert_eq!(reading.device.mac, Mac::new("50C7BF000007"));
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
        assert_eq!(&*reading(&json, None).device.alias, "K\u{fffd}che");
    }
    /// A strip with three outlets, written by hand: the last id first, and a count for an outlet that is off.
    const STRIP: &str = r#"{"system":{"get_sysinfo":{"err_code":0,"sw_ver":"1.0.3","hw_ver":"1.0","model":"KP303(UK)",
        "mic_type":"IOT.SMARTPLUGSWITCH","mac":"1C:3B:F3:00:00:09","alias":"Desk","feature":"TIM","led_off":1,
        "deviceId":"8006000000000000000000000000000000000009","rssi":-68,"child_num":3,"children":[
        {"id":"02","alias":"Lamp ☕","state":1,"on_time":-32407,"next_action":{"type":-1}},
        {"id":"00","alias":"Kettle","state":1,"on_time":79701,"next_action":{"type":-1}},
        {"id":"01","alias":"","state":0,"on_time":1484408,"next_action":{"type":-1}}]}}}"#;

    fn long_ids(json: &str) -> String {
        json.replace(r#""id":"0"#, r#""id":"80060000000000000000000000000000000000090"#)
    }

    #[test]
    fn the_outlets_of_a_strip_are_ordered_by_the_last_two_characters_of_their_ids() {
        for json in [STRIP.to_owned(), long_ids(STRIP)] {
            let reading = reading(json.as_bytes(), None);
            let aliases: Vec<_> = reading.device.outlets.iter().map(|outlet| &*outlet.alias).collect();
            assert_eq!(aliases, ["Kettle", "", "Lamp ☕"]);
            let relays: Vec<_> = reading.outlets.iter().map(|outlet| outlet.relay.unwrap().is_on()).collect();
            assert_eq!(relays, [true, false, true]);
            assert!(
                reading
                    .device
                    .outlets
                    .iter()
                    .zip(["00", "01", "02"])
                    .all(|(outlet, id)| outlet.id.ends_with(id))
            );
        }
        assert_eq!(
            &*reading(STRIP.as_bytes(), None).device.outlets[1].id,
            "01",
            "in the form in which it was given"
        );
        assert_eq!(reading(long_ids(STRIP).as_bytes(), None).device.outlets[1].id.len(), 42);
    }

    #[test]
    fn the_time_of_an_outlet_is_told_only_while_it_is_on_and_only_if_it_can_be() {
        let reading = reading(STRIP.as_bytes(), None);
        let times: Vec<_> = reading.outlets.iter().map(|outlet| outlet.on_time).collect();
        assert_eq!(times, [Some(79701), None, None]);
        assert_eq!((reading.relay, reading.on_time, reading.led), (None, None, Some(RelayState::Off)));
    }

    #[test]
    fn the_plate_of_a_strip_is_shared_until_an_outlet_is_renamed() {
        let first = reading(STRIP.as_bytes(), None);
        let switched = STRIP.replace(r#""state":1"#, r#""state":0"#);
        let again = reading(switched.as_bytes(), Some(&first.device));
        assert!(Arc::ptr_eq(&first.device, &again.device));
        assert_ne!(first.outlets, again.outlets);
        let changes = [
            STRIP.replace("Kettle", "Fan"),
            long_ids(STRIP),
            STRIP.replace(
                r#"{"id":"02","alias":"Lamp ☕","state":1,"on_time":-32407,"next_action":{"type":-1}},"#,
                "",
            ),
        ];
        for changed in changes {
            assert!(!Arc::ptr_eq(&first.device, &reading(changed.as_bytes(), Some(&first.device)).device));
        }
    }

    #[test]
    fn more_outlets_than_any_strip_has_are_not_believed() {
        let children: Vec<_> = (0..100).map(|n| format!(r#"{{"id":"{n:02}","state":1}}"#)).collect();
        let json = format!(r#"{{"system":{{"get_sysinfo":{{"children":[{}]}}}}}}"#, children.join(","));
        let reading = reading(json.as_bytes(), None);
        assert_eq!((reading.outlets.len(), reading.device.outlets.len()), (MOST_OUTLETS, MOST_OUTLETS));
    }

    #[test]
    fn what_a_device_is_follows_from_what_it_says() {
        let dimming = HS100.replace("\"led_off\":0", "\"led_off\":0,\"brightness\":25");
        let named = |name| HS100.replace("Wi-Fi Smart Plug", name);
        let table = [
            (HS100.to_owned(), DeviceKind::Plug),
            (named("Smart Wi-Fi Plug Lite"), DeviceKind::Plug),
            (named("Smart Wi-Fi Plug with Night Light"), DeviceKind::Plug),
            (named(""), DeviceKind::Plug),
            (named("Smart Wi-Fi Light Switch"), DeviceKind::Switch),
            (named("Smart Light Switch with PIR"), DeviceKind::Switch),
            (dimming.clone(), DeviceKind::Dimmer),
            (
                dimming.replace("Wi-Fi Smart Plug", "Kasa Smart Wi-Fi Outdoor Plug-In Dimmer"),
                DeviceKind::Dimmer,
            ),
            (dimming.replace("Wi-Fi Smart Plug", "Smart Wi-Fi Light Switch"), DeviceKind::Dimmer),
            (STRIP.to_owned(), DeviceKind::Strip),
            (HS100.replace("\"led_off\":0", "\"children\":[],\"child_num\":0"), DeviceKind::Plug),
        ];
        for (json, kind) in table {
            assert_eq!(reading(json.as_bytes(), None).device.what(), kind, "{json}");
        }
    }

    #[test]
    fn a_dimmer_tells_its_brightness_whether_it_is_on_or_off() {
        let brightness = |fields: &str| {
            let json =
                HS100.replace("\"relay_state\":1", &format!("\"relay_state\":0,\"brightness\":{fields}"));
            let reading = reading(json.as_bytes(), None);
            assert!(reading.device.dims);
            reading.brightness
        };
        assert_eq!(
            (brightness("25"), brightness("0"), brightness("\"100\"")),
            (Some(25), Some(0), Some(100))
        );
        assert_eq!((brightness("-1"), brightness("1e9")), (Some(0), Some(100)));
        let plain = reading(HS100.as_bytes(), None);
        assert_eq!((plain.brightness, plain.device.dims), (None, false));
    }

    #[test]
    fn a_meter_is_there_only_where_the_feature_is_told_whole() {
        let has_meter = |feature: &str| {
            reading(HS100.replace("\"TIM\"", &format!("\"{feature}\"")).as_bytes(), None).device.has_meter()
        };
        assert!(has_meter("TIM:ENE") && has_meter("ENE") && has_meter("ENE:TIM"));
        assert!(!has_meter("TIM") && !has_meter("") && !has_meter("TIM:ENERGY") && !has_meter("SCENE"));
    }

    #[test]
    fn a_reply_that_is_no_plugs_is_refused() {
        let read = |json: &str| Request::SysInfo.read_reply(json.as_bytes(), None);
        let Err(NotAnAnswer::Malformed(why)) = read(r#"{"system":{"get_sysinfo":{"err_code":0}}}"#) else {
            panic!()
        };
        assert!(why.contains("neither deviceId"), "{why}");
        let refused = read(r#"{"system":{"get_sysinfo":{"err_code":-3,"alias":null,"err_msg":"no"}}}"#);
        assert_eq!(refused, Err(NotAnAnswer::Device { code: -3, message: "no".into() }));
        assert!(matches!(read(r#"{"system":{"get_sysinfo":[1]}}"#), Err(NotAnAnswer::Malformed(_))));
    }

    /// Each of these made the plug unusable: no reply, no line in `discover`.
    #[test]
    fn one_odd_field_costs_itself_alone() {
        let sound = reading(HS100.as_bytes(), None);
        let swap = |one: &str, other: &str| {
            assert!(HS100.contains(one), "{one}");
            HS100.replace(one, other)
        };
        let table: &[(String, &[&str])] = &[
            (swap(r#""alias":"K\u00fcche""#, r#""alias":null"#), &["alias"]),
            (swap(r#""sw_ver":"1.2.5 Build 171129 Rel.174814""#, r#""sw_ver":null"#), &["sw_ver"]),
            (swap(r#""feature":"TIM""#, r#""feature":null"#), &["feature"]),
            (swap(r#""led_off":0"#, r#""led_off":0,"children":null"#), &["children"]),
            (swap(r#""hw_ver":"1.0""#, r#""hw_ver":1.0"#), &[]),
            (swap("-43", r#""""#), &["rssi"]),
            (swap("-43", r#""-61dBm""#), &["rssi"]),
            (swap(r#""led_off":0"#, r#""led_off":[],"led_off":{}"#), &["led_off"]),
            (swap(r#""led_off":0"#, r#""led_off":0,"led_off":0"#), &[]),
            (swap(r#""err_code":0"#, r#""err_code":"none""#), &["err_code"]),
            (swap(r#""err_code":0"#, r#""err_code":-1"#), &[]),
            (swap("K\\u00fcche", "K\\ud83d"), &[]),
            (swap("K\\u00fcche", "K\n\u{1}"), &[]),
            (format!("\u{feff}{HS100}"), &[]),
        ];
        for (json, unread) in table {
            let odd = reading(json.as_bytes(), None);
            let who = (&odd.device.device_id, odd.device.mac, odd.relay, odd.on_time, &odd.device.model);
            let expected =
                (&sound.device.device_id, sound.device.mac, sound.relay, sound.on_time, &sound.device.model);
            assert_eq!((who, &*odd.unread), (expected, *unread), "{json}");
            assert!(odd.is_plug());
        }
        let read = |json: String| reading(json.as_bytes(), None);
        assert_eq!(&*read(swap(r#""hw_ver":"1.0""#, r#""hw_ver":1.0"#)).device.hw_version, "1.0");
        assert_eq!(&*read(swap("K\\u00fcche", "K\\ud83d")).device.alias, "K\u{fffd}");
        assert_eq!(&*read(swap("K\\u00fcche", "K\n\u{1}")).device.alias, "K\n\u{1}");
    }

    #[test]
    fn an_odd_outlet_keeps_its_place_and_the_others_theirs() {
        let table = [
            (r#""id":"00""#, r#""id":null"#, [Some(true), Some(false), Some(true)]),
            (r#""id":"02""#, r#""id":{}"#, [Some(true), Some(false), Some(true)]),
            (r#""state":0"#, r#""state":"x""#, [Some(true), None, Some(true)]),
            (r#""alias":"""#, r#""alias":[]"#, [Some(true), Some(false), Some(true)]),
        ];
        for (one, other, relays) in table {
            for (strip, one) in [(STRIP.to_owned(), one.to_owned()), (long_ids(STRIP), long_ids(one))] {
                let odd = reading(strip.replace(&one, other).as_bytes(), None);
                let fields: Vec<_> =
                    odd.outlets.iter().map(|outlet| outlet.relay.map(RelayState::is_on)).collect();
                assert_eq!((&fields[..], &*odd.unread), (&relays[..], &["children"][..]), "{other}");
                let sound = reading(strip.as_bytes(), None);
                let ids = |reading: &Reading| -> Vec<Box<str>> {
                    reading.device.outlets.iter().map(|outlet| outlet.id.clone()).collect()
                };
                assert_eq!(ids(&odd), ids(&sound), "{other}");
            }
        }
        let kettle = r#"{"id":"00","alias":"Kettle","state":1,"on_time":79701,"next_action":{"type":-1}}"#;
        let odd = reading(STRIP.replace(kettle, "7").as_bytes(), None);
        assert_eq!((&*odd.device.outlets[0].id, odd.outlets[0].relay), ("00", None));
        assert_eq!((&*odd.device.outlets[2].alias, &*odd.unread), ("Lamp ☕", &["children"][..]));
    }

    #[test]
    fn what_does_not_say_what_it_is_is_a_plug_if_it_has_a_relay() {
        let kind_of = |kind: &str| HS100.replace(r#""type":"IOT.SMARTPLUGSWITCH""#, kind);
        let is_plug = |kind: &str| reading(kind_of(kind).as_bytes(), None).is_plug();
        assert!(is_plug(r#""type":null"#) && is_plug(r#""type":"""#) && is_plug(r#""type":5"#));
        assert!(is_plug(r#""type":"iot.smartplugswitch""#) && is_plug(r#""mic_type":"IOT.SMARTPLUGSWITCH""#));
        assert!(!is_plug(r#""type":"IOT.SMARTBULB""#) && !is_plug(r#""type":"SMART.TAPOPLUG""#));
        let bulb = kind_of(r#""type":"""#).replace("relay_state", "light_state");
        assert!(!reading(bulb.as_bytes(), None).is_plug());
    }
}
