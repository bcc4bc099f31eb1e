//! Who is who: how plugs come into the house, are recognised, named, joined with the account, and leave it.

use std::time::Instant;

use super::event::{AccountPlug, Action, Happening, Identity, KnownPlug, PlugKey, Update, What};
use super::plug::Plug;
use super::{Bridge, Census, PlugSettings};
use crate::model::{Address, PlugName};
use crate::smarthome::message::{Nameplate, Reading};

impl Bridge {
    /// Brings one entry of the user's list to a plug: one that stands already, one from an earlier run, or a new one.
    pub(super) fn list(&mut self, entry: PlugSettings, known: &mut Vec<KnownPlug>, now: Instant) -> PlugKey {
        let PlugSettings { name, mut identity, address, policy } = entry;
        let is_it = |plug: &KnownPlug| match (&identity.device_id, identity.mac) {
            (Some(id), _) => *id == plug.device_id,
            (None, Some(mac)) => plug.mac == Some(mac),
            (None, None) => address.is_some() && plug.address == address,
        };
        let remembered = known.iter().position(is_it).map(|place| known.swap_remove(place));
        if let Some(plug) = &remembered {
            identity.device_id.get_or_insert_with(|| plug.device_id.clone());
            identity.mac = identity.mac.or(plug.mac);
        }
        let standing = self
            .registry
            .find(identity.device_id.as_ref(), identity.mac)
            .or_else(|| name.as_ref().and_then(|name| self.registry.named(name)))
            .or_else(|| self.at_home(address.as_ref()));
        let key = standing
            .unwrap_or_else(|| self.add(Plug::new(self.next_key(), identity.clone(), policy, now), now));
        let given = name.or_else(|| remembered.as_ref().map(|plug| plug.name.clone()));
        if let Some(name) = given {
            self.rename(key, name, now);
        }
        self.registry.enter(key, &identity);
        self.touch(key, now, |plug, desk| {
            plug.identity = identity;
            plug.adopt_policy(policy, desk.now);
            plug.settle_at(address);
            plug.remembered_at(remembered.and_then(|plug| plug.address));
        });
        key
    }

    pub(super) fn revive(&mut self, known: KnownPlug, now: Instant) {
        let identity = Identity { device_id: Some(known.device_id), mac: known.mac };
        let key = self.add(Plug::new(self.next_key(), identity, self.policy, now), now);
        let name = match self.registry.named(&known.name) {
            None => known.name,
            Some(_) => return self.remove(key, now),
        };
        self.rename(key, name, now);
        self.touch(key, now, |plug, _| plug.remembered_at(known.address));
    }

    /// Takes note of who answered. False if the plug turns out to be another entry's, and is given up for it.
    pub(super) fn learn(&mut self, key: PlugKey, plate: &Nameplate, now: Instant) -> bool {
        let Some(plug) = self.plug(key) else { return false };
        let complete =
            plug.identity.device_id.is_some() && (plug.identity.mac.is_some() || plate.mac.is_none());
        if complete && plug.name.is_some() {
            return true;
        }
        let Some(device_id) = &plate.device_id else { return true };
        let twin = self.registry.find(Some(device_id), None).filter(|&twin| twin != key);
        if let Some(twin) = twin {
            let (loser, winner) = if self.listed.contains(&twin) { (key, twin) } else { (twin, key) };
            let name = |key| {
                self.plug(key).and_then(|plug| plug.name.as_ref()).map_or("one entry", PlugName::as_str)
            };
            let detail =
                format!("{} and {} are the same plug; serving it as the latter", name(loser), name(winner));
            self.publish(Update::Happened(Happening { what: What::PlugGone, plug: None, detail }));
            let address = self.plug(loser).and_then(|plug| plug.address().cloned());
            self.remove(loser, now);
            if loser == key {
                if let Some(address) = address {
                    self.with_plug(winner, now, |plug, desk| plug.sighted(address, desk));
                }
                return false;
            }
        }
        let identity = Identity { device_id: Some(device_id.clone()), mac: plate.mac };
        self.registry.enter(key, &identity);
        let unnamed = self.plug(key).is_some_and(|plug| plug.name.is_none());
        let name = unnamed.then(|| self.registry.name_for(&plate.alias, plate));
        if let Some(plug) = self.plugs[key.0 as usize].as_mut() {
            plug.identity = identity;
        }
        match name {
            Some(name) => self.rename(key, name, now),
            None => self.remember(key),
        }
        true
    }

