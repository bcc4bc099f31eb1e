//! Which plug the user means: by the config, then by the name that the daemon gave, then by its alias on the LAN or in the
//! account. A name that fits two plugs is an error that lists both.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::known::{Known, identity_of, identity_on, is_same, shares_id};
use super::{Exit, Failed};
use crate::bridge::PlugSettings;
use crate::bridge::event::{DiscoveryReply, Identity, KnownPlug, Sighting, TdpReply};
use crate::model::{Address, DeviceId, Mac, shown};
use crate::smarthome::message::{DeviceInfo, Outlet};
use crate::transport::cloud::Cloud;
use crate::transport::discovery::Discovery;

/// How long to search the LAN for a plug that neither config nor store know.
const SEARCH: Duration = Duration::from_secs(3);
/// How long other plugs with the same alias may take to answer: a round asks three times within 600 ms.
const NAMESAKES: Duration = Duration::from_millis(1500);
/// The search ends after this long without an answer; on a busy machine answers come late.
const QUIET: Duration = Duration::from_millis(700);
/// The longest part of a device's text that is printed, in characters.
const WORDS_SHOWN: usize = 40;

/// The plug, and the outlet if the user named one of a strip.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PlugTarget {
    pub(super) entry: PlugSettings,
    pub(super) outlet: Option<Outlet>,
}

/// Finds it. Without a cloud the account is not searched.
///
/// # Errors
/// No plug fits, or several do.
pub(super) async fn find(text: &str, known: &Known<'_>, cloud: Option<&Cloud>) -> Result<PlugTarget, Failed> {
    let wanted = TargetQuery::new(text, known.config.local.port);
    if let Some(target) = wanted.known_exactly(known) {
        return Ok(target);
    }
    // An unknown address may still be a plug's; the account knows no addresses.
    if let (true, Some(address)) = (wanted.is_numeric, &wanted.address) {
        return Ok(known.target(Identity::default(), Some(address.clone()), None));
    }
    let mut found = Found::default();
    wanted.look_at_names(known, &mut found);
    wanted.look_around(known, &mut found).await;
    if let Some(target) = found.only_one(text, known)? {
        return Ok(target);
    }
    if let Some(cloud) = cloud {
        let rows = cloud.list().await.map_err(|error| {
            let exit = Failed::from(error.clone()).exit;
            Failed::new(
                exit,
                format!("{text}: {}, and the account cannot be asked: {error}", found.on_the_lan(known)),
            )
        })?;
        for row in rows.iter().map(crate::transport::cloud::api::Row::to_account_plug) {
            let identity = Identity { device_id: Some(row.device_id), mac: row.mac };
            if wanted.is(&identity, &row.alias) {
                found.add(match known.plug(&identity) {
                    Some(plug) => known.target_of(plug, None),
                    None => known.target(identity, None, None),
                });
            }
        }
        if let Some(target) = found.only_one(text, known)? {
            return Ok(target);
        }
    }
    Err(found.not_found(text, known, cloud.is_some()))
}

impl Known<'_> {
    /// A plug, with the routes of its entry in the config.
    fn target(&self, identity: Identity, address: Option<Address>, outlet: Option<Outlet>) -> PlugTarget {
        let entry = self.entry(&identity, address.as_ref());
        let policy = entry.map_or(self.config.bridge.policy, |entry| entry.policy);
        let address = address.or_else(|| entry.and_then(|entry| entry.address.clone()));
        PlugTarget { entry: PlugSettings { name: None, identity, address, policy }, outlet }
    }

    /// A plug of an earlier run.
    fn target_of(&self, plug: &KnownPlug, outlet: Option<Outlet>) -> PlugTarget {
        let identity = identity_of(plug);
        let written = self.entry(&identity, plug.home.as_ref()).and_then(|entry| entry.address.clone());
        self.target(identity, written.or_else(|| plug.address.clone()), outlet)
    }

    /// A plug of the config.
    fn target_in(&self, entry: &PlugSettings) -> PlugTarget {
        PlugTarget { entry: self.completed(entry), outlet: None }
    }
}

