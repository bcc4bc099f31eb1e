//! THE DECISIONS.
pub mod event;
pub mod route;

use crate::model::{Address, PlugName};
use event::{Identity, KnownPlug};
use route::RoutePolicy;

/// What the bridge is told at start and at each reload.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// The user's own list of plugs.
    pub plugs: Vec<PlugSettings>,
    /// What the store remembers of plugs from earlier runs.
    pub known: Vec<KnownPlug>,
    /// Whether plugs that were found, on the LAN or in the account, are served without being in `plugs`.
    pub adopt: bool,
    /// How plugs are reached that `plugs` does not name.
    pub policy: RoutePolicy,
    /// Whether there is a cloud at all.
    pub cloud: bool,
}

/// What the user wrote about one plug.
#[derive(Debug, Clone, PartialEq)]
pub struct PlugSettings {
    /// Its name; without one the slug of its alias.
    pub name: Option<PlugName>,
    /// Who it is, as far as the user said.
    pub identity: Identity,
    /// Where it is, if the user said so.
    pub address: Option<Address>,
    /// How it is reached.
    pub policy: RoutePolicy,
}
