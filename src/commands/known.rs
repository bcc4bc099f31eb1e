//! What config and store together know about plugs: the entry for a plug, its name in topics, and its last address.

use std::collections::HashMap;

use crate::bridge::PlugSettings;
use crate::bridge::event::{Identity, KnownPlug};
use crate::config::Config;
use crate::model::{Address, DeviceId, Mac, PlugName};
use crate::smarthome::message::DeviceInfo;
use crate::store::Store;

/// The entries of the config, and the plugs of earlier runs.
pub(super) struct Known<'a> {
    pub(super) config: &'a Config,
    pub(super) plugs: Vec<KnownPlug>,
    by_device_id: HashMap<DeviceId, usize>,
    by_mac: HashMap<Mac, usize>,
    by_home: HashMap<Address, usize>,
}

impl<'a> Known<'a> {
    pub(super) fn of(config: &'a Config, store: &Store) -> Self {
        let plugs = store.known_plugs();
        let mut known = Self {
            config,
            by_device_id: HashMap::with_capacity(plugs.len()),
            by_mac: HashMap::new(),
            by_home: HashMap::new(),
            plugs: Vec::new(),
        };
        for (number, plug) in plugs.iter().enumerate() {
            known.by_device_id.insert(plug.device_id.clone(), number);
            if let Some(mac) = plug.mac {
                known.by_mac.entry(mac).or_insert(number);
            }
            if let Some(home) = &plug.home {
                known.by_home.entry(home.clone()).or_insert(number);
            }
        }
        Self { plugs, ..known }
    }

    /// The entry for this plug: by device id, by MAC, or by the address if the entry has nothing else.
    pub(super) fn entry(&self, who: &Identity, address: Option<&Address>) -> Option<&'a PlugSettings> {
        let entries = &self.config.bridge.plugs;
        let by_identity = entries.iter().find(|entry| is_same(&entry.identity, who));
        let is_there = |entry: &&PlugSettings| {
            entry.identity == Identity::default() && address.is_some() && entry.address.as_ref() == address
        };
        by_identity.or_else(|| entries.iter().find(is_there))
    }

    /// What an earlier run knew about this plug.
    pub(super) fn plug(&self, who: &Identity) -> Option<&KnownPlug> {
        let number = match (&who.device_id, who.mac) {
            (Some(device_id), _) => self.by_device_id.get(device_id),
            (None, Some(mac)) => self.by_mac.get(&mac),
            (None, None) => None,
        };
        self.plugs.get(*number?)
    }

    /// The entry, completed with what an earlier run knew about its plug, as the daemon does it. An entry that has only an
    /// address means the plug that was served there.
    pub(super) fn completed(&self, entry: &PlugSettings) -> PlugSettings {
        let PlugSettings { name, identity, address, policy } = entry.clone();
        let is_blank = identity == Identity::default();
        let home = address.as_ref().filter(|_| is_blank).and_then(|address| self.by_home.get(address));
        let before = self.plug(&identity).or_else(|| self.plugs.get(*home?));
        let identity = Identity {
            device_id: identity.device_id.or_else(|| before.map(|plug| plug.device_id.clone())),
            mac: identity.mac.or_else(|| before.and_then(|plug| plug.mac)),
        };
        let address = address.or_else(|| before.and_then(|plug| plug.address.clone()));
        PlugSettings { name, identity, address, policy }
    }

    /// Its name in topics: from the config, else as the daemon named it.
    pub(super) fn name(&self, who: &Identity, address: Option<&Address>) -> Option<&PlugName> {
        let entry = self.entry(who, address).and_then(|entry| entry.name.as_ref());
        entry.or_else(|| self.plug(who).map(|plug| &plug.name))
    }

    /// The names of its outlets in topics, in their order; empty until the daemon has named them.
    pub(super) fn outlets(&self, who: &Identity) -> &[PlugName] {
        self.plug(who).map_or(&[], |plug| &plug.outlets)
    }
}

/// The identity of a plug of an earlier run.
pub(super) fn identity_of(plug: &KnownPlug) -> Identity {
    Identity { device_id: Some(plug.device_id.clone()), mac: plug.mac }
}

/// The identity that a plug reports.
pub(super) fn identity_on(device: &DeviceInfo) -> Identity {
    Identity { device_id: device.device_id.clone(), mac: device.mac }
}

/// Whether these are two devices with the same device id.
pub(super) fn shares_id(one: &Identity, other: &Identity) -> bool {
    let macs_differ = matches!((one.mac, other.mac), (Some(ours), Some(theirs)) if ours != theirs);
    macs_differ && one.device_id.is_some() && one.device_id == other.device_id
}

/// Whether both identities are known and the same. If both have a device id, the MACs do not count.
pub(super) fn is_same(one: &Identity, other: &Identity) -> bool {
    match (&one.device_id, &other.device_id) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => one.mac.is_some() && one.mac == other.mac,
    }
}
