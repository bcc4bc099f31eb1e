//! Checks that a routing policy fits the routes that are enabled, for `[routing]` and for each `[[plug]]`.

use super::diagnostic::{Diagnostics, Spanned};
use super::file;
use crate::bridge::route::{RoutePolicy, RoutePreference};

/// The routes that may be used at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnabledRoutes {
    pub(super) local: bool,
    pub(super) cloud: bool,
    /// The LAN is searched for plugs without an address in the config.
    pub(super) search: bool,
}

/// The preference in the file, if it can be followed.
pub(super) fn preference(
    diagnostics: &mut Diagnostics,
    written: Option<&Spanned<RoutePreference>>,
    inherited: RoutePreference,
    enabled: EnabledRoutes,
) -> RoutePreference {
    let Some(at) = written else {
        // A default is no demand, so it follows what is enabled.
        return if enabled.local { inherited } else { RoutePreference::Cloud };
    };
    match at.value {
        RoutePreference::Cloud if !enabled.cloud => {
            diagnostics.fault(at.fault("needs an account: add [cloud], or write \"local\""));
        }
        RoutePreference::Local if !enabled.local => {
            diagnostics.fault(at.fault("needs the LAN: set local.enabled to true, or write \"cloud\""));
        }
        RoutePreference::LocalThenCloud if !enabled.cloud => {
            diagnostics.warn(at.fault("has no cloud to fall back to: add [cloud], or write \"local\""));
        }
        RoutePreference::LocalThenCloud if !enabled.local => return RoutePreference::Cloud,
        RoutePreference::LocalThenCloud | RoutePreference::Local | RoutePreference::Cloud => {}
    }
    at.value
}

/// Warns if a command ends before the fallback to the cloud begins.
pub(super) fn check_times(
    diagnostics: &mut Diagnostics,
    written: &file::Routing,
    policy: RoutePolicy,
    enabled: EnabledRoutes,
) {
    let both = enabled.cloud && policy.preference == RoutePreference::LocalThenCloud;
    let at = written.cloud_after.as_ref().or(written.command_ttl.as_ref());
    if let (true, Some(at)) = (both && policy.cloud_after >= policy.command_ttl, at) {
        diagnostics.warn(at.fault(
            "makes cloud_after no shorter than command_ttl: a silent LAN leaves no time for the cloud; shorten it",
        ));
    }
}
