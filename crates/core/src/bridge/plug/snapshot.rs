//! The plug in the bridge's snapshot.

use std::sync::Arc;

use super::Plug;
use crate::bridge::snapshot::PlugSnapshot;
use crate::bridge::unserved::UnservedDevice;
use crate::smarthome::message::Outlet;

impl Plug {
    /// The plug, and the outlets of a strip, as they are published now. Nothing of a plug that has no name yet.
    pub(in crate::bridge) fn snapshot(&self) -> impl Iterator<Item = PlugSnapshot> + '_ {
        self.relays.parts().filter_map(|part| self.snapshot_of(part))
    }

    /// This part of the plug, as it is published now.
    pub(in crate::bridge) fn snapshot_of(&self, part: Option<Outlet>) -> Option<PlugSnapshot> {
        let (name, relay) = self.name_of(part).zip(self.relays.get(part))?;
        Some(PlugSnapshot {
            name: name.clone(),
            state: relay.published.state.clone(),
            info: relay.published.info.as_ref().map(|(info, _)| Arc::clone(info)),
            energy: relay.meter.as_ref().and_then(|meter| meter.published),
            availability: self.reachability.availability(),
            route: self.reachability.published_route(),
            failures: self.reachability.failures.clone(),
            last_error: self.reachability.last_errors.newest(part),
            protocol: self.reachability.routes.protocol(),
            last_answers: self.reachability.last_answers(),
            counters: part.is_none().then_some(self.counters),
            commands: relay.commands,
        })
    }

    /// A plug without a name, for the list of devices that are not served.
    pub(in crate::bridge) fn unserved(&self) -> UnservedDevice {
        let error = self.reachability.last_errors.newest(None);
        let reason = error.map_or("it has not answered yet".to_owned(), |error| {
            let remedy = error.remedy().map(|remedy| format!(": {remedy}")).unwrap_or_default();
            format!("it has never answered: {}{remedy}", error.what)
        });
        let host = self.address().map(|address| address.host().into());
        let (alias, model, identity) = ("".into(), "".into(), self.identity.clone());
        UnservedDevice { alias, model, identity, host, reason: reason.into(), seen: None }
    }
}
