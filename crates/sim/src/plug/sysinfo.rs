//! The reply to `get_sysinfo` with the fields of the model, and the state of the cloud connection.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::plug::device::SimPlug;
use crate::plug::dimmer::Dimmer;
use crate::plug::json::fields;
use crate::plug::outlet::SimOutlet;
use crate::plug::record::SwitchedBy;

/// The `fwId` of old firmwares.
const NO_ID: &str = "00000000000000000000000000000000";

impl SimPlug {
    pub(super) fn sysinfo(&self, by: SwitchedBy, now: Instant) -> Map<String, Value> {
        let mut sysinfo = fields(json!({
            "sw_ver": self.model.sw_ver,
            "hw_ver": self.model.hw_ver,
            "model": self.model.name,
            "deviceId": self.device_id,
            "hwId": "0000000000000000000000000000AAAA",
            "oemId": "0000000000000000000000000000BBBB",
            "mac": self.mac,
            "alias": self.alias,
            "feature": self.model.feature,
            "led_off": u8::from(!self.is_led_on()),
            "updating": 0,
            "rssi": self.rssi,
        }));
        sysinfo.append(&mut match self.is_strip() {
            true => self.children(by, now),
            false => self.relay_fields(now),
        });
        for &field in self.model.fields {
            sysinfo.insert(field.to_owned(), self.field(field));
        }
        sysinfo
    }

    fn children(&self, by: SwitchedBy, now: Instant) -> Map<String, Value> {
        let child = |(number, outlet): (usize, &SimOutlet)| outlet.as_child(&self.outlet_id(number, by), now);
        let children: Vec<_> = self.outlets.iter().enumerate().map(child).collect();
        fields(json!({"child_num": children.len(), "children": children}))
    }

    fn relay_fields(&self, now: Instant) -> Map<String, Value> {
        let outlet = &self.outlets[0];
        fields(json!({
            "dev_name": self.model.dev_name,
            "relay_state": u8::from(outlet.is_on()),
            "on_time": outlet.on_time(now),
            "active_mode": if outlet.rules.due().is_some() { "count_down" } else { "none" },
            "icon_hash": "",
        }))
    }

    /// A field that only some firmwares have.
    fn field(&self, name: &str) -> Value {
        match name {
            "type" | "mic_type" => self.model.kind.into(),
            "fwId" => NO_ID.into(),
            "next_action" => json!({"type": -1}),
            "status" => "new".into(),
            "obd_src" => "tplink".into(),
            "brightness" => self.dimmer.brightness.into(),
            "preferred_state" => Dimmer::preferred_state(),
            // latitude and longitude in both spellings, ntc_state
            _ => 0.into(),
        }
    }

    pub(super) fn cloud_info(&self, now: Instant) -> Map<String, Value> {
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
}
