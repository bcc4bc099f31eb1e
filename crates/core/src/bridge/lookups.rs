//! Plugs that speak KLAP and are only asked who they are, for an entry of which only the device id is known: a reply to TDP
//! has the MAC and not that device id. Without an entry such a plug is not served; where all plugs are, none of this is needed.
//! As values; `unsupported_notices` asks them.

use std::collections::{HashMap, HashSet};

use super::event::PlugKey;
use crate::model::Mac;

/// The most plugs that are asked. This bounds a flood of invented ones.
const MAX_LOOKUPS: usize = 1000;

/// The plugs that were asked since the start, and those that are being asked. These are not counted.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    by_mac: HashMap<Mac, Lookup>,
    running: HashSet<PlugKey>,
}

#[derive(Debug)]
struct Lookup {
    /// The same each time: its transport remembers that it was refused, and no slot is used up.
    key: PlugKey,
    /// It has no entry, or another account than ours.
    is_ruled_out: bool,
}

impl Lookups {
    /// Whether this plug may be asked: it is not ruled out, and there is room for it.
    pub(super) fn may_begin(&self, mac: Mac) -> bool {
        self.by_mac.get(&mac).map_or(self.by_mac.len() < MAX_LOOKUPS, |lookup| !lookup.is_ruled_out)
    }

    /// The key to ask this plug with: `new` if it was not asked before.
    pub(super) fn begin(&mut self, mac: Mac, new: PlugKey) -> PlugKey {
        let key = self.by_mac.entry(mac).or_insert(Lookup { key: new, is_ruled_out: false }).key;
        self.running.insert(key);
        key
    }

    pub(super) fn is_running(&self, key: PlugKey) -> bool {
        self.running.contains(&key)
    }

    pub(super) fn end(&mut self, key: PlugKey) {
        self.running.remove(&key);
    }

    pub(super) fn rule_out(&mut self, mac: Mac) {
        if let Some(lookup) = self.by_mac.get_mut(&mac) {
            lookup.is_ruled_out = true;
        }
    }

    /// The entries or the account may have changed.
    pub(super) fn reconsider(&mut self) {
        self.by_mac.values_mut().for_each(|lookup| lookup.is_ruled_out = false);
    }
}
