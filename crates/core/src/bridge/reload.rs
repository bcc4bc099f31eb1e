//! What was known before a config was read: the plugs of earlier runs, and the address of each plug. Both are indexed:
//! with ten thousand entries none may search ten thousand plugs.

use std::collections::HashMap;

use super::event::{Identity, KnownPlug, PlugKey};
use super::plug::Plug;
use crate::model::{Address, DeviceId, Mac};

/// Plugs of earlier runs that no entry has taken yet.
pub(super) struct RememberedPlugs {
    plugs: Vec<Option<KnownPlug>>,
    by_device_id: HashMap<DeviceId, usize>,
    by_mac: HashMap<Mac, usize>,
    by_home: HashMap<Address, usize>,
}

impl RememberedPlugs {
    pub(super) fn new(known: Vec<KnownPlug>) -> Self {
        let mut remembered = Self {
            plugs: Vec::with_capacity(known.len()),
            by_device_id: HashMap::with_capacity(known.len()),
            by_mac: HashMap::with_capacity(known.len()),
            by_home: HashMap::new(),
        };
        for (index, plug) in known.into_iter().enumerate() {
            remembered.by_device_id.insert(plug.device_id.clone(), index);
            if let Some(mac) = plug.mac {
                remembered.by_mac.entry(mac).or_insert(index);
            }
            if let Some(home) = &plug.home {
                remembered.by_home.entry(home.clone()).or_insert(index);
            }
            remembered.plugs.push(Some(plug));
        }
        remembered
    }

    /// Takes the plug of an entry: by its device id, else by its MAC. An entry with neither is about the plug at its
    /// address.
    pub(super) fn take(&mut self, identity: &Identity, home: Option<&Address>) -> Option<KnownPlug> {
        let index = match (&identity.device_id, identity.mac) {
            (Some(device_id), _) => self.by_device_id.get(device_id),
            (None, Some(mac)) => self.by_mac.get(&mac),
            (None, None) => self.by_home.get(home?),
        };
        self.plugs.get_mut(*index?)?.take()
    }

    /// The plugs that no entry has taken.
    pub(super) fn into_rest(self) -> impl Iterator<Item = KnownPlug> {
        self.plugs.into_iter().flatten()
    }
}

/// The plug at each address, configured or seen, before the entries were read.
pub(super) struct PlugsByAddress(HashMap<Address, PlugKey>);

impl PlugsByAddress {
    pub(super) fn of<'a>(plugs: impl Iterator<Item = &'a Plug>) -> Self {
        let mut by_address = HashMap::new();
        for plug in plugs {
            let seen = plug.address().filter(|_| plug.is_here());
            for address in plug.configured_address().into_iter().chain(seen) {
                by_address.entry(address.clone()).or_insert(plug.key);
            }
        }
        Self(by_address)
    }

    /// The plug at this address. Another entry may have moved it since.
    pub(super) fn at(&self, address: &Address) -> Option<PlugKey> {
        self.0.get(address).copied()
    }
}
