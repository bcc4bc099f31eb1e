//! The embedded broker: for homes without a broker, for `demo`, and for tests.
//!
//! It speaks MQTT 5 and 3.1.1 on one port and works in memory; `store` writes what must survive a restart. Without users it
//! refuses to listen on any address but loopback. Built without the feature `broker`, starting it is an error.

#[cfg(not(feature = "broker"))]
mod absent;
#[cfg(feature = "broker")]
mod auth;
#[cfg(feature = "broker")]
mod embedded;
mod options;
#[cfg(feature = "broker")]
mod store;

#[cfg(not(feature = "broker"))]
pub use absent::EmbeddedBroker;
#[cfg(feature = "broker")]
pub use embedded::EmbeddedBroker;
pub use options::BrokerOptions;
pub(crate) use options::{BrokerError, User};
