//! Which plug is which: plugs are found, named, joined with the account, and removed.

use std::sync::Arc;
use std::time::Instant;

use super::event::{AccountPlug, Action, Identity, KnownPlug, Notice, NoticeKind, PlugKey, TdpReply, Update};
use super::plug::{KlapPort, Plug};
use super::reload::{PlugsByAddress, RememberedPlugs};
use super::route::RoutePreference;
use super::unserved::UnservedDevice;
use super::{Bridge, Counts, MOST_PLUGS, PlugSettings, for_notice};
use crate::model::{Address, DeviceId, Mac, PlugName};
use crate::smarthome::message::{DeviceInfo, Outlet, Reading};

impl Bridge {
    /// The plug with this identity. One MAC with two device ids is two plugs.
    pub(super) fn find(&self, device_id: Option<&DeviceId>, mac: Option<Mac>) -> Option<PlugKey> {
        let key = self.registry.find(device_id, mac)?;
        let known = self.plug(key)?.identity.device_id.as_ref();
        let is_other = matches!((device_id, known), (Some(ours), Some(theirs)) if ours != theirs);
        (!is_other).then_some(key)
    }

    /// Finds or makes the plug of one config entry: one that exists, one from an earlier run, or a new one.
    pub(super) fn list(
        &mut self,
        entry: PlugSettings,
        remembered: &mut RememberedPlugs,
        inhabitants: &PlugsByAddress,
        now: Instant,
    ) -> PlugKey {
        let PlugSettings { name, mut identity, address, policy } = entry;
        let policy = self.shared(policy);
        let remembered = remembered.take(&identity, address.as_ref());
        if let Some(plug) = &remembered {
            identity.device_id.get_or_insert_with(|| plug.device_id.clone());
            identity.mac = identity.mac.or(plug.mac);
        }
        let standing = self
            .find(identity.device_id.as_ref(), identity.mac)
            .or_else(|| self.entry_before(name.as_ref(), address.as_ref(), inhabitants, &identity));
        if let Some(before) = standing.and_then(|key| self.plug(key)).map(|plug| plug.identity.clone()) {
            identity = Identity {
                device_id: identity.device_id.or(before.device_id),
                mac: identity.mac.or(before.mac),
            };
        }
        let key = standing.unwrap_or_else(|| {
            self.add(Plug::new(self.next_key(), identity.clone(), Arc::clone(&policy), now), now)
        });
        let given = name.or_else(|| remembered.as_ref().map(|plug| plug.name.clone()));
        if let Some(name) = given {
            self.rename(key, name, now);
        }
        self.registry.enter(key, &identity);
        let outlets = remembered.as_ref().map(|plug| plug.outlets.clone()).unwrap_or_default();
        // An address that the user wrote since is newer than the remembered one.
        let (protocol, klap_port) =
            remembered.as_ref().map_or((None, None), |plug| (plug.protocol, plug.klap_port));
        let last = remembered.filter(|plug| address.is_none() || plug.home == address);
        self.touch(key, now, |plug, ctx| {
            plug.identity = identity;
            plug.adopt_policy(policy, ctx.now);
            plug.set_configured_address(address, ctx);
            plug.remembered_at(last.and_then(|plug| plug.address));
            plug.remember_protocol(protocol, klap_port);
        });
        if !outlets.is_empty() {
            self.restore_outlets(key, outlets, now);
        }
        self.remember(key);
        key
    }

    /// The plug of an entry that the user rewrote: of the same name or at the same address, unless its identity
    /// contradicts.
    fn entry_before(
        &self,
        name: Option<&PlugName>,
        address: Option<&Address>,
        inhabitants: &PlugsByAddress,
        identity: &Identity,
    ) -> Option<PlugKey> {
        let named = name.and_then(|name| self.registry.named(name));
        let named = named.and_then(|(key, outlet)| outlet.is_none().then_some(key));
        let named = named.filter(|key| self.listed.contains(key));
        let is_there = |plug: &Plug| {
            plug.configured_address() == address || (plug.is_here() && plug.address() == address)
        };
        let at_address = address.and_then(|address| inhabitants.at(address));
        let at_address = at_address.filter(|&key| self.plug(key).is_some_and(is_there));
        let may_be = |key: &PlugKey| self.plug(*key).is_some_and(|plug| !plug.identity.contradicts(identity));
        named.filter(may_be).or(at_address.filter(may_be))
    }

