//! The decisions of hs100d as a value ([`bridge`]), the plug's messages ([`smarthome`]), what frontends show and understand
//! ([`payload`]), and the plain values below them.
//!
//! Owns no connection and no task, and is linked without tokio: its caller brings the events and the time. The
//! crate `hs100d` has the map of all modules, and shows these under the same names.

// Plain values.
pub mod backoff;
pub mod cause;
pub mod duration;
pub mod logging;
pub mod model;
pub mod permissions;
pub mod secret;

// The plug's messages, and what its handshake needs of an account.
pub mod klap_hashes;
pub mod smarthome;

// The decisions.
pub mod bridge;

// What frontends show and understand.
pub mod payload;
