//! What follows a reply to TDP, and the reports of devices that hs100d does not support: devices of other kinds, plugs of
//! another encryption, and plugs that refuse KLAP. Each is reported once.

use std::sync::Arc;
use std::time::Instant;

use super::event::{
    AccountPlug, ExchangeId, Identity, Notice, NoticeKind, Outcome, PlugKey, TdpReply, Update,
};
use super::plug::Plug;
use super::route::{RoutePolicy, RoutePreference};
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
            self.report_refusal(key, failure);
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
    pub(super) fn report_refusal(&mut self, key: PlugKey, failure: &Failure) {
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
        let mac = mac.map(|mac| format!(" (MAC {mac})")).unwrap_or_default();
        if self.unsupported.is_first(id) {
            let detail = format!("found a plug at {host}{mac}: {failure}: {}", cause.advice());
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
        if plug.is_some_and(|plug| plug.is_heard(now)) || (plug.is_none() && !self.adopt) {
            return;
        }
        let name = plug.and_then(|plug| plug.name.clone());
        if self.unsupported.is_first(key_of(address, reply)) {
            self.report_unsupported_device(name, address, reply);
        }
    }

    fn report_unsupported_device(&mut self, plug: Option<PlugName>, address: &Address, reply: &TdpReply) {
        let [model, kind, encryption] =
            [&reply.model, &reply.kind, &reply.encryption].map(|it| for_notice(it));
        let host = address.host();
        let kind = if kind.is_empty() { "device that does not say what it is".to_owned() } else { kind };
        let detail = if reply.is_klap_plug() {
            format!(
                "found {model} at {host}: it speaks KLAP, but its reply to discovery has no MAC to recognize it by; give \
                 this address as `host` in a [[plug]] entry"
            )
        } else if is_plug_kind(&reply.kind) {
            let protocol = if encryption.is_empty() { "another protocol" } else { &*encryption };
            format!(
                "found {model} at {host}: it speaks {protocol}, not TCP 9999; it is served over the cloud, if the \
                 account lists it; the Kasa app's \"Third-Party Compatibility\" may open TCP 9999 again"
            )
        } else {
            format!("found {model} at {host}: it is a {kind}, which hs100d does not support")
        };
        self.publish(Update::Notice(Notice { kind: NoticeKind::Unsupported, plug, route: None, detail }));
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
        let plug = plug.and_then(|plug| plug.name.clone());
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
    pub(super) fn report_unsupported_on_lan(&mut self, device: &DeviceInfo, address: &Address) {
        let key = key_on_lan(device, &address.host());
        let place = format!("at {}", address.host());
        self.report_once(key, &device.alias, &device.model, &device.kind, &place);
    }

    /// A row of the account that is no plug.
    pub(super) fn report_unsupported_in_account(&mut self, row: &AccountPlug) {
        let key = row.mac.map_or_else(|| row.device_id.as_str().to_owned(), |mac| mac.to_string());
        self.report_once(key, &row.alias, &row.model, &row.kind, "in the account");
    }

    fn report_once(&mut self, key: String, alias: &str, model: &str, kind: &str, place: &str) {
        if self.adopt && self.unsupported.is_first(key) {
            let [alias, kind, model] = [alias, kind, model].map(for_notice);
            let detail =
                format!("found \"{alias}\" {place}: it is a {kind} ({model}), which hs100d does not support");
            self.publish(Update::Notice(Notice {
                kind: NoticeKind::Unsupported,
                plug: None,
                route: None,
                detail,
            }));
        }
    }
}

fn key_on_lan(device: &DeviceInfo, host: &str) -> String {
    let id = device.device_id.as_ref().map(|id| id.as_str().to_owned());
    device.mac.map(|mac| mac.to_string()).or(id).unwrap_or_else(|| host.to_owned())
}