    /// Adds a plug of an earlier run.
    pub(super) fn restore(&mut self, known: KnownPlug, now: Instant) {
        let identity = Identity { device_id: Some(known.device_id), mac: known.mac };
        let key = self.add(Plug::new(self.next_key(), identity, Arc::clone(&self.policy), now), now);
        let name = match self.registry.named(&known.name) {
            None => known.name,
            Some(_) => self.registry.name_for(known.name.as_str(), "", known.mac),
        };
        self.rename(key, name, now);
        self.restore_outlets(key, known.outlets, now);
        self.touch(key, now, |plug, _| {
            plug.remembered_at(known.address);
            plug.remember_protocol(known.protocol, known.klap_port);
        });
        self.remember(key);
    }

    /// Notes who answered. False if the plug is another entry's as well, and this one was removed for it.
    pub(super) fn learn(&mut self, key: PlugKey, device: &DeviceInfo, now: Instant) -> bool {
        let Some(plug) = self.plug(key) else { return false };
        let Identity { device_id, mac } = &plug.identity;
        let is_complete =
            (device_id.is_some() || device.device_id.is_none()) && (mac.is_some() || device.mac.is_none());
        if is_complete && plug.name.is_some() {
            self.learn_outlets(key, device, now);
            return true;
        }
        if device.device_id.is_none() && device.mac.is_none() {
            return true;
        }
        let identity = Identity {
            device_id: device.device_id.clone().or_else(|| device_id.clone()),
            mac: device.mac.or(*mac),
        };
        let other = match &device.device_id {
            Some(device_id) => self.registry.find(Some(device_id), None),
            None => self.registry.find(None, device.mac),
        };
        let other = other.filter(|&other| other != key);
        if other.is_some_and(|other| self.merge(key, other, device, now) != key) {
            return false;
        }
        self.registry.enter(key, &identity);
        let unnamed = self.plug(key).is_some_and(|plug| plug.name.is_none());
        let name = unnamed.then(|| self.registry.name_for(&device.alias, &device.model, device.mac));
        if let Some(plug) = self.plugs[key.0 as usize].as_mut() {
            plug.identity = identity;
        }
        match name {
            Some(name) => {
                self.report_found(key, &name, device);
                self.rename(key, name, now);
            }
            None => self.remember(key),
        }
        self.learn_outlets(key, device, now);
        true
    }

    /// A plug that was found on the LAN without a name, and is none of the config, has its name.
    fn report_found(&mut self, key: PlugKey, name: &PlugName, device: &DeviceInfo) {
        if !self.listed.contains(&key) {
            let host = self.plug(key).and_then(Plug::address).map_or("the LAN".to_owned(), Address::host);
            let detail = format!("{} at {host}", for_notice(&device.model));
            let (kind, plug) = (NoticeKind::PlugFound, Some(name.clone()));
            self.publish(Update::Notice(Notice { kind, plug, route: None, detail }));
        }
    }

    /// Names the outlets that a strip reports for the first time. A strip that reports fewer than before keeps their names:
    /// an incomplete answer must not remove topics.
    fn learn_outlets(&mut self, key: PlugKey, device: &DeviceInfo, now: Instant) {
        let Some(plug) = self.plug(key).filter(|plug| plug.outlet_names().count() < device.outlets.len())
        else {
            return;
        };
        let strip = plug.name.clone().unwrap_or_else(PlugName::placeholder);
        let mut names: Vec<_> = plug.outlet_names().cloned().collect();
        for (number, outlet) in (1..).zip(&*device.outlets).skip(names.len()) {
            let name = self.registry.name_for(&outlet.alias, &format!("{strip}-{number}"), device.mac);
            // Entered now, so that the next outlet gets another one.
            self.registry.enter_name((key, None), name.clone());
            names.push(name);
        }
        self.name_outlets(key, names, now);
        self.remember(key);
        // The strip may be published already; its outlets are not.
        self.touch(key, now, Plug::republish);
    }

