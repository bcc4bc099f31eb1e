//! The bridge on a clock that is moved by hand: plugs are added, faults set, time passes; then the requests and the
//! updates are checked. No sockets, no waiting.

#[path = "../support/mod.rs"]
mod support;

mod discovery;
mod family;
mod family_words;
mod identity;
mod protocol;
mod routing;
