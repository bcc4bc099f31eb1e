//! Notes the devices that are found and not served, and lists those that are not served now.

use std::time::Instant;

use super::event::Identity;
use super::plug::Plug;
use super::unserved::{MAX_UNSERVED, UnservedDevice};
use super::{Bridge, MOST_PLUGS};

impl Bridge {
    /// A device was found that is not served.
    pub(super) fn note_unserved(&mut self, device: UnservedDevice, now: Instant) {
        if self.unserved.note(device) {
            self.publish_info_soon(now);
        }
    }

    /// Why a plug that was found is not served.
    pub(super) fn why_not_adopted(&self, identity: &Identity) -> String {
        let why = if !self.adopt {
            "discovery.adopt is false, and it has no entry: add a [[plug]] with its mac, or set discovery.adopt = true"
        } else if *identity == Identity::default() {
            "it reports neither a device id nor a MAC to recognize it by: give its address as `host` in a [[plug]] entry"
        } else if self.counts.plugs >= MOST_PLUGS {
            "too many plugs are served already: set discovery.adopt = false, and list those that you want"
        } else {
            "routing.policy is \"cloud\", and the account does not list it: add it to the account, or set another policy"
        };
        why.to_owned()
    }

    /// The devices that are not served now. A plug without a name is one of them: it has never answered.
    pub(super) fn unserved(&self) -> Vec<UnservedDevice> {
        let mut devices: Vec<_> =
            self.unserved.iter().filter(|device| !self.is_served(device)).cloned().collect();
        let silent = self.plugs.iter().flatten();
        let silent = silent.filter(|plug| plug.name.is_none() && !self.lookups.is_running(plug.key));
        for device in silent.map(Plug::unserved).take(MAX_UNSERVED) {
            if !devices.iter().any(|known| known.is_same(&device)) {
                devices.push(device);
            }
        }
        devices
    }

    fn is_served(&self, device: &UnservedDevice) -> bool {
        let Identity { device_id, mac } = &device.identity;
        let plug = self.find(device_id.as_ref(), *mac).and_then(|key| self.plug(key));
        plug.is_some_and(|plug| plug.name.is_some())
    }
}
