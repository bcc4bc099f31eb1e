//! What was found and cannot be served as it is: devices of other kinds, and plugs that speak another language on the
//! LAN. Each is named once.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::event::{AccountPlug, ExchangeId, Happening, OtherDialect, Outcome, PlugKey, Update, What};
use super::{Bridge, in_passing};
use crate::model::{Address, Failure, Mac, PlugName};
use crate::smarthome::message::{Nameplate, Reading, is_plug_kind};

/// Some firmwares answer both discoveries: whoever answers the newer one has this long to answer the older one too.
const HEARING_OUT: Duration = Duration::from_secs(2);
/// So many are remembered, so that each is named once. A flood of made-up ones ends here.
const MOST: usize = 1000;

/// Who was named, and who may have to be.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    named: HashSet<Box<str>>,
    /// Answered the newer discovery only, so far. The next to be judged comes first.
    heard: VecDeque<(Instant, Address, OtherDialect)>,
}

impl Strangers {
    /// When the next one has been heard out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.heard.front().map(|&(due, ..)| due)
    }

    /// The plug speaks our language again; should it stop, that is worth another word.
    pub(super) fn welcome(&mut self, mac: Option<Mac>) {
        if let Some(mac) = mac.filter(|_| !self.named.is_empty()) {
            self.named.remove(&*mac.to_string());
        }
    }

    /// Whether this one has not been named before.
    fn is_first(&mut self, key: String) -> bool {
        self.named.len() < MOST && self.named.insert(key.into())
    }
}

impl Bridge {
    pub(super) fn on_other_dialect(&mut self, address: Address, device: OtherDialect, now: Instant) {
        let Strangers { named, heard } = &mut self.strangers;
        let is_heard = heard.iter().any(|(_, place, other)| *place == address || other.mac == device.mac);
        if !is_heard && heard.len() < MOST && !named.contains(&*key_of(&address, &device)) {
            heard.push_back((now + HEARING_OUT, address, device));
        }
    }

    /// Names those that had the time to answer in our language and did not.
    pub(super) fn judge_strangers(&mut self, now: Instant) {
        while self.strangers.due().is_some_and(|due| due <= now) {
            if let Some((_, address, device)) = self.strangers.heard.pop_front() {
                self.judge_stranger(&address, &device, now);
            }
        }
    }

    fn judge_stranger(&mut self, address: &Address, device: &OtherDialect, now: Instant) {
        let known = device.mac.and_then(|mac| self.recognise(None, Some(mac)));
        let plug = known.and_then(|key| self.plug(key));
        if plug.is_some_and(|plug| plug.speaks_here(now)) || (plug.is_none() && !self.adopt) {
            return;
        }
        let plug = plug.and_then(|plug| plug.name.clone());
        if !self.strangers.is_first(key_of(address, device)) {
            return;
        }
        let [model, kind, encryption] =
            [&device.model, &device.kind, &device.encryption].map(|it| in_passing(it));
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
        self.publish(Update::Happened(Happening { what: What::Unsupported, plug, route: None, detail }));
    }

    /// A bulb or the like answers where the user wrote that a plug is. It is named, and fails like a plug that is not
    /// there.
    pub(super) fn on_other_kind(
        &mut self,
        key: PlugKey,
        exchange: ExchangeId,
        reading: &Reading,
        kind: String,
        now: Instant,
    ) {
        let plate = &reading.plate;
        let plug = self.plug(key);
        let host = plug.and_then(|plug| plug.address()).map_or("the cloud".to_owned(), Address::host);
        let plug = plug.and_then(|plug| plug.name.clone());
        if self.strangers.is_first(key_on_lan(plate, &host)) {
            let alias = in_passing(&plate.alias);
            let detail = format!("found \"{alias}\" at {host}: {kind}, which hs100d does not support");
            let what = What::Unsupported;
            self.publish(Update::Happened(Happening { what, plug, route: None, detail }));
        }
        let failure = Failure::Unsupported(kind.into());
        self.with_plug(key, now, |plug, desk| plug.done(exchange, Outcome::of(Err(failure)), desk));
    }

    /// A device has the device id of another one.
    pub(super) fn name_second_of_its_id(&mut self, mac: Mac, plug: Option<PlugName>, detail: String) {
        if self.strangers.is_first(format!("second {mac}")) {
            let what = What::Unsupported;
            self.publish(Update::Happened(Happening { what, plug, route: None, detail }));
        }
    }

    /// A device that answers in our language and is no plug.
    pub(super) fn name_stranger_on_lan(&mut self, plate: &Nameplate, address: &Address) {
        let key = key_on_lan(plate, &address.host());
        let place = format!("at {}", address.host());
        self.name_stranger(key, &plate.alias, &plate.model, &plate.kind, &place);
    }

    /// A row of the account that is no plug.
    pub(super) fn name_stranger_in_account(&mut self, row: &AccountPlug) {
        let key = row.mac.map_or_else(|| row.device_id.as_str().to_owned(), |mac| mac.to_string());
        self.name_stranger(key, &row.alias, &row.model, &row.kind, "in the account");
    }

    fn name_stranger(&mut self, key: String, alias: &str, model: &str, kind: &str, place: &str) {
        if self.adopt && self.strangers.is_first(key) {
            let [alias, kind, model] = [alias, kind, model].map(in_passing);
            let detail =
                format!("found \"{alias}\" {place}: it is a {kind} ({model}), which hs100d does not support");
            self.publish(Update::Happened(Happening {
                what: What::Unsupported,
                plug: None,
                route: None,
                detail,
            }));
        }
    }
}

fn key_of(address: &Address, device: &OtherDialect) -> String {
    device.mac.map_or_else(|| address.to_string(), |mac| mac.to_string())
}

fn key_on_lan(plate: &Nameplate, host: &str) -> String {
    let id = plate.device_id.as_ref().map(|id| id.as_str().to_owned());
    plate.mac.map(|mac| mac.to_string()).or(id).unwrap_or_else(|| host.to_owned())
}
