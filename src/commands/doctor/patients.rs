//! Who is examined: the plugs of the config, and with adoption those of the store, those that make themselves heard on
//! the LAN, and those of the account.

use std::time::Duration;

use super::plugs::OnLan;
use crate::bridge::PlugSettings;
use crate::bridge::event::{Identity, OtherDialect, Said, Sighting};
use crate::bridge::route::{Policy, RoutePolicy};
use crate::commands::known::{Known, identity_of, identity_on, is_same, shares_id};
use crate::config::Config;
use crate::model::{Address, shown};
use crate::smarthome::message::is_plug_kind;
use crate::store::Store;
use crate::transport::cloud::api::Row;

/// The most of a stranger's alias or model that is repeated, in characters; the apps take 31.
pub(super) const NAME_SHOWN: usize = 40;

/// A plug to be examined.
#[derive(Debug, Clone)]
pub(super) struct Patient {
    /// For a line of ours.
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) address: Option<Address>,
    /// The address was written by the user, so that a plug that moved is worth a word.
    pub(super) is_written: bool,
    /// Another one has its device id, and another MAC.
    pub(super) is_second: bool,
    pub(super) policy: Policy,
    /// The longest that a question may take, by route.
    pub(super) patience: [Duration; 2],
}

/// The plugs of the config, and with adoption those of the store.
pub(super) fn of(config: &Config, store: &Store) -> Vec<Patient> {
    let known = Known::of(config, store);
    let mut patients: Vec<Patient> = Vec::new();
    for entry in &config.bridge.plugs {
        let is_written = entry.address.is_some();
        let PlugSettings { name, identity, address, policy } = known.completed(entry);
        let name = name.map(|name| name.to_string()).or_else(|| address.as_ref().map(ToString::to_string));
        let name = name.unwrap_or_else(|| "without a name".to_owned());
        patients.push(Patient { name, identity, address, is_written, ..blank(policy) });
    }
    if config.bridge.adopt {
        for plug in &known.plugs {
            let (identity, address) = (identity_of(plug), plug.address.clone());
            if !patients.iter().any(|patient| patient.is(&identity, address.as_ref())) {
                let name = plug.name.to_string();
                patients.push(Patient { name, identity, address, ..blank(config.bridge.policy) });
            }
        }
    }
    patients
}

/// With those that were heard and that nobody knew, if they are to be adopted.
pub(super) fn with_heard(mut patients: Vec<Patient>, heard: &[Sighting], config: &Config) -> Vec<Patient> {
    for Sighting { address, said } in heard.iter().filter(|_| config.bridge.adopt) {
        let (identity, name) = match said {
            Said::SysInfo(reading) if reading.is_plug() => {
                (identity_on(&reading.plate), shown(&reading.plate.alias, NAME_SHOWN))
            }
            Said::Other(device) if is_plug_kind(&device.kind) => {
                let identity = Identity { device_id: None, mac: device.mac };
                (identity, format!("{} at {}", shown(&device.model, NAME_SHOWN), address.host()))
            }
            Said::SysInfo(_) | Said::Other(_) => continue,
        };
        if !patients.iter().any(|patient| patient.is(&identity, Some(address))) {
            let is_second = patients.iter().any(|patient| shares_id(&patient.identity, &identity));
            let address = Some(address.clone());
            patients.push(Patient { name, identity, address, is_second, ..blank(config.bridge.policy) });
        }
    }
    patients
}

/// With those that only the account knows, if they are to be adopted.
pub(super) fn with_account(mut on_the_lan: Vec<OnLan>, rows: Option<&[Row]>, config: &Config) -> Vec<OnLan> {
    let mut rows: Vec<_> = rows.unwrap_or_default().iter().filter(|row| is_plug_kind(&row.kind)).collect();
    rows.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    // With adoption whoever was heard is one of them.
    let is_anybody_heard = on_the_lan.iter().any(OnLan::heard_somebody);
    for row in rows.into_iter().filter(|_| config.bridge.adopt) {
        let identity = Identity { device_id: Some(row.device_id.clone()), mac: row.mac };
        if !on_the_lan.iter().any(|known| known.patient.is(&identity, None)) {
            let name = shown(&row.alias, NAME_SHOWN);
            let patient = Patient { name, identity, ..blank(config.bridge.policy) };
            on_the_lan.push(OnLan::without_address(patient, is_anybody_heard, config));
        }
    }
    on_the_lan
}

impl Patient {
    /// Whether this is about the same plug.
    fn is(&self, identity: &Identity, address: Option<&Address>) -> bool {
        if self.identity.contradicts(identity) || shares_id(&self.identity, identity) {
            return false;
        }
        is_same(&self.identity, identity) || (address.is_some() && self.address.as_ref() == address)
    }
}

/// Whether it is a device of this family, whatever it speaks.
pub(super) fn is_of_the_family(device: &OtherDialect) -> bool {
    device.kind.starts_with("IOT.")
}

/// Nobody, to be reached so.
fn blank(policy: RoutePolicy) -> Patient {
    Patient {
        name: String::new(),
        identity: Identity::default(),
        address: None,
        is_written: false,
        is_second: false,
        policy: policy.policy,
        patience: [policy.local_timeout, policy.cloud_timeout],
    }
}
