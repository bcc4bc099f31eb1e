//! Finds a plug by device id, MAC address or topic name, and gives new plugs their names.

use std::collections::HashMap;

use super::event::{Identity, PlugKey};
use super::slug::slug;
use crate::model::{DeviceId, Mac, PlugName};
use crate::smarthome::message::Outlet;

/// A plug, or one outlet of a strip.
pub(super) type PlugPart = (PlugKey, Option<Outlet>);

/// The indexes of all plugs.
#[derive(Debug, Default)]
pub(super) struct Registry {
    by_device_id: HashMap<DeviceId, PlugKey>,
    by_mac: HashMap<Mac, PlugKey>,
    by_name: HashMap<PlugName, PlugPart>,
    /// The last number appended to each name, so that a thousand plugs of one alias are not counted each time.
    numbers: HashMap<String, u32>,
}

impl Registry {
    pub(super) fn named(&self, name: &PlugName) -> Option<PlugPart> {
        self.by_name.get(name).copied()
    }

    /// The plug with this identity: by its device id, else by its MAC.
    pub(super) fn find(&self, device_id: Option<&DeviceId>, mac: Option<Mac>) -> Option<PlugKey> {
        let by_device_id = device_id.and_then(|id| self.by_device_id.get(id));
        by_device_id.or_else(|| mac.and_then(|mac| self.by_mac.get(&mac))).copied()
    }

    pub(super) fn enter(&mut self, key: PlugKey, identity: &Identity) {
        if let Some(device_id) = &identity.device_id {
            self.by_device_id.insert(device_id.clone(), key);
        }
        if let Some(mac) = identity.mac {
            self.by_mac.insert(mac, key);
        }
    }

    pub(super) fn enter_name(&mut self, place: PlugPart, name: PlugName) {
        self.by_name.insert(name, place);
    }

    pub(super) fn strike(&mut self, key: PlugKey) {
        self.by_device_id.retain(|_, &mut entry| entry != key);
        self.by_mac.retain(|_, &mut entry| entry != key);
        self.by_name.retain(|_, &mut (entry, _)| entry != key);
    }

    pub(super) fn strike_name(&mut self, name: &PlugName) {
        self.by_name.remove(name);
    }

    /// A name for a plug without one in the config: the slug of its alias, else of its model or strip. If another plug has
    /// it, the last digits of the MAC are appended, else a number.
    pub(super) fn name_for(&mut self, alias: &str, otherwise: &str, mac: Option<Mac>) -> PlugName {
        let mut base = slug(alias);
        if base.is_empty() {
            base = slug(otherwise);
        }
        if base.is_empty() || base == PlugName::RESERVED {
            base = "plug".into();
        }
        let plain = [Some(String::new()), mac.map(|mac| format!("-{}", mac.tail()))];
        let free = |name: &PlugName| !self.by_name.contains_key(name);
        for ending in plain.into_iter().flatten() {
            if let Some(name) = joined(&base, &ending).filter(free) {
                return name;
            }
        }
        let number = self.numbers.entry(base.clone()).or_insert(1);
        loop {
            *number += 1;
            if let Some(name) = joined(&base, &format!("-{number}")).filter(free) {
                return name;
            }
        }
    }
}

/// `base` and `ending`, with `base` cut so that the name is not too long.
fn joined(base: &str, ending: &str) -> Option<PlugName> {
    let room = PlugName::MAX_LEN.saturating_sub(ending.len());
    let base = &base[..base.len().min(room)];
    PlugName::new(&format!("{}{ending}", base.trim_end_matches('-'))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_ask_has_the_plain_slug_and_later_ones_an_ending() {
        let mut registry = Registry::default();
        let mut name = |alias, mac| {
            let name = registry.name_for(alias, "HS100(EU)", Mac::new(mac));
            registry.enter_name((PlugKey(0), None), name.clone());
            name.to_string()
        };
        assert_eq!(name("Lamp", "50:C7:BF:00:00:01"), "lamp");
        assert_eq!(name("Lamp", "50:C7:BF:00:00:02"), "lamp-0002");
        assert_eq!(name("lamp!", "50:C7:BF:01:00:02"), "lamp-2");
        assert_eq!(name("", "50:C7:BF:00:00:03"), "hs100-eu");
        assert_eq!(name("🔌", "50:C7:BF:00:00:04"), "hs100-eu-0004");
        assert_eq!(name("bridge", "50:C7:BF:00:00:05"), "plug");
    }

    #[test]
    fn a_long_alias_gives_a_name_that_fits_with_its_ending() {
        let mut registry = Registry::default();
        let alias = "ä".repeat(300);
        let first = registry.name_for(&alias, "", Mac::new("50:C7:BF:00:00:01"));
        registry.enter_name((PlugKey(0), None), first.clone());
        let second = registry.name_for(&alias, "", Mac::new("50:C7:BF:00:00:02"));
        assert_eq!(first.as_str().len(), 64);
        assert!(second.as_str().ends_with("a-0002") && second.as_str().len() == 64, "{second}");
    }
}