/// The plugs that fit.
#[derive(Default)]
struct Found {
    targets: Vec<PlugTarget>,
    /// It answers on the LAN, by another protocol.
    other: Option<(Address, TdpReply)>,
}

impl Found {
    /// Adds one, if it is new.
    fn add(&mut self, target: PlugTarget) {
        let is_it = |known: &&mut PlugTarget| {
            let (ours, theirs) = (&known.entry, &target.entry);
            let same_place = ours.address.is_some() && ours.address == theirs.address;
            let same_plug = is_same(&ours.identity, &theirs.identity)
                || (same_place && !ours.identity.contradicts(&theirs.identity));
            same_plug && !shares_id(&ours.identity, &theirs.identity) && known.outlet == target.outlet
        };
        match self.targets.iter_mut().find(is_it) {
            // The newest sighting has the right address.
            Some(known) => known.entry.address = target.entry.address.or(known.entry.address.take()),
            None => self.targets.push(target),
        }
    }

    /// The only one, if there is exactly one.
    fn only_one(&mut self, text: &str, known: &Known<'_>) -> Result<Option<PlugTarget>, Failed> {
        if self.targets.len() > 1 {
            let mut described: Vec<_> = self.targets.iter().map(|target| target.described(known)).collect();
            described.sort();
            let line = format!(
                "{text}: {} plugs have this name: {}: use a topic name, an address or a MAC",
                described.len(),
                described.join("; ")
            );
            return Err(Failed::new(Exit::CommandFailed, line));
        }
        Ok(self.targets.pop())
    }

    /// The result of the search on the LAN.
    fn on_the_lan(&self, known: &Known<'_>) -> String {
        match &self.other {
            Some((address, device)) => {
                let protocol = shown(&device.encryption, WORDS_SHOWN);
                format!("{} speaks {protocol}, not the protocol of TCP port 9999", address.host())
            }
            None if known.config.discovery.is_some() => "does not answer on the LAN".to_owned(),
            None => "is not in the config".to_owned(),
        }
    }

    fn not_found(&self, text: &str, known: &Known<'_>, is_account_asked: bool) -> Failed {
        let account = if is_account_asked { ", and the account does not list it" } else { "" };
        let line = if self.other.is_some() {
            format!(
                "{text}: {}{account}: switch on Third-Party Compatibility in the Kasa app (Me > Settings), or reach it \
                 over the cloud with [cloud]",
                self.on_the_lan(known)
            )
        } else {
            let lan = match &known.config.discovery {
                Some(_) => "answers on the LAN",
                None => "is in the config, and the LAN is not searched (discovery.lan)",
            };
            format!(
                "{text}: no plug of that name, alias, MAC or device id {lan}{account}: see `hs100d discover`, or use its \
                 address"
            )
        };
        Failed::new(Exit::CommandFailed, line)
    }
}

impl PlugTarget {
    /// As one of several: its topic name if it has one, where it is, and its MAC or device id.
    fn described(&self, known: &Known<'_>) -> String {
        let PlugSettings { identity, address, .. } = &self.entry;
        let name = match self.outlet {
            None => known.name(identity, address.as_ref()),
            Some(outlet) => known.outlets(identity).get(usize::from(outlet)),
        };
        let outlet = self.outlet.map(|outlet| format!("outlet {}", usize::from(outlet) + 1));
        let id = identity.mac.map(|mac| mac.to_string());
        let id = id.or_else(|| identity.device_id.as_ref().map(|id| id.as_str().to_owned()));
        let place = match address {
            Some(address) => format!("at {}", address.host()),
            None => "at an address that is not known".to_owned(),
        };
        let named = name.map(ToString::to_string);
        let parts = [named, outlet, Some(place), id.map(|id| format!("({id})"))];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// What the user's text may mean.
struct TargetQuery<'a> {
    text: &'a str,
    address: Option<Address>,
    /// It is an IP address, so not a name.
    is_numeric: bool,
    mac: Option<Mac>,
    device_id: Option<DeviceId>,
}

impl<'a> TargetQuery<'a> {
    fn new(text: &'a str, port: u16) -> Self {
        let address = Address::new(text, port);
        let is_numeric = address.as_ref().and_then(Address::socket).is_some();
        let mac = Mac::new(text);
        let device_id = DeviceId::new(text).filter(|_| mac.is_none());
        Self { text, address, is_numeric, mac, device_id }
    }

