//! The bridge on a simulated clock: add plugs, set faults, let time pass, then check the requests and the updates. No
//! sockets, no waiting.

#[path = "../support/mod.rs"]
mod support;

mod counters;
mod discovery;
mod explanations;
mod family;
mod family_words;
mod identity;
mod protocol;
mod routing;
mod strip_toggle;
