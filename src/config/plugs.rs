//! The `[[plug]]` entries: each must identify its plug, and no two the same one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use super::diagnostic::{Diagnostic, Diagnostics, Place, Spanned, or, quoted};
use super::file;
use super::routing::{self, EnabledRoutes};
use crate::bridge::PlugSettings;
use crate::bridge::event::Identity;
use crate::bridge::route::{RoutePolicy, RoutePreference};
use crate::model::{Address, DeviceId, Mac, PlugName};

/// Makes settings of the entries. `inherited` is the policy of `[routing]`, `port` that of a host without one.
pub(super) fn validate(
    diagnostics: &mut Diagnostics,
    entries: Vec<file::Plug>,
    inherited: RoutePolicy,
    port: u16,
    enabled: EnabledRoutes,
) -> Vec<PlugSettings> {
    let mut seen = SeenIdentities::default();
    entries.into_iter().map(|entry| plug(diagnostics, &mut seen, entry, inherited, port, enabled)).collect()
}

/// The identities seen so far, with their places.
#[derive(Default)]
struct SeenIdentities {
    names: HashMap<PlugName, Place>,
    device_ids: HashMap<DeviceId, Place>,
    macs: HashMap<Mac, Place>,
    addresses: HashMap<Address, Place>,
}

fn plug(
    diagnostics: &mut Diagnostics,
    seen: &mut SeenIdentities,
    mut entry: file::Plug,
    inherited: RoutePolicy,
    port: u16,
    enabled: EnabledRoutes,
) -> PlugSettings {
    let address = entry.host.as_ref().and_then(|host| address(diagnostics, host, port));
    unique(diagnostics, &mut seen.names, entry.name.as_ref());
    unique(diagnostics, &mut seen.device_ids, entry.device_id.as_ref());
    unique(diagnostics, &mut seen.macs, entry.mac.as_ref());
    unique(diagnostics, &mut seen.addresses, address.as_ref());

    let policy = policy(diagnostics, &mut entry, inherited, enabled);
    check_identity(diagnostics, &entry, policy, enabled);
    PlugSettings {
        name: entry.name.map(|at| at.value),
        identity: Identity {
            device_id: entry.device_id.map(|at| at.value),
            mac: entry.mac.map(|at| at.value),
        },
        address: address.map(|at| at.value),
        policy,
    }
}

fn address(diagnostics: &mut Diagnostics, host: &Spanned<String>, port: u16) -> Option<Spanned<Address>> {
    let address = Address::new(&host.value, port);
    if address.is_none() {
        diagnostics.fault(host.fault(
            "must be an address or a host name, with a port if it is not local.port: \
             write it like \"192.168.1.20\" or \"kettle.lan:9999\"",
        ));
    }
    address.map(|value| Spanned { key: host.key.clone(), place: host.place, value })
}

fn unique<T: Clone + Eq + Hash + fmt::Display>(
    diagnostics: &mut Diagnostics,
    seen: &mut HashMap<T, Place>,
    at: Option<&Spanned<T>>,
) {
    let Some(at) = at else { return };
    match seen.get(&at.value) {
        Some(place) => {
            let value = quoted(&at.value.to_string());
            diagnostics.fault(at.fault(format!(
                "{value} is in {place} already: each entry is one plug; remove one of the two, or correct it"
            )));
        }
        None => _ = seen.insert(at.value.clone(), at.place),
    }
}

fn policy(
    diagnostics: &mut Diagnostics,
    entry: &mut file::Plug,
    inherited: RoutePolicy,
    enabled: EnabledRoutes,
) -> RoutePolicy {
    if let (Some(route), Some(policy)) = (&entry.route, &entry.routing.policy) {
        diagnostics.fault(
            policy.fault(format!("says the same as the route in {}: keep one of the two", route.place)),
        );
    }
    let written = entry.route.take().or_else(|| entry.routing.policy.take());
    let policy = RoutePolicy {
        preference: routing::preference(diagnostics, written.as_ref(), inherited.preference, enabled),
        cloud_after: or(entry.routing.cloud_after.as_ref(), inherited.cloud_after),
        command_ttl: or(entry.routing.command_ttl.as_ref(), inherited.command_ttl),
        poll_interval: or(entry.poll_interval.as_ref(), inherited.poll_interval),
        energy_interval: or(entry.energy_interval.as_ref(), inherited.energy_interval),
        ..inherited
    };
    routing::check_times(diagnostics, &entry.routing, policy, enabled);
    if let (RoutePreference::Cloud, Some(interval)) = (policy.preference, &entry.poll_interval) {
        diagnostics.warn(
            interval.fault(
                "has no effect on a plug that is reached over the cloud only: set cloud.poll_interval",
            ),
        );
    }
    policy
}

fn check_identity(
    diagnostics: &mut Diagnostics,
    entry: &file::Plug,
    policy: RoutePolicy,
    enabled: EnabledRoutes,
) {
    if entry.device_id.is_some() || entry.mac.is_some() {
        let helps = policy.preference != RoutePreference::Local && enabled.cloud;
        if entry.host.is_none() && !enabled.search && !helps {
            let lost = Diagnostic::of(
                "plug",
                "cannot be found: it has no address, the LAN is not searched, and there is no cloud; add host",
            );
            diagnostics.warn(Diagnostic { place: Some(entry.place), ..lost });
        }
        return;
    }
    let Some(host) = &entry.host else {
        let unidentified =
            Diagnostic::of("plug", "does not say which plug it is: add device_id, mac or host");
        return diagnostics.fault(Diagnostic { place: Some(entry.place), ..unidentified });
    };
    match policy.preference {
        RoutePreference::Cloud => {
            diagnostics.fault(host.fault("does not tell the cloud which plug it is: add device_id or mac"))
        }
        RoutePreference::LocalThenCloud if enabled.cloud => diagnostics.warn(host.fault(
            "is the only identification of the plug: the cloud can help only after the LAN has answered once; \
             add device_id or mac",
        )),
        RoutePreference::LocalThenCloud | RoutePreference::Local => {}
    }
}