    /// What can mean only one plug in the config or in the store: a name exactly as written, an address, a MAC or a device
    /// id.
    fn known_exactly(&self, known: &Known<'_>) -> Option<PlugTarget> {
        let is_entry = |entry: &&PlugSettings| {
            entry.name.as_ref().is_some_and(|name| name.as_str() == self.text)
                || self.is_identity(&entry.identity)
                || (self.address.is_some() && self.address == entry.address)
        };
        if let Some(entry) = known.config.bridge.plugs.iter().find(is_entry) {
            return Some(known.target_in(entry));
        }
        known.plugs.iter().find_map(|plug| {
            let is_it = plug.name.as_str() == self.text
                || self.is_identity(&identity_of(plug))
                || (self.is_numeric && self.address == plug.address);
            if is_it {
                return Some(known.target_of(plug, None));
            }
            let place = plug.outlets.iter().position(|name| name.as_str() == self.text)?;
            Some(known.target_of(plug, Some(Outlet::try_from(place).ok()?)))
        })
    }

    /// The names of config and store in another case.
    fn look_at_names(&self, known: &Known<'_>, found: &mut Found) {
        for entry in &known.config.bridge.plugs {
            if entry.name.as_ref().is_some_and(|name| self.is_called(name.as_str())) {
                found.add(known.target_in(entry));
            }
        }
        for plug in &known.plugs {
            if self.is_called(plug.name.as_str()) {
                found.add(known.target_of(plug, None));
            }
            for (outlet, name) in (0..).zip(&plug.outlets) {
                if self.is_called(name.as_str()) {
                    found.add(known.target_of(plug, Some(outlet)));
                }
            }
        }
    }

    /// Asks the LAN. A MAC or a device id belongs to one plug; an alias may belong to several, so all answers are waited
    /// for.
    async fn look_around(&self, known: &Known<'_>, found: &mut Found) {
        let Some(options) = known.config.discovery.clone() else { return };
        let mut discovery = Discovery::start(options);
        let begun = Instant::now();
        let mut heard = begun;
        loop {
            let end = match found.targets.is_empty() {
                true => begun + SEARCH,
                false => (heard + QUIET).clamp(begun + NAMESAKES, begun + SEARCH),
            };
            let Ok(Sighting { address, reply }) = timeout_at(end, discovery.next()).await else {
                return;
            };
            heard = Instant::now();
            match reply {
                DiscoveryReply::SysInfo(reading) => {
                    let device = &reading.device;
                    let identity = identity_on(device);
                    if self.is(&identity, &device.alias) {
                        found.add(known.target(identity.clone(), Some(address.clone()), None));
                    }
                    for outlet in self.outlets_on(device) {
                        found.add(known.target(identity.clone(), Some(address.clone()), Some(outlet)));
                    }
                    if self.is_identity(&identity) {
                        return;
                    }
                }
                DiscoveryReply::Tdp(reply) if self.mac.is_some() && self.mac == reply.mac => {
                    found.other = Some((address, reply));
                }
                DiscoveryReply::Tdp(_) => {}
            }
        }
    }

    fn is(&self, identity: &Identity, alias: &str) -> bool {
        self.is_identity(identity) || self.is_called(alias)
    }

    fn is_identity(&self, identity: &Identity) -> bool {
        (self.device_id.is_some() && self.device_id == identity.device_id)
            || (self.mac.is_some() && self.mac == identity.mac)
    }

    fn is_called(&self, alias: &str) -> bool {
        alias.to_lowercase() == self.text.to_lowercase()
    }

    /// The outlets that their owner calls so.
    fn outlets_on(&self, device: &DeviceInfo) -> impl Iterator<Item = Outlet> {
        let outlets = (0..).zip(&*device.outlets);
        outlets.filter(|(_, outlet)| self.is_called(&outlet.alias)).map(|(number, _)| number)
    }
}
