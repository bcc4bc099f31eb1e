//! What follows a reply to TDP, and the reports of devices that hs100d does not support: devices of other kinds, plugs of
//! another encryption, and plugs that refuse KLAP. Each is reported once.

use std::sync::Arc;
use std::time::Instant;

use super::event::{
    AccountPlug, ExchangeId, Identity, Notice, NoticeKind, Outcome, PlugKey, TdpReply, Update,
};
use super::plug::Plug;
use super::route::{RoutePolicy, RoutePreference};
use super::unserved::UnservedDevice;
use super::unsupported::key_of;
use super::{Bridge, for_notice};
use crate::cause;
use crate::model::{Address, Failure, Mac, PlugName, Route};
use crate::smarthome::message::{DeviceInfo, Reading, is_plug_kind};

impl Bridge {
    /// A device replied to TDP. A plug whose LAN does not work is tried at once in the protocol that it named; else the XOR
    /// reply of the same device is awaited.
    pub(super) fn on_tdp_reply(&mut self, address: Address, reply: TdpReply, now: Instant) {
        if let Some(key) = self.klap_plug_of(&address, &reply)
            && let Some(plug) = self.plug(key)
        {
            if plug.is_here() {
                return;
            }
            if plug.is_lost_on_lan() {
                return self.sight(key, address, Some(reply.port), now);
            }
        }
        self.unsupported.add(address, reply, now);
    }

    /// Takes the devices that replied to TDP and sent no XOR reply in time.
    pub(super) fn report_unsupported(&mut self, now: Instant) {
        while let Some((address, reply)) = self.unsupported.pop_due(now) {
            match self.klap_plug_of(&address, &reply) {
                Some(key) => self.sight(key, address, Some(reply.port), now),
                None if reply.is_klap_plug() && reply.mac.is_some() => self.adopt_klap(address, &reply, now),
                None => {
                    let known = self.find(None, reply.mac);
                    self.on_unsupported_device(known, &address, &reply, now);
                }
            }
        }
    }

    /// The plug that says it speaks KLAP, if we know it: by its MAC, or by the address in its config entry.
    fn klap_plug_of(&self, address: &Address, reply: &TdpReply) -> Option<PlugKey> {
        if !reply.is_klap_plug() {
            return None;
        }
        self.find(None, reply.mac).or_else(|| self.entry_at(address, reply.mac))
    }

    /// A plug that we do not know says that it speaks KLAP. It is asked if it may be the one of an entry: at most once for
    /// each of its replies, and never again once it is ruled out.
    pub(super) fn look_up(&mut self, address: Address, reply: &TdpReply, now: Instant) {
        // In this order: the second looks at every entry.
        let may_begin = |mac: &Mac| self.lookups.may_begin(*mac) && self.awaits_identity();
        let Some(mac) = reply.mac.filter(may_begin) else { return };
        let new = self.next_key();
        let key = self.lookups.begin(mac, new);
        let policy = RoutePolicy { preference: RoutePreference::Local, ..*self.policy };
        let identity = Identity { device_id: None, mac: Some(mac) };
        self.add(Plug::new(key, identity, Arc::new(policy), now), now);
        self.sight(key, address, Some(reply.port), now);
    }

    /// Whether the LAN does not reach the plug of an entry of which only the device id is known.
    fn awaits_identity(&self) -> bool {
        let mut listed = self.listed.iter().filter_map(|&key| self.plug(key));
        listed
            .any(|plug| plug.identity.device_id.is_some() && plug.identity.mac.is_none() && plug.is_missing())
    }