    /// Gives the outlets their names of an earlier run, except those that another plug has by now.
    fn restore_outlets(&mut self, key: PlugKey, mut names: Vec<PlugName>, now: Instant) {
        for (outlet, name) in (0..).zip(&mut names) {
            let place = (key, Some(outlet));
            if self.registry.named(name).is_some_and(|holder| holder != place) {
                let mac = self.plug(key).and_then(|plug| plug.identity.mac);
                *name = self.registry.name_for(name.as_str(), "", mac);
            }
            self.registry.enter_name(place, name.clone());
        }
        self.name_outlets(key, names, now);
    }

    fn name_outlets(&mut self, key: PlugKey, names: Vec<PlugName>, now: Instant) {
        for (outlet, name) in (0..).zip(&names) {
            self.registry.enter_name((key, Some(outlet)), name.clone());
            self.publish(Update::Expected(name.clone()));
        }
        self.touch(key, now, |plug, _| plug.set_outlet_names(names));
    }

    /// Two entries are one plug, or two plugs with one device id: the one in the config stays, the other is removed.
    /// Returns the one that stays.
    fn merge(&mut self, key: PlugKey, other: PlugKey, device: &DeviceInfo, now: Instant) -> PlugKey {
        let (removed, kept) = if self.listed.contains(&other) { (key, other) } else { (other, key) };
        let mac = self.plug(other).and_then(|plug| plug.identity.mac);
        let are_two = matches!((mac, device.mac), (Some(one), Some(other)) if one != other);
        let name = |key| self.plug(key).and_then(|plug| plug.name.clone());
        let (removed_name, kept_name) = (name(removed), name(kept));
        let word = |name: &Option<PlugName>| name.as_ref().map_or("an entry".to_owned(), ToString::to_string);
        let detail = if are_two {
            let place_of = |it| {
                let host = self.plug(it).and_then(Plug::address).map(Address::host);
                (host, if it == key { device.mac } else { mac })
            };
            same_device_id(&word(&removed_name), &place_of(removed), &word(&kept_name), &place_of(kept))
        } else {
            format!(
                "{} and {} are the same plug; serving it as the latter",
                word(&removed_name),
                word(&kept_name)
            )
        };
        self.publish(Update::Notice(Notice { kind: NoticeKind::PlugGone, plug: None, route: None, detail }));
        let address = self.plug(removed).and_then(|plug| plug.address().cloned());
        let klap = self.plug(removed).and_then(Plug::klap);
        self.remove(removed, now);
        if let (None, Some(name)) = (kept_name, removed_name) {
            self.rename(kept, name, now);
        }
        if let (true, Some(address)) = (removed == key && !are_two, address) {
            self.sight(kept, address, klap, now);
        }
        kept
    }

    /// Whether the device at this address is not the plug with its device id, and that plug answers. Reported once.
    pub(super) fn is_second_of_its_id(
        &mut self,
        key: PlugKey,
        device: &DeviceInfo,
        address: &Address,
        now: Instant,
    ) -> bool {
        let Some(plug) = self.plug(key) else { return false };
        let (Some(mac), Some(found)) = (plug.identity.mac, device.mac) else { return false };
        let is_other = mac != found && device.device_id.is_some() && plug.address() != Some(address);
        if !is_other || !plug.is_heard(now) {
            return false;
        }
        let name = plug.name.clone();
        let served = (plug.address().map(Address::host), Some(mac));
        let other = (Some(address.host()), Some(found));
        let kept = name.as_ref().map_or("an entry".to_owned(), ToString::to_string);
        let alias = format!("\"{}\"", for_notice(&device.alias));
        let detail = same_device_id(&alias, &other, &kept, &served);
        let second = UnservedDevice::new(
            Identity { device_id: None, mac: Some(found) },
            Some(address),
            detail.clone(),
            now,
        );
        self.note_unserved(second.called(&device.alias, &device.model), now);
        self.name_second_of_its_id(found, name, format!("found {detail}"));
        true
    }

