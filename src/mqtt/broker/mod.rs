//! The embedded broker: for homes without a broker, for `demo`, and for tests.
//!
//! It speaks MQTT 5 and 3.1.1 on one port and works in memory; `store` writes what must survive a restart. Without users it
//! refuses to listen on any address but loopback. Built without the feature `broker`, starting it is an error.
//!
//! ```text
//!   embedded ---> client ---> state ---> session, filters, retained
//!       |           |           ^
//!       |       auth, wire      |
//!       +-------> store --------+
//!                   |
//!                records
//! ```
//!
//! `embedded` listens; each connection is a task in `client`. `state` is all that the broker knows, a value behind one lock
//! that is never held while something waits. What one client may cost the others is bounded where it is counted.

#[cfg(not(feature = "broker"))]
mod absent;
#[cfg(feature = "broker")]
mod auth;
#[cfg(feature = "broker")]
mod client;
#[cfg(feature = "broker")]
mod embedded;
#[cfg(feature = "broker")]
mod filters;
#[cfg(feature = "broker")]
mod message;
mod options;
#[cfg(feature = "broker")]
mod records;
#[cfg(feature = "broker")]
mod retained;
#[cfg(feature = "broker")]
mod session;
#[cfg(feature = "broker")]
mod state;
#[cfg(feature = "broker")]
mod store;
#[cfg(feature = "broker")]
mod wire;

#[cfg(not(feature = "broker"))]
pub use absent::EmbeddedBroker;
#[cfg(feature = "broker")]
pub use embedded::EmbeddedBroker;
pub use options::BrokerOptions;
pub(crate) use options::{BrokerError, User};