    /// A plug that was only asked answered, or did not. If an entry has its device id, that is at its address now.
    pub(super) fn end_lookup(&mut self, key: PlugKey, outcome: &Outcome, now: Instant) {
        if let Err(failure) = &outcome.result {
            self.report_refusal(key, failure, now);
        }
        let Some(plug) = self.plug(key) else { return };
        let (mac, address, klap) = (plug.identity.mac, plug.address().cloned(), plug.klap());
        self.remove(key, now);
        let is_ruled_out = match &outcome.result {
            Ok(_) => outcome.reading().is_none_or(|reading| {
                self.find(reading.device.device_id.as_ref(), reading.device.mac).is_none()
            }),
            Err(failure) => matches!(failure, Failure::OtherAccount | Failure::NoLanAccount),
        };
        if let Some(mac) = mac.filter(|_| is_ruled_out) {
            self.lookups.rule_out(mac);
        }
        if let (Some(reading), Some(address)) = (outcome.reading(), address) {
            self.on_sysinfo(reading, address, klap, now);
        }
    }

    /// A plug refuses KLAP: the user can change that.
    pub(super) fn report_refusal(&mut self, key: PlugKey, failure: &Failure, now: Instant) {
        let cause = match failure {
            Failure::KlapBlocked => cause::KLAP_BLOCKED,
            Failure::OtherAccount => cause::OTHER_ACCOUNT,
            Failure::NoLanAccount => cause::NO_LAN_ACCOUNT,
            _ => return,
        };
        let Some(plug) = self.plug(key) else { return };
        let host = plug.address().map_or("the LAN".to_owned(), Address::host);
        let (name, mac) = (plug.name.clone(), plug.identity.mac);
        let id = mac.map_or_else(|| host.clone(), |mac| mac.to_string());
        let reason = format!("{failure}: {}", cause.advice());
        if name.is_none() {
            let (identity, address) = (plug.identity.clone(), plug.address().cloned());
            self.note_unserved(UnservedDevice::new(identity, address.as_ref(), reason.clone(), now), now);
        }
        let mac = mac.map(|mac| format!(" (MAC {mac})")).unwrap_or_default();
        if self.unsupported.is_first(id) {
            let detail = format!("found a plug at {host}{mac}: {reason}");
            let (kind, route) = (NoticeKind::Unsupported, Some(Route::Local));
            self.publish(Update::Notice(Notice { kind, plug: name, route, detail }));
        }
    }

    /// A device that replied to TDP only: unknown, of another kind, or a plug of another protocol.
    fn on_unsupported_device(
        &mut self,
        known: Option<PlugKey>,
        address: &Address,
        reply: &TdpReply,
        now: Instant,
    ) {
        let plug = known.and_then(|key| self.plug(key));
        if plug.is_some_and(|plug| plug.is_heard(now)) {
            return;
        }
        let name = plug.and_then(|plug| plug.name.clone());
        let is_reported = plug.is_some() || self.adopt;
        let reason = why_unsupported(reply);
        if is_reported && self.unsupported.is_first(key_of(address, reply)) {
            let detail = format!("found {} at {}: {reason}", for_notice(&reply.model), address.host());
            let (kind, plug) = (NoticeKind::Unsupported, name.clone());
            self.publish(Update::Notice(Notice { kind, plug, route: None, detail }));
        }
        if name.is_none() {
            let identity = Identity { device_id: None, mac: reply.mac };
            let found = UnservedDevice::new(identity, Some(address), reason, now);
            self.note_unserved(found.called("", &reply.model), now);
        }
    }

    /// A device of another kind, such as a bulb, replied at a plug's address. It is reported, and the exchange fails.
    pub(super) fn on_other_kind(
        &mut self,
        key: PlugKey,
        exchange: ExchangeId,
        reading: &Reading,
        kind: String,
        now: Instant,
    ) {
        let device = &reading.device;
        let plug = self.plug(key);
        let host = plug.and_then(|plug| plug.address()).map_or("the cloud".to_owned(), Address::host);
        let address = plug.and_then(|plug| plug.address().cloned());
        let plug = plug.and_then(|plug| plug.name.clone());
        if plug.is_none() {
            let identity = Identity { device_id: device.device_id.clone(), mac: device.mac };
            let reason = is_unsupported(&device.kind);
            let found = UnservedDevice::new(identity, address.as_ref(), reason, now);
            self.note_unserved(found.called(&device.alias, &device.model), now);
        }
        if self.unsupported.is_first(key_on_lan(device, &host)) {
            let alias = for_notice(&device.alias);
            let detail = format!("found \"{alias}\" at {host}: {kind}, which hs100d does not support");
            let what = NoticeKind::Unsupported;
            self.publish(Update::Notice(Notice { kind: what, plug, route: None, detail }));
        }
        let failure = Failure::Unsupported(kind.into());
        self.with_plug(key, now, |plug, ctx| plug.done(exchange, Outcome::of(Err(failure)), ctx));
    }