    /// Whether a plug that was found may be served. One with neither a device id nor a MAC cannot be distinguished from others.
    pub(super) fn may_adopt(&self, device: &DeviceInfo) -> bool {
        let is_identified = device.device_id.is_some() || device.mac.is_some();
        self.adopt && is_identified && self.counts.plugs < MOST_PLUGS
    }

    pub(super) fn adopt_from_lan(
        &mut self,
        reading: &Reading,
        address: Address,
        klap: Option<KlapPort>,
        now: Instant,
    ) {
        let device = &reading.device;
        let identity = Identity { device_id: device.device_id.clone(), mac: device.mac };
        let name = self.registry.name_for(&device.alias, &device.model, device.mac);
        let detail = format!("{} at {}", for_notice(&device.model), address.host());
        let key = self.add_found(identity, name, detail, now);
        self.sight(key, address, klap, now);
    }

    /// Adds a plug that says it speaks KLAP. It has no name until it answers, for its reply to discovery has no alias.
    pub(super) fn adopt_klap(&mut self, address: Address, device: &TdpReply, now: Instant) {
        // The device id in this reply is another one than that of its sysinfo.
        let identity = Identity { device_id: None, mac: device.mac };
        let may_use_lan = self.policy.preference != RoutePreference::Cloud;
        if !self.adopt || !may_use_lan || self.counts.plugs >= MOST_PLUGS {
            let reason = self.why_not_adopted(&identity);
            let found = UnservedDevice::new(identity, Some(&address), reason, now);
            self.note_unserved(found.called("", &device.model), now);
            if !self.adopt {
                self.look_up(address, device, now);
            }
            return;
        }
        let key = self.add(Plug::new(self.next_key(), identity, Arc::clone(&self.policy), now), now);
        self.sight(key, address, Some(device.port), now);
    }

    pub(super) fn adopt_from_account(&mut self, row: AccountPlug, now: Instant) {
        let name = self.registry.name_for(&row.alias, &row.model, row.mac);
        let detail = format!("{} in the account", for_notice(&row.model));
        let identity = Identity { device_id: Some(row.device_id), mac: row.mac };
        let key = self.add_found(identity, name, detail, now);
        self.with_plug(key, now, |_, _| {});
    }

    pub(super) fn add_found(
        &mut self,
        identity: Identity,
        name: PlugName,
        detail: String,
        now: Instant,
    ) -> PlugKey {
        let key = self.add(Plug::new(self.next_key(), identity, Arc::clone(&self.policy), now), now);
        self.publish(Update::Notice(Notice {
            kind: NoticeKind::PlugFound,
            plug: Some(name.clone()),
            route: None,
            detail,
        }));
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
        self.with_plug(key, now, |plug, ctx| {
            plug.identity = identity;
            plug.refresh(ctx.now);
        });
        self.remember(key);
    }

    /// Gives a plug its name, and clears the topics of its old one. Another plug that has the name gets a new one.
    pub(super) fn rename(&mut self, key: PlugKey, name: PlugName, now: Instant) {
        match self.registry.named(&name) {
            Some((holder, None)) if holder != key => {
                let mac = self.plug(holder).and_then(|plug| plug.identity.mac);
                let other = self.registry.name_for(name.as_str(), "", mac);
                self.rename(holder, other, now);
            }
            Some((holder, Some(outlet))) => self.rename_outlet(holder, outlet, now),
            _ => {}
        }
        let Some(plug) = self.plugs[key.0 as usize].as_mut() else { return };
        if plug.name.as_ref() == Some(&name) {
            return;
        }
        let before = plug.name.clone();
        plug.set_name(name.clone());
        if let Some(before) = before {
            self.registry.strike_name(&before);
            self.publish(Update::Gone(before));
        }
        self.registry.enter_name((key, None), name);
        self.remember(key);
        self.touch(key, now, Plug::republish);
    }

