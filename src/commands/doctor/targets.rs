//! Which plugs are examined: those of the config; with adoption also those of the store, of the LAN and of the account.

use std::time::Duration;

use crate::bridge::PlugSettings;
use crate::bridge::event::{DiscoveryReply, Identity, Sighting, TdpReply};
use crate::bridge::route::{RoutePolicy, RoutePreference};
use crate::commands::known::{Known, identity_of, identity_on, is_same, shares_id};
use crate::config::Config;
use crate::model::{Address, shown};
use crate::smarthome::message::is_plug_kind;
use crate::store::Store;

/// The longest part of a plug's alias or model that is printed, in characters; the apps allow 31.
pub(super) const NAME_SHOWN: usize = 40;

/// A plug to be examined.
#[derive(Debug, Clone)]
pub(super) struct DoctorTarget {
    /// For the report.
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) address: Option<Address>,
    /// The user wrote the address: if the plug moved, the report says so.
    pub(super) is_written: bool,
    /// Another plug has its device id, with another MAC.
    pub(super) is_second: bool,
    pub(super) policy: RoutePreference,
    /// The time limit of one request, by route.
    pub(super) timeouts: [Duration; 2],
}

/// The plugs of the config, and with adoption those of the store.
pub(super) fn of(config: &Config, store: &Store) -> Vec<DoctorTarget> {
    let known = Known::of(config, store);
    let mut targets: Vec<DoctorTarget> = Vec::new();
    for entry in &config.bridge.plugs {
        let is_written = entry.address.is_some();
        let PlugSettings { name, identity, address, policy } = known.completed(entry);
        let name = name.map(|name| name.to_string()).or_else(|| address.as_ref().map(ToString::to_string));
        let name = name.unwrap_or_else(|| "without a name".to_owned());
        targets.push(DoctorTarget { name, identity, address, is_written, ..blank(policy) });
    }
    if config.bridge.adopt {
        for plug in &known.plugs {
            let (identity, address) = (identity_of(plug), plug.address.clone());
            if !targets.iter().any(|target| target.is(&identity, address.as_ref())) {
                let name = plug.name.to_string();
                targets.push(DoctorTarget { name, identity, address, ..blank(config.bridge.policy) });
            }
        }
    }
    targets
}

/// Adds the plugs that answered and were not known, if the config adopts them.
pub(super) fn with_heard(
    mut targets: Vec<DoctorTarget>,
    heard: &[Sighting],
    config: &Config,
) -> Vec<DoctorTarget> {
    for Sighting { address, reply } in heard.iter().filter(|_| config.bridge.adopt) {
        let (identity, name) = match reply {
            DiscoveryReply::SysInfo(reading) if reading.is_plug() => {
                (identity_on(&reading.device), shown(&reading.device.alias, NAME_SHOWN))
            }
            DiscoveryReply::Tdp(reply) if is_plug_kind(&reply.kind) => {
                let identity = Identity { device_id: None, mac: reply.mac };
                (identity, format!("{} at {}", shown(&reply.model, NAME_SHOWN), address.host()))
            }
            DiscoveryReply::SysInfo(_) | DiscoveryReply::Tdp(_) => continue,
        };
        if !targets.iter().any(|target| target.is(&identity, Some(address))) {
            let is_second = targets.iter().any(|target| shares_id(&target.identity, &identity));
            let address = Some(address.clone());
            targets.push(DoctorTarget { name, identity, address, is_second, ..blank(config.bridge.policy) });
        }
    }
    targets
}

impl DoctorTarget {
    /// Whether this is the same plug.
    pub(super) fn is(&self, identity: &Identity, address: Option<&Address>) -> bool {
        if self.identity.contradicts(identity) || shares_id(&self.identity, identity) {
            return false;
        }
        is_same(&self.identity, identity) || (address.is_some() && self.address.as_ref() == address)
    }
}

/// Whether it is a device of this family, by either protocol.
pub(super) fn is_of_the_family(reply: &TdpReply) -> bool {
    reply.kind.starts_with("IOT.")
}

/// A target of which only the policy is known.
pub(super) fn blank(policy: RoutePolicy) -> DoctorTarget {
    DoctorTarget {
        name: String::new(),
        identity: Identity::default(),
        address: None,
        is_written: false,
        is_second: false,
        policy: policy.preference,
        timeouts: [policy.local_timeout, policy.cloud_timeout],
    }
}
