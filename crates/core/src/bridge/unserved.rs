//! The devices that were found and are not served, and why, as values: for a user who looks for one. `unserved_list`
//! notes and lists them.

use std::collections::HashMap;
use std::time::Instant;

use super::event::Identity;
use crate::model::{Address, Mac, shown};

/// The most devices that are listed. A device on the LAN may invent them.
pub(super) const MAX_UNSERVED: usize = 200;
/// The most characters of what it says about itself. The apps take aliases of 31.
const MAX_TEXT: usize = 40;

/// A device that was found and is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedDevice {
    /// Its alias; empty if it did not say one.
    pub alias: Box<str>,
    /// Its model; empty if it did not say one.
    pub model: Box<str>,
    /// Its device id and its MAC, as far as they are known.
    pub identity: Identity,
    /// Its address on the LAN; `None` if only the account lists it.
    pub host: Option<Box<str>>,
    /// Why it is not served, and what to do.
    pub reason: Box<str>,
    /// When it was last seen; `None` for a plug of the config that never was.
    pub seen: Option<Instant>,
}

/// Devices that were found and are not served, since the config was read.
#[derive(Debug, Default)]
pub(super) struct UnservedDevices(HashMap<Box<str>, UnservedDevice>);

impl UnservedDevice {
    /// A device that was seen in the account, or at this address.
    pub(super) fn new(identity: Identity, address: Option<&Address>, reason: String, now: Instant) -> Self {
        let host = address.map(|address| address.host().into());
        Self { alias: "".into(), model: "".into(), identity, host, reason: reason.into(), seen: Some(now) }
    }

    /// With the texts that it says about itself, escaped and shortened.
    pub(super) fn called(self, alias: &str, model: &str) -> Self {
        Self { alias: shown(alias, MAX_TEXT).into(), model: shown(model, MAX_TEXT).into(), ..self }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.identity.mac, other.identity.mac) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.host.is_some() && self.host == other.host,
        }
    }

    /// Its MAC, which every way to find it says; else its device id or address.
    fn key(&self) -> Option<Box<str>> {
        let Identity { device_id, mac } = &self.identity;
        let mac = mac.map(|mac: Mac| mac.to_string().into());
        let id = || device_id.as_ref().map(|id| id.as_str().into());
        mac.or_else(id).or_else(|| self.host.clone())
    }
}

impl UnservedDevices {
    /// A device was found that is not served. True if it is a new one.
    pub(super) fn note(&mut self, mut device: UnservedDevice) -> bool {
        let Some(key) = device.key() else { return false };
        let Some(known) = self.0.get_mut(&key) else {
            let has_room = self.0.len() < MAX_UNSERVED;
            if has_room {
                self.0.insert(key, device);
            }
            return has_room;
        };
        // The account does not know its address, and some ways to find it do not know its alias.
        let UnservedDevice { alias, model, host, .. } = known.clone();
        device.host = device.host.or(host);
        if device.alias.is_empty() {
            device.alias = alias;
        }
        if device.model.is_empty() {
            device.model = model;
        }
        *known = device;
        false
    }

    /// The config changed, and with it the reasons.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &UnservedDevice> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(mac: &str, now: Instant) -> UnservedDevice {
        let identity = Identity { device_id: None, mac: Mac::new(mac) };
        UnservedDevice::new(identity, None, "it is a bulb".to_owned(), now)
    }

    #[test]
    fn a_device_that_is_found_again_keeps_what_only_one_way_knows() {
        let (mut devices, now) = (UnservedDevices::default(), Instant::now());
        let address = Address::new("192.168.7.9", 9999).unwrap();
        let on_lan = UnservedDevice { host: Some(address.host().into()), ..device("50C7BF000001", now) };
        assert!(devices.note(on_lan.called("Hall", "KL110")));
        let later = now + std::time::Duration::from_secs(60);
        assert!(!devices.note(device("50C7BF000001", later)));
        let shown: Vec<_> = devices.iter().cloned().collect();
        let expected = UnservedDevice {
            alias: "Hall".into(),
            model: "KL110".into(),
            host: Some("192.168.7.9".into()),
            ..device("50C7BF000001", later)
        };
        assert_eq!(shown, [expected]);
    }

    #[test]
    fn a_flood_of_invented_devices_is_bounded_and_cannot_fill_the_page_with_one_text() {
        let (mut devices, now) = (UnservedDevices::default(), Instant::now());
        for number in 0..10_000 {
            let found = device(&format!("{number:012X}"), now).called(&"x".repeat(10_000), "a\nb");
            devices.note(found);
        }
        assert_eq!(devices.iter().count(), MAX_UNSERVED);
        assert!(devices.iter().all(|device| device.alias.len() < 200 && !device.model.contains('\n')));
    }
}