    /// An outlet gets another name, because the user gave its name to a plug.
    fn rename_outlet(&mut self, key: PlugKey, outlet: Outlet, now: Instant) {
        let Some(plug) = self.plug(key) else { return };
        let mut names: Vec<_> = plug.outlet_names().cloned().collect();
        let Some(name) = names.get_mut(usize::from(outlet)) else { return };
        let other = self.registry.name_for(name.as_str(), "", plug.identity.mac);
        let before = std::mem::replace(name, other);
        self.registry.strike_name(&before);
        self.publish(Update::Gone(before));
        self.name_outlets(key, names, now);
        self.remember(key);
        self.touch(key, now, Plug::republish);
    }

    pub(super) fn forget(&mut self, key: PlugKey, name: &PlugName, now: Instant) -> Result<(), String> {
        if self.listed.contains(&key) {
            return Err(format!("{name} is in the config: remove its [[plug]] entry there and reload"));
        }
        let device_id = self.plug(key).and_then(|plug| plug.identity.device_id.clone());
        self.remove(key, now);
        self.actions.extend(device_id.map(Action::Forget));
        Ok(())
    }

    /// Removes a plug. The store keeps it.
    pub(super) fn remove(&mut self, key: PlugKey, now: Instant) {
        self.touch(key, now, Plug::retire);
        let before = self.counts_of(key);
        let Some(plug) = self.plugs[key.0 as usize].take() else { return };
        self.count(before, Counts::default(), now);
        self.timers.set(key, None);
        self.registry.strike(key);
        self.listed.remove(&key);
        self.lookups.end(key);
        for outlet in plug.outlet_names() {
            self.publish(Update::Gone(outlet.clone()));
        }
        if let Some(name) = plug.name {
            let gone = Notice {
                kind: NoticeKind::PlugGone,
                plug: Some(name.clone()),
                route: None,
                detail: String::new(),
            };
            self.publish(Update::Notice(gone));
            self.publish(Update::Gone(name));
        }
    }

    pub(super) fn remember(&mut self, key: PlugKey) {
        if let Some(known) = self.plug(key).and_then(Plug::known) {
            self.actions.push_back(Action::Remember(known));
        }
    }

    /// The entry with this address whose plug is not known yet, and may be the one with this MAC. One without a MAC may be
    /// any.
    pub(super) fn entry_at(&self, address: &Address, mac: Option<Mac>) -> Option<PlugKey> {
        let awaits = |plug: &&Plug| {
            let Identity { device_id, mac: known } = &plug.identity;
            let may_be = known.is_none() || mac.is_none() || *known == mac;
            may_be && (device_id.is_none() || known.is_none() || mac.is_none())
        };
        self.entries_at(address).find(awaits).map(|plug| plug.key)
    }

    /// Whether an entry with this address does not know yet whether this is its plug.
    pub(super) fn is_awaited_at(&self, address: &Address, device: &DeviceInfo) -> bool {
        self.entries_at(address).any(|plug| plug.identity.admits(device))
    }

    /// The plugs whose entries have this address.
    fn entries_at(&self, address: &Address) -> impl Iterator<Item = &Plug> {
        let plugs = self.listed.iter().filter_map(|&key| self.plug(key));
        plugs.filter(move |plug| plug.configured_address() == Some(address))
    }
}

/// Where a device is on the LAN, and its MAC.
type Whereabouts = (Option<String>, Option<Mac>);

/// Two devices with one device id, which cannot both be served.
fn same_device_id(other: &str, its: &Whereabouts, kept: &str, served: &Whereabouts) -> String {
    let words = |(host, mac): &Whereabouts| {
        let host = host.as_deref().unwrap_or("an unknown address");
        mac.map_or_else(|| host.to_owned(), |mac| format!("{host}, MAC {mac}"))
    };
    format!(
        "{other} ({}): it has the device id of {kept} ({}), and only {kept} is served; to serve the other as well, run a \
         second hs100d with its `host` in [[plug]], adopt = false, and a base_topic and STATE_DIRECTORY of its own",
        words(its),
        words(served),
    )
}
