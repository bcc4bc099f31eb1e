//! Plugs that speak KLAP and are only asked who they are, for an entry of which only the device id is known: a reply to TDP
//! has the MAC and not that device id. Without an entry such a plug is not served; where all plugs are, none of this is needed.
//! As values; `unsupported_notices` asks them.

use std::collections::HashMap;

use super::event::PlugKey;
use crate::model::Mac;

/// The most plugs that are asked. This bounds a flood of invented ones.
const MAX_LOOKUPS: usize = 1000;

/// The plugs that were asked since the start.
#[derive(Debug, Default)]
pub(super) struct Lookups(HashMap<Mac, Lookup>);

#[derive(Debug)]
struct Lookup {
    /// The same each time: its transport remembers that it was refused, and no slot is used up.
    key: PlugKey,
    /// It has no entry, or another account than ours.
    is_ruled_out: bool,
}

impl Lookups {
    /// The key to ask this plug with; `new` if it was not asked before. `None` if it is not asked.
    pub(super) fn begin(&mut self, mac: Mac, new: PlugKey) -> Option<PlugKey> {
        let is_full = self.0.len() >= MAX_LOOKUPS && !self.0.contains_key(&mac);
        let lookup =
            (!is_full).then(|| self.0.entry(mac).or_insert(Lookup { key: new, is_ruled_out: false }))?;
        (!lookup.is_ruled_out).then_some(lookup.key)
    }

    pub(super) fn rule_out(&mut self, mac: Mac) {
        if let Some(lookup) = self.0.get_mut(&mac) {
            lookup.is_ruled_out = true;
        }
    }

    /// The entries or the account may have changed.
    pub(super) fn reconsider(&mut self) {
        self.0.values_mut().for_each(|lookup| lookup.is_ruled_out = false);
    }
}