    pub(super) fn adopt_from_lan(&mut self, reading: &Reading, address: Address, now: Instant) {
        let plate = &reading.plate;
        let identity = Identity { device_id: plate.device_id.clone(), mac: plate.mac };
        let name = self.registry.name_for(&plate.alias, plate);
        let detail = format!("{} at {}", plate.model, address.host());
        let key = self.welcome(identity, name, detail, now);
        self.with_plug(key, now, |plug, desk| plug.sighted(address, desk));
    }

    pub(super) fn adopt_from_account(&mut self, row: AccountPlug, now: Instant) {
        let plate = Nameplate {
            device_id: Some(row.device_id),
            mac: row.mac,
            alias: row.alias,
            model: row.model,
            hw_version: "".into(),
            sw_version: "".into(),
            kind: row.kind,
            feature: "".into(),
            dev_name: "".into(),
        };
        let name = self.registry.name_for(&plate.alias, &plate);
        let detail = format!("{} in the account", plate.model);
        let key = self.welcome(Identity { device_id: plate.device_id, mac: plate.mac }, name, detail, now);
        self.with_plug(key, now, |_, _| {});
    }

    pub(super) fn welcome(
        &mut self,
        identity: Identity,
        name: PlugName,
        detail: String,
        now: Instant,
    ) -> PlugKey {
        let key = self.add(Plug::new(self.next_key(), identity, self.policy, now), now);
        self.publish(Update::Happened(Happening { what: What::PlugFound, plug: Some(name.clone()), detail }));
        self.rename(key, name, now);
        key
    }

    pub(super) fn join_account(&mut self, key: PlugKey, row: &AccountPlug, now: Instant) {
        let Some(plug) = self.plug(key) else { return };
        if plug.identity.device_id.is_some() {
            return;
        }
        let identity = Identity { device_id: Some(row.device_id.clone()), mac: row.mac };
        self.registry.enter(key, &identity);
        self.with_plug(key, now, |plug, desk| {
            plug.identity = identity;
            plug.refresh(desk.now);
        });
        self.remember(key);
    }

    pub(super) fn name_stranger(&mut self, model: &str, kind: &str, place: &str) {
        if self.strangers.insert(format!("{model} {kind} {place}").into()) {
            let detail = format!("{model} ({kind}), found at {place}, is not a plug that hs100d supports");
            self.publish(Update::Happened(Happening { what: What::Unsupported, plug: None, detail }));
        }
    }

    /// Gives a plug its name, and clears what the broker keeps under the one before.
    pub(super) fn rename(&mut self, key: PlugKey, name: PlugName, now: Instant) {
        let Some(plug) = self.plugs[key.0 as usize].as_mut() else { return };
        if plug.name.as_ref() == Some(&name) {
            return;
        }
        let before = plug.name.clone();
        plug.christen(name.clone());
        if let Some(before) = before {
            self.registry.strike_name(&before);
            self.publish(Update::Gone(before));
        }
        self.registry.enter_name(key, name);
        self.remember(key);
        self.touch(key, now, Plug::republish);
    }

    pub(super) fn forget(&mut self, key: PlugKey, name: &PlugName, now: Instant) -> Result<(), String> {
        if self.listed.contains(&key) {
            return Err(format!("{name} stands in the config: remove its [[plug]] entry there and reload"));
        }
        self.remove(key, now);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: PlugKey, now: Instant) {
        self.touch(key, now, Plug::retire);
        let before = self.census_of(key);
        let Some(plug) = self.plugs[key.0 as usize].take() else { return };
        self.count(before, Census::default(), now);
        self.timers.set(key, None);
        self.registry.strike(key);
        self.listed.remove(&key);
        if let Some(name) = plug.name {
            let gone = Happening { what: What::PlugGone, plug: Some(name.clone()), detail: String::new() };
            self.publish(Update::Happened(gone));
            self.publish(Update::Gone(name));
        }
        if let Some(device_id) = plug.identity.device_id {
            self.actions.push_back(Action::Forget(device_id));
        }
    }

    pub(super) fn remember(&mut self, key: PlugKey) {
        if let Some(known) = self.plug(key).and_then(Plug::known) {
            self.actions.push_back(Action::Remember(known));
        }
    }
}