    /// A device has the device id of another one.
    pub(super) fn name_second_of_its_id(&mut self, mac: Mac, plug: Option<PlugName>, detail: String) {
        if self.unsupported.is_first(format!("second {mac}")) {
            let what = NoticeKind::Unsupported;
            self.publish(Update::Notice(Notice { kind: what, plug, route: None, detail }));
        }
    }

    /// A device that speaks XOR and is no plug.
    pub(super) fn report_unsupported_on_lan(&mut self, device: &DeviceInfo, address: &Address, now: Instant) {
        let key = key_on_lan(device, &address.host());
        let place = format!("at {}", address.host());
        let identity = Identity { device_id: device.device_id.clone(), mac: device.mac };
        let found = UnservedDevice::new(identity, Some(address), is_unsupported(&device.kind), now);
        self.report_other_kind(key, found.called(&device.alias, &device.model), &place, &device.kind, now);
    }

    /// A row of the account that is no plug.
    pub(super) fn report_unsupported_in_account(&mut self, row: &AccountPlug, now: Instant) {
        let key = row.mac.map_or_else(|| row.device_id.as_str().to_owned(), |mac| mac.to_string());
        let identity = Identity { device_id: Some(row.device_id.clone()), mac: row.mac };
        let found = UnservedDevice::new(identity, None, is_unsupported(&row.kind), now);
        self.report_other_kind(key, found.called(&row.alias, &row.model), "in the account", &row.kind, now);
    }

    fn report_other_kind(
        &mut self,
        key: String,
        device: UnservedDevice,
        place: &str,
        kind: &str,
        now: Instant,
    ) {
        if self.adopt && self.unsupported.is_first(key) {
            let (alias, model, kind) = (&device.alias, &device.model, for_notice(kind));
            let detail =
                format!("found \"{alias}\" {place}: it is a {kind} ({model}), which hs100d does not support");
            self.publish(Update::Notice(Notice {
                kind: NoticeKind::Unsupported,
                plug: None,
                route: None,
                detail,
            }));
        }
        self.note_unserved(device, now);
    }
}

/// Why a device that replied to TDP only cannot be served, and what to do.
fn why_unsupported(reply: &TdpReply) -> String {
    let [kind, encryption] = [&reply.kind, &reply.encryption].map(|text| for_notice(text));
    if reply.is_klap_plug() {
        "it speaks KLAP, but its reply to discovery has no MAC to recognize it by; give this address as `host` in a \
         [[plug]] entry"
            .to_owned()
    } else if is_plug_kind(&reply.kind) {
        let protocol = if encryption.is_empty() { "another protocol" } else { &*encryption };
        format!(
            "it speaks {protocol}, not TCP 9999; it is served over the cloud, if the account lists it; the Kasa app's \
             \"Third-Party Compatibility\" may open TCP 9999 again"
        )
    } else if kind.is_empty() {
        is_unsupported("device that does not say what it is")
    } else {
        is_unsupported(&kind)
    }
}

fn is_unsupported(kind: &str) -> String {
    format!("it is a {}, which hs100d does not support", for_notice(kind))
}

fn key_on_lan(device: &DeviceInfo, host: &str) -> String {
    let id = device.device_id.as_ref().map(|id| id.as_str().to_owned());
    device.mac.map(|mac| mac.to_string()).or(id).unwrap_or_else(|| host.to_owned())
}
