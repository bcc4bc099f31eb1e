//! Replies to the newer discovery, and devices that hs100d does not support: devices of other kinds, plugs of another
//! encryption, and plugs that refuse KLAP. Each is reported once.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::event::{
    AccountPlug, ExchangeId, Notice, NoticeKind, Outcome, PlugKey, UnsupportedDevice, Update,
};
use super::{Bridge, for_notice};
use crate::cause;
use crate::model::{Address, Failure, Mac, PlugName, Route};
use crate::smarthome::message::{DeviceInfo, Reading, is_plug_kind};

/// Some firmwares answer both discoveries: after the newer one, the XOR answer is waited for this long.
const XOR_ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The most devices that are remembered as reported. This bounds a flood of invented ones.
const MAX_NAMED: usize = 1000;

/// Devices that were reported, and those that may have to be.
#[derive(Debug, Default)]
pub(super) struct UnsupportedDevices {
    named: HashSet<Box<str>>,
    /// Have answered only the newer discovery so far. The first is due first.
    heard: VecDeque<(Instant, Address, UnsupportedDevice)>,
}

impl UnsupportedDevices {
    /// When the XOR answer of the first has been waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.heard.front().map(|&(due, ..)| due)
    }

    /// The plug is served on the LAN after all. Should that end, it is reported again.
    pub(super) fn now_supported(&mut self, mac: Option<Mac>) {
        if let Some(mac) = mac.filter(|_| !self.named.is_empty()) {
            self.named.remove(&*mac.to_string());
        }
    }

    /// Whether this one has not been reported before.
    fn is_first(&mut self, key: String) -> bool {
        self.named.len() < MAX_NAMED && self.named.insert(key.into())
    }
}

impl Bridge {
    /// A device answered the newer discovery. A plug whose LAN does not work is asked at once in the protocol that it named;
    /// else the XOR answer of the same device is waited for.
    pub(super) fn on_unsupported(&mut self, address: Address, device: UnsupportedDevice, now: Instant) {
        if let Some(key) = self.klap_plug_of(&address, &device)
            && let Some(plug) = self.plug(key)
        {
            if plug.is_here() {
                return;
            }
            if plug.is_lost_on_lan() {
                return self.sight(key, address, Some(device.port), now);
            }
        }
        let UnsupportedDevices { named, heard } = &mut self.unsupported;
        let is_heard = heard.iter().any(|(_, place, other)| *place == address || other.mac == device.mac);
        if !is_heard
            && heard.len() < MAX_NAMED
            && (device.is_klap_plug() || !named.contains(&*key_of(&address, &device)))
        {
            heard.push_back((now + XOR_ANSWER_WITHIN, address, device));
        }
    }

    /// Takes those whose XOR answer was waited for in vain.
    pub(super) fn report_unsupported(&mut self, now: Instant) {
        while self.unsupported.due().is_some_and(|due| due <= now) {
            let Some((_, address, device)) = self.unsupported.heard.pop_front() else { return };
            match self.klap_plug_of(&address, &device) {
                Some(key) => self.sight(key, address, Some(device.port), now),
                None if device.is_klap_plug() && device.mac.is_some() => {
                    self.adopt_klap(address, &device, now)
                }
                None => {
                    let known = self.find(None, device.mac);
                    self.on_unsupported_device(known, &address, &device, now);
                }
            }
        }
    }

    /// The plug that says it speaks KLAP, if we know it: by its MAC, or by the address in its config entry.
    fn klap_plug_of(&self, address: &Address, device: &UnsupportedDevice) -> Option<PlugKey> {
        let mac = device.mac.filter(|_| device.is_klap_plug())?;
        self.find(None, Some(mac)).or_else(|| self.entry_at(address, mac))
    }

    /// A plug refuses KLAP: the user can change that.
    pub(super) fn report_refusal(&mut self, key: PlugKey, failure: &Failure) {
        let cause = match failure {
            Failure::KlapBlocked => cause::KLAP_BLOCKED,
            Failure::OtherAccount => cause::OTHER_ACCOUNT,
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

    fn on_unsupported_device(
        &mut self,
        known: Option<PlugKey>,
        address: &Address,
        device: &UnsupportedDevice,
        now: Instant,
    ) {
        let plug = known.and_then(|key| self.plug(key));
        if plug.is_some_and(|plug| plug.is_heard(now)) || (plug.is_none() && !self.adopt) {
            return;
        }
        let name = plug.and_then(|plug| plug.name.clone());
        if self.unsupported.is_first(key_of(address, device)) {
            self.report_unsupported_device(name, address, device);
        }
    }

    fn report_unsupported_device(
        &mut self,
        plug: Option<PlugName>,
        address: &Address,
        device: &UnsupportedDevice,
    ) {
        let [model, kind, encryption] =
            [&device.model, &device.kind, &device.encryption].map(|it| for_notice(it));
        let host = address.host();
        let kind = if kind.is_empty() { "device that does not say what it is".to_owned() } else { kind };
        let detail = if is_plug_kind(&device.kind) {
            let language = if encryption.is_empty() { "another language" } else { &*encryption };
            format!(
                "found {model} at {host}: it speaks {language}, not TCP 9999; it is served over the cloud, if the \
                 account lists it; the Kasa app's \"Third-Party Compatibility\" may open TCP 9999 again"
            )
        } else {
            format!("found {model} at {host}: it is a {kind}, which hs100d does not support")
        };
        self.publish(Update::Notice(Notice { kind: NoticeKind::Unsupported, plug, route: None, detail }));
    }

    /// A device of another kind, such as a bulb, answered at a plug's address. It is reported, and the exchange fails.
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

fn key_of(address: &Address, device: &UnsupportedDevice) -> String {
    device.mac.map_or_else(|| address.to_string(), |mac| mac.to_string())
}

fn key_on_lan(device: &DeviceInfo, host: &str) -> String {
    let id = device.device_id.as_ref().map(|id| id.as_str().to_owned());
    device.mac.map(|mac| mac.to_string()).or(id).unwrap_or_else(|| host.to_owned())
}
