//! The `[[plug]]` entries: each must say who the plug is, and no two may speak of the same one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use super::file::Plug;
use super::reader::{Diagnostic, Spanned, quoted};
use super::validate::{EnabledRoutes, Validator, or};
use crate::bridge::PlugSettings;
use crate::bridge::event::Identity;
use crate::bridge::route::{RoutePolicy, RoutePreference};
use crate::model::{Address, DeviceId, Mac, PlugName};

/// Makes settings of the entries. `inherited` stands where an entry says nothing; `port` where a host has
/// none.
pub(super) fn validate(
    judge: &mut Validator<'_>,
    entries: Vec<Plug>,
    inherited: RoutePolicy,
    port: u16,
    ways: EnabledRoutes,
) -> Vec<PlugSettings> {
    let mut seen = SeenIdentities::default();
    entries.into_iter().map(|entry| plug(judge, &mut seen, entry, inherited, port, ways)).collect()
}

/// Who was spoken of, and in which line.
#[derive(Default)]
struct SeenIdentities {
    names: HashMap<PlugName, usize>,
    device_ids: HashMap<DeviceId, usize>,
    macs: HashMap<Mac, usize>,
    addresses: HashMap<Address, usize>,
}

fn plug(
    judge: &mut Validator<'_>,
    seen: &mut SeenIdentities,
    mut entry: Plug,
    inherited: RoutePolicy,
    port: u16,
    ways: EnabledRoutes,
) -> PlugSettings {
    let address = entry.host.as_ref().and_then(|host| address(judge, host, port));
    unique(judge, &mut seen.names, entry.name.as_ref());
    unique(judge, &mut seen.device_ids, entry.device_id.as_ref());
    unique(judge, &mut seen.macs, entry.mac.as_ref());
    unique(judge, &mut seen.addresses, address.as_ref());

    let policy = policy(judge, &mut entry, inherited, ways);
    look_at_identity(judge, &entry, policy, ways);
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

fn address(judge: &mut Validator<'_>, host: &Spanned<String>, port: u16) -> Option<Spanned<Address>> {
    let address = Address::new(&host.value, port);
    if address.is_none() {
        judge.fault(host.fault(
            "must be an address or a host name, with a port if it is not local.port: \
             write it like \"192.168.1.20\" or \"kettle.lan:9999\"",
        ));
    }
    address.map(|value| Spanned { key: host.key.clone(), line: host.line, value })
}

fn unique<T: Clone + Eq + Hash + fmt::Display>(
    judge: &mut Validator<'_>,
    seen: &mut HashMap<T, usize>,
    at: Option<&Spanned<T>>,
) {
    let Some(at) = at else { return };
    match seen.get(&at.value) {
        Some(line) => {
            let value = quoted(&at.value.to_string());
            judge.fault(at.fault(format!(
                "{value} is in line {line} already: each [[plug]] is one plug; remove one of the two, or correct it"
            )));
        }
        None => _ = seen.insert(at.value.clone(), at.line),
    }
}

fn policy(
    judge: &mut Validator<'_>,
    entry: &mut Plug,
    inherited: RoutePolicy,
    ways: EnabledRoutes,
) -> RoutePolicy {
    if let (Some(route), Some(policy)) = (&entry.route, &entry.routing.policy) {
        judge.fault(
            policy.fault(format!("says the same as the route in line {}: keep one of the two", route.line)),
        );
    }
    let written = entry.route.take().or_else(|| entry.routing.policy.take());
    let policy = RoutePolicy {
        preference: judge.way(written.as_ref(), inherited.preference, ways),
        cloud_after: or(entry.routing.cloud_after.as_ref(), inherited.cloud_after),
        command_ttl: or(entry.routing.command_ttl.as_ref(), inherited.command_ttl),
        poll_interval: or(entry.poll_interval.as_ref(), inherited.poll_interval),
        energy_interval: or(entry.energy_interval.as_ref(), inherited.energy_interval),
        ..inherited
    };
    judge.look_at_times(&entry.routing, policy, ways);
    if let (RoutePreference::Cloud, Some(interval)) = (policy.preference, &entry.poll_interval) {
        judge.warn(
            interval.fault(
                "has no effect on a plug that is reached over the cloud only: set cloud.poll_interval",
            ),
        );
    }
    policy
}

fn look_at_identity(judge: &mut Validator<'_>, entry: &Plug, policy: RoutePolicy, ways: EnabledRoutes) {
    if entry.device_id.is_some() || entry.mac.is_some() {
        let helps = policy.preference != RoutePreference::Local && ways.cloud;
        if entry.host.is_none() && !ways.search && !helps {
            let lost = Diagnostic::of(
                "plug",
                "cannot be found: nothing says where it is, the LAN is not searched, and no cloud can be asked; add host",
            );
            judge.warn(Diagnostic { line: Some(entry.line), ..lost });
        }
        return;
    }
    let Some(host) = &entry.host else {
        let nobody = Diagnostic::of("plug", "does not say which plug it is: add device_id, mac or host");
        return judge.fault(Diagnostic { line: Some(entry.line), ..nobody });
    };
    match policy.preference {
        RoutePreference::Cloud => {
            judge.fault(host.fault("does not tell the cloud which plug it is: add device_id or mac"))
        }
        RoutePreference::LocalThenCloud if ways.cloud => judge.warn(host.fault(
            "is all that is said of the plug: the cloud can help only after the LAN has answered once; \
             add device_id or mac",
        )),
        RoutePreference::LocalThenCloud | RoutePreference::Local => {}
    }
}
